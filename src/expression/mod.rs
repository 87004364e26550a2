//! SQL expressions: checked against the columns in scope, then evaluated over whole batches.
//!
//! [`Expression::compile`] parses one expression, resolves names through a [`Scope`], refuses what is not on the
//! allow-list (`functions`), checks the types (`check`) and plans it. [`Expression::bind`] fixes the columns to a
//! schema; a [`BoundExpression`] is evaluated batch by batch.
//!
//! # What expressions mean
//!
//! - **Types** are boolean, long (`Int64`), double (`Float64`), text (`Utf8`) and timestamp (UTC microseconds). There is
//!   no date: a date is the timestamp of its midnight, UTC. Columns of other widths are read as the nearest of these
//!   (a decimal as a double). Lists, structs and maps can be passed on whole or tested for null, nothing else.
//! - **No silent conversions** but long to double, and a literal text to a timestamp where one is compared with a
//!   timestamp. `||` and `concat` write longs and booleans as text. Everything else says `CAST`.
//! - **One row never fails a batch.** `CAST` means `TRY_CAST`: what cannot be converted is null. So are `/`, `%` and
//!   `div` by zero, a text that is no timestamp, an impossible date, and every double that is not a finite number, read
//!   or computed (and `-0.0` is `0.0`). Arithmetic on longs wraps around, as in ClickHouse.
//! - `/` **is real division**, whatever the operands; `div(a, b)` is whole-number division towards zero.
//! - **Null** follows SQL's three values: `null AND false` is false, `null OR true` is true, `x IN (…, null)` is never
//!   false, comparisons with null are null. `||` with a null is null; `concat`, `least` and `greatest` skip nulls.
//!   In a predicate null counts as false.
//! - Text compares by its bytes; positions and lengths count characters, from 1.
//! - `now()` **is a column**, [`NOW_COLUMN`], and stands only where a trait's time is compared with it (`now`), so that it
//!   is known when the comparison next changes: [`TimeComparison::flip`]. So does `has_been('segment', INTERVAL '7 days')`.

mod arguments;
mod check;
mod functions;
mod kinds;
mod now;
mod nulls;
mod parse;
pub mod parts;
mod projected;
mod render;
mod scope;
#[cfg(test)]
mod tests;
mod time;
mod total;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion::functions::core::get_field;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::expressions::Column as ColumnExpr;
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::sqlparser::ast;

pub use now::NOW_COLUMN;
pub use nulls::NullWarning;
pub use parse::parse_path;
pub(crate) use parse::{located, parse_select};
pub use projected::Projected;
pub use render::Dialect;
pub use scope::{ColumnScope, nearest};
pub use time::{CalendarOffset, TimeComparison, TimeOperator};

/// What a name in an expression stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The column of the batch.
    pub column: String,
    /// The value's type: the column's, or of what `nested` leads to.
    pub data_type: DataType,
    /// Struct fields (or the key of a map) to follow inside the column, outermost first; empty for the column itself.
    pub nested: Vec<String>,
}

/// The names an expression may use.
pub trait Scope {
    /// `path` is the name split at its dots: `["properties", "total"]`. `in_segment('x')` asks for
    /// `["in_segment", "x"]`, a boolean; `has_been('x', …)` for `["has_been", "x"]`, a timestamp: since when the profile
    /// is a member, null if it is none. None when there is no such name here.
    fn resolve(&self, path: &[&str]) -> Option<Resolved>;
    /// Every name as a user would write it: for suggestions. Segments as `in_segment('x')`.
    fn names(&self) -> Vec<String>;
    /// Why a name that people will try is not here, instead of a suggestion.
    fn why_not(&self, path: &[&str]) -> Option<String> {
        let _ = path;
        None
    }
    /// Whether there is a `now()`: where values are computed again when time alone passes.
    fn knows_now(&self) -> bool {
        false
    }
    /// Whether a name that resolves can be null; for [`Expression::null_warnings`].
    fn nullable(&self, path: &[&str]) -> bool {
        path.first() != Some(&"in_segment")
    }
}

/// Why an expression is refused, with the place inside it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    pub message: String,
    /// What to do; often the nearest valid name.
    pub help: Option<String>,
    /// Bytes of the expression's text that are at fault.
    pub span: Option<Range<usize>>,
}

/// A parsed and type-checked expression.
#[derive(Debug, Clone)]
pub struct Expression {
    /// As the user wrote it.
    pub sql: String,
    /// The columns it reads, without repetition, in order of first use; [`NOW_COLUMN`] among them where it reads the
    /// time.
    pub inputs: Vec<Resolved>,
    /// Where it compares with `now()`, without repetition: its value changes without an event only when one of these does.
    pub times: Vec<TimeComparison>,
    /// Where null counts as false though the condition reads otherwise.
    pub null_warnings: Vec<NullWarning>,
    /// The type of its value: `Boolean`, `Int64`, `Float64`, `Utf8`, UTC microseconds; or, where the whole expression
    /// is one name, that column's list, struct or map.
    pub data_type: DataType,
    /// What was checked; what SQL is rendered from. Its column `i` is the i-th input.
    checked: Expr,
    /// The same, planned.
    physical: Arc<dyn PhysicalExpr>,
}

impl Expression {
    /// # Errors
    /// Syntax, unknown name or function, wrong types, anything volatile, aggregates, subqueries, and `now()` where
    /// the scope has none or it does not stand as `trait < now() - INTERVAL '7 days'`.
    pub fn compile(sql: &str, scope: &dyn Scope) -> Result<Expression, ExpressionError> {
        let parsed = parse::parse_expression(sql)?;
        let expression = Expression::from_ast(sql, &parsed, scope)?;
        Ok(Expression { sql: sql.to_string(), ..expression })
    }

    /// Like [`Expression::compile`], and the value must be a boolean.
    pub fn compile_predicate(sql: &str, scope: &dyn Scope) -> Result<Expression, ExpressionError> {
        let expression = Expression::compile(sql, scope)?;
        expression.require_boolean(0..sql.len())?;
        Ok(expression)
    }

    /// Checks and plans a part of a larger statement; spans are relative to `text`, the whole statement.
    pub(crate) fn from_ast(text: &str, parsed: &ast::Expr, scope: &dyn Scope) -> Result<Expression, ExpressionError> {
        let checked = check::check(text, parsed, scope)?;

        let columns: Vec<Field> = (checked.inputs.iter().enumerate())
            .map(|(index, input)| Field::new(check::input_name(index), input.data_type.clone(), true))
            .collect();
        let planned = plan(&checked.expr, Schema::new(columns));
        let whole = parse::place(text, parsed);
        let (physical, data_type) = planned.map_err(|error| ExpressionError {
            message: format!("this expression cannot be planned: {}", error.strip_backtrace()),
            help: None,
            span: whole.clone(),
        })?;
        if data_type != checked.data_type {
            return Err(ExpressionError {
                message: format!("this expression was checked as {} but planned as {data_type}", checked.data_type),
                help: Some("write its parts with CAST".into()),
                span: whole,
            });
        }
        Ok(Expression {
            sql: parsed.to_string(),
            inputs: checked.inputs,
            times: checked.times,
            null_warnings: nulls::warnings(text, parsed, scope),
            data_type,
            checked: checked.expr,
            physical,
        })
    }

    /// Refuses a value that is not a boolean, pointing at `span`.
    pub(crate) fn require_boolean(&self, span: Range<usize>) -> Result<(), ExpressionError> {
        if self.data_type == DataType::Boolean {
            return Ok(());
        }
        Err(ExpressionError {
            message: format!("a condition must be true or false, this is {}", kinds::describe(&self.data_type)),
            help: Some("compare it with something, or test IS NOT NULL".into()),
            span: Some(span),
        })
    }

    /// Fixes the expression to a schema that holds all its `inputs`, perhaps among others.
    ///
    /// # Errors
    /// A column is missing or has another type than the one it was checked with.
    pub fn bind(&self, schema: &SchemaRef) -> Result<BoundExpression, ExpressionError> {
        let refused = |message: String, help: Option<String>| ExpressionError { message, help, span: None };
        let mut columns = Vec::with_capacity(self.inputs.len());
        let mut readers = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let Some((index, field)) = schema.column_with_name(&input.column) else {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                return Err(refused(
                    format!("`{}` reads the column `{}`, which the data does not have", self.sql, input.column),
                    nearest(&input.column, names).map(|name| format!("did you mean `{name}`?")),
                ));
            };
            let (reader, data_type) = self.reader(input, field).map_err(|message| refused(message, None))?;
            if !data_type.equals_datatype(&input.data_type) {
                let (sql, column, expected) = (&self.sql, &input.column, &input.data_type);
                let message = format!("`{sql}` reads `{column}` as {expected}, but the data holds {data_type}");
                return Err(refused(message, None));
            }
            columns.push((index, field.data_type().clone()));
            readers.push(reader);
        }
        let bound = self.physical.clone().transform_down(|node| {
            let reader = node.downcast_ref::<ColumnExpr>().and_then(|column| readers.get(column.index()));
            Ok(match reader {
                Some(reader) => Transformed::new(reader.clone(), true, TreeNodeRecursion::Jump),
                None => Transformed::no(node),
            })
        });
        let fail = |error: DataFusionError| format!("`{}` cannot be bound: {}", self.sql, error.strip_backtrace());
        let physical = bound.and_then(|bound| reassign_expr_columns(bound.data, schema));
        let physical = physical.map_err(|error| refused(fail(error), None))?;
        Ok(BoundExpression { physical, columns, data_type: self.data_type.clone() })
    }

    /// Reads one input out of its column.
    fn reader(&self, input: &Resolved, field: &Field) -> Result<(Arc<dyn PhysicalExpr>, DataType), String> {
        let mut expr = Expr::Column(Column::new_unqualified(&input.column));
        for step in &input.nested {
            let step = Expr::Literal(ScalarValue::from(step.as_str()), None);
            expr = Expr::ScalarFunction(ScalarFunction::new_udf(get_field(), vec![expr, step]));
        }
        plan(&expr, Schema::new(vec![field.clone()])).map_err(|error| {
            let path = input.nested.join(".");
            format!("`{}` reads `{path}` of `{}`: {}", self.sql, input.column, error.strip_backtrace())
        })
    }
}

/// The expression must have exact types already: nothing is coerced here.
fn plan(expr: &Expr, schema: Schema) -> Result<(Arc<dyn PhysicalExpr>, DataType), DataFusionError> {
    let schema = DFSchema::try_from(schema)?;
    let physical = create_physical_expr(expr, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let data_type = physical.data_type(schema.as_arrow())?;
    Ok((physical, data_type))
}

/// An expression that is ready to run over batches of one schema.
#[derive(Debug, Clone)]
pub struct BoundExpression {
    physical: Arc<dyn PhysicalExpr>,
    /// Where the inputs are, and their types.
    columns: Vec<(usize, DataType)>,
    data_type: DataType,
}

/// The batch is not one that the expression was bound to. Values never fail: a row that cannot be computed is null.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EvaluateError(pub String);

impl BoundExpression {
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// One value per row.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, EvaluateError> {
        self.check_columns(batch)?;
        let evaluated = self.physical.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        match evaluated {
            Ok(values) => Ok(values),
            Err(error) => self.evaluate_in_halves(batch, &error.strip_backtrace()),
        }
    }

    /// One boolean per row without nulls: null counts as false.
    pub fn evaluate_predicate(&self, batch: &RecordBatch) -> Result<BooleanArray, EvaluateError> {
        let values = self.evaluate(batch)?;
        let Some(booleans) = values.as_boolean_opt() else {
            return Err(EvaluateError(format!("a condition gave {} instead of a boolean", values.data_type())));
        };
        if booleans.null_count() == 0 {
            return Ok(booleans.clone());
        }
        Ok(prep_null_mask_filter(booleans))
    }

    fn check_columns(&self, batch: &RecordBatch) -> Result<(), EvaluateError> {
        for (index, data_type) in &self.columns {
            let fits = *index < batch.num_columns() && batch.column(*index).data_type().equals_datatype(data_type);
            if !fits {
                return Err(EvaluateError(format!(
                    "the batch's column {index} is not the {data_type} that `{}` was bound to",
                    self.physical
                )));
            }
        }
        Ok(())
    }

    /// Functions answer null for their own bad rows; what still fails (an operator that no one thought of) is narrowed
    /// down to its rows, which become null.
    fn evaluate_in_halves(&self, batch: &RecordBatch, error: &str) -> Result<ArrayRef, EvaluateError> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Err(EvaluateError(error.to_string()));
        }
        if rows == 1 {
            return Ok(arrow::array::new_null_array(&self.data_type, 1));
        }
        let half = rows / 2;
        let parts = [self.evaluate(&batch.slice(0, half))?, self.evaluate(&batch.slice(half, rows - half))?];
        arrow::compute::concat(&[&parts[0], &parts[1]]).map_err(|error| EvaluateError(error.to_string()))
    }
}
