//! One line on a terminal while the pipeline runs: events per second, lag, profiles, segments, queues.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock;
use crate::engine::{SharedStatus, Status};

pub struct Drawing {
    task: Option<(tokio::task::JoinHandle<()>, ProgressBar)>,
}

impl Drawing {
    pub fn finish(self) {
        if let Some((task, bar)) = self.task {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

/// Draws until finished; nothing when stderr is not a terminal.
pub fn draw(status: SharedStatus) -> Drawing {
    if !std::io::stderr().is_terminal() {
        return Drawing { task: None };
    }
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.set_style(style);
    let drawn = bar.clone();
    let task = tokio::spawn(async move {
        let (mut before, mut since) = (status.read().totals.records, clock::instant());
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = status.read();
            let rate = now.totals.records.saturating_sub(before) as f64 / since.elapsed().as_secs_f64();
            (before, since) = (now.totals.records, clock::instant());
            drawn.set_message(line(&now, rate));
            drawn.tick();
        }
    });
    Drawing { task: Some((task, bar)) }
}

fn line(status: &Status, rate: f64) -> String {
    let lag: i64 = status.sources.values().filter_map(|source| source.lag).sum();
    let queued: i64 = status.destinations.values().map(|destination| destination.queued).sum();
    let mut line = format!(
        "{rate:.0} events/s · lag {lag} · {} events · {} profiles · {} members in {} segments · {} rejected · {} commits to ship · {queued} to deliver",
        status.totals.events,
        status.totals.profiles,
        status.segments.values().sum::<i64>(),
        status.segments.len(),
        status.totals.rejected,
        status.sink.waiting,
    );
    let source = status.sources.iter().find_map(|(name, s)| Some((name.as_str(), s.problem.as_ref()?)));
    let sink = status.sink.problem.as_ref().map(|problem| (status.sink.name.as_str(), problem));
    if let Some((name, problem)) = source.or(sink) {
        line.push_str(&format!(" · {name}: {problem}"));
    }
    line
}
