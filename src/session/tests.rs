//! Sessions against their naive recomputation, and the table against the events.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;
use crate::event::TimeUs;
use crate::state::cache::Weigh as _;

const SECOND: TimeUs = 1_000_000;
const MINUTE: TimeUs = 60 * SECOND;
const HOUR: TimeUs = 60 * MINUTE;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: TimeUs,
    message_id: String,
    source: &'static str,
    page: bool,
    path: Option<&'static str>,
    campaign: Option<&'static str>,
}

impl Event {
    fn seen(&self) -> SessionEvent<'_> {
        SessionEvent {
            at: self.at,
            source: self.source,
            message_id: &self.message_id,
            page: self.page,
            path: self.path,
            campaign: [None, Some("cpc").filter(|_| self.campaign.is_some()), self.campaign],
        }
    }

    fn id(&self) -> SessionId {
        SessionId::of(self.source, &self.message_id)
    }
}

fn event(at: TimeUs, message_id: &str) -> Event {
    Event { at, message_id: message_id.to_string(), source: "web", page: false, path: None, campaign: None }
}

fn plan(campaign: bool, midnight: Option<Tz>) -> SessionsPlan {
    SessionsPlan {
        version: 1,
        gap_us: 1800 * SECOND,
        lateness_us: 72 * HOUR,
        split_on_campaign: campaign,
        split_on_midnight: midnight,
        events: None,
    }
}

/// The sessions of these events, by the words of the definition.
fn naive(plan: &SessionsPlan, events: &[Event]) -> Vec<Vec<Event>> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| (event.at, event.message_id.clone(), event.id()));
    let mut sessions: Vec<Vec<Event>> = Vec::new();
    let mut named = None;
    for event in events {
        let begins = sessions.last().and_then(|session| session.last()).is_none_or(|before| {
            let another = event.campaign.is_some() && named.is_some() && event.campaign != named;
            event.at - before.at > plan.gap_us
                || plan.split_on_midnight.is_some_and(|zone| date(zone, before.at) != date(zone, event.at))
                || plan.split_on_campaign && another
        });
        if begins {
            sessions.push(Vec::new());
            named = None;
        }
        named = event.campaign.or(named);
        sessions.last_mut().expect("a session").push(event);
    }
    sessions
}

fn date(zone: Tz, at: TimeUs) -> chrono::NaiveDate {
    chrono::DateTime::from_timestamp_micros(at).unwrap().with_timezone(&zone).date_naive()
}

fn expected_row(session: &[Event]) -> SessionRow {
    let (first, last) = (&session[0], &session[session.len() - 1]);
    SessionRow {
        id: first.id(),
        started_at: first.at,
        ended_at: last.at,
        first_message_id: first.message_id.as_str().into(),
        events: session.len() as u32,
        pages: session.iter().filter(|event| event.page).count() as u32,
        first_page: session.iter().find_map(|event| event.path).map(Into::into),
        last_page: session.iter().rev().find_map(|event| event.path).map(Into::into),
        campaign: session.iter().find_map(|event| event.campaign).map(|name| Campaign {
            source: None,
            medium: Some("cpc".into()),
            name: Some(name.into()),
        }),
        merged_into: None,
        // not compared
        chain_id: first.id(),
    }
}

/// The tables: the latest row of every session id, and the id each event was stored with.
#[derive(Default)]
struct Tables {
    sessions: BTreeMap<SessionId, SessionRow>,
    events: Vec<(Event, SessionId)>,
    rows: usize,
}

impl Tables {
    fn take(&mut self, plan: &SessionsPlan, sessions: &mut Sessions) {
        for row in sessions.take(plan) {
            self.rows += 1;
            self.sessions.insert(row.id, row);
        }
    }

    fn standing(&self) -> Vec<SessionRow> {
        let mut standing: Vec<_> = self.sessions.values().filter(|row| row.merged_into.is_none()).cloned().collect();
        standing.sort_by_key(|row| (row.started_at, row.first_message_id.clone(), row.id));
        standing
    }

    /// That the tables say of these events what they would say if they had come in order.
    fn check(&self, plan: &SessionsPlan, events: &[Event], seed: u64) {
        let naive = naive(plan, events);
        let mut standing = self.standing();
        standing.iter_mut().for_each(|row| row.chain_id = row.id);
        let expected: Vec<SessionRow> = naive.iter().map(|session| expected_row(session)).collect();
        assert_eq!(standing, expected, "seed {seed}, {plan:?}");
        let follow = Follow::of(self.sessions.values());
        for (event, stored) in &self.events {
            let session = naive.iter().find(|session| session.contains(event)).expect("a session");
            let found = follow.session(*stored, event.at, &event.message_id);
            assert_eq!(found, session[0].id(), "seed {seed}: {event:?}");
            let row = &self.sessions[stored];
            let own = naive.iter().find(|session| session.iter().any(|other| other.id() == row.id)).expect("a session");
            assert_eq!(row.merged_into.unwrap_or(row.id), own[0].id(), "seed {seed}: one step");
        }
    }
}

fn random_plan(rng: &mut fastrand::Rng) -> SessionsPlan {
    let midnight = [None, Some(Tz::UTC), Some(Tz::Europe__Berlin)];
    plan(rng.bool(), *rng.choice(&midnight).unwrap())
}

/// Events around midnight and the end of summer time, many of them at one time or exactly the gap apart.
fn random_events(rng: &mut fastrand::Rng, upto: usize) -> Vec<Event> {
    let start = chrono::DateTime::parse_from_rfc3339("2026-10-24T20:00:00Z").unwrap().timestamp_micros();
    let step = *rng.choice(&[10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR]).unwrap();
    let names = rng.usize(1..4);
    (0..rng.usize(1..=upto))
        .map(|number| Event {
            at: start + step * rng.i64(0..60) + *rng.choice(&[0, 0, 0, 1, -1]).unwrap(),
            // Their order is another one than that of the numbers.
            message_id: format!("m{:02}", (number * 37) % 101),
            source: rng.choice(&["web", "app"]).unwrap(),
            page: rng.bool(),
            path: rng.choice(&[None, Some("/"), Some("/a"), Some("/b")]).copied().unwrap(),
            campaign: rng
                .choice(&[None, None, Some("spring"), Some("autumn"), Some("mail")][..2 + names])
                .copied()
                .unwrap(),
        })
        .collect()
}

/// Stored and loaded again.
fn stored(plan: &SessionsPlan, sessions: &Sessions) -> Sessions {
    let bytes = crate::state::codec::encode(1, sessions);
    let loaded: Sessions = crate::state::codec::decode(1, "profile's sessions", &bytes).unwrap();
    assert_eq!(loaded.count(plan), sessions.count(plan));
    assert_eq!(loaded.weigh() == 0, *sessions == Sessions::default());
    loaded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// SEMANTICS §5 and promise 2: the same sessions whatever the order, the batches and the merges of profiles, and every
    /// id that was ever stored leads to the session of now.
    #[test]
    fn sessions_follow_from_the_set_of_events(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = random_plan(&mut rng);
        let events = random_events(&mut rng, 40);
        let mut order = events.clone();
        rng.shuffle(&mut order);
        let mut profiles: Vec<Sessions> = vec![Sessions::default(); rng.usize(1..4)];
        let mut tables = Tables::default();
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(rng.usize(1..=rest.len().min(8)));
            rest = after;
            let of: Vec<usize> = batch.iter().map(|_| rng.usize(0..profiles.len())).collect();
            for (event, profile) in batch.iter().zip(&of) {
                prop_assert!(profiles[*profile].apply(&plan, &event.seen()));
            }
            // Two of them may turn out to be one person, within the batch or before the next.
            let merged = profiles.len() > 1 && (rest.is_empty() || rng.u8(0..4) == 0);
            let mut into: Vec<usize> = (0..profiles.len()).collect();
            while merged && profiles.len() > 1 && (rest.is_empty() || rng.bool()) {
                let (absorbed, by) = (profiles.len() - 1, rng.usize(0..profiles.len() - 1));
                let other = profiles.pop().unwrap();
                profiles[by].merge(&plan, other);
                into.iter_mut().filter(|profile| **profile == absorbed).for_each(|profile| *profile = by);
            }
            for (event, profile) in batch.iter().zip(&of) {
                let id = profiles[into[*profile]].id_of(&plan, &event.seen()).expect("not late");
                tables.events.push((event.clone(), id));
            }
            for sessions in &mut profiles {
                tables.take(&plan, sessions);
                *sessions = stored(&plan, sessions);
                prop_assert_eq!(sessions.take(&plan), vec![], "all is said");
            }
        }
        prop_assert_eq!(profiles.len(), 1);
        tables.check(&plan, &events, seed);
        let sessions = naive(&plan, &events);
        prop_assert_eq!(profiles[0].count(&plan), sessions.len() as u64);
        let lasted: i64 = sessions.iter().map(|session| expected_row(session).duration_us()).sum();
        prop_assert_eq!(profiles[0].duration_us(&plan), lasted);
    }

    /// The same while time goes on: what is closed stays as it was, what is late changes nothing, and the state forgets.
    #[test]
    fn what_is_closed_could_not_change_any_more(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (lateness_us, plan) = (rng.i64(0..8) * HOUR, random_plan(&mut rng));
        let mut order = random_events(&mut rng, 60);
        // Roughly in order, some far behind.
        let mut delay = |event: &Event| event.at + rng.i64(0..2) * rng.i64(0..12) * HOUR;
        order.sort_by_cached_key(|event| (delay(event), event.message_id.clone()));
        let (mut sessions, mut tables, mut taken) = (Sessions::default(), Tables::default(), Vec::new());
        let mut now = TimeUs::MIN;
        for batch in order.chunks(rng.usize(1..6)) {
            let floor = now.saturating_sub(lateness_us);
            sessions.settle(&plan, floor);
            let mut fresh = Vec::new();
            for event in batch {
                let applied = sessions.apply(&plan, &event.seen());
                prop_assert_eq!(applied, event.at >= floor);
                if applied {
                    fresh.push(event);
                } else {
                    prop_assert_eq!(sessions.id_of(&plan, &event.seen()), None);
                }
                now = now.max(event.at);
            }
            for event in fresh {
                tables.events.push((event.clone(), sessions.id_of(&plan, &event.seen()).expect("in time")));
                taken.push(event.clone());
            }
            tables.take(&plan, &mut sessions);
            sessions = stored(&plan, &sessions);
            tables.check(&plan, &taken, seed);
            prop_assert_eq!(sessions.count(&plan), naive(&plan, &taken).len() as u64);
        }
        sessions.settle(&plan, TimeUs::MAX);
        // A lower floor than before says nothing.
        sessions.settle(&plan, 0);
        prop_assert!(!sessions.apply(&plan, &event(now, "late").seen()));
        tables.take(&plan, &mut sessions);
        tables.check(&plan, &taken, seed);
        prop_assert_eq!(sessions.weigh(), 0, "nothing but the counters is left");
        prop_assert_eq!(sessions.count(&plan), naive(&plan, &taken).len() as u64);
    }

    /// What comes twice is counted twice (de-duplication is before), and changes nothing else.
    #[test]
    fn duplicates_change_counts_alone(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = random_plan(&mut rng);
        let events = random_events(&mut rng, 30);
        let mut twice = [events.clone(), events.clone()].concat();
        rng.shuffle(&mut twice);
        let (mut sessions, mut tables) = (Sessions::default(), Tables::default());
        for event in &twice {
            sessions.apply(&plan, &event.seen());
        }
        tables.take(&plan, &mut sessions);
        for row in tables.sessions.values_mut() {
            (row.events, row.pages) = (row.events / 2, row.pages / 2);
        }
        tables.check(&plan, &events, seed);
    }

    /// Also where one side has settled further than the other, it does not matter which takes over which.
    #[test]
    fn a_merge_is_the_same_from_both_sides(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = random_plan(&mut rng);
        let mut profile = |name: &str| {
            let mut sessions = Sessions::default();
            for mut event in random_events(&mut rng, 20) {
                event.message_id.push_str(name);
                assert!(sessions.apply(&plan, &event.seen()));
            }
            let hours = rng.i64(0..80);
            sessions.settle(&plan, 1_792_850_000 * SECOND + hours * HOUR);
            sessions
        };
        let (one, other) = (profile("x"), profile("y"));
        let merged = |mut one: Sessions, other: Sessions| {
            one.merge(&plan, other);
            let open = (one.count(&plan), one.duration_us(&plan));
            one.settle(&plan, TimeUs::MAX);
            let mut tables = Tables::default();
            tables.take(&plan, &mut one);
            (open, one.count(&plan), one.duration_us(&plan), tables.standing())
        };
        prop_assert_eq!(merged(one.clone(), other.clone()), merged(other, one), "seed {}", seed);
    }
}

/// Minutes and campaigns of the events in order of arrival; the sessions in the end, by their first minutes; the ids that
/// rows were written of but do not stand, with the first minute of the session that stands for them.
#[test]
fn sessions_by_example() {
    type Case<'a> = (&'a str, bool, &'a [(f64, Option<&'static str>)], &'a [f64], &'a [(f64, f64)]);
    let cases: [Case; 9] = [
        ("exactly the gap stays", false, &[(0.0, None), (30.0, None)], &[0.0], &[]),
        ("a microsecond more does not", false, &[(0.0, None), (30.000_000_1, None)], &[0.0, 30.000_000_1], &[]),
        ("a late event joins", false, &[(0.0, None), (50.0, None), (40.0, None)], &[0.0, 40.0], &[(50.0, 40.0)]),
        ("a late event bridges", false, &[(0.0, None), (50.0, None), (25.0, None)], &[0.0], &[(50.0, 0.0)]),
        (
            "the first that names a campaign",
            true,
            &[(0.0, None), (1.0, Some("a")), (2.0, None), (3.0, Some("a"))],
            &[0.0],
            &[],
        ),
        ("another campaign", true, &[(0.0, Some("a")), (1.0, None), (2.0, Some("b"))], &[0.0, 2.0], &[]),
        ("not another without the split", false, &[(0.0, Some("a")), (2.0, Some("b"))], &[0.0], &[]),
        ("a late campaign cuts", true, &[(0.0, Some("a")), (3.0, None), (2.0, Some("b"))], &[0.0, 2.0], &[]),
        (
            "a late campaign moves the cut",
            true,
            &[(0.0, Some("a")), (5.0, Some("b")), (3.0, Some("b"))],
            &[0.0, 3.0],
            &[(5.0, 3.0)],
        ),
    ];
    let us = |minutes: f64| (minutes * MINUTE as f64).round() as TimeUs;
    for (what, campaign, arrivals, starts, gone) in cases {
        let plan = plan(campaign, None);
        let (mut sessions, mut tables) = (Sessions::default(), Tables::default());
        for (minutes, campaign) in arrivals {
            let event = Event { campaign: *campaign, ..event(us(*minutes), &minutes.to_string()) };
            assert!(sessions.apply(&plan, &event.seen()));
            tables.take(&plan, &mut sessions);
        }
        let begun: Vec<TimeUs> = tables.standing().iter().map(|row| row.started_at).collect();
        assert_eq!(begun, starts.iter().map(|start| us(*start)).collect::<Vec<_>>(), "{what}");
        let merged = tables.sessions.values().filter_map(|row| Some((row.started_at, row.merged_into?)));
        let expected = gone.iter().map(|(minutes, into)| (us(*minutes), event(0, &into.to_string()).id()));
        assert_eq!(merged.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{what}");
    }
}

/// In a batch only what stands at its end is written, however its events came.
#[test]
fn a_batch_that_comes_backwards_writes_one_row() {
    let plan = plan(false, None);
    let (mut sessions, mut tables) = (Sessions::default(), Tables::default());
    for number in (0..500).rev() {
        assert!(sessions.apply(&plan, &event(number * SECOND, &format!("{number}")).seen()));
    }
    tables.take(&plan, &mut sessions);
    assert_eq!((tables.rows, tables.standing()[0].events), (1, 500));
    // What is one session takes the space of one.
    assert!(sessions.weigh() < 400, "{}", sessions.weigh());
}

#[test]
fn events_are_read_from_their_columns() {
    use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
    use std::sync::Arc;
    let schema = crate::event::schema_with(&fields()[..3]);
    let texts = |values: [Option<&str>; 3]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "message_id" => texts([Some("m1"), Some("m2"), Some("m3")]),
            "type" => texts([Some("page"), Some("track"), Some("screen")]),
            "event" => texts([Some("Home"), Some("Order Completed"), None]),
            "source" => texts([Some("web"); 3]),
            "context.page.path:string" => texts([Some("/"), None, Some("")]),
            "context.campaign.medium:string" => texts([Some("cpc"), None, Some("")]),
            "timestamp" | "received_at" => {
                Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC"))
            }
            _ if field.is_nullable() => new_null_array(field.data_type(), 3),
            _ => arrow::compute::cast(&texts([Some("0"); 3]), field.data_type()).unwrap(),
        })
        .collect();
    let events = crate::event::EventBatch { batch: RecordBatch::try_new(schema, columns).unwrap() };
    let told = |plan: &SessionsPlan| {
        let columns = Columns::of(plan, &events);
        let rows = (0..3).filter_map(|row| columns.event(row));
        rows.map(|event| {
            format!("{} {} {} {:?} {:?}", event.at, event.message_id, event.page, event.path, event.campaign)
        })
        .collect::<Vec<_>>()
    };
    let mut plan = plan(false, None);
    let all = [
        r#"1 m1 true Some("/") [None, Some("cpc"), None]"#,
        "2 m2 false None [None, None, None]",
        "3 m3 true None [None, None, None]",
    ];
    assert_eq!(told(&plan), all);
    for (wanted, rows) in [("screen", [2]), ("Home", [0]), ("Order Completed", [1])] {
        plan.events = Some(vec![wanted.to_string()]);
        assert_eq!(told(&plan), rows.map(|row| all[row]), "{wanted}");
    }
}

/// What an event costs that goes on with the open session.
#[test]
#[ignore = "for figures"]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "figures are measured and printed")]
fn figures() {
    let plan = plan(false, None);
    let ids: Vec<String> = (0..1000).map(|number| format!("{number:036}")).collect();
    for (what, page, paths) in [("no page", false, [None, None]), ("pages", true, [Some("/products/1"), Some("/cart")])]
    {
        let mut sessions = Sessions::default();
        let begun = std::time::Instant::now();
        for round in 0..1000 {
            for (number, id) in ids.iter().enumerate() {
                let at = (round * 1000 + number as i64) * 1000;
                let base = event(at, "");
                let event = SessionEvent { page, path: paths[number % 2], message_id: id, ..base.seen() };
                assert!(sessions.apply(&plan, &event));
                assert!(sessions.id_of(&plan, &event).is_some());
            }
        }
        println!("{what}: {} ns an event", begun.elapsed().as_nanos() / 1_000_000);
    }
    let mut sessions = Sessions::default();
    let begun = std::time::Instant::now();
    for number in 0..100_000 {
        sessions.apply(&plan, &event(number * 1000, "m").seen());
        sessions.take(&plan);
    }
    println!("a batch of a profile: {} ns", begun.elapsed().as_nanos() / 100_000);
}

/// A hundred events in a month: what the sessions that a late event may still join weigh in a stored profile.
#[test]
fn a_month_of_visits_is_small_in_the_state() {
    let plan = plan(false, None);
    let mut rng = fastrand::Rng::with_seed(5);
    let mut sessions = Sessions::default();
    let mut at = 1_772_000_000 * SECOND;
    for number in 0..100 {
        at += rng.i64(0..2 * 432 * MINUTE);
        let event = event(at, &format!("m{number}-1234"));
        assert!(sessions.apply(&plan, &event.seen()));
        sessions.take(&plan);
        sessions.settle(&plan, at - plan.lateness_us);
    }
    let (bytes, open) = (crate::state::codec::encode(1, &sessions).len(), sessions.spans());
    assert!(bytes <= 30 + 50 * open, "{bytes} bytes for {open} sessions");
    assert!(bytes < 700, "{bytes}");
}
