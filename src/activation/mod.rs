//! Activations: a trigger, and what it sends where.
//!
//! [`Activations::triggered`] finds what the transitions and events of a batch set off;
//! [`Activations::render`] seals one [`Delivery`] for each, its body to the letter, so that every repeat is the same.
//! Ids are hashes of what caused them, never of chance or clocks (SEMANTICS §7).

pub mod connector;
mod destination;
mod template;

pub use destination::{Delivery, DestinationKind, DestinationPlan, EmailPlan, MailTls};
pub use template::{Template, TemplateError};

use arrow::array::{Array, BooleanArray};
use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value, json};

use crate::event::{EventBatch, ProfileId, TimeUs, column};
use crate::expression::{BoundExpression, EvaluateError, Expression, ExpressionError};
use crate::segment::{Cause, Transition};

#[derive(Debug, Clone)]
pub struct ActivationPlan {
    pub name: String,
    pub version: u64,
    pub trigger: Trigger,
    pub status: Status,
    /// Whether entries and exits that a fill finds set it off.
    pub on_backfill: bool,
    pub steps: Vec<SendStep>,
}

#[derive(Debug, Clone)]
pub enum Trigger {
    Enters(String),
    Exits(String),
    Event {
        events: Vec<String>,
        filter: Option<Expression>,
    },
    /// Another stage of a trait; from and to any of these, or any at all.
    Changes {
        trait_name: String,
        from: Option<Vec<String>>,
        to: Option<Vec<String>>,
    },
}

/// A profile that came into another stage of a trait.
#[derive(Debug, Clone, PartialEq)]
pub struct StageMove {
    /// Index into the batch's profiles.
    pub profile: u32,
    pub trait_name: String,
    pub from: Option<String>,
    pub to: Option<String>,
    /// The slot of the trait, and the how-manieth change of this profile in it: a definition that changes and changes back counts
    /// anew in another slot.
    pub slot: u32,
    pub number: u32,
    pub cause: Cause,
    pub at: TimeUs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Paused,
    DryRun,
    Live,
}

#[derive(Debug, Clone)]
pub struct SendStep {
    pub id: String,
    pub to: String,
    /// A JSON value whose strings may be templates (`{{ … }}`); the full payload where None.
    pub body: Option<Value>,
}

#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    #[error("activation {name} cannot be bound to the events: {source}")]
    Bind { name: String, source: ExpressionError },
    #[error("activation {name}: {source}")]
    Template { name: String, source: TemplateError },
    #[error("the condition of activation {name} cannot be evaluated: {source}")]
    Evaluate { name: String, source: EvaluateError },
}

/// All activations that are not paused, bound to the event columns.
pub struct Activations {
    bound: Vec<Bound>,
    /// By index of the segment.
    segment_slots: Vec<u32>,
}

struct Bound {
    plan: ActivationPlan,
    /// For segment triggers: the segment's index.
    segment: Option<u16>,
    filter: Option<BoundExpression>,
    templates: Vec<Option<Template>>,
}

/// Something that an activation reacts to.
#[derive(Debug, Clone, PartialEq)]
pub struct Triggered {
    activation: usize,
    /// Index into the batch's profiles.
    pub profile: u32,
    pub profile_id: ProfileId,
    /// What tells this entry from every other of the activation and profile.
    cause: String,
    /// The row of the event, for event triggers.
    row: Option<usize>,
    segment: Option<u16>,
    /// For changes of a stage: from and to.
    stages: Option<(Option<String>, Option<String>)>,
    at: TimeUs,
}

impl Activations {
    /// `segments` are the names in the order of their indices, `slots` what their state is kept by.
    pub fn new(
        plans: Vec<ActivationPlan>,
        segments: &[String],
        slots: &[u32],
        events: &SchemaRef,
    ) -> Result<Activations, ActivationError> {
        let mut bound = Vec::new();
        for plan in plans.into_iter().filter(|plan| plan.status != Status::Paused) {
            let (segment, filter) = match &plan.trigger {
                Trigger::Enters(name) | Trigger::Exits(name) => {
                    (segments.iter().position(|known| known == name).map(|index| index as u16), None)
                }
                Trigger::Event { filter, .. } => (None, filter.as_ref().map(|filter| filter.bind(events))),
                Trigger::Changes { .. } => (None, None),
            };
            let filter =
                filter.transpose().map_err(|source| ActivationError::Bind { name: plan.name.clone(), source })?;
            let compile = |step: &SendStep| step.body.as_ref().map(Template::compile).transpose();
            let templates = plan.steps.iter().map(compile).collect::<Result<Vec<_>, _>>();
            let templates =
                templates.map_err(|source| ActivationError::Template { name: plan.name.clone(), source })?;
            bound.push(Bound { plan, segment, filter, templates });
        }
        Ok(Activations { bound, segment_slots: slots.to_vec() })
    }

    fn slot(&self, segment: u16) -> u32 {
        self.segment_slots.get(usize::from(segment)).copied().unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// What the batch sets off. Event triggers come in log order, then the segment triggers.
    pub fn triggered(
        &self,
        events: &EventBatch,
        profile_of_row: &[Option<u32>],
        ids: &[ProfileId],
        transitions: &[Transition],
        stages: &[StageMove],
    ) -> Result<Vec<Triggered>, ActivationError> {
        let mut triggered = Vec::new();
        let names = events.strings(column::EVENT);
        for (activation, bound) in self.bound.iter().enumerate() {
            let Trigger::Event { events: wanted, .. } = &bound.plan.trigger else { continue };
            let named = |row: usize| names.is_valid(row) && wanted.iter().any(|name| name == names.value(row));
            if !(0..events.len()).any(named) {
                continue;
            }
            let filter: Option<BooleanArray> = bound
                .filter
                .as_ref()
                .map(|filter| filter.evaluate_predicate(&events.batch))
                .transpose()
                .map_err(|source| ActivationError::Evaluate { name: bound.plan.name.clone(), source })?;
            for (row, profile) in profile_of_row.iter().enumerate() {
                let Some(profile) = *profile else { continue };
                if named(row) && filter.as_ref().is_none_or(|filter| filter.value(row)) {
                    triggered.push(Triggered {
                        activation,
                        profile,
                        profile_id: ids[profile as usize],
                        cause: cause_of_row(events, row),
                        row: Some(row),
                        segment: None,
                        stages: None,
                        at: events.times(column::TIMESTAMP).value(row),
                    });
                }
            }
        }
        triggered.sort_by_key(|trigger| trigger.row);
        let reacts = |bound: &Bound, cause: Cause| match cause {
            Cause::Event | Cause::Time | Cause::Edit => true,
            Cause::Fill => bound.plan.on_backfill,
            Cause::Merge | Cause::Split | Cause::Removed => false,
        };
        for (activation, bound) in self.bound.iter().enumerate() {
            let Trigger::Changes { trait_name, from, to } = &bound.plan.trigger else { continue };
            let fits = |wanted: &Option<Vec<String>>, stage: &Option<String>| match wanted {
                Some(wanted) => stage.as_ref().is_some_and(|stage| wanted.contains(stage)),
                None => true,
            };
            let mine = stages.iter().filter(|change| change.trait_name == *trait_name && reacts(bound, change.cause));
            for change in mine.filter(|change| fits(from, &change.from) && fits(to, &change.to)) {
                triggered.push(Triggered {
                    activation,
                    profile: change.profile,
                    profile_id: ids[change.profile as usize],
                    cause: format!("change {}.{}", change.slot, change.number),
                    row: None,
                    segment: None,
                    stages: Some((change.from.clone(), change.to.clone())),
                    at: change.at,
                });
            }
        }
        for transition in transitions {
            for (activation, bound) in self.bound.iter().enumerate().filter(|(_, b)| reacts(b, transition.cause)) {
                let matches = match bound.plan.trigger {
                    Trigger::Enters(_) => transition.entered,
                    Trigger::Exits(_) => !transition.entered,
                    Trigger::Event { .. } | Trigger::Changes { .. } => false,
                };
                if matches && bound.segment == Some(transition.segment) {
                    triggered.push(Triggered {
                        activation,
                        profile: transition.profile,
                        profile_id: transition.id,
                        // The how-manieth entry, not the event: it is the same however batches were cut. One that is defined
                        // again after it was gone counts anew, in another slot.
                        cause: format!("entry {}.{}", self.slot(transition.segment), transition.entry),
                        row: None,
                        segment: Some(transition.segment),
                        stages: None,
                        at: transition.at,
                    });
                }
            }
        }
        Ok(triggered)
    }

    /// Seals the deliveries of one trigger. `profile` is `{id, traits, identifiers, segments}`; it is lent, since one of many traits
    /// takes longer to copy than to write.
    pub fn render(
        &self,
        trigger: &Triggered,
        events: &EventBatch,
        segments: &[String],
        profile: &mut Value,
    ) -> Vec<Rendered> {
        let bound = &self.bound[trigger.activation];
        let plan = &bound.plan;
        let mut context = Map::new();
        context.insert("profile".to_string(), profile.take());
        context.insert("activation".to_string(), json!(plan.name));
        if let Some(segment) = trigger.segment.and_then(|index| segments.get(index as usize)) {
            context.insert("segment".to_string(), json!(segment));
        }
        if let (Trigger::Changes { trait_name, .. }, Some((from, to))) = (&plan.trigger, &trigger.stages) {
            context.insert("stage".to_string(), json!({ "trait": trait_name, "from": from, "to": to }));
        }
        if let Some(row) = trigger.row {
            context.insert("event".to_string(), event_json(events, row));
        }
        let trigger_kind = match plan.trigger {
            Trigger::Enters(_) => "enters",
            Trigger::Exits(_) => "exits",
            Trigger::Event { .. } => "event",
            Trigger::Changes { .. } => "changes",
        };
        context.insert("trigger".to_string(), json!(trigger_kind));
        let mut context = Value::Object(context);

        let entry = format!("{}\0{}\0{}\0{}", plan.name, plan.version, trigger.cause, trigger.profile_id);
        let entry = xxhash_rust::xxh3::xxh3_128(entry.as_bytes());
        let steps = plan.steps.iter().zip(&bound.templates).map(|(step, template)| {
            let effect = xxhash_rust::xxh3::xxh3_128(format!("{entry:032x}\0{}", step.id).as_bytes());
            let (body, error) = match template.as_ref().map(|template| template.render(&context)) {
                Some(Ok(body)) => (body.to_string(), None),
                Some(Err(error)) => (Value::Null.to_string(), Some(error.to_string())),
                None => (context.to_string(), None),
            };
            let delivery = Delivery {
                id: format!("msg_{effect:032x}"),
                activation: plan.name.clone(),
                step: step.id.clone(),
                destination: step.to.clone(),
                profile_id: trigger.profile_id,
                body,
                created_at: trigger.at,
                dry_run: plan.status == Status::DryRun,
            };
            Rendered { delivery, error }
        });
        let rendered = steps.collect();
        *profile = context["profile"].take();
        rendered
    }
}

/// A sealed delivery; with `error` set its body could not be made, and it is recorded as failed instead of sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    pub delivery: Delivery,
    pub error: Option<String>,
}

fn cause_of_row(events: &EventBatch, row: usize) -> String {
    let text = |index| events.text(index, row).unwrap_or("");
    // The source and message id, not the offset: a redelivered event is the same cause.
    format!("event {} {}", text(column::SOURCE), text(column::MESSAGE_ID))
}

/// An event as the templates see it.
fn event_json(events: &EventBatch, row: usize) -> Value {
    let mut event = Map::new();
    for (name, index) in [
        ("message_id", column::MESSAGE_ID),
        ("type", column::TYPE),
        ("event", column::EVENT),
        ("user_id", column::USER_ID),
        ("anonymous_id", column::ANONYMOUS_ID),
    ] {
        event.insert(name.to_string(), json!(events.text(index, row)));
    }
    for (name, index) in [("properties", column::PROPERTIES), ("traits", column::TRAITS), ("context", column::CONTEXT)]
    {
        let parsed = events.text(index, row).and_then(|text| serde_json::from_str(text).ok());
        event.insert(name.to_string(), parsed.unwrap_or_else(|| json!({})));
    }
    let at = events.times(column::TIMESTAMP).value(row);
    event.insert("timestamp".to_string(), json!(time_text(at)));
    Value::Object(event)
}

/// RFC 3339, UTC, with milliseconds.
pub fn time_text(at: TimeUs) -> String {
    chrono::DateTime::from_timestamp_micros(at)
        .map_or_else(|| at.to_string(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}
