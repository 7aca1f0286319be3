//! The list of operations: as a whole, streamed, as in the fabric-controller interface; or in
//! pages that are all read at one read point.

use super::conditional::{matches_etag, wants_a_change};
use super::error::Refusal;
use super::filters::{FILTERS, filter};
use super::paging::{self, BAD_CURSOR};
use super::params::Params;
use super::reading::{self, Reading, Scope};
use super::{App, stream};
use crate::domain::Timestamp;
use crate::query::list::{self, Format, ListCursor, Shown};
use crate::query::read_points::{PagePoint, holds};
use crate::rows::lists::{self, Order, PageLimits, Query};
use crate::store::{self, Error, View, view_held};
use crate::wire::fault::{Fault, Rule};
use crate::wire::position::Token;
use crate::wire::time::write_rfc3339_nanos;
use axum::http::header::ETAG;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::cell::Cell;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Parameters that the fabric-controller interface does not have.
pub const EXTENSIONS: &[&str] = &["position", "order", "limit", "cursor"];

/// Maximum number of entries that one page examines, however few of them match.
const WORK: usize = 500;
/// How often a list starts again if its read point ended because the store was reopened, before
/// any of it was sent.
const AGAIN: u32 = 3;
/// A waiting page reads again no more often than this.
const REST: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Asked {
    format: Format,
    query: Arc<Query>,
    /// `None` for the whole list.
    limit: Option<usize>,
    cursor: Option<Cursor>,
    token: Option<Token>,
    /// Waits for a first entry.
    waits: bool,
}

pub async fn operations(
    app: &Arc<App>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let known = [&["format"], EXTENSIONS, FILTERS].concat();
    let params = Params::parse(app, uri, &known)?;
    let mut asked = asked(headers, &params)?;
    let mut reading = reading::begin(app, headers, Scope::All, asked.token.clone()).await?;
    asked.waits = reading.deadline.is_some() && !wants_a_change(headers);
    let mut head = app.progress.watchers.watch_all();
    loop {
        // Marked as seen before it reads, so that no change is missed.
        head.borrow_and_update();
        // A shared read point may lack the latest change, and a request that waits would wait for
        // it although it has come.
        let found = look(app, &asked, reading.deadline.is_none()).await?;
        let is_news = match wants_a_change(headers) {
            true => !matches_etag(headers, &found.etag),
            false => !found.is_empty,
        };
        if let Some(deadline) = reading.deadline
            && !is_news
            // A further page never changes.
            && asked.cursor.is_none()
            && reading::happened(app, head.changed(), deadline).await
        {
            tokio::time::sleep_until(deadline.min(Instant::now() + REST).into()).await;
            continue;
        }
        return answer(app, uri, headers, asked, found, &mut reading).await;
    }
}

fn asked(headers: &HeaderMap, params: &Params) -> Result<Asked, Refusal> {
    let format = match params.get("format") {
        None | Some("list") => Format::List,
        Some("detail-list") => Format::DetailList,
        Some(_) => return Err(Refusal::Format),
    };
    let order = match params.get("order") {
        None | Some("newest") => Order::Newest,
        Some("oldest") => Order::Oldest,
        Some(_) => return Err(Fault::new(Rule::Value, "order", "newest or oldest.").into()),
    };
    let query = Query {
        filter: filter(params)?,
        order,
        ..Query::default()
    };
    let cursor = match paging::cursor(params)? {
        None => None,
        Some(bytes) => Some(Cursor::decode(&bytes, &query).ok_or(BAD_CURSOR)?),
    };
    // A cursor comes with its limit, unless somebody removed it.
    let limit = paging::limit(params)?.or(cursor.is_some().then_some(1000));
    Ok(Asked {
        format,
        query: Arc::new(query),
        limit,
        cursor,
        token: reading::token(headers, params)?,
        waits: false,
    })
}

/// The operations of a page, and the read point that they were read at.
struct ReadPage {
    point: PagePoint,
    /// Only of a page: the whole list is read while it is sent.
    page: Option<(Vec<u8>, ListCursor)>,
    etag: String,
    is_empty: bool,
}

/// `share`: the read point may be one that others use.
async fn look(app: &Arc<App>, asked: &Asked, share: bool) -> Result<ReadPage, Refusal> {
    let asked = asked.clone();
    stream::apart(app, move |app| look_blocking(app, &asked, share, AGAIN)).await?
}

fn look_blocking(app: &App, asked: &Asked, share: bool, again: u32) -> Result<ReadPage, Refusal> {
    let Asked { limit, cursor, .. } = asked;
    let point = match (limit, cursor) {
        (_, Some(cursor)) => {
            let point = app.read_points.resume(cursor.point);
            let point = point.filter(|point| holds(&point.applied, asked.token.as_ref()));
            point.ok_or_else(|| cursor.gone(asked.query.order))?
        }
        (Some(_), None) if share => {
            let token = asked.token.as_ref();
            app.read_points.begin(&*app.db, &app.progress, token)?
        }
        (_, None) => app.read_points.take(&*app.db, &app.progress)?,
    };
    let found = view_held(&*point.held, |view| read(app, asked, &point, view));
    match (found, cursor) {
        (Ok(found), _) => Ok(found),
        // The store was reopened, and all read points have ended.
        (Err(Error::Closed(_)), Some(cursor)) => Err(cursor.gone(asked.query.order)),
        (Err(Error::Closed(_)), None) if again > 0 => {
            app.read_points.forget(point.id);
            look_blocking(app, asked, false, again - 1)
        }
        (Err(error), _) => Err(error.into()),
    }
}

fn read(app: &App, asked: &Asked, point: &PagePoint, view: &dyn View) -> store::Result<ReadPage> {
    let shown = shown(app, asked);
    let Some(limit) = asked.limit else {
        return Ok(ReadPage {
            // It changes with the content of lists, and with the settings of their format.
            etag: {
                let shown = format!("{} {:?}", point.fingerprint, app.documents.times());
                format!(
                    "W/\"{:016x}\"",
                    xxhash_rust::xxh3::xxh3_64(shown.as_bytes())
                )
            },
            is_empty: asked.waits && list::is_empty(view, shown.query)?,
            page: None,
            point: point.clone(),
        });
    };
    let bounds = PageLimits {
        limit,
        work: WORK + limit,
    };
    let after = asked.cursor.as_ref().map(|cursor| &cursor.after[..]);
    let (body, next) = list::page(view, shown, after, bounds)?;
    Ok(ReadPage {
        etag: format!("\"{}\"", &blake3::hash(&body).to_hex()[..32]),
        is_empty: next.is_none() && body.ends_with(b"[]}"),
        page: Some((body, next)),
        point: point.clone(),
    })
}

fn shown<'s>(app: &'s App, asked: &'s Asked) -> Shown<'s> {
    Shown {
        format: asked.format,
        query: &asked.query,
        times: app.documents.times(),
        defects: &app.defects,
    }
}

async fn answer(
    app: &Arc<App>,
    uri: &Uri,
    headers: &HeaderMap,
    asked: Asked,
    found: ReadPage,
    reading: &mut Reading,
) -> Result<Response, Refusal> {
    let ReadPage { point, page, .. } = found;
    reading.is_from(point.applied.clone());
    let is_known = matches_etag(headers, &found.etag);
    let next = page.as_ref().and_then(|(_, next)| next.as_deref());
    let cursor = next.map(|next| Cursor::encode(point.id, next, &asked.query));
    if cursor.is_some() {
        app.read_points.keep(point.clone());
    }
    let mut response = match page {
        _ if is_known => StatusCode::NOT_MODIFIED.into_response(),
        Some((body, _)) => stream::json(app.unsent.hold(body)?),
        None => {
            let streamed = stream::answer(app, move |app, emit| {
                let has_begun = Cell::new(false);
                let mut emit = |piece: &[u8]| {
                    has_begun.set(true);
                    emit(piece)
                };
                let mut read = |point: &PagePoint| {
                    view_held(&*point.held, |view| {
                        list::stream(view, shown(app, &asked), &mut emit)
                    })
                };
                match read(&point) {
                    Err(Error::Closed(_)) if !has_begun.get() => {}
                    outcome => return outcome,
                }
                let anew = app.read_points.take(&*app.db, &app.progress)?;
                read(&anew)
            });
            streamed.await?
        }
    };
    if let Some(cursor) = cursor {
        paging::link(uri, &cursor, &mut response);
    }
    let etag = HeaderValue::from_str(&found.etag).expect("hex is a header value");
    response.headers_mut().insert(ETAG, etag);
    Ok(reading.stamp(response))
}

/// Where the next page begins: at which read point, after which key.
#[derive(Clone)]
struct Cursor {
    point: u64,
    after: Vec<u8>,
}

const CURSOR: u8 = 1;

impl Cursor {
    fn encode(point: u64, after: &[u8], query: &Query) -> Vec<u8> {
        let mut bytes = vec![CURSOR];
        bytes.extend_from_slice(&point.to_be_bytes());
        bytes.extend_from_slice(&Cursor::check(query));
        bytes.extend_from_slice(after);
        bytes
    }

    fn decode(bytes: &[u8], query: &Query) -> Option<Cursor> {
        let (&version, rest) = bytes.split_first()?;
        let (point, rest) = rest.split_first_chunk::<8>()?;
        let (check, after) = rest.split_first_chunk::<4>()?;
        lists::operation_of(after)?;
        let is_ours = version == CURSOR && *check == Cursor::check(query);
        is_ours.then(|| Cursor {
            point: u64::from_be_bytes(*point),
            after: after.to_vec(),
        })
    }

    /// With other filters or another order, the key would mean something else.
    fn check(query: &Query) -> [u8; 4] {
        let text = format!("{query:?}");
        (xxhash_rust::xxh3::xxh3_64(text.as_bytes()) as u32).to_be_bytes()
    }

    /// Says how a client can continue.
    fn gone(&self, order: Order) -> Refusal {
        let mut how =
            String::from("cursor: its read point has expired. Without it the list starts again");
        let time = lists::time_of(&self.after).unwrap_or(Timestamp::MAX);
        let (name, time) = match order {
            Order::Newest => ("occurred_to", time.plus(Duration::from_nanos(1))),
            Order::Oldest => ("occurred_from", time),
        };
        // After the last moment of the calendar nothing can be left out.
        if time <= Timestamp::MAX {
            let mut text = Vec::new();
            write_rfc3339_nanos(time, &mut text);
            let text = String::from_utf8_lossy(&text);
            let _ = write!(
                how,
                "; with {name}={text} it continues from here, in the current state"
            );
        }
        Refusal::ReadPointGone(how + ".")
    }
}
