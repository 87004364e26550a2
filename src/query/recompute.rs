//! Traits and members computed anew from the tables, as one SQL statement: what the stream keeps up to date, said once
//! more in another language. People read it (`explain … --sql`), and the tests hold the stream against it.
//!
//! Of groups as of people: the group of an event is computed by its `id`, and their people are those of today.
//!
//! The events are those of `current_events`, so each is of whoever it belongs to today. Where a statement is not what
//! the stream says:
//!
//! - Funnels, sequences, RFM and `on_merge: survivor` are not said in SQL: they are read as the stream wrote them, as of
//!   the row's `_as_of`. So are lists of people, from `segment_changes`.
//! - `NAME.count` of `distinct` is exact where the stream's is an estimate.
//! - `has_been` reads `segment_changes`, by the row that was last at that time, under today's profile id. Someone whose
//!   profiles were joined while a member has been one since that row, and not since the earlier entry on either side.
//! - Numbers are read by the engines' JSON functions: as texts they are written anew (`12.50` is `12.5`), and whole
//!   numbers beyond 64 bits are 0. Where a key stands in both spellings (`userAgent`, `user_agent`) the one that is asked
//!   for counts, not the first.
//! - The keys of `by` escape quotes and backslashes, not control characters.

mod events;
mod fields;

use std::collections::BTreeSet;

use crate::definition::{GroupPlan, Pipeline};
use crate::event::{Field, TimeUs};
use crate::expression::{Dialect, Expression, NOW_COLUMN};
use crate::profile::{BUILT_IN, GROUP_BUILT_IN, TraitKind, TraitPlan, TraitRule};
use crate::segment::{SegmentPlan, SegmentRule, membership_column, since_column};
use crate::sink::views::quoted;

/// One row per current profile as of `now`: `profile_id`, the built-in traits, then every column of every trait.
pub fn traits_sql(pipeline: &Pipeline, dialect: Dialect, now: TimeUs) -> String {
    Statement::of_people(pipeline, dialect, now).traits()
}

/// One row per group of this definition: `group_id`, the built-in traits, then every column of every trait.
pub fn group_traits_sql(pipeline: &Pipeline, group: &GroupPlan, dialect: Dialect, now: TimeUs) -> String {
    Statement::of_groups(pipeline, group, dialect, now).traits()
}

/// One row (`segment`, `group_id`) per group of this definition and segment that it is in as of `now`.
pub fn group_members_sql(pipeline: &Pipeline, group: &GroupPlan, dialect: Dialect, now: TimeUs) -> String {
    let shown: Vec<&SegmentPlan> = group.segments.iter().collect();
    Statement::of_groups(pipeline, group, dialect, now).members(&shown)
}

/// One row (`segment`, `profile_id`) per current profile and segment that it is in as of `now`: of the segments with these
/// names, all where None.
pub fn members_sql(pipeline: &Pipeline, dialect: Dialect, now: TimeUs, only: Option<&[&str]>) -> String {
    let wanted = |plan: &SegmentPlan| only.is_none_or(|names| names.contains(&plan.name.as_str()));
    let shown: Vec<&SegmentPlan> = pipeline.segments.iter().filter(|plan| wanted(plan)).collect();
    Statement::of_people(pipeline, dialect, now).members(&shown)
}

/// In it groups are called people, and their ids `profile_id`, until the end.
struct Statement<'a> {
    /// Whose traits and segments: of these groups, or of people.
    group: Option<&'a GroupPlan>,
    traits: &'a [TraitPlan],
    segments: &'a [SegmentPlan],
    fields: &'a [Field],
    dialect: Dialect,
    now: TimeUs,
}

/// People in steps, each a name in the WITH of the statement: what is computed from columns comes after them.
struct Steps {
    dialect: Dialect,
    with: Vec<String>,
    count: usize,
    /// Columns of the next step, and what they are.
    next: Vec<(String, String)>,
}

impl Steps {
    /// Adds a column that reads these.
    fn add<'c>(&mut self, name: &str, value: String, mut reads: impl Iterator<Item = &'c str>) {
        if reads.any(|read| self.next.iter().any(|(name, _)| name == read)) {
            self.step();
        }
        self.next.push((name.to_string(), value));
    }

    fn step(&mut self) {
        if self.next.is_empty() {
            return;
        }
        let columns: Vec<String> =
            self.next.drain(..).map(|(name, value)| format!("{value} AS {}", quoted(&name))).collect();
        let (from, to) = (self.count, self.count + 1);
        self.with.push(format!("people_{to} AS (SELECT p.*, {} FROM people_{from} AS p)", columns.join(", ")));
        self.count = to;
    }

    /// The statement that ends with this SELECT of the last of them.
    fn finish(mut self, select: impl FnOnce(&str) -> String) -> String {
        self.step();
        let settings = match self.dialect {
            Dialect::ClickHouse => "\nSETTINGS join_use_nulls = 1",
            Dialect::DataFusion => "",
        };
        format!("WITH {}\n{}{settings}", self.with.join(",\n"), select(&format!("people_{}", self.count)))
    }
}

/// Whether a trait is not said in SQL: its values are those that the stream has written.
fn is_read_back(plan: &TraitPlan) -> bool {
    match &plan.rule {
        TraitRule::Events(rule) => {
            matches!(rule.kind, TraitKind::Funnel(_) | TraitKind::Sequence(_)) || rule.ranks_by_identifier()
        }
        TraitRule::Rfm(_) => true,
        TraitRule::Formula(_) | TraitRule::Stages(_) => false,
    }
}

fn reads(expression: &Expression) -> impl Iterator<Item = &str> {
    expression.inputs.iter().map(|input| input.column.as_str())
}

impl<'a> Statement<'a> {
    fn of_people(pipeline: &'a Pipeline, dialect: Dialect, now: TimeUs) -> Self {
        let (traits, segments) = (&pipeline.traits, &pipeline.segments);
        Statement { group: None, traits, segments, fields: &pipeline.transform.fields, dialect, now }
    }

    fn of_groups(pipeline: &'a Pipeline, group: &'a GroupPlan, dialect: Dialect, now: TimeUs) -> Self {
        let (traits, segments) = (&group.traits, &group.segments);
        Statement { group: Some(group), traits, segments, ..Statement::of_people(pipeline, dialect, now) }
    }

    fn traits(&self) -> String {
        let traits: BTreeSet<usize> = (0..self.traits.len()).collect();
        let built_in = if self.group.is_some() { GROUP_BUILT_IN.as_slice() } else { BUILT_IN.as_slice() };
        let built_in = built_in.iter().map(|(name, _)| *name);
        let columns = self.traits.iter().flat_map(|plan| plan.columns.iter().map(|column| column.name.as_str()));
        let names: Vec<String> = built_in.chain(columns).map(quoted).collect();
        let (id, names) = (self.id(), names.join(", "));
        self.people(&traits, &BTreeSet::new()).finish(|people| format!("SELECT {id}, {names} FROM {people}"))
    }

    /// The id, as it is called in the end.
    fn id(&self) -> &'static str {
        if self.group.is_some() { "profile_id AS group_id" } else { "profile_id" }
    }

    /// All current profiles with the columns of these traits, and those since when they are in these segments.
    fn people(&self, traits: &BTreeSet<usize>, since: &BTreeSet<&str>) -> Steps {
        let mut with = vec![format!("{} AS ({})", events::EVENTS, self.events(traits))];
        let mut columns: Vec<String> =
            ["profile_id", "first_seen", "last_seen", "events"].map(|name| format!("p.{name} AS {name}")).to_vec();
        let mut from = format!("({}) AS p", self.built_in());
        if self.group.is_none() {
            // Where a visit ends is the stream's to say: its table is counted.
            columns.push("coalesce(visits.sessions, 0) AS sessions".to_string());
            with.push(format!(
                "visits AS (SELECT profile_id, {} AS sessions FROM current_sessions GROUP BY profile_id)",
                self.count("*")
            ));
            from.push_str(" LEFT JOIN visits ON p.profile_id = visits.profile_id");
        }
        let mut join = |alias: &str, sql: String| {
            with.push(format!("{alias} AS ({sql})"));
            from.push_str(&format!(" LEFT JOIN {alias} ON p.profile_id = {alias}.profile_id"));
        };
        if traits.iter().any(|index| is_read_back(&self.traits[*index])) {
            join("written", self.written());
        }
        for index in traits {
            let plan = &self.traits[*index];
            if is_read_back(plan) {
                let names = plan.columns.iter().map(|column| quoted(&column.name));
                columns.extend(names.map(|name| format!("written.{name} AS {name}")));
                continue;
            }
            let TraitRule::Events(rule) = &plan.rule else { continue };
            let alias = format!("trait_{index}");
            for column in &plan.columns {
                let name = quoted(&column.name);
                columns.push(match events::when_empty(rule, column.part) {
                    Some(value) => format!("coalesce({alias}.{name}, {value}) AS {name}"),
                    None => format!("{alias}.{name} AS {name}"),
                });
            }
            join(&alias, self.event_trait(plan, rule));
        }
        for (index, segment) in since.iter().enumerate() {
            let alias = format!("since_{index}");
            columns.push(format!("{alias}.changed_at AS {}", quoted(&since_column(segment))));
            join(&alias, self.since(segment));
        }
        with.push(format!("people_0 AS (SELECT {} FROM {from})", columns.join(", ")));
        let mut steps = Steps { dialect: self.dialect, with, count: 0, next: Vec::new() };
        for index in traits {
            let plan = &self.traits[*index];
            let Some(column) = plan.columns.first() else { continue };
            match &plan.rule {
                TraitRule::Events(_) | TraitRule::Rfm(_) => {}
                TraitRule::Formula(formula) => steps.add(&column.name, self.over_people(formula), reads(formula)),
                TraitRule::Stages(stages) => {
                    let names = stages.iter().map(|stage| {
                        format!("WHEN {} THEN {}", self.over_people(&stage.condition), self.dialect.text(&stage.name))
                    });
                    let value = format!("CASE {} ELSE NULL END", names.collect::<Vec<_>>().join(" "));
                    steps.add(&column.name, value, stages.iter().flat_map(|stage| reads(&stage.condition)));
                }
            }
        }
        steps
    }

    fn members(&self, shown: &[&SegmentPlan]) -> String {
        let segments = self.segments_behind(shown);
        let (mut traits, mut since) = (BTreeSet::new(), BTreeSet::new());
        for plan in segments.iter().map(|index| &self.segments[*index]) {
            match &plan.rule {
                SegmentRule::Predicate(predicate) => {
                    self.traits_behind(predicate, &mut traits);
                    let prefix = since_column("");
                    since.extend(reads(predicate).filter_map(|column| column.strip_prefix(&prefix)));
                }
                SegmentRule::List(_) => drop(since.insert(plan.name.as_str())),
                SegmentRule::Sample { .. } | SegmentRule::Nobody => {}
            }
        }
        let mut steps = self.people(&traits, &since);
        for index in segments {
            let plan = &self.segments[index];
            let column = membership_column(&plan.name);
            match &plan.rule {
                SegmentRule::Predicate(predicate) => {
                    let is = format!("coalesce({}, false)", self.over_people(predicate));
                    steps.add(&column, is, reads(predicate));
                }
                SegmentRule::Sample { below } => {
                    steps.add(&column, self.is_sampled(&plan.name, *below), std::iter::empty());
                }
                SegmentRule::Nobody => steps.add(&column, "false".to_string(), std::iter::empty()),
                SegmentRule::List(_) => {
                    let is = format!("({} IS NOT NULL)", quoted(&since_column(&plan.name)));
                    steps.add(&column, is, std::iter::empty());
                }
            }
        }
        let names = shown.iter().map(|plan| {
            let (column, name) = (quoted(&membership_column(&plan.name)), self.dialect.text(&plan.name));
            format!("CASE WHEN {column} THEN {name} ELSE '' END")
        });
        let names: Vec<String> = names.chain(shown.is_empty().then(|| "''".to_string())).collect();
        let each = match self.dialect {
            Dialect::ClickHouse => format!("arrayJoin([{}])", names.join(", ")),
            Dialect::DataFusion => format!("unnest(make_array({}))", names.join(", ")),
        };
        let id = self.id();
        steps.finish(|people| {
            format!(
                "SELECT segment, {id} FROM (SELECT {each} AS segment, profile_id FROM {people}) AS members \
                 WHERE segment <> ''"
            )
        })
    }

    /// What the stream has written of everybody.
    fn written(&self) -> String {
        match self.group {
            None => "SELECT * FROM current_profiles".to_string(),
            Some(group) => {
                let view = quoted(&format!("current_groups_{}", group.name));
                format!("SELECT g.group_id AS profile_id, g.* FROM {view} AS g")
            }
        }
    }

    /// Since when people are in a segment, by the changes up to now.
    fn since(&self, segment: &str) -> String {
        let (table, id) = match self.group {
            None => ("segment_changes".to_string(), "profile_id"),
            Some(group) => {
                let kind = self.dialect.text(&group.name);
                (format!("(SELECT * FROM group_segment_changes WHERE group_type = {kind})"), "group_id")
            }
        };
        format!(
            "SELECT profile_id, changed_at FROM (SELECT c.{id} AS profile_id, c.changed_at AS changed_at, \
             c.\"change\" AS last_change, \
             row_number() OVER (PARTITION BY c.{id} ORDER BY c._batch DESC, c._seq DESC) AS place \
             FROM {table} AS c WHERE c.segment = {} AND c.changed_at <= {}) AS c \
             WHERE place = 1 AND last_change = 'entered'",
            self.dialect.text(segment),
            self.dialect.time(self.now),
        )
    }

    /// As `segment::is_sampled` says it: by the first four bytes of SHA-256, as hex digits.
    fn is_sampled(&self, segment: &str, below: u64) -> String {
        let Ok(below) = u32::try_from(below) else { return "true".to_string() };
        let text = format!("concat({}, profile_id)", self.dialect.text(&format!("{segment}:")));
        format!("(substr(hex(SHA256({text})), 1, 8) < '{below:08X}')")
    }

    /// The indices of these segments and of those that they refer to.
    fn segments_behind(&self, shown: &[&SegmentPlan]) -> BTreeSet<usize> {
        let mut names: BTreeSet<String> = shown.iter().map(|plan| plan.name.clone()).collect();
        let mut found = BTreeSet::new();
        // Each comes after those it refers to.
        for (index, plan) in self.segments.iter().enumerate().rev() {
            if !names.contains(&plan.name) {
                continue;
            }
            found.insert(index);
            let SegmentRule::Predicate(predicate) = &plan.rule else { continue };
            let member = membership_column("");
            names.extend(
                predicate.inputs.iter().filter_map(|input| Some(input.column.strip_prefix(&member)?.to_string())),
            );
        }
        found
    }

    /// Adds the indices of the traits that an expression reads, directly or not.
    fn traits_behind(&self, expression: &Expression, found: &mut BTreeSet<usize>) {
        let is_read = |plan: &TraitPlan| {
            expression.inputs.iter().any(|input| plan.columns.iter().any(|column| column.name == input.column))
        };
        for (index, plan) in self.traits.iter().enumerate() {
            if !is_read(plan) || !found.insert(index) {
                continue;
            }
            match &plan.rule {
                // Borders are found by scans and not by any statement.
                TraitRule::Events(_) | TraitRule::Rfm(_) => {}
                TraitRule::Formula(formula) => self.traits_behind(formula, found),
                TraitRule::Stages(stages) => {
                    stages.iter().for_each(|stage| self.traits_behind(&stage.condition, found));
                }
            }
        }
    }

    /// An expression over the columns of people.
    fn over_people(&self, expression: &Expression) -> String {
        expression.to_sql(self.dialect, &|input| match input.column.as_str() {
            NOW_COLUMN => self.dialect.time(self.now),
            column => quoted(column),
        })
    }
}
