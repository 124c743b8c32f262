//! How the two databases are tuned: memory use is bounded, checksums are always verified.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options};

/// Memory for the blocks of the state, bytes.
pub const STATE_CACHE: usize = 128 << 20;

fn common() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_max_open_files(512);
    options.set_max_background_jobs(2);
    options.set_stats_dump_period_sec(0);
    options
}

/// The log's database. A torn tail of its write-ahead log is what a crash leaves and is cut; damage anywhere else
/// refuses the database.
pub fn log() -> Options {
    let mut options = common();
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(256 << 20);
    options.set_write_buffer_size(64 << 20);
    options
}

/// A column family of the log's database: written once, read seldom, cut from its front.
pub fn log_family() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(64 << 20);
    options.set_compression_type(DBCompressionType::None);
    options
}

/// The state's database. All its families are flushed together, because they are consistent only together.
pub fn state() -> Options {
    let mut options = common();
    options.set_atomic_flush(true);
    options
}

/// A column family of the state's database.
pub fn state_family(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(32 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}
