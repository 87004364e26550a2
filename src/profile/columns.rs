//! The traits of profiles as columns, at a moment.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanBufferBuilder, BooleanBuilder, PrimitiveArray, RecordBatch,
    StringArray, StringBuilder, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use serde_json::Value;

use super::accumulator::{Accumulator, Scalar, Walked};
use super::apply::{NOW_PLACE, TraitError, Traits};
use super::keyed::Keyed;
use super::plan::{EventRule, TraitKind, TraitPlan, TraitRule};
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

        // What nobody has costs one look at each profile for all such traits together.
        let mut held = vec![false; self.plans.len()];
        profiles.iter().flat_map(|profile| &profile.traits).for_each(|(index, _)| held[usize::from(*index)] = true);
        // Each profile's states are in the order of the traits: one step of each per trait.
        let mut places = vec![0usize; profiles.len()];
        let mut states: Vec<(u32, &Accumulator)> = Vec::with_capacity(profiles.len());
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
                TraitRule::Events(rule) => {
                    states.clear();
                    if held[index] {
                        states.extend(profiles.iter().zip(&mut places).enumerate().filter_map(
                            |(row, (profile, place))| {
                                while profile.traits.get(*place).is_some_and(|(other, _)| usize::from(*other) < index) {
                                    *place += 1;
                                }
                                let (other, state) = profile.traits.get(*place)?;
                                (usize::from(*other) == index).then_some((row as u32, state))
                            },
                        ));
                    }
                    event_columns(plan, rule, &states, now, &mut columns);
                }
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

/// All columns of one trait, by the states of those who have one.
fn event_columns(
    plan: &TraitPlan,
    rule: &EventRule,
    states: &[(u32, &Accumulator)],
    now: &[TimeUs],
    columns: &mut Vec<ArrayRef>,
) {
    // What takes a walk over events is found once for all columns.
    let walked: Vec<Walked> = match rule.kind {
        TraitKind::Funnel(_) | TraitKind::Sequence(_) => states.iter().map(|(_, state)| state.walked(rule)).collect(),
        _ => Vec::new(),
    };
    for column in &plan.columns {
        let value = |state: Option<&Accumulator>, now: TimeUs| match (state, &rule.by) {
            (Some(Accumulator::Keyed(keyed)), Some(_)) => keyed_value(rule, keyed, column.part, now),
            (_, Some(_)) => keyed_value(rule, &Keyed::Keys(Vec::new()), column.part, now),
            (state, None) => value_of(rule, state, column.part, now),
        };
        // Of everybody who has no state, whatever the time.
        let empty = value(None, TimeUs::MIN);
        columns.push(column_of(column.value_type, now.len(), empty, states, |nth| match walked.get(nth) {
            Some(walked) => walked.part(column.part),
            None => value(Some(states[nth].1), now[states[nth].0 as usize]),
        }));
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

/// A column of `empty` with other values in these rows, which are in order.
fn column_of(
    value_type: ValueType,
    rows: usize,
    empty: Option<Scalar>,
    states: &[(u32, &Accumulator)],
    value: impl Fn(usize) -> Option<Scalar>,
) -> ArrayRef {
    fn primitive<T: ArrowPrimitiveType>(
        rows: usize,
        empty: Option<T::Native>,
        states: &[(u32, &Accumulator)],
        value: impl Fn(usize) -> Option<T::Native>,
    ) -> PrimitiveArray<T> {
        let mut values = vec![empty.unwrap_or_default(); rows];
        let mut valid = BooleanBufferBuilder::new(rows);
        valid.append_n(rows, empty.is_some());
        for (nth, (row, _)) in states.iter().enumerate() {
            let value = value(nth);
            valid.set_bit(*row as usize, value.is_some());
            values[*row as usize] = value.unwrap_or_default();
        }
        PrimitiveArray::new(values.into(), Some(NullBuffer::new(valid.finish())).filter(|nulls| nulls.null_count() > 0))
    }
    match value_type {
        ValueType::Long => {
            let long = |value| if let Some(Scalar::Long(value)) = value { Some(value) } else { None };
            Arc::new(primitive::<Int64Type>(rows, long(empty), states, |nth| long(value(nth))))
        }
        ValueType::Double => {
            let double = |value| match value {
                Some(Scalar::Double(value)) => Some(value),
                Some(Scalar::Long(value)) => Some(value as f64),
                _ => None,
            };
            Arc::new(primitive::<Float64Type>(rows, double(empty), states, |nth| double(value(nth))))
        }
        ValueType::Timestamp => {
            let time = |value| if let Some(Scalar::Timestamp(value)) = value { Some(value) } else { None };
            let times = primitive::<TimestampMicrosecondType>(rows, time(empty), states, |nth| time(value(nth)));
            Arc::new(times.with_timezone("UTC"))
        }
        ValueType::Boolean => {
            let boolean = |value| if let Some(Scalar::Boolean(value)) = value { Some(value) } else { None };
            let mut builder = BooleanBuilder::with_capacity(rows);
            let empty = boolean(empty);
            let mut next = 0;
            for (nth, (row, _)) in states.iter().enumerate() {
                (next..*row).for_each(|_| builder.append_option(empty));
                builder.append_option(boolean(value(nth)));
                next = row + 1;
            }
            (next..rows as u32).for_each(|_| builder.append_option(empty));
            Arc::new(builder.finish())
        }
        ValueType::String | ValueType::Json => {
            fn text(value: &Option<Scalar>) -> Option<&str> {
                if let Some(Scalar::Text(text)) = value { Some(text) } else { None }
            }
            let mut builder = StringBuilder::with_capacity(rows, rows * 16);
            let mut next = 0;
            for (nth, (row, state)) in states.iter().enumerate() {
                (next..*row).for_each(|_| builder.append_option(text(&empty)));
                match state {
                    // The common case, without a copy.
                    Accumulator::Dated(dated) => builder.append_option(text(&dated.value)),
                    _ => builder.append_option(text(&value(nth))),
                }
                next = row + 1;
            }
            (next..rows as u32).for_each(|_| builder.append_option(text(&empty)));
            Arc::new(builder.finish())
        }
    }
}
