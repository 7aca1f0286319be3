//! What changed is looked at once for all who watch lists. They sit here by their filters;
//! a round takes the rows of changes that are new, asks for each filter whether a row may
//! concern it, and calls those that it does. All others sleep on, and have seen the row
//! all the same: whoever wakes up goes on from the first row that concerns it.

use super::filter::Filter;
use super::watch::{Change, Watchers};
use crate::wire::change_v1;
use crate::wire::position::Positions;
use hashbrown::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

pub struct Rounds {
    watchers: Arc<Watchers>,
    state: Mutex<State>,
    /// For tests and metrics: rows looked at, and filters asked.
    looked: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Changes before this were looked at for all who sit here.
    seen: Point,
    by_filter: HashMap<Arc<Filter>, HashMap<u64, Arc<Place>>>,
    /// Who came last.
    last: u64,
    is_running: bool,
}

/// An ordinal among the changes, and positions that hold what comes before it, or less.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    pub next: u64,
    pub positions: Positions,
}

const NOTHING: u64 = u64::MAX;

struct Place {
    /// The first change that may concern whoever sits here.
    due: AtomicU64,
    call: Notify,
}

/// Where one who watches a list sits, until it is dropped.
pub struct Seat {
    rounds: Arc<Rounds>,
    filter: Arc<Filter>,
    number: u64,
    place: Arc<Place>,
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
            looked: AtomicU64::new(0),
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
        let place = Arc::new(Place {
            due: AtomicU64::new(NOTHING),
            call: Notify::new(),
        });
        let with_filter = state.by_filter.entry(filter.clone()).or_default();
        with_filter.insert(number, place.clone());
        let seat = Seat {
            rounds: self.clone(),
            filter,
            number,
            place,
        };
        (seat, running)
    }

    /// Looks at what is new. False if nobody sits here any more: there are no rounds then
    /// until somebody does.
    pub fn hold(&self) -> bool {
        let mut state = self.state();
        if state.by_filter.is_empty() {
            state.is_running = false;
            self.watchers.set_lists_watched(false);
            return false;
        }
        let head = self.watchers.head();
        while state.seen.next < head {
            match self.watchers.recent_from(state.seen.next) {
                Some(rows) => rows.iter().for_each(|row| self.look(&mut state, row)),
                None => self.miss(&mut state, head),
            }
        }
        true
    }

    fn look(&self, state: &mut State, row: &Change) {
        if row.end <= state.seen.next {
            return;
        }
        for (filter, places) in &state.by_filter {
            self.looked.fetch_add(1, Ordering::Relaxed);
            if row.next(filter, row.number).is_some() {
                places.values().for_each(|place| place.call(row.number));
            }
        }
        state.seen.next = row.end;
        if let Ok(change) = change_v1::decode(&row.row) {
            change.advance(&mut state.seen.positions);
        }
    }

    /// What is not remembered any more may concern everyone.
    fn miss(&self, state: &mut State, head: u64) {
        let places = state.by_filter.values().flat_map(|places| places.values());
        places.for_each(|place| place.call(state.seen.next));
        let oldest = self.watchers.oldest().unwrap_or(head);
        state.seen.next = oldest.max(state.seen.next + 1);
    }

    /// How often a row was judged by a filter, since the start.
    pub fn looked(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the rounds")
    }
}

impl Place {
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
        let mut state = self.rounds.state();
        if let Some(places) = state.by_filter.get_mut(&self.filter) {
            places.remove(&self.number);
            if places.is_empty() {
                state.by_filter.remove(&self.filter);
            }
        }
    }
}
