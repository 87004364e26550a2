//! The views: the same names and the same meaning in ClickHouse and in the lake, from the same definitions.
//!
//! Each is one `SELECT` in the dialect of its engine. "Latest" is always by (`_batch`, `_seq`).

mod dashboards;
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
    // Others read `profile_ids` and `session_ids`, so those come first whatever the order of the tables.
    let has = |kind| tables.iter().any(|table| table.kind == kind);
    let merges = has(TableKind::ProfileMerges);
    if merges {
        let shown = ["profile_id", "cause", "merged_at"];
        // An id that names itself came back to life.
        let only = Some(("profile_id", "<> old_profile_id"));
        views.push(view("profile_ids", latest(dialect, &tables::profile_merges(), &["old_profile_id"], &shown, only)));
    }
    let sessions = has(TableKind::Sessions);
    if sessions {
        let shown = ["chain_id", "merged_into", "started_at", "first_message_id"];
        views.push(view("session_ids", latest(dialect, &tables::sessions(), &["session_id"], &shown, None)));
    }
    for table in tables {
        match table.kind {
            TableKind::Events => {
                let moves = has(TableKind::EventMoves);
                if merges {
                    views.push(view("current_events", current_events(dialect, table, moves, sessions)));
                    if dialect == Dialect::ClickHouse {
                        views.push(view("profile_events", profile_events(table, moves, sessions)));
                    }
                }
                views.push(view("events_by_minute", dashboards::events_by_minute(dialect)));
                if moves {
                    views.push(view("daily_revenue", dashboards::daily_revenue(dialect)));
                }
                if merges && moves {
                    views.push(view("active_profiles", dashboards::active_profiles(dialect)));
                }
            }
            TableKind::Sessions => {
                views.push(view("current_sessions", current_sessions(dialect, table, merges)));
            }
            TableKind::Profiles => {
                let shown: Vec<&str> = columns(table)
                    .map(|field| field.name().as_str())
                    .filter(|name| !["profile_id", "deleted"].contains(name))
                    .collect();
                let sql = latest(dialect, table, &["profile_id"], &shown, Some(("deleted", "= false")));
                views.push(view("current_profiles", sql));
            }
            TableKind::Groups => {
                let shown: Vec<&str> = columns(table)
                    .map(|field| field.name().as_str())
                    .filter(|name| !["group_id", "deleted"].contains(name))
                    .collect();
                let sql = latest(dialect, table, &["group_id"], &shown, Some(("deleted", "= false")));
                views.push(view(&format!("current_{}", table.name), sql));
            }
            TableKind::GroupSegmentChanges => {
                let entered = Some(("change", "= 'entered'"));
                let keys = ["group_type", "segment", "group_id"];
                views.push(view("group_segment_members", latest(dialect, table, &keys, &["changed_at"], entered)));
            }
            TableKind::Identifiers => {
                views.push(view("current_identifiers", current_identifiers(dialect, table, merges)));
            }
            TableKind::SegmentChanges => {
                let entered = Some(("change", "= 'entered'"));
                let members = latest(dialect, table, &["segment", "profile_id"], &["changed_at"], entered);
                views.push(view("segment_members", members));
                views.push(view("segment_sizes", dashboards::segment_sizes(dialect)));
                views.push(view("segment_overlap", memberships::SEGMENT_OVERLAP.to_string()));
            }
            TableKind::Definitions => {
                let shown = ["version", "ready", "changed_at"];
                let sql = latest(dialect, table, &["kind", "name"], &shown, Some(("removed", "= false")));
                views.push(view("current_definitions", sql));
            }
            TableKind::Aggregate => views.extend(table.aggregate_name().map(|name| view(name, combined(table)))),
            TableKind::Deliveries => {
                views.push(view("delivery_outcomes", dashboards::delivery_outcomes(dialect)));
            }
            TableKind::ProfileMerges
            | TableKind::IdentityConflicts
            | TableKind::EventMoves
            | TableKind::StageChanges
            | TableKind::JourneySteps
            | TableKind::RfmBorders
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

/// `current_events` with the sessions as they were stored: the search for those that late events have moved takes most of its time
/// in the lake.
pub fn events_of_people(dialect: Dialect) -> String {
    current_events(dialect, &tables::events(), true, false)
}

/// Events under the profile id that is valid now: where a correction moved the event, else where it was put, and from
/// there through the merges; and in the session that they belong to now.
fn current_events(dialect: Dialect, table: &Table, moves: bool, sessions: bool) -> String {
    let (own, join) = valid_now(dialect, "e.profile_id");
    let (own_session, session) = session_of(dialect, sessions, &Place::EVENTS);
    let (profile, session_id, moved) = match moves {
        true => {
            let (not_moved, moved) = moved(dialect, sessions);
            let or = |own: &str, name: &str| format!("CASE WHEN {not_moved} THEN {own} ELSE v.{name} END");
            (or(&own, "profile_id"), or(&own_session, "session_id"), moved)
        }
        false => (own, own_session, String::new()),
    };
    let items = event_items(table, &profile, &session_id);
    format!(
        "SELECT {items}, e._batch AS _batch, e._seq AS _seq FROM events AS e{join}{moved}{session}{}",
        settings(dialect)
    )
}

/// The columns of events `e` in this profile and session.
fn event_items(table: &Table, profile: &str, session: &str) -> String {
    let items: Vec<String> = columns(table)
        .map(|field| match field.name().as_str() {
            "profile_id" => format!("{profile} AS profile_id"),
            "session_id" => format!("{session} AS session_id"),
            name => format!("e.{0} AS {0}", quoted(name)),
        })
        .collect();
    items.join(", ")
}

/// Where events stand with `timestamp`, `message_id` and a `session_id`: a table or query, how it is called in a join, and the
/// columns that name the event.
struct Place<'a> {
    rows: &'a str,
    alias: &'a str,
    batch: &'a str,
    seq: &'a str,
}

impl Place<'static> {
    const EVENTS: Place<'static> = Place { rows: "events", alias: "e", batch: "_batch", seq: "_seq" };
}

/// The session that an event is in now, and the join that it needs, if there are sessions at all.
fn session_of(dialect: Dialect, sessions: bool, place: &Place) -> (String, String) {
    if sessions { session_now(dialect, place) } else { (format!("{}.session_id", place.alias), String::new()) }
}

/// The session that an event is in now, and the join that it needs. The stored id leads to the first session of its
/// chain in one step. Where late campaigns cut the chain, it is the last session of it that began before the event. Both are
/// rare, so the engines first look for the ids that it happened to.
fn session_now(dialect: Dialect, place: &Place) -> (String, String) {
    let Place { rows, alias, batch, seq } = place;
    const MOVED: &str = "SELECT session_id, chain_id, merged_into, started_at, first_message_id FROM session_ids \
         WHERE session_id IN (SELECT session_id FROM sessions WHERE chain_id IS NOT NULL) AND chain_id IS NOT NULL";
    let cuts = format!("{MOVED} AND merged_into IS NULL");
    let chained = format!(
        "SELECT session_id, coalesce(chain_id, session_id) AS chain_id FROM session_ids WHERE session_id IN \
         (SELECT session_id FROM sessions WHERE chain_id IN (SELECT chain_id FROM ({cuts}) AS u) \
         UNION ALL SELECT chain_id FROM ({cuts}) AS w)"
    );
    let candidates = format!(
        "FROM (SELECT * FROM {rows} WHERE session_id IN (SELECT session_id FROM ({chained}) AS y)) AS x \
         INNER JOIN ({chained}) AS h ON x.session_id = h.session_id INNER JOIN ({cuts}) AS k ON h.chain_id = k.chain_id \
         WHERE k.started_at < x.timestamp OR (k.started_at = x.timestamp AND k.first_message_id <= x.message_id)"
    );
    let (any, none, cut) = match dialect {
        Dialect::ClickHouse => (
            "ANY ",
            "nullIf(c.session_id, '')",
            format!(
                "SELECT x.{batch} AS _batch, x.{seq} AS _seq, \
                 argMax(k.session_id, (k.started_at, k.first_message_id)) AS session_id {candidates} GROUP BY x.{batch}, x.{seq}"
            ),
        ),
        Dialect::DataFusion => (
            "",
            "c.session_id",
            format!(
                "SELECT _batch, _seq, session_id FROM (SELECT x.{batch} AS _batch, x.{seq} AS _seq, k.session_id AS session_id, \
                 row_number() OVER (PARTITION BY x.{batch}, x.{seq} ORDER BY k.started_at DESC, k.first_message_id DESC) AS _age \
                 {candidates}) AS numbered WHERE _age = 1"
            ),
        ),
    };
    (
        format!("coalesce({none}, s.chain_id, {alias}.session_id)"),
        format!(
            " LEFT {any}JOIN ({MOVED}) AS s ON {alias}.session_id = s.session_id \
             LEFT {any}JOIN ({cut}) AS c ON {alias}.{batch} = c._batch AND {alias}.{seq} = c._seq"
        ),
    )
}

/// The sessions that stand, under the profile id that is valid now: a merge of profiles moves none of their rows.
fn current_sessions(dialect: Dialect, table: &Table, merges: bool) -> String {
    let names: Vec<&str> = columns(table).map(|field| field.name().as_str()).collect();
    let shown: Vec<&str> = names.iter().copied().filter(|name| !["session_id", "merged_into"].contains(name)).collect();
    let latest = latest(dialect, table, &["session_id"], &shown, Some(("merged_into", "IS NULL")));
    if !merges {
        return latest;
    }
    let (now, join) = valid_now(dialect, "i.profile_id");
    let items: Vec<String> = names
        .iter()
        .filter(|name| **name != "merged_into")
        .map(|name| match *name {
            "profile_id" => format!("{now} AS profile_id"),
            name => format!("i.{0} AS {0}", quoted(name)),
        })
        .collect();
    format!("SELECT {} FROM ({latest}) AS i{join}{}", items.join(", "), settings(dialect))
}

/// Whether an event `e` was not moved, and a join that has the profile and the session of now of those that were, as `v`. The
/// merges are applied to the moved ones on their own: so the join of all events with the merges is by a column of the events, and
/// the engine may filter by it what it reads of the merges. It is the same with sessions.
fn moved(dialect: Dialect, sessions: bool) -> (String, String) {
    let moves = latest_moves(dialect);
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
    let rows = format!("({moves}) AS q");
    let place = Place { rows: &rows, alias: "l", batch: "event_batch", seq: "event_seq" };
    let (session, join) = session_of(dialect, sessions, &place);
    let moves = format!(
        "SELECT l.event_batch AS event_batch, l.event_seq AS event_seq, {session} AS session_id, \
         CASE WHEN {not_merged} THEN l.profile_id ELSE i.profile_id END AS profile_id \
         FROM ({moves}) AS l LEFT {any}JOIN {ids} AS i ON l.profile_id = i.old_profile_id{join}"
    );
    (
        not_moved.to_string(),
        format!(" LEFT {any}JOIN ({moves}) AS v ON e._batch = v.event_batch AND e._seq = v.event_seq"),
    )
}

fn latest_moves(dialect: Dialect) -> String {
    let shown = ["profile_id", "session_id", "timestamp", "message_id"];
    latest(dialect, &tables::event_moves(), &["event_batch", "event_seq"], &shown, None)
}

/// The rows of `current_events` of one profile, given as a parameter. The profile of now is computed, so a condition on it
/// can use no index; here the ids that became this profile are found first, then their events by the index.
fn profile_events(table: &Table, moves: bool, sessions: bool) -> String {
    const ID: &str = "{profile_id:String}";
    let profile = format!("toNullable({ID})");
    let select = |session_id: &str, join: &str| {
        let items = event_items(table, &profile, session_id);
        format!("SELECT {items}, e._batch AS _batch, e._seq AS _seq FROM events AS e{join} WHERE")
    };
    let (session_id, join) = session_of(Dialect::ClickHouse, sessions, &Place::EVENTS);
    let stayed = select(&session_id, &join);
    // Itself if it is still there, and the ids whose latest merge leads here.
    let ids = format!(
        "SELECT {ID} WHERE {ID} NOT IN (SELECT old_profile_id FROM profile_ids WHERE old_profile_id = {ID}) \
         UNION ALL SELECT old_profile_id FROM profile_ids WHERE profile_id = {ID} AND old_profile_id IN \
         (SELECT old_profile_id FROM profile_merges WHERE profile_id = {ID})"
    );
    if !moves {
        return format!("{stayed} e.profile_id IN ({ids})");
    }
    let latest = latest_moves(Dialect::ClickHouse);
    let moved = select("v.session_id", &moved(Dialect::ClickHouse, sessions).1);
    let here = format!(
        "FROM ({latest}) WHERE profile_id IN ({ids}) AND (event_batch, event_seq) IN \
         (SELECT event_batch, event_seq FROM event_moves WHERE profile_id IN ({ids}))"
    );
    format!(
        "{stayed} e.profile_id IN ({ids}) AND (e._batch, e._seq) NOT IN (SELECT event_batch, event_seq FROM event_moves) \
         UNION ALL {moved} e._batch IN (SELECT event_batch {here}) AND (e._batch, e._seq) IN (SELECT event_batch, event_seq {here})"
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
        // Ids as numbers: half the memory of `profile_ids`, and half the time.
        Dialect::ClickHouse => (
            format!("if(m.now = 0, {id}, lower(hex(reinterpretAsFixedString(m.now))))"),
            format!(" LEFT ANY JOIN ({}) AS m ON reinterpretAsUInt128(unhex(ifNull({id}, ''))) = m.id", merged_keys()),
        ),
        Dialect::DataFusion => {
            (format!("coalesce(m.profile_id, {id})"), format!(" LEFT JOIN profile_ids AS m ON {id} = m.old_profile_id"))
        }
    }
}

/// The key of each id that was merged, and that of the profile that is valid now, in ClickHouse. An id that came back to life is found as
/// itself.
fn merged_keys() -> String {
    format!("SELECT t.old_key AS id, argMax(t.new_key, {VERSION}) AS now FROM profile_merges AS t GROUP BY t.old_key")
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

    pub(crate) use super::dashboards::tests::{Traffic, traffic};
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

    /// Sessions that late events join and cut, commit by commit; the answers are in [`SESSIONS`].
    pub(crate) fn late_events() -> (Vec<Table>, Vec<Vec<(Table, RecordBatch)>>) {
        let (events, sessions) = (tables::events(), tables::sessions());
        let (merges, moves) = (tables::profile_merges(), tables::event_moves());
        let rows =
            |table: &Table, commit, given: &[(&str, Vec<Option<&str>>)]| (table.clone(), batch(table, commit, given));
        // Id, second of its start, first message id, the id it was merged into, its chain.
        type Row = (&'static str, &'static str, &'static str, Option<&'static str>, Option<&'static str>);
        let of = |commit, versions: &[Row]| {
            let each = |value: fn(&Row) -> Option<&'static str>| versions.iter().map(value).collect::<Vec<_>>();
            let starts: Vec<String> = versions.iter().map(|row| format!("2026-01-01T00:00:{}Z", row.1)).collect();
            rows(
                &sessions,
                commit,
                &[
                    ("session_id", each(|row| Some(row.0))),
                    ("started_at", starts.iter().map(|start| Some(start.as_str())).collect()),
                    ("first_message_id", each(|row| Some(row.2))),
                    ("merged_into", each(|row| row.3)),
                    ("chain_id", each(|row| row.4)),
                    ("profile_id", versions.iter().map(|_| Some(A)).collect()),
                ],
            )
        };
        // Message id, second, the session it was stored in.
        let stored = |commit, given: &[(&'static str, &'static str, Option<&'static str>)]| {
            let times: Vec<String> = given.iter().map(|row| format!("2026-01-01T00:00:{}Z", row.1)).collect();
            rows(
                &events,
                commit,
                &[
                    ("message_id", given.iter().map(|row| Some(row.0)).collect()),
                    ("timestamp", times.iter().map(|time| Some(time.as_str())).collect()),
                    ("session_id", given.iter().map(|row| row.2).collect()),
                    ("profile_id", given.iter().map(|_| Some(A)).collect()),
                ],
            )
        };
        let commits = vec![
            vec![
                stored(
                    1,
                    &[
                        ("plain", "00", Some("plain")),
                        ("none", "00", None),
                        ("bridged", "20", Some("second")),
                        ("s1", "30", Some("whole")),
                        ("a-tie", "35", Some("whole")),
                        ("z-tie", "35", Some("whole")),
                        ("s2", "39", Some("whole")),
                        ("reborn", "55", Some("reborn")),
                    ],
                ),
                of(
                    1,
                    &[
                        ("plain", "00", "plain", None, None),
                        ("first", "10", "first", None, None),
                        ("second", "20", "bridged", None, None),
                        ("whole", "30", "s1", None, None),
                        ("reborn", "55", "reborn", None, None),
                    ],
                ),
            ],
            // Two are one; one is cut; one got another first event.
            vec![
                stored(2, &[("cut", "35", Some("half")), ("front", "50", Some("front"))]),
                of(
                    2,
                    &[
                        ("second", "20", "bridged", Some("first"), Some("first")),
                        ("half", "35", "cut", None, Some("whole")),
                        ("front", "50", "front", None, None),
                        ("reborn", "55", "reborn", Some("front"), Some("front")),
                    ],
                ),
            ],
            // The cut one gets another first event, and an id that was gone stands again.
            vec![
                stored(3, &[("s0", "29", Some("start")), ("later", "56", Some("reborn"))]),
                of(
                    3,
                    &[
                        ("start", "29", "s0", None, None),
                        ("whole", "30", "s1", Some("start"), Some("start")),
                        ("half", "35", "cut", None, Some("start")),
                        ("reborn", "55", "reborn", None, Some("front")),
                    ],
                ),
                rows(&merges, 3, &[("old_profile_id", some(&[A])), ("profile_id", some(&[B]))]),
            ],
            // A correction strikes one event and puts two others into sessions that are not what they were.
            vec![
                of(4, &[("plain", "00", "plain", Some("plain"), None)]),
                rows(
                    &moves,
                    4,
                    &[
                        ("event_batch", some(&["1", "1", "1"])),
                        ("event_seq", some(&["0", "1", "6"])),
                        ("message_id", some(&["plain", "none", "s2"])),
                        ("timestamp", some(&["2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:39Z"])),
                        ("profile_id", vec![None, Some(A), Some(A)]),
                        ("session_id", vec![None, Some("second"), Some("whole")]),
                    ],
                ),
            ],
        ];
        (vec![events, sessions, merges, moves], commits)
    }

    pub(crate) const SESSIONS: [(&str, &str, &str); 4] = [
        (
            "SELECT message_id, session_id FROM current_events ORDER BY message_id",
            "a-tie,start\nbridged,first\ncut,half\nfront,front\nlater,reborn\nnone,first\nplain,\nreborn,reborn\n\
             s0,start\ns1,start\ns2,half\nz-tie,half",
            "one step to the chain, and there by (time, message id); the same from where a correction put them",
        ),
        (
            "SELECT message_id FROM current_events WHERE session_id = 'half' ORDER BY message_id",
            "cut\ns2\nz-tie",
            "found by the session of now",
        ),
        (
            "SELECT session_id, chain_id, substr(profile_id, 1, 2) FROM current_sessions ORDER BY session_id",
            "first,,b0\nfront,,b0\nhalf,start,b0\nreborn,front,b0\nstart,,b0",
            "without those that are gone, in the profile of now",
        ),
        (
            "SELECT session_id, merged_into FROM session_ids WHERE merged_into IS NOT NULL ORDER BY session_id",
            "plain,plain\nsecond,first\nwhole,start",
            "what became of an id",
        ),
    ];
}
