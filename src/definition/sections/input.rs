//! Sources, tables and transforms.

use std::collections::BTreeMap;

use super::reference;
use crate::decode::Framing;
use crate::definition::Mode;
use crate::definition::findings::Span;
use crate::definition::read::Reader;
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};
use crate::event::ValueType;
use crate::source::Start;

pub const VALUE_TYPES: [(&str, ValueType); 6] = [
    ("string", ValueType::String),
    ("long", ValueType::Long),
    ("double", ValueType::Double),
    ("boolean", ValueType::Boolean),
    ("timestamp", ValueType::Timestamp),
    ("json", ValueType::Json),
];

pub const STARTS: [(&str, Start); 2] = [("earliest", Start::Earliest), ("latest", Start::Latest)];

pub const FRAMINGS: [(&str, Framing); 3] =
    [("confluent", Framing::Confluent), ("single_object", Framing::SingleObject), ("bare", Framing::Bare)];

pub const JSON_FORMS: [(&str, ()); 2] = [("segment", ()), ("envelope", ())];

pub fn source(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<SourceSpec> {
    let fields = reader.section(node, what, span, &reference::SOURCE)?;
    let says = |key: &str| match fields.get(key).map(|node| reader.literal(node, &format!("`{key}`"))) {
        None => Some(None),
        Some(literal) => literal.map(|literal| Some(!literal.text.is_empty())),
    };
    let (condition, exception) = (says("if")?, says("unless")?);
    let on = condition != Some(false) && exception != Some(true);
    // A source that is off here is checked all the same, but its variables need not be set.
    let reader = &Reader { mode: if on { reader.mode } else { Mode::Check }, ..reader.clone() };
    let input = match fields.one() {
        Some(("kafka", node)) => kafka_input(reader, node, fields.key_span("kafka")),
        Some((_, node)) => file_input(reader, node, fields.key_span("file")),
        None => None,
    };
    let format_node = fields.get("format");
    let format = format_node.and_then(|node| format(reader, node, fields.key_span("format")));
    let map = fields.get("map").map(|node| map(reader, node, fields.key_span("map")));
    Some(SourceSpec { on, input: input?, format: format?, format_span: format_node?.span, map })
}

fn kafka_input(reader: &Reader, node: &Node, span: Span) -> Option<InputSpec> {
    let fields = reader.section(node, "`kafka`", span, &reference::KAFKA_SOURCE)?;
    let brokers = fields.get("brokers").and_then(|node| reader.literal(node, "`brokers`"));
    let topics = fields.get("topics").and_then(|node| reader.literals(node, "`topics`"));
    let start = fields.get("start").map(|node| reader.choice(node, "`start`", &STARTS));
    let settings = fields.get("settings").map(|node| settings(reader, node));
    Some(InputSpec::Kafka {
        brokers: brokers?,
        topics: topics?,
        start: start.unwrap_or(Some(Start::Earliest))?,
        settings: settings.unwrap_or(Some(BTreeMap::new()))?,
    })
}

/// librdkafka's settings: those whose name speaks of a secret must not be written down.
pub fn settings(reader: &Reader, node: &Node) -> Option<BTreeMap<String, Literal>> {
    let mut all = BTreeMap::new();
    let mut sound = true;
    for Entry { key, value } in reader.entries(node, "settings") {
        let what = format!("setting `{}`", key.text);
        let secret = ["password", "secret", "key"].iter().any(|word| key.text.contains(word));
        let literal = if secret { reader.secret(value, &what) } else { reader.literal(value, &what) };
        sound &= literal.is_some();
        all.extend(literal.map(|literal| (key.text.clone(), literal)));
    }
    sound.then_some(all)
}

fn file_input(reader: &Reader, node: &Node, span: Span) -> Option<InputSpec> {
    let fields = reader.section(node, "`file`", span, &reference::FILE_SOURCE)?;
    Some(InputSpec::File { path: reader.literal(fields.get("path")?, "`path`")? })
}

fn format(reader: &Reader, node: &Node, span: Span) -> Option<FormatSpec> {
    const FORMATS: &str =
        "`avro`, `{ avro: … }`, `{ json: segment }`, `{ json: { schema: … } }`, `csv` or `{ csv: … }`";
    if let Some(scalar) = node.as_scalar() {
        return match scalar.text.as_str() {
            "avro" => {
                Some(FormatSpec::Avro { framing: None, registry: None, schemas: None, schema: None, reader: None })
            }
            "json" => Some(FormatSpec::JsonEnvelope),
            "csv" => Some(FormatSpec::Csv { columns: None, delimiter: b',' }),
            other => {
                let message = format!("there is no format `{other}`");
                reader.findings.error(node.span, message, format!("write {FORMATS}"));
                None
            }
        };
    }
    let fields = reader.section(node, "`format`", span, &reference::FORMAT)?;
    match fields.one()? {
        ("avro", node) => avro(reader, node, fields.key_span("avro")),
        ("json", node) => json(reader, node, fields.key_span("json")),
        (_, node) => csv(reader, node, fields.key_span("csv")),
    }
}

fn avro(reader: &Reader, node: &Node, span: Span) -> Option<FormatSpec> {
    let fields = reader.section(node, "`avro`", span, &reference::AVRO)?;
    let text = |key: &str| match fields.get(key) {
        None => Some(None),
        Some(node) => reader.literal(node, &format!("`{key}`")).map(Some),
    };
    let framing = match fields.get("framing") {
        None => Some(None),
        Some(node) => reader.choice(node, "`framing`", &FRAMINGS).map(Some),
    };
    let origins = ["registry", "schemas", "schema"];
    if origins.iter().filter(|key| fields.has(key)).count() > 1 {
        fields.one_of(&origins);
    }
    let (registry, schemas, schema, reader) = (text("registry"), text("schemas"), text("schema"), text("reader"));
    Some(FormatSpec::Avro {
        framing: framing?,
        registry: registry?,
        schemas: schemas?,
        schema: schema?,
        reader: reader?,
    })
}

fn json(reader: &Reader, node: &Node, span: Span) -> Option<FormatSpec> {
    if node.as_scalar().is_some() {
        return reader.choice(node, "`json`", &JSON_FORMS).map(|()| FormatSpec::JsonEnvelope);
    }
    let fields = reader.section(node, "`json`", span, &reference::JSON)?;
    Some(FormatSpec::JsonContract { schema: reader.literal(fields.get("schema")?, "`schema`")? })
}

fn csv(reader: &Reader, node: &Node, span: Span) -> Option<FormatSpec> {
    let fields = reader.section(node, "`csv`", span, &reference::CSV)?;
    let delimiter = match fields.get("delimiter") {
        None => Some(b','),
        Some(node) => {
            let literal = reader.literal(node, "`delimiter`")?;
            let byte = match literal.text.as_bytes() {
                [byte] => Some(*byte),
                _ if literal.text == "\\t" => Some(b'\t'),
                _ => None,
            };
            if byte.is_none() {
                reader.findings.error(node.span, "`delimiter` is one character: \",\", \";\" or \"\\t\"", None);
            }
            byte
        }
    };
    let columns = fields.get("columns").map(|node| columns(reader, node));
    Some(FormatSpec::Csv { columns: columns.map_or(Some(None), |columns| columns.map(Some))?, delimiter: delimiter? })
}

fn columns(reader: &Reader, node: &Node) -> Option<Vec<(String, ValueType)>> {
    let entries = reader.entries(node, "columns");
    let types = entries.iter().map(|Entry { key, value }| {
        let value_type = reader.choice(value, &format!("the type of `{}`", key.text), &VALUE_TYPES);
        value_type.map(|value_type| (key.text.clone(), value_type))
    });
    // All of them are read before the first fault ends it.
    types.collect::<Vec<_>>().into_iter().collect()
}

/// `map:` and `set:`, with nested maps as dotted targets.
fn map(reader: &Reader, node: &Node, span: Span) -> Vec<MapEntry> {
    let mut entries = Vec::new();
    if !matches!(node.value, Value::Map(_)) {
        reader.findings.error(span, "a map of targets to expressions is wanted here", None);
    }
    map_entries(reader, node, "", &mut entries);
    entries
}

fn map_entries(reader: &Reader, node: &Node, prefix: &str, into: &mut Vec<MapEntry>) {
    let Value::Map(entries) = &node.value else { return };
    for Entry { key, value } in entries {
        let target = format!("{prefix}{}", key.text);
        let value = match &value.value {
            Value::Map(inner) => match &inner[..] {
                [Entry { key, value }] if key.text == "value" => MapEntryValue::Literal(reader.json(value), value.span),
                _ if prefix.is_empty() => {
                    map_entries(reader, value, &format!("{target}."), into);
                    continue;
                }
                _ => {
                    let help = "nest no deeper: write an expression or { value: … }".to_string();
                    reader.findings.error(value.span, format!("`{target}` is a map"), help);
                    continue;
                }
            },
            _ => match reader.sql(value, &format!("`{target}`")) {
                Some(sql) => MapEntryValue::Sql(sql),
                None => continue,
            },
        };
        into.push(MapEntry { target, target_span: key.span, value });
    }
}

pub fn table(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<TableSpec> {
    let fields = reader.section(node, what, span, &reference::TABLE)?;
    let file = fields.get("file").and_then(|node| reader.literal(node, "`file`"));
    let key = fields.get("key").and_then(|node| reader.literal(node, "`key`"));
    let columns = fields.get("columns").and_then(|node| columns(reader, node));
    let reload = fields.get("reload").map(|node| reader.duration(node, "`reload`"));
    Some(TableSpec { file: file?, key: key?, columns: columns?, reload: reload.unwrap_or_default() })
}

pub fn step(node: &Node, reader: &Reader) -> Option<StepSpec> {
    let fields = reader.section(node, "a transform", node.span, &reference::STEP)?;
    let event = fields.get("event").map(|node| reader.literals(node, "`event`"));
    let source = fields.get("source").map(|node| reader.literals(node, "`source`"));
    let action = match fields.one()? {
        ("filter", node) => reader.sql(node, "`filter`").map(ActionSpec::Filter),
        ("set", node) => Some(ActionSpec::Set(map(reader, node, fields.key_span("set")))),
        ("unnest", node) => unnest(reader, node, fields.key_span("unnest")),
        (_, node) => enrich(reader, node, fields.key_span("enrich")),
    };
    let (event, source) = (event.map_or(Some(None), |e| e.map(Some)), source.map_or(Some(None), |s| s.map(Some)));
    Some(StepSpec { event: event?, source: source?, action: action? })
}

fn unnest(reader: &Reader, node: &Node, span: Span) -> Option<ActionSpec> {
    let fields = reader.section(node, "`unnest`", span, &reference::UNNEST)?;
    let from = fields.get("from").and_then(|node| reader.literal(node, "`from`"));
    let event = fields.get("as").and_then(|node| reader.literal(node, "`as`"));
    Some(ActionSpec::Unnest { from: from?, event: event? })
}

fn enrich(reader: &Reader, node: &Node, span: Span) -> Option<ActionSpec> {
    let fields = reader.section(node, "`enrich`", span, &reference::ENRICH)?;
    let table = fields.get("table").and_then(|node| reader.literal(node, "`table`"));
    let key = fields.get("key").and_then(|node| reader.sql(node, "`key`"));
    let alias = fields.get("as").and_then(|node| reader.literal(node, "`as`"));
    Some(ActionSpec::Enrich { table: table?, key: key?, alias: alias? })
}
