//! When the result of comparing a time with `now()` changes though nothing happens.

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{DateTime, Days, Months, TimeDelta};

const DAY_US: i64 = 86_400_000_000;
/// Ten thousand years of each unit: so an offset never leads out of what can be computed.
const MOST_MONTHS: i32 = 120_000;
const MOST_DAYS: i32 = 3_652_500;

/// `column op now() + offset`, somewhere in an expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TimeComparison {
    /// The trait's column, as in [`Resolved::column`](super::Resolved::column): UTC microseconds.
    pub column: String,
    pub op: TimeOperator,
    pub offset: CalendarOffset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeOperator {
    Lt,
    LtEq,
    Gt,
    GtEq,
}

/// Months are added first (to the same day of the month, or the last one it has), then days, then microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CalendarOffset {
    pub months: i32,
    pub days: i32,
    pub microseconds: i64,
}

impl CalendarOffset {
    /// None where the interval has parts of a microsecond or is longer than ten thousand years.
    pub(super) fn of(interval: IntervalMonthDayNano) -> Option<CalendarOffset> {
        let IntervalMonthDayNano { months, days, nanoseconds } = interval;
        let is_possible = months.unsigned_abs() <= MOST_MONTHS.unsigned_abs()
            && days.unsigned_abs() <= MOST_DAYS.unsigned_abs()
            && nanoseconds % 1_000 == 0;
        is_possible.then_some(CalendarOffset { months, days, microseconds: nanoseconds / 1_000 })
    }

    pub(super) fn negated(self) -> CalendarOffset {
        // `of` keeps all three far from the least integer.
        CalendarOffset { months: -self.months, days: -self.days, microseconds: -self.microseconds }
    }

    /// `time_us` + this offset, as the evaluated expression adds it. None outside of what a calendar can hold.
    pub fn after(self, time_us: i64) -> Option<i64> {
        let days = u64::from(self.days.unsigned_abs());
        let time = DateTime::from_timestamp_micros(add_months(time_us, self.months)?)?;
        let time = match self.days {
            0.. => time.checked_add_days(Days::new(days))?,
            _ => time.checked_sub_days(Days::new(days))?,
        };
        Some(time.checked_add_signed(TimeDelta::microseconds(self.microseconds))?.timestamp_micros())
    }
}

impl TimeComparison {
    /// The result for one value; None: cannot be computed (a `now` some 260,000 years away).
    pub fn holds(&self, value_us: i64, now_us: i64) -> Option<bool> {
        let bound = self.offset.after(now_us)?;
        Some(match self.op {
            TimeOperator::Lt => value_us < bound,
            TimeOperator::LtEq => value_us <= bound,
            TimeOperator::Gt => value_us > bound,
            TimeOperator::GtEq => value_us >= bound,
        })
    }

    /// The least time later than `now_us` at which the result changes for this value; None: never.
    ///
    /// Months make it change more than once: `now() - INTERVAL '1 month'` is February 28th, 23:00 on March 30th, 23:00
    /// and February 28th, 0:00 an hour later. So days are looked through one by one; within one, the bound runs with
    /// the time.
    pub fn flip(&self, value_us: i64, now_us: i64) -> Option<i64> {
        let holds = self.holds(value_us, now_us)?;
        // The least bound at which the result is another than at lesser bounds.
        let threshold_us = match self.op {
            TimeOperator::Lt | TimeOperator::GtEq => value_us.checked_add(1)?,
            TimeOperator::LtEq | TimeOperator::Gt => value_us,
        };
        let days_us = i64::from(self.offset.days).checked_mul(DAY_US)?;
        let unshifted_us = threshold_us.checked_sub(self.offset.microseconds)?.checked_sub(days_us)?;
        let about_us = add_months(unshifted_us, self.offset.months.checked_neg()?)?;
        // Taking months away and adding them again loses up to three days, and a clamped bound stands still for as many.
        let from_us = start_of_day(about_us).checked_sub(5 * DAY_US)?;
        let end_us = start_of_day(about_us).checked_add(9 * DAY_US)?;

        let mut start_us = now_us.checked_add(1)?.max(from_us);
        while start_us < end_us {
            if self.holds(value_us, start_us)? != holds {
                return Some(start_us);
            }
            let last_us = start_of_day(start_us) + (DAY_US - 1);
            if self.holds(value_us, last_us)? != holds {
                return start_us.checked_add(threshold_us - self.offset.after(start_us)?);
            }
            start_us = last_us + 1;
        }
        None
    }
}

fn start_of_day(time_us: i64) -> i64 {
    time_us.saturating_sub(time_us.rem_euclid(DAY_US))
}

fn add_months(time_us: i64, months: i32) -> Option<i64> {
    let time = DateTime::from_timestamp_micros(time_us)?;
    let count = Months::new(months.unsigned_abs());
    let time = if months < 0 { time.checked_sub_months(count) } else { time.checked_add_months(count) };
    Some(time?.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::super::{ColumnScope, Expression, NOW_COLUMN};
    use super::*;

    fn us(text: &str) -> i64 {
        text.parse::<DateTime<chrono::Utc>>().unwrap_or_else(|error| panic!("{text}: {error}")).timestamp_micros()
    }

    fn compiled(sql: &str) -> Expression {
        let mut scope = ColumnScope::new().with_now();
        scope.add_column("t", super::super::kinds::timestamp_type());
        Expression::compile_predicate(sql, &scope).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// What the stream makes of the expression for one value at several times.
    fn results(expression: &Expression, value_us: i64, nows_us: &[i64]) -> Vec<bool> {
        let column = |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as _;
        let batch = RecordBatch::try_from_iter([
            ("t", column(vec![value_us; nows_us.len()])),
            (NOW_COLUMN, column(nows_us.to_vec())),
        ]);
        let batch = batch.unwrap();
        let values = expression.bind(&batch.schema()).unwrap().evaluate(&batch).unwrap();
        assert_eq!(values.null_count(), 0);
        values.as_boolean().values().iter().collect()
    }

    #[test]
    fn section_1_a_flip_is_the_first_microsecond_with_another_result() {
        #[rustfmt::skip]
        let rows = [
            // comparison, value, now, flip
            ("t < now() - INTERVAL '7 days'", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", Some("2026-01-08T00:00:00.000001Z")),
            ("t <= now() - INTERVAL '7 days'", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", Some("2026-01-08T00:00:00Z")),
            ("t > now() - INTERVAL '7 days'", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", Some("2026-01-08T00:00:00Z")),
            ("t >= now() - INTERVAL '7 days'", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", Some("2026-01-08T00:00:00.000001Z")),
            // the other way round
            ("now() - INTERVAL '7 days' > t", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", Some("2026-01-08T00:00:00.000001Z")),
            ("now() <= t", "2026-01-01T00:00:00Z", "2025-01-02T00:00:00Z", Some("2026-01-01T00:00:00.000001Z")),
            // at the edge, and just before and behind it
            ("t < now()", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", Some("2026-01-01T00:00:00.000001Z")),
            ("t < now()", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59.999999Z", Some("2026-01-01T00:00:00.000001Z")),
            ("t < now()", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000001Z", None),
            ("t <= now()", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", None),
            ("t <= now()", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59.999999Z", Some("2026-01-01T00:00:00Z")),
            // forwards, and parts of a day
            ("t < now() + INTERVAL '2 hours'", "2026-01-01T00:00:00Z", "2025-06-01T00:00:00Z", Some("2025-12-31T22:00:00.000001Z")),
            ("t < INTERVAL '2 hours' + now()", "2026-01-01T00:00:00Z", "2025-06-01T00:00:00Z", Some("2025-12-31T22:00:00.000001Z")),
            ("t <= now() - INTERVAL '90 seconds'", "2026-01-01T00:00:00Z", "2025-06-01T00:00:00Z", Some("2026-01-01T00:01:30Z")),
            ("t <= now() - INTERVAL '1 microsecond'", "2026-01-01T00:00:00Z", "2025-06-01T00:00:00Z", Some("2026-01-01T00:00:00.000001Z")),
            // long ago and far away
            ("t < now() - INTERVAL '7 days'", "1970-01-01T00:00:00Z", "2026-01-02T00:00:00Z", None),
            ("t < now() - INTERVAL '7 days'", "9999-12-31T00:00:00Z", "2026-01-02T00:00:00Z", Some("+10000-01-07T00:00:00.000001Z")),
            ("t < now() - INTERVAL '1 day'", "1960-02-28T12:00:00Z", "1950-01-02T00:00:00Z", Some("1960-02-29T12:00:00.000001Z")),
            // leap days
            ("t <= now() - INTERVAL '1 day'", "2024-02-28T12:00:00Z", "2024-01-01T00:00:00Z", Some("2024-02-29T12:00:00Z")),
            ("t <= now() - INTERVAL '1 year'", "2024-02-29T12:00:00Z", "2024-03-01T00:00:00Z", Some("2025-03-01T00:00:00Z")),
            ("t <= now() - INTERVAL '4 years'", "2024-02-29T12:00:00Z", "2024-03-01T00:00:00Z", Some("2028-02-29T12:00:00Z")),
            ("t <= now() + INTERVAL '1 year'", "2025-02-28T12:00:00Z", "2023-03-01T00:00:00Z", Some("2024-02-28T12:00:00Z")),
            // ends of months: a month before the 29th, 30th and 31st of March is the 28th of February, at the same hour
            ("t <= now() - INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-03-01T00:00:00Z", Some("2026-03-28T06:00:00Z")),
            ("t <= now() - INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-03-28T06:00:00Z", Some("2026-03-29T00:00:00Z")),
            ("t <= now() - INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-03-29T00:00:00Z", Some("2026-03-29T06:00:00Z")),
            ("t <= now() - INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-03-30T12:00:00Z", Some("2026-03-31T00:00:00Z")),
            ("t <= now() - INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-03-31T05:00:00Z", Some("2026-03-31T06:00:00Z")),
            ("t <= now() - INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-03-31T06:00:00Z", None),
            ("t <= now() - INTERVAL '1 month'", "2026-02-28T00:00:00Z", "2026-03-28T00:00:00Z", None),
            ("t <= now() - INTERVAL '1 month'", "2026-01-31T06:00:00Z", "2026-02-28T23:00:00Z", Some("2026-03-01T00:00:00Z")),
            ("t <= now() + INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-01-01T00:00:00Z", Some("2026-01-28T06:00:00Z")),
            ("t <= now() + INTERVAL '1 month'", "2026-02-28T06:00:00Z", "2026-01-31T05:00:00Z", Some("2026-01-31T06:00:00Z")),
            ("t <= now() - INTERVAL '1 month 1 day'", "2026-02-27T06:00:00Z", "2026-03-28T06:00:00Z", Some("2026-03-29T00:00:00Z")),
        ];
        let wrong = rows.into_iter().filter_map(|(sql, value, now, expected)| {
            let expression = compiled(sql);
            let (value_us, now_us) = (us(value), us(now));
            let flip = expression.times[0].flip(value_us, now_us);
            if let Some(flip) = flip {
                let around = results(&expression, value_us, &[now_us, flip - 1, flip]);
                assert!(around[0] == around[1] && around[1] != around[2], "{sql}, {value}, {now}: {around:?}");
            }
            (flip != expected.map(us))
                .then(|| format!("{sql}, {value}, {now}: {:?}", flip.and_then(DateTime::from_timestamp_micros)))
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn extreme_times_have_no_flip_and_no_panic() {
        let extremes = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
        for sql in
            ["t < now()", "t >= now() - INTERVAL '10000 years'", "t <= now() + INTERVAL '120000 months 3652500 days'"]
        {
            let comparison = compiled(sql).times.remove(0);
            for value in extremes {
                for now in extremes {
                    let flip = comparison.flip(value, now);
                    assert!(flip.is_none_or(|flip| flip > now), "{sql}, {value}, {now}: {flip:?}");
                }
            }
        }
    }

    const HOUR_US: i64 = 3_600_000_000;

    /// Times near the ends of months, where days are added or missing, and any others.
    fn time() -> impl Strategy<Value = i64> {
        let near_end = (1999_i32..2030, 1_u32..13, -4_i64..4, -30_i64..30, -2_i64..3);
        let near_end = near_end.prop_map(|(year, month, days, hours, us)| {
            let first = chrono::NaiveDate::from_ymd_opt(year, month, 1).unwrap();
            first.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros() + days * DAY_US + hours * HOUR_US + us
        });
        prop_oneof![3 => near_end, 1 => -1_000_000_000_000_000_i64..4_000_000_000_000_000]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..Default::default() })]

        /// The oracle is the evaluated expression itself.
        #[test]
        fn section_1_nothing_changes_before_a_flip_and_something_does_at_it(
            value_us in time(),
            near in prop_oneof![1 => Just(None), 4 => (-100_i64..100, -1_i64..2).prop_map(Some)],
            other_us in time(),
            op in prop::sample::select(&["<", "<=", ">", ">="][..]),
            sign in prop::sample::select(&["+", "-"][..]),
            (months, days, seconds) in (prop_oneof![Just(0), -30..30], prop_oneof![Just(0), -60..60], prop_oneof![Just(0), -200_000..200_000]),
            samples in prop::collection::vec(0.0_f64..1.0, 12),
        ) {
            let sql = format!("t {op} now() {sign} INTERVAL '{months} months {days} days {seconds} seconds'");
            let expression = compiled(&sql);
            let comparison = &expression.times[0];
            // Either any two times, or a `now` around the edge.
            let now_us = match near {
                Some((hours, us)) => {
                    let back = CalendarOffset { microseconds: hours * HOUR_US + us, ..comparison.offset.negated() };
                    back.after(value_us).unwrap()
                }
                None => other_us,
            };
            let flip = comparison.flip(value_us, now_us);
            // After a flip that never comes, nothing changes: looked for where something could.
            let far_us = now_us.max(comparison.offset.negated().after(value_us).unwrap()) + 40 * DAY_US;
            let end_us = flip.map_or(far_us, |flip| flip - 1);
            prop_assert!(end_us >= now_us);
            let mut nows: Vec<i64> =
                samples.iter().map(|part| now_us + ((end_us - now_us) as f64 * part) as i64).collect();
            // Every midnight of the last weeks, where months make bounds leap.
            let midnights = (0..80).map(|days| start_of_day(end_us) - days * DAY_US);
            nows.extend(midnights.flat_map(|midnight| [midnight - 1, midnight, midnight + 1]).filter(|at| (now_us..=end_us).contains(at)));
            nows.extend([now_us, (now_us + 1).min(end_us), (end_us - 1).max(now_us), end_us]);
            let before = results(&expression, value_us, &nows);
            let first = results(&expression, value_us, &[now_us])[0];
            for (at, result) in nows.iter().zip(before) {
                prop_assert_eq!(result, first, "{}: value {}, now {}, flip {:?}, but another result at {}", sql, value_us, now_us, flip, at);
                prop_assert_eq!(comparison.holds(value_us, *at), Some(first));
            }
            if let Some(flip) = flip {
                prop_assert_ne!(results(&expression, value_us, &[flip])[0], first, "{}: nothing at the flip {}", sql, flip);
            }
        }
    }
}
