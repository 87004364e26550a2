//! The wall clock, in one place. The stages never use it: time enters with the input.

use crate::event::TimeUs;

/// Now, UTC microseconds.
#[expect(clippy::disallowed_methods, reason = "this is the owner of the wall clock")]
pub fn now_us() -> TimeUs {
    chrono::Utc::now().timestamp_micros()
}

/// A point for measuring durations.
#[expect(clippy::disallowed_methods, reason = "this is the owner of the clock for durations")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}
