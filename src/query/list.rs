//! The two lists, streamed from one view of the store. Memory is bounded by one
//! chunk, however many operations there are.

use super::Emit;
use super::document::bytes;
use super::filter::Filter;
use super::operation::with_operation;
use crate::domain::document;
use crate::store::{self, Db, Direction, Family, Result, View, keys};
use crate::wire::document::{Bodies, render, text};
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

/// States fetched at once.
const CHUNK: usize = 256;
/// What is handed to the client at once.
const PIECE: usize = 64 << 10;

/// Newest first: by occurred time, then id.
pub fn stream(
    db: &dyn Db,
    format: Format,
    times: &TimeStyle,
    defects: &Defects,
    emit: &mut Emit,
) -> Result<()> {
    store::view(db, |view| {
        let mut list = List {
            view,
            format,
            times,
            defects,
            emit,
            out: Vec::with_capacity(PIECE * 2),
            is_first: true,
        };
        list.out.extend_from_slice(match format {
            Format::List => b"{\"operation_ids\":[",
            Format::DetailList => b"{\"operations\":[",
        });
        let mut chunk = Vec::with_capacity(CHUNK);
        // Raised inside the visitor, which has no way to return it.
        let mut outcome = Ok(ControlFlow::Continue(()));
        view.scan(
            Family::ByTime,
            keys::ALL,
            Direction::Backward,
            &mut |key, _| {
                chunk.extend(keys::operation_of_by_time(key).map(str::to_owned));
                if chunk.len() == CHUNK {
                    outcome = list.add(&chunk);
                    chunk.clear();
                }
                match outcome {
                    Ok(flow) => flow,
                    Err(_) => ControlFlow::Break(()),
                }
            },
        )?;
        if outcome?.is_continue() && list.add(&chunk)?.is_continue() {
            list.out.extend_from_slice(b"]}");
            let _ = (list.emit)(&list.out);
        }
        Ok(())
    })
}

/// Documents with their bodies, a page at a time. Each page is from a point of its own.
#[derive(Debug, Default)]
pub struct Documents {
    /// By operation id.
    pub documents: Vec<(String, Vec<u8>)>,
    /// Behind what the next page begins; `None` after the last.
    pub next: Option<Vec<u8>>,
}

/// Looks at `rows` operations, the newest first, behind the key that the last page ended
/// with (nothing for the first).
pub fn documents(
    db: &dyn Db,
    filter: &Filter,
    times: &TimeStyle,
    defects: &Defects,
    after: &[u8],
    rows: usize,
) -> Result<Documents> {
    store::view(db, |view| {
        let mut page = Documents::default();
        let mut ids = Vec::with_capacity(rows);
        let end = match after {
            [] => keys::ALL.end,
            after => after,
        };
        view.scan(
            Family::ByTime,
            &[]..end,
            Direction::Backward,
            &mut |key, _| {
                ids.extend(keys::operation_of_by_time(key).map(str::to_owned));
                if ids.len() < rows {
                    return ControlFlow::Continue(());
                }
                page.next = Some(key.to_vec());
                ControlFlow::Break(())
            },
        )?;
        let keys: Vec<_> = ids.iter().map(|id| keys::operation(id)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let states = view.multi_get(Family::State, &keys)?;
        for (id, row) in ids.into_iter().zip(states) {
            let row = row.unwrap_or_default();
            let shown = with_operation(view, &id, &row, |op| {
                let document = document(&id, op)?;
                Some(filter.matches(&document).then(|| {
                    let mut out = Vec::with_capacity(1024);
                    render(&document, Bodies::Shown, times, &mut out);
                    out
                }))
            });
            match shown {
                Ok(Some(Some(document))) => page.documents.push((id, document)),
                Ok(Some(None)) => {}
                Ok(None) | Err(store::Error::Corrupt(_)) => defects.add(&id),
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    })
}

struct List<'l, 'e> {
    view: &'l dyn View,
    format: Format,
    times: &'l TimeStyle,
    defects: &'l Defects,
    emit: &'l mut Emit<'e>,
    out: Vec<u8>,
    is_first: bool,
}

impl List<'_, '_> {
    fn add(&mut self, chunk: &[String]) -> Result<ControlFlow<()>> {
        match self.format {
            Format::List => {
                for id in chunk.iter().filter(|id| !self.defects.contains(id)) {
                    self.comma();
                    text(id, &mut self.out);
                }
            }
            Format::DetailList => self.add_documents(chunk)?,
        }
        if self.out.len() < PIECE {
            return Ok(ControlFlow::Continue(()));
        }
        let flow = (self.emit)(&self.out);
        self.out.clear();
        Ok(flow)
    }

    fn add_documents(&mut self, chunk: &[String]) -> Result<()> {
        let rows: Vec<_> = chunk.iter().map(|id| keys::operation(id)).collect();
        let rows: Vec<&[u8]> = rows.iter().map(|row| &**row).collect();
        let rows = self.view.multi_get(Family::State, &rows)?;
        for (id, row) in chunk.iter().zip(rows) {
            let document = with_operation(self.view, id, &row.unwrap_or_default(), |op| {
                bytes(id, op, Bodies::LeftOut, self.times)
            });
            match document {
                Ok(Some(document)) => {
                    self.comma();
                    self.out.extend_from_slice(&document);
                }
                // One defective entry must not turn the list into an error.
                Ok(None) | Err(store::Error::Corrupt(_)) => self.defects.add(id),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
    }
}
