//! The transaction: what a batch and the commands beside it change, from de-duplication to the sealed rows.
//!
//! [`Core::apply`] is the way of a batch, top to bottom. It loads what the batch needs, runs the pure stages, and
//! returns everything one commit holds. The in-memory state is then ahead of the store by that commit; if the
//! commit fails the process ends, so nothing is ever rolled back.

mod correct;
mod load;
mod switch;

pub use correct::{Begun, RebuildRecord};

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hashbrown::HashMap;
use serde_json::{Map, Value, json};

use super::bodies::Bodies;
use super::dedupe::Dedupe;
use super::outbox::{self, Rows};
use super::prepare::Prepared;
use super::record::{DefinitionRecord, EngineRecord, SinkRecord, StoredReject, Totals, load_component};
use super::rows::{self, Gone};
use super::{Command, CorrectionRequest, EngineError};
use crate::activation::{Activations, Rendered, time_text};
use crate::aggregate::Aggregator;
use crate::definition::Pipeline;
use crate::event::{EventBatch, ProfileId, ProfileNumber, Reject, TimeUs};
use crate::identity::{
    self, Component, Correction, Corrections, Decisions, Extracted, IdentifierType, Identities, NO_PROFILE, Resolved,
    extract,
};
use crate::profile::{Profile, ProfileRecord, Slots, Traits};
use crate::segment::{Moved, Segments, Transition};
use crate::sink::{Attempt, AttemptOutcome, CommitRange, Queued, Table, tables};
use crate::state::cache::Cache;
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError, WriteBatch, codec, scan_all};
use crate::transform::Restore;

/// Reads from the store that are under way at once.
const READS_AT_ONCE: usize = 64;

/// All state of the pipeline, hot in memory in front of the store.
pub struct Core {
    store: Arc<dyn Store>,
    identities: Identities,
    profiles: Cache<ProfileNumber, Profile>,
    dedupe: Dedupe,
    bodies: Bodies,
    traits: Traits,
    segments: Segments,
    segment_names: Vec<String>,
    activations: Activations,
    aggregates: Vec<(Table, Aggregator)>,
    tables: CoreTables,
    slots: Slots,
    restore: Restore,
    /// The rebuild that is under way, and the commits whose events it has to take in besides the history.
    pub rebuild: Option<RebuildRecord>,
    kept: Vec<u64>,
    pub record: EngineRecord,
    pub sink: SinkRecord,
    /// Commits whose rows the table sink has not acknowledged, with their tables.
    pub outbox: BTreeMap<u64, Vec<String>>,
    send: bool,
}

struct CoreTables {
    events: Table,
    profiles: Table,
    identifiers: Table,
    profile_merges: Table,
    identity_conflicts: Table,
    event_moves: Table,
    segment_changes: Table,
    deliveries: Table,
    rejected_events: Table,
}

/// Everything that one commit holds, and what may leave once it is durable.
#[derive(Debug, Default)]
pub struct Staged {
    pub commit: u64,
    pub writes: WriteBatch,
    pub rows: Rows,
    /// New entries of the destinations' queues.
    pub queued: Vec<Queued>,
    /// Raw records of the batch, for the counters.
    pub records: u64,
    /// How the corrections among the commands began, in their order.
    pub begun: Vec<Begun>,
}

impl Core {
    /// See [`digest`](super::digest()).
    pub async fn digest(&self) -> Result<u128, StoreError> {
        super::digest(&*self.store, &self.slots).await
    }

    pub fn corrections(&self) -> &Corrections {
        &self.identities.corrections
    }

    /// Applies a batch and the commands that came with it, as one commit. `now` must not decrease.
    pub async fn apply(
        &mut self,
        batch: Option<Prepared>,
        commands: &[Command],
        now: TimeUs,
    ) -> Result<Staged, EngineError> {
        let mut staged = self.begin(now);
        self.take_commands(commands, &mut staged).await?;
        if let Some(batch) = batch {
            self.take_batch(batch, &mut staged).await?;
        }
        self.seal(&mut staged)?;
        Ok(staged)
    }

    fn begin(&mut self, now: TimeUs) -> Staged {
        self.record.now = self.record.now.max(now);
        Staged { commit: self.record.commit + 1, ..Staged::default() }
    }

    /// The rows go into the outbox, and the engine's record with them.
    fn seal(&mut self, staged: &mut Staged) -> Result<(), EngineError> {
        let commit = staged.commit;
        for (table, batch) in &staged.rows {
            staged.writes.put(keys::number_name(Tag::Outbox, commit, &table.name), outbox::encode(batch)?);
        }
        if !staged.rows.is_empty() {
            let names = staged.rows.iter().map(|(table, _)| table.name.clone()).collect();
            self.outbox.insert(commit, names);
        }
        self.record.commit = commit;
        self.record.next_profile = self.identities.next_number;
        let key = keys::name(Tag::Engine, EngineRecord::KEY);
        staged.writes.put(key, codec::encode(EngineRecord::VERSION, &self.record));
        Ok(())
    }

    /// What is durable up to `commit` may leave memory again.
    pub fn durable(&mut self, commit: u64) {
        self.identities.identifiers.durable(commit);
        self.identities.components.durable(commit);
        self.profiles.durable(commit);
    }

    async fn take_batch(&mut self, batch: Prepared, staged: &mut Staged) -> Result<(), EngineError> {
        let commit = staged.commit;
        staged.records = batch.records;
        let (events, others) = self.drop_duplicates(&batch, staged).await?;

        // Identity first, for the whole batch: events then go straight to the surviving profile.
        let extracted = extract(self.identities.plan(), &events);
        self.load_identity(&extracted).await?;
        let first_new = self.identities.next_number;
        let resolved = self.identities.resolve(&events, &extracted, Decisions::Now, commit, &mut staged.writes);
        self.follow_rebuild(&resolved, staged);

        // The profiles that the batch touches, each once, and the state of those that were absorbed.
        let mut touched = Touched::of(&resolved);
        self.load_profiles(&touched.numbers, &resolved, first_new).await?;
        let mut profiles = self.take_profiles(&touched, &resolved);
        let (shown, moved) = self.merge_profiles(&mut profiles, &touched, &resolved, staged);
        touched.ids = profiles.iter().map(|profile| profile.id).collect();

        self.traits.apply(&events, &touched.profile_of_row, &resolved.best, &mut profiles)?;
        let traits = self.traits.columns(&profiles)?;
        let transitions = self.segments.judge(&traits, &mut profiles, &shown, &moved)?;
        let as_of: Vec<TimeUs> = profiles.iter().map(|profile| profile.as_of).collect();
        self.activate(&events, &touched, &traits, &profiles, &transitions, staged).await?;

        self.add_rows(
            &batch,
            &events,
            &extracted,
            &resolved,
            &touched,
            &traits,
            &as_of,
            &transitions,
            &moved,
            &others,
            staged,
        )?;
        self.keep_for_rebuild(&resolved, staged)?;
        self.count(&batch, &events, &resolved, &touched, &transitions);
        for (number, profile) in touched.numbers.iter().zip(profiles) {
            let record = ProfileRecord::store(&profile, &self.slots);
            staged.writes.put(keys::profile(*number), codec::encode(ProfileRecord::VERSION, &record));
            self.profiles.insert_dirty(*number, profile, commit);
        }
        self.add_rejects(&batch, staged);
        for ((topic, partition), next) in &batch.positions {
            if batch.replayed.is_none() {
                let key = keys::position(&batch.source, topic, *partition);
                staged.writes.put(key, codec::encode(1, next));
            }
        }
        self.identities.identifiers.shrink();
        self.identities.components.shrink();
        self.profiles.shrink();
        Ok(())
    }

    /// The events whose message ids were not seen before, and the copies that have another body than the first.
    async fn drop_duplicates(
        &mut self,
        batch: &Prepared,
        staged: &mut Staged,
    ) -> Result<(EventBatch, Vec<Reject>), EngineError> {
        let pages = self.dedupe.candidates(&batch.message_hashes);
        if !pages.is_empty() {
            self.dedupe.fetch(&*self.store, pages).await?;
        }
        // `now` and not the records' own timestamps: a producer's clock far ahead must not make all ids expire.
        let seen = self.dedupe.check(&batch.message_hashes, self.record.now, &mut staged.writes);
        let others = self.bodies.check(&batch.events, &batch.message_hashes, &seen);
        let duplicates = seen.iter().filter(|seen| **seen).count();
        self.record.totals.duplicates += duplicates as u64;
        metrics::counter!("tributary_duplicates_total", "source" => batch.source.to_string())
            .increment(duplicates as u64);
        if duplicates == 0 {
            return Ok((batch.events.clone(), others));
        }
        let keep: BooleanArray = seen.iter().map(|seen| Some(!seen)).collect();
        let kept = filter_record_batch(&batch.events.batch, &keep)
            .map_err(|error| EngineError::Internal(format!("dropping duplicates: {error}")))?;
        Ok((EventBatch { batch: kept }, others))
    }

    async fn load_identity(&mut self, extracted: &Extracted<'_>) -> Result<(), EngineError> {
        let hashes = self.identities.missing_identifiers(extracted);
        let store = &*self.store;
        let found: Vec<(u128, Option<Bytes>)> = futures::stream::iter(hashes)
            .map(|hash| async move { Ok::<_, StoreError>((hash, store.get(&keys::identifier(hash)).await?)) })
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        for (hash, value) in found {
            if let Some(value) = value {
                self.identities.identifiers.insert_clean(hash, codec::decode(1, "identifier", &value)?);
            }
        }
        let numbers = self.identities.missing_components(extracted);
        self.load_components(numbers).await
    }

    async fn load_components(&mut self, numbers: Vec<ProfileNumber>) -> Result<(), EngineError> {
        let store = &*self.store;
        let found: Vec<(ProfileNumber, Component)> = futures::stream::iter(numbers)
            .map(|number| async move {
                let head = store.get(&keys::component(number)).await?;
                Ok::<_, StoreError>((number, load_component(number, head, store).await?))
            })
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        for (number, component) in found {
            self.identities.components.insert_clean(number, Box::new(component));
        }
        Ok(())
    }

    async fn load_profiles(
        &mut self,
        touched: &[ProfileNumber],
        resolved: &Resolved,
        first_new: ProfileNumber,
    ) -> Result<(), EngineError> {
        let losers = resolved.absorbed.iter().map(|(loser, _)| *loser);
        let wanted = touched.iter().copied().chain(losers);
        // Numbers given in this batch have no state yet.
        let missing: Vec<ProfileNumber> =
            wanted.filter(|number| *number < first_new && self.profiles.get(number).is_none()).collect();
        let store = &*self.store;
        let found: Vec<(ProfileNumber, Option<Bytes>)> = futures::stream::iter(missing)
            .map(|number| async move { Ok::<_, StoreError>((number, store.get(&keys::profile(number)).await?)) })
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        for (number, value) in found {
            let Some(value) = value else {
                return Err(
                    StoreError::Damaged(format!("profile {number} is named by identifiers but not stored")).into()
                );
            };
            let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &value)?;
            self.profiles.insert_clean(number, record.load(&self.slots));
        }
        Ok(())
    }

    /// Takes the touched profiles out of the cache; they go back when the batch is done with them.
    fn take_profiles(&mut self, touched: &Touched, resolved: &Resolved) -> Vec<Profile> {
        let (traits, segments) = (self.traits.plans.len(), self.segments.plans.len());
        touched
            .numbers
            .iter()
            .map(|number| {
                self.profiles.remove(number).unwrap_or_else(|| {
                    let id = resolved.changed_ids.get(number).copied().unwrap_or(ProfileId([0; 16]));
                    Profile::new(id, traits, segments)
                })
            })
            .collect()
    }

    /// Combines absorbed profiles into the survivors and gives changed ids. Returns, per profile, the memberships
    /// that the tables show under its id as it is now, and the memberships shown under ids that are gone.
    fn merge_profiles(
        &mut self,
        profiles: &mut [Profile],
        touched: &Touched,
        resolved: &Resolved,
        staged: &mut Staged,
    ) -> (Vec<Vec<bool>>, Vec<Moved>) {
        let members = |profile: &Profile| profile.memberships.iter().map(|m| m.member).collect::<Vec<bool>>();
        let mut shown: Vec<Vec<bool>> = profiles.iter().map(members).collect();
        let mut moved = Vec::new();
        // Sides of each profile under another id than its new one: (index, id, memberships).
        let mut place =
            |index: usize, old: ProfileId, new: ProfileId, member: Vec<bool>, shown: &mut Vec<Vec<bool>>| {
                if old == new {
                    shown[index].iter_mut().zip(member).for_each(|(shown, held)| *shown |= held);
                } else {
                    moved.push(Moved { into: index as u32, id: old, member });
                }
            };
        for (index, number) in touched.numbers.iter().enumerate() {
            let Some(new) = resolved.changed_ids.get(number) else { continue };
            let old = profiles[index].id;
            if old != *new {
                let held = std::mem::replace(&mut shown[index], vec![false; self.segments.plans.len()]);
                place(index, old, *new, held, &mut shown);
                profiles[index].id = *new;
            }
        }
        for (loser, into) in &resolved.absorbed {
            let Some(profile) = self.profiles.remove(loser) else { continue };
            let Some(index) = touched.index.get(into).copied() else { continue };
            let index = index as usize;
            place(index, profile.id, profiles[index].id, members(&profile), &mut shown);
            profiles[index].merge(&self.traits.plans, profile);
            staged.writes.delete(keys::profile(*loser));
        }
        (shown, moved)
    }

    async fn activate(
        &mut self,
        events: &EventBatch,
        touched: &Touched,
        traits: &RecordBatch,
        profiles: &[Profile],
        transitions: &[Transition],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        if self.activations.is_empty() {
            return Ok(());
        }
        let as_of = |index: u32| profiles[index as usize].as_of;
        let triggered =
            self.activations.triggered(events, &touched.profile_of_row, &touched.ids, transitions, &as_of)?;
        if triggered.is_empty() {
            return Ok(());
        }
        let mut numbers: Vec<ProfileNumber> =
            triggered.iter().map(|trigger| touched.numbers[trigger.profile as usize]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| self.identities.components.get(number).is_none());
        self.load_components(numbers).await?;
        let mut described: HashMap<u32, Value> = HashMap::new();
        let mut failed = Vec::new();
        for trigger in &triggered {
            let index = trigger.profile;
            let profile = described.entry(index).or_insert_with(|| {
                let component = self.identities.components.get(&touched.numbers[index as usize]).map(Box::as_ref);
                let profile = &profiles[index as usize];
                describe(&self.identities, &self.segment_names, profile, component, traits, index as usize)
            });
            for Rendered { delivery, error } in self.activations.render(trigger, events, &self.segment_names, profile) {
                let number = self.record.next_delivery;
                self.record.next_delivery += 1;
                self.record.totals.deliveries += 1;
                let queued = Queued { number, delivery, attempts: 0, next_attempt_at: 0 };
                let now = self.record.now;
                match error {
                    Some(detail) => {
                        failed.push(Attempt { queued, outcome: AttemptOutcome::Failed, detail, attempted_at: now })
                    }
                    None if queued.delivery.dry_run => {
                        let detail = "the activation's status is dry_run".to_string();
                        failed.push(Attempt { queued, outcome: AttemptOutcome::DryRun, detail, attempted_at: now });
                    }
                    None if !self.send => {
                        let detail = "sending is switched off (--no-send)".to_string();
                        failed.push(Attempt { queued, outcome: AttemptOutcome::DryRun, detail, attempted_at: now });
                    }
                    None => {
                        let key = keys::numbered_name(Tag::Delivery, &queued.delivery.destination, number);
                        staged.writes.put(key, codec::encode(Queued::VERSION, &queued));
                        staged.queued.push(queued);
                    }
                }
            }
        }
        self.add_attempts(failed, staged)
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where everything a batch made becomes rows")]
    fn add_rows(
        &self,
        batch: &Prepared,
        events: &EventBatch,
        extracted: &Extracted<'_>,
        resolved: &Resolved,
        touched: &Touched,
        traits: &RecordBatch,
        as_of: &[TimeUs],
        transitions: &[Transition],
        moved: &[Moved],
        others: &[Reject],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let commit = staged.commit;
        let mut add = |table: &Table, rows: RecordBatch| {
            if rows.num_rows() > 0 {
                staged.rows.push((table.clone(), rows));
            }
        };
        let id_of_row: Vec<Option<ProfileId>> =
            touched.profile_of_row.iter().map(|index| index.map(|index| touched.ids[index as usize])).collect();
        let tables = &self.tables;
        let decisions = &resolved.decisions;
        add(&tables.events, rows::events(&tables.events, events, &id_of_row, extracted, decisions, commit)?);
        let gone: Vec<Gone> = moved.iter().map(|m| Gone { id: m.id, as_of: as_of[m.into as usize] }).collect();
        add(&tables.profiles, rows::profiles(&tables.profiles, &touched.ids, traits, as_of, &gone, commit)?);
        let id_of: HashMap<ProfileNumber, ProfileId> =
            touched.numbers.iter().copied().zip(touched.ids.iter().copied()).collect();
        let identifiers =
            rows::identifiers(&tables.identifiers, self.identities.plan(), &resolved.identifiers, &id_of, commit)?;
        add(&tables.identifiers, identifiers);
        add(&tables.profile_merges, rows::profile_merges(&tables.profile_merges, &resolved.merges, commit)?);
        if !resolved.conflicts.is_empty() {
            // The other side is loaded: it was asked whether it may be joined. The event's own need not be, where a cut
            // keeps two identifiers of one person apart.
            let other = |number| self.identities.components.get(&number).map(|component| component.id);
            let id_of = |number| id_of.get(&number).copied().or_else(|| other(number));
            let (table, plan) = (&tables.identity_conflicts, self.identities.plan());
            add(table, rows::identity_conflicts(table, plan, &resolved.conflicts, events, &id_of, commit)?);
        }
        let changes = rows::segment_changes(&tables.segment_changes, &self.segment_names, transitions, as_of, commit)?;
        add(&tables.segment_changes, changes);
        if batch.replayed.is_none() {
            // A replayed input that is rejected again has its row already.
            let rejects: Vec<&Reject> = batch.rejects.iter().chain(others).collect();
            add(&tables.rejected_events, rows::rejected_events(&tables.rejected_events, &rejects, commit)?);
        }
        for (table, aggregator) in &self.aggregates {
            let partial = aggregator
                .run(&events.batch)
                .map_err(|error| EngineError::Internal(format!("aggregate {}: {error}", table.name)))?;
            add(table, rows::aggregate(table, &partial, commit)?);
        }
        Ok(())
    }

    /// Rejected input is kept until it has been replayed; what a replay brought in is removed.
    fn add_rejects(&mut self, batch: &Prepared, staged: &mut Staged) {
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

    fn add_attempts(&mut self, attempts: Vec<Attempt>, staged: &mut Staged) -> Result<(), EngineError> {
        if attempts.is_empty() {
            return Ok(());
        }
        for attempt in &attempts {
            let destination = attempt.queued.delivery.destination.clone();
            metrics::counter!("tributary_deliveries_total", "destination" => destination, "outcome" => attempt.outcome.name()).increment(1);
        }
        let rows = rows::deliveries(&self.tables.deliveries, &attempts, staged.commit)?;
        // Attempts come by command and from the batch itself; a table has one batch of rows per commit.
        if let Some((_, known)) = staged.rows.iter_mut().find(|(table, _)| table.name == self.tables.deliveries.name) {
            *known = join_renumbered(known, &rows)?;
        } else {
            staged.rows.push((self.tables.deliveries.clone(), rows));
        }
        Ok(())
    }

    async fn take_commands(&mut self, commands: &[Command], staged: &mut Staged) -> Result<(), EngineError> {
        let mut attempts = Vec::new();
        let mut sink_changed = false;
        for command in commands {
            match command {
                Command::Seal { range, .. } => {
                    self.sink.sealed = Some(*range);
                    sink_changed = true;
                }
                Command::Acknowledged { upto, .. } => {
                    let range = CommitRange { after: self.sink.acknowledged, upto: *upto };
                    for commit in outbox::commits_in(&self.outbox, range) {
                        for name in self.outbox.remove(&commit).unwrap_or_default() {
                            staged.writes.delete(keys::number_name(Tag::Outbox, commit, &name));
                        }
                    }
                    self.sink.acknowledged = self.sink.acknowledged.max(*upto);
                    self.sink.sealed = self.sink.sealed.filter(|sealed| sealed.upto > *upto);
                    sink_changed = true;
                }
                Command::Attempted(attempt) => {
                    let queued = &attempt.queued;
                    let key = keys::numbered_name(Tag::Delivery, &queued.delivery.destination, queued.number);
                    match attempt.outcome {
                        AttemptOutcome::Retry { next_attempt_at } => {
                            let next = Queued { attempts: queued.attempts + 1, next_attempt_at, ..queued.clone() };
                            staged.writes.put(key, codec::encode(Queued::VERSION, &next));
                        }
                        AttemptOutcome::Sent | AttemptOutcome::Failed | AttemptOutcome::DryRun => {
                            staged.writes.delete(key);
                        }
                    }
                    attempts.push(attempt.clone());
                }
                Command::Assigned { source, positions } => {
                    for ((topic, partition), next) in positions {
                        staged.writes.put(keys::position(source, topic, *partition), codec::encode(1, next));
                    }
                }
                Command::Correct { request, .. } => {
                    let begun = self.begin_correction(request, staged).await?;
                    staged.begun.push(begun);
                }
                Command::Replay { .. } | Command::Rebuilt { .. } => {}
            }
        }
        if sink_changed {
            let key = keys::name(Tag::Sink, SinkRecord::KEY);
            staged.writes.put(key, codec::encode(SinkRecord::VERSION, &self.sink));
        }
        self.add_attempts(attempts, staged)
    }

    fn count(
        &mut self,
        batch: &Prepared,
        events: &EventBatch,
        resolved: &Resolved,
        touched: &Touched,
        transitions: &[Transition],
    ) {
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
        self.count_transitions(transitions);
    }

    fn count_transitions(&mut self, transitions: &[Transition]) {
        for transition in transitions {
            let name = &self.segment_names[transition.segment as usize];
            let change = if transition.entered { 1 } else { -1 };
            match self.record.segment_sizes.iter_mut().find(|(known, _)| known == name) {
                Some((_, size)) => *size += change,
                None => self.record.segment_sizes.push((name.clone(), change)),
            }
        }
    }
}

/// The profiles of a batch, each once, in order of first touch.
struct Touched {
    numbers: Vec<ProfileNumber>,
    index: HashMap<ProfileNumber, u32>,
    profile_of_row: Vec<Option<u32>>,
    /// Filled once ids are known.
    ids: Vec<ProfileId>,
}

impl Touched {
    /// Profiles without events.
    fn these(numbers: &[ProfileNumber], ids: &[ProfileId]) -> Touched {
        let index = numbers.iter().enumerate().map(|(index, number)| (*number, index as u32)).collect();
        Touched { numbers: numbers.to_vec(), index, profile_of_row: Vec::new(), ids: ids.to_vec() }
    }

    fn of(resolved: &Resolved) -> Touched {
        let mut touched = Touched {
            numbers: Vec::new(),
            index: HashMap::with_capacity(resolved.numbers.len()),
            profile_of_row: Vec::with_capacity(resolved.numbers.len()),
            ids: Vec::new(),
        };
        for number in &resolved.numbers {
            let index = (*number != NO_PROFILE).then(|| {
                *touched.index.entry(*number).or_insert_with(|| {
                    touched.numbers.push(*number);
                    touched.numbers.len() as u32 - 1
                })
            });
            touched.profile_of_row.push(index);
        }
        touched
    }
}

/// A profile as bodies of deliveries see it: `{id, traits, identifiers, segments}`.
fn describe(
    identities: &Identities,
    segments: &[String],
    profile: &Profile,
    component: Option<&Component>,
    traits: &RecordBatch,
    row: usize,
) -> Value {
    let mut values = Map::new();
    for (field, column) in traits.schema().fields().iter().zip(traits.columns()) {
        values.insert(field.name().clone(), json_value(column, row));
    }
    let mut identifiers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for identifier in component.iter().flat_map(|component| component.identifiers()) {
        let name = identities.plan().types[identifier.kind as usize].name.as_str();
        identifiers.entry(name).or_default().push(&identifier.value);
    }
    identifiers.values_mut().for_each(|values| values.sort_unstable());
    let member = |(name, membership): (&String, &crate::profile::Membership)| membership.member.then(|| name.clone());
    let segments: Vec<String> = segments.iter().zip(&profile.memberships).filter_map(member).collect();
    json!({ "id": profile.id.to_string(), "traits": values, "identifiers": identifiers, "segments": segments })
}

fn json_value(column: &arrow::array::ArrayRef, row: usize) -> Value {
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
