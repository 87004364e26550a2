//! Identity alone, at scale: a seeded stream that ends with ten million identifiers in four million profiles, a warm
//! read of them, a chain of 10,000 links, a hub of 1,000 identifiers, single merges by size, and what the rules cost.
//!
//! `make bench-identity`, or `cargo bench --bench identity -- [--identifiers N] [--runs N] [--store 1]`. Prints tables.
//!
//! Events are made batch by batch, outside of the measured time. Measured is what a batch costs identity: extraction, what is missing,
//! `resolve`, and the caches' shrinking. Writes are staged, counted and dropped; with `--store` they are committed, and the
//! store's CPU time is shown beside it.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
    new_null_array,
};
use fastrand::Rng;
use tributary::clock;
use tributary::event::{EventBatch, TimeUs, column, envelope_schema};
use tributary::identity::{
    Correction, Decisions, IdentifierFrom, IdentifierType, Identities, IdentityPlan, Limit, Named, Normalize,
    OnConflict, Resolved, extract,
};
use tributary::state::location::Location;
use tributary::state::slate::SlateStore;
use tributary::state::{Store, WriteBatch};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the program takes per batch.
const BATCH: usize = 50_000;
/// People whose events are mixed with each other.
const BLOCK: u32 = 250_000;
const DAY_US: TimeUs = 86_400_000_000;

struct Args {
    identifiers: u32,
    runs: usize,
    store: bool,
}

fn args() -> Args {
    let mut args = Args { identifiers: 10_000_000, runs: 3, store: false };
    let given: Vec<String> = std::env::args().skip(1).collect();
    for pair in given.windows(2) {
        let Ok(number) = pair[1].parse::<u32>() else { continue };
        match pair[0].as_str() {
            "--identifiers" => args.identifiers = number,
            "--runs" => args.runs = number as usize,
            "--store" => args.store = number > 0,
            _ => {}
        }
    }
    args
}

fn main() {
    let args = args();
    let people = args.identifiers / 5 * 2;
    if args.store {
        return with_store(people);
    }
    at_scale(people, args.runs);
    rules(people / 10, args.runs);
}

/// Everything once at full size, the warm read several times.
fn at_scale(people: u32, runs: usize) {
    let before = memory("VmRSS:");
    let mut bench = Bench::new(plan(None));
    let growth = bench.all(growth(people));
    let (identifiers, profiles) = (bench.identities.identifiers.len(), bench.identities.components.len());
    let used = memory("VmRSS:") - before;
    say(&format!("{identifiers} identifiers, {profiles} profiles, {} merges", bench.merges));
    out("| growth | figure |\n|---|---:|");
    growth.show("");
    out(&format!("| events, identifiers in them | {:.2}M, {:.2}M |", growth.events / 1e6, growth.items / 1e6));
    let merges = bench.merges as f64;
    out(&format!(
        "| identifiers, profiles, merges | {:.2}M, {:.2}M, {:.2}M |",
        identifiers as f64 / 1e6,
        profiles as f64 / 1e6,
        merges / 1e6
    ));
    out(&format!(
        "| keys and bytes staged per event | {:.2}, {:.0} |",
        growth.keys / growth.events,
        growth.bytes / growth.events
    ));
    out(&format!("| memory held, peak (GiB) | {:.2}, {:.2} |", gib(used), gib(memory("VmHWM:"))));
    let (known, held) = (bench.identities.identifiers.bytes(), bench.identities.components.bytes());
    out(&format!(
        "| memory per identifier, per profile (bytes) | {:.0}, {:.0} |",
        used as f64 / identifiers as f64,
        used as f64 / profiles as f64
    ));
    out(&format!(
        "| by the caches' own account (bytes): an identifier, a component, the filter per identifier | {:.0}, {:.0}, {:.1} |",
        known as f64 / identifiers as f64,
        held as f64 / profiles as f64,
        bench.identities.seen.bytes() as f64 / identifiers as f64
    ));

    let warm: Vec<Figures> = (0..runs).map(|run| bench.all(known_people(people, 2_000_000, run as u64))).collect();
    out(
        "\n| stream | identifiers per CPU-second | ns per event | extract | missing | resolve |\n|---|---:|---:|---:|---:|---:|",
    );
    growth.row("growth");
    median(warm).row("known people only");

    out("\n| in one batch | ms (wall) | ns per event | bytes staged |\n|---|---:|---:|---:|");
    bench.all(chain(1, 10_000, false)).wall_row("a chain of 10,000 links, in order");
    bench.all(chain(2, 10_000, true)).wall_row("a chain of 10,000 links, shuffled");
    bench.all(hub(3, 1_000)).wall_row("a hub of 1,000 identifiers");

    out("\n| a merge of | µs, median | µs, worst | keys staged | bytes staged |\n|---|---:|---:|---:|---:|");
    let sizes =
        [(1, 1), (10, 10), (100, 100), (1_000, 1_000), (5_000, 5_000), (10_000, 10_000), (1, 10_000), (1_000, 10_000)];
    for (index, (small, large)) in sizes.into_iter().enumerate() {
        let merges: Vec<Figures> = (0..7)
            .map(|run| {
                let person = 1_000 + (index as u32 * 100 + run) * 2;
                bench.all(hub(person, large));
                bench.all(hub(person + 1, small));
                let merges = bench.merges;
                let joined = bench.all(std::iter::once(alias(person, person + 1)));
                assert_eq!(bench.merges, merges + 1);
                joined
            })
            .collect();
        let worst = merges.iter().map(|merge| merge.wall).fold(0.0, f64::max);
        let middle = median(merges);
        let [small, large] = [small, large].map(thousands);
        out(&format!(
            "| {small} into {large} | {:.0} | {:.0} | {:.0} | {:.0} |",
            middle.wall * 1e6,
            worst * 1e6,
            middle.keys,
            middle.bytes
        ));
    }
    out(&format!("\nPeak memory at the end: {:.2} GiB.", gib(memory("VmHWM:"))));
}

/// The same stream at a tenth of the size: without rules, with limits that are never reached, with corrections of other
/// people in force, with reassignment; then events that a limit refuses.
fn rules(people: u32, runs: usize) {
    out(
        "\n| rules | growth: ns per event | known people: ns per event | an event that is refused: ns |\n|---|---:|---:|---:|",
    );
    let limits = Some(OnConflict::Keep);
    for (name, conflict, corrected) in [
        ("none", None, false),
        ("corrections in force: 10 cuts, 10 bans, 10 struck events", None, true),
        ("user_id: 1, anonymous_id: 100 in 30 days", limits, false),
        ("both", limits, true),
        ("limits with reassign", Some(OnConflict::Reassign), false),
    ] {
        let mut figures: [Vec<Figures>; 3] = [const { Vec::new() }; 3];
        for run in 0..runs {
            let mut bench = Bench::new(plan(conflict));
            if corrected {
                bench.correct();
            }
            figures[0].push(bench.all(growth(people)));
            figures[1].push(bench.all(known_people(people, 1_000_000, run as u64)));
            if conflict.is_some() {
                figures[2].push(bench.all(shared_devices(people, 200_000)));
            }
        }
        let [growth, known, refused] =
            figures.map(|runs| if runs.is_empty() { String::new() } else { median(runs).ns() });
        out(&format!("| {name} | {growth} | {known} | {refused} |"));
    }
}

/// The growth again, each batch committed to a store on disk.
fn with_store(people: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let folder = tempfile::tempdir().expect("folder");
    let location = Location::Folder(folder.path().to_path_buf());
    let store = runtime.block_on(SlateStore::open(&location)).expect("store");
    let mut bench = Bench::new(plan(None));
    let (mut sum, mut store_cpu) = (Figures::default(), 0.0);
    for events in batches(growth(people), &mut TimeUs::default()) {
        let figures = bench.take(&events);
        sum.add(&figures);
        let before = process_cpu();
        runtime.block_on(store.commit(std::mem::take(&mut bench.writes))).expect("durable");
        store_cpu += process_cpu() - before;
    }
    let before = process_cpu();
    runtime.block_on(store.close()).expect("closed");
    store_cpu += process_cpu() - before;
    out(&format!(
        "identity {} ns per event, the store's part {:.0} ns; {:.2} keys and {:.0} bytes per event",
        sum.ns(),
        store_cpu * 1e9 / sum.events,
        sum.keys / sum.events,
        sum.bytes / sum.events
    ));
}

/// Identity as the engine drives it, with figures.
struct Bench {
    identities: Identities,
    commit: u64,
    clock: TimeUs,
    merges: usize,
    /// What the last batch staged.
    writes: WriteBatch,
}

impl Bench {
    fn new(plan: IdentityPlan) -> Bench {
        let identities = Identities::new(plan, 1, usize::MAX);
        Bench { identities, commit: 0, clock: 0, merges: 0, writes: WriteBatch::default() }
    }

    fn all(&mut self, rows: impl Iterator<Item = Row>) -> Figures {
        let mut sum = Figures::default();
        let mut clock = self.clock;
        for events in batches(rows, &mut clock) {
            sum.add(&self.take(&events));
        }
        self.clock = clock;
        sum
    }

    fn take(&mut self, events: &EventBatch) -> Figures {
        self.commit += 1;
        self.writes = WriteBatch::default();
        let (cpu, started) = (thread_cpu(), clock::instant());
        let extracted = extract(self.identities.plan(), events);
        let extract = started.elapsed().as_secs_f64();
        let identifiers = self.identities.missing_identifiers(&extracted);
        let components = self.identities.missing_components(&extracted);
        assert!(components.is_empty(), "everything is in memory");
        let missing = started.elapsed().as_secs_f64() - extract;
        let resolved = self.identities.resolve(events, &extracted, Decisions::Now, self.commit, &mut self.writes);
        self.identities.identifiers.shrink();
        self.identities.components.shrink();
        let wall = started.elapsed().as_secs_f64();
        let cpu = thread_cpu() - cpu;
        std::hint::black_box(identifiers);
        self.count(&resolved);
        self.identities.identifiers.durable(self.commit);
        self.identities.components.durable(self.commit);
        Figures {
            events: events.len() as f64,
            items: extracted.items.len() as f64,
            cpu,
            wall,
            extract,
            missing,
            keys: self.writes.writes.len() as f64,
            bytes: self.writes.bytes() as f64,
        }
    }

    fn count(&mut self, resolved: &Resolved) {
        self.merges += resolved.absorbed.len();
    }

    /// Corrections that touch nobody in the stream: what looking costs.
    fn correct(&mut self) {
        let plan = self.identities.plan().clone();
        let named = |value: String| Named { kind: 0, value: value.into() };
        for number in 0..10 {
            for correction in [
                Correction::Cut(named(format!("x{number}")), named(format!("y{number}"))),
                Correction::Ban(named(format!("z{number}"))),
                Correction::Strike { source: "events".into(), message_id: format!("none-{number}").into() },
            ] {
                self.identities.corrections.add(&plan, &correction);
            }
        }
    }
}

#[derive(Default, Clone)]
struct Figures {
    events: f64,
    items: f64,
    cpu: f64,
    wall: f64,
    extract: f64,
    missing: f64,
    keys: f64,
    bytes: f64,
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.events += other.events;
        self.items += other.items;
        self.cpu += other.cpu;
        self.wall += other.wall;
        self.extract += other.extract;
        self.missing += other.missing;
        self.keys += other.keys;
        self.bytes += other.bytes;
    }

    fn ns(&self) -> String {
        format!("{:.0}", self.cpu * 1e9 / self.events)
    }

    fn show(&self, prefix: &str) {
        out(&format!("| {prefix}identifiers resolved per CPU-second | {:.0}k |", self.items / self.cpu / 1e3));
        out(&format!("| {prefix}events per CPU-second | {:.0}k |", self.events / self.cpu / 1e3));
    }

    /// For what is too short for the CPU's clock.
    fn wall_row(&self, name: &str) {
        let (ms, ns) = (self.wall * 1e3, self.wall * 1e9 / self.events);
        out(&format!("| {name} | {ms:.1} | {ns:.0} | {:.0} |", self.bytes));
    }

    /// The steps as shares of the wall time, which does not tell one thread's CPU time apart so finely.
    fn row(&self, name: &str) {
        let share = |part: f64| format!("{:.0} %", part / self.wall * 100.0);
        let resolve = self.wall - self.extract - self.missing;
        out(&format!(
            "| {name} | {:.0}k | {} | {} | {} | {} |",
            self.items / self.cpu / 1e3,
            self.ns(),
            share(self.extract),
            share(self.missing),
            share(resolve)
        ));
    }
}

/// The run whose time is the median.
fn median(mut runs: Vec<Figures>) -> Figures {
    runs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    runs.swap_remove(runs.len() / 2)
}

/// As `benches/pipeline` has it, with room for the chain; `limits` says what becomes of what they refuse.
fn plan(limits: Option<OnConflict>) -> IdentityPlan {
    let kind = |name: &str, from, limit: Option<Limit>| IdentifierType {
        name: name.to_string(),
        from,
        normalize: if name == "email" {
            Normalize::Email { without_dots: false, without_tags: false }
        } else {
            Normalize::Trim
        },
        limit: limit.filter(|_| limits.is_some()),
        block: Vec::new(),
    };
    let one = Limit { count: 1, within: None };
    let some = Limit { count: 100, within: Some(30 * DAY_US) };
    IdentityPlan {
        key: [7; 32].into(),
        types: vec![
            kind("user_id", IdentifierFrom::Column(column::USER_ID), Some(one)),
            kind("email", IdentifierFrom::Map { or_field: None }, None),
            kind("anonymous_id", IdentifierFrom::Column(column::ANONYMOUS_ID), Some(some)),
        ],
        block: Vec::new(),
        on_conflict: limits.unwrap_or(OnConflict::Keep),
        max_identifiers: 50_000,
        previous_id: Some(0),
    }
}

/// One event by the numbers of what it names: a person's user id, e-mail address, one of their devices, another user id.
#[derive(Clone, Copy, Default)]
struct Row {
    user: Option<u32>,
    email: Option<u32>,
    device: Option<(u32, u32)>,
    previous: Option<u32>,
}

/// 100 people: 5 are two strangers at first (a device; a user id with an address) that an event joins later. Of the other
/// 95 half begin as a device and then sign in, half are signed in from the start; a quarter comes with an address later, another
/// quarter with a second device. That is 2.5 identifiers a person and two events, each of which changes something.
/// Each of a person's three moments is mixed with those of 250,000 people.
fn growth(people: u32) -> impl Iterator<Item = Row> {
    let block = move |first: u32| {
        let last = (first + BLOCK).min(people);
        let mut random = Rng::with_seed(u64::from(first));
        (0..3).flat_map(move |moment| {
            let mut order: Vec<u32> = (first..last).collect();
            random.shuffle(&mut order);
            order.into_iter().filter_map(move |person| at(person, moment))
        })
    };
    (0..people).step_by(BLOCK as usize).flat_map(block)
}

fn at(person: u32, moment: u32) -> Option<Row> {
    let (user, email, device) = (Some(person), Some(person), Some((person, 0)));
    let drawn = mix(u64::from(person)) % 10_000;
    let two_strangers = drawn < 500;
    let (starts_as_device, extra) = (drawn.is_multiple_of(2), drawn / 10 % 100);
    let row = match moment {
        0 if two_strangers || starts_as_device => Row { device, ..Row::default() },
        0 => Row { user, device, ..Row::default() },
        1 if two_strangers => Row { user, email, ..Row::default() },
        1 if starts_as_device => Row { user, device, ..Row::default() },
        1 => return None,
        _ if two_strangers => Row { user, device, ..Row::default() },
        _ if extra < 24 => Row { user, email, ..Row::default() },
        _ if extra < 48 => Row { user, device: Some((person, 1)), ..Row::default() },
        _ => return None,
    };
    Some(row)
}

/// Events of people picked at random, on the device that they are known by.
fn known_people(people: u32, events: u32, seed: u64) -> impl Iterator<Item = Row> {
    let mut random = Rng::with_seed(seed);
    (0..events).map(move |_| {
        let person = random.u32(0..people);
        Row { user: Some(person), device: Some((person, 0)), ..Row::default() }
    })
}

/// A user on the device of another, which a limit of one user id keeps with the other.
fn shared_devices(people: u32, events: u32) -> impl Iterator<Item = Row> {
    (0..events).map(move |number| {
        let person = number % (people - 1);
        Row { user: Some(person), device: Some((person + 1, 0)), ..Row::default() }
    })
}

/// User ids that aliases join one to the next. No two chains or hubs share a number.
fn chain(number: u32, links: u32, shuffled: bool) -> impl Iterator<Item = Row> {
    let first = (1 << 28) + number * 100_000;
    let mut order: Vec<u32> = (first..first + links).collect();
    if shuffled {
        Rng::with_seed(7).shuffle(&mut order);
    }
    order.into_iter().map(|user| Row { user: Some(user), previous: Some(user + 1), ..Row::default() })
}

/// One user id with many devices; `identifiers` of both.
fn hub(number: u32, identifiers: u32) -> impl Iterator<Item = Row> {
    let user = hub_user(number);
    let alone = (identifiers == 1).then_some(Row { user: Some(user), ..Row::default() });
    let devices = 1..identifiers;
    alone.into_iter().chain(devices.map(move |device| Row {
        user: Some(user),
        device: Some((user, device)),
        ..Row::default()
    }))
}

fn alias(one: u32, other: u32) -> Row {
    Row { user: Some(hub_user(one)), previous: Some(hub_user(other)), ..Row::default() }
}

fn hub_user(number: u32) -> u32 {
    (1 << 30) + number
}

/// Rows as batches of events, made when they are asked for.
fn batches<'a>(rows: impl Iterator<Item = Row> + 'a, clock: &'a mut TimeUs) -> impl Iterator<Item = EventBatch> + 'a {
    let mut rows = rows;
    std::iter::from_fn(move || {
        let rows: Vec<Row> = rows.by_ref().take(BATCH).collect();
        (!rows.is_empty()).then(|| batch(&rows, clock))
    })
}

/// The envelope's columns for these rows: message ids and device ids have the form of UUIDs, times are a millisecond apart.
fn batch(rows: &[Row], clock: &mut TimeUs) -> EventBatch {
    let first = *clock;
    *clock += rows.len() as i64;
    let numbers = || first..first + rows.len() as i64;
    let text = |value: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<StringArray>())
    };
    let user = |number: u32| format!("u{number}");
    let mut emails = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for row in rows {
        if let Some(number) = row.email {
            emails.keys().append_value("email");
            emails.values().append_value(format!("user{number}@shop.example"));
        }
        emails.append(true).expect("as many keys as values");
    }
    let emails: ArrayRef = Arc::new(emails.finish());
    let times: ArrayRef = Arc::new(
        TimestampMicrosecondArray::from_iter_values(numbers().map(|n| 1_772_000_000_000_000 + n * 1_000))
            .with_timezone("UTC"),
    );
    let same = |value: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(|_| value))) };
    let schema = envelope_schema();
    let columns = schema.fields().iter().enumerate().map(|(index, field)| match index {
        column::MESSAGE_ID => Arc::new(StringArray::from_iter_values(numbers().map(|n| uuid(n as u64)))) as ArrayRef,
        column::TYPE => text(&|row| Some(if row.previous.is_some() { "alias" } else { "track" }.to_string())),
        column::USER_ID => text(&|row| row.user.map(user)),
        column::ANONYMOUS_ID => text(&|row| {
            row.device.map(|(person, device)| uuid((u64::from(person) << 32 | u64::from(device)) ^ 1 << 63))
        }),
        column::PREVIOUS_ID => text(&|row| row.previous.map(user)),
        column::IDENTIFIERS => emails.clone(),
        column::TIMESTAMP | column::RECEIVED_AT => times.clone(),
        column::SOURCE => same("events"),
        column::TOPIC => same("shop.events"),
        column::PARTITION => Arc::new(Int32Array::from_iter_values(numbers().map(|n| (n % 6) as i32))),
        column::OFFSET => Arc::new(Int64Array::from_iter_values(numbers().map(|n| n / 6))),
        column::INDEX => Arc::new(Int32Array::from_iter_values(rows.iter().map(|_| 0))),
        _ => new_null_array(field.data_type(), rows.len()),
    });
    EventBatch { batch: RecordBatch::try_new(schema.clone(), columns.collect()).expect("the envelope") }
}

fn uuid(number: u64) -> String {
    let (a, b) = (mix(number), mix(number ^ 0x5555_5555_5555_5555));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// A permutation of the numbers (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// CPU time of this thread in seconds. The kernel brings it up to date some hundred times a second, so it is right for
/// sums over many batches and says nothing of a single event.
fn thread_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("nanoseconds") / 1e9
}

/// User and system time of all threads in seconds, in hundredths.
fn process_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = text.rsplit_once(')').expect("a name").1;
    let fields: Vec<f64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / 100.0
}

/// A figure of `/proc/self/status` in bytes.
fn memory(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a figure");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn thousands(number: u32) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", number / 1_000, number % 1_000) }
}

fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
