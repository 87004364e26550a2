//! The oracle (SEMANTICS §1, §2, §5, §6, §11): what the stream keeps up to date is what its definitions say, computed anew
//! as SQL on the lake and on ClickHouse.
//!
//! A world has random definitions, written as YAML, and random events: late, early, twice, with ties, of people who turn
//! out to be one. Its clock goes on by minutes or months. At every stop each trait and each segment is a case: the values
//! of all people, and who is in it, against both statements. Where time alone let someone in or out, the statements must
//! say so at that microsecond and not one before.
//!
//! `ORACLE_SEED` is the first seed, `ORACLE_WORLDS` how many follow: `ORACLE_WORLDS=2000 cargo test --test it oracle`.

mod compare;
mod definitions;
mod events;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::world::{World, for_long_seeds};

const HOUR_US: i64 = 3_600_000_000;

/// Definitions at a clock that were compared on each engine.
#[derive(Default)]
struct Count {
    lake: AtomicUsize,
    clickhouse: AtomicUsize,
    flips: AtomicUsize,
}

fn add(count: &AtomicUsize, more: usize) {
    count.fetch_add(more, Relaxed);
}

/// From a minute to months, and to the edge of what is kept in hours and days.
fn step_us(random: &mut fastrand::Rng, clock: i64) -> i64 {
    let minute = HOUR_US / 60;
    match random.u8(0..8) {
        0 => random.i64(1..20) * minute,
        1 => random.i64(1..HOUR_US),
        2 => random.i64(1..30) * HOUR_US,
        3 => (clock / HOUR_US + 1) * HOUR_US - clock,
        4 => (clock / (24 * HOUR_US) + 1) * 24 * HOUR_US - clock - random.i64(0..2),
        5 => random.i64(1..10) * 24 * HOUR_US,
        6 => random.i64(10..100) * 24 * HOUR_US + random.i64(0..HOUR_US),
        _ => 0,
    }
}

fn run(seed: u64, clickhouse: bool, count: &Count) {
    let mut random = fastrand::Rng::with_seed(seed);
    let definitions = definitions::random(&mut random);
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("oracle.yaml"), &definitions).expect("file");
    let mut world = World::new(folder.path());
    world.clock = 1_772_000_000_000_000 + random.i64(0..48) * HOUR_US;
    let mut events = events::Events::default();
    let mut oracle = compare::Oracle::new(&world, seed, &definitions, clickhouse);
    for _ in 0..random.usize(3..7) {
        world.clock += step_us(&mut random, world.clock);
        // Timers that are due fire before the batch does it for its own people, or with it.
        if random.bool() {
            let before = world.commits.len();
            while world.fire() {}
            add(&count.flips, oracle.check_flips(&world, before, &mut random));
        }
        for _ in 0..random.usize(1..4) {
            let (source, batch) = events.batch(&mut random, world.clock);
            world.apply_json(source, batch.into_iter());
            if random.u8(0..8) == 0 {
                world.restart();
            }
        }
        while world.fire() {}
        add(&count.lake, oracle.check_lake(&world));
        if clickhouse {
            add(&count.clickhouse, oracle.check_clickhouse(&world));
        }
    }
    // Long after the last event.
    world.clock += random.i64(1..400) * 24 * HOUR_US;
    let before = world.commits.len();
    while world.fire() {}
    add(&count.flips, oracle.check_flips(&world, before, &mut random));
    add(&count.lake, oracle.check_lake(&world));
    if clickhouse {
        add(&count.clickhouse, oracle.check_clickhouse(&world));
    }
}

/// What the oracle has found.
#[test]
fn someone_new_is_judged_for_what_reads_nothing_but_samples() {
    let folder = tempfile::tempdir().expect("folder");
    let definitions = r#"pipeline: oracle
sources: { site: { file: { path: none.ndjson }, format: { json: segment } } }
segments:
  all: { sample: 100% }
  named: "in_segment('all')"
  others: "NOT in_segment('all')"
  others_too: "in_segment('others')"
"#;
    std::fs::write(folder.path().join("oracle.yaml"), definitions).expect("file");
    let mut world = World::new(folder.path());
    let event = r#"{"messageId":"m1","userId":"u1","type":"track","event":"Rated","timestamp":"2026-01-01T00:00:00Z"}"#;
    world.apply_json("site", std::iter::once((1_767_225_600_000_000, event.to_string())));
    let entered: Vec<String> = world.rows("segment_changes").into_iter().map(|row| row["segment"].clone()).collect();
    assert_eq!(entered, ["all", "named"]);
}

fn worlds(usual: u64) -> u64 {
    std::env::var("ORACLE_WORLDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn traits_and_members_are_what_their_definitions_say_as_sql() {
    let count = Count::default();
    for_long_seeds("ORACLE_SEED", worlds(12), |seed| run(seed, seed % 4 == 0, &count));
    println!(
        "{} cases on the lake, {} on ClickHouse; {} entries and exits by time alone",
        count.lake.load(Relaxed),
        count.clickhouse.load(Relaxed),
        count.flips.load(Relaxed)
    );
    if std::env::var("ORACLE_WORLDS").is_err() {
        assert!(
            count.lake.load(Relaxed) > 1_200 && count.clickhouse.load(Relaxed) > 200 && count.flips.load(Relaxed) > 10
        );
    }
}
