//! What comes out: identity, traits, segments, destinations, activations, the warehouse → plans.

use std::time::Duration;

use chrono_tz::Tz;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::Warehouse;
use super::check::Checker;
use super::findings::{Span, nearest_or_list};
use super::inputs::texts;
use super::sections::check_reference;
use super::spec::*;
use super::yaml::{Node, Scalar, Value};
use crate::activation::{ActivationPlan, DestinationKind, DestinationPlan, SendStep, Trigger};
use crate::event::{Field, Root, TimeUs, ValueType, column};
use crate::expression::parse_path;
use crate::identity::{IdentifierFrom, IdentifierType, IdentityPlan, MAX_IDENTIFIERS, Normalize, OnConflict};
use crate::profile::{TraitPlan, TraitRule};
use crate::session::{self, SessionsPlan};
use crate::transform::TYPES;

/// Where `identity` is left out.
pub const DEFAULT_IDENTIFIERS: [&str; 2] = ["user_id", "anonymous_id"];

/// Stable over restarts and machines: state and idempotency keys are kept by it.
pub fn version(parts: &[&str]) -> u64 {
    // The lengths keep ("ab", "c") apart from ("a", "bc").
    let canonical: Vec<String> = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    xxh3_64(canonical.join(";").as_bytes())
}

/// SQL without differences that mean nothing: white space outside quotes.
pub fn canonical_sql(sql: &str) -> String {
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
    let lateness = spec.and_then(|spec| spec.lateness).unwrap_or(session::LATENESS);
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
        lateness_us: us(lateness),
        split_on_campaign: spec.is_some_and(|spec| spec.split_on_campaign),
        split_on_midnight: midnight.then_some(timezone),
        events: events.map(|events| events.iter().map(|event| event.text.clone()).collect()),
    };
    let zone = plan.split_on_midnight.map(|zone| zone.name());
    plan.version = version(&[
        "sessions",
        &plan.gap_us.to_string(),
        &plan.lateness_us.to_string(),
        &plan.split_on_campaign.to_string(),
        &format!("{zone:?}"),
        &format!("{:?}", plan.events),
    ]);
    plan
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
    traits: &[TraitPlan],
) -> Option<ActivationPlan> {
    let trigger = trigger(checker, &spec.trigger, traits);
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
    sound.then_some(ActivationPlan {
        name: name.to_string(),
        version,
        trigger,
        status: spec.status,
        on_backfill: spec.on_backfill,
        steps,
    })
}

fn trigger(checker: &Checker, spec: &TriggerSpec, traits: &[TraitPlan]) -> Option<(Trigger, String)> {
    let segments = checker.segment_names();
    if let TriggerSpec::Enters(name) | TriggerSpec::Exits(name) | TriggerSpec::Changes { trait_name: name, .. } = spec
        && name.text.split_once('.').is_some_and(|(group, _)| checker.group_names().contains(&group))
    {
        let help = "a group cannot set off an activation so far, only people can".to_string();
        checker.reader.findings.error(name.span, format!("`{}` is of a group", name.text), help);
        return None;
    }
    match spec {
        TriggerSpec::Enters(segment) => check_reference(&checker.reader, segment, "segment", &segments)
            .then(|| (Trigger::Enters(segment.text.clone()), format!("enters {}", segment.text))),
        TriggerSpec::Exits(segment) => check_reference(&checker.reader, segment, "segment", &segments)
            .then(|| (Trigger::Exits(segment.text.clone()), format!("exits {}", segment.text))),
        TriggerSpec::Changes { trait_name, from, to } => {
            let staged: Vec<&str> = checker.staged_traits();
            if !check_reference(&checker.reader, trait_name, "trait with stages", &staged) {
                return None;
            }
            let plan = traits.iter().find(|plan| plan.name == trait_name.text)?;
            let TraitRule::Stages(known) = &plan.rule else { return None };
            let known: Vec<&str> = known.iter().map(|stage| stage.name.as_str()).collect();
            let all = from.iter().chain(to).flatten();
            if all.filter(|stage| !check_reference(&checker.reader, stage, "stage", &known)).count() > 0 {
                return None;
            }
            let texts = |stages: &Option<Vec<Literal>>| {
                stages.as_ref().map(|all| all.iter().map(|stage| stage.text.clone()).collect::<Vec<String>>())
            };
            let (from, to) = (texts(from), texts(to));
            let text = format!("changes {} {from:?} {to:?}", trait_name.text);
            Some((Trigger::Changes { trait_name: trait_name.text.clone(), from, to }, text))
        }
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
        TriggerSpec::Changes { .. } => "stage",
        TriggerSpec::Enters(_) | TriggerSpec::Exits(_) => "segment",
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
