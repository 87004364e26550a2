//! Field columns: typed values taken out of the JSON texts of a batch.
//!
//! One walk over each text checks it (an object, no key twice, not too deep, numbers within range), checks it
//! against the contract of its event where there is one, and appends the wanted values to the field builders.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringArray, StringBuilder,
    TimestampMicrosecondBuilder,
};

use super::ContractMode;
use crate::decode::contract::{CompiledContract, Fields, walk};
use crate::decode::json_text::{JsonError, Token, Walked, Walker};
use crate::decode::time::{from_millis, parse_time};
use crate::event::{Field, Root, ValueType, time_type};

/// The JSON columns in the order of their checks.
pub const ROOTS: [Root; 4] = [Root::Properties, Root::Traits, Root::Context, Root::Enriched];

/// The wanted paths of all roots, as trees.
#[derive(Debug, Clone)]
pub struct FieldSet {
    fields: Vec<Field>,
    trees: [Tree; ROOTS.len()],
}

#[derive(Debug, Clone, Default)]
struct Tree {
    /// Node 0 is the text itself.
    nodes: Vec<Node>,
    /// Indices of the fields of this root.
    fields: Vec<usize>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    children: Vec<(String, usize)>,
    /// Indices into `Tree::fields`.
    wanted: Vec<usize>,
}

impl FieldSet {
    pub fn new(fields: &[Field]) -> Self {
        let mut trees: [Tree; ROOTS.len()] =
            std::array::from_fn(|_| Tree { nodes: vec![Node::default()], fields: Vec::new() });
        for (index, field) in fields.iter().enumerate() {
            let tree = &mut trees[root_index(field.root)];
            let wanted = tree.fields.len();
            tree.fields.push(index);
            tree.add(field, wanted);
        }
        FieldSet { fields: fields.to_vec(), trees }
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Walks the texts of one root: (index of a field, its column), and the rows that are at fault.
    ///
    /// A row at fault has nulls from there on; with [`ContractMode::Flag`] a row that only breaks its contract has all its
    /// values. Its error's code is then still `contract`.
    pub fn project<'c>(
        &self,
        root: Root,
        texts: &StringArray,
        contract: impl Fn(usize) -> Option<&'c CompiledContract>,
        mode: ContractMode,
    ) -> (Vec<(usize, ArrayRef)>, Vec<(usize, Box<JsonError>)>) {
        let tree = &self.trees[root_index(root)];
        let builders = tree.fields.iter().map(|index| Builder::new(&self.fields[*index], texts.len())).collect();
        let mut take = Take { tree, builders, row: 0 };
        let mut errors = Vec::new();
        for row in 0..texts.len() {
            take.row = row;
            if texts.is_valid(row) {
                let mut result = take.walk(texts.value(row), contract(row));
                if let Err(error) = &mut result
                    && error.code == "contract"
                    && mode == ContractMode::Flag
                {
                    // What was taken before the fault stays; the second walk adds what comes after it.
                    if let Err(worse) = take.walk(texts.value(row), None) {
                        *error = worse;
                    }
                }
                if let Err(error) = result {
                    errors.push((row, error));
                }
            }
            take.fill();
        }
        let columns = tree.fields.iter().copied().zip(take.builders.into_iter().map(Builder::finish));
        (columns.collect(), errors)
    }
}

fn root_index(root: Root) -> usize {
    match root {
        Root::Properties => 0,
        Root::Traits => 1,
        Root::Context => 2,
        Root::Enriched => 3,
    }
}

impl Tree {
    fn add(&mut self, field: &Field, wanted: usize) {
        // The Segment spec's own names are written in both spellings: either finds the other.
        let spellings = matches!(field.root, Root::Context | Root::Traits);
        let mut at = 0;
        for key in &field.path {
            let known = self.nodes[at].children.iter().find(|(name, _)| name == key).map(|(_, node)| *node);
            at = known.unwrap_or_else(|| {
                let node = self.nodes.len();
                self.nodes.push(Node::default());
                self.nodes[at].children.push((key.clone(), node));
                node
            });
        }
        self.nodes[at].wanted.push(wanted);
        if spellings {
            self.respell(field, wanted);
        }
    }

    /// Adds the path in the other spelling of each of its keys.
    fn respell(&mut self, field: &Field, wanted: usize) {
        for path in spellings(&field.path).into_iter().skip(1) {
            let mut at = 0;
            for key in path {
                let known = self.nodes[at].children.iter().find(|(name, _)| *name == key).map(|(_, node)| *node);
                at = known.unwrap_or_else(|| {
                    let node = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[at].children.push((key, node));
                    node
                });
            }
            if !self.nodes[at].wanted.contains(&wanted) {
                self.nodes[at].wanted.push(wanted);
            }
        }
    }
}

/// Every mixture of the spellings of a path's keys, the path as it is first. Paths are short, and most keys have one
/// spelling only.
pub fn spellings(path: &[String]) -> Vec<Vec<String>> {
    let other: Vec<String> = path.iter().map(|key| other_spelling(key)).collect();
    let mut all = vec![path.to_vec()];
    for mixture in 1..1_usize << path.len().min(6) {
        let keys = path.iter().zip(&other).enumerate();
        let mixed: Vec<String> = keys
            .map(|(index, (own, other))| if mixture >> index & 1 == 1 { other.clone() } else { own.clone() })
            .collect();
        if !all.contains(&mixed) {
            all.push(mixed);
        }
    }
    all
}

/// `user_agent` for `userAgent` and the other way round; the key itself when it has one spelling only.
fn other_spelling(key: &str) -> String {
    let mut other = String::with_capacity(key.len() + 2);
    let mut raise = false;
    for (index, character) in key.chars().enumerate() {
        if character == '_' && index > 0 {
            raise = true;
        } else if raise {
            other.extend(character.to_uppercase());
            raise = false;
        } else if character.is_ascii_uppercase() && index > 0 && !key.contains('_') {
            other.push('_');
            other.push(character.to_ascii_lowercase());
        } else {
            other.push(character);
        }
    }
    other
}

/// Appends the values of one root, row by row.
struct Take<'t> {
    tree: &'t Tree,
    builders: Vec<Builder>,
    row: usize,
}

impl Take<'_> {
    fn walk(&mut self, text: &str, contract: Option<&CompiledContract>) -> Walked<()> {
        let mut walker = Walker::new(text);
        let token = walker.begin()?;
        if token != Token::Object {
            let reason = format!("expected an object, found {}", token.kind());
            return Err(JsonError::new("not_an_object", reason, walker.start()));
        }
        let at = (!self.builders.is_empty()).then_some(0);
        walk(&mut walker, token, contract, self, at)?;
        walker.end()
    }

    /// Nulls for what the row does not have.
    fn fill(&mut self) {
        for builder in &mut self.builders {
            if builder.len() == self.row {
                builder.append_absent();
            }
        }
    }
}

impl Fields for Take<'_> {
    type At = usize;

    fn child(&self, at: usize, key: &str) -> Option<usize> {
        self.tree.nodes[at].children.iter().find(|(name, _)| name == key).map(|(_, node)| *node)
    }

    fn found(&mut self, at: usize, token: Token<'_>, text: &str) {
        for wanted in &self.tree.nodes[at].wanted {
            let builder = &mut self.builders[*wanted];
            // Where a key is there in both spellings, the first counts.
            if builder.len() == self.row {
                builder.append(token, text);
            }
        }
    }
}

enum Builder {
    Presence(BooleanBuilder),
    String(StringBuilder),
    Long(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Json(StringBuilder),
}

impl Builder {
    fn new(field: &Field, rows: usize) -> Self {
        if field.presence {
            return Builder::Presence(BooleanBuilder::with_capacity(rows));
        }
        match field.value_type {
            ValueType::String => Builder::String(StringBuilder::with_capacity(rows, rows * 16)),
            ValueType::Long => Builder::Long(Int64Builder::with_capacity(rows)),
            ValueType::Double => Builder::Double(Float64Builder::with_capacity(rows)),
            ValueType::Boolean => Builder::Boolean(BooleanBuilder::with_capacity(rows)),
            ValueType::Timestamp => {
                Builder::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(time_type()))
            }
            ValueType::Json => Builder::Json(StringBuilder::with_capacity(rows, rows * 32)),
        }
    }

    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match self {
            Builder::Presence(builder) | Builder::Boolean(builder) => builder.len(),
            Builder::String(builder) | Builder::Json(builder) => builder.len(),
            Builder::Long(builder) => builder.len(),
            Builder::Double(builder) => builder.len(),
            Builder::Timestamp(builder) => builder.len(),
        }
    }

    fn append(&mut self, token: Token<'_>, text: &str) {
        match (self, token) {
            (Builder::Presence(builder), _) => builder.append_value(true),
            (Builder::String(builder), Token::String(value)) => builder.append_value(value.decode()),
            (Builder::String(builder), Token::Number(_) | Token::Boolean(_)) => builder.append_value(text),
            (Builder::String(builder), _) => builder.append_null(),
            (Builder::Long(builder), Token::Number(number)) => builder.append_option(number.long()),
            (Builder::Long(builder), _) => builder.append_null(),
            (Builder::Double(builder), Token::Number(number)) => builder.append_value(number.double()),
            (Builder::Double(builder), _) => builder.append_null(),
            (Builder::Boolean(builder), Token::Boolean(value)) => builder.append_value(value),
            (Builder::Boolean(builder), _) => builder.append_null(),
            (Builder::Timestamp(builder), Token::String(value)) => builder.append_option(parse_time(&value.decode())),
            (Builder::Timestamp(builder), Token::Number(number)) => {
                builder.append_option(number.long().and_then(from_millis));
            }
            (Builder::Timestamp(builder), _) => builder.append_null(),
            (Builder::Json(builder), Token::Null) => builder.append_null(),
            (Builder::Json(builder), _) => builder.append_value(text),
        }
    }

    /// For a row without the path.
    fn append_absent(&mut self) {
        match self {
            Builder::Presence(builder) => builder.append_value(false),
            Builder::Boolean(builder) => builder.append_null(),
            Builder::String(builder) | Builder::Json(builder) => builder.append_null(),
            Builder::Long(builder) => builder.append_null(),
            Builder::Double(builder) => builder.append_null(),
            Builder::Timestamp(builder) => builder.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Builder::Presence(mut builder) | Builder::Boolean(mut builder) => Arc::new(builder.finish()),
            Builder::String(mut builder) | Builder::Json(mut builder) => Arc::new(builder.finish()),
            Builder::Long(mut builder) => Arc::new(builder.finish()),
            Builder::Double(mut builder) => Arc::new(builder.finish()),
            Builder::Timestamp(mut builder) => Arc::new(builder.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, BooleanArray};
    use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn field(root: Root, path: &[&str], value_type: ValueType, presence: bool) -> Field {
        Field { root, path: path.iter().map(|key| key.to_string()).collect(), value_type, presence }
    }

    fn project(fields: &[Field], root: Root, texts: &[Option<&str>]) -> (Vec<ArrayRef>, Vec<(usize, Box<JsonError>)>) {
        let texts = StringArray::from(texts.to_vec());
        let (columns, errors) = FieldSet::new(fields).project(root, &texts, |_| None, ContractMode::Strict);
        (columns.into_iter().map(|(_, column)| column).collect(), errors)
    }

    const TYPES: [ValueType; 6] = [
        ValueType::String,
        ValueType::Long,
        ValueType::Double,
        ValueType::Boolean,
        ValueType::Timestamp,
        ValueType::Json,
    ];

    /// What a field's column holds, as JSON; by looking the path up in a parsed value.
    fn oracle(value: &Value, field: &Field) -> Value {
        let found = field.path.iter().try_fold(value, |value, key| value.as_object()?.get(key));
        if field.presence {
            return json!(found.is_some());
        }
        let Some(found) = found else { return Value::Null };
        match (field.value_type, found) {
            (ValueType::String, Value::String(text)) => json!(text),
            (ValueType::String, Value::Number(_) | Value::Bool(_)) => json!(found.to_string()),
            (ValueType::Long, Value::Number(number)) => {
                json!(
                    number
                        .as_i64()
                        .or_else(|| number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64))
                )
            }
            (ValueType::Double, Value::Number(number)) => json!(number.as_f64()),
            (ValueType::Boolean, Value::Bool(value)) => json!(value),
            (ValueType::Timestamp, Value::Number(number)) if number.is_i64() => {
                json!(number.as_i64().and_then(|millis| millis.checked_mul(1000)))
            }
            (ValueType::Timestamp, Value::Number(number)) => {
                json!(number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64 * 1000))
            }
            (ValueType::Json, Value::Null) => Value::Null,
            (ValueType::Json, found) => json!(found.to_string()),
            _ => Value::Null,
        }
    }

    fn at(column: &ArrayRef, field: &Field, row: usize) -> Value {
        if column.is_null(row) {
            return Value::Null;
        }
        match field.value_type {
            _ if field.presence => json!(column.as_boolean().value(row)),
            ValueType::Boolean => json!(column.as_boolean().value(row)),
            ValueType::String | ValueType::Json => json!(column.as_string::<i32>().value(row)),
            ValueType::Long => json!(column.as_primitive::<Int64Type>().value(row)),
            ValueType::Double => json!(column.as_primitive::<Float64Type>().value(row)),
            ValueType::Timestamp => json!(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1000_i64..1000).prop_map(|whole| json!(whole as f64)),
            (-1e6_f64..1e6).prop_map(Value::from),
            "[a-z\"\\\\\u{0}-\u{1f}äß😀]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn fields_equal_a_look_up_in_the_parsed_value(
            rows in prop::collection::vec(prop::option::of(prop::collection::btree_map("[abc]", any_json(), 0..4)), 1..6)
        ) {
            let rows: Vec<Option<Value>> =
                rows.into_iter().map(|row| row.map(|map| Value::Object(map.into_iter().collect()))).collect();
            let mut fields = Vec::new();
            for path in [vec!["a"], vec!["b"], vec!["a", "b"], vec!["a", "b", "c"], vec!["c", "a"], vec![]] {
                fields.extend(TYPES.map(|value_type| field(Root::Properties, &path, value_type, false)));
                fields.push(field(Root::Properties, &path, ValueType::Json, true));
            }
            let texts: Vec<Option<String>> = rows.iter().map(|row| row.as_ref().map(Value::to_string)).collect();
            let texts: Vec<Option<&str>> = texts.iter().map(|text| text.as_deref()).collect();
            let (columns, errors) = project(&fields, Root::Properties, &texts);
            prop_assert!(errors.is_empty(), "{:?}", errors);
            for (column, field) in columns.iter().zip(&fields) {
                prop_assert_eq!(column.len(), rows.len());
                for (index, row) in rows.iter().enumerate() {
                    let expect = match row {
                        Some(row) => oracle(row, field),
                        None => if field.presence { json!(false) } else { Value::Null },
                    };
                    prop_assert_eq!(at(column, field, index), expect, "{} of {:?}", field.column_name(), row);
                }
            }
        }
    }

    #[test]
    fn values_are_kept_to_the_letter_and_a_null_is_present() {
        let fields = [
            field(Root::Properties, &["total"], ValueType::String, false),
            field(Root::Properties, &["at"], ValueType::Timestamp, false),
            field(Root::Properties, &["list"], ValueType::Json, false),
            field(Root::Properties, &["gone"], ValueType::String, true),
        ];
        let text = r#"{"total": 1.50, "at": "2026-03-01T12:00:00Z", "list": [1, 2.0], "gone": null}"#;
        let (columns, errors) = project(&fields, Root::Properties, &[Some(text), None, Some("{}")]);
        assert!(errors.is_empty());
        assert_eq!(columns[0].as_string::<i32>().value(0), "1.50");
        assert_eq!(columns[1].as_primitive::<TimestampMicrosecondType>().value(0), 1_772_366_400_000_000);
        assert_eq!(columns[2].as_string::<i32>().value(0), "[1, 2.0]");
        assert_eq!(columns[3].as_boolean(), &BooleanArray::from(vec![true, false, false]));
    }

    #[test]
    fn context_and_traits_are_found_in_both_spellings() {
        for (written, read) in [("user_agent", "userAgent"), ("userAgent", "user_agent"), ("userAgent", "userAgent")] {
            let fields = [field(Root::Context, &["device", read], ValueType::String, false)];
            let text = format!(r#"{{"device":{{"{written}":"x"}}}}"#);
            let (columns, _) = project(&fields, Root::Context, &[Some(&text)]);
            assert_eq!(columns[0].as_string::<i32>().value(0), "x", "{written} read as {read}");
        }
        let exact = [field(Root::Properties, &["user_agent"], ValueType::String, false)];
        let (columns, _) = project(&exact, Root::Properties, &[Some(r#"{"userAgent":"x"}"#)]);
        assert!(columns[0].is_null(0), "properties are the producer's own names");
    }

    #[test]
    fn a_bad_text_is_named_and_the_rows_around_it_keep_their_values() {
        let fields = [field(Root::Properties, &["a"], ValueType::Long, false)];
        let texts = [Some(r#"{"a":1}"#), Some(r#"{"a":2,"b":}"#), Some("[]"), Some(r#"{"a":4}"#)];
        let (columns, errors) = project(&fields, Root::Properties, &texts);
        assert_eq!(
            errors.iter().map(|(row, error)| (*row, error.code)).collect::<Vec<_>>(),
            [(1, "not_json"), (2, "not_an_object")]
        );
        let values = columns[0].as_primitive::<Int64Type>();
        assert_eq!((values.value(0), values.value(3), values.len()), (1, 4, 4));
    }

    #[test]
    fn a_flagged_row_keeps_all_its_values() {
        let schema = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"long"}]}"#;
        let contract = CompiledContract::compile(schema).unwrap();
        let fields = ["a", "b"].map(|key| field(Root::Properties, &[key], ValueType::String, false));
        let texts = StringArray::from(vec![r#"{"a":"x","b":2}"#]);
        let (columns, errors) =
            FieldSet::new(&fields).project(Root::Properties, &texts, |_| Some(&contract), ContractMode::Flag);
        assert_eq!(errors[0].1.code, "contract");
        let values: Vec<&str> = columns.iter().map(|(_, column)| column.as_string::<i32>().value(0)).collect();
        assert_eq!(values, ["x", "2"]);
    }
}
