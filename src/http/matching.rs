//! Matches new changes with the filters of all streams of lists: a task for all of them, from the
//! first stream to the last.

use super::App;
use super::sse::REST;
use crate::feed::subscriptions::Matched;
use std::sync::Arc;
use tokio::time::Instant;

/// Counts as work of the streams.
pub async fn match_changes(app: Arc<App>) {
    let mut head = app.progress.watchers.watch_all();
    loop {
        // Marked as seen before it is read.
        head.borrow_and_update();
        let began = Instant::now();
        loop {
            let turn = app.pace.turn_before_others().await;
            let forget = |row: Option<&_>| app.documents.forget(row);
            let matched = turn.work().count(|| app.subscriptions.match_new(forget));
            match matched {
                Matched::Some => {}
                Matched::All => break,
                Matched::NoSubscriber => return,
            }
        }
        tokio::select! {
            biased;
            // It is never closed: the sender is the ledger's own.
            _ = head.changed() => {}
            () = app.stopped() => return,
            // To end when there is nobody left.
            () = tokio::time::sleep(app.config.streams.keep_alive) => {}
        }
        tokio::time::sleep_until(began + REST).await;
    }
}
