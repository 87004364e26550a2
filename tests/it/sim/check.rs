//! What must hold. Everything is read as it was left on the disk, in the tables and in the receiver's book.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, UInt32Type, UInt64Type};
use tributary::engine::{Core, EngineRecord, Outcome, Preparer};
use tributary::sink::Table;
use tributary::sink::tables::TableKind;
use tributary::state::keys::{self, Tag};
use tributary::state::{Store, codec};

use super::source::{SOURCES, TOPIC};
use super::{AWAY, World, pipeline};
use crate::world::{self, Seen, TINY};

type Checked = Result<(), String>;

/// Position: source, partition, offset.
type Place = (String, i32, i64);

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

/// All of it, at the end.
pub fn all(world: &World) -> Checked {
    ends(world)?;
    watermarks(world)?;
    for (source, name) in SOURCES.iter().enumerate() {
        for (partition, records) in world.log.partitions[source].iter().enumerate() {
            let next = watermark(world, name, partition as i32);
            ensure!(next == records.len() as i64, "{name}/{partition}: read up to {next} of {}", records.len());
        }
    }
    let tables = tables_are_what_was_sealed(world)?;
    let record = engine_record(world)?;
    let (applied, rejected) = accounted(world)?;
    let (totals, records) = (record.totals, world.log.records().count() as u64);
    let duplicates = records - (applied.len() + rejected.len()) as u64;
    let counted = (totals.records, totals.events, totals.rejected, totals.duplicates);
    let found = (records, applied.len() as u64, rejected.len() as u64, duplicates);
    ensure!(counted == found, "totals of records, events, rejects and duplicates: {counted:?}, should be {found:?}");
    as_one_batch(world, &tables, &record)?;
    deliveries(world, &tables)
}

/// No process ended in a way that none may.
pub fn ends(world: &World) -> Checked {
    for (number, ended) in &world.ended {
        match ended {
            Ok(Outcome::Stopped | Outcome::Fenced) => {}
            Err(reason) if reason.starts_with(AWAY) => {}
            Err(reason) => return Err(format!("process {number} ended with: {reason}")),
        }
    }
    Ok(())
}

/// Everything that is left, by name, as numbers: entries of the disk, rows as sealed, requests.
pub fn left(world: &World) -> BTreeMap<String, u64> {
    let hash = xxhash_rust::xxh3::xxh3_64;
    let disk = world.disk.entries.dump();
    let disk = disk.iter().map(|(key, value)| (format!("entry {key:?}"), hash(value)));
    let sealed =
        world.disk.sealed.iter().map(|((commit, table), rows)| (format!("{table} of {commit}"), hash(&rows.bytes)));
    let receipts = world.receipts.iter().enumerate();
    let receipts =
        receipts.map(|(number, receipt)| (format!("request {number}"), hash(format!("{receipt:?}").as_bytes())));
    disk.chain(sealed).chain(receipts).collect()
}

fn get(world: &World, key: &[u8]) -> Option<bytes::Bytes> {
    futures::executor::block_on(world.disk.entries.get(key)).expect("memory")
}

fn engine_record(world: &World) -> Result<EngineRecord, String> {
    let value = get(world, &keys::name(Tag::Engine, EngineRecord::KEY)).ok_or("nothing was committed")?;
    codec::decode(EngineRecord::VERSION, "record", &value).map_err(|error| error.to_string())
}

fn watermark(world: &World, source: &str, partition: i32) -> i64 {
    let value = get(world, &keys::position(source, TOPIC, partition));
    value.map_or(0, |value| codec::decode(1, "position", &value).expect("a position"))
}

fn text<'r>(rows: &'r RecordBatch, column: &str) -> &'r StringArray {
    rows.column_by_name(column).unwrap_or_else(|| panic!("no {column}")).as_string::<i32>()
}

/// Applied positions with their message ids, and rejected ones, of all that was sealed; each once.
fn accounted(world: &World) -> Result<(BTreeMap<Place, String>, BTreeSet<Place>), String> {
    let (mut applied, mut rejected) = (BTreeMap::new(), BTreeSet::new());
    let mut ids = BTreeSet::new();
    for ((commit, table), sealed) in &world.disk.sealed {
        if table != "events" && table != "rejected_events" {
            continue;
        }
        let rows = &sealed.rows;
        let partitions = rows.column_by_name("partition").expect("partition").as_primitive::<Int32Type>();
        let offsets = rows.column_by_name("offset").expect("offset").as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            let place: Place = (text(rows, "source").value(row).to_string(), partitions.value(row), offsets.value(row));
            ensure!(
                !applied.contains_key(&place) && !rejected.contains(&place),
                "{place:?} is accounted for a second time by commit {commit}"
            );
            if table == "rejected_events" {
                rejected.insert(place);
                continue;
            }
            let id = text(rows, "message_id").value(row).to_string();
            ensure!(ids.insert(id.clone()), "{id} is applied a second time by commit {commit}, from {place:?}");
            applied.insert(place, id);
        }
    }
    Ok((applied, rejected))
}

/// Every position below the watermark is exactly one of applied, duplicate and rejected, and none above it is.
pub fn watermarks(world: &World) -> Checked {
    let (applied, rejected) = accounted(world)?;
    let ids: BTreeSet<&String> = applied.values().collect();
    for (source, partition, offset, record) in world.log.records() {
        let place: Place = (SOURCES[source].to_string(), partition, offset);
        let below = offset < watermark(world, SOURCES[source], partition);
        let (is_applied, is_rejected) = (applied.get(&place), rejected.contains(&place));
        match &record.event {
            _ if !below => {
                ensure!(is_applied.is_none() && !is_rejected, "{place:?} was taken and is not below the watermark");
            }
            None => ensure!(is_applied.is_none() && is_rejected, "{place:?} should be rejected"),
            Some(event) => {
                let id = &event.message_id;
                ensure!(!is_rejected, "{place:?} should not be rejected");
                ensure!(is_applied.is_none_or(|applied| applied == id), "{place:?} is {is_applied:?}, not {id}");
                ensure!(ids.contains(id), "{place:?} is lost: {id} was applied nowhere");
            }
        }
    }
    Ok(())
}

/// Rows in the order of (`_batch`, `_seq`).
pub fn in_order(parts: &[RecordBatch]) -> RecordBatch {
    let rows = concat_batches(&parts[0].schema(), parts).expect("parts of one table");
    let by = ["_batch", "_seq"]
        .map(|name| SortColumn { values: rows.column_by_name(name).expect("a place").clone(), options: None });
    let order: UInt32Array = lexsort_to_indices(&by, None).expect("an order");
    take_record_batch(&rows, &order).expect("rows")
}

/// The tables, in order: what was sealed, each row once, numbered from 0 in each commit.
fn tables_are_what_was_sealed(world: &World) -> Result<BTreeMap<String, RecordBatch>, String> {
    ensure!(world.disk.resealed.is_empty(), "sealed twice: {:?}", world.disk.resealed);
    let mut wanted: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
    for ((commit, table), sealed) in &world.disk.sealed {
        let rows = sealed.rows.clone();
        let numbers = rows.column_by_name("_seq").expect("_seq").as_primitive::<UInt32Type>();
        let commits = rows.column_by_name("_batch").expect("_batch").as_primitive::<UInt64Type>();
        ensure!(
            numbers.values().iter().copied().eq(0..rows.num_rows() as u32),
            "{table} of commit {commit}: _seq is {numbers:?}"
        );
        ensure!(commits.values().iter().all(|batch| batch == commit), "{table} of commit {commit}: _batch is another");
        wanted.entry(table.clone()).or_default().push(rows);
    }
    let mut tables = BTreeMap::new();
    let names: BTreeSet<&String> = wanted.keys().chain(world.server.tables.keys()).collect();
    for name in names {
        let found = world.server.tables.get(name).map(|parts| in_order(parts));
        let wanted = wanted.get(name).map(|parts| in_order(parts));
        ensure!(
            found == wanted,
            "table {name} holds {:?} rows, sealed were {:?}, or not the same",
            found.map(|rows| rows.num_rows()),
            wanted.map(|rows| rows.num_rows())
        );
        tables.extend(found.map(|rows| (name.clone(), rows)));
    }
    Ok(tables)
}

/// Profiles and segments are those of one batch over the same records at the same `now`.
fn as_one_batch(world: &World, tables: &BTreeMap<String, RecordBatch>, record: &EngineRecord) -> Checked {
    let mut expected = world::World::of(pipeline().clone(), 64 << 20);
    expected.clock = record.now;
    for (source, name) in SOURCES.iter().enumerate() {
        let records = world.log.records().filter(|(of, _, _, record)| *of == source && record.event.is_some());
        expected.apply_json(name, records.map(|(_, _, _, record)| (record.timestamp_us, record.payload.clone())));
    }
    while expected.fire() || expected.sweep() {}

    let store: Arc<dyn Store> = Arc::new(world.disk.entries.clone());
    let schema = Preparer::new(pipeline(), None).expect("a preparer").schema();
    let core = futures::executor::block_on(Core::load(store, pipeline(), &schema, TINY, true));
    let core = core.map_err(|error| format!("the state cannot be loaded: {error}"))?;
    let digest = futures::executor::block_on(core.digest()).map_err(|error| error.to_string())?;

    let seen = seen(tables)?;
    let wanted = expected.seen();
    for (what, equal) in [
        ("members", seen.members == wanted.members),
        ("identifiers", seen.identifiers == wanted.identifiers),
        ("events", seen.events == wanted.events),
        ("sums", seen.sums == wanted.sums),
        ("profiles", profiles(&seen) == profiles(&wanted)),
    ] {
        ensure!(
            equal,
            "{what} are not those of one batch:\n{:?}\n{:?}\n{:?}\n{:?}",
            seen.members.difference(&wanted.members),
            wanted.members.difference(&seen.members),
            profiles(&seen),
            profiles(&wanted)
        );
    }
    ensure!(digest == expected.digest(), "the digest is not that of one batch");
    Ok(())
}

fn seen(tables: &BTreeMap<String, RecordBatch>) -> Result<Seen, String> {
    let named: Vec<(Table, RecordBatch)> = tables
        .iter()
        .map(|(name, rows)| {
            (Table { name: name.clone(), kind: TableKind::Aggregate, schema: rows.schema() }, rows.clone())
        })
        .collect();
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world::seen_of(named.iter())));
    seen.map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "the tables contradict themselves".to_string(),
    })
}

/// Profiles without what is as of the moment when each was last judged.
fn profiles(seen: &Seen) -> BTreeMap<&String, Vec<&str>> {
    const OF_THE_MOMENT: [&str; 5] = ["_as_of=", "hour=", "day=", "engaged=", "stage="];
    let lasting = |part: &&str| !OF_THE_MOMENT.iter().any(|name| part.starts_with(name));
    seen.profiles.iter().map(|(id, row)| (id, row.split(' ').filter(lasting).collect())).collect()
}

/// One delivery for each cause, its attempts numbered from 1, one end; requests with an id have the body that was sealed.
fn deliveries(world: &World, tables: &BTreeMap<String, RecordBatch>) -> Checked {
    #[derive(Default)]
    struct Sent<'r> {
        activation: &'r str,
        body: &'r str,
        outcomes: Vec<(u32, &'r str)>,
    }
    let mut sent: BTreeMap<&str, Sent<'_>> = BTreeMap::new();
    if let Some(rows) = tables.get("deliveries") {
        let attempts = rows.column_by_name("attempt").expect("attempt").as_primitive::<UInt32Type>();
        for row in 0..rows.num_rows() {
            let value = |column: &str| text(rows, column).value(row);
            let entry = sent.entry(value("delivery_id")).or_default();
            ensure!(
                entry.outcomes.is_empty() || entry.body == value("body"),
                "{} has two bodies in the table",
                value("delivery_id")
            );
            entry.activation = value("activation");
            entry.body = value("body");
            entry.outcomes.push((attempts.value(row), value("outcome")));
        }
    }
    let mut taken = BTreeSet::new();
    for receipt in &world.receipts {
        let Some(entry) = sent.get(receipt.id.as_str()) else {
            return Err(format!("{} was sent and the tables do not know it: {}", receipt.id, receipt.body));
        };
        ensure!(entry.body == receipt.body, "{} was sent with two bodies", receipt.id);
        if receipt.taken {
            taken.insert(receipt.id.as_str());
        }
    }
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, entry) in &sent {
        *ids.entry(entry.activation).or_default() += 1;
        let numbers: Vec<u32> = entry.outcomes.iter().map(|(number, _)| *number).collect();
        ensure!(numbers.iter().copied().eq(1..=numbers.len() as u32), "{id} has the attempts {numbers:?}");
        let (last, before) = entry.outcomes.split_last().expect("an attempt");
        ensure!(
            before.iter().all(|(_, outcome)| *outcome == "retry"),
            "{id} went on after its end: {:?}",
            entry.outcomes
        );
        match last.1 {
            "sent" => ensure!(taken.contains(id), "{id} is said to be sent and nobody got it"),
            "failed" => {}
            other => return Err(format!("{id} ended with {other}")),
        }
    }
    for (activation, causes) in causes(tables) {
        let found = ids.remove(activation).unwrap_or_default();
        ensure!(found == causes, "{activation} was set off {causes} times and has {found} deliveries");
    }
    Ok(())
}

/// How often the tables say that each activation was set off.
fn causes(tables: &BTreeMap<String, RecordBatch>) -> Vec<(&'static str, usize)> {
    let count = |table: &str, is: &dyn Fn(&RecordBatch, usize) -> bool| {
        tables.get(table).map_or(0, |rows| (0..rows.num_rows()).filter(|row| is(rows, *row)).count())
    };
    let by_itself = |rows: &RecordBatch, row: usize| matches!(text(rows, "cause").value(row), "event" | "time");
    let change = |segment: &'static str, change: &'static str| {
        count("segment_changes", &|rows, row| {
            text(rows, "segment").value(row) == segment
                && text(rows, "change").value(row) == change
                && by_itself(rows, row)
        })
    };
    vec![
        ("welcome", change("customers", "entered")),
        ("lively", change("busy", "entered")),
        ("calmed", change("busy", "exited")),
        ("missed", change("quiet", "entered")),
        (
            "thanks",
            count("events", &|rows, row| {
                let named = text(rows, "event");
                named.is_valid(row) && named.value(row) == "Order Completed" && text(rows, "profile_id").is_valid(row)
            }),
        ),
        (
            "hot",
            count("stage_changes", &|rows, row| {
                let to = text(rows, "to_stage");
                to.is_valid(row) && to.value(row) == "hot" && by_itself(rows, row)
            }),
        ),
    ]
}
