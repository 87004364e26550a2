//! Aggregates: `GROUP BY` over the events of a batch, as partial rows that a view adds up.
//!
//! [`AggregatePlan::check`] takes one `SELECT … FROM events [WHERE …] GROUP BY …` apart into expressions; an
//! [`Aggregator`] evaluates them over a batch and groups the rows itself, so no SQL is executed per batch.
//!
//! # What the partial rows mean
//!
//! - They can be combined in any order and under any batch borders to the same result, to the last digit: `sum` and
//!   `count` by adding, `min` and `max` by themselves. That is why `avg`, `DISTINCT` and group keys with fractions are
//!   refused, and why doubles are added as decimals of 6 digits behind the point (each value rounded on its way in,
//!   half away from zero; a value of 10²² or beyond counts as null).
//! - `count(x)` counts what is not null. A `sum` without values is 0, a `min` or `max` without values is null. A sum
//!   that its column cannot hold (beyond `Int64` for longs, 38 digits for decimals) is null.
//! - Null is a group of its own. A batch without rows that count has no partial rows, with `GROUP BY` or without.
//! - Rows are sorted by their keys, null first.

mod alert;
mod group;
mod plan;
#[cfg(test)]
mod tests;

use arrow::datatypes::DataType;

pub use alert::{Alert, AlertPlan, GROUPS_MAX, Past, Series, Unwatchable};
pub use group::Aggregator;

use crate::expression::{Expression, Resolved};

/// A checked aggregate over event columns and fields.
#[derive(Debug, Clone)]
pub struct AggregatePlan {
    pub name: String,
    /// As the user wrote it.
    pub sql: String,
    /// In the order of the `SELECT`.
    pub columns: Vec<AggregateColumn>,
    /// What each column is computed from; None for `count(*)`.
    inputs: Vec<Option<Expression>>,
    filter: Option<Expression>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AggregateColumn {
    pub name: String,
    /// `Decimal128(38, 6)` for sums of doubles.
    pub data_type: DataType,
    pub role: AggregateRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateRole {
    Key,
    Sum,
    Count,
    Min,
    Max,
}

impl AggregatePlan {
    /// The event columns and fields that it reads, perhaps repeated.
    pub fn inputs(&self) -> impl Iterator<Item = &Resolved> {
        self.inputs.iter().flatten().chain(&self.filter).flat_map(|expression| &expression.inputs)
    }
}
