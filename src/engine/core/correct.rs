//! Corrections of identity: a cut, a ban or a struck event, and the rebuild that it asks for.
//!
//! 1. [`Core::begin_correction`]: the correction is durable and in force from this commit on; the person it touches is
//!    marked as being rebuilt from the history up to the commit before.
//! 2. Live events of that person go on as usual, and are kept for the rebuild as well ([`Core::keep_for_rebuild`]). If the
//!    person is merged meanwhile, the rebuild begins anew with the merged one ([`Core::follow_rebuild`]).
//! 3. [`Core::finish_rebuild`]: once history has been read, one commit switches to what it came to (`switch`), with all
//!    that has to be said about it.
//!
//! A crash anywhere before 3 is durable reads the history again: nothing of a rebuild is visible before the switch.

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::*;
use crate::engine::Corrected;
use crate::engine::history::Stored;
use crate::engine::shadow::Shadow;
use crate::identity::{Correction, Named};

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
    generation: u32,
    /// Whether entries and exits that it finds set off activations.
    pub activate: bool,
}

impl RebuildRecord {
    pub const VERSION: u8 = 1;
    pub const KEY: &str = "rebuild";

    /// Which reading of the history it asks for: one for an earlier correction, or from before it began anew, may still come to its end.
    pub fn reading(&self) -> Reading {
        Reading { correction_number: self.correction_number, generation: self.generation }
    }
}

/// A reading of one person's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    correction_number: u64,
    generation: u32,
}

/// The tables had not heard of an earlier correction when someone asked.
const OTHERS: &str = "the event belongs to another profile by now: the tables were behind; ask again";

/// How a correction began.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It cannot be made, and nothing was changed.
    Refused(String),
    /// It cannot be made now: another one is being carried out.
    Busy,
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
                false => Begun::Busy,
            });
        }
        if self.fill.is_some() {
            // Both would bring the past to the same traits.
            return Ok(Begun::Busy);
        }
        let number = match correction {
            Correction::Cut(a, b) => {
                let (first, second) = (self.number_of(a).await?, self.number_of(b).await?);
                let (Some(first), Some(second)) = (first, second) else {
                    let unknown = if first.is_none() { a } else { b };
                    return Ok(Begun::Refused(format!(
                        "no event has named {}",
                        self.identities.plan().written(unknown)
                    )));
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
        if struck_profile.is_some() && number.is_none() {
            return Ok(Begun::Refused(OTHERS.to_string()));
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

    /// An empty history of the person being rebuilt.
    pub fn shadow(&self, pipeline: &Pipeline, events: &SchemaRef) -> Result<Shadow, EngineError> {
        let unfilled = self.fill.as_ref().filter(|fill| fill.swept.is_none());
        let unfilled = unfilled.map(|fill| {
            let slots = self.slots.of_kind(0).traits.iter();
            (slots.map(|slot| fill.traits.contains(slot)).collect(), fill.upto)
        });
        Shadow::new(pipeline, events, self.identities.corrections.clone(), self.record.now, unfilled)
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
        staged.writes.put(keys::number(Tag::Rebuild, staged.commit), self.sealer.seal(&rows)?);
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
        let (found, wanted) = (shadow.events(), profile.events);
        let refused = match &job.correction {
            _ if found as i64 != wanted => Some(format!(
                "the history of this profile is not whole: it has {wanted} events and {found} of them are stored; what was \
                 removed cannot be rebuilt, so nothing was changed"
            )),
            Correction::Strike { source, message_id } if !shadow.holds(source, message_id) => Some(OTHERS.to_string()),
            _ => None,
        };
        if refused.is_some() {
            staged.writes.delete(keys::number(Tag::Correction, job.correction_number));
            let plan = self.identities.plan().clone();
            self.identities.corrections.remove(&plan, &job.correction);
            self.identities.components.insert_clean(job.number, component);
            self.profiles.insert_clean(job.number, profile);
            self.seal(&mut staged)?;
            return Ok((staged, Corrected { refused, ..Corrected::default() }));
        }
        let corrected = self.switch(&job, *component, profile, shadow.finish(), &mut staged).await?;
        self.seal(&mut staged)?;
        Ok((staged, corrected))
    }

    async fn load_component(&mut self, number: ProfileNumber) -> Result<(), EngineError> {
        if self.identities.components.get(&number).is_none() {
            self.load_components(vec![number]).await?;
        }
        Ok(())
    }

    async fn number_of(&self, named: &Named) -> Result<Option<ProfileNumber>, EngineError> {
        self.number_of_hash(self.identities.plan().identifier_hash(named.kind, &named.value)).await
    }

    /// Whose an identifier is.
    pub(super) async fn number_of_hash(&self, hash: u128) -> Result<Option<ProfileNumber>, EngineError> {
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
}
