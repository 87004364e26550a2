//! An expression over columns that need not lie in one batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::{BoundExpression, EvaluateError, Expression, ExpressionError, Resolved};

/// An expression that takes just its own inputs out of many columns: evaluating it costs nothing for the others.
#[derive(Debug, Clone)]
pub struct Projected {
    /// Where its inputs are.
    pub columns: Vec<usize>,
    schema: SchemaRef,
    bound: BoundExpression,
}

impl Expression {
    /// `place` tells where a column is.
    ///
    /// # Errors
    /// A column has no place.
    pub fn project(&self, place: &dyn Fn(&Resolved) -> Option<usize>) -> Result<Projected, ExpressionError> {
        let mut columns = Vec::new();
        let mut fields: Vec<Field> = Vec::new();
        for input in &self.inputs {
            if fields.iter().any(|field| *field.name() == input.column) {
                continue;
            }
            let found = place(input).ok_or_else(|| ExpressionError {
                message: format!("`{}` reads `{}`, which is not there", self.sql, input.column),
                help: None,
                span: None,
            })?;
            columns.push(found);
            fields.push(Field::new(&input.column, input.data_type.clone(), true));
        }
        let schema = Arc::new(Schema::new(fields));
        let bound = self.bind(&schema)?;
        Ok(Projected { columns, schema, bound })
    }
}

impl Projected {
    /// One value per row; `column` gives the columns by their place.
    pub fn evaluate(&self, column: &dyn Fn(usize) -> ArrayRef, rows: usize) -> Result<ArrayRef, EvaluateError> {
        self.bound.evaluate(&self.batch(column, rows)?)
    }

    /// One boolean per row without nulls: null counts as false.
    pub fn evaluate_predicate(
        &self,
        column: &dyn Fn(usize) -> ArrayRef,
        rows: usize,
    ) -> Result<BooleanArray, EvaluateError> {
        self.bound.evaluate_predicate(&self.batch(column, rows)?)
    }

    fn batch(&self, column: &dyn Fn(usize) -> ArrayRef, rows: usize) -> Result<RecordBatch, EvaluateError> {
        let columns = self.columns.iter().map(|index| column(*index)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| EvaluateError(error.to_string()))
    }
}
