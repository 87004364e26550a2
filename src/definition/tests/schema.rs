//! The JSON Schema for editors: it knows every key that a reader knows, and the pipelines that ship are valid.

use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Value, json};

use super::super::findings::Findings;
use super::super::read::Reader;
use super::super::{Mode, json_schema, yaml};

/// What is wrong, by the keywords that the schema uses. Any other keyword is a failure of the test.
fn validate(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let Value::Object(keywords) = schema else { panic!("{at}: no schema: {schema}") };
    let mut wrong = Vec::new();
    let mut say = |what: String| wrong.push(format!("{at}: {what}"));
    let valid = |schema: &Value| validate(schema, value, at).is_empty();
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    let matches = |pattern: &Value, text: &str| Regex::new(pattern.as_str().unwrap()).unwrap().is_match(text);
    let entries = value.as_object();
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => {
                assert_eq!(wanted, "#/$defs/steps");
                validate(&json_schema()["$defs"]["steps"], value, at).into_iter().for_each(&mut say);
            }
            "type" => {
                let fits = match wanted {
                    Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
                    name => is(name.as_str().unwrap()),
                };
                if !fits {
                    say(format!("is not {wanted}"));
                }
            }
            "enum" => {
                if !wanted.as_array().unwrap().contains(value) {
                    say(format!("{value} is none of {wanted}"));
                }
            }
            "pattern" => {
                if value.as_str().is_some_and(|text| !matches(wanted, text)) {
                    say(format!("{value} does not match"));
                }
            }
            "minimum" => {
                if value.as_f64().is_some_and(|number| number < wanted.as_f64().unwrap()) {
                    say(format!("{value} is less than {wanted}"));
                }
            }
            "anyOf" => {
                if !wanted.as_array().unwrap().iter().any(valid) {
                    say(format!("{value} is of no kind that can stand here"));
                }
            }
            "oneOf" => {
                let count = wanted.as_array().unwrap().iter().filter(|schema| valid(schema)).count();
                if count != 1 {
                    say(format!("{count} of {wanted}"));
                }
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    if entries.is_some_and(|entries| !entries.contains_key(name.as_str().unwrap())) {
                        say(format!("{name} is missing"));
                    }
                }
            }
            "minItems" => {
                if value.as_array().is_some_and(|items| (items.len() as u64) < wanted.as_u64().unwrap()) {
                    say("too few".to_string());
                }
            }
            "minProperties" | "maxProperties" => {
                let count = entries.map(|entries| entries.len() as u64);
                let limit = wanted.as_u64().unwrap();
                if count.is_some_and(|count| if keyword.starts_with("min") { count < limit } else { count > limit }) {
                    say(format!("{keyword} {limit}"));
                }
            }
            "propertyNames" => {
                for (name, _) in entries.into_iter().flatten() {
                    let fine = validate(wanted, &json!(name), at);
                    fine.into_iter().for_each(&mut say);
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(wanted, item, &format!("{at}[{index}]")).into_iter().for_each(&mut say);
                }
            }
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    if let Some(value) = entries.and_then(|entries| entries.get(name)) {
                        validate(schema, value, &format!("{at}.{name}")).into_iter().for_each(&mut say);
                    }
                }
            }
            "patternProperties" => {
                for (pattern, schema) in wanted.as_object().unwrap() {
                    for (name, value) in
                        entries.into_iter().flatten().filter(|(name, _)| matches(&json!(pattern), name))
                    {
                        validate(schema, value, &format!("{at}.{name}")).into_iter().for_each(&mut say);
                    }
                }
            }
            "additionalProperties" => {
                let known = |name: &str| {
                    let patterns = keywords.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
                    keywords.get("properties").is_some_and(|known| known.get(name).is_some())
                        || patterns.into_iter().any(|(pattern, _)| matches(&json!(pattern), name))
                };
                for (name, value) in entries.into_iter().flatten().filter(|(name, _)| !known(name)) {
                    match wanted {
                        Value::Bool(false) => say(format!("has no key {name}")),
                        schema => validate(schema, value, &format!("{at}.{name}")).into_iter().for_each(&mut say),
                    }
                }
            }
            other => panic!("the schema uses {other}, which this test does not know"),
        }
    }
    wrong
}

/// The documents of a text as an editor's YAML reader takes them.
fn documents(text: &str) -> Vec<Value> {
    let mut findings = Findings::default();
    let file = findings.add_file(PathBuf::from("a.yaml"), text.to_string());
    let nodes = yaml::parse(file, &findings).expect("YAML");
    let env = |_: &str| None;
    let reader = Reader { findings: &findings, mode: Mode::Check, fill: false, base: PathBuf::new(), env: &env };
    nodes.iter().map(|node| reader.json(node)).collect()
}

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn the_pipelines_that_ship_are_valid_and_a_misspelt_key_is_not() {
    let schema = json_schema();
    let mut files = Vec::new();
    yaml_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines"), &mut files);
    assert!(files.len() >= 10, "{files:?}");
    let mut misspelt = 0;
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for document in documents(&text) {
            assert_eq!(validate(&schema, &document, "file"), Vec::<String>::new(), "{}", path.display());
            for (wrong, key) in misspellings(&schema, &document) {
                misspelt += 1;
                assert!(!validate(&schema, &wrong, "file").is_empty(), "{}: {key} with an x", path.display());
            }
        }
    }
    assert!(misspelt > 300, "{misspelt} misspelt keys were tried");
}

/// The document with one key misspelt, for each key that is ours.
fn misspellings(schema: &Value, value: &Value) -> Vec<(Value, String)> {
    let mut all = Vec::new();
    match value {
        Value::Object(entries) => {
            let schema = chosen(schema, value);
            let ours = schema["additionalProperties"] == false;
            for (key, inner) in entries {
                let with = |name: &str, inner: Value| {
                    let mut entries = entries.clone();
                    entries.remove(key);
                    entries.insert(name.to_string(), inner);
                    Value::Object(entries)
                };
                let known = schema["properties"].get(key);
                if ours && known.is_some() {
                    all.push((with(&format!("{key}x"), inner.clone()), key.clone()));
                }
                let below = known.unwrap_or(&schema["additionalProperties"]);
                if below.is_object() {
                    all.extend(misspellings(below, inner).into_iter().map(|(inner, name)| (with(key, inner), name)));
                }
            }
        }
        Value::Array(items) => {
            let schema = chosen(schema, value);
            for (index, item) in items.iter().enumerate().filter(|_| schema["items"].is_object()) {
                for (wrong, name) in misspellings(&schema["items"], item) {
                    let mut items = items.clone();
                    items[index] = wrong;
                    all.push((Value::Array(items), name));
                }
            }
        }
        _ => {}
    }
    all
}

/// The branch of an `anyOf` that the value is of, or what a `$ref` stands for.
fn chosen<'s>(schema: &'s Value, value: &Value) -> &'s Value {
    static STEPS: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| json_schema()["$defs"]["steps"].clone());
    let schema = if schema["$ref"].is_string() { &*STEPS } else { schema };
    let branches = schema["anyOf"].as_array().into_iter().flatten();
    let fits = branches.into_iter().find(|branch| validate(branch, value, "").is_empty());
    fits.map_or(schema, |branch| chosen(branch, value))
}

#[test]
fn what_a_key_may_hold() {
    let schema = json_schema();
    // (a file, whether it is valid)
    let rows = [
        ("# nothing\n---\n~", true),
        ("pipeline: [a]", false),
        ("contracts: flag", true),
        ("contracts: \"${env:MODE}\"", true),
        ("contracts: lax", false),
        ("dedupe: { within: 7d }", true),
        ("dedupe: { within: 1h 30m }", true),
        ("dedupe: { within: forever }", true),
        ("dedupe: { within: a while }", false),
        ("dedupe: { by: message_id }", false),
        ("identity: { identifiers: [a, b: , c: { limit: 5 }], max_identifiers: 10, key: \"${env:KEY}\" }", true),
        ("identity: { identifiers: [a: { limt: 5 }] }", false),
        ("identity: { identifiers: [a], max_identifiers: ten }", false),
        ("identity: { identifiers: [a], key: written down }", false),
        ("sources: { Web: { file: { path: a }, format: json } }", false),
        ("sources: { web: { file: { path: a }, format: json } }", true),
        ("sources: { web: { file: { path: a }, format: xml } }", false),
        ("sources: { web: { file: { path: a } } }", false),
        ("sources: { web: { format: json } }", false),
        ("sources: { web: { file: { path: a }, kafka: { brokers: b, topics: t }, format: json } }", false),
        ("sources: { web: { kafka: { brokers: b, topics: [] }, format: json } }", false),
        ("transforms: [ { set: { user_id: a, properties: { x: { value: 1 } }, properties.y.z: b } } ]", true),
        ("transforms: [ { set: { userid: a } } ]", false),
        ("transforms: [ { filter: a, unnest: { from: a, as: b } } ]", false),
        ("warehouse: lake", true),
        ("warehouse: { clickhouse: { url: u, database: d, password: \"${file:p}\" } }", true),
        ("warehouse: pond", false),
        (
            "tests: [ { name: a, steps: [ { at: +1h, events: [ { event: A, userId: 1 } ], expect: { profiles: [ [a:b] ] } } ] } ]",
            true,
        ),
        ("tests: [ { name: a, steps: [ { events: [ { evnt: A } ] } ] } ]", false),
        (
            "tests: [ { name: a, steps: [ { expect: { segments: { a: x, b: [], c: [x, y] }, flags: { t1: [] } } } ] } ]",
            true,
        ),
    ];
    for (text, valid) in rows {
        let wrong: Vec<String> =
            documents(text).iter().flat_map(|document| validate(&schema, document, "file")).collect();
        assert_eq!(wrong.is_empty(), valid, "{text}: {wrong:?}");
    }
}

/// Readers without a table list their keys in the code: those must be in the schema that is written by hand.
#[test]
fn keys_that_readers_list_by_themselves_are_in_the_schema() {
    fn names(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(entries) => {
                found.extend(
                    entries.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()),
                );
                entries.values().for_each(|inner| names(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| names(inner, found)),
            _ => {}
        }
    }
    let mut known = Vec::new();
    names(&json_schema(), &mut known);
    let list = Regex::new(r"known:\s*&\[([^\]]*)\]").unwrap();
    let name = Regex::new(r#""([a-z_]+)""#).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/definition/sections");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for names in list.captures_iter(&text) {
            for name in name.captures_iter(&names[1]) {
                assert!(known.contains(&name[1].to_string()), "the schema does not know `{}`", &name[1]);
            }
        }
    }
}
