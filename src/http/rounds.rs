//! Holds the rounds of those who watch lists: a task for all of them, from the first
//! stream to the last.

use super::App;
use super::sse::REST;
use std::sync::Arc;

/// What a round takes counts as work of the streams, and the streams make room for it:
/// it never waits longer than `REST`, so that no row is forgotten before it was seen.
pub async fn hold_rounds(app: Arc<App>) {
    let mut head = app.progress.watchers.watch_all();
    loop {
        // Marked as seen before it is looked at.
        head.borrow_and_update();
        let began = tokio::time::Instant::now();
        if !app.rounds.hold() {
            return;
        }
        app.pace.took(began.elapsed());
        tokio::select! {
            // It is never closed: the sender is the ledger's own.
            _ = head.changed() => {}
            () = app.stopped() => return,
            // To end when there is nobody left.
            () = tokio::time::sleep(app.config.streams.keep_alive) => {}
        }
        tokio::time::sleep_until(began + REST).await;
    }
}
