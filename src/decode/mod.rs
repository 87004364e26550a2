//! Decode: bytes to columns. Untrusted bytes are walked first, which yields an exact reason and byte offset for
//! a bad record; what passed is decoded in bulk into Arrow.
//!
//! The way of an Avro batch: cut the frame ([`framing`]), find the writer's schema ([`registry`]), walk the datum
//! ([`walk`]), decode all datums of one writer together (`bulk`), put the rows back in log order.
//!
//! Invariants: each record of a batch is either one row or one reject; nothing here does I/O (the engine fetches
//! [`Decoder::unknown_schemas`] before it decodes); no bytes can make it panic.

mod bulk;
pub mod contract;
pub mod csv;
pub mod framing;
pub mod json;
mod json_contract;
pub mod json_text;
pub mod ocf;
pub mod registry;
pub mod schema;
pub mod time;
pub mod walk;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;

use self::bulk::{Bulk, Reader};
pub use self::framing::SchemaKey;
use self::json::JsonDecoder;
use self::registry::{Lookup, Schemas};
use self::schema::Schema;
use self::walk::{Fault, code};
use crate::event::{RawBatch, RawRecord, Reject, ValueType};

/// How the payloads of a source are to be read.
#[derive(Debug, Clone)]
pub struct DecodePlan {
    pub source: Arc<str>,
    pub format: Format,
}

#[derive(Debug, Clone)]
pub enum Format {
    Avro {
        framing: Framing,
        schemas: SchemaOrigin,
        /// The reader schema as JSON; the standard envelope (`schemas/event.avsc`) where None.
        reader: Option<String>,
    },
    /// The standard envelope as JSON: snake_case or Segment's camelCase.
    JsonEnvelope,
    /// A JSON object whose shape an Avro record schema (as JSON text) prescribes.
    JsonContract { schema: String },
    /// A flat JSON object of strings (from a CSV row), each cast to the type declared for its column.
    Csv { columns: Vec<(String, ValueType)> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Magic 0, then a schema id of four bytes, big-endian.
    Confluent,
    /// C3 01, then the CRC-64-AVRO fingerprint of the writer schema, little-endian.
    SingleObject,
    /// Nothing: the writer schema is fixed.
    Bare,
}

/// Where writer schemas come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaOrigin {
    Registry {
        url: String,
    },
    /// A folder of `*.avsc`; for Confluent framing the number that ends the file's stem is the id
    /// (`order-1.avsc` is 1), for bare datums it holds one file.
    Folder(PathBuf),
    /// One schema, as JSON. With Confluent framing every id means it.
    Fixed(String),
}

/// The standard envelope as an Avro schema.
pub const EVENT_SCHEMA: &str = include_str!("../../schemas/event.avsc");

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A schema that the user gave cannot be used.
    #[error("avro schema: {0}")]
    Schema(String),
    /// The parts of a format do not go together.
    #[error("{0}")]
    Plan(String),
}

/// The rows that could be read, in the source's own columns, in log order.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Of the schema [`Decoder::schema`].
    pub columns: RecordBatch,
    /// For each row, the index into [`RawBatch::records`]; ascending.
    pub records: Vec<u32>,
    /// In log order.
    pub rejects: Vec<Reject>,
}

/// Decodes the batches of one source.
pub struct Decoder {
    format: FormatDecoder,
}

enum FormatDecoder {
    Avro(Box<AvroDecoder>),
    Json(Box<JsonDecoder>),
}

impl Decoder {
    /// `schemas` are those of the same plan, see [`Schemas::open`].
    pub fn new(plan: &DecodePlan, schemas: Arc<Schemas>) -> Result<Decoder, DecodeError> {
        let format = match &plan.format {
            Format::Avro { framing, schemas: origin, reader } => {
                let reader = avro_reader(*framing, origin, reader.as_deref())?;
                // Confluent ids that all mean one schema are not looked at.
                let fixed = *framing != Framing::SingleObject && matches!(origin, SchemaOrigin::Fixed(_));
                let writers = HashMap::new();
                FormatDecoder::Avro(Box::new(AvroDecoder { framing: *framing, fixed, reader, schemas, writers }))
            }
            format => FormatDecoder::Json(Box::new(JsonDecoder::new(format)?)),
        };
        Ok(Decoder { format })
    }

    /// The source's columns. Known without any server.
    pub fn schema(&self) -> SchemaRef {
        match &self.format {
            FormatDecoder::Avro(avro) => avro.reader.arrow.clone(),
            FormatDecoder::Json(json) => json.schema(),
        }
    }

    /// The writer schemas that this batch needs and that are not known yet, for [`Schemas::fetch`].
    pub fn unknown_schemas(&self, raw: &RawBatch) -> Vec<SchemaKey> {
        match &self.format {
            FormatDecoder::Avro(avro) => avro.unknown_schemas(raw),
            FormatDecoder::Json(_) => Vec::new(),
        }
    }

    /// Never fails: what cannot be read is a reject.
    pub fn decode(&mut self, raw: &RawBatch) -> Decoded {
        match &mut self.format {
            FormatDecoder::Avro(avro) => avro.decode(raw),
            FormatDecoder::Json(json) => json.decode(raw),
        }
    }
}

/// The Arrow schema of a source's columns, for type checks at load.
pub fn source_schema(plan: &DecodePlan) -> Result<SchemaRef, DecodeError> {
    match &plan.format {
        Format::Avro { framing, schemas, reader } => Ok(avro_reader(*framing, schemas, reader.as_deref())?.arrow),
        format => Ok(JsonDecoder::new(format)?.schema()),
    }
}

/// The reader schema, and whether all goes together.
fn avro_reader(framing: Framing, origin: &SchemaOrigin, reader: Option<&str>) -> Result<Reader, DecodeError> {
    if framing == Framing::Bare && matches!(origin, SchemaOrigin::Registry { .. }) {
        let what = "bare datums do not say their schema's id, so a registry is of no use; name the schema's file";
        return Err(DecodeError::Plan(what.to_owned()));
    }
    let reader = match reader {
        Some(json) => Reader::new(json, false)?,
        None => Reader::new(EVENT_SCHEMA, true)?,
    };
    if let SchemaOrigin::Fixed(json) = origin {
        Bulk::new(&Schema::parse(json)?, &reader).map_err(DecodeError::Schema)?;
    }
    Ok(reader)
}

struct AvroDecoder {
    framing: Framing,
    /// There is one writer schema, whatever the frame says.
    fixed: bool,
    reader: Reader,
    schemas: Arc<Schemas>,
    /// Decided once per writer.
    writers: HashMap<SchemaKey, Writer>,
}

// A writer that can be read, or the code and reason that all its records are rejected with.
type Writer = Result<Box<Readable>, (&'static str, String)>;

struct Readable {
    schema: Schema,
    bulk: Bulk,
}

/// The walked records of one writer.
struct Group<'a> {
    key: SchemaKey,
    records: Vec<u32>,
    datums: Vec<&'a [u8]>,
}

impl AvroDecoder {
    fn cut(&self, payload: &[u8]) -> Result<(SchemaKey, usize), Fault> {
        let (key, start) = framing::cut(self.framing, payload)?;
        Ok((if self.fixed { SchemaKey::Fixed } else { key }, start))
    }

    fn unknown_schemas(&self, raw: &RawBatch) -> Vec<SchemaKey> {
        let mut unknown = Vec::new();
        let mut last = None;
        for record in &raw.records {
            let Ok((key, _)) = self.cut(raw.payload(record)) else { continue };
            if last.replace(key) == Some(key) || self.writers.contains_key(&key) || unknown.contains(&key) {
                continue;
            }
            if self.schemas.lookup(key) == Lookup::Unknown {
                unknown.push(key);
            }
        }
        unknown
    }

    fn decode(&mut self, raw: &RawBatch) -> Decoded {
        let mut faults: Vec<(u32, Fault)> = Vec::new();
        let mut groups: Vec<Group> = Vec::new();
        // Where the last record went: nearly always where the next one goes.
        let mut group = 0;
        for (index, record) in raw.records.iter().enumerate() {
            let payload = raw.payload(record);
            match self.walk(payload) {
                Err(fault) => faults.push((index as u32, fault)),
                Ok((key, datum)) => {
                    if groups.get(group).is_none_or(|group| group.key != key) {
                        group = groups.iter().position(|group| group.key == key).unwrap_or_else(|| {
                            groups.push(Group { key, records: Vec::new(), datums: Vec::new() });
                            groups.len() - 1
                        });
                    }
                    groups[group].records.push(index as u32);
                    groups[group].datums.push(datum);
                }
            }
        }

        let mut batches = Vec::new();
        let mut records: Vec<u32> = Vec::new();
        let mut bad = Vec::new();
        for group in &groups {
            // Its walk has put it there.
            let Some(Ok(readable)) = self.writers.get_mut(&group.key) else { continue };
            bad.clear();
            batches.extend(readable.bulk.decode(&group.datums, &mut bad));
            bad.sort_unstable();
            let mut refused = bad.iter().peekable();
            for (at, index) in group.records.iter().enumerate() {
                match refused.next_if(|(bad, _)| *bad == at) {
                    Some((_, reason)) => faults.push((*index, Fault::new(code::BAD_VALUE, NOWHERE, reason.as_str()))),
                    None => records.push(*index),
                }
            }
        }
        let columns = in_log_order(&self.reader.arrow, &batches, &mut records).unwrap_or_else(|reason| {
            faults.extend(records.drain(..).map(|index| (index, Fault::new(code::BAD_VALUE, NOWHERE, &*reason))));
            RecordBatch::new_empty(self.reader.arrow.clone())
        });
        faults.sort_by_key(|(index, _)| *index);
        let rejects = faults.into_iter().map(|(index, fault)| reject_fault(raw, index, fault)).collect();
        Decoded { columns, records, rejects }
    }

    /// Cuts the frame, finds the writer, walks the datum. Offsets of faults count from the payload's first byte.
    fn walk<'a>(&mut self, payload: &'a [u8]) -> Result<(SchemaKey, &'a [u8]), Fault> {
        let (key, start) = self.cut(payload)?;
        if !self.writers.contains_key(&key) {
            let writer = self.find(key)?;
            self.writers.insert(key, writer);
        }
        match &self.writers[&key] {
            Ok(readable) => match walk::walk(&readable.schema, &payload[start..]) {
                Ok(()) => Ok((key, &payload[start..])),
                Err(fault) => Err(Fault { offset: fault.offset + start, ..fault }),
            },
            Err((code, reason)) => Err(Fault::new(code, NOWHERE, reason.as_str())),
        }
    }

    /// A writer that has not been met. What may still change (a missing schema) is a fault now and asked again later.
    fn find(&self, key: SchemaKey) -> Result<Writer, Fault> {
        let json = match self.schemas.lookup(key) {
            Lookup::Known(json) => json,
            Lookup::Unusable(why) => return Err(Fault::new(code::UNSUPPORTED_SCHEMA, NOWHERE, &*why)),
            Lookup::Missing => {
                let reason = format!("{key} does not exist where the source's schemas come from");
                return Err(Fault::new(code::UNKNOWN_SCHEMA_ID, NOWHERE, reason));
            }
            Lookup::Unknown => {
                let reason = format!("{key} was not fetched before the batch was decoded; replay it");
                return Err(Fault::new(code::UNKNOWN_SCHEMA_ID, NOWHERE, reason));
            }
        };
        let schema = match Schema::parse(&json) {
            Ok(schema) => schema,
            Err(error) => return Ok(Err((code::UNSUPPORTED_SCHEMA, format!("{key}: {error}")))),
        };
        Ok(match Bulk::new(&schema, &self.reader) {
            Ok(bulk) => Ok(Box::new(Readable { schema, bulk })),
            Err(reason) => Err((code::SCHEMA_MISMATCH, format!("{key}: {reason}"))),
        })
    }
}

/// The offset of a fault that has no place in the payload.
const NOWHERE: usize = usize::MAX;

fn reject_fault(raw: &RawBatch, index: u32, fault: Fault) -> Reject {
    let byte_offset = (fault.offset != NOWHERE).then_some(fault.offset as u32);
    reject(raw, &raw.records[index as usize], fault.code, fault.reason, byte_offset)
}

/// A record that cannot become an event, with all that is known of it.
pub fn reject(raw: &RawBatch, record: &RawRecord, code: &str, reason: String, byte_offset: Option<u32>) -> Reject {
    Reject {
        position: raw.position(record),
        timestamp: record.timestamp,
        code: code.to_string(),
        reason,
        byte_offset,
        payload: raw.payload(record).to_vec(),
    }
}

/// Joins the batches of the writers; `records` names their rows and ends up ascending.
fn in_log_order(schema: &SchemaRef, batches: &[RecordBatch], records: &mut [u32]) -> Result<RecordBatch, String> {
    let joined = match batches {
        [] => RecordBatch::new_empty(schema.clone()),
        [one] => one.clone(),
        several => concat_batches(schema, several).map_err(|error| error.to_string())?,
    };
    if joined.num_rows() != records.len() {
        return Err(format!("{} rows for {} records", joined.num_rows(), records.len()));
    }
    if records.is_sorted() {
        return Ok(joined);
    }
    let mut order: Vec<u32> = (0..records.len() as u32).collect();
    order.sort_unstable_by_key(|row| records[*row as usize]);
    let ordered = take_record_batch(&joined, &UInt32Array::from(order)).map_err(|error| error.to_string())?;
    records.sort_unstable();
    Ok(ordered)
}

#[cfg(test)]
mod tests;
