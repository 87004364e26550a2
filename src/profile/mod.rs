//! Profiles: traits as mergeable accumulators over a profile's events.
//!
//! [`Traits::apply`] takes the events of a batch, each with its profile, and updates the accumulators trait by
//! trait: inputs and conditions are evaluated once for the whole batch. [`Profile::merge`] combines two
//! profiles by the accumulators' own addition. The order of events and merges does not change the result
//! (SEMANTICS §5). Nothing here reads the store or a clock.

mod accumulator;
mod apply;
mod record;

pub use accumulator::{Accumulator, Scalar};
pub use apply::{TraitError, Traits};
pub use record::{Membership, Profile, ProfileRecord, Slots};

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
