//! Reads: one document, the lists, the history, the dead letters. All from the
//! store, none through the projector.

pub mod dead_letters;
pub mod defects;
pub mod document;
pub mod history;
pub mod list;
pub mod notifications;
pub mod select;
pub mod sweeps;

/// What a streaming read does with each piece of its answer: `Break` ends it,
/// because the client has gone.
pub type Emit<'e> = dyn FnMut(&[u8]) -> std::ops::ControlFlow<()> + 'e;

/// A page of rows: where to begin, behind what the last page ended with.
#[derive(Debug, Default)]
pub struct Page {
    pub after: Option<Vec<u8>>,
    /// `None` streams everything.
    pub limit: Option<usize>,
}

/// A page is held in memory as a whole, since its link goes out before it: it
/// ends early rather than grow beyond this by more than one entry.
const PAGE_BYTES: usize = 4 << 20;

impl Page {
    fn is_full(&self, entries: usize, bytes: usize) -> bool {
        let full = |limit| entries >= limit || (entries > 0 && bytes >= PAGE_BYTES);
        self.limit.is_some_and(full)
    }
}
