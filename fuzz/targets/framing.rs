//! Frames around datums, and containers of them.

use std::cell::RefCell;

use tributary::decode::ocf::{Container, OcfError};
use tributary::decode::registry::fingerprint;
use tributary::decode::{Decoded, Decoder, Framing, SchemaKey, framing as frame};

use super::avro::{batch, open};
use super::cells::row;

/// What datums hold in frames of this target.
pub const WRITER: &str = r#"{ "type": "record", "name": "Framed", "fields": [
    { "name": "id", "type": "long" }, { "name": "name", "type": ["null", "string"] } ] }"#;

thread_local! {
    static DECODERS: RefCell<[Decoder; 3]> =
        RefCell::new([Framing::Confluent, Framing::SingleObject, Framing::Bare].map(|framing| open(framing, WRITER, WRITER)));
}

/// A payload in each framing: the frame that is cut is the one that would be put there, and what is behind it is decoded as
/// if it were bare.
pub fn framing(data: &[u8]) {
    let decode = |which: usize, payload: &[u8]| DECODERS.with_borrow_mut(|all| all[which].decode(&batch(&[payload])));
    for (which, framing) in [Framing::Confluent, Framing::SingleObject, Framing::Bare].into_iter().enumerate() {
        let decoded = decode(which, data);
        assert_eq!(decoded.records.len() + decoded.rejects.len(), 1);
        let (key, start) = match frame::cut(framing, data) {
            Ok(cut) => cut,
            Err(fault) => {
                assert!(fault.offset <= data.len(), "{fault:?}");
                assert_eq!(decoded.rejects[0].code, fault.code);
                continue;
            }
        };
        let mut framed = Vec::new();
        match key {
            SchemaKey::Id(id) => frame::push_confluent(id, &data[start..], &mut framed),
            SchemaKey::Fingerprint(key) => {
                frame::push_single_object(key, &data[start..], &mut framed);
                if key != fingerprint(WRITER).expect("a schema") {
                    assert_eq!(decoded.rejects[0].code, "unknown_schema_id");
                    framed.clear();
                }
            }
            SchemaKey::Fixed => framed.extend_from_slice(data),
        }
        if framed.is_empty() {
            continue;
        }
        assert_eq!(framed, data);
        if start < data.len() {
            let bare = decode(2, &data[start..]);
            assert_eq!(outcome(&decoded, 0), outcome(&bare, start));
        }
    }
}

/// The row, or why there is none, with its offset counted from `start` bytes before.
fn outcome(decoded: &Decoded, start: usize) -> Result<String, (String, Option<u32>)> {
    match decoded.rejects.first() {
        None => Ok(row(&decoded.columns, 0)),
        Some(reject) => Err((reject.code.clone(), reject.byte_offset.map(|offset| offset + start as u32))),
    }
}

/// A container: reading ends, rows are counted upwards, and what apache-avro reads without a fault, this
/// reads too; and more where a block has no rows, which apache-avro takes for the end.
pub fn container(data: &[u8]) {
    let theirs = apache_avro::Reader::new(data).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let ours = match Container::open(data) {
        Ok(container) => container,
        Err(error) => {
            assert!(matches!(error, OcfError::Header(_)), "{error}");
            return;
        }
    };
    let (mut datums, mut bad, mut last) = (0, None, 0);
    for datum in ours {
        let at = match datum {
            Ok(datum) => {
                datums += 1;
                datum.row
            }
            Err(OcfError::Bad { row, code, reason, byte_offset, payload }) => {
                assert!(byte_offset.is_none_or(|offset| offset <= payload.len()), "{reason}");
                bad = bad.or(Some((code, reason)));
                row
            }
            Err(error) => panic!("{error} in memory"),
        };
        assert!(at > last, "row {at} behind row {last}");
        last = at;
    }
    if let (Ok(theirs), None) = (theirs, bad) {
        assert!(datums >= theirs.len(), "{datums} rows, apache-avro reads {}", theirs.len());
    }
}
