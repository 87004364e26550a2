//! Segments over time and beside each other: how large they are, who goes from one to another, whom they share, and what
//! sets one apart.
//!
//! All of it is worked out of `segment_changes` under the ids of now: of somebody who was known by two ids, each of which was a
//! member, two rows entered and one left when they became one. So somebody is a member where more rows entered than left.

use super::{Period, Sql};
use crate::event::ValueType;
use crate::expression::Dialect;
use crate::sink::views::quoted;

#[derive(Debug, Clone)]
pub struct SizesPlan {
    /// All where it is empty; so in the others.
    pub segments: Vec<String>,
    pub every: Period,
}

#[derive(Debug, Clone)]
pub struct FlowPlan {
    pub segments: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct OverlapPlan {
    pub segments: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct LiftPlan {
    pub segment: String,
    /// Columns of `current_profiles`: texts, numbers, true or false.
    pub traits: Vec<(String, ValueType)>,
    /// The values that say most.
    pub top: u32,
}

impl Sql<'_> {
    /// `changes`: by how much somebody's rows entered more than left at a moment, up to the end of the range.
    fn changes(&self, segments: &[String]) -> String {
        let names: Vec<String> = segments.iter().map(|name| self.dialect.text(name)).collect();
        let mut tests = Vec::new();
        tests.extend((!names.is_empty()).then(|| format!("c.segment IN ({})", names.join(", "))));
        tests.extend(self.range.to.map(|to| format!("c.changed_at < {}", self.dialect.time(to))));
        let tests = if tests.is_empty() { String::new() } else { format!(" WHERE {}", tests.join(" AND ")) };
        format!(
            "changes AS (\n  SELECT x.segment AS segment, x.profile_id AS profile_id, x.changed_at AS changed_at, sum(x.delta) AS delta\n  \
             FROM (SELECT c.segment AS segment, coalesce(nullif(i.profile_id, ''), c.profile_id) AS profile_id, c.changed_at AS changed_at, \
             CASE WHEN c.change = 'entered' THEN 1 ELSE -1 END AS delta\n    FROM segment_changes AS c LEFT JOIN profile_ids AS i ON \
             c.profile_id = i.old_profile_id{tests}) AS x\n  GROUP BY x.segment, x.profile_id, x.changed_at\n)"
        )
    }

    /// `members` at the end of the range; of those, who entered within it.
    fn members(&self) -> String {
        let entered = self.range.from.map(|from| {
            let time = self.dialect.time(from);
            format!(" AND max(CASE WHEN c.delta > 0 THEN c.changed_at ELSE NULL END) >= {time}")
        });
        format!(
            "members AS (\n  SELECT c.segment AS segment, c.profile_id AS profile_id FROM changes AS c GROUP BY c.segment, c.profile_id \
             HAVING sum(c.delta) > 0{}\n)",
            entered.unwrap_or_default()
        )
    }

    /// Columns: `time` of a period in which something changed, `segment`, `people` at its end, `entered` and `exited` in it. What was
    /// before the range is in `people`.
    pub(super) fn sizes(&self, plan: &SizesPlan) -> String {
        let time = self.start_of(plan.every, "t.changed_at");
        let (within, only) = match self.range.from {
            Some(from) => {
                let from = self.dialect.time(from);
                (
                    format!(" AND t.changed_at >= {from}"),
                    format!(" WHERE s.time >= {}", self.start_of(plan.every, &from)),
                )
            }
            None => (String::new(), String::new()),
        };
        format!(
            "WITH {changes},\nheld AS (\n  SELECT c.segment AS segment, c.changed_at AS changed_at, c.delta AS delta, sum(c.delta) OVER (PARTITION BY \
             c.segment, c.profile_id ORDER BY c.changed_at) AS held FROM changes AS c\n),\nturns AS (\n  SELECT h.segment AS segment, h.changed_at AS changed_at, \
             CASE WHEN h.held > 0 THEN 1 ELSE 0 END - CASE WHEN h.held - h.delta > 0 THEN 1 ELSE 0 END AS turn FROM held AS h\n),\nperiods AS (\n  SELECT \
             t.segment AS segment, {time} AS \"time\", sum(CASE WHEN t.turn > 0{within} THEN 1 ELSE 0 END) AS entered, \
             sum(CASE WHEN t.turn < 0{within} THEN 1 ELSE 0 END) AS exited, sum(t.turn) AS turn FROM turns AS t WHERE t.turn <> 0 GROUP BY t.segment, {time}\n)\n\
             SELECT s.\"time\" AS \"time\", s.segment AS segment, s.people AS people, s.entered AS entered, s.exited AS exited\n\
             FROM (SELECT p.segment AS segment, p.\"time\" AS \"time\", p.entered AS entered, p.exited AS exited, sum(p.turn) OVER (PARTITION BY p.segment \
             ORDER BY p.\"time\") AS people FROM periods AS p) AS s{only}\nORDER BY segment, \"time\"",
            changes = self.changes(&plan.segments),
        )
    }

    /// Columns: `from_segment` at the beginning of the range, `to_segment` at its end (either is empty for none), `people`, `share` of
    /// those who were in the first. Who is in several counts in each. No rows where nothing changed in the range.
    pub(super) fn flow(&self, plan: &FlowPlan) -> String {
        let (before, within) = match self.range.from {
            Some(from) => {
                let from = self.dialect.time(from);
                (format!("CASE WHEN c.changed_at < {from} THEN c.delta ELSE 0 END"), format!("c.changed_at >= {from}"))
            }
            None => ("0".to_string(), "true".to_string()),
        };
        format!(
            "WITH {changes},\nheld AS (\n  SELECT c.segment AS segment, c.profile_id AS profile_id, sum({before}) AS held_before, sum(c.delta) AS held_after, \
             max(CASE WHEN {within} THEN 1 ELSE 0 END) AS changed FROM changes AS c GROUP BY c.segment, c.profile_id\n),\nmoves AS (\n  \
             SELECT coalesce(nullif(a.profile_id, ''), b.profile_id) AS profile_id, coalesce(a.segment, '') AS from_segment, coalesce(b.segment, '') AS to_segment\n  \
             FROM (SELECT h.segment AS segment, h.profile_id AS profile_id FROM held AS h WHERE h.held_before > 0) AS a FULL JOIN \
             (SELECT h.segment AS segment, h.profile_id AS profile_id FROM held AS h WHERE h.held_after > 0) AS b ON a.profile_id = b.profile_id\n),\n\
             origins AS (\n  SELECT m.from_segment AS from_segment, count(DISTINCT m.profile_id) AS people FROM moves AS m GROUP BY m.from_segment\n)\n\
             SELECT m.from_segment AS from_segment, m.to_segment AS to_segment, count(*) AS people, count(*) / toFloat64(max(o.people)) AS share\n\
             FROM moves AS m JOIN origins AS o ON m.from_segment = o.from_segment\n\
             WHERE (SELECT max(h.changed) FROM held AS h) = 1 GROUP BY m.from_segment, m.to_segment\nORDER BY from_segment, to_segment",
            changes = self.changes(&plan.segments),
        )
    }

    /// Columns: `segment`, `other_segment`, `people` of the first, `in_both`, `share` of the first, `jaccard` (those in both of those in
    /// either); each pair of segments that have members, both ways round.
    pub(super) fn overlap(&self, plan: &OverlapPlan) -> String {
        format!(
            "WITH {changes},\n{members},\nsizes AS (\n  SELECT m.segment AS segment, count(*) AS people FROM members AS m GROUP BY m.segment\n),\n\
             pairs AS (\n  SELECT a.segment AS segment, b.segment AS other_segment, count(*) AS in_both FROM members AS a JOIN members AS b ON \
             a.profile_id = b.profile_id WHERE a.segment <> b.segment GROUP BY a.segment, b.segment\n)\n\
             SELECT s.segment AS segment, s.other_segment AS other_segment, s.people AS people, coalesce(p.in_both, 0) AS in_both, \
             coalesce(p.in_both, 0) / toFloat64(s.people) AS share, coalesce(p.in_both, 0) / toFloat64(s.people + s.others - coalesce(p.in_both, 0)) AS jaccard\n\
             FROM (SELECT a.segment AS segment, b.segment AS other_segment, a.people AS people, b.people AS others FROM sizes AS a CROSS JOIN sizes AS b \
             WHERE a.segment <> b.segment) AS s LEFT JOIN pairs AS p ON s.segment = p.segment AND s.other_segment = p.other_segment\n\
             ORDER BY segment, other_segment",
            changes = self.changes(&plan.segments),
            members = self.members(),
        )
    }

    /// Columns: `trait`, `value` (of a number: which quarter of all people by it, from `low` to `high`), `people` of the segment who have it,
    /// `share` of the segment, `share_of_rest`, `lift` (the first divided by the second), `score`: how many standard errors the
    /// shares are apart, by the test of two proportions with a pooled variance. The highest scores first.
    pub(super) fn lift(&self, plan: &LiftPlan) -> String {
        let (text, number) = match self.dialect {
            Dialect::ClickHouse => ("Nullable(String)", "Nullable(Float64)"),
            Dialect::DataFusion => ("VARCHAR", "DOUBLE"),
        };
        let counts: Vec<String> = plan
            .traits
            .iter()
            .map(|(name, value_type)| {
                let (label, column) = (self.dialect.text(name), format!("p.{}", quoted(name)));
                match value_type {
                    ValueType::Long | ValueType::Double => {
                        let quarter = |at: f64| format!("quantileExactInclusive({at})(CAST({column} AS {number}))");
                        format!(
                            "SELECT {label} AS trait, q.value AS value, min(q.x) AS low, max(q.x) AS high, sum(q.is_member) AS people, count(*) AS everyone \
                             FROM (SELECT CAST({column} AS {number}) AS x, p.is_member AS is_member, CASE WHEN {column} IS NULL THEN '' WHEN \
                             {column} <= b.first THEN 'lowest quarter' WHEN {column} <= b.second THEN 'second quarter' WHEN {column} <= b.third THEN \
                             'third quarter' ELSE 'highest quarter' END AS value FROM people AS p CROSS JOIN (SELECT {} AS first, {} AS second, {} AS third \
                             FROM people AS p) AS b) AS q GROUP BY q.value",
                            quarter(0.25),
                            quarter(0.5),
                            quarter(0.75)
                        )
                    }
                    _ => {
                        let value = match value_type {
                            ValueType::Boolean => {
                                format!("CASE WHEN {column} IS NULL THEN '' WHEN {column} THEN 'true' ELSE 'false' END")
                            }
                            _ => format!("coalesce(CAST({column} AS {text}), '')"),
                        };
                        format!(
                            "SELECT {label} AS trait, {value} AS value, CAST(NULL AS {number}) AS low, CAST(NULL AS {number}) AS high, sum(p.is_member) AS people, \
                             count(*) AS everyone FROM people AS p GROUP BY {value}"
                        )
                    }
                }
            })
            .collect();
        let columns: String = plan.traits.iter().map(|(name, _)| format!(", p.{0} AS {0}", quoted(name))).collect();
        format!(
            "WITH {changes},\n{members},\npeople AS (\n  SELECT CASE WHEN coalesce(m.profile_id, '') <> '' THEN 1 ELSE 0 END AS is_member{columns} FROM \
             current_profiles AS p LEFT JOIN members AS m ON p.profile_id = m.profile_id\n),\ncounts AS (\n  {counts}\n),\nshares AS (\n  SELECT c.trait AS trait, c.value AS value, \
             c.low AS low, c.high AS high, c.people AS people, c.people / toFloat64(nullif(t.members, 0)) AS share, (c.everyone - c.people) / toFloat64(nullif(t.others, 0)) AS \
             share_of_rest, c.everyone / toFloat64(t.members + t.others) AS pooled, 1 / toFloat64(nullif(t.members, 0)) + 1 / toFloat64(nullif(t.others, 0)) AS spread\n  FROM counts AS c CROSS JOIN \
             (SELECT sum(p.is_member) AS members, count(*) - sum(p.is_member) AS others FROM people AS p) AS t WHERE t.members > 0\n)\n\
             SELECT s.trait AS trait, s.value AS value, s.low AS low, s.high AS high, s.people AS people, s.share AS share, s.share_of_rest AS share_of_rest, \
             s.share / nullif(s.share_of_rest, 0) AS lift, coalesce(CASE WHEN s.pooled < 1 THEN (s.share - s.share_of_rest) / sqrt(s.pooled * (1 - s.pooled) * s.spread) ELSE 0 END, 0) AS score\n\
             FROM shares AS s\nORDER BY abs(score) DESC, trait, value\nLIMIT {top}",
            changes = self.changes(std::slice::from_ref(&plan.segment)),
            members = self.members(),
            counts = counts.join("\n  UNION ALL "),
            top = plan.top,
        )
    }
}
