//! DataFusion's own functions are the ones that the stream calls; where they fail for a row, the row is kept from them.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::super::total::{EARLIEST_US, LATEST_US, Operation};
use super::{CUT, CUT_PARTS, Rendered, TimeFormat, is_timestamp, joined};

const TIMESTAMP: &str = "'Timestamp(Microsecond, Some(\"UTC\"))'";
const LEAST: &str = "CAST('-9223372036854775808' AS BIGINT)";

pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(super) fn literal(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Boolean(Some(value)) => value.to_string(),
        ScalarValue::Utf8(Some(value)) => text(value),
        ScalarValue::Int64(Some(i64::MIN)) => LEAST.into(),
        ScalarValue::Int64(Some(value)) if *value < 0 => format!("({value})"),
        ScalarValue::Int64(Some(value)) => value.to_string(),
        ScalarValue::Int32(Some(value)) => format!("CAST({value} AS INT)"),
        ScalarValue::Float64(Some(value)) => format!("CAST('{value:?}' AS DOUBLE)"),
        ScalarValue::TimestampMicrosecond(Some(value), _) => format!("arrow_cast({}, {TIMESTAMP})", long(*value)),
        ScalarValue::IntervalMonthDayNano(Some(value)) => {
            format!("INTERVAL '{} months {} days {} nanoseconds'", value.months, value.days, value.nanoseconds)
        }
        null => match type_name(&null.data_type()) {
            Some(name) => format!("CAST(NULL AS {name})"),
            None => format!("arrow_cast(NULL, {TIMESTAMP})"),
        },
    }
}

fn long(value: i64) -> String {
    literal(&ScalarValue::Int64(Some(value)))
}

/// None: a timestamp, which has no name of its own in SQL.
fn type_name(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Boolean => Some("BOOLEAN"),
        DataType::Int64 => Some("BIGINT"),
        DataType::Int32 => Some("INT"),
        DataType::Float64 => Some("DOUBLE"),
        other if is_timestamp(other) => None,
        _ => Some("VARCHAR"),
    }
}

pub(super) fn cast(value: &Rendered, to: &DataType) -> String {
    match type_name(to) {
        Some(name) => format!("TRY_CAST({} AS {name})", value.sql),
        None => format!("arrow_try_cast({}, {TIMESTAMP})", value.sql),
    }
}

pub(super) fn call(operation: &Operation, arguments: &[Rendered]) -> String {
    let argument = |index: usize| arguments.get(index).map_or("NULL", |argument| argument.sql.as_str());
    let (a, b, c) = (argument(0), argument(1), argument(2));
    match operation {
        Operation::Finite => {
            // Any kind of NaN, of either sign, first becomes infinite.
            let (zero, infinite) = ("CAST(0 AS DOUBLE)", "CAST('inf' AS DOUBLE)");
            format!("(nullif(nullif(nanvl({a}, {infinite}), {infinite}), -{infinite}) + {zero})")
        }
        Operation::Epoch { unit_us } => {
            let unit_us = *unit_us;
            let us = if arguments.first().is_some_and(|argument| argument.data_type == DataType::Int64) {
                // The product may wrap around, so the factor is looked at.
                let (earliest, latest) = (EARLIEST_US.div_euclid(unit_us), LATEST_US.div_euclid(unit_us));
                format!("CASE WHEN {a} BETWEEN {} AND {latest} THEN {a} * {unit_us} END", long(earliest))
            } else {
                let us = format!("TRY_CAST(round({a} * CAST({unit_us} AS DOUBLE)) AS BIGINT)");
                format!("CASE WHEN {us} BETWEEN {} AND {LATEST_US} THEN {us} END", long(EARLIEST_US))
            };
            format!("arrow_cast({us}, {TIMESTAMP})")
        }
        Operation::RegexpLike { pattern } => format!("regexp_like({a}, {})", text(pattern)),
        Operation::RegexpReplace { pattern, replacement, all } => {
            let flags = if *all { ", 'g'" } else { "" };
            format!("regexp_replace({a}, {}, {}{flags})", text(pattern), text(replacement))
        }
        Operation::ReadTime { formats } => {
            let read = formats.iter().map(|format| match TimeFormat::of(format) {
                Some(TimeFormat { pattern, padded }) => {
                    let (pattern, padded) = (text(&pattern), text(&padded));
                    let parts = format!("regexp_replace({a}, {pattern}, {padded})");
                    let time = format!("regexp_replace({parts}, {}, {})", text(CUT), text(CUT_PARTS));
                    format!("CASE WHEN regexp_like({a}, {pattern}) THEN arrow_try_cast({time}, {TIMESTAMP}) END")
                }
                None => format!("arrow_cast(to_timestamp({a}, {}), {TIMESTAMP})", text(format)),
            });
            format!("coalesce({})", read.collect::<Vec<_>>().join(", "))
        }
        Operation::Named(name) => match name.as_str() {
            "timestamp +" => format!("({a} + {b})"),
            "timestamp -" => format!("({a} - {b})"),
            "%" => match arguments.get(1).and_then(Rendered::literal_long) {
                Some(-1) => format!("({a} * 0)"),
                Some(_) => format!("({a} % nullif({b}, 0))"),
                None => format!("CASE WHEN {b} = -1 THEN {a} * 0 ELSE {a} % nullif({b}, 0) END"),
            },
            "div" => match arguments.get(1).and_then(Rendered::literal_long) {
                Some(-1) => format!("(0 - {a})"),
                Some(_) => format!("({a} / nullif({b}, 0))"),
                None => format!("CASE WHEN {b} = -1 THEN 0 - {a} ELSE {a} / nullif({b}, 0) END"),
            },
            "abs" if arguments.first().is_some_and(|argument| argument.data_type == DataType::Int64) => {
                format!("abs(nullif({a}, {LEAST}))")
            }
            "substr" | "substring" => {
                let start = match arguments.get(1).and_then(Rendered::literal_long) {
                    Some(start) if start != i64::MIN => b.to_string(),
                    _ => format!("nullif({b}, {LEAST})"),
                };
                let length =
                    if arguments.len() == 3 { format!(", nullif(greatest({c}, -1), -1)") } else { String::new() };
                format!("substr({a}, {start}{length})")
            }
            "power" | "pow" => format!("CASE WHEN NOT ({a} = 0 AND {b} < 0) THEN power({a}, {b}) END"),
            "sqrt" => format!("CASE WHEN {a} >= 0 THEN sqrt({a}) END"),
            "split_part" => format!("split_part({a}, {b}, nullif({c}, 0))"),
            "date_trunc" => truncated(arguments.first().and_then(Rendered::literal_text).unwrap_or_default(), b),
            "date_part" if arguments.first().is_some_and(|part| part.literal_text() == Some("epoch")) => {
                format!("date_part('epoch', {b})")
            }
            "date_part" => format!("CAST(date_part({a}, {b}) AS BIGINT)"),
            "make_date" => {
                let days = format!(
                    "CASE WHEN {b} IN (4, 6, 9, 11) THEN 30 WHEN {b} <> 2 THEN 31 \
                     WHEN {a} % 4 = 0 AND ({a} % 100 <> 0 OR {a} % 400 = 0) THEN 29 ELSE 28 END"
                );
                let date = format!("make_date({a}, {b}, {c})");
                let is_date =
                    format!("{a} BETWEEN -262143 AND 262142 AND {b} BETWEEN 1 AND 12 AND {c} BETWEEN 1 AND ({days})");
                format!("arrow_cast(CASE WHEN {is_date} THEN {date} END, {TIMESTAMP})")
            }
            "length" | "char_length" | "character_length" | "strpos" => {
                format!("CAST({name}({}) AS BIGINT)", joined(arguments))
            }
            name => format!("{name}({})", joined(arguments)),
        },
    }
}

/// DataFusion's own `date_trunc` fails behind 2262, but for units up to a day and without a time zone.
fn truncated(unit: &str, time: &str) -> String {
    let day = |unit: &str| format!("date_trunc('{unit}', arrow_cast({time}, 'Timestamp(Microsecond, None)'))");
    let part = |part: &str| format!("CAST(date_part('{part}', {time}) AS BIGINT)");
    let start = match unit {
        "second" | "minute" | "hour" | "day" => day(unit),
        "week" => format!("arrow_cast({}, 'Int64') - ({} - 1) * 86400000000", day("day"), part("isodow")),
        "month" => format!("make_date({}, {}, 1)", part("year"), part("month")),
        "quarter" => format!("make_date({}, {} * 3 - 2, 1)", part("year"), part("quarter")),
        _ => format!("make_date({}, 1, 1)", part("year")),
    };
    format!("arrow_cast({start}, {TIMESTAMP})")
}
