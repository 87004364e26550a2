//! Funnels: how many people go how far, and how long each step takes them.

use super::{EventFilter, Period, Sql};
use crate::event::TimeUs;
use crate::expression::Dialect;
use crate::profile::FunnelModes;

#[derive(Debug, Clone)]
pub struct FunnelPlan {
    pub steps: Vec<EventFilter>,
    /// All steps lie within so long of the first.
    pub within_us: TimeUs,
    /// Of `windowFunnel`; none: other events may come between.
    pub modes: FunnelModes,
    /// The steps may come in any order.
    pub any_order: bool,
    /// People are told apart by when they began.
    pub trend: Option<Period>,
}

impl Sql<'_> {
    /// A row for each step (and `began`, and `by`): `step`, `name`, `people` who came at least so far, `of_start` and
    /// `of_step_before` as shares of 1, `lost` since the step before, `median_s` from the step before: of those who came there, from
    /// the last time they reached that one to the first time they reached this one.
    pub(super) fn funnel(&self, plan: &FunnelPlan) -> String {
        let last = plan.steps.len();
        let is: Vec<String> = plan.steps.iter().map(|step| self.is(step)).collect();
        let names: Vec<String> = (1..=last).map(|step| format!("is_{step}")).collect();
        let mut columns: Vec<(&str, String)> = names
            .iter()
            .map(String::as_str)
            .zip(is.iter().map(|is| format!("CASE WHEN {is} THEN 1 ELSE 0 END")))
            .collect();
        columns.extend(self.by().map(|by| ("by", by)));
        let steps: Vec<&EventFilter> = plan.steps.iter().collect();
        // With strict_order every other event counts: it breaks the chain.
        let only = (!plan.modes.strict_order).then(|| is.join(" OR "));
        let events = self.events(&self.expressions(&steps), &columns, only.as_deref());
        let levels = if plan.any_order { self.any_order(plan) } else { self.ordered(plan, &names) };
        // How a person is told apart: by the first event of the first step.
        let mut keys = Vec::new();
        let mut first = Vec::new();
        if plan.trend.is_some() {
            keys.push("began");
        }
        if let Some(trend) = plan.trend {
            first.push(format!("min({}) AS began", self.start_of(trend, "v.\"timestamp\"")));
        }
        if self.plan.by.is_some() {
            keys.push("\"by\"");
            first.push("argMin(v.\"by\", v.\"timestamp\") AS \"by\"".to_string());
        }
        let (firsts, join) = match first.is_empty() {
            true => (String::new(), String::new()),
            false => (
                format!(
                    ",\nfirsts AS (\n  SELECT v.profile_id AS profile_id, {} FROM event_values AS v{} GROUP BY v.profile_id\n)",
                    first.join(", "),
                    if plan.any_order { "" } else { " WHERE v.is_1 = 1" }
                ),
                " JOIN firsts AS f ON l.profile_id = f.profile_id".to_string(),
            ),
        };
        let of_firsts: Vec<String> = keys.iter().map(|key| format!("f.{key} AS {key}, ")).collect();
        let times = match plan.any_order {
            true => String::new(),
            false => self.times(plan, &of_firsts, &join),
        };
        let of_people: Vec<String> = keys.iter().map(|key| format!("p.{key} AS {key}, ")).collect();
        let group: Vec<String> = keys.iter().map(|key| format!("p.{key}, ")).collect();
        let same: Vec<String> = keys.iter().map(|key| format!(" AND c.{key} = t.{key}")).collect();
        let over: Vec<String> = keys.iter().map(|key| format!("c.{key}")).collect();
        let over = if over.is_empty() { String::new() } else { format!("PARTITION BY {} ", over.join(", ")) };
        let shown: Vec<String> = keys.iter().map(|key| format!("c.{key} AS {key}, ")).collect();
        let order: Vec<String> = keys.iter().map(|key| format!("{key}, ")).collect();
        let numbered: Vec<String> = (1..=last)
            .map(|step| format!("SELECT {step} AS n, {} AS name", self.dialect.text(&plan.steps[step - 1].label)))
            .collect();
        let (median, join_times) = match plan.any_order {
            true => ("CAST(NULL AS Nullable(Float64))".to_string(), String::new()),
            false => ("t.median_s".to_string(), format!(" LEFT JOIN medians AS t ON c.step = t.step{}", same.concat())),
        };
        let median = if plan.any_order && self.dialect == Dialect::DataFusion {
            "CAST(NULL AS DOUBLE)".to_string()
        } else {
            median
        };
        let settings = match self.dialect {
            Dialect::ClickHouse => "\nSETTINGS join_use_nulls = 1",
            Dialect::DataFusion => "",
        };
        format!(
            "WITH {events},\n{levels}{firsts},\npeople AS (\n  SELECT {of_first}l.profile_id AS profile_id, l.level AS level FROM levels AS l{join} \
             WHERE l.level > 0\n),\ncounts AS (\n  SELECT {of_people}s.n AS step, s.name AS name, count(*) AS people \
             FROM people AS p CROSS JOIN ({numbers}) AS s WHERE p.level >= s.n GROUP BY {group}s.n, s.name\n){times}\n\
             SELECT {shown}c.step AS step, c.name AS name, c.people AS people, \
             c.people / toFloat64(max(c.people) OVER ({over})) AS of_start, \
             c.people / toFloat64(first_value(c.people) OVER ({over}ORDER BY c.step ROWS BETWEEN {before})) AS of_step_before, \
             first_value(c.people) OVER ({over}ORDER BY c.step ROWS BETWEEN {before}) - c.people AS lost, \
             {median} AS median_s\nFROM counts AS c{join_times}\nORDER BY {order}step{settings}",
            of_first = of_firsts.concat(),
            of_people = of_people.concat(),
            group = group.concat(),
            shown = shown.concat(),
            order = order.concat(),
            numbers = numbered.join(" UNION ALL "),
            // The first step has none before it: itself.
            before = "1 PRECEDING AND CURRENT ROW",
        )
    }

    /// `levels`: how far each person comes, by `windowFunnel`.
    fn ordered(&self, plan: &FunnelPlan, names: &[String]) -> String {
        let mut parameters = vec![plan.within_us.to_string()];
        parameters.extend(plan.modes.names().map(|mode| self.dialect.text(mode)));
        let conditions: Vec<String> = names.iter().map(|name| format!("v.{name} = 1")).collect();
        format!(
            "levels AS (\n  SELECT v.profile_id AS profile_id, windowFunnel({})(toUInt64(toUnixTimestamp64Micro(v.\"timestamp\")), {}) \
             AS level\n  FROM event_values AS v GROUP BY v.profile_id\n)",
            parameters.join(", "),
            conditions.join(", ")
        )
    }

    /// `levels`: of how many steps each person has an event within one window.
    fn any_order(&self, plan: &FunnelPlan) -> String {
        let time = "toUnixTimestamp64Micro(v.\"timestamp\")";
        let latest: Vec<String> = (1..=plan.steps.len())
            .map(|step| {
                format!(
                    "max(CASE WHEN v.is_{step} = 1 THEN {time} ELSE 0 END) OVER (PARTITION BY v.profile_id ORDER BY {time} \
                     RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS at_{step}"
                )
            })
            .collect();
        let within: Vec<String> = (1..=plan.steps.len())
            .map(|step| {
                format!("CASE WHEN r.at_{step} > 0 AND r.now_us - r.at_{step} <= {} THEN 1 ELSE 0 END", plan.within_us)
            })
            .collect();
        format!(
            "levels AS (\n  SELECT r.profile_id AS profile_id, max({}) AS level\n  FROM (SELECT v.profile_id AS profile_id, {time} AS now_us, {} \
             FROM event_values AS v) AS r GROUP BY r.profile_id\n)",
            within.join(" + "),
            latest.join(", ")
        )
    }

    /// `medians`: the time of each step, by the same rule as `windowFunnel`: an event reaches a step where the step before was
    /// reached by a chain that began no longer ago than the window.
    fn times(&self, plan: &FunnelPlan, of_firsts: &[String], join: &str) -> String {
        let order =
            "PARTITION BY r.profile_id ORDER BY r.at_us, r.rank ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW";
        // An event that is several steps at once reaches them one after the other.
        let last = plan.steps.len();
        let rows: Vec<String> = (1..=last)
            .map(|step| {
                format!(
                    "SELECT v.profile_id AS profile_id, toUnixTimestamp64Micro(v.\"timestamp\") AS at_us, {step} AS rank \
                     FROM event_values AS v WHERE v.is_{step} = 1"
                )
            })
            .collect();
        let mut with = format!(
            ",\nchain_1 AS (\n  SELECT r.*, max(CASE WHEN r.rank = 1 THEN r.at_us ELSE 0 END) OVER ({order}) AS start_1, \
             max(CASE WHEN r.rank = 1 THEN r.at_us ELSE 0 END) OVER ({order}) AS reached_1\n  FROM ({}) AS r\n)",
            rows.join("\n    UNION ALL ")
        );
        let mut reached = Vec::new();
        for step in 2..=last {
            let before = step - 1;
            let is = format!(
                "r.rank = {step} AND r.start_{before} > 0 AND r.at_us - r.start_{before} <= {}",
                plan.within_us
            );
            with += &format!(
                ",\nchain_{step} AS (\n  SELECT r.*, max(CASE WHEN {is} THEN r.start_{before} ELSE 0 END) OVER ({order}) AS start_{step}, \
                 max(CASE WHEN {is} THEN r.at_us ELSE 0 END) OVER ({order}) AS reached_{step}\n  FROM chain_{before} AS r\n)"
            );
            reached.push(format!(
                "SELECT r.profile_id AS profile_id, {step} AS step, argMin(r.at_us - r.reached_{before}, r.at_us) AS took_us \
                 FROM chain_{step} AS r WHERE {is} GROUP BY r.profile_id"
            ));
        }
        if reached.is_empty() {
            reached.push(
                "SELECT r.profile_id AS profile_id, 0 AS step, r.at_us AS took_us FROM chain_1 AS r WHERE r.rank = 0"
                    .into(),
            );
        }
        let keys = of_firsts.concat();
        let group: Vec<String> =
            of_firsts.iter().filter_map(|key| key.split(" AS ").next()).map(|key| format!("{key}, ")).collect();
        with += &format!(
            ",\nmedians AS (\n  SELECT {keys}l.step AS step, quantileExactInclusive(0.5)(l.took_us / 1000000.0) AS median_s\n  FROM ({}) AS l{join} \
             GROUP BY {}l.step\n)",
            reached.join("\n    UNION ALL "),
            group.concat()
        );
        with
    }
}
