//! Segments: who is in them, judged as profiles change and as time passes.
//!
//! [`Segments::judge`] takes profiles as they are at the end of a batch, or at the moment of a timer (SEMANTICS §1, §2), and
//! compares what the definitions say with the stored memberships; the differences are the output. It looks only at
//! segments that something could have changed. [`Segments::next_flip`] says when time alone could change one.

mod judge;

use std::sync::Arc;

use hashbrown::HashMap;
use sha2::{Digest, Sha256};

pub use judge::{Condition, Judged, Segments, Touch};

use crate::event::{ProfileId, TimeUs};
use crate::expression::{EvaluateError, Expression, ExpressionError};

/// A checked segment. Plans are ordered so that a segment comes after those it refers to.
#[derive(Debug, Clone)]
pub struct SegmentPlan {
    pub name: String,
    /// Changes when the meaning changes.
    pub version: u64,
    pub rule: SegmentRule,
}

#[derive(Debug, Clone)]
pub enum SegmentRule {
    /// Over the trait columns (by their names), `now()`, [`membership_column`] and [`since_column`] of other segments.
    /// Null is no.
    Predicate(Expression),
    /// That share of all people, by a hash of the segment's name and the profile id.
    Sample {
        /// Of 2^32.
        below: u64,
    },
    /// Who has one of the identifiers of a list.
    List(ListPlan),
    /// Defined no more: whoever is in it leaves.
    Nobody,
}

/// What a list's file holds.
#[derive(Debug, Clone)]
pub struct ListPlan {
    /// The index of the identifiers' type.
    pub kind: u16,
    /// As events have them once they are normalised, by their hashes.
    pub identifiers: Arc<HashMap<u128, Box<str>>>,
}

impl SegmentRule {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            SegmentRule::Predicate(predicate) => predicate.sql.clone(),
            SegmentRule::Sample { below } => format!("a sample of {:.1}%", *below as f64 / 42_949_672.96),
            SegmentRule::List(list) => format!("a list of {} identifiers", list.identifiers.len()),
            SegmentRule::Nobody => "defined no more".to_string(),
        }
    }
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

/// One entry into or exit from a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Index into the profiles that were judged.
    pub profile: u32,
    pub segment: u16,
    pub id: ProfileId,
    pub entered: bool,
    pub cause: Cause,
    /// The how-manieth entry of this profile into this segment.
    pub entry: u32,
    /// When: the `now` of the batch, or when the timer was due.
    pub at: TimeUs,
}

/// Only `event`, `time` and `edit` set anything off by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Event,
    /// No event came, but its time.
    Time,
    /// Someone changed a list by command.
    Edit,
    /// A membership moved from one profile id to another.
    Merge,
    /// A correction of identity.
    Split,
    /// A definition that is new or changed found the past.
    Fill,
    /// The segment is defined no more.
    Removed,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Event => "event",
            Cause::Time => "time",
            Cause::Edit => "edit",
            Cause::Merge => "merge",
            Cause::Split => "split",
            Cause::Fill => "fill",
            Cause::Removed => "removed",
        }
    }
}

/// Memberships shown under an id that is another id from this batch on.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Index into the profiles that are judged.
    pub into: u32,
    pub id: ProfileId,
    pub segments: Vec<u16>,
}

/// The boolean column under which a segment's membership is visible to later predicates.
pub fn membership_column(segment: &str) -> String {
    format!("{MEMBERSHIP}{segment}")
}

/// The column of the time since when someone has been a member without a break; null for who is none.
pub fn since_column(segment: &str) -> String {
    format!("{SINCE}{segment}")
}

const MEMBERSHIP: &str = "in_segment:";
const SINCE: &str = "member_since:";

/// Whether a profile is in the sample of so many of 2^32: by the first four bytes of SHA-256 of `NAME:ID`, as any SQL can
/// compute them.
pub fn is_sampled(segment: &str, id: ProfileId, below: u64) -> bool {
    let hash = Sha256::digest(format!("{segment}:{id}").as_bytes());
    u64::from(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])) < below
}
