//! The store on SlateDB: an LSM on object storage, a local folder by default.
//!
//! A commit goes into the [`journal`] whole, and is durable when its entry there is. What it changes is then *held* in memory,
//! where a key that changes again and again is one entry; when enough is held it goes into SlateDB's tables, in the order of
//! keys, and the journal up to there is forgotten (a checkpoint). Meanwhile the next is held beside it. At opening, what the
//! journal has is held again.
//!
//! A commit is handed to one task when `commit` is called (not when its future is first polled), so batches become
//! durable in the order of calls, however the futures are awaited.
//!
//! Invariants: reads show what is durable and nothing else. Until the journal is forgotten it covers everything of a checkpoint, so
//! half a checkpoint is never seen and may be written again. After a failed commit no later one succeeds. Opening fences the
//! writer that was there before, and no two writers name an object alike.

mod reader;
mod settings;
#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "figures are measured and printed")]
mod tests;

pub use reader::SlateReader;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound::Unbounded;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use slatedb::Db;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::settings::{
    BLOCK, DB_FOLDER, Place, block_cache, closed, collect, durable_read, durable_scan, scan_range, settings,
};
use super::changes::{self, Changes};
use super::journal::{self, Objects};
use super::location::Location;
use super::{Store, StoreError, Write, WriteBatch, keys};
use crate::failpoint::{self, Point};

const BLOCK_CACHE_BYTES: usize = 256 << 20;

/// A commit that takes longer than this is told of.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// A checkpoint writes so much at a time: commits that come meanwhile wait for no more than that.
const CHECKPOINT_PAGE_BYTES: usize = 2 << 20;

/// Objects of the journal that are read at once.
const OBJECTS_AT_ONCE: usize = 8;

/// How much memory the store takes, and when what is held goes into the tables.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For blocks read from the tables, and as much for indexes and filters.
    pub block_cache_bytes: usize,
    /// Memory that is held. While a checkpoint is written as much comes to it; then commits wait.
    pub held_bytes: usize,
    /// What a start has to read of the journal.
    pub journal_bytes: usize,
    pub journal_entries: usize,
}

impl Limits {
    /// With so much held in memory, in MiB.
    pub fn of_mib(held_mib: usize) -> Limits {
        Limits {
            block_cache_bytes: BLOCK_CACHE_BYTES,
            held_bytes: held_mib << 20,
            journal_bytes: held_mib << 21,
            journal_entries: 10_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::of_mib(512)
    }
}

/// The writer. There is one for a location: a second one that opens fences the first.
pub struct SlateStore {
    shared: Arc<Shared>,
    commits: Mutex<Option<mpsc::UnboundedSender<Commit>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    db: Db,
    place: Place,
    objects: Objects,
    held: Mutex<Held>,
}

/// What is durable in the journal and not in the tables, the newer first: what a checkpoint writes is the older.
#[derive(Clone, Default)]
struct Held {
    newer: Arc<Changes>,
    older: Option<Arc<Changes>>,
}

struct Commit {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl SlateStore {
    /// Opens or creates the state at `location` and takes it over from whoever had it.
    pub async fn open(location: &Location) -> Result<SlateStore, StoreError> {
        Self::open_with(location, Limits::default()).await
    }

    /// As [`SlateStore::open`], with limits of one's own.
    pub async fn open_with(location: &Location, limits: Limits) -> Result<SlateStore, StoreError> {
        let (store, prefix) = location.create()?;
        Self::open_on(store, prefix, location, limits).await
    }

    async fn open_on(
        store: Arc<dyn ObjectStore>,
        prefix: ObjectPath,
        location: &Location,
        limits: Limits,
    ) -> Result<SlateStore, StoreError> {
        let place = Place::of(location);
        let db = Db::builder(prefix.clone().join(DB_FOLDER), store.clone())
            .with_settings(settings(location.has_conditional_overwrite()))
            .with_sst_block_size(BLOCK)
            .with_db_cache(block_cache(limits.block_cache_bytes), 0)
            .with_fp_registry(failpoint::registry())
            .build()
            .await
            .map_err(|error| place.error(&error))?;
        let writer = next_writer(&db).await.map_err(|error| place.error(&error))?;
        let objects = Objects::new(store, &prefix, writer);
        let shared = Arc::new(Shared { db, place, objects, held: Mutex::default() });
        // Numbers of one writer are behind those of all before, also of those whose entries are forgotten.
        let journal = Journal::load(&shared, limits, writer << 32).await?;
        let (commits, queue) = mpsc::unbounded_channel();
        let committer = tokio::spawn(commit_in_order(shared.clone(), journal, queue));
        Ok(SlateStore { shared, commits: Mutex::new(Some(commits)), committer: Mutex::new(Some(committer)) })
    }
}

/// The number of this writer, durably its own: whoever was there before is fenced.
async fn next_writer(db: &Db) -> Result<u64, slatedb::Error> {
    let last = db.get_with_options(keys::WRITER, &durable_read()).await?;
    let writer = last.and_then(|last| Some(u64::from_be_bytes(last.as_ref().try_into().ok()?))).unwrap_or(0) + 1;
    let written = db.put(keys::WRITER, writer.to_be_bytes()).await?;
    db.flush().await?;
    written.await_durable().await?;
    Ok(writer)
}

#[async_trait]
impl Store for SlateStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let held = self.shared.held();
        match held.get(key) {
            Some(value) => Ok(value),
            None => {
                let found = self.shared.db.get_with_options(key, &durable_read()).await;
                found.map_err(|error| self.shared.place.error(&error))
            }
        }
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let held = self.shared.held();
        let below = |after: Option<Bytes>| async move {
            let Some(range) = scan_range(prefix, after.as_deref()) else { return Ok(Vec::new()) };
            let db = &self.shared.db;
            let found =
                async { collect(db.scan_prefix_with_options(prefix, range, &durable_scan()).await?, limit).await };
            found.await.map_err(|error| self.shared.place.error(&error))
        };
        changes::scan(&held.layers(), prefix, after, limit, below).await
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
        let (done, result) = oneshot::channel();
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        // A commit that cannot be queued drops `done`, which the future below reports.
        if let Some(commits) = commits.as_ref() {
            let _ = commits.send(Commit { writes: batch.writes, done });
        }
        Box::pin(async move { result.await.unwrap_or_else(|_| Err(closed())) })
    }

    async fn close(&self) -> Result<(), StoreError> {
        drop(self.commits.lock().unwrap_or_else(PoisonError::into_inner).take());
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(committer) = committer {
            committer.await.map_err(|error| StoreError::Unavailable(format!("the committing task failed: {error}")))?;
        }
        self.shared.db.close().await.map_err(|error| self.shared.place.error(&error))
    }
}

impl Shared {
    fn held(&self) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is held is now the older part, for a checkpoint to write.
    fn set_aside(&self) -> Arc<Changes> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let older = std::mem::take(&mut held.newer);
        held.older = Some(older.clone());
        older
    }

    /// Writes to SlateDB and returns when that is durable.
    async fn write(&self, batch: slatedb::WriteBatch) -> Result<(), StoreError> {
        let durable = async {
            let written = self.db.write(batch).await?;
            // Without it the write waits for a tick. A failed flush closes the database.
            self.db.flush().await?;
            written.await_durable().await
        };
        durable.await.map_err(|error| self.place.error(&error))
    }
}

impl Held {
    fn layers(&self) -> Vec<&Changes> {
        std::iter::once(&*self.newer).chain(self.older.as_deref()).collect()
    }

    fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.layers().into_iter().find_map(|layer| layer.get(key))
    }
}

/// The journal as its one writer knows it.
struct Journal {
    limits: Limits,
    /// Of the next commit.
    number: u64,
    /// Entries that are there, with the objects that they name.
    entries: BTreeMap<u64, Option<String>>,
    /// How many bytes, and how many entries, came since the last checkpoint was begun.
    since: (usize, usize),
    /// Objects of the last checkpoint are left until the next one, for readers that have just looked at their entries.
    forgotten: Vec<String>,
    /// The one that is written, and the last commit that it covers.
    checkpoint: Option<(u64, JoinHandle<Result<(), StoreError>>)>,
}

impl Journal {
    /// Holds what the journal has, and deletes objects of commits that never were or are forgotten.
    async fn load(shared: &Shared, limits: Limits, first: u64) -> Result<Journal, StoreError> {
        let range = scan_range(&keys::JOURNAL, None).unwrap_or((Unbounded, Unbounded));
        let entries = async {
            collect(shared.db.scan_prefix_with_options(keys::JOURNAL, range, &durable_scan()).await?, usize::MAX).await
        };
        let entries = entries.await.map_err(|error| shared.place.error(&error))?;
        let mut journal = Journal {
            limits,
            number: first,
            entries: BTreeMap::new(),
            since: (0, 0),
            forgotten: Vec::new(),
            checkpoint: None,
        };
        let held = shared.held().newer;
        let mut reading = futures::stream::iter(entries)
            .map(|(key, entry)| async move { Ok::<_, StoreError>((key, shared.objects.read(&entry).await?, entry)) })
            .buffered(OBJECTS_AT_ONCE);
        while let Some((key, writes, entry)) = reading.try_next().await? {
            let Some(writes) = writes else {
                let name = journal::object_of(&entry).unwrap_or_default();
                return Err(StoreError::Damaged(format!("the journal's object {name} is gone")));
            };
            let number = keys::parse_number(&key).unwrap_or_default();
            journal.note(number, &writes, &entry);
            held.add(writes);
        }
        let known: HashSet<&String> = journal.entries.values().flatten().collect();
        let there = shared.objects.list().await?;
        shared.objects.delete(there.into_iter().filter(|name| !known.contains(name))).await;
        Ok(journal)
    }

    fn note(&mut self, number: u64, writes: &[Write], entry: &Bytes) {
        self.number = self.number.max(number + 1);
        self.since.0 += writes.iter().map(Write::bytes).sum::<usize>();
        self.since.1 += 1;
        self.entries.insert(number, journal::object_of(entry));
    }

    /// Makes a commit durable and holds what it changes.
    async fn commit(&mut self, shared: &Shared, writes: Vec<Write>) -> Result<(), StoreError> {
        let number = self.number;
        let entry = shared.objects.write(number, &writes).await.map_err(|error| shared.place.unavailable(&error))?;
        failpoint::pass(Point::JournalWritten);
        let mut batch = slatedb::WriteBatch::new();
        batch.put_bytes(keys::journal(number), entry.clone());
        shared.write(batch).await?;
        self.note(number, &writes, &entry);
        shared.held().newer.add(writes);
        Ok(())
    }

    /// Takes note of a checkpoint that is written, and begins one where it is time; commits wait where the last is still written then.
    async fn tend(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let Limits { held_bytes, journal_bytes, journal_entries, .. } = self.limits;
        let (bytes, entries) = self.since;
        let is_full = shared.held().newer.bytes() > held_bytes || bytes > journal_bytes || entries > journal_entries;
        if let Some((upto, running)) = self.checkpoint.take_if(|(_, running)| is_full || running.is_finished()) {
            let ended = running.await;
            ended.map_err(|error| StoreError::Unavailable(format!("a checkpoint failed: {error}")))??;
            self.forget(shared, upto).await;
        }
        if is_full && let Some((&upto, _)) = self.entries.last_key_value() {
            let numbers = self.entries.keys().copied().collect();
            let older = shared.set_aside();
            self.checkpoint = Some((upto, tokio::spawn(write_checkpoint(shared.clone(), older, numbers))));
            self.since = (0, 0);
        }
        Ok(())
    }

    async fn forget(&mut self, shared: &Shared, upto: u64) {
        let left = self.entries.split_off(&(upto + 1));
        let gone = std::mem::replace(&mut self.entries, left).into_values().flatten().collect();
        shared.objects.delete(std::mem::replace(&mut self.forgotten, gone)).await;
    }
}

/// Writes what is held into the tables, then takes its commits out of the journal. May be broken off anywhere.
async fn write_checkpoint(shared: Arc<Shared>, older: Arc<Changes>, numbers: Vec<u64>) -> Result<(), StoreError> {
    let mut after: Option<Bytes> = None;
    loop {
        let page = older.page(after.as_deref(), CHECKPOINT_PAGE_BYTES);
        let Some(last) = page.last() else { break };
        after = Some(last.key().clone());
        let mut batch = slatedb::WriteBatch::new();
        for write in page {
            match write {
                Write::Put(key, value) => batch.put_bytes(key, value),
                Write::Delete(key) => batch.delete(key),
            }
        }
        shared.write(batch).await?;
    }
    failpoint::pass(Point::Checkpointed);
    let mut batch = slatedb::WriteBatch::new();
    numbers.into_iter().for_each(|number| batch.delete(keys::journal(number)));
    shared.write(batch).await?;
    failpoint::pass(Point::JournalForgotten);
    shared.held.lock().unwrap_or_else(PoisonError::into_inner).older = None;
    Ok(())
}

/// Commits one after the other; after one that failed, none.
async fn commit_in_order(shared: Arc<Shared>, mut journal: Journal, mut queue: mpsc::UnboundedReceiver<Commit>) {
    let mut failed: Option<StoreError> = None;
    while let Some(Commit { writes, done }) = queue.recv().await {
        if let Some(error) = &failed {
            // Nothing may be committed on top of a commit that failed.
            let _ = done.send(Err(error.clone()));
            continue;
        }
        let committed = told(&shared.place, journal.commit(&shared, writes)).await;
        failed = committed.clone().err();
        let _ = done.send(committed);
        if failed.is_none()
            && let Err(error) = journal.tend(&shared).await
        {
            failed = Some(error);
        }
    }
    if let Some((_, checkpoint)) = journal.checkpoint {
        checkpoint.abort();
    }
}

/// Says so where a commit takes long.
async fn told(place: &Place, commit: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
    tokio::pin!(commit);
    if let Ok(result) = tokio::time::timeout(TOLD_AFTER, &mut commit).await {
        return result;
    }
    tracing::warn!(
        "the state storage at {} has not taken a commit for {} s: is its disk full, or is it away? It is tried for \
         a minute or two, then this process stops; nothing is lost",
        place.0,
        TOLD_AFTER.as_secs()
    );
    let result = commit.await;
    if result.is_ok() {
        tracing::info!("the state storage takes commits again");
    }
    result
}
