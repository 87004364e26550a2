//! SEMANTICS §11 and promise 8: an expression has one value in the stream, in DataFusion and in ClickHouse.
//!
//! One table of rows, one list of expressions: every operator and every function of the allow-list, over nulls, extremes,
//! empty and non-ASCII texts, negative zero and leap days. What cannot be made equal is a list too, and must differ.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use datafusion::prelude::{SessionConfig, SessionContext};
use tributary::expression::{ColumnScope, Dialect, Expression, NOW_COLUMN, Resolved};

use crate::support::{block_on, servers};

/// `l`, `m`: longs; `d`, `e`: doubles; `t`, `u`: texts; `b`, `c`: booleans; `at`, `until`: timestamps.
type Row = (
    Option<i64>,
    Option<i64>,
    Option<f64>,
    Option<f64>,
    Option<&'static str>,
    Option<&'static str>,
    Option<bool>,
    Option<bool>,
    Option<&'static str>,
    Option<&'static str>,
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (Some(7), Some(2), Some(2.5), Some(0.5), Some("Grüße 7"), Some("ü"), Some(true), Some(false), Some("2026-01-01T01:01:01Z"), Some("2026-01-08T01:01:01Z")),
    (None, None, None, None, None, None, None, None, None, None),
    (Some(0), Some(0), Some(0.0), Some(-0.0), Some(""), Some(""), Some(false), Some(true), Some("1970-01-01T00:00:00Z"), Some("1970-01-01T00:00:00Z")),
    (Some(i64::MIN), Some(-1), Some(-2.5), Some(1e300), Some("  x "), Some(" "), Some(true), Some(true), Some("2024-02-29T23:59:59.999999Z"), Some("2024-03-01T00:00:00Z")),
    (Some(i64::MAX), Some(i64::MIN), Some(1e16), Some(-1e300), Some("a,b,c"), Some(","), Some(false), Some(false), Some("1969-12-31T23:59:59.500Z"), Some("2026-03-31T12:00:00Z")),
    (Some(-7), Some(3), Some(3.5e-7), Some(3.0), Some("Z%_\\'\"z"), Some("%"), None, Some(true), Some("2100-02-28T12:30:45.123456Z"), Some("2024-01-31T00:00:00Z")),
    (Some(1), Some(-3), Some(0.1), Some(0.2), Some("abcabc"), Some("bc"), Some(true), None, Some("1999-12-31T23:59:59.999Z"), Some("2000-01-01T00:00:00Z")),
    (Some(12), Some(31), Some(-0.5), Some(2.345), Some("日本語🎉é"), Some("🎉"), None, Some(false), Some("1905-07-16T06:00:00Z"), Some("2023-12-31T00:00:00.000001Z")),
    (Some(2026), Some(29), Some(f64::NAN), Some(f64::INFINITY), Some("xxaxyx"), Some("xy"), Some(false), None, Some("2027-01-03T12:00:00Z"), None),
    (Some(i64::MIN + 1), Some(i64::MAX), Some(f64::NEG_INFINITY), Some(1e-300), Some("line\none"), Some("\n"), Some(true), Some(true), Some("2020-12-31T00:00:00Z"), Some("2021-01-01T00:00:00Z")),
    (Some(9_007_199_254_740_993), Some(1), Some(1e22), Some(123_456_789.125), Some("İSTANBUL ß ς Σ"), Some("ß"), Some(true), Some(false), Some("2026-06-15T08:09:10.010Z"), Some("2026-06-15T08:09:10.01Z")),
    (Some(4), Some(2), Some(1.2e-6), Some(1.5), Some("12"), Some("a"), None, None, Some("2023-01-01T00:00:00Z"), Some("2022-01-01T00:00:00Z")),
    (Some(5), Some(4), Some(-1.23e17), Some(-1.5), Some("+5"), Some("A"), None, None, Some("2016-02-29T00:00:00Z"), Some("2015-02-28T00:00:00Z")),
    (Some(6), Some(-4), Some(1e15), Some(1e-5), Some(" 12"), Some("é"), None, None, Some("2026-03-29T01:30:00Z"), Some("2026-10-25T01:30:00Z")),
    (Some(-1), Some(7), Some(9.3e18), Some(-9.3e18), Some("1e5"), Some("x"), None, None, None, Some("2026-01-01T00:00:00Z")),
    (None, Some(5), Some(0.49999999999999994), None, Some("-.5"), None, Some(true), None, None, None),
    (Some(3), None, None, Some(4503599627370497.5), Some("5."), Some("."), None, Some(true), None, None),
    (None, None, Some(1e308), Some(1e308), Some("inf"), None, Some(false), None, None, None),
    (None, None, Some(100.0), Some(7.0), Some("0x1F"), None, None, Some(false), None, None),
    (None, None, Some(1e21), Some(1e-7), Some("TRUE"), None, None, None, None, None),
    (None, None, Some(999999999999999.9), Some(1e-6), Some("Off"), None, None, None, None, None),
    (None, None, None, None, Some("9223372036854775808"), None, None, None, None, None),
    (None, None, None, None, Some("-9223372036854775808"), None, None, None, None, None),
    (None, None, None, None, Some("2026-02-30"), None, None, None, None, None),
    (None, None, None, None, Some("2024-02-29"), None, None, None, None, None),
    (None, None, None, None, Some("2026-01-31 10:30"), None, None, None, None, None),
    (None, None, None, None, Some("2026-01-31T10:30:15.123456789Z"), None, None, None, None, None),
    (None, None, None, None, Some("2026-01-31 10:30:15+02:00"), None, None, None, None, None),
    (None, None, None, None, Some("2026-01-31T25:00:00Z"), None, None, None, None, None),
    (None, None, None, None, Some("31.01.2026 10:30"), None, None, None, None, None),
    (None, None, None, None, Some("1.2.2026 3:04"), None, None, None, None, None),
    (None, None, None, None, Some("31.02.2026 10:30"), None, None, None, None, None),
    (None, None, None, None, Some("1767229261"), None, None, None, None, None),
    (None, None, None, None, Some("1.2.26 3:04"), None, None, None, None, None),
    (None, None, None, None, Some("31.01.202610:30"), None, None, None, None, None),
    (None, None, None, None, Some(" 1. 2.2026  3:4"), None, None, None, None, None),
    (None, None, None, None, Some("31.01.2026 10:30 "), None, None, None, None, None),
    (None, None, None, None, Some("31.01.2026 10:60"), None, None, None, None, None),
    (None, None, None, None, Some("31.01.2026 24:00"), None, None, None, None, None),
    (None, None, None, None, Some("0.1.2026 1:1"), None, None, None, None, None),
    (None, None, None, None, Some("2026-01-31 10:30:15+0200"), None, None, None, None, None),
    (None, None, None, None, Some("2026-01-31 10:30:15 -05:30"), None, None, None, None, None),
    (None, None, None, None, Some("0001-01-01T00:00:00Z"), None, None, None, None, None),
    (None, None, None, None, Some("9999-12-31T23:59:59.999999Z"), None, None, None, None, None),
    (None, None, None, None, Some("2026-06-30T23:59:60Z"), None, None, None, None, None),
    (None, None, None, None, Some("12\t"), None, None, None, None, None),
    (None, None, None, None, Some("١٢"), None, None, None, None, None),
    (None, None, None, None, Some("1e400"), None, None, None, None, None),
    (None, None, None, None, Some("-0"), None, None, None, None, None),
    (None, None, None, None, Some("00012"), None, None, None, None, None),
    (None, None, None, None, Some("nan"), None, None, None, None, None),
    (None, None, None, None, Some("2026-1-5"), None, None, None, None, None),
    (None, None, None, None, Some("x*\u{301}e"), None, None, None, None, None),
    (Some(8), Some(12), None, None, None, Some("%b%"), None, None, Some("0005-03-01T00:00:00.000001Z"), Some("9990-12-31T23:59:59.999999Z")),
    (Some(9), Some(11), None, None, Some("abb"), Some("a_b"), None, None, Some("1850-07-31T12:00:00Z"), Some("2300-01-31T00:00:00Z")),
    (Some(10), Some(0), None, None, Some("50%"), Some("50\\%"), None, None, Some("0004-02-29T00:00:00Z"), Some("9990-02-28T00:00:00Z")),
];

/// The time of the rows.
const NOW: &str = "2026-01-15T01:01:01Z";

#[rustfmt::skip]
pub const EQUAL: &[&str] = &[
    // names, literals
    "l", "d", "t", "b", "at", "NULL", "NULL IS NULL", "7", "-9223372036854775808", "2.5e-7", "1e300", "'it''s \\ ü'", "true", "DATE '2024-02-29'", "TIMESTAMP '2026-01-01T10:00:00.000001Z'",
    // comparisons, nulls
    "l = m", "l <> m", "l < m", "l <= m", "l > m", "l >= m", "d = e", "d <> e", "d < e", "d <= e", "d > e", "d >= e", "t = u", "t <> u", "t < u", "t <= u", "t > u", "t >= u",
    "b = c", "b <> c", "at = until", "at <> until", "at < until", "at <= until", "at > until", "at >= until", "at >= '2024-02-29'", "l < d", "l = 7.0", "e = 0", "e < 0", "0 - d = 0",
    "l IS NULL", "l IS NOT NULL", "b IS TRUE", "b IS NOT TRUE", "b IS FALSE", "b IS NOT FALSE", "b IS UNKNOWN", "b IS NOT UNKNOWN", "(l > m) IS TRUE", "(l > m) IS NOT FALSE",
    "l IS DISTINCT FROM m", "l IS NOT DISTINCT FROM m", "t IS DISTINCT FROM u", "d IS NOT DISTINCT FROM e", "b IS DISTINCT FROM NULL", "at IS NOT DISTINCT FROM until",
    "b AND c", "b OR c", "NOT b", "NOT (b AND l > m)", "b AND NULL", "b OR NULL", "NULL OR c", "NOT NULL", "l > m AND d > e OR t > u",
    "l IN (7, 0, -7)", "l NOT IN (7, 0)", "l IN (7, NULL)", "l NOT IN (7, NULL)", "l IN (NULL)", "l IN (m, 7)", "l IN (m, NULL)", "l NOT IN (m, 12, NULL)", "t IN ('12', '', u)", "t IN ('Grüße 7')", "d IN (2.5, 0)", "d IN (l, e)",
    "at IN ('2024-02-29T23:59:59.999999Z', DATE '1970-01-01')", "b IN (true)", "b IN (c, NULL)",
    "l BETWEEN 0 AND m", "l NOT BETWEEN 0 AND m", "l BETWEEN m AND NULL", "d BETWEEN -1 AND 2.5", "t BETWEEN 'a' AND 'b'", "at BETWEEN '1970-01-01' AND until", "at NOT BETWEEN until AND '2026-01-01'",
    "t LIKE '%a%'", "t LIKE 'Gr__e%'", "t LIKE ''", "t LIKE '%'", "t LIKE 'Z\\%\\_\\\\''%'", "t LIKE '%\\z'", "t LIKE 'line_one'", "t LIKE '%e%o%'", "t NOT LIKE '%x%'", "t LIKE '日本%🎉_'", "t LIKE 'a\\bcabc'", "t ILIKE 'gRÜ%'", "t NOT ILIKE '%X%'", "t ILIKE '%É'", "t LIKE NULL", "t LIKE u", "t NOT LIKE concat('%', u, '%')", "t ILIKE u",
    "CASE WHEN b THEN 'yes' WHEN NOT b THEN 'no' ELSE 'unknown' END", "CASE WHEN b THEN l END", "CASE l WHEN 7 THEN 'seven' WHEN NULL THEN 'null' WHEN m THEN 'm' ELSE 'other' END", "CASE WHEN l > 0 THEN l ELSE d END", "CASE WHEN NULL THEN 1 ELSE 2 END", "CASE WHEN b THEN at END", "CASE WHEN b THEN t END", "CASE WHEN b THEN c END", "CASE WHEN b THEN d END", "at = NULL", "d <> NULL", "b = NULL", "t < NULL", "coalesce(NULL, until)", "at IN (NULL, until)",
    // arithmetic
    "l + m", "l - m", "l * m", "l / m", "l % m", "-l", "+l", "l + 1", "l * 2", "l - 9223372036854775807", "l % 4", "l % -1", "l % 0", "l / 0", "l / 2", "7 / 2", "-7 % 3", "l + d",
    "d + e", "d - e", "d * e", "d / e", "-d", "d % 2", "d % 0", "d / 0", "d * 1e300", "d + 1e308", "e * 0", "l + m * 2 - div(l, 3)", "l / m * d", "d / e / d / e",
    "div(l, m)", "div(l, 2)", "div(l, -1)", "div(l, 0)", "div(-7, 2)", "abs(l)", "abs(d)", "ceil(l)", "ceil(d)", "floor(d)", "floor(l)", "ceil(e)", "round(d)", "round(e)", "round(l)", "round(d, 2)", "round(e, 2)", "round(e, -2)", "round(d, -1)", "round(d, 3)", "round(l, -1)", "round(d, 0)", "round(e, 15)", "round(d, 15)",
    "sqrt(d)", "sqrt(l)", "sqrt(e)", "power(d, 2)", "pow(2, m)", "exp(l)", "ln(1)", "log10(100)",
    "least(l, m)", "greatest(l, m)", "least(l, d)", "greatest(d, e, 0)", "least(t, u)", "greatest(t, u, 'm')", "greatest(at, until)", "least(at, '2020-01-01')", "least(l, NULL)", "greatest(b, c)", "least(100, 10 * l + d / 10)", "greatest(NULL, NULL)",
    "coalesce(l, m)", "coalesce(l, m, 0)", "coalesce(l, d)", "coalesce(t, u, 'none')", "coalesce(at, until)", "coalesce(b, c, false)", "coalesce(coalesce(l, m), coalesce(m, l), 3)", "coalesce(l)", "coalesce(NULL, t)", "nullif(l, m)", "nullif(t, u)", "nullif(d, e)", "nullif(l, 7)", "nullif(at, until)", "nullif(b, c)", "nullif(t, '')",
    // casts
    "CAST(t AS bigint)", "CAST(t AS double)", "CAST(t AS boolean)", "CAST(t AS timestamp)", "CAST(t AS date)", "CAST(t AS varchar)", "CAST(l AS double)", "CAST(l AS varchar)", "CAST(l AS boolean)", "CAST(d AS bigint)", "CAST(e AS bigint)", "CAST(d AS varchar)", "CAST(e AS varchar)", "CAST(d AS boolean)",
    "CAST(b AS bigint)", "CAST(b AS double)", "CAST(b AS varchar)", "CAST(l > m AS varchar)", "CAST(l > m AS bigint)", "CAST(at AS varchar)", "CAST(at AS date)", "CAST(until AS varchar)", "TRY_CAST(t AS double)", "t::bigint + 1", "CAST(CAST(d AS varchar) AS double)",
    // texts
    "t || u", "t || l", "t || b", "t || NULL", "l || '/' || m", "concat(t, u)", "concat(t, NULL, l, b)", "concat(u)", "lower(t)", "upper(t)", "upper('straße')", "length(t)", "char_length(t)", "character_length(u)", "reverse(t)",
    "trim(t)", "btrim(t)", "ltrim(t)", "rtrim(t)", "trim(t, 'x ')", "btrim(t, u)", "ltrim(t, 'xa')", "rtrim(t, 'éx')", "rtrim(t, u)", "trim(BOTH 'x' FROM t)", "trim(LEADING u FROM t)", "trim(t, '')",
    "substr(t, 2)", "substr(t, 2, 3)", "substr(t, 0, 3)", "substr(t, -1, 4)", "substr(t, 1, 0)", "substr(t, 3, -1)", "substr(t, m)", "substr(t, l, m)", "substring(t FROM 2 FOR m)", "substring(t, 1, 9223372036854775807)", "substr(t, m, 2)",
    "replace(t, u, '-')", "replace(t, 'a', u)", "replace(t, '', '-')", "replace(t, 'bc', '')", "split_part(t, ',', 2)", "split_part(t, u, 1)", "split_part(t, ',', -1)", "split_part(t, ',', 9)", "split_part(t, ',', 0)", "split_part(t, 'b', m)", "split_part(t, '', 1)", "split_part(t, '', 2)",
    "starts_with(t, 'Gr')", "starts_with(t, u)", "ends_with(t, u)", "ends_with(t, 'é')", "contains(t, u)", "contains(t, '')", "strpos(t, u)", "strpos(t, '🎉')", "position('b' IN t)", "strpos(t, '')", "strpos('', t)",
    "left(t, 2)", "left(t, 0)", "left(t, -2)", "left(t, m)", "right(t, 3)", "right(t, 0)", "right(t, -2)", "right(t, m)", "lpad(t, 10, 'ü')", "lpad(t, 3, '0')", "lpad(t, 12)", "lpad(t, 5, '')", "lpad(t, 8, u)", "rpad(t, 10, 'xy')", "rpad(t, 2)", "rpad(t, 8, u)", "lpad(t, 0, 'x')", "rpad(t, -1, 'x')",
    "regexp_like(t, '^Gr')", "regexp_like(t, 'ABC', 'i')", "regexp_like(t, '.e.o')", "regexp_like(t, '.e.o', 's')", "regexp_like(t, '^one', 'm')", "regexp_like(t, '')", "regexp_like(t, 'é$')", "regexp_like(t, 'grüsse|GRÜ', 'i')", "regexp_replace(t, 'b', '-')", "regexp_replace(t, 'B', '-', 'gi')", "regexp_replace(t, '(\\w)b(\\w)', '\\2$\\1', 'g')",
    "regexp_replace(t, '[,x]+', '', 'g')", "regexp_replace(t, 'x', '\\0\\0', 'g')", "regexp_like(t, '^[0-9]+$')", "regexp_like(t, '\\bone\\b')", "regexp_replace(t, 'x', 'a\\\\b')", "regexp_replace(t, '^', '>')", "regexp_replace(t, '$', '<', 'g')", "regexp_like(t, '(?i)GRÜ')", "regexp_like(t, 'a.?b|^$', 'is')",
    // times
    "at + INTERVAL '1 day'", "at - INTERVAL '1 month'", "until + INTERVAL '1 month'", "at + INTERVAL '1 year 2 months 3 days 4 hours'", "until - INTERVAL '13 months 1 microsecond'", "INTERVAL '90 seconds' + at", "at - INTERVAL '1500 nanoseconds'", "at + INTERVAL '1500 nanoseconds'", "at - INTERVAL '-1 day'",
    "date_trunc('year', at)", "date_trunc('quarter', at)", "date_trunc('month', at)", "date_trunc('week', at)", "date_trunc('day', at)", "date_trunc('hour', at)", "date_trunc('minute', at)", "date_trunc('second', at)", "date_trunc('week', until)", "date_trunc('quarter', until)",
    "date_part('year', at)", "date_part('quarter', at)", "date_part('month', at)", "date_part('week', at)", "date_part('day', at)", "date_part('hour', at)", "date_part('minute', at)", "date_part('second', at)", "date_part('dow', at)", "date_part('isodow', at)", "date_part('doy', at)", "date_part('epoch', at)", "extract(week FROM until)", "extract(dow FROM until)", "date_part('epoch', until) - date_part('epoch', at)",
    "make_date(2026, m, 28)", "make_date(2024, 2, m)", "make_date(l, 2, 28)", "make_date(l, m, m)", "make_date(1969, 12, 31)", "make_date(2023, 2, 29)", "make_date(2000, 2, 29)",
    "to_timestamp(t)", "to_timestamp(at)", "to_timestamp(m)", "to_timestamp(d)", "to_timestamp(t, '%d.%m.%Y %H:%M')", "to_timestamp(t, '%Y-%m-%d', '%d.%m.%Y %H:%M')", "to_timestamp(t, '%Y-%m-%d %H:%M:%S%z')", "to_date(t)", "to_date(at)", "to_date(t, '%F')", "to_date(t, '%d.%m.%Y %H:%M')", "from_unixtime(m)", "from_unixtime(1.5)", "from_unixtime(e * 0.001)", "to_timestamp_seconds(m)", "to_timestamp_millis(m)", "to_timestamp_micros(m)", "to_timestamp_millis(1767229261123)", "to_timestamp_seconds(CAST(t AS bigint))",
    // now(), segments, dotted names
    "at < now()", "until <= now() - INTERVAL '7 days'", "now() - INTERVAL '1 month' > at", "until BETWEEN now() - INTERVAL '7 days' AND now()", "has_been('vip', INTERVAL '7 days')", "NOT has_been('vip', INTERVAL '1 year')", "in_segment('vip')", "NOT in_segment('vip') AND checkout.level > 3",
];

/// Equal but for the last digits.
const NEAR: &[&str] = &["exp(d)", "ln(d)", "ln(l)", "log10(e)", "log10(l)", "power(e, 0.5)", "pow(l, 2)"];

/// What is not equal, and why.
#[rustfmt::skip]
const DIFFERENT: &[(&str, Dialect, &str)] = &[
    ("d % e", Dialect::ClickHouse, "the rest of doubles is not exact where the quotient is large"),
    ("power(d, e)", Dialect::ClickHouse, "what is too small for a double is not zero"),
    ("regexp_like('٣', '^\\d$')", Dialect::ClickHouse, "\\d, \\w, \\s and \\b know ASCII only"),
    ("to_timestamp(t, '%d %b %Y')", Dialect::ClickHouse, "only the letters Y m d H M S F T z are translated"),
    ("to_timestamp(t, '%d %b %Y')", Dialect::DataFusion, "a text that does not fit is an error"),
    ("make_date(9999, 12, 31) + INTERVAL '1 day'", Dialect::ClickHouse, "there are no times outside of the years 1 to 9999"),
    ("at + INTERVAL '300000 years'", Dialect::DataFusion, "a time that cannot be held is an error"),
    ("regexp_replace(t, 'x*', '-', 'g')", Dialect::ClickHouse, "what finds nothing is found within letters"),
];

struct Rows {
    batch: RecordBatch,
    scope: ColumnScope,
    /// A table expression of ClickHouse with the same rows.
    values: String,
}

fn us(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

fn rows() -> Rows {
    let times =
        |values: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
    let time = |of: fn(&Row) -> Option<&'static str>| times(ROWS.iter().map(|row| of(row).map(us)).collect());
    let long = |of: fn(&Row) -> Option<i64>| Arc::new(ROWS.iter().map(of).collect::<Int64Array>()) as ArrayRef;
    let double = |of: fn(&Row) -> Option<f64>| Arc::new(ROWS.iter().map(of).collect::<Float64Array>()) as ArrayRef;
    let text =
        |of: fn(&Row) -> Option<&'static str>| Arc::new(ROWS.iter().map(of).collect::<StringArray>()) as ArrayRef;
    let boolean = |of: fn(&Row) -> Option<bool>| Arc::new(ROWS.iter().map(of).collect::<BooleanArray>()) as ArrayRef;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("l", long(|row| row.0)),
        ("m", long(|row| row.1)),
        ("d", double(|row| row.2)),
        ("e", double(|row| row.3)),
        ("t", text(|row| row.4)),
        ("u", text(|row| row.5)),
        ("b", boolean(|row| row.6)),
        ("c", boolean(|row| row.7)),
        ("at", time(|row| row.8)),
        ("until", time(|row| row.9)),
        (NOW_COLUMN, times(vec![Some(us(NOW)); ROWS.len()])),
        ("in_segment:vip", boolean(|row| Some(row.9.is_some()))),
        ("member_since:vip", time(|row| row.9)),
        ("checkout.level", long(|row| row.1)),
        ("row", Arc::new((0..ROWS.len() as i64).collect::<Int64Array>())),
    ];
    let mut scope = ColumnScope::new().with_now();
    for (name, values) in &columns {
        let resolved = Resolved { column: name.to_string(), data_type: values.data_type().clone(), nested: Vec::new() };
        match *name {
            "in_segment:vip" => scope.add(&["in_segment", "vip"], resolved),
            "member_since:vip" => scope.add(&["has_been", "vip"], resolved),
            name => scope.add_column(name, resolved.data_type),
        }
    }
    let literals: Vec<String> = (0..ROWS.len())
        .map(|row| {
            format!("({})", columns.iter().map(|(_, values)| literal(values, row)).collect::<Vec<_>>().join(", "))
        })
        .collect();
    let names: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(index, (name, _))| format!("tupleElement(r, {}) AS `{name}`", index + 1))
        .collect();
    let values = format!("(SELECT {} FROM (SELECT arrayJoin([{}]) AS r))", names.join(", "), literals.join(", "));
    let columns = columns.into_iter().map(|(name, values)| (name, values, true));
    Rows { batch: RecordBatch::try_from_iter_with_nullable(columns).unwrap(), scope, values }
}

/// A value as a literal of ClickHouse, with its type.
fn literal(values: &ArrayRef, row: usize) -> String {
    let (plain, name) = match values.data_type() {
        DataType::Int64 => (format!("'{}'", values.as_primitive::<Int64Type>().value(row)), "Int64"),
        DataType::Float64 => {
            (format!("{:?}", values.as_primitive::<Float64Type>().value(row)).replace("NaN", "nan"), "Float64")
        }
        DataType::Utf8 => (format!("unhex('{}')", hex(values.as_string::<i32>().value(row))), "String"),
        DataType::Boolean => (values.as_boolean().value(row).to_string(), "Bool"),
        _ => (
            format!(
                "fromUnixTimestamp64Micro(toInt64({}), 'UTC')",
                values.as_primitive::<TimestampMicrosecondType>().value(row)
            ),
            "DateTime64(6, \\'UTC\\')",
        ),
    };
    let plain = if values.is_null(row) { "NULL".to_string() } else { plain };
    format!("CAST({plain} AS Nullable({name}))").replace("\\'", "'")
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02X}")).collect()
}

/// One cell per row: longs and times as digits, doubles by their bits, texts in hex, booleans 1 and 0, `\N` for null.
fn cells(values: &ArrayRef) -> Vec<String> {
    let cell = |row: usize| match values.data_type() {
        _ if values.is_null(row) => "\\N".to_string(),
        DataType::Int64 => values.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => values.as_primitive::<Float64Type>().value(row).to_bits().to_string(),
        DataType::Utf8 => hex(values.as_string::<i32>().value(row)),
        DataType::Utf8View => hex(values.as_string_view().value(row)),
        DataType::Boolean => u8::from(values.as_boolean().value(row)).to_string(),
        DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(_)) => {
            values.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        other => panic!("no value of an expression is {other}"),
    };
    (0..values.len()).map(cell).collect()
}

/// The same cells, made by ClickHouse.
fn clickhouse_cell(sql: &str, data_type: &DataType) -> String {
    match data_type {
        DataType::Int64 => format!("toString({sql})"),
        DataType::Float64 => format!("toString(reinterpretAsUInt64(CAST({sql} AS Nullable(Float64))))"),
        DataType::Utf8 => format!("hex({sql})"),
        DataType::Boolean => format!("toString(toUInt8({sql}))"),
        _ => format!("toString(toUnixTimestamp64Micro({sql}))"),
    }
}

fn quoted(resolved: &Resolved, quote: char) -> String {
    format!("{quote}{}{quote}", resolved.column)
}

type Column = Result<Vec<String>, String>;

/// All columns by one question; where that fails, each by one of its own.
fn columns(sqls: &[String], ask: &dyn Fn(&[String]) -> Result<Vec<Vec<String>>, String>) -> Vec<Column> {
    if let Ok(columns) = ask(sqls) {
        return columns.into_iter().map(Ok).collect();
    }
    match sqls {
        [one] => vec![ask(std::slice::from_ref(one)).map(|mut columns| columns.remove(0))],
        many => {
            let (first, second) = many.split_at(many.len() / 2);
            [columns(first, ask), columns(second, ask)].concat()
        }
    }
}

fn in_datafusion(rows: &Rows, expressions: &[Expression]) -> Vec<Column> {
    let sqls: Vec<String> = expressions
        .iter()
        .map(|expression| expression.to_sql(Dialect::DataFusion, &|name| quoted(name, '"')))
        .collect();
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let context = SessionContext::new_with_config(config);
    context.register_batch("rows", rows.batch.clone()).unwrap();
    columns(&sqls, &|sqls| {
        let list: Vec<String> = sqls.iter().enumerate().map(|(index, sql)| format!("{sql} AS c{index}")).collect();
        let sql = format!("SELECT {} FROM rows ORDER BY row", list.join(", "));
        let context = context.clone();
        block_on(async move {
            let batches = context.sql(&sql).await.map_err(|error| error.to_string())?.collect().await;
            let batches = batches.map_err(|error| error.to_string())?;
            let batch = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
            Ok(batch.columns().iter().map(cells).collect())
        })
    })
}

fn in_clickhouse(rows: &Rows, expressions: &[Expression]) -> Vec<Column> {
    let sqls: Vec<String> = expressions
        .iter()
        .map(|expression| {
            let sql = expression.to_sql(Dialect::ClickHouse, &|name| quoted(name, '`'));
            clickhouse_cell(&sql, &expression.data_type)
        })
        .collect();
    columns(&sqls, &|sqls| {
        let sql = format!("SELECT {} FROM {} ORDER BY row FORMAT TSV", sqls.join(", "), rows.values);
        let text = ask_clickhouse(sql)?;
        let mut columns = vec![Vec::new(); sqls.len()];
        for line in text.lines() {
            line.split('\t').zip(&mut columns).for_each(|(cell, column)| column.push(cell.to_string()));
        }
        Ok(columns)
    })
}

fn ask_clickhouse(sql: String) -> Result<String, String> {
    let url = format!(
        "{}/?max_query_size=100000000&max_ast_elements=10000000&max_expanded_ast_elements=10000000",
        servers().clickhouse
    );
    block_on(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.post(url).body(sql).send().await.unwrap();
        let is_good = response.status().is_success();
        let text = response.text().await.unwrap();
        if is_good { Ok(text) } else { Err(text) }
    })
}

fn compile(rows: &Rows, sqls: &[&str]) -> (Vec<Expression>, Vec<Vec<String>>) {
    let expressions: Vec<Expression> = sqls
        .iter()
        .map(|sql| Expression::compile(sql, &rows.scope).unwrap_or_else(|error| panic!("{sql}: {error:?}")))
        .collect();
    let stream =
        |expression: &Expression| cells(&expression.bind(&rows.batch.schema()).unwrap().evaluate(&rows.batch).unwrap());
    let stream = expressions.iter().map(stream).collect();
    (expressions, stream)
}

/// Doubles by their bits, apart by a few units of the last place; any other cell to the letter.
fn is_near(a: &str, b: &str) -> bool {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.abs_diff(b) <= 8,
        _ => a == b,
    }
}

/// Whether the columns are equal; if not, where they are not first.
fn difference(stream: &[String], other: &Column, is_equal: fn(&str, &str) -> bool) -> Option<String> {
    match other {
        Err(error) => Some(error.lines().next().unwrap_or_default().chars().take(400).collect()),
        Ok(other) => {
            let apart: Vec<String> = stream
                .iter()
                .zip(other)
                .enumerate()
                .filter(|(_, (a, b))| !is_equal(a, b))
                .map(|(row, (a, b))| format!("{a} and {b} for {:?}", ROWS[row]))
                .collect();
            let count = apart.len();
            (stream.len() != other.len() || count > 0)
                .then(|| format!("{count} rows, such as {}", apart.into_iter().take(2).collect::<Vec<_>>().join("; ")))
        }
    }
}

#[test]
fn section_11_every_expression_has_one_value_in_the_stream_and_both_engines() {
    let rows = rows();
    let mut wrong = Vec::new();
    for (sqls, is_equal) in [(EQUAL, (|a: &str, b: &str| a == b) as fn(&str, &str) -> bool), (NEAR, is_near)] {
        let (expressions, stream) = compile(&rows, sqls);
        for (engine, answers) in
            [("DataFusion", in_datafusion(&rows, &expressions)), ("ClickHouse", in_clickhouse(&rows, &expressions))]
        {
            for ((sql, stream), answer) in sqls.iter().zip(&stream).zip(&answers) {
                let dialect = if engine == "DataFusion" { Dialect::DataFusion } else { Dialect::ClickHouse };
                if DIFFERENT.iter().any(|(other, where_, _)| other == sql && *where_ == dialect) {
                    continue;
                }
                wrong.extend(difference(stream, answer, is_equal).map(|what| format!("{engine}: {sql}: {what}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Any two of the list joined by an operator, and so on: what holds for each holds for what they are parts of.
#[test]
fn section_11_expressions_of_expressions_have_one_value_too() {
    let seed = std::env::var("EXPRESSION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    println!("EXPRESSION_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let rows = rows();
    let mut pool: Vec<(String, DataType)> =
        EQUAL.iter().map(|sql| (sql.to_string(), Expression::compile(sql, &rows.scope).unwrap().data_type)).collect();
    let mut sqls = Vec::new();
    while sqls.len() < 400 {
        let (a, kind) = pool[random.usize(..pool.len())].clone();
        let same: Vec<&(String, DataType)> = pool.iter().filter(|(_, other)| *other == kind).collect();
        let b = &same[random.usize(..same.len())].0;
        let c = &same[random.usize(..same.len())].0;
        let comparison = ["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"][random.usize(..7)];
        let sql = match (&kind, random.usize(..4)) {
            (_, 0) => format!("({a}) {comparison} ({b})"),
            (_, 1) => format!("CASE WHEN ({a}) = ({b}) THEN ({b}) ELSE ({c}) END"),
            (_, 2) => format!("coalesce(nullif({a}, {b}), {c})"),
            (DataType::Boolean, _) => format!("NOT ({a}) AND ({b}) OR ({c})"),
            (DataType::Int64, _) => format!("({a}) {} ({b})", ["+", "-", "*", "/", "%"][random.usize(..5)]),
            (DataType::Float64, _) => format!("({a}) {} ({b})", ["+", "-", "*", "/"][random.usize(..4)]),
            (DataType::Utf8, _) => format!("concat({a}, {b}) || upper({c})"),
            _ => format!("({a}) IN ({b}, {c})"),
        };
        if let Ok(expression) = Expression::compile(&sql, &rows.scope) {
            pool.push((sql.clone(), expression.data_type));
            sqls.push(sql);
        }
    }
    let sqls: Vec<&str> = sqls.iter().map(String::as_str).collect();
    let (expressions, stream) = compile(&rows, &sqls);
    let mut wrong = Vec::new();
    for (engine, answers) in
        [("DataFusion", in_datafusion(&rows, &expressions)), ("ClickHouse", in_clickhouse(&rows, &expressions))]
    {
        for ((sql, stream), answer) in sqls.iter().zip(&stream).zip(&answers) {
            wrong.extend(difference(stream, answer, |a, b| a == b).map(|what| format!("{engine}: {sql}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_said_to_differ_does() {
    let rows = rows();
    for (sql, dialect, why) in DIFFERENT {
        let (expressions, stream) = compile(&rows, &[sql]);
        let answers = match dialect {
            Dialect::DataFusion => in_datafusion(&rows, &expressions),
            Dialect::ClickHouse => in_clickhouse(&rows, &expressions),
        };
        assert!(difference(&stream[0], &answers[0], |a, b| a == b).is_some(), "{sql} is equal now, though {why}");
    }
}

#[test]
fn every_function_of_the_allow_list_is_compared() {
    let error = Expression::compile("qqqqqqqqqqqq(1)", &ColumnScope::new()).unwrap_err();
    let help = error.help.unwrap();
    let names = help.strip_prefix("functions are ").unwrap_or_else(|| panic!("{help}"));
    let missing: Vec<&str> = names
        .split(", ")
        .filter(|name| {
            let call = format!("{name}(");
            !EQUAL.iter().chain(NEAR).any(|sql| sql.contains(&call))
        })
        .collect();
    assert!(missing.is_empty(), "not compared: {missing:?}");
}
