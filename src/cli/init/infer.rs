//! What the columns of a source are: the standard envelope, or which of them is the time, the event's name, an
//! identifier. Told by names and by values; a wrong guess is a line of YAML to change.

use std::collections::{BTreeSet, HashSet};

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::{Map, Value};

use super::shape::snake;
use crate::decode::csv::parse_cell;
use crate::decode::time::parse_time;
use crate::event::ValueType;

/// The six calls.
const CALLS: [&str; 6] = ["track", "identify", "page", "screen", "group", "alias"];

/// Keys of the standard envelope, and those beside them that Segment's libraries send and nobody needs.
const ENVELOPE: [&str; 24] = [
    "message_id",
    "type",
    "event",
    "user_id",
    "anonymous_id",
    "group_id",
    "previous_id",
    "identifiers",
    "timestamp",
    "original_timestamp",
    "sent_at",
    "received_at",
    "properties",
    "traits",
    "context",
    "name",
    "category",
    "integrations",
    "version",
    "channel",
    "project_id",
    "write_key",
    "_metadata",
    "source",
];

/// Whether the rows are events in the standard envelope already.
pub fn is_envelope(rows: &[Map<String, Value>]) -> bool {
    let known = |key: &String| key.starts_with('_') || ENVELOPE.contains(&snake(key).as_str());
    let fits = |row: &&Map<String, Value>| {
        let get = |name: &str| row.iter().find(|(key, _)| snake(key) == name).map(|(_, value)| value);
        let call = get("type").and_then(Value::as_str).is_some_and(|call| CALLS.contains(&call));
        let event = get("event").is_some_and(Value::is_string);
        // A table of purchases may have `type` and `event` as well; what an event says is in objects.
        let objects = ["properties", "traits", "context", "identifiers"].iter().any(|name| get(name).is_some());
        let ids = ["message_id", "user_id", "anonymous_id"].iter().any(|name| get(name).is_some());
        (call || event && objects) && (objects || ids) && row.keys().all(known)
    };
    // Some may be broken, and are rejected as they would be later.
    rows.iter().filter(fits).count() * 10 >= rows.len() * 9
}

/// How a column tells the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// RFC 3339, with a blank for the `T`, or a date alone.
    Text,
    Seconds,
    Millis,
    Micros,
    /// By strftime's letters.
    Format(&'static str),
}

/// A column of a source.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    /// Of a CSV file, the type that all its cells can be read as.
    pub value_type: ValueType,
    pub time: Option<Time>,
    /// Values that are not null, and how many different ones there are (up to a bound).
    pub values: usize,
    pub distinct: usize,
    texts: bool,
    all_emails: bool,
    all_uuids: bool,
    all_phones: bool,
    /// Lists and objects.
    nested: bool,
}

const DISTINCT_MAX: usize = 100_000;
const FORMATS: [&str; 12] = [
    "%Y%m%d",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
];
/// 1990 to 2100.
const SECONDS: std::ops::Range<i64> = 631_152_000..4_102_444_800;

/// The columns in the order of their first appearance. `cells`: values are the texts of a CSV file.
pub fn columns(rows: &[Map<String, Value>], cells: bool) -> Vec<Column> {
    let mut names: Vec<&String> = Vec::new();
    let mut known = HashSet::new();
    rows.iter().flat_map(Map::keys).for_each(|name| {
        if known.insert(name) {
            names.push(name);
        }
    });
    names.into_iter().map(|name| column(name, rows, cells)).collect()
}

fn column(name: &str, rows: &[Map<String, Value>], cells: bool) -> Column {
    let empty = |value: &Value| value.is_null() || cells && value.as_str().is_some_and(|text| text.trim().is_empty());
    let values: Vec<&Value> = rows.iter().filter_map(|row| row.get(name)).filter(|value| !empty(value)).collect();
    let texts: Option<Vec<&str>> = values.iter().map(|value| value.as_str()).collect();
    let texts = texts.filter(|texts| !texts.is_empty());
    let all =
        |test: &dyn Fn(&str) -> bool| texts.as_ref().is_some_and(|texts| texts.iter().all(|text| test(text.trim())));
    let mut different = HashSet::new();
    for value in &values {
        if different.len() < DISTINCT_MAX {
            different.insert(value.to_string());
        }
    }
    Column {
        name: name.to_string(),
        value_type: texts.as_ref().map_or(ValueType::String, |texts| cell_type(texts)),
        time: time(name, &values),
        values: values.len(),
        distinct: different.len(),
        texts: texts.is_some(),
        all_emails: all(&is_email),
        all_uuids: all(&is_uuid),
        all_phones: all(&|text| text.starts_with('+') && text.bytes().filter(u8::is_ascii_digit).count() >= 8),
        nested: values.iter().any(|value| value.is_array() || value.is_object()),
    }
}

/// Numbers that begin with a zero are numbers of something, as of customers, and stay texts.
fn cell_type(texts: &[&str]) -> ValueType {
    let reads = |value_type: ValueType| texts.iter().all(|text| parse_cell(text, value_type).is_ok());
    let padded = |text: &&str| text.len() > 1 && text.starts_with('0') && !text.starts_with("0.");
    let words = ["true", "false", "TRUE", "FALSE", "True", "False"];
    if texts.iter().all(|text| words.contains(&text.trim())) {
        ValueType::Boolean
    } else if texts.iter().any(padded) {
        ValueType::String
    } else if reads(ValueType::Long) {
        ValueType::Long
    } else if reads(ValueType::Double) {
        ValueType::Double
    } else {
        ValueType::String
    }
}

fn time(name: &str, values: &[&Value]) -> Option<Time> {
    if values.is_empty() {
        return None;
    }
    let texts: Option<Vec<&str>> = values.iter().map(|value| value.as_str().map(str::trim)).collect();
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
    let numbers: Option<Vec<i64>> = values.iter().map(|value| number(value)).collect();
    let named = time_rank(name).is_some();
    if let Some(texts) = &texts {
        if texts.iter().all(|text| text.len() >= 10 && text.as_bytes()[4] == b'-' && parse_time(text).is_some()) {
            return Some(Time::Text);
        }
        let date = |text: &str, format: &str| {
            NaiveDateTime::parse_from_str(text, format).is_ok() || NaiveDate::parse_from_str(text, format).is_ok()
        };
        let length = texts.first().map_or(0, |text| text.len());
        let compact = |format: &str| format != "%Y%m%d" || named && length == 8;
        let fits = |format: &&&str| compact(format) && texts.iter().all(|text| text.len() >= 6 && date(text, format));
        if let Some(format) = FORMATS.iter().find(fits).filter(|_| numbers.is_none() || named) {
            return Some(Time::Format(format));
        }
    }
    let numbers = numbers.filter(|_| named)?;
    let units = [(1, Time::Seconds), (1_000, Time::Millis), (1_000_000, Time::Micros)];
    let of = |unit: i64| numbers.iter().all(|number| SECONDS.contains(&(number / unit)));
    units.into_iter().find(|(unit, _)| of(*unit)).map(|(_, time)| time)
}

/// How likely a name is that of the event's time, best first; None where it is no time's name.
fn time_rank(name: &str) -> Option<usize> {
    let name = snake(name);
    let exact = ["timestamp", "event_time", "event_timestamp", "occurred_at", "time", "ts", "datetime", "date"];
    if let Some(rank) = exact.iter().position(|exact| *exact == name) {
        return Some(rank);
    }
    let words: Vec<&str> = name.split('_').collect();
    let created =
        words.iter().any(|word| ["created", "placed", "ordered", "purchased", "order", "purchase"].contains(word));
    let time = words.iter().any(|word| ["time", "timestamp", "date", "at", "ts", "day", "datetime"].contains(word));
    let later = words
        .iter()
        .any(|word| ["updated", "modified", "received", "sent", "loaded", "birth", "expires"].contains(word));
    match (time, created, later) {
        (false, _, _) => None,
        (true, true, false) => Some(10),
        (true, _, false) => Some(20),
        (true, _, true) => Some(30),
    }
}

fn is_email(text: &str) -> bool {
    let Some((user, domain)) = text.split_once('@') else { return false };
    !user.is_empty() && domain.contains('.') && !domain.contains('@') && !text.contains(char::is_whitespace)
}

fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hyphens = [8, 13, 18, 23];
    bytes.len() == 36
        && bytes.iter().enumerate().all(
            |(at, byte)| {
                if hyphens.contains(&at) { *byte == b'-' } else { byte.is_ascii_hexdigit() }
            },
        )
}

/// What a column is to an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Event,
    Time,
    MessageId,
    /// An identifier type; `user_id` and `anonymous_id` have columns of their own.
    Identifier(String),
    Property,
}

/// A role for each column.
pub fn roles(columns: &[Column]) -> Vec<Role> {
    let mut roles: Vec<Role> =
        columns.iter().map(|column| identifier(column).map_or(Role::Property, Role::Identifier)).collect();
    // Two columns that look like the same identifier: the first is it.
    let mut taken = BTreeSet::new();
    for role in &mut roles {
        if matches!(role, Role::Identifier(_)) && !taken.insert(role.clone()) {
            *role = Role::Property;
        }
    }
    let free = |roles: &[Role], index: usize| roles[index] == Role::Property && !columns[index].nested;
    let event_names = ["event", "event_name", "event_type", "eventname", "action", "activity", "type", "name"];
    let event = event_names.iter().find_map(|wanted| {
        let fits = |(index, column): &(usize, &Column)| {
            let few = column.distinct <= 200 && (column.distinct * 2 <= column.values || column.values < 20);
            snake(&column.name) == *wanted && column.texts && few && free(&roles, *index)
        };
        columns.iter().enumerate().find(fits).map(|(index, _)| index)
    });
    event.into_iter().for_each(|index| roles[index] = Role::Event);
    let time = (0..columns.len()).filter(|index| free(&roles, *index) && columns[*index].time.is_some());
    let time = time.min_by_key(|index| time_rank(&columns[*index].name).unwrap_or(100));
    time.into_iter().for_each(|index| roles[index] = Role::Time);
    let unique = |column: &Column| column.values > 1 && column.distinct == column.values.min(DISTINCT_MAX);
    let ids = ["message_id", "event_id", "eventid", "messageid", "uuid", "id"];
    let id = ids.iter().find_map(|wanted| {
        (0..columns.len())
            .find(|index| snake(&columns[*index].name) == *wanted && unique(&columns[*index]) && free(&roles, *index))
    });
    id.into_iter().for_each(|index| roles[index] = Role::MessageId);
    if !roles.iter().any(|role| matches!(role, Role::Identifier(_))) {
        // The first thing that looks like an id and comes again.
        let other = (0..columns.len()).find(|index| {
            let column = &columns[*index];
            let id = column.all_uuids || snake(&column.name).ends_with("_id") || snake(&column.name) == "id";
            id && free(&roles, *index) && column.distinct < column.values && !belongs_to_things(&column.name)
        });
        other.into_iter().for_each(|index| roles[index] = Role::Identifier(snake(&columns[index].name)));
    }
    roles
}

fn belongs_to_things(name: &str) -> bool {
    let things =
        ["order", "product", "item", "session", "transaction", "invoice", "store", "campaign", "category", "sku"];
    snake(name).split('_').any(|word| things.contains(&word))
}

fn identifier(column: &Column) -> Option<String> {
    if column.nested || column.values == 0 {
        return None;
    }
    let name = snake(&column.name);
    let is = |names: &[&str]| names.contains(&name.as_str());
    if is(&["user_id", "userid", "uid", "user"]) {
        return Some("user_id".to_string());
    }
    if is(&["anonymous_id", "anonymousid", "anon_id", "visitor_id", "device_id", "cookie_id", "client_id", "visitorid"])
    {
        return Some("anonymous_id".to_string());
    }
    if column.all_emails || is(&["email", "e_mail", "mail", "email_address"]) {
        return Some("email".to_string());
    }
    if column.all_phones && ["phone", "mobile", "tel", "telephone", "phone_number"].contains(&name.as_str()) {
        return Some("phone".to_string());
    }
    let people = ["customer", "member", "account", "contact", "person", "subscriber", "client", "patient", "buyer"];
    let words: Vec<&str> = name.split('_').collect();
    let id = matches!(words.last(), Some(&("id" | "no" | "number" | "nr" | "key" | "code")));
    let person = words.first().is_some_and(|word| people.contains(word));
    let all = words.len() == 1 && is(&["customer", "member", "customerid", "memberid", "customernumber"]);
    (person && id && words.len() <= 3 || all).then_some(name)
}

/// How the values of an identifier type are normalised.
pub fn normalize(identifier: &str) -> Option<&'static str> {
    match identifier {
        "email" => Some("email"),
        "phone" => Some("e164"),
        _ => None,
    }
}

/// Identifier types in the order that gives profiles their ids: what the own database says first, devices last.
pub fn by_rank(identifiers: BTreeSet<String>) -> Vec<String> {
    let rank = |name: &String| match name.as_str() {
        "anonymous_id" => 4,
        "phone" => 3,
        "email" => 2,
        "user_id" => 1,
        _ => 0,
    };
    let mut all: Vec<String> = identifiers.into_iter().collect();
    all.sort_by_key(rank);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(json: &str) -> Vec<Map<String, Value>> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn times_are_told_by_names_and_values() {
        // (column, its values, what it is)
        let cases = [
            ("at", r#"["2026-03-01T10:00:00Z"]"#, Some(Time::Text)),
            ("whatever", r#"["2026-03-01 10:00:00", "2026-03-02"]"#, Some(Time::Text)),
            ("created_at", "[1772366400]", Some(Time::Seconds)),
            ("created_at", "[1772366400000, 1772366400001]", Some(Time::Millis)),
            ("ts", r#"["1772366400000000"]"#, Some(Time::Micros)),
            ("amount", "[1772366400]", None),
            ("date", r#"["19970101", "19971231"]"#, Some(Time::Format("%Y%m%d"))),
            ("number", r#"["19970101"]"#, None),
            ("date", r#"["31.12.2025"]"#, Some(Time::Format("%d.%m.%Y"))),
            ("InvoiceDate", r#"["12/1/2010 8:26", "12/31/2010 18:26"]"#, Some(Time::Format("%m/%d/%Y %H:%M"))),
            ("InvoiceDate", r#"["31/12/2010 8:26"]"#, Some(Time::Format("%d/%m/%Y %H:%M"))),
            ("date", r#"["soon"]"#, None),
            ("date", "[null]", None),
        ];
        for (name, values, expect) in cases {
            let values: Vec<Value> = serde_json::from_str(values).unwrap();
            let rows: Vec<Map<String, Value>> =
                values.into_iter().map(|value| Map::from_iter([(name.to_string(), value)])).collect();
            assert_eq!(columns(&rows, false)[0].time, expect, "{name} {rows:?}");
        }
    }

    #[test]
    fn columns_have_their_roles() {
        let rows = rows(
            r#"[{"id":"a1","type":"bought","customer_no":"007","contact":"ann@example.com","mobile":"+4930123456","at":"2026-03-01T10:00:00Z","order_id":"1","total":5},
                {"id":"a2","type":"bought","customer_no":"008","contact":"bob@example.com","mobile":"+4930123457","at":"2026-03-01T10:00:00Z","order_id":"2","total":5}]"#,
        );
        let columns = columns(&rows, false);
        let identifier = |name: &str| Role::Identifier(name.to_string());
        let expect = [
            ("id", Role::MessageId),
            ("type", Role::Event),
            ("customer_no", identifier("customer_no")),
            ("contact", identifier("email")),
            ("mobile", identifier("phone")),
            ("at", Role::Time),
            ("order_id", Role::Property),
            ("total", Role::Property),
        ];
        let roles = roles(&columns);
        for (name, role) in expect {
            let index = columns.iter().position(|column| column.name == name).unwrap();
            assert_eq!(roles[index], role, "{name}");
        }
    }

    #[test]
    fn the_envelope_is_told_from_tables_with_the_same_names() {
        let cases = [
            (r#"[{"type":"track","event":"A","userId":"1","properties":{}}]"#, true),
            (r#"[{"type":"identify","user_id":"1","traits":{}}]"#, true),
            (r#"[{"event":"A","anonymous_id":"1","properties":{},"integrations":{},"_metadata":{}}]"#, true),
            (r#"[{"type":"track","event":"A","userId":"1","total":5}]"#, false),
            (r#"[{"event":"A","user_id":"1"}]"#, false),
            (r#"[{"type":"bought","user_id":"1"}]"#, false),
        ];
        for (json, expect) in cases {
            assert_eq!(is_envelope(&rows(json)), expect, "{json}");
        }
    }
}
