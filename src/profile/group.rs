//! What is particular to groups: which events are theirs, and the ids of people in their traits, which change when people
//! merge.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::HashMap;

use super::accumulator::{Accumulator, Scalar};
use super::apply::{TraitError, Traits};
use super::distinct::Distinct;
use super::frequencies::Frequencies;
use super::keyed::Keyed;
use super::plan::EventRule;
use super::record::Profile;
use crate::event::EventBatch;
use crate::expression::{BoundExpression, Expression};

/// The column of events that holds the id of the person whose event it is, for the traits of groups.
pub const PERSON_COLUMN: &str = "person:id";

/// The columns of events for groups: with [`PERSON_COLUMN`] behind all others.
pub fn with_people(events: &SchemaRef) -> SchemaRef {
    let own = events.fields().iter().map(|field| field.as_ref().clone());
    Arc::new(Schema::new(own.chain([Field::new(PERSON_COLUMN, DataType::Utf8, true)]).collect::<Vec<_>>()))
}

/// Events with the ids of the people whose they are.
pub fn add_people(events: &EventBatch, ids: ArrayRef) -> Result<EventBatch, TraitError> {
    let columns = events.batch.columns().iter().cloned().chain([ids]).collect();
    let batch = RecordBatch::try_new(with_people(&events.batch.schema()), columns);
    let failed = |error: arrow::error::ArrowError| TraitError::Type {
        name: PERSON_COLUMN.to_string(),
        message: error.to_string(),
    };
    Ok(EventBatch { batch: batch.map_err(failed)? })
}

/// The group of an event, as one definition has it.
pub struct GroupId {
    name: String,
    id: BoundExpression,
}

impl GroupId {
    /// `name` is the definition's; `events` are those for groups.
    ///
    /// # Errors
    /// An expression that does not fit the events.
    pub fn new(name: &str, id: &Expression, events: &SchemaRef) -> Result<GroupId, TraitError> {
        let name = format!("id of group {name}");
        match id.bind(events) {
            Ok(id) => Ok(GroupId { name, id }),
            Err(source) => Err(TraitError::Bind { name, source }),
        }
    }

    /// Texts, by row of the events; null or empty: none.
    pub fn of(&self, events: &EventBatch) -> Result<ArrayRef, TraitError> {
        self.id.evaluate(&events.batch).map_err(|source| TraitError::Evaluate { name: self.name.clone(), source })
    }
}

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
            Accumulator::Dated(dated) => dated.value.iter_mut().for_each(|value| rename(value, renamed)),
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

#[cfg(test)]
mod tests {
    use super::super::tests::rule;
    use super::super::{TraitKind, Window};
    use super::*;
    use crate::expression::{ColumnScope, Resolved};
    use crate::profile::window::Panes;

    fn person() -> Option<Expression> {
        let mut scope = ColumnScope::new();
        let column = PERSON_COLUMN.to_string();
        scope.add(&["p"], Resolved { column, data_type: DataType::Utf8, nested: Vec::new() });
        Some(Expression::compile("p", &scope).expect("an expression"))
    }

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.into())
    }

    fn distinct(ids: &[&str]) -> Accumulator {
        let mut distinct = Distinct::default();
        ids.iter().for_each(|id| distinct.add(100, text(id)));
        Accumulator::Distinct(Box::new(distinct))
    }

    fn frequencies(counts: &[(&str, usize)]) -> Accumulator {
        let mut all = Frequencies::default();
        counts.iter().for_each(|(id, count)| (0..*count).for_each(|_| all.add(text(id))));
        Accumulator::Frequencies(Box::new(all))
    }

    fn keyed(keys: &[(&str, Accumulator)]) -> Accumulator {
        let mut keys: Vec<(Box<str>, Accumulator)> =
            keys.iter().map(|(key, state)| ((*key).into(), state.clone())).collect();
        keys.sort_by(|(a, _), (b, _)| a.cmp(b));
        Accumulator::Keyed(Box::new(Keyed::Keys(keys)))
    }

    fn panes(ids: &[&str]) -> Accumulator {
        let (window, rule) = (Window::new(60_000_000), people(TraitKind::Distinct { keep: 100 }));
        let mut panes = Panes::default();
        // One in each of some panes, and one that has not happened yet.
        for (place, id) in ids.iter().enumerate() {
            panes.add(place as i64 * 1_000_000, distinct(&[id]), &window, 2_000_000, &rule);
        }
        Accumulator::Panes(Box::new(panes))
    }

    fn people(kind: TraitKind) -> EventRule {
        EventRule { input: person(), ..rule(kind) }
    }

    /// SEMANTICS §4: ids change at a merge. Each row: the rule, the state, and the state after a became b and b became c, both at
    /// once.
    #[test]
    fn what_knows_people_by_their_ids_follows_them_and_adds_up_those_who_are_one() {
        let all = TraitKind::Distinct { keep: 100 };
        let by_people = EventRule { by: person(), ..rule(TraitKind::Count) };
        let rows = [
            (people(all.clone()), distinct(&["a", "b", "d"]), distinct(&["b", "c", "d"])),
            (people(all.clone()), distinct(&["b", "c"]), distinct(&["c"])),
            (people(TraitKind::MostFrequent), frequencies(&[("b", 2), ("c", 3)]), frequencies(&[("c", 5)])),
            (people(all.clone()), panes(&["a", "b", "c", "b", "d"]), panes(&["b", "c", "c", "c", "d"])),
            (
                by_people,
                keyed(&[("a", Accumulator::Count(1)), ("b", Accumulator::Count(2)), ("c", Accumulator::Count(4))]),
                keyed(&[("b", Accumulator::Count(1)), ("c", Accumulator::Count(6))]),
            ),
            // A key that only looks like one of them is none.
            (people(all.clone()), keyed(&[("a", distinct(&["a"]))]), keyed(&[("a", distinct(&["b"]))])),
            (rule(all), distinct(&["a"]), distinct(&["a"])),
        ];
        let renamed: Renamed = [("a".into(), "b".into()), ("b".into(), "c".into())].into_iter().collect();
        for (rule, mut state, expected) in rows {
            state.rename_people(&rule, &renamed);
            assert_eq!(state, expected, "{:?}", rule.kind);
        }
    }
}
