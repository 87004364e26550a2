//! `tests:`: what is said about those that cannot be run, and what the others become.

use serde_json::json;

use super::super::{Cell, Expected, Mode};
use super::{SOURCE, check, load_files};

/// What tests refer to.
const DEFINED: (&str, &str) = (
    "b_defined.yaml",
    r#"identity: { identifiers: [user_id, email] }
traits:
  orders: { count: "*", event: Bought }
  bought: { max: timestamp, event: Bought }
segments:
  buyers: "orders >= 1"
destinations:
  crm: { kafka: { brokers: b, topic: t } }
activations:
  hello: { trigger: { enters: buyers }, consent: none, do: [ { id: greet, send: { to: crm } } ] }
"#,
);

#[test]
fn tests_that_cannot_be_run() {
    // (the tests, what is said: message, line and column, help)
    let rows: [(&str, &[(&str, &str, &str)]); 15] = [
        (
            "- { name: a, stpes: [] }\n- { steps: [ { at: +1h } ] }",
            &[
                ("a test has no key `stpes`", "2:14", "did you mean `steps`?"),
                ("a test needs `name`", "3:3", ""),
                (
                    "this step has neither events nor anything to expect",
                    "3:14",
                    "time passes by itself between two steps: write `at` at the next one",
                ),
            ],
        ),
        (
            "- { name: a, steps: [] }\n- { name: a, steps: [ { events: [ { event: Bought } ] } ] }",
            &[
                ("this test does nothing: `steps` is empty", "2:21", ""),
                ("there are two tests `a`", "3:11", "first defined at t.yaml:2:11"),
            ],
        ),
        (
            "- { name: a, steps: [ { at: noon, expect: { sent: [] } }, { at: +2x, expect: {} } ] }",
            &[
                ("`noon` is not a time", "2:29", "write 2026-03-01T10:00Z, or +2h for two hours after the step before"),
                ("`2x` is not a duration", "2:65", "write +30s, +2h, +1h59m or +7d"),
                ("`expect` expects nothing", "2:70", "`tributary test --update` writes what there is"),
            ],
        ),
        (
            "- name: a\n  steps:\n  - { at: 2026-03-02, expect: { sent: [] } }\n  - { at: 2026-03-01T23:59Z, expect: { sent: [] } }",
            &[(
                "a step cannot be earlier than the one before it",
                "5:11",
                "the step before is at 2026-03-02T00:00:00Z",
            )],
        ),
        (
            "- { name: a, steps: [ { events: [ { evnt: Bought, userID: u1 }, Bought, { user_id: u1 } ] } ] }",
            &[
                (
                    "an event has no key `evnt`",
                    "2:37",
                    "did you mean `event`?; what an event says beside these goes into `properties`",
                ),
                (
                    "an event has no key `userID`",
                    "2:51",
                    "did you mean `user_id`?; what an event says beside these goes into `properties`",
                ),
                ("an event is a map, this is a single value", "2:65", "write { event: Order Completed, user_id: u1 }"),
                (
                    "an event needs `event`, `traits` or `type`",
                    "2:73",
                    "with `event` it is a track call, with `traits` an identify call",
                ),
            ],
        ),
        (
            "- { name: a, steps: [ { events: [ { event: Bought, source: wbe } ] } ] }",
            &[("there is no source `wbe`", "2:60", "did you mean `web`?")],
        ),
        (
            "- { name: a, steps: [ { expect: { segmnts: { buyers: [] } } } ] }",
            &[("`expect` has no key `segmnts`", "2:35", "did you mean `segments`?")],
        ),
        (
            "- { name: a, steps: [ { expect: { segments: { buyer: [u1], buyers: [usr_id:u1, email:] } } } ] }",
            &[
                ("there is no segment `buyer`", "2:47", "did you mean `buyers`?"),
                ("`u1` names nobody", "2:55", "write type:value, as in user_id:u1"),
                ("`identity.identifiers` does not list `usr_id`", "2:69", "did you mean `user_id`?"),
                ("a person is written `type:value`, without a blank", "2:80", "write email:VALUE"),
            ],
        ),
        (
            "- { name: a, steps: [ { expect: { traits: { user_id:u1: { order: 1, bought: soon, first_seen: null } } } } ] }",
            &[
                ("there is no trait `order`", "2:59", "did you mean `orders`?"),
                ("trait `bought` is a time, `soon` is none", "2:77", "write 2026-03-01T10:00Z"),
            ],
        ),
        (
            "- { name: a, steps: [ { expect: { profiles: [ [user_id:u1, email:a@b.c], [user_id:u1] ] } } ] }",
            &[("`user_id:u1` is listed twice: it belongs to one profile", "2:75", "first written at t.yaml:2:48")],
        ),
        (
            "- { name: a, steps: [ { expect: { sent: [ { activation: helo, step: x }, { step: great }, { activation: hello, step: great, to: cmr } ] } } ] }",
            &[
                ("there is no activation `helo`", "2:57", "did you mean `hello`?"),
                ("no activation has a step `great`", "2:82", "did you mean `greet`?"),
                ("activation `hello` has no step `great`", "2:118", "did you mean `greet`?"),
                ("there is no destination `cmr`", "2:129", "did you mean `crm`?"),
            ],
        ),
        (
            "- { name: a, steps: [ { expect: { sent: [ { activaton: hello } ], conflicts: [ { setaside: email:x } ] } } ] }",
            &[
                ("a message sent has no key `activaton`", "2:45", "did you mean `activation`?"),
                ("a conflict has no key `setaside`", "2:82", "did you mean `set_aside`?"),
            ],
        ),
        (
            "- { name: a, steps: [ { expect: { conflicts: [ { set_aside: emial:x, cause: limt, limited_type: phone } ] } } ] }",
            &[
                ("`identity.identifiers` does not list `emial`", "2:61", "did you mean `email`?"),
                ("there is no cause `limt`", "2:77", "did you mean `limit`?"),
                ("there is no identifier type `phone`", "2:97", "there are `user_id` and `email`"),
            ],
        ),
        (
            "- { name: a, steps: [ { expect: { events: { t1: u1 }, flags: { t1: [ no_identifer ] } } } ] }",
            &[
                ("`u1` names nobody", "2:49", "write type:value, as in user_id:u1"),
                ("there is no flag `no_identifer`", "2:70", "did you mean `no_identifier`?"),
            ],
        ),
        (
            "- { name: a, steps: [ { expect: { sent: nothing, profiles: } } ] }",
            &[
                ("`sent` is a list, this is a single value", "2:41", ""),
                ("nothing is written after `profiles:`", "2:50", ""),
            ],
        ),
    ];
    for (tests, expect) in rows {
        let file = format!("tests:\n{tests}\n");
        let said = load_files(&[SOURCE, DEFINED, ("t.yaml", &file)], Mode::Check).map(|_| String::new());
        let said = said.unwrap_or_else(|said| said);
        let found: Vec<(String, String, String)> = said
            .split("error: ")
            .skip(1)
            .map(|finding| {
                let message = finding.lines().next().unwrap_or_default().to_string();
                let place =
                    finding.split_once("t.yaml:").map_or("", |(_, rest)| rest.lines().next().unwrap_or_default());
                let help = finding.split_once("= help: ").map_or("", |(_, help)| help.trim_end());
                (message, place.to_string(), help.to_string())
            })
            .collect();
        let expect: Vec<(String, String, String)> = expect
            .iter()
            .map(|(message, place, help)| (message.to_string(), place.to_string(), help.to_string()))
            .collect();
        assert_eq!(found, expect, "{file}\n{said}");
    }
}

#[test]
fn a_finding_shows_the_line() {
    check(
        &[SOURCE, DEFINED, ("t.yaml", "tests:\n  - name: a\n    steps: [ { expect: { segments: { buyer: [] } } } ]\n")],
        r#"error: there is no segment `buyer`
 --> t.yaml:3:38
  |
3 |     steps: [ { expect: { segments: { buyer: [] } } } ]
  |                                      ^^^^^
  = help: did you mean `buyers`?"#,
    );
}

#[test]
fn what_is_left_out_is_filled_in() {
    let file = r#"tests:
  - name: a
    steps:
      - events:
          - { event: Bought, user_id: 007, properties: { n: 7, x: 1.50, t: "7", none: null, ok: true } }
          - { traits: { email: a@b.c }, messageId: mine, timestamp: 2026-03-01T10:00Z }
      - at: +1h59m
        events: [ { event: Bought, source: web, originalTimestamp: 2026-01-01T00:00:01Z } ]
        expect:
          traits: { email:a@b.c: { bought: 2026-03-01T11:00+01:00, orders: null } }
          sent: [ { step: greet, profile: user_id:007, body: { n: 1 } } ]
      - { expect: { segments: { buyers: user_id:u1 }, no_profile: t1 } }
"#;
    let (pipeline, _) = load_files(&[SOURCE, DEFINED, ("t.yaml", file)], Mode::Check).unwrap();
    let test = &pipeline.tests[0];
    assert!(test.place.file.ends_with("t.yaml"));
    assert_eq!((test.name.as_str(), test.place.line), ("a", 2));
    let begin = 1_767_225_600_000_000;
    let later = begin + 119 * 60 * 1_000_000;
    assert_eq!(test.steps.iter().map(|step| step.at).collect::<Vec<_>>(), [begin, later, later]);
    let events: Vec<_> = test.steps.iter().flat_map(|step| &step.events).collect();
    assert!(events.iter().all(|event| &*event.source == "web"));
    let sent: Vec<serde_json::Value> = events.iter().map(|event| event.envelope.clone().into()).collect();
    let expect = [
        json!({
            "message_id": "t1", "timestamp": "2026-01-01T00:00:00Z", "event": "Bought", "user_id": "007",
            "properties": { "n": 7, "x": 1.5, "t": "7", "none": null, "ok": true }
        }),
        json!({ "messageId": "mine", "timestamp": "2026-03-01T10:00:00Z", "traits": { "email": "a@b.c" } }),
        json!({ "message_id": "t3", "originalTimestamp": "2026-01-01T00:00:01Z", "event": "Bought" }),
    ];
    assert_eq!(sent, expect);
    let expected: Vec<_> = test.steps.iter().flat_map(|step| &step.expect).collect();
    let Expected::Traits { who, values } = &expected[0].expected else { panic!("traits") };
    assert_eq!((who.to_string().as_str(), expected[0].place.line), ("email:a@b.c", 10));
    let values: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    assert_eq!(values, [("bought", json!("2026-03-01T10:00:00Z")), ("orders", json!(null))]);
    let Expected::Sent(rows) = &expected[1].expected else { panic!("sent") };
    let keys: Vec<&str> = rows[0].cells.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["step", "profile", "body"]);
    assert!(matches!(&rows[0].cells[1].1, Cell::Person(who) if who.value == "007"));
    assert!(matches!(&expected[2].expected, Expected::Segment { members, .. } if members.len() == 1));
    assert_eq!(expected[3].expected, Expected::NoProfile(vec!["t1".to_string()]));
}
