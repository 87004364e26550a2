//! ClickHouse's functions of time: the start of an hour, day, week, …, `toStartOfInterval`, `dateDiff`, `toDate`.
//!
//! In UTC unless a time zone is given last. Starts of a day or less are times of whole seconds, of a week or more dates, as
//! in the engine. A result is an instant: the engine shows it in the zone that was given, the lake in UTC.

use std::str::FromStr as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Date32Array, Int64Array, TimestampSecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{alias, seconds_type};
use crate::event;

pub fn functions() -> Vec<ScalarUDF> {
    let fixed = |name, count, unit| (name, Function::StartOf { count, unit });
    [
        fixed("toStartOfSecond", 1, Unit::Second),
        fixed("toStartOfMinute", 1, Unit::Minute),
        fixed("toStartOfFiveMinutes", 5, Unit::Minute),
        fixed("toStartOfTenMinutes", 10, Unit::Minute),
        fixed("toStartOfFifteenMinutes", 15, Unit::Minute),
        fixed("toStartOfHour", 1, Unit::Hour),
        fixed("toStartOfDay", 1, Unit::Day),
        fixed("toMonday", 1, Unit::Week),
        fixed("toStartOfMonth", 1, Unit::Month),
        fixed("toStartOfQuarter", 1, Unit::Quarter),
        fixed("toStartOfYear", 1, Unit::Year),
        ("toStartOfWeek", Function::StartOfWeek),
        ("toStartOfInterval", Function::StartOfInterval),
        ("toDate", Function::Date),
        ("dateDiff", Function::Difference),
    ]
    .into_iter()
    .map(|(name, function)| {
        let signature = Signature::variadic_any(Volatility::Immutable);
        ScalarUDF::from(TimeFunction { name, function, signature, aliases: alias(name) })
    })
    .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    fn of(text: &str) -> Option<Unit> {
        Some(match text.to_lowercase().trim_end_matches('s') {
            "microsecond" => Unit::Microsecond,
            "millisecond" => Unit::Millisecond,
            "second" => Unit::Second,
            "minute" => Unit::Minute,
            "hour" => Unit::Hour,
            "day" => Unit::Day,
            "week" => Unit::Week,
            "month" => Unit::Month,
            "quarter" => Unit::Quarter,
            "year" => Unit::Year,
            _ => return None,
        })
    }

    /// Whether its start is a date.
    fn is_date(self) -> bool {
        matches!(self, Unit::Week | Unit::Month | Unit::Quarter | Unit::Year)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Function {
    StartOf { count: i64, unit: Unit },
    StartOfWeek,
    StartOfInterval,
    Date,
    Difference,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeFunction {
    name: &'static str,
    function: Function,
    signature: Signature,
    aliases: Vec<String>,
}

/// What is computed of each time.
enum Work {
    Start { count: i64, unit: Unit, zone: Zone },
    Sunday(Zone),
    Date(Zone),
    Difference(Unit, Zone),
}

impl TimeFunction {
    /// From the constants among the arguments.
    fn work(&self, constants: &[Option<&ScalarValue>]) -> Result<Work> {
        let name = self.name;
        let zone = |index: usize| -> Result<Zone> {
            if constants.len() > index + 1 {
                return plan_err!("{name} takes no more than {} values", index + 1);
            }
            let Some(given) = constants.get(index) else { return Ok(Zone::new(Tz::UTC)) };
            match given.and_then(|zone| zone.try_as_str()).flatten().map(Tz::from_str) {
                Some(Ok(zone)) => Ok(Zone::new(zone)),
                _ => plan_err!("{name}: the time zone is a constant, as in 'Europe/Berlin'"),
            }
        };
        let unit = |index: usize| {
            let unit = constants.get(index).copied().flatten().and_then(|unit| unit.try_as_str()).flatten();
            match unit.map(Unit::of) {
                Some(Some(unit)) => Ok(unit),
                _ => plan_err!("{name}: there are the units second, minute, hour, day, week, month, quarter, year"),
            }
        };
        Ok(match self.function {
            Function::StartOf { count, unit } => Work::Start { count, unit, zone: zone(1)? },
            Function::Date => Work::Date(zone(1)?),
            Function::StartOfWeek => match constants.get(1) {
                None => Work::Sunday(zone(2)?),
                Some(Some(ScalarValue::Int64(Some(0)))) => Work::Sunday(zone(2)?),
                Some(Some(ScalarValue::Int64(Some(1)))) => Work::Start { count: 1, unit: Unit::Week, zone: zone(2)? },
                Some(_) => return plan_err!("toStartOfWeek: the mode is 0 for Sunday or 1 for Monday"),
            },
            Function::StartOfInterval => {
                let count = match constants.get(1).copied().flatten() {
                    Some(ScalarValue::Int64(Some(count @ 1..=1_000_000))) => *count,
                    _ => return plan_err!("toStartOfInterval takes a time and an interval, as in INTERVAL 1 DAY"),
                };
                let unit = unit(2)?;
                if matches!(unit, Unit::Microsecond | Unit::Millisecond) {
                    return plan_err!("toStartOfInterval: the smallest unit is the second");
                }
                Work::Start { count, unit, zone: zone(3)? }
            }
            Function::Difference => Work::Difference(unit(0)?, zone(3)?),
        })
    }

    fn type_of(&self, work: &Work) -> DataType {
        match work {
            Work::Start { unit, .. } if !unit.is_date() => seconds_type(),
            Work::Difference(..) => DataType::Int64,
            Work::Start { .. } | Work::Sunday(_) | Work::Date(_) => DataType::Date32,
        }
    }
}

impl ScalarUDFImpl for TimeFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("{} is typed by its constants", self.name)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let work = self.work(arguments.scalar_arguments)?;
        let times = match self.function {
            Function::Difference => arguments.arg_fields.get(1..3),
            _ => arguments.arg_fields.get(..1),
        };
        let Some(times) = times else { return plan_err!("{}: a time is missing", self.name) };
        for field in times {
            let data_type = field.data_type();
            let text = self.function == Function::Date && data_type.is_string();
            if !text && !matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Null) {
                return plan_err!("{} takes a time, not {data_type}", self.name);
            }
        }
        let nullable = times.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name, self.type_of(&work), nullable)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constants: Vec<Option<&ScalarValue>> = arguments
            .args
            .iter()
            .map(|value| match value {
                ColumnarValue::Scalar(scalar) => Some(scalar),
                ColumnarValue::Array(_) => None,
            })
            .collect();
        let work = self.work(&constants)?;
        let first = usize::from(self.function == Function::Difference);
        let count = first + 1;
        let columns = ColumnarValue::values_to_arrays(arguments.args.get(first..first + count).unwrap_or_default())?;
        let micros: Result<Vec<ArrayRef>> = columns.iter().map(micros).collect();
        let micros = micros?;
        let result = match (&work, micros.as_slice()) {
            (Work::Difference(unit, zone), [from, to]) => {
                let (from, to) = (from.as_primitive::<Int64Type>(), to.as_primitive::<Int64Type>());
                let difference = |(from, to): (Option<i64>, Option<i64>)| {
                    Some(zone.number(to?, *unit)?.saturating_sub(zone.number(from?, *unit)?))
                };
                Arc::new(from.iter().zip(to).map(difference).collect::<Int64Array>()) as ArrayRef
            }
            (work, [times]) => {
                let times = times.as_primitive::<Int64Type>();
                let dates = |date: &dyn Fn(i64) -> Option<i64>| {
                    let days = times.iter().map(|micros| i32::try_from(date(micros?)?).ok());
                    Arc::new(days.collect::<Date32Array>()) as ArrayRef
                };
                match work {
                    Work::Date(zone) => dates(&|micros| zone.day(micros)),
                    Work::Sunday(zone) => dates(&|micros| Some((zone.day(micros)? + 4).div_euclid(7) * 7 - 4)),
                    Work::Start { count, unit, zone } if unit.is_date() => {
                        dates(&|micros| start_day(zone.day(micros)?, *count, *unit))
                    }
                    Work::Start { count, unit, zone } => {
                        let starts =
                            times.iter().map(|micros| zone.start(micros?.div_euclid(SECOND_US), *count, *unit));
                        Arc::new(starts.collect::<TimestampSecondArray>().with_timezone("UTC")) as ArrayRef
                    }
                    Work::Difference(..) => return exec_err!("dateDiff takes two times"),
                }
            }
            _ => return exec_err!("{}: a time is missing", self.name),
        };
        if arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_))) && result.len() == 1 {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// Times as microseconds since 1970.
fn micros(times: &ArrayRef) -> Result<ArrayRef> {
    let times = match times.data_type() {
        // A text is a date, or a time whose date counts.
        data_type if data_type.is_string() => cast(times, &event::time_type())?,
        DataType::Date32 => cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))?,
        _ => cast(times, &event::time_type())?,
    };
    let times = times.as_primitive::<TimestampMicrosecondType>();
    Ok(Arc::new(times.reinterpret_cast::<Int64Type>()))
}

/// The first day of the interval of weeks, months or years that a day is in. Weeks begin on Mondays, months are counted
/// from 1900.
fn start_day(day: i64, count: i64, unit: Unit) -> Option<i64> {
    if unit == Unit::Week {
        // Day 4 was the first Monday.
        return Some((day - 4).div_euclid(7 * count) * 7 * count + 4);
    }
    let date = date_of(day)?;
    let months = i64::from(date.year() - 1900) * 12 + i64::from(date.month0());
    let start = match unit {
        Unit::Month => months.div_euclid(count) * count,
        Unit::Quarter => months.div_euclid(3 * count) * 3 * count,
        _ => (i64::from(date.year()).div_euclid(count) * count - 1900) * 12,
    };
    let (year, month) = (1900 + start.div_euclid(12), start.rem_euclid(12) + 1);
    Some(day_of(NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()?, 1)?))
}

fn date_of(day: i64) -> Option<NaiveDate> {
    NaiveDate::default().checked_add_signed(TimeDelta::try_days(day)?)
}

fn day_of(date: NaiveDate) -> i64 {
    date.signed_duration_since(NaiveDate::default()).num_days()
}

struct Zone {
    zone: Tz,
    /// Always so many whole hours from UTC.
    whole_hours: bool,
}

impl Zone {
    fn new(zone: Tz) -> Zone {
        let offsets = (1970..2040).flat_map(|year| [1, 7].map(|month| (year, month)));
        let whole_hours = offsets
            .filter_map(|(year, month)| NaiveDate::from_ymd_opt(year, month, 1))
            .all(|date| zone.offset_from_utc_date(&date).fix().local_minus_utc() % 3600 == 0);
        Zone { zone, whole_hours }
    }

    fn offset(&self, second: i64) -> Option<i64> {
        let time = DateTime::<Utc>::from_timestamp(second, 0)?;
        Some(i64::from(self.zone.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc()))
    }

    /// Days since 1970 on the zone's calendar.
    fn day(&self, micros: i64) -> Option<i64> {
        if self.zone == Tz::UTC {
            return Some(micros.div_euclid(DAY_US));
        }
        let second = micros.div_euclid(SECOND_US);
        Some((second + self.offset(second)?).div_euclid(86_400))
    }

    /// The second at which a day begins.
    fn midnight(&self, day: i64) -> Option<i64> {
        if self.zone == Tz::UTC {
            return Some(day * 86_400);
        }
        let date = date_of(day)?;
        // Where clocks are put forward at midnight, the day begins later.
        (0..24 * 4).find_map(|quarter| {
            let time = date.and_time(NaiveTime::MIN) + TimeDelta::try_minutes(15 * quarter)?;
            Some(self.zone.from_local_datetime(&time).earliest()?.timestamp())
        })
    }

    fn start(&self, second: i64, count: i64, unit: Unit) -> Option<i64> {
        let floor = |second: i64, of: i64| second.div_euclid(of) * of;
        let day = || self.day(second.checked_mul(SECOND_US)?);
        match unit {
            Unit::Second if count % 60 != 0 => Some(floor(second, count)),
            Unit::Second => self.start(second, count / 60, Unit::Minute),
            Unit::Minute => Some(floor(second, 60 * count)),
            Unit::Hour if self.whole_hours && count == 1 => Some(floor(second, 3600)),
            Unit::Hour if count == 1 => {
                let midnight = self.midnight(day()?)?;
                Some(midnight + floor(second - midnight, 3600))
            }
            Unit::Hour => self.start_of_hours(second, self.midnight(day()?)?, 3600 * count),
            _ => self.midnight(floor(day()?, count)),
        }
    }

    /// Hours are counted from midnight as the clock shows them, also after it was put forward or back.
    fn start_of_hours(&self, second: i64, midnight: i64, length: i64) -> Option<i64> {
        let before = self.offset(midnight)?;
        let shift = self.offset(second)? - before;
        let time = second - midnight;
        if shift == 0 {
            return Some(midnight + time / length * length);
        }
        // The second of the change, between the two.
        let (mut low, mut high) = (midnight, second);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.offset(middle)? == before { low = middle } else { high = middle }
        }
        let change = high - midnight;
        let mut start = (time + shift) / length * length;
        if start >= change {
            start = (start - shift).max(change);
        }
        Some(midnight + start)
    }

    /// The number of the second, hour, day, … that a time is in, of which a difference is taken.
    fn number(&self, micros: i64, unit: Unit) -> Option<i64> {
        let second = micros.div_euclid(SECOND_US);
        let months = || {
            let date = date_of(self.day(micros)?)?;
            Some(i64::from(date.year()) * 12 + i64::from(date.month0()))
        };
        match unit {
            Unit::Microsecond => Some(micros),
            Unit::Millisecond => Some(micros.div_euclid(1000)),
            Unit::Second => Some(second),
            Unit::Minute => Some(second.div_euclid(60)),
            Unit::Hour if self.whole_hours => Some(second.div_euclid(3600)),
            Unit::Hour => Some((second + self.offset(second)?).div_euclid(3600)),
            Unit::Day => self.day(micros),
            // Day 4 was the first Monday.
            Unit::Week => Some((self.day(micros)? - 4).div_euclid(7)),
            Unit::Month => months(),
            Unit::Quarter => Some(months()?.div_euclid(3)),
            Unit::Year => Some(months()?.div_euclid(12)),
        }
    }
}
