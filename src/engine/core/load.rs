//! What a start reads: the records, the definitions and their slots, every identifier once.

use super::*;
use crate::activation::{AudiencePlan, KnownAudience, Surroundings, number_audiences};
use crate::profile::{Differences, SlotOf};
use crate::segment::SegmentPlan;

impl Core {
    /// Loads the state for this pipeline. `events` is the schema of the prepared batches.
    ///
    /// # Errors
    /// Besides the store's: identity rules other than those the state was made with.
    pub async fn load(
        store: Arc<dyn Store>,
        pipeline: &Pipeline,
        events: &SchemaRef,
        cache_bytes: usize,
        send: bool,
    ) -> Result<Core, EngineError> {
        let record: EngineRecord =
            load_one(&*store, &keys::name(Tag::Engine, EngineRecord::KEY), EngineRecord::VERSION, "engine record")
                .await?;
        let sink: SinkRecord =
            load_one(&*store, &keys::name(Tag::Sink, SinkRecord::KEY), SinkRecord::VERSION, "sink record").await?;
        let Defined { slots, fill, audiences } = definitions(&*store, pipeline, &record, false).await?;

        let mut identities = Identities::new(pipeline.identity.clone(), record.next_profile, cache_bytes / 3);
        warm_identifiers(&*store, &mut identities).await?;
        let plan = pipeline.identity.clone();
        for (_, value) in scan_all(&*store, &keys::prefix(Tag::Correction)).await? {
            let correction = codec::decode(Correction::VERSION, "correction", &value)?;
            identities.corrections.add(&plan, &correction);
        }
        let rebuild = store.get(&keys::name(Tag::Engine, RebuildRecord::KEY)).await?;
        let rebuild = rebuild.map(|value| codec::decode(RebuildRecord::VERSION, "rebuild", &value)).transpose()?;
        let kept = scan_all(&*store, &keys::prefix(Tag::Rebuild)).await?;
        let kept = kept.iter().filter_map(|(key, _)| keys::parse_number(key)).collect();
        let dedupe = Dedupe::load(&*store, pipeline.dedupe.within).await?;

        let mut traits = Traits::new(pipeline.traits.clone(), pipeline.sessions.clone(), events)?;
        let gone = slots.of_kind(0).segments.iter().skip(pipeline.segments.len());
        let gone = gone.filter_map(|slot| slots.segments().iter().find(|known| known.slot == *slot));
        let gone =
            gone.map(|slot| SegmentPlan { name: slot.name.clone(), version: slot.version, rule: SegmentRule::Nobody });
        let mut segments = Segments::new(pipeline.segments.iter().cloned().chain(gone).collect(), &traits)?;
        let mut groups = GroupKind::load(pipeline, &slots, events)?;
        if let Some(fill) = &fill {
            fill.set_ready(slots.of_kind(0), &mut traits.ready, &mut segments.ready);
            for group in &mut groups {
                fill.set_ready(slots.of_kind(group.kind), &mut group.traits.ready, &mut group.segments.ready);
            }
        }
        let aliases = match &fill {
            Some(fill) if fill.swept.is_none() => {
                Aliases::load(&*store, record.totals.profiles, cache_bytes / 4).await?
            }
            _ => None,
        };
        let rfm = Rfm::load(&*store, &slots, &mut traits, record.commit > 0, fill.is_some()).await?;
        let timers = Timers::load(&*store).await?;
        let lists = Lists::load(&*store, &segments.plans, &pipeline.identity).await?;
        let segment_names: Vec<String> = segments.plans.iter().map(|plan| plan.name.clone()).collect();
        let known = journeys::assign_numbers(&*store, &pipeline.activations, &record).await?;
        let around = Surroundings {
            segments: &segments,
            names: &segment_names,
            slots: &slots.of_kind(0).segments,
            events,
            messaging: pipeline.messaging.clone(),
            known: &known,
        };
        let activations = Activations::new(pipeline.activations.clone(), around)?;
        let destinations: Vec<String> = pipeline.destinations.iter().map(|plan| plan.name.clone()).collect();
        let types = pipeline.identity.types.iter().map(|known| known.name.clone()).collect();
        let suppression = &pipeline.messaging.suppression;
        let audiences =
            Audiences::new(&pipeline.audiences, &audiences, &segment_names, suppression, types, &destinations);
        let mut aggregates = Vec::new();
        for plan in &pipeline.aggregates {
            let aggregator = Aggregator::new(plan, events)
                .map_err(|error| EngineError::Start(format!("aggregate {}: {error}", plan.name)))?;
            aggregates.push((tables::aggregate(&plan.name, &plan.columns), aggregator));
        }
        let outbox = outbox::index(&*store).await?;
        Ok(Core {
            identities,
            profiles: Cache::new(cache_bytes / 3 * 2),
            dedupe,
            bodies: Bodies::default(),
            traits,
            segments,
            segment_names,
            groups,
            group_numbers: Cache::new(cache_bytes / 12),
            activations,
            audiences,
            aggregates,
            alerts: Alerts::load(&*store, &pipeline.alerts).await?,
            tables: CoreTables {
                events: tables::events(),
                profiles: tables::profiles(&trait_columns(pipeline)),
                identifiers: tables::identifiers(),
                profile_merges: tables::profile_merges(),
                identity_conflicts: tables::identity_conflicts(),
                event_moves: tables::event_moves(),
                segment_changes: tables::segment_changes(),
                group_segment_changes: tables::group_segment_changes(),
                sessions: tables::sessions(),
                stage_changes: tables::stage_changes(),
                journey_steps: tables::journey_steps(),
                definitions: tables::definitions(),
                rfm_borders: tables::rfm_borders(),
                deliveries: tables::deliveries(),
                rejected_events: tables::rejected_events(),
            },
            slots,
            timers,
            lists,
            rfm,
            relinked: HashSet::new(),
            fill,
            aliases,
            told: load_one(&*store, &keys::name(Tag::Engine, Told::KEY), Told::VERSION, "definitions").await?,
            must_tell: true,
            restore: Restore::new(&pipeline.transform.fields),
            rebuild,
            kept,
            reborn: Reborn::load(&*store).await?,
            record,
            sink,
            sealer: Sealer::default(),
            outbox,
            send,
            destinations: pipeline
                .destinations
                .iter()
                .map(|plan| (plan.name.clone(), plan.delivery.redact.clone()))
                .collect(),
            profiles_at_once: fill::PROFILES_AT_ONCE,
            store,
        })
    }

    /// All output tables of a pipeline, for the sink to prepare.
    pub fn tables(pipeline: &Pipeline) -> Vec<Table> {
        let mut all = vec![
            tables::events(),
            tables::profiles(&trait_columns(pipeline)),
            tables::identifiers(),
            tables::profile_merges(),
            tables::identity_conflicts(),
            tables::event_moves(),
            tables::segment_changes(),
            tables::group_segment_changes(),
            tables::sessions(),
            tables::stage_changes(),
            tables::journey_steps(),
            tables::definitions(),
            tables::rfm_borders(),
            tables::deliveries(),
            tables::rejected_events(),
        ];
        all.extend(pipeline.groups.iter().map(groups::table));
        all.extend(pipeline.aggregates.iter().map(|plan| tables::aggregate(&plan.name, &plan.columns)));
        all
    }
}

fn trait_columns(pipeline: &Pipeline) -> Vec<(String, crate::event::ValueType)> {
    let columns = pipeline.traits.iter().flat_map(|plan| &plan.columns);
    columns.map(|column| (column.name.clone(), column.value_type)).collect()
}

pub(super) async fn load_one<T: serde::de::DeserializeOwned + Default>(
    store: &dyn Store,
    key: &[u8],
    version: u8,
    what: &str,
) -> Result<T, StoreError> {
    match store.get(key).await? {
        Some(value) => codec::decode(version, what, &value),
        None => Ok(T::default()),
    }
}

/// What a state knows of definitions, compared with these.
pub struct Known {
    pub differences: Differences,
    /// The rules of identity that the state was made with differ in what may change: limits and blocks.
    pub identity_rules_differ: bool,
    /// A fill that is under way.
    pub unfinished: Option<FillRecord>,
    /// Audiences that are defined no more.
    pub removed_audiences: Vec<KnownAudience>,
    pub engine: EngineRecord,
}

/// Compares definitions with those that a state was last run with; changes nothing.
///
/// # Errors
/// Besides the store's: identity rules that would change profile ids.
pub async fn compare(store: &dyn Store, pipeline: &Pipeline) -> Result<Known, EngineError> {
    let key = keys::name(Tag::Engine, EngineRecord::KEY);
    let engine: EngineRecord = load_one(store, &key, EngineRecord::VERSION, "engine record").await?;
    let key = keys::name(Tag::Definition, DefinitionRecord::KEY);
    let mut record: DefinitionRecord = load_one(store, &key, DefinitionRecord::VERSION, "definition record").await?;
    if engine.commit > 0 {
        check_identity(&record, pipeline)?;
    }
    let identity_rules_differ = engine.commit > 0 && record.identity_rules != pipeline.identity.rules();
    let mut differences = record.slots.assign(&pipeline.defined());
    let unfinished = store.get(&keys::name(Tag::Engine, FillRecord::KEY)).await?;
    let unfinished: Option<FillRecord> =
        unfinished.map(|value| codec::decode(FillRecord::VERSION, "fill", &value)).transpose()?;
    // Their removal was accepted before.
    differences.removed_segments.retain(|slot| unfinished.iter().all(|fill| !fill.removed.contains(slot)));
    let removed_audiences = removed_audiences(&pipeline.audiences, &record.audiences);
    Ok(Known { differences, identity_rules_differ, unfinished, removed_audiences, engine })
}

/// Profile ids follow from identifier types and key: these must be the state's.
fn check_identity(record: &DefinitionRecord, pipeline: &Pipeline) -> Result<(), EngineError> {
    let types: Vec<String> = pipeline.identity.types.iter().map(IdentifierType::meaning).collect();
    // A type added at the end is the worst of all: it cannot change the id of any profile.
    if types.starts_with(&record.identifier_types) && record.identity_key == pipeline.identity.key.bytes() {
        return Ok(());
    }
    Err(EngineError::Contradiction(format!(
        "the identity rules differ from those this state was made with (then: {}; now: {}): profile ids would change. \
         `tributary identity dry-run` shows what they would make of the events that are stored. Start with another \
         --data to build the profiles anew, or put the rules back; only adding types at the end is possible on \
         existing state",
        record.identifier_types.join(", "),
        types.join(", ")
    )))
}

/// Takes these definitions over, removals among them. A start goes on from there.
///
/// # Errors
/// As [`compare`].
pub async fn accept(store: &dyn Store, pipeline: &Pipeline) -> Result<(), EngineError> {
    let key = keys::name(Tag::Engine, EngineRecord::KEY);
    let engine: EngineRecord = load_one(store, &key, EngineRecord::VERSION, "engine record").await?;
    definitions(store, pipeline, &engine, true).await?;
    Ok(())
}

/// What a start goes by.
struct Defined {
    slots: Slots,
    fill: Option<FillRecord>,
    audiences: Vec<KnownAudience>,
}

/// Gives every trait and segment its slot, says what has to be filled from the past, and refuses identity rules other
/// than the state was made with.
async fn definitions(
    store: &dyn Store,
    pipeline: &Pipeline,
    engine: &EngineRecord,
    accept_removal: bool,
) -> Result<Defined, EngineError> {
    let used = engine.commit > 0;
    let key = keys::name(Tag::Definition, DefinitionRecord::KEY);
    let mut record: DefinitionRecord = load_one(store, &key, DefinitionRecord::VERSION, "definition record").await?;
    let before = record.clone();
    let types: Vec<String> = pipeline.identity.types.iter().map(IdentifierType::meaning).collect();
    let rules = pipeline.identity.rules();
    if used {
        check_identity(&record, pipeline)?;
        if record.identity_rules != rules {
            tracing::warn!(
                "limits or blocked values of `identity` have changed: they hold from now on, and what was joined stays joined \
                 (tributary identity dry-run shows what they would make of the past, identity split takes a merge apart)"
            );
        }
    }
    record.identifier_types = types;
    record.identity_rules = rules;
    record.identity_key = pipeline.identity.key.bytes();
    let mut differences = record.slots.assign(&pipeline.defined());
    record.slots.sessions = pipeline.sessions.version;
    let unfinished = store.get(&keys::name(Tag::Engine, FillRecord::KEY)).await?;
    let unfinished: Option<FillRecord> =
        unfinished.map(|value| codec::decode(FillRecord::VERSION, "fill", &value)).transpose()?;
    // Their removal was accepted before.
    differences.removed_segments.retain(|slot| unfinished.iter().all(|fill| !fill.removed.contains(slot)));
    if used && !accept_removal {
        refuse_removal(&differences, &pipeline.audiences, &record.audiences, engine)?;
    }
    number_audiences(&mut record.audiences, &pipeline.audiences);
    let mut writes = WriteBatch::default();
    let recount = keys::name(Tag::Engine, groups::RECOUNT);
    let times = journeys::times(&pipeline.activations, &pipeline.audiences);
    let other_times = record.journey_times != times;
    record.journey_times = times;
    let is_noted = store.get(&recount).await?.is_some();
    let again = if is_noted { groups::traits_of_people(pipeline, &record.slots) } else { Vec::new() };
    let fill = match used {
        true => {
            let slots = &mut record.slots;
            FillRecord::plan(unfinished, &differences, &again, slots, pipeline, other_times, engine.commit)
        }
        false => None,
    };
    if is_noted {
        writes.delete(recount);
    }
    if record != before {
        writes.put(key, codec::encode(DefinitionRecord::VERSION, &record));
    }
    if let Some(fill) = &fill {
        writes.put(keys::name(Tag::Engine, FillRecord::KEY), codec::encode(FillRecord::VERSION, fill));
    }
    if !writes.is_empty() {
        store.commit(writes).await?;
    }
    Ok(Defined { slots: record.slots, fill, audiences: record.audiences })
}

/// Takes segments that nobody is in any more out of what the state knows, and what was said of their lists.
pub(super) async fn forget_segments(
    store: &dyn Store,
    gone: &[SlotOf],
    writes: &mut WriteBatch,
) -> Result<(), StoreError> {
    let key = keys::name(Tag::Definition, DefinitionRecord::KEY);
    let mut record: DefinitionRecord = load_one(store, &key, DefinitionRecord::VERSION, "definition record").await?;
    record.slots.forget_segments(gone);
    for segment in gone {
        for (key, _) in scan_all(store, &keys::named_prefix(Tag::List, &segment.name)).await? {
            writes.delete(key);
        }
    }
    writes.put(key, codec::encode(DefinitionRecord::VERSION, &record));
    Ok(())
}

/// A definition that is in use may be gone by mistake: a file that was moved, a name mistyped.
fn refuse_removal(
    differences: &Differences,
    audiences: &[AudiencePlan],
    known: &[KnownAudience],
    engine: &EngineRecord,
) -> Result<(), EngineError> {
    let size = |name: &str| engine.segment_sizes.get(name).copied().unwrap_or_default();
    let segments = differences.removed_segments.iter().filter(|slot| size(&slot.name) > 0);
    // A changed trait has another version under its name: it is not gone.
    let mut gone: Vec<String> =
        segments.map(|slot| format!("segment {} ({} members)", slot.name, size(&slot.name))).collect();
    let lost = removed_audiences(audiences, known);
    gone.extend(lost.iter().map(|one| format!("audience {} at {}", one.name, one.to)));
    if gone.is_empty() {
        return Ok(());
    }
    Err(EngineError::Contradiction(format!(
        "{} is defined no more, and someone is in it: `tributary plan` shows what its removal would do, `tributary apply` \
         accepts it; or put the definition back",
        gone.join(", ")
    )))
}

/// Those that were defined before and are not now: whoever was sent is removed from them.
fn removed_audiences(audiences: &[AudiencePlan], known: &[KnownAudience]) -> Vec<KnownAudience> {
    let is_there = |one: &KnownAudience| audiences.iter().any(|plan| plan.name == one.name && plan.to == one.to);
    known.iter().filter(|one| one.is_defined && !is_there(one)).cloned().collect()
}

/// Reads all identifiers once: the filter must know every one of them, and the cache takes what fits.
async fn warm_identifiers(store: &dyn Store, identities: &mut Identities) -> Result<(), EngineError> {
    let prefix = keys::prefix(Tag::Identifier);
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(&prefix, after.as_deref(), 10_000).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, value) in &page {
            let Some(hash) = key.get(2..18).and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes) else {
                return Err(StoreError::Damaged("an identifier's key has another length".to_string()).into());
            };
            identities.seen.insert(hash);
            identities.identifiers.insert_clean(hash, codec::decode(1, "identifier", value)?);
        }
        identities.identifiers.shrink();
    }
}
