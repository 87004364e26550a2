//! `analyze`: an analysis of the pipeline, answered from its tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type};
use clap::Args;

use super::output::{Output, print, print_batches, render};
use super::{Exit, Failure, Global, NodeConfig, run, say};
use crate::analysis::{AnalysisKind, AnalysisPlan, Range};
use crate::chart::{self, Format, Spark};
use crate::definition::{self, Mode, Pipeline, nearest_or_list};
use crate::event::TimeUs;
use crate::query::{self, QueryError};

const BAR_WIDTH: f64 = 30.0;

#[derive(Debug, Args)]
pub struct AnalyzeOptions {
    /// The analysis; without one, all are listed
    name: Option<String>,
    /// Only events from this time on, as 2026-03-01 or 2026-03-01T10:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only events before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Tell results apart by this value of events instead
    #[arg(long, value_name = "SQL")]
    by: Option<String>,
    /// Show the statement instead of running it
    #[arg(long)]
    sql: bool,
    /// Draw the answer into this file as well: *.svg or *.png
    #[arg(long, value_name = "FILE", requires = "name", conflicts_with = "sql")]
    chart: Option<PathBuf>,
}

pub async fn analyze(global: &Global, config: &NodeConfig, options: AnalyzeOptions) -> Result<Exit, Failure> {
    let pipeline = run::load(global, if options.sql { Mode::Check } else { Mode::Run })?;
    let Some(name) = &options.name else { return list(&pipeline) };
    let Some(plan) = pipeline.analyses.iter().find(|plan| plan.name == *name) else {
        let help = nearest_or_list(name, pipeline.analyses.iter().map(|plan| plan.name.as_str()));
        let help = help.map_or_else(String::new, |help| format!("; {help}"));
        return Err(Failure::findings(format!("there is no analysis `{name}`{help}")));
    };
    let mut plan = plan.clone();
    if let Some(by) = &options.by {
        plan = definition::told_apart(&pipeline, plan, by).map_err(|why| Failure::findings(format!("--by: {why}")))?;
    }
    let chart = options.chart.as_deref().map(chart_file).transpose()?;
    let range = Range { from: time("--from", options.from.as_deref())?, to: time("--to", options.to.as_deref())? };
    let target = run::tables_of(&pipeline, config);
    if options.sql {
        print(&plan.statement(range, target.dialect()));
        return Ok(Exit::Well);
    }
    match query::analyze(&target, &plan, range).await {
        Ok(mut batches) => {
            let answer = batches.clone();
            if Output::or_default(global.output) == Output::Table {
                if matches!(plan.kind, AnalysisKind::Anomalies(_)) {
                    batches = batches.iter().map(only_odd).collect();
                }
                batches = batches.into_iter().map(|batch| for_people(&plan, batch)).collect();
            }
            print_batches(&batches, global.output)?;
            if Output::or_default(global.output) == Output::Table {
                print_sparks(&chart::sparks(&plan, range, &answer).unwrap_or_default());
            }
            if let Some((file, format)) = chart {
                let picture = chart::draw(&plan, range, &answer, format).map_err(Failure::fatal)?;
                std::fs::write(file, picture).map_err(|error| {
                    let file = file.display();
                    Failure::environment(format!(
                        "--chart {file}: {error}; name a file in a folder that can be written"
                    ))
                })?;
                say(&format!("drawn into {}", file.display()));
            }
            remark(&plan, &batches);
            Ok(Exit::Well)
        }
        Err(error @ QueryError::Sql(_)) => Err(Failure::findings(error)),
        Err(error) => Err(Failure::environment(error)),
    }
}

fn list(pipeline: &Pipeline) -> Result<Exit, Failure> {
    if pipeline.analyses.is_empty() {
        say("this pipeline has no `analyses`");
    }
    for plan in &pipeline.analyses {
        print(&format!("{} ({})", plan.name, plan.kind.name()));
    }
    Ok(Exit::Well)
}

fn chart_file(file: &Path) -> Result<(&Path, Format), Failure> {
    let format = Format::of(file).ok_or_else(|| {
        Failure::findings(format!("--chart: `{}` is no picture: let the name end in .svg or .png", file.display()))
    })?;
    Ok((file, format))
}

/// Below the table: each line over time as one of text.
fn print_sparks(sparks: &[Spark]) {
    let number = |number: f64| format!("{number:.4}").trim_end_matches('0').trim_end_matches('.').to_string();
    let row = |spark: &Spark| [spark.name.clone(), spark.line.clone(), number(spark.least), number(spark.most)];
    let rows: Vec<[String; 4]> = sparks.iter().map(row).collect();
    if !rows.is_empty() {
        print(&render(&["", "over time", "least", "most"], &rows, Output::Table));
    }
}

fn time(option: &str, text: Option<&str>) -> Result<Option<TimeUs>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let day = format!("{text}T00:00Z");
    match definition::read_time(text).or_else(|| definition::read_time(&day)) {
        Some(time) => Ok(Some(time)),
        None => {
            Err(Failure::findings(format!("{option}: `{text}` is not a time: write 2026-03-01 or 2026-03-01T10:00Z")))
        }
    }
}

/// As people read it: numbers with four decimals at most, and the column that is a share of 1 as a bar beside it.
fn for_people(plan: &AnalysisPlan, batch: RecordBatch) -> RecordBatch {
    let name = if matches!(plan.kind, AnalysisKind::Funnel(_)) { "of_start" } else { "share" };
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    let mut columns: Vec<(String, ArrayRef)> =
        fields.map(|(field, column)| (field.name().clone(), rounded(column))).collect();
    if let Some(shares) = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>()) {
        let bars: StringArray = shares.iter().map(|share| share.map(bar)).collect();
        columns.push((String::new(), Arc::new(bars)));
    }
    RecordBatch::try_from_iter(columns).unwrap_or(batch)
}

/// The periods that are odd; how many there are is said on stderr.
fn only_odd(batch: &RecordBatch) -> RecordBatch {
    let Some(verdicts) = batch.column_by_name("anomaly").and_then(|column| column.as_string_opt::<i32>()) else {
        return batch.clone();
    };
    let odd: BooleanArray = verdicts.iter().map(|verdict| verdict.map(|verdict| !verdict.is_empty())).collect();
    say(&format!("{} of {} periods are odd; --output csv shows all", odd.true_count(), batch.num_rows()));
    filter_record_batch(batch, &odd).unwrap_or_else(|_| batch.clone())
}

fn rounded(column: &ArrayRef) -> ArrayRef {
    let Some(numbers) = column.as_primitive_opt::<Float64Type>() else { return column.clone() };
    let text = |number: f64| {
        let text = format!("{number:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    Arc::new(numbers.iter().map(|number| number.map(text)).collect::<StringArray>())
}

/// Of full blocks, and one that is an eighth to a whole.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * BAR_WIDTH * 8.0).round() as usize;
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{part}", "█".repeat(eighths / 8))
}

/// Where a funnel loses most, on stderr.
fn remark(plan: &AnalysisPlan, batches: &[RecordBatch]) {
    let AnalysisKind::Funnel(funnel) = &plan.kind else { return };
    if plan.by.is_some() || funnel.trend.is_some() {
        return;
    }
    let mut worst: Option<(f64, f64, String)> = None;
    for batch in batches {
        let number = |name: &str| batch.column_by_name(name).and_then(|column| cast(column, &DataType::Float64).ok());
        let names = batch.column_by_name("name").and_then(|column| cast(column, &DataType::Utf8).ok());
        let (Some(lost), Some(share), Some(names)) = (number("lost"), number("of_step_before"), names) else { return };
        for row in 0..batch.num_rows() {
            let lost = lost.as_primitive::<Float64Type>().value(row);
            if worst.as_ref().is_none_or(|(most, ..)| lost > *most) {
                let share = share.as_primitive::<Float64Type>().value(row);
                worst = Some((lost, share, names.as_string::<i32>().value(row).to_string()));
            }
        }
    }
    if let Some((lost, share, name)) = worst.filter(|(lost, ..)| *lost > 0.0) {
        say(&format!("most are lost before {name}: {lost}, {:.1} % of those who came so far", (1.0 - share) * 100.0));
    }
}
