//! `tributary init`: what it writes passes `check`, `test` and `run --drain` as it is.

use std::path::{Path, PathBuf};
use std::process::Output;

use apache_avro::writer::datum::GenericDatumWriter;

use crate::bad_input::{Topic, register};
use crate::cdnow::path;
use crate::support::{output_of, root, servers, text_of, tributary};

fn init(folder: &Path, args: &[&str]) -> Output {
    let mut command = tributary(&["init"]);
    command.args(args).arg(folder).output().expect("starts")
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("file");
    file
}

/// Runs what was written; gives the pipeline's text and counts of events, rejects and profiles.
fn runs(folder: &Path, output: &Output) -> (String, String) {
    assert!(output.status.success(), "{}", text_of(output));
    let yaml = std::fs::read_to_string(folder.join("pipeline.yaml")).expect("pipeline");
    let data = folder.join("tributary-data");
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.args(["-C", path(folder), "--data", path(&data)]);
        command
    };
    for args in [&["check"][..], &["test"], &["run", "--drain"]] {
        let output = command(args).output().expect("starts");
        let text = text_of(&output);
        assert!(output.status.success() && !text.contains("warning"), "{args:?}: {text}\n{yaml}");
    }
    let sql = "SELECT (SELECT count(*) FROM events) AS e, (SELECT count(*) FROM rejected_events) AS r, \
               (SELECT count(*) FROM current_profiles) AS p";
    let counts = output_of(command(&["query", sql, "--output", "csv"]));
    (yaml, counts.lines().last().unwrap_or_default().to_string())
}

#[test]
fn standard_events_of_a_file() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("first");
    let input = root().join("pipelines/shop/data/events.ndjson");
    let output = init(&target, &["--from", path(&input)]);
    let (yaml, counts) = runs(&target, &output);
    // One message id comes only once here; people that were joined have one profile.
    assert_eq!(counts, "13,0,3", "{yaml}");
    for line in [
        "    format: { json: segment }",
        "    - user_id",
        "    - email: { normalize: email }",
        "    - anonymous_id",
        "  order_completed_count: { count: \"*\", event: Order Completed }",
    ] {
        assert!(yaml.lines().any(|other| other == line), "{line} in\n{yaml}");
    }
    assert!(!yaml.contains("contracts:"), "all was read, so others are rejected: {yaml}");
    let contract = std::fs::read_to_string(target.join("schemas/events/product_added.avsc")).expect("contract");
    let contract: serde_json::Value = serde_json::from_str(&contract).expect("json");
    assert_eq!((&contract["event"], contract["fields"][1]["type"].as_str()), (&"Product Added".into(), Some("string")));
    let text = text_of(&output);
    for part in ["wrote ", "all 13 records", "3 events have contracts", "tributary run -C"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    // Never over anything that is there.
    let again = init(&target, &["--from", path(&input)]);
    assert_eq!(again.status.code(), Some(1), "{}", text_of(&again));
    assert!(text_of(&again).contains("there is a pipeline already"), "{}", text_of(&again));
    std::fs::remove_file(target.join("pipeline.yaml")).expect("removed");
    let again = init(&target, &["--from", path(&input)]);
    assert!(text_of(&again).contains("is there already; nothing was written"), "{}", text_of(&again));
    assert!(!target.join("pipeline.yaml").exists(), "nothing stays behind");
    assert_eq!(std::fs::read_dir(target.join("schemas/events")).expect("folder").count(), 3);
}

#[test]
fn purchases_of_a_csv_file() {
    let folder = tempfile::tempdir().expect("folder");
    let text = std::fs::read_to_string(root().join("tests/data/cdnow_master.csv")).expect("data");
    // Enough to be quick, and the whole is read: strict.
    let rows: String = text.lines().take(3001).map(|line| format!("{line}\n")).collect();
    std::fs::create_dir(folder.path().join("data")).expect("folder");
    file(&folder.path().join("data"), "cdnow_master.csv", &rows);
    // The one data file of the folder.
    let output = init(folder.path(), &[]);
    let (yaml, counts) = runs(folder.path(), &output);
    let people: std::collections::BTreeSet<&str> =
        rows.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(counts, format!("3000,0,{}", people.len()), "{yaml}");
    for line in [
        "    file: { path: data/cdnow_master.csv }",
        "          customer_id: string",
        "          dollar_value: double",
        "      timestamp: \"to_timestamp(date, '%Y%m%d')\"",
        "        customer_id: customer_id",
        "        dollar_value: dollar_value",
        "      event: { value: Cdnow Master }",
    ] {
        assert!(yaml.lines().any(|other| other == line), "{line} in\n{yaml}");
    }
}

#[test]
fn other_files() {
    // (name, content, lines of the pipeline, counts)
    let rows: [(&str, &str, &[&str], &str); 4] = [
        (
            "purchases.ndjson",
            r#"{"id":"a","what":"x","event_name":"Bought","customer":{"no":7},"email":"ann@example.com","created":1772366400,"created_at":1772366400,"order":{"total":5.5,"lines":[{"sku":"A","n":1}]},"group":"g"}
{"id":"b","event_name":"Looked","email":"bob@example.com","created_at":1772366401,"order":null,"first-name":"Bob"}
{"id":"c","event_name":"Bought","email":"ann@example.com","created_at":1772366402,"order":{"total":7,"lines":[]},"group":"h"}
"#,
            &[
                "    format: { json: { schema: schemas/purchases.avsc } }",
                "      event: event_name",
                "      timestamp: \"to_timestamp_seconds(created_at)\"",
                "      message_id: id",
                "        email: email",
                "        group: group",
            ],
            "3,0,2",
        ),
        (
            "Orders 2025.csv",
            "Order ID;User ID;Placed At;Total;Gift;Note\n1;u1;31.12.2025 10:00;5,50;true;\n2;u1;01.01.2026 11:00;7;false;a \"b\"\n3;u2;02.01.2026 12:00;1;true;\n",
            &[
                "        delimiter: \";\"",
                "          Gift: boolean",
                "      user_id: \"\\\"User ID\\\"\"",
                "      timestamp: \"to_timestamp(\\\"Placed At\\\", '%d.%m.%Y %H:%M')\"",
                "      event: { value: Orders 2025 }",
            ],
            "3,0,2",
        ),
        (
            "calls.jsonl",
            "{\"type\":\"identify\",\"anonymousId\":\"a\",\"traits\":{\"email\":\"ann@example.com\"}}\n{\"type\":\"page\",\"name\":\"Home\",\"anonymousId\":\"a\"}\n",
            &["  event_count: { count: \"*\" }"],
            "2,0,1",
        ),
        (
            "people.tsv",
            "when\tmail\tx\n2026-03-01T10:00:00Z\tann@example.com\t1\n2026-03-02T10:00:00Z\tann@example.com\t\n",
            &["        delimiter: \"\\t\"", "          x: long"],
            "2,0,1",
        ),
    ];
    for (name, content, lines, expect) in rows {
        let folder = tempfile::tempdir().expect("folder");
        let input = file(folder.path(), name, content);
        let output = init(folder.path(), &["--from", path(&input)]);
        let (yaml, counts) = runs(folder.path(), &output);
        assert_eq!(counts, expect, "{name}\n{yaml}\n{}", text_of(&output));
        for line in lines {
            assert!(yaml.lines().any(|other| other == *line), "{name}: {line} in\n{yaml}");
        }
    }
}

#[test]
fn an_avro_container() {
    let folder = tempfile::tempdir().expect("folder");
    let schema = r#"{"type":"record","name":"Visit","fields":[
        {"name":"visitor_id","type":"string"},{"name":"page","type":["null","string"],"default":null},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;
    let schema = apache_avro::Schema::parse_str(schema).expect("schema");
    let mut writer = apache_avro::Writer::new(&schema, Vec::new()).expect("writer");
    for n in 0..5_i64 {
        let mut record = apache_avro::types::Record::new(&schema).expect("record");
        record.put("visitor_id", format!("v{}", n % 2));
        record.put("page", (n > 0).then(|| "home".to_string()));
        record.put("at", apache_avro::types::Value::TimestampMillis(1_772_366_400_000 + n));
        writer.append_value(record).expect("appended");
    }
    let bytes = writer.into_inner().expect("bytes");
    let input = folder.path().join("visits.avro");
    std::fs::write(&input, bytes).expect("file");
    let output = init(folder.path(), &["--from", path(&input)]);
    let (yaml, counts) = runs(folder.path(), &output);
    assert_eq!(counts, "5,0,2", "{yaml}");
    for line in [
        "    format: { avro: { reader: schemas/visits.avsc } }",
        "      timestamp: at",
        "      anonymous_id: visitor_id",
    ] {
        assert!(yaml.lines().any(|other| other == line), "{line} in\n{yaml}");
    }
}

#[test]
fn topics() {
    let folder = tempfile::tempdir().expect("folder");
    let event = |n: usize| {
        format!(r#"{{"type":"track","event":"Song Played","userId":"u{}","properties":{{"n":{n}}}}}"#, n % 3)
    };
    let topic = Topic::create(2);
    topic.send((0..10).map(|n| event(n).into_bytes()));
    let target = folder.path().join("json");
    let output = init(&target, &["--from", &format!("kafka://{}/{}", servers().kafka, topic.name)]);
    let (yaml, counts) = runs(&target, &output);
    assert_eq!(counts, "10,0,3", "{yaml}");
    assert!(yaml.contains("\ncontracts: flag\n"), "a topic goes on: {yaml}");

    let topic = Topic::create(1);
    let schema = r#"{"type":"record","name":"Order","fields":[{"name":"customer_no","type":"string"},{"name":"total","type":"double"},{"name":"placed_at","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#;
    let id = register(&servers().registry, &format!("{}-value", topic.name), schema);
    let avro = apache_avro::Schema::parse_str(schema).expect("schema");
    let writer = GenericDatumWriter::builder(&avro).build().expect("writer");
    topic.send((0..6_i64).map(|n| {
        let mut record = apache_avro::types::Record::new(&avro).expect("record");
        record.put("customer_no", format!("c{}", n % 2));
        record.put("total", 1.5);
        record.put("placed_at", apache_avro::types::Value::TimestampMicros(1_772_366_400_000_000 + n));
        let mut payload = [&[0], &id.to_be_bytes()[..]].concat();
        writer.write_value_ref(&mut payload, &record.into()).expect("datum");
        payload
    }));
    let target = folder.path().join("avro");
    let without = init(&target, &["--from", &topic.name, "--brokers", &servers().kafka]);
    assert!(text_of(&without).contains("give --registry URL"), "{}", text_of(&without));
    assert!(!target.exists(), "nothing stays behind");
    let registry = ["--registry", &servers().registry];
    let output = init(&target, &[&["--from", &topic.name, "--brokers", &servers().kafka], &registry[..]].concat());
    let (yaml, counts) = runs(&target, &output);
    assert_eq!(counts, "6,0,2", "{yaml}");
    assert!(yaml.contains("        customer_no: customer_no") && yaml.contains("      timestamp: placed_at"), "{yaml}");
}

#[test]
fn what_cannot_be_inferred_is_said_and_nothing_is_written() {
    // (name, content, what is said)
    let rows = [
        ("empty.ndjson", "", "nothing to infer"),
        ("broken.ndjson", "{\n[\n", "none of the records can be read"),
        ("header.csv", "a,b\n", "nothing to infer"),
    ];
    for (name, content, said) in rows {
        let folder = tempfile::tempdir().expect("folder");
        let input = file(folder.path(), name, content);
        let target = folder.path().join("new");
        let output = init(&target, &["--from", path(&input)]);
        assert!(!output.status.success() && text_of(&output).contains(said), "{name}: {}", text_of(&output));
        assert!(!target.exists(), "{name}");
    }
    let folder = tempfile::tempdir().expect("folder");
    let output = init(folder.path(), &["--from", "nowhere.csv"]);
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    assert_eq!(init(folder.path(), &[]).status.code(), Some(2));
}
