//! Mail to a real server, read back by Python's own parser: what arrives is what the body says, whatever is in it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tributary::activation::{Delivery, EmailPlan, MailTls};
use tributary::event::ProfileId;
use tributary::sink::email::Email;
use tributary::sink::guard::Reach;
use tributary::sink::{Destination, Outcome};

use crate::support::{Servers, block_on, output_of, tributary, unique};

fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| Servers::up(&["smtp"]))
}

fn plan() -> EmailPlan {
    EmailPlan {
        smtp: servers().smtp.clone(),
        user: None,
        password: None,
        from: "Shop <shop@shop.example>".into(),
        reply_to: None,
        unsubscribe: None,
        tls: MailTls::None,
        ca: None,
        allow_private: true,
    }
}

fn delivery(id: &str, body: Value) -> Delivery {
    Delivery {
        id: id.into(),
        activation: "welcome".into(),
        step: "hello".into(),
        destination: "mail".into(),
        profile_id: ProfileId([7; 16]),
        lane: 7,
        body: body.to_string(),
        created_at: 1_767_225_600_000_000,
        dry_run: false,
        consent: None,
    }
}

fn send(plan: EmailPlan, deliveries: Vec<Delivery>) -> Vec<Outcome> {
    let email = Email::new(plan, Reach::new(true, Arc::default())).expect("a mail server");
    assert!(!email.drops_repeats(), "SMTP has no idempotency key");
    block_on(async move {
        let mut outcomes = Vec::new();
        for delivery in &deliveries {
            outcomes.push(email.send(delivery, 0).await);
        }
        outcomes
    })
}

/// The messages to an address that have arrived, as the parser reads them.
fn arrived(to: &str) -> Vec<Value> {
    let path = servers().smtp_folder.join("messages.ndjson");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    all.filter(|message| message["to"] == json!([to])).collect()
}

fn header<'m>(message: &'m Value, name: &str) -> Vec<&'m str> {
    let all = message["headers"].as_array().expect("headers");
    all.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().expect("text")).collect()
}

/// Each body goes through and comes out of the parser as it was, in lines and bytes that any server takes.
#[test]
fn what_is_sent_is_what_the_parser_reads() {
    let long = "word ".repeat(600) + "end\n" + &"x".repeat(3000) + "\n.\n..two dots\nFrom here\n";
    let subjects = [
        "Hello",
        "Grüße aus Köln – 50 % auf Schuhe 👟",
        "日本語の件名はとても長いので複数の符号化された語に分けられなければなりません、そうでなければ行が長すぎます",
        "  two  blanks, \"quotes\", <angles>, a@b and =?utf-8?q?no_word?=",
        "line\r\nBcc: victim@x.example\u{0}\u{7f}end",
        &"long ".repeat(100),
    ];
    let texts = ["Hello", "Grüße,\n\nzweite Zeile\r\ndritte\n", &long, "", "tab\tand = and é", "日本語 👟\n"];
    let mut number = 0;
    for subject in subjects {
        for text in texts {
            number += 1;
            let to = format!("{}@x.example", unique("plain"));
            let html = format!("<p>{text} ü</p>");
            let body = match number % 3 {
                0 => json!({ "to": to, "subject": subject, "text": text }),
                1 => json!({ "to": to, "subject": subject, "html": html }),
                _ => json!({ "to": format!("Änn, \"Lee\" <{to}>"), "subject": subject, "text": text, "html": html }),
            };
            let outcomes = send(plan(), vec![delivery(&format!("msg_{number}"), body)]);
            assert_eq!(outcomes, [Outcome::Sent("SMTP 250: OK queued".into())], "{subject}");
            let [message] = &arrived(&to)[..] else { panic!("one message: {subject}") };
            let wanted: String = subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            assert_eq!(header(message, "Subject"), [wanted.trim()]);
            assert_eq!(header(message, "Bcc"), Vec::<&str>::new(), "no header of the subject's own");
            assert_eq!(header(message, "Message-ID"), [format!("<msg_{number}@shop.example>")]);
            assert_eq!(message["date"], 1_767_225_600.0);
            assert_eq!(message["defects"], json!([]), "{message}");
            let lines = (message["ascii"].as_bool(), message["bare_line_ends"].as_u64());
            assert_eq!(lines, (Some(true), Some(0)), "{message}");
            assert!(message["longest_line"].as_u64() <= Some(998), "{}", message["longest_line"]);
            assert_eq!(message["addresses"]["From"], json!([["Shop", "shop@shop.example"]]));
            let name = if number % 3 == 2 { "Änn, \"Lee\"" } else { "" };
            assert_eq!(message["addresses"]["To"], json!([[name, to]]));
            let lines = |text: &str| text.replace("\r\n", "\n").trim_end_matches('\n').to_string();
            let read: Vec<(String, String)> = message["parts"]
                .as_array()
                .expect("parts")
                .iter()
                .map(|p| (p["type"].as_str().expect("type").into(), lines(p["text"].as_str().expect("text"))))
                .collect();
            let (plain, rich) = (("text/plain".to_string(), lines(text)), ("text/html".to_string(), lines(&html)));
            let expected = match number % 3 {
                0 => vec![plain],
                1 => vec![rich],
                _ => vec![plain, rich],
            };
            assert_eq!(read, expected);
            let kind = ["text/plain", "text/html", "multipart/alternative"][number % 3];
            assert_eq!(message["type"], kind);
        }
    }
}

#[test]
fn one_click_unsubscribes_and_a_repeat_is_the_same_message() {
    let to = format!("{}@x.example", unique("click"));
    let mut plan = plan();
    plan.unsubscribe =
        Some("https://shop.example/u/{{ delivery.profile_id }}?mail={{ body.to }}&id={{ delivery.id }}".into());
    plan.reply_to = Some("Help <help@shop.example>".into());
    let body = json!({ "to": to, "subject": "Hi", "text": "Hello", "html": "<p>Hello</p>", "headers": { "X-Campaign": "März" } });
    let of_body = json!({ "to": to, "subject": "Hi", "text": "Hello", "unsubscribe": "https://other.example/x", "from": "b@shop.example" });
    let twice = delivery("msg_1", body);
    let outcomes = send(plan, vec![twice.clone(), twice, delivery("msg_2", of_body)]);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Sent(_))), "{outcomes:?}");
    let [first, second, third] = &arrived(&to)[..] else { panic!("three messages") };
    assert_eq!(first["raw"], second["raw"], "to the byte");
    let url = format!("<https://shop.example/u/{}?mail={}&id=msg_1>", ProfileId([7; 16]), to.replace('@', "%40"));
    assert_eq!(header(first, "List-Unsubscribe"), [url]);
    // RFC 8058, section 3.1.
    assert_eq!(header(first, "List-Unsubscribe-Post"), ["List-Unsubscribe=One-Click"]);
    assert_eq!(header(first, "X-Campaign"), ["März"]);
    assert_eq!(first["addresses"]["Reply-To"], json!([["Help", "help@shop.example"]]));
    assert_eq!(header(third, "List-Unsubscribe"), ["<https://other.example/x>"]);
    assert_eq!((&third["from"], header(third, "Message-ID")), (&json!("b@shop.example"), vec!["<msg_2@shop.example>"]));
}

/// (who it is to, what becomes of it, whether it arrived)
#[test]
fn what_a_server_says_decides_whether_it_is_tried_again() {
    let rows = [
        ("unknown", "Failed(\"SMTP 550: 5.1.1 no such user here\")", false),
        ("grey", "Retry { detail: \"SMTP 451: 4.7.1 greylisted, try again in a minute\", after: None }", false),
        ("full", "Retry { detail: \"SMTP 452: 4.2.2 mailbox full\", after: None }", false),
        ("spam", "Failed(\"SMTP 554: 5.7.1 this looks like spam\")", false),
        ("cut", "Uncertain(\"the message was sent and not answered, so it may have arrived", true),
        ("bye", "Sent(\"SMTP 250: OK queued\")", true),
    ];
    for (name, expected, arrives) in rows {
        let to = format!("{}@x.example", unique(name));
        let other = format!("{}@x.example", unique("after"));
        let body = |to: &str| json!({ "to": to, "subject": "Hi", "text": "Hello" });
        let email = Email::new(plan(), Reach::new(true, Arc::default())).expect("a mail server");
        let (first, second) = (delivery("msg_1", body(&to)), delivery("msg_2", body(&other)));
        let outcomes = block_on(async move {
            let one = email.send(&first, 0).await;
            // The server closes a kept connection meanwhile: the next message makes another.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            [one, email.send(&second, 0).await]
        });
        assert!(format!("{:?}", outcomes[0]).starts_with(expected), "{name}: {outcomes:?}");
        assert_eq!(arrived(&to).len(), usize::from(arrives), "{name}");
        assert_eq!(outcomes[1], Outcome::Sent("SMTP 250: OK queued".into()), "after {name}");
        assert_eq!(arrived(&other).len(), 1, "after {name}");
    }
    // Who was greylisted is let in the next time.
    let to = format!("{}@x.example", unique("grey"));
    let again = delivery("msg_1", json!({ "to": to, "subject": "Hi", "text": "Hello" }));
    let outcomes = send(plan(), vec![again.clone(), again]);
    assert!(matches!(&outcomes[..], [Outcome::Retry { .. }, Outcome::Sent(_)]), "{outcomes:?}");
}

#[test]
fn a_body_that_is_no_mail_fails_with_its_reason() {
    let rows = [
        (json!({ "to": "no address", "subject": "x", "text": "x" }), "`no address` is no mail address"),
        (json!({ "to": "a@x.example, b@x.example", "subject": "x", "text": "x" }), "is no mail address"),
        (json!({ "to": "a@x.example\r\nBcc: v@x.example", "subject": "x", "text": "x" }), "is no mail address"),
        (json!({ "to": null, "subject": "x", "text": "x" }), "the body is no mail"),
        (json!({ "subject": "x", "text": "x" }), "missing field `to`"),
        (json!({ "to": "a@x.example", "subject": "x" }), "neither `text` nor `html`"),
        (json!({ "to": "a@x.example", "subject": "x", "text": "x", "cc": "b@x.example" }), "unknown field `cc`"),
        (
            json!({ "to": "a@x.example", "subject": "x", "text": "x", "headers": { "bcc": "v@x.example" } }),
            "`bcc` cannot be set",
        ),
        (
            json!({ "to": "a@x.example", "subject": "x", "text": "x", "headers": { "X-A": "1\r\nBcc: v@x.example" } }),
            "line break",
        ),
        (json!({ "to": "a@x.example", "subject": "x", "text": "x", "headers": { "X A:": "1" } }), "name of a header"),
        (
            json!({ "to": "a@x.example", "subject": "x", "text": "x", "unsubscribe": "http://x.example/" }),
            "no https address",
        ),
        (json!({ "to": "ünn@x.example", "subject": "x", "text": "x" }), "not ASCII, and the server does not take such"),
    ];
    for (body, expected) in rows {
        let outcome = send(plan(), vec![delivery("msg_1", body.clone())]).remove(0);
        assert!(matches!(&outcome, Outcome::Failed(detail) if detail.contains(expected)), "{body}: {outcome:?}");
    }
    // A domain of other letters has an ASCII form, which every server takes.
    let to = format!("{}@bücher.example", unique("idn"));
    let sent = send(plan(), vec![delivery("msg_1", json!({ "to": to, "subject": "x", "text": "x" }))]);
    assert!(matches!(sent[0], Outcome::Sent(_)), "{sent:?}");
    assert_eq!(arrived(&to.replace("bücher", "xn--bcher-kva")).len(), 1);
}

/// (user's password, tls, whether the authority is known, what becomes of it)
#[test]
fn a_password_only_goes_over_tls_that_is_checked() {
    let rows = [
        ("open sesame", MailTls::Required, true, "Sent(\"SMTP 250: OK queued\")"),
        ("open sesame", MailTls::Opportunistic, true, "Sent(\"SMTP 250: OK queued\")"),
        ("wrong", MailTls::Required, true, "Retry { detail: \"signing in: SMTP 535"),
        ("open sesame", MailTls::Required, false, "Retry { detail: \"invalid peer certificate"),
        ("open sesame", MailTls::None, true, "Retry { detail: \""),
    ];
    for (password, tls, known, expected) in rows {
        let to = format!("{}@x.example", unique("tls"));
        let ca = known.then(|| servers().smtp_folder.join("ca.pem"));
        let smtp = servers().smtp_tls.clone();
        let plan = EmailPlan { smtp, user: Some("shop".into()), password: Some(password.into()), tls, ca, ..plan() };
        let outcome = send(plan, vec![delivery("msg_1", json!({ "to": to, "subject": "x", "text": "x" }))]).remove(0);
        let said = format!("{outcome:?}");
        assert!(said.starts_with(expected) && !said.contains(password), "{tls:?} {known}: {said}");
        let arrived = arrived(&to);
        assert_eq!(arrived.len(), usize::from(expected.starts_with("Sent")), "{tls:?} {known}");
        assert!(arrived.iter().all(|message| message["encrypted"] == true && message["signed_in"] == true));
    }
    // A server that offers no TLS.
    let body = json!({ "to": "a@x.example", "subject": "x", "text": "x" });
    let required = EmailPlan { tls: MailTls::Required, ..plan() };
    let outcome = send(required, vec![delivery("msg_1", body.clone())]).remove(0);
    assert!(matches!(&outcome, Outcome::Retry { detail, .. } if detail.contains("no STARTTLS")), "{outcome:?}");
    let (user, password) = (Some("shop".to_string()), Some("open sesame".to_string()));
    let weak = EmailPlan { tls: MailTls::Opportunistic, user, password, ..plan() };
    let outcome = send(weak, vec![delivery("msg_1", body.clone())]).remove(0);
    assert!(matches!(&outcome, Outcome::Retry { detail, .. } if detail.contains("without TLS")), "{outcome:?}");
    // One that is not there, and one inside that nobody allowed.
    let away = EmailPlan { smtp: "smtp://127.0.0.1:9".into(), ..plan() };
    assert!(matches!(send(away, vec![delivery("msg_1", body.clone())])[0], Outcome::Retry { .. }));
    let inside = Email::new(plan(), Reach::default()).expect("a mail server");
    let outcome = block_on(async move { inside.send(&delivery("msg_1", body), 0).await });
    assert!(matches!(&outcome, Outcome::Failed(detail) if detail.contains("allow_addresses")), "{outcome:?}");
}

/// From an event to the mailbox and to a file, by the program itself; the operator's list lets it call inside.
#[test]
fn a_pipeline_writes_to_people_and_to_a_file() {
    let folder = tempfile::tempdir().expect("folder");
    let to = format!("{}@x.example", unique("whole"));
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("file");
    write(
        "p.yaml",
        &format!(
            r#"
sources:
  web: {{ file: {{ path: events.ndjson }}, format: {{ json: segment }} }}
traits:
  email: {{ latest: traits.email }}
destinations:
  mail: {{ email: {{ smtp: "{}", from: "Shop <shop@shop.example>", tls: none, unsubscribe: "https://shop.example/u?m={{{{ body.to }}}}" }} }}
  out: {{ file: {{ path: out/sent.ndjson }}, redact: [mail] }}
activations:
  welcome:
    trigger: {{ event: Signed Up }}
    consent: none
    status: live
    do:
      - {{ id: hello, send: {{ to: mail, body: {{ to: "{{{{ profile.traits.email }}}}", subject: "Hello {{{{ profile.traits.email }}}}", text: Welcome }} }} }}
      - {{ id: note, send: {{ to: out, body: {{ mail: "{{{{ profile.traits.email }}}}" }} }} }}
"#,
            servers().smtp
        ),
    );
    let identify = json!({ "type": "identify", "messageId": "m1", "userId": "u1", "timestamp": "2026-01-01T00:00:00Z", "traits": { "email": to } });
    let signed_up = json!({ "type": "track", "event": "Signed Up", "messageId": "m2", "userId": "u1", "timestamp": "2026-01-01T00:00:01Z" });
    write("events.ndjson", &format!("{identify}\n{signed_up}\n"));
    let path = |path: &Path| path.to_str().expect("utf-8").to_string();
    let (pipeline, data) = (path(folder.path()), path(&folder.path().join("data")));
    let mut run = tributary(&["run", "--drain", "-C", &pipeline, "--data", &data]);
    run.env("TRIBUTARY_ALLOW_ADDRESSES", "127.0.0.0/8");
    output_of(run);
    let [message] = &arrived(&to)[..] else { panic!("one message") };
    assert_eq!(header(message, "Subject"), [format!("Hello {to}")]);
    let line = std::fs::read_to_string(folder.path().join("out/sent.ndjson")).expect("the file");
    let line: Value = serde_json::from_str(line.trim_end()).expect("one line");
    assert_eq!((&line["step"], &line["body"]), (&json!("note"), &json!({ "mail": to })));
    // What is sent is whole; what is recorded and shown is not.
    let told = |args: &[&str]| output_of(tributary(&[args, &["-C", &pipeline, "--data", &data]].concat()));
    let sql = "SELECT body FROM deliveries WHERE destination = 'out'";
    assert_eq!(told(&["query", sql, "--output", "csv"]).lines().nth(1), Some(r#""{""mail"":""[redacted]""}""#));
    let explained = told(&["explain", "delivery", line["id"].as_str().expect("an id")]);
    assert!(explained.contains("[redacted]") && !explained.contains(&to), "{explained}");
}
