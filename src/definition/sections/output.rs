//! Traits, segments, destinations, activations and the warehouse.

use std::collections::BTreeMap;

use super::input::settings;
use super::reference;
use crate::activation::Status;
use crate::definition::Mode;
use crate::definition::findings::Span;
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node};

// Destinations, activations, the warehouse

pub const ON_BACKFILL: [(&str, bool); 2] = [("silent", false), ("fire", true)];

pub const STATUSES: [(&str, Status); 3] =
    [("paused", Status::Paused), ("dry_run", Status::DryRun), ("live", Status::Live)];

pub fn destination(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<DestinationSpec> {
    let fields = reader.section(node, what, span, &reference::DESTINATION)?;
    match fields.one()? {
        ("webhook", node) => webhook(reader, node, fields.key_span("webhook")),
        (_, node) => {
            let span = fields.key_span("kafka");
            let fields = reader.section(node, "`kafka`", span, &reference::KAFKA_DESTINATION)?;
            let brokers = fields.get("brokers").and_then(|node| reader.literal(node, "`brokers`"));
            let topic = fields.get("topic").and_then(|node| reader.literal(node, "`topic`"));
            let settings = fields.get("settings").map(|node| settings(reader, node));
            Some(DestinationSpec::Kafka {
                brokers: brokers?,
                topic: topic?,
                settings: settings.unwrap_or(Some(BTreeMap::new()))?,
            })
        }
    }
}

fn webhook(reader: &Reader, node: &Node, span: Span) -> Option<DestinationSpec> {
    let fields = reader.section(node, "`webhook`", span, &reference::WEBHOOK)?;
    let url = fields.get("url").and_then(|node| url(reader, node));
    let secret = fields.get("secret").map(|node| reader.secret(node, "`secret`"));
    let allow_private = fields.get("allow_private").map(|node| reader.boolean(node, "`allow_private`"));
    let mut headers = BTreeMap::new();
    for Entry { key, value } in fields.get("headers").map(|node| reader.entries(node, "headers")).unwrap_or_default() {
        let literal = header(reader, &key.text, value)?;
        headers.insert(key.text.clone(), literal);
    }
    Some(DestinationSpec::Webhook {
        url: url?,
        secret: secret.map_or(Some(None), |secret| secret.map(Some))?,
        headers,
        allow_private: allow_private.unwrap_or(Some(false))?,
    })
}

/// `Authorization: "Bearer ${env:TOKEN}"`: around the secret there may be other text, but it must be there.
fn header(reader: &Reader, name: &str, node: &Node) -> Option<Literal> {
    let lower = name.to_ascii_lowercase();
    let words = ["authorization", "token", "secret", "key", "password", "cookie"];
    let secret = words.iter().any(|word| lower.contains(word));
    let filled = node.as_scalar().is_some_and(|s| s.text.contains("${env:") || s.text.contains("${file:"));
    if secret && !filled {
        reader.findings.hide(node.span);
        let help = "write \"Bearer ${env:NAME}\" or the like".to_string();
        reader.findings.error(
            node.span,
            format!("header `{name}` is a secret and must not be written down here"),
            help,
        );
        return None;
    }
    reader.literal(node, &format!("header `{name}`"))
}

fn url(reader: &Reader, node: &Node) -> Option<Literal> {
    let literal = reader.literal(node, "`url`")?;
    let problem = match url::Url::parse(&literal.text) {
        _ if !literal.known => None,
        Ok(url) if !matches!(url.scheme(), "http" | "https") => Some("only http and https can be called".to_string()),
        Ok(url) if url.password().is_some() => {
            reader.findings.hide(node.span);
            Some("a password in a URL would be seen in logs".to_string())
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    match problem {
        Some(problem) => {
            reader.findings.error(node.span, format!("`url` cannot be used: {problem}"), None);
            None
        }
        None => Some(literal),
    }
}

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

pub fn warehouse(node: &Node, span: Span, reader: &Reader) -> Option<WarehouseSpec> {
    if let Some(scalar) = node.as_scalar() {
        if scalar.text == "lake" {
            return Some(WarehouseSpec::Lake);
        }
        let help = "write lake, or { clickhouse: { url: …, database: … } }".to_string();
        reader.findings.error(node.span, format!("there is no warehouse `{}`", scalar.text), help);
        return None;
    }
    let fields = reader.section(node, "`warehouse`", span, &reference::WAREHOUSE)?;
    let node = fields.get("clickhouse")?;
    let fields = reader.section(node, "`clickhouse`", fields.key_span("clickhouse"), &reference::CLICKHOUSE)?;
    let url_node = fields.get("url")?;
    let address = reader.literal(url_node, "`url`")?;
    let lake = address.known && address.text.is_empty();
    // Without a URL it is the lake, and the other variables need not be set.
    let reader = &Reader { mode: if lake { Mode::Check } else { reader.mode }, ..reader.clone() };
    let checked = if lake { Some(address) } else { url(reader, url_node) };
    let database = fields.get("database").and_then(|node| reader.literal(node, "`database`"));
    let user = fields.get("user").map(|node| reader.literal(node, "`user`"));
    let password = fields.get("password").map(|node| reader.secret(node, "`password`"));
    if lake {
        return Some(WarehouseSpec::Lake);
    }
    Some(WarehouseSpec::ClickHouse {
        url: checked?,
        database: database?,
        user: user.map_or(Some(None), |user| user.map(Some))?,
        password: password.map_or(Some(None), |password| password.map(Some))?,
    })
}
