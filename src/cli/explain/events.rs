//! What the tables say: the events behind traits, and when someone entered and left a segment.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use serde_json::Value;

use super::values::scalar_value;
use crate::cli::{NodeConfig, run};
use crate::definition::Pipeline;
use crate::engine::history::{HistoryFilter, HistoryReader, Stored};
use crate::event::{Position, TimeUs, column};
use crate::identity::{Component, Corrections, extract};
use crate::profile::{Input, Traits};
use crate::query;
use crate::sink::CommitRange;
use crate::transform::Restore;

/// Events of a trait that are shown, and changes of a segment.
const SHOWN: usize = 5;

/// The events of one trait.
#[derive(Debug, Default)]
pub struct Behind {
    /// Events that count now.
    pub count: usize,
    /// Events that were taken in and have left the window.
    pub outside: usize,
    /// Events that have not happened yet.
    pub ahead: usize,
    /// The one that the value is from, or the latest that count; where none does, the latest that have left.
    pub shown: Vec<Event>,
}

#[derive(Debug)]
pub struct Event {
    pub at: TimeUs,
    pub name: String,
    pub message_id: String,
    pub position: String,
    /// What it adds; None for a null that deletes, and where every event adds the same.
    pub value: Option<Value>,
    pub key: Option<String>,
}

/// An entry or exit, as the table has it.
#[derive(Debug)]
pub struct Change {
    pub changed_at: TimeUs,
    /// `entered` or `exited`.
    pub change: String,
    pub cause: String,
    /// The id that it was shown under.
    pub profile_id: String,
}

/// The events of these traits, by their index, in the same order.
///
/// # Errors
/// Why the tables cannot be read.
pub async fn behind(
    pipeline: &Pipeline,
    config: &NodeConfig,
    component: &Component,
    traits: &Traits,
    wanted: &[usize],
    now: TimeUs,
) -> Result<Vec<Behind>, String> {
    let rules: Vec<_> = wanted.iter().filter_map(|index| traits.plans[*index].event_rule()).collect();
    if rules.is_empty() {
        return Ok(wanted.iter().map(|_| Behind::default()).collect());
    }
    let named: Option<Vec<&Vec<String>>> = rules.iter().map(|rule| rule.events.as_ref()).collect();
    let events = named.map(|named| {
        let mut names: Vec<String> = named.into_iter().flatten().cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    });
    let history = query::TableHistory { target: run::tables_of(pipeline, config) };
    let profiles = component.former_ids().iter().copied().chain([component.id]).collect();
    let filter = HistoryFilter { profiles: Some(profiles), since: None, events };
    let restore = Restore::new(&pipeline.transform.fields);
    let range = CommitRange { after: 0, upto: u64::MAX / 2 };
    let mut reader = HistoryReader::new(&history, restore, filter, range);
    let stored = reader.next_all().await.map_err(|error| error.to_string())?;
    let extracted = extract(&pipeline.identity, &stored.events);
    // Bans are not looked up: at worst another event is shown as the one whose value stands by rank.
    let none = Corrections::default();
    let best: Vec<u64> =
        (0..stored.len()).map(|row| extracted.best_kept(row, &stored.decisions, &pipeline.identity, &none)).collect();
    let owner = vec![Some(0); stored.len()];
    let input = Input { events: &stored.events, profile_of_row: &owner, best: &best, now };
    wanted.iter().map(|index| one(*index, traits, &stored, &input)).collect()
}

fn one(index: usize, traits: &Traits, stored: &Stored, input: &Input<'_>) -> Result<Behind, String> {
    let mut taken = traits.taken(index, input).map_err(|error| error.to_string())?;
    let ids = stored.events.strings(column::MESSAGE_ID);
    taken.sort_by_key(|taken| std::cmp::Reverse((taken.at, ids.value(taken.row))));
    let count = taken.iter().filter(|taken| taken.is_inside).count();
    let ahead = taken.iter().filter(|taken| !taken.is_inside && taken.at > input.now).count();
    let outside = taken.len() - count - ahead;
    let decides = taken.iter().any(|taken| taken.decides);
    // Of counts every event adds one.
    let all_the_same = traits.plans[index].event_rule().is_some_and(|rule| rule.input.is_none());
    let shown = taken.iter().filter(|taken| match (decides, count) {
        (true, _) => taken.decides,
        (false, 0) => taken.at <= input.now,
        (false, _) => taken.is_inside,
    });
    let text = |index: usize, row: usize| stored.events.text(index, row).unwrap_or("").to_string();
    let partition = stored.events.batch.column(column::PARTITION).as_primitive::<Int32Type>();
    let offset = stored.events.batch.column(column::OFFSET).as_primitive::<Int64Type>();
    let events = stored.events.strings(column::EVENT);
    let shown = shown.take(SHOWN).map(|taken| Event {
        at: taken.at,
        name: text(if events.is_valid(taken.row) { column::EVENT } else { column::TYPE }, taken.row),
        message_id: text(column::MESSAGE_ID, taken.row),
        position: Position {
            source: text(column::SOURCE, taken.row).into(),
            topic: text(column::TOPIC, taken.row).into(),
            partition: partition.value(taken.row),
            offset: offset.value(taken.row),
        }
        .to_string(),
        value: taken.value.as_ref().filter(|_| !all_the_same).map(scalar_value),
        key: taken.key.as_deref().map(str::to_string),
    });
    Ok(Behind { count, outside, ahead, shown: shown.collect() })
}

/// The latest entries and exits, the latest first.
///
/// # Errors
/// Why the tables cannot be read.
pub async fn changes(
    pipeline: &Pipeline,
    config: &NodeConfig,
    component: &Component,
    segment: &str,
) -> Result<Vec<Change>, String> {
    let target = run::tables_of(pipeline, config);
    let sql = format!(
        "SELECT changed_at, change, cause, profile_id FROM segment_changes \
         WHERE segment = '{}' AND profile_id IN ({}) ORDER BY _batch DESC, _seq DESC LIMIT {SHOWN}",
        segment.replace('\'', "''"),
        super::id_list(component)
    );
    let found = query::query(&target, &sql).await.map_err(|error| error.to_string())?;
    let mut changes = Vec::new();
    for batch in found {
        let cast = |index: usize, wanted| {
            arrow::compute::cast(batch.column(index), &wanted).map_err(|error| error.to_string())
        };
        let at = cast(0, crate::event::time_type())?;
        let at = at.as_primitive::<TimestampMicrosecondType>();
        let texts = [1, 2, 3].map(|index| cast(index, arrow::datatypes::DataType::Utf8));
        let [change, cause, profile_id] = texts;
        let (change, cause, profile_id) = (change?, cause?, profile_id?);
        let text = |column: &dyn Array, row: usize| column.as_string::<i32>().value(row).to_string();
        changes.extend((0..batch.num_rows()).map(|row| Change {
            changed_at: at.value(row),
            change: text(&change, row),
            cause: text(&cause, row),
            profile_id: text(&profile_id, row),
        }));
    }
    Ok(changes)
}
