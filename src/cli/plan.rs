//! `plan` and `apply`: what other definitions would change, for how many people, before anything is touched.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::output::{Output, print};
use super::run::{self, Session, engine_failure};
use super::{Exit, Failure, Global, NodeConfig, say, status};
use crate::definition::Mode;
use crate::engine::{self, Known, Preview};
use crate::query::TableHistory;
use crate::state::Store;
use crate::state::location::Location;
use crate::state::slate::SlateReader;

#[derive(Debug, Clone, Default, Args)]
pub struct PlanOptions {
    /// Only what changed: do not read the history to count who would enter and leave
    #[arg(long)]
    pub quick: bool,
}

/// `tributary plan`.
pub async fn plan(global: &Global, config: &NodeConfig, options: &PlanOptions) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    let Some(reader) = open(config).await? else {
        say(&format!("there is no state at {} yet: a run makes it with these definitions", config.data));
        return Ok(Exit::Well);
    };
    let known = engine::compare(&*reader, &pipeline).await.map_err(engine_failure)?;
    let changes = Changes::of(&known);
    let preview = match options.quick || !changes.any() {
        true => None,
        false => {
            let history = TableHistory { target: run::tables_of(&pipeline, config) };
            Some(engine::preview(reader, &pipeline, &history).await.map_err(engine_failure)?)
        }
    };
    if Output::or_default(global.output) == Output::Json {
        print(&changes.as_json(preview.as_ref()).to_string());
    } else {
        print(&changes.as_text(preview.as_ref()));
    }
    Ok(Exit::Well)
}

/// `tributary apply`: takes the definitions over, removals among them.
pub async fn apply(global: &Global, config: &NodeConfig) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    if status::running(config).await.is_some() {
        return Err(Failure::findings(
            "a process is running on this state with its definitions: stop it, apply, and start it again",
        ));
    }
    // A mistyped place must not become a new state.
    let Some(reader) = open(config).await? else {
        return Err(Failure::environment(format!(
            "there is no state at {} yet: `tributary run` makes it",
            config.data
        )));
    };
    let known = engine::compare(&*reader, &pipeline).await.map_err(engine_failure)?;
    drop(reader);
    let changes = Changes::of(&known);
    if !changes.any() {
        say("the state has these definitions already");
        return Ok(Exit::Well);
    }
    let session = Session::open(config, false).await?;
    session.accept(&pipeline).await?;
    print(&changes.as_text(None));
    say(
        "accepted; the next `tributary run` fills what is new while it goes on, and `tributary status` shows how far it is",
    );
    Ok(Exit::Well)
}

async fn open(config: &NodeConfig) -> Result<Option<Arc<dyn Store>>, Failure> {
    let location = Location::parse(&config.data).map_err(Failure::environment)?;
    // There is no state where there is nothing to read.
    Ok(SlateReader::open(&location).await.ok().map(|reader| Arc::new(reader) as Arc<dyn Store>))
}

/// What differs, by name.
struct Changes {
    /// Mark (`+` new, `~` changed, `-` removed), kind, name, remark.
    lines: Vec<(char, &'static str, String, String)>,
    identity: bool,
    unfinished: bool,
}

impl Changes {
    fn of(known: &Known) -> Changes {
        let mut lines = Vec::new();
        let differences = &known.differences;
        let mark = |new: bool| if new { '+' } else { '~' };
        for group in &differences.groups {
            let what = if group.new { "" } else { "its groups are found anew" };
            lines.push((mark(group.new), "group", group.name.clone(), what.to_string()));
        }
        let is_there = |name: &str| differences.groups.iter().any(|group| group.name == name);
        for group in differences.removed_groups.iter().filter(|group| !is_there(&group.name)) {
            lines.push(('-', "group", group.name.clone(), "its table stays".to_string()));
        }
        for of in &differences.traits {
            lines.push((mark(of.new), "trait", of.name.clone(), String::new()));
        }
        for slot in &differences.removed_traits {
            lines.push(('-', "trait", slot.name.clone(), "its column stays in the tables".to_string()));
        }
        for of in &differences.segments {
            lines.push((mark(of.new), "segment", of.name.clone(), String::new()));
        }
        for slot in &differences.removed_segments {
            let members = known.engine.segment_sizes.get(&slot.name).copied().unwrap_or_default();
            lines.push(('-', "segment", slot.name.clone(), format!("its {members} members leave")));
        }
        for audience in &known.removed_audiences {
            let remark = format!("whoever was sent to {} is removed there", audience.to);
            lines.push(('-', "audience", audience.name.clone(), remark));
        }
        Changes { lines, identity: known.identity_rules_differ, unfinished: known.unfinished.is_some() }
    }

    fn any(&self) -> bool {
        !self.lines.is_empty() || self.unfinished
    }

    fn as_text(&self, preview: Option<&Preview>) -> String {
        let mut text = String::new();
        if self.lines.is_empty() && !self.identity {
            text.push_str("nothing differs from what the state knows\n");
        }
        for (mark, kind, name, remark) in &self.lines {
            let remark = if remark.is_empty() { String::new() } else { format!("  ({remark})") };
            let counts = match preview.filter(|_| *kind == "segment") {
                Some(preview) => {
                    let (entered, left) = preview.changes.get(name).copied().unwrap_or_default();
                    let size = preview.sizes.get(name).copied().unwrap_or(0);
                    format!("  {entered} would enter, {left} would leave, {size} members then")
                }
                None => String::new(),
            };
            text.push_str(&format!("{mark} {kind} {name}{counts}{remark}\n"));
        }
        if self.identity {
            text.push_str(
                "~ limits or blocks of identity: they hold from the next run on, what was joined stays joined\n",
            );
        }
        if self.unfinished {
            text.push_str("a fill is under way and is begun anew with what has changed\n");
        }
        if let Some(preview) = preview {
            let (events, profiles) = (preview.events, preview.profiles);
            text.push_str(&format!("{events} stored events are read back, {profiles} profiles are judged anew\n"));
        }
        text.trim_end().to_string()
    }

    fn as_json(&self, preview: Option<&Preview>) -> serde_json::Value {
        let changes: Vec<_> = self
            .lines
            .iter()
            .map(|(mark, kind, name, _)| {
                let change = match mark {
                    '+' => "new",
                    '~' => "changed",
                    _ => "removed",
                };
                let counts = preview.and_then(|preview| preview.changes.get(name)).filter(|_| *kind == "segment");
                let (entered, left) = (counts.map(|counts| counts.0), counts.map(|counts| counts.1));
                json!({ "change": change, "kind": kind, "name": name, "would_enter": entered, "would_leave": left })
            })
            .collect();
        json!({
            "changes": changes,
            "identity_rules": self.identity,
            "unfinished_fill": self.unfinished,
            "events_to_read": preview.map(|preview| preview.events),
            "profiles_to_judge": preview.map(|preview| preview.profiles),
        })
    }
}
