//! SQL over the lake or ClickHouse: the same tables, the same views, the same functions.

mod analyze;
mod files;
mod functions;
mod hash;
mod history;
mod json;
mod lake;
#[cfg(feature = "serve-sql")]
mod postgres;
mod recompute;
mod render;

use arrow::array::RecordBatch;
use clickhouse_ext_arrow::{ArrowCursor, ArrowQueryExt as _};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;

pub use analyze::{analyze, analyze_in};
pub use files::{LakeFile, duckdb_script, lake_files};
pub use history::TableHistory;
pub use lake::{lake_context, memory_context, run};
#[cfg(feature = "serve-sql")]
pub use postgres::{Limits, serve};
pub use recompute::{group_members_sql, group_traits_sql, members_sql, traits_sql};
pub use render::{Output, render};

use crate::sink::clickhouse;

/// Where a query runs.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// The data folder or URL that the lake is in.
    Lake {
        root: String,
    },
    ClickHouse {
        url: String,
        database: String,
        user: Option<String>,
        password: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The statement is at fault.
    #[error("{0}")]
    Sql(String),
    /// The tables cannot be reached, or are not there yet.
    #[error("{0}")]
    Unavailable(String),
}

/// Runs one reading statement. At least one batch comes back, if an empty one, so that the columns are known.
///
/// # Errors
/// [`QueryError::Sql`] names what is wrong in the statement and the nearest table or column there is.
pub async fn query(target: &Target, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
    rows(target, sql).await?.collect().await
}

/// What a statement gives, batch by batch: more than memory holds can be gone through.
enum Rows {
    Lake(SessionContext, SendableRecordBatchStream),
    ClickHouse { url: String, cursor: ArrowCursor },
}

async fn rows(target: &Target, sql: &str) -> Result<Rows, QueryError> {
    let sql = sql.trim().trim_end_matches(';');
    match target {
        Target::Lake { root } => lake::rows(&lake_context(root).await?, sql).await,
        Target::ClickHouse { url, database, user, password } => {
            let client = clickhouse::client(url, user.as_deref(), password.as_deref()).with_database(database);
            let cursor = client
                .query_raw(sql)
                .with_setting("output_format_arrow_string_as_string", "1")
                .with_setting("output_format_arrow_low_cardinality_as_dictionary", "0")
                // The start of an hour is a time then; a `DateTime` would come as a plain number.
                .with_setting("enable_extended_results_for_datetime_functions", "1")
                .with_setting("readonly", "2") // reads only, settings allowed
                // A person may have been known by thousands of ids, and a query about them lists them all.
                .with_setting("max_query_size", "67108864")
                .with_setting("max_ast_elements", "1000000")
                .with_setting("max_expanded_ast_elements", "1000000")
                .fetch_arrow()
                .map_err(|error| of_clickhouse(url, &error))?;
            Ok(Rows::ClickHouse { url: url.clone(), cursor })
        }
    }
}

impl Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        match self {
            Rows::Lake(context, stream) => stream.try_next().await.map_err(|error| lake::failed(context, &error)),
            Rows::ClickHouse { url, cursor } => cursor.next().await.map_err(|error| of_clickhouse(url, &error)),
        }
    }

    async fn collect(mut self) -> Result<Vec<RecordBatch>, QueryError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        let schema = match &self {
            Rows::Lake(_, stream) => Some(stream.schema()),
            Rows::ClickHouse { cursor, .. } => cursor.schema(),
        };
        if let (true, Some(schema)) = (batches.is_empty(), schema) {
            batches.push(RecordBatch::new_empty(schema));
        }
        Ok(batches)
    }
}

fn of_clickhouse(url: &str, error: &::clickhouse::error::Error) -> QueryError {
    let text = clickhouse::readable(error);
    match clickhouse::exception_code(error) {
        // Credentials, missing database, server overloaded: not the statement.
        Some(81 | 192..=194 | 202 | 241 | 497 | 516) | None => {
            QueryError::Unavailable(format!("clickhouse {url}: {text}"))
        }
        Some(_) => QueryError::Sql(text),
    }
}
