//! The history of one operation: every event as received, in the order of the order key.
//! Several records of one event appear once, at their lowest position. Records that share time,
//! source and id but differ are several events.

use super::{Emit, Page};
use crate::domain::OperationId;
use crate::rows::{records, state};
use crate::store::{self, Db, Result};
use crate::wire::cloudevent;
use crate::wire::position::Position;
use crate::wire::record::Record;
use crate::wire::time::write_rfc3339_millis;
use std::ops::ControlFlow;

/// Where the next page begins, if there is one.
pub type HistoryCursor = Option<Vec<u8>>;

/// Writes `{"events":[…]}`. `None` if the operation has no events.
pub fn stream(
    db: &dyn Db,
    operation_id: OperationId,
    page: &Page,
    emit: &mut Emit,
) -> Result<Option<HistoryCursor>> {
    store::view(db, |view| {
        if !state::is_known(view, operation_id)? {
            return Ok(None);
        }
        let mut events = HistoryWriter {
            page,
            emit,
            out: b"{\"events\":[".to_vec(),
            event: Vec::new(),
            alike: Vec::new(),
            shown: 0,
            bytes: 0,
            next: None,
        };
        let mut gone = false;
        // After every record of the last event of the page before.
        let after = page.after.as_deref();
        records::scan(view, operation_id, after, &mut |event, at, record| {
            let flow = events.visit(event, at, &record)?;
            gone = flow.is_break() && events.next.is_none();
            Ok(flow)
        })?;
        if !gone {
            events.out.extend_from_slice(b"]}");
            let _ = (events.emit)(&events.out);
        }
        Ok(Some(events.next))
    })
}

struct HistoryWriter<'p, 'e> {
    page: &'p Page,
    emit: &'p mut Emit<'e>,
    out: Vec<u8>,
    /// What identifies the current event.
    event: Vec<u8>,
    /// The distinct events of the current order key, by type and data. The canonical form is
    /// computed when a second one must be compared.
    alike: Vec<EventContent>,
    shown: usize,
    bytes: usize,
    next: HistoryCursor,
}

impl HistoryWriter<'_, '_> {
    fn visit(&mut self, event: &[u8], at: Position, record: &Record) -> Result<ControlFlow<()>> {
        if self.event != event {
            // A page ends between order keys, so that repeated records stay together.
            if self.page.is_full(self.shown, self.bytes) {
                self.next = Some(std::mem::take(&mut self.event));
                return Ok(ControlFlow::Break(()));
            }
            self.event = event.to_vec();
            self.alike.clear();
        }
        let mut content = EventContent::new(record)?;
        if self
            .alike
            .iter_mut()
            .any(|other| other.is_same(&mut content))
        {
            return Ok(ControlFlow::Continue(()));
        }
        self.bytes += content.raw.len();
        self.show(at, record, &content.raw);
        self.alike.push(content);
        if self.out.len() < 64 << 10 {
            return Ok(ControlFlow::Continue(()));
        }
        let flow = (self.emit)(&self.out);
        self.out.clear();
        Ok(flow)
    }

    fn show(&mut self, at: Position, record: &Record, event: &[u8]) {
        if self.shown > 0 {
            self.out.push(b',');
        }
        self.shown += 1;
        self.out
            .extend_from_slice(format!("{{\"position\":\"{at}\"").as_bytes());
        if let Some(arrived) = record.arrival() {
            self.out.extend_from_slice(b",\"arrived\":\"");
            write_rfc3339_millis(arrived, &mut self.out);
            if record.claimed {
                self.out.extend_from_slice(b"\",\"arrived_by\":\"producer");
            }
            self.out.push(b'"');
        }
        self.out.extend_from_slice(b",\"event\":");
        self.out.extend_from_slice(event);
        self.out.push(b'}');
    }
}

/// Type and value of `data`: equal for two records of the same event.
struct EventContent {
    raw: Vec<u8>,
    canonical: Option<String>,
}

impl EventContent {
    fn new(record: &Record) -> Result<EventContent> {
        let mut raw = Vec::new();
        cloudevent::write_as_json(record, &mut raw)
            .map_err(|_| store::Error::Corrupt("a record of the history".into()))?;
        Ok(EventContent {
            raw,
            canonical: None,
        })
    }

    fn is_same(&mut self, other: &mut EventContent) -> bool {
        self.raw == other.raw || self.canonical() == other.canonical()
    }

    fn canonical(&mut self) -> &str {
        let raw = &self.raw;
        self.canonical.get_or_insert_with(|| {
            let content = cloudevent::canonical_content(raw);
            content.unwrap_or_else(|| String::from_utf8_lossy(raw).into_owned())
        })
    }
}
