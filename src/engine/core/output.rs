//! What a commit says: rows of the tables, deliveries, counters.

use super::judge::Findings;
use super::*;
use crate::engine::session_rows;
use crate::profile::SessionsOf;
use crate::session::SessionRow;

impl Core {
    /// Rows about the batch's events and what identity made of them.
    #[expect(clippy::too_many_arguments, reason = "the one place where all that a batch brought becomes rows")]
    pub(super) fn add_event_rows(
        &self,
        batch: &Prepared,
        events: &EventBatch,
        extracted: &Extracted<'_>,
        resolved: &Resolved,
        touched: &Touched,
        sessions: &SessionsOf,
        others: &[Reject],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let commit = staged.commit;
        let mut add = |table: &Table, rows: RecordBatch| add(table, rows, staged);
        let id_of_row: Vec<Option<ProfileId>> =
            touched.profile_of_row.iter().map(|index| index.map(|index| touched.ids[index as usize])).collect();
        let tables = &self.tables;
        let decisions = &resolved.decisions;
        add(&tables.events, rows::events(&tables.events, events, &id_of_row, extracted, decisions, sessions, commit)?)?;
        let id_of: HashMap<ProfileNumber, ProfileId> =
            touched.numbers.iter().copied().zip(touched.ids.iter().copied()).collect();
        let identifiers =
            rows::identifiers(&tables.identifiers, self.identities.plan(), &resolved.identifiers, &id_of, commit)?;
        add(&tables.identifiers, identifiers)?;
        add(&tables.profile_merges, rows::profile_merges(&tables.profile_merges, &resolved.merges, commit)?)?;
        if !resolved.conflicts.is_empty() {
            // The other side is loaded: it was asked whether it may be joined. The event's own need not be, where a cut
            // keeps two identifiers of one person apart.
            let other = |number| self.identities.components.get(&number).map(|component| component.id);
            let id_of = |number| id_of.get(&number).copied().or_else(|| other(number));
            let (table, plan) = (&tables.identity_conflicts, self.identities.plan());
            add(table, rows::identity_conflicts(table, plan, &resolved.conflicts, events, &id_of, commit)?)?;
        }
        if batch.replayed.is_none() {
            // A replayed input that is rejected again has its row already.
            let rejects: Vec<&Reject> = batch.rejects.iter().chain(others).collect();
            add(&tables.rejected_events, rows::rejected_events(&tables.rejected_events, &rejects, commit)?)?;
        }
        Ok(())
    }

    /// Partial rows of the aggregates, which the alerts take in too.
    pub(super) fn add_aggregates(&mut self, events: &EventBatch, staged: &mut Staged) -> Result<(), EngineError> {
        for (table, aggregator) in &self.aggregates {
            let partial = aggregator
                .run(&events.batch)
                .map_err(|error| EngineError::Internal(format!("aggregate {}: {error}", table.name)))?;
            self.alerts.take(table.aggregate_name().unwrap_or_default(), &partial, self.record.now, &mut staged.writes);
            add(table, rows::aggregate(table, &partial, staged.commit)?, staged)?;
        }
        Ok(())
    }

    /// Rows of profiles whose trait columns are at hand, all as of `now`, and of the ids that are gone.
    pub(super) fn add_profile_columns(
        &self,
        ids: &[ProfileId],
        traits: &RecordBatch,
        now: TimeUs,
        moved: &[Moved],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let gone: Vec<Gone> = moved.iter().map(|moved| Gone { id: moved.id, as_of: now }).collect();
        let table = &self.tables.profiles;
        let rows = rows::profiles(table, ids, traits, &vec![now; ids.len()], &gone, staged.commit)?;
        add(table, rows, staged)
    }

    /// Rows of profiles as of the last time when each was judged.
    pub(super) fn add_profile_rows(&self, profiles: &[Profile], staged: &mut Staged) -> Result<(), EngineError> {
        let ids: Vec<ProfileId> = profiles.iter().map(|profile| profile.id).collect();
        let as_of: Vec<TimeUs> = profiles.iter().map(|profile| profile.as_of).collect();
        let traits = self.traits.columns(profiles, &as_of)?;
        let table = &self.tables.profiles;
        add(table, rows::profiles(table, &ids, &traits, &as_of, &[], staged.commit)?, staged)
    }

    pub(super) fn add_sessions(
        &self,
        rows: &[(ProfileId, SessionRow)],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let table = &self.tables.sessions;
        add(table, session_rows::sessions(table, rows, staged.commit)?, staged)
    }

    /// What the table of profiles would say if everybody were judged at `now`. Every commit must be durable.
    ///
    /// # Errors
    /// The store's.
    pub async fn profiles_at(&self, now: TimeUs) -> Result<RecordBatch, EngineError> {
        let mut profiles = Vec::new();
        for (_, value) in scan_all(&*self.store, &keys::prefix(Tag::Profile)).await? {
            let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &value)?;
            profiles.push(record.load(&self.slots));
        }
        profiles.retain(|profile| profile.group.is_none());
        let ids: Vec<ProfileId> = profiles.iter().map(|profile| profile.id).collect();
        let as_of = vec![now; profiles.len()];
        let traits = self.traits.columns(&profiles, &as_of)?;
        rows::profiles(&self.tables.profiles, &ids, &traits, &as_of, &[], self.record.commit)
    }

    pub(super) fn add_findings(&self, findings: &Findings, staged: &mut Staged) -> Result<(), EngineError> {
        let commit = staged.commit;
        let (changes, stages) = (&self.tables.segment_changes, &self.tables.stage_changes);
        let rows = rows::segment_changes(changes, &self.segment_names, &findings.transitions, commit)?;
        add(changes, rows, staged)?;
        add(stages, rows::stage_changes(stages, &self.traits.plans, &findings.stages, commit)?, staged)
    }

    /// Rejected input is kept until it has been replayed; what a replay brought in is removed.
    pub(super) fn add_rejects(&mut self, batch: &Prepared, staged: &mut Staged) {
        match &batch.replayed {
            None => {
                self.record.totals.rejected += batch.rejects.len() as u64;
                for reject in &batch.rejects {
                    metrics::counter!("tributary_rejected_total", "source" => batch.source.to_string(), "code" => reject.code.clone()).increment(1);
                    let number = self.record.next_reject;
                    self.record.next_reject += 1;
                    let stored = StoredReject { number, reject: reject.clone(), attempts: 0 };
                    staged
                        .writes
                        .put(keys::number(Tag::Rejected, number), codec::encode(StoredReject::VERSION, &stored));
                }
            }
            Some(numbers) => {
                let mut left = numbers.clone();
                for reject in &batch.rejects {
                    let place = (reject.position.topic.to_string(), reject.position.partition, reject.position.offset);
                    let Some(number) = left.remove(&place) else { continue };
                    let stored = StoredReject { number, reject: reject.clone(), attempts: 1 };
                    staged
                        .writes
                        .put(keys::number(Tag::Rejected, number), codec::encode(StoredReject::VERSION, &stored));
                }
                left.values().for_each(|number| staged.writes.delete(keys::number(Tag::Rejected, *number)));
                self.record.totals.rejected = self.record.totals.rejected.saturating_sub(left.len() as u64);
            }
        }
    }

    pub(super) fn add_attempts(&mut self, attempts: Vec<Attempt>, staged: &mut Staged) -> Result<(), EngineError> {
        if attempts.is_empty() {
            return Ok(());
        }
        for attempt in &attempts {
            let destination = attempt.queued.delivery.destination.clone();
            metrics::counter!("tributary_deliveries_total", "destination" => destination, "outcome" => attempt.outcome.name()).increment(1);
        }
        let table = &self.tables.deliveries;
        add(table, rows::deliveries(table, &attempts, &self.destinations, staged.commit)?, staged)
    }

    pub(super) fn count(&mut self, batch: &Prepared, events: &EventBatch, resolved: &Resolved, touched: &Touched) {
        let totals: &mut Totals = &mut self.record.totals;
        if batch.replayed.is_none() {
            totals.records += batch.records;
            totals.filtered += batch.filtered;
        }
        totals.events += events.len() as u64;
        totals.anonymous += touched.profile_of_row.iter().filter(|index| index.is_none()).count() as u64;
        // A number that was absorbed in the batch that made it never was a profile.
        let absorbed = resolved.absorbed.iter().filter(|(loser, _)| *loser < self.record.next_profile.max(1)).count();
        totals.profiles = (totals.profiles + resolved.created.len() as u64).saturating_sub(absorbed as u64);
        totals.identifiers += (resolved.identifiers.len() - resolved.reassigned) as u64;
        totals.merges += absorbed as u64;
        metrics::counter!("tributary_events_total", "source" => batch.source.to_string())
            .increment(events.len() as u64);
        for conflict in &resolved.conflicts {
            metrics::counter!("tributary_identity_conflicts_total", "cause" => conflict.cause.name()).increment(1);
            if conflict.cause == identity::Cause::MaxIdentifiers {
                metrics::counter!("tributary_identity_hub_refusals_total").increment(1);
            }
        }
    }

    pub(super) fn count_transitions(&mut self, transitions: &[Transition]) {
        let mut changes = vec![0; self.segment_names.len()];
        for transition in transitions {
            changes[usize::from(transition.segment)] += if transition.entered { 1 } else { -1 };
        }
        for (name, change) in self.segment_names.iter().zip(changes).filter(|(_, change)| *change != 0) {
            *self.record.segment_sizes.entry(name.clone()).or_default() += change;
        }
    }

    /// The same of groups, by the names of their segments and whether they entered.
    pub(super) fn count_members(&mut self, changes: Vec<(String, bool)>) {
        for (name, entered) in changes {
            *self.record.segment_sizes.entry(name).or_default() += if entered { 1 } else { -1 };
        }
    }
}

/// Rows come by command and from the batch itself; a table has one batch of rows per commit.
pub(super) fn add(table: &Table, rows: RecordBatch, staged: &mut Staged) -> Result<(), EngineError> {
    if rows.num_rows() == 0 {
        return Ok(());
    }
    match staged.rows.iter_mut().find(|(other, _)| other.name == table.name) {
        Some((_, known)) => *known = join_renumbered(known, &rows)?,
        None => staged.rows.push((table.clone(), rows)),
    }
    Ok(())
}

pub(super) fn json_value(column: &arrow::array::ArrayRef, row: usize) -> Value {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Timestamp(..) => json!(time_text(column.as_primitive::<TimestampMicrosecondType>().value(row))),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        _ => Value::Null,
    }
}

fn join_renumbered(first: &RecordBatch, second: &RecordBatch) -> Result<RecordBatch, EngineError> {
    let failed = |error: arrow::error::ArrowError| EngineError::Internal(format!("joining rows: {error}"));
    let joined = arrow::compute::concat_batches(&first.schema(), [first, second]).map_err(failed)?;
    let mut columns = joined.columns().to_vec();
    if let Some(last) = columns.last_mut() {
        *last = Arc::new(arrow::array::UInt32Array::from_iter_values(0..joined.num_rows() as u32));
    }
    RecordBatch::try_new(joined.schema(), columns).map_err(failed)
}
