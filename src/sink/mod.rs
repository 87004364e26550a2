//! Sinks: where sealed output goes after its commit is durable. Table sinks (ClickHouse, the lake) ship ranges of
//! commits; destinations (webhook, Kafka, file, mail, connectors) send deliveries one by one or several at once.

pub mod clickhouse;
pub mod connector;
pub mod delivery;
pub mod email;
pub mod file;
pub mod guard;
pub mod http;
pub mod kafka;
pub mod lake;
pub mod shipment;
pub mod tables;
pub mod template;
pub mod views;
pub mod webhook;

use arrow::array::RecordBatch;
use async_trait::async_trait;

pub use delivery::{Attempt, AttemptOutcome, DeadLetter, Destination, Outcome, Queued};
pub use tables::Table;

/// The commits `(after, upto]` of one shipment. Sealed before it is first sent, so that a repeat is identical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommitRange {
    pub after: u64,
    pub upto: u64,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// The other side is at fault or away: back off, keep everything, try the same bytes again.
    #[error("{0}")]
    Retry(String),
    /// It can never work as it is (a table of another shape, no permission): a human must act.
    #[error("{0}")]
    Fatal(String),
}

/// A sink for tables. One `ship` call at a time; ranges come in order and may be repeated.
#[async_trait]
pub trait TableSink: Send + Sync + 'static {
    /// Makes tables and views exist in the shape of these definitions. Idempotent.
    async fn prepare(&mut self, tables: &[Table]) -> Result<(), SinkError>;

    /// Writes the rows of a range, for each table one batch (`_batch` of every row is in the range). Exactly once:
    /// when this was called before with the same range and its fate is unknown, what is there already is not
    /// written again. Returns only when the rows are safe.
    async fn ship(&mut self, range: CommitRange, rows: &[(Table, RecordBatch)]) -> Result<(), SinkError>;

    /// Work between shipments: compaction, removal of replaced files.
    async fn maintain(&mut self) -> Result<(), SinkError>;
}
