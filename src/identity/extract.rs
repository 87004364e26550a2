//! The identifiers of every row of a batch, best type first.

use arrow::array::{Array, AsArray, StringArray};

use super::rules::blocked;
use super::{IdentifierFrom, IdentityPlan};
use crate::event::{EventBatch, column};

/// The identifiers of a batch: those of row `r` are `items[starts[r]..starts[r + 1]]`.
#[derive(Debug)]
pub struct Extracted<'a> {
    pub starts: Vec<u32>,
    pub items: Vec<Item<'a>>,
    /// Rows on which a value was set aside because it stands for nobody ([`blocked`]).
    pub blocked_rows: Vec<u32>,
    /// Rows on which a value was dropped because it is none of its type.
    pub invalid_rows: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub hash: u128,
    pub kind: u16,
    pub value: &'a str,
}

impl<'a> Extracted<'a> {
    pub fn row(&self, row: usize) -> &[Item<'a>] {
        &self.items[self.starts[row] as usize..self.starts[row + 1] as usize]
    }
}

/// Where a type's values are in this batch.
enum From<'a> {
    Column(&'a StringArray),
    Map { keys: &'a StringArray, values: &'a StringArray, offsets: &'a [i32], or_field: Option<&'a StringArray> },
}

/// Reads the identifiers of every row.
pub fn extract<'a>(plan: &IdentityPlan, events: &'a EventBatch) -> Extracted<'a> {
    let map = events.batch.column(column::IDENTIFIERS).as_map();
    let (keys, values) = (map.keys().as_string::<i32>(), map.values().as_string::<i32>());
    let map_is_used = !keys.is_empty();
    let sources: Vec<From<'a>> = plan
        .types
        .iter()
        .map(|kind| match &kind.from {
            IdentifierFrom::Column(index) => From::Column(events.strings(*index)),
            IdentifierFrom::Map { or_field } => {
                let or_field = or_field.as_ref().and_then(|name| events.batch.column_by_name(name));
                let or_field = or_field.map(|array| array.as_string::<i32>());
                From::Map { keys, values, offsets: map.offsets(), or_field }
            }
        })
        .collect();

    let rows = events.len();
    let mut extracted = Extracted {
        starts: Vec::with_capacity(rows + 1),
        items: Vec::with_capacity(rows * 2),
        blocked_rows: Vec::new(),
        invalid_rows: Vec::new(),
    };
    extracted.starts.push(0);
    for row in 0..rows {
        for (kind, source) in sources.iter().enumerate() {
            let value = match source {
                From::Column(values) => valid(values, row),
                From::Map { keys, values, offsets, or_field } => {
                    let range = if map_is_used { offsets[row] as usize..offsets[row + 1] as usize } else { 0..0 };
                    let mut in_map = range.filter(|at| keys.value(*at) == plan.types[kind].name);
                    let found = in_map.next().and_then(|at| valid(values, at));
                    found.or_else(|| or_field.and_then(|values| valid(values, row)))
                }
            };
            let Some(value) = value.map(str::trim) else { continue };
            if blocked(value) {
                if extracted.blocked_rows.last() != Some(&(row as u32)) {
                    extracted.blocked_rows.push(row as u32);
                }
                continue;
            }
            let kind = kind as u16;
            extracted.items.push(Item { hash: plan.identifier_hash(kind, value), kind, value });
        }
        extracted.starts.push(extracted.items.len() as u32);
    }
    extracted
}

fn valid(values: &StringArray, row: usize) -> Option<&str> {
    values.is_valid(row).then(|| values.value(row))
}
