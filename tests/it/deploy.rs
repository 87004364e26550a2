//! What lies beside the code says what the code says: `deploy/` and `docs/` name only metrics, columns and keys that
//! exist, name all of them where they are to be complete, and their YAML and JSON can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tributary::definition::{self, Mode};

fn read(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&full).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder, with their paths from the crate's root.
fn files_below(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut folders) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    files.sort();
    files
}

/// The texts in double quotes that follow each of these, on the same line or the next.
fn quoted_after<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.match_indices(before)
        .filter_map(|(at, _)| text[at + before.len()..].trim_start().strip_prefix('"')?.split('"').next())
        .collect()
}

/// Every metric that `src/telemetry.rs` describes, with its kind.
fn described() -> BTreeMap<String, &'static str> {
    let source = read("src/telemetry.rs");
    let mut metrics = BTreeMap::new();
    for kind in ["counter", "gauge", "histogram"] {
        for name in quoted_after(&source, &format!("describe_{kind}!(")) {
            metrics.insert(name.to_string(), kind);
        }
    }
    metrics
}

/// Every `tributary_…` word of a text that is not part of a longer word.
pub fn metric_names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("tributary_")).map(str::to_string).collect()
}

/// The described metric that a name of Prometheus belongs to: a histogram has three names there.
fn metric_of<'a>(name: &'a str, described: &BTreeMap<String, &str>) -> Option<&'a str> {
    let histogram = |end: &str| name.strip_suffix(end).filter(|base| described.get(*base) == Some(&"histogram"));
    match described.get(name) {
        Some(kind) if *kind != "histogram" => Some(name),
        _ => histogram("_bucket").or_else(|| histogram("_sum")).or_else(|| histogram("_count")),
    }
}

#[test]
fn metric_names_are_found_whole() {
    let text = "rate(tributary_a_total{x=\"tributary_b\"}[5m]) > my_tributary_c";
    let expected = ["tributary_a_total", "tributary_b"].map(str::to_string);
    assert_eq!(metric_names_in(text), BTreeSet::from(expected));
}

#[test]
fn alerts_and_dashboards_use_metrics_that_exist_and_leave_none_out() {
    let described = described();
    assert!(described.len() > 10, "{described:?}");
    let mut used = BTreeSet::new();
    for file in ["deploy/prometheus/alerts.yml", "deploy/grafana/dashboards/tributary.json"] {
        for name in metric_names_in(&read(file)) {
            let metric = metric_of(&name, &described);
            used.insert(metric.unwrap_or_else(|| panic!("{file}: no metric is called {name}")).to_string());
        }
    }
    assert_eq!(used, described.into_keys().collect(), "used, described");
}

#[test]
fn the_documented_metrics_are_the_described_ones_and_all_are_recorded() {
    let described = described();
    let names: BTreeSet<String> = described.keys().cloned().collect();
    let documented: Vec<(String, String)> = read("docs/operations.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `tributary_"))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (format!("tributary_{}", cells[0].trim_end_matches('`')), cells[1].to_string())
        })
        .collect();
    for (name, kind) in &documented {
        assert_eq!(described.get(name), Some(&kind.as_str()), "docs/operations.md: {name}");
    }
    assert_eq!(documented.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(), names, "documented, described");

    let mut recorded = BTreeSet::new();
    for file in files_below("src") {
        let source = read(&file.display().to_string());
        for kind in ["counter", "gauge", "histogram"] {
            recorded.extend(quoted_after(&source, &format!("metrics::{kind}!(")).into_iter().map(str::to_string));
        }
    }
    assert_eq!(recorded, names, "recorded, described");
}

#[test]
fn what_is_yaml_or_json_can_be_read() {
    let mut seen = 0;
    for file in files_below("deploy").into_iter().chain(files_below("pipelines")) {
        let name = file.display().to_string();
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("yaml" | "yml") => {
                let documents: Vec<serde_json::Value> =
                    serde_saphyr::from_multiple(&read(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(documents.iter().all(serde_json::Value::is_object), "{name}");
            }
            Some("json" | "avsc") => {
                serde_json::from_str::<serde_json::Value>(&read(&name))
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}

#[test]
fn the_documented_columns_are_those_of_the_ddl() {
    let docs = read("docs/tables.md");
    for file in files_below("deploy/clickhouse") {
        let table = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let ddl = read(&file.display().to_string());
        // What is behind a view for dashboards: analysts see the view, and `dashboards.rs` compares its columns.
        if ddl.contains("__rollup\n") {
            continue;
        }
        let columns = ddl.lines().filter(|line| line.contains(" COMMENT '"));
        let columns = columns.filter(|line| ![" ALIAS ", " MATERIALIZED "].iter().any(|made| line.contains(made)));
        let columns: Vec<&str> = columns
            .filter_map(|line| Some(line.split_whitespace().next()?.trim_matches('`')))
            .filter(|column| !["_batch", "_seq"].contains(column)) // of every table: documented once
            .collect();
        let section = docs.split("\n## ").find_map(|section| section.strip_prefix(&format!("{table}\n")));
        let rows = section.unwrap_or_else(|| panic!("docs/tables.md has no section {table}")).lines();
        let documented: Vec<&str> =
            rows.filter_map(|row| row.strip_prefix("| `")).filter_map(|row| row.split('`').next()).collect();
        assert_eq!(documented, columns, "{table}: docs/tables.md, {}", file.display());
    }
}

/// The keys of the schema for editors, which is made of the tables that the reader checks maps by.
fn keys_of(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(map) => {
            // Not where a key is itself called `properties`. Events of tests may have Segment's camelCase keys.
            let is_map = map.get("type").is_some_and(|kind| kind == "object");
            if let (true, Some(serde_json::Value::Object(properties))) = (is_map, map.get("properties")) {
                keys.extend(properties.keys().filter(|key| !key.contains(char::is_uppercase)).cloned());
            }
            map.values().for_each(|value| keys_of(value, keys));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys_of(item, keys)),
        _ => {}
    }
}

#[test]
fn every_key_of_a_definition_is_documented() {
    let docs = read("docs/pipeline-reference.md");
    let mut keys = BTreeSet::new();
    keys_of(&definition::json_schema(), &mut keys);
    assert!(keys.len() > 40, "{keys:?}");
    // `key`, `key: …`, `clickhouse.key`, `do[].send.key`
    let words: BTreeSet<&str> = docs
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')))
        .collect();
    let missing: Vec<&String> = keys.iter().filter(|key| !words.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "docs/pipeline-reference.md lacks {missing:?}");
}

/// What `check` finds wrong with a pipeline of this text. Tables are found where the shop has its own.
fn findings(yaml: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/catalogue.csv"), read("pipelines/shop/data/catalogue.csv")).unwrap();
    std::fs::write(folder.path().join("data/staff.csv"), read("pipelines/shop/data/staff.csv")).unwrap();
    std::fs::write(folder.path().join("pipeline.yaml"), yaml).unwrap();
    let found = match definition::load(folder.path(), Mode::Check) {
        Ok((_, warnings)) => warnings,
        Err(findings) => findings,
    };
    found.iter().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn the_examples_of_the_reference_are_one_good_pipeline() {
    let docs = read("docs/pipeline-reference.md");
    let examples: Vec<&str> = docs.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 8, "{}", examples.len());
    assert_eq!(findings(&examples.concat()), "");
}

#[test]
fn the_examples_of_the_destinations_are_good() {
    let docs = read("docs/destinations.md");
    let examples: Vec<&str> = docs.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 5, "{}", examples.len());
    let around = "sources: { web: { file: { path: \"*.ndjson\" }, format: json } }\n\
                  traits: { email: { latest: traits.email }, name: { latest: traits.name }, spent: { sum: properties.total } }\n\
                  identity: { identifiers: [user_id, email, phone] }\n\
                  segments: { high_value: spent > 500 }\n\
                  consent: { marketing: { from: context.consent.marketing } }\n";
    let documents: Vec<&str> = std::iter::once(around).chain(examples).collect();
    assert_eq!(findings(&documents.join("\n---\n")), "");
}

#[test]
fn the_pipeline_of_the_kubernetes_example_is_good() {
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(&read("deploy/kubernetes/tributary.yaml")).unwrap();
    let pipeline = documents.iter().find_map(|document| document["data"]["pipeline.yaml"].as_str());
    assert_eq!(findings(pipeline.expect("a ConfigMap with pipeline.yaml")), "");
}
