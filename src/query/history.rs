//! Stored events read back from the tables: the engine's [`History`] over the lake or ClickHouse.

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::{Target, query};
use crate::engine::history::{History, HistoryError, HistoryFilter};
use crate::event::{NAMES, ProfileId};
use crate::sink::CommitRange;
use crate::sink::views::quoted;

/// Where the tables are.
pub struct TableHistory {
    pub target: Target,
}

#[async_trait]
impl History for TableHistory {
    async fn events(&self, range: CommitRange, filter: &HistoryFilter) -> Result<Vec<RecordBatch>, HistoryError> {
        self.query(&events_sql(range, filter, &self.target)).await
    }

    async fn moves(&self, range: CommitRange) -> Result<Vec<RecordBatch>, HistoryError> {
        self.query(&format!(
            "SELECT event_batch, event_seq, profile_id, session_id FROM event_moves WHERE event_batch > {} AND event_batch <= {} \
             ORDER BY _batch, _seq",
            range.after, range.upto
        ))
        .await
    }
}

impl TableHistory {
    async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>, HistoryError> {
        query(&self.target, sql).await.map_err(|error| HistoryError(error.to_string()))
    }
}

/// The same text for both engines, but for a time. Events that were moved to one of the profiles are few: they come by a join of
/// their own, so that the filter on the stored id can use the table's index.
fn events_sql(range: CommitRange, filter: &HistoryFilter, target: &Target) -> String {
    let names = NAMES.iter().copied().chain(["profile_id", "session_id", "identity_decision", "_batch", "_seq"]);
    let columns: Vec<String> = names.map(|name| format!("e.{0} AS {0}", quoted(name))).collect();
    let columns = columns.join(", ");
    let mut conditions = vec![format!("e._batch > {} AND e._batch <= {}", range.after, range.upto)];
    if let Some(since) = filter.since {
        let text = chrono::DateTime::from_timestamp_micros(since).unwrap_or_default().format("%Y-%m-%d %H:%M:%S%.6f");
        let time = match target {
            Target::Lake { .. } => "TIMESTAMP",
            Target::ClickHouse { .. } => "DateTime64(6, 'UTC')",
        };
        conditions.push(format!("e.timestamp >= CAST('{text}' AS {time})"));
    }
    if let Some(events) = &filter.events {
        let names: Vec<String> = events.iter().map(|name| text(name, target)).collect();
        conditions.push(format!("e.event IN ({})", names.join(", ")));
    }
    let conditions = conditions.join(" AND ");
    let Some(profiles) = &filter.profiles else {
        return format!("SELECT {columns} FROM events AS e WHERE {conditions} ORDER BY _batch, _seq");
    };
    let ids = id_list(profiles);
    format!(
        "SELECT * FROM (SELECT {columns} FROM events AS e WHERE {conditions} AND e.profile_id IN ({ids}) \
         UNION ALL SELECT {columns} FROM events AS e INNER JOIN (SELECT DISTINCT event_batch, event_seq FROM event_moves \
         WHERE profile_id IN ({ids})) AS v ON e._batch = v.event_batch AND e._seq = v.event_seq \
         WHERE {conditions} AND (e.profile_id IS NULL OR e.profile_id NOT IN ({ids}))) AS found ORDER BY _batch, _seq"
    )
}

fn text(value: &str, target: &Target) -> String {
    let value = value.replace('\'', "''");
    match target {
        Target::Lake { .. } => format!("'{value}'"),
        Target::ClickHouse { .. } => format!("'{}'", value.replace('\\', "\\\\")),
    }
}

fn id_list(ids: &[ProfileId]) -> String {
    ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ")
}
