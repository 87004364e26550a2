//! The transaction: what a batch and the commands beside it change, from de-duplication to the sealed rows.
//!
//! [`Core::apply`] is the way of a batch, top to bottom. It loads what the batch needs, runs the pure stages, and
//! returns everything one commit holds. The in-memory state is then ahead of the store by that commit; if the
//! commit fails the process ends, so nothing is ever rolled back.

mod alerts;
mod aliases;
mod audiences;
mod correct;
mod definitions;
mod deliveries;
mod fill;
mod groups;
mod journeys;
mod judge;
mod lists;
mod load;
mod look;
mod output;
mod reborn;
mod rfm;
mod switch;
mod timers;

pub use correct::{Begun, Reading, RebuildRecord};
pub use fill::{Chunk, FillRecord};
pub use journeys::{EmittedRecord, describe_profile, emitted, emitted_batch, known_plans, plans_under_way};
pub use lists::ListEdit;
pub use load::{Known, accept, compare};
pub use look::{Look, Readiness, look};

use std::collections::BTreeMap;
use std::sync::Arc;

use self::alerts::Alerts;
use self::aliases::Aliases;
pub(super) use self::definitions::Told;
use self::groups::{GroupKind, Kindred};
use self::judge::Round;
pub(super) use self::judge::{Findings, StageChange};
use self::lists::Lists;
use self::reborn::Reborn;
use self::rfm::Rfm;
use self::timers::Timers;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hashbrown::{HashMap, HashSet};
use serde_json::{Map, Value, json};

use super::bodies::Bodies;
use super::dedupe::Dedupe;
use super::outbox::{self, Rows, Sealer};
use super::prepare::Prepared;
use super::record::{DefinitionRecord, EngineRecord, SinkRecord, StoredReject, Totals, load_component};
use super::rows::{self, Gone};
use super::{Command, CorrectionRequest, DeliveriesEdited, DeliveriesRequest, EngineError, ListEdited, ListRequest};
use crate::activation::{Activations, Audiences, EMITTED, Redaction, StepRow, time_text};
use crate::aggregate::Aggregator;
use crate::definition::Pipeline;
use crate::event::{EventBatch, ProfileId, ProfileNumber, Reject, TimeUs, ValueType};
use crate::failpoint::{self, Point};
use crate::identity::{
    self, Component, Correction, Corrections, Decisions, Extracted, IdentifierType, Identities, NO_PROFILE, Resolved,
    extract,
};
use crate::profile::{Input, Profile, ProfileRecord, Slots, Traits};
use crate::segment::{Cause, Moved, SegmentRule, Segments, Touch, Transition};
use crate::sink::{Attempt, AttemptOutcome, CommitRange, DeadLetter, Queued, Table, tables};
use crate::source::Next;
use crate::state::cache::Cache;
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError, WriteBatch, codec, scan_all};
use crate::transform::Restore;

/// Reads from the store that are under way at once.
const READS_AT_ONCE: usize = 64;

/// So many profiles are read by a scan where no more than one in so many lies between them.
const SCAN_FROM: usize = 1_000;
const SCAN_SPREAD: u64 = 32;

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
    /// As they are defined, in order.
    groups: Vec<GroupKind>,
    /// By the hashes of their ids.
    group_numbers: Cache<u128, ProfileNumber>,
    activations: Activations,
    audiences: Audiences,
    aggregates: Vec<(Table, Aggregator)>,
    alerts: Alerts,
    tables: CoreTables,
    slots: Slots,
    timers: Timers,
    lists: Lists,
    rfm: Rfm,
    /// Profiles that have another identifier than before, or whose list was changed, while they are judged for it.
    relinked: HashSet<ProfileNumber>,
    restore: Restore,
    /// The rebuild that is under way, and the commits whose events it has to take in besides the history.
    pub rebuild: Option<RebuildRecord>,
    kept: Vec<u64>,
    reborn: Reborn,
    /// What has to be filled from the past.
    pub fill: Option<FillRecord>,
    /// Of a fill that reads history; None where there are too many, and without one.
    aliases: Option<Aliases>,
    /// What the tables know of the definitions, and whether that may have changed.
    told: Vec<Told>,
    must_tell: bool,
    pub record: EngineRecord,
    pub sink: SinkRecord,
    sealer: Sealer,
    /// Commits whose rows the table sink has not acknowledged, with their tables.
    pub outbox: BTreeMap<u64, Vec<String>>,
    send: bool,
    /// The destinations that are defined, and what of their bodies is recorded.
    destinations: BTreeMap<String, Option<Redaction>>,
    /// Profiles that are judged in one commit of a sweep.
    pub profiles_at_once: usize,
}

struct CoreTables {
    events: Table,
    profiles: Table,
    identifiers: Table,
    profile_merges: Table,
    identity_conflicts: Table,
    event_moves: Table,
    segment_changes: Table,
    group_segment_changes: Table,
    sessions: Table,
    stage_changes: Table,
    journey_steps: Table,
    definitions: Table,
    rfm_borders: Table,
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
    /// Events that steps have made.
    pub emitted: Vec<EmittedRecord>,
    /// Raw records of the batch, for the counters.
    pub records: u64,
    /// How the corrections among the commands began, in their order.
    pub begun: Vec<Begun>,
    /// What the changes of lists among the commands came to, in their order.
    pub edited: Vec<ListEdited>,
    /// And those of deliveries.
    pub deliveries_edited: Vec<DeliveriesEdited>,
}

impl Core {
    /// See [`digest`](super::digest()).
    pub async fn digest(&self) -> Result<u128, StoreError> {
        super::digest(&*self.store, &self.slots, &|kind| self.traits_of(kind), self.record.now).await
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
        self.judge_alerts(&mut staged);
        self.seal(&mut staged)?;
        Ok(staged)
    }

    fn begin(&mut self, now: TimeUs) -> Staged {
        self.record.now = self.record.now.max(now);
        self.begin_scan();
        Staged { commit: self.record.commit + 1, ..Staged::default() }
    }

    /// The rows go into the outbox, and the engine's record with them.
    fn seal(&mut self, staged: &mut Staged) -> Result<(), EngineError> {
        self.tell_definitions(staged)?;
        let commit = staged.commit;
        self.write_rfm(staged);
        for (table, batch) in &staged.rows {
            staged.writes.put(keys::number_name(Tag::Outbox, commit, &table.name), self.sealer.seal(batch)?);
        }
        if !staged.rows.is_empty() {
            let names = staged.rows.iter().map(|(table, _)| table.name.clone()).collect();
            self.outbox.insert(commit, names);
        }
        if let Some(aliases) = &mut self.aliases {
            aliases.note(&staged.writes);
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
        self.group_numbers.durable(commit);
    }

    async fn take_batch(&mut self, batch: Prepared, staged: &mut Staged) -> Result<(), EngineError> {
        staged.records = batch.records;
        let (events, others) = self.drop_duplicates(&batch, staged).await?;

        // Identity first, for the whole batch: events then go straight to the surviving profile.
        let extracted = extract(self.identities.plan(), &events);
        self.load_identity(&extracted).await?;
        let first_new = self.identities.next_number;
        let resolved = self.identities.resolve(&events, &extracted, Decisions::Now, staged.commit, &mut staged.writes);
        self.follow_rebuild(&resolved, staged);

        // The profiles that the batch touches, each once, and the state of those that were absorbed.
        let mut touched = Touched::of(&resolved);
        self.load_profiles(&touched.numbers, &resolved, first_new).await?;
        let mut profiles = self.take_profiles(&touched, &resolved);
        let stored: Vec<TimeUs> = profiles.iter().map(|profile| profile.timer).collect();

        // What was due before the batch happens before it, then the merges, then the events, then the judgement.
        let mut findings = Findings::default();
        let absorbed = self.catch_up(&mut profiles, &touched, &resolved, &mut findings, staged).await?;
        let merged = self.merge_profiles(&mut profiles, absorbed, &touched, &resolved);
        touched.ids = profiles.iter().map(|profile| profile.id).collect();
        let new: Vec<u32> = (0..profiles.len() as u32).filter(|row| profiles[*row as usize].events == 0).collect();

        let now = self.record.now;
        let input = Input { events: &events, profile_of_row: &touched.profile_of_row, best: &resolved.best, now };
        let traits = self.traits.apply(&input, None, &mut profiles)?;
        let sessions = self.traits.count(&input, &mut profiles);
        let session_rows = self.traits.take_sessions(&mut profiles);
        self.relinked = resolved.identifiers.iter().map(|row| row.number).collect();
        let round = Round {
            numbers: &touched.numbers,
            now: &vec![now; profiles.len()],
            touch: &Touch { traits, built_in: true, time: false },
            new: &new,
            whole: &merged.whole,
            shown: &merged.shown,
            moved: &merged.moved,
            cause: Cause::Event,
            events: Some((&events, &touched.profile_of_row)),
            activate: true,
        };
        let traits = self.judge(&mut profiles, round, &mut findings, staged).await?;
        self.relinked.clear();
        self.take_groups(&input, &mut profiles, &merged.moved, staged).await?;

        self.add_event_rows(&batch, &events, &extracted, &resolved, &touched, &sessions, &others, staged)?;
        self.add_aggregates(&events, staged)?;
        self.add_sessions(&session_rows, staged)?;
        self.add_profile_columns(&touched.ids, &traits, now, &merged.moved, staged)?;
        self.add_findings(&findings, staged)?;
        self.add_steps(&merged.steps, staged)?;
        self.keep_for_rebuild(&resolved, staged)?;
        self.count(&batch, &events, &resolved, &touched);
        self.count_transitions(&findings.transitions);
        self.put_profiles(&touched.numbers, profiles, &stored, staged);
        self.add_rejects(&batch, staged);
        for ((topic, partition), next) in &batch.positions {
            if &*batch.source == EMITTED {
                self.applied_emitted(next.offset as u64, staged);
            } else if batch.replayed.is_none() {
                let key = keys::position(&batch.source, topic, *partition);
                staged.writes.put(key, codec::encode(Next::VERSION, next));
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
        // `now` and not the records' own timestamps: a producer's clock far ahead must not make all ids expire. For files,
        // whose `now` is the time of their events, the time of reading.
        self.record.arrived = self.record.arrived.max(batch.read_at.unwrap_or(self.record.now));
        let (now, arrived) = (self.record.arrived, batch.arrived);
        let seen = self.dedupe.check(&batch.message_hashes, now, arrived, &mut staged.writes);
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
        for (number, profile) in self.read_profiles(missing).await? {
            let Some(profile) = profile else {
                return Err(
                    StoreError::Damaged(format!("profile {number} is named by identifiers but not stored")).into()
                );
            };
            self.profiles.insert_clean(number, profile);
        }
        Ok(())
    }

    async fn read_profiles(
        &self,
        numbers: Vec<ProfileNumber>,
    ) -> Result<Vec<(ProfileNumber, Option<Profile>)>, StoreError> {
        let (store, slots) = (&*self.store, &self.slots);
        if let (Some(first), Some(last)) = (numbers.iter().min().copied(), numbers.iter().max().copied())
            && numbers.len() >= SCAN_FROM
            && (last - first) / numbers.len() as u64 <= SCAN_SPREAD
        {
            return self.scan_profiles(numbers, first, last).await;
        }
        futures::stream::iter(numbers)
            .map(|number| async move {
                let Some(value) = store.get(&keys::profile(number)).await? else { return Ok((number, None)) };
                let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &value)?;
                Ok((number, Some(record.load(slots))))
            })
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Reads profiles that lie close together: a scan over all between takes a tenth of looking each up.
    async fn scan_profiles(
        &self,
        mut numbers: Vec<ProfileNumber>,
        first: ProfileNumber,
        last: ProfileNumber,
    ) -> Result<Vec<(ProfileNumber, Option<Profile>)>, StoreError> {
        numbers.sort_unstable();
        numbers.dedup();
        let mut found: Vec<(ProfileNumber, Option<Profile>)> = numbers.iter().map(|number| (*number, None)).collect();
        let mut after = keys::profile(first.saturating_sub(1));
        loop {
            let page = self.store.scan(&keys::prefix(Tag::Profile), Some(&after), fill::PROFILES_AT_ONCE).await?;
            for (key, value) in &page {
                let number = keys::parse_number(key).unwrap_or_default();
                let Ok(place) = numbers.binary_search(&number) else { continue };
                let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", value)?;
                found[place].1 = Some(record.load(&self.slots));
            }
            match page.last() {
                Some((key, _)) if keys::parse_number(key).is_some_and(|number| number < last) => after = key.clone(),
                _ => return Ok(found),
            }
        }
    }

    /// Takes the touched profiles out of the cache; they go back when the batch is done with them.
    fn take_profiles(&mut self, touched: &Touched, resolved: &Resolved) -> Vec<Profile> {
        touched
            .numbers
            .iter()
            .map(|number| {
                self.profiles.remove(number).unwrap_or_else(|| {
                    let id = resolved.changed_ids.get(number).copied().unwrap_or(ProfileId([0; 16]));
                    Profile::new(id)
                })
            })
            .collect()
    }

    /// What comes before the batch, for its profiles as they were and those that are absorbed with it: a sweep that has not
    /// come to them yet, and what was due. Gives those absorbed.
    async fn catch_up(
        &mut self,
        profiles: &mut Vec<Profile>,
        touched: &Touched,
        resolved: &Resolved,
        findings: &mut Findings,
        staged: &mut Staged,
    ) -> Result<Vec<(ProfileNumber, Profile)>, EngineError> {
        // Bodies describe those absorbed with the identifiers of whom they have become.
        let mut numbers = touched.numbers.clone();
        let mut own = touched.numbers.clone();
        let mut absorbed: Vec<(ProfileNumber, TimeUs)> = Vec::new();
        for (loser, into) in &resolved.absorbed {
            let Some(profile) = self.profiles.remove(loser).filter(|_| touched.index.contains_key(into)) else {
                continue;
            };
            numbers.push(*into);
            own.push(*loser);
            absorbed.push((*into, profile.timer));
            self.set_timer(*loser, profile.timer, TimeUs::MAX, staged);
            staged.writes.delete(keys::profile(*loser));
            profiles.push(profile);
        }
        self.note_for_scan(&own, profiles, staged)?;
        self.sweep_ahead(profiles, &numbers, &own, findings, staged).await?;
        self.fire_due(profiles, &numbers, findings, staged).await?;
        let gone = profiles.split_off(touched.numbers.len());
        Ok(absorbed.into_iter().map(|(into, _)| into).zip(gone).collect())
    }

    /// Combines absorbed profiles (by the number they go into) into the survivors and gives changed ids.
    fn merge_profiles(
        &mut self,
        profiles: &mut [Profile],
        absorbed: Vec<(ProfileNumber, Profile)>,
        touched: &Touched,
        resolved: &Resolved,
    ) -> Merged {
        let mut merged = Merged::default();
        for (index, number) in touched.numbers.iter().enumerate() {
            let Some(new) = resolved.changed_ids.get(number) else { continue };
            let old = profiles[index].id;
            if old != *new {
                merged.moved.push(Moved {
                    into: index as u32,
                    id: old,
                    segments: profiles[index].segments().collect(),
                });
                merged.shown.insert(index as u32, Vec::new());
                profiles[index].id = *new;
            }
            self.count_on(&mut profiles[index]);
        }
        for (into, mut profile) in absorbed {
            let index = touched.index[&into];
            let mine = &mut profiles[index as usize];
            let shown = merged.shown.entry(index).or_insert_with(|| mine.segments().collect());
            if profile.id == mine.id {
                shown.extend(profile.segments());
            } else {
                merged.moved.push(Moved { into: index, id: profile.id, segments: profile.segments().collect() });
            }
            let theirs = profile.journeys.take();
            let ended = self.merge_journeys(mine, theirs);
            merged.steps.extend(self.activations.ended(&ended, mine.id, "merge", self.record.now));
            self.traits.merge(mine, profile);
        }
        merged.whole = merged.shown.keys().copied().collect();
        merged.whole.sort_unstable();
        merged
    }

    async fn take_commands(&mut self, commands: &[Command], staged: &mut Staged) -> Result<(), EngineError> {
        let mut attempts = Vec::new();
        let mut handled = HashSet::new();
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
                    failpoint::pass(Point::OutboxDeleted);
                    self.sink.acknowledged = self.sink.acknowledged.max(*upto);
                    self.sink.sealed = self.sink.sealed.filter(|sealed| sealed.upto > *upto);
                    sink_changed = true;
                }
                Command::Begun { queued, .. } => self.begin_deliveries(queued, staged),
                Command::Attempted(attempt) => {
                    self.end_attempt(attempt, staged);
                    attempts.push(attempt.clone());
                }
                Command::EditDeliveries { request, .. } => {
                    let edited = self.edit_deliveries(request, &mut handled, staged).await?;
                    staged.deliveries_edited.push(edited);
                }
                Command::Assigned { source, positions } => {
                    for ((topic, partition), next) in positions {
                        staged
                            .writes
                            .put(keys::position(source, topic, *partition), codec::encode(Next::VERSION, next));
                    }
                }
                Command::Correct { request, .. } => {
                    let begun = self.begin_correction(request, staged).await?;
                    staged.begun.push(begun);
                }
                Command::EditList { request, .. } => {
                    let edited = self.edit_list(request, staged).await?;
                    staged.edited.push(edited);
                }
                Command::Fill { chunk, .. } => self.add_chunk(chunk, staged).await?,
                Command::HistoryRead => self.begin_sweep(staged),
                Command::Replay { .. } | Command::Rebuilt { .. } => {}
            }
        }
        if sink_changed {
            let key = keys::name(Tag::Sink, SinkRecord::KEY);
            staged.writes.put(key, codec::encode(SinkRecord::VERSION, &self.sink));
        }
        self.add_attempts(attempts, staged)
    }
}

/// What the tables show otherwise than the memberships say, because ids changed or profiles became one.
#[derive(Default)]
struct Merged {
    /// Memberships shown under the present id.
    shown: HashMap<u32, Vec<u16>>,
    /// Memberships shown under ids that are gone.
    moved: Vec<Moved>,
    /// Whose they are: every segment is judged anew.
    whole: Vec<u32>,
    /// Of journeys that end with it.
    steps: Vec<StepRow>,
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
