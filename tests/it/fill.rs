//! Promise 4, SEMANTICS §10: a definition that is new or changed knows the past up to an exact commit, and goes on live
//! from there. Whatever comes in between, and wherever it is stopped, the end is that of a state that had the
//! definition from the start.

use std::path::Path;

use crate::order;
use crate::world::{World, for_seeds, random_events};

const BEFORE: &str = r#"traits:
  plan:     { latest: traits.plan }
  orders:   { count: "*", event: Order Completed, where: "properties.total > 150" }
  gone:     { max: properties.total, event: Order Completed }
segments:
  customers: "orders >= 1"
  big:       "gone > 100"
  old:       "events > 1"
  pro:       "plan = 'pro'"
groups:
  account:
    traits:   { people: { distinct: profile_id }, total: { sum: properties.total, event: Order Completed } }
    segments: { crowded: "people.count > 3", seen: "events > 2", going: "total > 0" }
  moving:
    id: "coalesce(group_id, user_id)"
    traits:   { orders: { count: "*", event: Order Completed } }
    segments: { buying: "orders >= 1", seen: "events > 2" }
  leaving:
    traits:   { orders: { count: "*", event: Order Completed } }
    segments: { buying: "orders >= 1" }
"#;

/// Of groups `account` has other traits, `moving` means other groups, `leaving` is gone and `coming` is new; of people
/// `orders` and with it `customers` mean something else, `big` and `both` too, `old` and `gone` are gone, the rest is new.
const AFTER: &str = r#"traits:
  plan:     { latest: traits.plan }
  orders:   { count: "*", event: Order Completed }
  home:     { latest: traits.plan, on_merge: survivor }
  revenue:  { sum: properties.total, event: Order Completed }
  mean:     { mean: properties.total, event: Order Completed }
  recent:   { count: "*", window: 12h }
  by_plan:  { count: "*", event: Order Completed, by: properties.currency }
  engaged:  { formula: "orders + recent" }
  stage:    { stages: [ { some: "recent > 2" }, { none: "true" } ] }
segments:
  customers: "orders >= 1"
  big:       "revenue > 300"
  pro:       "plan = 'pro'"
  both:      "in_segment('big') AND in_segment('pro')"
  lively:    "engaged > 3"
  some:      "stage = 'some'"
  half:      { sample: 50% }
groups:
  account:
    traits:
      people:  { distinct: profile_id }
      last:    { latest: profile_id, event: Order Completed }
      by_who:  { count: "*", by: profile_id }
      total:   { sum: properties.total, event: Order Completed, where: "properties.total > 50" }
      engaged: { formula: "people.count + total" }
      stage:   { stages: [ { some: "people.count > 2" }, { none: "true" } ] }
    segments:
      crowded: "people.count > 2"
      seen:    "events > 2"
      rich:    "total > 300 AND in_segment('crowded')"
      staged:  "stage = 'some'"
  moving:
    id: "coalesce(group_id, anonymous_id)"
    traits:   { orders: { count: "*", event: Order Completed }, people: { count: profile_id } }
    segments: { buying: "orders >= 1", seen: "events > 2" }
  coming:
    id: user_id
    traits:   { accounts: { distinct: group_id }, recent: { count: "*", window: 12h } }
    segments: { several: "accounts.count > 1", lively: "recent > 2" }
"#;

fn write(folder: &Path, definitions: &str) {
    let head = order::PIPELINE.split("traits:").next().expect("text");
    std::fs::write(folder.join("order.yaml"), format!("{head}{definitions}")).expect("file");
}

/// Random people and events; the definitions change after some of them; live batches, pieces of the fill, crashes and
/// steps of the sweep come in any order.
#[test]
fn a_fill_ends_where_the_definition_would_have_been_from_the_start() {
    for_seeds("FILL_SEED", 30, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().expect("folder");
        let count = random.usize(20..120);
        let events = random_events(&mut random, count, 0);
        let clock = events.iter().map(|event| event.timestamp).max().expect("an event") - random.i64(0..3_600_000_000);

        write(folder.path(), AFTER);
        let mut expected = World::new(folder.path());
        expected.clock = clock;
        expected.apply_in_batches(&events, &mut random);

        write(folder.path(), BEFORE);
        let mut world = World::new(folder.path());
        world.clock = clock;
        let (first, mut rest) = events.split_at(random.usize(1..events.len()));
        world.apply_in_batches(first, &mut random);
        write(folder.path(), AFTER);
        world.redefine(folder.path());
        assert!(world.core.fill.is_some(), "seed {seed}");
        let mut rounds = 0;
        while world.core.fill.is_some() || !rest.is_empty() {
            match random.u8(0..10) {
                0..4 => {
                    let (batch, after) = rest.split_at(random.usize(0..=rest.len().min(10)));
                    rest = after;
                    if !batch.is_empty() {
                        world.apply(batch);
                    }
                }
                4..9 if world.core.is_sweeping() => drop(world.sweep()),
                4..9 => drop(world.fill_some(random.usize(1..20))),
                _ => world.restart(),
            }
            rounds += 1;
            assert!(rounds < 10_000, "the fill does not come to its end (seed {seed})");
        }
        let (mut seen, wanted) = (world.seen(), expected.seen());
        // The table of a definition that is gone stays as it was.
        seen.profiles.retain(|id, _| !id.starts_with("groups_leaving"));
        assert_eq!(seen.members, wanted.members, "members (seed {seed})");
        assert_eq!(seen.profiles.keys().collect::<Vec<_>>(), wanted.profiles.keys().collect::<Vec<_>>());
        for (id, profile) in &wanted.profiles {
            assert_eq!(seen.profiles.get(id), Some(profile), "profile {id} (seed {seed})");
        }
        assert_eq!(world.digest(), expected.digest(), "digest (seed {seed})");
        // What the past says is told apart from what happened.
        let causes = |world: &World, cause: &str| {
            world.rows("segment_changes").iter().filter(|row| row["cause"] == cause).count()
        };
        assert_eq!(causes(&expected, "fill"), 0);
        let old = world.rows("segment_changes").into_iter().filter(|row| row["segment"] == "old");
        assert!(
            old.clone()
                .filter(|row| row["change"] == "exited")
                .all(|row| row["cause"] == "removed" || row["cause"] == "merge")
        );
    });
}

/// A segment whose members are leaving is defined again as it was before all have left: they come back, and it stays known.
#[test]
fn a_segment_that_comes_back_while_its_members_leave_has_them_again() {
    let folder = tempfile::tempdir().expect("folder");
    let events = random_events(&mut fastrand::Rng::with_seed(1), 40, 0);
    let with = "segments: { old: \"events > 1\", all: \"events > 0\" }\n";
    write(folder.path(), with);
    let mut world = World::new(folder.path());
    world.apply(&events);
    let before = world.seen().members;
    write(folder.path(), "segments: { all: \"events > 0\" }\n");
    world.redefine(folder.path());
    world.core.profiles_at_once = 3;
    assert!(world.sweep() && world.core.fill.is_some(), "some are still in it");
    for _ in 0..2 {
        write(folder.path(), with);
        world.redefine(folder.path());
        while world.core.fill.is_some() {
            world.sweep();
        }
        assert_eq!(world.seen().members, before);
    }
    world.restart();
    assert!(world.core.fill.is_none(), "nothing is new about it");
}
