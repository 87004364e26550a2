//! The id of a person in the traits of groups: it changes when people merge, and what has counted it follows.

use hashbrown::HashMap;

use super::accumulator::{Accumulator, Scalar};
use super::apply::Traits;
use super::distinct::Distinct;
use super::frequencies::Frequencies;
use super::keyed::Keyed;
use super::plan::EventRule;
use super::record::Profile;

/// The column of events that holds the id of the person whose event it is, for the traits of groups.
pub const PERSON_COLUMN: &str = "person:id";

/// Old id → the one it is now. All hold at once: an id that is given up by one may be another's new one.
pub type Renamed = HashMap<Box<str>, Box<str>>;

impl EventRule {
    /// Whether its values are people.
    pub fn takes_people(&self) -> bool {
        self.input.as_ref().is_some_and(|input| input.inputs.iter().any(|read| read.column == PERSON_COLUMN))
    }

    /// Whether it has a value for each of several people.
    pub fn keyed_by_people(&self) -> bool {
        self.by.as_ref().is_some_and(|by| by.inputs.iter().any(|read| read.column == PERSON_COLUMN))
    }
}

impl Traits {
    /// By index: whether the trait knows people by their ids.
    pub fn knows_people(&self) -> Vec<bool> {
        let rules = self.plans.iter().map(|plan| plan.event_rule());
        rules.map(|rule| rule.is_some_and(|rule| rule.takes_people() || rule.keyed_by_people())).collect()
    }

    /// Renames people in a group's traits. Exact where the ids are kept; a sketch of `distinct` goes on counting the old id.
    pub fn rename_people(&self, group: &mut Profile, renamed: &Renamed) {
        for (index, state) in &mut group.traits {
            if let Some(rule) = self.plans[usize::from(*index)].event_rule() {
                state.rename_people(rule, renamed);
            }
        }
    }
}

impl Accumulator {
    fn rename_people(&mut self, rule: &EventRule, renamed: &Renamed) {
        match self {
            Accumulator::Keyed(keyed) => {
                let Keyed::Keys(keys) = &mut **keyed else { return };
                let mut again = Keyed::Keys(Vec::new());
                for (key, mut state) in std::mem::take(keys) {
                    state.rename_people(rule, renamed);
                    let key = if rule.keyed_by_people() { renamed.get(&key).cloned().unwrap_or(key) } else { key };
                    again.merge(Keyed::Keys(vec![(key, state)]), rule);
                }
                **keyed = again;
            }
            Accumulator::Panes(panes) => panes.states_mut().for_each(|state| state.rename_people(rule, renamed)),
            _ if !rule.takes_people() => {}
            Accumulator::Dated { value: Some(value), .. } => rename(value, renamed),
            Accumulator::Distinct(distinct) => {
                let Distinct::Exact(values) = &mut **distinct else { return };
                values.iter_mut().for_each(|value| rename(value, renamed));
                values.sort_by(Scalar::order);
                values.dedup();
            }
            Accumulator::Frequencies(frequencies) => {
                let Frequencies::Counts(counts) = &mut **frequencies else { return };
                let mut again = Frequencies::default();
                for (mut value, count) in std::mem::take(counts) {
                    rename(&mut value, renamed);
                    again.merge(Frequencies::Counts(vec![(value, count)]));
                }
                **frequencies = again;
            }
            _ => {}
        }
    }
}

fn rename(value: &mut Scalar, renamed: &Renamed) {
    if let Scalar::Text(text) = value
        && let Some(new) = renamed.get(text)
    {
        text.clone_from(new);
    }
}
