//! `tests:`: steps in time, their events, and what is expected after them.

use std::borrow::Cow;

use super::reference;
use crate::decode::time::parse_time;
use crate::definition::Blank;
use crate::definition::findings::{Span, nearest_or_list};
use crate::definition::keys::Section;
use crate::definition::read::Reader;
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};

/// The keys of the standard envelope, as a payload may have them; `name` and `category` are those of page calls.
pub const ENVELOPE: [&str; 24] = [
    "message_id",
    "messageId",
    "type",
    "event",
    "user_id",
    "userId",
    "anonymous_id",
    "anonymousId",
    "group_id",
    "groupId",
    "previous_id",
    "previousId",
    "identifiers",
    "timestamp",
    "original_timestamp",
    "originalTimestamp",
    "sent_at",
    "sentAt",
    "properties",
    "traits",
    "context",
    "name",
    "category",
    "source",
];

const TIMES: [&str; 5] = ["timestamp", "original_timestamp", "originalTimestamp", "sent_at", "sentAt"];

pub fn test(node: &Node, reader: &Reader) -> Option<TestSpec> {
    let fields = reader.section(node, "a test", node.span, &reference::TEST)?;
    let name = fields.get("name").and_then(|node| reader.literal(node, "`name`"));
    let steps_node = fields.get("steps");
    let items = steps_node.map(|node| reader.list(node, "`steps`")).unwrap_or_default();
    let steps: Vec<TestStepSpec> = items.iter().filter_map(|node| step(node, reader)).collect();
    if let Some(node) = steps_node.filter(|node| matches!(&node.value, Value::List(items) if items.is_empty())) {
        reader.findings.error(node.span, "this test does nothing: `steps` is empty", None);
    }
    Some(TestSpec { name: name?, steps })
}

fn step(node: &Node, reader: &Reader) -> Option<TestStepSpec> {
    let fields = reader.section_to_fill(node, "a step of a test", node.span, &reference::TEST_STEP)?;
    let at = fields.get("at").and_then(|node| moment(reader, node).map(|moment| (moment, node.span)));
    let items = fields.get("events").map(|node| reader.list(node, "`events`")).unwrap_or_default();
    let events = items.iter().filter_map(|node| event(node, reader)).collect();
    let expect = fields.entry("expect").filter(|entry| reader.fill || !entry.value.is_null());
    let expect = expect.map(|entry| expect_of(reader, &entry.value, entry.key.span)).unwrap_or_default();
    if fields.sound && items.is_empty() && !fields.has("expect") {
        let help = "time passes by itself between two steps: write `at` at the next one".to_string();
        reader.findings.error(node.span, "this step has neither events nor anything to expect", help);
    }
    Some(TestStepSpec { at, events, expect })
}

/// A time that is written to the minute, `2026-03-01T10:00Z`, with its seconds.
fn with_seconds(text: &str) -> Cow<'_, str> {
    let parts = text.get(..16).zip(text.get(16..));
    match parts {
        Some((minute, zone))
            if minute.as_bytes()[13] == b':' && (zone.is_empty() || zone.starts_with(['Z', 'z', '+', '-'])) =>
        {
            Cow::Owned(format!("{minute}:00{zone}"))
        }
        _ => Cow::Borrowed(text),
    }
}

/// As [`parse_time`], also to the minute.
pub fn read_time(text: &str) -> Option<i64> {
    parse_time(&with_seconds(text.trim()))
}

fn moment(reader: &Reader, node: &Node) -> Option<MomentSpec> {
    let literal = reader.literal(node, "`at`")?;
    if let Some(after) = literal.text.strip_prefix('+') {
        let duration = humantime::parse_duration(after);
        let micros = duration.ok().and_then(|duration| i64::try_from(duration.as_micros()).ok());
        if micros.is_none() {
            let message = format!("`{after}` is not a duration");
            reader.findings.error(node.span, message, "write +30s, +2h, +1h59m or +7d".to_string());
        }
        return micros.map(MomentSpec::After);
    }
    let time = read_time(&literal.text);
    if time.is_none() {
        let help = "write 2026-03-01T10:00Z, or +2h for two hours after the step before".to_string();
        reader.findings.error(node.span, format!("`{}` is not a time", literal.text), help);
    }
    time.map(MomentSpec::At)
}

fn event(node: &Node, reader: &Reader) -> Option<TestEventSpec> {
    let Value::Map(entries) = &node.value else {
        let help = "write { event: Order Completed, user_id: u1 }".to_string();
        reader.findings.error(node.span, format!("an event is a map, this is {}", node.kind()), help);
        return None;
    };
    let mut source = None;
    let mut envelope = serde_json::Map::new();
    let mut sound = true;
    for Entry { key, value } in entries {
        if !ENVELOPE.contains(&key.text.as_str()) {
            // The spelling in snake_case is the one to suggest, where both are as near.
            let help =
                nearest_or_list(&key.text, ENVELOPE.into_iter().filter(|name| !name.contains(char::is_uppercase)));
            let help = help.map(|help| format!("{help}; what an event says beside these goes into `properties`"));
            reader.findings.error(key.span, format!("an event has no key `{}`", key.text), help);
            sound = false;
            continue;
        }
        if key.text == "source" {
            source = reader.literal(value, "`source`");
            continue;
        }
        let mut json = reader.json(value);
        if let (true, serde_json::Value::String(text)) = (TIMES.contains(&key.text.as_str()), &json) {
            json = with_seconds(text.trim()).into();
        }
        envelope.insert(key.text.clone(), json);
    }
    if sound && !["type", "event", "traits"].iter().any(|key| envelope.contains_key(*key)) {
        let help = "with `event` it is a track call, with `traits` an identify call".to_string();
        reader.findings.error(node.span, "an event needs `event`, `traits` or `type`", help);
    }
    Some(TestEventSpec { span: node.span, source, envelope })
}

fn expect_of(reader: &Reader, node: &Node, span: Span) -> Vec<(Span, ExpectSpec)> {
    let empty = node.is_null() || matches!(&node.value, Value::Map(entries) if entries.is_empty());
    if empty && reader.fill {
        return vec![(span, ExpectSpec::Blank(Blank::Everything))];
    }
    if reader.section_to_fill(node, "`expect`", span, &reference::EXPECT).is_none() {
        return Vec::new();
    }
    let mut all = Vec::new();
    let Value::Map(entries) = &node.value else { return all };
    if entries.is_empty() {
        let help = "`tributary test --update` writes what there is".to_string();
        reader.findings.error(span, "`expect` expects nothing", help);
    }
    for Entry { key, value } in entries {
        if value.is_null() && !reader.fill {
            continue;
        }
        let blank = match key.text.as_str() {
            "segments" => Some(Blank::Segments),
            "traits" => Some(Blank::Traits),
            "events" => Some(Blank::Events),
            "flags" => Some(Blank::Flags),
            // An empty list is filled like any other that is wrong.
            _ => None,
        };
        if let Some(blank) = blank.filter(|_| value.is_null()) {
            all.push((key.span, ExpectSpec::Blank(blank)));
            continue;
        }
        match key.text.as_str() {
            "profiles" => {
                let groups = reader.list(value, "`profiles`").iter();
                let groups = groups.map(|group| people(reader, group)).collect();
                all.push((key.span, ExpectSpec::Profiles(groups)));
            }
            "segments" => all.extend(reader.entries(value, "segments").iter().map(|Entry { key, value }| {
                (key.span, ExpectSpec::Segment { name: named(key), members: people(reader, value) })
            })),
            "traits" => all.extend(reader.entries(value, "traits").iter().map(|Entry { key, value }| {
                let values = reader.entries(value, &key.text).iter();
                let values = values.map(|entry| (named(&entry.key), reader.json(&entry.value), entry.value.span));
                (key.span, ExpectSpec::Traits { who: named(key), values: values.collect() })
            })),
            "groups" => {
                for Entry { key: group, value } in reader.entries(value, "groups") {
                    all.extend(reader.entries(value, &group.text).iter().map(|Entry { key, value }| {
                        let values = reader.entries(value, &key.text).iter();
                        let values =
                            values.map(|entry| (named(&entry.key), reader.json(&entry.value), entry.value.span));
                        let (group, id) = (named(group), named(key));
                        (key.span, ExpectSpec::Group { group, id, values: values.collect() })
                    }));
                }
            }
            "group_segments" => {
                all.extend(reader.entries(value, "group_segments").iter().map(|Entry { key, value }| {
                    (
                        key.span,
                        ExpectSpec::GroupSegment { name: named(key), members: texts(reader, value, "a group's id") },
                    )
                }))
            }
            "events" => all.extend(reader.entries(value, "events").iter().filter_map(|Entry { key, value }| {
                if value.is_null() && reader.fill {
                    return Some((key.span, ExpectSpec::Blank(Blank::EventOf(key.text.clone()))));
                }
                let who = reader.literal(value, "a person")?;
                Some((key.span, ExpectSpec::EventOf { message_id: named(key), who }))
            })),
            "flags" => all.extend(reader.entries(value, "flags").iter().map(|Entry { key, value }| {
                (key.span, ExpectSpec::Flags { message_id: named(key), flags: texts(reader, value, "a flag") })
            })),
            "conflicts" => all.push((
                key.span,
                ExpectSpec::Conflicts(rows(reader, value, "conflicts", "a conflict", &reference::CONFLICT)),
            )),
            "sent" => {
                all.push((key.span, ExpectSpec::Sent(rows(reader, value, "sent", "a message sent", &reference::SENT))))
            }
            "no_profile" => all.push((key.span, ExpectSpec::NoProfile(texts(reader, value, "`no_profile`")))),
            "rejected" => all.push((key.span, ExpectSpec::Rejected(texts(reader, value, "`rejected`")))),
            // Reported with the keys of the map.
            _ => {}
        }
    }
    all
}

fn named(key: &crate::definition::yaml::Key) -> Literal {
    Literal { text: key.text.clone(), span: key.span, known: true }
}

/// One person or a list of them, which may be empty.
fn people(reader: &Reader, node: &Node) -> Vec<Literal> {
    let person = |node: &Node| {
        // `user_id: u1`, which to YAML is a map.
        if let Value::Map(entries) = &node.value
            && let [Entry { key, value }] = &entries[..]
            && let Some(scalar) = value.as_scalar()
        {
            let value = if scalar.is_null() { "VALUE" } else { &scalar.text };
            let help = format!("write {}:{value}", key.text);
            reader.findings.error(node.span, "a person is written `type:value`, without a blank", help);
            return None;
        }
        reader.literal(node, "a person")
    };
    match &node.value {
        Value::List(items) => items.iter().filter_map(person).collect(),
        _ if node.is_null() && reader.fill => Vec::new(),
        _ => person(node).into_iter().collect(),
    }
}

/// One text or a list of texts, which may be empty.
fn texts(reader: &Reader, node: &Node, what: &str) -> Vec<Literal> {
    match &node.value {
        Value::List(items) => items.iter().filter_map(|item| reader.literal(item, what)).collect(),
        _ if node.is_null() && reader.fill => Vec::new(),
        _ => reader.literal(node, what).into_iter().collect(),
    }
}

fn rows(reader: &Reader, node: &Node, section: &str, what: &str, keys: &'static Section) -> Vec<RowSpec> {
    let row = |node: &Node| {
        let fields = reader.section(node, what, node.span, keys)?;
        let cells = keys.names().into_iter().filter_map(|key| {
            let value = fields.get(key)?;
            let cell = match key {
                "body" => CellSpec::Json(reader.json(value)),
                _ => CellSpec::Text(reader.literal(value, &format!("`{key}`"))?),
            };
            Some((key, cell))
        });
        Some(RowSpec { cells: cells.collect() })
    };
    reader.list(node, &format!("`{section}`")).iter().filter_map(row).collect()
}
