//! What changed is looked at once for all who watch lists. They sit here by their filters;
//! a round takes the rows of changes that are new, asks for each filter whether a row may
//! concern it, and calls those that it does. All others sleep on, and have seen the row
//! all the same: whoever wakes up goes on from the first row that concerns it.

use super::index::Key;
use super::watch::{Change, Watchers};
use crate::rows::filter::Filter;
use crate::wire::change;
use crate::wire::position::LastOffsets;
use hashbrown::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

pub struct Rounds {
    watchers: Arc<Watchers>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Changes before this were looked at for all who sit here.
    seen: Point,
    tables: HashMap<Arc<Filter>, Table>,
    /// Filters by what is true of each operation that they may be about.
    by_key: HashMap<Key, Vec<Arc<Filter>>>,
    /// Those that look at all.
    without_key: Vec<Arc<Filter>>,
    /// Who came last.
    last: u64,
    is_running: bool,
}

/// Those with the same filter, by number.
type Table = HashMap<u64, Arc<ListPlace>>;

/// An ordinal among the changes, and positions that hold what comes before it, or less.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    pub next: u64,
    pub positions: LastOffsets,
}

const NOTHING: u64 = u64::MAX;

struct ListPlace {
    /// The first change that may concern whoever sits here.
    due: AtomicU64,
    call: Notify,
}

/// Where one who watches a list sits, until it is dropped.
pub struct Seat {
    rounds: Arc<Rounds>,
    filter: Arc<Filter>,
    number: u64,
    place: Arc<ListPlace>,
}

/// Rows looked at in one go.
const ROWS: usize = 16;

/// How far a round came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    ToTheEnd,
    InPart,
    /// Nobody sits here any more: there are no rounds until somebody does.
    ForNobody,
}

/// Whether somebody has to hold rounds from now on, until there is nobody left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    Already,
    ToBeStarted,
}

impl Rounds {
    pub fn new(watchers: Arc<Watchers>) -> Rounds {
        Rounds {
            watchers,
            state: Mutex::default(),
        }
    }

    /// `now` is where the changes end, or before it: who is first here begins there.
    pub fn sit(self: &Arc<Rounds>, filter: Arc<Filter>, now: Point) -> (Seat, Running) {
        let mut state = self.state();
        let running = match state.is_running {
            true => Running::Already,
            false => {
                state.seen = now;
                state.is_running = true;
                self.watchers.set_lists_watched(true);
                Running::ToBeStarted
            }
        };
        state.last += 1;
        let number = state.last;
        let place = Arc::new(ListPlace {
            due: AtomicU64::new(NOTHING),
            call: Notify::new(),
        });
        state.add(&filter, number, place.clone());
        let seat = Seat {
            rounds: self.clone(),
            filter,
            number,
            place,
        };
        (seat, running)
    }

    /// Looks at what is new, some rows at most. `forget` is called with each, before those
    /// that it concerns are called, or with nothing where rows were missed.
    pub fn hold(&self, forget: impl Fn(Option<&Change>)) -> Held {
        let mut state = self.state();
        if state.tables.is_empty() {
            state.is_running = false;
            self.watchers.set_lists_watched(false);
            return Held::ForNobody;
        }
        let head = self.watchers.head();
        if state.seen.next < head {
            match self.watchers.recent_from(state.seen.next) {
                Some(rows) => {
                    let rows = rows.iter().filter(|row| row.end > state.seen.next);
                    let rows: Vec<_> = rows.take(ROWS).collect();
                    for row in rows {
                        forget(Some(row));
                        state.look(row);
                    }
                }
                None => {
                    forget(None);
                    self.miss(&mut state, head);
                }
            }
        }
        match state.seen.next < head {
            true => Held::InPart,
            false => Held::ToTheEnd,
        }
    }

    /// What is not remembered any more may concern everyone.
    fn miss(&self, state: &mut State, head: u64) {
        let places = state.tables.values().flat_map(|table| table.values());
        places.for_each(|place| place.call(state.seen.next));
        let oldest = self.watchers.oldest().unwrap_or(head);
        state.seen.next = oldest.max(state.seen.next + 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the rounds")
    }
}

impl State {
    fn look(&mut self, row: &Change) {
        for filter in self.filters(row) {
            if row.next(filter, row.number).is_some() {
                let places = self.tables[filter].values();
                places.for_each(|place| place.call(row.number));
            }
        }
        self.seen.next = row.end;
        if let Ok(change) = change::decode(&row.row) {
            change.advance(&mut self.seen.positions);
        }
    }

    /// Those that may be about an operation of the row, by its keys.
    fn filters(&self, row: &Change) -> Vec<&Arc<Filter>> {
        match row.keys() {
            Some(keys) if keys.len() < self.tables.len() => {
                let by_key = keys.filter_map(|key| self.by_key.get(&key));
                by_key.chain([&self.without_key]).flatten().collect()
            }
            Some(_) | None => self.tables.keys().collect(),
        }
    }

    fn add(&mut self, filter: &Arc<Filter>, number: u64, place: Arc<ListPlace>) {
        let table = self.tables.entry(filter.clone()).or_default();
        if table.is_empty() {
            let keys = Key::of(filter);
            if keys.is_empty() {
                self.without_key.push(filter.clone());
            }
            for key in keys {
                self.by_key.entry(key).or_default().push(filter.clone());
            }
        }
        table.insert(number, place);
    }

    fn remove(&mut self, filter: &Arc<Filter>, number: u64) {
        let Some(table) = self.tables.get_mut(filter) else {
            return;
        };
        table.remove(&number);
        if !table.is_empty() {
            return;
        }
        self.tables.remove(filter);
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

impl ListPlace {
    fn call(&self, from: u64) {
        if self.due.fetch_min(from, Ordering::Relaxed) == NOTHING {
            // Kept for one who does not wait at this moment.
            self.call.notify_one();
        }
    }
}

/// What one who sits there has to do.
#[derive(Debug, PartialEq)]
pub enum Task {
    /// Look at the changes from this one on, up to that ordinal.
    Look { from: u64, until: u64 },
    /// Nothing before this point concerns it.
    Nothing(Point),
}

impl Seat {
    /// What is from this change on may concern it.
    pub fn begin_at(&self, next: u64) {
        let state = self.rounds.state();
        if next < state.seen.next {
            self.place.due.fetch_min(next, Ordering::Relaxed);
        }
    }

    /// Takes what is due by now.
    pub fn take(&self) -> Task {
        let state = self.rounds.state();
        match self.place.due.swap(NOTHING, Ordering::Relaxed) {
            NOTHING => Task::Nothing(state.seen.clone()),
            from => Task::Look {
                from,
                until: state.seen.next,
            },
        }
    }

    /// Returns when there may be something to do.
    pub async fn called(&self) {
        self.place.call.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.rounds.state().remove(&self.filter, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OperationId;
    use crate::domain::{Status, Timestamp, effects::Listed};
    use crate::rows::entry::{Entry, EntryChange};
    use crate::wire::change::{self, encode};
    use crate::wire::position::{Offset, Partition};

    fn filter(cluster: &str) -> Arc<Filter> {
        Arc::new(Filter {
            cluster_id: Some(cluster.to_owned()),
            ..Filter::default()
        })
    }

    /// A cut that leaves one operation in a cluster.
    fn row(number: u64, cluster: Option<&str>) -> Change {
        let moved = [change::PartitionMove {
            partition: Partition(0),
            before: Offset(number).previous(),
            after: Offset(number),
        }];
        let row = encode(&moved, [OperationId("op")].into_iter()).into();
        let mut row = Change::new(number, row, 1);
        if let Some(cluster) = cluster {
            row.note(vec![EntryChange::Moved {
                was: None,
                is: Some(entry(cluster)),
            }]);
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

    fn is_called(seat: &Seat) -> bool {
        use futures_util::FutureExt;
        seat.called().now_or_never().is_some()
    }

    #[test]
    fn only_streams_that_a_change_may_concern_are_woken() {
        let watchers = Arc::new(Watchers::default());
        let rounds = Arc::new(Rounds::new(watchers.clone()));
        let (a, running) = rounds.sit(filter("a"), Point::default());
        assert_eq!(running, Running::ToBeStarted);
        assert!(watchers.are_lists_watched());
        let (b, running) = rounds.sit(filter("b"), Point::default());
        assert_eq!(running, Running::Already);
        for (number, cluster) in ["b", "c", "a"].into_iter().enumerate() {
            watchers.tell(row(number as u64, Some(cluster)), Vec::new());
        }
        assert_eq!(rounds.hold(|_| ()), Held::ToTheEnd);
        assert!(is_called(&a) && is_called(&b));
        let looks = [a.take(), b.take()];
        let expected = [2, 0].map(|from| Task::Look { from, until: 3 });
        assert_eq!(looks, expected);
        let end = Point {
            next: 3,
            positions: LastOffsets::from([(0, 2)]),
        };
        assert_eq!(b.take(), Task::Nothing(end));
        // What it is not known of concerns everyone.
        watchers.tell(row(3, None), Vec::new());
        assert_eq!(rounds.hold(|_| ()), Held::ToTheEnd);
        let look = Task::Look { from: 3, until: 4 };
        assert_eq!(
            [a.take(), b.take()],
            [look, Task::Look { from: 3, until: 4 }]
        );
        drop((a, b));
        assert_eq!(rounds.hold(|_| ()), Held::ForNobody);
        assert!(!watchers.are_lists_watched());
    }

    #[test]
    fn a_row_is_compared_only_with_filters_that_may_be_about_it() {
        let rounds = Arc::new(Rounds::new(Arc::default()));
        let ids: Vec<_> = (0..40).map(|n| format!("c-{n}")).collect();
        let sit = |id: &String| rounds.sit(filter(id), Point::default());
        let _seats: Vec<_> = ids.iter().chain(&ids).map(sit).collect();
        let everything = Arc::new(Filter::default());
        let _all = rounds.sit(everything.clone(), Point::default());
        let state = rounds.state();
        let row_of = |cluster| row(0, cluster);
        let filters = |row: &Change| state.filters(row).len();
        assert_eq!(filters(&row_of(Some("c-7"))), 2, "its own, and everything");
        assert_eq!(filters(&row_of(Some("none"))), 1, "everything");
        assert_eq!(filters(&row_of(None)), 41, "it may concern everyone");
    }

    #[test]
    fn a_forgotten_change_may_concern_every_stream() {
        let watchers = Arc::new(Watchers::default());
        let rounds = Arc::new(Rounds::new(watchers.clone()));
        let (seat, _) = rounds.sit(filter("a"), Point::default());
        for number in 0..10_000 {
            watchers.tell(row(number, Some("b")), Vec::new());
        }
        while rounds.hold(|_| ()) == Held::InPart {}
        let until = 10_000;
        assert_eq!(seat.take(), Task::Look { from: 0, until });
    }

    #[test]
    fn a_stream_that_resumes_before_the_remembered_changes_scans_the_store() {
        let watchers = Arc::new(Watchers::default());
        let rounds = Arc::new(Rounds::new(watchers.clone()));
        let (_first, _) = rounds.sit(filter("a"), Point::default());
        (0..5).for_each(|number| watchers.tell(row(number, Some("b")), Vec::new()));
        rounds.hold(|_| ());
        let (late, _) = rounds.sit(filter("a"), Point::default());
        late.begin_at(2);
        assert_eq!(late.take(), Task::Look { from: 2, until: 5 });
    }
}
