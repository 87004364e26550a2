//! `most_frequent` and `least_frequent`: exact counts of a profile's values.

use serde::{Deserialize, Serialize};

use super::accumulator::Scalar;
use super::values::{heap, one_zero};

/// The most distinct values that are counted.
pub const VALUES_MAX: usize = 1_000;

/// The state of one such trait. Counts are of events that de-duplication has let through once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Frequencies {
    /// How often each value was there, in the order of values.
    Counts(Vec<(Scalar, u64)>),
    /// There were more than [`VALUES_MAX`] values. It stays so: what was forgotten cannot be counted.
    Overflow,
}

impl Default for Frequencies {
    fn default() -> Self {
        Frequencies::Counts(Vec::new())
    }
}

impl Frequencies {
    /// Counts a value once more. Both zeros are one.
    pub fn add(&mut self, value: Scalar) {
        self.merge(Frequencies::Counts(vec![(one_zero(value), 1)]));
    }

    /// Adds another profile's counts.
    pub fn merge(&mut self, other: Frequencies) {
        let (Frequencies::Counts(counts), Frequencies::Counts(more)) = (&mut *self, other) else {
            *self = Frequencies::Overflow;
            return;
        };
        for (value, count) in more {
            match counts.binary_search_by(|(known, _)| known.order(&value)) {
                Ok(index) => counts[index].1 = counts[index].1.saturating_add(count),
                Err(index) => counts.insert(index, (value, count)),
            }
        }
        if counts.len() > VALUES_MAX {
            *self = Frequencies::Overflow;
        }
    }

    pub fn is_overflow(&self) -> bool {
        matches!(self, Frequencies::Overflow)
    }

    /// The value that was there most often; the smallest of several. None without a value, and on overflow.
    pub fn most(&self) -> Option<&Scalar> {
        self.first_by(|new, best| new > best)
    }

    /// The value that was there least often; the smallest of several. None without a value, and on overflow.
    pub fn least(&self) -> Option<&Scalar> {
        self.first_by(|new, best| new < best)
    }

    fn first_by(&self, better: impl Fn(u64, u64) -> bool) -> Option<&Scalar> {
        let Frequencies::Counts(counts) = self else { return None };
        let best = counts.iter().reduce(|best, new| if better(new.1, best.1) { new } else { best })?;
        Some(&best.0)
    }

    /// Bytes on the heap.
    pub fn weigh(&self) -> usize {
        let Frequencies::Counts(counts) = self else { return 0 };
        counts.capacity() * size_of::<(Scalar, u64)>() + counts.iter().map(|(value, _)| heap(value)).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(values: &[i64]) -> Frequencies {
        let mut frequencies = Frequencies::default();
        values.iter().for_each(|value| frequencies.add(Scalar::Long(*value)));
        frequencies
    }

    /// SEMANTICS §5: ties by value, the smaller one.
    #[test]
    fn values() {
        let rows: [(&[i64], Option<i64>, Option<i64>); 5] = [
            (&[], None, None),
            (&[7], Some(7), Some(7)),
            (&[3, 1, 3, 2], Some(3), Some(1)),
            (&[2, 1, 1, 2, 3, 3], Some(1), Some(1)),
            (&[9, 9, 4, 4, -1], Some(4), Some(-1)),
        ];
        for (values, most, least) in rows {
            let frequencies = frequencies(values);
            assert_eq!(frequencies.most(), most.map(Scalar::Long).as_ref(), "{values:?}");
            assert_eq!(frequencies.least(), least.map(Scalar::Long).as_ref(), "{values:?}");
        }
        let mut zeros = Frequencies::default();
        [0.0, -0.0, 1.0].iter().for_each(|value| zeros.add(Scalar::Double(*value)));
        assert_eq!(zeros, Frequencies::Counts(vec![(Scalar::Double(0.0), 2), (Scalar::Double(1.0), 1)]));
    }

    /// SEMANTICS §5: any order and batches; above the bound it says overflow, permanently.
    #[test]
    fn any_order_and_splits_give_the_same_state() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            // About half of them overflow.
            let values_max = random.i64(900..1_100);
            let mut values: Vec<i64> = (0..values_max).chain((0..300).map(|_| random.i64(0..values_max))).collect();
            let whole = frequencies(&values);
            assert_eq!(whole.is_overflow(), values_max > VALUES_MAX as i64, "seed {seed}");
            random.shuffle(&mut values);
            let cut = random.usize(0..values.len());
            let (a, b) = (frequencies(&values[..cut]), frequencies(&values[cut..]));
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(b);
            ba.merge(a);
            assert_eq!(ab, whole, "seed {seed}");
            assert_eq!(ba, whole, "seed {seed}");
            ab.merge(frequencies(&[1]));
            assert_eq!(ab.is_overflow(), whole.is_overflow(), "seed {seed}");
        }
    }
}
