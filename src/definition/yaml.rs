//! YAML text → a tree of nodes that know their place.
//!
//! Only what definitions need: scalars stay text (what they mean is decided where they are used, so that `NO` is
//! never a boolean by accident), aliases are copied in, tags are refused. The usual traps of YAML get a finding
//! that says what to quote, and the tree is mended so that one trap does not cause ten more findings.

use std::collections::HashMap;
use std::ops::Range;

use serde_saphyr::granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, StructureStyle};

use super::findings::{Findings, Span};

#[derive(Debug, Clone)]
pub struct Node {
    pub span: Span,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar's text after YAML's own escapes and folding.
#[derive(Debug, Clone)]
pub struct Scalar {
    pub text: String,
    pub style: ScalarStyle,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Key,
    pub value: Node,
}

#[derive(Debug, Clone)]
pub struct Key {
    pub text: String,
    pub span: Span,
}

impl Scalar {
    pub fn is_plain(&self) -> bool {
        self.style == ScalarStyle::Plain
    }

    pub fn is_null(&self) -> bool {
        self.is_plain() && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Where bytes of `text` stand in the file: `whole` is the scalar's own place.
    ///
    /// Folding and indentation change white space only, so the n-th character that is not white space is the same
    /// in both; escapes of double-quoted text are counted as the one character they stand for.
    pub fn locate(&self, range: &Range<usize>, whole: Span, source: &str) -> Span {
        let Some(raw) = source.get(whole.start..whole.end) else { return whole };
        let solid =
            |upto: usize| self.text.get(..upto).map_or(0, |text| text.chars().filter(|c| !c.is_whitespace()).count());
        let first = solid(range.start);
        let count = self.text.get(range.clone()).map_or(0, |t| t.chars().filter(|c| !c.is_whitespace()).count());
        let places = self.solid_places(raw);
        let Some(start) = places.get(first) else {
            // At the very end of the text: the place after the last character.
            let end = places.last().map_or(raw.len(), |last| last.end);
            return Span { start: whole.start + end, end: whole.start + end, ..whole };
        };
        let last = places.get(first + count.saturating_sub(1)).unwrap_or(start);
        Span { start: whole.start + start.start, end: whole.start + last.end, ..whole }
    }

    /// The byte ranges, in the raw text, of the characters that are not white space.
    fn solid_places(&self, raw: &str) -> Vec<Range<usize>> {
        let body = match self.style {
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => 1..raw.len().saturating_sub(1).max(1),
            // The line with `|` or `>` and its indicators is no content.
            ScalarStyle::Literal | ScalarStyle::Folded if raw.starts_with(['|', '>']) => {
                raw.find('\n').map_or(raw.len(), |newline| newline + 1)..raw.len()
            }
            _ => 0..raw.len(),
        };
        let Some(text) = raw.get(body.clone()) else { return Vec::new() };
        let mut places = Vec::new();
        let mut rest = text.char_indices().map(|(offset, c)| (body.start + offset, c)).peekable();
        while let Some((start, c)) = rest.next() {
            let mut end = start + c.len_utf8();
            match (self.style, c) {
                (ScalarStyle::SingleQuoted, '\'') => {
                    if let Some((_, second)) = rest.next() {
                        end += second.len_utf8();
                    }
                }
                (ScalarStyle::DoubleQuoted, '\\') => {
                    let Some((_, kind)) = rest.next() else { break };
                    let digits = match kind {
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        _ => 0,
                    };
                    end += kind.len_utf8() + digits;
                    for _ in 0..digits {
                        rest.next();
                    }
                    // Escapes that stand for white space; a line break that is escaped stands for nothing.
                    if matches!(kind, ' ' | '\t' | 't' | 'n' | 'r' | 'v' | 'f' | 'N' | '_' | 'L' | 'P' | '\n' | '\r') {
                        continue;
                    }
                }
                _ if c.is_whitespace() => continue,
                _ => {}
            }
            places.push(start..end);
        }
        places
    }
}

impl Node {
    pub fn as_scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.as_scalar().is_some_and(Scalar::is_null)
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Parses a file into its documents. Faults go to `findings`; None when the text cannot be read as YAML.
pub fn parse(file: usize, findings: &Findings) -> Option<Vec<Node>> {
    let text = &findings.files()[file].text;
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut tree = Tree {
        parser: Parser::new_from_str_with_options(text, options),
        file,
        text,
        findings,
        anchors: HashMap::new(),
        copies_left: COPIES_MAX,
    };
    match tree.documents() {
        Ok(documents) => Some(documents),
        Err(error) => {
            tree.report(&error);
            None
        }
    }
}

/// Nodes that aliases may copy in, over a whole file: definitions are small, and aliases of aliases grow fast.
const COPIES_MAX: usize = 20_000;

struct Tree<'t> {
    parser: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    file: usize,
    text: &'t str,
    findings: &'t Findings,
    anchors: HashMap<usize, Node>,
    copies_left: usize,
}

type Spanned<'t> = (Event<'t>, Span);

impl<'t> Tree<'t> {
    fn documents(&mut self) -> Result<Vec<Node>, ScanError> {
        let mut documents = Vec::new();
        while let Some((event, span)) = self.next()? {
            match event {
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    documents.push(self.node(event, span)?);
                }
                _ => {}
            }
        }
        Ok(documents)
    }

    fn next(&mut self) -> Result<Option<Spanned<'t>>, ScanError> {
        let Some(next) = self.parser.next() else { return Ok(None) };
        let (event, span) = next?;
        let range = span.byte_range().unwrap_or_default();
        Ok(Some((event, Span { file: self.file, start: range.start, end: range.end })))
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, ScanError> {
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let scalar = Scalar { text: text.into_owned(), style };
                (anchor, Node { span: self.tight(span), value: Value::Scalar(scalar) })
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                (anchor, self.list(style, span)?)
            }
            Event::MappingStart(style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                (anchor, self.map(style, span)?)
            }
            Event::Alias(anchor) => {
                let copy = self.anchors.get(&anchor).cloned();
                let size = copy.as_ref().map_or(0, size);
                return Ok(match copy {
                    Some(copy) if size <= self.copies_left => {
                        self.copies_left -= size;
                        copy
                    }
                    _ => {
                        self.findings.error(span, "this alias would copy too much in", None);
                        empty(span)
                    }
                });
            }
            _ => (0, empty(span)),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, style: StructureStyle, start: Span) -> Result<Node, ScanError> {
        let mut items: Vec<Node> = Vec::new();
        let mut end = start;
        while let Some((event, span)) = self.next()? {
            if event == Event::SequenceEnd {
                end = span;
                break;
            }
            let item = self.node(event, span)?;
            // `[coalesce(a, b)]`: the comma was meant to stay inside the value.
            if style == StructureStyle::Flow && self.cut_by_comma(items.last()) {
                self.rejoin(items.last_mut(), item.span.end);
            } else {
                items.push(item);
            }
        }
        Ok(Node { span: Span { end: end.end.max(start.end), ..start }, value: Value::List(items) })
    }

    fn map(&mut self, style: StructureStyle, start: Span) -> Result<Node, ScanError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut end = start;
        let mut template = false;
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                end = span;
                break;
            }
            let key_node = self.node(event, span)?;
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span)?;
            let Value::Scalar(key) = &key_node.value else {
                template = true;
                continue;
            };
            if style == StructureStyle::Flow && value.is_null() && self.cut_by_comma(entries.last().map(|e| &e.value)) {
                self.rejoin(entries.last_mut().map(|e| &mut e.value), key_node.span.end);
                continue;
            }
            if key.is_plain() && key.text == "<<" {
                let help = "write the entries out".to_string();
                self.findings.error(key_node.span, "merge keys (`<<`) are not supported", help);
                continue;
            }
            self.check_key(key, key_node.span);
            let key = Key { text: key.text.clone(), span: key_node.span };
            match entries.iter().find(|entry| entry.key.text == key.text) {
                Some(first) => {
                    let first = format!("first written at {}", self.findings.place_name(first.key.span));
                    self.findings.error(key.span, format!("`{}` is written twice", key.text), first);
                }
                None => entries.push(Entry { key, value }),
            }
        }
        let span = Span { end: end.end.max(start.end), ..start };
        if template {
            let message = "a map cannot be a key: `{{` opens two YAML maps";
            self.findings.error(span, message, "quote the template: \"{{ … }}\"".to_string());
            let text = self.findings.text(span).to_string();
            return Ok(Node { span, value: Value::Scalar(Scalar { text, style: ScalarStyle::DoubleQuoted }) });
        }
        Ok(Node { span, value: Value::Map(entries) })
    }

    /// Blanks and line ends after a scalar are not at fault.
    fn tight(&self, span: Span) -> Span {
        let text = self.text.get(span.start..span.end).unwrap_or_default();
        Span { end: span.start + text.trim_end().len(), ..span }
    }

    fn refuse_tag(&self, tagged: bool, span: Span) {
        if tagged {
            self.findings.error(
                span,
                "YAML tags (`!…`) mean nothing here",
                "quote the value if it begins with `!`".to_string(),
            );
        }
    }

    fn check_key(&self, key: &Scalar, span: Span) {
        let trap = key.is_plain()
            && matches!(
                key.text.to_ascii_lowercase().as_str(),
                "on" | "off" | "yes" | "no" | "true" | "false" | "null" | "~"
            );
        if trap {
            let message = format!("`{}` as a key is a boolean or null to many YAML readers", key.text);
            self.findings.error(span, message, format!("quote it: \"{}\"", key.text));
        }
    }

    /// An unquoted value with an open parenthesis: what follows the comma belongs to it.
    fn cut_by_comma(&self, value: Option<&Node>) -> bool {
        let scalar = value.and_then(Node::as_scalar);
        scalar.is_some_and(|s| s.is_plain() && s.text.matches('(').count() > s.text.matches(')').count())
    }

    /// Says what to quote, and takes the rest of the expression back into its value.
    fn rejoin(&self, value: Option<&mut Node>, end: usize) {
        let Some(Node { span, value: Value::Scalar(scalar) }) = value else { return };
        let whole = Span { end, ..*span };
        let message = "the comma ends the value here: inside { … } and [ … ] an expression with a comma must be quoted";
        self.findings.error(*span, message, format!("write \"{}\"", self.findings.text(whole)));
        scalar.text = self.findings.text(whole).to_string();
        *span = whole;
    }

    fn report(&self, error: &ScanError) {
        let start = error.marker().byte_offset().unwrap_or(0).min(self.text.len());
        let span = Span { file: self.file, start, end: start };
        let at = self.text.get(start..).unwrap_or_default();
        let line = &self.text[self.text[..start].rfind('\n').map_or(0, |n| n + 1)..];
        let line = line.lines().next().unwrap_or_default();
        let (message, help) = match error.kind() {
            ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar => ("a tab where YAML wants spaces", "indent with spaces"),
            ErrorKind::MissingAnchorOrAliasName | ErrorKind::UnknownAnchor => {
                ("an unquoted `*` or `&` begins an alias or anchor in YAML", "quote the value: \"*\"")
            }
            ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
                ("text after the closing quote", "a value that begins with a quote must be quoted whole: \"'a' || b\"")
            }
            ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement
                if at.starts_with(':') || line.contains(": ") =>
            {
                ("a second `: ` in the same line", "quote the value if the colon belongs to it")
            }
            ErrorKind::ExpectedFlowMappingSeparator
            | ErrorKind::ExpectedFlowSequenceSeparator
            | ErrorKind::UnexpectedEofFlowMapping
            | ErrorKind::UnexpectedEofFlowSequence
            | ErrorKind::MisplacedFlowCollectionEnd
            | ErrorKind::ExpectedNodeContent
                if line.contains(['{', '[']) =>
            {
                (
                    "a `{ … }` or `[ … ]` that does not end as it should",
                    "close it; inside, an expression with a comma, bracket or quote must be quoted",
                )
            }
            ErrorKind::UnclosedQuotedScalar => ("a quote that is never closed", "close it, or double it inside '…'"),
            _ if at.starts_with(['%', '@', '`']) => {
                ("an unquoted value cannot begin with this character", "quote the value")
            }
            _ => {
                let message = format!("this is not YAML: {}", error.info());
                self.findings.error(span, message, None);
                return;
            }
        };
        self.findings.error(span, message, help.to_string());
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
    }
}

fn empty(span: Span) -> Node {
    Node { span, value: Value::Scalar(Scalar { text: String::new(), style: ScalarStyle::Plain }) }
}
