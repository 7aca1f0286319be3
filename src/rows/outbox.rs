//! What the control log says of webhook deliveries, as it is stored.

use crate::store::{Batch, Db, Error, Family, Result};
use crate::wire::notification::{DeliveryOutcome, decode_outcome};
use crate::wire::position::{LogId, NextOffsets};
use crate::wire::stored::{self, NOTIFICATIONS_BEGIN};

/// Where the control log says so of a log, the offsets before which nothing is sent; nothing is
/// known of one that is not in it.
pub fn begun(db: &dyn Db, log: LogId) -> Result<Option<NextOffsets>> {
    let row = db.get(Family::Meta, &begun_key(log))?;
    row.map(|row| {
        let body = stored::body(NOTIFICATIONS_BEGIN, &row).ok();
        let ends = body.and_then(|body| postcard::from_bytes(body).ok());
        ends.ok_or_else(|| damaged("where notifications begin"))
    })
    .transpose()
}

pub fn put_begun(log: LogId, ends: &NextOffsets, batch: &mut Batch) {
    let row = postcard::to_extend(ends, vec![NOTIFICATIONS_BEGIN]);
    let row = row.expect("memory takes whatever postcard writes");
    batch.put(Family::Meta, &begun_key(log), &row);
}

fn begun_key(log: LogId) -> Vec<u8> {
    [b"control/begun/", &log.0[..]].concat()
}

/// What became of the delivery under this key.
pub fn outcome(db: &dyn Db, key: &[u8]) -> Result<Option<DeliveryOutcome>> {
    let row = db.get(Family::Outcome, key)?;
    let unreadable = |_| damaged("an outcome of a notification");
    row.map(|row| decode_outcome(&row).map_err(unreadable))
        .transpose()
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the store cannot be read"))
}
