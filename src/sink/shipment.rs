//! Inserts exactly once into a server that may lose an answer, take an insert after its client has given up, or be asked to
//! take the same rows by two processes (SEMANTICS §8).
//!
//! Each table's rows of a range go out under a token of their own, which the server takes once. Where the fate of a range is
//! unknown, an insert that may still run is killed, and the rows of these commits are counted before anything is sent again.
//! Neither is enough alone: an insert that timed out can commit after a probe, and tokens are forgotten.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::{CommitRange, SinkError, Table};
use crate::failpoint::{self, Point};

/// One table's rows of one range: what names it to the server.
#[derive(Debug, Clone)]
pub struct Shipment {
    pub table: String,
    pub range: CommitRange,
    /// The server takes it once.
    pub token: String,
    pub query_id: String,
}

impl Shipment {
    pub fn of(pipeline: &str, generation: &str, table: &str, range: CommitRange) -> Shipment {
        let mut hash = Sha256::new();
        for part in [pipeline, generation, table, &range.after.to_string(), &range.upto.to_string()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let token = hash.finalize().iter().take(16).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let query_id = format!("tributary-{table}-{}-{}-{token}", range.after, range.upto);
        Shipment { table: table.to_string(), range, token, query_id }
    }
}

impl std::fmt::Display for Shipment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "insert into {}, commits {} to {}", self.table, self.range.after + 1, self.range.upto)
    }
}

/// A server that takes inserts.
#[async_trait]
pub trait Inserts: Send + Sync {
    /// Ends an earlier insert of the same rows that may still run. It may be refused (no permission, another
    /// replica): then the token alone guards against an insert that commits after the probe.
    async fn kill(&self, shipment: &Shipment);

    /// Rows that the table holds of the range's commits.
    async fn count(&self, shipment: &Shipment) -> Result<u64, SinkError>;

    async fn insert(&self, shipment: &Shipment, batch: &RecordBatch) -> Result<(), SinkError>;
}

/// Ships the ranges of one state, one after the other.
#[derive(Debug)]
pub struct Shipping {
    pipeline: String,
    generation: String,
    /// Whether the next range may have been sent before: true at the start and after anything but success.
    pub(super) uncertain: bool,
}

impl Shipping {
    pub fn new(pipeline: &str, generation: &str) -> Shipping {
        Shipping { pipeline: pipeline.to_string(), generation: generation.to_string(), uncertain: true }
    }

    /// See [`TableSink::ship`](super::TableSink::ship).
    ///
    /// # Errors
    /// The server's; `Fatal` where it holds more rows of these commits than were sealed.
    pub async fn ship(
        &mut self,
        server: &dyn Inserts,
        range: CommitRange,
        rows: &[(Table, RecordBatch)],
    ) -> Result<(), SinkError> {
        // Until all is well, and also when this future is dropped on the way: the next call must probe.
        let uncertain = std::mem::replace(&mut self.uncertain, true);
        for (table, batch) in rows.iter().filter(|(_, batch)| batch.num_rows() > 0) {
            let shipment = Shipment::of(&self.pipeline, &self.generation, &table.name, range);
            ship_table(server, &shipment, batch, uncertain).await?;
        }
        self.uncertain = false;
        Ok(())
    }
}

async fn ship_table(
    server: &dyn Inserts,
    shipment: &Shipment,
    batch: &RecordBatch,
    uncertain: bool,
) -> Result<(), SinkError> {
    if uncertain {
        server.kill(shipment).await;
        if is_there(server, shipment, batch.num_rows()).await? {
            return Ok(());
        }
        failpoint::pass(Point::Probed);
    }
    failpoint::fail(Point::BeforeInsert).map_err(SinkError::Retry)?;
    server.insert(shipment, batch).await?;
    failpoint::pass(Point::Inserted);
    // A token can be spent while its rows are not there: someone removed them by hand. Say so instead of going on.
    if uncertain && !is_there(server, shipment, batch.num_rows()).await? {
        return Err(SinkError::Retry(format!(
            "{shipment}: acknowledged, but the table holds fewer than the {} rows sent; were rows removed by hand? they come \
             back once the server has forgotten token {}",
            batch.num_rows(),
            shipment.token
        )));
    }
    Ok(())
}

/// Whether all rows of the range are in the table.
async fn is_there(server: &dyn Inserts, shipment: &Shipment, sealed: usize) -> Result<bool, SinkError> {
    let count = server.count(shipment).await?;
    if count > sealed as u64 {
        return Err(SinkError::Fatal(format!(
            "table {}: holds {count} rows of commits {} to {} although only {sealed} were made; another writer uses this \
             table, or rows were copied: find them by _batch and _seq, remove them, start again",
            shipment.table,
            shipment.range.after + 1,
            shipment.range.upto
        )));
    }
    Ok(count == sealed as u64)
}
