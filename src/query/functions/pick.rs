//! Aggregates that DataFusion has under other names, given as ClickHouse gives them: `any`, `anyLast`, `argMax`, `argMin`,
//! `groupArray`, `groupUniqArray`, and what `sumIf`, `avgIf`, `minIf` and `maxIf` become.
//!
//! Over no row at all the engine's aggregates give 0, the empty text or the empty list, and null only where the argument
//! can be null.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{SortOptions, and, filter, is_not_null, is_null};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalSortExpr;

use super::{alias, default_of};

pub fn functions() -> Vec<AggregateUDF> {
    let function = |name: &'static str, inner: Arc<AggregateUDF>, kind: Kind| {
        let signature = match kind {
            Kind::Plain => inner.signature().clone(),
            Kind::One | Kind::Distinct => Signature::any(1, Volatility::Immutable),
            Kind::By { .. } => Signature::any(2, Volatility::Immutable),
        };
        AggregateUDF::from(Pick { name, inner, kind, signature, aliases: alias(name) })
    };
    vec![
        function("sum_or_default", sum_udaf(), Kind::Plain),
        function("avg_or_default", avg_udaf(), Kind::Plain),
        function("min_or_default", min_udaf(), Kind::Plain),
        function("max_or_default", max_udaf(), Kind::Plain),
        function("any", first_value_udaf(), Kind::One),
        function("anyLast", last_value_udaf(), Kind::One),
        function("groupArray", array_agg_udaf(), Kind::One),
        function("groupUniqArray", array_agg_udaf(), Kind::Distinct),
        function("argMax", first_value_udaf(), Kind::By { descending: true }),
        function("argMin", first_value_udaf(), Kind::By { descending: false }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Plain,
    /// Without nulls.
    One,
    /// Without nulls, each value once.
    Distinct,
    /// The first argument where the second is largest or smallest, among rows without nulls.
    By {
        descending: bool,
    },
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Pick {
    name: &'static str,
    inner: Arc<AggregateUDF>,
    kind: Kind,
    signature: Signature,
    aliases: Vec<String>,
}

impl Pick {
    /// The arguments as the inner function takes them; the second of `argMax` is an order to it.
    fn with_inner<T>(&self, arguments: &AccumulatorArgs<'_>, make: impl FnOnce(AccumulatorArgs<'_>) -> T) -> T {
        let mut inner = arguments.clone();
        let order: Vec<PhysicalSortExpr> = match (self.kind, arguments.exprs) {
            (Kind::By { descending }, [_, by]) => {
                vec![PhysicalSortExpr::new(by.clone(), SortOptions { descending, nulls_first: false })]
            }
            _ => Vec::new(),
        };
        inner.ignore_nulls = self.kind != Kind::Plain;
        inner.is_distinct = self.kind == Kind::Distinct;
        if let Kind::By { .. } = self.kind {
            inner.exprs = &arguments.exprs[..1];
            inner.expr_fields = &arguments.expr_fields[..1];
        }
        make(AccumulatorArgs { order_bys: &order, ..inner })
    }

    /// What stands for no value; `None` is null.
    fn default(&self, arguments: &AccumulatorArgs<'_>) -> Result<Option<ScalarValue>> {
        let of = arguments.return_type();
        if matches!(of, DataType::List(_)) && self.kind != Kind::Plain && !matches!(self.kind, Kind::By { .. }) {
            // `any` of a list is a list, too, and has the same.
            return default_of(of).map(Some);
        }
        if arguments.expr_fields.iter().any(|field| field.is_nullable()) {
            return Ok(None);
        }
        if self.name == "avg_or_default" && of.is_floating() {
            return Ok(Some(ScalarValue::Float64(Some(f64::NAN))));
        }
        default_of(of).map(Some)
    }
}

impl AggregateUDFImpl for Pick {
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
        match (self.kind, arguments) {
            (Kind::By { .. }, [picked, _]) => Ok(picked.clone()),
            (Kind::By { .. }, _) => plan_err!("{} takes two values", self.name),
            // DataFusion's first and last value have no type but of a field.
            (Kind::One, [of]) if matches!(self.name, "any" | "anyLast") => Ok(of.clone()),
            _ => self.inner.return_type(arguments),
        }
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let (input_fields, order) = match (self.kind, arguments.input_fields) {
            (Kind::By { .. }, [picked, by]) => {
                (std::slice::from_ref(picked), vec![Arc::new(Field::new("by", by.data_type().clone(), true))])
            }
            (_, fields) => (fields, Vec::new()),
        };
        self.inner.state_fields(StateFieldsArgs {
            name: arguments.name,
            input_fields,
            return_field: arguments.return_field,
            ordering_fields: &order,
            is_distinct: self.kind == Kind::Distinct,
        })
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let default = self.default(&arguments)?;
        let inner = self.with_inner(&arguments, |arguments| self.inner.accumulator(arguments))?;
        Ok(Box::new(One { inner, kind: self.kind, default }))
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        self.with_inner(&arguments, |arguments| self.inner.groups_accumulator_supported(arguments))
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let default = self.default(&arguments)?;
        let inner = self.with_inner(&arguments, |arguments| self.inner.create_groups_accumulator(arguments))?;
        Ok(Box::new(Many { inner, kind: self.kind, default }))
    }
}

/// Rows of `argMax` and `argMin` that count: without a null, and by a number that is one.
fn comparable(values: &[ArrayRef]) -> Result<BooleanArray> {
    let [picked, by] = values else { return plan_err!("two values are compared") };
    let mut counts = and(&is_not_null(picked)?, &is_not_null(by)?)?;
    if let Some(doubles) = by.as_primitive_opt::<Float64Type>() {
        let numbers = BooleanArray::from_iter(doubles.iter().map(|double| Some(double.is_some_and(|d| !d.is_nan()))));
        counts = and(&counts, &numbers)?;
    }
    Ok(counts)
}

#[derive(Debug)]
struct One {
    inner: Box<dyn Accumulator>,
    kind: Kind,
    default: Option<ScalarValue>,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Kind::By { .. } = self.kind {
            let counts = comparable(values)?;
            let values: std::result::Result<Vec<ArrayRef>, _> =
                values.iter().map(|column| filter(column, &counts)).collect();
            return self.inner.update_batch(&values?);
        }
        self.inner.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.inner.evaluate()?;
        match &self.default {
            Some(default) if value.is_null() => Ok(default.clone()),
            _ => Ok(value),
        }
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }
}

struct Many {
    inner: Box<dyn GroupsAccumulator>,
    kind: Kind,
    default: Option<ScalarValue>,
}

impl Many {
    fn chosen(&self, values: &[ArrayRef], given: Option<&BooleanArray>) -> Result<Option<BooleanArray>> {
        let Kind::By { .. } = self.kind else { return Ok(given.cloned()) };
        let counts = comparable(values)?;
        Ok(Some(match given {
            Some(given) => BooleanArray::from_iter(
                given.iter().zip(&counts).map(|(given, counts)| Some(given == Some(true) && counts == Some(true))),
            ),
            None => counts,
        }))
    }
}

impl GroupsAccumulator for Many {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let chosen = self.chosen(values, filter)?;
        self.inner.update_batch(values, group_indices, chosen.as_ref(), total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let values = self.inner.evaluate(emit_to)?;
        match &self.default {
            Some(default) if values.null_count() > 0 => Ok(zip(&is_null(&values)?, &default.to_scalar()?, &values)?),
            _ => Ok(values),
        }
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total: usize) -> Result<()> {
        self.inner.merge_batch(states, group_indices, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let chosen = self.chosen(values, filter)?;
        self.inner.convert_to_state(values, chosen.as_ref())
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
