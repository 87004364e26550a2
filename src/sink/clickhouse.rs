//! Tables in ClickHouse, exactly once.
//!
//! A shipment of a table is one INSERT of one Arrow batch, which the server makes one block and, because tables have no
//! partitions, one part: it is there as a whole or not at all. Two things together make it exactly-once:
//!
//! - a *token* (hash of pipeline, state, table and range): a second insert with it adds nothing while the
//!   server remembers it (10,000 inserts);
//! - a *probe*: while the fate of a range may be unknown (the first after a start, any after an error) a query that may
//!   still run is killed, and the rows of these commits are counted before anything is sent again.
//!
//! Neither is enough alone: an insert that timed out can commit after a probe, and tokens are forgotten.
//!
//! `Retry` is everything that a working server may answer later, including what a person must repair there
//! (permissions, a dropped table): nothing is lost while it waits. `Fatal` is a contradiction between definitions and
//! tables, or more rows than were sealed.

mod ddl;

use std::future::Future;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use clickhouse::{Client, Compression};
use clickhouse_ext_arrow::ArrowClientExt as _;
use sha2::{Digest, Sha256};

use super::views::{Dialect, quoted, views};
use super::{CommitRange, SinkError, Table, TableSink};

/// A whole insert: sending, writing, syncing.
const INSERT_TIMEOUT: Duration = Duration::from_secs(330);
/// Everything else.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

pub struct ClickHouseSink {
    client: Client,
    database: String,
    pipeline: String,
    generation: String,
    /// Whether the next range may have been sent before: true at the start and after anything but success.
    uncertain: bool,
}

impl ClickHouseSink {
    /// Connects to nothing yet. `generation` is the id of the state whose commits are shipped, made when that state was
    /// created: another state counts its commits anew, so its rows must not be taken for rows that are there.
    pub fn new(
        url: &str,
        database: &str,
        user: Option<&str>,
        password: Option<&str>,
        pipeline: &str,
        generation: &str,
    ) -> Self {
        ClickHouseSink {
            client: client(url, user, password),
            database: database.to_string(),
            pipeline: pipeline.to_string(),
            generation: generation.to_string(),
            uncertain: true,
        }
    }

    /// The client for statements inside the database.
    fn inside(&self) -> Client {
        self.client.clone().with_database(&self.database)
    }

    async fn execute(&self, client: &Client, what: &str, sql: &str) -> Result<(), SinkError> {
        bounded(what, STATEMENT_TIMEOUT, client.query_raw(sql).execute()).await
    }

    /// Refuses a database that another state wrote into.
    async fn claim(&self, client: &Client) -> Result<(), SinkError> {
        self.execute(client, "create table tributary_state", ddl::STATE.trim().trim_end_matches(';')).await?;
        let read = client.query_raw("SELECT pipeline, generation FROM tributary_state").fetch_all::<(String, String)>();
        let found = bounded("read tributary_state", STATEMENT_TIMEOUT, read).await?;
        if found.iter().any(|(_, generation)| *generation == self.generation) {
            return Ok(());
        }
        if let Some((pipeline, generation)) = found.first() {
            return Err(SinkError::Fatal(format!(
                "database {}: its rows come from another state (pipeline {pipeline}, state {generation}; this is \
                 pipeline {}, state {}), whose commits count differently; use an empty database or the state they come from",
                self.database, self.pipeline, self.generation
            )));
        }
        let insert = client.query("INSERT INTO tributary_state (pipeline, generation) VALUES (?, ?)");
        let insert = insert.bind(&self.pipeline).bind(&self.generation).execute();
        bounded("write tributary_state", STATEMENT_TIMEOUT, insert).await
    }

    /// Creates the table if it is missing, adds the columns it lacks, refuses those of another type.
    async fn prepare_table(&self, client: &Client, table: &Table) -> Result<(), SinkError> {
        let create = ddl::create_table(table).map_err(SinkError::Fatal)?;
        self.execute(client, &format!("create table {}", table.name), &create).await?;
        let read = client
            .query("SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = ?")
            .bind(&table.name)
            .fetch_all::<(String, String)>();
        let existing = bounded(&format!("read columns of {}", table.name), STATEMENT_TIMEOUT, read).await?;
        for field in table.schema.fields() {
            match existing.iter().find(|(name, _)| name == field.name()) {
                None => {
                    let add = ddl::add_column(table, field).map_err(SinkError::Fatal)?;
                    self.execute(client, &format!("add column {} to {}", field.name(), table.name), &add).await?;
                }
                Some((name, column_type)) => {
                    let wanted = ddl::column_type(field).unwrap_or_default();
                    if ddl::base_type(column_type) != ddl::base_type(&wanted) {
                        return Err(SinkError::Fatal(format!(
                            "table {0}, column {name}: the table has {column_type}, the definitions give {wanted}; give \
                             it another name in the definitions, or set the old values aside: ALTER TABLE {0} RENAME \
                             COLUMN {1} TO {2}",
                            table.name,
                            quoted(name),
                            quoted(&format!("{name}_old")),
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    async fn ship_table(
        &self,
        range: CommitRange,
        table: &Table,
        batch: &RecordBatch,
        uncertain: bool,
    ) -> Result<(), SinkError> {
        let client = self.inside();
        let shipment = Shipment::of(&self.pipeline, &self.generation, &table.name, range);
        if uncertain {
            shipment.kill(&client).await;
            if shipment.is_there(&client, batch.num_rows()).await? {
                return Ok(());
            }
        }
        shipment.send(&client, batch).await?;
        // A token can be spent while its rows are not there: someone removed them by hand. Say so instead of going on.
        if uncertain && !shipment.is_there(&client, batch.num_rows()).await? {
            return Err(SinkError::Retry(format!(
                "{shipment}: acknowledged, but the table holds fewer than the {} rows sent; were rows removed by hand? \
                 they come back once the server has forgotten token {}",
                batch.num_rows(),
                shipment.token
            )));
        }
        Ok(())
    }
}

/// A client as every part of the house uses it. Compression is off: the batches are sealed as they are sent, and
/// ClickHouse is usually near.
pub(crate) fn client(url: &str, user: Option<&str>, password: Option<&str>) -> Client {
    let mut client = Client::default().with_url(url).with_compression(Compression::None);
    if let Some(user) = user {
        client = client.with_user(user);
    }
    if let Some(password) = password {
        client = client.with_password(password);
    }
    client
}

#[async_trait]
impl TableSink for ClickHouseSink {
    async fn prepare(&mut self, tables: &[Table]) -> Result<(), SinkError> {
        let create = format!("CREATE DATABASE IF NOT EXISTS {}", quoted(&self.database));
        self.execute(&self.client, &format!("create database {}", self.database), &create).await?;
        let client = self.inside();
        self.claim(&client).await?;
        for table in tables {
            self.prepare_table(&client, table).await?;
        }
        for view in views(tables, Dialect::ClickHouse) {
            let create = format!("CREATE OR REPLACE VIEW {} AS {}", quoted(&view.name), view.sql);
            self.execute(&client, &format!("create view {}", view.name), &create).await?;
        }
        Ok(())
    }

    async fn ship(&mut self, range: CommitRange, rows: &[(Table, RecordBatch)]) -> Result<(), SinkError> {
        // Until all is well, and also when this future is dropped on the way: the next call must probe.
        let uncertain = std::mem::replace(&mut self.uncertain, true);
        for (table, batch) in rows.iter().filter(|(_, batch)| batch.num_rows() > 0) {
            self.ship_table(range, table, batch, uncertain).await?;
        }
        self.uncertain = false;
        Ok(())
    }

    async fn maintain(&mut self) -> Result<(), SinkError> {
        Ok(()) // the server merges by itself
    }
}

/// One table's rows of one range: what names it to the server.
struct Shipment<'a> {
    table: &'a str,
    range: CommitRange,
    token: String,
    query_id: String,
}

impl std::fmt::Display for Shipment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "insert into {}, commits {} to {}", self.table, self.range.after + 1, self.range.upto)
    }
}

impl<'a> Shipment<'a> {
    fn of(pipeline: &str, generation: &str, table: &'a str, range: CommitRange) -> Self {
        let mut hash = Sha256::new();
        for part in [pipeline, generation, table, &range.after.to_string(), &range.upto.to_string()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let token = hash.finalize().iter().take(16).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let query_id = format!("tributary-{table}-{}-{}-{token}", range.after, range.upto);
        Shipment { table, range, token, query_id }
    }

    /// Ends an earlier insert of the same rows that may still run. It may be refused (no permission, another
    /// replica): then the token alone guards against an insert that commits after the probe.
    async fn kill(&self, client: &Client) {
        let sql = format!("KILL QUERY WHERE query_id = '{}' SYNC", self.query_id.replace(['\'', '\\'], ""));
        if let Err(error) = bounded("kill query", STATEMENT_TIMEOUT, client.query_raw(&sql).execute()).await {
            tracing::debug!(query_id = self.query_id, %error, "an earlier insert could not be looked for");
        }
    }

    /// Whether all rows of the range are in the table.
    async fn is_there(&self, client: &Client, sealed: usize) -> Result<bool, SinkError> {
        let sql = format!(
            "SELECT count() FROM {} WHERE _batch > {} AND _batch <= {}",
            quoted(self.table),
            self.range.after,
            self.range.upto
        );
        let what = format!("count rows of {}", self.table);
        let count = bounded(&what, STATEMENT_TIMEOUT, client.query_raw(&sql).fetch_one::<u64>()).await?;
        if count > sealed as u64 {
            return Err(SinkError::Fatal(format!(
                "table {}: holds {count} rows of commits {} to {} although only {sealed} were made; another writer uses \
                 this table, or rows were copied: find them by _batch and _seq, remove them, start again",
                self.table,
                self.range.after + 1,
                self.range.upto
            )));
        }
        Ok(count == sealed as u64)
    }

    async fn send(&self, client: &Client, batch: &RecordBatch) -> Result<(), SinkError> {
        let rows = batch.num_rows().max(1).to_string();
        let settings = [
            ("insert_deduplication_token", self.token.as_str()),
            ("query_id", self.query_id.as_str()),
            ("async_insert", "0"),
            ("insert_deduplicate", "1"),
            ("wait_end_of_query", "1"),
            // One block: nothing is flushed before the batch has come whole, and it is not cut.
            ("max_insert_block_size", rows.as_str()),
            ("min_insert_block_size_rows", rows.as_str()),
            ("min_insert_block_size_bytes", "0"),
            ("max_insert_threads", "1"),
        ];
        let client = settings.iter().fold(client.clone(), |client, (name, value)| client.with_setting(*name, *value));
        let insert = async {
            let mut insert = client.insert_arrow(self.table)?;
            insert.write(batch).await?;
            insert.end().await
        };
        bounded(&self.to_string(), INSERT_TIMEOUT, insert).await
    }
}

/// A call with its time limit, and its error in our terms.
async fn bounded<T>(
    what: &str,
    timeout: Duration,
    call: impl Future<Output = Result<T, clickhouse::error::Error>>,
) -> Result<T, SinkError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(result) => result.map_err(|error| classified(what, &error)),
        Err(_) => Err(SinkError::Retry(format!("clickhouse: {what}: no answer within {} s", timeout.as_secs()))),
    }
}

/// Retry or stop: decided here alone.
fn classified(what: &str, error: &clickhouse::error::Error) -> SinkError {
    let text = readable(error);
    let Some(code) = exception_code(error) else {
        return SinkError::Retry(format!("clickhouse: {what}: {text}")); // network, proxy, timeout
    };
    let hint = match code {
        // Repaired by a person on the server, and nothing is lost until then.
        192..=194 | 497 | 516 => "check the user, the password and its grants on the database",
        60 | 81 => "the table or database is gone; a restart creates what is missing",
        16 => "a column is gone; a restart adds what is missing",
        252 => "merges are behind; it goes on when they have caught up",
        241 => "the server is out of memory",
        243 => "the server's disk is full",
        // The statement or the values contradict the table: sending again cannot help.
        //  43, 44 wrong column or argument type; 53 type mismatch; 57 exists as something else; 62 syntax; 70 cannot
        //  convert; 80 incorrect query; 349 null into a column without nulls; 407 decimal overflow
        43 | 44 | 50 | 53 | 57 | 62 | 70 | 80 | 349 | 407 => {
            return SinkError::Fatal(format!("clickhouse: {what}: {text}"));
        }
        _ => return SinkError::Retry(format!("clickhouse: {what}: {text}")),
    };
    SinkError::Retry(format!("clickhouse: {what}: {text}; {hint}"))
}

/// The number in `Code: 60. DB::Exception: …`.
pub(crate) fn exception_code(error: &clickhouse::error::Error) -> Option<u32> {
    let clickhouse::error::Error::BadResponse(text) = error else { return None };
    let digits = text.split_once("Code: ")?.1;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The exception's text without its frame.
pub(crate) fn readable(error: &clickhouse::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let text = text.split_once("DB::Exception: ").map_or(text.as_str(), |(_, rest)| rest);
    let text = text.split_once(" (version ").map_or(text, |(rest, _)| rest);
    text.trim().trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests;
