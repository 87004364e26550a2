//! The wall clock and waiting, in one place. The stages never use it: time enters with the input.
//!
//! On a thread where a [`simulated`] clock was started, both are that clock's.

pub mod simulated;

use std::time::Duration;

use crate::event::TimeUs;

/// Now, UTC microseconds.
#[expect(clippy::disallowed_methods, reason = "this is the owner of the wall clock")]
pub fn now_us() -> TimeUs {
    simulated::wall_us().unwrap_or_else(|| chrono::Utc::now().timestamp_micros())
}

/// A point for measuring durations.
#[expect(clippy::disallowed_methods, reason = "this is the owner of the clock for durations")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// Microseconds since some moment of this process: never goes back, whatever the wall clock does.
#[expect(clippy::disallowed_methods, reason = "this is the owner of the clock for durations")]
pub fn elapsed_us() -> i64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    match simulated::wall_us() {
        Some(_) => simulated::elapsed_us(),
        None => START.elapsed().as_micros() as i64,
    }
}

/// Waits; a jump of the wall clock does not shorten it.
pub async fn sleep(duration: Duration) {
    match simulated::sleep(duration) {
        Some(asleep) => asleep.await,
        None => tokio::time::sleep(duration).await,
    }
}
