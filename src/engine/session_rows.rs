//! What a commit says of sessions.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

use super::EngineError;
use super::rows::{finish, ids, texts, times};
use crate::event::ProfileId;
use crate::session::{Campaign, SessionRow};
use crate::sink::Table;

/// The rows of the table `sessions`, each with the profile it is of.
pub fn sessions(table: &Table, rows: &[(ProfileId, SessionRow)], commit: u64) -> Result<RecordBatch, EngineError> {
    let all = || rows.iter().map(|(_, row)| row);
    let numbers = |value: fn(&SessionRow) -> i64| Arc::new(Int64Array::from_iter_values(all().map(value))) as ArrayRef;
    let optional =
        |value: fn(&SessionRow) -> Option<&str>| Arc::new(all().map(value).collect::<StringArray>()) as ArrayRef;
    let named = |part: fn(&Campaign) -> &Option<Box<str>>| {
        let parts = all().map(|row| row.campaign.as_ref().and_then(|campaign| part(campaign).as_deref()));
        Arc::new(parts.collect::<StringArray>()) as ArrayRef
    };
    // Ids of sessions are as long as those of profiles, and written alike.
    let session_ids: Vec<Option<ProfileId>> = all().map(|row| Some(ProfileId(row.id.0))).collect();
    let merged = all().map(|row| row.merged_into.map(|id| ProfileId(id.0)));
    let chains = all().map(|row| (row.chain_id != row.id).then_some(ProfileId(row.chain_id.0)));
    let columns: Vec<ArrayRef> = vec![
        ids(session_ids.into_iter()),
        ids(rows.iter().map(|(profile, _)| Some(*profile))),
        times(all().map(|row| row.started_at)),
        times(all().map(|row| row.ended_at)),
        numbers(|row| row.duration_us() / 1_000_000),
        numbers(|row| i64::from(row.events)),
        numbers(|row| i64::from(row.pages)),
        optional(|row| row.first_page.as_deref()),
        optional(|row| row.last_page.as_deref()),
        named(|campaign| &campaign.source),
        named(|campaign| &campaign.medium),
        named(|campaign| &campaign.name),
        texts(all().map(|row| &*row.first_message_id)),
        ids(merged),
        ids(chains),
    ];
    finish(table, columns, commit)
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;
    use crate::session::SessionId;
    use crate::sink::tables;

    #[test]
    fn a_session_and_an_id_that_is_gone() {
        let id = |byte: u8| SessionId([byte; 16]);
        let stands = SessionRow {
            id: id(1),
            started_at: 0,
            ended_at: 61_900_000,
            first_message_id: "m1".into(),
            events: 3,
            pages: 2,
            first_page: Some("/".into()),
            last_page: None,
            campaign: Some(Campaign { source: None, medium: Some("cpc".into()), name: None }),
            merged_into: None,
            chain_id: id(1),
        };
        let gone = SessionRow {
            id: id(2),
            ended_at: 0,
            events: 0,
            pages: 0,
            first_page: None,
            campaign: None,
            merged_into: Some(id(1)),
            ..stands.clone()
        };
        let batch =
            sessions(&tables::sessions(), &[(ProfileId([9; 16]), stands), (ProfileId([9; 16]), gone)], 7).unwrap();
        let shown = |row: usize, column: &str| {
            let column = batch.schema().index_of(column).unwrap();
            let one = batch.slice(row, 1).project(&[column]).unwrap();
            let text = pretty_format_batches(&[one]).unwrap().to_string();
            text.lines().nth(3).unwrap().trim_matches(['|', ' ']).to_string()
        };
        let (one, two) = ("01".repeat(16), "02".repeat(16));
        let rows = [
            ("session_id", one.as_str(), two.as_str()),
            ("profile_id", &"09".repeat(16), &"09".repeat(16)),
            ("started_at", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("ended_at", "1970-01-01T00:01:01.900Z", "1970-01-01T00:00:00Z"),
            ("duration_s", "61", "0"),
            ("events", "3", "0"),
            ("pages", "2", "0"),
            ("first_page", "/", ""),
            ("last_page", "", ""),
            ("campaign_source", "", ""),
            ("campaign_medium", "cpc", ""),
            ("campaign_name", "", ""),
            ("first_message_id", "m1", "m1"),
            ("merged_into", "", &one),
            ("chain_id", "", &one),
            ("_batch", "7", "7"),
            ("_seq", "0", "1"),
        ];
        assert_eq!(batch.num_columns(), rows.len());
        for (column, first, second) in rows {
            assert_eq!((shown(0, column).as_str(), shown(1, column).as_str()), (first, second), "{column}");
        }
    }
}
