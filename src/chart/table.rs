//! The answer of an analysis, read by column.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimeUnit};
use chrono_tz::Tz;

use super::time;
use crate::event::TimeUs;

pub struct Table {
    rows: RecordBatch,
    zone: Tz,
}

impl Table {
    /// # Errors
    /// Batches of different columns.
    pub fn new(batches: &[RecordBatch], zone: Tz) -> Result<Table, String> {
        let first = batches.first().ok_or_else(|| "no answer to draw".to_string())?;
        let rows = concat_batches(&first.schema(), batches).map_err(|error| error.to_string())?;
        Ok(Table { rows, zone })
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn names(&self) -> Vec<String> {
        self.rows.schema_ref().fields().iter().map(|field| field.name().clone()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.rows.column_by_name(name).is_some()
    }

    fn column(&self, name: &str) -> Result<&ArrayRef, String> {
        self.rows.column_by_name(name).ok_or_else(|| format!("the answer has no column `{name}` to draw"))
    }

    fn cast(&self, name: &str, to: &DataType) -> Result<ArrayRef, String> {
        cast(self.column(name)?, to).map_err(|error| format!("column `{name}` cannot be drawn: {error}"))
    }

    /// Null is an empty text.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let column = self.cast(name, &DataType::Utf8)?;
        Ok(column.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_string()).collect())
    }

    pub fn numbers(&self, name: &str) -> Result<Vec<Option<f64>>, String> {
        let column = self.cast(name, &DataType::Float64)?;
        let numbers = column.as_primitive::<Float64Type>().iter();
        Ok(numbers.map(|number| number.filter(|number| number.is_finite())).collect())
    }

    /// Null is 0.
    pub fn counts(&self, name: &str) -> Result<Vec<f64>, String> {
        Ok(self.numbers(name)?.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// A date is the midnight with which it begins in the pipeline's zone.
    pub fn times(&self, name: &str) -> Result<Vec<Option<TimeUs>>, String> {
        let column = self.column(name)?;
        if matches!(column.data_type(), DataType::Date32) {
            let days = column.as_primitive::<Date32Type>().iter();
            return Ok(days.map(|day| time::midnight(day?, self.zone)).collect());
        }
        let column = self.cast(name, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let column = cast(&column, &DataType::Int64).map_err(|error| error.to_string())?;
        Ok(column.as_primitive::<Int64Type>().iter().collect())
    }
}
