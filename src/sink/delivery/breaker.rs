//! The circuit breaker of a destination: while the other side is away nothing is sent but a probe now and then.

use std::time::Duration;

/// Requests in a row that were not taken, after which the other side counts as away.
const OPENS_AFTER: u32 = 10;
const WAIT_MIN_US: i64 = 1_000_000;
const WAIT_MAX_US: i64 = 5 * 60 * 1_000_000;
/// The other side may ask for a longer pause than ours, but not for one that nobody would understand.
const ASKED_MAX: Duration = Duration::from_secs(3_600);

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    #[default]
    Closed,
    /// One request is on its way to see whether the other side is back.
    HalfOpen,
    /// Nothing is sent.
    Open,
}

impl BreakerState {
    pub fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        }
    }
}

/// Times are of a clock that never goes back, in microseconds.
#[derive(Debug, Default)]
pub struct Breaker {
    state: BreakerState,
    /// Not taken in a row.
    failures: u32,
    /// While it is open: the next probe, and the wait before it.
    probe_at: i64,
    wait_us: i64,
}

impl Breaker {
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// When the next request may begin: not after `now` means at once, None after the probe that is under way.
    pub fn next_at(&self, now: i64) -> Option<i64> {
        match self.state {
            BreakerState::Closed => Some(now),
            BreakerState::HalfOpen => None,
            BreakerState::Open => Some(self.probe_at),
        }
    }

    /// A request begins.
    pub fn begin(&mut self) {
        if self.state == BreakerState::Open {
            self.state = BreakerState::HalfOpen;
        }
    }

    /// A request that had begun was not sent after all: what is known stays as it was.
    pub fn unasked(&mut self) {
        if self.state == BreakerState::HalfOpen {
            self.state = BreakerState::Open;
        }
    }

    /// The other side has answered as one that is there.
    pub fn there(&mut self) {
        *self = Breaker::default();
    }

    /// It has not taken a request; `asked` is the pause that it asks for.
    pub fn away(&mut self, now: i64, asked: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            BreakerState::Closed if self.failures < OPENS_AFTER => return,
            BreakerState::Closed => self.wait_us = WAIT_MIN_US,
            BreakerState::HalfOpen => self.wait_us = (self.wait_us * 2).min(WAIT_MAX_US),
            // One that had begun before it opened: says nothing new.
            BreakerState::Open => return,
        }
        self.state = BreakerState::Open;
        let asked_us = asked.map_or(0, |asked| asked.min(ASKED_MAX).as_micros() as i64);
        self.probe_at = now + self.wait_us.max(asked_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn it_opens_after_failures_in_a_row_probes_one_by_one_and_closes_at_the_first_success() {
        let mut breaker = Breaker::default();
        for _ in 0..OPENS_AFTER - 1 {
            breaker.away(0, None);
        }
        breaker.there();
        for _ in 0..OPENS_AFTER - 1 {
            breaker.away(0, None);
            assert_eq!((breaker.state(), breaker.next_at(7)), (BreakerState::Closed, Some(7)));
        }
        breaker.away(0, None);
        assert_eq!((breaker.state(), breaker.next_at(0)), (BreakerState::Open, Some(SECOND)));
        // Fifteen more were under way.
        breaker.away(SECOND / 2, None);
        assert_eq!(breaker.next_at(0), Some(SECOND));
        let mut now = SECOND;
        for wait_s in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            breaker.begin();
            assert_eq!((breaker.state(), breaker.next_at(now)), (BreakerState::HalfOpen, None));
            breaker.away(now, None);
            now += wait_s * SECOND;
            assert_eq!((breaker.state(), breaker.next_at(now)), (BreakerState::Open, Some(now)));
        }
        breaker.begin();
        breaker.there();
        assert_eq!((breaker.state(), breaker.next_at(now)), (BreakerState::Closed, Some(now)));
    }

    #[test]
    fn the_pause_that_the_other_side_asks_for_is_kept_up_to_an_hour() {
        for (asked_s, wait_s) in [(0, 1), (30, 30), (1_000_000, 3_600)] {
            let mut breaker = Breaker::default();
            (0..OPENS_AFTER).for_each(|_| breaker.away(0, Some(Duration::from_secs(asked_s))));
            assert_eq!(breaker.next_at(0), Some(wait_s * SECOND), "{asked_s}");
        }
    }
}
