//! The dashboard over the tables, and the views under it: what Grafana asks is asked of the real engine, with the shop's data.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::crash::receiver;
use crate::support::{Servers, clickhouse, copy_pipeline, output_of, root, servers, tributary, unique};

const DASHBOARD: &str = "deploy/grafana/dashboards/customers.json";

const VIEWS: [&str; 5] = ["events_by_minute", "active_profiles", "daily_revenue", "segment_sizes", "delivery_outcomes"];

/// Besides what the shop ships with: two people who turn out to be one on the day after, orders of theirs, refunds, and what is no event.
const MORE: &str = r#"
{"type":"track","event":"Order Completed","messageId":"d1","userId":"u-8","timestamp":"2026-03-02T10:00:00Z","properties":{"order_id":"o-80","revenue":600.25,"total":640,"currency":"EUR"}}
{"type":"track","event":"Product Viewed","messageId":"d2","anonymousId":"a-80","timestamp":"2026-03-02T11:00:00Z","properties":{"sku":"BK-101"}}
{"type":"identify","messageId":"d3","anonymousId":"a-80","userId":"u-8","timestamp":"2026-03-03T09:00:00Z","traits":{"email":"eve@example.com"}}
{"type":"track","event":"Order Refunded","messageId":"d4","userId":"u-8","timestamp":"2026-03-03T10:00:00Z","properties":{"order_id":"o-80","total":100.5,"currency":"EUR"}}
{"type":"track","event":"Order Completed","messageId":"d5","userId":"u-9","timestamp":"2026-03-03T11:00:00Z","properties":{"order_id":"o-90","total":12}}
{"type":"track","event":
"#;

/// The shop with these events in one of the engines.
struct Shop {
    _folder: tempfile::TempDir,
    pipeline: PathBuf,
    data: PathBuf,
    database: Option<String>,
}

impl Shop {
    fn run(to_clickhouse: bool) -> Shop {
        let folder = tempfile::tempdir().expect("folder");
        let pipeline = copy_pipeline("shop", folder.path(), &[]);
        let events = std::fs::OpenOptions::new().append(true).open(pipeline.join("data/events.ndjson"));
        events.and_then(|mut file| file.write_all(MORE.trim_start().as_bytes())).expect("events");
        let data = folder.path().join("data");
        let shop = Shop { _folder: folder, pipeline, data, database: to_clickhouse.then(|| unique("dashboards")) };
        let mail = Servers::up(&["smtp"]);
        let (hook, _) = receiver(Duration::ZERO);
        let mut run = shop.command(&["run", "--drain"]);
        run.env("SHOP_SMTP_URL", &mail.smtp).env("SHOP_WEBHOOK_URL", hook);
        output_of(run);
        mail.down();
        shop
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = tributary(args);
        command.arg("-C").arg(&self.pipeline).arg("--data").arg(&self.data);
        command.env("SHOP_WEBHOOK_SECRET", "whsec_dHJpYnV0YXJ5LXRlc3Q=");
        if let Some(database) = &self.database {
            command.env("CLICKHOUSE_URL", &servers().clickhouse).env("CLICKHOUSE_DATABASE", database);
        }
        command
    }

    fn query(&self, sql: &str) -> String {
        output_of(self.command(&["query", sql, "--output", "csv"]))
    }
}

/// What Grafana's plugin puts in place of its macros, for this time and seconds between points.
fn expanded(sql: &str, from: i64, to: i64, interval: i64) -> String {
    let mut text = sql.to_string();
    let day = |seconds: i64| {
        let at = chrono::DateTime::from_timestamp(seconds, 0).expect("a time");
        format!("toDate('{}')", at.format("%Y-%m-%d"))
    };
    type Macro<'a> = (&'a str, Box<dyn Fn(&str) -> String + 'a>);
    let with_column: [Macro; 3] = [
        (
            "$__timeFilter(",
            Box::new(|column| format!("{column} >= toDateTime({from}) AND {column} <= toDateTime({to})")),
        ),
        ("$__dateFilter(", Box::new(|column| format!("{column} >= {} AND {column} <= {}", day(from), day(to)))),
        (
            "$__timeInterval(",
            Box::new(|column| format!("toStartOfInterval(toDateTime({column}), INTERVAL {interval} second)")),
        ),
    ];
    for (name, expand) in &with_column {
        while let Some((before, rest)) = text.split_once(name) {
            let (column, after) = rest.split_once(')').expect("an argument");
            text = format!("{before}{}{after}", expand(column));
        }
    }
    for (name, value) in [
        ("$__fromTime", format!("toDateTime({from})")),
        ("$__toTime", format!("toDateTime({to})")),
        ("$__interval_s", interval.to_string()),
    ] {
        text = text.replace(name, &value);
    }
    assert!(!text.contains("$__"), "a macro that the plugin does not know: {text}");
    text
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(root().join(DASHBOARD)).expect(DASHBOARD);
    serde_json::from_str(&text).expect("JSON")
}

/// Panel title, its SQL, and whether it is one over time.
fn questions() -> Vec<(String, String, bool)> {
    let mut questions = Vec::new();
    for panel in dashboard()["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let over_time = target["queryType"] == "timeseries";
            assert_eq!(target["format"], u64::from(!over_time), "{title}");
            questions.push((title.to_string(), target["rawSql"].as_str().expect("SQL").to_string(), over_time));
        }
    }
    questions
}

#[test]
fn every_panel_has_an_answer_and_the_lake_has_the_same_numbers() {
    let shop = Shop::run(true);
    let database = shop.database.as_deref().expect("ClickHouse");
    let ask = |sql: &str| clickhouse(&servers().clickhouse, database, sql);
    let from = chrono::DateTime::parse_from_rfc3339("2026-02-20T00:00:00Z").expect("a time").timestamp();
    // What came in and went out did so now, by the clock of this machine.
    let to: i64 = ask("SELECT toUnixTimestamp(now()) + 86400").parse().expect("a time");
    let mut answers: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for (title, sql, over_time) in questions() {
        let sql = expanded(&sql, from, to, 3600);
        let text = ask(&format!("{sql}\nFORMAT TabSeparatedWithNames"));
        let mut lines = text.lines().map(|line| line.split('\t').map(str::to_string).collect::<Vec<_>>());
        let names = lines.next().expect("names");
        let rows: Vec<Vec<String>> = lines.collect();
        assert!(!rows.is_empty(), "{title}: no rows\n{sql}");
        if over_time {
            assert_eq!(names[0], "time", "{title}");
            assert!(rows.is_sorted_by_key(|row| &row[0]), "{title}: Grafana wants the rows in order of time");
            let labels = ask(&format!("DESCRIBE ({sql})"));
            let numbers = labels.lines().filter(|line| ["Int", "Float"].iter().any(|kind| line.contains(kind)));
            assert!(numbers.count() >= 1, "{title}: nothing to draw\n{labels}");
        }
        answers.entry(title).or_default().extend(rows);
    }
    let first = |title: &str| answers[title][0].clone();
    assert_eq!(first("Events"), [ask("SELECT count() FROM events")]);
    assert_eq!(first("Rejected"), ["1"]);
    let drawn: f64 =
        answers["Events per minute"].iter().map(|row| row[2].parse::<f64>().expect("a number") * 60.0).sum();
    assert_eq!(drawn.round().to_string(), ask("SELECT count() FROM events"), "all names together are all events");
    let revenue = |currency: &str| {
        let sql = format!("SELECT sum(revenue) - sum(refunded) FROM daily_revenue WHERE currency = '{currency}'");
        ask(&sql)
    };
    let net: BTreeSet<Vec<String>> = answers["Net revenue"].iter().cloned().collect();
    let euros = vec!["EUR".to_string(), revenue("EUR")];
    assert_eq!(net, BTreeSet::from([euros, vec!["no currency".to_string(), "12".to_string()]]));
    // One of the shop, and the two who turned out to be one.
    let of_days = &answers["Active people by day"];
    assert_eq!(
        of_days.iter().find(|row| row[0].starts_with("2026-03-02")).map(|row| &*row[1]),
        Some("2"),
        "{of_days:?}"
    );
    let members = ask("SELECT segment, count() FROM segment_members GROUP BY segment ORDER BY segment");
    let shown: BTreeSet<String> =
        answers["Segments"].iter().filter(|row| row[1] != "0").map(|row| format!("{}\t{}", row[0], row[1])).collect();
    assert_eq!(shown, members.lines().map(str::to_string).collect());
    assert!(answers["Attempts to deliver"].iter().any(|row| row[1] == "sent"), "{answers:?}");

    let lake = Shop::run(false);
    let sorted = |shop: &Shop, sql: &str| {
        let text = shop.query(sql);
        text.lines().map(str::to_string).collect::<BTreeSet<String>>()
    };
    for view in &VIEWS[..4] {
        // Deliveries go out by the clock of this machine, so the hours differ.
        let sql = format!("SELECT * FROM {view}");
        assert_eq!(sorted(&lake, &sql), sorted(&shop, &sql), "{view}");
    }
    let outcomes = "SELECT activation, destination, outcome, sum(attempts) AS attempts FROM delivery_outcomes GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
    assert_eq!(lake.query(outcomes), shop.query(outcomes));

    let docs = std::fs::read_to_string(root().join("docs/tables.md")).expect("docs");
    for view in VIEWS {
        let row = docs.lines().find(|line| line.starts_with(&format!("| `{view}` |"))).expect(view);
        let documented: Vec<&str> = row.split('|').nth(2).expect("columns").split('`').skip(1).step_by(2).collect();
        for engine in [&lake, &shop] {
            let header = engine.query(&format!("SELECT * FROM {view} LIMIT 1"));
            assert_eq!(header.lines().next().expect("names").split(',').collect::<Vec<_>>(), documented, "{view}");
        }
    }
}

#[test]
fn panels_are_told_apart_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut cells = BTreeSet::new();
    for panel in panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && cells.insert((x, y)), "{}", panel["title"]);
        }
        if panel["type"] != "row" {
            assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{}", panel["title"]);
        }
    }
    let provisioned = std::fs::read_to_string(root().join("deploy/grafana/provisioning/datasources/clickhouse.yaml"));
    let kind = dashboard["templating"]["list"][0]["query"].as_str().expect("a data source").to_string();
    assert!(provisioned.expect("a data source").contains(&format!("type: {kind}\n")));
    let compose = std::fs::read_to_string(root().join("deploy/compose.yaml")).expect("compose.yaml");
    assert!(compose.contains(&format!("GF_PLUGINS_PREINSTALL_SYNC: {kind}\n")), "the plugin is installed");
}
