//! Answers of analyses as pictures: SVG, or the same as PNG.
//!
//! What an answer is drawn as is decided in `kinds.rs`, by the kind of the analysis and the columns: lines over time, bars, or a
//! table of shades. These know nothing of analyses. The same answer gives the same bytes.

mod bars;
mod canvas;
mod heat;
mod kinds;
mod lines;
mod png;
mod table;
mod text;
mod time;

use arrow::array::RecordBatch;
use chrono_tz::Tz;

use kinds::Picture;

use crate::analysis::{AnalysisKind, AnalysisPlan, EventFilter, Measure, Period, Range};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Svg,
    Png,
}

impl Format {
    /// By the ending of a file's name.
    pub fn of(file: &std::path::Path) -> Option<Format> {
        match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "svg" => Some(Format::Svg),
            "png" => Some(Format::Png),
            _ => None,
        }
    }
}

/// What is drawn, as far as the answer's columns do not say it.
#[derive(Debug, Clone)]
struct Subject {
    title: String,
    about: String,
    kind: &'static str,
    every: Option<Period>,
    zone: Tz,
    /// Columns that are 0 where a period has no row: counts and sums.
    countable: Vec<String>,
    /// Columns with what they count: `events`, `people`.
    units: Vec<(String, &'static str)>,
}

/// The picture of an answer over the events of a range.
///
/// # Errors
/// An answer whose columns are not those of its kind.
pub fn draw(plan: &AnalysisPlan, range: Range, answer: &[RecordBatch], format: Format) -> Result<Vec<u8>, String> {
    let svg = svg(&subject(plan, range), answer)?;
    match format {
        Format::Svg => Ok(svg.into_bytes()),
        Format::Png => png::png(&svg),
    }
}

fn svg(subject: &Subject, answer: &[RecordBatch]) -> Result<String, String> {
    let (frame, picture) = kinds::picture(subject, answer)?;
    match picture {
        Picture::Lines(lines) => lines.draw(&frame),
        Picture::Bars(bars) => bars.draw(&frame),
        Picture::Heat(heat) => heat.draw(&frame),
        Picture::Nothing => canvas::nothing(&frame),
    }
}

/// A line over time in one line of text.
#[derive(Debug, Clone, PartialEq)]
pub struct Spark {
    /// The measure, and what it is told apart by.
    pub name: String,
    pub line: String,
    pub least: f64,
    pub most: f64,
}

/// The lines of an answer that is drawn as lines, for a terminal; none of others.
///
/// # Errors
/// As of [`draw`].
pub fn sparks(plan: &AnalysisPlan, range: Range, answer: &[RecordBatch]) -> Result<Vec<Spark>, String> {
    let (frame, picture) = kinds::picture(&subject(plan, range), answer)?;
    let Picture::Lines(lines) = picture else { return Ok(Vec::new()) };
    let mut sparks = Vec::new();
    for panel in &lines.panels {
        for (place, series) in panel.series.iter().enumerate() {
            let name = match frame.legend.get(place) {
                Some(of) => format!("{}, {of}", panel.name),
                None => panel.name.clone(),
            };
            let values: Vec<Option<f64>> = series.iter().map(|(_, value)| *value).collect();
            let known = || values.iter().flatten().copied();
            if let (true, Some(least), Some(most)) =
                (values.len() > 1, known().reduce(f64::min), known().reduce(f64::max))
            {
                sparks.push(Spark { name, line: sparkline(&values), least, most });
            }
        }
    }
    Ok(sparks)
}

/// Each value as a block from nothing to the highest of all, a gap as a blank; of more than fit, the mean of neighbours.
fn sparkline(values: &[Option<f64>]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const MOST: usize = 60;
    let together = values.len().div_ceil(MOST).max(1);
    let means: Vec<Option<f64>> = values
        .chunks(together)
        .map(|chunk| {
            let known: Vec<f64> = chunk.iter().flatten().copied().collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        })
        .collect();
    let (low, high) =
        means.iter().flatten().fold((0f64, 0f64), |(low, high), value| (low.min(*value), high.max(*value)));
    let block = |value: f64| {
        let part = if high > low { (value - low) / (high - low) } else { 0.0 };
        BLOCKS[((part * 7.0).round() as usize).min(7)]
    };
    means.into_iter().map(|value| value.map_or(' ', block)).collect()
}

fn named(events: &EventFilter) -> &str {
    if events.events.is_none() { "any event" } else { &events.label }
}

fn subject(plan: &AnalysisPlan, range: Range) -> Subject {
    let zone: Tz = plan.timezone.parse().unwrap_or(Tz::UTC);
    let (mut countable, mut units) = (Vec::new(), Vec::new());
    let (every, what) = match &plan.kind {
        AnalysisKind::Trend(trend) => {
            for (name, measure) in &trend.measures {
                if matches!(measure, Measure::Count | Measure::People | Measure::Sum(_)) {
                    countable.push(name.clone());
                }
                match measure {
                    Measure::Count => units.push((name.clone(), "events")),
                    Measure::People => units.push((name.clone(), "people")),
                    _ => {}
                }
            }
            (trend.every, named(&trend.take).to_string())
        }
        AnalysisKind::Funnel(funnel) => {
            let mode = if funnel.any_order { "steps in any order" } else { "steps in order" };
            (funnel.trend, format!("{mode}, within {} of the first", text::duration(funnel.within_us as f64 / 1e6)))
        }
        AnalysisKind::Retention(retention) => {
            (Some(retention.every), format!("first {}, then {}", named(&retention.start), named(&retention.back)))
        }
        AnalysisKind::Attribution(plan) => {
            let days = text::duration(plan.lookback_us as f64 / 1e6);
            (None, format!("what {} is owed to, touches up to {days} before", named(&plan.conversion)))
        }
        AnalysisKind::Paths(paths) => {
            let side = if paths.is_end { "before the first" } else { "after the first" };
            (None, format!("what people do {side} {}", named(&paths.anchor)))
        }
        AnalysisKind::Transitions(plan) => {
            let within = plan.within_us.map(|within| format!(", within {}", text::duration(within as f64 / 1e6)));
            (None, format!("what follows {}{}", named(&plan.of), within.unwrap_or_default()))
        }
        AnalysisKind::Sizes(plan) => (Some(plan.every), "people in segments".to_string()),
        AnalysisKind::Flow(_) => (None, "from segments at the beginning to segments at the end".to_string()),
        AnalysisKind::Overlap(_) => (None, "people of a segment who are in another as well".to_string()),
        AnalysisKind::Lift(plan) => (None, format!("what sets {} apart from the rest", plan.segment)),
        AnalysisKind::Anomalies(plan) => (Some(plan.every), named(&plan.trend.take).to_string()),
    };
    let mut about = format!("{}: {what}", plan.kind.name());
    about.extend(plan.by.as_ref().map(|by| format!(", by {}", by.sql)));
    about.extend(plan.segment.as_ref().map(|segment| format!(", people in segment {segment}")));
    about.extend(range.from.map(|from| format!(", from {}", time::label(from, None, zone))));
    about.extend(range.to.map(|to| format!(", before {}", time::label(to, None, zone))));
    Subject { title: plan.name.clone(), about, kind: plan.kind.name(), every, zone, countable, units }
}

#[cfg(test)]
mod tests;
