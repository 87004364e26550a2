//! The series of a trend, each judged by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};

use super::{QueryError, column};
use crate::analysis::{AnalysisPlan, AnomaliesPlan, Judged, Odd, Period, Range, judge};
use crate::event::{TimeUs, time_type};

const DAY_US: TimeUs = 86_400_000_000;

/// By `by` and measure.
type AllSeries = BTreeMap<(String, usize), Vec<(TimeUs, Option<f64>)>>;

/// Rows of a trend → `time`, `by` (where results are told apart), `measure`, `value`, `expected`, `low`, `high`, `score`, `anomaly`
/// (`high`, `low` or empty): a row for each period, by series.
pub fn judged(
    plan: &AnalysisPlan,
    anomalies: &AnomaliesPlan,
    range: Range,
    batches: &[RecordBatch],
) -> Result<RecordBatch, QueryError> {
    let mut all: AllSeries = BTreeMap::new();
    for batch in batches {
        let times = column(batch, "time", &time_type())?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let by = plan.by.as_ref().map(|_| column(batch, "by", &DataType::Utf8)).transpose()?;
        for (place, (name, _)) in anomalies.trend.measures.iter().enumerate() {
            let values = column(batch, name, &DataType::Float64)?;
            let values = values.as_primitive::<Float64Type>();
            for row in 0..batch.num_rows() {
                let by = by.as_ref().map_or_else(String::new, |by| by.as_string::<i32>().value(row).to_string());
                let value = values.is_valid(row).then(|| values.value(row));
                all.entry((by, place)).or_default().push((times.value(row), value));
            }
        }
    }
    let last = all.values().flatten().map(|(at, _)| *at).max().unwrap_or_default();
    let (mut apart, mut measures) = (Vec::new(), Vec::new());
    let mut rows: Vec<Judged> = Vec::new();
    for ((by, place), series) in &all {
        let (name, measure) = &anomalies.trend.measures[*place];
        let judged = judge(anomalies, measure, &plan.timezone, range, last, series);
        apart.extend(std::iter::repeat_n(by.as_str(), judged.len()));
        measures.extend(std::iter::repeat_n(name.as_str(), judged.len()));
        rows.extend(judged);
    }
    // Weeks and months begin at a date, as in a trend.
    let times: ArrayRef = match anomalies.every {
        Period::Week | Period::Month => {
            Arc::new(Date32Array::from_iter_values(rows.iter().map(|row| (row.at / DAY_US) as i32)))
        }
        Period::Hour | Period::Day => {
            let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.at)).collect();
            Arc::new(times.with_timezone("UTC"))
        }
    };
    let numbers =
        |of: fn(&Judged) -> f64| Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Float64Array>()) as ArrayRef;
    let verdicts = rows.iter().map(|row| match row.odd {
        Some(Odd::High) => "high",
        Some(Odd::Low) => "low",
        None => "",
    });
    let mut columns: Vec<(&str, ArrayRef)> = vec![("time", times)];
    if plan.by.is_some() {
        columns.push(("by", Arc::new(StringArray::from(apart))));
    }
    columns.extend([
        ("measure", Arc::new(StringArray::from(measures)) as ArrayRef),
        ("value", numbers(|row| row.value)),
        ("expected", numbers(|row| row.expected)),
        ("low", numbers(|row| row.low)),
        ("high", numbers(|row| row.high)),
        ("score", numbers(|row| row.score)),
        ("anomaly", Arc::new(StringArray::from_iter_values(verdicts))),
    ]);
    RecordBatch::try_from_iter(columns).map_err(|error| QueryError::Sql(error.to_string()))
}
