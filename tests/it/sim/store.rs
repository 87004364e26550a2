//! The store: atomic and durable, as SlateDB is, with one writer. What fails is getting there and hearing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use tributary::clock;
use tributary::engine::FillRecord;
use tributary::engine::sealed_rows;
use tributary::state::keys::{self, Tag};
use tributary::state::memory::MemoryStore;
use tributary::state::{Store, StoreError, Write, WriteBatch};

use super::faults::Fault;
use super::{Instance, millis};

/// What survives every crash.
#[derive(Debug, Default)]
pub struct Disk {
    pub entries: MemoryStore,
    /// The writer that may write: the latest that opened it.
    pub writer: u32,
    pub commits: u32,
    /// Rows as they were sealed, by commit and table: whatever the tables hold in the end must be these.
    pub sealed: BTreeMap<(u64, String), Sealed>,
    /// Of these, the ones that were sealed a second time.
    pub resealed: Vec<String>,
    /// Fills that were begun, and commits of a fill or its sweep.
    pub fills: (u64, u64),
}

/// Rows as bytes and as what they are.
#[derive(Debug)]
pub struct Sealed {
    pub bytes: Bytes,
    pub rows: RecordBatch,
}

/// A run of more commits than this goes round in a circle.
const COMMITS_MAX: u32 = 20_000;

/// The disk as one instance sees it.
pub struct SimStore {
    pub instance: Instance,
    /// What it reads: the disk as it was when it was opened, and its own commits. A writer that was taken over does not see
    /// what the other writes.
    view: MemoryStore,
    /// The engine's cache is small.
    pub forgetful: bool,
}

#[async_trait]
impl Store for SimStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        // Which entries a small cache lets go is chance, so whether they are read again must have no consequence.
        if !self.forgetful {
            self.readable().await?;
        }
        self.view.get(key).await
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.readable().await?;
        self.view.scan(prefix, after, limit).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.instance.reach("commit").await;
        let slow = self.instance.strikes(Fault::CommitSlow);
        let takes = self.instance.random(|random| if slow { random.u64(0..5_000) } else { random.u64(0..20) });
        clock::sleep(millis(takes)).await;
        self.instance.reach("commit sent").await;
        if self.instance.strikes(Fault::CommitFails) {
            return Err(StoreError::Unavailable("the disk is full".to_string()));
        }
        let disk = {
            let mut world = self.instance.world();
            let disk = &mut world.disk;
            if disk.writer != self.instance.number {
                return Err(StoreError::Fenced);
            }
            disk.commits += 1;
            if disk.commits > COMMITS_MAX {
                return Err(StoreError::Damaged(format!("the engine goes round in a circle: {COMMITS_MAX} commits")));
            }
            disk.keep_sealed(&batch);
            disk.count_fills(&batch);
            disk.entries.clone()
        };
        // Neither waits: nothing comes between them.
        disk.commit(batch.clone()).await?;
        self.view.commit(batch).await?;
        self.instance.reach("commit durable").await;
        if self.instance.strikes(Fault::CommitAnswerLost) {
            return Err(StoreError::Unavailable("the connection to the storage was lost".to_string()));
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl SimStore {
    async fn readable(&self) -> Result<(), StoreError> {
        self.instance.live().await;
        match self.instance.strikes(Fault::ReadFails) {
            true => Err(StoreError::Unavailable("a read timed out".to_string())),
            false => Ok(()),
        }
    }
}

impl Disk {
    fn keep_sealed(&mut self, batch: &WriteBatch) {
        let prefix = keys::prefix(Tag::Outbox);
        for write in &batch.writes {
            let Write::Put(key, value) = write else { continue };
            if !key.starts_with(&prefix) {
                continue;
            }
            let commit = u64::from_be_bytes(key[2..10].try_into().expect("a commit"));
            let table = String::from_utf8(key[10..].to_vec()).expect("a table");
            let rows = sealed_rows(value).expect("sealed rows");
            if self.sealed.insert((commit, table.clone()), Sealed { bytes: value.clone(), rows }).is_some() {
                self.resealed.push(format!("{table} of commit {commit}"));
            }
        }
    }
}

impl Disk {
    fn count_fills(&mut self, batch: &WriteBatch) {
        let key = keys::name(Tag::Engine, FillRecord::KEY);
        if batch.writes.iter().any(|write| matches!(write, Write::Put(known, _) if *known == key)) {
            let begins = futures::executor::block_on(self.entries.get(&key)).expect("memory").is_none();
            self.fills = (self.fills.0 + u64::from(begins), self.fills.1 + u64::from(!begins));
        }
    }
}

/// An instance opens the disk: whoever had it before is fenced.
pub fn open(instance: &Instance, forgetful: bool) -> Arc<SimStore> {
    let mut world = instance.world();
    world.disk.writer = instance.number;
    let writes = world.disk.entries.dump().into_iter().map(|(key, value)| Write::Put(key, value)).collect();
    let view = MemoryStore::default();
    futures::executor::block_on(view.commit(WriteBatch { writes })).expect("memory");
    Arc::new(SimStore { instance: instance.clone(), view, forgetful })
}
