//! What definitions cost: 1,000 segments and 300 traits beside 100 and 30, those that no event can touch, the bytes that
//! each kind of trait keeps per profile, millions of timers that are due in one minute, and a million people under way in a journey.
//!
//! `make bench-definitions`, or `cargo bench --bench definitions -- [--part cost|state|timers|journeys] [--timers N] [--people N]
//! [--alone] [--cache-mib N] [--runs N]`. `BENCH_STORE=memory` keeps the state of the last two in memory instead of on the disk.
//! Prints tables. Events are decoded outside of the measured time: measured is `Core::apply`, with all its rows.

#[path = "journeys.rs"]
mod journeys;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use tributary::clock;
use tributary::definition::{self, Mode, Pipeline};
use tributary::engine::{Core, Prepared, Preparer, Staged};
use tributary::event::{RawBatch, TimeUs};
use tributary::state::keys::{self, Tag};
use tributary::state::location::Location;
use tributary::state::memory::MemoryStore;
use tributary::state::slate::SlateStore;
use tributary::state::{Store, StoreError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the program takes per batch.
const BATCH: usize = 10_000;
const START: TimeUs = 1_772_000_000_000_000;
const SECOND: TimeUs = 1_000_000;

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| given.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
    let number = |name: &str, default: usize| option(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let part = option("--part");
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    if wanted("cost") {
        runtime.block_on(cost(number("--runs", 5)));
    }
    if wanted("state") {
        runtime.block_on(state());
    }
    if wanted("timers") {
        runtime.block_on(timers(number("--timers", 5_000_000), number("--cache-mib", 4096) << 20));
    }
    if wanted("journeys") {
        let alone = given.iter().any(|option| option == "--alone");
        runtime.block_on(journeys::measure(number("--people", 1_000_000), number("--cache-mib", 4096) << 20, alone));
    }
}

// Cost

/// Twenty kinds of events, of which the stream has the first ten.
fn pipeline(folder: &Path, traits: usize, segments: usize, touched: bool) -> Pipeline {
    let mut text = String::from(
        "pipeline: bench\nsources:\n  site: { file: { path: none.ndjson }, format: { json: segment } }\ntraits:\n",
    );
    for n in 0..traits {
        let event = if touched { n % 10 } else { 10 + n % 10 };
        let rule = match n % 4 {
            0 => "count: \"*\"",
            1 => "sum: \"CAST(properties.x AS BIGINT)\"",
            2 => "max: \"CAST(properties.x AS BIGINT)\"",
            _ => "latest: properties.s",
        };
        let _ = writeln!(text, "  t{n}: {{ {rule}, event: \"Event {event}\" }}");
    }
    text.push_str("segments:\n");
    for n in 0..segments {
        let t = n % traits;
        let rule = match t % 4 {
            0 => format!("t{t} >= {}", 1 + n % 7),
            1 => format!("t{t} > {}", 10 * (n % 50)),
            2 => format!("t{t} BETWEEN {} AND 1000", n % 90),
            _ => format!("t{t} = 'v{}'", n % 5),
        };
        let _ = writeln!(text, "  s{n}: \"{rule}\"");
    }
    load(folder, &text)
}

fn load(folder: &Path, text: &str) -> Pipeline {
    std::fs::write(folder.join("bench.yaml"), text).expect("a file");
    let (pipeline, _) = definition::load(folder, Mode::Run)
        .unwrap_or_else(|findings| panic!("{}", findings.iter().map(ToString::to_string).collect::<String>()));
    pipeline
}

fn events(preparer: &mut Preparer, count: usize, people: usize, random: &mut Rng) -> Vec<Prepared> {
    let topic: Arc<str> = "none.ndjson".into();
    let mut batches = Vec::new();
    let mut made = 0;
    while made < count {
        let mut raw = RawBatch::new("site".into());
        for _ in 0..BATCH.min(count - made) {
            let at = START + made as i64 * 1_000;
            let time = chrono::DateTime::from_timestamp_micros(at).expect("a time").to_rfc3339();
            let event = format!(
                r#"{{"messageId":"m{}-{made}","type":"track","event":"Event {}","userId":"u{}","timestamp":"{time}","properties":{{"x":{},"s":"v{}"}}}}"#,
                random.u64(..),
                random.u8(0..10),
                random.usize(0..people),
                random.u32(0..100),
                random.u8(0..5)
            );
            raw.push(&topic, 0, made as i64, at, event.as_bytes());
            made += 1;
        }
        let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
        assert!(prepared.rejects.is_empty(), "{:?}", prepared.rejects.first());
        batches.push(prepared);
    }
    batches
}

async fn cost(runs: usize) {
    out("| definitions | microseconds of CPU per event | times |\n|---|---:|---:|");
    let mut base = 0.0;
    for (name, traits, segments, touched) in [
        ("30 traits, 100 segments, all touched by every batch", 30, 100, true),
        ("300 traits, 1,000 segments, all touched by every batch", 300, 1_000, true),
        ("30 traits, 100 segments, and 270 and 900 that no event of the stream can touch", 0, 0, true),
    ] {
        let mut costs = Vec::new();
        for run in 0..runs {
            let folder = tempfile::tempdir().expect("folder");
            let pipeline = match traits {
                0 => mixed(folder.path()),
                _ => pipeline(folder.path(), traits, segments, touched),
            };
            costs.push(cost_of(&pipeline, run as u64).await);
        }
        costs.sort_by(f64::total_cmp);
        let median = costs[costs.len() / 2];
        if base == 0.0 {
            base = median;
        }
        out(&format!("| {name} | {median:.2} | {:.2} |", median / base));
    }
}

/// 30 and 100 that are touched, 270 and 900 that are not.
fn mixed(folder: &Path) -> Pipeline {
    let few = pipeline(folder, 30, 100, true);
    drop(few);
    let text = std::fs::read_to_string(folder.join("bench.yaml")).expect("the file");
    let _ = pipeline(folder, 270, 900, false);
    let more = std::fs::read_to_string(folder.join("bench.yaml")).expect("the file");
    let (head, segments) = text.split_once("segments:\n").expect("segments");
    let (traits, others) = more.split_once("traits:\n").expect("traits").1.split_once("segments:\n").expect("segments");
    let rename = |text: &str, what: char| -> String {
        let words = text.split(' ').map(|word| match word.strip_prefix(what) {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => format!("{what}x{rest}"),
            _ => word.to_string(),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let others = rename(&others.replace("\"t", "\" t"), 't').replace("\" t", "\"t");
    load(folder, &format!("{head}{}segments:\n{segments}{}", rename(traits, 't'), rename(&others, 's')))
}

async fn cost_of(pipeline: &Pipeline, seed: u64) -> f64 {
    let mut random = Rng::with_seed(seed);
    let mut preparer = Preparer::new(pipeline, None).expect("a preparer");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let mut core = Core::load(store.clone(), pipeline, &preparer.schema(), 4 << 30, true).await.expect("a state");
    let known = events(&mut preparer, 200_000, 20_000, &mut random);
    for batch in known {
        step(&*store, &mut core, Some(batch)).await;
    }
    let measured = events(&mut preparer, 200_000, 20_000, &mut random);
    let before = cpu_seconds();
    let mut count = 0;
    for batch in measured {
        count += batch.events.len();
        step(&*store, &mut core, Some(batch)).await;
    }
    (cpu_seconds() - before) * 1e6 / count as f64
}

/// In the folder, or in memory where the environment says so.
async fn open(folder: &Path) -> Arc<dyn Store> {
    match std::env::var("BENCH_STORE").as_deref() {
        Ok("memory") => Arc::new(MemoryStore::default()),
        _ => Arc::new(SlateStore::open(&Location::Folder(folder.to_path_buf())).await.expect("a store")),
    }
}

async fn step(store: &dyn Store, core: &mut Core, batch: Option<Prepared>) {
    let now = batch.as_ref().map_or(core.record.now, |batch| batch.happened);
    let staged = core.apply(batch, &[], now).await.expect("applied");
    commit(store, core, staged).await.expect("durable");
}

/// What is sealed for the sinks is dropped: nothing is acknowledged here.
async fn commit(store: &dyn Store, core: &mut Core, mut staged: Staged) -> Result<(), StoreError> {
    let mut writes = std::mem::take(&mut staged.writes);
    writes.writes.retain(|write| match write {
        tributary::state::Write::Put(key, _) => key.get(1) != Some(&(Tag::Outbox as u8)),
        tributary::state::Write::Delete(_) => true,
    });
    core.outbox.clear();
    store.commit(writes).await?;
    core.durable(staged.commit);
    Ok(())
}

// State

/// Every kind of trait by itself: the bytes that a stored profile has more than one without traits.
const KINDS: [(&str, &str); 19] = [
    ("latest", "latest: properties.s"),
    ("first", "first: properties.s"),
    ("count", "count: \"*\""),
    ("sum of doubles", "sum: \"CAST(properties.x AS DOUBLE)\""),
    ("min", "min: \"CAST(properties.x AS BIGINT)\""),
    ("max of times", "max: timestamp"),
    ("mean", "mean: \"CAST(properties.x AS BIGINT)\""),
    ("most_frequent of 5 values", "most_frequent: properties.s"),
    ("distinct of 5 values", "distinct: properties.s"),
    ("distinct of 50 values, keep 100", "distinct: properties.x"),
    ("distinct beyond keep 10 (sketch)", "distinct: properties.x, keep: 10"),
    ("gap over 100 events", "gap: timestamp"),
    ("gap over 20 events", "gap: timestamp, keep: 20"),
    ("count by 5 keys", "count: \"*\", by: properties.s"),
    ("count, window of 30 days", "count: \"*\", window: 30d"),
    ("sum, window of 1 day", "sum: \"CAST(properties.x AS BIGINT)\", window: 1d"),
    ("distinct of 5 values, window of 30 days", "distinct: properties.s, window: 30d"),
    ("funnel of 3 steps within 1 day", "funnel: [Event 1, Event 2, Event 3], within: 1d"),
    ("sequence of 2 steps within 1 day", "sequence: [Event 1, { event: Event 2, within: 1d, without: Event 3 }]"),
];

async fn state() {
    const HEAD: &str =
        "pipeline: bench\nsources:\n  site: { file: { path: none.ndjson }, format: { json: segment } }\n";
    out("| what | bytes per profile, 100 events each over 30 days |\n|---|---:|");
    let folder = tempfile::tempdir().expect("folder");
    let bare = bytes_per_profile(&load(folder.path(), HEAD)).await;
    out(&format!("| a profile without traits | {bare:.0} |"));
    for (name, rule) in KINDS {
        let bytes = bytes_per_profile(&load(folder.path(), &format!("{HEAD}traits:\n  t: {{ {rule} }}\n"))).await;
        out(&format!("| {name} | {:.1} |", bytes - bare));
    }
    let segment = format!("{HEAD}segments:\n  s: \"events > 1\"\n");
    let bytes = bytes_per_profile(&load(folder.path(), &segment)).await;
    out(&format!("| a membership | {:.1} |", bytes - bare));
    let shop = definition::load(Path::new("pipelines/shop"), Mode::Check).map(|(pipeline, _)| pipeline);
    if let Ok(shop) = shop {
        out(&format!(
            "| the shop of pipelines/shop, with a shop's events | {:.0} |",
            bytes_of(&shop, shop_event).await
        ));
    }
}

/// What happens in a shop: mostly looking, sometimes all the way to an order.
fn shop_event(random: &mut Rng) -> String {
    let sku = ["BK-101", "BK-102", "BK-103"][random.usize(0..3)];
    let price = random.u32(5..90);
    match random.u8(0..20) {
        0..10 => format!(r#""type":"track","event":"Product Viewed","properties":{{"sku":"{sku}"}}"#),
        10..13 => format!(r#""type":"track","event":"Product Added","properties":{{"sku":"{sku}"}}"#),
        13 => format!(r#""type":"track","event":"Checkout Started","properties":{{"value":{price}.5}}"#),
        14 => format!(
            r#""type":"track","event":"Order Completed","properties":{{"order_id":"o{}","total":{price}.5,"currency":"EUR","products":[{{"sku":"{sku}","price":{price}.5,"quantity":1}}]}}"#,
            random.u32(..)
        ),
        15 => r#""type":"identify","traits":{"plan":"pro"}"#.to_string(),
        _ => r#""type":"page","context":{"page":{"path":"/"}}"#.to_string(),
    }
}

fn plain_event(random: &mut Rng) -> String {
    format!(
        r#""type":"track","event":"Event {}","properties":{{"x":{},"s":"v{}"}}"#,
        random.u8(0..10),
        random.u32(0..50),
        random.u8(0..5)
    )
}

async fn bytes_per_profile(pipeline: &Pipeline) -> f64 {
    bytes_of(pipeline, plain_event).await
}

async fn bytes_of(pipeline: &Pipeline, event: fn(&mut Rng) -> String) -> f64 {
    const PEOPLE: usize = 500;
    let mut random = Rng::with_seed(3);
    let mut preparer = Preparer::new(pipeline, None).expect("a preparer");
    let store = MemoryStore::default();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let mut core = Core::load(shared.clone(), pipeline, &preparer.schema(), 1 << 30, false).await.expect("a state");
    let topic: Arc<str> = "none.ndjson".into();
    let source = pipeline.sources[0].name().clone();
    for day in 0..100 {
        let mut raw = RawBatch::new(source.clone());
        for person in 0..PEOPLE {
            let at = START + (day * 25_920 + random.i64(0..20_000)) * SECOND;
            let time = chrono::DateTime::from_timestamp_micros(at).expect("a time").to_rfc3339();
            let event = format!(
                r#"{{"messageId":"m{day}-{person}","userId":"u{person}","timestamp":"{time}",{}}}"#,
                event(&mut random)
            );
            raw.push(&topic, 0, (day as usize * PEOPLE + person) as i64, at, event.as_bytes());
        }
        let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
        assert!(prepared.rejects.is_empty(), "{:?}", prepared.rejects.first());
        step(&*shared, &mut core, Some(prepared)).await;
    }
    let profiles = store.dump();
    let profiles: Vec<usize> =
        profiles.iter().filter(|(key, _)| key.get(1) == Some(&(Tag::Profile as u8))).map(|(_, v)| v.len()).collect();
    profiles.iter().sum::<usize>() as f64 / profiles.len().max(1) as f64
}

// Timers

/// So many people whose condition flips within one minute of a day on which nothing else happens to them.
async fn timers(count: usize, cache_bytes: usize) {
    let folder = tempfile::tempdir().expect("folder");
    let pipeline = load(
        folder.path(),
        "pipeline: bench\nsources:\n  site: { file: { path: none.ndjson }, format: { json: segment } }\n\
         traits:\n  views: { count: \"*\" }\nsegments:\n  silent: \"last_seen < now() - INTERVAL '1 day'\"\n",
    );
    let mut preparer = Preparer::new(&pipeline, None).expect("a preparer");
    let state = tempfile::tempdir().expect("folder");
    let store = open(state.path()).await;
    let mut core = Core::load(store.clone(), &pipeline, &preparer.schema(), cache_bytes, true).await.expect("a state");
    let topic: Arc<str> = "none.ndjson".into();
    let mut random = Rng::with_seed(9);
    let mut made = 0usize;
    let began = clock::instant();
    while made < count {
        let mut raw = RawBatch::new("site".into());
        for _ in 0..50_000.min(count - made) {
            let at = START + random.i64(0..60 * SECOND);
            let time = chrono::DateTime::from_timestamp_micros(at).expect("a time").to_rfc3339();
            let event = format!(
                r#"{{"messageId":"m{made}","type":"track","event":"E","userId":"u{made}","timestamp":"{time}"}}"#
            );
            raw.push(&topic, 0, made as i64, at, event.as_bytes());
            made += 1;
        }
        let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
        step(&*store, &mut core, Some(prepared)).await;
    }
    say(&format!("{count} people, a timer each, in {:.0} s", began.elapsed().as_secs_f64()));

    // Nothing is due yet; then all are. Events of others come meanwhile, 200 every time.
    let due = START + 86_400 * SECOND + 61 * SECOND;
    let (wall, cpu) = (clock::instant(), cpu_seconds());
    let (mut fired, mut waits, mut steps) = (0usize, Vec::new(), 0usize);
    loop {
        let began = clock::instant();
        let staged = core.fire_timers(due).await.expect("fired");
        let Some(staged) = staged else { break };
        fired += staged
            .rows
            .iter()
            .filter(|(table, _)| table.name == "segment_changes")
            .map(|(_, r)| r.num_rows())
            .sum::<usize>();
        commit(&*store, &mut core, staged).await.expect("durable");
        let mut raw = RawBatch::new("site".into());
        for n in 0..200 {
            let time = chrono::DateTime::from_timestamp_micros(due).expect("a time").to_rfc3339();
            let event = format!(
                r#"{{"messageId":"n{steps}-{n}","type":"track","event":"E","userId":"w{n}","timestamp":"{time}"}}"#
            );
            raw.push(&topic, 0, (count + steps * 200 + n) as i64, due, event.as_bytes());
        }
        let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
        let staged = core.apply(Some(prepared), &[], due).await.expect("applied");
        commit(&*store, &mut core, staged).await.expect("durable");
        waits.push(began.elapsed().as_secs_f64());
        steps += 1;
    }
    waits.sort_by(f64::total_cmp);
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize] * 1e3;
    out(&format!("| {count} timers due in one minute | figure |\n|---|---:|"));
    out(&format!("| fired | {fired} |"));
    out(&format!("| time to drain, with {} events in between | {wall:.1} s, {cpu:.1} s of CPU |", steps * 200));
    out(&format!("| timers per CPU-second | {:.0} |", fired as f64 / cpu));
    out(&format!(
        "| what an event waits at most until it is applied and durable: median, p99, worst | {:.0}, {:.0}, {:.0} ms |",
        at(0.5),
        at(0.99),
        at(1.0)
    ));
    let left = store.scan(&keys::prefix(Tag::Timer), None, 10).await.expect("a scan").len();
    assert_eq!((fired, left.min(1)), (count, 1), "the others' timers are left");
    store.close().await.expect("closed");
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
