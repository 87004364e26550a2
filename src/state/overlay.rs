//! A store that writes nothing down: reads fall through to another one, changes stay in memory. What would come of
//! something can be tried out on the real state without touching it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Store, StoreError, Write, WriteBatch};

pub struct OverlayStore {
    below: Arc<dyn Store>,
    /// None: deleted.
    changes: Mutex<BTreeMap<Bytes, Option<Bytes>>>,
}

impl OverlayStore {
    pub fn new(below: Arc<dyn Store>) -> OverlayStore {
        OverlayStore { below, changes: Mutex::default() }
    }

    fn changes(&self) -> std::sync::MutexGuard<'_, BTreeMap<Bytes, Option<Bytes>>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for OverlayStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let changed = self.changes().get(key).cloned();
        match changed {
            Some(value) => Ok(value),
            None => self.below.get(key).await,
        }
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut after = after.map(Bytes::copy_from_slice);
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        loop {
            let below = self.below.scan(prefix, after.as_deref(), limit).await?;
            // Beyond the last entry below nothing is known yet, unless that was all.
            let known_to = if below.len() < limit { None } else { below.last().map(|(key, _)| key.clone()) };
            let mut merged: BTreeMap<Bytes, Option<Bytes>> =
                below.into_iter().map(|(key, value)| (key, Some(value))).collect();
            let from = Bytes::copy_from_slice(after.as_deref().filter(|after| *after >= prefix).unwrap_or(prefix));
            let changes = self.changes();
            let mine = changes.range(from..).filter(|(key, _)| after.as_ref().is_none_or(|after| *key != after));
            for (key, value) in mine.take_while(|(key, _)| key.starts_with(prefix)) {
                if known_to.as_ref().is_some_and(|last| key > last) {
                    break;
                }
                merged.insert(key.clone(), value.clone());
            }
            drop(changes);
            found.extend(merged.into_iter().filter_map(|(key, value)| Some((key, value?))));
            match known_to {
                Some(last) if found.len() < limit => after = Some(last),
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut changes = self.changes();
        for write in batch.writes {
            match write {
                Write::Put(key, value) => changes.insert(key, Some(value)),
                Write::Delete(key) => changes.insert(key, None),
            };
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryStore;

    /// The same writes on a store, partly below and partly above, read the same.
    #[tokio::test]
    async fn it_reads_like_one_store_and_leaves_the_other_alone() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut batch = |count: usize| {
                let mut batch = WriteBatch::default();
                for _ in 0..count {
                    let key = vec![rng.u8(1..3), rng.u8(0..20)];
                    if rng.bool() { batch.put(key, vec![rng.u8(..)]) } else { batch.delete(key) }
                }
                batch
            };
            let (first, second) = (batch(20), batch(20));
            let (plain, below) = (MemoryStore::default(), MemoryStore::default());
            for store in [&plain, &below] {
                store.commit(first.clone()).await.unwrap();
            }
            let before = below.dump();
            let above = OverlayStore::new(Arc::new(below.clone()));
            above.commit(second.clone()).await.unwrap();
            plain.commit(second).await.unwrap();
            assert_eq!(below.dump(), before);
            for (prefix, limit) in [(vec![1], 1), (vec![1], 3), (vec![2], 100), (vec![1, 7], 2)] {
                let mut after: Option<Bytes> = None;
                loop {
                    let (a, b) = (
                        plain.scan(&prefix, after.as_deref(), limit).await.unwrap(),
                        above.scan(&prefix, after.as_deref(), limit).await.unwrap(),
                    );
                    assert_eq!(a, b, "seed {seed}");
                    let Some((last, _)) = a.last() else { break };
                    after = Some(last.clone());
                    assert_eq!(plain.get(last).await.unwrap(), above.get(last).await.unwrap());
                }
            }
        }
    }
}
