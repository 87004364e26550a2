//! What values were seen at a place, and the Avro type that holds them all.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::decode::time::parse_time;

/// The values at one place of many JSON objects.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// How often there was a value, null included.
    pub seen: u64,
    pub nulls: u64,
    booleans: u64,
    longs: u64,
    doubles: u64,
    texts: u64,
    /// Texts that are a date and a time.
    times: u64,
    lists: u64,
    items: Option<Box<Shape>>,
    records: u64,
    pub fields: BTreeMap<String, Shape>,
}

impl Shape {
    pub fn add(&mut self, value: &Value) {
        self.seen += 1;
        match value {
            Value::Null => self.nulls += 1,
            Value::Bool(_) => self.booleans += 1,
            Value::Number(number) if number.is_i64() => self.longs += 1,
            Value::Number(_) => self.doubles += 1,
            Value::String(text) => {
                self.texts += 1;
                let time = text.len() >= 19 && text.as_bytes()[10] == b'T' && parse_time(text).is_some();
                self.times += u64::from(time);
            }
            Value::Array(items) => {
                self.lists += 1;
                let shape = self.items.get_or_insert_default();
                items.iter().for_each(|item| shape.add(item));
            }
            Value::Object(entries) => {
                self.records += 1;
                self.add_fields(entries);
            }
        }
    }

    fn add_fields(&mut self, entries: &Map<String, Value>) {
        for (name, value) in entries {
            match self.fields.get_mut(name) {
                Some(field) => field.add(value),
                None => self.fields.entry(name.clone()).or_default().add(value),
            }
        }
    }

    /// The Avro record of these objects. Names that Avro cannot have are left out: what a contract does not know is fine.
    pub fn record(&self, name: &str, times: bool) -> Value {
        let mut names = Vec::new();
        self.record_named(name, times, &mut names)
    }

    fn record_named(&self, name: &str, times: bool, names: &mut Vec<String>) -> Value {
        let mut unique = camel(name);
        while names.contains(&unique) {
            unique.push('_');
        }
        names.push(unique.clone());
        let fields = self.fields.iter().filter(|(field, _)| is_name(field)).map(|(field, shape)| {
            let inner = format!("{name} {field}");
            let holds = shape.avro(&inner, times, names);
            if shape.nulls == 0 && shape.seen == self.records {
                return json!({ "name": field, "type": holds });
            }
            let mut types = vec![json!("null")];
            match holds {
                Value::Array(all) => types.extend(all),
                one => types.push(one),
            }
            json!({ "name": field, "type": types, "default": null })
        });
        let fields: Vec<Value> = fields.collect();
        json!({ "type": "record", "name": unique, "fields": fields })
    }

    /// The type of the values that are not null; an array of several.
    fn avro(&self, name: &str, times: bool, names: &mut Vec<String>) -> Value {
        let mut types = Vec::new();
        if self.booleans > 0 {
            types.push(json!("boolean"));
        }
        match (self.longs, self.doubles) {
            (0, 0) => {}
            (_, 0) => types.push(json!("long")),
            _ => types.push(json!("double")),
        }
        if times && self.times > 0 && self.times == self.seen - self.nulls {
            types.push(json!({ "type": "long", "logicalType": "timestamp-micros" }));
        } else if self.texts > 0 {
            types.push(json!("string"));
        }
        if let Some(items) = &self.items {
            let mut holds = items.avro(name, times, names);
            if items.nulls > 0 {
                holds = match holds {
                    Value::Array(all) => std::iter::once(json!("null")).chain(all).collect(),
                    one => json!(["null", one]),
                };
            }
            types.push(json!({ "type": "array", "items": holds }));
        }
        if self.records > 0 {
            types.push(self.record_named(name, times, names));
        }
        match types.len() {
            // Nothing but nulls, or the items of empty lists.
            0 => json!("string"),
            1 => types.remove(0),
            _ => Value::Array(types),
        }
    }

    /// A value that the record takes, for a test: of its required fields alone.
    pub fn example(&self) -> Value {
        if self.records > 0 {
            let required = self.fields.iter().filter(|(name, shape)| is_name(name) && self.requires(shape));
            return Value::Object(required.map(|(name, shape)| (name.clone(), shape.example())).collect());
        }
        match self {
            shape if shape.texts > 0 && shape.times == shape.texts => json!("2026-01-01T00:00:00Z"),
            shape if shape.texts > 0 => json!("a text"),
            shape if shape.doubles > 0 => json!(1.5),
            shape if shape.longs > 0 => json!(1),
            shape if shape.booleans > 0 => json!(true),
            shape if shape.lists > 0 => json!([]),
            _ => json!("a text"),
        }
    }

    fn requires(&self, field: &Shape) -> bool {
        field.nulls == 0 && field.seen == self.records
    }
}

/// A name that Avro can have.
pub fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `Order Completed`, `order_completed` → `OrderCompleted`.
pub fn camel(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut out = String::new();
    for word in words {
        let (first, rest) = word.split_at(1);
        out.push_str(&first.to_ascii_uppercase());
        out.push_str(rest);
    }
    if out.starts_with(|c: char| c.is_ascii_alphabetic()) { out } else { format!("Record{out}") }
}

/// `Order Completed`, `OrderCompleted` → `order_completed`: a name of our own.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            let word = c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit());
            if (word || !before.is_ascii_alphanumeric()) && !out.is_empty() && !out.ends_with('_') {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        }
        before = c;
    }
    if out.starts_with(|c: char| c.is_ascii_lowercase()) {
        out
    } else {
        format!("x_{out}").trim_end_matches('_').to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::contract::CompiledContract;

    #[test]
    fn the_record_takes_all_that_was_seen() {
        // (objects, the record's fields)
        let rows = [
            (r#"[{"a":1},{"a":2}]"#, r#"[{"name":"a","type":"long"}]"#),
            (r#"[{"a":1},{"a":2.5}]"#, r#"[{"name":"a","type":"double"}]"#),
            (r#"[{"a":1},{}]"#, r#"[{"name":"a","type":["null","long"],"default":null}]"#),
            (r#"[{"a":null}]"#, r#"[{"name":"a","type":["null","string"],"default":null}]"#),
            (r#"[{"a":1},{"a":"x"},{"a":true}]"#, r#"[{"name":"a","type":["boolean","long","string"]}]"#),
            (
                r#"[{"a":"2026-03-01T10:00:00Z"}]"#,
                r#"[{"name":"a","type":{"type":"long","logicalType":"timestamp-micros"}}]"#,
            ),
            (r#"[{"a":"2026-03-01T10:00:00Z"},{"a":"soon"}]"#, r#"[{"name":"a","type":"string"}]"#),
            (r#"[{"a":[]},{"a":[1,null]}]"#, r#"[{"name":"a","type":{"type":"array","items":["null","long"]}}]"#),
            (
                r#"[{"a":{"b":"x"}},{"a":{"b":"x","c":1}}]"#,
                r#"[{"name":"a","type":{"type":"record","name":"EventNameA","fields":[{"name":"b","type":"string"},{"name":"c","type":["null","long"],"default":null}]}}]"#,
            ),
            (r#"[{"$a":1,"b c":2}]"#, "[]"),
        ];
        for (objects, fields) in rows {
            let objects: Vec<Value> = serde_json::from_str(objects).unwrap();
            let mut shape = Shape::default();
            objects.iter().for_each(|object| shape.add(object));
            let record = shape.record("event name", true);
            assert_eq!(record["fields"], serde_json::from_str::<Value>(fields).unwrap(), "{objects:?}");
            let contract = CompiledContract::compile(&record.to_string()).unwrap();
            for object in objects.iter().chain([&shape.example()]) {
                contract.check(&object.to_string()).unwrap();
            }
        }
    }

    #[test]
    fn names_of_all_kinds() {
        // (name, as a record, as a name of our own)
        let rows = [
            ("Order Completed", "OrderCompleted", "order_completed"),
            ("OrderCompleted", "OrderCompleted", "order_completed"),
            ("cart.item-added!", "CartItemAdded", "cart_item_added"),
            ("2nd visit", "Record2ndVisit", "x_2nd_visit"),
            ("ÄÖ", "Record", "x"),
            ("userID", "UserID", "user_id"),
        ];
        for (name, record, own) in rows {
            assert_eq!((camel(name).as_str(), snake(name).as_str()), (record, own), "{name}");
        }
    }
}
