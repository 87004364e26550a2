//! What a round sets off: who enters which journey, who goes on, and what they are sent.

use serde::{Deserialize, Serialize};

use super::judge::Round;
use super::*;
use crate::activation::{
    ActivationError, ActivationPlan, AudiencePlan, BestIdentifier, Emitted, Fate, Happening, KnownPlan, Person,
    Rendered, Seen, StageMove, Status, StepRow, Trigger, Triggering, View, Walked, number_plans,
};
use crate::engine::gate::SendGate;
use crate::event::RawBatch;
use crate::identity::IdentityPlan;
use crate::journey::{Journeys, Run};
use crate::profile::BUILT_IN;
use crate::segment::Condition;
use crate::sink::delivery::Gate;

impl KnownPlan {
    const VERSION: u8 = 1;
}

/// The versions of activations that a state knows.
///
/// # Errors
/// The store's.
pub async fn known_plans(store: &dyn Store) -> Result<Vec<KnownPlan>, StoreError> {
    let found = scan_all(store, &keys::prefix(Tag::Journey)).await?;
    found.iter().map(|(_, value)| codec::decode(KnownPlan::VERSION, "activation", value)).collect()
}

/// Those that people are under way along, though they may be defined otherwise by now.
///
/// # Errors
/// The store's.
pub async fn plans_under_way(store: &dyn Store) -> Result<Vec<KnownPlan>, StoreError> {
    let key = keys::name(Tag::Engine, EngineRecord::KEY);
    let record: EngineRecord = load::load_one(store, &key, EngineRecord::VERSION, "engine record").await?;
    let mut known = known_plans(store).await?;
    known.retain(|plan| record.running.get(&plan.number).is_some_and(|running| *running > 0));
    Ok(known)
}

/// Gives these plans their numbers. An earlier version that nobody is under way along is forgotten, but for the last of a name:
/// who has entered is known by it.
pub(super) async fn assign_numbers(
    store: &dyn Store,
    plans: &[ActivationPlan],
    record: &EngineRecord,
) -> Result<Vec<KnownPlan>, StoreError> {
    let mut known = known_plans(store).await?;
    let before = known.clone();
    number_plans(&mut known, plans);
    let is_defined = |one: &KnownPlan| plans.iter().any(|plan| plan.name == one.name && plan.version == one.version);
    let names: HashSet<String> = known.iter().filter(|one| is_defined(one)).map(|one| one.name.clone()).collect();
    known.retain(|one| is_defined(one) || record.running.contains_key(&one.number) || !names.contains(&one.name));
    let mut writes = WriteBatch::default();
    for one in known.iter().filter(|one| !before.contains(one)) {
        writes.put(keys::number(Tag::Journey, u64::from(one.number)), codec::encode(KnownPlan::VERSION, one));
    }
    for one in before.iter().filter(|one| !known.contains(one)) {
        writes.delete(keys::number(Tag::Journey, u64::from(one.number)));
    }
    if !writes.is_empty() {
        store.commit(writes).await?;
    }
    Ok(known)
}

/// An event that a step or an alert has made, with its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmittedRecord {
    pub number: u64,
    /// The moment when it was made.
    pub at: TimeUs,
    /// The standard envelope as JSON.
    pub envelope: String,
}

impl EmittedRecord {
    const VERSION: u8 = 1;
}

/// Events that steps have made and that are not applied yet, in order.
///
/// # Errors
/// The store's.
pub async fn emitted(store: &dyn Store) -> Result<Vec<EmittedRecord>, StoreError> {
    let found = scan_all(store, &keys::prefix(Tag::Emitted)).await?;
    found.iter().map(|(_, value)| codec::decode(EmittedRecord::VERSION, "event of a journey", value)).collect()
}

/// As a source hands them over: the offset is the number.
pub fn emitted_batch(emitted: &[EmittedRecord]) -> RawBatch {
    let mut raw = RawBatch::new(EMITTED.into());
    let topic: Arc<str> = EMITTED.into();
    for one in emitted {
        raw.push(&topic, 0, one.number as i64, one.at, one.envelope.as_bytes());
    }
    raw
}

/// What of activations decides when people have to be looked at: schedules, those that stand still, and audiences.
pub(super) fn times(plans: &[ActivationPlan], audiences: &[AudiencePlan]) -> Vec<String> {
    let time = |plan: &ActivationPlan| match (&plan.trigger, plan.status) {
        (_, Status::Paused) => Some(format!("{} paused", plan.name)),
        (Trigger::Schedule { schedule, over }, _) => Some(format!("{} {schedule:?} {over}", plan.name)),
        _ => None,
    };
    let mut times: Vec<String> = plans.iter().filter_map(time).collect();
    times.extend(audiences.iter().map(|plan| format!("{plan:?}")));
    times.sort_unstable();
    times
}

/// What happens to somebody in a round, in order.
enum Turn {
    Goes(u32, TurnOf),
    Enters(usize),
}

#[derive(Clone, Copy)]
enum TurnOf {
    Row(usize),
    Entered(u16),
    Exited(u16),
    Due,
}

impl Core {
    /// Lets people enter what the transitions and events of a round set off, and go on where it is time or what they waited for
    /// has happened; seals what they are sent.
    pub(super) async fn activate(
        &mut self,
        round: &Round<'_>,
        traits: &RecordBatch,
        profiles: &mut [Profile],
        transitions: &[Transition],
        stages: &[StageMove],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        if self.activations.is_empty() {
            return Ok(());
        }
        let none = EventBatch { batch: RecordBatch::new_empty(self.restore.schema()) };
        let (events, profile_of_row) = round.events.unwrap_or((&none, &[]));
        let ids: Vec<ProfileId> = profiles.iter().map(|profile| profile.id).collect();
        let triggered = self.activations.triggered(&Triggering {
            events,
            profile_of_row,
            ids: &ids,
            transitions,
            stages,
            now: round.now,
            is_due: round.touch.time,
            is_member: &|row, segment| profiles[row].membership(segment).member,
        })?;
        let any_under_way =
            profiles.iter().any(|profile| profile.journeys.as_ref().is_some_and(|j| !j.runs.is_empty()));
        if triggered.is_empty() && !any_under_way {
            return Ok(());
        }
        let seen = self.activations.see(events)?;
        let mut turns: Vec<((usize, u8), Turn)> = Vec::new();
        // An event is seen by those under way before anybody enters by it.
        if !seen.is_empty() {
            for (row, profile) in profile_of_row.iter().enumerate() {
                let Some(profile) = profile.filter(|_| seen.any(row)) else { continue };
                turns.push(((row, 0), Turn::Goes(profile, TurnOf::Row(row))));
            }
        }
        let last = events.len();
        for transition in transitions {
            // A membership that moves to another id is neither: the person was in it before and is now.
            let is_member = profiles[transition.profile as usize].membership(transition.segment).member;
            let of = match transition.entered {
                true if matches!(transition.cause, Cause::Event | Cause::Time | Cause::Edit) => TurnOf::Entered,
                false if !is_member => TurnOf::Exited,
                _ => continue,
            };
            turns.push(((last, 0), Turn::Goes(transition.profile, of(transition.segment))));
        }
        if round.touch.time {
            for (row, profile) in profiles.iter().enumerate() {
                let runs = profile.journeys.iter().flat_map(|journeys| &journeys.runs);
                if runs.map(|run| run.due).any(|due| due <= round.now[row]) {
                    turns.push(((last, 1), Turn::Goes(row as u32, TurnOf::Due)));
                }
            }
        }
        turns.extend(triggered.iter().enumerate().map(|(index, trigger)| {
            let place = trigger.row.map_or((last, 2), |row| (row, 1));
            (place, Turn::Enters(index))
        }));
        turns.sort_by_key(|(place, _)| *place);
        let whose = |turn: &Turn| match turn {
            Turn::Goes(profile, _) => *profile,
            Turn::Enters(index) => triggered[*index].profile,
        };
        let mut numbers: Vec<ProfileNumber> =
            turns.iter().map(|(_, turn)| round.numbers[whose(turn) as usize]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| self.identities.components.get(number).is_none());
        self.load_components(numbers).await?;

        let mut described: HashMap<u32, Value> = HashMap::new();
        let mut walked = Walked::default();
        for (_, turn) in &turns {
            let row = whose(turn);
            let mut journeys = profiles[row as usize].journeys.take().unwrap_or_default();
            if journeys.runs.is_empty() && matches!(turn, Turn::Goes(..)) {
                profiles[row as usize].journeys = Some(journeys).filter(|journeys| !journeys.is_empty());
                continue;
            }
            let before = counts(&journeys.runs);
            let profile = &profiles[row as usize];
            let component = self.identities.components.get(&round.numbers[row as usize]).map(Box::as_ref);
            let now = round.now[row as usize];
            let mut view = PersonView {
                core: self,
                profile,
                component,
                traits,
                row: row as usize,
                now,
                described: described.entry(row).or_default(),
            };
            let mut person = Person { id: profile.id, now, journeys: &mut journeys, view: &mut view };
            match turn {
                Turn::Enters(index) => {
                    self.activations.enter(&triggered[*index], events, &mut person, &mut walked)?;
                }
                Turn::Goes(_, of) => {
                    let happening = of.happening(events, &seen);
                    self.activations.go_on(happening, &mut person, &mut walked)?;
                }
            }
            let after = counts(&journeys.runs);
            self.record.count_runs(&before, &after);
            profiles[row as usize].journeys = Some(journeys).filter(|journeys| !journeys.is_empty());
        }
        self.add_steps(&walked.steps, staged)?;
        for Emitted { envelope, at } in walked.emitted {
            self.emit(&envelope, at, staged);
        }
        self.queue(walked.rendered, staged)
    }

    /// An event that the pipeline itself makes, in the standard envelope.
    pub(super) fn emit(&mut self, envelope: &Value, at: TimeUs, staged: &mut Staged) {
        let number = self.record.next_emitted;
        self.record.next_emitted += 1;
        let record = EmittedRecord { number, at, envelope: envelope.to_string() };
        let key = keys::number(Tag::Emitted, number);
        staged.writes.put(key, codec::encode(EmittedRecord::VERSION, &record));
        staged.emitted.push(record);
    }

    /// Events up to this number are in the batch that is being applied.
    pub(super) fn applied_emitted(&mut self, next: u64, staged: &mut Staged) {
        for number in self.record.emitted_applied..next {
            staged.writes.delete(keys::number(Tag::Emitted, number));
        }
        self.record.emitted_applied = self.record.emitted_applied.max(next);
    }

    /// What is asked before a message leaves.
    pub fn gate(&self, pipeline: &Pipeline) -> Arc<dyn Gate> {
        let index = |name: &String| self.segment_names.iter().position(|known| known == name);
        let suppression = &pipeline.messaging.suppression;
        Arc::new(SendGate {
            store: self.store.clone(),
            slots: self.slots.clone(),
            traits: self.traits.plans.clone(),
            consents: pipeline.activations.iter().filter_map(|plan| plan.consent.clone()).collect(),
            suppression: suppression.iter().filter_map(|name| Some((index(name)? as u16, name.clone()))).collect(),
            audiences: self.audiences.known(&pipeline.activations),
            identity: pipeline.identity.clone(),
        })
    }

    /// How many are under way, by activation; also those where nobody is.
    pub fn journeys(&self) -> BTreeMap<String, u64> {
        self.activations.running(&self.record.running)
    }

    pub(super) fn add_steps(&self, steps: &[StepRow], staged: &mut Staged) -> Result<(), EngineError> {
        for step in steps {
            let activation = step.activation.clone();
            metrics::counter!("tributary_journey_steps_total", "activation" => activation, "what" => step.what)
                .increment(1);
        }
        let table = &self.tables.journey_steps;
        output::add(table, rows::journey_steps(table, steps, staged.commit)?, staged)
    }

    /// Puts sealed deliveries into their queues; what is not sent is only told.
    pub(super) fn queue(&mut self, rendered: Vec<Rendered>, staged: &mut Staged) -> Result<(), EngineError> {
        let mut told = Vec::new();
        for Rendered { delivery, fate } in rendered {
            let number = self.record.next_delivery;
            self.record.next_delivery += 1;
            self.record.totals.deliveries += 1;
            let queued = Queued::new(number, delivery);
            let (outcome, detail) = match fate {
                Fate::Failed(detail) => (AttemptOutcome::Failed, detail),
                Fate::Skipped(detail) => (AttemptOutcome::Skipped, detail),
                Fate::DryRun => (AttemptOutcome::DryRun, "the activation's status is dry_run".to_string()),
                Fate::Send if !self.send => (AttemptOutcome::DryRun, "sending is switched off (--no-send)".to_string()),
                Fate::Send => {
                    let key = keys::numbered_name(Tag::Delivery, &queued.delivery.destination, number);
                    staged.writes.put(key, codec::encode(Queued::VERSION, &queued));
                    staged.queued.push(queued);
                    continue;
                }
            };
            told.push(Attempt { queued, outcome, detail, attempted_at: self.record.now });
        }
        self.add_attempts(told, staged)
    }

    /// Joins the journeys of an absorbed profile to those of the one that takes it over.
    pub(super) fn merge_journeys(&mut self, mine: &mut Profile, theirs: Option<Box<Journeys>>) -> Vec<Run> {
        let Some(theirs) = theirs else { return Vec::new() };
        let ended = mine.journeys_mut().merge(*theirs, &|activation| self.activations.goes_on_once(activation));
        self.record.count_runs(&counts(&ended), &BTreeMap::new());
        mine.tidy_journeys();
        ended
    }

    /// Those of someone who is no more.
    pub(super) fn end_journeys(
        &mut self,
        live: &Profile,
        id: ProfileId,
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let Some(journeys) = &live.journeys else { return Ok(()) };
        self.record.count_runs(&counts(&journeys.runs), &BTreeMap::new());
        let steps = self.activations.ended(&journeys.runs, id, "correction", self.record.now);
        self.add_steps(&steps, staged)
    }

    /// Journeys follow the identifier of their entry, what audiences were told follows the identifiers; what was sent and entered
    /// is known of all (SEMANTICS §10).
    pub(super) fn part_journeys(&self, live: &Profile, components: &[Component], profiles: &mut [Profile]) {
        let Some(journeys) = &live.journeys else { return };
        let owner = |run: &Run| {
            let hash = u128::from_be_bytes(run.who);
            let has = |component: &Component| component.identifiers().iter().any(|known| known.hash == hash);
            components.iter().position(has).unwrap_or(0)
        };
        let has = |component: &Component, (kind, value): (u16, &str)| {
            component.identifiers().iter().any(|known| known.kind == kind && &*known.value == value)
        };
        // What is nobody's now was sent of the first as well: there it is taken back.
        let sent_of = |kind, value: &str| components.iter().position(|c| has(c, (kind, value))).unwrap_or(0);
        for (index, profile) in profiles.iter_mut().enumerate() {
            let runs = journeys.runs.iter().filter(|run| owner(run) == index).cloned().collect();
            let (who, counted) = (profile.id.0, self.reborn.counted(profile.id));
            let listed = journeys.part_listed(who, counted, &|kind, value| sent_of(kind, value) == index);
            let (past, sends) = (journeys.past.clone(), journeys.sends.clone());
            *profile.journeys_mut() = Journeys { runs, past, sends, listed };
            profile.tidy_journeys();
        }
    }
}

impl TurnOf {
    fn happening<'a>(self, events: &'a EventBatch, seen: &'a Seen) -> Happening<'a> {
        match self {
            TurnOf::Row(row) => Happening::Event { events, row, seen },
            TurnOf::Entered(segment) => Happening::Entered(segment),
            TurnOf::Exited(segment) => Happening::Exited(segment),
            TurnOf::Due => Happening::Due,
        }
    }
}

/// How many are under way, by plan.
fn counts(runs: &[Run]) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    runs.iter().for_each(|run| *counts.entry(run.plan).or_default() += 1);
    counts
}

impl EngineRecord {
    fn count_runs(&mut self, before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) {
        for (plan, count) in after {
            *self.running.entry(*plan).or_default() += count;
        }
        for (plan, count) in before {
            let running = self.running.entry(*plan).or_default();
            *running = running.saturating_sub(*count);
        }
        self.running.retain(|_, running| *running > 0);
    }
}

/// A person as journeys see it.
struct PersonView<'a> {
    core: &'a Core,
    profile: &'a Profile,
    component: Option<&'a Component>,
    traits: &'a RecordBatch,
    row: usize,
    now: TimeUs,
    /// Null: not described yet.
    described: &'a mut Value,
}

impl View for PersonView<'_> {
    fn holds(&self, condition: &Condition) -> Result<bool, ActivationError> {
        Ok(self.core.segments.holds(condition, self.traits, self.row, self.profile, self.now)?)
    }

    fn flag(&self, column: &str) -> Option<bool> {
        output::json_value(self.traits.column_by_name(column)?, self.row).as_bool()
    }

    fn text(&self, column: &str) -> Option<String> {
        output::json_value(self.traits.column_by_name(column)?, self.row).as_str().map(str::to_string)
    }

    fn is_member(&self, segment: u16) -> bool {
        self.profile.membership(segment).member
    }

    fn describe(&mut self) -> Value {
        if !self.described.is_null() {
            return self.described.take();
        }
        let Core { identities, traits, segment_names, .. } = self.core;
        let plan = identities.plan();
        describe_profile(plan, traits, segment_names, self.profile, self.component, self.traits, self.row)
    }

    fn take_back(&mut self, described: Value) {
        *self.described = described;
    }

    fn best_identifier(&self) -> Option<BestIdentifier<'_>> {
        let identifiers = self.component?.identifiers();
        let best = identifiers.iter().min_by_key(|known| (known.kind, known.hash))?;
        let kind = &self.core.identities.plan().types[usize::from(best.kind)].name;
        Some(BestIdentifier { kind, value: &best.value, hash: best.hash })
    }
}

/// A profile as bodies of deliveries see it: `{id, traits, identifiers, segments}`.
pub fn describe_profile(
    identity: &IdentityPlan,
    plans: &Traits,
    segments: &[String],
    profile: &Profile,
    component: Option<&Component>,
    traits: &RecordBatch,
    row: usize,
) -> Value {
    let mut values = Map::new();
    for ((name, _), column) in BUILT_IN.iter().zip(traits.columns()) {
        values.insert(name.to_string(), output::json_value(column, row));
    }
    let mut columns = traits.columns()[BUILT_IN.len()..].iter();
    for plan in &plans.plans {
        // One without a main value is an object of its parts: `checkout.level`.
        let parts = plan.columns.iter().all(|column| !column.part.is_empty());
        let mut object = Map::new();
        for (column, array) in plan.columns.iter().zip(&mut columns) {
            let mut value = output::json_value(array, row);
            if let (ValueType::Json, Value::String(text)) = (column.value_type, &value) {
                value = serde_json::from_str(text).unwrap_or(Value::Null);
            }
            match parts {
                true => object.insert(column.part.to_string(), value),
                false => values.insert(column.name.clone(), value),
            };
        }
        if parts {
            values.insert(plan.name.clone(), Value::Object(object));
        }
    }
    let mut identifiers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for identifier in component.iter().flat_map(|component| component.identifiers()) {
        let name = identity.types[identifier.kind as usize].name.as_str();
        identifiers.entry(name).or_default().push(&identifier.value);
    }
    identifiers.values_mut().for_each(|values| values.sort_unstable());
    let segments: Vec<&str> = profile.segments().map(|segment| segments[usize::from(segment)].as_str()).collect();
    json!({ "id": profile.id.to_string(), "traits": values, "identifiers": identifiers, "segments": segments })
}
