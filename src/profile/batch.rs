//! What many traits read from the events of a batch, found once.

use std::cell::OnceCell;

use arrow::array::StringArray;
use hashbrown::HashMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::apply::Input;
use super::plan::Step;
use crate::event::{TimeUs, column};
use crate::expression::{BoundExpression, EvaluateError};

/// Events by their names, so that a trait looks at none that it does not take, and what many traits read from them.
pub(super) struct Batch<'a> {
    pub input: &'a Input<'a>,
    /// Their numbers; 0 is of events that have none.
    numbers: HashMap<&'a str, u32>,
    /// By number.
    pub names: Vec<Option<&'a str>>,
    pub name_of_row: Vec<u32>,
    pub timestamps: &'a [TimeUs],
    pub message_ids: &'a StringArray,
    pub sources: &'a StringArray,
    /// Hashes of sources and message ids.
    ids: OnceCell<Vec<u64>>,
}

impl<'a> Batch<'a> {
    pub fn of(input: &'a Input<'a>) -> Self {
        let events = input.events;
        let texts = events.strings(column::EVENT);
        let mut batch = Batch {
            input,
            numbers: HashMap::new(),
            names: vec![None],
            name_of_row: Vec::with_capacity(events.len()),
            timestamps: events.times(column::TIMESTAMP).values(),
            message_ids: events.strings(column::MESSAGE_ID),
            sources: events.strings(column::SOURCE),
            ids: OnceCell::new(),
        };
        for name in texts {
            let number = name.map_or(0, |name| {
                *batch.numbers.entry(name).or_insert_with(|| {
                    batch.names.push(Some(name));
                    batch.names.len() as u32 - 1
                })
            });
            batch.name_of_row.push(number);
        }
        batch
    }

    /// Whether there is an event of these names, of any where None. None: the trait costs nothing for this batch.
    pub fn has_any(&self, wanted: Option<&[String]>) -> bool {
        match wanted {
            Some(wanted) => wanted.iter().any(|name| self.numbers.contains_key(name.as_str())),
            None => !self.name_of_row.is_empty(),
        }
    }

    /// The numbers of these names that there are, each once; all where None.
    pub fn numbers(&self, wanted: Option<&[String]>) -> Vec<usize> {
        let is_wanted = |name: &Option<&str>| match wanted {
            Some(wanted) => name.is_some_and(|name| wanted.iter().any(|other| other == name)),
            None => true,
        };
        (0..self.names.len()).filter(|number| is_wanted(&self.names[*number])).collect()
    }

    /// Tells an event of one time from others.
    pub fn id(&self, row: usize) -> u64 {
        self.ids.get_or_init(|| self.hash_ids())[row]
    }

    /// Message ids are per source, of which a batch has one or few.
    fn hash_ids(&self) -> Vec<u64> {
        let mut seed = ("", xxh3_64(b""));
        let hash = |row: usize| {
            let source = self.sources.value(row);
            if source != seed.0 {
                seed = (source, xxh3_64(source.as_bytes()));
            }
            xxh3_64_with_seed(self.message_ids.value(row).as_bytes(), seed.1)
        };
        (0..self.name_of_row.len()).map(hash).collect()
    }
}

/// Which of the steps (or exclusions) of a funnel or sequence an event meets: bit k for step k + 1.
pub(super) enum Mask {
    /// By the number of its name, where no step asks for more.
    ByName(Vec<u32>),
    ByRow(Vec<u32>),
}

impl Mask {
    /// `filters` are the conditions of the steps.
    pub fn of(steps: &[Step], filters: &[Option<BoundExpression>], batch: &Batch<'_>) -> Result<Mask, EvaluateError> {
        let mut by_name = vec![0; batch.names.len()];
        for (number, (step, filter)) in steps.iter().zip(filters).enumerate() {
            if filter.is_none() {
                batch.numbers(step.events.as_deref()).into_iter().for_each(|name| by_name[name] |= 1 << number);
            }
        }
        if filters.iter().all(Option::is_none) {
            return Ok(Mask::ByName(by_name));
        }
        let mut by_row: Vec<u32> = batch.name_of_row.iter().map(|name| by_name[*name as usize]).collect();
        for (number, (step, filter)) in steps.iter().zip(filters).enumerate() {
            let Some(filter) = filter else { continue };
            let holds = filter.evaluate_predicate(&batch.input.events.batch)?;
            let names = batch.numbers(step.events.as_deref());
            for (row, name) in batch.name_of_row.iter().enumerate() {
                if holds.value(row) && names.contains(&(*name as usize)) {
                    by_row[row] |= 1 << number;
                }
            }
        }
        Ok(Mask::ByRow(by_row))
    }

    pub fn of_row(&self, row: usize, batch: &Batch<'_>) -> u32 {
        match self {
            Mask::ByName(mask) => mask[batch.name_of_row[row] as usize],
            Mask::ByRow(mask) => mask[row],
        }
    }
}

/// Rows in the order of their profiles, and where those of each begin, with the end of the last. What a profile holds lies apart in
/// memory: so it is looked at once for all its events.
pub(super) fn rows_by_profile(profile_of_row: &[Option<u32>], profiles: usize) -> (Vec<u32>, Vec<u32>) {
    let mut begin = vec![0; profiles + 1];
    profile_of_row.iter().flatten().for_each(|profile| begin[*profile as usize + 1] += 1);
    (0..profiles).for_each(|profile| begin[profile + 1] += begin[profile]);
    let mut next = begin.clone();
    let mut rows = vec![0; begin[profiles] as usize];
    for (row, profile) in profile_of_row.iter().enumerate() {
        if let Some(profile) = profile {
            let place = &mut next[*profile as usize];
            rows[*place as usize] = row as u32;
            *place += 1;
        }
    }
    (rows, begin)
}
