//! Alerts over aggregates: the event comes once, whether the stream is read at one go or in many parts.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::support::{output_of, tributary};

const PIPELINE: &str = r#"pipeline: watched
sources: { site: { file: { path: data/*.ndjson }, format: { json: segment } } }
aggregates:
  orders_by_hour: "SELECT date_trunc('hour', timestamp) AS hour, properties.country AS country, count(*) AS orders, sum(CAST(properties.total AS DOUBLE)) AS revenue FROM events WHERE event = 'Bought' GROUP BY 1, 2"
alerts:
  orders: { watch: orders_by_hour, value: orders, every: hour, season: 24 }
  revenue: { watch: orders_by_hour, value: revenue, every: hour }
traits: { orders: { count: "*", event: Bought } }
"#;

/// Six days of orders from two countries, in order of time. From DE none come from ten to two on the last day, and from FR one of
/// ten thousand euros comes in a quiet night of the fifth.
fn orders() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut lines: Vec<(i64, String)> = Vec::new();
    for hour in 0..144 {
        for country in ["DE", "FR"] {
            let usual = if (8..20).contains(&(hour % 24)) { 40 } else { 8 };
            let missing = country == "DE" && (130..134).contains(&hour);
            for order in 0..if missing { 0 } else { usual + random.i64(0..3) } {
                let at = 1_767_225_600 + hour * 3_600 + random.i64(0..3_600);
                let total =
                    if country == "FR" && hour == 99 && order == 0 { 10_000.0 } else { 20.0 + random.f64().round() };
                let timestamp = tributary::activation::time_text(at * 1_000_000);
                let line = json!({
                    "type": "track", "event": "Bought", "messageId": format!("{country}{hour}-{order}"), "userId": format!("u{order}"),
                    "timestamp": timestamp, "properties": { "country": country, "total": total }, "context": {}
                });
                lines.push((at, line.to_string()));
            }
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn run(folder: &Path) {
    let mut command = tributary(&["run", "--drain", "-C", "p.yaml"]);
    command.current_dir(folder);
    output_of(command);
}

/// The properties of the alerts, by message id.
fn told(folder: &Path) -> BTreeMap<String, serde_json::Value> {
    let sql = "SELECT message_id, source, profile_id, properties FROM events WHERE event = 'Anomaly Detected'";
    let mut command = tributary(&["query", sql, "-C", "p.yaml", "--output", "json"]);
    command.current_dir(folder);
    let mut told = BTreeMap::new();
    for line in output_of(command).lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a row");
        assert_eq!((&row["source"], &row["profile_id"]), (&json!("tributary"), &json!(null)), "{row}");
        let properties = serde_json::from_str(row["properties"].as_str().expect("properties")).expect("JSON");
        let id = row["message_id"].as_str().expect("an id").to_string();
        assert!(told.insert(id, properties).is_none(), "twice: {row}");
    }
    told
}

#[test]
fn an_outage_and_an_outlier_are_told_once_however_the_stream_is_cut() {
    let lines = orders();
    let whole = tempfile::tempdir().expect("folder");
    let parts = tempfile::tempdir().expect("folder");
    for folder in [&whole, &parts] {
        std::fs::create_dir(folder.path().join("data")).expect("folder");
        std::fs::write(folder.path().join("p.yaml"), PIPELINE).expect("file");
    }
    std::fs::write(whole.path().join("data/a.ndjson"), lines.join("\n") + "\n").expect("file");
    run(whole.path());
    // A process of its own for each part: the series come out of the state.
    for (number, part) in lines.chunks(lines.len() / 7 + 1).enumerate() {
        std::fs::write(parts.path().join(format!("data/{number}.ndjson")), part.join("\n") + "\n").expect("file");
        run(parts.path());
    }
    let told_whole = told(whole.path());
    assert_eq!(told_whole, told(parts.path()));

    let mut seen: Vec<(&str, &str, &str, &str)> = told_whole
        .values()
        .map(|properties| {
            let text = |value: &'static str| properties[value].as_str().expect("a text");
            let country = properties["group"]["country"].as_str().expect("a country");
            (text("alert"), country, text("period_start"), text("direction"))
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("orders", "DE", "2026-01-06T10:00:00.000Z", "low"),
            ("revenue", "DE", "2026-01-06T10:00:00.000Z", "low"),
            ("revenue", "FR", "2026-01-05T03:00:00.000Z", "high"),
        ]
    );
    let outlier = told_whole.values().find(|properties| properties["direction"] == "high").expect("the outlier");
    assert!(
        outlier["value"].as_f64().expect("a value") > 10_000.0
            && outlier["expected"].as_f64().expect("a value") < 300.0
    );
    // Asked for again, nothing more is told.
    run(whole.path());
    assert_eq!(told(whole.path()), told_whole);
}
