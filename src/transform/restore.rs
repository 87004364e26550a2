//! Stored events as they were when they were applied: the envelope from a table, the fields from its JSON.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, MapArray, RecordBatch, StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use super::ContractMode;
use super::fields::{FieldSet, ROOTS};
use crate::event::{EventBatch, Field, column, envelope_schema, schema_with};

/// Makes event batches of rows of the `events` table. Maps, filters and steps are not applied again: what is stored
/// has been through them.
#[derive(Debug, Clone)]
pub struct Restore {
    fields: FieldSet,
    schema: SchemaRef,
}

impl Restore {
    /// `fields`: those that the definitions read, as in `TransformPlan::fields`.
    pub fn new(fields: &[Field]) -> Restore {
        Restore { fields: FieldSet::new(fields), schema: schema_with(fields) }
    }

    /// The schema of the batches, that of `Transformer::schema`.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The events of these rows, which have the envelope's columns by name, in whatever types an engine gives them.
    ///
    /// # Errors
    /// A column is missing or cannot be brought to its type.
    pub fn events(&self, rows: &RecordBatch) -> Result<EventBatch, ArrowError> {
        let envelope = envelope_schema();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in envelope.fields() {
            let stored = rows.column_by_name(field.name());
            let stored = stored
                .ok_or_else(|| ArrowError::SchemaError(format!("the stored events have no column {}", field.name())))?;
            columns.push(conform(stored, field.data_type())?);
        }
        columns.extend(
            self.fields.fields().iter().map(|field| new_null_array(field.arrow().data_type(), rows.num_rows())),
        );
        for root in ROOTS {
            let texts = columns[root.column()].as_string::<i32>().clone();
            // They were checked when they came: contracts may be others by now, and do not judge what is stored.
            let (values, _) = self.fields.project(root, &texts, |_| None, ContractMode::Flag);
            for (index, values) in values {
                columns[column::COUNT + index] = values;
            }
        }
        Ok(EventBatch { batch: RecordBatch::try_new(self.schema.clone(), columns)? })
    }
}

/// Brings a column to a type; maps may have other names for their parts.
fn conform(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == wanted {
        return Ok(array.clone());
    }
    let (DataType::Map(entries, sorted), DataType::Map(..)) = (wanted, array.data_type()) else {
        return cast(array, wanted);
    };
    let DataType::Struct(parts) = entries.data_type() else {
        return Err(ArrowError::SchemaError("a map without entries".to_string()));
    };
    let map = array.as_map();
    let (keys, values) = (cast(map.keys(), parts[0].data_type())?, cast(map.values(), parts[1].data_type())?);
    let entries_array = StructArray::try_new(parts.clone(), vec![keys, values], None)?;
    let map = MapArray::try_new(entries.clone(), map.offsets().clone(), entries_array, map.nulls().cloned(), *sorted)?;
    Ok(Arc::new(map))
}
