//! Promise 1 at every named point: the process dies there by SIGKILL, is started again, and tables and webhooks are those of a
//! run that nothing happened to. Kafka, ClickHouse and the receiver are real.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tributary::failpoint::Point;

use crate::bad_input::Topic;
use crate::cdnow::path;
use crate::crash::{Received, assert_same_webhooks, receiver};
use crate::support::{clickhouse, servers, text_of, tributary, unique};

const SIGKILL: i32 = 9;

/// What must not depend on crashes: every row but for `_batch`, `_seq`, `_as_of`, and the profile and session that an event was
/// first counted to, which follow from where batches end, and the event that brought an identifier, which follows from the order in
/// which partitions are read. The views lead from those to the ones of now.
const TABLES: [(&str, &str); 6] = [
    ("events", "SELECT * EXCEPT (_batch, _seq, profile_id, session_id) FROM events ORDER BY message_id"),
    ("current_events", "SELECT message_id, profile_id, session_id FROM current_events ORDER BY message_id"),
    ("current_profiles", "SELECT * EXCEPT (_batch, _seq, _as_of) FROM current_profiles ORDER BY profile_id"),
    ("current_identifiers", "SELECT type, value, profile_id FROM current_identifiers ORDER BY type, value"),
    ("segment_members", "SELECT segment, profile_id FROM segment_members ORDER BY segment, profile_id"),
    ("revenue", "SELECT * FROM revenue ORDER BY day, event"),
];

/// What a round of the test does so that its point is come by.
#[derive(Clone, Copy, PartialEq)]
enum Round {
    /// More events are there.
    Stream,
    /// A definition that has to come to know the past.
    Fill,
    /// Identity is put right.
    Correction,
}

/// How a point is come by, and the passing at which the process dies: not the first where later ones tell more (in between the
/// tables of a range, with commits before and behind).
fn plan(point: Point) -> (Round, u32) {
    match point {
        Point::ChunkRead | Point::ChunkAdded | Point::HistoryRead | Point::Sweep => (Round::Fill, 1),
        Point::RebuildRead | Point::BeforeSwitch | Point::Switched => (Round::Correction, 1),
        Point::Polled
        | Point::HandedOver
        | Point::Prepared
        | Point::BeforeApply
        | Point::Applied
        | Point::BeforeCommit
        | Point::CommitDurable
        | Point::LetGo => (Round::Stream, 4),
        Point::BeforeInsert | Point::InsertSent | Point::Inserted => (Round::Stream, 3),
        Point::BeforeRequest | Point::RequestSent | Point::Answered | Point::BeforeAttempt | Point::AttemptRecorded => {
            (Round::Stream, 20)
        }
        _ => (Round::Stream, 1),
    }
}

/// One pipeline with its state, its tables and its receiver, over the topic that both read.
struct Side {
    pipeline: PathBuf,
    data: PathBuf,
    database: String,
    hook: String,
    received: Received,
    topic: String,
}

impl Side {
    fn new(folder: &std::path::Path, name: &str, topic: &str) -> Side {
        // Long enough that a request is under way while its answer is waited for.
        let (hook, received) = receiver(Duration::from_millis(15));
        let (pipeline, data) = (folder.join(name), folder.join(format!("{name}-data")));
        std::fs::create_dir(&pipeline).expect("folder");
        let side = Side { pipeline, data, database: unique(name), hook, received, topic: topic.to_string() };
        side.define(0);
        side
    }

    /// The definitions with so many that came later.
    fn define(&self, more: usize) {
        let traits: String =
            (0..more).map(|n| format!("  more{n}: {{ sum: properties.total, event: Order Completed }}\n")).collect();
        let segments: String = (0..more).map(|n| format!("  more{n}: \"more{n} > {}\"\n", 20 + n)).collect();
        let yaml = format!(
            "pipeline: faults\nsources:\n  site:\n    kafka: {{ brokers: \"${{env:KAFKA_BROKERS}}\", topics: [{}] }}\n    format: {{ json: segment }}\n\
             identity: {{ identifiers: [user_id, anonymous_id] }}\n\
             traits:\n  orders: {{ count: \"*\", event: Order Completed }}\n  last_total: {{ latest: properties.total }}\n{traits}\
             segments:\n  loyal: \"orders >= 3\"\n{segments}\
             aggregates:\n  revenue: \"SELECT date_trunc('day', timestamp) AS day, event, count(*) AS orders, sum(properties.total) AS total FROM events GROUP BY 1, 2\"\n\
             destinations:\n  crm: {{ webhook: {{ url: \"{}\", allow_private: true }} }}\n\
             activations:\n  welcome:\n    trigger: {{ enters: loyal }}\n    consent: none\n    status: live\n    do: [ {{ id: hello, send: {{ to: crm }} }} ]\n\
             warehouse:\n  clickhouse: {{ url: \"${{env:CLICKHOUSE_URL}}\", database: \"${{env:CLICKHOUSE_DATABASE}}\" }}\n",
            self.topic, self.hook
        );
        std::fs::write(self.pipeline.join("faults.yaml"), yaml).expect("file");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tributary(args);
        command
            .args(["-C", path(&self.pipeline), "--data", path(&self.data)])
            .env("KAFKA_BROKERS", &servers().kafka)
            .env("CLICKHOUSE_URL", &servers().clickhouse)
            .env("CLICKHOUSE_DATABASE", &self.database)
            // Many commits, so that there are some before and behind the one that is hit.
            .env("TRIBUTARY_BATCH_RECORDS", "30")
            // Every commit is followed by a checkpoint.
            .env("TRIBUTARY_CHECKPOINT_MIB", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn rows(&self, sql: &str) -> String {
        clickhouse(&servers().clickhouse, &self.database, sql)
    }
}

/// Events of a round: people of its own who become loyal, and two who are one person by mistake.
fn events(round: usize) -> Vec<Vec<u8>> {
    let order = |id: String, who: String, total: usize| {
        format!(
            r#"{{"type":"track","event":"Order Completed","messageId":"{id}",{who},"properties":{{"order_id":"{id}","total":{total}}}}}"#
        )
    };
    let mut events: Vec<String> = (0..240)
        .map(|n| order(format!("r{round}m{n}"), format!(r#""userId":"r{round}u{}""#, n % 40), n % 17))
        .collect();
    events.push(order(format!("r{round}w"), format!(r#""userId":"w{round}""#), 5));
    events.push(order(format!("r{round}x"), format!(r#""anonymousId":"x{round}""#), 7));
    events.push(order(format!("r{round}wx"), format!(r#""userId":"w{round}","anonymousId":"x{round}""#), 9));
    // A copy of what came before, and what cannot be read.
    if let Some(before) = round.checked_sub(1) {
        events.push(order(format!("r{before}m0"), format!(r#""userId":"r{before}u0""#), 0));
    }
    events.push(format!("round {round}"));
    events.into_iter().map(String::into_bytes).collect()
}

fn well(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {} {}", output.status, text_of(output));
}

/// Both at once; both must end well.
fn both(mut left: Command, mut right: Command, what: &str) {
    let other = right.spawn().expect("the program starts");
    well(&left.output().expect("the program starts"), &format!("{what}, after the crash"));
    well(&other.wait_with_output().expect("it ends"), &format!("{what}, calm"));
}

#[test]
fn dying_at_every_named_point_changes_nothing() {
    let only = std::env::var("FAULT_POINT").ok();
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(3);
    let (calm, killed) =
        (Side::new(folder.path(), "calm", &topic.name), Side::new(folder.path(), "killed", &topic.name));
    let (mut defined, mut deaths) = (0, 0);
    for (number, point) in Point::ALL.iter().enumerate() {
        if only.as_ref().is_some_and(|only| only != point.name()) {
            continue;
        }
        let started = tributary::clock::instant();
        let (round, passing) = plan(*point);
        topic.send(events(number).into_iter());
        let drain: &[&str] = &["run", "--drain"];
        let link = [format!("user_id:w{number}"), format!("anonymous_id:x{number}")];
        let split = ["identity", "split", "--link", &link[0], &link[1]];
        if round == Round::Correction {
            both(killed.command(drain), calm.command(drain), point.name());
        }
        if round == Round::Fill {
            // What is new is to be filled from, not live.
            both(killed.command(drain), calm.command(drain), point.name());
            defined += 1;
            [&calm, &killed].iter().for_each(|side| side.define(defined));
        }
        let args = if round == Round::Correction { &split[..] } else { drain };
        let mut dying = killed.command(args);
        let passing_off = if passing > 1 { format!("{}*off->", passing - 1) } else { String::new() };
        dying.env("FAILPOINTS", format!("{}={passing_off}return(kill)", point.name()));
        let died = dying.output().expect("the program starts");
        let status = died.status;
        assert_eq!(status.signal(), Some(SIGKILL), "{} never came by: {status} {}", point.name(), text_of(&died));
        deaths += 1;
        if round == Round::Correction {
            well(&calm.command(&split).output().expect("the program starts"), "calm correction");
        }
        both(killed.command(drain), calm.command(drain), point.name());
        for (name, sql) in TABLES {
            let (expected, found) = (calm.rows(sql), killed.rows(sql));
            assert!(!expected.is_empty(), "{name} is empty");
            assert!(found == expected, "{}: {name} differs\n{}", point.name(), difference(&expected, &found));
        }
        assert_same_webhooks(&calm.received, &killed.received, point.name());
        println!("{:20} passing {passing}: {:.1} s", point.name(), started.elapsed().as_secs_f64());
    }
    println!("{deaths} points, {deaths} deaths, 0 violations");
}

/// The first lines that differ.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let missing = expected.iter().filter(|line| !found.contains(line)).take(3).map(|line| format!("- {line}"));
    let more = found.iter().filter(|line| !expected.contains(line)).take(3).map(|line| format!("+ {line}"));
    let lines: Vec<String> = missing.chain(more).collect();
    format!("{} and {} rows\n{}", expected.len(), found.len(), lines.join("\n"))
}
