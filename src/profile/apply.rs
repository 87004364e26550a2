//! Applies the events of a batch to the traits of their profiles.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{Field, Float64Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};

use super::BUILT_IN;
use super::accumulator::{Accumulator, Dated, Scalar, scaled};
use super::batch::{Batch, Mask, rows_by_profile};
use super::distinct::Distinct;
use super::frequencies::Frequencies;
use super::funnel::{Funnel, FunnelPlan};
use super::gap::Gap;
use super::keyed::Keyed;
use super::plan::{EventRule, OnMerge, Step, TraitKind, TraitPlan, TraitRule};
use super::points::Point;
use super::record::Profile;
use super::rfm::RfmBorders;
use super::sequence::Sequence;
use super::window::Panes;
use crate::event::{EventBatch, ProfileId, TimeUs, ValueType, column};
use crate::expression::{BoundExpression, EvaluateError, Expression, ExpressionError, NOW_COLUMN, Projected};
use crate::session::{Columns, SessionId, SessionRow, SessionsPlan};

/// A trait could not be computed for a batch: the definitions passed their checks, so this is a fault of ours.
#[derive(Debug, thiserror::Error)]
pub enum TraitError {
    #[error("trait {name} cannot be bound to the events: {source}")]
    Bind { name: String, source: ExpressionError },
    #[error("trait {name} cannot be evaluated: {source}")]
    Evaluate { name: String, source: EvaluateError },
    #[error("trait {name}: {message}")]
    Type { name: String, message: String },
}

/// All traits, bound to the schema of the event batches.
pub struct Traits {
    pub plans: Vec<TraitPlan>,
    pub sessions: SessionsPlan,
    /// By index: whether it knows the past. What is not ready takes in events and shows nothing.
    pub ready: Vec<bool>,
    /// By index: of RFM traits, once there was a scan.
    pub rfm_borders: Vec<Option<RfmBorders>>,
    bound: Vec<BoundTrait>,
    /// Of traits that are computed: the formula, or the conditions of the stages.
    pub(super) derived: Vec<Vec<Projected>>,
    /// Where each trait's columns begin.
    pub(super) first_column: Vec<usize>,
    schema: SchemaRef,
}

#[derive(Default)]
struct BoundTrait {
    filter: Option<BoundExpression>,
    input: Option<BoundExpression>,
    by: Option<BoundExpression>,
    presence: Option<usize>,
    steps: Vec<Option<BoundExpression>>,
    exclusions: Vec<Option<BoundExpression>>,
}

/// Events, and whose they are.
pub struct Input<'a> {
    pub events: &'a EventBatch,
    /// Index into the profiles; None: nobody's.
    pub profile_of_row: &'a [Option<u32>],
    /// The rank of each row's best identifier: 0 is best, `u64::MAX` where it has none.
    pub best: &'a [u64],
    /// Events after it have not happened yet.
    pub now: TimeUs,
}

/// What became of a batch's events.
#[derive(Debug, Default)]
pub struct SessionsOf {
    /// The session of each row.
    pub ids: Vec<Option<SessionId>>,
    /// Rows that came too late for any, in order.
    pub late: Vec<u32>,
}

impl Traits {
    /// # Errors
    /// An expression that does not fit `events`.
    pub fn new(plans: Vec<TraitPlan>, sessions: SessionsPlan, events: &SchemaRef) -> Result<Traits, TraitError> {
        let built_in = BUILT_IN.iter().map(|(name, value_type)| Field::new(*name, value_type.arrow(), true));
        let mut fields: Vec<Field> = built_in.collect();
        let (mut bound, mut derived, mut first_column) = (Vec::new(), Vec::new(), Vec::new());
        for plan in &plans {
            let (event, computed) =
                bind(plan, events, &fields).map_err(|source| TraitError::Bind { name: plan.name.clone(), source })?;
            bound.push(event);
            derived.push(computed);
            first_column.push(fields.len());
            fields.extend(plan.columns.iter().map(|column| Field::new(&column.name, column.value_type.arrow(), true)));
        }
        let (ready, rfm_borders) = (vec![true; plans.len()], vec![None; plans.len()]);
        Ok(Traits {
            plans,
            sessions,
            ready,
            rfm_borders,
            bound,
            derived,
            first_column,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// Built-in traits, then the defined ones: what predicates and the `profiles` table read.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The trait that a column (behind the built-in ones) belongs to.
    pub fn trait_of_column(&self, column: usize) -> usize {
        self.first_column.partition_point(|first| *first <= column).saturating_sub(1)
    }

    /// Takes all of an absorbed profile over into `into`.
    pub fn merge(&self, into: &mut Profile, mut other: Profile) {
        // Points of one side must not be older than what the other has folded.
        let floor = into.floor().max(other.floor());
        self.settle_at(into, TimeUs::MIN, floor);
        self.settle_at(&mut other, TimeUs::MIN, floor);
        into.sessions.merge(&self.sessions, std::mem::take(&mut other.sessions));
        into.merge(&self.plans, other);
    }

    /// Forgets what cannot count any more at `now`, so that equal profiles are equal in their parts.
    pub fn settle(&self, profile: &mut Profile, now: TimeUs) {
        self.settle_at(profile, now, profile.floor());
    }

    fn settle_at(&self, profile: &mut Profile, now: TimeUs, floor: TimeUs) {
        profile.traits.retain_mut(|(index, state)| {
            let index = usize::from(*index);
            let floor = if self.ready[index] { floor } else { TimeUs::MIN };
            self.plans[index].event_rule().is_none_or(|rule| state.settle(rule, now, floor))
        });
    }

    /// Counts every row for `profiles[profile_of_row[row]]`: what all profiles have, their sessions among it.
    pub fn count(&self, input: &Input<'_>, profiles: &mut [Profile]) -> SessionsOf {
        let timestamps = input.events.times(column::TIMESTAMP);
        let columns = Columns::of(&self.sessions, input.events);
        let mut late = Vec::new();
        for (row, profile) in input.profile_of_row.iter().enumerate() {
            let Some(profile) = profile.and_then(|index| profiles.get_mut(index as usize)) else { continue };
            let at = timestamps.value(row);
            // Measured event by event, so that it does not depend on where batches end.
            let in_time = at >= profile.last_seen.saturating_sub(self.sessions.lateness_us);
            profile.events += 1;
            profile.first_seen = profile.first_seen.min(at);
            profile.last_seen = profile.last_seen.max(at);
            if columns.event(row).is_some_and(|event| !in_time || !profile.sessions.apply(&self.sessions, &event)) {
                late.push(row as u32);
            }
        }
        let mut ids: Vec<Option<SessionId>> = Vec::with_capacity(input.profile_of_row.len());
        let mut is_late = late.iter().peekable();
        ids.extend(input.profile_of_row.iter().enumerate().map(|(row, profile)| {
            if is_late.next_if(|late| **late as usize == row).is_some() {
                return None;
            }
            let profile = profiles.get(profile.map(|index| index as usize)?)?;
            profile.sessions.id_of(&self.sessions, &columns.event(row)?)
        }));
        SessionsOf { ids, late }
    }

    /// As [`Traits::count`] without sessions, which groups have none of.
    pub fn count_events(&self, input: &Input<'_>, groups: &mut [Profile]) {
        let timestamps = input.events.times(column::TIMESTAMP);
        for (row, group) in input.profile_of_row.iter().enumerate() {
            let Some(group) = group.and_then(|index| groups.get_mut(index as usize)) else { continue };
            group.events += 1;
            group.first_seen = group.first_seen.min(timestamps.value(row));
            group.last_seen = group.last_seen.max(timestamps.value(row));
        }
    }

    /// What is to be said of the sessions of these profiles; they remember that it was, and forget what no event can change.
    pub fn take_sessions(&self, profiles: &mut [Profile]) -> Vec<(ProfileId, SessionRow)> {
        let mut rows = Vec::new();
        for profile in profiles {
            let id = profile.id;
            rows.extend(profile.sessions.take(&self.sessions).into_iter().map(|row| (id, row)));
            profile.sessions.settle(&self.sessions, profile.last_seen.saturating_sub(self.sessions.lateness_us));
        }
        rows
    }

    /// The same where profiles are made anew from stored events: the rows are kept for later. `was` are the sessions that the
    /// events were stored in; ids that the table may have from before are told of as well.
    pub fn note_sessions(
        &self,
        input: &Input<'_>,
        now: &SessionsOf,
        was: &[Option<SessionId>],
        profiles: &mut [Profile],
    ) {
        let columns = Columns::of(&self.sessions, input.events);
        for (row, profile) in input.profile_of_row.iter().enumerate() {
            let profile = profile.and_then(|index| profiles.get_mut(index as usize));
            if let (Some(profile), Some(event), Some(_)) = (profile, columns.event(row), now.ids[row]) {
                // A session begins with an event that is stored in it, or where a late campaign has cut another.
                let id = SessionId::of(event.source, event.message_id);
                if was[row] == Some(id) || (self.sessions.split_on_campaign && event.names_campaign()) {
                    profile.sessions.recall(&event);
                }
            }
        }
        for profile in profiles {
            profile.sessions.note(&self.sessions);
            profile.sessions.settle(&self.sessions, profile.last_seen.saturating_sub(self.sessions.lateness_us));
        }
    }

    /// Applies every row to `profiles[profile_of_row[row]]`, before they are counted, for the traits in `which` (by index; all where None). Says
    /// which traits some event could change.
    pub fn apply(
        &self,
        input: &Input<'_>,
        which: Option<&[bool]>,
        profiles: &mut [Profile],
    ) -> Result<Vec<bool>, TraitError> {
        let batch = Batch::of(input);
        let wanted = |index: &usize| {
            let rule = self.plans[*index].event_rule();
            rule.is_some_and(|rule| batch.has_any(rule.events.as_deref())) && which.is_none_or(|which| which[*index])
        };
        let taking: Vec<usize> = (0..self.plans.len()).filter(wanted).collect();
        let mut touched = vec![false; self.plans.len()];
        taking.iter().for_each(|index| touched[*index] = true);
        let (rows, begin) = rows_by_profile(input.profile_of_row, profiles.len());
        for some in taking.chunks(TRAITS_AT_ONCE) {
            let values = some.iter().map(|index| self.values(*index, &batch)).collect::<Result<Vec<_>, _>>()?;
            let mut by_name: Vec<Vec<(u16, &Values<'_>)>> = vec![Vec::new(); batch.names.len()];
            for (index, values) in some.iter().zip(&values) {
                let names = batch.numbers(values.rule.events.as_deref());
                names.into_iter().for_each(|name| by_name[name].push((*index as u16, values)));
            }
            let is_last = taking.last() == some.last();
            for (profile, range) in profiles.iter_mut().zip(begin.windows(2)) {
                let rows = &rows[range[0] as usize..range[1] as usize];
                for row in rows.iter().map(|row| *row as usize) {
                    let taking = by_name[batch.name_of_row[row] as usize].iter();
                    let taking = taking.filter(|(_, values)| values.takes(row));
                    taking.for_each(|(index, values)| values.add(row, *index, profile));
                }
                // While the past is filled nobody asks yet.
                if is_last && which.is_none() && !rows.is_empty() {
                    self.find(profile);
                }
            }
        }
        Ok(touched)
    }

    /// What a trait reads from a batch.
    fn values<'a>(&'a self, index: usize, batch: &'a Batch<'a>) -> Result<Values<'a>, TraitError> {
        let (plan, bound, events) = (&self.plans[index], &self.bound[index], batch.input.events);
        let Some(rule) = plan.event_rule() else {
            return Err(TraitError::Type { name: plan.name.clone(), message: "it reads no events".to_string() });
        };
        let failed = |source| TraitError::Evaluate { name: plan.name.clone(), source };
        let evaluate = |bound: &Option<BoundExpression>| {
            bound.as_ref().map(|bound| bound.evaluate(&events.batch)).transpose().map_err(failed)
        };
        let filter = bound.filter.as_ref().map(|f| f.evaluate_predicate(&events.batch)).transpose().map_err(failed)?;
        Ok(Values {
            rule,
            filter,
            input: evaluate(&bound.input)?.map(|array| typed(plan, rule, array)).transpose()?,
            keys: evaluate(&bound.by)?,
            presence: bound.presence.map(|column| events.batch.column(column).as_boolean()),
            steps: Mask::of(&rule.steps, &bound.steps, batch).map_err(failed)?,
            exclusions: Mask::of(&rule.exclusions, &bound.exclusions, batch).map_err(failed)?,
            ready: self.ready[index],
            batch,
        })
    }

    /// The events of one person that a trait takes in, in the order of the rows, as of `input.now`; none for traits that
    /// are computed from others.
    pub fn taken(&self, index: usize, input: &Input<'_>) -> Result<Vec<Taken>, TraitError> {
        let Some(rule) = self.plans[index].event_rule() else { return Ok(Vec::new()) };
        let batch = Batch::of(input);
        let values = self.values(index, &batch)?;
        let mut taken = Vec::new();
        let mut states = Vec::new();
        let names = batch.numbers(rule.events.as_deref());
        for (row, name) in batch.name_of_row.iter().enumerate() {
            if input.profile_of_row[row].is_none() || !names.contains(&(*name as usize)) || !values.takes(row) {
                continue;
            }
            let Some((key, state)) = values.taken(row) else { continue };
            let at = values.at(row);
            let is_inside = rule.window.is_none_or(|window| window.holds(at, input.now));
            let key = key.map(Box::from);
            taken.push(Taken { row, at, key, value: taken_value(rule, &state), is_inside, decides: false });
            states.push(state);
        }
        if rule.by.is_none() && rule.kind.stands_for_one_event() {
            let inside = || (0..states.len()).filter(|place| taken[*place].is_inside);
            let total = inside().map(|place| states[place].clone()).reduce(|mut total, state| {
                total.add(rule, state);
                total
            });
            // Of several with an extreme value the earliest: since then it has been so.
            let deciding = inside().filter(|place| total.as_ref() == Some(&states[*place]));
            if let Some(place) = deciding.min_by_key(|place| taken[*place].at) {
                taken[place].decides = true;
            }
        }
        Ok(taken)
    }
}

/// An event that a trait takes in.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// Of the batch.
    pub row: usize,
    /// When it happened.
    pub at: TimeUs,
    /// With `by`: for which value.
    pub key: Option<Box<str>>,
    /// What the trait would be with this event alone; None for a null that deletes.
    pub value: Option<Scalar>,
    /// Whether it counts at that moment: it has happened, and is in the trait's window.
    pub is_inside: bool,
    /// Whether the value is this event's: of `latest`, `first`, `min` and `max` without `by`.
    pub decides: bool,
}

/// A trait's expressions over events, or over the columns of the traits before it.
fn bind(
    plan: &TraitPlan,
    events: &SchemaRef,
    columns: &[Field],
) -> Result<(BoundTrait, Vec<Projected>), ExpressionError> {
    let project = |expression: &Expression| {
        expression.project(&|input| match input.column.as_str() {
            NOW_COLUMN => Some(NOW_PLACE),
            name => columns.iter().position(|field| field.name() == name),
        })
    };
    match &plan.rule {
        TraitRule::Events(rule) => {
            let bind = |expression: &Option<Expression>| expression.as_ref().map(|e| e.bind(events)).transpose();
            let presence = rule.presence.as_ref().and_then(|name| events.index_of(name).ok());
            let steps = |steps: &[Step]| steps.iter().map(|step| bind(&step.filter)).collect::<Result<Vec<_>, _>>();
            let bound = BoundTrait {
                filter: bind(&rule.filter)?,
                input: bind(&rule.input)?,
                by: bind(&rule.by)?,
                presence,
                steps: steps(&rule.steps)?,
                exclusions: steps(&rule.exclusions)?,
            };
            Ok((bound, Vec::new()))
        }
        computed => {
            let expressions = computed.expressions().into_iter().map(project).collect::<Result<_, _>>()?;
            Ok((BoundTrait::default(), expressions))
        }
    }
}

/// Traits whose values of a batch are in memory at once.
const TRAITS_AT_ONCE: usize = 64;

/// In the place of a column: the time of judging.
pub const NOW_PLACE: usize = usize::MAX;

/// The input of a trait, as an array of the type its values have.
fn typed(plan: &TraitPlan, rule: &EventRule, array: ArrayRef) -> Result<ArrayRef, TraitError> {
    // A count only asks whether there is a value.
    let wanted = rule.input_type.arrow();
    if rule.kind == TraitKind::Count || *array.data_type() == wanted {
        return Ok(array);
    }
    cast(&array, &wanted).map_err(|error| TraitError::Type { name: plan.name.clone(), message: error.to_string() })
}

/// What an event says to a trait: its value, where one event has one.
fn taken_value(rule: &EventRule, state: &Accumulator) -> Option<Scalar> {
    match (&rule.kind, state) {
        (TraitKind::Funnel(_) | TraitKind::Sequence(_) | TraitKind::Gap(_), _) => None,
        (_, Accumulator::Distinct(distinct)) => distinct.values()?.first().cloned(),
        _ => state.plain_value(rule, ""),
    }
}

/// The values of one trait's input over a batch.
struct Values<'a> {
    rule: &'a EventRule,
    filter: Option<BooleanArray>,
    input: Option<ArrayRef>,
    keys: Option<ArrayRef>,
    presence: Option<&'a BooleanArray>,
    steps: Mask,
    exclusions: Mask,
    /// Points of any age are taken in while the past is read.
    ready: bool,
    batch: &'a Batch<'a>,
}

impl Values<'_> {
    /// Whether the trait's condition holds.
    fn takes(&self, row: usize) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.value(row))
    }

    fn add(&self, row: usize, index: u16, profile: &mut Profile) {
        let Some(present) = self.is_present(row) else { return };
        let place = match profile.traits.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(place) => place,
            Err(place) => {
                if let Some(state) = self.state(row, present) {
                    profile.traits.insert(place, (index, state));
                }
                return;
            }
        };
        let floor = if self.ready { profile.floor() } else { TimeUs::MIN };
        let state = &mut profile.traits[place].1;
        match (&self.rule.kind, &mut *state) {
            // Too late: what it would go with has been folded.
            (TraitKind::Funnel(_) | TraitKind::Sequence(_), state)
                if self.at(row) < if self.ready { floor.max(state.earliest()) } else { floor } => {}
            (TraitKind::Funnel(plan), Accumulator::Funnel(funnel)) => {
                if let Some(point) = self.point(row, plan) {
                    funnel.add(plan, point);
                    funnel.settle(plan, floor);
                }
            }
            (TraitKind::Sequence(plan), Accumulator::Sequence(sequence)) => {
                if let Some(point) = self.sequence_point(row) {
                    sequence.add(plan, point);
                    sequence.settle(plan, floor);
                }
            }
            (TraitKind::MostFrequent | TraitKind::LeastFrequent, Accumulator::Frequencies(frequencies)) => {
                self.scalar(row).into_iter().for_each(|value| frequencies.add(value));
            }
            (TraitKind::Distinct { keep }, Accumulator::Distinct(distinct)) => {
                self.scalar(row).into_iter().for_each(|value| distinct.add(*keep, value));
            }
            // The hot cases, without building a state for the event.
            (TraitKind::Count, Accumulator::Count(count)) => *count = count.saturating_add(1),
            (TraitKind::Latest | TraitKind::First, Accumulator::Dated(dated)) => {
                let order = dated.precedence(self.rule, self.rank(row), self.at(row), self.message_id(row));
                if order.is_le()
                    && let Some(new) = self.state(row, present)
                {
                    state.add(self.rule, new);
                }
            }
            (_, Accumulator::Panes(panes)) => {
                if let (Some(window), Some(more)) = (&self.rule.window, self.plain_state(row, present)) {
                    let now = self.batch.input.now;
                    panes.settle(window, now, self.rule);
                    panes.add(self.at(row), more, window, now, self.rule);
                }
            }
            (_, state) => {
                if let Some(more) = self.state(row, present) {
                    state.add(self.rule, more);
                }
            }
        }
    }

    /// The key and the state, without window, of an event that is taken in.
    fn taken(&self, row: usize) -> Option<(Option<&str>, Accumulator)> {
        let present = self.is_present(row)?;
        Some((self.key(row)?, self.plain_state(row, present)?))
    }

    /// Inner None: the trait has no keys; outer None: the event has none of them.
    fn key(&self, row: usize) -> Option<Option<&str>> {
        match &self.keys {
            Some(keys) => keys.is_valid(row).then(|| Some(keys.as_string::<i32>().value(row))),
            None => Some(None),
        }
    }

    /// Whether the row has a value, or false for a null that deletes; None where it says nothing.
    fn is_present(&self, row: usize) -> Option<bool> {
        let present = self.input.as_ref().is_none_or(|input| input.is_valid(row));
        let deletes = !present && self.presence.is_some_and(|presence| presence.is_valid(row) && presence.value(row));
        (present || deletes).then_some(present)
    }

    /// The state after this event alone.
    fn state(&self, row: usize, present: bool) -> Option<Accumulator> {
        let key = self.key(row)?;
        let mut state = self.plain_state(row, present)?;
        if let Some(window) = &self.rule.window {
            let now = self.batch.input.now;
            state = Accumulator::Panes(Box::new(Panes::of(self.at(row), state, window, now, self.rule)));
        }
        Some(match key {
            Some(key) => Accumulator::Keyed(Box::new(Keyed::of(key, state))),
            None => state,
        })
    }

    fn plain_state(&self, row: usize, present: bool) -> Option<Accumulator> {
        match self.rule.kind {
            TraitKind::Count => Some(Accumulator::Count(1)),
            TraitKind::Sum => self.exact(row).map(|sum| Accumulator::Sum(sum.into())),
            TraitKind::Mean => self.exact(row).map(|sum| Accumulator::Mean { sum: sum.into(), count: 1 }),
            TraitKind::Min | TraitKind::Max => {
                // NaN has no place in an order of numbers.
                let value = self.scalar(row).filter(|value| !matches!(value, Scalar::Double(v) if v.is_nan()))?;
                Some(Accumulator::Extreme(value))
            }
            TraitKind::MostFrequent | TraitKind::LeastFrequent => {
                let mut frequencies = Frequencies::default();
                frequencies.add(self.scalar(row)?);
                Some(Accumulator::Frequencies(Box::new(frequencies)))
            }
            TraitKind::Distinct { keep } => {
                let mut distinct = Distinct::default();
                distinct.add(keep, self.scalar(row)?);
                Some(Accumulator::Distinct(Box::new(distinct)))
            }
            TraitKind::Gap(ref plan) => {
                let Scalar::Timestamp(at) = self.scalar(row)? else { return None };
                let mut gap = Gap::default();
                gap.add(plan, at, self.id(row));
                Some(Accumulator::Gap(Box::new(gap)))
            }
            TraitKind::Funnel(ref plan) => {
                let mut funnel = Funnel::default();
                funnel.add(plan, self.point(row, plan)?);
                Some(Accumulator::Funnel(Box::new(funnel)))
            }
            TraitKind::Sequence(ref plan) => {
                let mut sequence = Sequence::default();
                sequence.add(plan, self.sequence_point(row)?);
                Some(Accumulator::Sequence(Box::new(sequence)))
            }
            TraitKind::Latest | TraitKind::First => Some(Accumulator::Dated(Box::new(Dated {
                rank: self.rank(row),
                at: self.at(row),
                message_id: self.message_id(row).into(),
                value: if present { self.scalar(row) } else { None },
            }))),
        }
    }

    /// A number as an integer of the trait's scale.
    fn exact(&self, row: usize) -> Option<i128> {
        match self.scalar(row)? {
            Scalar::Long(value) => Some(i128::from(value) * 10i128.pow(u32::from(self.rule.scale))),
            Scalar::Double(value) => scaled(value, self.rule.scale),
            _ => None,
        }
    }

    /// An event that meets no step matters only where what comes between matters.
    fn point(&self, row: usize, plan: &FunnelPlan) -> Option<Point> {
        let steps = self.steps.of_row(row, self.batch);
        (steps != 0 || plan.modes.strict_order).then(|| Point {
            at: self.at(row),
            id: self.id(row) as u32,
            steps,
            without: 0,
        })
    }

    fn sequence_point(&self, row: usize) -> Option<Point> {
        let (steps, without) = (self.steps.of_row(row, self.batch), self.exclusions.of_row(row, self.batch));
        (steps != 0 || without != 0).then(|| Point { at: self.at(row), id: self.id(row) as u32, steps, without })
    }

    /// Tells an event of one time from others.
    fn id(&self, row: usize) -> u64 {
        self.batch.id(row)
    }

    fn at(&self, row: usize) -> TimeUs {
        self.batch.timestamps[row]
    }

    fn message_id(&self, row: usize) -> &str {
        self.batch.message_ids.value(row)
    }

    /// 0 is best.
    fn rank(&self, row: usize) -> u64 {
        match self.rule.on_merge {
            OnMerge::Latest | OnMerge::Earliest => 0,
            OnMerge::Survivor => self.batch.input.best.get(row).copied().unwrap_or(u64::MAX),
            OnMerge::SourcePriority => {
                let source = self.batch.sources.value(row);
                let order = &self.rule.source_order;
                order.iter().position(|other| other == source).unwrap_or(order.len()) as u64
            }
        }
    }

    fn scalar(&self, row: usize) -> Option<Scalar> {
        fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> T::Native {
            array.as_primitive::<T>().value(row)
        }
        let array = self.input.as_ref()?;
        Some(match self.rule.input_type {
            ValueType::Long => Scalar::Long(primitive::<Int64Type>(array, row)),
            ValueType::Double => Scalar::Double(primitive::<Float64Type>(array, row)),
            ValueType::Boolean => Scalar::Boolean(array.as_boolean().value(row)),
            ValueType::Timestamp => Scalar::Timestamp(primitive::<TimestampMicrosecondType>(array, row)),
            ValueType::String | ValueType::Json => Scalar::Text(array.as_string::<i32>().value(row).into()),
        })
    }
}
