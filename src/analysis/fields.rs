//! The values of events in SQL: what definitions take out of JSON, by the rules of the stream.

use arrow::datatypes::DataType;

use crate::event::{Field, NAMES, Root, ValueType};
use crate::expression::{ColumnScope, Dialect, Expression, Resolved};
use crate::sink::views::quoted;
use crate::transform::spellings;

/// An expression over events whose fields are columns.
pub fn over_events(dialect: Dialect, expression: &Expression) -> String {
    expression.to_sql(dialect, &|input: &Resolved| {
        let column = quoted(&input.column);
        input.nested.iter().fold(column, |value, key| {
            let key = dialect.text(key);
            match dialect {
                // A map gives an empty text for what it does not hold.
                Dialect::ClickHouse => format!("if(mapContains({value}, {key}), toNullable({value}[{key}]), NULL)"),
                Dialect::DataFusion => format!("{value}[{key}]"),
            }
        })
    })
}

/// What the column of a field holds, over `current_events AS c`.
pub fn column(dialect: Dialect, field: &Field) -> String {
    let root = format!("c.{}", quoted(NAMES[field.root.column()]));
    let paths = match field.root {
        Root::Context | Root::Traits => spellings(&field.path),
        Root::Properties | Root::Enriched => vec![field.path.clone()],
    };
    let call = |name: &str, path: &[String]| {
        let keys: Vec<String> = path.iter().map(|key| dialect.text(key)).collect();
        format!("{name}({root}, {})", keys.join(", "))
    };
    if field.presence {
        let any: Vec<String> = paths.iter().map(|path| call("JSONHas", path)).collect();
        return boolean(dialect, &format!("coalesce({}, false)", any.join(" OR ")));
    }
    let mut values = paths.iter().rev().map(|path| (path, value(dialect, field.value_type, &|name| call(name, path))));
    let Some((_, last)) = values.next() else { return "NULL".to_string() };
    values.fold(last, |others, (path, value)| {
        format!("CASE WHEN {} THEN {value} ELSE {others} END", boolean(dialect, &call("JSONHas", path)))
    })
}

/// A value of this type, null where JSON has another; `call` is a JSON function of this path.
fn value(dialect: Dialect, value_type: ValueType, call: &dyn Fn(&str) -> String) -> String {
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
        ValueType::Boolean => boolean(
            dialect,
            &format!("CASE WHEN {raw} = 'true' THEN true WHEN {raw} = 'false' THEN false ELSE NULL END"),
        ),
        ValueType::Timestamp => {
            let text = formula(dialect, "CAST(x AS TIMESTAMP)", &call("JSONExtractString"), DataType::Utf8);
            let millis = formula(dialect, "to_timestamp_millis(x)", &call("JSONExtractInt"), DataType::Int64);
            format!("CASE WHEN {first} = '\"' THEN {text} WHEN {number} THEN {millis} ELSE NULL END")
        }
        ValueType::Json => format!("nullif(nullif({raw}, ''), 'null')"),
    }
}

fn boolean(dialect: Dialect, sql: &str) -> String {
    match dialect {
        // Comparisons are numbers there.
        Dialect::ClickHouse => format!("CAST({sql} AS Nullable(Bool))"),
        Dialect::DataFusion => sql.to_string(),
    }
}

/// `sql`, a formula of the one name `x`, as an expression of the stream would mean it; `name` is what `x` is.
pub fn formula(dialect: Dialect, sql: &str, name: &str, data_type: DataType) -> String {
    let mut scope = ColumnScope::new();
    scope.add(&["x"], Resolved { column: "x".to_string(), data_type, nested: Vec::new() });
    match Expression::compile(sql, &scope) {
        Ok(expression) => expression.to_sql(dialect, &|_| name.to_string()),
        Err(_) => "NULL".to_string(),
    }
}
