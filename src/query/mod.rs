//! Reads: a document, the lists, the history, dead letters. All of them read the store; none uses
//! the projector.

pub mod dead_letters;
pub mod defects;
pub mod history;
pub mod list;
pub mod notifications;
pub mod read_points;

use std::ops::ControlFlow;

/// Receives the pieces of a response; `Break` ends the read, because the client has disconnected.
pub type Emit<'e> = dyn FnMut(&[u8]) -> ControlFlow<()> + 'e;

/// A page of rows, after the key at which the last page ended.
#[derive(Debug, Default)]
pub struct Page {
    pub after: Option<Vec<u8>>,
    /// `None` streams everything.
    pub limit: Option<usize>,
}

/// A page is buffered, because its Link header is sent before the body. It ends early instead
/// of exceeding this by more than one entry.
const PAGE_BYTES: usize = 4 << 20;

/// Writes `{"<name>":[…]}` in pieces.
struct EntryWriter<'p, 'e> {
    page: &'p Page,
    emit: &'p mut Emit<'e>,
    out: Vec<u8>,
    entries: usize,
    bytes: usize,
    /// The client has gone.
    is_gone: bool,
}

impl<'p, 'e> EntryWriter<'p, 'e> {
    fn new(name: &str, page: &'p Page, emit: &'p mut Emit<'e>) -> EntryWriter<'p, 'e> {
        EntryWriter {
            page,
            emit,
            out: format!("{{\"{name}\":[").into_bytes(),
            entries: 0,
            bytes: 0,
            is_gone: false,
        }
    }

    /// Whether the page ends before the next entry.
    fn is_full(&self) -> bool {
        let is_large = self.entries > 0 && self.bytes >= PAGE_BYTES;
        let is_full = |limit| self.entries >= limit || is_large;
        self.page.limit.is_some_and(is_full)
    }

    /// Adds an entry of about this size.
    fn add(&mut self, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> ControlFlow<()> {
        if self.entries > 0 {
            self.out.push(b',');
        }
        self.entries += 1;
        self.bytes += bytes;
        write(&mut self.out);
        if self.out.len() < 64 << 10 {
            return ControlFlow::Continue(());
        }
        let flow = (self.emit)(&self.out);
        self.is_gone = flow.is_break();
        self.out.clear();
        flow
    }

    fn end(mut self) {
        if !self.is_gone {
            self.out.extend_from_slice(b"]}");
            // It no longer matters whether the client has disconnected.
            let _ = (self.emit)(&self.out);
        }
    }
}
