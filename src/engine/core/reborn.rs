//! Ids that are nobody's any more since a correction, and may come again with the next event that names their identifier. Entries
//! and changes of stage are then counted on from where they were: what they set off must not have the id of what was sent before.

use super::*;
use crate::profile::TraitRule;

/// Under `Tag::Engine`: such ids, and how high any count was.
const KEY: &str = "ids that are gone";

/// Ids that were shown and are nobody's.
#[derive(Debug, Default)]
pub(super) struct Reborn {
    counted: BTreeMap<ProfileId, u32>,
}

impl Reborn {
    pub async fn load(store: &dyn Store) -> Result<Reborn, StoreError> {
        Ok(Reborn { counted: load::load_one(store, &keys::name(Tag::Engine, KEY), 1, "ids that are gone").await? })
    }

    /// How high anything was counted under an id before it was nobody's.
    pub fn counted(&self, id: ProfileId) -> u32 {
        self.counted.get(&id).copied().unwrap_or_default()
    }
}

impl Core {
    /// Remembers ids that are nobody's from this commit on; `live` was shown under them.
    pub(super) fn note_gone(&mut self, ids: &[ProfileId], live: &Profile, staged: &mut Staged) {
        let entries = live.memberships.iter().map(|(_, membership)| membership.entries);
        let changes = live.stages.iter().map(|(_, stage)| stage.changes);
        // One more: whoever is no more is removed.
        let told = live.journeys.iter().flat_map(|journeys| &journeys.listed).map(|listed| listed.told + 1);
        let highest = entries.chain(changes).chain(told).max().unwrap_or_default();
        if ids.is_empty() || highest == 0 {
            return;
        }
        for id in ids {
            let counted = self.reborn.counted.entry(*id).or_default();
            *counted = highest.max(*counted);
        }
        staged.writes.put(keys::name(Tag::Engine, KEY), codec::encode(1, &self.reborn.counted));
    }

    /// Goes on counting for a person who has come to have such an id.
    pub(super) fn count_on(&self, profile: &mut Profile) {
        let Some(counted) = self.reborn.counted.get(&profile.id).copied() else { return };
        for segment in 0..self.segments.plans.len() {
            // Who is a member already entered under another id, and leaves under this one.
            let membership = profile.membership_mut(segment as u16);
            membership.entries = membership.entries.max(counted + u32::from(membership.member));
        }
        for (index, plan) in self.traits.plans.iter().enumerate() {
            if matches!(plan.rule, TraitRule::Stages(_)) {
                let changes = &mut profile.stage_mut(index as u16).changes;
                *changes = counted.max(*changes);
            }
        }
    }
}
