//! Promise 2: any permutation, duplication and batching of the same events gives the same profiles, traits,
//! memberships and sums (SEMANTICS §4, §5). The engine's core runs in this process, on a store in memory; what it says
//! in tables is read as an analyst would read it. Components are checked against a union-find of the test's own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::util::display::array_value_to_string;
use tributary::definition::{self, Mode};
use tributary::engine::{Core, Preparer, Staged};
use tributary::event::RawBatch;
use tributary::state::Store;
use tributary::state::memory::MemoryStore;

const PIPELINE: &str = r#"pipeline: order
sources:
  site: { file: { path: none.ndjson }, format: { json: segment } }
identity:
  identifiers: [user_id, email, anonymous_id]
traits:
  plan:     { latest: traits.plan }
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

/// One event as its producer wrote it, with the identifiers it names.
struct Event {
    json: String,
    identifiers: Vec<String>,
    timestamp: i64,
}

fn events(random: &mut fastrand::Rng, count: usize) -> Vec<Event> {
    (0..count)
        .map(|number| {
            let at = 1_772_000_000 + random.i64(0..40_000);
            let time = chrono::DateTime::from_timestamp(at, 0).expect("a time").to_rfc3339();
            let mut fields = vec![format!(r#""messageId":"m{number}","timestamp":"{time}""#)];
            let mut identifiers = Vec::new();
            if random.u8(0..10) < 8 {
                let value = format!("a{}", random.u8(0..25));
                fields.push(format!(r#""anonymousId":"{value}""#));
                identifiers.push(format!("anonymous_id:{value}"));
            }
            if random.u8(0..10) < 4 {
                let value = format!("u{}", random.u8(0..12));
                fields.push(format!(r#""userId":"{value}""#));
                identifiers.push(format!("user_id:{value}"));
            }
            fields.push(format!(r#""context":{{"campaign":{{"source":"s{}"}}}}"#, random.u8(0..5)));
            match random.u8(0..3) {
                0 => {
                    let email = format!("e{}@shop.example", random.u8(0..12));
                    let plan = ["\"pro\"", "\"basic\"", "null"][random.usize(0..3)];
                    fields.push(format!(r#""type":"identify","traits":{{"email":"{email}","plan":{plan}}}"#));
                    identifiers.push(format!("email:{email}"));
                }
                1 => {
                    let total = format!("{}.{:02}", random.u32(1..200), random.u32(0..100));
                    let order = format!(r#""order_id":"o{number}","total":{total},"currency":"EUR""#);
                    fields.push(format!(r#""type":"track","event":"Order Completed","properties":{{{order}}}"#));
                }
                _ => fields.push(r#""type":"track","event":"Looked Around""#.to_string()),
            }
            Event { json: format!("{{{}}}", fields.join(",")), identifiers, timestamp: at * 1_000_000 }
        })
        .collect()
}

/// What an analyst sees at the end: current rows only, ids followed through merges.
#[derive(Debug, PartialEq)]
struct Seen {
    profiles: BTreeMap<String, String>,
    identifiers: BTreeMap<String, String>,
    members: BTreeSet<(String, String)>,
    sums: BTreeMap<String, (i128, i64)>,
    events: BTreeMap<String, Option<String>>,
}

fn text(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) { "∅".to_string() } else { array_value_to_string(column, row).expect("a value") }
}

fn run(folder: &std::path::Path, events: &[Event], order: &[usize], random: &mut fastrand::Rng) -> Seen {
    let (pipeline, _) = definition::load(folder, Mode::Run).unwrap_or_else(|findings| {
        panic!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut preparer = Preparer::new(&pipeline, None).expect("a preparer");
        // A tiny cache: most state is read back from the store.
        let mut core = Core::load(store.clone(), &pipeline, &preparer.schema(), 2_000, true).await.expect("a state");
        let mut commits = Vec::new();
        let mut rest = order;
        let topic: Arc<str> = "none.ndjson".into();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(random.usize(1..=rest.len().min(40)));
            rest = after;
            let mut raw = RawBatch::new("site".into());
            for index in batch {
                let event = &events[*index];
                raw.push(&topic, 0, *index as i64, event.timestamp, event.json.as_bytes());
            }
            let prepared = preparer.prepare(&raw, Vec::new()).expect("prepared");
            assert!(prepared.rejects.is_empty(), "{:?}", prepared.rejects.first());
            let mut staged = core.apply(Some(prepared), &[], 0).await.expect("applied");
            store.commit(std::mem::take(&mut staged.writes)).await.expect("committed");
            core.durable(staged.commit);
            commits.push(staged);
        }
        read(&commits)
    })
}

fn read(commits: &[Staged]) -> Seen {
    let (mut profiles, mut merged, mut members) = (BTreeMap::new(), HashMap::new(), BTreeSet::new());
    let (mut identifiers, mut sums, mut seen_events) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (table, rows) in commits.iter().flat_map(|commit| &commit.rows) {
        let column = |name: &str| rows.column_by_name(name).unwrap_or_else(|| panic!("{name} in {}", table.name));
        for row in 0..rows.num_rows() {
            let value = |name: &str| text(column(name), row);
            match table.name.as_str() {
                "profiles" => {
                    let id = value("profile_id");
                    if value("deleted") == "true" {
                        profiles.remove(&id);
                        continue;
                    }
                    let schema = rows.schema();
                    let shown = schema
                        .fields()
                        .iter()
                        .zip(rows.columns())
                        .filter(|(field, _)| !matches!(field.name().as_str(), "_batch" | "_seq" | "profile_id"));
                    let shown: Vec<String> =
                        shown.map(|(field, column)| format!("{}={}", field.name(), text(column, row))).collect();
                    profiles.insert(id, shown.join(" "));
                }
                "profile_merges" => {
                    merged.insert(value("old_profile_id"), value("profile_id"));
                }
                "identifiers" => {
                    identifiers.insert(format!("{}:{}", value("type"), value("value")), value("profile_id"));
                }
                "segment_changes" => {
                    let member = (value("segment"), value("profile_id"));
                    // Enter and exit alternate.
                    if value("change") == "entered" {
                        assert!(members.insert(member.clone()), "{member:?} entered twice");
                    } else {
                        assert!(members.remove(&member), "{member:?} exited without having entered");
                    }
                }
                "events" => {
                    let id = column("profile_id");
                    let id = (!id.is_null(row)).then(|| text(id, row));
                    let before = seen_events.insert(value("message_id"), id);
                    assert!(before.is_none(), "{} was taken twice", value("message_id"));
                }
                "by_hour__partial" => {
                    let revenue = column("revenue").as_primitive::<arrow::datatypes::Decimal128Type>().value(row);
                    let orders: i64 = value("orders").parse().expect("a count");
                    let sum: &mut (i128, i64) = sums.entry(value("hour")).or_default();
                    sum.0 += revenue;
                    sum.1 += orders;
                }
                other => panic!("unexpected table {other}"),
            }
        }
    }
    let last = |id: &String| merged.get(id).unwrap_or(id).clone();
    let identifiers = identifiers.iter().map(|(name, id)| (name.clone(), last(id))).collect();
    let events = seen_events.iter().map(|(name, id)| (name.clone(), id.as_ref().map(last))).collect();
    Seen { profiles, identifiers, members, sums, events }
}

/// Components by an algorithm that shares nothing with the program's: repeated relabelling.
fn components(events: &[Event]) -> BTreeSet<BTreeSet<String>> {
    let mut groups: Vec<BTreeSet<String>> = Vec::new();
    for event in events.iter().filter(|event| !event.identifiers.is_empty()) {
        let mut joined: BTreeSet<String> = event.identifiers.iter().cloned().collect();
        groups.retain(|group| {
            let touches = !group.is_disjoint(&joined);
            if touches {
                joined.extend(group.iter().cloned());
            }
            !touches
        });
        groups.push(joined);
    }
    groups.into_iter().collect()
}

#[test]
fn any_order_batching_and_duplication_gives_the_same_profiles_members_and_sums() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("order.yaml"), PIPELINE).expect("file");
    let first_seed: u64 = std::env::var("ORDER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first_seed..first_seed + 25 {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(20..250);
        let events = events(&mut random, count);
        let straight: Vec<usize> = (0..count).collect();
        let expected = run(folder.path(), &events, &straight, &mut random);

        let mut found: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
        for (name, id) in &expected.identifiers {
            found.entry(id).or_default().insert(name.clone());
        }
        let found: BTreeSet<BTreeSet<String>> = found.into_values().collect();
        assert_eq!(found, components(&events), "components differ from the union-find's (ORDER_SEED={seed})");
        assert_eq!(expected.profiles.len(), found.len(), "one current profile each (ORDER_SEED={seed})");

        for round in 0..3 {
            let mut order = straight.clone();
            // Every third event comes again, somewhere.
            order.extend((0..count).filter(|_| random.u8(0..3) == 0).collect::<Vec<_>>());
            random.shuffle(&mut order);
            let shuffled = run(folder.path(), &events, &order, &mut random);
            assert_eq!(shuffled, expected, "round {round} (ORDER_SEED={seed})");
        }
    }
}
