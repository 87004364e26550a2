//! A million people who wait in a journey: what each costs in the state and in memory, and what it takes to let 100,000 of them go on
//! within one minute while events of others come in. A part of `benches/definitions.rs`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;

use super::*;

const DAY: TimeUs = 86_400 * SECOND;
/// Those who are due together.
const GROUP: usize = 100_000;
/// Events of others, per second.
const RATE: f64 = 5_000.0;
/// What a batch waits for more.
const LINGER: Duration = Duration::from_millis(5);
/// The steps that each takes when its wait is over: the wait's end, the branch, the split, the message.
const STEPS: usize = 4;

const HEAD: &str = "pipeline: bench\nsources:\n  site: { file: { path: none.ndjson }, format: { json: segment } }\n\
                    traits:\n  views: { count: \"*\" }\n";
const JOURNEY: &str = r#"destinations:
  hook: { webhook: { url: "http://127.0.0.1:9/hook", allow_private: true } }
activations:
  nurture:
    trigger: { event: Signed Up }
    consent: none
    status: live
    re_entry: once
    do:
      - { id: settle, wait: 1d }
      - id: seen
        branch: "views >= 1"
        then:
          - id: test
            split:
              a: { share: 50%, do: [ { id: one, send: { to: hook, body: { who: "{{ profile.id }}", views: "{{ profile.traits.views }}" } } } ] }
              b: { share: 50%, do: [ { id: two, send: { to: hook, body: { who: "{{ profile.id }}", arm: "{{ journey.split.test }}" } } } ] }
"#;

/// `alone`: nobody is in a journey, and only their entering is measured.
pub async fn measure(people: usize, cache_bytes: usize, alone: bool) {
    let folder = tempfile::tempdir().expect("folder");
    out("| who waits in a journey | figure |\n|---|---:|");
    let without = load(folder.path(), HEAD);
    let with = load(folder.path(), &format!("{HEAD}{JOURNEY}"));
    let bytes = [bytes_of(&without).await, bytes_of(&with).await];
    for (what, tag) in [("profile", Tag::Profile), ("timer", Tag::Timer)] {
        let [without, with] = bytes.each_ref().map(|all| all.get(&(tag as u8)).copied().unwrap_or_default());
        out(&format!("| bytes of the state per person, {what}: without, with | {without:.1}, {with:.1} |"));
    }
    let mut bench = Bench::start(if alone { without } else { with }, cache_bytes).await;
    let before = resident_mib();
    let (wall, cpu) = (clock::instant(), cpu_seconds());
    bench.enter(people).await;
    out(&format!("| {people} enter | {} |", took(wall, cpu)));
    out(&format!("| memory of the process before and with them | {before}, {} MiB |", resident_mib()));
    if alone {
        return;
    }

    // The minute before anybody is due, then that in which the first group is.
    let alone = bench.pass(START + DAY - 40 * SECOND, 30, 0).await;
    let beside = bench.pass(START + DAY, 60, GROUP).await;
    for (what, minute) in [("alone", &alone), ("while 100,000 go on within a minute", &beside)] {
        let commits = minute.commits();
        out(&format!("| commits of 5,000 events/s of others {what}: median, p99, worst | {commits} |"));
        out(&format!("| … from when an event comes to when it is durable: median, p99, worst | {} |", minute.delays()));
        out(&format!("| … CPU | {:.0} % of a core |", minute.cpu / minute.wall * 100.0));
    }
    let cpu = beside.cpu - alone.cpu / alone.wall * beside.wall;
    out(&format!("| went on | {} of {GROUP} |", beside.went_on));
    out(&format!("| from when one is due to when its step is durable: median, p99, worst | {} |", beside.lags()));
    out(&format!("| steps per CPU-second, less what the others take | {:.0} |", (beside.went_on * STEPS) as f64 / cpu));

    // All who became due during an outage of an hour, with nothing else to do.
    let (wall, cpu) = (clock::instant(), cpu_seconds());
    let went_on = bench.drain(START + DAY + 3 * 3_600 * SECOND).await;
    let steps_per_second = (went_on * STEPS) as f64 / (cpu_seconds() - cpu);
    out(&format!("| that were due at once: {went_on} went on in | {} |", took(wall, cpu)));
    out(&format!("| steps per CPU-second | {steps_per_second:.0} |"));
    bench.store.close().await.expect("closed");
}

fn took(wall: Instant, cpu: f64) -> String {
    format!("{:.1} s, {:.1} s of CPU", wall.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

/// Mean bytes per person of what is stored, by tag, with one event each.
async fn bytes_of(pipeline: &Pipeline) -> BTreeMap<u8, f64> {
    const PEOPLE: usize = 20_000;
    let mut preparer = Preparer::new(pipeline, None).expect("a preparer");
    let store = MemoryStore::default();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let mut core = Core::load(shared.clone(), pipeline, &preparer.schema(), 1 << 30, true).await.expect("a state");
    let raw = batch(0, (0..PEOPLE).map(|person| ("Signed Up", format!("u{person}"), START + person as i64)));
    let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
    step(&*shared, &mut core, Some(prepared)).await;
    let mut all: BTreeMap<u8, f64> = BTreeMap::new();
    for (key, value) in store.dump() {
        *all.entry(key[1]).or_default() += (key.len() + value.len()) as f64 / PEOPLE as f64;
    }
    all
}

/// Events by name, who, and when, with offsets and message ids from `first` on.
fn batch(first: usize, events: impl Iterator<Item = (&'static str, String, TimeUs)>) -> RawBatch {
    let topic: Arc<str> = "none.ndjson".into();
    let mut raw = RawBatch::new("site".into());
    for (n, (event, who, at)) in events.enumerate() {
        let time = chrono::DateTime::from_timestamp_micros(at).expect("a time").to_rfc3339();
        let number = first + n;
        let event = format!(
            r#"{{"messageId":"m{number}","type":"track","event":"{event}","userId":"{who}","timestamp":"{time}"}}"#
        );
        raw.push(&topic, 0, number as i64, at, event.as_bytes());
    }
    raw
}

struct Bench {
    store: Arc<dyn Store>,
    core: Core,
    preparer: Preparer,
    made: usize,
    _state: tempfile::TempDir,
}

/// What was seen while time passed. Times in seconds.
#[derive(Default)]
struct Passed {
    wall: f64,
    cpu: f64,
    commits: Vec<f64>,
    delays: Vec<f64>,
    went_on: usize,
    lags: Vec<f64>,
}

impl Passed {
    fn commits(&self) -> String {
        quantiles(&self.commits)
    }

    fn delays(&self) -> String {
        quantiles(&self.delays)
    }

    fn lags(&self) -> String {
        quantiles(&self.lags)
    }
}

fn quantiles(seconds: &[f64]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((sorted.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0.0);
    format!("{:.0}, {:.0}, {:.0} ms", at(0.5) * 1e3, at(0.99) * 1e3, at(1.0) * 1e3)
}

impl Bench {
    async fn start(pipeline: Pipeline, cache_bytes: usize) -> Bench {
        let state = tempfile::tempdir().expect("folder");
        let store = open(state.path()).await;
        let preparer = Preparer::new(&pipeline, None).expect("a preparer");
        let core = Core::load(store.clone(), &pipeline, &preparer.schema(), cache_bytes, true).await.expect("a state");
        Bench { store, core, preparer, made: 0, _state: state }
    }

    /// Two groups enter within a minute each, the second two hours after the first, and all others later.
    async fn enter(&mut self, people: usize) {
        let mut first = 0;
        while first < people {
            // A batch enters at one moment.
            let size = if first < 2 * GROUP { 1_000 } else { 20_000 };
            let last = (first + size).min(people);
            let at = match first / GROUP {
                0 => START + (first / 1_000) as i64 * 600_000,
                1 => START + 2 * 3_600 * SECOND + ((first - GROUP) / 1_000) as i64 * 600_000,
                _ => START + 10 * 3_600 * SECOND + first as i64,
            };
            let events = (first..last).map(|person| ("Signed Up", format!("u{person}"), at));
            self.take(batch(self.made, events)).await;
            first = last;
        }
    }

    async fn take(&mut self, raw: RawBatch) {
        self.made += raw.records.len();
        let prepared = self.preparer.prepare(&raw, Vec::new()).expect("prepared");
        assert!(prepared.rejects.is_empty(), "{:?}", prepared.rejects.first());
        step(&*self.store, &mut self.core, Some(prepared)).await;
    }

    /// Lets so many seconds of the clock pass from `from` on, as the program's loop does: a batch of what has come, then what is due.
    /// Goes on until `wanted` people have gone on.
    async fn pass(&mut self, from: TimeUs, seconds: u64, wanted: usize) -> Passed {
        let (began, cpu) = (clock::instant(), cpu_seconds());
        let mut passed = Passed::default();
        let mut came = 0usize;
        while began.elapsed() < Duration::from_secs(seconds) || passed.went_on < wanted {
            let now = from + began.elapsed().as_micros() as i64;
            let upto = (began.elapsed().as_secs_f64() * RATE) as usize;
            if upto > came {
                let committing = clock::instant();
                let events = (came..upto).map(|n| ("E", format!("w{}", (n * 7_919) % 50_000), now));
                self.take(batch(self.made, events)).await;
                passed.commits.push(committing.elapsed().as_secs_f64());
                let done = began.elapsed().as_secs_f64();
                passed.delays.extend((came..upto).map(|n| done - n as f64 / RATE));
                came = upto;
            }
            let due = self.fire(now).await;
            let done = from + began.elapsed().as_micros() as i64;
            passed.lags.extend(due.iter().map(|due| (done - due) as f64 / 1e6));
            passed.went_on += due.len();
            tokio::time::sleep(LINGER).await;
        }
        (passed.wall, passed.cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        passed
    }

    async fn drain(&mut self, now: TimeUs) -> usize {
        let mut went_on = 0;
        loop {
            let due = self.fire(now).await.len();
            if due == 0 {
                return went_on;
            }
            went_on += due;
        }
    }

    /// Fires what is due, at most one commit of it, and gives when each who went on was due.
    async fn fire(&mut self, now: TimeUs) -> Vec<TimeUs> {
        let Some(staged) = self.core.fire_timers(now).await.expect("fired") else { return Vec::new() };
        let mut due = Vec::new();
        for (_, rows) in staged.rows.iter().filter(|(table, _)| table.name == "journey_steps") {
            let what = rows.column_by_name("what").expect("what").as_string::<i32>();
            let at = rows.column_by_name("happened_at").expect("happened_at");
            let at = at.as_primitive::<TimestampMicrosecondType>();
            due.extend((0..rows.num_rows()).filter(|row| what.value(*row) == "sent").map(|row| at.value(row)));
        }
        commit(&*self.store, &mut self.core, staged).await.expect("durable");
        due
    }
}

/// Memory of this process.
fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
}
