//! `run`: wires sources, state, sinks and endpoints together and runs the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Exit, Failure, Global, NodeConfig, progress, say};
use crate::activation::{DestinationKind, DestinationPlan, KnownPlan, OnChange};
use crate::definition::{self, Earlier, Mode, Pipeline, Warehouse};
use crate::engine::control::{self, ControlFile};
use crate::engine::{self, DecodeOn, EngineError, Input, Outcome, SharedStatus, Stop, Wiring};
use crate::query::{TableHistory, Target};
use crate::sink::clickhouse::ClickHouseSink;
use crate::sink::connector::Connector;
use crate::sink::email::Email;
use crate::sink::file::FileDestination;
use crate::sink::guard::Reach;
use crate::sink::kafka::KafkaDestination;
use crate::sink::lake::LakeSink;
use crate::sink::webhook::Webhook;
use crate::sink::{Destination, TableSink};
use crate::source::{self, ReadLimits};
use crate::state::heartbeat::{self, Heartbeat};
use crate::state::location::Location;
use crate::state::slate::{Limits, SlateStore};
use crate::state::{Store, StoreError};
use crate::telemetry;

#[derive(Debug, Clone, Default, Args)]
pub struct RunOptions {
    /// Stop when the sources are at their end and every sink has acknowledged
    #[arg(long)]
    pub drain: bool,
    /// Record deliveries without sending them
    #[arg(long)]
    pub no_send: bool,
    /// Take over at once from an instance that is running on this state
    #[arg(long)]
    pub takeover: bool,
}

/// `tributary run`.
pub async fn run(global: &Global, config: &NodeConfig, options: RunOptions) -> Result<Exit, Failure> {
    telemetry::init_logs(&config.log, config.log_format);
    let metrics = telemetry::init_metrics();
    let pipeline = load(global, Mode::Run)?;
    let session = Session::open(config, options.takeover).await?;
    let status = SharedStatus::default();
    let (engine, input) = mpsc::channel(1024);
    let session = session.serve(config, &status, &engine, metrics).await?;
    stop_on_signal(engine.clone());
    let drawing = progress::draw(status.clone());
    let outcome = session.run(&pipeline, config, &options, true, status.clone(), engine, input).await;
    drawing.finish();
    let outcome = outcome?;
    let totals = status.read().totals;
    match outcome {
        Outcome::Stopped => {
            say(&format!(
                "{}: {} records, {} events, {} duplicates, {} rejected; {} profiles of {} identifiers",
                if options.drain { "drained" } else { "stopped" },
                totals.records,
                totals.events,
                totals.duplicates,
                totals.rejected,
                totals.profiles,
                totals.identifiers
            ));
            Ok(Exit::Well)
        }
        Outcome::Fenced => {
            say(
                "another instance has taken over this state: this one has stopped for good and has written nothing since",
            );
            Ok(Exit::TakenOver)
        }
    }
}

/// The checked pipeline, its findings printed. Errors end with exit code 1.
pub fn load(global: &Global, mode: Mode) -> Result<Pipeline, Failure> {
    match definition::load(&global.pipeline, mode) {
        Ok((pipeline, warnings)) => {
            warnings.iter().for_each(|warning| say(&warning.to_string()));
            Ok(pipeline)
        }
        Err(findings) => {
            findings.iter().for_each(|finding| say(&finding.to_string()));
            let errors = findings.iter().filter(|f| f.severity == definition::Severity::Error).count();
            Err(Failure::findings(format!(
                "the definitions at {} have {errors} error{}",
                global.pipeline.display(),
                if errors == 1 { "" } else { "s" }
            )))
        }
    }
}

/// The state held by this process: nobody else runs on it meanwhile.
pub struct Session {
    location: Location,
    store: Arc<SlateStore>,
    heartbeat: Heartbeat,
    /// Where control is served, once it is.
    control: Option<std::net::SocketAddr>,
}

impl Session {
    /// Waits for another instance to be silent, or takes over at once.
    pub async fn open(config: &NodeConfig, takeover: bool) -> Result<Session, Failure> {
        let location =
            Location::parse(&config.data).map_err(|error| Failure { exit: Exit::Usage, message: error.to_string() })?;
        let heartbeat = heartbeat::acquire(&location, takeover, say).await.map_err(Failure::environment)?;
        let store = SlateStore::open_with(&location, Limits::of_mib(config.checkpoint_mib)).await;
        let store = store.map_err(store_failure)?;
        Ok(Session { location, store: Arc::new(store), heartbeat, control: None })
    }

    /// Serves metrics, health and control, and leaves word of where.
    async fn serve(
        self,
        config: &NodeConfig,
        status: &SharedStatus,
        engine: &mpsc::Sender<Input>,
        metrics: PrometheusHandle,
    ) -> Result<Session, Failure> {
        let listener = match TcpListener::bind(config.listen).await {
            Ok(listener) => listener,
            Err(_) => {
                let free = TcpListener::bind((config.listen.ip(), 0)).await;
                let free =
                    free.map_err(|error| Failure::environment(format!("cannot listen on {}: {error}", config.listen)))?;
                tracing::warn!(wanted = %config.listen, "the address is taken; using a free port");
                free
            }
        };
        let address = listener.local_addr().map_err(Failure::environment)?;
        let token = control::new_token().map_err(Failure::environment)?;
        if let Some(folder) = self.location.folder() {
            let file = ControlFile { address, token: token.clone() };
            file.write(folder).map_err(|error| Failure::environment(format!("{}: {error}", folder.display())))?;
        }
        tracing::info!(%address, "metrics, health and control");
        tokio::spawn(control::serve(listener, token, status.clone(), engine.clone(), metrics));
        Ok(Session { control: Some(address), ..self })
    }

    /// Takes these definitions over and lets go of the state.
    pub async fn accept(self, pipeline: &Pipeline) -> Result<(), Failure> {
        let heartbeat = self.heartbeat.run(None);
        let accepted = engine::accept(&*self.store, pipeline).await;
        let closed = self.store.close().await;
        heartbeat.release().await;
        accepted.map_err(engine_failure)?;
        closed.map_err(store_failure)
    }

    /// Runs the engine until it ends, then lets go of the state.
    #[expect(clippy::too_many_arguments, reason = "the wiring of a process, called from three commands")]
    pub async fn run(
        self,
        pipeline: &Pipeline,
        config: &NodeConfig,
        options: &RunOptions,
        read: bool,
        status: SharedStatus,
        engine: mpsc::Sender<Input>,
        input: mpsc::Receiver<Input>,
    ) -> Result<Outcome, Failure> {
        let heartbeat = self.heartbeat.run(self.control.map(|address| address.to_string()));
        let (mut lost, fence) = (heartbeat.lost(), engine.clone());
        tokio::spawn(async move {
            if lost.wait_for(|lost| *lost).await.is_ok() {
                let _ = fence.send(Input::Stop(Stop::Fenced)).await;
            }
        });
        let state_id = engine::state_id(&*self.store).await.map_err(store_failure)?;
        let with_earlier = with_earlier(pipeline, &*self.store).await?;
        let pipeline = with_earlier.as_ref().unwrap_or(pipeline);
        let sink = table_sink(pipeline, &config.data, &state_id)?;
        status.change(|status| {
            status.sink.name = match &pipeline.warehouse {
                Warehouse::Lake => "lake".to_string(),
                Warehouse::ClickHouse { .. } => "clickhouse".to_string(),
            };
        });
        let wiring = Wiring {
            store: self.store.clone() as Arc<dyn Store>,
            sink,
            // What waits in the queues stays there.
            destinations: if options.no_send { BTreeMap::new() } else { destinations(&pipeline.destinations, config)? },
            history: Arc::new(TableHistory { target: tables_of(pipeline, config) }),
            schema_cache: self.location.folder().map(std::path::Path::to_path_buf),
            status,
            start_source: Box::new(source::spawn),
            input: (engine, input),
        };
        let engine_options = engine::Options {
            drain: options.drain,
            send: !options.no_send,
            read,
            cache_bytes: config.cache_mib << 20,
            recent_bytes: 256 << 20,
            background_rows: engine::BACKGROUND_ROWS,
            decode_on: DecodeOn::Thread,
            limits: ReadLimits {
                max_records: config.batch_records,
                linger: Duration::from_millis(config.linger_ms),
                until_end: options.drain,
                ..ReadLimits::default()
            },
        };
        let outcome = engine::run(pipeline, wiring, engine_options).await;
        match outcome {
            Ok(Outcome::Fenced) | Err(EngineError::Store(StoreError::Fenced)) => {
                // The state and the heartbeat belong to the other one now.
                Ok(Outcome::Fenced)
            }
            Ok(outcome) => {
                heartbeat.release().await;
                if let Some(folder) = self.location.folder() {
                    let _ = std::fs::remove_file(ControlFile::path(folder));
                }
                Ok(outcome)
            }
            Err(error) => {
                heartbeat.release().await;
                Err(engine_failure(error))
            }
        }
    }
}

/// The pipeline with the earlier versions of activations that people are under way along; None: there are none.
async fn with_earlier(pipeline: &Pipeline, store: &dyn Store) -> Result<Option<Pipeline>, Failure> {
    let under_way = engine::plans_under_way(store).await.map_err(store_failure)?;
    let is_defined =
        |one: &KnownPlan| pipeline.activations.iter().any(|plan| plan.name == one.name && plan.version == one.version);
    // Of one that is gone altogether nobody goes on, and of one that says otherwise nobody along the old one.
    let finishes = |one: &KnownPlan| {
        let now = pipeline.activations.iter().find(|plan| plan.name == one.name);
        now.is_some_and(|plan| plan.on_change == OnChange::Finish)
    };
    let earlier: Vec<Earlier> = under_way
        .into_iter()
        .filter(|one| !is_defined(one) && finishes(one))
        .map(|one| Earlier { name: one.name, version: one.version, written: one.written })
        .collect();
    if earlier.is_empty() {
        return Ok(None);
    }
    let loaded = definition::load_earlier(pipeline, &earlier);
    let (pipeline, left_out) = loaded.map_err(|findings| {
        findings.iter().for_each(|finding| say(&finding.to_string()));
        Failure::findings("the definitions have changed while they were read".to_string())
    })?;
    for why in left_out {
        tracing::warn!(
            "an earlier version of an activation does not fit any more, those under way along it end: {why}"
        );
    }
    Ok(Some(pipeline))
}

fn store_failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::Fenced => Exit::TakenOver,
        StoreError::Unavailable(_) => Exit::Environment,
        StoreError::Damaged(_) => Exit::Fatal,
    };
    Failure { exit, message: error.to_string() }
}

pub fn engine_failure(error: EngineError) -> Failure {
    match error {
        EngineError::Store(error) => store_failure(error),
        EngineError::Start(_) => Failure::environment(error),
        // Starting it again would end the same way.
        EngineError::Contradiction(_) => Failure::findings(error),
        EngineError::Source { .. } => Failure { exit: Exit::Fatal, message: error.to_string() },
        other => Failure::fatal(other),
    }
}

/// Comes true when the process is asked to end.
pub fn signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn stop_on_signal(engine: mpsc::Sender<Input>) {
    tokio::spawn(async move {
        let Ok(asked) = signal() else { return };
        asked.await;
        say("stopping after the batch in hand");
        let _ = engine.send(Input::Stop(Stop::Asked)).await;
    });
}

/// Where the tables of a pipeline can be read.
pub fn tables_of(pipeline: &Pipeline, config: &NodeConfig) -> Target {
    match &pipeline.warehouse {
        Warehouse::Lake => Target::Lake { root: config.data.clone() },
        Warehouse::ClickHouse { url, database, user, password } => Target::ClickHouse {
            url: url.clone(),
            database: database.clone(),
            user: user.clone(),
            password: password.clone(),
        },
    }
}

/// ClickHouse or the lake, as the pipeline says.
pub fn table_sink(pipeline: &Pipeline, data: &str, state_id: &str) -> Result<Box<dyn TableSink>, Failure> {
    Ok(match &pipeline.warehouse {
        Warehouse::Lake => Box::new(LakeSink::new(data, state_id).map_err(Failure::environment)?),
        Warehouse::ClickHouse { url, database, user, password } => {
            Box::new(ClickHouseSink::new(url, database, user.as_deref(), password.as_deref(), &pipeline.name, state_id))
        }
    })
}

fn destinations(
    plans: &[DestinationPlan],
    config: &NodeConfig,
) -> Result<BTreeMap<String, Arc<dyn Destination>>, Failure> {
    let allowed = Arc::new(config.allow_addresses.clone());
    let reach = |allow_private: bool| Reach::new(allow_private, allowed.clone());
    let mut destinations: BTreeMap<String, Arc<dyn Destination>> = BTreeMap::new();
    for plan in plans {
        let failed = |error: String| Failure::findings(format!("destination {}: {error}", plan.name));
        let destination: Arc<dyn Destination> = match &plan.kind {
            DestinationKind::Webhook { url, secrets, headers, allow_private } => Arc::new(
                Webhook::new(url, secrets, headers, reach(*allow_private))
                    .map_err(|error| failed(error.to_string()))?,
            ),
            DestinationKind::File { path } => Arc::new(FileDestination::new(path.clone())),
            DestinationKind::Email(plan) => {
                let email = Email::new((**plan).clone(), reach(plan.allow_private));
                Arc::new(email.map_err(|error| failed(error.to_string()))?)
            }
            DestinationKind::Connector { connector, with, allow_private } => {
                Arc::new(Connector::new((**connector).clone(), with, reach(*allow_private)).map_err(failed)?)
            }
            DestinationKind::Kafka { brokers, topic, settings } => {
                Arc::new(KafkaDestination::new(brokers, topic, settings).map_err(|error| failed(error.to_string()))?)
            }
        };
        destinations.insert(plan.name.clone(), destination);
    }
    Ok(destinations)
}
