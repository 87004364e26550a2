//! What sessions read of a batch of events.

use arrow::array::{Array, AsArray, StringArray};

use super::{SessionEvent, SessionsPlan};
use crate::event::{EventBatch, Field, Root, ValueType, column};

const PATHS: [[&str; 2]; 4] = [["page", "path"], ["campaign", "source"], ["campaign", "medium"], ["campaign", "name"]];

/// The fields that a batch needs for its sessions.
pub fn fields() -> [Field; 4] {
    PATHS.map(|path| Field {
        root: Root::Context,
        path: path.iter().map(|part| part.to_string()).collect(),
        value_type: ValueType::String,
        presence: false,
    })
}

/// A batch with its columns of [`fields`]; one that is not there is null throughout.
pub struct Columns<'a> {
    plan: &'a SessionsPlan,
    events: &'a EventBatch,
    fields: [Option<&'a StringArray>; 4],
}

impl<'a> Columns<'a> {
    pub fn of(plan: &'a SessionsPlan, events: &'a EventBatch) -> Columns<'a> {
        let found = fields().map(|field| {
            let column = events.batch.column_by_name(&field.column_name())?;
            column.as_string_opt::<i32>()
        });
        Columns { plan, events, fields: found }
    }

    /// None where the event is none of those that make sessions.
    pub fn event(&self, row: usize) -> Option<SessionEvent<'a>> {
        let (plan, events) = (self.plan, self.events);
        let event_type = events.text(column::TYPE, row).unwrap_or_default();
        if !plan.takes(event_type, events.text(column::EVENT, row)) {
            return None;
        }
        let text = |texts: &'a StringArray| texts.is_valid(row).then(|| texts.value(row));
        // An empty text says nothing.
        let [path, campaign @ ..] = self.fields.map(|texts| texts.and_then(text).filter(|text| !text.is_empty()));
        Some(SessionEvent {
            at: events.times(column::TIMESTAMP).value(row),
            source: events.text(column::SOURCE, row).unwrap_or_default(),
            message_id: events.text(column::MESSAGE_ID, row).unwrap_or_default(),
            page: matches!(event_type, "page" | "screen"),
            path,
            campaign,
        })
    }
}
