//! The connectors that ship, each against a local server that wants requests as the vendor documents them and answers as the
//! vendor does: what goes out to the letter, and what each answer means.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tributary::activation::{Delivery, DestinationKind};
use tributary::definition::{self, Mode};
use tributary::event::ProfileId;
use tributary::sink::connector::Connector;
use tributary::sink::guard::Reach;
use tributary::sink::{Destination, Outcome};

use crate::support::block_on;

/// When everything here is sent: 2026-01-02T00:00:00Z, in seconds.
const NOW_S: i64 = 1_767_312_000;

// By `printf … | sha256sum`.
const ANN_GMAIL: &str = "16e202bdcd9646af11faa3a5a3b9c07a6303e9629583246f8208e43c529087de"; // annlee@gmail.com
const ANN_WITH_DOT: &str = "e7824da9ecd8c9d3b5c7af9db4876347efd23f0fa94290ea26bdafb98f6fa541"; // ann.lee@gmail.com
const PHONE_PLUS: &str = "b947f8ad7dc00f0f4ba3da5a5fbdf3959603e725e50858e8383eb4fd109fc591"; // +493012345678
const PHONE_DIGITS: &str = "cae5f525a6c8d8cbfd28d7c654edf86f5e816f66919de0f842df68a2be24429b"; // 493012345678
const BOB: &str = "7832d9309020e043e851f1b7936f0934e57fccc68f62a661a414880191f9311e"; // bob@x.example

/// A request that must come, and what is answered.
struct Exchange {
    /// `POST /path?query`
    line: &'static str,
    /// Headers that must be there, among others.
    headers: &'static [(&'static str, &'static str)],
    /// Of a form the object of its fields, those that are JSON read as such.
    body: Value,
    status: u16,
    answer_headers: &'static [(&'static str, &'static str)],
    /// A text is answered as it is.
    answer: Value,
}

fn exchange(line: &'static str, headers: &'static [(&'static str, &'static str)], body: Value) -> Exchange {
    Exchange { line, headers, body, status: 200, answer_headers: &[], answer: Value::Null }
}

impl Exchange {
    fn answers(self, status: u16, answer: Value) -> Exchange {
        Exchange { status, answer, ..self }
    }

    fn with(self, answer_headers: &'static [(&'static str, &'static str)]) -> Exchange {
        Exchange { answer_headers, ..self }
    }
}

struct Case {
    what: &'static str,
    bodies: Vec<Value>,
    exchanges: Vec<Exchange>,
    outcomes: Vec<&'static str>,
}

fn case(what: &'static str, bodies: Vec<Value>, exchanges: Vec<Exchange>, outcomes: Vec<&'static str>) -> Case {
    Case { what, bodies, exchanges, outcomes }
}

#[derive(Default)]
struct Script {
    wanted: VecDeque<Exchange>,
    /// What was not as documented.
    wrong: String,
}

type Shared = Arc<Mutex<Script>>;

async fn answer(script: Shared, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
    let line = format!("{method} {uri}");
    let text = String::from_utf8_lossy(&body).into_owned();
    let Some(wanted) = script.wanted.pop_front() else {
        let _ = writeln!(script.wrong, "not wanted: {line} {text}");
        return StatusCode::IM_A_TEAPOT.into_response();
    };
    let form = headers.get("content-type").is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    let read: Value = if form {
        let fields = url::form_urlencoded::parse(&body).map(|(key, value)| {
            let json =
                Some(&value).filter(|value| value.starts_with(['{', '['])).and_then(|v| serde_json::from_str(v).ok());
            (key.into_owned(), json.unwrap_or_else(|| Value::String(value.into_owned())))
        });
        Value::Object(fields.collect())
    } else {
        serde_json::from_str(&text).unwrap_or(Value::Null)
    };
    if line != wanted.line {
        let _ = writeln!(script.wrong, "{line}\n  instead of {}", wanted.line);
    }
    for (name, value) in wanted.headers {
        let found = headers.get(*name).and_then(|value| value.to_str().ok());
        if found != Some(value) {
            let _ = writeln!(script.wrong, "{line}: {name} is {found:?} instead of {value}");
        }
    }
    if read != wanted.body {
        let _ = writeln!(script.wrong, "{line}: {read}\n  instead of {}", wanted.body);
    }
    let mut response = StatusCode::from_u16(wanted.status).expect("a status").into_response();
    match &wanted.answer {
        Value::Null => {}
        Value::String(text) => response = (response.status(), text.clone()).into_response(),
        json => response = (response.status(), json.to_string()).into_response(),
    }
    for (name, value) in wanted.answer_headers {
        response.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    response
}

/// Serves a script for the life of the runtime.
async fn serve(script: Shared) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let handler = move |method, uri, headers, body| answer(script.clone(), method, uri, headers, body);
    let app = Router::new().fallback(handler);
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The destination as a pipeline defines it; `URL` in `destination` is the server's. Secrets are in files.
fn connector(destination: &str, own: &str, url: &str) -> Connector {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("file");
    for (name, secret) in [("key", "s3cret-key"), ("secret", "s3cret-of-client"), ("refresh", "s3cret-refresh")] {
        write(name, secret);
    }
    write("events.ndjson", "");
    let source = "sources: { web: { file: { path: events.ndjson }, format: { json: segment } } }";
    let text = format!("{source}\n{own}\ndestinations:\n  it: {destination}\n").replace("URL", url);
    write("p.yaml", &text);
    let pipeline = definition::load(folder.path(), Mode::Run);
    let pipeline = pipeline.unwrap_or_else(|findings| {
        panic!("{}", findings.iter().map(|found| found.to_string()).collect::<Vec<_>>().join("\n"))
    });
    match &pipeline.0.destinations[0].kind {
        DestinationKind::Connector { connector, with, .. } => {
            Connector::new((**connector).clone(), with, Reach::new(true, Arc::default())).expect("a connector")
        }
        other => panic!("{other:?} is no connector"),
    }
}

/// A delivery; `person` in its body (which is not sent) says whose it is, where that matters.
fn delivery(number: usize, mut body: Value) -> Delivery {
    let person = body.as_object_mut().and_then(|body| body.remove("person")).and_then(|person| person.as_u64());
    let person = person.unwrap_or(number as u64);
    Delivery {
        id: format!("msg_{number}"),
        activation: "a".into(),
        step: "s".into(),
        destination: "it".into(),
        profile_id: ProfileId(u128::from(person).to_be_bytes()),
        lane: person.into(),
        body: body.to_string(),
        created_at: (NOW_S - 86_400) * 1_000_000,
        dry_run: false,
        consent: None,
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Sent(detail) => format!("sent: {detail}"),
        Outcome::Retry { detail, after: Some(after) } => format!("retry in {} s: {detail}", after.as_secs()),
        Outcome::Retry { detail, after: None } => format!("retry: {detail}"),
        Outcome::Failed(detail) => format!("failed: {detail}"),
        Outcome::Skipped(_) => unreachable!("a destination does not skip"),
        Outcome::Uncertain(detail) => format!("uncertain: {detail}"),
    }
}

/// Every case with a connector of its own, so with no token of an earlier one.
fn run(destination: &'static str, own: &'static str, cases: Vec<Case>) {
    for case in cases {
        let script = Shared::default();
        script.lock().expect("lock").wanted = case.exchanges.into();
        let (shared, bodies) = (script.clone(), case.bodies);
        let found = block_on(async move {
            let url = serve(shared).await;
            let connector = connector(destination, own, &url);
            let deliveries: Vec<Delivery> =
                bodies.into_iter().enumerate().map(|(number, body)| delivery(number + 1, body)).collect();
            let all: Vec<&Delivery> = deliveries.iter().collect();
            connector.send_batch(&all, NOW_S * 1_000_000).await
        });
        let script = script.lock().expect("lock");
        let left: Vec<&str> = script.wanted.iter().map(|exchange| exchange.line).collect();
        assert!(script.wrong.is_empty() && left.is_empty(), "{}\n{}\nnot come: {left:?}", case.what, script.wrong);
        let found: Vec<String> = found.iter().map(told).collect();
        assert_eq!(found, case.outcomes, "{}", case.what);
        assert!(!found.join(" ").contains("s3cret"), "{}: a secret is told: {found:?}", case.what);
    }
}

#[test]
fn mailchimp() {
    const LINE: &str = "POST /3.0/lists/l1?skip_merge_validation=true";
    // tributary:s3cret-key
    const AUTH: &[(&str, &str)] =
        &[("authorization", "Basic dHJpYnV0YXJ5OnMzY3JldC1rZXk="), ("content-type", "application/json")];
    let member = |email: &str, status: &str| json!({ "email_address": email, "email_type": "html", "status": status });
    let members = |all: Value| json!({ "members": all, "update_existing": true });
    let many: Vec<Value> = (0..501).map(|n| json!({ "email": format!("{n}@x.example") })).collect();
    let first = (0..500).map(|n| member(&format!("{n}@x.example"), "subscribed")).collect::<Value>();
    let taken = json!({ "new_members": [], "updated_members": [], "errors": [], "total_created": 1, "error_count": 0 });
    run(
        "{ connector: mailchimp, with: { server: us21, api_key: \"${file:key}\", list_id: l1, base_url: URL } }",
        "",
        vec![
            case(
                "members with all fields, one refused",
                vec![
                    json!({ "email": "ann@x.example", "merge_fields": { "FNAME": "Ann" }, "tags": ["vip"], "language": "de" }),
                    json!({ "email": "Bob@x.example", "status": "unsubscribed" }),
                ],
                vec![exchange(LINE, AUTH, members(json!([
                    { "email_address": "ann@x.example", "email_type": "html", "status": "subscribed", "merge_fields": { "FNAME": "Ann" }, "tags": ["vip"], "language": "de" },
                    member("Bob@x.example", "unsubscribed"),
                ])))
                .answers(200, json!({ "errors": [{ "email_address": "bob@x.example", "error": "Bob was permanently deleted and cannot be re-imported", "error_code": "ERROR_GENERIC" }], "error_count": 1 }))],
                vec!["sent: HTTP 200", "failed: ERROR_GENERIC: Bob was permanently deleted and cannot be re-imported"],
            ),
            case(
                "at most 500",
                many,
                vec![
                    exchange(LINE, AUTH, members(first)).answers(200, taken.clone()),
                    exchange(LINE, AUTH, members(json!([member("500@x.example", "subscribed")]))).answers(200, taken),
                ],
                vec!["sent: HTTP 200"; 501],
            ),
            case(
                "too many connections",
                vec![json!({ "email": "a@x.example" })],
                vec![exchange(LINE, AUTH, members(json!([member("a@x.example", "subscribed")])))
                    .answers(429, json!({ "title": "Too Many Requests", "status": 429, "detail": "You have exceeded the limit of 10 simultaneous connections." }))],
                vec!["retry: HTTP 429: {\"detail\":\"You have exceeded the limit of 10 simultaneous connections.\",\"status\":429,\"title\":\"Too Many Requests\"}"],
            ),
            case(
                "a key that is no longer good, which is told and may be part of what is said",
                vec![json!({ "email": "a@x.example" })],
                vec![exchange(LINE, AUTH, members(json!([member("a@x.example", "subscribed")])))
                    .answers(401, json!({ "title": "API Key Invalid", "detail": "Your API key s3cret-key may be invalid" }))],
                vec!["retry: HTTP 401: {\"detail\":\"Your API key *** may be invalid\",\"title\":\"API Key Invalid\"}"],
            ),
            case("bodies that are not sent", vec![json!({ "mail": "x" }), json!({ "email": "a@x.example", "status": "gone" })], vec![],
                vec!["failed: the body has no `email`", "failed: `status` is subscribed, unsubscribed, cleaned, pending or transactional"]),
        ],
    );
}

#[test]
fn hubspot() {
    const LINE: &str = "POST /crm/v3/objects/contacts/batch/upsert";
    const AUTH: &[(&str, &str)] = &[("authorization", "Bearer s3cret-key"), ("content-type", "application/json")];
    let input = |number: usize| json!({ "id": format!("{number}@x.example"), "idProperty": "email", "objectWriteTraceId": format!("msg_{number}"), "properties": { "orders": number } });
    let body = |number: usize| json!({ "email": format!("{number}@x.example"), "properties": { "orders": number } });
    let refused =
        json!({ "status": "error", "category": "VALIDATION_ERROR", "message": "Property \"orders\" does not exist" });
    run(
        "{ connector: hubspot, with: { token: \"${file:key}\", base_url: URL } }",
        "",
        vec![
            case(
                "several, of which some are not taken (207)",
                (1..=3).map(body).collect(),
                vec![exchange(LINE, AUTH, json!({ "inputs": [input(1), input(2), input(3)] })).answers(207, json!({
                    "status": "COMPLETE", "results": [{}], "numErrors": 2, "errors": [
                        { "status": "error", "category": "VALIDATION_ERROR", "message": "orders is no number", "context": { "objectWriteTraceId": ["msg_2"] } },
                        { "status": "error", "category": "RATE_LIMITS", "message": "slow down", "context": { "objectWriteTraceId": ["msg_3"] } },
                    ] }))],
                vec!["sent: HTTP 207", "failed: orders is no number", "retry: slow down"],
            ),
            case(
                "one at fault spoils a request: it is found by halves",
                (1..=3).map(body).collect(),
                vec![
                    exchange(LINE, AUTH, json!({ "inputs": [input(1), input(2), input(3)] })).answers(400, refused.clone()),
                    exchange(LINE, AUTH, json!({ "inputs": [input(1)] })).answers(200, json!({ "status": "COMPLETE", "results": [{}] })),
                    exchange(LINE, AUTH, json!({ "inputs": [input(2), input(3)] })).answers(400, refused.clone()),
                    exchange(LINE, AUTH, json!({ "inputs": [input(2)] })).answers(400, refused),
                    exchange(LINE, AUTH, json!({ "inputs": [input(3)] })).answers(200, json!({ "status": "COMPLETE", "results": [{}] })),
                ],
                vec!["sent: HTTP 200", "failed: HTTP 400: VALIDATION_ERROR: Property \"orders\" does not exist", "sent: HTTP 200"],
            ),
            case(
                "the limit of ten seconds",
                vec![body(1)],
                vec![exchange(LINE, AUTH, json!({ "inputs": [input(1)] }))
                    .answers(429, json!({ "status": "error", "errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING" }))
                    .with(&[("x-hubspot-ratelimit-interval-milliseconds", "10000")])],
                vec!["retry in 10 s: HTTP 429: TEN_SECONDLY_ROLLING"],
            ),
            case(
                "the same person twice: in this order, and never in one request",
                vec![json!({ "person": 7, "email": "1@x.example", "properties": { "orders": 1 } }), body(2), json!({ "person": 7, "email": "3@x.example", "properties": { "orders": 3 } })],
                vec![
                    exchange(LINE, AUTH, json!({ "inputs": [input(1), input(2)] })).answers(200, json!({})),
                    exchange(LINE, AUTH, json!({ "inputs": [input(3)] })).answers(200, json!({})),
                ],
                vec!["sent: HTTP 200"; 3],
            ),
            case("a redirect is not followed", vec![body(1)],
                vec![exchange(LINE, AUTH, json!({ "inputs": [input(1)] })).answers(307, Value::Null).with(&[("location", "http://169.254.169.254/")])],
                vec!["retry: HTTP 307: redirects are not followed"]),
        ],
    );
}

#[test]
fn salesforce_and_its_tokens() {
    const TOKEN: &str = "POST /services/oauth2/token";
    const LINE: &str = "PATCH /services/data/v62.0/composite/sobjects/Contact/Tributary_Id__c";
    const FIRST: &[(&str, &str)] = &[("authorization", "Bearer t1")];
    const SECOND: &[(&str, &str)] = &[("authorization", "Bearer t2")];
    let ask = || {
        exchange(
            TOKEN,
            &[("content-type", "application/x-www-form-urlencoded")],
            json!({ "grant_type": "client_credentials", "client_id": "app", "client_secret": "s3cret-of-client" }),
        )
    };
    let granted = |token: &str| json!({ "access_token": token, "instance_url": "x", "token_type": "Bearer" });
    let record = |number: usize| json!({ "attributes": { "type": "Contact" }, "Tributary_Id__c": format!("p{number}"), "Orders__c": number });
    let records = |all: Value| json!({ "allOrNone": false, "records": all });
    let body = |number: usize| json!({ "external_id": format!("p{number}"), "fields": { "Orders__c": number } });
    let good = || json!({ "id": "003", "success": true, "errors": [], "created": true });
    let bad =
        |code: &str| json!({ "success": false, "errors": [{ "statusCode": code, "message": "m", "fields": [] }] });
    let many = 0..201;
    run(
        "{ connector: salesforce, with: { instance_url: URL, client_id: app, client_secret: \"${file:secret}\", external_id_field: Tributary_Id__c } }",
        "",
        vec![
            case(
                "a token is asked for, and each record has its result",
                (1..=3).map(body).collect(),
                vec![
                    ask().answers(200, granted("t1")),
                    exchange(LINE, FIRST, records(json!([record(1), record(2), record(3)])))
                        .answers(200, json!([good(), bad("REQUIRED_FIELD_MISSING"), bad("UNABLE_TO_LOCK_ROW")])),
                ],
                vec!["sent: HTTP 200", "failed: REQUIRED_FIELD_MISSING: m", "retry: UNABLE_TO_LOCK_ROW: m"],
            ),
            case(
                "200 records, and the token serves the next request",
                many.clone().map(body).collect(),
                vec![
                    ask().answers(200, granted("t1")),
                    exchange(LINE, FIRST, records((0..200).map(record).collect())).answers(200, (0..200).map(|_| good()).collect()),
                    exchange(LINE, FIRST, records(json!([record(200)]))).answers(200, json!([good()])),
                ],
                vec!["sent: HTTP 200"; 201],
            ),
            case(
                "a session that ended is renewed once",
                vec![body(1)],
                vec![
                    ask().answers(200, granted("t1")),
                    exchange(LINE, FIRST, records(json!([record(1)]))).answers(401, json!([{ "errorCode": "INVALID_SESSION_ID", "message": "Session expired or invalid" }])),
                    ask().answers(200, granted("t2")),
                    exchange(LINE, SECOND, records(json!([record(1)]))).answers(200, json!([good()])),
                ],
                vec!["sent: HTTP 200"],
            ),
            case(
                "and not again and again",
                vec![body(1)],
                vec![
                    ask().answers(200, granted("t1")),
                    exchange(LINE, FIRST, records(json!([record(1)]))).answers(401, json!([])),
                    ask().answers(200, granted("t2")),
                    exchange(LINE, SECOND, records(json!([record(1)]))).answers(401, json!([{ "errorCode": "INVALID_SESSION_ID" }])),
                ],
                vec!["retry: HTTP 401: [{\"errorCode\":\"INVALID_SESSION_ID\"}]"],
            ),
            case("no token", vec![body(1)],
                vec![ask().answers(400, json!({ "error": "invalid_client", "error_description": "invalid client credentials s3cret-of-client" }))],
                vec!["retry: a token: HTTP 400: invalid_client (invalid client credentials ***)"]),
            case("the limit of the day", vec![body(1)],
                vec![ask().answers(200, granted("t1")),
                    exchange(LINE, FIRST, records(json!([record(1)]))).answers(403, json!([{ "errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded." }]))],
                vec!["retry: HTTP 403: REQUEST_LIMIT_EXCEEDED"]),
            case("what came cannot be read, so it is sent again", vec![body(1)],
                vec![ask().answers(200, granted("t1")), exchange(LINE, FIRST, records(json!([record(1)]))).answers(200, json!("[{\"id\": \"00"))],
                vec!["retry: HTTP 200: the answer cannot be read"]),
        ],
    );
}

#[test]
fn zendesk() {
    // agent@x.example/token:s3cret-key
    const AUTH: &[(&str, &str)] = &[("authorization", "Basic YWdlbnRAeC5leGFtcGxlL3Rva2VuOnMzY3JldC1rZXk=")];
    const USER: &str = "POST /api/v2/users/create_or_update.json";
    let user = || {
        exchange(
            USER,
            AUTH,
            json!({ "user": { "email": "ann@x.example", "name": "Ann", "external_id": "p1", "skip_verify_email": true } }),
        )
    };
    let ann = || json!({ "op": "user", "email": "ann@x.example", "name": "Ann", "external_id": "p1" });
    run(
        "{ connector: zendesk, with: { subdomain: shop, email: agent@x.example, api_token: \"${file:key}\", base_url: URL } }",
        "",
        vec![
            case("a user, and a ticket with a key that drops repeats",
                vec![ann(), json!({ "op": "ticket", "email": "ann@x.example", "subject": "Call her", "comment": "She waits.", "priority": "high" })],
                vec![
                    user().answers(201, json!({ "user": { "id": 1 } })),
                    exchange("POST /api/v2/tickets.json", &[("authorization", "Basic YWdlbnRAeC5leGFtcGxlL3Rva2VuOnMzY3JldC1rZXk="), ("idempotency-key", "msg_2")], json!({ "ticket": {
                        "requester": { "email": "ann@x.example", "name": "ann@x.example" }, "subject": "Call her",
                        "comment": { "body": "She waits.", "public": false }, "priority": "high", "external_id": "msg_2" } })).answers(201, json!({ "ticket": { "id": 1 } })),
                ],
                vec!["sent: HTTP 201", "sent: HTTP 201"]),
            case("limits", vec![ann()], vec![user().answers(429, json!("Number of allowed API requests per minute exceeded")).with(&[("retry-after", "93")])],
                vec!["retry in 93 s: HTTP 429: Number of allowed API requests per minute exceeded"]),
            case("a record that cannot be", vec![ann()], vec![user().answers(422, json!({ "error": "RecordInvalid", "description": "Record validation errors", "details": {} }))],
                vec!["failed: HTTP 422: RecordInvalid: Record validation errors"]),
            case("a conflict", vec![ann()], vec![user().answers(409, json!({ "error": "DatabaseConflict", "description": "Database collision" }))],
                vec!["retry: HTTP 409: DatabaseConflict"]),
            case("maintenance", vec![ann()], vec![user().answers(503, Value::Null).with(&[("retry-after", "Fri, 02 Jan 2026 00:01:00 GMT")])], vec!["retry in 60 s: HTTP 503"]),
            case("no such operation", vec![json!({ "op": "call" })], vec![], vec!["failed: the body's `op` is one of user, ticket"]),
        ],
    );
}

#[test]
fn braze() {
    const AUTH: &[(&str, &str)] = &[("authorization", "Bearer s3cret-key")];
    const LINE: &str = "POST /users/track";
    let attributes = |number: usize| json!({ "op": "attributes", "external_id": format!("p{number}"), "attributes": { "orders": number } });
    let item = |number: usize| json!({ "external_id": format!("p{number}"), "orders": number });
    run(
        "{ connector: braze, with: { rest_url: URL, api_key: \"${file:key}\" } }",
        "",
        vec![
            case("attributes and events, each with its errors",
                vec![attributes(1), json!({ "op": "event", "external_id": "p2", "name": "cart left", "properties": { "n": 1 } }), attributes(3)],
                vec![
                    exchange(LINE, AUTH, json!({ "attributes": [item(1), item(3)] })).answers(201, json!({ "message": "success", "attributes_processed": 1,
                        "errors": [{ "type": "'external_id' is invalid", "input_array": "attributes", "index": 1 }] })),
                    exchange(LINE, AUTH, json!({ "events": [{ "external_id": "p2", "name": "cart left", "time": "2026-01-01T00:00:00.000Z", "properties": { "n": 1 } }] }))
                        .answers(201, json!({ "message": "success", "events_processed": 1 })),
                ],
                vec!["sent: HTTP 201", "sent: HTTP 201", "failed: 'external_id' is invalid"]),
            case("75 at most", (0..76).map(attributes).collect(),
                vec![exchange(LINE, AUTH, json!({ "attributes": (0..75).map(item).collect::<Value>() })).answers(201, json!({ "message": "success" })),
                    exchange(LINE, AUTH, json!({ "attributes": [item(75)] })).answers(201, json!({ "message": "success" }))],
                vec!["sent: HTTP 201"; 76]),
            case("the limit ends at a time", vec![attributes(1)],
                vec![exchange(LINE, AUTH, json!({ "attributes": [item(1)] })).answers(429, json!({ "message": "slow" })).with(&[("x-ratelimit-reset", "1767312042")])],
                vec!["retry in 42 s: HTTP 429: {\"message\":\"slow\"}"]),
            case("a fatal error", vec![attributes(1)],
                vec![exchange(LINE, AUTH, json!({ "attributes": [item(1)] })).answers(400, json!({ "message": "Valid data must be provided in the 'attributes' field." }))],
                vec!["failed: HTTP 400: Valid data must be provided in the 'attributes' field."]),
        ],
    );
}

#[test]
fn klaviyo() {
    const AUTH: &[(&str, &str)] = &[
        ("authorization", "Klaviyo-API-Key s3cret-key"),
        ("revision", "2025-01-15"),
        ("content-type", "application/vnd.api+json"),
        ("accept", "application/vnd.api+json"),
    ];
    let profile = || {
        exchange(
            "POST /api/profile-import",
            AUTH,
            json!({ "data": { "type": "profile", "attributes": { "email": "ann@x.example", "phone_number": "+493012345678", "properties": { "orders": 3 } } } }),
        )
    };
    let ann = || json!({ "op": "profile", "email": "ann@x.example", "phone": "+49 30 12345678", "properties": { "orders": 3 } });
    let member = |email: &str, consent: &str| json!({ "type": "profile", "attributes": { "email": email, "subscriptions": { "email": { "marketing": { "consent": consent } } } } });
    let job = |kind: &str, members: Value| json!({ "data": { "type": kind, "attributes": { "profiles": { "data": members } }, "relationships": { "list": { "data": { "type": "list", "id": "L1" } } } } });
    run(
        "{ connector: klaviyo, with: { api_key: \"${file:key}\", list_id: L1, base_url: URL } }",
        "",
        vec![
            case("a profile and an event whose id drops repeats",
                vec![ann(), json!({ "op": "event", "email": "ann@x.example", "name": "Cart Left", "value": 9.5 })],
                vec![
                    profile().answers(200, json!({ "data": { "type": "profile", "id": "01" } })),
                    exchange("POST /api/events", AUTH, json!({ "data": { "type": "event", "attributes": { "properties": {}, "time": "2026-01-01T00:00:00.000Z", "value": 9.5, "unique_id": "msg_2",
                        "metric": { "data": { "type": "metric", "attributes": { "name": "Cart Left" } } },
                        "profile": { "data": { "type": "profile", "attributes": { "email": "ann@x.example" } } } } } })).answers(202, Value::Null),
                ],
                vec!["sent: HTTP 200", "sent: HTTP 202"]),
            case("subscribed and unsubscribed",
                vec![json!({ "op": "subscribe", "email": "a@x.example" }), json!({ "op": "unsubscribe", "email": "b@x.example" }), json!({ "op": "subscribe", "email": "c@x.example" })],
                vec![
                    exchange("POST /api/profile-subscription-bulk-create-jobs", AUTH, job("profile-subscription-bulk-create-job", json!([member("a@x.example", "SUBSCRIBED"), member("c@x.example", "SUBSCRIBED")]))).answers(202, Value::Null),
                    exchange("POST /api/profile-subscription-bulk-delete-jobs", AUTH, job("profile-subscription-bulk-delete-job", json!([member("b@x.example", "UNSUBSCRIBED")]))).answers(202, Value::Null),
                ],
                vec!["sent: HTTP 202"; 3]),
            case("who leaves and comes back is subscribed in the end",
                vec![json!({ "op": "subscribe", "email": "a@x.example" }), json!({ "person": 9, "op": "unsubscribe", "email": "b@x.example" }), json!({ "person": 9, "op": "subscribe", "email": "b@x.example" })],
                vec![
                    exchange("POST /api/profile-subscription-bulk-create-jobs", AUTH, job("profile-subscription-bulk-create-job", json!([member("a@x.example", "SUBSCRIBED")]))).answers(202, Value::Null),
                    exchange("POST /api/profile-subscription-bulk-delete-jobs", AUTH, job("profile-subscription-bulk-delete-job", json!([member("b@x.example", "UNSUBSCRIBED")]))).answers(202, Value::Null),
                    exchange("POST /api/profile-subscription-bulk-create-jobs", AUTH, job("profile-subscription-bulk-create-job", json!([member("b@x.example", "SUBSCRIBED")]))).answers(202, Value::Null),
                ],
                vec!["sent: HTTP 202"; 3]),
            case("limits", vec![ann()], vec![profile().answers(429, json!({ "errors": [{ "code": "throttled" }] })).with(&[("retry-after", "7")])],
                vec!["retry in 7 s: HTTP 429: {\"errors\":[{\"code\":\"throttled\"}]}"]),
            case("refused", vec![ann()], vec![profile().answers(400, json!({ "errors": [{ "id": "x", "status": 400, "code": "invalid", "detail": "Invalid email address" }] }))],
                vec!["failed: HTTP 400: invalid: Invalid email address"]),
            case("nobody", vec![json!({ "op": "profile", "properties": {} })], vec![], vec!["failed: the body has none of `email`, `phone` and `external_id`"]),
        ],
    );
}

#[test]
fn customer_io() {
    // site:s3cret-key
    const AUTH: &[(&str, &str)] =
        &[("authorization", "Basic c2l0ZTpzM2NyZXQta2V5"), ("content-type", "application/json")];
    const LINE: &str = "POST /api/v2/batch";
    let person = |id: &str| json!({ "type": "person", "action": "identify", "identifiers": { "id": id }, "attributes": { "orders": 1 } });
    let identify = |id: &str| json!({ "op": "identify", "id": id, "attributes": { "orders": 1 } });
    run(
        "{ connector: customer_io, with: { site_id: site, api_key: \"${file:key}\", base_url: URL } }",
        "",
        vec![
            case("people, of whom one is not taken (207)", vec![identify("p1"), identify("p2")],
                vec![exchange(LINE, AUTH, json!({ "batch": [person("p1"), person("p2")] })).answers(207, json!({ "errors": [{ "batch_index": 1, "reason": "invalid", "field": "attributes", "message": "too large" }] }))],
                vec!["sent: HTTP 207", "failed: attributes: too large"]),
            case("an event", vec![json!({ "op": "event", "id": "p1", "name": "cart left", "attributes": { "n": 1 } })],
                vec![exchange(LINE, AUTH, json!({ "batch": [{ "type": "person", "action": "event", "identifiers": { "id": "p1" }, "name": "cart left", "timestamp": NOW_S - 86_400, "attributes": { "n": 1 } }] })).answers(200, json!({}))],
                vec!["sent: HTTP 200"]),
            case("limits", vec![identify("p1")], vec![exchange(LINE, AUTH, json!({ "batch": [person("p1")] })).answers(429, Value::Null).with(&[("retry-after", "3")])], vec!["retry in 3 s: HTTP 429"]),
            case("refused", vec![identify("p1")], vec![exchange(LINE, AUTH, json!({ "batch": [person("p1")] })).answers(400, json!({ "errors": [{ "reason": "parse_error", "message": "no JSON" }] }))], vec!["failed: HTTP 400: no JSON"]),
        ],
    );
}

#[test]
fn intercom() {
    const AUTH: &[(&str, &str)] =
        &[("authorization", "Bearer s3cret-key"), ("intercom-version", "2.11"), ("accept", "application/json")];
    let event = || {
        exchange(
            "POST /events",
            AUTH,
            json!({ "event_name": "cart-left", "created_at": NOW_S - 86_400, "user_id": "p1", "metadata": { "n": 1 } }),
        )
    };
    let body = || json!({ "op": "event", "name": "cart-left", "user_id": "p1", "metadata": { "n": 1 } });
    let errors =
        |code: &str, message: &str| json!({ "type": "error.list", "errors": [{ "code": code, "message": message }] });
    run(
        "{ connector: intercom, with: { token: \"${file:key}\", base_url: URL } }",
        "",
        vec![
            case("an event", vec![body()], vec![event().answers(202, Value::Null)], vec!["sent: HTTP 202"]),
            case(
                "of nobody that is known",
                vec![body()],
                vec![event().answers(404, errors("not_found", "User Not Found"))],
                vec!["failed: HTTP 404: not_found: User Not Found"],
            ),
            case(
                "limits",
                vec![body()],
                vec![
                    event()
                        .answers(429, errors("rate_limit_exceeded", "Exceeded rate limit"))
                        .with(&[("x-ratelimit-reset", "1767312010")]),
                ],
                vec![
                    "retry in 10 s: HTTP 429: {\"errors\":[{\"code\":\"rate_limit_exceeded\",\"message\":\"Exceeded rate limit\"}],\"type\":\"error.list\"}",
                ],
            ),
            case(
                "contacts: there already, and changed; an id cannot leave its place in the address",
                vec![
                    json!({ "op": "create", "user_id": "p1", "email": "ann@x.example" }),
                    json!({ "op": "update", "contact_id": "../a?b", "name": "Ann" }),
                ],
                vec![
                    exchange(
                        "POST /contacts",
                        AUTH,
                        json!({ "role": "user", "external_id": "p1", "email": "ann@x.example" }),
                    )
                    .answers(409, errors("conflict", "A contact matching those details already exists with id=1")),
                    exchange("PUT /contacts/..%2Fa%3Fb", AUTH, json!({ "name": "Ann" }))
                        .answers(200, json!({ "type": "contact" })),
                ],
                vec!["sent: HTTP 409: there already", "sent: HTTP 200"],
            ),
        ],
    );
}

#[test]
fn slack() {
    const AUTH: &[(&str, &str)] =
        &[("authorization", "Bearer s3cret-key"), ("content-type", "application/json; charset=utf-8")];
    let post = |channel: &str| {
        exchange(
            "POST /api/chat.postMessage",
            AUTH,
            json!({ "channel": channel, "text": "A cart of 900 €", "unfurl_links": false }),
        )
    };
    let body = || json!({ "text": "A cart of 900 €" });
    run(
        "{ connector: slack, with: { token: \"${file:key}\", channel: C1, base_url: URL } }",
        "",
        vec![
            case(
                "taken",
                vec![body()],
                vec![post("C1").answers(200, json!({ "ok": true, "ts": "1503435956.000247" }))],
                vec!["sent: HTTP 200: 1503435956.000247"],
            ),
            case(
                "another channel, which is not there",
                vec![json!({ "text": "A cart of 900 €", "channel": "C2" })],
                vec![post("C2").answers(200, json!({ "ok": false, "error": "channel_not_found" }))],
                vec!["failed: HTTP 200: channel_not_found"],
            ),
            case(
                "limits",
                vec![body()],
                vec![
                    post("C1")
                        .answers(429, json!({ "ok": false, "error": "ratelimited" }))
                        .with(&[("retry-after", "30")]),
                ],
                vec!["retry in 30 s: HTTP 429: {\"error\":\"ratelimited\",\"ok\":false}"],
            ),
            case(
                "their fault",
                vec![body()],
                vec![post("C1").answers(200, json!({ "ok": false, "error": "internal_error" }))],
                vec!["retry: HTTP 200: internal_error"],
            ),
            case(
                "a gateway that has lost the answer",
                vec![body()],
                vec![post("C1").answers(504, json!("<html>"))],
                vec!["uncertain: HTTP 504: it may have been taken"],
            ),
            case(
                "an operator can mend it",
                vec![body()],
                vec![post("C1").answers(200, json!({ "ok": false, "error": "token_revoked" }))],
                vec!["retry: HTTP 200: token_revoked"],
            ),
        ],
    );
}

#[test]
fn google_ads() {
    const TOKEN: &str = "POST /token";
    const LINE: &str = "POST /v21/customers/1234567890:uploadUserData";
    const AUTH: &[(&str, &str)] =
        &[("authorization", "Bearer ya29"), ("developer-token", "s3cret-key"), ("login-customer-id", "9876543210")];
    let ask = || {
        exchange(TOKEN, &[], json!({ "grant_type": "refresh_token", "client_id": "app", "client_secret": "s3cret-of-client", "refresh_token": "s3cret-refresh" }))
        .answers(200, json!({ "access_token": "ya29", "expires_in": 3599, "token_type": "Bearer" }))
    };
    let list = "customers/1234567890/userLists/55";
    let add = |operations: Value| json!({ "customerMatchUserListMetadata": { "userList": list, "consent": { "adUserData": "GRANTED", "adPersonalization": "GRANTED" } }, "operations": operations });
    let remove =
        |operations: Value| json!({ "customerMatchUserListMetadata": { "userList": list }, "operations": operations });
    // One value, or a list as `profile.identifiers` has them.
    let ann = |op: &str| json!({ "op": op, "identifiers": { "email": [" Ann.Lee@Gmail.com", "no address"], "phone": "+49 30 12345678", "customer_no": ["1"] } });
    let bob = |op: &str| json!({ "op": op, "identifiers": { "email": "bob@x.example" } });
    let hashed = json!([{ "hashedEmail": ANN_GMAIL }, { "hashedPhoneNumber": PHONE_PLUS }]);
    let of_bob = || json!({ "create": { "userIdentifiers": [{ "hashedEmail": BOB }] } });
    let taken =
        |count: usize| json!({ "uploadDateTime": "2026-01-02 00:00:00+00:00", "receivedOperationsCount": count });
    run(
        "{ connector: google_ads, with: { customer_id: 1234567890, login_customer_id: 9876543210, user_list_id: 55, developer_token: \"${file:key}\", client_id: app, \
         client_secret: \"${file:secret}\", refresh_token: \"${file:refresh}\", base_url: URL, token_url: URL/token } }",
        "",
        vec![
            case("added and removed", vec![ann("add"), bob("add"), ann("remove")],
                vec![
                    ask(),
                    exchange(LINE, AUTH, add(json!([{ "create": { "userIdentifiers": hashed } }, of_bob()]))).answers(200, taken(2)),
                    exchange(LINE, AUTH, remove(json!([{ "remove": { "userIdentifiers": hashed } }]))).answers(200, taken(1)),
                ],
                vec!["sent: HTTP 200"; 3]),
            case("ten operations at most", vec![bob("add"); 11],
                vec![ask(), exchange(LINE, AUTH, add(vec![of_bob(); 10].into())).answers(200, taken(10)), exchange(LINE, AUTH, add(json!([of_bob()]))).answers(200, taken(1))],
                vec!["sent: HTTP 200"; 11]),
            case("limits", vec![bob("add")],
                vec![ask(), exchange(LINE, AUTH, add(json!([of_bob()]))).answers(429, json!({ "error": { "code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Resource has been exhausted" } }))],
                vec!["retry: HTTP 429: {\"error\":{\"code\":429,\"message\":\"Resource has been exhausted\",\"status\":\"RESOURCE_EXHAUSTED\"}}"]),
            case("refused", vec![bob("add")],
                vec![ask(), exchange(LINE, AUTH, add(json!([of_bob()]))).answers(400, json!({ "error": { "code": 400, "message": "Request contains an invalid argument.", "status": "INVALID_ARGUMENT",
                    "details": [{ "@type": "type.googleapis.com/google.ads.googleads.v21.errors.GoogleAdsFailure", "errors": [{ "errorCode": { "userDataError": "INVALID_USER_LIST" }, "message": "The user list is invalid." }] }] } }))],
                vec!["failed: HTTP 400: The user list is invalid."]),
            case("nothing to match by", vec![json!({ "op": "add", "identifiers": { "email": "no address" } }), json!({ "op": "add" })], vec![],
                vec!["failed: there is neither an e-mail address nor a phone number to match by", "failed: the body has no `identifiers`"]),
        ],
    );
}

#[test]
fn meta_audiences() {
    const AUTH: &[(&str, &str)] =
        &[("authorization", "Bearer s3cret-key"), ("content-type", "application/x-www-form-urlencoded")];
    let payload = |data: Value| json!({ "payload": { "schema": ["EMAIL", "PHONE", "EXTERN_ID"], "data": data } });
    let ann = |op: &str| json!({ "op": op, "identifiers": { "email": [" Ann.Lee@Gmail.com"], "phone": "+49 30 12345678", "external_id": "p1" } });
    let (mail, phone, id) = (json!([ANN_WITH_DOT, "", ""]), json!(["", PHONE_DIGITS, ""]), json!(["", "", "p1"]));
    let post = || exchange("POST /v25.0/777/users", AUTH, payload(json!([mail, phone, id])));
    let error = |code: i64| json!({ "error": { "message": "m", "type": "OAuthException", "code": code, "is_transient": false, "fbtrace_id": "x" } });
    run(
        "{ connector: meta_audiences, with: { audience_id: 777, access_token: \"${file:key}\", base_url: URL } }",
        "",
        vec![
            case("added, with blanks for what is not known, and removed",
                vec![ann("add"), json!({ "op": "add", "identifiers": { "email": "bob@x.example" } }), ann("remove")],
                vec![
                    exchange("POST /v25.0/777/users", AUTH, payload(json!([mail, phone, id, [BOB, "", ""]]))).answers(200, json!({ "audience_id": "777", "session_id": "1", "num_received": 2, "num_invalid_entries": 0, "invalid_entry_samples": {} })),
                    exchange("DELETE /v25.0/777/users", AUTH, payload(json!([mail, phone, id]))).answers(200, json!({ "audience_id": "777", "num_received": 1, "num_invalid_entries": 0 })),
                ],
                vec!["sent: HTTP 200"; 3]),
            case("the limit of audiences", vec![ann("add")], vec![post().answers(400, error(80003))], vec!["retry: HTTP 400: m"]),
            case("a token that ended", vec![ann("add")], vec![post().answers(400, error(190))], vec!["retry: HTTP 400: m"]),
            case("an audience that is blocked", vec![ann("add")], vec![post().answers(400, error(100))], vec!["failed: HTTP 400: m"]),
            case("an unknown error", vec![ann("add")], vec![post().answers(500, error(1))], vec!["retry: HTTP 500: m"]),
        ],
    );
}

/// One of the pipeline's own: a key in the address, a form, a GET, and a vendor that takes repeats for new.
#[test]
fn a_pipeline_has_connectors_of_its_own() {
    const OWN: &str = r#"
connectors:
  counter:
    with: { key: { secret: true } }
    auth: { api_key: { query: api_key, value: "{{ with.key }}" } }
    operations:
      count: { url: "URL/count", encode: form, body: { name: "{{ body.name }}", tags: "{{ body.tags }}" }, drops_repeats: false }
      look: { method: GET, url: "URL/look/{{ body.name }}?at={{ delivery.created_at }}" }
"#;
    run(
        "{ connector: counter, with: { key: \"${file:key}\" } }",
        OWN,
        vec![
            case(
                "a form and a key in the address",
                vec![json!({ "op": "count", "name": "a & b", "tags": [1, "x"] })],
                vec![
                    exchange(
                        "POST /count?api_key=s3cret-key",
                        &[("content-type", "application/x-www-form-urlencoded")],
                        json!({ "name": "a & b", "tags": [1, "x"] }),
                    )
                    .answers(204, Value::Null),
                ],
                vec!["sent: HTTP 204"],
            ),
            case(
                "no body",
                vec![json!({ "op": "look", "name": "a/b" })],
                vec![exchange("GET /look/a%2Fb?at=2026-01-01T00%3A00%3A00.000Z&api_key=s3cret-key", &[], Value::Null)],
                vec!["sent: HTTP 200"],
            ),
            case(
                "a value that is not there",
                vec![json!({ "op": "count", "name": "a" })],
                vec![],
                vec!["failed: `body.tags`: there is no such value"],
            ),
        ],
    );
    // A server that reads and says nothing: what drops repeats is tried again, what does not is uncertain.
    let outcomes = block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
            }
        });
        let connector = connector("{ connector: counter, with: { key: \"${file:key}\" } }", OWN, &url);
        let bodies = [json!({ "op": "count", "name": "a", "tags": 1 }), json!({ "op": "look", "name": "a" })];
        let mut outcomes = Vec::new();
        for (number, body) in bodies.into_iter().enumerate() {
            outcomes.push(connector.send(&delivery(number, body), NOW_S * 1_000_000).await);
        }
        outcomes
    });
    assert!(matches!(&outcomes[..], [Outcome::Uncertain(_), Outcome::Retry { .. }]), "{outcomes:?}");
}
