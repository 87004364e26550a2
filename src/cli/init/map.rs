//! The source of a first pipeline: how its payloads are read, and the `map` where they are no standard events.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, SchemaRef};
use serde_json::{Value, json};

use super::infer::{Column, Role, Time, by_rank, columns, is_envelope, roles};
use super::sample::{Payload, Sample};
use super::shape::{Shape, snake};
use crate::cli::Failure;
use crate::decode::{DecodePlan, Format, Framing, SchemaOrigin, source_schema};
use crate::event::ValueType;
use crate::expression::Expression;
use crate::transform::MapScope;

/// What was found out about a source.
pub struct Mapped {
    /// The payload as `format` says it, in YAML's flow style; without where Avro's schemas come from.
    pub format: Value,
    /// A schema that `format` names: what follows `schemas/`, and its text.
    pub schema: Option<(String, String)>,
    /// Targets and their SQL, or a literal; none for the standard envelope.
    pub map: Vec<(String, Target)>,
    /// Identifier types, best first.
    pub identifiers: Vec<String>,
    /// For people: what was taken for what.
    pub notes: Vec<String>,
}

pub enum Target {
    Sql(String),
    Literal(String),
}

/// `name` is the source's; where no column says what happened, events are called after it.
///
/// # Errors
/// A schema that cannot be read by.
pub fn mapped(sample: &Sample, name: &str) -> Result<Mapped, Failure> {
    let cells = matches!(sample.payload, Payload::Csv { .. });
    if is_envelope(&sample.rows) {
        return Ok(envelope(sample));
    }
    let columns = columns(&sample.rows, cells);
    let roles = roles(&columns);
    let mut notes = Vec::new();
    let (format, decode, schema) = match &sample.payload {
        Payload::Json => {
            let mut shape = Shape::default();
            sample.rows.iter().for_each(|row| shape.add(&Value::Object(row.clone())));
            let schema = format!("{:#}", shape.record(name, false));
            let decode = Format::JsonContract { schema: schema.clone() };
            (json!({ "json": { "schema": format!("schemas/{name}.avsc") } }), decode, Some(schema))
        }
        Payload::Csv { delimiter } => {
            let typed: Vec<_> =
                columns.iter().zip(&roles).map(|(column, role)| (column.name.clone(), cell(column, role))).collect();
            let types: serde_json::Map<String, Value> =
                typed.iter().map(|(name, value_type)| (name.clone(), type_name(*value_type).into())).collect();
            let mut csv = json!({ "columns": types });
            if *delimiter != b',' {
                csv["delimiter"] = char::from(*delimiter).to_string().into();
            }
            (json!({ "csv": csv }), Format::Csv { columns: typed }, None)
        }
        Payload::Avro { schema } => {
            let decode = Format::Avro {
                framing: Framing::SingleObject,
                schemas: SchemaOrigin::Fixed(schema.clone()),
                reader: Some(schema.clone()),
            };
            (json!({ "avro": { "reader": format!("schemas/{name}.avsc") } }), decode, Some(schema.clone()))
        }
    };
    let plan = DecodePlan { source: name.into(), format: decode };
    let read_as = source_schema(&plan).map_err(Failure::findings)?;
    let mut made = Made { scope: MapScope::new(&read_as), read_as, map: Vec::new() };
    for (column, role) in columns.iter().zip(&roles) {
        if !made.add(column, role) {
            notes.push(format!("column {} is left out: it cannot be read in a map", column.name));
        } else if let Some(note) = note(column, role) {
            notes.push(note);
        }
    }
    if !roles.contains(&Role::Event) {
        let event = title(name);
        notes.push(format!("no column names what happened: every record is the event {event}"));
        made.map.push(("event".to_string(), Target::Literal(event)));
    }
    if !roles.contains(&Role::Time) {
        notes.push("no column tells the time: events are as old as their arrival".to_string());
    }
    let order = |target: &String| {
        let first = ["event", "message_id", "timestamp", "user_id", "anonymous_id", "identifiers", "properties"];
        first.iter().position(|name| target.split('.').next() == Some(name))
    };
    made.map.sort_by_key(|(target, _)| order(target));
    let identifiers = roles.iter().filter_map(|role| match role {
        Role::Identifier(name) => Some(name.clone()),
        _ => None,
    });
    let schema = schema.map(|schema| (format!("{name}.avsc"), schema));
    Ok(Mapped { format, schema, map: made.map, identifiers: by_rank(identifiers.collect()), notes })
}

/// Standard events need no map; what people are known by is counted in them.
fn envelope(sample: &Sample) -> Mapped {
    let mut identifiers = BTreeSet::new();
    for (key, value) in sample.rows.iter().flatten() {
        // In columns of text, objects are JSON.
        let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let object = parsed.as_ref().unwrap_or(value).as_object();
        let there = |value: &Value| !value.is_null() && *value != "";
        match snake(key).as_str() {
            name @ ("user_id" | "anonymous_id") if there(value) => drop(identifiers.insert(name.to_string())),
            "identifiers" => {
                let named = object.into_iter().flatten().filter(|(name, value)| there(value) && *snake(name) == **name);
                identifiers.extend(named.map(|(name, _)| name.clone()));
            }
            "traits" if object.is_some_and(|traits| traits.get("email").is_some_and(there)) => {
                identifiers.insert("email".to_string());
            }
            _ => {}
        }
    }
    let format = match sample.payload {
        Payload::Json => json!({ "json": "segment" }),
        Payload::Csv { delimiter: b',' } => json!("csv"),
        Payload::Csv { delimiter } => json!({ "csv": { "delimiter": char::from(delimiter).to_string() } }),
        Payload::Avro { .. } => json!("avro"),
    };
    let notes = vec!["the records are standard events: nothing has to be mapped".to_string()];
    Mapped { format, schema: None, map: Vec::new(), identifiers: by_rank(identifiers), notes }
}

struct Made {
    read_as: SchemaRef,
    scope: MapScope,
    map: Vec<(String, Target)>,
}

impl Made {
    /// False where nothing can be made of the column.
    fn add(&mut self, column: &Column, role: &Role) -> bool {
        let Ok(field) = self.read_as.field_with_name(&column.name) else { return false };
        let data_type = field.data_type().clone();
        let quoted = format!("\"{}\"", column.name.replace('"', "\"\""));
        let spellings = [column.name.clone(), quoted];
        let Some(name) = spellings.into_iter().find(|name| self.compiles(name)) else { return false };
        let text = if data_type == DataType::Utf8 { name.clone() } else { format!("CAST({name} AS VARCHAR)") };
        let long = if data_type == DataType::Int64 { name.clone() } else { format!("CAST({name} AS BIGINT)") };
        let (target, sql) = match role {
            Role::Event => ("event".to_string(), text),
            Role::MessageId => ("message_id".to_string(), text),
            Role::Identifier(kind) if matches!(kind.as_str(), "user_id" | "anonymous_id") => (kind.clone(), text),
            Role::Identifier(kind) => (format!("identifiers.{kind}"), text),
            Role::Time => {
                let sql = match column.time {
                    _ if matches!(data_type, DataType::Timestamp(..)) => name,
                    Some(Time::Seconds) => format!("to_timestamp_seconds({long})"),
                    Some(Time::Millis) => format!("to_timestamp_millis({long})"),
                    Some(Time::Micros) => format!("to_timestamp_micros({long})"),
                    Some(Time::Format(format)) => format!("to_timestamp({text}, '{format}')"),
                    Some(Time::Text) | None => format!("CAST({name} AS TIMESTAMP)"),
                };
                ("timestamp".to_string(), sql)
            }
            Role::Property => {
                let plain = |c: char| if c.is_alphanumeric() || c == '_' { c } else { '_' };
                let mut target = format!("properties.{}", column.name.chars().map(plain).collect::<String>());
                while self.map.iter().any(|(other, _)| *other == target) {
                    target.push('_');
                }
                (target, name)
            }
        };
        let compiles = self.compiles(&sql);
        if compiles {
            self.map.push((target, Target::Sql(sql)));
        }
        compiles
    }

    fn compiles(&self, sql: &str) -> bool {
        Expression::compile(sql, &self.scope).is_ok()
    }
}

/// The type of a CSV column: what the map makes of it wants a text or a time.
fn cell(column: &Column, role: &Role) -> ValueType {
    match (role, column.time) {
        (Role::Time, Some(Time::Text | Time::Millis)) => ValueType::Timestamp,
        (Role::Time, Some(Time::Seconds | Time::Micros)) => ValueType::Long,
        (Role::Property, _) => column.value_type,
        _ => ValueType::String,
    }
}

fn type_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::String => "string",
        ValueType::Long => "long",
        ValueType::Double => "double",
        ValueType::Boolean => "boolean",
        ValueType::Timestamp => "timestamp",
        ValueType::Json => "json",
    }
}

fn note(column: &Column, role: &Role) -> Option<String> {
    let name = &column.name;
    Some(match role {
        Role::Event => format!("column {name} says what happened: {} different names", column.distinct),
        Role::Time => format!("column {name} is the time of the event"),
        Role::MessageId => format!("column {name} is different in every record: the message id"),
        Role::Identifier(kind) => format!("column {name} identifies people, as {kind}"),
        Role::Property => return None,
    })
}

/// `cdnow_master` → `Cdnow Master`.
pub fn title(name: &str) -> String {
    let words = name.split('_').filter(|word| !word.is_empty()).map(|word| {
        let (first, rest) = word.split_at(1);
        format!("{}{rest}", first.to_ascii_uppercase())
    });
    words.collect::<Vec<_>>().join(" ")
}
