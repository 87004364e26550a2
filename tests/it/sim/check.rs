//! What must hold at every death and in the end. Everything is read as it was left on the disk, in the tables and in the
//! receiver's book.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type, UInt32Type, UInt64Type};
use tributary::engine::{EngineRecord, Outcome};
use tributary::source::Next;
use tributary::state::keys::{self, Tag};
use tributary::state::{Store, codec};

use super::source::{SOURCES, TOPIC};
use super::{AWAY, World};

pub type Checked = Result<(), String>;

/// Position: source, partition, offset.
pub type Place = (String, i32, i64);

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}
pub(super) use ensure;

/// What each is called, and how it is checked.
pub const ALWAYS: &[(&str, fn(&World) -> Checked)] = &[
    ("a position below the watermark is one of applied, duplicate and rejected, none above it is", watermarks),
    ("a commit is sealed once, `_seq` from 0 without a gap in each of its tables", numbered),
    ("enter and exit alternate", alternate),
    ("the tables hold nothing that was not sealed, and nothing twice", only_sealed),
    ("repeated requests have one body", bodies),
    ("where repeats are not dropped, nothing is done twice", once),
    ("no process ends but by a fault that a restart repairs", ends),
];

/// All of it.
pub fn now(world: &World) -> Checked {
    ALWAYS.iter().try_for_each(|(what, check)| check(world).map_err(|found| format!("{what}: {found}")))
}

/// No process ended in a way that none may.
fn ends(world: &World) -> Checked {
    let allowed = ["no event has named", "is no list in the running process", "ask again"];
    let refused = world.asked.refused.iter().find(|reason| !allowed.iter().any(|text| reason.contains(text)));
    ensure!(refused.is_none(), "someone was refused: {refused:?}");
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

pub fn engine_record(world: &World) -> Result<EngineRecord, String> {
    let value = get(world, &keys::name(Tag::Engine, EngineRecord::KEY)).ok_or("nothing was committed")?;
    codec::decode(EngineRecord::VERSION, "record", &value).map_err(|error| error.to_string())
}

pub fn watermark(world: &World, source: &str, partition: i32) -> i64 {
    let value = get(world, &keys::position(source, TOPIC, partition));
    value.map_or(0, |value| codec::decode::<Next>(Next::VERSION, "position", &value).expect("a position").offset)
}

pub fn text<'r>(rows: &'r RecordBatch, column: &str) -> &'r StringArray {
    rows.column_by_name(column).unwrap_or_else(|| panic!("no {column}")).as_string::<i32>()
}

/// Applied positions with their message ids, and rejected ones, of all that was sealed; each once.
pub fn accounted(world: &World) -> Result<(BTreeMap<Place, String>, BTreeSet<Place>), String> {
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
fn watermarks(world: &World) -> Checked {
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

/// Whether the next start has something to count anew.
pub fn is_to_be_counted_anew(world: &World) -> bool {
    get(world, &keys::name(Tag::Engine, "recount groups")).is_some()
}

fn numbered(world: &World) -> Checked {
    ensure!(world.disk.resealed.is_empty(), "sealed twice: {:?}", world.disk.resealed);
    for ((commit, table), sealed) in &world.disk.sealed {
        let rows = &sealed.rows;
        let numbers = rows.column_by_name("_seq").expect("_seq").as_primitive::<UInt32Type>();
        let commits = rows.column_by_name("_batch").expect("_batch").as_primitive::<UInt64Type>();
        ensure!(
            numbers.values().iter().copied().eq(0..rows.num_rows() as u32),
            "{table} of commit {commit}: _seq is {numbers:?}"
        );
        ensure!(commits.values().iter().all(|batch| batch == commit), "{table} of commit {commit}: _batch is another");
    }
    Ok(())
}

fn alternate(world: &World) -> Checked {
    let mut members: BTreeMap<[&str; 3], Vec<(&str, &str, u64)>> = BTreeMap::new();
    for ((commit, table), sealed) in &world.disk.sealed {
        let (kind, id) = match table.as_str() {
            "segment_changes" => (None, "profile_id"),
            "group_segment_changes" => (Some("group_type"), "group_id"),
            _ => continue,
        };
        for row in 0..sealed.rows.num_rows() {
            let value = |column: &str| text(&sealed.rows, column).value(row);
            let member = [kind.map_or("", value), value("segment"), value(id)];
            let changes = members.entry(member).or_default();
            let before = changes.last().map_or("exited", |(change, ..)| change);
            let alternates = before != value("change");
            changes.push((value("change"), value("cause"), *commit));
            ensure!(alternates, "{member:?}: {changes:?}");
        }
    }
    Ok(())
}

fn only_sealed(world: &World) -> Checked {
    for (table, parts) in &world.server.tables {
        let mut there: BTreeSet<(u64, u32)> = BTreeSet::new();
        for part in parts {
            let numbers = part.column_by_name("_seq").expect("_seq").as_primitive::<UInt32Type>();
            let commits = part.column_by_name("_batch").expect("_batch").as_primitive::<UInt64Type>();
            for place in commits.values().iter().copied().zip(numbers.values().iter().copied()) {
                ensure!(there.insert(place), "row {place:?} of {table} is there twice");
            }
        }
        let mut commits: BTreeMap<u64, u32> = BTreeMap::new();
        there.iter().for_each(|(commit, _)| *commits.entry(*commit).or_default() += 1);
        for (commit, rows) in commits {
            let sealed = world.disk.sealed.get(&(commit, table.clone())).map_or(0, |sealed| sealed.rows.num_rows());
            ensure!(rows as usize <= sealed, "{table} holds {rows} rows of commit {commit}, sealed were {sealed}");
        }
    }
    Ok(())
}

/// The receiver that cannot tell a repeat has acted on nothing twice.
fn once(world: &World) -> Checked {
    let mut taken = BTreeSet::new();
    for receipt in world.receipts.iter().filter(|receipt| receipt.destination == "ads" && receipt.taken) {
        ensure!(taken.insert(&receipt.id), "{} was sent and done twice", receipt.id);
    }
    Ok(())
}

fn bodies(world: &World) -> Checked {
    let mut bodies: BTreeMap<&str, &str> = BTreeMap::new();
    for receipt in &world.receipts {
        let body = *bodies.entry(&receipt.id).or_insert(&receipt.body);
        ensure!(body == receipt.body, "{} was sent with two bodies:\n{body}\n{}", receipt.id, receipt.body);
    }
    Ok(())
}
