//! The metrics and their help texts. Base units; no label grows with the number of operations.

use crate::projector::projection::count_anomalies;
use crate::projector::{RecordBatch, Tally};
use crate::store::{self, Db};
use crate::webhook;
use crate::wire::fault::Rule;
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0,
    15.0, 30.0, 60.0,
];
const SIZES: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6, 1e7,
];

/// A line for each metric: its kind, its name and its help text.
macro_rules! describe {
    (@counter $name:literal $help:literal) => { metrics::describe_counter!($name, $help) };
    (@gauge $name:literal $help:literal) => { metrics::describe_gauge!($name, $help) };
    (@histogram $name:literal $help:literal) => { metrics::describe_histogram!($name, $help) };
    ($($kind:ident $name:literal $help:literal)*) => { $(describe!(@$kind $name $help);)* };
}

/// Installs the recorder of this process and describes each metric.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_records".into()), SIZES)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), SIZES)?
        .install_recorder()?;
    describe! {
        gauge "opledger_anomalies" "Operations that have this anomaly, by kind"
        gauge "opledger_applied_offset" "The offset of a partition after all that is in the store"
        histogram "opledger_batch_apply_seconds" "Time to fold and write one batch"
        histogram "opledger_batch_bytes" "Bytes of the records applied in one batch"
        histogram "opledger_batch_records" "Records applied in one batch"
        counter "opledger_clock_ahead_total" "Events whose time was further ahead of their arrival than is allowed"
        counter "opledger_dead_letters_total" "Invalid records, by reason"
        gauge "opledger_dead_letters_unsent" "Dead letters that the dead-letter topic does not have, by state"
        gauge "opledger_disk_free_bytes" "Free space on the disk of the data folder"
        gauge "opledger_event_streams" "Open event streams"
        histogram "opledger_event_visible_seconds" "Time from arrival in the log to being served; the oldest event of each batch"
        counter "opledger_events_applied_total" "Events folded into the store"
        histogram "opledger_http_request_seconds" "Time to response headers"
        counter "opledger_http_requests_total" "Requests by method, route and status"
        gauge "opledger_kafka_broker_rtt_seconds" "Round trip to the slowest broker, by client and percentile"
        gauge "opledger_kafka_brokers_up" "Brokers that a client is connected to"
        gauge "opledger_kafka_queue_bytes" "Bytes of the records queued in a client"
        gauge "opledger_kafka_queue_records" "Records queued in a client: to be sent, or fetched ahead"
        counter "opledger_kafka_received_bytes_total" "Bytes received from brokers, by client"
        counter "opledger_kafka_received_records_total" "Records fetched, by client"
        counter "opledger_kafka_request_errors_total" "Requests that failed or could not be sent, by client"
        counter "opledger_kafka_requests_total" "Requests sent to brokers, by client"
        counter "opledger_kafka_sent_bytes_total" "Bytes sent to brokers, by client"
        counter "opledger_kafka_sent_records_total" "Records produced, by client"
        gauge "opledger_log_end_offset" "The next offset that a partition of the log will assign"
        gauge "opledger_log_first_offset" "The oldest offset that a partition of the log still has"
        counter "opledger_log_lines_lost_total" "Log lines that could not be written to standard error"
        histogram "opledger_log_read_seconds" "Time to get the records of one batch, including the wait for the first one"
        gauge "opledger_operations" "Operations with a document, by status"
        gauge "opledger_partition_lag_records" "Records of a partition that are not in the store yet, by the reader's position"
        gauge "opledger_projector_lag_records" "Records in the log that are not in the store yet"
        gauge "opledger_projector_state" "1 for the projector's current state, 0 for the others"
        counter "opledger_snapshots_refolded_total" "Damaged snapshots that were restored from the history"
        counter "opledger_store_failures_total" "Reads and writes of the projector that the store refused"
        counter "opledger_terminal_revised_total" "Terminal events that arrived later and changed a terminal state that was served"
        gauge "opledger_unreadable_operations" "Operations whose document cannot be read, or that the lists leave out"
        gauge "opledger_unsent_bytes" "Bytes of responses of more than 64 KiB that clients have not received yet, or that are cached"
        gauge "opledger_watched_operations" "Operations that a waiting request or a stream watches"
        histogram "opledger_webhook_attempt_seconds" "Duration of a webhook delivery attempt"
        gauge "opledger_webhook_attempts_in_flight" "Webhook delivery attempts in flight"
        counter "opledger_webhook_attempts_total" "Webhook delivery attempts, by outcome"
        gauge "opledger_webhook_deliveries" "Webhook deliveries that are due and not made, by state"
        gauge "opledger_webhook_oldest_failing_seconds" "Time since the first attempt of the delivery that has been failing for longest"
        gauge "opledger_webhook_targets_failing" "Receivers whose last attempt failed"
        gauge "opledger_worker_busy_ratio" "Which part of its time a worker works, of late: 0 to 1"
        gauge "opledger_worker_lag_records" "Records in the log that a worker has not passed, those for other workers among them"
    }
    // Present from the start, so that increase() sees the first increment.
    for counter in [
        "opledger_events_applied_total",
        "opledger_terminal_revised_total",
        "opledger_snapshots_refolded_total",
        "opledger_clock_ahead_total",
        "opledger_log_lines_lost_total",
    ] {
        counter!(counter).increment(0);
    }
    let failures = webhook::attempt::FailureKind::ALL.map(webhook::attempt::FailureKind::as_str);
    for outcome in failures.into_iter().chain(["delivered"]) {
        counter!("opledger_webhook_attempts_total", "outcome" => outcome).increment(0);
    }
    for rule in Rule::ALL {
        counter!("opledger_dead_letters_total", "reason" => rule.reason()).increment(0);
    }
    Ok(handle)
}

pub fn projector_opened(db: &dyn Db) -> store::Result<()> {
    for (kind, count) in count_anomalies(db)? {
        gauge!("opledger_anomalies", "kind" => kind).set(count as f64);
    }
    Ok(())
}

pub fn read(took: Duration) {
    histogram!("opledger_log_read_seconds").record(took.as_secs_f64());
}

pub fn batch_applied(record_batch: &RecordBatch, tally: &Tally, took: Duration) {
    counter!("opledger_events_applied_total").increment(tally.applied);
    for (reason, count) in &tally.dead_letters {
        counter!("opledger_dead_letters_total", "reason" => *reason).increment(*count);
    }
    for (kind, change) in tally.anomalies.iter().filter(|(_, change)| **change != 0) {
        gauge!("opledger_anomalies", "kind" => *kind).increment(*change as f64);
    }
    counter!("opledger_terminal_revised_total").increment(tally.terminal_revised);
    counter!("opledger_clock_ahead_total").increment(tally.clock_ahead);
    counter!("opledger_snapshots_refolded_total").increment(tally.refolded);
    histogram!("opledger_batch_records").record(record_batch.records() as f64);
    histogram!("opledger_batch_bytes").record(record_batch.bytes() as f64);
    histogram!("opledger_batch_apply_seconds").record(took.as_secs_f64());
    if let Some(age) = record_batch.age() {
        histogram!("opledger_event_visible_seconds").record(age.as_secs_f64());
    }
}

pub fn store_failed(error: &store::Error) {
    let kind = match error {
        store::Error::Closed(_) => "closed",
        store::Error::NoSpace(_) => "no_space",
        store::Error::Io(_) => "io",
        store::Error::Corrupt(_) => "corrupt",
        store::Error::OtherFormat(_) => "other_format",
        store::Error::InUse(_) => "in_use",
        store::Error::Setting(_) => "setting",
    };
    counter!("opledger_store_failures_total", "kind" => kind).increment(1);
}
