//! Traits over events, one SELECT each: by profile, or by profile and key.

use arrow::datatypes::DataType;

use super::Statement;
use crate::analysis::fields;
use crate::event::ValueType;
use crate::expression::Dialect;
use crate::profile::{
    EventRule, GapPlan, GapStatistic, MAX_KEYS, OnMerge, TraitColumn, TraitKind, TraitPlan, VALUES_MAX,
};
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
    match (&rule.kind, part) {
        (TraitKind::Sum, _) if rule.input_type == ValueType::Double => Some("0.0"),
        (TraitKind::Count | TraitKind::Sum, _) | (TraitKind::Distinct { .. }, "count") => Some("0"),
        (TraitKind::MostFrequent | TraitKind::LeastFrequent, "overflow") => Some("false"),
        (TraitKind::Distinct { .. }, _) => Some("'[]'"),
        (
            TraitKind::Latest
            | TraitKind::First
            | TraitKind::Min
            | TraitKind::Max
            | TraitKind::Mean
            | TraitKind::MostFrequent
            | TraitKind::LeastFrequent
            | TraitKind::Gap(_),
            _,
        ) => None,
        // Not said in SQL.
        (TraitKind::Funnel(_) | TraitKind::Sequence(_), _) => None,
    }
}

impl Statement<'_> {
    /// A SELECT of `profile_id` and the columns of a trait, for those who have events of it.
    pub(super) fn event_trait(&self, plan: &TraitPlan, rule: &EventRule) -> String {
        let Some(main) = plan.columns.first().map(|column| quoted(&column.name)) else { return String::new() };
        if rule.by.is_none() {
            return self.values(rule, "profile_id", &plan.columns);
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
        let value = match &rule.kind {
            // A list is a text.
            TraitKind::Distinct { .. } => self.quoted_json("key_value"),
            _ => self.json("key_value", rule),
        };
        let member = format!("concat({}, ':', {value})", self.quoted_json("event_key"));
        let object = self.list("event_key", &member);
        let key_value =
            TraitColumn { name: "key_value".to_string(), part: "", value_type: rule.input_type, nullable: true };
        let shown = format!(
            "SELECT profile_id, concat('{{', {object}, '}}') AS object, {} AS shown_keys FROM ({}) AS k \
             WHERE key_value IS NOT NULL GROUP BY profile_id",
            self.count("*"),
            self.values(rule, "profile_id, event_key", &[key_value]),
        );
        let whole = format!("n.all_keys <= {MAX_KEYS}");
        format!(
            "SELECT n.profile_id AS profile_id, CASE WHEN {whole} THEN coalesce(k.object, '{{}}') ELSE NULL END AS {main}, \
             CASE WHEN {whole} THEN coalesce(k.shown_keys, 0) ELSE NULL END AS {keys}, n.all_keys > {MAX_KEYS} AS {overflow} \
             FROM ({all}) AS n LEFT JOIN ({shown}) AS k ON n.profile_id = k.profile_id"
        )
    }

    /// A SELECT of these columns of a trait, by profile or by profile and key.
    fn values(&self, rule: &EventRule, by: &str, columns: &[TraitColumn]) -> String {
        let rows = self.rows(rule);
        let mut is = self.takes_part(rule);
        if let Some(window) = &rule.window {
            let first = window.first_pane(self.now).saturating_mul(window.pane_us);
            let (first, now) = (self.dialect.time(first), self.dialect.time(self.now));
            is = format!("{is} AND event_time >= {first} AND event_time <= {now}");
        }
        // The name of the main value, and that of the one beside it.
        let name = columns.first().map(|column| quoted(&column.name)).unwrap_or_default();
        let beside = |value: String| {
            columns.get(1).map_or_else(String::new, |column| format!(", {value} AS {}", quoted(&column.name)))
        };
        let count = self.count("*");
        let aggregate = match &rule.kind {
            TraitKind::Latest | TraitKind::First => {
                let order = if rule.prefers_earlier() { "ASC" } else { "DESC" };
                let rank = match rule.on_merge {
                    OnMerge::SourcePriority => format!("{}, ", self.rank(&rule.source_order)),
                    OnMerge::Latest | OnMerge::Earliest | OnMerge::Survivor => String::new(),
                };
                // The best identifier of an event is not in the tables.
                let value =
                    if rule.on_merge == OnMerge::Survivor { "nullif(event_value, event_value)" } else { "event_value" };
                return format!(
                    "SELECT {by}, {value} AS {name} FROM (SELECT {by}, event_value, row_number() OVER (PARTITION BY {by} \
                     ORDER BY {rank}event_time {order}, event_id {order}, event_value DESC NULLS LAST) AS place \
                     FROM ({rows}) AS e WHERE {is}) AS e WHERE place = 1"
                );
            }
            TraitKind::MostFrequent | TraitKind::LeastFrequent => {
                let order = if rule.kind == TraitKind::MostFrequent { "DESC" } else { "ASC" };
                let overflow = beside(format!("all_values > {VALUES_MAX}"));
                return format!(
                    "SELECT {by}, CASE WHEN all_values <= {VALUES_MAX} THEN event_value ELSE NULL END AS {name}{overflow} FROM \
                     (SELECT {by}, event_value, count(*) OVER (PARTITION BY {by}) AS all_values, row_number() OVER (PARTITION BY \
                     {by} ORDER BY events {order}, event_value ASC) AS place FROM (SELECT {by}, event_value, count(*) AS events \
                     FROM ({rows}) AS e WHERE {is} GROUP BY {by}, event_value) AS e) AS e WHERE place = 1"
                );
            }
            TraitKind::Distinct { keep } => {
                let list = self.list("event_value", &self.json("event_value", rule));
                let beside = beside(count.clone());
                return format!(
                    "SELECT {by}, CASE WHEN {count} <= {keep} THEN concat('[', {list}, ']') ELSE NULL END AS {name}{beside} \
                     FROM (SELECT {by}, event_value FROM ({rows}) AS e WHERE {is} GROUP BY {by}, event_value) AS e GROUP BY {by}"
                );
            }
            TraitKind::Gap(plan) => return self.gap(plan, by, &name, &rows, &is),
            TraitKind::Funnel(_) | TraitKind::Sequence(_) => {
                let nulls: Vec<String> =
                    columns.iter().map(|column| format!("NULL AS {}", quoted(&column.name))).collect();
                return format!("SELECT profile_id, {} FROM {EVENTS} AS e WHERE false", nulls.join(", "));
            }
            TraitKind::Count => count,
            TraitKind::Sum => self.number(&self.exact_sum(rule), rule),
            TraitKind::Mean => {
                format!("{} / {}", self.unscaled(&self.exact_sum(rule), rule), self.double(&count))
            }
            TraitKind::Min => "min(event_value)".to_string(),
            TraitKind::Max => "max(event_value)".to_string(),
        };
        format!("SELECT {by}, {aggregate} AS {name} FROM ({rows}) AS e WHERE {is} GROUP BY {by}")
    }

    /// The gaps between the latest events; a copy of one is not another.
    fn gap(&self, plan: &GapPlan, by: &str, name: &str, rows: &str, is: &str) -> String {
        let at = match self.dialect {
            Dialect::ClickHouse => "toUnixTimestamp64Micro(event_value)",
            Dialect::DataFusion => "CAST(event_value AS BIGINT)",
        };
        let latest = format!(
            "SELECT {by}, at FROM (SELECT {by}, at, row_number() OVER (PARTITION BY {by} ORDER BY at DESC) AS place FROM \
             (SELECT DISTINCT {by}, {at} AS at, event_source, event_id FROM ({rows}) AS e WHERE {is}) AS e) AS e WHERE place <= {}",
            plan.keep
        );
        match plan.statistic {
            GapStatistic::Mean => format!(
                "SELECT {by}, {} / {} / 1e6 AS {name} FROM ({latest}) AS e GROUP BY {by} HAVING count(*) > 1",
                self.double("max(at) - min(at)"),
                self.double(&format!("{} - 1", self.count("*")))
            ),
            GapStatistic::Quantile(level) => format!(
                "SELECT {by}, {} / 1e6 AS {name} FROM (SELECT {by}, gap, row_number() OVER (PARTITION BY {by} ORDER BY gap) AS place, \
                 count(*) OVER (PARTITION BY {by}) AS gaps FROM (SELECT {by}, at - before AS gap FROM (SELECT {by}, at, \
                 min(at) OVER (PARTITION BY {by} ORDER BY at ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING) AS before, \
                 row_number() OVER (PARTITION BY {by} ORDER BY at) AS number FROM ({latest}) AS e) AS e WHERE number > 1) AS e) AS e \
                 WHERE place = least(floor({level:?} * gaps), gaps - 1) + 1",
                self.double("gap")
            ),
        }
    }

    /// A SELECT of the events of a trait with what it reads of them.
    fn rows(&self, rule: &EventRule) -> String {
        let input =
            rule.input.as_ref().map_or_else(|| "1".to_string(), |input| fields::over_events(self.dialect, input));
        let mut columns = vec![
            "profile_id".to_string(),
            format!("{} AS event_time", quoted("timestamp")),
            "message_id AS event_id".to_string(),
            "source AS event_source".to_string(),
            format!("{input} AS event_value"),
        ];
        columns.extend(rule.by.as_ref().map(|by| format!("{} AS event_key", fields::over_events(self.dialect, by))));
        columns.extend(rule.presence.as_ref().map(|presence| format!("{} AS event_says", quoted(presence))));
        let mut tests = Vec::new();
        tests.extend(rule.events.as_ref().map(|names| {
            let names: Vec<String> = names.iter().map(|name| self.dialect.text(name)).collect();
            if names.is_empty() { "false".to_string() } else { format!("event IN ({})", names.join(", ")) }
        }));
        tests.extend(rule.filter.as_ref().map(|filter| fields::over_events(self.dialect, filter)));
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
        if ranks.is_empty() {
            "0".to_string()
        } else {
            format!("CASE event_source {} ELSE {} END", ranks.join(" "), sources.len())
        }
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

    /// Texts of a group with commas between them, in the order of `key`; neither is null.
    fn list(&self, key: &str, text: &str) -> String {
        match self.dialect {
            Dialect::ClickHouse => format!(
                "arrayStringConcat(arrayMap(x -> x.2, arraySort(groupArray((assumeNotNull({key}), assumeNotNull({text}))))), ',')"
            ),
            Dialect::DataFusion => format!("string_agg({text}, ',' ORDER BY {key})"),
        }
    }

    /// A value as JSON.
    fn json(&self, value: &str, rule: &EventRule) -> String {
        let data_type = match (&rule.kind, rule.input_type) {
            (TraitKind::Count, _) => DataType::Int64,
            (TraitKind::Mean | TraitKind::Gap(_), _) => DataType::Float64,
            (_, input) => input.arrow(),
        };
        match data_type {
            DataType::Utf8 => self.quoted_json(value),
            DataType::Timestamp(..) => {
                self.quoted_json(&fields::formula(self.dialect, "CAST(x AS VARCHAR)", value, data_type))
            }
            other => fields::formula(self.dialect, "CAST(x AS VARCHAR)", value, other),
        }
    }
}

/// A double moved to the trait's scale.
fn scaled(rule: &EventRule) -> String {
    format!("(event_value * 1e{})", rule.scale)
}
