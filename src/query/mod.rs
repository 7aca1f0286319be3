//! Reads: a document, the lists, the history, dead letters. All of them read the store and none
//! asks the projector.

pub mod dead_letters;
pub mod defects;
pub mod history;
pub mod list;
pub mod notifications;
pub mod sweeps;

/// Receives the pieces of a response; `Break` ends the read, because the client has gone.
pub type Emit<'e> = dyn FnMut(&[u8]) -> std::ops::ControlFlow<()> + 'e;

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

impl Page {
    fn is_full(&self, entries: usize, bytes: usize) -> bool {
        let full = |limit| entries >= limit || (entries > 0 && bytes >= PAGE_BYTES);
        self.limit.is_some_and(full)
    }
}
