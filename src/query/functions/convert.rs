//! ClickHouse's conversions: `toString`, `toInt64`, `toFloat64`, `toDateTime`, `toUnixTimestamp` and their like; `length` and
//! `arraySum` of lists.
//!
//! A text that is no number is an error, as in the engine. Times become seconds as numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, StringArray, UInt64Array};
use arrow::compute::{CastOptions, cast, cast_with_options, sum};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use chrono::DateTime;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::functions::unicode::character_length;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{alias, seconds_type};
use crate::event;

pub fn functions() -> Vec<ScalarUDF> {
    [
        ("toString", Function::Text),
        ("toFloat64", Function::Number(DataType::Float64)),
        ("toInt32", Function::Number(DataType::Int32)),
        ("toInt64", Function::Number(DataType::Int64)),
        ("toUInt8", Function::Number(DataType::UInt8)),
        ("toUInt32", Function::Number(DataType::UInt32)),
        ("toUInt64", Function::Number(DataType::UInt64)),
        ("toUnixTimestamp", Function::Number(DataType::UInt32)),
        ("toUnixTimestamp64Micro", Function::Micros),
        ("toDateTime", Function::Seconds),
        ("toDateTime64", Function::Time),
        ("length", Function::Length),
        ("arraySum", Function::Sum),
    ]
    .into_iter()
    .map(|(name, function)| {
        let signature = Signature::variadic_any(Volatility::Immutable);
        ScalarUDF::from(Conversion { name, function, signature, aliases: alias(name) })
    })
    .collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Function {
    Text,
    Number(DataType),
    Micros,
    Seconds,
    Time,
    /// Of a list; of a text it stays DataFusion's own, which counts characters.
    Length,
    Sum,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Conversion {
    name: &'static str,
    function: Function,
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Conversion {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let most = match self.function {
            // A scale and a time zone.
            Function::Time => 3,
            Function::Seconds => 2,
            _ => 1,
        };
        let Some(of) = arguments.first().filter(|_| arguments.len() <= most) else {
            return plan_err!("{} takes one value", self.name);
        };
        match &self.function {
            _ if of.is_nested() && !matches!(self.function, Function::Length | Function::Sum) => {
                plan_err!("{} takes no lists: {of}", self.name)
            }
            Function::Text => Ok(DataType::Utf8),
            Function::Number(number) => Ok(number.clone()),
            Function::Micros => match of {
                DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Null => Ok(DataType::Int64),
                of => plan_err!("toUnixTimestamp64Micro takes a time in microseconds, not {of}"),
            },
            Function::Seconds => Ok(seconds_type()),
            Function::Time => Ok(event::time_type()),
            Function::Length if of.is_list() => Ok(DataType::UInt64),
            Function::Length => match of {
                of if of.is_string() => Ok(DataType::Int32),
                of => plan_err!("length takes a text or a list, not {of}"),
            },
            Function::Sum => match of {
                DataType::List(of) if of.data_type().is_floating() => Ok(DataType::Float64),
                DataType::List(of) if of.data_type().is_unsigned_integer() => Ok(DataType::UInt64),
                DataType::List(of) if of.data_type().is_integer() => Ok(DataType::Int64),
                of => plan_err!("arraySum takes a list of numbers, not {of}"),
            },
        }
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = arguments.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name, self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let (Function::Time, Some(scale)) = (&self.function, arguments.args.get(1))
            && !matches!(scale, ColumnarValue::Scalar(ScalarValue::Int64(Some(6))))
        {
            return exec_err!("toDateTime64: the scale is 6, microseconds");
        }
        arguments.args.truncate(1);
        let Some(value) = arguments.args.first() else { return exec_err!("{} takes one value", self.name) };
        if self.function == Function::Length && value.data_type().is_string() {
            arguments.arg_fields.truncate(1);
            return character_length().invoke_with_args(arguments);
        }
        let constant = matches!(value, ColumnarValue::Scalar(_));
        let values = value.to_array(if constant { 1 } else { arguments.number_rows })?;
        let values = self.values(&values)?;
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?));
        }
        Ok(ColumnarValue::Array(values))
    }
}

/// Fails where the usual cast gives null.
fn strict(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    Ok(cast_with_options(values, to, &CastOptions { safe: false, ..CastOptions::default() })?)
}

impl Conversion {
    fn values(&self, values: &ArrayRef) -> Result<ArrayRef> {
        Ok(match &self.function {
            Function::Text => Arc::new(texts(values)?),
            Function::Number(number) => strict(&plain(values, number)?, number)?,
            Function::Micros => cast(values, &DataType::Int64)?,
            Function::Seconds => {
                let times =
                    if values.data_type().is_integer() { cast(values, &DataType::Int64)? } else { values.clone() };
                strict(&times, &seconds_type())?
            }
            Function::Time if values.data_type().is_numeric() => {
                strict(&cast(&cast(values, &DataType::Int64)?, &seconds_type())?, &event::time_type())?
            }
            Function::Time => strict(values, &event::time_type())?,
            Function::Length => {
                let lists = cast(values, &list_of(values.data_type()))?;
                let lengths = lists.as_list::<i32>();
                let lengths = (0..lengths.len())
                    .map(|row| lengths.is_valid(row).then(|| u64::from(lengths.value_length(row).unsigned_abs())));
                Arc::new(lengths.collect::<UInt64Array>())
            }
            Function::Sum => {
                let lists = values.as_list::<i32>();
                match lists.value_type() {
                    of if of.is_floating() => {
                        let sums = lists.iter().map(|list| {
                            summed(list, &DataType::Float64, |list| {
                                sum(list.as_primitive::<Float64Type>()).unwrap_or(0.0)
                            })
                        });
                        Arc::new(sums.collect::<Result<Float64Array>>()?)
                    }
                    of if of.is_unsigned_integer() => {
                        let sums = lists.iter().map(|list| {
                            summed(list, &DataType::UInt64, |list| sum(list.as_primitive::<UInt64Type>()).unwrap_or(0))
                        });
                        Arc::new(sums.collect::<Result<UInt64Array>>()?)
                    }
                    _ => {
                        let sums = lists.iter().map(|list| {
                            summed(list, &DataType::Int64, |list| sum(list.as_primitive::<Int64Type>()).unwrap_or(0))
                        });
                        Arc::new(sums.collect::<Result<Int64Array>>()?)
                    }
                }
            }
        })
    }
}

fn list_of(list: &DataType) -> DataType {
    match list {
        DataType::LargeList(field) | DataType::FixedSizeList(field, _) => DataType::List(field.clone()),
        other => other.clone(),
    }
}

fn summed<T>(list: Option<ArrayRef>, of: &DataType, sum: impl Fn(&ArrayRef) -> T) -> Result<Option<T>> {
    list.map(|list| Ok(sum(&cast(&list, of)?))).transpose()
}

/// Times as their seconds, with fractions for a floating number.
fn plain(values: &ArrayRef, number: &DataType) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Date32 => cast(values, &DataType::Int32)?,
        DataType::Timestamp(TimeUnit::Second, _) => cast(values, &DataType::Int64)?,
        DataType::Timestamp(..) => {
            let micros = cast(values, &event::time_type())?;
            let micros = micros.as_primitive::<TimestampMicrosecondType>();
            if number.is_floating() {
                Arc::new(micros.unary::<_, Float64Type>(|micros| micros as f64 / 1e6))
            } else {
                Arc::new(micros.unary::<_, Int64Type>(|micros| micros.div_euclid(1_000_000)))
            }
        }
        _ => values.clone(),
    })
}

fn texts(values: &ArrayRef) -> Result<StringArray> {
    let time =
        |micros: i64, form: &str| DateTime::from_timestamp_micros(micros).map(|time| time.format(form).to_string());
    Ok(match values.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            let seconds = cast(values, &DataType::Int64)?;
            let seconds = seconds.as_primitive::<Int64Type>();
            seconds.iter().map(|second| time(second?.checked_mul(1_000_000)?, "%Y-%m-%d %H:%M:%S")).collect()
        }
        DataType::Timestamp(..) => {
            let micros = cast(values, &event::time_type())?;
            let micros = micros.as_primitive::<TimestampMicrosecondType>();
            micros.iter().map(|micros| time(micros?, "%Y-%m-%d %H:%M:%S%.6f")).collect()
        }
        DataType::Float32 | DataType::Float64 => {
            let doubles = cast(values, &DataType::Float64)?;
            doubles.as_primitive::<Float64Type>().iter().map(|double| double.map(double_text)).collect()
        }
        _ => strict(values, &DataType::Utf8)?.as_string::<i32>().clone(),
    })
}

/// The shortest digits that give the same double; with an exponent outside of 1e-6 to 1e21.
fn double_text(double: f64) -> String {
    let size = double.abs();
    match double {
        _ if double.is_nan() => "nan".to_string(),
        _ if double.is_infinite() => if double > 0.0 { "inf" } else { "-inf" }.to_string(),
        _ if size == 0.0 || (1e-6..1e21).contains(&size) => format!("{double}"),
        _ => format!("{double:e}"),
    }
}
