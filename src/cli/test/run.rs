//! One test: its events through the real decoder, transforms and core, on a state in memory.

use std::sync::Arc;

use super::compare::compare;
use super::correct::correct;
use super::seen::Seen;
use crate::decode::{DecodePlan, Format};
use crate::definition::{Correction, Expected, Pipeline, Place, TestEvent, TestPlan, TestStep};
use crate::engine::{Core, EmittedRecord, EngineError, Preparer, Staged, emitted_batch};
use crate::event::{RawBatch, TimeUs};
use crate::state::Store;
use crate::state::memory::MemoryStore;

/// Far more than a test has.
const CACHE_BYTES: usize = 64 << 20;

/// Something that is not as a test expects.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// Where the expectation is written.
    pub place: Place,
    pub what: String,
    /// `- ` what was expected and is not there, `+ ` what is there instead.
    pub lines: Vec<String>,
}

/// What became of a test.
#[derive(Debug)]
pub struct Outcome {
    /// What is not as expected, in the order of the steps.
    pub differences: Vec<Difference>,
    /// What each expectation should say.
    pub corrections: Vec<Correction>,
}

/// Runs the tests of a pipeline one after the other, each on a new state.
pub struct Runner {
    pipeline: Pipeline,
    preparer: Preparer,
}

impl Runner {
    /// # Errors
    /// A table's file that cannot be read.
    pub fn new(pipeline: &Pipeline) -> Result<Runner, EngineError> {
        let mut pipeline = pipeline.clone();
        // Tests write standard events, whatever the source's own format: what follows decoding and mapping is real.
        pipeline.transform.maps.clear();
        // Whoever tests a body wants to see it.
        pipeline.destinations.iter_mut().for_each(|destination| destination.delivery.redact = None);
        let mut names: Vec<Arc<str>> = pipeline.decode.iter().map(|plan| plan.source.clone()).collect();
        // Sources that are off here have their events all the same.
        let events = pipeline.tests.iter().flat_map(|test| &test.steps).flat_map(|step| &step.events);
        names.extend(events.map(|event| event.source.clone()));
        names.sort_unstable();
        names.dedup();
        pipeline.decode = names.into_iter().map(|source| DecodePlan { source, format: Format::JsonEnvelope }).collect();
        let preparer = Preparer::new(&pipeline, None)?;
        Ok(Runner { pipeline, preparer })
    }

    /// # Errors
    /// Faults of the program; a test that fails is none.
    pub async fn run(&mut self, test: &TestPlan) -> Result<Outcome, EngineError> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        // Nothing is sent: what would be is a row of `deliveries` at once.
        let core = Core::load(store.clone(), &self.pipeline, &self.preparer.schema(), CACHE_BYTES, false).await?;
        let mut state = State { store, core, seen: Seen::new(&self.pipeline), emitted: Vec::new() };
        let events: Vec<&TestEvent> = test.steps.iter().flat_map(|step| &step.events).collect();
        let (mut differences, mut corrections) = (Vec::new(), Vec::new());
        for step in &test.steps {
            state.pass(&mut self.preparer, step.at).await?;
            self.take(step, &mut state).await?;
            if !step.expect.is_empty() {
                state.seen.profiles(&state.core.profiles_at(step.at).await?);
                state.seen.groups(&state.core.groups_at(step.at).await?);
            }
            for expectation in &step.expect {
                differences.extend(compare(&state.seen, expectation));
                let right = correct(&state.seen, &self.pipeline, expectation);
                corrections.push(Correction { expectation: expectation.clone(), right });
            }
            if !step.expect.is_empty() {
                let told = step.expect.iter().any(|expect| matches!(expect.expected, Expected::Rejected(_)));
                differences.extend(unexpected_rejects(&state.seen, &events).filter(|_| !told));
                state.seen.forget_what_happened();
            }
        }
        differences.extend(unexpected_rejects(&state.seen, &events));
        Ok(Outcome { differences, corrections })
    }

    /// Applies a step's events in the order written, those of one source in a row as one batch.
    async fn take(&mut self, step: &TestStep, state: &mut State) -> Result<(), EngineError> {
        let topic: Arc<str> = "tests".into();
        for run in step.events.chunk_by(|one, other| one.source == other.source) {
            let Some(first) = run.first() else { continue };
            let mut raw = RawBatch::new(first.source.clone());
            for event in run {
                let payload = serde_json::Value::Object(event.envelope.clone()).to_string();
                // The offset is the event's place in its test, by which a reject is told.
                raw.push(&topic, 0, state.seen.message_ids.len() as i64, step.at, payload.as_bytes());
                state.seen.message_ids.push(event.message_id());
            }
            let prepared = self.preparer.prepare(&raw, Vec::new())?;
            let staged = state.core.apply(Some(prepared), &[], step.at).await?;
            state.commit(staged).await?;
            state.take_emitted(&mut self.preparer, step.at).await?;
            state.pass(&mut self.preparer, step.at).await?;
        }
        Ok(())
    }
}

/// The state of one test, and what its tables show.
struct State {
    store: Arc<dyn Store>,
    core: Core,
    seen: Seen,
    /// Events that steps have made and that are not applied yet.
    emitted: Vec<EmittedRecord>,
}

impl State {
    /// Time passes: what is due up to `now` happens in order, each at its own time; then new borders of RFM traits.
    async fn pass(&mut self, preparer: &mut Preparer, now: TimeUs) -> Result<(), EngineError> {
        loop {
            let moment = self.core.next_due().min(now);
            let staged = match self.core.fire_timers(moment).await? {
                None => self.core.sweep(moment).await?,
                fired => fired,
            };
            match staged {
                Some(staged) => {
                    self.commit(staged).await?;
                    self.take_emitted(preparer, moment).await?;
                }
                None if self.core.next_due() > now => return Ok(()),
                None => {}
            }
        }
    }

    async fn commit(&mut self, mut staged: Staged) -> Result<(), EngineError> {
        self.store.commit(std::mem::take(&mut staged.writes)).await?;
        self.core.durable(staged.commit);
        self.seen.take(&staged.rows);
        self.emitted.append(&mut staged.emitted);
        Ok(())
    }

    /// What steps have made happens at once, and what that sets off.
    async fn take_emitted(&mut self, preparer: &mut Preparer, now: TimeUs) -> Result<(), EngineError> {
        while !self.emitted.is_empty() {
            let raw = emitted_batch(&std::mem::take(&mut self.emitted));
            let prepared = preparer.prepare(&raw, Vec::new())?;
            let staged = self.core.apply(Some(prepared), &[], now).await?;
            self.commit(staged).await?;
        }
        Ok(())
    }
}

/// An event that is rejected would make a test pass for the wrong reason.
fn unexpected_rejects<'a>(seen: &'a Seen, events: &'a [&TestEvent]) -> impl Iterator<Item = Difference> + 'a {
    seen.rejected.iter().filter_map(|rejected| {
        let event = events.get(rejected.event)?;
        Some(Difference {
            place: event.place.clone(),
            what: format!("event {} was rejected ({})", rejected.message_id, rejected.code),
            lines: vec![rejected.reason.clone(), "where that is meant, expect it: `rejected: [ID]`".to_string()],
        })
    })
}
