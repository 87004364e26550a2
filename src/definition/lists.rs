//! The files of list segments.

use std::path::PathBuf;
use std::sync::Arc;

use hashbrown::HashMap;

use super::check::Checker;
use super::findings::nearest_or_list;
use super::outputs::version;
use super::spec::ListSpec;
use crate::identity::{IdentityPlan, Normalize, Unusable};
use crate::segment::ListPlan;

/// So many lines of one file are warned of.
const WARNINGS_MAX: usize = 20;

/// The longest text of a line that is shown.
const SHOWN_CHARS: usize = 100;

/// A value of the file and the number of its line.
type Line = (usize, String);

/// The list, and what it means as one text. None where something was reported.
pub fn list(checker: &Checker, identity: &IdentityPlan, spec: &ListSpec) -> Option<(ListPlan, String)> {
    let findings = checker.reader.findings;
    let name = &spec.matches.text;
    let Some(kind) = identity.kind(name) else {
        if spec.matches.known {
            let help = nearest_or_list(name, identity.types.iter().map(|kind| kind.name.as_str()));
            findings.error(spec.matches.span, format!("there is no identifier type `{name}`"), help);
        }
        return None;
    };
    let path = checker.reader.path(&spec.file);
    let lines = match read(&path, name, &identity.types[usize::from(kind)].normalize, checker) {
        // The name of the file is not known here.
        Err(_) if !spec.file.known => Vec::new(),
        Err(problem) => {
            findings.error(spec.file.span, problem, None);
            return None;
        }
        Ok(lines) => lines,
    };
    let mut identifiers: HashMap<u128, Box<str>> = HashMap::with_capacity(lines.len());
    let mut wrong = 0;
    for (line, text) in &lines {
        match identity.identifier(kind, text) {
            Ok(value) => drop(identifiers.insert(identity.identifier_hash(kind, &value), (*value).into())),
            Err(problem) => {
                wrong += 1;
                if wrong <= WARNINGS_MAX {
                    let why = match problem {
                        Unusable::Invalid => format!("this is no {name}"),
                        Unusable::Blocked => format!("this {name} stands for nobody"),
                    };
                    let shown = text.chars().take(SHOWN_CHARS).collect();
                    findings.warning_of_line(path.clone(), *line, shown, format!("{why}: the line is left out"));
                }
            }
        }
    }
    if wrong > WARNINGS_MAX {
        let message = format!("{} more lines of this list are no {name} and left out", wrong - WARNINGS_MAX);
        findings.warning(spec.file.span, message, None);
    }
    let mut values: Vec<&str> = identifiers.values().map(AsRef::as_ref).collect();
    values.sort_unstable();
    let text = format!("list {name} {:016x}", version(&values));
    Some((ListPlan { kind, identifiers: Arc::new(identifiers) }, text))
}

/// The values of a file: of a CSV (by its ending) those of the column `name` or the only one, else all lines.
fn read(path: &PathBuf, name: &str, rule: &Normalize, checker: &Checker) -> Result<Vec<Line>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
        let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
        return Ok(lines.map(|(number, line)| (number, line.to_string())).collect());
    }
    let wrong = |error: csv::Error| format!("{shown} is no CSV: {error}");
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(wrong)?.clone();
    let column = match header.iter().position(|column| column == name) {
        Some(column) => column,
        None if header.len() == 1 => {
            let first = &header[0];
            // Types that take any text cannot tell a name from a value.
            let checked = matches!(rule, Normalize::Email { .. } | Normalize::E164 { .. } | Normalize::Digits);
            if checked && crate::identity::normalize(rule, first).is_some() {
                let message = format!("a CSV begins with the names of its columns, and this looks like a {name}");
                checker.reader.findings.warning_of_line(path.clone(), 1, first.to_string(), message);
            }
            0
        }
        None => {
            let columns: Vec<&str> = header.iter().collect();
            return Err(format!("{shown} has no column `{name}`, only {}", columns.join(", ")));
        }
    };
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let value = record.get(column).unwrap_or_default();
        if !value.is_empty() {
            lines.push((line, value.to_string()));
        }
    }
    Ok(lines)
}
