//! What a start reads: the records, the definitions and their slots, every identifier once.

use super::*;

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
        let (slots, fill) = definitions(&*store, pipeline, &record).await?;

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

        let mut traits = Traits::new(pipeline.traits.clone(), events)?;
        let mut segments = Segments::new(pipeline.segments.clone(), &traits)?;
        if let Some(fill) = &fill {
            fill.set_ready(&slots, &mut traits.ready, &mut segments.ready);
        }
        let timers = Timers::load(&*store).await?;
        let segment_names: Vec<String> = pipeline.segments.iter().map(|plan| plan.name.clone()).collect();
        let activations = Activations::new(pipeline.activations.clone(), &segment_names, events)?;
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
            activations,
            aggregates,
            tables: CoreTables {
                events: tables::events(),
                profiles: tables::profiles(&trait_columns(pipeline)),
                identifiers: tables::identifiers(),
                profile_merges: tables::profile_merges(),
                identity_conflicts: tables::identity_conflicts(),
                event_moves: tables::event_moves(),
                segment_changes: tables::segment_changes(),
                stage_changes: tables::stage_changes(),
                deliveries: tables::deliveries(),
                rejected_events: tables::rejected_events(),
            },
            slots,
            timers,
            lists: Lists::default(),
            relinked: HashSet::new(),
            fill,
            restore: Restore::new(&pipeline.transform.fields),
            rebuild,
            kept,
            record,
            sink,
            outbox,
            send,
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
            tables::stage_changes(),
            tables::deliveries(),
            tables::rejected_events(),
        ];
        all.extend(pipeline.aggregates.iter().map(|plan| tables::aggregate(&plan.name, &plan.columns)));
        all
    }
}

fn trait_columns(pipeline: &Pipeline) -> Vec<(String, crate::event::ValueType)> {
    let columns = pipeline.traits.iter().flat_map(|plan| &plan.columns);
    columns.map(|column| (column.name.clone(), column.value_type)).collect()
}

async fn load_one<T: serde::de::DeserializeOwned + Default>(
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

/// Gives every trait and segment its slot, says what has to be filled from the past, and refuses identity rules other
/// than the state was made with.
async fn definitions(
    store: &dyn Store,
    pipeline: &Pipeline,
    engine: &EngineRecord,
) -> Result<(Slots, Option<FillRecord>), EngineError> {
    let used = engine.commit > 0;
    let key = keys::name(Tag::Definition, DefinitionRecord::KEY);
    let mut record: DefinitionRecord = load_one(store, &key, DefinitionRecord::VERSION, "definition record").await?;
    let before = record.clone();
    let types: Vec<String> = pipeline.identity.types.iter().map(IdentifierType::meaning).collect();
    let rules = pipeline.identity.rules();
    if used {
        // A type added at the end is the worst of all: it cannot change the id of any profile.
        if !types.starts_with(&record.identifier_types) || record.identity_key != pipeline.identity.key.bytes() {
            return Err(EngineError::Contradiction(format!(
                "the identity rules differ from those this state was made with (then: {}; now: {}): profile ids would change. \
                 `tributary identity dry-run` shows what they would make of the events that are stored. Start with another \
                 --data to build the profiles anew, or put the rules back; only adding types at the end is possible on \
                 existing state",
                record.identifier_types.join(", "),
                types.join(", ")
            )));
        }
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
    let traits = pipeline.traits.iter().map(|plan| (plan.name.as_str(), plan.version));
    let segments = pipeline.segments.iter().map(|plan| (plan.name.as_str(), plan.version));
    let differences = record.slots.assign(traits, segments);
    let unfinished = store.get(&keys::name(Tag::Engine, FillRecord::KEY)).await?;
    let unfinished = unfinished.map(|value| codec::decode(FillRecord::VERSION, "fill", &value)).transpose()?;
    let fill = match used {
        true => FillRecord::plan(unfinished, &differences, &mut record.slots, pipeline, engine.commit),
        false => None,
    };
    let mut writes = WriteBatch::default();
    if record != before {
        writes.put(key, codec::encode(DefinitionRecord::VERSION, &record));
    }
    if let Some(fill) = &fill {
        writes.put(keys::name(Tag::Engine, FillRecord::KEY), codec::encode(FillRecord::VERSION, fill));
    }
    if !writes.is_empty() {
        store.commit(writes).await?;
    }
    Ok((record.slots, fill))
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
