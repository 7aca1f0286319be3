//! A log in memory. Tests also use it instead of Kafka: they can append a record to any partition,
//! as a foreign client would.

use super::{
    Bounds, Confirmation, EventLog, Identity, Limits, Logged, NewRecord, Published, Publishing,
    ReadError, Reader, Share,
};
use crate::domain::{OperationId, Timestamp};
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Position};
use crate::wire::record::Record;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[derive(Clone)]
pub struct MemoryLog {
    shared: Arc<MemoryLogShared>,
}

struct MemoryLogShared {
    partitions: Mutex<Vec<Vec<Record>>>,
    grown: Condvar,
    id: Mutex<LogId>,
}

impl MemoryLog {
    pub fn new(id: LogId, partitions: u32) -> MemoryLog {
        MemoryLog {
            shared: Arc::new(MemoryLogShared {
                partitions: Mutex::new(vec![Vec::new(); partitions as usize]),
                grown: Condvar::new(),
                id: Mutex::new(id),
            }),
        }
    }

    /// Becomes another log at the same address, like a topic that is deleted and created again.
    pub fn replace(&self, id: LogId, records: Vec<Vec<Record>>) {
        let mut partitions = self.shared.lock();
        *self.shared.id() = id;
        *partitions = records;
        self.shared.grown.notify_all();
    }

    /// Appends an unchanged record to this partition, whatever its key.
    pub fn append(&self, partition: Partition, record: Record) -> Position {
        let mut partitions = self.shared.lock();
        let records = &mut partitions[partition.index()];
        records.push(record);
        self.shared.grown.notify_all();
        Position {
            partition,
            offset: Offset(records.len() as u64 - 1),
        }
    }
}

impl MemoryLogShared {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Record>>> {
        self.partitions
            .lock()
            .expect("nothing panics while it holds the records")
    }

    fn id(&self) -> MutexGuard<'_, LogId> {
        self.id
            .lock()
            .expect("nothing panics while it holds the id")
    }
}

impl EventLog for MemoryLog {
    fn id(&self) -> Option<LogId> {
        Some(*self.shared.id())
    }

    fn identify(&self) -> Result<Identity, ReadError> {
        Ok(Identity {
            id: *self.shared.id(),
            name: "in memory".into(),
        })
    }

    fn publish(&self, records: Vec<NewRecord>) -> Publishing<'_> {
        let count = self.shared.lock().len() as u16;
        let positions = records.into_iter().map(|new| {
            let partition = Partition(u32::from(OperationId(&new.operation_id).shard() % count));
            let record = Record {
                arrived: Timestamp::from_millis(0),
                claimed: false,
                key: None,
                headers: new.headers,
                value: new.value,
            };
            self.append(partition, record)
        });
        let published = Published {
            positions: positions.collect(),
            log: *self.shared.id(),
        };
        Box::pin(std::future::ready(Ok(published)))
    }

    fn reader(
        &self,
        log: LogId,
        from: &NextOffsets,
        share: Share,
    ) -> Result<Box<dyn Reader>, ReadError> {
        let next = from.iter().map(|(partition, next)| (*partition, *next));
        Ok(Box::new(MemoryReader {
            shared: self.shared.clone(),
            log,
            share,
            next: next
                .filter(|(partition, _)| share.has(*partition))
                .collect(),
        }))
    }

    fn bounds(&self) -> Result<BTreeMap<Partition, Bounds>, ReadError> {
        let partitions = self.shared.lock();
        let bounds = partitions.iter().map(|records| Bounds {
            first: Offset::ZERO,
            end: Offset(records.len() as u64),
        });
        Ok(Partition::all().zip(bounds).collect())
    }

    fn records_at(&self, at: &LastOffsets) -> Result<BTreeMap<Partition, Record>, ReadError> {
        let partitions = self.shared.lock();
        let found = at.iter().filter_map(|(&partition, &offset)| {
            let record = partitions.get(partition.index())?.get(offset.0 as usize)?;
            Some((partition, record.clone()))
        });
        Ok(found.collect())
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

struct MemoryReader {
    shared: Arc<MemoryLogShared>,
    log: LogId,
    share: Share,
    next: NextOffsets,
}

impl Reader for MemoryReader {
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError> {
        let nothing_new = |partitions: &mut Vec<Vec<Record>>| {
            let mut numbered = Partition::all().zip(&*partitions);
            !numbered.any(|(partition, records)| {
                if !self.share.has(partition) {
                    return false;
                }
                let next = self.next.get(&partition).copied().unwrap_or_default();
                Offset(records.len() as u64) > next
            })
        };
        let partitions = self.shared.lock();
        let waited = self
            .shared
            .grown
            .wait_timeout_while(partitions, limits.patience, nothing_new);
        let (partitions, _) = waited.expect("nothing panics while it holds the records");
        let mut bytes = 0;
        let numbered = Partition::all().zip(&*partitions);
        for (partition, records) in numbered.filter(|(partition, _)| self.share.has(*partition)) {
            let next = self.next.entry(partition).or_default();
            for record in records.iter().skip(next.0 as usize) {
                if into.len() >= limits.records || bytes >= limits.bytes {
                    return Ok(());
                }
                bytes += record.size();
                let at = Position {
                    partition,
                    offset: *next,
                };
                into.push(Logged {
                    at,
                    record: record.clone(),
                });
                *next = next.next();
            }
        }
        Ok(())
    }

    fn confirm(&mut self) -> Confirmation {
        let (result, coming) = tokio::sync::oneshot::channel();
        let confirmed = match *self.shared.id() == self.log {
            true => Ok(()),
            false => Err(ReadError::Unavailable("it is another log now".into())),
        };
        let _ = result.send(confirmed);
        Confirmation::coming(coming)
    }

    fn next(&self) -> NextOffsets {
        self.next.clone()
    }
}
