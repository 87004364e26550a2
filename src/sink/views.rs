//! The views: the same names and the same meaning in ClickHouse and in the lake, from the same definitions.
//!
//! Each is one `SELECT` in the dialect of its engine. "Latest" is always by (`_batch`, `_seq`).

use arrow::datatypes::Field;

use crate::aggregate::AggregateRole;

use super::tables::{self, Table, TableKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    ClickHouse,
    DataFusion,
}

/// A view and the `SELECT` behind it. Views that others read come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub name: String,
    pub sql: String,
}

/// The views over these tables.
pub fn views(tables: &[Table], dialect: Dialect) -> Vec<View> {
    let view = |name: &str, sql: String| View { name: name.to_string(), sql };
    let mut views = Vec::new();
    // Two of the others read `profile_ids`, so that comes first whatever the order of the tables.
    let merges = tables.iter().any(|table| table.kind == TableKind::ProfileMerges);
    if merges {
        views.push(view(
            "profile_ids",
            latest(dialect, "profile_merges", &["old_profile_id"], &["profile_id", "cause", "merged_at"], None),
        ));
    }
    for table in tables {
        match table.kind {
            TableKind::Events if merges => views.push(view("current_events", current_events(dialect, table))),
            TableKind::Profiles => {
                let shown: Vec<&str> = columns(table)
                    .map(|field| field.name().as_str())
                    .filter(|name| !["profile_id", "deleted"].contains(name))
                    .collect();
                let sql = latest(dialect, "profiles", &["profile_id"], &shown, Some(("deleted", "false")));
                views.push(view("current_profiles", sql));
            }
            TableKind::Identifiers => {
                views.push(view("current_identifiers", current_identifiers(dialect, merges)));
            }
            TableKind::SegmentChanges => views.push(view(
                "segment_members",
                latest(
                    dialect,
                    "segment_changes",
                    &["segment", "profile_id"],
                    &["changed_at"],
                    Some(("change", "'entered'")),
                ),
            )),
            TableKind::Aggregate => views.extend(table.aggregate_name().map(|name| view(name, combined(table)))),
            TableKind::Events | TableKind::ProfileMerges | TableKind::Deliveries | TableKind::RejectedEvents => {}
        }
    }
    views
}

/// A table's columns without `_batch` and `_seq`.
fn columns(table: &Table) -> impl Iterator<Item = &Field> {
    table.schema.fields().iter().map(AsRef::as_ref).filter(|field| !["_batch", "_seq"].contains(&field.name().as_str()))
}

/// An identifier in double quotes, which both engines take.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\"\""))
}

fn quoted_list(names: &[&str]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// The latest row of each key, if its column `only.0` equals `only.1`.
///
/// ClickHouse: `argMax` by key, which needs no sort, passes filters on the key down, and reads only the columns
/// that are asked for. The value goes in as a tuple because `argMax` skips nulls, and a trait that became null *is* null.
/// DataFusion: a numbered window.
fn latest(dialect: Dialect, table: &str, keys: &[&str], shown: &[&str], only: Option<(&str, &str)>) -> String {
    let key_list = quoted_list(keys);
    match dialect {
        Dialect::ClickHouse => {
            let last = |name: &str| format!("argMax(tuple(t.{0}), (t._batch, t._seq)).1", quoted(name));
            let keyed: Vec<String> = keys.iter().map(|key| format!("t.{0}", quoted(key))).collect();
            let mut items: Vec<String> =
                keys.iter().zip(&keyed).map(|(key, of)| format!("{of} AS {}", quoted(key))).collect();
            items.extend(shown.iter().map(|name| format!("{} AS {}", last(name), quoted(name))));
            let having = only.map(|(name, value)| format!(" HAVING {} = {value}", last(name))).unwrap_or_default();
            format!("SELECT {} FROM {table} AS t GROUP BY {}{having}", items.join(", "), keyed.join(", "))
        }
        Dialect::DataFusion => {
            let shown = if shown.is_empty() { String::new() } else { format!(", {}", quoted_list(shown)) };
            let only = only.map(|(name, value)| format!(" AND {} = {value}", quoted(name))).unwrap_or_default();
            format!(
                "SELECT {key_list}{shown} FROM (SELECT *, row_number() OVER (PARTITION BY {key_list} \
                 ORDER BY _batch DESC, _seq DESC) AS _age FROM {table}) AS numbered WHERE _age = 1{only}"
            )
        }
    }
}

/// Events under the profile id that is valid now.
fn current_events(dialect: Dialect, table: &Table) -> String {
    let items: Vec<String> = columns(table)
        .map(|field| match field.name().as_str() {
            "profile_id" => valid_now(dialect, "e"),
            name => format!("e.{0} AS {0}", quoted(name)),
        })
        .collect();
    format!(
        "SELECT {}, e._batch AS _batch, e._seq AS _seq FROM events AS e{}",
        items.join(", "),
        to_valid(dialect, "e")
    )
}

/// Identifiers under the profile id that is valid now: a merge moves none of their rows.
fn current_identifiers(dialect: Dialect, merges: bool) -> String {
    let latest = latest(dialect, "identifiers", &["type", "value"], &["profile_id", "first_seen"], None);
    if !merges {
        return latest;
    }
    format!(
        "SELECT i.type AS type, i.value AS value, {}, i.first_seen AS first_seen FROM ({latest}) AS i{}",
        valid_now(dialect, "i"),
        to_valid(dialect, "i")
    )
}

/// The profile id that is valid now, after the join of [`to_valid`].
fn valid_now(dialect: Dialect, rows: &str) -> String {
    match dialect {
        // Without a match ClickHouse joins the empty text, not null.
        Dialect::ClickHouse => format!("if(m.profile_id = '', {rows}.profile_id, m.profile_id) AS profile_id"),
        Dialect::DataFusion => format!("coalesce(m.profile_id, {rows}.profile_id) AS profile_id"),
    }
}

/// One step through `profile_ids` is enough: a merge writes a row for every id that points to the survivor.
fn to_valid(dialect: Dialect, rows: &str) -> String {
    let settings = match dialect {
        // A user's own default must not turn the empty text into null.
        Dialect::ClickHouse => " SETTINGS join_use_nulls = 0",
        Dialect::DataFusion => "",
    };
    format!(" LEFT JOIN profile_ids AS m ON {rows}.profile_id = m.old_profile_id{settings}")
}

/// Partial rows added up. Columns are qualified because the results have the same names. A sum over nothing but nulls
/// is 0, a minimum or maximum null (both engines otherwise disagree with each other or with themselves).
fn combined(table: &Table) -> String {
    let mut items = Vec::new();
    let mut keys = Vec::new();
    for field in columns(table) {
        let name = quoted(field.name());
        match tables::role(field) {
            Some(AggregateRole::Sum | AggregateRole::Count) => {
                items.push(format!("coalesce(sum(p.{name}), 0) AS {name}"));
            }
            Some(AggregateRole::Min) => items.push(format!("min(p.{name}) AS {name}")),
            Some(AggregateRole::Max) => items.push(format!("max(p.{name}) AS {name}")),
            Some(AggregateRole::Key) | None => {
                items.push(format!("p.{name} AS {name}"));
                keys.push(format!("p.{name}"));
            }
        }
    }
    let group = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) };
    format!("SELECT {} FROM {} AS p{group}", items.join(", "), quoted(&table.name))
}
