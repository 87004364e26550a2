//! Sessions: the events of one profile, cut where it paused.
//!
//! Events are ordered by (timestamp, message id). Two consecutive ones are in one session if they are at most the gap
//! apart and nothing splits them: local midnight, or an event that names another campaign than the one last named in
//! the session. Which sessions there are depends on the events alone, not on the order in which they came: a late
//! event joins the session it is near to, joins two that it bridges, and with a split on campaigns may cut one in two.
//!
//! A session's id is made of its first event, so it may change with a late one. What was once written as an id keeps
//! a row in the table `sessions` that says which session stands for it ([`SessionRow::merged_into`]), always in one
//! step. Events that a late campaign cut off were written under the id of the session they were in; they are found by
//! time among the sessions of one *chain*: those that nothing but campaigns parts ([`SessionRow::chain_id`]).
//!
//! Sessions that no event can change any more, because it would be later than the lateness allows, leave the state and
//! are only counted. Nothing here reads the store or a clock.

mod columns;
mod follow;
mod plan;
mod sessions;
mod span;

#[cfg(test)]
mod tests;

pub use columns::{Columns, fields};
pub use follow::Follow;
pub use plan::{GAP, LATENESS, SessionsPlan};
pub use sessions::Sessions;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::event::TimeUs;

/// A hash of (source, message id) of the session's first event, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    pub fn of(source: &str, message_id: &str) -> SessionId {
        // A source's name holds no zero byte.
        let mut text: SmallVec<[u8; 128]> = SmallVec::from_slice(source.as_bytes());
        text.push(0);
        text.extend_from_slice(message_id.as_bytes());
        SessionId(xxhash_rust::xxh3::xxh3_128(&text).to_be_bytes())
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// What sessions need to know of an event.
#[derive(Debug, Clone, Copy)]
pub struct SessionEvent<'a> {
    pub at: TimeUs,
    pub source: &'a str,
    pub message_id: &'a str,
    /// A view of a page or screen.
    pub page: bool,
    /// `context.page.path`.
    pub path: Option<&'a str>,
    /// `context.campaign`: source, medium, name. It names a campaign if any of them is there.
    pub campaign: [Option<&'a str>; 3],
}

impl SessionEvent<'_> {
    pub fn names_campaign(&self) -> bool {
        self.campaign.iter().any(Option::is_some)
    }
}

/// Source, medium and name together; at least one is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Campaign {
    pub source: Option<Box<str>>,
    pub medium: Option<Box<str>>,
    pub name: Option<Box<str>>,
}

/// What the table `sessions` is to say of an id from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    pub id: SessionId,
    pub started_at: TimeUs,
    /// The time of its last event.
    pub ended_at: TimeUs,
    pub first_message_id: Box<str>,
    pub events: u32,
    pub pages: u32,
    /// `context.page.path` of its first and its last event that have one.
    pub first_page: Option<Box<str>>,
    pub last_page: Option<Box<str>>,
    /// The first one named in it.
    pub campaign: Option<Campaign>,
    /// The id is gone: the session that its first event is in now; the id itself where that event is in none any more. Then
    /// both times are that event's and the rest is empty.
    pub merged_into: Option<SessionId>,
    /// The first of the sessions that only campaigns part from each other; its own id where there is no such split.
    pub chain_id: SessionId,
}

impl SessionRow {
    /// The row of an id that no longer stands, where its first event is in `now`; None: in no session at all.
    pub fn gone(id: SessionId, at: TimeUs, message_id: &str, now: Option<(SessionId, SessionId)>) -> SessionRow {
        let (merged_into, chain_id) = now.unwrap_or((id, id));
        SessionRow {
            id,
            started_at: at,
            ended_at: at,
            first_message_id: message_id.into(),
            events: 0,
            pages: 0,
            first_page: None,
            last_page: None,
            campaign: None,
            merged_into: Some(merged_into),
            chain_id,
        }
    }

    pub fn duration_us(&self) -> TimeUs {
        self.ended_at.saturating_sub(self.started_at)
    }
}
