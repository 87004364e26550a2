//! Groups → plans: accounts and the like, with traits and segments of their own.

use arrow::datatypes::DataType;

use super::Pipeline;
use super::check::{Checker, type_name};
use super::outputs::{canonical_sql, version};
use super::scope::Whose;
use super::segments::segments;
use super::spec::*;
use super::traits::traits;
use crate::expression::{ColumnScope, Expression, Resolved};
use crate::identity::IdentityPlan;
use crate::profile::{DefinedFor, PERSON_COLUMN, TraitKind, TraitPlan};
use crate::segment::SegmentPlan;

/// Groups of one kind: which events are whose, and what is kept of them.
#[derive(Debug, Clone)]
pub struct GroupPlan {
    pub name: String,
    /// Changes when the groups are others: a hash of `id`.
    pub version: u64,
    /// A text over the events; where it is null or empty the event is of no such group.
    pub id: Expression,
    pub traits: Vec<TraitPlan>,
    pub segments: Vec<SegmentPlan>,
}

/// What tells the id of the person whose event it is.
const PERSON: &str = "profile_id";

/// Where `id` is left out.
const GROUP_ID: &str = "group_id";

pub fn groups(checker: &Checker, definition: &Definition, identity: &IdentityPlan) -> Vec<GroupPlan> {
    let mut plans = Vec::new();
    for Named { name, body, .. } in &definition.groups {
        let Some(spec) = body else { continue };
        let whose = Whose::Group(name);
        let id = id(checker, spec);
        let traits = traits(checker, &spec.traits, whose);
        let segments = segments(checker, (&spec.traits, &spec.segments), whose, &traits, identity);
        let Some(id) = id else { continue };
        let version = version(&["group", name, &canonical_sql(&id.sql)]);
        plans.push(GroupPlan { name: name.clone(), version, id, traits, segments });
    }
    plans
}

/// None where something was reported.
fn id(checker: &Checker, spec: &GroupSpec) -> Option<Expression> {
    let scope = checker.event_scope(None);
    let id = match &spec.id {
        None => Expression::compile(GROUP_ID, &scope).ok(),
        Some(sql) => {
            let id = checker.compile(sql, &scope)?;
            if id.data_type != DataType::Utf8 {
                let message = format!("the `id` of a group must be a text, this is {}", type_name(&id.data_type));
                let help = format!("CAST({} AS VARCHAR)", sql.scalar.text);
                checker.reader.findings.error(sql.span, message, help);
                return None;
            }
            Some(id)
        }
    };
    checker.fields_of(&scope);
    id
}

/// Whether the expression is the id of the person, and nothing else.
pub fn is_person(sql: &Sql) -> bool {
    sql.scalar.text.trim() == PERSON
}

/// What such an expression is compiled in.
pub fn person_scope() -> ColumnScope {
    let mut scope = ColumnScope::new();
    let column = PERSON_COLUMN.to_string();
    scope.add(&[PERSON], Resolved { column, data_type: DataType::Utf8, nested: Vec::new() });
    scope
}

/// Ids of people change when they merge. Only a value that is such an id and nothing else can follow. False where
/// something was reported.
pub fn check_people(checker: &Checker, spec: &EventTraitSpec, whose: Whose<'_>) -> bool {
    let findings = checker.reader.findings;
    let named = |sql: &&Sql| names_person(&sql.scalar.text);
    let of_steps = spec.steps.iter().flat_map(|step| [&step.take].into_iter().chain(&step.without));
    let filters = spec.filter.iter().chain(of_steps.filter_map(|events| events.filter.as_ref()));
    let values: Vec<&Sql> = spec.input.iter().chain(&spec.by).filter(named).collect();
    let mut sound = true;
    if whose == Whose::People {
        for sql in values.into_iter().chain(filters.filter(named)) {
            let help = "it is for the traits of `groups`, which count people".to_string();
            findings.error(sql.span, format!("a person's own traits cannot read `{PERSON}`"), help);
            sound = false;
        }
        return sound;
    }
    for sql in filters.filter(named).chain(values.into_iter().filter(|sql| !is_person(sql))) {
        let help = format!("`{PERSON}` changes when people merge: write it by itself, as in `distinct: {PERSON}`");
        findings.error(sql.span, format!("`{PERSON}` cannot be part of an expression"), help);
        sound = false;
    }
    let counts = matches!(
        spec.kind,
        TraitKind::Distinct { .. }
            | TraitKind::Count
            | TraitKind::Latest
            | TraitKind::First
            | TraitKind::MostFrequent
            | TraitKind::LeastFrequent
    );
    if let Some(input) = spec.input.as_ref().filter(|input| is_person(input) && !counts) {
        let help = format!("distinct: {PERSON}");
        findings.error(input.span, format!("`{PERSON}` changes when people merge, so it has no order"), help);
        sound = false;
    }
    sound
}

/// Whether the name stands somewhere in it, outside of quotes.
fn names_person(sql: &str) -> bool {
    let mut quote: Option<char> = None;
    let mut bare = String::with_capacity(sql.len());
    for c in sql.chars() {
        match quote {
            None if c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            None => bare.push(c),
            Some(_) => {}
        }
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    bare.split(|c: char| !is_part(c)).any(|word| word == PERSON)
}

impl Pipeline {
    /// What is defined for whom, people first: for [`Slots`](crate::profile::Slots).
    pub fn defined(&self) -> Vec<DefinedFor<'_>> {
        fn of<'a>(
            group: Option<(&'a str, u64)>,
            traits: &'a [TraitPlan],
            segments: &'a [SegmentPlan],
        ) -> DefinedFor<'a> {
            DefinedFor {
                group,
                traits: traits.iter().map(|plan| (plan.name.as_str(), plan.version)).collect(),
                segments: segments.iter().map(|plan| (plan.name.as_str(), plan.version)).collect(),
            }
        }
        let groups = self.groups.iter();
        let groups = groups.map(|group| of(Some((&group.name, group.version)), &group.traits, &group.segments));
        [of(None, &self.traits, &self.segments)].into_iter().chain(groups).collect()
    }
}
