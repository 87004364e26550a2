//! The allow-list of functions: arguments, meaning, and the library function behind each name.
//!
//! Every function is *total*, see there.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::compute::kernels::numeric;
use datafusion::common::ScalarValue;
use datafusion::functions::{core, datetime, math, string, unicode};
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::{ColumnarValue, Expr, Operator, ScalarUDF, binary_expr};
use datafusion::physical_expr_common::datum::apply;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::arguments::{dollar_groups, expect_count, fit, narrow, numbers, one_of, regular_expression, two, writable};
use super::kinds::{Fault, Kind, Result, Typed, unify};
use super::total::{Operation, epoch, finite, formatted, library, total, truncated, whole_numbers, wrong_arguments};

/// `lpad` and `rpad` up to here, so that no expression makes gigabytes of a short text.
const MAX_PADDING: i64 = 10_000;

const DATE_PARTS: [&str; 12] =
    ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "dow", "isodow", "doy", "epoch"];
const TRUNCATIONS: [&str; 8] = ["year", "quarter", "month", "week", "day", "hour", "minute", "second"];

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
    PLAIN.iter().map(|plain| plain.name).chain(SPECIAL.iter().copied()).chain(["in_segment", "has_been"])
}

pub(super) fn is_known(name: &str) -> bool {
    names().any(|known| known == name)
}

/// Functions that people will try and that cannot be here: why, and what to do instead.
pub(super) fn refused(name: &str) -> Option<(String, &'static str)> {
    let refusal = match name {
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
        if matches!(name, "lpad" | "rpad") && arguments[1].literal_long().is_none_or(|length| length > MAX_PADDING) {
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
            Ok(total(Operation::Named(name.to_string()), arguments, Kind::Timestamp, Arc::new(body), span))
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
            let operation = Operation::RegexpLike { pattern: pattern.as_str().to_string() };
            let body = move |values: &[ColumnarValue], rows: usize| {
                let texts = values[0].to_array(rows)?;
                let matches: BooleanArray =
                    texts.as_string::<i32>().iter().map(|text| Some(pattern.is_match(text?))).collect();
                Ok(ColumnarValue::Array(Arc::new(matches) as ArrayRef))
            };
            Ok(total(operation, vec![value], Kind::Boolean, Arc::new(body), span))
        }
        "regexp_replace" => {
            expect(3, 4)?;
            let replacement = fit(name, arguments.remove(2), &Kind::Text)?;
            let Some(replacement) = replacement.literal_text().map(dollar_groups) else {
                return Err(replacement
                    .error("the replacement must be a literal text", "write regexp_replace(text, 'pattern', 'by')"));
            };
            let (value, pattern, all) = regular_expression(name, arguments, 1)?;
            let operation = Operation::RegexpReplace {
                pattern: pattern.as_str().to_string(),
                replacement: replacement.clone(),
                all,
            };
            let body = move |values: &[ColumnarValue], rows: usize| {
                let texts = values[0].to_array(rows)?;
                let limit = if all { 0 } else { 1 };
                let texts = texts.as_string::<i32>().iter();
                let replaced: StringArray =
                    texts.map(|text| Some(pattern.replacen(text?, limit, replacement.as_str()))).collect();
                Ok(ColumnarValue::Array(Arc::new(replaced) as ArrayRef))
            };
            Ok(total(operation, vec![value], Kind::Text, Arc::new(body), span))
        }

        "date_trunc" => {
            let [unit, time] = two(name, arguments, span)?;
            let unit = one_of(name, unit, &TRUNCATIONS)?;
            Ok(truncated(unit, fit(name, time, &Kind::Timestamp)?, span))
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
            Ok(truncated(day, time, span))
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
