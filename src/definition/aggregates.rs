//! Aggregates: their names and places; what they may say is checked by `aggregate`. And the alerts over them.

use super::check::Checker;
use super::findings::Span;
use super::read::micros;
use super::sections::check_reference;
use super::spec::{AlertSpec, Sql};
use crate::aggregate::{AggregatePlan, AlertPlan, Unwatchable};

/// Tables and views that are there anyway.
const TAKEN: [&str; 28] = [
    "events",
    "current_events",
    "profile_events",
    "event_moves",
    "profiles",
    "current_profiles",
    "identifiers",
    "current_identifiers",
    "profile_merges",
    "profile_ids",
    "identity_conflicts",
    "segment_changes",
    "segment_members",
    "segment_sizes",
    "group_segment_changes",
    "group_segment_members",
    "segment_overlap",
    "rfm_borders",
    "sessions",
    "current_sessions",
    "session_ids",
    "deliveries",
    "rejected_events",
    "tributary_state",
    "events_by_minute",
    "active_profiles",
    "daily_revenue",
    "delivery_outcomes",
];

/// None where something was reported.
pub fn aggregate(checker: &Checker, name: &str, span: Span, sql: &Sql) -> Option<AggregatePlan> {
    let groups = checker.group_names().into_iter().flat_map(|group| {
        let table = format!("groups_{group}");
        [format!("current_{table}"), table]
    });
    if TAKEN.contains(&name) || groups.into_iter().any(|taken| taken == name) {
        let message = format!("there is a table `{name}` already: an aggregate needs another name");
        checker.reader.findings.error(span, message, None);
        return None;
    }
    let scope = checker.event_scope(None);
    let text = sql.scalar.text.as_str();
    match AggregatePlan::check(name, text, &scope) {
        Ok(plan) => {
            checker.fields_of(&scope);
            Some(plan)
        }
        Err(error) => {
            checker.report(sql, error.span, error.message, error.help);
            None
        }
    }
}

/// None where something was reported.
pub fn alert(checker: &Checker, name: &str, spec: &AlertSpec, aggregates: &[AggregatePlan]) -> Option<AlertPlan> {
    let names: Vec<&str> = aggregates.iter().map(|plan| plan.name.as_str()).collect();
    if !check_reference(&checker.reader, &spec.watch, "aggregate", &names) {
        return None;
    }
    let aggregate = aggregates.iter().find(|plan| plan.name == spec.watch.text)?;
    match aggregate.watched(&spec.value.text) {
        Ok((time, value, groups, is_count)) => Some(AlertPlan {
            name: name.to_string(),
            aggregate: aggregate.name.clone(),
            time,
            value,
            value_name: spec.value.text.clone(),
            groups,
            is_count,
            period_us: micros(spec.period),
            season: spec.season as usize,
            threshold: spec.threshold,
            wait_us: micros(spec.wait),
        }),
        Err(Unwatchable::Value(names)) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            check_reference(&checker.reader, &spec.value, "sum or count", &names);
            None
        }
        Err(Unwatchable::Times(count)) => {
            let message = match count {
                0 => format!("`{}` has no key that is a time", aggregate.name),
                _ => format!("`{}` has {count} keys that are times: which one counts?", aggregate.name),
            };
            let help = "group by one, as date_trunc('hour', timestamp) AS hour".to_string();
            checker.reader.findings.error(spec.watch.span, message, help);
            None
        }
    }
}
