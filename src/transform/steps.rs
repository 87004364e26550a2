//! The steps of `transforms:`, each over the rows of a batch that it applies to, in order. After each step the field
//! columns are right again for what comes next.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Builder, MapBuilder, RecordBatch, StringArray, StringBuilder, UInt32Array,
};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Int32Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::envelope::{TYPES, check_type, clamp, clean, no_event, nul_fault, settable, to_times};
use super::rewrite::{elements, render, set_path};
use super::tables::Table;
use super::{Action, FLAG_CLAMPED, Fault, MapTarget, Rows, Step, TransformError, Transformer, evaluate};
use crate::event::{Field, NAMES, Root, TimeUs, column, time_type};
use crate::expression::{BoundExpression, Expression};

/// A step, bound to the columns of the batches.
pub struct BoundStep {
    events: Option<HashSet<String>>,
    sources: Option<Vec<String>>,
    action: BoundAction,
}

enum BoundAction {
    Filter(Value),
    Set(Vec<(Target, Value)>),
    Unnest { from: usize, event: String },
    Enrich { table: usize, key: Value, alias: String },
}

/// An expression with what is needed to evaluate it and to name it.
struct Value {
    bound: BoundExpression,
    /// The expression is nothing but the name of a field that holds JSON: its text is a value, not a string.
    json: bool,
    place: String,
}

enum Target {
    Column(usize),
    Identifier(String),
    Json(Root, Vec<String>),
}

impl Value {
    fn new(expression: &Expression, schema: &SchemaRef, place: String) -> Result<Self, TransformError> {
        let bound = expression.bind(schema);
        let bound =
            bound.map_err(|error| TransformError::Definition { place: place.clone(), reason: error.to_string() })?;
        let name = expression.sql.trim();
        let json = expression.inputs.iter().any(|input| input.column.strip_suffix(":json") == Some(name));
        Ok(Value { bound, json, place })
    }
}

impl BoundStep {
    pub fn new(
        index: usize,
        step: &Step,
        schema: &SchemaRef,
        fields: &[Field],
        tables: &[Table],
    ) -> Result<Self, TransformError> {
        let place = |what: &str| format!("step {} ({what})", index + 1);
        let refuse = |what: &str, reason: String| TransformError::Definition { place: place(what), reason };
        let action = match &step.action {
            Action::Filter(expression) => {
                if !matches!(expression.data_type, DataType::Boolean | DataType::Null) {
                    return Err(refuse("filter", format!("must be true or false, not {}", expression.data_type)));
                }
                BoundAction::Filter(Value::new(expression, schema, place("filter"))?)
            }
            Action::Set(pairs) => {
                let mut bound = Vec::with_capacity(pairs.len());
                for (target, expression) in pairs {
                    let (target, name) = match target {
                        MapTarget::Column(index) if settable(*index) => {
                            check_type(*index, &expression.data_type)
                                .map_err(|reason| refuse(&format!("set {}", NAMES[*index]), reason))?;
                            (Target::Column(*index), NAMES[*index].to_string())
                        }
                        MapTarget::Identifier(kind) => {
                            (Target::Identifier(kind.clone()), format!("identifiers.{kind}"))
                        }
                        MapTarget::Json(root, path) if *root != Root::Enriched => {
                            let keys = path.split('.').map(str::to_string).collect();
                            (Target::Json(*root, keys), format!("{}.{path}", NAMES[root.column()]))
                        }
                        other => return Err(refuse("set", format!("{other:?} is set by the engine"))),
                    };
                    let value = Value::new(expression, schema, place(&format!("set {name}")))?;
                    bound.push((target, value));
                }
                BoundAction::Set(bound)
            }
            Action::Unnest { from, event } => {
                let known = fields.iter().position(|field| field == from);
                let from = known.ok_or_else(|| refuse("unnest", format!("{} is no field", from.column_name())))?;
                BoundAction::Unnest { from: column::COUNT + from, event: event.clone() }
            }
            Action::Enrich { table, key, alias } => {
                let known = tables.iter().position(|known| known.name() == table);
                let table = known.ok_or_else(|| refuse("enrich", format!("there is no table {table}")))?;
                let key = Value::new(key, schema, place("enrich"))?;
                BoundAction::Enrich { table, key, alias: alias.clone() }
            }
        };
        let events = step.events.as_ref().map(|events| events.iter().cloned().collect());
        Ok(BoundStep { events, sources: step.sources.clone(), action })
    }

    pub fn apply(&self, rows: &mut Rows<'_>, transformer: &Transformer) -> Result<(), TransformError> {
        let scope = self.scope(rows);
        if scope.is_empty() {
            return Ok(());
        }
        match &self.action {
            BoundAction::Filter(predicate) => filter(rows, &scope, predicate),
            BoundAction::Set(pairs) => set(rows, scope, pairs, transformer),
            BoundAction::Unnest { from, event } => unnest(rows, &scope, *from, event, transformer),
            BoundAction::Enrich { table, key, alias } => {
                enrich(rows, scope, transformer.table(*table), key, alias, transformer)
            }
        }
    }

    /// The rows it applies to, ascending.
    fn scope(&self, rows: &Rows<'_>) -> Vec<u32> {
        if let Some(sources) = &self.sources
            && !sources.iter().any(|source| **source == *rows.raw.source)
        {
            return Vec::new();
        }
        let events = rows.batch.column(column::EVENT).as_string::<i32>();
        let wanted = |row: &u32| match &self.events {
            None => true,
            Some(names) => events.is_valid(*row as usize) && names.contains(events.value(*row as usize)),
        };
        (0..rows.len() as u32).filter(wanted).collect()
    }
}

/// Values for the rows in scope, in its order.
fn values(rows: &Rows<'_>, scope: &[u32], value: &Value) -> Result<ArrayRef, TransformError> {
    let part = if scope.len() == rows.len() { rows.batch.clone() } else { take(&rows.batch, scope)? };
    evaluate(&value.bound, &part, &value.place)
}

fn take(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch, ArrowError> {
    take_record_batch(batch, &UInt32Array::from(rows.to_vec()))
}

fn filter(rows: &mut Rows<'_>, scope: &[u32], predicate: &Value) -> Result<(), TransformError> {
    let values = cast(&values(rows, scope, predicate)?, &DataType::Boolean)?;
    let values = values.as_boolean();
    let mut keep = vec![true; rows.len()];
    for (place, row) in scope.iter().enumerate() {
        keep[*row as usize] = values.is_valid(place) && values.value(place);
    }
    let dropped = keep.iter().filter(|keep| !**keep).count();
    if dropped > 0 {
        rows.filtered += dropped;
        rows.retain(keep)?;
    }
    Ok(())
}

/// All values are taken from the batch as it was, then put in their places.
fn set(
    rows: &mut Rows<'_>,
    scope: Vec<u32>,
    pairs: &[(Target, Value)],
    transformer: &Transformer,
) -> Result<(), TransformError> {
    let mut faults = Vec::new();
    let mut columns = rows.batch.columns().to_vec();
    let mut roots = Vec::new();
    for (target, value) in pairs {
        let values = values(rows, &scope, value)?;
        match target {
            Target::Column(index @ (column::PROPERTIES | column::TRAITS | column::CONTEXT)) => {
                let texts = json_texts(&values, true)?;
                columns[*index] = Arc::new(replace(columns[*index].as_string(), &scope, &texts, true));
                roots.push(root_of(*index));
            }
            Target::Column(index @ (column::TIMESTAMP | column::SENT_AT)) => {
                let (times, failed) = to_times(&values, NAMES[*index])?;
                faults.extend(failed.into_iter().map(|(place, fault)| (scope[place] as usize, fault)));
                columns[*index] = set_times(rows, *index, &scope, &times);
            }
            Target::Column(column::IDENTIFIERS) => {
                let reason = "the whole map cannot be set; set identifiers.NAME".to_string();
                return Err(TransformError::Definition { place: value.place.clone(), reason });
            }
            Target::Column(index) => {
                let (texts, nul) = clean(cast(&values, &DataType::Utf8)?.as_string());
                faults.extend(nul.into_iter().map(|place| (scope[place] as usize, nul_fault(NAMES[*index]))));
                // A message id and a type are never null: the old one stays.
                let required = matches!(*index, column::MESSAGE_ID | column::TYPE);
                columns[*index] = Arc::new(replace(columns[*index].as_string(), &scope, &texts, !required));
            }
            Target::Identifier(name) => {
                let texts = cast(&values, &DataType::Utf8)?;
                let (texts, nul) = clean(texts.as_string());
                let name_of = format!("identifiers.{name}");
                faults.extend(nul.into_iter().map(|place| (scope[place] as usize, nul_fault(&name_of))));
                columns[column::IDENTIFIERS] = set_identifier(&columns[column::IDENTIFIERS], &scope, name, &texts)?;
            }
            Target::Json(root, path) => {
                let texts = json_texts(&values, value.json)?;
                let old = columns[root.column()].as_string::<i32>();
                let mut new = StringArrayReplacer::new(old, &scope);
                for (place, row) in scope.iter().enumerate() {
                    let row = *row as usize;
                    let old = if old.is_valid(row) { old.value(row) } else { "{}" };
                    let value = if texts.is_valid(place) { texts.value(place) } else { "null" };
                    new.put(row, Some(&set_path(old, path, value)));
                }
                columns[root.column()] = Arc::new(new.finish());
                roots.push(*root);
            }
        }
    }
    let (types, events) = (columns[column::TYPE].as_string::<i32>(), columns[column::EVENT].as_string::<i32>());
    for row in scope.iter().map(|row| *row as usize) {
        if let Some(reason) = no_event(types.value(row), events.is_valid(row)) {
            faults.push((row, Fault::new("not_an_event", reason)));
        }
    }
    rows.batch = RecordBatch::try_new(rows.batch.schema(), columns)?;
    roots.sort_unstable();
    roots.dedup();
    transformer.project_again(rows, &roots, |_| false)?;
    Ok(rows.reject(faults)?)
}

fn root_of(index: usize) -> Root {
    match index {
        column::TRAITS => Root::Traits,
        column::CONTEXT => Root::Context,
        _ => Root::Properties,
    }
}

/// JSON texts of values; `already` when text is JSON as it is.
fn json_texts(values: &ArrayRef, already: bool) -> Result<StringArray, ArrowError> {
    if already && *values.data_type() == DataType::Utf8 { Ok(values.as_string().clone()) } else { render(values) }
}

/// The old column with new values for the rows in scope.
fn replace(old: &StringArray, scope: &[u32], new: &StringArray, with_nulls: bool) -> StringArray {
    let mut replacer = StringArrayReplacer::new(old, scope);
    for (place, row) in scope.iter().enumerate() {
        let row = *row as usize;
        if new.is_valid(place) {
            replacer.put(row, Some(new.value(place)));
        } else if with_nulls {
            replacer.put(row, None);
        }
    }
    replacer.finish()
}

/// Copies a text column, but for some rows, given in ascending order.
struct StringArrayReplacer<'a> {
    old: &'a StringArray,
    next: usize,
    builder: StringBuilder,
}

impl<'a> StringArrayReplacer<'a> {
    fn new(old: &'a StringArray, scope: &[u32]) -> Self {
        let builder = StringBuilder::with_capacity(old.len(), old.value_data().len() + scope.len() * 16);
        StringArrayReplacer { old, next: 0, builder }
    }

    fn copy_to(&mut self, row: usize) {
        for row in self.next..row {
            self.builder.append_option(self.old.is_valid(row).then(|| self.old.value(row)));
        }
    }

    fn put(&mut self, row: usize, text: Option<&str>) {
        self.copy_to(row);
        self.builder.append_option(text);
        self.next = row + 1;
    }

    fn finish(mut self) -> StringArray {
        self.copy_to(self.old.len());
        self.builder.finish()
    }
}

fn set_times(
    rows: &mut Rows<'_>,
    index: usize,
    scope: &[u32],
    new: &arrow::array::TimestampMicrosecondArray,
) -> ArrayRef {
    let old = rows.batch.column(index).as_primitive::<TimestampMicrosecondType>();
    let received = rows.batch.column(column::RECEIVED_AT).as_primitive::<TimestampMicrosecondType>();
    let mut times: Vec<Option<TimeUs>> = old.iter().collect();
    for (place, row) in scope.iter().enumerate() {
        let row = *row as usize;
        let time = new.is_valid(place).then(|| new.value(place));
        times[row] = match (index, time) {
            (column::TIMESTAMP, Some(time)) => {
                let (time, clamped) = clamp(time, received.value(row));
                if clamped {
                    rows.flags[row] |= FLAG_CLAMPED;
                }
                Some(time)
            }
            (column::TIMESTAMP, None) => times[row],
            (_, time) => time,
        };
    }
    Arc::new(arrow::array::TimestampMicrosecondArray::from(times).with_data_type(time_type()))
}

/// One identifier of the rows in scope; null takes it away.
fn set_identifier(old: &ArrayRef, scope: &[u32], name: &str, new: &StringArray) -> Result<ArrayRef, ArrowError> {
    let old = old.as_map();
    let (keys, all) = (old.keys().as_string::<i32>(), old.values().as_string::<i32>());
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    let mut scope = scope.iter().enumerate().peekable();
    for row in 0..old.len() {
        let mut any = false;
        let place = scope.next_if(|(_, scoped)| **scoped as usize == row).map(|(place, _)| place);
        if old.is_valid(row) {
            for entry in old.value_offsets()[row] as usize..old.value_offsets()[row + 1] as usize {
                if place.is_none() || keys.value(entry) != name {
                    any = true;
                    builder.keys().append_value(keys.value(entry));
                    builder.values().append_option(all.is_valid(entry).then(|| all.value(entry)));
                }
            }
        }
        if let Some(place) = place.filter(|place| new.is_valid(*place)) {
            any = true;
            builder.keys().append_value(name);
            builder.values().append_value(new.value(place));
        }
        builder.append(any)?;
    }
    Ok(Arc::new(builder.finish()))
}

/// A row that `unnest` adds.
struct Child {
    message_id: String,
    properties: String,
    index: i32,
}

/// One more event per element, after its parent. Elements that are no objects become `{"value": …}`, nulls are
/// passed over (they keep their number). The children inherit all but type, event, properties and traits.
fn unnest(
    rows: &mut Rows<'_>,
    scope: &[u32],
    from: usize,
    event: &str,
    transformer: &Transformer,
) -> Result<(), TransformError> {
    let texts = rows.batch.column(from).as_string::<i32>();
    let ids = rows.batch.column(column::MESSAGE_ID).as_string::<i32>();
    let indices = rows.batch.column(column::INDEX).as_primitive::<Int32Type>();
    // Rows of one record are numbered through, whichever step made them.
    let mut made: std::collections::HashMap<u32, i32> = std::collections::HashMap::new();
    for (record, index) in rows.records.iter().zip(indices.values()) {
        let last = made.entry(*record).or_insert(0);
        *last = (*last).max(*index);
    }
    let mut order: Vec<u32> = Vec::with_capacity(rows.len() * 2);
    let mut children: Vec<Option<Child>> = Vec::with_capacity(rows.len() * 2);
    let mut scope = scope.iter().peekable();
    for row in 0..rows.len() {
        order.push(row as u32);
        children.push(None);
        let wanted = scope.next_if(|scoped| **scoped as usize == row).is_some();
        let Some(elements) = (wanted && texts.is_valid(row)).then(|| elements(texts.value(row))).flatten() else {
            continue;
        };
        for element in elements {
            let number = rows.children[row];
            rows.children[row] += 1;
            if element == "null" {
                continue;
            }
            let properties =
                if element.starts_with('{') { element.to_string() } else { format!("{{\"value\":{element}}}") };
            let last = made.entry(rows.records[row]).or_insert(0);
            *last += 1;
            order.push(row as u32);
            children.push(Some(Child { message_id: format!("{}:{number}", ids.value(row)), properties, index: *last }));
        }
    }
    if order.len() == rows.len() {
        return Ok(());
    }
    let batch = take(&rows.batch, &order)?;
    let of = |index: usize| batch.column(index).as_string::<i32>();
    let texts = |index: usize, make: &dyn Fn(&Child) -> Option<String>| -> ArrayRef {
        let old = of(index);
        let mut builder = StringBuilder::with_capacity(old.len(), old.value_data().len());
        for (row, child) in children.iter().enumerate() {
            match child {
                Some(child) => builder.append_option(make(child)),
                None => builder.append_option(old.is_valid(row).then(|| old.value(row))),
            }
        }
        Arc::new(builder.finish())
    };
    let mut columns = batch.columns().to_vec();
    columns[column::MESSAGE_ID] = texts(column::MESSAGE_ID, &|child| Some(child.message_id.clone()));
    columns[column::TYPE] = texts(column::TYPE, &|_| Some(TYPES[0].to_string()));
    columns[column::EVENT] = texts(column::EVENT, &|_| Some(event.to_string()));
    columns[column::PROPERTIES] = texts(column::PROPERTIES, &|child| Some(child.properties.clone()));
    columns[column::TRAITS] = texts(column::TRAITS, &|_| None);
    let old = batch.column(column::INDEX).as_primitive::<Int32Type>();
    let mut indices = Int32Builder::with_capacity(order.len());
    for (row, child) in children.iter().enumerate() {
        indices.append_value(child.as_ref().map_or(old.value(row), |child| child.index));
    }
    columns[column::INDEX] = Arc::new(indices.finish());
    rows.batch = RecordBatch::try_new(batch.schema(), columns)?;
    let gather = |values: &[u32]| order.iter().map(|row| values[*row as usize]).collect::<Vec<u32>>();
    rows.records = gather(&rows.records);
    rows.flags = order.iter().map(|row| rows.flags[*row as usize]).collect();
    rows.children = gather(&rows.children);
    for (row, _) in children.iter().enumerate().filter(|(_, child)| child.is_some()) {
        rows.children[row] = 0;
    }
    transformer.project_again(rows, &[Root::Properties, Root::Traits], |row| children[row].is_some())
}

/// Adds the rows of a table under `alias`. A key that the table does not have adds nothing.
fn enrich(
    rows: &mut Rows<'_>,
    scope: Vec<u32>,
    table: &Table,
    key: &Value,
    alias: &str,
    transformer: &Transformer,
) -> Result<(), TransformError> {
    let keys = values(rows, &scope, key)?;
    // Through the key's type to its text: 7, 7.0 and '7' are one key where the table's key is a number.
    let keys =
        if *keys.data_type() == table.key_type().arrow() { keys } else { cast(&keys, &table.key_type().arrow())? };
    let keys = cast(&keys, &DataType::Utf8)?;
    let keys = keys.as_string::<i32>();
    let old = rows.batch.column(column::ENRICHED).as_string::<i32>();
    let mut new = StringArrayReplacer::new(old, &scope);
    for (place, row) in scope.iter().enumerate().filter(|(place, _)| keys.is_valid(*place)) {
        let row = *row as usize;
        if let Some(found) = table.get(keys.value(place)) {
            let old = if old.is_valid(row) { old.value(row) } else { "{}" };
            new.put(row, Some(&set_path(old, &[alias], found)));
        }
    }
    let enriched: ArrayRef = Arc::new(new.finish());
    rows.replace(vec![(column::ENRICHED, enriched)])?;
    transformer.project_again(rows, &[Root::Enriched], |_| false)
}
