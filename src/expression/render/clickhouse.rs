//! ClickHouse's SQL. A value that is used twice is bound by a lambda over an array of one element, so that texts grow
//! with the expression and not by powers; inside, `x` is the value, not null where [`bind`] is told so.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::super::total::{EARLIEST_US, LATEST_US, Operation};
use super::{CUT, CUT_PARTS, Rendered, TimeFormat, is_timestamp, joined};

pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(super) fn literal(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Boolean(Some(value)) => value.to_string(),
        ScalarValue::Utf8(Some(value)) => text(value),
        ScalarValue::Int64(Some(value)) => long(*value),
        ScalarValue::Int32(Some(value)) => long(i64::from(*value)),
        ScalarValue::Float64(Some(value)) => format!("toFloat64({value:?})"),
        ScalarValue::TimestampMicrosecond(Some(value), _) => time(&long(*value)),
        null => format!("CAST(NULL AS Nullable({}))", type_name(&null.data_type())),
    }
}

/// Plain numbers would be of the narrowest type, and calculate in it.
fn long(value: i64) -> String {
    format!("toInt64('{value}')")
}

fn time(us: &str) -> String {
    format!("fromUnixTimestamp64Micro({us}, 'UTC')")
}

fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "Bool",
        DataType::Int64 | DataType::Int32 => "Int64",
        DataType::Float64 => "Float64",
        other if is_timestamp(other) => "DateTime64(6, 'UTC')",
        _ => "String",
    }
}

/// `body` over `x`, which is one value and may be null.
fn bind_nullable(value: &str, body: &str) -> String {
    format!("arrayMap(x -> {body}, [{value}])[1]")
}

/// `body` over `x`, which is one value and not null; null where the value is.
fn bind(value: &str, body: &str) -> String {
    bind_nullable(value, &format!("if(isNull(x), NULL, arrayMap(x -> {body}, [assumeNotNull(x)])[1])"))
}

/// `body` over several values that are not null; null where one is.
fn bind_all(values: &[(&str, &str)], body: &str) -> String {
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let arrays: Vec<String> = values.iter().map(|(_, value)| format!("[{value}]")).collect();
    let nulls: Vec<String> = names.iter().map(|name| format!("isNull({name})")).collect();
    let certain: Vec<String> = names.iter().map(|name| format!("[assumeNotNull({name})]")).collect();
    let names = names.join(", ");
    format!(
        "arrayMap(({names}) -> if({}, NULL, arrayMap(({names}) -> {body}, {})[1]), {})[1]",
        nulls.join(" OR "),
        certain.join(", "),
        arrays.join(", ")
    )
}

pub(super) fn cast(value: &Rendered, to: &DataType) -> String {
    let sql = &value.sql;
    match (&value.data_type, to) {
        (from, to) if from == to => sql.clone(),
        // Narrow integers are the library's wish only.
        (DataType::Int64, DataType::Int32) => sql.clone(),
        (DataType::Boolean, DataType::Utf8) => format!("CAST(CAST({sql} AS Nullable(Bool)) AS Nullable(String))"),
        (DataType::Utf8, DataType::Boolean) => bind(
            sql,
            "multiIf(lower(trimBoth(x)) IN ('t', 'tr', 'tru', 'true', 'y', 'ye', 'yes', 'on', '1'), true, \
             lower(trimBoth(x)) IN ('f', 'fa', 'fal', 'fals', 'false', 'n', 'no', 'of', 'off', '0'), false, NULL)",
        ),
        (DataType::Utf8, DataType::Int64) => bind(
            sql,
            "if(match(x, '^[[:space:]]*[+-]?[0-9]+[[:space:]]*$'), \
             accurateCastOrNull(toInt256OrNull(replaceRegexpAll(x, '[[:space:]]', '')), 'Int64'), NULL)",
        ),
        (DataType::Utf8, DataType::Float64) => bind(
            sql,
            "if(match(x, '^[[:space:]]*[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?[[:space:]]*$'), \
             toFloat64OrNull(replaceRegexpAll(x, '[[:space:]]', '')), NULL)",
        ),
        (DataType::Utf8, to) if is_timestamp(to) => bind(sql, &read_time("x")),
        (DataType::Float64, DataType::Int64) => {
            bind(sql, "if(x >= -9223372036854775808. AND x < 9223372036854775808., toInt64(x), NULL)")
        }
        (DataType::Float64, DataType::Utf8) => bind(sql, DOUBLE_TEXT),
        (from, DataType::Utf8) if is_timestamp(from) => bind(sql, TIME_TEXT),
        (DataType::Int64 | DataType::Float64, DataType::Boolean) => format!("({sql} != 0)"),
        (DataType::Int64 | DataType::Boolean, DataType::Float64) => format!("toFloat64({sql})"),
        (_, to) => format!("accurateCastOrNull({sql}, {})", text(type_name(to))),
    }
}

/// As the stream writes them: `7.0`, `1e16`, `1.2e-6`; `toString` goes over to exponents elsewhere.
const DOUBLE_TEXT: &str = "concat(if(x < 0, '-', ''), arrayMap((a, s) -> multiIf(\
    a >= 1e16 AND a < 1e21, concat(replaceRegexpOne(replaceRegexpOne(s, '0+$', ''), '^(.)(.+)$', '\\\\1.\\\\2'), 'e', toString(length(s) - 1)), \
    a >= 1e-6 AND a < 1e-5, concat(replaceRegexpOne(substring(s, 8), '^0*(.)(.+)$', '\\\\1.\\\\2'), 'e-6'), \
    position(s, 'e') = 0 AND position(s, '.') = 0, concat(s, '.0'), s), [abs(x)], [toString(abs(x))])[1])";

/// As the stream writes them: `2026-01-01T01:01:01Z`, with three or six digits of the second where it has some.
const TIME_TEXT: &str = "arrayMap((s, us) -> concat(substring(s, 1, 10), 'T', substring(s, 12, 8), \
    multiIf(us = 0, '', us % 1000 = 0, substring(s, 20, 4), substring(s, 20, 7)), 'Z'), \
    [toString(x)], [positiveModulo(toUnixTimestamp64Micro(x), 1000000)])[1]";

/// A text (not null) as a timestamp: only what the stream reads, since the parser of ClickHouse guesses.
fn read_time(text: &str) -> String {
    let clock = "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)([.][0-9]+)?";
    let day = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
    let form = format!("^{day}([ T]{clock} ?(Z|[+-][0-9]{{2}}(:?[0-9]{{2}})?)?)?$");
    format!("if(match({text}, '{form}'), parseDateTime64BestEffortOrNull({text}, 6, 'UTC'), NULL)")
}

/// Sets know no null, so it is said beside them.
pub(super) fn in_list(value: &str, items: &[Rendered]) -> String {
    let is_null = |item: &&Rendered| item.literal.as_ref().is_some_and(ScalarValue::is_null);
    let literals: Vec<&str> =
        items.iter().filter(|item| item.literal.is_some() && !is_null(item)).map(|item| item.sql.as_str()).collect();
    let mut tests = Vec::new();
    if !literals.is_empty() {
        tests.push(format!("{value} IN ({})", literals.join(", ")));
    }
    tests.extend(items.iter().filter(|item| item.literal.is_none()).map(|item| format!("{value} = {}", item.sql)));
    if items.iter().any(|item| is_null(&item)) {
        tests.push("CAST(NULL AS Nullable(Bool))".into());
    }
    format!("({})", tests.join(" OR "))
}

/// A literal pattern with backslashes only where ClickHouse takes them; the stream's stands for any letter behind it.
pub(super) fn like_pattern(pattern: &Rendered) -> String {
    let Some(written) = pattern.literal_text() else { return pattern.sql.clone() };
    let mut out = String::with_capacity(written.len());
    let mut letters = written.chars();
    while let Some(letter) = letters.next() {
        let (letter, is_escaped) = match letter {
            '\\' => (letters.next().unwrap_or('\\'), true),
            other => (other, false),
        };
        if letter == '\\' || (is_escaped && matches!(letter, '%' | '_')) {
            out.push('\\');
        }
        out.push(letter);
    }
    text(&out)
}

/// Of doubles, which division by zero makes no number.
pub(super) fn remainder(a: &str, b: &str) -> String {
    format!("({a} % {b})")
}

/// ClickHouse's dot takes the end of a line, ours does not.
fn pattern(pattern: &str) -> String {
    text(&format!("(?-s){pattern}"))
}

/// `${1}` and `$$` as ClickHouse has it: `\1` and `$`.
fn replacement(dollars: &str) -> String {
    let mut out = String::with_capacity(dollars.len());
    let mut rest = dollars;
    while let Some(letter) = rest.chars().next() {
        let digit = rest.strip_prefix("${").and_then(|group| group.split_once('}'));
        if let Some((digit, behind)) = digit {
            out.push('\\');
            out.push_str(digit);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("$$") {
            out.push('$');
            rest = behind;
        } else {
            out.push_str(if letter == '\\' { "\\\\" } else { rest.get(..letter.len_utf8()).unwrap_or_default() });
            rest = rest.get(letter.len_utf8()..).unwrap_or_default();
        }
    }
    text(&out)
}

pub(super) fn call(operation: &Operation, arguments: &[Rendered]) -> String {
    let a = arguments.first().map_or("NULL", |argument| argument.sql.as_str());
    match operation {
        Operation::Finite => bind_nullable(a, "if(isFinite(x), x + 0., NULL)"),
        Operation::Epoch { unit_us } => {
            let is_long = arguments.first().is_some_and(|argument| argument.data_type == DataType::Int64);
            let us = if is_long {
                let (earliest, latest) = (EARLIEST_US.div_euclid(*unit_us), LATEST_US.div_euclid(*unit_us));
                format!("if(x BETWEEN {earliest} AND {latest}, x * {unit_us}, NULL)")
            } else {
                let us = bind_nullable(&format!("(x * {unit_us})"), ROUND);
                format!("arrayMap(x -> if(x BETWEEN {EARLIEST_US} AND {LATEST_US}, toInt64(x), NULL), [{us}])[1]")
            };
            time(&bind(a, &us))
        }
        Operation::RegexpLike { pattern: source } => format!("match({a}, {})", pattern(source)),
        Operation::RegexpReplace { pattern: source, replacement: by, all } => {
            let name = if *all { "replaceRegexpAll" } else { "replaceRegexpOne" };
            format!("{name}({a}, {}, {})", pattern(source), replacement(by))
        }
        Operation::ReadTime { formats } => {
            let read = formats.iter().map(|format| match TimeFormat::of(format) {
                Some(TimeFormat { pattern, padded }) => {
                    let (pattern, padded) = (text(&pattern), replacement(&padded));
                    let (cut, cut_parts) = (text(CUT), replacement(CUT_PARTS));
                    let parts = format!("replaceRegexpOne(x, {pattern}, {padded})");
                    let time = format!("replaceRegexpOne({parts}, {cut}, {cut_parts})");
                    bind(a, &format!("if(match(x, {pattern}), arrayMap(x -> {}, [{time}])[1], NULL)", read_time("x")))
                }
                // Wrong values would be worse than none.
                None => format!(
                    "{}",
                    format_args!(
                        "if(throwIf({a} IS NOT NULL, {}), NULL, {})",
                        text(&format!("to_timestamp with the format '{format}' cannot be written for ClickHouse")),
                        time("CAST(NULL AS Nullable(Int64))")
                    )
                ),
            });
            format!("coalesce({})", read.collect::<Vec<_>>().join(", "))
        }
        Operation::Named(name) => named(name, arguments),
    }
}

/// Half away from zero, as in the stream; ClickHouse's goes to the even one.
const ROUND: &str = "(trunc(x) + if(abs(x - trunc(x)) >= 0.5, sign(x), 0))";

fn named(name: &str, arguments: &[Rendered]) -> String {
    let argument = |index: usize| arguments.get(index).map_or("NULL", |argument| argument.sql.as_str());
    let (a, b, c) = (argument(0), argument(1), argument(2));
    let is_long = arguments.first().is_some_and(|argument| argument.data_type == DataType::Int64);
    let long_of = |index: usize| arguments.get(index).and_then(Rendered::literal_long);
    match name {
        "timestamp +" | "timestamp -" => add_interval(a, arguments.get(1), name == "timestamp +"),
        "%" => match long_of(1) {
            Some(-1) => format!("({a} * 0)"),
            Some(0) => literal(&ScalarValue::Int64(None)),
            Some(_) => format!("({a} % {b})"),
            None => bind_all(&[("x", a), ("y", b)], "multiIf(y = 0, NULL, y = -1, toInt64(0), moduloOrNull(x, y))"),
        },
        "div" => match long_of(1) {
            Some(-1) => format!("(toInt64(0) - {a})"),
            Some(0) => literal(&ScalarValue::Int64(None)),
            Some(_) => format!("intDiv({a}, {b})"),
            None => bind_all(&[("x", a), ("y", b)], "multiIf(y = 0, NULL, y = -1, toInt64(0) - x, intDivOrNull(x, y))"),
        },
        "lower" => format!("lowerUTF8({a})"),
        "upper" => format!("upperUTF8({a})"),
        "trim" | "btrim" => trim(a, arguments.get(1), true, true),
        "ltrim" => trim(a, arguments.get(1), true, false),
        "rtrim" => trim(a, arguments.get(1), false, true),
        "length" | "char_length" | "character_length" => format!("toInt64(lengthUTF8({a}))"),
        "strpos" => format!("toInt64(positionUTF8({a}, {b}))"),
        "contains" => format!("(position({a}, {b}) > 0)"),
        "starts_with" => format!("startsWith({a}, {b})"),
        "ends_with" => format!("endsWith({a}, {b})"),
        "replace" => format!("replaceAll({a}, {b}, {c})"),
        "reverse" => format!("reverseUTF8({a})"),
        "substr" | "substring" => match (arguments.len(), long_of(1)) {
            (2, Some(start)) if start != i64::MIN => format!("substringUTF8({a}, {})", start.max(1)),
            (2, _) => {
                bind_all(&[("t", a), ("s", b)], &format!("if({LEAST_START}, NULL, substringUTF8(t, greatest(s, 1)))"))
            }
            // In 128 bits, since positions may be at the ends of 64.
            _ => bind_all(
                &[("t", a), ("s", b), ("n", c)],
                &format!(
                    "if(n < 0 OR {LEAST_START}, NULL, substringUTF8(t, greatest(s, 1), \
                     toInt64(least(greatest(toInt128(least(s, 1)) - 1 + n, 0), 2147483647))))"
                ),
            ),
        },
        "left" => bind_all(&[("t", a), ("n", b)], &format!("leftUTF8(t, {COUNT})")),
        "right" => bind_all(&[("t", a), ("n", b)], &format!("if(n = 0, '', rightUTF8(t, {COUNT}))")),
        "lpad" | "rpad" => pad(name, arguments),
        "split_part" => match arguments.get(1).and_then(Rendered::literal_text) {
            Some("") => bind_all(&[("t", a), ("n", c)], "multiIf(n = 0, NULL, n IN (1, -1), t, '')"),
            Some(by) => bind_all(&[("t", a), ("n", c)], &format!("if(n = 0, NULL, splitByString({}, t)[n])", text(by))),
            // What splits must be constant.
            None => bind_all(
                &[("t", a), ("d", b), ("n", c)],
                "multiIf(n = 0, NULL, d = '', if(n IN (1, -1), t, ''), \
                 splitByString('\\x01\\x1F', replaceAll(t, d, '\\x01\\x1F'))[n])",
            ),
        },
        "concat" => {
            let parts: Vec<String> = arguments.iter().map(|part| format!("ifNull({}, '')", part.sql)).collect();
            format!("concat({}, '')", parts.join(", "))
        }
        "nullif" => format!("nullIf({a}, {b})"),
        "abs" if is_long => bind(a, &format!("if(x = {}, NULL, toInt64(abs(x)))", long(i64::MIN))),
        "round" => match long_of(1) {
            None if arguments.len() < 2 => bind_nullable(a, ROUND),
            None => literal(&ScalarValue::Float64(None)),
            Some(digits) => {
                let factor = 10_f64.powi(i32::try_from(digits).unwrap_or(0));
                format!("({} / {factor:?})", bind_nullable(&format!("({a} * {factor:?})"), ROUND))
            }
        },
        "ln" => format!("log({a})"),
        "power" | "pow" => format!("pow({a}, {b})"),
        "date_trunc" => bind(b, &truncated(arguments.first().and_then(Rendered::literal_text).unwrap_or_default())),
        "date_part" => date_part(arguments.first().and_then(Rendered::literal_text).unwrap_or_default(), b),
        "make_date" => time(&bind_all(&[("y", a), ("m", b), ("d", c)], MAKE_DATE)),
        // abs, ceil, floor, sqrt, exp, log10, least, greatest
        name => format!("{name}({})", joined(arguments)),
    }
}

/// The library cannot count from there.
const LEAST_START: &str = "s = toInt64('-9223372036854775808')";

/// A count of letters that no engine calculates with beyond its width.
const COUNT: &str = "greatest(least(n, 2147483647), -2147483647)";

/// Days since 1970 of a day of the Gregorian calendar (H. Hinnant's `days_from_civil`), in microseconds; null where
/// there is no such day.
const MAKE_DATE: &str = "if(y BETWEEN -262143 AND 262142 AND m BETWEEN 1 AND 12 AND d BETWEEN 1 AND \
    multiIf(m IN (4, 6, 9, 11), 30, m != 2, 31, y % 4 = 0 AND (y % 100 != 0 OR y % 400 = 0), 29, 28), \
    arrayMap(z -> arrayMap(e -> (intDiv(z - e, 400) * 146097 + e * 365 + intDiv(e, 4) - intDiv(e, 100) \
    + intDiv(153 * (m + if(m > 2, -3, 9)) + 2, 5) + d - 1 - 719468) * toInt64('86400000000'), \
    [toInt64(positiveModulo(z, 400))])[1], [y - if(m <= 2, 1, 0)])[1], NULL)";

fn add_interval(time: &str, interval: Option<&Rendered>, plus: bool) -> String {
    let Some(Rendered { literal: Some(ScalarValue::IntervalMonthDayNano(Some(interval))), .. }) = interval else {
        return literal(&ScalarValue::TimestampMicrosecond(None, None));
    };
    let sign: i64 = if plus { 1 } else { -1 };
    let mut sql = time.to_string();
    for (name, count) in [
        ("addMonths", i64::from(interval.months) * sign),
        ("addDays", i64::from(interval.days) * sign),
        // The stream cuts parts of a microsecond off downwards.
        ("addMicroseconds", interval.nanoseconds.saturating_mul(sign).div_euclid(1_000)),
    ] {
        if count != 0 {
            sql = format!("{name}({sql}, {count})");
        }
    }
    sql
}

/// The letters to trim are a set; ClickHouse's own takes bytes.
fn trim(value: &str, letters: Option<&Rendered>, start: bool, end: bool) -> String {
    let body = |left: &str, right: &str| {
        let from = if start { left } else { "1" };
        let count = if end { format!(", {right} - {from} + 1") } else { String::new() };
        format!("arrayStringConcat(arraySlice(l, {from}{count}))")
    };
    let kept = "NOT has(extractAll(w, '(?s).'), c)";
    // No letter is kept: an empty slice begins behind the end.
    let first = format!("if(arrayExists(c -> {kept}, l), arrayFirstIndex(c -> {kept}, l), length(l) + 1)");
    let last = format!("arrayLastIndex(c -> {kept}, l)");
    let trimmed = format!("arrayMap(l -> {}, [extractAll(t, '(?s).')])[1]", body(&first, &last));
    bind_all(&[("t", value), ("w", letters.map_or("' '", |letters| letters.sql.as_str()))], &trimmed)
}

fn pad(name: &str, arguments: &[Rendered]) -> String {
    let argument = |index: usize| arguments.get(index).map_or("NULL", |argument| argument.sql.as_str());
    let length = arguments.get(1).and_then(Rendered::literal_long).unwrap_or_default().max(0);
    let function = if name == "lpad" { "leftPadUTF8" } else { "rightPadUTF8" };
    let fill = if arguments.len() > 2 { argument(2) } else { "' '" };
    let letters = arguments.get(2).map_or(Some(" "), |fill| fill.literal_text());
    match letters {
        Some("") => format!("substringUTF8({}, 1, {length})", argument(0)),
        Some(_) => format!("{function}({}, {length}, {fill})", argument(0)),
        None => {
            let missing = format!("greatest({length} - lengthUTF8(t), 0)");
            let times = format!("if(w = '', 0, intDiv({missing}, greatest(lengthUTF8(w), 1)) + 1)");
            let filling = format!("substringUTF8(repeat(w, {times}), 1, {missing})");
            let text = format!("substringUTF8(t, 1, {length})");
            let whole = if name == "lpad" {
                format!("concat({filling}, {text})")
            } else {
                format!("concat({text}, {filling})")
            };
            bind_all(&[("t", argument(0)), ("w", fill)], &whole)
        }
    }
}

/// `x`, a time that is not null, cut to its unit.
fn truncated(unit: &str) -> String {
    let unit_us = match unit {
        "second" => 1_000_000_i64,
        "minute" => 60_000_000,
        "hour" => 3_600_000_000,
        "day" => 86_400_000_000,
        _ => {
            let date = match unit {
                "year" => "makeDate32(toYear(x), 1, 1)",
                "quarter" => "makeDate32(toYear(x), toQuarter(x) * 3 - 2, 1)",
                "month" => "makeDate32(toYear(x), toMonth(x), 1)",
                _ => "toDate32(x) - (toDayOfWeek(x) - 1)",
            };
            return format!("toDateTime64({date}, 6, 'UTC')");
        }
    };
    time(&format!("(toUnixTimestamp64Micro(x) - positiveModulo(toUnixTimestamp64Micro(x), {unit_us}))"))
}

fn date_part(part: &str, value: &str) -> String {
    let function = match part {
        "year" => "toYear",
        "quarter" => "toQuarter",
        "month" => "toMonth",
        "week" => "toISOWeek",
        "day" => "toDayOfMonth",
        "hour" => "toHour",
        "minute" => "toMinute",
        "second" => "toSecond",
        "doy" => "toDayOfYear",
        "epoch" => return format!("(toUnixTimestamp64Micro({value}) / 1000000)"),
        "dow" => return format!("toInt64(toDayOfWeek({value}) % 7)"),
        _ => "toDayOfWeek",
    };
    format!("toInt64({function}({value}))")
}
