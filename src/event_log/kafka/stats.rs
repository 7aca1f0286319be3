//! librdkafka's statistics as metrics: totals over all brokers, by client.

use metrics::{counter, gauge};
use rdkafka::statistics::Statistics;
use std::collections::HashMap;

/// A client's totals at its last report. They restart with each client; the metrics' do not.
pub type Totals = HashMap<&'static str, i64>;

pub fn record(client: &'static str, before: &mut Totals, stats: &Statistics) {
    let mut count = |name: &'static str, total: i64| {
        let more = total - before.insert(name, total).unwrap_or(0);
        counter!(name, "client" => client).increment(more.max(0) as u64);
    };
    count("opledger_kafka_received_bytes_total", stats.rx_bytes);
    count("opledger_kafka_sent_bytes_total", stats.tx_bytes);
    count("opledger_kafka_requests_total", stats.tx);
    count("opledger_kafka_received_records_total", stats.rxmsgs);
    count("opledger_kafka_sent_records_total", stats.txmsgs);
    let errors = |broker: &rdkafka::statistics::Broker| broker.txerrs + broker.rxerrs;
    let errors: u64 = stats.brokers.values().map(errors).sum();
    count("opledger_kafka_request_errors_total", errors as i64);

    let show = |name: &'static str, value: f64| gauge!(name, "client" => client).set(value);
    // Bootstrap addresses are listed as brokers with a negative number.
    let brokers = || stats.brokers.values().filter(|broker| broker.nodeid >= 0);
    let up = brokers().filter(|broker| broker.state == "UP").count();
    show("opledger_kafka_brokers_up", up as f64);
    for (percentile, of) in [
        ("50", (|w| w.p50) as fn(&rdkafka::statistics::Window) -> i64),
        ("99", |w| w.p99),
    ] {
        let micros = brokers().filter_map(|broker| broker.rtt.as_ref().map(of));
        let seconds = micros.max().unwrap_or(0) as f64 / 1e6;
        // Not `quantile`: Prometheus keeps that label for summaries.
        gauge!("opledger_kafka_broker_rtt_seconds", "client" => client, "percentile" => percentile)
            .set(seconds);
    }
    let partitions = || {
        stats
            .topics
            .values()
            .flat_map(|topic| topic.partitions.values())
    };
    // All partitions share one queue, and each reports its length.
    let fetched = partitions()
        .map(|partition| partition.fetchq_cnt)
        .max()
        .unwrap_or(0);
    let fetched_bytes = partitions()
        .map(|partition| partition.fetchq_size)
        .max()
        .unwrap_or(0);
    show(
        "opledger_kafka_queue_records",
        (stats.msg_cnt as i64 + fetched) as f64,
    );
    show(
        "opledger_kafka_queue_bytes",
        (stats.msg_size + fetched_bytes) as f64,
    );
}
