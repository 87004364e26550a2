//! SQL text for ClickHouse: the documented DDL of `deploy/clickhouse/`, and what is generated from definitions.

use arrow::datatypes::{DataType, Field};

use crate::aggregate::AggregateRole;
use crate::event;
use crate::sink::tables::{self, Table, TableKind};
use crate::sink::views::quoted;

pub const STATE: &str = include_str!("../../../deploy/clickhouse/tributary_state.sql");

/// `CREATE TABLE IF NOT EXISTS` for a table. Traits are not in it: they are added like every missing column.
///
/// # Errors
/// The column whose type no ClickHouse column can hold.
pub fn create_table(table: &Table) -> Result<String, String> {
    let documented = match table.kind {
        TableKind::Events => include_str!("../../../deploy/clickhouse/events.sql"),
        TableKind::Profiles => include_str!("../../../deploy/clickhouse/profiles.sql"),
        TableKind::Groups => return Ok(create_groups(table)),
        TableKind::Identifiers => include_str!("../../../deploy/clickhouse/identifiers.sql"),
        TableKind::ProfileMerges => include_str!("../../../deploy/clickhouse/profile_merges.sql"),
        TableKind::IdentityConflicts => include_str!("../../../deploy/clickhouse/identity_conflicts.sql"),
        TableKind::EventMoves => include_str!("../../../deploy/clickhouse/event_moves.sql"),
        TableKind::SegmentChanges => include_str!("../../../deploy/clickhouse/segment_changes.sql"),
        TableKind::GroupSegmentChanges => include_str!("../../../deploy/clickhouse/group_segment_changes.sql"),
        TableKind::Sessions => include_str!("../../../deploy/clickhouse/sessions.sql"),
        TableKind::StageChanges => include_str!("../../../deploy/clickhouse/stage_changes.sql"),
        TableKind::JourneySteps => include_str!("../../../deploy/clickhouse/journey_steps.sql"),
        TableKind::Definitions => include_str!("../../../deploy/clickhouse/definitions.sql"),
        TableKind::RfmBorders => include_str!("../../../deploy/clickhouse/rfm_borders.sql"),
        TableKind::Deliveries => include_str!("../../../deploy/clickhouse/deliveries.sql"),
        TableKind::RejectedEvents => include_str!("../../../deploy/clickhouse/rejected_events.sql"),
        TableKind::Aggregate => return create_aggregate(table),
    };
    Ok(documented.trim().trim_end_matches(';').to_string())
}

/// The documented table is that of groups called `account`.
fn create_groups(table: &Table) -> String {
    let documented = include_str!("../../../deploy/clickhouse/groups_account.sql");
    documented.trim().trim_end_matches(';').replacen("groups_account", &table.name, 1)
}

/// Plain MergeTree ordered by the keys: a summing engine would add up `_batch` and drop groups of zeros.
fn create_aggregate(table: &Table) -> Result<String, String> {
    let columns: Result<Vec<String>, String> = table
        .schema
        .fields()
        .iter()
        .map(|field| Ok(format!("    {} {}", quoted(field.name()), column_type_of(table, field)?)))
        .collect();
    let fields = table.schema.fields().iter();
    let keys: Vec<String> = fields
        .filter(|field| tables::role(field) == Some(AggregateRole::Key))
        .map(|field| quoted(field.name()))
        .collect();
    Ok(format!(
        "CREATE TABLE IF NOT EXISTS {}\n(\n{},\n    INDEX by_batch _batch TYPE minmax GRANULARITY 1\n)\n\
         ENGINE = MergeTree\nORDER BY ({})\nSETTINGS\n    allow_nullable_key = 1,\n    \
         non_replicated_deduplication_window = 10000,\n    fsync_after_insert = 1,\n    fsync_part_directory = 1\n\
         COMMENT 'partial rows of an aggregate, one set per commit, added up by the view {}'",
        quoted(&table.name),
        columns?.join(",\n"),
        keys.join(", "),
        table.aggregate_name().unwrap_or_default().replace(['\'', '\\'], ""),
    ))
}

pub fn add_column(table: &Table, field: &Field) -> Result<String, String> {
    Ok(format!(
        "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}",
        quoted(&table.name),
        quoted(field.name()),
        column_type_of(table, field)?
    ))
}

fn column_type_of(table: &Table, field: &Field) -> Result<String, String> {
    column_type(field).ok_or_else(|| {
        format!(
            "table {}, column {}: ClickHouse has no column for a value of type {}; cast it in the definition",
            table.name,
            field.name(),
            field.data_type()
        )
    })
}

/// | Arrow                   | ClickHouse                                                  |
/// |-------------------------|-------------------------------------------------------------|
/// | Utf8                    | `String` (`LowCardinality(String)` where the DDL says so)   |
/// | Binary                  | `String`                                                    |
/// | Boolean                 | `Bool`                                                      |
/// | Int32, Int64            | `Int32`, `Int64`                                            |
/// | UInt32, UInt64          | `UInt32`, `UInt64`                                          |
/// | Float64                 | `Float64`                                                   |
/// | Timestamp(µs, UTC)      | `DateTime64(6, 'UTC')`                                      |
/// | Date32                  | `Date32`                                                    |
/// | Decimal128(p, s)        | `Decimal(p, s)`                                             |
/// | Map(Utf8, Utf8)         | `Map(String, String)`, never Nullable: null is the empty map |
///
/// A nullable field is `Nullable(…)` of it.
pub fn column_type(field: &Field) -> Option<String> {
    let base = match field.data_type() {
        DataType::Utf8 | DataType::Binary => "String".to_string(),
        DataType::Boolean => "Bool".to_string(),
        DataType::Int32 => "Int32".to_string(),
        DataType::Int64 => "Int64".to_string(),
        DataType::UInt32 => "UInt32".to_string(),
        DataType::UInt64 => "UInt64".to_string(),
        DataType::Float64 => "Float64".to_string(),
        DataType::Date32 => "Date32".to_string(),
        DataType::Decimal128(precision, scale) => format!("Decimal({precision}, {scale})"),
        other if *other == event::time_type() => "DateTime64(6, 'UTC')".to_string(),
        other if *other == event::identifiers_type() => return Some("Map(String, String)".to_string()),
        _ => return None,
    };
    Some(if field.is_nullable() { format!("Nullable({base})") } else { base })
}

/// A column type without `LowCardinality` and `Nullable`: what decides whether values fit.
pub fn base_type(column_type: &str) -> &str {
    for wrapper in ["LowCardinality(", "Nullable("] {
        if let Some(inner) = column_type.strip_prefix(wrapper).and_then(|rest| rest.strip_suffix(')')) {
            return base_type(inner);
        }
    }
    column_type
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tables::tests::all;

    /// Column name → type, as the DDL has them.
    fn columns_of(ddl: &str) -> Vec<(String, String)> {
        let body = ddl.split_once("\n(\n").expect("body").1;
        let body = body.split_once("\n)\n").expect("end").0;
        let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("INDEX "));
        let lines = lines.filter(|line| ![" ALIAS ", " MATERIALIZED "].iter().any(|made| line.contains(made)));
        lines
            .map(|line| {
                let line = line.split(" COMMENT ").next().expect("text").trim().trim_end_matches(',');
                let (name, column_type) = line.split_once(' ').expect(line);
                (name.trim_matches(['`', '"']).to_string(), column_type.trim().to_string())
            })
            .collect()
    }

    #[test]
    fn the_ddl_has_every_column_in_order_with_the_type_that_its_values_need() {
        for table in all() {
            let ddl = create_table(&table).expect("ddl");
            let columns = columns_of(&ddl);
            let fields = table.schema.fields().iter().filter(|field| !field.name().starts_with("t_"));
            let expected: Vec<(String, String)> =
                fields.map(|field| (field.name().clone(), column_type(field).expect("type"))).collect();
            let without_low_cardinality: Vec<(String, String)> = columns
                .iter()
                .map(|(name, text)| match text.strip_prefix("LowCardinality(").and_then(|t| t.strip_suffix(')')) {
                    Some(inner) => (name.clone(), inner.to_string()),
                    None => (name.clone(), text.clone()),
                })
                .collect();
            assert_eq!(without_low_cardinality, expected, "{}", table.name);
        }
    }

    #[test]
    fn every_table_keeps_tokens_and_syncs_what_it_acknowledges() {
        for table in all() {
            let ddl = create_table(&table).expect("ddl");
            for setting in
                ["non_replicated_deduplication_window = 10000", "fsync_after_insert = 1", "fsync_part_directory = 1"]
            {
                assert!(ddl.contains(setting), "{} lacks {setting}", table.name);
            }
            // One insert is one part only without partitions (or within one).
            assert!(!ddl.contains("PARTITION BY"), "{}", table.name);
            assert!(!ddl.contains(';'), "{} is more than one statement", table.name);
        }
    }

    #[test]
    fn documented_columns_are_documented() {
        for table in all().iter().filter(|table| table.kind != TableKind::Aggregate) {
            let ddl = create_table(table).expect("ddl");
            for (name, _) in columns_of(&ddl) {
                let line = ddl.lines().find(|line| line.trim_start().trim_start_matches('`').starts_with(&name));
                assert!(line.is_some_and(|line| line.contains(" COMMENT '")), "{}.{name}", table.name);
            }
        }
    }

    #[test]
    fn wrappers_do_not_decide_whether_values_fit() {
        assert_eq!(base_type("LowCardinality(Nullable(String))"), "String");
        assert_eq!(base_type("Nullable(DateTime64(6, 'UTC'))"), "DateTime64(6, 'UTC')");
        assert_eq!(base_type("Map(String, String)"), "Map(String, String)");
    }
}
