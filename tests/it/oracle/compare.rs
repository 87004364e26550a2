//! Holds a world against the statements on both engines.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Schema, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use tokio::runtime::Runtime;
use tributary::definition::{GroupPlan, Pipeline};
use tributary::engine::Core;
use tributary::event::ValueType;
use tributary::expression::Dialect;
use tributary::profile::{Profile, TraitPlan, TraitRule};
use tributary::query::{
    Output, Target, group_members_sql, group_traits_sql, members_sql, memory_context, query, render, traits_sql,
};
use tributary::segment::{SegmentPlan, SegmentRule};
use tributary::sink::clickhouse::ClickHouseSink;
use tributary::sink::{CommitRange, Table, TableSink};

use crate::support::{servers, unique};
use crate::world::World;

/// The tables that the statements read.
const TABLES: [&str; 6] =
    ["events", "profile_merges", "event_moves", "segment_changes", "group_segment_changes", "sessions"];

/// Column → value, in one notation.
type Row = BTreeMap<String, String>;

/// (segment, profile)
type Member = (String, String);

/// People, or the groups of one definition, with what the stream says of them.
struct Whose<'w> {
    group: Option<&'w GroupPlan>,
    traits: &'w [TraitPlan],
    segments: &'w [SegmentPlan],
    profiles: Vec<Profile>,
    ids: Vec<String>,
    columns: RecordBatch,
}

impl<'w> Whose<'w> {
    fn people(world: &'w World) -> Whose<'w> {
        let profiles = world.people();
        let ids = profiles.iter().map(|profile| profile.id.to_string()).collect();
        let (traits, segments) = (&world.pipeline.traits, &world.pipeline.segments);
        Whose { group: None, traits, segments, ids, columns: world.traits(&profiles), profiles }
    }

    fn groups(world: &'w World, place: usize) -> Whose<'w> {
        let plan = &world.pipeline.groups[place];
        let kind = world.core.slots().groups()[place].slot;
        let profiles: Vec<Profile> = world.profiles().into_iter().filter(|profile| profile.kind() == kind).collect();
        let id = |profile: &Profile| profile.group.as_ref().expect("a group").id.to_string();
        let (traits, segments, columns) = (&plan.traits, &plan.segments, world.group_traits(plan, &profiles));
        Whose { group: Some(plan), traits, segments, ids: profiles.iter().map(id).collect(), columns, profiles }
    }

    /// What its id is called in a statement's answer.
    fn id(&self) -> &'static str {
        if self.group.is_some() { "group_id" } else { "profile_id" }
    }

    fn name(&self) -> Option<&str> {
        self.group.map(|group| group.name.as_str())
    }
}

pub struct Oracle {
    seed: u64,
    definitions: String,
    runtime: Runtime,
    tables: Vec<Table>,
    /// Segments that `has_been` is part of. Of someone who was joined with others the tables do not say since when.
    historic: BTreeSet<String>,
    clickhouse: Option<ClickHouse>,
}

struct ClickHouse {
    sink: ClickHouseSink,
    target: Target,
    shipped: u64,
}

impl Oracle {
    pub fn new(world: &World, seed: u64, definitions: &str, clickhouse: bool) -> Oracle {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let mut tables = Core::tables(&world.pipeline);
        tables.retain(|table| TABLES.contains(&table.name.as_str()));
        let clickhouse = clickhouse.then(|| {
            let (url, database) = (servers().clickhouse.clone(), unique("oracle"));
            let mut sink = ClickHouseSink::new(&url, &database, None, None, "oracle", "oracle");
            runtime.block_on(sink.prepare(&tables)).expect("tables");
            let target = Target::ClickHouse { url, database, user: None, password: None };
            ClickHouse { sink, target, shipped: 0 }
        });
        let historic = historic(&world.pipeline);
        Oracle { seed, definitions: definitions.to_string(), runtime, tables, historic, clickhouse }
    }

    /// How many definitions were compared.
    pub fn check_lake(&self, world: &World) -> usize {
        let context = self.lake(world);
        let ask = |sql: &str| self.ask_lake(&context, sql);
        self.check_all(world, "the lake", Dialect::DataFusion, &|sql| ask(&sql))
    }

    fn check_all(&self, world: &World, engine: &str, dialect: Dialect, ask: &dyn Fn(String) -> RecordBatch) -> usize {
        let (pipeline, now) = (&world.pipeline, world.clock);
        let traits = ask(traits_sql(pipeline, dialect, now));
        let members = ask(members_sql(pipeline, dialect, now, None));
        let mut count = self.check(world, engine, &Whose::people(world), &traits, &members);
        for (place, plan) in pipeline.groups.iter().enumerate() {
            let traits = ask(group_traits_sql(pipeline, plan, dialect, now));
            let members = ask(group_members_sql(pipeline, plan, dialect, now));
            count += self.check(world, engine, &Whose::groups(world, place), &traits, &members);
        }
        count
    }

    pub fn check_clickhouse(&mut self, world: &World) -> usize {
        let clickhouse = self.clickhouse.as_mut().expect("a database");
        let new: Vec<_> = world.commits.iter().filter(|commit| commit.commit > clickhouse.shipped).collect();
        if let Some(last) = new.last() {
            let range = CommitRange { after: clickhouse.shipped, upto: last.commit };
            let rows: Vec<(Table, RecordBatch)> = self
                .tables
                .iter()
                .map(|table| {
                    let rows = new.iter().flat_map(|commit| &commit.rows).filter(|(other, _)| other.name == table.name);
                    let rows: Vec<&RecordBatch> = rows.map(|(_, rows)| rows).collect();
                    (table.clone(), concat_batches(&table.schema, rows).expect("rows"))
                })
                .collect();
            self.runtime.block_on(clickhouse.sink.ship(range, &rows)).expect("shipped");
            clickhouse.shipped = last.commit;
        }
        let target = clickhouse.target.clone();
        let ask = |sql: String| {
            let answer = self.runtime.block_on(query(&target, &sql));
            one_batch(answer.unwrap_or_else(|error| panic!("{error}\n{sql}\nseed {}\n{}", self.seed, self.definitions)))
        };
        self.check_all(world, "ClickHouse", Dialect::ClickHouse, &ask)
    }

    /// Entries and exits by time alone, of the commits from `from` on: some of them, at the microsecond and one before. No
    /// event has come since.
    pub fn check_flips(&self, world: &World, from: usize, random: &mut fastrand::Rng) -> usize {
        let groups = world.pipeline.groups.iter().map(Some);
        [None].into_iter().chain(groups).map(|group| self.check_flips_of(world, group, from, random)).sum()
    }

    fn check_flips_of(
        &self,
        world: &World,
        group: Option<&GroupPlan>,
        from: usize,
        random: &mut fastrand::Rng,
    ) -> usize {
        let changes = changes(world, from, group.map(|group| group.name.as_str()));
        let mut times: Vec<i64> = changes.iter().filter(|change| change.cause == "time").map(|c| c.at).collect();
        times.sort_unstable();
        times.dedup();
        random.shuffle(&mut times);
        times.truncate(3);
        if times.is_empty() {
            return 0;
        }
        let context = self.lake(world);
        let merged = merged(world);
        let mut checked = 0;
        for at in times {
            let members = |now: i64| {
                let (members, id) = match group {
                    None => (members_sql(&world.pipeline, Dialect::DataFusion, now, None), "profile_id"),
                    Some(group) => (group_members_sql(&world.pipeline, group, Dialect::DataFusion, now), "group_id"),
                };
                members_of(&self.ask_lake(&context, &members), id)
            };
            let (before, then) = (members(at - 1), members(at));
            for change in changes.iter().filter(|change| change.at == at && change.cause == "time") {
                let (segment, id) = &change.member;
                if self.historic.contains(segment) && merged.contains(id) {
                    continue;
                }
                let is = (before.contains(&change.member), then.contains(&change.member));
                let expected = (!change.entered, change.entered);
                if is != expected {
                    let what = format!("segment {segment} at {at} and one microsecond before");
                    self.fail(world, &what, id, &format!("(before, then) {expected:?}"), &format!("{is:?}"));
                }
                checked += 1;
            }
        }
        checked
    }

    fn lake(&self, world: &World) -> SessionContext {
        let rows_of = |table: &Table| -> Vec<RecordBatch> {
            let rows =
                world.commits.iter().flat_map(|commit| &commit.rows).filter(|(other, _)| other.name == table.name);
            rows.map(|(_, rows)| rows.clone()).collect()
        };
        let tables = self.tables.iter().map(|table| (table.clone(), rows_of(table))).collect();
        let context = self.runtime.block_on(memory_context(tables)).expect("a session");
        // A few rows and many statements: what counts is the time to plan them.
        let state = context.state_ref();
        let mut state = state.write();
        state.config_mut().options_mut().optimizer.max_passes = 1;
        state.config_mut().options_mut().execution.target_partitions = 1;
        drop(state);
        context
    }

    fn ask_lake(&self, context: &SessionContext, sql: &str) -> RecordBatch {
        let answer = self.runtime.block_on(async {
            let frame = context.sql(sql).await?;
            let schema = frame.schema().as_arrow().clone();
            let plan = frame.create_physical_plan().await?;
            let mut batches = datafusion::physical_plan::collect(plan, context.task_ctx()).await?;
            if batches.is_empty() {
                batches.push(RecordBatch::new_empty(schema.into()));
            }
            Ok::<_, datafusion::error::DataFusionError>(batches)
        });
        one_batch(answer.unwrap_or_else(|error| panic!("{error}\n{sql}\nseed {}\n{}", self.seed, self.definitions)))
    }

    fn check(
        &self,
        world: &World,
        engine: &str,
        whose: &Whose<'_>,
        traits: &RecordBatch,
        members: &RecordBatch,
    ) -> usize {
        let Whose { ids, columns, .. } = whose;
        // Groups have no sessions.
        let shown =
            columns.schema_ref().fields().iter().filter(|field| whose.group.is_none() || field.name() != "sessions");
        let schema = Schema::new(shown.map(|field| field.as_ref().clone()).collect::<Vec<_>>());
        let stream = rows(columns, ids, &schema);
        let computed_ids: Vec<String> = texts(traits, whose.id());
        let computed = rows(traits, &computed_ids, &schema);
        let json: BTreeSet<&str> = whose
            .traits
            .iter()
            .flat_map(|plan| &plan.columns)
            .filter(|column| column.value_type == ValueType::Json)
            .map(|column| column.name.as_str())
            .collect();
        for (id, row) in &stream {
            let Some(other) = computed.get(id) else {
                self.fail(world, &format!("whether there is a profile, on {engine}"), id, "yes", "no");
            };
            // Sessions are counted from the table that the stream wrote, not computed again.
            for (name, value) in row.iter().filter(|(name, _)| *name != "sessions") {
                if !is_equal(value, &other[name], json.contains(name.as_str())) {
                    self.fail(world, &format!("trait {name} on {engine}"), id, value, &other[name]);
                }
            }
        }
        if let Some(id) = computed.keys().find(|id| !stream.contains_key(*id)) {
            self.fail(world, &format!("whether there is a profile, on {engine}"), id, "no", "yes");
        }

        // Who the state says is a member, and who the table of changes does.
        let name_of = |segment: u16| whose.segments[usize::from(segment)].name.clone();
        let in_state: BTreeSet<Member> = whose
            .profiles
            .iter()
            .zip(ids)
            .flat_map(|(profile, id)| profile.segments().map(move |segment| (name_of(segment), id.clone())))
            .collect();
        let mut in_table: BTreeSet<Member> = BTreeSet::new();
        for change in changes(world, 0, whose.name()) {
            match change.entered {
                true => in_table.insert(change.member),
                false => in_table.remove(&change.member),
            };
        }
        let (computed, merged) = (members_of(members, whose.id()), merged(world));
        for (where_, stream) in [("in the state", &in_state), ("in segment_changes", &in_table)] {
            for member in stream.symmetric_difference(&computed) {
                let (segment, id) = member;
                if self.historic.contains(segment) && merged.contains(id) {
                    continue;
                }
                let is = |members: &BTreeSet<Member>| if members.contains(member) { "a member" } else { "no member" };
                self.fail(world, &format!("segment {segment} {where_}, on {engine}"), id, is(stream), is(&computed));
            }
        }

        // The stage that someone was last found in is the one that they are in.
        for (index, plan) in whose.traits.iter().enumerate() {
            let TraitRule::Stages(stages) = &plan.rule else { continue };
            for (profile, id) in whose.profiles.iter().zip(ids) {
                let found = profile.stages.iter().find(|(other, _)| usize::from(*other) == index);
                let found =
                    found.and_then(|(_, of)| of.stage).map_or("∅", |stage| stages[usize::from(stage)].name.as_str());
                if found != stream[id][&plan.name] {
                    self.fail(world, &format!("stage {} as last found", plan.name), id, found, &stream[id][&plan.name]);
                }
            }
        }
        whose.traits.len() + whose.segments.len()
    }

    fn fail(&self, world: &World, what: &str, id: &str, stream: &str, computed: &str) -> ! {
        let events = format!(
            "SELECT message_id, source, timestamp, profile_id, group_id, event, properties, traits, context, _batch, _seq FROM current_events \
             WHERE profile_id = '{id}' OR '{}' <> 'person' ORDER BY timestamp, message_id",
            if id.len() == 32 { "person" } else { "group" },
        );
        let events = render(&[self.ask_lake(&self.lake(world), &events)], Output::Json).expect("text");
        let changes: Vec<String> = changes(world, 0, None)
            .into_iter()
            .filter(|c| c.member.1 == id)
            .map(|change| format!("{change:?}"))
            .collect();
        panic!(
            "{what}: the stream says {stream}, the statement {computed}\nseed {}, profile {id}, clock {} ({})\n{}\n{events}{}",
            self.seed,
            chrono::DateTime::from_timestamp_micros(world.clock).expect("a time"),
            world.clock,
            self.definitions,
            changes.join("\n"),
        );
    }
}

#[derive(Debug)]
struct Change {
    member: Member,
    entered: bool,
    cause: String,
    at: i64,
}

/// Rows of `segment_changes` of the commits from this one on, or those of groups of this name.
fn changes(world: &World, from: usize, group: Option<&str>) -> Vec<Change> {
    let (name, id) = match group {
        Some(_) => ("group_segment_changes", "group_id"),
        None => ("segment_changes", "profile_id"),
    };
    let rows = world.commits[from..].iter().flat_map(|commit| &commit.rows);
    let mut all = Vec::new();
    for (_, rows) in rows.filter(|(table, _)| table.name == name) {
        let [segments, ids, changes, causes] = ["segment", id, "change", "cause"].map(|name| texts(rows, name));
        let kinds = group.map(|_| texts(rows, "group_type"));
        let times = rows.column_by_name("changed_at").expect("a column").as_primitive::<TimestampMicrosecondType>();
        for row in 0..rows.num_rows() {
            if kinds.as_ref().is_some_and(|kinds| Some(kinds[row].as_str()) != group) {
                continue;
            }
            all.push(Change {
                member: (segments[row].clone(), ids[row].clone()),
                entered: changes[row] == "entered",
                cause: causes[row].clone(),
                at: times.value(row),
            });
        }
    }
    all
}

/// Profiles that others became.
fn merged(world: &World) -> BTreeSet<String> {
    world.rows("profile_merges").into_iter().map(|mut row| row.remove("profile_id").expect("a column")).collect()
}

fn historic(pipeline: &Pipeline) -> BTreeSet<String> {
    let mut historic = BTreeSet::new();
    // Each comes after those that it refers to.
    for plan in &pipeline.segments {
        let SegmentRule::Predicate(predicate) = &plan.rule else { continue };
        let is = predicate.inputs.iter().any(|input| {
            let other = input.column.strip_prefix("in_segment:");
            input.column.starts_with("member_since:") || other.is_some_and(|other| historic.contains(other))
        });
        if is {
            historic.insert(plan.name.clone());
        }
    }
    historic
}

fn one_batch(batches: Vec<RecordBatch>) -> RecordBatch {
    concat_batches(batches[0].schema_ref(), &batches).expect("batches of one shape")
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let column = cast(column, &DataType::Utf8).expect("text");
    column.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_string()).collect()
}

fn members_of(batch: &RecordBatch, id: &str) -> BTreeSet<Member> {
    texts(batch, "segment").into_iter().zip(texts(batch, id)).collect()
}

/// The columns of `schema`, as it has them.
fn rows(batch: &RecordBatch, ids: &[String], schema: &Schema) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = ids.iter().map(|id| (id.clone(), Row::new())).collect();
    assert_eq!(rows.len(), ids.len(), "a profile twice");
    for field in schema.fields() {
        let column = batch.column_by_name(field.name()).unwrap_or_else(|| panic!("no column {}", field.name()));
        let column = cast(column, field.data_type()).unwrap_or_else(|error| panic!("{}: {error}", field.name()));
        for (row, id) in ids.iter().enumerate() {
            rows.get_mut(id).expect("a row").insert(field.name().clone(), cell(&column, row));
        }
    }
    rows
}

fn cell(column: &ArrayRef, row: usize) -> String {
    match column.data_type() {
        _ if column.is_null(row) => "∅".to_string(),
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        _ => array_value_to_string(column, row).expect("a value"),
    }
}

/// JSON is compared as such: where it came from an event the engines write it without blanks.
fn is_equal(a: &str, b: &str, json: bool) -> bool {
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    a == b || (json && value(a).is_some() && value(a) == value(b))
}
