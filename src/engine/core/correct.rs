//! Corrections of identity: a cut, a ban or a struck event, and the rebuild that it asks for.
//!
//! 1. [`Core::begin_correction`]: the correction is durable and in force from this commit on; the person it touches is
//!    marked as being rebuilt from the history up to the commit before.
//! 2. Live events of that person go on as usual, and are kept for the rebuild as well ([`Core::keep_for_rebuild`]). If the
//!    person is merged meanwhile, the rebuild begins anew with the merged one ([`Core::follow_rebuild`]).
//! 3. [`Core::finish_rebuild`]: once history has been read, one commit switches to what it came to, with all
//!    that has to be said about it.
//!
//! A crash anywhere before 3 is durable reads the history again: nothing of a rebuild is visible before the switch.

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use super::*;
use crate::engine::history::Stored;
use crate::engine::shadow::{Group, Rebuilt, Shadow};
use crate::engine::{Corrected, rows};
use crate::identity::{Correction, IdentifierRow, Merge, Named};
use crate::segment::Cause;

/// The rebuild that is under way, under `Tag::Engine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebuildRecord {
    pub correction: Correction,
    /// Under which the correction is stored.
    pub correction_number: u64,
    /// The person, by one of their identifiers' numbers.
    pub number: ProfileNumber,
    /// History is read up to this commit.
    pub upto: u64,
    /// Goes up when the rebuild begins anew.
    pub generation: u32,
    /// Whether entries and exits that it finds set off activations.
    pub activate: bool,
}

impl RebuildRecord {
    pub const VERSION: u8 = 1;
    pub const KEY: &str = "rebuild";
}

/// How a correction began.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It cannot be made, and nothing was changed.
    Refused(String),
    /// It is in force and there is nothing to rebuild.
    Done,
    /// It is in force; the rebuild is under way.
    Rebuilding,
}

impl Core {
    /// Makes a correction durable and finds out what has to be rebuilt.
    pub async fn begin_correction(
        &mut self,
        request: &CorrectionRequest,
        staged: &mut Staged,
    ) -> Result<Begun, EngineError> {
        let CorrectionRequest { correction, identifier_types, struck_profile, activate } = request;
        let types = &self.identities.plan().types;
        if !types.iter().map(|kind| &kind.name).eq(identifier_types) {
            return Ok(Begun::Refused(
                "the running process has other identifier types than the definitions here; restart it first"
                    .to_string(),
            ));
        }
        if let Some(job) = &self.rebuild {
            // Asked for once more, as after a crash: whoever asks waits for the rebuild that is under way.
            return Ok(match job.correction == *correction {
                true => Begun::Rebuilding,
                false => {
                    Begun::Refused("another correction is being carried out; try again when it is done".to_string())
                }
            });
        }
        let number = match correction {
            Correction::Cut(a, b) => {
                let (first, second) = (self.number_of(a).await?, self.number_of(b).await?);
                let (Some(first), Some(second)) = (first, second) else {
                    let unknown = if first.is_none() { a } else { b };
                    return Ok(Begun::Refused(format!("no event has named {}", self.written(unknown))));
                };
                // Strangers stay strangers; only what is joined has to be taken apart.
                (first == second).then_some(first)
            }
            Correction::Ban(named) => self.number_of(named).await?,
            Correction::Strike { .. } => match struck_profile {
                Some(id) => self.number_of_id(*id).await?,
                None => None,
            },
        };
        let plan = self.identities.plan().clone();
        if self.identities.corrections.holds(&plan, correction) {
            return Ok(Begun::Done);
        }
        let correction_number = self.record.next_correction;
        self.record.next_correction += 1;
        let key = keys::number(Tag::Correction, correction_number);
        staged.writes.put(key, codec::encode(Correction::VERSION, correction));
        self.identities.corrections.add(&plan, correction);
        let Some(number) = number else { return Ok(Begun::Done) };
        let job = RebuildRecord {
            correction: correction.clone(),
            correction_number,
            number,
            upto: staged.commit - 1,
            generation: 0,
            activate: *activate,
        };
        self.set_rebuild(Some(job), staged);
        Ok(Begun::Rebuilding)
    }

    /// Every id that the person being rebuilt was ever shown under.
    pub async fn ids_to_rebuild(&mut self) -> Result<Vec<ProfileId>, EngineError> {
        let Some(job) = self.rebuild.clone() else { return Ok(Vec::new()) };
        self.load_component(job.number).await?;
        let component = self.identities.components.get(&job.number);
        Ok(component
            .map(|component| component.former_ids().iter().copied().chain([component.id]).collect())
            .unwrap_or_default())
    }

    /// Keeps this commit's events of the person being rebuilt, as they are stored.
    pub(super) fn keep_for_rebuild(&mut self, resolved: &Resolved, staged: &mut Staged) -> Result<(), EngineError> {
        let Some(job) = &self.rebuild else { return Ok(()) };
        if job.upto == staged.commit || !resolved.numbers.contains(&job.number) {
            return Ok(());
        }
        let Some((_, rows)) = staged.rows.iter().find(|(table, _)| table.name == self.tables.events.name) else {
            return Ok(());
        };
        let mine: BooleanArray = resolved.numbers.iter().map(|number| Some(*number == job.number)).collect();
        let rows = filter_record_batch(rows, &mine)
            .map_err(|error| EngineError::Internal(format!("keeping events for a rebuild: {error}")))?;
        staged.writes.put(keys::number(Tag::Rebuild, staged.commit), outbox::encode(&rows)?);
        self.kept.push(staged.commit);
        Ok(())
    }

    /// If the person being rebuilt was merged in this commit, the rebuild begins anew with the merged one.
    pub(super) fn follow_rebuild(&mut self, resolved: &Resolved, staged: &mut Staged) {
        let Some(mut job) = self.rebuild.clone() else { return };
        let merged = resolved.absorbed.iter().find(|(loser, into)| *loser == job.number || *into == job.number);
        let Some((_, into)) = merged else { return };
        job.number = *into;
        job.upto = staged.commit;
        job.generation += 1;
        self.kept.drain(..).for_each(|commit| staged.writes.delete(keys::number(Tag::Rebuild, commit)));
        self.set_rebuild(Some(job), staged);
    }

    fn set_rebuild(&mut self, job: Option<RebuildRecord>, staged: &mut Staged) {
        let key = keys::name(Tag::Engine, RebuildRecord::KEY);
        match &job {
            Some(job) => staged.writes.put(key, codec::encode(RebuildRecord::VERSION, job)),
            None => staged.writes.delete(key),
        }
        self.rebuild = job;
    }

    /// Switches to what the history came to. The commit before must be durable, and no other may follow this one
    /// before it is.
    ///
    /// # Errors
    /// Besides the store's: the history is not of the shape that was asked for, a fault of ours.
    pub async fn finish_rebuild(
        &mut self,
        mut shadow: Shadow,
        now: TimeUs,
    ) -> Result<(Staged, Corrected), EngineError> {
        let Some(job) = self.rebuild.clone() else {
            return Err(EngineError::Internal("a rebuild ended that was not begun".to_string()));
        };
        let mut staged = self.begin(now);
        // The live events since, which the history does not have.
        for commit in std::mem::take(&mut self.kept) {
            let key = keys::number(Tag::Rebuild, commit);
            if let Some(value) = self.store.get(&key).await? {
                shadow.take(&Stored::of(&outbox::decode(&value)?, &self.restore, &HashMap::new())?)?;
            }
            staged.writes.delete(key);
        }
        self.load_component(job.number).await?;
        self.load_profiles(&[job.number], &Resolved::default(), ProfileNumber::MAX).await?;
        let (Some(component), Some(profile)) =
            (self.identities.components.remove(&job.number), self.profiles.remove(&job.number))
        else {
            return Err(EngineError::Internal(format!("profile {} is to be rebuilt and is not there", job.number)));
        };
        self.set_rebuild(None, &mut staged);
        if shadow.events() as i64 != profile.events {
            let (found, wanted) = (shadow.events(), profile.events);
            staged.writes.delete(keys::number(Tag::Correction, job.correction_number));
            let plan = self.identities.plan().clone();
            self.identities.corrections.remove(&plan, &job.correction);
            self.identities.components.insert_clean(job.number, component);
            self.profiles.insert_clean(job.number, profile);
            let refused = Corrected {
                refused: Some(format!(
                    "the history of this profile is not whole: it has {wanted} events and {found} of them are stored; \
                     what was removed cannot be rebuilt, so nothing was changed"
                )),
                ..Corrected::default()
            };
            self.seal(&mut staged)?;
            return Ok((staged, refused));
        }
        let corrected = self.switch(&job, *component, profile, shadow.finish(), &mut staged).await?;
        self.seal(&mut staged)?;
        Ok((staged, corrected))
    }

    async fn switch(
        &mut self,
        job: &RebuildRecord,
        old: Component,
        live: Profile,
        rebuilt: Rebuilt,
        staged: &mut Staged,
    ) -> Result<Corrected, EngineError> {
        let commit = staged.commit;
        let cause = job.correction.cause();
        let Rebuilt { mut groups, rows } = rebuilt;
        let place = keep_own(&mut groups, &old, &self.traits.plans);
        old.delete(job.number, &mut staged.writes);
        staged.writes.delete(keys::profile(job.number));

        // The largest keeps the number.
        let numbers: Vec<ProfileNumber> = (0..groups.len())
            .map(|index| {
                if index == 0 {
                    return job.number;
                }
                self.identities.next_number += 1;
                self.identities.next_number - 1
            })
            .collect();
        let plan = self.identities.plan().clone();
        for Group { component, profile } in &mut groups {
            if let Some(id) = component.derive_id(&plan) {
                component.id = id;
            }
            profile.id = component.id;
        }

        // Every id ever shown goes to whoever has the identifier it was made of. One whose identifier is nobody's now
        // stands for itself, since the identifier may come again; a banned one cannot, so its id goes to the largest.
        let mut owner: HashMap<ProfileId, usize> = HashMap::new();
        let mut left: HashMap<u128, &crate::identity::Identifier> =
            old.identifiers().iter().map(|known| (known.hash, known)).collect();
        for (index, group) in groups.iter().enumerate() {
            for known in group.component.identifiers() {
                left.remove(&known.hash);
                owner.insert(plan.profile_id(known.kind, &known.value), index);
            }
        }
        let banned = |known: &crate::identity::Identifier| match &job.correction {
            Correction::Ban(named) => named.kind == known.kind && named.value == known.value,
            _ => false,
        };
        let vanished: HashSet<ProfileId> = left
            .values()
            .filter(|known| !banned(known) || groups.is_empty())
            .map(|known| plan.profile_id(known.kind, &known.value))
            .collect();
        let message_id: Box<str> = match &job.correction {
            Correction::Strike { message_id, .. } => message_id.clone(),
            _ => "".into(),
        };
        let merged_at = self.record.now;
        let mut merges = Vec::new();
        let mut now_is: HashMap<ProfileId, ProfileId> = HashMap::new();
        for shown in old.former_ids().iter().chain([&old.id]) {
            let new = if vanished.contains(shown) || groups.is_empty() {
                staged.writes.delete(keys::alias(*shown));
                *shown
            } else {
                let index = owner.get(shown).copied().unwrap_or(0);
                let new = groups[index].component.id;
                staged.writes.put(keys::alias(*shown), codec::encode(1, &numbers[index]));
                if new != *shown {
                    groups[index].component.add_former_id(*shown);
                }
                new
            };
            now_is.insert(*shown, new);
            // The tables lead every former id to the old id, and the old id to itself.
            if new != old.id {
                merges.push(Merge { old: *shown, new, cause, message_id: message_id.clone(), merged_at });
            }
        }

        // Memberships go on where the id does; who comes back to life begins without any.
        let members: Vec<bool> = live.memberships.iter().map(|membership| membership.member).collect();
        let mut shown: Vec<Vec<bool>> = Vec::with_capacity(groups.len());
        for Group { profile, .. } in &mut groups {
            let goes_on = profile.id == old.id;
            for (mine, was) in profile.memberships.iter_mut().zip(&live.memberships) {
                // The number of entries goes on for all, so that no later entry has an id that was used.
                *mine = crate::profile::Membership { member: goes_on && was.member, entries: was.entries };
            }
            shown.push(if goes_on { members.clone() } else { vec![false; members.len()] });
        }
        let gone = !groups.iter().any(|group| group.profile.id == old.id);
        let moved: Vec<Moved> =
            if gone && !groups.is_empty() { vec![Moved { into: 0, id: old.id, member: members }] } else { Vec::new() };

        let (components, mut profiles): (Vec<Component>, Vec<Profile>) =
            groups.into_iter().map(|group| (group.component, group.profile)).unzip();
        let traits = self.traits.columns(&profiles)?;
        let mut transitions = self.segments.judge(&traits, &mut profiles, &shown, &moved)?;
        let ids: Vec<ProfileId> = profiles.iter().map(|profile| profile.id).collect();
        let mut as_of: Vec<TimeUs> = profiles.iter().map(|profile| profile.as_of).collect();
        if profiles.is_empty() {
            // Nobody is left to be judged.
            as_of.push(live.as_of);
            let held = live.memberships.iter().enumerate().filter(|(_, membership)| membership.member);
            transitions.extend(held.map(|(segment, membership)| Transition {
                profile: 0,
                segment: segment as u16,
                id: old.id,
                entered: false,
                cause: Cause::Split,
                entry: membership.entries,
            }));
        }

        // Identifiers, all of them: those of the tables were written under ids that may mean another person now.
        let mut identifier_rows = Vec::new();
        for (component, number) in components.iter().zip(&numbers) {
            for known in component.identifiers() {
                identifier_rows.push(row_of(known, *number));
                if *number != job.number {
                    self.identities.identifiers.insert_dirty(known.hash, *number, commit);
                    staged.writes.put(keys::identifier(known.hash), codec::encode(1, number));
                }
            }
        }
        for known in left.values() {
            identifier_rows.push(row_of(known, NO_PROFILE));
            self.identities.identifiers.remove(&known.hash);
            staged.writes.delete(keys::identifier(known.hash));
        }
        for (number, mut component) in numbers.iter().zip(components) {
            staged.writes.put(keys::alias(component.id), codec::encode(1, number));
            component.forget_stored();
            component.write(*number, &mut staged.writes);
            self.identities.components.insert_dirty(*number, Box::new(component), commit);
        }

        // After the components, which bodies are made of. Of someone who is no more there is nothing to say.
        if job.activate && !profiles.is_empty() {
            let touched = Touched::these(&numbers, &ids);
            let none = EventBatch { batch: RecordBatch::new_empty(self.restore.schema()) };
            self.activate(&none, &touched, &traits, &profiles, &transitions, staged).await?;
        }
        transitions.iter_mut().for_each(|transition| transition.cause = Cause::Split);

        let moves: Vec<rows::EventMove> = rows
            .into_iter()
            .filter_map(|row| {
                let new = row.group.and_then(|index| Some(ids[*place.get(index)?]));
                let was = row.was.map(|id| now_is.get(&id).copied().unwrap_or(id));
                (was != new).then_some(rows::EventMove { place: row.place, message_id: row.message_id, to: new })
            })
            .collect();

        let corrected = Corrected {
            refused: None,
            profiles: ids.iter().map(ToString::to_string).collect(),
            was: old.id.to_string(),
            events_moved: moves.len() as u64,
            entered: transitions.iter().filter(|transition| transition.entered).count() as u64,
            exited: transitions.iter().filter(|transition| !transition.entered).count() as u64,
        };
        let gone: Vec<Gone> = if gone { vec![Gone { id: old.id, as_of: live.as_of }] } else { Vec::new() };
        self.count_transitions(&transitions);
        self.record.totals.profiles = (self.record.totals.profiles + ids.len() as u64).saturating_sub(1);
        self.record.totals.identifiers = self.record.totals.identifiers.saturating_sub(left.len() as u64);
        let id_of: HashMap<ProfileNumber, ProfileId> = numbers.iter().copied().zip(ids.iter().copied()).collect();
        let tables = &self.tables;
        for (table, batch) in [
            (&tables.profiles, rows::profiles(&tables.profiles, &ids, &traits, &as_of[..ids.len()], &gone, commit)?),
            (&tables.identifiers, rows::identifiers(&tables.identifiers, &plan, &identifier_rows, &id_of, commit)?),
            (&tables.profile_merges, rows::profile_merges(&tables.profile_merges, &merges, commit)?),
            (
                &tables.segment_changes,
                rows::segment_changes(&tables.segment_changes, &self.segment_names, &transitions, &as_of, commit)?,
            ),
            (&tables.event_moves, rows::event_moves(&tables.event_moves, &moves, cause, commit)?),
        ] {
            if batch.num_rows() > 0 {
                staged.rows.push((table.clone(), batch));
            }
        }
        for (number, profile) in numbers.iter().zip(profiles) {
            let record = ProfileRecord::store(&profile, &self.slots);
            staged.writes.put(keys::profile(*number), codec::encode(ProfileRecord::VERSION, &record));
            self.profiles.insert_dirty(*number, profile, commit);
        }
        Ok(corrected)
    }

    async fn load_component(&mut self, number: ProfileNumber) -> Result<(), EngineError> {
        if self.identities.components.get(&number).is_none() {
            self.load_components(vec![number]).await?;
        }
        Ok(())
    }

    async fn number_of(&self, named: &Named) -> Result<Option<ProfileNumber>, EngineError> {
        let hash = self.identities.plan().identifier_hash(named.kind, &named.value);
        if let Some(number) = self.identities.identifiers.get(&hash) {
            return Ok(Some(*number));
        }
        let stored = self.store.get(&keys::identifier(hash)).await?;
        Ok(stored.map(|value| codec::decode(1, "identifier", &value)).transpose()?)
    }

    async fn number_of_id(&self, id: ProfileId) -> Result<Option<ProfileNumber>, EngineError> {
        let stored = self.store.get(&keys::alias(id)).await?;
        Ok(stored.map(|value| codec::decode(1, "alias", &value)).transpose()?)
    }

    fn written(&self, named: &Named) -> String {
        let kind = self.identities.plan().types.get(named.kind as usize).map_or("?", |kind| kind.name.as_str());
        format!("{kind}:{}", named.value)
    }
}

fn row_of(known: &crate::identity::Identifier, number: ProfileNumber) -> IdentifierRow {
    IdentifierRow { kind: known.kind, value: known.value.clone(), number, linked_at: known.linked_at }
}

/// Identifiers that have gone to another person since (`reassign`) stay there; their early events stay here, with the
/// largest group where they stand alone. Gives the new place of each group.
fn keep_own(groups: &mut Vec<Group>, old: &Component, plans: &[crate::profile::TraitPlan]) -> Vec<usize> {
    let own: HashSet<u128> = old.identifiers().iter().map(|known| known.hash).collect();
    for group in groups.iter_mut() {
        let foreign = group.component.identifiers().iter().map(|known| known.hash).filter(|hash| !own.contains(hash));
        for hash in foreign.collect::<Vec<_>>() {
            group.component.remove(hash);
        }
    }
    let (mut own, mut place): (Vec<Group>, Vec<usize>) = (Vec::new(), Vec::new());
    for group in std::mem::take(groups) {
        match own.first_mut() {
            Some(first) if group.component.identifiers().is_empty() => {
                first.profile.merge(plans, group.profile);
                place.push(0);
            }
            _ => {
                place.push(own.len());
                own.push(group);
            }
        }
    }
    *groups = own;
    place
}
