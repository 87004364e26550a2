//! Destinations: each has a worker of its own with its queue, so that a dead one holds up nobody else.
//!
//! The queue is durable in the state; a worker holds what is due in memory, sends, and reports every attempt to
//! the engine, which records it in the next commit. A crash between sending and that commit sends the same id
//! and body once more: at least once, with an idempotency key.

use std::time::Duration;

use async_trait::async_trait;

use crate::activation::Delivery;
use crate::event::TimeUs;

/// A delivery in its queue; stored under `keys::numbered_name(Tag::Delivery, destination, number)`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Queued {
    pub number: u64,
    pub delivery: Delivery,
    /// Attempts already made.
    pub attempts: u32,
    /// Not before this time, UTC microseconds.
    pub next_attempt_at: TimeUs,
}

impl Queued {
    pub const VERSION: u8 = 1;
}

/// What the other side made of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Taken; the detail is the status.
    Sent(String),
    /// Try again, not before `after` where the other side asked for it.
    Retry { detail: String, after: Option<Duration> },
    /// It will never be taken (a 4xx other than 408 and 429, a body that is refused).
    Failed(String),
}

/// The side that sends.
#[async_trait]
pub trait Destination: Send + Sync + 'static {
    async fn send(&self, delivery: &Delivery, attempted_at: TimeUs) -> Outcome;
}

/// One attempt, for the engine to record: a row of `deliveries`, and the queue's entry changed or removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub queued: Queued,
    pub outcome: AttemptOutcome,
    pub detail: String,
    pub attempted_at: TimeUs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    Sent,
    /// Will be tried again at this time.
    Retry { next_attempt_at: TimeUs },
    /// Given up: refused for good, or the attempts are used up.
    Failed,
    /// The activation is a dry run: nothing was sent.
    DryRun,
}

impl AttemptOutcome {
    pub fn name(self) -> &'static str {
        match self {
            AttemptOutcome::Sent => "sent",
            AttemptOutcome::Retry { .. } => "retry",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::DryRun => "dry_run",
        }
    }
}
