//! All operations that match the filters, as a stream of states. Without a position it
//! begins with those that there are; behind one, with what has changed since.
//!
//! Looking at what changed is done by `feed::subscriptions` for all streams at once: a stream
//! goes through the rows of changes only from one that may concern it, and then reads the
//! operations that its filter may be about. All of that is paced (`pace`).

use super::error::Refusal;
use super::filters::{FILTERS, filter};
use super::matching::match_changes;
use super::pace::Turn;
use super::params::Params;
use super::reading::{self, Resumption};
use super::sse::{self, Blocks, PIECE, PieceSource, Woken};
use super::{App, stream};
use crate::domain::OperationId;
use crate::feed::changes::{self, ResumeFrom};
use crate::feed::documents::Current;
use crate::feed::subscriptions::{Matching, Point, Subscription, Task};
use crate::feed::watch::Change;
use crate::query::list;
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
use xxhash_rust::xxh3::xxh3_64;

/// Changes read together, of those that are in memory no more.
const CHANGES: usize = 512;
/// Rows of the list read together.
const ROWS: PageLimits = PageLimits {
    limit: 256,
    work: 20_000,
};
/// Operations of which a stream remembers what it told.
const REMEMBERED: usize = 16_384;

pub async fn operations(
    app: &Arc<App>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let known: Vec<&'static str> = FILTERS.iter().copied().chain(["position"]).collect();
    let params = Params::parse(app, uri, &known)?;
    let filter = filter(&params)?;
    // Both are read: what is wrong is told, also where the other one counts.
    let (last, query) = (
        reading::last_event_id(headers)?,
        reading::query_position(&params)?,
    );
    let resumed = last.or(query);
    let token = reading::header_token(headers)?;
    let begun = reading::begin_stream(app, headers, token, resumed.as_ref()).await;
    let (mut reading, resumption) = begun?;
    let permit = sse::admit(app)?;
    // Where it is not known what the log is called, there is no position to begin at.
    let deadline = reading::now() + app.config.server.default_wait;
    // Before the position is taken: it holds at least the changes before this one.
    let head = app.progress.watchers.head();
    let now = app.progress.wait_for_log(deadline).await;
    let now = now.ok_or(Refusal::NotReached)?;
    reading.renew(app);
    let (position, listing) = match resumed {
        Some(resumed) => (resumed, None),
        None => (now.clone(), Some(Vec::new())),
    };
    let (place, end) = places(app, head, &now, &position).await?;
    let point = Point {
        next: end,
        positions: now.positions.clone(),
    };
    let filter = Arc::new(filter);
    let (subscription, matching) = app.subscriptions.subscribe(filter.clone(), point);
    if matching == Matching::ToBeStarted {
        tokio::spawn(match_changes(app.clone()));
    }
    let mut watch = WatchAll {
        app: app.clone(),
        known: match listing {
            Some(_) => Known::default(),
            None => Known::nothing(),
        },
        query: Arc::new(Query {
            filter: Filter::clone(&filter),
            order: Order::Newest,
        }),
        position,
        next: ChangeNumber::ZERO,
        mixed_until: ChangeNumber::ZERO,
        subscription,
        listing,
        pass: None,
        held: None,
        is_told: false,
        must_reset: false,
        holds: end,
        _permit: permit,
    };
    match resumption {
        Resumption::Behind => watch.begin_at(place),
        Resumption::Impossible => watch.must_reset = true,
    }
    Ok(reading.stamp(sse::answer(watch)))
}

/// Where these positions are among the changes, and where the changes end that `now` holds: at
/// `head` or behind it, if that cannot be read.
async fn places(
    app: &Arc<App>,
    head: ChangeNumber,
    now: &Token,
    seen: &Token,
) -> Result<(ResumeFrom, ChangeNumber), Refusal> {
    let (now, seen) = (now.positions.clone(), seen.positions.clone());
    stream::blocking(app, move |app| {
        store::view(&*app.db, |view| {
            let place = changes::find(view, &now, &seen)?;
            match changes::find(view, &now, &now)? {
                ResumeFrom::At { next, .. } => Ok((place, next)),
                ResumeFrom::BeforeWindow => Ok((place, head)),
            }
        })
    })
    .await
}

struct WatchAll {
    app: Arc<App>,
    query: Arc<Query>,
    /// Everything up to here has been told.
    position: Token,
    /// The ordinal of the first change that was not looked at.
    next: ChangeNumber,
    /// Of rows before this all operations are told, whatever was before them.
    mixed_until: ChangeNumber,
    subscription: Subscription,
    /// While the operations that there are are listed: the key behind which to go on.
    listing: Option<Vec<u8>>,
    pass: Option<Pass>,
    /// An event that is sent with the position before or, if it is the last, behind.
    held: Option<(&'static str, Bytes)>,
    known: Known,
    /// The client knows the position.
    is_told: bool,
    must_reset: bool,
    /// What the client is sent holds all changes before this: its position may hold them,
    /// and nobody has looked at them yet.
    holds: ChangeNumber,
    _permit: OwnedSemaphorePermit,
}

/// Through the changes up to an ordinal. What is told on the way holds all of them, so
/// that each operation is told once.
struct Pass {
    until: ChangeNumber,
    told: HashSet<u64>,
}

impl Pass {
    fn until(until: ChangeNumber) -> Pass {
        Pass {
            until,
            told: HashSet::new(),
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
                    // Nothing wakes for these: they need not concern its filter.
                    self.mixed_until = mixed_until;
                    self.pass = Some(Pass::until(mixed_until));
                }
            }
            ResumeFrom::BeforeWindow => self.must_reset = true,
        }
    }

    /// The client has to list again, and hears from here on.
    async fn reset(&mut self, blocks: &mut Blocks) -> Result<(), Refusal> {
        self.must_reset = false;
        self.known = Known::nothing();
        self.pass = None;
        let head = self.app.progress.watchers.head();
        let now = self.app.progress.applied().token.clone();
        self.position = now.ok_or(Refusal::NotReached)?;
        let (_, end) = places(&self.app, head, &self.position, &self.position).await?;
        self.holds = end;
        self.next = end;
        self.subscription.begin_at(end);
        blocks.event("reset", Some(&self.position.to_string()), &sse::RESET);
        self.is_told = true;
        Ok(())
    }

    /// A page of the operations that there are. They have no position yet: a stream that
    /// breaks off among them has to begin anew.
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
            self.is_told = true;
        }
        turn.sends(blocks.len());
        Ok(())
    }

    /// Takes what is due. False if that is nothing.
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
                for (partition, offset) in seen.positions {
                    let held = self.position.positions.entry(partition).or_insert(offset);
                    if offset >= *held {
                        *held = offset;
                        self.is_told = false;
                    }
                }
                false
            }
        }
    }

    /// Goes through the changes that are due, until there is enough for a piece.
    async fn go_on(&mut self, blocks: &mut Blocks) -> Result<(), Refusal> {
        let app = self.app.clone();
        let mut turn = app.pace.turn().await;
        let next = self.next;
        let recent = app.progress.watchers.recent_from(next);
        // What was published a moment ago may not be among them yet.
        let recent = recent.filter(|rows| rows.iter().any(|row| row.end > next));
        let mut rows = match recent {
            Some(rows) => rows,
            None => {
                stream::counted(&app, &turn, move |app| {
                    changes::rows_stored(&*app.db, next, CHANGES)
                })
                .await?
            }
        };
        if !rows.iter().any(|row| row.number <= next && row.end > next) {
            // They were forgotten before the stream got there.
            self.must_reset = true;
            self.pass = None;
            return Ok(());
        }
        for row in &mut rows {
            if row.number < self.mixed_until {
                row.forget_entries();
            }
            while let Some((ordinal, id)) = row.next(&self.query.filter, self.next) {
                if blocks.len() >= PIECE {
                    // There is more of this row: it is not through.
                    turn.sends(blocks.len());
                    return Ok(());
                }
                self.next = ordinal.plus(1);
                turn.count(self.tell(&turn, id, blocks)).await?;
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

    /// All that came with this row has been told.
    fn pass_row(&mut self, row: &Change, blocks: &mut Blocks) {
        self.next = self.next.max(row.end);
        if let Ok(change) = change::decode(&row.row) {
            let before = self.position.positions.clone();
            change.advance(&mut self.position.positions);
            self.is_told &= before == self.position.positions;
        }
        self.send_held(blocks);
    }

    async fn tell(
        &mut self,
        turn: &Turn<'_>,
        operation_id: OperationId<'_>,
        blocks: &mut Blocks,
    ) -> Result<(), Refusal> {
        let Some(pass) = &mut self.pass else {
            return Ok(());
        };
        let digest = xxh3_64(operation_id.as_bytes());
        if pass.told.contains(&digest) {
            return Ok(());
        }
        if pass.told.len() < REMEMBERED {
            pass.told.insert(digest);
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
            // The others are told all the same.
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
            self.is_told = true;
        }
    }
}

impl PieceSource for WatchAll {
    async fn next(&mut self) -> Result<Option<Blocks>, Refusal> {
        let mut blocks = Blocks::new();
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
                        if !self.is_told {
                            blocks.position(&self.position.to_string());
                            self.is_told = true;
                        }
                    }
                    Woken::Stopping => return Ok(None),
                }
            }
        }
        Ok(Some(blocks))
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
