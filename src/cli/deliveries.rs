//! `deliveries list | retry | drop`: what waits in the destinations' queues, and what was given up.

use clap::{Args, Subcommand, ValueEnum};
use tokio::sync::{mpsc, oneshot};

use super::output::{Output, print, render};
use super::run::{RunOptions, Session};
use super::{Exit, Failure, Global, NodeConfig, run, say, status};
use crate::activation::{Delivery, time_text};
use crate::definition::Mode;
use crate::engine::{Command, DeliveriesEdited, DeliveriesRequest, Input, Outcome, SharedStatus};
use crate::sink::{DeadLetter, Queued};
use crate::state::keys::{self, Tag};
use crate::state::location::Location;
use crate::state::slate::SlateReader;
use crate::state::{Store, codec};
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub enum DeliveriesCommand {
    /// What waits, what was given up and what may have been taken, and why
    List {
        /// Only of this destination
        #[arg(long)]
        destination: Option<String>,
        /// Only these
        #[arg(long, value_enum)]
        state: Option<DeliveryState>,
        /// How many, oldest first
        #[arg(short = 'n', default_value_t = 100)]
        count: usize,
    },
    /// Send what was given up or may have been taken once more, with the same ids and bodies
    Retry(Which),
    /// Forget what was given up or may have been taken
    Drop(Which),
}

#[derive(Debug, Args)]
pub struct Which {
    /// Ids of deliveries
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Only of this destination
    #[arg(long)]
    destination: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeliveryState {
    Queued,
    Failed,
    Uncertain,
}

pub async fn deliveries(global: &Global, config: &NodeConfig, command: DeliveriesCommand) -> Result<Exit, Failure> {
    match command {
        DeliveriesCommand::List { destination, state, count } => {
            list(global, config, destination.as_deref(), state, count).await
        }
        DeliveriesCommand::Retry(which) => edit(global, config, which, true).await,
        DeliveriesCommand::Drop(which) => edit(global, config, which, false).await,
    }
}

/// A delivery that the state holds.
pub enum Held {
    Queued(Queued),
    Dead(DeadLetter),
}

impl Held {
    pub fn queued(&self) -> &Queued {
        match self {
            Held::Queued(queued) | Held::Dead(DeadLetter { queued, .. }) => queued,
        }
    }

    pub fn state(&self) -> DeliveryState {
        match self {
            Held::Queued(_) => DeliveryState::Queued,
            Held::Dead(letter) if letter.uncertain => DeliveryState::Uncertain,
            Held::Dead(_) => DeliveryState::Failed,
        }
    }

    /// Why it is there, for people.
    pub fn reason(&self) -> String {
        match self {
            Held::Dead(letter) => format!("{}: {}", time_text(letter.died_at), letter.detail),
            Held::Queued(queued) if queued.begun => "a request has begun and its answer is not recorded".to_string(),
            Held::Queued(queued) if queued.next_attempt_at > 0 => {
                format!("next attempt not before {}", time_text(queued.next_attempt_at))
            }
            Held::Queued(queued) if queued.attempts > 0 => "put into the queue again by hand".to_string(),
            Held::Queued(_) => "not tried yet".to_string(),
        }
    }
}

impl DeliveryState {
    pub fn name(self) -> &'static str {
        match self {
            DeliveryState::Queued => "queued",
            DeliveryState::Failed => "failed",
            DeliveryState::Uncertain => "uncertain",
        }
    }
}

/// Up to `count` of the deliveries that the state holds and `wanted` asks for, by destination, oldest first: those that were
/// given up, then those that wait.
pub async fn held(
    config: &NodeConfig,
    destination: Option<&str>,
    count: usize,
    wanted: impl Fn(&Held) -> bool,
) -> Result<Vec<Held>, Failure> {
    let location = Location::parse(&config.data).map_err(Failure::environment)?;
    let reader = SlateReader::open(&location).await.map_err(|error| {
        Failure::environment(format!("there is no state at {} yet, or it cannot be read: {error}", config.data))
    })?;
    let mut found = Vec::new();
    for tag in [Tag::DeadLetter, Tag::Delivery] {
        let prefix = destination.map_or_else(|| keys::prefix(tag), |name| keys::named_prefix(tag, name));
        let mut after: Option<bytes::Bytes> = None;
        loop {
            let page = reader.scan(&prefix, after.as_deref(), 1_000).await.map_err(Failure::environment)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (_, value) in &page {
                let held = match tag {
                    Tag::DeadLetter => codec::decode(DeadLetter::VERSION, "dead letter", value).map(Held::Dead),
                    _ => codec::decode(Queued::VERSION, "delivery", value).map(Held::Queued),
                };
                let held = held.map_err(Failure::fatal)?;
                if found.len() == count {
                    return Ok(found);
                }
                if wanted(&held) {
                    found.push(held);
                }
            }
        }
    }
    Ok(found)
}

async fn list(
    global: &Global,
    config: &NodeConfig,
    destination: Option<&str>,
    state: Option<DeliveryState>,
    count: usize,
) -> Result<Exit, Failure> {
    let found = held(config, destination, count, |held| state.is_none_or(|state| held.state() == state)).await?;
    let rows: Vec<[String; 8]> = found.iter().map(row).collect();
    let columns = ["delivery_id", "destination", "state", "attempts", "created_at", "activation", "profile_id", "why"];
    print(&render(&columns, &rows, Output::or_default(global.output)));
    Ok(Exit::Well)
}

fn row(held: &Held) -> [String; 8] {
    let Queued { delivery, attempts, .. } = held.queued();
    let Delivery { id, destination, activation, step, profile_id, created_at, .. } = delivery;
    [
        id.clone(),
        destination.clone(),
        held.state().name().to_string(),
        attempts.to_string(),
        time_text(*created_at),
        format!("{activation}.{step}"),
        profile_id.to_string(),
        held.reason(),
    ]
}

/// Hands the change to the running process, or makes it here when none is running; what is put into a queue is then sent by the
/// next run.
async fn edit(global: &Global, config: &NodeConfig, which: Which, retry: bool) -> Result<Exit, Failure> {
    let Which { ids, all, destination } = which;
    let request = DeliveriesRequest { retry, ids: (!all).then_some(ids), destination };
    let mut total = DeliveriesEdited::default();
    loop {
        let edited = edit_some(global, config, request.clone()).await?;
        total.changed += edited.changed;
        total.without_destination = edited.without_destination;
        if !edited.more {
            break;
        }
    }
    if global.output == Some(Output::Json) {
        print(&serde_json::to_string(&total).map_err(Failure::fatal)?);
    } else {
        let what = if retry { "put into the queue again" } else { "dropped" };
        say(&format!("{} {what}", total.changed));
    }
    if total.without_destination > 0 {
        return Err(Failure::findings(format!(
            "{} are for destinations that are not defined any more: define them again, or drop these",
            total.without_destination
        )));
    }
    match (&request.ids, total.changed) {
        (Some(ids), changed) if changed < ids.len() as u64 => Err(Failure::findings(format!(
            "{} of {} were found: `tributary deliveries list` shows what was given up",
            changed,
            ids.len()
        ))),
        _ => Ok(Exit::Well),
    }
}

async fn edit_some(
    global: &Global,
    config: &NodeConfig,
    request: DeliveriesRequest,
) -> Result<DeliveriesEdited, Failure> {
    if let Some(control) = status::running(config).await {
        let answer = control.post_json("/control/deliveries", &request).await?;
        return serde_json::from_str(&answer).map_err(Failure::fatal);
    }
    telemetry::init_logs("warn", config.log_format);
    let pipeline = run::load(global, Mode::Run)?;
    // A mistyped place must not become a new state.
    held(config, None, 0, |_| false).await?;
    let session = Session::open(config, false).await?;
    let (engine, input) = mpsc::channel(64);
    let (answer, edited) = oneshot::channel();
    let _ = engine.send(Input::Command(Command::EditDeliveries { request, answer })).await;
    let options = RunOptions { drain: true, no_send: true, ..RunOptions::default() };
    let outcome = session.run(&pipeline, config, &options, false, SharedStatus::default(), engine, input).await?;
    match (outcome, edited.await) {
        (Outcome::Stopped, Ok(edited)) => Ok(edited),
        (Outcome::Fenced, _) => {
            Err(Failure { exit: Exit::TakenOver, message: "another instance has taken over this state".to_string() })
        }
        (Outcome::Stopped, Err(_)) => Err(Failure::fatal("the change ended without an answer")),
    }
}
