//! Inserts exactly once into a server that may lose an answer, take an insert after its client has given up, or be asked to
//! take the same rows by two processes (SEMANTICS §8).
//!
//! Each table's rows of a range go out under a token of their own, which the server takes once. Where the fate of a range is
//! unknown, an insert that may still run is killed, and the rows of these commits are counted before anything is sent again.
//! Neither is enough alone: an insert that timed out can commit after a probe, and tokens are forgotten.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use sha2::{Digest, Sha256};

use super::{CommitRange, SinkError, Table};
use crate::failpoint::{self, Point};

/// Inserts of a range that are under way at once. Most of an insert is waiting for the server's disk.
const AT_ONCE: usize = 8;

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

    /// All rows are there, of an insert whose fate was unknown: makes good what the server may not have made of them.
    async fn settle(&self, _shipment: &Shipment) -> Result<(), SinkError> {
        Ok(())
    }
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
        let mut inserts = Vec::with_capacity(rows.len());
        for (table, batch) in rows.iter().filter(|(_, batch)| batch.num_rows() > 0) {
            let shipment = Shipment::of(&self.pipeline, &self.generation, &table.name, range);
            inserts.push(async move { ship_table(server, &shipment, batch, uncertain).await });
        }
        // To the end of all: an insert that is let go of would be of unknown fate.
        let ended: Vec<Result<(), SinkError>> = stream::iter(inserts).buffer_unordered(AT_ONCE).collect().await;
        let (fatal, others): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|result| matches!(result, Err(SinkError::Fatal(_))));
        fatal.into_iter().chain(others).collect::<Result<(), SinkError>>()?;
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
            return server.settle(shipment).await;
        }
        failpoint::pass(Point::Probed);
    }
    failpoint::fail(Point::BeforeInsert).map_err(SinkError::Retry)?;
    server.insert(shipment, batch).await?;
    failpoint::pass(Point::Inserted);
    if !uncertain {
        return Ok(());
    }
    // A token can be spent while its rows are not there: someone removed them by hand. Say so instead of going on.
    if !is_there(server, shipment, batch.num_rows()).await? {
        return Err(SinkError::Retry(format!(
            "{shipment}: acknowledged, but the table holds fewer than the {} rows sent; were rows removed by hand? they come \
             back once the server has forgotten token {}",
            batch.num_rows(),
            shipment.token
        )));
    }
    server.settle(shipment).await
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use arrow::array::{ArrayRef, UInt64Array};
    use tokio::sync::Barrier;

    use super::*;
    use crate::sink::tables::TableKind;

    /// Takes an insert only while as many others are under way; refuses one table once.
    struct Server {
        together: Barrier,
        refuses: Mutex<Option<&'static str>>,
        rows: Mutex<BTreeMap<String, u64>>,
        probes: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Inserts for Server {
        async fn kill(&self, _: &Shipment) {}

        async fn count(&self, shipment: &Shipment) -> Result<u64, SinkError> {
            self.probes.lock().unwrap().push(shipment.table.clone());
            Ok(self.rows.lock().unwrap().get(&shipment.table).copied().unwrap_or(0))
        }

        async fn insert(&self, shipment: &Shipment, batch: &RecordBatch) -> Result<(), SinkError> {
            let refused = self.refuses.lock().unwrap().take_if(|table| *table == shipment.table);
            self.together.wait().await;
            if refused.is_some() {
                return Err(SinkError::Retry("refused".to_string()));
            }
            *self.rows.lock().unwrap().entry(shipment.table.clone()).or_default() += batch.num_rows() as u64;
            Ok(())
        }
    }

    fn rows(table: &str, rows: u64) -> (Table, RecordBatch) {
        let column: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("_batch", column)]).unwrap();
        (Table { name: table.to_string(), kind: TableKind::Aggregate, schema: batch.schema() }, batch)
    }

    #[tokio::test]
    async fn the_tables_of_a_range_go_out_beside_each_other_and_each_exactly_once() {
        let server = Server {
            together: Barrier::new(3),
            refuses: Mutex::new(Some("b")),
            rows: Mutex::default(),
            probes: Mutex::default(),
        };
        let mut shipping = Shipping { uncertain: false, ..Shipping::new("p", "g") };
        let (first, second) = (CommitRange { after: 0, upto: 1 }, CommitRange { after: 1, upto: 2 });
        let all = [rows("a", 1), rows("b", 2), rows("c", 3), rows("empty", 0)];
        let there =
            |counts: [u64; 3]| ["a", "b", "c"].map(String::from).into_iter().zip(counts).collect::<BTreeMap<_, _>>();

        assert!(matches!(shipping.ship(&server, first, &all).await, Err(SinkError::Retry(_))));
        // The others came to their end.
        let others: BTreeMap<String, u64> = there([1, 0, 3]).into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!((&*server.rows.lock().unwrap(), server.probes.lock().unwrap().len()), (&others, 0));

        // What is there is not sent again; of the one that is, two others have to be thought of at the barrier.
        let (done, (), ()) = tokio::join!(shipping.ship(&server, first, &all), wait(&server), wait(&server));
        done.unwrap();
        assert_eq!(*server.rows.lock().unwrap(), there([1, 2, 3]));
        server.probes.lock().unwrap().clear();

        shipping.ship(&server, second, &all).await.unwrap();
        assert_eq!(*server.rows.lock().unwrap(), there([2, 4, 6]));
        assert!(server.probes.lock().unwrap().is_empty(), "nothing is in doubt");
    }

    async fn wait(server: &Server) {
        server.together.wait().await;
    }
}
