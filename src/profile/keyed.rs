//! `by`: a value of its own for each value of a text, as `{ count: "*", by: properties.sku }`.

use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use super::plan::EventRule;
use crate::event::TimeUs;

/// Different keys that one trait of one profile can have. With more it says `overflow` and holds nothing, whatever the
/// order in which they came.
pub const MAX_KEYS: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Keyed {
    /// In the order of their bytes.
    Keys(Vec<(Box<str>, Accumulator)>),
    /// There were too many: for good.
    Overflow,
}

impl Keyed {
    pub fn of(key: &str, state: Accumulator) -> Keyed {
        Keyed::Keys(vec![(key.into(), state)])
    }

    pub fn merge(&mut self, other: Keyed, rule: &EventRule) {
        let (Keyed::Keys(mine), Keyed::Keys(theirs)) = (&mut *self, other) else {
            *self = Keyed::Overflow;
            return;
        };
        for (key, state) in theirs {
            match mine.binary_search_by(|(other, _)| other.cmp(&key)) {
                Ok(index) => mine[index].1.add(rule, state),
                Err(index) => mine.insert(index, (key, state)),
            }
        }
        if mine.len() > MAX_KEYS {
            *self = Keyed::Overflow;
        }
    }

    /// False when nothing is left.
    pub fn settle(&mut self, rule: &EventRule, now: TimeUs, floor: TimeUs) -> bool {
        match self {
            Keyed::Keys(keys) => {
                // A key whose window is empty still counts as one that was there, so that `overflow` is for good.
                keys.iter_mut().for_each(|(_, state)| {
                    state.settle(rule, now, floor);
                });
                true
            }
            Keyed::Overflow => true,
        }
    }

    pub fn keys(&self) -> &[(Box<str>, Accumulator)] {
        match self {
            Keyed::Keys(keys) => keys,
            Keyed::Overflow => &[],
        }
    }

    pub fn weigh(&self) -> usize {
        let entry = size_of::<(Box<str>, Accumulator)>();
        self.keys().iter().map(|(key, state)| entry + key.len() + state.weigh()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(keys: &[usize]) -> Option<Keyed> {
        let rule = super::super::tests::count_rule();
        let of = |key: &usize| Keyed::of(&format!("k{key}"), Accumulator::Count(1));
        keys.iter().map(of).reduce(|mut all, one| {
            all.merge(one, &rule);
            all
        })
    }

    /// SEMANTICS §5: any order and splits; above the bound it says overflow, permanently.
    #[test]
    fn any_order_and_splits_give_the_same_state() {
        let rule = super::super::tests::count_rule();
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(MAX_KEYS - 3..=MAX_KEYS + 3);
            let mut keys: Vec<usize> = (0..count).chain((0..50).map(|_| random.usize(0..count))).collect();
            let whole = keyed(&keys);
            assert_eq!(whole == Some(Keyed::Overflow), count > MAX_KEYS, "seed {seed}");
            random.shuffle(&mut keys);
            let cut = random.usize(1..keys.len());
            let (a, b) = (keyed(&keys[..cut]).unwrap(), keyed(&keys[cut..]).unwrap());
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(b, &rule);
            ba.merge(a, &rule);
            assert_eq!(Some(&ab), whole.as_ref(), "seed {seed}");
            assert_eq!(ab, ba, "seed {seed}");
            ab.settle(&rule, TimeUs::MAX, TimeUs::MAX);
            ab.merge(keyed(&[0]).unwrap(), &rule);
            assert_eq!(ab == Keyed::Overflow, count > MAX_KEYS, "seed {seed}");
        }
    }
}
