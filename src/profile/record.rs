//! A profile in memory and as stored.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::TraitPlan;
use super::accumulator::Accumulator;
use crate::event::{ProfileId, TimeUs};
use crate::state::cache::Weigh;

/// A profile in memory: traits and memberships by the index of their plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The id under which the tables know it, as of the last commit.
    pub id: ProfileId,
    pub first_seen: TimeUs,
    pub last_seen: TimeUs,
    pub events: i64,
    /// The latest `received_at` of its events: what the values are as of.
    pub as_of: TimeUs,
    pub traits: Vec<Option<Accumulator>>,
    pub memberships: Vec<Membership>,
}

/// A profile's standing in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Membership {
    pub member: bool,
    /// How many times it has entered: part of the ids of what an entry sets off.
    pub entries: u32,
}

impl Profile {
    pub fn new(id: ProfileId, traits: usize, segments: usize) -> Self {
        Profile {
            id,
            first_seen: TimeUs::MAX,
            last_seen: TimeUs::MIN,
            events: 0,
            as_of: TimeUs::MIN,
            traits: vec![None; traits],
            memberships: vec![Membership::default(); segments],
        }
    }

    /// Takes over all of an absorbed profile. Equal to one profile that saw all events of both; only the number of
    /// entries into a segment is added up.
    pub fn merge(&mut self, plans: &[TraitPlan], other: Profile) {
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.events += other.events;
        self.as_of = self.as_of.max(other.as_of);
        for ((mine, theirs), plan) in self.traits.iter_mut().zip(other.traits).zip(plans) {
            match (mine, theirs) {
                (_, None) => {}
                (mine @ None, theirs) => *mine = theirs,
                (Some(mine), Some(theirs)) => mine.add(plan.order(), theirs),
            }
        }
        for (mine, theirs) in self.memberships.iter_mut().zip(other.memberships) {
            mine.member |= theirs.member;
            mine.entries += theirs.entries;
        }
    }
}

impl Weigh for Profile {
    fn weigh(&self) -> usize {
        let heap: usize = self.traits.iter().flatten().map(Accumulator::weigh).sum();
        size_of::<Profile>()
            + self.traits.capacity() * size_of::<Option<Accumulator>>()
            + self.memberships.capacity() * size_of::<Membership>()
            + heap
    }
}

/// A profile as stored, version [`ProfileRecord::VERSION`]: traits and memberships by slot, so that definitions
/// may come, go and change place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileRecord {
    id: ProfileId,
    first_seen: TimeUs,
    last_seen: TimeUs,
    events: i64,
    as_of: TimeUs,
    traits: Vec<(u16, Accumulator)>,
    memberships: Vec<(u16, Membership)>,
}

/// Which slot belongs to which definition: a slot is given once to a (kind, name, version) and never again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    next: u16,
    taken: Vec<(String, u64, u16)>,
    #[serde(skip)]
    traits: Vec<u16>,
    #[serde(skip)]
    segments: Vec<u16>,
    #[serde(skip)]
    trait_of_slot: HashMap<u16, usize>,
    #[serde(skip)]
    segment_of_slot: HashMap<u16, usize>,
}

impl Slots {
    /// Finds or gives the slots of these definitions (name, version). Returns the names that are new.
    pub fn assign<'a>(
        &mut self,
        traits: impl Iterator<Item = (&'a str, u64)>,
        segments: impl Iterator<Item = (&'a str, u64)>,
    ) -> Vec<String> {
        let mut new = Vec::new();
        let mut slot = |key: String, version: u64| {
            if let Some((.., slot)) = self.taken.iter().find(|(name, known, _)| *name == key && *known == version) {
                return *slot;
            }
            let slot = self.next;
            self.next += 1;
            new.push(key.clone());
            self.taken.push((key, version, slot));
            slot
        };
        let traits: Vec<u16> = traits.map(|(name, version)| slot(format!("trait {name}"), version)).collect();
        let segments: Vec<u16> = segments.map(|(name, version)| slot(format!("segment {name}"), version)).collect();
        self.trait_of_slot = traits.iter().enumerate().map(|(index, slot)| (*slot, index)).collect();
        self.segment_of_slot = segments.iter().enumerate().map(|(index, slot)| (*slot, index)).collect();
        (self.traits, self.segments) = (traits, segments);
        new
    }
}

impl ProfileRecord {
    pub const VERSION: u8 = 2;

    pub fn store(profile: &Profile, slots: &Slots) -> ProfileRecord {
        let traits = profile.traits.iter().zip(&slots.traits);
        let memberships = profile.memberships.iter().zip(&slots.segments);
        ProfileRecord {
            id: profile.id,
            first_seen: profile.first_seen,
            last_seen: profile.last_seen,
            events: profile.events,
            as_of: profile.as_of,
            traits: traits.filter_map(|(state, slot)| Some((*slot, state.clone()?))).collect(),
            memberships: memberships
                .filter(|(membership, _)| **membership != Membership::default())
                .map(|(membership, slot)| (*slot, *membership))
                .collect(),
        }
    }

    /// State of definitions that are gone is left behind.
    pub fn load(self, slots: &Slots) -> Profile {
        let mut profile = Profile::new(self.id, slots.traits.len(), slots.segments.len());
        profile.first_seen = self.first_seen;
        profile.last_seen = self.last_seen;
        profile.events = self.events;
        profile.as_of = self.as_of;
        for (slot, state) in self.traits {
            if let Some(index) = slots.trait_of_slot.get(&slot) {
                profile.traits[*index] = Some(state);
            }
        }
        for (slot, membership) in self.memberships {
            if let Some(index) = slots.segment_of_slot.get(&slot) {
                profile.memberships[*index] = membership;
            }
        }
        profile
    }
}
