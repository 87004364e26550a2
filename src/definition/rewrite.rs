//! Expectations of tests, rewritten where they stand: only what differs is touched, all else of the file keeps its
//! comments and layout.
//!
//! An expectation is found again by the place of its key. Items of a list are replaced, removed and added one by one;
//! what is new is written in flow style, and an `expect` that was empty in the style of the lines around it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use super::cases::{Blank, Cell, Expectation, Expected, ExpectedRow, Who};
use super::findings::Findings;
use super::yaml::{self, Entry, Node, Value};

/// What an expectation should say.
#[derive(Debug, Clone)]
pub struct Correction {
    pub expectation: Expectation,
    /// One of the same kind; for a [`Expected::Blank`] as many as there is to say. Empty where nothing can be said.
    pub right: Vec<Expected>,
}

/// A file with its new text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    pub path: PathBuf,
    pub text: String,
    /// Expectations that changed.
    pub changed: usize,
}

/// The files that change. Expectations that say the right thing already are left alone, and so are those that an
/// alias shows in two places with different results.
///
/// # Errors
/// A file that cannot be read any more.
pub fn rewrite(corrections: &[Correction]) -> std::io::Result<Vec<Rewritten>> {
    let mut of_files: BTreeMap<&PathBuf, Vec<&Correction>> = BTreeMap::new();
    for correction in corrections {
        of_files.entry(&correction.expectation.place.file).or_default().push(correction);
    }
    let mut all = Vec::new();
    for (path, corrections) in of_files {
        let text = std::fs::read_to_string(path)?;
        let (text, changed) = rewrite_text(path, text, &corrections);
        if changed > 0 {
            all.push(Rewritten { path: path.clone(), text, changed });
        }
    }
    Ok(all)
}

fn rewrite_text(path: &std::path::Path, text: String, corrections: &[&Correction]) -> (String, usize) {
    let mut findings = Findings::default();
    let file = findings.add_file(path.to_path_buf(), text);
    let documents = yaml::parse(file, &findings).unwrap_or_default();
    let text = findings.files()[file].text.as_str();
    let mut edits: Vec<Edit> = Vec::new();
    let mut changed = 0;
    for correction in corrections {
        let start = correction.expectation.place.start;
        let found = documents.iter().find_map(|document| find(document, start, false, text));
        let Some(place) = found else { continue };
        let new = place.edits(&correction.expectation.expected, &correction.right);
        if new.is_empty() || edits.iter().any(|edit| new.iter().any(|new| new.overlaps(edit))) {
            continue;
        }
        changed += 1;
        edits.extend(new);
    }
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut result = text.to_string();
    for edit in edits.iter().rev() {
        result.replace_range(edit.range.clone(), &edit.text);
    }
    (result, changed)
}

#[derive(Debug)]
struct Edit {
    range: Range<usize>,
    text: String,
}

impl Edit {
    fn overlaps(&self, other: &Edit) -> bool {
        self.range == other.range || (self.range.start < other.range.end && other.range.start < self.range.end)
    }
}

/// An entry of the tree, with what is around it.
struct Spot<'t> {
    entry: &'t Entry,
    /// It stands inside of `{ … }` or `[ … ]`.
    flow: bool,
    text: &'t str,
}

/// The entry whose key begins at this byte.
fn find<'t>(node: &'t Node, start: usize, flow: bool, text: &'t str) -> Option<Spot<'t>> {
    let flow = flow || text.get(node.span.start..).is_some_and(|rest| rest.starts_with(['{', '[']));
    match &node.value {
        Value::Scalar(_) => None,
        Value::List(items) => items.iter().find_map(|item| find(item, start, flow, text)),
        Value::Map(entries) => entries.iter().find_map(|entry| {
            if entry.key.span.start == start {
                return Some(Spot { entry, flow, text });
            }
            find(&entry.value, start, flow, text)
        }),
    }
}

impl Spot<'_> {
    fn edits(&self, old: &Expected, right: &[Expected]) -> Vec<Edit> {
        let Some(first) = right.first() else { return Vec::new() };
        match (old, first) {
            (Expected::Blank(Blank::EventOf(_)), Expected::EventOf { who, .. }) => {
                vec![self.whole(&word(&who.to_string()))]
            }
            (Expected::Blank(blank), _) => vec![self.fill(blank, right)],
            (Expected::EventOf { who: old, .. }, Expected::EventOf { who, .. }) => {
                if old == who {
                    Vec::new()
                } else {
                    vec![self.whole(&word(&who.to_string()))]
                }
            }
            (Expected::Traits { values: old, .. }, Expected::Traits { values, .. })
            | (Expected::Group { values: old, .. }, Expected::Group { values, .. }) => self.traits(old, values),
            _ => self.list(&items(old), &items(first)),
        }
    }

    /// The value as a whole, or what is to stand where there is none.
    fn whole(&self, new: &str) -> Edit {
        whole(self.entry, new, self.text)
    }

    fn traits(&self, old: &[(String, serde_json::Value)], new: &[(String, serde_json::Value)]) -> Vec<Edit> {
        let Value::Map(entries) = &self.entry.value.value else { return vec![self.whole(&flow_map(new))] };
        if entries.is_empty() {
            return if new.is_empty() { Vec::new() } else { vec![self.whole(&flow_map(new))] };
        }
        let mut edits = Vec::new();
        for (entry, (name, value)) in entries.iter().filter_map(|entry| Some((entry, pair(new, &entry.key.text)?))) {
            if pair(old, name).is_none_or(|(_, old)| old != value) {
                edits.push(whole(entry, &flow(value), self.text));
            }
        }
        edits
    }

    /// What was right keeps its text; of the others, the first new ones take the places of the first wrong ones.
    fn list(&self, old: &[String], new: &[String]) -> Vec<Edit> {
        let node = &self.entry.value;
        let Value::List(nodes) = &node.value else {
            return match new {
                _ if old == new && !node.is_null() => Vec::new(),
                [one] if !node.is_null() => vec![self.whole(one)],
                _ => vec![self.whole(&flow_list(new))],
            };
        };
        let mut rest: Vec<&String> = new.iter().collect();
        let mut kept = Vec::new();
        for item in old {
            let place = rest.iter().position(|new| *new == item);
            kept.push(place.is_some());
            place.map(|place| rest.remove(place));
        }
        if rest.is_empty() && kept.iter().all(|kept| *kept) {
            return Vec::new();
        }
        let mut rest = rest.into_iter();
        // The text of each item as it is to be; None where it goes.
        let items = nodes.iter().zip(&kept).map(
            |(node, kept)| {
                if *kept { Some(self.slice(node)) } else { rest.next().cloned() }
            },
        );
        let items: Vec<Option<String>> = items.collect();
        let added: Vec<&String> = rest.collect();
        let in_flow = self.text[node.span.start..].starts_with('[');
        let removes = items.iter().any(Option::is_none);
        if in_flow && (removes || nodes.is_empty()) || items.iter().all(Option::is_none) {
            let all: Vec<String> = items.into_iter().flatten().chain(added.into_iter().cloned()).collect();
            let range = self.start(node)..self.end(node);
            return vec![Edit { range, text: flow_list(&all) }];
        }
        let mut edits = Vec::new();
        for ((node, item), kept) in nodes.iter().zip(&items).zip(&kept) {
            match item {
                _ if *kept => {}
                Some(item) => edits.push(Edit { range: node.span.start..self.end(node), text: item.clone() }),
                None => edits.push(Edit { range: self.lines(node), text: String::new() }),
            }
        }
        if let (Some(last), false) = (nodes.last(), added.is_empty()) {
            let end = self.end(last);
            let (at, before) = match in_flow {
                true => (end, ", ".to_string()),
                false => (self.line_end(end), format!("\n{}- ", self.indent(last.span.start))),
            };
            let text = added.iter().map(|item| format!("{before}{item}")).collect();
            edits.push(Edit { range: at..at, text });
        }
        edits
    }

    /// An `expect`, or a section of it, that says nothing yet.
    fn fill(&self, blank: &Blank, right: &[Expected]) -> Edit {
        let tree = match blank {
            Blank::Everything => Tree::Map(sections(right)),
            _ => sections(right).into_iter().next().map_or(Tree::Map(Vec::new()), |(_, tree)| tree),
        };
        if self.flow || tree.is_empty() {
            return self.whole(&tree.flow());
        }
        let entry = self.entry;
        let colon = colon(entry, self.text);
        let end = if entry.value.is_null() { colon } else { self.end(&entry.value) };
        // A comment on the key's line stays there.
        let behind = self.text[end..self.line_end(end)].trim_end();
        let indent = self.text[..entry.key.span.start].rsplit('\n').next().unwrap_or_default().chars().count();
        let mut text = behind.to_string();
        tree.block(indent + 2, &mut text);
        Edit { range: colon..self.line_end(end), text }
    }

    fn slice(&self, node: &Node) -> String {
        self.text[node.span.start..self.end(node)].to_string()
    }

    /// Where a list begins: in block style with its first dash.
    fn start(&self, node: &Node) -> usize {
        match &node.value {
            Value::List(items) if !self.text[node.span.start..].starts_with('[') => {
                let first = items.first().map_or(node.span.start, |item| item.span.start);
                self.text[..first].rfind('-').unwrap_or(first)
            }
            _ => node.span.start,
        }
    }

    /// Behind the last character. In block style the parser ends a map or list where the next thing begins.
    fn end(&self, node: &Node) -> usize {
        let flow = self.text[node.span.start..].starts_with(['{', '[']);
        match &node.value {
            Value::List(items) if !flow => items.last().map_or(node.span.end, |item| self.end(item)),
            Value::Map(entries) if !flow => entries.last().map_or(node.span.end, |entry| match entry.value.is_null() {
                true => colon(entry, self.text),
                false => self.end(&entry.value),
            }),
            _ => node.span.end,
        }
    }

    fn line_end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |length| at + length)
    }

    /// What stands before the dash of an item.
    fn indent(&self, item: usize) -> &str {
        let line = self.text[..item].rfind('\n').map_or(0, |newline| newline + 1);
        let dash = self.text[..item].rfind('-').unwrap_or(line).max(line);
        &self.text[line..dash]
    }

    /// The lines of a block item, with the last one's end.
    fn lines(&self, node: &Node) -> Range<usize> {
        let start = self.text[..node.span.start].rfind('\n').map_or(0, |newline| newline + 1);
        start..(self.line_end(self.end(node)) + 1).min(self.text.len())
    }
}

fn pair<'p>(pairs: &'p [(String, serde_json::Value)], name: &str) -> Option<(&'p String, &'p serde_json::Value)> {
    pairs.iter().find(|(other, _)| other == name).map(|(name, value)| (name, value))
}

/// Behind the colon of a key.
fn colon(entry: &Entry, text: &str) -> usize {
    let end = entry.key.span.end;
    text[end..].find(':').map_or(end, |length| end + length + 1)
}

fn whole(entry: &Entry, new: &str, text: &str) -> Edit {
    let span = entry.value.span;
    if entry.value.is_null() && text[span.start..span.end].trim().is_empty() {
        let at = colon(entry, text);
        return Edit { range: at..at, text: format!(" {new}") };
    }
    Edit { range: span.start..span.end, text: new.to_string() }
}

/// The entries of a list, as they are written.
fn items(expected: &Expected) -> Vec<String> {
    match expected {
        Expected::Profiles(groups) => groups.iter().map(|group| flow_list(&people(group))).collect(),
        Expected::Segment { members, .. } => people(members),
        Expected::Conflicts(rows) | Expected::Sent(rows) => rows.iter().map(row).collect(),
        Expected::NoProfile(texts)
        | Expected::Rejected(texts)
        | Expected::GroupSegment { members: texts, .. }
        | Expected::Flags { flags: texts, .. } => texts.iter().map(|text| word(text)).collect(),
        Expected::Traits { .. } | Expected::Group { .. } | Expected::EventOf { .. } | Expected::Blank(_) => Vec::new(),
    }
}

fn people(people: &[Who]) -> Vec<String> {
    people.iter().map(|who| word(&who.to_string())).collect()
}

fn row(row: &ExpectedRow) -> String {
    let cells = row.cells.iter().map(|(key, cell)| {
        let value = match cell {
            Cell::Text(text) => word(text),
            Cell::Identifier(who) | Cell::Person(who) => word(&who.to_string()),
            Cell::Nobody => "nobody".to_string(),
            Cell::Json(value) => flow(value),
        };
        format!("{key}: {value}")
    });
    format!("{{ {} }}", cells.collect::<Vec<_>>().join(", "))
}

/// What an `expect` holds, in the order of the reference.
enum Tree {
    Leaf(String),
    List(Vec<String>),
    Map(Vec<(String, Tree)>),
}

fn sections(all: &[Expected]) -> Vec<(String, Tree)> {
    let mut sections: Vec<(String, Tree)> = Vec::new();
    for expected in all {
        let (section, name, tree) = match expected {
            Expected::Profiles(_) => ("profiles", None, Tree::List(items(expected))),
            Expected::Conflicts(_) => ("conflicts", None, Tree::List(items(expected))),
            Expected::Sent(_) => ("sent", None, Tree::List(items(expected))),
            Expected::NoProfile(_) => ("no_profile", None, Tree::Leaf(flow_list(&items(expected)))),
            Expected::Rejected(_) => ("rejected", None, Tree::Leaf(flow_list(&items(expected)))),
            Expected::Segment { name, .. } => ("segments", Some(name.clone()), Tree::Leaf(flow_list(&items(expected)))),
            Expected::Traits { who, values } => ("traits", Some(who.to_string()), Tree::Leaf(flow_map(values))),
            Expected::EventOf { message_id, who } => {
                ("events", Some(message_id.clone()), Tree::Leaf(word(&who.to_string())))
            }
            Expected::Flags { message_id, .. } => {
                ("flags", Some(message_id.clone()), Tree::Leaf(flow_list(&items(expected))))
            }
            // Groups are filled in only where they are asked for.
            Expected::Group { .. } | Expected::GroupSegment { .. } | Expected::Blank(_) => continue,
        };
        let Some(name) = name else {
            sections.push((section.to_string(), tree));
            continue;
        };
        match sections.iter_mut().find(|(other, _)| other == section) {
            Some((_, Tree::Map(entries))) => entries.push((word(&name), tree)),
            _ => sections.push((section.to_string(), Tree::Map(vec![(word(&name), tree)]))),
        }
    }
    sections
}

impl Tree {
    fn is_empty(&self) -> bool {
        match self {
            Tree::Leaf(_) => false,
            Tree::List(items) => items.is_empty(),
            Tree::Map(entries) => entries.is_empty(),
        }
    }

    fn flow(&self) -> String {
        match self {
            Tree::Leaf(text) => text.clone(),
            Tree::List(items) => flow_list(items),
            Tree::Map(entries) if entries.is_empty() => "{}".to_string(),
            Tree::Map(entries) => {
                let entries = entries.iter().map(|(key, tree)| format!("{key}: {}", tree.flow()));
                format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// What follows the colon of a key, with the new lines of what stands below it.
    fn block(&self, indent: usize, into: &mut String) {
        match self {
            _ if self.is_empty() => into.push_str(&format!(" {}", self.flow())),
            Tree::Leaf(text) => into.push_str(&format!(" {text}")),
            Tree::List(items) => {
                items.iter().for_each(|item| into.push_str(&format!("\n{:indent$}- {item}", "")));
            }
            Tree::Map(entries) => entries.iter().for_each(|(key, tree)| {
                into.push_str(&format!("\n{:indent$}{key}:", ""));
                tree.block(indent + 2, into);
            }),
        }
    }
}

fn flow_list(items: &[String]) -> String {
    format!("[{}]", items.join(", "))
}

fn flow_map(pairs: &[(String, serde_json::Value)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{}: {}", word(name), flow(value))).collect();
    if pairs.is_empty() { "{}".to_string() } else { format!("{{ {} }}", pairs.join(", ")) }
}

/// A value in YAML's flow style, with its type: texts that YAML would take for something else are quoted.
pub fn flow(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => {
            let typed = text.starts_with(|c: char| c.is_ascii_digit() || c == '-') && text.parse::<f64>().is_ok();
            let named = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
            let typed = typed || named.contains(&text.to_ascii_lowercase().as_str());
            if typed { quoted(text) } else { word(text) }
        }
        serde_json::Value::Array(items) => flow_list(&items.iter().map(flow).collect::<Vec<_>>()),
        serde_json::Value::Object(entries) => {
            let pairs: Vec<_> = entries.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            flow_map(&pairs)
        }
        other => other.to_string(),
    }
}

/// A text where a text is wanted: quoted unless it is plainly one.
fn word(text: &str) -> String {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@' | '+' | ':');
    let mut words = text.split(' ');
    let plain = text.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '/')
        && words.all(|word| !word.is_empty() && word.chars().all(inside) && !word.ends_with(':'))
        && !["null", "true", "false", "yes", "no", "on", "off", "~"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_string() } else { quoted(text) }
}

/// JSON's texts are YAML's double-quoted ones.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
