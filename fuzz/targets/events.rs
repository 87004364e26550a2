//! JSON events through decoding and transforms, and files of rows.

use std::cell::RefCell;
use std::path::Path;

use serde::de::IgnoredAny;
use tributary::decode::{DecodePlan, Decoder, Format};
use tributary::definition::{Mode, load};
use tributary::engine::Preparer;
use tributary::event::{RawBatch, ValueType};
use tributary::source::FileFormat;
use tributary::source::file::rows::{Cut, Resume, Rows};

use super::avro::batch;
use super::root;

thread_local! {
    static SHOP: RefCell<Preparer> = RefCell::new(shop());
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a folder");
}

fn shop() -> Preparer {
    let (pipeline, _) = load(&root().join("pipelines/shop"), Mode::Check).expect("the shop");
    Preparer::new(&pipeline, None).expect("the shop")
}

/// Lines of events of the shop: each is one row or more, filtered, or one reject; and the same alone as among the others.
pub fn json(data: &[u8]) {
    let payloads: Vec<&[u8]> = data.split(|byte| *byte == b'\n').take(16).collect();
    let prepare = |payloads: &[&[u8]]| {
        let raw = RawBatch { source: "site_files".into(), ..batch(payloads) };
        SHOP.with_borrow_mut(|shop| shop.prepare(&raw, Vec::new())).expect("payloads never fail")
    };
    let together = prepare(&payloads);
    assert_eq!(together.message_hashes.len(), together.events.len());
    let (mut events, mut rejects, mut filtered) = (0, Vec::new(), 0);
    for payload in &payloads {
        let alone = prepare(&[payload]);
        events += alone.events.len();
        filtered += alone.filtered;
        if !alone.events.is_empty() || alone.filtered > 0 {
            let text = std::str::from_utf8(payload).expect("what is taken is UTF-8");
            let json = serde_json::from_str::<IgnoredAny>(text);
            assert!(json.is_ok(), "taken, but no JSON: {json:?}");
        }
        for reject in alone.rejects {
            assert!(reject.byte_offset.is_none_or(|offset| offset as usize <= payload.len()), "{reject:?}");
            rejects.push((reject.code, reject.byte_offset));
        }
    }
    let mut among: Vec<_> = together.rejects.into_iter().map(|reject| (reject.code, reject.byte_offset)).collect();
    // Those of decoding come before those of transforms.
    among.sort();
    rejects.sort();
    assert_eq!((together.events.len(), together.filtered, among), (events, filtered, rejects));
}

/// A file: read in one go and row by row with a new reader each, it has the same rows; what is cut of a CSV file is JSON.
pub fn rows(data: &[u8]) {
    let Some((format, data)) = data.split_first() else { return };
    let format = [FileFormat::Ndjson, FileFormat::Csv { delimiter: b',' }, FileFormat::Csv { delimiter: b';' }]
        [usize::from(*format % 3)]
    .clone();
    FOLDER.with(|folder| {
        let path = folder.path().join("rows");
        std::fs::write(&path, data).expect("written");
        let mut whole = Rows::open(&path, &format, None, Resume::default(), true).expect("opened");
        let (mut rows, mut resume) = (Vec::new(), Resume::default());
        while let Some(row) = cut(&mut whole) {
            rows.push(row);
        }
        for row in &rows {
            resume = again(&path, &format, resume, row);
        }
        if !matches!(format, FileFormat::Ndjson) {
            decode(&rows);
        }
    });
}

type Row = (i64, Result<Vec<u8>, &'static str>);

/// The next row that is not blank; its number counts up.
fn cut(rows: &mut Rows) -> Option<Row> {
    loop {
        match rows.next(0).expect("the file can be read") {
            Cut::Record { row, payload } => return Some((row, Ok(payload.to_vec()))),
            Cut::Reject { row, code, .. } => return Some((row, Err(code))),
            Cut::Blank => {}
            Cut::Unfinished => panic!("an unfinished row was to be taken"),
            Cut::End => return None,
        }
    }
}

fn again(path: &Path, format: &FileFormat, resume: Resume, expected: &Row) -> Resume {
    let mut one = Rows::open(path, format, None, resume, true).expect("opened");
    assert_eq!(cut(&mut one).as_ref(), Some(expected));
    one.resume().clone()
}

fn decode(rows: &[Row]) {
    let types = [
        ValueType::String,
        ValueType::Long,
        ValueType::Double,
        ValueType::Boolean,
        ValueType::Timestamp,
        ValueType::Json,
    ];
    let names = ["sku", "count", "price", "on", "at", "more"];
    let columns = names.iter().zip(types).map(|(name, value_type)| (name.to_string(), value_type)).collect();
    let plan = DecodePlan { source: "fuzz".into(), format: Format::Csv { columns } };
    let schemas = tributary::decode::registry::Schemas::open(&plan, None).expect("schemas");
    let mut decoder = Decoder::new(&plan, schemas.into()).expect("a decoder");
    let payloads: Vec<&[u8]> = rows.iter().filter_map(|(_, row)| row.as_deref().ok()).collect();
    for payload in &payloads {
        let json = serde_json::from_slice::<IgnoredAny>(payload);
        assert!(json.is_ok(), "{json:?}");
    }
    let decoded = decoder.decode(&batch(&payloads));
    assert_eq!(decoded.records.len() + decoded.rejects.len(), payloads.len());
    assert_eq!(decoded.columns.num_rows(), decoded.records.len());
}
