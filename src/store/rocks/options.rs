//! Options of each family: compression, blocks, filters, when files are merged. docs/performance.md
//! has the gain of each choice.

use super::{MemoryBudget, error, packed};
use crate::store::{Family, Result, prefix};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompactionStyle, DBCompressionType, Options,
    SliceTransform, UniversalCompactOptions, UniversalCompactionStopStyle, WriteBufferManager,
};
use rustix::process::{Resource, getrlimit};

pub fn of_database(memory: MemoryBudget, families: &[Family]) -> Result<Options> {
    // With preallocation a small disk would be full before anything is written.
    let mut options = match families.contains(&Family::Log) {
        true => with("allow_fallocate=false")?,
        false => {
            // Detects a missing or truncated file of the write-ahead log before a later one.
            // Families would otherwise have different states.
            let mut options = with(&format!(
                "allow_fallocate=false;track_and_verify_wals=true;{SEVERAL_WRITERS}"
            ))?;
            options.set_track_and_verify_wals_in_manifest(true);
            options
        }
    };
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_manifest_preallocation_size(0);
    // A quarter of them, at least one, for flushes.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    options.set_max_background_jobs(cores.clamp(2, 16) as i32);
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(
        memory.write_buffers as usize,
        false,
    ));
    // Small families would otherwise keep old write-ahead logs for long.
    options.set_max_total_wal_size(2 * memory.write_buffers);
    // This is memory for each merged file, of which there are many. The kernel reads ahead, too.
    options.set_compaction_readahead_size(256 << 10);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(1 << 20);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    options.set_max_open_files(open_files(limit) as i32);
    Ok(options)
}

/// Writers that wait for one another write their batches together, however large, and each
/// inserts its own rows. By default batches that are larger than a megabyte take turns. Writers
/// that wait sleep: by default they ask again and again for a while, on a core that another worker
/// could use.
const SEVERAL_WRITERS: &str = "max_write_batch_group_size_bytes=67108864;\
                               enable_write_thread_adaptive_yield=false";

/// Sorted files that a database keeps open if the process may open `limit` files.
pub fn open_files(limit: u64) -> u64 {
    (limit / 8).clamp(32, 1024)
}

/// Options that the binding has no function for.
fn with(settings: &str) -> Result<Options> {
    Options::get_options_from_string(&mut Options::default(), settings).map_err(error)
}

pub fn of_family(family: Family, cache: &Cache) -> Result<Options> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Indexes and filters count as cache, too.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    match family {
        Family::State => {
            // Read by key: small blocks, and filters to skip files. Each batch uses all filters
            // to find out which operations are new, so they are cached anyway. Unpartitioned,
            // they are fetched once for a batch and not once for a key.
            table.set_block_size(8 << 10);
            table.set_bloom_filter(10.0, false);
            index_by_pieces(&mut table);
            // Most operations of a batch are new, and searched here first.
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(0.02);
            compress_merged(&mut options);
            merge_by_size(&mut options, 4);
        }
        Family::History => {
            // The largest family, written once and read rarely: large blocks compress well.
            table.set_block_size(256 << 10);
            compress_merged(&mut options);
            packed::until_merged(&mut options);
            // A read uses only the files that have a row of the operation.
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
            // Adjacent keys differ little: half the size.
            compress_merged(&mut options);
            merge_by_size(&mut options, 8);
        }
        Family::Log => {
            // Rows are large and never change: compaction need not move them.
            options.set_enable_blob_files(true);
            options.set_min_blob_size(1 << 10);
            // They are compressed already.
            options.set_blob_compression_type(DBCompressionType::None);
        }
        Family::Lane => {
            table.set_block_size(16 << 10);
            // Half of the lookups are for a lane's first event.
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

/// Reads indexes in pieces of 4 KiB. A whole index has a megabyte per file, and those of ten
/// million operations do not fit into the cache: each miss read a whole one.
fn index_by_pieces(table: &mut BlockBasedOptions) {
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_pin_top_level_index_and_filter(true);
}

/// Compresses merged files with zstd. Flushed files are merged soon, so this is nearly all of a
/// large store.
fn compress_merged(options: &mut Options) {
    options.set_compression_per_level(&FLUSHED_AND_MERGED);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    // Only for the bottommost level: lz4 would use the level as well, and be slower than zstd.
    options.set_bottommost_compression_options(ZSTD_WINDOW, 1, 0, 0, true);
}

const FLUSHED_AND_MERGED: [DBCompressionType; 7] = {
    let mut levels = [DBCompressionType::Zstd; 7];
    levels[0] = DBCompressionType::Lz4;
    levels
};

/// RocksDB's own default.
const ZSTD_WINDOW: i32 = -14;

/// Merges `width` consecutive runs of similar size instead of level by level. Keys begin with a
/// hash, so every file overlaps every other, and a level would be rewritten for each new file.
/// After `n` flushes each row was written about `log(n) / log(width)` times more, and a read
/// searches a few times `width` runs.
fn merge_by_size(options: &mut Options, width: i32) {
    let mut universal = UniversalCompactOptions::default();
    universal.set_stop_style(UniversalCompactionStopStyle::Similar);
    // Up to three times as large as its neighbour.
    universal.set_size_ratio(200);
    universal.set_min_merge_width(width);
    universal.set_max_size_amplification_percent(i32::MAX);
    options.set_universal_compaction_options(&universal);
    options.set_compaction_style(DBCompactionStyle::Universal);
    // A merged run gets a level of its own, and with it a better compression.
    options.set_num_levels(4 * width);
    options.set_level_zero_file_num_compaction_trigger(2 * width);
    // One merge runs at a time: a long one of the history lets the others wait.
    options.set_level_zero_slowdown_writes_trigger(2 * width + 64);
    options.set_level_zero_stop_writes_trigger(4 * width + 128);
    // By default RocksDB merges everything after thirty days.
    options.set_periodic_compaction_seconds(0);
    options.set_ttl(0);
}
