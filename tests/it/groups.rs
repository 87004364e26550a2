//! Groups: any order, duplication and batching of events gives the same groups, whoever merges meanwhile; and what a group
//! counts follows merges, time, other definitions and corrections.

use std::path::Path;

use tributary::identity::Correction;

use crate::order;
use crate::world::{Event, World, for_seeds, random_events};

const GROUPS: &str = r#"groups:
  account:
    traits:
      people:   { distinct: profile_id }
      active:   { distinct: profile_id, window: 1h }
      first_by: { first: profile_id }
      last_by:  { latest: profile_id, event: Order Completed }
      busiest:  { most_frequent: profile_id }
      by_who:   { sum: properties.total, event: Order Completed, by: profile_id }
      by_plan:  { distinct: profile_id, by: traits.plan }
      orders:   { count: "*", event: Order Completed }
      known:    { count: profile_id }
      plan:     { latest: traits.plan }
      per_head: { formula: "orders / people.count" }
      size:     { stages: [ { crowd: "people.count > 3" }, { some: "people.count > 0" } ] }
    segments:
      crowded:  "people.count > 3"
      buying:   "orders > 2"
      both:     "in_segment('crowded') AND in_segment('buying')"
      lonely:   "people.count = 1"
  campaign:
    id: context.campaign.source
    traits:   { accounts: { distinct: group_id } }
    segments: { broad: "accounts.count > 2" }
"#;

fn write(folder: &Path, groups: &str) {
    let head = order::PIPELINE.split("aggregates:").next().expect("text");
    std::fs::write(folder.join("groups.yaml"), format!("{head}{groups}")).expect("file");
}

fn world(groups: &str) -> (tempfile::TempDir, World) {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), groups);
    let world = World::new(folder.path());
    (folder, world)
}

/// Promise 2 for groups.
#[test]
fn any_order_batching_and_duplication_gives_the_same_groups() {
    for_seeds("GROUPS_SEED", 25, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(20..250);
        let events = random_events(&mut random, count, 0);
        let clock = events.iter().map(|event| event.timestamp).max().expect("an event");
        let run = |order: &[usize], random: &mut fastrand::Rng| {
            let (_folder, mut world) = world(GROUPS);
            world.clock = clock;
            let mut rest: Vec<Event> = order.iter().map(|index| events[*index].clone()).collect();
            while !rest.is_empty() {
                let after = rest.split_off(random.usize(1..=rest.len().min(60)));
                world.apply_in_batches(&rest, random);
                rest = after;
                if random.u8(0..4) == 0 {
                    world.restart();
                }
            }
            (world.seen(), world.digest())
        };
        let straight: Vec<usize> = (0..events.len()).collect();
        let (expected, digest) = run(&straight, &mut random);
        assert!(expected.profiles.keys().any(|key| key.starts_with("groups_account:")), "seed {seed}");
        for round in 0..3 {
            let mut order = straight.clone();
            order.extend((0..events.len()).filter(|_| random.u8(0..3) == 0).collect::<Vec<_>>());
            random.shuffle(&mut order);
            let (shuffled, other) = run(&order, &mut random);
            assert_eq!(shuffled.members, expected.members, "members, round {round} (seed {seed})");
            assert_eq!(shuffled.profiles, expected.profiles, "round {round} (seed {seed})");
            assert_eq!(other, digest, "digest, round {round} (seed {seed})");
        }
    });
}

fn event(id: &str, user: Option<&str>, device: Option<&str>, group: Option<&str>, at: i64) -> Event {
    let mut rest = vec![r#""type":"track","event":"Looked Around""#.to_string()];
    let time = chrono::DateTime::from_timestamp(at, 0).expect("a time").to_rfc3339();
    rest.push(format!(r#""timestamp":"{time}""#));
    rest.extend(group.map(|group| format!(r#""groupId":"{group}""#)));
    Event {
        message_id: id.to_string(),
        user_id: user.map(str::to_string),
        email: None,
        anonymous_id: device.map(str::to_string),
        traits: Vec::new(),
        rest,
        timestamp: at * 1_000_000,
    }
}

/// The latest value of a column for a group that is there.
fn value(world: &World, table: &str, group: &str, column: &str) -> Option<String> {
    let rows = world.rows(table).into_iter().rfind(|row| row["group_id"] == group)?;
    (rows["deleted"] == "false").then(|| rows[column].clone())
}

fn members(world: &World) -> Vec<(String, String)> {
    world.seen().members.into_iter().filter(|(segment, _)| segment.contains('.')).collect()
}

fn member(segment: &str, group: &str) -> (String, String) {
    (segment.to_string(), group.to_string())
}

/// Reads and judges whatever a fill has left.
fn finish(world: &mut World) {
    while world.core.fill.is_some() {
        let sweeping = world.core.is_sweeping();
        let _more = if sweeping { world.sweep() } else { world.fill_some(1) };
    }
}

const T: i64 = 1_772_000_000;

#[test]
fn two_ids_that_become_one_person_count_once_where_neither_of_them_comes_by() {
    let (_folder, mut world) = world(
        r#"groups:
  account:
    traits:   { people: { distinct: profile_id } }
    segments: { two: "people.count = 2" }
"#,
    );
    world.clock = T * 1_000_000;
    let two = [
        event("m1", None, Some("a1"), Some("acme"), T),
        event("m2", None, Some("a2"), Some("acme"), T),
        event("m3", None, None, Some("acme"), T),
    ];
    world.apply(&two);
    assert_eq!(value(&world, "groups_account", "acme", "people_count").as_deref(), Some("2"));
    assert_eq!(value(&world, "groups_account", "acme", "events").as_deref(), Some("3"), "nobody's event counts too");
    assert_eq!(members(&world), [member("account.two", "acme")]);
    // Each gets another id, and then they are one: the events name no group.
    world.apply(&[event("m4", Some("u1"), Some("a1"), None, T)]);
    assert_eq!(value(&world, "groups_account", "acme", "people_count").as_deref(), Some("2"));
    world.restart();
    world.apply(&[event("m5", Some("u1"), Some("a2"), None, T)]);
    assert_eq!(value(&world, "groups_account", "acme", "people_count").as_deref(), Some("1"));
    assert_eq!(members(&world), []);
    let changes = world.rows("group_segment_changes");
    let last = changes.last().expect("an exit");
    assert_eq!((last["change"].as_str(), last["cause"].as_str()), ("exited", "event"));
}

#[test]
fn windows_of_groups_leave_by_timers() {
    let (_folder, mut world) = world(
        r#"groups:
  account:
    traits:   { active: { distinct: profile_id, window: 1h } }
    segments: { weekly: "active.count >= 2" }
"#,
    );
    let hour = 3_600;
    let start = T / hour * hour;
    world.clock = start * 1_000_000;
    world.apply(&[
        event("m1", Some("u1"), None, Some("acme"), start),
        event("m2", Some("u2"), None, Some("acme"), start),
    ]);
    assert_eq!(members(&world), [member("account.weekly", "acme")]);
    world.restart();
    world.pass((start + hour) * 1_000_000 - 1);
    assert_eq!(members(&world).len(), 1);
    world.pass((start + hour) * 1_000_000);
    assert_eq!(members(&world), []);
    let changes = world.rows("group_segment_changes");
    let last = changes.last().expect("an exit");
    assert_eq!(last["cause"], "time");
    assert!(last["changed_at"].starts_with("2026-02-25T07:00:00"), "{last:?}");
}

/// SEMANTICS §10 for groups: what the definition makes of the past is there, and what it no longer makes is gone.
#[test]
fn groups_of_another_definition_take_the_places_of_the_old_ones() {
    let groups = |id: &str| {
        format!(
            "groups:\n  account:\n    id: \"{id}\"\n    traits: {{ people: {{ distinct: profile_id }} }}\n    \
             segments: {{ any: \"events > 0\" }}\n"
        )
    };
    let (folder, mut world) = world(&groups("group_id"));
    world.clock = T * 1_000_000;
    world.apply(&[event("m1", Some("u1"), None, Some("acme"), T), event("m2", Some("u2"), None, Some("u1"), T)]);
    assert_eq!(members(&world), [member("account.any", "acme"), member("account.any", "u1")]);
    write(folder.path(), &groups("user_id"));
    world.redefine(folder.path());
    world.apply(&[event("m3", Some("u1"), None, None, T)]);
    finish(&mut world);
    assert_eq!(members(&world), [member("account.any", "u1"), member("account.any", "u2")]);
    assert_eq!(value(&world, "groups_account", "acme", "events"), None);
    assert_eq!(value(&world, "groups_account", "u1", "events").as_deref(), Some("2"));
    assert_eq!(world.core.record.segment_sizes, [("account.any".to_string(), 2)].into());
    assert_eq!(world.profiles().iter().filter(|profile| profile.group.is_some()).count(), 2);

    write(folder.path(), "");
    world.redefine(folder.path());
    finish(&mut world);
    assert_eq!(members(&world), []);
    assert!(world.core.record.segment_sizes.is_empty());
    assert_eq!(world.profiles().len(), world.people().len());
}

#[test]
fn who_was_taken_apart_counts_twice_from_the_next_start_on() {
    let (_folder, mut world) = world(
        r#"groups:
  account:
    traits:   { people: { distinct: profile_id } }
    segments: { two: "people.count = 2", any: "people.count > 0" }
"#,
    );
    world.clock = T * 1_000_000;
    world.apply(&[
        event("m1", Some("u1"), None, Some("acme"), T),
        event("m2", Some("u2"), Some("a1"), Some("acme"), T),
        event("m3", Some("u1"), Some("a1"), None, T),
    ]);
    assert_eq!(value(&world, "groups_account", "acme", "people_count").as_deref(), Some("1"));
    let cut = Correction::Cut(world.named("user_id:u1"), world.named("anonymous_id:a1"));
    let corrected = world.correct(cut, None);
    assert_eq!(corrected.profiles.len(), 2, "{corrected:?}");
    world.restart();
    // What is being counted anew lets nobody go.
    world.apply(&[event("m4", Some("u1"), None, Some("acme"), T)]);
    finish(&mut world);
    assert_eq!(value(&world, "groups_account", "acme", "people_count").as_deref(), Some("2"));
    assert_eq!(members(&world), [member("account.any", "acme"), member("account.two", "acme")]);
    assert!(world.rows("group_segment_changes").iter().all(|row| row["change"] == "entered"));
    world.restart();
    assert!(world.core.fill.is_none());
}
