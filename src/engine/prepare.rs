//! Decode and transform, ahead of the loop on a thread of its own: the part of a batch's way that reads no state.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;

use super::EngineError;
use crate::activation::EMITTED;
use crate::clock;
use crate::decode::registry::{RegistryError, Schemas};
use crate::decode::{DecodePlan, Decoder, Format};
use crate::definition::Pipeline;
use crate::event::{EventBatch, RawBatch, Reject, TimeUs, column};
use crate::source::{Next, mark};
use crate::transform::Transformer;

/// A batch of one source, ready to be applied.
#[derive(Debug)]
pub struct Prepared {
    pub source: Arc<str>,
    pub events: EventBatch,
    pub rejects: Vec<Reject>,
    /// Per event: the hash its message id is remembered by.
    pub message_hashes: Vec<u128>,
    /// Per topic and partition of the batch: the next record.
    pub positions: Vec<((Arc<str>, i32), Next)>,
    /// Raw records the batch was made of.
    pub records: u64,
    pub bytes: u64,
    pub filtered: u64,
    /// Per topic and partition of the batch: the broker's timestamp of the last record.
    pub read_until: Vec<((Arc<str>, i32), TimeUs)>,
    /// The latest time of its events.
    pub happened: TimeUs,
    /// The latest time at which a record of it arrived: the broker's timestamp, no later than the wall clock.
    pub arrived: TimeUs,
    /// When it was read from files; None: it comes from a broker.
    pub read_at: Option<TimeUs>,
    /// For a replay: the numbers of the stored rejects, by (topic, partition, offset); positions do not move.
    pub replayed: Option<BTreeMap<(String, i32, i64), u64>>,
}

/// Decoders and transforms of all sources.
pub struct Preparer {
    decoders: BTreeMap<Arc<str>, Decoder>,
    schemas: BTreeMap<Arc<str>, Arc<Schemas>>,
    transformer: Transformer,
    /// Sources that are files.
    files: Vec<Arc<str>>,
    /// Tables that are read again: name, how often, when last.
    reloads: Vec<(String, Duration, Instant)>,
}

impl Preparer {
    /// # Errors
    /// A schema or definition that cannot be used; the definitions were checked, so this names a server or file.
    pub fn new(pipeline: &Pipeline, schema_cache: Option<&Path>) -> Result<Preparer, EngineError> {
        let (mut decoders, mut schemas) = (BTreeMap::new(), BTreeMap::new());
        let mut columns: BTreeMap<Arc<str>, SchemaRef> = BTreeMap::new();
        // What steps have made may be left from definitions that make nothing any more.
        let emitted = DecodePlan { source: EMITTED.into(), format: Format::JsonEnvelope };
        for plan in pipeline.decode.iter().chain([&emitted]) {
            let known = Schemas::open(plan, schema_cache)
                .map_err(|error| EngineError::Start(format!("source {}: {error}", plan.source)))?;
            let known = Arc::new(known);
            let decoder = Decoder::new(plan, known.clone())
                .map_err(|error| EngineError::Start(format!("source {}: {error}", plan.source)))?;
            schemas.insert(plan.source.clone(), known);
            columns.insert(plan.source.clone(), decoder.schema());
            decoders.insert(plan.source.clone(), decoder);
        }
        let transformer =
            Transformer::new(&pipeline.transform, &columns).map_err(|error| EngineError::Start(error.to_string()))?;
        let every = pipeline.transform.tables.iter().filter_map(|table| Some((table.name.clone(), table.reload?)));
        let reloads = every.map(|(name, every)| (name, every, clock::instant())).collect();
        let files = pipeline.sources.iter().filter(|plan| plan.is_file()).map(|plan| plan.name().clone()).collect();
        Ok(Preparer { decoders, schemas, transformer, files, reloads })
    }

    /// The field columns that the batches will have.
    pub fn schema(&self) -> SchemaRef {
        self.transformer.schema()
    }

    /// Reads again the tables whose time has come. One that cannot be read stays as it was.
    pub fn reload_tables(&mut self) {
        for (name, every, last) in &mut self.reloads {
            if last.elapsed() >= *every {
                *last = clock::instant();
                if let Err(error) = self.transformer.reload(name) {
                    tracing::warn!(%error, "a table could not be read again; what was read before stays in use");
                }
            }
        }
    }

    /// Fetches the writer schemas that the batch needs. `Unavailable` means: wait and call again.
    pub async fn fetch_schemas(&self, raw: &RawBatch) -> Result<(), RegistryError> {
        let (Some(decoder), Some(schemas)) = (self.decoders.get(&raw.source), self.schemas.get(&raw.source)) else {
            return Ok(());
        };
        for key in decoder.unknown_schemas(raw) {
            schemas.fetch(key).await?;
        }
        Ok(())
    }

    /// The writer schemas of a source.
    pub fn schemas(&self, source: &str) -> Result<Arc<Schemas>, EngineError> {
        let known = self.schemas.get(source).cloned();
        known.ok_or_else(|| EngineError::Internal(format!("source {source} is not in the pipeline")))
    }

    /// Forgets which schema ids did not exist: they may have been registered since.
    pub fn forget_missing_schemas(&self) {
        self.schemas.values().for_each(|schemas| schemas.forget_missing());
    }

    /// Decodes and transforms; `rejects` are those the source itself found, in the same stretch of its log.
    pub fn prepare(&mut self, raw: &RawBatch, rejects: Vec<Reject>) -> Result<Prepared, EngineError> {
        let decoder = self.decoders.get_mut(&raw.source).ok_or_else(|| {
            EngineError::Internal(format!("records of source {}, which is not in the pipeline", raw.source))
        })?;
        let decoded = decoder.decode(raw);
        let transformed = self
            .transformer
            .apply(raw, decoded)
            .map_err(|error| EngineError::Internal(format!("source {}: {error}", raw.source)))?;
        // Next offset and last timestamp of each partition.
        let mut next: BTreeMap<(Arc<str>, i32), (Next, TimeUs)> = BTreeMap::new();
        let from_records = raw.records.iter().map(|r| Read {
            topic: &raw.topics[r.topic as usize],
            partition: r.partition,
            offset: r.offset,
            timestamp: r.timestamp,
            latest: r.timestamp,
            payload: raw.payload(r),
        });
        let from_rejects = rejects.iter().map(|r| Read {
            topic: &r.position.topic,
            partition: r.position.partition,
            offset: r.position.offset,
            timestamp: r.timestamp,
            latest: r.timestamp,
            payload: &r.payload,
        });
        let mut seen = |last: Read<'_>| {
            let new = Next { offset: last.offset + 1, after: Some(mark(last.timestamp, last.payload)) };
            let known = next.entry((last.topic.clone(), last.partition)).or_insert((new, last.latest));
            let further = if new.offset > known.0.offset { new } else { known.0 };
            *known = (further, known.1.max(last.latest));
        };
        let mut last: Option<Read<'_>> = None;
        for read in from_records.chain(from_rejects) {
            // Runs of one partition are the rule: look the entry up once per run.
            match &mut last {
                Some(known) if Arc::ptr_eq(known.topic, read.topic) && known.partition == read.partition => {
                    let latest = known.latest.max(read.latest);
                    if read.offset > known.offset {
                        *known = read;
                    }
                    known.latest = latest;
                }
                _ => {
                    if let Some(known) = last.replace(read) {
                        seen(known);
                    }
                }
            }
        }
        if let Some(known) = last.take() {
            seen(known);
        }
        let happened = arrow::compute::max(transformed.events.times(column::TIMESTAMP)).unwrap_or(TimeUs::MIN);
        let message_hashes = message_hashes(&transformed.events);
        let records = (raw.records.len() + rejects.len()) as u64;
        let mut all_rejects = rejects;
        all_rejects.extend(transformed.rejects);
        let read_at = self.files.contains(&raw.source).then(|| next.values().map(|(_, at)| *at).max()).flatten();
        Ok(Prepared {
            source: raw.source.clone(),
            read_at,
            arrived: next.values().map(|(_, at)| *at).max().unwrap_or(TimeUs::MIN).min(clock::now_us()),
            events: transformed.events,
            rejects: all_rejects,
            message_hashes,
            positions: next.iter().map(|(place, (next, _))| (place.clone(), *next)).collect(),
            read_until: next.into_iter().map(|(place, (_, at))| (place, at)).collect(),
            records,
            bytes: raw.bytes.len() as u64,
            filtered: transformed.filtered as u64,
            happened,
            replayed: None,
        })
    }
}

/// The furthest record of a run of one partition.
struct Read<'a> {
    topic: &'a Arc<str>,
    partition: i32,
    offset: i64,
    timestamp: TimeUs,
    /// The latest timestamp of the run.
    latest: TimeUs,
    payload: &'a [u8],
}

/// The de-duplication key is (workspace, source, message id): SEMANTICS §3.
fn message_hashes(events: &EventBatch) -> Vec<u128> {
    let (sources, ids) = (events.strings(column::SOURCE), events.strings(column::MESSAGE_ID));
    let mut text = Vec::with_capacity(64);
    (0..events.len())
        .map(|row| {
            text.clear();
            text.extend_from_slice(sources.value(row).as_bytes());
            text.push(0);
            text.extend_from_slice(ids.value(row).as_bytes());
            xxhash_rust::xxh3::xxh3_128(&text)
        })
        .collect()
}
