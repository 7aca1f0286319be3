//! Streams of lists subscribe with their filters. New changes are matched once for all of them:
//! a subscription is woken only by a change that may concern its filter. All others sleep on, and
//! the change counts as seen by them: a subscription that wakes continues from the first change
//! that concerns it.

use super::index::Key;
use super::seen::SeenBySlice;
use super::watch::{Change, Watchers};
use crate::rows::filter::Filter;
use crate::wire::change::{self, ChangeNumber};
use crate::wire::position::LastOffsets;
use hashbrown::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

pub struct Subscriptions {
    watchers: Arc<Watchers>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Changes before this were matched with every filter.
    matched: ChangeNumber,
    /// The positions of each slice that contain these changes, or fewer.
    seen: SeenBySlice,
    subscribers: HashMap<Arc<Filter>, HashMap<u64, Subscriber>>,
    /// Filters by a key of the operations that they may select.
    by_key: HashMap<Key, Vec<Arc<Filter>>>,
    /// Filters without a key. Every change is matched with them.
    without_key: Vec<Arc<Filter>>,
    last_number: u64,
    is_running: bool,
}

struct Subscriber {
    /// The first change that may concern it, of those that it has not taken.
    due: Option<ChangeNumber>,
    wake: Arc<Notify>,
}

/// A place among the changes, and positions that contain the changes before it, or fewer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    pub next: ChangeNumber,
    pub positions: LastOffsets,
}

/// The subscription of one stream. Dropping it ends it.
pub struct Subscription {
    subscriptions: Arc<Subscriptions>,
    filter: Arc<Filter>,
    number: u64,
    wake: Arc<Notify>,
}

/// Rows matched at once.
const ROWS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    All,
    Some,
    /// Nobody subscribes any more: nothing is matched until somebody does.
    NoSubscriber,
}

/// Whether somebody has to call [`Subscriptions::match_new`] from now on, until there is no
/// subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matching {
    Running,
    ToBeStarted,
}

impl Subscriptions {
    pub fn new(watchers: Arc<Watchers>) -> Subscriptions {
        Subscriptions {
            watchers,
            state: Mutex::default(),
        }
    }

    /// `now` is where the changes end, or before it: matching begins there with the first
    /// subscriber.
    pub fn subscribe(
        self: &Arc<Subscriptions>,
        filter: Arc<Filter>,
        now: Point,
    ) -> (Subscription, Matching) {
        let mut state = self.state();
        let matching = match state.is_running {
            true => Matching::Running,
            false => {
                state.matched = now.next;
                state.seen = SeenBySlice::of(now.positions);
                state.is_running = true;
                self.watchers.set_lists_watched(true);
                Matching::ToBeStarted
            }
        };
        state.last_number += 1;
        let subscription = Subscription {
            subscriptions: self.clone(),
            filter,
            number: state.last_number,
            wake: Arc::default(),
        };
        state.add(&subscription);
        (subscription, matching)
    }

    /// Matches new changes, a limited number of rows. `forget` is called with each row before the
    /// subscriptions that it concerns are woken, or with `None` if rows were missed.
    pub fn match_new(&self, forget: impl Fn(Option<&Change>)) -> Matched {
        let mut state = self.state();
        if state.subscribers.is_empty() {
            state.is_running = false;
            self.watchers.set_lists_watched(false);
            return Matched::NoSubscriber;
        }
        let head = self.watchers.head();
        if state.matched < head {
            match self.watchers.recent_from(state.matched) {
                Some(rows) => {
                    let rows = rows.iter().filter(|row| row.end > state.matched);
                    let rows: Vec<_> = rows.take(ROWS).collect();
                    for row in rows {
                        forget(Some(row));
                        state.match_row(row);
                    }
                }
                None => {
                    forget(None);
                    let oldest = self.watchers.oldest().unwrap_or(head);
                    state.skip_to(oldest);
                }
            }
        }
        match state.matched < head {
            true => Matched::Some,
            false => Matched::All,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the subscriptions")
    }
}

impl State {
    fn match_row(&mut self, row: &Change) {
        for filter in self.filters(row) {
            if row.next(&filter, row.number).is_some() {
                let subscribers = self.subscribers.get_mut(&filter).into_iter();
                let subscribers = subscribers.flat_map(HashMap::values_mut);
                subscribers.for_each(|subscriber| subscriber.wake(row.number));
            }
        }
        self.matched = row.end;
        if let Ok(change) = change::decode(&row.row) {
            self.seen.advance(&change.moves);
        }
    }

    /// Changes that are no longer in memory may concern every subscription.
    fn skip_to(&mut self, oldest: ChangeNumber) {
        let subscribers = self.subscribers.values_mut();
        let from = self.matched;
        subscribers.for_each(|all| all.values_mut().for_each(|one| one.wake(from)));
        self.matched = oldest.max(from.plus(1));
    }

    /// The filters that may select an operation of the row, by its keys.
    fn filters(&self, row: &Change) -> Vec<Arc<Filter>> {
        match row.keys() {
            Some(keys) if keys.len() < self.subscribers.len() => {
                let by_key = keys.filter_map(|key| self.by_key.get(&key));
                let filters = by_key.chain([&self.without_key]).flatten();
                filters.cloned().collect()
            }
            Some(_) | None => self.subscribers.keys().cloned().collect(),
        }
    }

    fn add(&mut self, subscription: &Subscription) {
        let filter = &subscription.filter;
        let subscribers = self.subscribers.entry(filter.clone()).or_default();
        if subscribers.is_empty() {
            let keys = Key::of(filter);
            if keys.is_empty() {
                self.without_key.push(filter.clone());
            }
            for key in keys {
                self.by_key.entry(key).or_default().push(filter.clone());
            }
        }
        let subscriber = Subscriber {
            due: None,
            wake: subscription.wake.clone(),
        };
        subscribers.insert(subscription.number, subscriber);
    }

    fn subscriber(&mut self, subscription: &Subscription) -> &mut Subscriber {
        let subscribers = self.subscribers.get_mut(&subscription.filter);
        let subscriber = subscribers.and_then(|all| all.get_mut(&subscription.number));
        subscriber.expect("it is there until it is dropped")
    }

    fn remove(&mut self, subscription: &Subscription) {
        let filter = &subscription.filter;
        let Some(subscribers) = self.subscribers.get_mut(filter) else {
            return;
        };
        subscribers.remove(&subscription.number);
        if !subscribers.is_empty() {
            return;
        }
        self.subscribers.remove(filter);
        self.without_key.retain(|other| other != filter);
        for key in Key::of(filter) {
            if let Some(filters) = self.by_key.get_mut(&key) {
                filters.retain(|other| other != filter);
                if filters.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}

impl Subscriber {
    fn wake(&mut self, from: ChangeNumber) {
        if self.due.is_none() {
            // Stored for a subscription that does not wait at this moment.
            self.wake.notify_one();
        }
        self.due = self.due.into_iter().chain([from]).min();
    }
}

/// What a stream has to do.
#[derive(Debug, PartialEq)]
pub enum Task {
    /// Read the changes in this range.
    Look(Range<ChangeNumber>),
    /// Nothing before this point concerns it.
    Nothing(Point),
}

impl Subscription {
    /// Changes from this one on may concern it.
    pub fn begin_at(&self, next: ChangeNumber) {
        let mut state = self.subscriptions.state();
        if next < state.matched {
            let subscriber = state.subscriber(self);
            subscriber.due = subscriber.due.into_iter().chain([next]).min();
        }
    }

    /// Takes the task that is due by now.
    pub fn take(&self) -> Task {
        let mut state = self.subscriptions.state();
        match state.subscriber(self).due.take() {
            None => Task::Nothing(Point {
                next: state.matched,
                positions: state.seen.lowest(),
            }),
            Some(from) => Task::Look(from..state.matched),
        }
    }

    /// Returns when there may be something to do.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscriptions.state().remove(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OperationId;
    use crate::domain::{Status, Timestamp, effects::Listed};
    use crate::rows::entry::{Entry, EntryChange, Moved};
    use crate::wire::change::{self, encode};
    use crate::wire::position::{Offset, Partition};

    fn filter(cluster: &str) -> Arc<Filter> {
        Arc::new(Filter {
            cluster_id: Some(cluster.to_owned()),
            ..Filter::default()
        })
    }

    /// A batch that leaves one operation in a cluster.
    fn row(number: u64, cluster: Option<&str>) -> Change {
        let moved = vec![change::PartitionMove {
            partition: Partition(0),
            before: Offset(number).previous(),
            after: Offset(number),
        }];
        let row = encode(
            &change::Moves::of_all(moved),
            [OperationId("op")].into_iter(),
        )
        .into();
        let mut row = Change::new(ChangeNumber(number), row, 1);
        if let Some(cluster) = cluster {
            row.add_entries(vec![EntryChange::Moved(Moved {
                was: None,
                is: Some(entry(cluster)),
            })]);
        }
        row
    }

    fn entry(cluster: &str) -> Entry {
        let traits = crate::domain::Traits {
            clusters: vec![cluster],
            rollbacks: None,
        };
        let listed = Listed {
            occurred_time: Timestamp::from_millis(0),
            status: Status::Executing,
        };
        let method = crate::domain::Method::Put;
        let row = crate::wire::list_entry::encode(method, "/x", Some(&traits));
        let row = row.into();
        Entry { listed, row }
    }

    fn is_woken(subscription: &Subscription) -> bool {
        use futures_util::FutureExt;
        subscription.woken().now_or_never().is_some()
    }

    fn look(range: Range<u64>) -> Task {
        Task::Look(ChangeNumber(range.start)..ChangeNumber(range.end))
    }

    #[test]
    fn only_streams_that_a_change_may_concern_are_woken() {
        let watchers = Arc::new(Watchers::default());
        let subscriptions = Arc::new(Subscriptions::new(watchers.clone()));
        let (a, matching) = subscriptions.subscribe(filter("a"), Point::default());
        assert_eq!(matching, Matching::ToBeStarted);
        assert!(watchers.are_lists_watched());
        let (b, matching) = subscriptions.subscribe(filter("b"), Point::default());
        assert_eq!(matching, Matching::Running);
        for (number, cluster) in ["b", "c", "a"].into_iter().enumerate() {
            watchers.add(row(number as u64, Some(cluster)), Vec::new());
        }
        assert_eq!(subscriptions.match_new(|_| ()), Matched::All);
        assert!(is_woken(&a) && is_woken(&b));
        let tasks = [a.take(), b.take()];
        let expected = [look(2..3), look(0..3)];
        assert_eq!(tasks, expected);
        let end = Point {
            next: ChangeNumber(3),
            positions: LastOffsets::from([(0, 2)]),
        };
        assert_eq!(b.take(), Task::Nothing(end));
        // A change whose entries are not known may concern every stream.
        watchers.add(row(3, None), Vec::new());
        assert_eq!(subscriptions.match_new(|_| ()), Matched::All);
        assert_eq!([a.take(), b.take()], [look(3..4), look(3..4)]);
        drop((a, b));
        assert_eq!(subscriptions.match_new(|_| ()), Matched::NoSubscriber);
        assert!(!watchers.are_lists_watched());
    }

    #[test]
    fn a_row_is_compared_only_with_filters_that_may_be_about_it() {
        let subscriptions = Arc::new(Subscriptions::new(Arc::default()));
        let ids: Vec<_> = (0..40).map(|n| format!("c-{n}")).collect();
        let subscribe = |id: &String| subscriptions.subscribe(filter(id), Point::default());
        let _subscriptions: Vec<_> = ids.iter().chain(&ids).map(subscribe).collect();
        let everything = Arc::new(Filter::default());
        let _all = subscriptions.subscribe(everything.clone(), Point::default());
        let state = subscriptions.state();
        let row_of = |cluster| row(0, cluster);
        let filters = |row: &Change| state.filters(row).len();
        assert_eq!(filters(&row_of(Some("c-7"))), 2, "its own, and everything");
        assert_eq!(filters(&row_of(Some("none"))), 1, "everything");
        assert_eq!(filters(&row_of(None)), 41, "it may concern everyone");
    }

    #[test]
    fn a_forgotten_change_may_concern_every_stream() {
        let watchers = Arc::new(Watchers::default());
        let subscriptions = Arc::new(Subscriptions::new(watchers.clone()));
        let (subscription, _) = subscriptions.subscribe(filter("a"), Point::default());
        for number in 0..10_000 {
            watchers.add(row(number, Some("b")), Vec::new());
        }
        while subscriptions.match_new(|_| ()) == Matched::Some {}
        assert_eq!(subscription.take(), look(0..10_000));
    }

    #[test]
    fn a_stream_that_resumes_before_the_remembered_changes_scans_the_store() {
        let watchers = Arc::new(Watchers::default());
        let subscriptions = Arc::new(Subscriptions::new(watchers.clone()));
        let (_first, _) = subscriptions.subscribe(filter("a"), Point::default());
        (0..5).for_each(|number| watchers.add(row(number, Some("b")), Vec::new()));
        subscriptions.match_new(|_| ());
        let (late, _) = subscriptions.subscribe(filter("a"), Point::default());
        late.begin_at(ChangeNumber(2));
        assert_eq!(late.take(), look(2..5));
    }
}
