//! The level that `windowFunnel` finds: how many conditions were met one after the other within the window.
//!
//! Step by step as the engine does it, with its modes and their edges; the tests compare both on random events.

use datafusion::common::{Result, ScalarValue, exec_err, plan_err};

use super::events::Event;

/// Ways through a funnel that are followed at once, in mode `strict_once`.
const PATHS_MAX: usize = 1_000_000;

#[derive(Debug, Clone)]
pub struct Funnel {
    /// In units of the times.
    window: u64,
    conditions: usize,
    /// An event of no condition, or of one whose turn has not come, ends the way.
    pub strict_order: bool,
    /// A condition met again ends the way.
    strict_deduplication: bool,
    /// Times rise from step to step.
    strict_increase: bool,
    /// One row is one step at most.
    strict_once: bool,
    /// With `strict_order`: conditions whose turn has not come are passed over.
    allow_reentry: bool,
}

impl Funnel {
    /// From the parameters: the window, and modes.
    pub fn new(parameters: &[&ScalarValue], conditions: usize) -> Result<Funnel> {
        let Some((window, modes)) = parameters.split_first() else {
            return plan_err!("windowFunnel takes a window: windowFunnel(86400)(toDateTime(timestamp), …)");
        };
        let ScalarValue::Int64(Some(window @ 0..)) = window else {
            return plan_err!("windowFunnel: the window is a whole number, not {window}");
        };
        let mut funnel = Funnel {
            window: window.unsigned_abs(),
            conditions,
            strict_order: false,
            strict_deduplication: false,
            strict_increase: false,
            strict_once: false,
            allow_reentry: false,
        };
        for mode in modes {
            match mode.try_as_str().flatten() {
                Some("strict_order") => funnel.strict_order = true,
                Some("strict_deduplication") => funnel.strict_deduplication = true,
                Some("strict_increase") => funnel.strict_increase = true,
                Some("strict_once") => funnel.strict_once = true,
                Some("allow_reentry") => funnel.allow_reentry = true,
                _ => {
                    return plan_err!(
                        "windowFunnel has no mode {mode}; there are strict_order, strict_deduplication, strict_increase, \
                         strict_once, allow_reentry"
                    );
                }
            }
        }
        if funnel.allow_reentry && !funnel.strict_order {
            return plan_err!("windowFunnel: allow_reentry needs strict_order");
        }
        Ok(funnel)
    }

    pub fn level(&self, events: &[Event]) -> Result<u8> {
        if events.is_empty() {
            return Ok(0);
        }
        if !self.strict_order && self.conditions == 1 {
            return Ok(1);
        }
        // One entry for each condition that a row meets, counted from 1; 0 for a row of none. Equal times stand in the order
        // of conditions.
        let mut steps: Vec<(u64, usize, usize)> = Vec::with_capacity(events.len());
        for (row, (time, conditions)) in events.iter().enumerate() {
            if *conditions == 0 {
                steps.push((*time, 0, row));
            }
            let met = (0..self.conditions).filter(|index| conditions >> index & 1 == 1);
            steps.extend(met.map(|index| (*time, index + 1, row)));
        }
        steps.sort_unstable();
        Ok(if self.strict_once { self.level_once(&steps)? } else { self.level_any(&steps) } as u8)
    }

    fn level_any(&self, steps: &[(u64, usize, usize)]) -> usize {
        // For each condition the time at which the way to it began, and its own.
        let mut reached: Vec<Option<(u64, u64)>> = vec![None; self.conditions];
        let highest =
            |reached: &[Option<(u64, u64)>]| reached.iter().rposition(Option::is_some).map_or(0, |index| index + 1);
        let mut started = false;
        for &(time, condition, _) in steps {
            let Some(index) = condition.checked_sub(1) else {
                if started {
                    break;
                }
                continue;
            };
            if index == 0 {
                reached[0] = Some((time, time));
                started = true;
            } else if self.strict_deduplication && reached[index].is_some() {
                return highest(&reached);
            } else if self.strict_order && started && reached[index - 1].is_none() {
                if self.allow_reentry {
                    continue;
                }
                return reached.iter().position(Option::is_none).unwrap_or(self.conditions);
            } else if let Some((first, last)) = reached[index - 1] {
                let in_time = time <= first.wrapping_add(self.window) && (!self.strict_increase || last < time);
                if in_time {
                    reached[index] = Some((first, time));
                    if index + 1 == self.conditions {
                        return self.conditions;
                    }
                }
            }
        }
        highest(&reached)
    }

    fn level_once(&self, steps: &[(u64, usize, usize)]) -> Result<usize> {
        // All ways to each condition, as a row may stand for one condition or another.
        let mut ways: Vec<Vec<Way>> = vec![Vec::new(); self.conditions];
        let highest = |ways: &[Vec<Way>]| ways.iter().rposition(|ways| !ways.is_empty()).map_or(0, |index| index + 1);
        let mut started = false;
        for &(time, condition, row) in steps {
            let Some(index) = condition.checked_sub(1) else {
                if started {
                    break;
                }
                continue;
            };
            if index == 0 {
                ways[0].push(Way { first: time, last: time, rows: vec![row] });
                started = true;
            } else if self.strict_deduplication && !ways[index].is_empty() {
                return Ok(highest(&ways));
            } else if self.strict_order && started && ways[index - 1].is_empty() {
                if self.allow_reentry {
                    continue;
                }
                return Ok(ways.iter().position(Vec::is_empty).unwrap_or(self.conditions));
            } else {
                let mut at = 0;
                while at < ways[index - 1].len() {
                    let way = &ways[index - 1][at];
                    let in_time = time <= way.first.wrapping_add(self.window);
                    if !in_time && ways[index - 1].len() > 1 {
                        ways[index - 1].remove(at);
                        continue;
                    }
                    if in_time && !way.rows.contains(&row) && (!self.strict_increase || way.last < time) {
                        if index + 1 == self.conditions {
                            return Ok(self.conditions);
                        }
                        let rows = way.rows.iter().copied().chain([row]).collect();
                        let longer = Way { first: way.first, last: time, rows };
                        if ways[index].len() >= PATHS_MAX {
                            return exec_err!("windowFunnel: too many ways through one group's events in strict_once");
                        }
                        ways[index].push(longer);
                    }
                    at += 1;
                }
            }
        }
        Ok(highest(&ways))
    }
}

/// A way to a condition: when it began, its last time, and the rows on it.
#[derive(Debug, Clone)]
struct Way {
    first: u64,
    last: u64,
    rows: Vec<usize>,
}
