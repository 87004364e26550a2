//! Ships sealed rows to the table sink, range by range, exactly once.
//!
//! A single commit's rows are sealed by the commit itself. A range of several commits is first recorded as sealed.
//! Each range is acknowledged durably before the next is sent, so after a crash at most one range is of unknown
//! fate: the recorded one, or else the first commit that waits, which is then sent by itself, as it was before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::broken;
use super::outbox::{self, Recent, Rows};
use super::record::SinkRecord;
use super::status::SharedStatus;
use super::{Command, EngineError, Input};
use crate::clock;
use crate::failpoint::{self, Point};
use crate::sink::{CommitRange, SinkError, Table, TableSink};
use crate::state::{Store, StoreError};

/// A shipment is bounded in rows and in commits.
const SHIP_ROWS_MAX: usize = 100_000;
const SHIP_COMMITS_MAX: usize = 1_000;
const MAINTAIN_EVERY: Duration = Duration::from_secs(20);

pub struct Shipper {
    pub sink: Box<dyn TableSink>,
    pub store: Arc<dyn Store>,
    pub tables: Vec<Table>,
    pub recent: Recent,
    /// Commits with rows as they become durable.
    pub durable: mpsc::UnboundedReceiver<u64>,
    pub engine: mpsc::Sender<Input>,
    pub status: SharedStatus,
}

impl Shipper {
    /// Runs until the engine is gone. `waiting` are the commits with rows found at the start.
    ///
    /// # Errors
    /// The store's, or a contradiction between the sink's tables and the definitions.
    pub async fn run(mut self, record: SinkRecord, waiting: Vec<u64>) -> Result<(), EngineError> {
        let tables: BTreeMap<String, Table> =
            self.tables.iter().map(|table| (table.name.clone(), table.clone())).collect();
        let mut waiting: VecDeque<u64> = waiting.into();
        let mut sealed = record.sealed;
        let (mut acknowledged, mut alone) = (record.acknowledged, true);
        failpoint::pass(Point::BeforeTables);
        self.prepare().await?;
        failpoint::pass(Point::TablesReady);
        loop {
            while let Ok(commit) = self.durable.try_recv() {
                waiting.push_back(commit);
            }
            if waiting.is_empty() {
                tokio::select! {
                    biased;
                    commit = self.durable.recv() => match commit {
                        Some(commit) => waiting.push_back(commit),
                        None => return Ok(()),
                    },
                    () = clock::sleep(MAINTAIN_EVERY) => self.maintain().await,
                }
                continue;
            }
            let (range, parts) = self.next_range(acknowledged, &waiting, sealed, alone, &tables).await?;
            if parts.len() > 1 && sealed.is_none() && !broken::is(broken::Order::RangeUnrecorded) {
                failpoint::pass(Point::BeforeSeal);
                let (done, sealed_now) = oneshot::channel();
                if !self.tell(Command::Seal { range, done }).await || sealed_now.await.is_err() {
                    return Ok(());
                }
                failpoint::pass(Point::Sealed);
            }
            let rows = outbox::join(&parts)?;
            let too_early = broken::is(broken::Order::AcknowledgedFirst);
            if !too_early {
                self.ship(range, &rows).await?;
            }
            failpoint::pass(Point::BeforeAcknowledge);
            let (done, recorded) = oneshot::channel();
            if !self.tell(Command::Acknowledged { upto: range.upto, done }).await || recorded.await.is_err() {
                return Ok(());
            }
            failpoint::pass(Point::Acknowledged);
            if too_early {
                self.ship(range, &rows).await?;
            }
            self.recent.forget_upto(range.upto);
            waiting.retain(|commit| *commit > range.upto);
            (acknowledged, sealed, alone) = (range.upto, None, false);
            self.status.change(|status| status.sink.acknowledged = range.upto);
        }
    }

    async fn tell(&self, command: Command) -> bool {
        self.engine.send(Input::Command(command)).await.is_ok()
    }

    /// The next range and the rows of its commits, oldest first. Ranges follow each other without a gap; a commit without
    /// rows lies inside one.
    async fn next_range(
        &self,
        acknowledged: u64,
        waiting: &VecDeque<u64>,
        sealed: Option<CommitRange>,
        alone: bool,
        tables: &BTreeMap<String, Table>,
    ) -> Result<(CommitRange, Vec<Arc<Rows>>), StoreError> {
        let mut parts: Vec<Arc<Rows>> = Vec::new();
        let (mut rows, mut last) = (0, waiting[0]);
        for commit in waiting {
            if sealed.is_some_and(|sealed| *commit > sealed.upto) {
                break;
            }
            let part = match self.recent.get(*commit) {
                Some(part) => part,
                None => Arc::new(outbox::read(&*self.store, tables, *commit).await?),
            };
            if sealed.is_none() && parts.iter().any(|known| !outbox::same_shape(known, &part)) {
                break;
            }
            rows += part.iter().map(|(_, batch)| batch.num_rows()).sum::<usize>();
            parts.push(part);
            last = *commit;
            let full = alone || rows >= SHIP_ROWS_MAX || parts.len() >= SHIP_COMMITS_MAX;
            if sealed.is_none() && full {
                break;
            }
        }
        let range = sealed.unwrap_or(CommitRange { after: acknowledged, upto: last });
        Ok((range, parts))
    }

    async fn prepare(&mut self) -> Result<(), EngineError> {
        let mut backoff = Backoff::default();
        let tables = self.tables.clone();
        loop {
            match self.sink.prepare(&tables).await {
                Ok(()) => {
                    self.problem(None);
                    return Ok(());
                }
                Err(SinkError::Fatal(message)) => return Err(EngineError::Contradiction(message)),
                Err(SinkError::Retry(message)) => self.wait(&mut backoff, message).await,
            }
        }
    }

    async fn ship(&mut self, range: CommitRange, rows: &Rows) -> Result<(), EngineError> {
        let mut backoff = Backoff::default();
        let started = clock::instant();
        loop {
            match self.sink.ship(range, rows).await {
                Ok(()) => {
                    self.problem(None);
                    let count: usize = rows.iter().map(|(_, batch)| batch.num_rows()).sum();
                    metrics::counter!("tributary_rows_shipped_total").increment(count as u64);
                    metrics::histogram!("tributary_ship_seconds").record(started.elapsed().as_secs_f64());
                    return Ok(());
                }
                Err(SinkError::Fatal(message)) => return Err(EngineError::Contradiction(message)),
                Err(SinkError::Retry(message)) => self.wait(&mut backoff, message).await,
            }
        }
    }

    async fn wait(&self, backoff: &mut Backoff, message: String) {
        if backoff.attempts == 0 {
            tracing::warn!(problem = %message, "the table sink is not taking rows; everything is kept, trying again");
        }
        metrics::counter!("tributary_ship_retries_total").increment(1);
        self.problem(Some(message));
        clock::sleep(backoff.next()).await;
    }

    fn problem(&self, problem: Option<String>) {
        self.status.change(|status| {
            if status.sink.problem.is_some() && problem.is_none() {
                tracing::info!("the table sink takes rows again");
            }
            status.sink.problem = problem;
        });
    }

    async fn maintain(&mut self) {
        if let Err(error) = self.sink.maintain().await {
            tracing::warn!(problem = %error, "maintenance of the tables failed; it will be tried again");
        }
    }
}

/// 100 ms, doubling, up to 10 s.
#[derive(Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        self.attempts += 1;
        Duration::from_millis(100u64 << self.attempts.min(7)).min(Duration::from_secs(10))
    }
}
