//! What identity decides depends on the order of events and on nothing else (SEMANTICS §2, §4): not on how they are cut
//! into batches, not on what is in memory, not on a restart. Tried on the worked cases of `pipelines/identity` and on
//! random events under limits.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use tributary::definition::{self, Mode, Pipeline, TestEvent};
use tributary::event::TimeUs;
use tributary::identity::Correction;

use crate::order::PIPELINE;
use crate::pipeline_tests::shipped_pipelines;
use crate::world::{Event, Seen, TINY, World, for_seeds, random_events};

/// Far more than any of these needs.
const ROOMY: usize = 64 << 20;

fn load(path: &Path) -> Pipeline {
    let loaded = definition::load(path, Mode::Check);
    let (pipeline, _) = loaded.unwrap_or_else(|findings| panic!("{}: {} findings", path.display(), findings.len()));
    pipeline
}

/// Everything that may not depend on borders.
#[derive(Debug, PartialEq)]
struct Outcome {
    seen: Seen,
    /// As the tables have them but for the batch, ids followed through merges.
    conflicts: Vec<BTreeMap<String, String>>,
    /// `identity_decision` by message id.
    decisions: BTreeMap<String, String>,
    digest: u128,
}

fn outcome(world: &World) -> Outcome {
    let mut merged: HashMap<String, String> = HashMap::new();
    for mut row in world.rows("profile_merges") {
        merged.insert(row.remove("old_profile_id").unwrap(), row.remove("profile_id").unwrap());
    }
    let mut conflicts = world.rows("identity_conflicts");
    for row in &mut conflicts {
        row.retain(|column, _| !matches!(column.as_str(), "_batch" | "_seq"));
        assert_ne!(row["profile_id"], "∅", "{row:?}");
        for column in ["profile_id", "other_profile_id"] {
            if let Some(last) = merged.get(&row[column]) {
                row.insert(column.to_string(), last.clone());
            }
        }
    }
    let decisions = world.rows("events").into_iter().map(|mut row| {
        let text = |value: Option<String>| value.unwrap_or_default();
        (text(row.remove("message_id")), text(row.remove("identity_decision")))
    });
    Outcome { decisions: decisions.collect(), conflicts, seen: world.seen(), digest: world.digest() }
}

/// How events are cut into batches.
#[derive(Debug, Clone, Copy)]
enum Borders {
    One,
    Each,
    /// With a restart now and then.
    Random(u64),
}

/// Cuts, and how much memory there is.
const WAYS: [(Borders, usize); 6] = [
    (Borders::One, TINY),
    (Borders::Each, ROOMY),
    (Borders::Each, TINY),
    (Borders::Random(1), TINY),
    (Borders::Random(2), TINY),
    (Borders::Random(3), ROOMY),
];

impl Borders {
    fn run(self, world: &mut World, count: usize, apply: impl Fn(&mut World, std::ops::Range<usize>)) {
        let seed = if let Borders::Random(seed) = self { seed } else { 0 };
        let (mut random, mut from) = (fastrand::Rng::with_seed(seed), 0);
        while from < count {
            let upto = match self {
                Borders::One => count,
                Borders::Each => from + 1,
                Borders::Random(_) => random.usize(from + 1..=count.min(from + 12)),
            };
            apply(world, from..upto);
            from = upto;
            if matches!(self, Borders::Random(_)) && random.u8(0..4) == 0 {
                world.restart();
            }
        }
    }
}

#[test]
fn the_worked_cases_come_out_the_same_however_they_are_cut() {
    let mut tried = 0;
    for path in shipped_pipelines().iter().filter(|path| path.parent().is_some_and(|up| up.ends_with("identity"))) {
        let pipeline = load(path);
        for test in &pipeline.tests {
            let steps = test.steps.iter().flat_map(|step| step.events.iter().map(|event| (step.at, event)));
            let events: Vec<(TimeUs, &TestEvent)> = steps.collect();
            let run = |borders: Borders, cache_bytes| {
                let mut world = World::of(pipeline.clone(), cache_bytes);
                borders.run(&mut world, events.len(), |world, range| {
                    // A batch is of one source.
                    for part in events[range].chunk_by(|one, other| one.1.source == other.1.source) {
                        let payload = |event: &TestEvent| serde_json::Value::Object(event.envelope.clone()).to_string();
                        let payloads = part.iter().map(|(at, event)| (*at, payload(event)));
                        world.apply_json(&part[0].1.source, payloads);
                    }
                });
                outcome(&world)
            };
            let expected = run(Borders::One, ROOMY);
            for (borders, cache_bytes) in WAYS {
                let found = run(borders, cache_bytes);
                assert_eq!(found, expected, "{}, {}: {borders:?}, {cache_bytes}", path.display(), test.name);
            }
            tried += 1;
        }
    }
    assert!(tried > 60, "only {tried} cases");
}

fn pipeline_with(identity: &str) -> Pipeline {
    let folder = tempfile::tempdir().expect("folder");
    let (before, rest) = PIPELINE.split_once("identity:").expect("a section");
    let (_, after) = rest.split_once("traits:").expect("a section");
    let text = format!("{before}identity:\n{identity}\ntraits:{after}");
    std::fs::write(folder.path().join("order.yaml"), text).expect("file");
    load(folder.path())
}

const LIMITS: [(&str, &str); 6] = [
    ("keep", "  identifiers: [ user_id: { limit: 1 }, email: { limit: 2 }, anonymous_id: { limit: 3 } ]"),
    (
        "reassign",
        "  identifiers: [ user_id: { limit: 1 }, email: { limit: 2 }, anonymous_id: { limit: 3 } ]\n  on_conflict: reassign",
    ),
    (
        "reassign the best type",
        "  identifiers: [ user_id, email: { limit: 1 }, anonymous_id ]\n  on_conflict: reassign",
    ),
    (
        "windows",
        "  identifiers: [ user_id: { limit: 2 per 4h }, email: { limit: 1 per 2h }, anonymous_id: { limit: 2 per 3h } ]",
    ),
    (
        "windows, reassign",
        "  identifiers: [ user_id: { limit: 1 }, email: { limit: 1 per 1h }, anonymous_id: { limit: 2 per 3h } ]\n  on_conflict: reassign",
    ),
    (
        "hub",
        "  identifiers: [ user_id: { limit: 3 }, email, anonymous_id ]\n  max_identifiers: 5\n  on_conflict: reassign",
    ),
];

#[test]
fn random_events_under_limits_come_out_the_same_however_they_are_cut() {
    for (name, identity) in LIMITS {
        let pipeline = pipeline_with(identity);
        let refused = Cell::new(0);
        for_seeds("LIMIT_SEED", 8, |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(40..200);
            let events = random_events(&mut random, count, 0);
            let run = |borders: Borders, cache_bytes| {
                let mut world = World::of(pipeline.clone(), cache_bytes);
                borders.run(&mut world, events.len(), |world, range| world.apply(&events[range]));
                outcome(&world)
            };
            let expected = run(Borders::One, ROOMY);
            refused.set(refused.get() + expected.conflicts.len());
            within_limits(&pipeline, &expected.seen, &format!("{name}, seed {seed}"));
            for (borders, cache_bytes) in WAYS {
                let found = run(borders, cache_bytes);
                assert_eq!(found, expected, "{name}: {borders:?}, {cache_bytes} (seed {seed})");
            }
        });
        assert!(refused.get() > 20, "{name}: only {} conflicts", refused.get());
    }
}

/// Limits without a span hold for every profile.
fn within_limits(pipeline: &Pipeline, seen: &Seen, what: &str) {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut totals: BTreeMap<&str, u32> = BTreeMap::new();
    for (name, id) in &seen.identifiers {
        let (kind, _) = name.split_once(':').expect("type:value");
        *counts.entry((id, kind)).or_default() += 1;
        *totals.entry(id).or_default() += 1;
    }
    for kind in &pipeline.identity.types {
        let Some(limit) = kind.limit.filter(|limit| limit.within.is_none()) else { continue };
        let over = counts.iter().find(|((_, name), count)| *name == kind.name && **count > limit.count);
        assert_eq!(over, None, "{what}");
    }
    assert!(totals.values().all(|total| *total <= pipeline.identity.max_identifiers), "{what}");
}

/// With one user per profile, a device is with the user of the latest event that has both, in whatever order they come
/// and whatever was done on the device without a user.
#[test]
fn a_reassigned_device_is_with_its_latest_user_in_any_order() {
    let pipeline = pipeline_with("  identifiers: [ user_id: { limit: 1 }, anonymous_id ]\n  on_conflict: reassign");
    for_seeds("DEVICE_SEED", 30, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut latest: BTreeMap<String, (i64, String, String)> = BTreeMap::new();
        let mut events: Vec<Event> = (0..random.usize(10..120))
            .map(|number| {
                let mut event = random_events(&mut random, 1, number).remove(0);
                // Few times, so that message ids decide.
                let at = 1_772_000_000 + 3600 * random.i64(0..12);
                let time = chrono::DateTime::from_timestamp(at, 0).expect("a time").to_rfc3339();
                event.user_id = (random.u8(0..4) > 0).then(|| format!("u{}", random.u8(0..5)));
                event.anonymous_id = (random.u8(0..5) > 0).then(|| format!("a{}", random.u8(0..6)));
                (event.email, event.traits) = (None, Vec::new());
                event.rest = vec![r#""type":"track","event":"Seen""#.to_string(), format!(r#""timestamp":"{time}""#)];
                event.timestamp = at * 1_000_000;
                if let (Some(user), Some(device)) = (&event.user_id, &event.anonymous_id) {
                    let seen = (at, event.message_id.clone(), user.clone());
                    let known = latest.entry(device.clone()).or_insert_with(|| seen.clone());
                    *known = known.clone().max(seen);
                }
                event
            })
            .collect();
        for round in 0..3 {
            let mut world = World::of(pipeline.clone(), TINY);
            world.apply_in_batches(&events, &mut random);
            let seen = world.seen();
            for (device, (_, message_id, user)) in &latest {
                let whose = |name: String| seen.identifiers.get(&name).cloned();
                let (device, user) = (format!("anonymous_id:{device}"), format!("user_id:{user}"));
                assert_eq!(whose(device), whose(user), "of event {message_id}, round {round} (seed {seed})");
            }
            random.shuffle(&mut events);
        }
    });
}

/// Two identifiers that were cut from each other can be one person's all the same. An event with both names that person,
/// whose component need not be in memory.
#[test]
fn a_conflict_within_one_profile_names_the_profile() {
    let mut world = World::of(pipeline_with("  identifiers: [ user_id, email, anonymous_id ]"), TINY);
    let event = |number: usize, names: [Option<&str>; 3]| {
        let mut event = random_events(&mut fastrand::Rng::with_seed(7), 1, number).remove(0);
        let [user, email, device] = names.map(|name| name.map(str::to_string));
        (event.user_id, event.email, event.anonymous_id) = (user, email, device);
        event
    };
    let email = Some("e1@shop.example");
    world.apply(&[event(0, [Some("u1"), email, None]), event(1, [None, email, Some("a1")])]);
    world.apply(&[event(2, [Some("u1"), None, Some("a1")])]);
    let cut = Correction::Cut(world.named("user_id:u1"), world.named("anonymous_id:a1"));
    world.correct(cut, None);
    world.restart();
    world.apply(&[event(3, [Some("u1"), None, Some("a1")])]);
    let conflicts = world.rows("identity_conflicts");
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!(conflicts[0]["profile_id"], world.seen().identifiers["user_id:u1"]);
    assert_eq!((conflicts[0]["cause"].as_str(), conflicts[0]["other_profile_id"].as_str()), ("cut", "∅"));
}

/// A rebuild does not decide again: after a ban of what one event alone had, everybody is who they were, limits and
/// reassigned identifiers or not.
#[test]
fn a_rebuild_replays_what_was_decided() {
    for (name, identity) in LIMITS {
        let pipeline = pipeline_with(identity);
        let compared = Cell::new(0);
        for_seeds("REPLAY_SEED", 16, |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(40..200);
            let mut events = random_events(&mut random, count, 0);
            let (alone, at) = ("once@shop.example", random.usize(0..count));
            events[at].email = Some(alone.to_string());
            let mut world = World::of(pipeline.clone(), TINY);
            world.apply_in_batches(&events, &mut random);
            let mut before = world.seen();
            let alone = format!("email:{alone}");
            // Where it is alone the profile goes with it, and where it was set aside there is nothing to ban.
            let Some(id) = before.identifiers.remove(&alone) else { return };
            if !before.identifiers.values().any(|other| *other == id) {
                return;
            }
            let corrected = world.correct(Correction::Ban(world.named(&alone)), None);
            assert_eq!(corrected.refused, None, "{name}, seed {seed}");
            let after = world.seen();
            let what = format!("{name}, seed {seed}, {:?}", events[at]);
            // A device that was joined by this e-mail alone is a person by itself now.
            if events[at].user_id.is_some() {
                compared.set(compared.get() + 1);
                assert_eq!(after.identifiers, before.identifiers, "{what}");
                assert_eq!(after.events, before.events, "{what}");
                assert_eq!(after.profiles, before.profiles, "{what}");
            }
            world.restart();
            let more = random_events(&mut random, 30, count);
            world.apply_in_batches(&more, &mut random);
            within_limits(&pipeline, &world.seen(), &what);
        });
        assert!(compared.get() > 0, "{name}: nothing was compared");
    }
}
