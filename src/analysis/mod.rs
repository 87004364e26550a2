//! Analyses: what analysts ask of the events, each said as one SQL statement that ClickHouse and the lake both take.
//!
//! A statement reads `current_events` (in the lake what that is made of, without sessions) or `segment_changes` under the ids of
//! now, so people who turned out to be one count once, by whoever they are now. Both engines are asked in ClickHouse's functions; only what is taken out of JSON is
//! written differently.

mod anomalies;
mod attribution;
pub mod fields;
mod funnel;
mod paths;
mod retention;
mod segments;
mod trend;

pub use anomalies::{AnomaliesPlan, Judged, Odd, judge};
pub use attribution::{AttributionPlan, Contact, Credits, Model, touches};
pub use funnel::{FunnelPlan, STEPS_MAX};
pub use paths::{PathsPlan, TransitionsPlan};
pub use retention::{Counting, RetentionPlan};
pub use segments::{FlowPlan, LiftPlan, OverlapPlan, SizesPlan};
pub use trend::{Measure, TrendPlan};

use std::collections::BTreeSet;

use crate::event::{Field, NAMES, TimeUs};
use crate::expression::{Dialect, Expression};
use crate::sink::views::{self, events_of_people, quoted};

/// A checked analysis.
#[derive(Debug, Clone)]
pub struct AnalysisPlan {
    pub name: String,
    pub kind: AnalysisKind,
    /// Results are told apart by this value of events.
    pub by: Option<Expression>,
    /// Only people who are in this segment now.
    pub segment: Option<String>,
    /// What the expressions read out of JSON.
    pub fields: Vec<Field>,
    /// IANA name: days and weeks are cut in it.
    pub timezone: String,
}

#[derive(Debug, Clone)]
pub enum AnalysisKind {
    Trend(TrendPlan),
    Funnel(FunnelPlan),
    Retention(RetentionPlan),
    Attribution(AttributionPlan),
    Paths(PathsPlan),
    Transitions(TransitionsPlan),
    Sizes(SizesPlan),
    Flow(FlowPlan),
    Overlap(OverlapPlan),
    Lift(LiftPlan),
    Anomalies(AnomaliesPlan),
}

impl AnalysisKind {
    /// Whether it is of events, and not of segments.
    pub fn is_of_events(&self) -> bool {
        use AnalysisKind::*;
        match self {
            Trend(_) | Funnel(_) | Retention(_) | Attribution(_) | Paths(_) | Transitions(_) | Anomalies(_) => true,
            Sizes(_) | Flow(_) | Overlap(_) | Lift(_) => false,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            AnalysisKind::Trend(_) => "trend",
            AnalysisKind::Funnel(_) => "funnel",
            AnalysisKind::Retention(_) => "retention",
            AnalysisKind::Attribution(_) => "attribution",
            AnalysisKind::Paths(_) => "paths",
            AnalysisKind::Transitions(_) => "transitions",
            AnalysisKind::Sizes(_) => "sizes",
            AnalysisKind::Flow(_) => "flow",
            AnalysisKind::Overlap(_) => "overlap",
            AnalysisKind::Lift(_) => "lift",
            AnalysisKind::Anomalies(_) => "anomalies",
        }
    }
}

/// Events of these names (all where None), those for which the condition is true.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub label: String,
    pub events: Option<Vec<String>>,
    pub filter: Option<Expression>,
}

/// A length of time by the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Hour,
    Day,
    Week,
    Month,
}

impl Period {
    pub const NAMES: [(&str, Period); 4] =
        [("hour", Period::Hour), ("day", Period::Day), ("week", Period::Week), ("month", Period::Month)];

    pub fn name(self) -> &'static str {
        Period::NAMES.iter().find(|(_, period)| *period == self).map_or("day", |(name, _)| name)
    }
}

/// The events that count: those from `from` on and before `to`, UTC microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    pub from: Option<TimeUs>,
    pub to: Option<TimeUs>,
}

impl AnalysisPlan {
    /// The statement of the analysis. Its columns are those of the kind; an empty range gives no rows.
    pub fn statement(&self, range: Range, dialect: Dialect) -> String {
        let sql = Sql { plan: self, range, dialect };
        match &self.kind {
            AnalysisKind::Trend(plan) => sql.trend(plan),
            AnalysisKind::Funnel(plan) => sql.funnel(plan),
            AnalysisKind::Retention(plan) => sql.retention(plan),
            AnalysisKind::Attribution(plan) => sql.attribution(plan),
            AnalysisKind::Paths(plan) => sql.paths(plan),
            AnalysisKind::Transitions(plan) => sql.transitions(plan),
            AnalysisKind::Sizes(plan) => sql.sizes(plan),
            AnalysisKind::Flow(plan) => sql.flow(plan),
            AnalysisKind::Overlap(plan) => sql.overlap(plan),
            AnalysisKind::Lift(plan) => sql.lift(plan),
            AnalysisKind::Anomalies(plan) => sql.trend(&plan.trend),
        }
    }
}

/// What the statements of all kinds are made of.
struct Sql<'p> {
    plan: &'p AnalysisPlan,
    range: Range,
    dialect: Dialect,
}

impl Sql<'_> {
    /// The events of the range as `event_values`, with the columns that these expressions read, and `columns` (name and
    /// value over those) besides. `only`: those for which it is true.
    fn events(&self, expressions: &[&Expression], columns: &[(&str, String)], only: Option<&str>) -> String {
        let mut read: BTreeSet<&str> = ["timestamp", "message_id", "event"].into();
        read.extend(expressions.iter().flat_map(|expression| &expression.inputs).map(|input| input.column.as_str()));
        let read = read.into_iter().filter_map(|name| {
            let value = match self.plan.fields.iter().find(|field| field.column_name() == name) {
                Some(field) => fields::column(self.dialect, field),
                None => format!("c.{}", quoted(NAMES.iter().find(|known| **known == name)?)),
            };
            Some(format!("{value} AS {}", quoted(name)))
        });
        let read: Vec<String> = read.collect();
        let mut tests = vec!["c.profile_id IS NOT NULL".to_string()];
        tests.extend(self.range.from.map(|from| format!("c.\"timestamp\" >= {}", self.dialect.time(from))));
        tests.extend(self.range.to.map(|to| format!("c.\"timestamp\" < {}", self.dialect.time(to))));
        tests.extend(self.plan.segment.as_ref().map(|segment| {
            let name = self.dialect.text(segment);
            format!("c.profile_id IN (SELECT m.profile_id FROM segment_members AS m WHERE m.segment = {name})")
        }));
        // No analysis asks for sessions, and the lake would look for those that late events have moved.
        let events = match self.dialect {
            Dialect::ClickHouse => "current_events".to_string(),
            Dialect::DataFusion => format!("({})", events_of_people(views::Dialect::DataFusion)),
        };
        let columns: Vec<String> =
            columns.iter().map(|(name, value)| format!(", {value} AS {}", quoted(name))).collect();
        let only = only.map_or_else(String::new, |only| format!("\n  WHERE {only}"));
        format!(
            "event_values AS (\n  SELECT e.profile_id AS profile_id, e.\"timestamp\" AS \"timestamp\", e.message_id AS message_id, \
             e.event AS event{}\n  FROM (SELECT c.profile_id AS profile_id, {} FROM {events} AS c\n    WHERE {}) AS e{only}\n)",
            columns.concat(),
            read.join(", "),
            tests.join(" AND ")
        )
    }

    fn value(&self, expression: &Expression) -> String {
        fields::over_events(self.dialect, expression)
    }

    /// Whether an event is one of these; true or false, never null.
    fn is(&self, filter: &EventFilter) -> String {
        let names = filter.events.as_ref().map(|events| {
            let names: Vec<String> = events.iter().map(|event| self.dialect.text(event)).collect();
            format!("e.event IN ({})", names.join(", "))
        });
        let tests: Vec<String> = names.into_iter().chain(filter.filter.as_ref().map(|f| self.value(f))).collect();
        match tests.is_empty() {
            true => "true".to_string(),
            false => format!("coalesce({}, false)", tests.join(" AND ")),
        }
    }

    /// The beginning of a time's period, in the zone of the pipeline.
    fn start_of(&self, period: Period, time: &str) -> String {
        let zone = self.dialect.text(&self.plan.timezone);
        format!("toStartOfInterval({time}, INTERVAL 1 {}, {zone})", period.name().to_uppercase())
    }

    /// The text of the value that results are told apart by; an empty text where an event has none.
    fn by(&self) -> Option<String> {
        self.plan.by.as_ref().map(|by| format!("coalesce(CAST({} AS {}), '')", self.value(by), self.text_type()))
    }

    fn text_type(&self) -> &'static str {
        match self.dialect {
            Dialect::ClickHouse => "Nullable(String)",
            Dialect::DataFusion => "VARCHAR",
        }
    }

    fn expressions<'e>(&'e self, filters: &[&'e EventFilter]) -> Vec<&'e Expression> {
        filters.iter().filter_map(|filter| filter.filter.as_ref()).chain(&self.plan.by).collect()
    }
}

/// `SELECT n FROM …`: the numbers from 0 up to `last`.
fn numbers(last: u32) -> String {
    let all: Vec<String> = (0..=last).map(|n| format!("SELECT {n} AS n")).collect();
    all.join(" UNION ALL ")
}
