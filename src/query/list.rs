//! The two lists: as pages, or streamed as a whole, from one point of the store. Memory
//! is bounded by one chunk, however many operations there are.

use super::document::bytes;
use super::operation::with_operation;
use super::select::{Bounds, Query, select};
use super::{Emit, PAGE_BYTES};
use crate::store::{self, Db, Family, Result, View, keys};
use crate::wire::document::{Bodies, text};
use crate::wire::time::TimeStyle;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Mutex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Identifiers.
    List,
    /// Documents without bodies.
    DetailList,
}

/// Operations that could not be read, nor folded again. They are left out of
/// every list, counted, and readiness names their number.
#[derive(Default)]
pub struct Defects(Mutex<BTreeSet<String>>);

impl Defects {
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn add(&self, operation_id: &str) {
        if self.lock().insert(operation_id.to_owned()) {
            tracing::error!(
                operation_id,
                "an operation cannot be read and is left out of lists"
            );
        }
    }

    fn contains(&self, operation_id: &str) -> bool {
        self.lock().contains(operation_id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0
            .lock()
            .expect("nothing panics while it holds the defects")
    }
}

/// Operations looked up at once.
const CHUNK: usize = 256;
/// Documents with their bodies looked up at once.
const DOCUMENTS: usize = 16;
/// What is handed to the client at once.
const PIECE: usize = 64 << 10;

/// What a list shows, and how.
#[derive(Clone, Copy)]
pub struct Shown<'l> {
    pub format: Format,
    pub query: &'l Query,
    pub times: &'l TimeStyle,
    pub defects: &'l Defects,
}

/// Behind what the next page begins; `None` after the last.
pub type Next = Option<Vec<u8>>;

/// All that match.
pub fn stream(view: &dyn View, shown: Shown, emit: &mut Emit) -> Result<()> {
    let mut list = List::new(view, shown);
    let mut after: Next = None;
    loop {
        let bounds = Bounds {
            limit: CHUNK,
            work: usize::MAX,
        };
        let selected = select(view, shown.query, after.as_deref(), bounds)?;
        list.add(&selected.keys)?;
        if list.out.len() >= PIECE {
            if emit(&list.out).is_break() {
                return Ok(());
            }
            list.out.clear();
        }
        match selected.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    list.end();
    let _ = emit(&list.out);
    Ok(())
}

/// One page, and what the next begins behind.
pub fn page(
    view: &dyn View,
    shown: Shown,
    after: Option<&[u8]>,
    bounds: Bounds,
) -> Result<(Vec<u8>, Next)> {
    let selected = select(view, shown.query, after, bounds)?;
    let mut list = List::new(view, shown);
    let mut next = selected.next;
    for chunk in selected.keys.chunks(CHUNK) {
        if list.out.len() >= PAGE_BYTES {
            // It is held as a whole, since its link goes out before it.
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
    let bounds = Bounds {
        limit: 1,
        work: usize::MAX,
    };
    Ok(select(view, query, None, bounds)?.keys.is_empty())
}

struct List<'l> {
    view: &'l dyn View,
    shown: Shown<'l>,
    out: Vec<u8>,
    is_first: bool,
    /// The key of the last entry.
    last: Next,
}

impl<'l> List<'l> {
    fn new(view: &'l dyn View, shown: Shown<'l>) -> List<'l> {
        let mut out = Vec::with_capacity(PIECE / 4);
        out.extend_from_slice(match shown.format {
            Format::List => b"{\"operation_ids\":[",
            Format::DetailList => b"{\"operations\":[",
        });
        List {
            view,
            shown,
            out,
            is_first: true,
            last: None,
        }
    }

    fn add(&mut self, keys: &[Vec<u8>]) -> Result<()> {
        let ids = keys
            .iter()
            .filter_map(|key| keys::operation_of_by_time(key));
        match self.shown.format {
            Format::List => {
                for id in ids.filter(|id| !self.shown.defects.contains(id)) {
                    self.comma();
                    text(id, &mut self.out);
                }
            }
            Format::DetailList => {
                let ids: Vec<&str> = ids.collect();
                each(self.view, &ids, self.shown.defects, |id, op| {
                    let document = bytes(id, op, Bodies::LeftOut, self.shown.times)?;
                    if !std::mem::take(&mut self.is_first) {
                        self.out.push(b',');
                    }
                    self.out.extend_from_slice(&document);
                    Some(())
                })?;
            }
        }
        self.last = keys.last().cloned().or(self.last.take());
        Ok(())
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

/// Shows each of these operations; one without a document, or that cannot be read, is a
/// defect: it must not turn the list into an error.
fn each(
    view: &dyn View,
    ids: &[&str],
    defects: &Defects,
    mut show: impl FnMut(&str, &crate::domain::Operation) -> Option<()>,
) -> Result<()> {
    let rows: Vec<_> = ids.iter().map(|id| keys::operation(id)).collect();
    let rows: Vec<&[u8]> = rows.iter().map(|row| &**row).collect();
    let rows = view.multi_get(Family::State, &rows)?;
    for (id, row) in ids.iter().zip(rows) {
        match with_operation(view, id, &row.unwrap_or_default(), |op| show(id, op)) {
            Ok(Some(())) => {}
            Ok(None) | Err(store::Error::Corrupt(_)) => defects.add(id),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Documents with their bodies, a page at a time.
#[derive(Debug, Default)]
pub struct Documents {
    /// By operation id.
    pub documents: Vec<(String, Vec<u8>)>,
    pub next: Next,
}

/// For a stream that begins: each page is from a point of its own, and ends where there
/// is `enough` in bytes.
pub fn documents(
    db: &dyn Db,
    query: &Query,
    times: &TimeStyle,
    defects: &Defects,
    after: &[u8],
    (bounds, enough): (Bounds, usize),
) -> Result<Documents> {
    store::view(db, |view| {
        let after = Some(after).filter(|after| !after.is_empty());
        let selected = select(view, query, after, bounds)?;
        let (mut documents, mut bytes_held) = (Vec::new(), 0);
        for keys in selected.keys.chunks(DOCUMENTS) {
            let ids = keys.iter();
            let ids: Vec<&str> = ids.filter_map(|k| keys::operation_of_by_time(k)).collect();
            each(view, &ids, defects, |id, op| {
                let document = bytes(id, op, Bodies::Shown, times)?;
                bytes_held += document.len();
                documents.push((id.to_owned(), document));
                Some(())
            })?;
            let last = keys.last();
            if bytes_held >= enough && last != selected.keys.last() {
                let next = last.cloned();
                return Ok(Documents { documents, next });
            }
        }
        Ok(Documents {
            documents,
            next: selected.next,
        })
    })
}

/// Names the point of a view: what is read at the same log and number is the same.
pub fn version(view: &dyn View) -> Result<u64> {
    let mut version = 0;
    view.scan(
        Family::Change,
        keys::ALL,
        store::Direction::Backward,
        &mut |key, row| {
            // The number alone might come again, in a store that was made anew.
            version = xxhash_rust::xxh3::xxh3_64(&[key, row].concat());
            ControlFlow::Break(())
        },
    )?;
    Ok(version)
}
