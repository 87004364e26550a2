//! Makes the links of a batch: one profile number per row, what changed, and what was refused.

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::OnConflict;
use super::component::{Identifier, Link};
use super::decide::{Conflict, Decision, Decisions};
use super::extract::{Extracted, Item};
use super::identities::{Event, Identities, Kept, distinct};
use crate::event::{EventBatch, ProfileId, ProfileNumber, TimeUs, column};
use crate::state::{WriteBatch, codec, keys};

/// The number of a row without any usable identifier.
pub const NO_PROFILE: ProfileNumber = 0;

/// What identity says of a batch.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Per row: its profile's number, [`NO_PROFILE`] where it has none.
    pub numbers: Vec<ProfileNumber>,
    /// Per row: kind and hash of the best identifier that was kept, as a rank (lower is better).
    pub best: Vec<u64>,
    /// Rows on which not all identifiers were simply joined, in order of rows.
    pub decisions: Vec<(u32, Decision)>,
    pub conflicts: Vec<Conflict>,
    /// Profiles that were absorbed: their state goes into another's. In order; chains are already followed, so
    /// `into` is a profile that lives on after the batch.
    pub absorbed: Vec<(ProfileNumber, ProfileNumber)>,
    /// Ids that became another id, one per id ever shown that points to a new place now.
    pub merges: Vec<Merge>,
    /// Identifiers that are new, or that went to another person.
    pub identifiers: Vec<IdentifierRow>,
    /// How many of these were known before.
    pub reassigned: usize,
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
    /// `merge` when two profiles became one, `better_identifier` when a profile's best identifier changed; the causes
    /// of corrections when a profile was split.
    pub cause: &'static str,
    pub message_id: Box<str>,
    pub merged_at: TimeUs,
}

#[derive(Debug, Clone, PartialEq)]
pub struct IdentifierRow {
    pub kind: u16,
    pub value: Box<str>,
    /// [`NO_PROFILE`]: nobody's any more.
    pub number: ProfileNumber,
    pub linked_at: TimeUs,
}

/// What happened to a component within the batch, before ids are derived.
struct Change {
    /// The id the tables know; None for a component made in this batch.
    shown: Option<ProfileId>,
    /// Another one has been absorbed.
    merged: bool,
    /// What made the identifier that is the best now the best.
    cause: &'static str,
    /// The event's row.
    row: u32,
}

impl Change {
    fn new(shown: Option<ProfileId>, event: Event<'_>) -> Change {
        Change { shown, merged: false, cause: "better_identifier", row: event.row as u32 }
    }
}

/// A component that was absorbed although tables know its id.
struct Lost {
    shown: ProfileId,
    former_ids: Vec<ProfileId>,
    into: ProfileNumber,
    row: u32,
}

/// What a batch does to the components, until it is done.
#[derive(Default)]
struct Working {
    changes: HashMap<ProfileNumber, Change>,
    absorbed: HashMap<ProfileNumber, ProfileNumber>,
    lost: Vec<Lost>,
    /// The position of the row at hand, as text.
    position: String,
}

impl Identities {
    /// Makes all links of the batch and stages what changed under `commit`.
    ///
    /// Everything that `missing_identifiers` and `missing_components` named must have been loaded.
    pub fn resolve(
        &mut self,
        events: &EventBatch,
        extracted: &Extracted<'_>,
        decisions: Decisions<'_>,
        commit: u64,
        out: &mut WriteBatch,
    ) -> Resolved {
        let mut resolved = Resolved {
            numbers: Vec::with_capacity(events.len()),
            best: Vec::with_capacity(events.len()),
            ..Resolved::default()
        };
        let mut working = Working::default();
        let times = events.times(column::TIMESTAMP);
        // Without these a row whose identifiers are one person already needs no further look.
        let plain = self.plan.on_conflict == OnConflict::Keep && matches!(decisions, Decisions::Now);
        for row in 0..events.len() {
            let items = extracted.row(row);
            let number = match items {
                [] => NO_PROFILE,
                [first, rest @ ..] => {
                    let event = Event { events, row, at: times.value(row) };
                    let known = self.identifiers.get(&first.hash).copied();
                    match known {
                        Some(number)
                            if plain
                                && rest.iter().all(|item| self.identifiers.get(&item.hash) == Some(&number))
                                && !self.corrected(event, items) =>
                        {
                            resolved.best.push(first.rank());
                            resolved.numbers.push(number);
                            continue;
                        }
                        _ => self.place(event, items, &decisions, commit, &mut working, &mut resolved, out),
                    }
                }
            };
            if number == NO_PROFILE {
                resolved.best.push(u64::MAX);
            }
            resolved.numbers.push(number);
        }

        // A number given to an early row may have been absorbed by a later one.
        let absorbed = std::mem::take(&mut working.absorbed);
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
            for conflict in &mut resolved.conflicts {
                conflict.number = last(conflict.number);
                conflict.other = conflict.other.map(last);
            }
        }
        // A batch of strangers stages hundreds of thousands of writes: the list grows once.
        out.writes.reserve(resolved.identifiers.len() + 2 * working.changes.len());
        for row in &resolved.identifiers {
            let hash = self.plan.identifier_hash(row.kind, &row.value);
            out.put(keys::identifier(hash), codec::encode(1, &row.number));
        }
        self.derive_ids(events, working, &last, commit, out, &mut resolved);
        resolved
    }

    fn corrected(&self, event: Event<'_>, items: &[Item<'_>]) -> bool {
        !self.corrections.is_empty() && self.corrections.concern(items, event.source(), event.message_id())
    }

    /// Decides about one row and makes its links. Gives the number that the row belongs to for now.
    #[expect(clippy::too_many_arguments, reason = "one row against everything that the batch has done so far")]
    fn place<'a>(
        &mut self,
        event: Event<'_>,
        items: &'a [Item<'a>],
        decisions: &Decisions<'_>,
        commit: u64,
        working: &mut Working,
        resolved: &mut Resolved,
        out: &mut WriteBatch,
    ) -> ProfileNumber {
        let mut kept: Kept<'a, 'a> = items.iter().collect();
        let mut decision = Decision::default();
        let refused = self.decide(event, &mut kept, decisions, &mut decision);
        for refusal in refused.iter().filter(|refusal| refusal.reassigned) {
            self.detach(refusal.item.hash, commit, event, working);
            resolved.reassigned += 1;
        }
        let Some(first) = kept.first() else {
            resolved.decisions.push((event.row as u32, decision));
            return NO_PROFILE;
        };
        resolved.best.push(first.rank());
        let number = self.join(event, &kept, commit, working, resolved, out);
        resolved.conflicts.extend(refused.into_iter().map(|refusal| Conflict {
            row: event.row as u32,
            kind: refusal.item.kind,
            value: (*refusal.item.value).into(),
            number,
            other: refusal.other.filter(|other| *other != number),
            cause: refusal.cause,
            reassigned: refusal.reassigned,
        }));
        if !decision.is_empty() {
            resolved.decisions.push((event.row as u32, decision));
        }
        number
    }

    /// Joins what one event names into one component.
    fn join(
        &mut self,
        event: Event<'_>,
        kept: &Kept<'_, '_>,
        commit: u64,
        working: &mut Working,
        resolved: &mut Resolved,
        out: &mut WriteBatch,
    ) -> ProfileNumber {
        let known = self.known(kept);
        let numbers = distinct(&known);
        let confirms = self.plan.on_conflict == OnConflict::Reassign && kept.len() > 1;
        if let ([only], true) = (&numbers[..], known.iter().all(Option::is_some)) {
            if confirms {
                self.confirm(event, kept, *only, commit, working);
            }
            return *only;
        }
        // The links that join what is apart, from the best identifier to each part; for a tree, one to a part.
        let mut links: SmallVec<[(u128, u128); 4]> = SmallVec::new();
        let mut parts: SmallVec<[ProfileNumber; 4]> = known[0].into_iter().collect();
        for (item, number) in kept.iter().zip(&known).skip(1) {
            match number {
                Some(number) if parts.contains(number) => continue,
                Some(number) => parts.push(*number),
                None => {}
            }
            links.push((kept[0].hash, item.hash));
        }
        let number = match numbers.as_slice() {
            [] => {
                let number = self.next_number;
                self.next_number += 1;
                self.components.insert_dirty(number, Box::default(), commit);
                working.changes.insert(number, Change::new(None, event));
                resolved.created.push(number);
                number
            }
            several => self.survivor(several),
        };
        self.note(&mut working.changes, number, event);
        let best_before = self.best_of(number);
        for loser in numbers.iter().copied().filter(|other| *other != number) {
            self.absorb(loser, number, event, commit, working, out);
            resolved.absorbed.push((loser, number));
        }
        let Some(component) = self.components.get_mut_dirty(&number, commit) else {
            unreachable!("component {number} was to be loaded before resolve")
        };
        for (place, item) in kept.iter().enumerate().filter(|(place, _)| known[*place].is_none()) {
            self.identifiers.insert_dirty(item.hash, number, commit);
            self.seen.insert(item.hash);
            let value: Box<str> = (*item.value).into();
            // Beside a better one: that says whose it is.
            let confirmed = confirms && place > 0;
            component.add(Identifier {
                hash: item.hash,
                kind: item.kind,
                value: value.clone(),
                linked_at: event.at,
                confirmed: confirmed.then(|| Box::new((event.at, event.message_id().into()))),
            });
            resolved.identifiers.push(IdentifierRow { kind: item.kind, value, number, linked_at: event.at });
        }
        if !links.is_empty() {
            write_position(event, &mut working.position);
            for (a, b) in links {
                let (message_id, position) = (event.message_id().into(), working.position.as_str().into());
                component.add_link(Link { a, b, message_id, position, linked_at: event.at });
            }
        }
        if confirms {
            self.confirm(event, kept, number, commit, working);
        }
        if self.best_of(number) != best_before
            && let Some(change) = working.changes.get_mut(&number)
        {
            change.cause = if numbers.len() > 1 { "merge" } else { "better_identifier" };
            change.row = event.row as u32;
        }
        number
    }

    fn best_of(&self, number: ProfileNumber) -> Option<u128> {
        self.components.get(&number).and_then(|component| component.best()).map(|best| best.hash)
    }

    /// The larger side lives on; of equals, the older.
    fn survivor(&self, numbers: &[ProfileNumber]) -> ProfileNumber {
        let size = |number: &ProfileNumber| self.components.get(number).map_or(0, |c| c.identifiers().len());
        let mut best = numbers[0];
        for number in &numbers[1..] {
            if size(number) > size(&best) {
                best = *number;
            }
        }
        best
    }

    /// Moves a component's identifiers to the survivor.
    fn absorb(
        &mut self,
        loser: ProfileNumber,
        survivor: ProfileNumber,
        event: Event<'_>,
        commit: u64,
        working: &mut Working,
        out: &mut WriteBatch,
    ) {
        let Some(mut component) = self.components.remove(&loser) else {
            unreachable!("component {loser} was to be loaded before resolve")
        };
        let shown = match working.changes.remove(&loser) {
            Some(change) => change.shown,
            None => Some(component.id),
        };
        component.delete(loser, out);
        let former_ids = component.take_former_ids();
        if let Some(shown) = shown {
            working.lost.push(Lost { shown, former_ids, into: survivor, row: event.row as u32 });
        }
        for identifier in component.identifiers() {
            self.identifiers.insert_dirty(identifier.hash, survivor, commit);
            out.put(keys::identifier(identifier.hash), codec::encode(1, &survivor));
        }
        if let Some(change) = working.changes.get_mut(&survivor) {
            change.merged = true;
        }
        if let Some(into) = self.components.get_mut_dirty(&survivor, commit) {
            into.absorb(*component);
        }
        working.absorbed.insert(loser, survivor);
    }

    /// Takes an identifier from the person it is with; the caller then adds it to another.
    fn detach(&mut self, hash: u128, commit: u64, event: Event<'_>, working: &mut Working) {
        let Some(number) = self.identifiers.remove(&hash) else { return };
        self.note(&mut working.changes, number, event);
        if let Some(component) = self.components.get_mut_dirty(&number, commit) {
            component.remove(hash);
        }
    }

    /// Remembers that this event had these identifiers with this person.
    fn confirm(
        &mut self,
        event: Event<'_>,
        kept: &Kept<'_, '_>,
        number: ProfileNumber,
        commit: u64,
        working: &mut Working,
    ) {
        self.note(&mut working.changes, number, event);
        if let Some(component) = self.components.get_mut_dirty(&number, commit) {
            for item in &kept[1..] {
                component.confirm(item.hash, event.at, event.message_id());
            }
        }
    }

    /// Remembers that a component changes in this batch.
    fn note(&self, changes: &mut HashMap<ProfileNumber, Change>, number: ProfileNumber, event: Event<'_>) {
        let shown = || self.components.get(&number).map(|component| component.id);
        changes.entry(number).or_insert_with(|| Change::new(shown(), event));
    }

    /// Derives the ids of the changed components, once per batch, and says which ids became others.
    fn derive_ids(
        &mut self,
        events: &EventBatch,
        working: Working,
        last: &dyn Fn(ProfileNumber) -> ProfileNumber,
        commit: u64,
        out: &mut WriteBatch,
        resolved: &mut Resolved,
    ) {
        let Working { changes, lost, .. } = working;
        let mut changes: Vec<(ProfileNumber, Change)> = changes.into_iter().collect();
        changes.sort_unstable_by_key(|(number, _)| *number);
        let mut taken_over: HashMap<ProfileNumber, Vec<(ProfileId, u32)>> = HashMap::new();
        for Lost { shown, former_ids, into, row } in lost {
            let list = taken_over.entry(last(into)).or_default();
            list.extend(former_ids.into_iter().chain([shown]).map(|id| (id, row)));
        }
        let (message_ids, times) = (events.strings(column::MESSAGE_ID), events.times(column::TIMESTAMP));
        for (number, change) in changes {
            let Some(component) = self.components.get_mut_dirty(&number, commit) else { continue };
            let Some(id) = component.derive_id(&self.plan) else { continue };
            let taken_over = taken_over.remove(&number).unwrap_or_default();
            let moved = change.shown.is_some_and(|shown| shown != id);
            let mut merge = |old: ProfileId, cause, row: u32| {
                let (message_id, merged_at) = (message_ids.value(row as usize).into(), times.value(row as usize));
                resolved.merges.push(Merge { old, new: id, cause, message_id, merged_at });
            };
            if moved {
                // Every id ever shown points straight at the new one, so that one hop always suffices.
                for old in component.former_ids().iter().chain(&change.shown).filter(|old| **old != id) {
                    merge(*old, change.cause, change.row);
                }
            }
            for (old, row) in taken_over.iter().filter(|(old, _)| *old != id) {
                merge(*old, "merge", *row);
                out.put(keys::alias(*old), codec::encode(1, &number));
            }
            let gone = change.shown.filter(|_| moved).into_iter().chain(taken_over.into_iter().map(|(old, _)| old));
            gone.filter(|old| *old != id).for_each(|old| component.add_former_id(old));
            component.id = id;
            component.write(number, out);
            if moved || change.shown.is_none() || change.merged {
                out.put(keys::alias(id), codec::encode(1, &number));
            }
            resolved.changed_ids.insert(number, id);
        }
    }
}

/// As [`Position`](crate::event::Position) is displayed.
fn write_position(event: Event<'_>, out: &mut String) {
    let batch = &event.events.batch;
    let partition = batch.column(column::PARTITION).as_primitive::<Int32Type>().value(event.row);
    let offset = batch.column(column::OFFSET).as_primitive::<Int64Type>().value(event.row);
    let (mut partition_text, mut offset_text) = (itoa::Buffer::new(), itoa::Buffer::new());
    out.clear();
    let topic = event.events.strings(column::TOPIC).value(event.row);
    for part in [event.source(), ":", topic, "/", partition_text.format(partition), "@", offset_text.format(offset)] {
        out.push_str(part);
    }
}
