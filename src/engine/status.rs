//! What the engine says of itself: for `status`, the progress line, `/healthz` and the gauges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::record::{EngineRecord, Totals};
use crate::event::TimeUs;
use crate::sink::delivery::BreakerState;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    pub pipeline: String,
    /// True once the state is loaded and the sources are being read.
    pub ready: bool,
    pub commit: u64,
    pub totals: Totals,
    /// Members by segment.
    pub segments: BTreeMap<String, i64>,
    /// Who is under way, by activation.
    #[serde(default)]
    pub journeys: BTreeMap<String, u64>,
    pub sources: BTreeMap<String, SourceStatus>,
    pub sink: SinkStatus,
    pub destinations: BTreeMap<String, DestinationStatus>,
    /// How far a rebuild is, while there is one.
    pub rebuild: Option<String>,
    /// How far new definitions have come to know the past, while some do not.
    pub fill: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Records between the position and the end; None while unknown.
    pub lag: Option<i64>,
    pub caught_up: bool,
    /// What keeps it from going on, if anything does.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SinkStatus {
    pub name: String,
    pub acknowledged: u64,
    /// Commits whose rows are not on the other side yet.
    pub waiting: u64,
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DestinationStatus {
    pub queued: i64,
    pub problem: Option<String>,
    #[serde(default)]
    pub breaker: BreakerState,
    /// When the first delivery that waits was set off, UTC microseconds; None where none waits.
    #[serde(default)]
    pub oldest: Option<TimeUs>,
}

/// A status that the engine writes and others read.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus(Arc<Mutex<Status>>);

impl SharedStatus {
    pub fn read(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes over the engine's record after a commit is durable; `journeys`: who is under way, by activation.
    pub fn committed(&self, record: &EngineRecord, journeys: BTreeMap<String, u64>, waiting: usize) {
        for (name, running) in &journeys {
            metrics::gauge!("tributary_journeys_running", "activation" => name.clone()).set(*running as f64);
        }
        self.change(|status| {
            status.commit = record.commit;
            status.totals = record.totals;
            status.segments = record.segment_sizes.clone().into_iter().collect();
            status.journeys = journeys;
            status.sink.waiting = waiting as u64;
        });
        metrics::gauge!("tributary_profiles").set(record.totals.profiles as f64);
        metrics::gauge!("tributary_identifiers").set(record.totals.identifiers as f64);
        metrics::gauge!("tributary_sink_waiting_commits").set(waiting as f64);
        for (name, size) in &record.segment_sizes {
            metrics::gauge!("tributary_segment_members", "segment" => name.clone()).set(*size as f64);
        }
    }
}
