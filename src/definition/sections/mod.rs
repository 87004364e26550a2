//! Nodes → specs: every section and every entry by itself, so that one fault does not hide another.

mod activation;
mod alert;
mod analysis;
mod case;
mod connector;
mod delivery;
mod destination;
mod identity;
mod input;
mod output;
mod profile;
mod reference;
mod sessions;

use std::collections::BTreeMap;

use self::activation::{activation, audience, channel, consent};
use self::alert::alert;
use self::analysis::analysis;
pub use self::case::read_time;
use self::case::test;
use self::connector::connector;
use self::destination::destination;
pub use self::destination::email_keys;
use self::identity::identity;
use self::input::{source, step, table};
use self::output::warehouse;
use self::profile::{a_trait, segment};
pub use self::reference::{FILE, JOURNEY_STEP, event_keys};
use self::sessions::sessions;
use super::findings::{Span, nearest_or_list};
use super::read::Reader;
use super::spec::*;
use super::yaml::{Entry, Node, Value};
use crate::transform::ContractMode;

pub const CONTRACT_MODES: [(&str, ContractMode); 2] = [("strict", ContractMode::Strict), ("flag", ContractMode::Flag)];

/// Reads the documents of all files into one definition; with `rules`, its `identity` section from those and not
/// from `documents`.
pub fn read(documents: &[Node], rules: Option<&[Node]>, reader: &Reader) -> Definition {
    let mut definition = Definition::default();
    // Sections that are one value, and where they were first written.
    let mut written: BTreeMap<String, Span> = BTreeMap::new();
    let of_rules = || rules.into_iter().flatten().map(|document| (document, true));
    let all = || documents.iter().map(|document| (document, false)).chain(of_rules());
    all().for_each(|(document, _)| hide_secrets(document, reader));
    for (document, is_rules) in all().filter(|(document, _)| !document.is_null()) {
        // Of the rules' file only one section counts; what else is in it, and whether it is right, does not matter.
        let checked = is_rules && matches!(document.value, Value::Map(_));
        if !checked && reader.section(document, "a pipeline file", document.span, &FILE).is_none() {
            continue;
        }
        let Value::Map(sections) = &document.value else { continue };
        for Entry { key, value } in sections {
            let name = key.text.as_str();
            let wanted = if is_rules { name == "identity" } else { name != "identity" || rules.is_none() };
            if !wanted {
                continue;
            }
            let single = matches!(
                name,
                "pipeline"
                    | "timezone"
                    | "profile_timezone"
                    | "contracts"
                    | "dedupe"
                    | "identity"
                    | "sessions"
                    | "warehouse"
            );
            if let Some(first) = written.insert(name.to_string(), key.span).filter(|_| single) {
                let first = format!("first written at {}", reader.findings.place_name(first));
                reader.findings.error(key.span, format!("`{name}` is defined twice"), first);
                continue;
            }
            section(&mut definition, name, key.span, value, reader);
        }
    }
    definition
}

fn section(definition: &mut Definition, name: &str, span: Span, node: &Node, reader: &Reader) {
    match name {
        "pipeline" => definition.pipeline = reader.literal(node, "`pipeline`"),
        "timezone" => definition.timezone = reader.literal(node, "`timezone`"),
        "contracts" => {
            definition.contracts = reader.choice(node, "`contracts`", &CONTRACT_MODES);
        }
        "sources" => named(&mut definition.sources, node, "source", reader, source),
        "tables" => named(&mut definition.tables, node, "table", reader, table),
        "transforms" => {
            let steps = reader.list(node, "`transforms`").iter();
            definition.transforms.extend(steps.filter_map(|node| step(node, reader)));
        }
        "dedupe" => definition.dedupe = dedupe(node, span, reader),
        "identity" => definition.identity = identity(node, span, reader),
        "sessions" => definition.sessions = sessions(node, span, reader),
        "traits" => named(&mut definition.traits, node, "trait", reader, a_trait),
        "segments" => named(&mut definition.segments, node, "segment", reader, segment),
        "groups" => named(&mut definition.groups, node, "group", reader, group),
        "consent" => named(&mut definition.consent, node, "consent", reader, consent),
        "channels" => named(&mut definition.channels, node, "channel", reader, channel),
        "suppression" => definition.suppression.extend(reader.literals(node, "`suppression`").unwrap_or_default()),
        "profile_timezone" => definition.profile_timezone = reader.literal(node, "`profile_timezone`"),
        "connectors" => named(&mut definition.connectors, node, "connector", reader, connector),
        "destinations" => named(&mut definition.destinations, node, "destination", reader, destination),
        "audiences" => named(&mut definition.audiences, node, "audience", reader, audience),
        "analyses" => named(&mut definition.analyses, node, "analysis", reader, analysis),
        "activations" => named(&mut definition.activations, node, "activation", reader, activation),
        "aggregates" => {
            named(&mut definition.aggregates, node, "aggregate", reader, |reader, node, what, _| {
                reader.sql(node, what)
            });
        }
        "alerts" => named(&mut definition.alerts, node, "alert", reader, alert),
        "warehouse" => definition.warehouse = warehouse(node, span, reader),
        "tests" => {
            let tests = reader.list(node, "`tests`").iter();
            definition.tests.extend(tests.filter_map(|node| test(node, reader)));
        }
        // Reported with the keys of the file.
        _ => {}
    }
}

/// A section of names: each body is read, and a name that is there already is reported with both places.
fn named<T>(
    into: &mut Vec<Named<T>>,
    node: &Node,
    what: &str,
    reader: &Reader,
    read: impl Fn(&Reader, &Node, &str, Span) -> Option<T>,
) {
    for Entry { key, value } in reader.entries(node, &format!("{what}s")) {
        reader.check_name(&key.text, key.span, what);
        if let Some(first) = into.iter().find(|other| other.name == key.text) {
            let first = format!("first defined at {}", reader.findings.place_name(first.span));
            reader.findings.error(key.span, format!("{what} `{}` is defined twice", key.text), first);
            continue;
        }
        let full = format!("{what} `{}`", key.text);
        let body = if value.is_null() {
            reader.findings.error(key.span, format!("{full} is empty"), None);
            None
        } else {
            read(reader, value, &full, key.span)
        };
        into.push(Named { name: key.text.clone(), span: key.span, body });
    }
}

fn group(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<GroupSpec> {
    let fields = reader.section(node, what, span, &reference::GROUP)?;
    let id = fields.get("id").map(|node| reader.sql(node, "`id`"));
    let mut spec = GroupSpec { id: None, traits: Vec::new(), segments: Vec::new() };
    if let Some(node) = fields.get("traits") {
        named(&mut spec.traits, node, "trait", reader, a_trait);
    }
    if let Some(node) = fields.get("segments") {
        named(&mut spec.segments, node, "segment", reader, segment);
    }
    spec.id = id.map_or(Some(None), |id| id.map(Some))?;
    Some(spec)
}

fn dedupe(node: &Node, span: Span, reader: &Reader) -> Option<DedupeSpec> {
    let fields = reader.section(node, "`dedupe`", span, &reference::DEDUPE)?;
    if let Some(node) = fields.get("by") {
        reader.choice(node, "`by`", &[("message_id", ())]);
    }
    let within = fields.get("within")?;
    if within.as_scalar().is_some_and(|scalar| scalar.text == "forever") {
        return Some(DedupeSpec { within: None });
    }
    Some(DedupeSpec { within: Some(reader.duration(within, "`within`")?) })
}

/// Blots out what looks like a secret that was written down, wherever it stands and whatever else is wrong: the
/// line may be shown for another fault.
fn hide_secrets(node: &Node, reader: &Reader) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| hide_secrets(item, reader)),
        Value::Map(entries) => {
            for Entry { key, value } in entries {
                let name = key.text.to_lowercase();
                let secret = ["password", "secret", "authorization", "token"].iter().any(|word| name.contains(word));
                let written = value.as_scalar().is_some_and(|scalar| !scalar.text.contains("${"));
                if secret && written {
                    reader.findings.hide(value.span);
                }
                hide_secrets(value, reader);
            }
        }
        // http://user:password@host
        Value::Scalar(scalar) => {
            let authority = scalar.text.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or(rest));
            let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
            if user.is_some_and(|user| user.contains(':') && !user.contains("${")) {
                reader.findings.hide(node.span);
            }
        }
    }
}

/// A name that must be one of those defined: reported with the nearest where it is not.
pub fn check_reference(reader: &Reader, literal: &Literal, what: &str, names: &[&str]) -> bool {
    let known = names.contains(&literal.text.as_str());
    if !known {
        let help = nearest_or_list(&literal.text, names.iter().copied());
        reader.findings.error(literal.span, format!("there is no {what} `{}`", literal.text), help);
    }
    known
}
