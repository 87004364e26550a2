//! The parts that reading a section is made of: maps with known keys, texts with `${…}`, durations, choices.
//! Every function reports what is wrong at its place and gives None; the caller goes on with the next key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Mode;
use super::findings::{Findings, Span, and_list, nearest, nearest_or_list};
use super::keys::Section;
use super::spec::{Literal, Sql};
use super::yaml::{Entry, Node, Value};
use crate::event::TimeUs;

/// What reading needs besides the node.
#[derive(Clone)]
pub struct Reader<'f> {
    pub findings: &'f Findings,
    pub mode: Mode,
    /// Expectations of tests may be empty: they are about to be filled in.
    pub fill: bool,
    /// The pipeline's folder.
    pub base: PathBuf,
    /// Environment variables.
    pub env: &'f dyn Fn(&str) -> Option<String>,
}

pub const NOT_YET: &str = "is not there yet";

/// A map whose keys have been checked.
pub struct Fields<'n, 'f> {
    /// `trait `orders``, for messages.
    pub what: String,
    pub span: Span,
    /// False where a key was wrong: then one that is missing may be that very key, and is not reported as well.
    pub sound: bool,
    one_of: &'static [&'static str],
    entries: &'n [Entry],
    reader: Reader<'f>,
}

impl<'n> Fields<'n, '_> {
    /// The value of a key; None also where nothing stands after the colon, which has been reported.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        let entry = self.entry(key)?;
        (!entry.value.is_null()).then_some(&entry.value)
    }

    /// A key and what stands after it, be it nothing.
    pub fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key.text == key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    pub fn key_span(&self, key: &str) -> Span {
        self.entry(key).map_or(self.span, |entry| entry.key.span)
    }

    pub fn required(&self, key: &str) -> Option<&'n Node> {
        if !self.has(key) && self.sound {
            self.reader.findings.error(self.span, format!("{} needs `{key}`", self.what), None);
        }
        self.get(key)
    }

    /// [`Fields::one_of`] those that the table of keys names.
    pub fn one(&self) -> Option<(&'static str, &'n Node)> {
        self.one_of(self.one_of)
    }

    /// The one key of several that must be there, with its value.
    pub fn one_of(&self, keys: &[&'static str]) -> Option<(&'static str, &'n Node)> {
        let present: Vec<&'static str> = keys.iter().copied().filter(|key| self.has(key)).collect();
        match present[..] {
            [key] => self.get(key).map(|node| (key, node)),
            [] if !self.sound => None,
            [] => {
                let message = format!("{} needs one of {}", self.what, and_list(keys));
                self.reader.findings.error(self.span, message, None);
                None
            }
            [first, second, ..] => {
                let message = format!("{} has both `{first}` and `{second}`: only one can hold", self.what);
                self.reader.findings.error(self.key_span(second), message, None);
                None
            }
        }
    }
}

impl<'f> Reader<'f> {
    /// A map with known keys. `span` is where to point when a key is missing: the name of the entry.
    /// None when it is no map. Wrong keys are reported, and what else is there can still be read.
    pub fn section<'n>(
        &self,
        node: &'n Node,
        what: impl Into<String>,
        span: Span,
        section: &'static Section,
    ) -> Option<Fields<'n, 'f>> {
        let mut fields = self.checked(node, what.into(), span, &section.names(), section.later, false)?;
        fields.one_of = section.one_of;
        section.keys.iter().filter(|key| key.required).for_each(|key| {
            fields.required(key.name);
        });
        Some(fields)
    }

    /// [`Reader::section`], of which some keys may have nothing after the colon where `fill` says so.
    pub fn section_to_fill<'n>(
        &self,
        node: &'n Node,
        what: impl Into<String>,
        span: Span,
        section: &'static Section,
    ) -> Option<Fields<'n, 'f>> {
        self.checked(node, what.into(), span, &section.names(), section.later, self.fill)
    }

    fn checked<'n>(
        &self,
        node: &'n Node,
        what: String,
        span: Span,
        known: &[&str],
        later: &[(&str, &str)],
        may_be_empty: bool,
    ) -> Option<Fields<'n, 'f>> {
        let Value::Map(entries) = &node.value else {
            let span = if node.is_null() { span } else { node.span };
            let message = format!("{what} is a map, this is {}", node.kind());
            self.findings.error(span, message, format!("its keys are {}", and_list(known)));
            return None;
        };
        let mut sound = true;
        for entry in entries {
            let key = entry.key.text.as_str();
            if let Some((_, why)) = later.iter().find(|(later, _)| *later == key) {
                self.findings.error(entry.key.span, format!("`{key}` {why}"), None);
                sound = false;
            } else if !known.contains(&key) {
                let help = nearest_or_list(key, known.iter().copied());
                self.findings.error(entry.key.span, format!("{what} has no key `{key}`"), help);
                sound = false;
            } else if entry.value.is_null() && !may_be_empty {
                self.findings.error(entry.key.span, format!("nothing is written after `{key}:`"), None);
                sound = false;
            }
        }
        Some(Fields { what, span, sound, one_of: &[], entries, reader: self.clone() })
    }

    /// The entries of a section: names to bodies.
    pub fn entries<'n>(&self, node: &'n Node, section: &str) -> &'n [Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            _ if node.is_null() => &[],
            _ => {
                let message = format!("`{section}` is a map of names, this is {}", node.kind());
                self.findings.error(node.span, message, None);
                &[]
            }
        }
    }

    pub fn list<'n>(&self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            _ if node.is_null() => &[],
            _ => {
                self.findings.error(node.span, format!("{what} is a list, this is {}", node.kind()), None);
                &[]
            }
        }
    }

    /// A name of our own: it becomes a table or column name, so it is kept plain.
    pub fn check_name(&self, name: &str, span: Span, what: &str) {
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !plain {
            let message = format!("{what}: `{name}` cannot be a name");
            self.findings.error(span, message, "names are a-z, 0-9 and _, and begin with a letter".to_string());
        }
    }

    pub fn sql(&self, node: &Node, what: &str) -> Option<Sql> {
        let Some(scalar) = node.as_scalar() else {
            self.findings.error(
                node.span,
                format!("{what} is a SQL expression, this is {}", node.kind()),
                "quote an expression that begins with `{` or `[`".to_string(),
            );
            return None;
        };
        if let Some(start) = scalar.text.find("${") {
            let end = scalar.text[start..].find('}').map_or(scalar.text.len(), |length| start + length + 1);
            let span = scalar.locate(&(start..end), node.span, &self.findings.files()[node.span.file].text);
            self.findings.error(span, "`${…}` is not filled in inside an expression", None);
            return None;
        }
        Some(Sql { scalar: scalar.clone(), span: node.span })
    }

    /// A text with `${env:NAME}`, `${env:NAME:-default}` and `${file:path}` filled in.
    pub fn literal(&self, node: &Node, what: &str) -> Option<Literal> {
        let Some(scalar) = node.as_scalar() else {
            self.findings.error(node.span, format!("{what} is a text, this is {}", node.kind()), None);
            return None;
        };
        let mut text = String::new();
        let mut known = true;
        let mut rest = scalar.text.as_str();
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else {
                self.findings.error(node.span, format!("{what}: `${{` is never closed"), None);
                return None;
            };
            text.push_str(&rest[..start]);
            match self.fill(&rest[start + 2..start + length], node.span) {
                Filled::Text(filled) => text.push_str(&filled),
                Filled::Missing => known = false,
                Filled::Wrong => return None,
            }
            rest = &rest[start + length + 1..];
        }
        text.push_str(rest);
        Some(Literal { text, span: node.span, known })
    }

    /// A text that must not be written down: exactly one `${env:NAME}` or `${file:path}`.
    pub fn secret(&self, node: &Node, what: &str) -> Option<Literal> {
        let written = node.as_scalar().map(|scalar| scalar.text.trim());
        let reference = written.and_then(|text| text.strip_prefix("${")).and_then(|text| text.strip_suffix('}'));
        let allowed = reference.is_some_and(|reference| {
            !reference.contains(['{', '}'])
                && !reference.contains(":-")
                && (reference.starts_with("env:") || reference.starts_with("file:"))
        });
        if !allowed {
            self.findings.hide(node.span);
            let message = format!("{what} is a secret and must not be written down here");
            let help = "write \"${env:NAME}\" or \"${file:path}\" and nothing else".to_string();
            self.findings.error(node.span, message, help);
            return None;
        }
        let literal = self.literal(node, what)?;
        if literal.known && literal.text.is_empty() {
            self.findings.error(node.span, format!("{what} is empty"), None);
            return None;
        }
        Some(literal)
    }

    fn fill(&self, reference: &str, span: Span) -> Filled {
        if let Some(path) = reference.strip_prefix("file:") {
            return match std::fs::read_to_string(self.base.join(path.trim())) {
                Ok(text) => Filled::Text(text.trim_end_matches(['\r', '\n']).to_string()),
                Err(_) if self.mode == Mode::Check => Filled::Missing,
                Err(error) => {
                    self.findings.error(span, format!("the file `{path}` cannot be read: {error}"), None);
                    Filled::Wrong
                }
            };
        }
        let Some(variable) = reference.strip_prefix("env:") else {
            let message = format!("`${{{reference}}}` is neither an environment variable nor a file");
            let help = "write ${env:NAME}, ${env:NAME:-default} or ${file:path}".to_string();
            self.findings.error(span, message, help);
            return Filled::Wrong;
        };
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        let value = (self.env)(name).filter(|value| !value.is_empty() || default.is_none());
        match value.or_else(|| default.map(str::to_string)) {
            Some(value) => Filled::Text(value),
            None if self.mode == Mode::Check => Filled::Missing,
            None => {
                let message = format!("the environment variable `{name}` is not set");
                self.findings.error(span, message, None);
                Filled::Wrong
            }
        }
    }

    /// One text or a list of texts.
    pub fn literals(&self, node: &Node, what: &str) -> Option<Vec<Literal>> {
        match &node.value {
            Value::List(items) if items.is_empty() => {
                self.findings.error(node.span, format!("{what} is an empty list"), None);
                None
            }
            Value::List(items) => items.iter().map(|item| self.literal(item, what)).collect(),
            _ => Some(vec![self.literal(node, what)?]),
        }
    }

    pub fn choice<T: Copy>(&self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let literal = self.literal(node, what)?;
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let chosen = choices.iter().find(|(name, _)| *name == literal.text).map(|(_, value)| *value);
        if chosen.is_none() {
            let help = nearest(&literal.text, names.iter().copied());
            let message = format!("{what} is one of {}, not `{}`", and_list(&names), literal.text);
            self.findings.error(node.span, message, help);
        }
        chosen
    }

    pub fn boolean(&self, node: &Node, what: &str) -> Option<bool> {
        self.choice(node, what, &[("true", true), ("false", false)])
    }

    /// A whole number that is at least `least`. None also where a variable is missing, which `Mode::Check` allows.
    pub fn count(&self, node: &Node, what: &str, least: u32) -> Option<u32> {
        let literal = self.literal(node, what)?;
        let count = literal.text.parse::<u32>().ok().filter(|count| *count >= least);
        if count.is_none() && literal.known {
            let message = format!("{what} is a whole number from {least} on, not `{}`", literal.text);
            self.findings.error(node.span, message, None);
        }
        count
    }

    pub fn duration(&self, node: &Node, what: &str) -> Option<Duration> {
        let literal = self.literal(node, what)?;
        self.duration_text(&literal.text, node.span, what)
    }

    /// [`Reader::duration`] of a part of a text.
    pub fn duration_text(&self, text: &str, span: Span, what: &str) -> Option<Duration> {
        match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() => Some(duration),
            Ok(_) => {
                self.findings.error(span, format!("{what} must be longer than nothing"), None);
                None
            }
            Err(error) => {
                let message = format!("`{text}` is not a duration: {error}");
                self.findings.error(span, message, "write 30s, 15m, 2h, 7d or 1h 30m".to_string());
                None
            }
        }
    }

    /// `10 per 1s`: a number from 1 to `most`, and a time. None also where a variable is missing.
    pub fn per(&self, node: &Node, what: &str, most: u32, example: &str) -> Option<(u32, Duration)> {
        let literal = self.literal(node, what)?;
        if !literal.known {
            return None;
        }
        let parts = literal.text.split_once(" per ");
        let count = parts.and_then(|(count, _)| count.trim().parse::<u32>().ok());
        let (Some(count), Some((_, time))) = (count.filter(|count| (1..=most).contains(count)), parts) else {
            let message = format!("{what} is a number per a time, from 1 to {most}, not `{}`", literal.text);
            self.findings.error(node.span, message, format!("write {example}"));
            return None;
        };
        let time = self.duration_text(time.trim(), node.span, &format!("the time of {what}"))?;
        Some((count, time))
    }

    /// A node as JSON: YAML 1.2's plain scalars are typed, quoted ones are texts.
    pub fn json(&self, node: &Node) -> serde_json::Value {
        match &node.value {
            Value::List(items) => items.iter().map(|item| self.json(item)).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.text.clone(), self.json(&entry.value))).collect()
            }
            Value::Scalar(scalar) if scalar.is_null() => serde_json::Value::Null,
            Value::Scalar(scalar) if scalar.is_plain() => {
                let text = scalar.text.as_str();
                if matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off") {
                    let message = format!("`{text}` is a boolean to some YAML readers and a text to others");
                    self.findings.error(node.span, message, format!("write true or false, or quote it: \"{text}\""));
                }
                match text {
                    "true" | "True" | "TRUE" => true.into(),
                    "false" | "False" | "FALSE" => false.into(),
                    _ => plain_number(text).unwrap_or_else(|| text.into()),
                }
            }
            Value::Scalar(scalar) => scalar.text.as_str().into(),
        }
    }

    /// A path as the user means it: relative ones start from the pipeline's folder.
    pub fn path(&self, literal: &Literal) -> PathBuf {
        self.base.join(Path::new(&literal.text))
    }
}

/// As the state counts time; what is too long is for ever.
pub fn micros(time: Duration) -> TimeUs {
    TimeUs::try_from(time.as_micros()).unwrap_or(TimeUs::MAX)
}

enum Filled {
    Text(String),
    /// Not set, which `Mode::Check` allows.
    Missing,
    /// Reported.
    Wrong,
}

/// Only what JSON would write as a number too: `007` and `1_000` stay texts.
fn plain_number(text: &str) -> Option<serde_json::Value> {
    let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    number.then(|| serde_json::from_str::<serde_json::Number>(text).ok()).flatten().map(serde_json::Value::Number)
}
