//! Schemas of traits and segments, whose readers have no tables of keys yet (`reference`).

use serde_json::{Map, Value, json};

/// A key, whether it is SQL, and the editor's hint.
const TRAIT_KEYS: [(&str, bool, &str); 23] = [
    ("latest", true, "the value of the latest event that has one"),
    ("first", true, "the value of the first event that has one"),
    ("count", true, "\"*\" for events, or how many have a value"),
    ("sum", true, "of numbers"),
    ("min", true, "the smallest"),
    ("max", true, "the largest"),
    ("mean", true, "of numbers"),
    ("most_frequent", true, "the value that came most often"),
    ("least_frequent", true, "the value that came least often"),
    ("distinct", true, "the different values"),
    ("gap", true, "the time or number between events"),
    ("funnel", false, "events, in order"),
    ("sequence", false, "steps, in order"),
    ("formula", true, "over other traits"),
    ("stages", false, "the first that holds"),
    ("event", false, "only events of these names"),
    ("where", true, "only events for which it is true"),
    ("on_merge", false, "whose value stands when profiles merge"),
    ("window", false, "only events of the last while"),
    ("within", false, "how long it may take"),
    ("by", true, "one value for each key"),
    ("keep", false, "how many values or keys are kept"),
    ("quantile", false, "of gaps, instead of their mean"),
];

pub fn a_trait() -> Value {
    let properties: Map<String, Value> = TRAIT_KEYS
        .iter()
        .map(|(name, sql, about)| {
            let schema = match (*sql, *name) {
                (_, "on_merge") => json!({ "enum": ["latest", "earliest", "survivor", "source_priority"] }),
                (true, _) => json!({ "type": ["string", "number", "boolean"] }),
                (false, _) => json!({}),
            };
            let Value::Object(mut schema) = schema else { return (name.to_string(), schema) };
            let kind = if *sql { "SQL" } else { "Literal" };
            schema.insert("description".to_string(), format!("{kind}: {about}").into());
            (name.to_string(), Value::Object(schema))
        })
        .collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

pub fn segment() -> Value {
    json!({ "type": ["string", "boolean", "object"], "description": "SQL: true for members, over traits" })
}
