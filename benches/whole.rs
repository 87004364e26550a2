//! The whole program but for its two ends: the engine's own loop, preparer, shipper and workers over events that are made in memory,
//! tables that take every row, and receivers that take every message.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tributary::activation::Delivery;
use tributary::clock;
use tributary::definition::Pipeline;
use tributary::engine::history::{History, HistoryError, HistoryFilter};
use tributary::engine::{self, DecodeOn, Input, SharedStatus, Stop, Wiring};
use tributary::event::TimeUs;
use tributary::sink::{CommitRange, Destination, Outcome, SinkError, Table, TableSink};
use tributary::source::{ReadLimits, SourceEvent, SourceHandle};
use tributary::state::location::Location;
use tributary::state::memory::MemoryStore;
use tributary::state::slate::{Limits, SlateStore};
use tributary::state::{Store, StoreError, Write, WriteBatch};

use super::workload::{Skew, Workload};
use super::{ALLOCATIONS, UNCOUNTED, cpu_seconds, say};

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub profiles: u64,
    pub skew: Skew,
    /// Measured events, after one that introduces each person and `warm` others.
    pub events: usize,
    pub warm: usize,
    pub batch: usize,
    /// A point of the curve each so many events.
    pub point: usize,
    pub cache_bytes: usize,
    /// What the store holds before a checkpoint.
    pub held_mib: usize,
}

/// What a stretch of events took.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub events: usize,
    pub cpu_seconds: f64,
    pub wall_seconds: f64,
    pub allocations: u64,
    pub memory_bytes: u64,
    pub written_bytes: u64,
    pub read_bytes: u64,
}

struct Account {
    cpu_seconds: f64,
    at: Instant,
    allocations: u64,
    written_bytes: u64,
    read_bytes: u64,
}

/// Runs the pipeline over a state in `folder`, or in memory with `BENCH_STORE=memory`.
pub async fn run(pipeline: &Pipeline, options: Options, folder: &Path) -> Vec<Point> {
    let feed = move |feed: &Feed| measure(options, feed);
    engine_with(pipeline, options, folder, feed).await
}

/// Starts on a state that is there, as after a death: seconds until a first batch is taken in, and GiB held by then.
pub async fn cold_start(pipeline: &Pipeline, options: Options, folder: &Path) -> (f64, f64) {
    let started = clock::instant();
    let feed = move |feed: &Feed| {
        // Far behind what was made before.
        let mut workload = Workload::from(options.profiles, options.skew, 8, 1 << 40);
        let batch = workload.batch(1_000);
        let given = feed.status.read().totals.records + batch.records.len() as u64;
        feed.events.blocking_send(SourceEvent::Records(batch)).expect("the engine takes them");
        until_taken(feed.status, given);
        (started.elapsed().as_secs_f64(), memory_bytes() as f64 / (1u64 << 30) as f64)
    };
    engine_with(pipeline, options, folder, feed).await
}

/// What makes the events, on a thread of its own, works with these.
struct Feed<'a> {
    events: mpsc::Sender<SourceEvent>,
    status: &'a SharedStatus,
    parts: &'a Parts,
}

/// The engine, while `feed` has something for it.
async fn engine_with<T: Send + 'static>(
    pipeline: &Pipeline,
    options: Options,
    folder: &Path,
    feed: impl FnOnce(&Feed) -> T + Send + 'static,
) -> T {
    let store: Arc<dyn Store> = match std::env::var("BENCH_STORE").as_deref() {
        Ok("memory") => Arc::new(MemoryStore::default()),
        _ => {
            let (location, limits) = (Location::Folder(folder.to_path_buf()), Limits::of_mib(options.held_mib));
            Arc::new(SlateStore::open_with(&location, limits).await.expect("a store"))
        }
    };
    let closing = store.clone();
    let parts = Arc::new(Parts::default());
    let store: Arc<dyn Store> = Arc::new(Counted { inner: store, parts: parts.clone() });
    let (events, source) = mpsc::channel(4);
    let source = std::sync::Mutex::new(Some(source));
    let (engine, input) = mpsc::channel(1024);
    let status = SharedStatus::default();
    let crm: Arc<dyn Destination> = Arc::new(Taken);
    let wiring = Wiring {
        store,
        sink: Box::new(Dropped),
        destinations: BTreeMap::from([("crm".to_string(), crm)]),
        history: Arc::new(NoHistory),
        schema_cache: None,
        status: status.clone(),
        start_source: Box::new(move |plan, _, _, _| {
            let events = source.lock().expect("no panic").take().expect("one source");
            Ok(SourceHandle::of(plan.name().clone(), events))
        }),
        input: (engine.clone(), input),
    };
    let engine_options = engine::Options {
        drain: false,
        send: true,
        read: true,
        cache_bytes: options.cache_bytes,
        recent_bytes: 256 << 20,
        limits: ReadLimits::default(),
        decode_on: DecodeOn::Thread,
        background_rows: engine::BACKGROUND_ROWS,
    };
    let (points, told) = tokio::sync::oneshot::channel();
    let (watched, counted) = (status.clone(), parts.clone());
    std::thread::spawn(move || {
        UNCOUNTED.with(|uncounted| uncounted.set(true));
        let _ = points.send(feed(&Feed { events, status: &watched, parts: &counted }));
    });
    let running = engine::run(pipeline, wiring, engine_options);
    let ending = async {
        let points = told.await.expect("the feeder ends well");
        let _ = engine.send(Input::Stop(Stop::Asked)).await;
        points
    };
    let (outcome, points) = tokio::join!(running, ending);
    outcome.expect("the engine ends well");
    // The engine may have closed it.
    let _ = closing.close().await;
    say(&format!("{:?}", status.read().totals));
    points
}

/// Makes the events and gives them to the engine; looks at the accounts at the borders of the stretches.
fn measure(options: Options, feed: &Feed) -> Vec<Point> {
    let Feed { events, status, parts } = feed;
    let mut workload = Workload::new(options.profiles, options.skew, 7);
    let mut given = 0u64;
    let mut give = |batch: tributary::event::RawBatch| {
        given += batch.records.len() as u64;
        events.blocking_send(SourceEvent::Records(batch)).expect("the engine takes them");
        given
    };
    let mut introduced = 0;
    while introduced < options.profiles {
        let upto = (introduced + options.batch as u64).min(options.profiles);
        give(workload.introduction(introduced..upto));
        introduced = upto;
    }
    for _ in 0..options.warm.div_ceil(options.batch) {
        give(workload.batch(options.batch));
    }
    let mut given = give(workload.batch(options.batch));
    until_taken(status, given);
    let mut points = Vec::new();
    let mut made = 0;
    parts.take();
    while made < options.events {
        let before = account();
        let upto = (made + options.point).min(options.events);
        let first = made;
        while made < upto {
            let count = options.batch.min(upto - made);
            made += count;
            given = give(workload.batch(count));
        }
        until_taken(status, given);
        let after = account();
        let point = Point {
            events: made - first,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            wall_seconds: (after.at - before.at).as_secs_f64(),
            allocations: after.allocations - before.allocations,
            memory_bytes: memory_bytes(),
            written_bytes: after.written_bytes - before.written_bytes,
            read_bytes: after.read_bytes - before.read_bytes,
        };
        say(&format!(
            "{made} events: {:.0} per CPU-second, {:.0} per second, {} MiB held, {:.0} bytes written and {:.0} read per event",
            point.events as f64 / point.cpu_seconds,
            point.events as f64 / point.wall_seconds,
            point.memory_bytes >> 20,
            point.written_bytes as f64 / point.events as f64,
            point.read_bytes as f64 / point.events as f64,
        ));
        points.push(point);
    }
    for (part, writes, bytes) in parts.take() {
        let (writes, bytes) = (writes as f64 / options.events as f64, bytes as f64 / options.events as f64);
        say(&format!("committed per event: {part}: {writes:.3} writes, {bytes:.0} bytes"));
    }
    points
}

/// Until so many records are applied durably and all rows are acknowledged.
fn until_taken(status: &SharedStatus, records: u64) {
    loop {
        let now = status.read();
        if now.totals.records >= records && now.sink.waiting <= 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Without what this thread has taken: it makes the events.
fn account() -> Account {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let own_ns: f64 = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("nanoseconds");
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let count = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name)).expect("a counter");
        line.trim_start_matches(':').trim().parse::<u64>().expect("a number")
    };
    Account {
        cpu_seconds: cpu_seconds() - own_ns / 1e9,
        at: clock::instant(),
        allocations: ALLOCATIONS.load(Ordering::Relaxed),
        written_bytes: count("wchar"),
        read_bytes: count("rchar"),
    }
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4096
}

/// What commits hold, by the tags of their keys.
struct Parts(Vec<(AtomicU64, AtomicU64)>);

impl Default for Parts {
    fn default() -> Parts {
        Parts((0..256).map(|_| Default::default()).collect())
    }
}

impl Parts {
    fn add(&self, write: &Write) {
        let (key, value) = match write {
            Write::Put(key, value) => (key, value.len()),
            Write::Delete(key) => (key, 0),
        };
        let (writes, bytes) = &self.0[usize::from(key[1])];
        writes.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add((key.len() + value) as u64, Ordering::Relaxed);
    }

    /// Writes and bytes of each part since the last call, the largest first.
    fn take(&self) -> Vec<(String, u64, u64)> {
        let parts = self.0.iter().enumerate().map(|(tag, (writes, bytes))| {
            let tag = format!("{:?}", tag as u8 as char);
            (tag, writes.swap(0, Ordering::Relaxed), bytes.swap(0, Ordering::Relaxed))
        });
        let mut parts: Vec<_> = parts.filter(|(_, writes, _)| *writes > 0).collect();
        parts.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        parts
    }
}

struct Counted {
    inner: Arc<dyn Store>,
    parts: Arc<Parts>,
}

#[async_trait]
impl Store for Counted {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.scan(prefix, after, limit).await
    }

    // Not `async`: the call itself is what orders commits.
    fn commit<'store, 'result>(
        &'store self,
        batch: WriteBatch,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'result>>
    where
        'store: 'result,
        Self: 'result,
    {
        batch.writes.iter().for_each(|write| self.parts.add(write));
        self.inner.commit(batch)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

struct Dropped;

#[async_trait]
impl TableSink for Dropped {
    async fn prepare(&mut self, _tables: &[Table]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn ship(&mut self, _range: CommitRange, rows: &[(Table, RecordBatch)]) -> Result<(), SinkError> {
        std::hint::black_box(rows);
        Ok(())
    }

    async fn maintain(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

struct Taken;

#[async_trait]
impl Destination for Taken {
    async fn send(&self, delivery: &Delivery, _attempted_at: TimeUs) -> Outcome {
        std::hint::black_box(delivery);
        Outcome::Sent("200".to_string())
    }
}

struct NoHistory;

#[async_trait]
impl History for NoHistory {
    async fn events(&self, _: CommitRange, _: &HistoryFilter) -> Result<Vec<RecordBatch>, HistoryError> {
        Ok(Vec::new())
    }

    async fn moves(&self, _: CommitRange) -> Result<Vec<RecordBatch>, HistoryError> {
        Ok(Vec::new())
    }
}
