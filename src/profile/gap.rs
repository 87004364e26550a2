//! `gap`: how long it takes from one event to the next, over the latest events.

use serde::{Deserialize, Serialize};

use crate::event::TimeUs;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GapPlan {
    /// The latest events that count, by (time, id); two or more, or there is no gap.
    pub keep: usize,
    pub statistic: GapStatistic,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GapStatistic {
    Mean,
    /// Of level 0 to 1, by nearest rank: the gap at place `floor(level * gaps)` of the sorted ones, the greatest at
    /// level 1. That is ClickHouse's `quantileExact`, and an element of `array_sort(array_agg(gap))` in DataFusion, whose
    /// `percentile_cont` rounds the weights of its interpolation. The value is always a gap that there was.
    Quantile(f64),
}

/// The state of one `gap` of one profile: (time, hash of source and message id) of the latest events, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap(Vec<(TimeUs, u64)>);

impl Gap {
    /// Adds an event; a copy of one changes nothing.
    pub fn add(&mut self, plan: &GapPlan, at: TimeUs, id: u64) {
        if let Err(index) = self.0.binary_search(&(at, id)) {
            self.0.insert(index, (at, id));
            self.shorten(plan.keep);
        }
    }

    /// Adds another profile's events.
    pub fn merge(&mut self, plan: &GapPlan, other: Gap) {
        self.0.extend(other.0);
        self.0.sort_unstable();
        self.0.dedup();
        self.shorten(plan.keep);
    }

    /// The greatest of all events ever are the greatest of what was kept: so nothing depends on order.
    fn shorten(&mut self, keep: usize) {
        self.0.drain(..self.0.len().saturating_sub(keep));
    }

    /// Seconds. None below two events.
    pub fn value(&self, plan: &GapPlan) -> Option<f64> {
        let (first, last) = (self.0.first()?.0, self.0.last()?.0);
        let gaps = self.0.len() - 1;
        let us = match plan.statistic {
            _ if gaps == 0 => return None,
            GapStatistic::Mean => last.abs_diff(first) as f64 / gaps as f64,
            GapStatistic::Quantile(level) => {
                let mut sorted: Vec<u64> = self.0.windows(2).map(|pair| pair[1].0.abs_diff(pair[0].0)).collect();
                // A cast of what is negative or no number is 0.
                let place = ((level * gaps as f64) as usize).min(gaps - 1);
                *sorted.select_nth_unstable(place).1 as f64
            }
        };
        Some(us / 1e6)
    }

    /// Bytes on the heap.
    pub fn weigh(&self) -> usize {
        self.0.capacity() * size_of::<(TimeUs, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: times in seconds, what of them is kept, a statistic, and its value in seconds.
    #[test]
    fn values() {
        let quantile = GapStatistic::Quantile;
        let rows: [(&[i64], usize, GapStatistic, Option<f64>); 12] = [
            (&[], 9, GapStatistic::Mean, None),
            (&[5], 9, quantile(0.5), None),
            (&[5, 8, 20], 9, GapStatistic::Mean, Some(7.5)),
            (&[5, 8, 20], 2, GapStatistic::Mean, Some(12.0)),
            (&[5, 8, 20], 1, GapStatistic::Mean, None),
            (&[5, 8, 20], 0, GapStatistic::Mean, None),
            (&[0, 1, 3, 6, 10], 9, quantile(0.0), Some(1.0)),
            (&[0, 1, 3, 6, 10], 9, quantile(0.49), Some(2.0)),
            // Of four gaps the third: floor(0.5 * 4) = 2.
            (&[0, 1, 3, 6, 10], 9, quantile(0.5), Some(3.0)),
            (&[0, 1, 3, 6, 10], 9, quantile(1.0), Some(4.0)),
            (&[0, 1, 3, 6, 10], 3, quantile(0.5), Some(4.0)),
            (&[7, 7, 7], 9, quantile(0.5), Some(0.0)),
        ];
        for (seconds, keep, statistic, expected) in rows {
            let plan = GapPlan { keep, statistic };
            let mut gap = Gap::default();
            for (id, at) in seconds.iter().enumerate() {
                gap.add(&plan, at * 1_000_000, id as u64);
            }
            assert_eq!(gap.value(&plan), expected, "{seconds:?} {plan:?}");
        }
    }

    /// SEMANTICS §5: any order, copies and merges.
    #[test]
    fn any_order_copies_and_splits_give_the_same_state() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let plan = GapPlan { keep: random.usize(0..8), statistic: GapStatistic::Mean };
            let mut events: Vec<(TimeUs, u64)> = (0..12).map(|id| (random.i64(0..9), id)).collect();
            let gap = |events: &[(TimeUs, u64)]| {
                let mut gap = Gap::default();
                events.iter().for_each(|(at, id)| gap.add(&plan, *at, *id));
                gap
            };
            let whole = gap(&events);
            random.shuffle(&mut events);
            let (to, from) = (random.usize(0..12), random.usize(0..12));
            let parts = [gap(&events[..to]), gap(&events[to..]), gap(&events[from..])];
            for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
                let mut sum = parts[order[0]].clone();
                sum.merge(&plan, parts[order[1]].clone());
                sum.merge(&plan, parts[order[2]].clone());
                assert_eq!(sum, whole, "seed {seed}");
            }
        }
    }
}
