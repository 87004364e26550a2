//! The engine: one loop from batches to commits.
//!
//! ```text
//! sources ─▶ prepare (decode, transform; its own thread) ─▶ loop: core.apply ─▶ commit ─▶ after it is durable:
//!                                                             ▲                           sinks and destinations
//!                                        commands ────────────┘◀── acknowledgements, attempts, control ──┘
//! ```
//!
//! Invariants: a batch is one commit that holds its state, positions, message ids, rejects and all output; nothing
//! leaves before that commit is durable; while commit k becomes durable, k+1 may be applied on top, and if k fails
//! the process ends with everything after it; only this module knows the wall clock.

mod bodies;
pub mod broken;
pub mod control;
mod core;
pub mod dedupe;
mod digest;
mod gate;
pub mod history;
mod outbox;
mod prepare;
mod preview;
mod record;
mod rows;
mod run;
pub mod session_rows;
mod shadow;
mod ship;
mod status;

pub use core::{
    Begun, Chunk, Core, EmittedRecord, FillRecord, Known, ListEdit, Look, Readiness, Reading, RebuildRecord, Staged,
    accept, compare, describe_profile, emitted, emitted_batch, known_plans, look, plans_under_way,
};
pub use digest::digest;
pub use gate::said;
pub use outbox::decode as sealed_rows;
pub use prepare::{Prepared, Preparer};
pub use preview::{Preview, preview};
pub use record::{EngineRecord, StoredReject, Totals, load_component, state_id};
pub use run::{BACKGROUND_ROWS, DecodeOn, Options, Outcome, StartSource, Wiring, run};
pub use shadow::Shadow;
pub use status::{DestinationStatus, SharedStatus, SinkStatus, SourceStatus, Status};

use crate::activation::ActivationError;
use crate::event::ProfileId;
use crate::identity::Correction;
use crate::profile::TraitError;
use crate::segment::SegmentError;
use crate::sink::{Attempt, CommitRange, Queued};
use crate::state::StoreError;

/// Why the engine stops other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Trait(#[from] TraitError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// A source cannot go on and a human must decide.
    #[error("source {source_name}: {message}")]
    Source { source_name: String, message: String },
    /// What cannot be started for now: a file or server that is needed at once.
    #[error("{0}")]
    Start(String),
    /// The definitions do not fit what is there (the state's identity rules, the shape of a table): a human must decide.
    #[error("{0}")]
    Contradiction(String),
    /// A fault of ours: stop loudly, never continue on unknown state.
    #[error("internal error: {0}")]
    Internal(String),
}

/// What enters the loop besides the batches of the sources.
#[derive(Debug)]
pub enum Input {
    Command(Command),
    Stop(Stop),
    /// A task of the engine's own has met what must not be.
    Failed(EngineError),
}

/// A change of state that does not come from a source.
#[derive(Debug)]
pub enum Command {
    /// Record a range before it is first sent; answered once the record is durable.
    Seal { range: CommitRange, done: tokio::sync::oneshot::Sender<()> },
    /// The table sink has everything up to here; answered once that is recorded durably.
    Acknowledged { upto: u64, done: tokio::sync::oneshot::Sender<()> },
    /// Partitions of a source that have no position yet begin here.
    Assigned { source: std::sync::Arc<str>, positions: crate::source::Positions },
    /// Requests are about to leave that must not be repeated by themselves; answered once that is durable.
    Begun { queued: Vec<Queued>, done: tokio::sync::oneshot::Sender<()> },
    /// A delivery was tried.
    Attempted(Attempt),
    /// Send deliveries that were given up once more, or forget them; answered once that is durable.
    EditDeliveries { request: DeliveriesRequest, answer: tokio::sync::oneshot::Sender<DeliveriesEdited> },
    /// Read all rejected input again; answered when it has been applied durably.
    Replay { answer: tokio::sync::oneshot::Sender<Replayed> },
    /// Put identity right; answered when the rebuild it asks for is durable.
    Correct { request: CorrectionRequest, answer: tokio::sync::oneshot::Sender<Corrected> },
    /// Change a list; answered once it is durable.
    EditList { request: ListRequest, answer: tokio::sync::oneshot::Sender<ListEdited> },
    /// Events of the past for the traits that are filled; answered once they are added durably.
    Fill { chunk: Box<Chunk>, done: tokio::sync::oneshot::Sender<()> },
    /// All events that the fill needs have been given.
    HistoryRead,
    /// The history of the person being rebuilt was read.
    Rebuilt { reading: Reading, shadow: Box<Shadow> },
}

/// A correction as it is asked for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct CorrectionRequest {
    pub correction: Correction,
    /// The names of the identifier types that the correction's numbers stand for.
    pub identifier_types: Vec<String>,
    /// For a struck event: the profile that it is stored with.
    pub struck_profile: Option<ProfileId>,
    /// Whether entries and exits that the correction finds set off activations.
    pub activate: bool,
}

/// What a correction came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Corrected {
    /// Why nothing was changed.
    pub refused: Option<String>,
    /// It may be asked for again later: another correction is being carried out.
    pub busy: bool,
    /// The profile that was taken apart; empty: there was nothing to rebuild.
    pub was: String,
    /// Those it has become, the largest first.
    pub profiles: Vec<String>,
    /// Stored events that belong to another profile now.
    pub events_moved: u64,
    /// Segments entered and exited.
    pub entered: u64,
    pub exited: u64,
}

/// A change of a list as it is asked for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ListRequest {
    pub segment: String,
    pub identifier_type: String,
    /// Normalised.
    pub values: Vec<String>,
    /// False: they are taken out.
    pub add: bool,
}

/// What a change of a list came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ListEdited {
    /// Why nothing was changed.
    pub refused: Option<String>,
    /// Values that were not, or no longer, in the list before.
    pub changed: u64,
    /// People who have one of the values.
    pub people: u64,
    /// Segments entered and exited, those that build on the list among them.
    pub entered: u64,
    pub exited: u64,
}

/// What is to become of deliveries that were given up.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct DeliveriesRequest {
    /// True: they are put into the queue again, with the same ids and bodies. False: they are forgotten.
    pub retry: bool,
    /// Ids of deliveries; None for all.
    pub ids: Option<Vec<String>>,
    pub destination: Option<String>,
}

/// What an edit of deliveries came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeliveriesEdited {
    pub changed: u64,
    /// Left as they are: their destinations are not defined any more.
    pub without_destination: u64,
    /// There were more than one commit takes: ask again.
    pub more: bool,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Replayed {
    pub tried: u64,
    /// Rejected once more.
    pub still_rejected: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Finish what is in hand and end well.
    Asked,
    /// Another instance took over: write nothing more.
    Fenced,
}
