//! Alerts: whether a sum or count of an aggregate is, period by period, what its own past lets one expect.
//!
//! Each group of the aggregate (its keys but for the time) is a series. Partial rows are added up in the periods they fall in; when
//! a period is over it is compared with those at the same place of earlier seasons: with their median, in deviations that are
//! 1.4826 times the median of how far each of the past lay from the median of its like (so one deviation of a normal distribution). Medians are not
//! moved by what was odd before. Sums are kept as integers until then, so they do not depend on how the events were batched.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, TimestampMicrosecondType};
use serde::{Deserialize, Serialize};

use super::plan::SCALE;
use super::{AggregatePlan, AggregateRole};
use crate::event::TimeUs;

/// Groups of an alert beyond so many are not watched.
pub const GROUPS_MAX: usize = 1_000;
/// Seasons of the past that a period is compared with.
pub const SEASONS: usize = 8;
/// Seasons that have to be there before anything is judged.
const SEASONS_LEAST: usize = 3;
/// And periods.
const PERIODS_LEAST: usize = 12;
/// As many periods are kept where the seasons are shorter.
const PERIODS_KEPT: usize = 100;
/// 1 / Φ⁻¹(3/4): a normal distribution's standard deviation by its median deviation.
const DEVIATION_OF_MEDIAN: f64 = 1.4826;

#[derive(Debug, Clone, PartialEq)]
pub struct AlertPlan {
    pub name: String,
    /// The aggregate, and of its columns the time, the sum or count, and the other keys.
    pub aggregate: String,
    pub time: usize,
    pub value: usize,
    pub value_name: String,
    pub groups: Vec<(String, usize)>,
    pub is_count: bool,
    pub period_us: TimeUs,
    /// Periods until the series repeats itself; 1: never.
    pub season: usize,
    /// So many deviations are odd.
    pub threshold: f64,
    /// A period is judged so long after its end.
    pub wait_us: TimeUs,
}

/// What there is of a series. Periods are numbered from 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Sums by period, of those that are not over.
    open: BTreeMap<i64, i128>,
    /// The first period that is not over; None until something has come.
    next: Option<i64>,
    /// Since when it has been odd, and which way.
    odd: Option<bool>,
}

/// The periods that are over, the latest last: [`SEASONS`] seasons, or [`PERIODS_KEPT`] where that is more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Past {
    pub values: Vec<f64>,
}

/// A period that is odd, where the one before was not, or the other way.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    pub starts_at: TimeUs,
    pub ends_at: TimeUs,
    pub value: f64,
    pub expected: f64,
    /// In deviations.
    pub score: f64,
}

impl AlertPlan {
    /// What partial rows of the aggregate say, in order: the keys of a group as JSON, the period, and by how much its value grows.
    pub fn read(&self, rows: &RecordBatch) -> Vec<(String, i64, i128)> {
        let times = rows.column(self.time).as_primitive::<TimestampMicrosecondType>();
        let mut read: Vec<(String, i64, i128)> = (0..rows.num_rows())
            .filter(|row| times.is_valid(*row))
            .map(|row| {
                let keys = self.groups.iter().map(|(name, column)| (name.clone(), json(rows.column(*column), row)));
                let group = serde_json::Value::Object(keys.collect()).to_string();
                (group, times.value(row).div_euclid(self.period_us), integer(rows.column(self.value), row))
            })
            .collect();
        read.sort_unstable();
        read
    }

    fn value(&self, sum: i128) -> f64 {
        if self.is_count { sum as f64 } else { sum as f64 / 10f64.powi(i32::from(SCALE)) }
    }

    /// Adds to a period; false where it is over. The first that comes begins the series, or one before it that is not over at
    /// `now`: what begins in the future does not wait until then.
    pub fn add(&self, series: &mut Series, period: i64, sum: i128, now: TimeUs) -> bool {
        let next = series.next.get_or_insert(period);
        if !self.is_over(period, now) {
            *next = period.min(*next);
        }
        let is_open = period >= *next;
        if is_open {
            let open = series.open.entry(period).or_default();
            *open = open.saturating_add(sum);
        }
        is_open
    }

    /// Nothing has come for so long that nothing is known any more.
    pub fn is_forgotten(&self, series: &Series, past: &Past) -> bool {
        let whole = past.values.len() >= self.kept();
        whole && series.open.is_empty() && past.values.iter().all(|value| *value == 0.0)
    }

    fn kept(&self) -> usize {
        (self.season * SEASONS).max(PERIODS_KEPT)
    }

    /// Whether a period of it is over at `now`.
    pub fn is_due(&self, series: &Series, now: TimeUs) -> bool {
        series.next.is_some_and(|next| self.is_over(next, now))
    }

    fn is_over(&self, period: i64, now: TimeUs) -> bool {
        self.end_of(period).saturating_add(self.wait_us) <= now
    }

    fn end_of(&self, period: i64) -> TimeUs {
        (period + 1).saturating_mul(self.period_us)
    }

    /// Judges what is over at `now`; periods without rows are zeros.
    pub fn judge(&self, series: &mut Series, past: &mut Past, now: TimeUs) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let kept = self.kept();
        // After years of silence only the last seasons say anything.
        let over = now.saturating_sub(self.wait_us).div_euclid(self.period_us);
        if let Some(next) = series.next.as_mut().filter(|next| over - **next > 2 * kept as i64) {
            *next = over - 2 * kept as i64;
            series.open = series.open.split_off(next);
        }
        while let Some(next) = series.next.filter(|_| self.is_due(series, now)) {
            let value = self.value(series.open.remove(&next).unwrap_or_default());
            let score = self.score(&past.values, value);
            let odd = score.filter(|(_, score)| score.abs() >= self.threshold).map(|(_, score)| score > 0.0);
            if let (Some((expected, score)), Some(_)) = (score, odd.filter(|_| odd != series.odd)) {
                let (starts_at, ends_at) = (next.saturating_mul(self.period_us), self.end_of(next));
                alerts.push(Alert { starts_at, ends_at, value, expected, score });
            }
            series.odd = odd;
            past.values.push(value);
            if past.values.len() > kept {
                past.values.remove(0);
            }
            series.next = Some(next + 1);
        }
        alerts
    }

    /// What was to be expected after these values, and by how many deviations `value` is away; None while there are too few.
    fn score(&self, past: &[f64], value: f64) -> Option<(f64, f64)> {
        if past.len() < (SEASONS_LEAST * self.season).max(PERIODS_LEAST) {
            return None;
        }
        // The place in the season, counted back from the end: that of `value` is the first.
        let mut places: Vec<Vec<f64>> = vec![Vec::new(); self.season];
        for (back, value) in past.iter().rev().enumerate() {
            places[(back + 1) % self.season].push(*value);
        }
        // Each against the others at its place: the median of three is one of them, and lies no way from itself.
        let residuals = places.iter().flat_map(|values| {
            (0..values.len()).map(|place| {
                let others = values.iter().enumerate().filter(|(other, _)| *other != place);
                (values[place] - median(others.map(|(_, value)| *value).collect())).abs()
            })
        });
        let expected = median(places[0].clone());
        // A past without any deviation must not make the smallest one odd: a count deviates by its square root at least.
        let least =
            if self.is_count { expected.max(1.0).sqrt() } else { (expected.abs() * 0.01).max(f64::MIN_POSITIVE) };
        let deviation = (DEVIATION_OF_MEDIAN * median(residuals.collect())).max(least);
        Some((expected, (value - expected) / deviation))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => (values[(count - 1) / 2] + values[count / 2]) / 2.0,
    }
}

fn integer(column: &ArrayRef, row: usize) -> i128 {
    match column.data_type() {
        _ if column.is_null(row) => 0,
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value(row),
        DataType::Int64 => i128::from(column.as_primitive::<Int64Type>().value(row)),
        _ => 0,
    }
}

fn json(column: &ArrayRef, row: usize) -> serde_json::Value {
    match column.data_type() {
        _ if column.is_null(row) => serde_json::Value::Null,
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        _ => serde_json::Value::Null,
    }
}

/// Why an alert over these columns of an aggregate cannot be.
#[derive(Debug, Clone, PartialEq)]
pub enum Unwatchable {
    /// It has no key that is a time, or several.
    Times(usize),
    /// There is no such sum or count.
    Value(Vec<String>),
}

impl AggregatePlan {
    /// The places of the time, of the value and of the other keys, and whether the value counts whole things.
    ///
    /// # Errors
    /// [`Unwatchable`]; with the names there are.
    pub fn watched(&self, value: &str) -> Result<(usize, usize, Vec<(String, usize)>, bool), Unwatchable> {
        let keys = || self.columns.iter().enumerate().filter(|(_, column)| column.role == AggregateRole::Key);
        let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..));
        let times: Vec<usize> = keys().filter(|(_, key)| is_time(&key.data_type)).map(|(place, _)| place).collect();
        let [time] = times[..] else { return Err(Unwatchable::Times(times.len())) };
        let adds = |role| matches!(role, AggregateRole::Sum | AggregateRole::Count);
        let Some(place) = self.columns.iter().position(|column| column.name == value && adds(column.role)) else {
            let names = self.columns.iter().filter(|column| adds(column.role)).map(|column| column.name.clone());
            return Err(Unwatchable::Value(names.collect()));
        };
        let others = keys().filter(|(place, _)| *place != time).map(|(place, key)| (key.name.clone(), place)).collect();
        Ok((time, place, others, self.columns[place].data_type == DataType::Int64))
    }
}
