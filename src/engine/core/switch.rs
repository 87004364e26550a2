//! The switch from one person to those that a rebuild has made of them: state, ids, memberships, and every row that
//! says so, in one commit.

use hashbrown::{HashMap, HashSet};

use super::correct::RebuildRecord;
use super::judge::member_of;
use super::*;
use crate::engine::shadow::{Group, Rebuilt};
use crate::engine::{Corrected, rows};
use crate::identity::{Correction, Identifier, IdentifierRow, Merge};
use crate::session::{Follow, SessionRow};

/// Where the ids lead that a person was ever shown under.
struct Ids<'a> {
    /// Each of them → the id it means now.
    now: HashMap<ProfileId, ProfileId>,
    /// Those that the tables lead elsewhere so far.
    merges: Vec<Merge>,
    /// Identifiers that are nobody's now.
    left: Vec<&'a Identifier>,
    /// Ids that are nobody's now and may come again.
    gone: Vec<ProfileId>,
}

/// What the tables show of the memberships before they are judged anew.
struct Shown {
    /// By person: under their own id.
    shown: HashMap<u32, Vec<u16>>,
    /// Under the old id, if it is nobody's now.
    moved: Vec<Moved>,
    gone: bool,
}

impl Core {
    /// Puts those that were made in the place of `old`, whose state `live` was.
    pub(super) async fn switch(
        &mut self,
        job: &RebuildRecord,
        old: Component,
        live: Profile,
        rebuilt: Rebuilt,
        staged: &mut Staged,
    ) -> Result<Corrected, EngineError> {
        let (commit, cause) = (staged.commit, job.correction.cause());
        self.note_for_scan(&[job.number], std::slice::from_ref(&live), staged)?;
        let (mut groups, place) = own_groups(rebuilt.groups, &old, &self.traits);
        old.delete(job.number, &mut staged.writes);
        staged.writes.delete(keys::profile(job.number));
        let numbers = self.numbers(groups.len(), job.number);
        for Group { component, profile } in &mut groups {
            component.id = component.derive_id(self.identities.plan()).unwrap_or_default();
            profile.id = component.id;
        }
        if !live.counted_in.is_empty() {
            // Who they were counted as is not known here, but to the history.
            groups.iter_mut().for_each(|group| group.profile.counted_in.clone_from(&live.counted_in));
            staged.writes.put(keys::name(Tag::Engine, groups::RECOUNT), codec::encode(1, &()));
        }
        let Ids { now: leads_to, merges, left, gone: gone_ids } =
            self.hand_on_ids(job, &old, &mut groups, &numbers, staged);
        self.note_gone(&gone_ids, &live, staged);
        let Shown { shown, moved, gone } = hand_on_memberships(&mut groups, &live, old.id);

        let (components, mut profiles): (Vec<Component>, Vec<Profile>) =
            groups.into_iter().map(|group| (group.component, group.profile)).unzip();
        self.part_journeys(&live, &components, &mut profiles);
        let ids: Vec<ProfileId> = profiles.iter().map(|profile| profile.id).collect();
        let now = self.record.now;
        // Identifiers first: bodies and lists are made of them.
        let identifiers = self.write_components(job.number, components, &numbers, &left, staged);
        let whole: Vec<u32> = (0..profiles.len() as u32).collect();
        let mut findings = Findings::default();
        let round = Round {
            numbers: &numbers,
            now: &vec![now; profiles.len()],
            touch: &Touch::default(),
            new: &[],
            whole: &whole,
            shown: &shown,
            moved: &moved,
            cause: Cause::Event,
            events: None,
            // Of someone who is no more there is nothing to say.
            activate: job.activate && !profiles.is_empty(),
        };
        let traits = self.judge(&mut profiles, round, &mut findings, staged).await?;
        let mut session_rows = self.traits.take_sessions(&mut profiles);
        if profiles.is_empty() {
            self.leave_audiences(&live, staged)?;
            findings.transitions = exits(&live, old.id, now);
            self.end_journeys(&live, old.id, staged)?;
        }
        findings.transitions.iter_mut().for_each(|transition| transition.cause = Cause::Split);
        findings.stages.iter_mut().for_each(|change| change.cause = Cause::Split);
        let transitions = &findings.transitions;
        let follow = Follow::of(session_rows.iter().map(|(_, row)| row));
        let (mut moves, mut gone_sessions) = (Vec::new(), Vec::new());
        let by_campaign = self.traits.sessions.split_on_campaign;
        let mut events_moved = 0;
        for row in rebuilt.rows {
            let to = row.group.and_then(|group| place[group]).map(|index| ids[index]);
            let was = row.was.0.map(|id| leads_to.get(&id).copied().unwrap_or(id));
            let session = row.session.filter(|_| to.is_some());
            let session = session.map(|session| follow.session(session, row.at, &row.message_id));
            // Where campaigns cut sessions, one may begin with an event that is stored in another.
            let began = row.was.1 == Some(row.own_session) || (row.was.1.is_some() && by_campaign);
            if session.is_none() && began {
                gone_sessions.push((old.id, SessionRow::gone(row.own_session, row.at, &row.message_id, None)));
            }
            events_moved += u64::from(was != to);
            if was != to || row.was.1 != session {
                let (place, message_id) = (row.place, row.message_id);
                moves.push(rows::EventMove { place, message_id, to, at: row.at, session });
            }
        }
        drop(follow);
        session_rows.extend(gone_sessions);
        self.add_sessions(&session_rows, staged)?;
        let entered = transitions.iter().filter(|transition| transition.entered).count();
        let corrected = Corrected {
            refused: None,
            busy: false,
            was: old.id.to_string(),
            profiles: ids.iter().map(ToString::to_string).collect(),
            events_moved,
            entered: entered as u64,
            exited: (transitions.len() - entered) as u64,
        };

        let gone: Vec<Gone> = if gone { vec![Gone { id: old.id, as_of: now }] } else { Vec::new() };
        let id_of: HashMap<ProfileNumber, ProfileId> = numbers.iter().copied().zip(ids.iter().copied()).collect();
        let (tables, plan) = (&self.tables, self.identities.plan());
        for (table, batch) in [
            (&tables.profiles, rows::profiles(&tables.profiles, &ids, &traits, &vec![now; ids.len()], &gone, commit)?),
            (&tables.identifiers, rows::identifiers(&tables.identifiers, plan, &identifiers, &id_of, commit)?),
            (&tables.profile_merges, rows::profile_merges(&tables.profile_merges, &merges, commit)?),
            (&tables.event_moves, rows::event_moves(&tables.event_moves, &moves, cause, commit)?),
        ] {
            output::add(table, batch, staged)?;
        }
        self.add_findings(&findings, staged)?;
        self.count_transitions(&findings.transitions);
        let totals = &mut self.record.totals;
        totals.profiles = (totals.profiles + ids.len() as u64).saturating_sub(1);
        totals.identifiers = totals.identifiers.saturating_sub(left.len() as u64);
        self.set_timer(job.number, live.timer, TimeUs::MAX, staged);
        self.put_profiles(&numbers, profiles, &vec![TimeUs::MAX; numbers.len()], staged);
        Ok(corrected)
    }

    /// The first of so many people keeps the number.
    fn numbers(&mut self, count: usize, first: ProfileNumber) -> Vec<ProfileNumber> {
        let mut number = |index: usize| {
            if index == 0 {
                return first;
            }
            self.identities.next_number += 1;
            self.identities.next_number - 1
        };
        (0..count).map(&mut number).collect()
    }

    /// Every id ever shown goes to whoever has the identifier it was made of. One whose identifier is nobody's now
    /// stands for itself, since the identifier may come again; a banned one cannot, so its id goes to the largest.
    fn hand_on_ids<'a>(
        &self,
        job: &RebuildRecord,
        old: &'a Component,
        groups: &mut [Group],
        numbers: &[ProfileNumber],
        staged: &mut Staged,
    ) -> Ids<'a> {
        let plan = self.identities.plan();
        let mut owner: HashMap<ProfileId, usize> = HashMap::new();
        let mut owned: HashSet<u128> = HashSet::new();
        for (index, group) in groups.iter().enumerate() {
            for known in group.component.identifiers() {
                owned.insert(known.hash);
                owner.insert(plan.profile_id(known.kind, &known.value), index);
            }
        }
        let left: Vec<&Identifier> = old.identifiers().iter().filter(|known| !owned.contains(&known.hash)).collect();
        let banned = |known: &Identifier| match &job.correction {
            Correction::Ban(named) => known.is(named),
            _ => false,
        };
        let vanished: HashSet<ProfileId> =
            left.iter().filter(|known| !banned(known)).map(|known| plan.profile_id(known.kind, &known.value)).collect();
        let message_id = if let Correction::Strike { message_id, .. } = &job.correction { message_id } else { "" };
        let mut ids = Ids { now: HashMap::new(), merges: Vec::new(), left, gone: Vec::new() };
        for shown in old.former_ids().iter().chain([&old.id]) {
            let new = if vanished.contains(shown) || groups.is_empty() {
                staged.writes.delete(keys::alias(*shown));
                ids.gone.push(*shown);
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
            ids.now.insert(*shown, new);
            // The tables lead every former id to the old id, and the old id to itself.
            if new != old.id {
                let (message_id, merged_at) = (message_id.into(), self.record.now);
                ids.merges.push(Merge { old: *shown, new, cause: job.correction.cause(), message_id, merged_at });
            }
        }
        ids
    }

    /// Gives rows for all identifiers: those of the tables were written under ids that may mean another person now.
    fn write_components(
        &mut self,
        old: ProfileNumber,
        components: Vec<Component>,
        numbers: &[ProfileNumber],
        left: &[&Identifier],
        staged: &mut Staged,
    ) -> Vec<IdentifierRow> {
        let mut rows = Vec::new();
        let row = |known: &Identifier, number: ProfileNumber| IdentifierRow {
            kind: known.kind,
            value: known.value.clone(),
            number,
            linked_at: known.linked_at,
        };
        for (number, mut component) in numbers.iter().zip(components) {
            for known in component.identifiers() {
                rows.push(row(known, *number));
                if *number != old {
                    self.identities.identifiers.insert_dirty(known.hash, *number, staged.commit);
                    staged.writes.put(keys::identifier(known.hash), codec::encode(1, number));
                }
            }
            staged.writes.put(keys::alias(component.id), codec::encode(1, number));
            component.forget_stored();
            component.write(*number, &mut staged.writes);
            self.identities.components.insert_dirty(*number, Box::new(component), staged.commit);
        }
        for known in left {
            rows.push(row(known, NO_PROFILE));
            self.identities.identifiers.remove(&known.hash);
            staged.writes.delete(keys::identifier(known.hash));
        }
        rows
    }
}

/// Identifiers that have gone to another person since (`reassign`) stay there; their early events stay here, with the
/// largest group where they stand alone. Gives the groups, the largest first, and the new place of each, None: nobody's.
fn own_groups(groups: Vec<Group>, old: &Component, traits: &Traits) -> (Vec<Group>, Vec<Option<usize>>) {
    let own: HashSet<u128> = old.identifiers().iter().map(|known| known.hash).collect();
    let mut all: Vec<(usize, Group)> = groups.into_iter().enumerate().collect();
    for (_, group) in &mut all {
        let identifiers = group.component.identifiers().iter();
        let foreign: Vec<u128> = identifiers.map(|known| known.hash).filter(|hash| !own.contains(hash)).collect();
        for hash in foreign {
            group.component.remove(hash);
        }
    }
    all.sort_by_key(|(_, group)| std::cmp::Reverse(group.component.identifiers().len()));
    let mut place = vec![None; all.len()];
    let mut kept: Vec<Group> = Vec::new();
    for (before, group) in all {
        if !group.component.identifiers().is_empty() {
            place[before] = Some(kept.len());
            kept.push(group);
        } else if let Some(first) = kept.first_mut() {
            place[before] = Some(0);
            traits.merge(&mut first.profile, group.profile);
        }
    }
    (kept, place)
}

/// Memberships go on where the id does; who comes back to life begins without any.
fn hand_on_memberships(groups: &mut [Group], live: &Profile, old: ProfileId) -> Shown {
    let members = member_of(&live.memberships);
    let mut shown = HashMap::new();
    for (row, Group { profile, .. }) in groups.iter_mut().enumerate() {
        let goes_on = profile.id == old;
        // The number of entries and changes goes on for all, so that no later one has an id that was used.
        profile.memberships = live.memberships.clone();
        profile.memberships.iter_mut().for_each(|(_, membership)| membership.member &= goes_on);
        profile.stages = live.stages.clone();
        if !goes_on {
            profile.stages.iter_mut().for_each(|(_, of)| of.stage = None);
        }
        shown.insert(row as u32, if goes_on { members.clone() } else { Vec::new() });
    }
    let gone = groups.iter().all(|group| group.profile.id != old);
    let moved =
        if gone && !groups.is_empty() { vec![Moved { into: 0, id: old, segments: members }] } else { Vec::new() };
    Shown { shown, moved, gone }
}

/// Someone who is no more leaves every segment.
fn exits(live: &Profile, id: ProfileId, at: TimeUs) -> Vec<Transition> {
    let held = live.memberships.iter().filter(|(_, membership)| membership.member);
    held.map(|(segment, membership)| Transition {
        profile: 0,
        segment: *segment,
        id,
        entered: false,
        cause: Cause::Split,
        entry: membership.entries,
        at,
    })
    .collect()
}
