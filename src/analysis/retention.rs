//! Retention: of the people who begin in a period, how many come back, and what they bring.

use super::{EventFilter, Period, Sql, numbers};
use crate::expression::{Dialect, Expression};

#[derive(Debug, Clone)]
pub struct RetentionPlan {
    /// The first of these begins it.
    pub start: EventFilter,
    pub back: EventFilter,
    pub every: Period,
    /// Periods after the first.
    pub periods: u32,
    pub counting: Counting,
    /// Summed over the events that come back.
    pub value: Option<Expression>,
}

/// Who has come back in the nth period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Whoever has an event in it.
    Bounded,
    /// Whoever has an event in it or in a later one.
    Unbounded,
    /// Whoever has an event in it and in each one before, from the first on.
    Rolling,
}

impl Counting {
    pub const NAMES: [(&str, Counting); 3] =
        [("bounded", Counting::Bounded), ("unbounded", Counting::Unbounded), ("rolling", Counting::Rolling)];
}

impl Sql<'_> {
    /// A row for each cohort (and `by`) and period that has begun by the latest event of those: `cohort`, `period` from 0, `people` of the
    /// cohort, `returned`, `share` of 1; with a value, `value` of that period and `value_per_person` of the cohort up to it.
    ///
    /// The events are read twice: once for the cohorts, once for what has come back.
    pub(super) fn retention(&self, plan: &RetentionPlan) -> String {
        let value = plan.value.as_ref().map_or_else(|| "0".to_string(), |value| self.value(value));
        let mut columns = vec![
            ("is_start", self.is(&plan.start)),
            ("is_back", self.is(&plan.back)),
            ("value", format!("coalesce({value}, 0)")),
        ];
        columns.extend(self.by().map(|by| ("by", by)));
        let mut expressions = self.expressions(&[&plan.start, &plan.back]);
        expressions.extend(&plan.value);
        let either = format!("({}) OR ({})", self.is(&plan.start), self.is(&plan.back));
        let events = self.events(&expressions, &columns, Some(&either));
        let unit = plan.every.name();
        let start = |time: &str| self.start_of(plan.every, time);
        let (of_first, by, v_by, joined) = match self.plan.by.is_some() {
            // By the value of the event that begins it.
            true => (
                ", first_value(v.\"by\") OVER (PARTITION BY v.profile_id ORDER BY v.is_start DESC, v.\"timestamp\", v.message_id ROWS \
                 BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS first_by",
                "\"by\", ",
                "v.first_by AS \"by\", ",
                " AND z.\"by\" = c.\"by\"",
            ),
            false => ("", "", "", ""),
        };
        let group = if by.is_empty() { "" } else { "v.first_by, " };
        let z_by = if by.is_empty() { "" } else { "z.\"by\" AS \"by\", " };
        let over = if by.is_empty() { "" } else { "z.\"by\", " };
        let whole = match self.dialect {
            Dialect::ClickHouse => |sql: String| format!("toInt64({sql})"),
            Dialect::DataFusion => |sql: String| sql,
        };
        let period = whole(format!("dateDiff('{unit}', {}, {})", start("v.started_at"), start("v.\"timestamp\"")));
        let elapsed = whole(format!("dateDiff('{unit}', {}, {})", "t.cohort", start("t.latest")));
        // A person in a period.
        let people = format!(
            "SELECT {v_by}v.profile_id AS profile_id, {cohort} AS cohort, {period} AS period, max(CASE WHEN v.is_back THEN 1 ELSE 0 END) AS \
             is_back, sum(CASE WHEN v.is_back THEN v.value ELSE 0 END) AS value FROM begun AS v GROUP BY {group}v.profile_id, {cohort}, {period}",
            cohort = start("v.started_at"),
        );
        let returned = match plan.counting {
            Counting::Bounded => format!(
                "SELECT {by}cohort, period, sum(is_back) AS returned, sum(value) AS value FROM ({people}) AS p GROUP BY {by}cohort, period"
            ),
            // Each person up to the last period that they came back in.
            Counting::Unbounded => format!(
                "SELECT {by}cohort, n AS period, sum(CASE WHEN place = 1 AND n <= reach THEN 1 ELSE 0 END) AS returned, sum(CASE WHEN n = period THEN value ELSE 0 END) AS value \
                 FROM (SELECT p.*, row_number() OVER (PARTITION BY profile_id ORDER BY period) AS place, max(CASE WHEN is_back = 1 THEN period ELSE -1 END) \
                 OVER (PARTITION BY profile_id) AS reach FROM ({people}) AS p) AS p CROSS JOIN ({numbers}) AS k WHERE place = 1 OR n = period GROUP BY {by}cohort, n",
                numbers = numbers(plan.periods)
            ),
            Counting::Rolling => format!(
                "SELECT {by}cohort, period, sum(CASE WHEN period + 1 = place THEN 1 ELSE 0 END) AS returned, sum(value) AS value \
                 FROM (SELECT p.*, row_number() OVER (PARTITION BY profile_id ORDER BY period) AS place FROM ({people}) AS p WHERE is_back = 1) AS p \
                 GROUP BY {by}cohort, period"
            ),
        };
        let worth = match plan.value.is_some() {
            true => format!(
                ", coalesce(c.value, 0) AS value, sum(coalesce(c.value, 0)) OVER (PARTITION BY {over}z.cohort ORDER BY z.period ROWS BETWEEN \
                 UNBOUNDED PRECEDING AND CURRENT ROW) / toFloat64(z.people) AS value_per_person"
            ),
            false => String::new(),
        };
        let settings = match self.dialect {
            Dialect::ClickHouse => "\nSETTINGS join_use_nulls = 1",
            Dialect::DataFusion => "",
        };
        format!(
            "WITH {events},\nbegun AS (\n  SELECT * FROM (SELECT v.*{of_first}, min(CASE WHEN v.is_start THEN v.\"timestamp\" ELSE NULL END) OVER \
             (PARTITION BY v.profile_id) AS started_at FROM event_values AS v) AS v\n  \
             WHERE v.\"timestamp\" >= v.started_at\n),\nsizes AS (\n  SELECT {z_of}s.cohort AS cohort, k.n AS period, s.people AS people FROM (\n    SELECT t.*, {elapsed} AS elapsed FROM (\n      SELECT t.*, max(t.latest_of) OVER () AS latest FROM (\n        SELECT {v_by}\
             {cohort} AS cohort, max(v.\"timestamp\") AS latest_of, count(DISTINCT v.profile_id) AS people FROM begun AS v GROUP BY {group}{cohort}\n      ) AS t\n    ) AS t\n  ) AS s CROSS JOIN \
             ({numbers}) AS k WHERE k.n <= s.elapsed\n),\ncounts AS (\n  {returned}\n)\n\
             SELECT {z_by}z.cohort AS cohort, z.period AS period, z.people AS people, coalesce(c.returned, 0) AS returned, \
             coalesce(c.returned, 0) / toFloat64(z.people) AS share{worth}\nFROM sizes AS z LEFT JOIN counts AS c ON z.cohort = c.cohort AND \
             z.period = c.period{joined}\nORDER BY {by}cohort, period{settings}",
            z_of = if by.is_empty() { "" } else { "s.\"by\" AS \"by\", " },
            cohort = start("v.started_at"),
            numbers = numbers(plan.periods),
        )
    }
}
