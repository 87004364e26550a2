//! An explanation as text for people and as JSON.

use serde_json::{Value, json};

use super::events::{Behind, Event};
use super::segment::{Explained, NowIs, STEPS_MAX, What};
use super::tree::{Inner, Kind, Leaf, Node};
use super::values::{TraitView, rule_text, written};
use crate::activation::time_text;
use crate::engine::Readiness;
use crate::event::TimeUs;
use crate::profile::{BUILT_IN, TraitRule};

/// Lines are broken where they would be wider.
const WIDTH: usize = 100;
/// Of a value in a line.
const VALUE_CHARS: usize = 60;

/// Two units at most: `3 days 4 hours`.
pub fn duration(us: i64) -> String {
    const UNITS: [(&str, i64); 4] = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
    let seconds = us / 1_000_000;
    let Some(first) = UNITS.iter().position(|(_, length)| seconds >= *length) else {
        return "less than a second".to_string();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, length) in UNITS.iter().skip(first).take(2) {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.join(" ")
}

pub fn as_text(explained: &Explained<'_>) -> String {
    let mut text = Text::default();
    let person = explained.person;
    let best = person.component.best().and_then(|best| {
        let kind = explained.pipeline.identity.types.get(usize::from(best.kind))?;
        Some(format!(" ({}:{})", kind.name, best.value))
    });
    let best = best.unwrap_or_default();
    match explained.what {
        What::Segment { index, .. } => {
            let plan = &explained.pipeline.segments[index];
            text.line(0, &format!("segment {}", plan.name), &plan.rule.text());
        }
        What::Trait { index } => {
            let plan = &explained.traits.plans[index];
            text.line(0, &format!("trait {}", plan.name), &rule_text(plan));
        }
    }
    text.line(0, &format!("profile {}{best}", person.component.id), "");
    let why = match explained.now_is {
        NowIs::Clock => "the wall clock, since the pipeline runs",
        NowIs::State => "the time of the last commit, since nothing runs",
        NowIs::Files => "as far as the files have come",
    };
    text.line(0, &format!("now is {}: {why}", time_text(explained.now)), "");
    text.blank();
    if let What::Segment { index, .. } = explained.what {
        standing(explained, index as u16, &mut text);
        text.blank();
        if let Some(tree) = &explained.tree {
            node(tree, 0, explained, &mut text);
            if has_unknown(tree) {
                text.blank();
                text.line(0, "? is unknown, since a value is null, and counts as false", "");
            }
            text.blank();
        }
    }
    for (place, view) in explained.views.iter().enumerate() {
        let behind = explained.behind.as_ref().ok().and_then(|all| all.get(place));
        trait_view(view, behind, explained, &mut text);
        text.blank();
    }
    if let (What::Segment { .. }, Ok(changes)) = (explained.what, &explained.changes)
        && !changes.is_empty()
    {
        text.line(0, "entered and exited, the latest first:", "");
        for change in changes {
            let own = change.profile_id == person.component.id.to_string();
            let of = if own { String::new() } else { format!(", as {}", change.profile_id) };
            let line = format!("{}  {} ({}{of})", time_text(change.changed_at), change.change, change.cause);
            text.line(1, &line, "");
        }
    }
    text.lines.join("\n").trim_end().to_string()
}

/// Whether they are a member, since when, and until when.
fn standing(explained: &Explained<'_>, segment: u16, text: &mut Text) {
    let stored = explained.look.profile.membership(segment);
    let entries = if stored.entries > 1 { format!(", for the {}. time", stored.entries) } else { String::new() };
    text.line(
        0,
        &match (stored.member, stored.entries) {
            (true, _) => format!("a member since {}{entries}", time_text(stored.since)),
            (false, 0) => "no member, and never was one".to_string(),
            (false, _) => format!("no member since {}", time_text(stored.since)),
        },
        "",
    );
    for remark in remarks(explained) {
        text.line(0, &format!("note: {remark}"), "");
    }
    let Some(holds) = explained.holds(segment) else { return };
    if explained.tree.is_none() {
        return;
    }
    text.line(
        0,
        &match (explained.flip, explained.looked_until) {
            (Some((at, entered)), _) => {
                let verb = if entered { "enters" } else { "leaves" };
                format!("{verb} at {} ({}), if no event comes", time_text(at), from_now(explained.now, at))
            }
            (None, Some(until)) => {
                format!(
                    "the same until {} at least, if no event comes ({STEPS_MAX} moments looked at)",
                    time_text(until)
                )
            }
            (None, None) if holds => "never leaves, if no event comes".to_string(),
            (None, None) => "never enters, if no event comes".to_string(),
        },
        "",
    );
}

/// What keeps the answer from being the whole truth.
fn remarks(explained: &Explained<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut add = |what: &str, name: &str, known: Readiness| {
        let text = match known {
            Readiness::Ready => return,
            Readiness::Filling if what == "trait" => "is being filled from the past and counts as null until then",
            Readiness::Filling => "is being filled from the past: who is in it has not been settled yet",
            Readiness::Changed if what == "trait" => {
                "means something else in the state, and counts as null until a run takes this over"
            }
            Readiness::Changed => {
                "means something else in the state, and that says who is in it until a run takes this over"
            }
            Readiness::New => "is not in the state: no run has taken it over",
        };
        remarks.push(format!("{what} {name} {text}"));
    };
    for (segment, _) in &explained.memberships {
        let index = usize::from(*segment);
        add("segment", &explained.pipeline.segments[index].name, explained.look.segments[index]);
    }
    for view in &explained.views {
        add("trait", &explained.traits.plans[view.index].name, explained.look.traits[view.index]);
    }
    if let What::Segment { index, .. } = explained.what
        && explained.look.segments[index] == Readiness::Ready
        && let Some(holds) = explained.holds(index as u16)
        && holds != explained.look.profile.membership(index as u16).member
    {
        let verb = if holds { "takes them in" } else { "does not take them in" };
        remarks.push(format!(
            "at this moment the definition {verb}; the state is judged up to {}",
            time_text(explained.look.profile.as_of)
        ));
    }
    remarks
}

fn mark(holds: Option<bool>) -> &'static str {
    match holds {
        Some(true) => "✓",
        Some(false) => "✗",
        None => "?",
    }
}

fn has_unknown(node: &Node) -> bool {
    let inner = match &node.kind {
        Kind::Condition(leaf) => leaf.segments.iter().filter_map(|inner| inner.tree.as_ref()).any(has_unknown),
        _ => false,
    };
    node.holds.is_none() || inner || node.parts.iter().any(has_unknown)
}

fn node(of: &Node, depth: usize, explained: &Explained<'_>, text: &mut Text) {
    let mark = mark(of.holds);
    let (title, leaf) = match &of.kind {
        Kind::All => ("all of", None),
        Kind::Any => ("any of", None),
        Kind::Not => ("not", None),
        Kind::Condition(leaf) => (leaf.sql.as_str(), Some(leaf)),
    };
    let values = leaf.map(|leaf| leaf_values(leaf, explained)).unwrap_or_default();
    text.line(depth, &format!("{mark} {title}"), &values);
    if let Some(leaf) = leaf {
        if let Some((at, to)) = of.change {
            let what = match to {
                Some(true) => "true",
                Some(false) => "false",
                None => "unknown",
            };
            text.line(depth + 2, &format!("{what} from {} ({})", time_text(at), from_now(explained.now, at)), "");
        }
        inner(leaf, depth, explained, text);
    }
    of.parts.iter().for_each(|part| node(part, depth + 1, explained, text));
}

fn inner(leaf: &Leaf, depth: usize, explained: &Explained<'_>, text: &mut Text) {
    for Inner { index, tree } in &leaf.segments {
        let plan = &explained.pipeline.segments[usize::from(*index)];
        let membership = explained.membership(*index);
        let since = match (membership.member, membership.entries) {
            (true, _) => format!("a member since {}", time_text(membership.since)),
            (false, 0) => "never a member".to_string(),
            (false, _) => format!("no member since {}", time_text(membership.since)),
        };
        let definition = if tree.is_none() { plan.rule.text() } else { String::new() };
        text.line(depth + 2, &format!("segment {}: {since}", plan.name), &definition);
        tree.iter().for_each(|tree| node(tree, depth + 2, explained, text));
    }
}

/// `orders = 3, country = 'DE'`.
fn leaf_values(leaf: &Leaf, explained: &Explained<'_>) -> String {
    let value = |column: &usize| {
        let name = written(explained.traits, *column);
        let value = explained.value(*column).map_or("?".to_string(), value_text);
        format!("{name} = {value}")
    };
    leaf.columns.iter().map(value).collect::<Vec<_>>().join(", ")
}

fn trait_view(view: &TraitView, behind: Option<&Behind>, explained: &Explained<'_>, text: &mut Text) {
    let plan = &explained.traits.plans[view.index];
    let pairs = |values: &mut dyn Iterator<Item = (&String, &Value)>| {
        values.map(|(name, value)| format!("{name} = {}", value_text(value))).collect::<Vec<_>>().join(", ")
    };
    let values = pairs(&mut view.values.iter().map(|(name, value)| (name, value)));
    text.line(0, &values, &rule_text(plan));
    if let Some((at, to)) = &view.change {
        let to = pairs(&mut view.values.iter().map(|(name, _)| name).zip(to));
        let line = format!("{to} from {} ({}), if no event comes", time_text(*at), from_now(explained.now, *at));
        text.line(1, &line, "");
    }
    for (name, stage) in &view.stages {
        text.line(1, &format!("{} {name}", mark(stage.holds)), "");
        node(stage, 2, explained, text);
    }
    if let (TraitRule::Events(rule), Some(behind)) = (&plan.rule, behind) {
        text.line(1, &count_text(behind, rule.window.is_some(), rule.kind.stands_for_one_event()), "");
        for event in &behind.shown {
            let Event { at, name, message_id, position, value, key } = event;
            let key = key.as_ref().map(|key| format!("  {key}")).unwrap_or_default();
            let adds = value.as_ref().map(|value| format!("  {}", value_text(value))).unwrap_or_default();
            let line = format!("{}  {name}{key}{adds}  {message_id}", time_text(*at));
            text.line(2, &line, &format!("at {position}"));
        }
    }
}

fn count_text(behind: &Behind, has_window: bool, one_stands: bool) -> String {
    let events = |count: usize| format!("{count} event{}", if count == 1 { "" } else { "s" });
    let mut line = match (behind.count, has_window) {
        (0, false) => "no event".to_string(),
        (0, true) => "no event in the window".to_string(),
        (count, false) => events(count),
        (count, true) => format!("{} in the window", events(count)),
    };
    if behind.outside > 0 {
        line += &format!(", {} before it", behind.outside);
    }
    if behind.ahead > 0 {
        line += &format!(", {} yet to come", behind.ahead);
    }
    if behind.shown.len() == 1 && behind.count > 1 && one_stands {
        line += "; it is that of";
    } else if !behind.shown.is_empty() && behind.shown.len() < behind.count.max(behind.outside) {
        line += "; the latest";
    }
    if behind.shown.is_empty() { line } else { format!("{line}:") }
}

fn from_now(now: TimeUs, at: TimeUs) -> String {
    format!("in {}", duration(at.saturating_sub(now)))
}

/// As in SQL, cut where it is long.
fn value_text(value: &Value) -> String {
    let text = match value {
        Value::String(text) if chrono::DateTime::parse_from_rfc3339(text).is_ok() => text.clone(),
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    if text.chars().count() <= VALUE_CHARS {
        return text;
    }
    text.chars().take(VALUE_CHARS).chain(['…']).collect()
}

#[derive(Default)]
struct Text {
    lines: Vec<String>,
}

impl Text {
    /// `more` stands in the same line where there is room for it, else below.
    fn line(&mut self, depth: usize, text: &str, more: &str) {
        let start = format!("{}{text}", "  ".repeat(depth));
        if more.is_empty() {
            self.lines.push(start);
        } else if start.chars().count() + more.chars().count() + 3 <= WIDTH && !more.contains('\n') {
            self.lines.push(format!("{start}   {more}"));
        } else {
            self.lines.push(start);
            self.lines.extend(more.lines().map(|more| format!("{}    {}", "  ".repeat(depth), more.trim())));
        }
    }

    fn blank(&mut self) {
        if self.lines.last().is_some_and(|line| !line.is_empty()) {
            self.lines.push(String::new());
        }
    }
}

impl Explained<'_> {
    /// The value of a column of the traits at `now`; None where it is not shown.
    fn value(&self, column: usize) -> Option<&Value> {
        if column < BUILT_IN.len() {
            return self.built_in.get(column);
        }
        let name = written(self.traits, column);
        let values = self.views.iter().flat_map(|view| &view.values);
        values.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

pub fn as_json(explained: &Explained<'_>) -> Value {
    let person = explained.person;
    let mut all = json!({
        "profile_id": person.component.id.to_string(),
        "now": time_text(explained.now),
        "now_is": match explained.now_is {
            NowIs::Clock => "clock",
            NowIs::State => "state",
            NowIs::Files => "files",
        },
        "looked_until": explained.looked_until.map(time_text),
        "notes": remarks(explained),
    });
    let traits = explained.views.iter().enumerate().map(|(place, view)| {
        let behind = explained.behind.as_ref().ok().and_then(|all| all.get(place));
        trait_json(view, behind, explained)
    });
    match explained.what {
        What::Trait { index } => {
            all["trait"] = explained.traits.plans[index].name.clone().into();
            all["traits"] = traits.collect();
        }
        What::Segment { index, .. } => {
            let segment = index as u16;
            let plan = &explained.pipeline.segments[index];
            let stored = explained.look.profile.membership(segment);
            all["segment"] = plan.name.clone().into();
            all["definition"] = plan.rule.text().into();
            all["member"] = stored.member.into();
            all["since"] = (stored.entries > 0).then(|| time_text(stored.since)).into();
            all["entries"] = stored.entries.into();
            all["holds"] = explained.holds(segment).into();
            all["changes_at"] = explained.flip.map(|(at, _)| time_text(at)).into();
            all["condition"] = explained.tree.as_ref().map_or(Value::Null, |tree| node_json(tree, explained));
            all["traits"] = traits.collect();
            if let Ok(changes) = &explained.changes {
                let change = |change: &super::events::Change| {
                    json!({
                        "changed_at": time_text(change.changed_at), "change": change.change, "cause": change.cause,
                        "profile_id": change.profile_id,
                    })
                };
                all["changes"] = changes.iter().map(change).collect();
            }
        }
    }
    all
}

fn node_json(node: &Node, explained: &Explained<'_>) -> Value {
    let mut all = json!({ "holds": node.holds });
    if let Some((at, to)) = node.change {
        all["changes_at"] = time_text(at).into();
        all["changes_to"] = to.into();
    }
    let parts = || -> Value { node.parts.iter().map(|part| node_json(part, explained)).collect() };
    match &node.kind {
        Kind::All => all["all"] = parts(),
        Kind::Any => all["any"] = parts(),
        Kind::Not => all["not"] = node.parts.first().map_or(Value::Null, |part| node_json(part, explained)),
        Kind::Condition(leaf) => {
            all["sql"] = leaf.sql.clone().into();
            let value = |column: &usize| {
                (written(explained.traits, *column), explained.value(*column).cloned().unwrap_or(Value::Null))
            };
            all["values"] = Value::Object(leaf.columns.iter().map(value).collect());
            if !leaf.segments.is_empty() {
                all["segments"] = leaf.segments.iter().map(|inner| inner_json(inner, explained)).collect();
            }
        }
    }
    all
}

fn inner_json(inner: &Inner, explained: &Explained<'_>) -> Value {
    let plan = &explained.pipeline.segments[usize::from(inner.index)];
    let membership = explained.membership(inner.index);
    json!({
        "segment": plan.name,
        "definition": plan.rule.text(),
        "member": membership.member,
        "since": (membership.entries > 0).then(|| time_text(membership.since)),
        "condition": inner.tree.as_ref().map(|tree| node_json(tree, explained)),
    })
}

fn trait_json(view: &TraitView, behind: Option<&Behind>, explained: &Explained<'_>) -> Value {
    let plan = &explained.traits.plans[view.index];
    let object = |pairs: &mut dyn Iterator<Item = (&String, &Value)>| {
        Value::Object(pairs.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    let mut all = json!({
        "trait": plan.name,
        "definition": rule_text(plan),
        "values": object(&mut view.values.iter().map(|(name, value)| (name, value))),
    });
    if let Some((at, to)) = &view.change {
        all["changes_at"] = time_text(*at).into();
        all["changes_to"] = object(&mut view.values.iter().map(|(name, _)| name).zip(to));
    }
    if !view.stages.is_empty() {
        let stage = |(name, node): &(String, Node)| json!({ "stage": name, "condition": node_json(node, explained) });
        all["stages"] = view.stages.iter().map(stage).collect();
    }
    if let (TraitRule::Events(_), Some(behind)) = (&plan.rule, behind) {
        let event = |event: &Event| {
            json!({
                "timestamp": time_text(event.at), "event": event.name, "message_id": event.message_id,
                "position": event.position, "key": event.key, "value": event.value,
            })
        };
        all["events"] = json!({
            "count": behind.count, "outside_window": behind.outside, "not_yet": behind.ahead,
            "shown": behind.shown.iter().map(event).collect::<Vec<_>>(),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let second = 1_000_000;
        let rows = [
            (0, "less than a second"),
            (second - 1, "less than a second"),
            (second, "1 second"),
            (61 * second, "1 minute 1 second"),
            (3_600 * second + 59 * second, "1 hour"),
            (86_400 * 30 * second, "30 days"),
            (86_400 * 2 * second + 3_600 * second + 1, "2 days 1 hour"),
        ];
        for (us, expected) in rows {
            assert_eq!(duration(us), expected, "{us}");
        }
    }
}
