//! Reading stored events back, in the order in which they were applied: what rebuilds, fills and dry runs read.
//!
//! [`History`] is the side that stores them (the lake, ClickHouse); [`HistoryReader`] walks a stretch of commits in
//! windows that it keeps at a good size, so that memory is bounded however long the history is, and its cursor is
//! one commit number. What comes out are event batches as the stages saw them.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, UInt32Type, UInt64Type};
use async_trait::async_trait;
use hashbrown::{HashMap, HashSet};

use super::EngineError;
use crate::event::{EventBatch, ProfileId, TimeUs};
use crate::session::SessionId;
use crate::sink::CommitRange;
use crate::transform::Restore;

/// Rows that a window should have.
const WINDOW_ROWS: usize = 50_000;
const WINDOW_COMMITS_MAX: u64 = 1 << 20;

/// Which events to read.
#[derive(Debug, Clone, Default)]
pub struct HistoryFilter {
    /// Only those of these profiles, by any id they were ever shown under. None: all.
    pub profiles: Option<Vec<ProfileId>>,
    /// Only those that happened at this time or later.
    pub since: Option<TimeUs>,
    /// Only those of these names. None: all.
    pub events: Option<Vec<String>>,
}

/// Why history cannot be read; worth a retry unless it is the statement.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the stored events cannot be read: {0}")]
pub struct HistoryError(pub String);

/// The side that stores the tables.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// Rows of `events` of these commits, by (`_batch`, `_seq`), in any number of batches. With `filter.profiles`, those
    /// stored under the ids or moved to them.
    async fn events(&self, range: CommitRange, filter: &HistoryFilter) -> Result<Vec<RecordBatch>, HistoryError>;

    /// Rows of `event_moves` about events of these commits, oldest first.
    async fn moves(&self, range: CommitRange) -> Result<Vec<RecordBatch>, HistoryError>;
}

/// Events as they were applied, with what the table says beside them. All columns have the same length.
#[derive(Debug, Clone)]
pub struct Stored {
    pub events: EventBatch,
    /// The profile that each belongs to, before merges are followed: as stored, or as moved since.
    pub profiles: Vec<Option<ProfileId>>,
    /// The session of each, likewise.
    pub sessions: Vec<Option<SessionId>>,
    /// What identity decided, see `identity_decision`.
    pub decisions: StringArray,
    /// `_batch` and `_seq`.
    pub places: Vec<(u64, u32)>,
}

/// The profile and the session that an event was moved to.
type Moves = HashMap<(u64, u32), (Option<ProfileId>, Option<SessionId>)>;

impl Stored {
    /// From rows of the `events` table.
    ///
    /// # Errors
    /// The table has another shape.
    pub fn of(rows: &RecordBatch, restore: &Restore, moves: &Moves) -> Result<Stored, EngineError> {
        let failed = |error: arrow::error::ArrowError| EngineError::Internal(format!("stored events: {error}"));
        let column = |name: &str, wanted: DataType| -> Result<ArrayRef, EngineError> {
            let found = rows.column_by_name(name);
            let found = found.ok_or_else(|| EngineError::Internal(format!("stored events have no {name}")))?;
            cast(found, &wanted).map_err(failed)
        };
        let batches = column("_batch", DataType::UInt64)?;
        let numbers = column("_seq", DataType::UInt32)?;
        let ids = column("profile_id", DataType::Utf8)?;
        let decisions = column("identity_decision", DataType::Utf8)?;
        let places: Vec<(u64, u32)> = places(&batches, &numbers);
        let sessions = column("session_id", DataType::Utf8)?;
        let (ids, sessions) = (ids.as_string::<i32>(), sessions.as_string::<i32>());
        let (profiles, sessions) = places
            .iter()
            .enumerate()
            .map(|(row, place)| moves.get(place).copied().unwrap_or((id_at(ids, row), session_at(sessions, row))))
            .unzip();
        let events = restore.events(rows).map_err(failed)?;
        Ok(Stored { events, profiles, sessions, decisions: decisions.as_string::<i32>().clone(), places })
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Some of them, in their order.
    pub fn slice(&self, start: usize, length: usize) -> Stored {
        Stored {
            events: EventBatch { batch: self.events.batch.slice(start, length) },
            profiles: self.profiles[start..start + length].to_vec(),
            sessions: self.sessions[start..start + length].to_vec(),
            decisions: self.decisions.slice(start, length),
            places: self.places[start..start + length].to_vec(),
        }
    }
}

fn places(batches: &ArrayRef, numbers: &ArrayRef) -> Vec<(u64, u32)> {
    let (batches, numbers): (&UInt64Array, &UInt32Array) =
        (batches.as_primitive::<UInt64Type>(), numbers.as_primitive::<UInt32Type>());
    batches.values().iter().copied().zip(numbers.values().iter().copied()).collect()
}

fn id_at(ids: &StringArray, row: usize) -> Option<ProfileId> {
    if ids.is_null(row) { None } else { ids.value(row).parse().ok() }
}

fn session_at(ids: &StringArray, row: usize) -> Option<SessionId> {
    // Written as ids of profiles are.
    id_at(ids, row).map(|id| SessionId(id.0))
}

/// Walks the events of the commits `(cursor, upto]`.
pub struct HistoryReader<'h> {
    history: &'h dyn History,
    restore: Restore,
    filter: HistoryFilter,
    /// Ids of the filter.
    wanted: Option<HashSet<ProfileId>>,
    /// Everything up to this commit was read.
    pub cursor: u64,
    pub upto: u64,
    window: u64,
}

impl<'h> HistoryReader<'h> {
    pub fn new(history: &'h dyn History, restore: Restore, filter: HistoryFilter, range: CommitRange) -> Self {
        let wanted = filter.profiles.as_ref().map(|ids| ids.iter().copied().collect());
        // One person's events are few: look for them in long stretches from the start.
        let window = if wanted.is_some() { 1 << 16 } else { 64 };
        HistoryReader { history, restore, filter, wanted, cursor: range.after, upto: range.upto, window }
    }

    /// The next events, possibly none; None when all was read. An error leaves the cursor: call again.
    pub async fn next(&mut self) -> Result<Option<Stored>, EngineError> {
        if self.cursor >= self.upto {
            return Ok(None);
        }
        let range = CommitRange { after: self.cursor, upto: self.cursor.saturating_add(self.window).min(self.upto) };
        let moves = self.read_moves(range).await?;
        let found = self.history.events(range, &self.filter).await?;
        let rows = match &found[..] {
            [only] => only.clone(),
            [first, ..] => arrow::compute::concat_batches(&first.schema(), &found)
                .map_err(|error| EngineError::Internal(format!("stored events: {error}")))?,
            [] => return Err(EngineError::Internal("stored events came without columns".to_string())),
        };
        let mut stored = Stored::of(&rows, &self.restore, &moves)?;
        if let Some(wanted) = &self.wanted {
            // Stored under one of the ids, but moved away since.
            let keep: Vec<bool> = stored.profiles.iter().map(|id| id.is_some_and(|id| wanted.contains(&id))).collect();
            if keep.contains(&false) {
                let rows = filter_record_batch(&rows, &keep.into())
                    .map_err(|error| EngineError::Internal(format!("stored events: {error}")))?;
                stored = Stored::of(&rows, &self.restore, &moves)?;
            }
        }
        if stored.len() > 2 * WINDOW_ROWS {
            self.window = (self.window / 2).max(1);
        } else if stored.len() < WINDOW_ROWS / 2 {
            self.window = (self.window * 2).min(WINDOW_COMMITS_MAX);
        }
        self.cursor = range.upto;
        Ok(Some(stored))
    }

    /// All that is left, in one piece: for the events of a few people.
    pub async fn next_all(&mut self) -> Result<Stored, EngineError> {
        self.window = u64::MAX / 2;
        match self.next().await? {
            Some(stored) => Ok(stored),
            None => Err(EngineError::Internal("the history is at its end".to_string())),
        }
    }

    async fn read_moves(&self, range: CommitRange) -> Result<Moves, EngineError> {
        let mut moves = Moves::new();
        for rows in self.history.moves(range).await? {
            let column = |name: &str, wanted: DataType| -> Result<ArrayRef, EngineError> {
                let found = rows.column_by_name(name).cloned();
                let found = found.ok_or_else(|| EngineError::Internal(format!("event_moves has no {name}")))?;
                cast(&found, &wanted).map_err(|error| EngineError::Internal(format!("event_moves: {error}")))
            };
            let places = places(&column("event_batch", DataType::UInt64)?, &column("event_seq", DataType::UInt32)?);
            let (ids, sessions) = (column("profile_id", DataType::Utf8)?, column("session_id", DataType::Utf8)?);
            let (ids, sessions) = (ids.as_string::<i32>(), sessions.as_string::<i32>());
            let to = |row| (id_at(ids, row), session_at(sessions, row));
            // Oldest first: the latest counts.
            moves.extend(places.into_iter().enumerate().map(|(row, place)| (place, to(row))));
        }
        Ok(moves)
    }
}

impl From<HistoryError> for EngineError {
    fn from(error: HistoryError) -> EngineError {
        EngineError::Start(error.to_string())
    }
}
