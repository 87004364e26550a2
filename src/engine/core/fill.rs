//! Fills: a definition that is new or changed comes to know the past while the stream goes on.
//!
//! 1. A start finds out which traits and segments differ from those that the state knew ([`FillRecord::plan`]); all of
//!    them take part from this commit, C, on, and are not ready.
//! 2. The events of the commits up to C are read back and added to the new traits, chunk by chunk ([`Core::add_chunk`]): a chunk
//!    and the place up to which it reaches are one commit. Accumulators do not mind the order, so what comes live meanwhile
//!    just adds up (SEMANTICS §10).
//! 3. Everyone is judged anew, some at a time ([`Core::sweep`]), with cause `fill`. Whoever an event touches before their turn is
//!    judged at once, so that what the past says and what the event does are told apart ([`Core::sweep_ahead`]).
//! 4. Then what was filled is ready.
//!
//! A crash goes on after the last chunk or the last profile. A start with yet other definitions begins anew, in new slots.

use serde::{Deserialize, Serialize};

use super::*;
use crate::definition::Pipeline;
use crate::engine::history::{HistoryFilter, Stored};
use crate::profile::{Differences, Differs, SlotOf, SlotsOfKind, TraitPlan, TraitRule};

/// Profiles that are read at once.
pub(super) const PROFILES_AT_ONCE: usize = 5_000;

/// The fill that is under way, under `Tag::Engine`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FillRecord {
    /// Slots of the traits that do not know the past yet.
    pub traits: Vec<u32>,
    /// Slots of the segments that everyone has to be judged for.
    pub segments: Vec<u32>,
    /// Slots of the definitions whose groups are still to be found in the past.
    pub groups: Vec<u32>,
    /// Segments that are defined no more: whoever is in them leaves.
    pub removed: Vec<SlotOf>,
    /// Slot and name of definitions that made groups which are to be let go of.
    pub gone: Vec<(u32, String)>,
    /// They have been let go of up to this number; None: there are none left.
    pub let_go: Option<ProfileNumber>,
    /// History is read up to this commit.
    pub upto: u64,
    /// `_batch` and `_seq` of the last event that was added; None: none yet.
    pub cursor: Option<(u64, u32)>,
    /// Events that were added.
    pub events: u64,
    /// The profile up to which everyone was judged; None while history is read.
    pub swept: Option<ProfileNumber>,
    /// Journeys have begun or ceased to wait for time: everyone's timer is set anew.
    pub journeys: bool,
}

/// The next events of a fill.
#[derive(Debug)]
pub struct Chunk {
    pub stored: Stored,
    /// All events up to this place have been given.
    pub cursor: (u64, u32),
}

impl FillRecord {
    pub const VERSION: u8 = 3;
    pub const KEY: &str = "fill";

    /// What is left of a fill that was not finished, and what the definitions bring. `again` are the slots of traits that are to
    /// be filled once more though nothing is new about them.
    pub(super) fn plan(
        unfinished: Option<FillRecord>,
        differences: &Differences,
        again: &[u32],
        slots: &mut Slots,
        pipeline: &Pipeline,
        journeys: bool,
        commit: u64,
    ) -> Option<FillRecord> {
        let defined: usize = pipeline.defined().iter().map(|of| of.segments.len()).sum();
        // One whose members were leaving, and that is defined again as it was.
        let comes_back = |gone: &SlotOf| slots.segments()[..defined].iter().any(|slot| slot.slot == gone.slot);
        let comes_back = unfinished.iter().flat_map(|fill| &fill.removed).any(comes_back);
        if *differences == Differences::default() && again.is_empty() && !comes_back && !journeys {
            return unfinished;
        }
        let old = unfinished.unwrap_or_default();
        let half_done: Vec<u32> = [&old.traits, &old.groups, again].concat();
        let mut gone = if old.let_go.is_some() { old.gone } else { Vec::new() };
        let replaced = slots.groups().iter().filter(|group| half_done.contains(&group.slot));
        gone.extend(replaced.chain(&differences.removed_groups).map(|group| (group.slot, group.name.clone())));
        let (mut traits, mut groups) = slots.renew(&half_done);
        let renewed = traits.clone();
        let of = |differs: &[Differs]| differs.iter().map(|differs| differs.slot).collect::<Vec<u32>>();
        traits.extend(of(&differences.traits));
        groups.extend(of(&differences.groups));
        let defined = &slots.segments()[..defined];
        let mut segments = [old.segments, of(&differences.segments)].concat();
        for group in slots.groups() {
            let (of, other) = (slots.of_kind(group.slot), groups.contains(&group.slot));
            if other {
                // Of other groups everything is to be found.
                traits.extend(&of.traits);
            }
            // What reads a trait that is filled once more waits for it.
            if other || of.traits.iter().any(|slot| renewed.contains(slot)) {
                segments.extend(&of.segments);
            }
        }
        segments.retain(|segment| defined.iter().any(|slot| slot.slot == *segment));
        let mut removed = old.removed;
        // One that is defined again is not gone.
        removed.retain(|gone| defined.iter().all(|slot| slot.slot != gone.slot));
        removed.extend(differences.removed_segments.iter().cloned());
        segments.extend(removed.iter().map(|slot| slot.slot));
        for slots in [&mut traits, &mut segments] {
            slots.sort_unstable();
            slots.dedup();
        }
        let let_go = (!gone.is_empty()).then_some(0);
        let journeys = journeys || old.journeys;
        let mut record = FillRecord {
            traits,
            segments,
            groups,
            removed,
            gone,
            let_go,
            upto: commit,
            journeys,
            ..FillRecord::default()
        };
        if !record.reads_history(slots, pipeline) {
            record.swept = Some(0);
        }
        let nothing =
            record.traits.is_empty() && record.segments.is_empty() && record.let_go.is_none() && !record.journeys;
        (!nothing).then_some(record)
    }

    /// The profile up to which everyone was judged, once that has begun.
    pub(super) fn judged_upto(&self) -> Option<ProfileNumber> {
        self.swept.filter(|_| self.let_go.is_none())
    }

    /// How far it is, for people. `next_profile` as in the engine's record.
    pub fn progress(&self, next_profile: ProfileNumber) -> String {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let not_ready = match (self.traits.len(), self.segments.len()) {
            (0, 0) => "the times of journeys".to_string(),
            (0, segments) => count(segments, "segment"),
            (traits, 0) => count(traits, "trait"),
            (traits, segments) => format!("{} and {}", count(traits, "trait"), count(segments, "segment")),
        };
        let events = count(self.events as usize, "event");
        let profiles = next_profile.saturating_sub(1);
        let place = match self.swept {
            _ if self.let_go.is_some() => {
                let looked_at = self.let_go.unwrap_or_default();
                format!("groups of other definitions are let go of, {looked_at} of {profiles} profiles looked at")
            }
            None => format!("{events} read back, up to commit {} of {}", self.cursor.map_or(0, |at| at.0), self.upto),
            Some(swept) => {
                format!("{events} read back, {swept} of {profiles} profiles judged anew")
            }
        };
        format!("{not_ready} not ready: {place}")
    }

    /// Whether some trait that is filled is made of events.
    fn reads_history(&self, slots: &Slots, pipeline: &Pipeline) -> bool {
        !self.groups.is_empty() || self.plans(slots, pipeline).any(|plan| matches!(plan.rule, TraitRule::Events(_)))
    }

    fn plans<'a>(&'a self, slots: &'a Slots, pipeline: &'a Pipeline) -> impl Iterator<Item = &'a TraitPlan> {
        let groups = pipeline.groups.iter().zip(slots.groups());
        let groups = groups.flat_map(|(plan, group)| slots.of_kind(group.slot).traits.iter().zip(&plan.traits));
        let all = slots.of_kind(0).traits.iter().zip(&pipeline.traits).chain(groups);
        all.filter(|(slot, _)| self.traits.contains(slot)).map(|(_, plan)| plan)
    }

    /// What is not ready: traits until history has been read, segments until everyone is judged. While they are judged,
    /// they are judged for live events as well.
    pub(super) fn set_ready(&self, slots: &SlotsOfKind, traits: &mut [bool], segments: &mut [bool]) {
        let reading = self.judged_upto().is_none();
        for (slot, ready) in slots.traits.iter().zip(traits) {
            *ready = !reading || !self.traits.contains(slot);
        }
        for (slot, ready) in slots.segments.iter().zip(segments) {
            *ready = !reading || !self.segments.contains(slot);
        }
    }

    /// The events that are needed.
    pub fn filter(&self, slots: &Slots, pipeline: &Pipeline, now: TimeUs) -> HistoryFilter {
        if !self.groups.is_empty() {
            // All that there is of a group.
            return HistoryFilter::default();
        }
        let mut names: Option<Vec<String>> = Some(Vec::new());
        let mut since = Some(TimeUs::MAX);
        for plan in self.plans(slots, pipeline) {
            let TraitRule::Events(rule) = &plan.rule else { continue };
            names = match (names, &rule.events) {
                (Some(mut names), Some(more)) => {
                    names.extend(more.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
                    Some(names)
                }
                _ => None,
            };
            // What has left the window leaves no trace, but for a key that was there.
            let window = rule
                .window
                .filter(|_| rule.by.is_none())
                .map(|window| window.first_pane(now).saturating_mul(window.pane_us));
            since = since.zip(window).map(|(a, b)| a.min(b));
        }
        HistoryFilter { profiles: None, since: since.filter(|since| *since < TimeUs::MAX), events: names }
    }
}

impl Core {
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Adds events of the past to the traits that are filled.
    pub(super) async fn add_chunk(&mut self, chunk: &Chunk, staged: &mut Staged) -> Result<(), EngineError> {
        let Some(mut fill) = self.fill.clone().filter(|fill| fill.swept.is_none()) else { return Ok(()) };
        let Stored { events, profiles: ids, .. } = &chunk.stored;
        let mut numbers: Vec<ProfileNumber> = Vec::new();
        let mut index: HashMap<ProfileNumber, u32> = HashMap::new();
        let of_id = self.numbers_of_ids(ids.iter().flatten().copied().collect()).await?;
        let profile_of_row: Vec<Option<u32>> = ids
            .iter()
            .map(|id| {
                let number = *of_id.get(id.as_ref()?)?;
                Some(*index.entry(number).or_insert_with(|| {
                    numbers.push(number);
                    numbers.len() as u32 - 1
                }))
            })
            .collect();
        let wanted = numbers.len();
        let mut profiles = self.take_stored(&mut numbers).await?;
        if numbers.len() != wanted {
            return Err(StoreError::Damaged("an id leads to a profile that is not stored".to_string()).into());
        }
        let stored: Vec<TimeUs> = profiles.iter().map(|profile| profile.timer).collect();
        let of_groups = self.groups.iter().flat_map(|group| &group.traits.plans);
        let mut plans = self.traits.plans.iter().chain(of_groups);
        let ranked = plans.any(|plan| plan.event_rule().is_some_and(|r| r.ranks_by_identifier()));
        let best = if ranked { self.best_identifiers(&chunk.stored) } else { Vec::new() };
        let input = Input { events, profile_of_row: &profile_of_row, best: &best, now: self.record.now };
        let which: Vec<bool> = self.slots.of_kind(0).traits.iter().map(|slot| fill.traits.contains(slot)).collect();
        self.traits.apply(&input, Some(&which), &mut profiles)?;
        self.fill_groups(&fill, &input, &mut profiles, staged).await?;
        self.put_profiles(&numbers, profiles, &stored, staged);
        self.profiles.shrink();
        fill.events += events.len() as u64;
        fill.cursor = Some(chunk.cursor);
        self.set_fill(Some(fill), staged);
        Ok(())
    }

    /// The rank of each stored event's best identifier, among those that were kept.
    fn best_identifiers(&self, stored: &Stored) -> Vec<u64> {
        let extracted = extract(self.identities.plan(), &stored.events);
        let Identities { corrections, .. } = &self.identities;
        let best = |row| extracted.best_kept(row, &stored.decisions, self.identities.plan(), corrections);
        (0..stored.len()).map(best).collect()
    }

    async fn numbers_of_ids(&self, ids: HashSet<ProfileId>) -> Result<HashMap<ProfileId, ProfileNumber>, EngineError> {
        if let Some(aliases) = &self.aliases {
            return Ok(ids.into_iter().filter_map(|id| Some((id, aliases.get(id)?))).collect());
        }
        let store = &*self.store;
        let found: Vec<(ProfileId, Option<Bytes>)> = futures::stream::iter(ids)
            .map(|id| async move { Ok::<_, StoreError>((id, store.get(&keys::alias(id)).await?)) })
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let mut numbers = HashMap::with_capacity(found.len());
        for (id, value) in found {
            if let Some(value) = value {
                numbers.insert(id, codec::decode(1, "alias", &value)?);
            }
        }
        Ok(numbers)
    }

    /// All history has been read: from now on everyone is judged.
    pub(super) fn begin_sweep(&mut self, staged: &mut Staged) {
        let Some(fill) = self.fill.clone().filter(|fill| fill.swept.is_none()) else { return };
        self.aliases = None;
        self.set_fill(Some(FillRecord { swept: Some(0), ..fill }), staged);
    }

    pub(super) fn set_fill(&mut self, fill: Option<FillRecord>, staged: &mut Staged) {
        let key = keys::name(Tag::Engine, FillRecord::KEY);
        match &fill {
            Some(fill) => {
                staged.writes.put(key, codec::encode(FillRecord::VERSION, fill));
                fill.set_ready(self.slots.of_kind(0), &mut self.traits.ready, &mut self.segments.ready);
                for group in &mut self.groups {
                    fill.set_ready(self.slots.of_kind(group.kind), &mut group.traits.ready, &mut group.segments.ready);
                }
            }
            None => {
                staged.writes.delete(key);
                let people = (&mut self.traits, &mut self.segments);
                let groups = self.groups.iter_mut().map(|group| (&mut group.traits, &mut group.segments));
                for (traits, segments) in [people].into_iter().chain(groups) {
                    traits.ready.fill(true);
                    segments.ready.fill(true);
                }
            }
        }
        let phase = |fill: &Option<FillRecord>| fill.as_ref().map(|fill| fill.judged_upto().is_some());
        self.must_tell |= phase(&self.fill) != phase(&fill);
        self.fill = fill;
    }

    /// Whether everyone is being judged anew, or looked at for the borders of RFM traits, or for groups to let go of.
    pub fn is_sweeping(&self) -> bool {
        self.fill.as_ref().is_some_and(|fill| fill.swept.is_some() || fill.let_go.is_some()) || self.is_scoring()
    }

    /// Goes on with the next of all profiles, a commit of its own: for the fill, else for new borders, else for a scan, which
    /// begins where it is due. None when nothing is to be done. What was committed before must be durable.
    pub async fn sweep(&mut self, now: TimeUs) -> Result<Option<Staged>, EngineError> {
        if self.fill.is_some() {
            return self.sweep_fill(now).await;
        }
        self.record.now = self.record.now.max(now);
        self.begin_scan();
        match self.rescored() {
            Some(_) => self.rescore(now).await,
            None => self.scan(now).await,
        }
    }

    /// The next profiles after this one, in the cache, and whether they are the last.
    pub(super) async fn next_profiles(
        &mut self,
        after: ProfileNumber,
    ) -> Result<(Vec<ProfileNumber>, bool), EngineError> {
        let page =
            self.store.scan(&keys::prefix(Tag::Profile), Some(&keys::profile(after)), self.profiles_at_once).await?;
        let mut numbers = Vec::with_capacity(page.len());
        for (key, value) in &page {
            let Some(number) = keys::parse_number(key) else {
                return Err(StoreError::Damaged("a profile's key has another length".to_string()).into());
            };
            numbers.push(number);
            if self.profiles.get(&number).is_none() {
                let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", value)?;
                self.profiles.insert_clean(number, record.load(&self.slots));
            }
        }
        Ok((numbers, page.len() < self.profiles_at_once))
    }

    async fn sweep_fill(&mut self, now: TimeUs) -> Result<Option<Staged>, EngineError> {
        let Some(fill) = self.fill.clone() else { return Ok(None) };
        if let Some(after) = fill.let_go {
            return self.let_go(fill, after, now).await.map(Some);
        }
        let Some(swept) = fill.swept else { return Ok(None) };
        let mut staged = self.begin(now);
        let (mut numbers, done) = self.next_profiles(swept).await?;
        let last = numbers.last().copied().unwrap_or(swept);
        let profiles = self.take_stored(&mut numbers).await?;
        for Kindred { kind, numbers, mut profiles } in Kindred::of(numbers, profiles) {
            let stored: Vec<TimeUs> = profiles.iter().map(|profile| profile.timer).collect();
            let mut findings = Findings::default();
            self.judge_whole(&mut profiles, &numbers, Cause::Fill, &mut findings, &mut staged).await?;
            let of_kind = &self.slots.of_kind(kind).traits;
            if fill.groups.contains(&kind) || of_kind.iter().any(|slot| fill.traits.contains(slot)) {
                self.add_found(&profiles, &profiles, &findings, &mut staged)?;
            } else {
                self.add_changed(&profiles, &findings, &mut staged)?;
            }
            self.put_profiles(&numbers, profiles, &stored, &mut staged);
        }
        self.profiles.shrink();
        if done && !fill.removed.is_empty() {
            let gone = |name: &String| fill.removed.iter().any(|removed| removed.name == *name);
            self.record.segment_sizes.retain(|name, _| !gone(name));
            load::forget_segments(&*self.store, &fill.removed, &mut staged.writes).await?;
        }
        self.set_fill((!done).then_some(FillRecord { swept: Some(last), ..fill }), &mut staged);
        self.seal(&mut staged)?;
        Ok(Some(staged))
    }

    /// Judges those of a batch whose turn in the sweep (by their `own` numbers) has not come, before its events are applied.
    pub(super) async fn sweep_ahead(
        &mut self,
        profiles: &mut [Profile],
        numbers: &[ProfileNumber],
        own: &[ProfileNumber],
        findings: &mut Findings,
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let filled = self.fill.as_ref().and_then(FillRecord::judged_upto);
        // Groups are not scored.
        let people = profiles.first().is_none_or(|profile| profile.group.is_none());
        for (swept, cause) in [(filled, Cause::Fill), (self.rescored().filter(|_| people), Cause::Time)] {
            let Some(swept) = swept else { continue };
            let rows: Vec<usize> =
                (0..profiles.len()).filter(|row| own[*row] > swept && profiles[*row].events > 0).collect();
            let whose: Vec<ProfileNumber> = rows.iter().map(|row| numbers[*row]).collect();
            let mut ahead: Vec<Profile> = rows.iter().map(|row| profiles[*row].take()).collect();
            self.judge_whole(&mut ahead, &whose, cause, findings, staged).await?;
            for (row, profile) in rows.into_iter().zip(ahead) {
                profiles[row] = profile;
            }
        }
        Ok(())
    }

    /// Judges profiles by every segment, for what the past or new borders say.
    pub(super) async fn judge_whole(
        &mut self,
        profiles: &mut [Profile],
        numbers: &[ProfileNumber],
        cause: Cause,
        findings: &mut Findings,
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        if profiles.is_empty() {
            return Ok(());
        }
        if cause == Cause::Time {
            // What was due before has its own moment; judged now, it would be as of now.
            self.fire_due(profiles, numbers, findings, staged).await?;
        }
        if !self.lists.is_empty() && profiles[0].group.is_none() {
            let missing = numbers.iter().copied().filter(|n| self.identities.components.get(n).is_none()).collect();
            self.load_components(missing).await?;
        }
        let whole: Vec<u32> = (0..profiles.len() as u32).collect();
        let round = Round {
            numbers,
            now: &vec![self.record.now; profiles.len()],
            touch: &Touch::default(),
            new: &[],
            whole: &whole,
            shown: &HashMap::new(),
            moved: &[],
            cause,
            events: None,
            activate: true,
        };
        self.judge(profiles, round, findings, staged).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_how_many_definitions_wait_and_how_far_it_is() {
        let fill = |traits: u32, segments: u32, cursor, events, swept| FillRecord {
            traits: (0..traits).collect(),
            segments: (0..segments).collect(),
            upto: 9,
            cursor,
            events,
            swept,
            ..FillRecord::default()
        };
        let rows = [
            (fill(2, 3, None, 0, None), "2 traits and 3 segments not ready: 0 events read back, up to commit 0 of 9"),
            (fill(1, 0, Some((5, 7)), 1, None), "1 trait not ready: 1 event read back, up to commit 5 of 9"),
            (fill(0, 1, None, 0, Some(40)), "1 segment not ready: 0 events read back, 40 of 99 profiles judged anew"),
        ];
        for (fill, expected) in rows {
            assert_eq!(fill.progress(100), expected, "{fill:?}");
        }
    }
}
