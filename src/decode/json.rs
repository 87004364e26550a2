//! JSON payloads: the standard envelope, objects under an Avro contract, rows of CSV files.
//!
//! Every payload is walked once (`json_text`), which finds the exact reason and offset of a bad one; a row is
//! appended only after its payload has been walked to the end, so that a bad record costs itself alone. The JSON
//! of `properties`, `traits` and `context` is kept to the letter.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, MapBuilder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use smallvec::SmallVec;

use super::csv::CsvRows;
use super::json_contract::ContractRows;
use super::json_text::{JsonError, Text, Token, Walked, Walker, shorten};
use super::time::{from_millis, parse_time};
use super::{DecodeError, Decoded, Format, reject};
use crate::event::{RawBatch, Reject, TimeUs, identifiers_type, time_type};

/// Reads JSON payloads of one source.
pub struct JsonDecoder {
    kind: Kind,
}

enum Kind {
    Envelope(SchemaRef),
    Contract(ContractRows),
    Csv(CsvRows),
}

impl JsonDecoder {
    /// # Errors
    /// The contract's schema or the declared columns cannot be used; the format is not a JSON one.
    pub fn new(format: &Format) -> Result<Self, DecodeError> {
        let kind = match format {
            Format::JsonEnvelope => Kind::Envelope(envelope_columns()),
            Format::JsonContract { schema } => Kind::Contract(ContractRows::new(schema)?),
            Format::Csv { columns } => Kind::Csv(CsvRows::new(columns)),
            Format::Avro { .. } => return Err(DecodeError::Schema("an Avro format is not read as JSON".to_string())),
        };
        Ok(JsonDecoder { kind })
    }

    /// The columns of what is decoded.
    pub fn schema(&self) -> SchemaRef {
        match &self.kind {
            Kind::Envelope(schema) => schema.clone(),
            Kind::Contract(rows) => rows.schema(),
            Kind::Csv(rows) => rows.schema(),
        }
    }

    /// Reads what can be read; the rest is in `rejects`, in log order.
    pub fn decode(&mut self, raw: &RawBatch) -> Decoded {
        match &mut self.kind {
            Kind::Envelope(schema) => decode_envelopes(raw, schema),
            Kind::Contract(rows) => rows.decode(raw),
            Kind::Csv(rows) => rows.decode(raw),
        }
    }
}

/// The columns of the standard envelope as a payload has it; `original_timestamp` is for the correction of skew.
fn envelope_columns() -> SchemaRef {
    let texts = TEXTS.iter().map(|name| ArrowField::new(*name, DataType::Utf8, true));
    let identifiers = [ArrowField::new("identifiers", identifiers_type(), true)];
    let times = TIMES.iter().map(|name| ArrowField::new(*name, time_type(), true));
    let objects = OBJECTS.iter().map(|name| ArrowField::new(*name, DataType::Utf8, true));
    Arc::new(Schema::new(texts.chain(identifiers).chain(times).chain(objects).collect::<Vec<_>>()))
}

const TEXTS: [&str; 7] = ["message_id", "type", "event", "user_id", "anonymous_id", "group_id", "previous_id"];
const TIMES: [&str; 4] = ["timestamp", "original_timestamp", "sent_at", "received_at"];
const OBJECTS: [&str; 3] = ["properties", "traits", "context"];

/// What a key at the top of an envelope is.
#[derive(Clone, Copy)]
enum Slot {
    Text(usize),
    Identifiers,
    Time(usize),
    Object(usize),
    /// `name` and `category` of page and screen calls.
    Page(usize),
}

const PAGE: [&str; 2] = ["name", "category"];

fn slot(key: &str) -> Option<Slot> {
    Some(match key {
        "message_id" | "messageId" => Slot::Text(0),
        "type" => Slot::Text(1),
        "event" => Slot::Text(2),
        "user_id" | "userId" => Slot::Text(3),
        "anonymous_id" | "anonymousId" => Slot::Text(4),
        "group_id" | "groupId" => Slot::Text(5),
        "previous_id" | "previousId" => Slot::Text(6),
        "identifiers" => Slot::Identifiers,
        "timestamp" => Slot::Time(0),
        "original_timestamp" | "originalTimestamp" => Slot::Time(1),
        "sent_at" | "sentAt" => Slot::Time(2),
        "received_at" | "receivedAt" => Slot::Time(3),
        "properties" => Slot::Object(0),
        "traits" => Slot::Object(1),
        "context" => Slot::Object(2),
        "name" => Slot::Page(0),
        "category" => Slot::Page(1),
        _ => return None,
    })
}

/// One envelope, before it is known to be good.
#[derive(Default)]
struct Envelope<'a> {
    texts: [Option<Cow<'a, str>>; TEXTS.len()],
    identifiers: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 4]>,
    times: [Option<TimeUs>; TIMES.len()],
    objects: [Option<Cow<'a, str>>; OBJECTS.len()],
}

fn read_envelope(text: &str) -> Walked<Envelope<'_>> {
    let mut walker = Walker::new(text);
    let mut envelope = Envelope::default();
    let mut page: [Option<Text<'_>>; PAGE.len()] = [None; PAGE.len()];
    let mut seen = 0_u32;
    let token = walker.begin()?;
    if token != Token::Object {
        return Err(not_an_object("", &token, walker.start()));
    }
    while let Some(key) = walker.next_key()? {
        let key = key.decode();
        let token = walker.begin()?;
        let start = walker.start();
        let Some(slot) = slot(&key) else {
            walker.skip(token)?;
            continue;
        };
        let bit = match slot {
            Slot::Text(index) => index,
            Slot::Time(index) => 8 + index,
            Slot::Object(index) => 16 + index,
            Slot::Identifiers => 24,
            Slot::Page(index) => 25 + index,
        };
        if seen & (1 << bit) != 0 {
            let reason = format!("{key} is given twice, in snake_case and in camelCase");
            return Err(JsonError::new("duplicate_key", reason, start));
        }
        seen |= 1 << bit;
        match slot {
            Slot::Text(index) => envelope.texts[index] = read_text(&mut walker, &key, token)?,
            Slot::Time(index) => envelope.times[index] = read_time(&key, token, start)?,
            Slot::Identifiers => envelope.identifiers = read_identifiers(&mut walker, token)?,
            Slot::Object(index) => {
                walker.skip(token)?;
                envelope.objects[index] = match token {
                    Token::Object => Some(Cow::Borrowed(walker.text_from(start))),
                    Token::Null => None,
                    // An empty map of PHP arrives as an empty array.
                    Token::Array if is_empty_array(walker.text_from(start)) => None,
                    other => return Err(not_an_object(&key, &other, start)),
                };
            }
            Slot::Page(index) => {
                walker.skip(token)?;
                if let Token::String(text) = token {
                    page[index] = Some(text);
                }
            }
        }
    }
    walker.end()?;
    if matches!(envelope.texts[1].as_deref(), Some("page" | "screen")) {
        for (key, value) in PAGE.iter().zip(page) {
            if let Some(value) = value {
                let properties = envelope.objects[0].take();
                envelope.objects[0] = Some(with_key(properties, key, value.quoted())?);
            }
        }
    }
    Ok(envelope)
}

fn not_an_object(name: &str, token: &Token<'_>, offset: usize) -> Box<JsonError> {
    let error = JsonError::new("not_an_object", format!("expected an object, found {}", token.kind()), offset);
    if name.is_empty() { error } else { error.under(name) }
}

fn is_empty_array(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'[' | b']') || byte.is_ascii_whitespace()) && text.matches('[').count() == 1
}

/// The object with a key more, unless it has it.
fn with_key<'a>(object: Option<Cow<'a, str>>, key: &str, value: &str) -> Walked<Cow<'a, str>> {
    let Some(object) = object else { return Ok(Cow::Owned(format!("{{\"{key}\":{value}}}"))) };
    let (empty, known) = has_key(&object, key)?;
    if known {
        return Ok(object);
    }
    let comma = if empty { "" } else { "," };
    Ok(Cow::Owned(format!("{{\"{key}\":{value}{comma}{}", &object[1..])))
}

/// Whether the object is empty, and whether it has the key.
fn has_key(object: &str, key: &str) -> Walked<(bool, bool)> {
    let mut walker = Walker::new(object);
    let mut empty = true;
    walker.begin()?;
    while let Some(known) = walker.next_key()? {
        empty = false;
        if known.decode() == key {
            return Ok((false, true));
        }
        let token = walker.begin()?;
        walker.skip(token)?;
    }
    Ok((empty, false))
}

/// An id or a name: text, or a number by its digits.
fn read_text<'a>(walker: &mut Walker<'a>, key: &str, token: Token<'a>) -> Walked<Option<Cow<'a, str>>> {
    let start = walker.start();
    match token {
        Token::Null => Ok(None),
        Token::String(text) => {
            let text = text.decode();
            if text.contains('\0') {
                let reason = "holds a NUL character, which no table keeps; remove it at its producer";
                return Err(JsonError::new("nul_character", reason, start).under(key));
            }
            Ok(Some(text))
        }
        Token::Number(number) => Ok(Some(Cow::Borrowed(number.text))),
        other => {
            let reason = format!("expected a string, found {}", other.kind());
            Err(JsonError::new("wrong_type", reason, start).under(key))
        }
    }
}

fn read_time(key: &str, token: Token<'_>, start: usize) -> Walked<Option<TimeUs>> {
    let (time, found) = match token {
        Token::Null => return Ok(None),
        Token::String(text) => (parse_time(&text.decode()), text.quoted()),
        Token::Number(number) => (number.long().and_then(from_millis), number.text),
        ref other => (None, other.kind()),
    };
    if time.is_none() {
        let reason = format!("expected a time (RFC 3339 text or epoch milliseconds), found {}", shorten(found));
        return Err(JsonError::new("bad_timestamp", reason, start).under(key));
    }
    Ok(time)
}

/// An object of texts; nulls and empty texts identify nobody and are left out.
pub fn read_identifiers<'a>(
    walker: &mut Walker<'a>,
    token: Token<'a>,
) -> Walked<SmallVec<[(Cow<'a, str>, Cow<'a, str>); 4]>> {
    let mut identifiers = SmallVec::new();
    match token {
        Token::Null => {}
        Token::Object => {
            while let Some(name) = walker.next_key()? {
                let name = name.decode();
                let token = walker.begin()?;
                let value = read_text(walker, &name, token).map_err(|error| error.under("identifiers"))?;
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    identifiers.push((name, value));
                }
            }
        }
        other => {
            let start = walker.start();
            walker.skip(other)?;
            if other != Token::Array || !is_empty_array(walker.text_from(start)) {
                return Err(not_an_object("identifiers", &other, start));
            }
        }
    }
    Ok(identifiers)
}

fn decode_envelopes(raw: &RawBatch, schema: &SchemaRef) -> Decoded {
    let mut texts: [StringBuilder; TEXTS.len()] = std::array::from_fn(|_| StringBuilder::new());
    let mut identifiers = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    let mut times: [TimestampMicrosecondBuilder; TIMES.len()] =
        std::array::from_fn(|_| TimestampMicrosecondBuilder::new().with_data_type(time_type()));
    let mut objects: [StringBuilder; OBJECTS.len()] = std::array::from_fn(|_| StringBuilder::new());
    let (records, rejects) = each_text(raw, |text| {
        let envelope = read_envelope(text)?;
        for (builder, text) in texts.iter_mut().zip(&envelope.texts) {
            builder.append_option(text.as_deref());
        }
        for (name, value) in &envelope.identifiers {
            identifiers.keys().append_value(name);
            identifiers.values().append_value(value);
        }
        // Keys and values are appended together above: their lengths cannot differ.
        let _ = identifiers.append(!envelope.identifiers.is_empty());
        for (builder, time) in times.iter_mut().zip(envelope.times) {
            builder.append_option(time);
        }
        for (builder, object) in objects.iter_mut().zip(&envelope.objects) {
            builder.append_option(object.as_deref());
        }
        Ok(())
    });
    let mut columns: Vec<ArrayRef> = texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
    columns.push(Arc::new(identifiers.finish()));
    columns.extend(times.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
    columns.extend(objects.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
    finish(raw, schema, columns, records, rejects)
}

/// Calls `read` with each payload that is text; what it refuses becomes a reject.
pub(super) fn each_text<'r>(raw: &'r RawBatch, mut read: impl FnMut(&'r str) -> Walked<()>) -> (Vec<u32>, Vec<Reject>) {
    let mut records = Vec::with_capacity(raw.records.len());
    let mut rejects = Vec::new();
    for (index, record) in raw.records.iter().enumerate() {
        let payload = raw.payload(record);
        if payload.iter().all(u8::is_ascii_whitespace) {
            let reason = "the payload is empty (a tombstone, or nothing was serialised)".to_string();
            rejects.push(reject(raw, record, "empty", reason, None));
            continue;
        }
        let text = match simdutf8::compat::from_utf8(payload) {
            Ok(text) => text,
            Err(error) => {
                let reason = "not UTF-8; JSON must be".to_string();
                rejects.push(reject(raw, record, "not_utf8", reason, Some(error.valid_up_to() as u32)));
                continue;
            }
        };
        match read(text) {
            Ok(()) => records.push(index as u32),
            Err(error) => {
                rejects.push(reject(raw, record, error.code, error.message(""), Some(error.offset as u32)));
            }
        }
    }
    (records, rejects)
}

/// The batch of what was read. Columns that do not fit the schema would be a mistake of ours: everything is then
/// rejected with that reason instead of being lost.
pub(super) fn finish(
    raw: &RawBatch,
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    records: Vec<u32>,
    mut rejects: Vec<Reject>,
) -> Decoded {
    let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
    match RecordBatch::try_new_with_options(schema.clone(), columns, &options) {
        Ok(columns) => Decoded { columns, records, rejects },
        Err(error) => {
            let failed = records.iter().map(|index| &raw.records[*index as usize]);
            rejects.extend(failed.map(|record| reject(raw, record, "internal", error.to_string(), None)));
            Decoded { columns: RecordBatch::new_empty(schema.clone()), records: Vec::new(), rejects }
        }
    }
}

#[cfg(test)]
mod tests;
