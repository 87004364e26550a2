//! Traits → plans.

use std::collections::BTreeSet;

use super::check::{Checker, type_name, value_type};
use super::findings::Span;
use super::groups;
use super::outputs::{canonical_sql, version};
use super::scope::{ProfileScope, Whose};
use super::spec::*;
use crate::event::{Field, Root, ValueType};
use crate::expression::{Expression, Scope, parse_path};
use crate::profile::{EventRule, OnMerge, RfmRule, Stage, Step, TraitColumn, TraitKind, TraitPlan, TraitRule, Window};

/// Digits after the point that sums of doubles keep: more than money needs, and an i128 still holds 10^32 of it.
const SUM_SCALE: u8 = 6;

const MINUTE_US: i64 = 60_000_000;

/// Plans in an order in which a trait comes after those it is computed from.
pub fn traits(checker: &Checker, specs: &[Named<TraitSpec>], whose: Whose<'_>) -> Vec<TraitPlan> {
    let findings = checker.reader.findings;
    let mut plans: Vec<TraitPlan> = Vec::new();
    let mut computed: Vec<(&str, Span, &TraitSpec)> = Vec::new();
    for Named { name, span, body } in specs {
        let built_in = whose.built_in().iter().map(|(name, _)| *name).chain(whose.taken().iter().copied());
        if built_in.into_iter().any(|other| other == name) {
            let message = match whose {
                Whose::People => format!("every profile has `{name}` already: a trait needs another name"),
                Whose::Group(_) => format!("`{name}` is taken in every group: a trait needs another name"),
            };
            findings.error(*span, message, None);
            continue;
        }
        match body {
            Some(TraitSpec::Rfm(spec)) if whose != Whose::People => {
                findings.error(spec.recency.span, "`rfm` compares people, so far not groups", None);
            }
            Some(TraitSpec::Events(spec)) => plans.extend(event_trait(checker, name, spec, whose)),
            Some(spec) => computed.push((name, *span, spec)),
            None => {}
        }
    }
    let sound: BTreeSet<String> = plans.iter().map(|plan| plan.name.clone()).collect();
    let waiting: BTreeSet<String> = computed.iter().map(|(name, ..)| name.to_string()).collect();
    let broken = specs.iter().map(|named| named.name.clone());
    let broken = broken.filter(|name| !sound.contains(name) && !waiting.contains(name)).collect();
    let foreign = checker.foreign(whose);
    let mut scope = ProfileScope { broken, waiting, foreign, ..ProfileScope::new(whose) };
    plans.iter().for_each(|plan| scope.add(plan));
    // What reads nothing that waits is next, until nothing can be.
    loop {
        let ready = computed.iter().position(|(_, _, spec)| {
            scope.touched_waiting.set(false);
            for sql in expressions(spec) {
                let _ = Expression::compile(&sql.scalar.text, &scope);
            }
            !scope.touched_waiting.get()
        });
        let Some((name, _, spec)) = ready.map(|index| computed.remove(index)) else { break };
        scope.waiting.remove(name);
        match computed_trait(checker, name, spec, &scope, &plans) {
            Some(plan) => {
                scope.add(&plan);
                plans.push(plan);
            }
            None => drop(scope.broken.insert(name.to_string())),
        }
    }
    if let Some((name, span, _)) = computed.first() {
        let names: Vec<&str> = computed.iter().map(|(name, ..)| *name).collect();
        let message =
            format!("trait `{name}` cannot be computed: {} refer to each other in a circle", names.join(", "));
        findings.error(*span, message, None);
    }
    check_columns(checker, specs, &plans, whose);
    plans
}

/// Two traits must not come to one column: `checkout_level` and the level of `checkout`.
fn check_columns(checker: &Checker, specs: &[Named<TraitSpec>], plans: &[TraitPlan], whose: Whose<'_>) {
    let everyone = whose.everyone();
    let built_in = whose.built_in().iter().map(|(name, _)| *name).chain(whose.taken().iter().copied());
    let mut taken: Vec<(&str, &str)> = built_in.map(|name| (name, everyone.as_str())).collect();
    for plan in plans {
        for column in &plan.columns {
            if let Some((_, other)) = taken.iter().find(|(name, _)| *name == column.name) {
                let span = specs.iter().find(|named| named.name == plan.name).map(|named| named.span);
                let message = format!("`{}` of trait `{}` is a column of {other} already", column.name, plan.name);
                span.into_iter().for_each(|span| checker.reader.findings.error(span, message.clone(), None));
            }
            taken.push((&column.name, &plan.name));
        }
    }
}

fn expressions(spec: &TraitSpec) -> Vec<&Sql> {
    match spec {
        TraitSpec::Events(_) => Vec::new(),
        TraitSpec::Formula { sql, .. } => vec![sql],
        TraitSpec::Stages(stages) => stages.iter().map(|(_, sql)| sql).collect(),
        TraitSpec::Rfm(spec) => vec![&spec.recency, &spec.frequency, &spec.monetary],
    }
}

fn computed_trait(
    checker: &Checker,
    name: &str,
    spec: &TraitSpec,
    scope: &ProfileScope,
    before: &[TraitPlan],
) -> Option<TraitPlan> {
    // What reads a faulty trait is not reported as well.
    scope.touched_broken.set(false);
    let sound = expressions(spec).into_iter().all(|sql| Expression::compile(&sql.scalar.text, scope).is_ok());
    if !sound && scope.touched_broken.get() {
        return None;
    }
    let (rule, texts, value) = match spec {
        TraitSpec::Events(_) => return None,
        TraitSpec::Formula { sql, score } => {
            let formula = match score {
                false => checker.compile(sql, scope)?,
                true => {
                    let formula = checker.compile(sql, scope)?;
                    if !matches!(value_type(&formula.data_type), Some(ValueType::Long | ValueType::Double)) {
                        let message = format!("a score must be a number, this is {}", type_name(&formula.data_type));
                        checker.reader.findings.error(sql.span, message, None);
                        return None;
                    }
                    // `least` and `greatest` skip nulls: what is unknown would be a score. A comment may end the text.
                    let text = format!("({}\n)", sql.scalar.text);
                    let text = format!(
                        "CASE WHEN {text} < 0 THEN 0.0 WHEN {text} > 100 THEN 100.0 ELSE CAST({text} AS DOUBLE) END"
                    );
                    Expression::compile(&text, scope).ok()?
                }
            };
            let Some(value) = value_type(&formula.data_type) else {
                let message = format!("a trait cannot hold {}", type_name(&formula.data_type));
                checker.reader.findings.error(sql.span, message, None);
                return None;
            };
            let text = canonical_sql(&formula.sql);
            (TraitRule::Formula(formula), vec![text], value)
        }
        TraitSpec::Stages(stages) => {
            let mut compiled = Vec::new();
            let mut texts = Vec::new();
            for (stage, sql) in stages {
                let condition = checker.condition(sql, scope, &format!("stage `{}`", stage.text));
                compiled.extend(condition.map(|condition| Stage { name: stage.text.clone(), condition }));
                texts.push(format!("{}: {}", stage.text, canonical_sql(&sql.scalar.text)));
            }
            if compiled.len() < stages.len() {
                return None;
            }
            (TraitRule::Stages(compiled), texts, ValueType::String)
        }
        TraitSpec::Rfm(spec) => {
            let (rule, texts) = rfm(checker, spec, scope)?;
            (TraitRule::Rfm(Box::new(rule)), texts, ValueType::String)
        }
    };
    // The meaning changes with that of what it reads.
    let reads: Vec<String> = rule.expressions().into_iter().flat_map(|read| versions_of(before, read)).collect();
    let parts: Vec<&str> = ["trait", name]
        .into_iter()
        .chain(texts.iter().map(String::as_str))
        .chain(reads.iter().map(String::as_str))
        .collect();
    let column = |name: String, part, value_type| TraitColumn { name, part, value_type, nullable: true };
    let columns = match rule {
        TraitRule::Rfm(_) => RFM_PARTS.map(|(part, value)| column(format!("{name}_{part}"), part, value)).to_vec(),
        _ => vec![column(name.to_string(), "", value)],
    };
    Some(TraitPlan { name: name.to_string(), version: version(&parts), rule, columns })
}

/// The values of an RFM trait, in the order of its columns.
const RFM_PARTS: [(&str, ValueType); 5] = [
    ("r", ValueType::Long),
    ("f", ValueType::Long),
    ("m", ValueType::Long),
    ("score", ValueType::String),
    ("segment", ValueType::String),
];

/// With what it means, as texts.
fn rfm(checker: &Checker, spec: &RfmSpec, scope: &ProfileScope) -> Option<(RfmRule, Vec<String>)> {
    let part = |sql: &Sql, what: &str, wanted: &[ValueType], says: &str| {
        let compiled = checker.compile(sql, scope)?;
        let wrong = |message: String| checker.reader.findings.error(sql.span, message, None);
        if !value_type(&compiled.data_type).is_some_and(|found| wanted.contains(&found)) {
            wrong(format!("`{what}` must be {says}, this is {}", type_name(&compiled.data_type)));
            return None;
        }
        if !compiled.times.is_empty() {
            wrong(format!("`{what}` cannot depend on now(): people are compared with each other"));
            return None;
        }
        Some(compiled)
    };
    let number = |sql: &Sql, what: &str| {
        part(sql, what, &[ValueType::Long, ValueType::Double], "a number")?;
        Expression::compile(&format!("CAST({} AS DOUBLE)", sql.scalar.text), scope).ok()
    };
    let recency = part(&spec.recency, "recency", &[ValueType::Timestamp], "a timestamp");
    let (frequency, monetary) = (number(&spec.frequency, "frequency"), number(&spec.monetary, "monetary"));
    let rule = RfmRule { recency: recency?, frequency: frequency?, monetary: monetary?, every_us: spec.every_us };
    let mut texts = vec!["rfm".to_string(), rule.every_us.to_string()];
    texts.extend([&rule.recency, &rule.frequency, &rule.monetary].map(|read| canonical_sql(&read.sql)));
    Some((rule, texts))
}

/// The versions of the traits that an expression reads.
pub fn versions_of(plans: &[TraitPlan], expression: &Expression) -> Vec<String> {
    let reads = |plan: &&TraitPlan| {
        expression.inputs.iter().any(|input| plan.columns.iter().any(|column| column.name == input.column))
    };
    plans.iter().filter(reads).map(|plan| plan.version.to_string()).collect()
}

/// None where something was reported.
fn event_trait(checker: &Checker, name: &str, spec: &EventTraitSpec, whose: Whose<'_>) -> Option<TraitPlan> {
    if !groups::check_people(checker, spec, whose) {
        return None;
    }
    let events = checker.events(spec.event.as_deref());
    let scope = checker.event_scope(events.as_deref());
    let person = groups::person_scope();
    let of = |sql: &Sql| -> &dyn Scope { if groups::is_person(sql) { &person } else { &scope } };
    let input = spec.input.as_ref().map(|sql| checker.compile(sql, of(sql)));
    let filter = spec.filter.as_ref().map(|sql| checker.predicate(sql, &scope, "`where`"));
    let by = spec.by.as_ref().map(|sql| key(checker, sql, of(sql)));
    let (input, filter) = (input.map_or(Some(None), |i| i.map(Some)), filter.map_or(Some(None), |f| f.map(Some)));
    let window = window(checker, spec);
    let (steps, exclusions, step_texts) = steps(checker, spec);
    let (input, filter, by, window) = (input?, filter?, by.map_or(Some(None), |by| by.map(Some))?, window?);
    let (steps, exclusions) = (steps?, exclusions?);
    let (input_type, scale) = input_type(checker, spec, input.as_ref())?;
    checker.fields_of(&scope);
    let events = match spec.kind {
        TraitKind::Funnel(_) | TraitKind::Sequence(_) => events_of_steps(&spec.kind, steps.iter().chain(&exclusions)),
        _ => events,
    };

    let presence = match (&spec.kind, &spec.input) {
        (TraitKind::Latest | TraitKind::First, Some(sql)) => presence(checker, &sql.scalar.text, input_type),
        _ => None,
    };
    let sql_of = |sql: &Option<Sql>| sql.as_ref().map_or("*".to_string(), |sql| canonical_sql(&sql.scalar.text));
    let usual = if spec.kind == TraitKind::First { OnMerge::Earliest } else { OnMerge::Latest };
    let on_merge = spec.on_merge.unwrap_or(usual);
    let source_order = if on_merge == OnMerge::SourcePriority { checker.source_order() } else { Vec::new() };
    let mut parts = vec![
        "trait".to_string(),
        name.to_string(),
        format!("{:?}", spec.kind),
        sql_of(&spec.input),
        format!("{events:?}"),
        sql_of(&spec.filter),
        format!("{input_type:?}"),
        scale.to_string(),
    ];
    // What is usual is left out, so that it means the same whether it is written or not.
    if on_merge != usual {
        parts.push(format!("{on_merge:?}"));
        parts.extend(source_order.iter().cloned());
    }
    parts.extend(window.map(|window: Window| format!("window {} {}", window.length_us, window.pane_us)));
    parts.extend(step_texts);
    parts.extend(spec.by.as_ref().map(|by| format!("by {}", canonical_sql(&by.scalar.text))));
    let version = version(&parts.iter().map(String::as_str).collect::<Vec<_>>());
    let rule = EventRule {
        kind: spec.kind.clone(),
        events,
        filter,
        input,
        input_type,
        presence,
        scale,
        on_merge,
        source_order,
        window,
        by,
        steps,
        exclusions,
    };
    let columns = columns(name, &rule);
    Some(TraitPlan { name: name.to_string(), version, rule: TraitRule::Events(Box::new(rule)), columns })
}

/// The steps and exclusions of a funnel or sequence (None where something was reported), and what they say.
fn steps(checker: &Checker, spec: &EventTraitSpec) -> (Option<Vec<Step>>, Option<Vec<Step>>, Vec<String>) {
    let mut texts = Vec::new();
    let mut compile = |events: &EventsSpec, text: String| {
        let names = checker.events(events.event.as_deref());
        let scope = checker.event_scope(names.as_deref());
        let filter = events.filter.as_ref().map(|sql| checker.predicate(sql, &scope, "`where`"));
        checker.fields_of(&scope);
        let sql = events.filter.as_ref().map(|sql| canonical_sql(&sql.scalar.text));
        texts.push(format!("{text} {names:?} {sql:?}"));
        Some(Step { filter: filter.map_or(Some(None), |filter| filter.map(Some))?, events: names })
    };
    let taken: Vec<Option<Step>> = spec.steps.iter().map(|step| compile(&step.take, "step".to_string())).collect();
    let without = spec.steps.iter().flat_map(|step| &step.without);
    let excluded: Vec<Option<Step>> = without.map(|events| compile(events, "without".to_string())).collect();
    (taken.into_iter().collect(), excluded.into_iter().collect(), texts)
}

/// The events that a funnel or sequence looks at: those that its steps name. Where anything between two steps matters, all.
fn events_of_steps<'a>(kind: &TraitKind, steps: impl Iterator<Item = &'a Step>) -> Option<Vec<String>> {
    if matches!(kind, TraitKind::Funnel(plan) if plan.modes.strict_order) {
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    for step in steps {
        names.extend(step.events.as_ref()?.iter().cloned());
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// The values of a trait over events.
fn columns(name: &str, rule: &EventRule) -> Vec<TraitColumn> {
    let column = |part: &'static str, value_type: ValueType, nullable: bool| {
        let name = if part.is_empty() { name.to_string() } else { format!("{name}_{part}") };
        TraitColumn { name, part, value_type, nullable }
    };
    if rule.by.is_some() {
        return vec![
            column("", ValueType::Json, true),
            column("keys", ValueType::Long, true),
            column("overflow", ValueType::Boolean, false),
        ];
    }
    match rule.kind {
        TraitKind::Count => vec![column("", ValueType::Long, false)],
        TraitKind::Sum => vec![column("", rule.input_type, false)],
        TraitKind::Mean | TraitKind::Gap(_) => vec![column("", ValueType::Double, true)],
        TraitKind::MostFrequent | TraitKind::LeastFrequent => {
            vec![column("", rule.input_type, true), column("overflow", ValueType::Boolean, false)]
        }
        TraitKind::Distinct { .. } => vec![column("", ValueType::Json, true), column("count", ValueType::Long, false)],
        TraitKind::Funnel(_) => vec![
            column("level", ValueType::Long, false),
            column("started_at", ValueType::Timestamp, true),
            column("reached_at", ValueType::Timestamp, true),
            column("best", ValueType::Long, false),
        ],
        TraitKind::Sequence(_) => vec![
            column("matched", ValueType::Boolean, false),
            column("matched_at", ValueType::Timestamp, true),
            column("level", ValueType::Long, false),
            column("started_at", ValueType::Timestamp, true),
        ],
        TraitKind::Latest | TraitKind::First | TraitKind::Min | TraitKind::Max => {
            vec![column("", rule.input_type, true)]
        }
    }
}

/// `by`: a text, or what can be written as one.
fn key(checker: &Checker, sql: &Sql, scope: &dyn Scope) -> Option<Expression> {
    let key = checker.compile(sql, scope)?;
    match value_type(&key.data_type) {
        Some(ValueType::String) => Some(key),
        Some(ValueType::Long | ValueType::Boolean) => {
            Expression::compile(&format!("CAST({} AS VARCHAR)", sql.scalar.text), scope).ok()
        }
        _ => {
            let message = format!("`by` needs a text, this is {}", type_name(&key.data_type));
            checker.reader.findings.error(sql.span, message, None);
            None
        }
    }
}

/// Outer None where something was reported.
fn window(checker: &Checker, spec: &EventTraitSpec) -> Option<Option<Window>> {
    let findings = checker.reader.findings;
    let Some((length_us, span)) = spec.window else {
        if let Some((_, span)) = spec.pane {
            findings.error(span, "`pane` goes with `window`", None);
            return None;
        }
        return Some(None);
    };
    if length_us < MINUTE_US || length_us % MINUTE_US != 0 {
        findings.error(span, "a window is one or more whole minutes long", "window: 1m, 24h, 30d".to_string());
        return None;
    }
    let Some((pane_us, span)) = spec.pane else { return Some(Some(Window::new(length_us))) };
    if pane_us <= 0 || length_us % pane_us != 0 {
        findings.error(span, "`pane` must divide the window", "window: 30d, pane: 1d".to_string());
        return None;
    }
    Some(Some(Window { length_us, pane_us }))
}

/// The type of what the trait reads, and the scale of a sum.
fn input_type(checker: &Checker, spec: &EventTraitSpec, input: Option<&Expression>) -> Option<(ValueType, u8)> {
    if matches!(spec.kind, TraitKind::Count | TraitKind::Funnel(_) | TraitKind::Sequence(_)) {
        return Some((ValueType::Long, 0));
    }
    let input = input?;
    let json = input.inputs.len() == 1 && input.inputs[0].column.ends_with(":json");
    let plain = parse_path(&input.sql).is_some();
    let value = if json && plain { Some(ValueType::Json) } else { value_type(&input.data_type) };
    let is = if json && plain { "a value of any type" } else { type_name(&input.data_type) };
    let wrong = |wants: &str, help: &str| {
        let message = format!("{wants}, this is {is}");
        checker.reader.findings.error(spec.input_span, message, help.to_string());
        None
    };
    let sql = input.sql.as_str();
    match (&spec.kind, value) {
        (TraitKind::Sum | TraitKind::Mean, Some(ValueType::Long)) => Some((ValueType::Long, 0)),
        (TraitKind::Sum | TraitKind::Mean, Some(ValueType::Double)) => Some((ValueType::Double, SUM_SCALE)),
        (TraitKind::Sum, _) => wrong("`sum` needs a number", &format!("CAST({sql} AS DOUBLE)")),
        (TraitKind::Mean, _) => wrong("`mean` needs a number", &format!("CAST({sql} AS DOUBLE)")),
        (TraitKind::Min | TraitKind::Max, Some(ValueType::Boolean | ValueType::Json) | None) => {
            wrong("`min` and `max` need a number, a timestamp or a text", &format!("CAST({sql} AS DOUBLE)"))
        }
        (TraitKind::Gap(_), Some(ValueType::Timestamp)) => Some((ValueType::Timestamp, 0)),
        (TraitKind::Gap(_), _) => wrong("`gap` needs a timestamp", "gap: timestamp"),
        (_, Some(value)) => Some((value, 0)),
        (_, None) => wrong("a trait holds a text, number, boolean or timestamp", "take one value out of it"),
    }
}

/// For a plain path into an event's traits: the column that tells an explicit null from nothing said.
fn presence(checker: &Checker, sql: &str, value_type: ValueType) -> Option<String> {
    let path = parse_path(sql)?;
    let (root, rest) = path.split_first()?;
    if root != "traits" || rest.is_empty() {
        return None;
    }
    let field = Field { root: Root::Traits, path: rest.to_vec(), value_type, presence: true };
    checker.field(field.clone());
    Some(field.column_name())
}
