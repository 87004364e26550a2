//! Faults of the log itself: brokers that go under way, records that retention has removed, a topic that was made anew, a
//! hundred thousand records that cannot be read, and huge ones.

use std::process::Stdio;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::bad_input::Topic;
use crate::cdnow::{EXPECTED, FIGURES, path, produce};
use crate::kafka::{command, event, pipeline};
use crate::support::{
    Running, Servers, block_on, clickhouse, copy_pipeline, eventually, output_of, servers, text_of, tributary, unique,
};

fn events(prefix: &str, count: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..count).map(move |n| event(&format!("{prefix}{n}")).into_bytes())
}

/// A pipeline over a topic of one partition, 100 records of which are read.
fn read_a_hundred(topic: &Topic) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    pipeline(folder.path(), &topic.name, "");
    topic.send(events("old", 100));
    output_of(command(folder.path(), &["run", "--drain"]));
    folder
}

fn count(folder: &std::path::Path) -> String {
    let rows = output_of(command(folder, &["query", "SELECT count(*) FROM events", "--output", "csv"]));
    rows.lines().nth(1).expect("a row").to_string()
}

/// Runs again and must halt: exit code 5, and these words on what is missing.
fn must_halt(folder: &std::path::Path, words: &[&str]) {
    let mut run = command(folder, &["run", "--drain"]);
    let ended = run.stderr(Stdio::piped()).output().expect("the program starts");
    let said = text_of(&ended);
    assert_eq!(ended.status.code(), Some(5), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not said: {said}");
    }
    assert_eq!(count(folder), "100", "nothing is read beyond it");
}

#[test]
fn retention_past_the_position_halts_and_says_what_is_missing() {
    let topic = Topic::create(1);
    let folder = read_a_hundred(&topic);
    topic.send(events("unread", 100));
    let (kafka, name) = (servers().kafka.clone(), topic.name.clone());
    // What retention does, without waiting for it.
    block_on(async move {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &kafka).create().expect("admin");
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(&name, 0, Offset::Offset(150)).expect("partition");
        admin.delete_records(&before, &Default::default()).await.expect("deleted");
    });
    let place = format!("topic {}, partition 0", topic.name);
    must_halt(folder.path(), &[&place, "position 100", "the log holds 150 to 200", "has removed 50 offsets", "--data"]);
}

#[test]
fn a_topic_that_was_made_anew_halts_however_many_records_it_has() {
    for (records, partitions) in [(30, 1), (100, 1), (300, 1), (300, 3)] {
        let mut topic = Topic::create(1);
        let folder = read_a_hundred(&topic);
        // The same topic is no other one, also where there is nothing new in it.
        output_of(command(folder.path(), &["run", "--drain"]));
        topic.make_anew(partitions);
        topic.send(events("new", records));
        println!("{records} records in {partitions} partitions");
        must_halt(folder.path(), &[&format!("topic {}", topic.name), "partition 0", "made anew", "--data"]);
    }
}

#[test]
fn a_topic_that_is_made_anew_while_it_is_read_halts() {
    for records in [30, 300] {
        let mut topic = Topic::create(1);
        let folder = read_a_hundred(&topic);
        let mut run = command(folder.path(), &["run"]);
        run.stdout(Stdio::null()).stderr(Stdio::piped()).env("TRIBUTARY_LOG", "error");
        let mut running = Running::start(run);
        let status = || -> serde_json::Value {
            let output = command(folder.path(), &["status", "--output", "json"]).output().expect("starts");
            serde_json::from_slice(&output.stdout).unwrap_or_default()
        };
        eventually("it reads", status, |status| status["sources"]["site"]["caught_up"] == true);
        topic.make_anew(1);
        topic.send(events("new", records));
        let ended = eventually("it ends", || running.0.try_wait().expect("a child"), Option::is_some);
        let mut said = String::new();
        use std::io::Read;
        running.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert_eq!(ended.and_then(|ended| ended.code()), Some(5), "{records}: {said}");
        assert!(said.contains("made anew") && said.contains(&topic.name), "{records}: {said}");
        assert_eq!(count(folder.path()), "100");
    }
}

#[test]
fn a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing() {
    let (shared, own) = (servers(), Servers::up(&["kafka"]));
    let folder = tempfile::tempdir().expect("folder");
    let (topic, database) = (unique("broker"), unique("broker"));
    let pipeline = copy_pipeline("cdnow", folder.path(), &[("cdnow.orders", &topic)]);
    produce(&topic, &own.kafka);
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.args(["-C", path(&pipeline), "--data", path(&folder.path().join("data"))]);
        command.env("KAFKA_BROKERS", &own.kafka).env("CLICKHOUSE_URL", &shared.clickhouse);
        command.env("CLICKHOUSE_DATABASE", &database).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let mut run = command(&["run"]);
    run.env("TRIBUTARY_BATCH_RECORDS", "200");
    let mut running = Running::start(run);
    let records = || -> i64 {
        let output = command(&["status", "--output", "json"]).output().expect("starts");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["totals"]["records"].as_i64().unwrap_or_default()
    };
    eventually("it reads", records, |records| *records > 0);
    own.stop("kafka");
    own.start("kafka");
    eventually("all is read", records, |records| *records >= 69_659);
    // And once more when there is nothing to be read: it goes on where it was.
    own.stop("kafka");
    own.start("kafka");
    produce(&topic, &own.kafka);
    eventually("the copies are read", records, |records| *records >= 2 * 69_659);
    assert!(running.0.try_wait().expect("a child").is_none(), "it goes on by itself");
    running.kill();
    output_of(command(&["run", "--drain"]));
    assert_eq!(records(), 2 * 69_659, "each record once");
    let figures = clickhouse(&shared.clickhouse, &database, FIGURES);
    assert_eq!(figures.split('\t').collect::<Vec<_>>(), EXPECTED);
    own.down();
}

/// The most memory that a process had so far, in MB.
fn peak_mb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)
}

#[test]
fn a_hundred_thousand_rejects_are_stored_and_the_stream_goes_on() {
    const BAD: usize = 100_000;
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(3);
    pipeline(folder.path(), &topic.name, "");
    let message = |n: usize| match n % 101 {
        0 => event(&format!("good{n}")).into_bytes(),
        _ => format!(
            r#"{{"type":"track","event":"E","messageId":"bad{n}","userId":"u{n}","properties":{{"a":1,"a":2}}}}"#
        )
        .into_bytes(),
    };
    topic.send((0..BAD + BAD / 100).map(message));
    let mut run = command(folder.path(), &["run", "--drain"]);
    run.env("TRIBUTARY_CACHE_MIB", "64").stdout(Stdio::null());
    let mut running = Running::start(run);
    let mut peak = 0;
    let ended = loop {
        peak = peak_mb(running.0.id()).unwrap_or_default().max(peak);
        match running.0.try_wait().expect("a child") {
            Some(ended) => break ended,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(ended.success());
    println!("peak of {peak} MB");
    assert!(peak < 600, "{peak} MB");
    let query = |sql: &str| output_of(command(folder.path(), &["query", sql, "--output", "csv"]));
    let sql = "SELECT code, count(*) AS n, count(DISTINCT \"partition\" * 1000000 + \"offset\") AS places FROM rejected_events GROUP BY code";
    assert_eq!(query(sql).lines().nth(1), Some(format!("duplicate_key,{BAD},{BAD}").as_str()));
    assert_eq!(count(folder.path()), (BAD / 100).to_string());
    let listed = output_of(command(folder.path(), &["rejected", "list", "-n", "10", "--output", "csv"]));
    assert_eq!(listed.lines().count(), 11, "{listed}");
    let replayed = command(folder.path(), &["rejected", "replay"]).stderr(Stdio::piped()).output().expect("starts");
    assert!(text_of(&replayed).contains("100000 tried again"), "{}", text_of(&replayed));
}

#[test]
fn ten_megabytes_that_cannot_be_read_are_a_reject_and_a_limit_that_is_too_low_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(1);
    pipeline(folder.path(), &topic.name, "");
    let text = "x".repeat(10_000_000);
    let broken =
        format!(r#"{{"type":"track","event":"E","userId":"u","messageId":"giant","properties":{{"text":"{text}"}}"#);
    topic.send([broken.into_bytes(), event("small").into_bytes()].into_iter());
    output_of(command(folder.path(), &["run", "--drain"]));
    assert_eq!(count(folder.path()), "1");
    let listed = output_of(command(folder.path(), &["rejected", "list", "-n", "5", "--output", "csv"]));
    assert!(listed.contains("not_json"), "{}", &listed[..listed.len().min(300)]);
    assert!(listed.len() < 10_000, "a list shows the beginning of a payload");

    let folder = tempfile::tempdir().expect("folder");
    pipeline(folder.path(), &topic.name, "");
    let file = folder.path().join("kafka.yaml");
    let yaml = std::fs::read_to_string(&file).expect("text");
    let limited = yaml.replace("topics:", "settings: { receive.message.max.bytes: \"2000000\", fetch.max.bytes: \"1000000\", fetch.message.max.bytes: \"500000\" }, topics:");
    std::fs::write(&file, limited).expect("file");
    let _running = Running::start(command(folder.path(), &["run"]));
    let problem = || -> String {
        let output = command(folder.path(), &["status", "--output", "json"]).output().expect("starts");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["sources"]["site"]["problem"].as_str().unwrap_or_default().to_string()
    };
    eventually("the setting is named", problem, |problem| problem.contains("receive.message.max.bytes"));
}
