//! Folds the events of a batch into one operation.

use super::projection::Tally;
use super::record_batch::Part;
use crate::domain::Absorbed;
use crate::rows::change::{Loaded, Named, ReadRows};
use crate::store::{self, Batch, Db};
use std::sync::Arc;

/// Folds them into the operation with this snapshot, and adds to the batch all that follows, the
/// new snapshot included. Returns that snapshot.
pub fn fold(
    db: &dyn Db,
    part: &Part,
    snapshot: Option<&[u8]>,
    batch: &mut Batch,
    tally: &mut Tally,
) -> store::Result<Arc<[u8]>> {
    let arrived = part.arrived();
    let mut space = ReadRows::default();
    let events = arrived.clone().map(|(event, _)| event);
    let mut loaded = Loaded::load(db, part.id, snapshot, events, &mut space)?;
    tally.refolded += u64::from(loaded.is_refolded);
    for (event, _) in arrived.clone() {
        let served = loaded.op.created.get().is_some();
        let records = arrived.clone().map(|(_, logged)| &logged.record);
        let absorbed = loaded.absorb(db, part.id, event, records)?;
        if absorbed == Absorbed::Revised && served {
            tally.terminal_revised += 1;
        }
    }
    let named = Named {
        id: part.id,
        key: part.key,
    };
    let written = loaded.write(named, batch);
    tally.note(part.id, &written.effects);
    tally.entries.push(written.entry);
    Ok(written.snapshot)
}
