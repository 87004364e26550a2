//! What a commit says in tables: the columns of every output row.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow::datatypes::DataType;
use hashbrown::HashMap;

use super::EngineError;
use super::core::{StageChange, Told};
use crate::activation::{Delivery, Redaction, StepRow};
use crate::event::{EventBatch, ProfileId, ProfileNumber, Reject, TimeUs, column};
use crate::identity::{Cause, Conflict, Decision, Extracted, IdentifierRow, IdentityPlan, Merge};
use crate::profile::{BUILT_IN, GROUP_BUILT_IN, Profile, RfmBorders, SessionsOf, TraitPlan};
use crate::segment::{self, Transition};
use crate::session::SessionId;
use crate::sink::{Attempt, Table};

/// Adds `_batch` and `_seq` and makes the batch of a table.
pub(super) fn finish(table: &Table, mut columns: Vec<ArrayRef>, commit: u64) -> Result<RecordBatch, EngineError> {
    let rows = columns.first().map_or(0, |column| column.len());
    columns.push(Arc::new(UInt64Array::from_value(commit, rows)));
    columns.push(Arc::new(UInt32Array::from_iter_values(0..rows as u32)));
    RecordBatch::try_new(table.schema.clone(), columns)
        .map_err(|error| EngineError::Internal(format!("rows of table {}: {error}", table.name)))
}

pub(super) fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

pub(super) fn times(values: impl Iterator<Item = TimeUs>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// Hex ids, each written once into the column's buffer.
pub(super) fn ids(values: impl Iterator<Item = Option<ProfileId>>) -> ArrayRef {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut builder = StringBuilder::with_capacity(values.size_hint().0, values.size_hint().0 * 32);
    let mut text = [0u8; 32];
    for id in values {
        match id {
            Some(id) => {
                for (at, byte) in id.0.iter().enumerate() {
                    text[at * 2] = DIGITS[(byte >> 4) as usize];
                    text[at * 2 + 1] = DIGITS[(byte & 15) as usize];
                }
                builder.append_value(std::str::from_utf8(&text).unwrap_or_default());
            }
            None => builder.append_null(),
        }
    }
    Arc::new(builder.finish())
}

/// Ids in a column without nulls.
fn texts_of_ids(values: impl Iterator<Item = Option<ProfileId>>) -> ArrayRef {
    let texts = values.map(|id| id.map(|id| id.to_string()).unwrap_or_default());
    Arc::new(StringArray::from_iter_values(texts))
}

/// The accepted events. `id_of_row` is None for events of nobody, which are flagged, as are those that are `late` for any
/// session; `extracted` says which identifiers were dropped.
pub fn events(
    table: &Table,
    events: &EventBatch,
    id_of_row: &[Option<ProfileId>],
    extracted: &Extracted<'_>,
    decisions: &[(u32, Decision)],
    SessionsOf { ids: sessions, late }: &SessionsOf,
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    // Ids of sessions are written as those of profiles are.
    let sessions = sessions.iter().map(|id| id.map(|id| ProfileId(id.0)));
    let mut columns: Vec<ArrayRef> = vec![ids(id_of_row.iter().copied()), ids(sessions)];
    columns.extend(events.batch.columns()[..column::COUNT].iter().cloned());
    let (blocked, invalid) = (&extracted.blocked_rows, &extracted.invalid_rows);
    if !blocked.is_empty() || !invalid.is_empty() || !late.is_empty() || id_of_row.iter().any(Option::is_none) {
        let known = events.strings(column::FLAGS);
        let marked = |rows: &[u32]| {
            let mut marked = vec![false; events.len()];
            rows.iter().for_each(|row| marked[*row as usize] = true);
            marked
        };
        let (blocked, invalid, late) = (marked(blocked), marked(invalid), marked(late));
        let flags = (0..events.len()).map(|row| {
            let mut flags: Vec<&str> = if known.is_valid(row) { vec![known.value(row)] } else { Vec::new() };
            flags.extend(blocked[row].then_some("blocked_identifier"));
            flags.extend(invalid[row].then_some("invalid_identifier"));
            flags.extend(id_of_row[row].is_none().then_some("no_identifier"));
            flags.extend(late[row].then_some("late"));
            (!flags.is_empty()).then(|| flags.join(","))
        });
        columns[2 + column::FLAGS] = Arc::new(flags.collect::<StringArray>());
    }
    columns.push(if decisions.is_empty() {
        new_null_array(&DataType::Utf8, events.len())
    } else {
        let mut texts: Vec<Option<&str>> = vec![None; events.len()];
        decisions.iter().for_each(|(row, decision)| texts[*row as usize] = Some(decision.text()));
        Arc::new(StringArray::from(texts))
    });
    finish(table, columns, commit)
}

/// A profile id that no longer stands for itself, with the last known times for the row that says so.
pub struct Gone {
    pub id: ProfileId,
    pub as_of: TimeUs,
}

/// The changed profiles with their trait columns (built-in ones first), then the ids that are gone.
pub fn profiles(
    table: &Table,
    ids_now: &[ProfileId],
    traits: &RecordBatch,
    as_of: &[TimeUs],
    gone: &[Gone],
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let failed = |error: arrow::error::ArrowError| EngineError::Internal(format!("profile rows: {error}"));
    let nulls = |array: &ArrayRef| -> Result<ArrayRef, EngineError> {
        if gone.is_empty() {
            return Ok(array.clone());
        }
        let empty = arrow::array::new_null_array(array.data_type(), gone.len());
        arrow::compute::concat(&[array.as_ref(), empty.as_ref()]).map_err(failed)
    };
    let zeros = |array: &ArrayRef| -> Result<ArrayRef, EngineError> {
        if gone.is_empty() {
            return Ok(array.clone());
        }
        let none = Int64Array::from(vec![0; gone.len()]);
        arrow::compute::concat(&[array.as_ref(), &none]).map_err(failed)
    };
    let deleted: BooleanArray = ids_now.iter().map(|_| Some(false)).chain(gone.iter().map(|_| Some(true))).collect();
    let mut columns: Vec<ArrayRef> = vec![
        ids(ids_now.iter().copied().chain(gone.iter().map(|gone| gone.id)).map(Some)),
        Arc::new(deleted),
        nulls(traits.column(0))?,
        nulls(traits.column(1))?,
        zeros(traits.column(2))?,
        zeros(traits.column(3))?,
        times(as_of.iter().copied().chain(gone.iter().map(|gone| gone.as_of))),
    ];
    for array in &traits.columns()[BUILT_IN.len()..] {
        columns.push(nulls(array)?);
    }
    finish(table, columns, commit)
}

/// Identifiers with the profiles they belong to now; one that is nobody's any more has an empty id.
pub fn identifiers(
    table: &Table,
    plan: &IdentityPlan,
    rows: &[IdentifierRow],
    id_of: &HashMap<ProfileNumber, ProfileId>,
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let columns: Vec<ArrayRef> = vec![
        texts(rows.iter().map(|row| plan.types[row.kind as usize].name.as_str())),
        texts(rows.iter().map(|row| &*row.value)),
        texts_of_ids(rows.iter().map(|row| id_of.get(&row.number).copied())),
        times(rows.iter().map(|row| row.linked_at)),
    ];
    finish(table, columns, commit)
}

pub fn profile_merges(table: &Table, merges: &[Merge], commit: u64) -> Result<RecordBatch, EngineError> {
    let columns: Vec<ArrayRef> = vec![
        ids(merges.iter().map(|merge| Some(merge.old))),
        ids(merges.iter().map(|merge| Some(merge.new))),
        texts(merges.iter().map(|merge| merge.cause)),
        texts(merges.iter().map(|merge| &*merge.message_id)),
        times(merges.iter().map(|merge| merge.merged_at)),
    ];
    finish(table, columns, commit)
}

/// What identity refused, with both sides as they are called at the end of the batch.
pub fn identity_conflicts(
    table: &Table,
    plan: &IdentityPlan,
    conflicts: &[Conflict],
    events: &EventBatch,
    id_of: &dyn Fn(ProfileNumber) -> Option<ProfileId>,
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let text = |index: usize| texts(conflicts.iter().map(move |c| events.text(index, c.row as usize).unwrap_or("")));
    let name = |kind: u16| plan.types[kind as usize].name.as_str();
    let limited = conflicts.iter().map(|c| if let Cause::Limit(kind) = c.cause { Some(name(kind)) } else { None });
    let columns: Vec<ArrayRef> = vec![
        text(column::MESSAGE_ID),
        text(column::SOURCE),
        texts(conflicts.iter().map(|c| name(c.kind))),
        texts(conflicts.iter().map(|c| &*c.value)),
        ids(conflicts.iter().map(|c| id_of(c.number))),
        ids(conflicts.iter().map(|c| c.other.and_then(id_of))),
        texts(conflicts.iter().map(|c| c.cause.name())),
        Arc::new(limited.collect::<StringArray>()),
        texts(conflicts.iter().map(|c| if c.reassigned { "reassigned" } else { "set_aside" })),
        times(conflicts.iter().map(|c| events.times(column::TIMESTAMP).value(c.row as usize))),
    ];
    finish(table, columns, commit)
}

/// A stored event that belongs to another profile or session than merges alone would say.
pub struct EventMove {
    /// `_batch` and `_seq` of the event.
    pub place: (u64, u32),
    pub message_id: Box<str>,
    /// None: nobody.
    pub to: Option<ProfileId>,
    /// When it happened.
    pub at: TimeUs,
    /// The session it is in now.
    pub session: Option<SessionId>,
}

pub fn event_moves(table: &Table, moves: &[EventMove], cause: &str, commit: u64) -> Result<RecordBatch, EngineError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(moves.iter().map(|moved| moved.place.0))),
        Arc::new(UInt32Array::from_iter_values(moves.iter().map(|moved| moved.place.1))),
        texts(moves.iter().map(|moved| &*moved.message_id)),
        times(moves.iter().map(|moved| moved.at)),
        ids(moves.iter().map(|moved| moved.to)),
        ids(moves.iter().map(|moved| moved.session.map(|id| ProfileId(id.0)))),
        texts(moves.iter().map(|_| cause)),
    ];
    finish(table, columns, commit)
}

pub fn segment_changes(
    table: &Table,
    segments: &[String],
    transitions: &[Transition],
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let columns: Vec<ArrayRef> = vec![
        texts(transitions.iter().map(|t| segments[t.segment as usize].as_str())),
        ids(transitions.iter().map(|t| Some(t.id))),
        texts(transitions.iter().map(|t| if t.entered { "entered" } else { "exited" })),
        texts(transitions.iter().map(|t| t.cause.name())),
        times(transitions.iter().map(|t| t.at)),
    ];
    finish(table, columns, commit)
}

/// The changed groups of one definition with their trait columns, built-in ones first.
pub fn groups(
    table: &Table,
    groups: &[Profile],
    traits: &RecordBatch,
    as_of: &[TimeUs],
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let id = |group: &Profile| group.group.as_ref().map(|group| group.id.to_string()).unwrap_or_default();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(groups.iter().map(id))),
        Arc::new(BooleanArray::from(vec![false; groups.len()])),
    ];
    columns.extend(traits.columns()[..GROUP_BUILT_IN.len()].iter().cloned());
    columns.push(times(as_of.iter().copied()));
    columns.extend(traits.columns()[BUILT_IN.len()..].iter().cloned());
    finish(table, columns, commit)
}

/// A group that the definition no longer makes.
pub fn group_gone(table: &Table, id: &str, at: TimeUs, commit: u64) -> Result<RecordBatch, EngineError> {
    let own = table.schema.fields().len() - 2;
    let columns = table.schema.fields()[..own].iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "group_id" => texts(std::iter::once(id)),
            "deleted" => Arc::new(BooleanArray::from(vec![true])),
            "events" => Arc::new(Int64Array::from(vec![0])),
            "_as_of" => times(std::iter::once(at)),
            _ => new_null_array(field.data_type(), 1),
        }
    });
    finish(table, columns.collect(), commit)
}

/// A group that entered or left a segment.
pub struct GroupChange<'a> {
    pub group: &'a str,
    pub segment: &'a str,
    pub id: &'a str,
    pub entered: bool,
    pub cause: segment::Cause,
    pub at: TimeUs,
}

pub fn group_segment_changes(
    table: &Table,
    changes: &[GroupChange<'_>],
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let columns: Vec<ArrayRef> = vec![
        texts(changes.iter().map(|change| change.group)),
        texts(changes.iter().map(|change| change.segment)),
        texts(changes.iter().map(|change| change.id)),
        texts(changes.iter().map(|change| if change.entered { "entered" } else { "exited" })),
        texts(changes.iter().map(|change| change.cause.name())),
        times(changes.iter().map(|change| change.at)),
    ];
    finish(table, columns, commit)
}

/// Who came into another stage of a trait.
pub fn stage_changes(
    table: &Table,
    traits: &[TraitPlan],
    changes: &[StageChange],
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let plan = |change: &StageChange| &traits[change.trait_index as usize];
    let columns: Vec<ArrayRef> = vec![
        texts(changes.iter().map(|change| plan(change).name.as_str())),
        ids(changes.iter().map(|change| Some(change.id))),
        Arc::new(changes.iter().map(|change| plan(change).stage(change.from)).collect::<StringArray>()),
        Arc::new(changes.iter().map(|change| plan(change).stage(change.to)).collect::<StringArray>()),
        texts(changes.iter().map(|change| change.cause.name())),
        times(changes.iter().map(|change| change.at)),
    ];
    finish(table, columns, commit)
}

/// What happened in journeys.
pub fn journey_steps(table: &Table, steps: &[StepRow], commit: u64) -> Result<RecordBatch, EngineError> {
    let versions: Vec<String> = steps.iter().map(|row| format!("{:016x}", row.version)).collect();
    let entries: Vec<String> = steps.iter().map(|row| format!("{:032x}", row.entry_id)).collect();
    let columns: Vec<ArrayRef> = vec![
        texts(steps.iter().map(|row| row.activation.as_str())),
        texts(versions.iter().map(String::as_str)),
        texts(entries.iter().map(String::as_str)),
        ids(steps.iter().map(|row| Some(row.profile_id))),
        texts(steps.iter().map(|row| row.step.as_str())),
        texts(steps.iter().map(|row| row.what)),
        texts(steps.iter().map(|row| row.detail.as_str())),
        times(steps.iter().map(|row| row.at)),
    ];
    finish(table, columns, commit)
}

pub fn definitions(table: &Table, told: &[&Told], now: TimeUs, commit: u64) -> Result<RecordBatch, EngineError> {
    let versions: Vec<String> = told.iter().map(|told| format!("{:016x}", told.version)).collect();
    let columns: Vec<ArrayRef> = vec![
        texts(told.iter().map(|told| if told.is_segment { "segment" } else { "trait" })),
        texts(told.iter().map(|told| told.name.as_str())),
        texts(versions.iter().map(String::as_str)),
        Arc::new(told.iter().map(|told| Some(told.ready)).collect::<BooleanArray>()),
        Arc::new(told.iter().map(|told| Some(told.removed)).collect::<BooleanArray>()),
        times(told.iter().map(|_| now)),
    ];
    finish(table, columns, commit)
}

/// What scans of RFM traits have found.
pub fn rfm_borders(table: &Table, found: &[(&str, RfmBorders)], commit: u64) -> Result<RecordBatch, EngineError> {
    let all = || found.iter().map(|(_, borders)| borders);
    let mut columns: Vec<ArrayRef> = vec![
        texts(found.iter().map(|(name, _)| *name)),
        Arc::new(UInt64Array::from_iter_values(all().map(|borders| borders.version))),
        times(all().map(|borders| borders.scanned_at)),
        Arc::new(Int64Array::from_iter_values(all().map(|borders| borders.people as i64))),
    ];
    columns.extend((0..4).map(|place| times(all().map(|borders| borders.recency[place]))));
    for of in [|borders: &RfmBorders| borders.frequency, |borders: &RfmBorders| borders.monetary] {
        columns.extend((0..4).map(|place| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(all().map(|borders| of(borders)[place])))
        }));
    }
    finish(table, columns, commit)
}

fn recorded<'d>(delivery: &'d Delivery, destinations: &BTreeMap<String, Option<Redaction>>) -> Cow<'d, str> {
    match destinations.get(&delivery.destination) {
        Some(Some(redaction)) => redaction.shown(&delivery.body),
        _ => Cow::Borrowed(&delivery.body),
    }
}

/// `destinations`: what of their bodies is recorded.
pub fn deliveries(
    table: &Table,
    attempts: &[Attempt],
    destinations: &BTreeMap<String, Option<Redaction>>,
    commit: u64,
) -> Result<RecordBatch, EngineError> {
    let all: Vec<_> = attempts.iter().map(|attempt| &attempt.queued.delivery).collect();
    let columns: Vec<ArrayRef> = vec![
        texts(all.iter().map(|d| d.id.as_str())),
        texts(all.iter().map(|d| d.activation.as_str())),
        texts(all.iter().map(|d| d.step.as_str())),
        texts(all.iter().map(|d| d.destination.as_str())),
        ids(all.iter().map(|d| Some(d.profile_id))),
        Arc::new(UInt32Array::from_iter_values(attempts.iter().map(|attempt| attempt.queued.attempts + 1))),
        texts(attempts.iter().map(|attempt| attempt.outcome.name())),
        texts(attempts.iter().map(|attempt| attempt.detail.as_str())),
        Arc::new(StringArray::from_iter_values(all.iter().map(|d| recorded(d, destinations)))),
        times(attempts.iter().map(|attempt| attempt.attempted_at)),
    ];
    finish(table, columns, commit)
}

pub fn rejected_events(table: &Table, rejects: &[&Reject], commit: u64) -> Result<RecordBatch, EngineError> {
    let columns: Vec<ArrayRef> = vec![
        texts(rejects.iter().map(|r| &*r.position.source)),
        texts(rejects.iter().map(|r| &*r.position.topic)),
        Arc::new(Int32Array::from_iter_values(rejects.iter().map(|r| r.position.partition))),
        Arc::new(Int64Array::from_iter_values(rejects.iter().map(|r| r.position.offset))),
        times(rejects.iter().map(|r| r.timestamp)),
        texts(rejects.iter().map(|r| r.code.as_str())),
        texts(rejects.iter().map(|r| r.reason.as_str())),
        Arc::new(rejects.iter().map(|r| r.byte_offset).collect::<UInt32Array>()),
        Arc::new(BinaryArray::from_iter_values(rejects.iter().map(|r| r.payload.as_slice()))),
    ];
    finish(table, columns, commit)
}

/// The partial rows of an aggregate.
pub fn aggregate(table: &Table, partial: &RecordBatch, commit: u64) -> Result<RecordBatch, EngineError> {
    finish(table, partial.columns().to_vec(), commit)
}
