//! `destinations:` → plans, and the bodies of what is sent to them.

use std::collections::BTreeMap;

use super::check::Checker;
use super::connectors;
use super::findings::{Span, nearest, nearest_or_list};
use super::inputs::texts;
use super::sections::email_keys;
use super::spec::*;
use super::yaml::{Entry, Node, Value};
use crate::activation::connector::{ConnectorPlan, Operation};
use crate::activation::{DeliveryPlan, DestinationKind, DestinationPlan, EmailPlan};
use crate::sink::email;

pub fn destination(checker: &Checker, name: &str, span: Span, entry: &DestinationEntry) -> Option<DestinationPlan> {
    let kind = match &entry.kind {
        DestinationSpec::Webhook { url, secrets, headers, allow_private } => DestinationKind::Webhook {
            url: url.text.clone(),
            secrets: secrets.iter().map(|secret| secret.text.clone()).collect(),
            headers: texts(headers),
            allow_private: *allow_private,
        },
        DestinationSpec::Kafka { brokers, topic, settings } => DestinationKind::Kafka {
            brokers: brokers.text.clone(),
            topic: topic.text.clone(),
            settings: texts(settings),
        },
        DestinationSpec::File { path } => DestinationKind::File { path: checker.reader.path(path) },
        DestinationSpec::Email(spec) => email(checker, spec)?,
        DestinationSpec::Connector { connector, with, allow_private } => {
            let plan = connectors::find(checker, connector)?;
            let with = parameters(checker, name, span, &plan, with)?;
            DestinationKind::Connector { connector: Box::new(plan), with, allow_private: *allow_private }
        }
    };
    let spec = &entry.delivery;
    let timeout = match kind {
        DestinationKind::Kafka { .. } => DeliveryPlan::TIMEOUT_OF_KAFKA,
        DestinationKind::Email(_) => DeliveryPlan::TIMEOUT_OF_EMAIL,
        DestinationKind::File { .. } => DeliveryPlan::TIMEOUT_OF_FILE,
        _ => DeliveryPlan::TIMEOUT,
    };
    let delivery = DeliveryPlan {
        rate_limit: spec.rate_limit,
        concurrency: spec.concurrency.map_or(DeliveryPlan::CONCURRENCY, |count| count as usize),
        timeout: spec.timeout.unwrap_or(timeout),
        retry_for: spec.retry_for.unwrap_or(DeliveryPlan::RETRY_FOR),
        in_order: spec.in_order,
        batch: spec.batch,
        redact: spec.redact.clone(),
    };
    Some(DestinationPlan { name: name.to_string(), kind, delivery })
}

fn email(checker: &Checker, spec: &EmailSpec) -> Option<DestinationKind> {
    let findings = checker.reader.findings;
    let mut sound = true;
    if spec.smtp.known && email::server(&spec.smtp.text).is_none() {
        let help = "write smtp://host:587 or smtps://host:465; user and password are keys of their own".to_string();
        findings.error(spec.smtp.span, "`smtp` is not the address of a mail server", help);
        sound = false;
    }
    for literal in [&spec.from].into_iter().chain(&spec.reply_to).filter(|literal| literal.known) {
        if email::mailbox(&literal.text).is_none() {
            let help = "write shop@example.com or \"Shop <shop@example.com>\"".to_string();
            findings.error(literal.span, format!("`{}` is no mail address", literal.text), help);
            sound = false;
        }
    }
    let text = |literal: &Option<Literal>| literal.as_ref().map(|literal| literal.text.clone());
    sound.then(|| {
        DestinationKind::Email(Box::new(EmailPlan {
            smtp: spec.smtp.text.clone(),
            user: text(&spec.user),
            password: text(&spec.password),
            from: spec.from.text.clone(),
            reply_to: text(&spec.reply_to),
            unsubscribe: spec.unsubscribe.clone(),
            tls: spec.tls,
            ca: spec.ca.as_ref().map(|path| checker.reader.path(path)),
            allow_private: spec.allow_private,
        }))
    })
}

/// What stands in `with`, against the connector's parameters.
fn parameters(
    checker: &Checker,
    name: &str,
    span: Span,
    plan: &ConnectorPlan,
    with: &[Entry],
) -> Option<BTreeMap<String, String>> {
    let (reader, findings) = (&checker.reader, checker.reader.findings);
    let mut values = BTreeMap::new();
    let mut sound = true;
    for Entry { key, value } in with {
        let Some(parameter) = plan.parameters.iter().find(|parameter| parameter.name == key.text) else {
            let names = plan.parameters.iter().map(|parameter| parameter.name.as_str());
            let message = format!("connector `{}` has no parameter `{}`", plan.name, key.text);
            findings.error(key.span, message, nearest_or_list(&key.text, names));
            sound = false;
            continue;
        };
        let what = format!("`{}`", key.text);
        let literal = if parameter.secret { reader.secret(value, &what) } else { reader.literal(value, &what) };
        sound &= literal.is_some();
        values.extend(literal.map(|literal| (key.text.clone(), literal.text)));
    }
    let given = |name: &str| with.iter().any(|entry| entry.key.text == name);
    let needed = plan.parameters.iter().filter(|p| !p.optional && p.default.is_none() && !given(&p.name));
    let missing: Vec<&str> = needed.map(|parameter| parameter.name.as_str()).collect();
    // With a wrong name it may be that very one.
    if sound && !missing.is_empty() {
        let all = super::findings::and_list(&missing);
        let message = format!("destination `{name}`: connector `{}` needs {all} in `with`", plan.name);
        findings.error(span, message, None);
        return None;
    }
    sound.then_some(values)
}

/// Whether a destination can make something of a step's body, as far as that can be told before it is rendered. False
/// where something was reported.
pub fn check_body(checker: &Checker, to: &Literal, body: Option<&Node>) -> bool {
    let findings = checker.reader.findings;
    let Some(spec) = checker.destination(&to.text) else { return true };
    let plan = match spec {
        DestinationSpec::Email(_) => None,
        DestinationSpec::Connector { connector, .. } => match connectors::known(checker, &connector.text) {
            Some(plan) => Some(plan),
            None => return true,
        },
        _ => return true,
    };
    let kind = if plan.is_some() { "connector" } else { "mail server" };
    let Some(body) = body else {
        let help =
            plan.is_none().then(|| "body: { to: \"{{ profile.traits.email }}\", subject: …, text: … }".to_string());
        findings.error(to.span, format!("`{}` is a {kind}: `send` needs a `body`", to.text), help);
        return false;
    };
    let Value::Map(entries) = &body.value else {
        findings.error(body.span, format!("the body for a {kind} is a map, this is {}", body.kind()), None);
        return false;
    };
    match plan {
        Some(plan) => of_connector(checker, &plan, body.span, entries),
        None => mail(checker, body.span, entries),
    }
}

fn mail(checker: &Checker, span: Span, entries: &[Entry]) -> bool {
    let findings = checker.reader.findings;
    let known = email_keys();
    let mut sound = true;
    for Entry { key, .. } in entries.iter().filter(|entry| !known.contains(&entry.key.text.as_str())) {
        let help = nearest_or_list(&key.text, known.iter().copied());
        findings.error(key.span, format!("a mail has no `{}`", key.text), help);
        sound = false;
    }
    let get = |name: &str| entries.iter().find(|entry| entry.key.text == name).map(|entry| &entry.value);
    // With a wrong key it may be that very one.
    if sound {
        for missing in ["to", "subject"].into_iter().filter(|name| get(name).is_none()) {
            findings.error(span, format!("a mail needs `{missing}`"), None);
            sound = false;
        }
        if get("text").is_none() && get("html").is_none() {
            findings.error(span, "a mail needs `text`, `html`, or both", None);
            sound = false;
        }
    }
    for name in ["to", "from", "reply_to"] {
        let written = get(name).and_then(|node| node.as_scalar().map(|scalar| (node, scalar)));
        let literal = written.filter(|(_, scalar)| !scalar.text.contains("{{") && !scalar.text.contains("{%"));
        if let Some((node, scalar)) = literal.filter(|(_, scalar)| email::mailbox(&scalar.text).is_none()) {
            findings.error(node.span, format!("`{}` is no mail address", scalar.text), None);
            sound = false;
        }
    }
    sound
}

fn of_connector(checker: &Checker, plan: &ConnectorPlan, span: Span, entries: &[Entry]) -> bool {
    let findings = checker.reader.findings;
    let has = |name: &str| entries.iter().any(|entry| entry.key.text == name);
    let names: Vec<&str> = plan.operations.iter().filter_map(|operation| operation.name.as_deref()).collect();
    let needs = |operation: &Operation| {
        let missing: Vec<&str> = operation.needs.iter().map(String::as_str).filter(|key| !has(key)).collect();
        if missing.is_empty() {
            return true;
        }
        let what = match &operation.name {
            Some(name) => format!("`{}` with `op: {name}`", plan.name),
            None => format!("`{}`", plan.name),
        };
        findings.error(span, format!("the body for {what} needs {}", super::findings::and_list(&missing)), None);
        false
    };
    if names.is_empty() {
        return plan.operations.iter().all(needs);
    }
    let Some(op) = entries.iter().find(|entry| entry.key.text == "op") else {
        let message = format!("the body for `{}` needs `op`: {}", plan.name, super::findings::and_list(&names));
        findings.error(span, message, None);
        return false;
    };
    let Some(scalar) = op.value.as_scalar().filter(|scalar| !scalar.text.contains("{{")) else { return true };
    match plan.operations.iter().find(|operation| operation.name.as_deref() == Some(&scalar.text)) {
        Some(operation) => needs(operation),
        None => {
            let message = format!("`op` is one of {}, not `{}`", super::findings::and_list(&names), scalar.text);
            findings.error(op.value.span, message, nearest(&scalar.text, names.iter().copied()));
            false
        }
    }
}
