use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::*;
use crate::expression::{ColumnScope, Resolved, Scope};

#[derive(Debug, Clone)]
struct Row {
    event: bool,
    country: Option<u8>,
    minute: i64,
    total: Option<f64>,
    items: Option<i64>,
    text: Option<String>,
}

fn batch(rows: &[Row]) -> RecordBatch {
    let time = |row: &Row| Some(row.minute * 60_000_000);
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "event",
            Arc::new(rows.iter().map(|row| Some(if row.event { "Order" } else { "View" })).collect::<StringArray>()),
        ),
        ("country", Arc::new(rows.iter().map(|row| Some(format!("c{}", row.country?))).collect::<StringArray>())),
        ("timestamp", Arc::new(rows.iter().map(time).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))),
        ("total", Arc::new(rows.iter().map(|row| row.total).collect::<Float64Array>())),
        ("items", Arc::new(rows.iter().map(|row| row.items).collect::<Int64Array>())),
        ("text", Arc::new(rows.iter().map(|row| row.text.clone()).collect::<StringArray>())),
        ("flag", Arc::new(rows.iter().map(|row| Some(row.items? > 0)).collect::<BooleanArray>())),
        ("lines", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(rows.iter().map(|_| Some([Some(1)]))))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, values)| (name, values, true))).unwrap()
}

fn scope() -> ColumnScope {
    let mut scope = ColumnScope::new();
    for field in batch(&[]).schema().fields() {
        scope.add_column(field.name(), field.data_type().clone());
    }
    scope.add(
        &["context", "location", "country"],
        Resolved { column: "country".into(), data_type: DataType::Utf8, nested: Vec::new() },
    );
    scope
}

fn run(sql: &str, batches: &[RecordBatch]) -> RecordBatch {
    let plan = AggregatePlan::check("test", sql, &scope()).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let aggregator = Aggregator::new(&plan, &batch(&[]).schema()).unwrap();
    let partial: Vec<RecordBatch> = batches.iter().map(|batch| aggregator.run(batch).unwrap()).collect();
    for batch in &partial {
        assert_eq!(batch.schema(), *aggregator.schema());
    }
    concat_batches(aggregator.schema(), &partial).unwrap()
}

fn query(schema: SchemaRef, batches: Vec<RecordBatch>, sql: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let context = SessionContext::new();
        context.register_table("events", Arc::new(MemTable::try_new(schema, vec![batches]).unwrap())).unwrap();
        let result = context.sql(sql).await.unwrap().collect().await.unwrap();
        result.iter().flat_map(lines).collect()
    })
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<_> =
        batch.columns().iter().map(|values| ArrayFormatter::try_new(values.as_ref(), &options).unwrap()).collect();
    let line = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|");
    (0..batch.num_rows()).map(line).collect()
}

fn row(country: Option<u8>, total: Option<f64>, items: Option<i64>) -> Row {
    Row { event: true, country, minute: 0, total, items, text: None }
}

#[track_caller]
fn check(sql: &str, rows: &[Row], expected: &[&str]) {
    assert_eq!(lines(&run(sql, &[batch(rows)])), expected, "{sql}");
}

#[test]
fn partial_rows_of_one_batch() {
    let rows = [
        row(Some(2), Some(0.1), Some(5)),
        row(Some(1), Some(0.2), None),
        row(Some(2), Some(0.2), Some(-7)),
        row(None, None, None),
        Row { event: false, ..row(Some(9), Some(9.0), Some(9)) },
    ];
    check(
        "SELECT context.location.country, sum(total) AS revenue, sum(items) AS items, count(*) AS orders, count(items) AS with_items,
                min(total) AS low, max(items) AS high
         FROM events WHERE event = 'Order' GROUP BY 1",
        &rows,
        &[
            "null|0.000000|0|1|0|null|null", // §11: an empty sum is 0, an empty max null
            "c1|0.200000|0|1|0|0.2|null",
            "c2|0.300000|-2|2|2|0.1|5",
        ],
    );
    check("SELECT count(*) AS n FROM events", &rows, &["5"]);
    check("SELECT count(*) AS n FROM events WHERE event = 'None'", &rows, &[]);
    check("SELECT sum(items) AS n FROM events", &[], &[]);
    check("SELECT count(*) AS n, flag FROM events GROUP BY flag", &rows, &["2|null", "1|false", "2|true"]);
    check("SELECT sum(total / 2) AS half FROM events WHERE items > 0", &rows, &["4.550000"]);
    check(
        "SELECT date_trunc('hour', timestamp) AS hour, country || '!' AS c, count(1) AS n FROM events GROUP BY hour, country || '!'",
        &rows[..1],
        &["1970-01-01T00:00:00Z|c2!|1"],
    );
    check("SELECT country, count(*) AS n FROM events GROUP BY ALL", &rows[..1], &["c2|1"]);
    check("SELECT max(country) AS country, max(timestamp) AS last FROM events", &rows, &["c9|1970-01-01T00:00:00Z"]);
}

#[test]
fn what_a_sum_cannot_hold_is_null() {
    let rows = |values: &[f64]| values.iter().map(|value| row(None, Some(*value), Some(i64::MAX))).collect::<Vec<_>>();
    let sql = "SELECT sum(total) AS total, sum(items) AS items FROM events";
    let large = 2_f64.powi(70);
    check(sql, &rows(&[large]), &["1180591620717411303424.000000|9223372036854775807"]);
    check(sql, &rows(&[large, -large, 0.5]), &["0.500000|null"]);
    check(sql, &rows(&[1.0, 1e22]), &["1.000000|null"]);
    check(sql, &rows(&[f64::NAN, f64::INFINITY, 0.0000005]), &["0.000001|null"]);
}

#[test]
fn columns_have_names_types_and_roles() {
    let sql = "SELECT date_trunc('minute', timestamp) AS minute, country, sum(total) AS revenue, sum(items) AS items, \
               count(*) AS orders, min(text) AS a, max(timestamp) AS b FROM events GROUP BY 1, 2";
    let plan = AggregatePlan::check("by_minute", sql, &scope()).unwrap();
    let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let columns: Vec<_> = plan.columns.iter().map(|c| (c.name.as_str(), c.data_type.clone(), c.role)).collect();
    assert_eq!(
        columns,
        [
            ("minute", time.clone(), AggregateRole::Key),
            ("country", DataType::Utf8, AggregateRole::Key),
            ("revenue", DataType::Decimal128(38, 6), AggregateRole::Sum),
            ("items", DataType::Int64, AggregateRole::Sum),
            ("orders", DataType::Int64, AggregateRole::Count),
            ("a", DataType::Utf8, AggregateRole::Min),
            ("b", time, AggregateRole::Max),
        ]
    );
    assert_eq!((plan.name.as_str(), plan.sql.as_str()), ("by_minute", sql));
    let inputs: Vec<&str> = plan.inputs().map(|input| input.column.as_str()).collect();
    assert_eq!(inputs, ["timestamp", "country", "total", "items", "text", "timestamp"]);
}

#[test]
fn errors_say_what_where_and_what_instead() {
    let rows = [
        ("SELECT avg(total) AS a FROM events", "avg cannot be combined", "sum(x) and count(x)", "avg(total"),
        (
            "SELECT count(DISTINCT country) AS a FROM events",
            "DISTINCT cannot be combined",
            "",
            "count(DISTINCT country",
        ),
        (
            "SELECT profile_id, count(*) AS n FROM events GROUP BY 1",
            "unknown name `profile_id`",
            "a merge of profiles",
            "profile_id",
        ),
        (
            "SELECT count(*) AS n FROM events WHERE in_segment('x')",
            "unknown segment `x`",
            "a merge of profiles",
            "in_segment('x'",
        ),
        ("SELECT session_id, count(*) AS n FROM events GROUP BY 1", "session_id", "a merge of profiles", "session_id"),
        (
            "SELECT contry, count(*) AS n FROM events GROUP BY 1",
            "unknown name `contry`",
            "did you mean `country`?",
            "contry",
        ),
        ("SELECT country, sum(total) FROM events GROUP BY 1", "needs a name", "AS some_name", "sum(total"),
        ("SELECT lower(country), count(*) AS n FROM events GROUP BY 1", "needs a name", "", "lower(country"),
        ("SELECT country, count(*) AS country FROM events GROUP BY 1", "two columns", "AS", "count(*) AS country"),
        ("SELECT country AS _c, count(*) AS n FROM events GROUP BY 1", "cannot be a column's name", "", "_c"),
        ("SELECT country, count(*) AS n FROM events", "`country` is not grouped by", "GROUP BY", "country"),
        ("SELECT country, count(*) AS n FROM events GROUP BY 3", "`3` is not among the columns", "", "3"),
        (
            "SELECT country, count(*) AS n FROM events GROUP BY text, country",
            "`text` is not among the columns",
            "",
            "text",
        ),
        ("SELECT country, count(*) AS n FROM events GROUP BY 2", "is a measure", "", "2"),
        ("SELECT country FROM events GROUP BY 1", "no measure", "count(*)", "SELECT country FROM events GROUP BY 1"),
        ("SELECT total, count(*) AS n FROM events GROUP BY 1", "fraction is no key", "floor", "total"),
        ("SELECT lines, count(*) AS n FROM events GROUP BY 1", "list or record", "", "lines"),
        ("SELECT sum(text) AS n FROM events", "only numbers", "CAST", "text"),
        ("SELECT sum(sum(total)) AS n FROM events", "many rows", "", "sum"),
        ("SELECT sum(total) + 1 AS n FROM events", "many rows", "", "sum"),
        ("SELECT count(*) AS n FROM events WHERE country", "true or false", "", "country"),
        ("SELECT count(*) AS n FROM events WHERE nope = 1", "unknown name `nope`", "", "nope"),
        ("SELECT count(*) AS n FROM profiles", "reads `events`", "", "profiles"),
        ("SELECT count(*) AS n FROM events e", "reads `events`", "", "events e"),
        ("SELECT count(*) AS n FROM events JOIN b ON true", "JOIN", "enrich", "events JOIN b ON true"),
        ("SELECT * FROM events", "not possible", "name the columns", "*"),
        ("SELECT sum(total) FILTER (WHERE flag) AS n FROM events", "one argument", "CASE", "sum(total"),
    ];
    let mut wrong = Vec::new();
    for (sql, message, help, at_fault) in rows {
        let error = match AggregatePlan::check("a", sql, &scope()) {
            Err(error) => error,
            Ok(_) => {
                wrong.push(format!("{sql}: accepted"));
                continue;
            }
        };
        let found = error.span.clone().map(|span| &sql[span]);
        let fits = error.message.contains(message)
            && error.help.clone().unwrap_or_default().contains(help)
            && found.is_some_and(|found| found.contains(at_fault));
        if !fits {
            wrong.push(format!("{sql}: {error:?} at {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for clause in
        ["HAVING count(*) > 1", "ORDER BY 1", "LIMIT 3", "GROUP BY ROLLUP (country)", "UNION SELECT 1", "; SELECT 1"]
    {
        let sql = format!("SELECT count(*) AS n FROM events {clause}");
        assert!(AggregatePlan::check("a", &sql, &scope()).is_err(), "{sql}");
    }
    for sql in ["", "DELETE FROM events", "SELECT DISTINCT country FROM events", "VALUES (1)", "SELECT 1"] {
        assert!(AggregatePlan::check("a", sql, &scope()).is_err(), "{sql}");
    }
}

#[test]
fn the_scope_below_is_asked_for_everything_else() {
    struct Sources;
    impl Scope for Sources {
        fn resolve(&self, path: &[&str]) -> Option<Resolved> {
            let column = path.join(".");
            (path[0] == "properties").then(|| Resolved { column, data_type: DataType::Float64, nested: Vec::new() })
        }
        fn names(&self) -> Vec<String> {
            vec!["profile_id".into(), "properties.total".into()]
        }
    }
    let plan = AggregatePlan::check("a", "SELECT sum(properties.total) AS r FROM events", &Sources).unwrap();
    assert_eq!(plan.inputs().next().unwrap().column, "properties.total");
    let error = Aggregator::new(&plan, &batch(&[]).schema()).err().unwrap();
    assert!(error.message.contains("properties.total"), "{error}");
}

/// The smallest and greatest of both zeros is zero, in whatever order they come.
#[test]
fn there_is_one_zero() {
    let row = |total| Row { event: true, country: None, minute: 0, total: Some(total), items: None, text: None };
    for totals in [[0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]] {
        let rows = totals.map(row);
        let found = run("SELECT min(total) AS a, max(total) AS b FROM events", &[batch(&rows)]);
        use arrow::array::AsArray as _;
        let column = |index: usize| found.column(index).as_primitive::<arrow::datatypes::Float64Type>().value(0);
        assert_eq!([column(0).to_bits(), column(1).to_bits()], [0, 0], "{totals:?}");
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let total = prop_oneof![
        Just(None),
        (-100_000_i64..100_000).prop_map(|cents| Some(cents as f64 / 100.0)),
        any::<f64>().prop_map(|value| Some(value % 1e9).filter(|value| value.is_finite())),
    ];
    // One zero: the query over the whole would give either.
    let total = total.prop_map(|total| total.map(|value: f64| if value == 0.0 { 0.0 } else { value }));
    let text = proptest::option::of("[a-cäß]{0,2}");
    (any::<bool>(), proptest::option::of(0_u8..3), -200_i64..200, total, proptest::option::of(-5_i64..5), text)
        .prop_map(|(event, country, minute, total, items, text)| Row { event, country, minute, total, items, text })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Promise 2 and §8: whatever the batch borders, the combined partial rows are what one query over all events gives.
    #[test]
    fn combined_partial_rows_equal_the_query_over_the_whole(
        rows in proptest::collection::vec(any_row(), 0..60),
        borders in proptest::collection::vec(0_usize..60, 0..6),
        rotate in 0_usize..60,
    ) {
        let whole = batch(&rows);
        let expected = query(whole.schema(), vec![whole.clone()],
            "SELECT date_trunc('hour', timestamp) AS hour, country, flag, items % 2 AS odd,
                    coalesce(sum(CAST(total AS DECIMAL(38, 6))), 0) AS revenue, coalesce(sum(items), 0) AS s, count(*) AS n,
                    count(text) AS texts, min(total) AS a, max(total) AS b, min(text) AS c, max(text) AS d, max(timestamp) AS e, min(items) AS f
             FROM events WHERE event = 'Order' AND (items <> 3 OR items IS NULL) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4");

        let mut shuffled = rows.clone();
        if !shuffled.is_empty() {
            let by = rotate % shuffled.len();
            shuffled.rotate_left(by);
        }
        let mut borders: Vec<usize> = borders.into_iter().map(|border| border % (rows.len() + 1)).collect();
        borders.extend([0, rows.len()]);
        borders.sort_unstable();
        let batches: Vec<RecordBatch> = borders.windows(2).map(|pair| batch(&shuffled[pair[0]..pair[1]])).collect();
        let partial = run(
            "SELECT date_trunc('hour', timestamp) AS hour, country, flag, items % 2 AS odd,
                    sum(total) AS revenue, sum(items) AS s, count(*) AS n,
                    count(text) AS texts, min(total) AS a, max(total) AS b, min(text) AS c, max(text) AS d, max(timestamp) AS e, min(items) AS f
             FROM events WHERE event = 'Order' AND (items <> 3 OR items IS NULL) GROUP BY hour, 2, flag, items % 2", &batches);
        let combined = query(partial.schema(), vec![partial],
            "SELECT hour, country, flag, odd, sum(revenue), sum(s), sum(n), sum(texts), min(a), max(b), min(c), max(d), max(e), min(f)
             FROM events GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4");
        prop_assert_eq!(combined, expected);
    }

    #[test]
    fn the_rows_of_a_batch_may_come_in_any_order(rows in proptest::collection::vec(any_row(), 0..40), rotate in 0_usize..40) {
        let sql = "SELECT country, date_trunc('day', timestamp) AS day, sum(total) AS r, max(text) AS t FROM events GROUP BY 1, 2";
        let mut other = rows.clone();
        if !other.is_empty() {
            let by = rotate % other.len();
            other.rotate_left(by);
            other.reverse();
        }
        prop_assert_eq!(lines(&run(sql, &[batch(&rows)])), lines(&run(sql, &[batch(&other)])));
    }
}

/// `cargo test --lib aggregate::tests::figures -- --ignored --nocapture`
#[test]
#[ignore = "figures, not a check"]
#[expect(clippy::disallowed_methods, reason = "measures")]
#[expect(clippy::print_stdout, reason = "figures are read by people")]
fn figures() {
    let sql = "SELECT date_trunc('minute', timestamp) AS minute, country, sum(total) AS revenue, count(*) AS orders
               FROM events WHERE event = 'Order' GROUP BY 1, 2";
    let plan = AggregatePlan::check("test", sql, &scope()).unwrap();
    let aggregator = Aggregator::new(&plan, &batch(&[]).schema()).unwrap();
    for rows in [1, 10, 1_000, 20_000] {
        let make = |row: usize| Row {
            minute: (row / 1000) as i64,
            ..self::row(Some((row % 20) as u8), Some(row as f64), Some(1))
        };
        let batch = batch(&(0..rows).map(make).collect::<Vec<_>>());
        let rounds = 200_000 / (rows + 100);
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(aggregator.run(&batch).unwrap());
        }
        let ns = start.elapsed().as_nanos() as usize / rounds;
        println!("aggregate of {rows} rows: {ns} ns, {} ns per row", ns / rows);
    }
}
