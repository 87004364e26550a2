//! Times of an axis: where periods begin in a time zone, and how they are written.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use crate::analysis::Period;
use crate::event::TimeUs;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Hour,
    Day,
    Week,
    Month,
}

/// Distances of ticks: so many of a unit, and about how many hours that is.
const STEPS: [(Unit, u32, i64); 17] = [
    (Unit::Hour, 1, 1),
    (Unit::Hour, 3, 3),
    (Unit::Hour, 6, 6),
    (Unit::Hour, 12, 12),
    (Unit::Day, 1, 24),
    (Unit::Day, 2, 48),
    (Unit::Week, 1, 168),
    (Unit::Week, 2, 336),
    (Unit::Month, 1, 720),
    (Unit::Month, 2, 1_440),
    (Unit::Month, 3, 2_160),
    (Unit::Month, 6, 4_320),
    (Unit::Month, 12, 8_760),
    (Unit::Month, 24, 17_520),
    (Unit::Month, 60, 43_800),
    (Unit::Month, 120, 87_600),
    (Unit::Month, 1_200, 876_000),
];

const HOUR_US: i64 = 3_600_000_000;

fn local(time: TimeUs, zone: Tz) -> Option<NaiveDateTime> {
    Some(DateTime::<Utc>::from_timestamp_micros(time)?.with_timezone(&zone).naive_local())
}

fn instant(local: NaiveDateTime, zone: Tz) -> Option<TimeUs> {
    // An hour that the clock leaves out begins with the next.
    let found = zone.from_local_datetime(&local).earliest();
    let found = found.or_else(|| zone.from_local_datetime(&(local + TimeDelta::hours(1))).earliest());
    Some(found?.timestamp_micros())
}

/// The beginning of a day, counted from 1970-01-01.
pub fn midnight(day: i32, zone: Tz) -> Option<TimeUs> {
    let date = NaiveDate::default().checked_add_signed(TimeDelta::days(i64::from(day)))?;
    instant(date.into(), zone)
}

/// The beginnings of every `count`-th unit in a range, at round hours, dates and months.
fn starts(unit: Unit, count: u32, first: TimeUs, last: TimeUs, zone: Tz) -> Vec<TimeUs> {
    let mut out = Vec::new();
    let Some(begin) = local(first, zone) else { return out };
    if unit == Unit::Hour {
        let mut time = first - first.rem_euclid(HOUR_US);
        while time <= last {
            if time >= first && local(time, zone).is_some_and(|local| local.hour() % count == 0) {
                out.push(time);
            }
            time += HOUR_US;
        }
        return out;
    }
    let mut date = match unit {
        Unit::Month => begin.date().with_day(1).unwrap_or(begin.date()),
        _ => begin.date(),
    };
    let aligned = |date: NaiveDate| match unit {
        Unit::Month => (date.year() * 12 + date.month0() as i32).rem_euclid(count as i32) == 0,
        Unit::Week => date.weekday().num_days_from_monday() == 0 && (date.num_days_from_ce() / 7) % count as i32 == 0,
        _ => date.num_days_from_ce() % count as i32 == 0,
    };
    while let Some(time) = instant(date.into(), zone).filter(|time| *time <= last) {
        if time >= first && aligned(date) {
            out.push(time);
        }
        let next = match unit {
            Unit::Month => date.checked_add_months(Months::new(1)),
            _ => date.checked_add_days(Days::new(1)),
        };
        let Some(next) = next else { break };
        date = next;
    }
    out
}

/// Every beginning of a period from the first to the last.
pub fn periods(every: Period, first: TimeUs, last: TimeUs, zone: Tz) -> Vec<TimeUs> {
    starts(unit_of(every), 1, first, last, zone)
}

fn unit_of(every: Period) -> Unit {
    match every {
        Period::Hour => Unit::Hour,
        Period::Day => Unit::Day,
        Period::Week => Unit::Week,
        Period::Month => Unit::Month,
    }
}

/// Ticks with their labels, about `most` at the most, and not nearer than a period.
pub fn ticks(every: Option<Period>, first: TimeUs, last: TimeUs, zone: Tz, most: usize) -> Vec<(TimeUs, String)> {
    let hours = (last - first) / HOUR_US;
    let least = match every {
        None | Some(Period::Hour) => 0,
        Some(Period::Day) => 24,
        Some(Period::Week) => 168,
        Some(Period::Month) => 720,
    };
    for (unit, count, length) in STEPS {
        if length < least || hours / length > most as i64 {
            continue;
        }
        let times = starts(unit, count, first, last, zone);
        if times.len() > most {
            continue;
        }
        if times.len() < 2 {
            break;
        }
        let same_year = local(first, zone).map(|t| t.year()) == local(last, zone).map(|t| t.year());
        let label = |time: &TimeUs| {
            let pattern = match (unit, same_year) {
                (Unit::Hour, _) => "%b %-d %H:%M",
                (Unit::Day | Unit::Week, true) => "%b %-d",
                (Unit::Day | Unit::Week, false) => "%b %-d, %Y",
                (Unit::Month, _) if count % 12 == 0 => "%Y",
                (Unit::Month, _) => "%b %Y",
            };
            (*time, written(*time, zone, pattern))
        };
        return times.iter().map(label).collect();
    }
    // A few that no round time lies between: the ends.
    let mut ends = vec![first, last];
    ends.dedup();
    ends.into_iter().map(|time| (time, label(time, every, zone))).collect()
}

/// The beginning of a period, in full.
pub fn label(time: TimeUs, every: Option<Period>, zone: Tz) -> String {
    let pattern = match every {
        Some(Period::Month) => "%b %Y",
        Some(Period::Day | Period::Week) => "%Y-%m-%d",
        Some(Period::Hour) | None => "%Y-%m-%d %H:%M",
    };
    written(time, zone, pattern)
}

fn written(time: TimeUs, zone: Tz, pattern: &str) -> String {
    local(time, zone).map_or_else(String::new, |local| local.format(pattern).to_string())
}
