//! What must hold when a world has come to rest: everything was read and told, and comes to what one batch of the same
//! records makes of the definitions that are in force, without what was corrected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Field, Schema, UInt32Type};
use tributary::engine::{Core, EngineRecord, ListEdit, Preparer};
use tributary::identity::{Correction, Named};
use tributary::profile::{Profile, ProfileRecord, Slots, Traits};
use tributary::sink::Table;
use tributary::state::keys::{self, Tag};
use tributary::state::{Store, codec, scan_all};

use super::check::{Checked, accounted, engine_record, ensure, text, watermark};
use super::definitions::{LISTS, OF_THE_MOMENT};
use super::source::SOURCES;
use super::tables::{conform, in_order};
use super::{World, audiences, journeys};
use crate::identity::{Taken, without};
use crate::world::{self, Seen, TINY};

/// What is left.
pub struct Rest<'w> {
    world: &'w World,
    tables: BTreeMap<String, RecordBatch>,
    record: EngineRecord,
    core: Core,
    corrections: Vec<Correction>,
}

/// What each is called, and how it is checked.
pub const AT_REST: &[(&str, fn(&Rest) -> Checked)] = &[
    ("everything was read", everything_was_read),
    ("the tables hold what was sealed", tables_are_what_was_sealed),
    ("totals are those of the tables", totals),
    ("what people were told is in force", what_was_told_is_in_force),
    ("state and tables are those of one batch, by digest and row by row", as_one_batch),
    ("one delivery for each cause, attempts from 1, one end", deliveries),
    ("every journey goes its way, each step once and at its time", |rest| {
        journeys::hold(&rest.tables, rest.record.now)
    }),
    ("whoever belongs to an audience is held by it, and nobody else", |rest| {
        audiences::hold(rest.world, &members_of_audience(rest)?)
    }),
];

pub fn all(world: &World) -> Checked {
    let rest = Rest::of(world)?;
    AT_REST.iter().try_for_each(|(what, check)| check(&rest).map_err(|found| format!("{what}: {found}")))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

impl Rest<'_> {
    fn of(world: &World) -> Result<Rest<'_>, String> {
        let store: Arc<dyn Store> = Arc::new(world.disk.entries.clone());
        let schema = Preparer::new(world.pipeline(), None).expect("a preparer").schema();
        let core = wait(Core::load(store.clone(), world.pipeline(), &schema, TINY, true));
        let core = core.map_err(|error| format!("the state cannot be loaded: {error}"))?;
        let corrections = wait(scan_all(&*store, &keys::prefix(Tag::Correction))).expect("memory");
        let corrections = corrections.iter().map(|(_, value)| codec::decode(Correction::VERSION, "correction", value));
        let corrections = corrections.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let tables = world.server.tables.iter().map(|(name, parts)| (name.clone(), in_order(parts))).collect();
        Ok(Rest { world, tables, record: engine_record(world)?, core, corrections })
    }

    /// The tables as the definitions in force have them.
    fn shown(&self) -> Vec<(Table, RecordBatch)> {
        let shown = |table: Table| {
            let rows = self.tables.get(&table.name)?;
            let fields: Vec<Field> =
                table.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
            Some((table, conform(rows, &Arc::new(Schema::new(fields)))))
        };
        Core::tables(self.world.pipeline()).into_iter().filter_map(shown).collect()
    }

    fn written(&self, named: &Named) -> String {
        format!("{}:{}", self.world.pipeline().identity.types[usize::from(named.kind)].name, named.value)
    }
}

fn everything_was_read(rest: &Rest) -> Checked {
    for (source, name) in SOURCES.iter().enumerate() {
        for (partition, records) in rest.world.log.partitions[source].iter().enumerate() {
            let next = watermark(rest.world, name, partition as i32);
            ensure!(next == records.len() as i64, "{name}/{partition}: read up to {next} of {}", records.len());
        }
    }
    Ok(())
}

/// Each row once.
fn tables_are_what_was_sealed(rest: &Rest) -> Checked {
    let mut wanted: BTreeMap<&String, Vec<RecordBatch>> = BTreeMap::new();
    for ((_, table), sealed) in &rest.world.disk.sealed {
        wanted.entry(table).or_default().push(sealed.rows.clone());
    }
    let names: BTreeSet<&String> = wanted.keys().copied().chain(rest.tables.keys()).collect();
    for name in names {
        let (found, wanted) = (rest.tables.get(name), wanted.get(name).map(|parts| in_order(parts)));
        ensure!(
            found == wanted.as_ref(),
            "table {name} holds {:?} rows, sealed were {:?}, or not the same",
            found.map(|rows| rows.num_rows()),
            wanted.map(|rows| rows.num_rows())
        );
    }
    Ok(())
}

fn totals(rest: &Rest) -> Checked {
    let (applied, rejected) = accounted(rest.world)?;
    let (totals, records) = (&rest.record.totals, rest.world.log.records().count() as u64);
    let duplicates = records - (applied.len() + rejected.len()) as u64;
    let counted = (totals.records, totals.events, totals.rejected, totals.duplicates);
    let found = (records, applied.len() as u64, rejected.len() as u64, duplicates);
    ensure!(counted == found, "records, events, rejects and duplicates: {counted:?}, should be {found:?}");
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for (segment, _) in seen(&rest.shown())?.members {
        *sizes.entry(segment).or_default() += 1;
    }
    let counted: BTreeMap<String, u64> = rest
        .record
        .segment_sizes
        .iter()
        .filter(|(_, size)| **size > 0)
        .map(|(name, size)| (name.clone(), *size as u64))
        .collect();
    ensure!(counted == sizes, "sizes of segments: {counted:?}, should be {sizes:?}");
    Ok(())
}

/// By the tables: the identifiers, by type and value, of those whom the definitions in force want in the audience.
fn members_of_audience(rest: &Rest) -> Result<BTreeSet<(String, String)>, String> {
    if rest.world.pipeline().audiences.is_empty() {
        return Ok(BTreeSet::new());
    }
    let seen = seen(&rest.shown())?;
    let belongs = |id: &String| seen.members.contains(&(audiences::SEGMENT.to_string(), id.clone()));
    let matched = seen.identifiers.iter().filter(|(_, id)| belongs(id)).filter_map(|(name, _)| name.split_once(':'));
    let matched = matched.filter(|(kind, _)| audiences::MATCH.contains(kind));
    Ok(matched.map(|(kind, value)| (kind.to_string(), value.to_string())).collect())
}

fn what_was_told_is_in_force(rest: &Rest) -> Checked {
    let (asked, identity) = (&rest.world.asked, &rest.world.pipeline().identity);
    let lost = asked.corrected.iter().find(|correction| !rest.core.corrections().holds(identity, correction));
    ensure!(lost.is_none(), "{lost:?} is not in force");
    let edits: BTreeMap<String, bool> =
        edits(rest, "staff")?.into_iter().map(|edit| (edit.value, edit.added)).collect();
    for (value, says) in asked.listed.iter().filter_map(|(value, says)| Some((value, (*says)?))) {
        ensure!(edits.get(value) == Some(&says), "staff: {value} is {:?}, should be {says}", edits.get(value));
    }
    Ok(())
}

/// What was said of a list.
fn edits(rest: &Rest, list: &str) -> Result<Vec<ListEdit>, String> {
    let stored = wait(scan_all(&rest.world.disk.entries, &keys::named_prefix(Tag::List, list))).expect("memory");
    let edit =
        |value: &bytes::Bytes| codec::decode(ListEdit::VERSION, "list", value).map_err(|error| error.to_string());
    stored.iter().map(|(_, value)| edit(value)).collect()
}

/// Profiles and segments are those of one batch over the same records at the same `now`.
fn as_one_batch(rest: &Rest) -> Checked {
    let world = rest.world;
    let mut expected = world::World::of(world.pipeline().clone(), 64 << 20);
    expected.clock = rest.record.now;
    let taken: Vec<Taken> = rest
        .corrections
        .iter()
        .map(|correction| match correction {
            Correction::Cut(a, b) => Taken::Link(rest.written(a), rest.written(b)),
            Correction::Ban(named) => Taken::Identifier(rest.written(named)),
            Correction::Strike { message_id, .. } => Taken::Event(message_id.to_string()),
        })
        .collect();
    for (source, name) in SOURCES.iter().enumerate() {
        let records = world.log.records().filter(|(of, ..)| *of == source);
        let events = records.filter_map(|(.., record)| Some((record.timestamp_us, record.event.as_ref()?)));
        let (times, events): (Vec<i64>, Vec<_>) = events.map(|(at, event)| (at, event.clone())).unzip();
        let payloads = without(&taken, &events).into_iter().map(|event| event.json());
        expected.apply_json(name, times.into_iter().zip(payloads));
    }
    for (list, identifier_type) in LISTS {
        for ListEdit { added, value, .. } in edits(rest, list)? {
            expected.edit_list(list, identifier_type, &[value], added);
        }
    }
    while expected.fire() || expected.sweep() {}

    let shown = rest.shown();
    let (mut seen, wanted) = (seen(&shown)?, expected.seen());
    // The table of groups that are gone stays as it is, also where the name comes back for others.
    let went = |id: &String| {
        let groups = world.pipelines.iter().map(|pipeline| pipeline.groups.iter().map(|group| &group.name));
        let name = id.split(':').next().and_then(|table| table.strip_prefix("groups_"));
        name.is_some_and(|name| groups.clone().any(|mut names| !names.any(|known| known == name)))
    };
    seen.profiles.retain(|id, _| wanted.profiles.contains_key(id) || !went(id));
    for (what, equal) in [
        ("members", seen.members == wanted.members),
        ("identifiers", seen.identifiers == wanted.identifiers),
        ("events", seen.events == wanted.events),
        ("sums", seen.sums == wanted.sums),
        ("profiles", profiles(&seen) == profiles(&wanted)),
    ] {
        ensure!(
            equal,
            "{what} are not those of one batch, with {taken:?}:\n{:?}\n{:?}\n{:#?}",
            seen.members.difference(&wanted.members),
            wanted.members.difference(&seen.members),
            differences(&seen, &wanted)
        );
    }
    let sessions_of = |tables: &[(Table, RecordBatch)]| {
        let parts: Vec<RecordBatch> =
            tables.iter().filter(|(table, _)| table.name == "sessions").map(|(_, rows)| rows.clone()).collect();
        if parts.is_empty() { BTreeMap::new() } else { sessions(&in_order(&parts), tables) }
    };
    let all: Vec<(Table, RecordBatch)> = expected.commits.iter().flat_map(|commit| commit.rows.clone()).collect();
    let (found, wanted) = (sessions_of(&shown), sessions_of(&all));
    ensure!(found == wanted, "sessions are not those of one batch, with {taken:?}:\n{:#?}", differing(&found, &wanted));
    let digest = wait(rest.core.digest()).map_err(|error| error.to_string())?;
    ensure!(
        digest == expected.digest(),
        "the digest is not that of one batch, with {taken:?}:\n{:#?}",
        differing(
            &states(rest.world, rest.record.now, stored(&rest.world.disk.entries, rest.core.slots())),
            &states(rest.world, rest.record.now, expected.profiles())
        )
    );
    Ok(())
}

fn seen(tables: &[(Table, RecordBatch)]) -> Result<Seen, String> {
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world::seen_of(tables.iter())));
    seen.map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "the tables contradict themselves".to_string(),
    })
}

/// Profiles and groups without what is as of the moment when each was last judged.
fn profiles(seen: &Seen) -> BTreeMap<&String, Vec<&str>> {
    let lasting = |part: &&str| {
        let name = part.split('=').next().unwrap_or_default();
        let of_trait =
            |moment: &&str| name == *moment || name.strip_prefix(moment).is_some_and(|rest| rest.starts_with('_'));
        !OF_THE_MOMENT.iter().any(of_trait)
    };
    seen.profiles.iter().map(|(id, row)| (id, row.split(' ').filter(lasting).collect())).collect()
}

fn stored(store: &dyn Store, slots: &Slots) -> Vec<Profile> {
    let stored = wait(scan_all(store, &keys::prefix(Tag::Profile))).expect("memory");
    let load =
        |value: &[u8]| codec::decode::<ProfileRecord>(ProfileRecord::VERSION, "profile", value).expect("a profile");
    stored.iter().map(|(_, value)| load(value).load(slots)).collect()
}

/// What the digest is made of, by id; of groups windows are not brought to `now`.
fn states(world: &World, now: i64, profiles: Vec<Profile>) -> BTreeMap<String, Vec<String>> {
    let schema = Preparer::new(world.pipeline(), None).expect("a preparer").schema();
    let plan = &world.pipeline().sessions;
    let rules = Traits::new(world.pipeline().traits.clone(), plan.clone(), &schema).expect("traits");
    let state = |mut profile: Profile| {
        if profile.group.is_none() {
            rules.settle(&mut profile, now);
        }
        let members: Vec<u16> = profile.segments().collect();
        let Profile { id, first_seen, last_seen, events, sessions, traits, stages, group, .. } = profile;
        let stages: Vec<_> = stages.into_iter().filter_map(|(index, of)| Some((index, of.stage?))).collect();
        let sessions = (sessions.count(plan), sessions.duration_us(plan));
        let group = group.map(|group| group.id);
        let of = format!("{first_seen} {last_seen} {events} {sessions:?} {stages:?} {members:?}");
        let traits = traits.iter().map(|of| format!("{of:?}"));
        (group.map_or(format!("{id}"), |group| format!("group {group}")), [of].into_iter().chain(traits).collect())
    };
    profiles.into_iter().map(state).collect()
}

/// What is not the same in both.
fn differing<'m>(found: &'m BTreeMap<String, Vec<String>>, wanted: &'m BTreeMap<String, Vec<String>>) -> Vec<String> {
    let keys: BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    let none = Vec::new();
    let only = |one: &Vec<String>, other: &Vec<String>| -> Vec<String> {
        one.iter().filter(|part| !other.contains(part)).cloned().collect()
    };
    let of = |key: &String| (found.get(key).unwrap_or(&none), wanted.get(key).unwrap_or(&none));
    let differ = keys.into_iter().filter(|key| of(key).0 != of(key).1);
    differ
        .map(|key| format!("{key}: {:?}, should be {:?}", only(of(key).0, of(key).1), only(of(key).1, of(key).0)))
        .collect()
}

/// What one has and the other has not.
fn differences<'s>(seen: &'s Seen, wanted: &'s Seen) -> Vec<(&'s String, Vec<&'s str>, Vec<&'s str>)> {
    let (found, wanted) = (profiles(seen), profiles(wanted));
    let ids: BTreeSet<&String> = found.keys().chain(wanted.keys()).copied().collect();
    let of = |all: &BTreeMap<&String, Vec<&'s str>>, other: &BTreeMap<&String, Vec<&'s str>>, id: &String| {
        let mine = all.get(id).cloned().unwrap_or_default();
        let others = other.get(id).cloned().unwrap_or_default();
        mine.into_iter().filter(|part| !others.contains(part)).collect::<Vec<_>>()
    };
    let all = ids.into_iter().map(|id| (id, of(&found, &wanted, id), of(&wanted, &found, id)));
    all.filter(|(_, mine, others)| mine != others).collect()
}

/// Sessions by id, as the view `current_sessions` has them.
fn sessions(rows: &RecordBatch, tables: &[(Table, RecordBatch)]) -> BTreeMap<String, Vec<String>> {
    let mut merged: BTreeMap<String, String> = BTreeMap::new();
    for (_, rows) in tables.iter().filter(|(table, _)| table.name == "profile_merges") {
        for row in 0..rows.num_rows() {
            merged.insert(text(rows, "old_profile_id").value(row).into(), text(rows, "profile_id").value(row).into());
        }
    }
    let mut sessions = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let id = text(rows, "session_id").value(row).to_string();
        if text(rows, "merged_into").is_valid(row) || text(rows, "first_message_id").is_null(row) {
            sessions.remove(&id);
            continue;
        }
        let fields = rows.schema_ref().fields().iter().zip(rows.columns());
        let shown = fields.filter(|(field, _)| !["_batch", "_seq", "session_id"].contains(&field.name().as_str()));
        let shown = shown.map(|(field, column)| {
            let value = arrow::util::display::array_value_to_string(column, row).expect("a value");
            match field.name().as_str() {
                "profile_id" => format!("profile_id={}", merged.get(&value).unwrap_or(&value)),
                name => format!("{name}={value}"),
            }
        });
        sessions.insert(id, shown.collect());
    }
    sessions
}

/// One delivery for each cause, its attempts numbered from 1, one end; requests with an id have the body that was sealed.
fn deliveries(rest: &Rest) -> Checked {
    let (world, tables) = (rest.world, &rest.tables);
    #[derive(Default)]
    struct Sent<'r> {
        activation: &'r str,
        destination: &'r str,
        body: &'r str,
        outcomes: Vec<(u32, &'r str)>,
    }
    let mut sent: BTreeMap<&str, Sent<'_>> = BTreeMap::new();
    // The latest delivery of each profile: they go one after the other.
    let mut in_order: BTreeMap<&str, &str> = BTreeMap::new();
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
            entry.destination = value("destination");
            if entry.destination == "crm" {
                let last = in_order.entry(value("profile_id")).or_insert(value("delivery_id"));
                let again = entry.outcomes.is_empty() || *last == value("delivery_id");
                ensure!(again, "{} and {last} of {} overtook each other", value("delivery_id"), value("profile_id"));
                *last = value("delivery_id");
            }
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
            // Out of date when it was to leave.
            "skipped" if entry.destination == "list" => {}
            "uncertain" if entry.destination == "ads" => {}
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
    let by_itself =
        |rows: &RecordBatch, row: usize| matches!(text(rows, "cause").value(row), "event" | "time" | "edit");
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
        ("joined", change("staff", "entered")),
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
