//! The ladder: what each step of a batch's way costs, in events per CPU-second of this process, and the whole as a
//! share of every floor below it. All steps run in one process over the same events.
//!
//! `make bench`, or `cargo bench --bench ladder -- [--events N] [--profiles N] [--skew zipf|uniform] [--segments N] [--batch N]
//! [--cache-mib N] [--held-mib N] [--runs N] [--warm N] [--point N] [--only whole] [--cold]`. Prints one table. `--point N` prints a line each N events of the whole.

mod whole;
mod workload;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tributary::clock;
use tributary::definition::{self, Mode, Pipeline};
use tributary::engine::Preparer;
use tributary::event::{RawBatch, column};
use tributary::state::Store;
use tributary::state::location::Location;
use tributary::state::slate::SlateStore;

use self::workload::{Skew, Workload};

/// Counts allocations; the allocator itself is the program's.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Set in the thread that makes the events.
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count_allocation() {
    if !UNCOUNTED.with(Cell::get) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "a counting allocator cannot be written without; it only forwards")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_allocation();
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { mimalloc::MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_allocation();
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
    segments: usize,
    runs: usize,
    only_whole: bool,
    /// Whether the whole is started again at its end.
    cold: bool,
    options: whole::Options,
}

fn args() -> Args {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let text = |name: &str| given.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let number = |name: &str, default: usize| text(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let events = number("--events", 2_000_000);
    Args {
        segments: number("--segments", 100),
        runs: number("--runs", 3),
        only_whole: text("--only") == Some("whole"),
        cold: given.iter().any(|arg| arg == "--cold"),
        options: whole::Options {
            profiles: number("--profiles", 1_000_000) as u64,
            skew: if text("--skew") == Some("uniform") { Skew::Uniform } else { Skew::Zipf },
            events,
            warm: number("--warm", 1_000_000),
            batch: number("--batch", 50_000),
            point: number("--point", events),
            cache_bytes: number("--cache-mib", 8192) << 20,
            held_mib: number("--held-mib", 512),
        },
    }
}

/// One step's figures over all runs.
#[derive(Default)]
struct Figures {
    per_cpu_second: Vec<f64>,
    wall_per_second: Vec<f64>,
    allocations: Vec<f64>,
}

impl Figures {
    fn add(&mut self, events: f64, cpu_seconds: f64, wall_seconds: f64, allocations: u64) {
        self.per_cpu_second.push(events / cpu_seconds.max(0.001));
        self.wall_per_second.push(events / wall_seconds.max(0.001));
        self.allocations.push(allocations as f64 / events);
    }
}

fn main() {
    let args = args();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let folder = tempfile::tempdir().expect("folder");
    workload::write_pipeline(folder.path(), args.segments);
    let (pipeline, _) = match definition::load(folder.path(), Mode::Run) {
        Ok(loaded) => loaded,
        Err(findings) => {
            findings.iter().for_each(|finding| say(&finding.to_string()));
            std::process::exit(1);
        }
    };
    let options = args.options;
    say(&format!("{options:?}, {} segments", args.segments));
    let mut made = Workload::new(options.profiles, options.skew, 7);
    let floors = if args.only_whole { 0 } else { options.events.min(2_000_000).div_ceil(options.batch) };
    let batches: Vec<RawBatch> = (0..floors).map(|_| made.batch(options.batch)).collect();
    drop(made);
    let compressed: Vec<Vec<u8>> =
        batches.iter().map(|batch| zstd::bulk::compress(&batch.bytes, 1).expect("zstd")).collect();
    let mut sizes: Vec<u32> = batches.iter().flat_map(|b| b.records.iter().map(|r| r.end - r.start)).collect();
    if !sizes.is_empty() {
        sizes.sort_unstable();
        let at = |share: f64| sizes[((sizes.len() - 1) as f64 * share) as usize];
        say(&format!("bytes per event: {} (median), {} (95 of 100)", at(0.5), at(0.95)));
    }

    let steps: [(&str, Step); 6] = [
        ("F0 take the records", f0),
        ("F1 + decompress", f1),
        ("F2 + decode, map, fields", f2),
        ("F3 + one hash probe", f3),
        ("F4 + encode rows", f4),
        ("F5 + commit of the rows", f5),
    ];
    let mut figures: BTreeMap<usize, Figures> = BTreeMap::new();
    for run in 0..args.runs {
        for (index, (name, step)) in steps.iter().enumerate().filter(|_| !args.only_whole) {
            let input = Input { pipeline: &pipeline, batches: &batches, compressed: &compressed };
            let (cpu, allocations) = (cpu_seconds(), ALLOCATIONS.load(Ordering::Relaxed));
            let started = clock::instant();
            runtime.block_on(step(&input));
            let events = sizes.len() as f64;
            figures.entry(index).or_default().add(
                events,
                cpu_seconds() - cpu,
                started.elapsed().as_secs_f64(),
                ALLOCATIONS.load(Ordering::Relaxed) - allocations,
            );
            say(&format!("run {run} {name}"));
        }
        let state = tempfile::tempdir().expect("folder");
        let points = runtime.block_on(whole::run(&pipeline, options, state.path()));
        let sum = |of: fn(&whole::Point) -> f64| points.iter().map(of).sum::<f64>();
        figures.entry(steps.len()).or_default().add(
            sum(|point| point.events as f64),
            sum(|point| point.cpu_seconds),
            sum(|point| point.wall_seconds),
            points.iter().map(|point| point.allocations).sum(),
        );
        say(&format!("run {run} the whole; state on disk: {} MiB", folder_bytes(state.path()) >> 20));
        if args.cold {
            let (seconds, gib) = runtime.block_on(whole::cold_start(&pipeline, options, state.path()));
            say(&format!("run {run} cold start: {seconds:.1} s until a batch is taken in, {gib:.1} GiB held"));
        }
    }
    let median = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let whole = median(&figures[&steps.len()].per_cpu_second);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "| step | events per CPU-second | ns per event | events per second (wall) | allocations per event | the whole is |"
    );
    let _ = writeln!(out, "|---|---:|---:|---:|---:|---:|");
    for (index, figure) in &figures {
        let name = steps.get(*index).map_or("the whole", |(name, _)| name);
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

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

struct Input<'a> {
    pipeline: &'a Pipeline,
    batches: &'a [RawBatch],
    compressed: &'a [Vec<u8>],
}

type Step = for<'a> fn(&'a Input<'a>) -> futures::future::LocalBoxFuture<'a, ()>;

/// What polling does: each record's bytes are copied into the batch.
fn f0<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, ()> {
    Box::pin(async move {
        for batch in input.batches {
            std::hint::black_box(take(batch, &batch.bytes));
        }
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

fn f1<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, ()> {
    Box::pin(async move {
        for index in 0..input.batches.len() {
            std::hint::black_box(unpack(input, index));
        }
    })
}

async fn preparer(pipeline: &Pipeline) -> Preparer {
    Preparer::new(pipeline, None).expect("the bench pipeline")
}

fn f2<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, ()> {
    Box::pin(async move {
        let mut preparer = preparer(input.pipeline).await;
        for index in 0..input.batches.len() {
            let raw = unpack(input, index);
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            std::hint::black_box(prepared);
        }
    })
}

fn f3<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, ()> {
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

fn f4<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, ()> {
    Box::pin(async move {
        let mut preparer = preparer(input.pipeline).await;
        for index in 0..input.batches.len() {
            let raw = unpack(input, index);
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            std::hint::black_box(encoded(&prepared));
        }
    })
}

fn f5<'a>(input: &'a Input<'a>) -> futures::future::LocalBoxFuture<'a, ()> {
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
    })
}
