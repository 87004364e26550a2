//! `identity split | ban | dry-run`.

use std::path::PathBuf;

use arrow::array::AsArray;
use clap::Subcommand;
use tokio::sync::{mpsc, oneshot};

use super::output::{Output, print};
use super::run::{RunOptions, Session};
use super::{Exit, Failure, Global, NodeConfig, dry_run, run, say, status, who};
use crate::definition::{Mode, Pipeline, Warehouse};
use crate::engine::{Command, Corrected, CorrectionRequest, Input, Outcome, SharedStatus};
use crate::event::ProfileId;
use crate::identity::Correction;
use crate::query;
use crate::state::location::Location;
use crate::state::slate::SlateReader;
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// What other rules would make of the events that are stored; nothing is touched
    DryRun {
        /// A file with the `identity:` section to try
        #[arg(long, value_name = "FILE")]
        rules: PathBuf,
        /// Only events of this time or later, such as 2026-01-01 or 2026-01-01T10:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// How many examples of each kind
        #[arg(short = 'n', default_value_t = 5)]
        examples: usize,
    },
    /// Take a wrong merge apart: cut the link between two identifiers, or strike out the event that made it
    Split {
        /// Two identifiers that no event may link, each as type:value
        #[arg(long, num_args = 2, value_names = ["A", "B"], required_unless_present = "event", conflicts_with = "event")]
        link: Option<Vec<String>>,
        /// The message id of an event that shall count for nobody
        #[arg(long, value_name = "MESSAGE_ID")]
        event: Option<String>,
        /// The source of that event, where several have the id
        #[arg(long, requires = "event", conflicts_with = "link")]
        source: Option<String>,
        /// Let segments that are entered or left by it set off activations
        #[arg(long)]
        activate: bool,
    },
    /// Make a value stand for nobody, for ever, and take apart what it joined
    Ban {
        /// type:value
        identifier: String,
        /// Let segments that are entered or left by it set off activations
        #[arg(long)]
        activate: bool,
    },
}

pub async fn identity(global: &Global, config: &NodeConfig, command: IdentityCommand) -> Result<Exit, Failure> {
    match command {
        IdentityCommand::DryRun { rules, since, examples } => {
            dry_run::dry_run(global, config, &rules, since.as_deref(), examples).await
        }
        IdentityCommand::Split { link: Some(link), activate, .. } => {
            let pipeline = run::load(global, Mode::Run)?;
            let (a, b) = (&link[0], &link[1]);
            let (first, second) = (who::parse_named(&pipeline.identity, a)?, who::parse_named(&pipeline.identity, b)?);
            if first == second {
                return Err(Failure::findings(format!("`{a}` and `{b}` are the same identifier")));
            }
            let request = request(&pipeline, Correction::Cut(first, second), None, activate);
            let what = format!("{a} and {b} are never linked by an event again");
            correct(global, config, &pipeline, request, &what).await
        }
        IdentityCommand::Split { event, source, activate, .. } => {
            let pipeline = run::load(global, Mode::Run)?;
            let message_id = event.unwrap_or_default();
            let (source, profile) = find_event(&pipeline, config, &message_id, source.as_deref()).await?;
            let what = format!("event {message_id} of source {source} counts for nobody");
            let correction = Correction::Strike { source: source.into(), message_id: message_id.into() };
            let request = request(&pipeline, correction, profile, activate);
            correct(global, config, &pipeline, request, &what).await
        }
        IdentityCommand::Ban { identifier, activate } => {
            let pipeline = run::load(global, Mode::Run)?;
            let named = who::parse_named(&pipeline.identity, &identifier)?;
            let request = request(&pipeline, Correction::Ban(named), None, activate);
            let what = format!("{identifier} stands for nobody from now on");
            correct(global, config, &pipeline, request, &what).await
        }
    }
}

fn request(
    pipeline: &Pipeline,
    correction: Correction,
    struck_profile: Option<ProfileId>,
    activate: bool,
) -> CorrectionRequest {
    let identifier_types = pipeline.identity.types.iter().map(|kind| kind.name.clone()).collect();
    CorrectionRequest { correction, identifier_types, struck_profile, activate }
}

/// The source of an event, and the profile that has it now.
async fn find_event(
    pipeline: &Pipeline,
    config: &NodeConfig,
    message_id: &str,
    source: Option<&str>,
) -> Result<(String, Option<ProfileId>), Failure> {
    let quoted = |text: &str| {
        let text = text.replace('\'', "''");
        match &pipeline.warehouse {
            Warehouse::Lake => format!("'{text}'"),
            // There a backslash escapes, in the lake it is itself.
            Warehouse::ClickHouse { .. } => format!("'{}'", text.replace('\\', "\\\\")),
        }
    };
    let of_source = source.map(|source| format!(" AND source = {}", quoted(source))).unwrap_or_default();
    let sql = format!(
        "SELECT CAST(source AS VARCHAR) AS source, profile_id FROM current_events WHERE message_id = {}{of_source}",
        quoted(message_id)
    );
    let found = query::query(&run::tables_of(pipeline, config), &sql).await.map_err(Failure::environment)?;
    let mut rows: Vec<(String, Option<ProfileId>)> = Vec::new();
    for batch in &found {
        let failed = |error: arrow::error::ArrowError| Failure::fatal(error);
        let sources = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).map_err(failed)?;
        let ids = arrow::compute::cast(batch.column(1), &arrow::datatypes::DataType::Utf8).map_err(failed)?;
        let (sources, ids) = (sources.as_string::<i32>(), ids.as_string::<i32>());
        rows.extend(
            sources
                .iter()
                .zip(ids)
                .map(|(source, id)| (source.unwrap_or_default().to_string(), id.and_then(|id| id.parse().ok()))),
        );
    }
    match &rows[..] {
        [only] => Ok(only.clone()),
        [] => Err(Failure::findings(format!("no stored event has the message id {message_id}"))),
        several => {
            let mut sources: Vec<&str> = several.iter().map(|(source, _)| source.as_str()).collect();
            sources.sort_unstable();
            sources.dedup();
            Err(Failure::findings(format!(
                "{} events have the message id {message_id}; say which with --source: {}",
                several.len(),
                sources.join(", ")
            )))
        }
    }
}

/// Hands the correction to the running process, or carries it out here when none is running.
async fn correct(
    global: &Global,
    config: &NodeConfig,
    pipeline: &Pipeline,
    request: CorrectionRequest,
    what: &str,
) -> Result<Exit, Failure> {
    let corrected: Corrected = match status::running(config).await {
        Some(control) => {
            let answer = control.post_json("/control/correct", &request).await.map_err(|failure| Failure {
                message: format!(
                    "{}; if the correction had begun, the next run carries it to its end. Ask for it again to be sure",
                    failure.message
                ),
                ..failure
            })?;
            serde_json::from_str(&answer).map_err(Failure::fatal)?
        }
        None => {
            telemetry::init_logs("warn", config.log_format);
            // A mistyped place must not become a new state.
            let location = Location::parse(&config.data).map_err(Failure::environment)?;
            SlateReader::open(&location).await.map_err(|error| {
                Failure::environment(format!("there is no state at {} yet, or it cannot be read: {error}", config.data))
            })?;
            let session = Session::open(config, false).await?;
            let (engine, input) = mpsc::channel(64);
            let (answer, corrected) = oneshot::channel();
            let _ = engine.send(Input::Command(Command::Correct { request, answer })).await;
            let options = RunOptions { drain: true, ..RunOptions::default() };
            let outcome =
                session.run(pipeline, config, &options, false, SharedStatus::default(), engine, input).await?;
            match (outcome, corrected.await) {
                (Outcome::Stopped, Ok(corrected)) => corrected,
                (Outcome::Fenced, _) => return Ok(Exit::TakenOver),
                (Outcome::Stopped, Err(_)) => return Err(Failure::fatal("the correction ended without an answer")),
            }
        }
    };
    if corrected.busy {
        return Err(Failure::environment("another correction is being carried out; try again when it is done"));
    }
    if let Some(reason) = corrected.refused {
        return Err(Failure::findings(reason));
    }
    if global.output == Some(Output::Json) {
        print(&serde_json::to_string(&corrected).map_err(Failure::fatal)?);
        return Ok(Exit::Well);
    }
    say(what);
    if corrected.was.is_empty() {
        say("nobody had to be taken apart");
        return Ok(Exit::Well);
    }
    match &corrected.profiles[..] {
        [] => say(&format!("profile {} is no more: all of its events are nobody's", corrected.was)),
        [one] => {
            let now = if *one == corrected.was { String::new() } else { format!(", now {one}") };
            say(&format!(
                "profile {} is still one person{now}: what is left holds together (see tributary explain profile {one})",
                corrected.was
            ));
        }
        several => say(&format!("profile {} is now {} profiles:", corrected.was, several.len())),
    }
    if !corrected.profiles.is_empty() {
        print(&corrected.profiles.join("\n"));
    }
    say(&format!(
        "{} stored events moved, {} segments entered, {} exited",
        corrected.events_moved, corrected.entered, corrected.exited
    ));
    Ok(Exit::Well)
}
