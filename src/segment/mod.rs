//! Segments: predicates over traits, evaluated for the changed profiles of a batch.

use crate::expression::Expression;

/// A checked segment. Plans are ordered so that a segment comes after those it refers to.
#[derive(Debug, Clone)]
pub struct SegmentPlan {
    pub name: String,
    /// Changes when the meaning changes.
    pub version: u64,
    /// Over the trait columns (by trait name) and `in_segment:NAME` (boolean).
    pub predicate: Expression,
}
