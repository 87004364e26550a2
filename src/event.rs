//! What travels: raw records with their positions, and events as columns.
//!
//! An [`EventBatch`] is one Arrow `RecordBatch` whose first [`column::COUNT`] columns are the envelope
//! and whose further columns are *fields*: typed values taken out of the JSON of `properties`, `traits`
//! and `context` because some definition reads them. There is no heap object per event.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field as ArrowField, Fields, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};

/// Microseconds since the epoch, UTC.
pub type TimeUs = i64;

/// Where a record came from. For Kafka: topic, partition, offset. For files: path, 0, row (from 1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    pub source: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}@{}", self.source, self.topic, self.partition, self.offset)
    }
}

/// Raw records of one source, in log order, their bytes side by side.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// The source's name in the definitions.
    pub source: Arc<str>,
    /// The topics or file paths that `RawRecord::topic` points into.
    pub topics: Vec<Arc<str>>,
    pub bytes: Vec<u8>,
    pub records: Vec<RawRecord>,
}

/// One raw record: a range of [`RawBatch::bytes`] and its position.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord {
    pub start: u32,
    pub end: u32,
    /// Index into [`RawBatch::topics`].
    pub topic: u16,
    pub partition: i32,
    pub offset: i64,
    /// The broker's timestamp; for files the time of reading.
    pub timestamp: TimeUs,
}

impl RawBatch {
    pub fn new(source: Arc<str>) -> Self {
        RawBatch { source, topics: Vec::new(), bytes: Vec::new(), records: Vec::new() }
    }

    /// Appends a record, interning its topic.
    pub fn push(&mut self, topic: &Arc<str>, partition: i32, offset: i64, timestamp: TimeUs, payload: &[u8]) {
        let known = self.topics.iter().rposition(|t| Arc::ptr_eq(t, topic) || t == topic);
        let index = known.unwrap_or_else(|| {
            self.topics.push(topic.clone());
            self.topics.len() - 1
        });
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(payload);
        let end = self.bytes.len() as u32;
        self.records.push(RawRecord { start, end, topic: index as u16, partition, offset, timestamp });
    }

    pub fn payload(&self, record: &RawRecord) -> &[u8] {
        &self.bytes[record.start as usize..record.end as usize]
    }

    pub fn position(&self, record: &RawRecord) -> Position {
        Position {
            source: self.source.clone(),
            topic: self.topics[record.topic as usize].clone(),
            partition: record.partition,
            offset: record.offset,
        }
    }
}

/// Input that cannot become an event: kept with its reason, never dropped, never stops the stream.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Reject {
    pub position: Position,
    pub timestamp: TimeUs,
    /// A short, stable code: `truncated`, `unknown_schema_id`, `contract`, …
    pub code: String,
    /// What happened, for people; names the field and the byte offset where there is one.
    pub reason: String,
    /// Byte offset into the payload, where one is known.
    pub byte_offset: Option<u32>,
    pub payload: Vec<u8>,
}

/// The envelope's columns, in order. Times are UTC microseconds.
pub mod column {
    pub const MESSAGE_ID: usize = 0;
    pub const TYPE: usize = 1;
    pub const EVENT: usize = 2;
    pub const USER_ID: usize = 3;
    pub const ANONYMOUS_ID: usize = 4;
    pub const GROUP_ID: usize = 5;
    pub const PREVIOUS_ID: usize = 6;
    /// Further identifiers by type: `Map<Utf8, Utf8>`.
    pub const IDENTIFIERS: usize = 7;
    pub const TIMESTAMP: usize = 8;
    pub const SENT_AT: usize = 9;
    pub const RECEIVED_AT: usize = 10;
    /// JSON text of an object, or null. Kept to the letter: numbers and nulls as they came.
    pub const PROPERTIES: usize = 11;
    pub const TRAITS: usize = 12;
    pub const CONTEXT: usize = 13;
    /// What `enrich` added: JSON object by the step's `as` name, or null.
    pub const ENRICHED: usize = 14;
    pub const SOURCE: usize = 15;
    pub const TOPIC: usize = 16;
    pub const PARTITION: usize = 17;
    pub const OFFSET: usize = 18;
    /// 0 for the event itself, n for the n-th row that `unnest` made of it.
    pub const INDEX: usize = 19;
    /// Comma-separated remarks: `contract`, `clamped`, `no_identifier`, …; null when there is none.
    pub const FLAGS: usize = 20;
    pub const COUNT: usize = 21;
}

pub const NAMES: [&str; column::COUNT] = [
    "message_id",
    "type",
    "event",
    "user_id",
    "anonymous_id",
    "group_id",
    "previous_id",
    "identifiers",
    "timestamp",
    "sent_at",
    "received_at",
    "properties",
    "traits",
    "context",
    "enriched",
    "source",
    "topic",
    "partition",
    "offset",
    "index",
    "flags",
];

pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// `Map<Utf8, Utf8>` with arrow's own field names, so that `MapBuilder::new(None, …)` yields it.
pub fn identifiers_type() -> DataType {
    let entries = Fields::from(vec![
        ArrowField::new("keys", DataType::Utf8, false),
        ArrowField::new("values", DataType::Utf8, true),
    ]);
    DataType::Map(Arc::new(ArrowField::new("entries", DataType::Struct(entries), false)), false)
}

/// The envelope alone, without field columns.
pub fn envelope_schema() -> SchemaRef {
    static SCHEMA: std::sync::OnceLock<SchemaRef> = std::sync::OnceLock::new();
    SCHEMA
        .get_or_init(|| {
            let fields = NAMES.iter().enumerate().map(|(index, name)| {
                let data_type = match index {
                    column::IDENTIFIERS => identifiers_type(),
                    column::TIMESTAMP | column::SENT_AT | column::RECEIVED_AT => time_type(),
                    column::PARTITION | column::INDEX => DataType::Int32,
                    column::OFFSET => DataType::Int64,
                    _ => DataType::Utf8,
                };
                let required = matches!(
                    index,
                    column::MESSAGE_ID
                        | column::TYPE
                        | column::TIMESTAMP
                        | column::RECEIVED_AT
                        | column::SOURCE
                        | column::TOPIC
                        | column::PARTITION
                        | column::OFFSET
                        | column::INDEX
                );
                ArrowField::new(*name, data_type, !required)
            });
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        })
        .clone()
}

/// The JSON columns that a field can be taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    Properties,
    Traits,
    Context,
    /// Added by `enrich`; its paths start with the step's `as` name and are written without a root.
    Enriched,
}

impl Root {
    pub fn column(self) -> usize {
        match self {
            Root::Properties => column::PROPERTIES,
            Root::Traits => column::TRAITS,
            Root::Context => column::CONTEXT,
            Root::Enriched => column::ENRICHED,
        }
    }
}

/// The types a field, trait or expression can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    String,
    Long,
    Double,
    Boolean,
    Timestamp,
    /// Any JSON value as its text: objects, arrays, and values of no known type.
    Json,
}

impl ValueType {
    pub fn arrow(self) -> DataType {
        match self {
            ValueType::String | ValueType::Json => DataType::Utf8,
            ValueType::Long => DataType::Int64,
            ValueType::Double => DataType::Float64,
            ValueType::Boolean => DataType::Boolean,
            ValueType::Timestamp => time_type(),
        }
    }
}

/// A typed value taken out of the JSON of an event, as a column of the batch.
///
/// A value of another JSON type than `value_type` is null in the column (a contract, where there is one,
/// has already rejected the event); a whole number is accepted for `Double`, an RFC 3339 text or epoch
/// milliseconds for `Timestamp`, and a number or boolean for `String` by its JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Field {
    pub root: Root,
    pub path: Vec<String>,
    pub value_type: ValueType,
    /// Instead of the value: a boolean column, true where the path is present, be it null
    /// (a null in a trait update deletes).
    pub presence: bool,
}

impl Field {
    /// The column's name: the path as the user wrote it, the type, and `?` for presence:
    /// `properties.total:double`, `traits.email:string`, `traits.email?`.
    pub fn column_name(&self) -> String {
        let root = match self.root {
            Root::Properties => "properties.",
            Root::Traits => "traits.",
            Root::Context => "context.",
            Root::Enriched => "",
        };
        let path = self.path.join(".");
        if self.presence {
            return format!("{root}{path}?");
        }
        let value_type = match self.value_type {
            ValueType::String => "string",
            ValueType::Long => "long",
            ValueType::Double => "double",
            ValueType::Boolean => "boolean",
            ValueType::Timestamp => "timestamp",
            ValueType::Json => "json",
        };
        format!("{root}{path}:{value_type}")
    }

    pub fn arrow(&self) -> ArrowField {
        let data_type = if self.presence { DataType::Boolean } else { self.value_type.arrow() };
        ArrowField::new(self.column_name(), data_type, true)
    }
}

/// The envelope and these fields: the schema of the batches that the stages see.
pub fn schema_with(fields: &[Field]) -> SchemaRef {
    let mut all: Vec<Arc<ArrowField>> = envelope_schema().fields().iter().cloned().collect();
    all.extend(fields.iter().map(|field| Arc::new(field.arrow())));
    Arc::new(Schema::new(all))
}

/// Events in log order. Invariant: the first [`column::COUNT`] columns are the envelope's.
#[derive(Debug, Clone)]
pub struct EventBatch {
    pub batch: RecordBatch,
}

impl EventBatch {
    pub fn empty(fields: &[Field]) -> Self {
        EventBatch { batch: RecordBatch::new_empty(schema_with(fields)) }
    }

    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A `Utf8` column of the envelope. Panics for a column of another type: a programming error.
    pub fn strings(&self, index: usize) -> &StringArray {
        self.batch.column(index).as_string::<i32>()
    }

    pub fn times(&self, index: usize) -> &TimestampMicrosecondArray {
        self.batch.column(index).as_primitive::<TimestampMicrosecondType>()
    }

    pub fn text(&self, index: usize, row: usize) -> Option<&str> {
        let strings = self.strings(index);
        (!strings.is_null(row)).then(|| strings.value(row))
    }
}

/// A profile's public id: 128 bits, written as 32 hex digits. See `identity` for how it is made.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ProfileId(pub [u8; 16]);

impl std::fmt::Display for ProfileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ProfileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for ProfileId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(());
        }
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| ())?;
        }
        Ok(ProfileId(bytes))
    }
}

/// A profile's internal number: what state is keyed by. Never shown, never compared across runs.
pub type ProfileNumber = u64;
