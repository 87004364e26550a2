//! Maps and steps with expressions.

use std::io::Write;

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field as ArrowField, Float64Type, Schema};
use serde_json::json;

use super::tests::*;
use super::*;

fn map_of(schema: &Schema, targets: &[(MapTarget, &str)]) -> TransformPlan {
    let scope = MapScope::new(schema);
    let compile = |sql: &str| Expression::compile(sql, &scope).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let targets = targets.iter().map(|(target, sql)| (target.clone(), MapValue::Expression(compile(sql)))).collect();
    TransformPlan { maps: BTreeMap::from([("web".into(), MapPlan { targets })]), ..Default::default() }
}

#[test]
fn a_map_makes_the_envelope_of_other_columns() {
    let customer = StructArray::from(vec![
        (Arc::new(ArrowField::new("no", DataType::Int64, true)), Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef),
        (
            Arc::new(ArrowField::new("email", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("a@b.c"), None])) as ArrayRef,
        ),
    ]);
    let amount = Decimal128Array::from(vec![Some(1250), None]).with_precision_and_scale(9, 2).unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("order_no", Arc::new(StringArray::from(vec!["o1", "o2"]))),
        ("placed_at", Arc::new(StringArray::from(vec!["2026-03-01T11:00:00Z", "2026-03-01"]))),
        ("customer", Arc::new(customer)),
        ("amount", Arc::new(amount)),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, a)| (*n, a.clone(), true))).unwrap();
    let json = |key: &str| MapTarget::Json(Root::Properties, key.to_string());
    let plan = map_of(
        &batch.schema(),
        &[
            (MapTarget::Column(column::EVENT), "'Order ' || 'Completed'"),
            (MapTarget::Column(column::MESSAGE_ID), "order_no"),
            (MapTarget::Column(column::TIMESTAMP), "placed_at"),
            (MapTarget::Column(column::CONTEXT), "customer"),
            (MapTarget::Identifier("customer_no".into()), "customer.no"),
            (MapTarget::Identifier("email".into()), "customer.email"),
            (json("order_id"), "order_no"),
            (json("total"), "amount"),
            (json("who"), "customer"),
            (json("at"), "_offset + 1"),
        ],
    );
    let out = run_columns(&plan, columns).unwrap();
    assert_eq!(codes(&out), []);
    assert_eq!(texts(&out, column::MESSAGE_ID), some(&["o1", "o2"]));
    assert_eq!(texts(&out, column::EVENT), some(&["Order Completed", "Order Completed"]));
    assert_eq!(out.events.times(column::TIMESTAMP).value(0), RECEIVED - 3_600_000_000);
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(identifiers(&out, 0), [pair("customer_no", "7"), pair("email", "a@b.c")]);
    assert_eq!(identifiers(&out, 1), [pair("customer_no", "8")]);
    let properties: Vec<serde_json::Value> = texts(&out, column::PROPERTIES)
        .iter()
        .map(|text| serde_json::from_str(text.as_ref().unwrap()).unwrap())
        .collect();
    let customer = json!({"no": 7, "email": "a@b.c"});
    assert_eq!(properties[0], json!({"order_id": "o1", "total": 12.5, "who": customer, "at": 101}));
    assert_eq!(properties[1]["total"], json!(null));
    assert_eq!(texts(&out, column::CONTEXT)[0].as_deref(), Some(r#"{"no":7,"email":"a@b.c"}"#));
}

/// A plan of steps as a definition would make it: every step sees the aliases before it, and the fields that the
/// expressions ask for are collected.
struct Steps {
    plan: TransformPlan,
    aliases: Aliases,
}

impl Steps {
    fn new() -> Self {
        Steps { plan: TransformPlan::default(), aliases: Aliases::new() }
    }

    fn compile(&mut self, sql: &str) -> Expression {
        let contracts = Contracts::compile(&self.plan.contracts).unwrap();
        let scope = EventScope::new(&contracts, None, &self.aliases);
        let expression = Expression::compile(sql, &scope).unwrap_or_else(|error| panic!("{sql}: {error}"));
        self.plan.step_fields.extend(scope.fields());
        expression
    }

    fn push(mut self, event: Option<&str>, action: Action) -> Self {
        let events = event.map(|event| vec![event.to_string()]);
        self.plan.steps.push(Step { events, sources: None, action });
        self
    }

    fn filter(mut self, event: Option<&str>, sql: &str) -> Self {
        let predicate = self.compile(sql);
        self.push(event, Action::Filter(predicate))
    }

    fn set(mut self, event: Option<&str>, pairs: &[(MapTarget, &str)]) -> Self {
        let pairs = pairs.iter().map(|(target, sql)| (target.clone(), self.compile(sql))).collect();
        self.push(event, Action::Set(pairs))
    }

    fn unnest(self, event: &str, from: &str, to: &str) -> Self {
        let from = field(from, ValueType::Json);
        self.push(Some(event), Action::Unnest { from, event: to.to_string() })
    }

    fn enrich(mut self, event: Option<&str>, table: &TablePlan, key: &str, alias: &str) -> Self {
        let key = self.compile(key);
        if self.plan.tables.iter().all(|known| known.name != table.name) {
            self.plan.tables.push(table.clone());
        }
        self.aliases.insert(alias.to_string(), table.columns.clone());
        self.push(event, Action::Enrich { table: table.name.clone(), key, alias: alias.to_string() })
    }

    fn fields(mut self, fields: &[(&str, ValueType)]) -> TransformPlan {
        self.plan.fields = fields.iter().map(|(path, value_type)| field(path, *value_type)).collect();
        self.plan
    }
}

fn json_target(path: &str) -> MapTarget {
    let (root, path) = path.split_once('.').unwrap();
    let root = match root {
        "traits" => Root::Traits,
        "context" => Root::Context,
        _ => Root::Properties,
    };
    MapTarget::Json(root, path.to_string())
}

fn catalogue() -> (tempfile::NamedTempFile, TablePlan) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"sku,category,margin\na,toys,0.5\nb,books,0.25\n").unwrap();
    let columns = [("sku", ValueType::String), ("category", ValueType::String), ("margin", ValueType::Double)];
    let columns = columns.iter().map(|(name, value_type)| (name.to_string(), *value_type)).collect();
    let plan =
        TablePlan { name: "catalogue".into(), file: file.path().into(), key: "sku".into(), columns, reload: None };
    (file, plan)
}

fn column_texts(out: &Transformed, name: &str) -> Vec<Option<String>> {
    column(out, name).as_string::<i32>().iter().map(|text| text.map(str::to_string)).collect()
}

#[test]
fn a_filter_keeps_what_is_true_and_counts_the_rest() {
    let plan = Steps::new()
        .filter(None, "context.user_agent NOT LIKE '%bot%'")
        .filter(Some("B"), "properties.n::double > 1")
        .fields(&[("properties.n", ValueType::Long)]);
    let event = |event: &str, agent: &str, n: &str| {
        format!(r#"{{"event":"{event}","context":{{"userAgent":{agent}}},"properties":{{"n":{n}}}}}"#)
    };
    let out = run(
        &plan,
        &[
            event("A", "\"Firefox\"", "0"),
            event("A", "\"some bot\"", "9"),
            event("A", "null", "9"),
            event("B", "\"x\"", "1"),
            event("B", "\"x\"", "2"),
            event("B", "\"x\"", "\"no number\""),
        ],
    );
    assert_eq!(texts(&out, column::EVENT), some(&["A", "B"]));
    assert_eq!((out.filtered, out.rejects.len()), (4, 0));
    assert_eq!(
        column(&out, "properties.n:long").as_primitive::<arrow::datatypes::Int64Type>().values().to_vec(),
        [0, 2]
    );
}

#[test]
fn set_takes_all_values_from_before_and_the_fields_follow() {
    let plan = Steps::new()
        .set(
            Some("Order"),
            &[
                (MapTarget::Column(column::MESSAGE_ID), "'order:' || properties.order_id"),
                (MapTarget::Column(column::USER_ID), "properties.nothing"),
                (MapTarget::Column(column::TIMESTAMP), "'2026-03-01T11:00:00Z'"),
                (MapTarget::Identifier("email".into()), "lower(properties.email)"),
                (MapTarget::Identifier("phone".into()), "properties.nothing"),
                (json_target("properties.order_id"), "properties.email"),
                (json_target("properties.email"), "properties.order_id"),
                (json_target("properties.deep.total"), "properties.n::double * 2"),
                (json_target("traits.email"), "properties.nothing"),
            ],
        )
        .fields(&[("properties.deep.total", ValueType::Double), ("properties.email", ValueType::String)]);
    let order = r#"{"message_id":"m","event":"Order","user_id":"u","identifiers":{"phone":"1","x":"y"},
        "properties":{"order_id":"o1","email":"A@B.C","n": 1.50,"kept": 1.50}}"#;
    let other = order.replace("\"Order\"", "\"Other\"");
    let out = run(&plan, &[other.as_str(), order, other.as_str()]);
    assert_eq!(codes(&out), []);
    assert_eq!(texts(&out, column::MESSAGE_ID), some(&["m", "order:o1", "m"]));
    assert_eq!(texts(&out, column::USER_ID)[1], None);
    assert_eq!(out.events.times(column::TIMESTAMP).values().to_vec(), [RECEIVED, RECEIVED - 3_600_000_000, RECEIVED]);
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(identifiers(&out, 1), [pair("x", "y"), pair("email", "a@b.c")]);
    assert_eq!(identifiers(&out, 0), [pair("phone", "1"), pair("x", "y")]);
    assert_eq!(
        texts(&out, column::PROPERTIES)[1].as_deref(),
        Some(r#"{"order_id":"A@B.C","email":"o1","n": 1.50,"kept": 1.50,"deep":{"total":3.0}}"#)
    );
    assert_eq!(texts(&out, column::TRAITS), [None, Some(r#"{"email":null}"#.to_string()), None]);
    let totals = column(&out, "properties.deep.total:double").as_primitive::<Float64Type>();
    assert_eq!(totals.iter().collect::<Vec<_>>(), [None, Some(3.0), None]);
    assert_eq!(column_texts(&out, "properties.email:string"), some(&["A@B.C", "o1", "A@B.C"]));
}

#[test]
fn set_may_break_a_row_which_is_then_rejected_alone() {
    let plan = Steps::new()
        .set(
            None,
            &[
                (MapTarget::Column(column::TYPE), "properties.type"),
                (MapTarget::Column(column::TIMESTAMP), "properties.at"),
            ],
        )
        .fields(&[]);
    let out = run(
        &plan,
        &[
            r#"{"event":"E","properties":{"type":"screen"}}"#,
            r#"{"event":"E","properties":{"type":"nonsense"}}"#,
            r#"{"event":"E","properties":{"at":"soon"}}"#,
            r#"{"event":"E","properties":{"at":"2999-01-01"}}"#,
        ],
    );
    assert_eq!(codes(&out), [("not_an_event", 101), ("bad_timestamp", 102)]);
    assert_eq!(texts(&out, column::TYPE), some(&["screen", "track"]));
    assert_eq!(texts(&out, column::FLAGS), [None, Some("clamped".to_string())]);
}

#[test]
fn enrich_adds_a_table_s_row_that_later_steps_can_use() {
    let (_file, table) = catalogue();
    let plan = Steps::new()
        .enrich(None, &table, "properties.sku", "product")
        .filter(None, "product.margin > 0.3 OR product.margin IS NULL")
        .set(None, &[(json_target("properties.category"), "upper(product.category)")])
        .fields(&[("product.category", ValueType::String), ("properties.category", ValueType::String)]);
    let event = |sku: &str| format!(r#"{{"event":"E","properties":{{"sku":"{sku}"}}}}"#);
    let out = run(&plan, &[event("a"), event("b"), event("z")]);
    assert_eq!(out.filtered, 1);
    assert_eq!(
        texts(&out, column::ENRICHED),
        [Some(r#"{"product":{"sku":"a","category":"toys","margin":0.5}}"#.to_string()), None]
    );
    assert_eq!(column_texts(&out, "product.category:string"), [Some("toys".to_string()), None]);
    assert_eq!(column_texts(&out, "properties.category:string"), [Some("TOYS".to_string()), None]);
}

#[test]
fn steps_run_in_their_order() {
    let (_file, table) = catalogue();
    let order =
        r#"{"message_id":"m","event":"Order","properties":{"order_id":"o1","products":[{"sku":"a"},{"sku":"b"}]}}"#;
    let id = [(MapTarget::Column(column::MESSAGE_ID), "'order:' || properties.order_id")];
    let wanted = [("product.category", ValueType::String), ("properties.sku", ValueType::String)];

    let plan = Steps::new()
        .set(Some("Order"), &id)
        .unnest("Order", "properties.products", "Product")
        .enrich(Some("Product"), &table, "properties.sku", "product")
        .fields(&wanted);
    let out = run(&plan, &[order]);
    assert_eq!(texts(&out, column::MESSAGE_ID), some(&["order:o1", "order:o1:0", "order:o1:1"]));
    let category = [None, Some("toys".to_string()), Some("books".to_string())];
    assert_eq!(column_texts(&out, "product.category:string"), category);

    let plan = Steps::new().unnest("Order", "properties.products", "Product").set(Some("Order"), &id).fields(&wanted);
    let out = run(&plan, &[order]);
    assert_eq!(texts(&out, column::MESSAGE_ID), some(&["order:o1", "m:0", "m:1"]), "the children had the old id");

    let plan = Steps::new()
        .enrich(Some("Product"), &table, "properties.sku", "product")
        .unnest("Order", "properties.products", "Product")
        .fields(&wanted);
    let out = run(&plan, &[order]);
    assert_eq!(column_texts(&out, "product.category:string"), [None, None, None], "there were no products yet");

    let plan =
        Steps::new().unnest("Order", "properties.products", "Product").filter(Some("Order"), "false").fields(&wanted);
    let out = run(&plan, &[order]);
    assert_eq!(texts(&out, column::MESSAGE_ID), some(&["m:0", "m:1"]), "children outlive their parent");
}

#[test]
fn a_json_field_is_set_as_json_and_a_step_may_be_for_one_source_only() {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"list","type":{"type":"array","items":"long"}}]}"#;
    let mut steps = Steps::new();
    steps.plan.contracts = vec![Contract { event: "E".into(), schema: schema.into(), file: "e.avsc".into() }];
    let mut plan = steps
        .set(None, &[(json_target("properties.copy"), "properties.list")])
        .set(None, &[(json_target("properties.other"), "'x'")])
        .fields(&[]);
    plan.steps[1].sources = Some(vec!["another".into()]);
    let out = run(&plan, &[r#"{"event":"E","properties":{"list":[1, 2]}}"#]);
    assert_eq!(texts(&out, column::PROPERTIES), some(&[r#"{"list":[1, 2],"copy":[1, 2]}"#]));
}

#[test]
fn a_table_is_read_again_when_told() {
    let (file, table) = catalogue();
    let plan = Steps::new()
        .enrich(None, &table, "properties.sku", "product")
        .fields(&[("product.category", ValueType::String)]);
    let raw = raw(&[r#"{"event":"E","properties":{"sku":"a"}}"#]);
    let mut decoder = crate::decode::json::JsonDecoder::new(&crate::decode::Format::JsonEnvelope).unwrap();
    let schemas = BTreeMap::from([(raw.source.clone(), decoder.schema())]);
    let mut transformer = Transformer::new(&plan, &schemas).unwrap();
    std::fs::write(file.path(), "sku,category,margin\na,games,0.5\n").unwrap();
    let before = transformer.apply(&raw, decoder.decode(&raw)).unwrap();
    transformer.reload("catalogue").unwrap();
    let after = transformer.apply(&raw, decoder.decode(&raw)).unwrap();
    assert_eq!(column_texts(&before, "product.category:string"), some(&["toys"]));
    assert_eq!(column_texts(&after, "product.category:string"), some(&["games"]));
}

#[test]
fn identifiers_can_be_read() {
    let plan = Steps::new().filter(None, "identifiers.email = 'a@b.c'").fields(&[]);
    let out = run(
        &plan,
        &[
            r#"{"event":"A","identifiers":{"x":"1","email":"a@b.c"}}"#,
            r#"{"event":"B","identifiers":{"x":"a@b.c"}}"#,
            r#"{"event":"C"}"#,
        ],
    );
    assert_eq!(texts(&out, column::EVENT), some(&["A"]));
}
