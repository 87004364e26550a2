//! The tables: names and columns, the same in ClickHouse and in the lake.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::event::{self, ValueType, time_type};

/// One output table. Every table ends with `_batch` (`UInt64`, the commit) and `_seq` (`UInt32`, the row within
/// the commit and table).
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub kind: TableKind,
    pub schema: SchemaRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Events,
    Profiles,
    Identifiers,
    ProfileMerges,
    SegmentChanges,
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

/// One row per accepted event: `profile_id` (null without a usable identifier), then the envelope.
pub fn events() -> Table {
    let mut columns = vec![("profile_id", DataType::Utf8, true)];
    let envelope = event::envelope_schema();
    columns.extend(envelope.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone(), f.is_nullable())));
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
        ("_as_of", time_type(), false),
    ];
    columns.extend(traits.iter().map(|(name, value_type)| (name.as_str(), value_type.arrow(), true)));
    table("profiles", TableKind::Profiles, columns)
}

/// Identifier → profile, versioned: the latest row of (type, value) counts.
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

/// One row per profile id that became another, with the event that caused it.
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

pub fn segment_changes() -> Table {
    table(
        "segment_changes",
        TableKind::SegmentChanges,
        vec![
            ("segment", DataType::Utf8, false),
            ("profile_id", DataType::Utf8, false),
            // `entered` or `exited`
            ("change", DataType::Utf8, false),
            // `event` or `merge`
            ("cause", DataType::Utf8, false),
            ("changed_at", time_type(), false),
        ],
    )
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
            // `sent`, `retry`, `failed`, `dry_run`
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

/// The table behind an aggregate: `NAME__partial`, with the aggregate's own columns.
pub fn aggregate(name: &str, columns: &[(String, DataType)]) -> Table {
    let columns = columns.iter().map(|(name, data_type)| (name.as_str(), data_type.clone(), true)).collect();
    table(&format!("{name}__partial"), TableKind::Aggregate, columns)
}
