//! Judging profiles: after their events, and before them at the moments when something was due.

use super::*;
use crate::activation::StageMove;
use crate::profile::{Change, Membership};
use crate::segment::{Cause, Judged, Touch};

/// Timers that are fired in one commit, so that a storm of them starves no event.
const TIMERS_AT_ONCE: usize = 10_000;

/// What judging has found in one commit.
#[derive(Default)]
pub(crate) struct Findings {
    pub transitions: Vec<Transition>,
    pub stages: Vec<StageChange>,
}

/// Someone is in another stage of a trait.
pub(crate) struct StageChange {
    pub trait_index: u16,
    pub id: ProfileId,
    pub from: Option<u16>,
    pub to: Option<u16>,
    pub cause: Cause,
    pub at: TimeUs,
}

/// Profiles to be judged, all at once; all of one kind.
pub(super) struct Round<'a> {
    /// Whose the profiles are.
    pub numbers: &'a [ProfileNumber],
    /// The moment, for each.
    pub now: &'a [TimeUs],
    pub touch: &'a Touch,
    pub new: &'a [u32],
    pub whole: &'a [u32],
    pub shown: &'a HashMap<u32, Vec<u16>>,
    pub moved: &'a [Moved],
    pub cause: Cause,
    /// The events that touched them, and which is whose: for what reacts to events.
    pub events: Option<(&'a EventBatch, &'a [Option<u32>])>,
    pub activate: bool,
}

impl Core {
    /// Judges profiles of one kind at their moments, sets their timers, and lets activations react. Gives their trait columns.
    pub(super) async fn judge(
        &mut self,
        profiles: &mut [Profile],
        round: Round<'_>,
        findings: &mut Findings,
        staged: &mut Staged,
    ) -> Result<RecordBatch, EngineError> {
        let kind = profiles.first().map_or(0, Profile::kind);
        let group = self.groups.iter().find(|group| group.kind == kind);
        let (own_traits, own_segments) = match group {
            Some(group) => (&group.traits, &group.segments),
            None => (&self.traits, &self.segments),
        };
        let traits = own_traits.columns(profiles, round.now)?;
        let listed = if kind == 0 { self.listed(&round) } else { HashMap::new() };
        let judged = Judged {
            traits: &traits,
            now: round.now,
            touch: round.touch,
            new: round.new,
            whole: round.whole,
            shown: round.shown,
            moved: round.moved,
            listed: &|row, segment| listed.get(&(row, segment)).copied(),
            cause: round.cause,
        };
        let transitions = own_segments.judge(&judged, profiles)?;
        let stages = own_traits.find_stages(&traits, profiles);
        for (row, profile) in profiles.iter_mut().enumerate() {
            let now = round.now[row];
            profile.as_of = profile.as_of.max(now);
            profile.timer = own_segments.next_flip(own_traits, &traits, row, profile, now);
        }
        if kind == 0 {
            if round.activate {
                let moves: Vec<StageMove> = stages.iter().map(|change| self.stage_move(change, &round)).collect();
                self.activate(&round, &traits, profiles, &transitions, &moves, staged).await?;
            }
            // Also after corrections that set nothing off: the other side is to have who belongs.
            self.keep_audiences(&round, &traits, profiles, staged).await?;
            for (row, profile) in profiles.iter_mut().enumerate() {
                let is_member = |segment| profile.membership(segment).member;
                let journeys = profile.journeys.as_deref();
                let due = self.activations.next_due(journeys, &is_member, round.now[row]);
                profile.timer = profile.timer.min(due).min(self.audiences.next_due(journeys));
            }
        }
        findings.stages.extend(stages.iter().map(|change| StageChange {
            trait_index: change.trait_index,
            id: profiles[change.profile as usize].id,
            from: change.from,
            to: change.to,
            cause: round.cause,
            at: round.now[change.profile as usize],
        }));
        findings.transitions.extend(transitions);
        Ok(traits)
    }

    fn stage_move(&self, change: &Change, round: &Round<'_>) -> StageMove {
        let plan = &self.traits.plans[usize::from(change.trait_index)];
        StageMove {
            profile: change.profile,
            trait_name: plan.name.clone(),
            from: plan.stage(change.from).map(str::to_string),
            to: plan.stage(change.to).map(str::to_string),
            slot: self.slots.of_kind(0).traits.get(usize::from(change.trait_index)).copied().unwrap_or_default(),
            number: change.number,
            cause: round.cause,
            at: round.now[change.profile as usize],
        }
    }

    /// Fires what was due before `now`, in order, each timer with its own time as `now` (SEMANTICS §1).
    pub(super) async fn fire_due(
        &mut self,
        profiles: &mut [Profile],
        numbers: &[ProfileNumber],
        findings: &mut Findings,
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let now = self.record.now;
        loop {
            let due: Vec<usize> = (0..profiles.len()).filter(|index| profiles[*index].timer <= now).collect();
            if due.is_empty() {
                return Ok(());
            }
            metrics::counter!("tributary_timers_fired_total").increment(due.len() as u64);
            let moments: Vec<TimeUs> = due.iter().map(|index| profiles[*index].timer).collect();
            let whose: Vec<ProfileNumber> = due.iter().map(|index| numbers[*index]).collect();
            let mut fired: Vec<Profile> = due.iter().map(|index| profiles[*index].take()).collect();
            for (profile, at) in fired.iter_mut().zip(&moments) {
                self.traits_of(profile.kind()).settle(profile, *at);
            }
            let touch = Touch { time: true, ..Touch::default() };
            let round = Round {
                numbers: &whose,
                now: &moments,
                touch: &touch,
                new: &[],
                whole: &[],
                shown: &HashMap::new(),
                moved: &[],
                cause: Cause::Time,
                events: None,
                activate: true,
            };
            self.judge(&mut fired, round, findings, staged).await?;
            for (index, profile) in due.into_iter().zip(fired) {
                profiles[index] = profile;
            }
        }
    }

    /// When the next timer or scan is due.
    pub fn next_due(&self) -> TimeUs {
        self.timers.next_due().min(self.scan_due())
    }

    /// Whether timers can only be fired once every commit so far is durable.
    pub fn must_read_timers(&self) -> bool {
        self.timers.must_read(self.record.now)
    }

    /// Fires timers that are due at `now`, a commit of its own; nothing where none is. Profiles whose events come fire
    /// theirs before ([`Core::fire_due`]); this is for all others.
    pub async fn fire_timers(&mut self, now: TimeUs) -> Result<Option<Staged>, EngineError> {
        if self.timers.next_due() > now.max(self.record.now) {
            return Ok(None);
        }
        let mut staged = self.begin(now);
        if self.timers.must_read(self.record.now) {
            self.timers.read(&*self.store, self.record.now).await?;
        }
        let mut numbers = self.timers.take(self.record.now, TIMERS_AT_ONCE);
        if numbers.is_empty() {
            return Ok(None);
        }
        numbers.sort_unstable();
        numbers.dedup();
        let profiles = self.take_stored(&mut numbers).await?;
        for Kindred { kind, numbers, mut profiles } in Kindred::of(numbers, profiles) {
            if !self.knows_kind(kind) {
                // It is about to be let go of.
                continue;
            }
            let stored: Vec<TimeUs> = profiles.iter().map(|profile| profile.timer).collect();
            if kind == 0 {
                self.note_for_scan(&numbers, &profiles, &mut staged)?;
            }
            let mut findings = Findings::default();
            self.fire_due(&mut profiles, &numbers, &mut findings, &mut staged).await?;
            self.add_changed(&profiles, &findings, &mut staged)?;
            self.put_profiles(&numbers, profiles, &stored, &mut staged);
        }
        self.profiles.shrink();
        self.seal(&mut staged)?;
        Ok(Some(staged))
    }

    /// Rows for what was found, and for the profiles (of one kind) that it was found in.
    pub(super) fn add_changed(
        &mut self,
        profiles: &[Profile],
        findings: &Findings,
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let changed: hashbrown::HashSet<ProfileId> =
            findings.transitions.iter().map(|t| t.id).chain(findings.stages.iter().map(|stage| stage.id)).collect();
        let shown: Vec<Profile> = profiles.iter().filter(|profile| changed.contains(&profile.id)).cloned().collect();
        self.add_found(profiles, &shown, findings, staged)
    }

    /// Takes profiles that are stored out of the cache, loading what is not there; `numbers` loses those that are gone.
    pub(super) async fn take_stored(&mut self, numbers: &mut Vec<ProfileNumber>) -> Result<Vec<Profile>, EngineError> {
        let missing: Vec<ProfileNumber> =
            numbers.iter().copied().filter(|number| self.profiles.get(number).is_none()).collect();
        let found = self.read_profiles(missing).await?;
        for (number, profile) in found {
            if let Some(profile) = profile {
                self.profiles.insert_clean(number, profile);
            }
        }
        let taken: Vec<Option<Profile>> = numbers.iter().map(|number| self.profiles.remove(number)).collect();
        let mut there = taken.iter().map(Option::is_some);
        numbers.retain(|_| there.next().unwrap_or(false));
        Ok(taken.into_iter().flatten().collect())
    }

    /// Stores profiles with their timers; `stored` are the timers that the store knows of them.
    pub(super) fn put_profiles(
        &mut self,
        numbers: &[ProfileNumber],
        profiles: Vec<Profile>,
        stored: &[TimeUs],
        staged: &mut Staged,
    ) {
        for ((number, profile), before) in numbers.iter().zip(profiles).zip(stored) {
            self.set_timer(*number, *before, profile.timer, staged);
            staged.writes.put(keys::profile(*number), ProfileRecord::encode(&profile, &self.slots));
            self.profiles.insert_dirty(*number, profile, staged.commit);
        }
    }

    pub(super) fn set_timer(&mut self, number: ProfileNumber, before: TimeUs, due: TimeUs, staged: &mut Staged) {
        if before == due {
            // It may have been taken to be fired, and is not due after all.
            if due != TimeUs::MAX {
                self.timers.set(due, number);
            }
            return;
        }
        if before != TimeUs::MAX {
            staged.writes.delete(keys::timer(before, number));
            self.timers.remove(before, number);
        }
        if due != TimeUs::MAX {
            staged.writes.put(keys::timer(due, number), Bytes::new());
            self.timers.set(due, number);
        }
    }

    /// Who of a round is in which list, as far as that may have changed: new people, merged ones, and those with another
    /// identifier than before.
    fn listed(&self, round: &Round<'_>) -> HashMap<(u32, u16), bool> {
        let mut listed = HashMap::new();
        if self.lists.is_empty() {
            return listed;
        }
        let again = round.new.iter().chain(round.whole).copied();
        let relinked = round.numbers.iter().enumerate().filter(|(_, number)| self.relinked.contains(*number));
        for row in again.chain(relinked.map(|(row, _)| row as u32)) {
            let Some(component) = self.identities.components.get(&round.numbers[row as usize]) else { continue };
            for segment in self.lists.segments() {
                let is = component.identifiers().iter().any(|known| self.lists.holds(segment, known.hash));
                listed.insert((row, segment), is);
            }
        }
        listed
    }
}

/// Memberships that the tables show under an id that another profile takes over.
pub(super) fn member_of(memberships: &[(u16, Membership)]) -> Vec<u16> {
    memberships.iter().filter(|(_, membership)| membership.member).map(|(segment, _)| *segment).collect()
}
