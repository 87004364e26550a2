//! Profiles: traits as mergeable accumulators over a profile's events, and traits computed from others.
//!
//! [`Traits::apply`] takes the events of a batch, each with its profile, and updates the accumulators trait by
//! trait: inputs and conditions are evaluated once for the whole batch. [`Traits::columns`] shows the traits of
//! profiles as columns at a moment, and computes formulas and stages over them. [`Profile::merge`] combines two
//! profiles by the accumulators' own addition. The order of events and merges does not change the result
//! (SEMANTICS §5), whatever a trait's [`OnMerge`]. Nothing here reads the store or a clock.

mod accumulator;
mod apply;
mod batch;
mod columns;
mod distinct;
mod found;
mod frequencies;
mod funnel;
mod gap;
mod group;
mod keyed;
mod plan;
mod points;
mod record;
mod rfm;
mod sequence;
mod slots;
mod values;
mod window;

#[cfg(test)]
mod tests;

pub use accumulator::{Accumulator, Scalar};
pub use apply::{Input, NOW_PLACE, SessionsOf, Taken, TraitError, Traits};
pub use columns::Change;
pub use distinct::Distinct;
pub use frequencies::{Frequencies, VALUES_MAX};
pub use funnel::{Funnel, FunnelModes, FunnelPlan, FunnelValue, STEPS_MAX};
pub use gap::{Gap, GapPlan, GapStatistic};
pub use group::{GroupId, PERSON_COLUMN, Renamed, add_people, with_people};
pub use keyed::MAX_KEYS;
pub use plan::{EventRule, OnMerge, Stage, Step, TraitColumn, TraitKind, TraitPlan, TraitRule};
pub use points::{POINTS_MAX, Point};
pub use record::{GroupOf, Membership, Profile, ProfileRecord, StageOf};
pub use rfm::{RfmBorders, RfmRule, RfmValues};
pub use sequence::{Sequence, SequencePlan, SequenceStep, SequenceValue};
pub use slots::{DefinedFor, Differences, Differs, SlotOf, Slots, SlotsOfKind, name_in};
pub use window::Window;

use crate::event::ValueType;

/// Traits that every profile has: `first_seen`, `last_seen` (timestamps), `events` and `sessions` (how many; of people).
pub const BUILT_IN: [(&str, ValueType); 4] = [
    ("first_seen", ValueType::Timestamp),
    ("last_seen", ValueType::Timestamp),
    ("events", ValueType::Long),
    ("sessions", ValueType::Long),
];

/// Traits that every group has.
pub const GROUP_BUILT_IN: [(&str, ValueType); 3] = [BUILT_IN[0], BUILT_IN[1], BUILT_IN[2]];

/// How far behind a profile's latest event another one may happen and still take its place among the points of funnels,
/// sequences and sessions, which forget what is older. Measured on the events' own times and not on a clock, so that an
/// import of years of history is judged like a live stream.
pub const LATENESS_US: i64 = 7 * 24 * 60 * 60 * 1_000_000;
