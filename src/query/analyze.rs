//! Analyses, run: the statement, and what is worked out of its rows.

mod anomalies;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::prelude::SessionContext;

use super::{QueryError, Rows, Target, lake, rows};
use crate::analysis::{AnalysisKind, AnalysisPlan, AttributionPlan, Contact, Credits, Range, touches};
use crate::expression::Dialect;

impl Target {
    pub fn dialect(&self) -> Dialect {
        match self {
            Target::Lake { .. } => Dialect::DataFusion,
            Target::ClickHouse { .. } => Dialect::ClickHouse,
        }
    }
}

/// The answer of an analysis over the events of a range. At least one batch comes back, if an empty one.
///
/// # Errors
/// As of [`query`](super::query); [`QueryError::Sql`] also for a Markov chain that is too large, with what to do.
pub async fn analyze(target: &Target, plan: &AnalysisPlan, range: Range) -> Result<Vec<RecordBatch>, QueryError> {
    finish(plan, range, rows(target, &plan.statement(range, target.dialect())).await?).await
}

/// The same over the tables of a session.
///
/// # Errors
/// As of [`analyze`].
pub async fn analyze_in(
    context: &SessionContext,
    plan: &AnalysisPlan,
    range: Range,
) -> Result<Vec<RecordBatch>, QueryError> {
    finish(plan, range, lake::rows(context, &plan.statement(range, Dialect::DataFusion)).await?).await
}

async fn finish(plan: &AnalysisPlan, range: Range, rows: Rows) -> Result<Vec<RecordBatch>, QueryError> {
    match &plan.kind {
        AnalysisKind::Attribution(plan) => Ok(vec![owed(plan, rows).await?]),
        AnalysisKind::Anomalies(anomalies) => {
            Ok(vec![anomalies::judged(plan, anomalies, range, &rows.collect().await?)?])
        }
        _ => rows.collect().await,
    }
}

/// A column of an answer as this type, whatever the engine gives it as.
fn column(batch: &RecordBatch, name: &str, data_type: &DataType) -> Result<ArrayRef, QueryError> {
    let column = batch.column_by_name(name).ok_or_else(|| QueryError::Sql(format!("no column {name}")))?;
    cast(column, data_type).map_err(|error| QueryError::Sql(error.to_string()))
}

/// Rows of [`AttributionPlan`]'s statement → `model`, `channel`, `conversions`, `value`, `share` of the conversions.
///
/// A row is a person, of whom one at a time is held.
async fn owed(plan: &AttributionPlan, mut rows: Rows) -> Result<RecordBatch, QueryError> {
    let failed = |error: arrow::error::ArrowError| QueryError::Sql(error.to_string());
    let mut credits = Credits::new(plan);
    while let Some(batch) = rows.next().await? {
        let lists = |name: &str, of: DataType| {
            column(&batch, name, &DataType::new_list(of, true)).map(|lists| lists.as_list::<i32>().clone())
        };
        let (times, values) = (lists("at_us", DataType::Int64)?, lists("value", DataType::Float64)?);
        let (converts, touched) = (lists("is_conversion", DataType::Boolean)?, lists("is_touch", DataType::Boolean)?);
        let channels = lists("channel", DataType::Utf8)?;
        for person in 0..batch.num_rows() {
            let (times, values) = (times.value(person), values.value(person));
            let (times, values) = (times.as_primitive::<Int64Type>(), values.as_primitive::<Float64Type>());
            let (converts, touched) = (converts.value(person), touched.value(person));
            let (converts, touched) = (converts.as_boolean(), touched.as_boolean());
            let channels = channels.value(person);
            let channels = channels.as_string::<i32>();
            let contact = |at: usize| Contact {
                at_us: times.value(at),
                conversion: converts.value(at).then(|| values.value(at)),
                channel: touched.value(at).then(|| channels.value(at)),
            };
            let contacts: Vec<Contact<'_>> = (0..times.len()).map(contact).collect();
            touches(plan.lookback_us, &contacts).for_each(|one| credits.add(one));
        }
    }
    let (mut models, mut names) = (Vec::new(), Vec::new());
    let (mut counts, mut values, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for (model, credit) in credits.finish().map_err(QueryError::Sql)? {
        let total: f64 = credit.values().map(|credit| credit.conversions).sum();
        for (channel, credit) in credit {
            models.push(model.name());
            names.push(channel);
            counts.push(credit.conversions);
            values.push(credit.value);
            shares.push(credit.conversions / total);
        }
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("model", Arc::new(StringArray::from(models))),
        ("channel", Arc::new(StringArray::from(names))),
        ("conversions", Arc::new(Float64Array::from(counts))),
        ("value", Arc::new(Float64Array::from(values))),
        ("share", Arc::new(Float64Array::from(shares))),
    ];
    RecordBatch::try_from_iter(columns).map_err(failed)
}
