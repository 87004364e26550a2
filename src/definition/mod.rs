//! Definitions: YAML → checked pipeline, with positions for every error. The only module that knows YAML.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::activation::{ActivationPlan, DestinationPlan};
use crate::aggregate::AggregatePlan;
use crate::decode::DecodePlan;
use crate::identity::IdentityPlan;
use crate::profile::TraitPlan;
use crate::segment::SegmentPlan;
use crate::source::SourcePlan;
use crate::transform::TransformPlan;

/// A pipeline that has been checked whole: the stages run it as it is.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub name: String,
    /// The folder that relative paths start from.
    pub base: PathBuf,
    /// Sources and how their payloads are read; same order in both.
    pub sources: Vec<SourcePlan>,
    pub decode: Vec<DecodePlan>,
    pub transform: TransformPlan,
    pub dedupe: DedupePlan,
    pub identity: IdentityPlan,
    pub traits: Vec<TraitPlan>,
    pub segments: Vec<SegmentPlan>,
    pub destinations: Vec<DestinationPlan>,
    pub activations: Vec<ActivationPlan>,
    pub aggregates: Vec<AggregatePlan>,
    pub warehouse: Warehouse,
}

/// `dedupe:`: how long a message id is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupePlan {
    /// None: for ever.
    pub within: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Warehouse {
    Lake,
    ClickHouse { url: String, database: String, user: Option<String>, password: Option<String> },
}

impl std::fmt::Debug for Warehouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warehouse::Lake => write!(f, "Lake"),
            Warehouse::ClickHouse { url, database, .. } => write!(f, "ClickHouse({url}, {database})"),
        }
    }
}

/// One finding, with its place. Printed with the line itself and a marker below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How many characters are at fault (at least 1).
    pub length: usize,
    /// The line's text.
    pub text: String,
    pub message: String,
    pub help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// What the loader may look at besides the files: secrets are only needed to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Secrets may be missing, nothing is connected to.
    Check,
    /// Everything must be there.
    Run,
}

/// Loads and checks a pipeline file or folder.
///
/// # Errors
/// All findings at once, errors and warnings; the pipeline comes with the warnings when there is no error.
pub fn load(path: &Path, mode: Mode) -> Result<(Pipeline, Vec<Diagnostic>), Vec<Diagnostic>> {
    let _ = (path, mode);
    todo!()
}
