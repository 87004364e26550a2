//! Avro datums: the walk and the bulk decoder against apache-avro.

use std::cell::RefCell;
use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use serde_json::Value;
use tributary::decode::registry::Schemas;
use tributary::decode::schema::Schema;
use tributary::decode::walk::{Fault, code, walk_prefix};
use tributary::decode::{DecodeError, DecodePlan, Decoder, Format, Framing, SchemaOrigin};
use tributary::event::RawBatch;

use super::cells::{row, written};

/// Writer and reader schemas; without a reader what is written is read.
const SCHEMAS: &str = include_str!("schemas.json");

struct Case {
    schema: Schema,
    decimals: bool,
    /// None: the schema is recursive, which has no columns.
    decoder: Option<Decoder>,
    /// apache-avro with the writer schema alone, and resolving to the reader's.
    written: GenericDatumReader<'static>,
    resolved: GenericDatumReader<'static>,
}

thread_local! {
    static CASES: RefCell<Vec<Case>> = RefCell::new(cases());
}

fn cases() -> Vec<Case> {
    let pairs: Vec<Value> = serde_json::from_str(SCHEMAS).expect("schemas");
    let case = |pair: &Value| {
        let writer = pair["writer"].to_string();
        let reader = pair.get("reader").unwrap_or(&pair["writer"]).to_string();
        let oracle = |json: &str| -> &'static apache_avro::Schema {
            Box::leak(Box::new(apache_avro::Schema::parse_str(json).expect("a schema")))
        };
        let (from, to) = (oracle(&writer), oracle(&reader));
        Case {
            decimals: writer.contains("decimal"),
            schema: Schema::parse(&writer).expect("a schema"),
            decoder: try_open(Framing::Bare, &writer, &reader).ok(),
            written: GenericDatumReader::builder(from).build().expect("a reader"),
            // Not where there is nothing to resolve: apache-avro then refuses decimals of fewer bytes than their precision.
            resolved: match pair.get("reader") {
                Some(_) => GenericDatumReader::builder(from).reader_schema(to).build().expect("a reader"),
                None => GenericDatumReader::builder(from).build().expect("a reader"),
            },
        }
    };
    pairs.iter().map(case).collect()
}

pub fn open(framing: Framing, writer: &str, reader: &str) -> Decoder {
    try_open(framing, writer, reader).expect("schemas that go together")
}

fn try_open(framing: Framing, writer: &str, reader: &str) -> Result<Decoder, DecodeError> {
    let format =
        Format::Avro { framing, schemas: SchemaOrigin::Fixed(writer.to_owned()), reader: Some(reader.to_owned()) };
    let plan = DecodePlan { source: "fuzz".into(), format };
    Decoder::new(&plan, Arc::new(Schemas::open(&plan, None).expect("schemas")))
}

pub fn batch(payloads: &[&[u8]]) -> RawBatch {
    let mut raw = RawBatch::new("fuzz".into());
    for (offset, payload) in payloads.iter().enumerate() {
        raw.push(&"fuzz".into(), 0, offset as i64, 1_772_000_000_000_000, payload);
    }
    raw
}

/// The first byte chooses the schemas, the others are a datum.
///
/// What is walked is read by apache-avro to the same byte; what is refused it refuses too, but for [`is_stricter`]. What is
/// decoded has the values that apache-avro resolves to.
pub fn avro(data: &[u8]) {
    let Some((choice, datum)) = data.split_first() else { return };
    // apache-avro follows any depth on the stack.
    if datum.len() > 1500 {
        return;
    }
    apache_avro::util::max_allocation_bytes(1 << 20);
    CASES.with_borrow_mut(|cases| {
        let index = usize::from(*choice) % cases.len();
        check(&mut cases[index], datum);
    });
}

fn check(case: &mut Case, datum: &[u8]) {
    let walked = walk_prefix(&case.schema, datum);
    match &walked {
        Ok(end) => {
            let mut rest = datum;
            let value = case.written.read_value(&mut rest);
            assert!(value.is_ok(), "walked, but apache-avro says {value:?}");
            assert_eq!(datum.len() - rest.len(), *end, "apache-avro ends elsewhere");
        }
        // The oracle would build billions of nulls.
        Err(fault) if fault.code == code::TOO_MANY_ELEMENTS => {}
        Err(fault) => {
            assert!(fault.offset <= datum.len(), "{fault:?}");
            if !is_stricter(fault) {
                let value = case.written.read_value(&mut &datum[..]);
                assert!(value.is_err(), "{fault:?}, but apache-avro reads {value:?}");
            }
        }
    }
    let Some(decoder) = &mut case.decoder else { return };
    let raw = batch(&[datum]);
    let decoded = decoder.decode(&raw);
    assert_eq!(decoded.records.len() + decoded.rejects.len(), 1);
    assert_eq!(decoded.columns.num_rows(), decoded.records.len());
    let resolved = || case.resolved.read_value(&mut &datum[..]);
    match decoded.rejects.first() {
        None => {
            assert_eq!(walked, Ok(datum.len()));
            let value = resolved().expect("decoded, so apache-avro resolves it");
            assert_eq!(row(&decoded.columns, 0), written(&value));
        }
        // apache-avro refuses it as well, but for decimals that no column can hold.
        Some(reject) if reject.code == code::BAD_VALUE => {
            let value = resolved();
            assert!(value.is_err() || case.decimals, "{reject:?}, but apache-avro resolves {value:?}");
        }
        Some(reject) => {
            let whole = walked.as_ref().is_ok_and(|end| *end == datum.len()) && !datum.is_empty();
            assert!(!whole, "walked, but {reject:?}");
        }
    }
}

/// Where Tributary refuses what apache-avro reads:
///
/// - a block of an array or map whose declared bytes are not there, are negative or are not what its items take:
///   apache-avro does not look at them;
/// - bytes that end inside a boolean, a string or a union's index, which apache-avro takes for null;
/// - numbers that are longer than their type;
/// - nesting beyond the limit.
fn is_stricter(fault: &Fault) -> bool {
    let of_block = fault.reason.contains("a block of ");
    let read_as_null = ["inside a boolean", "inside a union index", "a string of "];
    match fault.code {
        code::TRUNCATED if read_as_null.iter().any(|what| fault.reason.contains(what)) => true,
        code::TRUNCATED | code::BAD_LENGTH => of_block,
        code::BAD_BLOCK_SIZE | code::VARINT_OVERFLOW | code::TOO_DEEP => true,
        _ => false,
    }
}
