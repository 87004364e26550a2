//! Results as text: a table for people, JSON lines, CSV. A null is empty, in JSON `null`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;

use super::QueryError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Table,
    /// One object per line.
    Json,
    /// With a header.
    Csv,
}

/// The batches as text, ending with a line break.
///
/// # Errors
/// [`QueryError::Sql`]: a column has a type that cannot be written; cast it.
pub fn render(batches: &[RecordBatch], output: Output) -> Result<String, QueryError> {
    let failed = |error: arrow::error::ArrowError| QueryError::Sql(format!("result cannot be written: {error}"));
    match output {
        Output::Table => {
            let table = pretty_format_batches_with_options(batches, &FormatOptions::default()).map_err(failed)?;
            Ok(format!("{table}\n"))
        }
        Output::Json => {
            let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
            batches.iter().try_for_each(|batch| writer.write(batch)).map_err(failed)?;
            writer.finish().map_err(failed)?;
            text(writer.into_inner())
        }
        Output::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(Vec::new());
            for batch in batches {
                writer.write(&flat(batch).map_err(failed)?).map_err(failed)?;
            }
            text(writer.into_inner())
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, QueryError> {
    String::from_utf8(bytes).map_err(|_| QueryError::Sql("result is not UTF-8; use hex()".to_string()))
}

/// Maps, lists and structures as JSON text: CSV has no place for them.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if column.data_type().is_nested() {
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(as_json(column)?);
        } else {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Values of a map, list or structure as JSON texts.
pub(super) fn as_json(column: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    let field = Arc::new(Field::new("value", column.data_type().clone(), true));
    let options = arrow::json::writer::EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = arrow::json::writer::make_encoder(&field, column, &options)?;
    let mut values = StringBuilder::new();
    let mut json = Vec::new();
    for row in 0..column.len() {
        if encoder.is_null(row) {
            values.append_null();
        } else {
            json.clear();
            encoder.encode(row, &mut json);
            values.append_value(String::from_utf8_lossy(&json));
        }
    }
    Ok(Arc::new(values.finish()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, MapBuilder, StringBuilder};
    use arrow::array::{Float64Array, StringArray, TimestampMicrosecondArray, UInt64Array};

    use super::*;

    fn batch() -> RecordBatch {
        let mut identifiers = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        identifiers.keys().append_value("email");
        identifiers.values().append_value("a@b.de");
        identifiers.append(true).expect("map");
        identifiers.append(false).expect("map");
        let at = TimestampMicrosecondArray::from(vec![Some(1_767_225_600_000_000), None]).with_timezone("UTC");
        let total =
            Decimal128Array::from(vec![Some(1_250_000), None]).with_precision_and_scale(38, 6).expect("decimal");
        RecordBatch::try_from_iter_with_nullable([
            ("name", Arc::new(StringArray::from(vec![Some("a, \"b\""), None])) as ArrayRef, true),
            ("revenue", Arc::new(Float64Array::from(vec![Some(12.5), None])), true),
            ("at", Arc::new(at), true),
            ("total", Arc::new(total), true),
            ("identifiers", Arc::new(identifiers.finish()), true),
            ("n", Arc::new(UInt64Array::from(vec![1, 2])), false),
        ])
        .expect("batch")
    }

    #[test]
    fn csv_has_a_header_and_empty_nulls() {
        assert_eq!(
            render(&[batch()], Output::Csv).expect("csv"),
            "name,revenue,at,total,identifiers,n\n\
             \"a, \"\"b\"\"\",12.5,2026-01-01T00:00:00Z,1.250000,\"{\"\"email\"\":\"\"a@b.de\"\"}\",1\n,,,,,2\n"
        );
    }

    #[test]
    fn json_is_one_object_per_line() {
        let text = render(&[batch()], Output::Json).expect("json");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["identifiers"]["email"], "a@b.de");
        assert_eq!(lines[0]["revenue"], 12.5);
        assert_eq!(lines[1]["name"], serde_json::Value::Null);
        assert!(lines[1].as_object().expect("object").contains_key("revenue"));
    }

    #[test]
    fn no_rows_still_show_the_columns() {
        let empty = [RecordBatch::new_empty(batch().schema())];
        assert!(render(&empty, Output::Table).expect("table").contains("revenue"));
        assert_eq!(render(&empty, Output::Csv).expect("csv"), "name,revenue,at,total,identifiers,n\n");
        assert_eq!(render(&empty, Output::Json).expect("json"), "");
    }
}
