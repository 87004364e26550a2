//! Decoded hot state in memory, bounded in bytes.
//!
//! Entries changed by a commit that is not durable yet are *dirty*: they are never evicted, since the store does not
//! show them yet. Clean ones go by second chance (CLOCK) when the bound is passed. Eviction happens in
//! [`Cache::shrink`] alone, once per batch, so what a batch has loaded stays until it is applied.
//!
//! Entries lie in the buckets of one hash table: a look-up is one probe, and the clock's hand walks the buckets.
//! Invariant after `shrink`: `bytes() <= max(bound, weight of the dirty entries)`.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;

/// How much memory a value holds outside of itself (what it owns on the heap), in bytes. An estimate will do.
pub trait Weigh {
    fn weigh(&self) -> usize;
}

impl<T: Weigh> Weigh for Box<T> {
    fn weigh(&self) -> usize {
        size_of::<T>() + T::weigh(self)
    }
}

/// Keys are numbers or hashes (`u64`, `u128`). Commits are numbered upwards.
pub struct Cache<K, V> {
    entries: HashTable<Entry<K, V>>,
    hasher: RandomState,
    bytes_max: usize,
    bytes: usize,
    /// Commits below this are durable: one more than the last one. An entry is dirty while its own is not below.
    durable_below: u64,
    /// Keys whose values were handed out mutably: `shrink` weighs them again.
    lent: Vec<K>,
    /// The bucket that the clock looks at next.
    hand: usize,
    evicted: bool,
}

struct Entry<K, V> {
    key: K,
    /// One more than the commit that changed it last; 0 when it came from the store.
    changed: u64,
    weight: u32,
    lent: bool,
    /// Set by look-ups, which share the cache: hence atomic.
    used: AtomicBool,
    value: V,
}

impl<K: Copy + Eq + Hash, V: Weigh> Cache<K, V> {
    pub fn new(bytes_max: usize) -> Self {
        Cache {
            entries: HashTable::new(),
            hasher: RandomState::default(),
            bytes_max,
            bytes: 0,
            durable_below: 0,
            lent: Vec::new(),
            hand: 0,
            evicted: false,
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let entry = self.entries.find(self.hasher.hash_one(key), |entry| entry.key == *key)?;
        // Written only when it changes, so that reading does not dirty the cache line.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(&entry.value)
    }

    /// The value to change, as part of `commit`: it stays until that commit is durable.
    pub fn get_mut_dirty(&mut self, key: &K, commit: u64) -> Option<&mut V> {
        let entry = self.entries.find_mut(self.hasher.hash_one(key), |entry| entry.key == *key)?;
        entry.changed = entry.changed.max(commit + 1);
        *entry.used.get_mut() = true;
        if !entry.lent {
            entry.lent = true;
            self.lent.push(*key);
        }
        Some(&mut entry.value)
    }

    /// Takes in a value read from the store. Where a dirty one is there it is newer and stays.
    pub fn insert_clean(&mut self, key: K, value: V) {
        self.insert(key, value, 0);
    }

    /// Takes in a value that `commit` writes. A deletion is a value too (one that says so): a key that is absent here
    /// is looked up in the store, which still has it until the commit is durable.
    pub fn insert_dirty(&mut self, key: K, value: V, commit: u64) {
        self.insert(key, value, commit + 1);
    }

    /// Forgets the key, dirty or not. For a deletion see [`Cache::insert_dirty`].
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let found = self.entries.find_entry(self.hasher.hash_one(key), |entry| entry.key == *key).ok()?;
        let (entry, _) = found.remove();
        self.bytes -= entry.weight as usize;
        Some(entry.value)
    }

    /// All commits up to this one are durable: what they changed is clean.
    pub fn durable(&mut self, commit: u64) {
        self.durable_below = self.durable_below.max(commit + 1);
    }

    /// Weighs again what was handed out mutably, then evicts clean entries down to the bound.
    pub fn shrink(&mut self) {
        for key in std::mem::take(&mut self.lent) {
            let found = self.entries.find_mut(self.hasher.hash_one(key), |entry| entry.key == key);
            // It may be gone, or gone and in again.
            if let Some(entry) = found.filter(|entry| entry.lent) {
                entry.lent = false;
                self.bytes -= entry.weight as usize;
                entry.weight = Self::weight(&entry.value);
                self.bytes += entry.weight as usize;
            }
        }
        // Two rounds: the first may only take the marks of use away. What is left then is dirty.
        let mut steps = 2 * self.entries.num_buckets();
        while self.bytes > self.bytes_max && steps > 0 {
            steps -= 1;
            self.hand = if self.hand + 1 < self.entries.num_buckets() { self.hand + 1 } else { 0 };
            let Ok(mut found) = self.entries.get_bucket_entry(self.hand) else { continue };
            let entry = found.get_mut();
            // Commits are stored one up: `changed` is at most `durable_below` when its commit is durable.
            if entry.changed > self.durable_below || std::mem::take(entry.used.get_mut()) {
                continue;
            }
            self.bytes -= entry.weight as usize;
            found.remove();
            self.evicted = true;
        }
    }

    /// Nothing was ever evicted: if all that is stored was taken in at first, what is not here is not stored either.
    pub fn is_whole(&self) -> bool {
        !self.evicted
    }

    /// The weight of all entries; of values handed out mutably since the last [`Cache::shrink`] as it was before.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, key: K, value: V, changed: u64) {
        let weight = Self::weight(&value);
        let hasher = &self.hasher;
        let rehash = |entry: &Entry<K, V>| hasher.hash_one(entry.key);
        match self.entries.entry(hasher.hash_one(key), |entry| entry.key == key, rehash) {
            TableEntry::Occupied(mut found) => {
                let entry = found.get_mut();
                if changed == 0 && entry.changed > self.durable_below {
                    return;
                }
                self.bytes = self.bytes - entry.weight as usize + weight as usize;
                entry.weight = weight;
                entry.changed = entry.changed.max(changed);
                *entry.used.get_mut() = true;
                entry.value = value;
            }
            TableEntry::Vacant(free) => {
                self.bytes += weight as usize;
                free.insert(Entry { key, changed, weight, lent: false, used: AtomicBool::new(true), value });
            }
        }
    }

    fn weight(value: &V) -> u32 {
        u32::try_from(size_of::<Entry<K, V>>() + value.weigh()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    impl Weigh for String {
        fn weigh(&self) -> usize {
            self.len()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Get(u64),
        Change(u64, usize),
        InsertClean(u64, usize),
        InsertDirty(u64, usize),
        Remove(u64),
        Commit,
        Durable,
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = 0..40u64;
        let size = 0..300usize;
        let step = prop_oneof![
            key.clone().prop_map(Step::Get),
            (key.clone(), size.clone()).prop_map(|(key, size)| Step::Change(key, size)),
            (key.clone(), size.clone()).prop_map(|(key, size)| Step::InsertClean(key, size)),
            (key.clone(), size).prop_map(|(key, size)| Step::InsertDirty(key, size)),
            key.prop_map(Step::Remove),
            Just(Step::Commit),
            Just(Step::Durable),
            Just(Step::Shrink),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// The model knows every value; the cache may forget clean ones, and nothing else.
        #[test]
        fn a_dirty_entry_stays_a_clean_one_is_right_or_gone_and_bytes_are_bounded(steps in steps()) {
            const BOUND: usize = 2_000;
            let mut cache = Cache::<u64, String>::new(BOUND);
            let mut model: HashMap<u64, (String, Option<u64>)> = HashMap::new();
            let (mut commit, mut durable) = (0u64, 0u64);
            for (number, step) in steps.into_iter().enumerate() {
                let text = |size: usize| format!("{number}:{}", "x".repeat(size));
                match step {
                    Step::Get(key) => if let Some(value) = cache.get(&key) {
                        prop_assert_eq!(value, &model[&key].0);
                    },
                    Step::Change(key, size) => if let Some(value) = cache.get_mut_dirty(&key, commit) {
                        *value = text(size);
                        model.insert(key, (text(size), Some(commit)));
                    },
                    // What comes from the store is older than what is dirty.
                    Step::InsertClean(key, size) => {
                        cache.insert_clean(key, text(size));
                        let dirty = model.get(&key).is_some_and(|(_, changed)| changed.is_some_and(|c| c >= durable));
                        if !dirty {
                            model.insert(key, (text(size), None));
                        }
                    }
                    Step::InsertDirty(key, size) => {
                        cache.insert_dirty(key, text(size), commit);
                        model.insert(key, (text(size), Some(commit)));
                    }
                    Step::Remove(key) => {
                        cache.remove(&key);
                        model.remove(&key);
                    }
                    Step::Commit => commit += 1,
                    Step::Durable => if durable < commit {
                        cache.durable(durable);
                        durable += 1;
                    },
                    Step::Shrink => {
                        cache.shrink();
                        let weight = |value: &String| size_of::<Entry<u64, String>>() + value.len();
                        let is_dirty = |changed: &Option<u64>| changed.is_some_and(|c| c >= durable);
                        let dirty: usize =
                            model.values().filter(|(_, changed)| is_dirty(changed)).map(|(value, _)| weight(value)).sum();
                        prop_assert!(cache.bytes() <= BOUND.max(dirty), "{} bytes, {dirty} dirty", cache.bytes());
                        let held = model.keys().filter_map(|key| cache.get(key));
                        prop_assert_eq!(held.map(weight).sum::<usize>(), cache.bytes());
                    }
                }
                for (key, (value, changed)) in &model {
                    if changed.is_some_and(|changed| changed >= durable) {
                        prop_assert_eq!(cache.get(key), Some(value));
                    }
                }
                prop_assert!(cache.len() <= model.len());
            }
        }
    }

    #[test]
    fn what_is_in_use_outlives_what_is_not() {
        let mut cache = Cache::<u64, String>::new(100 * size_of::<Entry<u64, String>>());
        for key in 0..1_000 {
            cache.insert_clean(key, String::new());
            for hot in 0..20 {
                cache.get(&hot);
            }
            cache.shrink();
        }
        assert!(cache.len() <= 100);
        let hot = (0..20).filter(|key| cache.get(key).is_some()).count();
        assert!(hot >= 18, "{hot} of 20 in use are left");
    }
}
