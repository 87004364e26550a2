//! Promise 2: any permutation, duplication and batching of the same events gives the same profiles, traits,
//! memberships and sums (SEMANTICS §4, §5), and the same digest of the state. The engine's core runs in this process,
//! on a store in memory; what it says in tables is read as an analyst would read it. Components are checked against
//! the union-find of `petgraph`.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::unionfind::UnionFind;

use crate::world::{Event, Seen, World, for_seeds, random_events};

pub const PIPELINE: &str = r#"pipeline: order
sources:
  site: { file: { path: none.ndjson }, format: { json: segment } }
identity:
  identifiers: [user_id, email, anonymous_id]
  max_identifiers: 100000
traits:
  plan:     { latest: traits.plan }
  home:     { latest: traits.plan, on_merge: survivor }
  source:   { first: context.campaign.source }
  orders:   { count: "*", event: Order Completed }
  revenue:  { sum: properties.total, event: Order Completed }
  biggest:  { max: properties.total, event: Order Completed }
  smallest: { min: properties.total, event: Order Completed, where: "properties.total > 10" }
segments:
  customers: "orders >= 1"
  big:       "revenue > 300"
  pro:       "plan = 'pro'"
  both:      "in_segment('big') AND in_segment('pro')"
  odd:       "orders IN (1, 3, 5)"
aggregates:
  by_hour: SELECT date_trunc('hour', timestamp) AS hour, sum(properties.total) AS revenue, count(*) AS orders FROM events WHERE event = 'Order Completed' GROUP BY 1
"#;

pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("order.yaml"), PIPELINE).expect("file");
    folder
}

fn run(folder: &std::path::Path, events: &[Event], order: &[usize], random: &mut fastrand::Rng) -> (Seen, u128) {
    let mut world = World::new(folder);
    let events: Vec<Event> = order.iter().map(|index| events[*index].clone()).collect();
    world.apply_in_batches(&events, random);
    (world.seen(), world.digest())
}

/// The components of the identifiers, by `petgraph`.
pub fn components(events: &[Event]) -> BTreeSet<BTreeSet<String>> {
    let names: BTreeSet<String> = events.iter().flat_map(Event::identifiers).collect();
    let number: BTreeMap<&String, usize> = names.iter().enumerate().map(|(number, name)| (name, number)).collect();
    let mut sets = UnionFind::<usize>::new(names.len());
    for event in events {
        let identifiers = event.identifiers();
        for other in identifiers.iter().skip(1) {
            sets.union(number[&identifiers[0]], number[other]);
        }
    }
    let mut groups: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (name, number) in number {
        groups.entry(sets.find(number)).or_default().insert(name.clone());
    }
    groups.into_values().collect()
}

pub fn found_components(seen: &Seen) -> BTreeSet<BTreeSet<String>> {
    let mut found: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
    for (name, id) in &seen.identifiers {
        found.entry(id).or_default().insert(name.clone());
    }
    found.into_values().collect()
}

fn check(seed: u64, events: &[Event], random: &mut fastrand::Rng) {
    let folder = folder();
    let straight: Vec<usize> = (0..events.len()).collect();
    let (expected, digest) = run(folder.path(), events, &straight, random);
    let found = found_components(&expected);
    assert_eq!(found, components(events), "components differ from the union-find's (seed {seed})");
    assert_eq!(expected.profiles.len(), found.len(), "one current profile each (seed {seed})");
    for round in 0..3 {
        let mut order = straight.clone();
        // Every third event comes again, somewhere.
        order.extend((0..events.len()).filter(|_| random.u8(0..3) == 0).collect::<Vec<_>>());
        random.shuffle(&mut order);
        let (shuffled, other) = run(folder.path(), events, &order, random);
        assert_eq!(shuffled, expected, "round {round} (seed {seed})");
        assert_eq!(other, digest, "digest, round {round} (seed {seed})");
    }
}

#[test]
fn any_order_batching_and_duplication_gives_the_same_profiles_members_and_sums() {
    for_seeds("ORDER_SEED", 25, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(20..250);
        let events = random_events(&mut random, count, 0);
        check(seed, &events, &mut random);
    });
}

/// Shapes that random events seldom make: hubs around one identifier, long chains, cliques, and all of them joined.
#[test]
fn hubs_chains_and_cliques_come_out_the_same_in_any_order() {
    for_seeds("GRAPH_SEED", 12, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut events: Vec<Event> = Vec::new();
        let mut link = |random: &mut fastrand::Rng, user: Option<String>, device: Option<String>| {
            let first = events.len();
            let mut event = random_events(random, 1, first).remove(0);
            (event.user_id, event.anonymous_id, event.email) = (user, device, None);
            events.push(event);
        };
        for hub in 0..random.usize(1..3) {
            for spoke in 0..random.usize(50..200) {
                link(&mut random, Some(format!("hub{hub}")), Some(format!("spoke{hub}-{spoke}")));
            }
        }
        for chain in 0..random.usize(1..3) {
            for step in 0..random.usize(50..300) {
                // user – device – user – device …
                let (user, device) = (format!("c{chain}-{}", step.div_ceil(2)), format!("d{chain}-{}", step / 2));
                link(&mut random, Some(user), Some(device));
            }
        }
        for user in 0..random.usize(2..8) {
            for device in 0..random.usize(2..8) {
                link(&mut random, Some(format!("clique{user}")), Some(format!("member{device}")));
            }
        }
        if random.bool() {
            link(&mut random, Some("hub0".to_string()), Some("d0-3".to_string()));
            link(&mut random, Some("clique0".to_string()), Some("d0-1".to_string()));
        }
        for lone in 0..20 {
            link(&mut random, None, Some(format!("alone{lone}")));
        }
        check(seed, &events, &mut random);
    });
}
