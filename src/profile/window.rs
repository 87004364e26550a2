//! Windows: only events of the last so long count.
//!
//! A window W is kept in panes of p, which divides W. At `now` it holds the events with t ≤ now and
//! floor(t/p) > floor(now/p) − W/p (SEMANTICS §6), so SQL renders it exactly, and a pane leaves as a whole.

use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use super::plan::EventRule;
use crate::event::TimeUs;

/// Panes of a window where nothing else is said.
pub const PANES: i64 = 60;

/// A window of whole minutes, and its panes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub length_us: i64,
    /// Divides the length.
    pub pane_us: i64,
}

impl Window {
    pub fn new(length_us: i64) -> Window {
        Window { length_us, pane_us: length_us / PANES }
    }

    fn pane(&self, at: TimeUs) -> i64 {
        at.div_euclid(self.pane_us)
    }

    fn panes(&self) -> i64 {
        self.length_us / self.pane_us
    }

    /// The first pane that is still inside at `now`.
    pub fn first_pane(&self, now: TimeUs) -> i64 {
        self.pane(now).saturating_sub(self.panes()).saturating_add(1)
    }

    /// Whether an event of that time counts at `now`.
    pub fn holds(&self, at: TimeUs, now: TimeUs) -> bool {
        at <= now && self.pane(at) >= self.first_pane(now)
    }

    /// When a pane is outside from.
    fn leaves(&self, pane: i64) -> TimeUs {
        (pane + self.panes()).saturating_mul(self.pane_us)
    }
}

/// What a window holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Panes {
    /// By pane, in order.
    panes: Vec<(i64, Accumulator)>,
    /// Events that had not happened yet when they came, by their time.
    later: Vec<(TimeUs, Accumulator)>,
}

impl Panes {
    /// Of one event.
    pub fn of(at: TimeUs, state: Accumulator, window: &Window, now: TimeUs, rule: &EventRule) -> Panes {
        let mut panes = Panes::default();
        panes.add(at, state, window, now, rule);
        panes
    }

    /// Adds an event's own state. What is outside already leaves no trace.
    pub fn add(&mut self, at: TimeUs, state: Accumulator, window: &Window, now: TimeUs, rule: &EventRule) {
        if at > now {
            insert(&mut self.later, at, state, rule);
        } else if window.pane(at) >= window.first_pane(now) {
            insert(&mut self.panes, window.pane(at), state, rule);
        }
    }

    pub fn merge(&mut self, other: Panes, rule: &EventRule) {
        for (pane, state) in other.panes {
            insert(&mut self.panes, pane, state, rule);
        }
        for (at, state) in other.later {
            insert(&mut self.later, at, state, rule);
        }
    }

    /// Forgets what has left the window, and takes in what has happened. False when nothing is left.
    pub fn settle(&mut self, window: &Window, now: TimeUs, rule: &EventRule) -> bool {
        let due = self.later.partition_point(|(at, _)| *at <= now);
        for (at, state) in self.later.drain(..due) {
            insert(&mut self.panes, window.pane(at), state, rule);
        }
        let first = window.first_pane(now);
        let gone = self.panes.partition_point(|(pane, _)| *pane < first);
        self.panes.drain(..gone);
        !self.panes.is_empty() || !self.later.is_empty()
    }

    /// All that is inside at `now`, added up.
    pub fn total(&self, window: &Window, now: TimeUs, rule: &EventRule) -> Option<Accumulator> {
        let first = window.first_pane(now);
        let inside = self.panes.iter().filter(|(pane, _)| *pane >= first);
        let happened = self.later.iter().filter(|(at, _)| *at <= now && window.pane(*at) >= first);
        let mut states = inside.map(|(_, state)| state).chain(happened.map(|(_, state)| state));
        let mut total = states.next()?.clone();
        states.for_each(|state| total.add(rule, state.clone()));
        Some(total)
    }

    /// The least time later than `now` at which an event enters or leaves by itself.
    pub fn next_change(&self, window: &Window, now: TimeUs) -> Option<TimeUs> {
        let first = window.first_pane(now);
        let leaving = self.panes.iter().map(|(pane, _)| *pane).find(|pane| *pane >= first);
        let leaving = leaving.map(|pane| window.leaves(pane));
        let entered = self.later.iter().map(|(at, _)| *at);
        let leaving_later = entered.clone().filter(|at| *at <= now && window.pane(*at) >= first);
        let leaving_later = leaving_later.map(|at| window.leaves(window.pane(at))).min();
        let entering = entered.clone().find(|at| *at > now);
        [leaving, leaving_later, entering].into_iter().flatten().min()
    }

    /// All that it holds.
    pub fn states_mut(&mut self) -> impl Iterator<Item = &mut Accumulator> {
        self.panes.iter_mut().chain(&mut self.later).map(|(_, state)| state)
    }

    pub fn weigh(&self) -> usize {
        let entry = size_of::<(i64, Accumulator)>();
        let states = self.panes.iter().chain(&self.later).map(|(_, state)| state.weigh());
        (self.panes.capacity() + self.later.capacity()) * entry + states.sum::<usize>()
    }
}

fn insert(states: &mut Vec<(i64, Accumulator)>, key: i64, state: Accumulator, rule: &EventRule) {
    // The latest pane is the one that most events go to.
    let place = match states.last() {
        Some((last, _)) if *last == key => Ok(states.len() - 1),
        Some((last, _)) if *last < key => Err(states.len()),
        None => Err(0),
        _ => states.binary_search_by_key(&key, |(other, _)| *other),
    };
    match place {
        Ok(index) => states[index].1.add(rule, state),
        Err(index) => states.insert(index, (key, state)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    /// SEMANTICS §6: an event is inside iff t ≤ now and floor(t/p) > floor(now/p) − W/p.
    #[test]
    fn what_is_inside_follows_the_formula_at_every_edge() {
        let windows = [Window::new(MINUTE), Window::new(60 * MINUTE), Window { length_us: MINUTE, pane_us: MINUTE }];
        for window in windows {
            let p = window.pane_us;
            for at in [-p, -1, 0, 1, p - 1, p, p + 1] {
                for now in [at - 1, at, at + 1, at + window.length_us - p, at + window.length_us - 1]
                    .into_iter()
                    .chain([at + window.length_us, at + window.length_us + 1, at + window.length_us + p])
                {
                    let inside = at <= now && at.div_euclid(p) > now.div_euclid(p) - window.length_us / p;
                    for settled in [at.min(now) - 5, at.min(now), now] {
                        let rule = super::super::tests::count_rule();
                        let mut panes = Panes::of(at, Accumulator::Count(1), &window, settled, &rule);
                        assert_eq!(
                            panes.total(&window, now, &rule).is_some(),
                            inside,
                            "{window:?} {at} {now} {settled}"
                        );
                        panes.settle(&window, now, &rule);
                        assert_eq!(panes.total(&window, now, &rule).is_some(), inside, "{window:?} {at} {now} settled");
                        // Nothing changes before the next change, and something does at it.
                        if let Some(next) = panes.next_change(&window, now) {
                            assert!(next > now);
                            let has = |moment| panes.total(&window, moment, &rule).is_some();
                            assert_eq!(has(next - 1), has(now), "{window:?} {at} {now}");
                            assert_ne!(has(next), has(now), "{window:?} {at} {now}");
                        }
                    }
                }
            }
        }
    }
}
