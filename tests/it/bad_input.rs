//! Promise 5: bad input never stops the stream, is never dropped silently, and can be replayed after a fix.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::cdnow::path;
use crate::support::{block_on, clickhouse, output_of, servers, text_of, tributary, unique};

/// An order as the test's topics carry it.
pub const ORDER: &str = r#"{"type":"record","name":"Order","fields":[
    {"name":"id","type":"string"},
    {"name":"customer","type":"string"},
    {"name":"total","type":"double"},
    {"name":"note","type":["null","string"],"default":null},
    {"name":"channel","type":{"type":"enum","name":"Channel","symbols":["web","shop"]},"default":"web"}]}"#;

/// A later version: one more field. Registered only after messages with its id have come in.
const ORDER_2: &str = r#"{"type":"record","name":"Order","fields":[
    {"name":"id","type":"string"},
    {"name":"customer","type":"string"},
    {"name":"total","type":"double"},
    {"name":"note","type":["null","string"],"default":null},
    {"name":"channel","type":{"type":"enum","name":"Channel","symbols":["web","shop"]},"default":"web"},
    {"name":"gift","type":"boolean","default":false}]}"#;

pub fn datum(schema: &str, number: usize) -> Vec<u8> {
    let schema = Schema::parse_str(schema).expect("schema");
    let mut fields = vec![
        ("id".to_string(), Value::String(format!("o{number}"))),
        ("customer".to_string(), Value::String(format!("c{}", number % 50))),
        ("total".to_string(), Value::Double(10.0)),
        ("note".to_string(), Value::Union(1, Box::new(Value::String("a note".to_string())))),
        ("channel".to_string(), Value::Enum(0, "web".to_string())),
    ];
    if matches!(&schema, Schema::Record(record) if record.fields.len() == 6) {
        fields.push(("gift".to_string(), Value::Boolean(true)));
    }
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    writer.write_value_to_vec(Value::Record(fields)).expect("encoded")
}

pub fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(id.to_be_bytes());
    framed.extend(datum);
    framed
}

/// Where the strings of `datum(ORDER, n)` begin: id's length, id, customer's length, customer, total, note's branch …
fn note_branch(number: usize) -> usize {
    1 + format!("o{number}").len() + 1 + format!("c{}", number % 50).len() + 8
}

/// Bad messages by the code they are to be rejected with.
fn bad(number: usize, id: u32, unknown: u32) -> Vec<(&'static str, Vec<u8>)> {
    let good = || datum(ORDER, number);
    let change = |at: usize, byte: u8| {
        let mut bytes = good();
        bytes[at] = byte;
        framed(id, &bytes)
    };
    let mut trailing = good();
    trailing.push(0);
    let mut huge = good();
    huge.splice(0..1, [0xfe, 0xff, 0xff, 0xff, 0x0f]);
    let branch = note_branch(number);
    vec![
        ("empty", Vec::new()),
        ("bad_magic", b"{\"json\": true}".to_vec()),
        ("truncated", vec![0, 0, 0]),
        ("truncated", framed(id, &good()[..5])),
        ("trailing_bytes", framed(id, &trailing)),
        ("bad_utf8", change(1, 0xff)),
        ("bad_union_index", change(branch, 8)),
        ("bad_enum_index", change(good().len() - 1, 20)),
        ("truncated", framed(id, &huge)),
        ("unknown_schema_id", framed(unknown, &datum(ORDER_2, number + 1_000_000))),
    ]
}

pub struct Topic {
    pub name: String,
    producer: FutureProducer,
}

impl Topic {
    pub fn create(partitions: i32) -> Topic {
        let kafka = servers().kafka.clone();
        let name = unique("orders");
        let topic = name.clone();
        let config = {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &kafka).set("message.max.bytes", "12000000");
            config
        };
        let admin: rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext> = config.create().expect("admin");
        block_on(async move {
            let new = rdkafka::admin::NewTopic::new(&topic, partitions, rdkafka::admin::TopicReplication::Fixed(1))
                .set("max.message.bytes", "12000000");
            admin.create_topics([&new], &Default::default()).await.expect("created");
        });
        Topic { name, producer: config.create().expect("producer") }
    }

    /// Deletes the topic and makes another of this name.
    pub fn make_anew(&mut self, partitions: i32) {
        let (kafka, name) = (servers().kafka.clone(), self.name.clone());
        block_on(async move {
            let admin: rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext> =
                ClientConfig::new().set("bootstrap.servers", &kafka).create().expect("admin");
            let deleted = admin.delete_topics(&[&name], &Default::default()).await.expect("deleted");
            assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
            let new = rdkafka::admin::NewTopic::new(&name, partitions, rdkafka::admin::TopicReplication::Fixed(1));
            // The name is free when the old one is gone everywhere.
            while admin.create_topics([&new], &Default::default()).await.expect("answered").iter().any(Result::is_err) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &servers().kafka).set("message.max.bytes", "12000000");
        self.producer = config.create().expect("producer");
    }

    pub fn send(&self, messages: impl Iterator<Item = Vec<u8>>) {
        for (number, message) in messages.enumerate() {
            let key = number.to_string();
            loop {
                let record = FutureRecord::to(&self.name).key(&key).payload(&message);
                match self.producer.send_result(record) {
                    Ok(_) => break,
                    // The producer's queue is full: let it empty itself.
                    Err(_) => {
                        let _ = self.producer.flush(Duration::from_millis(50));
                    }
                }
            }
        }
        self.producer.flush(Duration::from_secs(30)).expect("delivered");
    }
}

pub fn register(registry: &str, subject: &str, schema: &str) -> u32 {
    let url = format!("{registry}/subjects/{subject}/versions");
    let body = serde_json::json!({ "schema": schema });
    block_on(async move {
        let client = reqwest::Client::builder().no_proxy().build().expect("client");
        let answer: serde_json::Value =
            client.post(url).json(&body).send().await.expect("registry").json().await.expect("json");
        answer["id"].as_u64().unwrap_or_else(|| panic!("no id: {answer}")) as u32
    })
}

pub fn pipeline(folder: &std::path::Path, topic: &str) -> PathBuf {
    let pipeline = folder.join("orders");
    std::fs::create_dir_all(&pipeline).expect("folder");
    std::fs::write(pipeline.join("order.avsc"), ORDER).expect("file");
    let yaml = format!(
        r#"pipeline: orders
sources:
  orders:
    kafka: {{ brokers: "${{env:KAFKA_BROKERS}}", topics: [{topic}] }}
    format: {{ avro: {{ registry: "${{env:SCHEMA_REGISTRY_URL}}", reader: order.avsc }} }}
    map:
      event: {{ value: Order Completed }}
      message_id: id
      identifiers: {{ customer_no: customer }}
      properties: {{ order_id: id, total: total }}
identity:
  identifiers: [customer_no]
traits:
  orders: {{ count: "*", event: Order Completed }}
segments:
  busy: "orders >= 3"
warehouse:
  clickhouse: {{ url: "${{env:CLICKHOUSE_URL}}", database: "${{env:CLICKHOUSE_DATABASE}}" }}
"#
    );
    std::fs::write(pipeline.join("orders.yaml"), yaml).expect("file");
    pipeline
}

#[test]
fn one_bad_message_in_ten_is_stored_with_its_reason_and_replayed_after_the_schema_is_mended() {
    let servers = servers();
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(3);
    let subject = format!("{}-value", topic.name);
    let id = register(&servers.registry, &subject, ORDER);
    // The stub numbers schemas one after the other: this is the id that the next one will get.
    let unknown = register(&servers.registry, &format!("{subject}-probe"), &ORDER.replace("Order", "Probe")) + 1;

    const BAD_ROUNDS: usize = 200;
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    let mut messages = Vec::new();
    let mut good = 0;
    for round in 0..BAD_ROUNDS {
        for (code, message) in bad(round, id, unknown) {
            *expected.entry(code).or_default() += 1;
            messages.push(message);
            for _ in 0..9 {
                messages.push(framed(id, &datum(ORDER, 10_000_000 + good)));
                good += 1;
            }
        }
    }
    topic.send(messages.into_iter());

    let pipeline = pipeline(folder.path(), &topic.name);
    let database = unique("orders");
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.args(["-C", path(&pipeline), "--data", path(&folder.path().join("data"))]);
        command
            .env("KAFKA_BROKERS", &servers.kafka)
            .env("CLICKHOUSE_URL", &servers.clickhouse)
            .env("CLICKHOUSE_DATABASE", &database)
            .env("SCHEMA_REGISTRY_URL", &servers.registry);
        command
    };
    output_of(command(&["run", "--drain"]));
    let ask = |sql: &str| clickhouse(&servers.clickhouse, &database, sql);
    assert_eq!(ask("SELECT count() FROM events"), good.to_string());
    let found: BTreeMap<String, usize> = ask("SELECT code, count() FROM rejected_events GROUP BY code ORDER BY code")
        .lines()
        .map(|line| line.split_once('\t').expect("two columns"))
        .map(|(code, count)| (code.to_string(), count.parse().expect("a count")))
        .collect();
    let expected: BTreeMap<String, usize> =
        expected.into_iter().map(|(code, count)| (code.to_string(), count)).collect();
    assert_eq!(found, expected);
    let unexplained = "SELECT count() FROM rejected_events WHERE reason = '' OR topic = '' OR source = ''";
    assert_eq!(ask(unexplained), "0", "each has a reason and a position");
    let distinct = "SELECT uniqExact(partition, offset) FROM rejected_events";
    assert_eq!(ask(distinct), (BAD_ROUNDS * 10).to_string(), "each position once");
    let listed = output_of(command(&["rejected", "list", "-n", "5000", "--output", "csv"]));
    assert_eq!(listed.lines().count(), 1 + BAD_ROUNDS * 10);

    // Mended: the schema that was missing is registered now.
    assert_eq!(register(&servers.registry, &subject, ORDER_2), unknown);
    let replayed = command(&["rejected", "replay"]).output().expect("starts");
    assert!(replayed.status.success(), "{}", text_of(&replayed));
    assert!(text_of(&replayed).contains(&format!("{BAD_ROUNDS} accepted")), "{}", text_of(&replayed));
    assert_eq!(ask("SELECT count() FROM events"), (good + BAD_ROUNDS).to_string());
    let listed = output_of(command(&["rejected", "list", "-n", "5000", "--output", "csv"]));
    assert_eq!(listed.lines().count(), 1 + BAD_ROUNDS * 9);

    // And once more changes nothing.
    let again = command(&["rejected", "replay"]).output().expect("starts");
    assert!(text_of(&again).contains("0 accepted"), "{}", text_of(&again));
    assert_eq!(ask("SELECT count() FROM events"), (good + BAD_ROUNDS).to_string());
}

/// JSON input, one line each, and what becomes of it: a code for a reject, else flags of the event.
#[test]
fn bad_json_is_rejected_with_its_code_and_odd_json_is_flagged() {
    let deep = format!(
        r#"{{"type":"track","event":"E","userId":"u","messageId":"deep","properties":{{"a":{}1{}}}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    let event =
        |id: &str, rest: &str| format!(r#"{{"type":"track","event":"E","userId":"u1","messageId":"{id}"{rest}}}"#);
    let rejected = [
        ("not json at all".to_string(), "not_json"),
        (r#"{"type":"track","event":"E""#.to_string(), "not_json"),
        ("[1,2]".to_string(), "not_an_object"),
        (deep, "too_deep"),
        (event("dup", r#","properties":{"a":1,"a":2}"#), "duplicate_key"),
        (event("nan", r#","properties":{"a":NaN}"#), "number_out_of_range"),
        (event("big", r#","properties":{"a":1e999}"#), "number_out_of_range"),
        (r#"{"messageId":"x","userId":"u1"}"#.to_string(), "not_an_event"),
    ];
    let flagged = [
        (event("future", r#","timestamp":"2999-01-01T00:00:00Z""#), "clamped"),
        (
            r#"{"type":"track","event":"E","userId":"null","messageId":"nobody"}"#.to_string(),
            "blocked_identifier,no_identifier",
        ),
        (
            r#"{"type":"track","event":"E","userId":"0000","anonymousId":"a1","messageId":"half"}"#.to_string(),
            "blocked_identifier",
        ),
        (r#"{"type":"track","event":"E","messageId":"none"}"#.to_string(), "no_identifier"),
    ];
    let folder = tempfile::tempdir().expect("folder");
    let lines: Vec<String> = rejected.iter().chain(&flagged).map(|(line, _)| line.clone()).collect();
    // A good event after each bad line: one bad item never takes another with it.
    let mixed: String =
        lines.iter().enumerate().map(|(n, line)| format!("{line}\n{}\n", event(&format!("good{n}"), ""))).collect();
    // The first event's id with another body: the first one counts, this one is shown. Thousands of fields are no fault.
    let fields: Vec<String> = (0..5_000).map(|n| format!(r#""f{n}":{n}"#)).collect();
    let last = [
        event("good0", r#","properties":{"other":1}"#),
        event("good0", ""),
        event("good_many", &format!(r#","properties":{{{}}}"#, fields.join(","))),
    ];
    std::fs::write(folder.path().join("events.ndjson"), mixed + &last.join("\n")).expect("file");
    let yaml = "pipeline: bad\nsources:\n  site: { file: { path: events.ndjson }, format: { json: segment } }\n\
                identity: { identifiers: [user_id, anonymous_id] }\n";
    std::fs::write(folder.path().join("bad.yaml"), yaml).expect("file");
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.args(["-C", path(folder.path()), "--data", path(&folder.path().join("data")), "--output", "csv"]);
        command
    };
    output_of(command(&["run", "--drain"]));
    let query = |sql: &str| output_of(command(&["query", sql]));
    let codes = query(r#"SELECT "offset", code FROM rejected_events ORDER BY 1"#);
    let mut expected: String =
        rejected.iter().enumerate().map(|(n, (_, code))| format!("{},{code}\n", 2 * n + 1)).collect();
    expected.push_str(&format!("{},other_body\n", 2 * lines.len() + 1));
    assert_eq!(codes.split_once('\n').expect("a header").1, expected);
    let flags = query("SELECT flags FROM events WHERE message_id NOT LIKE 'good%' ORDER BY \"offset\"");
    let flags: Vec<&str> = flags.lines().skip(1).map(|line| line.trim_matches('"')).collect();
    assert_eq!(flags, flagged.iter().map(|(_, flags)| *flags).collect::<Vec<_>>());
    let good = query("SELECT count(*) FROM events WHERE message_id LIKE 'good%'");
    assert_eq!(good.lines().nth(1), Some((lines.len() + 1).to_string().as_str()));
}

#[test]
fn a_message_of_ten_megabytes_passes() {
    let servers = servers();
    let folder = tempfile::tempdir().expect("folder");
    let topic = Topic::create(1);
    let giant = format!(
        r#"{{"type":"track","event":"E","userId":"u1","messageId":"giant","properties":{{"text":"{}"}}}}"#,
        "x".repeat(10_000_000)
    );
    let small = r#"{"type":"track","event":"E","userId":"u1","messageId":"small"}"#.to_string();
    topic.send([giant.into_bytes(), small.into_bytes()].into_iter());
    let yaml = format!(
        "pipeline: giant\nsources:\n  site:\n    kafka: {{ brokers: \"{}\", topics: [{}] }}\n    format: {{ json: segment }}\nidentity: {{ identifiers: [user_id] }}\n",
        servers.kafka, topic.name
    );
    std::fs::write(folder.path().join("giant.yaml"), yaml).expect("file");
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.args(["-C", path(folder.path()), "--data", path(&folder.path().join("data")), "--output", "csv"]);
        command
    };
    output_of(command(&["run", "--drain"]));
    let rows = output_of(command(&["query", "SELECT message_id, length(properties) FROM events ORDER BY 1"]));
    assert!(rows.contains("giant,1000001"), "{}", &rows[..rows.len().min(300)]);
    assert!(rows.contains("small"), "{}", &rows[..rows.len().min(300)]);
}
