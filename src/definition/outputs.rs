//! What comes out: identity, traits, segments, destinations, activations, the warehouse → plans.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use chrono_tz::Tz;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::Warehouse;
use super::check::{Checker, type_name, value_type};
use super::findings::{Span, nearest_or_list};
use super::inputs::texts;
use super::scope::SegmentScope;
use super::sections::check_reference;
use super::spec::*;
use super::yaml::{Node, Scalar, Value};
use crate::activation::{ActivationPlan, DestinationKind, DestinationPlan, SendStep, Trigger};
use crate::event::{Field, Root, TimeUs, ValueType, column};
use crate::expression::{Expression, parse_path};
use crate::identity::{IdentifierFrom, IdentifierType, IdentityPlan, MAX_IDENTIFIERS, Normalize, OnConflict};
use crate::profile::{BUILT_IN, OnMerge, TraitKind, TraitPlan};
use crate::segment::SegmentPlan;
use crate::session::{self, SessionsPlan};
use crate::transform::TYPES;

/// Where `identity` is left out.
pub const DEFAULT_IDENTIFIERS: [&str; 2] = ["user_id", "anonymous_id"];

/// Digits after the point that sums of doubles keep: more than money needs, and an i128 still holds 10^32 of it.
const SUM_SCALE: u8 = 6;

/// Columns that every row of `profiles` has; a trait of the same name would hide them.
const PROFILE_COLUMNS: [&str; 2] = ["profile_id", "deleted"];

/// Stable over restarts and machines: state and idempotency keys are kept by it.
fn version(parts: &[&str]) -> u64 {
    // The lengths keep ("ab", "c") apart from ("a", "bc").
    let canonical: Vec<String> = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    xxh3_64(canonical.join(";").as_bytes())
}

/// SQL without differences that mean nothing: white space outside quotes.
fn canonical_sql(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut quote: Option<char> = None;
    for c in sql.trim().chars() {
        match quote {
            None if c.is_whitespace() => {
                if !text.ends_with(' ') {
                    text.push(' ');
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        text.push(c);
    }
    text
}

// Identity

pub fn identity(checker: &Checker, spec: Option<&IdentitySpec>, pipeline: &str) -> IdentityPlan {
    let types: Vec<IdentifierType> = match spec {
        Some(spec) => spec.identifiers.iter().map(|identifier| identifier_type(checker, identifier)).collect(),
        None => DEFAULT_IDENTIFIERS.iter().map(|name| plain_type(checker, name)).collect(),
    };
    let names = checker.identifier_types();
    let previous_id = spec.and_then(|spec| spec.previous_id.as_ref());
    if let Some(literal) = previous_id.filter(|literal| literal.known) {
        check_reference(&checker.reader, literal, "identifier type", &names);
    }
    check_source_priority(checker, spec);
    let previous_id = previous_id.map_or("anonymous_id", |literal| literal.text.as_str());
    let previous_id = names.iter().position(|name| *name == previous_id).map(|index| index as u16);
    let secret = spec.and_then(|spec| spec.key.as_ref()).map_or(pipeline, |key| key.text.as_str());
    IdentityPlan {
        key: <[u8; 32]>::from(Sha256::digest(secret.as_bytes())).into(),
        types,
        block: spec.map(|spec| spec.block.clone()).unwrap_or_default(),
        on_conflict: spec.map_or(OnConflict::Keep, |spec| spec.on_conflict),
        max_identifiers: spec.map_or(MAX_IDENTIFIERS, |spec| spec.max_identifiers),
        previous_id,
    }
}

fn identifier_type(checker: &Checker, spec: &IdentifierSpec) -> IdentifierType {
    let plain = match spec.from.as_ref().and_then(|from| source_field(checker, from)) {
        Some(field) => {
            let or_field = Some(field.column_name());
            checker.field(field);
            IdentifierType { from: IdentifierFrom::Map { or_field }, ..envelope_type(&spec.name) }
        }
        None => plain_type(checker, &spec.name),
    };
    IdentifierType { normalize: spec.normalize.clone(), limit: spec.limit, block: spec.block.clone(), ..plain }
}

/// A type without options.
fn plain_type(checker: &Checker, name: &str) -> IdentifierType {
    let from = match name {
        "user_id" => IdentifierFrom::Column(column::USER_ID),
        "anonymous_id" => IdentifierFrom::Column(column::ANONYMOUS_ID),
        // What an identify call says of itself: `traits.email`.
        _ => {
            let path = vec![name.to_string()];
            let field = Field { root: Root::Traits, path, value_type: ValueType::String, presence: false };
            checker.field(field.clone());
            IdentifierFrom::Map { or_field: Some(field.column_name()) }
        }
    };
    IdentifierType { from, ..envelope_type(name) }
}

/// A type that is found in the `identifiers` of an event only.
fn envelope_type(name: &str) -> IdentifierType {
    IdentifierType {
        name: name.to_string(),
        from: IdentifierFrom::Map { or_field: None },
        normalize: Normalize::Trim,
        limit: None,
        block: Vec::new(),
    }
}

/// The field that `from` names.
fn source_field(checker: &Checker, from: &Literal) -> Option<Field> {
    let path = parse_path(&from.text).unwrap_or_default();
    let root = match path.first().map(String::as_str) {
        Some("properties") => Some(Root::Properties),
        Some("traits") => Some(Root::Traits),
        Some("context") => Some(Root::Context),
        _ => None,
    };
    let Some(root) = root.filter(|_| path.len() > 1) else {
        if from.known {
            let message = format!("`from` is a path into an event's JSON, not `{}`", from.text);
            let help = "it begins with `traits.`, `properties.` or `context.`".to_string();
            checker.reader.findings.error(from.span, message, help);
        }
        return None;
    };
    Some(Field { root, path: path[1..].to_vec(), value_type: ValueType::String, presence: false })
}

fn check_source_priority(checker: &Checker, spec: Option<&IdentitySpec>) {
    let names = checker.source_names();
    let mut seen: Vec<&str> = Vec::new();
    for literal in spec.and_then(|spec| spec.source_priority.as_ref()).into_iter().flatten() {
        if seen.contains(&literal.text.as_str()) {
            checker.reader.findings.error(literal.span, format!("source `{}` is listed twice", literal.text), None);
        } else if literal.known {
            check_reference(&checker.reader, literal, "source", &names);
        }
        seen.push(&literal.text);
    }
}

// Sessions

/// The plan of every pipeline: people have sessions whether the section is there or not.
pub fn sessions(checker: &Checker, spec: Option<&SessionsSpec>, timezone: Tz) -> SessionsPlan {
    let gap = spec.and_then(|spec| spec.gap).unwrap_or(session::GAP);
    let us = |duration: Duration| TimeUs::try_from(duration.as_micros()).unwrap_or(TimeUs::MAX);
    let midnight = spec.is_some_and(|spec| spec.split_on_midnight);
    let events = spec.and_then(|spec| spec.events.as_deref());
    if let Some(events) = events {
        let names: Vec<Literal> =
            events.iter().filter(|event| !TYPES.contains(&event.text.as_str())).cloned().collect();
        checker.events(Some(&names));
    }
    session::fields().into_iter().for_each(|field| checker.field(field));
    let mut plan = SessionsPlan {
        version: 0,
        gap_us: us(gap),
        split_on_campaign: spec.is_some_and(|spec| spec.split_on_campaign),
        split_on_midnight: midnight.then_some(timezone),
        events: events.map(|events| events.iter().map(|event| event.text.clone()).collect()),
        lateness_us: us(session::LATENESS),
    };
    let zone = plan.split_on_midnight.map(|zone| zone.name());
    plan.version = version(&[
        "sessions",
        &plan.gap_us.to_string(),
        &plan.split_on_campaign.to_string(),
        &format!("{zone:?}"),
        &format!("{:?}", plan.events),
    ]);
    plan
}

// Traits

/// None where something was reported.
pub fn a_trait(checker: &Checker, name: &str, span: Span, spec: &TraitSpec) -> Option<TraitPlan> {
    let findings = checker.reader.findings;
    let built_in = BUILT_IN.iter().map(|(name, _)| *name).chain(PROFILE_COLUMNS);
    if built_in.into_iter().any(|other| other == name) {
        findings.error(span, format!("every profile has `{name}` already: a trait needs another name"), None);
        return None;
    }
    let events = checker.events(spec.event.as_deref());
    let scope = checker.event_scope(events.as_deref());
    let input = spec.input.as_ref().map(|sql| checker.compile(sql, &scope));
    let filter = spec.filter.as_ref().map(|sql| checker.predicate(sql, &scope, "`where`"));
    let (input, filter) = (input.map_or(Some(None), |i| i.map(Some)), filter.map_or(Some(None), |f| f.map(Some)));
    let (input, filter) = (input?, filter?);
    let (value_type, scale) = trait_type(checker, spec, input.as_ref())?;
    checker.fields_of(&scope);

    let presence = match (spec.kind, &spec.input) {
        (TraitKind::Latest | TraitKind::First, Some(sql)) => presence(checker, &sql.scalar.text, value_type),
        _ => None,
    };
    let sql_of = |sql: &Option<Sql>| sql.as_ref().map_or("*".to_string(), |sql| canonical_sql(&sql.scalar.text));
    let usual = if spec.kind == TraitKind::First { OnMerge::Earliest } else { OnMerge::Latest };
    let on_merge = spec.on_merge.unwrap_or(usual);
    let source_order = if on_merge == OnMerge::SourcePriority { checker.source_order() } else { Vec::new() };
    let mut parts = vec![
        "trait".to_string(),
        name.to_string(),
        format!("{:?}", spec.kind),
        sql_of(&spec.input),
        format!("{events:?}"),
        sql_of(&spec.filter),
        format!("{value_type:?}"),
        scale.to_string(),
    ];
    // What is usual is left out, so that it means the same whether it is written or not.
    if on_merge != usual {
        parts.push(format!("{on_merge:?}"));
        parts.extend(source_order.iter().cloned());
    }
    let version = version(&parts.iter().map(String::as_str).collect::<Vec<_>>());
    Some(TraitPlan {
        name: name.to_string(),
        version,
        kind: spec.kind,
        events,
        filter,
        input,
        presence,
        value_type,
        scale,
        on_merge,
        source_order,
    })
}

/// The type of the trait's value, and the scale of a sum.
fn trait_type(checker: &Checker, spec: &TraitSpec, input: Option<&Expression>) -> Option<(ValueType, u8)> {
    if spec.kind == TraitKind::Count {
        return Some((ValueType::Long, 0));
    }
    let input = input?;
    let json = input.inputs.len() == 1 && input.inputs[0].column.ends_with(":json");
    let plain = parse_path(&input.sql).is_some();
    let value = if json && plain { Some(ValueType::Json) } else { value_type(&input.data_type) };
    let is = if json && plain { "a value of any type" } else { type_name(&input.data_type) };
    let wrong = |wants: &str, help: &str| {
        let message = format!("{wants}, this is {is}");
        checker.reader.findings.error(spec.input_span, message, help.to_string());
        None
    };
    let sql = input.sql.as_str();
    match (spec.kind, value) {
        (TraitKind::Sum, Some(ValueType::Long)) => Some((ValueType::Long, 0)),
        (TraitKind::Sum, Some(ValueType::Double)) => Some((ValueType::Double, SUM_SCALE)),
        (TraitKind::Sum, _) => wrong("`sum` needs a number", &format!("CAST({sql} AS DOUBLE)")),
        (TraitKind::Min | TraitKind::Max, Some(ValueType::Boolean | ValueType::Json) | None) => {
            wrong("`min` and `max` need a number, a timestamp or a text", &format!("CAST({sql} AS DOUBLE)"))
        }
        (_, Some(value)) => Some((value, 0)),
        (_, None) => wrong("a trait holds a text, number, boolean or timestamp", "take one value out of it"),
    }
}

/// For a plain path into an event's traits: the column that tells an explicit null from nothing said.
fn presence(checker: &Checker, sql: &str, value_type: ValueType) -> Option<String> {
    let path = parse_path(sql)?;
    let (root, rest) = path.split_first()?;
    if root != "traits" || rest.is_empty() {
        return None;
    }
    let field = Field { root: Root::Traits, path: rest.to_vec(), value_type, presence: true };
    checker.field(field.clone());
    Some(field.column_name())
}

// Segments

/// Plans in an order in which a segment comes after those it refers to.
pub fn segments(checker: &Checker, definition: &Definition, traits: &[TraitPlan]) -> Vec<SegmentPlan> {
    let built_in = BUILT_IN.iter().map(|(name, value_type)| (name.to_string(), *value_type));
    let known = traits.iter().map(|plan| (plan.name.clone(), plan.value_type));
    let sound: BTreeSet<&str> = traits.iter().map(|plan| plan.name.as_str()).collect();
    let broken = definition.traits.iter().filter(|other| !sound.contains(other.name.as_str()));
    let scope = SegmentScope {
        traits: built_in.chain(known).collect(),
        segments: definition.segments.iter().map(|segment| segment.name.clone()).collect(),
        broken: broken.map(|other| other.name.clone()).collect(),
        touched_broken: Cell::new(false),
    };
    let mut waiting: Vec<(&Named<Sql>, Expression)> = Vec::new();
    for segment in &definition.segments {
        let Some(sql) = &segment.body else { continue };
        let what = format!("segment `{}`", segment.name);
        scope.touched_broken.set(false);
        let compiled = Expression::compile(&sql.scalar.text, &scope);
        match compiled {
            Err(_) if scope.touched_broken.get() => {}
            // Compiled once more for its findings.
            _ => waiting.extend(checker.predicate(sql, &scope, &what).map(|expression| (segment, expression))),
        }
    }
    order(checker, waiting, traits)
}

fn references(expression: &Expression) -> impl Iterator<Item = &str> {
    expression.inputs.iter().filter_map(|input| input.column.strip_prefix("in_segment:"))
}

fn order(checker: &Checker, mut waiting: Vec<(&Named<Sql>, Expression)>, traits: &[TraitPlan]) -> Vec<SegmentPlan> {
    let mut plans: Vec<SegmentPlan> = Vec::new();
    loop {
        let ready = waiting.iter().position(|(_, expression)| {
            references(expression).all(|name| waiting.iter().all(|(other, _)| other.name != name))
        });
        let Some(index) = ready else { break };
        let (segment, predicate) = waiting.remove(index);
        // The meaning changes with that of the traits and segments it reads.
        let mut reads: Vec<String> = Vec::new();
        for input in &predicate.inputs {
            let name = input.column.strip_prefix("in_segment:");
            let of_trait = traits.iter().find(|plan| plan.name == input.column).map(|plan| plan.version);
            let of_segment = plans.iter().find(|plan| Some(plan.name.as_str()) == name).map(|plan| plan.version);
            reads.extend(of_trait.or(of_segment).map(|version| version.to_string()));
        }
        let version = version(&["segment", &segment.name, &canonical_sql(&predicate.sql), &reads.join(",")]);
        plans.push(SegmentPlan { name: segment.name.clone(), version, predicate });
    }
    report_circles(checker, &waiting);
    plans
}

/// What is left refers to itself in a circle, or to something that does. Each circle is shown once.
fn report_circles(checker: &Checker, waiting: &[(&Named<Sql>, Expression)]) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (start, _) in waiting {
        let mut way: Vec<&str> = vec![&start.name];
        loop {
            let last = way[way.len() - 1];
            let expression = waiting.iter().find(|(other, _)| other.name == last).map(|(_, expression)| expression);
            let next = expression.into_iter().flat_map(references);
            let next = next.into_iter().find(|name| waiting.iter().any(|(other, _)| other.name == *name));
            let Some(next) = next else { break };
            if let Some(index) = way.iter().position(|name| *name == next) {
                let circle = &way[index..];
                if circle.iter().all(|name| !seen.contains(name)) {
                    let first = waiting.iter().find(|(other, _)| other.name == circle[0]);
                    let span = first.map_or(start.span, |(segment, _)| segment.span);
                    let shown = format!("{} → {}", circle.join(" → "), circle[0]);
                    let message = format!("segments refer to each other in a circle: {shown}");
                    checker.reader.findings.error(span, message, None);
                }
                seen.extend(circle);
                break;
            }
            way.push(next);
        }
    }
}

// Destinations, activations, the warehouse

pub fn destination(name: &str, spec: &DestinationSpec) -> DestinationPlan {
    let kind = match spec {
        DestinationSpec::Webhook { url, secret, headers, allow_private } => DestinationKind::Webhook {
            url: url.text.clone(),
            secret: secret.as_ref().map(|secret| secret.text.clone()),
            headers: texts(headers),
            allow_private: *allow_private,
        },
        DestinationSpec::Kafka { brokers, topic, settings } => DestinationKind::Kafka {
            brokers: brokers.text.clone(),
            topic: topic.text.clone(),
            settings: texts(settings),
        },
    };
    DestinationPlan { name: name.to_string(), kind }
}

pub fn activation(
    checker: &Checker,
    name: &str,
    spec: &ActivationSpec,
    trait_names: &[&str],
) -> Option<ActivationPlan> {
    let trigger = trigger(checker, &spec.trigger);
    let destinations = checker.destination_names();
    let mut steps = Vec::new();
    let mut sound = true;
    for step in &spec.steps {
        sound &= check_reference(&checker.reader, &step.to, "destination", &destinations);
        if let Some((_, node)) = &step.body {
            sound &= body(checker, node, &spec.trigger, trait_names);
        }
        let body = step.body.as_ref().map(|(body, _)| body.clone());
        steps.push(SendStep { id: step.id.text.clone(), to: step.to.text.clone(), body });
    }
    let (trigger, trigger_text) = trigger?;
    // Not the status: going live must not make new messages of old ones.
    let text_of = |step: &SendStep| format!("{} {} {:?}", step.id, step.to, step.body.as_ref().map(|b| b.to_string()));
    let all: Vec<String> = steps.iter().map(text_of).collect();
    let version = version(&["activation", name, &trigger_text, &all.join("\n")]);
    sound.then_some(ActivationPlan { name: name.to_string(), version, trigger, status: spec.status, steps })
}

fn trigger(checker: &Checker, spec: &TriggerSpec) -> Option<(Trigger, String)> {
    let segments = checker.segment_names();
    match spec {
        TriggerSpec::Enters(segment) => check_reference(&checker.reader, segment, "segment", &segments)
            .then(|| (Trigger::Enters(segment.text.clone()), format!("enters {}", segment.text))),
        TriggerSpec::Exits(segment) => check_reference(&checker.reader, segment, "segment", &segments)
            .then(|| (Trigger::Exits(segment.text.clone()), format!("exits {}", segment.text))),
        TriggerSpec::Event { event, filter } => {
            let events = checker.events(Some(event)).unwrap_or_default();
            let scope = checker.event_scope(Some(&events));
            let sql = filter.as_ref().map(|sql| canonical_sql(&sql.scalar.text)).unwrap_or_default();
            let filter = filter.as_ref().map(|sql| checker.predicate(sql, &scope, "`where`"));
            let filter = filter.map_or(Some(None), |filter| filter.map(Some))?;
            checker.fields_of(&scope);
            let text = format!("event {events:?} {sql}");
            Some((Trigger::Event { events, filter }, text))
        }
    }
}

/// Templates must parse, and the traits they name must exist. False where something was reported.
fn body(checker: &Checker, node: &Node, trigger: &TriggerSpec, trait_names: &[&str]) -> bool {
    let findings = checker.reader.findings;
    let scalar = match &node.value {
        Value::List(items) => {
            // Every item is looked at, so that all findings come at once.
            return items.iter().filter(|item| !body(checker, item, trigger, trait_names)).count() == 0;
        }
        Value::Map(entries) => {
            return entries.iter().filter(|entry| !body(checker, &entry.value, trigger, trait_names)).count() == 0;
        }
        Value::Scalar(scalar) => scalar,
    };
    if scalar.text.contains("${env:") || scalar.text.contains("${file:") {
        let help = "put it into a header of the destination".to_string();
        findings.error(node.span, "`${…}` is not filled in inside a body: bodies are kept and shown", help);
        return false;
    }
    if !scalar.text.contains("{{") && !scalar.text.contains("{%") {
        return true;
    }
    let environment = minijinja::Environment::new();
    let template = match environment.template_from_str(&scalar.text) {
        Ok(template) => template,
        Err(error) => {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
            findings.error(node.span, format!("the template cannot be read: {detail}"), None);
            return false;
        }
    };
    let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    names.sort();
    let wrong = |name: &&String| !template_name(checker, scalar, node.span, name, trigger, trait_names);
    names.iter().filter(wrong).count() == 0
}

/// A name in a template, with its dots: `profile.traits.email`. A wrong one would fail only when something is sent.
fn template_name(
    checker: &Checker,
    scalar: &Scalar,
    whole: Span,
    name: &str,
    trigger: &TriggerSpec,
    trait_names: &[&str],
) -> bool {
    const PROFILE: [&str; 4] = ["id", "traits", "identifiers", "segments"];
    const EVENT: [&str; 9] =
        ["message_id", "type", "event", "user_id", "anonymous_id", "properties", "traits", "context", "timestamp"];
    let cause = match trigger {
        TriggerSpec::Event { .. } => "event",
        _ => "segment",
    };
    let roots = ["profile", "activation", "trigger", cause];
    let path: Vec<&str> = name.split('.').collect();
    // How many steps of the path are checked, the last of them against these names.
    let (step, lacks, names): (usize, &str, &[&str]) = match path[..] {
        ["profile", "traits", _, ..] => (2, "there is no trait", trait_names),
        ["profile", _, ..] => (1, "a profile has no", &PROFILE),
        ["event", _, ..] if cause == "event" => (1, "an event has no", &EVENT),
        _ => (0, "this template cannot know", &roots),
    };
    let wrong = path[step];
    if names.contains(&wrong) {
        return true;
    }
    let findings = checker.reader.findings;
    let before: usize = path[..step].iter().map(|step| step.len() + 1).sum();
    let start = scalar.text.find(name).unwrap_or(0) + before;
    let source = &findings.files()[whole.file].text;
    let span = scalar.locate(&(start..start + wrong.len()), whole, source);
    findings.error(span, format!("{lacks} `{wrong}`"), nearest_or_list(wrong, names.iter().copied()));
    false
}

pub fn warehouse(spec: Option<&WarehouseSpec>) -> Warehouse {
    match spec {
        None | Some(WarehouseSpec::Lake) => Warehouse::Lake,
        Some(WarehouseSpec::ClickHouse { url, database, user, password }) => Warehouse::ClickHouse {
            url: url.text.clone(),
            database: database.text.clone(),
            user: user.as_ref().map(|user| user.text.clone()),
            password: password.as_ref().map(|password| password.text.clone()),
        },
    }
}
