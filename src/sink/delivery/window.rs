//! The part of a destination's queue that is in memory: bounded, whatever waits in the state.
//!
//! Deliveries come in order of their numbers, from the engine while the window has room, else from the state, page by page. One that
//! waits long for its next attempt gives its place up when others need it; the queue is then gone through again when the first of
//! those is due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::{HashMap, HashSet};

use super::Queued;
use crate::event::TimeUs;

/// Who waits longer than this may have to give up its place.
const NEAR_US: TimeUs = 30_000_000;
/// The queue is not gone through again sooner after the last time.
const AGAIN_AFTER_US: TimeUs = 10_000_000;
/// Deliveries of one page.
const PAGE_MAX: usize = 500;
/// Profiles whose deliveries wait for one that gave up its place (16 bytes each); with more, places are kept.
const PARKED_MAX: usize = 100_000;

/// What is to be read: entries with the numbers from `from` on and below `to`, in order, at most `limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub from: u64,
    pub to: u64,
    pub limit: usize,
    again: bool,
}

/// See the module. It knows no clock: `now` is the wall clock's, UTC microseconds.
pub struct Window {
    size: usize,
    in_order: bool,
    held: BTreeMap<u64, Queued>,
    /// Those of `held` that may be sent now, and those that wait. With `in_order` only the first of each profile.
    ready: BTreeSet<u64>,
    waiting: BTreeSet<(TimeUs, u64)>,
    under_way: HashSet<u64>,
    /// Attempts that are reported and not durable: the state may still show the entry as it was before.
    settling: HashMap<u64, u32>,
    settled_while_reading: Vec<u64>,
    reading: bool,
    /// With `in_order`: the numbers of a profile that are in the window, in order, and profiles that are not in it because one of
    /// theirs gave up its place.
    lanes: HashMap<u128, VecDeque<u64>>,
    parked: HashSet<u128>,
    /// The state holds none from `known` on; all below `read` were in the window once.
    known: u64,
    read: u64,
    /// Up to which number the queue was gone through again, while it is; when it was last; when the first that gave up its place is due.
    again: Option<u64>,
    again_at: TimeUs,
    away_due: TimeUs,
}

impl Window {
    pub fn new(size: usize, in_order: bool, known: u64) -> Window {
        Window {
            size,
            in_order,
            held: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            under_way: HashSet::new(),
            settling: HashMap::new(),
            settled_while_reading: Vec::new(),
            reading: false,
            lanes: HashMap::new(),
            parked: HashSet::new(),
            known,
            read: 0,
            again: None,
            again_at: TimeUs::MIN,
            away_due: TimeUs::MAX,
        }
    }

    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// All that is in memory.
    pub fn len(&self) -> usize {
        self.held.len() + self.under_way.len() + self.settling.len()
    }

    fn room(&self) -> usize {
        self.size.saturating_sub(self.len())
    }

    /// Whether the window has to do with it already.
    pub fn has(&self, number: u64) -> bool {
        self.held.contains_key(&number) || self.under_way.contains(&number) || self.settling.contains_key(&number)
    }

    /// The one with the lowest number that is held.
    pub fn oldest(&self) -> Option<&Queued> {
        self.held.first_key_value().map(|(_, queued)| queued)
    }

    /// The next one of the engine's, in order. It is taken, or read from the state later.
    pub fn offer(&mut self, queued: Queued, now: TimeUs) {
        let number = queued.number;
        let all_read = self.known <= self.read && self.again.is_none() && !self.reading;
        self.know(number + 1);
        if all_read && self.room() > 0 && !self.is_parked(&queued) {
            self.read = number + 1;
            self.take(queued, now);
        }
    }

    /// The state may hold deliveries below this number.
    pub fn know(&mut self, below: u64) {
        self.known = self.known.max(below);
    }

    /// What is to be read next, if anything; [`Window::page`] takes it.
    pub fn next_page(&mut self, now: TimeUs) -> Option<Page> {
        if self.reading {
            return None;
        }
        // After a jump back of the clock.
        self.again_at = self.again_at.min(now);
        if self.again.is_none() && now >= self.next_again() {
            (self.again, self.again_at, self.away_due) = (Some(0), now, TimeUs::MAX);
            self.parked.clear();
        }
        let again = self.again.is_some();
        if !again && self.known <= self.read {
            return None;
        }
        self.make_room(now);
        let limit = self.room().min(PAGE_MAX);
        if limit < self.room_to_read() {
            return None;
        }
        self.reading = true;
        let (from, to) = match self.again {
            Some(from) => (from, self.read),
            None => (self.read, self.known),
        };
        Some(Page { from, to, limit, again })
    }

    /// When something of the state may have to be read though nothing else happens.
    pub fn next_again(&self) -> TimeUs {
        match self.away_due {
            TimeUs::MAX => TimeUs::MAX,
            due => due.max(self.again_at.saturating_add(AGAIN_AFTER_US)),
        }
    }

    /// Takes what was read; `next` is where the next page begins, None where this was the last one.
    pub fn page(&mut self, page: Page, entries: Vec<Queued>, next: Option<u64>, now: TimeUs) {
        for queued in entries {
            if self.has(queued.number) || self.is_parked(&queued) {
                continue;
            }
            if page.again && queued.next_attempt_at > now + NEAR_US {
                self.put_away(&queued);
            } else {
                self.take(queued, now);
            }
        }
        match page.again {
            true => self.again = next,
            false => self.read = next.unwrap_or(page.to),
        }
        self.reading = false;
        for number in std::mem::take(&mut self.settled_while_reading) {
            self.settled(number);
        }
    }

    /// What is sent next, those with the lowest numbers; they are under way until [`Window::finish`].
    pub fn begin(&mut self, max: usize) -> Vec<Queued> {
        let mut begun = Vec::new();
        while begun.len() < max
            && let Some(number) = self.ready.pop_first()
        {
            if let Some(queued) = self.held.remove(&number) {
                self.under_way.insert(number);
                begun.push(queued);
            }
        }
        begun
    }

    /// An attempt has ended and is reported; `again`: it waits for the next one.
    pub fn finish(&mut self, number: u64, lane: u128, again: Option<Queued>, now: TimeUs) {
        self.under_way.remove(&number);
        *self.settling.entry(number).or_default() += 1;
        if let Some(queued) = again {
            self.held.insert(number, queued);
            self.start_waiting(number, now);
        } else if self.in_order
            && let Some(numbers) = self.lanes.get_mut(&lane)
        {
            numbers.retain(|other| *other != number);
            match numbers.front().copied() {
                Some(next) => self.start_waiting(next, now),
                None => drop(self.lanes.remove(&lane)),
            }
        }
    }

    /// An attempt is recorded durably.
    pub fn settled(&mut self, number: u64) {
        if self.reading {
            // The page may have been read before.
            self.settled_while_reading.push(number);
        } else if let Some(attempts) = self.settling.get_mut(&number) {
            *attempts -= 1;
            if *attempts == 0 {
                self.settling.remove(&number);
            }
        }
    }

    /// Whoever is due is ready. Gives when the next one is, `TimeUs::MAX` for never.
    pub fn wake(&mut self, now: TimeUs) -> TimeUs {
        while let Some((due, number)) = self.waiting.first().copied() {
            if due > now {
                return due;
            }
            self.waiting.pop_first();
            self.ready.insert(number);
        }
        TimeUs::MAX
    }

    fn is_parked(&self, queued: &Queued) -> bool {
        self.in_order && self.parked.contains(&queued.delivery.lane)
    }

    fn take(&mut self, queued: Queued, now: TimeUs) {
        let number = queued.number;
        let first = !self.in_order || {
            let lane = self.lanes.entry(queued.delivery.lane).or_default();
            lane.push_back(number);
            lane.len() == 1
        };
        self.held.insert(number, queued);
        if first {
            self.start_waiting(number, now);
        }
    }

    fn start_waiting(&mut self, number: u64, now: TimeUs) {
        let Some(queued) = self.held.get(&number) else { return };
        match queued.next_attempt_at {
            due if due > now => self.waiting.insert((due, number)),
            _ => self.ready.insert(number),
        };
    }

    /// It is in the state alone until it is due.
    fn put_away(&mut self, queued: &Queued) {
        self.away_due = self.away_due.min(queued.next_attempt_at);
        if self.in_order {
            self.parked.insert(queued.delivery.lane);
        }
    }

    /// So much is read at once at least, so that few pages are many.
    fn room_to_read(&self) -> usize {
        PAGE_MAX.min(self.size / 2).max(1)
    }

    /// Who waits longest gives its place up, with those of its profile that wait behind it.
    fn make_room(&mut self, now: TimeUs) {
        let mut missing = self.room_to_read().saturating_sub(self.room());
        if missing == 0 {
            return;
        }
        let far = self.waiting.iter().rev().take_while(|(due, _)| *due > now + NEAR_US);
        let far: Vec<(TimeUs, u64)> = far.copied().filter(|(_, number)| !self.settling.contains_key(number)).collect();
        for (due, number) in far {
            if missing == 0 || self.parked.len() >= PARKED_MAX {
                return;
            }
            let Some(queued) = self.held.remove(&number) else { continue };
            self.waiting.remove(&(due, number));
            self.put_away(&queued);
            missing = missing.saturating_sub(1);
            for behind in self.lanes.remove(&queued.delivery.lane).into_iter().flatten() {
                missing = missing.saturating_sub(usize::from(self.held.remove(&behind).is_some()));
            }
        }
    }
}
