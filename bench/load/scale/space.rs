//! The bytes of the same events on the broker's disk, and in the store with everything
//! that it adds: the states, their history, the indexes.

use super::events::Events;
use super::{Filled, Scene};
use crate::report::{Cells, Report, mib};
use crate::server::disk;
use crate::topic::Topic;
use opledger::store::Family;
use opledger::store::rocks::{MemoryBudget, Rocks};
use serde_json::json;
use std::path::{Path, PathBuf};

pub struct Space {
    report: Report,
    store: PathBuf,
    events: usize,
}

impl Space {
    /// Measured before anything else is published.
    pub fn new(scene: &Scene, filled: &Filled) -> anyhow::Result<Space> {
        let mut space = Space {
            report: Report::new("scale: disk", filled.settings(scene.options)),
            store: scene.data.join("store"),
            events: filled.events,
        };
        let plain = each(filled.bytes as u64, filled.events);
        space.report.row("the events' own bytes", plain);
        if let Some(folder) = &scene.options.broker_folder {
            let taken = of_topic(folder, &scene.topic)?;
            space.report.row("topic, lz4", each(taken, space.events));
        }
        Ok(space)
    }

    pub fn note(&mut self, when: &str) -> anyhow::Result<()> {
        let taken = disk(&self.store)?;
        self.report.row(when, each(taken, self.events));
        Ok(())
    }

    /// Measured after the ledger has stopped.
    pub async fn measure(mut self, scene: &Scene<'_>) -> anyhow::Result<Report> {
        let options = scene.options;
        if let (Some(folder), 1..) = (&options.broker_folder, options.zstd_events) {
            let topic = Topic::make(&options.kafka, options.partitions).await?;
            let operations = 0..options.operations;
            let all = Events::new(operations, options.in_flight).unruly();
            let mut count = 0;
            let some = all.take(options.zstd_events as usize);
            topic.send(
                "zstd",
                some.map(|event| event.render()).inspect(|_| count += 1),
            )?;
            let taken = each(of_topic(folder, &topic)?, count);
            self.report
                .row(format!("topic, zstd, {count} events"), taken);
            topic.delete().await?;
        }
        // More were published while the ledger was killed.
        let events = scene.topic.ends()?.iter().sum::<i64>() as usize;
        let taken = disk(&self.store)?;
        self.report
            .row("store at the end, flushed and closed", each(taken, events));
        self.families(events)?;
        Ok(self.report)
    }

    /// As RocksDB reports its tables.
    fn families(&mut self, events: usize) -> anyhow::Result<()> {
        let memory = MemoryBudget {
            block_cache: 8 << 20,
            write_buffers: 8 << 20,
        };
        let db = Rocks::open(&self.store, Family::LEDGER, memory)?;
        for family in Family::LEDGER {
            let property = |name: &str| db.property(*family, &format!("rocksdb.{name}"));
            let tables = property("live-sst-files-size").unwrap_or(0);
            let blobs = property("live-blob-file-size").unwrap_or(0);
            if tables + blobs < 1 << 20 {
                continue;
            }
            let mut figures = each(tables + blobs, events);
            let pending = property("estimate-pending-compaction-bytes").unwrap_or(0);
            figures.push(("rows", json!(property("estimate-num-keys"))));
            figures.push(("waiting to be compacted, MiB", mib(pending)));
            self.report
                .row(format!("of it the family {}", family.name()), figures);
        }
        Ok(())
    }
}

fn each(bytes: u64, events: usize) -> Cells {
    vec![
        ("bytes/event", json!(bytes as f64 / events as f64)),
        ("MiB", mib(bytes)),
        ("events", json!(events)),
    ]
}

/// The folders of a topic's partitions in a broker's folder.
fn of_topic(folder: &Path, topic: &Topic) -> anyhow::Result<u64> {
    let partitions = 0..topic.partitions;
    let folders = partitions.map(|partition| folder.join(format!("{}-{partition}", topic.name)));
    folders.map(|folder| disk(&folder)).sum()
}
