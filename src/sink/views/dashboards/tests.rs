//! Random traffic with merges and corrections, and what the dashboards must show of it, worked out row by row.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use chrono::{DateTime, Datelike as _, Duration, NaiveDate, Utc};

use crate::activation::EMITTED;
use crate::sink::tables::{self, Table, tests::batch};

pub(crate) struct Traffic {
    pub tables: Vec<Table>,
    pub commits: Vec<Vec<(Table, RecordBatch)>>,
    pub answers: Vec<(&'static str, String)>,
}

const MINUTES: &str = "SELECT minute, type, event, source, events FROM events_by_minute ORDER BY 1, 2, 3, 4";
const ACTIVE: &str = "SELECT period, start, people FROM active_profiles ORDER BY 1, 2";
const WEEKS: &str = "SELECT start, people FROM active_profiles WHERE period = 'week' ORDER BY 1";
const REVENUE: &str = "SELECT day, currency, orders, CAST(round(revenue * 1000000) AS BIGINT), refunds, \
                       CAST(round(refunded * 1000000) AS BIGINT) FROM daily_revenue ORDER BY 1, 2";
const OUTCOMES: &str =
    "SELECT hour, activation, destination, outcome, attempts FROM delivery_outcomes ORDER BY 1, 2, 3, 4";

/// An amount as events may have it, and what counts of it in millionths.
const AMOUNTS: [(Option<&str>, i64); 12] = [
    (Some(r#"{"revenue":12.5,"total":14,"currency":"EUR"}"#), 12_500_000),
    (Some(r#"{"total":44.9,"currency":"EUR"}"#), 44_900_000),
    (Some(r#"{"total":0.1,"currency":"USD"}"#), 100_000),
    (Some(r#"{"value":7,"currency":"USD"}"#), 7_000_000),
    (Some(r#"{"revenue":"12.5","total":3.000001,"currency":"EUR"}"#), 3_000_001),
    (Some(r#"{"revenue":null,"value":-2.25}"#), -2_250_000),
    (Some(r#"{"revenue":1e13,"total":5,"currency":"EUR"}"#), 0),
    (Some(r#"{"revenue":1e12,"currency":"IDR"}"#), 1_000_000_000_000_000_000),
    (Some(r#"{"total":true,"currency":7}"#), 0),
    (Some(r#"{"total":[1],"currency":"EUR"}"#), 0),
    (Some("{}"), 0),
    (None, 0),
];

struct Event {
    place: (u64, u32),
    at: DateTime<Utc>,
    event: Option<&'static str>,
    source: &'static str,
    profile: Option<String>,
    amount: usize,
    struck: bool,
}

fn texts<T>(rows: &[T], value: impl Fn(&T) -> Option<String>) -> Vec<Option<String>> {
    rows.iter().map(value).collect()
}

fn rows(table: &Table, commit: u64, given: &[(&str, Vec<Option<String>>)]) -> (Table, RecordBatch) {
    let given: Vec<(&str, Vec<Option<&str>>)> =
        given.iter().map(|(name, values)| (*name, values.iter().map(Option::as_deref).collect())).collect();
    (table.clone(), batch(table, commit, &given))
}

fn pick<T: Clone>(random: &mut fastrand::Rng, of: &[T]) -> T {
    of[random.usize(0..of.len())].clone()
}

pub(crate) fn traffic(seed: u64) -> Traffic {
    let mut random = fastrand::Rng::with_seed(seed);
    let (events, merges) = (tables::events(), tables::profile_merges());
    let (moves, deliveries) = (tables::event_moves(), tables::deliveries());
    let begin = NaiveDate::from_ymd_opt(2026, 2, 20).expect("date").and_time(chrono::NaiveTime::MIN).and_utc();
    let ids: Vec<String> = (0..14).map(|_| format!("{:032x}", random.u128(..))).collect();
    let mut stored: Vec<Event> = Vec::new();
    // The latest row of each.
    let mut now_of: BTreeMap<String, String> = BTreeMap::new();
    let mut moved: BTreeMap<(u64, u32), Option<String>> = BTreeMap::new();
    let mut struck: BTreeSet<(u64, u32)> = BTreeSet::new();
    let mut outcomes: BTreeMap<(DateTime<Utc>, String, String, String), i64> = BTreeMap::new();
    let mut commits = Vec::new();
    for commit in 1..=30u64 {
        let mut shipped = Vec::new();
        let count = random.u32(0..25);
        let new: Vec<Event> = (0..count)
            .map(|seq| {
                let names = [
                    Some("Product Viewed"),
                    Some("Order Completed"),
                    Some("Order Completed"),
                    Some("Order Refunded"),
                    None,
                ];
                let struck = random.u8(0..40) == 0;
                // Few minutes, so that commits share them; now and then one of long ago.
                let at = match random.u8(0..20) {
                    0 => begin - Duration::days(random.i64(0..20_000)),
                    _ => begin + Duration::seconds(random.i64(0..24) * 86_400 + random.i64(0..3) * 40 + 86_340),
                };
                Event {
                    place: (commit, seq),
                    at: at + Duration::microseconds(random.i64(0..1_000_000)),
                    event: pick(&mut random, &names),
                    source: pick(&mut random, &["web", "web", "shop", EMITTED]),
                    profile: (!struck && random.u8(0..10) > 0).then(|| pick(&mut random, &ids)),
                    amount: random.usize(0..AMOUNTS.len()),
                    struck,
                }
            })
            .collect();
        if !new.is_empty() {
            shipped.push(rows(
                &events,
                commit,
                &[
                    ("message_id", texts(&new, |event| Some(format!("{:?}", event.place)))),
                    (
                        "type",
                        texts(&new, |event| Some(if event.event.is_some() { "track" } else { "page" }.to_string())),
                    ),
                    ("event", texts(&new, |event| event.event.map(str::to_string))),
                    ("source", texts(&new, |event| Some(event.source.to_string()))),
                    ("timestamp", texts(&new, |event| Some(event.at.to_rfc3339()))),
                    ("profile_id", texts(&new, |event| event.profile.clone())),
                    ("properties", texts(&new, |event| AMOUNTS[event.amount].0.map(str::to_string))),
                    ("identity_decision", texts(&new, |event| event.struck.then(|| "struck".to_string()))),
                ],
            ));
            stored.extend(new);
        }
        // Two become one, with all that had become the one of them; or one lives again.
        let mut merged = Vec::new();
        if random.u8(0..3) == 0 {
            let live: Vec<String> =
                ids.iter().filter(|id| now_of.get(*id).is_none_or(|now| now == *id)).cloned().collect();
            let (old, new) = (pick(&mut random, &live), pick(&mut random, &live));
            if old != new {
                merged.extend(
                    ids.iter()
                        .filter(|id| now_of.get(*id) == Some(&old) || **id == old)
                        .map(|id| (id.clone(), new.clone())),
                );
            }
        } else if random.u8(0..6) == 0 {
            let gone: Vec<String> = now_of.iter().filter(|(id, now)| id != now).map(|(id, _)| id.clone()).collect();
            merged.extend((!gone.is_empty()).then(|| pick(&mut random, &gone)).map(|id| (id.clone(), id)));
        }
        if !merged.is_empty() {
            let [old, new] = [0, 1].map(|side| texts(&merged, |pair| Some([&pair.0, &pair.1][side].clone())));
            shipped.push(rows(&merges, commit, &[("old_profile_id", old), ("profile_id", new)]));
            now_of.extend(merged);
        }
        // Some events are somebody else's since, in another session only, or nobody's.
        if !stored.is_empty() && random.u8(0..3) == 0 {
            let cause = pick(&mut random, &["split", "ban", "strike"]);
            let chosen: BTreeSet<usize> = (0..random.usize(1..5)).map(|_| random.usize(0..stored.len())).collect();
            let chosen: Vec<(&Event, Option<String>)> = chosen
                .into_iter()
                .map(|index| &stored[index])
                .filter(|event| !struck.contains(&event.place))
                .map(|event| {
                    let to = match random.u8(0..4) {
                        0 => None,
                        1 => event.profile.clone(),
                        _ => Some(pick(&mut random, &ids)),
                    };
                    (event, to)
                })
                .collect();
            for (event, to) in &chosen {
                moved.insert(event.place, to.clone());
                if cause == "strike" && to.is_none() {
                    struck.insert(event.place);
                }
            }
            if !chosen.is_empty() {
                shipped.push(rows(
                    &moves,
                    commit,
                    &[
                        ("event_batch", texts(&chosen, |(event, _)| Some(event.place.0.to_string()))),
                        ("event_seq", texts(&chosen, |(event, _)| Some(event.place.1.to_string()))),
                        ("message_id", texts(&chosen, |(event, _)| Some(format!("{:?}", event.place)))),
                        ("timestamp", texts(&chosen, |(event, _)| Some(event.at.to_rfc3339()))),
                        ("profile_id", texts(&chosen, |(_, to)| to.clone())),
                        ("cause", texts(&chosen, |_| Some(cause.to_string()))),
                    ],
                ));
            }
        }
        let attempts: Vec<[String; 4]> = (0..random.usize(0..12))
            .map(|_| {
                let hour = begin + Duration::hours(random.i64(0..4));
                let row = [
                    pick(&mut random, &["welcome", "cart"]),
                    pick(&mut random, &["crm", "mail"]),
                    pick(&mut random, &["sent", "retry", "failed"]),
                ];
                let [activation, destination, outcome] = row.map(str::to_string);
                *outcomes.entry((hour, activation.clone(), destination.clone(), outcome.clone())).or_default() += 1;
                let at = hour + Duration::seconds(random.i64(0..3600));
                [activation, destination, outcome, at.to_rfc3339()]
            })
            .collect();
        if !attempts.is_empty() {
            let names = ["activation", "destination", "outcome", "attempted_at"];
            let columns = [0, 1, 2, 3].map(|column| (names[column], texts(&attempts, |row| Some(row[column].clone()))));
            shipped.push(rows(&deliveries, commit, &columns));
        }
        commits.push(shipped);
    }

    let mut minutes: BTreeMap<(String, &str, &str, &str), i64> = BTreeMap::new();
    let mut active: BTreeMap<(&str, NaiveDate), BTreeSet<String>> = BTreeMap::new();
    let mut revenue: BTreeMap<(NaiveDate, &str), [i128; 4]> = BTreeMap::new();
    for event in &stored {
        let kind = if event.event.is_some() { "track" } else { "page" };
        let minute = event.at.format("%Y-%m-%dT%H:%M:00Z").to_string();
        *minutes.entry((minute, kind, event.event.unwrap_or(kind), event.source)).or_default() += 1;
        let day = event.at.date_naive();
        let whose = moved.get(&event.place).unwrap_or(&event.profile);
        if let Some(id) = whose.as_ref().filter(|_| event.source != EMITTED) {
            let person = now_of.get(id).unwrap_or(id);
            let monday = day - Duration::days(i64::from(day.weekday().num_days_from_monday()));
            let first = day.with_day(1).expect("first");
            for period in [("day", day), ("week", monday), ("month", first)] {
                active.entry(period).or_default().insert(person.clone());
            }
        }
        let side = match event.event {
            Some("Order Completed") => 0,
            Some("Order Refunded") => 2,
            _ => continue,
        };
        if !event.struck && !struck.contains(&event.place) {
            let (json, micros) = AMOUNTS[event.amount];
            // A number is its text in both engines.
            let currencies = ["EUR", "USD", "IDR", "7"];
            let named = |currency: &&str| {
                json.is_some_and(|json| json.replace('"', "").contains(&format!("currency:{currency}")))
            };
            let currency = currencies.into_iter().find(named);
            let sums = revenue.entry((day, currency.unwrap_or(""))).or_default();
            sums[side] += 1;
            sums[side + 1] += i128::from(micros);
        }
    }
    let lines = |lines: Vec<String>| lines.join("\n");
    let active_lines = |only: &str| {
        let of = active.iter().filter(|((period, _), _)| *period == only);
        of.map(|((period, start), people)| (*period, format!("{start},{}", people.len()))).collect::<Vec<_>>()
    };
    let all = ["day", "month", "week"].iter().flat_map(|period| active_lines(period));
    let answers = vec![
        (MINUTES, lines(minutes.iter().map(|((a, b, c, d), n)| format!("{a},{b},{c},{d},{n}")).collect())),
        (ACTIVE, lines(all.map(|(period, line)| format!("{period},{line}")).collect())),
        (WEEKS, lines(active_lines("week").into_iter().map(|(_, line)| line).collect())),
        (
            REVENUE,
            lines(
                revenue
                    .iter()
                    .map(|((day, currency), [n, sum, m, back])| format!("{day},{currency},{n},{sum},{m},{back}"))
                    .collect(),
            ),
        ),
        (
            OUTCOMES,
            lines(
                outcomes
                    .iter()
                    .map(|((hour, a, d, o), n)| format!("{},{a},{d},{o},{n}", hour.format("%Y-%m-%dT%H:00:00Z")))
                    .collect(),
            ),
        ),
    ];
    Traffic { tables: vec![events, merges, moves, deliveries], commits, answers }
}
