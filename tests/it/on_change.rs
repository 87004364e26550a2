//! What becomes of those who are under way in a journey when its definition is changed: the whole program, started again.

use std::path::Path;

use tributary::definition::{self, Mode};
use tributary::engine::{EmittedRecord, Preparer, emitted_batch};

use crate::support::{output_of, tributary};

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("file");
}

fn pipeline(version: &str, on_change: &str, status: &str) -> String {
    format!(
        "pipeline: changes\n\
         sources: {{ site: {{ file: {{ path: data/*.ndjson }}, format: {{ json: segment }} }} }}\n\
         destinations: {{ out: {{ file: {{ path: out.ndjson }} }} }}\n\
         activations:\n  trial:\n    trigger: {{ event: Began }}\n    consent: none\n    status: {status}\n    on_change: {on_change}\n    do:\n\
         \x20     - {{ id: first, send: {{ to: out, body: \"first {version}\" }} }}\n\
         \x20     - {{ id: pause, wait: 1d }}\n\
         \x20     - {{ id: second, send: {{ to: out, body: \"second {version} {{{{ event.properties.days }}}}\" }} }}\n"
    )
}

struct Shop {
    folder: tempfile::TempDir,
    files: u32,
}

impl Shop {
    fn new() -> Shop {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("data")).expect("folder");
        Shop { folder, files: 0 }
    }

    fn run(&self, args: &[&str]) -> String {
        let mut command = tributary(args);
        command.current_dir(self.folder.path());
        output_of(command)
    }

    /// An event comes, and brings its time, under this definition.
    fn take(&mut self, pipeline: &str, event: &str) {
        self.files += 1;
        write(self.folder.path(), "p.yaml", pipeline);
        write(self.folder.path(), &format!("data/{}.ndjson", self.files), &format!("{event}\n"));
        self.run(&["run", "--drain"]);
    }

    /// The bodies that were sent so far.
    fn sent(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(self.folder.path().join("out.ndjson")).expect("what was sent");
        let body = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line");
            line["body"].as_str().expect("a text").to_string()
        };
        lines.lines().map(body).collect()
    }
}

const BEGAN: &str = r#"{"type":"track","event":"Began","messageId":"1","userId":"u1","timestamp":"2026-03-01T10:00:00Z","properties":{"days":30}}"#;

fn other(day: u32) -> String {
    format!(
        r#"{{"type":"track","event":"Other","messageId":"o{day}","userId":"u2","timestamp":"2026-03-{day:02}T10:00:00Z"}}"#
    )
}

#[test]
fn who_is_under_way_finishes_moves_or_stops_when_the_definition_changes() {
    for (on_change, second, left) in [
        ("finish", Some("second old 30"), "completed"),
        ("move", Some("second new 30"), "completed"),
        ("stop", None, "its definition was changed"),
    ] {
        let mut shop = Shop::new();
        shop.take(&pipeline("old", on_change, "live"), BEGAN);
        // Three days later, under another definition: the wait is over.
        shop.take(&pipeline("new", on_change, "live"), &other(4));
        let expected: Vec<&str> = std::iter::once("first old").chain(second).collect();
        assert_eq!(shop.sent(), expected, "{on_change}");
        let sql = "SELECT detail FROM journey_steps WHERE what = 'left'";
        assert_eq!(shop.run(&["query", sql, "--output", "csv"]).lines().nth(1), Some(left), "{on_change}");
    }
}

/// Whoever pauses an activation wants it to stand still, whichever version people are under way along.
#[test]
fn while_an_activation_is_paused_those_under_way_stand_still_and_then_go_on() {
    for version in ["old", "new"] {
        let mut shop = Shop::new();
        shop.take(&pipeline("old", "finish", "live"), BEGAN);
        shop.take(&pipeline(version, "finish", "paused"), &other(4));
        assert_eq!(shop.sent(), ["first old"], "{version}");
        shop.take(&pipeline(version, "finish", "live"), &other(6));
        assert_eq!(shop.sent(), ["first old", "second old 30"], "{version}");
    }
}

/// A process that ended between a step and its event may start again under definitions that make no events.
#[test]
fn what_a_step_has_made_is_applied_also_when_no_step_makes_anything_any_more() {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), "p.yaml", &pipeline("old", "finish", "live"));
    let (pipeline, _) = definition::load(folder.path(), Mode::Run).expect("a pipeline");
    let mut preparer = Preparer::new(&pipeline, None).expect("a preparer");
    let envelope =
        r#"{"message_id":"m","type":"track","event":"Made","user_id":"u1","timestamp":"2026-03-01T10:00:00Z"}"#;
    let left = EmittedRecord { number: 3, at: 1_772_359_200_000_000, envelope: envelope.to_string() };
    let prepared = preparer.prepare(&emitted_batch(&[left]), Vec::new()).expect("a batch");
    assert_eq!((prepared.events.len(), prepared.rejects.len()), (1, 0));
}

/// Nobody stays on a list at another side because a definition is gone; and it is not gone by mistake.
#[test]
fn an_audience_that_is_defined_no_more_removes_by_what_was_sent() {
    let mut shop = Shop::new();
    let pipeline = |audiences: &str| {
        format!(
            "pipeline: lists\n\
             sources: {{ site: {{ file: {{ path: data/*.ndjson }}, format: {{ json: segment }} }} }}\n\
             identity: {{ identifiers: [user_id, email] }}\n\
             traits: {{ orders: {{ count: true, event: Ordered }} }}\n\
             segments: {{ buyers: \"orders >= 1\" }}\n\
             destinations: {{ out: {{ file: {{ path: out.ndjson }} }} }}\n{audiences}"
        )
    };
    let defined = "audiences: { people: { segment: buyers, to: out, match: [user_id, email], consent: none } }\n";
    let ordered = [
        r#"{"type":"identify","messageId":"1","userId":"u1","timestamp":"2026-03-01T10:00:00Z","traits":{"email":"ann@shop.example"}}"#,
        r#"{"type":"track","event":"Ordered","messageId":"2","userId":"u1","timestamp":"2026-03-01T10:00:01Z"}"#,
    ];
    shop.take(&pipeline(defined), &ordered.join("\n"));
    let told = |shop: &Shop| -> Vec<(String, String)> {
        let lines = std::fs::read_to_string(shop.folder.path().join("out.ndjson")).expect("what was sent");
        let one = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line");
            (line["body"]["op"].as_str().expect("a text").to_string(), line["body"]["identifiers"].to_string())
        };
        let mut told: Vec<_> = lines.lines().map(one).collect();
        told.sort();
        told
    };
    let of = |op: &str| {
        let identifiers = [r#"{"email":["ann@shop.example"]}"#, r#"{"user_id":["u1"]}"#];
        identifiers.map(|identifiers| (op.to_string(), identifiers.to_string())).to_vec()
    };
    assert_eq!(told(&shop), of("add"));
    // Started without it, it says what would be lost.
    write(shop.folder.path(), "p.yaml", &pipeline(""));
    let mut command = tributary(&["run", "--drain"]);
    let refused = command.current_dir(shop.folder.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).to_string();
    assert!(!refused.status.success() && said.contains("audience people at out"), "{said}");
    shop.run(&["apply"]);
    shop.take(&pipeline(""), &other(2));
    assert_eq!(told(&shop), [of("add"), of("remove")].concat());
}
