//! Durable state behind one narrow trait, the layout of its keys, the codec of its values, and the
//! bounded cache of decoded hot state in front of it.

pub mod cache;
pub mod changes;
pub mod codec;
pub mod filter;
pub mod heartbeat;
pub mod journal;
pub mod keys;
pub mod location;
pub mod memory;
pub mod overlay;
pub mod slate;

use async_trait::async_trait;
use bytes::Bytes;

/// What the caller must do: stop for good, or stop and be started again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another instance has taken over this state: stop for good (exit 4).
    #[error("another instance has taken over this state")]
    Fenced,
    /// The storage cannot be reached or is full: stop; a restart may help (exit 3).
    #[error("the state storage cannot be used: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood: stop loudly (exit 5).
    #[error("the stored state is damaged: {0}")]
    Damaged(String),
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Put(Bytes, Bytes),
    Delete(Bytes),
}

impl Write {
    pub fn key(&self) -> &Bytes {
        match self {
            Write::Put(key, _) | Write::Delete(key) => key,
        }
    }

    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        match self {
            Write::Put(key, value) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        }
    }
}

/// Everything one commit changes; applied whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    pub writes: Vec<Write>,
}

impl WriteBatch {
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write::Put(key.into(), value.into()));
    }

    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.push(Write::Delete(key.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.writes.iter().map(Write::bytes).sum()
    }
}

/// All entries with a prefix, in key order: for what is known to be few.
pub async fn scan_all(store: &dyn Store, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut all = Vec::new();
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(prefix, after.as_deref(), 1_000).await?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = Some(last.clone());
        all.extend(page);
    }
}

/// The state. Keys sort bytewise. There is one writer; a second one fences the first.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Up to `limit` entries with `prefix`, in key order, whose key is greater than `after` (exclusive, a full
    /// key) where given. Call again with the last key to go on.
    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Applies the batch atomically and returns once it is durable. Batches become durable in the order of calls.
    async fn commit(&self, batch: WriteBatch) -> Result<(), StoreError>;

    /// Flushes and releases. A process that dies without it loses nothing.
    async fn close(&self) -> Result<(), StoreError>;
}
