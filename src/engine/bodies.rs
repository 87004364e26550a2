//! The same message id with another body is a producer's mistake (SEMANTICS §3): the first one counts, and the other is
//! shown. To tell, the bodies of the latest message ids are remembered by their hash, in memory and bounded: copies come
//! soon after each other, and after a restart or beyond the bound a copy is an ordinary duplicate.

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use hashbrown::HashMap;

use crate::event::{EventBatch, Position, Reject, column};

/// Ids in each of the two halves: what is older than a whole half is forgotten with it. Few enough for the tables to
/// stay in the processor's cache, since every event passes here.
const HALF: usize = 100_000;
const CODE: &str = "other_body";

#[derive(Debug, Default)]
pub struct Bodies {
    /// Half of an id's hash → half of its body's: asked only for ids that were certainly seen.
    current: HashMap<u64, u32>,
    before: HashMap<u64, u32>,
}

impl Bodies {
    /// Takes note of a batch: the bodies of new ids are remembered, and a row that was `seen` with another body is
    /// returned as what it is.
    pub fn check(&mut self, events: &EventBatch, hashes: &[u128], seen: &[bool]) -> Vec<Reject> {
        let columns = BODY.map(|index| events.strings(index));
        let mut others = Vec::new();
        for (row, (hash, seen)) in hashes.iter().zip(seen).enumerate() {
            let (id, body) = (*hash as u64, body(&columns, row));
            if !seen {
                self.remember(id, body);
            } else if self.current.get(&id).or_else(|| self.before.get(&id)).is_some_and(|first| *first != body) {
                others.push(other(events, row));
            }
        }
        others
    }

    fn remember(&mut self, id: u64, body: u32) {
        if self.current.len() >= HALF {
            // The older half's table is used again.
            std::mem::swap(&mut self.current, &mut self.before);
            self.current.clear();
        }
        self.current.insert(id, body);
    }
}

/// What makes the body. Times are left out: those that a collector or broker adds differ between copies.
const BODY: [usize; 6] =
    [column::TYPE, column::EVENT, column::USER_ID, column::ANONYMOUS_ID, column::PROPERTIES, column::TRAITS];

fn body(columns: &[&StringArray; 6], row: usize) -> u32 {
    let chain = |seed: u64, column: &&StringArray| match column.is_valid(row) {
        true => xxhash_rust::xxh3::xxh3_64_with_seed(column.value(row).as_bytes(), seed),
        false => seed.rotate_left(7),
    };
    columns.iter().fold(1, chain) as u32
}

fn other(events: &EventBatch, row: usize) -> Reject {
    let text = |index| events.text(index, row).unwrap_or("");
    let id = text(column::MESSAGE_ID);
    Reject {
        position: Position {
            source: text(column::SOURCE).into(),
            topic: text(column::TOPIC).into(),
            partition: events.batch.column(column::PARTITION).as_primitive::<Int32Type>().value(row),
            offset: events.batch.column(column::OFFSET).as_primitive::<Int64Type>().value(row),
        },
        timestamp: events.times(column::RECEIVED_AT).value(row),
        code: CODE.to_string(),
        reason: format!("message id {id} was taken before with another body: the first one counts, this one does not"),
        byte_offset: None,
        payload: if events.strings(column::PROPERTIES).is_valid(row) {
            text(column::PROPERTIES)
        } else {
            text(column::TRAITS)
        }
        .as_bytes()
        .to_vec(),
    }
}
