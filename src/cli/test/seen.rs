//! What the output tables show after a step, read as an analyst would: columns by name, the latest row of an
//! identifier counts, ids are followed through merges.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use serde_json::{Map, Value};

use crate::definition::{Pipeline, Who, time_value};
use crate::event::ValueType;
use crate::sink::Table;

/// The tables' current state, and what has happened since the last expectation.
pub struct Seen {
    /// Identifier types, best first.
    types: Vec<String>,
    /// Traits whose text is JSON.
    json_traits: BTreeSet<String>,
    /// Of all events so far; an event's offset is its place here.
    pub message_ids: Vec<String>,
    /// Identifier → the profile id it was last written with. Without those that are nobody's any more.
    identifiers: BTreeMap<Who, String>,
    /// Ids that stand for another one now.
    merged: HashMap<String, String>,
    traits: HashMap<String, Map<String, Value>>,
    members: BTreeMap<String, BTreeSet<String>>,
    /// By the table and the id.
    groups: HashMap<(String, String), Map<String, Value>>,
    /// By `GROUP.SEGMENT`.
    group_members: BTreeMap<String, BTreeSet<String>>,
    /// By message id.
    pub events: HashMap<String, StoredEvent>,
    pub conflicts: Vec<Row>,
    pub sent: Vec<Row>,
    pub no_profile: BTreeSet<String>,
    pub rejected: Vec<Rejected>,
}

/// A row that happened, by the keys that expectations have for its columns. Empty columns are left out.
pub struct Row {
    pub cells: Vec<(&'static str, Found)>,
    /// Why it is not what anyone can expect.
    pub failure: Option<String>,
}

pub enum Found {
    Text(String),
    /// A profile id as it was then.
    Person(String),
    Json(Value),
}

pub struct StoredEvent {
    /// The id of its profile as it was then; None: nobody's.
    pub profile: Option<String>,
    pub flags: Vec<String>,
}

pub struct Rejected {
    /// The event's place in its test, from 0.
    pub event: usize,
    pub message_id: String,
    pub code: String,
    pub reason: String,
}

impl Seen {
    pub fn new(pipeline: &Pipeline) -> Seen {
        let of_groups = pipeline.groups.iter().flat_map(|group| &group.traits);
        let columns = pipeline.traits.iter().chain(of_groups).flat_map(|plan| &plan.columns);
        let json = columns.filter(|column| column.value_type == ValueType::Json);
        Seen {
            types: pipeline.identity.types.iter().map(|kind| kind.name.clone()).collect(),
            json_traits: json.map(|column| column.name.clone()).collect(),
            message_ids: Vec::new(),
            identifiers: BTreeMap::new(),
            merged: HashMap::new(),
            traits: HashMap::new(),
            members: BTreeMap::new(),
            groups: HashMap::new(),
            group_members: BTreeMap::new(),
            events: HashMap::new(),
            conflicts: Vec::new(),
            sent: Vec::new(),
            no_profile: BTreeSet::new(),
            rejected: Vec::new(),
        }
    }

    /// Takes in the rows of a commit.
    pub fn take(&mut self, rows: &[(Table, RecordBatch)]) {
        for (table, batch) in rows {
            for row in (0..batch.num_rows()).map(|index| Columns { batch, index }) {
                match table.name.as_str() {
                    "events" => self.event(&row),
                    "profiles" => self.profile(&row),
                    "identifiers" => self.identifier(&row),
                    "profile_merges" => self.merge(&row),
                    "group_segment_changes" => self.group_segment_change(&row),
                    name if name.starts_with("groups_") => self.group(name, &row),
                    "segment_changes" => self.segment_change(&row),
                    "identity_conflicts" => self.conflict(&row),
                    "deliveries" => self.delivery(&row),
                    "rejected_events" => self.reject(&row),
                    // Aggregates know no persons.
                    _ => {}
                }
            }
        }
    }

    /// Takes in profiles as they are at a moment: what windows and formulas say changes without a row of its own.
    pub fn profiles(&mut self, batch: &RecordBatch) {
        (0..batch.num_rows()).for_each(|index| self.profile(&Columns { batch, index }));
    }

    /// The same of groups, by their tables.
    pub fn groups(&mut self, all: &[(Table, RecordBatch)]) {
        for (table, batch) in all {
            (0..batch.num_rows()).for_each(|index| self.group(&table.name, &Columns { batch, index }));
        }
    }

    /// From here on `conflicts`, `sent`, `no_profile` and `rejected` begin anew.
    pub fn forget_what_happened(&mut self) {
        self.conflicts.clear();
        self.sent.clear();
        self.no_profile.clear();
        self.rejected.clear();
    }

    // What is

    /// The id that stands for this one now.
    pub fn current<'s>(&'s self, mut id: &'s str) -> &'s str {
        while let Some(next) = self.merged.get(id) {
            id = next;
        }
        id
    }

    /// The profile that has the identifier.
    pub fn profile_of(&self, who: &Who) -> Option<&str> {
        self.identifiers.get(who).map(|id| self.current(id))
    }

    /// A profile by its best identifier, as `type:value`.
    pub fn name(&self, id: &str) -> String {
        self.best(id).map_or_else(|| format!("profile {}", self.current(id)), |who| who.to_string())
    }

    /// The best identifier of a profile.
    pub fn best(&self, id: &str) -> Option<&Who> {
        let id = self.current(id);
        self.identifiers.iter().find(|(_, other)| self.current(other) == id).map(|(who, _)| who)
    }

    /// All identifiers, those of one profile together.
    pub fn partition(&self) -> BTreeSet<BTreeSet<&Who>> {
        let mut groups: BTreeMap<&str, BTreeSet<&Who>> = BTreeMap::new();
        for (who, id) in &self.identifiers {
            groups.entry(self.current(id)).or_default().insert(who);
        }
        groups.into_values().collect()
    }

    pub fn members(&self, segment: &str) -> BTreeSet<&str> {
        self.members.get(segment).into_iter().flatten().map(|id| self.current(id)).collect()
    }

    pub fn trait_value(&self, id: &str, name: &str) -> Option<&Value> {
        self.traits.get(id).and_then(|traits| traits.get(name))
    }

    pub fn group_value(&self, group: &str, id: &str, name: &str) -> Option<&Value> {
        self.groups.get(&(format!("groups_{group}"), id.to_string())).and_then(|traits| traits.get(name))
    }

    /// The members of `GROUP.SEGMENT`.
    pub fn group_members(&self, segment: &str) -> impl Iterator<Item = &String> {
        self.group_members.get(segment).into_iter().flatten()
    }

    // Rows of the tables

    fn event(&mut self, row: &Columns) {
        // What `unnest` made of an event is no event of the test.
        let itself = row.number("index").is_none_or(|index| index == 0);
        let Some(message_id) = row.text("message_id").filter(|_| itself) else { return };
        let profile = row.text("profile_id").map(str::to_string);
        if profile.is_none() {
            self.no_profile.insert(message_id.to_string());
        }
        let flags = row.text("flags").iter().flat_map(|flags| flags.split(',')).map(str::to_string).collect();
        self.events.insert(message_id.to_string(), StoredEvent { profile, flags });
    }

    fn profile(&mut self, row: &Columns) {
        let Some(id) = row.text("profile_id") else { return };
        if row.value("deleted") == Value::Bool(true) {
            self.traits.remove(id);
            return;
        }
        let traits = self.values(row);
        self.traits.insert(id.to_string(), traits);
    }

    fn values(&self, row: &Columns) -> Map<String, Value> {
        let mut values = Map::new();
        for field in row.batch.schema_ref().fields() {
            let mut value = row.value(field.name());
            if let (true, Value::String(text)) = (self.json_traits.contains(field.name()), &value) {
                value = serde_json::from_str(text).unwrap_or(value);
            }
            values.insert(field.name().clone(), value);
        }
        values
    }

    fn group(&mut self, table: &str, row: &Columns) {
        let Some(id) = row.text("group_id") else { return };
        let values = self.values(row);
        self.groups.insert((table.to_string(), id.to_string()), values);
    }

    fn group_segment_change(&mut self, row: &Columns) {
        let (Some(group), Some(segment)) = (row.text("group_type"), row.text("segment")) else { return };
        let Some(id) = row.text("group_id") else { return };
        let members = self.group_members.entry(format!("{group}.{segment}")).or_default();
        match row.text("change") {
            Some("entered") => members.insert(id.to_string()),
            _ => members.remove(id),
        };
    }

    fn identifier(&mut self, row: &Columns) {
        let (Some(name), Some(value)) = (row.text("type"), row.text("value")) else { return };
        let kind = self.types.iter().position(|known| known == name).unwrap_or(self.types.len()) as u16;
        let who = Who { kind, name: name.to_string(), value: value.to_string() };
        match row.text("profile_id") {
            Some(id) => self.identifiers.insert(who, id.to_string()),
            None => self.identifiers.remove(&who),
        };
    }

    fn merge(&mut self, row: &Columns) {
        let (Some(old), Some(new)) = (row.text("old_profile_id"), row.text("profile_id")) else { return };
        // The id that another one becomes stands for itself, whatever it was before.
        self.merged.remove(new);
        if old != new {
            self.merged.insert(old.to_string(), new.to_string());
        }
    }

    fn segment_change(&mut self, row: &Columns) {
        let (Some(segment), Some(id)) = (row.text("segment"), row.text("profile_id")) else { return };
        let members = self.members.entry(segment.to_string()).or_default();
        match row.text("change") {
            Some("entered") => members.insert(id.to_string()),
            _ => members.remove(id),
        };
    }

    fn conflict(&mut self, row: &Columns) {
        let mut cells = Vec::new();
        if let (Some(name), Some(value)) = (row.text("type"), row.text("value")) {
            let key = if row.text("action") == Some("reassigned") { "reassigned" } else { "set_aside" };
            cells.push((key, Found::Text(format!("{name}:{value}"))));
        }
        for (key, column) in [("profile", "profile_id"), ("other", "other_profile_id")] {
            cells.extend(row.text(column).map(|id| (key, Found::Person(id.to_string()))));
        }
        for key in ["cause", "limited_type", "message_id", "source"] {
            cells.extend(row.text(key).map(|text| (key, Found::Text(text.to_string()))));
        }
        self.conflicts.push(Row { cells, failure: None });
    }

    fn delivery(&mut self, row: &Columns) {
        if row.text("outcome") == Some("skipped") {
            return;
        }
        let mut cells = Vec::new();
        for (key, column) in [("activation", "activation"), ("step", "step"), ("to", "destination")] {
            cells.extend(row.text(column).map(|text| (key, Found::Text(text.to_string()))));
        }
        cells.extend(row.text("profile_id").map(|id| ("profile", Found::Person(id.to_string()))));
        let body = row.text("body").map(|text| serde_json::from_str(text).unwrap_or_else(|_| text.into()));
        cells.extend(body.map(|body| ("body", Found::Json(body))));
        let failed = row.text("outcome") == Some("failed");
        let failure = failed.then(|| row.text("detail").unwrap_or("failed").to_string());
        self.sent.push(Row { cells, failure });
    }

    fn reject(&mut self, row: &Columns) {
        let text = |name: &str| row.text(name).unwrap_or_default().to_string();
        let event = row.number("offset").and_then(|offset| usize::try_from(offset).ok()).unwrap_or_default();
        let message_id = self.message_ids.get(event).cloned().unwrap_or_default();
        self.rejected.push(Rejected { event, message_id, code: text("code"), reason: text("reason") });
    }
}

/// One row of a batch, by the names of its columns.
struct Columns<'a> {
    batch: &'a RecordBatch,
    index: usize,
}

impl<'a> Columns<'a> {
    /// None also for a column that is not there, and for an empty text.
    fn text(&self, name: &str) -> Option<&'a str> {
        let column = self.batch.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(self.index).then(|| column.value(self.index)).filter(|text| !text.is_empty())
    }

    fn number(&self, name: &str) -> Option<i64> {
        let column = self.batch.column_by_name(name)?;
        if column.is_null(self.index) {
            return None;
        }
        match column.data_type() {
            DataType::Int32 => Some(i64::from(column.as_primitive::<Int32Type>().value(self.index))),
            DataType::Int64 => Some(column.as_primitive::<Int64Type>().value(self.index)),
            _ => None,
        }
    }

    /// As JSON: null also for a column that is not there.
    fn value(&self, name: &str) -> Value {
        let Some(column) = self.batch.column_by_name(name).filter(|column| column.is_valid(self.index)) else {
            return Value::Null;
        };
        match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(self.index).into(),
            DataType::Int64 => column.as_primitive::<Int64Type>().value(self.index).into(),
            DataType::Float64 => column.as_primitive::<Float64Type>().value(self.index).into(),
            DataType::Boolean => column.as_boolean().value(self.index).into(),
            DataType::Timestamp(..) => {
                time_value(column.as_primitive::<TimestampMicrosecondType>().value(self.index)).into()
            }
            _ => Value::Null,
        }
    }
}
