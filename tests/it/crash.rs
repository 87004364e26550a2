//! Promise 1: after a crash at any point, state and tables equal those of an uninterrupted run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use crate::cdnow::{by_month, path, produce};
use crate::support::{Running, clickhouse, copy_pipeline, output_of, servers, text_of, tributary, unique};

/// Webhooks by id: every body that came with it, and how often.
pub type Received = Arc<Mutex<BTreeMap<String, Vec<Bytes>>>>;

/// A receiver on loopback that lives as long as the test's process. It answers after `delay`.
pub fn receiver(delay: Duration) -> (String, Received) {
    let received = Received::default();
    let shared = received.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("non-blocking");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async move {
            let take = async move |State(received): State<Received>, headers: HeaderMap, body: Bytes| {
                let id = headers["webhook-id"].to_str().expect("text").to_string();
                received.lock().expect("lock").entry(id).or_default().push(body);
                tokio::time::sleep(delay).await;
                StatusCode::NO_CONTENT
            };
            let router = Router::new().route("/hook", post(take)).with_state(shared);
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            axum::serve(listener, router).await.expect("serving");
        });
    });
    (format!("http://{address}/hook"), received)
}

/// What must not depend on crashes: every row but for `_batch`, `_seq` and `_as_of`, which follow from where batches end.
fn tables(url: &str, database: &str) -> BTreeMap<&'static str, String> {
    let queries = [
        ("events", "SELECT * EXCEPT (_batch, _seq) FROM events ORDER BY message_id"),
        ("current_profiles", "SELECT * EXCEPT (_batch, _seq, _as_of) FROM current_profiles ORDER BY profile_id"),
        ("identifiers", "SELECT * EXCEPT (_batch, _seq) FROM identifiers ORDER BY type, value"),
        ("segment_members", "SELECT segment, profile_id FROM segment_members ORDER BY 1, 2"),
        ("revenue_by_month", "SELECT * FROM revenue_by_month ORDER BY month"),
    ];
    queries.into_iter().map(|(name, sql)| (name, clickhouse(url, database, sql))).collect()
}

#[test]
fn twenty_kills_at_random_moments_change_nothing() {
    const KILLS: usize = 20;
    let seed = std::env::var("CRASH_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()));
    println!("CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let servers = servers();
    let folder = tempfile::tempdir().expect("folder");
    let topic = unique("crash");
    produce(&topic, &servers.kafka);
    let run = |database: &str, url: &str, data: &str| {
        let pipeline = copy_pipeline("cdnow", &folder.path().join(data), &[("cdnow.orders", &topic)]);
        let activation = format!(
            "destinations:\n  crm: {{ webhook: {{ url: \"{url}\", allow_private: true }} }}\n\
             activations:\n  welcome:\n    trigger: {{ enters: loyal }}\n    consent: none\n    status: live\n    do: [ {{ id: hello, send: {{ to: crm }} }} ]\n"
        );
        std::fs::write(pipeline.join("activation.yaml"), activation).expect("file");
        let data = folder.path().join(data).join("data");
        let mut run = tributary(&["run", "--drain", "-C", path(&pipeline), "--data", path(&data)]);
        run.env("KAFKA_BROKERS", &servers.kafka)
            .env("CLICKHOUSE_URL", &servers.clickhouse)
            .env("CLICKHOUSE_DATABASE", database)
            // Small batches: many commits to be killed between.
            .env("TRIBUTARY_BATCH_RECORDS", "700")
            .stderr(std::process::Stdio::piped());
        run
    };

    let (calm_url, calm_received) = receiver(Duration::ZERO);
    let calm = unique("calm");
    output_of(run(&calm, &calm_url, "calm"));

    let (url, received) = receiver(Duration::ZERO);
    let killed = unique("killed");
    let (mut kills, mut ended_early) = (0, 0);
    while kills < KILLS {
        let mut running = Running::start(run(&killed, &url, "killed"));
        std::thread::sleep(Duration::from_millis(random.u64(100..1500)));
        match running.0.try_wait().expect("a child") {
            Some(status) => {
                assert!(status.success(), "ended by itself with {status} after {kills} kills");
                ended_early += 1;
                assert!(ended_early < 100, "the run ends before it can be killed");
                // It had finished: the next kills hit restarts that have nothing left to read.
                let mut idle = Running::start(run(&killed, &url, "killed"));
                std::thread::sleep(Duration::from_millis(random.u64(20..300)));
                idle.kill();
                kills += 1;
            }
            None => {
                running.kill();
                kills += 1;
            }
        }
    }
    let last = run(&killed, &url, "killed").output().expect("the program starts");
    assert!(last.status.success(), "{}", text_of(&last));

    let (expected, found) = (tables(&servers.clickhouse, &calm), tables(&servers.clickhouse, &killed));
    for (name, rows) in &expected {
        assert!(!rows.is_empty(), "{name} is empty");
        assert!(found[name] == *rows, "{name} differs after {KILLS} kills (CRASH_SEED={seed})");
    }
    let months = clickhouse(&servers.clickhouse, &killed, "SELECT count() FROM revenue_by_month");
    assert_eq!(months, by_month().len().to_string());

    assert_same_webhooks(&calm_received, &received, &format!("CRASH_SEED={seed}"));
}

/// The same ids came, and each with one body, however often. What a body says of a profile follows from where batches end.
pub fn assert_same_webhooks(calm: &Received, received: &Received, when: &str) {
    let (calm, received) = (calm.lock().expect("lock"), received.lock().expect("lock"));
    let ids = |received: &BTreeMap<String, Vec<Bytes>>| received.keys().cloned().collect::<BTreeSet<String>>();
    assert!(!calm.is_empty(), "no webhook came");
    assert_eq!(ids(&received), ids(&calm), "webhook ids complete ({when})");
    for (id, bodies) in received.iter() {
        assert!(bodies.iter().all(|body| body == &bodies[0]), "{id} was repeated with another body ({when})");
    }
}
