//! The traits that conditions read, with their values now and the next ones.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use serde_json::Value;

use super::tree::{Ground, Node};
use crate::activation::time_text;
use crate::engine::EngineError;
use crate::event::TimeUs;
use crate::profile::{BUILT_IN, EventRule, Scalar, TraitPlan, TraitRule, Traits};

/// One trait of one person.
pub struct TraitView {
    pub index: usize,
    /// Its values now: as one writes them in an expression, and what they are.
    pub values: Vec<(String, Value)>,
    /// When they are first something else, if no event comes, and what.
    pub change: Option<(TimeUs, Vec<Value>)>,
    /// The conditions of its stages, by name, in order.
    pub stages: Vec<(String, Node)>,
}

impl TraitView {
    pub fn of(index: usize, ground: &Ground<'_>) -> Result<TraitView, EngineError> {
        let plan = &ground.traits.plans[index];
        let mut stages = Vec::new();
        if let TraitRule::Stages(defined) = &plan.rule {
            for stage in defined {
                stages.push((stage.name.clone(), Node::of(&stage.condition.sql, ground, 0)?));
            }
        }
        Ok(TraitView { index, values: Vec::new(), change: None, stages })
    }

    /// Takes note of its values in this row: of now, or of a later moment.
    pub fn look(&mut self, plan: &TraitPlan, row: &RecordBatch, later: Option<TimeUs>) -> Result<(), EngineError> {
        for (_, stage) in &mut self.stages {
            stage.look(row, later)?;
        }
        let value = |name: &str| row.column_by_name(name).map_or(Value::Null, value_of);
        let values = plan.columns.iter().map(|column| (column.written(&plan.name), value(&column.name)));
        match later {
            None => self.values = values.collect(),
            Some(at) if self.change.is_none() => {
                let values: Vec<Value> = values.map(|(_, value)| value).collect();
                if self.values.iter().zip(&values).any(|((_, old), new)| old != new) {
                    self.change = Some((at, values));
                }
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Traits that these columns belong to and those that they are computed from, each once; what reads before what is read.
pub fn with_inputs(traits: &Traits, columns: impl Iterator<Item = usize>) -> Vec<usize> {
    let of_column = |column: usize| (column >= BUILT_IN.len()).then(|| traits.trait_of_column(column));
    let mut found: Vec<usize> = Vec::new();
    for index in columns.filter_map(of_column) {
        if !found.contains(&index) {
            found.push(index);
        }
    }
    let mut next = 0;
    while let Some(index) = found.get(next).copied() {
        next += 1;
        let inputs = traits.plans[index].rule.expressions().into_iter().flat_map(|expression| &expression.inputs);
        for column in inputs.filter_map(|input| traits.schema().index_of(&input.column).ok()) {
            if let Some(index) = of_column(column)
                && !found.contains(&index)
            {
                found.push(index);
            }
        }
    }
    found
}

/// A column as it is written in an expression.
pub fn written(traits: &Traits, column: usize) -> String {
    match BUILT_IN.get(column) {
        Some((name, _)) => (*name).to_string(),
        None => {
            let plan = &traits.plans[traits.trait_of_column(column)];
            let name = traits.schema().field(column).name();
            plan.columns
                .iter()
                .find(|known| known.name == *name)
                .map_or(name.clone(), |known| known.written(&plan.name))
        }
    }
}

/// What a trait is, in short: `sum of properties.total, of Order Completed, within 30days`.
pub fn rule_text(plan: &TraitPlan) -> String {
    match &plan.rule {
        TraitRule::Events(rule) => event_rule_text(rule),
        TraitRule::Formula(formula) => formula.sql.clone(),
        TraitRule::Stages(_) => "the first stage that holds".to_string(),
        TraitRule::Rfm(_) => "fifths of everyone by recency, frequency and monetary value".to_string(),
    }
}

fn event_rule_text(rule: &EventRule) -> String {
    let kind = format!("{:?}", rule.kind).to_lowercase();
    let kind = kind.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let mut text = match &rule.input {
        Some(input) => format!("{kind} of {}", input.sql),
        None => format!("{kind} of events"),
    };
    if let Some(events) = &rule.events {
        text += &format!(", event {}", events.join(" or "));
    }
    if let Some(filter) = &rule.filter {
        text += &format!(", where {}", filter.sql);
    }
    if let Some(by) = &rule.by {
        text += &format!(", by {}", by.sql);
    }
    if let Some(window) = rule.window {
        text += &format!(", window {}", super::write::duration(window.length_us));
    }
    text
}

/// The first value of a column, as JSON.
pub fn value_of(column: &ArrayRef) -> Value {
    if column.is_empty() || column.is_null(0) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(0).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(0).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(0).into(),
        DataType::Timestamp(..) => time_text(column.as_primitive::<TimestampMicrosecondType>().value(0)).into(),
        DataType::Utf8 => column.as_string::<i32>().value(0).into(),
        _ => Value::Null,
    }
}

/// A value of an event, as JSON.
pub fn scalar_value(value: &Scalar) -> Value {
    match value {
        Scalar::Boolean(value) => (*value).into(),
        Scalar::Long(value) => (*value).into(),
        Scalar::Double(value) => (*value).into(),
        Scalar::Timestamp(at) => time_text(*at).into(),
        Scalar::Text(text) => text.to_string().into(),
    }
}
