//! The public CDNOW purchase log: every order of 23,570 customers, through the real Kafka into the real ClickHouse
//! engine, and from the file into the lake. The expected figures come from the file itself and from what is published.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::{clickhouse, copy_pipeline, output_of, root, servers, tributary, unique};

const CSV: &str = "tests/data/cdnow_master.csv";

/// Orders and revenue in cents by month, computed from the file without any code of the program.
pub fn by_month() -> BTreeMap<String, (u64, i64)> {
    let text = std::fs::read_to_string(root().join(CSV)).expect("the purchase log");
    let mut months = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let month = format!("{}-{}", &fields[1][..4], &fields[1][4..6]);
        let (units, cents) = fields[3].split_once('.').expect("two decimals");
        let cents: i64 = units.parse::<i64>().expect("a number") * 100 + cents.parse::<i64>().expect("a number");
        let entry: &mut (u64, i64) = months.entry(month).or_default();
        entry.0 += 1;
        entry.1 += cents;
    }
    months
}

/// What everybody knows of the data set, as one query for both engines; the answer as one line of text.
pub const FIGURES: &str = "SELECT \
    (SELECT count(*) FROM events) AS events, \
    (SELECT count(*) FROM current_profiles) AS profiles, \
    (SELECT CAST(round(sum(revenue) * 100) AS BIGINT) FROM current_profiles) AS cents, \
    (SELECT count(*) FROM current_profiles WHERE orders = 1) AS one_time, \
    (SELECT max(orders) FROM current_profiles) AS most_orders, \
    (SELECT count(*) FROM segment_members WHERE segment = 'one_time_buyers') AS one_time_members";

pub const EXPECTED: [&str; 6] = ["69659", "23570", "250031563", "11908", "217", "11908"];

fn monthly(rows: &str, separator: char) -> BTreeMap<String, (u64, i64)> {
    rows.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(separator).collect();
            (fields[0][..7].to_string(), (fields[1].parse().expect("orders"), fields[2].parse().expect("cents")))
        })
        .collect()
}

const MONTHLY: &str =
    "SELECT month, orders, CAST(round(revenue * 100) AS BIGINT) AS cents FROM revenue_by_month ORDER BY 1";

pub fn produce(topic: &str, kafka: &str) {
    let schema = "pipelines/cdnow/schemas/order-1.avsc";
    let args = [
        "produce",
        CSV,
        "--brokers",
        kafka,
        "--topic",
        topic,
        "--partitions",
        "6",
        "--schema",
        schema,
        "--key",
        "customer_id",
    ];
    output_of(tributary(&args));
}

#[test]
fn kafka_to_clickhouse_gives_the_published_figures_to_the_cent_and_again_changes_nothing() {
    let servers = servers();
    let folder = tempfile::tempdir().expect("folder");
    let (topic, database) = (unique("cdnow"), unique("cdnow"));
    let pipeline = copy_pipeline("cdnow", folder.path(), &[("cdnow.orders", &topic)]);
    let drain = || {
        let data = folder.path().join("data");
        let mut run = tributary(&["run", "--drain", "-C", path(&pipeline), "--data", path(&data)]);
        run.env("KAFKA_BROKERS", &servers.kafka)
            .env("CLICKHOUSE_URL", &servers.clickhouse)
            .env("CLICKHOUSE_DATABASE", &database);
        output_of(run);
    };
    let check = |when: &str| {
        let figures = clickhouse(&servers.clickhouse, &database, FIGURES);
        assert_eq!(figures.split('\t').collect::<Vec<_>>(), EXPECTED, "{when}");
        let months = clickhouse(&servers.clickhouse, &database, MONTHLY);
        assert_eq!(monthly(&months, '\t'), by_month(), "revenue_by_month {when}");
        let distinct = clickhouse(&servers.clickhouse, &database, "SELECT count(), uniqExact(message_id) FROM events");
        assert_eq!(distinct, "69659\t69659", "{when}");
    };
    produce(&topic, &servers.kafka);
    drain();
    check("after the first run");
    drain();
    check("after running again");
    produce(&topic, &servers.kafka);
    drain();
    check("after producing everything a second time");
}

#[test]
fn file_to_lake_gives_the_same_figures_and_again_changes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let query = |sql: &str| {
        output_of(tributary(&["query", sql, "-C", "pipelines/cdnow", "--data", path(&data), "--output", "csv"]))
    };
    for when in ["after the first run", "after running again"] {
        output_of(tributary(&["run", "--drain", "-C", "pipelines/cdnow", "--data", path(&data)]));
        let figures = query(FIGURES);
        let row = figures.lines().nth(1).expect("a row");
        assert_eq!(row.split(',').collect::<Vec<_>>(), EXPECTED, "{when}");
        let months = query(MONTHLY);
        let rows = months.split_once('\n').expect("a header").1;
        assert_eq!(monthly(rows, ','), by_month(), "revenue_by_month {when}");
    }
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}
