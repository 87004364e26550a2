//! Values as texts, so that columns can be compared with what apache-avro reads: equal where the texts are.

use std::collections::BTreeMap;

use apache_avro::types::Value as V;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{self as types, DataType};

/// A cell of a column, written so that it can be compared with [`written`].
pub fn cell(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return "null".to_owned();
    }
    let list = |items: &ArrayRef| (0..items.len()).map(|item| cell(items, item)).collect::<Vec<_>>().join(",");
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<types::Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<types::Int64Type>().value(row).to_string(),
        DataType::Date32 => array.as_primitive::<types::Date32Type>().value(row).to_string(),
        DataType::Time32(_) => array.as_primitive::<types::Time32MillisecondType>().value(row).to_string(),
        DataType::Time64(_) => array.as_primitive::<types::Time64MicrosecondType>().value(row).to_string(),
        DataType::Timestamp(_, zone) => {
            assert!(zone.as_deref().is_none_or(|zone| zone == "UTC"));
            array.as_primitive::<types::TimestampMicrosecondType>().value(row).to_string()
        }
        DataType::Float32 => format!("{:08x}", array.as_primitive::<types::Float32Type>().value(row).to_bits()),
        DataType::Float64 => format!("{:016x}", array.as_primitive::<types::Float64Type>().value(row).to_bits()),
        DataType::Decimal128(_, _) => array.as_primitive::<types::Decimal128Type>().value(row).to_string(),
        DataType::Utf8 => format!("{:?}", array.as_string::<i32>().value(row)),
        DataType::Binary => format!("{:02x?}", array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(_) => format!("{:02x?}", array.as_fixed_size_binary().value(row)),
        DataType::List(_) => format!("[{}]", list(&array.as_list::<i32>().value(row))),
        DataType::Struct(_) => {
            let fields = array.as_struct().columns().iter().map(|column| cell(column, row));
            format!("({})", fields.collect::<Vec<_>>().join(","))
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            // A key that comes again counts last, as for apache-avro.
            let entries: BTreeMap<String, String> = (0..entries.len())
                .map(|entry| (cell(entries.column(0), entry), cell(entries.column(1), entry)))
                .collect();
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", entries.join(","))
        }
        other => panic!("{other} is not expected in a column"),
    }
}

/// The same for apache-avro's value.
pub fn written(value: &V) -> String {
    let list = |items: &mut dyn Iterator<Item = &V>| items.map(written).collect::<Vec<_>>().join(",");
    match value {
        V::Null => "null".to_owned(),
        V::Boolean(value) => value.to_string(),
        V::Int(value) | V::Date(value) | V::TimeMillis(value) => value.to_string(),
        V::Long(value) | V::TimeMicros(value) => value.to_string(),
        V::TimestampMicros(value) | V::LocalTimestampMicros(value) => value.to_string(),
        V::TimestampMillis(value) | V::LocalTimestampMillis(value) => value.saturating_mul(1000).to_string(),
        V::TimestampNanos(value) | V::LocalTimestampNanos(value) => value.div_euclid(1000).to_string(),
        V::Float(value) => format!("{:08x}", value.to_bits()),
        V::Double(value) => format!("{:016x}", value.to_bits()),
        V::String(text) | V::Enum(_, text) => format!("{text:?}"),
        V::Bytes(bytes) | V::Fixed(_, bytes) => format!("{bytes:02x?}"),
        V::Decimal(decimal) => {
            // No bytes at all are 0, which apache-avro cannot write as bytes again.
            let bytes = Vec::<u8>::try_from(decimal).unwrap_or_default();
            let mut value = [if bytes.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 }; 16];
            value[16 - bytes.len()..].copy_from_slice(&bytes);
            i128::from_be_bytes(value).to_string()
        }
        V::Union(_, value) => written(value),
        V::Array(items) => format!("[{}]", list(&mut items.iter())),
        V::Record(fields) => format!("({})", list(&mut fields.iter().map(|(_, value)| value))),
        V::Map(entries) => {
            let entries: BTreeMap<String, String> =
                entries.iter().map(|(key, value)| (format!("{key:?}"), written(value))).collect();
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", entries.join(","))
        }
        other => panic!("{other:?} is not generated"),
    }
}

/// A row of columns, to be compared with the record that was written.
pub fn row(columns: &RecordBatch, row: usize) -> String {
    let cells = columns.columns().iter().map(|column| cell(column, row));
    format!("({})", cells.collect::<Vec<_>>().join(","))
}
