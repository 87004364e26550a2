//! From what a source holds to what the pipeline wants: `map`, then `filter`, `set`, `unnest`, `enrich`,
//! all of them SQL expressions over whole batches.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Field, ValueType};
use crate::expression::Expression;

/// `map:` of a source: envelope column by envelope column.
#[derive(Debug, Clone)]
pub struct MapPlan {
    pub targets: Vec<(MapTarget, MapValue)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapTarget {
    /// An index of [`crate::event::column`].
    Column(usize),
    /// An identifier type of the `identifiers` map.
    Identifier(String),
    /// A key (at the top) of `properties`, `traits` or `context`.
    Json(crate::event::Root, String),
}

#[derive(Debug, Clone)]
pub enum MapValue {
    Expression(Expression),
    Literal(serde_json::Value),
}

/// One step of `transforms:`.
#[derive(Debug, Clone)]
pub struct Step {
    /// Event names it applies to; all where None.
    pub events: Option<Vec<String>>,
    /// Sources it applies to; all where None.
    pub sources: Option<Vec<String>>,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub enum Action {
    /// Keeps the rows for which this is true.
    Filter(Expression),
    /// Replaces envelope columns or JSON values (the target `Json` with a dotted path).
    Set(Vec<(MapTarget, Expression)>),
    /// One more event per element of a JSON array; its properties are the element's.
    Unnest { from: Field, event: String },
    /// Adds the row of a table whose key equals the value, under `alias`.
    Enrich { table: String, key: Expression, alias: String },
}

/// A table of `tables:`.
#[derive(Debug, Clone)]
pub struct TablePlan {
    pub name: String,
    pub file: PathBuf,
    pub key: String,
    pub columns: Vec<(String, ValueType)>,
    pub reload: Option<Duration>,
}

/// The contract of a named event's properties: an Avro record.
#[derive(Debug, Clone)]
pub struct Contract {
    pub event: String,
    /// The Avro schema as JSON text.
    pub schema: String,
    pub file: PathBuf,
}

/// What happens to an event that breaks its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContractMode {
    #[default]
    Strict,
    /// Let through, with `contract` in its flags.
    Flag,
}

/// All that the stage does, for every source.
#[derive(Debug, Clone, Default)]
pub struct TransformPlan {
    pub maps: std::collections::BTreeMap<Arc<str>, MapPlan>,
    pub steps: Vec<Step>,
    pub tables: Vec<TablePlan>,
    pub contracts: Vec<Contract>,
    pub contract_mode: ContractMode,
    /// Fields that the steps themselves read.
    pub step_fields: Vec<Field>,
    /// The field columns that the stages after this one read, in this order.
    pub fields: Vec<Field>,
}
