//! The destinations' workers, and how many deliveries are in their queues.

use super::*;
use crate::sink::delivery::{Gate, Health, Report, Worker};
use crate::sink::{Attempt, AttemptOutcome};

pub struct Queues {
    pub workers: Arc<BTreeMap<String, Handle>>,
    open: BTreeMap<String, i64>,
}

impl Queues {
    /// Starts a worker for every destination. What the state holds for it already is counted here and read by the worker itself, so
    /// that memory does not grow with what waits. `ordered`: destinations that keep each person's deliveries in order, whatever
    /// their definitions say.
    pub async fn start(
        store: &Arc<dyn Store>,
        pipeline: &Pipeline,
        destinations: BTreeMap<String, Arc<dyn Destination>>,
        ordered: &[&str],
        gate: &Arc<dyn Gate>,
        engine: &mpsc::Sender<Input>,
        status: &SharedStatus,
    ) -> Result<Queues, EngineError> {
        let (mut workers, mut opened) = (BTreeMap::new(), BTreeMap::new());
        for (name, destination) in destinations {
            let (open, next) = count(&**store, &name).await?;
            let (reports, made) = mpsc::channel::<Report>(64);
            let plan = pipeline.destinations.iter().find(|plan| plan.name == name);
            let mut plan = plan.map(|plan| plan.delivery.clone()).unwrap_or_default();
            plan.in_order |= ordered.contains(&name.as_str());
            let worker = Worker {
                name: name.clone(),
                destination,
                plan,
                store: store.clone(),
                gate: gate.clone(),
                reports,
                tell: tell_health(&name, status),
            };
            let (handle, work) = worker.start(next);
            tokio::spawn(work);
            tokio::spawn(forward_reports(made, engine.clone()));
            status.change(|status| status.destinations.entry(name.clone()).or_default().queued = open);
            opened.insert(name.clone(), open);
            workers.insert(name, handle);
        }
        Ok(Queues { workers: Arc::new(workers), open: opened })
    }

    /// From now on these count as open, where there is somebody to send them.
    pub fn count(&mut self, queued: &[Queued]) {
        for queued in queued {
            if let Some(open) = self.open.get_mut(&queued.delivery.destination) {
                *open += 1;
            }
        }
    }

    /// An attempt is recorded durably.
    pub fn attempted(&mut self, attempt: &Attempt, status: &SharedStatus) {
        let name = &attempt.queued.delivery.destination;
        let problem = match attempt.outcome {
            AttemptOutcome::Retry { .. } => Some(attempt.detail.clone()),
            AttemptOutcome::Sent
            | AttemptOutcome::Failed
            | AttemptOutcome::Uncertain
            | AttemptOutcome::Skipped
            | AttemptOutcome::DryRun => {
                if let Some(open) = self.open.get_mut(name) {
                    *open -= 1;
                }
                None
            }
        };
        status.change(|status| status.destinations.entry(name.clone()).or_default().problem = problem);
        if let Some(worker) = self.workers.get(name) {
            worker.recorded(attempt.queued.number);
        }
    }

    pub fn tell(&self, status: &SharedStatus) {
        status.change(|status| {
            for (name, open) in &self.open {
                metrics::gauge!("tributary_delivery_queue", "destination" => name.clone()).set(*open as f64);
                status.destinations.entry(name.clone()).or_default().queued = *open;
            }
        });
    }

    pub fn is_empty(&self) -> bool {
        self.open.values().all(|open| *open <= 0)
    }
}

/// How many deliveries the state holds for a destination, and below which number all of them are.
async fn count(store: &dyn Store, name: &str) -> Result<(i64, u64), EngineError> {
    let prefix = keys::named_prefix(Tag::Delivery, name);
    let mut after: Option<bytes::Bytes> = None;
    let (mut open, mut next) = (0, 0);
    loop {
        let page = store.scan(&prefix, after.as_deref(), 1_000).await?;
        let Some((last, _)) = page.last() else { return Ok((open, next)) };
        after = Some(last.clone());
        open += page.len() as i64;
        next = keys::parse_numbered_name(last).map_or(next, |number| number + 1);
    }
}

fn tell_health(name: &str, status: &SharedStatus) -> Box<dyn Fn(Health) + Send + Sync> {
    let (name, status) = (name.to_string(), status.clone());
    Box::new(move |health: Health| {
        let Health { breaker, oldest, held } = health;
        let oldest_s = oldest.map_or(0.0, |at| at as f64 / 1e6);
        metrics::gauge!("tributary_destination_breaker", "destination" => name.clone()).set(f64::from(breaker as u8));
        metrics::gauge!("tributary_delivery_oldest_timestamp_seconds", "destination" => name.clone()).set(oldest_s);
        metrics::gauge!("tributary_delivery_held", "destination" => name.clone()).set(held as f64);
        status.change(|status| {
            let status = status.destinations.entry(name.clone()).or_default();
            (status.breaker, status.oldest) = (breaker, oldest);
        });
    })
}

/// Hands to the loop what a worker reports, in order.
async fn forward_reports(mut reports: mpsc::Receiver<Report>, engine: mpsc::Sender<Input>) {
    while let Some(report) = reports.recv().await {
        let input = match report {
            Report::Begun { done, .. } if broken::is(broken::Order::BegunUnrecorded) => {
                let _ = done.send(());
                continue;
            }
            Report::Begun { queued, done } => Input::Command(Command::Begun { queued, done }),
            Report::Attempted(attempt) => Input::Command(Command::Attempted(attempt)),
            Report::Failed(error) => Input::Failed(EngineError::Store(error)),
            Report::Broken(error) => Input::Failed(EngineError::Internal(format!("a delivery failed: {error}"))),
        };
        if engine.send(input).await.is_err() {
            return;
        }
    }
}
