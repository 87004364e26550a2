//! Files: NDJSON, CSV, Avro object containers.
use std::sync::Arc;
use super::*;
pub(super) fn start(
    plan: &FilePlan,
    positions: Positions,
    limits: ReadLimits,
    events: mpsc::Sender<SourceEvent>,
    shared: Arc<Shared>,
) -> Result<(), SourceError> { Ok(()) }
