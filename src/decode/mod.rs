//! Decode: bytes to columns. Untrusted bytes are walked first, which yields an exact reason and byte offset for
//! a bad record; what passed is decoded in bulk into Arrow.

use std::path::PathBuf;
use std::sync::Arc;

use crate::event::ValueType;

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
