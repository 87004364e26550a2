//! The identifiers of every row of a batch, best type first.

use std::borrow::Cow;
use std::cmp::Ordering;

use arrow::array::{Array, AsArray, StringArray};

use super::{Corrections, IdentifierFrom, IdentityPlan, Unusable};
use crate::event::{EventBatch, column};

/// The identifiers of a batch: those of row `r` are `items[starts[r]..starts[r + 1]]`.
#[derive(Debug)]
pub struct Extracted<'a> {
    pub starts: Vec<u32>,
    pub items: Vec<Item<'a>>,
    /// Rows on which a value was set aside because it stands for nobody; ascending, each once.
    pub blocked_rows: Vec<u32>,
    /// Rows on which a value was set aside because it is none of its type; ascending, each once.
    pub invalid_rows: Vec<u32>,
}

/// One identifier of a row, normalised.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    pub hash: u128,
    pub kind: u16,
    pub value: Cow<'a, str>,
}

impl Item<'_> {
    /// How good it is, 0 best: by its type's priority, then by hash; what `on_merge: survivor` goes by.
    pub fn rank(&self) -> u64 {
        (u64::from(self.kind) << 48) | (self.hash >> 80) as u64
    }
}

impl<'a> Extracted<'a> {
    /// The identifiers of a row, each once, best first: by kind, then by hash.
    pub fn row(&self, row: usize) -> &[Item<'a>] {
        &self.items[self.starts[row] as usize..self.starts[row + 1] as usize]
    }

    /// The rank of the best identifier of a stored row that was joined, by what was decided then (see `Decision::text`) and
    /// banned since; `u64::MAX` where there is none.
    pub fn best_kept(
        &self,
        row: usize,
        decisions: &StringArray,
        plan: &IdentityPlan,
        corrections: &Corrections,
    ) -> u64 {
        let decided = if decisions.is_valid(row) { decisions.value(row) } else { "" };
        let refused = |kind: u16| {
            let name = plan.types[usize::from(kind)].name.as_str();
            decided.split(',').any(|part| part.split_once(':').is_some_and(|(_, refused)| refused == name))
        };
        let mut items = self.row(row).iter();
        let best = items.find(|item| !refused(item.kind) && !corrections.is_banned(item.hash));
        best.map_or(u64::MAX, Item::rank)
    }
}

/// Where a type's values are in this batch.
enum From<'a> {
    Column(&'a StringArray),
    Map { keys: &'a StringArray, values: &'a StringArray, offsets: &'a [i32], or_field: Option<Column<'a>> },
}

/// A field column.
struct Column<'a> {
    values: &'a StringArray,
    /// The traits of a group call are the group's: its e-mail is none of the person who joins.
    not_of: Option<&'a StringArray>,
}

impl<'a> Column<'a> {
    fn of(events: &'a EventBatch, name: &str) -> Option<Column<'a>> {
        let values = events.batch.column_by_name(name)?.as_string::<i32>();
        let not_of = name.starts_with("traits.").then(|| events.strings(column::TYPE));
        Some(Column { values, not_of })
    }

    fn value(&self, row: usize) -> Option<&'a str> {
        valid(self.values, row).filter(|_| self.not_of.is_none_or(|types| types.value(row) != "group"))
    }
}

/// The `previous_id` of alias calls, which is an identifier of type `kind`.
struct Previous<'a> {
    kind: usize,
    types: &'a StringArray,
    values: &'a StringArray,
}

impl<'a> Previous<'a> {
    /// None where no row has one: most batches hold no alias call.
    fn of(plan: &IdentityPlan, events: &'a EventBatch) -> Option<Previous<'a>> {
        let kind = plan.previous_id.map(usize::from).filter(|kind| *kind < plan.types.len())?;
        let values = events.strings(column::PREVIOUS_ID);
        (values.null_count() < values.len()).then(|| Previous { kind, types: events.strings(column::TYPE), values })
    }

    fn value(&self, row: usize) -> Option<&'a str> {
        valid(self.values, row).filter(|_| self.types.value(row) == "alias")
    }
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
                let or_field = or_field.as_ref().and_then(|name| Column::of(events, name));
                From::Map { keys, values, offsets: map.offsets(), or_field }
            }
        })
        .collect();
    let previous = Previous::of(plan, events);

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
                    found.or_else(|| or_field.as_ref().and_then(|field| field.value(row)))
                }
            };
            if let Some(value) = value {
                extracted.take(plan, row, kind, value);
            }
            if let Some(previous) = previous.as_ref().filter(|previous| previous.kind == kind)
                && let Some(value) = previous.value(row)
            {
                extracted.take(plan, row, kind, value);
                extracted.settle(row);
            }
        }
        extracted.starts.push(extracted.items.len() as u32);
    }
    extracted
}

impl<'a> Extracted<'a> {
    /// Adds a value of a type, or notes why it is none.
    fn take(&mut self, plan: &IdentityPlan, row: usize, kind: usize, raw: &'a str) {
        let kind = kind as u16;
        match plan.identifier(kind, raw) {
            Ok(value) => self.items.push(Item { hash: plan.identifier_hash(kind, &value), kind, value }),
            Err(Unusable::Invalid) => note(&mut self.invalid_rows, row),
            Err(Unusable::Blocked) => note(&mut self.blocked_rows, row),
        }
    }

    /// Where the row's last two items are of one type: the better first, and not twice the same.
    fn settle(&mut self, row: usize) {
        let start = self.starts[row] as usize;
        let [.., before, last] = &self.items[start..] else { return };
        if before.kind != last.kind {
            return;
        }
        let at = self.items.len();
        match before.hash.cmp(&last.hash) {
            Ordering::Less => {}
            Ordering::Equal => self.items.truncate(at - 1),
            Ordering::Greater => self.items.swap(at - 2, at - 1),
        }
    }
}

fn note(rows: &mut Vec<u32>, row: usize) {
    if rows.last() != Some(&(row as u32)) {
        rows.push(row as u32);
    }
}

fn valid(values: &StringArray, row: usize) -> Option<&str> {
    values.is_valid(row).then(|| values.value(row))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, MapBuilder, RecordBatch, StringBuilder};

    use super::super::{IdentifierType, MAX_IDENTIFIERS, Normalize, OnConflict, Pattern};
    use super::*;
    use crate::event::{Field, Root, ValueType, schema_with};

    /// type, user_id, anonymous_id, previous_id, phone in the map, traits.email.
    type Row = (&'static str, [Option<&'static str>; 5]);

    fn batch(rows: &[Row]) -> EventBatch {
        let email =
            Field { root: Root::Traits, path: vec!["email".into()], value_type: ValueType::String, presence: false };
        let schema = schema_with(&[email]);
        let text = |index: usize| -> ArrayRef { Arc::new(rows.iter().map(|(_, v)| v[index]).collect::<StringArray>()) };
        let mut phones = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for (_, values) in rows {
            if let Some(phone) = values[3] {
                phones.keys().append_value("phone");
                phones.values().append_value(phone);
            }
            phones.append(true).unwrap();
        }
        let phones: ArrayRef = Arc::new(phones.finish());
        let columns = schema.fields().iter().enumerate().map(|(index, field)| match index {
            column::TYPE => Arc::new(rows.iter().map(|(kind, _)| Some(*kind)).collect::<StringArray>()) as ArrayRef,
            column::USER_ID => text(0),
            column::ANONYMOUS_ID => text(1),
            column::PREVIOUS_ID => text(2),
            column::IDENTIFIERS => phones.clone(),
            column::COUNT => text(4),
            _ if field.is_nullable() => arrow::array::new_null_array(field.data_type(), rows.len()),
            _ => arrow::compute::cast(&arrow::array::Int64Array::from(vec![0; rows.len()]), field.data_type()).unwrap(),
        });
        EventBatch { batch: RecordBatch::try_new(schema.clone(), columns.collect()).unwrap() }
    }

    fn plan(previous_id: Option<u16>) -> IdentityPlan {
        let kind = |name: &str, from, normalize, block: &[&str]| IdentifierType {
            name: name.to_string(),
            from,
            normalize,
            limit: None,
            block: block.iter().map(|text| Pattern::new(text).unwrap()).collect(),
        };
        let email = Normalize::Email { without_dots: false, without_tags: false };
        IdentityPlan {
            key: [7; 32].into(),
            types: vec![
                kind("user_id", IdentifierFrom::Column(column::USER_ID), Normalize::Trim, &["/^svc_/"]),
                kind("email", IdentifierFrom::Map { or_field: Some("traits.email:string".into()) }, email, &[]),
                kind("phone", IdentifierFrom::Map { or_field: None }, Normalize::E164 { region: None }, &[]),
                kind("anonymous_id", IdentifierFrom::Column(column::ANONYMOUS_ID), Normalize::Trim, &[]),
            ],
            block: vec![Pattern::new("/^demo-/").unwrap(), Pattern::new("team@shop.example").unwrap()],
            on_conflict: OnConflict::Keep,
            max_identifiers: MAX_IDENTIFIERS,
            previous_id,
        }
    }

    #[test]
    fn every_row_gives_its_identifiers_or_says_why_not() {
        // The row; its identifiers, best first; whether one was blocked, and whether one was invalid.
        let rows: Vec<(Row, &[&str], bool, bool)> = vec![
            (("track", [Some(" u1 "), Some("a1"), None, None, None]), &["user_id:u1", "anonymous_id:a1"], false, false),
            (
                ("identify", [None, Some("a1"), None, Some("+49 30 901820"), Some("Ann@X.de")]),
                &["email:ann@x.de", "phone:+4930901820", "anonymous_id:a1"],
                false,
                false,
            ),
            // The traits of a group are not the person's.
            (
                ("group", [Some("u1"), None, None, Some("+49 30 901820"), Some("office@x.de")]),
                &["user_id:u1", "phone:+4930901820"],
                false,
                false,
            ),
            // What is wrong is dropped, the rest is kept.
            (("track", [Some("u1"), None, None, Some("12"), Some("ann")]), &["user_id:u1"], false, true),
            (("track", [Some("null"), Some("a1"), None, None, None]), &["anonymous_id:a1"], true, false),
            (("track", [Some("svc_1"), Some("svc_1"), None, None, None]), &["anonymous_id:svc_1"], true, false),
            (("track", [Some("demo-1"), None, None, None, None]), &[], true, false),
            // Blocked as it is once normalised, and invalid beside it.
            (("track", [None, None, None, Some("12"), Some("TEAM@shop.example")]), &[], true, true),
            // Only an alias call's previous id is an identifier.
            (("track", [Some("u1"), None, Some("a9"), None, None]), &["user_id:u1"], false, false),
            (("alias", [Some("u1"), None, Some("a9"), None, None]), &["user_id:u1", "anonymous_id:a9"], false, false),
            (("alias", [None, Some("a9"), Some("a9 "), None, None]), &["anonymous_id:a9"], false, false),
            (("alias", [None, Some("a9"), Some("demo-2"), None, None]), &["anonymous_id:a9"], true, false),
        ];
        let events = batch(&rows.iter().map(|(row, ..)| *row).collect::<Vec<_>>());
        let plan = plan(Some(3));
        let extracted = extract(&plan, &events);
        for (index, (row, expect, blocked, invalid)) in rows.iter().enumerate() {
            let name = |item: &Item| format!("{}:{}", plan.types[item.kind as usize].name, item.value);
            let found: Vec<String> = extracted.row(index).iter().map(name).collect();
            assert_eq!(found, *expect, "{row:?}");
            assert_eq!(extracted.blocked_rows.contains(&(index as u32)), *blocked, "{row:?}");
            assert_eq!(extracted.invalid_rows.contains(&(index as u32)), *invalid, "{row:?}");
        }
        let untouched = &extracted.row(0)[0];
        assert!(matches!(untouched.value, Cow::Borrowed("u1")), "nothing is copied where nothing changes");
        assert_eq!(untouched.hash, plan.identifier_hash(0, "u1"));
    }

    /// Two of one type are in the order of their hashes, whichever column they came from.
    #[test]
    fn the_previous_id_takes_its_place_by_hash() {
        let there = batch(&[("alias", [None, Some("a"), Some("b"), None, None])]);
        let back = batch(&[("alias", [None, Some("b"), Some("a"), None, None])]);
        let plan = plan(Some(3));
        let hashes = |events: &EventBatch| extract(&plan, events).items.iter().map(|i| i.hash).collect::<Vec<_>>();
        assert_eq!(hashes(&there), hashes(&back));
        assert!(hashes(&there).is_sorted() && hashes(&there).len() == 2);
        let ranks: Vec<u64> = extract(&plan, &there).items.iter().map(Item::rank).collect();
        assert!(ranks.is_sorted() && ranks[0] >> 48 == 3);
        assert_eq!(extract(&super::tests::plan(None), &there).items.len(), 1, "no type, no identifier");
        // As a better type than the row's own.
        let events = batch(&[("alias", [None, Some("a"), Some("u1"), None, None])]);
        let kinds: Vec<u16> = extract(&super::tests::plan(Some(0)), &events).items.iter().map(|i| i.kind).collect();
        assert_eq!(kinds, [0, 3]);
    }
}
