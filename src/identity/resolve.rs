//! Makes the links of a batch: one profile number per row, and what changed.

use hashbrown::{HashMap, HashSet};

use super::IdentityPlan;
use super::component::{Component, Identifier};
use super::extract::{Extracted, Item};
use crate::event::{EventBatch, ProfileId, ProfileNumber, TimeUs, column};
use crate::state::cache::{Cache, Weigh};
use crate::state::filter::SeenFilter;
use crate::state::{WriteBatch, codec, keys};

/// The number of a row without any usable identifier.
pub const NO_PROFILE: ProfileNumber = 0;

impl Weigh for ProfileNumber {
    fn weigh(&self) -> usize {
        size_of::<ProfileNumber>()
    }
}

/// The one writer of identity: hot identifiers and components, and the filter of all identifiers ever seen.
pub struct Identities {
    plan: IdentityPlan,
    /// Identifier hash → profile number.
    pub identifiers: Cache<u128, ProfileNumber>,
    pub components: Cache<ProfileNumber, Component>,
    pub seen: SeenFilter,
    /// The next profile number to give; part of the engine's record.
    pub next_number: ProfileNumber,
}

/// What identity says of a batch.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Per row: its profile's number, [`NO_PROFILE`] where it has none.
    pub numbers: Vec<ProfileNumber>,
    /// Profiles that were absorbed: their state goes into another's. In order; chains are already followed, so
    /// `into` is a profile that lives on after the batch.
    pub absorbed: Vec<(ProfileNumber, ProfileNumber)>,
    /// Ids that became another id, one per id ever shown that points to a new place now.
    pub merges: Vec<Merge>,
    /// Identifiers that are new.
    pub identifiers: Vec<IdentifierRow>,
    /// Number → id as of this commit, of every profile that a row names or whose id changed.
    pub changed_ids: HashMap<ProfileNumber, ProfileId>,
    /// Profiles made by this batch.
    pub created: Vec<ProfileNumber>,
}

/// `old` is `new` from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    pub old: ProfileId,
    pub new: ProfileId,
    /// `merge` when two profiles became one, `better_identifier` when a profile's best identifier changed.
    pub cause: &'static str,
    pub message_id: Box<str>,
    pub merged_at: TimeUs,
}

#[derive(Debug, Clone, PartialEq)]
pub struct IdentifierRow {
    pub kind: u16,
    pub value: Box<str>,
    pub number: ProfileNumber,
    pub linked_at: TimeUs,
}

/// What happened to a component within the batch, before ids are derived.
struct Change {
    /// The id the tables know; None for a component made in this batch.
    shown: Option<ProfileId>,
    cause: &'static str,
    message_id: Box<str>,
    at: TimeUs,
}

impl Identities {
    pub fn new(plan: IdentityPlan, next_number: ProfileNumber, cache_bytes: usize) -> Self {
        Identities {
            plan,
            identifiers: Cache::new(cache_bytes / 2),
            components: Cache::new(cache_bytes / 2),
            seen: SeenFilter::new(),
            next_number: next_number.max(1),
        }
    }

    pub fn plan(&self) -> &IdentityPlan {
        &self.plan
    }

    /// Hashes that are not in memory although the store may hold them.
    pub fn missing_identifiers(&self, extracted: &Extracted<'_>) -> Vec<u128> {
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
            if changes {
                let numbers = items.iter().filter_map(|item| self.identifiers.get(&item.hash));
                missing.extend(numbers.copied().filter(|number| self.components.get(number).is_none()));
            }
        }
        // Within the batch an earlier row may join a component that a later row then merges further; such a
        // component is named by one of the later row's own identifiers, so it is in the set already.
        missing.into_iter().collect()
    }

    /// Makes all links of the batch and stages what changed under `commit`.
    ///
    /// Everything that `missing_identifiers` and `missing_components` named must have been loaded.
    pub fn resolve(
        &mut self,
        events: &EventBatch,
        extracted: &Extracted<'_>,
        commit: u64,
        out: &mut WriteBatch,
    ) -> Resolved {
        let mut resolved = Resolved { numbers: Vec::with_capacity(events.len()), ..Resolved::default() };
        let mut changes: HashMap<ProfileNumber, Change> = HashMap::new();
        let mut absorbed: HashMap<ProfileNumber, ProfileNumber> = HashMap::new();
        let mut lost: Vec<(ProfileId, Vec<ProfileId>, ProfileNumber, Box<str>, TimeUs)> = Vec::new();
        let times = events.times(column::TIMESTAMP);

        for row in 0..events.len() {
            let items = extracted.row(row);
            let Some(first) = items.first() else {
                resolved.numbers.push(NO_PROFILE);
                continue;
            };
            let known = self.identifiers.get(&first.hash).copied();
            if let (Some(number), [_]) = (known, items) {
                resolved.numbers.push(number);
                continue;
            }
            let mut numbers: smallvec::SmallVec<[ProfileNumber; 4]> =
                items.iter().filter_map(|item| self.identifiers.get(&item.hash)).copied().collect();
            let all_known = numbers.len() == items.len();
            numbers.sort_unstable();
            numbers.dedup();
            if all_known && numbers.len() == 1 {
                resolved.numbers.push(numbers[0]);
                continue;
            }

            let message_id: Box<str> = events.strings(column::MESSAGE_ID).value(row).into();
            let at = times.value(row);
            let number = match numbers.as_slice() {
                [] => {
                    let number = self.next_number;
                    self.next_number += 1;
                    let empty = Component { id: ProfileId([0; 16]), identifiers: Vec::new(), former_ids: Vec::new() };
                    self.components.insert_dirty(number, empty, commit);
                    changes
                        .insert(number, Change { shown: None, cause: "created", message_id: message_id.clone(), at });
                    resolved.created.push(number);
                    number
                }
                [only] => *only,
                several => {
                    let survivor = self.survivor(several);
                    for loser in several.iter().copied().filter(|number| *number != survivor) {
                        let Some(component) = self.components.remove(&loser) else {
                            unreachable!("component {loser} was to be loaded before resolve")
                        };
                        let shown = match changes.remove(&loser) {
                            Some(change) => change.shown,
                            None => Some(component.id),
                        };
                        if let Some(shown) = shown {
                            lost.push((shown, component.former_ids.clone(), survivor, message_id.clone(), at));
                        }
                        self.absorb(survivor, component, commit, out);
                        self.note(&mut changes, survivor, "merge", &message_id, at);
                        absorbed.insert(loser, survivor);
                        resolved.absorbed.push((loser, survivor));
                        out.delete(keys::component(loser));
                    }
                    survivor
                }
            };
            for item in items {
                if self.identifiers.get(&item.hash).is_none() {
                    self.note(&mut changes, number, "better_identifier", &message_id, at);
                    self.link(number, item, &message_id, at, commit, &mut resolved);
                }
            }
            resolved.numbers.push(number);
        }

        // A number given to an early row may have been absorbed by a later one.
        let last = |mut number: ProfileNumber| {
            while let Some(into) = absorbed.get(&number) {
                number = *into;
            }
            number
        };
        if !absorbed.is_empty() {
            resolved.numbers.iter_mut().for_each(|number| *number = last(*number));
            resolved.absorbed.iter_mut().for_each(|(_, into)| *into = last(*into));
            resolved.identifiers.iter_mut().for_each(|row| row.number = last(row.number));
            resolved.created.retain(|number| !absorbed.contains_key(number));
        }
        for row in &resolved.identifiers {
            let hash = self.plan.identifier_hash(row.kind, &row.value);
            out.put(keys::identifier(hash), codec::encode(1, &row.number));
        }
        self.derive_ids(changes, lost, &last, commit, out, &mut resolved);
        resolved
    }

    /// The larger side lives on; of equals, the older.
    fn survivor(&self, numbers: &[ProfileNumber]) -> ProfileNumber {
        let size = |number: &ProfileNumber| self.components.get(number).map_or(0, |c| c.identifiers.len());
        let mut best = numbers[0];
        for number in &numbers[1..] {
            if size(number) > size(&best) {
                best = *number;
            }
        }
        best
    }

    /// Moves a component's identifiers to the survivor.
    fn absorb(&mut self, survivor: ProfileNumber, component: Component, commit: u64, out: &mut WriteBatch) {
        for identifier in &component.identifiers {
            self.identifiers.insert_dirty(identifier.hash, survivor, commit);
            out.put(keys::identifier(identifier.hash), codec::encode(1, &survivor));
        }
        if let Some(into) = self.components.get_mut_dirty(&survivor, commit) {
            into.identifiers.extend(component.identifiers);
        }
    }

    fn link(
        &mut self,
        number: ProfileNumber,
        item: &Item<'_>,
        message_id: &str,
        at: TimeUs,
        commit: u64,
        resolved: &mut Resolved,
    ) {
        self.identifiers.insert_dirty(item.hash, number, commit);
        self.seen.insert(item.hash);
        let value: Box<str> = (&*item.value).into();
        if let Some(component) = self.components.get_mut_dirty(&number, commit) {
            let message_id = message_id.into();
            component.identifiers.push(Identifier {
                hash: item.hash,
                kind: item.kind,
                value: value.clone(),
                message_id,
                linked_at: at,
            });
        }
        resolved.identifiers.push(IdentifierRow { kind: item.kind, value, number, linked_at: at });
    }

    /// Remembers that a component changes in this batch; a merge outranks a new identifier as the cause.
    fn note(
        &self,
        changes: &mut HashMap<ProfileNumber, Change>,
        number: ProfileNumber,
        cause: &'static str,
        message_id: &str,
        at: TimeUs,
    ) {
        let shown = self.components.get(&number).map(|component| component.id);
        let change =
            changes.entry(number).or_insert_with(|| Change { shown, cause, message_id: message_id.into(), at });
        if cause == "merge" && change.cause != "merge" {
            (change.cause, change.message_id, change.at) = (cause, message_id.into(), at);
        }
    }

    /// Derives the ids of the changed components, once per batch, and says which ids became others.
    fn derive_ids(
        &mut self,
        changes: HashMap<ProfileNumber, Change>,
        lost: Vec<(ProfileId, Vec<ProfileId>, ProfileNumber, Box<str>, TimeUs)>,
        last: &dyn Fn(ProfileNumber) -> ProfileNumber,
        commit: u64,
        out: &mut WriteBatch,
        resolved: &mut Resolved,
    ) {
        let mut numbers: Vec<ProfileNumber> = changes.keys().copied().collect();
        numbers.sort_unstable();
        let mut taken_over: HashMap<ProfileNumber, Vec<(ProfileId, Box<str>, TimeUs)>> = HashMap::new();
        for (shown, former_ids, into, message_id, at) in lost {
            let list = taken_over.entry(last(into)).or_default();
            list.extend(former_ids.into_iter().chain([shown]).map(|id| (id, message_id.clone(), at)));
        }
        for number in numbers {
            let change = &changes[&number];
            let Some(component) = self.components.get_mut_dirty(&number, commit) else { continue };
            let Some(id) = component.derived_id(&self.plan) else { continue };
            let taken_over = taken_over.remove(&number).unwrap_or_default();
            let moved = change.shown.is_some_and(|shown| shown != id);
            let mut merge = |old: ProfileId, cause, message_id: &str, merged_at| {
                resolved.merges.push(Merge { old, new: id, cause, message_id: message_id.into(), merged_at });
            };
            if moved {
                // Every id ever shown points straight at the new one, so that one hop always suffices.
                for old in component.former_ids.iter().chain(&change.shown).filter(|old| **old != id) {
                    merge(*old, change.cause, &change.message_id, change.at);
                }
            }
            for (old, message_id, at) in taken_over.iter().filter(|(old, ..)| *old != id) {
                merge(*old, "merge", message_id, *at);
                out.put(keys::alias(*old), codec::encode(1, &number));
            }
            component.former_ids.extend(change.shown.filter(|_| moved));
            component.former_ids.extend(taken_over.into_iter().map(|(old, ..)| old));
            component.former_ids.retain(|old| *old != id);
            component.former_ids.sort_unstable();
            component.former_ids.dedup();
            component.id = id;
            out.put(keys::component(number), codec::encode(Component::VERSION, component));
            if moved || change.shown.is_none() || change.cause == "merge" {
                out.put(keys::alias(id), codec::encode(1, &number));
            }
            resolved.changed_ids.insert(number, id);
        }
    }
}
