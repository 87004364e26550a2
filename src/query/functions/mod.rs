//! ClickHouse's functions for the lake, so that one SQL text runs on both.
//!
//! What DataFusion knows under another name or in another form is rewritten before it is planned ([`rewrite`]); the rest
//! are functions of their own. Where both give a number it is the same number; docs/tables.md lists what differs.

mod arrays;
mod convert;
mod events;
mod funnel;
mod pick;
mod quantile;
mod rewrite;
mod sequence;
mod steps;
mod time;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::physical_expr::expressions::Literal;
use datafusion::prelude::SessionContext;

#[cfg(feature = "serve-sql")]
pub use rewrite::call;

pub fn register(context: &SessionContext) {
    for function in
        arrays::functions().into_iter().chain(convert::functions()).chain(time::functions()).chain([steps::function()])
    {
        context.register_udf(function);
    }
    for function in events::functions().into_iter().chain(pick::functions()).chain(quantile::functions()) {
        context.register_udaf(function);
    }
}

/// The plan of a statement that may use ClickHouse's functions and forms.
pub async fn plan(context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    let state = context.state();
    let dialect = state.config().options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(sql, &dialect)?;
    rewrite::rewrite(&mut statement).map_err(DataFusionError::Plan)?;
    state.statement_to_plan(statement).await
}

/// The text of statements with ClickHouse's forms as DataFusion takes them; None where there are none of these, or where it is not
/// read as such: another parser will say what is wrong.
///
/// # Errors
/// A text: parameters that do not fit their function.
#[cfg(feature = "serve-sql")]
pub fn rewritten(sql: &str) -> Result<Option<String>, String> {
    use datafusion::sql::parser::DFParser;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    let Ok(mut statements) = DFParser::parse_sql_with_dialect(sql, &GenericDialect {}) else { return Ok(None) };
    let mut is_other = false;
    let mut texts = Vec::new();
    for statement in &mut statements {
        let before = statement.to_string();
        rewrite::rewrite(statement)?;
        let after = statement.to_string();
        is_other |= before != after;
        texts.push(after);
    }
    Ok(is_other.then(|| texts.join("; ")))
}

/// ClickHouse's `DateTime`: whole seconds. Its `DateTime64(6)` is the tables' own type for times.
fn seconds_type() -> DataType {
    DataType::Timestamp(TimeUnit::Second, Some("UTC".into()))
}

/// The parameters of `function(parameters)(arguments)`, which [`rewrite`] put first together with their number, and how
/// many columns that makes.
fn parameters<'a>(name: &str, arguments: &'a AccumulatorArgs<'_>) -> Result<(Vec<&'a ScalarValue>, usize)> {
    let constant = |index: usize| {
        let literal = arguments.exprs.get(index)?.downcast_ref::<Literal>()?;
        Some(literal.value())
    };
    let count = match constant(0) {
        Some(ScalarValue::Int64(Some(count))) => usize::try_from(*count).ok(),
        _ => None,
    };
    let Some(count) = count else {
        return plan_err!("{name} takes its parameters first: {name}(…)(…)");
    };
    let parameters: Option<Vec<&ScalarValue>> = (1..=count).map(constant).collect();
    match parameters {
        Some(parameters) => Ok((parameters, count + 1)),
        None => plan_err!("{name}: its parameters are constants"),
    }
}

/// What ClickHouse gives where it has no value and no null either: 0, the empty text, the empty list.
fn default_of(data_type: &DataType) -> Result<ScalarValue> {
    Ok(match data_type {
        DataType::Utf8 => ScalarValue::Utf8(Some(String::new())),
        DataType::LargeUtf8 => ScalarValue::LargeUtf8(Some(String::new())),
        DataType::Utf8View => ScalarValue::Utf8View(Some(String::new())),
        DataType::Binary => ScalarValue::Binary(Some(Vec::new())),
        DataType::Boolean => ScalarValue::Boolean(Some(false)),
        DataType::Date32 => ScalarValue::Date32(Some(0)),
        DataType::List(field) => ScalarValue::List(ScalarValue::new_list_nullable(&[], field.data_type())),
        other => match ScalarValue::new_zero(other) {
            Ok(zero) => zero,
            Err(_) => ScalarValue::try_from(other)?,
        },
    })
}

/// The planner looks functions up in lower case unless they are quoted.
fn alias(name: &str) -> Vec<String> {
    let lower = name.to_lowercase();
    if lower == name { Vec::new() } else { vec![lower] }
}
