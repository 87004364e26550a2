//! A profile in memory and as stored.

use bytes::Bytes;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use super::slots::Slots;
use super::{LATENESS_US, TraitPlan};
use crate::event::{ProfileId, ProfileNumber, TimeUs};
use crate::journey::Journeys;
use crate::session::Sessions;
use crate::state::cache::Weigh;
use crate::state::codec;

/// A profile in memory: of a person, or of a group. Traits, stages and memberships are by the index of their plan among those
/// of its kind, in its order, and only those that there are: of a thousand segments most people are in few.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The id under which the tables know it, as of the last commit.
    pub id: ProfileId,
    pub first_seen: TimeUs,
    pub last_seen: TimeUs,
    pub events: i64,
    /// The latest `now` at which it was judged.
    pub as_of: TimeUs,
    /// When a condition could next change though no event comes; `TimeUs::MAX`: never.
    pub timer: TimeUs,
    /// Those that may still change, and how many are past.
    pub sessions: Sessions,
    pub traits: Vec<(u16, Accumulator)>,
    /// By trait with stages.
    pub stages: Vec<(u16, StageOf)>,
    pub memberships: Vec<(u16, Membership)>,
    /// None: a person.
    pub group: Option<Box<GroupOf>>,
    /// Of a person: groups that may have counted its id, in order. Who merges is called otherwise there.
    pub counted_in: Vec<ProfileNumber>,
    /// None: there is nothing to know of any.
    pub journeys: Option<Box<Journeys>>,
}

/// Which group a profile is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOf {
    /// The slot of its definition, from 1.
    pub kind: u32,
    /// As events have it.
    pub id: Box<str>,
}

/// The stage of a trait that a profile was last found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageOf {
    /// Its index; None: none of them.
    pub stage: Option<u16>,
    /// How many times it has changed: part of the ids of what a change sets off.
    pub changes: u32,
}

/// A profile's standing in a segment that it is or was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Membership {
    pub member: bool,
    /// How many times it has entered: part of the ids of what an entry sets off.
    pub entries: u32,
    /// When it last entered or left.
    pub since: TimeUs,
}

impl Profile {
    pub fn new(id: ProfileId) -> Self {
        Profile {
            id,
            first_seen: TimeUs::MAX,
            last_seen: TimeUs::MIN,
            events: 0,
            as_of: TimeUs::MIN,
            timer: TimeUs::MAX,
            sessions: Sessions::default(),
            traits: Vec::new(),
            stages: Vec::new(),
            memberships: Vec::new(),
            group: None,
            counted_in: Vec::new(),
            journeys: None,
        }
    }

    /// 0: a person; else the slot of the group's definition.
    pub fn kind(&self) -> u32 {
        self.group.as_ref().map_or(0, |group| group.kind)
    }

    /// Takes note of a group that counts it.
    pub fn add_counted_in(&mut self, group: ProfileNumber) {
        if let Err(place) = self.counted_in.binary_search(&group) {
            self.counted_in.insert(place, group);
        }
    }

    /// Itself, leaving an empty one in its place.
    pub fn take(&mut self) -> Profile {
        std::mem::replace(self, Profile::new(self.id))
    }

    pub fn trait_state(&self, index: u16) -> Option<&Accumulator> {
        get(&self.traits, index)
    }

    pub fn membership(&self, segment: u16) -> Membership {
        get(&self.memberships, segment).copied().unwrap_or_default()
    }

    pub fn stage_mut(&mut self, index: u16) -> &mut StageOf {
        let place = match self.stages.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(place) => place,
            Err(place) => {
                self.stages.insert(place, (index, StageOf::default()));
                place
            }
        };
        &mut self.stages[place].1
    }

    pub fn membership_mut(&mut self, segment: u16) -> &mut Membership {
        let place = match self.memberships.binary_search_by_key(&segment, |(index, _)| *index) {
            Ok(place) => place,
            Err(place) => {
                self.memberships.insert(place, (segment, Membership::default()));
                place
            }
        };
        &mut self.memberships[place].1
    }

    /// Its journeys, to be changed; [`Profile::tidy_journeys`] after it.
    pub fn journeys_mut(&mut self) -> &mut Journeys {
        self.journeys.get_or_insert_default()
    }

    /// Nothing is kept where there is nothing to know.
    pub fn tidy_journeys(&mut self) {
        self.journeys = self.journeys.take().filter(|journeys| !journeys.is_empty());
    }

    /// The segments that it is in.
    pub fn segments(&self) -> impl Iterator<Item = u16> + '_ {
        self.memberships.iter().filter(|(_, membership)| membership.member).map(|(segment, _)| *segment)
    }

    /// Points before this time can go with no later one: see [`LATENESS_US`].
    pub fn floor(&self) -> TimeUs {
        self.last_seen.saturating_sub(LATENESS_US)
    }

    /// Takes over all of an absorbed profile but its journeys, whose definitions are not known here. Equal to one profile that
    /// saw all events of both; only the number of entries into a segment is added up.
    pub(super) fn merge(&mut self, plans: &[TraitPlan], other: Profile) {
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.events += other.events;
        self.as_of = self.as_of.max(other.as_of);
        for (index, theirs) in other.traits {
            let Some(rule) = plans.get(index as usize).and_then(TraitPlan::event_rule) else { continue };
            match self.traits.binary_search_by_key(&index, |(index, _)| *index) {
                Ok(place) => self.traits[place].1.add(rule, theirs),
                Err(place) => self.traits.insert(place, (index, theirs)),
            }
        }
        for (index, stage) in other.stages {
            match self.stages.binary_search_by_key(&index, |(index, _)| *index) {
                Ok(place) => self.stages[place].1.changes += stage.changes,
                Err(place) => self.stages.insert(place, (index, stage)),
            }
        }
        for (segment, theirs) in other.memberships {
            let mine = self.membership_mut(segment);
            // Who was a member on either side has been one since the earlier entry.
            mine.since = match (mine.member, theirs.member) {
                (true, true) => mine.since.min(theirs.since),
                (true, false) => mine.since,
                (false, true) => theirs.since,
                (false, false) => mine.since.max(theirs.since),
            };
            mine.member |= theirs.member;
            mine.entries += theirs.entries;
        }
        other.counted_in.into_iter().for_each(|group| self.add_counted_in(group));
    }
}

fn get<T>(entries: &[(u16, T)], index: u16) -> Option<&T> {
    entries.binary_search_by_key(&index, |(index, _)| *index).ok().map(|place| &entries[place].1)
}

impl Weigh for Profile {
    fn weigh(&self) -> usize {
        let heap: usize = self.traits.iter().map(|(_, state)| state.weigh()).sum();
        size_of::<Profile>()
            + self.traits.capacity() * size_of::<(u16, Accumulator)>()
            + self.stages.capacity() * size_of::<(u16, StageOf)>()
            + self.memberships.capacity() * size_of::<(u16, Membership)>()
            + self.sessions.weigh()
            + self.group.as_ref().map_or(0, |group| size_of::<GroupOf>() + group.id.len())
            + self.counted_in.capacity() * size_of::<ProfileNumber>()
            + self.journeys.as_ref().map_or(0, |journeys| journeys.weigh())
            + heap
    }
}

/// A profile as stored, version [`ProfileRecord::VERSION`]: traits and memberships by slot, so that definitions
/// may come, go and change place.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ProfileRecord {
    id: ProfileId,
    first_seen: TimeUs,
    last_seen: TimeUs,
    events: i64,
    as_of: TimeUs,
    timer: TimeUs,
    /// Of the plan of this version.
    sessions: (u64, Sessions),
    traits: Vec<(u32, Accumulator)>,
    stages: Vec<(u32, StageOf)>,
    memberships: Vec<(u32, Membership)>,
    group: Option<Box<GroupOf>>,
    counted_in: Vec<ProfileNumber>,
    journeys: Option<Box<Journeys>>,
}

/// The same, written without a copy.
#[derive(Serialize)]
struct ProfileView<'a> {
    id: ProfileId,
    first_seen: TimeUs,
    last_seen: TimeUs,
    events: i64,
    as_of: TimeUs,
    timer: TimeUs,
    sessions: (u64, &'a Sessions),
    traits: BySlot<'a, Accumulator>,
    stages: BySlot<'a, StageOf>,
    memberships: BySlot<'a, Membership>,
    group: &'a Option<Box<GroupOf>>,
    counted_in: &'a [ProfileNumber],
    journeys: &'a Option<Box<Journeys>>,
}

/// Entries by index, written by slot.
struct BySlot<'a, T>(&'a [(u16, T)], &'a [u32]);

impl<T: Serialize> Serialize for BySlot<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(index, entry)| (self.1[usize::from(*index)], entry)))
    }
}

impl ProfileRecord {
    pub const VERSION: u8 = 10;

    pub fn encode(profile: &Profile, slots: &Slots) -> Bytes {
        let own = slots.of_kind(profile.kind());
        let view = ProfileView {
            id: profile.id,
            first_seen: profile.first_seen,
            last_seen: profile.last_seen,
            events: profile.events,
            as_of: profile.as_of,
            timer: profile.timer,
            sessions: (slots.sessions, &profile.sessions),
            traits: BySlot(&profile.traits, &own.traits),
            stages: BySlot(&profile.stages, &own.traits),
            memberships: BySlot(&profile.memberships, &own.segments),
            group: &profile.group,
            counted_in: &profile.counted_in,
            journeys: &profile.journeys,
        };
        codec::encode(ProfileRecord::VERSION, &view)
    }

    /// State of definitions that are gone is left behind.
    pub fn load(self, slots: &Slots) -> Profile {
        fn by_index<T>(entries: Vec<(u32, T)>, index_of_slot: &HashMap<u32, u16>) -> Vec<(u16, T)> {
            let mut entries: Vec<(u16, T)> =
                entries.into_iter().filter_map(|(slot, entry)| Some((*index_of_slot.get(&slot)?, entry))).collect();
            entries.sort_unstable_by_key(|(index, _)| *index);
            entries
        }
        let own = slots.of_kind(self.group.as_ref().map_or(0, |group| group.kind));
        Profile {
            id: self.id,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            events: self.events,
            as_of: self.as_of,
            timer: self.timer,
            sessions: if self.sessions.0 == slots.sessions { self.sessions.1 } else { Sessions::default() },
            traits: by_index(self.traits, &own.trait_of_slot),
            stages: by_index(self.stages, &own.trait_of_slot),
            memberships: by_index(self.memberships, &own.segment_of_slot),
            group: self.group,
            counted_in: self.counted_in,
            journeys: self.journeys,
        }
    }
}
