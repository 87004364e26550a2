//! `quantile`, `quantileExact`, `quantileExactInclusive`, and `quantiles…` of several levels. All are exact here.
//!
//! The engine's `quantile` is so up to 8,192 values in a group, and takes a sample of more.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::{cast, concat, filter, is_not_null, sort};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

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
        let (given, skip) = parameters(self.name, &arguments)?;
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
        Ok(Box::new(Values {
            rule: self.rule,
            several: self.several,
            skip,
            nullable: field.is_nullable(),
            levels,
            of: field.data_type().clone(),
            gives: self.value_type(field.data_type())?,
            parts: Vec::new(),
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let of = arguments.input_fields.last().map_or(DataType::Null, |field| field.data_type().clone());
        Ok(vec![Arc::new(Field::new_list("values", Field::new_list_field(of, true), true))])
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
        let mut values = values.clone();
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
        let is_number = sorted.data_type().is_numeric();
        let doubles = if is_number { cast(sorted, &DataType::Float64)? } else { cast(sorted, &DataType::Int64)? };
        let doubles = cast(&doubles, &DataType::Float64)?;
        let values = doubles.as_primitive::<Float64Type>().values();
        let position = level * (count - 1) as f64;
        let value = if self.rule == Rule::Inclusive {
            // Counted from 1, and rounded there, as the engine does.
            let position = position + 1.0;
            let index = position as usize;
            if index < 1 {
                values[0]
            } else if index >= count {
                values[count - 1]
            } else {
                values[index - 1] + (position - index as f64) * (values[index] - values[index - 1])
            }
        } else {
            let left = (position as usize).min(count - 1);
            match values.get(left + 1) {
                Some(right) => values[left] * ((left + 1) as f64 - position) + right * (position - left as f64),
                None => values[left],
            }
        };
        match &self.gives {
            DataType::Float64 => Ok(ScalarValue::Float64(Some(value))),
            DataType::Date32 => Ok(ScalarValue::Date32(Some(value as i32))),
            other => ScalarValue::Int64(Some(value as i64)).cast_to(other),
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
        let none = match self.gives {
            DataType::Float64 => ScalarValue::Float64(Some(f64::NAN)),
            ref other => default_of(other)?,
        };
        let sorted = if all.is_empty() { all } else { sort(&all, None)? };
        let value = |level: &f64| if sorted.is_empty() { Ok(none.clone()) } else { self.at(&sorted, *level) };
        if self.several {
            let values: Result<Vec<ScalarValue>> = self.levels.iter().map(value).collect();
            return Ok(ScalarValue::List(ScalarValue::new_list_nullable(&values?, &self.gives)));
        }
        match self.levels.first() {
            Some(_) if sorted.is_empty() && self.nullable => ScalarValue::try_from(&self.gives),
            Some(level) => value(level),
            None => exec_err!("a level is missing"),
        }
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
