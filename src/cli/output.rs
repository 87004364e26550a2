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
    print(&query::render(batches, format).map_err(Failure::fatal)?);
    Ok(())
}
