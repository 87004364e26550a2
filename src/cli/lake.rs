//! `lake`: what other tools need to read the tables.

use clap::Subcommand;

use super::output::{Output, print, render};
use super::{Exit, Failure, Global, NodeConfig, run};
use crate::definition::Mode;
use crate::query::{self, QueryError, Target};

#[derive(Debug, Subcommand)]
pub enum LakeCommand {
    /// The Parquet files that count now: of one table one path per line, else of all
    Files {
        /// The table
        table: Option<String>,
    },
    /// All tables and views as SQL for DuckDB
    Duckdb,
}

pub async fn lake(global: &Global, config: &NodeConfig, command: LakeCommand) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    let Target::Lake { root } = run::tables_of(&pipeline, config) else {
        return Err(Failure::findings(
            "this pipeline writes into ClickHouse and has no lake: let other tools connect to ClickHouse itself",
        ));
    };
    let failed = |error: QueryError| match error {
        QueryError::Sql(_) => Failure::findings(error),
        QueryError::Unavailable(_) => Failure::environment(error),
    };
    match command {
        LakeCommand::Files { table } => {
            let files = query::lake_files(&root, table.as_deref()).await.map_err(failed)?;
            if table.is_some() {
                files.iter().for_each(|file| print(&file.path));
            } else {
                let row = |file: &query::LakeFile| {
                    [file.table.clone(), file.rows.to_string(), file.bytes.to_string(), file.path.clone()]
                };
                let rows: Vec<[String; 4]> = files.iter().map(row).collect();
                print(&render(&["table", "rows", "bytes", "path"], &rows, Output::or_default(global.output)));
            }
        }
        LakeCommand::Duckdb => print(&query::duckdb_script(&root).await.map_err(failed)?),
    }
    Ok(Exit::Well)
}
