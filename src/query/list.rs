//! The two lists: as pages, or streamed as a whole, from one point of the store. Memory
//! is bounded by one chunk, however many operations there are.

use super::defects::Defects;
use super::{Emit, PAGE_BYTES};
use crate::domain;
use crate::domain::OperationId;
use crate::feed::documents::{DocumentCache, LoadError};
use crate::rows::lists::{self, PageLimits, Query, select};
use crate::rows::operation::with_operation;
use crate::rows::state;
use crate::store::{self, Db, Result, View};
use crate::wire::document::{self, Bodies, text};
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

/// Operations read at once.
const CHUNK: usize = 256;
/// Operations of a stream that are read before any of them is sent, in the order of
/// their rows: the more there are, the more of them lie in one block.
const SPREAD: usize = 16_384;
/// Beyond this many bytes of documents, by each of two threads, fewer are read.
const SPREAD_BYTES: usize = 4 << 20;
/// Documents with their bodies read at once.
const DOCUMENTS: usize = 16;
/// Bytes that are handed to the client at once.
const PIECE: usize = 64 << 10;

/// What a list shows, and how.
#[derive(Clone, Copy)]
pub struct Shown<'l> {
    pub format: Format,
    pub query: &'l Query,
    pub times: &'l TimeStyle,
    pub defects: &'l Defects,
}

/// The key after which the next page begins; `None` after the last.
pub type ListCursor = Option<Vec<u8>>;

/// All that match.
pub fn stream(view: &dyn View, shown: Shown, emit: &mut Emit) -> Result<()> {
    let mut list = List::new(view, shown, Some(emit));
    let mut after: ListCursor = None;
    // The first are sent at once.
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
    // It no longer matters whether the client has disconnected.
    let _ = list.hand_over(1);
    Ok(())
}

/// One page, and the key after which the next begins.
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
            // A page is in memory as a whole, because its link is sent before it.
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
    /// Receives the pieces; without it all output is kept.
    emit: Option<&'l mut Emit<'e>>,
    out: Vec<u8>,
    is_first: bool,
    /// The key of the last entry.
    last: ListCursor,
}

enum Added {
    All,
    /// Nothing was added: it would take too much memory.
    TooMuch,
    /// The client has disconnected.
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
        for id in found.iter().filter_map(|key| lists::operation_of(key)) {
            if !self.shown.defects.contains(id) {
                self.comma();
                text(&id, &mut self.out);
                self.hand_over(PIECE)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// They are read in the order of their rows, and shown in that of the keys. `None` if
    /// that would take too much memory; of one chunk it is always done.
    fn add_documents(&mut self, found: &[Vec<u8>]) -> Result<Option<ControlFlow<()>>> {
        let mut by_row: Vec<IndexedRow> = found
            .iter()
            .enumerate()
            .filter_map(|(place, found)| {
                let id = lists::operation_of(found)?;
                Some((id.shard(), id, place))
            })
            .collect();
        by_row.sort_unstable();
        let (view, shown) = (self.view, self.shown);
        let is_spread = found.len() > CHUNK;
        let rendered = match is_spread {
            false => [render(view, shown, &by_row)?, RenderedPage::default()],
            true => {
                // Reading takes longer than all else, so two threads share it.
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

    /// Hands over the output, for as long as there are at least `least` bytes.
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

/// Shard and operation, as rows are ordered, and where it is shown.
type IndexedRow<'k> = (u16, OperationId<'k>, usize);

#[derive(Default)]
struct RenderedPage {
    bytes: Vec<u8>,
    ranges: Vec<(usize, Range<usize>)>,
    /// Not all of them.
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
        each(view, &ids, Bodies::LeftOut, shown.defects, |at, row| {
            let (_, id, place) = chunk[at];
            let start = rendered.bytes.len();
            let out = &mut rendered.bytes;
            let is_there = with_operation(view, id, row, Bodies::LeftOut, |op| {
                let document = domain::document(id, op)?;
                document::render(&document, Bodies::LeftOut, shown.times, out);
                Some(())
            })?;
            let range = start..rendered.bytes.len();
            Ok(is_there.map(|()| {
                rendered.ranges.push((place, range));
                ControlFlow::Continue(())
            }))
        })?;
    }
    Ok(rendered)
}

/// Shows each of these operations, by its snapshot; one without a document, or that cannot be read,
/// is a defect: it must not turn the list into an error.
fn each(
    view: &dyn View,
    ids: &[OperationId],
    bodies: Bodies,
    defects: &Defects,
    mut show: impl FnMut(usize, &[u8]) -> Result<Option<ControlFlow<()>>>,
) -> Result<()> {
    let snapshots = state::snapshots(view, ids.iter().copied())?;
    let has_defects = defects.count() > 0;
    for (at, (&id, snapshot)) in ids.iter().zip(snapshots).enumerate() {
        let snapshot = snapshot.unwrap_or_default();
        match show(at, &snapshot) {
            Ok(Some(flow)) => {
                if has_defects {
                    defects.remove(id, bodies);
                }
                if flow.is_break() {
                    break;
                }
            }
            Err(error) if error.is_unreadable() && bodies == Bodies::Shown => {
                // Without its bodies it may be readable.
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

/// Documents with their bodies, a page at a time.
#[derive(Debug, Default)]
pub struct DocumentPage {
    /// By operation id.
    pub documents: Vec<(String, Bytes)>,
    pub next: ListCursor,
}

/// For a stream that begins: each page is read at a new read point, and ends after `enough` bytes.
pub fn documents(
    db: &dyn Db,
    query: &Query,
    cache: &DocumentCache,
    defects: &Defects,
    after: &[u8],
    bounds: PageLimits,
    enough: usize,
) -> std::result::Result<DocumentPage, LoadError> {
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
                .filter_map(|key| Some((key, lists::operation_of(key)?)));
            let (keys, ids): (Vec<_>, Vec<_>) = named.unzip();
            let mut last = None;
            each(view, &ids, Bodies::Shown, defects, |at, row| {
                let id = ids[at];
                let document = match cache.of(view, id, row) {
                    Ok(Some(document)) => document.bytes,
                    Ok(None) => return Ok(None),
                    Err(LoadError::Store(error)) => return Err(error),
                    Err(error @ LoadError::NoRoom(_)) => {
                        failed = Err(error);
                        return Ok(Some(ControlFlow::Break(())));
                    }
                };
                bytes_held += document.len();
                page.documents.push((id.to_string(), document));
                last = Some(keys[at]);
                Ok(Some(match bytes_held >= enough {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }))
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
