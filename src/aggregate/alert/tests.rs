//! Series in which it is known what is odd, however they come in.

use super::*;

const HOUR_US: TimeUs = 3_600_000_000;

fn plan(season: usize) -> AlertPlan {
    AlertPlan {
        name: "orders".to_string(),
        aggregate: "orders_by_hour".to_string(),
        time: 0,
        value: 1,
        value_name: "orders".to_string(),
        groups: Vec::new(),
        is_count: true,
        period_us: HOUR_US,
        season,
        threshold: 5.0,
        wait_us: 60_000_000,
    }
}

/// Ten days of hours: 400 by day and 40 by night, and chance.
fn ordinary(seed: u64) -> Vec<i128> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut of = |mean: i128| mean + i128::from(random.i32(-20..=20)) * mean / 400;
    (0..240).map(|hour| of(if (8..20).contains(&(hour % 24)) { 400 } else { 40 })).collect()
}

/// What is odd, by period, where each value comes in so many parts.
fn alerts(plan: &AlertPlan, values: &[i128], parts: i128) -> Vec<(i64, bool)> {
    let (mut series, mut past) = (Series::default(), Past::default());
    let mut odd = Vec::new();
    for (period, value) in values.iter().enumerate() {
        for part in 0..parts {
            let share = value / parts + if part == 0 { value % parts } else { 0 };
            assert!(share == 0 || plan.add(&mut series, period as i64, share, period as i64 * HOUR_US));
        }
        let now = (period as i64 + 1) * HOUR_US + plan.wait_us;
        assert_eq!(plan.judge(&mut series, &mut past, now - 1), []);
        odd.extend(plan.judge(&mut series, &mut past, now));
    }
    odd.iter().map(|alert| (alert.starts_at / HOUR_US, alert.score > 0.0)).collect()
}

#[test]
fn what_was_put_in_is_told_once_and_nothing_else() {
    for seed in 1..=50 {
        let mut values = ordinary(seed);
        assert_eq!(alerts(&plan(24), &values, 1), [], "seed {seed}");
        // Four hours without orders by day; a day's worth in one night's hour; and the value of a night at noon.
        values[130..134].fill(0);
        values[170] = 400;
        values[204] = 40;
        let expected = [(130, false), (170, true), (204, false)];
        assert_eq!(alerts(&plan(24), &values, 1), expected, "seed {seed}");
        assert_eq!(alerts(&plan(24), &values, 7), expected, "seed {seed}, in parts");
        // Without the season each morning is odd.
        assert!(alerts(&plan(1), &values, 1).contains(&(32, true)), "seed {seed}");
    }
}

#[test]
fn nothing_is_judged_before_three_seasons_are_there() {
    let mut values = ordinary(1);
    values[71] = 10_000;
    assert_eq!(alerts(&plan(24), &values, 1), []);
    let mut values = ordinary(1);
    values[72] = 10_000;
    assert_eq!(alerts(&plan(24), &values, 1), [(72, true)]);
}

#[test]
fn what_comes_after_its_period_is_over_does_not_count_and_silence_is_zeros() {
    let plan = plan(1);
    let (mut series, mut past) = (Series::default(), Past::default());
    for period in 10..30 {
        assert!(plan.add(&mut series, period, 100, 30 * HOUR_US));
    }
    assert_eq!(plan.judge(&mut series, &mut past, 30 * HOUR_US + plan.wait_us), []);
    assert!(!plan.add(&mut series, 29, 1, 30 * HOUR_US + plan.wait_us));
    assert!(plan.add(&mut series, 31, 100, 30 * HOUR_US + plan.wait_us));
    // Hour 30 had none, which is only known when it is over.
    let told = plan.judge(&mut series, &mut past, 31 * HOUR_US + plan.wait_us);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].starts_at, told[0].ends_at, told[0].value), (30 * HOUR_US, 31 * HOUR_US, 0.0));
    assert_eq!((told[0].expected, told[0].score), (100.0, -10.0));
    assert!(!plan.is_forgotten(&series, &past));
    // A year later: no more is gone through than is kept, and nothing is known any more.
    plan.judge(&mut series, &mut past, 10_000 * HOUR_US);
    assert!(past.values.len() == 100 && plan.is_forgotten(&series, &past));
}

#[test]
fn a_series_that_begins_in_the_future_begins_with_what_is_there_before() {
    let plan = plan(1);
    let (mut series, mut past) = (Series::default(), Past::default());
    let now = 10 * HOUR_US;
    // A clock that is wrong by a century, then the others.
    assert!(plan.add(&mut series, 900_000, 1, now));
    assert!(plan.add(&mut series, 10, 100, now) && plan.add(&mut series, 11, 100, now));
    // Long over: the zeros after it would be no past.
    assert!(!plan.add(&mut series, 3, 1, now));
    plan.judge(&mut series, &mut past, 12 * HOUR_US + plan.wait_us);
    assert_eq!(past.values, [100.0, 100.0]);
    assert_eq!((series.next, series.open.keys().copied().collect::<Vec<_>>()), (Some(12), vec![900_000]));
}

#[test]
fn groups_are_told_apart_and_sums_are_exact() {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, StringArray, TimestampMicrosecondArray};

    let plan = AlertPlan { value: 2, groups: vec![("country".to_string(), 1)], is_count: false, ..plan(24) };
    let times =
        TimestampMicrosecondArray::from(vec![Some(HOUR_US + 5), None, Some(-1), Some(HOUR_US)]).with_timezone("UTC");
    let amounts = Decimal128Array::from(vec![Some(1_100_000), Some(5), Some(2_200_000), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("hour", Arc::new(times)),
        ("country", Arc::new(StringArray::from(vec![Some("DE"), Some("DE"), None, Some("DE")]))),
        ("revenue", Arc::new(amounts.with_precision_and_scale(38, SCALE).expect("decimals"))),
    ];
    let rows = RecordBatch::try_from_iter(columns).expect("rows");
    let expected = [
        (r#"{"country":"DE"}"#.to_string(), 1, 0),
        (r#"{"country":"DE"}"#.to_string(), 1, 1_100_000),
        (r#"{"country":null}"#.to_string(), -1, 2_200_000),
    ];
    assert_eq!(plan.read(&rows), expected);
    assert_eq!(plan.value(3_300_000), 3.3);
}
