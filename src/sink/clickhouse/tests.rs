use clickhouse::error::Error;

use super::*;

pub(super) fn range(after: u64, upto: u64) -> CommitRange {
    CommitRange { after, upto }
}

#[test]
fn a_token_names_pipeline_state_table_and_range_and_nothing_else() {
    let base = Shipment::of("shop", "g1", "events", range(1, 2)).token;
    assert_eq!(base, Shipment::of("shop", "g1", "events", range(1, 2)).token);
    assert_eq!(base.len(), 32);
    for (pipeline, generation, table, range) in [
        ("shop2", "g1", "events", range(1, 2)),
        ("shop", "g2", "events", range(1, 2)),
        ("shop", "g1", "event", range(1, 2)),
        ("shop", "g1", "events", range(0, 2)),
        ("shop", "g1", "events", range(1, 3)),
        // Borders between the parts count.
        ("shopg", "1", "events", range(1, 2)),
        ("shop", "g1", "events", range(12, 2)),
    ] {
        assert_ne!(base, Shipment::of(pipeline, generation, table, range).token, "{pipeline} {generation} {table}");
    }
}

#[test]
fn errors_are_retried_unless_they_contradict_the_table() {
    let answer = |code: u32| {
        Error::BadResponse(format!(
            "Code: {code}. DB::Exception: what happened. (NAME) (version 26.9.2.1 (official build))"
        ))
    };
    for (error, retried, says) in [
        (answer(252), true, "merges are behind"),
        (answer(241), true, "memory"),
        (answer(516), true, "check the user"),
        (answer(60), true, "restart creates"),
        (answer(16), true, "restart adds"),
        (answer(1000), true, "what happened"),
        (answer(53), false, "what happened"),
        (answer(407), false, "what happened"),
        (Error::TimedOut, true, "timeout"),
        (Error::Network("refused".into()), true, "refused"),
        (Error::BadResponse("503 Service Unavailable".into()), true, "503"),
    ] {
        let classified = classified("insert into events", &error);
        assert_eq!(matches!(classified, SinkError::Retry(_)), retried, "{error}");
        let text = classified.to_string();
        assert!(text.contains(says) && text.contains("insert into events"), "{text}");
        assert!(!text.contains("version"), "{text}");
    }
}

/// Against a real engine: `CLICKHOUSE_URL=http://… cargo test --lib sink::clickhouse -- --ignored`.
pub(super) mod real {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::aggregate::{AggregateColumn, AggregateRole};
    use crate::event::{ValueType, time_type};
    use crate::sink::tables::{self, tests::batch};
    use crate::sink::views::tests::{
        CORRECTED, EVENTS_OF, Memberships, SESSIONS, corrections, late_events, memberships,
    };

    pub(in crate::sink::clickhouse) fn url() -> String {
        std::env::var("CLICKHOUSE_URL").expect("CLICKHOUSE_URL")
    }

    /// One test at a time: the server's fault switch is one for all.
    pub(in crate::sink::clickhouse) static SERVER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    pub(in crate::sink::clickhouse) async fn fresh(database: &str) -> (ClickHouseSink, Client) {
        let server = client(&url(), None, None);
        server.query_raw(&format!("DROP DATABASE IF EXISTS {database}")).execute().await.expect("drop");
        (ClickHouseSink::new(&url(), database, None, None, "shop", "g1"), server.with_database(database))
    }

    pub(in crate::sink::clickhouse) async fn texts(client: &Client, sql: &str) -> Vec<String> {
        client.query_raw(sql).fetch_all::<String>().await.expect(sql)
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL"]
    async fn everything_can_be_prepared_twice_and_a_repeated_range_adds_nothing() {
        let _server = SERVER.lock().await;
        let (mut sink, client) = fresh("sink_repeat").await;
        let tables = tables::tests::all();
        sink.prepare(&tables).await.expect("first");
        sink.prepare(&tables).await.expect("again");
        let rows: Vec<(Table, RecordBatch)> = tables
            .iter()
            .map(|table| {
                let column = table.schema.field(0).name().clone();
                let value = match table.schema.field(0).data_type() {
                    data_type if *data_type == time_type() => "2026-01-01T00:00:00Z",
                    DataType::UInt64 => "1",
                    _ => "a",
                };
                (table.clone(), batch(table, 1, &[(column.as_str(), vec![Some(value), Some(value)])]))
            })
            .collect();
        sink.ship(range(0, 1), &rows).await.expect("ship");
        sink.ship(range(0, 1), &rows).await.expect("token alone");
        sink.shipping.uncertain = true;
        sink.ship(range(0, 1), &rows).await.expect("probe");
        let mut restarted = ClickHouseSink::new(&url(), "sink_repeat", None, None, "shop", "g1");
        restarted.prepare(&tables).await.expect("restart");
        restarted.ship(range(0, 1), &rows).await.expect("probe after restart");
        for table in &tables {
            let count = client.query_raw(&format!("SELECT count() FROM {}", table.name)).fetch_one::<u64>().await;
            assert_eq!(count.expect("count"), 2, "{}", table.name);
            let parts =
                format!("SELECT count() FROM system.parts WHERE database = 'sink_repeat' AND table = '{}'", table.name);
            assert_eq!(client.query_raw(&parts).fetch_one::<u64>().await.expect("parts"), 1, "{}", table.name);
        }
        // More rows than sealed: another writer.
        client.query_raw("INSERT INTO events (message_id, _batch) VALUES ('x', 1)").execute().await.expect("insert");
        sink.shipping.uncertain = true;
        assert!(matches!(sink.ship(range(0, 1), &rows).await, Err(SinkError::Fatal(text)) if text.contains("events")));
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL"]
    async fn another_state_and_another_column_type_are_refused_with_names() {
        let _server = SERVER.lock().await;
        let (mut sink, _) = fresh("sink_refuse").await;
        let trait_of = |value_type| vec![tables::profiles(&[("revenue".to_string(), value_type)])];
        sink.prepare(&trait_of(ValueType::Double)).await.expect("first");
        sink.prepare(&[tables::profiles(&[("revenue".into(), ValueType::Double), ("city".into(), ValueType::String)])])
            .await
            .expect("one more trait");
        let refused = sink.prepare(&trait_of(ValueType::Long)).await.expect_err("type").to_string();
        for part in ["profiles", "revenue", "Nullable(Float64)", "Nullable(Int64)", "RENAME COLUMN"] {
            assert!(refused.contains(part), "{refused}");
        }
        let mut other = ClickHouseSink::new(&url(), "sink_refuse", None, None, "shop", "g2");
        assert!(matches!(other.prepare(&[]).await, Err(SinkError::Fatal(text)) if text.contains("another state")));
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL"]
    async fn views_show_the_latest() {
        let _server = SERVER.lock().await;
        let (mut sink, client) = fresh("sink_views").await;
        let profiles = tables::profiles(&[("city".to_string(), ValueType::String)]);
        let column = |name: &str, data_type, role| AggregateColumn { name: name.into(), data_type, role };
        let revenue = tables::aggregate(
            "revenue",
            &[
                column("country", DataType::Utf8, AggregateRole::Key),
                column("total", DataType::Decimal128(38, 6), AggregateRole::Sum),
                column("orders", DataType::Int64, AggregateRole::Count),
                column("largest", DataType::Float64, AggregateRole::Max),
            ],
        );
        let tables =
            [tables::events(), profiles.clone(), tables::profile_merges(), tables::segment_changes(), revenue.clone()];
        sink.prepare(&tables).await.expect("prepare");
        let some = |values: &[&'static str]| values.iter().map(|value| Some(*value)).collect::<Vec<_>>();
        let (a, b) = ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"); // views take ids for numbers
        let first = vec![
            (profiles.clone(), batch(&profiles, 1, &[("profile_id", some(&["a", "b"])), ("city", some(&["x", "y"]))])),
            (
                tables[3].clone(),
                batch(
                    &tables[3],
                    1,
                    &[
                        ("profile_id", some(&["a", "b", "a"])),
                        ("segment", some(&["s", "s", "t"])),
                        ("change", some(&["entered", "entered", "entered"])),
                    ],
                ),
            ),
            (
                tables[0].clone(),
                batch(
                    &tables[0],
                    1,
                    &[
                        ("message_id", some(&["1", "2", "3"])),
                        ("profile_id", vec![Some(a), Some(b), None]),
                        ("properties", vec![Some(r#"{"total": 12.50, "n": null}"#), None, None]),
                    ],
                ),
            ),
            (
                revenue.clone(),
                batch(
                    &revenue,
                    1,
                    &[
                        ("country", vec![Some("DE"), Some("FR"), None]),
                        ("total", vec![Some("1.25"), None, Some("2")]),
                        ("orders", some(&["1", "1", "1"])),
                        ("largest", vec![Some("3.5"), None, Some("2")]),
                    ],
                ),
            ),
        ];
        sink.ship(range(0, 1), &first).await.expect("first");
        let second = vec![
            (
                profiles.clone(),
                batch(
                    &profiles,
                    2,
                    &[
                        ("profile_id", some(&["a", "b"])),
                        ("city", vec![None, None]),
                        ("deleted", some(&["false", "true"])),
                    ],
                ),
            ),
            (
                tables[3].clone(),
                batch(
                    &tables[3],
                    2,
                    &[("profile_id", some(&["b"])), ("segment", some(&["s"])), ("change", some(&["exited"]))],
                ),
            ),
            (tables[2].clone(), batch(&tables[2], 2, &[("old_profile_id", some(&[b])), ("profile_id", some(&[a]))])),
            (
                revenue.clone(),
                batch(
                    &revenue,
                    2,
                    &[
                        ("country", vec![Some("DE"), None]),
                        ("total", some(&["0.5", "2"])),
                        ("orders", some(&["1", "2"])),
                        ("largest", some(&["1", "7"])),
                    ],
                ),
            ),
        ];
        sink.ship(range(1, 2), &second).await.expect("second");
        // A trait that became null is null, not its last value.
        assert_eq!(
            texts(&client, "SELECT concat(profile_id, ' ', ifNull(city, 'null')) FROM current_profiles").await,
            ["a null"]
        );
        assert_eq!(
            texts(&client, "SELECT concat(segment, profile_id) AS m FROM segment_members ORDER BY m").await,
            ["sa", "ta"]
        );
        assert_eq!(
            texts(
                &client,
                "SELECT concat(message_id, ' ', ifNull(substr(profile_id, 1, 1), 'null')) AS m FROM current_events ORDER BY m"
            )
            .await,
            ["1 a", "2 a", "3 null"]
        );
        assert_eq!(
            texts(
                &client,
                "SELECT concat(ifNull(country, 'null'), ' ', toString(total), ' ', toString(orders), ' ', \
                 ifNull(toString(largest), 'null')) AS m FROM revenue ORDER BY m"
            )
            .await,
            ["DE 1.75 2 3.5", "FR 0 1 null", "null 4 3 7"]
        );
        assert_eq!(
            texts(
                &client,
                "SELECT assumeNotNull(concat(properties, ' ', toString(JSONExtractFloat(properties, 'total')), ' ', \
                 toString(properties_json.total))) FROM events WHERE properties IS NOT NULL"
            )
            .await,
            [r#"{"total": 12.50, "n": null} 12.5 12.5"#]
        );
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL"]
    async fn views_follow_splits_moves_and_bans() {
        use crate::query::{Output, Target, query, render};
        let _server = SERVER.lock().await;
        let (mut sink, _) = fresh("sink_moves").await;
        let (tables, commits) = corrections();
        sink.prepare(&tables).await.expect("prepare");
        for (commit, rows) in (1u64..).zip(commits) {
            sink.ship(range(commit - 1, commit), &rows).await.expect("ship");
        }
        let target = Target::ClickHouse { url: url(), database: "sink_moves".to_string(), user: None, password: None };
        let csv = async |sql: &str| {
            let csv = render(&query(&target, sql).await.expect(sql), Output::Csv).expect(sql);
            csv.split_once('\n').expect("header").1.trim_end().to_string()
        };
        for (sql, expect, why) in CORRECTED {
            assert_eq!(csv(sql).await, expect, "{why}");
        }
        for (profile, expect) in EVENTS_OF {
            let sql = format!("SELECT message_id FROM profile_events(profile_id = '{profile}') ORDER BY 1");
            assert_eq!(csv(&sql).await, expect.join("\n"), "{sql}");
        }
        let columns = "SELECT * FROM current_events LIMIT 0";
        let of_one = format!("SELECT * FROM profile_events(profile_id = '{}') LIMIT 0", EVENTS_OF[0].0);
        let schema = async |sql: &str| query(&target, sql).await.expect(sql)[0].schema();
        assert_eq!(schema(columns).await.fields(), schema(&of_one).await.fields());
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL"]
    async fn sizes_and_overlaps_of_segments_are_as_counted_by_hand() {
        use crate::query::{Output, Target, query, render};
        let _server = SERVER.lock().await;
        for seed in 1..4 {
            let Memberships { tables, commits, answers } = memberships(seed);
            let (mut sink, _) = fresh("sink_sizes").await;
            sink.prepare(&tables).await.expect("prepare");
            for (commit, rows) in (1u64..).zip(commits) {
                sink.ship(range(commit - 1, commit), &rows).await.expect("ship");
            }
            let target =
                Target::ClickHouse { url: url(), database: "sink_sizes".to_string(), user: None, password: None };
            for (sql, expect) in answers {
                let csv = render(&query(&target, sql).await.expect(sql), Output::Csv).expect(sql);
                let answer = csv.split_once('\n').expect("header").1.trim_end().to_string();
                assert_eq!(answer, expect, "{sql} (seed {seed})");
            }
        }
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL"]
    async fn views_follow_sessions_that_late_events_join_and_cut() {
        use crate::query::{Output, Target, query, render};
        let _server = SERVER.lock().await;
        let (mut sink, _) = fresh("sink_sessions").await;
        let (tables, commits) = late_events();
        sink.prepare(&tables).await.expect("prepare");
        for (commit, rows) in (1u64..).zip(commits) {
            sink.ship(range(commit - 1, commit), &rows).await.expect("ship");
        }
        let target =
            Target::ClickHouse { url: url(), database: "sink_sessions".to_string(), user: None, password: None };
        let csv = async |sql: &str| {
            let csv = render(&query(&target, sql).await.expect(sql), Output::Csv).expect(sql);
            csv.split_once('\n').expect("header").1.trim_end().to_string()
        };
        for (sql, expect, why) in SESSIONS {
            assert_eq!(csv(sql).await, expect, "{why}");
        }
        let of_one = "profile_events(profile_id = 'b0000000000000000000000000000002')";
        // All but the one that is nobody's any more.
        let theirs = SESSIONS[0].1.replace("plain,\n", "");
        assert_eq!(csv(&SESSIONS[0].0.replace("current_events", of_one)).await, theirs, "of one profile");
        let schema = async |sql: &str| query(&target, sql).await.expect(sql)[0].schema();
        let current = schema("SELECT * FROM current_events LIMIT 0").await;
        assert_eq!(current.fields(), schema(&format!("SELECT * FROM {of_one} LIMIT 0")).await.fields());
    }

    /// Sets the test server's switch for the next insert.
    pub(in crate::sink::clickhouse) async fn fault(mode: &str) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let address = url().trim_start_matches("http://").trim_end_matches('/').to_string();
        let body = format!(r#"{{"mode":"{mode}","count":1}}"#);
        let request = format!(
            "POST /_fault HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "CLICKHOUSE_URL has no fault switch: {answer}");
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL of the test server, for its fault switch"]
    async fn every_fault_is_retried_and_the_rows_are_there_once() {
        let _server = SERVER.lock().await;
        let (mut sink, client) = fresh("sink_faults").await;
        let tables = [tables::events(), tables::identifiers()];
        sink.prepare(&tables).await.expect("prepare");
        for (commit, mode) in (1u64..).zip(["error", "cut", "commit_then_cut"]) {
            let rows: Vec<(Table, RecordBatch)> = tables
                .iter()
                .map(|table| {
                    let given = [(table.schema.field(0).name().as_str(), vec![Some("a"), Some("b"), Some("c")])];
                    (table.clone(), batch(table, commit, &given))
                })
                .collect();
            fault(mode).await;
            let failed = sink.ship(range(commit - 1, commit), &rows).await;
            // Whichever of the two came first.
            assert!(
                matches!(&failed, Err(SinkError::Retry(text)) if text.contains("insert into")),
                "{mode}: {failed:?}"
            );
            // As often as it takes, also by a process that was started anew.
            if mode == "commit_then_cut" {
                sink = ClickHouseSink::new(&url(), "sink_faults", None, None, "shop", "g1");
            }
            sink.ship(range(commit - 1, commit), &rows).await.expect(mode);
            for table in &tables {
                let sql = format!("SELECT count() FROM {} WHERE _batch = {commit}", table.name);
                assert_eq!(client.query_raw(&sql).fetch_one::<u64>().await.expect("count"), 3, "{mode} {}", table.name);
            }
        }
    }

    #[tokio::test]
    #[ignore = "needs CLICKHOUSE_URL"]
    async fn a_query_comes_back_as_batches_and_its_errors_name_what_is_wrong() {
        use crate::query::{Output, QueryError, Target, query, render};
        let _server = SERVER.lock().await;
        let (mut sink, _) = fresh("sink_query").await;
        let table = tables::events();
        sink.prepare(std::slice::from_ref(&table)).await.expect("prepare");
        let rows = batch(
            &table,
            1,
            &[
                ("message_id", vec![Some("1"), Some("2")]),
                ("event", vec![Some("Order Completed"), None]),
                ("properties", vec![Some(r#"{"total": 2.5}"#), None]),
            ],
        );
        sink.ship(range(0, 1), &[(table, rows)]).await.expect("ship");
        let target = Target::ClickHouse { url: url(), database: "sink_query".to_string(), user: None, password: None };
        let answer =
            async |sql: &str| query(&target, sql).await.map(|batches| render(&batches, Output::Csv).expect("csv"));
        assert_eq!(
            answer("SELECT message_id, event, JSONExtractFloat(properties, 'total') AS total, timestamp FROM events ORDER BY 1;")
                .await
                .expect("rows"),
            "message_id,event,total,timestamp\n1,Order Completed,2.5,2026-01-01T00:00:00Z\n2,,,2026-01-01T00:00:00Z\n"
        );
        assert_eq!(answer("SELECT message_id FROM events WHERE message_id = '?'").await.expect("none"), "message_id\n");
        for (sql, part) in [
            ("SELECT mesage_id FROM events", "mesage_id"),
            ("SELECT 1 FROM evnts", "evnts"),
            ("DROP TABLE events", "readonly"),
        ] {
            let refused = answer(sql).await.expect_err(sql);
            assert!(matches!(&refused, QueryError::Sql(text) if text.contains(part)), "{sql}: {refused}");
        }
        let nobody = Target::ClickHouse {
            url: "http://127.0.0.1:9".to_string(),
            database: "x".to_string(),
            user: None,
            password: None,
        };
        let refused = query(&nobody, "SELECT 1").await.expect_err("nobody listens");
        assert!(matches!(&refused, QueryError::Unavailable(text) if text.contains("http://127.0.0.1:9")), "{refused}");
    }
}
