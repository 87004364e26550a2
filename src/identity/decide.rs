//! Which identifiers of an event may be joined: limits, the hub guard, cuts, and what becomes of those that may not.
//!
//! Decided in log order and recorded with the event (SEMANTICS §4), so that a rebuild does not decide again. On a
//! breach the event's lowest identifier is set aside and the rest tried again; what is left lands on the profile of
//! the event's best identifier. With `on_conflict: reassign` an identifier that was set aside goes to that person
//! instead, unless a later event had it with the other.

use arrow::array::{Array, StringArray};
use smallvec::SmallVec;

use super::OnConflict;
use super::extract::Item;
use super::identities::{Event, Identities, Kept, distinct};
use crate::event::{ProfileNumber, TimeUs};

/// Where decisions come from.
#[derive(Clone, Copy)]
pub enum Decisions<'a> {
    /// From the rules, now.
    Now,
    /// As they were recorded: the `identity_decision` column of these events. Rules are not asked; corrections are.
    Recorded(&'a StringArray),
}

/// What was decided about an event where it did not simply join all of its identifiers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    text: String,
}

/// An identifier that was refused.
pub(super) struct Refusal<'a, 'b> {
    pub item: &'a Item<'b>,
    /// The person it is with.
    pub other: Option<ProfileNumber>,
    pub cause: Cause,
    /// It goes to the event's person all the same.
    pub reassigned: bool,
}

/// A row of `identity_conflicts`.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    pub row: u32,
    pub kind: u16,
    pub value: Box<str>,
    /// Where the event landed.
    pub number: ProfileNumber,
    pub other: Option<ProfileNumber>,
    pub cause: Cause,
    pub reassigned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The limit of this kind.
    Limit(u16),
    MaxIdentifiers,
    Cut,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Limit(_) => "limit",
            Cause::MaxIdentifiers => "max_identifiers",
            Cause::Cut => "cut",
        }
    }
}

impl Decision {
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The `identity_decision` column: `set_aside:TYPE`, `reassigned:TYPE` (by the rules), `cut:TYPE`, `banned:TYPE`,
    /// `struck` (by corrections, which decide anew in a rebuild), comma-separated.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn add(&mut self, what: &str, kind: &str) {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(what);
        if !kind.is_empty() {
            self.text.push(':');
            self.text.push_str(kind);
        }
    }
}

impl Identities {
    /// Takes out of `kept` what may not be joined, and says what and why.
    pub(super) fn decide<'a, 'b>(
        &self,
        event: Event<'_>,
        kept: &mut Kept<'a, 'b>,
        decisions: &Decisions<'_>,
        decision: &mut Decision,
    ) -> SmallVec<[Refusal<'a, 'b>; 2]> {
        let mut refused = SmallVec::new();
        if !self.corrections.is_empty() {
            self.apply_corrections(event, kept, decision, &mut refused);
        }
        match decisions {
            Decisions::Recorded(recorded) => {
                if recorded.is_valid(event.row) {
                    self.apply_recorded(recorded.value(event.row), kept, decision);
                }
            }
            Decisions::Now => {
                self.apply_rules(kept, event, &mut refused);
                if self.plan.on_conflict == OnConflict::Reassign {
                    self.reassign(event, kept, &mut refused);
                }
                for refusal in refused.iter().filter(|refusal| refusal.cause != Cause::Cut) {
                    let what = if refusal.reassigned { "reassigned" } else { "set_aside" };
                    decision.add(what, &self.plan.types[refusal.item.kind as usize].name);
                }
            }
        }
        refused
    }

    /// Cuts, bans and struck events hold whatever the rules say, and are never reassigned.
    fn apply_corrections<'a, 'b>(
        &self,
        event: Event<'_>,
        kept: &mut Kept<'a, 'b>,
        decision: &mut Decision,
        refused: &mut SmallVec<[Refusal<'a, 'b>; 2]>,
    ) {
        if self.corrections.struck(event.source(), event.message_id()) {
            kept.clear();
            decision.add("struck", "");
            return;
        }
        self.corrections.keep(kept, |item, banned| {
            decision.add(if banned { "banned" } else { "cut" }, &self.plan.types[item.kind as usize].name);
            if !banned {
                let other = self.identifiers.get(&item.hash).copied();
                refused.push(Refusal { item, other, cause: Cause::Cut, reassigned: false });
            }
        });
    }

    fn apply_recorded(&self, recorded: &str, kept: &mut Kept<'_, '_>, decision: &mut Decision) {
        for name in recorded.split(',').filter_map(|part| part.strip_prefix("set_aside:")) {
            let kind = self.plan.kind(name);
            // The lowest first, as it was set aside. One that a correction took out already is not there.
            if let Some(index) = kept.iter().rposition(|item| Some(item.kind) == kind) {
                kept.remove(index);
                decision.add("set_aside", name);
            }
        }
    }

    /// Sets the lowest identifier aside until the rest may be joined.
    fn apply_rules<'a, 'b>(
        &self,
        kept: &mut Kept<'a, 'b>,
        event: Event<'_>,
        refused: &mut SmallVec<[Refusal<'a, 'b>; 2]>,
    ) {
        while kept.len() > 1 {
            let Some(cause) = self.refusal(kept, event) else { return };
            if let Some(item) = kept.pop() {
                let other = self.identifiers.get(&item.hash).copied();
                refused.push(Refusal { item, other, cause, reassigned: false });
            }
        }
    }

    /// Why these may not be one person, if they may not.
    fn refusal(&self, kept: &[&Item<'_>], event: Event<'_>) -> Option<Cause> {
        let known = self.known(kept);
        let new = kept.iter().zip(&known).filter(|(_, number)| number.is_none()).map(|(item, _)| *item);
        self.refusal_of(&distinct(&known), &new.collect::<SmallVec<[&Item<'_>; 4]>>(), event)
    }

    fn refusal_of(&self, numbers: &[ProfileNumber], new: &[&Item<'_>], event: Event<'_>) -> Option<Cause> {
        if numbers.len() + new.len() < 2 {
            return None; // nothing is joined
        }
        let components = || numbers.iter().filter_map(|number| self.components.get(number));
        for (kind, rule) in self.plan.types.iter().enumerate() {
            let Some(limit) = rule.limit else { continue };
            let kind = kind as u16;
            let added = new.iter().filter(|item| item.kind == kind).count() as u32;
            let all: u32 = components().map(|component| component.count_of(kind)).sum();
            if all + added <= limit.count {
                continue; // whenever they were linked
            }
            let (mut total, mut largest) = (added, 0);
            match limit.within {
                None => {
                    for count in components().map(|component| component.count_of(kind)) {
                        total += count;
                        largest = largest.max(count);
                    }
                }
                Some(within) => {
                    let mut all: Times = SmallVec::from_elem(event.at, added as usize);
                    for component in components() {
                        let mut times: Times = component.linked_at(kind).collect();
                        largest = largest.max(most(&mut times, event.at, within));
                        all.extend(times);
                    }
                    total = most(&mut all, event.at, within);
                }
            }
            // What is over the limit already is not refused for what does not add to it.
            if total > limit.count && total > largest {
                return Some(Cause::Limit(kind));
            }
        }
        let total: usize = components().map(|component| component.identifiers().len()).sum::<usize>() + new.len();
        (total > self.plan.max_identifiers as usize).then_some(Cause::MaxIdentifiers)
    }

    /// Gives what was set aside to the event's person where it is the latest to have it, the best of them first. What
    /// is nobody's, or this person's already, was set aside only for being lower: it is tried again.
    fn reassign<'a, 'b>(
        &self,
        event: Event<'_>,
        kept: &mut Kept<'a, 'b>,
        refused: &mut SmallVec<[Refusal<'a, 'b>; 2]>,
    ) {
        let home = distinct(&self.known(kept));
        for index in (0..refused.len()).rev() {
            let Refusal { item, other, cause, .. } = refused[index];
            if cause == Cause::Cut {
                continue;
            }
            let at_home = other.is_some_and(|owner| home.contains(&owner));
            let fits = |kept: &Kept<'a, 'b>| {
                let elsewhere =
                    |item: &&Item<'_>| self.identifiers.get(&item.hash).is_none_or(|number| !home.contains(number));
                let mut new: SmallVec<[&Item<'_>; 4]> = kept.iter().copied().filter(elsewhere).collect();
                new.push(item);
                self.refusal_of(&home, &new, event).is_none()
            };
            match other.filter(|_| !at_home) {
                None if at_home || fits(kept) => {
                    kept.push(item);
                    refused.remove(index);
                }
                Some(owner) if matches!(cause, Cause::Limit(_)) && self.is_later(event, item, owner) && fits(kept) => {
                    refused[index].reassigned = true;
                    kept.push(item);
                }
                _ => {}
            }
        }
    }

    /// Whether this event may take the identifier from its owner.
    fn is_later(&self, event: Event<'_>, item: &Item<'_>, owner: ProfileNumber) -> bool {
        let Some(component) = self.components.get(&owner) else { return false };
        // Who has nothing better than this identifier is that identifier.
        if component.best().is_some_and(|best| best.hash == item.hash) {
            return false;
        }
        let known = component.identifiers().iter().find(|known| known.hash == item.hash);
        let confirmed = known.and_then(|known| known.confirmed.as_ref());
        confirmed.is_none_or(|confirmed| (event.at, event.message_id()) > (confirmed.0, &*confirmed.1))
    }
}

type Times = SmallVec<[TimeUs; 16]>;

/// The most of these times that any span of this length has which `at` falls into. An event that comes late is judged
/// by its own time: what was linked long after it does not count, but in whatever order events come, no span has more
/// than the limit. A span is open at its beginning: exactly so long before counts no more.
fn most(times: &mut [TimeUs], at: TimeUs, within: TimeUs) -> u32 {
    times.sort_unstable();
    let upto = |time: TimeUs| times.partition_point(|other| *other <= time);
    let ends = times.iter().copied().filter(|end| (at..at.saturating_add(within)).contains(end)).chain([at]);
    ends.map(|end| upto(end) - upto(end.saturating_sub(within))).max().unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_span_that_holds_the_event_counts() {
        // (when identifiers were linked, the event's time, the span, the most in one)
        let rows: [(&[TimeUs], TimeUs, TimeUs, u32); 9] = [
            (&[], 10, 5, 0),
            (&[10], 10, 5, 1),
            (&[6, 7, 8, 10], 10, 5, 4),
            // Exactly the span before.
            (&[5, 6], 10, 5, 1),
            // Exactly the span after, and just within it.
            (&[10, 15], 10, 5, 1),
            (&[10, 14], 10, 5, 2),
            // Before and after, but never in one span.
            (&[7, 10, 13], 10, 5, 2),
            (&[7, 8, 10, 11, 13], 10, 5, 4),
            // A full span that the event does not fall into.
            (&[1, 2, 3, 20, 21, 22], 10, 5, 0),
        ];
        for (times, at, within, expect) in rows {
            let mut reversed: Vec<TimeUs> = times.iter().rev().copied().collect();
            assert_eq!(most(&mut reversed, at, within), expect, "{times:?} at {at} within {within}");
        }
    }
}
