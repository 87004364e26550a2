//! A reader beside the running process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use slatedb::config::DbReaderOptions;
use slatedb::{DbReader, DbReaderMode};
use tokio::sync::Mutex;

use super::settings::{DB_FOLDER, Place, RETRIES_MAX, block_cache, collect, durable_read, durable_scan, scan_range};
use crate::clock;
use crate::state::changes::{self, Changes};
use crate::state::journal::Objects;
use crate::state::location::Location;
use crate::state::{Store, StoreError, WriteBatch, keys};

const CACHE_BYTES: usize = 32 << 20;

/// How soon a reader that stays open sees new commits.
const POLL: Duration = Duration::from_secs(1);

/// An entry whose object is gone was forgotten since it was seen. So often it is looked whether the entry is, too.
const LOOKS_MAX: u32 = 30;

/// It writes nothing to the storage and disturbs nobody. At opening it sees every
/// commit that is durable (the log is replayed), then what is new within a second. `commit` is an error.
pub struct SlateReader {
    db: DbReader,
    objects: Objects,
    place: Place,
    held: Mutex<Held>,
}

/// What the journal had at some moment.
#[derive(Default)]
struct Held {
    changes: Arc<Changes>,
    /// The first and the last entry's keys.
    first: Option<Bytes>,
    last: Option<Bytes>,
    read_at: Option<Instant>,
}

impl SlateReader {
    /// Fails with [`StoreError::Unavailable`] where there is no state yet.
    pub async fn open(location: &Location) -> Result<SlateReader, StoreError> {
        let (store, prefix) = location.objects()?;
        let (path, place) = (prefix.clone().join(DB_FOLDER), Place::of(location));
        if !is_there(store.as_ref(), &path).await? {
            return Err(StoreError::Unavailable(format!("there is no state at `{location}` yet")));
        }
        let options = DbReaderOptions {
            manifest_poll_interval: POLL,
            object_store_max_retries: Some(RETRIES_MAX),
            ..DbReaderOptions::default()
        };
        let db = DbReader::builder(path, store.clone())
            // The other modes pin the state by writing a checkpoint. Files stay for minutes after they are replaced,
            // which is longer than a command reads.
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_options(options)
            .with_db_cache(block_cache(CACHE_BYTES), 0)
            .build()
            .await
            .map_err(|error| place.error(&error))?;
        // It puts no object.
        let objects = Objects::new(store, &prefix, 0);
        let reader = SlateReader { db, objects, place, held: Mutex::default() };
        reader.held().await?;
        Ok(reader)
    }

    /// What lies over the tables, as of a second ago at most.
    async fn held(&self) -> Result<Arc<Changes>, StoreError> {
        let mut held = self.held.lock().await;
        if held.read_at.is_some_and(|at| at.elapsed() < POLL) {
            return Ok(held.changes.clone());
        }
        for _ in 0..LOOKS_MAX {
            if self.follow(&mut held).await? {
                held.read_at = Some(clock::instant());
                return Ok(held.changes.clone());
            }
            *held = Held::default();
            clock::sleep(POLL).await;
        }
        Err(StoreError::Damaged("the journal names an object that is gone".to_string()))
    }

    /// Takes in what the journal has since the last time; all of it anew where its beginning was forgotten. False where an object was
    /// deleted meanwhile.
    async fn follow(&self, held: &mut Held) -> Result<bool, StoreError> {
        let first = self.below(&keys::JOURNAL, None, 1).await?.pop().map(|(key, _)| key);
        if first != held.first {
            *held = Held { first, ..Held::default() };
        }
        for (key, entry) in self.below(&keys::JOURNAL, held.last.as_deref(), usize::MAX).await? {
            let Some(writes) = self.objects.read(&entry).await? else { return Ok(false) };
            held.changes.add(writes);
            held.last = Some(key);
        }
        Ok(true)
    }

    async fn below(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let Some(range) = scan_range(prefix, after) else { return Ok(Vec::new()) };
        let found =
            async { collect(self.db.scan_prefix_with_options(prefix, range, &durable_scan()).await?, limit).await };
        found.await.map_err(|error| self.place.error(&error))
    }
}

#[async_trait]
impl Store for SlateReader {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.held().await?.get(key) {
            Some(value) => Ok(value),
            None => {
                let found = self.db.get_with_options(key, &durable_read()).await;
                found.map_err(|error| self.place.error(&error))
            }
        }
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let held = self.held().await?;
        let below = |after: Option<Bytes>| async move { self.below(prefix, after.as_deref(), limit).await };
        changes::scan(&[&held], prefix, after, limit, below).await
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
