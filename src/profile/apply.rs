//! Applies the events of a batch to the traits of their profiles, and shows traits as columns.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, BooleanBuilder, Float64Builder, Int64Builder,
    PrimitiveArray, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{Field, Float64Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use hashbrown::HashMap;

use super::accumulator::{Accumulator, Scalar, precedence, scaled};
use super::record::Profile;
use super::{BUILT_IN, OnMerge, TraitKind, TraitPlan};
use crate::event::{EventBatch, ValueType, column};
use crate::expression::{BoundExpression, EvaluateError, ExpressionError};

/// A trait could not be computed for a batch: the definitions passed their checks, so this is a fault of ours.
#[derive(Debug, thiserror::Error)]
pub enum TraitError {
    #[error("trait {name} cannot be bound to the events: {source}")]
    Bind { name: String, source: ExpressionError },
    #[error("trait {name} cannot be evaluated: {source}")]
    Evaluate { name: String, source: EvaluateError },
    #[error("trait {name}: {message}")]
    Type { name: String, message: String },
}

/// All traits, bound to the schema of the event batches.
pub struct Traits {
    pub plans: Vec<TraitPlan>,
    bound: Vec<BoundTrait>,
    schema: SchemaRef,
}

struct BoundTrait {
    filter: Option<BoundExpression>,
    input: Option<BoundExpression>,
    presence: Option<usize>,
}

impl Traits {
    /// # Errors
    /// An expression that does not fit `schema`.
    pub fn new(plans: Vec<TraitPlan>, events: &SchemaRef) -> Result<Traits, TraitError> {
        let bind = |plan: &TraitPlan| {
            let failed = |source| TraitError::Bind { name: plan.name.clone(), source };
            let presence = plan.presence.as_ref().and_then(|name| events.index_of(name).ok());
            Ok(BoundTrait {
                filter: plan.filter.as_ref().map(|filter| filter.bind(events)).transpose().map_err(failed)?,
                input: plan.input.as_ref().map(|input| input.bind(events)).transpose().map_err(failed)?,
                presence,
            })
        };
        let bound = plans.iter().map(bind).collect::<Result<Vec<_>, TraitError>>()?;
        let built_in = BUILT_IN.iter().map(|(name, value_type)| Field::new(*name, value_type.arrow(), true));
        let own = plans.iter().map(|plan| Field::new(&plan.name, plan.value_type.arrow(), true));
        let schema = Arc::new(Schema::new(built_in.chain(own).collect::<Vec<_>>()));
        Ok(Traits { plans, bound, schema })
    }

    /// Built-in traits, then the defined ones: what predicates and the `profiles` table read.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Applies every row to `profiles[profile_of_row[row]]`; rows with `None` have no profile.
    ///
    /// `best` is the rank of each row's best identifier: 0 is best, `u64::MAX` where it has none.
    pub fn apply(
        &self,
        events: &EventBatch,
        profile_of_row: &[Option<u32>],
        best: &[u64],
        profiles: &mut [Profile],
    ) -> Result<(), TraitError> {
        let timestamps = events.times(column::TIMESTAMP);
        let received = events.times(column::RECEIVED_AT);
        for (row, profile) in profile_of_row.iter().enumerate() {
            let Some(profile) = profile.and_then(|index| profiles.get_mut(index as usize)) else { continue };
            profile.events += 1;
            profile.first_seen = profile.first_seen.min(timestamps.value(row));
            profile.last_seen = profile.last_seen.max(timestamps.value(row));
            profile.as_of = profile.as_of.max(received.value(row));
        }
        let names = EventNames::of(events);
        for (index, (plan, bound)) in self.plans.iter().zip(&self.bound).enumerate() {
            let Some(wanted) = names.wanted(plan.events.as_deref()) else { continue };
            let failed = |source| TraitError::Evaluate { name: plan.name.clone(), source };
            let filter =
                bound.filter.as_ref().map(|f| f.evaluate_predicate(&events.batch)).transpose().map_err(failed)?;
            let input = bound.input.as_ref().map(|input| input.evaluate(&events.batch)).transpose().map_err(failed)?;
            let input = input.map(|array| typed(plan, array)).transpose()?;
            let presence = bound.presence.map(|column| events.batch.column(column).as_boolean());
            let values = Values { plan, order: plan.order(), input: input.as_ref(), presence, best, events };
            for (row, profile) in profile_of_row.iter().enumerate() {
                let Some(profile) = profile else { continue };
                if !wanted.takes(row, &names) || filter.as_ref().is_some_and(|filter| !filter.value(row)) {
                    continue;
                }
                values.add(row, &mut profiles[*profile as usize].traits[index]);
            }
        }
        Ok(())
    }

    /// The traits of these profiles as columns, one row per profile.
    pub fn columns(&self, profiles: &[Profile]) -> Result<RecordBatch, TraitError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        let time = |value: fn(&Profile) -> i64| {
            let times: PrimitiveArray<TimestampMicrosecondType> = profiles.iter().map(|p| Some(value(p))).collect();
            Arc::new(times.with_timezone("UTC")) as ArrayRef
        };
        columns.push(time(|profile| profile.first_seen));
        columns.push(time(|profile| profile.last_seen));
        let events: PrimitiveArray<Int64Type> = profiles.iter().map(|profile| Some(profile.events)).collect();
        columns.push(Arc::new(events));
        for (index, plan) in self.plans.iter().enumerate() {
            columns.push(trait_column(plan, profiles, index));
        }
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| TraitError::Type { name: "all".to_string(), message: error.to_string() })
    }
}

/// A sum is 0 and a count 0 where nothing was added; anything else is null (SEMANTICS §11).
fn trait_column(plan: &TraitPlan, profiles: &[Profile], index: usize) -> ArrayRef {
    let value = |profile: &Profile| match &profile.traits[index] {
        Some(state) => state.value(plan.scale),
        None => match (plan.kind, plan.value_type) {
            (TraitKind::Count | TraitKind::Sum, ValueType::Double) => Some(Scalar::Double(0.0)),
            (TraitKind::Count | TraitKind::Sum, _) => Some(Scalar::Long(0)),
            _ => None,
        },
    };
    match plan.value_type {
        ValueType::Long => {
            let mut builder = Int64Builder::with_capacity(profiles.len());
            for profile in profiles {
                builder.append_option(match value(profile) {
                    Some(Scalar::Long(value)) => Some(value),
                    _ => None,
                });
            }
            Arc::new(builder.finish())
        }
        ValueType::Double => {
            let mut builder = Float64Builder::with_capacity(profiles.len());
            for profile in profiles {
                builder.append_option(match value(profile) {
                    Some(Scalar::Double(value)) => Some(value),
                    Some(Scalar::Long(value)) => Some(value as f64),
                    _ => None,
                });
            }
            Arc::new(builder.finish())
        }
        ValueType::Boolean => {
            let mut builder = BooleanBuilder::with_capacity(profiles.len());
            for profile in profiles {
                builder.append_option(match value(profile) {
                    Some(Scalar::Boolean(value)) => Some(value),
                    _ => None,
                });
            }
            Arc::new(builder.finish())
        }
        ValueType::Timestamp => {
            let mut builder = TimestampMicrosecondBuilder::with_capacity(profiles.len());
            for profile in profiles {
                builder.append_option(match value(profile) {
                    Some(Scalar::Timestamp(value)) => Some(value),
                    _ => None,
                });
            }
            Arc::new(builder.finish().with_timezone("UTC"))
        }
        ValueType::String | ValueType::Json => {
            let mut builder = StringBuilder::with_capacity(profiles.len(), profiles.len() * 16);
            for profile in profiles {
                match value(profile) {
                    Some(Scalar::Text(text)) => builder.append_value(text),
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
    }
}

/// The input of a trait, as an array of the type its values have.
fn typed(plan: &TraitPlan, array: ArrayRef) -> Result<ArrayRef, TraitError> {
    // A count only asks whether there is a value.
    let wanted = plan.value_type.arrow();
    if plan.kind == TraitKind::Count || *array.data_type() == wanted {
        return Ok(array);
    }
    cast(&array, &wanted).map_err(|error| TraitError::Type { name: plan.name.clone(), message: error.to_string() })
}

/// The values of one trait's input over a batch.
struct Values<'a> {
    plan: &'a TraitPlan,
    /// The plan's [`TraitPlan::order`].
    order: TraitKind,
    input: Option<&'a ArrayRef>,
    presence: Option<&'a BooleanArray>,
    best: &'a [u64],
    events: &'a EventBatch,
}

impl Values<'_> {
    fn add(&self, row: usize, state: &mut Option<Accumulator>) {
        let present = self.input.is_none_or(|input| input.is_valid(row));
        let deletes = !present && self.presence.is_some_and(|presence| presence.is_valid(row) && presence.value(row));
        if !present && !deletes {
            return;
        }
        let kind = self.plan.kind;
        match (kind, &mut *state) {
            // The hot cases, without building a state for the event.
            (TraitKind::Count, Some(Accumulator::Count(count))) => *count = count.saturating_add(1),
            (TraitKind::Latest | TraitKind::First, Some(Accumulator::Dated { rank, at, message_id, .. })) => {
                let t = self.events.times(column::TIMESTAMP).value(row);
                let id = self.events.strings(column::MESSAGE_ID).value(row);
                match precedence(self.order, (self.rank(row), t, id), (*rank, *at, message_id)) {
                    Ordering::Less => *state = self.state(row, present),
                    Ordering::Greater => {}
                    Ordering::Equal => {
                        if let (Some(state), Some(more)) = (state, self.state(row, present)) {
                            state.add(self.order, more);
                        }
                    }
                }
            }
            (_, Some(state)) => {
                if let Some(more) = self.state(row, present) {
                    state.add(self.order, more);
                }
            }
            (_, None) => *state = self.state(row, present),
        }
    }

    /// The state after this event alone.
    fn state(&self, row: usize, present: bool) -> Option<Accumulator> {
        match self.plan.kind {
            TraitKind::Count => Some(Accumulator::Count(1)),
            TraitKind::Sum => match self.scalar(row)? {
                Scalar::Long(value) => {
                    Some(Accumulator::Sum(i128::from(value) * 10i128.pow(u32::from(self.plan.scale))))
                }
                Scalar::Double(value) => scaled(value, self.plan.scale).map(Accumulator::Sum),
                _ => None,
            },
            TraitKind::Min | TraitKind::Max => {
                // NaN has no place in an order of numbers.
                let value = self.scalar(row).filter(|value| !matches!(value, Scalar::Double(v) if v.is_nan()))?;
                Some(Accumulator::Extreme(value))
            }
            TraitKind::Latest | TraitKind::First => Some(Accumulator::Dated {
                rank: self.rank(row),
                at: self.events.times(column::TIMESTAMP).value(row),
                message_id: self.events.strings(column::MESSAGE_ID).value(row).into(),
                value: if present { self.scalar(row) } else { None },
            }),
        }
    }

    /// 0 is best.
    fn rank(&self, row: usize) -> u64 {
        match self.plan.on_merge {
            OnMerge::Latest | OnMerge::Earliest => 0,
            OnMerge::Survivor => self.best.get(row).copied().unwrap_or(u64::MAX),
            OnMerge::SourcePriority => {
                let source = self.events.strings(column::SOURCE).value(row);
                let order = &self.plan.source_order;
                order.iter().position(|other| other == source).unwrap_or(order.len()) as u64
            }
        }
    }

    fn scalar(&self, row: usize) -> Option<Scalar> {
        fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> T::Native {
            array.as_primitive::<T>().value(row)
        }
        let array = self.input?;
        Some(match self.plan.value_type {
            ValueType::Long => Scalar::Long(primitive::<Int64Type>(array, row)),
            ValueType::Double => Scalar::Double(primitive::<Float64Type>(array, row)),
            ValueType::Boolean => Scalar::Boolean(array.as_boolean().value(row)),
            ValueType::Timestamp => Scalar::Timestamp(primitive::<TimestampMicrosecondType>(array, row)),
            ValueType::String | ValueType::Json => Scalar::Text(array.as_string::<i32>().value(row).into()),
        })
    }
}

/// The event names of a batch, numbered, so that each is compared with each trait's list once per batch.
struct EventNames<'a> {
    of_row: Vec<u16>,
    numbers: HashMap<&'a str, u16>,
}

/// Which event names a trait takes, by their number in the batch.
enum Wanted {
    All,
    Some(Vec<bool>),
}

impl<'a> EventNames<'a> {
    fn of(events: &'a EventBatch) -> Self {
        let names = events.strings(column::EVENT);
        let mut numbers = HashMap::new();
        let mut of_row = Vec::with_capacity(events.len());
        for row in 0..events.len() {
            let name = if names.is_valid(row) { names.value(row) } else { "" };
            let next = numbers.len() as u16;
            // More than 65,535 names in one batch share the last number; it is compared as "none".
            of_row.push(if next == u16::MAX { u16::MAX } else { *numbers.entry(name).or_insert(next) });
        }
        EventNames { of_row, numbers }
    }

    /// None when no event of the batch is wanted: the trait costs nothing then.
    fn wanted(&self, events: Option<&[String]>) -> Option<Wanted> {
        let Some(events) = events else { return Some(Wanted::All) };
        let mut wanted = vec![false; self.numbers.len()];
        for name in events {
            if let Some(number) = self.numbers.get(name.as_str()) {
                wanted[*number as usize] = true;
            }
        }
        wanted.contains(&true).then_some(Wanted::Some(wanted))
    }
}

impl Wanted {
    fn takes(&self, row: usize, names: &EventNames<'_>) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Some(wanted) => wanted.get(names.of_row[row] as usize).copied().unwrap_or(false),
        }
    }
}
