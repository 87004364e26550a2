//! `activations:` → plans: triggers, steps, and the names that templates may use.

use chrono_tz::Tz;
use serde_json::json;

use super::check::Checker;
use super::destinations;
use super::findings::{Span, nearest, nearest_or_list};
use super::outputs::{canonical_sql, version};
use super::read::micros;
use super::scope::ProfileScope;
use super::sections::check_reference;
use super::spec::*;
use super::yaml::{Node, Scalar, Value};
use crate::activation::{
    Action, ActivationPlan, Arm, Await, Channel, Consent, DestinationPlan, Emit, Messaging, ReEntry, Schedule, Step,
    Trigger,
};
use crate::event::ValueType;
use crate::expression::Expression;
use crate::profile::{TraitKind, TraitPlan, TraitRule};

/// What activations may name.
pub struct Names<'a> {
    /// For templates: `email`, `checkout`.
    pub traits: &'a [&'a str],
    pub plans: &'a [TraitPlan],
    /// Traits and segments, for branches.
    pub scope: &'a ProfileScope,
    pub timezone: Tz,
}

pub fn activation(checker: &Checker, name: &str, spec: &ActivationSpec, names: &Names<'_>) -> Option<ActivationPlan> {
    let trigger = trigger(checker, &spec.trigger, names);
    let consent = consent(checker, &spec.consent);
    let exits: Vec<Option<Await>> = spec.exit_when.iter().map(|exit| awaited(checker, exit)).collect();
    let mut program = Program { checker, names, trigger: &spec.trigger, steps: Vec::new(), sound: true };
    program.add(&spec.steps, None);
    let (steps, sound) = (program.steps.into_iter().flatten().collect(), program.sound);
    let (trigger, trigger_text) = trigger?;
    // Not the status: going live must not make new messages of old ones.
    let written = |key: &str| spec.written.get(key).map(ToString::to_string).unwrap_or_default();
    let version = version(&["activation", name, &trigger_text, &written("do"), &written("exit_when")]);
    sound.then_some(ActivationPlan {
        name: name.to_string(),
        version,
        trigger,
        status: spec.status,
        on_backfill: spec.on_backfill,
        consent: consent?,
        re_entry: spec.re_entry,
        priority: i64::from(spec.priority),
        frequency_cap: spec.frequency_cap,
        quiet_hours: spec.quiet_hours,
        exit_when: exits.into_iter().collect::<Option<_>>()?,
        on_change: spec.on_change,
        steps,
        written: spec.written.to_string(),
        is_retired: false,
    })
}

/// Steps as one list: each one's place is known before those within it, and what follows it before itself.
struct Program<'a> {
    checker: &'a Checker<'a>,
    names: &'a Names<'a>,
    trigger: &'a TriggerSpec,
    steps: Vec<Option<Step>>,
    sound: bool,
}

impl Program<'_> {
    /// Adds steps, after which comes `after`; gives the first.
    fn add(&mut self, specs: &[JourneyStepSpec], after: Option<u16>) -> Option<u16> {
        let first = self.steps.len() as u16;
        self.steps.extend(specs.iter().map(|_| None));
        for (index, spec) in specs.iter().enumerate() {
            let next = if index + 1 < specs.len() { Some(first + index as u16 + 1) } else { after };
            let action = self.action(&spec.action, next);
            self.sound &= action.is_some();
            let step = action.map(|action| Step { id: spec.id.text.clone(), action, next });
            self.steps[usize::from(first) + index] = step;
        }
        if specs.is_empty() { after } else { Some(first) }
    }

    fn action(&mut self, spec: &JourneyActionSpec, next: Option<u16>) -> Option<Action> {
        let checker = self.checker;
        Some(match spec {
            JourneyActionSpec::Send(send) => {
                let mut sound = check_reference(&checker.reader, &send.to, "destination", &checker.destination_names());
                if let Some((_, node)) = &send.body {
                    sound &= body(checker, node, self.trigger, self.names.traits);
                }
                sound &= destinations::check_body(checker, &send.to, send.body.as_ref().map(|(_, node)| node));
                let body = send.body.as_ref().map(|(body, _)| body.clone());
                return sound.then(|| Action::Send { to: send.to.text.clone(), body });
            }
            JourneyActionSpec::Wait(time) => Action::Wait { for_us: micros(*time) },
            JourneyActionSpec::WaitUntil(local) => Action::WaitUntil(*local),
            JourneyActionSpec::WaitFor { wait, timeout, on_event, on_timeout } => {
                let what = awaited(checker, wait);
                let (on_match, on_timeout) = (self.add(on_event, next), self.add(on_timeout, next));
                Action::WaitFor { what: what?, timeout_us: timeout.map(micros), on_match, on_timeout }
            }
            JourneyActionSpec::Branch { when, then, otherwise } => {
                let when = checker.condition(when, self.names.scope, "`branch`");
                let (then, otherwise) = (self.add(then, next), self.add(otherwise, next));
                Action::Branch { when: when?, then, otherwise }
            }
            JourneyActionSpec::Split(arms) => {
                let mut share = 0.0;
                let mut all: Vec<Arm> = Vec::new();
                for arm in arms {
                    share += arm.share;
                    let upto = (share * (1u64 << 32) as f64).round() as u64;
                    all.push(Arm { name: arm.name.clone(), upto, first: self.add(&arm.steps, next) });
                }
                // Whatever the rounding.
                all.iter_mut().last().into_iter().for_each(|arm| arm.upto = 1 << 32);
                Action::Split(all)
            }
            JourneyActionSpec::Emit { event, properties } => {
                checker.events(Some(std::slice::from_ref(event)));
                let node = properties.as_ref().map(|(_, node)| node);
                let sound = node.is_none_or(|node| body(checker, node, self.trigger, self.names.traits));
                let properties = properties.as_ref().map_or_else(|| json!({}), |(properties, _)| properties.clone());
                return sound.then(|| Action::Emit(Emit::Track { event: event.text.clone(), properties }));
            }
            JourneyActionSpec::Set(traits, node) => {
                let sound = body(checker, node, self.trigger, self.names.traits);
                return sound.then(|| Action::Emit(Emit::Identify { traits: traits.clone() }));
            }
            JourneyActionSpec::Stop => Action::Stop,
        })
    }
}

/// An activation that makes events which set off others that make its own again would never end.
pub fn check_circles(checker: &Checker, definition: &Definition, plans: &[ActivationPlan]) {
    let made = |plan: &ActivationPlan| -> Vec<String> {
        let events = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Emit(Emit::Track { event, .. }) => Some(event.clone()),
            _ => None,
        });
        events.collect()
    };
    let follows = |first: &ActivationPlan, second: &ActivationPlan| match (&second.trigger, second.re_entry) {
        (Trigger::Event { events, .. }, ReEntry::Always) => made(first).iter().any(|event| events.contains(event)),
        _ => false,
    };
    for start in plans {
        // All that it leads to, each once.
        let mut reached: Vec<&ActivationPlan> = Vec::new();
        let mut open = vec![start];
        while let Some(plan) = open.pop() {
            for next in plans.iter().filter(|next| follows(plan, next)) {
                if !reached.iter().any(|known| known.name == next.name) {
                    reached.push(next);
                    open.push(next);
                }
            }
        }
        if reached.iter().any(|plan| plan.name == start.name)
            && let Some(named) = definition.activations.iter().find(|named| named.name == start.name)
        {
            let message = format!("activation `{}` sets itself off, by the events that it makes", start.name);
            let help = "give one of them `re_entry: once` or `after` a time".to_string();
            checker.reader.findings.error(named.span, message, help);
        }
    }
}

/// The plan of a purpose, None for `none`.
pub fn consent(checker: &Checker, literal: &Literal) -> Option<Option<Consent>> {
    if literal.text == "none" {
        return Some(None);
    }
    let purposes = checker.consent_names();
    let mut names = purposes.clone();
    names.push("none");
    if !check_reference(&checker.reader, literal, "purpose in `consent`", &names) {
        return None;
    }
    let default = checker.consent_default(&literal.text);
    let purpose = literal.text.clone();
    Some(Some(Consent { column: consent_trait(&purpose), purpose, default }))
}

/// The trait that holds what a person has agreed to.
pub fn consent_trait(purpose: &str) -> String {
    format!("consent_{purpose}")
}

/// Traits that hold what people have agreed to: whoever says so last counts, whatever the order of the events.
pub fn consent_traits(specs: &[Named<ConsentSpec>]) -> Vec<Named<TraitSpec>> {
    let trait_of = |named: &Named<ConsentSpec>| {
        let body = named.body.as_ref().map(|spec| {
            let mut input = spec.from.clone();
            let text = format!("lower(trim(CAST({} AS VARCHAR)))", spec.from.scalar.text);
            let is = |words: &str| format!("{text} IN ({words})");
            let (yes, no) = (
                is("'true', '1', 'yes', 'y', 'granted', 'allow', 'allowed', 'opt_in', 'opted_in', 'subscribed'"),
                is("'false', '0', 'no', 'n', 'denied', 'deny', 'refused', 'opt_out', 'opted_out', 'unsubscribed', 'revoked'"),
            );
            input.scalar.text = format!("CASE WHEN {yes} THEN true WHEN {no} THEN false END");
            TraitSpec::Events(Box::new(EventTraitSpec {
                kind: TraitKind::Latest,
                input: Some(input),
                input_span: spec.from.span,
                event: None,
                filter: None,
                on_merge: None,
                window: None,
                pane: None,
                by: None,
                steps: Vec::new(),
            }))
        });
        Named { name: consent_trait(&named.name), span: named.span, body }
    };
    specs.iter().map(trait_of).collect()
}

/// What holds for all messages.
pub fn messaging(
    checker: &Checker,
    definition: &Definition,
    plans: &[TraitPlan],
    destinations: &[DestinationPlan],
    timezone: Tz,
) -> Messaging {
    let segments = checker.segment_names();
    for literal in &definition.suppression {
        check_reference(&checker.reader, literal, "segment", &segments);
    }
    let text = |plan: &&TraitPlan| plan.columns.iter().any(|c| c.part.is_empty() && c.value_type == ValueType::String);
    let texts: Vec<&str> = plans.iter().filter(text).map(|plan| plan.name.as_str()).collect();
    if let Some(literal) = &definition.profile_timezone {
        check_reference(&checker.reader, literal, "trait with texts", &texts);
    }
    let channels: Vec<Channel> = definition
        .channels
        .iter()
        .filter_map(|named| {
            let spec = named.body.as_ref()?;
            let (frequency_cap, quiet_hours) = (spec.frequency_cap, spec.quiet_hours);
            Some(Channel { name: named.name.clone(), frequency_cap, quiet_hours })
        })
        .collect();
    let mut channel_of = Vec::new();
    for Named { name, body, .. } in &definition.destinations {
        let said = body.as_ref().and_then(|spec| spec.channel.as_ref());
        if let Some(literal) = said {
            let names: Vec<&str> = definition.channels.iter().map(|channel| channel.name.as_str()).collect();
            check_reference(&checker.reader, literal, "channel", &names);
        }
        let kind = destinations.iter().find(|plan| plan.name == *name).map(|plan| plan.kind.name());
        if let Some(channel) = said.map(|literal| literal.text.as_str()).or(kind) {
            channel_of.push((name.clone(), channel.to_string()));
        }
    }
    Messaging {
        zone: timezone,
        zone_trait: definition.profile_timezone.as_ref().map(|literal| literal.text.clone()),
        suppression: definition.suppression.iter().map(|literal| literal.text.clone()).collect(),
        channels,
        channel_of,
    }
}

fn awaited(checker: &Checker, spec: &AwaitSpec) -> Option<Await> {
    let segments = checker.segment_names();
    let segment = |literal: &Literal| {
        check_reference(&checker.reader, literal, "segment", &segments).then(|| literal.text.clone())
    };
    match spec {
        AwaitSpec::Enters(literal) => segment(literal).map(Await::Enters),
        AwaitSpec::Exits(literal) => segment(literal).map(Await::Exits),
        AwaitSpec::Event { event, filter } => {
            let (events, filter) = events(checker, event, filter.as_ref())?;
            Some(Await::Event { events, filter })
        }
    }
}

/// Events of these names, those for which a condition is true.
fn events(checker: &Checker, event: &[Literal], filter: Option<&Sql>) -> Option<(Vec<String>, Option<Expression>)> {
    let events = checker.events(Some(event)).unwrap_or_default();
    let scope = checker.event_scope(Some(&events));
    let filter = filter.map(|sql| checker.predicate(sql, &scope, "`where`"));
    let filter = filter.map_or(Some(None), |filter| filter.map(Some))?;
    checker.fields_of(&scope);
    drop(scope);
    Some((events, filter))
}

fn trigger(checker: &Checker, spec: &TriggerSpec, names: &Names<'_>) -> Option<(Trigger, String)> {
    let segments = checker.segment_names();
    if let TriggerSpec::Enters(name)
    | TriggerSpec::Exits(name)
    | TriggerSpec::Changes { trait_name: name, .. }
    | TriggerSpec::Schedule { over: name, .. } = spec
        && name.text.split_once('.').is_some_and(|(group, _)| checker.group_names().contains(&group))
    {
        let help = "a group cannot set off an activation so far, only people can".to_string();
        checker.reader.findings.error(name.span, format!("`{}` is of a group", name.text), help);
        return None;
    }
    match spec {
        TriggerSpec::Enters(segment) => check_reference(&checker.reader, segment, "segment", &segments)
            .then(|| (Trigger::Enters(segment.text.clone()), format!("enters {}", segment.text))),
        TriggerSpec::Exits(segment) => check_reference(&checker.reader, segment, "segment", &segments)
            .then(|| (Trigger::Exits(segment.text.clone()), format!("exits {}", segment.text))),
        TriggerSpec::Changes { trait_name, from, to } => {
            let staged: Vec<&str> = checker.staged_traits();
            if !check_reference(&checker.reader, trait_name, "trait with stages", &staged) {
                return None;
            }
            let plan = names.plans.iter().find(|plan| plan.name == trait_name.text)?;
            let TraitRule::Stages(known) = &plan.rule else { return None };
            let known: Vec<&str> = known.iter().map(|stage| stage.name.as_str()).collect();
            let all = from.iter().chain(to).flatten();
            if all.filter(|stage| !check_reference(&checker.reader, stage, "stage", &known)).count() > 0 {
                return None;
            }
            let texts = |stages: &Option<Vec<Literal>>| {
                stages.as_ref().map(|all| all.iter().map(|stage| stage.text.clone()).collect::<Vec<String>>())
            };
            let (from, to) = (texts(from), texts(to));
            let text = format!("changes {} {from:?} {to:?}", trait_name.text);
            Some((Trigger::Changes { trait_name: trait_name.text.clone(), from, to }, text))
        }
        TriggerSpec::Event { event, filter } => {
            let sql = filter.as_ref().map(|sql| canonical_sql(&sql.scalar.text)).unwrap_or_default();
            let (events, filter) = events(checker, event, filter.as_ref())?;
            let text = format!("event {events:?} {sql}");
            Some((Trigger::Event { events, filter }, text))
        }
        TriggerSpec::Schedule { cron, over, timezone } => {
            let schedule = schedule(checker, cron, timezone.as_ref(), names.timezone);
            let known = check_reference(&checker.reader, over, "segment", &segments);
            let schedule = schedule.filter(|_| known)?;
            let text = format!("schedule {} {} {}", schedule.text, schedule.zone, over.text);
            Some((Trigger::Schedule { schedule, over: over.text.clone() }, text))
        }
    }
}

fn schedule(checker: &Checker, cron: &Literal, timezone: Option<&Literal>, default: Tz) -> Option<Schedule> {
    let findings = checker.reader.findings;
    let zone = match timezone {
        Some(literal) => literal.text.parse::<Tz>().map_err(|_| {
            let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let help = nearest(&literal.text, names).unwrap_or("write a name like Europe/Berlin".to_string());
            findings.error(literal.span, format!("`{}` is not the name of a time zone", literal.text), help);
        }),
        None => Ok(default),
    };
    let parsed = cron.text.parse::<croner::Cron>().map_err(|error| {
        let help = "write minute, hour, day, month and day of the week: 0 9 * * MON".to_string();
        findings.error(cron.span, format!("`{}` is no schedule: {error}", cron.text), help);
    });
    Some(Schedule { cron: parsed.ok()?, zone: zone.ok()?, text: cron.text.clone() })
}

/// Templates must parse, and the traits they name must exist. False where something was reported.
fn body(checker: &Checker, node: &Node, trigger: &TriggerSpec, trait_names: &[&str]) -> bool {
    let findings = checker.reader.findings;
    let scalar = match &node.value {
        Value::List(items) => {
            // Every item is looked at, so that all findings come at once.
            return items.iter().filter(|item| !body(checker, item, trigger, trait_names)).count() == 0;
        }
        Value::Map(entries) => {
            return entries.iter().filter(|entry| !body(checker, &entry.value, trigger, trait_names)).count() == 0;
        }
        Value::Scalar(scalar) => scalar,
    };
    if scalar.text.contains("${env:") || scalar.text.contains("${file:") {
        let help = "put it into a header of the destination".to_string();
        findings.error(node.span, "`${…}` is not filled in inside a body: bodies are kept and shown", help);
        return false;
    }
    if !scalar.text.contains("{{") && !scalar.text.contains("{%") {
        return true;
    }
    let environment = minijinja::Environment::new();
    let template = match environment.template_from_str(&scalar.text) {
        Ok(template) => template,
        Err(error) => {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
            findings.error(node.span, format!("the template cannot be read: {detail}"), None);
            return false;
        }
    };
    let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    names.sort();
    let wrong = |name: &&String| !template_name(checker, scalar, node.span, name, trigger, trait_names);
    names.iter().filter(wrong).count() == 0
}

/// A name in a template, with its dots: `profile.traits.email`. A wrong one would fail only when something is sent.
fn template_name(
    checker: &Checker,
    scalar: &Scalar,
    whole: Span,
    name: &str,
    trigger: &TriggerSpec,
    trait_names: &[&str],
) -> bool {
    const PROFILE: [&str; 4] = ["id", "traits", "identifiers", "segments"];
    const EVENT: [&str; 9] =
        ["message_id", "type", "event", "user_id", "anonymous_id", "properties", "traits", "context", "timestamp"];
    let cause = match trigger {
        TriggerSpec::Event { .. } => "event",
        TriggerSpec::Changes { .. } => "stage",
        TriggerSpec::Enters(_) | TriggerSpec::Exits(_) | TriggerSpec::Schedule { .. } => "segment",
    };
    let roots = ["profile", "activation", "trigger", "journey", cause];
    let path: Vec<&str> = name.split('.').collect();
    // How many steps of the path are checked, the last of them against these names.
    let (step, lacks, names): (usize, &str, &[&str]) = match path[..] {
        ["profile", "traits", _, ..] => (2, "there is no trait", trait_names),
        ["profile", _, ..] => (1, "a profile has no", &PROFILE),
        ["event", _, ..] if cause == "event" => (1, "an event has no", &EVENT),
        _ => (0, "this template cannot know", &roots),
    };
    let wrong = path[step];
    if names.contains(&wrong) {
        return true;
    }
    let findings = checker.reader.findings;
    let before: usize = path[..step].iter().map(|step| step.len() + 1).sum();
    let start = scalar.text.find(name).unwrap_or(0) + before;
    let source = &findings.files()[whole.file].text;
    let span = scalar.locate(&(start..start + wrong.len()), whole, source);
    findings.error(span, format!("{lacks} `{wrong}`"), nearest_or_list(wrong, names.iter().copied()));
    false
}
