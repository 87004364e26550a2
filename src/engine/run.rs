//! The loop: waits for input, applies it, commits it, and lets the sinks go once a commit is durable.

mod background;
mod queues;
mod time;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::queues::Queues;
use self::time::ReadTimes;
use super::broken;
use super::core::{Begun, Core, EmittedRecord, Reading, Staged, emitted, emitted_batch};
use super::history::{History, HistoryFilter, HistoryReader};
use super::outbox::{Recent, Rows};
use super::prepare::{Prepared, Preparer};
use super::record::StoredReject;
use super::shadow::Shadow;
use super::ship::Shipper;
use super::status::SharedStatus;
use super::{Command, Corrected, EngineError, Input, Replayed, Stop};
use crate::activation::EMITTED;
use crate::clock;
use crate::decode::registry::Schemas;
use crate::definition::Pipeline;
use crate::event::{RawBatch, TimeUs};
use crate::failpoint::{self, Point};
use crate::sink::delivery::Handle;
use crate::sink::{CommitRange, Destination, Queued, TableSink};
use crate::source::{Next, Positions, ReadLimits, SourceError, SourceEvent, SourceHandle, SourcePlan};
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError, codec};
use crate::transform::Restore;

/// How a run is to go.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stop when the sources are at their end and everything has been acknowledged.
    pub drain: bool,
    /// False: deliveries are recorded, not sent.
    pub send: bool,
    /// False: the sources are not read (a command is all there is to do).
    pub read: bool,
    pub cache_bytes: usize,
    /// Sealed rows kept in memory for a sink that keeps up.
    pub recent_bytes: usize,
    pub limits: ReadLimits,
    /// Events of a fill, and profiles of a sweep, in one commit: few enough that live events do not wait for long.
    pub background_rows: usize,
    /// Where batches are decoded.
    pub decode_on: DecodeOn,
}

/// [`Options::background_rows`] of every run but those of tests.
pub const BACKGROUND_ROWS: usize = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeOn {
    /// A thread of its own, so that the next batch is ready while this one is applied.
    Thread,
    /// A task beside the loop: on a runtime of one thread every run is then the same.
    Task,
}

/// How a run ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Asked to stop, or drained.
    Stopped,
    /// Another instance took over (exit 4).
    Fenced,
}

/// What the engine is wired to.
pub struct Wiring {
    pub store: Arc<dyn Store>,
    pub sink: Box<dyn TableSink>,
    pub destinations: BTreeMap<String, Arc<dyn Destination>>,
    /// Where the tables are read back from.
    pub history: Arc<dyn History>,
    /// The data folder, where writer schemas are remembered.
    pub schema_cache: Option<PathBuf>,
    pub status: SharedStatus,
    /// What starts a source: [`spawn`](crate::source::spawn).
    pub start_source: Box<StartSource>,
    /// The way in for commands and for stopping; keep a clone of the sender.
    pub input: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
}

/// Starts a source at the positions that the state holds.
pub type StartSource =
    dyn Fn(&SourcePlan, Positions, ReadLimits, Option<Arc<Schemas>>) -> Result<SourceHandle, SourceError> + Send + Sync;

/// Runs a pipeline until it is stopped, drained, fenced, or cannot go on.
pub async fn run(pipeline: &Pipeline, wiring: Wiring, options: Options) -> Result<Outcome, EngineError> {
    failpoint::pass(Point::Opened);
    let Wiring { store, sink, destinations, history, schema_cache, status, start_source, input: (engine, input) } =
        wiring;
    let preparer = Preparer::new(pipeline, schema_cache.as_deref())?;
    let mut core = Core::load(store.clone(), pipeline, &preparer.schema(), options.cache_bytes, options.send).await?;
    core.profiles_at_once = options.background_rows;
    status.change(|status| status.pipeline = pipeline.name.clone());
    status.committed(&core.record, core.journeys(), core.outbox.len());

    let recent = Recent::new(options.recent_bytes);
    let (durable_rows, durable) = mpsc::unbounded_channel();
    let shipper = Shipper {
        sink,
        store: store.clone(),
        tables: Core::tables(pipeline),
        recent: recent.clone(),
        durable,
        engine: engine.clone(),
        status: status.clone(),
    };
    let shipping = tokio::spawn(shipper.run(core.sink, core.outbox.keys().copied().collect()));
    let gate = core.gate(pipeline);
    let queues =
        Queues::start(&store, pipeline, destinations, &core.ordered_destinations(), &gate, &engine, &status).await?;

    // One each: while the loop is busy records wait at their source, where all that wait are the next batch.
    let (to_prepare, raw) = mpsc::channel(1);
    let (prepared_out, prepared) = mpsc::channel(1);
    if options.read {
        for plan in &pipeline.sources {
            let schemas = preparer.schemas(plan.name())?;
            let positions = positions_of(&*store, plan).await?;
            let handle = start_source(plan, positions, options.limits, Some(schemas))
                .map_err(|error| EngineError::Start(format!("source {}: {error}", plan.name())))?;
            status.change(|status| {
                status.sources.insert(handle.name.to_string(), Default::default());
            });
            tokio::spawn(forward(handle, to_prepare.clone()));
        }
    }
    let (emit, made) = mpsc::unbounded_channel();
    tokio::spawn(forward_emitted(made, to_prepare.clone()));
    let left = emitted(&*store).await?;
    if !left.is_empty() {
        // The forwarder is there for as long as the loop.
        let _ = emit.send(left);
    }
    let preparing = prepare_all(preparer, raw, prepared_out);
    match options.decode_on {
        DecodeOn::Thread => {
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || runtime.block_on(preparing));
        }
        DecodeOn::Task => drop(tokio::spawn(preparing)),
    }
    status.change(|status| status.ready = true);

    let caught_up = status.read().sources.keys().map(|name| (name.clone(), false)).collect();
    let engine_loop = Loop {
        core,
        pipeline: pipeline.clone(),
        store: store.clone(),
        history,
        engine,
        input,
        prepared,
        to_prepare,
        in_flight: None,
        durable_rows,
        recent,
        queues,
        emit,
        status: status.clone(),
        caught_up,
        reading_times: ReadTimes::default(),
        replay: None,
        filling: false,
        background_turn: false,
        reading: None,
        correcting: Vec::new(),
        assigned: Vec::new(),
        options,
    };
    let outcome = engine_loop.run(shipping).await;
    status.change(|status| status.ready = false);
    if !matches!(outcome, Ok(Outcome::Fenced) | Err(EngineError::Store(_))) {
        failpoint::pass(Point::BeforeClose);
        store.close().await?;
        failpoint::pass(Point::Closed);
    }
    outcome
}

async fn positions_of(store: &dyn Store, plan: &SourcePlan) -> Result<Positions, EngineError> {
    let mut positions = Positions::new();
    for (key, value) in store.scan(&keys::named_prefix(Tag::Position, plan.name()), None, 1_000_000).await? {
        if let Some((_, topic, partition)) = keys::parse_position(&key) {
            let next = match value.first() {
                // As states had it before records were marked.
                Some(1) => Next::at(codec::decode(1, "position", &value)?),
                _ => codec::decode(Next::VERSION, "position", &value)?,
            };
            positions.insert((topic, partition), next);
        }
    }
    Ok(positions)
}

/// What goes to the preparing thread, in order.
enum ToPrepare {
    Source(Arc<str>, SourceEvent),
    Replay(RawBatch, BTreeMap<(String, i32, i64), u64>),
}

/// What comes back from it, in the same order.
enum FromPrepare {
    Batch(Prepared),
    Assigned(Arc<str>, Positions),
    /// A partition has records to be read.
    Behind(Arc<str>, Arc<str>, i32),
    /// Partitions are read to their end.
    AtEnd(Arc<str>, Arc<str>, Vec<i32>),
    CaughtUp(Arc<str>),
    Lag(Arc<str>, i64),
    Problem(Arc<str>, Option<String>),
    Fatal(EngineError),
}

async fn forward(mut handle: SourceHandle, to_prepare: mpsc::Sender<ToPrepare>) {
    while let Some(event) = handle.events.recv().await {
        if to_prepare.send(ToPrepare::Source(handle.name.clone(), event)).await.is_err() {
            return;
        }
    }
}

/// Events that steps have made enter like those of a source, once their commit is durable.
async fn forward_emitted(mut made: mpsc::UnboundedReceiver<Vec<EmittedRecord>>, to_prepare: mpsc::Sender<ToPrepare>) {
    while let Some(emitted) = made.recv().await {
        for part in emitted.chunks(10_000) {
            let records = SourceEvent::Records(emitted_batch(part));
            if to_prepare.send(ToPrepare::Source(EMITTED.into(), records)).await.is_err() {
                return;
            }
        }
    }
}

/// Decodes what comes, in order, until nobody takes it any more.
async fn prepare_all(mut preparer: Preparer, mut raw: mpsc::Receiver<ToPrepare>, out: mpsc::Sender<FromPrepare>) {
    while let Some(next) = raw.recv().await {
        preparer.reload_tables();
        let answer = match next {
            ToPrepare::Source(name, event) => match event {
                SourceEvent::Records(raw) => prepare(&mut preparer, &out, raw, Vec::new(), None).await,
                SourceEvent::Rejects(rejects) => prepare(&mut preparer, &out, RawBatch::new(name), rejects, None).await,
                SourceEvent::Assigned(positions) => FromPrepare::Assigned(name, positions),
                SourceEvent::Behind(topic, partition) => FromPrepare::Behind(name, topic, partition),
                SourceEvent::AtEnd(topic, partitions) => FromPrepare::AtEnd(name, topic, partitions),
                SourceEvent::CaughtUp => FromPrepare::CaughtUp(name),
                SourceEvent::Lag(lag) => FromPrepare::Lag(name, lag),
                SourceEvent::Unavailable(problem) => FromPrepare::Problem(name, Some(problem)),
                SourceEvent::Fatal(message) => {
                    FromPrepare::Fatal(EngineError::Source { source_name: name.to_string(), message })
                }
            },
            ToPrepare::Replay(raw, numbers) => {
                preparer.forget_missing_schemas();
                prepare(&mut preparer, &out, raw, Vec::new(), Some(numbers)).await
            }
        };
        if matches!(answer, FromPrepare::Batch(_)) {
            failpoint::pass(Point::Prepared);
        }
        if out.send(answer).await.is_err() {
            return;
        }
    }
}

async fn prepare(
    preparer: &mut Preparer,
    out: &mpsc::Sender<FromPrepare>,
    raw: RawBatch,
    rejects: Vec<crate::event::Reject>,
    replayed: Option<BTreeMap<(String, i32, i64), u64>>,
) -> FromPrepare {
    // A registry that is away is a pause, never a reject.
    let mut told = false;
    while let Err(error) = preparer.fetch_schemas(&raw).await {
        let problem = FromPrepare::Problem(raw.source.clone(), Some(error.to_string()));
        if !told && out.send(problem).await.is_err() {
            return FromPrepare::CaughtUp(raw.source);
        }
        told = true;
        tokio::select! {
            biased;
            () = out.closed() => return FromPrepare::CaughtUp(raw.source),
            () = clock::sleep(std::time::Duration::from_millis(500)) => {}
        }
    }
    match preparer.prepare(&raw, rejects) {
        Ok(mut prepared) => {
            prepared.replayed = replayed;
            FromPrepare::Batch(prepared)
        }
        Err(error) => FromPrepare::Fatal(error),
    }
}

/// What a commit says: once it is durable, rows go to the shipper and deliveries to their workers.
struct Effects {
    commit: u64,
    rows: Rows,
    queued: Vec<Queued>,
    emitted: Vec<EmittedRecord>,
    emit: mpsc::UnboundedSender<Vec<EmittedRecord>>,
    recent: Recent,
    shipper: mpsc::UnboundedSender<u64>,
    workers: Arc<BTreeMap<String, Handle>>,
}

impl Effects {
    fn let_go(self) {
        if !self.rows.is_empty() {
            self.recent.put(self.commit, Arc::new(self.rows));
            // The shipper is there for as long as the loop.
            let _ = self.shipper.send(self.commit);
        }
        if !self.emitted.is_empty() {
            // The forwarder is there for as long as the loop.
            let _ = self.emit.send(self.emitted);
        }
        for queued in self.queued {
            if let Some(worker) = self.workers.get(&queued.delivery.destination) {
                worker.queued(queued);
            }
        }
    }
}

/// A commit on its way to being durable, and what waits for it.
struct InFlight {
    staged: Staged,
    commands: Vec<Command>,
    replayed: Option<Replayed>,
    handle: JoinHandle<Result<(), StoreError>>,
}

struct Replay {
    answer: oneshot::Sender<Replayed>,
    report: Replayed,
    /// Entries that have not come back yet.
    open: u64,
}

struct Loop {
    core: Core,
    pipeline: Pipeline,
    store: Arc<dyn Store>,
    history: Arc<dyn History>,
    /// The way in, for what tasks of the loop's own bring back.
    engine: mpsc::Sender<Input>,
    input: mpsc::Receiver<Input>,
    prepared: mpsc::Receiver<FromPrepare>,
    to_prepare: mpsc::Sender<ToPrepare>,
    in_flight: Option<InFlight>,
    durable_rows: mpsc::UnboundedSender<u64>,
    recent: Recent,
    queues: Queues,
    /// The way in for events that steps have made.
    emit: mpsc::UnboundedSender<Vec<EmittedRecord>>,
    status: SharedStatus,
    caught_up: BTreeMap<String, bool>,
    reading_times: ReadTimes,
    replay: Option<Replay>,
    /// The history that a fill needs is being read.
    filling: bool,
    /// The last commit was a batch's: timers and sweeps come next.
    background_turn: bool,
    /// The reading of history for the rebuild.
    reading: Option<Reading>,
    /// Who waits for the rebuild; nobody after a restart, several where the same was asked for more than once.
    correcting: Vec<oneshot::Sender<Corrected>>,
    /// Where new partitions begin, to be recorded with the next commit.
    assigned: Vec<Command>,
    options: Options,
}

impl Loop {
    async fn run(mut self, mut shipping: JoinHandle<Result<(), EngineError>>) -> Result<Outcome, EngineError> {
        let mut commands: Vec<Command> = Vec::new();
        let mut batch: Option<Prepared> = None;
        // A run without sources is there for the command that comes first.
        let mut started = self.options.read;
        loop {
            self.read_history().await?;
            self.read_fill().await?;
            if std::mem::take(&mut self.background_turn) {
                self.work_in_background().await?;
            }
            if self.options.drain && started && batch.is_none() && commands.is_empty() && self.is_drained() {
                return Ok(Outcome::Stopped);
            }
            let background = self.wait_for_background();
            tokio::select! {
                biased;
                input = self.input.recv() => match input {
                    Some(Input::Command(command)) => commands.push(command),
                    Some(Input::Stop(Stop::Fenced)) => return Ok(Outcome::Fenced),
                    Some(Input::Failed(error)) => return Err(error),
                    Some(Input::Stop(Stop::Asked)) | None => {
                        self.finish_commit().await?;
                        return Ok(Outcome::Stopped);
                    }
                },
                result = until_durable(&mut self.in_flight) => {
                    result?;
                    self.after_commit();
                    continue;
                }
                ended = &mut shipping => {
                    return match ended {
                        Ok(Err(error)) => Err(error),
                        Ok(Ok(())) => Err(EngineError::Internal("the shipper ended by itself".to_string())),
                        Err(error) => Err(EngineError::Internal(format!("the shipper failed: {error}"))),
                    };
                }
                from = self.prepared.recv() => match from {
                    Some(from) => batch = self.take(from)?,
                    None => return Err(EngineError::Internal("decoding ended".to_string())),
                },
                () = background => {
                    self.work_in_background().await?;
                    continue;
                }
            }
            started = true;
            // A batch that waits goes along with acknowledgements and attempts. What changes profiles by itself (corrections,
            // lists, fills) keeps a commit of its own.
            let quick = |command: &Command| {
                matches!(
                    command,
                    Command::Acknowledged { .. } | Command::Seal { .. } | Command::Begun { .. } | Command::Attempted(_)
                )
            };
            while batch.is_none() && commands.iter().all(quick) {
                let Ok(from) = self.prepared.try_recv() else { break };
                batch = self.take(from)?;
            }
            commands.append(&mut self.assigned);
            // Everything else that is waiting goes into the same commit.
            while commands.len() < 10_000 {
                match self.input.try_recv() {
                    Ok(Input::Command(command)) => commands.push(command),
                    Ok(Input::Stop(Stop::Fenced)) => return Ok(Outcome::Fenced),
                    Ok(Input::Failed(error)) => return Err(error),
                    Ok(Input::Stop(Stop::Asked)) => {
                        self.finish_commit().await?;
                        return Ok(Outcome::Stopped);
                    }
                    Err(_) => break,
                }
            }
            let replay = commands.iter().position(|command| matches!(command, Command::Replay { .. }));
            if let Some(Command::Replay { answer }) = replay.map(|at| commands.remove(at)) {
                self.start_replay(answer).await?;
            }
            let rebuilt = commands.iter().position(|command| matches!(command, Command::Rebuilt { .. }));
            if let Some(Command::Rebuilt { reading, shadow }) = rebuilt.map(|at| commands.remove(at)) {
                self.finish_rebuild(reading, *shadow).await?;
            }
            let looks_up = |command: &Command| {
                matches!(
                    command,
                    Command::Correct { .. }
                        | Command::Fill { .. }
                        | Command::EditList { .. }
                        | Command::EditDeliveries { .. }
                )
            };
            if commands.iter().any(looks_up) {
                // They look up in the store what the commit in flight may be writing.
                self.finish_commit().await?;
            }
            if batch.is_some() || !commands.is_empty() {
                self.background_turn = true;
                self.commit(batch.take(), std::mem::take(&mut commands)).await?;
            }
        }
    }

    /// Applies input on top of the commit in flight, waits for that one, and sends the new one on its way.
    async fn commit(&mut self, batch: Option<Prepared>, commands: Vec<Command>) -> Result<(), EngineError> {
        let now = self.now(batch.as_ref());
        let replayed = batch.as_ref().and_then(|batch| {
            let numbers = batch.replayed.as_ref()?;
            Some(Replayed { tried: numbers.len() as u64, still_rejected: batch.rejects.len() as u64 })
        });
        let started = clock::instant();
        failpoint::pass(Point::BeforeApply);
        let staged = self.core.apply(batch, &commands, now).await?;
        failpoint::pass(Point::Applied);
        metrics::histogram!("tributary_apply_seconds").record(started.elapsed().as_secs_f64());
        self.finish_commit().await?;
        self.launch(staged, commands, replayed);
        Ok(())
    }

    /// Sends a commit on its way; the one before is durable.
    fn launch(&mut self, mut staged: Staged, commands: Vec<Command>, replayed: Option<Replayed>) {
        let writes = std::mem::take(&mut staged.writes);
        metrics::counter!("tributary_state_bytes_total").increment(writes.bytes() as u64);
        let store = self.store.clone();
        let mut effects = Some(self.effects(&mut staged));
        if broken::is(broken::Order::EffectsFirst)
            && let Some(effects) = effects.take()
        {
            effects.let_go();
        }
        let handle = tokio::spawn(async move {
            let started = clock::instant();
            failpoint::fail(Point::BeforeCommit).map_err(StoreError::Unavailable)?;
            for writes in broken::commits(writes) {
                store.commit(writes).await?;
            }
            failpoint::pass(Point::CommitDurable);
            metrics::histogram!("tributary_commit_seconds").record(started.elapsed().as_secs_f64());
            // From here: the loop may be in the middle of the next batch.
            if let Some(effects) = effects {
                effects.let_go();
            }
            failpoint::pass(Point::LetGo);
            Ok(())
        });
        self.in_flight = Some(InFlight { staged, commands, replayed, handle });
    }

    /// Starts reading the history that a rebuild needs, once the tables hold all of it.
    async fn read_history(&mut self) -> Result<(), EngineError> {
        let Some(job) = self.core.rebuild.clone() else { return Ok(()) };
        if self.reading == Some(job.reading()) {
            return Ok(());
        }
        let waiting = self.core.outbox.range(..=job.upto).count();
        if waiting > 0 {
            let text = format!("waits until {waiting} commits with events of before are in the tables");
            self.status.change(|status| status.rebuild = Some(text));
            return Ok(());
        }
        self.reading = Some(job.reading());
        let profiles = Some(self.core.ids_to_rebuild().await?);
        let restore = Restore::new(&self.pipeline.transform.fields);
        let shadow = self.core.shadow(&self.pipeline, &restore.schema())?;
        let filter = HistoryFilter { profiles, ..HistoryFilter::default() };
        let range = CommitRange { after: 0, upto: job.upto };
        let (history, engine, status) = (self.history.clone(), self.engine.clone(), self.status.clone());
        tokio::spawn(async move {
            let reader = HistoryReader::new(&*history, restore, filter, range);
            let input = match read_back(reader, shadow, &status).await {
                Ok(shadow) => {
                    failpoint::pass(Point::RebuildRead);
                    Input::Command(Command::Rebuilt { reading: job.reading(), shadow: Box::new(shadow) })
                }
                Err(error) => Input::Failed(error),
            };
            // Fails only when the engine is gone; the next start reads again.
            let _ = engine.send(input).await;
        });
        Ok(())
    }

    /// Switches to what was rebuilt, in a commit of its own that nothing overtakes.
    async fn finish_rebuild(&mut self, reading: Reading, shadow: Shadow) -> Result<(), EngineError> {
        if self.core.rebuild.as_ref().is_none_or(|job| job.reading() != reading) {
            return Ok(()); // it has begun anew, or has ended and this is another
        }
        self.finish_commit().await?;
        let now = self.now(None);
        failpoint::pass(Point::BeforeSwitch);
        let (staged, corrected) = self.core.finish_rebuild(shadow, now).await?;
        self.launch(staged, Vec::new(), None);
        self.finish_commit().await?;
        failpoint::pass(Point::Switched);
        self.reading = None;
        self.status.change(|status| status.rebuild = None);
        if let Some(reason) = &corrected.refused {
            tracing::warn!(%reason, "a correction of identity was not carried out");
        }
        for answer in self.correcting.drain(..) {
            let _ = answer.send(corrected.clone());
        }
        Ok(())
    }

    async fn finish_commit(&mut self) -> Result<(), EngineError> {
        if self.in_flight.is_some() {
            until_durable(&mut self.in_flight).await?;
            self.after_commit();
        }
        Ok(())
    }

    /// The commit is durable and its effects have left: whoever waits for it is told.
    fn after_commit(&mut self) {
        let Some(InFlight { mut staged, commands, replayed, .. }) = self.in_flight.take() else { return };
        self.core.durable(staged.commit);
        let mut begun = std::mem::take(&mut staged.begun).into_iter();
        let mut edited = std::mem::take(&mut staged.edited).into_iter();
        let mut deliveries_edited = std::mem::take(&mut staged.deliveries_edited).into_iter();
        for command in commands {
            match command {
                Command::Seal { done, .. }
                | Command::Acknowledged { done, .. }
                | Command::Begun { done, .. }
                | Command::Fill { done, .. } => {
                    let _ = done.send(());
                }
                Command::Attempted(attempt) => {
                    failpoint::pass(Point::AttemptRecorded);
                    self.queues.attempted(&attempt, &self.status);
                }
                Command::Correct { answer, .. } => match begun.next() {
                    Some(Begun::Rebuilding) => self.correcting.push(answer),
                    Some(Begun::Refused(reason)) => {
                        let _ = answer.send(Corrected { refused: Some(reason), ..Corrected::default() });
                    }
                    Some(Begun::Busy) => {
                        let _ = answer.send(Corrected { busy: true, ..Corrected::default() });
                    }
                    Some(Begun::Done) | None => {
                        let _ = answer.send(Corrected::default());
                    }
                },
                Command::EditList { answer, .. } => {
                    let _ = answer.send(edited.next().unwrap_or_default());
                }
                Command::EditDeliveries { answer, .. } => {
                    let _ = answer.send(deliveries_edited.next().unwrap_or_default());
                }
                Command::Assigned { .. } | Command::Replay { .. } | Command::Rebuilt { .. } | Command::HistoryRead => {}
            }
        }
        if let Some(done) = replayed {
            self.replayed(done);
        }
        self.queues.tell(&self.status);
        self.status.committed(&self.core.record, self.core.journeys(), self.core.outbox.len());
        self.tell_fill();
        metrics::counter!("tributary_records_total").increment(staged.records);
    }

    /// Takes what a commit says out of it. From now on its deliveries count as open.
    fn effects(&mut self, staged: &mut Staged) -> Effects {
        let queued = std::mem::take(&mut staged.queued);
        self.queues.count(&queued);
        Effects {
            commit: staged.commit,
            rows: std::mem::take(&mut staged.rows),
            queued,
            emitted: std::mem::take(&mut staged.emitted),
            emit: self.emit.clone(),
            recent: self.recent.clone(),
            shipper: self.durable_rows.clone(),
            workers: self.queues.workers.clone(),
        }
    }

    fn take(&mut self, from: FromPrepare) -> Result<Option<Prepared>, EngineError> {
        let source_status = |status: &SharedStatus, name: &str, change: &dyn Fn(&mut super::SourceStatus)| {
            status.change(|status| change(status.sources.entry(name.to_string()).or_default()));
        };
        match from {
            FromPrepare::Batch(prepared) => {
                if prepared.replayed.is_none() && &*prepared.source != EMITTED {
                    self.caught_up.insert(prepared.source.to_string(), false);
                    self.reading_times.read(&prepared);
                    source_status(&self.status, &prepared.source, &|source| {
                        (source.caught_up, source.problem) = (false, None);
                    });
                }
                return Ok(Some(prepared));
            }
            FromPrepare::Assigned(source, positions) => self.assigned.push(Command::Assigned { source, positions }),
            FromPrepare::Behind(source, topic, partition) => self.reading_times.behind(&source, topic, partition),
            FromPrepare::AtEnd(source, topic, partitions) => {
                partitions.iter().for_each(|partition| self.reading_times.at_end(&source, &topic, *partition));
            }
            FromPrepare::CaughtUp(name) => {
                self.reading_times.all_at_end(&name);
                self.caught_up.insert(name.to_string(), true);
                source_status(&self.status, &name, &|source| {
                    (source.caught_up, source.lag, source.problem) = (true, Some(0), None);
                });
                metrics::gauge!("tributary_source_lag", "source" => name.to_string()).set(0.0);
            }
            FromPrepare::Lag(name, lag) => {
                source_status(&self.status, &name, &|source| source.lag = Some(lag));
                metrics::gauge!("tributary_source_lag", "source" => name.to_string()).set(lag as f64);
            }
            FromPrepare::Problem(name, problem) => {
                if let Some(problem) = &problem {
                    tracing::warn!(source = %name, %problem, "the source is waiting");
                }
                source_status(&self.status, &name, &|source| source.problem = problem.clone());
            }
            FromPrepare::Fatal(error) => return Err(error),
        }
        Ok(None)
    }

    fn is_drained(&self) -> bool {
        self.in_flight.is_none()
            && self.replay.is_none()
            && self.core.rebuild.is_none()
            && self.core.fill.is_none()
            && !self.core.is_sweeping()
            && self.core.next_due() > self.core.record.now
            && self.caught_up.values().all(|caught_up| *caught_up)
            && self.core.record.emitted_applied == self.core.record.next_emitted
            && self.core.outbox.is_empty()
            && self.queues.is_empty()
    }

    /// Sends all stored rejects through decode again; they come back as batches of their own.
    async fn start_replay(&mut self, answer: oneshot::Sender<Replayed>) -> Result<(), EngineError> {
        self.finish_commit().await?;
        let mut by_source: BTreeMap<Arc<str>, VecDeque<StoredReject>> = BTreeMap::new();
        let prefix = keys::prefix(Tag::Rejected);
        let mut after: Option<bytes::Bytes> = None;
        let mut open = 0;
        loop {
            let page = self.store.scan(&prefix, after.as_deref(), 1_000).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (_, value) in &page {
                let stored: StoredReject = codec::decode(StoredReject::VERSION, "rejected input", value)?;
                open += 1;
                by_source.entry(stored.reject.position.source.clone()).or_default().push_back(stored);
            }
        }
        if open == 0 {
            let _ = answer.send(Replayed::default());
            return Ok(());
        }
        self.replay = Some(Replay { answer, report: Replayed::default(), open });
        let to_prepare = self.to_prepare.clone();
        // From a task of its own: the way to the decoding thread may be full, and only this loop empties it.
        tokio::spawn(async move {
            for (source, rejects) in by_source {
                let rejects: Vec<StoredReject> = rejects.into();
                for part in rejects.chunks(1_000) {
                    let mut raw = RawBatch::new(source.clone());
                    let mut numbers = BTreeMap::new();
                    for stored in part {
                        let position = &stored.reject.position;
                        raw.push(
                            &position.topic,
                            position.partition,
                            position.offset,
                            stored.reject.timestamp,
                            &stored.reject.payload,
                        );
                        let place = (position.topic.to_string(), position.partition, position.offset);
                        numbers.insert(place, stored.number);
                    }
                    if to_prepare.send(ToPrepare::Replay(raw, numbers)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(())
    }

    fn replayed(&mut self, part: Replayed) {
        let Some(mut replay) = self.replay.take() else { return };
        replay.report.tried += part.tried;
        replay.report.still_rejected += part.still_rejected;
        replay.open = replay.open.saturating_sub(part.tried);
        if replay.open == 0 {
            let _ = replay.answer.send(replay.report);
        } else {
            self.replay = Some(replay);
        }
    }
}

/// Reads all of a rebuild's history. A side that is away only delays.
async fn read_back(
    mut reader: HistoryReader<'_>,
    mut shadow: Shadow,
    status: &SharedStatus,
) -> Result<Shadow, EngineError> {
    let tell = |text: String| status.change(|status| status.rebuild = Some(text));
    tell("reading history".to_string());
    let mut warned = String::new();
    loop {
        match reader.next().await {
            Ok(Some(stored)) => {
                shadow.take(&stored)?;
                tell(format!("{} events read, up to commit {} of {}", shadow.events(), reader.cursor, reader.upto));
            }
            Ok(None) => return Ok(shadow),
            Err(error @ EngineError::Internal(_)) => return Err(error),
            Err(error) => {
                let problem = error.to_string();
                if problem != warned {
                    tracing::warn!(%error, "a correction waits for the history that it needs");
                    warned.clone_from(&problem);
                }
                tell(problem);
                clock::sleep(std::time::Duration::from_secs(2)).await;
            }
        }
    }
}

/// Waits until the commit in flight is durable; for ever when there is none.
async fn until_durable(in_flight: &mut Option<InFlight>) -> Result<(), EngineError> {
    match in_flight {
        Some(commit) => match (&mut commit.handle).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(EngineError::Internal(format!("the commit failed: {error}"))),
        },
        None => std::future::pending().await,
    }
}
