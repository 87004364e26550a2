//! The hot state of identity: whose each identifier is, the components, what must be loaded for a batch.

use hashbrown::HashSet;
use smallvec::SmallVec;

use super::component::Component;
use super::corrections::Corrections;
use super::extract::{Extracted, Item};
use super::{IdentityPlan, OnConflict};
use crate::event::{EventBatch, ProfileNumber, TimeUs, column};
use crate::state::cache::{Cache, Weigh};
use crate::state::filter::SeenFilter;

/// The one writer of identity: hot identifiers and components, and the filter of all identifiers ever seen.
pub struct Identities {
    pub(super) plan: IdentityPlan,
    /// Identifier hash → profile number.
    pub identifiers: Cache<u128, ProfileNumber>,
    pub components: Cache<ProfileNumber, Box<Component>>,
    pub seen: SeenFilter,
    /// The next profile number to give; part of the engine's record.
    pub next_number: ProfileNumber,
    pub corrections: Corrections,
}

/// The event that a row is, as far as links are concerned.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    pub events: &'a EventBatch,
    pub row: usize,
    pub at: TimeUs,
}

impl<'a> Event<'a> {
    pub fn message_id(&self) -> &'a str {
        self.events.strings(column::MESSAGE_ID).value(self.row)
    }

    pub fn source(&self) -> &'a str {
        self.events.strings(column::SOURCE).value(self.row)
    }
}

/// The identifiers of an event that are still to be joined, best first.
pub(super) type Kept<'a, 'b> = SmallVec<[&'a Item<'b>; 4]>;

impl Identities {
    pub fn new(plan: IdentityPlan, next_number: ProfileNumber, cache_bytes: usize) -> Self {
        Identities {
            plan,
            identifiers: Cache::new(cache_bytes / 2),
            components: Cache::new(cache_bytes / 2),
            seen: SeenFilter::new(),
            next_number: next_number.max(1),
            corrections: Corrections::default(),
        }
    }

    pub fn plan(&self) -> &IdentityPlan {
        &self.plan
    }

    /// Hashes that are not in memory although the store may hold them.
    pub fn missing_identifiers(&self, extracted: &Extracted<'_>) -> Vec<u128> {
        if self.identifiers.is_whole() {
            return Vec::new(); // the start reads all identifiers
        }
        let mut missing: Vec<u128> = extracted
            .items
            .iter()
            .map(|item| item.hash)
            .filter(|hash| self.identifiers.get(hash).is_none() && self.seen.may_contain(*hash))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Components that `resolve` will change and that are not in memory. Valid once the identifiers are loaded.
    pub fn missing_components(&self, extracted: &Extracted<'_>) -> Vec<ProfileNumber> {
        let mut missing = HashSet::new();
        let confirms = self.plan.on_conflict == OnConflict::Reassign;
        for row in 0..extracted.starts.len() - 1 {
            let items = extracted.row(row);
            if items.len() < 2 {
                continue; // one identifier links nothing
            }
            let first = self.identifiers.get(&items[0].hash);
            let changes = items.iter().any(|item| {
                let number = self.identifiers.get(&item.hash);
                number.is_none() || number != first
            });
            if changes || confirms {
                let numbers = items.iter().filter_map(|item| self.identifiers.get(&item.hash));
                missing.extend(numbers.copied().filter(|number| self.components.get(number).is_none()));
            }
        }
        // Within the batch an earlier row may join a component that a later row then merges further; such a
        // component is named by one of the later row's own identifiers, so it is in the set already.
        missing.into_iter().collect()
    }

    /// Whose each of these identifiers is.
    pub(super) fn known(&self, items: &[&Item<'_>]) -> SmallVec<[Option<ProfileNumber>; 4]> {
        items.iter().map(|item| self.identifiers.get(&item.hash).copied()).collect()
    }
}

/// Each number once, in order.
pub(super) fn distinct(known: &[Option<ProfileNumber>]) -> SmallVec<[ProfileNumber; 4]> {
    let mut numbers: SmallVec<[ProfileNumber; 4]> = known.iter().flatten().copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

impl Weigh for ProfileNumber {
    fn weigh(&self) -> usize {
        size_of::<ProfileNumber>()
    }
}
