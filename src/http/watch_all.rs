//! All operations that match the filters, as a stream of states. Without a position it
//! begins with all operations that match now; with one, with the changes since.
//!
//! `feed::subscriptions` matches changes with the filters of all streams at once. A stream reads
//! the rows of changes only from the first one that may concern it, and then the operations that
//! its filter may select. The processor time for all of this is limited (`pace`).

use super::error::Refusal;
use super::filters::{FILTERS, filter};
use super::pace::Turn;
use super::params::Params;
use super::reading::{self, Resumption, Scope};
use super::sse::{self, Blocks, PIECE, PieceSource, Woken};
use super::{App, stream};
use crate::domain::OperationId;
use crate::domain::Slices;
use crate::feed::changes::{self, ResumeFrom};
use crate::feed::documents::Current;
use crate::feed::progress::Applied;
use crate::feed::seen::SeenBySlice;
use crate::feed::subscriptions::{Matched, Matching, Point, Subscription, Task};
use crate::feed::watch::Change;
use crate::query::list;
use crate::rows;
use crate::rows::filter::Filter;
use crate::rows::lists::{Order, PageLimits, Query};
use crate::store;
use crate::wire::change::{self, ChangeNumber};
use crate::wire::position::Token;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Changes that are read together, where they are not in memory any more.
const CHANGES: usize = 512;
/// Rows of the list that are read together.
const ROWS: PageLimits = PageLimits {
    limit: 256,
    work: 20_000,
};
/// Operations of which a stream remembers what it sent.
const REMEMBERED: usize = 16_384;

pub async fn operations(
    app: &Arc<App>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let known: Vec<&'static str> = FILTERS.iter().copied().chain(["position"]).collect();
    let params = Params::parse(app, uri, &known)?;
    let filter = filter(&params)?;
    // Both are parsed, so that a fault in the one that is not used is reported as well.
    let (last, query) = (
        reading::last_event_id(headers)?,
        reading::query_position(&params)?,
    );
    let resumed = last.or(query);
    let token = reading::header_token(headers)?;
    let begun = reading::begin_stream(app, headers, Scope::All, token, resumed.as_ref()).await;
    let (mut reading, resumption) = begun?;
    let permit = sse::admit(app)?;
    // While the id of the log is not known, there is no position to begin at.
    let deadline = reading::now() + app.config.server.default_wait;
    let now = app.progress.wait_for_log(deadline).await;
    let now = now.ok_or(Refusal::NotReached)?;
    reading.is_from(now.clone());
    let token = token_of(&now)?;
    let (position, listing) = match resumed {
        Some(resumed) => (resumed, None),
        None => (token.clone(), Some(Vec::new())),
    };
    let (mut place, end) = places(app, &now, &position).await?;
    if listing.is_some() {
        // The list has all before it.
        place = ResumeFrom::At {
            next: end,
            mixed_until: end,
        };
    }
    let point = Point {
        next: end,
        positions: token.positions,
    };
    let filter = Arc::new(filter);
    let (subscription, matching) = app.subscriptions.subscribe(filter.clone(), point);
    if matching == Matching::ToBeStarted {
        tokio::spawn(match_changes(app.clone()));
    }
    let mut watch = WatchAll {
        app: app.clone(),
        seen: SeenBySlice::of(position.positions.clone()),
        known: match listing {
            Some(_) => Known::default(),
            None => Known::nothing(),
        },
        query: Arc::new(Query {
            filter: Filter::clone(&filter),
            order: Order::Newest,
            ..Query::default()
        }),
        position,
        next: ChangeNumber::ZERO,
        mixed_until: ChangeNumber::ZERO,
        subscription,
        listing,
        pass: None,
        held: None,
        is_sent: false,
        must_reset: false,
        holds: end,
        _permit: permit,
    };
    match resumption {
        Resumption::Behind => watch.begin_at(place),
        Resumption::Impossible => watch.must_reset = true,
    }
    Ok(reading.stamp(sse::respond(watch)))
}

fn token_of(applied: &Applied) -> Result<Token, Refusal> {
    applied.token.clone().ok_or(Refusal::NotReached)
}

/// Where `seen` is among the changes, and the end of the changes that `now` contains.
async fn places(
    app: &Arc<App>,
    now: &Applied,
    seen: &Token,
) -> Result<(ResumeFrom, ChangeNumber), Refusal> {
    let (next_change, seen) = (now.next_change, seen.positions.clone());
    stream::blocking(app, move |app| {
        store::view(&*app.db, |view| {
            let end = match next_change {
                // The projector has not begun yet, so nobody writes.
                ChangeNumber::ZERO => rows::changes::ends(view)?.next,
                end => end,
            };
            // From the end on, some rows may not be written yet: it has to be read in turn.
            let place = match changes::find(view, Slices::ALL, &seen)? {
                ResumeFrom::At { next, mixed_until } => ResumeFrom::At {
                    next: next.min(end),
                    mixed_until: mixed_until.min(end),
                },
                ResumeFrom::BeforeWindow => ResumeFrom::BeforeWindow,
            };
            Ok((place, end))
        })
    })
    .await
}

/// Matches new changes with the filters of the streams of all lists, from the first stream to the
/// last. The processor time counts as that of the streams.
async fn match_changes(app: Arc<App>) {
    let mut head = app.progress.watchers.watch_all();
    loop {
        // Marked as seen before the changes are examined.
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
            // To end when no stream is left.
            () = tokio::time::sleep(app.config.streams.keep_alive) => {}
        }
        tokio::time::sleep_until(began + sse::REST).await;
    }
}

struct WatchAll {
    app: Arc<App>,
    query: Arc<Query>,
    /// Everything up to here has been sent.
    position: Token,
    /// The same by slice.
    seen: SeenBySlice,
    /// The first change that was not examined.
    next: ChangeNumber,
    /// Of rows before this all operations are sent, whatever they were before.
    mixed_until: ChangeNumber,
    subscription: Subscription,
    /// While the present operations are listed: the key after which the list continues.
    listing: Option<Vec<u8>>,
    pass: Option<Pass>,
    /// An event that waits for its position: the one before the row or, if it is the last of the
    /// row, the one after.
    held: Option<(&'static str, Bytes)>,
    known: Known,
    /// The client has `position`.
    is_sent: bool,
    must_reset: bool,
    /// The documents that are sent contain all changes before this one, because `position` may
    /// contain changes that the stream has not examined.
    holds: ChangeNumber,
    _permit: OwnedSemaphorePermit,
}

/// A pass through the changes up to an ordinal. Each document that it sends contains all of
/// them, so each operation is sent once.
struct Pass {
    until: ChangeNumber,
    sent: HashSet<u64>,
}

impl Pass {
    fn until(until: ChangeNumber) -> Pass {
        Pass {
            until,
            sent: HashSet::new(),
        }
    }
}

impl WatchAll {
    fn begin_at(&mut self, place: ResumeFrom) {
        match place {
            ResumeFrom::At { next, mixed_until } => {
                self.next = next;
                self.subscription.begin_at(next);
                if mixed_until > next {
                    // No change wakes the stream for these: they need not concern its filter.
                    self.mixed_until = mixed_until;
                    // One pass with all that it missed, so that each operation is sent once.
                    self.pass = Some(Pass::until(mixed_until.max(self.holds)));
                }
            }
            ResumeFrom::BeforeWindow => self.must_reset = true,
        }
    }

    /// The client has to list again, and is sent changes from here on.
    async fn reset(&mut self, blocks: &mut Blocks) -> Result<(), Refusal> {
        self.must_reset = false;
        self.known = Known::nothing();
        self.pass = None;
        let now = self.app.progress.applied();
        self.position = token_of(&now)?;
        self.seen = SeenBySlice::of(self.position.positions.clone());
        let (_, end) = places(&self.app, &now, &self.position).await?;
        self.holds = end;
        self.next = end;
        self.subscription.begin_at(end);
        blocks.event("reset", Some(&self.position.to_string()), &sse::RESET);
        self.is_sent = true;
        Ok(())
    }

    /// Sends a page of the present operations, without a position: a stream that breaks off
    /// among them has to start over.
    async fn list(&mut self, after: Vec<u8>, blocks: &mut Blocks) -> Result<(), Refusal> {
        let query = self.query.clone();
        let mut turn = self.app.pace.turn().await;
        let page = stream::counted(&self.app, &turn, move |app| {
            let (db, cache, defects) = (&*app.db, &app.documents, &app.defects);
            Ok(list::documents(
                db, &query, cache, defects, &after, ROWS, PIECE,
            ))
        });
        let page = page.await??;
        for (operation_id, document) in &page.documents {
            let operation_id = OperationId(operation_id);
            self.known.put(operation_id, true, &self.query.filter);
            blocks.event("document", None, document);
        }
        self.listing = page.next;
        if self.listing.is_none() {
            blocks.position(&self.position.to_string());
            self.is_sent = true;
        }
        turn.sends(blocks.len());
        Ok(())
    }

    /// Returns whether there are changes to examine.
    fn begin_pass(&mut self) -> bool {
        match self.subscription.take() {
            Task::Look(due) if due.end > self.next => {
                self.next = self.next.max(due.start);
                self.pass = Some(Pass::until(due.end));
                true
            }
            Task::Look(_) => false,
            Task::Nothing(seen) => {
                self.next = self.next.max(seen.next);
                self.seen.raise(&seen.positions);
                self.move_on();
                false
            }
        }
    }

    /// Examines the changes of the pass until there is enough for a piece.
    async fn go_on(&mut self, blocks: &mut Blocks) -> Result<(), Refusal> {
        let app = self.app.clone();
        let mut turn = app.pace.turn().await;
        let next = self.next;
        let recent = app.progress.watchers.recent_from(next);
        // A change that was published a moment ago may not be among them yet.
        let recent = recent.filter(|rows| rows.iter().any(|row| row.end > next));
        let rows = match recent {
            Some(rows) => Some(rows),
            None => {
                stream::counted(&app, &turn, move |app| {
                    changes::rows_stored(&*app.db, next, CHANGES)
                })
                .await?
            }
        };
        let Some(mut rows) = rows else {
            // They left the window before the stream got there.
            self.must_reset = true;
            self.pass = None;
            return Ok(());
        };
        if !rows.iter().any(|row| row.end > next)
            && let Some(pass) = &self.pass
        {
            // All before the end of the pass is written: the numbers between were left out.
            self.next = pass.until.min(next.plus(CHANGES));
        }
        for row in &mut rows {
            if row.number < self.mixed_until {
                row.forget_entries();
            }
            while let Some((ordinal, id)) = row.next(&self.query.filter, self.next) {
                if blocks.len() >= PIECE {
                    // The row has more.
                    turn.sends(blocks.len());
                    return Ok(());
                }
                self.next = ordinal.plus(1);
                turn.count(self.send(&turn, id, blocks)).await?;
                if turn.is_long() {
                    drop(turn);
                    turn = app.pace.turn().await;
                }
            }
            self.pass_row(row, blocks);
            if self.is_through() {
                self.pass = None;
                break;
            }
        }
        turn.sends(blocks.len());
        Ok(())
    }

    fn is_through(&self) -> bool {
        let until = self.pass.as_ref().map(|pass| pass.until);
        until.is_none_or(|until| self.next >= until)
    }

    /// Everything in this row has been sent.
    fn pass_row(&mut self, row: &Change, blocks: &mut Blocks) {
        self.next = self.next.max(row.end);
        if let Ok(change) = change::decode(&row.row) {
            self.seen.advance(&change.moves);
        }
        self.move_on();
        self.send_held(blocks);
    }

    /// Everything before `next`, and all of `seen`, has been sent.
    fn move_on(&mut self) {
        let now = self.app.progress.applied();
        // Until the projector begins, nobody knows which change is the next.
        let is_known = now.next_change > ChangeNumber::ZERO;
        if is_known
            && now.next_change <= self.next
            && let Some(token) = &now.token
        {
            self.seen.raise(&token.positions);
        }
        let mut positions = self.seen.lowest();
        for (&partition, &offset) in self.position.positions.iter() {
            positions.raise(partition, offset);
        }
        if positions != self.position.positions {
            self.position.positions = positions;
            self.is_sent = false;
        }
    }

    async fn send(
        &mut self,
        turn: &Turn<'_>,
        operation_id: OperationId<'_>,
        blocks: &mut Blocks,
    ) -> Result<(), Refusal> {
        let Some(pass) = &mut self.pass else {
            return Ok(());
        };
        let digest = xxh3_64(operation_id.as_bytes());
        if pass.sent.contains(&digest) {
            return Ok(());
        }
        if pass.sent.len() < REMEMBERED {
            pass.sent.insert(digest);
        }
        let at_least = pass.until.max(self.holds);
        let filter = &self.query.filter;
        let current =
            reading::document(&self.app, operation_id, at_least, filter, turn.work()).await;
        let event = match current {
            Ok(Current::Shown(document)) => {
                self.known.put(operation_id, true, filter);
                ("document", document.bytes)
            }
            Ok(Current::LeftOut) if self.known.has(operation_id) => {
                self.known.put(operation_id, false, filter);
                ("left", sse::named(operation_id))
            }
            Ok(Current::Gone) => {
                self.known.put(operation_id, false, filter);
                ("removed", sse::named(operation_id))
            }
            Ok(Current::LeftOut | Current::NoDocument) => return Ok(()),
            // The others are sent all the same.
            Err(Refusal::Store(error)) if error.is_unreadable() => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
        self.send_held(blocks);
        self.held = Some(event);
        Ok(())
    }

    fn send_held(&mut self, blocks: &mut Blocks) {
        if let Some((kind, data)) = self.held.take() {
            blocks.event(kind, Some(&self.position.to_string()), &data);
            self.is_sent = true;
        }
    }
}

impl PieceSource for WatchAll {
    async fn next(&mut self) -> Result<Option<Blocks>, Refusal> {
        let mut blocks = Blocks::default();
        while blocks.is_empty() {
            if self.must_reset {
                self.reset(&mut blocks).await?;
            } else if let Some(after) = self.listing.take() {
                self.list(after, &mut blocks).await?;
            } else if self.pass.is_some() || self.begin_pass() {
                self.go_on(&mut blocks).await?;
            } else {
                match sse::wait(&self.app, self.subscription.woken()).await {
                    Woken::Changed => {}
                    Woken::Silent => {
                        blocks.keep_alive();
                        self.begin_pass();
                        if !self.is_sent {
                            blocks.position(&self.position.to_string());
                            self.is_sent = true;
                        }
                    }
                    Woken::Stopping => return Ok(None),
                }
            }
        }
        Ok(Some(blocks))
    }
}

/// Which operations match in the view of the client, so that `left` is sent for those that do not
/// any more. If that is not known, as after a resumption, `left` may be sent once too often.
#[derive(Default)]
struct Known {
    by_digest: HashMap<u64, bool>,
    /// For those that are not in the map.
    otherwise: bool,
}

impl Known {
    fn nothing() -> Known {
        Known {
            by_digest: HashMap::new(),
            otherwise: true,
        }
    }

    fn has(&self, operation_id: OperationId) -> bool {
        let digest = xxh3_64(operation_id.as_bytes());
        *self.by_digest.get(&digest).unwrap_or(&self.otherwise)
    }

    fn put(&mut self, operation_id: OperationId, matches: bool, filter: &Filter) {
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
