//! What definitions would do to a state, tried out on it without touching it: the fill itself, over a store whose changes
//! stay in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;

use super::core::{Chunk, Core, Staged};
use super::history::{History, HistoryReader};
use super::{Command, EngineError, Preparer, accept};
use crate::definition::Pipeline;
use crate::profile::name_in;
use crate::sink::CommitRange;
use crate::state::Store;
use crate::state::overlay::OverlayStore;
use crate::transform::Restore;

/// What a fill would come to, as of the last commit of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// Events that would be read back.
    pub events: u64,
    /// Profiles that would be judged anew.
    pub profiles: u64,
    /// By segment: who would enter and who would leave.
    pub changes: BTreeMap<String, (u64, u64)>,
    /// By segment: members afterwards.
    pub sizes: BTreeMap<String, i64>,
}

/// Memory for profiles while it is tried out; what has changed is held besides.
const CACHE_BYTES: usize = 256 << 20;

/// Fills `pipeline` on top of `state`, which stays as it is.
///
/// # Errors
/// The store's, the history's, or definitions that the state cannot take.
pub async fn preview(
    state: Arc<dyn Store>,
    pipeline: &Pipeline,
    history: &dyn History,
) -> Result<Preview, EngineError> {
    let store: Arc<dyn Store> = Arc::new(OverlayStore::new(state));
    accept(&*store, pipeline).await?;
    let schema = Preparer::new(pipeline, None)?.schema();
    let mut core = Core::load(store.clone(), pipeline, &schema, CACHE_BYTES, false).await?;
    let mut preview = Preview { profiles: core.record.totals.profiles, ..Preview::default() };
    let now = core.record.now;
    if let Some(fill) = core.fill.clone().filter(|fill| fill.swept.is_none()) {
        let filter = fill.filter(core.slots(), pipeline, now);
        let range = CommitRange { after: 0, upto: fill.upto };
        let restore = Restore::new(&pipeline.transform.fields);
        let mut reader = HistoryReader::new(history, restore, filter, range);
        // A fill that was begun goes on where it is.
        while let Some(stored) = reader.next().await? {
            let start = stored.places.partition_point(|place| fill.cursor.is_some_and(|cursor| *place <= cursor));
            let part = stored.slice(start, stored.len() - start);
            let Some(cursor) = part.places.last().copied() else { continue };
            preview.events += part.len() as u64;
            let done = tokio::sync::oneshot::channel().0;
            let command = Command::Fill { chunk: Box::new(Chunk { stored: part, cursor }), done };
            let staged = core.apply(None, &[command], now).await?;
            commit(&*store, &mut core, staged, &mut preview).await?;
        }
        let staged = core.apply(None, &[Command::HistoryRead], now).await?;
        commit(&*store, &mut core, staged, &mut preview).await?;
    }
    while let Some(staged) = core.sweep(now).await? {
        commit(&*store, &mut core, staged, &mut preview).await?;
    }
    preview.sizes = core.record.segment_sizes.clone().into_iter().collect();
    Ok(preview)
}

async fn commit(
    store: &dyn Store,
    core: &mut Core,
    mut staged: Staged,
    preview: &mut Preview,
) -> Result<(), EngineError> {
    let of = |name: &str| ["segment_changes", "group_segment_changes"].contains(&name);
    for (_, rows) in staged.rows.iter().filter(|(table, _)| of(&table.name)) {
        let text = |name: &str| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let (Some(segments), Some(changes)) = (text("segment"), text("change")) else { continue };
        let groups = text("group_type");
        for (row, (segment, change)) in segments.iter().flatten().zip(changes.iter().flatten()).enumerate() {
            let name = groups.map_or(segment.to_string(), |groups| name_in(groups.value(row), segment));
            let counts = preview.changes.entry(name).or_default();
            if change == "entered" { counts.0 += 1 } else { counts.1 += 1 }
        }
    }
    store.commit(std::mem::take(&mut staged.writes)).await?;
    core.durable(staged.commit);
    Ok(())
}
