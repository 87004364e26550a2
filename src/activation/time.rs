//! Times of day in a person's zone, and schedules. Pure functions of a moment: nothing reads a clock.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use crate::event::TimeUs;

/// A time of day on some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Minutes after midnight.
    pub minute: u16,
    /// Bit 0 is Monday.
    pub days: u8,
}

pub const EVERY_DAY: u8 = 0b0111_1111;

/// A part of each day, from one minute up to another, over midnight where the second is the lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    pub from_minute: u16,
    pub to_minute: u16,
}

/// Times as a cron expression has them, in a zone.
#[derive(Clone)]
pub struct Schedule {
    pub cron: croner::Cron,
    pub zone: Tz,
    /// As written.
    pub text: String,
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

impl Schedule {
    /// The first time after this one; None: there is none.
    pub fn next_after(&self, at: TimeUs) -> Option<TimeUs> {
        let local = DateTime::from_timestamp_micros(at)?.with_timezone(&self.zone);
        self.cron.find_next_occurrence(&local, false).ok().map(|next| next.timestamp_micros()).filter(|next| *next > at)
    }

    /// Whether this is one of its times.
    pub fn is_at(&self, at: TimeUs) -> bool {
        self.next_after(at - 1) == Some(at)
    }
}

impl LocalTime {
    /// The first such time that is not before this one. A time that a clock put forward leaves out is the moment after the gap;
    /// of one that comes twice it is the first.
    pub fn next_from(self, at: TimeUs, zone: Tz) -> TimeUs {
        let Some(local) = DateTime::from_timestamp_micros(at).map(|time| time.with_timezone(&zone)) else { return at };
        // The day before: of a zone whose clock was put back over midnight.
        let first = local.date_naive().checked_sub_days(Days::new(1)).unwrap_or(local.date_naive());
        let days = (0..16).filter_map(|day| first.checked_add_days(Days::new(day)));
        let wanted = days.filter(|date| self.days & (1 << date.weekday().num_days_from_monday()) != 0);
        wanted.map(|date| moment(date, self.minute, zone)).find(|next| *next >= at).unwrap_or(at)
    }
}

impl QuietHours {
    /// When they end that this moment falls into; None where it does not.
    pub fn end(self, at: TimeUs, zone: Tz) -> Option<TimeUs> {
        let local = DateTime::from_timestamp_micros(at)?.with_timezone(&zone);
        let minute = (local.hour() * 60 + local.minute()) as u16;
        let within = match self.from_minute <= self.to_minute {
            true => (self.from_minute..self.to_minute).contains(&minute),
            false => minute >= self.from_minute || minute < self.to_minute,
        };
        within.then(|| LocalTime { minute: self.to_minute, days: EVERY_DAY }.next_from(at, zone))
    }
}

/// A local time of day as a moment.
fn moment(date: NaiveDate, minute: u16, zone: Tz) -> TimeUs {
    let time = NaiveTime::from_num_seconds_from_midnight_opt(u32::from(minute) * 60, 0).unwrap_or_default();
    let local = date.and_time(time);
    // Gaps are at most a day (a zone that crosses the date line), and end at whole quarters of an hour.
    let shifts = (0..=96).map(|quarters| local + chrono::Duration::minutes(15 * quarters));
    let found = shifts.into_iter().find_map(|local| zone.from_local_datetime(&local).earliest());
    found.map_or_else(|| local.and_utc(), |time| time.with_timezone(&Utc)).timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> TimeUs {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    fn shown(at: TimeUs, zone: Tz) -> String {
        DateTime::from_timestamp_micros(at).unwrap().with_timezone(&zone).to_rfc3339()
    }

    #[test]
    fn a_local_time_is_the_next_one_of_a_wanted_day() {
        let weekdays = 0b0001_1111;
        let rows = [
            // zone, from, minute, days → the moment
            ("Europe/Berlin", "2026-11-26T07:00:00Z", 9 * 60, EVERY_DAY, "2026-11-26T09:00:00+01:00"),
            ("Europe/Berlin", "2026-11-26T08:00:00Z", 9 * 60, EVERY_DAY, "2026-11-26T09:00:00+01:00"),
            ("Europe/Berlin", "2026-11-26T08:00:01Z", 9 * 60, EVERY_DAY, "2026-11-27T09:00:00+01:00"),
            // Friday noon → Monday
            ("Europe/Berlin", "2026-11-27T11:00:00Z", 9 * 60, weekdays, "2026-11-30T09:00:00+01:00"),
            ("America/New_York", "2026-11-26T13:30:00Z", 9 * 60, EVERY_DAY, "2026-11-26T09:00:00-05:00"),
            // 02:30 is left out on 2026-03-29 in Berlin: 03:00 is the moment after the gap
            ("Europe/Berlin", "2026-03-28T23:30:00Z", 150, EVERY_DAY, "2026-03-29T03:00:00+02:00"),
            // 02:30 comes twice on 2026-10-25: the first
            ("Europe/Berlin", "2026-10-24T23:00:00Z", 150, EVERY_DAY, "2026-10-25T02:30:00+02:00"),
        ];
        for (zone, from, minute, days, expected) in rows {
            let zone: Tz = zone.parse().unwrap();
            let next = LocalTime { minute, days }.next_from(at(from), zone);
            assert_eq!(shown(next, zone), expected, "{from}");
        }
    }

    #[test]
    fn quiet_hours_end_in_the_zone_of_the_person() {
        let night = QuietHours { from_minute: 21 * 60, to_minute: 8 * 60 };
        let noon = QuietHours { from_minute: 12 * 60, to_minute: 13 * 60 };
        let rows = [
            (night, "UTC", "2026-11-26T20:59:59Z", None),
            (night, "UTC", "2026-11-26T21:00:00Z", Some("2026-11-27T08:00:00+00:00")),
            (night, "UTC", "2026-11-27T07:59:59Z", Some("2026-11-27T08:00:00+00:00")),
            (night, "UTC", "2026-11-27T08:00:00Z", None),
            (night, "Asia/Tokyo", "2026-11-26T13:00:00Z", Some("2026-11-27T08:00:00+09:00")),
            (noon, "UTC", "2026-11-26T12:30:00Z", Some("2026-11-26T13:00:00+00:00")),
            (noon, "UTC", "2026-11-26T22:30:00Z", None),
        ];
        for (hours, zone, from, expected) in rows {
            let zone: Tz = zone.parse().unwrap();
            let end = hours.end(at(from), zone).map(|end| shown(end, zone));
            assert_eq!(end.as_deref(), expected, "{from} in {zone}");
        }
    }
}
