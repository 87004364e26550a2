//! `analyses:` → plans.

use arrow::datatypes::DataType;
use chrono_tz::Tz;

use super::Pipeline;
use super::check::{Checker, type_name};
use super::read::micros;
use super::sections::check_reference;
use super::spec::*;
use crate::analysis::{
    AnalysisKind, AnalysisPlan, AnomaliesPlan, AttributionPlan, EventFilter, FlowPlan, FunnelPlan, LiftPlan, Measure,
    OverlapPlan, PathsPlan, Period, RetentionPlan, SizesPlan, TransitionsPlan, TrendPlan,
};
use crate::event::{Field, ValueType};
use crate::expression::Expression;
use crate::profile::TraitPlan;
use crate::transform::{Aliases, Contracts, EventScope};

/// None where something was reported.
pub fn analysis(
    checker: &Checker,
    name: &str,
    spec: &AnalysisSpec,
    traits: &[TraitPlan],
    timezone: Tz,
) -> Option<AnalysisPlan> {
    let mut reads = Reads { checker, traits, fields: Vec::new() };
    let kind = reads.kind(&spec.kind);
    // What results are told apart by is a value of any event.
    let by = spec.by.as_ref().map(|by| reads.expression(by, None));
    let names = checker.segment_names();
    let known = spec.segment.as_ref().is_none_or(|name| check_reference(&checker.reader, name, "segment", &names));
    Some(AnalysisPlan {
        name: name.to_string(),
        kind: kind?,
        by: by.map_or(Some(None), |by| by.map(Some))?,
        segment: known.then(|| spec.segment.as_ref().map(|literal| literal.text.clone()))?,
        fields: reads.fields,
        timezone: timezone.name().to_string(),
    })
}

/// An analysis whose results are told apart by another value of events.
///
/// # Errors
/// What is wrong with `by`.
pub fn told_apart(pipeline: &Pipeline, plan: AnalysisPlan, by: &str) -> Result<AnalysisPlan, String> {
    if !plan.kind.is_of_events() {
        return Err(format!("`{}` is of segments and not of events", plan.kind.name()));
    }
    let contracts = Contracts::compile(&pipeline.transform.contracts).map_err(|(_, why)| why)?;
    let aliases = Aliases::new();
    let scope = EventScope::new(&contracts, None, &aliases);
    let by = Expression::compile(by, &scope).map_err(|error| error.to_string())?;
    let mut plan = AnalysisPlan { by: Some(by), ..plan };
    add(&mut plan.fields, scope.fields());
    Ok(plan)
}

/// Collects what the expressions read: the stream itself need not.
struct Reads<'c, 'd> {
    checker: &'c Checker<'d>,
    traits: &'c [TraitPlan],
    fields: Vec<Field>,
}

impl Reads<'_, '_> {
    fn kind(&mut self, spec: &AnalysisKindSpec) -> Option<AnalysisKind> {
        Some(match spec {
            AnalysisKindSpec::Trend { take, every, measures } => {
                let filter = self.events(take);
                let measures = self.measures(measures, take);
                AnalysisKind::Trend(TrendPlan { take: filter?, every: *every, measures: measures? })
            }
            AnalysisKindSpec::Funnel { steps, within, modes, any_order, trend } => {
                let filters: Vec<Option<EventFilter>> = steps.iter().map(|step| self.events(step)).collect();
                AnalysisKind::Funnel(FunnelPlan {
                    steps: filters.into_iter().collect::<Option<_>>()?,
                    within_us: micros(*within),
                    modes: *modes,
                    any_order: *any_order,
                    trend: *trend,
                })
            }
            AnalysisKindSpec::Retention { start, back, every, periods, counting, value } => {
                let any = EventsSpec { event: None, filter: None };
                let back = back.as_ref().unwrap_or(&any);
                let (start, filter) = (self.events(start), self.events(back));
                let value = value.as_ref().map(|value| self.number(value, back, "`value`"));
                AnalysisKind::Retention(RetentionPlan {
                    start: start?,
                    back: filter?,
                    every: *every,
                    periods: *periods,
                    counting: *counting,
                    value: value.map_or(Some(None), |value| value.map(Some))?,
                })
            }
            AnalysisKindSpec::Attribution { conversion, value, touch, channel, lookback, models, counts_direct } => {
                let (converts, touches) = (self.events(conversion), self.events(touch));
                let value = value.as_ref().map(|value| self.number(value, conversion, "`value`"));
                let channel = self.expression(channel, touch.event.as_deref());
                AnalysisKind::Attribution(AttributionPlan {
                    conversion: converts?,
                    value: value.map_or(Some(None), |value| value.map(Some))?,
                    touch: touches?,
                    channel: channel?,
                    lookback_us: micros(*lookback),
                    models: models.clone(),
                    counts_direct: *counts_direct,
                })
            }
            AnalysisKindSpec::Paths { of, anchor, is_end, length, within, top } => {
                let (of, anchor) = (self.events(of), self.events(anchor));
                AnalysisKind::Paths(PathsPlan {
                    of: of?,
                    anchor: anchor?,
                    is_end: *is_end,
                    length: *length,
                    within_us: within.map(micros),
                    top: *top,
                })
            }
            AnalysisKindSpec::Transitions { of, within, top } => {
                let of = self.events(of)?;
                AnalysisKind::Transitions(TransitionsPlan { of, within_us: within.map(micros), top: *top })
            }
            AnalysisKindSpec::Sizes { segments, every } => {
                AnalysisKind::Sizes(SizesPlan { segments: self.segments(segments)?, every: *every })
            }
            AnalysisKindSpec::Flow { segments } => AnalysisKind::Flow(FlowPlan { segments: self.segments(segments)? }),
            AnalysisKindSpec::Overlap { segments } => {
                AnalysisKind::Overlap(OverlapPlan { segments: self.segments(segments)? })
            }
            AnalysisKindSpec::Lift { segment, traits, top } => {
                let (known, traits) = (self.segments(std::slice::from_ref(segment)), self.comparable(traits));
                let (segment, traits) = (known.map(|_| segment)?, traits?);
                if traits.is_empty() {
                    let message = "no trait has texts, numbers or booleans: there is nothing to compare";
                    self.checker.reader.findings.error(segment.span, message, None);
                    return None;
                }
                AnalysisKind::Lift(LiftPlan { segment: segment.text.clone(), traits, top: *top })
            }
            AnalysisKindSpec::Anomalies { take, every, measures, season, alpha, most } => {
                let filter = self.events(take);
                let measures = self.measures(measures, take);
                let usual = match every {
                    Period::Hour => 24,
                    Period::Day => 7,
                    Period::Week => 52,
                    Period::Month => 12,
                };
                AnalysisKind::Anomalies(AnomaliesPlan {
                    trend: TrendPlan { take: filter?, every: Some(*every), measures: measures? },
                    every: *every,
                    season: season.unwrap_or(usual) as usize,
                    alpha: *alpha,
                    most: *most,
                })
            }
        })
    }

    fn segments(&self, segments: &[Literal]) -> Option<Vec<String>> {
        let names = self.checker.segment_names();
        let unknown = segments.iter().filter(|name| !check_reference(&self.checker.reader, name, "segment", &names));
        (unknown.count() == 0).then(|| segments.iter().map(|literal| literal.text.clone()).collect())
    }

    /// Columns of traits whose values can be told apart or put in order: those that are named, as in expressions, or all.
    fn comparable(&self, named: &[Literal]) -> Option<Vec<(String, ValueType)>> {
        let columns =
            self.traits.iter().flat_map(|plan| plan.columns.iter().map(|column| (column.written(&plan.name), column)));
        let all: Vec<(String, (String, ValueType))> = columns
            .filter(|(_, column)| !matches!(column.value_type, ValueType::Timestamp | ValueType::Json))
            .map(|(written, column)| (written, (column.name.clone(), column.value_type)))
            .collect();
        if named.is_empty() {
            return Some(all.into_iter().map(|(_, column)| column).collect());
        }
        let names: Vec<&str> = all.iter().map(|(written, _)| written.as_str()).collect();
        let found = |literal: &Literal| {
            let known = check_reference(&self.checker.reader, literal, "trait with texts, numbers or booleans", &names);
            known.then(|| all.iter().find(|(written, _)| *written == literal.text).map(|(_, column)| column.clone()))
        };
        let found: Vec<Option<(String, ValueType)>> = named.iter().map(|literal| found(literal).flatten()).collect();
        found.into_iter().collect()
    }

    fn events(&mut self, spec: &EventsSpec) -> Option<EventFilter> {
        let events = self.checker.events(spec.event.as_deref());
        let filter = spec.filter.as_ref().map(|sql| {
            let scope = self.checker.event_scope(events.as_deref());
            let filter = self.checker.predicate(sql, &scope, "`where`");
            add(&mut self.fields, scope.fields());
            filter
        });
        let label = events.as_ref().map_or_else(|| "any".to_string(), |events| events.join(", "));
        Some(EventFilter { label, events, filter: filter.map_or(Some(None), |filter| filter.map(Some))? })
    }

    fn expression(&mut self, sql: &Sql, events: Option<&[Literal]>) -> Option<Expression> {
        let names: Option<Vec<String>> = events.map(|events| events.iter().map(|event| event.text.clone()).collect());
        let scope = self.checker.event_scope(names.as_deref());
        let expression = self.checker.compile(sql, &scope);
        add(&mut self.fields, scope.fields());
        expression
    }

    fn number(&mut self, sql: &Sql, of: &EventsSpec, what: &str) -> Option<Expression> {
        let expression = self.expression(sql, of.event.as_deref())?;
        if !matches!(expression.data_type, DataType::Int64 | DataType::Int32 | DataType::Float64) {
            let message = format!("{what} must be a number, this is {}", type_name(&expression.data_type));
            let help = "CAST(… AS DOUBLE) makes one of a text".to_string();
            self.checker.reader.findings.error(sql.span, message, help);
            return None;
        }
        Some(expression)
    }

    fn measures(
        &mut self,
        specs: &[(String, super::findings::Span, MeasureSpec)],
        of: &EventsSpec,
    ) -> Option<Vec<(String, Measure)>> {
        let mut sound = true;
        let mut measures = Vec::new();
        for (name, span, spec) in specs {
            if ["time", "by"].contains(&name.as_str()) {
                let message = format!("`{name}` is a column of its own: a measure needs another name");
                self.checker.reader.findings.error(*span, message, None);
                sound = false;
            }
            let measure = match spec {
                MeasureSpec::Count => Some(Measure::Count),
                MeasureSpec::People => Some(Measure::People),
                MeasureSpec::Sum(sql) => self.number(sql, of, "`sum`").map(Measure::Sum),
                MeasureSpec::Min(sql) => self.number(sql, of, "`min`").map(Measure::Min),
                MeasureSpec::Max(sql) => self.number(sql, of, "`max`").map(Measure::Max),
                MeasureSpec::Mean(sql) => self.number(sql, of, "`mean`").map(Measure::Mean),
                MeasureSpec::Quantile(sql, at) => {
                    self.number(sql, of, "`quantile`").map(|value| Measure::Quantile(value, *at))
                }
                MeasureSpec::Ratio(first, second) => {
                    let plain = specs.iter().filter(|(_, _, spec)| !matches!(spec, MeasureSpec::Ratio(..)));
                    let names: Vec<&str> = plain.map(|(name, _, _)| name.as_str()).collect();
                    let known = |literal| check_reference(&self.checker.reader, literal, "measure", &names);
                    (known(first) & known(second)).then(|| Measure::Ratio(first.text.clone(), second.text.clone()))
                }
            };
            measures.push((name.clone(), measure));
        }
        let measures: Option<Vec<(String, Measure)>> =
            measures.into_iter().map(|(name, measure)| Some((name, measure?))).collect();
        measures.filter(|_| sound)
    }
}

fn add(known: &mut Vec<Field>, fields: Vec<Field>) {
    for field in fields {
        if !known.contains(&field) {
            known.push(field);
        }
    }
}
