//! Funnels: how many people go how far, and how long each step takes them.

mod lists;

pub use lists::STEPS_MAX;

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
    ///
    /// The events are read once: ClickHouse reads what a WITH names as often as it is named.
    pub(super) fn funnel(&self, plan: &FunnelPlan) -> String {
        let count = plan.steps.len();
        let is: Vec<String> = plan.steps.iter().map(|step| self.is(step)).collect();
        let names: Vec<String> = (1..=count).map(|step| format!("is_{step}")).collect();
        let flags = is.iter().map(|is| format!("CASE WHEN {is} THEN 1 ELSE 0 END"));
        let mut columns: Vec<(&str, String)> = names.iter().map(String::as_str).zip(flags).collect();
        columns.push(("at_us", "toUnixTimestamp64Micro(e.\"timestamp\")".to_string()));
        columns.extend(self.by().map(|by| ("by", by)));
        let steps: Vec<&EventFilter> = plan.steps.iter().collect();
        // With strict_order every other event counts: it breaks the chain.
        let only = (!plan.modes.strict_order).then(|| is.join(" OR "));
        let events = self.events(&self.expressions(&steps), &columns, only.as_deref());

        // How a person is told apart: by their first event, of the first step where there is an order.
        let begins = if plan.any_order { "true" } else { "v.is_1 = 1" };
        let mut people: Vec<String> = Vec::new();
        let mut keys: Vec<&str> = Vec::new();
        if let Some(trend) = plan.trend {
            keys.push("began");
            people.push(format!(
                "{} AS began",
                self.start_of(trend, &format!("min(CASE WHEN {begins} THEN v.\"timestamp\" ELSE NULL END)"))
            ));
        }
        if self.plan.by.is_some() {
            keys.push("\"by\"");
            // Of several at the same time the first by message id, in both engines: times of as many digits each, as texts.
            let place = format!("concat(CAST(v.at_us + 1000000000000000000 AS {}), v.message_id)", self.text_type());
            people.push(format!("argMinIf(v.\"by\", {place}, {begins}) AS \"by\""));
        }
        let has_times = !plan.any_order && plan.modes == FunnelModes::default();
        let list = |alias: &str, end: &str| keys.iter().map(|key| format!("{alias}{key}{end}")).collect::<String>();
        let shown = |alias: &str| keys.iter().map(|key| format!("{alias}{key} AS {key}, ")).collect::<String>();
        let is_list = plan.any_order || has_times;
        people.push(if is_list { lists::codes(count) } else { format!("{} AS level", self.window_funnel(plan)) });
        let people = people.join(", ");
        let people =
            format!("SELECT v.profile_id AS profile_id, {people}\n  FROM event_values AS v\n  GROUP BY v.profile_id");
        let people = if is_list { lists::levels(self.dialect, plan, &shown("p."), &people) } else { people };
        let took: Vec<String> = (2..=count).map(|step| format!(" WHEN {step} THEN p.took_{step}")).collect();
        let median = match (has_times, self.dialect) {
            (true, _) => {
                format!("quantileExactInclusive(0.5)(CASE s.n{} ELSE NULL END / 1000000.0)", took.concat())
            }
            (false, Dialect::ClickHouse) => "CAST(NULL AS Nullable(Float64))".to_string(),
            (false, Dialect::DataFusion) => "CAST(NULL AS DOUBLE)".to_string(),
        };
        let numbered: Vec<String> = plan
            .steps
            .iter()
            .enumerate()
            .map(|(place, step)| format!("SELECT {} AS n, {} AS name", place + 1, self.dialect.text(&step.label)))
            .collect();
        let over = match keys.is_empty() {
            true => String::new(),
            false => {
                format!("PARTITION BY {} ", keys.iter().map(|key| format!("c.{key}")).collect::<Vec<_>>().join(", "))
            }
        };
        // The first step has none before it: itself.
        let before =
            format!("first_value(c.people) OVER ({over}ORDER BY c.step ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)");
        format!(
            "WITH {events},\npeople AS (\n  {people}\n),\n\
             counts AS (\n  SELECT {of_people}s.n AS step, s.name AS name, count(*) AS people, {median} AS median_s\n  \
             FROM people AS p CROSS JOIN ({numbered}) AS s WHERE p.level >= s.n GROUP BY {group}s.n, s.name\n)\n\
             SELECT {shown}c.step AS step, c.name AS name, c.people AS people, \
             c.people / toFloat64(max(c.people) OVER ({over})) AS of_start, c.people / toFloat64({before}) AS of_step_before, \
             {before} - c.people AS lost, c.median_s AS median_s\nFROM counts AS c\nORDER BY {order}step",
            of_people = shown("p."),
            numbered = numbered.join(" UNION ALL "),
            group = list("p.", ", "),
            shown = shown("c."),
            order = list("", ", "),
        )
    }

    /// How far a person comes, by `windowFunnel`.
    fn window_funnel(&self, plan: &FunnelPlan) -> String {
        let mut parameters = vec![plan.within_us.to_string()];
        parameters.extend(plan.modes.names().map(|mode| self.dialect.text(mode)));
        let conditions: Vec<String> = (1..=plan.steps.len()).map(|step| format!("v.is_{step} = 1")).collect();
        format!("windowFunnel({})(toUInt64(v.at_us), {})", parameters.join(", "), conditions.join(", "))
    }
}
