//! The traits of profiles as columns, at a moment.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, PrimitiveArray, RecordBatch,
    StringArray, StringBuilder, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use serde_json::Value;

use super::accumulator::{Accumulator, Scalar, WalkedPart};
use super::apply::{NOW_PLACE, TraitError, Traits};
use super::keyed::Keyed;
use super::plan::{EventRule, TraitColumn, TraitKind, TraitRule};
use super::record::{Profile, StageOf};
use super::rfm::{self, RfmValues};
use crate::event::{TimeUs, ValueType};
use crate::expression::Projected;

/// A profile that is found in another stage than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Index into the profiles.
    pub profile: u32,
    /// Index of the trait.
    pub trait_index: u16,
    /// Indices of stages; None: none.
    pub from: Option<u16>,
    pub to: Option<u16>,
    /// The how-manieth change of this profile and trait.
    pub number: u32,
}

impl Traits {
    /// The traits of these profiles as columns, one row per profile, each as of its own `now`. What is not ready is null.
    pub fn columns(&self, profiles: &[Profile], now: &[TimeUs]) -> Result<RecordBatch, TraitError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema().fields().len());
        let time = |value: fn(&Profile) -> i64| {
            let times: PrimitiveArray<TimestampMicrosecondType> = profiles.iter().map(|p| Some(value(p))).collect();
            Arc::new(times.with_timezone("UTC")) as ArrayRef
        };
        columns.push(time(|profile| profile.first_seen));
        columns.push(time(|profile| profile.last_seen));
        let events: PrimitiveArray<Int64Type> = profiles.iter().map(|profile| Some(profile.events)).collect();
        columns.push(Arc::new(events));
        let sessions = profiles.iter().map(|profile| Some(profile.sessions.count(&self.sessions) as i64));
        columns.push(Arc::new(sessions.collect::<PrimitiveArray<Int64Type>>()));
        let moments: PrimitiveArray<TimestampMicrosecondType> = now.iter().map(|now| Some(*now)).collect();
        let moments: ArrayRef = Arc::new(moments.with_timezone("UTC"));

        let mut filled = self.event_columns(profiles, now).into_iter();
        for (index, plan) in self.plans.iter().enumerate() {
            if !self.ready[index] {
                columns.extend(plan.columns.iter().map(|c| new_null_array(&c.value_type.arrow(), profiles.len())));
                continue;
            }
            let column = |index: usize| if index == NOW_PLACE { moments.clone() } else { columns[index].clone() };
            let evaluate = |derived: &Projected| {
                let failed = |source| TraitError::Evaluate { name: plan.name.clone(), source };
                derived.evaluate(&column, profiles.len()).map_err(failed)
            };
            match &plan.rule {
                TraitRule::Events(_) => columns.extend(filled.by_ref().take(plan.columns.len())),
                TraitRule::Formula(_) => {
                    let Some(formula) = self.derived[index].first() else { continue };
                    let values = evaluate(formula)?;
                    columns.push(values);
                }
                TraitRule::Stages(stages) => {
                    let mut names: Vec<Option<&str>> = vec![None; profiles.len()];
                    for (stage, bound) in stages.iter().zip(&self.derived[index]).rev() {
                        let holds = evaluate(bound)?;
                        let holds = holds.as_boolean();
                        for (row, name) in names.iter_mut().enumerate() {
                            if holds.is_valid(row) && holds.value(row) {
                                *name = Some(&stage.name);
                            }
                        }
                    }
                    columns.push(Arc::new(StringArray::from(names)));
                }
                TraitRule::Rfm(_) => {
                    let [recency, frequency, monetary] = &self.derived[index][..] else { continue };
                    let (recency, frequency, monetary) =
                        (evaluate(recency)?, evaluate(frequency)?, evaluate(monetary)?);
                    let values = rfm::values_of(&recency, &frequency, &monetary);
                    columns.extend(rfm::columns(&values, self.rfm_borders[index].as_ref()));
                }
            }
        }
        RecordBatch::try_new(self.schema().clone(), columns)
            .map_err(|error| TraitError::Type { name: "all".to_string(), message: error.to_string() })
    }

    /// The columns of all ready traits over events. Profile by profile, since what each holds lies apart in memory.
    fn event_columns(&self, profiles: &[Profile], now: &[TimeUs]) -> Vec<ArrayRef> {
        let mut columns: Vec<Column> = Vec::with_capacity(self.schema().fields().len());
        // Of a trait that shows nothing: none.
        let mut first = vec![None; self.plans.len()];
        for (index, plan) in self.plans.iter().enumerate().filter(|(index, _)| self.ready[*index]) {
            let Some(rule) = plan.event_rule() else { continue };
            first[index] = Some((rule, columns.len()));
            let of = |column: &TraitColumn| {
                // Of everybody who has no state, whatever the time.
                Column::of(column, profiles.len(), value_at(rule, None, column.part, TimeUs::MIN))
            };
            columns.extend(plan.columns.iter().map(of));
        }
        for (row, (profile, now)) in profiles.iter().zip(now).enumerate() {
            for (index, state) in &profile.traits {
                let Some((rule, first)) = first[usize::from(*index)] else { continue };
                // What takes a walk over events is found once for all columns.
                let walked =
                    matches!(rule.kind, TraitKind::Funnel(_) | TraitKind::Sequence(_)).then(|| state.walked(rule));
                for (place, column) in self.plans[usize::from(*index)].columns.iter().enumerate() {
                    let filling = &mut columns[first + place];
                    match (walked, state) {
                        (Some(walked), _) => filling.set(row, walked.part(filling.part).as_ref()),
                        // The common case of texts, without a copy.
                        (None, Accumulator::Dated(dated)) => filling.set(row, dated.value.as_ref()),
                        (None, state) => filling.set(row, value_at(rule, Some(state), column.part, *now).as_ref()),
                    }
                }
            }
        }
        columns.into_iter().map(|column| column.finish(profiles.len())).collect()
    }

    /// Has a profile keep at hand what takes a walk over events, for [`Traits::columns`] and until something changes it.
    pub(super) fn find(&self, profile: &mut Profile) {
        for (index, state) in &mut profile.traits {
            let index = usize::from(*index);
            if let Some(rule) = self.plans[index].event_rule().filter(|_| self.ready[index]) {
                state.find(rule);
            }
        }
    }

    /// What an RFM trait scores these profiles by; None of whom it does not.
    pub fn rfm_values(&self, index: usize, columns: &RecordBatch) -> Result<Vec<Option<RfmValues>>, TraitError> {
        let [recency, frequency, monetary] = &self.derived[index][..] else {
            return Ok(vec![None; columns.num_rows()]);
        };
        let evaluate = |derived: &Projected| {
            let failed = |source| TraitError::Evaluate { name: self.plans[index].name.clone(), source };
            derived.evaluate(&|column| columns.column(column).clone(), columns.num_rows()).map_err(failed)
        };
        Ok(rfm::values_of(&evaluate(recency)?, &evaluate(frequency)?, &evaluate(monetary)?))
    }

    /// Which profiles are in another stage than they were last found in, and takes note of it.
    pub fn find_stages(&self, columns: &RecordBatch, profiles: &mut [Profile]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, plan) in self.plans.iter().enumerate() {
            let TraitRule::Stages(stages) = &plan.rule else { continue };
            if !self.ready[index] {
                continue;
            }
            let names = columns.column(self.first_column[index]).as_string::<i32>();
            // Most people are in the stage that the row before was in.
            let mut last: Option<(&str, u16)> = None;
            for (row, profile) in profiles.iter_mut().enumerate() {
                let name = names.is_valid(row).then(|| names.value(row));
                last = name.and_then(|name| {
                    last.filter(|(known, _)| *known == name).or_else(|| {
                        let stage = stages.iter().position(|stage| stage.name == name)?;
                        Some((name, stage as u16))
                    })
                });
                let to = last.map(|(_, stage)| stage);
                let place = profile.stages.binary_search_by_key(&(index as u16), |(index, _)| *index);
                let place = match place {
                    Ok(place) => place,
                    Err(_) if to.is_none() => continue,
                    Err(place) => {
                        profile.stages.insert(place, (index as u16, StageOf::default()));
                        place
                    }
                };
                let found = &mut profile.stages[place].1;
                let from = found.stage;
                if from != to {
                    *found = StageOf { stage: to, changes: found.changes + 1 };
                    let number = found.changes;
                    changes.push(Change { profile: row as u32, trait_index: index as u16, from, to, number });
                }
            }
        }
        changes
    }

    /// The least time later than `now` at which a value that some condition reads may change though no event comes.
    /// `watched` are those traits, by index.
    pub fn next_change(&self, profile: &Profile, watched: &[bool], now: TimeUs) -> Option<TimeUs> {
        let windows = profile.traits.iter().filter(|(index, _)| watched[*index as usize]);
        windows.filter_map(|(index, state)| state.next_change(self.plans[*index as usize].event_rule()?, now)).min()
    }
}

/// One value of a trait.
fn value_at(rule: &EventRule, state: Option<&Accumulator>, part: &str, now: TimeUs) -> Option<Scalar> {
    match (state, &rule.by) {
        (Some(Accumulator::Keyed(keyed)), Some(_)) => keyed_value(rule, keyed, part, now),
        (_, Some(_)) => keyed_value(rule, &Keyed::Keys(Vec::new()), part, now),
        (state, None) => value_of(rule, state, part, now),
    }
}

/// One value of a trait without keys.
pub fn value_of(rule: &EventRule, state: Option<&Accumulator>, part: &str, now: TimeUs) -> Option<Scalar> {
    let value = match (state, &rule.window) {
        (Some(Accumulator::Panes(panes)), Some(window)) => {
            panes.total(window, now, rule).map(|total| total.plain_value(rule, part))
        }
        (Some(state), _) => Some(state.plain_value(rule, part)),
        (None, _) => None,
    };
    // A sum is 0 and a count 0 where nothing was added; anything else is null (SEMANTICS §11).
    value.unwrap_or_else(|| match (&rule.kind, part) {
        (TraitKind::Sum, _) if rule.input_type == ValueType::Double => Some(Scalar::Double(0.0)),
        (TraitKind::Count | TraitKind::Sum, _) | (_, "count" | "level" | "best") => Some(Scalar::Long(0)),
        (_, "matched" | "overflow") => Some(Scalar::Boolean(false)),
        (TraitKind::Distinct { .. }, _) => Some(Scalar::Text("[]".into())),
        _ => None,
    })
}

/// With `by`: an object of the values by their keys, how many there are, and whether there were too many.
fn keyed_value(rule: &EventRule, keyed: &Keyed, part: &str, now: TimeUs) -> Option<Scalar> {
    let values = || {
        keyed.keys().iter().filter_map(|(key, state)| {
            // A key whose window is empty is not shown.
            let inside = match (state, &rule.window) {
                (Accumulator::Panes(panes), Some(window)) => panes.total(window, now, rule).is_some(),
                _ => true,
            };
            inside.then(|| Some((key, value_of(rule, Some(state), "", now)?))).flatten()
        })
    };
    match (part, keyed) {
        ("overflow", keyed) => Some(Scalar::Boolean(*keyed == Keyed::Overflow)),
        (_, Keyed::Overflow) => None,
        ("keys", _) => Some(Scalar::Long(values().count() as i64)),
        _ => {
            let object = values().map(|(key, value)| (key.to_string(), json(&value)));
            Some(Scalar::Text(Value::Object(object.collect()).to_string().into()))
        }
    }
}

/// A value as JSON; timestamps as RFC 3339.
pub fn json(value: &Scalar) -> Value {
    match value {
        Scalar::Boolean(value) => Value::from(*value),
        Scalar::Long(value) => Value::from(*value),
        Scalar::Double(value) => Value::from(*value),
        Scalar::Text(text) => Value::from(text.as_ref()),
        Scalar::Timestamp(at) => {
            let time = chrono::DateTime::from_timestamp_micros(*at).unwrap_or_default();
            Value::from(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
        }
    }
}

/// A column that is filled from the first row to the last.
struct Column {
    /// Of a funnel or sequence.
    part: WalkedPart,
    /// In the rows that are left out.
    empty: Option<Scalar>,
    /// A bit for each row: not null. Of texts their builder knows.
    valid: BooleanBufferBuilder,
    values: ColumnValues,
}

enum ColumnValues {
    Long(Vec<i64>),
    Double(Vec<f64>),
    Timestamp(Vec<TimeUs>),
    Boolean(BooleanBufferBuilder),
    Text(StringBuilder),
}

impl Column {
    fn of(column: &TraitColumn, rows: usize, empty: Option<Scalar>) -> Column {
        let value = empty.as_ref();
        let (values, is_valid) = match column.value_type {
            ValueType::Long => same(value.and_then(long), rows, ColumnValues::Long),
            ValueType::Double => same(value.and_then(double), rows, ColumnValues::Double),
            ValueType::Timestamp => same(value.and_then(time), rows, ColumnValues::Timestamp),
            ValueType::Boolean => {
                let value = value.and_then(boolean);
                (ColumnValues::Boolean(same_bits(value.unwrap_or_default(), rows)), value.is_some())
            }
            ValueType::String | ValueType::Json => (ColumnValues::Text(StringBuilder::new()), true),
        };
        Column { part: WalkedPart::of(column.part), empty, valid: same_bits(is_valid, rows), values }
    }

    /// The value of a row behind those that were set before.
    fn set(&mut self, row: usize, value: Option<&Scalar>) {
        let is_valid = match &mut self.values {
            ColumnValues::Long(values) => put(&mut values[row], value.and_then(long)),
            ColumnValues::Double(values) => put(&mut values[row], value.and_then(double)),
            ColumnValues::Timestamp(values) => put(&mut values[row], value.and_then(time)),
            ColumnValues::Boolean(values) => {
                let value = value.and_then(boolean);
                values.set_bit(row, value.unwrap_or_default());
                value.is_some()
            }
            ColumnValues::Text(builder) => {
                fill(builder, row, &self.empty);
                return builder.append_option(value.and_then(text));
            }
        };
        self.valid.set_bit(row, is_valid);
    }

    fn finish(mut self, rows: usize) -> ArrayRef {
        let nulls = Some(NullBuffer::new(self.valid.finish())).filter(|nulls| nulls.null_count() > 0);
        match self.values {
            ColumnValues::Long(values) => Arc::new(PrimitiveArray::<Int64Type>::new(values.into(), nulls)),
            ColumnValues::Double(values) => Arc::new(PrimitiveArray::<Float64Type>::new(values.into(), nulls)),
            ColumnValues::Timestamp(values) => {
                let times = PrimitiveArray::<TimestampMicrosecondType>::new(values.into(), nulls);
                Arc::new(times.with_timezone("UTC"))
            }
            ColumnValues::Boolean(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            ColumnValues::Text(mut builder) => {
                fill(&mut builder, rows, &self.empty);
                Arc::new(builder.finish())
            }
        }
    }
}

/// The same value in all rows, and whether there is one.
fn same<T: Copy + Default>(
    value: Option<T>,
    rows: usize,
    values: impl FnOnce(Vec<T>) -> ColumnValues,
) -> (ColumnValues, bool) {
    (values(vec![value.unwrap_or_default(); rows]), value.is_some())
}

fn same_bits(bit: bool, rows: usize) -> BooleanBufferBuilder {
    let mut bits = BooleanBufferBuilder::new(rows);
    bits.append_n(rows, bit);
    bits
}

/// Says whether there is a value.
fn put<T: Default>(place: &mut T, value: Option<T>) -> bool {
    let is_there = value.is_some();
    *place = value.unwrap_or_default();
    is_there
}

/// Up to a row.
fn fill(builder: &mut StringBuilder, row: usize, empty: &Option<Scalar>) {
    (builder.len()..row).for_each(|_| builder.append_option(empty.as_ref().and_then(text)));
}

fn long(value: &Scalar) -> Option<i64> {
    if let Scalar::Long(value) = value { Some(*value) } else { None }
}

fn double(value: &Scalar) -> Option<f64> {
    match value {
        Scalar::Double(value) => Some(*value),
        Scalar::Long(value) => Some(*value as f64),
        _ => None,
    }
}

fn time(value: &Scalar) -> Option<TimeUs> {
    if let Scalar::Timestamp(value) = value { Some(*value) } else { None }
}

fn boolean(value: &Scalar) -> Option<bool> {
    if let Scalar::Boolean(value) = value { Some(*value) } else { None }
}

fn text(value: &Scalar) -> Option<&str> {
    if let Scalar::Text(text) = value { Some(text) } else { None }
}
