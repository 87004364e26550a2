//! Judging profiles: only what may have changed is evaluated, over all rows at once.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch, TimestampMicrosecondArray, UInt32Array,
    new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use hashbrown::HashMap;

use super::{Cause, MEMBERSHIP, Moved, SINCE, SegmentError, SegmentPlan, SegmentRule, Transition, is_sampled};
use crate::event::TimeUs;
use crate::expression::{Expression, NOW_COLUMN, Projected, Resolved, TimeComparison};
use crate::profile::{BUILT_IN, NOW_PLACE, Profile, TraitRule, Traits};

/// All segments, bound to the trait columns.
pub struct Segments {
    pub plans: Vec<SegmentPlan>,
    /// By index. What is not ready is not judged: who was in it stays in it.
    pub ready: Vec<bool>,
    bound: Vec<Bound>,
    /// Comparisons with `now()`, each once, and whose values they are about.
    times: Vec<(Place, TimeComparison)>,
    /// Traits whose windows some condition reads, by index, and whether there are any.
    watched: Vec<bool>,
    watches: bool,
    trait_columns: usize,
    traits_schema: SchemaRef,
}

struct Bound {
    /// None for samples and lists.
    predicate: Option<Projected>,
    reads: Reads,
    /// Whether someone of whom nothing is known is a member.
    of_nobody: bool,
    /// Whether another segment refers to it.
    is_read: bool,
}

/// What a condition depends on, through formulas, stages and other segments.
#[derive(Debug, Clone, Default)]
struct Reads {
    /// By index of the trait.
    traits: Vec<bool>,
    built_in: bool,
    time: bool,
    /// Who someone is and not what is known of them: through samples and lists.
    identity: bool,
    /// Segments that it names itself.
    segments: Vec<u16>,
}

/// A condition over a profile that is no segment.
#[derive(Debug)]
pub struct Condition {
    predicate: Projected,
    sql: String,
}

/// Where a column of a predicate is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Trait(usize),
    Member(u16),
    Since(u16),
    Now,
}

/// What may have changed in the profiles that are judged.
#[derive(Debug, Clone, Default)]
pub struct Touch {
    /// By index of the trait; built-in traits aside.
    pub traits: Vec<bool>,
    /// First and last seen, number of events.
    pub built_in: bool,
    /// A timer was due: windows and comparisons with `now()`.
    pub time: bool,
}

/// Profiles to be judged.
pub struct Judged<'a> {
    /// Their traits, a row each.
    pub traits: &'a RecordBatch,
    /// The moment, for each of them.
    pub now: &'a [TimeUs],
    pub touch: &'a Touch,
    /// Rows of people that are new: of whom nothing but the touched traits is known.
    pub new: &'a [u32],
    /// Rows that every segment is judged for: those of `shown`, and any others.
    pub whole: &'a [u32],
    /// What the tables show under a profile's present id, where it is not just what its memberships say (merges).
    pub shown: &'a HashMap<u32, Vec<u16>>,
    /// Memberships under ids that are gone.
    pub moved: &'a [Moved],
    /// Whether a row is in the list of a segment; None where that cannot have changed.
    pub listed: &'a dyn Fn(u32, u16) -> Option<bool>,
    pub cause: Cause,
}

impl Segments {
    pub fn new(plans: Vec<SegmentPlan>, traits: &Traits) -> Result<Segments, SegmentError> {
        let trait_columns = traits.schema().fields().len();
        let names: HashMap<String, u16> =
            plans.iter().enumerate().map(|(index, plan)| (plan.name.clone(), index as u16)).collect();
        let place = |column: &str| Place::find(column, &|name| names.get(name).copied(), traits.schema());
        let of_traits = reads_of_traits(traits);
        let mut segments = Segments {
            ready: vec![true; plans.len()],
            bound: Vec::new(),
            times: Vec::new(),
            watched: vec![false; traits.plans.len()],
            watches: false,
            trait_columns,
            traits_schema: traits.schema().clone(),
            plans: Vec::new(),
        };
        let add_time = |comparison: &TimeComparison, times: &mut Vec<(Place, TimeComparison)>| {
            let time = place(&comparison.column).map(|place| (place, comparison.clone()));
            times.extend(time.filter(|time| !times.contains(time)));
        };
        for plan in &plans {
            let mut reads = Reads { traits: vec![false; traits.plans.len()], ..Reads::default() };
            reads.identity = matches!(plan.rule, SegmentRule::Sample { .. } | SegmentRule::List(_));
            let mut predicate = None;
            if let SegmentRule::Predicate(expression) = &plan.rule {
                for input in &expression.inputs {
                    match place(&input.column) {
                        Some(Place::Trait(column)) if column < BUILT_IN.len() => reads.built_in = true,
                        Some(Place::Trait(column)) => {
                            let index = traits.trait_of_column(column);
                            reads.add(&of_traits[index]);
                        }
                        Some(Place::Member(other) | Place::Since(other)) => {
                            reads.segments.push(other);
                            // It comes before this one.
                            if let Some(bound) = segments.bound.get_mut(other as usize) {
                                bound.is_read = true;
                                reads.add(&bound.reads);
                                reads.segments.push(other);
                            }
                        }
                        Some(Place::Now) | None => {}
                    }
                }
                reads.time |= !expression.times.is_empty();
                expression.times.iter().for_each(|time| add_time(time, &mut segments.times));
                let projected =
                    expression.project(&|input| place(&input.column).map(|place| place.code(trait_columns)));
                let failed = |source| SegmentError::Bind { name: plan.name.clone(), source };
                predicate = Some(projected.map_err(failed)?);
            }
            segments.watched.iter_mut().zip(&reads.traits).for_each(|(watched, read)| *watched |= *read);
            segments.bound.push(Bound { predicate, reads, of_nobody: false, is_read: false });
        }
        for (index, plan) in traits.plans.iter().enumerate() {
            match &plan.rule {
                // What only a table shows needs no timer.
                TraitRule::Events(_) | TraitRule::Rfm(_) => {}
                TraitRule::Formula(formula) => formula.times.iter().for_each(|t| add_time(t, &mut segments.times)),
                TraitRule::Stages(stages) => {
                    stages.iter().flat_map(|s| &s.condition.times).for_each(|t| add_time(t, &mut segments.times));
                    segments.watched.iter_mut().zip(&of_traits[index].traits).for_each(|(w, read)| *w |= *read);
                }
            }
        }
        for (watched, plan) in segments.watched.iter_mut().zip(&traits.plans) {
            *watched &= plan.event_rule().is_some_and(|rule| rule.window.is_some());
        }
        segments.watches = segments.watched.contains(&true);
        segments.plans = plans;
        segments.judge_nobody(traits)?;
        Ok(segments)
    }

    /// Finds out what someone without any event would be a member of.
    fn judge_nobody(&mut self, traits: &Traits) -> Result<(), SegmentError> {
        let nobody = [Profile::new(Default::default())];
        let columns = traits.columns(&nobody, &[0]).map_err(|error| SegmentError::Columns(error.to_string()))?;
        for index in 0..self.plans.len() {
            let Some(predicate) = &self.bound[index].predicate else { continue };
            let member = |segment: u16| BooleanArray::from(vec![self.bound[segment as usize].of_nobody]);
            let column = |code: usize| match Place::of(code, self.trait_columns) {
                Place::Trait(index) => columns.column(index).clone(),
                Place::Member(segment) => Arc::new(member(segment)) as ArrayRef,
                Place::Since(_) | Place::Now => times(std::iter::once(None)),
            };
            let is = predicate.evaluate_predicate(&column, 1).map_err(|source| self.failed(index, source))?;
            self.bound[index].of_nobody = is.value(0);
        }
        Ok(())
    }

    fn failed(&self, index: usize, source: crate::expression::EvaluateError) -> SegmentError {
        SegmentError::Evaluate { name: self.plans[index].name.clone(), source }
    }

    /// Whether something that these may have changed is read by the segment.
    fn is_touched(&self, index: usize, judged: &Judged<'_>) -> bool {
        let (reads, touch) = (&self.bound[index].reads, judged.touch);
        // Of someone new the samples are not those of nobody.
        (reads.identity && !judged.new.is_empty())
            || (touch.time && reads.time)
            || (touch.built_in && reads.built_in)
            || reads.traits.iter().zip(&touch.traits).any(|(read, touched)| *read && *touched)
    }

    /// Whether it names a segment that has changed: lists do so without any trait.
    fn reads_any(&self, index: usize, changed: &[bool]) -> bool {
        self.bound[index].reads.segments.iter().any(|other| changed[usize::from(*other)])
    }

    /// Judges profiles, updates their memberships, and says what changed.
    pub fn judge(&self, judged: &Judged<'_>, profiles: &mut [Profile]) -> Result<Vec<Transition>, SegmentError> {
        let mut transitions = Vec::new();
        for old in judged.moved {
            for segment in &old.segments {
                transitions.push(Transition {
                    profile: old.into,
                    segment: *segment,
                    id: old.id,
                    entered: false,
                    cause: Cause::Merge,
                    entry: 0,
                    at: judged.now[old.into as usize],
                });
            }
        }
        let rows = profiles.len();
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); self.plans.len()];
        for (row, profile) in profiles.iter().enumerate() {
            profile.segments().for_each(|segment| members[segment as usize].push(row as u32));
        }
        let mut changed = vec![false; self.plans.len()];
        let everyone = judged.whole.len() == rows;
        let some: UInt32Array = judged.whole.iter().copied().collect();
        for index in 0..self.plans.len() {
            let segment = index as u16;
            let is_gone = matches!(self.plans[index].rule, SegmentRule::Nobody);
            let mut settle = Settle {
                judged,
                segment,
                members: &members[index],
                transitions: &mut transitions,
                changed: Vec::new(),
                is_gone,
            };
            let is_member = |row: u32, profiles: &[Profile]| profiles[row as usize].membership(segment).member;
            match (&self.plans[index].rule, &self.bound[index].predicate) {
                _ if !self.ready[index] => {
                    judged.whole.iter().for_each(|row| settle.row(*row, is_member(*row, profiles), profiles));
                }
                (SegmentRule::Predicate(_), Some(predicate))
                    if everyone || self.is_touched(index, judged) || self.reads_any(index, &changed) =>
                {
                    let column = |code: usize| self.column(code, judged, &members, profiles);
                    let is =
                        predicate.evaluate_predicate(&column, rows).map_err(|source| self.failed(index, source))?;
                    settle.all(&is, profiles);
                }
                (SegmentRule::Predicate(_), Some(predicate)) => {
                    if self.bound[index].of_nobody {
                        judged.new.iter().for_each(|row| settle.row(*row, true, profiles));
                    }
                    if !some.is_empty() {
                        let column = |code: usize| {
                            let all = self.column(code, judged, &members, profiles);
                            take(&all, &some, None).unwrap_or_else(|_| new_null_array(all.data_type(), some.len()))
                        };
                        let is = predicate.evaluate_predicate(&column, some.len());
                        let is = is.map_err(|source| self.failed(index, source))?;
                        let rows = judged.whole.iter().zip(is.values().iter());
                        rows.for_each(|(row, is)| settle.row(*row, is, profiles));
                    }
                }
                (SegmentRule::Sample { below }, _) => {
                    for row in judged.new.iter().chain(judged.whole) {
                        let is = is_sampled(&self.plans[index].name, profiles[*row as usize].id, *below);
                        settle.row(*row, is, profiles);
                    }
                }
                (SegmentRule::Nobody, _) => judged.whole.iter().for_each(|row| settle.row(*row, false, profiles)),
                (SegmentRule::List(_) | SegmentRule::Predicate(_), _) => {
                    for row in 0..rows as u32 {
                        let listed = (judged.listed)(row, segment).unwrap_or_else(|| is_member(row, profiles));
                        settle.row(row, listed, profiles);
                    }
                }
            }
            let rows_changed = settle.changed;
            changed[index] = !rows_changed.is_empty();
            if self.bound[index].is_read && changed[index] {
                // Later predicates see it as it is now.
                let mut now = set_bits(&members[index], rows);
                rows_changed.iter().for_each(|row| now.set_bit(*row as usize, is_member(*row, profiles)));
                members[index] = now.finish().set_indices().map(|row| row as u32).collect();
            }
        }
        Ok(transitions)
    }

    /// Binds a condition that is no segment: of a branch.
    ///
    /// # Errors
    /// It reads what is not there.
    pub fn condition(&self, expression: &Expression) -> Result<Condition, SegmentError> {
        let names: HashMap<&str, u16> =
            self.plans.iter().enumerate().map(|(index, plan)| (plan.name.as_str(), index as u16)).collect();
        let place = |column: &str| Place::find(column, &|name| names.get(name).copied(), &self.traits_schema);
        let place = |input: &Resolved| place(&input.column).map(|place| place.code(self.trait_columns));
        let failed = |source| SegmentError::Bind { name: expression.sql.clone(), source };
        Ok(Condition { predicate: expression.project(&place).map_err(failed)?, sql: expression.sql.clone() })
    }

    /// Whether a condition holds for the profile in this row of the trait columns.
    ///
    /// # Errors
    /// It cannot be evaluated.
    pub fn holds(
        &self,
        condition: &Condition,
        traits: &RecordBatch,
        row: usize,
        profile: &Profile,
        now: TimeUs,
    ) -> Result<bool, SegmentError> {
        let column = |code: usize| -> ArrayRef {
            match Place::of(code, self.trait_columns) {
                Place::Trait(index) => traits.column(index).slice(row, 1),
                Place::Now => times(std::iter::once(Some(now))),
                Place::Member(segment) => Arc::new(BooleanArray::from(vec![profile.membership(segment).member])),
                Place::Since(segment) => {
                    let membership = profile.membership(segment);
                    times(std::iter::once(membership.member.then_some(membership.since)))
                }
            }
        };
        let failed = |source| SegmentError::Evaluate { name: condition.sql.clone(), source };
        Ok(condition.predicate.evaluate_predicate(&column, 1).map_err(failed)?.value(0))
    }

    fn column(&self, code: usize, judged: &Judged<'_>, members: &[Vec<u32>], profiles: &[Profile]) -> ArrayRef {
        match Place::of(code, self.trait_columns) {
            Place::Trait(index) => judged.traits.column(index).clone(),
            Place::Now => times(judged.now.iter().map(|now| Some(*now))),
            Place::Member(segment) => {
                Arc::new(BooleanArray::new(bits(&members[segment as usize], profiles.len()), None))
            }
            Place::Since(segment) => times(profiles.iter().map(|profile| {
                let membership = profile.membership(segment);
                membership.member.then_some(membership.since)
            })),
        }
    }

    /// When the profile in this row of the trait columns could next be judged otherwise though no event comes;
    /// `TimeUs::MAX`: never.
    pub fn next_flip(
        &self,
        traits: &Traits,
        columns: &RecordBatch,
        row: usize,
        profile: &Profile,
        now: TimeUs,
    ) -> TimeUs {
        let window = if self.watches { traits.next_change(profile, &self.watched, now) } else { None };
        let mut next = window.unwrap_or(TimeUs::MAX);
        for (place, comparison) in &self.times {
            let value = match place {
                Place::Trait(index) => {
                    let column = columns.column(*index);
                    column.is_valid(row).then(|| column.as_primitive::<TimestampMicrosecondType>().value(row))
                }
                Place::Since(segment) => {
                    let membership = profile.membership(*segment);
                    membership.member.then_some(membership.since)
                }
                Place::Member(_) | Place::Now => None,
            };
            if let Some(flip) = value.and_then(|value| comparison.flip(value, now)) {
                next = next.min(flip);
            }
        }
        next
    }

    /// Traits whose windows some condition reads, by index.
    pub fn watched(&self) -> &[bool] {
        &self.watched
    }

    /// The traits that a segment reads, directly or not, by index.
    pub fn reads(&self, segment: u16) -> &[bool] {
        &self.bound[segment as usize].reads.traits
    }
}

/// Compares what is with what was and what the tables show, for one segment.
struct Settle<'a> {
    judged: &'a Judged<'a>,
    segment: u16,
    /// Who was a member, in order.
    members: &'a [u32],
    transitions: &'a mut Vec<Transition>,
    /// Whether the segment is defined no more.
    is_gone: bool,
    /// Who has come or gone.
    changed: Vec<u32>,
}

impl Settle<'_> {
    /// All rows: only those that differ are looked at.
    fn all(&mut self, is: &BooleanArray, profiles: &mut [Profile]) {
        let was = bits(self.members, profiles.len());
        let changed = is.values() ^ &was;
        for row in changed.set_indices() {
            self.row(row as u32, is.value(row), profiles);
        }
        for row in self.judged.whole.iter().filter(|row| self.judged.shown.contains_key(*row)) {
            if !changed.value(*row as usize) {
                self.row(*row, is.value(*row as usize), profiles);
            }
        }
    }

    fn row(&mut self, row: u32, is: bool, profiles: &mut [Profile]) {
        let profile = &mut profiles[row as usize];
        let was = profile.membership(self.segment).member;
        let shown = self.judged.shown.get(&row).map_or(was, |shown| shown.contains(&self.segment));
        if is == was && is == shown {
            return;
        }
        let at = self.judged.now[row as usize];
        let id = profile.id;
        let membership = profile.membership_mut(self.segment);
        if is != was {
            membership.member = is;
            membership.since = at;
            self.changed.push(row);
            membership.entries += u32::from(is);
        }
        let entry = membership.entries;
        if is != shown {
            let cause = match self.judged.cause {
                _ if is == was => Cause::Merge,
                Cause::Fill if self.is_gone => Cause::Removed,
                cause => cause,
            };
            let (segment, entered) = (self.segment, is);
            self.transitions.push(Transition { profile: row, segment, id, entered, cause, entry, at });
        }
    }
}

impl Reads {
    fn add(&mut self, other: &Reads) {
        self.traits.iter_mut().zip(&other.traits).for_each(|(mine, theirs)| *mine |= *theirs);
        self.built_in |= other.built_in;
        self.time |= other.time;
        self.identity |= other.identity;
    }
}

/// What each trait depends on, itself among it.
fn reads_of_traits(traits: &Traits) -> Vec<Reads> {
    let mut all: Vec<Reads> = Vec::new();
    for (index, plan) in traits.plans.iter().enumerate() {
        let mut reads = Reads { traits: vec![false; traits.plans.len()], ..Reads::default() };
        reads.traits[index] = true;
        if let TraitRule::Events(rule) = &plan.rule {
            reads.time = rule.window.is_some();
        }
        for expression in plan.rule.expressions() {
            reads.time |= !expression.times.is_empty();
            for input in &expression.inputs {
                match traits.schema().index_of(&input.column) {
                    Ok(column) if column < BUILT_IN.len() => reads.built_in = true,
                    // What it reads comes before it.
                    Ok(column) => reads.add(&all[traits.trait_of_column(column)]),
                    Err(_) => {}
                }
            }
        }
        all.push(reads);
    }
    all
}

impl Place {
    fn find(column: &str, segment: &dyn Fn(&str) -> Option<u16>, traits: &SchemaRef) -> Option<Place> {
        if column == NOW_COLUMN {
            return Some(Place::Now);
        }
        if let Some(name) = column.strip_prefix(MEMBERSHIP) {
            return segment(name).map(Place::Member);
        }
        if let Some(name) = column.strip_prefix(SINCE) {
            return segment(name).map(Place::Since);
        }
        traits.index_of(column).ok().map(Place::Trait)
    }

    /// As one number, behind the trait columns; [`NOW_PLACE`] is the last of all.
    fn code(self, trait_columns: usize) -> usize {
        match self {
            Place::Trait(index) => index,
            Place::Member(segment) => trait_columns + usize::from(segment),
            Place::Since(segment) => trait_columns + SEGMENTS_MAX + usize::from(segment),
            Place::Now => NOW_PLACE,
        }
    }

    fn of(code: usize, trait_columns: usize) -> Place {
        match code {
            NOW_PLACE => Place::Now,
            index if index < trait_columns => Place::Trait(index),
            index if index < trait_columns + SEGMENTS_MAX => Place::Member((index - trait_columns) as u16),
            index => Place::Since((index - trait_columns - SEGMENTS_MAX) as u16),
        }
    }
}

const SEGMENTS_MAX: usize = 1 << 16;

/// A bit for each row, set for these.
fn bits(set: &[u32], rows: usize) -> BooleanBuffer {
    set_bits(set, rows).finish()
}

fn set_bits(set: &[u32], rows: usize) -> BooleanBufferBuilder {
    let mut builder = BooleanBufferBuilder::new(rows);
    builder.append_n(rows, false);
    set.iter().for_each(|row| builder.set_bit(*row as usize, true));
    builder
}

fn times(values: impl Iterator<Item = Option<TimeUs>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}
