//! The Markov chain of what people are touched by, and what would be lost without a channel.

use std::collections::BTreeMap;

use super::Touches;

/// A system of so many equations is solved at most: a third of a billion multiplications for each channel.
const STATES_MAX: usize = 1_000;

/// Paths that are the same, with how many of them converted and how many did not.
#[derive(Debug, Default)]
pub struct Paths {
    counts: BTreeMap<Vec<String>, (f64, f64)>,
}

impl Paths {
    pub fn add(&mut self, one: &Touches) {
        if one.touches.is_empty() {
            return;
        }
        let path = one.touches.iter().map(|(channel, _)| channel.clone()).collect();
        let (converted, lost) = self.counts.entry(path).or_default();
        if one.converted { *converted += 1.0 } else { *lost += 1.0 }
    }

    /// The share of each channel in the conversions; together 1, or none where nothing converted.
    ///
    /// # Errors
    /// Too many states.
    pub fn shares(&self, order: usize) -> Result<BTreeMap<String, f64>, String> {
        let chain = Chain::of(self, order)?;
        let whole = chain.conversion(None);
        if whole <= 0.0 {
            return Ok(BTreeMap::new());
        }
        let channels: Vec<String> = chain.channels();
        let effects: Vec<f64> =
            channels.iter().map(|channel| (1.0 - chain.conversion(Some(channel)) / whole).max(0.0)).collect();
        let total: f64 = effects.iter().sum();
        Ok(channels.into_iter().zip(effects).map(|(channel, effect)| (channel, effect / total)).collect())
    }
}

/// States are the last channels, up to `order` of them; the first state is the beginning.
struct Chain {
    states: Vec<Vec<String>>,
    /// By state: the next states and their probabilities, and the probability to convert next.
    next: Vec<(Vec<(usize, f64)>, f64)>,
}

impl Chain {
    fn of(paths: &Paths, order: usize) -> Result<Chain, String> {
        let mut numbers: BTreeMap<Vec<String>, usize> = BTreeMap::from([(Vec::new(), 0)]);
        let mut moves: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        let (mut converts, mut leaves): (BTreeMap<usize, f64>, BTreeMap<usize, f64>) = Default::default();
        for (path, (converted, lost)) in &paths.counts {
            let mut state = 0;
            for end in 1..=path.len() {
                let next = path[end.saturating_sub(order)..end].to_vec();
                let count = numbers.len();
                let next = *numbers.entry(next).or_insert(count);
                *moves.entry((state, next)).or_default() += converted + lost;
                *leaves.entry(state).or_default() += converted + lost;
                state = next;
            }
            *converts.entry(state).or_default() += converted;
            *leaves.entry(state).or_default() += converted + lost;
        }
        if numbers.len() > STATES_MAX {
            return Err(format!(
                "the Markov chain of order {order} has {} states, more than {STATES_MAX}: take a lower order, or fewer channels",
                numbers.len()
            ));
        }
        let mut states = vec![Vec::new(); numbers.len()];
        numbers.into_iter().for_each(|(state, number)| states[number] = state);
        let mut next: Vec<(Vec<(usize, f64)>, f64)> = vec![(Vec::new(), 0.0); states.len()];
        for ((from, to), count) in moves {
            next[from].0.push((to, count / leaves[&from]));
        }
        for (from, count) in converts {
            next[from].1 = count / leaves[&from];
        }
        Ok(Chain { states, next })
    }

    fn channels(&self) -> Vec<String> {
        let mut channels: Vec<String> = self.states.iter().filter_map(|state| state.last().cloned()).collect();
        channels.sort();
        channels.dedup();
        channels
    }

    /// The probability to convert from the beginning; without a channel, whoever would be touched by it is lost.
    ///
    /// Solves x = Q x + r by elimination: Q are the probabilities between states, r those to convert next.
    fn conversion(&self, without: Option<&String>) -> f64 {
        let kept: Vec<usize> =
            (0..self.states.len()).filter(|state| without.is_none() || self.states[*state].last() != without).collect();
        let place: BTreeMap<usize, usize> = kept.iter().enumerate().map(|(place, state)| (*state, place)).collect();
        let size = kept.len();
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(size);
        for (row, state) in kept.iter().enumerate() {
            let (moves, converts) = &self.next[*state];
            let mut values = vec![0.0; size + 1];
            values[row] = 1.0;
            for (to, probability) in moves {
                if let Some(column) = place.get(to) {
                    values[*column] -= probability;
                }
            }
            values[size] = *converts;
            rows.push(values);
        }
        // From the last unknown to the first: the diagonal never vanishes, since every state leads out of the chain.
        for pivot in (1..size).rev() {
            let (above, from) = rows.split_at_mut(pivot);
            let pivot_row = &from[0];
            for row in above.iter_mut().filter(|row| row[pivot] != 0.0) {
                let factor = row[pivot] / pivot_row[pivot];
                for column in (0..pivot).chain([size]) {
                    row[column] -= factor * pivot_row[column];
                }
            }
        }
        rows.first().map_or(0.0, |row| row[size] / row[0])
    }
}
