//! Paths: what people do next, or what they have done before.

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

impl Sql<'_> {
    /// Columns: `path` (names joined with ` > `, in order of time; the last is empty where nothing more came), `people`, `share` of 1.
    pub(super) fn paths(&self, plan: &PathsPlan) -> String {
        let mut columns = vec![("is_anchor", self.is(&plan.anchor))];
        columns.extend(self.by().map(|by| ("by", by)));
        let either = format!("({}) OR ({})", self.is(&plan.of), self.is(&plan.anchor));
        let events = self.events(&self.expressions(&[&plan.of, &plan.anchor]), &columns, Some(&either));
        let order = "PARTITION BY v.profile_id ORDER BY v.\"timestamp\", v.message_id";
        let at = |offset: u32, side: &str, of: &str| {
            format!("first_value({of}) OVER ({order} ROWS BETWEEN {offset} {side} AND {offset} {side})")
        };
        let time = "toUnixTimestamp64Micro(v.\"timestamp\")";
        let side = if plan.is_end { "PRECEDING" } else { "FOLLOWING" };
        let near = |step: u32| {
            let name = format!("coalesce({}, '')", at(step, side, "v.event"));
            let Some(within_us) = plan.within_us else { return name };
            let other = format!("coalesce({}, toInt64(0))", at(step, side, time));
            let apart = if plan.is_end { format!("{time} - {other}") } else { format!("{other} - {time}") };
            format!("CASE WHEN {apart} <= {within_us} THEN {name} ELSE '' END")
        };
        let steps: Vec<String> = (1..=plan.length).map(|step| format!("{} AS step_{step}", near(step))).collect();
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
            "WITH {events},\ncollapsed AS (\n  SELECT v.* FROM (SELECT v.*, coalesce({before}, '') AS event_before FROM event_values AS v) AS v \
             WHERE v.event <> v.event_before\n),\nnear AS (\n  SELECT {v_by}v.profile_id AS profile_id, v.event AS event, v.is_anchor AS is_anchor, \
             row_number() OVER (PARTITION BY v.profile_id, v.is_anchor ORDER BY v.\"timestamp\", v.message_id) AS place, {steps} \
             FROM collapsed AS v\n)\nSELECT {by}{path} AS path, count(*) AS people, count(*) / toFloat64(sum(count(*)) OVER ({over})) AS share\n\
             FROM near AS n WHERE n.is_anchor AND n.place = 1 GROUP BY {by_key}{path}\nORDER BY {by_order}people DESC, path\nLIMIT {top}",
            before = at(1, "PRECEDING", "v.event"),
            steps = steps.join(", "),
            top = plan.top,
        )
    }
}
