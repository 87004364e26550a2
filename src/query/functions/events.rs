//! `windowFunnel`, `sequenceMatch`, `sequenceCount` and `retention`: aggregates over the events of a group, each with a time
//! and the conditions that it meets.
//!
//! As in the engine, a row with a null among its arguments is left out, and a group of only such rows gives null (the
//! list of `retention` is all 0 then).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, UInt8Array, UInt32Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, UInt32Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use super::funnel::Funnel;
use super::sequence::Pattern;
use super::{alias, parameters};

/// As many conditions as ClickHouse takes.
const CONDITIONS_MAX: usize = 32;

pub fn functions() -> Vec<AggregateUDF> {
    [Function::WindowFunnel, Function::SequenceMatch, Function::SequenceCount, Function::Retention]
        .into_iter()
        .map(|function| {
            let signature = Signature::variadic_any(Volatility::Immutable);
            AggregateUDF::from(EventsFunction { function, signature, aliases: alias(function.name()) })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Function {
    WindowFunnel,
    SequenceMatch,
    SequenceCount,
    Retention,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::WindowFunnel => "windowFunnel",
            Function::SequenceMatch => "sequenceMatch",
            Function::SequenceCount => "sequenceCount",
            Function::Retention => "retention",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct EventsFunction {
    function: Function,
    signature: Signature,
    aliases: Vec<String>,
}

impl EventsFunction {
    fn groups(&self, arguments: &AccumulatorArgs<'_>) -> Result<Groups> {
        let name = self.function.name();
        let (given, skip) = match self.function {
            Function::Retention => (Vec::new(), 0),
            _ => parameters(name, arguments)?,
        };
        let fields = arguments.expr_fields.get(skip..).unwrap_or_default();
        let timed = usize::from(self.function != Function::Retention);
        let conditions = fields.len().saturating_sub(timed);
        let least = if self.function == Function::WindowFunnel { 1 } else { 2 };
        if conditions < least || conditions > CONDITIONS_MAX {
            return plan_err!("{name} takes {least} to {CONDITIONS_MAX} conditions, not {conditions}");
        }
        for field in &fields[timed..] {
            let data_type = field.data_type();
            if !matches!(data_type, DataType::Boolean | DataType::UInt8 | DataType::Null) && !data_type.is_integer() {
                return plan_err!("{name}: a condition is true or false, not {data_type}");
            }
        }
        if let Some(time) = fields.first().filter(|_| timed == 1) {
            let right = matches!(
                time.data_type(),
                DataType::Timestamp(TimeUnit::Second, _) | DataType::Date32 | DataType::Null
            );
            if !right && !time.data_type().is_unsigned_integer() {
                return plan_err!(
                    "{name} takes a time of whole seconds first, as ClickHouse does: write toDateTime(timestamp), or \
                     toUInt64(toUnixTimestamp64Micro(timestamp)) to count in microseconds"
                );
            }
        }
        let measure = match self.function {
            Function::WindowFunnel => Measure::Funnel(Funnel::new(&given, conditions)?),
            Function::SequenceMatch => Measure::Match(Pattern::new(name, &given, conditions)?),
            Function::SequenceCount => Measure::Count(Pattern::new(name, &given, conditions)?),
            Function::Retention => Measure::Retention(conditions),
        };
        let nullable = fields.iter().any(|field| field.is_nullable());
        Ok(Groups { measure, skip, nullable, groups: Vec::new(), held: 0 })
    }
}

impl AggregateUDFImpl for EventsFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.function {
            Function::WindowFunnel | Function::SequenceMatch => DataType::UInt8,
            Function::SequenceCount => DataType::UInt64,
            Function::Retention => DataType::List(Arc::new(Field::new_list_field(DataType::UInt8, false))),
        })
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let mut groups = self.groups(&arguments)?;
        groups.resize(1);
        Ok(Box::new(One(groups)))
    }

    fn state_fields(&self, _: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let list = |name: &str, of: DataType| Arc::new(Field::new_list(name, Field::new_list_field(of, false), false));
        Ok(vec![
            Arc::new(Field::new("seen", DataType::Boolean, false)),
            list("times", DataType::UInt64),
            list("conditions", DataType::UInt32),
        ])
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.groups(&arguments)?))
    }
}

enum Measure {
    Funnel(Funnel),
    Match(Pattern),
    Count(Pattern),
    /// Of so many conditions.
    Retention(usize),
}

/// A time and the conditions met at it, a bit each.
pub type Event = (u64, u32);

#[derive(Default, Clone)]
struct Events {
    /// There was a row without a null, whether it was kept or not.
    seen: bool,
    events: Vec<Event>,
}

impl Measure {
    /// Whether an event matters; one of no condition does where it ends the way.
    fn keeps(&self, (_, conditions): Event) -> bool {
        conditions != 0 || matches!(self, Measure::Funnel(funnel) if funnel.strict_order)
    }

    fn add(&self, events: &mut Events, event: Event) {
        events.seen = true;
        match (self, events.events.first_mut()) {
            _ if !self.keeps(event) => {}
            // Conditions that were met at any time.
            (Measure::Retention(_), Some(met)) => met.1 |= event.1,
            _ => events.events.push(event),
        }
    }
}

/// The events of many groups.
struct Groups {
    measure: Measure,
    /// Columns of parameters before those of the arguments.
    skip: usize,
    nullable: bool,
    groups: Vec<Events>,
    /// Events in all groups.
    held: usize,
}

impl Groups {
    fn resize(&mut self, total: usize) {
        if total > self.groups.len() {
            self.groups.resize(total, Events::default());
        }
    }

    fn add(&mut self, group: usize, event: Event) {
        let events = &mut self.groups[group];
        let before = events.events.len();
        self.measure.add(events, event);
        self.held += events.events.len() - before;
    }

    /// The rows' events; `None` for a row with a null.
    fn events(&self, values: &[ArrayRef]) -> Result<Vec<Option<Event>>> {
        let mut values = &values[self.skip.min(values.len())..];
        let rows = values.first().map_or(0, |column| column.len());
        let mut events = vec![Some((0, 0)); rows];
        if !matches!(self.measure, Measure::Retention(_))
            && let Some((time, rest)) = values.split_first()
        {
            values = rest;
            let times = match time.data_type() {
                DataType::Date32 => cast(&cast(time, &DataType::Int32)?, &DataType::UInt64)?,
                DataType::Timestamp(..) => cast(&cast(time, &DataType::Int64)?, &DataType::UInt64)?,
                _ => cast(time, &DataType::UInt64)?,
            };
            for (event, time) in events.iter_mut().zip(times.as_primitive::<UInt64Type>()) {
                *event = time.map(|time| (time, 0));
            }
        }
        for (index, condition) in values.iter().enumerate() {
            let condition = cast(condition, &DataType::Boolean)?;
            for (event, met) in events.iter_mut().zip(condition.as_boolean()) {
                match (event.as_mut(), met) {
                    (Some(event), Some(met)) => event.1 |= u32::from(met) << index,
                    (None, _) | (_, None) => *event = None,
                }
            }
        }
        Ok(events)
    }

    fn results(&self, groups: &[Events]) -> Result<ArrayRef> {
        let null = |events: &Events| self.nullable && !events.seen;
        Ok(match &self.measure {
            Measure::Funnel(funnel) => {
                let mut levels = Vec::with_capacity(groups.len());
                for events in groups {
                    levels.push(if null(events) { None } else { Some(funnel.level(&events.events)?) });
                }
                Arc::new(UInt8Array::from(levels))
            }
            Measure::Match(pattern) => {
                let mut matches = Vec::with_capacity(groups.len());
                for events in groups {
                    matches.push(if null(events) { None } else { Some(u8::from(pattern.matches(&events.events)?)) });
                }
                Arc::new(UInt8Array::from(matches))
            }
            Measure::Count(pattern) => {
                let mut counts = Vec::with_capacity(groups.len());
                for events in groups {
                    counts.push(if null(events) { None } else { Some(pattern.count(&events.events)?) });
                }
                Arc::new(UInt64Array::from(counts))
            }
            Measure::Retention(conditions) => {
                let mut flags = Vec::with_capacity(groups.len() * conditions);
                for events in groups {
                    let met = events.events.first().map_or(0, |event| event.1);
                    let started = met & 1;
                    flags.extend((0..*conditions).map(|index| (started & (met >> index)) as u8));
                }
                let offsets = OffsetBuffer::from_repeated_length(*conditions, groups.len());
                let field = Arc::new(Field::new_list_field(DataType::UInt8, false));
                Arc::new(ListArray::new(field, offsets, Arc::new(UInt8Array::from(flags)), None))
            }
        })
    }

    fn states(groups: &[Events]) -> Vec<ArrayRef> {
        let lengths = groups.iter().map(|events| events.events.len());
        states(groups.iter().map(|events| events.seen), lengths, || {
            groups.iter().flat_map(|events| &events.events).copied()
        })
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Events> {
        let taken = emit_to.take_needed(&mut self.groups);
        self.held -= taken.iter().map(|events| events.events.len()).sum::<usize>();
        taken
    }
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
        for (row, (event, group)) in self.events(values)?.into_iter().zip(group_indices).enumerate() {
            let chosen = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if let (true, Some(event)) = (chosen, event) {
                self.add(*group, event);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let taken = self.take(emit_to);
        self.results(&taken)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(Groups::states(&self.take(emit_to)))
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total: usize) -> Result<()> {
        self.resize(total);
        let [seen, times, conditions] = states else { return plan_err!("a state has three columns") };
        let (seen, times, conditions) = (seen.as_boolean(), times.as_list::<i32>(), conditions.as_list::<i32>());
        let starts = (times.value_offsets(), conditions.value_offsets());
        let (times, conditions) =
            (times.values().as_primitive::<UInt64Type>(), conditions.values().as_primitive::<UInt32Type>());
        for (row, group) in group_indices.iter().enumerate() {
            self.groups[*group].seen |= seen.value(row);
            let times = &times.values()[starts.0[row] as usize..starts.0[row + 1] as usize];
            let conditions = &conditions.values()[starts.1[row] as usize..starts.1[row + 1] as usize];
            for (time, conditions) in times.iter().zip(conditions) {
                self.add(*group, (*time, *conditions));
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = self.events(values)?.into_iter().enumerate().map(|(row, event)| {
            let chosen = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            event.filter(|_| chosen)
        });
        let rows: Vec<Option<Event>> = rows.collect();
        let kept = |event: &Option<Event>| event.filter(|event| self.measure.keeps(*event));
        Ok(states(
            rows.iter().map(Option::is_some),
            rows.iter().map(|event| usize::from(kept(event).is_some())),
            || rows.iter().filter_map(kept),
        ))
    }

    fn size(&self) -> usize {
        // A list has room for up to twice of what it holds.
        self.groups.capacity() * size_of::<Events>() + 2 * self.held * size_of::<Event>()
    }
}

/// States as columns: whether there was a row, and lists of times and conditions of these lengths.
fn states<E: Iterator<Item = Event>>(
    seen: impl Iterator<Item = bool>,
    lengths: impl ExactSizeIterator<Item = usize>,
    events: impl Fn() -> E,
) -> Vec<ArrayRef> {
    let offsets = OffsetBuffer::from_lengths(lengths);
    let list = |values: ArrayRef| -> ArrayRef {
        let field = Arc::new(Field::new_list_field(values.data_type().clone(), false));
        Arc::new(ListArray::new(field, offsets.clone(), values, None))
    };
    vec![
        Arc::new(BooleanArray::from_iter(seen.map(Some))),
        list(Arc::new(UInt64Array::from_iter_values(events().map(|event| event.0)))),
        list(Arc::new(UInt32Array::from_iter_values(events().map(|event| event.1)))),
    ]
}

/// The events of one group, for aggregates over everything and over windows.
struct One(Groups);

impl std::fmt::Debug for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} events", self.0.held)
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.0.results(&self.0.groups)?, 0)
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Groups::states(&self.0.groups).iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states.first().map_or(0, |column| column.len());
        self.0.merge_batch(states, &vec![0; rows], 1)
    }
}
