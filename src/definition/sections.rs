//! Nodes → specs: every section and every entry by itself, so that one fault does not hide another.

use std::collections::BTreeMap;

use super::findings::{Span, nearest_or_list};
use super::read::{Fields, IDENTITY_RULES, Keys, NOT_YET, Reader};
use super::spec::*;
use super::yaml::{Entry, Node, Value};
use crate::activation::Status;
use crate::decode::Framing;
use crate::event::ValueType;
use crate::profile::TraitKind;
use crate::source::Start;
use crate::transform::ContractMode;

const SECTIONS: Keys = Keys {
    known: &[
        "pipeline",
        "timezone",
        "contracts",
        "sources",
        "tables",
        "transforms",
        "dedupe",
        "identity",
        "traits",
        "segments",
        "destinations",
        "activations",
        "aggregates",
        "warehouse",
        "tests",
    ],
    later: &[("consent", NOT_YET), ("groups", NOT_YET), ("audiences", NOT_YET)],
};

const VALUE_TYPES: [(&str, ValueType); 6] = [
    ("string", ValueType::String),
    ("long", ValueType::Long),
    ("double", ValueType::Double),
    ("boolean", ValueType::Boolean),
    ("timestamp", ValueType::Timestamp),
    ("json", ValueType::Json),
];

/// Reads the documents of all files into one definition.
pub fn read(documents: &[Node], reader: &Reader) -> Definition {
    let mut definition = Definition::default();
    // Sections that are one value, and where they were first written.
    let mut written: BTreeMap<String, Span> = BTreeMap::new();
    documents.iter().for_each(|document| hide_secrets(document, reader));
    for document in documents.iter().filter(|document| !document.is_null()) {
        if reader.fields(document, "a pipeline file", document.span, SECTIONS).is_none() {
            continue;
        }
        let Value::Map(sections) = &document.value else { continue };
        for Entry { key, value } in sections {
            let name = key.text.as_str();
            let single = matches!(name, "pipeline" | "timezone" | "contracts" | "dedupe" | "identity" | "warehouse");
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
            let modes = [("strict", ContractMode::Strict), ("flag", ContractMode::Flag)];
            definition.contracts = reader.choice(node, "`contracts`", &modes);
        }
        "sources" => named(&mut definition.sources, node, "source", reader, source),
        "tables" => named(&mut definition.tables, node, "table", reader, table),
        "transforms" => {
            let steps = reader.list(node, "`transforms`").iter();
            definition.transforms.extend(steps.filter_map(|node| step(node, reader)));
        }
        "dedupe" => definition.dedupe = dedupe(node, span, reader),
        "identity" => definition.identity = identity(node, span, reader),
        "traits" => named(&mut definition.traits, node, "trait", reader, a_trait),
        "segments" => named(&mut definition.segments, node, "segment", reader, segment),
        "destinations" => named(&mut definition.destinations, node, "destination", reader, destination),
        "activations" => named(&mut definition.activations, node, "activation", reader, activation),
        "aggregates" => {
            named(&mut definition.aggregates, node, "aggregate", reader, |reader, node, what, _| {
                reader.sql(node, what)
            });
        }
        "warehouse" => definition.warehouse = warehouse(node, span, reader),
        "tests" => {
            let tests = reader.list(node, "`tests`").iter();
            definition.tests.extend(tests.map(|node| reader.json(node)));
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

// Sources, tables, transforms

fn source(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<SourceSpec> {
    let keys = Keys { known: &["kafka", "file", "format", "map", "if", "unless"], later: &[] };
    let fields = reader.fields(node, what, span, keys)?;
    let says = |key: &str| match fields.get(key).map(|node| reader.literal(node, &format!("`{key}`"))) {
        None => Some(None),
        Some(literal) => literal.map(|literal| Some(!literal.text.is_empty())),
    };
    let (condition, exception) = (says("if")?, says("unless")?);
    let on = condition != Some(false) && exception != Some(true);
    // A source that is off here is checked all the same, but its variables need not be set.
    let reader = &Reader { mode: if on { reader.mode } else { super::Mode::Check }, ..reader.clone() };
    let input = match fields.one_of(&["kafka", "file"]) {
        Some(("kafka", node)) => kafka_input(reader, node, fields.key_span("kafka")),
        Some((_, node)) => file_input(reader, node, fields.key_span("file")),
        None => None,
    };
    let format_node = fields.required("format");
    let format = format_node.and_then(|node| format(reader, node, fields.key_span("format")));
    let map = fields.get("map").map(|node| map(reader, node, fields.key_span("map")));
    Some(SourceSpec { on, input: input?, format: format?, format_span: format_node?.span, map })
}

fn kafka_input(reader: &Reader, node: &Node, span: Span) -> Option<InputSpec> {
    let keys = Keys { known: &["brokers", "topics", "start", "settings"], later: &[] };
    let fields = reader.fields(node, "`kafka`", span, keys)?;
    let brokers = fields.required("brokers").and_then(|node| reader.literal(node, "`brokers`"));
    let topics = fields.required("topics").and_then(|node| reader.literals(node, "`topics`"));
    let starts = [("earliest", Start::Earliest), ("latest", Start::Latest)];
    let start = fields.get("start").map(|node| reader.choice(node, "`start`", &starts));
    let settings = fields.get("settings").map(|node| settings(reader, node));
    Some(InputSpec::Kafka {
        brokers: brokers?,
        topics: topics?,
        start: start.unwrap_or(Some(Start::Earliest))?,
        settings: settings.unwrap_or(Some(BTreeMap::new()))?,
    })
}

/// librdkafka's settings: those whose name speaks of a secret must not be written down.
fn settings(reader: &Reader, node: &Node) -> Option<BTreeMap<String, Literal>> {
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
    let fields = reader.fields(node, "`file`", span, Keys { known: &["path"], later: &[] })?;
    Some(InputSpec::File { path: reader.literal(fields.required("path")?, "`path`")? })
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
    let fields = reader.fields(node, "`format`", span, Keys { known: &["avro", "json", "csv"], later: &[] })?;
    match fields.one_of(&["avro", "json", "csv"])? {
        ("avro", node) => avro(reader, node, fields.key_span("avro")),
        ("json", node) => json(reader, node, fields.key_span("json")),
        (_, node) => csv(reader, node, fields.key_span("csv")),
    }
}

fn avro(reader: &Reader, node: &Node, span: Span) -> Option<FormatSpec> {
    let keys = Keys { known: &["registry", "schemas", "schema", "reader", "framing"], later: &[] };
    let fields = reader.fields(node, "`avro`", span, keys)?;
    let text = |key: &str| match fields.get(key) {
        None => Some(None),
        Some(node) => reader.literal(node, &format!("`{key}`")).map(Some),
    };
    let framings =
        [("confluent", Framing::Confluent), ("single_object", Framing::SingleObject), ("bare", Framing::Bare)];
    let framing = match fields.get("framing") {
        None => Some(None),
        Some(node) => reader.choice(node, "`framing`", &framings).map(Some),
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
        return reader.choice(node, "`json`", &[("segment", ()), ("envelope", ())]).map(|()| FormatSpec::JsonEnvelope);
    }
    let fields = reader.fields(node, "`json`", span, Keys { known: &["schema"], later: &[] })?;
    Some(FormatSpec::JsonContract { schema: reader.literal(fields.required("schema")?, "`schema`")? })
}

fn csv(reader: &Reader, node: &Node, span: Span) -> Option<FormatSpec> {
    let fields = reader.fields(node, "`csv`", span, Keys { known: &["columns", "delimiter"], later: &[] })?;
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

fn table(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<TableSpec> {
    let keys = Keys { known: &["file", "key", "columns", "reload"], later: &[] };
    let fields = reader.fields(node, what, span, keys)?;
    let file = fields.required("file").and_then(|node| reader.literal(node, "`file`"));
    let key = fields.required("key").and_then(|node| reader.literal(node, "`key`"));
    let columns = fields.required("columns").and_then(|node| columns(reader, node));
    let reload = fields.get("reload").map(|node| reader.duration(node, "`reload`"));
    Some(TableSpec { file: file?, key: key?, columns: columns?, reload: reload.unwrap_or_default() })
}

fn step(node: &Node, reader: &Reader) -> Option<StepSpec> {
    let keys = Keys { known: &["filter", "set", "unnest", "enrich", "event", "source"], later: &[] };
    let fields = reader.fields(node, "a transform", node.span, keys)?;
    let event = fields.get("event").map(|node| reader.literals(node, "`event`"));
    let source = fields.get("source").map(|node| reader.literals(node, "`source`"));
    let action = match fields.one_of(&["filter", "set", "unnest", "enrich"])? {
        ("filter", node) => reader.sql(node, "`filter`").map(ActionSpec::Filter),
        ("set", node) => Some(ActionSpec::Set(map(reader, node, fields.key_span("set")))),
        ("unnest", node) => unnest(reader, node, fields.key_span("unnest")),
        (_, node) => enrich(reader, node, fields.key_span("enrich")),
    };
    let (event, source) = (event.map_or(Some(None), |e| e.map(Some)), source.map_or(Some(None), |s| s.map(Some)));
    Some(StepSpec { event: event?, source: source?, action: action? })
}

fn unnest(reader: &Reader, node: &Node, span: Span) -> Option<ActionSpec> {
    let fields = reader.fields(node, "`unnest`", span, Keys { known: &["from", "as"], later: &[] })?;
    let from = fields.required("from").and_then(|node| reader.literal(node, "`from`"));
    let event = fields.required("as").and_then(|node| reader.literal(node, "`as`"));
    Some(ActionSpec::Unnest { from: from?, event: event? })
}

fn enrich(reader: &Reader, node: &Node, span: Span) -> Option<ActionSpec> {
    let fields = reader.fields(node, "`enrich`", span, Keys { known: &["table", "key", "as"], later: &[] })?;
    let table = fields.required("table").and_then(|node| reader.literal(node, "`table`"));
    let key = fields.required("key").and_then(|node| reader.sql(node, "`key`"));
    let alias = fields.required("as").and_then(|node| reader.literal(node, "`as`"));
    Some(ActionSpec::Enrich { table: table?, key: key?, alias: alias? })
}

// Deduplication, identity

fn dedupe(node: &Node, span: Span, reader: &Reader) -> Option<DedupeSpec> {
    let fields =
        reader.fields(node, "`dedupe`", span, Keys { known: &["by", "within"], later: &[("prefer", NOT_YET)] })?;
    if let Some(node) = fields.get("by") {
        reader.choice(node, "`by`", &[("message_id", ())]);
    }
    let within = fields.required("within")?;
    if within.as_scalar().is_some_and(|scalar| scalar.text == "forever") {
        return Some(DedupeSpec { within: None });
    }
    Some(DedupeSpec { within: Some(reader.duration(within, "`within`")?) })
}

fn identity(node: &Node, span: Span, reader: &Reader) -> Option<IdentitySpec> {
    let keys = Keys {
        known: &["identifiers", "key"],
        later: &[("block", IDENTITY_RULES), ("on_conflict", IDENTITY_RULES), ("limit", IDENTITY_RULES)],
    };
    let fields = reader.fields(node, "`identity`", span, keys)?;
    let key = fields.get("key").map(|node| reader.secret(node, "`key`"));
    let mut identifiers: Vec<(String, Span)> = Vec::new();
    for node in fields.required("identifiers").map(|node| reader.list(node, "`identifiers`")).unwrap_or_default() {
        let Some((name, span)) = identifier(node, reader) else { continue };
        reader.check_name(&name, span, "identifier type");
        if identifiers.iter().any(|(other, _)| *other == name) {
            reader.findings.error(span, format!("identifier type `{name}` is listed twice"), None);
            continue;
        }
        identifiers.push((name, span));
    }
    Some(IdentitySpec { identifiers, key: key.map_or(Some(None), |key| key.map(Some))? })
}

/// `email`, or `email: { … }` with options.
fn identifier(node: &Node, reader: &Reader) -> Option<(String, Span)> {
    const OPTIONS: Keys = Keys {
        known: &[],
        later: &[
            ("limit", IDENTITY_RULES),
            ("normalize", IDENTITY_RULES),
            ("region", IDENTITY_RULES),
            ("block", IDENTITY_RULES),
            ("on_conflict", IDENTITY_RULES),
        ],
    };
    match &node.value {
        Value::Scalar(scalar) if !scalar.is_null() => Some((scalar.text.clone(), node.span)),
        Value::Map(entries) => match &entries[..] {
            [Entry { key, value }] => {
                if !value.is_null() {
                    reader.fields(value, format!("identifier type `{}`", key.text), key.span, OPTIONS);
                }
                Some((key.text.clone(), key.span))
            }
            _ => {
                let help = "write `- email` or `- email: { … }`, one type to an item, best first".to_string();
                reader.findings.error(node.span, "one identifier type is wanted here", help);
                None
            }
        },
        _ => {
            reader.findings.error(node.span, format!("an identifier type is a name, this is {}", node.kind()), None);
            None
        }
    }
}

// Traits, segments

const TRAIT_KINDS: [(&str, TraitKind); 6] = [
    ("latest", TraitKind::Latest),
    ("first", TraitKind::First),
    ("count", TraitKind::Count),
    ("sum", TraitKind::Sum),
    ("min", TraitKind::Min),
    ("max", TraitKind::Max),
];

fn a_trait(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<TraitSpec> {
    let keys = Keys {
        known: &["latest", "first", "count", "sum", "min", "max", "event", "where"],
        later: &[
            ("mean", NOT_YET),
            ("most_frequent", NOT_YET),
            ("least_frequent", NOT_YET),
            ("distinct", NOT_YET),
            ("funnel", NOT_YET),
            ("sequence", NOT_YET),
            ("gap", NOT_YET),
            ("formula", NOT_YET),
            ("stages", NOT_YET),
            ("window", NOT_YET),
            ("within", NOT_YET),
            ("by", NOT_YET),
            ("keep", NOT_YET),
            ("quantile", NOT_YET),
            ("on_merge", NOT_YET),
        ],
    };
    let fields = reader.fields(node, what, span, keys)?;
    let event = fields.get("event").map(|node| reader.literals(node, "`event`"));
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    let (name, input_node) = fields.one_of(&["latest", "first", "count", "sum", "min", "max"])?;
    let kind = TRAIT_KINDS.iter().find(|(other, _)| *other == name).map(|(_, kind)| *kind)?;
    let input = reader.sql(input_node, &format!("`{name}`"))?;
    let every = input.scalar.text.trim() == "*";
    if every && kind != TraitKind::Count {
        reader.findings.error(input.span, "only `count` can take `*`", None);
        return None;
    }
    Some(TraitSpec {
        kind,
        input_span: input.span,
        input: (!every).then_some(input),
        event: event.map_or(Some(None), |event| event.map(Some))?,
        filter: filter.map_or(Some(None), |filter| filter.map(Some))?,
    })
    .filter(|_| fields.sound)
}

fn segment(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<Sql> {
    if matches!(node.value, Value::Map(_)) {
        let keys = Keys { known: &[], later: &[("sample", NOT_YET), ("list", NOT_YET), ("match", NOT_YET)] };
        reader.fields(node, what, span, keys);
        return None;
    }
    reader.sql(node, what)
}

// Destinations, activations, the warehouse

fn destination(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<DestinationSpec> {
    let keys =
        Keys { known: &["webhook", "kafka"], later: &[("connector", NOT_YET), ("email", NOT_YET), ("with", NOT_YET)] };
    let fields = reader.fields(node, what, span, keys)?;
    match fields.one_of(&["webhook", "kafka"])? {
        ("webhook", node) => webhook(reader, node, fields.key_span("webhook")),
        (_, node) => {
            let keys = Keys { known: &["brokers", "topic", "settings"], later: &[] };
            let fields = reader.fields(node, "`kafka`", fields.key_span("kafka"), keys)?;
            let brokers = fields.required("brokers").and_then(|node| reader.literal(node, "`brokers`"));
            let topic = fields.required("topic").and_then(|node| reader.literal(node, "`topic`"));
            let settings = fields.get("settings").map(|node| settings(reader, node));
            Some(DestinationSpec::Kafka {
                brokers: brokers?,
                topic: topic?,
                settings: settings.unwrap_or(Some(BTreeMap::new()))?,
            })
        }
    }
}

fn webhook(reader: &Reader, node: &Node, span: Span) -> Option<DestinationSpec> {
    let keys = Keys { known: &["url", "secret", "headers", "allow_private"], later: &[] };
    let fields = reader.fields(node, "`webhook`", span, keys)?;
    let url = fields.required("url").and_then(|node| url(reader, node));
    let secret = fields.get("secret").map(|node| reader.secret(node, "`secret`"));
    let allow_private = fields.get("allow_private").map(|node| reader.boolean(node, "`allow_private`"));
    let mut headers = BTreeMap::new();
    for Entry { key, value } in fields.get("headers").map(|node| reader.entries(node, "headers")).unwrap_or_default() {
        let literal = header(reader, &key.text, value)?;
        headers.insert(key.text.clone(), literal);
    }
    Some(DestinationSpec::Webhook {
        url: url?,
        secret: secret.map_or(Some(None), |secret| secret.map(Some))?,
        headers,
        allow_private: allow_private.unwrap_or(Some(false))?,
    })
}

/// `Authorization: "Bearer ${env:TOKEN}"`: around the secret there may be other text, but it must be there.
fn header(reader: &Reader, name: &str, node: &Node) -> Option<Literal> {
    let lower = name.to_ascii_lowercase();
    let words = ["authorization", "token", "secret", "key", "password", "cookie"];
    let secret = words.iter().any(|word| lower.contains(word));
    let filled = node.as_scalar().is_some_and(|s| s.text.contains("${env:") || s.text.contains("${file:"));
    if secret && !filled {
        reader.findings.hide(node.span);
        let help = "write \"Bearer ${env:NAME}\" or the like".to_string();
        reader.findings.error(
            node.span,
            format!("header `{name}` is a secret and must not be written down here"),
            help,
        );
        return None;
    }
    reader.literal(node, &format!("header `{name}`"))
}

fn url(reader: &Reader, node: &Node) -> Option<Literal> {
    let literal = reader.literal(node, "`url`")?;
    let problem = match url::Url::parse(&literal.text) {
        _ if !literal.known => None,
        Ok(url) if !matches!(url.scheme(), "http" | "https") => Some("only http and https can be called".to_string()),
        Ok(url) if url.password().is_some() => {
            reader.findings.hide(node.span);
            Some("a password in a URL would be seen in logs".to_string())
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    match problem {
        Some(problem) => {
            reader.findings.error(node.span, format!("`url` cannot be used: {problem}"), None);
            None
        }
        None => Some(literal),
    }
}

fn activation(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<ActivationSpec> {
    let keys = Keys {
        known: &["trigger", "status", "do"],
        later: &[
            ("consent", NOT_YET),
            ("re_entry", NOT_YET),
            ("frequency_cap", NOT_YET),
            ("exit_when", NOT_YET),
            ("quiet_hours", NOT_YET),
        ],
    };
    let fields = reader.fields(node, what, span, keys)?;
    let statuses = [("paused", Status::Paused), ("dry_run", Status::DryRun), ("live", Status::Live)];
    let status = fields.get("status").map(|node| reader.choice(node, "`status`", &statuses));
    let trigger = fields.required("trigger").and_then(|node| trigger(reader, node, fields.key_span("trigger")));
    let do_node = fields.required("do");
    let mut steps: Vec<SendSpec> = Vec::new();
    let items = do_node.map(|node| reader.list(node, "`do`")).unwrap_or_default();
    for node in items {
        let Some(step) = send(reader, node) else { continue };
        if steps.iter().any(|other| other.id.text == step.id.text) {
            let help = "a step's id is part of the idempotency key of what it sends".to_string();
            reader.findings.error(step.id.span, format!("{what} has two steps `{}`", step.id.text), help);
        }
        steps.push(step);
    }
    if let Some(node) = do_node.filter(|_| items.is_empty()) {
        reader.findings.error(node.span, format!("{what} does nothing: `do` is empty"), None);
        return None;
    }
    Some(ActivationSpec { trigger: trigger?, status: status.flatten().unwrap_or(Status::DryRun), steps })
}

fn trigger(reader: &Reader, node: &Node, span: Span) -> Option<TriggerSpec> {
    let keys = Keys {
        known: &["enters", "exits", "event", "where"],
        later: &[("changes", NOT_YET), ("schedule", NOT_YET), ("over", NOT_YET)],
    };
    let fields = reader.fields(node, "`trigger`", span, keys)?;
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    match fields.one_of(&["enters", "exits", "event"])? {
        ("event", node) => {
            let event = reader.literals(node, "`event`");
            let filter = filter.map_or(Some(None), |filter| filter.map(Some));
            Some(TriggerSpec::Event { event: event?, filter: filter? })
        }
        (kind, node) => {
            if filter.is_some() {
                let help = "put the condition into the segment".to_string();
                reader.findings.error(fields.key_span("where"), "`where` goes with `event`", help);
                return None;
            }
            let segment = reader.literal(node, &format!("`{kind}`"))?;
            Some(if kind == "enters" { TriggerSpec::Enters(segment) } else { TriggerSpec::Exits(segment) })
        }
    }
}

fn send(reader: &Reader, node: &Node) -> Option<SendSpec> {
    let keys = Keys {
        known: &["id", "send"],
        later: &[
            ("wait", NOT_YET),
            ("wait_until", NOT_YET),
            ("wait_for", NOT_YET),
            ("on_timeout", NOT_YET),
            ("branch", NOT_YET),
            ("split", NOT_YET),
            ("set", NOT_YET),
            ("stop", NOT_YET),
        ],
    };
    let step: Fields = reader.fields(node, "a step", node.span, keys)?;
    let id = step.required("id").and_then(|node| reader.literal(node, "`id`"));
    if let Some(id) = &id {
        reader.check_name(&id.text, id.span, "step");
    }
    let send = step.required("send")?;
    let keys = Keys { known: &["to", "body"], later: &[] };
    let fields = reader.fields(send, "`send`", step.key_span("send"), keys)?;
    let to = fields.required("to").and_then(|node| reader.literal(node, "`to`"));
    let body = fields.get("body").map(|node| (reader.json(node), node.clone()));
    Some(SendSpec { id: id?, to: to?, body }).filter(|_| fields.sound && step.sound)
}

fn warehouse(node: &Node, span: Span, reader: &Reader) -> Option<WarehouseSpec> {
    if let Some(scalar) = node.as_scalar() {
        if scalar.text == "lake" {
            return Some(WarehouseSpec::Lake);
        }
        let help = "write lake, or { clickhouse: { url: …, database: … } }".to_string();
        reader.findings.error(node.span, format!("there is no warehouse `{}`", scalar.text), help);
        return None;
    }
    let fields = reader.fields(node, "`warehouse`", span, Keys { known: &["clickhouse"], later: &[] })?;
    let node = fields.required("clickhouse")?;
    let keys = Keys { known: &["url", "database", "user", "password"], later: &[] };
    let fields = reader.fields(node, "`clickhouse`", fields.key_span("clickhouse"), keys)?;
    let url_node = fields.required("url")?;
    let address = reader.literal(url_node, "`url`")?;
    let lake = address.known && address.text.is_empty();
    // Without a URL it is the lake, and the other variables need not be set.
    let reader = &Reader { mode: if lake { super::Mode::Check } else { reader.mode }, ..reader.clone() };
    let checked = if lake { Some(address) } else { url(reader, url_node) };
    let database = fields.required("database").and_then(|node| reader.literal(node, "`database`"));
    let user = fields.get("user").map(|node| reader.literal(node, "`user`"));
    let password = fields.get("password").map(|node| reader.secret(node, "`password`"));
    if lake {
        return Some(WarehouseSpec::Lake);
    }
    Some(WarehouseSpec::ClickHouse {
        url: checked?,
        database: database?,
        user: user.map_or(Some(None), |user| user.map(Some))?,
        password: password.map_or(Some(None), |password| password.map(Some))?,
    })
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
