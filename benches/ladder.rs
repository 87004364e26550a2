//! The ladder: what each step of a batch's way costs, in events per CPU-second of this process, and the whole as a
//! share of every floor below it. All steps run in one process over the same events from memory.
//!
//! `make bench`, or `cargo bench --bench ladder -- [--events N] [--profiles N] [--runs N]`. Prints one table.

mod workload;

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tributary::clock;
use tributary::definition::{self, Mode, Pipeline};
use tributary::engine::{Command, Core, Preparer};
use tributary::event::{RawBatch, column};
use tributary::state::Store;
use tributary::state::location::Location;
use tributary::state::memory::MemoryStore;
use tributary::state::slate::SlateStore;

/// Counts allocations; the allocator itself is the program's.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "a counting allocator cannot be written without; it only forwards")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { mimalloc::MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { mimalloc::MiMalloc.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// User and system time of this process in seconds, as the kernel accounts it (hundredths).
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = text.rsplit_once(')').expect("a name").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    ticks / 100.0
}

struct Args {
    events: usize,
    profiles: usize,
    runs: usize,
    batch: usize,
}

fn args() -> Args {
    let mut args = Args { events: 2_000_000, profiles: 100_000, runs: 3, batch: 50_000 };
    let given: Vec<String> = std::env::args().skip(1).collect();
    for pair in given.windows(2) {
        let Ok(number) = pair[1].parse() else { continue };
        match pair[0].as_str() {
            "--events" => args.events = number,
            "--profiles" => args.profiles = number,
            "--runs" => args.runs = number,
            "--batch" => args.batch = number,
            _ => {}
        }
    }
    args
}

/// One step's figures over all runs.
#[derive(Default)]
struct Figures {
    per_cpu_second: Vec<f64>,
    wall_per_second: Vec<f64>,
    allocations: Vec<f64>,
}

fn main() {
    let args = args();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let (pipeline, _) = match definition::load(Path::new("benches/pipeline"), Mode::Run) {
        Ok(loaded) => loaded,
        Err(findings) => {
            findings.iter().for_each(|finding| say(&finding.to_string()));
            std::process::exit(1);
        }
    };
    say(&format!("{} events, {} profiles, batches of {}", args.events, args.profiles, args.batch));
    let batches = workload::batches(args.events, args.profiles, args.batch, 7);
    let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    let compressed: Vec<Vec<u8>> =
        batches.iter().map(|batch| zstd::bulk::compress(&batch.bytes, 1).expect("zstd")).collect();
    say(&format!("{:.0} bytes per event", bytes as f64 / args.events as f64));

    let steps: [(&str, Step); 7] = [
        ("F0 take the records", f0),
        ("F1 + decompress", f1),
        ("F2 + decode, map, fields", f2),
        ("F3 + one hash probe", f3),
        ("F4 + encode rows", f4),
        ("F5 + commit of the rows", f5),
        ("the whole", whole),
    ];
    let mut figures: BTreeMap<usize, Figures> = BTreeMap::new();
    for run in 0..args.runs {
        for (index, (name, step)) in steps.iter().enumerate() {
            let input = Input { pipeline: &pipeline, batches: &batches, compressed: &compressed };
            let (cpu, allocations) = (cpu_seconds(), ALLOCATIONS.load(Ordering::Relaxed));
            let started = clock::instant();
            let busy = runtime.block_on(async { step(&input).await });
            let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu - busy.setup_cpu);
            let allocated = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
            let events = args.events as f64;
            let entry = figures.entry(index).or_default();
            entry.per_cpu_second.push(events / cpu.max(0.001));
            entry.wall_per_second.push(events / (wall - busy.setup_wall).max(0.001));
            entry.allocations.push(allocated as f64 / events);
            say(&format!("run {run} {name}: {:.0} events per CPU-second", events / cpu.max(0.001)));
        }
    }
    let median = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let whole = median(&figures[&6].per_cpu_second);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "| step | events per CPU-second | ns per event | events per second (wall) | allocations per event | the whole is |"
    );
    let _ = writeln!(out, "|---|---:|---:|---:|---:|---:|");
    for (index, (name, _)) in steps.iter().enumerate() {
        let figure = &figures[&index];
        let rate = median(&figure.per_cpu_second);
        let _ = writeln!(
            out,
            "| {name} | {:.0}k | {:.0} | {:.0}k | {:.2} | {:.1} % |",
            rate / 1e3,
            1e9 / rate,
            median(&figure.wall_per_second) / 1e3,
            median(&figure.allocations),
            whole / rate * 100.0
        );
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

struct Input<'a> {
    pipeline: &'a Pipeline,
    batches: &'a [RawBatch],
    compressed: &'a [Vec<u8>],
}

/// What preparing a step took and must not be counted.
#[derive(Default)]
struct Setup {
    setup_cpu: f64,
    setup_wall: f64,
}

type Step = for<'a> fn(&'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup>;

/// What polling does: each record's bytes are copied into the batch.
fn f0<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup> {
    Box::pin(async move {
        for batch in input.batches {
            std::hint::black_box(take(batch, &batch.bytes));
        }
        Setup::default()
    })
}

fn take(batch: &RawBatch, bytes: &[u8]) -> RawBatch {
    let mut taken = RawBatch::new(batch.source.clone());
    for record in &batch.records {
        let topic = &batch.topics[record.topic as usize];
        let payload = &bytes[record.start as usize..record.end as usize];
        taken.push(topic, record.partition, record.offset, record.timestamp, payload);
    }
    taken
}

fn unpack(input: &Input<'_>, index: usize) -> RawBatch {
    let batch = &input.batches[index];
    let bytes = zstd::bulk::decompress(&input.compressed[index], batch.bytes.len()).expect("zstd");
    take(batch, &bytes)
}

fn f1<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup> {
    Box::pin(async move {
        for index in 0..input.batches.len() {
            std::hint::black_box(unpack(input, index));
        }
        Setup::default()
    })
}

async fn preparer(pipeline: &Pipeline) -> Preparer {
    Preparer::new(pipeline, None).expect("the bench pipeline")
}

fn f2<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup> {
    Box::pin(async move {
        let mut preparer = preparer(input.pipeline).await;
        for index in 0..input.batches.len() {
            let raw = unpack(input, index);
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            assert!(prepared.rejects.is_empty(), "{:?}", prepared.rejects.first());
            std::hint::black_box(prepared);
        }
        Setup::default()
    })
}

fn f3<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup> {
    Box::pin(async move {
        let mut preparer = preparer(input.pipeline).await;
        let mut seen: hashbrown::HashMap<u128, u64, foldhash::fast::FixedState> = hashbrown::HashMap::default();
        for index in 0..input.batches.len() {
            let raw = unpack(input, index);
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            let ids = prepared.events.strings(column::ANONYMOUS_ID);
            for row in 0..prepared.events.len() {
                let hash = xxhash_rust::xxh3::xxh3_128(ids.value(row).as_bytes());
                *seen.entry(hash).or_default() += 1;
            }
        }
        std::hint::black_box(seen.len());
        Setup::default()
    })
}

fn encoded(prepared: &tributary::engine::Prepared) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(prepared.events.batch.get_array_memory_size());
    let schema = prepared.events.batch.schema();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut buffer, &schema).expect("writer");
    writer.write(&prepared.events.batch).expect("written");
    writer.finish().expect("finished");
    drop(writer);
    buffer
}

fn f4<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup> {
    Box::pin(async move {
        let mut preparer = preparer(input.pipeline).await;
        for index in 0..input.batches.len() {
            let raw = unpack(input, index);
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            std::hint::black_box(encoded(&prepared));
        }
        Setup::default()
    })
}

fn f5<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup> {
    Box::pin(async move {
        let folder = tempfile::tempdir().expect("folder");
        let store = SlateStore::open(&Location::Folder(folder.path().to_path_buf())).await.expect("store");
        let mut preparer = preparer(input.pipeline).await;
        for index in 0..input.batches.len() {
            let raw = unpack(input, index);
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            let mut writes = tributary::state::WriteBatch::default();
            writes.put(format!("rows/{index:08}"), encoded(&prepared));
            if index > 0 {
                writes.delete(format!("rows/{:08}", index - 1));
            }
            store.commit(writes).await.expect("durable");
        }
        store.close().await.expect("closed");
        Setup::default()
    })
}

/// Everything: identity, ten traits, ten segments, one durable commit per batch with positions, message ids and all
/// rows; the rows are dropped where a sink would take them, and acknowledged with the next commit.
fn whole<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, Setup> {
    Box::pin(async move {
        let folder = tempfile::tempdir().expect("folder");
        let location = Location::Folder(folder.path().to_path_buf());
        let store: Arc<dyn Store> = match std::env::var("BENCH_STORE").as_deref() {
            Ok("memory") => Arc::new(MemoryStore::default()),
            _ => Arc::new(SlateStore::open(&location).await.expect("store")),
        };
        let mut preparer = preparer(input.pipeline).await;
        let core = Core::load(store.clone(), input.pipeline, &preparer.schema(), 4 << 30, true).await;
        let mut core = core.expect("an empty state");
        let mut shipped = 0;
        let mut in_flight: Option<tokio::task::JoinHandle<_>> = None;
        for index in 0..input.batches.len() {
            let raw = unpack(input, index);
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            let mut commands = Vec::new();
            if shipped > 0 {
                let (done, _) = tokio::sync::oneshot::channel();
                commands.push(Command::Acknowledged { upto: shipped, done });
            }
            let now = prepared.happened;
            let mut staged = core.apply(Some(prepared), &commands, now).await.expect("applied");
            if let Some(commit) = in_flight.take() {
                let commit: tokio::task::JoinHandle<Result<(), tributary::state::StoreError>> = commit;
                commit.await.expect("no panic").expect("durable");
                core.durable(staged.commit - 1);
                shipped = staged.commit - 1;
            }
            let writes = std::mem::take(&mut staged.writes);
            let store = store.clone();
            in_flight = Some(tokio::spawn(async move { store.commit(writes).await }));
        }
        if let Some(commit) = in_flight.take() {
            commit.await.expect("no panic").expect("durable");
        }
        say(&format!("{:?}", core.record.totals));
        store.close().await.expect("closed");
        Setup::default()
    })
}
