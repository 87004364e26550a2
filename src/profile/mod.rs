//! Profiles: traits as mergeable accumulators over a profile's events.
//!
//! [`Traits::apply`] takes the events of a batch, each with its profile, and updates the accumulators trait by
//! trait: inputs and conditions are evaluated once for the whole batch. [`Profile::merge`] combines two
//! profiles by the accumulators' own addition. The order of events and merges does not change the result
//! (SEMANTICS §5), whatever a trait's [`OnMerge`]. Nothing here reads the store or a clock.

mod accumulator;
mod apply;
mod distinct;
mod frequencies;
mod funnel;
mod gap;
mod points;
mod record;
mod sequence;
mod values;

#[cfg(test)]
mod tests;

pub use accumulator::{Accumulator, Scalar};
pub use apply::{TraitError, Traits};
pub use distinct::Distinct;
pub use frequencies::Frequencies;
pub use funnel::{Funnel, FunnelModes, FunnelPlan, FunnelValue, Point};
pub use gap::{Gap, GapPlan, GapStatistic};
pub use record::{Membership, Profile, ProfileRecord, Slots};
pub use sequence::{Sequence, SequencePlan, SequencePoint, SequenceStep, SequenceValue};

use crate::event::ValueType;
use crate::expression::Expression;

/// A checked trait.
#[derive(Debug, Clone)]
pub struct TraitPlan {
    pub name: String,
    /// Changes when the meaning changes: a hash of the definition. State is kept by it.
    pub version: u64,
    pub kind: TraitKind,
    /// Event names; all events where None.
    pub events: Option<Vec<String>>,
    pub filter: Option<Expression>,
    /// What it reads from an event; None only for `count` of `*`.
    pub input: Option<Expression>,
    /// For `latest` and `first` over a plain path: the presence column, so that an explicit null deletes.
    pub presence: Option<String>,
    /// The type of its value.
    pub value_type: ValueType,
    /// For sums of doubles: digits after the point that are kept (the sum is an integer of that scale).
    pub scale: u8,
    /// Which of several values stands, of `latest` and `first`; says nothing to the other kinds.
    pub on_merge: OnMerge,
    /// For [`OnMerge::SourcePriority`]: sources, best first; any other comes after them.
    pub source_order: Vec<String>,
}

/// Which value of a profile's events stands. Not a special case of merging: every update goes by (rank, timestamp,
/// message id), so it does not matter when two profiles turned out to be one person (SEMANTICS §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMerge {
    /// The latest, by (timestamp, message id).
    Latest,
    /// The earliest.
    Earliest,
    /// That of the event with the best identifier, by (kind, hash); among those the latest, of `first` the earliest.
    Survivor,
    /// That of the best source; among those the latest, of `first` the earliest.
    SourcePriority,
}

impl TraitPlan {
    /// The kind that orders two states of one rank: [`TraitKind::First`] where the earlier one stands.
    pub fn order(&self) -> TraitKind {
        match (self.kind, self.on_merge) {
            (TraitKind::Latest | TraitKind::First, OnMerge::Latest) => TraitKind::Latest,
            (TraitKind::Latest | TraitKind::First, OnMerge::Earliest) => TraitKind::First,
            (kind, _) => kind,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraitKind {
    Latest,
    First,
    Count,
    Sum,
    Min,
    Max,
}

/// Traits that every profile has: `first_seen`, `last_seen` (timestamps) and `events` (long).
pub const BUILT_IN: [(&str, ValueType); 3] =
    [("first_seen", ValueType::Timestamp), ("last_seen", ValueType::Timestamp), ("events", ValueType::Long)];
