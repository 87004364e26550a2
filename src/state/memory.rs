//! A store in memory: for tests, the simulator and benches. Same contract, nothing survives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Store, StoreError, Write, WriteBatch};

#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    entries: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
}

impl MemoryStore {
    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All entries, for comparing states in tests.
    pub fn dump(&self) -> BTreeMap<Bytes, Bytes> {
        self.entries().clone()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.entries().get(key).cloned())
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let from = Bytes::copy_from_slice(after.filter(|after| *after >= prefix).unwrap_or(prefix));
        let entries = self.entries();
        let range = entries.range(from.clone()..);
        let found = range
            .filter(|(key, _)| after.is_none_or(|after| *key != after))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut entries = self.entries();
        for write in batch.writes {
            match write {
                Write::Put(key, value) => {
                    entries.insert(key, value);
                }
                Write::Delete(key) => {
                    entries.remove(&key);
                }
            }
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
