//! Decode: bytes to columns. Untrusted bytes are walked first, which yields an exact reason and byte offset for
//! a bad record; what passed is decoded in bulk into Arrow.

pub mod contract;
pub mod json;
pub mod json_text;
pub mod time;

pub mod csv;
mod json_contract;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::event::{RawBatch, RawRecord, Reject, ValueType};

/// The rows that could be read, in the source's own columns, in log order.
pub struct Decoded {
    pub columns: RecordBatch,
    /// Row to index into `RawBatch::records`.
    pub records: Vec<u32>,
    pub rejects: Vec<Reject>,
}

/// Why a source's payloads cannot be decoded at all.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The schema or the declared columns are at fault.
    #[error("{0}")]
    Schema(String),
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
    /// (`order-1.avsc` is 1).
    Folder(PathBuf),
    /// One schema, as JSON.
    Fixed(String),
}
