//! Timers: when a profile has to be judged again though no event comes. One per profile, its earliest.
//!
//! A timer is a key of the state, by its time; what counts is the time stored with the profile, so one that is out of date is
//! simply not fired. The next few are held in memory, complete up to a horizon; beyond it they are read in pages, from the
//! horizon on and never from the head, where a store without range deletes keeps its tombstones (SEMANTICS §6).
//!
//! What is due is fired by time, the earliest first. Where more than a page is due it goes by profile number, up to a million at
//! once: each has its own moment anyway, and neighbours lie together in the store. Millions of random reads would take minutes.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::event::{ProfileNumber, TimeUs};
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError};

/// So many are read at once, and twice so many are held.
const PAGE: usize = 100_000;

/// So many that are due are put in order of their profiles.
const STORM: usize = 1_000_000;

type Timer = (TimeUs, ProfileNumber);

/// Nothing is beyond it.
const NEVER: Timer = (TimeUs::MAX, ProfileNumber::MAX);

#[derive(Debug)]
pub struct Timers {
    /// All timers before the horizon.
    soon: BTreeSet<Timer>,
    horizon: Timer,
    /// Taken out of `soon` to be fired, the greatest number first, and the earliest time among them.
    storm: Vec<ProfileNumber>,
    storm_due: TimeUs,
}

impl Timers {
    /// Reads the next timers of a state.
    pub async fn load(store: &dyn Store) -> Result<Timers, StoreError> {
        let horizon = (TimeUs::MIN, 0);
        let mut timers = Timers { soon: BTreeSet::new(), horizon, storm: Vec::new(), storm_due: TimeUs::MAX };
        timers.read_page(store).await?;
        Ok(timers)
    }

    /// When the next one is due; one that is out of date may be before it.
    pub fn next_due(&self) -> TimeUs {
        let soon = self.soon.first().map_or(self.horizon.0, |(due, _)| *due);
        if self.storm.is_empty() { soon } else { soon.min(self.storm_due) }
    }

    /// Whether the next ones have to be read: all writes so far must be durable then.
    pub fn must_read(&self, now: TimeUs) -> bool {
        self.storm.is_empty() && self.soon.is_empty() && self.horizon.0 <= now
    }

    /// Reads the next page, and more while they are due.
    pub async fn read(&mut self, store: &dyn Store, now: TimeUs) -> Result<(), StoreError> {
        self.read_page(store).await?;
        while self.horizon.0 <= now && self.soon.len() < STORM {
            self.read_page(store).await?;
        }
        Ok(())
    }

    async fn read_page(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let after = (self.horizon.0 > TimeUs::MIN).then(|| before(self.horizon));
        let page = store.scan(&keys::prefix(Tag::Timer), after.as_deref(), PAGE).await?;
        self.horizon = NEVER;
        if page.len() == PAGE
            && let Some(last) = page.last().and_then(|(key, _)| keys::parse_timer(key))
        {
            self.horizon = last;
        }
        self.soon.extend(page.iter().filter_map(|(key, _)| keys::parse_timer(key)));
        self.soon.remove(&self.horizon);
        Ok(())
    }

    /// Takes note of one that has been written.
    pub fn set(&mut self, due: TimeUs, profile: ProfileNumber) {
        if (due, profile) >= self.horizon {
            return;
        }
        self.soon.insert((due, profile));
        if self.soon.len() > 2 * PAGE {
            // The latest are in the store, and will be read when their time has come.
            let keep = self.soon.iter().nth(PAGE).copied().unwrap_or(NEVER);
            self.soon.split_off(&keep);
            self.horizon = keep;
        }
    }

    pub fn remove(&mut self, due: TimeUs, profile: ProfileNumber) {
        self.soon.remove(&(due, profile));
    }

    /// Up to so many profiles whose timers are due.
    pub fn take(&mut self, now: TimeUs, limit: usize) -> Vec<ProfileNumber> {
        if self.storm.is_empty() {
            if self.soon.iter().nth(PAGE).is_none_or(|(due, _)| *due > now) {
                let mut taken = Vec::new();
                while taken.len() < limit && self.soon.first().is_some_and(|(due, _)| *due <= now) {
                    taken.extend(self.soon.pop_first().map(|(_, profile)| profile));
                }
                return taken;
            }
            self.storm_due = self.soon.first().map_or(TimeUs::MAX, |(due, _)| *due);
            while self.soon.first().is_some_and(|(due, _)| *due <= now) {
                self.storm.extend(self.soon.pop_first().map(|(_, profile)| profile));
            }
            self.storm.sort_unstable_by(|a, b| b.cmp(a));
        }
        let left = self.storm.len().saturating_sub(limit);
        let mut taken = self.storm.split_off(left);
        taken.reverse();
        taken
    }
}

/// The greatest key before that of a timer.
fn before((due, profile): Timer) -> Bytes {
    match profile.checked_sub(1) {
        Some(profile) => keys::timer(due, profile),
        None => keys::timer(due.saturating_sub(1), ProfileNumber::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::WriteBatch;
    use crate::state::memory::MemoryStore;

    /// SEMANTICS §6: random puts and takes against a plain set, with more timers than memory holds.
    #[tokio::test]
    async fn timers_come_at_their_time_and_none_is_lost() {
        let store = MemoryStore::default();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut all: BTreeSet<Timer> = BTreeSet::new();
        let mut times = std::collections::BTreeMap::new();
        let mut timers = Timers::load(&store).await.unwrap();
        let mut now = 0;
        for round in 0..40u64 {
            let mut writes = WriteBatch::default();
            for n in 0..12_000u64 {
                let timer = (now + rng.i64(1..1_000_000), round * 12_000 + n + 1);
                writes.put(keys::timer(timer.0, timer.1), Bytes::new());
                timers.set(timer.0, timer.1);
                all.insert(timer);
                times.insert(timer.1, timer.0);
            }
            store.commit(writes).await.unwrap();
            now += rng.i64(0..60_000);
            loop {
                if timers.must_read(now) {
                    timers.read(&store, now).await.unwrap();
                }
                let due = timers.take(now, 1_000);
                if due.is_empty() {
                    assert!(timers.next_due() > now);
                    break;
                }
                assert!(due.len() <= 1_000);
                let mut writes = WriteBatch::default();
                for profile in due {
                    let at = times[&profile];
                    assert!(at <= now && all.remove(&(at, profile)), "each once, and not before its time");
                    writes.delete(keys::timer(at, profile));
                }
                store.commit(writes).await.unwrap();
            }
            assert!(all.first().is_none_or(|(due, _)| *due > now), "something was due and not given");
        }
    }
}
