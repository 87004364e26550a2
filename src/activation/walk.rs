//! One person's way through journeys: entering, going on, leaving. A pure function of the person, the moment and what happens.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128;

use super::plan::{Action, Emit, OnChange, ReEntry, Status};
use super::split::arm_of;
use super::{
    ActivationError, Activations, Bound, BoundAwait, Delivery, Seen, Triggered, Way, event_json, lane_of, time_text,
};
use crate::event::{EventBatch, ProfileId, TimeUs, column};
use crate::journey::{Journeys, Run};
use crate::segment::Condition;

/// An event that happened up to so long before someone entered still counts for what the journey waits for: the entry may have been
/// made in ignorance of it. Of a journey that an event sets off only later ones count.
const BEFORE_ENTRY_US: TimeUs = crate::profile::LATENESS_US;

/// What is known of a person at the moment.
pub trait View {
    fn holds(&self, condition: &Condition) -> Result<bool, ActivationError>;
    /// The value of a boolean trait.
    fn flag(&self, column: &str) -> Option<bool>;
    /// The value of a trait that is a text.
    fn text(&self, column: &str) -> Option<String>;
    fn is_member(&self, segment: u16) -> bool;
    /// `{id, traits, identifiers, segments}`; lent, since one of many traits takes longer to copy than to write.
    fn describe(&mut self) -> Value;
    fn take_back(&mut self, described: Value);
    fn best_identifier(&self) -> Option<BestIdentifier<'_>>;
}

/// The identifier that a person is called after.
pub struct BestIdentifier<'a> {
    /// The name of its type.
    pub kind: &'a str,
    pub value: &'a str,
    pub hash: u128,
}

/// A person at a moment.
pub struct Person<'a> {
    pub id: ProfileId,
    pub now: TimeUs,
    pub journeys: &'a mut Journeys,
    pub view: &'a mut dyn View,
}

/// A sealed delivery and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    pub delivery: Delivery,
    pub fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes to its destination.
    Send,
    /// The activation is a dry run.
    DryRun,
    /// Its body could not be made.
    Failed(String),
    /// It must not be sent.
    Skipped(String),
}

/// Something that happened to one person in one journey.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    pub activation: String,
    pub version: u64,
    pub entry_id: u128,
    pub profile_id: ProfileId,
    /// Empty for entering and leaving.
    pub step: String,
    /// `entered`, `sent`, `skipped`, `failed`, `emitted`, `waits`, `waited`, `matched`, `timed_out`, `then`, `else`, `arm`, `left`.
    pub what: &'static str,
    pub detail: String,
    pub at: TimeUs,
}

/// What walking came to.
#[derive(Debug, Default)]
pub struct Walked {
    pub rendered: Vec<Rendered>,
    pub steps: Vec<StepRow>,
    pub emitted: Vec<Emitted>,
}

/// An event that a step has made, in the standard envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Emitted {
    pub envelope: Value,
    pub at: TimeUs,
}

/// What happens to a person.
#[derive(Clone, Copy)]
pub enum Happening<'a> {
    /// An event, by its row in the batch, and what is known of who waits for which.
    Event {
        events: &'a EventBatch,
        row: usize,
        seen: &'a Seen,
    },
    Entered(u16),
    Exited(u16),
    /// It is time for those that are due.
    Due,
}

impl Activations {
    /// Lets those under way go on by what happens.
    ///
    /// # Errors
    /// A condition that cannot be evaluated.
    pub fn go_on(
        &self,
        happening: Happening<'_>,
        person: &mut Person<'_>,
        out: &mut Walked,
    ) -> Result<(), ActivationError> {
        let mut runs = std::mem::take(&mut person.journeys.runs);
        // Several at one moment: the most important first, then as they were entered.
        runs.sort_by_key(|run| (-self.priority(run), run.entered_at, run.entry));
        for mut run in runs {
            let bound = match self.settle(&mut run) {
                Ok(bound) => bound,
                Err(why) => {
                    out.steps.push(self.row(&run, person, "", "left", why.to_string()));
                    continue;
                }
            };
            if bound.plan.status == Status::Paused {
                person.journeys.runs.push(run);
                continue;
            }
            if bound.exits.iter().any(|exit| is_met(exit, happening, &run, bound)) {
                out.steps.push(self.row(&run, person, "", "left", "exit_when".to_string()));
                continue;
            }
            let step = &bound.plan.steps[usize::from(run.step)];
            let is_due = matches!(happening, Happening::Due) && run.due <= person.now;
            let matched = bound.awaits[usize::from(run.step)].as_ref();
            let next = match &step.action {
                Action::WaitFor { on_match, .. } if matched.is_some_and(|it| is_met(it, happening, &run, bound)) => {
                    Some((*on_match, "matched"))
                }
                Action::WaitFor { on_timeout, .. } if is_due => Some((*on_timeout, "timed_out")),
                Action::Wait { .. } | Action::WaitUntil(_) if is_due => Some((step.next, "waited")),
                // Held by quiet hours: it is tried again.
                Action::Send { .. } if is_due => Some((Some(run.step), "")),
                _ => None,
            };
            let Some((next, what)) = next else {
                person.journeys.runs.push(run);
                continue;
            };
            if !what.is_empty() {
                out.steps.push(self.row(&run, person, &step.id, what, String::new()));
            }
            let cause = self.remembered(bound, &run);
            // Only of who has just entered it is not set.
            run.due = person.now;
            self.walk(bound, run, next, cause, person, out)?;
        }
        person.journeys.runs.sort_by_key(|run| (run.entered_at, run.entry));
        Ok(())
    }

    /// Lets a person enter what they have set off, unless it may not be entered again.
    ///
    /// # Errors
    /// As [`Activations::go_on`].
    pub fn enter(
        &self,
        trigger: &Triggered,
        events: &EventBatch,
        person: &mut Person<'_>,
        out: &mut Walked,
    ) -> Result<(), ActivationError> {
        let bound = &self.bound[trigger.activation];
        let plan = &bound.plan;
        let past = person.journeys.past(bound.activation);
        let may_enter = match plan.re_entry {
            ReEntry::Always => true,
            ReEntry::Once => past.is_none(),
            ReEntry::After(pause_us) => past.is_none_or(|past| past.last_at.saturating_add(pause_us) <= person.now),
        };
        let is_under_way = || person.journeys.runs.iter().any(|run| run.activation == bound.activation);
        if !may_enter || (plan.re_entry != ReEntry::Always && is_under_way()) {
            return Ok(());
        }
        if plan.re_entry != ReEntry::Always {
            person.journeys.note_entry(bound.activation, person.now);
        }
        let entry = format!("{}\0{}\0{}\0{}", plan.name, plan.version, trigger.cause, trigger.profile_id);
        let mut cause = Map::new();
        if let Some((from, to)) = &trigger.stages {
            let trait_name = bound.changes().unwrap_or_default();
            cause.insert("stage".to_string(), json!({ "trait": trait_name, "from": from, "to": to }));
        }
        if let Some(row) = trigger.row {
            cause.insert("event".to_string(), event_json(events, row));
        }
        let run = Run {
            activation: bound.activation,
            plan: bound.number,
            entry: xxh3_128(entry.as_bytes()).to_be_bytes(),
            entered_at: trigger.at,
            step: 0,
            due: TimeUs::MAX,
            arms: bound.arms(person.id),
            who: [0; 16],
            memory: None,
        };
        if plan.is_journey() {
            out.steps.push(self.row(&run, person, "", "entered", trigger.cause.clone()));
        }
        self.walk(bound, run, Some(0), cause, person, out)
    }

    /// Goes on from a step until one waits or there is none.
    fn walk(
        &self,
        bound: &Bound,
        mut run: Run,
        mut next: Option<u16>,
        cause: Map<String, Value>,
        person: &mut Person<'_>,
        out: &mut Walked,
    ) -> Result<(), ActivationError> {
        let mut cause = Some(cause);
        while let Some(place) = next {
            run.step = place;
            let index = usize::from(place);
            let step = &bound.plan.steps[index];
            let wait_until = match &step.action {
                Action::Wait { for_us } => Some(person.now.saturating_add(*for_us)),
                Action::WaitUntil(local) => Some(local.next_from(person.now, self.zone(person))),
                Action::WaitFor { timeout_us, .. } => {
                    Some(timeout_us.map_or(TimeUs::MAX, |timeout_us| person.now.saturating_add(timeout_us)))
                }
                Action::Send { to, .. } => match self.quiet_until(bound, to, person) {
                    Some(end) => Some(end),
                    None => {
                        self.send(bound, &run, index, &mut cause, person, out);
                        None
                    }
                },
                Action::Branch { then, otherwise, .. } => {
                    let holds = match &bound.conditions[index] {
                        Some(condition) => person.view.holds(condition)?,
                        None => false,
                    };
                    out.steps.push(self.row(
                        &run,
                        person,
                        &step.id,
                        if holds { "then" } else { "else" },
                        String::new(),
                    ));
                    next = if holds { *then } else { *otherwise };
                    continue;
                }
                Action::Split(arms) => {
                    let ordinal = bound.splits.iter().position(|split| *split == place).unwrap_or_default();
                    let chosen = run.arms.get(ordinal).copied().unwrap_or_default();
                    let arm = arms.get(usize::from(chosen)).or(arms.first());
                    let name = arm.map(|arm| arm.name.clone()).unwrap_or_default();
                    out.steps.push(self.row(&run, person, &step.id, "arm", name));
                    next = arm.and_then(|arm| arm.first);
                    continue;
                }
                Action::Emit(emit) => {
                    self.emit(bound, &run, index, emit, &mut cause, person, out);
                    None
                }
                Action::Stop => {
                    out.steps.push(self.row(&run, person, &step.id, "left", "stop".to_string()));
                    return Ok(());
                }
            };
            if let Some(due) = wait_until {
                if run.due == TimeUs::MAX {
                    // It waits for the first time: from now on it is stored.
                    run.who = person.view.best_identifier().map_or(0, |best| best.hash).to_be_bytes();
                }
                run.due = due;
                if run.memory.is_none() && bound.remembers && cause.as_ref().is_some_and(|cause| !cause.is_empty()) {
                    run.memory = Some(Value::Object(cause.unwrap_or_default()).to_string().into());
                }
                let until = if due == TimeUs::MAX { String::new() } else { time_text(due) };
                out.steps.push(self.row(&run, person, &step.id, "waits", until));
                person.journeys.runs.push(run);
                return Ok(());
            }
            next = step.next;
        }
        if bound.plan.is_journey() {
            out.steps.push(self.row(&run, person, "", "left", "completed".to_string()));
        }
        Ok(())
    }

    /// Seals what a step sends, or says why it must not be.
    fn send(
        &self,
        bound: &Bound,
        run: &Run,
        index: usize,
        cause: &mut Option<Map<String, Value>>,
        person: &mut Person<'_>,
        out: &mut Walked,
    ) {
        let (plan, step) = (&bound.plan, &bound.plan.steps[index]);
        let Action::Send { to, .. } = &step.action else { return };
        let entry = u128::from_be_bytes(run.entry);
        let effect = xxh3_128(format!("{entry:032x}\0{}", step.id).as_bytes());
        let mut delivery = Delivery {
            id: format!("msg_{effect:032x}"),
            activation: plan.name.clone(),
            step: step.id.clone(),
            destination: to.clone(),
            profile_id: person.id,
            lane: lane_of(person.id),
            body: Value::Null.to_string(),
            created_at: if run.due == TimeUs::MAX { run.entered_at } else { person.now },
            dry_run: plan.status == Status::DryRun,
            consent: plan.consent.as_ref().map(|consent| consent.purpose.clone()),
        };
        let fate = match self.refusal(bound, to, person) {
            Some(why) => Fate::Skipped(why),
            None => {
                let made = self.render(bound, run, cause, person, |context| match &bound.templates[index] {
                    Some(template) => template.render(context).map(|body| body.to_string()),
                    None => Ok(context.to_string()),
                });
                match made {
                    Err(error) => Fate::Failed(error.to_string()),
                    Ok(body) => {
                        delivery.body = body;
                        if delivery.dry_run { Fate::DryRun } else { Fate::Send }
                    }
                }
            }
        };
        if matches!(fate, Fate::Send | Fate::DryRun) {
            self.note_send(bound, to, person);
        }
        if plan.is_journey() {
            let (what, detail) = match &fate {
                Fate::Send | Fate::DryRun => ("sent", delivery.id.clone()),
                Fate::Failed(why) => ("failed", why.clone()),
                Fate::Skipped(why) => ("skipped", why.clone()),
            };
            out.steps.push(self.row(run, person, &step.id, what, detail));
        }
        out.rendered.push(Rendered { delivery, fate });
    }

    /// Makes an event of the person. Its message id is a hash of entry and step, so that it counts once.
    #[expect(clippy::too_many_arguments, reason = "what a step is about, as for one that sends")]
    fn emit(
        &self,
        bound: &Bound,
        run: &Run,
        index: usize,
        emit: &Emit,
        cause: &mut Option<Map<String, Value>>,
        person: &mut Person<'_>,
        out: &mut Walked,
    ) {
        let step = &bound.plan.steps[index];
        let made = self.render(bound, run, cause, person, |context| match &bound.templates[index] {
            Some(template) => template.render(context),
            None => Ok(json!({})),
        });
        let failed = match (made, person.view.best_identifier()) {
            (Ok(body), Some(best)) => {
                let effect = format!("{:032x}\0{}", u128::from_be_bytes(run.entry), step.id);
                let mut envelope = json!({
                    "message_id": format!("journey_{:032x}", xxh3_128(effect.as_bytes())),
                    "timestamp": time_text(person.now),
                });
                match best.kind {
                    "user_id" | "anonymous_id" => envelope[best.kind] = json!(best.value),
                    kind => envelope["identifiers"] = json!({ kind: best.value }),
                }
                match emit {
                    Emit::Track { event, .. } => {
                        envelope["type"] = json!("track");
                        envelope["event"] = json!(event);
                        envelope["properties"] = body;
                    }
                    Emit::Identify { .. } => {
                        envelope["type"] = json!("identify");
                        envelope["traits"] = body;
                    }
                }
                // A rehearsal changes nothing.
                if bound.plan.status == Status::Live {
                    out.emitted.push(Emitted { envelope, at: person.now });
                }
                None
            }
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), None) => Some("the person has no identifier".to_string()),
        };
        let (what, detail) = failed.map_or(("emitted", String::new()), |why| ("failed", why));
        out.steps.push(self.row(run, person, &step.id, what, detail));
    }

    /// Makes something of all that templates know; profile and cause are lent to it.
    fn render<T>(
        &self,
        bound: &Bound,
        run: &Run,
        cause: &mut Option<Map<String, Value>>,
        person: &mut Person<'_>,
        make: impl FnOnce(&Value) -> T,
    ) -> T {
        let mut context = cause.take().unwrap_or_default();
        context.insert("profile".to_string(), person.view.describe());
        self.describe(bound, run, &mut context);
        let mut context = Value::Object(context);
        let made = make(&context);
        person.view.take_back(context["profile"].take());
        *cause = bound.cause_of(context);
        made
    }

    /// Adds what templates know besides the profile and the cause.
    fn describe(&self, bound: &Bound, run: &Run, context: &mut Map<String, Value>) {
        context.insert("activation".to_string(), json!(bound.plan.name));
        context.insert("trigger".to_string(), json!(bound.trigger_name()));
        if let Some(segment) = bound.segment.and_then(|index| self.segments.get(usize::from(index))) {
            context.insert("segment".to_string(), json!(segment));
        }
        if bound.plan.is_journey() {
            let mut arms = Map::new();
            for (split, arm) in bound.splits.iter().zip(&run.arms) {
                let step = &bound.plan.steps[usize::from(*split)];
                if let Action::Split(all) = &step.action {
                    arms.insert(step.id.clone(), json!(all.get(usize::from(*arm)).map(|arm| &arm.name)));
                }
            }
            let entry = format!("{:032x}", u128::from_be_bytes(run.entry));
            let journey = json!({ "id": entry, "entered_at": time_text(run.entered_at), "split": arms });
            context.insert("journey".to_string(), journey);
        }
    }

    /// Why nothing may be sent to a person now.
    fn refusal(&self, bound: &Bound, to: &str, person: &Person<'_>) -> Option<String> {
        let consent = bound.plan.consent.as_ref();
        if let Some(why) = consent.and_then(|consent| consent.refusal(person.view.flag(&consent.column))) {
            return Some(why);
        }
        if let Some(segment) = self.suppression.iter().find(|segment| person.view.is_member(**segment)) {
            let name = self.segments.get(usize::from(*segment)).map_or("", String::as_str);
            return Some(format!("suppressed: the person is in {name}"));
        }
        for (number, cap, of) in bound.caps(self, to) {
            let sent = person.journeys.sent_after(number, person.now.saturating_sub(cap.within_us));
            if sent >= cap.count as usize {
                return Some(format!("frequency cap of {of}: {sent} sent within the time"));
            }
        }
        None
    }

    fn note_send(&self, bound: &Bound, to: &str, person: &mut Person<'_>) {
        for (number, cap, _) in bound.caps(self, to) {
            person.journeys.note_send(number, person.now, person.now.saturating_sub(cap.within_us));
        }
    }

    /// When the quiet hours end that hold for this message; None outside of them.
    fn quiet_until(&self, bound: &Bound, to: &str, person: &Person<'_>) -> Option<TimeUs> {
        let of_channel = self.channel(to).and_then(|channel| channel.quiet_hours);
        let hours = [bound.plan.quiet_hours, of_channel];
        let zone = self.zone(person);
        hours.into_iter().flatten().filter_map(|hours| hours.end(person.now, zone)).max()
    }

    fn zone(&self, person: &Person<'_>) -> chrono_tz::Tz {
        let named = self.messaging.zone_trait.as_ref().and_then(|column| person.view.text(column));
        named.and_then(|name| name.parse().ok()).unwrap_or(self.messaging.zone)
    }

    fn priority(&self, run: &Run) -> i64 {
        match self.ways.get(&run.plan) {
            Some(Way::Along(bound) | Way::Moved(bound, _)) => self.bound[*bound].plan.priority,
            Some(Way::Ended(_)) | None => 0,
        }
    }

    /// The plan that a run goes along, which may be another by now; or why it ends.
    fn settle(&self, run: &mut Run) -> Result<&Bound, &'static str> {
        match self.ways.get(&run.plan) {
            Some(Way::Along(bound)) => Ok(&self.bound[*bound]),
            Some(Way::Moved(bound, places)) => {
                let bound = &self.bound[*bound];
                let place = places.get(usize::from(run.step)).copied().flatten();
                run.step = place.ok_or("its step is gone")?;
                run.plan = bound.number;
                Ok(bound)
            }
            Some(Way::Ended(why)) => Err(why),
            None => Err("its definition is gone"),
        }
    }

    fn row(&self, run: &Run, person: &Person<'_>, step: &str, what: &'static str, detail: String) -> StepRow {
        self.row_of(run, person.id, person.now, step, what, detail)
    }

    fn row_of(
        &self,
        run: &Run,
        profile_id: ProfileId,
        at: TimeUs,
        step: &str,
        what: &'static str,
        detail: String,
    ) -> StepRow {
        let (activation, version) = self.names.get(&run.plan).cloned().unwrap_or_default();
        let entry_id = u128::from_be_bytes(run.entry);
        StepRow { activation, version, entry_id, profile_id, step: step.to_string(), what, detail, at }
    }

    /// By activation, from counts by plan; also those where nobody is under way.
    pub fn running(&self, by_plan: &BTreeMap<u32, u64>) -> BTreeMap<String, u64> {
        let journeys = self.bound.iter().filter(|bound| bound.plan.is_journey());
        let mut running: BTreeMap<String, u64> = journeys.map(|bound| (bound.plan.name.clone(), 0)).collect();
        for (plan, count) in by_plan {
            if let Some((name, _)) = self.names.get(plan) {
                *running.entry(name.clone()).or_default() += count;
            }
        }
        running
    }

    /// Rows of those that end though nothing has happened in them: two people were one, or someone is no more.
    pub fn ended(&self, runs: &[Run], id: ProfileId, why: &str, at: TimeUs) -> Vec<StepRow> {
        runs.iter().map(|run| self.row_of(run, id, at, "", "left", why.to_string())).collect()
    }

    /// What caused an entry, as far as it was remembered.
    fn remembered(&self, bound: &Bound, run: &Run) -> Map<String, Value> {
        let text = run.memory.as_deref().filter(|_| bound.remembers);
        match text.and_then(|text| serde_json::from_str(text).ok()) {
            Some(Value::Object(cause)) => cause,
            _ => Map::new(),
        }
    }

    /// When the next of these goes on by itself, or is entered by a schedule; [`TimeUs::MAX`]: never.
    pub fn next_due(&self, journeys: Option<&Journeys>, is_member: &dyn Fn(u16) -> bool, now: TimeUs) -> TimeUs {
        let stands = |run: &Run| match self.ways.get(&run.plan) {
            Some(Way::Along(bound) | Way::Moved(bound, _)) => self.bound[*bound].plan.status == Status::Paused,
            Some(Way::Ended(_)) | None => false,
        };
        let runs = journeys.iter().flat_map(|journeys| &journeys.runs).filter(|run| !stands(run)).map(|run| run.due);
        let scheduled = self.schedules.iter().filter(|scheduled| is_member(scheduled.segment));
        let scheduled = scheduled.map(|scheduled| scheduled.next_after(now));
        runs.chain(scheduled).min().unwrap_or(TimeUs::MAX)
    }

    /// Whether of two people's ways through an activation, by its number, only one goes on when they become one.
    pub fn goes_on_once(&self, activation: u32) -> bool {
        self.bound.iter().find(|bound| bound.activation == activation).is_none_or(|bound| bound.plan.goes_on_once())
    }
}

impl Bound {
    /// The arm of each split of the plan.
    fn arms(&self, id: ProfileId) -> Vec<u8> {
        let arm = |place: &u16| {
            let step = &self.plan.steps[usize::from(*place)];
            let Action::Split(arms) = &step.action else { return 0 };
            arm_of(&self.plan.name, &step.id, id, arms)
        };
        self.splits.iter().map(arm).collect()
    }

    /// What of a context is its cause, for steps to come.
    fn cause_of(&self, context: Value) -> Option<Map<String, Value>> {
        let Value::Object(mut context) = context else { return None };
        context.retain(|name, _| matches!(name.as_str(), "event" | "stage"));
        Some(context)
    }
}

/// Whether what happens is what is waited for.
fn is_met(what: &BoundAwait, happening: Happening<'_>, run: &Run, bound: &Bound) -> bool {
    match (what, happening) {
        (BoundAwait::Event(watch), Happening::Event { events, row, seen }) => {
            let slack = if bound.is_set_off_by_event() { 0 } else { BEFORE_ENTRY_US };
            let since = run.entered_at.saturating_sub(slack);
            seen.has(*watch, row) && events.times(column::TIMESTAMP).value(row) >= since
        }
        (BoundAwait::Enters(segment), Happening::Entered(entered)) => *segment == entered,
        (BoundAwait::Exits(segment), Happening::Exited(exited)) => *segment == exited,
        _ => false,
    }
}

/// Places of the steps of an earlier version in a later one, by their ids.
pub(super) fn places(earlier: &[String], later: &[super::plan::Step]) -> Vec<Option<u16>> {
    let place = |id: &String| later.iter().position(|step| step.id == *id).map(|place| place as u16);
    earlier.iter().map(place).collect()
}

/// What becomes of those who are under way along an earlier version.
pub(super) fn way(change: OnChange, earlier: &[String], bound: usize, plan: &super::ActivationPlan) -> Way {
    match change {
        OnChange::Move => Way::Moved(bound, places(earlier, &plan.steps)),
        OnChange::Stop => Way::Ended("its definition was changed"),
        OnChange::Finish => Way::Ended("its definition was changed, and the earlier one does not fit any more"),
    }
}
