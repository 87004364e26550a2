//! Times as they are written in payloads.

use arrow::compute::kernels::cast_utils::string_to_datetime;
use chrono::Utc;

use crate::event::TimeUs;

/// RFC 3339 text to UTC microseconds; also with a space for the `T`, without a zone (UTC is meant) and a date alone.
pub fn parse_time(text: &str) -> Option<TimeUs> {
    string_to_datetime(&Utc, text.trim()).ok().map(|time| time.timestamp_micros())
}

/// Epoch milliseconds to microseconds; None beyond what 64 bits hold.
pub fn from_millis(millis: i64) -> Option<TimeUs> {
    millis.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_their_usual_forms() {
        let noon = Some(1_772_366_400_000_000);
        for (text, expect) in [
            ("2026-03-01T12:00:00Z", noon),
            ("2026-03-01T12:00:00.000Z", noon),
            ("2026-03-01T13:00:00+01:00", noon),
            ("2026-03-01 12:00:00", noon),
            ("2026-03-01T12:00:00", noon),
            ("2026-03-01", Some(1_772_323_200_000_000)),
            ("2026-02-30", None),
            ("yesterday", None),
            ("12:00", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), expect, "{text}");
        }
    }
}
