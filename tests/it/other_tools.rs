//! The lake as others read it: DuckDB, pandas, and clients of PostgreSQL's protocol see what `tributary query` sees.

#[cfg(feature = "serve-sql")]
mod postgres;

use std::path::Path;
use std::process::Command;

use crate::support::{copy_pipeline, output_of, python, root, text_of, tributary, unique};

/// A folder as an analyst has it: the shop in `pipelines/shop`, its lake in `tributary-data`.
struct Shop(tempfile::TempDir);

impl Shop {
    fn run() -> Shop {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("pipelines")).expect("folder");
        copy_pipeline("shop", &folder.path().join("pipelines"), &[]);
        let shop = Shop(folder);
        output_of(shop.command(&["run", "--drain", "--no-send"]));
        shop
    }

    fn within(&self, mut command: Command) -> Command {
        command.current_dir(self.0.path()).env("SHOP_WEBHOOK_SECRET", "whsec_c2hvcA==");
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        self.within(tributary(&[args, &["-C", "pipelines/shop"]].concat()))
    }

    fn query(&self, sql: &str) -> String {
        output_of(self.command(&["query", sql, "--output", "csv"]))
    }

    /// Runs a script to the end, which must be good; the lines that it printed.
    fn python(&self, script: &str) -> Vec<String> {
        let text = output_of(self.within(python(script)));
        text.lines().map(str::to_string).collect()
    }
}

/// The Python in a section of the page, as it stands there.
fn documented(section: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/other-tools.md")).expect("docs");
    let (_, section) = page.split_once(section).expect("the section");
    let (_, code) = section.split_once("```python\n").expect("code");
    code.split_once("```").expect("its end").0.to_string()
}

/// Rows of a table by `tributary query` (`rows.ndjson`) and by DuckDB, both as texts that do not depend on either.
const COMPARE: &str = r#"
import datetime, decimal, json, subprocess, sys

def plain(value):
    if isinstance(value, bool) or value is None: return value
    if isinstance(value, datetime.datetime): return round(value.timestamp() * 1000000)
    if isinstance(value, (bytes, bytearray)): return bytes(value).hex()
    if isinstance(value, (int, float, decimal.Decimal)): return f"{float(value):.9g}"
    if isinstance(value, dict): return sorted((key, plain(of)) for key, of in value.items())
    text = str(value)
    try:
        return round(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000000) if text.endswith("Z") else text
    except ValueError:
        return text

def ours(sql):
    command = ["tributary", "query", sql, "-C", "pipelines/shop", "--output", "json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in done.splitlines()]

def same(name, columns, rows):
    expected = sorted(repr([plain(row.get(column)) for column in columns]) for row in ours(f'SELECT * FROM "{name}"'))
    found = sorted(repr([plain(value) for value in row]) for row in rows)
    if expected != found:
        different = [pair for pair in zip(expected, found) if pair[0] != pair[1]][:2]
        sys.exit(f"{name}: {len(expected)} rows here, {len(found)} there, such as {different}")
    return len(found)

names = [row["table_name"] for row in ours("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1")]
"#;

#[test]
fn duckdb_and_pandas_read_every_table_and_view_as_it_is() {
    let shop = Shop::run();
    let code = documented("## DuckDB") + &documented("## pandas");
    let script = format!(
        "{code}\n{COMPARE}{}",
        r#"
rows = 0
for name in names:
    result = db.execute(f'SELECT * FROM "{name}"')
    rows += same(name, [column[0] for column in result.description], result.fetchall())
print("TABLES", len(names))
print("ROWS", rows)
print("MEMBERS", ";".join(f"{segment},{count}" for segment, count in members.fetchall()))
print("REVENUE", ";".join(f"{country},{total:.2f}" for country, total in revenue.fetchall()))
print("PROFILES", len(profiles), round(profiles["revenue"].sum(), 2))
print("EVENTS", len(db.sql("SELECT * FROM current_events").df()))
"#
    );
    let lines = shop.python(&script);
    let said = |key: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(&format!("{key} ")));
        line.unwrap_or_else(|| panic!("no {key} in {lines:?}")).to_string()
    };
    let ours = |sql: &str| shop.query(sql).lines().skip(1).collect::<Vec<_>>().join(";");
    assert!(said("TABLES").parse::<usize>().expect("a number") > 25, "{lines:?}");
    assert!(said("ROWS").parse::<usize>().expect("a number") > 100, "{lines:?}");
    assert_eq!(
        said("MEMBERS"),
        ours("SELECT segment, count(*) FROM segment_members GROUP BY segment ORDER BY segment")
    );
    let total = ours("SELECT count(*), round(sum(revenue), 2) FROM current_profiles");
    let numbers = |text: &str| -> Vec<f64> {
        text.split([',', ' ']).map(|number| number.parse().unwrap_or_else(|_| panic!("{text}"))).collect()
    };
    assert_eq!(numbers(&said("PROFILES")), numbers(&total));
    assert_eq!(said("EVENTS"), ours("SELECT count(*) FROM current_events"));
    let revenue = ours(
        "SELECT p.country, round(sum(JSONExtractFloat(e.properties, 'total')), 2) FROM current_events AS e \
         JOIN current_profiles AS p ON e.profile_id = p.profile_id WHERE e.event = 'Order Completed' GROUP BY 1 ORDER BY 1",
    );
    assert_eq!(said("REVENUE").split(';').count(), revenue.split(';').count(), "{} {revenue}", said("REVENUE"));
}

#[test]
fn the_files_that_count_are_listed_and_a_table_that_is_none_is_said() {
    let shop = Shop::run();
    let files = output_of(shop.command(&["lake", "files", "events"]));
    assert!(!files.is_empty());
    for file in files.lines() {
        let path = Path::new(file);
        assert!(path.is_absolute() && path.exists(), "{file}");
    }
    let all = output_of(shop.command(&["lake", "files", "--output", "csv"]));
    let rows = |table: &str| -> u64 {
        let lines = all.lines().filter(|line| line.starts_with(&format!("{table},")));
        lines.map(|line| line.split(',').nth(1).expect("rows").parse::<u64>().expect("a number")).sum()
    };
    for table in ["events", "profiles", "segment_changes"] {
        let counted = shop.query(&format!("SELECT count(*) FROM {table}"));
        assert_eq!(counted.lines().nth(1), Some(rows(table).to_string().as_str()), "{table}");
    }
    let output = shop.command(&["lake", "files", "event"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output).contains("no table event; did you mean events?"), "{}", text_of(&output));
    let mut command = shop.command(&["lake", "files"]);
    command.env("CLICKHOUSE_URL", "http://127.0.0.1:9").env("CLICKHOUSE_DATABASE", unique("none"));
    let output = command.output().expect("the program starts");
    assert!(output.status.code() == Some(1) && text_of(&output).contains("ClickHouse itself"), "{}", text_of(&output));
}
