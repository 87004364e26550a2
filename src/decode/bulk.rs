//! Walked datums of one writer to Arrow columns of the reader's schema, many at a time, by arrow-avro.
//!
//! arrow-avro resolves writer against reader by the logical type of the reader alone, follows the second mention of a
//! named type without comparing, and has no place for some sound pairs. So both schemas are laid out anew for it, pair
//! by pair: named types written out, units of time taken from the writer (and converted afterwards), aliases decided
//! here. What would be misread in silence is a mismatch, decided once per writer:
//! decimals of another scale, a date read as a timestamp.
//!
//! More lenient than Avro in two points: the names of records, enums and fixeds are not compared (structure decides),
//! and an enum may be read as a string.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, ListArray, MapArray, PrimitiveArray, RecordBatch, StructArray,
    TimestampMicrosecondArray,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType,
};
use arrow::error::ArrowError;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::{Value, json};

use super::DecodeError;
use super::schema::{DEPTH_MAX, Field, Logical, Node, NodeId, Schema};

/// What all writers of a source are read as.
pub struct Reader {
    pub schema: Schema,
    /// The columns, see [`Schema::arrow_fields`].
    pub arrow: SchemaRef,
    /// Refuses a plain long as a timestamp: its unit would be a guess. Off where the reader schema is the user's own,
    /// who thereby says the unit.
    pub units_required: bool,
}

impl Reader {
    pub fn new(json: &str, units_required: bool) -> Result<Reader, DecodeError> {
        // apache-avro also checks the defaults.
        apache_avro::Schema::parse_str(json).map_err(|error| DecodeError::Schema(error.to_string()))?;
        let schema = Schema::parse(json)?;
        let fields = schema.arrow_fields()?;
        if fields.is_empty() {
            return Err(DecodeError::Schema("a record without fields".to_owned()));
        }
        Ok(Reader { arrow: Arc::new(arrow::datatypes::Schema::new(fields)), schema, units_required })
    }
}

/// The decoder of one (writer, reader) pair.
pub struct Bulk {
    layout: Layout,
    decoder: arrow_avro::reader::Decoder,
    arrow: SchemaRef,
}

/// Both schemas as arrow-avro gets them.
struct Layout {
    writer: String,
    reader: String,
}

/// arrow-avro reads framed data; the frame is given to it beside each datum.
const FRAME_ID: u32 = 1;
const FRAME: [u8; 5] = [0, 0, 0, 0, 1];

/// At most this many bytes go into one Arrow array, whose offsets have 31 bits.
const CHUNK_BYTES_MAX: usize = 256 << 20;

impl Bulk {
    /// Why the reader cannot read this writer, where it cannot.
    pub fn new(writer: &Schema, reader: &Reader) -> Result<Bulk, String> {
        let mut pairing = Pairing { writer, reader: &reader.schema, units_required: reader.units_required, nodes: 0 };
        let reader_json = pairing.pair(writer.root, reader.schema.root, "", 0)?;
        let writer_json = pairing.plain(writer, writer.root, Side::Writer, 0)?;
        let layout = Layout { writer: writer_json.to_string(), reader: reader_json.to_string() };
        let decoder = layout.decoder()?;
        Ok(Bulk { layout, decoder, arrow: reader.arrow.clone() })
    }

    /// Decodes walked datums. Returns the rows in order; `bad` gets the indices of those that have no place in the
    /// reader's schema, with the reason.
    pub fn decode(&mut self, datums: &[&[u8]], bad: &mut Vec<(usize, String)>) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        // Ranges still to be decoded, the first on top.
        let mut todo = chunks(datums);
        todo.reverse();
        while let Some((start, end)) = todo.pop() {
            if start == end {
                continue;
            }
            let failure = match self.try_decode(&datums[start..end]) {
                Ok(batch) => {
                    batches.push(batch);
                    continue;
                }
                Err(failure) => failure,
            };
            // A failed decoder keeps parts of rows.
            match self.layout.decoder() {
                Ok(decoder) => self.decoder = decoder,
                Err(reason) => {
                    bad.extend((start..end).map(|index| (index, reason.clone())));
                    continue;
                }
            }
            match failure.index {
                _ if end - start == 1 => bad.push((start, failure.reason)),
                Some(index) => {
                    bad.push((start + index, failure.reason));
                    todo.push((start + index + 1, end));
                    todo.push((start, start + index));
                }
                None => {
                    let middle = start + (end - start) / 2;
                    todo.push((middle, end));
                    todo.push((start, middle));
                }
            }
        }
        batches
    }

    fn try_decode(&mut self, datums: &[&[u8]]) -> Result<RecordBatch, Failure> {
        for (index, datum) in datums.iter().enumerate() {
            let at = |reason: String| Failure { index: Some(index), reason };
            self.decoder.decode(&FRAME).map_err(|error| at(error.to_string()))?;
            // An empty datum needs a byte to be looked at, and takes none of it.
            let fed: &[u8] = if datum.is_empty() { &[0] } else { datum };
            let taken = self.decoder.decode(fed).map_err(|error| at(error.to_string()))?;
            if taken != datum.len() {
                return Err(at(format!("{taken} of {} bytes could be read", datum.len())));
            }
        }
        let whole = |reason: String| Failure { index: None, reason };
        let batch = self.decoder.flush().map_err(|error| whole(error.to_string()))?;
        let batch = batch.filter(|batch| batch.num_rows() == datums.len());
        let batch = batch.ok_or_else(|| whole("some datums gave no row".to_owned()))?;
        conform(&batch, &self.arrow).map_err(|error| whole(error.to_string()))
    }
}

struct Failure {
    /// The datum at fault, where it is known.
    index: Option<usize>,
    reason: String,
}

fn chunks(datums: &[&[u8]]) -> Vec<(usize, usize)> {
    let (mut chunks, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, datum) in datums.iter().enumerate() {
        if bytes + datum.len() > CHUNK_BYTES_MAX && index > start {
            chunks.push((start, index));
            (start, bytes) = (index, 0);
        }
        bytes += datum.len();
    }
    chunks.push((start, datums.len()));
    chunks
}

impl Layout {
    fn decoder(&self) -> Result<arrow_avro::reader::Decoder, String> {
        let build = || -> Result<arrow_avro::reader::Decoder, ArrowError> {
            let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
            let id = store.set(Fingerprint::Id(FRAME_ID), AvroSchema::new(self.writer.clone()))?;
            ReaderBuilder::new()
                .with_writer_schema_store(store)
                .with_active_fingerprint(id)
                .with_reader_schema(AvroSchema::new(self.reader.clone()))
                .with_batch_size(usize::MAX)
                .build_decoder()
        };
        build().map_err(|error| error.to_string())
    }
}

/// Laying out writer and reader for each other.
struct Pairing<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
    units_required: bool,
    nodes: usize,
}

/// Named types are written out at each mention, which can multiply.
const NODES_MAX: usize = 20_000;

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Writer,
    Reader,
}

impl Pairing<'_> {
    /// The reader's type as it is to be laid out for this writer's type.
    fn pair(&mut self, w: NodeId, r: NodeId, path: &str, depth: usize) -> Result<Value, String> {
        self.count(depth)?;
        let (writer, reader) = (self.writer, self.reader);
        let (inner, nullable) = reader.nullable(r);
        let Node::Union(branches) = writer.node(w) else {
            let paired = self.pair_plain(w, inner, path, depth)?;
            return Ok(if nullable { json!(["null", paired]) } else { paired });
        };
        let values: Vec<NodeId> = branches.iter().copied().filter(|id| *writer.node(*id) != Node::Null).collect();
        let paired = match values[..] {
            [] => self.plain(reader, inner, Side::Reader, depth)?,
            [value] => self.pair_plain(value, inner, path, depth)?,
            _ => {
                let is_number = |id: &&NodeId| matches!(writer.node(**id), Node::Int(_) | Node::Long(_));
                if reader.node(inner).is_time() && values.iter().filter(is_number).count() > 1 {
                    return Err(format!("`{path}`: the writer has several numbers, the reader wants one unit of time"));
                }
                // The branch of the reader's own kind before those that are promoted to it. Values of a branch that
                // has no place in the reader are refused one by one.
                let same = |id: &&NodeId| writer.node(**id).kind() == reader.node(inner).kind();
                let order = values.iter().filter(same).chain(values.iter().filter(|id| !same(id)));
                let mut first_error = None;
                let mut found = None;
                for id in order {
                    match self.pair_plain(*id, inner, path, depth) {
                        Ok(paired) => {
                            found = Some(paired);
                            break;
                        }
                        Err(error) => first_error = first_error.or(Some(error)),
                    }
                }
                match found {
                    Some(paired) => paired,
                    None => return Err(first_error.unwrap_or_default()),
                }
            }
        };
        Ok(if nullable { json!(["null", paired]) } else { paired })
    }

    /// Neither side is a union.
    fn pair_plain(&mut self, w: NodeId, r: NodeId, path: &str, depth: usize) -> Result<Value, String> {
        let (writer, reader) = (self.writer, self.reader);
        let (from, to) = (writer.node(w), reader.node(r));
        let mismatch = |why: &str| {
            let at = if path.is_empty() { "the record" } else { path };
            Err(format!("`{at}`: the writer has {}, the reader wants {}{why}", from.kind(), to.kind()))
        };
        Ok(match (from, to) {
            (Node::Null, Node::Null) => json!("null"),
            (Node::Boolean, Node::Boolean) => json!("boolean"),
            (Node::Int(Logical::TimeMillis), Node::Long(Logical::TimeMicros)) => primitive("int", Logical::TimeMillis),
            (Node::Int(wl), Node::Int(rl)) if wl == rl || *wl == Logical::None || *rl == Logical::None => {
                primitive("int", *rl)
            }
            (Node::Int(wl) | Node::Long(wl), Node::Long(rl)) => {
                use Logical::{LocalTimestamp, Timestamp};
                match (wl, rl) {
                    // The writer's unit is read, and converted to the reader's afterwards.
                    (Timestamp(_) | LocalTimestamp(_), Timestamp(_) | LocalTimestamp(_)) => primitive("long", *wl),
                    (Logical::None, Timestamp(_) | LocalTimestamp(_)) if self.units_required => {
                        return mismatch(
                            " as a timestamp, whose unit the writer does not say; \
                             give the field a logicalType such as timestamp-millis, or map it with `map:`",
                        );
                    }
                    (wl, rl) if wl == rl || *wl == Logical::None || *rl == Logical::None => primitive("long", *rl),
                    _ => return mismatch(" of another logical type"),
                }
            }
            (Node::Int(_) | Node::Long(_) | Node::Float, Node::Float) => json!("float"),
            (Node::Int(_) | Node::Long(_) | Node::Float | Node::Double, Node::Double) => json!("double"),
            (Node::Bytes(wl), Node::Bytes(rl)) if same_scale(*wl, *rl) => primitive("bytes", *rl),
            (Node::Bytes(_), Node::Bytes(_)) => return mismatch(" with another decimal scale"),
            (Node::Bytes(Logical::None), Node::String) | (Node::String, Node::String) => json!("string"),
            (Node::String, Node::Bytes(Logical::None)) => json!("bytes"),
            // Read as the enum it is, and made text with all others.
            (Node::Enum { .. }, Node::String) => self.plain(writer, w, Side::Writer, depth)?,
            (Node::Enum { name, .. }, Node::Enum { symbols, default, .. }) => {
                let mut laid_out = json!({ "type": "enum", "name": name, "symbols": symbols });
                if let Some(default) = default {
                    laid_out["default"] = json!(default);
                }
                laid_out
            }
            (Node::Fixed { name, size, logical: wl }, Node::Fixed { size: wanted, logical: rl, .. }) => {
                if size != wanted {
                    return mismatch(" of another size");
                }
                if !same_scale(*wl, *rl) {
                    return mismatch(" of another logical type or scale");
                }
                fixed(name, *size, *rl)
            }
            (Node::Array(from), Node::Array(to)) => {
                json!({ "type": "array", "items": self.pair(*from, *to, &format!("{path}[]"), depth + 1)? })
            }
            (Node::Map(from), Node::Map(to)) => {
                json!({ "type": "map", "values": self.pair(*from, *to, &format!("{path}{{}}"), depth + 1)? })
            }
            (Node::Record { name, fields: from }, Node::Record { fields: to, .. }) => {
                let mut laid_out = Vec::with_capacity(to.len());
                let mut taken = vec![false; from.len()];
                for field in to {
                    laid_out.push(self.pair_field(from, &mut taken, field, path, depth)?);
                }
                json!({ "type": "record", "name": name, "fields": laid_out })
            }
            _ => return mismatch(""),
        })
    }

    /// A field of the reader's record: the writer's of the same name, or of one of its aliases, or its default.
    fn pair_field(
        &mut self,
        from: &[Field],
        taken: &mut [bool],
        field: &Field,
        path: &str,
        depth: usize,
    ) -> Result<Value, String> {
        let reader = self.reader;
        let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
        let (inner, nullable) = reader.nullable(field.node);
        let names = std::iter::once(&field.name).chain(&field.aliases);
        let found = names
            .filter_map(|name| from.iter().position(|other| other.name == *name))
            .find(|index| !taken[*index])
            .map(|index| {
                taken[index] = true;
                &from[index]
            });
        let can_be_null = nullable || *reader.node(inner) == Node::Null;
        match found {
            // A null takes no bytes: it is left out of the writer, and so comes from the default.
            Some(written) if *self.writer.node(written.node) == Node::Null && can_be_null => {}
            Some(written) => {
                let paired = self.pair(written.node, field.node, &path, depth + 1)?;
                let mut laid_out = json!({ "name": field.name, "type": paired });
                if written.name != field.name {
                    laid_out["aliases"] = json!([written.name]);
                }
                return Ok(laid_out);
            }
            None => {}
        }
        let plain = self.plain(reader, inner, Side::Reader, depth + 1)?;
        let default = if found.is_some() { Some(Value::Null) } else { field.default.clone() };
        match default {
            Some(Value::Null) | None if nullable => {
                Ok(json!({ "name": field.name, "type": ["null", plain], "default": null }))
            }
            // A default belongs to the first branch of its union.
            Some(value) if nullable => Ok(json!({ "name": field.name, "type": [plain, "null"], "default": value })),
            Some(value) => Ok(json!({ "name": field.name, "type": plain, "default": value })),
            None => Err(format!("`{path}`: the writer does not have it, and the reader has no default for it")),
        }
    }

    /// A type as it is, named types written out.
    fn plain(&mut self, schema: &Schema, id: NodeId, side: Side, depth: usize) -> Result<Value, String> {
        self.count(depth)?;
        Ok(match schema.node(id) {
            Node::Null => json!("null"),
            Node::Boolean => json!("boolean"),
            Node::Int(logical) => primitive("int", *logical),
            Node::Long(logical) => primitive("long", *logical),
            Node::Float => json!("float"),
            Node::Double => json!("double"),
            Node::Bytes(logical) => primitive("bytes", *logical),
            Node::String => json!("string"),
            Node::Fixed { name, size, logical } => fixed(name, *size, *logical),
            Node::Enum { name, symbols, .. } => json!({ "type": "enum", "name": name, "symbols": symbols }),
            Node::Array(items) => json!({ "type": "array", "items": self.plain(schema, *items, side, depth + 1)? }),
            Node::Map(values) => json!({ "type": "map", "values": self.plain(schema, *values, side, depth + 1)? }),
            Node::Union(branches) => {
                let branches: Result<Vec<Value>, String> =
                    branches.iter().map(|branch| self.plain(schema, *branch, side, depth + 1)).collect();
                Value::Array(branches?)
            }
            Node::Record { name, fields } => {
                let mut laid_out = Vec::with_capacity(fields.len());
                for field in fields {
                    if side == Side::Writer && *schema.node(field.node) == Node::Null {
                        continue;
                    }
                    let mut one =
                        json!({ "name": field.name, "type": self.plain(schema, field.node, side, depth + 1)? });
                    if side == Side::Reader
                        && let Some(default) = &field.default
                    {
                        one["default"] = default.clone();
                    }
                    laid_out.push(one);
                }
                json!({ "type": "record", "name": name, "fields": laid_out })
            }
        })
    }

    fn count(&mut self, depth: usize) -> Result<(), String> {
        self.nodes += 1;
        if depth > DEPTH_MAX {
            return Err(format!("the schema is recursive or nested more than {DEPTH_MAX} deep"));
        }
        if self.nodes > NODES_MAX {
            return Err(format!("the schema has more than {NODES_MAX} types when written out"));
        }
        Ok(())
    }
}

fn same_scale(writer: Logical, reader: Logical) -> bool {
    match (writer, reader) {
        (Logical::Decimal { scale: from, .. }, Logical::Decimal { scale: to, .. }) => from == to,
        (from, to) => from == to || from == Logical::None || to == Logical::None,
    }
}

fn primitive(name: &str, logical: Logical) -> Value {
    match logical_name(logical) {
        Some(logical_type) => with_decimal(json!({ "type": name, "logicalType": logical_type }), logical),
        None => json!(name),
    }
}

fn fixed(name: &str, size: usize, logical: Logical) -> Value {
    let mut laid_out = json!({ "type": "fixed", "name": name, "size": size });
    if let Some(logical_type) = logical_name(logical) {
        laid_out["logicalType"] = json!(logical_type);
    }
    with_decimal(laid_out, logical)
}

fn with_decimal(mut laid_out: Value, logical: Logical) -> Value {
    if let Logical::Decimal { precision, scale } = logical {
        laid_out["precision"] = json!(precision);
        laid_out["scale"] = json!(scale);
    }
    laid_out
}

fn logical_name(logical: Logical) -> Option<&'static str> {
    use super::schema::Unit::{Micros, Millis, Nanos};
    Some(match logical {
        Logical::None => return None,
        Logical::Date => "date",
        Logical::TimeMillis => "time-millis",
        Logical::TimeMicros => "time-micros",
        Logical::Timestamp(Millis) => "timestamp-millis",
        Logical::Timestamp(Micros) => "timestamp-micros",
        Logical::Timestamp(Nanos) => "timestamp-nanos",
        Logical::LocalTimestamp(Millis) => "local-timestamp-millis",
        Logical::LocalTimestamp(Micros) => "local-timestamp-micros",
        Logical::LocalTimestamp(Nanos) => "local-timestamp-nanos",
        Logical::Decimal { .. } => "decimal",
        Logical::Duration => "duration",
    })
}

/// arrow-avro's columns as the reader's, column by column.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| conform_array(column, field.data_type()));
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
}

fn conform_array(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == target {
        return Ok(array.clone());
    }
    match (array.data_type(), target) {
        // A writer's union of several types, read as [null, T].
        (DataType::Union(fields, _), _) => {
            let union = array.as_union();
            let value = fields.iter().find(|(_, field)| *field.data_type() != DataType::Null);
            let (value, _) = value.ok_or_else(|| ArrowError::CastError("a union of nulls".to_owned()))?;
            let offsets = union.offsets().ok_or_else(|| ArrowError::CastError("a sparse union".to_owned()))?;
            let indices = union.type_ids().iter().zip(offsets.iter());
            let indices: Int32Array = indices.map(|(id, offset)| (*id == value).then_some(*offset)).collect();
            conform_array(&take(union.child(value), &indices, None)?, target)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let array = array.as_struct();
            let columns = array.columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| conform_array(column, field.data_type()));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let nulls = array.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len())?))
        }
        (DataType::List(_), DataType::List(field)) => {
            let array = array.as_list::<i32>();
            let values = conform_array(array.values(), field.data_type())?;
            Ok(Arc::new(ListArray::try_new(field.clone(), array.offsets().clone(), values, array.nulls().cloned())?))
        }
        (DataType::Map(_, _), DataType::Map(field, _)) => {
            let array = array.as_map();
            let entries: ArrayRef = Arc::new(array.entries().clone());
            let entries = conform_array(&entries, field.data_type())?;
            let entries = entries.as_struct().clone();
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(field.clone(), offsets, entries, nulls, false)?))
        }
        (DataType::Timestamp(unit, _), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            let micros = match unit {
                TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().clone(),
                // Saturates: what is far outside all time is clamped later, not lost here.
                TimeUnit::Millisecond => {
                    micros::<TimestampMillisecondType>(array, |millis| millis.saturating_mul(1000))
                }
                TimeUnit::Nanosecond => micros::<TimestampNanosecondType>(array, |nanos| nanos.div_euclid(1000)),
                TimeUnit::Second => return Err(ArrowError::CastError("timestamps in seconds".to_owned())),
            };
            Ok(Arc::new(micros.with_timezone_opt(zone.clone())))
        }
        _ => cast_with_options(array, target, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

fn micros<T: ArrowPrimitiveType<Native = i64>>(array: &ArrayRef, convert: fn(i64) -> i64) -> TimestampMicrosecondArray {
    let array: &PrimitiveArray<T> = array.as_primitive::<T>();
    array.unary::<_, TimestampMicrosecondType>(convert)
}
