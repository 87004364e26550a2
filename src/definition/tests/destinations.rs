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
    email: { smtp: "https://mail.example", from: shop, unsubscribe: "http://x.example" }
  half:
    email: { smtp: "smtp://mail.example", from: a@x.example, user: shop }
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
4 |     email: { smtp: "https://mail.example", from: shop, unsubscribe: "http://x.example" }
  |                    ^^^^^^^^^^^^^^^^^^^^^^
  = help: write smtp://host:587 or smtps://host:465; user and password are keys of their own"#,
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
    check(&[SOURCE, ("c.yaml", OWN), ("p.yaml", file)], "?");
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
    check(&[SOURCE, ("p.yaml", file)], "?");
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
 --> p.yaml:2:58
  |
2 |   crm: { webhook: { url: "https://x.example", secret: ["${env:A}", "${env:B}", "${env:C}", "${env:D}"] } }
  |                                                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    );
}
