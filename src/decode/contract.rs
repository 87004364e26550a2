//! Contracts: an Avro record, compiled, that JSON values are checked against.
//!
//! [`walk`] goes once through a JSON value, checks it against the contract where there is one, and hands the values
//! at chosen paths to a [`Fields`] sink. Fields that a contract does not know are fine. What Avro's types mean in
//! JSON: a whole number may be written `12.0`; a `timestamp` is RFC 3339 text or an integer, a `date` is text,
//! a `decimal` a number or its text; `bytes` and `fixed` are text; a union is written as its plain value, without
//! naming the branch. A field is required unless it has a default or may be null.

use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema;
use arrow::datatypes::{
    DataType, Field as ArrowField, Fields as ArrowFields, Schema as ArrowSchema, SchemaRef, TimeUnit,
};
use smallvec::{SmallVec, smallvec};

use super::json_text::{JsonError, Token, Walked, Walker, shorten};
use super::time::parse_time;
use crate::event::ValueType;

/// Takes values out of a JSON text while it is walked.
pub trait Fields {
    /// A place in the tree of wanted paths.
    type At: Copy;

    fn child(&self, at: Self::At, key: &str) -> Option<Self::At>;

    /// The value at a wanted place: its token and its text to the letter.
    fn found(&mut self, at: Self::At, token: Token<'_>, text: &str);

    /// A field that the contract has a default for is missing in the object that opens before `open`.
    fn defaulted(&mut self, open: usize, empty: bool, name: &str, default: &str) {
        let _ = (open, empty, name, default);
    }
}

/// Takes nothing: a walk that only checks.
impl Fields for () {
    type At = ();

    fn child(&self, _: (), _: &str) -> Option<()> {
        None
    }

    fn found(&mut self, _: (), _: Token<'_>, _: &str) {}
}

/// An Avro record schema as a flat list of shapes.
#[derive(Debug, Clone)]
pub struct CompiledContract {
    shapes: Vec<Shape>,
    root: usize,
}

#[derive(Debug, Clone)]
enum Shape {
    /// Unions of several containers are not looked into.
    Any,
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    String,
    Bytes,
    Uuid,
    Enum(Vec<String>),
    Timestamp(TimeUnit, bool),
    Date,
    Time(TimeUnit),
    Decimal(u8, i8),
    Record(Record),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
}

#[derive(Debug, Clone)]
struct Record {
    name: String,
    fields: Vec<RecordField>,
}

#[derive(Debug, Clone)]
struct RecordField {
    name: String,
    shape: usize,
    required: bool,
    /// As JSON text.
    default: Option<String>,
}

impl Record {
    /// Fields mostly come in the schema's order: the search begins after the one found last.
    fn find(&self, name: &str, hint: &mut usize) -> Option<usize> {
        let count = self.fields.len();
        let found = (0..count).map(|step| (*hint + step) % count).find(|index| self.fields[*index].name == name)?;
        *hint = found + 1;
        Some(found)
    }
}

impl CompiledContract {
    /// Compiles an Avro schema given as JSON text.
    ///
    /// # Errors
    /// What is wrong with the schema, for people: not Avro, or not a record.
    pub fn compile(schema: &str) -> Result<CompiledContract, String> {
        let schema = Schema::parse_str(schema).map_err(|error| format!("not an Avro schema: {error}"))?;
        if !matches!(schema, Schema::Record(_)) {
            return Err("a contract must be an Avro record".to_string());
        }
        let mut contract = CompiledContract { shapes: Vec::new(), root: 0 };
        contract.root = contract.add(&schema, &mut HashMap::new())?;
        Ok(contract)
    }

    fn add(&mut self, schema: &Schema, named: &mut HashMap<String, usize>) -> Result<usize, String> {
        if let Schema::Ref { name } = schema {
            let known = named.get(&name.fullname(None)).copied();
            return known.ok_or_else(|| format!("the schema names {}, which it does not define", name.fullname(None)));
        }
        // The place is taken before the parts are, so that a record may refer to itself.
        let index = self.shapes.len();
        self.shapes.push(Shape::Any);
        if let Some(name) = schema.name() {
            named.insert(name.fullname(None), index);
        }
        self.shapes[index] = match schema {
            Schema::Null => Shape::Null,
            Schema::Boolean => Shape::Boolean,
            Schema::Int => Shape::Int,
            Schema::Long => Shape::Long,
            Schema::Float => Shape::Float,
            Schema::Double | Schema::BigDecimal => Shape::Double,
            Schema::String => Shape::String,
            Schema::Bytes | Schema::Fixed(_) | Schema::Duration(_) => Shape::Bytes,
            Schema::Uuid(_) => Shape::Uuid,
            Schema::Enum(schema) => Shape::Enum(schema.symbols.clone()),
            Schema::Decimal(decimal) => {
                let precision = u8::try_from(decimal.precision).ok().filter(|precision| *precision <= 38);
                let scale = i8::try_from(decimal.scale).ok();
                let (Some(precision), Some(scale)) = (precision, scale) else {
                    return Err("decimals have at most 38 digits".to_string());
                };
                Shape::Decimal(precision, scale)
            }
            Schema::Date => Shape::Date,
            Schema::TimeMillis => Shape::Time(TimeUnit::Millisecond),
            Schema::TimeMicros => Shape::Time(TimeUnit::Microsecond),
            Schema::TimestampMillis => Shape::Timestamp(TimeUnit::Millisecond, true),
            Schema::TimestampMicros => Shape::Timestamp(TimeUnit::Microsecond, true),
            Schema::TimestampNanos => Shape::Timestamp(TimeUnit::Nanosecond, true),
            Schema::LocalTimestampMillis => Shape::Timestamp(TimeUnit::Millisecond, false),
            Schema::LocalTimestampMicros => Shape::Timestamp(TimeUnit::Microsecond, false),
            Schema::LocalTimestampNanos => Shape::Timestamp(TimeUnit::Nanosecond, false),
            Schema::Array(array) => Shape::Array(self.add(&array.items, named)?),
            Schema::Map(map) => Shape::Map(self.add(&map.types, named)?),
            Schema::Union(union) => {
                let branches: Result<Vec<_>, _> =
                    union.variants().iter().map(|branch| self.add(branch, named)).collect();
                Shape::Union(branches?)
            }
            Schema::Record(record) => {
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    let shape = self.add(&field.schema, named)?;
                    let default = field.default.as_ref().map(|default| default.to_string());
                    let required = default.is_none() && !self.nullable(shape);
                    fields.push(RecordField { name: field.name.clone(), shape, required, default });
                }
                Shape::Record(Record { name: record.name.name().to_string(), fields })
            }
            Schema::Ref { .. } => Shape::Any, // answered above
        };
        Ok(index)
    }

    /// Checks a whole text.
    ///
    /// # Errors
    /// As for [`walk`].
    pub fn check(&self, text: &str) -> Walked<()> {
        let mut walker = Walker::new(text);
        let token = walker.begin()?;
        walk(&mut walker, token, Some(self), &mut (), None)?;
        walker.end()
    }

    fn nullable(&self, shape: usize) -> bool {
        match &self.shapes[shape] {
            Shape::Null | Shape::Any => true,
            Shape::Union(branches) => branches.iter().any(|branch| self.nullable(*branch)),
            _ => false,
        }
    }

    /// A nullable union's only other branch, else the shape itself.
    fn inner(&self, shape: usize) -> usize {
        match &self.shapes[shape] {
            Shape::Union(branches) => {
                let mut rest = branches.iter().filter(|branch| !matches!(self.shapes[**branch], Shape::Null));
                match (rest.next(), rest.next()) {
                    (Some(only), None) => *only,
                    _ => shape,
                }
            }
            _ => shape,
        }
    }

    /// The type of the value at a path; None when the contract does not know the path.
    pub fn value_type(&self, path: &[impl AsRef<str>]) -> Option<ValueType> {
        let mut at = self.root;
        for key in path {
            at = match &self.shapes[self.inner(at)] {
                Shape::Record(record) => record.fields.iter().find(|field| field.name == key.as_ref())?.shape,
                Shape::Map(values) => *values,
                Shape::Any => return Some(ValueType::Json),
                _ => return None,
            };
        }
        Some(self.leaf_type(at))
    }

    fn leaf_type(&self, shape: usize) -> ValueType {
        match &self.shapes[self.inner(shape)] {
            Shape::Boolean => ValueType::Boolean,
            Shape::Int | Shape::Long => ValueType::Long,
            Shape::Float | Shape::Double | Shape::Decimal(..) => ValueType::Double,
            Shape::String | Shape::Bytes | Shape::Uuid | Shape::Enum(_) | Shape::Time(_) => ValueType::String,
            Shape::Timestamp(..) | Shape::Date => ValueType::Timestamp,
            Shape::Union(branches) => {
                let known = branches.iter().filter(|branch| !matches!(self.shapes[**branch], Shape::Null));
                known.map(|branch| self.leaf_type(*branch)).reduce(unify).unwrap_or(ValueType::Json)
            }
            Shape::Any | Shape::Null | Shape::Record(_) | Shape::Array(_) | Shape::Map(_) => ValueType::Json,
        }
    }

    /// Every path the contract names, with dots, outermost first.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.add_paths(self.root, "", 0, &mut paths);
        paths
    }

    fn add_paths(&self, shape: usize, prefix: &str, depth: usize, paths: &mut Vec<String>) {
        let Shape::Record(record) = &self.shapes[self.inner(shape)] else { return };
        for field in &record.fields {
            let path = if prefix.is_empty() { field.name.clone() } else { format!("{prefix}.{}", field.name) };
            paths.push(path.clone());
            if depth < 8 {
                self.add_paths(field.shape, &path, depth + 1, paths);
            }
        }
    }

    /// The columns that values of this shape have.
    ///
    /// # Errors
    /// Names the field whose type has no column: a record inside itself, a union of containers.
    pub fn arrow_schema(&self) -> Result<SchemaRef, String> {
        let Shape::Record(record) = &self.shapes[self.root] else { return Err("not a record".to_string()) };
        Ok(Arc::new(ArrowSchema::new(self.arrow_fields(record, 0)?)))
    }

    fn arrow_fields(&self, record: &Record, depth: usize) -> Result<ArrowFields, String> {
        let field = |field: &RecordField| {
            let data_type = self.arrow_type(field.shape, depth + 1).map_err(|why| format!("{}: {why}", field.name))?;
            Ok(Arc::new(ArrowField::new(&field.name, data_type, true)))
        };
        record.fields.iter().map(field).collect::<Result<Vec<_>, String>>().map(ArrowFields::from)
    }

    fn arrow_type(&self, shape: usize, depth: usize) -> Result<DataType, String> {
        if depth > 32 {
            return Err("a record that holds itself has no columns".to_string());
        }
        Ok(match &self.shapes[self.inner(shape)] {
            Shape::Null => DataType::Null,
            Shape::Boolean => DataType::Boolean,
            Shape::Int => DataType::Int32,
            Shape::Long => DataType::Int64,
            Shape::Float => DataType::Float32,
            Shape::Double => DataType::Float64,
            Shape::String | Shape::Bytes | Shape::Uuid | Shape::Enum(_) => DataType::Utf8,
            Shape::Timestamp(unit, utc) => DataType::Timestamp(*unit, utc.then(|| "UTC".into())),
            Shape::Date => DataType::Date32,
            Shape::Time(TimeUnit::Millisecond) => DataType::Time32(TimeUnit::Millisecond),
            Shape::Time(unit) => DataType::Time64(*unit),
            Shape::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale),
            Shape::Record(record) => DataType::Struct(self.arrow_fields(record, depth)?),
            Shape::Array(items) => {
                DataType::List(Arc::new(ArrowField::new_list_field(self.arrow_type(*items, depth + 1)?, true)))
            }
            Shape::Map(values) => {
                let entries = ArrowFields::from(vec![
                    ArrowField::new("keys", DataType::Utf8, false),
                    ArrowField::new("values", self.arrow_type(*values, depth + 1)?, true),
                ]);
                DataType::Map(Arc::new(ArrowField::new("entries", DataType::Struct(entries), false)), false)
            }
            Shape::Union(_) => match self.leaf_type(shape) {
                ValueType::Json => return Err("a union of several objects or arrays has no column".to_string()),
                value_type => value_type.arrow(),
            },
            Shape::Any => return Err("a type without a column".to_string()),
        })
    }

    /// The shape that a value which begins with `token` has, unions resolved; None when none accepts it.
    fn choose(&self, shape: usize, token: &Token<'_>) -> Option<usize> {
        let accepted = match (&self.shapes[shape], token) {
            (Shape::Union(branches), _) => {
                let mut fitting = branches.iter().filter_map(|branch| self.choose(*branch, token));
                let first = fitting.next()?;
                let containers = matches!(token, Token::Array | Token::Object);
                // Which of several records was meant cannot be told from the opening bracket: not looked into.
                return Some(if containers && fitting.next().is_some() { shape } else { first });
            }
            (Shape::Any, _) => true,
            (Shape::Null, token) => matches!(token, Token::Null),
            (Shape::Boolean, token) => matches!(token, Token::Boolean(_)),
            (Shape::Int, Token::Number(number)) => number.long().is_some_and(|long| i32::try_from(long).is_ok()),
            (Shape::Long, Token::Number(number)) => number.long().is_some(),
            (Shape::Float | Shape::Double, token) => matches!(token, Token::Number(_)),
            (Shape::String | Shape::Bytes | Shape::Uuid, token) => matches!(token, Token::String(_)),
            (Shape::Enum(symbols), Token::String(text)) => symbols.iter().any(|symbol| *symbol == text.decode()),
            (Shape::Timestamp(..), Token::Number(number)) => number.integer,
            (Shape::Timestamp(..) | Shape::Date, Token::String(text)) => parse_time(&text.decode()).is_some(),
            (Shape::Time(_), token) => matches!(token, Token::String(_) | Token::Number(_)),
            (Shape::Decimal(..), Token::Number(_)) => true,
            (Shape::Decimal(..), Token::String(text)) => text.decode().parse::<f64>().is_ok_and(f64::is_finite),
            (Shape::Record(_) | Shape::Map(_), token) => matches!(token, Token::Object),
            (Shape::Array(_), token) => matches!(token, Token::Array),
            _ => false,
        };
        accepted.then_some(shape)
    }

    /// What a shape wants, for messages.
    fn wanted(&self, shape: usize) -> String {
        match &self.shapes[shape] {
            Shape::Any => "any value".to_string(),
            Shape::Null => "null".to_string(),
            Shape::Boolean => "true or false (boolean)".to_string(),
            Shape::Int => "a whole number (int)".to_string(),
            Shape::Long => "a whole number (long)".to_string(),
            Shape::Float => "a number (float)".to_string(),
            Shape::Double => "a number (double)".to_string(),
            Shape::String => "a string".to_string(),
            Shape::Bytes => "a string (bytes)".to_string(),
            Shape::Uuid => "a string (uuid)".to_string(),
            Shape::Enum(symbols) => format!("one of {}", symbols.join(", ")),
            Shape::Timestamp(..) => "a time (RFC 3339 text or an integer)".to_string(),
            Shape::Date => "a date (text)".to_string(),
            Shape::Time(_) => "a time of day".to_string(),
            Shape::Decimal(precision, scale) => format!("a number (decimal {precision}, {scale})"),
            Shape::Record(record) => format!("an object ({})", record.name),
            Shape::Map(_) => "an object (map)".to_string(),
            Shape::Array(_) => "an array".to_string(),
            Shape::Union(branches) => {
                branches.iter().map(|branch| self.wanted(*branch)).collect::<Vec<_>>().join(" or ")
            }
        }
    }
}

/// The type that holds values of both: whole numbers and doubles are doubles, everything else is text or JSON.
pub fn unify(one: ValueType, other: ValueType) -> ValueType {
    use ValueType::{Double, Json, Long, String};
    match (one, other) {
        (one, other) if one == other => one,
        (Long, Double) | (Double, Long) => Double,
        (Json, _) | (_, Json) => Json,
        _ => String,
    }
}

/// Walks the value whose `token` was read last, against the contract's record where one is given.
///
/// # Errors
/// The walker's own, and `contract` for a value that the contract does not allow.
pub fn walk<'a, F: Fields>(
    walker: &mut Walker<'a>,
    token: Token<'a>,
    contract: Option<&CompiledContract>,
    fields: &mut F,
    at: Option<F::At>,
) -> Walked<()> {
    walk_value(walker, token, contract.map(|contract| (contract, contract.root)), fields, at)
}

fn walk_value<'a, F: Fields>(
    walker: &mut Walker<'a>,
    token: Token<'a>,
    expected: Option<(&CompiledContract, usize)>,
    fields: &mut F,
    at: Option<F::At>,
) -> Walked<()> {
    if expected.is_none() && at.is_none() {
        return walker.skip(token);
    }
    let start = walker.start();
    let expected = match expected {
        None => None,
        Some((contract, shape)) => match contract.choose(shape, &token) {
            Some(shape) => Some((contract, shape)),
            None => return Err(mismatch(contract, shape, &token, start)),
        },
    };
    match token {
        Token::Object => walk_object(walker, expected, fields, at)?,
        Token::Array => {
            let items = expected.and_then(|(contract, shape)| match contract.shapes[shape] {
                Shape::Array(items) => Some((contract, items)),
                _ => None,
            });
            let mut index = 0;
            while walker.next_element()? {
                let item = walker.begin()?;
                walk_value(walker, item, items, fields, None).map_err(|error| error.under(format!("[{index}]")))?;
                index += 1;
            }
        }
        _ => {}
    }
    if let Some(at) = at {
        fields.found(at, token, walker.text_from(start));
    }
    Ok(())
}

fn walk_object<'a, F: Fields>(
    walker: &mut Walker<'a>,
    expected: Option<(&CompiledContract, usize)>,
    fields: &mut F,
    at: Option<F::At>,
) -> Walked<()> {
    let shape = expected.map(|(contract, shape)| (contract, &contract.shapes[shape]));
    let open = walker.at();
    let (mut hint, mut empty) = (0, true);
    let mut seen: SmallVec<[bool; 32]> = match shape {
        Some((_, Shape::Record(record))) => smallvec![false; record.fields.len()],
        _ => SmallVec::new(),
    };
    while let Some(key) = walker.next_key()? {
        empty = false;
        let key = key.decode();
        let inner = match shape {
            Some((contract, Shape::Record(record))) => record.find(&key, &mut hint).map(|index| {
                seen[index] = true;
                (contract, record.fields[index].shape)
            }),
            Some((contract, Shape::Map(values))) => Some((contract, *values)),
            _ => None,
        };
        let child = at.and_then(|at| fields.child(at, &key));
        let token = walker.begin()?;
        walk_value(walker, token, inner, fields, child).map_err(|error| error.under(key))?;
    }
    if let Some((contract, Shape::Record(record))) = shape {
        for (field, _) in record.fields.iter().zip(&seen).filter(|(_, seen)| !**seen) {
            if field.required {
                let reason = format!("missing, expected {}", contract.wanted(field.shape));
                return Err(JsonError::new("contract", reason, walker.at().saturating_sub(1)).under(&field.name));
            }
            if let Some(default) = &field.default {
                fields.defaulted(open, empty, &field.name, default);
            }
        }
    }
    Ok(())
}

fn mismatch(contract: &CompiledContract, shape: usize, token: &Token<'_>, offset: usize) -> Box<JsonError> {
    let found = match token {
        Token::Number(number) => shorten(number.text),
        Token::String(text) => shorten(text.quoted()),
        Token::Boolean(value) => value.to_string(),
        other => other.kind().to_string(),
    };
    JsonError::new("contract", format!("expected {}, found {found}", contract.wanted(shape)), offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = r#"{"type":"record","name":"Order","fields":[
        {"name":"order_id","type":"string"},
        {"name":"total","type":"double"},
        {"name":"items","type":["null","long"]},
        {"name":"count","type":"int","default":1},
        {"name":"paid","type":["null","boolean"],"default":null},
        {"name":"currency","type":["null",{"type":"enum","name":"Currency","symbols":["EUR","USD"]}],"default":null},
        {"name":"placed_at","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null},
        {"name":"price","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}],"default":null},
        {"name":"code","type":["null","long","string"],"default":null},
        {"name":"labels","type":["null",{"type":"map","values":"string"}],"default":null},
        {"name":"products","type":{"type":"array","items":{"type":"record","name":"Product","fields":[
            {"name":"sku","type":"string"},{"name":"quantity","type":"long"},
            {"name":"same","type":["null","Currency"],"default":null}]}},"default":[]}]}"#;

    fn check(text: &str) -> Result<(), String> {
        let contract = CompiledContract::compile(ORDER).unwrap();
        contract.check(text).map_err(|error| error.message("properties"))
    }

    #[test]
    fn a_broken_contract_names_the_path_what_was_wanted_and_what_was_found() {
        let with = |extra: &str| format!(r#"{{"order_id":"o1","total":1.5{extra}}}"#);
        let cases: &[(&str, &str)] = &[
            (r#"{"total":1}"#, "properties.order_id: missing, expected a string"),
            (r#"{"order_id":null,"total":1}"#, "properties.order_id: expected a string, found null"),
            (r#"{"order_id":7,"total":1}"#, "properties.order_id: expected a string, found 7"),
            (r#"{"order_id":"o1","total":"12,50"}"#, "properties.total: expected a number (double), found \"12,50\""),
            (&with(r#","items":1.5"#), "properties.items: expected null or a whole number (long), found 1.5"),
            (&with(r#","items":true"#), "properties.items: expected null or a whole number (long), found true"),
            (&with(r#","count":3000000000"#), "properties.count: expected a whole number (int), found 3000000000"),
            (&with(r#","count":null"#), "properties.count: expected a whole number (int), found null"),
            (&with(r#","paid":"yes""#), "properties.paid: expected null or true or false (boolean), found \"yes\""),
            (&with(r#","currency":"GBP""#), "properties.currency: expected null or one of EUR, USD, found \"GBP\""),
            (&with(r#","labels":{"a":1}"#), "properties.labels.a: expected a string, found 1"),
            (&with(r#","products":{}"#), "properties.products: expected an array, found an object"),
            (
                &with(r#","products":[{"sku":"a","quantity":1},{"sku":"b"}]"#),
                "properties.products[1].quantity: missing, expected a whole number (long)",
            ),
            (
                &with(r#","products":[{"sku":[],"quantity":1}]"#),
                "properties.products[0].sku: expected a string, found an array",
            ),
            ("[]", "properties: expected an object (Order), found an array"),
        ];
        for (text, expect) in cases {
            assert_eq!(check(text).unwrap_err(), *expect, "{text}");
        }
        let time = check(&with(r#","placed_at":"soon""#)).unwrap_err();
        assert!(time.starts_with("properties.placed_at: expected null or a time"), "{time}");
    }

    #[test]
    fn what_the_contract_allows_passes() {
        for extra in [
            "",
            r#","items":null,"paid":null"#,
            r#","items":12.0,"count":7"#,
            r#","placed_at":"2026-03-01T10:00:00Z""#,
            r#","placed_at":1772366400000,"price":"12.50""#,
            r#","code":"a""#,
            r#","code":7,"labels":{"a":"b"}"#,
            r#","products":[{"quantity":1,"sku":"a","same":"EUR","unknown":{"x":[1]}}]"#,
            r#","something_else":[1,2,{"deep":null}]"#,
        ] {
            check(&format!(r#"{{"total":1,"order_id":"o1"{extra}}}"#)).unwrap();
        }
    }

    #[test]
    fn paths_have_the_types_of_the_contract() {
        let contract = CompiledContract::compile(ORDER).unwrap();
        for (path, expect) in [
            ("total", Some(ValueType::Double)),
            ("items", Some(ValueType::Long)),
            ("currency", Some(ValueType::String)),
            ("placed_at", Some(ValueType::Timestamp)),
            ("price", Some(ValueType::Double)),
            ("code", Some(ValueType::String)),
            ("labels", Some(ValueType::Json)),
            ("labels.anything", Some(ValueType::String)),
            ("products", Some(ValueType::Json)),
            ("products.sku", None),
            ("totl", None),
        ] {
            assert_eq!(contract.value_type(&path.split('.').collect::<Vec<_>>()), expect, "{path}");
        }
        assert!(contract.paths().contains(&"labels".to_string()));
    }

    #[test]
    fn a_record_may_hold_itself_but_not_as_columns() {
        let tree = r#"{"type":"record","name":"T","namespace":"a.b","fields":[{"name":"t","type":["null","T"],"default":null}]}"#;
        let contract = CompiledContract::compile(tree).unwrap();
        let mut walker = Walker::new(r#"{"t":{"t":{"t":1}}}"#);
        let token = walker.begin().unwrap();
        let error = walk(&mut walker, token, Some(&contract), &mut (), None).unwrap_err();
        assert_eq!(error.message(""), "t.t.t: expected null or an object (T), found 1");
        assert!(contract.arrow_schema().is_err());
        assert!(CompiledContract::compile("\"string\"").is_err());
        assert!(CompiledContract::compile("{").is_err());
    }
}
