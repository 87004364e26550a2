//! Traits over events, one SELECT each: by profile, or by profile and key.

use arrow::datatypes::DataType;

use super::Statement;
use crate::event::ValueType;
use crate::expression::Dialect;
use crate::profile::{EventRule, MAX_KEYS, OnMerge, TraitKind, TraitPlan};
use crate::sink::views::quoted;

/// The name of the events with their values.
pub(super) const EVENTS: &str = "event_values";

/// What a column of a trait is where someone has none of its events; None: null.
pub(super) fn when_empty(rule: &EventRule, part: &str) -> Option<&'static str> {
    if rule.by.is_some() {
        return Some(match part {
            "keys" => "0",
            "overflow" => "false",
            _ => "'{}'",
        });
    }
    match rule.kind {
        TraitKind::Count => Some("0"),
        TraitKind::Sum if rule.input_type == ValueType::Double => Some("0.0"),
        TraitKind::Sum => Some("0"),
        TraitKind::Latest | TraitKind::First | TraitKind::Min | TraitKind::Max | TraitKind::Mean => None,
    }
}

impl Statement<'_> {
    /// A SELECT of `profile_id` and the columns of a trait, for those who have events of it.
    pub(super) fn event_trait(&self, plan: &TraitPlan, rule: &EventRule) -> String {
        let Some(main) = plan.columns.first().map(|column| quoted(&column.name)) else { return String::new() };
        if rule.by.is_none() {
            return self.values(rule, &["profile_id"], &main);
        }
        let column = |part: &str| {
            let column = plan.columns.iter().find(|column| column.part == part);
            column.map_or_else(|| quoted(part), |column| quoted(&column.name))
        };
        let (keys, overflow) = (column("keys"), column("overflow"));
        // Keys count as soon as they were there once, inside of a window or not.
        let all = format!(
            "SELECT profile_id, {} AS all_keys FROM ({}) AS e WHERE {} GROUP BY profile_id",
            self.count("DISTINCT event_key"),
            self.rows(rule),
            self.takes_part(rule)
        );
        let member = format!("concat({}, ':', {})", self.quoted_json("event_key"), self.json("key_value", rule));
        let object = match self.dialect {
            Dialect::ClickHouse => format!(
                "arrayStringConcat(arrayMap(x -> x.2, arraySort(groupArray((assumeNotNull(event_key), assumeNotNull({member}))))), ',')"
            ),
            Dialect::DataFusion => format!("string_agg({member}, ',' ORDER BY event_key)"),
        };
        let shown = format!(
            "SELECT profile_id, concat('{{', {object}, '}}') AS object, {} AS shown_keys FROM ({}) AS k \
             WHERE key_value IS NOT NULL GROUP BY profile_id",
            self.count("*"),
            self.values(rule, &["profile_id", "event_key"], "key_value"),
        );
        let whole = format!("n.all_keys <= {MAX_KEYS}");
        format!(
            "SELECT n.profile_id AS profile_id, CASE WHEN {whole} THEN coalesce(k.object, '{{}}') ELSE NULL END AS {main}, \
             CASE WHEN {whole} THEN coalesce(k.shown_keys, 0) ELSE NULL END AS {keys}, n.all_keys > {MAX_KEYS} AS {overflow} \
             FROM ({all}) AS n LEFT JOIN ({shown}) AS k ON n.profile_id = k.profile_id"
        )
    }

    /// A SELECT of a trait's value by these.
    fn values(&self, rule: &EventRule, by: &[&str], name: &str) -> String {
        let (by, rows) = (by.join(", "), self.rows(rule));
        let mut is = self.takes_part(rule);
        if let Some(window) = &rule.window {
            let first = window.first_pane(self.now).saturating_mul(window.pane_us);
            let (first, now) = (self.dialect.time(first), self.dialect.time(self.now));
            is = format!("{is} AND event_time >= {first} AND event_time <= {now}");
        }
        let aggregate = match &rule.kind {
            TraitKind::Latest | TraitKind::First => {
                let order = if rule.prefers_earlier() { "ASC" } else { "DESC" };
                let rank = match rule.on_merge {
                    OnMerge::SourcePriority => format!("{}, ", self.rank(&rule.source_order)),
                    OnMerge::Latest | OnMerge::Earliest | OnMerge::Survivor => String::new(),
                };
                return format!(
                    "SELECT {by}, {} AS {name} FROM (SELECT {by}, event_value, row_number() OVER (PARTITION BY {by} ORDER BY \
                     {rank}event_time {order}, event_id {order}, event_value DESC NULLS LAST) AS place \
                     FROM ({rows}) AS e WHERE {is}) AS e WHERE place = 1",
                    // The best identifier of an event is not in the tables.
                    if rule.on_merge == OnMerge::Survivor { "nullif(event_value, event_value)" } else { "event_value" }
                );
            }
            TraitKind::Count => self.count("*"),
            TraitKind::Sum => self.number(&self.exact_sum(rule), rule),
            TraitKind::Mean => {
                let (sum, count) = (self.exact_sum(rule), self.count("*"));
                format!("{} / {}", self.unscaled(&sum, rule), self.double(&count))
            }
            TraitKind::Min => "min(event_value)".to_string(),
            TraitKind::Max => "max(event_value)".to_string(),
        };
        format!("SELECT {by}, {aggregate} AS {name} FROM ({rows}) AS e WHERE {is} GROUP BY {by}")
    }

    /// A SELECT of the events of a trait with what it reads of them.
    fn rows(&self, rule: &EventRule) -> String {
        let input = rule.input.as_ref().map_or_else(|| "1".to_string(), |input| self.over_events(input));
        let mut columns = vec![
            "profile_id".to_string(),
            format!("{} AS event_time", quoted("timestamp")),
            "message_id AS event_id".to_string(),
            "source AS event_source".to_string(),
            format!("{input} AS event_value"),
        ];
        columns.extend(rule.by.as_ref().map(|by| format!("{} AS event_key", self.over_events(by))));
        columns.extend(rule.presence.as_ref().map(|presence| format!("{} AS event_says", quoted(presence))));
        let mut tests = Vec::new();
        tests.extend(rule.events.as_ref().map(|names| {
            let names: Vec<String> = names.iter().map(|name| self.dialect.text(name)).collect();
            if names.is_empty() { "false".to_string() } else { format!("event IN ({})", names.join(", ")) }
        }));
        tests.extend(rule.filter.as_ref().map(|filter| self.over_events(filter)));
        let tests = if tests.is_empty() { String::new() } else { format!(" WHERE {}", tests.join(" AND ")) };
        format!("SELECT {} FROM {EVENTS} AS v{tests}", columns.join(", "))
    }

    /// Which of [`Statement::rows`] change the trait.
    fn takes_part(&self, rule: &EventRule) -> String {
        let mut tests = vec![match &rule.presence {
            // An explicit null deletes.
            Some(_) => "(event_value IS NOT NULL OR event_says)".to_string(),
            None => "event_value IS NOT NULL".to_string(),
        }];
        if matches!(rule.kind, TraitKind::Sum | TraitKind::Mean) && rule.input_type == ValueType::Double {
            tests.push(format!("abs({}) < 1e30", scaled(rule)));
        }
        tests.extend(rule.by.as_ref().map(|_| "event_key IS NOT NULL".to_string()));
        tests.join(" AND ")
    }

    /// 0 is best.
    fn rank(&self, sources: &[String]) -> String {
        let ranks = sources.iter().enumerate();
        let ranks: Vec<String> =
            ranks.map(|(rank, source)| format!("WHEN {} THEN {rank}", self.dialect.text(source))).collect();
        if ranks.is_empty() { "0".to_string() } else { format!("CASE event_source {} ELSE {} END", ranks.join(" "), sources.len()) }
    }

    /// The sum as an integer of the trait's scale.
    fn exact_sum(&self, rule: &EventRule) -> String {
        let value = match (rule.input_type, self.dialect) {
            // Half away from zero; ClickHouse's `round` goes to the even one.
            (ValueType::Double, Dialect::ClickHouse) => {
                let x = scaled(rule);
                format!("trunc({x}) + if(abs({x} - trunc({x})) >= 0.5, sign({x}), 0)")
            }
            (ValueType::Double, Dialect::DataFusion) => format!("round({})", scaled(rule)),
            _ => "event_value".to_string(),
        };
        match self.dialect {
            Dialect::ClickHouse => format!("sum(toInt128({value}))"),
            Dialect::DataFusion => format!("sum(CAST({value} AS DECIMAL(38, 0)))"),
        }
    }

    /// A sum as the trait's value.
    fn number(&self, sum: &str, rule: &EventRule) -> String {
        if rule.scale > 0 {
            return self.unscaled(sum, rule);
        }
        let [least, greatest] = [i64::MIN, i64::MAX].map(|end| match self.dialect {
            Dialect::ClickHouse => format!("toInt128('{end}')"),
            Dialect::DataFusion => format!("CAST('{end}' AS DECIMAL(38, 0))"),
        });
        let inside = format!("least(greatest({sum}, {least}), {greatest})");
        match self.dialect {
            Dialect::ClickHouse => format!("toInt64({inside})"),
            Dialect::DataFusion => format!("CAST({inside} AS BIGINT)"),
        }
    }

    fn unscaled(&self, sum: &str, rule: &EventRule) -> String {
        format!("{} / {}", self.double(sum), self.double(&format!("1e{}", rule.scale)))
    }

    fn double(&self, sql: &str) -> String {
        match self.dialect {
            Dialect::ClickHouse => format!("toFloat64({sql})"),
            Dialect::DataFusion => format!("CAST({sql} AS DOUBLE)"),
        }
    }

    /// A text as JSON.
    fn quoted_json(&self, value: &str) -> String {
        let [backslash, twice, quote] = ["\\", "\\\\", "\\\""].map(|text| self.dialect.text(text));
        format!("concat('\"', replace(replace({value}, {backslash}, {twice}), '\"', {quote}), '\"')")
    }

    /// A value of `by` as JSON.
    fn json(&self, value: &str, rule: &EventRule) -> String {
        let data_type = match (&rule.kind, rule.input_type) {
            (TraitKind::Count, _) => DataType::Int64,
            (TraitKind::Mean, _) => DataType::Float64,
            (_, input) => input.arrow(),
        };
        match data_type {
            DataType::Utf8 => self.quoted_json(value),
            DataType::Timestamp(..) => self.quoted_json(&self.formula("CAST(x AS VARCHAR)", value, data_type)),
            other => self.formula("CAST(x AS VARCHAR)", value, other),
        }
    }
}

/// A double moved to the trait's scale.
fn scaled(rule: &EventRule) -> String {
    format!("(event_value * 1e{})", rule.scale)
}
