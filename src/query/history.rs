//! The history of one operation: every event as received, in the order of the order key.
//! Several records of one event appear once, at their lowest position. Records that share time,
//! source and id but differ are several events.

use super::{Emit, EntryWriter, Page};
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
        let mut events = EntryWriter::new("events", page, emit);
        let (mut current, mut next): (Vec<u8>, HistoryCursor) = (Vec::new(), None);
        // The distinct records of the current event, by type and data.
        let mut alike: Vec<EventContent> = Vec::new();
        // After every record of the last event of the page before.
        let after = page.after.as_deref();
        records::scan(view, operation_id, after, &mut |event, at, record| {
            if current != event {
                // A page ends between events, so that repeated records stay together.
                if events.is_full() {
                    next = Some(std::mem::take(&mut current));
                    return Ok(ControlFlow::Break(()));
                }
                current = event.to_vec();
                alike.clear();
            }
            let mut content = EventContent::new(&record)?;
            if alike.iter_mut().any(|other| other.is_same(&mut content)) {
                return Ok(ControlFlow::Continue(()));
            }
            let raw = &content.raw;
            let flow = events.add(raw.len(), |out| show(at, &record, raw, out));
            alike.push(content);
            Ok(flow)
        })?;
        events.end();
        Ok(Some(next))
    })
}

fn show(at: Position, record: &Record, event: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"position\":\"{at}\"").as_bytes());
    if let Some(arrived) = record.arrival() {
        out.extend_from_slice(b",\"arrived\":\"");
        write_rfc3339_millis(arrived, out);
        if record.claimed {
            out.extend_from_slice(b"\",\"arrived_by\":\"producer");
        }
        out.push(b'"');
    }
    out.extend_from_slice(b",\"event\":");
    out.extend_from_slice(event);
    out.push(b'}');
}

/// Type and value of `data`: equal for two records of the same event. The canonical form is
/// computed when a second one must be compared.
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
