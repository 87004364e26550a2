//! Tables in ClickHouse, exactly once.
//!
//! A shipment of a table is one INSERT of one Arrow batch, which the server makes one block and, because tables have no
//! partitions, one part: it is there as a whole or not at all. [`shipment`](super::shipment) says how that becomes exactly
//! once; the server remembers a token for 10,000 inserts.
//!
//! `Retry` is everything that a working server may answer later, including what a person must repair there
//! (permissions, a dropped table): nothing is lost while it waits. `Fatal` is a contradiction between definitions and
//! tables, or more rows than were sealed.

mod ddl;
mod rollups;

use std::future::Future;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use clickhouse::{Client, Compression};
use clickhouse_ext_arrow::ArrowClientExt as _;

use self::rollups::{ROLLUPS, Rollup};
use super::shipment::{Inserts, Shipment, Shipping};
use super::views::{Dialect, quoted, views};
use super::{CommitRange, SinkError, Table, TableSink};
use crate::failpoint::{self, Point};

/// A whole insert: sending, writing, syncing.
const INSERT_TIMEOUT: Duration = Duration::from_secs(330);
/// What a rollup makes of all that is there, once.
const FILL_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Everything else.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

pub struct ClickHouseSink {
    /// Without a password: definitions refuse one in a URL.
    url: String,
    client: Client,
    database: String,
    pipeline: String,
    generation: String,
    shipping: Shipping,
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
            url: url.to_string(),
            client: client(url, user, password),
            database: database.to_string(),
            pipeline: pipeline.to_string(),
            generation: generation.to_string(),
            shipping: Shipping::new(pipeline, generation),
        }
    }

    async fn prepare_all(&self, tables: &[Table]) -> Result<(), SinkError> {
        let create = format!("CREATE DATABASE IF NOT EXISTS {}", quoted(&self.database));
        self.execute(&self.client, &format!("create database {}", self.database), &create).await?;
        let client = self.inside();
        self.claim(&client).await?;
        for table in tables {
            self.prepare_table(&client, table).await?;
        }
        for rollup in rollups::of(tables) {
            self.prepare_rollup(&client, rollup).await?;
        }
        for view in views(tables, Dialect::ClickHouse) {
            let create = format!("CREATE OR REPLACE VIEW {} AS {}", quoted(&view.name), view.sql);
            self.execute(&client, &format!("create view {}", view.name), &create).await?;
        }
        Ok(())
    }

    fn named(&self, error: SinkError) -> SinkError {
        let named = |text: String| format!("clickhouse {}: {text}", self.url);
        match error {
            SinkError::Retry(text) => SinkError::Retry(named(text)),
            SinkError::Fatal(text) => SinkError::Fatal(named(text)),
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

    /// Creates what is missing of a rollup, and fills it before the view that keeps it up to date is there.
    async fn prepare_rollup(&self, client: &Client, rollup: &Rollup) -> Result<(), SinkError> {
        let (table, feed) = (rollup.table(), rollup.feed());
        let read = client
            .query("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name IN (?, ?)")
            .bind(&table)
            .bind(&feed)
            .fetch_one::<u64>();
        if bounded(&format!("look for {table}"), STATEMENT_TIMEOUT, read).await? == 2 {
            return Ok(());
        }
        // One without the other: someone removed the table, and the view's rows since are nowhere.
        self.execute(client, &format!("drop {feed}"), &format!("DROP VIEW IF EXISTS {}", quoted(&feed))).await?;
        let (create_table, create_feed) = rollup.create();
        self.execute(client, &format!("create table {table}"), create_table).await?;
        tracing::info!(table, "filling it from the rows that are there");
        bounded(&format!("fill {table}"), FILL_TIMEOUT, client.query_raw(&rollup.fill(None)).execute()).await?;
        self.execute(client, &format!("create view {feed}"), create_feed).await
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
        self.prepare_all(tables).await.map_err(|error| self.named(error))
    }

    async fn ship(&mut self, range: CommitRange, rows: &[(Table, RecordBatch)]) -> Result<(), SinkError> {
        let server = Server { client: self.inside() };
        self.shipping.ship(&server, range, rows).await.map_err(|error| self.named(error))
    }

    async fn maintain(&mut self) -> Result<(), SinkError> {
        Ok(()) // the server merges by itself
    }
}

/// The server as inserts see it.
struct Server {
    client: Client,
}

#[async_trait]
impl Inserts for Server {
    async fn kill(&self, shipment: &Shipment) {
        let sql = format!("KILL QUERY WHERE query_id = '{}' SYNC", shipment.query_id.replace(['\'', '\\'], ""));
        if let Err(error) = bounded("kill query", STATEMENT_TIMEOUT, self.client.query_raw(&sql).execute()).await {
            tracing::debug!(query_id = shipment.query_id, %error, "an earlier insert could not be looked for");
        }
    }

    async fn count(&self, shipment: &Shipment) -> Result<u64, SinkError> {
        let sql = format!(
            "SELECT count() FROM {} WHERE _batch > {} AND _batch <= {}",
            quoted(&shipment.table),
            shipment.range.after,
            shipment.range.upto
        );
        let what = format!("count rows of {}", shipment.table);
        bounded(&what, STATEMENT_TIMEOUT, self.client.query_raw(&sql).fetch_one::<u64>()).await
    }

    async fn insert(&self, shipment: &Shipment, batch: &RecordBatch) -> Result<(), SinkError> {
        let rows = batch.num_rows().max(1).to_string();
        let settings = [
            ("insert_deduplication_token", shipment.token.as_str()),
            ("query_id", shipment.query_id.as_str()),
            ("async_insert", "0"),
            ("insert_deduplicate", "1"),
            ("wait_end_of_query", "1"),
            // One block: nothing is flushed before the batch has come whole, and it is not cut.
            ("max_insert_block_size", rows.as_str()),
            ("min_insert_block_size_rows", rows.as_str()),
            ("min_insert_block_size_bytes", "0"),
            ("max_insert_threads", "1"),
            // Rollups beside each other: each waits for the disk.
            ("parallel_view_processing", "1"),
        ];
        let client =
            settings.iter().fold(self.client.clone(), |client, (name, value)| client.with_setting(*name, *value));
        let insert = async {
            let mut insert = client.insert_arrow(&shipment.table)?;
            insert.write(batch).await?;
            failpoint::waiting(Point::InsertSent, insert.end()).await
        };
        bounded(&shipment.to_string(), INSERT_TIMEOUT, insert).await
    }

    /// The rows can be there although a materialized view of theirs failed.
    async fn settle(&self, shipment: &Shipment) -> Result<(), SinkError> {
        for rollup in ROLLUPS.iter().filter(|rollup| rollup.from == shipment.table) {
            let fill = rollup.fill(Some(shipment.range));
            let what = format!("fill {}, {shipment}", rollup.table());
            bounded(&what, INSERT_TIMEOUT, self.client.query_raw(&fill).execute()).await?;
        }
        Ok(())
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
        Err(_) => Err(SinkError::Retry(format!("{what}: no answer within {} s", timeout.as_secs()))),
    }
}

/// Retry or stop: decided here alone.
fn classified(what: &str, error: &clickhouse::error::Error) -> SinkError {
    let text = readable(error);
    let Some(code) = exception_code(error) else {
        return SinkError::Retry(format!("{what}: {text}")); // network, proxy, timeout
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
            return SinkError::Fatal(format!("{what}: {text}"));
        }
        _ => return SinkError::Retry(format!("{what}: {text}")),
    };
    SinkError::Retry(format!("{what}: {text}; {hint}"))
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
