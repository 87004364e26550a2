//! One person as the state has them, under the definitions of a pipeline: what `explain` reads.

use super::load::load_one;
use super::*;

/// Nothing is changed, and no process is disturbed.
#[derive(Debug, Clone)]
pub struct Look {
    pub profile: Profile,
    pub engine: EngineRecord,
    /// By index of the traits.
    pub traits: Vec<Readiness>,
    /// By index of the segments.
    pub segments: Vec<Readiness>,
}

/// How far the state knows a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// A fill is under way.
    Filling,
    /// The state has another version under this name.
    Changed,
    /// It has never run.
    New,
}

/// # Errors
/// The store's, and a profile that is not there.
pub async fn look(store: &dyn Store, pipeline: &Pipeline, number: ProfileNumber) -> Result<Look, EngineError> {
    let key = keys::name(Tag::Engine, EngineRecord::KEY);
    let engine = load_one(store, &key, EngineRecord::VERSION, "engine record").await?;
    let key = keys::name(Tag::Definition, DefinitionRecord::KEY);
    let record: DefinitionRecord = load_one(store, &key, DefinitionRecord::VERSION, "definition record").await?;
    let fill = store.get(&keys::name(Tag::Engine, FillRecord::KEY)).await?;
    let fill: Option<FillRecord> = fill.map(|value| codec::decode(FillRecord::VERSION, "fill", &value)).transpose()?;
    let stored = store.get(&keys::profile(number)).await?;
    let stored = stored.ok_or_else(|| StoreError::Damaged(format!("profile {number} is not stored")))?;
    let stored: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &stored)?;

    let mut slots = record.slots.clone();
    slots.assign(&pipeline.defined());
    let (mut ready_traits, mut ready_segments) =
        (vec![true; pipeline.traits.len()], vec![true; pipeline.segments.len()]);
    if let Some(fill) = &fill {
        fill.set_ready(slots.of_kind(0), &mut ready_traits, &mut ready_segments);
        // While everyone is judged anew, who has not had their turn is still where they were.
        if fill.swept.is_some_and(|swept| number > swept) {
            let of_segments = slots.of_kind(0).segments.iter().zip(&mut ready_segments);
            of_segments.for_each(|(slot, ready)| *ready &= !fill.segments.contains(slot));
        }
    }
    let known = |slots: &[crate::profile::SlotOf], name: &str, version: u64, ready: bool| {
        let mut of_name = slots.iter().filter(|slot| slot.name == name).peekable();
        match (of_name.peek().is_some(), of_name.any(|slot| slot.version == version)) {
            (_, true) if ready => Readiness::Ready,
            (_, true) => Readiness::Filling,
            (true, false) => Readiness::Changed,
            (false, false) => Readiness::New,
        }
    };
    let of_trait = |(plan, ready): (&crate::profile::TraitPlan, &bool)| {
        known(record.slots.traits(), &plan.name, plan.version, *ready)
    };
    let of_segment = |(plan, ready): (&crate::segment::SegmentPlan, &bool)| {
        known(record.slots.segments(), &plan.name, plan.version, *ready)
    };
    Ok(Look {
        traits: pipeline.traits.iter().zip(&ready_traits).map(of_trait).collect(),
        segments: pipeline.segments.iter().zip(&ready_segments).map(of_segment).collect(),
        profile: stored.load(&slots),
        engine,
    })
}
