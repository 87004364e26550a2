//! How SlateDB is set up, how it is read, and what its errors say.

use std::io::ErrorKind as IoError;
use std::ops::Bound::{self, Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, DurabilityLevel, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, ReadOptions, ScanOptions, Settings, SizeTieredCompactionSchedulerOptions,
};
use slatedb::db_cache::SplitCache;
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::{CloseReason, DbIterator, ErrorKind, SstBlockSize};

use crate::state::location::{Location, LocationError};
use crate::state::{StoreError, keys};

pub(super) const DB_FOLDER: &str = "db";

/// An index that is not in memory is read and checked as a whole for one look-up, at some hundred times its cost: blocks of
/// this size make the indexes small enough.
pub(super) const BLOCK: SstBlockSize = SstBlockSize::Block16Kib;

/// Tables are made of so many bytes. A checkpoint comes in the order of keys, so each covers its own part of them.
const MEMTABLE_BYTES: usize = 64 << 20;
const UNFLUSHED_BYTES_MAX: usize = 256 << 20;

/// Tables, and then runs of them, that are merged in one go.
const RUNS_AT_ONCE: usize = 8;

/// A storage operation is tried for about this many seconds before the store gives up and the process stops.
pub(super) const RETRIES_MAX: u32 = 60;

/// A scan fetches this much ahead.
const SCAN_AHEAD_BYTES: usize = 1 << 20;

/// Where the store is, for errors.
#[derive(Clone)]
pub(super) struct Place(pub(super) Arc<str>);

impl Place {
    pub(super) fn of(location: &Location) -> Place {
        Place(Arc::from(location.to_string()))
    }

    /// The error in our terms: where, the innermost cause, and what to do about it as far as that tells.
    pub(super) fn error(&self, error: &slatedb::Error) -> StoreError {
        match error.kind() {
            ErrorKind::Closed(CloseReason::Fenced) => return StoreError::Fenced,
            ErrorKind::Data => return StoreError::Damaged(format!("{}: {error}", self.0)),
            _ => {}
        }
        self.unavailable(error)
    }

    /// The storage cannot be used: the innermost cause and what to do about it.
    pub(super) fn unavailable(&self, error: &(dyn std::error::Error + 'static)) -> StoreError {
        let mut cause = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let what_to_do = match kind {
            Some(IoError::StorageFull | IoError::QuotaExceeded) => "its disk is full: make room there and start again",
            Some(IoError::ReadOnlyFilesystem | IoError::PermissionDenied) => {
                "let this user write there and start again"
            }
            _ => "start again when it can be reached",
        };
        let reason = if kind.is_some() { cause.to_string() } else { error.to_string() };
        StoreError::Unavailable(format!("{}: {reason}; {what_to_do}. No commit is lost", self.0))
    }
}

pub(super) fn settings(conditional_overwrite: bool) -> Settings {
    let swept = |min_age: Duration| {
        Some(GarbageCollectorDirectoryOptions {
            interval: Some(Duration::from_secs(60)),
            min_age,
            ..GarbageCollectorDirectoryOptions::default()
        })
    };
    // What is compacted is read, merged and written key by key: the dearest work of the store. The more runs at once, the fewer times.
    let scheduler = SizeTieredCompactionSchedulerOptions {
        min_compaction_sources: RUNS_AT_ONCE,
        max_compaction_sources: 2 * RUNS_AT_ONCE,
        ..SizeTieredCompactionSchedulerOptions::default()
    };
    Settings {
        // Every commit flushes itself.
        flush_interval: None,
        compression_codec: None,
        l0_sst_size_bytes: MEMTABLE_BYTES,
        max_unflushed_bytes: UNFLUSHED_BYTES_MAX,
        l0_max_ssts: 4 * RUNS_AT_ONCE,
        l0_max_ssts_per_key: 4 * RUNS_AT_ONCE,
        l0_flush_parallelism: 2,
        object_store_max_retries: Some(RETRIES_MAX),
        compactor_options: Some(CompactorOptions {
            poll_interval: Duration::from_secs(2),
            max_concurrent_compactions: 2,
            scheduler_options: scheduler.into(),
            worker: Some(CompactionWorkerOptions {
                max_concurrent_compactions: 2,
                compactions_poll_interval: Duration::from_secs(2),
                max_subcompactions: 2,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }),
        garbage_collector_options: Some(GarbageCollectorOptions {
            // One log file per commit: they go soon. The rest stays long enough for readers without a checkpoint.
            wal_options: swept(Duration::from_secs(60)),
            manifest_options: swept(Duration::from_secs(300)),
            compacted_options: swept(Duration::from_secs(300)),
            compactions_options: swept(Duration::from_secs(300)),
            // A fence that is gone would let a writer come back that was fenced: they are kept.
            wal_fence_options: None,
            // Without conditional overwrites (a local folder) the collector would skip every deletion.
            boundary_files_enabled: conditional_overwrite,
            ..GarbageCollectorOptions::default()
        }),
        ..Settings::default()
    }
}

pub(super) fn block_cache(bytes: usize) -> Arc<SplitCache> {
    let cache = |bytes: usize| {
        let options = MokaCacheOptions { max_capacity: bytes as u64, ..MokaCacheOptions::default() };
        Some(Arc::new(MokaCache::new_with_opts(options)) as Arc<dyn slatedb::db_cache::DbCache>)
    };
    Arc::new(SplitCache::new().with_block_cache(cache(bytes)).with_meta_cache(cache(bytes)))
}

pub(super) fn durable_read() -> ReadOptions {
    ReadOptions::default().with_durability_filter(DurabilityLevel::Remote)
}

pub(super) fn durable_scan() -> ScanOptions {
    ScanOptions::default()
        .with_durability_filter(DurabilityLevel::Remote)
        .with_read_ahead_bytes(SCAN_AHEAD_BYTES)
        .with_max_fetch_tasks(2)
}

type SuffixRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The suffixes behind `prefix` that are greater than `after`; nothing where `after` lies behind the whole prefix.
pub(super) fn scan_range(prefix: &[u8], after: Option<&[u8]>) -> Option<SuffixRange> {
    // Of all keys, those of the journal are not the callers'.
    let upto = if prefix.is_empty() { Excluded(keys::JOURNAL.to_vec()) } else { Unbounded };
    match after {
        None => Some((Unbounded, upto)),
        Some(after) => match after.strip_prefix(prefix) {
            Some(suffix) => Some((Excluded(suffix.to_vec()), upto)),
            None => (after < prefix).then_some((Unbounded, upto)),
        },
    }
}

pub(super) async fn collect(mut entries: DbIterator, limit: usize) -> Result<Vec<(Bytes, Bytes)>, slatedb::Error> {
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(entry) = entries.next().await?
    {
        found.push((entry.key, entry.value));
    }
    Ok(found)
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".to_string())
}

impl From<LocationError> for StoreError {
    fn from(error: LocationError) -> StoreError {
        StoreError::Unavailable(error.to_string())
    }
}
