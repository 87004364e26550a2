//! Destinations: where messages go.

use std::collections::BTreeMap;

use super::delivery::delivery;
use super::input::settings;
use super::output::url;
use super::reference;
use crate::activation::MailTls;
use crate::definition::findings::Span;
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};

pub const MAIL_TLS: [(&str, MailTls); 3] =
    [("required", MailTls::Required), ("opportunistic", MailTls::Opportunistic), ("none", MailTls::None)];

/// What a message to a mail server may hold.
pub fn email_keys() -> Vec<&'static str> {
    reference::MAIL.names()
}

pub fn destination(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<DestinationEntry> {
    let fields = reader.section(node, what, span, &reference::DESTINATION)?;
    let kind = kind(reader, &fields);
    let delivery = delivery(reader, &fields);
    let channel = fields.get("channel").map(|node| reader.literal(node, "`channel`"));
    let channel = channel.map_or(Some(None), |channel| channel.map(Some));
    Some(DestinationEntry { kind: kind?, delivery: delivery?, channel: channel? })
}

fn kind(reader: &Reader, fields: &Fields) -> Option<DestinationSpec> {
    let (kind, node) = fields.one()?;
    let span = fields.key_span(kind);
    if kind != "connector"
        && let Some(key) = ["with", "allow_private"].into_iter().find(|key| fields.has(key))
    {
        let help =
            (key == "allow_private" && matches!(kind, "webhook" | "email")).then(|| format!("write it into `{kind}`"));
        reader.findings.error(fields.key_span(key), format!("`{key}` here goes with `connector`"), help);
        return None;
    }
    match kind {
        "webhook" => webhook(reader, node, span),
        "email" => email(reader, node, span),
        "file" => {
            let fields = reader.section(node, "`file`", span, &reference::FILE_DESTINATION)?;
            Some(DestinationSpec::File { path: reader.literal(fields.get("path")?, "`path`")? })
        }
        "connector" => {
            let connector = reader.literal(node, "`connector`");
            let with = fields.get("with").map(|node| reader.entries(node, "with").to_vec()).unwrap_or_default();
            let allow_private = allow_private(reader, fields);
            Some(DestinationSpec::Connector { connector: connector?, with, allow_private: allow_private? })
        }
        _ => {
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

fn allow_private(reader: &Reader, fields: &Fields) -> Option<bool> {
    fields.get("allow_private").map_or(Some(false), |node| reader.boolean(node, "`allow_private`"))
}

fn email(reader: &Reader, node: &Node, span: Span) -> Option<DestinationSpec> {
    let fields = reader.section(node, "`email`", span, &reference::EMAIL)?;
    let text = |key: &str| match fields.get(key) {
        None => Some(None),
        Some(node) => reader.literal(node, &format!("`{key}`")).map(Some),
    };
    let password = fields.get("password").map(|node| reader.secret(node, "`password`"));
    let unsubscribe = fields.get("unsubscribe").map(|node| unsubscribe(reader, node));
    let tls = fields.get("tls").map(|node| reader.choice(node, "`tls`", &MAIL_TLS));
    let (smtp, from, user) = (text("smtp"), text("from"), text("user"));
    let (reply_to, ca, allow_private) = (text("reply_to"), text("ca"), allow_private(reader, &fields));
    if fields.has("user") != fields.has("password") {
        let (there, lacks) = if fields.has("user") { ("user", "password") } else { ("password", "user") };
        reader.findings.error(fields.key_span(there), format!("`{there}` needs `{lacks}` beside it"), None);
        return None;
    }
    Some(DestinationSpec::Email(Box::new(EmailSpec {
        smtp: smtp??,
        user: user?,
        password: password.map_or(Some(None), |password| password.map(Some))?,
        from: from??,
        reply_to: reply_to?,
        unsubscribe: unsubscribe.map_or(Some(None), |text| text.map(Some))?,
        tls: tls.unwrap_or(Some(MailTls::Required))?,
        ca: ca?,
        allow_private: allow_private?,
    })))
}

/// An https address that may hold templates.
fn unsubscribe(reader: &Reader, node: &Node) -> Option<String> {
    let scope = super::connector::Scope { roots: &["delivery", "body"], parameters: &[] };
    let text = scope.template(reader, node, "`unsubscribe`")?;
    if !text.starts_with("https://") {
        let message = "`unsubscribe` begins with https://, so that one click is enough (RFC 8058)";
        reader.findings.error(node.span, message, None);
        return None;
    }
    Some(text)
}

fn webhook(reader: &Reader, node: &Node, span: Span) -> Option<DestinationSpec> {
    let fields = reader.section(node, "`webhook`", span, &reference::WEBHOOK)?;
    let url = fields.get("url").and_then(|node| url(reader, node));
    let secrets = fields.get("secret").map(|node| secrets(reader, node));
    let allow_private = allow_private(reader, &fields);
    let mut headers = BTreeMap::new();
    for Entry { key, value } in fields.get("headers").map(|node| reader.entries(node, "headers")).unwrap_or_default() {
        let literal = header(reader, &key.text, value)?;
        headers.insert(key.text.clone(), literal);
    }
    Some(DestinationSpec::Webhook {
        url: url?,
        secrets: secrets.unwrap_or(Some(Vec::new()))?,
        headers,
        allow_private: allow_private?,
    })
}

/// One, or a list with the new one first.
fn secrets(reader: &Reader, node: &Node) -> Option<Vec<Literal>> {
    const SECRETS_MAX: usize = 3;
    let Value::List(items) = &node.value else { return Some(vec![reader.secret(node, "`secret`")?]) };
    if items.is_empty() || items.len() > SECRETS_MAX {
        let message = format!("`secret` is one secret, or a list of up to {SECRETS_MAX} with the new one first");
        reader.findings.error(node.span, message, None);
        return None;
    }
    // All of them are read before the first fault ends it.
    items.iter().map(|item| reader.secret(item, "`secret`")).collect::<Vec<_>>().into_iter().collect()
}

/// Whether what a header of this name holds is not for everybody's eyes.
pub(super) fn is_secret_header(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let words = ["authorization", "token", "secret", "key", "password", "cookie"];
    words.iter().any(|word| lower.contains(word))
}

/// `Authorization: "Bearer ${env:TOKEN}"`: around the secret there may be other text, but it must be there.
fn header(reader: &Reader, name: &str, node: &Node) -> Option<Literal> {
    let filled = node.as_scalar().is_some_and(|s| s.text.contains("${env:") || s.text.contains("${file:"));
    if is_secret_header(name) && !filled {
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
