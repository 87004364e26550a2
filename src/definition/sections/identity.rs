//! The `identity` section: what people are known by, and the rules for each type.

use super::reference;
use crate::definition::findings::Span;
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};
use crate::event::TimeUs;
use crate::identity::{Limit, MAX_IDENTIFIERS, Normalize, OnConflict, Pattern, Region};

pub const ON_CONFLICT: [(&str, OnConflict); 2] = [("keep", OnConflict::Keep), ("reassign", OnConflict::Reassign)];

/// True: it is dropped.
pub const KEEP_OR_DROP: [(&str, bool); 2] = [("keep", false), ("drop", true)];

pub fn identity(node: &Node, span: Span, reader: &Reader) -> Option<IdentitySpec> {
    let fields = reader.section(node, "`identity`", span, &reference::IDENTITY)?;
    let key = fields.get("key").map(|node| reader.secret(node, "`key`"));
    let mut identifiers: Vec<IdentifierSpec> = Vec::new();
    let list = fields.get("identifiers");
    for node in list.map(|node| reader.list(node, "`identifiers`")).unwrap_or_default() {
        let Some(identifier) = identifier(node, reader) else { continue };
        let (name, span) = (identifier.name.as_str(), identifier.span);
        reader.check_name(name, span, "identifier type");
        if identifiers.iter().any(|other| other.name == name) {
            reader.findings.error(span, format!("identifier type `{name}` is listed twice"), None);
            continue;
        }
        identifiers.push(identifier);
    }
    if let Some(node) = list.filter(|node| matches!(&node.value, Value::List(items) if items.is_empty())) {
        reader.findings.error(node.span, "`identifiers` is an empty list: nobody would have a profile", None);
    }
    let on_conflict = fields.get("on_conflict").and_then(|node| reader.choice(node, "`on_conflict`", &ON_CONFLICT));
    let most = fields.get("max_identifiers").and_then(|node| reader.count(node, "`max_identifiers`", 2));
    Some(IdentitySpec {
        identifiers,
        block: block(&fields, reader),
        on_conflict: on_conflict.unwrap_or(OnConflict::Keep),
        max_identifiers: most.unwrap_or(MAX_IDENTIFIERS),
        previous_id: fields.get("previous_id").and_then(|node| reader.literal(node, "`previous_id`")),
        source_priority: fields.get("source_priority").and_then(|node| reader.literals(node, "`source_priority`")),
        key: key.map_or(Some(None), |key| key.map(Some))?,
    })
}

/// `email`, or `email: { … }` with options. A faulty option is reported and left out: the type itself is known.
fn identifier(node: &Node, reader: &Reader) -> Option<IdentifierSpec> {
    let plain = |name: &str, span| IdentifierSpec {
        name: name.to_string(),
        span,
        from: None,
        normalize: Normalize::Trim,
        limit: None,
        block: Vec::new(),
    };
    match &node.value {
        Value::Scalar(scalar) if !scalar.is_null() => Some(plain(&scalar.text, node.span)),
        Value::Map(entries) => match &entries[..] {
            [Entry { key, value }] if value.is_null() => Some(plain(&key.text, key.span)),
            [Entry { key, value }] => {
                let name = key.text.as_str();
                let what = format!("identifier type `{name}`");
                let Some(fields) = reader.section(value, what, key.span, &reference::IDENTIFIER) else {
                    return Some(plain(name, key.span));
                };
                Some(IdentifierSpec {
                    from: from(name, &fields, reader),
                    normalize: normalize(&fields, reader),
                    limit: fields.get("limit").and_then(|node| limit(node, reader)),
                    block: block(&fields, reader),
                    ..plain(name, key.span)
                })
            }
            _ => {
                let help = "write `- email` or `- email: { … }`, one type to an item, best first".to_string();
                reader.findings.error(node.span, "one identifier type is wanted here", help);
                None
            }
        },
        _ => {
            reader.findings.error(node.span, format!("an identifier type is a name, this is {}", node.kind()), None);
            None
        }
    }
}

fn from(name: &str, fields: &Fields, reader: &Reader) -> Option<Literal> {
    let from = reader.literal(fields.get("from")?, "`from`")?;
    if matches!(name, "user_id" | "anonymous_id") {
        let help = "a source's `map` says what goes into the column".to_string();
        let message = format!("`{name}` is a column of every event and comes from there");
        reader.findings.error(fields.key_span("from"), message, help);
        return None;
    }
    Some(from)
}

/// The rules by their names, without options.
pub fn rules() -> [(&'static str, Normalize); 5] {
    [
        ("trim", Normalize::Trim),
        ("lower", Normalize::Lower),
        ("digits", Normalize::Digits),
        ("email", Normalize::Email { without_dots: false, without_tags: false }),
        ("e164", Normalize::E164 { region: None }),
    ]
}

/// `normalize` with the options that go with it.
fn normalize(fields: &Fields, reader: &Reader) -> Normalize {
    let rules = rules();
    let choices: Vec<(&str, usize)> = rules.iter().enumerate().map(|(index, (name, _))| (*name, index)).collect();
    let index = match fields.get("normalize") {
        // A wrong one was reported, and what would go with it is unknown.
        Some(node) => match reader.choice(node, "`normalize`", &choices) {
            Some(index) => index,
            None => return Normalize::Trim,
        },
        None => 0,
    };
    let (name, mut rule) = rules.into_iter().nth(index).unwrap_or(("trim", Normalize::Trim));
    for (option, wants) in [("region", "e164"), ("dots", "email"), ("tags", "email")] {
        // A key that was mistyped may be `normalize` itself.
        if fields.has(option) && name != wants && fields.sound {
            let help = format!("write `normalize: {wants}` as well, or leave `{option}` out");
            let message = format!("`{option}` goes with `normalize: {wants}`");
            reader.findings.error(fields.key_span(option), message, help);
        }
    }
    let drops = |option: &str| {
        let node = fields.get(option);
        let choice = node.map(|node| reader.choice(node, &format!("`{option}`"), &KEEP_OR_DROP));
        choice.flatten().unwrap_or(false)
    };
    match &mut rule {
        Normalize::Email { without_dots, without_tags } => {
            (*without_dots, *without_tags) = (drops("dots"), drops("tags"));
        }
        Normalize::E164 { region: code } => *code = fields.get("region").and_then(|node| region(node, reader)),
        _ => {}
    }
    rule
}

fn region(node: &Node, reader: &Reader) -> Option<Region> {
    let literal = reader.literal(node, "`region`")?;
    let region = Region::new(&literal.text);
    if region.is_none() && literal.known {
        let upper = literal.text.to_uppercase();
        let meant = match upper.as_str() {
            "UK" => Some("GB".to_string()),
            _ => Region::new(&upper).map(|_| upper),
        };
        let help = meant.map_or("regions are two letters, as DE, US or GB (ISO 3166)".to_string(), |meant| {
            format!("did you mean `{meant}`?")
        });
        let message = format!("`{}` is not a region with phone numbers", literal.text);
        reader.findings.error(literal.span, message, help);
    }
    region
}

/// `5`, or `100 per 30d`.
fn limit(node: &Node, reader: &Reader) -> Option<Limit> {
    let literal = reader.literal(node, "`limit`")?;
    if !literal.known {
        return None;
    }
    let (count, within) = match literal.text.split_once(" per ") {
        Some((count, within)) => (count, Some(within.trim())),
        None => (literal.text.as_str(), None),
    };
    let count = match count.trim().parse::<u32>() {
        Ok(count) if count > 0 => count,
        _ => {
            let message = format!("`limit` is how many one person may have, from 1 on, not `{}`", literal.text);
            reader.findings.error(node.span, message, "write 5, or 100 per 30d".to_string());
            return None;
        }
    };
    let Some(within) = within else { return Some(Limit { count, within: None }) };
    let within = reader.duration_text(within, node.span, "`limit`")?;
    let Ok(within) = TimeUs::try_from(within.as_micros()) else {
        let help = "leave `per …` out for a limit that holds for ever".to_string();
        reader.findings.error(node.span, "`limit`: this time is too long", help);
        return None;
    };
    Some(Limit { count, within: Some(within) })
}

/// Values and `/regular expressions/`; what cannot be read is reported and left out.
fn block(fields: &Fields, reader: &Reader) -> Vec<Pattern> {
    let Some(node) = fields.get("block") else { return Vec::new() };
    let mut patterns = Vec::new();
    for node in reader.list(node, "`block`") {
        let Some(literal) = reader.literal(node, "a blocked value") else { continue };
        match Pattern::new(&literal.text) {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => {
                let message = format!("`{}` cannot be used: {problem}", literal.text);
                reader.findings.error(node.span, message, None);
            }
        }
    }
    patterns
}
