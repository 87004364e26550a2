//! The way back (SEMANTICS §4, §10): corrections of identity against the profiles that would be there if what they take
//! away had never been. The oracle is a run of the same engine over other events, never a list of expected values.

use std::collections::BTreeSet;

use tributary::engine::Begun;
use tributary::event::ProfileId;
use tributary::identity::Correction;

use crate::order::{components, folder, found_components};
use crate::world::{Event, Seen, World, for_seeds, random_events};

/// A run over these events from the start.
fn fresh(events: &[Event], random: &mut fastrand::Rng) -> (Seen, u128) {
    let folder = folder();
    let mut world = World::new(folder.path());
    world.apply_in_batches(events, random);
    (world.seen(), world.digest())
}

/// What a correction takes away.
#[derive(Debug, Clone)]
pub enum Taken {
    Link(String, String),
    Identifier(String),
    Event(String),
}

/// The events as if all of this had never been: banned identifiers first, then from the best identifier down each that
/// is cut from a better one that stays.
pub fn without(all: &[Taken], events: &[Event]) -> Vec<Event> {
    let clean = |event: &Event| {
        let mut clean = event.clone();
        let (mut kept, mut struck): (Vec<String>, bool) = (Vec::new(), false);
        for name in event.identifiers() {
            let out = all.iter().any(|taken| match taken {
                Taken::Identifier(banned) => *banned == name,
                Taken::Link(a, b) => (*a == name && kept.contains(b)) || (*b == name && kept.contains(a)),
                Taken::Event(message_id) => {
                    struck |= *message_id == event.message_id;
                    struck
                }
            });
            if out {
                clean = clean.without(&name);
            } else {
                kept.push(name);
            }
        }
        clean
    };
    events.iter().map(clean).collect()
}

impl Taken {
    /// Something that the events have. A link that really joins two of them, where there is one.
    pub fn random(random: &mut fastrand::Rng, events: &[Event]) -> Taken {
        let linking: Vec<&Event> = events.iter().filter(|event| event.identifiers().len() > 1).collect();
        let event = linking[random.usize(0..linking.len())];
        let mut names = event.identifiers();
        match random.u8(0..3) {
            0 => {
                random.shuffle(&mut names);
                Taken::Link(names[0].clone(), names[1].clone())
            }
            1 => Taken::Identifier(names[random.usize(0..names.len())].clone()),
            _ => Taken::Event(event.message_id.clone()),
        }
    }

    pub fn correction(&self, world: &World) -> (Correction, Option<ProfileId>) {
        match self {
            Taken::Link(a, b) => (Correction::Cut(world.named(a), world.named(b)), None),
            Taken::Identifier(name) => (Correction::Ban(world.named(name)), None),
            Taken::Event(message_id) => {
                let strike = Correction::Strike { source: "site".into(), message_id: message_id.as_str().into() };
                let owner = world.seen().events[message_id].as_ref().map(|id| id.parse().expect("an id"));
                (strike, owner)
            }
        }
    }
}

fn same(world: &World, expected: &(Seen, u128), what: &str) {
    let seen = world.seen();
    assert_eq!(seen.identifiers, expected.0.identifiers, "identifiers: {what}");
    assert_eq!(seen.events, expected.0.events, "whose events are: {what}");
    assert_eq!(seen.profiles, expected.0.profiles, "profiles: {what}");
    assert_eq!(seen.members, expected.0.members, "members: {what}");
    assert_eq!(world.digest(), expected.1, "digest: {what}");
}

/// One correction after another, on random people with random histories, with events before, between and after, and
/// a restart here and there.
#[test]
fn a_correction_gives_the_profiles_that_would_be_there_without_what_it_takes_away() {
    for_seeds("SPLIT_SEED", 40, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = folder();
        let mut world = World::new(folder.path());
        let count = random.usize(20..120);
        let mut events = random_events(&mut random, count, 0);
        world.apply_in_batches(&events, &mut random);
        let mut all: Vec<Taken> = Vec::new();
        for round in 0..4 {
            let taken = Taken::random(&mut random, &events);
            let (correction, owner) = taken.correction(&world);
            if random.bool() {
                world.restart();
            }
            // What was banned before is nobody's, and cannot be cut from anyone.
            if world.correct(correction, owner).refused.is_none() {
                all.push(taken);
            }
            // Sums by hour are of events, which stay.
            let what = format!("seed {seed}, round {round}, {all:?}");
            same(&world, &fresh(&without(&all, &events), &mut random), &what);

            // Later events meet the correction as well; a struck event cannot come again.
            let count = random.usize(1..40);
            let more = random_events(&mut random, count, events.len());
            world.apply_in_batches(&more, &mut random);
            events.extend(more);
            same(&world, &fresh(&without(&all, &events), &mut random), &format!("{what}, and after it"));
        }
    });
}

/// The stream goes on while a rebuild reads: its events count once, on whichever side they belong, and when the person
/// is merged meanwhile the rebuild begins anew with all of them. A crash in the middle begins it again.
#[test]
fn events_that_come_during_a_rebuild_are_in_it() {
    for_seeds("MEANWHILE_SEED", 40, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = folder();
        let mut world = World::new(folder.path());
        let count = random.usize(20..100);
        let mut events = random_events(&mut random, count, 0);
        world.apply_in_batches(&events, &mut random);
        let taken = Taken::random(&mut random, &events);
        let (correction, owner) = taken.correction(&world);
        if world.begin(correction, owner) == Begun::Rebuilding {
            loop {
                let count = random.usize(0..40);
                let more = random_events(&mut random, count, events.len());
                let reads_before = random.bool();
                let early = reads_before.then(|| world.read_history());
                world.apply_in_batches(&more, &mut random);
                events.extend(more);
                if random.u8(0..4) == 0 {
                    world.restart();
                    continue; // what was read is gone with the process
                }
                let (reading, shadow) = early.unwrap_or_else(|| world.read_history());
                if world.core.rebuild.as_ref().map(|job| job.reading()) == Some(reading) {
                    world.finish(shadow);
                    break;
                }
            }
        }
        let expected = fresh(&without(std::slice::from_ref(&taken), &events), &mut random);
        same(&world, &expected, &format!("seed {seed}, {taken:?}"));
    });
}

fn event(number: usize, user_id: &str, email: &str, anonymous_id: &str) -> Event {
    let mut event = random_events(&mut fastrand::Rng::with_seed(number as u64), 1, number).remove(0);
    let given = |text: &str| (!text.is_empty()).then(|| text.to_string());
    (event.user_id, event.email, event.anonymous_id) = (given(user_id), given(email), given(anonymous_id));
    event
}

/// SEMANTICS §4, supports: a link made by one bad and one good event survives the removal of the bad one, and falls
/// with the last; a cycle of links survives the cut of one.
#[test]
fn a_link_falls_with_its_last_support_and_a_cycle_survives_a_cut() {
    let one = |names: &[&str]| -> BTreeSet<BTreeSet<String>> {
        [names.iter().map(ToString::to_string).collect()].into_iter().collect()
    };
    let folder = folder();
    let mut world = World::new(folder.path());
    world.apply(&[event(0, "u1", "", "a1"), event(1, "u1", "", "a1"), event(2, "u1", "", ""), event(3, "", "", "a1")]);
    let strike = |world: &World, number: usize| Taken::Event(format!("m{number}")).correction(world);
    let (correction, owner) = strike(&world, 0);
    world.correct(correction, owner);
    assert_eq!(found_components(&world.seen()), one(&["user_id:u1", "anonymous_id:a1"]), "m1 supports the link");
    let (correction, owner) = strike(&world, 1);
    world.correct(correction, owner);
    assert_eq!(found_components(&world.seen()).len(), 2, "nothing supports the link");

    let mut world = World::new(folder.path());
    let cycle = [event(0, "u1", "e1", ""), event(1, "", "e1", "a1"), event(2, "u1", "", "a1")];
    world.apply(&cycle);
    let all = one(&["user_id:u1", "email:e1", "anonymous_id:a1"]);
    for (a, b) in [("user_id:u1", "email:e1"), ("email:e1", "anonymous_id:a1")] {
        let before = found_components(&world.seen());
        let cut = Correction::Cut(world.named(a), world.named(b));
        world.correct(cut, None);
        assert_eq!(before, all);
        let parts = found_components(&world.seen()).len();
        assert_eq!(parts, if a == "user_id:u1" { 1 } else { 2 }, "after the cut of {a} and {b}");
    }
}

/// A banned value never links again, not even when its events are delivered once more.
#[test]
fn a_banned_value_stays_nobodys_whatever_comes() {
    let folder = folder();
    let mut world = World::new(folder.path());
    let events: Vec<Event> = (0..20).map(|n| event(n, &format!("u{n}"), "shared@shop.example", "")).collect();
    world.apply(&events);
    assert_eq!(found_components(&world.seen()).len(), 1);
    let ban = Correction::Ban(world.named("email:shared@shop.example"));
    world.correct(ban, None);
    assert_eq!(found_components(&world.seen()).len(), 20);
    let before = world.digest();
    world.restart();
    world.apply(&events);
    assert_eq!(world.digest(), before, "copies change nothing");
    world.apply(&[event(30, "u1", "shared@shop.example", ""), event(31, "", "shared@shop.example", "a9")]);
    let seen = world.seen();
    assert!(!seen.identifiers.contains_key("email:shared@shop.example"));
    assert_eq!(found_components(&seen).len(), 21, "a9 is a stranger");
    assert_eq!(seen.events["m30"], Some(seen.identifiers["user_id:u1"].clone()));
}

/// Where history is not whole a rebuild is refused with the reason, and nothing is changed (SEMANTICS §10).
#[test]
fn without_its_history_a_profile_is_left_as_it_is() {
    let folder = folder();
    let mut world = World::new(folder.path());
    world.apply(&[event(0, "u1", "", "a1"), event(1, "u1", "", "a1")]);
    world.apply(&[event(2, "u1", "", "a2")]);
    let (seen, digest) = (world.seen(), world.digest());
    let kept = std::mem::take(&mut world.commits[0].rows);
    let cut = Correction::Cut(world.named("user_id:u1"), world.named("anonymous_id:a2"));
    let corrected = world.correct(cut, None);
    assert!(corrected.refused.is_some_and(|reason| reason.contains("3 events and 1 of them are stored")));
    world.commits[0].rows = kept;
    assert_eq!((world.seen(), world.digest()), (seen, digest));
    world.restart();
    world.apply(&[event(3, "u1", "", "a2")]);
    assert_eq!(found_components(&world.seen()), components(&[event(0, "u1", "", "a1"), event(3, "u1", "", "a2")]));
}

/// SEMANTICS §4: state is keyed by a number, so a better identifier for a profile with 1,000 of them moves nothing, and a
/// merge writes in proportion to the smaller side.
#[test]
fn a_better_identifier_moves_nothing_and_a_merge_writes_the_smaller_side() {
    let folder = folder();
    let mut world = World::new(folder.path());
    let hub: Vec<Event> = (0..1_000).map(|n| event(n, "", "hub@shop.example", &format!("a{n}"))).collect();
    world.apply(&hub);
    let of_hub = *world.written.last().expect("a commit");
    world.apply(&[event(2_000, "", "hub@shop.example", "")]);
    let of_an_event = *world.written.last().expect("a commit");
    world.apply(&[event(2_001, "u1", "hub@shop.example", "")]);
    let rerooted = *world.written.last().expect("a commit");
    // The identifier, the head, one page, the new id's alias; the rows of the merge.
    assert!(rerooted <= of_an_event + 8, "{rerooted} keys for a better identifier, {of_an_event} for an event");
    let few: Vec<Event> = (0..20).map(|n| event(3_000 + n, "u9", "", &format!("b{n}"))).collect();
    world.apply(&few);
    world.apply(&[event(4_000, "u1", "", "b3")]);
    let merged = *world.written.last().expect("a commit");
    assert!(merged <= of_an_event + 21 + 12, "{merged} keys for a merge with 21 identifiers");
    assert!(of_hub > 1_000, "{of_hub}");
    assert_eq!(found_components(&world.seen()).len(), 1);
}

/// SEMANTICS §4: the absorbed id's memberships end with `exited, cause = merge`; an id that comes back to life loses its
/// alias, versioned in `profile_merges`, and its memberships begin with `split`.
#[test]
fn merges_and_splits_are_told_in_the_tables() {
    let folder = folder();
    let mut world = World::new(folder.path());
    let order = |number: usize, user: &str, total: &str| {
        let mut event = event(number, user, "", "");
        let properties = format!(r#""properties":{{"order_id":"o{number}","total":{total},"currency":"EUR"}}"#);
        event.rest = vec![r#""type":"track","event":"Order Completed""#.to_string(), properties];
        event.traits.clear();
        event
    };
    world.apply(&[order(0, "u1", "400"), order(1, "u2", "20"), event(2, "u2", "", "a2")]);
    let before = world.seen();
    let (one, two) = (before.identifiers["user_id:u1"].clone(), before.identifiers["user_id:u2"].clone());
    world.apply(&[event(3, "u1", "", "a2")]);
    let merged = world.seen().identifiers["user_id:u1"].clone();
    let gone = if merged == one { &two } else { &one };
    let changes = |world: &World, commit: usize| -> Vec<[String; 4]> {
        let rows = world.rows("segment_changes").into_iter().filter(|row| row["_batch"] == commit.to_string());
        rows.map(|row| ["segment", "profile_id", "change", "cause"].map(|name| row[name].clone())).collect()
    };
    let row = |segment: &str, id: &str, change: &str, cause: &str| [segment, id, change, cause].map(str::to_string);
    let told = changes(&world, 2);
    assert!(told.contains(&row("customers", gone, "exited", "merge")), "{told:?}");
    assert!(
        told.iter().all(|row| row[3] == "merge" || row[0] == "odd" || row[0] == "pro" || row[0] == "both"),
        "{told:?}"
    );
    world.correct(Correction::Cut(world.named("user_id:u1"), world.named("anonymous_id:a2")), None);
    let after = world.seen();
    assert_eq!((&after.identifiers["user_id:u1"], &after.identifiers["user_id:u2"]), (&one, &two));
    let rows = world.rows("profile_merges");
    let merges: Vec<(String, String, String)> = rows
        .iter()
        .filter(|row| row["old_profile_id"] == *gone)
        .map(|row| (row["old_profile_id"].clone(), row["profile_id"].clone(), row["cause"].clone()))
        .collect();
    let versions =
        [(gone.clone(), merged.clone(), "merge".to_string()), (gone.clone(), gone.clone(), "split".to_string())];
    assert_eq!(merges, versions);
    let told = changes(&world, world.commits.len());
    assert!(told.contains(&row("customers", gone, "entered", "split")), "{told:?}");
    assert!(told.iter().all(|row| row[3] == "split"), "{told:?}");
}

/// SEMANTICS §7: an id that a correction took away and an event brings back counts its entries on, and so does one that comes
/// back to life by a split: what was sent once is never the id of something else.
#[test]
fn what_an_id_sets_off_after_a_correction_has_ids_of_its_own() {
    let order_of = |number: usize, user: &str, device: &str| {
        let mut event = event(number, user, "", device);
        let properties = r#""properties":{"order_id":"o","total":5,"currency":"EUR"}"#.to_string();
        event.rest = vec![r#""type":"track","event":"Order Completed""#.to_string(), properties];
        event.traits.clear();
        event
    };
    let folder = tempfile::tempdir().expect("folder");
    let more = r#"destinations: { crm: { webhook: { url: "http://127.0.0.1:9/" } } }
activations:
  welcome: { trigger: { enters: customers }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  staged:  { trigger: { changes: stage }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
"#;
    let stage = r#"traits:
  stage:    { stages: [ { some: "orders > 0" } ] }"#;
    let text = crate::order::PIPELINE.replacen("traits:", stage, 1) + more;
    std::fs::write(folder.path().join("order.yaml"), text).expect("file");
    let ids = |world: &World| -> BTreeSet<String> {
        world.rows("deliveries").iter().map(|row| row["delivery_id"].clone()).collect()
    };

    // The only event of someone is struck, and another comes.
    let mut world = World::new(folder.path());
    world.apply(&[order_of(0, "u1", "")]);
    assert_eq!(ids(&world).len(), 2);
    let (correction, owner) = Taken::Event("m0".to_string()).correction(&world);
    world.correct(correction, owner);
    world.restart();
    world.apply(&[order_of(1, "u1", "")]);
    assert_eq!(ids(&world).len(), 4, "struck");

    // Two become one and are taken apart: the one who comes back to life has ordered before.
    let mut world = World::new(folder.path());
    world.apply(&[order_of(0, "u1", ""), order_of(1, "u2", "a2"), event(2, "u1", "", "")]);
    world.apply(&[event(3, "u1", "", "a2")]);
    let (correction, owner) = Taken::Event("m3".to_string()).correction(&world);
    world.correct(correction, owner);
    let (correction, owner) = Taken::Event("m1".to_string()).correction(&world);
    world.correct(correction, owner);
    world.apply(&[order_of(4, "u2", "a2")]);
    assert_eq!(ids(&world).len(), 6, "split");
}

/// Whoever asks for an event to be struck has read in the tables whose it is; they may not know of an earlier correction yet. Then
/// nothing is done, and it is said.
#[test]
fn an_event_that_has_changed_hands_is_struck_from_nobody_else() {
    let folder = folder();
    // Struck, the first takes `u1` with it, or leaves it to another person.
    for rest in [vec![event(1, "", "", "a1")], vec![event(1, "", "", "a1"), event(2, "u1", "", "")]] {
        let mut world = World::new(folder.path());
        world.apply(&[event(0, "u1", "", "a1")]);
        world.apply(&rest);
        let (second, stale) = Taken::Event("m1".to_string()).correction(&world);
        let (first, owner) = Taken::Event("m0".to_string()).correction(&world);
        assert_eq!(world.correct(first, owner).refused, None);
        let before = (world.seen(), world.digest());
        let refused = world.correct(second, stale).refused;
        assert!(refused.is_some_and(|reason| reason.contains("ask again")));
        assert_eq!((world.seen(), world.digest()), before);
        let (second, owner) = Taken::Event("m1".to_string()).correction(&world);
        assert_eq!(world.correct(second, owner).refused, None);
        assert!(!world.seen().identifiers.contains_key("anonymous_id:a1"));
    }
}
