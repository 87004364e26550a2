//! A clock that only moves when nothing else is to be done, so that hours of waiting cost nothing and every run of the same
//! seed is the same.
//!
//! It is one thread's: a runtime on that thread alone, whose `on_thread_park` calls [`advance`], sees it in place of the real
//! one. Other threads are not touched.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::event::TimeUs;

thread_local! {
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Clock {
    /// Since the start; never goes back.
    elapsed_us: i64,
    /// What the wall clock is ahead of it.
    ahead_us: i64,
    /// Who sleeps until when; those of one moment in the order in which they fell asleep.
    sleepers: BTreeMap<(i64, u64), Option<Waker>>,
    next: u64,
    /// Sleeps begun since it last moved.
    restless: u32,
}

/// Nobody who waits for something begins so many sleeps in one moment.
const RESTLESS_MAX: u32 = 100_000;

/// The simulated clock of this thread, until it is dropped.
#[derive(Debug)]
pub struct Running(());

/// Starts the clock of this thread with the wall clock at `wall_us`.
pub fn start(wall_us: TimeUs) -> Running {
    CLOCK.set(Some(Clock { ahead_us: wall_us, ..Clock::default() }));
    Running(())
}

impl Drop for Running {
    fn drop(&mut self) {
        CLOCK.set(None);
    }
}

/// Microseconds since the start, whatever the wall clock did; 0 without a simulated clock.
pub fn elapsed_us() -> i64 {
    CLOCK.with_borrow(|clock| clock.as_ref().map_or(0, |clock| clock.elapsed_us))
}

/// Puts the wall clock forward, or back where negative. Nobody wakes earlier or later for it.
pub fn jump(by_us: i64) {
    with(|clock| clock.ahead_us += by_us);
}

/// Moves to the moment when the next sleeper wakes, and wakes it. For `on_thread_park`: there is nothing else to do.
pub fn advance() {
    let woken = with(|clock| {
        // One that was polled and not dropped has a waker; others wake when they are polled.
        let ((at, _), waker) = clock.sleepers.pop_first()?;
        clock.elapsed_us = clock.elapsed_us.max(at);
        clock.restless = 0;
        waker
    });
    if let Some(waker) = woken.flatten() {
        waker.wake();
    }
}

pub(super) fn wall_us() -> Option<TimeUs> {
    with(|clock| clock.elapsed_us + clock.ahead_us)
}

pub(super) fn sleep(duration: Duration) -> Option<Asleep> {
    with(|clock| {
        let at = clock.elapsed_us.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX));
        clock.next += 1;
        clock.restless += 1;
        assert!(clock.restless < RESTLESS_MAX, "someone waits in circles: time does not pass");
        let key = (at, clock.next);
        clock.sleepers.insert(key, None);
        Asleep { key }
    })
}

fn with<T>(act: impl FnOnce(&mut Clock) -> T) -> Option<T> {
    CLOCK.with_borrow_mut(|clock| clock.as_mut().map(act))
}

pub(super) struct Asleep {
    key: (i64, u64),
}

impl Future for Asleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waits = with(|clock| match clock.sleepers.get_mut(&self.key) {
            Some(waker) if clock.elapsed_us < self.key.0 => {
                *waker = Some(context.waker().clone());
                true
            }
            _ => false,
        });
        if waits == Some(true) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        with(|clock| clock.sleepers.remove(&self.key));
    }
}
