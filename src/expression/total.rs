//! Functions that answer for every row: null where the library's one fails, and of exactly the declared type.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, TimestampMicrosecondArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, TimestampMicrosecondType};
use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result as LibraryResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::arguments::fit;
use super::kinds::{Fault, Kind, Result, Typed};

/// Years 1 to 9999: what every part of the way (chrono, ClickHouse, JSON) can write.
pub(super) const EARLIEST_US: i64 = -62_135_596_800_000_000;
pub(super) const LATEST_US: i64 = 253_402_300_799_999_999;

type Body = Arc<dyn Fn(&[ColumnarValue], usize) -> LibraryResult<ColumnarValue> + Send + Sync>;

/// What a total function computes of its arguments: all that distinguishes its body, so two with the same operation and
/// type are the same; and what it is rendered from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    /// As the function of this name; see `functions`.
    Named(String),
    /// A double that is no finite number becomes null, and `-0.0` becomes `0.0`.
    Finite,
    /// A number of units since 1970 as a timestamp.
    Epoch {
        unit_us: i64,
    },
    RegexpLike {
        pattern: String,
    },
    /// The replacement has its groups as `${1}` and a dollar as `$$`.
    RegexpReplace {
        pattern: String,
        replacement: String,
        all: bool,
    },
    /// A text read by the first of these strftime formats that fits.
    ReadTime {
        formats: Vec<String>,
    },
}

/// A function that answers for every row.
pub(super) struct Total {
    pub operation: Operation,
    name: String,
    pub returns: DataType,
    signature: Signature,
    body: Body,
}

pub(super) fn total(operation: Operation, arguments: Vec<Typed>, returns: Kind, body: Body, span: Span) -> Typed {
    let signature = Signature::variadic_any(Volatility::Immutable);
    let name = match &operation {
        Operation::Named(name) => name.clone(),
        other => format!("{other:?}"),
    };
    let function = ScalarUDF::from(Total { operation, name, returns: returns.arrow(), signature, body });
    let arguments = arguments.into_iter().map(|argument| argument.expr).collect();
    let expr = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), arguments));
    Typed { expr, kind: returns, span }
}

pub(super) fn library(
    name: &str,
    function: Arc<ScalarUDF>,
    arguments: Vec<Typed>,
    returns: Kind,
    span: Span,
) -> Result<Typed> {
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
    Ok(total(Operation::Named(name.to_string()), arguments, returns, Arc::new(body), span))
}

pub(super) fn wrong_arguments() -> LibraryResult<ColumnarValue> {
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
        self.operation == other.operation && self.returns == other.returns
    }
}

impl Eq for Total {}

impl std::hash::Hash for Total {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.operation.hash(state);
        self.returns.hash(state);
    }
}

// Our own

/// A double that is no finite number becomes null, and `-0.0` becomes `0.0`, which compare unlike otherwise.
pub(super) fn finite(value: Typed) -> Typed {
    let body = |values: &[ColumnarValue], rows: usize| {
        let numbers = values[0].to_array(rows)?;
        let finite: Float64Array =
            numbers.as_primitive::<Float64Type>().unary_opt(|number| number.is_finite().then_some(number + 0.0));
        Ok(ColumnarValue::Array(Arc::new(finite) as ArrayRef))
    };
    let span = value.span;
    total(Operation::Finite, vec![value], Kind::Double, Arc::new(body), span)
}

pub(super) fn whole_numbers(name: &str, a: Typed, b: Typed, compute: fn(i64, i64) -> Option<i64>, span: Span) -> Typed {
    let body = move |values: &[ColumnarValue], rows: usize| {
        let (a, b) = (values[0].to_array(rows)?, values[1].to_array(rows)?);
        let pairs = a.as_primitive::<Int64Type>().iter().zip(b.as_primitive::<Int64Type>());
        let computed: Int64Array = pairs.map(|(a, b)| compute(a?, b?)).collect();
        Ok(ColumnarValue::Array(Arc::new(computed) as ArrayRef))
    };
    total(Operation::Named(name.into()), vec![a, b], Kind::Long, Arc::new(body), span)
}

/// Time since 1970 in units of so many microseconds; null outside the years 1 to 9999.
pub(super) fn epoch(value: Typed, unit_us: i64, span: Span) -> Typed {
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
    total(Operation::Epoch { unit_us }, vec![value], Kind::Timestamp, Arc::new(body), span)
}

/// A time cut down to its unit. The library's goes through nanoseconds, which end in 2262.
pub(super) fn truncated(unit: Typed, time: Typed, span: Span) -> Typed {
    let name = unit.literal_text().unwrap_or_default().to_string();
    let body = move |values: &[ColumnarValue], rows: usize| {
        let times = values[1].to_array(rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let cut: TimestampMicrosecondArray = times.unary_opt(|us| start_of_unit(&name, us));
        Ok(ColumnarValue::Array(Arc::new(cut.with_timezone("UTC")) as ArrayRef))
    };
    total(Operation::Named("date_trunc".into()), vec![unit, time], Kind::Timestamp, Arc::new(body), span)
}

fn start_of_unit(unit: &str, us: i64) -> Option<i64> {
    const DAY_US: i64 = 86_400_000_000;
    // 1970 began with a Thursday, three days into its week.
    let (unit_us, shift_us) = match unit {
        "second" => (1_000_000, 0),
        "minute" => (60_000_000, 0),
        "hour" => (3_600_000_000, 0),
        "day" => (DAY_US, 0),
        "week" => (7 * DAY_US, 3 * DAY_US),
        _ => {
            let date = DateTime::from_timestamp_micros(us)?.date_naive();
            let month = match unit {
                "month" => date.month(),
                "quarter" => date.month0() / 3 * 3 + 1,
                _ => 1,
            };
            let first = NaiveDate::from_ymd_opt(date.year(), month, 1)?;
            return Some(first.and_time(NaiveTime::MIN).and_utc().timestamp_micros());
        }
    };
    us.checked_sub(us.checked_add(shift_us)?.rem_euclid(unit_us))
}

/// A text read by the first of the formats that fits; UTC where the format has no offset, midnight where it has no time.
pub(super) fn formatted(name: &str, value: Typed, formats: Vec<Typed>, span: Span) -> Result<Typed> {
    let value = fit(name, value, &Kind::Text)?;
    let mut texts: Vec<String> = Vec::with_capacity(formats.len());
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
        texts.push(text.to_string());
        parsers.push(items);
    }
    let read = move |text: &str| parsers.iter().find_map(|items| read_time(text, items));
    let body = move |values: &[ColumnarValue], rows: usize| {
        let texts = values[0].to_array(rows)?;
        let times: TimestampMicrosecondArray = texts.as_string::<i32>().iter().map(|text| read(text?)).collect();
        Ok(ColumnarValue::Array(Arc::new(times.with_timezone("UTC")) as ArrayRef))
    };
    Ok(total(Operation::ReadTime { formats: texts }, vec![value], Kind::Timestamp, Arc::new(body), span))
}

fn read_time(text: &str, items: &[Item<'static>]) -> Option<i64> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, items.iter()).ok()?;
    let us = if let Ok(time) = parsed.to_datetime() {
        time.timestamp_micros()
    } else if let Ok(time) = parsed.to_naive_datetime_with_offset(0) {
        time.and_utc().timestamp_micros()
    } else {
        parsed.to_naive_date().ok()?.and_time(NaiveTime::MIN).and_utc().timestamp_micros()
    };
    (EARLIEST_US..=LATEST_US).contains(&us).then_some(us)
}
