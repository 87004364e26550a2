//! What dashboards ask most: views of the same names and columns in both engines. In ClickHouse they add up tables that
//! materialized views keep (`clickhouse/rollups.rs`), in the lake the rows themselves.

use super::{Dialect, events_of_people, latest_moves, merged_keys, settings};
use crate::activation::EMITTED;

/// Events by minute, type, name (of what is not a track event: its type) and source.
pub(super) fn events_by_minute(dialect: Dialect) -> String {
    let rows = match dialect {
        Dialect::ClickHouse => {
            "(SELECT minute, type, event, source, arraySum(mapValues(events)) AS events FROM events_by_minute__rollup FINAL) AS r"
        }
        Dialect::DataFusion => {
            "(SELECT date_trunc('minute', e.timestamp) AS minute, e.type AS type, coalesce(e.event, e.type) AS event, \
             e.source AS source, 1 AS events FROM events AS e) AS r"
        }
    };
    format!(
        "SELECT r.minute AS minute, r.type AS type, r.event AS event, r.source AS source, \
         CAST(sum(r.events) AS BIGINT) AS events FROM {rows} GROUP BY r.minute, r.type, r.event, r.source"
    )
}

/// Attempts to deliver by hour.
pub(super) fn delivery_outcomes(dialect: Dialect) -> String {
    let rows = match dialect {
        Dialect::ClickHouse => {
            "(SELECT hour, activation, destination, outcome, arraySum(mapValues(attempts)) AS attempts \
             FROM delivery_outcomes__rollup FINAL) AS r"
        }
        Dialect::DataFusion => {
            "(SELECT date_trunc('hour', d.attempted_at) AS hour, d.activation AS activation, d.destination AS destination, \
             d.outcome AS outcome, 1 AS attempts FROM deliveries AS d) AS r"
        }
    };
    format!(
        "SELECT r.hour AS hour, r.activation AS activation, r.destination AS destination, r.outcome AS outcome, \
         CAST(sum(r.attempts) AS BIGINT) AS attempts FROM {rows} GROUP BY r.hour, r.activation, r.destination, r.outcome"
    )
}

/// Changes of an hour by segment, and the members at its end. Every row of `segment_changes` counts as what it is, merges
/// and splits among them, so the last row of a segment says how many rows `segment_members` has of it.
pub(super) fn segment_sizes(dialect: Dialect) -> String {
    let rows = match dialect {
        Dialect::ClickHouse => {
            "(SELECT segment, hour, arraySum(mapValues(entered)) AS entered, arraySum(mapValues(exited)) AS exited \
             FROM segment_sizes__rollup FINAL) AS r"
        }
        Dialect::DataFusion => {
            "(SELECT c.segment AS segment, date_trunc('hour', c.changed_at) AS hour, \
             CASE WHEN c.change = 'entered' THEN 1 ELSE 0 END AS entered, \
             CASE WHEN c.change = 'entered' THEN 0 ELSE 1 END AS exited FROM segment_changes AS c) AS r"
        }
    };
    format!(
        "SELECT h.segment AS segment, h.hour AS hour, h.entered AS entered, h.exited AS exited, \
         CAST(sum(h.entered - h.exited) OVER (PARTITION BY h.segment ORDER BY h.hour) AS BIGINT) AS members \
         FROM (SELECT r.segment AS segment, r.hour AS hour, CAST(sum(r.entered) AS BIGINT) AS entered, \
         CAST(sum(r.exited) AS BIGINT) AS exited FROM {rows} GROUP BY r.segment, r.hour) AS h"
    )
}

/// Orders and refunds by day and currency, without those that a correction struck out.
pub(super) fn daily_revenue(dialect: Dialect) -> String {
    let rows = match dialect {
        Dialect::ClickHouse => "daily_revenue__rollup AS r FINAL".to_string(),
        Dialect::DataFusion => {
            let first = |key: &str| {
                format!(
                    "WHEN left(JSONExtractRaw(properties, '{key}'), 1) IN ('-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9') \
                     THEN JSONExtractFloat(properties, '{key}')"
                )
            };
            let amount = ["revenue", "total", "value"].map(first).join(" ");
            format!(
                "(SELECT CAST(e.timestamp AS DATE) AS day, coalesce(JSONExtractString(e.properties, 'currency'), '') AS currency, \
                 e.event AS event, e._batch AS _batch, e._seq AS _seq, \
                 CAST(floor((CASE WHEN abs(e.amount) <= 1e12 THEN e.amount ELSE 0 END) * 1000000 + 0.5) AS BIGINT) AS micros \
                 FROM (SELECT *, CASE {amount} ELSE 0 END AS amount FROM events WHERE event IN ('Order Completed', 'Order Refunded') \
                 AND coalesce(identity_decision, '') <> 'struck') AS e) AS r"
            )
        }
    };
    let count = |event: &str| format!("CAST(sum(CASE WHEN r.event = '{event}' THEN 1 ELSE 0 END) AS BIGINT)");
    let sum = |event: &str| {
        format!(
            "CAST(sum(CAST(CASE WHEN r.event = '{event}' THEN r.micros ELSE 0 END AS DECIMAL(38, 0))) AS DOUBLE) / 1000000"
        )
    };
    format!(
        "SELECT r.day AS day, r.currency AS currency, {} AS orders, {} AS revenue, {} AS refunds, {} AS refunded \
         FROM {rows} LEFT JOIN (SELECT m.event_batch AS event_batch, m.event_seq AS event_seq FROM event_moves AS m \
         WHERE m.cause = 'strike' AND m.profile_id IS NULL) AS s ON r._batch = s.event_batch AND r._seq = s.event_seq \
         WHERE coalesce(s.event_batch, 0) = 0 GROUP BY r.day, r.currency",
        count("Order Completed"),
        sum("Order Completed"),
        count("Order Refunded"),
        sum("Order Refunded"),
    )
}

/// How many people did something, by day, week (from Monday) and month: by the profile that is valid now.
pub(super) fn active_profiles(dialect: Dialect) -> String {
    let (rows, people) = match dialect {
        Dialect::ClickHouse => (
            format!("({}) AS d LEFT ANY JOIN ({}) AS m ON d.profile_key = m.id", active_days(), merged_keys()),
            "toInt64(uniqExact(if(m.now = 0, d.profile_key, m.now)))",
        ),
        Dialect::DataFusion => (
            format!(
                "(SELECT CAST(c.timestamp AS DATE) AS day, c.profile_id AS profile_id FROM ({}) AS c \
                 WHERE c.profile_id IS NOT NULL AND c.source <> '{EMITTED}') AS d",
                events_of_people(dialect)
            ),
            "count(DISTINCT d.profile_id)",
        ),
    };
    let periods = ["day", "week", "month"].map(|period| {
        let start = match (period, dialect) {
            ("day", _) => "d.day".to_string(),
            (_, Dialect::ClickHouse) => format!("date_trunc('{period}', d.day)"),
            (_, Dialect::DataFusion) => format!("CAST(date_trunc('{period}', d.day) AS DATE)"),
        };
        format!("SELECT '{period}' AS period, {start} AS start, {people} AS people FROM {rows} GROUP BY {start}")
    });
    format!("{}{}", periods.join(" UNION ALL "), settings(dialect))
}

/// Days and profiles, in ClickHouse. The set stands for all events but those of whom a correction has moved any: theirs are few, and
/// are read anew. So a profile that lost all of its events of a day is not active on it any more.
fn active_days() -> String {
    const PLACES: &str = "SELECT event_batch, event_seq FROM event_moves";
    let moved = format!("e._batch IN (SELECT event_batch FROM event_moves) AND (e._batch, e._seq) IN ({PLACES})");
    let touched = format!("SELECT e.profile_id FROM events AS e WHERE {moved} AND e.profile_id IS NOT NULL");
    let key = |id: &str| format!("reinterpretAsUInt128(unhex(assumeNotNull({id})))");
    let (own, touched_key, new) = (key("e.profile_id"), key("t.profile_id"), key("v.profile_id"));
    let moves = latest_moves(Dialect::ClickHouse);
    format!(
        "SELECT r.day AS day, r.profile_key AS profile_key FROM active_profiles__rollup AS r \
         WHERE r.profile_key NOT IN (SELECT {touched_key} FROM ({touched}) AS t) \
         UNION ALL SELECT toDate32(e.timestamp) AS day, {own} AS profile_key FROM events AS e \
         WHERE e.profile_id IN ({touched}) AND (e._batch, e._seq) NOT IN ({PLACES}) AND e.source <> '{EMITTED}' \
         UNION ALL SELECT toDate32(e.timestamp) AS day, {new} AS profile_key FROM events AS e \
         INNER JOIN ({moves}) AS v ON e._batch = v.event_batch AND e._seq = v.event_seq \
         WHERE {moved} AND v.profile_id IS NOT NULL AND e.source <> '{EMITTED}'"
    )
}

#[cfg(test)]
pub(crate) mod tests;
