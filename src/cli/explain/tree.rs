//! The conditions of a segment or a stage as a tree, each with what it comes to now and when that changes.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};

use crate::definition::Pipeline;
use crate::engine::EngineError;
use crate::event::{TimeUs, time_type};
use crate::expression::parts::{self, Part};
use crate::expression::{BoundExpression, ColumnScope, Expression, NOW_COLUMN, Resolved};
use crate::profile::{BUILT_IN, Traits};
use crate::segment::{SegmentRule, membership_column, since_column};

/// What is known when a tree is built.
pub struct Ground<'a> {
    pub pipeline: &'a Pipeline,
    pub traits: &'a Traits,
    /// Of the rows that conditions are evaluated on.
    pub schema: &'a SchemaRef,
}

/// A part of a condition.
pub struct Node {
    pub kind: Kind,
    pub parts: Vec<Node>,
    /// True, false, or None: unknown, since a value is null.
    pub holds: Option<bool>,
    /// When it is first something else, if no event comes, and what.
    pub change: Option<(TimeUs, Option<bool>)>,
}

pub enum Kind {
    All,
    Any,
    Not,
    Condition(Box<Leaf>),
}

/// What is not taken apart further.
pub struct Leaf {
    pub sql: String,
    /// Columns of the traits.
    pub columns: Vec<usize>,
    /// Segments that it names.
    pub segments: Vec<Inner>,
    bound: BoundExpression,
}

/// A segment inside a condition.
pub struct Inner {
    pub index: u16,
    /// How it is defined; None where it is not taken apart.
    pub tree: Option<Node>,
}

impl Node {
    /// `depth`: how many levels of segments that are named are taken apart.
    pub fn of(sql: &str, ground: &Ground<'_>, depth: usize) -> Result<Node, EngineError> {
        let part = Part::compile(sql, &scope(ground.pipeline)).map_err(|error| failed(sql, &error))?;
        Node::of_part(part, ground, depth)
    }

    fn of_part(part: Part, ground: &Ground<'_>, depth: usize) -> Result<Node, EngineError> {
        let all = |parts: Vec<Part>| -> Result<Vec<Node>, EngineError> {
            parts.into_iter().map(|part| Node::of_part(part, ground, depth)).collect()
        };
        let (kind, parts) = match part {
            Part::All(parts) => (Kind::All, all(parts)?),
            Part::Any(parts) => (Kind::Any, all(parts)?),
            Part::Not(part) => (Kind::Not, all(vec![*part])?),
            Part::Condition(expression) => {
                (Kind::Condition(Box::new(Leaf::of(&expression, ground, depth)?)), Vec::new())
            }
        };
        Ok(Node { kind, parts, holds: None, change: None })
    }

    /// Takes note of what it comes to in this row: of now, or of a later moment.
    pub fn look(&mut self, row: &RecordBatch, later: Option<TimeUs>) -> Result<Option<bool>, EngineError> {
        let mut values = Vec::with_capacity(self.parts.len());
        for part in &mut self.parts {
            values.push(part.look(row, later)?);
        }
        let holds = match &mut self.kind {
            Kind::All => parts::all(values.into_iter()),
            Kind::Any => parts::any(values.into_iter()),
            Kind::Not => values.first().copied().flatten().map(|value| !value),
            Kind::Condition(leaf) => {
                for inner in leaf.segments.iter_mut().filter_map(|inner| inner.tree.as_mut()) {
                    inner.look(row, later)?;
                }
                let found = leaf.bound.evaluate(row).map_err(|error| failed(&leaf.sql, &error))?;
                let booleans = found.as_boolean_opt().filter(|booleans| booleans.is_valid(0));
                booleans.map(|booleans| booleans.value(0))
            }
        };
        match later {
            None => self.holds = holds,
            Some(at) if self.change.is_none() && holds != self.holds => self.change = Some((at, holds)),
            Some(_) => {}
        }
        Ok(holds)
    }

    /// Every condition in the order of the text, those of segments that are taken apart behind the one that names them.
    pub fn leaves<'n>(&'n self, found: &mut Vec<&'n Leaf>) {
        self.parts.iter().for_each(|part| part.leaves(found));
        if let Kind::Condition(leaf) = &self.kind {
            found.push(leaf);
            leaf.segments.iter().filter_map(|inner| inner.tree.as_ref()).for_each(|tree| tree.leaves(found));
        }
    }
}

impl Leaf {
    fn of(expression: &Expression, ground: &Ground<'_>, depth: usize) -> Result<Leaf, EngineError> {
        let mut leaf = Leaf {
            sql: expression.sql.clone(),
            columns: Vec::new(),
            segments: Vec::new(),
            bound: expression.bind(ground.schema).map_err(|error| failed(&expression.sql, &error))?,
        };
        for input in &expression.inputs {
            if let Ok(column) = ground.traits.schema().index_of(&input.column) {
                leaf.columns.push(column);
            } else if let Some(index) = segment_of(ground.pipeline, &input.column)
                && leaf.segments.iter().all(|inner| inner.index != index)
            {
                let tree = match &ground.pipeline.segments[usize::from(index)].rule {
                    SegmentRule::Predicate(predicate) if depth > 0 => {
                        Some(Node::of(&predicate.sql, ground, depth - 1)?)
                    }
                    _ => None,
                };
                leaf.segments.push(Inner { index, tree });
            }
        }
        Ok(leaf)
    }
}

/// The segment whose membership a column holds.
fn segment_of(pipeline: &Pipeline, column: &str) -> Option<u16> {
    if column == NOW_COLUMN {
        return None;
    }
    let is = |name: &str| column == membership_column(name) || column == since_column(name);
    pipeline.segments.iter().position(|plan| is(&plan.name)).map(|index| index as u16)
}

/// A segment and all that it refers to, in the order in which they are judged.
pub fn with_references(pipeline: &Pipeline, segment: u16) -> Vec<u16> {
    let mut found = vec![segment];
    let mut next = 0;
    while let Some(index) = found.get(next).copied() {
        next += 1;
        if let SegmentRule::Predicate(predicate) = &pipeline.segments[usize::from(index)].rule {
            let named = predicate.inputs.iter().filter_map(|input| segment_of(pipeline, &input.column));
            let new: Vec<u16> = named.filter(|other| !found.contains(other)).collect();
            found.extend(new);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The names that conditions over people may use.
fn scope(pipeline: &Pipeline) -> ColumnScope {
    let mut scope = ColumnScope::new().with_now();
    BUILT_IN.iter().for_each(|(name, value_type)| scope.add_column(name, value_type.arrow()));
    let resolved = |column: String, data_type: DataType| Resolved { column, data_type, nested: Vec::new() };
    for plan in &pipeline.traits {
        for column in &plan.columns {
            let path: &[&str] = if column.part.is_empty() { &[&plan.name] } else { &[&plan.name, column.part] };
            scope.add(path, resolved(column.name.clone(), column.value_type.arrow()));
        }
    }
    for plan in &pipeline.segments {
        scope.add(&["in_segment", &plan.name], resolved(membership_column(&plan.name), DataType::Boolean));
        scope.add(&["has_been", &plan.name], resolved(since_column(&plan.name), time_type()));
    }
    scope
}

/// It was checked before, so this is a fault of ours.
fn failed(sql: &str, error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Internal(format!("`{sql}`: {error}"))
}
