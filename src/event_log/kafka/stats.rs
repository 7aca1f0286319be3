//! librdkafka's statistics as metrics: totals over all brokers, and over all clients of the same
//! name.

use metrics::{counter, gauge};
use rdkafka::statistics::{Broker, Statistics, Window};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// The statistics of one client.
pub struct ClientStatistics {
    client: &'static str,
    number: u64,
    /// The totals at its last report. They restart with each client; the metrics' do not.
    totals: HashMap<&'static str, i64>,
}

/// A client's state at its last report.
#[derive(Debug, Clone, Default, PartialEq)]
struct ClientGauges {
    brokers_up: u64,
    /// Microseconds, of the slowest broker.
    median_round_trip: i64,
    p99_round_trip: i64,
    queued_records: u64,
    queued_bytes: u64,
}

/// By name and number, all clients that have reported and still exist.
static GAUGES: Mutex<BTreeMap<(&'static str, u64), ClientGauges>> = Mutex::new(BTreeMap::new());
static CLIENTS: AtomicU64 = AtomicU64::new(0);

fn gauges() -> MutexGuard<'static, BTreeMap<(&'static str, u64), ClientGauges>> {
    GAUGES.lock().expect("nothing panics while it holds them")
}

impl ClientStatistics {
    pub fn of(client: &'static str) -> ClientStatistics {
        ClientStatistics {
            client,
            number: CLIENTS.fetch_add(1, Relaxed),
            totals: HashMap::new(),
        }
    }

    pub fn record(&mut self, stats: &Statistics) {
        let client = self.client;
        let mut count = |name: &'static str, total: i64| {
            let more = total - self.totals.insert(name, total).unwrap_or(0);
            counter!(name, "client" => client).increment(more.max(0) as u64);
        };
        count("opledger_kafka_received_bytes_total", stats.rx_bytes);
        count("opledger_kafka_sent_bytes_total", stats.tx_bytes);
        count("opledger_kafka_requests_total", stats.tx);
        count("opledger_kafka_received_records_total", stats.rxmsgs);
        count("opledger_kafka_sent_records_total", stats.txmsgs);
        let errors = |broker: &Broker| broker.txerrs + broker.rxerrs;
        let errors: u64 = stats.brokers.values().map(errors).sum();
        count("opledger_kafka_request_errors_total", errors as i64);

        let mut clients = gauges();
        clients.insert((client, self.number), ClientGauges::of(stats));
        let alike = clients.range((client, 0)..=(client, u64::MAX));
        let together = ClientGauges::of_all(alike.map(|(_, gauges)| gauges));
        drop(clients);
        together.show(client);
    }
}

impl Drop for ClientStatistics {
    fn drop(&mut self) {
        // The metrics stay until another client of this name reports.
        gauges().remove(&(self.client, self.number));
    }
}

impl ClientGauges {
    fn of(stats: &Statistics) -> ClientGauges {
        // Bootstrap addresses are listed as brokers with a negative number.
        let brokers = || stats.brokers.values().filter(|broker| broker.nodeid >= 0);
        let round_trip = |of: fn(&Window) -> i64| {
            let micros = brokers().filter_map(|broker| broker.rtt.as_ref().map(of));
            micros.max().unwrap_or(0)
        };
        let topics = stats.topics.values();
        let partitions: Vec<_> = topics.flat_map(|topic| topic.partitions.values()).collect();
        // All partitions share one queue, and each reports its length.
        let fetched = partitions.iter().map(|p| p.fetchq_cnt).max().unwrap_or(0);
        let fetched_bytes = partitions.iter().map(|p| p.fetchq_size).max().unwrap_or(0);
        ClientGauges {
            brokers_up: brokers().filter(|broker| broker.state == "UP").count() as u64,
            median_round_trip: round_trip(|window| window.p50),
            p99_round_trip: round_trip(|window| window.p99),
            queued_records: stats.msg_cnt + fetched.max(0) as u64,
            queued_bytes: stats.msg_size + fetched_bytes,
        }
    }

    /// Queues together; connections and round trips of the client for which they are worst.
    fn of_all<'a>(clients: impl Iterator<Item = &'a ClientGauges>) -> ClientGauges {
        let both = |one: ClientGauges, other: ClientGauges| ClientGauges {
            brokers_up: one.brokers_up.min(other.brokers_up),
            median_round_trip: one.median_round_trip.max(other.median_round_trip),
            p99_round_trip: one.p99_round_trip.max(other.p99_round_trip),
            queued_records: one.queued_records + other.queued_records,
            queued_bytes: one.queued_bytes + other.queued_bytes,
        };
        clients.cloned().reduce(both).unwrap_or_default()
    }

    fn show(&self, client: &'static str) {
        let show = |name: &'static str, value: f64| gauge!(name, "client" => client).set(value);
        show("opledger_kafka_brokers_up", self.brokers_up as f64);
        show("opledger_kafka_queue_records", self.queued_records as f64);
        show("opledger_kafka_queue_bytes", self.queued_bytes as f64);
        for (percentile, micros) in [("50", self.median_round_trip), ("99", self.p99_round_trip)] {
            // Not `quantile`: Prometheus keeps that label for summaries.
            gauge!("opledger_kafka_broker_rtt_seconds", "client" => client, "percentile" => percentile)
                .set(micros as f64 / 1e6);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rtt: i64, queued: u64, received: i64, state: &str) -> Statistics {
        let mut stats = Statistics {
            msg_cnt: queued,
            msg_size: 10 * queued,
            rxmsgs: received,
            ..Statistics::default()
        };
        let broker = Broker {
            nodeid: 1,
            state: state.into(),
            rtt: Some(Window {
                p50: rtt,
                p99: 2 * rtt,
                ..Window::default()
            }),
            ..Broker::default()
        };
        stats.brokers.insert("one".into(), broker);
        stats
    }

    #[test]
    fn clients_of_the_same_name_are_reported_together() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let shows = |line: &str| {
            let metrics = handle.render();
            assert!(
                metrics.lines().any(|shown| shown == line),
                "{line}: {metrics}"
            );
        };
        metrics::with_local_recorder(&recorder, || {
            let [mut one, mut other] = [(); 2].map(|()| ClientStatistics::of("two"));
            one.record(&report(1_000, 5, 100, "UP"));
            other.record(&report(3_000, 7, 50, "CONNECT"));
            one.record(&report(2_000, 6, 110, "UP"));
            shows("opledger_kafka_received_records_total{client=\"two\"} 160");
            shows("opledger_kafka_queue_records{client=\"two\"} 13");
            shows("opledger_kafka_queue_bytes{client=\"two\"} 130");
            shows("opledger_kafka_brokers_up{client=\"two\"} 0");
            let p99 = "opledger_kafka_broker_rtt_seconds{client=\"two\",percentile=\"99\"}";
            shows(&format!("{p99} 0.006"));
            // A client that is gone no longer counts.
            drop(other);
            one.record(&report(2_000, 6, 110, "UP"));
            shows("opledger_kafka_received_records_total{client=\"two\"} 160");
            shows("opledger_kafka_queue_records{client=\"two\"} 6");
            shows("opledger_kafka_brokers_up{client=\"two\"} 1");
        });
    }
}
