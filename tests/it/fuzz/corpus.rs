//! Makes the corpus of `fuzz/` anew, of what ships with the repository; files of regressions are left as they are.
//!
//! `cargo test --test it fuzz::corpus -- --ignored`

use std::io::Write;

use fastrand::Rng;
use tributary::decode::framing::{push_confluent, push_single_object};
use tributary::decode::registry::fingerprint;
use tributary::decode::schema::{Node, NodeId, Schema};
use tributary::definition::{self, Mode};
use tributary::engine::{FillRecord, ListEdit, StoredReject};
use tributary::event::{Position, ProfileId, Reject};
use tributary::identity::Correction;
use tributary::state::filter::SeenFilter;
use tributary::state::{codec, keys};

use super::targets::{framing, stored};
use crate::expressions::EQUAL;
use crate::support::{block_on, root};
use crate::world::{TINY, World};

fn keep(target: &str, name: &str, data: &[u8]) {
    let folder = root().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), data).unwrap();
}

fn push_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Appends a sound datum.
fn push_datum(schema: &Schema, id: NodeId, depth: usize, random: &mut Rng, out: &mut Vec<u8>) {
    let texts = ["", "a", "sku-1", "Grüße 🎉", "a text that is somewhat longer than the others"];
    match schema.node(id) {
        Node::Null => {}
        Node::Boolean => out.push(random.u8(0..2)),
        Node::Int(_) => push_long(i64::from([0, 1, -1, i32::MAX, i32::MIN, random.i32(..)][random.usize(0..6)]), out),
        Node::Long(_) => {
            push_long([0, -64, i64::MAX, i64::MIN, 1_772_000_000_000, random.i64(..)][random.usize(0..6)], out)
        }
        Node::Float => out.extend_from_slice(&random.f32().to_le_bytes()),
        Node::Double => out.extend_from_slice(&[1.5, f64::NAN, -0.0, random.f64()][random.usize(0..4)].to_le_bytes()),
        Node::Bytes(_) => push_bytes(&vec![random.u8(..); random.usize(1..9)], out),
        Node::String => push_bytes(texts[random.usize(0..5)].as_bytes(), out),
        Node::Fixed { size, .. } => out.extend((0..*size).map(|_| random.u8(..))),
        Node::Enum { symbols, .. } => push_long(random.usize(0..symbols.len()) as i64, out),
        Node::Array(element) => push_blocks(schema, *element, false, depth, random, out),
        Node::Map(element) => push_blocks(schema, *element, true, depth, random, out),
        Node::Union(branches) => {
            let branch = if depth > 4 { 0 } else { random.usize(0..branches.len()) };
            push_long(branch as i64, out);
            push_datum(schema, branches[branch], depth + 1, random, out);
        }
        Node::Record { fields, .. } => {
            fields.iter().for_each(|field| push_datum(schema, field.node, depth + 1, random, out));
        }
    }
}

fn push_blocks(schema: &Schema, element: NodeId, keyed: bool, depth: usize, random: &mut Rng, out: &mut Vec<u8>) {
    for _ in 0..if depth > 4 { 0 } else { random.usize(0..3) } {
        let count = random.usize(1..4);
        let mut block = Vec::new();
        for item in 0..count {
            if keyed {
                push_bytes(format!("k{item}").as_bytes(), &mut block);
            }
            push_datum(schema, element, depth + 1, random, &mut block);
        }
        // Either form of a block: with its size in bytes or without.
        if random.bool() {
            push_long(-(count as i64), out);
            push_long(block.len() as i64, out);
        } else {
            push_long(count as i64, out);
        }
        out.extend(block);
    }
    push_long(0, out);
}

#[test]
#[ignore = "writes into the repository"]
fn make_avro() {
    let mut random = Rng::with_seed(1);
    let pairs: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../../fuzz/targets/schemas.json")).unwrap();
    for (index, pair) in pairs.iter().enumerate() {
        let schema = Schema::parse(&pair["writer"].to_string()).unwrap();
        let name = pair["writer"]["name"].as_str().unwrap().to_lowercase();
        for number in 0..4 {
            let mut data = vec![index as u8];
            push_datum(&schema, schema.root, 0, &mut random, &mut data);
            keep("avro", &format!("{name}-{number}"), &data);
        }
    }
}

#[test]
#[ignore = "writes into the repository"]
fn make_framing() {
    let schema = Schema::parse(framing::WRITER).unwrap();
    let mut random = Rng::with_seed(2);
    let datum = |random: &mut Rng| {
        let mut datum = Vec::new();
        push_datum(&schema, schema.root, 0, random, &mut datum);
        datum
    };
    let (mut confluent, mut single) = (Vec::new(), Vec::new());
    push_confluent(7, &datum(&mut random), &mut confluent);
    push_single_object(fingerprint(framing::WRITER).unwrap(), &datum(&mut random), &mut single);
    keep("framing", "confluent", &confluent);
    keep("framing", "single-object", &single);
    keep("framing", "bare", &datum(&mut random));
    keep("framing", "frame-alone", &single[..10]);
    keep("framing", "tombstone", b"");

    let deflated = |bytes: &[u8]| {
        let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    let snapped = |bytes: &[u8]| {
        let mut packed = snap::raw::Encoder::new().compress_vec(bytes).unwrap();
        packed.extend(crc32fast::hash(bytes).to_be_bytes());
        packed
    };
    let codecs: [(&str, &dyn Fn(&[u8]) -> Vec<u8>); 4] = [
        ("null", &<[u8]>::to_vec),
        ("deflate", &deflated),
        ("snappy", &snapped),
        ("zstandard", &|bytes| zstd::bulk::compress(bytes, 1).unwrap()),
    ];
    for (codec, pack) in codecs {
        let mut file = b"Obj\x01".to_vec();
        push_long(2, &mut file);
        push_bytes(b"avro.schema", &mut file);
        push_bytes(framing::WRITER.as_bytes(), &mut file);
        push_bytes(b"avro.codec", &mut file);
        push_bytes(codec.as_bytes(), &mut file);
        push_long(0, &mut file);
        file.extend_from_slice(b"0123456789abcdef");
        for rows in [3, 1] {
            let block = pack(&(0..rows).flat_map(|_| datum(&mut random)).collect::<Vec<u8>>());
            push_long(rows, &mut file);
            push_bytes(&block, &mut file);
            file.extend_from_slice(b"0123456789abcdef");
        }
        keep("container", codec, &file);
    }
}

#[test]
#[ignore = "writes into the repository"]
fn make_texts() {
    for folder in ["cdnow", "identity", "sessions", "shop", "traits"] {
        for file in std::fs::read_dir(root().join("pipelines").join(folder)).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|ending| ending == "yaml") {
                let name = format!("{folder}-{}", file.file_name().unwrap().to_string_lossy());
                keep("definitions", &name, &std::fs::read(&file).unwrap());
            }
        }
    }
    for (index, sql) in EQUAL.iter().enumerate().filter(|(index, _)| index % 6 == 0) {
        keep("expressions", &format!("{index:03}"), sql.as_bytes());
    }
    keep("expressions", "with-a-row", b"l + d * 2 > 7 OR t LIKE 'a%'\0\x01\x02\x03\x04\x05\x06\x07\x08abcdefgh");
    let events = std::fs::read_to_string(root().join("pipelines/shop/data/events.ndjson")).unwrap();
    let events: Vec<&str> = events.lines().collect();
    for (index, lines) in events.chunks(2).enumerate() {
        keep("json", &format!("shop-{index}"), lines.join("\n").as_bytes());
    }
    let files: [(&str, u8, &[u8]); 6] = [
        ("ndjson", 0, b"{\"a\":1}\r\n\n{\"b\":2}\n{\"c\":3}"),
        ("catalogue", 1, &std::fs::read(root().join("pipelines/shop/data/catalogue.csv")).unwrap()),
        ("typed", 1, b"sku,count,price,on,at,more\nA,1,2.5,true,2026-01-01T00:00:00Z,\"{\"\"x\"\":[1]}\"\n,,,,,\nB,-7,1e3,0,1772000000000,null\n"),
        ("quoted", 1, b"\xef\xbb\xbfsku,count\r\n\"a \"\"b\"\", c\",1\r\n\"two\nlines\",2\r\n"),
        ("semicolons", 2, b"sku;count;price\n\"a;b\";1;2,5\nshort\nlong;1;2;3;4"),
        ("twice", 1, b"sku,sku,,count\n1,2,3,4\n"),
    ];
    for (name, format, text) in files {
        keep("rows", name, &[&[format], text].concat());
    }
}

/// What the engine stores of made-up events of people and groups; some of each kind.
#[test]
#[ignore = "writes into the repository"]
fn make_stored() {
    let kind_of = |tag: u8| -> Option<&str> {
        Some(match tag {
            b'e' => "engine",
            b's' => "position",
            b'i' | b'x' => "number",
            b'c' => "component",
            b'p' => "profile",
            b'q' => "delivery",
            b'n' => "correction",
            _ => return None,
        })
    };
    let place = |kind: &str| stored::KINDS.iter().position(|known| *known == kind).unwrap() as u8;
    let mut counts = std::collections::BTreeMap::new();
    let mut random = Rng::with_seed(3);
    let folders = [
        root().join("pipelines/shop"),
        root().join("pipelines/traits/funnels.yaml"),
        root().join("pipelines/traits/windows.yaml"),
        root().join("pipelines/traits/values.yaml"),
    ];
    for folder in folders {
        let Ok((pipeline, _)) = definition::load(&folder, Mode::Check) else { panic!("{}", folder.display()) };
        let source = pipeline.sources[0].name().to_string();
        let mut world = World::of(pipeline, TINY);
        let events = std::fs::read_to_string(root().join("pipelines/shop/data/events.ndjson")).unwrap();
        let payloads = events.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        world.apply_json(
            &source,
            payloads.enumerate().map(|(at, line)| (1_772_000_000_000_000 + at as i64, line.to_string())),
        );
        let mut dedupe = Vec::new();
        let store = world.store.clone();
        let entries = block_on(async move { tributary::state::scan_all(&*store, &[0]).await.unwrap() });
        for (key, value) in entries {
            if key[1] == b'd' {
                dedupe.extend([key[2] % 4, 0, 0]);
                dedupe.extend((value.len() as u16).to_le_bytes());
                dedupe.extend_from_slice(&value);
            }
            let Some(kind) = kind_of(key[1]) else { continue };
            let count = counts.entry((kind, folder.clone())).or_insert(0);
            *count += 1;
            if *count > 4 {
                continue;
            }
            let mut data = vec![place(kind)];
            if kind == "component" {
                data.extend((value.len() as u16).to_le_bytes());
            }
            data.extend_from_slice(&value);
            let name = folder.file_stem().unwrap().to_string_lossy().into_owned();
            keep("stored", &format!("{kind}-{name}-{count}"), &data);
        }
        if !dedupe.is_empty() {
            keep(
                "stored",
                &format!("dedupe-{}", folder.file_stem().unwrap().to_string_lossy()),
                &[&[place("dedupe")], &dedupe[..]].concat(),
            );
        }
    }
    let mut filter = SeenFilter::with_keys(8, 0.01);
    (0..8).for_each(|_| filter.insert(random.u128(..)));
    keep("stored", "filter", &[&[place("filter")], &filter.to_bytes()[..]].concat());
    let edit = ListEdit { added: true, identifier_type: "email".to_string(), value: "ann@shop.example".to_string() };
    keep("stored", "edit", &[&[place("edit")], &codec::encode(ListEdit::VERSION, &edit)[..]].concat());
    let strike = Correction::Strike { source: "site".into(), message_id: "m1".into() };
    keep("stored", "correction", &[&[place("correction")], &codec::encode(Correction::VERSION, &strike)[..]].concat());
    keep(
        "stored",
        "fill",
        &[&[place("fill")], &codec::encode(FillRecord::VERSION, &FillRecord::default())[..]].concat(),
    );
    let reject = Reject {
        position: Position { source: "site".into(), topic: "events".into(), partition: 0, offset: 7 },
        timestamp: 1_772_000_000_000_000,
        code: "bad_magic".to_string(),
        reason: "the first byte is 0x7b".to_string(),
        byte_offset: Some(0),
        payload: b"{}".to_vec(),
    };
    let reject = StoredReject { number: 1, reject, attempts: 0 };
    keep("stored", "reject", &[&[place("reject")], &codec::encode(StoredReject::VERSION, &reject)[..]].concat());
    for key in
        [keys::timer(1_772_000_000_000_000, 7), keys::position("site", "events", 3), keys::alias(ProfileId([7; 16]))]
    {
        keep("stored", &format!("key-{}", char::from(key[1])), &[&[place("keys")], &key[..]].concat());
    }
}
