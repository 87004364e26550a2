//! Writing into JSON texts and writing columns as JSON.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder};
use arrow::datatypes::Field as ArrowField;
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};

use crate::decode::json_text::{Token, Walked, Walker, write_string};

/// The object with `value` (JSON text) at `path`; objects that are missing on the way are made, everything else
/// stays to the letter. A text that is not an object is replaced by one.
pub fn set_path(text: &str, path: &[impl AsRef<str>], value: &str) -> String {
    match path {
        [] => value.to_string(),
        [key, rest @ ..] => match place(text, key.as_ref()) {
            Ok(Place::Value { start, end }) => {
                let inner = set_path(&text[start..end], rest, value);
                format!("{}{inner}{}", &text[..start], &text[end..])
            }
            Ok(Place::Missing { close, empty }) => {
                let mut out = text[..close].trim_end().to_string();
                if !empty {
                    out.push(',');
                }
                write_string(&mut out, key.as_ref());
                out.push(':');
                out.push_str(&set_path("{}", rest, value));
                out.push_str(&text[close..]);
                out
            }
            // Not an object: `set_path` of the empty one always finds a place.
            Ok(Place::None) | Err(_) => set_path("{}", path, value),
        },
    }
}

enum Place {
    Value { start: usize, end: usize },
    Missing { close: usize, empty: bool },
    None,
}

fn place(text: &str, wanted: &str) -> Walked<Place> {
    let mut walker = Walker::new(text);
    if walker.begin()? != Token::Object {
        return Ok(Place::None);
    }
    let mut empty = true;
    while let Some(key) = walker.next_key()? {
        empty = false;
        let token = walker.begin()?;
        let start = walker.start();
        walker.skip(token)?;
        if key.decode() == wanted {
            return Ok(Place::Value { start, end: walker.at() });
        }
    }
    Ok(Place::Missing { close: walker.at() - 1, empty })
}

/// The elements of a JSON array as their texts; None when it is not an array.
pub fn elements(text: &str) -> Option<Vec<&str>> {
    let mut walker = Walker::new(text);
    if walker.begin().ok()? != Token::Array {
        return None;
    }
    let mut elements = Vec::new();
    while walker.next_element().ok()? {
        let token = walker.begin().ok()?;
        let start = walker.start();
        walker.skip(token).ok()?;
        elements.push(walker.text_from(start));
    }
    Some(elements)
}

/// Each value as JSON text; null where it is null. Decimals are numbers, times RFC 3339, structs objects with
/// their nulls.
pub fn render(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    let field = Arc::new(ArrowField::new("value", array.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, array, &options)?;
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 16);
    let mut bytes = Vec::new();
    for row in 0..array.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        bytes.clear();
        encoder.encode(row, &mut bytes);
        let text = std::str::from_utf8(&bytes).map_err(|error| ArrowError::JsonError(error.to_string()))?;
        texts.append_value(text);
    }
    Ok(texts.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int64Array, StructArray, TimestampMicrosecondArray,
    };

    #[test]
    fn a_value_is_put_where_its_path_says_and_the_rest_stays_to_the_letter() {
        for (text, path, expect) in [
            ("{}", "a", r#"{"a":1}"#),
            (r#"{ "b": 1.50 }"#, "a", r#"{ "b": 1.50,"a":1}"#),
            (r#"{"a": "x" , "b":2}"#, "a", r#"{"a": 1 , "b":2}"#),
            (r#"{"a":{"b":{"c":0},"d":[1]}}"#, "a.b.c", r#"{"a":{"b":{"c":1},"d":[1]}}"#),
            (r#"{"a":{}}"#, "a.b.c", r#"{"a":{"b":{"c":1}}}"#),
            (r#"{"a":[1]}"#, "a.b", r#"{"a":{"b":1}}"#),
            ("", "a.b", r#"{"a":{"b":1}}"#),
            ("[]", "a", r#"{"a":1}"#),
        ] {
            let path: Vec<&str> = path.split('.').collect();
            assert_eq!(set_path(text, &path, "1"), expect, "{text}");
        }
    }

    #[test]
    fn columns_render_as_json() {
        let check = |array: ArrayRef, expect: &[Option<&str>]| {
            assert_eq!(render(&array).unwrap(), StringArray::from(expect.to_vec()));
        };
        check(Arc::new(Int64Array::from(vec![Some(i64::MAX), None])), &[Some("9223372036854775807"), None]);
        check(Arc::new(Float64Array::from(vec![1.5, f64::NAN])), &[Some("1.5"), Some("null")]);
        check(Arc::new(StringArray::from(vec!["a\"b"])), &[Some(r#""a\"b""#)]);
        let decimals = Decimal128Array::from(vec![1250]).with_precision_and_scale(9, 2).unwrap();
        check(Arc::new(decimals), &[Some("12.50")]);
        let times = TimestampMicrosecondArray::from(vec![1_772_366_400_000_000]).with_timezone("UTC");
        check(Arc::new(times), &[Some("\"2026-03-01T12:00:00Z\"")]);
        check(Arc::new(Date32Array::from(vec![0])), &[Some("\"1970-01-01\"")]);
        let column: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(1)]));
        let object =
            StructArray::from(vec![(Arc::new(ArrowField::new("a", arrow::datatypes::DataType::Int64, true)), column)]);
        check(Arc::new(object), &[Some(r#"{"a":null}"#), Some(r#"{"a":1}"#)]);
    }

    #[test]
    fn elements_are_cut_out_to_the_letter() {
        assert_eq!(elements(r#" [ {"a": 1.0} ,2, [3]]"#), Some(vec![r#"{"a": 1.0}"#, "2", "[3]"]));
        assert_eq!(elements("[]"), Some(vec![]));
        assert_eq!(elements("{}"), None);
        assert_eq!(elements("nonsense"), None);
    }
}
