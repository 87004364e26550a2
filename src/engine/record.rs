//! The engine's own records in the state.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::activation::KnownAudience;
use crate::event::{ProfileNumber, Reject, TimeUs};
use crate::identity::Component;
use crate::profile::Slots;
use crate::sink::CommitRange;
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError, WriteBatch, codec, scan_all};

/// Under `Tag::Engine`, changed by every commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// The number of the last commit, from 1.
    pub commit: u64,
    /// `now` of that commit: never decreases.
    pub now: TimeUs,
    /// Up to when input had arrived: what message ids expire by.
    pub arrived: TimeUs,
    pub next_profile: ProfileNumber,
    pub next_reject: u64,
    pub next_delivery: u64,
    pub next_correction: u64,
    pub totals: Totals,
    /// Members by segment name.
    pub segment_sizes: BTreeMap<String, i64>,
    /// Journeys under way, by number of their plan.
    pub running: BTreeMap<u32, u64>,
    /// Events that steps have made are numbered; those below `emitted_applied` are applied.
    pub next_emitted: u64,
    pub emitted_applied: u64,
}

/// Counted since the state was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Raw records consumed.
    pub records: u64,
    /// Events applied, rows made by `unnest` among them.
    pub events: u64,
    pub duplicates: u64,
    pub rejected: u64,
    pub filtered: u64,
    /// Events without a usable identifier.
    pub anonymous: u64,
    pub profiles: u64,
    pub identifiers: u64,
    pub merges: u64,
    pub deliveries: u64,
}

impl EngineRecord {
    pub const VERSION: u8 = 4;
    pub const KEY: &str = "record";
}

/// What this state was made with, under `Tag::Definition`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DefinitionRecord {
    /// Identifier types, best first, each with where its values come from and how they are written; profile ids
    /// follow from these and from the key.
    pub identifier_types: Vec<String>,
    /// What may change, and holds from then on: limits, blocks, conflicts.
    pub identity_rules: String,
    pub identity_key: [u8; 32],
    pub slots: Slots,
    /// Schedules, journeys that stand still, and audiences: everyone is looked at when these change.
    pub journey_times: Vec<String>,
    /// Audiences by their numbers, also those that were there once.
    pub audiences: Vec<KnownAudience>,
}

impl DefinitionRecord {
    pub const VERSION: u8 = 6;
    pub const KEY: &str = "definitions";
}

/// The table sink's progress, under `Tag::Sink`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRecord {
    /// Every commit up to here is safe on the other side.
    pub acknowledged: u64,
    /// A range of several commits that may have been sent.
    pub sealed: Option<CommitRange>,
}

impl SinkRecord {
    pub const VERSION: u8 = 1;
    pub const KEY: &str = "tables";
}

/// Rejected input that can be replayed, under `Tag::Rejected` by number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredReject {
    pub number: u64,
    pub reject: Reject,
    /// Replays that ended in a reject again.
    pub attempts: u32,
}

impl StoredReject {
    pub const VERSION: u8 = 1;
}

/// A component: `head` is its own entry, further pages are read where it has any.
pub async fn load_component(
    number: ProfileNumber,
    head: Option<Bytes>,
    store: &dyn Store,
) -> Result<Component, StoreError> {
    let missing = || StoreError::Damaged(format!("profile {number} has identifiers but no component"));
    let (mut component, more) = Component::read(&head.ok_or_else(missing)?)?;
    if !more {
        return Ok(component);
    }
    for (key, value) in scan_all(store, &keys::component_pages(number)).await? {
        component.read_page(&key, &value)?;
    }
    component.finish();
    Ok(component)
}

/// The id that this state was given when it was made. Commits are counted anew in every state, so what ships them
/// must be able to tell one state's from another's.
pub async fn state_id(store: &dyn Store) -> Result<String, StoreError> {
    let key = keys::name(Tag::Engine, "id");
    if let Some(id) = store.get(&key).await? {
        return codec::decode(1, "state id", &id);
    }
    let mut bytes = [0u8; 12];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| StoreError::Unavailable("the system gives no random numbers".to_string()))?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut writes = WriteBatch::default();
    writes.put(key, codec::encode(1, &id));
    store.commit(writes).await?;
    Ok(id)
}
