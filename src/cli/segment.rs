//! `segment add | remove | list`: segments that are lists.

use std::collections::BTreeMap;

use clap::Subcommand;
use tokio::sync::{mpsc, oneshot};

use super::output::{Output, print, render};
use super::run::{RunOptions, Session};
use super::{Exit, Failure, Global, NodeConfig, run, say, status};
use crate::definition::{Mode, Pipeline};
use crate::engine::{Command, Input, ListEdit, ListEdited, ListRequest, Outcome, SharedStatus};
use crate::identity::Unusable;
use crate::segment::{ListPlan, SegmentRule};
use crate::state::location::Location;
use crate::state::slate::SlateReader;
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub enum SegmentCommand {
    /// Put people into a list, whatever its file says
    Add {
        /// The segment
        name: String,
        /// Values of the list's identifier type, or type:value
        #[arg(required = true)]
        who: Vec<String>,
    },
    /// Take people out of a list, whatever its file says
    Remove {
        /// The segment
        name: String,
        /// Values of the list's identifier type, or type:value
        #[arg(required = true)]
        who: Vec<String>,
    },
    /// What a list holds, and whether the file or a command says so
    List {
        /// The segment
        name: String,
    },
}

pub async fn segment(global: &Global, config: &NodeConfig, command: SegmentCommand) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    match command {
        SegmentCommand::Add { name, who } => edit(global, config, &pipeline, &name, &who, true).await,
        SegmentCommand::Remove { name, who } => edit(global, config, &pipeline, &name, &who, false).await,
        SegmentCommand::List { name } => list(global, config, &pipeline, &name).await,
    }
}

fn find<'p>(pipeline: &'p Pipeline, name: &str) -> Result<&'p ListPlan, Failure> {
    let lists = || {
        pipeline.segments.iter().filter_map(|plan| match &plan.rule {
            SegmentRule::List(list) => Some((plan.name.as_str(), list)),
            _ => None,
        })
    };
    if let Some((_, list)) = lists().find(|(other, _)| *other == name) {
        return Ok(list);
    }
    let names: Vec<&str> = lists().map(|(name, _)| name).collect();
    Err(Failure::findings(match (pipeline.segments.iter().any(|plan| plan.name == name), &names[..]) {
        (true, _) => format!("segment `{name}` is a condition: only lists can be edited"),
        (false, []) => format!("there is no segment `{name}`, and no list at all"),
        (false, _) => format!("there is no segment `{name}`; lists are {}", names.join(", ")),
    }))
}

/// Hands the change to the running process, or makes it here when none is running.
async fn edit(
    global: &Global,
    config: &NodeConfig,
    pipeline: &Pipeline,
    name: &str,
    who: &[String],
    add: bool,
) -> Result<Exit, Failure> {
    let list = find(pipeline, name)?;
    let identifier_type = pipeline.identity.types[usize::from(list.kind)].name.clone();
    let mut values: Vec<String> =
        who.iter().map(|text| value(pipeline, list, &identifier_type, text)).collect::<Result<_, _>>()?;
    values.sort_unstable();
    values.dedup();
    let request = ListRequest { segment: name.to_string(), identifier_type, values, add };
    let edited: ListEdited = match status::running(config).await {
        Some(control) => {
            let answer = control.post_json("/control/list", &request).await?;
            serde_json::from_str(&answer).map_err(Failure::fatal)?
        }
        None => {
            telemetry::init_logs("warn", config.log_format);
            // A mistyped place must not become a new state.
            reader(config).await?;
            let session = Session::open(config, false).await?;
            let (engine, input) = mpsc::channel(64);
            let (answer, edited) = oneshot::channel();
            let _ = engine.send(Input::Command(Command::EditList { request, answer })).await;
            let options = RunOptions { drain: true, ..RunOptions::default() };
            let outcome =
                session.run(pipeline, config, &options, false, SharedStatus::default(), engine, input).await?;
            match (outcome, edited.await) {
                (Outcome::Stopped, Ok(edited)) => edited,
                (Outcome::Fenced, _) => return Ok(Exit::TakenOver),
                (Outcome::Stopped, Err(_)) => return Err(Failure::fatal("the change ended without an answer")),
            }
        }
    };
    if let Some(reason) = edited.refused {
        return Err(Failure::findings(reason));
    }
    if global.output == Some(Output::Json) {
        print(&serde_json::to_string(&edited).map_err(Failure::fatal)?);
        return Ok(Exit::Well);
    }
    let what = if add { "added to" } else { "taken out of" };
    say(&format!(
        "{} {what} {name}; {} people are known by them: {} segments entered, {} exited",
        edited.changed, edited.people, edited.entered, edited.exited
    ));
    Ok(Exit::Well)
}

/// A value as it was typed, normalised; `type:value` where the type is the list's.
fn value(pipeline: &Pipeline, list: &ListPlan, identifier_type: &str, text: &str) -> Result<String, Failure> {
    let raw = match text.split_once(':') {
        Some((name, value)) if name == identifier_type => value,
        Some((name, _)) if pipeline.identity.kind(name).is_some() => {
            return Err(Failure::findings(format!("`{text}`: this list is of {identifier_type}, not of {name}")));
        }
        _ => text,
    };
    match pipeline.identity.identifier(list.kind, raw) {
        Ok(value) => Ok(value.into_owned()),
        Err(Unusable::Invalid) => Err(Failure::findings(format!("`{raw}` is no {identifier_type}"))),
        Err(Unusable::Blocked) => Err(Failure::findings(format!("`{raw}` stands for nobody"))),
    }
}

async fn list(global: &Global, config: &NodeConfig, pipeline: &Pipeline, name: &str) -> Result<Exit, Failure> {
    let list = find(pipeline, name)?;
    let identifier_type = &pipeline.identity.types[usize::from(list.kind)].name;
    let mut values: BTreeMap<&str, &str> = list.identifiers.values().map(|value| (value.as_ref(), "file")).collect();
    let edits = match reader(config).await {
        Ok(reader) => ListEdit::load(&reader, name, identifier_type).await.map_err(Failure::environment)?,
        Err(_) => Vec::new(),
    };
    for (_, edit) in &edits {
        match edit.added {
            true => values.insert(&edit.value, "command"),
            false => values.remove(edit.value.as_str()),
        };
    }
    let rows: Vec<[String; 2]> = values.iter().map(|(value, from)| [value.to_string(), from.to_string()]).collect();
    print(&render(&[identifier_type, "from"], &rows, Output::or_default(global.output)));
    Ok(Exit::Well)
}

async fn reader(config: &NodeConfig) -> Result<SlateReader, Failure> {
    let location = Location::parse(&config.data).map_err(Failure::environment)?;
    SlateReader::open(&location).await.map_err(|error| {
        Failure::environment(format!("there is no state at {} yet, or it cannot be read: {error}", config.data))
    })
}
