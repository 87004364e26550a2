//! What parts sessions from each other.

use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveTime, TimeZone};
use chrono_tz::Tz;

use crate::event::TimeUs;

/// As web analytics have it.
pub const GAP: Duration = Duration::from_secs(30 * 60);

/// Every session of so long is kept in the state of its profile, for the late event that joins it.
pub const LATENESS: Duration = Duration::from_secs(24 * 60 * 60);

/// A checked `sessions` section.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionsPlan {
    /// Changes when the meaning changes: a hash of the definition. State of another version says nothing to this plan.
    pub version: u64,
    /// Events that are exactly this far apart stay together.
    pub gap_us: TimeUs,
    /// An event that is further behind the latest of its profile is in no session.
    pub lateness_us: TimeUs,
    pub split_on_campaign: bool,
    /// The zone whose midnight ends a session.
    pub split_on_midnight: Option<Tz>,
    /// Names or types of the events that make sessions; all events where None.
    pub events: Option<Vec<String>>,
}

impl SessionsPlan {
    /// Whether an event of this type and name belongs to sessions at all.
    pub fn takes(&self, event_type: &str, event: Option<&str>) -> bool {
        let Some(wanted) = &self.events else { return true };
        wanted.iter().any(|name| name == event_type || Some(name.as_str()) == event)
    }

    /// Whether a pause or midnight lies between two moments, the earlier one first.
    pub(super) fn apart(&self, earlier: TimeUs, later: TimeUs) -> bool {
        later.saturating_sub(earlier) > self.gap_us
            || self.split_on_midnight.is_some_and(|zone| day(zone, earlier) != day(zone, later))
    }
}

/// The local day, as a number that never falls with time: a day begins when its date is first reached, also where the clock
/// is put back over midnight afterwards. Otherwise events between two others could part what they bridge.
fn day(zone: Tz, at: TimeUs) -> i64 {
    const DAY_US: TimeUs = 24 * 60 * 60 * 1_000_000;
    if zone == Tz::UTC {
        return at.div_euclid(DAY_US);
    }
    // Times beyond what a calendar can express do not pass the envelope.
    let moment = DateTime::from_timestamp_micros(at).unwrap_or_default();
    let mut date = zone.from_utc_datetime(&moment.naive_utc()).date_naive();
    while let Some(next) = date.succ_opt() {
        match zone.from_local_datetime(&next.and_time(NaiveTime::MIN)).earliest() {
            Some(begin) if begin <= moment => date = next,
            _ => break,
        }
    }
    i64::from(date.num_days_from_ce())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zone, two moments in UTC, whether midnight lies between them.
    #[test]
    fn midnight_is_that_of_the_zone() {
        let rows = [
            (Tz::UTC, "2026-03-01T23:59:59.999999Z", "2026-03-02T00:00:00Z", true),
            (Tz::UTC, "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z", true),
            (Tz::UTC, "2024-02-29T00:00:00Z", "2024-02-29T23:59:59Z", false),
            (Tz::Europe__Berlin, "2026-01-01T22:59:59Z", "2026-01-01T23:00:00Z", true),
            (Tz::Europe__Berlin, "2026-01-01T23:30:00Z", "2026-01-02T00:30:00Z", false),
            // Summer time begins and ends: the days have 23 and 25 hours.
            (Tz::Europe__Berlin, "2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", false),
            (Tz::Europe__Berlin, "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z", true),
            (Tz::Europe__Berlin, "2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", false),
            (Tz::Europe__Berlin, "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z", true),
            (Tz::Asia__Kathmandu, "2026-01-01T18:14:59Z", "2026-01-01T18:15:00Z", true),
            // The day begins at one o'clock: midnight is left out.
            (Tz::America__Santiago, "2026-09-06T03:59:59Z", "2026-09-06T04:00:00Z", true),
            // At 00:01 the clock was put back to 23:01: the new day began once, at the first midnight.
            (Tz::America__St_Johns, "2010-11-07T02:29:59Z", "2010-11-07T02:30:00Z", true),
            (Tz::America__St_Johns, "2010-11-07T02:30:30Z", "2010-11-07T02:31:00Z", false),
            (Tz::America__St_Johns, "2010-11-07T02:31:00Z", "2010-11-07T03:30:00Z", false),
        ];
        let us = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
        for (zone, earlier, later, parted) in rows {
            let parts = day(zone, us(earlier)) != day(zone, us(later));
            assert_eq!(parts, parted, "{zone}: {earlier} and {later}");
        }
    }

    #[test]
    fn days_never_fall() {
        let around = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
        for (zone, text) in [
            (Tz::America__St_Johns, "2010-11-07T02:30:00Z"),
            (Tz::Asia__Beirut, "2021-10-30T21:00:00Z"),
            (Tz::Pacific__Apia, "2011-12-30T10:00:00Z"),
            (Tz::Pacific__Kwajalein, "1969-09-30T13:00:00Z"),
        ] {
            let days: Vec<i64> = (-3000..3000).map(|minute| day(zone, around(text) + minute * 60_000_000)).collect();
            assert!(days.is_sorted(), "{zone} around {text}");
        }
    }
}
