//! `explain activation NAME WHO`: where someone is in it, and what its steps would send now.

use serde_json::{Map, Value, json};

use super::{Person, segment};
use crate::activation::{Action, ActivationPlan, ReEntry, Status, Template, Trigger, time_text};
use crate::cli::output::{Output, print};
use crate::cli::run::engine_failure;
use crate::cli::{Exit, Failure, Global, NodeConfig};
use crate::definition::Pipeline;
use crate::engine::{Look, describe_profile, known_plans, look, said};
use crate::event::TimeUs;
use crate::journey::Journeys;
use crate::profile::Traits;
use crate::transform::Restore;

/// `event`: the event that sets it off, as JSON, for templates that read it.
pub async fn explain(
    global: &Global,
    config: &NodeConfig,
    pipeline: &Pipeline,
    person: &Person,
    plan: &ActivationPlan,
    event: Option<&str>,
) -> Result<Exit, Failure> {
    let event = event.map(serde_json::from_str::<Value>).transpose();
    let event = event.map_err(|error| Failure::findings(format!("the event is not JSON: {error}")))?;
    let look = look(&person.reader, pipeline, person.number).await.map_err(engine_failure)?;
    let known = known_plans(&person.reader).await.map_err(Failure::environment)?;
    let schema = Restore::new(&pipeline.transform.fields).schema();
    let traits = Traits::new(pipeline.traits.clone(), pipeline.sessions.clone(), &schema).map_err(Failure::fatal)?;
    let (now, _) = segment::now(pipeline, config, look.engine.now).await;
    let columns = traits.columns(std::slice::from_ref(&look.profile), &[now]).map_err(Failure::fatal)?;
    let segments: Vec<String> = pipeline.segments.iter().map(|plan| plan.name.clone()).collect();
    let profile =
        describe_profile(&pipeline.identity, &traits, &segments, &look.profile, Some(&person.component), &columns, 0);
    let numbers: Vec<u32> =
        known.iter().filter(|known| known.name == plan.name).map(|known| known.activation).collect();
    let journeys = look.profile.journeys.as_deref();
    let told = json!({
        "activation": plan.name,
        "profile_id": look.profile.id.to_string(),
        "now": time_text(now),
        "under_way": under_way(journeys, &numbers, plan),
        "in_the_way": in_the_way(pipeline, plan, &look, journeys, &numbers, now),
        "sends": sends(plan, &profile, event.as_ref()),
    });
    if Output::or_default(global.output) == Output::Json {
        print(&told.to_string());
    } else {
        print(&text(&told, &person.who));
    }
    Ok(Exit::Well)
}

fn under_way(journeys: Option<&Journeys>, numbers: &[u32], plan: &ActivationPlan) -> Value {
    let runs = journeys.iter().flat_map(|journeys| &journeys.runs).filter(|run| numbers.contains(&run.activation));
    let told = runs.map(|run| {
        let step = plan.steps.get(usize::from(run.step)).map(|step| step.id.as_str());
        let until = (run.due != TimeUs::MAX).then(|| time_text(run.due));
        let entry = format!("{:032x}", u128::from_be_bytes(run.entry));
        json!({ "entry_id": entry, "entered_at": time_text(run.entered_at), "waits_at": step, "until": until })
    });
    told.collect()
}

/// Why a message of it would not be sent now, or nobody would enter.
fn in_the_way(
    pipeline: &Pipeline,
    plan: &ActivationPlan,
    look: &Look,
    journeys: Option<&Journeys>,
    numbers: &[u32],
    now: TimeUs,
) -> Value {
    let mut reasons = Vec::new();
    if plan.status != Status::Live {
        reasons.push("its status is not live".to_string());
    }
    if let Some(consent) = &plan.consent {
        reasons.extend(consent.refusal(said(&pipeline.traits, &look.profile, &consent.column)));
    }
    for name in &pipeline.messaging.suppression {
        let index = pipeline.segments.iter().position(|plan| plan.name == *name);
        if index.is_some_and(|index| look.profile.membership(index as u16).member) {
            reasons.push(format!("suppressed: the person is in {name}"));
        }
    }
    let number = numbers.first().copied().unwrap_or_default();
    let past = journeys.and_then(|journeys| journeys.past(number));
    match (plan.re_entry, past) {
        (ReEntry::Once, Some(past)) => {
            reasons.push(format!("it was entered before, at {}, and is entered once", time_text(past.last_at)));
        }
        (ReEntry::After(pause_us), Some(past)) if past.last_at + pause_us > now => {
            let (last, next) = (time_text(past.last_at), time_text(past.last_at + pause_us));
            reasons.push(format!("it was entered at {last}, and can be again from {next}"));
        }
        _ => {}
    }
    if let Some(cap) = plan.frequency_cap {
        let sent = journeys.map_or(0, |journeys| journeys.sent_after(number, now - cap.within_us));
        if sent >= cap.count as usize {
            reasons.push(format!("frequency cap: {sent} sent within the time"));
        }
    }
    json!(reasons)
}

/// Each step that sends, with its body as it would be now.
fn sends(plan: &ActivationPlan, profile: &Value, event: Option<&Value>) -> Value {
    let mut context = Map::new();
    context.insert("profile".to_string(), profile.clone());
    context.insert("activation".to_string(), json!(plan.name));
    if let Trigger::Enters(name) | Trigger::Exits(name) | Trigger::Schedule { over: name, .. } = &plan.trigger {
        context.insert("segment".to_string(), json!(name));
    }
    if let Some(event) = event {
        context.insert("event".to_string(), event.clone());
    }
    let context = Value::Object(context);
    let told = plan.steps.iter().filter_map(|step| {
        let Action::Send { to, body } = &step.action else { return None };
        let rendered = match body {
            None => Ok(context.clone()),
            Some(body) => Template::compile(body).and_then(|template| template.render(&context)),
        };
        Some(match rendered {
            Ok(body) => json!({ "step": step.id, "to": to, "body": body }),
            Err(error) => json!({ "step": step.id, "to": to, "error": error.to_string() }),
        })
    });
    told.collect()
}

fn text(told: &Value, who: &str) -> String {
    let of = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let mut lines = vec![format!("activation {} for {who} ({})", of(&told["activation"]), of(&told["profile_id"]))];
    for run in told["under_way"].as_array().into_iter().flatten() {
        let until = run["until"].as_str().map_or("something happens".to_string(), str::to_string);
        let at = run["waits_at"].as_str().unwrap_or("a step of an earlier version");
        lines.push(format!("under way since {}: waits at {at} until {until}", of(&run["entered_at"])));
    }
    for reason in told["in_the_way"].as_array().into_iter().flatten() {
        lines.push(format!("in the way: {}", of(reason)));
    }
    for send in told["sends"].as_array().into_iter().flatten() {
        lines.push(format!("\n{} to {}", of(&send["step"]), of(&send["to"])));
        match send["error"].as_str() {
            Some(error) => lines.push(format!("  cannot be made: {error}")),
            None => lines.push(indented(&format!("{:#}", send["body"]))),
        }
    }
    lines.join("\n")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
