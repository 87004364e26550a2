//! Destinations: each has a worker of its own with its queue, so that a dead one holds up nobody else.
//!
//! The queue is durable in the state; a worker holds what is due in memory, sends, and reports every attempt to
//! the engine, which records it in the next commit. A crash between sending and that commit sends the same id
//! and body once more: at least once, with an idempotency key.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::activation::Delivery;
use crate::clock;
use crate::event::TimeUs;
use crate::failpoint::{self, Point};

/// Requests to one destination that are under way at once.
const AT_ONCE: usize = 16;
/// The waits grow from a second to six hours; with them the attempts span about three days.
const ATTEMPTS_MAX: u32 = 25;
const WAIT_MAX: Duration = Duration::from_secs(6 * 3600);

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
    /// It may have been taken or not, and the other side cannot tell a repeat: only a person may decide to send it again.
    Uncertain(String),
}

/// The side that sends.
#[async_trait]
pub trait Destination: Send + Sync + 'static {
    async fn send(&self, delivery: &Delivery, attempted_at: TimeUs) -> Outcome;

    /// Sends several as one request where the destination is defined with `batch`: an outcome for each, in order.
    async fn send_batch(&self, deliveries: &[&Delivery], attempted_at: TimeUs) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            outcomes.push(self.send(delivery, attempted_at).await);
        }
        outcomes
    }

    /// Whether the other side drops repeats by the delivery's id. Where it does not (mail), one whose fate is unknown is
    /// [`Outcome::Uncertain`] and never repeated by itself.
    fn drops_repeats(&self) -> bool {
        true
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

/// Sends what is in the queue until the queue's sender is gone, and reports every attempt.
pub async fn work(
    destination: Arc<dyn Destination>,
    mut queue: mpsc::UnboundedReceiver<Queued>,
    attempts: mpsc::Sender<Attempt>,
) {
    // What is not due or not yet started, earliest first; ties in order of the queue.
    let mut waiting: BinaryHeap<Reverse<(TimeUs, u64)>> = BinaryHeap::new();
    let mut entries = hashbrown::HashMap::new();
    let mut under_way: JoinSet<Attempt> = JoinSet::new();
    loop {
        let now = clock::now_us();
        while under_way.len() < AT_ONCE {
            match waiting.peek() {
                Some(Reverse((due, number))) if *due <= now => {
                    let number = *number;
                    waiting.pop();
                    if let Some(queued) = entries.remove(&number) {
                        under_way.spawn(attempt(destination.clone(), queued));
                    }
                }
                _ => break,
            }
        }
        let next_due = waiting.peek().filter(|_| under_way.len() < AT_ONCE).map(|Reverse((due, _))| *due);
        let until_due =
            next_due.map_or(Duration::from_secs(3600), |due| Duration::from_micros((due - now).max(0) as u64));
        tokio::select! {
            biased;
            queued = queue.recv() => match queued {
                Some(queued) => {
                    waiting.push(Reverse((queued.next_attempt_at, queued.number)));
                    entries.insert(queued.number, queued);
                }
                None => return,
            },
            Some(done) = under_way.join_next() => {
                let Ok(attempt) = done else { continue };
                if let AttemptOutcome::Retry { next_attempt_at } = attempt.outcome {
                    let queued = &attempt.queued;
                    let again = Queued { attempts: queued.attempts + 1, next_attempt_at, ..queued.clone() };
                    waiting.push(Reverse((next_attempt_at, again.number)));
                    entries.insert(again.number, again);
                }
                failpoint::pass(Point::BeforeAttempt);
                if attempts.send(attempt).await.is_err() {
                    return;
                }
            },
            () = clock::sleep(until_due) => {}
        }
    }
}

async fn attempt(destination: Arc<dyn Destination>, queued: Queued) -> Attempt {
    let attempted_at = clock::now_us();
    failpoint::pass(Point::BeforeRequest);
    let answer = destination.send(&queued.delivery, attempted_at).await;
    failpoint::pass(Point::Answered);
    let (outcome, detail) = match answer {
        Outcome::Sent(detail) => (AttemptOutcome::Sent, detail),
        Outcome::Failed(detail) => (AttemptOutcome::Failed, detail),
        Outcome::Uncertain(detail) => (AttemptOutcome::Uncertain, detail),
        Outcome::Retry { detail, .. } if queued.attempts + 1 >= ATTEMPTS_MAX => {
            (AttemptOutcome::Failed, format!("{detail}; given up after {ATTEMPTS_MAX} attempts"))
        }
        Outcome::Retry { detail, after } => {
            let wait = after.unwrap_or_else(|| backoff(&queued)).min(WAIT_MAX);
            (AttemptOutcome::Retry { next_attempt_at: clock::now_us() + wait.as_micros() as TimeUs }, detail)
        }
    };
    Attempt { queued, outcome, detail, attempted_at }
}

/// Full jitter between half and the whole of a doubling wait. The jitter comes from the delivery's id and attempt,
/// so that a stampede spreads without any chance in it.
fn backoff(queued: &Queued) -> Duration {
    let whole = Duration::from_secs(1u64 << queued.attempts.min(15)).min(WAIT_MAX);
    let spread = xxhash_rust::xxh3::xxh3_64_with_seed(queued.delivery.id.as_bytes(), u64::from(queued.attempts));
    whole / 2 + (whole / 2).mul_f64(spread as f64 / u64::MAX as f64)
}
