//! Converts a log that an earlier version kept in a RocksDB to segments, with the same identity
//! and the same positions. The old files stay in `rocksdb/` until their owner removes them.
//!
//! ```text
//! upgrade/    being written: an interruption leaves the old log as it is
//! upgraded/   complete: renamed from `upgrade/`, and from then on this is the log
//! rocksdb/    where the old files are moved to, before those of `upgraded/` take their place
//! ```

use super::acknowledged;
use super::appender::{Appender, FramePart, Layout};
use super::chain::{self, Extent};
use super::damage::Why;
use super::disk::{Disk, FolderEntry};
use super::format::segment_number;
use super::spare::{Ahead, SPARE};
use crate::store::rocks::{self, Rocks};
use crate::store::{self, Db, Direction, Family, View};
use crate::wire::block;
use crate::wire::position::{LogId, Offset, Partition, Position};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const BUILDING: &str = "upgrade";
const BUILT: &str = "upgraded";
/// Where the old files are kept.
pub const KEPT: &str = "rocksdb";

/// The format of a log in a RocksDB.
const OLD_FORMAT: u8 = 1;
/// Rows of the old log are collected into frames of about this length.
const FRAME: usize = 256 << 10;

/// Whether these files contain a RocksDB.
pub fn is_old_form(files: &[FolderEntry]) -> bool {
    files.iter().filter(|file| !file.is_folder).any(|file| {
        let name = &file.name;
        name == "CURRENT" || name.starts_with("MANIFEST-") || name.ends_with(".sst")
    })
}

/// Whether these files contain a log, in either form.
pub fn is_log(files: &[FolderEntry]) -> bool {
    let is_own = |file: &FolderEntry| {
        segment_number(&file.name).is_some()
            || file.name == acknowledged::NAME
            || (file.is_folder && file.name == BUILT)
    };
    is_old_form(files) || files.iter().any(is_own)
}

/// For reading a log of an earlier version once.
const OLD_MEMORY: rocks::MemoryBudget = rocks::MemoryBudget {
    block_cache: 8 << 20,
    write_buffers: 32 << 20,
};

/// Opens the RocksDB in a folder, and changes nothing there.
pub fn open_old(path: &Path) -> store::Result<Arc<dyn Db>> {
    rocks::wal::check(path)?;
    let old = Rocks::open_to_read(path, Family::EMBEDDED_LOG, OLD_MEMORY)?;
    Ok(Arc::new(old))
}

/// Does nothing if the log already consists of segments.
pub fn if_needed(
    disk: &Arc<dyn Disk>,
    layout: Layout,
    open_old: impl FnOnce() -> store::Result<Arc<dyn Db>>,
) -> Result<(), Why> {
    let failed = |error| Why::disk("upgrading it", &error);
    let files = disk.list().map_err(failed)?;
    if files.iter().any(|file| file.name == BUILT) {
        return finish(&**disk).map_err(failed);
    }
    let has_segments = files.iter().any(|f| segment_number(&f.name).is_some());
    if has_segments || !is_old_form(&files) {
        return Ok(());
    }
    let bytes: u64 = files.iter().map(|file| file.len).sum();
    if let Some(space) = disk.space().filter(|space| space.free < bytes) {
        return Err(Why::Disk(format!(
            "an earlier version wrote it, and {bytes} bytes are needed to convert it: {} are free",
            space.free
        )));
    }
    disk.remove_folder(BUILDING)
        .and_then(|()| disk.make_folder(BUILDING))
        .and_then(|()| disk.sync_folder(""))
        .map_err(failed)?;
    let old = open_old().map_err(unreadable)?;
    let records = build(disk, layout, &*old)?;
    drop(old);
    disk.rename(BUILDING, BUILT)
        .and_then(|()| disk.sync_folder(""))
        .and_then(|()| finish(&**disk))
        .map_err(failed)?;
    tracing::warn!(
        log = %layout.which,
        records,
        "the log is kept in segment files from now on; the files of the earlier version are in \
         {}/{KEPT}, and may be removed",
        layout.which.folder()
    );
    Ok(())
}

pub fn unreadable(error: store::Error) -> Why {
    Why::OldForm(reason(error))
}

/// Without the advice, which is for the store.
fn reason(error: store::Error) -> String {
    match error {
        store::Error::Corrupt(what) | store::Error::Io(what) => what,
        other => other.to_string(),
    }
}

/// Moves the old files away and the new ones to their place. An interrupted move is continued.
fn finish(disk: &dyn Disk) -> io::Result<()> {
    disk.make_folder(KEPT)?;
    let is_ours = |file: &FolderEntry| {
        file.is_folder
            || segment_number(&file.name).is_some()
            || [acknowledged::NAME, SPARE].contains(&&*file.name)
    };
    for file in disk.list()?.iter().filter(|file| !is_ours(file)) {
        disk.rename(&file.name, &format!("{KEPT}/{}", file.name))?;
    }
    disk.sync_folder(KEPT)?;
    disk.sync_folder("")?;
    for file in disk.folder(BUILT).list()? {
        disk.rename(&format!("{BUILT}/{}", file.name), &file.name)?;
    }
    disk.sync_folder("")?;
    disk.remove_folder(BUILT)?;
    disk.sync_folder("")
}

/// Identity and size of an old log.
struct About {
    id: LogId,
    partitions: u32,
}

fn about(old: &dyn Db) -> Result<About, Why> {
    let unreadable = |what: &str| Why::OldForm(what.into());
    let get = |key: &[u8]| {
        let row = old.get(Family::Meta, key);
        row.map_err(|error| Why::OldForm(reason(error)))
    };
    let id = match get(b"log")?.as_deref() {
        Some([OLD_FORMAT, id @ ..]) => id.try_into().ok().map(LogId),
        _ => None,
    };
    let id = id.ok_or_else(|| unreadable("it does not say which log it is"))?;
    let partitions = get(b"partitions")?.and_then(|row| row.try_into().ok());
    let partitions = partitions.map(u32::from_be_bytes);
    let partitions =
        partitions.ok_or_else(|| unreadable("it does not say how many partitions it has"))?;
    Ok(About { id, partitions })
}

/// Reads all of an old log: its identity, and the end of each partition.
pub fn check(old: &dyn Db) -> Result<(LogId, Vec<Offset>), Why> {
    let About { id, partitions } = about(old)?;
    let mut ends = vec![Offset::ZERO; partitions as usize];
    let mut outcome = Ok(());
    let viewed = store::view(old, |view| {
        outcome = Partition::all()
            .zip(&mut ends)
            .try_for_each(|(partition, end)| {
                while let Some(row) = next_row(view, partition, *end)? {
                    *end = end.plus(row.count);
                }
                Ok(())
            });
        Ok(())
    });
    viewed.map_err(|error| Why::OldForm(reason(error)))?;
    outcome.map(|()| (id, ends))
}

/// Writes the old log as segments, and reads them again. Returns the number of records.
fn build(disk: &Arc<dyn Disk>, layout: Layout, old: &dyn Db) -> Result<u64, Why> {
    let About { id, partitions } = about(old)?;
    let layout = Layout {
        partitions,
        ahead: Ahead::Never,
        ..layout
    };
    let inner = disk.folder(BUILDING);
    let mut appender = Appender::create(inner.clone(), layout, id)?;
    let mut outcome = Ok(());
    let viewed = store::view(old, |view| {
        outcome = copy(view, partitions, &mut appender);
        Ok(())
    });
    viewed.map_err(|error| Why::OldForm(reason(error)))?;
    outcome?;
    let write_failed = |error: super::WriteError| Why::Disk(error.to_string());
    appender.acknowledge().map_err(write_failed)?;
    appender.settle().map_err(write_failed)?;
    let ends = appender.ends().to_vec();
    drop(appender);
    // It replaces the only copy of the events, so it is checked.
    let survey = chain::survey(&*inner, Extent::All(&mut |_| {}))?;
    match survey {
        Some(survey) if survey.damages.is_empty() && survey.state.ends == ends => {
            Ok(survey.state.records)
        }
        _ => Err(Why::Disk(
            "what was written of it cannot be read again".into(),
        )),
    }
}

/// The next row of a partition of the old log.
struct OldRow {
    first: Offset,
    count: u64,
    arrived: i64,
    block: Bytes,
}

/// In the order of arrival, so that partitions are interleaved as they were.
fn copy(view: &dyn View, partitions: u32, appender: &mut Appender) -> Result<(), Why> {
    let mut heads: BTreeMap<(i64, Partition), OldRow> = BTreeMap::new();
    for partition in Partition::all().take(partitions as usize) {
        if let Some(row) = next_row(view, partition, Offset::ZERO)? {
            heads.insert((row.arrived, partition), row);
        }
    }
    let mut gathered: Vec<(Partition, OldRow)> = Vec::new();
    let mut bytes = 0;
    while let Some(((_, partition), row)) = heads.pop_first() {
        if let Some(next) = next_row(view, partition, row.first.plus(row.count))? {
            heads.insert((next.arrived, partition), next);
        }
        bytes += row.block.len();
        gathered.push((partition, row));
        if bytes >= FRAME || heads.is_empty() {
            let parts: Vec<_> = gathered
                .iter()
                .map(|(partition, row)| (*partition, FramePart::Encoded(&row.block, row.count)))
                .collect();
            let written = appender.write(&parts);
            written.map_err(|error| Why::Disk(error.to_string()))?;
            gathered.clear();
            bytes = 0;
        }
    }
    Ok(())
}

fn next_row(view: &dyn View, partition: Partition, from: Offset) -> Result<Option<OldRow>, Why> {
    let key = |partition, offset| Position { partition, offset }.to_key();
    let (start, end) = (
        key(partition, from),
        key(Partition(partition.0 + 1), Offset::ZERO),
    );
    let mut found = None;
    let scanned = view.scan(
        Family::Log,
        &start..&end,
        Direction::Forward,
        &mut |key, row| {
            found = Some((Position::of_key(key), Bytes::copy_from_slice(row)));
            ControlFlow::Break(())
        },
    );
    scanned.map_err(|error| Why::OldForm(reason(error)))?;
    let Some((at, block)) = found else {
        return Ok(None);
    };
    let damaged = |what: &str| Why::OldForm(format!("{partition}:{from}: {what}"));
    if at.map(|at| at.offset) != Some(from) {
        return Err(damaged("a record is missing"));
    }
    let records = block::decode(&block).map_err(|e| damaged(&e.to_string()))?;
    let arrived = records.first().map(|record| record.arrived.as_millis());
    Ok(Some(OldRow {
        first: from,
        count: records.len() as u64,
        arrived: arrived.ok_or_else(|| damaged("a row without a record"))?,
        block,
    }))
}
