//! Identity, sessions and the warehouse → plans, and what versions of definitions are made of.

use chrono_tz::Tz;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::Warehouse;
use super::check::Checker;
use super::read::micros;
use super::sections::check_reference;
use super::spec::*;
use crate::event::{Field, Root, ValueType, column};
use crate::expression::parse_path;
use crate::identity::{IdentifierFrom, IdentifierType, IdentityPlan, MAX_IDENTIFIERS, Normalize, OnConflict};
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
        gap_us: micros(gap),
        lateness_us: micros(lateness),
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

// The warehouse

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
