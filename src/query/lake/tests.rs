use arrow::datatypes::DataType;

use super::*;
use crate::aggregate::{AggregateColumn, AggregateRole};
use crate::event::ValueType;
use crate::query::{Output, Target, query, render};
use crate::sink::lake::LakeSink;
use crate::sink::tables::{self, tests::batch};
use crate::sink::views::tests::{
    CORRECTED, Memberships, SESSIONS, Traffic, corrections, late_events, memberships, traffic,
};
use crate::sink::{CommitRange, TableSink};

type Rows = Vec<(Table, RecordBatch)>;

fn some<'a>(values: &[&'a str]) -> Vec<Option<&'a str>> {
    values.iter().map(|value| Some(*value)).collect()
}

/// A table's rows of a commit.
fn rows(table: &Table, commit: u64, given: &[(&str, Vec<Option<&str>>)]) -> (Table, RecordBatch) {
    (table.clone(), batch(table, commit, given))
}

/// A lake with one shipment per list of rows; the first is commit 1.
async fn lake(tables: &[Table], commits: Vec<Rows>) -> (tempfile::TempDir, Target) {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().to_str().expect("path").to_string();
    let mut sink = LakeSink::new(&root, "g1").expect("sink");
    sink.prepare(tables).await.expect("prepare");
    for (index, rows) in commits.into_iter().enumerate() {
        let range = CommitRange { after: index as u64, upto: index as u64 + 1 };
        sink.ship(range, &rows).await.expect("ship");
    }
    (folder, Target::Lake { root })
}

/// The answer as CSV without its header.
async fn answer(target: &Target, sql: &str) -> String {
    let batches = query(target, sql).await.expect(sql);
    let csv = render(&batches, Output::Csv).expect(sql);
    csv.split_once('\n').expect("header").1.trim_end().to_string()
}

async fn refusal(target: &Target, sql: &str) -> String {
    query(target, sql).await.expect_err(sql).to_string()
}

#[tokio::test]
async fn current_profiles_shows_the_latest_row_of_those_that_exist() {
    let profiles = tables::profiles(&[("city".into(), ValueType::String), ("Revenue".into(), ValueType::Double)]);
    let (_folder, target) = lake(
        std::slice::from_ref(&profiles),
        vec![
            vec![rows(
                &profiles,
                1,
                &[
                    ("profile_id", some(&["stays", "nulled", "merged", "twice", "twice"])),
                    ("city", some(&["A", "B", "C", "D", "E"])),
                    ("Revenue", some(&["1.5", "2", "3", "4", "5"])),
                ],
            )],
            vec![rows(
                &profiles,
                2,
                &[
                    ("profile_id", some(&["nulled", "merged", "new"])),
                    ("deleted", some(&["false", "true", "false"])),
                    ("Revenue", some(&["20", "30", "40"])),
                ],
            )],
        ],
    )
    .await;
    assert_eq!(
        answer(&target, "SELECT profile_id, city, Revenue FROM current_profiles ORDER BY profile_id").await,
        "new,,40.0\nnulled,,20.0\nstays,A,1.5\ntwice,E,5.0"
    );
    assert_eq!(answer(&target, "SELECT count(*) FROM profiles").await, "8");
    assert_eq!(answer(&target, "SELECT city FROM current_profiles WHERE profile_id = 'stays'").await, "A");
}

#[tokio::test]
async fn segment_members_are_those_whose_latest_change_is_entered() {
    let table = tables::segment_changes();
    let change = |commit, rows_of: &[(&str, &str, &str)]| {
        let segments: Vec<Option<&str>> = rows_of.iter().map(|row| Some(row.0)).collect();
        let profiles: Vec<Option<&str>> = rows_of.iter().map(|row| Some(row.1)).collect();
        let changes: Vec<Option<&str>> = rows_of.iter().map(|row| Some(row.2)).collect();
        vec![rows(&table, commit, &[("segment", segments), ("profile_id", profiles), ("change", changes)])]
    };
    let (_folder, target) = lake(
        std::slice::from_ref(&table),
        vec![
            change(1, &[("vip", "a", "entered"), ("vip", "b", "entered"), ("new", "a", "entered")]),
            change(2, &[("vip", "b", "exited"), ("vip", "c", "entered"), ("vip", "c", "exited")]),
            change(3, &[("new", "b", "entered"), ("new", "a", "exited"), ("new", "a", "entered")]),
        ],
    )
    .await;
    assert_eq!(
        answer(&target, "SELECT segment, profile_id FROM segment_members ORDER BY segment, profile_id").await,
        "new,a\nnew,b\nvip,a"
    );
}

#[tokio::test]
async fn ids_identifiers_and_events_follow_merges() {
    let (events, merges, identifiers) = (tables::events(), tables::profile_merges(), tables::identifiers());
    let (_folder, target) = lake(
        &[events.clone(), merges.clone(), identifiers.clone()],
        vec![
            vec![
                rows(
                    &events,
                    1,
                    &[
                        ("message_id", some(&["1", "2", "3", "4"])),
                        ("profile_id", vec![Some("a"), Some("b"), Some("c"), None]),
                    ],
                ),
                rows(
                    &identifiers,
                    1,
                    &[
                        ("type", some(&["email", "phone"])),
                        ("value", some(&["x", "x"])),
                        ("profile_id", some(&["a", "a"])),
                    ],
                ),
            ],
            vec![rows(&merges, 2, &[("old_profile_id", some(&["a"])), ("profile_id", some(&["b"]))])],
            // b itself is merged: a row for b and one for a, which pointed to it.
            vec![
                rows(&merges, 3, &[("old_profile_id", some(&["b", "a"])), ("profile_id", some(&["c", "c"]))]),
                rows(
                    &identifiers,
                    3,
                    &[("type", some(&["email"])), ("value", some(&["x"])), ("profile_id", some(&["c"]))],
                ),
            ],
        ],
    )
    .await;
    assert_eq!(answer(&target, "SELECT old_profile_id, profile_id FROM profile_ids ORDER BY 1").await, "a,c\nb,c");
    assert_eq!(
        answer(&target, "SELECT message_id, profile_id FROM current_events ORDER BY 1").await,
        "1,c\n2,c\n3,c\n4,"
    );
    // A key of a map beside a filter on the joined column: the optimizer's push-down of such expressions breaks on it.
    assert_eq!(
        answer(&target, "SELECT identifiers['x'] FROM current_events AS e WHERE e.profile_id = 'none'").await,
        ""
    );
    assert_eq!(
        answer(&target, "SELECT type, value, profile_id FROM current_identifiers ORDER BY 1").await,
        "email,x,c\nphone,x,c",
        "a's row says a, and a is c by now"
    );
}

#[tokio::test]
async fn splits_moves_and_bans_are_followed() {
    let (tables, commits) = corrections();
    let (_folder, target) = lake(&tables, commits).await;
    for (sql, expect, why) in CORRECTED {
        assert_eq!(answer(&target, sql).await, expect, "{why}");
    }
}

#[tokio::test]
async fn sizes_and_overlaps_of_segments_are_as_counted_by_hand() {
    for seed in 1..20 {
        let Memberships { tables, commits, answers } = memberships(seed);
        let (_folder, target) = lake(&tables, commits).await;
        for (sql, expect) in answers {
            assert_eq!(answer(&target, sql).await, expect, "{sql} (seed {seed})");
        }
    }
}

#[tokio::test]
async fn dashboards_show_what_was_worked_out_row_by_row() {
    for seed in 1..20 {
        let Traffic { tables, commits, answers } = traffic(seed);
        let (_folder, target) = lake(&tables, commits).await;
        for (sql, expect) in answers {
            assert_eq!(answer(&target, sql).await, expect, "{sql} (seed {seed})");
        }
    }
}

#[tokio::test]
async fn sessions_that_late_events_join_and_cut_are_followed() {
    let (tables, commits) = late_events();
    let (_folder, target) = lake(&tables, commits).await;
    for (sql, expect, why) in SESSIONS {
        assert_eq!(answer(&target, sql).await, expect, "{why}");
    }
}

#[tokio::test]
async fn an_aggregate_adds_up_its_partial_rows() {
    let column = |name: &str, data_type, role| AggregateColumn { name: name.into(), data_type, role };
    let table = tables::aggregate(
        "revenue",
        &[
            column("country", DataType::Utf8, AggregateRole::Key),
            column("total", DataType::Decimal128(38, 6), AggregateRole::Sum),
            column("orders", DataType::Int64, AggregateRole::Count),
            column("least", DataType::Float64, AggregateRole::Min),
            column("largest", DataType::Float64, AggregateRole::Max),
        ],
    );
    let (_folder, target) = lake(
        std::slice::from_ref(&table),
        vec![
            vec![rows(
                &table,
                1,
                &[
                    ("country", vec![Some("DE"), Some("FR"), None]),
                    ("total", vec![Some("1.25"), None, Some("2")]),
                    ("orders", some(&["1", "1", "1"])),
                    ("least", vec![Some("3.5"), None, Some("2")]),
                    ("largest", vec![Some("3.5"), None, Some("2")]),
                ],
            )],
            vec![rows(
                &table,
                2,
                &[
                    ("country", vec![Some("DE"), None]),
                    ("total", some(&["0.5", "2"])),
                    ("orders", some(&["1", "2"])),
                    ("least", some(&["1", "7"])),
                    ("largest", some(&["1", "7"])),
                ],
            )],
        ],
    )
    .await;
    assert_eq!(
        answer(&target, "SELECT country, total, orders, least, largest FROM revenue ORDER BY country").await,
        "DE,1.750000,2,1.0,3.5\nFR,0.000000,1,,\n,4.000000,3,2.0,7.0"
    );
}

#[tokio::test]
async fn a_trait_added_later_is_null_before_and_empty_tables_have_their_columns() {
    let before = tables::profiles(&[]);
    let after = tables::profiles(&[("city".into(), ValueType::String)]);
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().to_str().expect("path").to_string();
    let mut sink = LakeSink::new(&root, "g1").expect("sink");
    sink.prepare(&[before.clone(), tables::deliveries()]).await.expect("prepare");
    sink.ship(CommitRange { after: 0, upto: 1 }, &[rows(&before, 1, &[("profile_id", some(&["a"]))])])
        .await
        .expect("before");
    sink.prepare(std::slice::from_ref(&after)).await.expect("one more trait");
    let rows_after = rows(&after, 2, &[("profile_id", some(&["b"])), ("city", some(&["Berlin"]))]);
    sink.ship(CommitRange { after: 1, upto: 2 }, &[rows_after]).await.expect("after");
    let target = Target::Lake { root };
    assert_eq!(answer(&target, "SELECT profile_id, city FROM current_profiles ORDER BY 1").await, "a,\nb,Berlin");
    assert_eq!(answer(&target, "SELECT profile_id FROM profiles WHERE city = 'Berlin'").await, "b");
    let empty = query(&target, "SELECT delivery_id, attempted_at FROM deliveries").await.expect("empty");
    assert_eq!(empty[0].num_columns(), 2);
    assert_eq!(empty.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
}

#[tokio::test]
async fn json_functions_work_over_events_in_any_case() {
    let events = tables::events();
    let json = r#"{"total": 12.50, "items": [{"sku": "a"}, {"sku": "b"}], "gift": true, "n": null}"#;
    let (_folder, target) = lake(
        std::slice::from_ref(&events),
        vec![vec![rows(
            &events,
            1,
            &[
                ("message_id", some(&["1", "2"])),
                ("event", vec![Some("Order Completed"), None]),
                ("properties", vec![Some(json), None]),
            ],
        )]],
    )
    .await;
    for (expression, expect) in [
        ("JSONExtractFloat(properties, 'total')", "12.5"),
        ("jsonextractfloat(properties, 'total')", "12.5"),
        ("JSONExtractInt(properties, 'total')", "12"),
        ("JSONExtractString(properties, 'items', 2, 'sku')", "b"),
        ("JSONExtractString(properties, 'nothing')", r#""""#), // the empty text, not null
        ("JSONExtractBool(properties, 'gift')", "true"),
        ("JSONHas(properties, 'n')", "true"),
        ("JSONHas(properties, 'm')", "false"),
        ("JSONExtractRaw(properties, 'items', -1)", r#""{""sku"":""b""}""#),
        ("properties", &format!("\"{}\"", json.replace('"', "\"\""))),
        ("SUM(JSONExtractFloat(properties, 'total'))", "12.5"),
        ("count(*)", "1"),
    ] {
        let sql = format!("SELECT {expression} FROM events WHERE event = 'Order Completed'");
        assert_eq!(answer(&target, &sql).await, expect, "{expression}");
    }
    assert_eq!(
        answer(&target, "SELECT JSONExtractFloat(properties, 'total') IS NULL FROM events ORDER BY message_id").await,
        "false\ntrue"
    );
    assert_eq!(answer(&target, r#"SELECT JSONExtractInt('{"a":7}', 'a')"#).await, "7");
    assert_eq!(answer(&target, "SELECT message_id, identifiers FROM events ORDER BY 1 LIMIT 1").await, "1,");
}

#[tokio::test]
async fn patterns_may_escape_by_any_character() {
    let (_folder, target) = lake(&[tables::events()], vec![vec![]]).await;
    for (value, pattern, escape, is_like) in [
        ("pg_x", "pg/_%", "/", true),
        ("pgax", "pg/_%", "/", false),
        ("a/b", "a//b", "/", true),
        ("a_b", "a//_b", "/", false),
        ("a/xb", "a//_b", "/", true),
        (r"a\b", r"a\b", "/", true),
        (r"a\b", r"a\_", "/", true),
        ("50%", "50%%", "%", true),
        ("500", "50%%", "%", false),
        ("a(b", "a|(_", "|", true),
        ("pg_x", r"pg\_x", r"\", true),
        ("pgax", r"pg\_x", r"\", false),
    ] {
        // As a constant, and worked out row by row.
        for like in [format!("'{pattern}'"), "p || ''".to_string()] {
            let rows = format!("(VALUES ('{value}', '{pattern}')) AS t(v, p)");
            let sql = format!("SELECT v LIKE {like} ESCAPE '{escape}' FROM {rows}");
            assert_eq!(answer(&target, &sql).await, is_like.to_string(), "{sql}");
        }
    }
    assert_eq!(
        answer(&target, "SELECT 'A_B' ILIKE 'a!_b' ESCAPE '!', 'A_B' NOT ILIKE 'a!_b' ESCAPE '!'").await,
        "true,false"
    );
}

#[tokio::test]
async fn errors_name_the_nearest_table_and_column_and_nothing_can_be_changed() {
    let tables = [tables::profiles(&[("revenue".into(), ValueType::Double)]), tables::events()];
    let (_folder, target) = lake(&tables, vec![vec![]]).await;
    for (sql, parts) in [
        ("SELECT revenu FROM current_profiles", vec!["no column revenu", "did you mean revenue?"]),
        ("SELECT Revenue FROM current_profiles", vec!["no column Revenue", "did you mean revenue?"]),
        ("SELECT * FROM current_profile", vec!["no table current_profile", "did you mean current_profiles?"]),
        ("SELECT * FROM xyz", vec!["no table xyz", "there are", "events"]),
        ("SELECT FROM WHERE", vec!["WHERE"]),
        ("CREATE TABLE x AS SELECT 1", vec!["DDL"]),
        ("DROP TABLE events", vec!["DDL"]),
        ("COPY events TO 'x.csv'", vec!["DML"]),
        ("SELECT JSONExtractFloat(revenue, 'a') FROM current_profiles", vec!["JSONExtractFloat", "JSON text"]),
    ] {
        let text = refusal(&target, sql).await;
        for part in parts {
            assert!(text.contains(part), "{sql}: {text}");
        }
        assert!(!text.contains("datafusion"), "{sql}: {text}");
    }
    let nothing = Target::Lake { root: "/nowhere/at/all".to_string() };
    assert!(matches!(query(&nothing, "SELECT 1").await, Err(QueryError::Unavailable(_))));
}

#[tokio::test]
async fn a_query_sees_one_manifest_even_when_files_are_merged_meanwhile() {
    let events = tables::events();
    let commits =
        (1..=9).map(|commit| vec![rows(&events, commit, &[("message_id", some(&[&*format!("m{commit}")]))])]).collect();
    let (_folder, target) = lake(std::slice::from_ref(&events), commits).await;
    let Target::Lake { root } = &target else { unreachable!() };
    let opened = lake_context(root).await.expect("context");
    let mut sink = LakeSink::new(root, "g1").expect("sink");
    sink.prepare(std::slice::from_ref(&events)).await.expect("prepare");
    sink.maintain().await.expect("maintain");
    for context in [&opened, &lake_context(root).await.expect("context")] {
        let batches = run(context, "SELECT count(*), count(DISTINCT message_id) FROM events").await.expect("query");
        assert!(render(&batches, Output::Csv).expect("csv").ends_with("\n9,9\n"));
    }
}

#[tokio::test]
async fn a_lake_in_an_object_store_is_read_the_same() {
    let location = Location::in_memory();
    let before = tables::profiles(&[]);
    let after = tables::profiles(&[("city".into(), ValueType::String)]);
    let mut sink = LakeSink::at(location.clone(), "g1");
    sink.prepare(std::slice::from_ref(&before)).await.expect("prepare");
    for commit in 1..=8 {
        let id = format!("p{commit}");
        let range = CommitRange { after: commit - 1, upto: commit };
        sink.ship(range, &[rows(&before, commit, &[("profile_id", some(&[&*id]))])]).await.expect("ship");
    }
    sink.prepare(std::slice::from_ref(&after)).await.expect("one more trait");
    sink.maintain().await.expect("merge");
    let last = rows(&after, 9, &[("profile_id", some(&["p1"])), ("city", some(&["Berlin"]))]);
    sink.ship(CommitRange { after: 8, upto: 9 }, &[last]).await.expect("ship");
    let context = context_of(&location).await.expect("context");
    let sql = "SELECT count(*) AS profiles, max(city) AS city FROM current_profiles";
    let batches = run(&context, sql).await.expect("query");
    assert_eq!(render(&batches, Output::Csv).expect("csv"), "profiles,city\n8,Berlin\n");
    assert_eq!(location.list("profiles").await.expect("files").len(), 10); // 8, the merged one, and the last
}
