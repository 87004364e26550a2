//! What only a real broker shows: partitions added while the pipeline runs, records of aborted transactions, and a
//! topic as a destination.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use rdkafka::admin::{AdminClient, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::bad_input::Topic;
use crate::cdnow::path;
use crate::support::{Running, block_on, eventually, output_of, servers, tributary, unique};

pub fn event(id: &str) -> String {
    format!(
        r#"{{"type":"track","event":"Order Completed","userId":"u-{id}","messageId":"{id}","properties":{{"order_id":"{id}","total":10}}}}"#
    )
}

pub fn pipeline(folder: &std::path::Path, topic: &str, more: &str) {
    let yaml = format!(
        "pipeline: kafka\nsources:\n  site:\n    kafka: {{ brokers: \"{}\", topics: [{topic}] }}\n    format: {{ json: segment }}\n\
         identity: {{ identifiers: [user_id] }}\ntraits:\n  orders: {{ count: \"*\", event: Order Completed }}\nsegments:\n  customers: \"orders >= 1\"\n{more}",
        servers().kafka
    );
    std::fs::write(folder.join("kafka.yaml"), yaml).expect("file");
}

pub fn command(folder: &std::path::Path, args: &[&str]) -> std::process::Command {
    let mut command = tributary(args);
    command.args(["-C", path(folder), "--data", path(&folder.join("data"))]).stderr(Stdio::null());
    command
}

#[test]
fn partitions_added_while_it_runs_are_read_from_their_beginning() {
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(1);
    pipeline(folder.path(), &topic.name, "");
    topic.send((0..10).map(|n| event(&format!("before{n}")).into_bytes()));
    let mut running = Running::start(command(folder.path(), &["run"]));
    let events = || -> i64 {
        let output = command(folder.path(), &["status", "--output", "json"]).output().expect("starts");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["totals"]["events"].as_i64().unwrap_or(-1)
    };
    eventually("the first events are in", events, |events| *events == 10);

    let (kafka, name) = (servers().kafka.clone(), topic.name.clone());
    block_on(async move {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &kafka).create().expect("admin");
        admin.create_partitions(&[NewPartitions::new(&name, 4)], &Default::default()).await.expect("partitions");
    });
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &servers().kafka).create().expect("producer");
    eventually(
        "the broker takes records for the new partitions",
        || {
            let metadata =
                producer.client().fetch_metadata(Some(&topic.name), Duration::from_secs(5)).expect("metadata");
            metadata.topics()[0].partitions().len()
        },
        |count| *count == 4,
    );
    for partition in 1..4 {
        for n in 0..10 {
            let (key, payload) = (format!("{n}"), event(&format!("after{partition}-{n}")));
            producer
                .send(BaseRecord::to(&topic.name).partition(partition).key(&key).payload(&payload))
                .map_err(|(error, _)| error)
                .expect("sent");
        }
    }
    producer.flush(Duration::from_secs(10)).expect("delivered");
    eventually("the new partitions are read", events, |events| *events == 40);
    running.kill();
}

#[test]
fn records_of_an_aborted_transaction_are_not_read() {
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(1);
    pipeline(folder.path(), &topic.name, "");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &servers().kafka)
        .set("transactional.id", unique("transaction"))
        .create()
        .expect("producer");
    let wait = Duration::from_secs(20);
    producer.init_transactions(wait).expect("transactions");
    for (round, commits) in [("a", true), ("b", false), ("c", true)] {
        producer.begin_transaction().expect("begun");
        for n in 0..5 {
            let (key, payload) = (n.to_string(), event(&format!("{round}{n}")));
            producer.send(BaseRecord::to(&topic.name).key(&key).payload(&payload)).map_err(|(e, _)| e).expect("sent");
        }
        producer.flush(wait).expect("flushed");
        let ended = if commits { producer.commit_transaction(wait) } else { producer.abort_transaction(wait) };
        ended.expect("ended");
    }
    output_of(command(folder.path(), &["run", "--drain"]));
    let ids =
        output_of(command(folder.path(), &["query", "SELECT message_id FROM events ORDER BY 1", "--output", "csv"]));
    let ids: Vec<&str> = ids.lines().skip(1).collect();
    assert_eq!(ids, ["a0", "a1", "a2", "a3", "a4", "c0", "c1", "c2", "c3", "c4"]);
}

#[test]
fn a_topic_is_a_destination_with_one_message_for_each_entry() {
    let folder = tempfile::tempdir().expect("folder");
    let (topic, out) = (Topic::create(2), Topic::create(1));
    let more = format!(
        "destinations:\n  out: {{ kafka: {{ brokers: \"{}\", topic: {} }} }}\nactivations:\n  welcome:\n    trigger: {{ enters: customers }}\n    consent: none\n    \
         status: live\n    do: [ {{ id: hello, send: {{ to: out, body: {{ orders: \"{{{{ profile.traits.orders }}}}\", who: \"{{{{ profile.identifiers.user_id }}}}\" }} }} }} ]\n",
        servers().kafka,
        out.name
    );
    pipeline(folder.path(), &topic.name, &more);
    topic.send((0..20).map(|n| event(&format!("o{n}")).into_bytes()));
    output_of(command(folder.path(), &["run", "--drain"]));
    // Everything again: nobody enters twice.
    topic.send((0..20).map(|n| event(&format!("o{n}")).into_bytes()));
    output_of(command(folder.path(), &["run", "--drain"]));

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &servers().kafka)
        .set("group.id", unique("reader"))
        .create()
        .expect("consumer");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&out.name, 0, Offset::Beginning).expect("partition");
    consumer.assign(&assignment).expect("assigned");
    let (_, end) = consumer.fetch_watermarks(&out.name, 0, Duration::from_secs(10)).expect("watermarks");
    assert_eq!(end, 20, "one message for each of the 20 people");
    let (mut people, mut ids, mut bodies) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for _ in 0..end {
        let message = consumer.poll(Duration::from_secs(10)).expect("a message").expect("no error");
        let body: serde_json::Value = serde_json::from_slice(message.payload().expect("a body")).expect("json");
        let headers = message.headers().expect("headers");
        let id = headers.iter().find(|header| header.key.ends_with("id")).expect("an id").value.expect("a value");
        ids.insert(id.to_vec());
        people.insert(message.key().expect("the profile's id").to_vec());
        bodies.insert(body["who"][0].as_str().expect("a user").to_string(), body["orders"].clone());
    }
    assert_eq!((people.len(), ids.len(), bodies.len()), (20, 20, 20));
    assert!(bodies.values().all(|orders| orders == 1), "a whole template keeps its type: {bodies:?}");
}
