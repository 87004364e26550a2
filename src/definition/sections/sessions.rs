//! The `sessions` section: where a person's visit ends.

use super::reference::SESSIONS;
use crate::definition::findings::Span;
use crate::definition::read::Reader;
use crate::definition::spec::*;
use crate::definition::yaml::Node;

pub const SPLITS: [(&str, Split); 2] = [("campaign", Split::Campaign), ("midnight", Split::Midnight)];

#[derive(Clone, Copy, PartialEq)]
pub enum Split {
    Campaign,
    Midnight,
}

/// Every key may be left out; one that is wrong has been reported and is left out too.
pub fn sessions(node: &Node, span: Span, reader: &Reader) -> Option<SessionsSpec> {
    let fields = reader.section(node, "`sessions`", span, &SESSIONS)?;
    let splits: Vec<Split> = fields.get("split_on").map(|node| splits(node, reader)).unwrap_or_default();
    Some(SessionsSpec {
        gap: fields.get("gap").and_then(|node| reader.duration(node, "`gap`")),
        lateness: fields.get("lateness").and_then(|node| reader.duration(node, "`lateness`")),
        split_on_campaign: splits.contains(&Split::Campaign),
        split_on_midnight: splits.contains(&Split::Midnight),
        events: fields.get("events").and_then(|node| reader.literals(node, "`events`")),
    })
}

fn splits(node: &Node, reader: &Reader) -> Vec<Split> {
    let one = |node| reader.choice(node, "`split_on`", &SPLITS);
    match node.as_scalar() {
        Some(_) => one(node).into_iter().collect(),
        None => reader.list(node, "`split_on`").iter().filter_map(one).collect(),
    }
}
