//! The window against a model of the state, and the worker against destinations that fail in every way.

use std::collections::{BTreeMap, BTreeSet};

use super::window::Window;
use super::*;
use crate::event::ProfileId;

pub fn queued(number: u64, profile: u8) -> Queued {
    let delivery = Delivery {
        id: format!("d-{number}"),
        activation: "cart".into(),
        step: "remind".into(),
        destination: "crm".into(),
        profile_id: ProfileId([profile; 16]),
        lane: profile.into(),
        body: format!("body of {number}"),
        created_at: number as i64,
        dry_run: false,
        consent: None,
    };
    Queued::new(number, delivery)
}

const SECOND: i64 = 1_000_000;

/// A queue in the state, the window over it, and what was sent. Recording is late, pages are read before they are taken in.
struct World {
    random: fastrand::Rng,
    now: i64,
    state: BTreeMap<u64, Queued>,
    window: Window,
    in_order: bool,
    size: usize,
    next: u64,
    profiles: u8,
    under_way: Vec<Queued>,
    /// Reported and not recorded: what becomes of the entry.
    reported: Vec<(u64, Option<Queued>)>,
    page: Option<(super::window::Page, Vec<Queued>)>,
    sent: BTreeSet<u64>,
    failing: u32,
    /// Up to where pages were read, and how many went through the queue again.
    read: u64,
    again: u32,
    /// Nothing new comes.
    resting: bool,
}

impl World {
    fn step(&mut self) {
        match self.random.u8(0..10) {
            0 | 1 if self.resting => {}
            0 | 1 => {
                // Numbers are of all destinations.
                self.next += self.random.u64(1..3);
                let queued = queued(self.next, self.random.u8(0..self.profiles));
                self.state.insert(self.next, queued.clone());
                match self.random.u8(0..10) {
                    0 => self.window.know(self.next + 1),
                    _ => self.window.offer(queued, self.now),
                }
            }
            2 | 3 => {
                let max = self.random.usize(1..4);
                for queued in self.window.begin(max) {
                    self.check_begun(&queued);
                    self.under_way.push(queued);
                }
            }
            4 | 5 if !self.under_way.is_empty() => {
                let at = self.random.usize(0..self.under_way.len());
                let queued = self.under_way.swap_remove(at);
                let again = (self.random.u32(0..100) < self.failing).then(|| {
                    let wait = if self.random.bool() { 2 * SECOND } else { 3_600 * SECOND };
                    queued.again(self.now + self.random.i64(0..wait))
                });
                if again.is_none() {
                    assert!(self.sent.insert(queued.number), "{} is sent twice", queued.number);
                }
                self.window.finish(queued.number, queued.delivery.lane, again.clone(), self.now);
                self.reported.push((queued.number, again));
            }
            6 if !self.reported.is_empty() => {
                let (number, again) = self.reported.remove(0);
                match again {
                    Some(again) => self.state.insert(number, again),
                    None => self.state.remove(&number),
                };
                self.window.settled(number);
            }
            7 => match self.page.take() {
                None => {
                    self.page = self.window.next_page(self.now).map(|page| {
                        self.again += u32::from(page.from < self.read);
                        self.read = self.read.max(page.to);
                        let found = self.state.range(page.from..page.to).take(page.limit);
                        (page, found.map(|(_, queued)| queued.clone()).collect())
                    });
                }
                Some((page, found)) => {
                    let next = found.last().filter(|_| found.len() == page.limit).map(|last| last.number + 1);
                    let next = next.filter(|next| *next < page.to);
                    self.window.page(page, found, next, self.now);
                }
            },
            8 => self.now += self.random.i64(0..3 * SECOND),
            _ => drop(self.window.wake(self.now)),
        }
        assert!(self.window.len() <= self.size + self.reported.len(), "{} in memory", self.window.len());
    }

    fn check_begun(&self, queued: &Queued) {
        let number = queued.number;
        assert!(!self.sent.contains(&number), "{number} was sent before");
        assert!(self.under_way.iter().all(|other| other.number != number), "{number} is under way");
        assert!(queued.next_attempt_at <= self.now, "{number} is not due");
        if self.in_order {
            let lane = queued.delivery.lane;
            let before = self.state.range(..number).map(|(_, other)| other);
            let open = before.filter(|other| other.delivery.lane == lane && !self.sent.contains(&other.number));
            assert_eq!(open.count(), 0, "{number} overtakes another of {lane}");
        }
    }
}

/// Whatever fails and however late it is recorded: each is sent once, when it is due, with `order: profile` one after the other of a
/// profile, never more are in memory than there may be, and in the end none is left.
#[test]
fn a_window_over_a_queue_loses_doubles_and_overtakes_nothing() {
    let mut again = 0;
    for seed in 0..600 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (in_order, size) = (random.bool(), random.usize(4..30));
        let mut world = World {
            now: 1_000 * SECOND,
            state: BTreeMap::new(),
            in_order,
            size,
            next: random.u64(0..3),
            profiles: random.u8(1..20),
            under_way: Vec::new(),
            reported: Vec::new(),
            page: None,
            sent: BTreeSet::new(),
            failing: *random.choice(&[0, 30, 80]).unwrap(),
            read: 0,
            again: 0,
            resting: false,
            window: Window::new(size, in_order, 0),
            random,
        };
        // What a process before has left.
        for _ in 0..world.random.u64(0..60) {
            let mut left = queued(world.next, world.random.u8(0..world.profiles));
            left.next_attempt_at = world.random.i64(0..3) * 800 * SECOND;
            world.state.insert(world.next, left);
            world.next += 1;
        }
        world.window.know(world.next);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..3_000).for_each(|_| world.step());
            (world.resting, world.failing) = (true, 0);
            for round in 0.. {
                assert!(round < 200_000, "{} are left: {:?}", world.state.len(), world.state.keys().take(5));
                if world.state.is_empty() && world.under_way.is_empty() && world.reported.is_empty() {
                    break;
                }
                if world.random.u8(0..10) > 1 {
                    world.step();
                }
                world.now += SECOND;
            }
        }));
        if let Err(panic) = caught {
            eprintln!("seed {seed}, in order {in_order}, size {size}");
            std::panic::resume_unwind(panic);
        }
        again += world.again;
    }
    assert!(again > 1_000, "the queue was gone through again {again} times only: this shows little");
}
