//! Trends and breakdowns: measures of events by time and value.

use super::{EventFilter, Period, Sql};
use crate::expression::Expression;
use crate::sink::views::quoted;

#[derive(Debug, Clone)]
pub struct TrendPlan {
    pub take: EventFilter,
    /// None: over the whole range.
    pub every: Option<Period>,
    /// By name.
    pub measures: Vec<(String, Measure)>,
}

#[derive(Debug, Clone)]
pub enum Measure {
    /// Events.
    Count,
    /// People who have one.
    People,
    Sum(Expression),
    Min(Expression),
    Max(Expression),
    Mean(Expression),
    /// Between the two nearest values, as spreadsheets do. Exact.
    Quantile(Expression, f64),
    /// One measure divided by another, by name; null where that is 0.
    Ratio(String, String),
}

impl Measure {
    pub fn expression(&self) -> Option<&Expression> {
        match self {
            Measure::Sum(of) | Measure::Min(of) | Measure::Max(of) | Measure::Mean(of) | Measure::Quantile(of, _) => {
                Some(of)
            }
            Measure::Count | Measure::People | Measure::Ratio(..) => None,
        }
    }
}

impl Sql<'_> {
    /// Columns: `time` (where it has periods), `by` (where results are told apart), then the measures.
    pub(super) fn trend(&self, plan: &TrendPlan) -> String {
        let mut keys: Vec<(&str, String)> = Vec::new();
        keys.extend(plan.every.map(|every| ("time", self.start_of(every, "e.\"timestamp\""))));
        keys.extend(self.by().map(|by| ("by", by)));
        let mut columns = keys.clone();
        let mut named: Vec<(String, String)> = Vec::new();
        for (place, (_, measure)) in plan.measures.iter().enumerate() {
            named.extend(measure.expression().map(|of| (format!("value_{place}"), self.value(of))));
        }
        columns.extend(named.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let measured: Vec<String> = plan
            .measures
            .iter()
            .enumerate()
            .filter_map(|(place, (name, measure))| {
                let value = format!("v.value_{place}");
                let sql = match measure {
                    Measure::Count => "count(*)".to_string(),
                    Measure::People => "count(DISTINCT v.profile_id)".to_string(),
                    Measure::Sum(_) => format!("sum({value})"),
                    Measure::Min(_) => format!("min({value})"),
                    Measure::Max(_) => format!("max({value})"),
                    Measure::Mean(_) => format!("avg({value})"),
                    Measure::Quantile(_, at) => format!("quantileExactInclusive({at})({value})"),
                    Measure::Ratio(..) => return None,
                };
                Some(format!("{sql} AS {}", quoted(name)))
            })
            .collect();
        let shown = plan.measures.iter().map(|(name, measure)| match measure {
            Measure::Ratio(of, to) => {
                let (of, to) = (quoted(of), quoted(to));
                format!("CASE WHEN m.{to} <> 0 THEN m.{of} / toFloat64(m.{to}) ELSE NULL END AS {}", quoted(name))
            }
            _ => format!("m.{0} AS {0}", quoted(name)),
        });
        let key_names: Vec<String> = keys.iter().map(|(name, _)| quoted(name)).collect();
        let shown: Vec<String> = key_names.iter().map(|name| format!("m.{name} AS {name}")).chain(shown).collect();
        let expressions: Vec<&Expression> = plan.measures.iter().filter_map(|(_, m)| m.expression()).collect();
        let expressions = [self.expressions(&[&plan.take]), expressions].concat();
        let events = self.events(&expressions, &columns, Some(&self.is(&plan.take)));
        let (keys, group, order) = match key_names.is_empty() {
            true => (String::new(), " HAVING count(*) > 0".to_string(), String::new()),
            false => {
                let list = key_names.iter().map(|name| format!("v.{name}")).collect::<Vec<_>>().join(", ");
                let keys: Vec<String> = key_names.iter().map(|name| format!("v.{name} AS {name}, ")).collect();
                (keys.concat(), format!(" GROUP BY {list}"), format!("\nORDER BY {}", key_names.join(", ")))
            }
        };
        format!(
            "WITH {events}\nSELECT {}\nFROM (SELECT {keys}{} FROM event_values AS v{group}) AS m{order}",
            shown.join(", "),
            measured.join(", ")
        )
    }
}
