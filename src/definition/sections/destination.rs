//! Destinations: where messages go.

use std::collections::BTreeMap;

use super::delivery::delivery;
use super::input::settings;
use super::output::url;
use super::reference;
use crate::definition::findings::Span;
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node};

pub fn destination(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<DestinationEntry> {
    let fields = reader.section(node, what, span, &reference::DESTINATION)?;
    let kind = kind(reader, &fields);
    let delivery = delivery(reader, &fields);
    let channel = fields.get("channel").map(|node| reader.literal(node, "`channel`"));
    let channel = channel.map_or(Some(None), |channel| channel.map(Some));
    Some(DestinationEntry { kind: kind?, delivery: delivery?, channel: channel? })
}

fn kind(reader: &Reader, fields: &Fields) -> Option<DestinationSpec> {
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
