//! Requests that wait for a change.

use super::App;
use std::future::Future;
use std::time::Instant;

/// Whether it happened before the deadline and before the ledger stops.
pub async fn happened(app: &App, what: impl Future, deadline: Instant) -> bool {
    tokio::select! {
        _ = what => true,
        () = tokio::time::sleep_until(deadline.into()) => false,
        () = app.stopped() => false,
    }
}
