//! The log: partitions of records that come into being as time goes by, among them duplicates, late ones, ones out of order,
//! and ones that cannot be read; and a source that reads it as the Kafka source reads a topic.

use std::sync::Arc;

use tokio::sync::mpsc;
use tributary::clock::{self, simulated};
use tributary::event::RawBatch;
use tributary::source::{Positions, SourceEvent, SourceHandle, SourcePlan};

use super::faults::Fault;
use super::{Instance, START_US, millis};
use crate::world::{Event, random_events};

pub const TOPIC: &str = "events";
pub const SOURCES: [&str; 2] = ["site", "till"];

/// One record of a partition; its offset is its place.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it comes into being, since the start of the world.
    pub at_us: i64,
    /// The broker's timestamp.
    pub timestamp_us: i64,
    pub payload: String,
    /// None: it cannot be read.
    pub event: Option<Event>,
}

/// The partitions of each source.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub partitions: [Vec<Vec<Record>>; SOURCES.len()],
    /// When the last record comes into being.
    pub ends_us: i64,
}

impl Log {
    pub fn random(random: &mut fastrand::Rng) -> Log {
        let mut log = Log { partitions: [vec![Vec::new(); 3], vec![Vec::new(); 1]], ends_us: 0 };
        let count = random.usize(15..90);
        // From a burst to half a day.
        let span_us = *random.choice([60_000_000i64, 3_600_000_000, 40_000_000_000].iter()).expect("one");
        for (source, name) in SOURCES.iter().enumerate() {
            let share = if source == 0 { count } else { count / 4 };
            let mut events = random_events(random, share, 0);
            for (number, event) in events.iter_mut().enumerate() {
                event.message_id = format!("{name}{number}");
                let at_us = random.i64(0..span_us);
                let late_us = match random.u8(0..10) {
                    0..6 => random.i64(0..5_000_000),
                    6..9 => random.i64(0..7_200_000_000),
                    _ => -random.i64(0..60_000_000),
                };
                event.timestamp = (START_US + at_us - late_us) / 1_000_000 * 1_000_000;
                let time = chrono::DateTime::from_timestamp_micros(event.timestamp).expect("a time").to_rfc3339();
                event.rest[0] = format!(r#""timestamp":"{time}""#);
                log.add(source, at_us, Some(event.clone()), random);
                // The producer did not hear that it was taken, and sends it again, to any partition.
                while random.u8(0..5) == 0 {
                    let again_us = at_us + random.i64(0..span_us / 2);
                    log.add(source, again_us, Some(event.clone()), random);
                }
            }
            for _ in 0..random.usize(0..5) {
                let at_us = random.i64(0..span_us);
                log.add(source, at_us, None, random);
            }
        }
        for partition in log.partitions.iter_mut().flatten() {
            partition.sort_by_key(|record| record.at_us);
        }
        log
    }

    fn add(&mut self, source: usize, at_us: i64, event: Option<Event>, random: &mut fastrand::Rng) {
        let payload = match &event {
            Some(event) => event.json(),
            None => (*random.choice(["{", "[1]", "{\"type\":\"track\"", ""].iter()).expect("one")).to_string(),
        };
        let partitions = &mut self.partitions[source];
        let partition = random.usize(0..partitions.len());
        partitions[partition].push(Record { at_us, timestamp_us: START_US + at_us, payload, event });
        self.ends_us = self.ends_us.max(at_us);
    }

    /// Source, partition, offset and record of all of them.
    pub fn records(&self) -> impl Iterator<Item = (usize, i32, i64, &Record)> {
        self.partitions.iter().enumerate().flat_map(|(source, partitions)| {
            partitions.iter().enumerate().flat_map(move |(partition, records)| {
                records
                    .iter()
                    .enumerate()
                    .map(move |(offset, record)| (source, partition as i32, offset as i64, record))
            })
        })
    }
}

/// Starts to read at the positions that the state holds.
pub fn start(instance: &Instance, plan: &SourcePlan, positions: &Positions) -> SourceHandle {
    let (sender, events) = mpsc::channel(4);
    let source = SOURCES.iter().position(|name| **name == **plan.name()).expect("a source");
    let records = instance.world().log.partitions[source].clone();
    let next = (0..records.len())
        .map(|partition| positions.get(&(TOPIC.to_string(), partition as i32)).map_or(0, |next| next.offset as usize))
        .collect();
    let reader = Reader { instance: instance.clone(), name: plan.name().clone(), records, next, sender };
    tokio::spawn(reader.read());
    SourceHandle::of(plan.name().clone(), events)
}

struct Reader {
    instance: Instance,
    name: Arc<str>,
    records: Vec<Vec<Record>>,
    next: Vec<usize>,
    sender: mpsc::Sender<SourceEvent>,
}

impl Reader {
    /// Until nobody listens.
    async fn read(mut self) {
        let topic: Arc<str> = TOPIC.into();
        // Partitions of which it was said that there is something to be read.
        let mut behind = vec![false; self.records.len()];
        let mut said_caught_up_us = i64::MIN;
        loop {
            self.instance.live().await;
            let now_us = simulated::elapsed_us();
            let waiting: Vec<usize> =
                self.records.iter().map(|all| all.partition_point(|record| record.at_us <= now_us)).collect();
            let mut told = Vec::new();
            for partition in 0..self.records.len() {
                let is = self.next[partition] < waiting[partition];
                if is != behind[partition] {
                    behind[partition] = is;
                    let number = partition as i32;
                    told.push(if is {
                        SourceEvent::Behind(topic.clone(), number)
                    } else {
                        SourceEvent::AtEnd(topic.clone(), vec![number])
                    });
                }
            }
            if !behind.contains(&true) {
                // The loop looks whether it is done when something comes.
                let next_us = (0..self.records.len())
                    .filter_map(|partition| Some(self.records[partition].get(self.next[partition])?.at_us))
                    .min();
                if now_us >= said_caught_up_us.saturating_add(60_000_000) || !told.is_empty() {
                    told.push(SourceEvent::CaughtUp);
                    said_caught_up_us = now_us;
                }
                if !self.say(told).await {
                    return;
                }
                let wait_us = next_us.map_or(60_000_000, |next_us| next_us - now_us).clamp(1, 60_000_000);
                clock::sleep(std::time::Duration::from_micros(wait_us as u64)).await;
                continue;
            }
            if self.instance.strikes(Fault::SourceAway) {
                told.push(SourceEvent::Unavailable("the broker is away".to_string()));
                let away = self.instance.random(|random| random.u64(0..60_000));
                clock::sleep(millis(away)).await;
            }
            if self.instance.strikes(Fault::SourceSlow) {
                let slow = self.instance.random(|random| random.u64(0..20_000));
                clock::sleep(millis(slow)).await;
            }
            let batch = self.batch(&topic, &waiting);
            told.push(SourceEvent::Records(batch));
            if !self.say(told).await {
                return;
            }
            clock::sleep(millis(5)).await;
        }
    }

    async fn say(&self, events: Vec<SourceEvent>) -> bool {
        for event in events {
            if self.sender.send(event).await.is_err() {
                return false;
            }
        }
        true
    }

    /// A batch of any size, runs of the partitions in any order.
    fn batch(&mut self, topic: &Arc<str>, waiting: &[usize]) -> RawBatch {
        let mut raw = RawBatch::new(self.name.clone());
        let mut left = self.instance.random(|random| random.usize(1..30));
        while left > 0 {
            let open: Vec<usize> =
                (0..waiting.len()).filter(|partition| self.next[*partition] < waiting[*partition]).collect();
            let Some(partition) = self.instance.random(|random| random.choice(open.iter()).copied()) else { break };
            let run = self.instance.random(|random| random.usize(1..=left));
            let upto = (self.next[partition] + run).min(waiting[partition]);
            for offset in self.next[partition]..upto {
                let record = &self.records[partition][offset];
                raw.push(topic, partition as i32, offset as i64, record.timestamp_us, record.payload.as_bytes());
            }
            left -= upto - self.next[partition];
            self.next[partition] = upto;
        }
        raw
    }
}
