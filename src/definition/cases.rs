//! `tests:` → plans: names checked against the definitions, times resolved, events completed to what a producer
//! would have sent. Running them is up to the command.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::check::Checker;
use super::findings::{Span, nearest_or_list};
use super::groups::GroupPlan;
use super::scope::Whose;
use super::sections::{check_reference, read_time};
use super::spec::*;
use crate::event::{TimeUs, ValueType};
use crate::identity::{IdentityPlan, normalize};
use crate::profile::{TraitPlan, name_in};

/// When the first step of a test is, unless it says so: 2026-01-01T00:00:00Z.
const BEGIN: TimeUs = 1_767_225_600_000_000;

/// What the `flags` of an event can hold.
const FLAGS: [&str; 6] = ["contract", "clamped", "blocked_identifier", "invalid_identifier", "no_identifier", "late"];

/// A checked test.
#[derive(Debug, Clone, PartialEq)]
pub struct TestPlan {
    pub name: String,
    pub place: Place,
    pub steps: Vec<TestStep>,
}

/// Events that arrive together at a time, and what is expected after them.
#[derive(Debug, Clone, PartialEq)]
pub struct TestStep {
    /// Never earlier than the step before.
    pub at: TimeUs,
    pub events: Vec<TestEvent>,
    pub expect: Vec<Expectation>,
}

/// An event in the standard envelope, with a message id and a time.
#[derive(Debug, Clone, PartialEq)]
pub struct TestEvent {
    pub place: Place,
    pub source: Arc<str>,
    pub envelope: Map<String, Value>,
}

impl TestEvent {
    /// As it is written, before any transform.
    pub fn message_id(&self) -> String {
        match self.envelope.get("message_id").or_else(|| self.envelope.get("messageId")) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    pub place: Place,
    pub expected: Expected,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// All identifiers, those of one person together.
    Profiles(Vec<Vec<Who>>),
    /// Exactly these members.
    Segment { name: String, members: Vec<Who> },
    /// These traits of a person, as JSON; times as [`time_value`] writes them.
    Traits { who: Who, values: Vec<(String, Value)> },
    /// These traits of a group, as those of a person.
    Group { group: String, id: String, values: Vec<(String, Value)> },
    /// Exactly these groups, by their ids; the name as `account.weekly_active`.
    GroupSegment { name: String, members: Vec<String> },
    /// Exactly these conflicts since the expectation before.
    Conflicts(Vec<ExpectedRow>),
    /// Exactly these messages since the expectation before.
    Sent(Vec<ExpectedRow>),
    /// Ids of the events since the expectation before that belong to nobody.
    NoProfile(Vec<String>),
    /// Ids of the events since the expectation before that were rejected.
    Rejected(Vec<String>),
    /// An event belongs to the profile that has this identifier.
    EventOf { message_id: String, who: Who },
    /// An event has exactly these flags.
    Flags { message_id: String, flags: Vec<String> },
    /// Nothing yet: see [`super::load_to_fill`].
    Blank(Blank),
}

/// An expectation that is still to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blank {
    /// `expect:` by itself.
    Everything,
    Segments,
    Traits,
    Events,
    Flags,
    /// Whose the event of this message id is.
    EventOf(String),
}

/// A row of which some columns are told, by the keys of the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedRow {
    pub cells: Vec<(&'static str, Cell)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Text(String),
    Identifier(Who),
    /// The profile that has this identifier.
    Person(Who),
    /// No profile at all.
    Nobody,
    /// An object holds these keys, and may hold more.
    Json(Value),
}

/// An identifier, normalised; ordered as identifier types are, best first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// Index into [`IdentityPlan::types`].
    pub kind: u16,
    pub name: String,
    pub value: String,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.value)
    }
}

/// Where something is written: shown as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// In bytes.
    pub start: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A time as tests show it: RFC 3339, UTC, with as many digits as it has.
pub fn time_value(at: TimeUs) -> String {
    chrono::DateTime::from_timestamp_micros(at)
        .map_or_else(|| at.to_string(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

pub fn tests(
    checker: &Checker,
    definition: &Definition,
    identity: &IdentityPlan,
    traits: &[TraitPlan],
    groups: &[GroupPlan],
) -> Vec<TestPlan> {
    let cases = Cases { checker, definition, identity, traits, groups };
    let findings = checker.reader.findings;
    let mut names: BTreeMap<&str, Span> = BTreeMap::new();
    for test in &definition.tests {
        match names.get(test.name.text.as_str()) {
            Some(first) => {
                let first = format!("first defined at {}", findings.place_name(*first));
                findings.error(test.name.span, format!("there are two tests `{}`", test.name.text), first);
            }
            None => {
                names.insert(&test.name.text, test.name.span);
            }
        }
    }
    definition.tests.iter().map(|test| cases.test(test)).collect()
}

/// What a test is checked against.
struct Cases<'c, 'd> {
    checker: &'c Checker<'d>,
    definition: &'c Definition,
    identity: &'c IdentityPlan,
    traits: &'c [TraitPlan],
    groups: &'c [GroupPlan],
}

/// The traits of people or of groups, as checked and as written.
struct Traits<'c> {
    plans: &'c [TraitPlan],
    specs: &'c [Named<TraitSpec>],
    whose: Whose<'c>,
}

impl Cases<'_, '_> {
    fn test(&self, spec: &TestSpec) -> TestPlan {
        let findings = self.checker.reader.findings;
        let mut now = BEGIN;
        let mut events = 0;
        let mut steps = Vec::new();
        for (index, step) in spec.steps.iter().enumerate() {
            match step.at {
                Some((MomentSpec::At(at), span)) if index > 0 && at < now => {
                    let help = format!("the step before is at {}", time_value(now));
                    findings.error(span, "a step cannot be earlier than the one before it", help);
                }
                Some((MomentSpec::At(at), _)) => now = at,
                Some((MomentSpec::After(after), span)) => match now.checked_add(after) {
                    Some(at) => now = at,
                    None => findings.error(span, "this is beyond all time", None),
                },
                None => {}
            }
            let complete = |event: &TestEventSpec| {
                events += 1;
                self.event(event, now, events)
            };
            steps.push(TestStep {
                at: now,
                events: step.events.iter().map(complete).collect(),
                expect: step.expect.iter().filter_map(|(span, expect)| self.expectation(*span, expect)).collect(),
            });
        }
        TestPlan { name: spec.name.text.clone(), place: findings.place(spec.name.span), steps }
    }

    /// Gives the `number`-th event of a test what is left out.
    fn event(&self, spec: &TestEventSpec, now: TimeUs, number: usize) -> TestEvent {
        let names = self.checker.source_names();
        if let Some(source) = &spec.source {
            check_reference(&self.checker.reader, source, "source", &names);
        }
        // The first one that is written, on or off: a test means the same whatever variables are set.
        let first = names.first().copied().unwrap_or_default();
        let source = spec.source.as_ref().map_or(first, |source| source.text.as_str());
        let mut envelope = spec.envelope.clone();
        if !["message_id", "messageId"].iter().any(|key| envelope.contains_key(*key)) {
            envelope.insert("message_id".to_string(), format!("t{number}").into());
        }
        if !["timestamp", "original_timestamp", "originalTimestamp"].iter().any(|key| envelope.contains_key(*key)) {
            envelope.insert("timestamp".to_string(), time_value(now).into());
        }
        TestEvent { place: self.checker.reader.findings.place(spec.span), source: source.into(), envelope }
    }

    /// None where something was reported.
    fn expectation(&self, span: Span, spec: &ExpectSpec) -> Option<Expectation> {
        let reader = &self.checker.reader;
        let texts = |literals: &[Literal]| literals.iter().map(|literal| literal.text.clone()).collect();
        let expected = match spec {
            ExpectSpec::Profiles(groups) => Expected::Profiles(self.profiles(groups)),
            ExpectSpec::Segment { name, members } => {
                check_reference(reader, name, "segment", &self.checker.segment_names());
                Expected::Segment { name: name.text.clone(), members: self.people(members) }
            }
            ExpectSpec::Traits { who, values } => {
                let of = Traits { plans: self.traits, specs: &self.definition.traits, whose: Whose::People };
                let values = values.iter().map(|(name, value, span)| self.trait_value(&of, name, value, *span));
                let values = values.collect();
                Expected::Traits { who: self.who(who)?, values }
            }
            ExpectSpec::Group { group, id, values } => {
                check_reference(reader, group, "group", &self.checker.group_names());
                let spec = self.definition.groups.iter().find(|spec| spec.name == group.text)?.body.as_ref()?;
                let plan = self.groups.iter().find(|plan| plan.name == group.text)?;
                let of = Traits { plans: &plan.traits, specs: &spec.traits, whose: Whose::Group(&plan.name) };
                let values = values.iter().map(|(name, value, span)| self.trait_value(&of, name, value, *span));
                Expected::Group { group: group.text.clone(), id: id.text.clone(), values: values.collect() }
            }
            ExpectSpec::GroupSegment { name, members } => {
                let specs = self.definition.groups.iter().filter_map(|group| Some((group, group.body.as_ref()?)));
                let names = specs
                    .flat_map(|(group, spec)| spec.segments.iter().map(|segment| name_in(&group.name, &segment.name)));
                let names: Vec<String> = names.collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                check_reference(reader, name, "segment of a group", &names);
                Expected::GroupSegment { name: name.text.clone(), members: texts(members) }
            }
            ExpectSpec::Conflicts(rows) => Expected::Conflicts(rows.iter().map(|row| self.row(row)).collect()),
            ExpectSpec::Sent(rows) => {
                rows.iter().for_each(|row| self.check_step(row));
                Expected::Sent(rows.iter().map(|row| self.row(row)).collect())
            }
            ExpectSpec::NoProfile(ids) => Expected::NoProfile(texts(ids)),
            ExpectSpec::Rejected(ids) => Expected::Rejected(texts(ids)),
            ExpectSpec::EventOf { message_id, who } => {
                Expected::EventOf { message_id: message_id.text.clone(), who: self.who(who)? }
            }
            ExpectSpec::Flags { message_id, flags } => {
                flags.iter().filter(|flag| flag.known).for_each(|flag| {
                    check_reference(reader, flag, "flag", &FLAGS);
                });
                Expected::Flags { message_id: message_id.text.clone(), flags: texts(flags) }
            }
            ExpectSpec::Blank(blank) => Expected::Blank(blank.clone()),
        };
        Some(Expectation { place: reader.findings.place(span), expected })
    }

    fn people(&self, literals: &[Literal]) -> Vec<Who> {
        literals.iter().filter_map(|literal| self.who(literal)).collect()
    }

    fn profiles(&self, groups: &[Vec<Literal>]) -> Vec<Vec<Who>> {
        let mut seen: BTreeMap<Who, Span> = BTreeMap::new();
        for literal in groups.iter().flatten() {
            let Some(who) = self.who(literal) else { continue };
            if let Some(first) = seen.get(&who) {
                let findings = self.checker.reader.findings;
                let first = format!("first written at {}", findings.place_name(*first));
                findings.error(literal.span, format!("`{who}` is listed twice: it belongs to one profile"), first);
            } else {
                seen.insert(who, literal.span);
            }
        }
        let find = |literal: &Literal| seen.iter().find(|(_, span)| **span == literal.span).map(|(who, _)| who.clone());
        groups.iter().map(|group| group.iter().filter_map(find).collect()).collect()
    }

    /// `type:value`, of a type that identity knows.
    fn who(&self, literal: &Literal) -> Option<Who> {
        let findings = self.checker.reader.findings;
        let parts = literal.text.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
        let Some((name, value)) = parts.filter(|(name, value)| !name.is_empty() && !value.is_empty()) else {
            let message = format!("`{}` names nobody", literal.text);
            findings.error(literal.span, message, "write type:value, as in user_id:u1".to_string());
            return None;
        };
        let Some(kind) = self.identity.kind(name) else {
            // Types that could not be read are unknown here, and have been reported.
            if self.definition.identity.is_some() || !findings.any_error() {
                let known = self.identity.types.iter().map(|known| known.name.as_str());
                let help = nearest_or_list(name, known);
                findings.error(literal.span, format!("`identity.identifiers` does not list `{name}`"), help);
            }
            return None;
        };
        let Some(value) = normalize(&self.identity.types[kind as usize].normalize, value) else {
            findings.error(literal.span, format!("`{value}` cannot be a value of `{name}`"), None);
            return None;
        };
        Some(Who { kind, name: name.to_string(), value: value.into_owned() })
    }

    fn trait_value(&self, of: &Traits<'_>, name: &Literal, value: &Value, span: Span) -> (String, Value) {
        let reader = &self.checker.reader;
        let values =
            || of.plans.iter().flat_map(|plan| plan.columns.iter().map(|column| (column.written(&plan.name), column)));
        let sound = |name: &str| of.plans.iter().any(|plan| plan.name == name);
        let broken = of.specs.iter().map(|other| other.name.clone()).filter(|name| !sound(name));
        let mut names: Vec<String> = values().map(|(name, _)| name).chain(broken).collect();
        names.extend(of.whose.built_in().iter().map(|(name, _)| name.to_string()));
        check_reference(reader, name, "trait", &names.iter().map(String::as_str).collect::<Vec<_>>());
        let column = values().find(|(written, _)| *written == name.text).map(|(_, column)| column);
        let known = column.map(|column| column.value_type);
        let built_in =
            of.whose.built_in().iter().find(|(other, _)| *other == name.text).map(|(_, value_type)| *value_type);
        let value = match (known.or(built_in), value) {
            (Some(ValueType::Timestamp), Value::String(text)) => match read_time(text) {
                Some(at) => time_value(at).into(),
                None => {
                    let help = "write 2026-03-01T10:00Z".to_string();
                    reader.findings.error(span, format!("trait `{}` is a time, `{text}` is none", name.text), help);
                    value.clone()
                }
            },
            _ => value.clone(),
        };
        (column.map_or_else(|| name.text.clone(), |column| column.name.clone()), value)
    }

    fn row(&self, spec: &RowSpec) -> ExpectedRow {
        let cells = spec.cells.iter().filter_map(|(key, cell)| Some((*key, self.cell(key, cell)?)));
        ExpectedRow { cells: cells.collect() }
    }

    /// None where something was reported.
    fn cell(&self, key: &str, spec: &CellSpec) -> Option<Cell> {
        let literal = match spec {
            CellSpec::Json(value) => return Some(Cell::Json(value.clone())),
            CellSpec::Text(literal) => literal,
        };
        let one_of = |what: &str, names: &[&str]| check_reference(&self.checker.reader, literal, what, names);
        let known = match key {
            "other" if literal.text == "nobody" => return Some(Cell::Nobody),
            "profile" | "other" => return self.who(literal).map(Cell::Person),
            "set_aside" | "reassigned" => return self.who(literal).map(Cell::Identifier),
            "cause" => one_of("cause", &["limit", "max_identifiers", "cut"]),
            "limited_type" => one_of("identifier type", &self.checker.identifier_types()),
            "source" => one_of("source", &self.checker.source_names()),
            "to" => one_of("destination", &self.checker.destination_names()),
            "activation" => one_of("activation", &self.activation_names()),
            _ => true,
        };
        known.then(|| Cell::Text(literal.text.clone()))
    }

    fn activation_names(&self) -> Vec<&str> {
        let activations = self.definition.activations.iter().map(|activation| activation.name.as_str());
        activations.chain(self.definition.audiences.iter().map(|audience| audience.name.as_str())).collect()
    }

    /// A step is one of the activation that the row names, or of any.
    fn check_step(&self, row: &RowSpec) {
        let text = |wanted: &str| {
            row.cells.iter().find_map(|(key, cell)| match cell {
                CellSpec::Text(literal) if *key == wanted => Some(literal),
                _ => None,
            })
        };
        let Some(step) = text("step") else { return };
        let activation = text("activation");
        let named = |name: &str| activation.is_none_or(|wanted| wanted.text == name);
        let of = self.definition.activations.iter().filter(|activation| named(&activation.name));
        let bodies: Vec<Option<&ActivationSpec>> = of.map(|activation| activation.body.as_ref()).collect();
        // Steps of what is unknown or could not be read cannot be judged.
        let is_audience = |all: &[Named<AudienceSpec>]| all.iter().any(|audience| named(&audience.name));
        let is_known = !bodies.is_empty() || is_audience(&self.definition.audiences);
        if !is_known && activation.is_some() || bodies.iter().any(Option::is_none) {
            return;
        }
        let mut steps: Vec<&str> = bodies.into_iter().flatten().flat_map(|body| body.sending_steps()).collect();
        if is_audience(&self.definition.audiences) {
            steps.extend(["add", "remove"]);
        }
        if !steps.contains(&step.text.as_str()) {
            let whose = activation.map_or("no activation".to_string(), |of| format!("activation `{}`", of.text));
            let no = if activation.is_some() { "no" } else { "a" };
            let help = nearest_or_list(&step.text, steps.iter().copied());
            self.checker.reader.findings.error(step.span, format!("{whose} has {no} step `{}`", step.text), help);
        }
    }
}
