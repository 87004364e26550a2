use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};

use super::*;
use crate::event::ValueType;

fn raw(payloads: &[&[u8]]) -> RawBatch {
    let mut raw = RawBatch::new("web".into());
    let topic: Arc<str> = "events".into();
    for (offset, payload) in payloads.iter().enumerate() {
        raw.push(&topic, 0, offset as i64, 1_000_000, payload);
    }
    raw
}

fn decode(format: &Format, payloads: &[&str]) -> Decoded {
    let bytes: Vec<&[u8]> = payloads.iter().map(|payload| payload.as_bytes()).collect();
    let mut decoder = JsonDecoder::new(format).unwrap();
    let decoded = decoder.decode(&raw(&bytes));
    assert_eq!(decoded.columns.schema(), decoder.schema());
    assert_eq!(decoded.columns.num_rows(), decoded.records.len());
    decoded
}

fn text<'a>(decoded: &'a Decoded, column: &str, row: usize) -> Option<&'a str> {
    let strings = decoded.columns.column_by_name(column).unwrap().as_string::<i32>();
    strings.is_valid(row).then(|| strings.value(row))
}

#[test]
fn the_six_calls_of_the_segment_spec_read_the_same_in_both_spellings() {
    let camel = [
        r#"{"type":"track","event":"Order Completed","messageId":"m1","userId":"u1","anonymousId":"a1","properties":{"total": 1.50},"context":{"ip":"1.2.3.4"},"timestamp":"2026-03-01T12:00:00Z","sentAt":"2026-03-01T12:00:01Z","originalTimestamp":"2026-03-01T12:00:00Z","integrations":{"All":true},"version":2}"#,
        r#"{"type":"identify","messageId":"m2","userId":97980,"traits":{"email":null}}"#,
        r#"{"type":"page","messageId":"m3","anonymousId":"a1","name":"Home","category":"Docs","properties":{"path":"/"}}"#,
        r#"{"type":"screen","messageId":"m4","anonymousId":"a1","name":"Start"}"#,
        r#"{"type":"group","messageId":"m5","userId":"u1","groupId":"g1","traits":[]}"#,
        r#"{"type":"alias","messageId":"m6","userId":"u1","previousId":"a1"}"#,
    ];
    let snake: Vec<String> = camel
        .iter()
        .map(|text| {
            let names = [
                ("messageId", "message_id"),
                ("userId", "user_id"),
                ("anonymousId", "anonymous_id"),
                ("groupId", "group_id"),
                ("previousId", "previous_id"),
                ("sentAt", "sent_at"),
                ("originalTimestamp", "original_timestamp"),
            ];
            names.iter().fold(text.to_string(), |text, (camel, snake)| text.replace(camel, snake))
        })
        .collect();
    let one = decode(&Format::JsonEnvelope, &camel);
    let two = decode(&Format::JsonEnvelope, &snake.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(one.rejects, []);
    assert_eq!(one.columns, two.columns);
    assert_eq!(text(&one, "properties", 0), Some(r#"{"total": 1.50}"#));
    assert_eq!(text(&one, "user_id", 1), Some("97980"));
    assert_eq!(text(&one, "traits", 1), Some(r#"{"email":null}"#));
    assert_eq!(text(&one, "properties", 2), Some(r#"{"category":"Docs","name":"Home","path":"/"}"#));
    assert_eq!(text(&one, "event", 2), None);
    assert_eq!(text(&one, "properties", 3), Some(r#"{"name":"Start"}"#));
    assert_eq!(text(&one, "traits", 4), None);
    assert_eq!(text(&one, "previous_id", 5), Some("a1"));
    let times = one.columns.column_by_name("timestamp").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!((times.value(0), times.is_null(1)), (1_772_366_400_000_000, true));
}

#[test]
fn a_name_that_the_properties_have_already_is_left_alone() {
    let decoded = decode(
        &Format::JsonEnvelope,
        &[
            r#"{"type":"page","name":"Home","properties":{"name":"x"}}"#,
            r#"{"type":"page","properties":{},"name":"Ho\"me"}"#,
            r#"{"type":"track","name":"Home","event":"E"}"#,
        ],
    );
    assert_eq!(text(&decoded, "properties", 0), Some(r#"{"name":"x"}"#));
    assert_eq!(text(&decoded, "properties", 1), Some(r#"{"name":"Ho\"me"}"#));
    assert_eq!(text(&decoded, "properties", 2), None);
}

#[test]
fn bad_records_are_rejected_alone_with_code_and_offset() {
    let deep = format!("{{\"properties\":{}", "{\"a\":".repeat(100_000));
    let good = br#"{"event":"E","identifiers":{"email":"a@b.c","no":7,"none":null,"empty":""}}"#;
    let bad: &[(&[u8], &str, Option<u32>)] = &[
        (b"", "empty", None),
        (b" \n", "empty", None),
        (b"[]", "not_an_object", Some(0)),
        (b"\"x\"", "not_an_object", Some(0)),
        (b"{\"event\":\"\xff\"}", "not_utf8", Some(10)),
        (b"{\"event\":", "not_json", Some(9)),
        (b"{\"event\":\"E\"} x", "not_json", Some(14)),
        (b"{\"event\":1,\"event\":2}", "duplicate_key", Some(11)),
        (b"{\"userId\":1,\"user_id\":2}", "duplicate_key", Some(22)),
        (b"{\"properties\":{\"a\":1,\"a\":2}}", "duplicate_key", Some(21)),
        (b"{\"user_id\":\"a\\u0000b\"}", "nul_character", Some(11)),
        (b"{\"user_id\":{}}", "wrong_type", Some(11)),
        (b"{\"properties\":[1]}", "not_an_object", Some(14)),
        (b"{\"identifiers\":[1]}", "not_an_object", Some(15)),
        (b"{\"identifiers\":{\"a\":true}}", "wrong_type", Some(20)),
        (b"{\"properties\":{\"a\":NaN}}", "number_out_of_range", Some(19)),
        (b"{\"properties\":{\"a\":99999999999999999999}}", "number_out_of_range", Some(19)),
        (b"{\"properties\":{\"a\":1e400}}", "number_out_of_range", Some(19)),
        (b"{\"timestamp\":\"soon\"}", "bad_timestamp", Some(13)),
        (b"{\"timestamp\":true}", "bad_timestamp", Some(13)),
        (deep.as_bytes(), "too_deep", Some(13 + 1 + 5 * 63)),
    ];
    let mut payloads: Vec<&[u8]> = bad.iter().map(|(payload, ..)| *payload).collect();
    payloads.insert(3, good);
    let decoded = JsonDecoder::new(&Format::JsonEnvelope).unwrap().decode(&raw(&payloads));
    assert_eq!(decoded.records, [3]);
    let identifiers = decoded.columns.column_by_name("identifiers").unwrap().as_map().value(0);
    assert_eq!(identifiers.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["email", "no"]);
    assert_eq!(identifiers.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a@b.c", "7"]);
    let found: Vec<_> = decoded.rejects.iter().map(|reject| (reject.code.as_str(), reject.byte_offset)).collect();
    assert_eq!(found, bad.iter().map(|(_, code, offset)| (*code, *offset)).collect::<Vec<_>>());
    for (reject, (payload, ..)) in decoded.rejects.iter().zip(bad) {
        assert_eq!(reject.payload, *payload);
    }
    assert_eq!(decoded.rejects[3].position.offset, 4, "positions follow the log");
}

const ORDER: &str = r#"{"type":"record","name":"Order","fields":[
    {"name":"order_no","type":"string"},
    {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}},
    {"name":"placed_at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"currency","type":"string","default":"EUR"},
    {"name":"note","type":["null","string"],"default":null},
    {"name":"code","type":["null","long","string"],"default":null},
    {"name":"customer","type":{"type":"record","name":"Customer","fields":[
        {"name":"no","type":"long"},{"name":"tier","type":"string","default":"basic"}]}},
    {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
        {"name":"sku","type":"string"},{"name":"quantity","type":"double","default":1}]}}}]}"#;

#[test]
fn objects_under_a_contract_become_its_columns() {
    let format = Format::JsonContract { schema: ORDER.to_string() };
    let line = |order: &str, amount: &str| {
        format!(
            r#"{{"order_no":"{order}","amount":{amount},"placed_at":"2026-03-01T12:00:00Z","unknown":{{"x":1}},"code":7,
                "customer":{{"no":1}},"lines":[{{"sku":"a"}},{{"quantity":2,"sku":"b"}}]}}"#
        )
    };
    let rows = [
        line("o1", "12.50"),
        line("o2", "\"7.25\""),
        line("o3", "123456789.00"),
        line("o4", "{}"),
        r#"{"order_no":"o5","amount":1,"placed_at":0,"currency":"USD","note":"n","customer":{"no":2,"tier":"gold"},"lines":[]}"#
            .to_string(),
        r#"{"order_no":"o6"}"#.to_string(),
    ];
    let decoded = decode(&format, &rows.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(decoded.records, [0, 1, 4]);
    let found: Vec<_> = decoded.rejects.iter().map(|reject| (reject.code.as_str(), reject.position.offset)).collect();
    assert_eq!(found, [("contract", 3), ("contract", 5), ("contract", 2)]);
    assert_eq!(decoded.rejects[0].reason, "amount: expected a number (decimal 6, 2), found an object");
    assert_eq!(decoded.rejects[1].reason, "amount: missing, expected a number (decimal 6, 2)");
    let columns = &decoded.columns;
    let amounts = columns.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>();
    assert_eq!(amounts.values().to_vec(), [1250, 725, 100]);
    assert_eq!((text(&decoded, "currency", 0), text(&decoded, "currency", 2)), (Some("EUR"), Some("USD")));
    assert_eq!((text(&decoded, "code", 0), text(&decoded, "code", 2)), (Some("7"), None));
    let customers = columns.column_by_name("customer").unwrap().as_struct();
    assert_eq!(customers.column(0).as_primitive::<Int64Type>().values().to_vec(), [1, 1, 2]);
    assert_eq!(customers.column(1).as_string::<i32>().value(0), "basic");
    let lines = columns.column_by_name("lines").unwrap().as_list::<i32>().value(0);
    assert_eq!(lines.as_struct().column(1).as_primitive::<Float64Type>().values().to_vec(), [1.0, 2.0]);
}

#[test]
fn a_csv_row_is_cast_to_its_declared_columns() {
    use ValueType::*;
    let columns = [("no", String), ("n", Long), ("d", Double), ("b", Boolean), ("t", Timestamp), ("j", Json)];
    let format = Format::Csv { columns: columns.iter().map(|(name, kind)| (name.to_string(), *kind)).collect() };
    let decoded = decode(
        &format,
        &[
            r#"{"no":"007","n":" 7 ","d":"1.5","b":"true","t":"2026-03-01","j":"{\"a\":1}","extra":"x"}"#,
            r#"{"no":"","n":"","d":"","b":"","t":"","j":""}"#,
            r#"{"d":"12,50"}"#,
            r#"{"n":"1.5"}"#,
            r#"{"j":"{\"a\":1,\"a\":2}"}"#,
            r#"{"b":"yes"}"#,
            r#"{"d":"NaN"}"#,
            r#"{}"#,
        ],
    );
    assert_eq!(decoded.records, [0, 1, 7]);
    assert_eq!(text(&decoded, "no", 0), Some("007"));
    assert!(
        decoded.columns.columns().iter().all(|column| column.is_valid(0) && column.is_null(1) && column.is_null(2))
    );
    let reasons: Vec<&str> = decoded.rejects.iter().map(|reject| reject.reason.as_str()).collect();
    assert_eq!(reasons[0], "d: expected a number with a decimal point (double), found \"12,50\"");
    assert_eq!(decoded.rejects.iter().map(|reject| reject.position.offset).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
}

#[test]
fn a_csv_file_without_declared_columns_holds_the_envelope() {
    let decoded = decode(&Format::Csv { columns: vec![] }, &[r#"{"event":"E","properties":"{\"a\":1}","x":"y"}"#]);
    assert_eq!(text(&decoded, "properties", 0), Some(r#"{"a":1}"#));
}
