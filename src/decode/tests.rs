use std::collections::HashMap;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as V;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::array::AsArray;
use proptest::prelude::*;
use serde_json::json;

use super::*;

#[path = "../../fuzz/targets/cells.rs"]
mod cells;
use cells::{cell, row, written};

fn plan(framing: Framing, schemas: SchemaOrigin, reader: Option<&str>) -> DecodePlan {
    DecodePlan { source: "test".into(), format: Format::Avro { framing, schemas, reader: reader.map(str::to_owned) } }
}

fn open(plan: &DecodePlan) -> Decoder {
    Decoder::new(plan, Arc::new(Schemas::open(plan, None).unwrap())).unwrap()
}

fn bare(writer: &str, reader: Option<&str>) -> Result<Decoder, DecodeError> {
    let plan = plan(Framing::Bare, SchemaOrigin::Fixed(writer.to_owned()), reader);
    Decoder::new(&plan, Arc::new(Schemas::open(&plan, None).unwrap()))
}

fn raw<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> RawBatch {
    let mut raw = RawBatch::new("test".into());
    let topic: Arc<str> = "events".into();
    for (offset, payload) in payloads.into_iter().enumerate() {
        raw.push(&topic, 0, offset as i64, 1_700_000_000_000_000, payload);
    }
    raw
}

fn encode(schema: &str, value: V) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(schema).unwrap();
    GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap()
}

fn record(fields: Vec<(&str, V)>) -> V {
    V::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn some(value: V) -> V {
    V::Union(1, Box::new(value))
}

/// A type to generate schemas and values of.
#[derive(Debug, Clone)]
enum Ty {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(usize),
    /// Underlying type and logical type.
    Logical(&'static str, &'static str),
    Decimal,
    Nullable(Box<Ty>, bool),
    Array(Box<Ty>),
    Map(Box<Ty>),
    Record(Vec<Ty>),
}

const LOGICALS: [(&str, &str); 9] = [
    ("int", "date"),
    ("int", "time-millis"),
    ("long", "time-micros"),
    ("long", "timestamp-millis"),
    ("long", "timestamp-micros"),
    ("long", "timestamp-nanos"),
    ("long", "local-timestamp-millis"),
    ("long", "local-timestamp-micros"),
    ("long", "local-timestamp-nanos"),
];

fn types() -> impl Strategy<Value = Ty> {
    let leaf = prop_oneof![
        Just(Ty::Boolean),
        Just(Ty::Int),
        Just(Ty::Long),
        Just(Ty::Float),
        Just(Ty::Double),
        Just(Ty::Bytes),
        Just(Ty::String),
        (1usize..20).prop_map(Ty::Fixed),
        (1usize..80).prop_map(Ty::Enum),
        prop::sample::select(LOGICALS.to_vec()).prop_map(|(of, logical)| Ty::Logical(of, logical)),
        Just(Ty::Decimal),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (inner.clone().prop_filter("no union in a union", |ty| !matches!(ty, Ty::Nullable(..))), any::<bool>())
                .prop_map(|(ty, null_first)| Ty::Nullable(Box::new(ty), null_first)),
            inner.clone().prop_map(|ty| Ty::Array(Box::new(ty))),
            inner.clone().prop_map(|ty| Ty::Map(Box::new(ty))),
            prop::collection::vec(inner, 1..4).prop_map(Ty::Record),
        ]
    })
}

fn schema_of(ty: &Ty, names: &mut usize) -> serde_json::Value {
    let mut name = || {
        *names += 1;
        format!("T{names}")
    };
    match ty {
        Ty::Boolean => json!("boolean"),
        Ty::Int => json!("int"),
        Ty::Long => json!("long"),
        Ty::Float => json!("float"),
        Ty::Double => json!("double"),
        Ty::Bytes => json!("bytes"),
        Ty::String => json!("string"),
        Ty::Fixed(size) => json!({ "type": "fixed", "name": name(), "size": size }),
        Ty::Enum(count) => {
            let symbols: Vec<String> = (0..*count).map(|symbol| format!("S{symbol}")).collect();
            json!({ "type": "enum", "name": name(), "symbols": symbols })
        }
        Ty::Logical(of, logical) => json!({ "type": of, "logicalType": logical }),
        Ty::Decimal => json!({ "type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4 }),
        Ty::Nullable(ty, true) => json!(["null", schema_of(ty, names)]),
        Ty::Nullable(ty, false) => json!([schema_of(ty, names), "null"]),
        Ty::Array(ty) => json!({ "type": "array", "items": schema_of(ty, names) }),
        Ty::Map(ty) => json!({ "type": "map", "values": schema_of(ty, names) }),
        Ty::Record(fields) => {
            let name = name();
            let fields = fields.iter().enumerate();
            let fields = fields.map(|(index, ty)| json!({ "name": format!("f{index}"), "type": schema_of(ty, names) }));
            json!({ "type": "record", "name": name, "fields": fields.collect::<Vec<_>>() })
        }
    }
}

fn values(ty: &Ty) -> BoxedStrategy<V> {
    match ty {
        Ty::Boolean => any::<bool>().prop_map(V::Boolean).boxed(),
        Ty::Int => any::<i32>().prop_map(V::Int).boxed(),
        Ty::Long => any::<i64>().prop_map(V::Long).boxed(),
        Ty::Float => any::<f32>().prop_map(V::Float).boxed(),
        Ty::Double => any::<f64>().prop_map(V::Double).boxed(),
        Ty::Bytes => prop::collection::vec(any::<u8>(), 0..100).prop_map(V::Bytes).boxed(),
        Ty::String => prop_oneof!["[ -~]{0,100}", "\\PC{0,20}"].prop_map(V::String).boxed(),
        Ty::Fixed(size) => {
            let size = *size;
            prop::collection::vec(any::<u8>(), size).prop_map(move |bytes| V::Fixed(size, bytes)).boxed()
        }
        Ty::Enum(count) => (0..*count).prop_map(|index| V::Enum(index as u32, format!("S{index}"))).boxed(),
        Ty::Logical("int", "date") => any::<i32>().prop_map(V::Date).boxed(),
        Ty::Logical("int", _) => any::<i32>().prop_map(V::TimeMillis).boxed(),
        Ty::Logical(_, logical) => {
            let make: fn(i64) -> V = match *logical {
                "time-micros" => V::TimeMicros,
                "timestamp-millis" => V::TimestampMillis,
                "timestamp-micros" => V::TimestampMicros,
                "timestamp-nanos" => V::TimestampNanos,
                "local-timestamp-millis" => V::LocalTimestampMillis,
                "local-timestamp-micros" => V::LocalTimestampMicros,
                _ => V::LocalTimestampNanos,
            };
            any::<i64>().prop_map(make).boxed()
        }
        Ty::Decimal => {
            let value = any::<i64>().prop_map(|value| V::Decimal(value.to_be_bytes().to_vec().into()));
            value.boxed()
        }
        Ty::Nullable(ty, null_first) => {
            let (null, other) = if *null_first { (0, 1) } else { (1, 0) };
            prop_oneof![
                Just(V::Union(null, Box::new(V::Null))),
                values(ty).prop_map(move |value| V::Union(other, Box::new(value))),
            ]
            .boxed()
        }
        Ty::Array(ty) => prop::collection::vec(values(ty), 0..5).prop_map(V::Array).boxed(),
        Ty::Map(ty) => prop::collection::hash_map("[a-z]{0,5}", values(ty), 0..4).prop_map(V::Map).boxed(),
        Ty::Record(fields) => fields
            .iter()
            .enumerate()
            .map(|(index, ty)| values(ty).prop_map(move |value| (format!("f{index}"), value)))
            .collect::<Vec<_>>()
            .prop_map(V::Record)
            .boxed(),
    }
}

/// A record schema with some values of it.
fn schemas_and_values() -> impl Strategy<Value = (String, Vec<V>)> {
    prop::collection::vec(types(), 1..6).prop_flat_map(|fields| {
        let ty = Ty::Record(fields);
        let schema = schema_of(&ty, &mut 0).to_string();
        (Just(schema), prop::collection::vec(values(&ty), 1..6))
    })
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip { at: prop::sample::Index, bits: u8 },
    Truncate { at: prop::sample::Index },
    Extend { bytes: Vec<u8> },
    Insert { at: prop::sample::Index, byte: u8 },
}

fn mutations() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, bits)| Mutation::Flip { at, bits }),
        2 => any::<prop::sample::Index>().prop_map(|at| Mutation::Truncate { at }),
        1 => prop::collection::vec(any::<u8>(), 1..4).prop_map(|bytes| Mutation::Extend { bytes }),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert { at, byte }),
    ]
}

fn mutate(datum: &mut Vec<u8>, mutation: &Mutation) {
    match mutation {
        Mutation::Flip { at, bits } if !datum.is_empty() => {
            let at = at.index(datum.len());
            datum[at] ^= bits;
        }
        Mutation::Truncate { at } if !datum.is_empty() => datum.truncate(at.index(datum.len())),
        Mutation::Extend { bytes } => datum.extend_from_slice(bytes),
        Mutation::Insert { at, byte } => datum.insert(at.index(datum.len() + 1), *byte),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_apache_avro_writes_is_read_with_equal_values((schema, values) in schemas_and_values()) {
        let datums: Vec<Vec<u8>> = values.iter().map(|value| encode(&schema, value.clone())).collect();
        let mut decoder = bare(&schema, Some(&schema)).unwrap();
        let decoded = decoder.decode(&raw(datums.iter().map(Vec::as_slice)));
        prop_assert_eq!(&decoded.rejects, &vec![]);
        prop_assert_eq!(decoded.columns.schema(), decoder.schema());
        prop_assert_eq!(decoded.columns.num_rows(), values.len());
        for (index, value) in values.iter().enumerate() {
            prop_assert_eq!(row(&decoded.columns, index), written(value));
        }
    }

    #[test]
    fn mutated_bytes_are_accepted_only_where_apache_avro_accepts_them(
        (schema, values) in schemas_and_values(),
        mutations in prop::collection::vec(prop::collection::vec(mutations(), 0..3), 6),
    ) {
        let oracle = apache_avro::Schema::parse_str(&schema).unwrap();
        let oracle = GenericDatumReader::builder(&oracle).build().unwrap();
        let mut datums: Vec<Vec<u8>> = values.iter().map(|value| encode(&schema, value.clone())).collect();
        for (datum, mutations) in datums.iter_mut().zip(&mutations) {
            mutations.iter().for_each(|mutation| mutate(datum, mutation));
        }
        let mut decoder = bare(&schema, Some(&schema)).unwrap();
        let decoded = decoder.decode(&raw(datums.iter().map(Vec::as_slice)));
        prop_assert_eq!(decoded.records.len() + decoded.rejects.len(), datums.len());
        for (at, index) in decoded.records.iter().enumerate() {
            let datum = &datums[*index as usize];
            let mut rest = &datum[..];
            let value = oracle.read_value(&mut rest);
            prop_assert!(value.is_ok(), "accepted {datum:02x?}, which the oracle refuses: {value:?}");
            prop_assert!(rest.is_empty());
            prop_assert_eq!(row(&decoded.columns, at), written(&value.unwrap()));
        }
        for reject in &decoded.rejects {
            let Ok(value) = oracle.read_value(&mut &reject.payload[..]) else { continue };
            // Stricter than the oracle, by class: see the module's text. A decimal of more than 16 bytes has no column.
            let known = ["empty", "truncated", "trailing_bytes", "varint_overflow", "bad_block_size", "bad_length", "bad_value"];
            prop_assert!(known.contains(&reject.code.as_str()), "{reject:?}: the oracle reads {value:?}");
            if reject.code == "bad_value" {
                prop_assert!(schema.contains("decimal"), "{reject:?}: the oracle reads {value:?}");
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        (schema, _) in schemas_and_values(),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8),
        standard in any::<bool>(),
    ) {
        let schema = if standard { EVENT_SCHEMA } else { &schema };
        for framing in [Framing::Bare, Framing::Confluent, Framing::SingleObject] {
            let mut framed: Vec<Vec<u8>> = payloads.clone();
            for (index, payload) in framed.iter_mut().enumerate().filter(|(index, _)| index % 2 == 0) {
                let datum = std::mem::take(payload);
                match framing {
                    Framing::Bare => *payload = datum,
                    Framing::Confluent => framing::push_confluent(index as u32, &datum, payload),
                    Framing::SingleObject => {
                        framing::push_single_object(registry::fingerprint(schema).unwrap(), &datum, payload);
                    }
                }
            }
            let mut decoder = open(&plan(framing, SchemaOrigin::Fixed(schema.to_owned()), Some(schema)));
            let batch = raw(framed.iter().map(Vec::as_slice));
            decoder.unknown_schemas(&batch);
            let decoded = decoder.decode(&batch);
            prop_assert_eq!(decoded.records.len() + decoded.rejects.len(), framed.len());
            prop_assert_eq!(decoded.columns.num_rows(), decoded.records.len());
        }
    }
}

#[test]
fn a_bad_datum_has_its_code_and_byte_offset() {
    let schema = json!({ "type": "record", "name": "Bad", "fields": [
        { "name": "s", "type": "string" },
        { "name": "i", "type": "int" },
        { "name": "l", "type": "long" },
        { "name": "b", "type": "boolean" },
        { "name": "u", "type": ["null", "string"] },
        { "name": "e", "type": { "type": "enum", "name": "E", "symbols": ["A", "B"] } },
        { "name": "a", "type": { "type": "array", "items": "null" } },
        { "name": "m", "type": { "type": "map", "values": "long" } },
    ]})
    .to_string();
    let schema = Schema::parse(&schema).unwrap();
    //                          s         i  l  b  u  e  a  m
    let good: &[u8] = &[4, b'h', b'i', 2, 4, 1, 0, 2, 0, 0];
    assert_eq!(walk::walk(&schema, good), Ok(()));
    let check = |datum: &[u8], expect: (&str, usize), names: &str| {
        let fault = walk::walk(&schema, datum).unwrap_err();
        assert_eq!((fault.code, fault.offset), expect, "{datum:02x?}: {}", fault.reason);
        assert!(fault.reason.contains(names), "{}", fault.reason);
    };
    check(&[], ("truncated", 0), "`s`");
    check(&[4, b'h'], ("truncated", 0), "`s`: a string of 2 bytes, but 1 are left");
    check(&good[..9], ("truncated", 9), "`m`");
    check(&[good, &[7]].concat(), ("trailing_bytes", 10), "1 more");
    check(&[1], ("bad_length", 0), "a string of -1 bytes");
    check(&[0xfe, 0xff, 0xff, 0xff, 0x0f, b'x'], ("truncated", 0), "`s`");
    check(&[4, b'h', 0xff], ("bad_utf8", 2), "`s`");
    check(&[&[80u8][..], &[b'x'; 38], &[0xc3, 0x28]].concat(), ("bad_utf8", 39), "`s`");
    check(&[0, 0xff, 0xff, 0xff, 0xff, 0x10], ("varint_overflow", 1), "`i`");
    check(&[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0], ("varint_overflow", 1), "`i`");
    check(&[&[0, 0][..], &[0xff; 9], &[2]].concat(), ("varint_overflow", 2), "`l`");
    check(&[0, 0, 0, 2], ("bad_boolean", 3), "`b`");
    check(&[0, 0, 0, 1, 4], ("bad_union_index", 4), "`u`: union index 2, but the union has 2 branches");
    check(&[0, 0, 0, 1, 1], ("bad_union_index", 4), "union index -1");
    check(&[0, 0, 0, 1, 0, 4], ("bad_enum_index", 5), "`e`");
    check(&[0, 0, 0, 1, 0, 1], ("bad_enum_index", 5), "`e`");
    // A billion nulls in an array; then the same as a negative count, whose size of 0 bytes is no lie.
    check(&[0, 0, 0, 1, 0, 0, 0x80, 0xa8, 0xd6, 0xb9, 0x07], ("too_many_elements", 11), "`a`");
    check(&[0, 0, 0, 1, 0, 0, 0xff, 0xa7, 0xd6, 0xb9, 0x07, 0], ("too_many_elements", 12), "`a`");
    // i64::MIN entries of a map.
    let least = [&[0, 0, 0, 1, 0, 0, 0][..], &[0xff; 9], &[1, 0]].concat();
    check(&least, ("truncated", 18), "`m`");
    check(&[0, 0, 0, 1, 0, 0, 0, 1, 6, 2, b'k'], ("truncated", 8), "a block of 3 bytes, but 2 are left");
    check(&[0, 0, 0, 1, 0, 0, 0, 1, 4, 2, b'k', 6, 0], ("bad_block_size", 8), "declares 2 bytes and has 3");
    check(&[0, 0, 0, 1, 0, 0, 0, 1, 3, 2, b'k', 6, 0], ("bad_length", 8), "a block of -2 bytes");
    assert_eq!(walk::walk(&schema, &[0, 0, 0, 1, 0, 0, 0, 1, 6, 2, b'k', 6, 0]), Ok(()));
}

#[test]
fn recursion_is_walked_to_a_depth_and_has_no_columns() {
    let list = json!({ "type": "record", "name": "List", "fields": [
        { "name": "next", "type": ["null", "List"], "default": null },
    ]})
    .to_string();
    let schema = Schema::parse(&list).unwrap();
    let nested = |levels: usize| [vec![2; levels - 1], vec![0]].concat();
    assert_eq!(walk::walk(&schema, &nested(64)), Ok(()));
    let fault = walk::walk(&schema, &nested(65)).unwrap_err();
    assert_eq!((fault.code, fault.offset), ("too_deep", 64));
    assert_eq!(walk::walk(&schema, &nested(1_000_000)).unwrap_err().code, "too_deep");

    let error = bare(&list, Some(&list)).err().unwrap().to_string();
    assert!(error.contains("recursive"), "{error}");
    // A recursive writer under a reader that leaves the recursion out.
    let error = bare(&list, None).err().unwrap().to_string();
    assert!(error.contains("recursive"), "{error}");
}

/// Writer's fields, value, reader's fields → the row as [`cell`] writes it, or a part of the error.
#[test]
fn schemas_evolve_by_avros_rules() {
    let check = |writer: serde_json::Value, value: V, reader: serde_json::Value, expect: Result<&str, &str>| {
        let schema = |name: &str, fields: &serde_json::Value| {
            json!({ "type": "record", "name": name, "fields": fields }).to_string()
        };
        let (writer, reader) = (schema("Written", &writer), schema("Read", &reader));
        let datum = encode(&writer, value);
        // Fixed schemas are compared at load, those of a registry at the first record: both must say the same.
        let at_load = bare(&writer, Some(&reader)).err().map(|error| error.to_string());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w-1.avsc"), &writer).unwrap();
        let mut decoder = open(&plan(Framing::Confluent, SchemaOrigin::Folder(folder.path().into()), Some(&reader)));
        let mut framed = Vec::new();
        framing::push_confluent(1, &datum, &mut framed);
        let decoded = decoder.decode(&raw([&framed[..]]));
        let got = match decoded.rejects.first() {
            Some(reject) => Err(format!("{}: {}", reject.code, reject.reason)),
            None => Ok(row(&decoded.columns, 0)),
        };
        match (&got, expect) {
            (Ok(row), Ok(expect)) => assert_eq!(row, expect),
            (Err(error), Err(expect)) => assert!(error.contains(expect), "{error}"),
            _ => panic!("{writer} as {reader}: {got:?}, expected {expect:?}"),
        }
        assert_eq!(at_load.is_some(), got.is_err_and(|error| error.starts_with("schema_mismatch")), "{at_load:?}");
    };
    let text = |text: &str| V::String(text.to_owned());
    let a = |ty: serde_json::Value| json!([{ "name": "a", "type": ty }]);
    let long = |logical: &str| json!({ "type": "long", "logicalType": logical });
    let one = |value: V| record(vec![("a", value)]);

    // Added with a default, removed, reordered, renamed by alias.
    let ab = json!([{ "name": "a", "type": "string" }, { "name": "b", "type": "int", "default": 7 }]);
    check(a(json!("string")), one(text("x")), ab.clone(), Ok("(\"x\",7)"));
    check(ab.clone(), record(vec![("a", text("x")), ("b", V::Int(1))]), a(json!("string")), Ok("(\"x\")"));
    let ba = json!([{ "name": "b", "type": "int" }, { "name": "a", "type": "string" }]);
    check(ab.clone(), record(vec![("a", text("x")), ("b", V::Int(1))]), ba, Ok("(1,\"x\")"));
    let renamed = json!([{ "name": "z", "aliases": ["a"], "type": "string" }]);
    check(a(json!("string")), one(text("x")), renamed, Ok("(\"x\")"));
    let required = json!([{ "name": "a", "type": "string" }, { "name": "c", "type": "string" }]);
    check(a(json!("string")), one(text("x")), required, Err("schema_mismatch: schema id 1: `c`: the writer does not"));
    let null_default =
        json!([{ "name": "a", "type": "string" }, { "name": "c", "type": ["null", "string"], "default": null }]);
    check(a(json!("string")), one(text("x")), null_default, Ok("(\"x\",null)"));
    let text_default =
        json!([{ "name": "a", "type": "string" }, { "name": "c", "type": ["string", "null"], "default": "d" }]);
    check(a(json!("string")), one(text("x")), text_default, Ok("(\"x\",\"d\")"));
    let big_default = json!([{ "name": "a", "type": "string" }, { "name": "c", "default": [{ "k": 1 }],
        "type": { "type": "array", "items": { "type": "record", "name": "K", "fields": [{ "name": "k", "type": "long" }] } } }]);
    check(a(json!("string")), one(text("x")), big_default, Ok("(\"x\",[(1)])"));

    // Promotions.
    check(a(json!("int")), one(V::Int(-3)), a(json!("long")), Ok("(-3)"));
    check(a(json!("int")), one(V::Int(-3)), a(json!("double")), Ok("(c008000000000000)"));
    check(a(json!("long")), one(V::Long(3)), a(json!("double")), Ok("(4008000000000000)"));
    check(a(json!("float")), one(V::Float(3.0)), a(json!("double")), Ok("(4008000000000000)"));
    check(a(json!("string")), one(text("x")), a(json!("bytes")), Ok("([78])"));
    check(a(json!("bytes")), one(V::Bytes(b"x".to_vec())), a(json!("string")), Ok("(\"x\")"));
    check(a(json!("bytes")), one(V::Bytes(vec![0xff])), a(json!("string")), Err("bad_value"));
    check(a(json!("int")), one(V::Int(3)), a(json!(["null", "double"])), Ok("(4008000000000000)"));
    check(a(json!(["null", "int"])), one(some(V::Int(3))), a(json!(["double", "null"])), Ok("(4008000000000000)"));
    check(
        a(json!("long")),
        one(V::Long(3)),
        a(json!("int")),
        Err("schema_mismatch: schema id 1: `a`: the writer has long"),
    );
    check(a(json!("string")), one(text("3")), a(json!("long")), Err("schema_mismatch"));

    // Unions.
    check(a(json!("string")), one(text("x")), a(json!(["null", "string"])), Ok("(\"x\")"));
    check(a(json!(["null", "string"])), one(some(text("x"))), a(json!("string")), Ok("(\"x\")"));
    check(a(json!(["null", "string"])), one(V::Union(0, Box::new(V::Null))), a(json!("string")), Err("bad_value"));
    check(
        a(json!(["string", "null"])),
        one(V::Union(0, Box::new(text("x")))),
        a(json!(["null", "string"])),
        Ok("(\"x\")"),
    );
    let three = json!(["null", "long", "string"]);
    check(a(three.clone()), one(V::Union(2, Box::new(text("x")))), a(json!(["null", "string"])), Ok("(\"x\")"));
    check(a(three.clone()), one(V::Union(0, Box::new(V::Null))), a(json!(["null", "string"])), Ok("(null)"));
    check(a(three.clone()), one(V::Union(1, Box::new(V::Long(1)))), a(json!(["null", "string"])), Err("bad_value"));
    check(a(three), one(V::Union(2, Box::new(text("x")))), a(json!("string")), Ok("(\"x\")"));
    let numbers = json!(["null", "int", "long"]);
    check(a(numbers.clone()), one(V::Union(1, Box::new(V::Int(5)))), a(json!(["null", "long"])), Ok("(5)"));
    check(a(numbers), one(V::Union(2, Box::new(V::Long(5)))), a(json!(["null", "double"])), Ok("(4014000000000000)"));
    check(a(json!("null")), one(V::Null), a(json!(["null", "string"])), Ok("(null)"));
    check(a(json!("null")), one(V::Null), a(json!("string")), Err("schema_mismatch"));
    check(a(json!(["string"])), one(V::Union(0, Box::new(text("x")))), a(json!("string")), Ok("(\"x\")"));

    // Enums.
    let letters = |symbols: &[&str], default: Option<&str>| {
        let mut letters = json!({ "type": "enum", "name": "Letter", "symbols": symbols });
        if let Some(default) = default {
            letters["default"] = json!(default);
        }
        letters
    };
    let b = || one(V::Enum(1, "B".to_owned()));
    check(a(letters(&["A", "B"], None)), b(), a(letters(&["B", "A"], None)), Ok("(\"B\")"));
    check(a(letters(&["A", "B"], None)), b(), a(letters(&["A"], None)), Err("bad_value"));
    check(a(letters(&["A", "B"], None)), b(), a(letters(&["A", "X"], Some("X"))), Ok("(\"X\")"));
    check(a(letters(&["A", "B"], None)), b(), a(json!("string")), Ok("(\"B\")"));
    check(a(letters(&["A", "B"], None)), b(), a(json!(["null", "string"])), Ok("(\"B\")"));

    // Units are the writer's; the columns are microseconds.
    let micros = || a(long("timestamp-micros"));
    check(a(long("timestamp-millis")), one(V::TimestampMillis(5)), micros(), Ok("(5000)"));
    check(a(long("timestamp-nanos")), one(V::TimestampNanos(5_999)), micros(), Ok("(5)"));
    check(a(long("local-timestamp-millis")), one(V::LocalTimestampMillis(5)), micros(), Ok("(5000)"));
    check(micros(), one(V::TimestampMicros(5)), a(long("timestamp-millis")), Ok("(5)"));
    check(
        a(json!(["null", long("timestamp-millis")])),
        one(some(V::TimestampMillis(5))),
        a(json!(["null", long("timestamp-micros")])),
        Ok("(5000)"),
    );
    let nested = |ty: serde_json::Value| a(json!({ "type": "array", "items": { "type": "map", "values": ty } }));
    let value = V::Array(vec![V::Map(HashMap::from([("k".to_owned(), V::TimestampMillis(5))]))]);
    check(nested(long("timestamp-millis")), one(value), nested(long("timestamp-micros")), Ok("([{\"k\":5000}])"));
    check(a(long("timestamp-millis")), one(V::TimestampMillis(i64::MAX)), micros(), Ok("(9223372036854775807)"));
    check(a(json!("long")), one(V::Long(5)), micros(), Ok("(5)"));
    check(micros(), one(V::TimestampMicros(5)), a(json!("long")), Ok("(5)"));
    let int = |logical: &str| json!({ "type": "int", "logicalType": logical });
    check(a(int("date")), one(V::Date(5)), micros(), Err("schema_mismatch"));
    let two_units = a(json!(["null", int("date"), long("timestamp-millis")]));
    check(
        two_units,
        one(V::Union(1, Box::new(V::Date(5)))),
        a(json!(["null", long("timestamp-micros")])),
        Err("schema_mismatch"),
    );
    check(a(int("time-millis")), one(V::TimeMillis(5)), a(long("time-micros")), Ok("(5000)"));
    let decimal = |scale: u32| a(json!({ "type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale }));
    check(decimal(2), one(V::Decimal(vec![5].into())), decimal(2), Ok("(5)"));
    check(decimal(2), one(V::Decimal(vec![5].into())), decimal(3), Err("schema_mismatch"));

    // A named type mentioned again is compared as thoroughly as at its first mention.
    let twice = |fields: serde_json::Value| {
        let item = json!({ "type": "record", "name": "Item", "namespace": "shop", "fields": fields });
        json!([{ "name": "a", "type": item }, { "name": "b", "type": "shop.Item" }])
    };
    let item = |n: i64| record(vec![("n", V::Long(n)), ("gone", text("g"))]);
    check(
        twice(json!([{ "name": "n", "type": "long" }, { "name": "gone", "type": "string" }])),
        record(vec![("a", item(1)), ("b", item(2))]),
        twice(json!([{ "name": "new", "type": "string", "default": "d" }, { "name": "n", "type": "long" }])),
        Ok("((\"d\",1),(\"d\",2))"),
    );
}

#[test]
fn the_standard_envelope_reads_other_names_and_units_and_fewer_fields() {
    let writer = json!({ "type": "record", "name": "PageView", "namespace": "shop", "fields": [
        { "name": "messageId", "type": { "type": "string", "logicalType": "uuid" } },
        { "name": "type", "type": { "type": "enum", "name": "Kind", "symbols": ["page", "track"] } },
        { "name": "anonymousId", "type": "string" },
        { "name": "timestamp", "type": { "type": "long", "logicalType": "timestamp-millis" } },
        { "name": "receivedAt", "type": ["null", { "type": "long", "logicalType": "timestamp-nanos" }] },
        { "name": "identifiers", "type": { "type": "map", "values": "string" } },
        { "name": "properties", "type": ["null", "string"] },
        { "name": "of_no_interest", "type": { "type": "array", "items": "double" } },
    ]});
    let id = "936da01f-9abd-4d9d-80c7-02af85c822a8";
    let datum = encode(
        &writer.to_string(),
        record(vec![
            ("messageId", V::Uuid(id.parse().unwrap())),
            ("type", V::Enum(0, "page".to_owned())),
            ("anonymousId", V::String("a1".to_owned())),
            ("timestamp", V::TimestampMillis(1_767_225_600_000)),
            ("receivedAt", some(V::TimestampNanos(1_767_225_600_000_001_000))),
            ("identifiers", V::Map(HashMap::from([("email".to_owned(), V::String("a@b.c".to_owned()))]))),
            ("properties", some(V::String("{\"a\":1}".to_owned()))),
            ("of_no_interest", V::Array(vec![V::Double(1.0)])),
        ]),
    );
    let mut decoder = bare(&writer.to_string(), None).unwrap();
    let decoded = decoder.decode(&raw([&datum[..]]));
    assert_eq!(decoded.rejects, vec![]);
    assert_eq!(
        row(&decoded.columns, 0),
        format!(
            "({id:?},\"page\",null,null,\"a1\",null,null,{{\"email\":\"a@b.c\"}},1767225600000000,null,\
             1767225600000001,\"{{\\\"a\\\":1}}\",null,null)"
        )
    );
    let schema = decoder.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, crate::event::NAMES[..14]);
    for (field, envelope) in schema.fields().iter().zip(crate::event::envelope_schema().fields()) {
        assert_eq!(field.data_type(), envelope.data_type(), "{}", field.name());
    }

    let unit = json!({ "type": "record", "name": "E", "fields": [{ "name": "timestamp", "type": "long" }] });
    let error = bare(&unit.to_string(), None).err().unwrap().to_string();
    assert!(error.contains("`timestamp`") && error.contains("unit"), "{error}");
}

#[test]
fn writers_may_be_mixed_in_a_batch_with_bad_records_between() {
    let folder = tempfile::tempdir().unwrap();
    let first = json!({ "type": "record", "name": "E", "fields": [{ "name": "event", "type": "string" }] }).to_string();
    let second = json!({ "type": "record", "name": "E", "fields": [
        { "name": "user_id", "type": ["null", "string", "long"] },
        { "name": "event", "type": "string" },
    ]})
    .to_string();
    let third = json!({ "type": "record", "name": "E", "fields": [{ "name": "event", "type": "long" }] }).to_string();
    for (name, schema) in [("e-1", &first), ("e-2", &second), ("e-3", &third), ("e-4", &"{}".to_owned())] {
        std::fs::write(folder.path().join(format!("{name}.avsc")), schema).unwrap();
    }
    let event = |id: u32, schema: &str, fields: Vec<(&str, V)>| {
        let mut framed = Vec::new();
        framing::push_confluent(id, &encode(schema, record(fields)), &mut framed);
        framed
    };
    let text = |text: &str| V::String(text.to_owned());
    let a = |name: &str| event(1, &first, vec![("event", text(name))]);
    let b = |user: V, name: &str| event(2, &second, vec![("user_id", user), ("event", text(name))]);
    let payloads: Vec<Vec<u8>> = vec![
        a("e0"),
        b(some(text("u")), "e1"),
        vec![0, 0, 0, 0, 1, 10],
        a("e3"),
        vec![],
        b(V::Union(2, Box::new(V::Long(5))), "e5"),
        b(V::Union(0, Box::new(V::Null)), "e6"),
        event(3, &third, vec![("event", V::Long(1))]),
        event(9, &first, vec![("event", text("e8"))]),
        event(4, &first, vec![("event", text("e9"))]),
        a("e10"),
        b"{}".to_vec(),
    ];
    let plan = plan(Framing::Confluent, SchemaOrigin::Folder(folder.path().into()), None);
    let schemas = Arc::new(Schemas::open(&plan, None).unwrap());
    let mut decoder = Decoder::new(&plan, schemas.clone()).unwrap();
    let batch = raw(payloads.iter().map(Vec::as_slice));
    assert_eq!(decoder.unknown_schemas(&batch), [SchemaKey::Id(9)]);
    futures::executor::block_on(schemas.fetch(SchemaKey::Id(9))).unwrap();
    assert_eq!(decoder.unknown_schemas(&batch), []);

    for _ in 0..2 {
        let decoded = decoder.decode(&batch);
        assert_eq!(decoded.records, [0, 1, 3, 6, 10]);
        let column = |name: &str| decoded.columns.column_by_name(name).unwrap().as_string::<i32>().clone();
        let events: Vec<_> = column("event").iter().flatten().map(str::to_owned).collect();
        assert_eq!(events, ["e0", "e1", "e3", "e6", "e10"]);
        let users: Vec<_> = column("user_id").iter().map(|user| user.map(str::to_owned)).collect();
        assert_eq!(users, [None, Some("u".to_owned()), None, None, None]);
        let rejects: Vec<_> = decoded
            .rejects
            .iter()
            .map(|reject| (reject.position.offset, reject.code.as_str(), reject.byte_offset))
            .collect();
        assert_eq!(
            rejects,
            [
                (2, "truncated", Some(5)),
                (4, "empty", Some(0)),
                (5, "bad_value", None),
                (7, "schema_mismatch", None),
                (8, "unknown_schema_id", None),
                (9, "unsupported_schema", None),
                (11, "bad_magic", Some(0)),
            ]
        );
        assert_eq!(decoded.rejects[0].payload, payloads[2]);
        assert_eq!(decoded.rejects[0].position.to_string(), "test:events/0@2");
    }
}

#[test]
fn one_bad_value_among_many_costs_itself_alone() {
    let writer = json!({ "type": "record", "name": "W", "fields": [{ "name": "a", "type": "bytes" }] }).to_string();
    let reader = json!({ "type": "record", "name": "R", "fields": [{ "name": "a", "type": "string" }] }).to_string();
    let mut decoder = bare(&writer, Some(&reader)).unwrap();
    let datums: Vec<Vec<u8>> =
        (0..1000u32).map(|n| if n % 333 == 7 { vec![2, 0xff] } else { vec![2, b'a' + (n % 26) as u8] }).collect();
    let decoded = decoder.decode(&raw(datums.iter().map(Vec::as_slice)));
    let bad: Vec<i64> = decoded.rejects.iter().map(|reject| reject.position.offset).collect();
    assert_eq!(bad, [7, 340, 673]);
    assert_eq!(decoded.columns.num_rows(), 997);
    let column = decoded.columns.column(0).as_string::<i32>();
    for (at, index) in decoded.records.iter().enumerate() {
        assert_eq!(column.value(at).as_bytes(), &datums[*index as usize][1..]);
    }
}

#[test]
fn a_containers_datums_travel_as_single_objects_and_outlive_the_file() {
    let schema = json!({ "type": "record", "name": "E", "fields": [
        { "name": "event", "type": "string" },
        { "name": "timestamp", "type": { "type": "long", "logicalType": "timestamp-millis" } },
    ]})
    .to_string();
    let parsed = apache_avro::Schema::parse_str(&schema).unwrap();
    let mut writer = apache_avro::Writer::new(&parsed, Vec::new()).unwrap();
    for n in 0..3 {
        let fields = vec![("event", V::String(format!("e{n}"))), ("timestamp", V::TimestampMillis(n))];
        writer.append_value(record(fields)).unwrap();
    }
    let file = writer.into_inner().unwrap();

    let cache = tempfile::tempdir().unwrap();
    let plan = plan(Framing::SingleObject, SchemaOrigin::Fixed(EVENT_SCHEMA.to_owned()), None);
    let schemas = Schemas::open(&plan, Some(cache.path())).unwrap();
    let container = ocf::Container::open(&file[..]).unwrap();
    let fingerprint = schemas.register_local(container.schema_json()).unwrap();
    let payloads: Vec<Vec<u8>> = container
        .map(|datum| {
            let mut payload = Vec::new();
            framing::push_single_object(fingerprint, &datum.unwrap().bytes, &mut payload);
            payload
        })
        .collect();

    // A later process, without the file.
    let schemas = Arc::new(Schemas::open(&plan, Some(cache.path())).unwrap());
    let mut decoder = Decoder::new(&plan, schemas).unwrap();
    let batch = raw(payloads.iter().map(Vec::as_slice));
    assert_eq!(decoder.unknown_schemas(&batch), []);
    let decoded = decoder.decode(&batch);
    assert_eq!(decoded.rejects, vec![]);
    let column = |name: &str| decoded.columns.column_by_name(name).unwrap().clone();
    assert_eq!((0..3).map(|row| cell(&column("event"), row)).collect::<Vec<_>>(), ["\"e0\"", "\"e1\"", "\"e2\""]);
    assert_eq!((0..3).map(|row| cell(&column("timestamp"), row)).collect::<Vec<_>>(), ["0", "1000", "2000"]);
}

#[test]
fn formats_that_do_not_go_together_are_refused_at_load() {
    let check = |plan: DecodePlan, expect: &str| {
        let error = source_schema(&plan).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let registry = SchemaOrigin::Registry { url: "http://localhost".to_owned() };
    check(plan(Framing::Bare, registry.clone(), None), "registry is of no use");
    let confluent = |reader: &str| plan(Framing::Confluent, registry.clone(), Some(reader));
    check(confluent("{"), "avro schema");
    check(confluent("\"string\""), "must be a record");
    check(confluent(r#"{"type":"record","name":"R","fields":[]}"#), "without fields");
    check(
        confluent(r#"{"type":"record","name":"R","fields":[{"name":"a","type":["int","string"]}]}"#),
        "only [null, T]",
    );
    let field = |ty: &str| {
        let json = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{ty}}}]}}"#);
        plan(Framing::Confluent, registry.clone(), Some(&json))
    };
    check(field(r#"{"type":"array","items":"null"}"#), "nothing but nulls");
    check(field(r#"{"type":"record","name":"N","fields":[]}"#), "no column");
    check(confluent(r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}"#), "default");
    assert_eq!(source_schema(&plan(Framing::Confluent, registry, None)).unwrap().fields().len(), 14);
}

#[test]
fn the_contracts_that_ship_are_sound_avro() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/events");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let json = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(apache_avro::Schema::parse_str(&json).is_ok(), "{json}");
        assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["event"].is_string());
        Reader::new(&json, false).unwrap();
        count += 1;
    }
    assert!(count >= 3);
}
