//! ClickHouse's functions in the lake: the same text gives the same on the real engine and over the lake.
//!
//! The functions over events are compared on random events: few distinct times, so that ties and the edges of a window are
//! common, rows that meet several conditions, nulls; in the lake in one piece, and torn into partitions and batches.
//! `FUNCTIONS_SEED` is the first seed, `FUNCTIONS_ROUNDS` how many follow.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use tributary::query::{Output, Target, memory_context, query, render, run};

use crate::support::{block_on, clickhouse, servers, unique};
use crate::world::for_seeds;

const GROUPS: usize = 300;
const START_US: i64 = 1_767_225_600_000_000;

/// A row of the random events: group, time, the time if it is not null, three conditions.
type Row = (usize, i64, Option<i64>, [Option<bool>; 3]);

/// Events of many groups in the order in which they come.
fn random_rows(random: &mut fastrand::Rng, ties: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for group in 0..GROUPS {
        let seconds = random.i64(1..12);
        let nulls = random.u8(0..3) == 0;
        let dense = random.u8(1..4);
        for index in 0..random.i64(1..14) {
            // Distinct times are a permutation by a step that is prime to their number.
            let second = if ties { random.i64(0..seconds) } else { (index * 7 + seconds) % 17 };
            let null = |random: &mut fastrand::Rng| nulls && random.u8(0..6) == 0;
            let time = START_US + second * 1_000_000 + random.i64(0..2) * 400_000;
            let given = (!null(random)).then_some(time);
            let conditions = [(); 3].map(|()| (!null(random)).then(|| random.u8(0..4) < dense));
            rows.push((group, time, given, conditions));
        }
    }
    random.shuffle(&mut rows);
    rows
}

fn batch(rows: &[Row]) -> RecordBatch {
    let group = UInt32Array::from_iter_values(rows.iter().map(|row| row.0 as u32));
    let time = TimestampMicrosecondArray::from_iter(rows.iter().map(|row| row.2)).with_timezone("UTC");
    let sure = rows.iter().map(|row| row.1);
    let sure = TimestampMicrosecondArray::from_iter_values(sure).with_timezone("UTC");
    let condition = |index: usize| BooleanArray::from_iter(rows.iter().map(|row| row.3[index]));
    let certain =
        |index: usize| BooleanArray::from(rows.iter().map(|row| row.3[index].unwrap_or(false)).collect::<Vec<_>>());
    RecordBatch::try_from_iter_with_nullable([
        ("g", Arc::new(group) as ArrayRef, false),
        ("t", Arc::new(time), true),
        ("a", Arc::new(condition(0)), true),
        ("b", Arc::new(condition(1)), true),
        ("c", Arc::new(condition(2)), true),
        ("u", Arc::new(sure), false),
        ("x", Arc::new(certain(0)), false),
        ("y", Arc::new(certain(1)), false),
        ("z", Arc::new(certain(2)), false),
    ])
    .unwrap()
}

fn insert(database: &str, table: &str, rows: &[Row]) {
    let url = &servers().clickhouse;
    clickhouse(
        url,
        database,
        &format!(
            "CREATE TABLE {table} (g UInt32, t Nullable(DateTime64(6, 'UTC')), a Nullable(Bool), b Nullable(Bool), \
             c Nullable(Bool), u DateTime64(6, 'UTC'), x Bool, y Bool, z Bool) ENGINE = Memory"
        ),
    );
    let time = |micros: i64| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let rows: Vec<String> = rows
        .iter()
        .map(|(group, sure, at, conditions)| {
            let met = conditions.map(|met| met.map_or("NULL".to_string(), |met| met.to_string()));
            let certain = conditions.map(|met| met.unwrap_or(false).to_string());
            let sure = time(*sure);
            let at = at.map_or("NULL".to_string(), time);
            format!("({group}, {at}, {}, {sure}, {})", met.join(", "), certain.join(", "))
        })
        .collect();
    clickhouse(url, database, &format!("INSERT INTO {table} VALUES {}", rows.join(", ")));
}

/// A session with one table of these partitions, each of some batches.
fn session(table: &str, partitions: Vec<Vec<RecordBatch>>, settings: &[&str]) -> SessionContext {
    let table = table.to_string();
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    block_on(async move {
        let context = memory_context(Vec::new()).await.unwrap();
        for setting in settings {
            context.sql(&format!("SET datafusion.execution.{setting}")).await.unwrap();
        }
        let schema = partitions[0][0].schema();
        context.register_table(table, Arc::new(MemTable::try_new(schema, partitions).unwrap())).unwrap();
        context
    })
}

/// The rows torn into partitions, and these into batches, in the order they come.
fn torn(random: &mut fastrand::Rng, rows: &[Row]) -> Vec<Vec<RecordBatch>> {
    let mut partitions = vec![Vec::new(); random.usize(2..5)];
    let mut rest = rows;
    while !rest.is_empty() {
        let (some, others) = rest.split_at(random.usize(1..400).min(rest.len()));
        random.choice(&mut partitions).unwrap().push(batch(some));
        rest = others;
    }
    partitions.retain(|batches| !batches.is_empty());
    partitions
}

/// The answer as ClickHouse writes it: cells of lines.
fn on_lake(context: &SessionContext, sql: &str) -> Vec<Vec<String>> {
    let (context, text) = (context.clone(), sql.to_string());
    let batches = block_on(async move { run(&context, &text).await.unwrap_or_else(|error| panic!("{text}\n{error}")) });
    let mut lines = Vec::new();
    for batch in batches {
        let options = FormatOptions::default().with_null("\\n").with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.6f"));
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|column| column.value(row).to_string().to_lowercase().replace(", ", ","));
            lines.push(cells.map(|cell| cell.strip_suffix(".0").unwrap_or(&cell).to_string()).collect());
        }
    }
    lines
}

fn on_engine(database: &str, sql: &str) -> Vec<Vec<String>> {
    let text = clickhouse(&servers().clickhouse, database, &format!("{sql} SETTINGS max_threads = 1"));
    text.lines().map(|line| line.split('\t').map(str::to_lowercase).collect()).collect()
}

/// Compares all calls for all groups; gives how many cases that were.
fn compare(seed: u64, database: &str, table: &str, calls: &[String], sessions: &[(&str, &SessionContext)]) -> usize {
    // DataFusion wants each column to have another name.
    let calls: Vec<String> = calls.iter().cloned().collect::<BTreeSet<String>>().into_iter().collect();
    let sql = format!("SELECT g, {} FROM {table} GROUP BY g ORDER BY g", calls.join(", "));
    let expected = on_engine(database, &sql);
    assert_eq!(expected.len(), GROUPS);
    for (name, context) in sessions {
        let found = on_lake(context, &sql);
        assert_eq!(found.len(), GROUPS, "{sql}");
        for (expected, found) in expected.iter().zip(&found) {
            for (call, (expected_cell, found_cell)) in calls.iter().zip(expected.iter().zip(found).skip(1)) {
                if expected_cell != found_cell {
                    let events = format!("SELECT u, t, a, b, c FROM {table} WHERE g = {}", found[0]);
                    let events: Vec<String> =
                        on_engine(database, &events).iter().map(|cells| cells.join(" ")).collect();
                    panic!(
                        "FUNCTIONS_SEED={seed}, {name}: {call} gives {found_cell}, in ClickHouse {expected_cell}\n{}",
                        events.join("\n")
                    );
                }
            }
        }
    }
    calls.len() * GROUPS * sessions.len()
}

/// Aggregates whose states are merged.
const MERGED: [&str; 12] = [
    "countIf(a)",
    "uniq(t)",
    "uniqExactIf(u, b)",
    "sumIf(toUnixTimestamp(t), a)",
    "maxIf(u, a)",
    "minIf(t, b)",
    "max(t)",
    "quantile(0.3)(toUnixTimestamp(u))",
    "quantileExactInclusive(0.7)(toUnixTimestamp(t))",
    "quantileExactIf(0.5)(toUnixTimestamp(t), x)",
    "quantileExactInclusiveIf(0.25)(toUnixTimestamp(u), a)",
    "argMax(toUnixTimestamp(u), u)",
];

const NULLABLE: &str = "toDateTime(t), a, b, c";
const CERTAIN: &str = "toDateTime(u), x, y, z";
const MICROS: &str = "toUInt64(toUnixTimestamp64Micro(u)), x, y, z";

fn random_funnel(random: &mut fastrand::Rng, one_piece: bool) -> String {
    let mut modes = Vec::new();
    for mode in ["strict_order", "strict_deduplication", "strict_increase", "strict_once"] {
        if random.u8(0..3) == 0 {
            modes.push(mode);
        }
    }
    if modes.contains(&"strict_order") && random.bool() {
        modes.push("allow_reentry");
    }
    // Which of two rows at one time is the first decides here, and in pieces nothing says which is.
    if !one_piece && modes.contains(&"strict_once") {
        modes.retain(|mode| *mode != "strict_deduplication");
    }
    let modes: String = modes.iter().map(|mode| format!(", '{mode}'")).collect();
    let window = random.u32(0..7);
    match random.u8(0..5) {
        0 => format!("windowFunnel({window}{modes})({CERTAIN})"),
        1 => format!("windowFunnel({}{modes})({MICROS})", window * 400_000),
        2 => format!("windowFunnel({window}{modes})(toDateTime(t), b, a)"),
        3 => format!("windowFunnelIf({window}{modes})(toDateTime(u), x, b, z, y)"),
        _ => format!("windowFunnel({window}{modes})({NULLABLE})"),
    }
}

fn random_pattern(random: &mut fastrand::Rng, counts: bool) -> String {
    let mut pattern = String::new();
    let mut timed = true;
    for _ in 0..random.usize(1..6) {
        match random.u8(0..9) {
            0 => pattern.push_str(".*"),
            1 => pattern.push('.'),
            2..=4 if !timed => {
                let comparison = random.choice(["<=", "<", ">=", ">", "=="]).unwrap();
                pattern.push_str(&format!("(?t{comparison}{})", random.u8(0..5)));
                timed = true;
                continue;
            }
            _ => pattern.push_str(&format!("(?{})", random.u8(1..4))),
        }
        timed = false;
    }
    // What may be empty at the end makes the engine read behind its pattern (ClickHouse issue 120729), except without times
    // in sequenceMatch.
    let ends_empty = pattern.ends_with(".*") || (timed && !pattern.is_empty());
    if ends_empty && (counts || pattern.contains("(?t")) {
        pattern.push_str("(?1)");
    }
    pattern
}

fn random_sequence(random: &mut fastrand::Rng) -> String {
    let function = random.choice(["sequenceMatch", "sequenceCount"]).unwrap();
    let pattern = random_pattern(random, function == "sequenceCount");
    match random.u8(0..4) {
        0 => format!("{function}('{pattern}')({CERTAIN})"),
        1 => format!("{function}If('{pattern}')(toDateTime(u), x, y, z, b)"),
        _ => format!("{function}('{pattern}')({NULLABLE})"),
    }
}

#[test]
fn functions_over_events_agree_with_the_engine_on_random_events() {
    let rounds = std::env::var("FUNCTIONS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6_u64);
    let cases = std::cell::Cell::new(0);
    for_seeds("FUNCTIONS_SEED", rounds, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let database = unique("functions");
        clickhouse(&servers().clickhouse, "default", &format!("CREATE DATABASE {database}"));
        let one = ["target_partitions = 1"];
        let many = ["target_partitions = 3", "batch_size = 64"];
        // Partial aggregates that give up at once, and hand on each row as a state.
        let rowwise = [
            "target_partitions = 3",
            "skip_partial_aggregation_probe_rows_threshold = 1",
            "skip_partial_aggregation_probe_ratio_threshold = 0.0",
        ];
        let retention = ["retention(a, b, c)", "retention(x, y, z)", "retention(z, x)", "retentionIf(y, z, a)"];
        for ties in [true, false] {
            let table = if ties { "tied" } else { "untied" };
            let rows = random_rows(&mut random, ties);
            insert(&database, table, &rows);
            let whole = session(table, vec![rows.chunks(500).map(batch).collect()], &one);
            let torn = torn(&mut random, &rows);
            let pieces = session(table, torn.clone(), &many);
            let states = session(table, torn, &rowwise);
            let all = [("in one piece", &whole), ("in pieces", &pieces), ("as states", &states)];
            let calls: Vec<String> = (0..20).map(|_| random_funnel(&mut random, false)).collect();
            cases.set(cases.get() + compare(seed, &database, table, &calls, &all));
            let calls: Vec<String> = (0..10).map(|_| random_funnel(&mut random, true)).collect();
            cases.set(cases.get() + compare(seed, &database, table, &calls, &all[..1]));
            let calls = retention.map(str::to_string);
            cases.set(cases.get() + compare(seed, &database, table, &calls, &all));
            cases.set(cases.get() + compare(seed, &database, table, &MERGED.map(str::to_string), &all));
            // At one time the order of events is the order in which they came, which only one piece keeps.
            let calls: Vec<String> = (0..40).map(|_| random_sequence(&mut random)).collect();
            cases.set(cases.get() + compare(seed, &database, table, &calls, if ties { &all[..1] } else { &all }));
        }
        clickhouse(&servers().clickhouse, "default", &format!("DROP DATABASE {database}"));
    });
    println!("{} cases", cases.get());
    assert!(cases.get() > 10_000);
}

/// Times around days, weeks, months and changes of the clock in Berlin, New York and Kolkata; texts; numbers with and
/// without nulls; `k` is the group.
fn values() -> (RecordBatch, String) {
    let times = [
        "2025-12-31 23:59:59.999999",
        "2026-01-01 00:00:00.000000",
        "2026-02-28 22:30:00.000001",
        "2026-03-01 18:29:59.500000",
        "2026-03-08 06:59:59.000000",
        "2026-03-08 07:00:00.000000",
        "2026-03-29 00:06:07.891011",
        "2026-03-29 00:59:59.000000",
        "2026-03-29 01:00:00.000000",
        "2026-03-29 05:06:07.891011",
        "2026-03-29 22:06:07.891011",
        "2026-10-25 00:06:07.000000",
        "2026-10-25 01:06:07.000000",
        "2026-10-25 02:06:07.000000",
        "2026-10-25 22:59:59.000000",
        "2024-02-29 12:00:00.000000",
        "1999-07-04 04:05:06.000007",
    ];
    let micros = |time: &str| {
        chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%.6f").unwrap().and_utc().timestamp_micros()
    };
    let texts = ["a", "b", "é", "", "a"];
    let doubles = [1.5, 2.0, -7.25, 0.0, 100.0, 2.0, 1.0 / 1024.0];
    let rows = times.len();
    let some = |row: usize| row % 3 != 1;
    let n = Int64Array::from_iter_values(0..rows as i64);
    let k = Int64Array::from_iter_values((0..rows).map(|row| row as i64 % 4));
    let t = TimestampMicrosecondArray::from_iter_values(times.map(micros)).with_timezone("UTC");
    let r = times.iter().rev().enumerate().map(|(row, time)| some(row).then(|| micros(time)));
    let r = TimestampMicrosecondArray::from_iter(r).with_timezone("UTC");
    let s = StringArray::from_iter_values((0..rows).map(|row| texts[row % texts.len()]));
    let m = StringArray::from_iter((0..rows).map(|row| some(row).then(|| texts[row % texts.len()])));
    let f = Float64Array::from_iter_values((0..rows).map(|row| doubles[row % doubles.len()]));
    // Of group 1 all are null.
    let d = Float64Array::from_iter((0..rows).map(|row| (some(row) && row % 4 != 1).then(|| doubles[row % 7])));
    let i = Int64Array::from_iter_values((0..rows).map(|row| row as i64 * 37 % 11 - 3));
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("n", Arc::new(n) as ArrayRef, false),
        ("k", Arc::new(k), false),
        ("t", Arc::new(t), false),
        ("r", Arc::new(r), true),
        ("s", Arc::new(s), false),
        ("m", Arc::new(m), true),
        ("f", Arc::new(f), false),
        ("d", Arc::new(d), true),
        ("i", Arc::new(i), false),
    ])
    .unwrap();
    let options = FormatOptions::default().with_null("NULL").with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.6f"));
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let quoted =
        |index: usize, cell: String| if (2..6).contains(&index) && cell != "NULL" { format!("'{cell}'") } else { cell };
    let lines = (0..rows).map(|row| {
        let cells = columns.iter().enumerate().map(|(index, column)| quoted(index, column.value(row).to_string()));
        format!("({})", cells.collect::<Vec<_>>().join(", "))
    });
    let insert = format!("INSERT INTO vals VALUES {}", lines.collect::<Vec<_>>().join(", "));
    (batch.clone(), insert)
}

/// Of each row. `t` is never null, `r` can be.
const SCALARS: &[&str] = &[
    "toStartOfInterval(t, INTERVAL 1 SECOND)",
    "toStartOfInterval(t, INTERVAL 7 SECOND)",
    "toStartOfInterval(t, INTERVAL 120 SECOND)",
    "toStartOfInterval(t, INTERVAL 7 MINUTE)",
    "toStartOfInterval(t, INTERVAL 1 HOUR)",
    "toStartOfInterval(t, INTERVAL 7 HOUR)",
    "toStartOfInterval(t, INTERVAL 1 DAY)",
    "toStartOfInterval(t, INTERVAL 7 DAY)",
    "toStartOfInterval(t, INTERVAL '1 week')",
    "toStartOfInterval(t, INTERVAL 1 WEEK)",
    "toStartOfInterval(t, INTERVAL 2 WEEK)",
    "toStartOfInterval(t, INTERVAL 1 MONTH)",
    "toStartOfInterval(t, INTERVAL 5 MONTH)",
    "toStartOfInterval(t, INTERVAL 3 QUARTER)",
    "toStartOfInterval(t, INTERVAL 1 QUARTER)",
    "toStartOfInterval(t, INTERVAL 3 YEAR)",
    "toStartOfInterval(r, INTERVAL 1 WEEK, 'Europe/Berlin')",
    "toStartOfInterval(t, INTERVAL 1 MONTH, 'America/New_York')",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 7 MINUTE, 'Asia/Kolkata'))",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 1 HOUR, 'Europe/Berlin'))",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 2 HOUR, 'Europe/Berlin'))",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 5 HOUR, 'Europe/Berlin'))",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 6 HOUR, 'America/New_York'))",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 4 HOUR, 'Asia/Kolkata'))",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 1 DAY, 'Europe/Berlin'))",
    "toUnixTimestamp(toStartOfInterval(t, INTERVAL 2 DAY, 'America/New_York'))",
    "toStartOfMinute(t)",
    "toStartOfFiveMinutes(t)",
    "toStartOfTenMinutes(r)",
    "toStartOfFifteenMinutes(t)",
    "toStartOfHour(t)",
    "toStartOfDay(r)",
    "toStartOfWeek(t)",
    "toStartOfWeek(t, 0)",
    "toStartOfWeek(t, 1)",
    "toStartOfWeek(t, 1, 'Asia/Tokyo')",
    "toMonday(t)",
    "toStartOfMonth(t)",
    "toStartOfMonth(t, 'Asia/Tokyo')",
    "toStartOfQuarter(t)",
    "toStartOfYear(r)",
    "toUnixTimestamp(toStartOfDay(t, 'America/New_York'))",
    "toUnixTimestamp(toStartOfHour(t, 'Asia/Kolkata'))",
    "toDate(t)",
    "toDate(r, 'Asia/Tokyo')",
    "toDate('2026-02-03')",
    "toUnixTimestamp(toDateTime(t))",
    "toDateTime64(t, 6)",
    "toDateTime64('2026-02-03 04:05:06.789', 6, 'UTC')",
    "toUnixTimestamp(toStartOfDay(toDate(t)))",
    "toStartOfWeek(toDate(t), 1)",
    "toUnixTimestamp(toStartOfHour(toDateTime(r)))",
    "dateDiff('second', t, r)",
    "dateDiff('minute', r, t)",
    "dateDiff('hour', t, r)",
    "dateDiff('day', t, r)",
    "dateDiff('week', t, r)",
    "dateDiff('month', t, r)",
    "dateDiff('quarter', t, r)",
    "dateDiff('year', t, r)",
    "dateDiff('millisecond', t, r)",
    "dateDiff('microsecond', t, r)",
    "dateDiff(day, toDate(t), r)",
    "date_diff('day', t, r, 'Europe/Berlin')",
    "dateDiff('day', toDate(t), toDate(r))",
    "toUnixTimestamp(t)",
    "toUnixTimestamp64Micro(r)",
    "toString(t)",
    "toString(toDateTime(t))",
    "toString(toDate(t))",
    "toString(f)",
    "toString(d)",
    "toString(i)",
    "toString(s)",
    "toFloat64(t)",
    "toFloat64(i)",
    "toFloat64('1.5e3')",
    "toInt64(t)",
    "toInt64(f)",
    "toInt64('-12')",
    "toInt64(toDate(t))",
    "if(i > 2, s, m)",
    "if(d > 1, 'much', 'little')",
    "multiIf(i > 4, 'a', d > 1, 'b', 'c')",
    "ifNull(m, 'none')",
    "ifNull(d, f)",
    "length(array(1, 2, 3))",
    "lengthUTF8(s)",
    "arrayElement(array(i, 2, 3), 1)",
    "arraySum(array(f, 1.5))",
    "arraySum(array(i, 2))",
    "arrayElement(array(i, 2, 3), indexOf(array(1, 2), 2))",
    "arraySlice(array(i, 2, 3), 2)",
    "arraySlice(array(i, 2, 3), 2, 1)",
    "arraySlice(array(i, 2, 3), 1, -1)",
    "arraySlice(array(i, 2, 3), -2)",
    "arraySlice(array(i, 2, 3), -5)",
    "arraySlice(array(i, 2, 3), -5, 4)",
    "arraySlice(array(i, 2, 3), 4)",
    "arraySort(array(i, 2, 3, n))",
    "arraySort(array(f, 1.5, d))",
    "arraySort(array(s, 'm', 'A', ''))",
    "arrayCompact(array(i, 2, 2, 3, 3, 2))",
    "arrayCompact(array(m, 'a', 'a', m, m))",
    "arrayStringConcat(array(s, 'b'), ' > ')",
    "arrayStringConcat(array(s, 'b'))",
    "arrayStringConcat(array(m, 'b'), '-')",
    "indexOf(array(2, i, 3), 3)",
    "indexOf(array(s, 'b'), 'b')",
    "tupleElement(tuple(i, s), 2)",
    "tupleElement(array(tuple(i, s), tuple(2, 'b')), 2)",
    "tupleElement(arraySort(array(tuple(i, s), tuple(2, 'b'), tuple(2, 'a'))), 2)",
    "tupleElement(arrayZip(array(i, 2), array(s, 'b')), 2)",
    "arrayPushBack(array(i, 2), 7)",
    "arrayPushBack(array(s), '')",
    "arraySort(arrayConcat(array(i, 2), array(3)))",
];

/// Of each group, and of no row at all.
const AGGREGATES: &[&str] = &[
    "uniq(s)",
    "uniqExact(m)",
    "uniq(s, m)",
    "uniqExactIf(s, i > 2)",
    "uniqIf(s, m, i > 2)",
    "quantile(0.5)(f)",
    "quantile(0.3)(d)",
    "quantile(f)",
    "quantileIf(0.9)(f, i > 4)",
    "median(i)",
    "medianIf(i, i > 100)",
    "quantileExact(0.5)(i)",
    "quantileExact(0.5)(d)",
    "quantileExactIf(0.5)(i, i > 100)",
    "quantileExact(1)(t)",
    "quantile(0.5)(t)",
    "quantileExactInclusive(0.25)(f)",
    "quantileExactInclusive(0.7)(d)",
    "quantileExactInclusiveIf(0)(f, i > 100)",
    "quantilesExactInclusive(0.1, 0.5, 1)(f)",
    "quantilesExactInclusive(0.5)(d)",
    "quantiles(0.1, 0.9)(f)",
    "quantilesExact(0, 0.5)(i)",
    "argMax(s, n)",
    "argMin(m, t)",
    "argMax(m, d)",
    "argMaxIf(s, n, i > 100)",
    "argMaxIf(f, t, i > 2)",
    "argMinIf(m, t, i > 100)",
    "argMax(t, f + n)",
    "any(d)",
    "anyLast(d)",
    "any(k)",
    "anyIf(s, i > 100)",
    "groupArray(n)",
    "groupArray(2)(m)",
    "groupArrayIf(n, i > 2)",
    "arraySort(groupArray(n))",
    "arrayCompact(tupleElement(arraySort(groupArray(tuple(i, n, s))), 3))",
    "indexOf(tupleElement(arraySort(groupArray(tuple(n, i > 2))), 2), true)",
    "arraySlice(arraySort(groupArray(s)), -3)",
    "length(groupUniqArray(s))",
    "length(groupUniqArray(m))",
    "count()",
    "countIf(i > 2)",
    "countIf(m, i > 2)",
    "countIf(d > 1)",
    "sumIf(i, i > 2)",
    "sumIf(i, i > 100)",
    "sumIf(d, i > 100)",
    "sumIf(f, d > 1)",
    "avgIf(f, i > 2)",
    "avgIf(i, i > 100)",
    "avgIf(d, i > 100)",
    "minIf(t, i > 2)",
    "maxIf(i, i > 100)",
    "minIf(s, i > 100)",
    "maxIf(d, i > 2)",
    "maxIf(t, i > 100)",
    "windowFunnel(3600)(toDateTime(t), i > 2, i < 5)",
    "retention(i > 2, i < 5, i = 100)",
    "sequenceCount('(?1).*(?2)')(toDateTime(t), i > 2, i < 5)",
    "sequenceMatch('(?1)(?t>=60)(?2)')(toDateTime(t), d > 1, i < 5)",
];

#[test]
fn scalars_and_aggregates_agree_with_the_engine() {
    let database = unique("functions");
    let url = servers().clickhouse.clone();
    clickhouse(&url, "default", &format!("CREATE DATABASE {database}"));
    let (batch, insert) = values();
    clickhouse(
        &url,
        &database,
        "CREATE TABLE vals (n Int64, k Int64, t DateTime64(6, 'UTC'), r Nullable(DateTime64(6, 'UTC')), s String, \
         m Nullable(String), f Float64, d Nullable(Float64), i Int64) ENGINE = Memory",
    );
    clickhouse(&url, &database, &insert);
    let whole = session("vals", vec![vec![batch.clone()]], &["target_partitions = 1"]);
    let half = batch.num_rows() / 2;
    let halves = vec![vec![batch.slice(0, half)], vec![batch.slice(half, batch.num_rows() - half)]];
    let pieces = session("vals", halves, &["target_partitions = 2"]);
    let target = Target::ClickHouse { url: url.clone(), database: database.clone(), user: None, password: None };
    let csv = |batches: &[RecordBatch]| {
        let text = render(batches, Output::Csv).unwrap();
        text.lines().skip(1).map(str::to_string).collect::<Vec<String>>()
    };
    let mut differ = Vec::new();
    let mut cases = Vec::new();
    for sql in STATEMENTS {
        cases.push(("statement", sql.to_string(), true));
    }
    for call in SCALARS {
        cases.push((*call, format!("SELECT n, {call} AS v FROM vals ORDER BY n"), true));
    }
    for call in AGGREGATES {
        // Which is first, and in which order, nothing says in pieces.
        let ordered = call.starts_with("any") || call.starts_with("groupArray");
        cases.push((*call, format!("SELECT k, {call} AS v FROM vals GROUP BY k ORDER BY k"), !ordered));
        cases.push((*call, format!("SELECT {call} AS v FROM vals"), !ordered));
        cases.push((*call, format!("SELECT {call} AS v FROM vals WHERE n < 0"), true));
    }
    for (call, sql, in_pieces) in cases {
        let (asked, text) = (target.clone(), sql.clone());
        let expected = block_on(async move { query(&asked, &text).await });
        let expected = csv(&expected.unwrap_or_else(|error| panic!("{sql}\n{error}")));
        for context in [&whole, &pieces].into_iter().take(1 + usize::from(in_pieces)) {
            let (context, text) = (context.clone(), sql.clone());
            let found = match block_on(async move { run(&context, &text).await }) {
                Ok(batches) => csv(&batches),
                Err(error) => vec![error.to_string()],
            };
            if found != expected {
                differ.push(format!("{call}: {sql}\n  ClickHouse {expected:?}\n  lake       {found:?}"));
            }
        }
    }
    for (sql, wanted) in REFUSED {
        let (asked, text) = (target.clone(), sql.to_string());
        assert!(block_on(async move { query(&asked, &text).await }).is_err(), "ClickHouse takes {sql}");
        let (context, text) = (whole.clone(), sql.to_string());
        match block_on(async move { run(&context, &text).await }) {
            Ok(_) => differ.push(format!("the lake takes {sql}")),
            Err(error) if error.to_string().contains(wanted) => {}
            Err(error) => differ.push(format!("{sql}\n  wanted {wanted}\n  found  {error}")),
        }
    }
    clickhouse(&url, "default", &format!("DROP DATABASE {database}"));
    assert!(differ.is_empty(), "{} differ\n{}", differ.len(), differ.join("\n"));
}

/// Whole statements of the kinds that analyses are made of.
const STATEMENTS: &[&str] = &[
    "SELECT n, arrayJoin(array(i, 2)) AS v FROM vals ORDER BY n, v",
    "SELECT tupleElement(p.pair, 1) AS a, tupleElement(p.pair, 2) AS b, count() AS times FROM (SELECT k, arrayJoin(arrayZip(arraySort(groupArray(s)), \
     arraySort(groupArray(n)))) AS pair FROM vals GROUP BY k) AS p GROUP BY a, b ORDER BY a, b",
    "SELECT level, count() AS people FROM (SELECT k, windowFunnel(86400, 'strict_increase')(toDateTime(t), i > 2, i < 5) \
     AS level FROM vals GROUP BY k) AS funnel GROUP BY level ORDER BY level",
    "SELECT sum(kept[1]) AS started, sum(kept[2]) AS came FROM (SELECT k, retention(i > 2, i < 0) AS kept FROM vals GROUP BY k) \
     AS people",
    "SELECT toStartOfInterval(t, INTERVAL 1 MONTH) AS month, countIf(i > 2) AS some, uniq(s) AS names, \
     quantileExactInclusive(0.5)(f) AS middle FROM vals GROUP BY month ORDER BY month",
    "SELECT k FROM vals GROUP BY k HAVING countIf(i > 2) > 1 AND sequenceMatch('(?1).*(?2)')(toDateTime(t), i > 2, i < 5) = 1 \
     ORDER BY k",
    "WITH firsts AS (SELECT k, min(t) AS since, argMin(s, t) AS name FROM vals GROUP BY k) \
     SELECT k, name, dateDiff('week', toDate('2024-01-01'), toStartOfWeek(since, 1)) AS weeks FROM firsts ORDER BY k",
    "SELECT v.k AS k, count() AS n, sumIf(v.f, v.t >= q.since) AS later FROM vals AS v \
     INNER JOIN (SELECT k, quantileExact(0.5)(t) AS since FROM vals GROUP BY k) AS q ON v.k = q.k GROUP BY v.k ORDER BY k",
    "SELECT n, countIf(i > 2) OVER (PARTITION BY k ORDER BY n) AS so_far, if(i > 2, 1, 0) AS big FROM vals ORDER BY n",
    "SELECT multiIf(i > 4, 'high', i > 0, 'some', 'none') AS band, avgIf(f, f > 0) AS mean, medianIf(f, f > 0) AS middle \
     FROM vals GROUP BY band ORDER BY band",
    "SELECT k, arraySum(groupArray(i)) AS total, length(groupArrayIf(i, i > 2)) AS n, groupArray(1)(k)[1] AS one FROM vals \
     GROUP BY k ORDER BY k",
    "SELECT uniqExact(k, toDate(t)) AS days FROM vals",
    "SELECT k, divide(sum(i), countIf(i > 4)) AS ratio, divide(countIf(i > 4), count()) AS share FROM vals GROUP BY k ORDER BY k",
    "SELECT toDate(t) AS day, count() AS n FROM vals WHERE t >= toDateTime64('2026-01-01 00:00:00', 6, 'UTC') \
     AND t < toDateTime('2026-04-01 00:00:00') GROUP BY day ORDER BY day",
    "SELECT toStartOfHour(t) AS hour, any(k) AS some FROM vals GROUP BY hour ORDER BY hour LIMIT 3",
    "SELECT toUnixTimestamp64Micro(max(t)) - toUnixTimestamp64Micro(min(t)) AS us FROM vals GROUP BY k ORDER BY us",
];

/// Refused by both, with a text of the lake's.
const REFUSED: &[(&str, &str)] = &[
    ("SELECT windowFunnel(60)(t, i > 2, i < 5) FROM vals", "write toDateTime(timestamp)"),
    ("SELECT windowFunnel(60)(toUnixTimestamp64Micro(t), i > 2, i < 5) FROM vals", "write toDateTime(timestamp)"),
    ("SELECT windowFunnel(toDateTime(t), i > 2, i < 5) FROM vals", "windowFunnel takes a window"),
    ("SELECT windowFunnel(60, 'strict')(toDateTime(t), i > 2) FROM vals", "no mode strict; there are strict_order"),
    ("SELECT windowFunnel(60, 'allow_reentry')(toDateTime(t), i > 2) FROM vals", "allow_reentry needs strict_order"),
    ("SELECT windowFunnel(60)(toDateTime(t), s) FROM vals", "a condition is true or false, not Utf8"),
    ("SELECT retention(i > 2) FROM vals", "retention takes 2 to 32 conditions, not 1"),
    ("SELECT sequenceMatch('(?3)')(toDateTime(t), i > 2, i < 5) FROM vals", "at character 1: there is no condition 3"),
    (
        "SELECT sequenceMatch('(?1)x')(toDateTime(t), i > 2, i < 5) FROM vals",
        "at character 5: expected (?1), (?t<=60), . or .*",
    ),
    ("SELECT sequenceMatch('(?1)(?t=5)')(toDateTime(t), i > 2, i < 5) FROM vals", "a time is compared with"),
    ("SELECT sequenceMatch('(?1)(?t<5')(toDateTime(t), i > 2, i < 5) FROM vals", "a ) is missing"),
    (
        "SELECT sequenceMatch('(?1)(?t<5)(?t>1)')(toDateTime(t), i > 2, i < 5) FROM vals",
        "a time stands behind an event",
    ),
    ("SELECT sequenceCount()(toDateTime(t), i > 2, i < 5) FROM vals", "sequenceCount takes a pattern"),
    ("SELECT quantile(2)(f) FROM vals", "a level is a number from 0 to 1"),
    ("SELECT quantile(0.5)(s) FROM vals", "quantile takes numbers, not Utf8"),
    ("SELECT sum(1)(f) FROM vals", "sum takes no parameters: write sum(…)"),
    ("SELECT countIf() FROM vals", "countIf takes a condition last"),
    ("SELECT if(i > 2, 1) FROM vals", "if takes a condition, a value and a value otherwise"),
    (
        "SELECT toStartOfInterval(t, INTERVAL 1 DAY, 'Berlin') FROM vals",
        "the time zone is a constant, as in 'Europe/Berlin'",
    ),
    ("SELECT toStartOfDay(s) FROM vals", "toStartOfDay takes a time, not Utf8"),
    ("SELECT dateDiff('fortnight', t, r) FROM vals", "there are the units second"),
    ("SELECT toInt64(s) FROM vals", "Cannot cast string 'a'"),
    ("SELECT arraySum(s) FROM vals", "arraySum takes a list of numbers"),
];
