//! The Markov chain of what people are touched by, and what would be lost without a channel.

use std::collections::{BTreeMap, HashMap};

/// A system of so many equations is solved at most: a third of a billion multiplications for each channel.
const STATES_MAX: usize = 1_000;

/// How often paths go from state to state. States are the last channels, up to `order` of them; the first is the beginning.
pub struct Counts {
    order: usize,
    states: Vec<Vec<usize>>,
    numbers: HashMap<Vec<usize>, usize>,
    /// By state and channel: the next state, and how many paths went there.
    moves: HashMap<(usize, usize), (usize, f64)>,
    /// By state: how many paths ended there, and how many of them converted.
    ends: Vec<(f64, f64)>,
}

impl Counts {
    pub fn new(order: usize) -> Counts {
        let numbers = HashMap::from([(Vec::new(), 0)]);
        Counts { order, states: vec![Vec::new()], numbers, moves: HashMap::new(), ends: vec![(0.0, 0.0)] }
    }

    pub fn add(&mut self, channels: impl Iterator<Item = usize>, converted: bool) {
        let mut state = 0;
        for channel in channels {
            let (next, count) = match self.moves.get_mut(&(state, channel)) {
                Some(known) => known,
                None => {
                    let next = self.next(state, channel);
                    self.moves.entry((state, channel)).or_insert((next, 0.0))
                }
            };
            *count += 1.0;
            state = *next;
        }
        let (ended, wins) = &mut self.ends[state];
        *ended += 1.0;
        *wins += if converted { 1.0 } else { 0.0 };
    }

    fn next(&mut self, state: usize, channel: usize) -> usize {
        let mut channels = self.states[state].clone();
        channels.push(channel);
        let channels = channels[channels.len().saturating_sub(self.order)..].to_vec();
        let count = self.states.len();
        let number = *self.numbers.entry(channels.clone()).or_insert(count);
        if number == count {
            self.states.push(channels);
            self.ends.push((0.0, 0.0));
        }
        number
    }

    /// The share of each channel in the conversions; together 1, or none where nothing converted. `names`: of the channels.
    ///
    /// # Errors
    /// Too many states.
    pub fn shares(&self, names: &[String]) -> Result<BTreeMap<String, f64>, String> {
        let chain = self.chain(names)?;
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

    /// States in the order of their names, so that roundings are the same in whatever order paths came.
    fn chain(&self, names: &[String]) -> Result<Chain, String> {
        let count = self.states.len();
        if count > STATES_MAX {
            return Err(format!(
                "the Markov chain of order {} has {count} states, more than {STATES_MAX}: take a lower order, or fewer channels",
                self.order
            ));
        }
        let named = |state: &[usize]| state.iter().map(|channel| names[*channel].clone()).collect::<Vec<String>>();
        let mut order: Vec<(Vec<String>, usize)> =
            self.states.iter().enumerate().map(|(number, state)| (named(state), number)).collect();
        order.sort();
        let mut places = vec![0; count];
        order.iter().enumerate().for_each(|(place, (_, number))| places[*number] = place);
        let mut leaves: Vec<f64> = self.ends.iter().map(|(ended, _)| *ended).collect();
        self.moves.iter().for_each(|((from, _), (_, count))| leaves[*from] += count);
        let mut next: Vec<(Vec<(usize, f64)>, f64)> = vec![(Vec::new(), 0.0); count];
        for ((from, _), (to, count)) in &self.moves {
            next[places[*from]].0.push((places[*to], count / leaves[*from]));
        }
        for (number, (_, wins)) in self.ends.iter().enumerate() {
            // A state that was come to leads somewhere; only the beginning may never have been left.
            next[places[number]].1 = if leaves[number] > 0.0 { wins / leaves[number] } else { 0.0 };
        }
        next.iter_mut().for_each(|(moves, _)| moves.sort_by_key(|(to, _)| *to));
        Ok(Chain { states: order.into_iter().map(|(state, _)| state).collect(), next })
    }
}

struct Chain {
    states: Vec<Vec<String>>,
    /// By state: the next states and their probabilities, and the probability to convert next.
    next: Vec<(Vec<(usize, f64)>, f64)>,
}

impl Chain {
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
