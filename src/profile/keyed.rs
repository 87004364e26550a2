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
