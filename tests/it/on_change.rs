//! What becomes of those who are under way in a journey when its definition is changed: the whole program, started again.

use std::path::Path;

use crate::support::{output_of, tributary};

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("file");
}

fn pipeline(version: &str, on_change: &str) -> String {
    format!(
        "pipeline: changes\n\
         sources: {{ site: {{ file: {{ path: data/*.ndjson }}, format: {{ json: segment }} }} }}\n\
         destinations: {{ out: {{ file: {{ path: out.ndjson }} }} }}\n\
         activations:\n  trial:\n    trigger: {{ event: Began }}\n    consent: none\n    status: live\n    on_change: {on_change}\n    do:\n\
         \x20     - {{ id: first, send: {{ to: out, body: \"first {version}\" }} }}\n\
         \x20     - {{ id: pause, wait: 1d }}\n\
         \x20     - {{ id: second, send: {{ to: out, body: \"second {version} {{{{ event.properties.days }}}}\" }} }}\n"
    )
}

#[test]
fn who_is_under_way_finishes_moves_or_stops_when_the_definition_changes() {
    for (on_change, second, left) in [
        ("finish", Some("second old 30"), "completed"),
        ("move", Some("second new 30"), "completed"),
        ("stop", None, "its definition was changed"),
    ] {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("data")).expect("folder");
        let run = |args: &[&str]| {
            let mut command = tributary(args);
            command.current_dir(folder.path());
            output_of(command)
        };
        write(folder.path(), "p.yaml", &pipeline("old", on_change));
        let began = r#"{"type":"track","event":"Began","messageId":"1","userId":"u1","timestamp":"2026-03-01T10:00:00Z","properties":{"days":30}}"#;
        write(folder.path(), "data/a.ndjson", &format!("{began}\n"));
        run(&["run", "--drain"]);
        // Three days later, under another definition: the wait is over.
        write(folder.path(), "p.yaml", &pipeline("new", on_change));
        let other =
            r#"{"type":"track","event":"Other","messageId":"2","userId":"u2","timestamp":"2026-03-04T10:00:00Z"}"#;
        write(folder.path(), "data/b.ndjson", &format!("{other}\n"));
        run(&["run", "--drain"]);
        let lines = std::fs::read_to_string(folder.path().join("out.ndjson")).expect("what was sent");
        let body = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line");
            line["body"].as_str().expect("a text").to_string()
        };
        let expected: Vec<&str> = std::iter::once("first old").chain(second).collect();
        assert_eq!(lines.lines().map(body).collect::<Vec<_>>(), expected, "{on_change}");
        let sql = "SELECT detail FROM journey_steps WHERE what = 'left'";
        assert_eq!(run(&["query", sql, "--output", "csv"]).lines().nth(1), Some(left), "{on_change}");
    }
}
