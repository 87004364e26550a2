//! Sessions (SEMANTICS §5): whatever the order of events, batches, copies, merges, restarts and corrections, the tables say of
//! every stored event and session what a recomputation from the events says. The oracle knows the events and whose the view
//! `current_events` says they are, and nothing of the engine's sessions; the views are asked in a lake.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tributary::engine::Core;
use tributary::query::{Target, query};
use tributary::session::SessionId;
use tributary::sink::lake::LakeSink;
use tributary::sink::{CommitRange, TableSink};

use crate::identity::Taken;
use crate::world::{Event, World, for_seeds, random_events};

const MINUTE_US: i64 = 60_000_000;
const GAP_US: i64 = 30 * MINUTE_US;
/// As in all of [`RULES`]: clicks come in any order over some days.
const LATENESS_US: i64 = 7 * 24 * 60 * MINUTE_US;

/// What the oracle goes by.
#[derive(Clone, Copy, Debug)]
struct Rules {
    section: &'static str,
    campaign: bool,
    midnight: bool,
    pages_only: bool,
}

const RULES: [Rules; 4] = [
    Rules { section: "sessions: { lateness: 7d }", campaign: false, midnight: false, pages_only: false },
    Rules { section: "sessions: { lateness: 7d, events: page }", campaign: false, midnight: false, pages_only: true },
    Rules {
        section: "sessions: { lateness: 7d, split_on: campaign }",
        campaign: true,
        midnight: false,
        pages_only: false,
    },
    Rules {
        section: "sessions: { lateness: 7d, split_on: [campaign, midnight] }",
        campaign: true,
        midnight: true,
        pages_only: false,
    },
];

fn world(rules: Rules) -> World {
    let folder = tempfile::tempdir().expect("folder");
    let text = format!(
        "pipeline: visits\ntimezone: Europe/Berlin\nsources:\n  site: {{ file: {{ path: none.ndjson }}, format: {{ json: segment }} }}\n\
         identity:\n  identifiers: [user_id, email, anonymous_id]\n  max_identifiers: 100000\n\
         segments: {{ regulars: \"sessions >= 3\" }}\n{}\n",
        rules.section
    );
    std::fs::write(folder.path().join("visits.yaml"), text).expect("file");
    World::new(folder.path())
}

/// An event and what its context says.
#[derive(Clone, Debug)]
struct Click {
    event: Event,
    page: bool,
    path: Option<&'static str>,
    campaign: Option<&'static str>,
}

/// People and their identifiers as elsewhere, over three days, many events at one time or exactly the gap apart.
fn random_clicks(random: &mut fastrand::Rng, count: usize, first: usize) -> Vec<Click> {
    let events = random_events(random, count, first).into_iter();
    events
        .map(|mut event| {
            let at = 1_774_700_000 + 600 * random.i64(0..400) + *random.choice(&[0, 0, 0, 1, -1]).expect("one");
            let (page, path) = (random.bool(), random.choice(&[None, Some("/"), Some("/a"), Some("/b")]).copied());
            let campaign = random.choice(&[None, None, None, Some("spring"), Some("sale")]).copied().flatten();
            event.timestamp = at * 1_000_000;
            set(&mut event, page, path.flatten(), campaign);
            Click { event, page, path: path.flatten(), campaign }
        })
        .collect()
}

fn set(event: &mut Event, page: bool, path: Option<&str>, campaign: Option<&str>) {
    let time = DateTime::<Utc>::from_timestamp_micros(event.timestamp).expect("a time").to_rfc3339();
    event.rest[0] = format!(r#""timestamp":"{time}""#);
    let mut context: Vec<String> = path.iter().map(|path| format!(r#""page":{{"path":"{path}"}}"#)).collect();
    context.extend(campaign.iter().map(|name| format!(r#""campaign":{{"name":"{name}"}}"#)));
    event.rest[1] = format!(r#""context":{{{}}}"#, context.join(","));
    if page {
        event.rest[2] = r#""type":"page""#.to_string();
    }
}

/// A session, but for its id.
#[derive(Debug, PartialEq)]
struct Session {
    profile_id: String,
    started_at: i64,
    ended_at: i64,
    events: usize,
    pages: usize,
    first_page: Option<String>,
    last_page: Option<String>,
    campaign: Option<String>,
}

/// The sessions of one profile's events, by the words of the definition, and which event is in which.
fn naive(rules: Rules, profile_id: &str, clicks: &[&Click]) -> (BTreeMap<String, Session>, BTreeMap<String, String>) {
    let mut clicks: Vec<&&Click> = clicks.iter().filter(|click| !rules.pages_only || click.page).collect();
    clicks.sort_by_key(|click| (click.event.timestamp, &click.event.message_id));
    let day = |at: i64| {
        let at = DateTime::<Utc>::from_timestamp_micros(at).expect("a time");
        at.with_timezone(&Tz::Europe__Berlin).date_naive()
    };
    let mut cut: Vec<Vec<&Click>> = Vec::new();
    for click in clicks {
        let begins = cut.last().is_none_or(|session| {
            let (before, at) = (session[session.len() - 1].event.timestamp, click.event.timestamp);
            let named = session.iter().rev().find_map(|click| click.campaign);
            at - before > GAP_US
                || rules.midnight && day(before) != day(at)
                || rules.campaign && named.is_some() && click.campaign.is_some() && named != click.campaign
        });
        if begins {
            cut.push(Vec::new());
        }
        cut.last_mut().expect("a session").push(click);
    }
    let (mut sessions, mut of_event) = (BTreeMap::new(), BTreeMap::new());
    for clicks in cut {
        let (first, last) = (clicks[0], clicks[clicks.len() - 1]);
        let id = SessionId::of("site", &first.event.message_id).to_string();
        of_event.extend(clicks.iter().map(|click| (click.event.message_id.clone(), id.clone())));
        let session = Session {
            profile_id: profile_id.to_string(),
            started_at: first.event.timestamp,
            ended_at: last.event.timestamp,
            events: clicks.len(),
            pages: clicks.iter().filter(|click| click.page).count(),
            first_page: clicks.iter().find_map(|click| click.path).map(str::to_string),
            last_page: clicks.iter().rev().find_map(|click| click.path).map(str::to_string),
            campaign: clicks.iter().find_map(|click| click.campaign).map(str::to_string),
        };
        assert!(sessions.insert(id, session).is_none());
    }
    (sessions, of_event)
}

/// The tables of a run in a lake, asked as an analyst would.
struct Asked {
    runtime: tokio::runtime::Runtime,
    target: Target,
    _folder: tempfile::TempDir,
}

impl Asked {
    fn of(world: &World) -> Asked {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().to_str().expect("path").to_string();
        runtime.block_on(async {
            let mut sink = LakeSink::new(&root, "g1").expect("sink");
            sink.prepare(&Core::tables(&world.pipeline)).await.expect("prepare");
            let mut after = 0;
            for commit in world.commits.iter().filter(|commit| !commit.rows.is_empty()) {
                sink.ship(CommitRange { after, upto: commit.commit }, &commit.rows).await.expect("ship");
                after = commit.commit;
            }
        });
        Asked { runtime, target: Target::Lake { root }, _folder: folder }
    }

    /// Rows of texts; None: null.
    fn ask(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let batches: Vec<RecordBatch> = self.runtime.block_on(query(&self.target, sql)).expect(sql);
        let rows = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)));
        let text = |column: &arrow::array::ArrayRef, row| {
            (!column.is_null(row)).then(|| array_value_to_string(column, row).expect("a value"))
        };
        rows.map(|(batch, row)| batch.columns().iter().map(|column| text(column, row)).collect()).collect()
    }
}

fn us(text: &Option<String>) -> i64 {
    DateTime::parse_from_rfc3339(text.as_deref().expect("a time")).expect("a time").timestamp_micros()
}

/// Compares the tables with the oracle; `late` are events that are in no session.
fn check(rules: Rules, world: &World, clicks: &[Click], late: &BTreeSet<String>, what: &str) {
    let asked = Asked::of(world);
    let mut of_profile: BTreeMap<String, Vec<&Click>> = BTreeMap::new();
    let mut stored: BTreeMap<String, Option<String>> = BTreeMap::new();
    for row in asked.ask("SELECT message_id, profile_id, session_id FROM current_events") {
        let [Some(message_id), profile_id, session_id] = &row[..] else { panic!("{row:?}") };
        let click = clicks.iter().find(|click| click.event.message_id == *message_id).expect("an event");
        if let Some(profile_id) = profile_id
            && !late.contains(message_id)
        {
            of_profile.entry(profile_id.clone()).or_default().push(click);
        }
        stored.insert(message_id.clone(), session_id.clone());
    }
    assert_eq!(stored.len(), clicks.len(), "{what}");
    let mut expected = BTreeMap::new();
    let mut of_event: BTreeMap<String, String> = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (profile_id, clicks) in &of_profile {
        let (sessions, events) = naive(rules, profile_id, clicks);
        counts.insert(profile_id.clone(), sessions.len());
        expected.extend(sessions);
        of_event.extend(events);
    }
    for (message_id, found) in &stored {
        assert_eq!(found.as_ref(), of_event.get(message_id), "the session of {message_id}: {what}");
    }
    let rows = asked.ask(
        "SELECT session_id, profile_id, started_at, ended_at, duration_s, events, pages, first_page, last_page, \
         campaign_name FROM current_sessions",
    );
    let mut found = BTreeMap::new();
    for row in rows {
        let number = |index: usize| row[index].as_ref().and_then(|text| text.parse().ok()).expect("a number");
        let session = Session {
            profile_id: row[1].clone().expect("an id"),
            started_at: us(&row[2]),
            ended_at: us(&row[3]),
            events: number(5),
            pages: number(6),
            first_page: row[7].clone(),
            last_page: row[8].clone(),
            campaign: row[9].clone(),
        };
        assert_eq!(number(4) as i64, (session.ended_at - session.started_at) / 1_000_000);
        assert!(found.insert(row[0].clone().expect("an id"), session).is_none());
    }
    assert_eq!(found, expected, "{what}");
    for row in asked.ask("SELECT profile_id, sessions FROM current_profiles") {
        let count = counts.get(row[0].as_deref().expect("an id")).copied().unwrap_or(0);
        assert_eq!(row[1], Some(count.to_string()), "sessions of {:?}: {what}", row[0]);
    }
    let regulars = asked.ask("SELECT profile_id FROM segment_members WHERE segment = 'regulars'");
    let regulars: BTreeSet<String> = regulars.into_iter().filter_map(|mut row| row.remove(0)).collect();
    let expected = counts.into_iter().filter(|(_, count)| *count >= 3).map(|(id, _)| id).collect();
    assert_eq!(regulars, expected, "{what}");
}

#[test]
fn sessions_are_those_of_the_stored_events_whatever_happens_to_them() {
    for_seeds("SESSIONS_SEED", 24, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let rules = RULES[seed as usize % RULES.len()];
        let mut world = world(rules);
        let (mut clicks, mut log) = (Vec::new(), Vec::new());
        for round in 0..random.usize(1..4) {
            let count = random.usize(5..60);
            let more = random_clicks(&mut random, count, clicks.len());
            clicks.extend(more.clone());
            // Every third event comes again, somewhere.
            let copies: Vec<Click> = clicks.iter().filter(|_| random.u8(0..3) == 0).cloned().collect();
            let mut events: Vec<Event> = more.into_iter().chain(copies).map(|click| click.event).collect();
            random.shuffle(&mut events);
            world.apply_in_batches(&events, &mut random);
            if random.u8(0..3) == 0 {
                world.restart();
            }
            let events: Vec<Event> = clicks.iter().map(|click| click.event.clone()).collect();
            if round > 0 || random.bool() {
                let taken = Taken::random(&mut random, &events);
                let (correction, owner) = taken.correction(&world);
                world.correct(correction, owner);
                log.push(taken);
            }
            check(rules, &world, &clicks, &BTreeSet::new(), &format!("seed {seed}, round {round}, {rules:?}, {log:?}"));
        }
    });
}

/// Time goes on: sessions are closed and leave the state, what comes too late is flagged and changes nothing, wherever batches
/// end; and a correction reads it all again.
#[test]
fn what_is_late_is_measured_event_by_event() {
    for_seeds("LATE_SEED", 12, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let rules = RULES[seed as usize % RULES.len()];
        let count = random.usize(20..100);
        let mut clicks: Vec<(i64, Click)> = random_clicks(&mut random, count, 0)
            .into_iter()
            .map(|mut click| {
                let day = random.i64(0..60);
                click.event.timestamp += day * 24 * 60 * MINUTE_US;
                (click.event.user_id, click.event.email) = (Some(format!("u{}", random.u8(0..2))), None);
                (click.event.anonymous_id, click.event.traits) = (None, Vec::new());
                set(&mut click.event, click.page, click.path, click.campaign);
                // Some are far behind.
                (click.event.timestamp + random.i64(0..3) / 2 * random.i64(0..14) * 24 * 60 * MINUTE_US, click)
            })
            .collect();
        clicks.sort_by_key(|(arrival, click)| (*arrival, click.event.message_id.clone()));
        let clicks: Vec<Click> = clicks.into_iter().map(|(_, click)| click).collect();
        let late = |struck: Option<&str>| {
            let mut latest: BTreeMap<&Option<String>, i64> = BTreeMap::new();
            let mut late = BTreeSet::new();
            for click in clicks.iter().filter(|click| Some(click.event.message_id.as_str()) != struck) {
                let latest = latest.entry(&click.event.user_id).or_insert(i64::MIN);
                if click.event.timestamp < latest.saturating_sub(LATENESS_US) && (!rules.pages_only || click.page) {
                    late.insert(click.event.message_id.clone());
                }
                *latest = (*latest).max(click.event.timestamp);
            }
            late
        };
        let mut world = world(rules);
        let events: Vec<Event> = clicks.iter().map(|click| click.event.clone()).collect();
        world.apply_in_batches(&events, &mut random);
        check(rules, &world, &clicks, &late(None), &format!("seed {seed}, {rules:?}"));
        let flagged = world.rows("events").into_iter().filter(|row| row["flags"].split(',').any(|flag| flag == "late"));
        let flagged: BTreeSet<String> = flagged.map(|row| row["message_id"].clone()).collect();
        assert_eq!(flagged, late(None), "seed {seed}");

        let struck = &random.choice(&clicks).expect("one").event.message_id;
        let (correction, owner) = Taken::Event(struck.clone()).correction(&world);
        let corrected = world.correct(correction, owner);
        assert_eq!(corrected.refused, None, "seed {seed}");
        check(rules, &world, &clicks, &late(Some(struck)), &format!("seed {seed}, {rules:?}, without {struck}"));
    });
}

/// Another definition begins anew: the sessions of before stay as they were, and are no longer counted.
#[test]
fn another_definition_begins_anew() {
    let mut world = world(RULES[0]);
    let click = |minute: i64| {
        let mut event = random_events(&mut fastrand::Rng::with_seed(1), 1, minute as usize).remove(0);
        (event.user_id, event.email, event.anonymous_id) = (Some("u1".to_string()), None, None);
        event.timestamp = 1_774_700_000_000_000 + minute * MINUTE_US;
        set(&mut event, true, Some("/"), None);
        event
    };
    world.apply(&[click(0), click(60)]);
    let folder = tempfile::tempdir().expect("folder");
    let text = "pipeline: visits\nsources:\n  site: { file: { path: none.ndjson }, format: { json: segment } }\n\
                identity:\n  identifiers: [user_id, email, anonymous_id]\n  max_identifiers: 100000\n\
                segments: { regulars: \"sessions >= 3\" }\nsessions: { gap: 10m }\n";
    std::fs::write(folder.path().join("visits.yaml"), text).expect("file");
    world.redefine(folder.path());
    world.apply(&[click(65), click(80)]);
    let asked = Asked::of(&world);
    let profiles = asked.ask("SELECT sessions, events FROM current_profiles");
    assert_eq!(profiles, [[Some("2".to_string()), Some("4".to_string())]]);
    let events = asked.ask("SELECT events FROM current_sessions ORDER BY started_at");
    assert_eq!(events, vec![[Some("1".to_string())]; 4]);
}
