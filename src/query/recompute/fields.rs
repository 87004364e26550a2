//! The values of events: the envelope's columns, and what definitions take out of JSON.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;

use super::Statement;
use super::events::EVENTS;
use crate::event::{Field, NAMES, Root, ValueType};
use crate::expression::{Dialect, Expression, Resolved};
use crate::profile::{EventRule, PERSON_COLUMN};
use crate::sink::views::quoted;
use crate::transform::spellings;

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
                    Some(field) => self.field(field),
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
        let (columns, id) = (columns.join(", "), self.over_events(&group.id));
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

    /// An expression over the columns of [`Statement::events`].
    pub(super) fn over_events(&self, expression: &Expression) -> String {
        expression.to_sql(self.dialect, &|input: &Resolved| {
            let column = quoted(&input.column);
            input.nested.iter().fold(column, |value, key| {
                let key = self.dialect.text(key);
                match self.dialect {
                    // A map gives an empty text for what it does not hold.
                    Dialect::ClickHouse => format!("if(mapContains({value}, {key}), toNullable({value}[{key}]), NULL)"),
                    Dialect::DataFusion => format!("{value}[{key}]"),
                }
            })
        })
    }

    fn field(&self, field: &Field) -> String {
        let root = format!("c.{}", quoted(NAMES[field.root.column()]));
        let paths = match field.root {
            Root::Context | Root::Traits => spellings(&field.path),
            Root::Properties | Root::Enriched => vec![field.path.clone()],
        };
        let call = |name: &str, path: &[String]| {
            let keys: Vec<String> = path.iter().map(|key| self.dialect.text(key)).collect();
            format!("{name}({root}, {})", keys.join(", "))
        };
        if field.presence {
            let any: Vec<String> = paths.iter().map(|path| call("JSONHas", path)).collect();
            return self.boolean(&format!("coalesce({}, false)", any.join(" OR ")));
        }
        let mut values = paths.iter().rev().map(|path| (path, self.value(field.value_type, &|name| call(name, path))));
        let Some((_, last)) = values.next() else { return "NULL".to_string() };
        values.fold(last, |others, (path, value)| {
            format!("CASE WHEN {} THEN {value} ELSE {others} END", self.boolean(&call("JSONHas", path)))
        })
    }

    /// A value of this type, null where JSON has another; `call` is a JSON function of this path.
    fn value(&self, value_type: ValueType, call: &dyn Fn(&str) -> String) -> String {
        let raw = call("JSONExtractRaw");
        let first = format!("left({raw}, 1)");
        let number = format!("{first} IN ('-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9')");
        match value_type {
            ValueType::String => {
                let text = call("JSONExtractString");
                format!(
                    "CASE WHEN {first} = '\"' THEN {text} WHEN {number} OR {raw} IN ('true', 'false') THEN {raw} ELSE NULL END"
                )
            }
            ValueType::Double => format!("CASE WHEN {number} THEN {} ELSE NULL END", call("JSONExtractFloat")),
            ValueType::Long => {
                let (double, long) = (call("JSONExtractFloat"), call("JSONExtractInt"));
                format!("CASE WHEN {number} AND {double} = floor({double}) THEN {long} ELSE NULL END")
            }
            ValueType::Boolean => self
                .boolean(&format!("CASE WHEN {raw} = 'true' THEN true WHEN {raw} = 'false' THEN false ELSE NULL END")),
            ValueType::Timestamp => {
                let text = self.formula("CAST(x AS TIMESTAMP)", &call("JSONExtractString"), DataType::Utf8);
                let millis = self.formula("to_timestamp_millis(x)", &call("JSONExtractInt"), DataType::Int64);
                format!("CASE WHEN {first} = '\"' THEN {text} WHEN {number} THEN {millis} ELSE NULL END")
            }
            ValueType::Json => format!("nullif(nullif({raw}, ''), 'null')"),
        }
    }

    fn boolean(&self, sql: &str) -> String {
        match self.dialect {
            // Comparisons are numbers there.
            Dialect::ClickHouse => format!("CAST({sql} AS Nullable(Bool))"),
            Dialect::DataFusion => sql.to_string(),
        }
    }
}
