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
    status: live
    do: [ { id: greet, send: { to: crm, body: { to: "{{ profile.traits.email }}", n: "{{ profile.traits.orders }}" } } } ]
  plan:
    trigger: { event: Bought }
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
        assert!(checked.status.success() && !text_of(&checked).contains("warning"), "{path}: {}", text_of(&checked));
        let output = tributary(&["test", "-C", path]).output().expect("starts");
        assert!(output.status.success(), "{path}: {}", text_of(&output));
    }
}

/// The folders of `pipelines`, and the files of `pipelines/identity`: each of those is a pipeline by itself.
pub fn shipped_pipelines() -> Vec<PathBuf> {
    let paths = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).expect("folder");
        entries.map(|entry| entry.expect("entry").path()).collect::<Vec<_>>()
    };
    let (cases, mut all): (Vec<_>, Vec<_>) =
        paths(root().join("pipelines")).into_iter().partition(|path| path.ends_with("identity"));
    let files = cases.into_iter().flat_map(paths);
    all.extend(files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")));
    all.sort();
    all
}
