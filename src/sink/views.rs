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
    let has = |kind| tables.iter().any(|table| table.kind == kind);
    let merges = has(TableKind::ProfileMerges);
    if merges {
        let shown = ["profile_id", "cause", "merged_at"];
        // An id that names itself came back to life.
        let only = Some(("profile_id", "<> old_profile_id"));
        views.push(view("profile_ids", latest(dialect, "profile_merges", &["old_profile_id"], &shown, only)));
    }
    for table in tables {
        match table.kind {
            TableKind::Events if merges => {
                let moves = has(TableKind::EventMoves);
                views.push(view("current_events", current_events(dialect, table, moves)));
            }
            TableKind::Profiles => {
                let shown: Vec<&str> = columns(table)
                    .map(|field| field.name().as_str())
                    .filter(|name| !["profile_id", "deleted"].contains(name))
                    .collect();
                let sql = latest(dialect, "profiles", &["profile_id"], &shown, Some(("deleted", "= false")));
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
                    Some(("change", "= 'entered'")),
                ),
            )),
            TableKind::Aggregate => views.extend(table.aggregate_name().map(|name| view(name, combined(table)))),
            TableKind::Events
            | TableKind::ProfileMerges
            | TableKind::IdentityConflicts
            | TableKind::EventMoves
            | TableKind::Deliveries
            | TableKind::RejectedEvents => {}
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

/// The latest row of each key, if its column `only.0` passes the test `only.1`.
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
            let having = only.map(|(name, test)| format!(" HAVING {} {test}", last(name))).unwrap_or_default();
            format!("SELECT {} FROM {table} AS t GROUP BY {}{having}", items.join(", "), keyed.join(", "))
        }
        Dialect::DataFusion => {
            let shown = if shown.is_empty() { String::new() } else { format!(", {}", quoted_list(shown)) };
            let only = only.map(|(name, test)| format!(" AND {} {test}", quoted(name))).unwrap_or_default();
            format!(
                "SELECT {key_list}{shown} FROM (SELECT *, row_number() OVER (PARTITION BY {key_list} \
                 ORDER BY _batch DESC, _seq DESC) AS _age FROM {table}) AS numbered WHERE _age = 1{only}"
            )
        }
    }
}

/// Events under the profile id that is valid now: where a correction moved the event, else where it was put, and from
/// there through the merges.
fn current_events(dialect: Dialect, table: &Table, moves: bool) -> String {
    let (own, moved) = if moves { moved(dialect) } else { ("e.profile_id".to_string(), String::new()) };
    let items: Vec<String> = columns(table)
        .map(|field| match field.name().as_str() {
            "profile_id" => valid_now(dialect, &own),
            name => format!("e.{0} AS {0}", quoted(name)),
        })
        .collect();
    format!(
        "SELECT {}, e._batch AS _batch, e._seq AS _seq FROM events AS e{moved}{}",
        items.join(", "),
        to_valid(dialect, &own)
    )
}

/// The profile that an event `e` is in before merges, and the join that it needs.
fn moved(dialect: Dialect) -> (String, String) {
    let moves = latest(dialect, "event_moves", &["event_batch", "event_seq"], &["profile_id"], None);
    let own = match dialect {
        // Without a match ClickHouse joins zeros, and commits count from 1.
        Dialect::ClickHouse => "if(v.event_batch = 0, e.profile_id, v.profile_id)",
        Dialect::DataFusion => "CASE WHEN v.event_batch IS NULL THEN e.profile_id ELSE v.profile_id END",
    };
    let join = format!(" LEFT JOIN ({moves}) AS v ON e._batch = v.event_batch AND e._seq = v.event_seq");
    (own.to_string(), join)
}

/// Identifiers that are somebody's, under the profile id that is valid now: a merge moves none of their rows.
fn current_identifiers(dialect: Dialect, merges: bool) -> String {
    let only = Some(("profile_id", "<> ''"));
    let latest = latest(dialect, "identifiers", &["type", "value"], &["profile_id", "first_seen"], only);
    if !merges {
        return latest;
    }
    format!(
        "SELECT i.type AS type, i.value AS value, {}, i.first_seen AS first_seen FROM ({latest}) AS i{}",
        valid_now(dialect, "i.profile_id"),
        to_valid(dialect, "i.profile_id")
    )
}

/// The profile id that is valid now, after the join of [`to_valid`] with the same `own`.
fn valid_now(dialect: Dialect, own: &str) -> String {
    match dialect {
        // Without a match ClickHouse joins the empty text, not null.
        Dialect::ClickHouse => format!("if(m.profile_id = '', {own}, m.profile_id) AS profile_id"),
        Dialect::DataFusion => format!("coalesce(m.profile_id, {own}) AS profile_id"),
    }
}

/// One step through `profile_ids` is enough: a merge writes a row for every id that points to the survivor.
fn to_valid(dialect: Dialect, own: &str) -> String {
    let settings = match dialect {
        // A user's own default must not turn the empty text into null.
        Dialect::ClickHouse => " SETTINGS join_use_nulls = 0",
        Dialect::DataFusion => "",
    };
    format!(" LEFT JOIN profile_ids AS m ON {own} = m.old_profile_id{settings}")
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

#[cfg(test)]
pub(crate) mod tests {
    use arrow::array::RecordBatch;

    use crate::sink::tables::{self, Table, tests::batch};

    fn some(values: &[&'static str]) -> Vec<Option<&'static str>> {
        values.iter().map(|value| Some(*value)).collect()
    }

    /// People that are merged and taken apart again, commit by commit; the answers are in [`CORRECTED`].
    pub(crate) fn corrections() -> (Vec<Table>, Vec<Vec<(Table, RecordBatch)>>) {
        let (events, identifiers) = (tables::events(), tables::identifiers());
        let (merges, moves) = (tables::profile_merges(), tables::event_moves());
        let rows =
            |table: &Table, commit, given: &[(&str, Vec<Option<&str>>)]| (table.clone(), batch(table, commit, given));
        let commits = vec![
            vec![
                rows(
                    &events,
                    1,
                    &[
                        ("message_id", some(&["plain", "merged", "split", "moved", "struck", "twice", "nobody"])),
                        ("profile_id", vec![Some("p"), Some("a"), Some("b"), Some("c"), Some("c"), Some("c"), None]),
                    ],
                ),
                rows(
                    &identifiers,
                    1,
                    &[
                        ("type", some(&["email", "email", "email", "email"])),
                        ("value", some(&["a", "b", "c", "banned"])),
                        ("profile_id", some(&["a", "b", "c", "c"])),
                    ],
                ),
            ],
            // a and b become c.
            vec![rows(&merges, 2, &[("old_profile_id", some(&["a", "b"])), ("profile_id", some(&["c", "c"]))])],
            // b lives again, d is new: some events go to them. One identifier is banned, one event struck.
            vec![
                rows(&merges, 3, &[("old_profile_id", some(&["b"])), ("profile_id", some(&["b"]))]),
                rows(
                    &moves,
                    3,
                    &[
                        ("event_batch", some(&["1", "1", "1"])),
                        ("event_seq", some(&["3", "4", "5"])),
                        ("profile_id", vec![Some("d"), None, Some("b")]),
                    ],
                ),
                rows(
                    &identifiers,
                    3,
                    &[("type", some(&["email"])), ("value", some(&["banned"])), ("profile_id", some(&[""]))],
                ),
            ],
            // d is merged in turn, and one event is moved once more.
            vec![
                rows(&merges, 4, &[("old_profile_id", some(&["d"])), ("profile_id", some(&["e"]))]),
                rows(
                    &moves,
                    4,
                    &[("event_batch", some(&["1"])), ("event_seq", some(&["5"])), ("profile_id", some(&["f"]))],
                ),
            ],
        ];
        (vec![events, identifiers, merges, moves], commits)
    }

    /// Query, answer as CSV without its header, and why.
    pub(crate) const CORRECTED: [(&str, &str, &str); 5] = [
        (
            "SELECT message_id, profile_id FROM current_events ORDER BY message_id",
            "merged,c\nmoved,e\nnobody,\nplain,p\nsplit,b\nstruck,\ntwice,f",
            "a correction counts before merges, and merges after it apply",
        ),
        ("SELECT message_id FROM current_events WHERE profile_id = 'e'", "moved", "found by the id of now"),
        ("SELECT count(*) FROM current_events WHERE profile_id IS NULL", "2", "never anybody's, and no longer"),
        (
            "SELECT old_profile_id, profile_id FROM profile_ids ORDER BY old_profile_id",
            "a,c\nd,e",
            "b came back to life",
        ),
        (
            "SELECT value, profile_id FROM current_identifiers ORDER BY value",
            "a,c\nb,b\nc,c",
            "a banned identifier is nobody's",
        ),
    ];
}
