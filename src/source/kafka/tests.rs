//! Against librdkafka's mock cluster. Retention, transactions and new partitions need real brokers: `tests/it`.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::super::{SourceHandle, SourcePlan, spawn};
use super::*;

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster(topics: &[(&str, i32)]) -> Mock {
    let cluster = MockCluster::new(1).unwrap();
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).unwrap();
    }
    cluster
}

fn produce(cluster: &Mock, records: &[(&str, i32, Option<&[u8]>, i64)]) {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers()).set("message.max.bytes", "2000000");
    let producer: BaseProducer = config.create().unwrap();
    for (topic, partition, payload, millis) in records {
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(*partition).timestamp(*millis);
        record.payload = *payload;
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn produce_numbers(cluster: &Mock, topic: &str, partition: i32, numbers: std::ops::Range<i64>) {
    let payloads: Vec<String> = numbers.clone().map(|n| format!("{partition}/{n}")).collect();
    let records: Vec<_> = payloads.iter().map(|p| (topic, partition, Some(p.as_bytes()), 1_700_000_000_000)).collect();
    produce(cluster, &records);
}

fn plan(cluster: &Mock, topics: &[&str], start: Start) -> SourcePlan {
    SourcePlan::Kafka(KafkaPlan {
        name: "web".into(),
        brokers: cluster.bootstrap_servers(),
        topics: topics.iter().map(|topic| topic.to_string()).collect(),
        start,
        settings: BTreeMap::new(),
    })
}

fn until_end() -> ReadLimits {
    ReadLimits { until_end: true, ..ReadLimits::default() }
}

fn start_source(plan: &SourcePlan, positions: Positions, limits: ReadLimits) -> Result<SourceHandle, SourceError> {
    spawn(plan, positions, limits, None)
}

struct Run {
    handle: SourceHandle,
    runtime: tokio::runtime::Runtime,
}

impl Run {
    fn new(plan: &SourcePlan, positions: Positions, limits: ReadLimits) -> Run {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Run { handle: start_source(plan, positions, limits).unwrap(), runtime }
    }

    fn next(&mut self) -> SourceEvent {
        let event = async { tokio::time::timeout(Duration::from_secs(30), self.handle.events.recv()).await };
        self.runtime.block_on(event).expect("no event within 30 s").expect("the source has ended")
    }

    /// Goes on until an event is what is looked for; gives what came before it.
    fn until(&mut self, what: impl Fn(&SourceEvent) -> bool) -> (Vec<SourceEvent>, SourceEvent) {
        let mut before = Vec::new();
        loop {
            let event = self.next();
            if what(&event) {
                return (before, event);
            }
            assert!(!matches!(event, SourceEvent::Fatal(_)), "{event:?}");
            before.push(event);
        }
    }

    fn records_until_caught_up(&mut self) -> BTreeMap<(String, i32), Vec<(i64, String)>> {
        records(&self.until(|event| matches!(event, SourceEvent::CaughtUp)).0)
    }

    fn fatal(&mut self) -> String {
        match self.until(|event| matches!(event, SourceEvent::Fatal(_))).1 {
            SourceEvent::Fatal(reason) => reason,
            _ => unreachable!(),
        }
    }
}

/// By partition, in the order in which they came: offset and payload.
fn records(events: &[SourceEvent]) -> BTreeMap<(String, i32), Vec<(i64, String)>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        if let SourceEvent::Records(batch) = event {
            assert_eq!(&*batch.source, "web");
            assert!(!batch.records.is_empty());
            for record in &batch.records {
                let position = batch.position(record);
                let payload = String::from_utf8_lossy(batch.payload(record)).into_owned();
                all.entry((position.topic.to_string(), position.partition))
                    .or_default()
                    .push((position.offset, payload));
            }
        }
    }
    all
}

fn numbers(partition: i32, range: std::ops::Range<i64>) -> Vec<(i64, String)> {
    range.map(|n| (n, format!("{partition}/{n}"))).collect()
}

fn positions(entries: &[(&str, i32, i64)]) -> Positions {
    entries.iter().map(|(topic, partition, next)| ((topic.to_string(), *partition), Next::at(*next))).collect()
}

#[test]
fn all_partitions_are_read_in_order_and_then_it_is_caught_up() {
    let cluster = cluster(&[("orders", 3)]);
    for partition in 0..3 {
        produce_numbers(&cluster, "orders", partition, 0..500);
    }
    // Far more batches than the channel holds: the reader is held back and goes on.
    let limits = ReadLimits { max_records: 50, ..until_end() };
    let mut run = Run::new(&plan(&cluster, &["orders"], Start::Earliest), Positions::new(), limits);
    let (before, _) = run.until(|event| matches!(event, SourceEvent::CaughtUp));
    for event in &before {
        if let SourceEvent::Records(batch) = event {
            assert!(batch.records.len() <= 50);
            assert!(batch.records.iter().all(|record| record.timestamp == 1_700_000_000_000_000));
        }
    }
    let read = records(&before);
    for partition in 0..3 {
        assert_eq!(read[&("orders".to_string(), partition)], numbers(partition, 0..500));
    }
    // Nobody may think that it is later than the first record of a partition that is still to be read (SEMANTICS §1).
    let first_records = before.iter().position(|event| matches!(event, SourceEvent::Records(_)));
    let behind = before.iter().take(first_records.expect("records"));
    let behind = behind.filter(|event| matches!(event, SourceEvent::Behind(topic, _) if &**topic == "orders"));
    assert_eq!(behind.count(), 3);
    // A drain may ask again and again.
    assert!(matches!(run.until(|event| matches!(event, SourceEvent::CaughtUp)).1, SourceEvent::CaughtUp));
}

#[test]
fn reading_goes_on_from_the_positions_of_the_state() {
    let cluster = cluster(&[("orders", 3)]);
    for partition in 0..3 {
        produce_numbers(&cluster, "orders", partition, 0..10);
    }
    let stored = positions(&[("orders", 0, 4), ("orders", 1, 10)]);
    // `latest` holds for a topic that is new to the state, not for a partition that is new to a known topic.
    let mut run = Run::new(&plan(&cluster, &["orders"], Start::Latest), stored, until_end());
    let (events, _) = run.until(|event| matches!(event, SourceEvent::CaughtUp));
    let behind =
        |event: &SourceEvent| if let SourceEvent::Behind(_, partition) = event { Some(*partition) } else { None };
    assert_eq!(events.iter().filter_map(behind).collect::<Vec<_>>(), [0, 2], "one is at its end");
    let read = records(&events);
    assert_eq!(read.get(&("orders".to_string(), 0)), Some(&numbers(0, 4..10)));
    assert_eq!(read.get(&("orders".to_string(), 1)), None);
    assert_eq!(read.get(&("orders".to_string(), 2)), Some(&numbers(2, 0..10)));
}

#[test]
fn latest_says_where_it_begins_so_that_a_restart_loses_nothing() {
    let cluster = cluster(&[("orders", 1)]);
    produce_numbers(&cluster, "orders", 0, 0..5);
    let plan = plan(&cluster, &["orders"], Start::Latest);
    let mut run = Run::new(&plan, Positions::new(), ReadLimits::default());
    let (_, assigned) = run.until(|event| matches!(event, SourceEvent::Assigned(_)));
    let SourceEvent::Assigned(stored) = assigned else { unreachable!() };
    assert_eq!(stored, positions(&[("orders", 0, 5)]));
    assert!(run.records_until_caught_up().is_empty());
    drop(run);
    produce_numbers(&cluster, "orders", 0, 5..8);
    let mut run = Run::new(&plan, stored, until_end());
    assert_eq!(run.records_until_caught_up()[&("orders".to_string(), 0)], numbers(0, 5..8));
}

#[test]
fn what_comes_while_running_is_read_and_caught_up_is_said_again() {
    let cluster = cluster(&[("orders", 1), ("returns", 2)]);
    let plan = plan(&cluster, &["orders", "returns"], Start::Earliest);
    let mut run = Run::new(&plan, Positions::new(), ReadLimits::default());
    assert!(run.records_until_caught_up().is_empty());
    for round in 0..3 {
        produce_numbers(&cluster, "returns", 1, round..round + 1);
        let (_, event) = run.until(|event| matches!(event, SourceEvent::Records(_)));
        assert_eq!(records(&[event])[&("returns".to_string(), 1)], numbers(1, round..round + 1));
        assert!(run.records_until_caught_up().is_empty());
    }
    let (_, lag) = run.until(|event| matches!(event, SourceEvent::Lag(_)));
    assert!(matches!(lag, SourceEvent::Lag(0)));
}

#[test]
fn a_tombstone_is_an_empty_payload_and_a_large_record_passes() {
    let cluster = cluster(&[("orders", 1)]);
    let large = vec![b'x'; 1_500_000];
    produce(&cluster, &[("orders", 0, None, 5), ("orders", 0, Some(&large), 6), ("orders", 0, Some(b"y"), 7)]);
    let limits = ReadLimits { max_bytes: 1000, ..until_end() };
    let mut run = Run::new(&plan(&cluster, &["orders"], Start::Earliest), Positions::new(), limits);
    let read = run.records_until_caught_up();
    let lengths: Vec<_> = read[&("orders".to_string(), 0)].iter().map(|(_, payload)| payload.len()).collect();
    assert_eq!(lengths, [0, 1_500_000, 1]);
}

#[test]
fn a_position_beyond_the_log_stops_the_source() {
    let cluster = cluster(&[("orders", 2)]);
    produce_numbers(&cluster, "orders", 1, 0..5);
    let stored = positions(&[("orders", 1, 7)]);
    let mut run = Run::new(&plan(&cluster, &["orders"], Start::Earliest), stored, ReadLimits::default());
    let reason = run.fatal();
    for part in ["web", "topic orders, partition 1", "position 7", "ends at 5", "--data"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[test]
fn a_position_that_retention_has_passed_stops_the_source() {
    let cluster = cluster(&[("orders", 1)]);
    // The mock keeps 5 MB of a partition.
    let payload = vec![b'x'; 900_000];
    for _ in 0..10 {
        produce(&cluster, &[("orders", 0, Some(&payload), 5)]);
    }
    let mut run =
        Run::new(&plan(&cluster, &["orders"], Start::Earliest), positions(&[("orders", 0, 1)]), ReadLimits::default());
    let reason = run.fatal();
    assert!(reason.contains("topic orders, partition 0: position 1 is wanted"), "{reason}");
    assert!(reason.contains("retention has removed") && reason.contains("to 10"), "{reason}");
    // From the start there is no such position: the log begins where it begins.
    let mut run = Run::new(&plan(&cluster, &["orders"], Start::Earliest), Positions::new(), until_end());
    let read = run.records_until_caught_up();
    assert_eq!(read[&("orders".to_string(), 0)].last().map(|(offset, _)| *offset), Some(9));
}

#[test]
fn the_record_before_the_position_must_be_the_one_that_was_read_there() {
    let cluster = cluster(&[("orders", 1)]);
    produce_numbers(&cluster, "orders", 0, 0..5);
    let plan = plan(&cluster, &["orders"], Start::Earliest);
    let at =
        |offset: i64, after: u64| Positions::from([(("orders".to_string(), 0), Next { offset, after: Some(after) })]);
    let of = |number: i64| mark(1_700_000_000_000_000, format!("0/{number}").as_bytes());
    for (offset, left) in [(3, 3..5), (5, 5..5)] {
        let mut run = Run::new(&plan, at(offset, of(offset - 1)), until_end());
        let read = run.records_until_caught_up();
        assert_eq!(read.get(&("orders".to_string(), 0)).cloned().unwrap_or_default(), numbers(0, left));
        let mut run = Run::new(&plan, at(offset, of(offset)), until_end());
        let reason = run.fatal();
        for part in ["topic orders, partition 0", &format!("offset {}", offset - 1), "made anew", "--data"] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
    }
    // Nothing was read yet: nothing to know it by.
    let mut run = Run::new(&plan, positions(&[("orders", 0, 4)]), until_end());
    assert_eq!(run.records_until_caught_up()[&("orders".to_string(), 0)], numbers(0, 4..5));
}

#[test]
fn a_partition_that_is_not_there_any_more_stops_the_source() {
    let cluster = cluster(&[("orders", 1)]);
    let stored = positions(&[("orders", 4, 2)]);
    let mut run = Run::new(&plan(&cluster, &["orders"], Start::Earliest), stored, ReadLimits::default());
    assert!(run.fatal().contains("partition 4: position 2 is in the state, but the topic has only 1"));
}

#[test]
fn a_broker_that_is_unsure_for_a_moment_stops_nothing() {
    let cluster = cluster(&[("orders", 1)]);
    produce_numbers(&cluster, "orders", 0, 0..20);
    cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]);
    let stored = positions(&[("orders", 0, 3)]);
    let mut run = Run::new(&plan(&cluster, &["orders"], Start::Earliest), stored, until_end());
    assert_eq!(run.records_until_caught_up()[&("orders".to_string(), 0)], numbers(0, 3..20));
}

#[test]
fn brokers_that_are_away_are_named_and_waited_for() {
    let mut run = {
        let cluster = cluster(&[]);
        let plan = plan(&cluster, &["orders"], Start::Earliest);
        drop(cluster);
        Run::new(&plan, Positions::new(), until_end())
    };
    let (before, event) = run.until(|event| matches!(event, SourceEvent::Unavailable(_)));
    let SourceEvent::Unavailable(reason) = event else { unreachable!() };
    assert!(reason.contains("source web: kafka at 127.0.0.1:"), "{reason}");
    assert!(!before.iter().any(|event| matches!(event, SourceEvent::CaughtUp)));
}

#[test]
fn the_thread_ends_when_the_handle_is_dropped() {
    let cluster = cluster(&[("orders", 1)]);
    let run = Run::new(&plan(&cluster, &["orders"], Start::Earliest), Positions::new(), ReadLimits::default());
    let shared = Arc::downgrade(&run.handle.control.shared);
    drop(run);
    let started = instant();
    while shared.upgrade().is_some() {
        assert!(instant().duration_since(started) < Duration::from_secs(30), "the reader goes on");
        std::thread::yield_now();
    }
}

#[test]
fn a_reserved_setting_is_refused_at_once() {
    let plan = SourcePlan::Kafka(KafkaPlan {
        name: "web".into(),
        brokers: "localhost:1".into(),
        topics: vec!["orders".into()],
        start: Start::Earliest,
        settings: BTreeMap::from([("auto.offset.reset".to_string(), "latest".to_string())]),
    });
    let error = start_source(&plan, Positions::new(), ReadLimits::default()).unwrap_err().to_string();
    assert!(error.contains("source web: `auto.offset.reset` cannot be set"), "{error}");
}
