//! RFM: how recent, how frequent and of how much value someone's orders are, each in fifths of all people.
//!
//! Borders come from a scan over everyone and stand until the next. Of n sorted values the k-th border (k from 1 to 4) is that
//! at place ceil(k n / 5), counted from 1; a value scores 1 and one more for each border that is less than it. So equal
//! values score alike, and the most recent, most frequent and most valuable score 5.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use serde::{Deserialize, Serialize};

use crate::event::TimeUs;
use crate::expression::Expression;

/// How an RFM trait is computed.
#[derive(Debug, Clone)]
pub struct RfmRule {
    /// A timestamp.
    pub recency: Expression,
    /// A double.
    pub frequency: Expression,
    /// A double.
    pub monetary: Expression,
    /// Borders are found anew at the multiples of this, in UTC.
    pub every_us: i64,
}

/// What someone is scored by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RfmValues {
    pub recency: TimeUs,
    pub frequency: f64,
    pub monetary: f64,
}

/// What a scan has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RfmBorders {
    /// Counts the scans of the trait, from 1.
    pub version: u64,
    pub scanned_at: TimeUs,
    /// How many had values.
    pub people: u64,
    pub recency: [TimeUs; 4],
    pub frequency: [f64; 4],
    pub monetary: [f64; 4],
}

impl RfmBorders {
    /// None where nobody has values.
    pub fn of(values: &[RfmValues], version: u64, scanned_at: TimeUs) -> Option<RfmBorders> {
        if values.is_empty() {
            return None;
        }
        let doubles = |of: fn(&RfmValues) -> f64| borders(values.iter().map(of).collect(), f64::total_cmp);
        Some(RfmBorders {
            version,
            scanned_at,
            people: values.len() as u64,
            recency: borders(values.iter().map(|value| value.recency).collect(), TimeUs::cmp),
            frequency: doubles(|value| value.frequency),
            monetary: doubles(|value| value.monetary),
        })
    }

    /// Whether everyone has the same scores by both.
    pub fn is_same(&self, other: &RfmBorders) -> bool {
        (self.recency, self.frequency, self.monetary) == (other.recency, other.frequency, other.monetary)
    }

    /// R, F and M, each from 1 to 5.
    pub fn scores(&self, values: &RfmValues) -> [i64; 3] {
        fn score<T: PartialOrd>(borders: &[T; 4], value: &T) -> i64 {
            1 + borders.iter().filter(|border| *border < value).count() as i64
        }
        [
            score(&self.recency, &values.recency),
            score(&self.frequency, &values.frequency),
            score(&self.monetary, &values.monetary),
        ]
    }
}

/// Not empty.
fn borders<T: Copy>(mut values: Vec<T>, compare: fn(&T, &T) -> std::cmp::Ordering) -> [T; 4] {
    let count = values.len();
    let mut border = |k: usize| *values.select_nth_unstable_by((k * count).div_ceil(5) - 1, compare).1;
    [border(1), border(2), border(3), border(4)]
}

/// The name for scores of R and F.
pub fn rfm_segment(r: i64, f: i64) -> &'static str {
    match (r, f) {
        (5, 4 | 5) => "champions",
        (3 | 4, 4 | 5) => "loyal",
        (5, 1) => "new_customers",
        (4, 1) => "promising",
        (4 | 5, _) => "potential_loyalist",
        (3, 3) => "need_attention",
        (3, _) => "about_to_sleep",
        (_, 5) => "cannot_lose",
        (_, 3 | 4) => "at_risk",
        (1, 1) => "lost",
        _ => "hibernating",
    }
}

/// Those of every row; None where one is missing or the frequency is not above 0.
pub fn values_of(recency: &ArrayRef, frequency: &ArrayRef, monetary: &ArrayRef) -> Vec<Option<RfmValues>> {
    let (recency, frequency, monetary) = (
        recency.as_primitive::<TimestampMicrosecondType>(),
        frequency.as_primitive::<Float64Type>(),
        monetary.as_primitive::<Float64Type>(),
    );
    let row = |row: usize| {
        let is_there = recency.is_valid(row) && frequency.is_valid(row) && monetary.is_valid(row);
        let values = is_there.then(|| RfmValues {
            recency: recency.value(row),
            // -0 and 0 are one value.
            frequency: frequency.value(row) + 0.0,
            monetary: monetary.value(row) + 0.0,
        });
        values.filter(|values| values.frequency > 0.0 && !values.monetary.is_nan())
    };
    (0..recency.len()).map(row).collect()
}

/// The columns of an RFM trait: r, f, m, the three as text, and the segment.
pub fn columns(values: &[Option<RfmValues>], borders: Option<&RfmBorders>) -> [ArrayRef; 5] {
    let scores: Vec<Option<[i64; 3]>> = values.iter().map(|values| Some(borders?.scores(values.as_ref()?))).collect();
    let one = |index: usize| -> ArrayRef {
        std::sync::Arc::new(scores.iter().map(|scores| scores.map(|scores| scores[index])).collect::<Int64Array>())
    };
    let text = scores.iter().map(|scores| scores.map(|[r, f, m]| format!("{r}{f}{m}")));
    let segment = scores.iter().map(|scores| scores.map(|[r, f, _]| rfm_segment(r, f)));
    [
        one(0),
        one(1),
        one(2),
        std::sync::Arc::new(text.collect::<StringArray>()),
        std::sync::Arc::new(segment.collect::<StringArray>()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(recency: &[i64]) -> RfmBorders {
        let values: Vec<RfmValues> = recency
            .iter()
            .map(|recency| RfmValues { recency: *recency, frequency: *recency as f64, monetary: -(*recency as f64) })
            .collect();
        RfmBorders::of(&values, 1, 0).unwrap()
    }

    #[test]
    fn borders_are_the_values_at_a_fifth_each_and_ties_go_together() {
        let cases: [(&[i64], [i64; 4]); 8] = [
            (&[7], [7, 7, 7, 7]),
            (&[2, 1], [1, 1, 2, 2]),
            (&[3, 1, 2], [1, 2, 2, 3]),
            (&[4, 3, 2, 1], [1, 2, 3, 4]),
            (&[5, 4, 3, 2, 1], [1, 2, 3, 4]),
            (&[6, 5, 4, 3, 2, 1], [2, 3, 4, 5]),
            (&[10, 9, 8, 7, 6, 5, 4, 3, 2, 1], [2, 4, 6, 8]),
            (&[1, 1, 1, 1, 9], [1, 1, 1, 1]),
        ];
        for (values, expect) in cases {
            let borders = of(values);
            assert_eq!(borders.recency, expect, "{values:?}");
            assert_eq!(borders.frequency, expect.map(|value| value as f64));
        }
        let score = |values: &[i64], one: i64| {
            of(values).scores(&RfmValues { recency: one, frequency: one as f64, monetary: -(one as f64) })
        };
        assert_eq!(score(&[1, 2, 3, 4, 5], 1), [1, 1, 5]);
        assert_eq!(score(&[1, 2, 3, 4, 5], 5), [5, 5, 1]);
        assert_eq!(score(&[1, 1, 1, 1, 9], 1), [1, 1, 2], "of the negative values one border is less");
        assert_eq!(score(&[1, 1, 1, 1, 9], 9), [5, 5, 1]);
        assert_eq!(score(&[7], 7), [1, 1, 1], "one person is in the lowest fifth");
        assert_eq!(RfmBorders::of(&[], 1, 0), None);
    }

    /// As documented, a row for each score of R from 5 down, a column for each of F from 1 up.
    #[test]
    fn every_score_has_its_segment() {
        let table = [
            ["new_customers", "potential_loyalist", "potential_loyalist", "champions", "champions"],
            ["promising", "potential_loyalist", "potential_loyalist", "loyal", "loyal"],
            ["about_to_sleep", "about_to_sleep", "need_attention", "loyal", "loyal"],
            ["hibernating", "hibernating", "at_risk", "at_risk", "cannot_lose"],
            ["lost", "hibernating", "at_risk", "at_risk", "cannot_lose"],
        ];
        for (row, segments) in table.iter().enumerate() {
            for (column, segment) in segments.iter().enumerate() {
                assert_eq!(rfm_segment(5 - row as i64, column as i64 + 1), *segment);
            }
        }
    }
}
