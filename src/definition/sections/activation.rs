//! Activations: what sets off which message.

use super::reference;
use crate::activation::Status;
use crate::definition::findings::Span;
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::Node;

pub const ON_BACKFILL: [(&str, bool); 2] = [("silent", false), ("fire", true)];

pub const STATUSES: [(&str, Status); 3] =
    [("paused", Status::Paused), ("dry_run", Status::DryRun), ("live", Status::Live)];

pub fn activation(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<ActivationSpec> {
    let fields = reader.section(node, what, span, &reference::ACTIVATION)?;
    let status = fields.get("status").map(|node| reader.choice(node, "`status`", &STATUSES));
    let on_backfill = fields.get("on_backfill").map(|node| reader.choice(node, "`on_backfill`", &ON_BACKFILL));
    let trigger = fields.get("trigger").and_then(|node| trigger(reader, node, fields.key_span("trigger")));
    let do_node = fields.get("do");
    let mut steps: Vec<SendSpec> = Vec::new();
    let items = do_node.map(|node| reader.list(node, "`do`")).unwrap_or_default();
    for node in items {
        let Some(step) = send(reader, node) else { continue };
        if steps.iter().any(|other| other.id.text == step.id.text) {
            let help = "a step's id is part of the idempotency key of what it sends".to_string();
            reader.findings.error(step.id.span, format!("{what} has two steps `{}`", step.id.text), help);
        }
        steps.push(step);
    }
    if let Some(node) = do_node.filter(|_| items.is_empty()) {
        reader.findings.error(node.span, format!("{what} does nothing: `do` is empty"), None);
        return None;
    }
    Some(ActivationSpec {
        trigger: trigger?,
        status: status.flatten().unwrap_or(Status::DryRun),
        on_backfill: on_backfill.flatten().unwrap_or(false),
        steps,
    })
}

fn trigger(reader: &Reader, node: &Node, span: Span) -> Option<TriggerSpec> {
    let fields = reader.section(node, "`trigger`", span, &reference::TRIGGER)?;
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    let (from, to) = (fields.get("from"), fields.get("to"));
    let chosen = fields.one()?;
    if chosen.0 != "changes"
        && let Some(key) = ["from", "to"].into_iter().find(|key| fields.get(key).is_some())
    {
        reader.findings.error(fields.key_span(key), format!("`{key}` goes with `changes`"), None);
        return None;
    }
    match chosen {
        ("changes", node) => {
            let stages = |node: Option<&Node>, what: &str| match node {
                Some(node) => reader.literals(node, what).map(Some),
                None => Some(None),
            };
            let trait_name = reader.literal(node, "`changes`");
            let (from, to) = (stages(from, "`from`"), stages(to, "`to`"));
            Some(TriggerSpec::Changes { trait_name: trait_name?, from: from?, to: to? })
        }
        ("event", node) => {
            let event = reader.literals(node, "`event`");
            let filter = filter.map_or(Some(None), |filter| filter.map(Some));
            Some(TriggerSpec::Event { event: event?, filter: filter? })
        }
        (kind, node) => {
            if filter.is_some() {
                let help = "put the condition into the segment".to_string();
                reader.findings.error(fields.key_span("where"), "`where` goes with `event`", help);
                return None;
            }
            let segment = reader.literal(node, &format!("`{kind}`"))?;
            Some(if kind == "enters" { TriggerSpec::Enters(segment) } else { TriggerSpec::Exits(segment) })
        }
    }
}

fn send(reader: &Reader, node: &Node) -> Option<SendSpec> {
    let step: Fields = reader.section(node, "a step", node.span, &reference::SEND_STEP)?;
    let id = step.get("id").and_then(|node| reader.literal(node, "`id`"));
    if let Some(id) = &id {
        reader.check_name(&id.text, id.span, "step");
    }
    let send = step.get("send")?;
    let fields = reader.section(send, "`send`", step.key_span("send"), &reference::SEND)?;
    let to = fields.get("to").and_then(|node| reader.literal(node, "`to`"));
    let body = fields.get("body").map(|node| (reader.json(node), node.clone()));
    Some(SendSpec { id: id?, to: to?, body }).filter(|_| fields.sound && step.sound)
}
