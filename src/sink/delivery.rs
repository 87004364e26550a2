//! Destinations: each has a worker of its own with its queue, so that a dead one holds up nobody else.
//!
//! The queue is durable in the state; a worker holds a window of it in memory, sends, and reports every attempt to
//! the engine, which records it in the next commit. A crash between sending and that commit sends the same id
//! and body once more: at least once, with an idempotency key. Where the other side cannot tell a repeat, the beginning of an attempt is
//! durable before its request leaves, and after a crash the delivery is uncertain instead of sent again.

mod breaker;
mod pace;
#[cfg(test)]
mod tests;
mod window;
mod worker;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::activation::Delivery;
use crate::event::TimeUs;
use crate::state::StoreError;

pub use breaker::BreakerState;
pub use pace::{attempts_within, retry_after};
pub use worker::{Handle, Health, Worker};

/// A delivery in its queue; stored under `keys::numbered_name(Tag::Delivery, destination, number)`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Queued {
    /// Its place in the order of all deliveries.
    pub number: u64,
    pub delivery: Delivery,
    /// Attempts already made.
    pub attempts: u32,
    /// Those of them from before it was last put into the queue by hand.
    pub attempts_before: u32,
    /// Not before this time, UTC microseconds.
    pub next_attempt_at: TimeUs,
    /// A request was about to leave and what came of it is not recorded: only where the other side does not drop repeats.
    pub begun: bool,
}

impl Queued {
    pub const VERSION: u8 = 3;

    pub fn new(number: u64, delivery: Delivery) -> Queued {
        Queued { number, delivery, attempts: 0, attempts_before: 0, next_attempt_at: 0, begun: false }
    }

    /// Attempts since it was last put into the queue.
    pub fn attempts_in_round(&self) -> u32 {
        self.attempts.saturating_sub(self.attempts_before)
    }

    /// As it is after an attempt that is to be repeated.
    pub fn again(&self, next_attempt_at: TimeUs) -> Queued {
        Queued { attempts: self.attempts + 1, next_attempt_at, begun: false, ..self.clone() }
    }
}

/// A delivery that is not sent any more by itself; stored under `keys::numbered_name(Tag::DeadLetter, destination, number)`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    pub queued: Queued,
    /// It may have been taken; otherwise it was not.
    pub uncertain: bool,
    /// What its last attempt ended with.
    pub detail: String,
    /// When that was, UTC microseconds.
    pub died_at: TimeUs,
}

impl DeadLetter {
    pub const VERSION: u8 = 1;

    pub fn state(&self) -> &'static str {
        if self.uncertain { "uncertain" } else { "failed" }
    }
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
    /// It may have been taken or not, and the other side cannot tell a repeat: only a person may decide to send it again.
    Uncertain(String),
    /// It must not be sent any more, and was not.
    Skipped(String),
}

/// The side that sends.
#[async_trait]
pub trait Destination: Send + Sync + 'static {
    async fn send(&self, delivery: &Delivery, attempted_at: TimeUs) -> Outcome;

    /// Sends several as one request where the destination is defined with `batch`: an outcome for each, in order. By itself it
    /// sends them one by one, all at once.
    async fn send_batch(&self, deliveries: &[&Delivery], attempted_at: TimeUs) -> Vec<Outcome> {
        futures::future::join_all(deliveries.iter().map(|delivery| self.send(delivery, attempted_at))).await
    }

    /// Whether the other side drops repeats by the delivery's id. Where it does not (mail), one whose fate is unknown is
    /// [`Outcome::Uncertain`] and never repeated by itself; [`Outcome::Retry`] then says that it was not taken.
    fn drops_repeats(&self) -> bool {
        true
    }
}

/// What is asked before each request.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// Why a delivery must not be sent any more; None: it may.
    ///
    /// # Errors
    /// The state cannot be asked.
    async fn refusal(&self, delivery: &Delivery) -> Result<Option<String>, StoreError>;
}

/// Lets everything through.
pub struct NoGate;

#[async_trait]
impl Gate for NoGate {
    async fn refusal(&self, _: &Delivery) -> Result<Option<String>, StoreError> {
        Ok(None)
    }
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
    Retry {
        next_attempt_at: TimeUs,
    },
    /// Given up: refused for good, or the attempts are used up.
    Failed,
    /// It may have been taken or not, and is not repeated by itself.
    Uncertain,
    /// It must not be sent: no consent, suppressed, more than a cap allows.
    Skipped,
    /// The activation is a dry run: nothing was sent.
    DryRun,
}

impl AttemptOutcome {
    pub fn name(self) -> &'static str {
        match self {
            AttemptOutcome::Sent => "sent",
            AttemptOutcome::Retry { .. } => "retry",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Uncertain => "uncertain",
            AttemptOutcome::Skipped => "skipped",
            AttemptOutcome::DryRun => "dry_run",
        }
    }
}

/// What a worker tells the engine.
#[derive(Debug)]
pub enum Report {
    /// A request is about to leave that must not be repeated by itself: answered once that is durable.
    Begun {
        queued: Vec<Queued>,
        done: oneshot::Sender<()>,
    },
    Attempted(Attempt),
    /// The queue cannot be read.
    Failed(StoreError),
    /// A fault of ours: sending panicked.
    Broken(String),
}
