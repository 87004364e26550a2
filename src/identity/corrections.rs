//! What people have put right: links that must never be made again, identifiers that stand for nobody, events that
//! never happened. Each is durable in the state and holds for every event from then on; what it undoes is a rebuild.

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::IdentityPlan;
use super::extract::Item;

/// An identifier as people write it: the type's number and the normalised value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub kind: u16,
    pub value: Box<str>,
}

/// Stored under `Tag::Correction` by number, version [`Correction::VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Correction {
    /// These two are never linked by one event: the lower of them is set aside on every event that has both.
    Cut(Named, Named),
    /// This identifier links nothing and is nobody's.
    Ban(Named),
    /// This event links nothing and counts for nobody.
    Strike { source: Box<str>, message_id: Box<str> },
}

impl Correction {
    pub const VERSION: u8 = 1;

    /// The cause in `profile_merges`, `event_moves` and `segment_changes`.
    pub fn cause(&self) -> &'static str {
        match self {
            Correction::Cut(..) => "split",
            Correction::Ban(_) => "ban",
            Correction::Strike { .. } => "strike",
        }
    }
}

/// All corrections, by the hashes that rows are compared with.
#[derive(Debug, Clone, Default)]
pub struct Corrections {
    /// Both orders of each pair.
    cuts: HashSet<(u128, u128)>,
    bans: HashSet<u128>,
    struck: HashSet<u128>,
}

impl Corrections {
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty() && self.bans.is_empty() && self.struck.is_empty()
    }

    pub fn add(&mut self, plan: &IdentityPlan, correction: &Correction) {
        self.change(plan, correction, true);
    }

    /// True: it is in force already.
    pub fn holds(&self, plan: &IdentityPlan, correction: &Correction) -> bool {
        let hash = |named: &Named| plan.identifier_hash(named.kind, &named.value);
        match correction {
            Correction::Cut(a, b) => self.cuts.contains(&(hash(a), hash(b))),
            Correction::Ban(named) => self.bans.contains(&hash(named)),
            Correction::Strike { source, message_id } => self.struck.contains(&event_hash(source, message_id)),
        }
    }

    /// A correction that could not be carried out is taken back.
    pub fn remove(&mut self, plan: &IdentityPlan, correction: &Correction) {
        self.change(plan, correction, false);
    }

    fn change(&mut self, plan: &IdentityPlan, correction: &Correction, add: bool) {
        fn put<T: std::hash::Hash + Eq>(set: &mut HashSet<T>, item: T, add: bool) {
            if add {
                set.insert(item);
            } else {
                set.remove(&item);
            }
        }
        let hash = |named: &Named| plan.identifier_hash(named.kind, &named.value);
        match correction {
            Correction::Cut(a, b) => {
                put(&mut self.cuts, (hash(a), hash(b)), add);
                put(&mut self.cuts, (hash(b), hash(a)), add);
            }
            Correction::Ban(named) => put(&mut self.bans, hash(named), add),
            Correction::Strike { source, message_id } => put(&mut self.struck, event_hash(source, message_id), add),
        }
    }

    pub fn is_banned(&self, identifier: u128) -> bool {
        self.bans.contains(&identifier)
    }

    /// Leaves of an event's identifiers, best first, what may link: no banned one, and from the best down none that is
    /// cut from a better one that stays. `dropped` hears of the others; true: it is banned.
    pub fn keep<'a, 'b>(&self, kept: &mut SmallVec<[&'a Item<'b>; 4]>, mut dropped: impl FnMut(&'a Item<'b>, bool)) {
        let mut index = 0;
        while index < kept.len() {
            let item = kept[index];
            let banned = self.bans.contains(&item.hash);
            if banned || kept[..index].iter().any(|better| self.cuts.contains(&(better.hash, item.hash))) {
                kept.remove(index);
                dropped(item, banned);
            } else {
                index += 1;
            }
        }
    }

    /// Whether anything here may touch an event with these identifiers.
    pub fn concern(&self, items: &[Item<'_>], source: &str, message_id: &str) -> bool {
        let banned = !self.bans.is_empty() && items.iter().any(|item| self.bans.contains(&item.hash));
        banned || self.has_cut(items) || self.struck(source, message_id)
    }

    fn has_cut(&self, items: &[Item<'_>]) -> bool {
        let cut = |a: &Item<'_>, b: &Item<'_>| self.cuts.contains(&(a.hash, b.hash));
        !self.cuts.is_empty() && items.iter().enumerate().any(|(at, a)| items[at + 1..].iter().any(|b| cut(a, b)))
    }

    pub fn struck(&self, source: &str, message_id: &str) -> bool {
        !self.struck.is_empty() && self.struck.contains(&event_hash(source, message_id))
    }
}

fn event_hash(source: &str, message_id: &str) -> u128 {
    let source = xxhash_rust::xxh3::xxh3_64(source.as_bytes());
    xxhash_rust::xxh3::xxh3_128_with_seed(message_id.as_bytes(), source)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::super::OnConflict;
    use super::*;

    #[test]
    fn a_correction_concerns_only_events_that_name_what_it_is_about() {
        let plan = IdentityPlan {
            key: [7; 32].into(),
            types: Vec::new(),
            block: Vec::new(),
            on_conflict: OnConflict::Keep,
            max_identifiers: 10,
            previous_id: None,
        };
        let named = |value: &str| Named { kind: 0, value: value.into() };
        let mut corrections = Corrections::default();
        for correction in [
            Correction::Cut(named("a"), named("b")),
            Correction::Ban(named("nobody")),
            Correction::Strike { source: "shop".into(), message_id: "m1".into() },
        ] {
            corrections.add(&plan, &correction);
        }
        let rows: [(&[&'static str], &str, &str, bool); 7] = [
            (&["a"], "shop", "m2", false),
            (&["a", "c"], "shop", "m2", false),
            (&["a", "c", "b"], "shop", "m2", true),
            (&["b", "a"], "shop", "m2", true),
            (&["c", "nobody"], "shop", "m2", true),
            (&["c"], "shop", "m1", true),
            (&["c"], "app", "m1", false),
        ];
        for (values, source, message_id, expect) in rows {
            let item = |value: &&'static str| Item {
                hash: plan.identifier_hash(0, value),
                kind: 0,
                value: Cow::Borrowed(*value),
            };
            let items: Vec<Item> = values.iter().map(item).collect();
            assert_eq!(corrections.concern(&items, source, message_id), expect, "{values:?} {source} {message_id}");
        }
    }
}
