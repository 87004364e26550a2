//! How fast and how long: the rate of requests, the waits between attempts, and what a `Retry-After` says.

use std::collections::VecDeque;
use std::time::Duration;

use super::Queued;
use crate::activation::RateLimit;
use crate::event::TimeUs;

/// No wait between two attempts is longer, whoever asks for it.
pub const WAIT_MAX: Duration = Duration::from_secs(6 * 3600);

/// When the latest requests began, of a clock that never goes back.
#[derive(Debug, Default)]
pub struct Pace {
    limit: Option<RateLimit>,
    begun: VecDeque<i64>,
}

impl Pace {
    pub fn new(limit: Option<RateLimit>) -> Pace {
        Pace { limit, begun: VecDeque::new() }
    }

    /// When the next request may begin; not after `now` means at once. So many as are allowed, and no more, begin in any time
    /// of the limit's length: a bucket that fills up would let twice as many through now and then.
    pub fn next_at(&self, now: i64) -> i64 {
        match (self.limit, self.begun.front()) {
            (Some(limit), Some(first)) if self.begun.len() >= limit.requests as usize => {
                first.saturating_add(limit.per.as_micros() as i64)
            }
            _ => now,
        }
    }

    pub fn begin(&mut self, now: i64) {
        let Some(limit) = self.limit else { return };
        if self.begun.len() >= limit.requests as usize {
            self.begun.pop_front();
        }
        self.begun.push_back(now);
    }
}

/// The longest that may be waited after so many attempts: it doubles from a second to six hours.
fn wait_max(attempts: u32) -> Duration {
    Duration::from_secs(1u64 << attempts.min(20)).min(WAIT_MAX)
}

/// After how many attempts a delivery is given up, so that they span about `retry_for`: a wait is half of its longest in the mean.
/// Attempts are counted and not time, so that a clock that is put forward and a breaker that is open give nothing up.
pub fn attempts_within(retry_for: Duration) -> u32 {
    let (mut attempts, mut spanned) = (1, Duration::ZERO);
    while spanned < retry_for && attempts < 10_000 {
        spanned += wait_max(attempts - 1) / 2;
        attempts += 1;
    }
    attempts
}

/// The wait after a failed attempt, with full jitter: anything up to the longest. It comes from the delivery's id and attempt,
/// so that a stampede spreads without any chance in it.
pub fn backoff(queued: &Queued) -> Duration {
    let spread = xxhash_rust::xxh3::xxh3_64_with_seed(queued.delivery.id.as_bytes(), u64::from(queued.attempts));
    wait_max(queued.attempts_in_round()).mul_f64(spread as f64 / u64::MAX as f64)
}

/// What a `Retry-After` asks for at `now`: seconds, or a date of HTTP. None where it is neither.
pub fn retry_after(value: &str, now: TimeUs) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(WAIT_MAX.as_secs())));
    }
    let fixed = value.strip_suffix(" GMT").unwrap_or(value);
    let date = ["%a, %d %b %Y %H:%M:%S", "%A, %d-%b-%y %H:%M:%S", "%a %b %e %H:%M:%S %Y"]
        .iter()
        .find_map(|format| chrono::NaiveDateTime::parse_from_str(fixed, format).ok())?;
    let ahead_us = date.and_utc().timestamp_micros().saturating_sub(now).max(0);
    Some(Duration::from_micros(ahead_us as u64).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_no_time_of_the_limits_length_begin_more_requests_than_it_allows() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let limit = RateLimit { requests: random.u32(1..6), per: Duration::from_micros(random.u64(1..50)) };
            let (mut pace, mut now, mut begun) = (Pace::new(Some(limit)), 0, Vec::new());
            for _ in 0..200 {
                now = pace.next_at(now).max(now) + if random.bool() { 0 } else { random.i64(0..20) };
                pace.begin(now);
                begun.push(now);
            }
            let per = limit.per.as_micros() as i64;
            for at in &begun {
                let count = begun.iter().filter(|other| (*at..at + per).contains(other)).count();
                assert!(count <= limit.requests as usize, "seed {seed}: {count} from {at} on, {limit:?}");
            }
        }
        let mut free = Pace::new(None);
        free.begin(5);
        assert_eq!(free.next_at(5), 5);
    }

    #[test]
    fn attempts_span_about_the_time_that_they_are_to() {
        let rows = [("1s", 3), ("1m", 8), ("1h", 14), ("1d", 23), ("3d", 39), ("30d", 255)];
        for (retry_for, attempts) in rows {
            assert_eq!(attempts_within(humantime::parse_duration(retry_for).unwrap()), attempts, "{retry_for}");
        }
        // What really is waited, over many deliveries.
        let mut spans: Vec<f64> = (0..400)
            .map(|n| {
                let mut queued = super::super::tests::queued(n, 0);
                let mut span = 0.0;
                while queued.attempts + 1 < 39 {
                    span += backoff(&queued).as_secs_f64() / 86_400.0;
                    queued.attempts += 1;
                }
                span
            })
            .collect();
        spans.sort_by(f64::total_cmp);
        assert!((2.7..3.3).contains(&spans[200]), "{} days in the middle", spans[200]);
        assert!(spans[0] > 1.5 && spans[399] < 4.5, "{} to {} days", spans[0], spans[399]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = 784_111_777 * 1_000_000; // Sun, 06 Nov 1994 08:49:37 GMT
        let rows = [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("99999999999", Some(6 * 3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Tue, 06 Nov 2035 08:00:00 GMT", Some(6 * 3600)),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("", None),
        ];
        for (value, seconds) in rows {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
