//! The names that conditions over profiles may use; those of maps and events are the transform stage's.

use std::cell::Cell;
use std::collections::BTreeSet;

use arrow::datatypes::DataType;

use crate::event::{ValueType, time_type};
use crate::expression::{Resolved, Scope};
use crate::profile::{BUILT_IN, GROUP_BUILT_IN, TraitPlan};
use crate::segment::{membership_column, since_column};

/// Whom traits and segments are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    People,
    /// Of groups of this name.
    Group(&'a str),
}

impl Whose<'_> {
    /// Traits that nobody has to define.
    pub fn built_in(self) -> &'static [(&'static str, ValueType)] {
        match self {
            Whose::People => &BUILT_IN,
            Whose::Group(_) => &GROUP_BUILT_IN,
        }
    }

    /// Other names that no trait can have: columns that every row of the table has, and what only people have.
    pub fn taken(self) -> &'static [&'static str] {
        match self {
            Whose::People => &["profile_id", "deleted"],
            Whose::Group(_) => &["group_id", "deleted", "sessions"],
        }
    }

    /// For people: `every profile`.
    pub fn everyone(self) -> String {
        match self {
            Whose::People => "every profile".to_string(),
            Whose::Group(name) => format!("every group of `{name}`"),
        }
    }
}

/// Traits and segments: what formulas, stages and segments read.
#[derive(Default)]
pub struct ProfileScope {
    pub(super) values: Vec<Value>,
    pub segments: Vec<String>,
    /// Traits whose definition is at fault: what reads them is not reported as well.
    pub broken: BTreeSet<String>,
    /// Names of the others' traits, or of those others: of people for groups, of groups for people.
    pub foreign: Vec<String>,
    /// Traits that cannot be read yet.
    pub waiting: BTreeSet<String>,
    pub touched_broken: Cell<bool>,
    pub touched_waiting: Cell<bool>,
}

pub(super) struct Value {
    path: Vec<String>,
    column: String,
    data_type: DataType,
    nullable: bool,
}

impl ProfileScope {
    /// With the traits that everyone has of whom these are.
    pub fn new(whose: Whose<'_>) -> ProfileScope {
        let built_in = whose.built_in().iter().map(|(name, value_type)| Value::plain(name, *value_type, false));
        ProfileScope { values: built_in.collect(), ..ProfileScope::default() }
    }

    pub fn add(&mut self, plan: &TraitPlan) {
        self.values.extend(plan.columns.iter().map(|column| {
            let mut value = Value::plain(&column.name, column.value_type, column.nullable);
            value.path = vec![plan.name.clone()];
            value.path.extend((!column.part.is_empty()).then(|| column.part.to_string()));
            value
        }));
    }
}

impl Value {
    fn plain(name: &str, value_type: ValueType, nullable: bool) -> Value {
        Value { path: vec![name.to_string()], column: name.to_string(), data_type: value_type.arrow(), nullable }
    }
}

impl Scope for ProfileScope {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        let of = |column: String, data_type| Some(Resolved { column, data_type, nested: Vec::new() });
        match path {
            ["in_segment", name] if self.segments.iter().any(|segment| segment == name) => {
                of(membership_column(name), DataType::Boolean)
            }
            ["has_been", name] if self.segments.iter().any(|segment| segment == name) => {
                of(since_column(name), time_type())
            }
            ["in_segment" | "has_been", _] => None,
            _ => {
                self.touched_broken.set(self.touched_broken.get() || self.broken.contains(path[0]));
                self.touched_waiting.set(self.touched_waiting.get() || self.waiting.contains(path[0]));
                let value = self.values.iter().find(|value| value.path == path)?;
                of(value.column.clone(), value.data_type.clone())
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let traits = self.values.iter().map(|value| value.path.join("."));
        let waiting = self.waiting.iter().cloned();
        traits.chain(waiting).chain(self.segments.iter().map(|name| format!("in_segment('{name}')"))).collect()
    }

    fn why_not(&self, path: &[&str]) -> Option<String> {
        if self.foreign.iter().any(|name| name == path[0]) {
            return Some("people and groups cannot read each other's traits".to_string());
        }
        let parts: Vec<String> =
            self.values.iter().filter(|v| v.path.len() > 1 && v.path[0] == path[0]).map(|v| v.path.join(".")).collect();
        (path.len() == 1 && !parts.is_empty()).then(|| format!("write one of its values: {}", parts.join(", ")))
    }

    fn knows_now(&self) -> bool {
        true
    }

    fn nullable(&self, path: &[&str]) -> bool {
        path[0] != "in_segment"
            && self.values.iter().find(|value| value.path == path).is_none_or(|value| value.nullable)
    }
}
