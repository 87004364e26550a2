//! The kinds of values, and what goes together.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::TryCast;
use datafusion::sql::sqlparser::tokenizer::Span;

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// What a value is, for the checks.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// The literal NULL, before it is given a type.
    Null,
    Boolean,
    Long,
    Double,
    Text,
    Timestamp,
    /// A literal INTERVAL; only to be added to a timestamp.
    Interval,
    /// A list, struct, map, …: passed on whole.
    Other(DataType),
}

pub(super) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl Kind {
    pub fn arrow(&self) -> DataType {
        match self {
            Kind::Null => DataType::Null,
            Kind::Boolean => DataType::Boolean,
            Kind::Long => DataType::Int64,
            Kind::Double => DataType::Float64,
            Kind::Text => DataType::Utf8,
            Kind::Timestamp => timestamp_type(),
            Kind::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Kind::Other(data_type) => data_type.clone(),
        }
    }

    /// How a column of this type is read.
    pub fn of(data_type: &DataType) -> Kind {
        match data_type {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Boolean,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Kind::Double,
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                Kind::Double
            }
            integer if integer.is_integer() => Kind::Long,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
            DataType::Dictionary(_, values) => match Kind::of(values) {
                Kind::Text => Kind::Text,
                _ => Kind::Other(data_type.clone()),
            },
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Kind::Timestamp,
            _ => Kind::Other(data_type.clone()),
        }
    }

    pub fn is_number(&self) -> bool {
        matches!(self, Kind::Long | Kind::Double)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Null => "null",
            Kind::Boolean => "a boolean",
            Kind::Long => "a whole number",
            Kind::Double => "a number",
            Kind::Text => "a text",
            Kind::Timestamp => "a timestamp",
            Kind::Interval => "an interval",
            Kind::Other(DataType::Struct(_)) => "a record",
            Kind::Other(DataType::Map(..)) => "a map",
            Kind::Other(other) if other.is_list() => "a list",
            Kind::Other(_) => "of a type without operators",
        })
    }
}

pub(super) fn describe(data_type: &DataType) -> String {
    Kind::of(data_type).to_string()
}

/// An [`ExpressionError`] whose place is still in lines and columns: only an error is worth counting bytes.
#[derive(Debug)]
pub(super) struct Fault {
    pub message: String,
    pub help: Option<String>,
    pub span: Span,
}

/// A checked node.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub expr: Expr,
    pub kind: Kind,
    pub span: Span,
}

impl Typed {
    pub fn literal_text(&self) -> Option<&str> {
        match &self.expr {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text),
            _ => None,
        }
    }

    pub fn literal_long(&self) -> Option<i64> {
        match &self.expr {
            Expr::Literal(ScalarValue::Int64(Some(number)), _) => Some(*number),
            _ => None,
        }
    }

    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault { message: message.into(), help: Some(help.into()), span: self.span }
    }

    /// The value as another kind, null where it cannot be; literals at once.
    pub fn cast(self, kind: Kind) -> Typed {
        if self.kind == kind {
            return self;
        }
        let data_type = kind.arrow();
        let expr = match self.expr {
            Expr::Literal(value, _) => {
                let cast = value.cast_to(&data_type).or_else(|_| ScalarValue::try_from(&data_type));
                match cast {
                    Ok(value) => Expr::Literal(value, None),
                    Err(_) => Expr::TryCast(TryCast::new(Box::new(Expr::Literal(value, None)), data_type)),
                }
            }
            expr => Expr::TryCast(TryCast::new(Box::new(expr), data_type)),
        };
        Typed { expr, kind, span: self.span }
    }
}

/// A text literal as a timestamp, UTC where it says no offset.
pub(super) fn timestamp_literal(literal: &Typed) -> Result<Typed> {
    let text = literal.literal_text().unwrap_or_default();
    match ScalarValue::from(text).cast_to(&timestamp_type()) {
        Ok(value) if !value.is_null() => {
            Ok(Typed { expr: Expr::Literal(value, None), kind: Kind::Timestamp, span: literal.span })
        }
        _ => Err(literal
            .error(format!("'{text}' is not a timestamp"), "write it like '2026-01-31' or '2026-01-31T10:00:00Z'")),
    }
}

/// Gives values that are compared or chosen between one kind.
pub(super) fn unify(values: Vec<Typed>) -> Result<(Vec<Typed>, Kind)> {
    let mut kind = Kind::Null;
    let has_timestamp = values.iter().any(|value| value.kind == Kind::Timestamp);
    let mut read = Vec::with_capacity(values.len());
    for value in values {
        let value = if has_timestamp && value.literal_text().is_some() { timestamp_literal(&value)? } else { value };
        kind = match (&kind, &value.kind) {
            (_, Kind::Other(_)) => {
                return Err(value.error(
                    format!("this is {} and cannot be compared", value.kind),
                    "name one of its fields, or test IS NOT NULL",
                ));
            }
            (_, Kind::Interval) => {
                return Err(value
                    .error("an interval cannot be compared", "add it to a timestamp: timestamp + INTERVAL '1 day'"));
            }
            (Kind::Null, other) => other.clone(),
            (known, Kind::Null) => known.clone(),
            (Kind::Long, Kind::Double) | (Kind::Double, Kind::Long) => Kind::Double,
            (known, other) if known == other => known.clone(),
            (known, other) => {
                let help = match (known, other) {
                    (Kind::Text, Kind::Long | Kind::Double) | (Kind::Long | Kind::Double, Kind::Text) => {
                        "compare like with like: quote the number, or CAST(… AS double)"
                    }
                    (Kind::Text, Kind::Timestamp) | (Kind::Timestamp, Kind::Text) => {
                        "write to_timestamp(…) around the text"
                    }
                    (Kind::Text, Kind::Boolean) | (Kind::Boolean, Kind::Text) => {
                        "CAST(… AS boolean) reads a text as true or false"
                    }
                    _ => "both sides must be of one type",
                };
                return Err(value.error(format!("{known} and {other} do not go together"), help));
            }
        };
        read.push(value);
    }
    let kind = if kind == Kind::Null { Kind::Text } else { kind };
    Ok((read.into_iter().map(|value| value.cast(kind.clone())).collect(), kind))
}
