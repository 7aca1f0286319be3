//! File descriptors of this process, and their distribution: first the files of the ledger, then
//! connections. A client can wait or reconnect; a log that cannot open a file accepts nothing.

use crate::app::uses_kafka;
use crate::config::Config;
use crate::store::rocks::open_files;
use rustix::process::{Resource, getrlimit, setrlimit};

/// The store, the log, and the control log.
const DATABASES: u64 = 3;
/// Files that a database has open in addition to its sorted ones, the runtime's own descriptors,
/// standard streams, and connections that are being refused.
const REST: u64 = 64;
/// Connections to brokers, by the clients of both topics.
const KAFKA: u64 = 64;
/// The minimum number of connections.
const LEAST: u64 = 8;

/// Raises the soft limit, which is often 1024, to the hard one.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If raising it is not allowed, the old limit stays and everything derived from it is
    // smaller.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Descriptors that this process may have.
pub fn limit() -> u64 {
    // Without a limit, the number is the largest possible.
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The limit on connections: the configured one, or fewer if the open-file limit requires it.
pub fn connections(limit: u64, config: &Config) -> usize {
    let notifications = match config.notifications.allow.is_empty() {
        true => 0,
        false => config.notifications.in_flight as u64,
    };
    let kafka = if uses_kafka(config) { KAFKA } else { 0 };
    let kept = DATABASES * open_files(limit) + REST + kafka + notifications;
    let left = limit.saturating_sub(kept).max(LEAST);
    let configured = config.server.max_connections;
    if (left as usize) < configured {
        tracing::warn!(
            limit,
            kept,
            connections = left,
            "the limit on open files allows fewer connections than server.max_connections: \
             raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    configured.min(left as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_rest_leaves() {
        let config = Config::default();
        assert_eq!(connections(1 << 20, &config), config.server.max_connections);
        assert_eq!(
            connections(u64::MAX, &config),
            config.server.max_connections
        );
        for limit in [256, 1024, 4096] {
            let connections = connections(limit, &config) as u64;
            assert!(connections >= limit / 4, "{connections} of {limit}");
            assert!(connections + 3 * open_files(limit) + REST <= limit);
        }
        assert_eq!(connections(16, &config), LEAST as usize);
    }
}
