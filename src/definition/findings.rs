//! What was found, with its place: collected while reading and checking, rendered at the end.
//!
//! A place is a range of bytes in one of the files; lines and columns are worked out only when a finding is
//! rendered. Secrets that were written down by mistake are blotted out of every line that is shown.

use std::cell::RefCell;
use std::path::PathBuf;

use super::{Diagnostic, Place, Severity};
use crate::expression;

/// A range of bytes of a file, by the file's index in [`Findings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

/// A definition file as it was read.
#[derive(Debug)]
pub struct SourceFile {
    /// As shown to the user.
    pub path: PathBuf,
    pub text: String,
}

/// The files and what is wrong with them. Shared while checking, so that one fault does not hide the next.
#[derive(Debug, Default)]
pub struct Findings {
    files: Vec<SourceFile>,
    found: RefCell<Vec<Finding>>,
    secrets: RefCell<Vec<Span>>,
}

#[derive(Debug)]
struct Finding {
    place: Spot,
    severity: Severity,
    message: String,
    help: Option<String>,
}

#[derive(Debug)]
enum Spot {
    Span(Span),
    /// The file or folder as a whole.
    Whole(PathBuf),
    /// A line of a file that is no definition: its number, from 1, and its text.
    Line(PathBuf, usize, String),
}

impl Findings {
    /// Takes a file in; its index stands for it in every [`Span`].
    pub fn add_file(&mut self, path: PathBuf, text: String) -> usize {
        self.files.push(SourceFile { path, text });
        self.files.len() - 1
    }

    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    pub fn text(&self, span: Span) -> &str {
        self.files[span.file].text.get(span.start..span.end).unwrap_or_default()
    }

    pub fn error(&self, span: Span, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.push(Spot::Span(span), Severity::Error, message.into(), help.into());
    }

    pub fn warning(&self, span: Span, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.push(Spot::Span(span), Severity::Warning, message.into(), help.into());
    }

    /// An error that no line is to blame for.
    pub fn error_of(&self, path: PathBuf, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.push(Spot::Whole(path), Severity::Error, message.into(), help.into());
    }

    /// About a line of a file that is no definition.
    pub fn warning_of_line(&self, path: PathBuf, line: usize, text: String, message: String) {
        self.push(Spot::Line(path, line, text), Severity::Warning, message, None);
    }

    /// From now on these bytes are never shown.
    pub fn hide(&self, span: Span) {
        self.secrets.borrow_mut().push(span);
    }

    pub fn any_error(&self) -> bool {
        self.found.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// `file:line:column`, for findings that point at a second place.
    pub fn place_name(&self, span: Span) -> String {
        let file = &self.files[span.file];
        let (line, column) = line_and_column(&file.text, span.start);
        format!("{}:{line}:{column}", file.path.display())
    }

    /// A place to be shown later, when the files are gone.
    pub fn place(&self, span: Span) -> Place {
        let file = &self.files[span.file];
        Place { file: file.path.clone(), line: line_and_column(&file.text, span.start).0, start: span.start }
    }

    /// Everything found, in the order of the files and lines.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        let order = |finding: &Finding| match &finding.place {
            Spot::Whole(_) | Spot::Line(..) => (usize::MAX, 0),
            Spot::Span(span) => (span.file, span.start),
        };
        found.sort_by_key(order);
        let secrets = self.secrets.into_inner();
        let files = self.files;
        let mut diagnostics: Vec<Diagnostic> =
            found.into_iter().map(|finding| render(finding, &files, &secrets)).collect();
        diagnostics.dedup();
        diagnostics
    }

    fn push(&self, place: Spot, severity: Severity, message: String, help: Option<String>) {
        self.found.borrow_mut().push(Finding { place, severity, message, help });
    }
}

fn render(finding: Finding, files: &[SourceFile], secrets: &[Span]) -> Diagnostic {
    let Finding { place, severity, message, help } = finding;
    let span = match place {
        Spot::Whole(file) => {
            return Diagnostic { severity, file, line: 0, column: 0, length: 0, text: String::new(), message, help };
        }
        Spot::Line(file, line, text) => {
            let length = text.chars().count().max(1);
            return Diagnostic { severity, file, line, column: 1, length, text, message, help };
        }
        Spot::Span(span) => span,
    };
    let file = &files[span.file];
    let (line, column) = line_and_column(&file.text, span.start);
    let start = line_start(&file.text, span.start);
    let end = file.text[start..].find('\n').map_or(file.text.len(), |length| start + length);
    let shown = file.text[start..end].trim_end_matches('\r');
    let at_fault = file.text.get(span.start..span.end.min(end)).unwrap_or_default();
    let text = shown
        .char_indices()
        .map(|(offset, c)| {
            let byte = start + offset;
            let hidden = secrets.iter().any(|s| s.file == span.file && (s.start..s.end).contains(&byte));
            if hidden { '*' } else { c }
        })
        .collect();
    let length = at_fault.trim_end().chars().count().max(1);
    Diagnostic { severity, file: file.path.clone(), line, column, length, text, message, help }
}

fn line_start(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.rfind('\n').map_or(0, |newline| newline + 1)
}

/// Both from 1; the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before[line_start(text, offset)..].chars().count() + 1;
    (line, column)
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.message)?;
        if self.line == 0 {
            write!(f, "\n --> {}", self.file.display())?;
            return self.help.iter().try_for_each(|help| write!(f, "\n  = help: {help}"));
        }
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs before the marker are kept, so that it stands below what it marks however wide a tab is shown.
        let indent: String =
            self.text.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "\n{gutter}--> {}:{}:{}", self.file.display(), self.line, self.column)?;
        write!(f, "\n{gutter} |\n{number} | {}\n{gutter} | {indent}{}", self.text, "^".repeat(self.length))?;
        self.help.iter().try_for_each(|help| write!(f, "\n{gutter} = help: {help}"))
    }
}

/// The valid name that was probably meant, as a help text.
pub fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    expression::nearest(wrong, names).map(|name| format!("did you mean `{name}`?"))
}

/// As [`nearest`], and else the list of all names.
pub fn nearest_or_list<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let names: Vec<&str> = names.into_iter().collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let list = || (!names.is_empty()).then(|| format!("there {verb} {}", and_list(&names)));
    nearest(wrong, names.iter().copied()).or_else(list)
}

/// `a, b and c`, each in backquotes; long lists are cut.
pub fn and_list(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 14;
    let mut quoted: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN_MAX {
        quoted.push(format!("{} more", names.len() - SHOWN_MAX));
    }
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}
