//! `plan`, `apply` and fills as their users run them, on both warehouses, with kills in the middle. The oracle is a run
//! of its own with the new definitions from the start.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Running, output_of, servers, text_of, tributary, unique};

const HEAD: &str = r#"pipeline: fills
sources:
  site: { file: { path: data/*.ndjson }, format: { json: segment } }
identity: { identifiers: [user_id, anonymous_id] }
warehouse:
  clickhouse: { url: "${env:CLICKHOUSE_URL:-}", database: "${env:CLICKHOUSE_DATABASE:-fills}" }
destinations:
  crm: { webhook: { url: "http://127.0.0.1:9/", allow_private: true } }
"#;

const BEFORE: &str = r#"traits:
  views: { count: "*", event: Product Viewed }
segments:
  lookers: "views >= 2"
  early:   "events >= 1"
groups:
  account:
    traits:   { views: { count: "*", event: Product Viewed } }
    segments: { looking: "views > 500", first: "events >= 1" }
"#;

const AFTER: &str = r#"traits:
  views:   { count: "*", event: Product Viewed }
  orders:  { count: "*", event: Order Completed }
  revenue: { sum: properties.total, event: Order Completed }
  bought:  { distinct: properties.order_id, event: Order Completed }
  path:    { funnel: [Product Viewed, Order Completed], within: 1d }
segments:
  lookers: "views >= 3"
  buyers:  "orders >= 1"
  big:     "revenue > 200 AND path.level = 2"
groups:
  account:
    traits:
      views:  { count: "*", event: Product Viewed }
      people: { distinct: profile_id }
      buyers: { distinct: profile_id, event: Order Completed, by: properties.order_id }
    segments: { looking: "views > 400", crowded: "people.count > 20" }
  page:
    id: properties.sku
    traits:   { people: { most_frequent: profile_id } }
    segments: { any: "events > 0" }
activations:
  silent: { trigger: { enters: buyers }, consent: none, status: dry_run, do: [ { id: tell, send: { to: crm } } ] }
  loud:   { trigger: { enters: big }, consent: none, status: dry_run, on_backfill: fire, do: [ { id: tell, send: { to: crm } } ] }
"#;

struct Shop {
    folder: tempfile::TempDir,
    clickhouse: Option<(String, String)>,
}

impl Shop {
    fn new(clickhouse: Option<&str>, definitions: &str) -> Shop {
        let clickhouse = clickhouse.map(|url| (url.to_string(), unique("fills")));
        let shop = Shop { folder: tempfile::tempdir().expect("folder"), clickhouse };
        std::fs::create_dir(shop.path("data")).expect("folder");
        shop.define(definitions);
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn define(&self, definitions: &str) {
        std::fs::write(self.path("fills.yaml"), format!("{HEAD}{definitions}")).expect("file");
    }

    fn tributary(&self, arguments: &[&str]) -> Command {
        let text = |path: &Path| path.to_str().expect("utf-8").to_string();
        let (pipeline, data) = (text(self.folder.path()), text(&self.path("state")));
        let mut all = vec!["-C", &pipeline, "--data", &data];
        all.extend(arguments);
        let mut command = tributary(&all);
        if let Some((url, database)) = &self.clickhouse {
            command.env("CLICKHOUSE_URL", url).env("CLICKHOUSE_DATABASE", database);
        }
        command
    }

    fn query(&self, sql: &str) -> String {
        output_of(self.tributary(&["--output", "csv", "query", sql]))
    }

    /// What an analyst sees at the end.
    fn seen(&self) -> BTreeMap<&'static str, String> {
        let profiles = "SELECT profile_id, events, views, orders, revenue, bought, path_level, path_best FROM current_profiles ORDER BY profile_id";
        [
            ("profiles", profiles),
            ("members", "SELECT segment, profile_id FROM segment_members ORDER BY 1, 2"),
            (
                "accounts",
                "SELECT group_id, first_seen, events, views, people_count, people, buyers_keys, buyers \
                 FROM current_groups_account ORDER BY group_id",
            ),
            ("pages", "SELECT group_id, events, people_overflow FROM current_groups_page ORDER BY group_id"),
            ("accounts' members", "SELECT segment, group_id FROM group_segment_members ORDER BY 1, 2"),
            ("definitions", "SELECT kind, name, ready FROM current_definitions ORDER BY 1, 2"),
        ]
        .into_iter()
        .map(|(name, sql)| (name, self.query(sql)))
        .collect()
    }
}

/// People with a device and a user id that are one person from some event on.
fn events(from: usize, to: usize) -> String {
    let mut text = String::new();
    for n in from..to {
        let mut random = fastrand::Rng::with_seed(n as u64);
        let person = random.usize(0..400);
        let who = match random.u8(0..10) {
            0 => format!(r#""userId":"u{person}","anonymousId":"a{person}""#),
            1..6 => format!(r#""anonymousId":"a{person}""#),
            _ => format!(r#""userId":"u{person}""#),
        };
        let (event, properties) = match random.u8(0..4) {
            0 => (
                "Order Completed",
                format!(r#"{{"total":{},"order_id":"o{}","currency":"EUR"}}"#, random.u32(1..90), random.u8(0..9)),
            ),
            _ => ("Product Viewed", r#"{"sku":"s1"}"#.to_string()),
        };
        let at = chrono::DateTime::from_timestamp(1_772_000_000 + n as i64 * 30, 0).expect("a time").to_rfc3339();
        let _ = writeln!(
            text,
            r#"{{"messageId":"m{n}","type":"track","event":"{event}","groupId":"g{}",{who},"timestamp":"{at}","properties":{properties}}}"#,
            person % 20,
        );
    }
    text
}

fn write(shop: &Shop, name: &str, text: &str) {
    std::fs::write(shop.path("data").join(name), text).expect("file");
}

fn a_fill_survives(clickhouse: Option<&str>) {
    const PAST: usize = 30_000;
    let wanted = Shop::new(clickhouse, AFTER);
    write(&wanted, "1.ndjson", &events(0, PAST));
    write(&wanted, "2.ndjson", &events(PAST, PAST + 2_000));
    output_of(wanted.tributary(&["run", "--drain"]));

    let shop = Shop::new(clickhouse, BEFORE);
    write(&shop, "1.ndjson", &events(0, PAST));
    output_of(shop.tributary(&["run", "--drain"]));
    let members_before = shop.query("SELECT segment, count(*) AS members FROM segment_members GROUP BY 1 ORDER BY 1");
    shop.define(AFTER);

    // A segment with members is not removed by itself.
    let refused = shop.tributary(&["run", "--drain"]).output().expect("the program starts");
    assert_eq!(refused.status.code(), Some(1), "{}", text_of(&refused));
    for gone in ["segment early", "segment account.first (20 members)"] {
        assert!(text_of(&refused).contains(gone), "{}", text_of(&refused));
    }

    let plan = output_of(shop.tributary(&["plan"]));
    for line in [
        "+ trait orders",
        "+ segment buyers",
        "~ segment lookers",
        "- segment early",
        "+ group page",
        "+ trait account.people",
        "~ segment account.looking",
        "- segment account.first  0 would enter, 20 would leave",
        "+ segment page.any  1 would enter",
        "30000 stored events",
    ] {
        assert!(plan.contains(line), "{line}\n{plan}");
    }
    // Nothing was touched by the plan.
    let now = shop.query("SELECT segment, count(*) AS members FROM segment_members GROUP BY 1 ORDER BY 1");
    assert_eq!(now, members_before);
    output_of(shop.tributary(&["apply"]));

    // More comes in while the past is read; the process dies again and again.
    write(&shop, "2.ndjson", &events(PAST, PAST + 2_000));
    let seed = std::env::var("FILL_KILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    println!("FILL_KILL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..8 {
        let mut running = Running::start(shop.tributary(&["run"]));
        std::thread::sleep(Duration::from_millis(random.u64(200..1_200)));
        running.kill();
    }
    output_of(shop.tributary(&["run", "--drain"]));
    assert_eq!(shop.seen(), wanted.seen(), "FILL_KILL_SEED={seed}");

    // What the plan said is what came: of those who were members, and of those that the past made members.
    let counted = shop.query(
        "SELECT segment, change, count(*) AS n FROM segment_changes WHERE cause IN ('fill', 'removed') GROUP BY 1, 2 ORDER BY 1, 2",
    );
    for line in counted.lines().skip(1) {
        let parts: Vec<&str> = line.split(',').collect();
        let said =
            plan.lines().find(|said| said.contains(&format!("segment {} ", parts[0]))).expect("a line of the plan");
        let word = if parts[1] == "entered" { "would enter" } else { "would leave" };
        // Those whom live events made members before their turn came are not the fill's.
        let planned: i64 = said
            .split(word)
            .next()
            .and_then(|before| before.split_whitespace().last())
            .and_then(|n| n.parse().ok())
            .expect("a number");
        let came: i64 = parts[2].parse().expect("a number");
        assert!((planned - came).abs() <= 400, "{line}\n{said}");
    }
    let fired = shop.query("SELECT DISTINCT activation FROM deliveries ORDER BY 1");
    assert!(fired.contains("loud"), "the one that says so is set off by the fill: {fired}");
    let silent: i64 = shop
        .query("SELECT count(*) AS n FROM deliveries WHERE activation = 'silent'")
        .lines()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    let entered: i64 = shop
        .query("SELECT count(*) AS n FROM segment_changes WHERE segment = 'buyers' AND change = 'entered' AND cause = 'event'")
        .lines()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert_eq!(silent, entered, "the other by events alone");
}

#[test]
fn a_fill_survives_kills_on_the_lake() {
    a_fill_survives(None);
}

#[test]
fn a_fill_survives_kills_on_clickhouse() {
    a_fill_survives(Some(&servers().clickhouse));
}
