//! The tables: names and columns, the same in ClickHouse and in the lake.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::aggregate::{AggregateColumn, AggregateRole};
use crate::event::{self, ValueType, time_type};

/// One output table. Every table ends with `_batch` (`UInt64`, the commit) and `_seq` (`UInt32`, the row within
/// the commit and table).
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub kind: TableKind,
    pub schema: SchemaRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    Events,
    Profiles,
    /// One for each definition of a group.
    Groups,
    Identifiers,
    ProfileMerges,
    IdentityConflicts,
    EventMoves,
    SegmentChanges,
    GroupSegmentChanges,
    Sessions,
    StageChanges,
    JourneySteps,
    Definitions,
    RfmBorders,
    Deliveries,
    RejectedEvents,
    /// Partial aggregates of a batch; a view of the aggregate's name sums them.
    Aggregate,
}

fn table(name: &str, kind: TableKind, columns: Vec<(&str, DataType, bool)>) -> Table {
    let mut fields: Vec<Field> =
        columns.into_iter().map(|(name, data_type, nullable)| Field::new(name, data_type, nullable)).collect();
    fields.push(Field::new("_batch", DataType::UInt64, false));
    fields.push(Field::new("_seq", DataType::UInt32, false));
    Table { name: name.to_string(), kind, schema: Arc::new(Schema::new(fields)) }
}

/// One row per accepted event: `profile_id` (null without a usable identifier) and `session_id` (null without a
/// session), then the envelope, then what identity decided where the event did not simply join all its identifiers.
pub fn events() -> Table {
    let mut columns = vec![("profile_id", DataType::Utf8, true), ("session_id", DataType::Utf8, true)];
    let envelope = event::envelope_schema();
    columns.extend(envelope.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone(), f.is_nullable())));
    // `set_aside:TYPE`, `reassigned:TYPE`, `struck`, comma-separated
    columns.push(("identity_decision", DataType::Utf8, true));
    table("events", TableKind::Events, columns)
}

/// One row per profile and commit that changed it; `traits` are columns of their own names.
/// `deleted` is true on the last row of a profile id that was merged into another.
pub fn profiles(traits: &[(String, ValueType)]) -> Table {
    let mut columns = vec![
        ("profile_id", DataType::Utf8, false),
        ("deleted", DataType::Boolean, false),
        ("first_seen", time_type(), true),
        ("last_seen", time_type(), true),
        ("events", DataType::Int64, false),
        ("sessions", DataType::Int64, false),
        ("_as_of", time_type(), false),
    ];
    columns.extend(traits.iter().map(|(name, value_type)| (name.as_str(), value_type.arrow(), true)));
    table("profiles", TableKind::Profiles, columns)
}

/// One row per group of this name and commit that changed it; `traits` are columns of their own names. `deleted` is true on
/// the last row of a group whose definition is gone.
pub fn groups(name: &str, traits: &[(String, ValueType)]) -> Table {
    let mut columns = vec![
        ("group_id", DataType::Utf8, false),
        ("deleted", DataType::Boolean, false),
        ("first_seen", time_type(), true),
        ("last_seen", time_type(), true),
        ("events", DataType::Int64, false),
        ("_as_of", time_type(), false),
    ];
    columns.extend(traits.iter().map(|(name, value_type)| (name.as_str(), value_type.arrow(), true)));
    table(&format!("{GROUPS}{name}"), TableKind::Groups, columns)
}

const GROUPS: &str = "groups_";

/// Identifier → profile, versioned: the latest row of (type, value) counts. With an empty `profile_id` the identifier is
/// nobody's any more.
pub fn identifiers() -> Table {
    table(
        "identifiers",
        TableKind::Identifiers,
        vec![
            ("type", DataType::Utf8, false),
            ("value", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            ("first_seen", time_type(), false),
        ],
    )
}

/// One row per profile id that became another, with the event that caused it. The latest row of an id counts; if it
/// names the id itself, a split brought the id back to life.
pub fn profile_merges() -> Table {
    table(
        "profile_merges",
        TableKind::ProfileMerges,
        vec![
            ("old_profile_id", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            ("cause", DataType::Utf8, false),
            ("message_id", DataType::Utf8, false),
            ("merged_at", time_type(), false),
        ],
    )
}

/// One row per identifier that an event carried and that identity did not simply link.
pub fn identity_conflicts() -> Table {
    table(
        "identity_conflicts",
        TableKind::IdentityConflicts,
        vec![
            ("message_id", DataType::Utf8, false),
            ("source", DataType::Utf8, false),
            ("type", DataType::Utf8, false),
            ("value", DataType::Utf8, false),
            // where the event landed
            ("profile_id", DataType::Utf8, false),
            // the profile that the refused link would have joined
            ("other_profile_id", DataType::Utf8, true),
            // `limit`, `max_identifiers` or `cut`
            ("cause", DataType::Utf8, false),
            ("limited_type", DataType::Utf8, true),
            // `set_aside` or `reassigned`
            ("action", DataType::Utf8, false),
            ("happened_at", time_type(), false),
        ],
    )
}

/// One row per stored event that a correction moved to another profile than `profile_merges` alone says, or to another
/// session than the one it is stored in. The latest row of (`event_batch`, `event_seq`) counts; without a `profile_id` the event
/// is nobody's any more.
pub fn event_moves() -> Table {
    table(
        "event_moves",
        TableKind::EventMoves,
        vec![
            ("event_batch", DataType::UInt64, false),
            ("event_seq", DataType::UInt32, false),
            ("message_id", DataType::Utf8, false),
            ("timestamp", time_type(), false),
            ("profile_id", DataType::Utf8, true),
            ("session_id", DataType::Utf8, true),
            // `split`, `ban` or `strike`
            ("cause", DataType::Utf8, false),
        ],
    )
}

pub fn segment_changes() -> Table {
    table(
        "segment_changes",
        TableKind::SegmentChanges,
        vec![
            ("segment", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            // `entered` or `exited`
            ("change", DataType::Utf8, false),
            // `event`, `time`, `edit`, `merge`, `split`, `fill` or `removed`
            ("cause", DataType::Utf8, false),
            ("changed_at", time_type(), false),
        ],
    )
}

/// As [`segment_changes`], of groups.
pub fn group_segment_changes() -> Table {
    table(
        "group_segment_changes",
        TableKind::GroupSegmentChanges,
        vec![
            // one of `groups`
            ("group_type", DataType::Utf8, false),
            ("segment", DataType::Utf8, false),
            ("group_id", DataType::Utf8, false),
            // `entered` or `exited`
            ("change", DataType::Utf8, false),
            // `event`, `time`, `fill` or `removed`
            ("cause", DataType::Utf8, false),
            ("changed_at", time_type(), false),
        ],
    )
}

/// A session id and what it stands for, versioned: the latest row of an id counts. With `merged_into` the id is gone,
/// and only `started_at`, `first_message_id` and the ids say something.
pub fn sessions() -> Table {
    table(
        "sessions",
        TableKind::Sessions,
        vec![
            ("session_id", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            ("started_at", time_type(), false),
            ("ended_at", time_type(), false),
            // whole seconds
            ("duration_s", DataType::Int64, false),
            ("events", DataType::Int64, false),
            ("pages", DataType::Int64, false),
            ("first_page", DataType::Utf8, true),
            ("last_page", DataType::Utf8, true),
            ("campaign_source", DataType::Utf8, true),
            ("campaign_medium", DataType::Utf8, true),
            ("campaign_name", DataType::Utf8, true),
            ("first_message_id", DataType::Utf8, false),
            // the session that holds the first event of this one now
            ("merged_into", DataType::Utf8, true),
            // the first of the sessions that only campaigns part from each other; null: this one
            ("chain_id", DataType::Utf8, true),
        ],
    )
}

/// One row per profile that came into another stage of a trait with `stages`.
pub fn stage_changes() -> Table {
    table(
        "stage_changes",
        TableKind::StageChanges,
        vec![
            ("trait", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            ("from_stage", DataType::Utf8, true),
            ("to_stage", DataType::Utf8, true),
            // as in `segment_changes`
            ("cause", DataType::Utf8, false),
            ("changed_at", time_type(), false),
        ],
    )
}

/// One row per thing that happened to someone in a journey.
pub fn journey_steps() -> Table {
    table(
        "journey_steps",
        TableKind::JourneySteps,
        vec![
            ("activation", DataType::Utf8, false),
            ("version", DataType::Utf8, false),
            ("entry_id", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            // empty for entering and leaving
            ("step", DataType::Utf8, false),
            // `entered`, `sent`, `skipped`, `failed`, `emitted`, `waits`, `waited`, `matched`, `timed_out`, `then`, `else`, `arm`, `left`
            ("what", DataType::Utf8, false),
            ("detail", DataType::Utf8, false),
            ("happened_at", time_type(), false),
        ],
    )
}

/// One row per change of a trait's or segment's definition; the latest of (`kind`, `name`) counts.
pub fn definitions() -> Table {
    table(
        "definitions",
        TableKind::Definitions,
        vec![
            // `trait` or `segment`
            ("kind", DataType::Utf8, false),
            ("name", DataType::Utf8, false),
            ("version", DataType::Utf8, false),
            // false while it is filled from the past
            ("ready", DataType::Boolean, false),
            ("removed", DataType::Boolean, false),
            ("changed_at", time_type(), false),
        ],
    )
}

/// One row per scan of an RFM trait.
pub fn rfm_borders() -> Table {
    let mut columns = vec![
        ("trait", DataType::Utf8, false),
        ("version", DataType::UInt64, false),
        ("scanned_at", time_type(), false),
        ("people", DataType::Int64, false),
    ];
    columns.extend(["recency_1", "recency_2", "recency_3", "recency_4"].map(|name| (name, time_type(), false)));
    let doubles = ["frequency_1", "frequency_2", "frequency_3", "frequency_4"];
    columns.extend(doubles.map(|name| (name, DataType::Float64, false)));
    let doubles = ["monetary_1", "monetary_2", "monetary_3", "monetary_4"];
    columns.extend(doubles.map(|name| (name, DataType::Float64, false)));
    table("rfm_borders", TableKind::RfmBorders, columns)
}

/// One row per delivery attempt.
pub fn deliveries() -> Table {
    table(
        "deliveries",
        TableKind::Deliveries,
        vec![
            ("delivery_id", DataType::Utf8, false),
            ("activation", DataType::Utf8, false),
            ("step", DataType::Utf8, false),
            ("destination", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            ("attempt", DataType::UInt32, false),
            // `sent`, `retry`, `failed`, `uncertain`, `skipped`, `dry_run`
            ("outcome", DataType::Utf8, false),
            // HTTP status or error, without secrets
            ("detail", DataType::Utf8, true),
            ("body", DataType::Utf8, false),
            ("attempted_at", time_type(), false),
        ],
    )
}

pub fn rejected_events() -> Table {
    table(
        "rejected_events",
        TableKind::RejectedEvents,
        vec![
            ("source", DataType::Utf8, false),
            ("topic", DataType::Utf8, false),
            ("partition", DataType::Int32, false),
            ("offset", DataType::Int64, false),
            ("received_at", time_type(), false),
            ("code", DataType::Utf8, false),
            ("reason", DataType::Utf8, false),
            ("byte_offset", DataType::UInt32, true),
            ("payload", DataType::Binary, false),
        ],
    )
}

/// The table behind an aggregate: `NAME__partial`, with the aggregate's own columns. What becomes of each when
/// partial rows are combined is kept with the column ([`role`]).
pub fn aggregate(name: &str, columns: &[AggregateColumn]) -> Table {
    let plain = columns.iter().map(|column| (column.name.as_str(), column.data_type.clone(), true)).collect();
    let plain = table(&format!("{name}{PARTIAL}"), TableKind::Aggregate, plain);
    let fields: Vec<Field> = plain
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| match columns.get(index) {
            Some(column) => with_role(field, column.role),
            None => field.as_ref().clone(),
        })
        .collect();
    Table { schema: Arc::new(Schema::new(fields)), ..plain }
}

const PARTIAL: &str = "__partial";
const ROLE: &str = "role";
const ROLES: [(AggregateRole, &str); 5] = [
    (AggregateRole::Key, "key"),
    (AggregateRole::Sum, "sum"),
    (AggregateRole::Count, "count"),
    (AggregateRole::Min, "min"),
    (AggregateRole::Max, "max"),
];

impl Table {
    /// The name of the aggregate that this table holds the partial rows of.
    pub fn aggregate_name(&self) -> Option<&str> {
        if self.kind == TableKind::Aggregate { self.name.strip_suffix(PARTIAL) } else { None }
    }
}

/// What an aggregate's column is; `None` for `_batch`, `_seq` and the columns of other tables.
pub fn role(field: &Field) -> Option<AggregateRole> {
    let name = field.metadata().get(ROLE)?;
    ROLES.iter().find(|(_, known)| known == name).map(|(role, _)| *role)
}

fn with_role(field: &Field, role: AggregateRole) -> Field {
    let name = ROLES.iter().find(|(known, _)| *known == role).map_or("key", |(_, name)| name);
    field.clone().with_metadata(HashMap::from([(ROLE.to_string(), name.to_string())]))
}

/// A column type by a short, stable name, as the lake's manifest keeps it. `None`: no table can hold the type.
pub fn type_name(data_type: &DataType) -> Option<String> {
    let name = match data_type {
        DataType::Utf8 => "string",
        DataType::Boolean => "boolean",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float64 => "double",
        DataType::Date32 => "date",
        DataType::Binary => "binary",
        other if *other == time_type() => "timestamp",
        other if *other == event::identifiers_type() => "map",
        DataType::Decimal128(precision, scale) => return Some(format!("decimal({precision},{scale})")),
        _ => return None,
    };
    Some(name.to_string())
}

/// The type of a [`type_name`].
pub fn type_of(name: &str) -> Option<DataType> {
    let data_type = match name {
        "string" => DataType::Utf8,
        "boolean" => DataType::Boolean,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "binary" => DataType::Binary,
        "timestamp" => time_type(),
        "map" => event::identifiers_type(),
        other => {
            let (precision, scale) = other.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
            DataType::Decimal128(precision.parse().ok()?, scale.parse().ok()?)
        }
    };
    Some(data_type)
}

/// A column as it is kept beside the data, so that a table can be read when no file holds the column yet.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredColumn {
    pub name: String,
    /// See [`type_name`].
    #[serde(rename = "type")]
    pub type_name: String,
    pub nullable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// No longer defined: kept, but not shown in views.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

impl StoredColumn {
    pub fn of(field: &Field) -> Option<Self> {
        Some(StoredColumn {
            name: field.name().clone(),
            type_name: type_name(field.data_type())?,
            nullable: field.is_nullable(),
            role: field.metadata().get(ROLE).cloned(),
            retired: false,
        })
    }

    pub fn field(&self) -> Option<Field> {
        let field = Field::new(&self.name, type_of(&self.type_name)?, self.nullable);
        Some(match &self.role {
            Some(role) => field.with_metadata(HashMap::from([(ROLE.to_string(), role.clone())])),
            None => field,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array, new_null_array};
    use arrow::compute::cast;

    use super::*;

    /// A batch of a table: given columns by name as text (cast), nulls and filler elsewhere. Its commit is
    /// `commit`, its rows are numbered.
    pub(crate) fn batch(table: &Table, commit: u64, given: &[(&str, Vec<Option<&str>>)]) -> RecordBatch {
        let rows = given[0].1.len();
        let columns: Vec<ArrayRef> = table
            .schema
            .fields()
            .iter()
            .map(|field| match given.iter().find(|(name, _)| name == field.name()) {
                Some((_, values)) => {
                    let texts: ArrayRef = Arc::new(StringArray::from(values.clone()));
                    cast(&texts, field.data_type()).expect("cast")
                }
                None if field.name() == "_batch" => Arc::new(UInt64Array::from(vec![commit; rows])) as ArrayRef,
                None if field.name() == "_seq" => Arc::new(UInt32Array::from_iter_values(0..rows as u32)),
                None if field.is_nullable() => new_null_array(field.data_type(), rows),
                None => {
                    let filler = match field.data_type() {
                        DataType::Utf8 | DataType::Binary => "",
                        DataType::Boolean => "false",
                        data_type if *data_type == time_type() => "2026-01-01T00:00:00Z",
                        _ => "0",
                    };
                    let texts: ArrayRef = Arc::new(StringArray::from(vec![filler; rows]));
                    cast(&texts, field.data_type()).expect("cast")
                }
            })
            .collect();
        RecordBatch::try_new(table.schema.clone(), columns).expect("batch")
    }

    /// Every table of the house, with traits of every type and an aggregate.
    pub(crate) fn all() -> Vec<Table> {
        let value_types =
            [ValueType::String, ValueType::Long, ValueType::Double, ValueType::Boolean, ValueType::Timestamp];
        let traits: Vec<(String, ValueType)> =
            value_types.iter().map(|value_type| (format!("t_{value_type:?}").to_lowercase(), *value_type)).collect();
        let column = |name: &str, data_type, role| AggregateColumn { name: name.into(), data_type, role };
        vec![
            events(),
            profiles(&traits),
            groups("account", &traits),
            identifiers(),
            profile_merges(),
            identity_conflicts(),
            event_moves(),
            segment_changes(),
            group_segment_changes(),
            sessions(),
            stage_changes(),
            journey_steps(),
            definitions(),
            rfm_borders(),
            deliveries(),
            rejected_events(),
            aggregate(
                "revenue_by_minute",
                &[
                    column("minute", time_type(), AggregateRole::Key),
                    column("country", DataType::Utf8, AggregateRole::Key),
                    column("revenue", DataType::Decimal128(38, 6), AggregateRole::Sum),
                    column("orders", DataType::Int64, AggregateRole::Count),
                    column("largest", DataType::Float64, AggregateRole::Max),
                ],
            ),
        ]
    }

    #[test]
    fn every_column_can_be_stored_and_comes_back_the_same() {
        for table in all() {
            for field in table.schema.fields() {
                let stored = StoredColumn::of(field).expect("a column type that can be stored");
                assert_eq!(stored.field().as_ref(), Some(field.as_ref()), "{}.{}", table.name, field.name());
            }
        }
    }

    #[test]
    fn an_aggregate_knows_its_name_and_the_roles_of_its_columns() {
        let table = all().pop().expect("aggregate");
        assert_eq!(table.aggregate_name(), Some("revenue_by_minute"));
        let roles: Vec<_> = table.schema.fields().iter().map(|field| role(field)).collect();
        use AggregateRole::*;
        assert_eq!(roles, [Some(Key), Some(Key), Some(Sum), Some(Count), Some(Max), None, None]);
        assert_eq!(events().aggregate_name(), None);
    }
}
