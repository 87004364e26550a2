//! Traits and segments.

use super::reference::{SEGMENT, TRAIT};
use crate::definition::findings::Span;
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};
use crate::profile::{OnMerge, TraitKind};

const EVENT_KINDS: [(&str, TraitKind); 7] = [
    ("latest", TraitKind::Latest),
    ("first", TraitKind::First),
    ("count", TraitKind::Count),
    ("sum", TraitKind::Sum),
    ("min", TraitKind::Min),
    ("max", TraitKind::Max),
    ("mean", TraitKind::Mean),
];

pub const ON_MERGE: [(&str, OnMerge); 4] = [
    ("latest", OnMerge::Latest),
    ("earliest", OnMerge::Earliest),
    ("survivor", OnMerge::Survivor),
    ("source_priority", OnMerge::SourcePriority),
];

/// What a trait can be; one of them.
pub const KINDS: [&str; 10] = ["latest", "first", "count", "sum", "min", "max", "mean", "formula", "score", "stages"];

pub fn a_trait(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<TraitSpec> {
    let fields = reader.section(node, what, span, &TRAIT)?;
    match fields.one()? {
        (name @ ("formula" | "score" | "stages"), input) => {
            for key in ["event", "where", "on_merge", "window", "pane", "by"] {
                if fields.get(key).is_some() {
                    let message = format!("`{key}` does not go with `{name}`, which is computed from other traits");
                    reader.findings.error(fields.key_span(key), message, None);
                    return None;
                }
            }
            match name {
                "stages" => stages(reader, input),
                _ => Some(TraitSpec::Formula { sql: reader.sql(input, &format!("`{name}`"))?, score: name == "score" }),
            }
        }
        (name, input) => event_trait(reader, &fields, name, input),
    }
}

fn event_trait(reader: &Reader, fields: &Fields, name: &str, input_node: &Node) -> Option<TraitSpec> {
    let event = fields.get("event").map(|node| reader.literals(node, "`event`"));
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    let by = fields.get("by").map(|node| reader.sql(node, "`by`"));
    let length = |key: &str| {
        let node = fields.get(key)?;
        Some(reader.duration(node, &format!("`{key}`")).map(|length| (length.as_micros() as i64, node.span)))
    };
    let (window, pane) = (length("window"), length("pane"));
    let kind = EVENT_KINDS.iter().find(|(other, _)| *other == name).map(|(_, kind)| kind.clone())?;
    let on_merge = on_merge(reader, fields, &kind);
    let input = reader.sql(input_node, &format!("`{name}`"))?;
    let every = input.scalar.text.trim() == "*";
    if every && kind != TraitKind::Count {
        reader.findings.error(input.span, "only `count` can take `*`", None);
        return None;
    }
    let spec = EventTraitSpec {
        kind,
        input_span: input.span,
        input: (!every).then_some(input),
        event: event.map_or(Some(None), |event| event.map(Some))?,
        filter: filter.map_or(Some(None), |filter| filter.map(Some))?,
        on_merge: on_merge?,
        window: window.map_or(Some(None), |window| window.map(Some))?,
        pane: pane.map_or(Some(None), |pane| pane.map(Some))?,
        by: by.map_or(Some(None), |by| by.map(Some))?,
    };
    fields.sound.then(|| TraitSpec::Events(Box::new(spec)))
}

/// `stages: [ { new: condition }, … ]`, the first that holds.
fn stages(reader: &Reader, node: &Node) -> Option<TraitSpec> {
    let items = reader.list(node, "`stages`");
    let mut stages: Vec<(Literal, Sql)> = Vec::new();
    for item in items {
        let entries = reader.entries(item, "a stage");
        let [Entry { key, value }] = entries else {
            let help = "- active: \"last_seen > now() - INTERVAL '30 days'\"".to_string();
            reader.findings.error(item.span, "a stage is one name and its condition", help);
            continue;
        };
        reader.check_name(&key.text, key.span, "stage");
        if stages.iter().any(|(other, _)| other.text == key.text) {
            reader.findings.error(key.span, format!("stage `{}` is defined twice", key.text), None);
        }
        let name = Literal { text: key.text.clone(), span: key.span, known: true };
        stages.extend(reader.sql(value, &format!("stage `{}`", key.text)).map(|sql| (name, sql)));
    }
    if items.is_empty() {
        reader.findings.error(node.span, "`stages` is empty", None);
    }
    (!items.is_empty() && stages.len() == items.len()).then_some(TraitSpec::Stages(stages))
}

/// Which value stands is a question only where one does. The outer None where something was reported.
fn on_merge(reader: &Reader, fields: &Fields, kind: &TraitKind) -> Option<Option<OnMerge>> {
    let Some(node) = fields.get("on_merge") else { return Some(None) };
    let on_merge = reader.choice(node, "`on_merge`", &ON_MERGE)?;
    if !matches!(kind, TraitKind::Latest | TraitKind::First) {
        let help = "what counts, adds up or compares takes in both sides of a merge anyway".to_string();
        reader.findings.error(fields.key_span("on_merge"), "`on_merge` goes with `latest` and `first`", help);
        return None;
    }
    Some(Some(on_merge))
}

pub fn segment(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<SegmentSpec> {
    if !matches!(node.value, Value::Map(_)) {
        return reader.sql(node, what).map(SegmentSpec::Predicate);
    }
    let fields = reader.section(node, what, span, &SEGMENT)?;
    let (kind, node) = fields.one()?;
    if kind == "list" {
        let (file, matches) = (reader.literal(node, "`list`"), fields.required("match"));
        let matches = matches.and_then(|node| reader.literal(node, "`match`"));
        return Some(SegmentSpec::List(ListSpec { file: file?, matches: matches? }));
    }
    if fields.has("match") {
        reader.findings.error(fields.key_span("match"), "`match` goes with `list`", None);
        return None;
    }
    let literal = reader.literal(node, "`sample`")?;
    let share = literal.text.trim().strip_suffix('%').and_then(|text| text.trim().parse::<f64>().ok());
    let Some(share) = share.filter(|share| (0.0..=100.0).contains(share)) else {
        reader.findings.error(node.span, "`sample` is a share of all people", "sample: 10%".to_string());
        return None;
    };
    Some(SegmentSpec::Sample { below: (share / 100.0 * 4_294_967_296.0).round() as u64 })
}
