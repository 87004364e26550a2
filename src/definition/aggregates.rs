//! Aggregates: their names and places; what they may say is checked by `aggregate`.

use super::check::Checker;
use super::findings::Span;
use super::spec::Sql;
use crate::aggregate::AggregatePlan;

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
