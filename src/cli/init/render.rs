//! A first pipeline as YAML, each section with a line that says what it is for.

use serde_json::{Map, Value, json};

use super::infer::normalize;
use super::map::{Mapped, Target};
use super::shape::snake;
use crate::definition::flow;

/// An event that the first trait counts.
pub struct Counted {
    /// None: any call.
    pub event: Option<String>,
    /// What a test says to make one: the keys beside the person.
    pub example: Map<String, Value>,
}

/// What does not change from the first look to the whole.
pub struct Head<'a> {
    pub pipeline: &'a str,
    pub source: &'a str,
    /// `file: { … }` or `kafka: { … }`.
    pub input: (&'static str, Value),
    pub mapped: &'a Mapped,
}

/// Source and identity alone, nothing rejected: enough to look at the events.
pub fn sources(head: &Head, contracts: &str) -> String {
    let Head { pipeline, source, input, mapped } = head;
    let mut yaml = format!("pipeline: {}\n", text(pipeline));
    yaml.push_str(contracts);
    yaml.push_str("\n# Where events come from, and how their payloads are read.\nsources:\n");
    yaml.push_str(&format!("  {source}:\n    {}: {}\n", input.0, flow(&input.1)));
    match &mapped.format["csv"]["columns"] {
        // One column to a line: their types are the first thing to correct.
        Value::Object(columns) => {
            yaml.push_str("    format:\n      csv:\n");
            if let Some(delimiter) = mapped.format["csv"].get("delimiter") {
                yaml.push_str(&format!("        delimiter: {}\n", flow(delimiter)));
            }
            yaml.push_str("        columns:\n");
            columns.iter().for_each(|(name, kind)| {
                yaml.push_str(&format!("          {}: {}\n", flow(&json!(name)), flow(kind)));
            });
        }
        _ => yaml.push_str(&format!("    format: {}\n", flow(&mapped.format))),
    }
    if !mapped.map.is_empty() {
        yaml.push_str(
            "    # What becomes of the source's columns: SQL, or { value: … } for the same in every event.\n    map:\n",
        );
        let mut root = "";
        for (target, value) in &mapped.map {
            let value = match value {
                Target::Sql(sql) => text(sql),
                Target::Literal(literal) => format!("{{ value: {} }}", text(literal)),
            };
            match target.split_once('.') {
                None => yaml.push_str(&format!("      {target}: {value}\n")),
                Some((first, rest)) => {
                    if first != root {
                        yaml.push_str(&format!("      {first}:\n"));
                        root = first;
                    }
                    yaml.push_str(&format!("        {}: {value}\n", flow(&json!(rest))));
                }
            }
        }
    }
    yaml.push_str(
        "\n# What a person is known by, best first. Two identifiers in one event belong to one person from then on.\n",
    );
    yaml.push_str("identity:\n  identifiers:\n");
    for identifier in identifiers(mapped) {
        match normalize(&identifier) {
            Some(rule) => yaml.push_str(&format!("    - {identifier}: {{ normalize: {rule} }}\n")),
            None => yaml.push_str(&format!("    - {identifier}\n")),
        }
    }
    yaml
}

/// The whole: with a trait, a segment and a test of them.
pub fn pipeline(head: &Head, contracts: &str, counted: &Counted) -> String {
    let mut yaml = format!(
        "# A first pipeline, inferred from {}. Every key: docs/pipeline-reference.md.\n\n",
        head.input.1["path"].as_str().or(head.input.1["topics"][0].as_str()).unwrap_or(head.source)
    );
    yaml.push_str(&sources(head, contracts));
    let what = counted.event.as_deref().map_or("event".to_string(), snake);
    let (name, segment) = (format!("{what}_count"), format!("{what}_repeated"));
    let of = counted.event.as_ref().map(|event| format!(", event: {}", text(event))).unwrap_or_default();
    yaml.push_str("\n# What is kept per person.\ntraits:\n");
    yaml.push_str(&format!("  {name}: {{ count: \"*\"{of} }}\n"));
    yaml.push_str("\n# Who belongs together: a SQL condition over traits, judged as events come in.\nsegments:\n");
    yaml.push_str(&format!("  {segment}: \"{name} >= 2\"\n"));

    let kind = identifiers(head.mapped).into_iter().next().unwrap_or_default();
    let value = match normalize(&kind) {
        Some("email") => "ann@example.com",
        Some("e164") => "+14155552671",
        _ => "p-1",
    };
    let who = flow(&json!(format!("{kind}:{value}")));
    let mut event = counted.example.clone();
    match kind.as_str() {
        "user_id" | "anonymous_id" => event.insert(kind.clone(), json!(value)),
        _ => event.insert("identifiers".to_string(), json!({ kind.clone(): value })),
    };
    let event = flow(&Value::Object(event));
    yaml.push_str("\n# What the definitions above make of a few events. `tributary test --update` writes the expectations anew.\n");
    yaml.push_str(&format!(
        "tests:\n  - name: the second time counts\n    steps:\n      - at: 2026-01-01T10:00Z\n        events:\n          - {event}\n        \
         expect: {{ segments: {{ {segment}: [] }} }}\n      - at: +1h\n        events:\n          - {event}\n        expect:\n          \
         traits: {{ {who}: {{ {name}: 2 }} }}\n          segments: {{ {segment}: [{who}] }}\n"
    ));
    yaml
}

/// Those that were found, or the usual ones.
fn identifiers(mapped: &Mapped) -> Vec<String> {
    if mapped.identifiers.is_empty() {
        return vec!["user_id".to_string(), "anonymous_id".to_string()];
    }
    mapped.identifiers.clone()
}

fn text(text: &str) -> String {
    flow(&json!(text))
}
