//! All operations that match the filters, as a stream of states. Without a position it
//! begins with those that there are; behind one, with what has changed since.

use super::error::Refusal;
use super::filters::{FILTERS, filter};
use super::params::Params;
use super::sse::{self, Blocks, PIECE, Source, Woken};
use super::{App, reading, stream};
use crate::query::changes::{self, Place};
use crate::query::document::Current;
use crate::query::filter::Filter;
use crate::query::list;
use crate::query::select::{Bounds, Order, Query};
use crate::store;
use crate::wire::position::{Positions, Token};
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Changes looked at together.
const CHANGES: usize = 512;
/// Rows of the list read together.
const ROWS: Bounds = Bounds {
    limit: 256,
    work: 20_000,
};
/// Operations of which a stream remembers what it told.
const REMEMBERED: usize = 50_000;
/// The more streams look at every change, the less often each does.
const REST_MORE: Duration = Duration::from_millis(1);

pub async fn operations(
    app: &Arc<App>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let known: Vec<&'static str> = FILTERS.iter().copied().chain(["position"]).collect();
    let params = Params::parse(app, uri, &known)?;
    let filter = filter(&params)?;
    let resumed = match reading::last_event_id(headers)? {
        Some(last) => Some(last),
        None => reading::query_position(&params)?,
    };
    let token = match &resumed {
        Some(resumed) => Some(resumed.clone()),
        None => reading::token(headers, &params)?,
    };
    let reading = reading::begin(app, headers, token).await?;
    let permit = sse::admit(app)?;
    // Before the place is looked up: from here on no change is missed.
    let head = app.progress.watchers.watch_all();
    let now = applied(app)?;
    app.watching_all.fetch_add(1, Ordering::Relaxed);
    let mut watch = WatchAll {
        app: app.clone(),
        known: resumed.is_some().then(Known::nothing).unwrap_or_default(),
        query: Arc::new(Query {
            filter,
            order: Order::Newest,
        }),
        position: now.clone(),
        next: 0,
        head,
        listing: resumed.is_none().then(Vec::new),
        pending: VecDeque::new(),
        behind: now.positions.clone(),
        held: None,
        replayed: resumed.is_some().then(HashSet::new),
        replay_until: 0,
        is_told: false,
        must_reset: false,
        rest_until: Instant::now(),
        _permit: permit,
    };
    if let Some(resumed) = resumed {
        watch.position = resumed;
    }
    watch.take_place(now).await?;
    Ok(reading.stamp(sse::answer(watch)))
}

fn applied(app: &App) -> Result<Token, Refusal> {
    let token = app.progress.applied().token.clone();
    token.ok_or(Refusal::NotReached)
}

struct WatchAll {
    app: Arc<App>,
    query: Arc<Query>,
    /// Everything up to here has been told.
    position: Token,
    /// The ordinal of the next change to look at.
    next: u64,
    head: watch::Receiver<u64>,
    /// While the operations that there are are listed: the key behind which to go on.
    listing: Option<Vec<u8>>,
    /// Operations that changed and were not looked at yet, and where it is behind them.
    pending: VecDeque<Box<str>>,
    behind: Positions,
    /// An event that is sent with the position before or, if it is the last, behind.
    held: Option<(&'static str, Vec<u8>)>,
    known: Known,
    /// What was told of the changes before the stream was resumed, so that it is told
    /// once: it was read behind all of them.
    replayed: Option<HashSet<u64>>,
    /// The ordinal behind these.
    replay_until: u64,
    /// The client knows the position.
    is_told: bool,
    must_reset: bool,
    rest_until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Drop for WatchAll {
    fn drop(&mut self) {
        self.app.watching_all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WatchAll {
    /// Looks up where the position is among the changes.
    async fn take_place(&mut self, now: Token) -> Result<(), Refusal> {
        let seen = self.position.positions.clone();
        let place = stream::blocking(&self.app, move |app| {
            store::view(&*app.db, |view| {
                let place = changes::find(view, &now.positions, &seen)?;
                Ok((place, changes::end(view)?))
            })
        });
        let (place, end) = place.await?;
        self.replay_until = end;
        match place {
            Place::At(place) => self.next = place,
            Place::BeforeWindow => self.must_reset = true,
        }
        self.behind = self.position.positions.clone();
        Ok(())
    }

    /// The client has to list again, and hears from here on.
    async fn reset(&mut self, blocks: &mut Blocks) -> Result<(), Refusal> {
        self.must_reset = false;
        self.known = Known::nothing();
        self.replayed = None;
        self.position = applied(&self.app)?;
        self.take_place(self.position.clone()).await?;
        let data = br#"{"reason":"the position is outside the kept window: list again"}"#;
        blocks.event("reset", Some(&self.position.to_string()), data);
        self.is_told = true;
        Ok(())
    }

    /// A page of the operations that there are. They have no position yet: a stream that
    /// breaks off among them has to begin anew.
    async fn list(&mut self, after: Vec<u8>, blocks: &mut Blocks) -> Result<(), Refusal> {
        let query = self.query.clone();
        let page = stream::blocking(&self.app, move |app| {
            list::documents(&*app.db, &query, &app.times, &app.defects, &after, ROWS)
        });
        let page = page.await?;
        for (operation_id, document) in &page.documents {
            self.known.put(operation_id, true, &self.query.filter);
            blocks.event("document", None, document);
        }
        self.listing = page.next;
        if self.listing.is_none() {
            blocks.position(&self.position.to_string());
            self.is_told = true;
        }
        Ok(())
    }

    /// The next changes, if there are any.
    async fn gather(&mut self) -> Result<(), Refusal> {
        let (next, mut behind) = (self.next, self.behind.clone());
        let rows = match self.app.progress.watchers.recent_from(next) {
            Some(rows) => rows,
            None => {
                stream::blocking(&self.app, move |app| {
                    changes::rows_stored(&*app.db, next, CHANGES)
                })
                .await?
            }
        };
        match changes::take(&rows, next, CHANGES, &mut behind)? {
            None => self.must_reset = true,
            Some(stretch) => {
                if stretch.next == next || stretch.next > self.replay_until {
                    self.replayed = None;
                }
                self.next = stretch.next;
                self.pending = stretch.ids.into();
                self.behind = behind;
            }
        }
        Ok(())
    }

    /// Tells how the pending operations stand, until there is enough for a piece.
    async fn tell(&mut self, blocks: &mut Blocks) -> Result<(), Refusal> {
        while let Some(operation_id) = self.pending.pop_front() {
            let digest = xxh3_64(operation_id.as_bytes());
            let replayed = self.replayed.as_mut();
            if let Some(replayed) = replayed.filter(|replayed| replayed.len() < REMEMBERED)
                && !replayed.insert(digest)
            {
                continue;
            }
            let current = sse::current(&self.app, &operation_id, &self.query).await?;
            let event = match current {
                Current::Shown { document, .. } => {
                    self.known.put(&operation_id, true, &self.query.filter);
                    Some(("document", document))
                }
                Current::LeftOut if self.known.has(&operation_id) => {
                    self.known.put(&operation_id, false, &self.query.filter);
                    Some(("left", sse::named(&operation_id)))
                }
                Current::Gone => {
                    self.known.put(&operation_id, false, &self.query.filter);
                    Some(("removed", sse::named(&operation_id)))
                }
                Current::LeftOut | Current::NoDocument => None,
            };
            if event.is_some() {
                self.send_held(blocks);
                self.held = event;
            }
            if blocks.len() >= PIECE {
                return Ok(());
            }
        }
        // All up to here is told with the last of them.
        if self.position.positions != self.behind {
            self.position.positions.clone_from(&self.behind);
            self.is_told = false;
        }
        self.send_held(blocks);
        Ok(())
    }

    fn send_held(&mut self, blocks: &mut Blocks) {
        if let Some((kind, data)) = self.held.take() {
            blocks.event(kind, Some(&self.position.to_string()), &data);
            self.is_told = true;
        }
    }
}

impl Source for WatchAll {
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let mut blocks = Blocks::new();
        while blocks.is_empty() {
            if self.must_reset {
                self.reset(&mut blocks).await?;
            } else if let Some(after) = self.listing.take() {
                self.list(after, &mut blocks).await?;
            } else if !self.pending.is_empty() || self.held.is_some() {
                self.tell(&mut blocks).await?;
            } else {
                let before = self.next;
                // Marked as seen before it is looked at.
                self.head.borrow_and_update();
                self.gather().await?;
                if self.next != before || self.must_reset {
                    // Rows without operations move the position as well.
                    self.tell(&mut blocks).await?;
                    continue;
                }
                match sse::wait(&self.app, self.head.changed()).await {
                    Woken::Changed => {
                        tokio::time::sleep_until(self.rest_until).await;
                        let streams = self.app.watching_all.load(Ordering::Relaxed) as u32;
                        self.rest_until = Instant::now() + sse::REST + REST_MORE * streams;
                    }
                    Woken::Silent => {
                        blocks.keep_alive();
                        if !self.is_told {
                            blocks.position(&self.position.to_string());
                            self.is_told = true;
                        }
                    }
                    Woken::Stopping => return Ok(None),
                }
            }
        }
        Ok(Some(blocks.into_bytes()))
    }
}

/// Which operations the client takes for matching, so that it hears of those that do no
/// more. Where that is not known, such as behind a resumption, one time too many.
#[derive(Default)]
struct Known {
    by_digest: HashMap<u64, bool>,
    /// Of those that are not in it.
    otherwise: bool,
}

impl Known {
    fn nothing() -> Known {
        Known {
            by_digest: HashMap::new(),
            otherwise: true,
        }
    }

    fn has(&self, operation_id: &str) -> bool {
        let digest = xxh3_64(operation_id.as_bytes());
        *self.by_digest.get(&digest).unwrap_or(&self.otherwise)
    }

    fn put(&mut self, operation_id: &str, matches: bool, filter: &Filter) {
        if filter.is_everything() {
            return;
        }
        let digest = xxh3_64(operation_id.as_bytes());
        if matches == self.otherwise {
            self.by_digest.remove(&digest);
        } else {
            self.by_digest.insert(digest, matches);
        }
        if self.by_digest.len() > REMEMBERED {
            *self = Known::nothing();
        }
    }
}
