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

impl Sql<'_> {
    /// Columns: `path` (names joined with ` > `, in order of time), `people`, `share` of 1.
    ///
    /// Each person's events on the anchor's side are a list, cut at the anchor: sorting such lists takes a ninth of the time of
    /// windows over all events.
    pub(super) fn paths(&self, plan: &PathsPlan) -> String {
        let mut columns = vec![
            ("at_us", "toUnixTimestamp64Micro(e.\"timestamp\")".to_string()),
            ("name", "coalesce(e.event, '')".to_string()),
            ("is_anchor", self.is(&plan.anchor)),
        ];
        columns.extend(self.by().map(|by| ("by", by)));
        let either = format!("e.event <> '' AND (({}) OR ({}))", self.is(&plan.of), self.is(&plan.anchor));
        let events = self.events(&self.expressions(&[&plan.of, &plan.anchor]), &columns, Some(&either));
        let (is_on_side, apart) = match plan.is_end {
            true => ("v.at_us <= a.at_us", "a.at_us - v.at_us"),
            false => ("v.at_us >= a.at_us", "v.at_us - a.at_us"),
        };
        let is_near = plan.within_us.map_or_else(String::new, |within_us| format!(" AND {apart} <= {within_us}"));
        let anchor = "indexOf(tupleElement(l.events, 4), true)";
        let of_path = match plan.is_end {
            true => format!("arraySlice(l.events, 1, {anchor})"),
            false => format!("arraySlice(l.events, {anchor})"),
        };
        let names = format!("arrayCompact(tupleElement({of_path}, 3))");
        let names = match plan.is_end {
            true => format!("arraySlice({names}, -{})", plan.length + 1),
            false => format!("arraySlice({names}, 1, {})", plan.length + 1),
        };
        let (v_by, l_by, by, over) = match self.plan.by.is_some() {
            true => (
                ", v.\"by\"",
                format!("arrayElement(tupleElement(l.events, 5), {anchor}) AS \"by\", "),
                "p.\"by\", ",
                "PARTITION BY p.\"by\"",
            ),
            false => ("", String::new(), "", ""),
        };
        let p_by = if by.is_empty() { "" } else { "p.\"by\" AS \"by\", " };
        format!(
            "WITH {events},\nanchors AS (\n  SELECT v.profile_id AS profile_id, min(v.at_us) AS at_us FROM event_values AS v WHERE v.is_anchor \
             GROUP BY v.profile_id\n),\nlists AS (\n  SELECT v.profile_id AS profile_id, \
             arraySort(groupArray(tuple(v.at_us, v.message_id, v.name, v.is_anchor{v_by}))) AS events\n  FROM event_values AS v \
             INNER JOIN anchors AS a ON v.profile_id = a.profile_id WHERE {is_on_side}{is_near} GROUP BY v.profile_id\n),\npaths AS (\n  \
             SELECT {l_by}arrayStringConcat({names}, ' > ') AS path FROM lists AS l\n)\nSELECT {p_by}p.path AS path, count(*) AS people, \
             count(*) / toFloat64(sum(count(*)) OVER ({over})) AS share\nFROM paths AS p GROUP BY {by}p.path\nORDER BY {by}people DESC, path\n\
             LIMIT {top}",
            top = plan.top,
        )
    }

    /// Columns: `event`, `next_event` (empty where nothing followed), `times`, `people`, `share` of the times of `event`.
    pub(super) fn transitions(&self, plan: &TransitionsPlan) -> String {
        let mut columns = vec![
            ("at_us", "toUnixTimestamp64Micro(e.\"timestamp\")".to_string()),
            ("name", "coalesce(e.event, '')".to_string()),
        ];
        columns.extend(self.by().map(|by| ("by", by)));
        let only = format!("e.event <> '' AND {}", self.is(&plan.of));
        let events = self.events(&self.expressions(&[&plan.of]), &columns, Some(&only));
        let (v_by, by_list) = match self.plan.by.is_some() {
            true => (", v.\"by\"", ", tupleElement(l.events, 4)"),
            false => ("", ""),
        };
        let name = "tupleElement(p.pair, 1)";
        let next = match plan.within_us {
            Some(within_us) => format!(
                "CASE WHEN tupleElement(p.pair, 4) - tupleElement(p.pair, 2) <= {within_us} THEN tupleElement(p.pair, 3) ELSE '' END"
            ),
            None => "tupleElement(p.pair, 3)".to_string(),
        };
        let (p_by, by, key, order) = match self.plan.by.is_some() {
            true => ("tupleElement(p.pair, 5) AS \"by\", ", "n.\"by\" AS \"by\", ", "n.\"by\", ", "\"by\", "),
            false => ("", "", "", ""),
        };
        // The same event several times in a row is one: its last is the one that something else follows.
        format!(
            "WITH {events},\nlists AS (\n  SELECT v.profile_id AS profile_id, arraySort(groupArray(tuple(v.at_us, v.message_id, v.name{v_by}))) AS events\n  \
             FROM event_values AS v GROUP BY v.profile_id\n),\npairs AS (\n  SELECT l.profile_id AS profile_id, arrayJoin(arrayZip(tupleElement(l.events, 3), \
             tupleElement(l.events, 1), arrayPushBack(arraySlice(tupleElement(l.events, 3), 2), ''), \
             arrayPushBack(arraySlice(tupleElement(l.events, 1), 2), toInt64(0)){by_list})) AS pair FROM lists AS l\n),\nnexts AS (\n  \
             SELECT p.profile_id AS profile_id, {p_by}{name} AS event, {next} AS next_event FROM pairs AS p WHERE tupleElement(p.pair, 3) <> {name}\n)\n\
             SELECT {by}n.event AS event, n.next_event AS next_event, count(*) AS times, count(DISTINCT n.profile_id) AS people, \
             count(*) / toFloat64(sum(count(*)) OVER (PARTITION BY {key}n.event)) AS share\nFROM nexts AS n \
             GROUP BY {key}n.event, n.next_event\nORDER BY {order}times DESC, event, next_event\nLIMIT {top}",
            top = plan.top,
        )
    }
}
