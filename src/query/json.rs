//! ClickHouse's JSON functions for the lake: `JSONExtractString(json, path…)`, `…Float`, `…Int`, `…Bool`, `…Raw`, `JSONHas`.
//!
//! A path is made of keys and of positions (from 1, or from the end with -1; in objects too). What is missing, or of a
//! type that does not fit, is the empty text, 0 or false; null only for a null input. Numbers are read into the type
//! asked for; in texts (`…String` of an object, `…Raw`) they are written as ClickHouse writes them: 12.50 as 12.5.
//! The tests hold answers of the real engine.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub fn functions() -> Vec<ScalarUDF> {
    use Function::*;
    [ExtractString, ExtractFloat, ExtractInt, ExtractBool, ExtractRaw, Has]
        .into_iter()
        .map(|function| ScalarUDF::from(JsonFunction::new(function)))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Function {
    ExtractString,
    ExtractFloat,
    ExtractInt,
    ExtractBool,
    ExtractRaw,
    Has,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::ExtractString => "JSONExtractString",
            Function::ExtractFloat => "JSONExtractFloat",
            Function::ExtractInt => "JSONExtractInt",
            Function::ExtractBool => "JSONExtractBool",
            Function::ExtractRaw => "JSONExtractRaw",
            Function::Has => "JSONHas",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    function: Function,
    signature: Signature,
    /// The planner looks functions up in lower case unless they are quoted.
    aliases: Vec<String>,
}

impl JsonFunction {
    fn new(function: Function) -> Self {
        let signature = Signature::variadic_any(Volatility::Immutable);
        JsonFunction { function, signature, aliases: vec![function.name().to_lowercase()] }
    }
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let text = |data_type: &DataType| {
            matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
        };
        if !arguments.first().is_some_and(text) {
            return plan_err!("{} takes a JSON text first", self.name());
        }
        if let Some(wrong) = arguments.iter().skip(1).find(|data_type| !text(data_type) && !data_type.is_integer()) {
            return plan_err!("{}: a path is made of keys (text) and positions (integers), not {wrong}", self.name());
        }
        Ok(match self.function {
            Function::ExtractString | Function::ExtractRaw => DataType::Utf8,
            Function::ExtractFloat => DataType::Float64,
            Function::ExtractInt => DataType::Int64,
            Function::ExtractBool | Function::Has => DataType::Boolean,
        })
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = arguments.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let Some((json, path)) = columns.split_first() else {
            return exec_err!("{} takes a JSON text first", self.name());
        };
        let json = cast(json, &DataType::Utf8)?;
        let path: Result<Vec<Steps>> = path.iter().map(Steps::of).collect();
        let values = evaluate(self.function, json.as_string::<i32>(), &path?);
        if constant && values.len() == 1 && rows != 1 {
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&values, 0)?));
        }
        Ok(ColumnarValue::Array(values))
    }
}

/// One element of the path, for every row.
enum Steps {
    Keys(arrow::array::StringArray),
    Positions(arrow::array::Int64Array),
}

impl Steps {
    fn of(column: &ArrayRef) -> Result<Self> {
        Ok(if column.data_type().is_integer() {
            Steps::Positions(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        } else {
            Steps::Keys(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
        })
    }

    fn at(&self, row: usize) -> Step<'_> {
        match self {
            Steps::Keys(keys) => Step::Key(keys.value(row)),
            Steps::Positions(positions) => Step::Position(positions.value(row)),
        }
    }
}

fn evaluate(function: Function, json: &arrow::array::StringArray, path: &[Steps]) -> ArrayRef {
    let found = (0..json.len()).map(|row| {
        json.is_valid(row).then(|| {
            let steps = path.iter().map(|steps| steps.at(row));
            find(json.value(row), steps)
        })
    });
    match function {
        Function::ExtractString => {
            let mut values = StringBuilder::new();
            found.for_each(|found| values.append_option(found.map(|value| value.map_or_else(String::new, text))));
            Arc::new(values.finish())
        }
        Function::ExtractRaw => {
            let mut values = StringBuilder::new();
            found.for_each(|found| values.append_option(found.map(|value| value.map_or_else(String::new, raw))));
            Arc::new(values.finish())
        }
        Function::ExtractFloat => {
            let mut values = Float64Builder::new();
            found.for_each(|found| values.append_option(found.map(|value| value.map_or(0.0, float))));
            Arc::new(values.finish())
        }
        Function::ExtractInt => {
            let mut values = Int64Builder::new();
            found.for_each(|found| values.append_option(found.map(|value| value.map_or(0, integer))));
            Arc::new(values.finish())
        }
        Function::ExtractBool => {
            let mut values = BooleanBuilder::new();
            found.for_each(|found| values.append_option(found.map(|value| value.is_some_and(boolean))));
            Arc::new(values.finish())
        }
        Function::Has => {
            let mut values = BooleanBuilder::new();
            found.for_each(|found| values.append_option(found.map(|value| value.is_some())));
            Arc::new(values.finish())
        }
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Position(i64),
}

/// The value at the path; `None` where there is none, and in a text that is not JSON.
fn find<'a, 'p>(json: &'a str, path: impl Iterator<Item = Step<'p>>) -> Option<&'a RawValue> {
    let mut value: &RawValue = serde_json::from_str(json).ok()?;
    for step in path {
        let pick = match step {
            // From the end: count first.
            Step::Position(position) if position < 0 => {
                let count = pick(value, Pick { key: None, position: 0, seen: 0 }).1 as i64;
                Pick { key: None, position: usize::try_from(count + position + 1).ok()?, seen: 0 }
            }
            Step::Position(position) => Pick { key: None, position: usize::try_from(position).ok()?, seen: 0 },
            Step::Key(key) => Pick { key: Some(key), position: 0, seen: 0 },
        };
        value = self::pick(value, pick).0?;
    }
    Some(value)
}

fn pick<'a>(value: &'a RawValue, pick: Pick<'_>) -> (Option<&'a RawValue>, usize) {
    let mut reader = serde_json::Deserializer::from_str(value.get());
    pick.deserialize(&mut reader).unwrap_or((None, 0))
}

/// Reads an object or array and keeps one member: the first of this key, or the one at this position (from 1).
struct Pick<'p> {
    key: Option<&'p str>,
    position: usize,
    seen: usize,
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = (Option<&'de RawValue>, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = (Option<&'de RawValue>, usize);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            self.seen += 1;
            let wanted = self.key.map_or(self.seen == self.position, |wanted| wanted == key);
            if wanted && found.is_none() {
                found = Some(map.next_value::<&'de RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((found, self.seen))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(value) = sequence.next_element::<&'de RawValue>()? {
            self.seen += 1;
            if self.key.is_none() && self.seen == self.position {
                found = Some(value);
            }
        }
        Ok((found, self.seen))
    }
}

/// A number as ClickHouse takes it.
enum Number {
    Signed(i64),
    Unsigned(u64),
    Double(f64),
    /// Digits beyond 64 bits: a text to ClickHouse.
    Text,
}

fn number(token: &str) -> Option<Number> {
    if !token.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    Some(if token.contains(['.', 'e', 'E']) {
        token.parse().map_or(Number::Text, Number::Double)
    } else if let Ok(signed) = token.parse() {
        Number::Signed(signed)
    } else {
        token.parse().map_or(Number::Text, Number::Unsigned)
    })
}

/// The text of a JSON string.
fn string(token: &str) -> Option<Cow<'_, str>> {
    if !token.starts_with('"') {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_str(token);
    Cow::deserialize(&mut reader).ok()
}

fn text(value: &RawValue) -> String {
    match value.get() {
        "null" => String::new(),
        token => match string(token) {
            Some(text) => text.into_owned(),
            None if matches!(number(token), Some(Number::Text)) => token.to_string(),
            None => raw(value),
        },
    }
}

fn float(value: &RawValue) -> f64 {
    let token = value.get();
    match (number(token), string(token)) {
        (Some(Number::Double(double)), _) => double,
        (Some(_), _) => token.parse().unwrap_or(0.0),
        (None, Some(text)) => text.parse().unwrap_or(0.0),
        (None, None) => 0.0,
    }
}

fn integer(value: &RawValue) -> i64 {
    let token = value.get();
    match (number(token), string(token)) {
        (Some(Number::Signed(signed)), _) => signed,
        (Some(Number::Double(double)), _) => whole(double),
        (Some(_), _) => 0,
        (None, Some(text)) => text.parse().unwrap_or_else(|_| whole(text.parse().unwrap_or(0.0))),
        (None, None) => 0,
    }
}

/// Cut to an integer; 0 where it does not fit.
fn whole(double: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if (-LIMIT..LIMIT).contains(&double) { double as i64 } else { 0 }
}

fn boolean(value: &RawValue) -> bool {
    match value.get() {
        "true" => true,
        token => match number(token) {
            Some(Number::Signed(signed)) => signed != 0,
            Some(Number::Unsigned(unsigned)) => unsigned != 0,
            Some(Number::Double(_) | Number::Text) | None => false,
        },
    }
}

/// The value written anew, without spaces.
fn raw(value: &RawValue) -> String {
    let mut out = String::new();
    write_value(value, &mut out);
    out
}

fn write_value(value: &RawValue, out: &mut String) {
    let token = value.get();
    match token.as_bytes().first() {
        Some(b'{' | b'[') => {
            let mut reader = serde_json::Deserializer::from_str(token);
            // Valid, since it was read as part of a whole before.
            let _ = reader.deserialize_any(Rewrite { out });
        }
        Some(b'"') => write_string(&string(token).unwrap_or_default(), out),
        _ => match number(token) {
            Some(Number::Double(double)) => write_double(double, out),
            Some(Number::Text) => write_string(token, out),
            Some(_) | None => out.push_str(token),
        },
    }
}

struct Rewrite<'o> {
    out: &'o mut String,
}

impl<'de> Visitor<'de> for Rewrite<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        self.out.push('{');
        let mut first = true;
        while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            if !std::mem::take(&mut first) {
                self.out.push(',');
            }
            write_string(&key, self.out);
            self.out.push(':');
            write_value(value, self.out);
        }
        self.out.push('}');
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> std::result::Result<(), A::Error> {
        self.out.push('[');
        let mut first = true;
        while let Some(value) = sequence.next_element::<&'de RawValue>()? {
            if !std::mem::take(&mut first) {
                self.out.push(',');
            }
            write_value(value, self.out);
        }
        self.out.push(']');
        Ok(())
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The shortest digits that give the same double; with an exponent outside of 1e-6 to 1e21.
fn write_double(double: f64, out: &mut String) {
    let size = double.abs();
    let _ =
        if size == 0.0 || (1e-6..1e21).contains(&size) { write!(out, "{double}") } else { write!(out, "{double:e}") };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of ClickHouse 26.9 to JSONExtractString, Float, Int, Bool, Raw and JSONHas of (json, 'a').
    const ANSWERS: &[(&str, &str, f64, i64, bool, &str, bool)] = &[
        (r#"{"a":1}"#, "1", 1.0, 1, true, "1", true),
        (r#"{"a":"1.5"}"#, "1.5", 1.5, 1, false, r#""1.5""#, true),
        (r#"{"a":"x"}"#, "x", 0.0, 0, false, r#""x""#, true),
        (r#"{"a":1.9}"#, "1.9", 1.9, 1, false, "1.9", true),
        (r#"{"a":-1.9}"#, "-1.9", -1.9, -1, false, "-1.9", true),
        (r#"{"a":true}"#, "true", 0.0, 0, true, "true", true),
        (r#"{"a":false}"#, "false", 0.0, 0, false, "false", true),
        (r#"{"a":null}"#, "", 0.0, 0, false, "null", true),
        (r#"{"a":[10,20]}"#, "[10,20]", 0.0, 0, false, "[10,20]", true),
        (r#"{"a":{"b":"y"}}"#, r#"{"b":"y"}"#, 0.0, 0, false, r#"{"b":"y"}"#, true),
        ("{}", "", 0.0, 0, false, "", false),
        ("nonsense", "", 0.0, 0, false, "", false),
        ("", "", 0.0, 0, false, "", false),
        (r#""s""#, "", 0.0, 0, false, "", false),
        ("[5,6]", "", 0.0, 0, false, "", false),
        ("7", "", 0.0, 0, false, "", false),
        (r#"{"A":3}"#, "", 0.0, 0, false, "", false),
        (r#"{"a":1} x"#, "", 0.0, 0, false, "", false),
        (r#"{"a":1,}"#, "", 0.0, 0, false, "", false),
        (r#"{"a":01}"#, "", 0.0, 0, false, "", false),
        (r#" {"a":1}"#, "1", 1.0, 1, true, "1", true),
        (r#"{"a":1,"a":2}"#, "1", 1.0, 1, true, "1", true),
        (r#"{"a":1e3}"#, "1000", 1000.0, 1000, false, "1000", true),
        (r#"{"a":1.0}"#, "1", 1.0, 1, false, "1", true),
        (r#"{"a":12.50}"#, "12.5", 12.5, 12, false, "12.5", true),
        (r#"{"a":1e20}"#, "100000000000000000000", 1e20, 0, false, "100000000000000000000", true),
        (r#"{"a":1e21}"#, "1e21", 1e21, 0, false, "1e21", true),
        (r#"{"a":1.5e300}"#, "1.5e300", 1.5e300, 0, false, "1.5e300", true),
        (r#"{"a":0.000001}"#, "0.000001", 1e-6, 0, false, "0.000001", true),
        (r#"{"a":0.0000001}"#, "1e-7", 1e-7, 0, false, "1e-7", true),
        (r#"{"a":-0.0}"#, "-0", 0.0, 0, false, "-0", true),
        (
            r#"{"a":123456789.123456789}"#,
            "123456789.12345679",
            123456789.12345679,
            123456789,
            false,
            "123456789.12345679",
            true,
        ),
        (
            r#"{"a":9007199254740993}"#,
            "9007199254740993",
            9007199254740992.0,
            9007199254740993,
            true,
            "9007199254740993",
            true,
        ),
        (
            r#"{"a":9223372036854775808}"#,
            "9223372036854775808",
            9223372036854775808.0,
            0,
            true,
            "9223372036854775808",
            true,
        ),
        (
            r#"{"a":18446744073709551616}"#,
            "18446744073709551616",
            18446744073709551616.0,
            0,
            false,
            r#""18446744073709551616""#,
            true,
        ),
        (r#"{"a":-1e19}"#, "-10000000000000000000", -1e19, 0, false, "-10000000000000000000", true),
        (r#"{"a":-5}"#, "-5", -5.0, -5, true, "-5", true),
        (r#"{"a":0}"#, "0", 0.0, 0, false, "0", true),
        (r#"{"a":"12"}"#, "12", 12.0, 12, false, r#""12""#, true),
        (r#"{"a":"true"}"#, "true", 0.0, 0, false, r#""true""#, true),
        (r#"{"a":"  5"}"#, "  5", 0.0, 0, false, r#""  5""#, true),
        (r#"{"a":"1e3"}"#, "1e3", 1000.0, 1000, false, r#""1e3""#, true),
        (r#"{"a":"-7.9"}"#, "-7.9", -7.9, -7, false, r#""-7.9""#, true),
        (r#"{"a":"+5"}"#, "+5", 5.0, 5, false, r#""+5""#, true),
        (r#"{"a":".5"}"#, ".5", 0.5, 0, false, r#"".5""#, true),
        (r#"{"a":"0x10"}"#, "0x10", 0.0, 0, false, r#""0x10""#, true),
        (r#"{"a":""}"#, "", 0.0, 0, false, r#""""#, true),
        (
            r#"{"a":"9223372036854775807"}"#,
            "9223372036854775807",
            9223372036854775807.0,
            9223372036854775807,
            false,
            r#""9223372036854775807""#,
            true,
        ),
        (r#"{"a":"99999999999999999999"}"#, "99999999999999999999", 1e20, 0, false, r#""99999999999999999999""#, true),
        (r#"{"a" :  [1, {"x" : 2.50}]}"#, r#"[1,{"x":2.5}]"#, 0.0, 0, false, r#"[1,{"x":2.5}]"#, true),
        (
            r#"{"a":["x/y","\u00e9\n\u0001\t","\u2028"]}"#,
            "[\"x/y\",\"é\\n\\u0001\\t\",\"\\u2028\"]",
            0.0,
            0,
            false,
            "[\"x/y\",\"é\\n\\u0001\\t\",\"\\u2028\"]",
            true,
        ),
        (r#"{"a":[]}"#, "[]", 0.0, 0, false, "[]", true),
        (r#"{"a":{}}"#, "{}", 0.0, 0, false, "{}", true),
    ];

    fn at<'a>(json: &'a str, path: &[Step<'_>]) -> Option<&'a RawValue> {
        find(json, path.iter().copied())
    }

    #[test]
    fn the_functions_answer_as_clickhouse_does() {
        for (json, want_text, want_float, want_int, want_bool, want_raw, want_has) in ANSWERS {
            let found = at(json, &[Step::Key("a")]);
            assert_eq!(found.map_or_else(String::new, text), *want_text, "String {json}");
            assert_eq!(found.map_or(0.0, float), *want_float, "Float {json}");
            assert_eq!(found.map_or(0, integer), *want_int, "Int {json}");
            assert_eq!(found.is_some_and(boolean), *want_bool, "Bool {json}");
            assert_eq!(found.map_or_else(String::new, raw), *want_raw, "Raw {json}");
            assert_eq!(found.is_some(), *want_has, "Has {json}");
        }
    }

    #[test]
    fn paths_are_keys_and_positions() {
        use Step::*;
        let check = |json: &str, path: &[Step<'_>], expect: &str| {
            assert_eq!(at(json, path).map_or_else(|| "-".to_string(), raw), expect, "{json}");
        };
        check(r#"{"a":[10,20]}"#, &[Key("a"), Position(1)], "10");
        check(r#"{"a":[10,20]}"#, &[Key("a"), Position(-1)], "20");
        check(r#"{"a":[10,20]}"#, &[Key("a"), Position(-3)], "-");
        check(r#"{"a":[10,20]}"#, &[Key("a"), Position(0)], "-");
        check(r#"{"a":[10,20]}"#, &[Key("a"), Key("b")], "-");
        check(r#"{"a":{"b":"y"}}"#, &[Key("a"), Key("b")], r#""y""#);
        check(r#"{"b":1,"a":2,"c":3}"#, &[Position(-1)], "3");
        check(r#"{"b":1,"a":2,"c":3}"#, &[Position(1)], "1");
        check("[5,6]", &[Position(2)], "6");
        check(r#"{"a":1}"#, &[], r#"{"a":1}"#);
        check(r#"{"\u0061":1}"#, &[Key("a")], "1");
    }
}
