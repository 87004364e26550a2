//! Activations: a trigger, and the steps that it sets off.
//!
//! [`Activations::triggered`] finds what the transitions and events of a batch set off; [`Activations::enter`] begins a
//! journey of it and goes as far as it goes at once, [`Activations::go_on`] takes those under way further. What is sent on
//! the way is sealed as a [`Delivery`], its body to the letter, so that every repeat is the same. Ids are hashes of what
//! caused them, never of chance or clocks (SEMANTICS §7).

mod audience;
pub mod connector;
mod destination;
mod plan;
mod redact;
mod split;
mod template;
mod time;
mod walk;

pub use audience::{AudiencePlan, Audiences, KnownAudience, Moment, Standing, number_audiences};
pub use destination::{
    BatchPlan, Delivery, DeliveryPlan, DestinationKind, DestinationPlan, EmailPlan, MailTls, RateLimit, lane_of,
};
pub use plan::{
    Action, ActivationPlan, Arm, Await, Cap, Channel, Consent, EMITTED, Emit, Messaging, OnChange, ReEntry, Status,
    Step, Trigger,
};
pub use redact::Redaction;
pub use template::{Template, TemplateError};
pub use time::{EVERY_DAY, LocalTime, QuietHours, Schedule};
pub use walk::{BestIdentifier, Emitted, Fate, Happening, Person, Rendered, StepRow, View, Walked};

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, BooleanArray};
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::event::{EventBatch, ProfileId, TimeUs, column};
use crate::expression::{BoundExpression, EvaluateError, Expression, ExpressionError};
use crate::journey::SENDS_MAX;
use crate::segment::{Cause, Condition, SegmentError, Segments, Transition};

/// A version of an activation that a state knows, and the numbers that stand for it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPlan {
    /// Of this version.
    pub number: u32,
    /// Of all versions of this name.
    pub activation: u32,
    pub name: String,
    pub version: u64,
    /// The ids of its steps.
    pub steps: Vec<String>,
    /// As it was written, as JSON.
    pub written: String,
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

#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    #[error("activation {name} cannot be bound to the events: {source}")]
    Bind { name: String, source: ExpressionError },
    #[error("activation {name}: {source}")]
    Template { name: String, source: TemplateError },
    #[error(transparent)]
    Condition(#[from] SegmentError),
    #[error("the condition of activation {name} cannot be evaluated: {source}")]
    Evaluate { name: String, source: EvaluateError },
}

/// Gives every plan its numbers; those that are new are added to what the state knows.
pub fn number_plans(known: &mut Vec<KnownPlan>, plans: &[ActivationPlan]) {
    let mut last = known.iter().map(|plan| plan.number.max(plan.activation)).max().unwrap_or_default();
    for plan in plans {
        if known.iter().any(|other| other.name == plan.name && other.version == plan.version) {
            continue;
        }
        let mut give = || {
            last += 1;
            last
        };
        let activation = known.iter().find(|other| other.name == plan.name).map(|other| other.activation);
        let activation = activation.unwrap_or_else(&mut give);
        known.push(KnownPlan {
            number: give(),
            activation,
            name: plan.name.clone(),
            version: plan.version,
            steps: plan.steps.iter().map(|step| step.id.clone()).collect(),
            written: plan.written.clone(),
        });
    }
}

/// All activations, bound to what they read.
pub struct Activations {
    bound: Vec<Bound>,
    /// By number of the plan.
    ways: BTreeMap<u32, Way>,
    names: BTreeMap<u32, (String, u64)>,
    segments: Vec<String>,
    /// By index of the segment.
    segment_slots: Vec<u32>,
    watches: Vec<Watch>,
    schedules: Vec<Scheduled>,
    messaging: Messaging,
    suppression: Vec<u16>,
}

struct Bound {
    plan: ActivationPlan,
    number: u32,
    activation: u32,
    /// The segment of the trigger.
    segment: Option<u16>,
    filter: Option<BoundExpression>,
    exits: Vec<BoundAwait>,
    /// By step.
    templates: Vec<Option<Template>>,
    conditions: Vec<Option<Condition>>,
    awaits: Vec<Option<BoundAwait>>,
    /// The steps that split.
    splits: Vec<u16>,
    /// Whether some step may read what set it off, so that it is kept while one waits.
    remembers: bool,
}

/// Where those go who are under way along a plan.
enum Way {
    Along(usize),
    /// Along another one: by place of the step, its place there.
    Moved(usize, Vec<Option<u16>>),
    /// Nowhere, and why.
    Ended(&'static str),
}

enum BoundAwait {
    /// By index of the watch.
    Event(usize),
    Enters(u16),
    Exits(u16),
}

/// Events that some journey waits for.
struct Watch {
    events: Vec<String>,
    filter: Option<BoundExpression>,
}

/// Which rows of a batch are waited for, by watch.
#[derive(Debug, Default)]
pub struct Seen {
    rows: Vec<Option<BooleanArray>>,
}

impl Seen {
    fn has(&self, watch: usize, row: usize) -> bool {
        self.rows.get(watch).and_then(Option::as_ref).is_some_and(|rows| rows.value(row))
    }

    /// Rows that anybody may wait for.
    pub fn any(&self, row: usize) -> bool {
        self.rows.iter().flatten().any(|rows| rows.value(row))
    }

    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(Option::is_none)
    }
}

struct Scheduled {
    bound: usize,
    segment: u16,
    schedule: Schedule,
    /// A moment and the first time after it: the same for all people until it has come.
    next: Mutex<(TimeUs, TimeUs)>,
}

impl Scheduled {
    fn next_after(&self, at: TimeUs) -> TimeUs {
        let mut known = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if !(known.0 <= at && at < known.1) {
            *known = (at, self.schedule.next_after(at).unwrap_or(TimeUs::MAX));
        }
        known.1
    }
}

/// What may set something off: the events of a round, and what was found in it.
#[derive(Clone, Copy)]
pub struct Triggering<'a> {
    pub events: &'a EventBatch,
    pub profile_of_row: &'a [Option<u32>],
    pub ids: &'a [ProfileId],
    pub transitions: &'a [Transition],
    pub stages: &'a [StageMove],
    /// The moment, by profile.
    pub now: &'a [TimeUs],
    /// Timers are fired, each at its own moment: only then a schedule is.
    pub is_due: bool,
    /// Whether a profile is in a segment.
    pub is_member: &'a dyn Fn(usize, u16) -> bool,
}

/// What activations are bound to.
pub struct Surroundings<'a> {
    pub segments: &'a Segments,
    /// In the order of their indices.
    pub names: &'a [String],
    /// What the segments' state is kept by.
    pub slots: &'a [u32],
    pub events: &'a SchemaRef,
    pub messaging: Messaging,
    /// With all of the plans in it.
    pub known: &'a [KnownPlan],
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
    pub row: Option<usize>,
    /// For changes of a stage: from and to.
    stages: Option<(Option<String>, Option<String>)>,
    at: TimeUs,
}

impl Activations {
    /// # Errors
    /// An expression or template that does not fit what is there.
    pub fn new(plans: Vec<ActivationPlan>, around: Surroundings<'_>) -> Result<Activations, ActivationError> {
        let index = |name: &String| around.names.iter().position(|known| known == name).map(|index| index as u16);
        let suppression = around.messaging.suppression.iter().filter_map(index).collect();
        let mut all = Activations {
            bound: Vec::new(),
            ways: BTreeMap::new(),
            names: around.known.iter().map(|plan| (plan.number, (plan.name.clone(), plan.version))).collect(),
            segments: around.names.to_vec(),
            segment_slots: around.slots.to_vec(),
            watches: Vec::new(),
            schedules: Vec::new(),
            messaging: around.messaging.clone(),
            suppression,
        };
        for plan in plans {
            let bound = all.bind(plan, &around)?;
            if let (Trigger::Schedule { schedule, .. }, Some(segment)) = (&bound.plan.trigger, bound.segment)
                && bound.plan.enters()
            {
                let (bound, schedule) = (all.bound.len(), schedule.clone());
                all.schedules.push(Scheduled { bound, segment, schedule, next: Mutex::new((0, 0)) });
            }
            all.ways.insert(bound.number, Way::Along(all.bound.len()));
            all.bound.push(bound);
        }
        for earlier in around.known {
            if all.ways.contains_key(&earlier.number) {
                continue;
            }
            let now = all.bound.iter().position(|bound| bound.plan.name == earlier.name && !bound.plan.is_retired);
            let way = match now {
                Some(now) => walk::way(all.bound[now].plan.on_change, &earlier.steps, now, &all.bound[now].plan),
                None => Way::Ended("its definition was removed"),
            };
            all.ways.insert(earlier.number, way);
        }
        Ok(all)
    }

    fn bind(&mut self, plan: ActivationPlan, around: &Surroundings<'_>) -> Result<Bound, ActivationError> {
        let index = |name: &String| around.names.iter().position(|known| known == name).map(|index| index as u16);
        let failed = |source| ActivationError::Bind { name: plan.name.clone(), source };
        let bind = |filter: &Option<Expression>| {
            filter.as_ref().map(|filter| filter.bind(around.events)).transpose().map_err(failed)
        };
        let (segment, filter) = match &plan.trigger {
            Trigger::Enters(name) | Trigger::Exits(name) | Trigger::Schedule { over: name, .. } => (index(name), None),
            Trigger::Event { filter, .. } => (None, bind(filter)?),
            Trigger::Changes { .. } => (None, None),
        };
        let mut bind_await = |what: &Await| -> Result<Option<BoundAwait>, ActivationError> {
            Ok(match what {
                Await::Event { events, filter } => {
                    self.watches.push(Watch { events: events.clone(), filter: bind(filter)? });
                    Some(BoundAwait::Event(self.watches.len() - 1))
                }
                Await::Enters(name) => index(name).map(BoundAwait::Enters),
                Await::Exits(name) => index(name).map(BoundAwait::Exits),
            })
        };
        let mut exits = Vec::new();
        for what in &plan.exit_when {
            exits.extend(bind_await(what)?);
        }
        let known = around.known.iter().find(|known| known.name == plan.name && known.version == plan.version);
        let (number, activation) = known.map_or((0, 0), |known| (known.number, known.activation));
        let mut bound = Bound {
            number,
            activation,
            segment,
            filter,
            exits,
            templates: Vec::new(),
            conditions: Vec::new(),
            awaits: Vec::new(),
            splits: Vec::new(),
            remembers: plan.remembers(),
            plan: plan.clone(),
        };
        for (place, step) in plan.steps.iter().enumerate() {
            let (mut template, mut condition, mut awaits) = (None, None, None);
            match &step.action {
                Action::Send { body: Some(body), .. }
                | Action::Emit(Emit::Track { properties: body, .. } | Emit::Identify { traits: body }) => {
                    let failed = |source| ActivationError::Template { name: plan.name.clone(), source };
                    template = Some(Template::compile(body).map_err(failed)?);
                }
                Action::Branch { when, .. } => condition = Some(around.segments.condition(when)?),
                Action::WaitFor { what, .. } => awaits = bind_await(what)?,
                Action::Split(_) => bound.splits.push(place as u16),
                Action::Send { body: None, .. } | Action::Wait { .. } | Action::WaitUntil(_) | Action::Stop => {}
            }
            bound.templates.push(template);
            bound.conditions.push(condition);
            bound.awaits.push(awaits);
        }
        Ok(bound)
    }

    fn slot(&self, segment: u16) -> u32 {
        self.segment_slots.get(usize::from(segment)).copied().unwrap_or_default()
    }

    fn channel(&self, destination: &str) -> Option<&Channel> {
        let (_, name) = self.messaging.channel_of.iter().find(|(of, _)| of == destination)?;
        self.messaging.channels.iter().find(|channel| channel.name == *name)
    }

    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.ways.is_empty()
    }

    /// Which rows of a batch some journey waits for.
    ///
    /// # Errors
    /// A condition that cannot be evaluated.
    pub fn see(&self, events: &EventBatch) -> Result<Seen, ActivationError> {
        let names = events.strings(column::EVENT);
        let see = |watch: &Watch| -> Result<Option<BooleanArray>, ActivationError> {
            let named = |row: usize| names.is_valid(row) && watch.events.iter().any(|name| name == names.value(row));
            let rows: BooleanArray = (0..events.len()).map(|row| Some(named(row))).collect();
            if rows.true_count() == 0 {
                return Ok(None);
            }
            let Some(filter) = &watch.filter else { return Ok(Some(rows)) };
            let failed = |source| ActivationError::Evaluate { name: "that waits".to_string(), source };
            let holds = filter.evaluate_predicate(&events.batch).map_err(failed)?;
            let both =
                rows.iter().zip(holds.iter()).map(|(named, holds)| Some(named == Some(true) && holds == Some(true)));
            Ok(Some(both.collect()))
        };
        Ok(Seen { rows: self.watches.iter().map(see).collect::<Result<_, _>>()? })
    }

    /// What a round sets off. Event triggers come in log order, then those of stages, of segments and of schedules; what comes at
    /// one moment in the order of priorities.
    ///
    /// # Errors
    /// A condition that cannot be evaluated.
    pub fn triggered(&self, round: &Triggering<'_>) -> Result<Vec<Triggered>, ActivationError> {
        let Triggering { events, profile_of_row, ids, transitions, stages, .. } = *round;
        let mut triggered = Vec::new();
        let names = events.strings(column::EVENT);
        for (activation, bound) in self.entered() {
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
                        stages: None,
                        at: events.times(column::TIMESTAMP).value(row),
                    });
                }
            }
        }
        triggered.sort_by_key(|trigger| (trigger.row, -self.bound[trigger.activation].plan.priority));
        let of_events = triggered.len();
        let reacts = |bound: &Bound, cause: Cause| match cause {
            Cause::Event | Cause::Time | Cause::Edit => true,
            Cause::Fill => bound.plan.on_backfill,
            Cause::Merge | Cause::Split | Cause::Removed => false,
        };
        for (activation, bound) in self.entered() {
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
                    stages: Some((change.from.clone(), change.to.clone())),
                    at: change.at,
                });
            }
        }
        for transition in transitions {
            for (activation, bound) in self.entered().filter(|(_, b)| reacts(b, transition.cause)) {
                let matches = match bound.plan.trigger {
                    Trigger::Enters(_) => transition.entered,
                    Trigger::Exits(_) => !transition.entered,
                    Trigger::Event { .. } | Trigger::Changes { .. } | Trigger::Schedule { .. } => false,
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
                        stages: None,
                        at: transition.at,
                    });
                }
            }
        }
        for scheduled in self.schedules.iter().filter(|_| round.is_due) {
            for (profile, now) in round.now.iter().enumerate() {
                if (round.is_member)(profile, scheduled.segment) && scheduled.next_after(*now - 1) == *now {
                    triggered.push(Triggered {
                        activation: scheduled.bound,
                        profile: profile as u32,
                        profile_id: ids[profile],
                        cause: format!("schedule {now}"),
                        row: None,
                        stages: None,
                        at: *now,
                    });
                }
            }
        }
        triggered[of_events..].sort_by_key(|trigger| -self.bound[trigger.activation].plan.priority);
        Ok(triggered)
    }

    /// Those that anybody may enter.
    fn entered(&self) -> impl Iterator<Item = (usize, &Bound)> {
        self.bound.iter().enumerate().filter(|(_, bound)| bound.plan.enters())
    }
}

impl ActivationPlan {
    /// Whether anybody may enter.
    fn enters(&self) -> bool {
        self.status != Status::Paused && !self.is_retired
    }

    /// Whether some step may read what set it off: its body names it, or is all there is.
    fn remembers(&self) -> bool {
        let reads = |step: &Step| match &step.action {
            Action::Send { body: None, .. } => true,
            Action::Send { body: Some(body), .. } => {
                let text = body.to_string();
                text.contains("event") || text.contains("stage")
            }
            Action::Emit(_) => true,
            _ => false,
        };
        matches!(self.trigger, Trigger::Event { .. } | Trigger::Changes { .. }) && self.steps.iter().any(reads)
    }
}

impl Bound {
    fn changes(&self) -> Option<&str> {
        match &self.plan.trigger {
            Trigger::Changes { trait_name, .. } => Some(trait_name),
            _ => None,
        }
    }

    fn is_set_off_by_event(&self) -> bool {
        matches!(self.plan.trigger, Trigger::Event { .. })
    }

    fn trigger_name(&self) -> &'static str {
        match self.plan.trigger {
            Trigger::Enters(_) => "enters",
            Trigger::Exits(_) => "exits",
            Trigger::Event { .. } => "event",
            Trigger::Changes { .. } => "changes",
            Trigger::Schedule { .. } => "schedule",
        }
    }

    /// The caps that a message counts against, by number, and whose they are.
    fn caps<'a>(&'a self, all: &'a Activations, to: &str) -> impl Iterator<Item = (u32, Cap, &'a str)> {
        let own = self.plan.frequency_cap.map(|cap| (self.activation, cap, self.plan.name.as_str()));
        let channel = all.channel(to).and_then(|channel| {
            // Numbers of activations are small; names of channels may change, so they have no list of their own.
            let number = xxh3_64(channel.name.as_bytes()) as u32 | 0x8000_0000;
            Some((number, channel.frequency_cap?, channel.name.as_str()))
        });
        own.into_iter().chain(channel)
    }
}

/// The largest number that a cap can count to.
pub const CAP_MAX: u32 = SENDS_MAX as u32;

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
