//! The names that a segment's predicate may use; those of maps and events are the transform stage's.

use std::cell::Cell;
use std::collections::BTreeSet;

use arrow::datatypes::DataType;

use crate::event::ValueType;
use crate::expression::{Resolved, Scope};

/// Traits and segments: what a segment's predicate reads.
pub struct SegmentScope {
    pub traits: Vec<(String, ValueType)>,
    pub segments: Vec<String>,
    /// Traits whose definition is at fault: what reads them is not reported as well.
    pub broken: BTreeSet<String>,
    pub touched_broken: Cell<bool>,
}

impl Scope for SegmentScope {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        match path {
            ["in_segment", name] => self.segments.iter().any(|segment| segment == name).then(|| Resolved {
                column: format!("in_segment:{name}"),
                data_type: DataType::Boolean,
                nested: Vec::new(),
            }),
            [name] => {
                if self.broken.contains(*name) {
                    self.touched_broken.set(true);
                }
                let (name, value_type) = self.traits.iter().find(|(other, _)| other == name)?;
                Some(Resolved { column: name.clone(), data_type: value_type.arrow(), nested: Vec::new() })
            }
            _ => None,
        }
    }

    fn names(&self) -> Vec<String> {
        let traits = self.traits.iter().map(|(name, _)| name.clone());
        traits.chain(self.segments.iter().map(|name| format!("in_segment('{name}')"))).collect()
    }
}
