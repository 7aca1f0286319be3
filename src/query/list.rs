//! The lists, as pages or streamed as a whole, from one read point of the store. Memory is
//! bounded by one chunk, however many operations there are.

use super::defects::Defects;
use super::document::bytes_into;
use super::select::{PageLimits, Query, select};
use super::{Emit, PAGE_BYTES};
use crate::feed::at_hand;
use crate::rows::operation::with_operation;
use crate::rows::state;
use crate::store::{self, Db, Error, Family, Result, View, keys};
use crate::wire::document::{Bodies, text};
use crate::wire::time::TimeStyle;
use bytes::Bytes;
use std::ops::{ControlFlow, Range};
use std::panic::resume_unwind;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Identifiers.
    List,
    /// Documents without bodies.
    DetailList,
}

/// Operations that are loaded together.
const CHUNK: usize = 256;
/// Operations of a streamed list that are loaded before one of them is sent, in the order of
/// their rows: the more, the more of them are in the same block.
const SPREAD: usize = 16_384;
/// Limit on the bytes of documents, for each of two threads; beyond it fewer are loaded
/// together.
const SPREAD_BYTES: usize = 4 << 20;
/// Documents with bodies that are loaded together.
const DOCUMENTS: usize = 16;
/// Bytes that are handed to the client together.
const PIECE: usize = 64 << 10;

/// The content and form of a list.
#[derive(Clone, Copy)]
pub struct Shown<'l> {
    pub format: Format,
    pub query: &'l Query,
    pub times: &'l TimeStyle,
    pub defects: &'l Defects,
}

/// The key after which the next page begins; `None` after the last page.
pub type ListCursor = Option<Vec<u8>>;

/// Writes all operations that match.
pub fn stream(view: &dyn View, shown: Shown, emit: &mut Emit) -> Result<()> {
    let mut list = List::new(view, shown, Some(emit));
    let mut after: ListCursor = None;
    // The first chunk is sent at once.
    let (mut limit, mut most) = (CHUNK, SPREAD);
    loop {
        let bounds = PageLimits {
            limit,
            work: usize::MAX,
        };
        let selected = select(view, shown.query, after.as_deref(), bounds)?;
        shown.defects.add_unread(view, &selected.unread)?;
        let mut left = &selected.found[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(limit.min(left.len()));
            match list.add(now)? {
                Added::All => {
                    left = later;
                    limit = most.min(2 * limit);
                }
                Added::TooMuch => {
                    limit = CHUNK.max(now.len() / 2);
                    most = limit;
                }
                Added::Gone => return Ok(()),
            }
        }
        match selected.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    list.end();
    // The result does not matter at the end.
    let _ = list.hand_over(1);
    Ok(())
}

/// Writes one page. Returns the key after which the next one begins.
pub fn page(
    view: &dyn View,
    shown: Shown,
    after: Option<&[u8]>,
    bounds: PageLimits,
) -> Result<(Vec<u8>, ListCursor)> {
    let selected = select(view, shown.query, after, bounds)?;
    shown.defects.add_unread(view, &selected.unread)?;
    let mut list = List::new(view, shown, None);
    let mut next = selected.next;
    for chunk in selected.found.chunks(CHUNK) {
        if list.out.len() >= PAGE_BYTES {
            // A page is buffered, because its Link header is sent before the body.
            next = list.last.take();
            break;
        }
        list.add(chunk)?;
    }
    list.end();
    Ok((list.out, next))
}

/// Whether anything matches.
pub fn is_empty(view: &dyn View, query: &Query) -> Result<bool> {
    let bounds = PageLimits {
        limit: 1,
        work: usize::MAX,
    };
    Ok(select(view, query, None, bounds)?.found.is_empty())
}

struct List<'l, 'e> {
    view: &'l dyn View,
    shown: Shown<'l>,
    /// The client; `None` buffers everything.
    emit: Option<&'l mut Emit<'e>>,
    out: Vec<u8>,
    is_first: bool,
    /// The key of the last entry.
    last: ListCursor,
}

enum Added {
    All,
    /// Nothing was added, because it would take too much memory.
    TooMuch,
    /// The client has gone.
    Gone,
}

impl<'l, 'e> List<'l, 'e> {
    fn new(view: &'l dyn View, shown: Shown<'l>, emit: Option<&'l mut Emit<'e>>) -> List<'l, 'e> {
        let mut out = Vec::with_capacity(PIECE / 4);
        out.extend_from_slice(match shown.format {
            Format::List => b"{\"operation_ids\":[",
            Format::DetailList => b"{\"operations\":[",
        });
        List {
            view,
            shown,
            emit,
            out,
            is_first: true,
            last: None,
        }
    }

    fn add(&mut self, found: &[Vec<u8>]) -> Result<Added> {
        let flow = match self.shown.format {
            Format::List => self.add_ids(found),
            Format::DetailList => match self.add_documents(found)? {
                Some(flow) => flow,
                None => return Ok(Added::TooMuch),
            },
        };
        let last = found.last().cloned();
        self.last = last.or(self.last.take());
        Ok(match flow {
            ControlFlow::Continue(()) => Added::All,
            ControlFlow::Break(()) => Added::Gone,
        })
    }

    fn add_ids(&mut self, found: &[Vec<u8>]) -> ControlFlow<()> {
        for id in found
            .iter()
            .filter_map(|key| keys::operation_of_by_time(key))
        {
            if !self.shown.defects.contains(id) {
                self.comma();
                text(id, &mut self.out);
                self.hand_over(PIECE)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Loads documents in the order of their rows and writes them in the order of the keys.
    /// `None` if that would take too much memory; a single chunk is always loaded.
    fn add_documents(&mut self, found: &[Vec<u8>]) -> Result<Option<ControlFlow<()>>> {
        let mut by_row: Vec<IndexedRow> = found
            .iter()
            .enumerate()
            .filter_map(|(place, found)| {
                let id = keys::operation_of_by_time(found)?;
                Some((keys::shard(id), id, place))
            })
            .collect();
        by_row.sort_unstable();
        let (view, shown) = (self.view, self.shown);
        let is_spread = found.len() > CHUNK;
        let rendered = match is_spread {
            false => [render(view, shown, &by_row)?, RenderedPage::default()],
            true => {
                // Loading dominates, so two threads share it.
                let (one, other) = by_row.split_at(by_row.len() / 2);
                let (one, other) = std::thread::scope(|scope| {
                    let other = scope.spawn(|| render(view, shown, other));
                    (render(view, shown, one), other.join())
                });
                [one?, other.unwrap_or_else(|panic| resume_unwind(panic))?]
            }
        };
        if is_spread && rendered.iter().any(|one| one.is_too_much) {
            return Ok(None);
        }
        let mut documents = vec![&[][..]; found.len()];
        for one in &rendered {
            for (place, range) in &one.ranges {
                documents[*place] = &one.bytes[range.clone()];
            }
        }
        for document in documents
            .into_iter()
            .filter(|document| !document.is_empty())
        {
            self.comma();
            self.out.extend_from_slice(document);
            if self.hand_over(PIECE).is_break() {
                return Ok(Some(ControlFlow::Break(())));
            }
        }
        Ok(Some(ControlFlow::Continue(())))
    }

    /// Hands over pieces while at least `least` bytes are buffered.
    fn hand_over(&mut self, least: usize) -> ControlFlow<()> {
        let Some(emit) = &mut self.emit else {
            return ControlFlow::Continue(());
        };
        while self.out.len() >= least {
            let piece = self.out.len().min(PIECE);
            emit(&self.out[..piece])?;
            self.out.drain(..piece);
        }
        ControlFlow::Continue(())
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
    }

    fn end(&mut self) {
        self.out.extend_from_slice(b"]}");
    }
}

/// Shard and operation, in the order of rows, and the index in the list.
type IndexedRow<'k> = (u16, &'k str, usize);

#[derive(Default)]
struct RenderedPage {
    bytes: Vec<u8>,
    ranges: Vec<(usize, Range<usize>)>,
    /// Incomplete, because it would take too much memory.
    is_too_much: bool,
}

fn render(view: &dyn View, shown: Shown, by_row: &[IndexedRow]) -> Result<RenderedPage> {
    let mut rendered = RenderedPage::default();
    for chunk in by_row.chunks(CHUNK) {
        if rendered.bytes.len() > SPREAD_BYTES {
            rendered.is_too_much = true;
            break;
        }
        let ids: Vec<_> = chunk.iter().map(|(_, id, _)| *id).collect();
        each(view, &ids, Bodies::LeftOut, shown.defects, |at, op| {
            let (_, id, place) = chunk[at];
            let start = rendered.bytes.len();
            let out = &mut rendered.bytes;
            bytes_into(id, op, Bodies::LeftOut, shown.times, out)?;
            let range = start..rendered.bytes.len();
            rendered.ranges.push((place, range));
            Some(ControlFlow::Continue(()))
        })?;
    }
    Ok(rendered)
}

/// Writes each operation. An operation without a document or with unreadable rows is recorded
/// as a defect and does not fail the list.
fn each(
    view: &dyn View,
    ids: &[&str],
    bodies: Bodies,
    defects: &Defects,
    mut show: impl FnMut(usize, &crate::domain::Operation) -> Option<ControlFlow<()>>,
) -> Result<()> {
    let snapshots = state::snapshots(view, ids.iter().copied())?;
    let has_defects = defects.count() > 0;
    for (at, (id, snapshot)) in ids.iter().zip(snapshots).enumerate() {
        let snapshot = snapshot.unwrap_or_default();
        match with_operation(view, id, &snapshot, bodies, |op| show(at, op)) {
            Ok(Some(flow)) => {
                if has_defects {
                    defects.remove(id, bodies);
                }
                if flow.is_break() {
                    break;
                }
            }
            Err(error) if error.is_unreadable() && bodies == Bodies::Shown => {
                // It may be readable without its bodies.
                match with_operation(view, id, &snapshot, Bodies::LeftOut, |_| ()) {
                    Ok(()) => defects.add_document(id),
                    Err(_) => defects.add(id),
                }
            }
            Ok(None) => defects.add(id),
            Err(error) if error.is_unreadable() => defects.add(id),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A page of documents with their bodies.
#[derive(Debug, Default)]
pub struct DocumentPage {
    /// By operation id.
    pub documents: Vec<(String, Bytes)>,
    pub next: ListCursor,
}

/// For a new event stream: each page is read at a point of its own and ends at `enough` bytes.
pub fn documents(
    db: &dyn Db,
    query: &Query,
    at_hand: &at_hand::Documents,
    defects: &Defects,
    after: &[u8],
    (bounds, enough): (PageLimits, usize),
) -> std::result::Result<DocumentPage, at_hand::Error> {
    let mut page = DocumentPage::default();
    let mut failed = Ok(());
    store::view(db, |view| {
        let after = Some(after).filter(|after| !after.is_empty());
        let selected = select(view, query, after, bounds)?;
        defects.add_unread(view, &selected.unread)?;
        let mut bytes_held = 0;
        for found in selected.found.chunks(DOCUMENTS) {
            let named = found
                .iter()
                .filter_map(|key| Some((key, keys::operation_of_by_time(key)?)));
            let (keys, ids): (Vec<_>, Vec<_>) = named.unzip();
            let mut last = None;
            each(view, &ids, Bodies::Shown, defects, |at, op| {
                let id = ids[at];
                let document = match at_hand.rendered(id, op) {
                    Ok(document) => document?.bytes,
                    Err(error) => {
                        failed = Err(error);
                        return Some(ControlFlow::Break(()));
                    }
                };
                bytes_held += document.len();
                page.documents.push((id.to_owned(), document));
                last = Some(keys[at]);
                Some(match bytes_held >= enough {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            })?;
            let is_enough = bytes_held >= enough;
            if failed.is_err() || is_enough && last != selected.found.last() {
                page.next = last.cloned();
                return Ok(());
            }
        }
        page.next = selected.next;
        Ok(())
    })?;
    failed.map(|()| page)
}

/// Identifies the state of a view: equal versions mean equal content.
pub fn version(view: &dyn View) -> Result<u64> {
    let mut version = 0;
    let mut note = |key: &[u8], row: &[u8]| {
        // A rebuilt store could have the number again, so the log's positions count, too.
        let before = u64::to_be_bytes(version);
        version = xxhash_rust::xxh3::xxh3_64(&[&before, key, row].concat());
    };
    let read = view.scan(
        Family::Change,
        keys::ALL,
        store::Direction::Backward,
        &mut |key, row| {
            note(key, row);
            ControlFlow::Break(())
        },
    );
    match read {
        // Every change also moves a position.
        Err(Error::Corrupt(_)) => {
            let forward = store::Direction::Forward;
            view.scan(Family::Meta, keys::ALL, forward, &mut |key, row| {
                note(key, row);
                ControlFlow::Continue(())
            })?;
        }
        read => read?,
    }
    Ok(version)
}
