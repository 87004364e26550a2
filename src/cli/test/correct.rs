//! What an expectation should say, going by what there is: as little of it changes as can be.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::compare::{equal, pairs};
use super::seen::{Found, Row, Seen};
use crate::definition::{Blank, Cell, Expectation, Expected, ExpectedRow, Pipeline, Who};
use crate::profile::TraitPlan;

/// The expectation as it would hold; empty where it cannot be said, as of a person whom nobody knows.
pub fn correct(seen: &Seen, pipeline: &Pipeline, expectation: &Expectation) -> Vec<Expected> {
    match &expectation.expected {
        Expected::Profiles(groups) => vec![profiles(seen, groups)],
        Expected::Segment { name, members } => vec![segment(seen, name, members)],
        Expected::Traits { who, values } => traits(seen, pipeline, who, values).into_iter().collect(),
        Expected::Group { group, id, values } => {
            let plans = pipeline.groups.iter().find(|plan| plan.name == *group).map(|plan| plan.traits.as_slice());
            let found = |name: &str| seen.group_value(group, id, name).cloned().unwrap_or(Value::Null);
            let values = right_values(plans.unwrap_or_default(), values, found);
            vec![Expected::Group { group: group.clone(), id: id.clone(), values }]
        }
        Expected::GroupSegment { name, members } => {
            vec![Expected::GroupSegment { name: name.clone(), members: texts(members, seen.group_members(name)) }]
        }
        Expected::Conflicts(expected) => {
            let default = ["set_aside", "reassigned", "profile", "other", "cause"];
            vec![Expected::Conflicts(rows(seen, expected, &seen.conflicts, &default))]
        }
        Expected::Sent(expected) => {
            let body = expected.iter().any(|row| row.cells.iter().any(|(key, _)| *key == "body"));
            let default: &[&str] =
                if body { &["activation", "step", "profile", "body"] } else { &["activation", "step", "profile"] };
            vec![Expected::Sent(rows(seen, expected, &seen.sent, default))]
        }
        Expected::NoProfile(ids) => vec![Expected::NoProfile(texts(ids, seen.no_profile.iter()))],
        Expected::Rejected(ids) => vec![Expected::Rejected(rejected(seen, ids))],
        Expected::EventOf { message_id, who } => match event_of(seen, message_id) {
            // Any identifier of the right person is right.
            Some(found) if seen.profile_of(who) == seen.profile_of(&found) => vec![expectation.expected.clone()],
            Some(found) => vec![Expected::EventOf { message_id: message_id.clone(), who: found }],
            None => Vec::new(),
        },
        Expected::Flags { message_id, flags } => flags_of(seen, message_id, flags).into_iter().collect(),
        Expected::Blank(blank) => filled(seen, pipeline, blank),
    }
}

/// All there is to say, for an expectation that says nothing yet.
fn filled(seen: &Seen, pipeline: &Pipeline, blank: &Blank) -> Vec<Expected> {
    let mut ids: Vec<&str> = seen.message_ids.iter().map(String::as_str).collect();
    ids.dedup();
    match blank {
        Blank::Everything => {
            let mut all = vec![profiles(seen, &[])];
            all.extend(filled(seen, pipeline, &Blank::Segments));
            all.extend(filled(seen, pipeline, &Blank::Traits));
            let keys = ["activation", "step", "profile", "body"];
            if !pipeline.activations.is_empty() {
                all.push(Expected::Sent(rows(seen, &[], &seen.sent, &keys)));
            }
            if !seen.conflicts.is_empty() {
                let keys = ["set_aside", "reassigned", "profile", "other", "cause"];
                all.push(Expected::Conflicts(rows(seen, &[], &seen.conflicts, &keys)));
            }
            if !seen.no_profile.is_empty() {
                all.push(Expected::NoProfile(texts(&[], seen.no_profile.iter())));
            }
            if !seen.rejected.is_empty() {
                all.push(Expected::Rejected(rejected(seen, &[])));
            }
            all
        }
        Blank::Segments => pipeline.segments.iter().map(|plan| segment(seen, &plan.name, &[])).collect(),
        Blank::Traits => {
            let people = seen.partition().into_iter().filter_map(|group| group.into_iter().next().cloned());
            people.filter_map(|who| traits(seen, pipeline, &who, &[])).collect()
        }
        Blank::Events => {
            let of = |id: &&str| Some(Expected::EventOf { message_id: id.to_string(), who: event_of(seen, id)? });
            ids.iter().filter_map(of).collect()
        }
        Blank::Flags => ids.iter().filter_map(|id| flags_of(seen, id, &[])).collect(),
        Blank::EventOf(id) => {
            let who = event_of(seen, id);
            who.map(|who| Expected::EventOf { message_id: id.clone(), who }).into_iter().collect()
        }
    }
}

fn profiles(seen: &Seen, groups: &[Vec<Who>]) -> Expected {
    let mut found = seen.partition();
    let mut right = Vec::new();
    for group in groups {
        if found.remove(&group.iter().collect::<BTreeSet<_>>()) {
            right.push(group.clone());
        }
    }
    right.extend(found.into_iter().map(|group| group.into_iter().cloned().collect()));
    Expected::Profiles(right)
}

fn segment(seen: &Seen, name: &str, members: &[Who]) -> Expected {
    let mut found = seen.members(name);
    let mut right: Vec<Who> = members.to_vec();
    // Two names of one person are one member, and both may stand.
    right.retain(|who| seen.profile_of(who).is_some_and(|id| found.contains(id)));
    right.iter().filter_map(|who| seen.profile_of(who)).for_each(|id| {
        found.remove(id);
    });
    let mut others: Vec<Who> = found.into_iter().filter_map(|id| seen.best(id).cloned()).collect();
    others.sort();
    right.extend(others);
    Expected::Segment { name: name.to_string(), members: right }
}

/// The traits that are asked for, or all that have a value.
fn traits(seen: &Seen, pipeline: &Pipeline, who: &Who, values: &[(String, Value)]) -> Option<Expected> {
    let id = seen.profile_of(who)?;
    let found = |name: &str| seen.trait_value(id, name).cloned().unwrap_or(Value::Null);
    Some(Expected::Traits { who: who.clone(), values: right_values(&pipeline.traits, values, found) })
}

/// Those that are asked for, what was right as it was written; or all that have a value.
fn right_values(
    plans: &[TraitPlan],
    values: &[(String, Value)],
    found: impl Fn(&str) -> Value,
) -> Vec<(String, Value)> {
    if values.is_empty() {
        let all = plans.iter().map(|plan| (plan.name.clone(), found(&plan.name)));
        return all.filter(|(_, value)| !value.is_null()).collect();
    }
    let right = |(name, old): &(String, Value)| {
        let found = found(name);
        (name.clone(), if equal(old, &found) { old.clone() } else { found })
    };
    values.iter().map(right).collect()
}

fn event_of(seen: &Seen, message_id: &str) -> Option<Who> {
    seen.events.get(message_id).and_then(|event| event.profile.as_deref()).and_then(|id| seen.best(id)).cloned()
}

fn flags_of(seen: &Seen, message_id: &str, flags: &[String]) -> Option<Expected> {
    let event = seen.events.get(message_id)?;
    Some(Expected::Flags { message_id: message_id.to_string(), flags: texts(flags, event.flags.iter()) })
}

fn rejected(seen: &Seen, ids: &[String]) -> Vec<String> {
    texts(ids, seen.rejected.iter().map(|rejected| &rejected.message_id))
}

fn texts<'a>(old: &[String], found: impl Iterator<Item = &'a String>) -> Vec<String> {
    let found: BTreeSet<&String> = found.collect();
    let mut right: Vec<String> = old.iter().filter(|text| found.contains(text)).cloned().collect();
    right.extend(found.into_iter().filter(|text| !old.contains(text)).cloned());
    right
}

/// Rows that fit stay as they are; the others tell what the ones in whose places they come told.
fn rows(seen: &Seen, expected: &[ExpectedRow], found: &[Row], default: &[&str]) -> Vec<ExpectedRow> {
    let taken_by = pairs(seen, expected, found);
    let mut right: Vec<ExpectedRow> = (0..expected.len())
        .filter(|index| taken_by.contains(&Some(*index)))
        .map(|index| expected[index].clone())
        .collect();
    let mut wrong = (0..expected.len()).filter(|index| !taken_by.contains(&Some(*index)));
    for (row, _) in found.iter().zip(&taken_by).filter(|(row, taken)| taken.is_none() && row.failure.is_none()) {
        let like = wrong.next().map(|index| &expected[index]);
        let cells = row.cells.iter().filter_map(|(key, found)| {
            let old = like.map(|like| like.cells.iter().find(|(other, _)| other == key).map(|(_, cell)| cell));
            let wanted = old.map_or(default.contains(key), |old| old.is_some());
            Some((*key, cell(seen, found, old.flatten())?)).filter(|_| wanted)
        });
        right.push(ExpectedRow { cells: cells.collect() });
    }
    right
}

/// None where nobody has it any more.
fn cell(seen: &Seen, found: &Found, old: Option<&Cell>) -> Option<Cell> {
    Some(match (found, old) {
        (Found::Text(text), _) => Cell::Text(text.clone()),
        (Found::Person(id), Some(Cell::Person(who))) if seen.profile_of(who) == Some(seen.current(id)) => {
            Cell::Person(who.clone())
        }
        (Found::Person(id), _) => Cell::Person(seen.best(id)?.clone()),
        (Found::Json(body), Some(Cell::Json(old))) => Cell::Json(restricted(body, old)),
        (Found::Json(body), _) => Cell::Json(body.clone()),
    })
}

/// Of an object only the keys that are asked for.
fn restricted(body: &Value, like: &Value) -> Value {
    match (body, like) {
        (Value::Object(body), Value::Object(like)) => {
            let asked = like.iter().filter_map(|(key, like)| Some((key.clone(), restricted(body.get(key)?, like))));
            Value::Object(asked.collect::<Map<_, _>>())
        }
        _ => body.clone(),
    }
}
