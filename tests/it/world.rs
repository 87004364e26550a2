//! The engine's core in this process, on a store in memory, with its output read as an analyst would read it; and
//! random events for it. Used where thousands of runs are compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{UInt32Type, UInt64Type};
use arrow::util::display::array_value_to_string;
use async_trait::async_trait;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tributary::definition::{self, GroupPlan, Mode, Pipeline};
use tributary::engine::history::{History, HistoryError, HistoryFilter, HistoryReader};
use tributary::engine::{
    Begun, Chunk, Command, Core, Corrected, CorrectionRequest, ListEdited, ListRequest, Preparer, Reading, Shadow,
    Staged,
};
use tributary::event::{ProfileId, RawBatch};
use tributary::identity::{Correction, Named};
use tributary::profile::{Profile, ProfileRecord, Traits, with_people};
use tributary::sink::CommitRange;
use tributary::state::keys::{self, Tag};
use tributary::state::memory::MemoryStore;
use tributary::state::{Store, codec, scan_all};
use tributary::transform::Restore;

/// One event as its producer wrote it: identifiers by type, and the rest of the JSON.
#[derive(Debug, Clone)]
pub struct Event {
    pub message_id: String,
    pub user_id: Option<String>,
    pub email: Option<String>,
    pub anonymous_id: Option<String>,
    /// Traits besides the e-mail.
    pub traits: Vec<String>,
    pub rest: Vec<String>,
    /// Microseconds.
    pub timestamp: i64,
}

impl Event {
    pub fn json(&self) -> String {
        let mut fields = vec![format!(r#""messageId":"{}""#, self.message_id)];
        fields.extend(self.user_id.iter().map(|value| format!(r#""userId":"{value}""#)));
        fields.extend(self.anonymous_id.iter().map(|value| format!(r#""anonymousId":"{value}""#)));
        let email = self.email.iter().map(|value| format!(r#""email":"{value}""#));
        let traits: Vec<String> = email.chain(self.traits.iter().cloned()).collect();
        if !traits.is_empty() {
            fields.push(format!(r#""traits":{{{}}}"#, traits.join(",")));
        }
        fields.extend(self.rest.iter().cloned());
        format!("{{{}}}", fields.join(","))
    }

    /// `type:value`, best first.
    pub fn identifiers(&self) -> Vec<String> {
        let name = |kind: &str, value: &Option<String>| value.as_ref().map(|value| format!("{kind}:{value}"));
        [name("user_id", &self.user_id), name("email", &self.email), name("anonymous_id", &self.anonymous_id)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The event as if it had never named this identifier.
    pub fn without(&self, identifier: &str) -> Event {
        let mut event = self.clone();
        let (kind, value) = identifier.split_once(':').expect("type:value");
        let field = match kind {
            "user_id" => &mut event.user_id,
            "email" => &mut event.email,
            _ => &mut event.anonymous_id,
        };
        if field.as_deref() == Some(value) {
            *field = None;
        }
        event
    }
}

/// Shoppers who sign in, order and change their minds, from few enough identifiers that many are joined.
pub fn random_events(random: &mut fastrand::Rng, count: usize, first: usize) -> Vec<Event> {
    (first..first + count)
        .map(|number| {
            let at = 1_772_000_000 + random.i64(0..40_000);
            let time = chrono::DateTime::from_timestamp(at, 0).expect("a time").to_rfc3339();
            let mut event = Event {
                message_id: format!("m{number}"),
                user_id: (random.u8(0..10) < 4).then(|| format!("u{}", random.u8(0..12))),
                email: None,
                anonymous_id: (random.u8(0..10) < 8).then(|| format!("a{}", random.u8(0..25))),
                traits: Vec::new(),
                rest: vec![format!(r#""timestamp":"{time}""#)],
                timestamp: at * 1_000_000,
            };
            event.rest.push(format!(r#""context":{{"campaign":{{"source":"s{}"}}}}"#, random.u8(0..5)));
            match random.u8(0..3) {
                0 => {
                    event.email = Some(format!("e{}@shop.example", random.u8(0..12)));
                    let plan = ["\"pro\"", "\"basic\"", "null"][random.usize(0..3)];
                    event.traits.push(format!(r#""plan":{plan}"#));
                    event.rest.push(r#""type":"identify""#.to_string());
                }
                1 => {
                    let total = format!("{}.{:02}", random.u32(1..200), random.u32(0..100));
                    let order = format!(r#""order_id":"o{number}","total":{total},"currency":"EUR""#);
                    let track = format!(r#""type":"track","event":"Order Completed","properties":{{{order}}}"#);
                    event.rest.push(track);
                }
                _ => event.rest.push(r#""type":"track","event":"Looked Around""#.to_string()),
            }
            if number % 3 > 0 {
                event.rest.push(format!(r#""groupId":"g{}""#, number * 7 % 5));
            }
            event
        })
        .collect()
}

/// What an analyst sees at the end: current rows only, ids followed through merges, events through moves.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub profiles: BTreeMap<String, String>,
    pub identifiers: BTreeMap<String, String>,
    pub members: BTreeSet<(String, String)>,
    pub sums: BTreeMap<String, (i128, i64)>,
    pub events: BTreeMap<String, Option<String>>,
}

pub struct World {
    pub pipeline: Pipeline,
    pub core: Core,
    preparer: Preparer,
    runtime: Runtime,
    pub store: Arc<dyn Store>,
    pub commits: Vec<Staged>,
    /// Changed keys of each commit.
    pub written: Vec<usize>,
    offset: i64,
    cache_bytes: usize,
    /// `now` of every commit.
    pub clock: i64,
}

/// A cache so small that most state is read back from the store.
pub const TINY: usize = 2_000;

impl World {
    pub fn new(folder: &Path) -> World {
        let (pipeline, _) = definition::load(folder, Mode::Run).unwrap_or_else(|findings| {
            panic!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        });
        World::of(pipeline, TINY)
    }

    pub fn of(pipeline: Pipeline, cache_bytes: usize) -> World {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let preparer = Preparer::new(&pipeline, None).expect("a preparer");
        let schema = preparer.schema();
        let core = Core::load(store.clone(), &pipeline, &schema, cache_bytes, true);
        let core = runtime.block_on(core).expect("a state");
        World {
            pipeline,
            core,
            preparer,
            runtime,
            store,
            commits: Vec::new(),
            written: Vec::new(),
            offset: 0,
            cache_bytes,
            clock: 0,
        }
    }

    /// Drops everything in memory and starts again from the store, as after a crash.
    pub fn restart(&mut self) {
        let schema = self.preparer.schema();
        let core = Core::load(self.store.clone(), &self.pipeline, &schema, self.cache_bytes, true);
        self.core = self.runtime.block_on(core).expect("a state");
    }

    /// Starts again with other definitions.
    pub fn redefine(&mut self, folder: &Path) {
        let (pipeline, _) = definition::load(folder, Mode::Run).expect("definitions");
        self.preparer = Preparer::new(&pipeline, None).expect("a preparer");
        self.runtime.block_on(tributary::engine::accept(&*self.store, &pipeline)).expect("accepted");
        self.pipeline = pipeline;
        self.restart();
    }

    /// Reads the next `rows` events of the fill that is under way and adds them; false when all have been read.
    pub fn fill_some(&mut self, rows: usize) -> bool {
        let Some(fill) = self.core.fill.clone().filter(|fill| fill.swept.is_none()) else { return false };
        let restore = Restore::new(&self.pipeline.transform.fields);
        let filter = fill.filter(self.core.slots(), &self.pipeline, self.core.record.now);
        let range =
            CommitRange { after: fill.cursor.map_or(0, |(commit, _)| commit.saturating_sub(1)), upto: fill.upto };
        let tables = Rows(self.commits.iter().flat_map(|commit| commit.rows.iter().cloned()).collect());
        let mut reader = HistoryReader::new(&tables, restore, filter, range);
        let mut chunk = None;
        while let Some(stored) = self.runtime.block_on(reader.next()).expect("history") {
            let start = stored.places.partition_point(|place| fill.cursor.is_some_and(|cursor| *place <= cursor));
            if start < stored.len() {
                let part = stored.slice(start, rows.min(stored.len() - start));
                let cursor = *part.places.last().expect("a row");
                chunk = Some(Box::new(Chunk { stored: part, cursor }));
                break;
            }
        }
        let more = chunk.is_some();
        let command = match chunk {
            Some(chunk) => Command::Fill { chunk, done: oneshot::channel().0 },
            None => Command::HistoryRead,
        };
        let staged = self.runtime.block_on(self.core.apply(None, &[command], self.clock)).expect("applied");
        self.commit(staged);
        more
    }

    /// Judges the next people of the fill; false when it is done.
    pub fn sweep(&mut self) -> bool {
        let staged = self.runtime.block_on(self.core.sweep(self.clock)).expect("swept");
        staged.map(|staged| self.commit(staged)).is_some()
    }

    /// Fires the next timers that are due; false when none was.
    pub fn fire(&mut self) -> bool {
        let staged = self.runtime.block_on(self.core.fire_timers(self.clock)).expect("fired");
        staged.map(|staged| self.commit(staged)).is_some()
    }

    /// Time passes, and what is due on the way happens at its moment: timers, scans, whoever has to be judged anew.
    pub fn pass(&mut self, now: i64) {
        loop {
            self.clock = self.core.next_due().min(now);
            if !self.fire() && !self.sweep() && self.core.next_due() > now {
                self.clock = now;
                return;
            }
        }
    }

    pub fn apply(&mut self, events: &[Event]) {
        self.apply_json("site", events.iter().map(|event| (event.timestamp, event.json())));
    }

    /// Payloads of one source as one batch, each with its broker's timestamp.
    pub fn apply_json(&mut self, source: &str, payloads: impl Iterator<Item = (i64, String)>) {
        let topic: Arc<str> = "none.ndjson".into();
        let mut raw = RawBatch::new(source.into());
        for (received_at, payload) in payloads {
            raw.push(&topic, 0, self.offset, received_at, payload.as_bytes());
            self.offset += 1;
        }
        let prepared = self.preparer.prepare(&raw, Vec::new()).expect("prepared");
        assert!(prepared.rejects.is_empty(), "{:?}", prepared.rejects.first());
        let staged = self.runtime.block_on(self.core.apply(Some(prepared), &[], self.clock)).expect("applied");
        self.commit(staged);
    }

    /// In batches of random size.
    pub fn apply_in_batches(&mut self, events: &[Event], random: &mut fastrand::Rng) {
        let mut rest = events;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(random.usize(1..=rest.len().min(40)));
            rest = after;
            self.apply(batch);
        }
    }

    fn commit(&mut self, mut staged: Staged) {
        self.written.push(staged.writes.writes.len());
        self.runtime.block_on(self.store.commit(std::mem::take(&mut staged.writes))).expect("committed");
        self.core.durable(staged.commit);
        self.commits.push(staged);
    }

    /// The normalised identifier `type:value`.
    pub fn named(&self, text: &str) -> Named {
        let (kind, value) = text.split_once(':').expect("type:value");
        Named { kind: self.pipeline.identity.kind(kind).expect("a type"), value: value.into() }
    }

    /// Begins a correction.
    pub fn begin(&mut self, correction: Correction, struck_profile: Option<ProfileId>) -> Begun {
        let identifier_types = self.pipeline.identity.types.iter().map(|kind| kind.name.clone()).collect();
        let request = CorrectionRequest { correction, identifier_types, struck_profile, activate: false };
        let command = Command::Correct { request, answer: oneshot::channel().0 };
        let staged = self.runtime.block_on(self.core.apply(None, &[command], self.clock)).expect("applied");
        let begun = staged.begun[0].clone();
        self.commit(staged);
        begun
    }

    /// Changes a list by command.
    pub fn edit_list(&mut self, segment: &str, identifier_type: &str, values: &[String], add: bool) -> ListEdited {
        let request = ListRequest {
            segment: segment.to_string(),
            identifier_type: identifier_type.to_string(),
            values: values.to_vec(),
            add,
        };
        let command = Command::EditList { request, answer: oneshot::channel().0 };
        let staged = self.runtime.block_on(self.core.apply(None, &[command], self.clock)).expect("applied");
        let edited = staged.edited[0].clone();
        self.commit(staged);
        edited
    }

    /// Reads the history that the rebuild asks for: which it is and what came of it.
    pub fn read_history(&mut self) -> (Reading, Shadow) {
        let job = self.core.rebuild.clone().expect("a rebuild");
        let profiles = self.runtime.block_on(self.core.ids_to_rebuild()).expect("ids");
        let restore = Restore::new(&self.pipeline.transform.fields);
        let mut shadow = self.core.shadow(&self.pipeline, &restore.schema()).expect("a shadow");
        let rows = Rows(self.commits.iter().flat_map(|commit| commit.rows.iter().cloned()).collect());
        let filter = HistoryFilter { profiles: Some(profiles), ..HistoryFilter::default() };
        let range = CommitRange { after: 0, upto: job.upto };
        let mut reader = HistoryReader::new(&rows, restore, filter, range);
        while let Some(stored) = self.runtime.block_on(reader.next()).expect("history") {
            shadow.take(&stored).expect("taken in");
        }
        (job.reading(), shadow)
    }

    pub fn finish(&mut self, shadow: Shadow) -> Corrected {
        let (staged, corrected) =
            self.runtime.block_on(self.core.finish_rebuild(shadow, self.clock)).expect("switched");
        self.commit(staged);
        corrected
    }

    /// A correction from beginning to end, with nothing in between.
    pub fn correct(&mut self, correction: Correction, struck_profile: Option<ProfileId>) -> Corrected {
        match self.begin(correction, struck_profile) {
            Begun::Refused(reason) => Corrected { refused: Some(reason), ..Corrected::default() },
            Begun::Busy => Corrected { busy: true, ..Corrected::default() },
            Begun::Done => Corrected::default(),
            Begun::Rebuilding => {
                let (_, shadow) = self.read_history();
                self.finish(shadow)
            }
        }
    }

    /// Everybody as stored, in no order.
    pub fn people(&self) -> Vec<Profile> {
        self.profiles().into_iter().filter(|profile| profile.group.is_none()).collect()
    }

    /// People and groups.
    pub fn profiles(&self) -> Vec<Profile> {
        let stored = self.runtime.block_on(scan_all(&*self.store, &keys::prefix(Tag::Profile))).expect("profiles");
        let load = |value: &[u8]| {
            let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", value).expect("a profile");
            record.load(self.core.slots())
        };
        stored.iter().map(|(_, value)| load(value)).collect()
    }

    /// The traits of these people as of the clock, a row each.
    pub fn traits(&self, people: &[Profile]) -> RecordBatch {
        let traits = Traits::new(self.pipeline.traits.clone(), self.pipeline.sessions.clone(), &self.preparer.schema())
            .expect("traits");
        traits.columns(people, &vec![self.clock; people.len()]).expect("columns")
    }

    /// The same of groups of this definition, which these are.
    pub fn group_traits(&self, plan: &GroupPlan, groups: &[Profile]) -> RecordBatch {
        let events = with_people(&self.preparer.schema());
        let traits = Traits::new(plan.traits.clone(), self.pipeline.sessions.clone(), &events);
        traits.expect("traits").columns(groups, &vec![self.clock; groups.len()]).expect("columns")
    }

    pub fn digest(&self) -> u128 {
        self.runtime.block_on(self.core.digest()).expect("a sound state")
    }

    /// Rows of a table as `column=value` texts.
    pub fn rows(&self, table: &str) -> Vec<BTreeMap<String, String>> {
        let mut all = Vec::new();
        for (_, rows) in self.commits.iter().flat_map(|commit| &commit.rows).filter(|(known, _)| known.name == table) {
            for row in 0..rows.num_rows() {
                let fields = rows.schema_ref().fields().iter().zip(rows.columns());
                all.push(fields.map(|(field, column)| (field.name().clone(), text(column, row))).collect());
            }
        }
        all
    }

    pub fn seen(&self) -> Seen {
        seen_of(self.commits.iter().flat_map(|commit| &commit.rows))
    }
}

/// Rows of tables in their order, as an analyst reads them.
pub fn seen_of<'r>(tables: impl Iterator<Item = &'r (tributary::sink::Table, RecordBatch)>) -> Seen {
    {
        let (mut profiles, mut merged, mut members) = (BTreeMap::new(), HashMap::new(), BTreeSet::new());
        let (mut identifiers, mut sums, mut moves) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        let mut stored: BTreeMap<String, ((String, String), Option<String>)> = BTreeMap::new();
        for (table, rows) in tables {
            let column = |name: &str| rows.column_by_name(name).unwrap_or_else(|| panic!("{name} in {}", table.name));
            let nullable = |name: &str, row: usize| {
                let column = column(name);
                (!column.is_null(row)).then(|| text(column, row))
            };
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
                        let shown =
                            schema.fields().iter().zip(rows.columns()).filter(|(field, _)| {
                                !matches!(field.name().as_str(), "_batch" | "_seq" | "profile_id")
                            });
                        let shown: Vec<String> =
                            shown.map(|(field, column)| format!("{}={}", field.name(), text(column, row))).collect();
                        profiles.insert(id, shown.join(" "));
                    }
                    "profile_merges" => {
                        merged.insert(value("old_profile_id"), value("profile_id"));
                    }
                    "identifiers" => {
                        let name = format!("{}:{}", value("type"), value("value"));
                        match value("profile_id") {
                            nobody if nobody.is_empty() => identifiers.remove(&name),
                            id => identifiers.insert(name, id),
                        };
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
                        let place = (value("_batch"), value("_seq"));
                        let before = stored.insert(value("message_id"), (place, nullable("profile_id", row)));
                        assert!(before.is_none(), "{} was taken twice", value("message_id"));
                    }
                    "event_moves" => {
                        moves.insert((value("event_batch"), value("event_seq")), nullable("profile_id", row));
                    }
                    "by_hour__partial" => {
                        let revenue = column("revenue").as_primitive::<arrow::datatypes::Decimal128Type>().value(row);
                        let orders: i64 = value("orders").parse().expect("a count");
                        let sum: &mut (i128, i64) = sums.entry(value("hour")).or_default();
                        sum.0 += revenue;
                        sum.1 += orders;
                    }
                    "group_segment_changes" => {
                        let segment = format!("{}.{}", value("group_type"), value("segment"));
                        let member = (segment, value("group_id"));
                        if value("change") == "entered" {
                            assert!(members.insert(member.clone()), "{member:?} entered twice");
                        } else {
                            assert!(members.remove(&member), "{member:?} exited without having entered");
                        }
                    }
                    name if name.starts_with("groups_") => {
                        let id = format!("{name}:{}", value("group_id"));
                        if value("deleted") == "true" {
                            profiles.remove(&id);
                            continue;
                        }
                        let schema = rows.schema();
                        let columns = schema.fields().iter().zip(rows.columns());
                        let shown = columns.filter(|(field, _)| !matches!(field.name().as_str(), "_batch" | "_seq"));
                        let shown: Vec<String> =
                            shown.map(|(field, column)| format!("{}={}", field.name(), text(column, row))).collect();
                        profiles.insert(id, shown.join(" "));
                    }
                    "rejected_events" | "identity_conflicts" | "deliveries" | "stage_changes" | "definitions"
                    | "rfm_borders" | "sessions" | "journey_steps" => {}
                    other => panic!("unexpected table {other}"),
                }
            }
        }
        let last = |id: &String| merged.get(id).unwrap_or(id).clone();
        let identifiers = identifiers.iter().map(|(name, id)| (name.clone(), last(id))).collect();
        let events = stored
            .iter()
            .map(|(name, (place, id))| (name.clone(), moves.get(place).unwrap_or(id).as_ref().map(last)))
            .collect();
        Seen { profiles, identifiers, members, sums, events }
    }
}

fn text(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) { "∅".to_string() } else { array_value_to_string(column, row).expect("a value") }
}

/// The rows that were sealed, as the tables would hold them.
struct Rows(Vec<(tributary::sink::Table, RecordBatch)>);

impl Rows {
    fn of(&self, table: &str, keep: &dyn Fn(&RecordBatch, usize) -> bool) -> Vec<RecordBatch> {
        let mine = self.0.iter().filter(|(known, _)| known.name == table);
        let mut found: Vec<RecordBatch> = mine
            .map(|(_, rows)| {
                let mask: BooleanArray = (0..rows.num_rows()).map(|row| Some(keep(rows, row))).collect();
                filter_record_batch(rows, &mask).expect("rows")
            })
            .collect();
        if found.is_empty() && table == "events" {
            found.push(RecordBatch::new_empty(tributary::sink::tables::events().schema));
        }
        found
    }
}

#[async_trait]
impl History for Rows {
    async fn events(&self, range: CommitRange, filter: &HistoryFilter) -> Result<Vec<RecordBatch>, HistoryError> {
        let ids: BTreeSet<String> = filter.profiles.iter().flatten().map(ToString::to_string).collect();
        let mut moved: BTreeSet<(u64, u32)> = BTreeSet::new();
        for rows in self.of("event_moves", &|_, _| true) {
            for row in 0..rows.num_rows() {
                if ids.contains(&text(rows.column_by_name("profile_id").expect("column"), row)) {
                    moved.insert(place(&rows, row, "event_batch", "event_seq"));
                }
            }
        }
        Ok(self.of("events", &|rows, row| {
            let here = place(rows, row, "_batch", "_seq");
            let id = text(rows.column_by_name("profile_id").expect("column"), row);
            let name = text(rows.column_by_name("event").expect("column"), row);
            let named = filter.events.as_ref().is_none_or(|names| names.contains(&name));
            let theirs = filter.profiles.is_none() || ids.contains(&id) || moved.contains(&here);
            here.0 > range.after && here.0 <= range.upto && theirs && named
        }))
    }

    async fn moves(&self, range: CommitRange) -> Result<Vec<RecordBatch>, HistoryError> {
        Ok(self.of("event_moves", &|rows, row| {
            let here = place(rows, row, "event_batch", "event_seq");
            here.0 > range.after && here.0 <= range.upto
        }))
    }
}

fn place(rows: &RecordBatch, row: usize, batch: &str, seq: &str) -> (u64, u32) {
    let batch = rows.column_by_name(batch).expect("column").as_primitive::<UInt64Type>();
    let seq = rows.column_by_name(seq).expect("column").as_primitive::<UInt32Type>();
    (batch.value(row), seq.value(row))
}

/// Runs `body` for a row of seeds; `name` is the environment variable that begins elsewhere. The seed that fails is
/// printed.
pub fn for_seeds(name: &str, count: u64, body: impl Fn(u64)) {
    let first = first_seed(name);
    (first..first + count).for_each(|seed| for_seed(name, seed, &body));
}

/// The same with a seed on each core, for seeds that take minutes.
pub fn for_long_seeds(name: &str, count: u64, body: impl Fn(u64) + Sync) {
    let first = first_seed(name);
    let (next, end) = (AtomicU64::new(first), first + count);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= end {
                break;
            }
            let failed = std::panic::catch_unwind(AssertUnwindSafe(|| for_seed(name, seed, &body)));
            if let Err(panic) = failed {
                // The others end theirs and begin no more.
                next.store(end, Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
}

fn first_seed(name: &str) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn for_seed(name: &str, seed: u64, body: &impl Fn(u64)) {
    let failed = std::panic::catch_unwind(AssertUnwindSafe(|| body(seed)));
    if let Err(panic) = failed {
        println!("repeat with {name}={seed}");
        std::panic::resume_unwind(panic);
    }
}
