//! Sources: where raw records come from, with positions to go on from.

pub mod file;
pub mod kafka;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::RawBatch;

/// Where a source goes on: (topic or path, partition) → next offset or row. Absent: from its `start`.
pub type Positions = BTreeMap<(String, i32), i64>;

/// What a source reads from.
#[derive(Debug, Clone)]
pub enum SourcePlan {
    Kafka(KafkaPlan),
    File(FilePlan),
}

#[derive(Debug, Clone)]
pub struct KafkaPlan {
    pub name: Arc<str>,
    pub brokers: String,
    pub topics: Vec<String>,
    pub start: Start,
    /// Passed to librdkafka as they are (`security.protocol`, `sasl.username`, …).
    pub settings: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
}

#[derive(Debug, Clone)]
pub struct FilePlan {
    pub name: Arc<str>,
    /// A file, a folder (all its files of the format's endings) or a glob.
    pub path: String,
    /// What a relative `path` is relative to: the pipeline's folder.
    pub base: PathBuf,
    pub format: FileFormat,
}

/// How a file is cut into records. Each record's payload is self-contained, so that a reject can be replayed
/// without the file: a CSV row becomes a JSON object of strings by header name; a datum of an Avro container
/// becomes single-object encoding, its schema being handed to `decode::registry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFormat {
    Ndjson,
    Csv { delimiter: u8 },
    Avro,
}

/// What a source tells the engine.
#[derive(Debug)]
pub enum SourceEvent {
    Records(RawBatch),
    /// Rows that could not even be cut into a record (a CSV row with too few fields, a broken container block).
    Rejects(Vec<crate::event::Reject>),
    /// All partitions have been read to their end as of now; said again after further records.
    CaughtUp,
    /// Records between the position and the end, over all partitions; at most once a second.
    Lag(i64),
    /// The source cannot go on and a human must decide (a position that retention has passed, a topic that
    /// is gone): stop loudly.
    Fatal(String),
    /// The other side is away; the source goes on trying by itself.
    Unavailable(String),
}
