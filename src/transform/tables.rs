//! Tables for `enrich`: a CSV file, looked up by a key. Loaded whole; [`Table::reload`] is called by whoever owns a
//! clock, and a file that cannot be read leaves what was loaded before.

use std::collections::HashMap;

use super::{TablePlan, TransformError};
use crate::decode::csv::{Cell, parse_cell};
use crate::decode::json_text::{shorten, write_string};
use crate::event::ValueType;

/// A loaded table.
pub struct Table {
    plan: TablePlan,
    key_type: ValueType,
    /// Key to the row's columns as a JSON object.
    rows: HashMap<String, String>,
}

impl Table {
    /// # Errors
    /// The file cannot be read, a column is missing, a cell does not have its declared type, a key comes twice.
    pub fn load(plan: &TablePlan) -> Result<Table, TransformError> {
        let key_column = plan.columns.iter().find(|(name, _)| *name == plan.key);
        let key_type = key_column.map_or(ValueType::String, |(_, value_type)| *value_type);
        let rows = read(plan, key_type)?;
        Ok(Table { plan: plan.clone(), key_type, rows })
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// As for `load`; what was there stays.
    pub fn reload(&mut self) -> Result<(), TransformError> {
        self.rows = read(&self.plan, self.key_type)?;
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// The type a key is compared as.
    pub fn key_type(&self) -> ValueType {
        self.key_type
    }

    /// The row with this key, as a JSON object. The key is the text of a value of `key_type`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.rows.get(key).map(String::as_str)
    }
}

fn read(plan: &TablePlan, key_type: ValueType) -> Result<HashMap<String, String>, TransformError> {
    let fail = |line: u64, reason: String| TransformError::Table {
        table: plan.name.clone(),
        file: plan.file.clone(),
        line,
        reason,
    };
    let mut reader = csv::Reader::from_path(&plan.file).map_err(|error| fail(0, format!("cannot be read: {error}")))?;
    let headers = reader.headers().map_err(|error| fail(1, error.to_string()))?.clone();
    let find = |name: &str| {
        let position = headers.iter().position(|header| header.trim() == name);
        let there = || headers.iter().collect::<Vec<_>>().join(", ");
        position.ok_or_else(|| fail(1, format!("has no column {name:?}; its columns are {}", there())))
    };
    let key_index = find(&plan.key)?;
    let columns: Result<Vec<_>, TransformError> =
        plan.columns.iter().map(|(name, value_type)| Ok((name, *value_type, find(name)?))).collect();
    let columns = columns?;
    let mut rows = HashMap::new();
    let mut record = csv::StringRecord::new();
    loop {
        let more = reader.read_record(&mut record).map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            fail(line, error.to_string())
        })?;
        if !more {
            return Ok(rows);
        }
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |name: &str, value_type, index| {
            let text = record.get(index).unwrap_or_default();
            parse_cell(text, value_type)
                .map_err(|wanted| fail(line, format!("column {name}: expected {wanted}, found {:?}", shorten(text))))
        };
        let mut object = String::from("{");
        for (name, value_type, index) in &columns {
            if object.len() > 1 {
                object.push(',');
            }
            write_string(&mut object, name);
            object.push(':');
            write_cell(&mut object, &cell(name, *value_type, *index)?);
        }
        object.push('}');
        let key = match cell(&plan.key, key_type, key_index)? {
            Cell::Null => return Err(fail(line, format!("the key {} is empty", plan.key))),
            Cell::String(text) | Cell::Json(text) => text.to_string(),
            other => {
                let mut text = String::new();
                write_cell(&mut text, &other);
                text
            }
        };
        if rows.contains_key(&key) {
            return Err(fail(line, format!("the key {:?} comes a second time", shorten(&key))));
        }
        rows.insert(key, object);
    }
}

fn write_cell(out: &mut String, cell: &Cell<'_>) {
    match cell {
        Cell::Null => out.push_str("null"),
        Cell::String(text) => write_string(out, text),
        Cell::Long(value) => out.push_str(itoa::Buffer::new().format(*value)),
        Cell::Double(value) => out.push_str(ryu::Buffer::new().format(*value)),
        Cell::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        Cell::Timestamp(time) => {
            let time = chrono::DateTime::from_timestamp_micros(*time).unwrap_or_default();
            write_string(out, &time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
        }
        Cell::Json(text) => out.push_str(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn plan(content: &str, key: &str) -> (tempfile::NamedTempFile, TablePlan) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let columns = [("sku", ValueType::Long), ("category", ValueType::String), ("margin", ValueType::Double)];
        let columns = columns.iter().map(|(name, value_type)| (name.to_string(), *value_type)).collect();
        let plan =
            TablePlan { name: "catalogue".into(), file: file.path().into(), key: key.into(), columns, reload: None };
        (file, plan)
    }

    #[test]
    fn rows_are_found_by_their_typed_key() {
        let (_file, plan) = plan("category,margin,sku,other\ntoys,0.5, 7 ,x\n\"a \"\"b\"\"\",,8,y\n", "sku");
        let table = Table::load(&plan).unwrap();
        assert_eq!(table.get("7"), Some(r#"{"sku":7,"category":"toys","margin":0.5}"#));
        assert_eq!(table.get("8"), Some(r#"{"sku":8,"category":"a \"b\"","margin":null}"#));
        assert_eq!(table.get("9"), None);
    }

    #[test]
    fn a_bad_table_says_where() {
        for (content, key, expect) in [
            ("sku,category\n1,a\n", "sku", "has no column \"margin\""),
            ("sku,category,margin\n1,a,x\n", "sku", "line 2): column margin: expected a number"),
            ("sku,category,margin\n1,a,1\n1,b,2\n", "sku", "line 3): the key \"1\" comes a second time"),
            ("sku,category,margin\n1,a,1\n", "id", "has no column \"id\""),
            ("sku,category,margin\n,a,1\n", "sku", "the key sku is empty"),
            ("sku,category,margin\n1,a\n", "sku", "line 2"),
        ] {
            let (_file, plan) = plan(content, key);
            let error = Table::load(&plan).err().unwrap().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn a_failed_reload_keeps_what_was_there() {
        let (file, plan) = plan("sku,category,margin\n1,a,1\n", "sku");
        let mut table = Table::load(&plan).unwrap();
        std::fs::write(file.path(), "sku,category,margin\n1,b,bad\n").unwrap();
        assert!(table.reload().is_err());
        assert!(table.get("1").unwrap().contains("\"a\""));
        std::fs::write(file.path(), "sku,category,margin\n1,b,2\n").unwrap();
        table.reload().unwrap();
        assert!(table.get("1").unwrap().contains("\"b\""));
    }
}
