//! What comes in: sources, how their payloads are read and mapped, contracts, tables and transforms → plans.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::DataType;

use super::check::Checker;
use super::findings::{Span, nearest_or_list};
use super::read::Reader;
use super::sections::check_reference;
use super::spec::*;
use crate::decode::{DecodePlan, Format, Framing, SchemaOrigin};
use crate::event::{self, Field, Root, ValueType, column};
use crate::expression::Expression;
use crate::source::{FileFormat, FilePlan, KafkaPlan, SourcePlan};
use crate::transform::{Action, Contract, EventScope, MapPlan, MapScope, MapTarget, MapValue, Step, TablePlan};

/// The contracts that ship: the events of Segment's e-commerce specification.
const SHIPPED_CONTRACTS: [(&str, &str); 3] = [
    ("schemas/events/order_completed.avsc", include_str!("../../schemas/events/order_completed.avsc")),
    ("schemas/events/product_added.avsc", include_str!("../../schemas/events/product_added.avsc")),
    ("schemas/events/product_viewed.avsc", include_str!("../../schemas/events/product_viewed.avsc")),
];

/// Envelope columns that `map` and `set` may write.
const WRITABLE: [usize; 9] = [
    column::MESSAGE_ID,
    column::TYPE,
    column::EVENT,
    column::USER_ID,
    column::ANONYMOUS_ID,
    column::GROUP_ID,
    column::PREVIOUS_ID,
    column::TIMESTAMP,
    column::SENT_AT,
];

/// Objects of the envelope that `map` and `set` may write into.
pub const WRITABLE_OBJECTS: [&str; 4] = ["identifiers", "properties", "traits", "context"];

/// The names of the columns that `map` and `set` may write.
pub fn writable() -> impl Iterator<Item = &'static str> {
    WRITABLE.into_iter().map(|index| event::NAMES[index])
}

/// The pipeline's own contracts, and those that ship for events it says nothing about. True where it has own ones:
/// then an event name that no contract knows is an error.
pub fn contracts(reader: &Reader) -> (Vec<Contract>, bool) {
    let folder = reader.base.join("schemas/events");
    let mut contracts: Vec<Contract> = Vec::new();
    for file in files_with_ending(&folder, "avsc") {
        let fail = |message: String| reader.findings.error_of(file.clone(), message, None);
        let schema = match std::fs::read_to_string(&file) {
            Ok(schema) => schema,
            Err(error) => {
                fail(format!("the contract cannot be read: {error}"));
                continue;
            }
        };
        match contract_event(&schema) {
            Err(problem) => fail(problem),
            Ok(event) => match contracts.iter().find(|other| other.event == event) {
                Some(other) => fail(format!("the event `{event}` has a contract in {} already", other.file.display())),
                None => contracts.push(Contract { event, schema, file }),
            },
        }
    }
    let own = !contracts.is_empty();
    for (name, schema) in SHIPPED_CONTRACTS {
        let Ok(event) = contract_event(schema) else { continue };
        if !contracts.iter().any(|other| other.event == event) {
            contracts.push(Contract { event, schema: schema.to_string(), file: name.into() });
        }
    }
    (contracts, own)
}

/// The event that a contract is for: its attribute `event`, or else the record's name split at its capitals.
fn contract_event(schema: &str) -> Result<String, String> {
    let json: serde_json::Value = serde_json::from_str(schema).map_err(|error| format!("not JSON: {error}"))?;
    apache_avro::Schema::parse(&json).map_err(|error| format!("not an Avro schema: {error}"))?;
    if json["type"] != "record" {
        return Err("a contract is an Avro record".to_string());
    }
    if let Some(event) = json["event"].as_str() {
        return Ok(event.to_string());
    }
    let mut name = String::new();
    for c in json["name"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default().chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push(' ');
        }
        name.push(c);
    }
    Ok(name)
}

/// The files of a folder with this ending, sorted; none where there is no such folder.
pub fn files_with_ending(folder: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|other| other == ending))
        .collect();
    files.sort();
    files
}

// Sources

/// A source that has been checked; plans of sources that are off are thrown away.
pub struct CheckedSource {
    pub plan: SourcePlan,
    pub decode: DecodePlan,
    pub map: Option<MapPlan>,
}

/// None where something was reported.
pub fn source(checker: &Checker, name: &str, span: Span, spec: &SourceSpec) -> Option<CheckedSource> {
    let reader = &checker.reader;
    let name: Arc<str> = name.into();
    let is_file = matches!(spec.input, InputSpec::File { .. });
    let (format, file_format) = format(reader, spec, is_file)?;
    let decode = DecodePlan { source: name.clone(), format };
    let map = match &spec.map {
        Some(entries) => Some(map(checker, &decode, spec, entries)?),
        None => {
            if !reads_envelope(&spec.format) {
                let message = format!("source `{name}` needs `map`: its records are not in the standard envelope");
                let help = "map: { event: { value: … }, timestamp: …, properties: { … } }".to_string();
                reader.findings.error(span, message, help);
                return None;
            }
            None
        }
    };
    let plan = match &spec.input {
        InputSpec::Kafka { brokers, topics, start, settings } => SourcePlan::Kafka(KafkaPlan {
            name,
            brokers: brokers.text.clone(),
            topics: topics.iter().map(|topic| topic.text.clone()).collect(),
            start: *start,
            settings: texts(settings),
        }),
        InputSpec::File { path } => {
            SourcePlan::File(FilePlan { name, path: path.text.clone(), base: reader.base.clone(), format: file_format })
        }
    };
    Some(CheckedSource { plan, decode, map })
}

pub fn texts(literals: &BTreeMap<String, Literal>) -> BTreeMap<String, String> {
    literals.iter().map(|(key, literal)| (key.clone(), literal.text.clone())).collect()
}

fn reads_envelope(format: &FormatSpec) -> bool {
    matches!(format, FormatSpec::JsonEnvelope | FormatSpec::Avro { .. } | FormatSpec::Csv { columns: None, .. })
}

fn format(reader: &Reader, spec: &SourceSpec, is_file: bool) -> Option<(Format, FileFormat)> {
    match &spec.format {
        FormatSpec::JsonEnvelope => Some((Format::JsonEnvelope, FileFormat::Ndjson)),
        FormatSpec::JsonContract { schema } => {
            let schema = read_schema(reader, schema)?;
            Some((Format::JsonContract { schema }, FileFormat::Ndjson))
        }
        FormatSpec::Csv { columns, delimiter } => {
            if !is_file {
                reader.findings.error(spec.format_span, "`csv` is a format of files", None);
                return None;
            }
            let columns = match columns {
                Some(columns) => columns.clone(),
                None if spec.map.is_some() => header(reader, spec, *delimiter)?,
                // None declared: its columns are those of the envelope.
                None => Vec::new(),
            };
            Some((Format::Csv { columns }, FileFormat::Csv { delimiter: *delimiter }))
        }
        FormatSpec::Avro { framing, registry, schemas, schema, reader: reader_schema } => {
            let fixed = match schema {
                Some(schema) => Some(read_schema(reader, schema)?),
                None => None,
            };
            let reader_schema = match reader_schema {
                Some(file) => Some(read_schema(reader, file)?),
                None => None,
            };
            let folder = schemas.as_ref().map(|folder| reader.path(folder));
            let newest = match (&folder, schemas) {
                (Some(path), Some(literal)) => newest_schema(reader, path, literal)?,
                _ => None,
            };
            let mapped = spec.map.is_some();
            let default_framing = match (&fixed, is_file) {
                (_, true) => Framing::SingleObject,
                (Some(_), false) if registry.is_none() && folder.is_none() => Framing::Bare,
                (_, false) => Framing::Confluent,
            };
            let schemas = match (registry, folder, &fixed) {
                (Some(registry), _, _) => SchemaOrigin::Registry { url: registry.text.clone() },
                (_, Some(folder), _) => SchemaOrigin::Folder(folder),
                (_, _, Some(fixed)) => SchemaOrigin::Fixed(fixed.clone()),
                // A container file brings its schema along.
                _ if is_file => SchemaOrigin::Folder(reader.base.join("schemas")),
                _ => {
                    let help =
                        "{ avro: { registry: URL } }, { avro: { schemas: FOLDER } } or { avro: { schema: FILE } }";
                    let message = "where the schemas come from is not said";
                    reader.findings.error(spec.format_span, message, help.to_string());
                    return None;
                }
            };
            let reader_schema = match reader_schema.or(fixed).or(newest) {
                Some(schema) if mapped => Some(schema),
                None if mapped => {
                    let message = "`map` needs `reader`: the schema file to check it against";
                    let help = "{ avro: { …, reader: schemas/NAME.avsc } }".to_string();
                    reader.findings.error(spec.format_span, message, help);
                    return None;
                }
                _ => None,
            };
            let framing = framing.unwrap_or(default_framing);
            Some((Format::Avro { framing, schemas, reader: reader_schema }, FileFormat::Avro))
        }
    }
}

fn read_schema(reader: &Reader, file: &Literal) -> Option<String> {
    read_schema_at(reader, &reader.path(file), file.span)
}

/// `path` as it is; findings point at `span`.
fn read_schema_at(reader: &Reader, path: &Path, span: Span) -> Option<String> {
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let checked = read.and_then(|text| match apache_avro::Schema::parse_str(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("not an Avro schema: {error}")),
    });
    match checked {
        Ok(text) => Some(text),
        Err(problem) => {
            let message = format!("the schema {} cannot be used: {problem}", path.display());
            reader.findings.error(span, message, None);
            None
        }
    }
}

/// The schema of a folder with the highest number at the end of its name. The outer None: reported.
fn newest_schema(reader: &Reader, folder: &Path, literal: &Literal) -> Option<Option<String>> {
    let number = |path: &Path| -> Option<u32> {
        let stem = path.file_stem()?.to_str()?;
        stem.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let numbered = files_with_ending(folder, "avsc").into_iter().filter_map(|path| Some((number(&path)?, path)));
    let Some((_, newest)) = numbered.max() else {
        let message = format!("there is no schema in {}", folder.display());
        let help = "the file's name ends with the schema's id: order-1.avsc is 1".to_string();
        reader.findings.error(literal.span, message, help);
        return None;
    };
    read_schema_at(reader, &newest, literal.span).map(Some)
}

/// The columns of a CSV file, all of them texts.
fn header(reader: &Reader, spec: &SourceSpec, delimiter: u8) -> Option<Vec<(String, ValueType)>> {
    let InputSpec::File { path } = &spec.input else { return None };
    let file = csv::ReaderBuilder::new().delimiter(delimiter).from_path(reader.path(path));
    match file.and_then(|mut file| file.headers().cloned()) {
        Ok(header) => Some(header.iter().map(|name| (name.to_string(), ValueType::String)).collect()),
        Err(error) => {
            let message = format!("the header of {} cannot be read: {error}", path.text);
            let help = "or write { csv: { columns: { name: string, … } } }".to_string();
            reader.findings.error(path.span, message, help);
            None
        }
    }
}

// Maps

fn map(checker: &Checker, decode: &DecodePlan, spec: &SourceSpec, entries: &[MapEntry]) -> Option<MapPlan> {
    let scope = match crate::decode::source_schema(decode) {
        Ok(schema) => MapScope::new(&schema),
        Err(problem) => {
            checker.reader.findings.error(spec.format_span, problem.to_string(), None);
            return None;
        }
    };
    let mut targets = Vec::new();
    let mut sound = true;
    for entry in entries {
        let target = target(checker, entry, false);
        let value = match &entry.value {
            MapEntryValue::Literal(json, span) => {
                if let Some(target) = &target {
                    sound &= literal_fits(checker, target, json, *span);
                }
                Some(MapValue::Literal(json.clone()))
            }
            MapEntryValue::Sql(sql) => {
                let expression = checker.compile(sql, &scope);
                if let (Some(expression), Some(target)) = (&expression, &target) {
                    sound &= expression_fits(checker, target, expression, sql);
                }
                expression.map(MapValue::Expression)
            }
        };
        match (target, value) {
            (Some(target), Some(value)) => targets.push((target, value)),
            _ => sound = false,
        }
    }
    sound.then_some(MapPlan { targets })
}

/// The target that a dotted name means. `deep`: JSON targets may have more than one step.
fn target(checker: &Checker, entry: &MapEntry, deep: bool) -> Option<MapTarget> {
    let findings = checker.reader.findings;
    let name = entry.target.as_str();
    if let Some(index) = WRITABLE.into_iter().find(|index| event::NAMES[*index] == name) {
        return Some(MapTarget::Column(index));
    }
    if let Some((root, rest)) = name.split_once('.').filter(|(_, rest)| !rest.is_empty()) {
        if root == "identifiers" {
            checker.check_identifier(rest, entry.target_span);
            return Some(MapTarget::Identifier(rest.to_string()));
        }
        if let Some(root) = json_root(root) {
            if rest.contains('.') && !deep {
                findings.error(entry.target_span, format!("`{name}` is too deep: `map` writes keys at the top"), None);
                return None;
            }
            return Some(MapTarget::Json(root, rest.to_string()));
        }
    }
    let names = writable().chain(WRITABLE_OBJECTS);
    let (message, help) = if WRITABLE_OBJECTS.contains(&name) {
        (format!("`{name}` needs keys of its own"), Some(format!("{name}: {{ key: expression }}")))
    } else {
        (format!("there is no column `{name}` to write"), nearest_or_list(name, names))
    };
    findings.error(entry.target_span, message, help);
    None
}

pub fn json_root(name: &str) -> Option<Root> {
    match name {
        "properties" => Some(Root::Properties),
        "traits" => Some(Root::Traits),
        "context" => Some(Root::Context),
        _ => None,
    }
}

/// Targets that must be of one type: texts and times of the envelope, and identifiers.
fn wanted(target: &MapTarget) -> Option<DataType> {
    match target {
        MapTarget::Column(index) => Some(event::envelope_schema().field(*index).data_type().clone()),
        MapTarget::Identifier(_) => Some(DataType::Utf8),
        MapTarget::Json(..) => None,
    }
}

fn expression_fits(checker: &Checker, target: &MapTarget, expression: &Expression, sql: &Sql) -> bool {
    let fits = match wanted(target) {
        None => true,
        Some(DataType::Timestamp(..)) => matches!(expression.data_type, DataType::Timestamp(..)),
        Some(wanted) => expression.data_type == wanted,
    };
    if !fits {
        let (kind, help) = match wanted(target) {
            Some(DataType::Timestamp(..)) => ("a timestamp", format!("CAST({} AS TIMESTAMP)", sql.scalar.text)),
            _ => ("a text", format!("CAST({} AS VARCHAR)", sql.scalar.text)),
        };
        let is = super::check::type_name(&expression.data_type);
        checker.reader.findings.error(sql.span, format!("{kind} is wanted here, this is {is}"), help);
    }
    fits
}

fn literal_fits(checker: &Checker, target: &MapTarget, value: &serde_json::Value, span: Span) -> bool {
    let problem = match wanted(target) {
        None => None,
        Some(DataType::Timestamp(..)) => Some("a timestamp cannot be a literal here: write an expression"),
        Some(_) if value.is_string() => None,
        Some(_) => Some("a text is wanted here: quote it"),
    };
    if let Some(problem) = problem {
        checker.reader.findings.error(span, problem, None);
    }
    problem.is_none()
}

// Tables and transforms

pub fn table(checker: &Checker, name: &str, spec: &TableSpec) -> Option<TablePlan> {
    let reader = &checker.reader;
    let file = reader.path(&spec.file);
    let mut sound = true;
    if !spec.columns.iter().any(|(column, _)| *column == spec.key.text) {
        let names = spec.columns.iter().map(|(column, _)| column.as_str());
        let message = format!("the key `{}` is not among the columns", spec.key.text);
        reader.findings.error(spec.key.span, message, nearest_or_list(&spec.key.text, names));
        sound = false;
    }
    match csv::Reader::from_path(&file).and_then(|mut file| file.headers().cloned()) {
        _ if !spec.file.known => {}
        Ok(header) => {
            for (column, _) in &spec.columns {
                if !header.iter().any(|name| name == column) {
                    let message = format!("{} has no column `{column}`", spec.file.text);
                    reader.findings.error(spec.file.span, message, nearest_or_list(column, header.iter()));
                    sound = false;
                }
            }
        }
        Err(error) => {
            reader.findings.error(
                spec.file.span,
                format!("the table {} cannot be read: {error}", spec.file.text),
                None,
            );
            sound = false;
        }
    }
    let (key, columns) = (spec.key.text.clone(), spec.columns.clone());
    sound.then_some(TablePlan { name: name.to_string(), file, key, columns, reload: spec.reload })
}

/// One step; what it reads is added to the checker's step fields, what it adds to its scope.
pub fn step(checker: &mut Checker, spec: &StepSpec) -> Option<Step> {
    let step = checked_step(checker, spec);
    // Even where the step is at fault: what reads the enrichment is not.
    if let ActionSpec::Enrich { table, alias, .. } = &spec.action {
        checker.add_alias(alias, &table.text);
    }
    step
}

fn checked_step(checker: &Checker, spec: &StepSpec) -> Option<Step> {
    let reader = &checker.reader;
    let events = checker.events(spec.event.as_deref());
    let sources = spec.source.as_ref().map(|sources| {
        let names = checker.source_names();
        sources.iter().for_each(|source| {
            check_reference(reader, source, "source", &names);
        });
        sources.iter().map(|source| source.text.clone()).collect::<Vec<_>>()
    });
    let scope = checker.event_scope(events.as_deref());
    let action = match &spec.action {
        ActionSpec::Filter(sql) => checker.predicate(sql, &scope, "`filter`").map(Action::Filter),
        ActionSpec::Set(entries) => set(checker, entries, &scope),
        ActionSpec::Unnest { from, event } => {
            let path: Vec<&str> = from.text.split('.').collect();
            match path.split_first().and_then(|(root, rest)| json_root(root).map(|root| (root, rest))) {
                Some((root, rest)) if !rest.is_empty() && rest.iter().all(|step| !step.is_empty()) => {
                    let path = rest.iter().map(|step| step.to_string()).collect();
                    let from = Field { root, path, value_type: ValueType::Json, presence: false };
                    checker.step_field(from.clone());
                    Some(Action::Unnest { from, event: event.text.clone() })
                }
                _ => {
                    let help = "write properties.NAME".to_string();
                    reader.findings.error(from.span, "`from` is the path of a list in the event", help);
                    None
                }
            }
        }
        ActionSpec::Enrich { table, key, alias } => {
            reader.check_name(&alias.text, alias.span, "enrichment");
            let names = checker.table_names();
            let known = check_reference(reader, table, "table", &names);
            let key = checker.compile(key, &scope);
            let taken = event::NAMES.contains(&alias.text.as_str());
            if taken {
                reader.findings.error(alias.span, format!("`{}` is a column of every event", alias.text), None);
            }
            let action = key.map(|key| Action::Enrich { table: table.text.clone(), key, alias: alias.text.clone() });
            action.filter(|_| known && !taken)
        }
    };
    checker.step_fields_of(&scope);
    Some(Step { events, sources, action: action? })
}

fn set(checker: &Checker, entries: &[MapEntry], scope: &EventScope) -> Option<Action> {
    let mut targets = Vec::new();
    let mut sound = true;
    for entry in entries {
        let target = target(checker, entry, true);
        let expression = match &entry.value {
            MapEntryValue::Sql(sql) => {
                let expression = checker.compile(sql, scope);
                if let (Some(expression), Some(target)) = (&expression, &target) {
                    sound &= expression_fits(checker, target, expression, sql);
                }
                expression
            }
            MapEntryValue::Literal(json, span) => {
                // A literal is an expression here: 'text', 1, true.
                let sql = match json {
                    serde_json::Value::String(text) => format!("'{}'", text.replace('\'', "''")),
                    other => other.to_string(),
                };
                let expression = Expression::compile(&sql, scope);
                if let Err(error) = &expression {
                    checker.reader.findings.error(*span, error.message.clone(), None);
                }
                expression.ok()
            }
        };
        match (target, expression) {
            (Some(target), Some(expression)) => targets.push((target, expression)),
            _ => sound = false,
        }
    }
    sound.then_some(Action::Set(targets))
}
