//! Expected beside found: what is missing (`-`) and what is there instead (`+`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::run::Difference;
use super::seen::{Found, Row, Seen};
use crate::definition::{Cell, Expectation, Expected, ExpectedRow, Who};

/// None where all is as expected.
pub fn compare(seen: &Seen, expectation: &Expectation) -> Option<Difference> {
    let (what, lines) = match &expectation.expected {
        Expected::Profiles(groups) => ("profiles".to_string(), profiles(seen, groups)),
        Expected::Segment { name, members } => (format!("segment {name}"), segment(seen, name, members)),
        Expected::Traits { who, values } => (format!("traits of {who}"), traits(seen, who, values)),
        Expected::Group { group, id, values } => {
            (format!("traits of {group} {id}"), values_of(values, |name| seen.group_value(group, id, name)))
        }
        Expected::GroupSegment { name, members } => {
            (format!("segment {name}"), texts(members, seen.group_members(name)))
        }
        Expected::Conflicts(rows) => ("conflicts".to_string(), compare_rows(seen, rows, &seen.conflicts)),
        Expected::Sent(rows) => ("sent".to_string(), compare_rows(seen, rows, &seen.sent)),
        Expected::NoProfile(ids) => ("no_profile".to_string(), texts(ids, seen.no_profile.iter())),
        Expected::Rejected(ids) => {
            ("rejected".to_string(), texts(ids, seen.rejected.iter().map(|rejected| &rejected.message_id)))
        }
        Expected::EventOf { message_id, who } => (format!("event {message_id}"), event_of(seen, message_id, who)),
        Expected::Flags { message_id, flags } => {
            (format!("flags of {message_id}"), event_flags(seen, message_id, flags))
        }
        // It is about to be filled in.
        Expected::Blank(_) => return None,
    };
    let what = format!("{what} (- expected, + found)");
    (!lines.is_empty()).then(|| Difference { place: expectation.place.clone(), what, lines })
}

fn missing(what: impl std::fmt::Display) -> String {
    format!("- {what}")
}

fn instead(what: impl std::fmt::Display) -> String {
    format!("+ {what}")
}

fn profiles(seen: &Seen, groups: &[Vec<Who>]) -> Vec<String> {
    let expected: BTreeSet<BTreeSet<&Who>> = groups.iter().map(|group| group.iter().collect()).collect();
    let found = seen.partition();
    let shown = |group: &BTreeSet<&Who>| {
        let names: Vec<String> = group.iter().map(|who| who.to_string()).collect();
        format!("[{}]", names.join(", "))
    };
    let mut lines: Vec<String> = expected.difference(&found).map(|group| missing(shown(group))).collect();
    lines.extend(found.difference(&expected).map(|group| instead(shown(group))));
    lines
}

fn segment(seen: &Seen, name: &str, members: &[Who]) -> Vec<String> {
    let found = seen.members(name);
    let mut lines = Vec::new();
    let mut expected = BTreeSet::new();
    for who in members {
        match seen.profile_of(who) {
            None => lines.push(missing(format!("{who} (nobody has this identifier)"))),
            Some(id) => {
                if !found.contains(id) {
                    lines.push(missing(who));
                }
                expected.insert(id);
            }
        }
    }
    lines.extend(found.difference(&expected).map(|id| instead(seen.name(id))));
    lines
}

fn traits(seen: &Seen, who: &Who, values: &[(String, Value)]) -> Vec<String> {
    let Some(id) = seen.profile_of(who) else {
        return vec![missing(format!("{who} (nobody has this identifier)"))];
    };
    values_of(values, |name| seen.trait_value(id, name))
}

fn values_of<'s>(values: &[(String, Value)], found: impl Fn(&str) -> Option<&'s Value>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, expected) in values {
        let found = found(name).unwrap_or(&Value::Null);
        if !equal(expected, found) {
            lines.push(missing(format!("{name}: {expected}")));
            lines.push(instead(format!("{name}: {found}")));
        }
    }
    lines
}

fn event_of(seen: &Seen, message_id: &str, who: &Who) -> Vec<String> {
    let Some(wanted) = seen.profile_of(who) else {
        return vec![missing(format!("{who} (nobody has this identifier)"))];
    };
    let found = match seen.events.get(message_id).map(|event| event.profile.as_deref()) {
        Some(Some(id)) if seen.current(id) == wanted => return Vec::new(),
        Some(Some(id)) => seen.name(id),
        Some(None) => "nobody".to_string(),
        None => NO_EVENT.to_string(),
    };
    vec![missing(who), instead(found)]
}

fn event_flags(seen: &Seen, message_id: &str, flags: &[String]) -> Vec<String> {
    match seen.events.get(message_id) {
        Some(event) => texts(flags, event.flags.iter()),
        None => vec![instead(NO_EVENT)],
    }
}

const NO_EVENT: &str = "no event has this message id";

fn texts<'a>(expected: &'a [String], found: impl Iterator<Item = &'a String>) -> Vec<String> {
    let (expected, found): (BTreeSet<&String>, BTreeSet<&String>) = (expected.iter().collect(), found.collect());
    let mut lines: Vec<String> = expected.difference(&found).map(missing).collect();
    lines.extend(found.difference(&expected).map(instead));
    lines
}

/// Pairs expected rows with found ones, as many as can be: an expected row may fit several. For each found row the
/// index of its expected one.
pub fn pairs(seen: &Seen, expected: &[ExpectedRow], found: &[Row]) -> Vec<Option<usize>> {
    let mut taken_by: Vec<Option<usize>> = vec![None; found.len()];
    let fits = |row: usize, other: usize| fits(seen, &expected[row], &found[other]);
    for row in 0..expected.len() {
        pair(row, &fits, &mut taken_by, &mut vec![false; found.len()]);
    }
    taken_by
}

fn compare_rows(seen: &Seen, expected: &[ExpectedRow], found: &[Row]) -> Vec<String> {
    let taken_by = pairs(seen, expected, found);
    let mut lines = Vec::new();
    for (index, row) in expected.iter().enumerate() {
        if taken_by.contains(&Some(index)) {
            continue;
        }
        let cells: Vec<String> = row.cells.iter().map(|(key, cell)| format!("{key}: {}", shown(cell))).collect();
        lines.push(missing(format!("{{ {} }}", cells.join(", "))));
    }
    let bodies = expected.iter().any(|row| row.cells.iter().any(|(_, cell)| matches!(cell, Cell::Json(_))));
    for (row, _) in found.iter().zip(&taken_by).filter(|(_, taken)| taken.is_none()) {
        let cells = row.cells.iter().filter_map(|(key, found)| match found {
            Found::Text(text) => Some(format!("{key}: {text}")),
            Found::Person(id) => Some(format!("{key}: {}", seen.name(id))),
            Found::Json(body) => bodies.then(|| format!("{key}: {body}")),
        });
        let failure = row.failure.iter().map(|failure| format!(", which failed: {failure}")).collect::<String>();
        lines.push(instead(format!("{{ {} }}{failure}", cells.collect::<Vec<_>>().join(", "))));
    }
    lines
}

/// Finds a place for an expected row, moving others where that helps.
fn pair(row: usize, fits: &dyn Fn(usize, usize) -> bool, taken_by: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    for other in 0..taken_by.len() {
        if tried[other] || !fits(row, other) {
            continue;
        }
        tried[other] = true;
        if taken_by[other].is_none_or(|holder| pair(holder, fits, taken_by, tried)) {
            taken_by[other] = Some(row);
            return true;
        }
    }
    false
}

fn fits(seen: &Seen, expected: &ExpectedRow, found: &Row) -> bool {
    found.failure.is_none()
        && expected.cells.iter().all(|(key, cell)| {
            let value = found.cells.iter().find(|(other, _)| other == key).map(|(_, value)| value);
            match (cell, value) {
                (Cell::Text(text), Some(Found::Text(found))) => text == found,
                (Cell::Identifier(who), Some(Found::Text(found))) => who.to_string() == *found,
                (Cell::Person(who), Some(Found::Person(id))) => seen.profile_of(who) == Some(seen.current(id)),
                (Cell::Json(expected), Some(Found::Json(found))) => holds(found, expected),
                (Cell::Nobody, None) => true,
                _ => false,
            }
        })
}

fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Identifier(who) | Cell::Person(who) => who.to_string(),
        Cell::Json(value) => value.to_string(),
        Cell::Nobody => "nobody".to_string(),
    }
}

/// Equal, but that an object may hold more than is expected.
fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| holds(found, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(found, value)| holds(found, value))
        }
        _ => equal(found, expected),
    }
}

/// `2` is `2.0`, and a double may differ in its last digits: people write it in decimals.
pub fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => {
            if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
                return a == b;
            }
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_compared_by_value_and_types_are_kept_apart() {
        let rows = [
            (json!(2), json!(2.0), true),
            (json!(0.1 + 0.2), json!(0.3), true),
            (json!(0), json!(1e-6), false),
            (json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64), false),
            (json!("2"), json!(2), false),
            (json!(null), json!(""), false),
            (json!([1, { "a": 2 }]), json!([1.0, { "a": 2.0 }]), true),
            (json!({ "a": 1 }), json!({ "a": 1, "b": 2 }), false),
        ];
        for (one, other, expect) in rows {
            assert_eq!(equal(&one, &other), expect, "{one} and {other}");
        }
        assert!(holds(&json!({ "a": { "b": 1, "c": 2 } }), &json!({ "a": { "b": 1 } })));
        assert!(!holds(&json!({ "a": 1 }), &json!({ "b": null })));
    }

    #[test]
    fn rows_that_fit_several_are_paired_so_that_most_find_a_place() {
        // (which expected row fits which found ones, how many can be paired)
        let rows: [(&[&[usize]], usize); 4] =
            [(&[&[0, 1], &[0]], 2), (&[&[0], &[0]], 1), (&[&[0, 1], &[0], &[1, 2]], 3), (&[&[], &[2]], 1)];
        for (graph, expect) in rows {
            let fits = |row: usize, other: usize| graph[row].contains(&other);
            let mut taken_by = [None; 3];
            for row in 0..graph.len() {
                pair(row, &fits, &mut taken_by, &mut [false; 3]);
            }
            assert_eq!(taken_by.iter().flatten().count(), expect, "{graph:?}");
        }
    }
}
