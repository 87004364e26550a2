//! Anomalies: the periods of a series that are further from what its season and trend say than chance would have it.
//!
//! A series is decomposed by STL (Cleveland et al., 1990) with robust weights, so that what is odd does not bend what is
//! expected; what remains is tested by the generalised extreme studentized deviate test (Rosner, 1983), which finds several
//! outliers though each hides the others. That is what Hochenbaum, Vallis and Kejariwal (2017) call S-ESD, with STL's trend in place of a
//! median for the whole.

mod esd;
#[cfg(test)]
mod tests;

pub use esd::{critical, outliers};

use std::str::FromStr as _;

use chrono::{DateTime, Days, Months, TimeDelta, TimeZone as _};
use chrono_tz::Tz;
use stlrs::Stl;

use super::{Measure, Period, Range, TrendPlan};
use crate::event::TimeUs;

#[derive(Debug, Clone)]
pub struct AnomaliesPlan {
    /// The series: each measure, of each value that results are told apart by.
    pub trend: TrendPlan,
    pub every: Period,
    /// Periods after which a series repeats itself; 1: none.
    pub season: usize,
    /// How likely chance alone is to bring an anomaly into a series without any.
    pub alpha: f64,
    /// At most this share of the periods is odd; below one half.
    pub most: f64,
}

impl AnomaliesPlan {
    /// Whether a period without events has the value 0, and not none.
    fn is_zero_without_events(measure: &Measure) -> bool {
        matches!(measure, Measure::Count | Measure::People | Measure::Sum(_))
    }
}

/// A period of a series and what was to be expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The beginning of the period; of a week or month the date, as midnight UTC.
    pub at: TimeUs,
    pub value: f64,
    pub expected: f64,
    /// What lies between is ordinary.
    pub low: f64,
    pub high: f64,
    /// Standard deviations of ordinary periods from what was expected.
    pub score: f64,
    pub odd: Option<Odd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    High,
    Low,
}

/// The periods of one series in order of time, of `measure`; `last`: the latest period of all series.
///
/// Periods without events are filled in. The latest of all is still going on unless the range says where it ends, and is left out.
pub fn judge(
    plan: &AnomaliesPlan,
    measure: &Measure,
    timezone: &str,
    range: Range,
    last: TimeUs,
    series: &[(TimeUs, Option<f64>)],
) -> Vec<Judged> {
    let zone = Tz::from_str(timezone).unwrap_or(Tz::UTC);
    let ends = |at| range.to.is_some_and(|to| following(plan.every, zone, at) <= to);
    let mut known = series.iter().peekable();
    let Some(mut at) = known.peek().map(|(at, _)| *at) else { return Vec::new() };
    let mut values: Vec<(TimeUs, Option<f64>)> = Vec::new();
    while at < last || (at == last && ends(at)) {
        let value = match known.next_if(|(known, _)| *known <= at) {
            Some((_, value)) => *value,
            None => AnomaliesPlan::is_zero_without_events(measure).then_some(0.0),
        };
        values.push((at, value));
        at = following(plan.every, zone, at);
    }
    judge_values(plan, &values)
}

/// The beginning of the next period.
fn following(every: Period, zone: Tz, at: TimeUs) -> TimeUs {
    const HOUR_US: TimeUs = 3_600_000_000;
    let zone = if matches!(every, Period::Week | Period::Month) { Tz::UTC } else { zone };
    let local = DateTime::from_timestamp_micros(at).unwrap_or_default().with_timezone(&zone).naive_local();
    let next = match every {
        Period::Hour => return at + HOUR_US,
        Period::Day => local.checked_add_days(Days::new(1)),
        Period::Week => local.checked_add_days(Days::new(7)),
        Period::Month => local.checked_add_months(Months::new(1)),
    };
    let next = next.and_then(|next| {
        // Where midnight is skipped the day begins at one.
        let later = next + TimeDelta::hours(1);
        zone.from_local_datetime(&next).earliest().or_else(|| zone.from_local_datetime(&later).earliest())
    });
    next.map_or(at + 24 * HOUR_US, |next| next.timestamp_micros())
}

fn judge_values(plan: &AnomaliesPlan, values: &[(TimeUs, Option<f64>)]) -> Vec<Judged> {
    let filled = without_gaps(values);
    let expected = expected(&filled, plan.season);
    let known: Vec<usize> = (0..values.len()).filter(|place| values[*place].1.is_some()).collect();
    let residuals: Vec<f64> = known.iter().map(|place| filled[*place] - expected[*place]).collect();
    // What is left of the rounding of a series that is as expected to the digit is not odd.
    let size = filled.iter().fold(0.0, |size: f64, value| size.max(value.abs()));
    let odd = outliers(&residuals, plan.alpha, plan.most, size * 1e-9);
    let ordinary: Vec<f64> =
        residuals.iter().enumerate().filter(|(place, _)| !odd.contains(place)).map(|(_, residual)| *residual).collect();
    let (mean, deviation) = esd::moments(&ordinary);
    let margin = deviation * critical(ordinary.len(), 1, plan.alpha);
    known
        .iter()
        .enumerate()
        .map(|(place, period)| {
            let (at, value, expected) = (values[*period].0, filled[*period], expected[*period] + mean);
            let apart = value - expected;
            let score = if deviation > size * 1e-9 { apart / deviation } else { 0.0 };
            let odd = odd.contains(&place).then_some(if apart > 0.0 { Odd::High } else { Odd::Low });
            Judged { at, value, expected, low: expected - margin, high: expected + margin, score, odd }
        })
        .collect()
}

/// Missing values as the last one before, or the first.
fn without_gaps(values: &[(TimeUs, Option<f64>)]) -> Vec<f64> {
    let mut last = values.iter().find_map(|(_, value)| *value).unwrap_or_default();
    let each = values.iter().map(|(_, value)| {
        last = value.unwrap_or(last);
        last
    });
    each.collect()
}

/// Trend and season; the median where less than two seasons are there, or there is no season.
fn expected(values: &[f64], season: usize) -> Vec<f64> {
    // A season is the same from year to year: what is odd is found by comparing it with its like.
    let periodic = values.len() * 10 + 1;
    let fit = (season >= 2 && values.len() >= 2 * season)
        .then(|| Stl::params().robust(true).seasonal_length(periodic).seasonal_degree(0).fit(values, season).ok());
    match fit.flatten() {
        Some(fit) => fit.trend().iter().zip(fit.seasonal()).map(|(trend, seasonal)| trend + seasonal).collect(),
        None => vec![median(values); values.len()],
    }
}

/// 0 of nothing.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}
