//! The server behind the table sink. Like ClickHouse it remembers the tokens of inserts, finishes what it has begun when
//! the client is gone, and refuses a second query of a running one's id. The client's protocol is the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, UInt32Array, UInt64Array, new_null_array};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{FieldRef, Schema, SchemaRef, TimestampMicrosecondType, UInt32Type, UInt64Type};
use async_trait::async_trait;
use tributary::clock::{self, simulated};
use tributary::engine::history::{History, HistoryError, HistoryFilter};
use tributary::sink::shipment::{Inserts, Shipment, Shipping};
use tributary::sink::{CommitRange, SinkError, Table, TableSink};

use super::check::text;
use super::faults::Fault;
use super::{Instance, millis};

/// As the client's: an insert that takes longer is given up.
const TIMEOUT_MS: u64 = 330_000;

#[derive(Debug, Default)]
pub struct Server {
    pub tables: BTreeMap<String, Vec<RecordBatch>>,
    /// Table, token, part: each is taken once.
    taken: BTreeSet<(String, String, u32)>,
    running: Vec<Running>,
}

/// An insert that the server has got whole and not finished.
#[derive(Debug)]
struct Running {
    /// On the clock that never jumps.
    done_at_us: i64,
    shipment: Shipment,
    batch: RecordBatch,
}

impl Server {
    /// Finishes what is done by now.
    pub fn settle(&mut self, now_us: i64) {
        let (done, running) =
            std::mem::take(&mut self.running).into_iter().partition(|insert| insert.done_at_us <= now_us);
        self.running = running;
        let done: Vec<Running> = done;
        for insert in done {
            self.take(&insert.shipment, &insert.batch, 0..PARTS);
        }
    }

    /// Writes parts of an insert, each at once and only the first time.
    fn take(&mut self, shipment: &Shipment, batch: &RecordBatch, parts: std::ops::Range<u32>) {
        for part in parts {
            if self.taken.insert((shipment.table.clone(), shipment.token.clone(), part)) {
                let seq = batch.column_by_name("_seq").expect("_seq").as_primitive::<UInt32Type>();
                let mine: BooleanArray = seq.values().iter().map(|seq| Some(seq % PARTS == part)).collect();
                let rows = filter_record_batch(batch, &mine).expect("rows");
                self.tables.entry(shipment.table.clone()).or_default().push(rows);
            }
        }
    }

    fn count(&self, shipment: &Shipment) -> u64 {
        let inside = |batch: &u64| *batch > shipment.range.after && *batch <= shipment.range.upto;
        let parts = self.tables.get(&shipment.table).into_iter().flatten();
        parts.map(|rows| batches(rows).values().iter().filter(|batch| inside(batch)).count() as u64).sum()
    }
}

/// An insert is written in so many parts.
const PARTS: u32 = 2;

fn batches(rows: &RecordBatch) -> &UInt64Array {
    rows.column_by_name("_batch").expect("_batch").as_primitive::<UInt64Type>()
}

/// The server as one instance reaches it.
#[derive(Clone)]
struct Connection(Instance);

fn later<T>(problem: &str) -> Result<T, SinkError> {
    Err(SinkError::Retry(problem.to_string()))
}

#[async_trait]
impl Inserts for Connection {
    async fn kill(&self, shipment: &Shipment) {
        self.0.reach("kill").await;
        if !self.0.strikes(Fault::KillRefused) {
            self.0.world().server.running.retain(|insert| insert.shipment.query_id != shipment.query_id);
        }
    }

    async fn count(&self, shipment: &Shipment) -> Result<u64, SinkError> {
        self.0.reach("count").await;
        if self.0.strikes(Fault::CountFails) {
            return later("count: the connection was reset");
        }
        let mut world = self.0.world();
        world.server.settle(simulated::elapsed_us());
        Ok(world.server.count(shipment))
    }

    async fn insert(&self, shipment: &Shipment, batch: &RecordBatch) -> Result<(), SinkError> {
        let here = &self.0;
        here.reach("insert").await;
        if here.strikes(Fault::InsertRefused) {
            return later("insert: 503");
        }
        if here.strikes(Fault::InsertHangs) {
            clock::sleep(millis(TIMEOUT_MS)).await;
            return later("insert: no answer");
        }
        if here.strikes(Fault::InsertCut) {
            return later("insert: cut");
        }
        let partial = here.strikes(Fault::InsertPartial);
        let late = here.strikes(Fault::InsertLate);
        let slow = late || here.strikes(Fault::InsertSlow);
        let takes = here.random(|random| match (late, slow) {
            (true, _) => TIMEOUT_MS + random.u64(0..TIMEOUT_MS),
            (_, true) => random.u64(0..60_000),
            _ => 0,
        });
        {
            let mut world = here.world();
            let now_us = simulated::elapsed_us();
            world.server.settle(now_us);
            if world.server.running.iter().any(|insert| insert.shipment.query_id == shipment.query_id) {
                return later("insert: a query of this id is running");
            }
            if partial {
                world.server.take(shipment, batch, 0..1);
                return later("insert: the disk was full after the first part");
            }
            let done_at_us = now_us + takes as i64 * 1_000;
            world.server.running.push(Running { done_at_us, shipment: shipment.clone(), batch: batch.clone() });
        }
        clock::sleep(millis(takes.min(TIMEOUT_MS))).await;
        here.reach("inserted").await;
        {
            let mut world = here.world();
            world.server.settle(simulated::elapsed_us());
            let key = (shipment.table.clone(), shipment.token.clone(), 0);
            if !world.server.taken.contains(&key) {
                return later("insert: no answer, or killed");
            }
        }
        if here.strikes(Fault::InsertAnswerLost) {
            return later("insert: reset after the body");
        }
        Ok(())
    }
}

/// The sink of one instance.
pub struct SimSink {
    instance: Instance,
    connection: Connection,
    shipping: Shipping,
}

impl SimSink {
    pub fn new(instance: &Instance) -> SimSink {
        let connection = Connection(instance.clone());
        SimSink { instance: instance.clone(), connection, shipping: Shipping::new("sim", "g1") }
    }
}

#[async_trait]
impl TableSink for SimSink {
    async fn prepare(&mut self, _: &[Table]) -> Result<(), SinkError> {
        self.instance.reach("prepare").await;
        if self.instance.strikes(Fault::PrepareFails) { later("the server is starting") } else { Ok(()) }
    }

    async fn ship(&mut self, range: CommitRange, rows: &[(Table, RecordBatch)]) -> Result<(), SinkError> {
        self.shipping.ship(&self.connection, range, rows).await
    }

    async fn maintain(&mut self) -> Result<(), SinkError> {
        self.instance.live().await;
        Ok(())
    }
}

/// The tables read back.
pub struct SimHistory(pub Instance);

impl SimHistory {
    async fn read(&self) -> Result<(), HistoryError> {
        self.0.reach("history").await;
        let slow = self.0.strikes(Fault::HistorySlow);
        let takes = self.0.random(|random| random.u64(0..if slow { 120_000 } else { 20 }));
        clock::sleep(millis(takes)).await;
        self.0.reach("history read").await;
        match self.0.strikes(Fault::HistoryFails) {
            true => Err(HistoryError("the connection was reset".to_string())),
            false => Ok(()),
        }
    }

    /// Those of the commits of a range that are to be kept, in order.
    fn rows(
        &self,
        table: &str,
        column: &str,
        range: CommitRange,
        keep: impl Fn(&RecordBatch, usize) -> bool,
    ) -> Vec<RecordBatch> {
        let world = self.0.world();
        let Some(parts) = world.server.tables.get(table) else { return Vec::new() };
        let rows = in_order(parts);
        let commits = rows.column_by_name(column).expect("commits").as_primitive::<UInt64Type>();
        let inside = |row: usize| commits.value(row) > range.after && commits.value(row) <= range.upto;
        let mine: BooleanArray = (0..rows.num_rows()).map(|row| Some(inside(row) && keep(&rows, row))).collect();
        vec![filter_record_batch(&rows, &mine).expect("rows")]
    }
}

#[async_trait]
impl History for SimHistory {
    /// By profile the reader chooses itself.
    async fn events(&self, range: CommitRange, filter: &HistoryFilter) -> Result<Vec<RecordBatch>, HistoryError> {
        self.read().await?;
        let keep = |rows: &RecordBatch, row: usize| {
            let times = rows.column_by_name("timestamp").expect("times").as_primitive::<TimestampMicrosecondType>();
            let names = text(rows, "event");
            let named =
                |wanted: &Vec<String>| names.is_valid(row) && wanted.iter().any(|name| name == names.value(row));
            filter.since.is_none_or(|since| times.value(row) >= since) && filter.events.as_ref().is_none_or(named)
        };
        let found = self.rows("events", "_batch", range, keep);
        let none = || vec![RecordBatch::new_empty(tributary::sink::tables::events().schema)];
        Ok(if found.is_empty() { none() } else { found })
    }

    async fn moves(&self, range: CommitRange) -> Result<Vec<RecordBatch>, HistoryError> {
        self.read().await?;
        Ok(self.rows("event_moves", "event_batch", range, |_, _| true))
    }
}

/// Rows of one table in the order of (`_batch`, `_seq`), with the columns of all of them.
pub fn in_order(parts: &[RecordBatch]) -> RecordBatch {
    let rows = unified(parts);
    let by = ["_batch", "_seq"]
        .map(|name| SortColumn { values: rows.column_by_name(name).expect("a place").clone(), options: None });
    let order: UInt32Array = lexsort_to_indices(&by, None).expect("an order");
    take_record_batch(&rows, &order).expect("rows")
}

/// Definitions change, and with them columns: one that a part does not have is null in it.
fn unified(parts: &[RecordBatch]) -> RecordBatch {
    let mut fields: BTreeMap<&str, FieldRef> = BTreeMap::new();
    for field in parts.iter().flat_map(|part| part.schema_ref().fields()) {
        let known = fields.entry(field.name()).or_insert_with(|| Arc::new(field.as_ref().clone().with_nullable(true)));
        assert_eq!(known.data_type(), field.data_type(), "{} is of two types", field.name());
    }
    let schema = Arc::new(Schema::new(fields.into_values().collect::<Vec<_>>()));
    let parts: Vec<RecordBatch> = parts.iter().map(|part| conform(part, &schema)).collect();
    concat_batches(&schema, &parts).expect("parts of one table")
}

/// The columns of a schema, null where there are none of their name.
pub fn conform(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let column = |field: &FieldRef| match rows.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), rows.num_rows()),
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema.clone(), columns).expect("columns of one length")
}
