//! Sources: where raw records come from, with positions to go on from.
//!
//! 1. [`spawn`] checks the plan and starts the source's threads at the positions that the state holds;
//! 2. the threads cut what they read into records, collect them into batches and send [`SourceEvent`]s through a
//!    short channel, so that an engine that is behind holds the source back;
//! 3. whoever drops the [`SourceHandle`] stops the source.
//!
//! Within one (topic, partition) records and rejects come in log order, each position once: the engine may take
//! the last one it saw, plus one, as the next position.

pub mod file;
pub mod kafka;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::decode::registry::Schemas;
use crate::event::{RawBatch, TimeUs};
use crate::kafka::SettingsError;

/// Where a source goes on, by (topic or path, partition). Absent: from its `start`.
pub type Positions = BTreeMap<(String, i32), Next>;

/// The next record of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Next {
    /// Offset, or row of a file.
    pub offset: i64,
    /// The [`mark`] of the record before it, by which a topic that was made anew is told; None where none was read.
    pub after: Option<u64>,
}

impl Next {
    pub const VERSION: u8 = 2;

    /// Nothing is known of the record before it.
    pub fn at(offset: i64) -> Next {
        Next { offset, after: None }
    }
}

/// What a record is known again by: a hash of its payload and the broker's timestamp.
pub fn mark(timestamp: TimeUs, payload: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(payload, timestamp as u64)
}

/// What a source reads from.
#[derive(Debug, Clone)]
pub enum SourcePlan {
    Kafka(KafkaPlan),
    File(FilePlan),
}

impl SourcePlan {
    pub fn name(&self) -> &Arc<str> {
        match self {
            SourcePlan::Kafka(plan) => &plan.name,
            SourcePlan::File(plan) => &plan.name,
        }
    }

    pub fn is_file(&self) -> bool {
        matches!(self, SourcePlan::File(_))
    }
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
    /// Where partitions without a position begin (`start: latest`, new partitions). To be stored with the next
    /// commit, so that a restart goes on from there even when no record has come in between.
    Assigned(Positions),
    /// This partition of a topic has records that are still to be read; said before the first of them.
    Behind(Arc<str>, i32),
    /// These partitions of a topic have been read to their end as of now.
    AtEnd(Arc<str>, Vec<i32>),
    /// All partitions have been read to their end as of now; said again after further records.
    /// With [`ReadLimits::until_end`] it is said again and again until the source is stopped.
    CaughtUp,
    /// Records between the position and the end, over all partitions; at most once a second.
    Lag(i64),
    /// The source cannot go on and a human must decide (a position that retention has passed, a topic that
    /// is gone): stop loudly.
    Fatal(String),
    /// The other side is away; the source goes on trying by itself.
    Unavailable(String),
}

/// How much a batch may hold, and when reading ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Records of a batch, at most.
    pub max_records: usize,
    /// Bytes of a batch; one record may go beyond it.
    pub max_bytes: usize,
    /// How long a batch waits for more, from its first record.
    pub linger: Duration,
    /// Read to the end as it was at the start, then say `CaughtUp` until stopped.
    pub until_end: bool,
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits { max_records: 50_000, max_bytes: 32 << 20, linger: Duration::from_millis(5), until_end: false }
    }
}

/// Why a source cannot start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    #[error("source {source_name}: {error}")]
    Settings { source_name: Arc<str>, error: SettingsError },
    /// The path leads to nothing.
    #[error("source {source_name}: {path} does not exist{nearby}")]
    Missing {
        source_name: Arc<str>,
        path: String,
        /// Empty, or what there is instead, as the end of the sentence.
        nearby: String,
    },
    #[error("source {source_name}: {path}: {reason}")]
    Path { source_name: Arc<str>, path: String, reason: String },
    #[error("source {source_name}: its thread cannot be started: {reason}")]
    Thread { source_name: Arc<str>, reason: String },
}

/// A running source.
#[derive(Debug)]
pub struct SourceHandle {
    pub name: Arc<str>,
    pub events: mpsc::Receiver<SourceEvent>,
    pub control: SourceControl,
}

impl SourceHandle {
    /// A source that sends from elsewhere, such as memory: it ends when its sender finds the channel closed.
    pub fn of(name: Arc<str>, events: mpsc::Receiver<SourceEvent>) -> SourceHandle {
        SourceHandle { name, events, control: SourceControl { shared: Arc::default() } }
    }
}

/// Stops the source when dropped.
#[derive(Debug)]
pub struct SourceControl {
    shared: Arc<Shared>,
}

/// What the owner of a handle and the source's threads share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Positions to show as committed; see [`SourceControl::show_committed`].
    committed: Mutex<Arc<Positions>>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn committed(&self) -> Arc<Positions> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SourceControl {
    /// Asks the threads to end; they do within a fraction of a second, or when the channel is next read or dropped.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Has the source commit these next positions to the consumer group, within about a second. They serve tools
    /// that show lag and are never read back.
    pub fn show_committed(&self, positions: Positions) {
        *self.shared.committed.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(positions);
    }
}

impl Drop for SourceControl {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Batches that may wait between a source and the engine. One: what comes while it waits is in the next batch, so that batches
/// grow with the load and an event waits behind few of them.
const EVENTS_WAITING_MAX: usize = 1;

/// Starts a source at the given positions. `schemas` are those that the source's records will be decoded with: a
/// file source registers the schemas of its Avro containers there; other sources need none.
///
/// # Errors
/// What is wrong with the plan itself: settings, a file that is missing. A broker that is away is not an error here
/// but a [`SourceEvent::Unavailable`].
pub fn spawn(
    plan: &SourcePlan,
    positions: Positions,
    limits: ReadLimits,
    schemas: Option<Arc<Schemas>>,
) -> Result<SourceHandle, SourceError> {
    let shared = Arc::new(Shared::default());
    let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let control = SourceControl { shared: shared.clone() };
    let name = match plan {
        SourcePlan::Kafka(plan) => {
            kafka::start(plan, positions, limits, sender, shared)?;
            &plan.name
        }
        SourcePlan::File(plan) => {
            file::start(plan, positions, limits, schemas, sender, shared)?;
            &plan.name
        }
    };
    Ok(SourceHandle { name: name.clone(), events, control })
}

fn start_thread(source: &Arc<str>, body: impl FnOnce() + Send + 'static) -> Result<(), SourceError> {
    let started = std::thread::Builder::new().name(format!("source-{source}")).spawn(body);
    started.map(|_| ()).map_err(|error| SourceError::Thread { source_name: source.clone(), reason: error.to_string() })
}
