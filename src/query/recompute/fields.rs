//! The values of events: the envelope's columns, and what definitions take out of JSON.

use std::collections::BTreeSet;

use super::Statement;
use super::events::EVENTS;
use crate::analysis::fields;
use crate::event::NAMES;
use crate::expression::Dialect;
use crate::profile::{EventRule, PERSON_COLUMN};
use crate::sink::views::quoted;

impl Statement<'_> {
    /// The events of today's profiles, or of groups, with every column that these traits read.
    pub(super) fn events(&self, traits: &BTreeSet<usize>) -> String {
        let mut read: BTreeSet<&str> = ["timestamp", "message_id", "source", "event"].into();
        for rule in traits.iter().filter_map(|index| self.traits[*index].event_rule()) {
            let EventRule { filter, input, by, presence, .. } = rule;
            let expressions = [filter, input, by].into_iter().flatten();
            read.extend(expressions.flat_map(|expression| &expression.inputs).map(|input| input.column.as_str()));
            read.extend(presence.as_deref());
        }
        read.extend(self.group.iter().flat_map(|group| &group.id.inputs).map(|input| input.column.as_str()));
        let mut columns: Vec<String> = read
            .into_iter()
            .filter_map(|name| {
                let value = match self.fields.iter().find(|field| field.column_name() == name) {
                    Some(field) => fields::column(self.dialect, field),
                    None => format!("c.{}", quoted(NAMES.iter().find(|known| **known == name)?)),
                };
                Some(format!("{value} AS {}", quoted(name)))
            })
            .collect();
        let Some(group) = self.group else {
            let columns = columns.join(", ");
            return format!(
                "SELECT c.profile_id AS profile_id, {columns} FROM current_events AS c WHERE c.profile_id IS NOT NULL"
            );
        };
        columns.push(format!("c.profile_id AS {}", quoted(PERSON_COLUMN)));
        let (columns, id) = (columns.join(", "), fields::over_events(self.dialect, &group.id));
        format!(
            "SELECT * FROM (SELECT {id} AS profile_id, v.* FROM (SELECT {columns} FROM current_events AS c) AS v) AS g \
             WHERE profile_id <> ''"
        )
    }

    /// What every profile has.
    pub(super) fn built_in(&self) -> String {
        let count = self.count("*");
        format!(
            "SELECT profile_id, min({0}) AS first_seen, max({0}) AS last_seen, {count} AS events FROM {EVENTS} AS e \
             GROUP BY profile_id",
            quoted("timestamp")
        )
    }

    pub(super) fn count(&self, what: &str) -> String {
        match self.dialect {
            Dialect::ClickHouse => format!("toInt64(count({what}))"),
            Dialect::DataFusion => format!("count({what})"),
        }
    }
}
