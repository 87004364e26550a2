//! Changes that lie over a store: they are read instead of what is below.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{StoreError, Write};

/// What an entry takes besides its key and value, about.
const ENTRY_BYTES: usize = 96;

/// Most keys lie in the tree itself, so that comparing two does not wait for memory.
type Key = SmallVec<[u8; 24]>;

type Entries = BTreeMap<Key, Option<Bytes>>;

/// The latest change of each key; shared between those who write and those who read.
#[derive(Debug, Default)]
pub struct Changes {
    /// None: deleted.
    entries: RwLock<Entries>,
    bytes: AtomicUsize,
}

impl Changes {
    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Later ones stand instead of earlier ones of the same key.
    pub fn add(&self, writes: Vec<Write>) {
        let changes = writes.into_iter().map(|write| match write {
            Write::Put(key, value) => (Key::from_slice(&key), Some(value)),
            Write::Delete(key) => (Key::from_slice(&key), None),
        });
        let mut changes: Vec<(Key, Option<Bytes>)> = changes.collect();
        // In the order of keys neighbours meet the same nodes of the tree. Stable: of two changes of a key the later stays.
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let (mut more, mut less) = (0, 0);
        for (key, value) in changes {
            let key_bytes = key.len() + ENTRY_BYTES;
            more += value.as_ref().map_or(0, Bytes::len);
            match entries.insert(key, value) {
                Some(old) => less += old.map_or(0, |old| old.len()),
                None => more += key_bytes,
            }
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes.fetch_sub(less, Ordering::Relaxed);
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// None: nothing is known of the key here. `Some(None)`: it is deleted.
    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.read().get(key).cloned()
    }

    /// The changes behind a key, in order, up to about so many bytes and at least one.
    pub fn page(&self, after: Option<&[u8]>, bytes_max: usize) -> Vec<Write> {
        let entries = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        let range = entries.range::<[u8], _>((from, Bound::Unbounded));
        let page = range.take_while(|(key, value)| {
            let is_within = bytes < bytes_max;
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            is_within
        });
        page.map(|(key, value)| match (Bytes::copy_from_slice(key), value) {
            (key, Some(value)) => Write::Put(key, value.clone()),
            (key, None) => Write::Delete(key),
        })
        .collect()
    }
}

/// A scan (see [`Store::scan`](super::Store::scan)) over what `below` finds, with `layers` over it, the upper ones first. `below` takes the
/// key to go on after and finds up to `limit` entries.
///
/// # Errors
/// Those of `below`.
pub async fn scan<F>(
    layers: &[&Changes],
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
    below: impl Fn(Option<Bytes>) -> F,
) -> Result<Vec<(Bytes, Bytes)>, StoreError>
where
    F: Future<Output = Result<Vec<(Bytes, Bytes)>, StoreError>>,
{
    let mut after = after.map(Bytes::copy_from_slice);
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    while found.len() < limit {
        let page = below(after.clone()).await?;
        // Beyond the last entry below nothing is known yet, unless that was all.
        let known_to = if page.len() < limit { None } else { page.last().map(|(key, _)| key.clone()) };
        merge(layers, page, prefix, after.as_deref(), known_to.as_deref(), limit, &mut found);
        match known_to {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    Ok(found)
}

/// One page from below and the changes in its range, key by key, until there are enough.
fn merge(
    layers: &[&Changes],
    page: Vec<(Bytes, Bytes)>,
    prefix: &[u8],
    after: Option<&[u8]>,
    known_to: Option<&[u8]>,
    limit: usize,
    found: &mut Vec<(Bytes, Bytes)>,
) {
    let guards: Vec<RwLockReadGuard<'_, Entries>> = layers.iter().map(|layer| layer.read()).collect();
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut above: Vec<_> = guards
        .iter()
        .map(|entries| {
            let range = entries.range::<[u8], _>((from, Bound::Unbounded));
            let is_in = |key: &[u8]| key.starts_with(prefix) && known_to.is_none_or(|known_to| key <= known_to);
            range.take_while(move |(key, _)| is_in(key)).peekable()
        })
        .collect();
    let mut below = page.into_iter().peekable();
    while found.len() < limit {
        let firsts = above.iter_mut().filter_map(|layer| layer.peek()).map(|(key, _)| key.as_slice());
        let next = firsts.chain(below.peek().map(|(key, _)| key.as_ref())).min().map(Bytes::copy_from_slice);
        let Some(key) = next else { return };
        let mut value: Option<Option<Bytes>> = None;
        for layer in &mut above {
            if let Some((_, changed)) = layer.next_if(|(other, _)| other.as_slice() == key) {
                value.get_or_insert_with(|| changed.clone());
            }
        }
        if let Some((_, stored)) = below.next_if(|(other, _)| *other == key) {
            value.get_or_insert(Some(stored));
        }
        if let Some(Some(value)) = value {
            found.push((key, value));
        }
    }
}
