//! What is written for a group of publishes, and how the log finds its ends
//! again. No threads and no clock: the simulation drives it step by step.

use crate::domain::Timestamp;
use crate::event_log::NewRecord;
use crate::store::keys::{self, shard};
use crate::store::{self, Batch, Db, Direction, Durability, Error, Family};
use crate::wire::block_v2;
use crate::wire::position::{LogId, Position};
use crate::wire::record_v1::Record;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Kept free for the databases to flush and compact: a share of the device,
/// within these bounds.
const RESERVE: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 20);
const RESERVE_SHARE: u64 = 20;

const FORMAT: u8 = 1;

/// Bytes of memory for a batch, beyond which it is not kept for the next one.
const KEPT: usize = 4 << 20;

pub struct Appender {
    db: Arc<dyn Db>,
    id: LogId,
    ends: Vec<u64>,
    blocks: block_v2::Encoder,
    batch: Batch,
}

impl Appender {
    /// Opens the log in `db`, or makes one there.
    pub fn open(db: Arc<dyn Db>, partitions: u32) -> store::Result<Appender> {
        let id = match db.get(Family::Meta, b"log")? {
            Some(row) => read_identity(&row)?,
            None => {
                let id = new_id();
                let mut batch = Batch::default();
                batch.put(Family::Meta, b"log", &[&[FORMAT][..], &id.0].concat());
                db.write(&batch, Durability::Synced)?;
                id
            }
        };
        let stored = match db.get(Family::Meta, b"partitions")? {
            Some(row) => u32::from_be_bytes(row.try_into().map_err(|_| damaged("partitions"))?),
            None => 0,
        };
        if partitions < stored {
            return Err(Error::Setting(format!(
                "the log has {stored} partitions and log.partitions is {partitions}: \
                 it can get more, not fewer"
            )));
        }
        if partitions > stored {
            let mut batch = Batch::default();
            batch.put(Family::Meta, b"partitions", &partitions.to_be_bytes());
            db.write(&batch, Durability::Synced)?;
        }
        let mut appender = Appender {
            db,
            id,
            ends: vec![0; partitions as usize],
            blocks: block_v2::Encoder::default(),
            batch: Batch::default(),
        };
        appender.read_ends()?;
        Ok(appender)
    }

    pub fn id(&self) -> LogId {
        self.id
    }

    /// The next offset of each partition.
    pub fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// Writes all publishes of a group, durably. After an error it is not known
    /// whether they are stored: `recover` finds out.
    pub fn append(
        &mut self,
        group: Vec<Vec<NewRecord>>,
        now: Timestamp,
    ) -> store::Result<Vec<Vec<Position>>> {
        let mut ends = self.ends.clone();
        let mut blocks: Vec<Vec<Record>> = vec![Vec::new(); ends.len()];
        let mut place = |new: NewRecord| {
            let partition = usize::from(shard(&new.operation_id)) % ends.len();
            blocks[partition].push(Record {
                arrived: now,
                claimed: false,
                key: None,
                headers: new.headers,
                value: new.value,
            });
            ends[partition] += 1;
            Position {
                partition: partition as u32,
                offset: ends[partition] - 1,
            }
        };
        let positions = group
            .into_iter()
            .map(|records| records.into_iter().map(&mut place).collect())
            .collect();
        // With the memory of the group before.
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        for (partition, records) in blocks.iter().enumerate().filter(|(_, r)| !r.is_empty()) {
            let first = Position {
                partition: partition as u32,
                offset: self.ends[partition],
            };
            batch.put_with(Family::Log, &keys::position(first), |row| {
                self.blocks.append(records.iter(), row)
            });
        }
        self.db.write(&batch, Durability::Synced)?;
        if batch.bytes() <= KEPT {
            self.batch = batch;
        }
        self.ends = ends;
        Ok(positions)
    }

    /// Opens the database anew and proves that it can be written.
    pub fn recover(&mut self) -> store::Result<()> {
        self.db.reopen()?;
        self.read_ends()?;
        let mut batch = Batch::default();
        batch.put(Family::Meta, b"probe", b"");
        self.db.write(&batch, Durability::Synced)
    }

    /// Whether `bytes` more can be taken without running the device full.
    pub fn check_space(&self, bytes: u64) -> Result<(), String> {
        let Some(space) = self.db.space() else {
            return Ok(());
        };
        let share = space.total / RESERVE_SHARE;
        let reserve = share.clamp(*RESERVE.start(), *RESERVE.end());
        // Once in the write-ahead log, once in the table.
        if space.free >= reserve + 2 * bytes {
            return Ok(());
        }
        Err(format!(
            "the disk is full: {} bytes are free, {reserve} are kept in reserve",
            space.free
        ))
    }

    fn read_ends(&mut self) -> store::Result<()> {
        let ends = store::view(&*self.db, |view| {
            (0..self.ends.len() as u32)
                .map(|partition| {
                    let mut end = Ok(0);
                    let [from, to] = [partition, partition + 1].map(|partition| {
                        keys::position(Position {
                            partition,
                            offset: 0,
                        })
                    });
                    view.scan(
                        Family::Log,
                        &from..&to,
                        Direction::Backward,
                        &mut |key, row| {
                            end = end_of_block(key, row);
                            ControlFlow::Break(())
                        },
                    )?;
                    end
                })
                .collect::<store::Result<Vec<u64>>>()
        })?;
        self.ends = ends;
        Ok(())
    }
}

fn end_of_block(key: &[u8], row: &[u8]) -> store::Result<u64> {
    let at = keys::position_of(key).ok_or_else(|| damaged("a position"))?;
    let len = block_v2::len(row).map_err(|e| Error::Corrupt(format!("{at}: {e}")))?;
    Ok(at.offset + len)
}

fn read_identity(row: &[u8]) -> store::Result<LogId> {
    match row.split_first() {
        Some((&FORMAT, id)) => Ok(LogId(id.try_into().map_err(|_| damaged("identity"))?)),
        Some((newer, _)) => Err(Error::Corrupt(format!(
            "the log has format {newer}, this program knows {FORMAT}: upgrade it"
        ))),
        None => Err(damaged("identity")),
    }
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("{what} of the embedded log cannot be read"))
}

fn new_id() -> LogId {
    LogId::from_bits(uuid::Uuid::new_v4().as_u128() as u64)
}
