//! `tributary test`: the tests of a pipeline, as their author sees them run.

use std::path::PathBuf;
use std::process::Output;

use crate::support::{root, text_of, tributary};

const PIPELINE: &str = r#"pipeline: tried
sources:
  shop:
    file: { path: none.csv }
    format: { csv: { columns: { customer: string } } }
    map: { user_id: customer, event: { value: Bought } }
  site: { kafka: { brokers: "${env:NOT_SET}", topics: [t] }, format: { json: segment } }
transforms:
  - filter: "coalesce(properties.kind, '') <> 'test'"
    source: site
identity:
  identifiers: [user_id, email, anonymous_id]
traits:
  email:    { latest: traits.email }
  orders:   { count: "*", event: Bought }
  revenue:  { sum: "CAST(properties.total AS DOUBLE)", event: Bought }
  last_buy: { max: timestamp, event: Bought }
segments:
  buyers: "orders >= 1"
  good:   "revenue > 50"
destinations:
  crm: { webhook: { url: "${env:NOT_SET}", secret: "${env:NOT_SET_EITHER}" } }
activations:
  hello:
    trigger: { enters: buyers }
    consent: none
    status: live
    do: [ { id: greet, send: { to: crm, body: { to: "{{ profile.traits.email }}", n: "{{ profile.traits.orders }}" } } } ]
  plan:
    trigger: { event: Bought }
    consent: none
    do:
      - { id: one, send: { to: crm, body: { where: "{{ event.properties.shop.city }}" } } }
      - { id: two, send: { to: crm } }
"#;

/// Runs `tributary test` on the pipeline with these tests.
fn test(tests: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("a.yaml"), PIPELINE).expect("file");
    std::fs::write(folder.path().join("tests.yaml"), tests).expect("file");
    let mut args = vec!["test", "-C", folder.path().to_str().expect("utf-8")];
    args.extend(more);
    let mut output = tributary(&args).output().expect("starts");
    let base = format!("{}/", folder.path().display());
    output.stdout = String::from_utf8_lossy(&output.stdout).replace(&base, "").into_bytes();
    output.stderr = String::from_utf8_lossy(&output.stderr).replace(&base, "").into_bytes();
    output
}

const GOOD: &str = r#"tests:
  - name: everything at once
    steps:
      - at: 2026-03-01T10:00Z
        events:
          - { event: Bought, user_id: u1, anonymous_id: a1, properties: { total: 20, shop: { city: Berlin } } }
          - { traits: { email: a@example.com }, anonymousId: a1, source: site }
          - { type: identify, identifiers: { email: b@example.com }, userId: 7, source: site }
          - { event: Looked, properties: { kind: test }, user_id: nobody, source: site }
          - { event: Looked }
        expect:
          profiles: [ [email:b@example.com, user_id:7], [anonymous_id:a1, email:a@example.com, user_id:u1] ]
          no_profile: t5
          events: { t1: email:a@example.com, t3: user_id:7 }
          flags: { t1: [], t5: no_identifier }
          segments: { buyers: user_id:u1, good: [] }
          traits:
            email:a@example.com: { orders: 1, revenue: 20.0, last_buy: 2026-03-01T10:00Z, email: a@example.com }
            user_id:7: { email: null, orders: 0, last_buy: null, events: 1 }
          conflicts: []
          sent:
            - { activation: plan, profile: anonymous_id:a1 }
            - { step: greet, to: crm, body: { n: 1 } }
            - { activation: plan, step: one, body: { where: Berlin } }
      - { at: +1h30m, expect: { sent: [], no_profile: [] } }
      - at: +1h
        events:
          - { event: Bought, user_id: u1, message_id: x, timestamp: 2026-03-01T11:15Z, properties: { total: 31.5, shop: { city: Ulm } } }
          - { event: Bought, user_id: u1, message_id: x, timestamp: 2026-03-01T11:15Z, properties: { total: 31.5, shop: { city: Ulm } } }
          - { event: Bought, user_id: u1, message_id: x, timestamp: 2026-03-01T11:15Z, properties: { total: 99 } }
      - expect:
          traits: { user_id:u1: { revenue: 51.5, last_buy: 2026-03-01T12:15+01:00 } }
          segments: { good: [user_id:u1] }
          rejected: [x]
  - name: a merge moves memberships
    steps:
      - events:
          - { event: Bought, user_id: u1, properties: { total: 60, shop: { city: Ulm } } }
          - { event: Bought, anonymous_id: a1, properties: { total: 70, shop: { city: Ulm } } }
        expect: { segments: { good: [user_id:u1, anonymous_id:a1] } }
      - events: [ { traits: { email: a@example.com }, user_id: u1, anonymous_id: a1 } ]
        expect:
          segments: { good: [email:a@example.com] }
          traits: { anonymous_id:a1: { revenue: 130 } }
          sent: []
"#;

#[test]
fn what_holds_passes_and_says_so() {
    let output = test(GOOD, &[]);
    let expect = "ok   everything at once\nok   a merge moves memberships\n2 passed, 0 failed\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expect, "{}", text_of(&output));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_part_of_the_name_chooses() {
    // (part, exit code, what is printed)
    let rows = [
        ("merge", 0, "ok   a merge moves memberships\n1 passed, 0 failed\n"),
        ("nothing", 1, "error: none of the 2 tests has `nothing` in its name\n"),
    ];
    for (part, exit, expect) in rows {
        let output = test(GOOD, &[part]);
        assert_eq!((output.status.code(), text_of(&output).as_str()), (Some(exit), expect));
    }
    let output = test("", &[]);
    assert_eq!((output.status.code(), text_of(&output).as_str()), (Some(0), "tried has no tests\n"));
}

#[test]
fn what_differs_is_shown_with_its_place() {
    let tests = r#"tests:
  - name: wrong
    steps:
      - events:
          - { event: Bought, user_id: u1, anonymous_id: a1, properties: { total: 20 } }
          - { traits: { email: a@example.com }, anonymous_id: a1 }
          - { traits: { email: b@example.com }, user_id: u2 }
          - { event: Bought, user_id: u2, timestamp: soon, properties: { total: 20 } }
        expect:
          profiles:
            - [user_id:u1, anonymous_id:a1]
            - [email:a@example.com, email:b@example.com]
            - [user_id:u2]
          segments:
            buyers: [user_id:u2, user_id:u3]
          traits:
            user_id:u1: { orders: "1", revenue: 20, email: null }
            user_id:u3: { orders: 1 }
          sent:
            - { activation: hello, profile: user_id:u2 }
            - { activation: plan, step: two }
            - { activation: plan, step: two }
          no_profile: [t9]
          events: { t1: user_id:u2, t2: anonymous_id:a1, t3: user_id:u3, t9: user_id:u1 }
          flags: { t1: [clamped], t9: [] }
  - name: right
    steps: [ { events: [ { event: Looked, user_id: u1 } ], expect: { profiles: [ [user_id:u1] ] } } ]
"#;
    let output = test(tests, &[]);
    let expect = r#"FAIL wrong
  tests.yaml:10: profiles (- expected, + found)
    - [user_id:u1, anonymous_id:a1]
    - [user_id:u2]
    - [email:a@example.com, email:b@example.com]
    + [user_id:u1, email:a@example.com, anonymous_id:a1]
    + [user_id:u2, email:b@example.com]
  tests.yaml:15: segment buyers (- expected, + found)
    - user_id:u2
    - user_id:u3 (nobody has this identifier)
    + user_id:u1
  tests.yaml:17: traits of user_id:u1 (- expected, + found)
    - orders: "1"
    + orders: 1
    - email: null
    + email: "a@example.com"
  tests.yaml:18: traits of user_id:u3 (- expected, + found)
    - user_id:u3 (nobody has this identifier)
  tests.yaml:19: sent (- expected, + found)
    - { activation: hello, profile: user_id:u2 }
    - { activation: plan, step: two }
    + { activation: plan, step: one, to: crm, profile: user_id:u1 }, which failed: template `event.properties.shop.city`: undefined value: `event.properties.shop` is undefined (in <expression>:1)
    + { activation: hello, step: greet, to: crm, profile: user_id:u1 }
  tests.yaml:23: no_profile (- expected, + found)
    - t9
  tests.yaml:24: event t1 (- expected, + found)
    - user_id:u2
    + user_id:u1
  tests.yaml:24: event t3 (- expected, + found)
    - user_id:u3 (nobody has this identifier)
  tests.yaml:24: event t9 (- expected, + found)
    - user_id:u1
    + no event has this message id
  tests.yaml:25: flags of t1 (- expected, + found)
    - clamped
  tests.yaml:25: flags of t9 (- expected, + found)
    + no event has this message id
  tests.yaml:8: event t4 was rejected (bad_timestamp)
    timestamp: expected a time (RFC 3339 text or epoch milliseconds), found "soon"
    where that is meant, expect it: `rejected: [ID]`
ok   right
1 passed, 1 failed
"#;
    assert_eq!(String::from_utf8_lossy(&output.stdout), expect, "{}", text_of(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_test_that_cannot_be_read_is_a_finding_and_nothing_runs() {
    let tests = r#"tests:
  - name: typo
    steps: [ { events: [ { evnt: Bought, user_id: u1 } ], expect: { segments: { buyer: [user_id:u1] } } } ]
"#;
    let output = test(tests, &[]);
    let text = text_of(&output);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(1), ""), "{text}");
    for expect in ["tests.yaml:3:28", "did you mean `event`?", "there is no segment `buyer`", "did you mean `buyers`?"]
    {
        assert!(text.contains(expect), "{expect} in\n{text}");
    }
}

#[test]
fn the_tests_of_the_shipped_pipelines_pass() {
    let pipelines = shipped_pipelines();
    assert!(pipelines.len() >= 10, "every pipeline is tried: {pipelines:?}");
    for path in pipelines {
        let path = path.to_str().expect("utf-8");
        let checked = tributary(&["check", "-C", path]).output().expect("starts");
        let text = text_of(&checked);
        // What reads otherwise than it is is the very subject of one of them.
        let warns = path.ends_with("traits/nulls.yaml");
        assert!(checked.status.success() && text.contains("warning") == warns, "{path}: {text}");
        let output = tributary(&["test", "-C", path]).output().expect("starts");
        assert!(output.status.success(), "{path}: {}", text_of(&output));
    }
}

/// Folders of worked cases.
const CASES: [&str; 4] = ["identity", "journeys", "sessions", "traits"];

/// Parts of pipelines, and none by themselves.
const PARTS: &str = "connectors";

/// The folders of `pipelines`, and the files of those that hold worked cases: each of these is a pipeline by itself.
pub fn shipped_pipelines() -> Vec<PathBuf> {
    let paths = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).expect("folder");
        entries.map(|entry| entry.expect("entry").path()).collect::<Vec<_>>()
    };
    let (cases, mut all): (Vec<_>, Vec<_>) =
        paths(root().join("pipelines")).into_iter().partition(|path| CASES.iter().any(|cases| path.ends_with(cases)));
    all.retain(|path| !path.ends_with(PARTS));
    let files = cases.into_iter().flat_map(paths);
    all.extend(files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")));
    all.sort();
    all
}

/// Runs `tributary test --update` on the pipeline with these tests; gives them as they are then.
fn updated(tests: &str) -> (String, Output) {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("a.yaml"), PIPELINE).expect("file");
    let file = folder.path().join("tests.yaml");
    std::fs::write(&file, tests).expect("file");
    let output = tributary(&["test", "--update", "-C", folder.path().to_str().expect("utf-8")]).output();
    (std::fs::read_to_string(file).expect("text"), output.expect("starts"))
}

#[test]
fn update_changes_what_differs_and_nothing_else() {
    let before = r#"# What a shop's people do.
tests:
  - name: "wrong, in many ways"   # a comment
    steps:
      - events:
          - { event: Bought, user_id: u1, anonymous_id: a1, properties: { total: 60, shop: { city: Ulm } } }
          - { traits: { email: "a b@example.com" },   anonymous_id: a1 }
          - { event: Bought, user_id: u2, properties: { total: 20, shop: { city: Berlin } } }
          - { event: Looked }
        expect:
          profiles:
            # the first one
            - [user_id:u1]              # and its comment
            - [anonymous_id:a1]
            - [user_id:u2]
            - [ user_id:u9 ]
          segments: { buyers: [ user_id:u2 ], good: user_id:u2 }   # who bought
          traits:
            user_id:u1: { orders: 3, revenue: 60.0, email: null, last_buy: 2026-01-01T01:00+01:00 }
          sent:
            - { step: greet, profile: user_id:u2, body: { n: 1 } }
            - { activation: hello, profile: user_id:u3 }     # nobody
            - { step: one, body: { where: Berlin } }
          no_profile: [t1]
          events: { t1: user_id:u2, t3: user_id:u2 }
          flags: { t1: [clamped], t4: no_identifier }
      # nothing happens
      - { at: +1d, expect: { sent: [ { step: greet } ] } }
"#;
    let after = r#"# What a shop's people do.
tests:
  - name: "wrong, in many ways"   # a comment
    steps:
      - events:
          - { event: Bought, user_id: u1, anonymous_id: a1, properties: { total: 60, shop: { city: Ulm } } }
          - { traits: { email: "a b@example.com" },   anonymous_id: a1 }
          - { event: Bought, user_id: u2, properties: { total: 20, shop: { city: Berlin } } }
          - { event: Looked }
        expect:
          profiles:
            # the first one
            - [user_id:u1, email:a b@example.com, anonymous_id:a1]              # and its comment
            - [user_id:u2]
          segments: { buyers: [ user_id:u2, user_id:u1 ], good: user_id:u1 }   # who bought
          traits:
            user_id:u1: { orders: 1, revenue: 60.0, email: a b@example.com, last_buy: 2026-01-01T01:00+01:00 }
          sent:
"#;
    let (text, output) = updated(before);
    let shown = format!("{text}\n{}", text_of(&output));
    // What follows holds a body of everything there is; up to here it is compared to the letter.
    assert!(text.starts_with(after), "{shown}");
    for line in [
        "          no_profile: [t4]",
        "          events: { t1: user_id:u1, t3: user_id:u2 }",
        "          flags: { t1: [], t4: no_identifier }",
        "      # nothing happens",
        "      - { at: +1d, expect: { sent: [] } }",
        "            - { step: greet, profile: user_id:u2, body: { n: 1 } }",
        "            - { step: one, body: { where: Berlin } }",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in\n{shown}");
    }
    assert!(text.contains("     # nobody"), "{shown}");
    assert!(output.status.success(), "{shown}");
    let (again, output) = updated(&text);
    assert!(output.status.success() && !text_of(&output).contains("updated"), "{}", text_of(&output));
    assert_eq!(again, text, "what is right is left alone");
}

#[test]
fn update_fills_in_what_is_empty() {
    let before = r#"tests:
  - name: empty
    steps:
      - events:
          - { traits: { email: a@example.com, name: "7" }, user_id: u1, message_id: "x: 1" }
          - { event: Bought, user_id: u1, properties: { total: 60, shop: { city: Ulm } } }
        expect: {}   # everything
      - events: [ { event: Looked, user_id: u2 } ]
        expect:
      - { events: [ { event: Looked, user_id: u3 } ], expect: {} }
      - events: [ { event: Looked, user_id: u4 } ]
        expect:
          profiles:
          segments: # all
          traits:
            user_id:u1:
            user_id:u4: { orders: }
          sent: ~
          events:
            t4:
          flags:
          conflicts:
          no_profile:
"#;
    let after = r#"tests:
  - name: empty
    steps:
      - events:
          - { traits: { email: a@example.com, name: "7" }, user_id: u1, message_id: "x: 1" }
          - { event: Bought, user_id: u1, properties: { total: 60, shop: { city: Ulm } } }
        expect:   # everything
          profiles:
            - [user_id:u1, email:a@example.com]
          segments:
            buyers: [user_id:u1]
            good: [user_id:u1]
          traits:
            user_id:u1: { email: a@example.com, orders: 1, revenue: 60.0, last_buy: 2026-01-01T00:00:00Z }
          sent:
"#;
    let (text, output) = updated(before);
    let shown = format!("{text}\n{}", text_of(&output));
    assert!(text.starts_with(after), "{shown}");
    for line in [
        "            user_id:u1: { email: a@example.com, orders: 1, revenue: 60.0, last_buy: 2026-01-01T00:00:00Z }",
        "            user_id:u4: { orders: 0 }",
        "          segments: # all",
        "            t4: user_id:u3",
        "          sent: []",
        "          conflicts: []",
        "          no_profile: []",
        "            \"x: 1\": []",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in\n{shown}");
    }
    assert!(output.status.success(), "{shown}");
    assert_eq!(updated(&text).0, text, "what is right is left alone");
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("a.yaml"), format!("{PIPELINE}{before}")).expect("file");
    let checked = tributary(&["check", "-C", folder.path().to_str().expect("utf-8")]).output().expect("starts");
    assert!(!checked.status.success() && text_of(&checked).contains("--update"), "{}", text_of(&checked));
}

#[test]
fn update_writes_groups_where_they_are_asked_for() {
    let before = r#"groups:
  account:
    traits: { known: { count: profile_id }, looks: { count: "*", event: Looked } }
    segments: { many: "known > 1" }
tests:
  - name: groups
    steps:
      - events:
          - { event: Looked, user_id: u1, group_id: acme }
          - { event: Looked, user_id: u2, group_id: acme }
        expect:
          groups: { account: { acme: { known: 3, looks: 2.0 }, nobody: { looks: 1 } } }   # both
          group_segments: { account.many: [other] }
      - events: [ { event: Looked, user_id: u1, group_id: "7" } ]
        expect:
          groups:
            account:
              "7":
          group_segments: { account.many: }
"#;
    let after = before
        .replace("{ known: 3, looks: 2.0 }, nobody: { looks: 1 }", "{ known: 2, looks: 2.0 }, nobody: { looks: null }")
        .replace("[other]", "[acme]")
        .replace("\"7\":\n", "\"7\": { known: 1, looks: 1 }\n")
        .replace("account.many: }", "account.many: [acme] }");
    let (text, output) = updated(before);
    assert_eq!(text, after, "{}", text_of(&output));
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(updated(&text).0, text, "what is right is left alone");
}

#[test]
fn junit_says_the_same_to_a_ci_system() {
    let tests = r#"tests:
  - name: "right & <good>"
    steps: [ { events: [ { event: Looked, user_id: u1 } ], expect: { profiles: [ [user_id:u1] ] } } ]
  - name: wrong "quoted"
    steps: [ { events: [ { event: Looked, user_id: "u&<1>" } ], expect: { profiles: [], no_profile: [x] } } ]
"#;
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("junit.xml");
    let output = test(tests, &["--junit", file.to_str().expect("utf-8")]);
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    let script = r#"
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
suite, = root
print(root.tag, suite.tag, suite.get("name"), suite.get("tests"), suite.get("failures"))
for case in suite:
    print(case.get("name"), case.get("line"), [failure.text.splitlines()[1:] for failure in case])
"#;
    let read = std::process::Command::new("python3").args(["-c", script]).arg(&file).output().expect("python3");
    let expect = r#"testsuites testsuite tried 2 1
right & <good> 2 []
wrong "quoted" 4 [['  + [user_id:u&<1>]', 'tests.yaml:5: no_profile (- expected, + found)', '  - x']]
"#;
    let read = text_of(&read).replace(&format!("{}/", folder.path().display()), "");
    let read = without_folders(&read);
    assert_eq!(read, expect);
}

/// Without the folders before `tests.yaml`.
fn without_folders(text: &str) -> String {
    let words = text.split('\'').map(|part| match part.find("tests.yaml") {
        Some(at) => &part[at..],
        None => part,
    });
    words.collect::<Vec<_>>().join("'")
}
