//! Kafka by librdkafka.
//!
//! Every topic has a consumer and a thread of its own: librdkafka's end-of-partition event names only the partition
//! once it has come through `rdkafka`. A reader goes round:
//!
//! 1. every few seconds it asks for the topic's partitions; new ones are assigned at their position, by hand
//!    (there is no group rebalance: the one writer of the state reads everything);
//! 2. it polls until the batch is full or its linger is over, copying payloads side by side;
//! 3. it hands the batch over, and says `CaughtUp` when all partitions of all topics are at their end.
//!
//! Positions come from the state alone, so a position that is not in the log any more (`auto.offset.reset=error`)
//! stops the source loudly. The end of a partition is known by librdkafka's event, never by arithmetic:
//! transactions leave gaps in offsets.
//!
//! A topic that is deleted and made anew has other records at the same offsets, and librdkafka reads on in them. So reading
//! goes on one record before the position, which has to be the record that was read there, at the start and whenever the topic
//! or its brokers were away. That a topic of this name has another id now is said by librdkafka in its log alone, before it
//! fetches from it (brokers from 3.1 on fetch by id).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::Sender;

use super::{KafkaPlan, Next, Positions, ReadLimits, Shared, SourceError, SourceEvent, Start, mark, start_thread};
use crate::clock::{instant, now_us};
use crate::event::RawBatch;
use crate::failpoint::{self, Point};
use crate::kafka::{SettingsError, client_config, default_setting, explain, log};

/// Settings that the promise of exactly-once rests on.
const RESERVED: [&str; 5] = [
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "statistics.interval.ms",
];

/// How long a poll waits when there is nothing, and so how soon a stop is seen.
const IDLE: Duration = Duration::from_millis(100);
/// How often the topic is looked at for new partitions; sooner while something is missing.
const DISCOVERY_EVERY: Duration = Duration::from_secs(5);
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);
/// For answers of the broker that the reader waits for.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The same trouble is told again after this long.
const NOTICE_EVERY: Duration = Duration::from_secs(30);
/// A topic that was read and is unknown for this long is gone: brokers that start may not know it for a moment.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// Record ranges of a batch are 32 bits wide, and one record may be a gigabyte.
const BATCH_BYTES_MAX: usize = 1 << 30;

pub(super) fn start(
    plan: &KafkaPlan,
    positions: Positions,
    limits: ReadLimits,
    events: Sender<SourceEvent>,
    shared: Arc<Shared>,
) -> Result<(), SourceError> {
    let topics: std::collections::BTreeSet<&String> = plan.topics.iter().collect();
    let together = Arc::new(Together::new(topics.len()));
    let mut readers = Vec::with_capacity(topics.len());
    for (index, topic) in topics.iter().enumerate() {
        let consumer = consumer(plan, topics.len())
            .map_err(|error| SourceError::Settings { source_name: plan.name.clone(), error })?;
        let of_topic = positions.iter().filter(|((name, _), _)| name == *topic);
        readers.push(Reader {
            index,
            source: plan.name.clone(),
            brokers: plan.brokers.clone(),
            topic: Arc::from(topic.as_str()),
            start: plan.start,
            stored: of_topic.map(|((_, partition), next)| (*partition, *next)).collect(),
            limits: ReadLimits { max_bytes: limits.max_bytes.min(BATCH_BYTES_MAX), ..limits },
            consumer,
            events: events.clone(),
            shared: shared.clone(),
            together: together.clone(),
            partitions: Vec::new(),
            ended: Vec::new(),
            initial_partitions: None,
            next_discovery: instant(),
            unknown_since: None,
            doubtful: false,
            next_second: instant() + Duration::from_secs(1),
            committed: HashMap::new(),
            noticed: HashMap::new(),
            bytes_hint: 0,
        });
    }
    for reader in readers {
        start_thread(&plan.name, move || reader.run())?;
    }
    Ok(())
}

fn consumer(plan: &KafkaPlan, topics: usize) -> Result<BaseConsumer<Ends>, SettingsError> {
    let mut config = client_config(&plan.brokers, &plan.settings, &RESERVED)?;
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "error");
    config.set("statistics.interval.ms", "1000");
    // See `Ends::log`.
    let debug = config.get("debug").map_or_else(|| "metadata".to_string(), |contexts| format!("{contexts},metadata"));
    config.set("debug", &debug).set_log_level(RDKafkaLogLevel::Debug);
    let queue_kbytes = (262_144 / topics).max(32_768).to_string();
    for (key, value) in [
        // Only named in commits for display; nothing is ever subscribed.
        ("group.id", format!("tributary-{}", plan.name).as_str()),
        ("isolation.level", "read_committed"),
        // The default of a second stalls a reader that has emptied its queue.
        ("fetch.queue.backoff.ms", "5"),
        ("fetch.wait.max.ms", "50"),
        ("queued.min.messages", "1000000"),
        ("queued.max.messages.kbytes", queue_kbytes.as_str()),
        // Large records pass: the broker sends a first record of any size, the client must take it.
        ("fetch.message.max.bytes", "4194304"),
        ("fetch.max.bytes", "67108864"),
        ("receive.message.max.bytes", "1073741824"),
    ] {
        default_setting(&mut config, key, value);
    }
    config.create_with_context(Ends::default()).map_err(|error| SettingsError::from_kafka(&error))
}

/// What librdkafka's threads tell besides records. The ends of the partitions come by its statistics: where lag is counted to,
/// without asking the broker.
#[derive(Default)]
struct Ends {
    by_partition: Mutex<HashMap<i32, i64>>,
    knows_id: AtomicBool,
    /// The topic has another id than before.
    has_other_id: AtomicBool,
    /// The setting that an answer of the broker was too large for, in librdkafka's words; until something is read again.
    too_large: Mutex<Option<String>>,
}

impl Ends {
    /// Ends a message about brokers that are away: the connection to one is cut where its answer is too large.
    fn why(&self) -> String {
        let reason = self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
        reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
    }
}

impl ClientContext for Ends {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "METADATA" && matches!(level, RDKafkaLogLevel::Debug) {
            // Also when the id is known again; then the record before the position is the right one. When it is first known
            // nothing was read yet.
            if message.contains(" changed id from ") && self.knows_id.swap(true, Ordering::SeqCst) {
                self.has_other_id.store(true, Ordering::SeqCst);
            }
            return;
        }
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(at) = reason.find("Invalid response size").filter(|_| reason.contains("max.bytes")) {
            let text = reason[at..].split(" (after ").next().unwrap_or_default();
            *self.too_large.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_string());
        }
        // What the reader must act on comes to it by itself; the end of a partition comes here as an error too.
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }

    fn stats(&self, statistics: Statistics) {
        let mut ends = self.by_partition.lock().unwrap_or_else(PoisonError::into_inner);
        for partition in statistics.topics.values().flat_map(|topic| topic.partitions.values()) {
            let end = if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset };
            if partition.partition >= 0 && end >= 0 {
                ends.insert(partition.partition, end);
            }
        }
    }
}

impl ConsumerContext for Ends {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!("offsets for display are not committed: {}", explain(&error));
        }
    }
}

/// What the readers of a source's topics must know of each other.
struct Together {
    state: Mutex<TogetherState>,
}

struct TogetherState {
    at_end: Vec<bool>,
    lag: Vec<i64>,
    said: bool,
}

impl Together {
    fn new(topics: usize) -> Self {
        Together { state: Mutex::new(TogetherState { at_end: vec![false; topics], lag: vec![0; topics], said: false }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TogetherState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records of a topic have been handed over: once the end is reached again, it is said again.
    fn has_moved(&self) {
        self.lock().said = false;
    }

    /// Takes down whether a topic is at its end; true when all are and that has not been said.
    fn at_end(&self, topic: usize, at_end: bool) -> bool {
        let mut state = self.lock();
        state.at_end[topic] = at_end;
        if !state.at_end.iter().all(|at_end| *at_end) {
            state.said = false;
            return false;
        }
        !std::mem::replace(&mut state.said, true)
    }

    fn all_at_end(&self) -> bool {
        self.lock().at_end.iter().all(|at_end| *at_end)
    }

    /// Takes down a topic's lag and returns that of all.
    fn lag(&self, topic: usize, lag: i64) -> i64 {
        let mut state = self.lock();
        state.lag[topic] = lag;
        state.lag.iter().sum()
    }
}

#[derive(Debug, Clone, Copy)]
struct Partition {
    /// The next offset to be handed over.
    next: i64,
    /// The same without what is being collected, and the mark of the record before it.
    handed: i64,
    after: Option<u64>,
    /// The record before it is read once more, and has to bear this mark.
    expect: Option<u64>,
    at_end: bool,
    /// When only what was there at the start is to be read: the end as it was then.
    until: Option<i64>,
}

/// The reader ends: it was stopped, or has said why it cannot go on.
struct Ended;

struct Reader {
    index: usize,
    source: Arc<str>,
    brokers: String,
    topic: Arc<str>,
    start: Start,
    /// The state's positions of this topic.
    stored: BTreeMap<i32, Next>,
    limits: ReadLimits,
    consumer: BaseConsumer<Ends>,
    events: Sender<SourceEvent>,
    shared: Arc<Shared>,
    together: Arc<Together>,
    /// By number; None where not assigned yet.
    partitions: Vec<Option<Partition>>,
    /// Partitions that have been read to their end since this was last told.
    ended: Vec<i32>,
    /// How many partitions the topic had when it was first seen; `start` holds for those alone.
    initial_partitions: Option<i32>,
    next_discovery: Instant,
    unknown_since: Option<Instant>,
    /// The topic or its brokers were away: it may be another topic now.
    doubtful: bool,
    next_second: Instant,
    committed: HashMap<i32, i64>,
    noticed: HashMap<String, Instant>,
    bytes_hint: usize,
}

impl Reader {
    fn run(mut self) {
        while !self.shared.stopped() {
            if self.round().is_err() {
                return;
            }
        }
    }

    fn round(&mut self) -> Result<(), Ended> {
        let now = instant();
        if now >= self.next_discovery {
            self.next_discovery = now + DISCOVERY_EVERY;
            self.discover()?;
        }
        let batch = self.collect()?;
        if self.consumer.context().has_other_id.swap(false, Ordering::SeqCst) {
            // The batch may be of another topic: it is read once more, from the record before it. At once, since nothing behind
            // a batch that was let go of may be handed over.
            self.next_discovery = instant();
            return self.begin_again();
        }
        let idle = batch.records.is_empty();
        if !idle {
            self.bytes_hint = batch.bytes.len();
            *self.consumer.context().too_large.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.take_marks(&batch);
            self.together.has_moved();
            failpoint::pass(Point::Polled);
            self.send(SourceEvent::Records(batch))?;
            failpoint::pass(Point::HandedOver);
        }
        let mut ended = std::mem::take(&mut self.ended);
        ended.retain(|number| {
            let partition = self.partitions.get(usize::try_from(*number).unwrap_or_default());
            partition.is_some_and(|partition| partition.as_ref().is_some_and(|partition| partition.at_end))
        });
        let at_end = self.at_end();
        if self.together.at_end(self.index, at_end) {
            self.send(SourceEvent::CaughtUp)?;
        } else if !ended.is_empty() {
            self.send(SourceEvent::AtEnd(self.topic.clone(), ended))?;
        } else if idle && self.limits.until_end && self.index == 0 && self.together.all_at_end() {
            self.try_send(SourceEvent::CaughtUp)?;
        }
        if instant() >= self.next_second {
            self.next_second = instant() + Duration::from_secs(1);
            self.every_second()?;
        }
        Ok(())
    }

    /// Polls one batch together: until it is full, or its linger is over, or at once when nothing comes.
    fn collect(&mut self) -> Result<RawBatch, Ended> {
        let mut batch = RawBatch::new(self.source.clone());
        let mut deadline = None;
        loop {
            let timeout = match deadline {
                None => IDLE,
                Some(deadline) => instant_until(deadline),
            };
            let (partition, next) = match self.consumer.poll(timeout) {
                None => break,
                Some(Ok(message)) => {
                    match self.check(&message) {
                        Ok(false) => {}
                        Ok(true) => {
                            let number = message.partition();
                            drop(message);
                            self.known_again(number);
                            continue;
                        }
                        Err(reason) => return self.fatal(reason),
                    }
                    if batch.bytes.is_empty() {
                        batch.bytes.reserve(self.bytes_hint);
                    }
                    let timestamp = match message.timestamp().to_millis() {
                        Some(millis) if millis >= 0 => millis.saturating_mul(1000),
                        _ => now_us(),
                    };
                    let payload = message.payload().unwrap_or_default();
                    batch.push(&self.topic, message.partition(), message.offset(), timestamp, payload);
                    (message.partition(), message.offset() + 1)
                }
                Some(Err(error)) => {
                    self.on_error(&error)?;
                    match deadline {
                        // The end of a partition, perhaps: the round looks whether all is read.
                        None => break,
                        Some(_) => continue,
                    }
                }
            };
            self.advance(partition, next);
            let full = batch.records.len() >= self.limits.max_records || batch.bytes.len() >= self.limits.max_bytes;
            if full {
                break;
            }
            match deadline {
                None => deadline = Some(instant() + self.limits.linger),
                Some(deadline) if batch.records.len().is_multiple_of(64) && instant_until(deadline).is_zero() => break,
                Some(_) => {}
            }
        }
        Ok(batch)
    }

    fn advance(&mut self, number: i32, next: i64) {
        let index = usize::try_from(number).unwrap_or_default();
        if let Some(Some(partition)) = self.partitions.get_mut(index) {
            (partition.next, partition.expect) = (next, None);
            partition.at_end = match partition.until {
                Some(until) => partition.at_end || next >= until,
                None => false,
            };
        }
    }

    fn on_error(&mut self, error: &KafkaError) -> Result<(), Ended> {
        use RDKafkaErrorCode as Code;
        match error {
            KafkaError::PartitionEOF(number) => {
                let index = usize::try_from(*number).unwrap_or_default();
                if let Some(Some(partition)) = self.partitions.get_mut(index) {
                    partition.at_end = true;
                    self.ended.push(*number);
                }
                Ok(())
            }
            KafkaError::MessageConsumptionFatal(_) => {
                self.fatal(format!("topic {}: the Kafka client has stopped: {}", self.topic, explain(error)))
            }
            _ => match error.rdkafka_error_code() {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => self.on_out_of_range(),
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                    (self.next_discovery, self.doubtful) = (instant(), true);
                    Ok(())
                }
                Some(Code::AllBrokersDown) => {
                    self.doubtful = true;
                    self.away(error)
                }
                // The group is there for display only.
                Some(
                    Code::GroupAuthorizationFailed
                    | Code::CoordinatorNotAvailable
                    | Code::NotCoordinator
                    | Code::CoordinatorLoadInProgress,
                ) => Ok(()),
                _ => self.away(error),
            },
        }
    }

    /// Looks for partitions that are not read yet and assigns them.
    fn discover(&mut self) -> Result<(), Ended> {
        let ids = match self.partition_ids()? {
            Some(ids) => ids,
            None => {
                self.next_discovery = instant() + DISCOVERY_RETRY;
                return Ok(());
            }
        };
        if std::mem::take(&mut self.doubtful) {
            self.begin_again()?;
        }
        let initial = *self.initial_partitions.get_or_insert(ids.len() as i32);
        if let Some((number, next)) = self.stored.iter().find(|(number, _)| !ids.contains(number)) {
            return self.fatal(format!(
                "topic {}, partition {number}: position {next} is in the state, but the topic has only {} partitions: \
                 it was deleted and made anew. Give the new topic another name, or start with a new state (--data)",
                self.topic,
                ids.len(),
                next = next.offset
            ));
        }
        // Those that are not assigned yet count too: their end is not known.
        let known = ids.iter().map(|number| usize::try_from(*number).unwrap_or_default() + 1).max().unwrap_or_default();
        if self.partitions.len() < known {
            self.partitions.resize(known, None);
        }
        let mut assigned = Vec::new();
        let mut announced = Positions::new();
        for number in ids {
            let index = usize::try_from(number).unwrap_or_default();
            if self.partitions.get(index).is_some_and(Option::is_some) {
                continue;
            }
            let (low, high) = match self.consumer.fetch_watermarks(&self.topic, number, ANSWER_WITHIN) {
                Ok(watermarks) => watermarks,
                Err(error) => {
                    self.next_discovery = instant() + DISCOVERY_RETRY;
                    let place = format!("topic {}, partition {number}", self.topic);
                    self.unavailable(format!("{place}: {}; trying again", explain(&error)))?;
                    continue;
                }
            };
            let from_latest = self.start == Start::Latest && self.stored.is_empty() && number < initial;
            let (Next { offset: next, after }, from) = match self.stored.get(&number) {
                Some(Next { offset, .. }) if *offset < low || *offset > high => {
                    return self.fatal(self.lost(number, *offset, low, high));
                }
                // From the record before, to see whether it is the one that was read there.
                Some(next) if next.after.is_some() && next.offset > low => (*next, Offset::Offset(next.offset - 1)),
                Some(next) => (*next, Offset::Offset(next.offset)),
                None if from_latest => {
                    announced.insert((self.topic.to_string(), number), Next::at(high));
                    (Next::at(high), Offset::Offset(high))
                }
                // A partition that is new since the last look is read whole, or its first records would be lost.
                None => (Next::at(low), Offset::Beginning),
            };
            if next < high {
                self.send(SourceEvent::Behind(self.topic.clone(), number))?;
            }
            let expect = after.filter(|_| next > low);
            let until = self.limits.until_end.then_some(high);
            let at_end = expect.is_none() && until.is_some_and(|until| next >= until);
            assigned.push((number, from, Partition { next, handed: next, after, expect, at_end, until }));
        }
        if assigned.is_empty() {
            return Ok(());
        }
        if !announced.is_empty() {
            self.send(SourceEvent::Assigned(announced))?;
        }
        let list: Vec<_> = assigned.iter().map(|(number, offset, _)| (*number, *offset)).collect();
        if let Err(error) = self.assign(&list) {
            self.next_discovery = instant() + DISCOVERY_RETRY;
            return self.unavailable(format!("topic {} cannot be assigned: {}", self.topic, explain(&error)));
        }
        for (number, _, partition) in assigned {
            let index = usize::try_from(number).unwrap_or_default();
            self.partitions[index] = Some(partition);
        }
        Ok(())
    }

    /// The topic's partitions; None when they cannot be known now, which has been said.
    fn partition_ids(&mut self) -> Result<Option<Vec<i32>>, Ended> {
        let metadata = match self.consumer.fetch_metadata(Some(&self.topic), ANSWER_WITHIN) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.doubtful = true;
                self.away(&error)?;
                return Ok(None);
            }
        };
        let topic = metadata.topics().iter().find(|topic| topic.name() == &*self.topic);
        let error = match topic {
            Some(topic) => topic.error().map(RDKafkaErrorCode::from),
            None => Some(RDKafkaErrorCode::UnknownTopicOrPartition),
        };
        match (topic, error) {
            (Some(topic), None) if !topic.partitions().is_empty() => {
                self.unknown_since = None;
                Ok(Some(topic.partitions().iter().map(|partition| partition.id()).collect()))
            }
            (_, None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                self.doubtful = true;
                let since = *self.unknown_since.get_or_insert_with(instant);
                if self.partitions.is_empty() && self.stored.is_empty() {
                    self.initial_partitions = Some(0);
                    self.unavailable(format!(
                        "topic {} does not exist at {}; waiting for it",
                        self.topic, self.brokers
                    ))?;
                } else if instant().duration_since(since) < GONE_AFTER {
                    self.unavailable(format!("topic {} is unknown at {}; trying again", self.topic, self.brokers))?;
                } else {
                    self.fatal(format!(
                        "topic {} was read before and is not at {} any more: it was deleted, or these are other \
                         brokers. Bring it back, or start with a new state (--data)",
                        self.topic, self.brokers
                    ))?;
                }
                Ok(None)
            }
            (_, Some(code)) => {
                let reason = explain(&KafkaError::MetadataFetch(code));
                self.unavailable(format!("topic {} at {}: {reason}; trying again", self.topic, self.brokers))?;
                Ok(None)
            }
        }
    }

    fn assign(&self, partitions: &[(i32, Offset)]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (number, offset) in partitions {
            list.add_partition_offset(&self.topic, *number, *offset)?;
        }
        self.consumer.incremental_assign(&list)
    }

    /// A position is not in the log any more; the error does not say which, so all are looked at. Where all positions are
    /// there, a broker was unsure for a moment: librdkafka has stopped the partition, and it is begun again.
    fn on_out_of_range(&mut self) -> Result<(), Ended> {
        (self.next_discovery, self.doubtful) = (instant(), true);
        Ok(())
    }

    /// Lets go of the partitions, to be assigned again where they are now.
    fn begin_again(&mut self) -> Result<(), Ended> {
        for (number, partition) in self.numbered() {
            self.stored.insert(number, Next { offset: partition.handed, after: partition.after });
        }
        self.partitions.clear();
        match self.consumer.unassign() {
            Ok(()) => Ok(()),
            Err(error) => {
                let reason = explain(&error);
                self.fatal(format!("topic {} cannot be read on after it was away: {reason}", self.topic))
            }
        }
    }

    /// Whether this is the record before the position, read once more. It may be gone (compaction): then nothing is known.
    /// An error says that it is another one.
    fn check(&self, message: &BorrowedMessage<'_>) -> Result<bool, String> {
        let number = message.partition();
        let index = usize::try_from(number).unwrap_or_default();
        let Some(Some(Partition { next, expect: Some(expect), .. })) = self.partitions.get(index) else {
            return Ok(false);
        };
        if message.offset() >= *next {
            return Ok(false);
        }
        let same = match message.timestamp().to_millis() {
            Some(millis) if millis >= 0 => {
                mark(millis.saturating_mul(1000), message.payload().unwrap_or_default()) == *expect
            }
            _ => true, // marked by the time of reading
        };
        if !same {
            return Err(format!(
                "topic {}, partition {number}: the record at offset {} is not the one that was read there: the topic was deleted \
                 and made anew. Going on at position {next} would skip what is before it: give the new topic another name, or \
                 start with a new state (--data)",
                self.topic,
                next - 1
            ));
        }
        Ok(true)
    }

    /// The partition goes on where it was.
    fn known_again(&mut self, number: i32) {
        let index = usize::try_from(number).unwrap_or_default();
        if let Some(Some(partition)) = self.partitions.get_mut(index) {
            partition.expect = None;
            partition.at_end = partition.until.is_some_and(|until| partition.next >= until);
        }
    }

    /// Notes the last record of each partition.
    fn take_marks(&mut self, batch: &RawBatch) {
        let mut records = batch.records.iter().peekable();
        while let Some(record) = records.next() {
            if records.peek().is_some_and(|next| next.partition == record.partition) {
                continue; // within a run
            }
            let index = usize::try_from(record.partition).unwrap_or_default();
            if let Some(Some(partition)) = self.partitions.get_mut(index) {
                partition.handed = record.offset + 1;
                partition.after = Some(mark(record.timestamp, batch.payload(record)));
            }
        }
    }

    fn lost(&self, number: i32, next: i64, low: i64, high: i64) -> String {
        let place = format!("topic {}, partition {number}", self.topic);
        if next < low {
            format!(
                "{place}: position {next} is wanted, but the log holds {low} to {high}: retention has removed {} \
                 offsets before they were read. Going on would lose them silently: bring the records back, or start \
                 with a new state (--data)",
                low - next
            )
        } else {
            format!(
                "{place}: position {next} is wanted, but the log ends at {high} (it starts at {low}): the topic was \
                 made anew or the brokers have lost records. Give the new topic another name, or start with a new \
                 state (--data)"
            )
        }
    }

    fn numbered(&self) -> Vec<(i32, Partition)> {
        let numbered = self.partitions.iter().enumerate();
        numbered.filter_map(|(number, partition)| partition.map(|partition| (number as i32, partition))).collect()
    }

    fn at_end(&self) -> bool {
        !self.partitions.is_empty() && self.partitions.iter().all(|partition| partition.is_some_and(|p| p.at_end))
    }

    fn every_second(&mut self) -> Result<(), Ended> {
        let lag = {
            let ends = self.consumer.context().by_partition.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = |(number, partition): (i32, Partition)| match ends.get(&number) {
                Some(end) if !partition.at_end || partition.until.is_some() => (end - partition.next).max(0),
                _ => 0,
            };
            self.numbered().into_iter().map(waiting).sum()
        };
        let lag = self.together.lag(self.index, lag);
        if self.index == 0 {
            self.try_send(SourceEvent::Lag(lag))?;
        }
        self.show_committed();
        Ok(())
    }

    /// Commits to the group what the engine asked to show. Nothing depends on it, so errors are only logged.
    fn show_committed(&mut self) {
        let positions = self.shared.committed();
        let mut list = TopicPartitionList::new();
        for (number, _) in self.numbered() {
            let Some(Next { offset, .. }) = positions.get(&(self.topic.to_string(), number)) else { continue };
            if self.committed.insert(number, *offset) != Some(*offset)
                && let Err(error) = list.add_partition_offset(&self.topic, number, Offset::Offset(*offset))
            {
                tracing::debug!("an offset for display is not committed: {}", explain(&error));
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!("offsets for display are not committed: {}", explain(&error));
        }
    }

    /// Waits while the engine is behind.
    fn send(&self, event: SourceEvent) -> Result<(), Ended> {
        self.events.blocking_send(event).map_err(|_| Ended)
    }

    /// For events that say how things are: the next one replaces what finds no room.
    fn try_send(&self, event: SourceEvent) -> Result<(), Ended> {
        match self.events.try_send(event) {
            Err(tokio::sync::mpsc::error::TrySendError::Closed(_)) => Err(Ended),
            _ => Ok(()),
        }
    }

    fn fatal<T>(&self, reason: String) -> Result<T, Ended> {
        self.send(SourceEvent::Fatal(format!("source {}: {reason}", self.source)))?;
        Err(Ended)
    }

    fn away(&mut self, error: &KafkaError) -> Result<(), Ended> {
        let why = self.consumer.context().why();
        self.unavailable(format!("kafka at {}: {}{why}; trying again", self.brokers, explain(error)))
    }

    fn unavailable(&mut self, reason: String) -> Result<(), Ended> {
        let now = instant();
        if self.noticed.get(&reason).is_some_and(|at| now.duration_since(*at) < NOTICE_EVERY) {
            return Ok(());
        }
        self.noticed.retain(|_, at| now.duration_since(*at) < NOTICE_EVERY);
        self.noticed.insert(reason.clone(), now);
        self.send(SourceEvent::Unavailable(format!("source {}: {reason}", self.source)))
    }
}

fn instant_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(instant())
}

#[cfg(test)]
mod tests;
