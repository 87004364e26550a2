//! The events of the ladder: standard envelopes as Confluent-framed Avro, seeded, made once.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use fastrand::Rng;
use tributary::event::RawBatch;

/// `events` events of `profiles` people in batches. 20 % of the people act 80 % of the time; 5 % of the events are
/// orders, 5 % identify calls that link an anonymous id to a user, the rest views and carts; 2 % are duplicates.
pub fn batches(events: usize, profiles: usize, per_batch: usize, seed: u64) -> Vec<RawBatch> {
    let json = std::fs::read_to_string("benches/pipeline/schemas/event-1.avsc").expect("the envelope's schema");
    let schema = Schema::parse_str(&json).expect("a schema");
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    let mut random = Rng::with_seed(seed);
    let topic: Arc<str> = "bench.events".into();
    let mut batches = Vec::new();
    let mut batch = RawBatch::new("events".into());
    let mut last = Vec::new();
    for number in 0..events {
        let payload = if random.u32(0..100) < 2 && !last.is_empty() {
            last.clone()
        } else {
            let mut payload = vec![0, 0, 0, 0, 1];
            let value = event(number, profiles, &schema, &mut random);
            payload.extend(writer.write_value_to_vec(value).expect("encoded"));
            payload
        };
        let at = 1_772_000_000_000_000 + number as i64 * 1_000;
        batch.push(&topic, (number % 6) as i32, (number / 6) as i64, at, &payload);
        last = payload;
        if batch.records.len() == per_batch {
            batches.push(std::mem::replace(&mut batch, RawBatch::new("events".into())));
        }
    }
    if !batch.records.is_empty() {
        batches.push(batch);
    }
    batches
}

fn event(number: usize, profiles: usize, schema: &Schema, random: &mut Rng) -> Value {
    let busy = (profiles / 5).max(1);
    let person = if random.u32(0..100) < 80 { random.usize(0..busy) } else { random.usize(0..profiles) };
    let device = random.usize(0..2);
    let sku = random.u32(0..5_000);
    let (kind, name, properties, traits, known) = match random.u32(0..100) {
        0..5 => (
            "track",
            Some("Order Completed"),
            Some(format!(
                r#"{{"order_id":"o{number}","total":{}.{:02},"currency":"EUR","products":[{{"sku":"sku{sku}","price":{}.5,"quantity":1}}]}}"#,
                random.u32(5..400),
                random.u32(0..100),
                random.u32(5..400)
            )),
            None,
            true,
        ),
        5..10 => {
            ("identify", None, None, Some(format!(r#"{{"email":"user{person}@shop.example","plan":"basic"}}"#)), true)
        }
        10..35 => (
            "track",
            Some("Page Viewed"),
            Some(format!(r#"{{"path":"/p/{sku}","title":"Product {sku}"}}"#)),
            None,
            false,
        ),
        35..45 => ("track", Some("Product Added"), Some(format!(r#"{{"sku":"sku{sku}","quantity":1}}"#)), None, false),
        _ => (
            "track",
            Some("Product Viewed"),
            Some(format!(r#"{{"sku":"sku{sku}","price":{}.9,"category":"c{}"}}"#, random.u32(1..300), sku % 40)),
            None,
            random.bool(),
        ),
    };
    let text = |value: Option<String>| value.map_or(Value::Null, Value::String);
    let values: Vec<(&str, Value)> = vec![
        ("message_id", Value::String(format!("m-{number:012}"))),
        ("type", Value::String(kind.to_string())),
        ("event", text(name.map(str::to_string))),
        ("user_id", text(known.then(|| format!("u{person}")))),
        ("anonymous_id", Value::String(format!("a-{person:08}-{device}"))),
        ("timestamp", Value::TimestampMicros(1_772_000_000_000_000 + number as i64 * 1_000)),
        ("properties", text(properties)),
        ("traits", text(traits)),
        (
            "context",
            Value::String(r#"{"ip":"203.0.113.9","locale":"en","page":{"path":"/","referrer":""}}"#.to_string()),
        ),
    ];
    let Schema::Record(record) = schema else { panic!("the envelope is a record") };
    // Every field of the schema: the value above where there is one, else null or an empty map.
    let fields = record.fields.iter().map(|field| {
        let given = values.iter().find(|(name, _)| *name == field.name).map(|(_, value)| value.clone());
        let value = match (&field.schema, given) {
            (Schema::Union(union), given) => {
                let given = given.unwrap_or(Value::Null);
                let null = union.variants().iter().position(|schema| *schema == Schema::Null).unwrap_or(0);
                let other = union.variants().iter().position(|schema| *schema != Schema::Null).unwrap_or(0);
                let index = if given == Value::Null { null } else { other };
                Value::Union(index as u32, Box::new(given))
            }
            (Schema::Map(_), _) => Value::Map(Default::default()),
            (_, Some(value)) => value,
            (schema, None) => panic!("no value for {}: {schema:?}", field.name),
        };
        (field.name.clone(), value)
    });
    Value::Record(fields.collect())
}
