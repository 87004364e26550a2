//! A store that writes nothing down: reads fall through to another one, changes stay in memory. What would come of
//! something can be tried out on the real state without touching it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::changes::{self, Changes};
use super::{Store, StoreError, WriteBatch};

pub struct OverlayStore {
    below: Arc<dyn Store>,
    changes: Changes,
}

impl OverlayStore {
    pub fn new(below: Arc<dyn Store>) -> OverlayStore {
        OverlayStore { below, changes: Changes::default() }
    }
}

#[async_trait]
impl Store for OverlayStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.changes.get(key) {
            Some(value) => Ok(value),
            None => self.below.get(key).await,
        }
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let below = |after: Option<Bytes>| async move { self.below.scan(prefix, after.as_deref(), limit).await };
        changes::scan(&[&self.changes], prefix, after, limit, below).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.changes.add(batch.writes);
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
