//! Paths: what people do next, or what they have done before; and how often one thing follows another.

use super::{EventFilter, Sql};
use crate::event::TimeUs;

#[derive(Debug, Clone)]
pub struct PathsPlan {
    /// The events that paths are made of; the same event several times in a row is one.
    pub of: EventFilter,
    /// Paths begin with the first of these, or end with it.
    pub anchor: EventFilter,
    pub is_end: bool,
    /// Events after the anchor, or before it.
    pub length: u32,
    /// Only events within so long of the anchor.
    pub within_us: Option<TimeUs>,
    /// The most frequent so many.
    pub top: u32,
}

#[derive(Debug, Clone)]
pub struct TransitionsPlan {
    /// The events that are looked at; the same event several times in a row is one.
    pub of: EventFilter,
    /// What comes later than so long after an event does not follow it.
    pub within_us: Option<TimeUs>,
    /// The most frequent so many.
    pub top: u32,
}

/// A person's events in order.
const IN_ORDER: &str = "PARTITION BY v.profile_id ORDER BY v.\"timestamp\", v.message_id";

/// A value of the event so many places away, null where there is none.
fn at(offset: u32, side: &str, of: &str) -> String {
    format!("first_value({of}) OVER ({IN_ORDER} ROWS BETWEEN {offset} {side} AND {offset} {side})")
}

/// The name of the event so many places away; empty where there is none, or only one that is further away than so long.
fn near(offset: u32, is_before: bool, within_us: Option<TimeUs>) -> String {
    let time = "toUnixTimestamp64Micro(v.\"timestamp\")";
    let side = if is_before { "PRECEDING" } else { "FOLLOWING" };
    let name = format!("coalesce({}, '')", at(offset, side, "v.event"));
    let Some(within_us) = within_us else { return name };
    let other = format!("coalesce({}, toInt64(0))", at(offset, side, time));
    let apart = if is_before { format!("{time} - {other}") } else { format!("{other} - {time}") };
    format!("CASE WHEN {apart} <= {within_us} THEN {name} ELSE '' END")
}

/// `collapsed`: the events of which none repeats the one before it.
fn collapsed() -> String {
    format!(
        "collapsed AS (\n  SELECT v.* FROM (SELECT v.*, coalesce({}, '') AS event_before FROM event_values AS v) AS v \
         WHERE v.event <> v.event_before\n)",
        at(1, "PRECEDING", "v.event")
    )
}

impl Sql<'_> {
    /// Columns: `path` (names joined with ` > `, in order of time; the last is empty where nothing more came), `people`, `share` of 1.
    pub(super) fn paths(&self, plan: &PathsPlan) -> String {
        let mut columns = vec![("is_anchor", self.is(&plan.anchor))];
        columns.extend(self.by().map(|by| ("by", by)));
        let either = format!("({}) OR ({})", self.is(&plan.of), self.is(&plan.anchor));
        let events = self.events(&self.expressions(&[&plan.of, &plan.anchor]), &columns, Some(&either));
        let steps: Vec<String> = (1..=plan.length)
            .map(|step| format!("{} AS step_{step}", near(step, plan.is_end, plan.within_us)))
            .collect();
        let mut parts = vec!["n.event".to_string()];
        for step in 1..=plan.length {
            // What follows an end is not looked at.
            let part = if plan.is_end { format!("n.step_{step}, ' > '") } else { format!("' > ', n.step_{step}") };
            let part = format!("CASE WHEN n.step_{step} <> '' THEN concat({part}) ELSE '' END");
            match plan.is_end {
                true => parts.insert(0, part),
                false => parts.push(part),
            }
        }
        let path = format!("concat({})", parts.join(", "));
        let (by, by_key, by_order) = match self.plan.by.is_some() {
            true => ("n.\"by\" AS \"by\", ", "n.\"by\", ", "\"by\", "),
            false => ("", "", ""),
        };
        let over = if by.is_empty() { "" } else { "PARTITION BY n.\"by\"" };
        let v_by = if by.is_empty() { "" } else { "v.\"by\" AS \"by\", " };
        format!(
            "WITH {events},\n{collapsed},\nnear AS (\n  SELECT {v_by}v.profile_id AS profile_id, v.event AS event, v.is_anchor AS is_anchor, \
             row_number() OVER (PARTITION BY v.profile_id, v.is_anchor ORDER BY v.\"timestamp\", v.message_id) AS place, {steps} \
             FROM collapsed AS v\n)\nSELECT {by}{path} AS path, count(*) AS people, count(*) / toFloat64(sum(count(*)) OVER ({over})) AS share\n\
             FROM near AS n WHERE n.is_anchor AND n.place = 1 GROUP BY {by_key}{path}\nORDER BY {by_order}people DESC, path\nLIMIT {top}",
            collapsed = collapsed(),
            steps = steps.join(", "),
            top = plan.top,
        )
    }

    /// Columns: `event`, `next_event` (empty where nothing followed), `times`, `people`, `share` of the times of `event`.
    pub(super) fn transitions(&self, plan: &TransitionsPlan) -> String {
        let columns: Vec<(&str, String)> = self.by().map(|by| ("by", by)).into_iter().collect();
        let events = self.events(&self.expressions(&[&plan.of]), &columns, Some(&self.is(&plan.of)));
        let (v_by, by, key, order) = match self.plan.by.is_some() {
            true => ("v.\"by\" AS \"by\", ", "n.\"by\" AS \"by\", ", "n.\"by\", ", "\"by\", "),
            false => ("", "", "", ""),
        };
        format!(
            "WITH {events},\n{collapsed},\nnear AS (\n  SELECT {v_by}v.profile_id AS profile_id, v.event AS event, {next} AS next_event FROM collapsed AS v\n)\n\
             SELECT {by}n.event AS event, n.next_event AS next_event, count(*) AS times, count(DISTINCT n.profile_id) AS people, \
             count(*) / toFloat64(sum(count(*)) OVER (PARTITION BY {key}n.event)) AS share\nFROM near AS n GROUP BY {key}n.event, n.next_event\n\
             ORDER BY {order}times DESC, event, next_event\nLIMIT {top}",
            collapsed = collapsed(),
            next = near(1, false, plan.within_us),
            top = plan.top,
        )
    }
}
