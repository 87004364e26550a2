//! Records to infer a pipeline from, as JSON objects: read by the sources and decoders that will run on them.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::Failure;
use crate::decode::ocf::Container;
use crate::decode::registry::{Lookup, RegistryClient, Schemas};
use crate::decode::{DecodePlan, Decoder, Format, Framing, SchemaOrigin};
use crate::event::RawBatch;
use crate::source::{self, FileFormat, FilePlan, KafkaPlan, Positions, ReadLimits, SourceEvent, SourcePlan, Start};

/// A topic that says nothing for so long is empty or not there.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const SOURCE: &str = "init";

/// Where records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf),
    Topic { brokers: String, topic: String, registry: Option<String> },
}

/// What the records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    Json,
    Csv {
        delimiter: u8,
    },
    /// With the schema to read by.
    Avro {
        schema: String,
    },
}

pub struct Sample {
    pub payload: Payload,
    /// As they came, for the engine.
    pub raw: Vec<RawBatch>,
    /// What could be read; of a CSV row the texts of its cells.
    pub rows: Vec<Map<String, Value>>,
    /// Records that could not be read, and why the first could not.
    pub unread: usize,
    pub first_fault: Option<String>,
    /// Everything that is there was read.
    pub whole: bool,
}

/// Reads up to `count` records from the beginning.
///
/// # Errors
/// The file or topic cannot be read, or holds nothing that can be.
pub async fn sample(origin: &Origin, count: usize) -> Result<Sample, Failure> {
    let (plan, payload, schemas) = match origin {
        Origin::File(path) => of_file(path)?,
        Origin::Topic { brokers, topic, .. } => {
            let plan = KafkaPlan {
                name: SOURCE.into(),
                brokers: brokers.clone(),
                topics: vec![topic.clone()],
                start: Start::Earliest,
                settings: Default::default(),
            };
            (SourcePlan::Kafka(plan), None, None)
        }
    };
    let mut sample = Sample {
        payload: Payload::Json,
        raw: Vec::new(),
        rows: Vec::new(),
        unread: 0,
        first_fault: None,
        whole: false,
    };
    read(&plan, schemas.clone(), count, &mut sample).await?;
    if sample.raw.is_empty() {
        let fault = sample.first_fault.map(|fault| format!(": {fault}")).unwrap_or_default();
        return Err(Failure::findings(format!("there is nothing to infer a pipeline from{fault}")));
    }
    sample.payload = match (payload, origin) {
        (Some(payload), _) => payload,
        (None, Origin::Topic { topic, registry, .. }) => of_topic(&sample.raw, topic, registry.as_deref()).await?,
        (None, Origin::File(_)) => Payload::Json,
    };
    match (&sample.payload, schemas) {
        (Payload::Avro { schema }, schemas) => {
            let plan = avro_plan(schema, origin);
            let schemas = match schemas {
                Some(schemas) => schemas,
                None => Arc::new(Schemas::open(&plan, None).map_err(Failure::environment)?),
            };
            decode(&plan, schemas, &mut sample).await?;
        }
        _ => parse(&mut sample),
    }
    if sample.rows.is_empty() {
        let fault = sample.first_fault.unwrap_or_default();
        return Err(Failure::findings(format!("none of the records can be read: {fault}")));
    }
    Ok(sample)
}

type FilePlans = (SourcePlan, Option<Payload>, Option<Arc<Schemas>>);

fn of_file(path: &Path) -> Result<FilePlans, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::environment(format!("{}: {error}", path.display()));
    let mut first = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    if path.is_dir() {
        return Err(Failure::findings(format!("{} is a folder: name one of its files", path.display())));
    }
    // The first line, or of a container its magic.
    let read = BufReader::new(file.take(1 << 20)).read_until(b'\n', &mut first);
    read.map_err(|error| failed(&error))?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let text = first.trim_ascii_start();
    let (format, payload, schemas) = match ending.as_str() {
        _ if first.starts_with(b"Obj\x01") => {
            let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
            let container = Container::open(BufReader::new(file)).map_err(|error| failed(&error))?;
            let schema = container.schema_json().to_string();
            let origin = Origin::File(path.to_path_buf());
            let schemas = Schemas::open(&avro_plan(&schema, &origin), None).map_err(Failure::findings)?;
            (FileFormat::Avro, Payload::Avro { schema }, Some(Arc::new(schemas)))
        }
        "ndjson" | "jsonl" | "json" => (FileFormat::Ndjson, Payload::Json, None),
        "csv" | "tsv" | "txt" => csv(&first),
        _ if text.starts_with(b"{") => (FileFormat::Ndjson, Payload::Json, None),
        _ => csv(&first),
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let base = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let plan = FilePlan { name: SOURCE.into(), path: name, base, format };
    Ok((SourcePlan::File(plan), Some(payload), schemas))
}

/// The delimiter is the one that the header has most of.
fn csv(header: &[u8]) -> (FileFormat, Payload, Option<Arc<Schemas>>) {
    let count = |delimiter: &u8| header.iter().filter(|byte| *byte == delimiter).count();
    // Of equally many the last is taken: a comma.
    let delimiter = *b"|\t;,".iter().max_by_key(|delimiter| count(delimiter)).unwrap_or(&b',');
    (FileFormat::Csv { delimiter }, Payload::Csv { delimiter }, None)
}

/// JSON, or Avro with the newest schema that the records name.
async fn of_topic(raw: &[RawBatch], topic: &str, registry: Option<&str>) -> Result<Payload, Failure> {
    let payloads = || raw.iter().flat_map(|batch| batch.records.iter().map(|record| batch.payload(record)));
    let ids = payloads().filter_map(|payload| match payload {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    });
    let Some(id) = ids.max().filter(|_| payloads().next().is_some_and(|payload| payload.starts_with(&[0]))) else {
        return Ok(Payload::Json);
    };
    let Some(registry) = registry else {
        return Err(Failure::findings(format!(
            "{topic} holds Avro with schemas of a registry (the first record says schema {id}): give --registry URL"
        )));
    };
    let client = RegistryClient::new(registry).map_err(Failure::findings)?;
    match client.schema(id).await.map_err(Failure::environment)? {
        Lookup::Known(schema) => Ok(Payload::Avro { schema: schema.to_string() }),
        Lookup::Unusable(why) => Err(Failure::findings(why)),
        Lookup::Missing | Lookup::Unknown => {
            Err(Failure::findings(format!("the registry does not know schema {id}, which records of {topic} name")))
        }
    }
}

fn avro_plan(schema: &str, origin: &Origin) -> DecodePlan {
    let (framing, schemas) = match origin {
        Origin::Topic { registry: Some(url), .. } => (Framing::Confluent, SchemaOrigin::Registry { url: url.clone() }),
        _ => (Framing::SingleObject, SchemaOrigin::Fixed(schema.to_string())),
    };
    let format = Format::Avro { framing, schemas, reader: Some(schema.to_string()) };
    DecodePlan { source: SOURCE.into(), format }
}

async fn read(
    plan: &SourcePlan,
    schemas: Option<Arc<Schemas>>,
    count: usize,
    sample: &mut Sample,
) -> Result<(), Failure> {
    let limits = ReadLimits { until_end: true, max_records: count.clamp(1, 10_000), ..ReadLimits::default() };
    let mut handle = source::spawn(plan, Positions::new(), limits, schemas).map_err(Failure::environment)?;
    let mut taken = 0;
    while taken < count {
        let Ok(event) = tokio::time::timeout(ANSWER_WITHIN, handle.events.recv()).await else {
            let what = match plan {
                SourcePlan::Kafka(plan) => {
                    format!("topic {} at {} does not answer: is it there?", plan.topics.join(", "), plan.brokers)
                }
                SourcePlan::File(plan) => format!("{} cannot be read", plan.path),
            };
            return Err(Failure::environment(what));
        };
        match event {
            Some(SourceEvent::Records(mut raw)) => {
                raw.records.truncate(count - taken);
                taken += raw.records.len();
                sample.raw.push(raw);
            }
            Some(SourceEvent::Rejects(rejects)) => {
                sample.unread += rejects.len();
                let first = rejects.first().map(|reject| format!("{}: {}", reject.position, reject.reason));
                sample.first_fault = sample.first_fault.take().or(first);
            }
            Some(SourceEvent::Fatal(message) | SourceEvent::Unavailable(message)) => {
                return Err(Failure::environment(message));
            }
            Some(SourceEvent::CaughtUp) | None => {
                sample.whole = true;
                break;
            }
            Some(SourceEvent::Lag(_) | SourceEvent::Assigned(_) | SourceEvent::Behind(..) | SourceEvent::AtEnd(..)) => {
            }
        }
    }
    Ok(())
}

fn parse(sample: &mut Sample) {
    for batch in &sample.raw {
        for record in &batch.records {
            match serde_json::from_slice::<Map<String, Value>>(batch.payload(record)) {
                Ok(row) => sample.rows.push(row),
                Err(error) => {
                    sample.unread += 1;
                    sample.first_fault.get_or_insert_with(|| format!("{}: {error}", batch.position(record)));
                }
            }
        }
    }
}

async fn decode(plan: &DecodePlan, schemas: Arc<Schemas>, sample: &mut Sample) -> Result<(), Failure> {
    let mut decoder = Decoder::new(plan, schemas.clone()).map_err(Failure::findings)?;
    for batch in &sample.raw {
        for key in decoder.unknown_schemas(batch) {
            schemas.fetch(key).await.map_err(Failure::environment)?;
        }
        let decoded = decoder.decode(batch);
        sample.unread += decoded.rejects.len();
        let first = decoded.rejects.first().map(|reject| format!("{}: {}", reject.position, reject.reason));
        sample.first_fault = sample.first_fault.take().or(first);
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write(&decoded.columns).map_err(Failure::findings)?;
        writer.finish().map_err(Failure::findings)?;
        let lines =
            serde_json::Deserializer::from_slice(&writer.into_inner()).into_iter().collect::<Result<Vec<_>, _>>();
        sample.rows.extend(lines.map_err(Failure::findings)?);
    }
    Ok(())
}
