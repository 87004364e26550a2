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
    /// A row for each cohort (and `by`) and period that has begun by the latest event: `cohort`, `period` from 0, `people` of the
    /// cohort, `returned`, `share` of 1; with a value, `value` of that period and `value_per_person` of the cohort up to it.
    pub(super) fn retention(&self, plan: &RetentionPlan) -> String {
        let mut columns = vec![("is_start", self.is(&plan.start)), ("is_back", self.is(&plan.back))];
        columns.extend(self.by().map(|by| ("by", by)));
        columns.extend(plan.value.as_ref().map(|value| ("value", format!("coalesce({}, 0)", self.value(value)))));
        let mut expressions = self.expressions(&[&plan.start, &plan.back]);
        expressions.extend(&plan.value);
        let either = format!("{} OR {}", self.is(&plan.start), self.is(&plan.back));
        let events = self.events(&expressions, &columns, Some(&either));
        let unit = plan.every.name();
        let by = self.plan.by.is_some();
        let (of_first, s_by, group_by) = match by {
            true => (", argMin(v.\"by\", v.\"timestamp\") AS \"by\"", "s.\"by\" AS \"by\", ", "s.\"by\", "),
            false => ("", "", ""),
        };
        let cohort = self.start_of(plan.every, "min(v.\"timestamp\")");
        let period = format!("dateDiff('{unit}', s.cohort, {})", self.start_of(plan.every, "v.\"timestamp\""));
        let period = match self.dialect {
            Dialect::ClickHouse => format!("toInt64({period})"),
            Dialect::DataFusion => period,
        };
        let value = if plan.value.is_some() { ", sum(v.value) AS value" } else { "" };
        let last = plan.periods;
        let reach = match plan.counting {
            Counting::Bounded => "SELECT b.profile_id AS profile_id, b.period AS period FROM returns AS b".to_string(),
            Counting::Unbounded => format!(
                "SELECT b.profile_id AS profile_id, k.n AS period FROM (SELECT r.profile_id AS profile_id, max(r.period) AS reach \
                 FROM returns AS r GROUP BY r.profile_id) AS b CROSS JOIN ({}) AS k WHERE k.n <= b.reach",
                numbers(last)
            ),
            Counting::Rolling => "SELECT b.profile_id AS profile_id, b.period AS period FROM (SELECT r.profile_id AS profile_id, r.period AS \
                                  period, row_number() OVER (PARTITION BY r.profile_id ORDER BY r.period) AS place FROM returns AS r) AS b \
                                  WHERE b.period + 1 = b.place"
                .to_string(),
        };
        let join_by = if by { " AND c.\"by\" = z.\"by\"" } else { "" };
        let join_values = if by { " AND z.\"by\" = w.\"by\"" } else { "" };
        let by_shown = if by { "z.\"by\" AS \"by\", " } else { "" };
        let (values, value_shown, value_join) = match plan.value.is_some() {
            false => (String::new(), String::new(), String::new()),
            true => (
                format!(
                    ",\nworth AS (\n  SELECT {s_by}s.cohort AS cohort, r.period AS period, sum(r.value) AS value FROM returns AS r JOIN starts AS s \
                     ON r.profile_id = s.profile_id GROUP BY {group_by}s.cohort, r.period\n)"
                ),
                format!(
                    ", coalesce(w.value, 0) AS value, sum(coalesce(w.value, 0)) OVER (PARTITION BY {}z.cohort ORDER BY z.period ROWS \
                     BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) / toFloat64(z.people) AS value_per_person",
                    if by { "z.\"by\", " } else { "" }
                ),
                format!(" LEFT JOIN worth AS w ON z.cohort = w.cohort AND z.period = w.period{join_values}"),
            ),
        };
        let settings = match self.dialect {
            Dialect::ClickHouse => "\nSETTINGS join_use_nulls = 1",
            Dialect::DataFusion => "",
        };
        let shown_by = if by { "\"by\", " } else { "" };
        format!(
            "WITH {events},\nstarts AS (\n  SELECT v.profile_id AS profile_id, min(v.\"timestamp\") AS started_at, {cohort} AS cohort{of_first} \
             FROM event_values AS v WHERE v.is_start GROUP BY v.profile_id\n),\nreturns AS (\n  SELECT s.profile_id AS profile_id, {period} \
             AS period{value} FROM event_values AS v JOIN starts AS s ON v.profile_id = s.profile_id WHERE v.is_back AND v.\"timestamp\" >= \
             s.started_at GROUP BY s.profile_id, {period}\n),\nreached AS (\n  {reach}\n),\ncounts AS (\n  SELECT {s_by}s.cohort AS cohort, r.period AS \
             period, count(*) AS returned FROM reached AS r JOIN starts AS s ON r.profile_id = s.profile_id GROUP BY {group_by}s.cohort, \
             r.period\n),\nsizes AS (\n  SELECT {s_by}s.cohort AS cohort, k.n AS period, count(*) AS people FROM starts AS s CROSS JOIN ({numbers}) AS k \
             WHERE k.n <= dateDiff('{unit}', s.cohort, (SELECT {latest} FROM event_values AS v)) \
             GROUP BY {group_by}s.cohort, k.n\n){values}\n\
             SELECT {by_shown}z.cohort AS cohort, z.period AS period, z.people AS people, coalesce(c.returned, 0) AS returned, \
             coalesce(c.returned, 0) / toFloat64(z.people) AS share{value_shown}\nFROM sizes AS z LEFT JOIN counts AS c ON z.cohort = \
             c.cohort AND z.period = c.period{join_by}{value_join}\nORDER BY {shown_by}cohort, period{settings}",
            numbers = numbers(last),
            latest = self.start_of(plan.every, "max(v.\"timestamp\")"),
        )
    }
}
