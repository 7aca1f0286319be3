//! Simulated logs and their faults: the embedded log on a disk in memory.

use super::generate::Rng;
use bytes::Bytes;
use opledger::domain::Timestamp;
use opledger::event_log::embedded::disk::memory::MemoryDisk as Disk;
use opledger::event_log::embedded::{Ahead, Appender, BlockCursor, Layout, Tail, Which, Why, disk};
use opledger::event_log::{Limits, Logged, NewRecord, ReadError, Share};
use opledger::store::memory::{Memory, WriteFault};
use opledger::wire::position::{NextOffsets, Position};
use opledger::wire::record::Headers;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A log under simulation. Every acknowledged record must be read back.
pub trait SimulatedLog {
    /// A place from which it is read.
    type Cursor;
    /// Appends a batch. Returns the acknowledged positions, or `None` if the outcome is unknown.
    fn publish(&mut self, rng: &mut Rng, batch: &[(String, String)]) -> Option<Vec<Position>>;
    fn cursor(&self, from: &NextOffsets, share: Share) -> Self::Cursor;
    fn read(&self, cursor: &mut Self::Cursor, limits: &Limits, into: &mut Vec<Logged>);
    /// The process dies and starts again.
    fn crash(&mut self, rng: &mut Rng);
    fn everything(&self) -> Vec<Logged>;
    /// Damages copies of the log.
    fn decays(&self, _: &mut Rng, _: &[(Position, String)]) {}
}

pub fn new_record((operation_id, text): &(String, String)) -> NewRecord {
    NewRecord {
        operation_id: operation_id.clone(),
        headers: Headers::default(),
        value: Some(Bytes::from(text.clone())),
    }
}

/// The embedded log on a disk in memory.
pub struct EmbeddedLog {
    disk: Disk,
    faults: Arc<Mutex<FaultPlan>>,
    appender: Option<Appender>,
}

/// Small segments, so that a run has many.
const LAYOUT: Layout = Layout {
    which: Which::Events,
    partitions: 4,
    least: 18 << 10,
    most: 20 << 10,
    ahead: Ahead::AtOnce,
};

impl EmbeddedLog {
    pub fn new() -> EmbeddedLog {
        let disk = Disk::default();
        let faults = FaultPlan::install_on_disk(&disk);
        let shared: Arc<dyn disk::Disk> = Arc::new(disk.clone());
        let appender = Appender::open(shared, LAYOUT).expect("no faults yet");
        EmbeddedLog {
            disk,
            faults,
            appender: Some(appender),
        }
    }

    fn appender(&mut self) -> &mut Appender {
        self.appender.as_mut().expect("open between crashes")
    }

    fn tail(&self) -> Tail {
        self.appender.as_ref().expect("open").tail()
    }

    /// The machine may lose power as well.
    fn end_process(&mut self, rng: &mut Rng) {
        self.appender = None;
        if rng.chance(50) {
            self.disk.restart();
        } else {
            let chance = [0, 50, 100][rng.below(3)];
            let keep = rng.next() as usize;
            let survives = || rng.chance(chance);
            self.disk.lose_power(survives, |count| keep % (count + 1));
        }
        // Opening may fail, too.
        loop {
            self.faults.lock().unwrap().arm(rng);
            let opened = Appender::open(Arc::new(self.disk.clone()), LAYOUT);
            self.faults.lock().unwrap().disarm();
            match opened {
                Ok(_) if self.disk.is_dead() => self.disk.restart(),
                Ok(appender) => {
                    self.appender = Some(appender);
                    return;
                }
                Err(Why::Disk(_)) => self.disk.restart(),
                Err(other) => panic!("it recovers: {other}"),
            }
        }
    }

    /// Flips one bit of one file: no acknowledged record may be lost silently.
    fn decay(&self, rng: &mut Rng, acknowledged: &[(Position, String)]) {
        let copy = self.disk.copy();
        let files = disk::Disk::list(&copy).expect("no faults are armed");
        let files: Vec<_> = files.iter().filter(|file| file.len > 0).collect();
        let file = *rng.pick(&files);
        copy.tamper(&file.name, |bytes| {
            let bit = rng.below(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
        });
        let appender = match Appender::open(Arc::new(copy.clone()), LAYOUT) {
            Ok(appender) => appender,
            Err(Why::Damaged(_)) => return,
            Err(other) => panic!("{other}"),
        };
        let mut blocks = BlockCursor::new(
            Arc::new(copy),
            Which::Events,
            4,
            &NextOffsets::default(),
            Share::ALL,
        );
        let mut all = Vec::new();
        loop {
            let before = all.len();
            match blocks.read(&appender.tail(), &LARGE, &mut all) {
                Err(ReadError::Damaged { .. }) => return,
                Err(other) => panic!("{other}"),
                Ok(()) if all.len() > before => {}
                Ok(()) => return check_acknowledged(acknowledged, &all),
            }
        }
    }
}

impl SimulatedLog for EmbeddedLog {
    type Cursor = BlockCursor;

    fn publish(&mut self, rng: &mut Rng, batch: &[(String, String)]) -> Option<Vec<Position>> {
        self.faults.lock().unwrap().arm(rng);
        let records = batch.iter().map(new_record).collect();
        let now = Timestamp::from_millis(rng.below(1_000_000) as i64);
        let result = self.appender().append(vec![records], now);
        self.faults.lock().unwrap().disarm();
        if result.is_ok() && !self.disk.is_dead() && rng.chance(20) {
            self.appender().settle().expect("no faults are armed");
        }
        match result {
            // The process may have died after the write and before the response.
            _ if self.disk.is_dead() => {
                self.end_process(rng);
                None
            }
            Ok(mut positions) => positions.pop(),
            Err(_) => {
                // The first attempt to recover may fail, too.
                self.faults.lock().unwrap().arm(rng);
                let first = self.appender().recover();
                self.faults.lock().unwrap().disarm();
                if self.disk.is_dead() {
                    self.end_process(rng);
                } else if first.is_err() {
                    self.appender().recover().expect("no faults are armed");
                }
                None
            }
        }
    }

    fn cursor(&self, from: &NextOffsets, share: Share) -> BlockCursor {
        let disk = Arc::new(self.disk.clone());
        BlockCursor::new(disk, Which::Events, 4, from, share)
    }

    fn read(&self, cursor: &mut BlockCursor, limits: &Limits, into: &mut Vec<Logged>) {
        let read = cursor.read(&self.tail(), limits, into);
        read.expect("readable");
    }

    fn crash(&mut self, rng: &mut Rng) {
        self.end_process(rng);
    }

    fn everything(&self) -> Vec<Logged> {
        let mut all = Vec::new();
        let mut cursor = self.cursor(&NextOffsets::default(), Share::ALL);
        self.read(&mut cursor, &LARGE, &mut all);
        all
    }

    fn decays(&self, rng: &mut Rng, acknowledged: &[(Position, String)]) {
        for _ in 0..10 {
            self.decay(rng, acknowledged);
        }
    }
}

pub const LARGE: Limits = Limits {
    records: usize::MAX,
    bytes: usize::MAX,
    patience: Duration::ZERO,
};

/// The fault of the next write and, on a disk, after how many calls it comes.
#[derive(Default)]
pub struct FaultPlan(Option<WriteFault>, usize);

impl FaultPlan {
    pub fn install(db: &Memory) -> Arc<Mutex<FaultPlan>> {
        let plan = Arc::new(Mutex::new(FaultPlan::default()));
        let shared = plan.clone();
        db.set_faults(Some(Box::new(move || {
            shared.lock().unwrap().0.take().unwrap_or(WriteFault::None)
        })));
        plan
    }

    /// The fault hits one of the next calls, not always the first.
    fn install_on_disk(disk: &Disk) -> Arc<Mutex<FaultPlan>> {
        let plan = Arc::new(Mutex::new(FaultPlan::default()));
        let shared = plan.clone();
        disk.set_faults(Some(Box::new(move |_| {
            let mut plan = shared.lock().unwrap();
            match plan.1.checked_sub(1) {
                Some(left) => {
                    plan.1 = left;
                    WriteFault::None
                }
                None => plan.0.take().unwrap_or(WriteFault::None),
            }
        })));
        plan
    }

    pub fn arm(&mut self, rng: &mut Rng) {
        self.1 = rng.below(8);
        self.0 = Some(match rng.below(20) {
            0 => WriteFault::Refuse,
            1 => WriteFault::Misreport,
            2 => WriteFault::Die { after: false },
            3 => WriteFault::Die { after: true },
            _ => WriteFault::None,
        });
    }

    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

pub fn check_acknowledged(acknowledged: &[(Position, String)], all: &[Logged]) {
    let held: BTreeMap<Position, Option<&[u8]>> = all
        .iter()
        .map(|l| (l.at, l.record.value.as_deref()))
        .collect();
    assert_eq!(held.len(), all.len(), "no position twice");
    for (at, text) in acknowledged {
        let value = held.get(at).expect("an acknowledged record is in the log");
        // The foreign log may have dropped the value: a tombstone.
        assert!(
            value.is_none_or(|value| value == text.as_bytes()),
            "at its position"
        );
    }
}
