//! Destinations and connectors: what is said about those that cannot be, to the letter.

use super::{SOURCE, check, load_files};
use crate::activation::DestinationKind;
use crate::definition::Mode;

const OWN: &str = r#"connectors:
  own:
    with: { list: {}, token: { secret: true }, lang: { default: en } }
    auth: { bearer: "{{ with.token }}" }
    operations:
      add: { url: "https://x.example/{{ with.list }}", body: { a: "{{ body.a }}" }, needs: [a, b] }
      remove: { method: DELETE, url: "https://x.example/{{ with.list }}" }
"#;

#[test]
fn a_mail_that_cannot_be_sent() {
    let file = r#"destinations:
  mail: { email: { smtp: "smtp://mail.example:587", from: Shop <shop@shop.example>, user: shop, password: "${env:SMTP}" } }
  odd:
    email: { smtp: "https://mail.example", from: shop }
  half:
    email: { smtp: "smtp://mail.example", from: a@x.example, user: shop, unsubscribe: "http://x.example" }
activations:
  welcome:
    trigger: { event: Signed Up }
    consent: none
    do:
      - { id: a, send: { to: mail } }
      - { id: b, send: { to: mail, body: { to: nobody, text: x } } }
      - { id: c, send: { to: mail, body: { to: "{{ profile.id }}", subject: x, txt: x } } }
      - { id: d, send: { to: mail, body: { to: ann@x.example, subject: "x {{ event.event }}" } } }
"#;
    check(
        &[SOURCE, ("p.yaml", file)],
        r#"error: `smtp` is not the address of a mail server
 --> p.yaml:4:20
  |
4 |     email: { smtp: "https://mail.example", from: shop }
  |                    ^^^^^^^^^^^^^^^^^^^^^^
  = help: write smtp://host:587 or smtps://host:465; user and password are keys of their own
error: `shop` is no mail address
 --> p.yaml:4:50
  |
4 |     email: { smtp: "https://mail.example", from: shop }
  |                                                  ^^^^
  = help: write shop@example.com or "Shop <shop@example.com>"
error: `user` needs `password` beside it
 --> p.yaml:6:62
  |
6 |     email: { smtp: "smtp://mail.example", from: a@x.example, user: shop, unsubscribe: "http://x.example" }
  |                                                              ^^^^
error: `unsubscribe` begins with https://, so that one click is enough (RFC 8058)
 --> p.yaml:6:87
  |
6 |     email: { smtp: "smtp://mail.example", from: a@x.example, user: shop, unsubscribe: "http://x.example" }
  |                                                                                       ^^^^^^^^^^^^^^^^^^
error: `mail` is a mail server: `send` needs a `body`
  --> p.yaml:12:30
   |
12 |       - { id: a, send: { to: mail } }
   |                              ^^^^
   = help: body: { to: "{{ profile.traits.email }}", subject: …, text: … }
error: a mail needs `subject`
  --> p.yaml:13:42
   |
13 |       - { id: b, send: { to: mail, body: { to: nobody, text: x } } }
   |                                          ^^^^^^^^^^^^^^^^^^^^^^^
error: `nobody` is no mail address
  --> p.yaml:13:48
   |
13 |       - { id: b, send: { to: mail, body: { to: nobody, text: x } } }
   |                                                ^^^^^^
error: a mail has no `txt`
  --> p.yaml:14:80
   |
14 |       - { id: c, send: { to: mail, body: { to: "{{ profile.id }}", subject: x, txt: x } } }
   |                                                                                ^^^
   = help: did you mean `text`?
error: a mail needs `text`, `html`, or both
  --> p.yaml:15:42
   |
15 |       - { id: d, send: { to: mail, body: { to: ann@x.example, subject: "x {{ event.event }}" } } }
   |                                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn what_a_connector_is_given_is_checked_against_it() {
    let file = r#"destinations:
  good: { connector: own, with: { list: l1, token: "${env:TOKEN}" } }
  typo: { connector: ownn }
  lacks: { connector: own, with: { list: l1 } }
  wrong:
    connector: own
    with: { lst: l1, token: sk-very-secret }
  both: { connector: own, webhook: { url: "https://x.example" } }
  stray: { file: { path: out.ndjson }, allow_private: true }
activations:
  welcome:
    trigger: { event: Signed Up }
    consent: none
    do:
      - { id: a, send: { to: good } }
      - { id: b, send: { to: good, body: { op: ad } } }
      - { id: c, send: { to: good, body: { op: add, a: 1 } } }
      - { id: d, send: { to: good, body: { a: 1 } } }
"#;
    check(
        &[SOURCE, ("c.yaml", OWN), ("p.yaml", file)],
        r#"error: there is no connector `ownn`
 --> p.yaml:3:22
  |
3 |   typo: { connector: ownn }
  |                      ^^^^
  = help: did you mean `own`?
error: destination `lacks`: connector `own` needs `token` in `with`
 --> p.yaml:4:3
  |
4 |   lacks: { connector: own, with: { list: l1 } }
  |   ^^^^^
error: connector `own` has no parameter `lst`
 --> p.yaml:7:13
  |
7 |     with: { lst: l1, token: ************** }
  |             ^^^
  = help: did you mean `list`?
error: `token` is a secret and must not be written down here
 --> p.yaml:7:29
  |
7 |     with: { lst: l1, token: ************** }
  |                             ^^^^^^^^^^^^^^
  = help: write "${env:NAME}" or "${file:path}" and nothing else
error: destination `both` has both `webhook` and `connector`: only one can hold
 --> p.yaml:8:11
  |
8 |   both: { connector: own, webhook: { url: "https://x.example" } }
  |           ^^^^^^^^^
error: `allow_private` here goes with `connector`
 --> p.yaml:9:40
  |
9 |   stray: { file: { path: out.ndjson }, allow_private: true }
  |                                        ^^^^^^^^^^^^^
error: `good` is a connector: `send` needs a `body`
  --> p.yaml:15:30
   |
15 |       - { id: a, send: { to: good } }
   |                              ^^^^
error: `op` is one of `add` and `remove`, not `ad`
  --> p.yaml:16:48
   |
16 |       - { id: b, send: { to: good, body: { op: ad } } }
   |                                                ^^
   = help: did you mean `add`?
error: the body for `own` with `op: add` needs `b`
  --> p.yaml:17:42
   |
17 |       - { id: c, send: { to: good, body: { op: add, a: 1 } } }
   |                                          ^^^^^^^^^^^^^^^^^
error: the body for `own` needs `op`: `add` and `remove`
  --> p.yaml:18:42
   |
18 |       - { id: d, send: { to: good, body: { a: 1 } } }
   |                                          ^^^^^^^^"#,
    );
}

#[test]
fn a_connector_that_cannot_be() {
    let file = r#"connectors:
  bad:
    with: { token: { secret: true }, key: { secret: true, default: abc }, list: {} }
    auth: { bearer: abc-very-secret }
    headers: { X-Api-Key: "{{ with.list }}", X-Env: "${env:HOME}" }
    request:
      url: "https://x.example/{{ with.lst }}/{{ boddy.a }}"
      method: post
      batch: { max: 0, item: "{{ body. }}" }
      answers: [{ when: "status = 3", then: done }, { when: "with.token", then: gone }]
      per_item: { errors: answer.errors, of: "errors.index == index" }
  empty: { with: {} }
"#;
    check(
        &[SOURCE, ("p.yaml", file)],
        r#"error: `key` is a secret and cannot have a default
 --> p.yaml:3:68
  |
3 |     with: { token: { secret: **** }, key: { secret: ****, default: *** }, list: {} }
  |                                                                    ^^^
error: `bearer` is a secret and must not be written down here
 --> p.yaml:4:21
  |
4 |     auth: { bearer: *************** }
  |                     ^^^^^^^^^^^^^^^
  = help: name a parameter with `secret: true`, as "{{ with.token }}"
error: header `X-Api-Key` is a secret and must not be written down here
 --> p.yaml:5:27
  |
5 |     headers: { X-Api-Key: *****************, X-Env: "${env:HOME}" }
  |                           ^^^^^^^^^^^^^^^^^
  = help: name a parameter with `secret: true`, as "{{ with.token }}"
error: header `X-Env`: `${…}` is not filled in here
 --> p.yaml:5:53
  |
5 |     headers: { X-Api-Key: *****************, X-Env: "${env:HOME}" }
  |                                                     ^^^^^^^^^^^^^
  = help: name a parameter, as "{{ with.token }}": whoever uses the connector fills it in
error: there is no parameter `lst`
 --> p.yaml:7:39
  |
7 |       url: "https://x.example/{{ with.lst }}/{{ boddy.a }}"
  |                                       ^^^
  = help: did you mean `list`?
error: there is no `boddy`
 --> p.yaml:7:49
  |
7 |       url: "https://x.example/{{ with.lst }}/{{ boddy.a }}"
  |                                                 ^^^^^
  = help: did you mean `body`?
error: `method` is one of `POST`, `PUT`, `PATCH`, `DELETE` and `GET`, not `post`
 --> p.yaml:8:15
  |
8 |       method: post
  |               ^^^^
  = help: did you mean `POST`?
error: `max` is a whole number from 1 on, not `0`
 --> p.yaml:9:21
  |
9 |       batch: { max: 0, item: "{{ body. }}" }
  |                     ^
error: the template cannot be read: unexpected end of variable block, expected identifier or integer
 --> p.yaml:9:30
  |
9 |       batch: { max: 0, item: "{{ body. }}" }
  |                              ^^^^^^^^^^^^^
error: the expression cannot be read: unexpected input after expression
  --> p.yaml:10:25
   |
10 |       answers: [{ when: "status = 3", then: done }, { when: "with.token", then: gone }]
   |                         ^^^^^^^^^^^^
error: there is no `with`
  --> p.yaml:10:62
   |
10 |       answers: [{ when: "status = 3", then: done }, { when: "with.token", then: gone }]
   |                                                              ^^^^
   = help: there are `status`, `answer`, `text` and `headers`
error: `then` is one of `done`, `retry` and `drop`, not `gone`
  --> p.yaml:10:81
   |
10 |       answers: [{ when: "status = 3", then: done }, { when: "with.token", then: gone }]
   |                                                                                 ^^^^
   = help: did you mean `done`?
error: there is no `errors`
  --> p.yaml:11:47
   |
11 |       per_item: { errors: answer.errors, of: "errors.index == index" }
   |                                               ^^^^^^
   = help: did you mean `error`?
error: connector `empty` needs one of `request` and `operations`
  --> p.yaml:12:3
   |
12 |   empty: { with: {} }
   |   ^^^^^"#,
    );
}

#[test]
fn parameters_have_defaults_and_secrets_stay_out_of_what_is_printed() {
    let file = "destinations:\n  it: { connector: own, with: { list: l1, token: \"${file:token}\" }, allow_private: true }\n  \
                ads: { connector: google_ads, with: { customer_id: 1, login_customer_id: 1, user_list_id: 1, client_id: x, \
                developer_token: \"${file:token}\", client_secret: \"${file:token}\", refresh_token: \"${file:token}\" } }\n";
    let files = [SOURCE, ("c.yaml", OWN), ("p.yaml", file), ("token", "very-secret\n")];
    let (pipeline, warnings) = load_files(&files, Mode::Run).unwrap();
    assert_eq!(warnings.len(), 0, "{warnings:?}");
    let DestinationKind::Connector { connector, with, allow_private } = &pipeline.destinations[0].kind else {
        panic!("a connector")
    };
    assert_eq!((connector.operations.len(), *allow_private), (2, true));
    assert_eq!(with["token"], "very-secret");
    assert!(!format!("{pipeline:?}").contains("very-secret"));
}

#[test]
fn while_a_secret_is_changed_both_sign() {
    let file = |secret: &str| {
        format!("destinations:\n  crm: {{ webhook: {{ url: \"https://x.example\", secret: {secret} }} }}\n")
    };
    let one = file("[\"${file:new}\", \"${file:old}\"]");
    let (pipeline, _) = load_files(&[SOURCE, ("p.yaml", &one), ("new", "n"), ("old", "o")], Mode::Run).unwrap();
    let DestinationKind::Webhook { secrets, .. } = &pipeline.destinations[0].kind else { panic!("a webhook") };
    assert_eq!(secrets, &["n", "o"]);
    let many = file("[\"${env:A}\", \"${env:B}\", \"${env:C}\", \"${env:D}\"]");
    check(
        &[SOURCE, ("p.yaml", &many)],
        r#"error: `secret` is one secret, or a list of up to 3 with the new one first
 --> p.yaml:2:55
  |
2 |   crm: { webhook: { url: "https://x.example", secret: ["${env:A}", "${env:B}", "${env:C}", "${env:D}"] } }
  |                                                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    );
}
