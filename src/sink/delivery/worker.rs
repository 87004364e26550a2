//! The worker of one destination: takes what its window has ready, keeps to rate, order, batches and breaker, and reports.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::breaker::{Breaker, BreakerState};
use super::pace::{self, Pace};
use super::window::{Page, Window};
use super::{Attempt, AttemptOutcome, Destination, Gate, Outcome, Queued, Report};
use crate::activation::{Delivery, DeliveryPlan};
use crate::clock;
use crate::event::TimeUs;
use crate::failpoint::{self, Point};
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError, codec};

/// Deliveries of a destination that are in memory at most, where its plan needs no more.
const WINDOW: usize = 1_000;
/// Without anything to wait for.
const IDLE: Duration = Duration::from_secs(3_600);

/// How a destination is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    pub breaker: BreakerState,
    /// When the first delivery that waits was set off, UTC microseconds; None where none waits.
    pub oldest: Option<TimeUs>,
    /// Deliveries in memory.
    pub held: usize,
}

/// What a worker is made of. It ends when all of its handles are gone.
pub struct Worker {
    pub name: String,
    pub destination: Arc<dyn Destination>,
    pub plan: DeliveryPlan,
    pub store: Arc<dyn Store>,
    pub gate: Arc<dyn Gate>,
    pub reports: mpsc::Sender<Report>,
    /// Told of every change.
    pub tell: Box<dyn Fn(Health) + Send + Sync>,
}

/// The way to a worker.
#[derive(Clone)]
pub struct Handle {
    queued: mpsc::Sender<Queued>,
    recorded: mpsc::UnboundedSender<u64>,
    missed: Arc<Missed>,
}

/// Below which number some found no room on their way.
#[derive(Default)]
struct Missed {
    below: AtomicU64,
    more: Notify,
}

impl Handle {
    /// A delivery is durable in the queue. Those of one destination come in order.
    pub fn queued(&self, queued: Queued) {
        let number = queued.number;
        if self.queued.try_send(queued).is_err() {
            // The worker reads it from the state. It hears of it before it sees the next one.
            self.missed.below.fetch_max(number + 1, Ordering::AcqRel);
            self.missed.more.notify_one();
        }
    }

    /// An attempt is recorded durably.
    pub fn recorded(&self, number: u64) {
        // A worker that has ended needs to know nothing any more.
        let _ = self.recorded.send(number);
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<Vec<(Bytes, Bytes)>, StoreError>> + Send>>;

impl Worker {
    /// A worker to be spawned, for a queue that holds no number from `known` on.
    pub fn start(self, known: u64) -> (Handle, impl Future<Output = ()> + Send) {
        let size = WINDOW.max(4 * self.plan.concurrency).max(2 * self.plan.batch.map_or(0, |batch| batch.max));
        let (queued, queue) = mpsc::channel(size);
        let (recorded, settled) = mpsc::unbounded_channel();
        let missed = Arc::new(Missed::default());
        let working = Working {
            window: Window::new(size, self.plan.in_order, known),
            breaker: Breaker::default(),
            pace: Pace::new(self.plan.rate_limit),
            attempts_max: pace::attempts_within(self.plan.retry_for),
            batch_since: None,
            under_way: JoinSet::new(),
            told: None,
            missed: missed.clone(),
            worker: Arc::new(self),
        };
        (Handle { queued, recorded, missed }, working.work(queue, settled))
    }

    fn read(self: &Arc<Worker>, page: Page) -> Reading {
        let worker = self.clone();
        Box::pin(async move {
            let prefix = keys::named_prefix(Tag::Delivery, &worker.name);
            let before = page.from.checked_sub(1);
            let after = before.map(|number| keys::numbered_name(Tag::Delivery, &worker.name, number));
            worker.store.scan(&prefix, after.as_deref(), page.limit).await
        })
    }
}

struct Working {
    worker: Arc<Worker>,
    window: Window,
    breaker: Breaker,
    pace: Pace,
    attempts_max: u32,
    /// Since when deliveries wait for a batch to fill, by the clock that never goes back.
    batch_since: Option<i64>,
    under_way: JoinSet<Vec<Ended>>,
    told: Option<Health>,
    missed: Arc<Missed>,
}

/// A delivery and what came of its attempt.
struct Ended {
    queued: Queued,
    answer: Outcome,
    attempted_at: TimeUs,
}

impl Working {
    async fn work(mut self, mut queue: mpsc::Receiver<Queued>, mut settled: mpsc::UnboundedReceiver<u64>) {
        let mut reading: Option<(Page, Reading)> = None;
        let missed = self.missed.clone();
        loop {
            let now = clock::now_us();
            let next_due = self.window.wake(now);
            let next_begin = self.begin();
            self.window.know(self.missed.below.load(Ordering::Acquire));
            if reading.is_none() {
                reading = self.window.next_page(now).map(|page| (page, self.worker.read(page)));
            }
            self.tell();
            // What is due and finds no room is read when something makes room.
            let next_again = Some(self.window.next_again()).filter(|due| *due > now).unwrap_or(TimeUs::MAX);
            let until_due = Duration::from_micros(next_due.min(next_again).saturating_sub(now).max(0) as u64);
            let wait = IDLE.min(until_due).min(next_begin);
            tokio::select! {
                biased;
                queued = queue.recv() => match queued {
                    Some(queued) => {
                        self.window.know(self.missed.below.load(Ordering::Acquire).min(queued.number));
                        self.window.offer(queued, now);
                    }
                    None => return,
                },
                Some(number) = settled.recv() => self.window.settled(number),
                Some(done) = self.under_way.join_next() => {
                    match done {
                        Ok(ended) => if !self.end(ended).await {
                            return;
                        },
                        Err(error) => {
                            let _ = self.worker.reports.send(Report::Broken(error.to_string())).await;
                            return;
                        }
                    }
                }
                found = next_of(&mut reading) => {
                    let Some((page, _)) = reading.take() else { continue };
                    if let Err(error) = self.take_page(page, found).await {
                        let _ = self.worker.reports.send(Report::Failed(error)).await;
                        return;
                    }
                }
                () = missed.more.notified() => {}
                () = clock::sleep(wait) => {}
            }
        }
    }

    /// Sends what may be sent now, and gives how long until more may, whatever else happens.
    fn begin(&mut self) -> Duration {
        let plan = &self.worker.plan;
        loop {
            if self.window.ready() == 0 {
                self.batch_since = None;
                return IDLE;
            }
            if self.under_way.len() >= plan.concurrency {
                return IDLE;
            }
            let now = clock::elapsed_us();
            let Some(allowed_at) = self.breaker.next_at(now) else { return IDLE };
            let mut at = allowed_at.max(self.pace.next_at(now));
            // A probe is one delivery.
            let probes = self.breaker.state() != BreakerState::Closed;
            let max = plan.batch.filter(|_| !probes).map_or(1, |batch| batch.max);
            if let Some(batch) = plan.batch.filter(|batch| !probes && self.window.ready() < batch.max) {
                let since = *self.batch_since.get_or_insert(now);
                at = at.max(since.saturating_add(batch.within.as_micros() as i64));
            }
            if at > now {
                return Duration::from_micros((at - now) as u64);
            }
            self.batch_since = None;
            let queued = self.window.begin(max);
            self.pace.begin(now);
            self.breaker.begin();
            self.under_way.spawn(attempt(self.worker.clone(), queued));
        }
    }

    /// Reports how a request ended. False when nobody is there any more.
    async fn end(&mut self, ended: Vec<Ended>) -> bool {
        let later = |ended: &Ended| match &ended.answer {
            Outcome::Retry { after, .. } => Some(*after),
            // It has not answered either.
            Outcome::Uncertain(_) => Some(None),
            Outcome::Sent(_) | Outcome::Failed(_) | Outcome::Skipped(_) => None,
        };
        let asked = ended.iter().filter(|ended| !matches!(ended.answer, Outcome::Skipped(_)));
        let asked: Vec<&Ended> = asked.collect();
        match asked.iter().map(|ended| later(ended)).collect::<Option<Vec<_>>>() {
            // The other side was not asked at all.
            Some(asked) if asked.is_empty() => self.breaker.unasked(),
            Some(asked) => self.breaker.away(clock::elapsed_us(), asked.into_iter().flatten().max()),
            None => self.breaker.there(),
        }
        for Ended { queued, answer, attempted_at } in ended {
            let now = clock::now_us();
            let attempts_max = self.attempts_max;
            let (outcome, detail) = match answer {
                Outcome::Sent(detail) => (AttemptOutcome::Sent, detail),
                Outcome::Failed(detail) => (AttemptOutcome::Failed, detail),
                Outcome::Uncertain(detail) => (AttemptOutcome::Uncertain, detail),
                Outcome::Skipped(detail) => (AttemptOutcome::Skipped, detail),
                Outcome::Retry { detail, .. } if queued.attempts_in_round() + 1 >= attempts_max => {
                    (AttemptOutcome::Failed, format!("{detail}; given up after {attempts_max} attempts"))
                }
                Outcome::Retry { detail, after } => {
                    let wait = after.unwrap_or_else(|| pace::backoff(&queued)).min(pace::WAIT_MAX);
                    (AttemptOutcome::Retry { next_attempt_at: now + wait.as_micros() as TimeUs }, detail)
                }
            };
            let again = match outcome {
                AttemptOutcome::Retry { next_attempt_at } => Some(queued.again(next_attempt_at)),
                _ => None,
            };
            self.window.finish(queued.number, queued.delivery.lane, again, now);
            failpoint::pass(Point::BeforeAttempt);
            let attempt = Attempt { queued, outcome, detail, attempted_at };
            if self.worker.reports.send(Report::Attempted(attempt)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Takes a page of the queue in. One that was begun before this process, and must not be repeated, is uncertain.
    async fn take_page(
        &mut self,
        page: Page,
        found: Result<Vec<(Bytes, Bytes)>, StoreError>,
    ) -> Result<(), StoreError> {
        let found = found?;
        let now = clock::now_us();
        let whole = found.len() >= page.limit;
        let next = found.last().and_then(|(key, _)| Some(keys::parse_numbered_name(key)? + 1));
        let next = next.filter(|next| whole && *next < page.to);
        let mut entries = Vec::with_capacity(found.len());
        let mut begun = Vec::new();
        for (_, value) in &found {
            let queued: Queued = codec::decode(Queued::VERSION, "delivery", value)?;
            // What lies above may not be durable yet.
            if queued.number >= page.to {
                break;
            }
            if queued.begun && !self.worker.destination.drops_repeats() && !self.window.has(queued.number) {
                begun.push(queued);
            } else {
                entries.push(queued);
            }
        }
        for queued in &begun {
            self.window.finish(queued.number, queued.delivery.lane, None, now);
        }
        self.window.page(page, entries, next, now);
        for queued in begun {
            let detail = "the process ended before the answer was recorded".to_string();
            let attempt = Attempt { queued, outcome: AttemptOutcome::Uncertain, detail, attempted_at: now };
            // Fails only when the engine is gone, which the worker then notices.
            let _ = self.worker.reports.send(Report::Attempted(attempt)).await;
        }
        Ok(())
    }

    fn tell(&mut self) {
        let oldest = self.window.oldest().map(|queued| queued.delivery.created_at);
        let health = Health { breaker: self.breaker.state(), oldest, held: self.window.len() };
        if self.told != Some(health) {
            self.told = Some(health);
            (self.worker.tell)(health);
        }
    }
}

/// The page that is being read; never, where none is.
async fn next_of(reading: &mut Option<(Page, Reading)>) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    match reading {
        Some((_, found)) => found.await,
        None => std::future::pending().await,
    }
}

/// One request, with several deliveries where the destination takes batches.
async fn attempt(worker: Arc<Worker>, queued: Vec<Queued>) -> Vec<Ended> {
    let Worker { destination, plan, .. } = &*worker;
    let (queued, mut ended) = ask(&worker, queued).await;
    if queued.is_empty() {
        return ended;
    }
    if !destination.drops_repeats() {
        let (done, durable) = oneshot::channel();
        let begun = Report::Begun { queued: queued.clone(), done };
        if worker.reports.send(begun).await.is_err() || durable.await.is_err() {
            // The engine is gone: nothing leaves.
            return std::future::pending().await;
        }
    }
    let attempted_at = clock::now_us();
    let started = clock::elapsed_us();
    failpoint::pass(Point::BeforeRequest);
    let deliveries: Vec<&Delivery> = queued.iter().map(|queued| &queued.delivery).collect();
    let sending = async {
        match &deliveries[..] {
            [delivery] if plan.batch.is_none() => vec![destination.send(delivery, attempted_at).await],
            _ => destination.send_batch(&deliveries, attempted_at).await,
        }
    };
    let answers = tokio::select! {
        biased;
        answers = sending => answers,
        () = clock::sleep(plan.timeout) => Vec::new(),
    };
    failpoint::pass(Point::Answered);
    let seconds = (clock::elapsed_us() - started) as f64 / 1e6;
    metrics::histogram!("tributary_delivery_seconds", "destination" => worker.name.clone()).record(seconds);
    let none = || {
        let detail = format!("no answer within {}", humantime::format_duration(plan.timeout));
        match destination.drops_repeats() {
            true => Outcome::Retry { detail, after: None },
            false => Outcome::Uncertain(detail),
        }
    };
    let answers = answers.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let answered = queued.into_iter().zip(answers);
    ended.extend(answered.map(|(queued, answer)| Ended { queued, answer: answer.unwrap_or_else(none), attempted_at }));
    ended
}

/// Those that may still be sent, and the others with the reason.
async fn ask(worker: &Worker, queued: Vec<Queued>) -> (Vec<Queued>, Vec<Ended>) {
    let (mut may, mut ended) = (Vec::with_capacity(queued.len()), Vec::new());
    for queued in queued {
        let answer = match worker.gate.refusal(&queued.delivery).await {
            Ok(None) => {
                may.push(queued);
                continue;
            }
            Ok(Some(why)) => Outcome::Skipped(why),
            Err(error) => Outcome::Retry { detail: error.to_string(), after: None },
        };
        ended.push(Ended { queued, answer, attempted_at: clock::now_us() });
    }
    (may, ended)
}
