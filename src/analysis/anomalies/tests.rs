//! The test against its author's example, and the whole on series in which it is known what is odd.

use std::f64::consts::TAU;

use super::*;
use crate::analysis::EventFilter;

/// Rosner's example, as the NIST/SEMATECH e-Handbook has it (1.3.5.17.3): up to ten outliers at 0.05; there are three.
const ROSNER: [f64; 54] = [
    -0.25, 0.68, 0.94, 1.15, 1.20, 1.26, 1.26, 1.34, 1.38, 1.43, 1.49, 1.49, 1.55, 1.56, 1.58, 1.65, 1.69, 1.70, 1.76,
    1.77, 1.81, 1.91, 1.94, 1.96, 1.99, 2.06, 2.09, 2.10, 2.14, 2.15, 2.23, 2.24, 2.26, 2.35, 2.37, 2.40, 2.47, 2.54,
    2.62, 2.64, 2.90, 2.92, 2.92, 2.93, 3.21, 3.26, 3.30, 3.59, 3.68, 4.30, 4.64, 5.34, 5.42, 6.01,
];

#[test]
fn rosners_example_has_its_three_outliers_and_critical_values() {
    assert_eq!(outliers(&ROSNER, 0.05, 10.5 / 54.0, 0.0), [53, 52, 51]);
    let published = [3.158, 3.151, 3.143, 3.136, 3.128, 3.120, 3.111, 3.103, 3.094, 3.085];
    for (place, expected) in published.iter().enumerate() {
        let critical = critical(54, place + 1, 0.05);
        // Three digits, of which the last is cut off.
        assert!((critical - expected).abs() < 0.001, "lambda {}: {critical}, not {expected}", place + 1);
    }
}

#[test]
fn few_values_and_equal_ones_have_no_outliers() {
    for values in [&[][..], &[1.0], &[1.0, 100.0], &[5.0; 40]] {
        assert_eq!(outliers(values, 0.05, 0.4, 0.0), Vec::<usize>::new(), "{values:?}");
    }
}

const HOUR_US: TimeUs = 3_600_000_000;

fn plan(season: usize) -> AnomaliesPlan {
    let measures = vec![("events".to_string(), Measure::Count)];
    let trend = TrendPlan { take: EventFilter::default(), every: Some(Period::Hour), measures };
    AnomaliesPlan { trend, every: Period::Hour, season, alpha: 0.05, most: 0.1 }
}

/// Four weeks of hours with a day's season and a trend, and noise of a normal distribution with deviation 10.
fn ordinary(random: &mut fastrand::Rng) -> Vec<f64> {
    let mut noise = || {
        let (a, b): (f64, f64) = (1.0 - random.f64(), random.f64());
        10.0 * (-2.0 * a.ln()).sqrt() * (TAU * b).cos()
    };
    (0..672)
        .map(|hour| 500.0 + 0.2 * f64::from(hour) + 200.0 * (TAU * f64::from(hour) / 24.0).sin() + noise())
        .collect()
}

fn judged(values: &[f64], plan: &AnomaliesPlan) -> Vec<Judged> {
    let series: Vec<(TimeUs, Option<f64>)> =
        values.iter().enumerate().map(|(hour, value)| (hour as TimeUs * HOUR_US, Some(*value))).collect();
    let end = values.len() as TimeUs * HOUR_US;
    judge(plan, &Measure::Count, "UTC", Range { from: None, to: Some(end) }, end - HOUR_US, &series)
}

fn odd(judged: &[Judged]) -> Vec<(usize, Odd)> {
    judged.iter().enumerate().filter_map(|(hour, one)| Some((hour, one.odd?))).collect()
}

#[test]
fn what_was_put_in_is_found_and_little_else() {
    let (mut series_with_more, mut series) = (0, 0);
    for seed in 1..=40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut values = ordinary(&mut random);
        // Without any, chance brings one into 5 of 100 series.
        series += 1;
        series_with_more += usize::from(!odd(&judged(&values, &plan(24))).is_empty());
        let mut put = std::collections::BTreeMap::new();
        while put.len() < 12 {
            let (hour, high) = (random.usize(0..672), random.bool());
            if put.insert(hour, if high { Odd::High } else { Odd::Low }).is_none() {
                values[hour] += if high { 90.0 } else { -90.0 };
            }
        }
        let found = odd(&judged(&values, &plan(24)));
        for one in &put {
            assert!(found.contains(&(*one.0, *one.1)), "seed {seed}: {one:?} is not in {found:?}");
        }
        series += 1;
        series_with_more += usize::from(found.len() > put.len());
    }
    assert!(series_with_more <= 10, "{series_with_more} of {series} series with more than was put in");
}

#[test]
fn without_the_season_a_missing_night_is_not_seen_and_with_it_it_is() {
    let mut values = ordinary(&mut fastrand::Rng::with_seed(1));
    // The value of an ordinary night, at noon.
    values[24 * 10 + 6] = values[24 * 10 + 18];
    assert_eq!(odd(&judged(&values, &plan(24))), [(246, Odd::Low)]);
    assert_eq!(odd(&judged(&values, &plan(1))), []);
}

#[test]
fn hours_without_events_are_zeros_and_the_last_one_is_still_going_on() {
    let mut values = ordinary(&mut fastrand::Rng::with_seed(2));
    values[671] = 3.0;
    let mut series: Vec<(TimeUs, Option<f64>)> =
        values.iter().enumerate().map(|(hour, value)| (hour as TimeUs * HOUR_US, Some(*value))).collect();
    series.remove(300);
    let last = 671 * HOUR_US;
    let of = |measure: &Measure, to| judge(&plan(24), measure, "UTC", Range { from: None, to }, last, &series);
    let going_on = of(&Measure::Count, None);
    assert_eq!(going_on.len(), 671);
    assert_eq!(odd(&going_on), [(300, Odd::Low)]);
    assert_eq!((going_on[300].value, going_on[300].at), (0.0, 300 * HOUR_US));
    assert_eq!(odd(&of(&Measure::Count, Some(last + HOUR_US))), [(300, Odd::Low), (671, Odd::Low)]);
    // The mean of nothing is nothing, and not odd.
    let ratio = Measure::Ratio(String::new(), String::new());
    assert_eq!(of(&ratio, None).len(), 670);
    assert_eq!(odd(&of(&ratio, None)), []);
}

#[test]
fn periods_follow_each_other_by_the_calendar() {
    let zone = Tz::Europe__Berlin;
    let at = |text: &str| DateTime::parse_from_rfc3339(text).expect("time").timestamp_micros();
    for (every, from, to) in [
        (Period::Hour, "2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"),
        (Period::Day, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        (Period::Day, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        (Period::Week, "2026-03-23T00:00:00Z", "2026-03-30T00:00:00Z"),
        (Period::Month, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        (Period::Month, "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
    ] {
        assert_eq!(following(every, zone, at(from)), at(to), "{every:?} after {from}");
    }
}
