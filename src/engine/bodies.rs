//! The same message id with another body is a producer's mistake (SEMANTICS §3): the first one counts, and the other is
//! shown. To tell, the bodies of the latest message ids are remembered by their hash, in memory and bounded: copies come
//! soon after each other, and after a restart or beyond the bound a copy is an ordinary duplicate.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use hashbrown::HashMap;

use crate::event::{EventBatch, Position, Reject, column};

/// Ids in each of the two halves: what is older than a whole half is forgotten with it.
const HALF: usize = 250_000;
const CODE: &str = "other_body";

#[derive(Debug, Default)]
pub struct Bodies {
    current: HashMap<u128, u64>,
    before: HashMap<u128, u64>,
}

impl Bodies {
    /// Takes note of a batch: the bodies of new ids are remembered, and a row that was `seen` with another body is
    /// returned as what it is.
    pub fn check(&mut self, events: &EventBatch, hashes: &[u128], seen: &[bool]) -> Vec<Reject> {
        let mut others = Vec::new();
        let mut text = Vec::with_capacity(256);
        for (row, (hash, seen)) in hashes.iter().zip(seen).enumerate() {
            let body = body(events, row, &mut text);
            if !seen {
                self.remember(*hash, body);
            } else if self.current.get(hash).or_else(|| self.before.get(hash)).is_some_and(|first| *first != body) {
                others.push(other(events, row));
            }
        }
        others
    }

    fn remember(&mut self, hash: u128, body: u64) {
        if self.current.len() >= HALF {
            self.before = std::mem::take(&mut self.current);
            self.current.reserve(HALF);
        }
        self.current.insert(hash, body);
    }
}

/// Times are left out: those that a collector or broker adds differ between copies.
fn body(events: &EventBatch, row: usize, text: &mut Vec<u8>) -> u64 {
    text.clear();
    let columns =
        [column::TYPE, column::EVENT, column::USER_ID, column::ANONYMOUS_ID, column::PROPERTIES, column::TRAITS];
    for index in columns {
        text.extend_from_slice(events.text(index, row).unwrap_or("").as_bytes());
        text.push(0);
    }
    xxhash_rust::xxh3::xxh3_64(text)
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
