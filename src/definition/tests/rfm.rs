//! RFM traits.

use super::*;
use crate::profile::TraitRule;

const TRAITS: &str = "traits:
  orders:  { count: \"*\", event: Order Completed }
  revenue: { sum: \"CAST(properties.total AS DOUBLE)\", event: Order Completed }
  last:    { max: timestamp, event: Order Completed }
";

fn load_trait(text: &str) -> Result<(Pipeline, String), String> {
    let text = format!("{TRAITS}  value: {text}\n  both: {{ formula: \"value.r + value.f\" }}\n");
    load_files(&[SOURCE, ("b.yaml", &text)], Mode::Check)
}

#[test]
fn five_values_can_be_read_by_others() {
    let (pipeline, said) =
        load_trait("{ rfm: { recency: last, frequency: orders, monetary: revenue / orders, every: 1d } }").unwrap();
    assert_eq!(said, "");
    let plan = pipeline.traits.iter().find(|plan| plan.name == "value").unwrap();
    let columns: Vec<(String, ValueType)> =
        plan.columns.iter().map(|column| (column.written("value"), column.value_type)).collect();
    let value = |part: &str, value_type| (format!("value.{part}"), value_type);
    let (long, text) = (ValueType::Long, ValueType::String);
    assert_eq!(
        columns,
        [value("r", long), value("f", long), value("m", long), value("score", text), value("segment", text)]
    );
    let TraitRule::Rfm(rule) = &plan.rule else { panic!("{:?}", plan.rule) };
    assert_eq!(rule.every_us, 86_400_000_000);
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    for (text, message) in [
        ("{ rfm: { recency: last, frequency: orders, monetary: revenue } }", "needs `every`"),
        ("{ rfm: { recency: last, frequency: orders, every: 1d } }", "needs `monetary`"),
        ("{ rfm: { recency: last, frequency: orders, monetary: revenue, every: 1s } }", "is a minute at least"),
        (
            "{ rfm: { recency: orders, frequency: orders, monetary: revenue, every: 1d } }",
            "`recency` must be a timestamp",
        ),
        ("{ rfm: { recency: last, frequency: last, monetary: revenue, every: 1d } }", "`frequency` must be a number"),
        ("{ rfm: { recency: last, frequency: nothing, monetary: revenue, every: 1d } }", "`nothing`"),
        ("{ rfm: { recency: last, frequency: orders, monetary: value.m, every: 1d } }", "in a circle"),
        ("{ rfm: { recency: last, frequency: orders, monetary: revenue, every: 1d }, window: 1d }", "does not go with"),
        (
            "{ rfm: { recency: last, frequency: \"CASE WHEN last > now() - INTERVAL '1 day' THEN 1 ELSE 2 END\", \
             monetary: revenue, every: 1d } }",
            "cannot depend on now()",
        ),
    ] {
        let said = load_trait(text).expect_err(text);
        assert!(said.contains(message), "{text}\n{said}");
    }
}
