//! The views: the same names and the same meaning in ClickHouse and in the lake, from the same definitions.
//!
//! Each is one `SELECT` in the dialect of its engine. "Latest" is always by (`_batch`, `_seq`).

mod memberships;

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
        views.push(view("profile_ids", latest(dialect, &tables::profile_merges(), &["old_profile_id"], &shown, only)));
    }
    for table in tables {
        match table.kind {
            TableKind::Events if merges => {
                let moves = has(TableKind::EventMoves);
                views.push(view("current_events", current_events(dialect, table, moves)));
                if dialect == Dialect::ClickHouse {
                    views.push(view("profile_events", profile_events(table, moves)));
                }
            }
            TableKind::Profiles => {
                let shown: Vec<&str> = columns(table)
                    .map(|field| field.name().as_str())
                    .filter(|name| !["profile_id", "deleted"].contains(name))
                    .collect();
                let sql = latest(dialect, table, &["profile_id"], &shown, Some(("deleted", "= false")));
                views.push(view("current_profiles", sql));
            }
            TableKind::Identifiers => {
                views.push(view("current_identifiers", current_identifiers(dialect, table, merges)));
            }
            TableKind::SegmentChanges => {
                let entered = Some(("change", "= 'entered'"));
                let members = latest(dialect, table, &["segment", "profile_id"], &["changed_at"], entered);
                views.push(view("segment_members", members));
                views.push(view("segment_sizes", memberships::SEGMENT_SIZES.to_string()));
                views.push(view("segment_overlap", memberships::SEGMENT_OVERLAP.to_string()));
            }
            TableKind::Definitions => {
                let shown = ["version", "ready", "changed_at"];
                let sql = latest(dialect, table, &["kind", "name"], &shown, Some(("removed", "= false")));
                views.push(view("current_definitions", sql));
            }
            TableKind::Aggregate => views.extend(table.aggregate_name().map(|name| view(name, combined(table)))),
            TableKind::Events
            | TableKind::ProfileMerges
            | TableKind::IdentityConflicts
            | TableKind::EventMoves
            | TableKind::StageChanges
            | TableKind::RfmBorders
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

/// (`_batch`, `_seq`) as one number, in ClickHouse.
const VERSION: &str = "toUInt128(t._batch) * 4294967296 + t._seq";

/// The latest row of each key, if its column `only.0` passes the test `only.1`.
///
/// ClickHouse: `argMax` by key, which needs no sort, passes filters on the key down, and reads only the columns
/// that are asked for. With a number for (`_batch`, `_seq`) and plain values it is four times as fast as with tuples.
/// DataFusion: a numbered window.
fn latest(dialect: Dialect, table: &Table, keys: &[&str], shown: &[&str], only: Option<(&str, &str)>) -> String {
    let key_list = quoted_list(keys);
    match dialect {
        Dialect::ClickHouse => {
            let last = |name: &str| {
                let value = format!("argMax(t.{}, {VERSION})", quoted(name));
                match table.schema.field_with_name(name) {
                    // `argMax` skips nulls, and a trait that became null *is* null.
                    Ok(field) if field.is_nullable() => {
                        format!("if(argMax(t.{} IS NOT NULL, {VERSION}), {value}, NULL)", quoted(name))
                    }
                    _ => value,
                }
            };
            let keyed: Vec<String> = keys.iter().map(|key| format!("t.{0}", quoted(key))).collect();
            let mut items: Vec<String> =
                keys.iter().zip(&keyed).map(|(key, of)| format!("{of} AS {}", quoted(key))).collect();
            items.extend(shown.iter().map(|name| format!("{} AS {}", last(name), quoted(name))));
            let having = only.map(|(name, test)| format!(" HAVING {} {test}", last(name))).unwrap_or_default();
            format!("SELECT {} FROM {} AS t GROUP BY {}{having}", items.join(", "), table.name, keyed.join(", "))
        }
        Dialect::DataFusion => {
            let shown = if shown.is_empty() { String::new() } else { format!(", {}", quoted_list(shown)) };
            let only = only.map(|(name, test)| format!(" AND {} {test}", quoted(name))).unwrap_or_default();
            format!(
                "SELECT {key_list}{shown} FROM (SELECT *, row_number() OVER (PARTITION BY {key_list} \
                 ORDER BY _batch DESC, _seq DESC) AS _age FROM {}) AS numbered WHERE _age = 1{only}",
                table.name
            )
        }
    }
}

/// Events under the profile id that is valid now: where a correction moved the event, else where it was put, and from
/// there through the merges.
fn current_events(dialect: Dialect, table: &Table, moves: bool) -> String {
    let (own, join) = valid_now(dialect, "e.profile_id");
    let (now, moved) = if moves { moved(dialect, &own) } else { (own, String::new()) };
    let items: Vec<String> = columns(table)
        .map(|field| match field.name().as_str() {
            "profile_id" => format!("{now} AS profile_id"),
            name => format!("e.{0} AS {0}", quoted(name)),
        })
        .collect();
    let items = items.join(", ");
    format!("SELECT {items}, e._batch AS _batch, e._seq AS _seq FROM events AS e{join}{moved}{}", settings(dialect))
}

/// The profile that an event `e` is in if it was moved, else `own`, and the join that it needs. The merges are applied to the
/// moved ones on their own: so the join of all events with the merges is by a column of the events, and the engine may
/// filter by it what it reads of the merges.
fn moved(dialect: Dialect, own: &str) -> (String, String) {
    let moves = latest(dialect, &tables::event_moves(), &["event_batch", "event_seq"], &["profile_id"], None);
    let (any, unmatched, ids) = match dialect {
        // Without a match ClickHouse joins zeros and empty texts, and commits count from 1.
        Dialect::ClickHouse => (
            "ANY ",
            ["v.event_batch = 0", "i.profile_id = ''"],
            "(SELECT old_profile_id, profile_id FROM profile_ids WHERE old_profile_id IN \
             (SELECT ifNull(profile_id, '') FROM event_moves))",
        ),
        Dialect::DataFusion => ("", ["v.event_batch IS NULL", "i.profile_id IS NULL"], "profile_ids"),
    };
    let [not_moved, not_merged] = unmatched;
    let moves = format!(
        "SELECT l.event_batch AS event_batch, l.event_seq AS event_seq, \
         CASE WHEN {not_merged} THEN l.profile_id ELSE i.profile_id END AS profile_id \
         FROM ({moves}) AS l LEFT {any}JOIN {ids} AS i ON l.profile_id = i.old_profile_id"
    );
    (
        format!("CASE WHEN {not_moved} THEN {own} ELSE v.profile_id END"),
        format!(" LEFT {any}JOIN ({moves}) AS v ON e._batch = v.event_batch AND e._seq = v.event_seq"),
    )
}

/// The rows of `current_events` of one profile, given as a parameter. The profile of now is computed, so a condition on it
/// can use no index; here the ids that became this profile are found first, then their events by the index.
fn profile_events(table: &Table, moves: bool) -> String {
    const ID: &str = "{profile_id:String}";
    let items: Vec<String> = columns(table)
        .map(|field| match field.name().as_str() {
            "profile_id" => format!("toNullable({ID}) AS profile_id"),
            name => format!("e.{0} AS {0}", quoted(name)),
        })
        .collect();
    let select = format!("SELECT {}, e._batch AS _batch, e._seq AS _seq FROM events AS e WHERE", items.join(", "));
    // Itself if it is still there, and the ids whose latest merge leads here.
    let ids = format!(
        "SELECT {ID} WHERE {ID} NOT IN (SELECT old_profile_id FROM profile_ids WHERE old_profile_id = {ID}) \
         UNION ALL SELECT old_profile_id FROM profile_ids WHERE profile_id = {ID} AND old_profile_id IN \
         (SELECT old_profile_id FROM profile_merges WHERE profile_id = {ID})"
    );
    if !moves {
        return format!("{select} e.profile_id IN ({ids})");
    }
    let key = ["event_batch", "event_seq"];
    let latest = latest(Dialect::ClickHouse, &tables::event_moves(), &key, &["profile_id"], None);
    let here = format!(
        "FROM ({latest}) WHERE profile_id IN ({ids}) AND (event_batch, event_seq) IN \
         (SELECT event_batch, event_seq FROM event_moves WHERE profile_id IN ({ids}))"
    );
    format!(
        "{select} e.profile_id IN ({ids}) AND (e._batch, e._seq) NOT IN (SELECT event_batch, event_seq FROM event_moves) \
         UNION ALL {select} e._batch IN (SELECT event_batch {here}) AND (e._batch, e._seq) IN (SELECT event_batch, event_seq {here})"
    )
}

/// Identifiers that are somebody's, under the profile id that is valid now: a merge moves none of their rows.
fn current_identifiers(dialect: Dialect, table: &Table, merges: bool) -> String {
    let only = Some(("profile_id", "<> ''"));
    let latest = latest(dialect, table, &["type", "value"], &["profile_id", "first_seen"], only);
    if !merges {
        return latest;
    }
    let (now, join) = valid_now(dialect, "i.profile_id");
    format!(
        "SELECT i.type AS type, i.value AS value, {now} AS profile_id, i.first_seen AS first_seen \
         FROM ({latest}) AS i{join}{}",
        settings(dialect)
    )
}

/// The profile id that is valid now for this one, and the join that it needs. One step is enough: a merge writes a row for
/// every id that points to the survivor.
fn valid_now(dialect: Dialect, id: &str) -> (String, String) {
    match dialect {
        // Ids as numbers: half the memory of `profile_ids`, and half the time. An id that came back to life is found as itself.
        Dialect::ClickHouse => (
            format!("if(m.now = 0, {id}, lower(hex(reinterpretAsFixedString(m.now))))"),
            format!(
                " LEFT ANY JOIN (SELECT t.old_key AS id, argMax(t.new_key, {VERSION}) AS now FROM profile_merges AS t \
                 GROUP BY t.old_key) AS m ON reinterpretAsUInt128(unhex(ifNull({id}, ''))) = m.id"
            ),
        ),
        Dialect::DataFusion => {
            (format!("coalesce(m.profile_id, {id})"), format!(" LEFT JOIN profile_ids AS m ON {id} = m.old_profile_id"))
        }
    }
}

/// What the joins above rely on.
fn settings(dialect: Dialect) -> &'static str {
    match dialect {
        // A user's own default must not turn zeros and empty texts into null.
        Dialect::ClickHouse => " SETTINGS join_use_nulls = 0",
        Dialect::DataFusion => "",
    }
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

    pub(crate) use super::memberships::tests::{Memberships, memberships};

    use crate::sink::tables::{self, Table, tests::batch};

    /// Profile ids like the real ones: ClickHouse takes them for numbers.
    const A: &str = "a0000000000000000000000000000001";
    const B: &str = "b0000000000000000000000000000002";
    const C: &str = "c0000000000000000000000000000003";
    const D: &str = "00000000000000000000000000000004";
    const E: &str = "e0000000000000000000000000000000";
    const F: &str = "ffffffffffffffffffffffffffffffff";
    const P: &str = "01234567890123456789012345678901";

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
                        ("profile_id", vec![Some(P), Some(A), Some(B), Some(C), Some(C), Some(C), None]),
                    ],
                ),
                rows(
                    &identifiers,
                    1,
                    &[
                        ("type", some(&["email", "email", "email", "email"])),
                        ("value", some(&["a", "b", "c", "banned"])),
                        ("profile_id", some(&[A, B, C, C])),
                    ],
                ),
            ],
            // a and b become c.
            vec![rows(&merges, 2, &[("old_profile_id", some(&[A, B])), ("profile_id", some(&[C, C]))])],
            // b lives again, d is new: some events go to them. One identifier is banned, one event struck.
            vec![
                rows(&merges, 3, &[("old_profile_id", some(&[B])), ("profile_id", some(&[B]))]),
                rows(
                    &moves,
                    3,
                    &[
                        ("event_batch", some(&["1", "1", "1"])),
                        ("event_seq", some(&["3", "4", "5"])),
                        ("profile_id", vec![Some(D), None, Some(B)]),
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
                rows(&merges, 4, &[("old_profile_id", some(&[D])), ("profile_id", some(&[E]))]),
                rows(
                    &moves,
                    4,
                    &[("event_batch", some(&["1"])), ("event_seq", some(&["5"])), ("profile_id", some(&[F]))],
                ),
            ],
        ];
        (vec![events, identifiers, merges, moves], commits)
    }

    /// Profile → its events in the end.
    pub(crate) const EVENTS_OF: [(&str, &[&str]); 7] =
        [(A, &[]), (B, &["split"]), (C, &["merged"]), (D, &[]), (E, &["moved"]), (F, &["twice"]), (P, &["plain"])];

    /// Query, answer as CSV without its header, and why.
    pub(crate) const CORRECTED: [(&str, &str, &str); 5] = [
        (
            "SELECT message_id, substr(profile_id, 1, 2) FROM current_events ORDER BY message_id",
            "merged,c0\nmoved,e0\nnobody,\nplain,01\nsplit,b0\nstruck,\ntwice,ff",
            "a correction counts before merges, and merges after it apply",
        ),
        (
            "SELECT message_id FROM current_events WHERE profile_id = 'e0000000000000000000000000000000'",
            "moved",
            "found by the id of now",
        ),
        ("SELECT count(*) FROM current_events WHERE profile_id IS NULL", "2", "never anybody's, and no longer"),
        (
            "SELECT substr(old_profile_id, 1, 2), substr(profile_id, 1, 2) FROM profile_ids ORDER BY 1",
            "00,e0\na0,c0",
            "b came back to life",
        ),
        (
            "SELECT value, substr(profile_id, 1, 2) FROM current_identifiers ORDER BY value",
            "a,c0\nb,b0\nc,c0",
            "a banned identifier is nobody's",
        ),
    ];
}
