//! A log in memory that really stores. Tests also use it in the place of Kafka:
//! they may append a record to any partition, as a foreign client would.

use super::{
    Bounds, EventLog, Limits, Logged, NewRecord, PublishError, Publishing, ReadError, Reader,
};
use crate::domain::Timestamp;
use crate::store::keys::shard;
use crate::wire::position::{LogId, Position, Positions};
use crate::wire::record_v1::Record;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    id: LogId,
    partitions: Mutex<Vec<Vec<Record>>>,
    grown: Condvar,
}

impl Memory {
    pub fn new(id: LogId, partitions: u32) -> Memory {
        Memory {
            shared: Arc::new(Shared {
                id,
                partitions: Mutex::new(vec![Vec::new(); partitions as usize]),
                grown: Condvar::new(),
            }),
        }
    }

    /// Appends as it is, whatever the key says about the partition.
    pub fn append(&self, partition: u32, record: Record) -> Position {
        let mut partitions = self.shared.lock();
        let records = &mut partitions[partition as usize];
        records.push(record);
        self.shared.grown.notify_all();
        Position {
            partition,
            offset: records.len() as u64 - 1,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Record>>> {
        self.partitions
            .lock()
            .expect("nothing panics while it holds the records")
    }
}

impl EventLog for Memory {
    fn id(&self) -> LogId {
        self.shared.id
    }

    fn publish(&self, records: Vec<NewRecord>) -> Publishing<'_> {
        let count = self.shared.lock().len() as u16;
        let positions = records.into_iter().map(|new| {
            let partition = u32::from(shard(&new.operation_id) % count);
            let record = Record {
                arrived: Timestamp::from_millis(0),
                key: None,
                headers: new.headers,
                value: new.value,
            };
            Ok::<_, PublishError>(self.append(partition, record))
        });
        Box::pin(std::future::ready(positions.collect()))
    }

    fn reader(&self, after: &Positions) -> Result<Box<dyn Reader>, ReadError> {
        Ok(Box::new(MemoryReader {
            shared: self.shared.clone(),
            next: after.iter().map(|(p, offset)| (*p, offset + 1)).collect(),
        }))
    }

    fn bounds(&self) -> Result<BTreeMap<u32, Bounds>, ReadError> {
        let partitions = self.shared.lock();
        let bounds = partitions.iter().enumerate().map(|(partition, records)| {
            let end = records.len() as u64;
            (partition as u32, Bounds { first: 0, end })
        });
        Ok(bounds.collect())
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
    next: BTreeMap<u32, u64>,
}

impl Reader for MemoryReader {
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError> {
        let nothing_new = |partitions: &mut Vec<Vec<Record>>| {
            let mut numbered = partitions.iter().enumerate();
            !numbered.any(|(p, records)| {
                (records.len() as u64) > *self.next.get(&(p as u32)).unwrap_or(&0)
            })
        };
        let partitions = self.shared.lock();
        let waited = self
            .shared
            .grown
            .wait_timeout_while(partitions, limits.patience, nothing_new);
        let (partitions, _) = waited.expect("nothing panics while it holds the records");
        let mut bytes = 0;
        for (partition, records) in partitions.iter().enumerate() {
            let partition = partition as u32;
            let next = self.next.entry(partition).or_insert(0);
            for record in records.iter().skip(*next as usize) {
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
                *next += 1;
            }
        }
        Ok(())
    }
}
