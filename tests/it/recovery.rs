//! How long it takes after a SIGKILL at full load: `cargo test --test it recovery -- --ignored --nocapture`.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bad_input::Topic;
use crate::cdnow::path;
use crate::support::{Running, clickhouse, eventually, output_of, servers, tributary, unique};

const EVENTS: usize = 1_000_000;
const KILLS: usize = 5;

fn event(n: usize) -> Vec<u8> {
    format!(
        r#"{{"type":"track","event":"Order Completed","messageId":"m{n}","userId":"u{}","properties":{{"order_id":"o{n}","total":{}}}}}"#,
        n % 100_000,
        n % 97
    )
    .into_bytes()
}

/// Prints, for each kill, the seconds until the first row that was not there before, and in the end those until all is there.
#[test]
#[ignore = "measures for a minute or two; prints"]
fn seconds_from_a_kill_at_full_load_to_the_first_row_and_to_no_lag() {
    let servers = servers();
    let (folder, topic, database) = (tempfile::tempdir().expect("folder"), Topic::create(6), unique("recovery"));
    topic.send((0..EVENTS).map(event));
    let yaml = format!(
        "pipeline: recovery\nsources:\n  site:\n    kafka: {{ brokers: \"{}\", topics: [{}] }}\n    format: {{ json: segment }}\n\
         identity: {{ identifiers: [user_id] }}\ntraits:\n  orders: {{ count: \"*\", event: Order Completed }}\n  revenue: {{ sum: properties.total }}\n\
         segments:\n  loyal: \"orders >= 3\"\nwarehouse:\n  clickhouse: {{ url: \"{}\", database: {database} }}\n",
        servers.kafka, topic.name, servers.clickhouse
    );
    std::fs::write(folder.path().join("recovery.yaml"), yaml).expect("file");
    let command = |args: &[&str]| -> Command {
        let mut command = tributary(args);
        command.args(["-C", path(folder.path()), "--data", path(&folder.path().join("data"))]);
        command.env("TRIBUTARY_BATCH_RECORDS", "10000").stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let rows = || -> usize {
        clickhouse(&servers.clickhouse, &database, "SELECT count() FROM events").parse().expect("a number")
    };
    let _ = clickhouse(&servers.clickhouse, "default", &format!("CREATE DATABASE IF NOT EXISTS {database}"));
    let mut running = Running::start(command(&["run"]));
    let exists = || {
        clickhouse(
            &servers.clickhouse,
            &database,
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'events'",
        )
    };
    eventually("the table is there", exists, |found| found == "1");
    let inserting = || {
        let sql = "SELECT count() FROM system.processes WHERE query_kind = 'Insert'";
        clickhouse(&servers.clickhouse, &database, sql)
    };
    for kill in 1..=KILLS {
        let wanted = EVENTS / (KILLS + 2) * kill;
        eventually("it has read so far", rows, |found| *found >= wanted);
        running.kill();
        // What the dead process had sent is not what the next one is waited for.
        eventually("its inserts have ended", inserting, |found| found == "0");
        let before = rows();
        assert!(before < EVENTS, "it was killed under load");
        let started = tributary::clock::instant();
        running = Running::start(command(&["run"]));
        while rows() <= before {
            assert!(started.elapsed() < Duration::from_secs(60), "nothing came for a minute");
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("kill {kill} at {before} rows: first row after {:.2} s", started.elapsed().as_secs_f64());
    }
    running.kill();
    eventually("its inserts have ended", inserting, |found| found == "0");
    let (before, started) = (rows(), tributary::clock::instant());
    output_of(command(&["run", "--drain"]));
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(rows(), EVENTS);
    println!(
        "the last kill at {before} rows: no lag after {seconds:.2} s, {:.0} events a second",
        (EVENTS - before) as f64 / seconds
    );
}
