//! The JSON Schema of pipeline files, for editors: made of the tables that the reader checks maps by.

use serde_json::{Map, Value, json};

use super::inputs;
use super::keys::{Holds, Key, Section};
use super::sections::{FILE, JOURNEY_STEP, event_keys};

/// The schema, draft 2020-12. It is a little wider than `check`, which knows the other files, the contracts and SQL.
pub fn json_schema() -> Value {
    let mut schema = map(&FILE);
    // A file of comments alone is one, too.
    schema["type"] = json!(["object", "null"]);
    schema["$defs"] = json!({ "steps": { "type": "array", "items": map(&JOURNEY_STEP) } });
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of Tributary",
        "description": "One of the YAML files of a pipeline; the sections of all of them are joined.",
    });
    match (head, schema) {
        (Value::Object(mut head), Value::Object(schema)) => {
            head.extend(schema);
            Value::Object(head)
        }
        (_, schema) => schema,
    }
}

fn map(section: &Section) -> Value {
    let properties: Map<String, Value> =
        section.keys.iter().map(|key| (key.name.to_string(), described(key))).collect();
    let required: Vec<&str> = section.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !section.one_of.is_empty() {
        let one = |name: &&str| json!({ "required": [name] });
        schema["oneOf"] = section.one_of.iter().map(one).collect();
    }
    schema
}

fn described(key: &Key) -> Value {
    let mut schema = holds(&key.holds);
    let kind = match kind(&key.holds) {
        "" => String::new(),
        kind => format!("{kind}: "),
    };
    schema["description"] = format!("{kind}{}", key.about).into();
    schema
}

/// Which of the three it is; nothing for what has keys of its own.
fn kind(holds: &Holds) -> &'static str {
    match holds {
        Holds::Secret => "Secret literal, ${env:NAME} or ${file:path}",
        Holds::Text | Holds::Count | Holds::Boolean | Holds::Duration | Holds::Choice(_) => "Literal",
        Holds::Sql => "SQL",
        Holds::Template => "Template",
        Holds::Json | Holds::Event => "JSON",
        Holds::Targets => "Column to SQL",
        Holds::List(inner) | Holds::OneOrMore(inner) | Holds::Any(inner) | Holds::Entries(inner) => kind(inner),
        Holds::OneOf(kinds) => kinds.first().map_or("", kind),
        Holds::Map(_) | Holds::Named(_) | Holds::Single(_) | Holds::Steps | Holds::Nothing => "",
    }
}

fn holds(holds_what: &Holds) -> Value {
    match holds_what {
        Holds::Text | Holds::Sql => json!({ "type": ["string", "number", "boolean"] }),
        Holds::Secret => json!({ "type": "string", "pattern": r"^\s*\$\{(env:[^}]*|file:[^}]*)\}\s*$" }),
        Holds::Count => or_variable(json!({ "type": "integer", "minimum": 0 })),
        Holds::Boolean => or_variable(json!({ "enum": [true, false, "true", "false"] })),
        Holds::Duration => json!({ "type": "string", "pattern": r"^\s*([0-9]+\s*[a-zA-Zµ]+\s*)+$|\$\{" }),
        Holds::Choice(names) => or_variable(json!({ "enum": names() })),
        Holds::Template | Holds::Json => json!({}),
        Holds::Map(section) => map(section),
        Holds::Named(inner) => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[a-z][a-z0-9_]*$" },
            "additionalProperties": holds(inner),
        }),
        Holds::Entries(inner) => json!({ "type": "object", "additionalProperties": holds(inner) }),
        Holds::List(inner) => json!({ "type": "array", "items": holds(inner) }),
        Holds::OneOrMore(inner) => {
            let one = holds(inner);
            json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        }
        Holds::Any(inner) => {
            let one = holds(inner);
            json!({ "anyOf": [one, { "type": "array", "items": one }] })
        }
        Holds::OneOf(kinds) => json!({ "anyOf": kinds.iter().map(holds).collect::<Vec<_>>() }),
        Holds::Single(inner) => json!({
            "type": "object",
            "additionalProperties": holds(inner),
            "minProperties": 1,
            "maxProperties": 1,
        }),
        Holds::Nothing => json!({ "type": "null" }),
        Holds::Targets => targets(),
        Holds::Steps => json!({ "$ref": "#/$defs/steps" }),
        Holds::Event => {
            let properties: Map<String, Value> =
                event_keys().into_iter().map(|key| (key.to_string(), json!({}))).collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
    }
}

fn or_variable(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "string", "pattern": r"\$\{" }] })
}

/// `map` and `set`: columns of the envelope, and keys of its objects.
fn targets() -> Value {
    let value = json!({ "anyOf": [
        { "type": ["string", "number", "boolean"] },
        { "type": "object", "properties": { "value": {} }, "required": ["value"], "additionalProperties": false },
    ] });
    let columns = inputs::writable().map(|name| (name.to_string(), value.clone()));
    let objects = inputs::WRITABLE_OBJECTS.iter().map(|name| {
        let inner = json!({ "type": "object", "additionalProperties": value });
        (name.to_string(), inner)
    });
    let properties: Map<String, Value> = columns.chain(objects).collect();
    // Also written with dots, `properties.total`.
    let dotted = format!("^({})\\.", inputs::WRITABLE_OBJECTS.join("|"));
    json!({
        "type": "object",
        "properties": properties,
        "patternProperties": { dotted: value },
        "additionalProperties": false,
    })
}
