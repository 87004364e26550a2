//! `quantile`, `quantileExact`, `quantileExactInclusive`, and `quantiles…` of several levels. All are exact here.
//!
//! The engine's `quantile` is so up to 8,192 values in a group, and takes a sample of more.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, concat, filter, is_not_null, sort};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use super::{alias, default_of, parameters};

const PARTS_MAX: usize = 64;

pub fn functions() -> Vec<AggregateUDF> {
    let function = |name: &'static str, rule: Rule, several: bool| {
        let signature = Signature::variadic_any(Volatility::Immutable);
        AggregateUDF::from(Quantile { name, rule, several, signature, aliases: alias(name) })
    };
    vec![
        function("quantile", Rule::Between, false),
        function("quantiles", Rule::Between, true),
        function("quantileExact", Rule::Member, false),
        function("quantilesExact", Rule::Member, true),
        function("quantileExactInclusive", Rule::Inclusive, false),
        function("quantilesExactInclusive", Rule::Inclusive, true),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rule {
    /// Between the two nearest values, as a weighted mean of them.
    Between,
    /// Between the two nearest values, as the lower one and a share of the way. (Another rounding.)
    Inclusive,
    /// One of the values.
    Member,
}

impl Rule {
    /// Of sorted values, at least one.
    fn between(self, values: &[f64], level: f64) -> f64 {
        let last = values.len() - 1;
        let position = level * last as f64;
        if self == Rule::Inclusive {
            // Counted from 1, and rounded there, as the engine does.
            let position = position + 1.0;
            let index = position as usize;
            return match (index.checked_sub(1).and_then(|left| values.get(left)), values.get(index)) {
                (Some(left), Some(right)) => left + (position - index as f64) * (right - left),
                (None, _) => values[0],
                (_, None) => values[last],
            };
        }
        let left = (position as usize).min(last);
        match values.get(left + 1) {
            Some(right) => values[left] * ((left + 1) as f64 - position) + right * (position - left as f64),
            None => values[left],
        }
    }
}

/// The numbers behind times and dates.
fn whole(of: &DataType) -> DataType {
    if *of == DataType::Date32 { DataType::Int32 } else { DataType::Int64 }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Quantile {
    name: &'static str,
    rule: Rule,
    several: bool,
    signature: Signature,
    aliases: Vec<String>,
}

impl Quantile {
    /// Of one value, for values of this type.
    fn value_type(&self, of: &DataType) -> Result<DataType> {
        match of {
            DataType::Timestamp(..) | DataType::Date32 if self.rule != Rule::Inclusive => Ok(of.clone()),
            DataType::Decimal128(..) if self.rule == Rule::Member => Ok(of.clone()),
            of if of.is_numeric() && self.rule == Rule::Member => Ok(of.clone()),
            of if of.is_numeric() || of.is_null() => Ok(DataType::Float64),
            of => plan_err!("{} takes numbers, not {of}", self.name),
        }
    }
}

impl AggregateUDFImpl for Quantile {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let (Some(of), true) = (arguments.last(), arguments.len() > 1) else {
            return plan_err!("{} takes one value", self.name);
        };
        let value = self.value_type(of)?;
        Ok(if self.several { DataType::List(Arc::new(Field::new_list_field(value, true))) } else { value })
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(self.values(&arguments)?))
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        arguments.expr_fields.last().is_some_and(|field| self.is_between_numbers(field.data_type()))
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups { one: self.values(&arguments)?, groups: Vec::new(), held: 0 }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let of = arguments.input_fields.last().map_or(DataType::Null, |field| self.kept_type(field.data_type()));
        Ok(vec![Arc::new(Field::new_list("values", Field::new_list_field(of, true), true))])
    }
}

impl Quantile {
    fn is_between_numbers(&self, of: &DataType) -> bool {
        self.rule != Rule::Member && (of.is_numeric() || of.is_null())
    }

    /// What is kept of values of this type.
    fn kept_type(&self, of: &DataType) -> DataType {
        if self.is_between_numbers(of) { DataType::Float64 } else { of.clone() }
    }

    fn values(&self, arguments: &AccumulatorArgs<'_>) -> Result<Values> {
        let (given, skip) = parameters(self.name, arguments)?;
        let [field] = &arguments.expr_fields[skip..] else { return plan_err!("{} takes one value", self.name) };
        let levels: Option<Vec<f64>> = given
            .iter()
            .map(|level| match level {
                ScalarValue::Float64(Some(level)) => Some(*level),
                ScalarValue::Int64(Some(level)) => Some(*level as f64),
                _ => None,
            })
            .collect();
        let mut levels = levels.unwrap_or_else(|| vec![f64::NAN]);
        if levels.is_empty() && !self.several {
            levels.push(0.5);
        }
        if levels.is_empty() || levels.iter().any(|level| !(0.0..=1.0).contains(level)) {
            return plan_err!("{}: a level is a number from 0 to 1: {0}(0.5)(…)", self.name);
        }
        if levels.len() > 1 && !self.several {
            return plan_err!("{} takes one level", self.name);
        }
        Ok(Values {
            rule: self.rule,
            several: self.several,
            skip,
            nullable: field.is_nullable(),
            levels,
            of: self.kept_type(field.data_type()),
            gives: self.value_type(field.data_type())?,
            parts: Vec::new(),
        })
    }
}

#[derive(Debug)]
struct Values {
    rule: Rule,
    several: bool,
    /// Columns of parameters before the values.
    skip: usize,
    nullable: bool,
    levels: Vec<f64>,
    of: DataType,
    gives: DataType,
    /// Without nulls and NaN.
    parts: Vec<ArrayRef>,
}

impl Values {
    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        let mut values = cast(values, &self.of)?;
        if values.null_count() > 0 || values.data_type().is_null() {
            values = filter(&values, &is_not_null(&values)?)?;
        }
        if let Some(doubles) = values.as_primitive_opt::<Float64Type>()
            && doubles.values().iter().any(|value| value.is_nan())
        {
            let kept = doubles.values().iter().copied().filter(|value| !value.is_nan());
            values = Arc::new(Float64Array::from_iter_values(kept));
        }
        if !values.is_empty() {
            self.parts.push(values);
        }
        // Parts are slices of whole batches, which would stay.
        if self.parts.len() >= PARTS_MAX {
            self.parts = vec![self.all()?];
        }
        Ok(())
    }

    fn all(&self) -> Result<ArrayRef> {
        if self.parts.is_empty() {
            return Ok(arrow::array::new_empty_array(&self.of));
        }
        let parts: Vec<&dyn Array> = self.parts.iter().map(AsRef::as_ref).collect();
        Ok(concat(&parts)?)
    }

    fn at(&self, sorted: &ArrayRef, level: f64) -> Result<ScalarValue> {
        let count = sorted.len();
        if self.rule == Rule::Member {
            let index = if level < 1.0 { (level * count as f64) as usize } else { count - 1 };
            return ScalarValue::try_from_array(sorted, index.min(count - 1));
        }
        let numbers =
            if sorted.data_type().is_temporal() { cast(sorted, &whole(sorted.data_type()))? } else { sorted.clone() };
        let value =
            self.rule.between(cast(&numbers, &DataType::Float64)?.as_primitive::<Float64Type>().values(), level);
        match &self.gives {
            DataType::Float64 => Ok(ScalarValue::Float64(Some(value))),
            DataType::Date32 => Ok(ScalarValue::Date32(Some(value as i32))),
            other => ScalarValue::Int64(Some(value as i64)).cast_to(other),
        }
    }
}

impl Values {
    /// One value, or a list of several; what there is of none.
    fn result(&self, is_empty: bool, value: impl Fn(f64) -> Result<ScalarValue>) -> Result<ScalarValue> {
        if is_empty && self.nullable && !self.several {
            return ScalarValue::try_from(&self.gives);
        }
        let none = match self.gives {
            DataType::Float64 => ScalarValue::Float64(Some(f64::NAN)),
            ref other => default_of(other)?,
        };
        let values: Result<Vec<ScalarValue>> =
            self.levels.iter().map(|level| if is_empty { Ok(none.clone()) } else { value(*level) }).collect();
        let values = values?;
        match values.as_slice() {
            [one] if !self.several => Ok(one.clone()),
            several => Ok(ScalarValue::List(ScalarValue::new_list_nullable(several, &self.gives))),
        }
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match values.get(self.skip) {
            Some(values) => self.add(values),
            None => exec_err!("a value is missing"),
        }
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let all = self.all()?;
        let sorted = if all.is_empty() { all } else { sort(&all, None)? };
        self.result(sorted.is_empty(), |level| self.at(&sorted, level))
    }

    fn size(&self) -> usize {
        let part = |part: &ArrayRef| size_of::<ArrayRef>() + part.len() * size_of::<f64>();
        size_of_val(self) + self.parts.iter().map(part).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let all = self.all()?;
        self.parts.clear();
        Ok(vec![SingleRowListArrayBuilder::new(all).with_nullable(true).build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let Some(lists) = states.first() else { return exec_err!("a state is missing") };
        lists.as_list::<i32>().iter().flatten().try_for_each(|values| self.add(&values))
    }
}

/// Numbers of many groups, where the result is between two of them.
struct Groups {
    /// What is asked for; without values.
    one: Values,
    groups: Vec<Vec<f64>>,
    /// Values in all groups.
    held: usize,
}

impl Groups {
    fn resize(&mut self, total: usize) {
        if total > self.groups.len() {
            self.groups.resize(total, Vec::new());
        }
    }

    fn column(&self, values: &[ArrayRef]) -> Result<Float64Array> {
        let Some(values) = values.get(self.one.skip) else { return exec_err!("a value is missing") };
        Ok(cast(values, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Vec<f64>> {
        let taken = emit_to.take_needed(&mut self.groups);
        self.held -= taken.iter().map(Vec::len).sum::<usize>();
        taken
    }
}

/// The value of a row that counts.
fn counted(values: &Float64Array, filter: Option<&BooleanArray>, row: usize) -> Option<f64> {
    let chosen = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
    (chosen && values.is_valid(row)).then(|| values.value(row)).filter(|value| !value.is_nan())
}

fn lists(lengths: impl ExactSizeIterator<Item = usize>, values: Float64Array) -> Vec<ArrayRef> {
    let field = Arc::new(Field::new_list_field(DataType::Float64, true));
    vec![Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), Arc::new(values), None))]
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.resize(total);
        let values = self.column(values)?;
        for (row, group) in group_indices.iter().enumerate() {
            if let Some(value) = counted(&values, filter, row) {
                self.groups[*group].push(value);
                self.held += 1;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let mut results = Vec::new();
        for mut values in self.take(emit_to) {
            values.sort_unstable_by(f64::total_cmp);
            let value = |level| Ok(ScalarValue::Float64(Some(self.one.rule.between(&values, level))));
            results.push(self.one.result(values.is_empty(), value)?);
        }
        ScalarValue::iter_to_array(results)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit_to);
        let values = Float64Array::from_iter_values(taken.iter().flatten().copied());
        Ok(lists(taken.iter().map(Vec::len), values))
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total: usize) -> Result<()> {
        self.resize(total);
        let Some(lists) = states.first() else { return exec_err!("a state is missing") };
        let lists = lists.as_list::<i32>();
        let (starts, values) = (lists.value_offsets(), lists.values().as_primitive::<Float64Type>().values());
        for (row, group) in group_indices.iter().enumerate() {
            let values = &values[starts[row] as usize..starts[row + 1] as usize];
            self.groups[*group].extend_from_slice(values);
            self.held += values.len();
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = self.column(values)?;
        let rows: Vec<Option<f64>> = (0..values.len()).map(|row| counted(&values, filter, row)).collect();
        let lengths = rows.iter().map(|value| usize::from(value.is_some()));
        Ok(lists(lengths, Float64Array::from_iter_values(rows.iter().copied().flatten())))
    }

    fn size(&self) -> usize {
        // A list has room for up to twice of what it holds.
        self.groups.capacity() * size_of::<Vec<f64>>() + 2 * self.held * size_of::<f64>()
    }
}
