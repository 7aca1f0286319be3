//! What several workers publish, and what readers see of it.

use super::*;
use crate::wire::change::{Moves, PartitionMove, encode};
use crate::wire::position::{LastOffsets, LogId, Offset, Partition};
use futures_util::FutureExt;

const LOG: LogId = LogId(*b"abcd1234");

fn token(offset: u64) -> Token {
    Token {
        log: LOG,
        positions: LastOffsets::from([(0, offset)]),
    }
}

fn at(offset: u64) -> (Token, NextOffsets) {
    (token(offset), NextOffsets::from([(0, offset + 1)]))
}

/// An operation of each worker.
fn names(workers: Workers) -> Vec<String> {
    let name = |worker| {
        let names = (0..).map(|n| format!("op-{n}"));
        let mut own = names.filter(|id| workers.of(OperationId(id).slice()) == worker);
        own.next().expect("some name is in each slice")
    };
    (0..workers.count()).map(name).collect()
}

struct Three {
    progress: Progress,
    names: Vec<String>,
}

/// Three workers, all at offset 0 of a partition; the next change is 10.
fn three() -> Three {
    let workers = Workers::new(3);
    let progress = Progress::new(None, workers);
    progress.begin(ChangeNumber(10), vec![at(0); 3]);
    Three {
        progress,
        names: names(workers),
    }
}

impl Three {
    fn publish(&self, worker: usize, offset: u64, change: Option<u64>) {
        let (token, next) = at(offset);
        let published = change.map(|number| WrittenChange {
            change: self.change(worker, offset, number),
            entries: Vec::new(),
        });
        self.progress.publish(worker, token, &next, published);
    }

    /// Of the worker's operation.
    fn change(&self, worker: usize, offset: u64, number: u64) -> Change {
        let moved = vec![PartitionMove {
            partition: Partition(0),
            before: None,
            after: Offset(offset),
        }];
        let row = encode(
            &Moves::of_all(moved),
            [OperationId(&self.names[worker])].into_iter(),
        );
        Change::new(ChangeNumber(number), row.into(), 1)
    }

    /// The position of all and the number of the next change.
    fn whole(&self) -> (u64, u64) {
        shown(&self.progress.applied())
    }

    fn of(&self, worker: usize) -> (u64, u64) {
        shown(&self.progress.applied_of(OperationId(&self.names[worker])))
    }

    /// The numbers of the changes that streams were handed.
    fn handed(&self) -> Vec<u64> {
        let recent = self.progress.watchers.recent_from(ChangeNumber(10));
        let recent = recent.unwrap_or_default();
        recent.iter().map(|change| change.number.0).collect()
    }
}

fn shown(applied: &Applied) -> (u64, u64) {
    let token = applied.token.as_ref().expect("the projector has begun");
    let offset = token.positions[&Partition(0)];
    assert_eq!(applied.next, NextOffsets::from([(0, offset.0 + 1)]));
    assert_eq!(applied.text(), format!("{LOG};0:{offset}").as_bytes());
    (offset.0, applied.next_change.0)
}

#[test]
fn changes_are_handed_on_in_the_order_of_their_numbers() {
    let three = three();
    three.publish(0, 7, Some(12));
    three.publish(1, 8, Some(11));
    assert_eq!((three.whole(), three.handed()), ((0, 10), vec![]));
    assert_eq!(
        [three.of(0), three.of(1), three.of(2)],
        [(7, 13), (8, 12), (0, 10)]
    );
    three.publish(2, 9, Some(10));
    assert_eq!((three.whole(), three.handed()), ((7, 13), vec![10, 11, 12]));
}

#[test]
fn the_whole_has_no_position_before_the_changes_that_it_contains() {
    let three = three();
    three.publish(0, 5, Some(11));
    // More positions of the same worker do not overtake its change.
    three.publish(0, 6, None);
    three.publish(1, 6, None);
    three.publish(2, 6, None);
    assert_eq!(three.of(0), (6, 12));
    assert_eq!((three.whole(), three.handed()), ((0, 10), vec![]));
    three.publish(1, 7, Some(10));
    assert_eq!((three.whole(), three.handed()), ((6, 12), vec![10, 11]));
    // Of a worker without changes, positions count at once.
    three.publish(0, 8, None);
    three.publish(2, 9, None);
    assert_eq!(three.whole(), (7, 12));
}

#[test]
fn numbers_that_are_left_out_hold_nobody_up() {
    let three = three();
    three.publish(0, 3, Some(13));
    three.publish(1, 3, Some(10));
    three.publish(2, 3, None);
    assert_eq!(three.handed(), [10]);
    three.progress.leave_out(ChangeNumber(11), ChangeNumber(13));
    assert_eq!((three.whole(), three.handed()), ((3, 14), vec![10, 11, 13]));
    // What follows another one's failed write waits for no more than that.
    three.progress.leave_out(ChangeNumber(15), ChangeNumber(16));
    assert_eq!(three.whole(), (3, 14));
    three.publish(2, 4, Some(14));
    assert_eq!(three.whole(), (3, 16));
}

#[test]
fn a_projector_that_begins_again_does_not_return_to_earlier_positions() {
    let three = three();
    three.publish(0, 5, Some(11));
    three.publish(1, 6, None);
    three.publish(2, 6, None);
    let head = three.progress.watchers.watch_all();
    let first = three.progress.watchers.watch(OperationId(&three.names[0]));
    let mut woken = Box::pin(first.changed());
    woken.as_mut().enable();
    // The store has the change that waited, and not the positions that came without one.
    let stored = vec![at(5), at(0), at(2)];
    three.progress.begin(ChangeNumber(12), stored);
    assert_eq!(
        [three.of(0), three.of(1), three.of(2)],
        [(5, 12), (6, 12), (6, 12)]
    );
    assert_eq!(three.whole(), (5, 12));
    assert_eq!(*head.borrow(), ChangeNumber(12));
    assert_eq!(
        three
            .progress
            .watchers
            .recent_from(ChangeNumber(11))
            .map(|r| r.len()),
        None
    );
    assert!(woken.now_or_never().is_some(), "it may be in the store");
    three.publish(1, 7, Some(12));
    three.publish(2, 7, None);
    three.publish(0, 7, None);
    assert_eq!(three.whole(), (7, 13));
}

#[test]
fn a_wait_for_one_operation_does_not_wait_for_other_workers() {
    let three = three();
    let progress = &three.progress;
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (wanted, deadline) = (token(4), tokio::time::Instant::now().into_std());
        let deadline = deadline + Duration::from_secs(5);
        let mut own =
            Box::pin(progress.wait_for_operation(OperationId(&three.names[0]), &wanted, deadline));
        let mut all = Box::pin(progress.wait_for(&wanted, deadline));
        assert_eq!(own.as_mut().now_or_never(), None);
        // Worker 1 has taken the number before, and is held up.
        three.publish(0, 4, Some(11));
        assert_eq!(own.now_or_never(), Some(Ok(())));
        assert_eq!(all.as_mut().now_or_never(), None);
        assert_eq!(all.await, Err(WaitError::TimedOut));
        let other = OperationId(&three.names[1]);
        let other = progress.wait_for_operation(other, &wanted, deadline).await;
        assert_eq!(other, Err(WaitError::TimedOut));
    });
}

#[test]
fn what_is_known_of_the_log_reaches_every_reader() {
    let three = three();
    let logs = || {
        let each = three.names.iter();
        let each = each.map(|id| three.progress.applied_of(OperationId(id)).log.clone());
        let mut all: Vec<_> = each.chain([three.progress.applied().log.clone()]).collect();
        all.dedup();
        all
    };
    assert_eq!(logs(), [LogState::Confirmed]);
    three.progress.log_failed();
    assert_eq!(logs(), [LogState::Unreachable]);
    three.progress.suspect("why".into());
    // A batch that was under way confirms nothing.
    three.publish(0, 3, Some(10));
    assert_eq!(logs(), [LogState::Suspect("why".into())]);
    three.progress.begin(ChangeNumber(11), vec![at(3); 3]);
    assert_eq!(logs(), [LogState::Confirmed]);
    three.progress.set_log(LogState::Halted("for good".into()));
    three.progress.begin(ChangeNumber(11), vec![at(3); 3]);
    three.progress.set_log(LogState::Confirmed);
    assert_eq!(logs(), [LogState::Halted("for good".into())]);
}

#[test]
fn with_one_worker_all_readers_share_what_is_published() {
    let progress = Progress::new(None, Workers::ONE);
    progress.begin(ChangeNumber(10), vec![at(0)]);
    let (token, next) = at(1);
    progress.publish(0, token, &next, None);
    let (own, whole) = (progress.applied_of(OperationId("op")), progress.applied());
    assert!(Arc::ptr_eq(&own, &whole));
    assert_eq!(shown(&whole), (1, 10));
}
