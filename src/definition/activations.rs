//! `activations:` → plans: triggers, steps, and the names that templates may use.

use super::check::Checker;
use super::destinations;
use super::findings::{Span, nearest_or_list};
use super::outputs::{canonical_sql, version};
use super::sections::check_reference;
use super::spec::*;
use super::yaml::{Node, Scalar, Value};
use crate::activation::{ActivationPlan, SendStep, Trigger};
use crate::profile::{TraitPlan, TraitRule};

pub fn activation(
    checker: &Checker,
    name: &str,
    spec: &ActivationSpec,
    trait_names: &[&str],
    traits: &[TraitPlan],
) -> Option<ActivationPlan> {
    let trigger = trigger(checker, &spec.trigger, traits);
    let names = checker.destination_names();
    let mut steps = Vec::new();
    let mut sound = true;
    for step in &spec.steps {
        sound &= check_reference(&checker.reader, &step.to, "destination", &names);
        if let Some((_, node)) = &step.body {
            sound &= body(checker, node, &spec.trigger, trait_names);
        }
        sound &= destinations::check_body(checker, &step.to, step.body.as_ref().map(|(_, node)| node));
        let body = step.body.as_ref().map(|(body, _)| body.clone());
        steps.push(SendStep { id: step.id.text.clone(), to: step.to.text.clone(), body });
    }
    let (trigger, trigger_text) = trigger?;
    // Not the status: going live must not make new messages of old ones.
    let text_of = |step: &SendStep| format!("{} {} {:?}", step.id, step.to, step.body.as_ref().map(|b| b.to_string()));
    let all: Vec<String> = steps.iter().map(text_of).collect();
    let version = version(&["activation", name, &trigger_text, &all.join("\n")]);
    sound.then_some(ActivationPlan {
        name: name.to_string(),
        version,
        trigger,
        status: spec.status,
        on_backfill: spec.on_backfill,
        steps,
    })
}

fn trigger(checker: &Checker, spec: &TriggerSpec, traits: &[TraitPlan]) -> Option<(Trigger, String)> {
    let segments = checker.segment_names();
    if let TriggerSpec::Enters(name) | TriggerSpec::Exits(name) | TriggerSpec::Changes { trait_name: name, .. } = spec
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
            let plan = traits.iter().find(|plan| plan.name == trait_name.text)?;
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
            let events = checker.events(Some(event)).unwrap_or_default();
            let scope = checker.event_scope(Some(&events));
            let sql = filter.as_ref().map(|sql| canonical_sql(&sql.scalar.text)).unwrap_or_default();
            let filter = filter.as_ref().map(|sql| checker.predicate(sql, &scope, "`where`"));
            let filter = filter.map_or(Some(None), |filter| filter.map(Some))?;
            checker.fields_of(&scope);
            let text = format!("event {events:?} {sql}");
            Some((Trigger::Event { events, filter }, text))
        }
    }
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
        TriggerSpec::Enters(_) | TriggerSpec::Exits(_) => "segment",
    };
    let roots = ["profile", "activation", "trigger", cause];
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
