//! A server that is away only delays: everything is kept, nothing is doubled, and work goes on by itself when it is back.

use std::process::Stdio;

use serde_json::json;

use crate::bad_input::{ORDER, Topic, datum, framed, pipeline, register};
use crate::cdnow::{EXPECTED, FIGURES, path, produce};
use crate::support::{
    Running, Servers, block_on, clickhouse, copy_pipeline, eventually, output_of, servers, tributary, unique,
};

/// Arms a fault of a front, for its next `count` requests; for good where it is -1.
fn fault(url: &str, mode: &str, count: i64) {
    arm(url, serde_json::json!({ "mode": mode, "count": count }));
}

fn arm(url: &str, body: serde_json::Value) {
    let url = format!("{url}/_fault");
    block_on(async move {
        let client = reqwest::Client::builder().no_proxy().build().expect("client");
        let answer = client.post(url).json(&body).send().await.expect("the front answers");
        assert!(answer.status().is_success());
    });
}

fn figures(url: &str, database: &str) -> Vec<String> {
    clickhouse(url, database, FIGURES).split('\t').map(str::to_string).collect()
}

#[test]
fn a_dead_clickhouse_delays_and_nothing_is_lost_or_doubled() {
    let shared = servers();
    let own = Servers::up(&["clickhouse"]);
    let folder = tempfile::tempdir().expect("folder");
    let topic = unique("away");
    let pipeline = copy_pipeline("cdnow", folder.path(), &[("cdnow.orders", &topic)]);
    produce(&topic, &shared.kafka);
    let data = folder.path().join("data");
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.args(["-C", path(&pipeline), "--data", path(&data)]);
        command.env("KAFKA_BROKERS", &shared.kafka).env("CLICKHOUSE_URL", &own.clickhouse).stderr(Stdio::null());
        command
    };
    own.stop("clickhouse");
    let mut run = command(&["run"]);
    run.env("TRIBUTARY_BATCH_RECORDS", "3000").stdout(Stdio::null());
    let mut running = Running::start(run);
    let status = || -> serde_json::Value {
        let output = command(&["status", "--output", "json"]).output().expect("starts");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    // All is read and committed though nobody takes the rows; the status says why they wait.
    let waiting = eventually("all events are applied", status, |status| status["totals"]["events"] == 69_659);
    assert!(waiting["sink"]["waiting"].as_u64() > Some(0), "{waiting}");
    eventually("the status names the problem", status, |status| status["sink"]["problem"].is_string());
    assert!(running.0.try_wait().expect("a child").is_none(), "the process goes on");

    own.start("clickhouse");
    eventually("everything is shipped", status, |status| status["sink"]["waiting"] == 0);
    assert_eq!(figures(&own.clickhouse, "cdnow"), EXPECTED);
    running.kill();
    own.down();
}

#[test]
fn inserts_whose_answer_is_lost_are_not_doubled() {
    let shared = servers();
    let own = Servers::up(&["clickhouse"]);
    let faults = [
        json!({ "mode": "commit_then_cut", "count": 5 }),
        json!({ "mode": "cut", "count": 5 }),
        json!({ "mode": "error", "status": 503, "count": 5 }),
        json!({ "mode": "error", "status": 429, "count": 5 }),
        json!({ "mode": "slow", "ms": 700, "count": 5 }),
    ];
    for mode in faults {
        let folder = tempfile::tempdir().expect("folder");
        let (topic, database) = (unique("fault"), unique("fault"));
        let pipeline = copy_pipeline("cdnow", folder.path(), &[("cdnow.orders", &topic)]);
        produce(&topic, &shared.kafka);
        arm(&own.clickhouse, mode.clone());
        let mut run =
            tributary(&["run", "--drain", "-C", path(&pipeline), "--data", path(&folder.path().join("data"))]);
        run.env("KAFKA_BROKERS", &shared.kafka)
            .env("CLICKHOUSE_URL", &own.clickhouse)
            .env("CLICKHOUSE_DATABASE", &database)
            .env("TRIBUTARY_BATCH_RECORDS", "7000");
        output_of(run);
        assert_eq!(figures(&own.clickhouse, &database), EXPECTED, "{mode}");
        let distinct = clickhouse(&own.clickhouse, &database, "SELECT count() - uniqExact(_batch, _seq) FROM events");
        assert_eq!(distinct, "0", "{mode}: each row once");
    }
    own.down();
}

#[test]
fn a_registry_that_is_away_pauses_and_rejects_nothing() {
    let shared = servers();
    let own = Servers::up(&["registry"]);
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(1);
    let id = register(&own.registry, &format!("{}-value", topic.name), ORDER);
    topic.send((0..100).map(|number| framed(id, &datum(ORDER, number))));
    fault(&own.registry, "down", -1);
    let pipeline = pipeline(folder.path(), &topic.name);
    let database = unique("registry");
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.args(["-C", path(&pipeline), "--data", path(&folder.path().join("data"))]);
        command
            .env("KAFKA_BROKERS", &shared.kafka)
            .env("CLICKHOUSE_URL", &shared.clickhouse)
            .env("CLICKHOUSE_DATABASE", &database)
            .env("SCHEMA_REGISTRY_URL", &own.registry)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    };
    let mut running = Running::start(command(&["run"]));
    let status = || -> serde_json::Value {
        let output = command(&["status", "--output", "json"]).output().expect("starts");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    let waiting = eventually("the source says what it waits for", status, |status| {
        status["sources"]["orders"]["problem"].as_str().is_some_and(|problem| problem.contains("registry"))
    });
    assert_eq!(waiting["totals"]["events"], 0);
    fault(&own.registry, "none", 0);
    let done = eventually("it goes on by itself", status, |status| status["totals"]["events"] == 100);
    assert_eq!(done["totals"]["rejected"], 0);
    running.kill();
    own.down();
}
