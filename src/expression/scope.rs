//! A scope that is a list, and the search for the name that was meant.

use arrow::datatypes::DataType;

use super::{Resolved, Scope};

/// Names given one by one: for trait scopes, maps over a source's columns, and tests.
#[derive(Debug, Clone, Default)]
pub struct ColumnScope {
    names: Vec<(Vec<String>, Resolved)>,
    knows_now: bool,
}

impl ColumnScope {
    pub fn new() -> Self {
        ColumnScope::default()
    }

    /// With a `now()`.
    pub fn with_now(self) -> Self {
        ColumnScope { knows_now: true, ..self }
    }

    /// Adds a name by its path: `["checkout", "level"]`; `["in_segment", "vip"]` for a segment.
    pub fn add(&mut self, path: &[&str], resolved: Resolved) {
        self.names.push((path.iter().map(|part| part.to_string()).collect(), resolved));
    }

    /// Adds a column under its own name, split at its dots.
    pub fn add_column(&mut self, name: &str, data_type: DataType) {
        let path: Vec<&str> = name.split('.').collect();
        self.add(&path, Resolved { column: name.to_string(), data_type, nested: Vec::new() });
    }
}

impl Scope for ColumnScope {
    /// A path that goes on behind a known name follows the fields of its struct.
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        let fits = |known: &Vec<String>| known.len() <= path.len() && known.iter().zip(path).all(|(a, b)| a == b);
        let (known, resolved) =
            self.names.iter().filter(|(known, _)| fits(known)).max_by_key(|(known, _)| known.len())?;
        let mut resolved = resolved.clone();
        for step in &path[known.len()..] {
            resolved.data_type = field_type(&resolved.data_type, step)?;
            resolved.nested.push(step.to_string());
        }
        Some(resolved)
    }

    fn names(&self) -> Vec<String> {
        let written = |path: &Vec<String>| match path.as_slice() {
            [function, segment] if function == "in_segment" => Some(format!("in_segment('{segment}')")),
            [function, _] if function == "has_been" => None,
            _ => Some(path.join(".")),
        };
        self.names.iter().filter_map(|(path, _)| written(path)).collect()
    }

    fn knows_now(&self) -> bool {
        self.knows_now
    }
}

/// The type of a struct's field, or of the values of a map.
fn field_type(data_type: &DataType, step: &str) -> Option<DataType> {
    match data_type {
        DataType::Struct(fields) => fields.find(step).map(|(_, field)| field.data_type().clone()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => Some(pair[1].data_type().clone()),
            _ => None,
        },
        _ => None,
    }
}

/// The candidate that was probably meant: the same but for its case, or its last part, or a few letters.
pub fn nearest<C: AsRef<str>>(name: &str, candidates: impl IntoIterator<Item = C>) -> Option<String> {
    let wanted = name.to_lowercase();
    let limit = (wanted.chars().count() / 3).max(1);
    let mut best: Option<(usize, String)> = None;
    for candidate in candidates {
        let candidate = candidate.as_ref();
        let lower = candidate.to_lowercase();
        let distance = if lower == wanted {
            0
        } else if lower.ends_with(&format!(".{wanted}")) || wanted.ends_with(&format!(".{lower}")) {
            1
        } else {
            strsim::damerau_levenshtein(&wanted, &lower)
        };
        if distance <= limit && best.as_ref().is_none_or(|(least, _)| distance < *least) {
            best = Some((distance, candidate.to_string()));
        }
    }
    best.map(|(_, candidate)| candidate)
}
