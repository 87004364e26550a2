//! `rejected list | replay`.

use clap::Subcommand;
use tokio::sync::{mpsc, oneshot};

use super::output::{Output, print, render};
use super::run::{RunOptions, Session};
use super::{Exit, Failure, Global, NodeConfig, run, say, status};
use crate::definition::Mode;
use crate::engine::{Command, Input, Outcome, Replayed, SharedStatus, StoredReject};
use crate::state::Store;
use crate::state::codec;
use crate::state::keys::{self, Tag};
use crate::state::location::Location;
use crate::state::slate::SlateReader;
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub enum RejectedCommand {
    /// What was rejected, why, and where it came from
    List {
        /// How many, newest last
        #[arg(short = 'n', default_value_t = 100)]
        count: usize,
    },
    /// Read all of it again, after a schema or definition was mended
    Replay,
}

pub async fn rejected(global: &Global, config: &NodeConfig, command: RejectedCommand) -> Result<Exit, Failure> {
    match command {
        RejectedCommand::List { count } => list(global, config, count).await,
        RejectedCommand::Replay => replay(global, config).await,
    }
}

async fn list(global: &Global, config: &NodeConfig, count: usize) -> Result<Exit, Failure> {
    let location = Location::parse(&config.data).map_err(Failure::environment)?;
    let reader = SlateReader::open(&location).await.map_err(Failure::environment)?;
    let prefix = keys::prefix(Tag::Rejected);
    let mut last_page = std::collections::VecDeque::new();
    let mut after: Option<bytes::Bytes> = None;
    loop {
        let page = reader.scan(&prefix, after.as_deref(), 1_000).await.map_err(Failure::environment)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (_, value) in page {
            let stored: StoredReject =
                codec::decode(StoredReject::VERSION, "rejected input", &value).map_err(Failure::fatal)?;
            if last_page.len() == count {
                last_page.pop_front();
            }
            last_page.push_back(stored);
        }
    }
    let rows: Vec<[String; 5]> = last_page
        .into_iter()
        .map(|StoredReject { number, reject, .. }| {
            let start: Vec<u8> = reject.payload.iter().take(60).copied().collect();
            let start: String =
                String::from_utf8_lossy(&start).chars().map(|c| if c.is_control() { '·' } else { c }).collect();
            [number.to_string(), reject.position.to_string(), reject.code, reject.reason, start]
        })
        .collect();
    print(&render(&["number", "position", "code", "reason", "payload"], &rows, Output::or_default(global.output)));
    Ok(Exit::Well)
}

async fn replay(global: &Global, config: &NodeConfig) -> Result<Exit, Failure> {
    // A process that is running holds the state: it does the work.
    if let Some(control) = status::running(config).await {
        let answer = control.post("/control/replay").await?;
        let replayed: Replayed = serde_json::from_str(&answer).map_err(Failure::fatal)?;
        return Ok(report(replayed));
    }
    telemetry::init_logs("warn", config.log_format);
    let pipeline = run::load(global, Mode::Run)?;
    let session = Session::open(config, false).await?;
    let (engine, input) = mpsc::channel(64);
    let (answer, replayed) = oneshot::channel();
    let _ = engine.send(Input::Command(Command::Replay { answer })).await;
    let options = RunOptions { drain: true, ..RunOptions::default() };
    let outcome = session.run(&pipeline, config, &options, false, SharedStatus::default(), engine, input).await?;
    match (outcome, replayed.await) {
        (Outcome::Stopped, Ok(replayed)) => Ok(report(replayed)),
        (Outcome::Fenced, _) => Ok(Exit::TakenOver),
        (Outcome::Stopped, Err(_)) => Err(Failure::fatal("the replay ended without an answer")),
    }
}

fn report(replayed: Replayed) -> Exit {
    let accepted = replayed.tried - replayed.still_rejected;
    say(&format!("{} tried again: {accepted} accepted, {} still rejected", replayed.tried, replayed.still_rejected));
    Exit::Well
}
