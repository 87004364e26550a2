//! The steps of each person as one sorted list. Windows over all events take several times as long at fifty million (benches/README.md).
//!
//! A time and the step reached then are one number, so that lists are small and sort fast; at the same time the earlier step is
//! first, since a chain may take both.

use super::FunnelPlan;
use crate::expression::Dialect;

/// More than a funnel has steps: a code is a time in microseconds times this, and the step from 1.
pub const STEPS_MAX: i64 = 64;

/// `codes`: a person's times in microseconds, each with its step, in order; an event of several steps is there for each.
pub(super) fn codes(steps: usize) -> String {
    let lists: Vec<String> =
        (1..=steps).map(|step| format!("groupArrayIf(v.at_us * {STEPS_MAX} + {step}, v.is_{step} = 1)")).collect();
    format!("arraySort(arrayConcat({})) AS codes", lists.join(", "))
}

/// `people` with their `codes` → `level`, how far each came, and where there is an order `took_2`, … in microseconds; null where
/// somebody did not come so far. `keys` are further columns of `people`, to be kept.
pub(super) fn levels(dialect: Dialect, plan: &FunnelPlan, keys: &str, people: &str) -> String {
    match dialect {
        Dialect::ClickHouse => by_lambdas(plan, keys, people),
        Dialect::DataFusion => by_function(plan, keys, people),
    }
}

/// The lake reads no functions of functions, and has one of its own that does the same.
fn by_function(plan: &FunnelPlan, keys: &str, people: &str) -> String {
    let took: String = (2..=plan.steps.len())
        .filter(|_| !plan.any_order)
        .map(|step| format!("nullif(p.steps[{step}], -1) AS took_{step}, "))
        .collect();
    format!(
        "SELECT p.profile_id AS profile_id, {keys}{took}p.steps[1] AS level\n  FROM (SELECT g.*, funnelSteps({}, {}, {}, g.codes) AS steps FROM (\n  {people}) AS g) AS p",
        plan.any_order,
        plan.within_us,
        plan.steps.len()
    )
}

fn by_lambdas(plan: &FunnelPlan, keys: &str, people: &str) -> String {
    let steps = plan.steps.len();
    let mut from = format!(
        "SELECT *, arrayMap(c -> intDiv(c, {STEPS_MAX}), codes) AS times, arrayMap(c -> c % {STEPS_MAX}, codes) AS steps FROM (\n  {people})"
    );
    // The latest value so far of those that are not 0.
    let latest = |of: &str| format!("arrayFill(x -> x > 0, arrayMap({of}))");
    let within = plan.within_us;
    if plan.any_order {
        let at: Vec<String> = (1..=steps)
            .map(|step| format!("{} AS at_{step}", latest(&format!("(s, t) -> if(s = {step}, t, 0), steps, times"))))
            .collect();
        from = format!("SELECT *, {} FROM ({from})", at.join(", "));
        let lists: Vec<String> = (1..=steps).map(|step| format!("at_{step}")).collect();
        let near: Vec<String> = lists.iter().map(|at| format!("if({at} > 0 AND t - {at} <= {within}, 1, 0)")).collect();
        let (lists, near) = (lists.join(", "), near.join(" + "));
        return format!(
            "SELECT p.profile_id AS profile_id, {keys}arrayMax(arrayMap((t, {lists}) -> {near}, times, {lists})) AS level\n  FROM ({from}) AS p"
        );
    }
    // Of the chains so far the one that began last is carried along, it reaches furthest: when it began, and when it reached this step.
    let first = latest("(s, t) -> if(s = 1, t, 0), steps, times");
    from = format!("SELECT *, {first} AS start_1, start_1 AS reached_1 FROM ({from})");
    let mut level = vec!["has(p.steps, 1)".to_string()];
    let mut took = Vec::new();
    for step in 2..=steps {
        let before = step - 1;
        let is =
            format!("arrayMap((s, t, b) -> s = {step} AND b > 0 AND t - b <= {within}, steps, times, start_{before})");
        let start = latest(&format!("(i, b) -> if(i, b, 0), is_{step}, start_{before}"));
        let reached = latest(&format!("(i, t) -> if(i, t, 0), is_{step}, times"));
        from =
            format!("SELECT *, {is} AS is_{step}, {start} AS start_{step}, {reached} AS reached_{step} FROM ({from})");
        level.push(format!("has(p.is_{step}, 1)"));
        took.push(format!(
            "if(has(p.is_{step}, 1), arrayFirst(x -> x >= 0, arrayMap((i, t, r) -> if(i, t - r, -1), p.is_{step}, p.times, p.reached_{before})), \
             NULL) AS took_{step}, "
        ));
    }
    format!(
        "SELECT p.profile_id AS profile_id, {keys}{}{} AS level\n  FROM ({from}) AS p",
        took.concat(),
        level.join(" + ")
    )
}
