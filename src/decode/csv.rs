//! Rows of CSV files: flat JSON objects of strings, each cast to the type declared for its column.
//!
//! CSV has no null: an empty cell is null, whatever its type.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};

use super::Decoded;
use super::json::{each_text, finish};
use super::json_text::{JsonError, Token, Walked, Walker, shorten};
use super::time::{from_millis, parse_time};
use crate::event::{RawBatch, TimeUs, ValueType, time_type};

/// The standard envelope's columns: what a CSV file holds that declares none.
const ENVELOPE: [(&str, ValueType); 15] = [
    ("message_id", ValueType::String),
    ("type", ValueType::String),
    ("event", ValueType::String),
    ("user_id", ValueType::String),
    ("anonymous_id", ValueType::String),
    ("group_id", ValueType::String),
    ("previous_id", ValueType::String),
    ("identifiers", ValueType::Json),
    ("timestamp", ValueType::Timestamp),
    ("original_timestamp", ValueType::Timestamp),
    ("sent_at", ValueType::Timestamp),
    ("received_at", ValueType::Timestamp),
    ("properties", ValueType::Json),
    ("traits", ValueType::Json),
    ("context", ValueType::Json),
];

/// Text of a cell, read as its declared type.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    Null,
    String(&'a str),
    Long(i64),
    Double(f64),
    Boolean(bool),
    Timestamp(TimeUs),
    /// JSON text, walked.
    Json(&'a str),
}

/// Reads a cell; says what was wanted when it cannot be read.
pub fn parse_cell(text: &str, value_type: ValueType) -> Result<Cell<'_>, &'static str> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok(Cell::Null);
    }
    match value_type {
        ValueType::String => Ok(Cell::String(text)),
        ValueType::Long => trimmed.parse().map(Cell::Long).map_err(|_| "a whole number (long)"),
        ValueType::Double => {
            let number = trimmed.parse::<f64>().ok().filter(|number| number.is_finite());
            number.map(Cell::Double).ok_or("a number with a decimal point (double)")
        }
        ValueType::Boolean => match trimmed {
            "true" | "TRUE" | "True" | "1" => Ok(Cell::Boolean(true)),
            "false" | "FALSE" | "False" | "0" => Ok(Cell::Boolean(false)),
            _ => Err("true or false (boolean)"),
        },
        ValueType::Timestamp => {
            let time = parse_time(trimmed).or_else(|| trimmed.parse().ok().and_then(from_millis));
            time.map(Cell::Timestamp).ok_or("a time (RFC 3339 text or epoch milliseconds)")
        }
        ValueType::Json => {
            let mut walker = Walker::new(trimmed);
            let walked = walker.begin().and_then(|token| walker.skip(token)).and_then(|()| walker.end());
            walked.map(|()| Cell::Json(trimmed)).map_err(|_| "JSON")
        }
    }
}

enum Builder {
    Text(StringBuilder),
    Long(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Builder {
    fn new(value_type: ValueType) -> Self {
        match value_type {
            ValueType::String | ValueType::Json => Builder::Text(StringBuilder::new()),
            ValueType::Long => Builder::Long(Int64Builder::new()),
            ValueType::Double => Builder::Double(Float64Builder::new()),
            ValueType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            ValueType::Timestamp => Builder::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(time_type())),
        }
    }

    /// Appends a cell of this column's type; any other is null.
    fn append(&mut self, cell: &Cell<'_>) {
        match (self, cell) {
            (Builder::Text(builder), Cell::String(text) | Cell::Json(text)) => builder.append_value(text),
            (Builder::Long(builder), Cell::Long(value)) => builder.append_value(*value),
            (Builder::Double(builder), Cell::Double(value)) => builder.append_value(*value),
            (Builder::Boolean(builder), Cell::Boolean(value)) => builder.append_value(*value),
            (Builder::Timestamp(builder), Cell::Timestamp(value)) => builder.append_value(*value),
            (Builder::Text(builder), _) => builder.append_null(),
            (Builder::Long(builder), _) => builder.append_null(),
            (Builder::Double(builder), _) => builder.append_null(),
            (Builder::Boolean(builder), _) => builder.append_null(),
            (Builder::Timestamp(builder), _) => builder.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Builder::Text(mut builder) => Arc::new(builder.finish()),
            Builder::Long(mut builder) => Arc::new(builder.finish()),
            Builder::Double(mut builder) => Arc::new(builder.finish()),
            Builder::Boolean(mut builder) => Arc::new(builder.finish()),
            Builder::Timestamp(mut builder) => Arc::new(builder.finish()),
        }
    }
}

/// Reads rows of a CSV file with these columns.
pub struct CsvRows {
    columns: Vec<(String, ValueType)>,
    schema: SchemaRef,
}

impl CsvRows {
    pub fn new(columns: &[(String, ValueType)]) -> Self {
        let columns: Vec<(String, ValueType)> = match columns {
            [] => ENVELOPE.iter().map(|(name, value_type)| (name.to_string(), *value_type)).collect(),
            declared => declared.to_vec(),
        };
        let fields = columns.iter().map(|(name, value_type)| ArrowField::new(name, value_type.arrow(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        CsvRows { columns, schema }
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    pub fn decode(&mut self, raw: &RawBatch) -> Decoded {
        let mut builders: Vec<Builder> = self.columns.iter().map(|(_, value_type)| Builder::new(*value_type)).collect();
        let mut texts: Vec<Option<Cow<'_, str>>> = Vec::new();
        let (records, rejects) = each_text(raw, |text| {
            texts.clear();
            texts.resize(self.columns.len(), None);
            self.read(text, &mut texts)?;
            let cells: Result<Vec<Cell<'_>>, Box<JsonError>> = self
                .columns
                .iter()
                .zip(&texts)
                .map(|((name, value_type), text)| cell(name, *value_type, text))
                .collect();
            for (builder, cell) in builders.iter_mut().zip(cells?) {
                builder.append(&cell);
            }
            Ok(())
        });
        let columns = builders.into_iter().map(Builder::finish).collect();
        finish(raw, &self.schema, columns, records, rejects)
    }

    /// The cells of the declared columns; others are ignored.
    fn read<'a>(&self, text: &'a str, cells: &mut [Option<Cow<'a, str>>]) -> Walked<()> {
        let mut walker = Walker::new(text);
        let token = walker.begin()?;
        if token != Token::Object {
            let reason = format!("expected an object (a CSV row), found {}", token.kind());
            return Err(JsonError::new("not_an_object", reason, walker.start()));
        }
        while let Some(key) = walker.next_key()? {
            let key = key.decode();
            let token = walker.begin()?;
            let column = self.columns.iter().position(|(name, _)| *name == key);
            match (column, token) {
                (Some(column), Token::String(text)) => cells[column] = Some(text.decode()),
                (Some(column), Token::Number(number)) => cells[column] = Some(Cow::Borrowed(number.text)),
                (Some(column), Token::Boolean(value)) => cells[column] = Some(Cow::Owned(value.to_string())),
                (None, token) => walker.skip(token)?,
                (Some(_), Token::Null) => {}
                (Some(_), other) => {
                    let reason = format!("expected a string (a CSV cell), found {}", other.kind());
                    return Err(JsonError::new("wrong_type", reason, walker.start()).under(key));
                }
            }
        }
        walker.end()
    }
}

fn cell<'a>(name: &str, value_type: ValueType, text: &'a Option<Cow<'_, str>>) -> Walked<Cell<'a>> {
    let Some(text) = text else { return Ok(Cell::Null) };
    parse_cell(text, value_type).map_err(|wanted| {
        let reason = format!("expected {wanted}, found {:?}", shorten(text));
        JsonError::new("wrong_type", reason, 0).under(name)
    })
}
