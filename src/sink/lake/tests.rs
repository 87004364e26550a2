use std::collections::BTreeSet;

use arrow::array::{Array, StringArray};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::*;
use crate::event::ValueType;
use crate::sink::tables;
use crate::sink::tables::tests::batch;

fn range(after: u64, upto: u64) -> CommitRange {
    CommitRange { after, upto }
}

/// Events of one commit; times run against the order of the rows, so that sorting shows.
fn events(commit: u64, ids: &[&str]) -> (Table, RecordBatch) {
    let table = tables::events();
    let times: Vec<String> =
        (0..ids.len()).map(|row| format!("2026-01-{:02}T00:00:{:02}Z", commit % 28 + 1, 59 - row)).collect();
    let given = [
        ("message_id", ids.iter().map(|id| Some(*id)).collect()),
        ("timestamp", times.iter().map(|time| Some(time.as_str())).collect()),
    ];
    let batch = batch(&table, commit, &given);
    (table, batch)
}

async fn prepared(root: &str) -> LakeSink {
    let mut sink = LakeSink::new(root, "g1").expect("sink");
    sink.prepare(&[tables::events(), tables::profiles(&[])]).await.expect("prepare");
    sink
}

/// The values of a text column, over exactly the files of a manifest, in the order of the files.
fn read(folder: &std::path::Path, manifest: &Manifest, table: &str, column: &str) -> Vec<String> {
    let mut values = Vec::new();
    for file in &manifest.table(table).expect("table").files {
        let file = std::fs::File::open(folder.join("lake").join(&file.path)).expect(&file.path);
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("reader") {
            let batch = batch.expect("batch");
            let column = batch.column_by_name(column).expect("column").as_string::<i32>();
            values.extend(column.iter().map(|value| value.unwrap_or("null").to_string()));
        }
    }
    values
}

fn files_of(folder: &std::path::Path, table: &str) -> BTreeSet<String> {
    let Ok(found) = std::fs::read_dir(folder.join("lake").join(table)) else { return BTreeSet::new() };
    found.map(|file| file.expect("file").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_repeated_range_is_not_written_twice() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().to_str().expect("path");
    let mut sink = prepared(root).await;
    let rows = [events(1, &["a", "b"])];
    sink.ship(range(0, 1), &rows).await.expect("ship");
    let version = sink.manifest().expect("manifest").version;
    sink.ship(range(0, 1), &rows).await.expect("again");
    assert_eq!(sink.manifest().expect("manifest").version, version);
    let mut restarted = prepared(root).await;
    restarted.ship(range(0, 1), &rows).await.expect("after a restart");
    // Sorted by time within a file.
    assert_eq!(read(folder.path(), restarted.manifest().expect("manifest"), "events", "message_id"), ["b", "a"]);
    // A wider range over what is there: only what is new.
    let (table, second) = events(2, &["c"]);
    let both = arrow::compute::concat_batches(&table.schema, [&rows[0].1, &second]).expect("both");
    restarted.ship(range(0, 2), &[(table, both)]).await.expect("wider");
    assert_eq!(read(folder.path(), restarted.manifest().expect("manifest"), "events", "message_id"), ["b", "a", "c"]);
}

#[tokio::test]
async fn a_crash_between_file_and_manifest_leaves_nothing_to_see_and_the_repeat_completes_it() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().to_str().expect("path");
    let (table, rows) = events(1, &["a"]);
    {
        let sink = prepared(root).await;
        let entry = sink.manifest().expect("manifest").table("events").expect("events").clone();
        sink.write_file(&entry, range(0, 1), rows.clone()).await.expect("file");
    }
    assert_eq!(files_of(folder.path(), "events").len(), 1);
    let mut sink = prepared(root).await;
    assert!(read(folder.path(), sink.manifest().expect("manifest"), "events", "message_id").is_empty());
    sink.ship(range(0, 1), &[(table, rows)]).await.expect("ship");
    assert_eq!(read(folder.path(), sink.manifest().expect("manifest"), "events", "message_id"), ["a"]);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_taken_for_the_success_it_was() {
    let folder = tempfile::tempdir().expect("folder");
    let mut sink = prepared(folder.path().to_str().expect("path")).await;
    let before = sink.current.clone();
    sink.ship(range(0, 1), &[events(1, &["a"])]).await.expect("ship");
    let version = sink.manifest().expect("manifest").version;
    sink.current = before; // the manifest was created, but we did not hear of it
    sink.ship(range(0, 1), &[events(1, &["a"])]).await.expect("ship");
    assert_eq!(sink.manifest().expect("manifest").version, version);
    assert_eq!(read(folder.path(), sink.manifest().expect("manifest"), "events", "message_id"), ["a"]);
}

#[tokio::test]
async fn a_writer_that_was_taken_over_stops_and_removes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().to_str().expect("path");
    let mut old = prepared(root).await;
    let mut new = prepared(root).await;
    new.ship(range(0, 1), &[events(1, &["a"])]).await.expect("ship");
    for _ in 0..2 {
        let refused = old.ship(range(0, 1), &[events(1, &["a"])]).await;
        assert!(matches!(refused, Err(SinkError::Fatal(text)) if text.contains("took over")));
        old = LakeSink { current: old.current.take(), ..old };
        if let Some(current) = &mut old.current {
            current.epoch = 1; // also if it has seen the newer manifest
        }
    }
    #[expect(clippy::disallowed_methods, reason = "a day after the files were written")]
    let later = Utc::now() + chrono::Duration::days(1);
    assert!(matches!(old.maintain_at(later).await, Err(SinkError::Fatal(_))));
    assert_eq!(read(folder.path(), new.manifest().expect("manifest"), "events", "message_id"), ["a"]);
}

#[tokio::test]
async fn another_state_a_gap_and_another_type_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().to_str().expect("path");
    let mut sink = prepared(root).await;
    sink.ship(range(3, 4), &[events(4, &["a"])]).await.expect("an empty lake may begin anywhere");
    assert!(matches!(sink.ship(range(5, 6), &[]).await, Err(SinkError::Fatal(text)) if text.contains("after 5")));
    let mut other = LakeSink::new(root, "g2").expect("sink");
    assert!(matches!(other.prepare(&[]).await, Err(SinkError::Fatal(text)) if text.contains("another state")));
    let with = |value_type| [tables::profiles(&[("revenue".to_string(), value_type)])];
    sink.prepare(&with(ValueType::Double)).await.expect("double");
    let refused = sink.prepare(&with(ValueType::Long)).await.expect_err("long").to_string();
    for part in ["profiles", "revenue", "double", "int64"] {
        assert!(refused.contains(part), "{refused}");
    }
    sink.prepare(&[tables::profiles(&[])]).await.expect("no longer defined");
    let revenue = |sink: &LakeSink| {
        let columns = &sink.manifest().expect("manifest").table("profiles").expect("profiles").columns;
        columns.iter().find(|column| column.name == "revenue").expect("kept").retired
    };
    assert!(revenue(&sink));
    sink.prepare(&with(ValueType::Double)).await.expect("defined again");
    assert!(!revenue(&sink));
}

#[tokio::test]
async fn compaction_keeps_every_row_and_readers_of_an_older_manifest_keep_their_files() {
    let folder = tempfile::tempdir().expect("folder");
    let mut sink = prepared(folder.path().to_str().expect("path")).await;
    for commit in 1..=20 {
        // Ranges of one table overlap in time; some commits have no rows.
        let rows = if commit % 5 == 0 {
            vec![]
        } else {
            vec![events(commit, &[&format!("{commit}a"), &format!("{commit}b")])]
        };
        sink.ship(range(commit - 1, commit), &rows).await.expect("ship");
    }
    let before = sink.manifest().expect("manifest").clone();
    assert_eq!(before.table("events").expect("events").files.len(), 16);
    #[expect(clippy::disallowed_methods, reason = "compared with the times of the files just written")]
    let now = Utc::now();
    sink.maintain_at(now).await.expect("maintain");
    let after = sink.manifest().expect("manifest").clone();
    let files = &after.table("events").expect("events").files;
    assert!(files.len() < FAN_IN, "{}", files.len());
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 32);
    let sorted = |manifest: &Manifest| {
        let mut ids = read(folder.path(), manifest, "events", "message_id");
        ids.sort();
        ids
    };
    assert_eq!(sorted(&before), sorted(&after));
    // By time within a merged file, whatever the order of commits.
    let times: Vec<_> = files.iter().map(|file| (file.min_timestamp, file.max_timestamp)).collect();
    assert!(times.iter().all(|(least, greatest)| least.is_some() && least < greatest));
    // After the grace period the replaced files go, and the current ones stay.
    sink.maintain_at(now + chrono::Duration::seconds(9 * 60)).await.expect("within grace");
    assert_eq!(sorted(&before).len(), 32);
    sink.maintain_at(now + chrono::Duration::minutes(11)).await.expect("after grace");
    let left = files_of(folder.path(), "events");
    let listed: BTreeSet<String> = files.iter().map(|file| file.path.replace("events/", "")).collect();
    assert_eq!(left, listed);
    assert_eq!(files_of(folder.path(), "manifest").len(), 1);
    // And the list of replaced files with them, in the next version.
    sink.ship(range(20, 21), &[events(21, &["x"])]).await.expect("ship");
    assert!(sink.manifest().expect("manifest").replaced.is_empty());
    assert_eq!(sorted(sink.manifest().expect("manifest")).len(), 33);
}

#[tokio::test]
async fn files_left_by_a_crash_are_swept_after_the_grace_period() {
    let folder = tempfile::tempdir().expect("folder");
    let mut sink = prepared(folder.path().to_str().expect("path")).await;
    sink.ship(range(0, 1), &[events(1, &["a"])]).await.expect("ship");
    std::fs::write(folder.path().join("lake/events/1-9.parquet"), b"half").expect("write");
    #[expect(clippy::disallowed_methods, reason = "compared with the times of the files just written")]
    let now = Utc::now();
    sink.maintain_at(now).await.expect("maintain");
    assert_eq!(files_of(folder.path(), "events").len(), 2);
    sink.maintain_at(now + chrono::Duration::hours(1)).await.expect("maintain");
    assert_eq!(files_of(folder.path(), "events"), BTreeSet::from(["0-1.parquet".to_string()]));
}

#[tokio::test]
async fn rows_sealed_under_earlier_definitions_keep_their_columns() {
    let folder = tempfile::tempdir().expect("folder");
    let mut sink = prepared(folder.path().to_str().expect("path")).await;
    let earlier = tables::profiles(&[("city".to_string(), ValueType::String)]);
    let rows = batch(&earlier, 1, &[("profile_id", vec![Some("p")]), ("city", vec![Some("Berlin")])]);
    sink.ship(range(0, 1), &[(earlier, rows)]).await.expect("ship");
    assert_eq!(read(folder.path(), sink.manifest().expect("manifest"), "profiles", "city"), ["Berlin"]);
    let shown = sink.manifest().expect("manifest").table("profiles").expect("profiles").table(false);
    assert!(shown.schema.field_with_name("city").is_err());
}

#[test]
fn small_neighbours_are_merged_and_large_files_left_alone() {
    let k = 1 << 10;
    let check = |sizes: &[u64], expect: Option<std::ops::Range<usize>>| {
        assert_eq!(mergeable_run(sizes, 1 << 20), expect, "{sizes:?}");
    };
    check(&[], None);
    check(&[k; 7], None);
    check(&[k; 8], Some(0..8));
    check(&[k; 30], Some(0..30));
    check(&[vec![600 * k], vec![k; 8]].concat(), Some(1..9));
    check(&[vec![k; 5], vec![600 * k], vec![k; 5]].concat(), None);
    check(&[vec![k; 8], vec![600 * k]].concat(), Some(0..8));
    // Small ones first, then the next size up, never above the target.
    check(&[vec![100 * k; 8], vec![k; 8]].concat(), Some(8..16));
    check(&[100 * k; 9], Some(0..9));
    check(&[100 * k; 12], Some(0..10));
    check(&[200 * k; 12], None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Merging is sorting: any files, any sizes around the batch size of the merge.
    #[test]
    fn merging_files_gives_their_rows_in_order(
        sizes in prop::collection::vec(1usize..20_000, 1..5),
        seed in any::<u64>(),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let table = tables::segment_changes();
        let kind = table.kind;
        let mut inputs = Vec::new();
        let mut expected: Vec<(TimeUsOf, u64, u32)> = Vec::new();
        for (commit, rows) in sizes.iter().enumerate() {
            let times: Vec<i64> = (0..*rows).map(|_| random.i64(0..50)).collect();
            expected.extend(times.iter().enumerate().map(|(row, time)| (*time, commit as u64, row as u32)));
            let texts: Vec<String> = times.iter().map(|time| format!("1970-01-01T00:00:00.{time:06}Z")).collect();
            let rows = batch(&table, commit as u64, &[("changed_at", texts.iter().map(|text| Some(text.as_str())).collect())]);
            inputs.push(bytes::Bytes::from(files::write(&rows, kind).expect("write").bytes));
        }
        expected.sort_unstable();
        let merged = files::merge(inputs, &table.schema, kind).expect("merge");
        prop_assert_eq!(merged.rows, expected.len() as u64);
        prop_assert_eq!(merged.times, Some((expected[0].0, expected[expected.len() - 1].0)));
        let mut found = Vec::new();
        for rows in ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(merged.bytes)).expect("parquet").build().expect("reader") {
            let rows = rows.expect("rows");
            let times = rows.column_by_name("changed_at").expect("times").as_primitive::<arrow::datatypes::TimestampMicrosecondType>().clone();
            let commits = rows.column_by_name("_batch").expect("commits").as_primitive::<UInt64Type>().clone();
            let seqs = rows.column_by_name("_seq").expect("seqs").as_primitive::<arrow::datatypes::UInt32Type>().clone();
            found.extend((0..rows.num_rows()).map(|row| (times.value(row), commits.value(row), seqs.value(row))));
        }
        prop_assert_eq!(found, expected);
    }
}

type TimeUsOf = crate::event::TimeUs;

#[test]
fn a_value_that_would_change_is_not_cast() {
    let table = tables::profiles(&[("n".to_string(), ValueType::Long)]);
    let texts: std::sync::Arc<dyn Array> = std::sync::Arc::new(StringArray::from(vec!["many"]));
    let wrong = RecordBatch::try_from_iter([("n", texts)]).expect("batch");
    let refused = files::conform(&wrong, &table.schema).expect_err("cast").to_string();
    assert!(refused.contains("column n") && refused.contains(&DataType::Int64.to_string()), "{refused}");
}
