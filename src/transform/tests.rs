use std::collections::BTreeSet;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field as ArrowField, Float64Type, Int32Type, Int64Type, Schema};
use serde_json::json;

use super::*;
use crate::decode::Format;
use crate::decode::json::JsonDecoder;

/// The broker's timestamp of every record: 2026-03-01T12:00:00Z.
pub const RECEIVED: i64 = 1_772_366_400_000_000;

pub fn raw(payloads: &[impl AsRef<str>]) -> RawBatch {
    let mut raw = RawBatch::new("web".into());
    let topic: Arc<str> = "shop.events".into();
    for (offset, payload) in payloads.iter().enumerate() {
        raw.push(&topic, 3, 100 + offset as i64, RECEIVED, payload.as_ref().as_bytes());
    }
    raw
}

/// Decodes envelopes and takes them through the plan.
pub fn run(plan: &TransformPlan, payloads: &[impl AsRef<str>]) -> Transformed {
    let raw = raw(payloads);
    let mut decoder = JsonDecoder::new(&Format::JsonEnvelope).unwrap();
    let schemas = BTreeMap::from([(raw.source.clone(), decoder.schema())]);
    let mut transformer = Transformer::new(plan, &schemas).unwrap();
    let decoded = decoder.decode(&raw);
    let transformed = transformer.apply(&raw, decoded).unwrap();
    assert_eq!(transformed.events.batch.schema(), schema_with(&plan.fields));
    transformed
}

/// Takes columns of a source through a plan.
pub fn run_columns(plan: &TransformPlan, columns: Vec<(&str, ArrayRef)>) -> Result<Transformed, TransformError> {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let raw = raw(&vec![""; batch.num_rows()]);
    let schemas = BTreeMap::from([(raw.source.clone(), batch.schema())]);
    let mut transformer = Transformer::new(plan, &schemas)?;
    let records = (0..batch.num_rows() as u32).collect();
    transformer.apply(&raw, Decoded { columns: batch, records, rejects: vec![] })
}

pub fn field(path: &str, value_type: ValueType) -> Field {
    let mut keys: Vec<String> = path.split('.').map(str::to_string).collect();
    let root = match keys[0].as_str() {
        "properties" => Root::Properties,
        "traits" => Root::Traits,
        "context" => Root::Context,
        _ => Root::Enriched,
    };
    if root != Root::Enriched {
        keys.remove(0);
    }
    Field { root, path: keys, value_type, presence: false }
}

pub fn texts(transformed: &Transformed, index: usize) -> Vec<Option<String>> {
    transformed.events.strings(index).iter().map(|text| text.map(str::to_string)).collect()
}

pub fn column<'a>(transformed: &'a Transformed, name: &str) -> &'a ArrayRef {
    transformed.events.batch.column_by_name(name).unwrap_or_else(|| panic!("{name}"))
}

pub fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some(text.to_string())).collect()
}

pub fn codes(transformed: &Transformed) -> Vec<(&str, i64)> {
    transformed.rejects.iter().map(|reject| (reject.code.as_str(), reject.position.offset)).collect()
}

pub fn identifiers(transformed: &Transformed, row: usize) -> Vec<(String, String)> {
    let map = transformed.events.batch.column(column::IDENTIFIERS).as_map();
    if map.is_null(row) {
        return vec![];
    }
    let entries = map.value(row);
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
    keys.iter().zip(values).map(|(key, value)| (key.unwrap().to_string(), value.unwrap().to_string())).collect()
}

#[test]
fn what_is_missing_is_filled_in_from_the_record() {
    let out = run(
        &TransformPlan::default(),
        &[r#"{"event":"E"}"#, r#"{"traits":{"a":1},"user_id":""}"#, r#"{"messageId":"","type":"page"}"#],
    );
    assert_eq!(codes(&out), []);
    let position = |offset| format!("web:shop.events/3@{offset}");
    assert_eq!(texts(&out, column::MESSAGE_ID), some(&[&position(100), &position(101), &position(102)]));
    assert_eq!(texts(&out, column::TYPE), some(&["track", "identify", "page"]));
    assert_eq!(texts(&out, column::USER_ID), [None, None, None], "an empty id is none");
    assert_eq!(texts(&out, column::SOURCE), some(&["web", "web", "web"]));
    assert_eq!(texts(&out, column::TOPIC), some(&["shop.events", "shop.events", "shop.events"]));
    assert_eq!(out.events.times(column::TIMESTAMP).values().to_vec(), [RECEIVED; 3]);
    assert_eq!(out.events.batch.column(column::OFFSET).as_primitive::<Int64Type>().values().to_vec(), [100, 101, 102]);
    assert_eq!(out.events.batch.column(column::INDEX).as_primitive::<Int32Type>().values().to_vec(), [0, 0, 0]);
    assert_eq!(texts(&out, column::FLAGS), [None, None, None]);
}

#[test]
fn skew_is_corrected_and_absurd_times_are_clamped() {
    let day = 24 * 3600 * 1_000_000_i64;
    let at = |offset_us: i64| chrono::DateTime::from_timestamp_micros(RECEIVED + offset_us).unwrap().to_rfc3339();
    let cases: &[(serde_json::Value, i64, bool)] = &[
        (json!({"timestamp": at(-5)}), RECEIVED - 5, false),
        (json!({"timestamp": at(-5), "sentAt": at(100), "originalTimestamp": at(90)}), RECEIVED - 5, false),
        (json!({"sentAt": at(3_600_000_000), "originalTimestamp": at(3_599_000_000)}), RECEIVED - 1_000_000, false),
        (json!({"sent_at": at(-7_000_000), "original_timestamp": at(-9_000_000)}), RECEIVED - 2_000_000, false),
        (json!({"sentAt": at(-7)}), RECEIVED, false),
        (json!({"originalTimestamp": at(-7)}), RECEIVED - 7, false),
        (json!({}), RECEIVED, false),
        (json!({"receivedAt": at(-99)}), RECEIVED, false),
        (json!({"timestamp": 1_772_366_399_000_i64}), RECEIVED - 1_000_000, false),
        (json!({"timestamp": at(day)}), RECEIVED + day, false),
        (json!({"timestamp": at(day + 1)}), RECEIVED, true),
        (json!({"timestamp": "2999-01-01"}), RECEIVED, true),
        (json!({"timestamp": "1969-12-31T23:59:59Z"}), RECEIVED, true),
        (json!({"timestamp": "1970-01-01"}), 0, false),
    ];
    let payloads: Vec<String> = cases
        .iter()
        .map(|(case, ..)| {
            let mut event = case.clone();
            event["event"] = json!("E");
            event.to_string()
        })
        .collect();
    let out = run(&TransformPlan::default(), &payloads);
    for (row, (case, time, clamped)) in cases.iter().enumerate() {
        assert_eq!(out.events.times(column::TIMESTAMP).value(row), *time, "{case}");
        assert_eq!(out.events.times(column::RECEIVED_AT).value(row), RECEIVED, "{case}");
        assert_eq!(out.events.text(column::FLAGS, row), clamped.then_some("clamped"), "{case}");
    }
}

#[test]
fn one_bad_item_is_rejected_alone_and_rows_keep_their_places() {
    let plan = TransformPlan { fields: vec![field("properties.n", ValueType::Long)], ..Default::default() };
    let good = |n: usize| format!(r#"{{"event":"E","properties":{{"n":{n}}}}}"#);
    for (bad, code) in [
        (r#"{"event":"E","properties":{"n":1,"n":2}}"#, "duplicate_key"),
        (r#"{"event":"E","properties":{"n":99999999999999999999}}"#, "number_out_of_range"),
        (r#"{"user_id":"u"}"#, "not_an_event"),
        (r#"{"type":"track"}"#, "not_an_event"),
        (r#"{"type":"purchase","event":"E"}"#, "not_an_event"),
        (r#"{"event":"E""#, "not_json"),
        ("", "empty"),
    ] {
        let mut payloads: Vec<String> = (0..5).map(good).collect();
        payloads[2] = bad.to_string();
        let out = run(&plan, &payloads);
        assert_eq!(codes(&out), [(code, 102)], "{bad}");
        assert_eq!(out.rejects[0].payload, bad.as_bytes());
        assert_eq!(column(&out, "properties.n:long").as_primitive::<Int64Type>().values().to_vec(), [0, 1, 3, 4]);
        assert_eq!(
            out.events.batch.column(column::OFFSET).as_primitive::<Int64Type>().values().to_vec(),
            [100, 101, 103, 104]
        );
    }
}

#[test]
fn texts_from_other_formats_are_checked_here() {
    let columns = |properties: &str, user: &str| -> Vec<(&str, ArrayRef)> {
        vec![
            ("event", Arc::new(StringArray::from(vec!["A", "B", "C"]))),
            ("properties", Arc::new(StringArray::from(vec!["{}", properties, "{}"]))),
            ("user_id", Arc::new(StringArray::from(vec!["1", user, "3"]))),
        ]
    };
    for (properties, user, code, reason) in [
        ("[]", "2", "not_an_object", "properties: expected an object, found an array"),
        (r#"{"a":}"#, "2", "not_json", "properties: not JSON: expected a value, found '}'"),
        (r#"{"a":1,"a":1}"#, "2", "duplicate_key", "properties: the key \"a\" is given twice"),
        ("{}", "a\0b", "nul_character", "user_id: holds a NUL character"),
    ] {
        let out = run_columns(&TransformPlan::default(), columns(properties, user)).unwrap();
        assert_eq!(codes(&out), [(code, 101)]);
        assert!(out.rejects[0].reason.starts_with(reason), "{}", out.rejects[0].reason);
        assert_eq!(texts(&out, column::EVENT), some(&["A", "C"]));
    }
    for nothing in ["", " null "] {
        let out = run_columns(&TransformPlan::default(), columns(nothing, "2")).unwrap();
        assert_eq!((codes(&out).len(), out.events.text(column::PROPERTIES, 1)), (0, None));
    }
}

fn order_contract(mode: ContractMode) -> TransformPlan {
    let schema = r#"{"type":"record","name":"Order","fields":[
        {"name":"total","type":"double"},{"name":"items","type":["null","long"],"default":null}]}"#;
    TransformPlan {
        contracts: vec![Contract { event: "Order Completed".into(), schema: schema.into(), file: "order.avsc".into() }],
        contract_mode: mode,
        fields: vec![field("properties.total", ValueType::Double), field("properties.items", ValueType::Long)],
        ..Default::default()
    }
}

const ORDERS: [&str; 5] = [
    r#"{"event":"Order Completed","properties":{"total":12.5,"items":2}}"#,
    r#"{"event":"Order Completed","properties":{"total":"12,50","items":3}}"#,
    r#"{"event":"Order Completed","properties":{"items":4}}"#,
    r#"{"event":"Order Completed"}"#,
    r#"{"event":"Other","properties":{"total":"12,50"}}"#,
];

#[test]
fn a_broken_contract_rejects_the_event() {
    let out = run(&order_contract(ContractMode::Strict), &ORDERS);
    assert_eq!(codes(&out), [("contract", 101), ("contract", 102), ("contract", 103)]);
    let reasons: Vec<&str> = out.rejects.iter().map(|reject| reject.reason.as_str()).collect();
    assert_eq!(reasons[0], "properties.total: expected a number (double), found \"12,50\"");
    assert_eq!(reasons[1], "properties.total: missing, expected a number (double)");
    assert_eq!(reasons[2], "properties.total: missing, expected a number (double)");
    assert_eq!(column(&out, "properties.total:double").as_primitive::<Float64Type>().value(0), 12.5);
    assert!(column(&out, "properties.total:double").is_null(1));
}

#[test]
fn a_broken_contract_may_be_flagged_instead() {
    let out = run(&order_contract(ContractMode::Flag), &ORDERS);
    assert_eq!(codes(&out), []);
    let contract = Some("contract".to_string());
    assert_eq!(texts(&out, column::FLAGS), [None, contract.clone(), contract.clone(), contract, None]);
    let items = column(&out, "properties.items:long").as_primitive::<Int64Type>();
    assert_eq!((0..3).map(|row| items.value(row)).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(column(&out, "properties.total:double").is_null(1));
}

#[test]
fn literals_and_columns_of_other_types_map_to_the_envelope() {
    let literal = |target, value| (target, MapValue::Literal(value));
    let map = MapPlan {
        targets: vec![
            literal(MapTarget::Column(column::EVENT), json!("Order Completed")),
            literal(MapTarget::Column(column::TIMESTAMP), json!("2026-03-01T11:00:00Z")),
            literal(MapTarget::Identifier("customer_no".into()), json!(7)),
            literal(MapTarget::Json(Root::Properties, "a".into()), json!({"b": [1, "x"]})),
            literal(MapTarget::Json(Root::Properties, "n".into()), json!(null)),
        ],
    };
    let plan = TransformPlan { maps: BTreeMap::from([("web".into(), map)]), ..Default::default() };
    let out = run_columns(&plan, vec![("x", Arc::new(Int64Array::from(vec![1])))]).unwrap();
    assert_eq!(texts(&out, column::EVENT), some(&["Order Completed"]));
    assert_eq!(texts(&out, column::PROPERTIES), some(&[r#"{"a":{"b":[1,"x"]},"n":null}"#]));
    assert_eq!(identifiers(&out, 0), [("customer_no".to_string(), "7".to_string())]);
    assert_eq!(out.events.times(column::TIMESTAMP).value(0), RECEIVED - 3_600_000_000);
    for index in [column::RECEIVED_AT, column::SOURCE, column::OFFSET, column::FLAGS, column::ENRICHED, 99] {
        let map = MapPlan { targets: vec![literal(MapTarget::Column(index), json!("x"))] };
        let plan = TransformPlan { maps: BTreeMap::from([("web".into(), map)]), ..Default::default() };
        let error = run_columns(&plan, vec![("x", Arc::new(Int64Array::from(vec![1])))]).unwrap_err();
        assert!(error.to_string().contains("set by the engine"), "{error}");
    }
}

#[test]
fn columns_by_name_are_cast() {
    let customer = StructArray::from(vec![
        (
            Arc::new(ArrowField::new("email", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("a@b.c"), None])) as ArrayRef,
        ),
        (Arc::new(ArrowField::new("no", DataType::Int64, true)), Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef),
    ]);
    let out = run_columns(
        &TransformPlan::default(),
        vec![
            ("event", Arc::new(StringArray::from(vec!["A", "B"]))),
            ("user_id", Arc::new(Int64Array::from(vec![1, 2]))),
            ("timestamp", Arc::new(Date32Array::from(vec![20_000, 20_001]))),
            ("sent_at", Arc::new(Int64Array::from(vec![1000, 2000]))),
            ("identifiers", Arc::new(customer.clone())),
            ("traits", Arc::new(customer)),
            ("unknown", Arc::new(Float64Array::from(vec![1.0, 2.0]))),
        ],
    )
    .unwrap();
    assert_eq!(codes(&out), []);
    assert_eq!(texts(&out, column::USER_ID), some(&["1", "2"]));
    assert_eq!(out.events.times(column::TIMESTAMP).value(0), 20_000 * 86_400_000_000);
    assert_eq!(out.events.times(column::SENT_AT).value(1), 2_000_000);
    assert_eq!(identifiers(&out, 0).len(), 2);
    assert_eq!(identifiers(&out, 1), [("no".to_string(), "8".to_string())]);
    assert_eq!(texts(&out, column::TRAITS), some(&[r#"{"email":"a@b.c","no":7}"#, r#"{"email":null,"no":8}"#]));
    let refused = run_columns(&TransformPlan::default(), vec![("timestamp", Arc::new(Decimal128Array::from(vec![1])))]);
    assert!(refused.unwrap_err().to_string().starts_with("source web: timestamp: cannot be made of"));
    let bad = run_columns(
        &TransformPlan::default(),
        vec![
            ("event", Arc::new(StringArray::from(vec!["A", "B"]))),
            ("timestamp", Arc::new(StringArray::from(vec![Some("soon"), None]))),
        ],
    )
    .unwrap();
    assert_eq!(codes(&bad), [("bad_timestamp", 100)]);
}

fn unnest(events: &[&str], from: &str, event: &str) -> Step {
    Step {
        events: Some(events.iter().map(|event| event.to_string()).collect()),
        sources: None,
        action: Action::Unnest { from: field(from, ValueType::Json), event: event.to_string() },
    }
}

#[test]
fn unnest_adds_an_event_per_element_after_its_parent() {
    let plan = TransformPlan {
        steps: vec![
            unnest(&["Order"], "properties.products", "Product"),
            unnest(&["Product"], "properties.parts", "Part"),
            unnest(&["Order"], "properties.gifts", "Gift"),
        ],
        fields: vec![field("properties.sku", ValueType::String), field("context.ip", ValueType::String)],
        ..Default::default()
    };
    let out = run(
        &plan,
        &[
            r#"{"message_id":"m1","event":"Order","user_id":"u","traits":{"a":1},"context":{"ip":"1.2.3.4"},"timestamp":"2026-03-01T10:00:00Z",
            "properties":{"products":[{"sku":"a","parts":["x"]},null,{"sku":"b"}, 7],"gifts":[{"sku":"g"}]}}"#,
            r#"{"message_id":"m2","event":"Order","properties":{"products":{"sku":"no array"}}}"#,
            r#"{"message_id":"m3","event":"Other","properties":{"products":[{"sku":"c"}]}}"#,
        ],
    );
    assert_eq!(codes(&out), []);
    let ids = ["m1", "m1:4", "m1:0", "m1:0:0", "m1:2", "m1:3", "m2", "m3"];
    assert_eq!(texts(&out, column::MESSAGE_ID), some(&ids));
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let events = ["Order", "Gift", "Product", "Part", "Product", "Product", "Order", "Other"];
    assert_eq!(texts(&out, column::EVENT), some(&events));
    let indices = out.events.batch.column(column::INDEX).as_primitive::<Int32Type>().values().to_vec();
    assert_eq!(indices[0], 0);
    assert_eq!(indices[1..6].iter().collect::<BTreeSet<_>>().len(), 5, "{indices:?}");
    assert_eq!(indices[6..], [0, 0]);
    let skus: Vec<Option<&str>> = column(&out, "properties.sku:string").as_string::<i32>().iter().collect();
    assert_eq!(skus, [None, Some("g"), Some("a"), None, Some("b"), None, None, None]);
    assert_eq!(texts(&out, column::PROPERTIES)[5].as_deref(), Some(r#"{"value":7}"#));
    assert_eq!(texts(&out, column::USER_ID)[..6], some(&["u"; 6]));
    let ips: Vec<Option<&str>> = column(&out, "context.ip:string").as_string::<i32>().iter().collect();
    assert_eq!(ips[..6], [Some("1.2.3.4"); 6]);
    assert_eq!(texts(&out, column::TRAITS)[1..6], [None, None, None, None, None], "traits are the parent's alone");
    let times = out.events.times(column::TIMESTAMP).values().to_vec();
    assert_eq!(times[..6], [RECEIVED - 7_200_000_000; 6]);
}

#[test]
fn an_unnested_event_that_breaks_its_contract_is_flagged() {
    let mut plan = order_contract(ContractMode::Strict);
    plan.steps = vec![unnest(&["Order"], "properties.orders", "Order Completed")];
    let out = run(&plan, &[r#"{"event":"Order","properties":{"orders":[{"total":1},{"total":"x"}]}}"#]);
    assert_eq!(texts(&out, column::FLAGS), [None, None, Some("contract".to_string())]);
}

#[test]
fn a_batch_of_an_unknown_source_or_of_other_columns_is_an_error() {
    let raw = raw(&["{}"]);
    let mut transformer = Transformer::new(&TransformPlan::default(), &BTreeMap::new()).unwrap();
    let decoded = JsonDecoder::new(&Format::JsonEnvelope).unwrap().decode(&raw);
    assert!(matches!(transformer.apply(&raw, decoded), Err(TransformError::Columns(_))));
    let schemas = BTreeMap::from([(raw.source.clone(), Arc::new(Schema::empty()) as SchemaRef)]);
    let mut transformer = Transformer::new(&TransformPlan::default(), &schemas).unwrap();
    let decoded = JsonDecoder::new(&Format::JsonEnvelope).unwrap().decode(&raw);
    assert!(matches!(transformer.apply(&raw, decoded), Err(TransformError::Columns(_))));
}

#[test]
fn an_empty_batch_stays_empty() {
    let out = run(&order_contract(ContractMode::Strict), &[] as &[&str]);
    assert!(out.events.is_empty() && out.rejects.is_empty());
}
