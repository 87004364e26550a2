//! The patterns of `sequenceMatch` and `sequenceCount`: `(?1)` is an event that meets the first condition, `.` any event,
//! `.*` any number of them, `(?t<=60)` that so much time lies between two events.
//!
//! Without times a pattern is an automaton; with times it is tried with backtracking, exactly as the engine does it, so that
//! both stop at the same place. Events at one time stand in the order in which they came.

use datafusion::common::{Result, ScalarValue, exec_err, plan_err};

use super::events::Event;

/// As many steps as the engine takes before it gives up.
const STEPS_MAX: usize = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Condition(u32),
    Any,
    Star,
    LessOrEqual(u64),
    Less(u64),
    GreaterOrEqual(u64),
    Greater(u64),
    Equal(u64),
}

#[derive(Debug, Clone)]
pub struct Pattern {
    /// Begins with a star: a match may begin anywhere.
    actions: Vec<Action>,
    timed: bool,
    /// Conditions in the pattern, a bit each.
    needed: u32,
}

impl Pattern {
    /// From the one parameter.
    pub fn new(name: &str, parameters: &[&ScalarValue], conditions: usize) -> Result<Pattern> {
        let text = match parameters {
            [text] => text.try_as_str().flatten(),
            _ => None,
        };
        let Some(text) = text else { return plan_err!("{name} takes a pattern: {name}('(?1)(?2)')(time, a, b)") };
        match Pattern::parse(text, conditions) {
            Ok(pattern) => Ok(pattern),
            Err((at, wrong)) => plan_err!("{name}: pattern '{text}', at character {}: {wrong}", at + 1),
        }
    }

    fn parse(text: &str, conditions: usize) -> std::result::Result<Pattern, (usize, String)> {
        let mut pattern = Pattern { actions: vec![Action::Star], timed: false, needed: 0 };
        let mut rest = text;
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            if let Some(after) = rest.strip_prefix("(?t") {
                type Comparison = fn(u64) -> Action;
                const COMPARISONS: [(&str, Comparison); 5] = [
                    ("<=", Action::LessOrEqual),
                    ("<", Action::Less),
                    (">=", Action::GreaterOrEqual),
                    (">", Action::Greater),
                    ("==", Action::Equal),
                ];
                let comparison =
                    COMPARISONS.iter().find_map(|(sign, action)| Some((after.strip_prefix(sign)?, action)));
                let Some((after, action)) = comparison else {
                    return Err((at, "a time is compared with <=, <, >=, > or ==".to_string()));
                };
                let (duration, after) = group_end(at, after)?;
                if !matches!(pattern.actions.last(), Some(Action::Condition(_) | Action::Any | Action::Star)) {
                    return Err((at, "a time stands behind an event".to_string()));
                }
                pattern.actions.push(action(duration));
                pattern.timed = true;
                rest = after;
            } else if let Some(after) = rest.strip_prefix("(?") {
                let (number, after) = group_end(at, after)?;
                let Some(index) = (1..=conditions as u64).contains(&number).then(|| number as u32 - 1) else {
                    return Err((at, format!("there is no condition {number}; there are {conditions}")));
                };
                pattern.actions.push(Action::Condition(index));
                pattern.needed |= 1 << index;
                rest = after;
            } else if let Some(after) = rest.strip_prefix(".*") {
                pattern.actions.push(Action::Star);
                rest = after;
            } else if let Some(after) = rest.strip_prefix('.') {
                pattern.actions.push(Action::Any);
                rest = after;
            } else {
                return Err((at, "expected (?1), (?t<=60), . or .*".to_string()));
            }
        }
        Ok(pattern)
    }

    pub fn matches(&self, events: &[Event]) -> Result<bool> {
        if !self.possible(events) {
            return Ok(false);
        }
        let events = sorted(events);
        if self.timed { Ok(self.next_match(&events, 0)?.0) } else { Ok(self.found(&events)) }
    }

    /// How many matches there are that do not overlap.
    pub fn count(&self, events: &[Event]) -> Result<u64> {
        if !self.possible(events) {
            return Ok(0);
        }
        let events = sorted(events);
        let (mut at, mut count) = (0, 0);
        while at < events.len() {
            let (found, next) = self.next_match(&events, at)?;
            if !found {
                break;
            }
            count += 1;
            at = next;
        }
        Ok(count)
    }

    fn possible(&self, events: &[Event]) -> bool {
        let met = events.iter().fold(0, |met, event| met | event.1);
        met & self.needed == self.needed
    }

    /// The automaton of a pattern without times: a state between two events of the pattern, in which stars stay.
    fn found(&self, events: &[Event]) -> bool {
        let mut states: Vec<(bool, Option<Action>)> = vec![(false, None)];
        for action in &self.actions {
            match action {
                Action::Star => states.last_mut().into_iter().for_each(|state| state.0 = true),
                action => {
                    states.last_mut().into_iter().for_each(|state| state.1 = Some(*action));
                    states.push((false, None));
                }
            }
        }
        let last = states.len() - 1;
        let mut active = vec![false; states.len()];
        active[0] = true;
        for (_, conditions) in events {
            if active[last] {
                break;
            }
            let mut next = vec![false; states.len()];
            for (index, (stays, onwards)) in states.iter().enumerate().filter(|(index, _)| active[*index]) {
                next[index] |= *stays;
                match onwards {
                    Some(Action::Condition(condition)) => next[index + 1] |= conditions >> condition & 1 == 1,
                    Some(_) => next[index + 1] = true,
                    None => {}
                }
            }
            active = next;
        }
        active[last]
    }

    /// Whether the pattern matches from this event on, and the event after the match.
    fn next_match(&self, events: &[Event], begin: usize) -> Result<(bool, usize)> {
        let (mut action, mut event, mut base) = (0, begin, begin);
        // Where another event can be tried for a star or a time: the action, the event, the event that times count from.
        let mut back: Vec<(usize, usize, usize)> = Vec::new();
        let mut steps = 0;
        while action < self.actions.len() && event < events.len() {
            let (time, conditions) = events[event];
            let later = |duration: u64| events[base].0.wrapping_add(duration);
            let fits = match self.actions[action] {
                Action::Condition(index) => conditions >> index & 1 == 1,
                Action::Any | Action::Star => true,
                Action::LessOrEqual(duration) => time <= later(duration),
                Action::Less(duration) => time < later(duration),
                Action::GreaterOrEqual(duration) => time >= later(duration),
                Action::Greater(duration) => time > later(duration),
                Action::Equal(duration) => time == later(duration),
            };
            let failed = match self.actions[action] {
                Action::Condition(_) | Action::Any if fits => {
                    base = event;
                    (action, event) = (action + 1, event + 1);
                    false
                }
                _ if fits => {
                    back.push((action, event, base));
                    base = event;
                    action += 1;
                    false
                }
                // A later event may be late enough.
                Action::GreaterOrEqual(_) | Action::Greater(_) | Action::Equal(_) => {
                    event += 1;
                    event == events.len()
                }
                _ => true,
            };
            if failed {
                let again = loop {
                    match back.pop() {
                        Some(at) if at.1 + 1 < events.len() => break Some(at),
                        // As the engine leaves it, for where a failed match ends.
                        Some(at) => (action, event) = (at.0, at.1 + 1),
                        None => break None,
                    }
                };
                let Some(at) = again else { break };
                (action, event, base) = (at.0, at.1 + 1, at.2);
            }
            steps += 1;
            if steps > STEPS_MAX {
                return exec_err!("a pattern with times took more than {STEPS_MAX} steps over one group's events");
            }
        }
        // What may be empty at the end. (The engine here reads on behind the pattern, ClickHouse issue 120729, and then misses
        // a match by chance.)
        while let Some(Action::Star | Action::LessOrEqual(_) | Action::Less(_) | Action::GreaterOrEqual(0)) =
            self.actions.get(action)
        {
            action += 1;
        }
        Ok((action == self.actions.len(), event.max(begin + 1)))
    }
}

fn sorted(events: &[Event]) -> Vec<Event> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| event.0);
    events
}

/// The number up to `)`, and what is behind it.
fn group_end(at: usize, text: &str) -> std::result::Result<(u64, &str), (usize, String)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number = text[..digits].parse().map_err(|_| (at, "a number is missing".to_string()))?;
    match text[digits..].strip_prefix(')') {
        Some(after) => Ok((number, after)),
        None => Err((at, "a ) is missing".to_string())),
    }
}
