//! The allow-list of functions: arguments, meaning, and the library function behind each name.
//!
//! Every function is *total*: a row on which the library's one fails is null, the others keep their values, and the
//! value has exactly the type that was declared.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::kernels::numeric;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use chrono::format::{Item, Parsed, StrftimeItems};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result as LibraryResult, ScalarValue};
use datafusion::functions::{core, datetime, math, string, unicode};
use datafusion::logical_expr::expr::{Case, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, binary_expr,
};
use datafusion::physical_expr_common::datum::apply;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::check::{Fault, Kind, Typed, unify};

type Result<T, E = Fault> = std::result::Result<T, E>;

/// `lpad` and `rpad` up to here, so that no expression makes gigabytes of a short text.
const MAX_PADDING: i64 = 10_000;

const DATE_PARTS: [&str; 12] =
    ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "dow", "isodow", "doy", "epoch"];
const TRUNCATIONS: [&str; 8] = ["year", "quarter", "month", "week", "day", "hour", "minute", "second"];

/// Years 1 to 9999: what every part of the way (chrono, ClickHouse, JSON) can write.
const EARLIEST_US: i64 = -62_135_596_800_000_000;
const LATEST_US: i64 = 253_402_300_799_999_999;

/// A function that maps plainly onto one of the library.
struct Plain {
    name: &'static str,
    parameters: &'static [Kind],
    /// How many of the parameters must be given.
    required: usize,
    returns: Kind,
    function: fn() -> Arc<ScalarUDF>,
}

const fn plain(
    name: &'static str,
    parameters: &'static [Kind],
    required: usize,
    returns: Kind,
    function: fn() -> Arc<ScalarUDF>,
) -> Plain {
    Plain { name, parameters, required, returns, function }
}

#[rustfmt::skip]
const PLAIN: &[Plain] = {
    use Kind::{Boolean, Double, Long, Text};
    &[
        plain("lower", &[Text], 1, Text, string::lower),
        plain("upper", &[Text], 1, Text, string::upper),
        plain("trim", &[Text, Text], 1, Text, string::btrim),
        plain("btrim", &[Text, Text], 1, Text, string::btrim),
        plain("ltrim", &[Text, Text], 1, Text, string::ltrim),
        plain("rtrim", &[Text, Text], 1, Text, string::rtrim),
        plain("length", &[Text], 1, Long, unicode::character_length),
        plain("char_length", &[Text], 1, Long, unicode::character_length),
        plain("character_length", &[Text], 1, Long, unicode::character_length),
        plain("substr", &[Text, Long, Long], 2, Text, unicode::substr),
        plain("substring", &[Text, Long, Long], 2, Text, unicode::substr),
        plain("replace", &[Text, Text, Text], 3, Text, string::replace),
        plain("split_part", &[Text, Text, Long], 3, Text, string::split_part),
        plain("starts_with", &[Text, Text], 2, Boolean, string::starts_with),
        plain("ends_with", &[Text, Text], 2, Boolean, string::ends_with),
        plain("contains", &[Text, Text], 2, Boolean, string::contains),
        plain("strpos", &[Text, Text], 2, Long, unicode::strpos),
        plain("left", &[Text, Long], 2, Text, unicode::left),
        plain("right", &[Text, Long], 2, Text, unicode::right),
        plain("lpad", &[Text, Long, Text], 2, Text, unicode::lpad),
        plain("rpad", &[Text, Long, Text], 2, Text, unicode::rpad),
        plain("reverse", &[Text], 1, Text, unicode::reverse),
        plain("sqrt", &[Double], 1, Double, math::sqrt),
        plain("exp", &[Double], 1, Double, math::exp),
        plain("ln", &[Double], 1, Double, math::ln),
        plain("log10", &[Double], 1, Double, math::log10),
        plain("power", &[Double, Double], 2, Double, math::power),
        plain("pow", &[Double, Double], 2, Double, math::power),
    ]
};

/// Functions with rules of their own, in [`call`].
const SPECIAL: &[&str] = &[
    "abs",
    "ceil",
    "floor",
    "round",
    "div",
    "least",
    "greatest",
    "coalesce",
    "nullif",
    "concat",
    "regexp_like",
    "regexp_replace",
    "date_trunc",
    "date_part",
    "make_date",
    "to_timestamp",
    "to_date",
    "from_unixtime",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
];

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PLAIN.iter().map(|plain| plain.name).chain(SPECIAL.iter().copied()).chain(["in_segment"])
}

pub(super) fn is_known(name: &str) -> bool {
    names().any(|known| known == name)
}

/// Functions that people will try and that cannot be here: why, and what to do instead.
pub(super) fn refused(name: &str) -> Option<(String, &'static str)> {
    let refusal = match name {
        "now" | "current_timestamp" | "localtimestamp" | "current_date" | "current_time" | "localtime" | "today"
        | "getdate" => (
            format!(
                "{name}() is not possible here: an expression has no clock, its value would change without an event"
            ),
            "conditions on the current time come with windowed traits; until then compare with a literal, TIMESTAMP '2026-01-31 00:00:00'",
        ),
        "random" | "rand" | "uuid" | "gen_random_uuid" | "newid" | "generateuuidv4" => (
            format!("{name}() is not possible here: the same events must always give the same result"),
            "use a value of the event, such as message_id",
        ),
        "sum" | "count" | "avg" | "mean" | "min" | "max" | "median" | "stddev" | "array_agg" | "string_agg"
        | "first_value" | "last_value" | "approx_distinct" | "uniq" => (
            format!("{name}() looks at many rows, an expression at one"),
            "make it a trait (such as `sum: properties.total`) or an aggregate; of several values of one row, least and greatest",
        ),
        "row_number" | "rank" | "dense_rank" | "lag" | "lead" | "ntile" => {
            (format!("{name}() is a window function and looks at many rows"), "make it a trait")
        }
        "if" | "iif" | "decode" => (format!("unknown function `{name}`"), "write CASE WHEN … THEN … ELSE … END"),
        "ifnull" | "nvl" | "isnull" => (format!("unknown function `{name}`"), "write coalesce(a, b)"),
        "len" => (format!("unknown function `{name}`"), "write length(text)"),
        "md5" | "sha256" | "sha1" | "hash" => {
            (format!("{name}() is not possible here"), "identifiers are hashed where a destination asks for it")
        }
        "datediff" | "date_diff" | "timestampdiff" | "age" => (
            format!("unknown function `{name}`"),
            "date_part('epoch', a) - date_part('epoch', b) gives seconds; divide by 86400 for days",
        ),
        "date_add" | "dateadd" | "date_sub" => {
            (format!("unknown function `{name}`"), "write timestamp + INTERVAL '1 day'")
        }
        _ => return None,
    };
    Some(refusal)
}

/// A call of a function (or of an operator that is one), its arguments checked already.
pub(super) fn call(name: &str, mut arguments: Vec<Typed>, span: Span) -> Result<Typed> {
    if let Some(plain) = PLAIN.iter().find(|plain| plain.name == name) {
        expect_count(name, arguments.len(), plain.required, plain.parameters.len(), span)?;
        if matches!(name, "lpad" | "rpad") && !arguments[1].literal_long().is_some_and(|length| length <= MAX_PADDING) {
            return Err(arguments[1].error(
                format!("{name} takes a literal length of at most {MAX_PADDING}"),
                "write lpad(text, 10, '0')",
            ));
        }
        let arguments = arguments.into_iter().zip(plain.parameters).map(|(argument, kind)| fit(name, argument, kind));
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let value = library(name, (plain.function)(), arguments, plain.returns.clone(), span)?;
        return Ok(if plain.returns == Kind::Double { finite(value) } else { value });
    }

    let count = arguments.len();
    let expect = |least: usize, most: usize| expect_count(name, count, least, most, span);
    match name {
        "/" => {
            let [a, b] = two(name, arguments, span)?.map(|side| fit(name, side, &Kind::Double));
            let divided = binary_expr(a?.expr, Operator::Divide, b?.expr);
            Ok(finite(Typed { expr: divided, kind: Kind::Double, span }))
        }
        "*" => {
            let [a, b] = two(name, arguments, span)?;
            let (sides, kind) = unify(numbers(vec![a, b])?)?;
            let [a, b] = two(name, sides, span)?;
            let product = Typed { expr: binary_expr(a.expr, Operator::Multiply, b.expr), kind, span };
            Ok(if product.kind == Kind::Double { finite(product) } else { product })
        }
        "%" => {
            let [a, b] = two(name, arguments, span)?;
            let (sides, kind) = unify(numbers(vec![a, b])?)?;
            let [a, b] = two(name, sides, span)?;
            if kind == Kind::Double {
                let rest = binary_expr(a.expr, Operator::Modulo, b.expr);
                return Ok(finite(Typed { expr: rest, kind, span }));
            }
            Ok(whole_numbers("%", a, b, |a, b| (b != 0).then(|| a.wrapping_rem(b)), span))
        }
        "div" => {
            expect(2, 2)?;
            let [a, b] = two(name, arguments, span)?.map(|side| fit(name, side, &Kind::Long));
            Ok(whole_numbers("div", a?, b?, |a, b| (b != 0).then(|| a.wrapping_div(b)), span))
        }
        "||" => {
            let [a, b] = two(name, arguments, span)?.map(writable);
            Ok(Typed { expr: binary_expr(a?.expr, Operator::StringConcat, b?.expr), kind: Kind::Text, span })
        }
        "concat" => {
            expect(1, usize::MAX)?;
            let texts = arguments.into_iter().map(writable).collect::<Result<Vec<_>>>()?;
            library(name, string::concat(), texts, Kind::Text, span)
        }
        "timestamp +" | "timestamp -" => {
            let plus = name == "timestamp +";
            let body = move |values: &[ColumnarValue], _: usize| match (values, plus) {
                ([time, interval], true) => apply(time, interval, numeric::add),
                ([time, interval], false) => apply(time, interval, numeric::sub),
                _ => wrong_arguments(),
            };
            Ok(total(name.to_string(), arguments, Kind::Timestamp, Arc::new(body), span))
        }

        "abs" | "ceil" | "floor" => {
            expect(1, 1)?;
            let (mut numbers, kind) = unify(numbers(arguments)?)?;
            let number = numbers.remove(0);
            match (name, &kind) {
                ("abs", Kind::Long) => library(name, math::abs(), vec![number], Kind::Long, span),
                ("abs", _) => Ok(finite(library(name, math::abs(), vec![number], Kind::Double, span)?)),
                (_, Kind::Long) => Ok(number),
                ("ceil", _) => Ok(finite(library(name, math::ceil(), vec![number], Kind::Double, span)?)),
                _ => Ok(finite(library(name, math::floor(), vec![number], Kind::Double, span)?)),
            }
        }
        "round" => {
            expect(1, 2)?;
            let digits = if count == 2 { arguments.pop() } else { None };
            let (mut numbers, kind) = unify(numbers(arguments)?)?;
            let number = numbers.remove(0);
            let Some(digits) = digits else {
                return if kind == Kind::Long {
                    Ok(number)
                } else {
                    Ok(finite(library(name, math::round(), vec![number], Kind::Double, span)?))
                };
            };
            if !digits.literal_long().is_some_and(|digits| (-15..=15).contains(&digits)) {
                return Err(digits.error("round takes its digits as a literal from -15 to 15", "write round(x, 2)"));
            }
            let digits = narrow(digits);
            let value = library(name, math::round(), vec![number.cast(Kind::Double), digits], Kind::Double, span)?;
            Ok(finite(value))
        }
        "least" | "greatest" => {
            expect(1, usize::MAX)?;
            let (values, kind) = unify(arguments)?;
            let function = if name == "least" { core::least() } else { core::greatest() };
            library(name, function, values, kind, span)
        }
        "nullif" => {
            expect(2, 2)?;
            let (values, kind) = unify(arguments)?;
            library(name, core::nullif(), values, kind, span)
        }
        "coalesce" => {
            expect(1, usize::MAX)?;
            let (mut values, kind) = unify(arguments)?;
            let last = values.pop().map(|last| Box::new(last.expr));
            if values.is_empty() {
                let expr = last.map_or(Expr::Literal(ScalarValue::Null, None), |last| *last);
                return Ok(Typed { expr, kind, span });
            }
            let branch = |value: Typed| (Box::new(Expr::IsNotNull(Box::new(value.expr.clone()))), Box::new(value.expr));
            let branches = values.into_iter().map(branch).collect();
            Ok(Typed { expr: Expr::Case(Case::new(None, branches, last)), kind, span })
        }

        "regexp_like" => {
            expect(2, 3)?;
            let (value, pattern, _) = regular_expression(name, arguments, 1)?;
            let key = format!("regexp_like({})", pattern.as_str());
            let body = move |values: &[ColumnarValue], rows: usize| {
                let texts = values[0].to_array(rows)?;
                let matches: BooleanArray =
                    texts.as_string::<i32>().iter().map(|text| Some(pattern.is_match(text?))).collect();
                Ok(ColumnarValue::Array(Arc::new(matches) as ArrayRef))
            };
            Ok(total(key, vec![value], Kind::Boolean, Arc::new(body), span))
        }
        "regexp_replace" => {
            expect(3, 4)?;
            let replacement = fit(name, arguments.remove(2), &Kind::Text)?;
            let Some(replacement) = replacement.literal_text().map(dollar_groups) else {
                return Err(replacement
                    .error("the replacement must be a literal text", "write regexp_replace(text, 'pattern', 'by')"));
            };
            let (value, pattern, all) = regular_expression(name, arguments, 1)?;
            let key = format!("regexp_replace({}, {replacement}, {all})", pattern.as_str());
            let body = move |values: &[ColumnarValue], rows: usize| {
                let texts = values[0].to_array(rows)?;
                let limit = if all { 0 } else { 1 };
                let texts = texts.as_string::<i32>().iter();
                let replaced: StringArray =
                    texts.map(|text| Some(pattern.replacen(text?, limit, replacement.as_str()))).collect();
                Ok(ColumnarValue::Array(Arc::new(replaced) as ArrayRef))
            };
            Ok(total(key, vec![value], Kind::Text, Arc::new(body), span))
        }

        "date_trunc" => {
            let [unit, time] = two(name, arguments, span)?;
            let unit = one_of(name, unit, &TRUNCATIONS)?;
            library(name, datetime::date_trunc(), vec![unit, fit(name, time, &Kind::Timestamp)?], Kind::Timestamp, span)
        }
        "date_part" => {
            let [part, time] = two(name, arguments, span)?;
            let part = one_of(name, part, &DATE_PARTS)?;
            let kind = if part.literal_text() == Some("epoch") { Kind::Double } else { Kind::Long };
            library(name, datetime::date_part(), vec![part, fit(name, time, &Kind::Timestamp)?], kind, span)
        }
        "make_date" => {
            expect(3, 3)?;
            let numbers = arguments.into_iter().map(|part| Ok(narrow(fit(name, part, &Kind::Long)?)));
            library(name, datetime::make_date(), numbers.collect::<Result<_>>()?, Kind::Timestamp, span)
        }
        "to_timestamp" | "to_date" => {
            expect(1, usize::MAX)?;
            let formats = arguments.split_off(1);
            let value = arguments.remove(0);
            let time = match (&value.kind, formats.is_empty()) {
                (Kind::Text | Kind::Null, true) => value.cast(Kind::Timestamp),
                (Kind::Timestamp, true) => value,
                (Kind::Long | Kind::Double, true) => epoch(value, 1_000_000, span),
                _ => formatted(name, value, formats, span)?,
            };
            if name == "to_timestamp" {
                return Ok(Typed { span, ..time });
            }
            let day =
                Typed { expr: Expr::Literal(ScalarValue::from("day"), None), kind: Kind::Text, span: Span::empty() };
            library("date_trunc", datetime::date_trunc(), vec![day, time], Kind::Timestamp, span)
        }
        "from_unixtime" | "to_timestamp_seconds" | "to_timestamp_millis" | "to_timestamp_micros" => {
            expect(1, 1)?;
            let (mut values, _) = unify(numbers(arguments)?)?;
            let unit_us = match name {
                "to_timestamp_millis" => 1_000,
                "to_timestamp_micros" => 1,
                _ => 1_000_000,
            };
            Ok(epoch(values.remove(0), unit_us, span))
        }
        _ => Err(Fault { message: format!("unknown function `{name}`"), help: None, span }),
    }
}

// Arguments

fn expect_count(name: &str, count: usize, least: usize, most: usize, span: Span) -> Result<()> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let wanted = if least == most {
        format!("{least}")
    } else if most == usize::MAX {
        format!("at least {least}")
    } else {
        format!("{least} to {most}")
    };
    Err(Fault {
        message: format!("{name} takes {wanted} argument{}, here are {count}", if wanted == "1" { "" } else { "s" }),
        help: None,
        span,
    })
}

fn two(name: &str, arguments: Vec<Typed>, span: Span) -> Result<[Typed; 2]> {
    let count = arguments.len();
    <[Typed; 2]>::try_from(arguments).map_err(|_| {
        expect_count(name, count, 2, 2, span).err().unwrap_or_else(|| Fault {
            message: format!("{name} takes 2 arguments"),
            help: None,
            span,
        })
    })
}

fn fit(name: &str, argument: Typed, kind: &Kind) -> Result<Typed> {
    if *kind == Kind::Timestamp && argument.literal_text().is_some() {
        return super::check::timestamp_literal(&argument);
    }
    match (&argument.kind, kind) {
        (given, wanted) if given == wanted => Ok(argument),
        (Kind::Null, _) | (Kind::Long, Kind::Double) => Ok(argument.cast(kind.clone())),
        (given, wanted) => {
            let help = match wanted {
                Kind::Text => "write CAST(… AS varchar)",
                Kind::Long => "write CAST(… AS bigint), which cuts off fractions",
                Kind::Double => "write CAST(… AS double)",
                Kind::Timestamp => "write to_timestamp(…)",
                _ => "give it another argument",
            };
            Err(argument.error(format!("`{name}` needs {wanted} here, this is {given}"), help))
        }
    }
}

pub(super) fn text(argument: Typed) -> Result<Typed> {
    fit("LIKE", argument, &Kind::Text)
}

/// What `||` and `concat` write as text by themselves.
fn writable(argument: Typed) -> Result<Typed> {
    match argument.kind {
        Kind::Long | Kind::Boolean => Ok(argument.cast(Kind::Text)),
        _ => fit("||", argument, &Kind::Text),
    }
}

pub(super) fn numbers(arguments: Vec<Typed>) -> Result<Vec<Typed>> {
    if let Some(wrong) = arguments.iter().find(|argument| !argument.kind.is_number() && argument.kind != Kind::Null) {
        let help = match wrong.kind {
            Kind::Timestamp => "date_part('epoch', t) gives its seconds; timestamps take + and - with an INTERVAL",
            Kind::Interval => "an interval is added to a timestamp",
            _ => "write CAST(… AS double) where it holds a number",
        };
        return Err(wrong.error(format!("this must be a number, it is {}", wrong.kind), help));
    }
    let all_null = arguments.iter().all(|argument| argument.kind == Kind::Null);
    let null = |argument: Typed| if all_null { argument.cast(Kind::Long) } else { argument };
    Ok(arguments.into_iter().map(null).collect())
}

fn one_of(name: &str, argument: Typed, allowed: &[&str]) -> Result<Typed> {
    let lower = argument.literal_text().map(str::to_lowercase);
    match lower {
        Some(lower) if allowed.contains(&lower.as_str()) => {
            Ok(Typed { expr: Expr::Literal(ScalarValue::from(lower), None), kind: Kind::Text, span: argument.span })
        }
        _ => Err(argument.error(
            format!("{name} needs one of its units as a literal first"),
            format!("units are {}", allowed.join(", ")),
        )),
    }
}

/// A long as the narrower integer that some library functions want; null where it does not fit.
fn narrow(argument: Typed) -> Typed {
    let kind = Kind::Other(DataType::Int32);
    argument.cast(kind)
}

/// The text, the compiled pattern, and whether `g` was among the flags. `at` is where the pattern stands.
fn regular_expression(name: &str, mut arguments: Vec<Typed>, at: usize) -> Result<(Typed, regex::Regex, bool)> {
    let flags = if arguments.len() > at + 1 { arguments.pop() } else { None };
    let pattern = fit(name, arguments.remove(at), &Kind::Text)?;
    let value = fit(name, arguments.remove(0), &Kind::Text)?;
    let Some(source) = pattern.literal_text() else {
        return Err(pattern.error("the pattern must be a literal text", format!("write {name}(text, 'pattern', …)")));
    };
    let mut builder = regex::RegexBuilder::new(source);
    let mut all = false;
    if let Some(flags) = flags {
        let Some(letters) = flags.literal_text() else {
            return Err(flags.error("the flags must be a literal text", "flags are i, m, s and, to replace all, g"));
        };
        for letter in letters.chars() {
            match letter {
                'i' => _ = builder.case_insensitive(true),
                'm' => _ = builder.multi_line(true),
                's' => _ = builder.dot_matches_new_line(true),
                'g' if name == "regexp_replace" => all = true,
                _ => {
                    return Err(flags.error(
                        format!("the flag `{letter}` is not known"),
                        "flags are i, m, s and, to replace all, g",
                    ));
                }
            }
        }
    }
    match builder.build() {
        Ok(regex) => Ok((value, regex, all)),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(pattern.error(
                format!("this is not a regular expression: {reason}"),
                "look-around and back-references are not possible",
            ))
        }
    }
}

/// SQL writes groups as `\1`, the library as `${1}`.
fn dollar_groups(replacement: &str) -> String {
    let mut out = String::with_capacity(replacement.len());
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => out.push_str("$$"),
            '\\' => match letters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

// Values

/// A double that is no finite number becomes null, and `-0.0` becomes `0.0`, which compare unlike otherwise.
pub(super) fn finite(value: Typed) -> Typed {
    let body = |values: &[ColumnarValue], rows: usize| {
        let numbers = values[0].to_array(rows)?;
        let finite: Float64Array =
            numbers.as_primitive::<Float64Type>().unary_opt(|number| number.is_finite().then_some(number + 0.0));
        Ok(ColumnarValue::Array(Arc::new(finite) as ArrayRef))
    };
    let span = value.span;
    total("finite".into(), vec![value], Kind::Double, Arc::new(body), span)
}

fn whole_numbers(name: &str, a: Typed, b: Typed, compute: fn(i64, i64) -> Option<i64>, span: Span) -> Typed {
    let body = move |values: &[ColumnarValue], rows: usize| {
        let (a, b) = (values[0].to_array(rows)?, values[1].to_array(rows)?);
        let pairs = a.as_primitive::<Int64Type>().iter().zip(b.as_primitive::<Int64Type>());
        let computed: Int64Array = pairs.map(|(a, b)| compute(a?, b?)).collect();
        Ok(ColumnarValue::Array(Arc::new(computed) as ArrayRef))
    };
    total(name.into(), vec![a, b], Kind::Long, Arc::new(body), span)
}

/// Time since 1970 in units of so many microseconds; null outside the years 1 to 9999.
fn epoch(value: Typed, unit_us: i64, span: Span) -> Typed {
    let within = |us: i64| (EARLIEST_US..=LATEST_US).contains(&us).then_some(us);
    let body = move |values: &[ColumnarValue], rows: usize| {
        let numbers = values[0].to_array(rows)?;
        let times: TimestampMicrosecondArray = if numbers.data_type() == &DataType::Int64 {
            numbers.as_primitive::<Int64Type>().unary_opt(|number| number.checked_mul(unit_us).and_then(within))
        } else {
            // The conversion saturates, and what it saturates to is outside the years.
            numbers.as_primitive::<Float64Type>().unary_opt(|number| {
                if number.is_nan() { None } else { within((number * unit_us as f64).round() as i64) }
            })
        };
        Ok(ColumnarValue::Array(Arc::new(times.with_timezone("UTC")) as ArrayRef))
    };
    total(format!("epoch({unit_us})"), vec![value], Kind::Timestamp, Arc::new(body), span)
}

/// A text read by the first of the formats that fits; UTC where the format has no offset, midnight where it has no time.
fn formatted(name: &str, value: Typed, formats: Vec<Typed>, span: Span) -> Result<Typed> {
    let value = fit(name, value, &Kind::Text)?;
    let mut key = String::from("to_timestamp");
    let mut parsers: Vec<Vec<Item<'static>>> = Vec::with_capacity(formats.len());
    for format in formats {
        let Some(text) = format.literal_text() else {
            return Err(format.error("a format must be a literal text", "write to_timestamp(text, '%d.%m.%Y %H:%M')"));
        };
        let Ok(items) = StrftimeItems::new(text).parse_to_owned() else {
            return Err(
                format.error(format!("'{text}' is not a format"), "formats are strftime's: %Y-%m-%d %H:%M:%S %z")
            );
        };
        key.push_str(&format!(",{text}"));
        parsers.push(items);
    }
    let read = move |text: &str| parsers.iter().find_map(|items| read_time(text, items));
    let body = move |values: &[ColumnarValue], rows: usize| {
        let texts = values[0].to_array(rows)?;
        let times: TimestampMicrosecondArray = texts.as_string::<i32>().iter().map(|text| read(text?)).collect();
        Ok(ColumnarValue::Array(Arc::new(times.with_timezone("UTC")) as ArrayRef))
    };
    Ok(total(key, vec![value], Kind::Timestamp, Arc::new(body), span))
}

fn read_time(text: &str, items: &[Item<'static>]) -> Option<i64> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, items.iter()).ok()?;
    let us = if let Ok(time) = parsed.to_datetime() {
        time.timestamp_micros()
    } else if let Ok(time) = parsed.to_naive_datetime_with_offset(0) {
        time.and_utc().timestamp_micros()
    } else {
        parsed.to_naive_date().ok()?.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros()
    };
    (EARLIEST_US..=LATEST_US).contains(&us).then_some(us)
}

// Total functions

type Body = Arc<dyn Fn(&[ColumnarValue], usize) -> LibraryResult<ColumnarValue> + Send + Sync>;

/// A function that answers for every row; two are the same when name and type are, so the name holds all that
/// distinguishes the body (patterns, formats).
struct Total {
    name: String,
    returns: DataType,
    signature: Signature,
    body: Body,
}

fn total(name: String, arguments: Vec<Typed>, returns: Kind, body: Body, span: Span) -> Typed {
    let signature = Signature::variadic_any(Volatility::Immutable);
    let function = ScalarUDF::from(Total { name, returns: returns.arrow(), signature, body });
    let arguments = arguments.into_iter().map(|argument| argument.expr).collect();
    let expr = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), arguments));
    Typed { expr, kind: returns, span }
}

fn library(name: &str, function: Arc<ScalarUDF>, arguments: Vec<Typed>, returns: Kind, span: Span) -> Result<Typed> {
    let fields: Vec<FieldRef> =
        arguments.iter().map(|argument| Arc::new(Field::new("argument", argument.kind.arrow(), true))).collect();
    let literals: Vec<Option<&ScalarValue>> = arguments
        .iter()
        .map(|argument| match &argument.expr {
            Expr::Literal(value, _) => Some(value),
            _ => None,
        })
        .collect();
    let answer = function.return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &literals });
    let return_field = answer.map_err(|error| Fault {
        message: format!("{name} cannot take these arguments: {}", error.strip_backtrace()),
        help: None,
        span,
    })?;
    let config_options = Arc::new(ConfigOptions::default());
    let body = move |values: &[ColumnarValue], rows: usize| {
        function.invoke_with_args(ScalarFunctionArgs {
            args: values.to_vec(),
            arg_fields: fields.clone(),
            number_rows: rows,
            return_field: return_field.clone(),
            config_options: config_options.clone(),
        })
    };
    Ok(total(name.to_string(), arguments, returns, Arc::new(body), span))
}

fn wrong_arguments() -> LibraryResult<ColumnarValue> {
    Err(datafusion::common::DataFusionError::Internal("a function got other arguments than it was checked with".into()))
}

impl Total {
    fn run(&self, values: &[ColumnarValue], rows: usize) -> LibraryResult<ArrayRef> {
        let computed = (self.body)(values, rows).and_then(|value| value.into_array(rows)).and_then(|array| {
            if array.data_type() == &self.returns {
                return Ok(array);
            }
            let options = CastOptions { safe: true, ..CastOptions::default() };
            Ok(cast_with_options(&array, &self.returns, &options)?)
        });
        match computed {
            Ok(array) => Ok(array),
            Err(_) if rows <= 1 => Ok(arrow::array::new_null_array(&self.returns, rows)),
            Err(_) => {
                // Narrow the failure down to its rows.
                let half = rows / 2;
                let part = |start: usize, length: usize| {
                    let slice = |value: &ColumnarValue| match value {
                        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, length)),
                        ColumnarValue::Scalar(scalar) => ColumnarValue::Scalar(scalar.clone()),
                    };
                    self.run(&values.iter().map(slice).collect::<Vec<_>>(), length)
                };
                let (first, second) = (part(0, half)?, part(half, rows - half)?);
                Ok(arrow::compute::concat(&[&first, &second])?)
            }
        }
    }
}

impl ScalarUDFImpl for Total {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> LibraryResult<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> LibraryResult<ColumnarValue> {
        let all_literal = arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        if all_literal {
            let value = self.run(&arguments.args, 1)?;
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?));
        }
        Ok(ColumnarValue::Array(self.run(&arguments.args, arguments.number_rows)?))
    }
}

impl std::fmt::Debug for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl PartialEq for Total {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.returns == other.returns
    }
}

impl Eq for Total {}

impl std::hash::Hash for Total {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.returns.hash(state);
    }
}
