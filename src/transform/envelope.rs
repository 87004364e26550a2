//! A source's columns become the envelope: by name, or by the source's `map:`; then missing values are filled in
//! and times set right. Rules (in SEMANTICS' words where it has them):
//!
//! - `received_at` is the broker's timestamp, so that a replay gives the same; a payload's own is ignored.
//! - `timestamp` is the payload's; else `received_at − (sent_at − original_timestamp)`, which corrects the skew of the
//!   sender's clock; else `original_timestamp`; else `received_at`. More than a day ahead of `received_at` or before
//!   1970 it is set to `received_at` and the event flagged `clamped`.
//! - Without a message id the position in the log is the id. Empty ids are none; an id with a NUL is refused.
//! - Without a type an event with a name is a `track`, one with traits an `identify`; else it is no event.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Builder, Int64Builder, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::rewrite::{render, set_path};
use super::scope::with_position;
use super::{FLAG_CLAMPED, Fault, MapPlan, MapTarget, MapValue, TransformError, evaluate};
use crate::decode::json::read_identifiers;
use crate::decode::json_text::{Walker, shorten, write_string};
use crate::decode::time::{from_millis, parse_time};
use crate::event::{NAMES, RawBatch, Root, TimeUs, column, envelope_schema, identifiers_type, time_type};
use crate::expression::BoundExpression;

/// How far ahead of `received_at` an event's time may be: clocks run wrong, but not by more than a day.
const AHEAD_MAX_US: i64 = 24 * 60 * 60 * 1_000_000;

/// The calls of the Segment spec.
pub const TYPES: [&str; 6] = ["track", "identify", "page", "screen", "group", "alias"];

const TEXTS: [usize; 7] = [
    column::MESSAGE_ID,
    column::TYPE,
    column::EVENT,
    column::USER_ID,
    column::ANONYMOUS_ID,
    column::GROUP_ID,
    column::PREVIOUS_ID,
];

/// How the columns of one source become the envelope.
pub struct EnvelopeMap {
    source: Arc<str>,
    /// What a batch must have.
    columns: SchemaRef,
    /// The source's columns and the position; None where no map needs it.
    with_position: Option<SchemaRef>,
    /// By envelope column.
    inputs: Vec<(usize, Input)>,
    original_timestamp: Option<Input>,
    identifiers: Vec<(String, Input)>,
    json: Vec<(Root, String, Input)>,
}

enum Input {
    Column(usize),
    Expression { bound: BoundExpression, place: String },
    Literal(serde_json::Value),
}

/// The envelope of a batch, before the rows at fault are taken out.
pub struct Enveloped {
    pub columns: Vec<ArrayRef>,
    pub flags: Vec<u8>,
    pub faults: Vec<(usize, Fault)>,
}

impl EnvelopeMap {
    pub fn new(source: &Arc<str>, columns: &SchemaRef, map: Option<&MapPlan>) -> Result<Self, TransformError> {
        let mut this = EnvelopeMap {
            source: source.clone(),
            columns: columns.clone(),
            with_position: None,
            inputs: Vec::new(),
            original_timestamp: None,
            identifiers: Vec::new(),
            json: Vec::new(),
        };
        match map {
            None => this.by_name()?,
            Some(map) => this.by_map(map)?,
        }
        Ok(this)
    }

    fn by_name(&mut self) -> Result<(), TransformError> {
        for (index, field) in self.columns.fields().iter().enumerate() {
            if field.name() == "original_timestamp" {
                check_type(column::TIMESTAMP, field.data_type())
                    .map_err(|reason| self.refuse("original_timestamp", reason))?;
                self.original_timestamp = Some(Input::Column(index));
                continue;
            }
            let Some(target) = NAMES.iter().position(|name| name == field.name()) else { continue };
            if settable(target) {
                check_type(target, field.data_type()).map_err(|reason| self.refuse(field.name(), reason))?;
                self.inputs.push((target, Input::Column(index)));
            }
        }
        Ok(())
    }

    fn by_map(&mut self, map: &MapPlan) -> Result<(), TransformError> {
        let schema = with_position(&self.columns);
        for (target, value) in &map.targets {
            let name = match target {
                MapTarget::Column(index) => NAMES.get(*index).unwrap_or(&"?").to_string(),
                MapTarget::Identifier(name) => format!("identifiers.{name}"),
                MapTarget::Json(root, key) => format!("{}.{key}", NAMES[root.column()]),
            };
            let (input, data_type) = match value {
                MapValue::Literal(value) => (Input::Literal(value.clone()), literal(value, 0).data_type().clone()),
                MapValue::Expression(expression) => {
                    let bound = expression.bind(&schema).map_err(|error| self.refuse(&name, error.to_string()))?;
                    let data_type = expression.data_type.clone();
                    let place = format!("map.{name}");
                    (Input::Expression { bound, place }, data_type)
                }
            };
            match target {
                MapTarget::Column(index) if settable(*index) => {
                    check_type(*index, &data_type).map_err(|reason| self.refuse(&name, reason))?;
                    self.inputs.push((*index, input));
                }
                MapTarget::Identifier(kind) => {
                    check_type(column::USER_ID, &data_type).map_err(|reason| self.refuse(&name, reason))?;
                    self.identifiers.push((kind.clone(), input));
                }
                MapTarget::Json(root, key) if *root != Root::Enriched => self.json.push((*root, key.clone(), input)),
                _ => return Err(self.refuse(&name, "is set by the engine and cannot be mapped".to_string())),
            }
        }
        self.with_position = Some(schema);
        Ok(())
    }

    fn refuse(&self, target: &str, reason: String) -> TransformError {
        TransformError::Definition { place: format!("source {}: {target}", self.source), reason }
    }

    /// The envelope of a decoded batch, row by row as it came.
    pub fn apply(&self, raw: &RawBatch, columns: &RecordBatch, records: &[u32]) -> Result<Enveloped, TransformError> {
        if columns.schema_ref().fields() != self.columns.fields() {
            return Err(TransformError::Columns(self.source.clone()));
        }
        let batch = match &self.with_position {
            Some(schema) => add_position(raw, columns, records, schema)?,
            None => columns.clone(),
        };
        let mut make = Make { raw, records, batch, faults: Vec::new() };
        let mut inputs: Vec<Option<ArrayRef>> = vec![None; column::COUNT];
        for (target, input) in &self.inputs {
            inputs[*target] = Some(make.value(input)?);
        }
        let original = self.original_timestamp.as_ref().map(|input| make.value(input)).transpose()?;
        let mut identifiers = Vec::new();
        for (name, input) in &self.identifiers {
            identifiers.push((name.as_str(), cast(&make.value(input)?, &DataType::Utf8)?));
        }
        let mut all: Vec<ArrayRef> = Vec::with_capacity(column::COUNT);
        let rows = records.len();
        for (index, field) in envelope_schema().fields().iter().enumerate() {
            all.push(match (index, inputs[index].take()) {
                (column::IDENTIFIERS, input) => make.identifiers(input, &identifiers)?,
                (column::PROPERTIES | column::TRAITS | column::CONTEXT, input) => {
                    let keys = self.json.iter().filter(|(root, ..)| root.column() == index);
                    make.json(input, keys)?
                }
                (_, None) => new_null_array(field.data_type(), rows),
                (column::TIMESTAMP | column::SENT_AT, Some(input)) => Arc::new(make.times(&input, NAMES[index])?),
                (_, Some(input)) => Arc::new(make.texts(&input, index)?),
            });
        }
        let original = original.map(|array| make.times(&array, "original_timestamp")).transpose()?;
        let flags = make.complete(&mut all, original.as_ref())?;
        Ok(Enveloped { columns: all, flags, faults: make.faults })
    }
}

/// Columns that a map, a set or a payload may give.
pub fn settable(index: usize) -> bool {
    TEXTS.contains(&index)
        || matches!(
            index,
            column::IDENTIFIERS
                | column::TIMESTAMP
                | column::SENT_AT
                | column::PROPERTIES
                | column::TRAITS
                | column::CONTEXT
        )
}

/// Whether values of a type can become those of an envelope column.
pub fn check_type(index: usize, data_type: &DataType) -> Result<(), String> {
    let nested = data_type.is_nested();
    let good = match index {
        column::IDENTIFIERS => {
            matches!(data_type, DataType::Map(..) | DataType::Struct(_) | DataType::Utf8 | DataType::Null)
        }
        column::TIMESTAMP | column::SENT_AT | column::RECEIVED_AT => matches!(
            data_type,
            DataType::Timestamp(..)
                | DataType::Date32
                | DataType::Date64
                | DataType::Int32
                | DataType::Int64
                | DataType::Float64
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Null
        ),
        column::PROPERTIES | column::TRAITS | column::CONTEXT => {
            nested || is_text(data_type) || *data_type == DataType::Null
        }
        _ => !nested && can_cast_types(data_type, &DataType::Utf8),
    };
    if good { Ok(()) } else { Err(format!("cannot be made of {data_type}")) }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => matches!(other, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

fn literal(value: &serde_json::Value, rows: usize) -> ArrayRef {
    match value {
        serde_json::Value::Null => new_null_array(&DataType::Utf8, rows),
        serde_json::Value::String(text) => Arc::new(StringArray::from_iter_values((0..rows).map(|_| text))),
        other => {
            let text = other.to_string();
            Arc::new(StringArray::from_iter_values((0..rows).map(|_| &text)))
        }
    }
}

fn add_position(
    raw: &RawBatch,
    columns: &RecordBatch,
    records: &[u32],
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let of = |row: &u32| &raw.records[*row as usize];
    let mut all = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        all.push(match field.name().as_str() {
            "_topic" => Arc::new(StringArray::from_iter_values(
                records.iter().map(|row| raw.topics[of(row).topic as usize].as_ref()),
            )) as ArrayRef,
            "_partition" => {
                Arc::new(arrow::array::Int32Array::from_iter_values(records.iter().map(|row| of(row).partition)))
            }
            "_offset" => Arc::new(arrow::array::Int64Array::from_iter_values(records.iter().map(|row| of(row).offset))),
            "_timestamp" => {
                let times = records.iter().map(|row| of(row).timestamp);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_data_type(time_type()))
            }
            name => columns
                .column_by_name(name)
                .cloned()
                .ok_or_else(|| ArrowError::SchemaError(format!("the batch has no column {name}")))?,
        });
    }
    RecordBatch::try_new(schema.clone(), all)
}

/// Makes the columns of one batch, collecting the rows at fault.
struct Make<'a> {
    raw: &'a RawBatch,
    records: &'a [u32],
    batch: RecordBatch,
    faults: Vec<(usize, Fault)>,
}

impl Make<'_> {
    fn value(&self, input: &Input) -> Result<ArrayRef, TransformError> {
        match input {
            Input::Column(index) => Ok(self.batch.column(*index).clone()),
            Input::Literal(value) => Ok(literal(value, self.records.len())),
            Input::Expression { bound, place } => evaluate(bound, &self.batch, place),
        }
    }

    fn texts(&mut self, array: &ArrayRef, index: usize) -> Result<StringArray, ArrowError> {
        let (texts, nul) = clean(cast(array, &DataType::Utf8)?.as_string::<i32>());
        self.faults.extend(nul.into_iter().map(|row| (row, nul_fault(NAMES[index]))));
        Ok(texts)
    }

    fn times(&mut self, array: &ArrayRef, name: &str) -> Result<TimestampMicrosecondArray, ArrowError> {
        let (times, faults) = to_times(array, name)?;
        self.faults.extend(faults);
        Ok(times)
    }

    fn identifiers(&mut self, base: Option<ArrayRef>, more: &[(&str, ArrayRef)]) -> Result<ArrayRef, ArrowError> {
        let rows = self.records.len();
        match &base {
            None if more.is_empty() => return Ok(new_null_array(&identifiers_type(), rows)),
            // What our own decoder made is clean.
            Some(base) if more.is_empty() && *base.data_type() == identifiers_type() && own(base) => {
                return Ok(base.clone());
            }
            _ => {}
        }
        let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        let mut pairs: Vec<(String, String)> = Vec::new();
        let reader = base.as_ref().map(IdentifierReader::new).transpose()?;
        for row in 0..rows {
            pairs.clear();
            if let Some(reader) = &reader
                && let Err(reason) = reader.read(row, &mut pairs)
            {
                self.faults.push((row, Fault::new("wrong_type", format!("identifiers: {reason}"))));
            }
            for (name, values) in more {
                let values = values.as_string::<i32>();
                pairs.retain(|(known, _)| known != name);
                if values.is_valid(row) {
                    pairs.push((name.to_string(), values.value(row).to_string()));
                }
            }
            pairs.retain(|(_, value)| !value.is_empty());
            if let Some((name, _)) = pairs.iter().find(|(_, value)| value.contains('\0')) {
                self.faults.push((row, nul_fault(&format!("identifiers.{name}"))));
            }
            for (name, value) in &pairs {
                builder.keys().append_value(name);
                builder.values().append_value(value);
            }
            builder.append(!pairs.is_empty())?;
        }
        Ok(Arc::new(builder.finish()))
    }

    /// A JSON column: the texts or rendered values of a column, with these keys put in.
    fn json<'k>(
        &self,
        base: Option<ArrayRef>,
        keys: impl Iterator<Item = &'k (Root, String, Input)>,
    ) -> Result<ArrayRef, TransformError> {
        let rows = self.records.len();
        let base = match base {
            None => None,
            Some(array) if is_text(array.data_type()) => Some(objects(cast(&array, &DataType::Utf8)?)),
            Some(array) => Some(objects(Arc::new(render(&array)?))),
        };
        let mut values = Vec::new();
        for (_, key, input) in keys {
            let texts = match input {
                Input::Literal(value) => {
                    let text = value.to_string();
                    StringArray::from_iter_values((0..rows).map(|_| &text))
                }
                other => render(&self.value(other)?)?,
            };
            values.push((key, texts));
        }
        if values.is_empty() {
            return Ok(base.unwrap_or_else(|| new_null_array(&DataType::Utf8, rows)));
        }
        let base = base.as_ref().map(|base| base.as_string::<i32>());
        let mut texts = StringBuilder::with_capacity(rows, rows * 32 * values.len());
        let mut text = String::new();
        for row in 0..rows {
            text.clear();
            let values =
                values.iter().map(|(key, texts)| (key, if texts.is_valid(row) { texts.value(row) } else { "null" }));
            match base {
                Some(base) if base.is_valid(row) => {
                    text.push_str(base.value(row));
                    for (key, value) in values {
                        text = set_path(&text, &[key], value);
                    }
                }
                _ => {
                    text.push('{');
                    for (key, value) in values {
                        if text.len() > 1 {
                            text.push(',');
                        }
                        write_string(&mut text, key);
                        text.push(':');
                        text.push_str(value);
                    }
                    text.push('}');
                }
            }
            texts.append_value(&text);
        }
        Ok(Arc::new(texts.finish()))
    }

    /// Fills in what is missing and what only the record knows.
    fn complete(
        &mut self,
        all: &mut [ArrayRef],
        original: Option<&TimestampMicrosecondArray>,
    ) -> Result<Vec<u8>, ArrowError> {
        let rows = self.records.len();
        let message_ids = all[column::MESSAGE_ID].as_string::<i32>();
        let types = all[column::TYPE].as_string::<i32>();
        let events = all[column::EVENT].as_string::<i32>();
        let sent = all[column::SENT_AT].as_primitive::<TimestampMicrosecondType>();
        let times = all[column::TIMESTAMP].as_primitive::<TimestampMicrosecondType>();
        let traits = &all[column::TRAITS];

        let mut new_ids = StringBuilder::with_capacity(rows, rows * 32);
        let mut new_types = StringBuilder::with_capacity(rows, rows * 8);
        let mut new_times = TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(time_type());
        let mut received = TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(time_type());
        let mut topics = StringBuilder::with_capacity(rows, rows * 16);
        let mut partitions = Int32Builder::with_capacity(rows);
        let mut offsets = Int64Builder::with_capacity(rows);
        let mut flags = vec![0_u8; rows];
        for (row, record) in self.records.iter().enumerate() {
            let record = &self.raw.records[*record as usize];
            if message_ids.is_valid(row) {
                new_ids.append_value(message_ids.value(row));
            } else {
                new_ids.append_value(self.raw.position(record).to_string());
            }
            let kind = if types.is_valid(row) {
                types.value(row)
            } else if events.is_valid(row) {
                "track"
            } else if traits.is_valid(row) {
                "identify"
            } else {
                ""
            };
            if let Some(reason) = no_event(kind, events.is_valid(row)) {
                self.faults.push((row, Fault::new("not_an_event", reason)));
            }
            new_types.append_value(kind);
            let of = |times: &TimestampMicrosecondArray| times.is_valid(row).then(|| times.value(row));
            let time = of(times).or_else(|| match (original.and_then(of), of(sent)) {
                (Some(original), Some(sent)) => Some(record.timestamp.saturating_sub(sent.saturating_sub(original))),
                (original, _) => original,
            });
            let (time, clamped) = clamp(time.unwrap_or(record.timestamp), record.timestamp);
            if clamped {
                flags[row] |= FLAG_CLAMPED;
            }
            new_times.append_value(time);
            received.append_value(record.timestamp);
            topics.append_value(&self.raw.topics[record.topic as usize]);
            partitions.append_value(record.partition);
            offsets.append_value(record.offset);
        }
        let sources = StringArray::from_iter_values((0..rows).map(|_| &self.raw.source));
        all[column::MESSAGE_ID] = Arc::new(new_ids.finish());
        all[column::TYPE] = Arc::new(new_types.finish());
        all[column::TIMESTAMP] = Arc::new(new_times.finish());
        all[column::RECEIVED_AT] = Arc::new(received.finish());
        all[column::SOURCE] = Arc::new(sources);
        all[column::TOPIC] = Arc::new(topics.finish());
        all[column::PARTITION] = Arc::new(partitions.finish());
        all[column::OFFSET] = Arc::new(offsets.finish());
        all[column::INDEX] = Arc::new(arrow::array::Int32Array::from(vec![0; rows]));
        Ok(flags)
    }
}

/// Why something of this type is no event; None when it is one.
pub fn no_event(kind: &str, named: bool) -> Option<String> {
    match kind {
        "" => Some("has neither type nor event nor traits; give it an event name, or map one".to_string()),
        "track" if !named => Some("a track call needs an event name; give it `event`, or map one".to_string()),
        kind if TYPES.contains(&kind) => None,
        kind => Some(format!("the type {:?} is none of {}", shorten(kind), TYPES.join(", "))),
    }
}

/// The time to take, and whether it was absurd.
pub fn clamp(time: TimeUs, received: TimeUs) -> (TimeUs, bool) {
    let absurd = time < 0 || time > received.saturating_add(AHEAD_MAX_US);
    if absurd { (received, true) } else { (time, false) }
}

pub fn nul_fault(name: &str) -> Fault {
    Fault::new(
        "nul_character",
        format!("{name}: holds a NUL character, which no table keeps; remove it at its producer"),
    )
}

/// Empty texts become null; rows whose text holds a NUL.
pub fn clean(texts: &StringArray) -> (StringArray, Vec<usize>) {
    let nul: Vec<usize> = match texts.value_data().contains(&0) {
        true => (0..texts.len()).filter(|row| texts.is_valid(*row) && texts.value(*row).contains('\0')).collect(),
        false => Vec::new(),
    };
    let empty = (0..texts.len()).any(|row| texts.is_valid(row) && texts.value_length(row) == 0);
    if empty {
        (texts.iter().map(|text| text.filter(|text| !text.is_empty())).collect(), nul)
    } else {
        (texts.clone(), nul)
    }
}

/// Values of the types that [`check_type`] allows, as UTC microseconds; integers are epoch milliseconds.
pub fn to_times(array: &ArrayRef, name: &str) -> Result<(TimestampMicrosecondArray, Vec<(usize, Fault)>), ArrowError> {
    let rows = array.len();
    let mut faults = Vec::new();
    let mut bad = |row: usize, found: String| {
        let reason = format!("{name}: expected a time (RFC 3339 text or epoch milliseconds), found {found}");
        faults.push((row, Fault::new("bad_timestamp", reason)));
        None
    };
    let times: Vec<Option<TimeUs>> = match array.data_type() {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            let plain = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None));
            // With a zone a plain cast would give local time: straight to UTC then.
            let times = match array.data_type() {
                DataType::Timestamp(_, Some(_)) => cast(array, &time_type())?,
                _ => plain?,
            };
            let times = times.as_primitive::<TimestampMicrosecondType>();
            let read = |row| match (array.is_valid(row), times.is_valid(row)) {
                (true, true) => Some(times.value(row)),
                (true, false) => bad(row, "a time out of range".to_string()),
                _ => None,
            };
            (0..rows).map(read).collect()
        }
        DataType::Int32 | DataType::Int64 => {
            let millis = cast(array, &DataType::Int64)?;
            let millis = millis.as_primitive::<Int64Type>();
            let read = |(row, millis): (usize, Option<i64>)| {
                millis.and_then(|millis| from_millis(millis).or_else(|| bad(row, millis.to_string())))
            };
            millis.iter().enumerate().map(read).collect()
        }
        DataType::Float64 => {
            let read = |(row, millis): (usize, Option<f64>)| {
                millis.and_then(|millis| match millis.abs() < 9e15 {
                    true => Some((millis * 1000.0) as i64),
                    false => bad(row, millis.to_string()),
                })
            };
            array.as_primitive::<Float64Type>().iter().enumerate().map(read).collect()
        }
        _ => {
            let texts = cast(array, &DataType::Utf8)?;
            let read = |(row, text): (usize, Option<&str>)| {
                let text = text.filter(|text| !text.trim().is_empty())?;
                let millis = || text.trim().parse().ok().and_then(from_millis);
                parse_time(text).or_else(millis).or_else(|| bad(row, format!("{:?}", shorten(text))))
            };
            texts.as_string::<i32>().iter().enumerate().map(read).collect()
        }
    };
    Ok((TimestampMicrosecondArray::from(times).with_data_type(time_type()), faults))
}

/// Texts that stand for "no object" become null.
fn objects(texts: ArrayRef) -> ArrayRef {
    let strings = texts.as_string::<i32>();
    let none = |text: &str| matches!(text.trim_ascii(), "" | "null");
    if !strings.iter().flatten().any(none) {
        return texts;
    }
    Arc::new(strings.iter().map(|text| text.filter(|text| !none(text))).collect::<StringArray>())
}

/// Whether a map has neither nulls nor empty texts nor NULs among its values.
fn own(array: &ArrayRef) -> bool {
    let values = array.as_map().values();
    let values = values.as_string::<i32>();
    values.null_count() == 0
        && !values.value_data().contains(&0)
        && (0..values.len()).all(|index| values.value_length(index) > 0)
}

/// Reads identifiers out of a map, a struct or a JSON text.
enum IdentifierReader<'a> {
    Map { map: &'a arrow::array::MapArray, keys: ArrayRef, values: ArrayRef },
    Struct { nulls: &'a ArrayRef, columns: Vec<(String, ArrayRef)> },
    Json(&'a StringArray),
    Nothing,
}

impl<'a> IdentifierReader<'a> {
    fn new(array: &'a ArrayRef) -> Result<Self, ArrowError> {
        Ok(match array.data_type() {
            DataType::Map(..) => {
                let map = array.as_map();
                let keys = cast(map.keys(), &DataType::Utf8)?;
                IdentifierReader::Map { map, keys, values: cast(map.values(), &DataType::Utf8)? }
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                let columns = columns.map(|(field, column)| Ok((field.name().clone(), cast(column, &DataType::Utf8)?)));
                IdentifierReader::Struct { nulls: array, columns: columns.collect::<Result<_, ArrowError>>()? }
            }
            DataType::Utf8 => IdentifierReader::Json(array.as_string()),
            _ => IdentifierReader::Nothing,
        })
    }

    fn read(&self, row: usize, pairs: &mut Vec<(String, String)>) -> Result<(), String> {
        match self {
            IdentifierReader::Map { map, keys, values } => {
                if map.is_valid(row) {
                    let (keys, values) = (keys.as_string::<i32>(), values.as_string::<i32>());
                    let offsets = map.value_offsets();
                    for entry in offsets[row] as usize..offsets[row + 1] as usize {
                        if values.is_valid(entry) {
                            pairs.push((keys.value(entry).to_string(), values.value(entry).to_string()));
                        }
                    }
                }
            }
            IdentifierReader::Struct { nulls, columns } => {
                for (name, values) in columns.iter().filter(|_| nulls.is_valid(row)) {
                    let values = values.as_string::<i32>();
                    if values.is_valid(row) {
                        pairs.push((name.clone(), values.value(row).to_string()));
                    }
                }
            }
            IdentifierReader::Json(texts) => {
                if texts.is_valid(row) && !texts.value(row).trim_ascii().is_empty() {
                    let mut walker = Walker::new(texts.value(row));
                    let read = walker.begin().and_then(|token| read_identifiers(&mut walker, token));
                    let read = read.and_then(|read| walker.end().map(|()| read)).map_err(|error| error.message(""))?;
                    pairs.extend(read.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())));
                }
            }
            IdentifierReader::Nothing => {}
        }
        Ok(())
    }
}
