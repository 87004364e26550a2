//! `analyses:` → plans.

use arrow::datatypes::DataType;
use chrono_tz::Tz;

use super::Pipeline;
use super::check::{Checker, type_name};
use super::read::micros;
use super::sections::check_reference;
use super::spec::*;
use crate::analysis::{
    AnalysisKind, AnalysisPlan, AttributionPlan, EventFilter, FunnelPlan, Measure, PathsPlan, RetentionPlan, TrendPlan,
};
use crate::event::Field;
use crate::expression::Expression;
use crate::transform::{Aliases, Contracts, EventScope};

/// None where something was reported.
pub fn analysis(checker: &Checker, name: &str, spec: &AnalysisSpec, timezone: Tz) -> Option<AnalysisPlan> {
    let mut reads = Reads { checker, fields: Vec::new() };
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
        })
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
