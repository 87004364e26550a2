//! `analyses:` as it is written.

use std::time::Duration;

use super::reference::{self, ANALYSIS, ANALYSIS_EVENTS};
use crate::analysis::{Counting, Model, Period};
use crate::definition::findings::{Span, nearest_or_list};
use crate::definition::read::{Fields, Reader, micros};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};
use crate::profile::FunnelModes;

const DAY: Duration = Duration::from_secs(86_400);
/// As many conditions as `windowFunnel` takes.
const STEPS_MAX: usize = 32;
const PERIODS_MAX: u32 = 400;
const LENGTH_MAX: u32 = 20;
const TOP_MAX: u32 = 10_000;
const ORDER_MAX: u32 = 3;
const SEASON_MAX: u32 = 10_000;

pub fn analysis(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<AnalysisSpec> {
    let fields = reader.section(node, what, span, &ANALYSIS)?;
    let by = fields.get("by").map(|node| reader.sql(node, "`by`"));
    let segment = fields.get("segment").map(|node| reader.literal(node, "`segment`"));
    let (name, node) = fields.one()?;
    let span = fields.key_span(name);
    let kind = match name {
        "trend" => trend(reader, node, span),
        "funnel" => funnel(reader, node, span),
        "retention" => retention(reader, node, span),
        "attribution" => attribution(reader, node, span),
        "paths" => paths(reader, node, span),
        "transitions" => transitions(reader, node, span),
        "anomalies" => anomalies(reader, node, span),
        of_segments => {
            if let Some(key) = ["by", "segment"].into_iter().find(|key| fields.has(key)) {
                let message = format!("`{of_segments}` is of segments and not of events: `{key}` does not go with it");
                reader.findings.error(fields.key_span(key), message, None);
                return None;
            }
            segments(reader, of_segments, node, span)
        }
    };
    Some(AnalysisSpec { kind: kind?, by: as_written(by)?, segment: as_written(segment)? })
}

/// Left out, or read; None where it is wrong, which has been reported.
fn as_written<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(read) => Some(read),
        None => Some(None),
    }
}

/// A name, `{ event, where }`, or `any`.
fn events(reader: &Reader, node: &Node) -> Option<EventsSpec> {
    if !matches!(node.value, Value::Map(_)) {
        let event = reader.literals(node, "an event")?;
        let is_any = event.len() == 1 && event[0].text == "any";
        return Some(EventsSpec { event: (!is_any).then_some(event), filter: None });
    }
    let fields = reader.section(node, "events", node.span, &ANALYSIS_EVENTS)?;
    let event = fields.get("event").map(|node| reader.literals(node, "`event`"));
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    Some(EventsSpec { event: as_written(event)?, filter: as_written(filter)? }).filter(|_| fields.sound)
}

fn events_at(reader: &Reader, fields: &Fields, key: &str) -> Option<Option<EventsSpec>> {
    as_written(fields.get(key).map(|node| events(reader, node)))
}

fn period(reader: &Reader, fields: &Fields, key: &str) -> Option<Option<Period>> {
    as_written(fields.get(key).map(|node| reader.choice(node, &format!("`{key}`"), &Period::NAMES)))
}

fn sql(reader: &Reader, fields: &Fields, key: &str) -> Option<Option<Sql>> {
    as_written(fields.get(key).map(|node| reader.sql(node, &format!("`{key}`"))))
}

fn duration(reader: &Reader, fields: &Fields, key: &str) -> Option<Option<Duration>> {
    let read = fields.get(key).map(|node| {
        let time = reader.duration(node, &format!("`{key}`"))?;
        if time.is_zero() {
            reader.findings.error(node.span, format!("`{key}` is no time at all"), "write 7d, or 30m".to_string());
            return None;
        }
        Some(time)
    });
    as_written(read)
}

/// A whole number from 1 to `most`.
fn count(reader: &Reader, fields: &Fields, key: &str, most: u32) -> Option<Option<u32>> {
    let read = fields.get(key).map(|node| {
        let count = reader.count(node, &format!("`{key}`"), 1)?;
        if count > most {
            reader.findings.error(node.span, format!("`{key}` is {most} at most, not {count}"), None);
            return None;
        }
        Some(count)
    });
    as_written(read)
}

fn trend(reader: &Reader, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let fields = reader.section(node, "`trend`", span, &reference::TREND)?;
    let take = events_at(reader, &fields, "of");
    let every = period(reader, &fields, "every");
    let both = [("events", MeasureSpec::Count), ("people", MeasureSpec::People)];
    let measures = measures(reader, &fields, span, both)?;
    let any = EventsSpec { event: None, filter: None };
    Some(AnalysisKindSpec::Trend { take: take?.unwrap_or(any), every: every?, measures })
}

/// What is measured, by name with where it stands.
fn measures<const N: usize>(
    reader: &Reader,
    fields: &Fields,
    span: Span,
    left_out: [(&str, MeasureSpec); N],
) -> Option<Vec<(String, Span, MeasureSpec)>> {
    match fields.get("measures").map(|node| &node.value) {
        Some(Value::Map(entries)) if !entries.is_empty() => {
            let read = |Entry { key, value }: &Entry| Some((key.text.clone(), key.span, measure(reader, value)?));
            entries.iter().map(read).collect()
        }
        Some(_) => {
            let help = "measures: { orders: count, buyers: people, revenue: { sum: properties.total } }".to_string();
            reader.findings.error(fields.key_span("measures"), "`measures` is a map of names to measures", help);
            None
        }
        None => Some(left_out.into_iter().map(|(name, measure)| (name.to_string(), span, measure)).collect()),
    }
}

fn measure(reader: &Reader, node: &Node) -> Option<MeasureSpec> {
    if !matches!(node.value, Value::Map(_)) {
        let count = reader.choice(node, "a measure", &[("count", true), ("people", false)])?;
        return Some(if count { MeasureSpec::Count } else { MeasureSpec::People });
    }
    let fields = reader.section(node, "a measure", node.span, &reference::MEASURE)?;
    let (name, of) = fields.one()?;
    if name == "ratio" {
        let both = reader.literals(of, "`ratio`")?;
        let Ok([of_what, to]) = <[Literal; 2]>::try_from(both) else {
            let help = "ratio: [revenue, orders]".to_string();
            reader.findings.error(of.span, "`ratio` is two names of measures", help);
            return None;
        };
        return Some(MeasureSpec::Ratio(of_what, to));
    }
    let value = reader.sql(of, &format!("`{name}`"))?;
    let at = fields.get("at").map(|node| {
        let at = reader.literal(node, "`at`")?;
        let number = at.text.parse::<f64>().ok().filter(|at| (0.0..=1.0).contains(at));
        if number.is_none() {
            reader.findings.error(node.span, "`at` is a number from 0 to 1", "at: 0.9".to_string());
        }
        number
    });
    let at = as_written(at)?;
    if at.is_some() && name != "quantile" {
        reader.findings.error(fields.key_span("at"), "`at` goes with `quantile`", None);
        return None;
    }
    Some(match name {
        "sum" => MeasureSpec::Sum(value),
        "min" => MeasureSpec::Min(value),
        "max" => MeasureSpec::Max(value),
        "mean" => MeasureSpec::Mean(value),
        _ => MeasureSpec::Quantile(value, at.unwrap_or(0.5)),
    })
}

fn funnel(reader: &Reader, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let fields = reader.section(node, "`funnel`", span, &reference::FUNNEL)?;
    let list = fields.required("steps");
    let items = list.map(|node| reader.list(node, "`steps`")).unwrap_or_default();
    let steps: Vec<EventsSpec> = items.iter().filter_map(|item| events(reader, item)).collect();
    if let Some(node) = list
        && !(2..=STEPS_MAX).contains(&items.len())
    {
        reader.findings.error(node.span, format!("a funnel has 2 to {STEPS_MAX} steps, not {}", items.len()), None);
        return None;
    }
    let (within, trend) = (duration(reader, &fields, "within"), period(reader, &fields, "trend"));
    let mut modes = FunnelModes::default();
    let mut any_order = false;
    for literal in fields.get("mode").and_then(|node| reader.literals(node, "`mode`")).into_iter().flatten() {
        match literal.text.as_str() {
            "any_order" => any_order = true,
            mode if modes.set(mode) => {}
            mode => {
                let names = FunnelModes::NAMES.into_iter().chain(["any_order"]);
                reader.findings.error(literal.span, format!("there is no mode `{mode}`"), nearest_or_list(mode, names));
            }
        }
    }
    if any_order && modes != FunnelModes::default() {
        reader.findings.error(fields.key_span("mode"), "`any_order` goes with no other mode", None);
        return None;
    }
    let within = within?.unwrap_or(30 * DAY);
    (steps.len() == items.len()).then_some(AnalysisKindSpec::Funnel { steps, within, modes, any_order, trend: trend? })
}

fn retention(reader: &Reader, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let fields = reader.section(node, "`retention`", span, &reference::RETENTION)?;
    let start = fields.required("start").and_then(|node| events(reader, node));
    let (back, every) = (events_at(reader, &fields, "return"), period(reader, &fields, "every"));
    let periods = count(reader, &fields, "periods", PERIODS_MAX);
    let counting = as_written(fields.get("mode").map(|node| reader.choice(node, "`mode`", &Counting::NAMES)));
    let value = sql(reader, &fields, "value");
    Some(AnalysisKindSpec::Retention {
        start: start?,
        back: back?,
        every: every?.unwrap_or(Period::Month),
        periods: periods?.unwrap_or(12),
        counting: counting?.unwrap_or(Counting::Bounded),
        value: value?,
    })
}

fn attribution(reader: &Reader, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let fields = reader.section(node, "`attribution`", span, &reference::ATTRIBUTION)?;
    let conversion = fields.required("conversion").and_then(|node| events(reader, node));
    let channel = fields.required("channel").and_then(|node| reader.sql(node, "`channel`"));
    let (touch, value) = (events_at(reader, &fields, "touch"), sql(reader, &fields, "value"));
    let lookback = duration(reader, &fields, "lookback");
    let half_life = duration(reader, &fields, "half_life");
    let order = count(reader, &fields, "order", ORDER_MAX);
    let position = as_written(fields.get("position").map(|node| position(reader, node)));
    let direct = as_written(
        fields.get("direct").map(|node| reader.choice(node, "`direct`", &[("ignore", false), ("count", true)])),
    );
    let models = fields.get("models").map(|node| reader.literals(node, "`models`").unwrap_or_default());
    for literal in models.iter().flatten().filter(|literal| !Model::NAMES.contains(&literal.text.as_str())) {
        let help = nearest_or_list(&literal.text, Model::NAMES);
        reader.findings.error(literal.span, format!("there is no model `{}`", literal.text), help);
    }
    let half_life_us = micros(half_life?.unwrap_or(7 * DAY));
    let (first, last) = position?.unwrap_or((0.4, 0.4));
    let order = order?.unwrap_or(1) as usize;
    let all = [
        Model::FirstTouch,
        Model::LastTouch,
        Model::Linear,
        Model::TimeDecay { half_life_us },
        Model::PositionBased { first, last },
        Model::Markov { order },
        Model::Shapley,
    ];
    let chosen = |model: &&Model| models.as_ref().is_none_or(|all| all.iter().any(|one| one.text == model.name()));
    let any = EventsSpec { event: None, filter: None };
    Some(AnalysisKindSpec::Attribution {
        conversion: conversion?,
        value: value?,
        touch: touch?.unwrap_or(any),
        channel: channel?,
        lookback: lookback?.unwrap_or(30 * DAY),
        models: all.iter().filter(chosen).copied().collect(),
        counts_direct: direct?.unwrap_or(false),
    })
}

/// `[40, 20, 40]`: percent of the first touch, of those between, of the last.
fn position(reader: &Reader, node: &Node) -> Option<(f64, f64)> {
    let literals = reader.literals(node, "`position`")?;
    let numbers: Vec<f64> = literals.iter().filter_map(|literal| literal.text.parse().ok()).collect();
    let [first, between, last] = numbers[..] else {
        let help = "position: [40, 20, 40]".to_string();
        reader.findings.error(node.span, "`position` is three numbers: first, between, last", help);
        return None;
    };
    if [first, between, last].iter().any(|share| !(0.0..=100.0).contains(share)) || first + between + last != 100.0 {
        reader.findings.error(node.span, "the numbers of `position` are percentages that add up to 100", None);
        return None;
    }
    Some((first / 100.0, last / 100.0))
}

fn paths(reader: &Reader, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let fields = reader.section(node, "`paths`", span, &reference::PATHS)?;
    let (side, anchor) = fields.one()?;
    let anchor = events(reader, anchor);
    let (of, within) = (events_at(reader, &fields, "of"), duration(reader, &fields, "within"));
    let (length, top) = (count(reader, &fields, "length", LENGTH_MAX), count(reader, &fields, "top", TOP_MAX));
    Some(AnalysisKindSpec::Paths {
        of: of?.unwrap_or(EventsSpec { event: None, filter: None }),
        anchor: anchor?,
        is_end: side == "to",
        length: length?.unwrap_or(4),
        within: within?,
        top: top?.unwrap_or(20),
    })
}

fn transitions(reader: &Reader, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let fields = reader.section(node, "`transitions`", span, &reference::TRANSITIONS)?;
    let (of, within) = (events_at(reader, &fields, "of"), duration(reader, &fields, "within"));
    let top = count(reader, &fields, "top", TOP_MAX);
    Some(AnalysisKindSpec::Transitions {
        of: of?.unwrap_or(EventsSpec { event: None, filter: None }),
        within: within?,
        top: top?.unwrap_or(100),
    })
}

/// `sizes`, `flow`, `overlap` and `lift`.
fn segments(reader: &Reader, name: &str, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let what = format!("`{name}`");
    let section = match name {
        "sizes" => &reference::SIZES,
        "lift" => &reference::LIFT,
        _ => &reference::SEGMENTS_OF,
    };
    let fields = reader.section(node, what, span, section)?;
    let named = |key| as_written(fields.get(key).map(|node| reader.literals(node, &format!("`{key}`"))));
    let of = named("of");
    Some(match name {
        "sizes" => {
            let every = period(reader, &fields, "every");
            AnalysisKindSpec::Sizes { segments: of?.unwrap_or_default(), every: every?.unwrap_or(Period::Day) }
        }
        "flow" => AnalysisKindSpec::Flow { segments: of?.unwrap_or_default() },
        "overlap" => AnalysisKindSpec::Overlap { segments: of?.unwrap_or_default() },
        _ => {
            let (traits, top) = (named("traits"), count(reader, &fields, "top", TOP_MAX));
            let [segment] = <[Literal; 1]>::try_from(of??).ok()?;
            AnalysisKindSpec::Lift { segment, traits: traits?.unwrap_or_default(), top: top?.unwrap_or(20) }
        }
    })
}

fn anomalies(reader: &Reader, node: &Node, span: Span) -> Option<AnalysisKindSpec> {
    let fields = reader.section(node, "`anomalies`", span, &reference::ANOMALIES)?;
    let (take, every) = (events_at(reader, &fields, "of"), period(reader, &fields, "every"));
    let measures = measures(reader, &fields, span, [("events", MeasureSpec::Count)]);
    let season = count(reader, &fields, "season", SEASON_MAX);
    // Half of a series cannot be odd.
    let share = |key: &str| {
        let read = fields.get(key).map(|node| {
            let literal = reader.literal(node, &format!("`{key}`"))?;
            let number = literal.text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share < 0.5);
            if number.is_none() {
                let message = format!("`{key}` is a number between 0 and 0.5, not `{}`", literal.text);
                reader.findings.error(node.span, message, None);
            }
            number
        });
        as_written(read)
    };
    let (alpha, most) = (share("alpha"), share("most"));
    Some(AnalysisKindSpec::Anomalies {
        take: take?.unwrap_or(EventsSpec { event: None, filter: None }),
        every: every??,
        measures: measures?,
        season: season?,
        alpha: alpha?.unwrap_or(0.05),
        most: most?.unwrap_or(0.1),
    })
}
