//! From what a source holds to what the pipeline wants: `map`, then `filter`, `set`, `unnest`, `enrich`,
//! all of them SQL expressions over whole batches.
//!
//! The way of a batch: the source's columns become the envelope (`envelope`), one walk over the JSON texts checks
//! them and their contracts and takes out the typed fields (`fields`), the steps run in their order (`steps`), and
//! what the later stages read is handed on. What cannot pass becomes a reject; the rows around it are not touched.

mod envelope;
mod fields;
mod restore;
mod rewrite;
mod scope;
mod steps;
mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringBuilder, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::decode::json_text::JsonError;
use crate::decode::{Decoded, reject};
use crate::event::{EventBatch, Field, NAMES, RawBatch, Reject, Root, ValueType, column, schema_with};
use crate::expression::{BoundExpression, Expression};

use envelope::EnvelopeMap;
pub use envelope::TYPES;
use fields::FieldSet;
pub use fields::spellings;
pub use restore::Restore;
pub use scope::{Aliases, Contracts, EventScope, MapScope};
use steps::BoundStep;
use tables::Table;

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

/// The stage cannot do what it is asked to: a mistake in definitions or tables, or one of ours. Input that is at
/// fault never ends up here.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// A map or step that does not fit its columns.
    #[error("{place}: {reason}")]
    Definition { place: String, reason: String },
    #[error("table {table} ({}, line {line}): {reason}", file.display())]
    Table { table: String, file: PathBuf, line: u64, reason: String },
    #[error("contract {}: {reason}", file.display())]
    Contract { file: PathBuf, reason: String },
    /// A batch of a source that was not named to [`Transformer::new`], or of other columns than named there.
    #[error("a batch of source {0} does not have the columns that were declared for it")]
    Columns(Arc<str>),
    #[error("columns do not fit together: {0}")]
    Arrow(#[from] ArrowError),
}

/// Runs the stage. Holds no state between batches but the tables.
pub struct Transformer {
    sources: BTreeMap<Arc<str>, EnvelopeMap>,
    contracts: Contracts,
    contract_mode: ContractMode,
    /// What steps and later stages read.
    fields: FieldSet,
    schema: SchemaRef,
    steps: Vec<BoundStep>,
    tables: Vec<Table>,
    output: Vec<usize>,
}

/// What came of a batch.
#[derive(Debug)]
pub struct Transformed {
    /// Envelope and the plan's `fields`.
    pub events: EventBatch,
    /// What decoding refused, then what this stage refused.
    pub rejects: Vec<Reject>,
    /// Rows that a `filter` dropped.
    pub filtered: usize,
}

/// Why a row is at fault.
struct Fault {
    code: String,
    reason: String,
}

impl Fault {
    fn new(code: &str, reason: impl Into<String>) -> Self {
        Fault { code: code.to_string(), reason: reason.into() }
    }

    fn json(error: &JsonError, root: Root) -> Self {
        Fault::new(error.code, error.message(NAMES[root.column()]))
    }
}

const FLAG_CLAMPED: u8 = 1;
const FLAG_CONTRACT: u8 = 2;

/// The events of a batch between two steps, with what travels beside the columns.
struct Rows<'a> {
    raw: &'a RawBatch,
    batch: RecordBatch,
    /// Row to record.
    records: Vec<u32>,
    flags: Vec<u8>,
    /// Rows that `unnest` has made of this row.
    children: Vec<u32>,
    rejects: Vec<Reject>,
    filtered: usize,
}

impl Rows<'_> {
    fn len(&self) -> usize {
        self.records.len()
    }

    /// Rejects the rows that are at fault; where several faults are known of one row, the first counts.
    fn reject(&mut self, mut faults: Vec<(usize, Fault)>) -> Result<(), ArrowError> {
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort_by_key(|(row, _)| *row);
        faults.dedup_by_key(|(row, _)| *row);
        let mut keep = vec![true; self.len()];
        for (row, fault) in faults {
            keep[row] = false;
            let record = &self.raw.records[self.records[row] as usize];
            self.rejects.push(reject(self.raw, record, &fault.code, fault.reason, None));
        }
        self.retain(keep)
    }

    fn retain(&mut self, keep: Vec<bool>) -> Result<(), ArrowError> {
        fn retain<T>(values: &mut Vec<T>, keep: &[bool]) {
            let mut kept = keep.iter();
            values.retain(|_| kept.next().copied().unwrap_or(false));
        }
        retain(&mut self.records, &keep);
        retain(&mut self.flags, &keep);
        retain(&mut self.children, &keep);
        self.batch = filter_record_batch(&self.batch, &BooleanArray::from(keep))?;
        Ok(())
    }

    /// Puts new columns in the place of old ones.
    fn replace(&mut self, columns: Vec<(usize, ArrayRef)>) -> Result<(), ArrowError> {
        let mut all = self.batch.columns().to_vec();
        for (index, column) in columns {
            all[index] = column;
        }
        self.batch = RecordBatch::try_new(self.batch.schema(), all)?;
        Ok(())
    }
}

impl Transformer {
    /// Binds maps and steps to their columns and loads the tables. `schemas`: what each source decodes to.
    ///
    /// # Errors
    /// What in the plan cannot work, and why.
    pub fn new(plan: &TransformPlan, schemas: &BTreeMap<Arc<str>, SchemaRef>) -> Result<Self, TransformError> {
        let contracts = Contracts::compile(&plan.contracts)
            .map_err(|(contract, reason)| TransformError::Contract { file: contract.file, reason })?;
        let mut fields: Vec<Field> = Vec::new();
        let unnested = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Unnest { from, .. } => Some(from),
            _ => None,
        });
        for field in plan.fields.iter().chain(&plan.step_fields).chain(unnested) {
            if !fields.contains(field) {
                fields.push(field.clone());
            }
        }
        let schema = schema_with(&fields);
        let tables = plan.tables.iter().map(Table::load).collect::<Result<Vec<_>, _>>()?;
        let mut sources = BTreeMap::new();
        for (name, columns) in schemas {
            sources.insert(name.clone(), EnvelopeMap::new(name, columns, plan.maps.get(name))?);
        }
        let bind = |(index, step): (usize, &Step)| BoundStep::new(index, step, &schema, &fields, &tables);
        let steps = plan.steps.iter().enumerate().map(bind).collect::<Result<Vec<_>, _>>()?;
        let wanted = (0..column::COUNT).chain((0..plan.fields.len()).map(|index| {
            let place = fields.iter().position(|field| *field == plan.fields[index]);
            column::COUNT + place.unwrap_or(index) // always there: they went in first
        }));
        let output = wanted.collect();
        let fields = FieldSet::new(&fields);
        Ok(Transformer { sources, contracts, contract_mode: plan.contract_mode, fields, schema, steps, tables, output })
    }

    /// The envelope and the fields that later stages read: what [`Transformer::apply`] gives.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<_> = self.output.iter().map(|index| self.schema.field(*index).clone()).collect();
        Arc::new(arrow::datatypes::Schema::new(fields))
    }

    /// Reads a table's file again.
    ///
    /// # Errors
    /// The file is at fault; what was loaded before stays in use.
    pub fn reload(&mut self, table: &str) -> Result<(), TransformError> {
        self.tables.iter_mut().filter(|known| known.name() == table).try_for_each(Table::reload)
    }

    /// Takes a decoded batch all the way. Rows keep the order of the log; unnested ones follow their parent.
    ///
    /// # Errors
    /// Never for what is in the payloads: only when the batch is not of a declared source.
    pub fn apply(&mut self, raw: &RawBatch, decoded: Decoded) -> Result<Transformed, TransformError> {
        let source = self.sources.get(&raw.source).ok_or_else(|| TransformError::Columns(raw.source.clone()))?;
        let Decoded { columns, records, rejects } = decoded;
        let enveloped = source.apply(raw, &columns, &records)?;
        let mut all = enveloped.columns;
        all.extend(self.fields.fields().iter().map(|field| new_null_array(field.arrow().data_type(), records.len())));
        let mut rows = Rows {
            raw,
            batch: RecordBatch::try_new(self.schema.clone(), all)?,
            children: vec![0; records.len()],
            flags: enveloped.flags,
            records,
            rejects,
            filtered: 0,
        };
        rows.reject(enveloped.faults)?;
        self.check(&mut rows)?;
        for step in &self.steps {
            step.apply(&mut rows, self)?;
        }
        let flags = flag_texts(&rows.flags);
        rows.replace(vec![(column::FLAGS, flags)])?;
        let events = EventBatch { batch: rows.batch.project(&self.output)? };
        Ok(Transformed { events, rejects: rows.rejects, filtered: rows.filtered })
    }

    /// Checks all JSON texts and the contracts, and fills the field columns.
    fn check(&self, rows: &mut Rows<'_>) -> Result<(), TransformError> {
        let mut faults = Vec::new();
        let mut columns = Vec::new();
        for root in [Root::Properties, Root::Traits, Root::Context] {
            let texts = rows.batch.column(root.column()).as_string::<i32>();
            let events = rows.batch.column(column::EVENT).as_string::<i32>();
            let contract = |row: usize| match root {
                Root::Properties if !self.contracts.is_empty() && events.is_valid(row) => {
                    self.contracts.get(events.value(row))
                }
                _ => None,
            };
            let (values, errors) = self.fields.project(root, texts, contract, self.contract_mode);
            columns.extend(values.into_iter().map(|(index, values)| (column::COUNT + index, values)));
            for (row, error) in errors {
                if error.code == "contract" && self.contract_mode == ContractMode::Flag {
                    rows.flags[row] |= FLAG_CONTRACT;
                } else {
                    faults.push((row, Fault::json(&error, root)));
                }
            }
            // An event without properties has no way to hold what its contract requires.
            if root == Root::Properties && !self.contracts.is_empty() {
                self.check_missing(rows, &mut faults)?;
            }
        }
        rows.replace(columns)?;
        Ok(rows.reject(faults)?)
    }

    /// Contracts of events that have no properties at all.
    fn check_missing(&self, rows: &mut Rows<'_>, faults: &mut Vec<(usize, Fault)>) -> Result<(), TransformError> {
        let texts = rows.batch.column(column::PROPERTIES).as_string::<i32>();
        let events = rows.batch.column(column::EVENT).as_string::<i32>();
        for row in (0..rows.records.len()).filter(|row| texts.is_null(*row) && events.is_valid(*row)) {
            let Some(contract) = self.contracts.get(events.value(row)) else { continue };
            if let Err(error) = contract.check("{}") {
                match self.contract_mode {
                    ContractMode::Flag => rows.flags[row] |= FLAG_CONTRACT,
                    ContractMode::Strict => faults.push((row, Fault::json(&error, Root::Properties))),
                }
            }
        }
        Ok(())
    }

    /// Fills the field columns of these roots again, after a step has changed their texts. Rows of which `checked`
    /// is true are held to their contract, whose breach is only flagged: their event has passed already.
    fn project_again(
        &self,
        rows: &mut Rows<'_>,
        roots: &[Root],
        checked: impl Fn(usize) -> bool,
    ) -> Result<(), TransformError> {
        let mut columns = Vec::new();
        for root in roots {
            let texts = rows.batch.column(root.column()).as_string::<i32>();
            let events = rows.batch.column(column::EVENT).as_string::<i32>();
            let contract = |row: usize| match root {
                Root::Properties if checked(row) && events.is_valid(row) => self.contracts.get(events.value(row)),
                _ => None,
            };
            let (values, errors) = self.fields.project(*root, texts, contract, ContractMode::Flag);
            columns.extend(values.into_iter().map(|(index, values)| (column::COUNT + index, values)));
            for (row, _) in errors.into_iter().filter(|(_, error)| error.code == "contract") {
                rows.flags[row] |= FLAG_CONTRACT;
            }
        }
        Ok(rows.replace(columns)?)
    }

    fn table(&self, index: usize) -> &Table {
        &self.tables[index]
    }
}

fn flag_texts(flags: &[u8]) -> ArrayRef {
    let mut texts = StringBuilder::with_capacity(flags.len(), 0);
    for flags in flags {
        texts.append_option(match *flags {
            0 => None,
            FLAG_CLAMPED => Some("clamped"),
            FLAG_CONTRACT => Some("contract"),
            _ => Some("clamped,contract"),
        });
    }
    Arc::new(texts.finish())
}

/// One value per row; a row that cannot be computed is null.
fn evaluate(expression: &BoundExpression, batch: &RecordBatch, place: &str) -> Result<ArrayRef, TransformError> {
    let values = expression.evaluate(batch);
    values.map_err(|error| TransformError::Definition { place: place.to_string(), reason: error.to_string() })
}

#[cfg(test)]
mod step_tests;
#[cfg(test)]
mod tests;
