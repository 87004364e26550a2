//! The store on SlateDB: an LSM on object storage, a local folder by default.
//!
//! A commit is handed to one task when `commit` is called (not when its future is first polled), so batches become
//! durable in the order of calls, however the futures are awaited. That task writes batch after batch without
//! waiting; each is flushed to the log at once, since a write that nobody flushes waits for a tick.
//!
//! Invariants: reads show what is durable and nothing else (SlateDB's default read also shows what is not yet), so
//! nothing that a reader finds can be lost; what is still on its way is the caller's overlay. After a failed commit
//! no later one succeeds. Opening fences the writer that was there before.

use std::io::ErrorKind as IoError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, DbReaderOptions, DurabilityLevel, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, ReadOptions, ScanOptions, Settings,
};
use slatedb::db_cache::SplitCache;
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::{CloseReason, Db, DbIterator, DbReader, DbReaderMode, ErrorKind, SstBlockSize, WriteHandle};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::location::{Location, LocationError};
use super::{Store, StoreError, Write, WriteBatch};
use crate::failpoint;

const DB_FOLDER: &str = "db";
/// For blocks, and as much for indexes and filters. An index that is not in memory is read and checked as a whole for one
/// look-up, at some hundred times its cost: blocks of 16 KiB make the indexes small enough.
const BLOCK_CACHE_BYTES: usize = 256 << 20;
const READER_CACHE_BYTES: usize = 32 << 20;
const BLOCK: SstBlockSize = SstBlockSize::Block16Kib;

/// Outbox entries of several MB live for seconds. What is put and deleted within one memtable never reaches a sorted
/// file, so a large memtable saves most of their writing; it also bounds the log that a start replays.
const MEMTABLE_BYTES: usize = 128 << 20;
const UNFLUSHED_BYTES_MAX: usize = 512 << 20;

/// A storage operation is tried for about this many seconds before the store gives up and the process stops.
const RETRIES_MAX: u32 = 60;

/// A commit that takes longer than this is told of.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// How soon a reader that stays open sees new commits.
const READER_POLL: Duration = Duration::from_secs(1);

/// A scan fetches this much ahead.
const SCAN_AHEAD_BYTES: usize = 1 << 20;

/// The writer. There is one for a location: a second one that opens fences the first.
pub struct SlateStore {
    db: Db,
    place: Place,
    commits: Mutex<Option<mpsc::UnboundedSender<Commit>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

struct Commit {
    batch: slatedb::WriteBatch,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl SlateStore {
    /// Opens or creates the state at `location` and takes it over from whoever had it.
    pub async fn open(location: &Location) -> Result<SlateStore, StoreError> {
        Self::open_with(location, BLOCK_CACHE_BYTES).await
    }

    /// As [`SlateStore::open`], with this much memory for blocks read from the store (and as much for indexes
    /// and filters).
    pub async fn open_with(location: &Location, block_cache_bytes: usize) -> Result<SlateStore, StoreError> {
        let (objects, prefix) = location.create()?;
        let place = Place::of(location);
        let db = Db::builder(prefix.join(DB_FOLDER), objects)
            .with_settings(settings(location.has_conditional_overwrite()))
            .with_sst_block_size(BLOCK)
            .with_db_cache(block_cache(block_cache_bytes), 0)
            .with_fp_registry(failpoint::registry())
            .build()
            .await
            .map_err(|error| place.error(&error))?;
        let (commits, queue) = mpsc::unbounded_channel();
        let committer = tokio::spawn(commit_in_order(db.clone(), place.clone(), queue));
        Ok(SlateStore { db, place, commits: Mutex::new(Some(commits)), committer: Mutex::new(Some(committer)) })
    }
}

#[async_trait]
impl Store for SlateStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.db.get_with_options(key, &durable_read()).await.map_err(|error| self.place.error(&error))
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let Some(range) = scan_range(prefix, after) else { return Ok(Vec::new()) };
        let found =
            async { collect(self.db.scan_prefix_with_options(prefix, range, &durable_scan()).await?, limit).await };
        found.await.map_err(|error| self.place.error(&error))
    }

    // Written without `async` so that the batch is queued by the call itself: the order of calls is the order of
    // commits, and dropping the future does not take a commit back.
    fn commit<'store, 'result>(
        &'store self,
        batch: WriteBatch,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'result>>
    where
        'store: 'result,
        Self: 'result,
    {
        if batch.is_empty() {
            return Box::pin(future::ready(Ok(())));
        }
        let mut writes = slatedb::WriteBatch::new();
        for write in batch.writes {
            match write {
                Write::Put(key, value) => writes.put_bytes(key, value),
                Write::Delete(key) => writes.delete(key),
            }
        }
        let (done, result) = oneshot::channel();
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        // A commit that cannot be queued drops `done`, which the future below reports.
        if let Some(commits) = commits.as_ref() {
            let _ = commits.send(Commit { batch: writes, done });
        }
        Box::pin(async move { result.await.unwrap_or_else(|_| Err(closed())) })
    }

    async fn close(&self) -> Result<(), StoreError> {
        drop(self.commits.lock().unwrap_or_else(PoisonError::into_inner).take());
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(committer) = committer {
            committer.await.map_err(|error| StoreError::Unavailable(format!("the committing task failed: {error}")))?;
        }
        self.db.close().await.map_err(|error| self.place.error(&error))
    }
}

/// Writes the batches in order; each is then flushed and awaited beside the next.
async fn commit_in_order(db: Db, place: Place, mut queue: mpsc::UnboundedReceiver<Commit>) {
    let mut failed: Option<StoreError> = None;
    while let Some(Commit { batch, done }) = queue.recv().await {
        if let Some(error) = &failed {
            // Nothing may be committed on top of a commit that failed.
            let _ = done.send(Err(error.clone()));
            continue;
        }
        match db.write(batch).await {
            Ok(written) => {
                let (db, place) = (db.clone(), place.clone());
                tokio::spawn(async move { done.send(make_durable(&db, &place, written).await) });
            }
            Err(error) => {
                let error = place.error(&error);
                let _ = done.send(Err(error.clone()));
                failed = Some(error);
            }
        }
    }
}

async fn make_durable(db: &Db, place: &Place, written: WriteHandle) -> Result<(), StoreError> {
    let durable = async {
        // A failed flush closes the database, so no later batch of the queue can become durable.
        db.flush().await?;
        written.await_durable().await
    };
    tokio::pin!(durable);
    let result = match tokio::time::timeout(TOLD_AFTER, &mut durable).await {
        Ok(result) => result,
        Err(_) => {
            tracing::warn!(
                "the state storage at {} has not taken a commit for {} s: is its disk full, or is it away? It is tried for \
                 a minute or two, then this process stops; nothing is lost",
                place.0,
                TOLD_AFTER.as_secs()
            );
            let result = durable.await;
            if result.is_ok() {
                tracing::info!("the state storage takes commits again");
            }
            result
        }
    };
    result.map_err(|error| place.error(&error))
}

/// Where the store is, for errors.
#[derive(Clone)]
struct Place(Arc<str>);

impl Place {
    fn of(location: &Location) -> Place {
        Place(Arc::from(location.to_string()))
    }

    /// The error in our terms: where, the innermost cause, and what to do about it as far as that tells.
    fn error(&self, error: &slatedb::Error) -> StoreError {
        match error.kind() {
            ErrorKind::Closed(CloseReason::Fenced) => return StoreError::Fenced,
            ErrorKind::Data => return StoreError::Damaged(format!("{}: {error}", self.0)),
            _ => {}
        }
        let mut cause: &dyn std::error::Error = error;
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

/// A reader beside the running process: it writes nothing to the storage and disturbs nobody. At opening it sees every
/// commit that is durable (the log is replayed), then what is new within a second. `commit` is an error.
pub struct SlateReader {
    db: DbReader,
    place: Place,
}

impl SlateReader {
    /// Fails with [`StoreError::Unavailable`] where there is no state yet.
    pub async fn open(location: &Location) -> Result<SlateReader, StoreError> {
        let (objects, prefix) = location.objects()?;
        let (path, place) = (prefix.join(DB_FOLDER), Place::of(location));
        if !is_there(objects.as_ref(), &path).await? {
            return Err(StoreError::Unavailable(format!("there is no state at `{location}` yet")));
        }
        let options = DbReaderOptions {
            manifest_poll_interval: READER_POLL,
            object_store_max_retries: Some(RETRIES_MAX),
            ..DbReaderOptions::default()
        };
        let db = DbReader::builder(path, objects)
            // The other modes pin the state by writing a checkpoint. Files stay for minutes after they are replaced,
            // which is longer than a command reads.
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_options(options)
            .with_db_cache(block_cache(READER_CACHE_BYTES), 0)
            .build()
            .await
            .map_err(|error| place.error(&error))?;
        Ok(SlateReader { db, place })
    }
}

#[async_trait]
impl Store for SlateReader {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.db.get_with_options(key, &durable_read()).await.map_err(|error| self.place.error(&error))
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let Some(range) = scan_range(prefix, after) else { return Ok(Vec::new()) };
        let found =
            async { collect(self.db.scan_prefix_with_options(prefix, range, &durable_scan()).await?, limit).await };
        found.await.map_err(|error| self.place.error(&error))
    }

    async fn commit(&self, _batch: WriteBatch) -> Result<(), StoreError> {
        Err(StoreError::Unavailable("it was opened for reading only".to_string()))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.db.close().await.map_err(|error| self.place.error(&error))
    }
}

async fn is_there(objects: &dyn ObjectStore, path: &ObjectPath) -> Result<bool, StoreError> {
    use futures::TryStreamExt;
    let found = objects.list(Some(path)).try_next().await;
    Ok(found.map_err(|error| StoreError::Unavailable(error.to_string()))?.is_some())
}

fn settings(conditional_overwrite: bool) -> Settings {
    let swept = |min_age: Duration| {
        Some(GarbageCollectorDirectoryOptions {
            interval: Some(Duration::from_secs(60)),
            min_age,
            ..GarbageCollectorDirectoryOptions::default()
        })
    };
    Settings {
        // Every commit flushes itself.
        flush_interval: None,
        compression_codec: None,
        l0_sst_size_bytes: MEMTABLE_BYTES,
        max_unflushed_bytes: UNFLUSHED_BYTES_MAX,
        l0_max_ssts: 16,
        l0_max_ssts_per_key: 16,
        l0_flush_parallelism: 2,
        object_store_max_retries: Some(RETRIES_MAX),
        compactor_options: Some(CompactorOptions {
            poll_interval: Duration::from_secs(2),
            max_concurrent_compactions: 2,
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

fn block_cache(bytes: usize) -> Arc<SplitCache> {
    let cache = |bytes: usize| {
        let options = MokaCacheOptions { max_capacity: bytes as u64, ..MokaCacheOptions::default() };
        Some(Arc::new(MokaCache::new_with_opts(options)) as Arc<dyn slatedb::db_cache::DbCache>)
    };
    Arc::new(SplitCache::new().with_block_cache(cache(bytes)).with_meta_cache(cache(bytes)))
}

fn durable_read() -> ReadOptions {
    ReadOptions::default().with_durability_filter(DurabilityLevel::Remote)
}

fn durable_scan() -> ScanOptions {
    ScanOptions::default()
        .with_durability_filter(DurabilityLevel::Remote)
        .with_read_ahead_bytes(SCAN_AHEAD_BYTES)
        .with_max_fetch_tasks(2)
}

type SuffixRange = (std::ops::Bound<Vec<u8>>, std::ops::Bound<Vec<u8>>);

/// The suffixes behind `prefix` that are greater than `after`; nothing where `after` lies behind the whole prefix.
fn scan_range(prefix: &[u8], after: Option<&[u8]>) -> Option<SuffixRange> {
    use std::ops::Bound::{Excluded, Unbounded};
    match after {
        None => Some((Unbounded, Unbounded)),
        Some(after) => match after.strip_prefix(prefix) {
            Some(suffix) => Some((Excluded(suffix.to_vec()), Unbounded)),
            None => (after < prefix).then_some((Unbounded, Unbounded)),
        },
    }
}

async fn collect(mut entries: DbIterator, limit: usize) -> Result<Vec<(Bytes, Bytes)>, slatedb::Error> {
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(entry) = entries.next().await?
    {
        found.push((entry.key, entry.value));
    }
    Ok(found)
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".to_string())
}

impl From<LocationError> for StoreError {
    fn from(error: LocationError) -> StoreError {
        StoreError::Unavailable(error.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "figures are measured and printed")]
mod tests {
    use std::time::Instant;

    use tokio::runtime::Runtime;

    use super::*;

    fn put(entries: &[(&str, &str)]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        entries.iter().for_each(|(key, value)| batch.put(key.to_string(), value.to_string()));
        batch
    }

    async fn text(store: &dyn Store, key: &str) -> Option<String> {
        store.get(key.as_bytes()).await.unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    fn folder() -> (tempfile::TempDir, Location) {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Folder(folder.path().to_path_buf());
        (folder, location)
    }

    #[test]
    fn after_a_death_without_close_every_commit_is_there() {
        let (_folder, location) = folder();
        let first = Runtime::new().unwrap();
        first.block_on(async {
            let store = SlateStore::open(&location).await.unwrap();
            for number in 0..50 {
                store.commit(put(&[("last", &number.to_string()), (&format!("k{number}"), "v")])).await.unwrap();
            }
            let mut batch = put(&[("x", "1")]);
            batch.delete("k7");
            store.commit(batch).await.unwrap();
            // The runtime goes with everything that runs in it, as in a killed process.
            std::mem::forget(store);
        });
        first.shutdown_background();
        Runtime::new().unwrap().block_on(async {
            let store = SlateStore::open(&location).await.unwrap();
            assert_eq!(text(&store, "last").await.as_deref(), Some("49"));
            assert_eq!(text(&store, "k7").await, None);
            assert_eq!(text(&store, "x").await.as_deref(), Some("1"));
            assert_eq!(store.scan(b"k", None, 100).await.unwrap().len(), 49);
            store.close().await.unwrap();
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_open_fences_the_first_and_nothing_of_its_next_commit_is_visible() {
        let (_folder, on_disk) = folder();
        for location in [Location::parse("memory:").unwrap(), on_disk] {
            let first = SlateStore::open(&location).await.unwrap();
            first.commit(put(&[("a", "1")])).await.unwrap();
            let second = SlateStore::open(&location).await.unwrap();
            let fenced = first.commit(put(&[("a", "2"), ("b", "2")])).await;
            assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
            let again = first.commit(put(&[("c", "2")])).await;
            assert!(matches!(again, Err(StoreError::Fenced)), "{again:?}");
            assert_eq!(text(&second, "a").await.as_deref(), Some("1"));
            assert_eq!(text(&second, "b").await, None);
            second.commit(put(&[("b", "3")])).await.unwrap();
            assert_eq!(text(&second, "b").await.as_deref(), Some("3"));
            assert!(matches!(first.close().await, Ok(()) | Err(StoreError::Fenced)));
            second.close().await.unwrap();
            assert_eq!(text(&SlateStore::open(&location).await.unwrap(), "a").await.as_deref(), Some("1"));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn commits_become_durable_in_the_order_of_calls_however_they_are_awaited() {
        let store = SlateStore::open(&Location::parse("memory:").unwrap()).await.unwrap();
        let calls: Vec<_> = (0..20).map(|number| store.commit(put(&[("k", &number.to_string())]))).collect();
        for call in calls.into_iter().rev() {
            call.await.unwrap();
        }
        assert_eq!(text(&store, "k").await.as_deref(), Some("19"));
        // A commit whose future is dropped is made all the same.
        drop(store.commit(put(&[("dropped", "yes")])));
        store.commit(put(&[("k", "20")])).await.unwrap();
        assert_eq!(text(&store, "dropped").await.as_deref(), Some("yes"));
        store.commit(WriteBatch::default()).await.unwrap();
        store.close().await.unwrap();
        assert!(store.commit(put(&[("k", "21")])).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_durable_is_not_read() {
        let store = SlateStore::open(&Location::parse("memory:").unwrap()).await.unwrap();
        store.commit(put(&[("k", "durable")])).await.unwrap();
        let mut batch = slatedb::WriteBatch::new();
        batch.put(b"k", b"on its way");
        batch.put(b"k2", b"on its way");
        store.db.write(batch).await.unwrap();
        assert_eq!(text(&store, "k").await.as_deref(), Some("durable"));
        let found = store.scan(b"k", None, 10).await.unwrap();
        assert_eq!(found, vec![(Bytes::from("k"), Bytes::from("durable"))]);
        store.db.flush().await.unwrap();
        assert_eq!(text(&store, "k").await.as_deref(), Some("on its way"));
        store.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn scans_go_on_after_a_key_as_the_store_in_memory_does() {
        let slate = SlateStore::open(&Location::parse("memory:").unwrap()).await.unwrap();
        let memory = super::super::memory::MemoryStore::default();
        let keys: Vec<String> =
            (0..300).map(|number| format!("{}{number}", ["a", "b", "bb", "c"][number % 4])).collect();
        let entries: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "v")).collect();
        slate.commit(put(&entries)).await.unwrap();
        memory.commit(put(&entries)).await.unwrap();
        for (prefix, after) in [
            ("b", None),
            ("", None),
            ("b", Some("b101")),
            ("b", Some("a")),
            ("b", Some("c")),
            ("bb", Some("bb")),
            ("z", None),
        ] {
            let (prefix, after) = (prefix.as_bytes(), after.map(str::as_bytes));
            for limit in [0, 1, 7, 1_000] {
                let found = slate.scan(prefix, after, limit).await.unwrap();
                assert_eq!(found, memory.scan(prefix, after, limit).await.unwrap(), "{prefix:?} {after:?} {limit}");
            }
        }
        let (mut all, mut after) = (Vec::new(), None::<Bytes>);
        loop {
            let page = slate.scan(b"b", after.as_deref(), 16).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            all.extend(page);
        }
        assert_eq!(all, memory.scan(b"b", None, 1_000).await.unwrap());
        slate.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_sees_what_is_durable_at_opening_follows_and_disturbs_nobody() {
        let (_folder, location) = folder();
        assert!(matches!(SlateReader::open(&location).await, Err(StoreError::Unavailable(_))));
        let store = SlateStore::open(&location).await.unwrap();
        store.commit(put(&[("k", "1"), ("l", "1")])).await.unwrap();
        let reader = SlateReader::open(&location).await.unwrap();
        assert_eq!(text(&reader, "k").await.as_deref(), Some("1"));
        assert_eq!(reader.scan(b"", None, 10).await.unwrap().len(), 2);
        assert!(reader.commit(put(&[("k", "2")])).await.is_err());

        store.commit(put(&[("k", "2")])).await.unwrap();
        let started = Instant::now();
        while text(&reader, "k").await.as_deref() != Some("2") {
            assert!(started.elapsed() < Duration::from_secs(20), "the reader does not follow");
            tokio::task::yield_now().await;
        }
        println!("an open reader saw the next commit after {:?}", started.elapsed());
        let fresh = Instant::now();
        assert_eq!(text(&SlateReader::open(&location).await.unwrap(), "k").await.as_deref(), Some("2"));
        println!("a new reader opened and read in {:?}", fresh.elapsed());
        reader.close().await.unwrap();
        store.commit(put(&[("k", "3")])).await.unwrap();
        store.close().await.unwrap();
    }

    /// With boundary files, as is the default, nothing would ever be deleted from a local folder.
    #[tokio::test(flavor = "multi_thread")]
    async fn log_files_that_are_no_longer_needed_are_deleted_also_from_a_local_folder() {
        let (folder, location) = folder();
        let mut settings = settings(location.has_conditional_overwrite());
        let collector = settings.garbage_collector_options.as_mut().unwrap();
        let wal = collector.wal_options.as_mut().unwrap();
        (wal.interval, wal.min_age) = (Some(Duration::from_millis(50)), Duration::ZERO);
        let (objects, prefix) = location.create().unwrap();
        let db = Db::builder(prefix.join(DB_FOLDER), objects).with_settings(settings).build().await.unwrap();
        for number in 0..20u8 {
            db.put([number], b"v").await.unwrap();
            db.flush().await.unwrap();
        }
        let files = || std::fs::read_dir(folder.path().join("state/db/wal")).unwrap().count();
        assert!(files() >= 20);
        let to_sorted_files = slatedb::config::FlushOptions { flush_type: slatedb::config::FlushType::MemTable };
        db.flush_with_options(to_sorted_files).await.unwrap();
        let started = Instant::now();
        while files() > 5 {
            assert!(started.elapsed() < Duration::from_secs(20), "{} log files are left", files());
            tokio::task::yield_now().await;
        }
        assert_eq!(db.get([7]).await.unwrap().unwrap(), "v");
        db.close().await.unwrap();
    }

    /// Prints, with `--nocapture`, how long durable commits take on a local folder.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_large_commit_is_one_and_is_read_back() {
        let (_folder, location) = folder();
        let store = SlateStore::open(&location).await.unwrap();
        for keys in [100u32, 2_000, 20_000] {
            let mut took = Vec::new();
            for round in 0..5u32 {
                let mut batch = WriteBatch::default();
                for number in 0..keys {
                    let key = number.wrapping_mul(2_654_435_761).wrapping_add(round).to_be_bytes();
                    batch.put(key.to_vec(), vec![round as u8; 100]);
                }
                let started = Instant::now();
                store.commit(batch).await.unwrap();
                took.push(started.elapsed());
            }
            println!("{keys} keys of 100 bytes: {took:?}");
        }
        let outbox = vec![7u8; 8 << 20];
        let mut batch = WriteBatch::default();
        batch.put("outbox", outbox.clone());
        let started = Instant::now();
        store.commit(batch).await.unwrap();
        println!("one entry of 8 MB: {:?}", started.elapsed());
        assert_eq!(store.get(b"outbox").await.unwrap().unwrap(), outbox);
        store.close().await.unwrap();
    }
}
