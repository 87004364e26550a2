//! Logs on stderr, metrics for Prometheus. The one list of metric names is [`describe`].

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts logging; `filter` is in the syntax of `RUST_LOG` (`info`, `tributary=debug`). Called once.
pub fn init_logs(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_target(false).with_ansi(std::io::stderr().is_terminal());
    // A second call (in tests) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
}

/// Installs the recorder whose text is served at `/metrics`. A second call in a process gives a handle of its own
/// that records nothing.
pub fn init_metrics() -> PrometheusHandle {
    let seconds = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
    let builder = PrometheusBuilder::new();
    let builder = builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_string()), &seconds)
        .unwrap_or_else(|_| PrometheusBuilder::new());
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        describe();
    }
    handle
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("tributary_records_total", "raw records committed");
    describe_counter!("tributary_events_total", "events applied, by source");
    describe_counter!(
        "tributary_duplicates_total",
        "events dropped because their message id was seen before, by source"
    );
    describe_counter!("tributary_rejected_total", "input rejected, by source and code");
    describe_counter!("tributary_identity_conflicts_total", "identifiers that were not joined, by cause");
    describe_counter!(
        "tributary_identity_hub_refusals_total",
        "links refused because the profile has all the identifiers it may have"
    );
    describe_counter!("tributary_alerts_total", "series that turned odd, by alert and direction");
    describe_counter!(
        "tributary_alert_groups_left_out_total",
        "partial rows of groups that an alert does not watch, because there are too many, by alert"
    );
    describe_counter!("tributary_deliveries_total", "delivery attempts, by destination and outcome");
    describe_counter!("tributary_rows_shipped_total", "rows acknowledged by the table sink");
    describe_counter!(
        "tributary_ship_retries_total",
        "shipments that the table sink did not take and that are tried again"
    );
    describe_counter!("tributary_state_bytes_total", Unit::Bytes, "keys and values committed to the state");
    describe_counter!("tributary_timers_fired_total", "profiles judged because their time had come");
    describe_gauge!("tributary_definition_ready", "1 once a trait or segment knows the past, by kind and name");
    describe_gauge!("tributary_fill_running", "1 while a new definition comes to know the past");
    describe_gauge!("tributary_source_lag", "records between position and end, by source");
    describe_gauge!("tributary_profiles", "profiles");
    describe_gauge!("tributary_identifiers", "identifiers");
    describe_gauge!("tributary_segment_members", "members, by segment");
    describe_gauge!("tributary_journeys_running", "people under way in journeys, by activation");
    describe_counter!("tributary_journey_steps_total", "steps of journeys, by activation and what became of them");
    describe_gauge!("tributary_sink_waiting_commits", "commits whose rows the table sink has not acknowledged");
    describe_gauge!("tributary_delivery_queue", "deliveries not yet taken or given up, by destination");
    describe_gauge!(
        "tributary_destination_breaker",
        "0 closed; 1 half open, one request is on its way to see whether the other side is back; 2 open, nothing is sent; by destination"
    );
    describe_gauge!(
        "tributary_delivery_oldest_timestamp_seconds",
        Unit::Seconds,
        "when the oldest delivery that waits was set off, 0 where none waits, by destination"
    );
    describe_gauge!("tributary_delivery_held", "deliveries in memory, by destination; the others wait in the state");
    describe_histogram!("tributary_delivery_seconds", Unit::Seconds, "time of one request, by destination");
    describe_histogram!("tributary_apply_seconds", Unit::Seconds, "time to apply one batch");
    describe_histogram!("tributary_commit_seconds", Unit::Seconds, "time until a commit is durable");
    describe_histogram!("tributary_ship_seconds", Unit::Seconds, "time to ship one range to the table sink");
}
