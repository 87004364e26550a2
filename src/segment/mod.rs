//! Segments: predicates over traits, evaluated for the changed profiles of a batch.
//!
//! [`Segments::judge`] takes the profiles as they are at the end of the batch (SEMANTICS §2) and compares what
//! the predicates say with the stored memberships; the differences are the output.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::event::ProfileId;
use crate::expression::{BoundExpression, EvaluateError, Expression, ExpressionError};
use crate::profile::Profile;

/// A checked segment. Plans are ordered so that a segment comes after those it refers to.
#[derive(Debug, Clone)]
pub struct SegmentPlan {
    pub name: String,
    /// Changes when the meaning changes.
    pub version: u64,
    /// Over the trait columns (by trait name) and `in_segment:NAME` (boolean).
    pub predicate: Expression,
}

#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("segment {name} cannot be bound to the traits: {source}")]
    Bind { name: String, source: ExpressionError },
    #[error("segment {name} cannot be evaluated: {source}")]
    Evaluate { name: String, source: EvaluateError },
    #[error("the traits do not make a batch: {0}")]
    Columns(String),
}

/// All segments, bound to the trait columns.
pub struct Segments {
    pub plans: Vec<SegmentPlan>,
    bound: Vec<BoundExpression>,
    schema: SchemaRef,
}

/// One entry into or exit from a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Index into the profiles that were judged.
    pub profile: u32,
    pub segment: u16,
    pub id: ProfileId,
    pub entered: bool,
    /// Only `event` sets anything off: `merge` moves a membership from one profile id to another, `split` is put right.
    pub cause: Cause,
    /// The how-manieth entry of this profile into this segment.
    pub entry: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Event,
    Merge,
    /// A correction of identity.
    Split,
}

/// Memberships shown under an id that is another id from this batch on.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Index into the profiles that are judged.
    pub into: u32,
    pub id: ProfileId,
    /// By segment.
    pub member: Vec<bool>,
}

/// The boolean column under which a segment's membership is visible to later predicates.
pub fn membership_column(segment: &str) -> String {
    format!("in_segment:{segment}")
}

impl Segments {
    pub fn new(plans: Vec<SegmentPlan>, traits: &SchemaRef) -> Result<Segments, SegmentError> {
        let mut fields: Vec<Arc<Field>> = traits.fields().iter().cloned().collect();
        fields.extend(
            plans.iter().map(|plan| Arc::new(Field::new(membership_column(&plan.name), DataType::Boolean, true))),
        );
        let schema = Arc::new(Schema::new(fields));
        let bind = |plan: &SegmentPlan| {
            plan.predicate.bind(&schema).map_err(|source| SegmentError::Bind { name: plan.name.clone(), source })
        };
        let bound = plans.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        Ok(Segments { plans, bound, schema })
    }

    /// Judges the profiles by their trait columns, updates their memberships, and says what changed.
    ///
    /// `profiles[i].memberships` is what either side of a merge had, `shown[i]` what the tables show under its present
    /// id, and `moved` what they show under an id that is no longer anyone's own.
    pub fn judge(
        &self,
        traits: &RecordBatch,
        profiles: &mut [Profile],
        shown: &[Vec<bool>],
        moved: &[Moved],
    ) -> Result<Vec<Transition>, SegmentError> {
        let mut transitions = Vec::new();
        for old in moved {
            let held = old.member.iter().enumerate().filter(|(_, member)| **member);
            for (segment, _) in held {
                transitions.push(Transition {
                    profile: old.into,
                    segment: segment as u16,
                    id: old.id,
                    entered: false,
                    cause: Cause::Merge,
                    entry: 0,
                });
            }
        }
        let rows = profiles.len();
        let unknown: ArrayRef = Arc::new(BooleanArray::from(vec![false; rows]));
        let mut columns: Vec<ArrayRef> = traits.columns().to_vec();
        let first = columns.len();
        columns.extend(self.plans.iter().map(|_| unknown.clone()));
        for (segment, (plan, predicate)) in self.plans.iter().zip(&self.bound).enumerate() {
            let batch = RecordBatch::try_new(self.schema.clone(), columns.clone())
                .map_err(|error| SegmentError::Columns(error.to_string()))?;
            let now = predicate
                .evaluate_predicate(&batch)
                .map_err(|source| SegmentError::Evaluate { name: plan.name.clone(), source })?;
            for (row, profile) in profiles.iter_mut().enumerate() {
                let membership = &mut profile.memberships[segment];
                let (was, is) = (membership.member, now.value(row));
                let was_shown = shown[row][segment];
                membership.member = is;
                if is && !was {
                    membership.entries += 1;
                }
                if is != was_shown {
                    transitions.push(Transition {
                        profile: row as u32,
                        segment: segment as u16,
                        id: profile.id,
                        entered: is,
                        cause: if is == was { Cause::Merge } else { Cause::Event },
                        entry: membership.entries,
                    });
                }
            }
            columns[first + segment] = Arc::new(now);
        }
        Ok(transitions)
    }
}
