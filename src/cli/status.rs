//! `status`: from the running process, or from the state when none is running.

use std::collections::BTreeMap;
use std::time::Duration;

use super::output::{Output, print, render};
use super::{Exit, Failure, Global, NodeConfig, say};
use crate::clock;
use crate::engine::control::ControlFile;
use crate::engine::{EngineRecord, FillRecord, RebuildRecord, Status, known_plans};
use crate::sink::delivery::BreakerState;
use crate::state::Store;
use crate::state::codec;
use crate::state::keys::{self, Tag};
use crate::state::location::Location;
use crate::state::slate::SlateReader;

/// The way to a running process.
pub struct Running {
    file: ControlFile,
    client: reqwest::Client,
}

/// The process that runs on this data folder, when one answers.
pub async fn running(config: &NodeConfig) -> Option<Running> {
    let location = Location::parse(&config.data).ok()?;
    let file = ControlFile::read(location.folder()?)?;
    let client = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(2)).build().ok()?;
    let running = Running { file, client };
    running.get("/control/status").await.ok()?;
    Some(running)
}

impl Running {
    pub async fn get(&self, path: &str) -> Result<String, Failure> {
        self.ask(self.client.get(format!("http://{}{path}", self.file.address))).await
    }

    pub async fn post(&self, path: &str) -> Result<String, Failure> {
        self.ask(self.client.post(format!("http://{}{path}", self.file.address))).await
    }

    pub async fn post_json(&self, path: &str, body: &impl serde::Serialize) -> Result<String, Failure> {
        self.ask(self.client.post(format!("http://{}{path}", self.file.address)).json(body)).await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<String, Failure> {
        let failed =
            |error: reqwest::Error| Failure::environment(format!("the running process does not answer: {error}"));
        let response = request.bearer_auth(&self.file.token).send().await.map_err(failed)?;
        response.error_for_status().map_err(failed)?.text().await.map_err(failed)
    }
}

pub async fn status(global: &Global, config: &NodeConfig) -> Result<Exit, Failure> {
    let (status, running) = match running(config).await {
        Some(running) => {
            let text = running.get("/control/status").await?;
            (serde_json::from_str::<Status>(&text).map_err(Failure::fatal)?, true)
        }
        None => (stored(config).await?, false),
    };
    say(if running { "running" } else { "not running; as of the last commit:" });
    if Output::or_default(global.output) == Output::Json {
        print(&serde_json::to_string(&status).map_err(Failure::fatal)?);
        return Ok(Exit::Well);
    }
    print(&render(&["what", "name", "value", "remark"], &rows(&status), Output::or_default(global.output)));
    Ok(Exit::Well)
}

async fn stored(config: &NodeConfig) -> Result<Status, Failure> {
    let location = Location::parse(&config.data).map_err(Failure::environment)?;
    let reader = SlateReader::open(&location).await.map_err(|error| {
        Failure::environment(format!("there is no state at {} yet, or it cannot be read: {error}", config.data))
    })?;
    let key = keys::name(Tag::Engine, EngineRecord::KEY);
    let record: EngineRecord = match reader.get(&key).await.map_err(Failure::environment)? {
        Some(value) => codec::decode(EngineRecord::VERSION, "engine record", &value).map_err(Failure::fatal)?,
        None => EngineRecord::default(),
    };
    let rebuild = reader.get(&keys::name(Tag::Engine, RebuildRecord::KEY)).await.map_err(Failure::environment)?;
    let fill = reader.get(&keys::name(Tag::Engine, FillRecord::KEY)).await.map_err(Failure::environment)?;
    let fill: Option<FillRecord> =
        fill.map(|value| codec::decode(FillRecord::VERSION, "fill", &value)).transpose().map_err(Failure::fatal)?;
    let mut journeys = BTreeMap::new();
    for plan in known_plans(&reader).await.map_err(Failure::fatal)? {
        if let Some(running) = record.running.get(&plan.number) {
            *journeys.entry(plan.name).or_default() += running;
        }
    }
    Ok(Status {
        fill: fill.map(|fill| fill.progress(record.next_profile)),
        rebuild: rebuild
            .map(|_| "a correction of identity is half done; the next run carries it to its end".to_string()),
        commit: record.commit,
        totals: record.totals,
        segments: record.segment_sizes.into_iter().collect(),
        journeys,
        ..Status::default()
    })
}

fn rows(status: &Status) -> Vec<[String; 4]> {
    let row = |what: &str, name: &str, value: String, remark: Option<&str>| {
        [what.to_string(), name.to_string(), value, remark.unwrap_or("").to_string()]
    };
    let totals = &status.totals;
    let mut rows = vec![row("commit", "", status.commit.to_string(), None)];
    let counts = [
        ("records", totals.records),
        ("events", totals.events),
        ("duplicates", totals.duplicates),
        ("rejected", totals.rejected),
        ("filtered", totals.filtered),
        ("without profile", totals.anonymous),
        ("profiles", totals.profiles),
        ("identifiers", totals.identifiers),
        ("merges", totals.merges),
        ("deliveries", totals.deliveries),
    ];
    rows.extend(counts.map(|(name, value)| row("total", name, value.to_string(), None)));
    for (name, size) in &status.segments {
        rows.push(row("segment", name, size.to_string(), Some("members")));
    }
    for (name, running) in &status.journeys {
        rows.push(row("journey", name, running.to_string(), Some("under way")));
    }
    for (name, source) in &status.sources {
        let lag = source.lag.map_or("?".to_string(), |lag| lag.to_string());
        let state = if source.caught_up { "at the end" } else { "behind" };
        rows.push(row("source lag", name, lag, Some(source.problem.as_deref().unwrap_or(state))));
    }
    if !status.sink.name.is_empty() {
        let waiting = status.sink.waiting.to_string();
        rows.push(row("commits to ship", &status.sink.name, waiting, status.sink.problem.as_deref()));
    }
    if let Some(rebuild) = &status.rebuild {
        rows.push(row("rebuild", "", "open".to_string(), Some(rebuild)));
    }
    if let Some(fill) = &status.fill {
        rows.push(row("fill", "", "open".to_string(), Some(fill)));
    }
    for (name, destination) in &status.destinations {
        rows.push(row("to deliver", name, destination.queued.to_string(), destination.problem.as_deref()));
        if let Some(oldest) = destination.oldest {
            let age = Duration::from_secs(clock::now_us().saturating_sub(oldest).max(0) as u64 / 1_000_000);
            let age = humantime::format_duration(age).to_string();
            rows.push(row("oldest delivery", name, age, Some("since it was set off")));
        }
        if destination.breaker != BreakerState::Closed {
            let remark = "the destination did not answer: it is asked now and then, and nothing is sent meanwhile";
            rows.push(row("breaker", name, destination.breaker.name().to_string(), Some(remark)));
        }
    }
    rows
}
