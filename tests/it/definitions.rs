//! Mistakes in definitions, as a user sees them: file, line, column, the line itself, a suggestion; all at once; exit 1.

use crate::support::{text_of, tributary};

const BROKEN: &str = r#"pipeline: broken
sources:
  site:
    file: { path: data/*.ndjson }
    fromat: { json: segment }
identity:
  identifiers: [user_id]
traits:
  orders:  { count: "*", event: Order Completed }
  revenue: { sum: properties.totl, event: Order Completed }
  shout:   { latest: uper(traits.email) }
segments:
  a: "in_segment('b')"
  b: "in_segment('a')"
  c: "orders > 'many'"
destinations:
  crm: { webhook: { url: "https://crm.example/hook", secret: "s3cret" } }
"#;

#[test]
fn every_mistake_is_reported_at_once_with_its_place_and_a_suggestion() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::create_dir_all(folder.path().join("schemas/events")).expect("folder");
    std::fs::copy(
        crate::support::root().join("schemas/events/order_completed.avsc"),
        folder.path().join("schemas/events/order_completed.avsc"),
    )
    .expect("file");
    std::fs::write(folder.path().join("broken.yaml"), BROKEN).expect("file");
    let output = tributary(&["check", "-C", folder.path().to_str().expect("utf-8")]).output().expect("starts");
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    // (what is named, its line and column, what else the finding says)
    let expected = [
        ("fromat", "broken.yaml:5:5", "format"),
        ("totl", "broken.yaml:10:19", "total"),
        ("uper", "broken.yaml:11:22", "upper"),
        ("a → b → a", "broken.yaml:13:", "b"),
        ("many", "broken.yaml:15:", ""),
        ("secret", "broken.yaml:17:", "${env:"),
    ];
    for (what, place, suggestion) in expected {
        let finding = text.split("error").find(|part| part.contains(place));
        let finding = finding.unwrap_or_else(|| panic!("nothing at {place}:\n{text}"));
        assert!(finding.contains(what) && finding.contains(suggestion), "{place}: {what}, {suggestion}\n{finding}");
        assert!(finding.contains('^'), "a marker under the line: {finding}");
    }
    assert!(!text.contains("s3cret") || text.contains("secret:"), "{text}");
}

#[test]
fn the_shipped_pipelines_have_no_findings() {
    for name in ["shop", "cdnow"] {
        let output = tributary(&["check", "-C", &format!("pipelines/{name}")]).output().expect("starts");
        assert!(output.status.success(), "{name}: {}", text_of(&output));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("ok"), "{name}: {}", text_of(&output));
    }
}

#[test]
fn a_command_line_that_is_not_understood_ends_with_2() {
    let output = tributary(&["runn"]).output().expect("starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text_of(&output).contains("run"), "suggests the nearest: {}", text_of(&output));
}
