//! How each family is kept: compression, blocks, filters, when files are merged. What the
//! choices brought is told in docs/performance.md.

use super::{MemoryBudget, error, packed};
use crate::store::{Family, Result, prefix};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompactionStyle, DBCompressionType, Options,
    SliceTransform, UniversalCompactOptions, UniversalCompactionStopStyle, WriteBufferManager,
};
use rustix::process::{Resource, getrlimit};

pub fn of_database(memory: MemoryBudget, families: &[Family]) -> Result<Options> {
    // Without preallocation a small disk is not full before it is written to.
    let mut options = match families.contains(&Family::Log) {
        true => with("allow_fallocate=false")?,
        false => {
            // It is noticed when a file of the write-ahead log is missing or too short while a
            // later one is there: families would be of different times, and rows missing that
            // follow from others.
            let mut options = with("allow_fallocate=false;track_and_verify_wals=true")?;
            options.set_track_and_verify_wals_in_manifest(true);
            options
        }
    };
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_manifest_preallocation_size(0);
    options.set_max_background_jobs(2);
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(
        memory.write_buffers as usize,
        false,
    ));
    // Small families would otherwise keep old write-ahead logs alive for long.
    options.set_max_total_wal_size(2 * memory.write_buffers);
    // For each file that is merged, and runs of like size are many; the kernel reads
    // ahead by itself as well.
    options.set_compaction_readahead_size(256 << 10);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(1 << 20);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    options.set_max_open_files(open_files(limit) as i32);
    Ok(options)
}

/// Sorted files that a database keeps open, where the process may have `limit` files.
pub fn open_files(limit: u64) -> u64 {
    (limit / 8).clamp(32, 1024)
}

/// What the binding has no function for.
fn with(settings: &str) -> Result<Options> {
    Options::get_options_from_string(&mut Options::default(), settings).map_err(error)
}

pub fn of_family(family: Family, cache: &Cache) -> Result<Options> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Indexes and filters count against the cache's bound too.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    match family {
        Family::State => {
            // Read by point: small blocks, and filters to skip files. Each batch asks all of
            // them whether its operations are new, so that they are in the cache anyway: as
            // a whole, they are found once for a batch and not once for a key.
            table.set_block_size(8 << 10);
            table.set_bloom_filter(10.0, false);
            index_by_pieces(&mut table);
            // Most operations of a batch are new, and looked for here first.
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(0.02);
            compress_merged(&mut options);
            merge_by_size(&mut options, 4);
        }
        Family::History => {
            // Written once, read rarely, the largest: blocks that compress well.
            table.set_block_size(256 << 10);
            compress_merged(&mut options);
            packed::until_merged(&mut options);
            // A read looks at those files only that have a row of the operation.
            table.set_bloom_filter(10.0, false);
            table.set_whole_key_filtering(false);
            index_by_pieces(&mut table);
            table.set_partition_filters(true);
            let in_domain = |key: &[u8]| prefix::operation_prefix(key).is_some();
            options.set_prefix_extractor(SliceTransform::create(
                "operation",
                |key| prefix::operation_prefix(key).unwrap_or(key),
                Some(in_domain),
            ));
            merge_by_size(&mut options, 16);
        }
        Family::ByTime | Family::ByStatus => {
            table.set_block_size(16 << 10);
            // Keys that differ little from the one before: half the size.
            compress_merged(&mut options);
            merge_by_size(&mut options, 8);
        }
        Family::Log => {
            // Rows are large and never change: compaction need not move them.
            options.set_enable_blob_files(true);
            options.set_min_blob_size(1 << 10);
            // They come compressed.
            options.set_blob_compression_type(DBCompressionType::None);
        }
        Family::Lane => {
            table.set_block_size(16 << 10);
            // Half of what is looked up is a lane's first event.
            table.set_bloom_filter(10.0, false);
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(0.02);
        }
        Family::Outbox
        | Family::Outcome
        | Family::Tries
        | Family::DeadLetter
        | Family::DeadLetterDue
        | Family::Anomaly
        | Family::Change
        | Family::Meta => table.set_block_size(16 << 10),
    }
    options.set_block_based_table_factory(&table);
    Ok(options)
}

/// Indexes are read by pieces of 4 KiB. As a whole they are a megabyte a file, and those of ten
/// million operations more than the cache keeps for them: each lookup that missed one read
/// all of it.
fn index_by_pieces(table: &mut BlockBasedOptions) {
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_pin_top_level_index_and_filter(true);
}

/// By zstd once it is merged. What is flushed is merged soon, and nearly all of a large
/// store has been.
fn compress_merged(options: &mut Options) {
    options.set_compression_per_level(&FLUSHED_AND_MERGED);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    // Only there: lz4 takes the level as well, and is slower than zstd with one.
    options.set_bottommost_compression_options(ZSTD_WINDOW, 1, 0, 0, true);
}

const FLUSHED_AND_MERGED: [DBCompressionType; 7] = {
    let mut levels = [DBCompressionType::Zstd; 7];
    levels[0] = DBCompressionType::Lz4;
    levels
};

/// RocksDB's own default.
const ZSTD_WINDOW: i32 = -14;

/// Runs are merged `width` at a time, once so many of like size follow each other, instead
/// of level by level: with a hash in front of the key every file overlaps every other, and
/// a level would be rewritten whole for each file that comes. Of `n` runs that were flushed
/// each row is written about `log(n) / log(width)` times more, and there are a few times
/// `width` runs to look into.
fn merge_by_size(options: &mut Options, width: i32) {
    let mut universal = UniversalCompactOptions::default();
    universal.set_stop_style(UniversalCompactionStopStyle::Similar);
    // Up to three times as large as its neighbour.
    universal.set_size_ratio(200);
    universal.set_min_merge_width(width);
    universal.set_max_size_amplification_percent(i32::MAX);
    options.set_universal_compaction_options(&universal);
    options.set_compaction_style(DBCompactionStyle::Universal);
    // What was merged gets a level of its own, and with it a better compression.
    options.set_num_levels(4 * width);
    options.set_level_zero_file_num_compaction_trigger(2 * width);
    // One merge runs at a time: a long one of the history lets the others wait.
    options.set_level_zero_slowdown_writes_trigger(2 * width + 64);
    options.set_level_zero_stop_writes_trigger(4 * width + 128);
    // It would merge everything of an age of thirty days.
    options.set_periodic_compaction_seconds(0);
    options.set_ttl(0);
}
