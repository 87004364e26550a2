//! `produce`: a CSV or NDJSON file to a Kafka topic, each row one Confluent-framed Avro record. For trying things out.
//!
//! 1. the writer schema gets its id: given, from the registry, or the number that ends its file's stem;
//! 2. the topic is created if it is not there;
//! 3. every row is converted to the schema's types, encoded and sent, in the order of the file; records with the same
//!    key go to the same partition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::schema::{NamesRef, ResolvedSchema};
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use clap::Args;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use serde_json::Value as Json;

use crate::decode::registry::{RegistryClient, RegistryError};
use crate::kafka::{Quiet, SettingsError, client_config, default_setting, explain};
use crate::source::FileFormat;
use crate::source::file::rows::{Cut, Resume, Rows};

#[derive(Debug, Clone, Args)]
pub struct ProduceOptions {
    /// A .csv, .tsv, .ndjson or .jsonl file
    pub input: PathBuf,
    #[arg(long, env = "KAFKA_BROKERS", default_value = "localhost:9092")]
    pub brokers: String,
    #[arg(long)]
    pub topic: String,
    /// For a topic that is not there yet [default: the broker's]
    #[arg(long)]
    pub partitions: Option<i32>,
    /// The Avro schema to write with, an .avsc file
    #[arg(long, value_name = "AVSC")]
    pub schema: PathBuf,
    /// The schema's id [default: from the registry, or the number that ends the schema file's name]
    #[arg(long)]
    pub schema_id: Option<u32>,
    /// A schema registry, where the schema is registered under TOPIC-value
    #[arg(long, env = "SCHEMA_REGISTRY_URL", value_name = "URL")]
    pub registry: Option<String>,
    /// The field whose text is the record's key
    #[arg(long, value_name = "FIELD")]
    pub key: Option<String>,
    /// A setting of the Kafka client, such as security.protocol=SASL_SSL
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub settings: Vec<(String, String)>,
    /// How many times the file is sent
    #[arg(long, default_value_t = 1)]
    pub repeat: u32,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_string(), value.trim().to_string()))
}

/// What has been sent and acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    pub records: u64,
    pub bytes: u64,
    pub schema_id: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    #[error("{path}: {reason}")]
    Input { path: String, reason: String },
    #[error("{path}: row {row}: {reason}; the {sent} records before it have been sent")]
    Row { path: String, row: i64, reason: String, sent: u64 },
    #[error("{path}: {reason}")]
    Schema { path: String, reason: String },
    #[error("{path}: the schema has no id: give --schema-id or --registry, or end the file's name in a number")]
    NoSchemaId { path: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("kafka: {0}")]
    Settings(#[from] SettingsError),
    #[error("kafka at {brokers}: {reason}")]
    Kafka { brokers: String, reason: String },
}

impl ProduceError {
    /// The environment (brokers, registry) is at fault, not the input: worth a retry.
    pub fn is_environment(&self) -> bool {
        matches!(self, ProduceError::Registry(_) | ProduceError::Kafka { .. })
    }
}

const CONFLUENT_MAGIC: u8 = 0;
/// For answers of the brokers.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// For the last acknowledgements.
const FLUSH_WITHIN: Duration = Duration::from_secs(120);

/// Sends the whole file and waits until every record is acknowledged.
///
/// # Errors
/// The first thing that goes wrong ends it; what was sent before stays sent.
pub async fn produce(options: ProduceOptions) -> Result<Produced, ProduceError> {
    let shown = options.schema.display().to_string();
    let unusable = |reason: String| ProduceError::Schema { path: shown.clone(), reason };
    let json = std::fs::read_to_string(&options.schema).map_err(|error| unusable(error.to_string()))?;
    let schema = Schema::parse_str(&json).map_err(|error| unusable(error.to_string()))?;
    let schema_id = match (options.schema_id, &options.registry) {
        (Some(id), _) => id,
        (None, Some(url)) => RegistryClient::new(url)?.register(&format!("{}-value", options.topic), &json).await?,
        (None, None) => id_of_stem(&options.schema).ok_or(ProduceError::NoSchemaId { path: shown.clone() })?,
    };

    let settings: BTreeMap<String, String> = options.settings.iter().cloned().collect();
    let mut config = client_config(&options.brokers, &settings, &["enable.idempotence"])?;
    ensure_topic(&config, &options).await?;
    config.set("enable.idempotence", "true");
    for (key, value) in [
        ("partitioner", "murmur2_random"),
        ("linger.ms", "20"),
        ("queue.buffering.max.messages", "200000"),
        ("message.timeout.ms", "120000"),
    ] {
        default_setting(&mut config, key, value);
    }
    let sent = tokio::task::spawn_blocking(move || send_file(&config, &options, &schema, schema_id)).await;
    sent.unwrap_or_else(|error| Err(ProduceError::Input { path: shown, reason: error.to_string() }))
}

/// The number that ends a file's stem: `order-1.avsc` is 1.
fn id_of_stem(path: &Path) -> Option<u32> {
    let stem = path.file_stem()?.to_str()?;
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    stem[stem.len() - digits..].parse().ok()
}

/// Creates the topic if it is not there, and waits until its partitions have leaders.
async fn ensure_topic(config: &ClientConfig, options: &ProduceOptions) -> Result<(), ProduceError> {
    let fail = |reason: String| ProduceError::Kafka { brokers: options.brokers.clone(), reason };
    let admin: Arc<AdminClient<Quiet>> =
        Arc::new(config.create_with_context(Quiet).map_err(|error| SettingsError::from_kafka(&error))?);
    if leaders(&admin, &options.topic).await.map_err(|error| fail(explain(&error)))?.is_some() {
        return Ok(());
    }
    // -1: the broker's defaults.
    let topic = NewTopic::new(&options.topic, options.partitions.unwrap_or(-1), TopicReplication::Fixed(-1));
    let request = AdminOptions::new().operation_timeout(Some(ANSWER_WITHIN)).request_timeout(Some(ANSWER_WITHIN));
    let answer = admin.create_topics([&topic], &request).await.map_err(|error| fail(explain(&error)))?;
    for topic in answer {
        match topic {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let reason = explain(&KafkaError::AdminOp(code));
                return Err(fail(format!("topic {topic} cannot be created: {reason}")));
            }
        }
    }
    for _ in 0..100 {
        if leaders(&admin, &options.topic).await.map_err(|error| fail(explain(&error)))? == Some(true) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(fail(format!("topic {} was created, but its partitions have no leaders yet", options.topic)))
}

/// Whether all partitions of a topic have a leader; None where there is no such topic. Asks for all topics, since
/// asking for one would create it on brokers that do so by themselves.
async fn leaders(admin: &Arc<AdminClient<Quiet>>, topic: &str) -> Result<Option<bool>, KafkaError> {
    let (admin, topic) = (admin.clone(), topic.to_string());
    let answer = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(None, ANSWER_WITHIN)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let has_leader = |partition: &rdkafka::metadata::MetadataPartition| partition.leader() >= 0;
        Ok(found.map(|found| !found.partitions().is_empty() && found.partitions().iter().all(has_leader)))
    });
    answer.await.unwrap_or(Err(KafkaError::Canceled))
}

fn send_file(
    config: &ClientConfig,
    options: &ProduceOptions,
    schema: &Schema,
    schema_id: u32,
) -> Result<Produced, ProduceError> {
    let path = options.input.display().to_string();
    let kafka = |reason: String| ProduceError::Kafka { brokers: options.brokers.clone(), reason };
    let ending = options.input.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let format = match ending.as_str() {
        "csv" => FileFormat::Csv { delimiter: b',' },
        "tsv" => FileFormat::Csv { delimiter: b'\t' },
        "ndjson" | "jsonl" => FileFormat::Ndjson,
        _ => {
            let reason = "its name must end in .csv, .tsv, .ndjson or .jsonl".to_string();
            return Err(ProduceError::Input { path, reason });
        }
    };
    let unusable = |error: apache_avro::Error| ProduceError::Schema {
        path: options.schema.display().to_string(),
        reason: error.to_string(),
    };
    let encoder = Encoder::new(schema, schema_id, matches!(format, FileFormat::Csv { .. })).map_err(unusable)?;
    let context = Failures::default();
    let producer: ThreadedProducer<Failures> =
        config.create_with_context(context.clone()).map_err(|error| SettingsError::from_kafka(&error))?;

    let mut produced = Produced { records: 0, bytes: 0, schema_id };
    let (mut payload, mut key) = (Vec::new(), String::new());
    let mut rows_before = 0;
    for _ in 0..options.repeat {
        let input = |error: std::io::Error| ProduceError::Input { path: path.clone(), reason: error.to_string() };
        let mut rows = Rows::open(&options.input, &format, None, Resume::default(), true).map_err(input)?;
        loop {
            let bad_row = |row, reason| ProduceError::Row { path: path.clone(), row, reason, sent: produced.records };
            let (row, json) = match rows.next(1).map_err(input)? {
                Cut::Record { row, payload } => (row, payload),
                Cut::Blank => continue,
                Cut::Reject { row, reason, .. } => return Err(bad_row(row, reason)),
                Cut::Unfinished | Cut::End => break,
            };
            let mut json: Json = serde_json::from_slice(json).map_err(|error| bad_row(row, error.to_string()))?;
            if let Some(object) = json.as_object_mut()
                && !object.contains_key("row")
            {
                object.insert("row".into(), Json::from(rows_before + row));
            }
            encoder.encode(&json, &mut payload).map_err(|reason| bad_row(row, reason))?;
            let mut record = BaseRecord::<str, [u8]>::to(&options.topic).payload(&payload);
            if let Some(field) = &options.key {
                key = match json.get(field) {
                    Some(Json::String(text)) => text.clone(),
                    Some(Json::Null) | None => {
                        return Err(bad_row(row, format!("the key's field `{field}` is not there")));
                    }
                    Some(other) => other.to_string(),
                };
            }
            if options.key.is_some() {
                record = record.key(&key);
            }
            while let Err((error, back)) = producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(bad_row(row, explain(&error)));
                }
                context.check().map_err(kafka)?;
                std::thread::sleep(Duration::from_millis(5));
                record = back;
            }
            produced.records += 1;
            produced.bytes += payload.len() as u64;
        }
        rows_before += rows.resume().rows;
    }
    producer.flush(FLUSH_WITHIN).map_err(|error| kafka(explain(&error)))?;
    context.check().map_err(kafka)?;
    Ok(produced)
}

/// Records that the brokers did not take.
#[derive(Debug, Clone, Default)]
struct Failures(Arc<Mutex<Option<String>>>);

impl Failures {
    fn check(&self) -> Result<(), String> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(reason) => Err(format!("a record was not taken: {reason}")),
        }
    }
}

impl ClientContext for Failures {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(level, facility, message);
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| explain(error));
        }
    }
}

/// JSON rows to framed datums. The cells of a CSV row are texts: they are read as the schema's types, and an empty
/// one is null where the schema allows that.
struct Encoder<'s> {
    schema: &'s Schema,
    names: NamesRef<'s>,
    writer: GenericDatumWriter<'s>,
    schema_id: u32,
    cells: bool,
}

impl<'s> Encoder<'s> {
    fn new(schema: &'s Schema, schema_id: u32, cells: bool) -> Result<Encoder<'s>, apache_avro::Error> {
        let names = ResolvedSchema::new(schema)?.get_names().clone();
        let writer = GenericDatumWriter::builder(schema).build()?;
        Ok(Encoder { schema, names, writer, schema_id, cells })
    }

    fn encode(&self, row: &Json, into: &mut Vec<u8>) -> Result<(), String> {
        let value = self.value(self.schema, row)?;
        into.clear();
        into.push(CONFLUENT_MAGIC);
        into.extend_from_slice(&self.schema_id.to_be_bytes());
        self.writer.write_value_ref(into, &value).map(|_| ()).map_err(|error| error.to_string())
    }

    fn value(&self, schema: &Schema, json: &Json) -> Result<Value, String> {
        let misfit = |what: &str| format!("{} is no {what}", shorten(json));
        Ok(match schema {
            Schema::Null if json.is_null() || self.is_empty_cell(json) => Value::Null,
            Schema::Null => return Err(misfit("null")),
            Schema::Boolean => match (json, text(json)) {
                (Json::Bool(value), _) => Value::Boolean(*value),
                (_, Some("true" | "True" | "TRUE" | "1")) => Value::Boolean(true),
                (_, Some("false" | "False" | "FALSE" | "0")) => Value::Boolean(false),
                _ => return Err(misfit("boolean")),
            },
            Schema::Int => {
                let int = integer(json).and_then(|value| i32::try_from(value).ok());
                Value::Int(int.ok_or_else(|| misfit("int"))?)
            }
            Schema::Long => Value::Long(integer(json).ok_or_else(|| misfit("long"))?),
            Schema::Float => Value::Float(number(json).ok_or_else(|| misfit("float"))? as f32),
            Schema::Double => Value::Double(number(json).ok_or_else(|| misfit("double"))?),
            Schema::String => match json {
                Json::String(text) => Value::String(text.clone()),
                Json::Number(_) | Json::Bool(_) => Value::String(json.to_string()),
                _ => return Err(misfit("string")),
            },
            Schema::Bytes => Value::Bytes(text(json).ok_or_else(|| misfit("bytes"))?.as_bytes().to_vec()),
            Schema::Fixed(fixed) => match text(json).map(str::as_bytes) {
                Some(bytes) if bytes.len() == fixed.size => Value::Fixed(fixed.size, bytes.to_vec()),
                _ => return Err(misfit(&format!("fixed of {} bytes", fixed.size))),
            },
            Schema::Enum(symbols) => {
                let index = text(json).and_then(|text| symbols.symbols.iter().position(|symbol| symbol == text));
                let index = index.ok_or_else(|| misfit(&format!("symbol of {}", symbols.name)))?;
                Value::Enum(index as u32, symbols.symbols[index].clone())
            }
            Schema::Uuid(_) => {
                let uuid = text(json).and_then(|text| apache_avro::Uuid::parse_str(text).ok());
                Value::Uuid(uuid.ok_or_else(|| misfit("uuid"))?)
            }
            Schema::Date => {
                let days = match json {
                    Json::Number(_) => integer(json),
                    _ => text(json)
                        .and_then(date)
                        .map(|date| date.signed_duration_since(DateTime::UNIX_EPOCH.date_naive()).num_days()),
                };
                Value::Date(days.and_then(|days| i32::try_from(days).ok()).ok_or_else(|| misfit("date"))?)
            }
            Schema::TimestampMillis => Value::TimestampMillis(time(json, 1_000).ok_or_else(|| misfit("time"))?),
            Schema::TimestampMicros => Value::TimestampMicros(time(json, 1).ok_or_else(|| misfit("time"))?),
            Schema::LocalTimestampMillis => {
                Value::LocalTimestampMillis(time(json, 1_000).ok_or_else(|| misfit("time"))?)
            }
            Schema::LocalTimestampMicros => Value::LocalTimestampMicros(time(json, 1).ok_or_else(|| misfit("time"))?),
            Schema::Array(array) => {
                let json = nested(json);
                let items = json.as_array().ok_or_else(|| misfit("array"))?;
                Value::Array(items.iter().map(|item| self.value(&array.items, item)).collect::<Result<_, _>>()?)
            }
            Schema::Map(map) => {
                let json = nested(json);
                let entries = json.as_object().ok_or_else(|| misfit("map"))?;
                let entry = |(key, value): (&String, &Json)| Ok((key.clone(), self.value(&map.types, value)?));
                Value::Map(entries.iter().map(entry).collect::<Result<_, String>>()?)
            }
            Schema::Record(record) => {
                let json = nested(json);
                let object = json.as_object().ok_or_else(|| misfit("record"))?;
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    let given = object.get(&field.name).or(field.default.as_ref()).unwrap_or(&Json::Null);
                    let value = self.value(&field.schema, given);
                    let value = value.map_err(|reason| match object.contains_key(&field.name) {
                        true => format!("field `{}`: {reason}", field.name),
                        false => format!("field `{}` is missing and has no default", field.name),
                    })?;
                    fields.push((field.name.clone(), value));
                }
                Value::Record(fields)
            }
            Schema::Union(union) => {
                let null = union.variants().iter().position(|variant| *variant == Schema::Null);
                match null {
                    Some(index) if json.is_null() || self.is_empty_cell(json) => {
                        return Ok(Value::Union(index as u32, Box::new(Value::Null)));
                    }
                    _ => {}
                }
                // A variant of the value's own kind goes before one that it can be turned into.
                let others = || union.variants().iter().enumerate().filter(|(_, variant)| **variant != Schema::Null);
                let of_its_kind = others().filter(|(_, variant)| is_of_kind(variant, json));
                let found = of_its_kind.chain(others()).find_map(|(index, variant)| {
                    let value = self.value(variant, json).ok()?;
                    Some(Value::Union(index as u32, Box::new(value)))
                });
                match found {
                    Some(value) => value,
                    // With one variant its own reason says more.
                    None if others().count() == 1 => {
                        return others()
                            .map(|(_, variant)| self.value(variant, json))
                            .next()
                            .unwrap_or(Ok(Value::Null));
                    }
                    None => return Err(misfit("variant of the union")),
                }
            }
            Schema::Ref { name } => match self.names.get(name) {
                Some(schema) => return self.value(schema, json),
                None => return Err(format!("the schema does not define {name}")),
            },
            other => return Err(format!("the schema's type {:?} is not supported here", other)),
        })
    }

    fn is_empty_cell(&self, json: &Json) -> bool {
        self.cells && json.as_str() == Some("")
    }
}

fn is_of_kind(schema: &Schema, json: &Json) -> bool {
    match json {
        Json::Bool(_) => matches!(schema, Schema::Boolean),
        Json::Number(number) if number.is_i64() => matches!(schema, Schema::Int | Schema::Long),
        Json::Number(_) => matches!(schema, Schema::Float | Schema::Double),
        Json::Array(_) => matches!(schema, Schema::Array(_)),
        _ => false,
    }
}

/// An object or array, also where a cell holds its text.
fn nested(json: &Json) -> std::borrow::Cow<'_, Json> {
    let parsed =
        json.as_str().filter(|text| text.starts_with(['{', '['])).and_then(|text| serde_json::from_str(text).ok());
    parsed.map_or(std::borrow::Cow::Borrowed(json), std::borrow::Cow::Owned)
}

fn text(json: &Json) -> Option<&str> {
    json.as_str().map(str::trim)
}

fn integer(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| text(json)?.parse().ok())
}

fn number(json: &Json) -> Option<f64> {
    json.as_f64().or_else(|| text(json)?.parse().ok())
}

/// `20260301`, `2026-03-01`, or the date of a time.
fn date(text: &str) -> Option<NaiveDate> {
    let plain = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain {
        return NaiveDate::parse_from_str(text, "%Y%m%d").ok();
    }
    NaiveDate::parse_from_str(text.get(..10)?, "%Y-%m-%d").ok()
}

/// A number as it is; a text as RFC 3339, as a date and time without zone (UTC), as a date, or as a number;
/// in units of `unit_us` microseconds.
fn time(json: &Json, unit_us: i64) -> Option<i64> {
    if json.is_number() {
        return json.as_i64();
    }
    let text = text(json)?;
    let with_zone = DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros());
    let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let without_zone = || {
        let time = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        time.or_else(|| if text.len() <= 10 { date(text)?.and_hms_opt(0, 0, 0) } else { None })
            .map(|time| time.and_utc().timestamp_micros())
    };
    let micros = with_zone.or_else(without_zone);
    micros.map(|micros| micros.div_euclid(unit_us)).or_else(|| text.parse().ok())
}

fn shorten(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apache_avro::reader::datum::GenericDatumReader;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;
    use rdkafka::mocking::MockCluster;
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

    fn decode(schema: &Schema, framed: &[u8]) -> Value {
        let reader = GenericDatumReader::builder(schema).build().unwrap();
        let mut datum = &framed[5..];
        let value = reader.read_value(&mut datum).unwrap();
        assert!(datum.is_empty());
        value
    }

    /// One field of the type, from a JSON value or a CSV cell; what apache-avro reads back, or the reason.
    fn encode(field_type: &str, json: Json, cells: bool) -> String {
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{field_type}}}]}}"#);
        let schema = Schema::parse_str(&schema).unwrap();
        let encoder = Encoder::new(&schema, 7, cells).unwrap();
        let mut framed = Vec::new();
        match encoder.encode(&serde_json::json!({ "f": json }), &mut framed) {
            Err(reason) => reason,
            Ok(()) => {
                assert_eq!(framed[..5], [0, 0, 0, 0, 7]);
                let Value::Record(fields) = decode(&schema, &framed) else { panic!() };
                format!("{:?}", fields[0].1)
            }
        }
    }

    #[track_caller]
    fn check(field_type: &str, cell: &str, expect: &str) {
        assert_eq!(encode(field_type, Json::from(cell), true), expect, "{field_type} from {cell:?}");
    }

    #[test]
    fn cells_are_read_as_the_types_of_the_schema() {
        check(r#""string""#, "00042", r#"String("00042")"#);
        check(r#""string""#, "", r#"String("")"#);
        check(r#""int""#, "42", "Int(42)");
        check(r#""int""#, "4200000000", r#"field `f`: "4200000000" is no int"#);
        check(r#""long""#, " 4200000000 ", "Long(4200000000)");
        check(r#""long""#, "1.5", r#"field `f`: "1.5" is no long"#);
        check(r#""double""#, "11.77", "Double(11.77)");
        check(r#""float""#, "0.5", "Float(0.5)");
        check(r#""double""#, "", r#"field `f`: "" is no double"#);
        check(r#""boolean""#, "true", "Boolean(true)");
        check(r#""boolean""#, "0", "Boolean(false)");
        check(r#"["null","double"]"#, "", "Union(0, Null)");
        check(r#"["double","null"]"#, "2", "Union(0, Double(2.0))");
        check(r#"["null","double"]"#, "x", r#"field `f`: "x" is no double"#);
        check(r#"["null","string"]"#, "x", r#"Union(1, String("x"))"#);
        check(r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, "B", r#"Enum(1, "B")"#);
        check(r#"{"type":"array","items":"int"}"#, "[1,2]", "Array([Int(1), Int(2)])");
    }

    #[test]
    fn dates_and_times_are_read_from_text() {
        let date = r#"{"type":"int","logicalType":"date"}"#;
        check(date, "19970101", "Date(9862)");
        check(date, "1997-01-01", "Date(9862)");
        check(date, "1969-12-31", "Date(-1)");
        check(date, "19971301", r#"field `f`: "19971301" is no date"#);
        let millis = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
        check(millis, "1970-01-01T00:00:01.5Z", "TimestampMillis(1500)");
        check(millis, "1970-01-01T01:00:00+01:00", "TimestampMillis(0)");
        check(millis, "1970-01-01 00:00:02", "TimestampMillis(2000)");
        check(millis, "1970-01-02", "TimestampMillis(86400000)");
        check(millis, "19700102", "TimestampMillis(86400000)");
        check(millis, "1700000000000", "TimestampMillis(1700000000000)");
        check(millis, "soon", r#"field `f`: "soon" is no time"#);
        check(
            r#"{"type":"long","logicalType":"timestamp-micros"}"#,
            "1970-01-01T00:00:01Z",
            "TimestampMicros(1000000)",
        );
    }

    #[test]
    fn json_values_keep_their_kind() {
        for (field_type, json, expect) in [
            (r#"["null","string"]"#, Json::from(""), r#"Union(1, String(""))"#),
            (r#"["null","string","long"]"#, Json::from(3), "Union(2, Long(3))"),
            (r#"["null","string","double"]"#, Json::from(1.5), "Union(2, Double(1.5))"),
            (r#"{"type":"map","values":"long"}"#, serde_json::json!({"a": 1}), r#"Map({"a": Long(1)})"#),
            (r#""long""#, Json::Null, "field `f`: null is no long"),
        ] {
            assert_eq!(encode(field_type, json, false), expect);
        }
    }

    #[test]
    fn a_schema_may_refer_to_itself_and_fields_have_defaults() {
        let schema = r#"{"type":"record","name":"N","fields":[
            {"name":"v","type":"int","default":5},{"name":"next","type":["null","N"],"default":null}]}"#;
        let schema = Schema::parse_str(schema).unwrap();
        let encoder = Encoder::new(&schema, 1, false).unwrap();
        let mut framed = Vec::new();
        encoder.encode(&serde_json::json!({"next": {"v": 2}}), &mut framed).unwrap();
        let text = format!("{:?}", decode(&schema, &framed));
        assert!(text.contains("Int(5)") && text.contains("Int(2)"), "{text}");
    }

    #[test]
    fn an_id_is_the_number_that_ends_the_stem() {
        for (path, id) in [("a/order-1.avsc", Some(1)), ("order12.avsc", Some(12)), ("order.avsc", None)] {
            assert_eq!(id_of_stem(Path::new(path)), id);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_goes_to_the_topic_with_equal_keys_together() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("purchases", 3, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let schema = r#"{"type":"record","name":"Purchase","fields":[
            {"name":"row","type":"long"},
            {"name":"customer_id","type":"string"},
            {"name":"date","type":{"type":"int","logicalType":"date"}},
            {"name":"dollar_value","type":["null","double"]}]}"#;
        std::fs::write(folder.path().join("purchase-9.avsc"), schema).unwrap();
        let rows: String = (0..300).map(|n| format!("{:05},19970101,{n}.5\n", n % 20)).collect();
        std::fs::write(folder.path().join("f.csv"), format!("customer_id,date,dollar_value\n{rows}")).unwrap();
        let options = ProduceOptions {
            input: folder.path().join("f.csv"),
            brokers: cluster.bootstrap_servers(),
            topic: "purchases".into(),
            partitions: None,
            schema: folder.path().join("purchase-9.avsc"),
            schema_id: None,
            registry: None,
            key: Some("customer_id".into()),
            settings: Vec::new(),
            repeat: 2,
        };
        let produced = produce(options.clone()).await.unwrap();
        assert_eq!((produced.records, produced.schema_id), (600, 9));

        let schema = Schema::parse_str(schema).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "test");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..3 {
            list.add_partition_offset("purchases", partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut partition_of = BTreeMap::new();
        let mut rows = Vec::new();
        while rows.len() < 600 {
            let record = consumer.poll(Duration::from_secs(30)).expect("no record within 30 s").unwrap();
            let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
            assert_eq!(*partition_of.entry(key.clone()).or_insert(record.partition()), record.partition());
            let framed = record.payload().unwrap();
            assert_eq!(framed[..5], [0, 0, 0, 0, 9]);
            let Value::Record(fields) = decode(&schema, framed) else { panic!() };
            assert_eq!(fields[1].1, Value::String(key));
            assert_eq!(fields[2].1, Value::Date(9862));
            let Value::Long(row) = fields[0].1 else { panic!() };
            rows.push(row);
        }
        rows.sort_unstable();
        assert_eq!(rows, (1..=600).collect::<Vec<i64>>());
        assert_eq!(partition_of.values().collect::<std::collections::BTreeSet<_>>().len(), 3);

        std::fs::write(folder.path().join("f.csv"), "customer_id,date,dollar_value\n1,19970101,2\n2,never,3\n")
            .unwrap();
        let error = produce(options.clone()).await.unwrap_err().to_string();
        assert!(error.contains("f.csv: row 2: field `date`: \"never\" is no date; the 1 records"), "{error}");
        let mut nameless = options;
        nameless.schema = folder.path().join("purchase.avsc");
        std::fs::copy(folder.path().join("purchase-9.avsc"), &nameless.schema).unwrap();
        assert!(matches!(produce(nameless).await, Err(ProduceError::NoSchemaId { .. })));
    }
}
