//! `explain segment` and `explain trait`: conditions with their values, the events behind them, and when they change. What is
//! said of the future is held against the run that comes after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tributary::definition::{self, Mode};
use tributary::engine;
use tributary::query::{Output, Target, query, render};
use tributary::state::location::Location;
use tributary::state::slate::SlateStore;

use crate::support::{block_on, output_of, tributary};

const PIPELINE: &str = r#"pipeline: shop
sources:
  site: { file: { path: "site/*.ndjson" }, format: { json: segment } }
dedupe: { within: forever }
traits:
  country:    { latest: traits.country }
  orders:     { count: "*", event: Order Completed }
  orders_30d: { count: "*", event: Order Completed, window: 30d }
  revenue_7d: { sum: properties.total, event: Order Completed, window: 7d }
  biggest:    { max: properties.total, event: Order Completed }
  last_order: { max: timestamp, event: Order Completed }
  refunds:    { count: "*", event: Order Refunded }
  bought:     { count: "*", event: Order Completed, by: properties.currency }
  engaged:    { formula: "orders + orders_30d" }
  returned:   { funnel: [Order Completed, Order Refunded], within: 30d }
  stage:
    stages:
      - { active: "orders_30d >= 2" }
      - { lapsed: "orders >= 1 AND last_order < now() - INTERVAL '20 days'" }
      - { new: "true" }
segments:
  customers:  "orders >= 1"
  good:       "revenue_7d > 100 AND (country = 'DE' OR country = 'AT') AND NOT in_segment('refunders')"
  refunders:  "refunds > 0"
  loyal:      "in_segment('good') AND has_been('customers', INTERVAL '2 days')"
  lapsed:     "last_order < now() - INTERVAL '20 days'"
  staged:     "stage = 'active' AND engaged > 3"
  german:     "country = 'DE'"
  half:       { sample: 50% }
  kept:       "returned.level = 1"
"#;

struct Shop(tempfile::TempDir);

impl Shop {
    fn new() -> Shop {
        let shop = Shop(tempfile::tempdir().expect("folder"));
        std::fs::create_dir(shop.path("site")).expect("folder");
        std::fs::write(shop.path("shop.yaml"), PIPELINE).expect("file");
        let first = [
            identify("i1", "2026-03-01T09:00:00Z", "u1", Some("DE")),
            order("o1", "2026-03-01T10:00:00Z", "u1", 60.5, "EUR"),
            order("o2", "2026-03-03T10:00:00Z", "u1", 80.0, "USD"),
            order("o3", "2026-03-02T10:00:00Z", "u2", 80.0, "USD"),
            page("p1", "2026-03-04T10:00:00Z"),
        ];
        shop.run(1, &first);
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn data(&self) -> String {
        self.path("data").to_str().expect("utf-8").to_string()
    }

    /// Writes a file of events and reads it.
    fn run(&self, file: u32, events: &[Value]) {
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        std::fs::write(self.path(&format!("site/{file}.ndjson")), lines).expect("file");
        output_of(self.command(&["run", "--drain"]));
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = tributary(args);
        command.arg("-C").arg(self.0.path()).arg("--data").arg(self.path("data"));
        command
    }

    fn text(&self, args: &[&str]) -> String {
        output_of(self.command(args))
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut command = self.command(args);
        command.args(["--output", "json"]);
        serde_json::from_str(&output_of(command)).expect("JSON")
    }

    fn segment(&self, name: &str, who: &str) -> Value {
        self.json(&["explain", "segment", name, who])
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        let (target, sql) = (Target::Lake { root: self.data() }, sql.to_string());
        let text = block_on(async move {
            let found = query(&target, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            render(&found, Output::Csv).expect("text")
        });
        text.lines().skip(1).map(str::to_string).collect()
    }
}

fn order(id: &str, at: &str, who: &str, total: f64, currency: &str) -> Value {
    json!({ "type": "track", "event": "Order Completed", "messageId": id, "timestamp": at, "userId": who,
            "properties": { "order_id": id, "total": total, "currency": currency } })
}

fn identify(id: &str, at: &str, who: &str, country: Option<&str>) -> Value {
    json!({ "type": "identify", "messageId": id, "timestamp": at, "userId": who, "anonymousId": format!("a-{who}"),
            "traits": { "country": country } })
}

/// Of nobody who matters: it moves the time.
fn page(id: &str, at: &str) -> Value {
    json!({ "type": "page", "messageId": id, "timestamp": at, "anonymousId": "nobody" })
}

fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let wide = text.lines().find(|line| line.chars().count() > 110);
    assert!(wide.is_none(), "too wide: {wide:?}");
}

#[test]
fn a_member_sees_each_condition_with_its_value_its_events_and_its_end() {
    let shop = Shop::new();
    let text = shop.text(&["explain", "segment", "good", "user_id:u1"]);
    assert_has(
        &text,
        &[
            "a member since 2026-03-04T10:00:00.000Z\n",
            "now is 2026-03-04T10:00:00.000Z: as far as the files have come",
            // SEMANTICS §6: panes of 7 days / 60.
            "leaves at 2026-03-08T09:12:00.000Z (in 3 days 23 hours), if no event comes",
            "✓ all of\n  ✓ revenue_7d > 100   revenue_7d = 140.5\n      false from 2026-03-08T09:12:00.000Z",
            "  ✓ any of\n    ✓ country = 'DE'   country = 'DE'\n    ✗ country = 'AT'   country = 'DE'",
            "  ✓ not\n    ✗ in_segment('refunders')\n        segment refunders: never a member\n        ✗ refunds > 0   refunds = 0",
            "revenue_7d = 80.0 from 2026-03-08T09:12:00.000Z",
            "2 events in the window:\n    2026-03-03T10:00:00.000Z  Order Completed  80.0  o2   at site:site/1.ndjson/0@3",
            "2026-03-01T09:00:00.000Z  identify  'DE'  i1",
            "  2026-03-04T10:00:00.000Z  entered (event)",
        ],
    );
    let told = shop.segment("good", "user_id:u1");
    assert_eq!(
        told["condition"]["all"][0],
        json!({ "sql": "revenue_7d > 100", "holds": true, "values": { "revenue_7d": 140.5 },
                "changes_at": "2026-03-08T09:12:00.000Z", "changes_to": false })
    );
    for (key, expected) in [
        ("segment", json!("good")),
        ("member", json!(true)),
        ("holds", json!(true)),
        ("entries", json!(1)),
        ("since", json!("2026-03-04T10:00:00.000Z")),
        ("now_is", json!("files")),
        ("notes", json!([])),
        ("looked_until", Value::Null),
    ] {
        assert_eq!(told[key], expected, "{key}");
    }
    assert_eq!(told["changes"][0]["cause"], "event");
    let revenue = &told["traits"][0];
    assert_eq!(revenue["trait"], "revenue_7d");
    assert_eq!(revenue["changes_to"], json!({ "revenue_7d": 80.0 }));
    assert_eq!(revenue["events"]["count"], 2);
    assert_eq!(
        revenue["events"]["shown"][1],
        json!({ "timestamp": "2026-03-01T10:00:00.000Z", "event": "Order Completed", "message_id": "o1",
                "position": "site:site/1.ndjson/0@2", "key": null, "value": 60.5 })
    );

    // One event stands for an extreme, keys are told apart, a stage says which condition held.
    let text = shop.text(&["explain", "trait", "biggest", "user_id:u1"]);
    assert_has(
        &text,
        &["biggest = 80.0   max of properties.total, event Order Completed", "2 events; it is that of:\n", "80.0  o2"],
    );
    assert!(!text.contains("o1"), "{text}");
    let text = shop.text(&["explain", "trait", "bought", "user_id:u1"]);
    assert_has(&text, &["bought.keys = 2", "Order Completed  EUR  o1"]);
    let text = shop.text(&["explain", "segment", "staged", "user_id:u1"]);
    assert_has(
        &text,
        &[
            "stage = 'active'   the first stage that holds\n  stage = 'lapsed' from 2026-03-31T00:00:00.000Z",
            "  ✓ active\n    ✓ orders_30d >= 2   orders_30d = 2",
            "      ✗ last_order < now() - INTERVAL '20 days'",
            "engaged = 4   orders + orders_30d",
        ],
    );
    assert_has(&shop.text(&["explain", "segment", "half", "user_id:u1"]), &["segment half   a sample of 50.0%"]);
}

#[test]
fn who_is_no_member_sees_why_and_what_null_makes_of_it() {
    let shop = Shop::new();
    let text = shop.text(&["explain", "segment", "good", "user_id:u2"]);
    assert_has(
        &text,
        &[
            "no member, and never was one\nnever enters, if no event comes",
            "✗ revenue_7d > 100   revenue_7d = 80.0",
            "? any of\n    ? country = 'DE'   country = null",
            "? is unknown, since a value is null, and counts as false",
            "country = null   latest of traits.country\n  no event",
        ],
    );
    assert_eq!(shop.segment("good", "user_id:u2")["condition"]["all"][1]["holds"], Value::Null);
    // One level down without `--deep`, and all the way with it.
    let (flat, deep) =
        (["explain", "segment", "loyal", "user_id:u2"], ["explain", "segment", "loyal", "user_id:u2", "--deep"]);
    assert_has(&shop.text(&flat), &["segment refunders: never a member   refunds > 0"]);
    assert_has(&shop.text(&deep), &["✗ refunds > 0   refunds = 0"]);

    // An explicit null deletes: it is the event behind the missing value.
    shop.run(2, &[identify("i2", "2026-03-04T11:00:00Z", "u1", None)]);
    let text = shop.text(&["explain", "segment", "german", "user_id:u1"]);
    assert_has(
        &text,
        &["no member since 2026-03-04T11:00:00.000Z", "2 events; it is that of:", "identify  i2", "exited (event)"],
    );

    for (args, wanted) in [
        (["explain", "segment", "godo", "user_id:u1"], "there is no segment `godo`; did you mean `good`?"),
        (["explain", "trait", "order", "user_id:u1"], "there is no trait `order`; did you mean `orders`?"),
        (["explain", "segment", "good", "user_id:u9"], "nobody is known by user_id:u9"),
        (["explain", "trait", "orders", "ann"], "`ann` is neither a profile id (32 hex digits) nor type:value"),
    ] {
        let output = shop.command(&args).output().expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}: {error}");
        assert!(error.contains(wanted), "{args:?}: {error}");
    }
}

/// SEMANTICS §11: the statement gives whom the stream has in, and can be pasted.
#[test]
fn the_statement_of_a_segment_gives_its_members() {
    let shop = Shop::new();
    for segment in ["customers", "good", "refunders", "loyal", "lapsed", "staged", "german", "half", "kept"] {
        let sql = shop.text(&["explain", "segment", segment, "--sql"]);
        let members = shop.rows(&format!("SELECT m.profile_id FROM ({sql}) AS m ORDER BY 1"));
        let known = format!("SELECT profile_id FROM segment_members WHERE segment = '{segment}' ORDER BY 1");
        assert_eq!(members, shop.rows(&known), "{segment}: {sql}");
    }
    assert_eq!(shop.rows("SELECT count(*) FROM segment_members WHERE segment = 'kept'"), ["2"]);
}

/// SEMANTICS §1, §6: what is foretold for a time without events is what the run does when that time has passed.
#[test]
fn what_is_foretold_comes_true() {
    let shop = Shop::new();
    let segments = ["customers", "good", "refunders", "loyal", "lapsed", "staged", "german", "half"];
    let mut foretold: BTreeMap<(String, String), (String, &str)> = BTreeMap::new();
    for who in ["user_id:u1", "user_id:u2"] {
        for segment in segments {
            let told = shop.segment(segment, who);
            if let Some(at) = told["changes_at"].as_str() {
                let change = if told["member"] == true { "exited" } else { "entered" };
                let id = told["profile_id"].as_str().expect("an id").to_string();
                foretold.insert((segment.to_string(), id), (at.trim_end_matches(".000Z").to_string(), change));
            }
        }
    }
    // good, loyal, staged and lapsed of the first, lapsed of the second.
    assert_eq!(foretold.len(), 5, "{foretold:?}");
    shop.run(2, &[page("p2", "2026-05-01T00:00:00Z")]);
    let mut came: BTreeMap<(String, String), (String, &str)> = BTreeMap::new();
    let sql = "SELECT segment, profile_id, changed_at, change FROM segment_changes WHERE cause = 'time' ORDER BY _batch, _seq";
    for row in shop.rows(sql) {
        let parts: Vec<&str> = row.split(',').collect();
        let change = if parts[3] == "entered" { "entered" } else { "exited" };
        let at = parts[2].replace(' ', "T");
        let at = at.get(..19).expect("a time").to_string();
        came.entry((parts[0].to_string(), parts[1].to_string())).or_insert((at, change));
    }
    assert_eq!(came, foretold);
    let text = shop.text(&["explain", "segment", "good", "user_id:u1"]);
    assert_has(
        &text,
        &["no member since 2026-03-08T09:12:00.000Z", "no event in the window, 2 before it:\n", "exited (time)"],
    );
}

#[test]
fn an_old_id_leads_to_the_merged_person_with_the_events_of_both() {
    let shop = Shop::new();
    let id = |who: &str| shop.segment("customers", who)["profile_id"].as_str().expect("an id").to_string();
    let before = [id("user_id:u1"), id("user_id:u2")];
    let mut joins = page("j1", "2026-03-04T12:00:00Z");
    (joins["userId"], joins["anonymousId"]) = (json!("u2"), json!("a-u1"));
    shop.run(2, &[joins]);
    let now = id("user_id:u1");
    assert_eq!(id("user_id:u2"), now);
    let gone = before.iter().find(|id| **id != now).expect("one was absorbed");
    let told = shop.segment("customers", gone);
    assert_eq!(told["profile_id"], *now);
    assert_eq!(told["traits"][0]["values"], json!({ "orders": 3 }));
    let shown = told["traits"][0]["events"]["shown"].as_array().expect("events");
    let ids: Vec<&str> = shown.iter().filter_map(|event| event["message_id"].as_str()).collect();
    assert_eq!(ids, ["o2", "o3", "o1"]);
    let changes = told["changes"].as_array().expect("changes");
    assert!(changes.iter().any(|change| change["cause"] == "merge" && change["profile_id"] == **gone), "{told}");
}

/// Definitions that the state does not know, or not whole, say so; `status` says how many.
#[test]
fn definitions_that_are_not_ready_say_so() {
    let shop = Shop::new();
    let changed = PIPELINE
        .replace("revenue_7d > 100", "revenue_7d > 50")
        .replace("  orders_30d: {", "  views: { count: \"*\", event: Product Viewed }\n  orders_30d: {")
        .replace("segments:\n", "segments:\n  lookers: \"views > 0\"\n");
    std::fs::write(shop.path("shop.yaml"), changed).expect("file");
    let notes = |segment: &str| shop.segment(segment, "user_id:u2")["notes"].to_string();
    assert!(notes("good").contains("segment good means something else in the state"), "{}", notes("good"));
    assert!(notes("lookers").contains("segment lookers is not in the state"), "{}", notes("lookers"));
    assert!(notes("lookers").contains("trait views is not in the state"), "{}", notes("lookers"));
    assert_eq!(notes("customers"), "[]");
    assert_eq!(shop.json(&["status"])["fill"], Value::Null);

    accept(&shop.data(), shop.0.path());
    assert!(notes("lookers").contains("trait views is being filled from the past"), "{}", notes("lookers"));
    assert!(notes("good").contains("segment good is being filled from the past"), "{}", notes("good"));
    let fill = shop.json(&["status"])["fill"].as_str().expect("a fill").to_string();
    assert!(fill.starts_with("1 trait and 3 segments not ready: 0 events read back, up to commit 0 of "), "{fill}");
    assert_has(&shop.text(&["status"]), &["fill,,open,\"1 trait and 3 segments not ready"]);

    output_of(shop.command(&["run", "--drain"]));
    assert_eq!(notes("lookers"), "[]");
    assert_eq!(shop.json(&["status"])["fill"], Value::Null);
}

/// Begins a fill, as a start does, and stops before its first event.
fn accept(data: &str, folder: &Path) {
    let (pipeline, _) = definition::load(folder, Mode::Run).expect("sound definitions");
    let location = Location::parse(data).expect("a location");
    block_on(async move {
        let store = SlateStore::open(&location).await.expect("the state");
        engine::accept(&store, &pipeline).await.expect("accepted");
        tributary::state::Store::close(&store).await.expect("closed");
    });
}
