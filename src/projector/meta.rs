//! What the store says of itself: versions, the log it belongs to, and the last
//! offset of each partition that is in it.

use super::halt::{Halt, OpenError};
use crate::event_log::Bounds;
use crate::store::{self, Batch, Db, Direction, Durability, Error, Family, keys};
use crate::wire::position::{LogId, Position, Positions, Token};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The shape of rows and keys. A reader of format N reads all before it.
pub const FORMAT: u8 = 1;
/// The rules of the fold. A store of other rules is rebuilt, not converted.
pub const FOLD: u32 = 1;

/// Reads where the store is; a new store is stamped with the log's identity.
pub fn open(db: &dyn Db, log: LogId) -> Result<Positions, OpenError> {
    match db.get(Family::Meta, b"format")?.as_deref() {
        None => stamp(db, log)?,
        Some([FORMAT]) => {}
        Some([stored, ..]) => Err(Halt::Format {
            stored: *stored,
            known: FORMAT,
        })?,
        Some([]) => Err(damaged("format"))?,
    }
    let fold = db
        .get(Family::Meta, b"fold")?
        .ok_or_else(|| damaged("fold"))?;
    let fold = u32::from_be_bytes(fold.try_into().map_err(|_| damaged("fold"))?);
    if fold != FOLD {
        Err(Halt::Fold {
            stored: fold,
            known: FOLD,
        })?;
    }
    let stored = db
        .get(Family::Meta, b"log")?
        .ok_or_else(|| damaged("log"))?;
    let stored = LogId(stored.try_into().map_err(|_| damaged("log"))?);
    if stored != log {
        Err(Halt::OtherLog { stored, found: log })?;
    }
    Ok(positions(db)?)
}

/// What the store says that it holds, of whatever log; `None` if it is new.
pub fn held(db: &dyn Db) -> store::Result<Option<Token>> {
    let Some(log) = db.get(Family::Meta, b"log")? else {
        return Ok(None);
    };
    Ok(Some(Token {
        log: LogId(log.try_into().map_err(|_| damaged("log"))?),
        positions: positions(db)?,
    }))
}

fn stamp(db: &dyn Db, log: LogId) -> store::Result<()> {
    let mut batch = Batch::default();
    batch.put(Family::Meta, b"format", &[FORMAT]);
    batch.put(Family::Meta, b"fold", &FOLD.to_be_bytes());
    batch.put(Family::Meta, b"log", &log.0);
    db.write(&batch, Durability::Synced)
}

const POSITION: &[u8] = b"position/";

pub fn put_position(batch: &mut Batch, at: Position) {
    let key = [POSITION, &at.partition.to_be_bytes()].concat();
    batch.put(Family::Meta, &key, &at.offset.to_be_bytes());
}

fn positions(db: &dyn Db) -> store::Result<Positions> {
    let mut rows = Vec::new();
    store::view(db, |view| {
        let end = keys::after_prefix(POSITION);
        view.scan(
            Family::Meta,
            POSITION..&end,
            Direction::Forward,
            &mut |key, offset| {
                rows.push([&key[POSITION.len()..], offset].concat());
                ControlFlow::Continue(())
            },
        )
    })?;
    rows.iter()
        .map(|row| {
            let at = keys::position_of(row).ok_or_else(|| damaged("a position"))?;
            Ok((at.partition, at.offset))
        })
        .collect()
}

/// Whether the log still has what comes after the stored positions.
pub fn check(stored: &Positions, log: &BTreeMap<u32, Bounds>) -> Result<(), Halt> {
    for (&partition, &offset) in stored {
        let Some(bounds) = log.get(&partition) else {
            let count = log.len();
            return Err(Halt::FewerPartitions { partition, count });
        };
        if bounds.end <= offset {
            return Err(Halt::BeyondEnd {
                partition,
                stored: offset,
                end: bounds.end,
            });
        }
        if bounds.first > offset + 1 {
            return Err(Halt::Gone {
                partition,
                stored: offset,
                first: bounds.first,
            });
        }
    }
    Ok(())
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the store cannot be read"))
}
