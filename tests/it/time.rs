//! SEMANTICS §1: time passes for people of whom no event comes. What is due happens in order, each at its own moment, and it
//! makes no difference when it is got round to: at once, at the next event, or after a restart hours later.

use std::collections::{BTreeMap, BTreeSet};

use tributary::definition::{self, Mode, Pipeline, TestPlan};

use crate::pipeline_tests::shipped_pipelines;
use crate::world::{TINY, World, for_seeds};

const ROOMY: usize = 64 << 20;

/// How a test's steps are gone through.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Timers fire at their moments, as `tributary test` has it.
    Straight,
    /// The clock is looked at in between, at random moments, and the process starts again now and then.
    Restless(u64),
    /// Nothing fires before the end but what the events of a person make due.
    Lazy,
    /// Every event is a batch.
    Each,
}

/// A change of a segment or stage, as the tables have it but for the order.
type Changes = BTreeMap<Vec<String>, usize>;

fn go(pipeline: &Pipeline, test: &TestPlan, way: Way, cache_bytes: usize) -> (Changes, u128) {
    let mut world = World::of(pipeline.clone(), cache_bytes);
    let mut random = fastrand::Rng::with_seed(if let Way::Restless(seed) = way { seed } else { 0 });
    for step in &test.steps {
        match way {
            Way::Lazy => {}
            Way::Restless(_) => {
                for _ in 0..random.u8(0..4) {
                    if world.clock > 0 && world.clock < step.at {
                        let now = random.i64(world.clock..=step.at);
                        world.pass(now);
                    }
                    if random.bool() {
                        world.restart();
                    }
                }
                world.pass(step.at);
            }
            Way::Straight | Way::Each => world.pass(step.at),
        }
        world.clock = step.at;
        for batch in step.events.chunk_by(|one, other| !matches!(way, Way::Each) && one.source == other.source) {
            let payload = |event: &tributary::definition::TestEvent| {
                (step.at, serde_json::Value::Object(event.envelope.clone()).to_string())
            };
            world.apply_json(&batch[0].source, batch.iter().map(payload));
        }
    }
    let now = world.clock;
    world.pass(now);
    let mut changes = Changes::new();
    for (table, columns) in [
        ("segment_changes", ["segment", "profile_id", "change", "cause", "changed_at"]),
        ("stage_changes", ["trait", "profile_id", "from_stage", "to_stage", "changed_at"]),
    ] {
        for row in world.rows(table) {
            let change = columns.iter().map(|column| row.get(*column).cloned().unwrap_or_default());
            *changes.entry(change.collect()).or_default() += 1;
        }
    }
    (changes, world.digest())
}

/// SEMANTICS §1 and §2: states are the same under any borders; under the same borders, and whenever timers are got round to,
/// so is each change with its moment.
#[test]
fn the_worked_cases_come_out_the_same_however_time_is_cut() {
    let mut tried = 0;
    let with_time = |path: &&std::path::PathBuf| {
        path.parent().is_some_and(|up| up.ends_with("traits")) || path.ends_with("pipelines/shop")
    };
    for path in shipped_pipelines().iter().filter(with_time) {
        let (mut pipeline, _) = definition::load(path, Mode::Check).expect("definitions");
        // Tests write standard events.
        pipeline.transform.maps.clear();
        for test in &pipeline.tests {
            if test.name.contains("contract") {
                continue; // has rejects, which is another matter
            }
            let (expected, digest) = go(&pipeline, test, Way::Straight, ROOMY);
            let what = |way| format!("{}, {}: {way:?}", path.display(), test.name);
            // Borders of RFM are as of when a scan is got round to: in the shop the last day of a span may be another.
            let ways = [Way::Restless(1), Way::Restless(2), Way::Lazy];
            for way in ways.into_iter().filter(|_| !path.ends_with("pipelines/shop")) {
                let (changes, found) = go(&pipeline, test, way, TINY);
                assert_eq!(changes, expected, "{}", what(way));
                assert_eq!(found, digest, "{}", what(way));
            }
            assert_eq!(go(&pipeline, test, Way::Each, TINY).1, digest, "{}", what(Way::Each));
            tried += 1;
        }
    }
    assert!(tried > 50, "only {tried} cases");
}

const WINDOW: &str = r#"pipeline: window
sources:
  site: { file: { path: none.ndjson }, format: { json: segment } }
traits:
  hour: { count: "*", window: 1h }
segments:
  busy: "hour >= 2"
"#;

/// SEMANTICS §1: `now` never decreases, also over a restart; §6: a timer that flips nothing says nothing, and what `profiles` shows
/// of a window is as of `_as_of`.
#[test]
fn now_never_decreases_and_a_timer_that_flips_nothing_says_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("window.yaml"), WINDOW).expect("file");
    let mut world = World::new(folder.path());
    let begin = 1_772_000_000_000_000;
    world.clock = begin;
    world.apply_json("site", std::iter::once(seen(1, begin)));
    assert!(world.core.next_due() <= begin + HOUR, "when the pane leaves");
    world.pass(begin + 2 * HOUR);
    assert_eq!(world.core.next_due(), i64::MAX, "nothing is left to come");
    assert!(world.rows("segment_changes").is_empty());
    assert_eq!(world.rows("profiles").len(), 1);
    assert_eq!(world.rows("profiles")[0]["hour"], "1");
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        // The machine's clock was set back.
        world.clock = begin;
        world.apply_json("site", std::iter::once(seen(1, begin + 1 + i64::from(restart))));
        assert_eq!(world.core.record.now, begin + 2 * HOUR);
        let rows = world.rows("profiles");
        let last = rows.last().expect("a row");
        assert_eq!((last["hour"].as_str(), micros(&last["_as_of"])), ("0", begin + 2 * HOUR));
    }
}

/// Somebody is seen.
fn seen(number: usize, at: i64) -> (i64, String) {
    let time = chrono::DateTime::from_timestamp_micros(at).expect("a time").to_rfc3339();
    let rest = format!(r#""messageId":"{number}-{at}","userId":"u{number}","timestamp":"{time}""#);
    (at, format!(r#"{{"type":"track","event":"Seen",{rest}}}"#))
}

/// A time as tables show it.
fn micros(text: &str) -> i64 {
    let time = chrono::NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), "%Y-%m-%dT%H:%M:%S%.f");
    time.expect("a time").and_utc().timestamp_micros()
}

const SILENCE: &str = r#"pipeline: silence
sources:
  site: { file: { path: none.ndjson }, format: { json: segment } }
segments:
  here:     "last_seen > now() - INTERVAL '1 hour'"
  away:     "NOT in_segment('here')"
  long_ago: "has_been('away', INTERVAL '1 day')"
"#;

const HOUR: i64 = 3_600_000_000;

/// SEMANTICS §1: a restart after days of silence catches up, the earliest first and each with its own time; §6: a commit fires
/// no more than so many timers, and events come in between.
#[test]
fn a_restart_after_silence_catches_up_in_order_and_starves_no_event() {
    const PEOPLE: usize = 21_000;
    const AT_ONCE: usize = 10_000;
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("silence.yaml"), SILENCE).expect("file");
    for_seeds("SILENCE_SEED", 1, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(folder.path());
        let begin = 1_772_000_000_000_000;
        let last: Vec<i64> = (0..PEOPLE).map(|_| begin - random.i64(0..HOUR)).collect();
        world.clock = begin;
        for first in (0..PEOPLE).step_by(3_000) {
            let part = first..PEOPLE.min(first + 3_000);
            world.apply_json("site", part.map(|number| seen(number, last[number])));
        }
        assert!(world.core.next_due() > begin, "those whose hour is over were found so at once");

        world.restart();
        world.clock = begin + 72 * HOUR;
        let ids: BTreeMap<String, String> = world
            .rows("identifiers")
            .into_iter()
            .map(|mut row| (row.remove("value").unwrap(), row.remove("profile_id").unwrap()))
            .collect();
        let due: BTreeMap<&String, i64> =
            (0..PEOPLE).map(|number| (&ids[&format!("u{number}")], last[number] + HOUR)).collect();
        let silent = world.commits.len();
        let mut came: BTreeSet<usize> = BTreeSet::new();
        let mut rounds = 0;
        while world.core.next_due() <= world.clock {
            assert!(world.fire());
            world.restart();
            // Somebody comes back meanwhile, whose turn it may not have been yet.
            let number = random.usize(0..PEOPLE);
            came.insert(number);
            let now = world.clock;
            world.apply_json("site", std::iter::once(seen(number, now)));
            rounds += 1;
            assert!(rounds < 10);
        }
        assert!(rounds >= PEOPLE / AT_ONCE, "{rounds} commits of timers");

        let changes = world.rows("segment_changes");
        let mut latest_first_due = i64::MIN;
        let mut of_person: BTreeMap<&String, Vec<(i64, &str, &str)>> = BTreeMap::new();
        for commit in silent as u64 + 1..=world.commits.len() as u64 {
            let rows: Vec<_> = changes.iter().filter(|row| row["_batch"] == commit.to_string()).collect();
            let people: BTreeSet<&String> = rows.iter().map(|row| &row["profile_id"]).collect();
            assert!(people.len() <= AT_ONCE, "{} timers in a commit", people.len());
            let timers = people.len() > 1;
            let first_due = people.iter().map(|id| due[*id]);
            if timers {
                assert!(first_due.clone().min() >= Some(latest_first_due), "the earliest come first");
                latest_first_due = first_due.max().expect("people");
            }
            for row in rows {
                let at = micros(&row["changed_at"]);
                of_person.entry(&row["profile_id"]).or_default().push((at, &row["segment"], &row["change"]));
            }
        }
        for number in 0..PEOPLE {
            let due = last[number] + HOUR;
            let mut expected =
                vec![(due, "here", "exited"), (due, "away", "entered"), (due + 24 * HOUR, "long_ago", "entered")];
            if came.contains(&number) {
                let now = begin + 72 * HOUR;
                expected.extend([(now, "here", "entered"), (now, "away", "exited"), (now, "long_ago", "exited")]);
            }
            assert_eq!(of_person[&ids[&format!("u{number}")]], expected, "of person {number} (seed {seed})");
        }
    });
}

const SCORED: &str = r#"pipeline: scored
sources:
  site: { file: { path: none.ndjson }, format: { json: segment } }
traits:
  seen:  { count: "*" }
  value: { rfm: { recency: last_seen, frequency: seen, monetary: seen, every: 1h } }
segments:
  away: "last_seen < now() - INTERVAL '90 minutes'"
"#;

/// SEMANTICS §1: what was due before a batch bears its own time also where everyone is just being judged by new borders of RFM.
#[test]
fn what_is_due_happens_at_its_moment_also_while_everyone_is_scored_anew() {
    let begin = 1_772_000_000_000_000_i64.div_euclid(HOUR) * HOUR + 60_000_000;
    let mut overtaken = 0;
    for sweeps in 0..5 {
        for comes_back in [true, false] {
            let folder = tempfile::tempdir().expect("folder");
            std::fs::write(folder.path().join("scored.yaml"), SCORED).expect("file");
            let mut world = World::new(folder.path());
            world.clock = begin;
            world.apply_json("site", [seen(1, begin), seen(2, begin)].into_iter());
            // The scan of the next hour begins, and ends or not.
            world.clock = begin + HOUR;
            world.apply_json("site", std::iter::once(seen(2, begin + HOUR)));
            for _ in 0..sweeps {
                world.sweep();
            }
            overtaken += usize::from(world.core.is_sweeping());
            world.clock = begin + 6 * HOUR;
            let number = if comes_back { 1 } else { 2 };
            world.apply_json("site", std::iter::once(seen(number, begin + 6 * HOUR)));
            while world.core.is_sweeping() {
                world.sweep();
            }
            let now = world.clock;
            world.pass(now);
            let changes = world.rows("segment_changes");
            let mut entered: Vec<(i64, &str)> = changes
                .iter()
                .filter(|row| row["change"] == "entered")
                .map(|row| (micros(&row["changed_at"]) - begin, row["cause"].as_str()))
                .collect();
            entered.sort_unstable();
            // `<` holds from the microsecond after.
            let (first, second) = ((HOUR * 3 / 2 + 1, "time"), (HOUR * 5 / 2 + 1, "time"));
            assert_eq!(entered, [first, second], "after {sweeps} sweeps, {comes_back}");
        }
    }
    assert!(overtaken > 2, "{overtaken}");
}
