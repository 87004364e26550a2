//! RFM traits: borders are those of everyone as they were when the scan was due, whatever came while it went on, and
//! scores are those of the values of now by the last borders (SEMANTICS §5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tributary::identity::Correction;

use crate::order;
use crate::world::{Event, Seen, World, for_seeds, random_events};

const DEFINITIONS: &str = r#"traits:
  orders:   { count: "*", event: Order Completed }
  revenue:  { sum: properties.total, event: Order Completed }
  last_buy: { max: timestamp, event: Order Completed }
  value:    { rfm: { recency: last_buy, frequency: orders, monetary: revenue, every: 1h } }
  grade:    { formula: "value.r + value.f" }
segments:
  best:   "value.segment = 'champions'"
  recent: "value.r >= 4"
  top:    "grade > 7 AND value.m = 5"
"#;

const EVERY_US: i64 = 3_600_000_000;

fn write(folder: &Path, definitions: &str) {
    let head = order::PIPELINE.split("traits:").next().expect("text");
    std::fs::write(folder.join("order.yaml"), format!("{head}{definitions}")).expect("file");
}

/// Recency, frequency, monetary.
type Values = (i64, f64, f64);

#[derive(Debug, Clone, PartialEq)]
struct Borders {
    recency: [i64; 4],
    frequency: [f64; 4],
    monetary: [f64; 4],
}

/// A profile's row as the tables show it, by column.
fn row(text: &str) -> BTreeMap<&str, &str> {
    text.split(' ').map(|cell| cell.split_once('=').expect("column=value")).collect()
}

fn values(row: &BTreeMap<&str, &str>) -> Option<Values> {
    let recency = chrono::DateTime::parse_from_rfc3339(row["last_buy"]).ok()?.timestamp_micros();
    let frequency: f64 = row["orders"].parse().expect("a number");
    (frequency > 0.0).then(|| (recency, frequency, row["revenue"].parse().expect("a number")))
}

/// Of everyone, by sorting.
fn borders(people: &[Values]) -> Option<Borders> {
    fn of<T: Copy + PartialOrd>(mut all: Vec<T>) -> [T; 4] {
        all.sort_by(|a, b| a.partial_cmp(b).expect("an order"));
        [1, 2, 3, 4].map(|k: usize| all[(k * all.len()).div_ceil(5) - 1])
    }
    (!people.is_empty()).then(|| Borders {
        recency: of(people.iter().map(|value| value.0).collect()),
        frequency: of(people.iter().map(|value| value.1).collect()),
        monetary: of(people.iter().map(|value| value.2).collect()),
    })
}

/// What the definitions say, worked out beside the engine.
#[derive(Debug, Default)]
struct Oracle {
    next: Option<i64>,
    people: Option<Vec<Values>>,
    borders: Option<Borders>,
    versions: usize,
}

impl Oracle {
    /// Before anything is done: a scan that is due sees everyone as they are.
    fn before(&mut self, world: &World) {
        let now = world.clock.max(world.core.record.now);
        let next = now.div_euclid(EVERY_US) * EVERY_US + EVERY_US;
        let due = *self.next.get_or_insert(next);
        if due <= now && !world.core.is_sweeping() {
            let seen = world.seen();
            self.people = Some(seen.profiles.values().filter_map(|text| values(&row(text))).collect());
            self.next = Some(next);
        }
    }

    /// When nothing is going on: everyone's scores are those of their values.
    fn check(&mut self, world: &World, seed: u64) {
        if world.core.is_sweeping() {
            return;
        }
        if let Some(found) = self.people.take().and_then(|people| borders(&people)) {
            self.borders = Some(found);
            self.versions += 1;
        }
        let Seen { profiles, members, .. } = world.seen();
        let mut expected: BTreeSet<(String, String)> = BTreeSet::new();
        for (id, text) in &profiles {
            let row = row(text);
            let scores = self.borders.as_ref().zip(values(&row)).map(|(borders, value)| {
                let r = 1 + borders.recency.iter().filter(|border| **border < value.0).count();
                let f = 1 + borders.frequency.iter().filter(|border| **border < value.1).count();
                let m = 1 + borders.monetary.iter().filter(|border| **border < value.2).count();
                (r, f, m)
            });
            let Some((r, f, m)) = scores else {
                assert_eq!((row["value_r"], row["value_score"], row["value_segment"]), ("∅", "∅", "∅"), "seed {seed}");
                continue;
            };
            let shown = ["value_r", "value_f", "value_m", "value_score", "grade"].map(|name| row[name].to_string());
            let wanted = [r.to_string(), f.to_string(), m.to_string(), format!("{r}{f}{m}"), (r + f).to_string()];
            assert_eq!(shown, wanted, "{text} (seed {seed})");
            let is = [("best", row["value_segment"] == "champions"), ("recent", r >= 4), ("top", r + f > 7 && m == 5)];
            expected.extend(is.iter().filter(|(_, is)| *is).map(|(name, _)| (name.to_string(), id.clone())));
            assert_eq!(row["value_segment"] == "champions", r == 5 && f >= 4);
        }
        assert_eq!(members, expected, "seed {seed}");
        let rows = world.rows("rfm_borders");
        assert_eq!(rows.len(), self.versions, "seed {seed}");
        if let (Some(last), Some(borders)) = (rows.last(), &self.borders) {
            assert_eq!(last["version"], self.versions.to_string());
            let shown = ["frequency_1", "frequency_2", "frequency_3", "frequency_4"];
            assert_eq!(shown.map(|name| last[name].parse::<f64>().expect("a number")), borders.frequency);
        }
    }
}

/// Many people of few events in some runs, few of many in others.
fn events(random: &mut fastrand::Rng) -> Vec<Event> {
    let count = random.usize(5..150);
    let mut events = random_events(random, count, 0);
    let people = random.u8(1..60);
    if random.bool() {
        for event in &mut events {
            if random.u8(0..10) == 0 {
                continue;
            }
            event.user_id = Some(format!("u{}", random.u8(0..people)));
            (event.email, event.anonymous_id) = (None, None);
            event.traits.clear();
        }
    }
    events
}

#[test]
fn scores_are_fifths_of_everyone_at_the_last_scan() {
    for_seeds("RFM_SEED", 60, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().expect("folder");
        write(folder.path(), DEFINITIONS);
        let mut world = World::new(folder.path());
        world.clock = 1_772_000_000_000_000;
        let mut oracle = Oracle::default();
        let events = events(&mut random);
        // What is not committed is not remembered, and the first commit is what the first scan is counted from.
        let (first, mut rest) = events.split_at(1);
        oracle.before(&world);
        world.apply(first);
        let mut rounds = 0;
        while !rest.is_empty() || world.core.is_sweeping() || rounds < 60 {
            rounds += 1;
            match random.u8(0..10) {
                0..4 if !rest.is_empty() => {
                    oracle.before(&world);
                    let (batch, after) = rest.split_at(random.usize(1..=rest.len().min(12)));
                    rest = after;
                    world.apply(batch);
                }
                4..7 => {
                    oracle.before(&world);
                    world.sweep();
                }
                7 => world.restart(),
                8 => {
                    let names: Vec<String> = world.seen().identifiers.into_keys().collect();
                    if random.u8(0..4) == 0 && names.len() > 1 {
                        let (a, b) = (random.choice(&names).expect("one"), random.choice(&names).expect("one"));
                        if a != b {
                            oracle.before(&world);
                            world.correct(Correction::Cut(world.named(a), world.named(b)), None);
                        }
                    }
                }
                _ => world.clock += random.i64(0..EVERY_US),
            }
            oracle.check(&world, seed);
        }
    });
}

/// A definition that is new on a state with people is scanned at once, after its fill; nobody waits for midnight.
#[test]
fn a_new_trait_is_scanned_when_it_is_filled() {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), "traits:\n  orders: { count: \"*\", event: Order Completed }\n");
    let mut world = World::new(folder.path());
    world.clock = 1_772_000_000_000_000;
    let mut random = fastrand::Rng::with_seed(3);
    world.apply(&random_events(&mut random, 15, 0));
    write(folder.path(), DEFINITIONS);
    world.redefine(folder.path());
    while world.fill_some(7) {}
    while world.sweep() {}
    let seen = world.seen();
    let people: Vec<Values> = seen.profiles.values().filter_map(|text| values(&row(text))).collect();
    let mut oracle = Oracle { people: Some(people), ..Oracle::default() };
    oracle.check(&world, 3);
    assert_eq!(oracle.versions, 1);
    let causes: BTreeSet<String> = world.rows("segment_changes").iter().map(|row| row["cause"].clone()).collect();
    assert_eq!(causes, BTreeSet::from(["time".to_string()]));
}
