//! One batch to partial rows: filter, evaluate keys and inputs, group by the bytes of the keys, add up.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter, SortField};
use hashbrown::HashMap;

use super::plan::{PRECISION, SCALE};
use super::{AggregateColumn, AggregatePlan, AggregateRole};
use crate::expression::{BoundExpression, EvaluateError, ExpressionError};

/// A plan that is ready to run over batches of one schema.
pub struct Aggregator {
    columns: Vec<AggregateColumn>,
    inputs: Vec<Option<BoundExpression>>,
    filter: Option<BoundExpression>,
    /// The columns of the batch that `inputs` read: only they are filtered.
    read: Vec<usize>,
    keys: RowConverter,
    output: SchemaRef,
}

/// The rows of a batch by group.
struct Groups {
    /// The group of every row.
    of_row: Vec<u32>,
    /// The key columns of the groups, in order of their keys.
    keys: Vec<ArrayRef>,
    /// For every group in order of the keys, its number in `of_row`.
    sorted: Vec<u32>,
}

impl Aggregator {
    /// Binds the plan to batches of `schema`, which may have more columns than it reads.
    ///
    /// # Errors
    /// A column is missing or has another type than the plan was checked with.
    pub fn new(plan: &AggregatePlan, schema: &SchemaRef) -> Result<Aggregator, ExpressionError> {
        let filter = plan.filter.as_ref().map(|filter| filter.bind(schema)).transpose()?;

        let sources = plan.inputs.iter().flatten().flat_map(|input| &input.inputs);
        let mut read: Vec<usize> = sources.filter_map(|source| schema.index_of(&source.column).ok()).collect();
        read.sort_unstable();
        read.dedup();
        let projected = schema.project(&read).map(Arc::new).map_err(unexpected)?;
        let bind = |input: &Option<crate::expression::Expression>| match input {
            Some(input) => input.bind(&projected).map(Some),
            None => Ok(None),
        };
        let inputs = plan.inputs.iter().map(bind).collect::<Result<Vec<_>, _>>()?;

        let keys = plan.columns.iter().filter(|column| column.role == AggregateRole::Key);
        let keys = keys.map(|column| SortField::new(column.data_type.clone())).collect();
        let fields = plan.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true));
        Ok(Aggregator {
            columns: plan.columns.clone(),
            inputs,
            filter,
            read,
            keys: RowConverter::new(keys).map_err(unexpected)?,
            output: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        })
    }

    /// The columns of the partial rows, in the order of the plan.
    pub fn schema(&self) -> &SchemaRef {
        &self.output
    }

    /// The partial rows of one batch, sorted by key; none where no row counts.
    ///
    /// # Errors
    /// The batch is not one of the schema that the plan was bound to.
    pub fn run(&self, batch: &RecordBatch) -> Result<RecordBatch, EvaluateError> {
        let mask = self.filter.as_ref().map(|filter| filter.evaluate_predicate(batch)).transpose()?;
        let mut rows = batch.project(&self.read).map_err(failed)?;
        if let Some(mask) = mask.filter(|mask| mask.true_count() < mask.len()) {
            rows = filter_record_batch(&rows, &mask).map_err(failed)?;
        }
        if rows.num_rows() == 0 {
            return Ok(RecordBatch::new_empty(self.output.clone()));
        }

        let mut values: Vec<Option<ArrayRef>> = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            values.push(input.as_ref().map(|input| input.evaluate(&rows)).transpose()?);
        }
        let keys = self.columns.iter().zip(&values).filter(|(column, _)| column.role == AggregateRole::Key);
        let keys: Vec<ArrayRef> = keys.filter_map(|(_, values)| values.clone()).collect();
        let groups = self.group(&keys, rows.num_rows()).map_err(failed)?;

        let mut keys = groups.keys.iter().cloned();
        let mut columns = Vec::with_capacity(self.columns.len());
        for (column, values) in self.columns.iter().zip(&values) {
            let array = match (column.role, values) {
                (AggregateRole::Key, _) => keys.next(),
                (AggregateRole::Count, values) => Some(count(values.as_ref(), &groups)),
                (AggregateRole::Sum, Some(values)) => sum(values, &groups),
                (AggregateRole::Min, Some(values)) => extreme(values, &groups, std::cmp::Ordering::Less),
                (AggregateRole::Max, Some(values)) => extreme(values, &groups, std::cmp::Ordering::Greater),
                (_, None) => None,
            };
            let wrong = || EvaluateError(format!("the column `{}` got values of another type", column.name));
            columns.push(array.ok_or_else(wrong)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(groups.sorted.len()));
        RecordBatch::try_new_with_options(self.output.clone(), columns, &options).map_err(failed)
    }

    fn group(&self, keys: &[ArrayRef], rows: usize) -> Result<Groups, ArrowError> {
        if keys.is_empty() {
            return Ok(Groups { of_row: vec![0; rows], keys: Vec::new(), sorted: vec![0] });
        }
        let encoded = self.keys.convert_columns(keys)?;
        let mut known: HashMap<Row<'_>, u32, foldhash::fast::FixedState> = HashMap::default();
        let mut first: Vec<Row<'_>> = Vec::new();
        let mut of_row = Vec::with_capacity(rows);
        for row in encoded.iter() {
            let next = first.len() as u32;
            let group = *known.entry(row).or_insert(next);
            if group == next {
                first.push(row);
            }
            of_row.push(group);
        }
        let mut sorted: Vec<u32> = (0..first.len() as u32).collect();
        sorted.sort_unstable_by(|a, b| first[*a as usize].cmp(&first[*b as usize]));
        let keys = self.keys.convert_rows(sorted.iter().map(|group| first[*group as usize]))?;
        Ok(Groups { of_row, keys, sorted })
    }
}

impl Groups {
    /// One accumulated value per group, from the rows whose value is there.
    fn fold<V, A: Clone>(
        &self,
        values: impl Iterator<Item = Option<V>>,
        start: A,
        mut add: impl FnMut(&mut A, V),
    ) -> impl Iterator<Item = A> {
        let mut accumulated = vec![start; self.sorted.len()];
        for (group, value) in self.of_row.iter().zip(values) {
            if let Some(value) = value {
                add(&mut accumulated[*group as usize], value);
            }
        }
        let in_order: Vec<A> = self.sorted.iter().map(|group| accumulated[*group as usize].clone()).collect();
        in_order.into_iter()
    }
}

fn count(values: Option<&ArrayRef>, groups: &Groups) -> ArrayRef {
    let present = (0..groups.of_row.len()).map(|row| values.is_none_or(|values| values.is_valid(row)).then_some(()));
    let counts: Int64Array = groups.fold(present, 0_i64, |count, ()| *count += 1).map(Some).collect();
    Arc::new(counts)
}

fn sum(values: &ArrayRef, groups: &Groups) -> Option<ArrayRef> {
    let add = |sum: &mut i128, value: i128| *sum += value;
    match values.data_type() {
        DataType::Int64 => {
            let longs = values.as_primitive::<Int64Type>().iter().map(|value| value.map(i128::from));
            let sums: Int64Array = groups.fold(longs, 0, add).map(|sum| i64::try_from(sum).ok()).collect();
            Some(Arc::new(sums))
        }
        DataType::Float64 => {
            let decimals = values.as_primitive::<Float64Type>().iter().map(|value| decimal(value?));
            let limit = 10_i128.pow(u32::from(PRECISION));
            let sums = groups.fold(decimals, 0, add).map(|sum| (sum.abs() < limit).then_some(sum));
            let sums: Decimal128Array = sums.collect();
            Some(Arc::new(sums.with_precision_and_scale(PRECISION, SCALE).ok()?))
        }
        _ => None,
    }
}

/// In units of the last digit kept. Below 10²² a batch of 2³² rows cannot overflow 128 bits on the way.
fn decimal(value: f64) -> Option<i128> {
    let within = value.abs() < 1e22;
    within.then(|| (value * 10_f64.powi(i32::from(SCALE))).round() as i128)
}

fn extreme(values: &ArrayRef, groups: &Groups, wanted: std::cmp::Ordering) -> Option<ArrayRef> {
    let array: ArrayRef = match values.data_type() {
        DataType::Int64 => {
            let longs = values.as_primitive::<Int64Type>().iter();
            Arc::new(best(longs, groups, wanted, i64::cmp).collect::<Int64Array>())
        }
        DataType::Float64 => {
            // The engines that combine partial rows take both zeros for one, and then either may win: there is only one.
            let one_zero = |value: f64| if value == 0.0 { 0.0 } else { value };
            let doubles = values.as_primitive::<Float64Type>().iter();
            let doubles = doubles.map(|value| value.filter(|value| !value.is_nan()).map(one_zero));
            Arc::new(best(doubles, groups, wanted, f64::total_cmp).collect::<Float64Array>())
        }
        DataType::Timestamp(..) => {
            let times = values.as_primitive_opt::<TimestampMicrosecondType>()?.iter();
            let best: TimestampMicrosecondArray = best(times, groups, wanted, i64::cmp).collect();
            Arc::new(best.with_data_type(values.data_type().clone()))
        }
        DataType::Utf8 => {
            let texts = values.as_string::<i32>();
            // Row numbers, so that the texts are copied once.
            let rows = (0..texts.len()).map(|row| texts.is_valid(row).then_some(row));
            let rows = best(rows, groups, wanted, |a: &usize, b: &usize| texts.value(*a).cmp(texts.value(*b)));
            let best: StringArray = rows.map(|row| row.map(|row| texts.value(row))).collect();
            Arc::new(best)
        }
        _ => return None,
    };
    Some(array)
}

fn best<V: Clone>(
    values: impl Iterator<Item = Option<V>>,
    groups: &Groups,
    wanted: std::cmp::Ordering,
    compare: impl Fn(&V, &V) -> std::cmp::Ordering,
) -> impl Iterator<Item = Option<V>> {
    groups.fold(values, None, move |best: &mut Option<V>, value| {
        if best.as_ref().is_none_or(|known| compare(&value, known) == wanted) {
            *best = Some(value);
        }
    })
}

fn failed(error: ArrowError) -> EvaluateError {
    EvaluateError(format!("the partial rows cannot be made: {error}"))
}

fn unexpected(error: ArrowError) -> ExpressionError {
    ExpressionError { message: format!("the aggregate cannot be bound: {error}"), help: None, span: None }
}
