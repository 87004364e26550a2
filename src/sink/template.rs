//! Templates that destinations fill in when they send: over the sealed delivery and the destination's parameters, and
//! nothing else, so that a repeat is the same request.
//!
//! They are strict: a name that is not there is an error. In an address values are percent-encoded unless they are
//! `| safe`. `omit` leaves a key or an item out; the filters for identifiers give it where there is no value.

use minijinja::value::{Serde, Value as Any, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::activation::{Delivery, time_text};

/// The value of `omit`: no text of a profile has a NUL in it.
const OMIT: &str = "\0omit";
/// The name by which a template is known to be an address.
const URL: &str = "url";

/// What templates of a destination know of a delivery.
pub fn context(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "activation": delivery.activation,
        "step": delivery.step,
        "profile_id": delivery.profile_id.to_string(),
        "created_at": time_text(delivery.created_at),
    })
}

/// Renders templates; shared by those of one destination.
pub struct Templates {
    strict: Environment<'static>,
    /// For expressions over answers, whose shape nobody promises.
    lenient: Environment<'static>,
}

impl Default for Templates {
    fn default() -> Templates {
        let mut strict = Environment::new();
        strict.set_undefined_behavior(UndefinedBehavior::Strict);
        strict.set_auto_escape_callback(|name| match name {
            URL => AutoEscape::Custom(URL.into()),
            _ => AutoEscape::None,
        });
        strict.set_formatter(|out, state, value| match state.auto_escape() {
            AutoEscape::Custom(_) if !value.is_safe() => {
                let text = value.to_string();
                let encoded = text.bytes().map(|byte| match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
                    other => format!("%{other:02X}"),
                });
                Ok(out.write_str(&encoded.collect::<String>())?)
            }
            _ => Ok(out.write_str(&value.to_string())?),
        });
        strict.add_global("omit", OMIT);
        strict.add_filter("lower_email", |value: Any| each(&value, lower_email));
        strict.add_filter("google_email", |value: Any| each(&value, google_email));
        strict.add_filter("e164", |value: Any| each(&value, e164));
        strict.add_filter("digits", |value: Any| each(&value, digits));
        strict.add_filter("sha256", |value: Any| each(&value, |text| Some(sha256(text))));
        strict.add_filter("as_key", |value: Any, key: String| as_key(&value, &key));
        strict.add_filter("as_row", |value: Any, column: usize, width: usize| as_row(&value, column, width));
        strict.add_filter("flat", |lists: Any| flat(&lists));
        strict.add_filter("unix", unix);
        let mut lenient = strict.clone();
        lenient.set_undefined_behavior(UndefinedBehavior::Chainable);
        Templates { strict, lenient }
    }
}

impl Templates {
    /// What a text of a template reads that is not its own, with dots: `with.list_id`.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn names(&self, text: &str) -> Result<Vec<String>, String> {
        let template = self.strict.template_from_str(text).map_err(|error| said(&error))?;
        let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        names.retain(|name| !self.strict.globals().any(|(global, _)| global == name));
        names.sort();
        Ok(names)
    }

    /// As [`Templates::names`], of a bare expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn names_of_expression(&self, expression: &str) -> Result<Vec<String>, String> {
        let compiled = self.strict.compile_expression(expression).map_err(|error| said(&error))?;
        let mut names: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
        names.retain(|name| !self.strict.globals().any(|(global, _)| global == name));
        names.sort();
        Ok(names)
    }

    /// # Errors
    /// A name that is not there, or a failing filter.
    pub fn text(&self, text: &str, context: &Value) -> Result<String, String> {
        self.render("text", text, context)
    }

    /// An address: values are percent-encoded.
    ///
    /// # Errors
    /// As [`Templates::text`].
    pub fn url(&self, text: &str, context: &Value) -> Result<String, String> {
        self.render(URL, text, context)
    }

    fn render(&self, name: &str, text: &str, context: &Value) -> Result<String, String> {
        if !text.contains('{') {
            return Ok(text.to_string());
        }
        let template = self.strict.template_from_named_str(name, text).map_err(|error| said(&error))?;
        let rendered =
            template.render(Serde(context)).map_err(|error| format!("`{}`: {}", text.trim(), said(&error)))?;
        if rendered.contains(OMIT) { Err(format!("`{}`: there is no such value", text.trim())) } else { Ok(rendered) }
    }

    /// JSON whose texts may hold templates; a text that is one whole template keeps its value's type. None for `omit`.
    ///
    /// # Errors
    /// As [`Templates::text`].
    pub fn json(&self, template: &Value, context: &Value) -> Result<Option<Value>, String> {
        Ok(match template {
            Value::String(text) => match whole(text) {
                Some(expression) => self.value(expression, context)?,
                None => Some(Value::String(self.text(text, context)?)),
            },
            Value::Array(items) => {
                let all: Result<Vec<_>, String> = items.iter().map(|item| self.json(item, context)).collect();
                Some(all?.into_iter().flatten().collect())
            }
            Value::Object(entries) => {
                let mut object = Map::new();
                for (key, value) in entries {
                    if let Some(value) = self.json(value, context)? {
                        object.insert(key.clone(), value);
                    }
                }
                Some(Value::Object(object))
            }
            fixed => Some(fixed.clone()),
        })
    }

    fn value(&self, expression: &str, context: &Value) -> Result<Option<Value>, String> {
        let failed = |said: String| format!("`{expression}`: {said}");
        let compiled = self.strict.compile_expression(expression).map_err(|error| failed(said(&error)))?;
        let value = compiled.eval(Serde(context)).map_err(|error| failed(said(&error)))?;
        if value.is_undefined() {
            return Err(failed("there is no such value".to_string()));
        }
        let value = Value::deserialize(value).map_err(|error| failed(error.to_string()))?;
        Ok(without_omitted(value))
    }

    /// An expression over an answer: what is not there is nothing, and an error is `null`.
    pub fn lenient(&self, expression: &str, context: &Value) -> Value {
        let value = self.lenient.compile_expression(expression).and_then(|compiled| compiled.eval(Serde(context)));
        value
            .ok()
            .filter(|value| !value.is_undefined())
            .and_then(|value| Value::deserialize(value).ok())
            .unwrap_or_default()
    }

    /// [`Templates::lenient`] as a condition.
    pub fn holds(&self, expression: &str, context: &Value) -> bool {
        let value = self.lenient.compile_expression(expression).and_then(|compiled| compiled.eval(Serde(context)));
        value.is_ok_and(|value| value.is_true())
    }
}

/// Without what `omit` stands for, at any depth: an expression may build whole objects.
fn without_omitted(value: Value) -> Option<Value> {
    match value {
        Value::String(text) if text == OMIT => None,
        Value::Array(items) => Some(items.into_iter().filter_map(without_omitted).collect()),
        Value::Object(entries) => {
            let kept = entries.into_iter().filter_map(|(key, value)| Some((key, without_omitted(value)?)));
            Some(Value::Object(kept.collect()))
        }
        other => Some(other),
    }
}

/// The expression of a text that is one `{{ … }}` and nothing else.
fn whole(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%")).then(|| inner.trim())
}

/// Without the template's name and line, which the reader does not know.
fn said(error: &Error) -> String {
    match error.kind() {
        ErrorKind::UndefinedError => error.detail().unwrap_or("there is no such value").to_string(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_string),
    }
}

/// A filter over texts, one or a list of them: nothing in, nothing out; and `omit` where no value can be what it should.
fn each(value: &Any, filter: impl Fn(&str) -> Option<String>) -> Any {
    let all: Vec<Any> = texts(value).filter_map(|text| filter(&text)).map(Any::from).collect();
    match (value.kind(), &all[..]) {
        (_, []) => Any::from(OMIT),
        (ValueKind::Seq, _) => Any::from(all),
        (_, [first, ..]) => first.clone(),
    }
}

/// What is there of a value: of a list each item, without what is empty.
fn texts(value: &Any) -> impl Iterator<Item = String> {
    let items: Vec<Any> = match value.kind() {
        ValueKind::Seq => value.try_iter().map(Iterator::collect).unwrap_or_default(),
        ValueKind::Undefined | ValueKind::None => Vec::new(),
        _ => vec![value.clone()],
    };
    let texts = items.into_iter().map(|item| if item.is_none() { String::new() } else { item.to_string() });
    texts.filter(|text| text != OMIT).map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
}

/// An object with this key for each value.
fn as_key(value: &Any, key: &str) -> Vec<Any> {
    texts(value).map(|text| Any::from_pairs([(key.to_string(), text)])).collect()
}

/// A row with blanks for each value, which stands in this column, from 0.
fn as_row(value: &Any, column: usize, width: usize) -> Vec<Vec<String>> {
    let row = |text: String| {
        let mut row = vec![String::new(); width.min(100)];
        if let Some(cell) = row.get_mut(column) {
            *cell = text;
        }
        row
    };
    texts(value).map(row).collect()
}

/// The items of lists in one list, without what is omitted.
fn flat(lists: &Any) -> Result<Vec<Any>, Error> {
    let mut all = Vec::new();
    for list in lists.try_iter()? {
        match list.kind() {
            ValueKind::Seq => all.extend(list.try_iter()?),
            _ => all.push(list),
        }
    }
    all.retain(|item| item.as_str() != Some(OMIT));
    Ok(all)
}

/// Trimmed and in lower case, without white space inside.
fn lower_email(text: &str) -> Option<String> {
    let lower: String = text.to_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    let (user, domain) = lower.split_once('@')?;
    (!user.is_empty() && !domain.is_empty() && !domain.contains('@')).then_some(lower)
}

/// As Google has it for Customer Match: besides, without the dots before `@gmail.com` and `@googlemail.com`.
fn google_email(text: &str) -> Option<String> {
    let lower = lower_email(text)?;
    let (user, domain) = lower.split_once('@')?;
    let dots = matches!(domain, "gmail.com" | "googlemail.com");
    Some(if dots { format!("{}@{domain}", user.replace('.', "")) } else { lower })
}

/// `+` and at most 15 digits. What has no country code is none: which country is meant is not known here.
fn e164(text: &str) -> Option<String> {
    let digits = text.strip_prefix('+')?.chars().filter(|c| !matches!(c, ' ' | '-' | '(' | ')' | '.' | '/'));
    let digits: String = digits.collect();
    let sound =
        (7..=15).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit()) && !digits.starts_with('0');
    sound.then(|| format!("+{digits}"))
}

/// The digits alone, without leading zeros.
fn digits(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_start_matches('0');
    (!digits.is_empty()).then(|| digits.to_string())
}

/// In hexadecimal, lower case.
fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970 of an RFC 3339 time.
fn unix(value: Any) -> Result<i64, Error> {
    let text = value.to_string();
    let time = chrono::DateTime::parse_from_rfc3339(&text);
    let time = time.map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("`{text}` is no RFC 3339 time")))?;
    Ok(time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_keeps_types_and_leaves_out_what_is_omitted() {
        let templates = Templates::default();
        let context = json!({ "body": { "n": 3, "name": "Ann", "none": null, "list": [1, 2] }, "items": [{ "a": 1 }] });
        let rows = [
            (json!("{{ body.n }}"), Some(json!(3))),
            (json!("{{ items }}"), Some(json!([{ "a": 1 }]))),
            (json!("Hello {{ body.name }}"), Some(json!("Hello Ann"))),
            (json!({ "a": "{{ body.gone | default(omit) }}", "b": 1 }), Some(json!({ "b": 1 }))),
            (json!(["{{ body.gone | sha256 }}", "{{ body.none | lower_email }}", 7]), Some(json!([7]))),
            (json!("{{ { 'x': body.gone | default(omit), 'y': [omit, body.n] } }}"), Some(json!({ "y": [3] }))),
            (json!("{{ omit }}"), None),
        ];
        for (template, expected) in rows {
            assert_eq!(templates.json(&template, &context).unwrap(), expected, "{template}");
        }
        for template in [json!("{{ body.gone }}"), json!("x {{ body.gone }}"), json!("x {{ omit }}"), json!("{{ }}")] {
            assert!(templates.json(&template, &context).is_err(), "{template}");
        }
    }

    #[test]
    fn values_in_an_address_cannot_leave_their_place() {
        let templates = Templates::default();
        let context = json!({ "with": { "base": "http://x.example/a" }, "body": { "id": "../a?b=c&d#e/ü" } });
        let url = templates.url("{{ with.base | safe }}/users/{{ body.id }}/x", &context).unwrap();
        assert_eq!(url, "http://x.example/a/users/..%2Fa%3Fb%3Dc%26d%23e%2F%C3%BC/x");
        assert!(templates.url("http://x/{{ body.gone }}", &context).is_err());
        assert_eq!(templates.text("{{ body.id }}", &context).unwrap(), "../a?b=c&d#e/ü", "only addresses are encoded");
    }

    /// The examples and rules that Google ("Format customer data") and Meta ("Hashing and normalization") document.
    #[test]
    fn identifiers_are_normalised_and_hashed_as_the_vendors_have_it() {
        let templates = Templates::default();
        let hashed = |text: &str| json!(sha256(text));
        let rows = [
            ("' Ann.Lee@Example.COM ' | lower_email", json!("ann.lee@example.com")),
            ("'Jefferson.Loves.Dogs@GMail.com' | google_email", json!("jeffersonlovesdogs@gmail.com")),
            ("'cloudy.sanfrancisco@example.com' | google_email", json!("cloudy.sanfrancisco@example.com")),
            ("'+1 (800) 555-0101' | e164", json!("+18005550101")),
            ("'+1 (650) 555-1212' | digits", json!("16505551212")),
            (
                "'john_smith@gmail.com' | sha256",
                json!("62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f"),
            ),
            ("' A@B.example' | lower_email | sha256", hashed("a@b.example")),
            ("'no address' | lower_email | sha256 | default('x')", Value::Null),
            ("'0800 555' | e164 | sha256", Value::Null),
            ("'+49 30 extension 5' | e164", Value::Null),
            ("'' | sha256", Value::Null),
            ("['A@x.example', none, 'no address', 'b@x.example'] | lower_email", json!(["a@x.example", "b@x.example"])),
            ("['no address'] | lower_email | sha256", Value::Null),
            (
                "[['a', 'b'] | as_key('k'), gone | as_key('l'), 'c' | as_key('m')] | flat",
                json!([{ "k": "a" }, { "k": "b" }, { "m": "c" }]),
            ),
            ("['a', omit] | as_row(1, 3)", json!([["", "a", ""]])),
        ];
        for (expression, expected) in rows {
            let found = templates.value(expression, &json!({})).unwrap().unwrap_or_default();
            assert_eq!(found, expected, "{expression}");
        }
    }

    #[test]
    fn what_an_answer_lacks_is_nothing() {
        let templates = Templates::default();
        let context = json!({ "answer": { "errors": [{ "index": 1 }] }, "status": 207 });
        assert!(templates.holds("status == 207 and answer.errors", &context));
        assert!(!templates.holds("answer.data.errors.first.code == 3", &context));
        assert_eq!(templates.lenient("answer.errors", &context), json!([{ "index": 1 }]));
        assert_eq!(templates.lenient("answer.gone.further", &context), Value::Null);
    }
}
