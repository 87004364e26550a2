//! `peek`: a few records of a source, raw beside mapped. Reads no state and changes nothing.

use arrow::array::Array;
use serde_json::{Map, Value, json};

use super::output::{Output, print, render};
use super::{Exit, Failure, Global, run};
use crate::activation::time_text;
use crate::definition::Mode;
use crate::engine::Preparer;
use crate::event::{EventBatch, NAMES, RawBatch, column};
use crate::source::{self, Positions, ReadLimits, SourceEvent};

/// Raw payloads are shown up to this many bytes.
const SHOWN_BYTES_MAX: usize = 2_000;

pub async fn peek(global: &Global, name: &str, count: usize) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    let Some(plan) = pipeline.sources.iter().find(|plan| **plan.name() == *name) else {
        let names: Vec<&str> = pipeline.sources.iter().map(|plan| &**plan.name()).collect();
        let nearest = crate::expression::nearest(name, &names).map(|near| format!("; did you mean {near}?"));
        let message =
            format!("there is no source {name}{}; sources: {}", nearest.unwrap_or_default(), names.join(", "));
        return Err(Failure::findings(message));
    };
    let mut preparer = Preparer::new(&pipeline, None).map_err(Failure::environment)?;
    let limits = ReadLimits { max_records: count.max(1), until_end: true, ..ReadLimits::default() };
    let schemas = preparer.schemas(name).map_err(Failure::fatal)?;
    let mut handle = source::spawn(plan, Positions::new(), limits, Some(schemas)).map_err(Failure::environment)?;
    let mut rows = Vec::new();
    while rows.len() < count {
        match handle.events.recv().await {
            Some(SourceEvent::Records(mut raw)) => {
                raw.records.truncate(count - rows.len());
                preparer.fetch_schemas(&raw).await.map_err(Failure::environment)?;
                show(&mut preparer, &raw, &mut rows)?;
            }
            Some(SourceEvent::Rejects(rejects)) => {
                rows.extend(rejects.into_iter().map(|reject| {
                    let raw = text(&reject.payload);
                    [reject.position.to_string(), raw, format!("rejected ({}): {}", reject.code, reject.reason)]
                }));
            }
            Some(SourceEvent::Fatal(message) | SourceEvent::Unavailable(message)) => {
                return Err(Failure::environment(message));
            }
            Some(SourceEvent::CaughtUp) | None => break,
            Some(SourceEvent::Lag(_) | SourceEvent::Assigned(_) | SourceEvent::Behind(..) | SourceEvent::AtEnd(..)) => {
            }
        }
    }
    rows.truncate(count);
    print(&render(&["position", "raw", "mapped"], &rows, Output::or_default(global.output)));
    Ok(Exit::Well)
}

/// Prepares one record at a time, so that each raw record stands beside what became of it.
fn show(preparer: &mut Preparer, raw: &RawBatch, rows: &mut Vec<[String; 3]>) -> Result<(), Failure> {
    for record in &raw.records {
        let mut one = RawBatch::new(raw.source.clone());
        let (position, payload) = (raw.position(record), raw.payload(record));
        one.push(&raw.topics[record.topic as usize], record.partition, record.offset, record.timestamp, payload);
        let prepared = preparer.prepare(&one, Vec::new()).map_err(Failure::fatal)?;
        let mut mapped: Vec<String> =
            (0..prepared.events.len()).map(|row| mapped_row(&prepared.events, row).to_string()).collect();
        mapped.extend(prepared.rejects.iter().map(|reject| format!("rejected ({}): {}", reject.code, reject.reason)));
        if mapped.is_empty() {
            mapped.push("dropped by a filter".to_string());
        }
        rows.push([position.to_string(), text(payload), mapped.join("\n")]);
    }
    Ok(())
}

/// The columns of an event that hold something.
fn mapped_row(events: &EventBatch, row: usize) -> Value {
    let mut shown = Map::new();
    for (index, name) in NAMES.iter().enumerate() {
        let column = events.batch.column(index);
        if column.is_null(row) || matches!(index, column::SOURCE..=column::INDEX) {
            continue;
        }
        let value = match index {
            column::PROPERTIES | column::TRAITS | column::CONTEXT | column::ENRICHED => {
                events.text(index, row).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
            }
            column::TIMESTAMP | column::SENT_AT | column::RECEIVED_AT => {
                json!(time_text(events.times(index).value(row)))
            }
            column::IDENTIFIERS => {
                use arrow::array::AsArray;
                let entries = column.as_map().value(row);
                let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
                let pairs = keys.iter().zip(values.iter());
                Value::Object(pairs.filter_map(|(k, v)| Some((k?.to_string(), json!(v?)))).collect())
            }
            _ => json!(events.text(index, row)),
        };
        shown.insert(name.to_string(), value);
    }
    Value::Object(shown)
}

/// Bytes for people: text where it is text, else hex.
fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    match std::str::from_utf8(shown) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => text.to_string(),
        _ => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
