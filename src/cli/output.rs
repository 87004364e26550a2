//! What the program prints: data on stdout, everything for people beside it on stderr.

use std::io::{IsTerminal, Write};

use arrow::array::RecordBatch;
use clap::ValueEnum;

use super::Failure;
use crate::query;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Csv,
}

impl Output {
    /// The one asked for, else a table on a terminal and csv in a pipe.
    pub fn or_default(asked: Option<Output>) -> Output {
        let default = if std::io::stdout().is_terminal() { Output::Table } else { Output::Csv };
        asked.unwrap_or(default)
    }
}

/// A line for people, on stderr.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Data, on stdout. A reader that has gone away (`| head`) is not an error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
}

/// Batches of rows in the form asked for.
pub fn print_batches(batches: &[RecordBatch], output: Option<Output>) -> Result<(), Failure> {
    let format = match Output::or_default(output) {
        Output::Table => query::Output::Table,
        Output::Json => query::Output::Json,
        Output::Csv => query::Output::Csv,
    };
    let text = query::render(batches, format).map_err(Failure::fatal)?;
    // No rows are no lines of JSON, not an empty one.
    if !text.is_empty() {
        print(&text);
    }
    Ok(())
}

/// Rows of text in the form asked for.
pub fn render<const N: usize>(header: &[&str; N], rows: &[[String; N]], output: Output) -> String {
    match output {
        Output::Table => {
            let mut table = comfy_table::Table::new();
            table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
            // As wide as the terminal, where there is one.
            table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
            rows.iter().for_each(|row| {
                table.add_row(row);
            });
            table.to_string()
        }
        Output::Csv => {
            let mut writer = csv::Writer::from_writer(Vec::new());
            let _ = writer.write_record(header);
            rows.iter().for_each(|row| {
                let _ = writer.write_record(row);
            });
            writer.into_inner().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        }
        Output::Json => rows
            .iter()
            .map(|row| {
                let object: serde_json::Map<String, serde_json::Value> =
                    header.iter().zip(row).map(|(name, value)| (name.to_string(), value.clone().into())).collect();
                serde_json::Value::Object(object).to_string() + "\n"
            })
            .collect(),
    }
}
