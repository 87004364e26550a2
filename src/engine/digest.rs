//! One number for a state: equal for equal people, whatever the order in which their events came.
//!
//! In it: of groups what they are, of people which identifiers are one person under which id, traits, memberships, first and last times. Left out: internal
//! numbers, the ids a person had before, which link of several came first, how often and when a segment was entered, when a
//! profile was last judged; these follow from the order of events and the borders of batches.

use serde::Serialize;

use super::load_component;
use crate::event::{ProfileNumber, TimeUs};
use crate::profile::{Profile, ProfileRecord, Slots, Traits};
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError, codec, scan_all};

/// The digest of all profiles, as of `now`: the sum of their hashes, so that it does not depend on their order.
///
/// # Errors
/// The store's, or what is stored contradicts itself: an identifier that names another person than the one that has it.
pub async fn digest<'t>(
    store: &dyn Store,
    slots: &Slots,
    traits_of: &dyn Fn(u32) -> &'t Traits,
    now: TimeUs,
) -> Result<u128, StoreError> {
    let mut sum = of_groups(store, slots, traits_of, now).await?;
    let traits = traits_of(0);
    let mut after: Option<bytes::Bytes> = None;
    let prefix = keys::prefix(Tag::Component);
    loop {
        let page = store.scan(&prefix, after.as_deref(), 1_000).await?;
        let Some((last, _)) = page.last() else { return Ok(sum) };
        after = Some(last.clone());
        for (key, head) in page {
            let Some(number) = keys::parse_number(&key) else {
                return Err(StoreError::Damaged("a component's key has another length".to_string()));
            };
            sum = sum.wrapping_add(of_profile(store, slots, (traits, now), number, head).await?);
        }
    }
}

/// The same of all groups: which identifiers they have is their id.
async fn of_groups<'t>(
    store: &dyn Store,
    slots: &Slots,
    traits_of: &dyn Fn(u32) -> &'t Traits,
    now: TimeUs,
) -> Result<u128, StoreError> {
    let mut sum: u128 = 0;
    if slots.groups().is_empty() {
        return Ok(sum);
    }
    for (_, value) in scan_all(store, &keys::prefix(Tag::Profile)).await? {
        let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &value)?;
        let mut profile = record.load(slots);
        let Some(place) = slots.groups().iter().position(|group| group.slot == profile.kind()) else { continue };
        traits_of(profile.kind()).settle(&mut profile, now);
        let Profile { first_seen, last_seen, events, traits, stages, group, .. } = &profile;
        let members: Vec<u16> = profile.segments().collect();
        let stages: Vec<(u16, u16)> = stages.iter().filter_map(|(index, of)| Some((*index, of.stage?))).collect();
        let id = group.as_ref().map(|group| &group.id);
        sum = sum.wrapping_add(hash(&(place, id, first_seen, last_seen, events, traits, stages, members)));
    }
    Ok(sum)
}

async fn of_profile(
    store: &dyn Store,
    slots: &Slots,
    (rules, now): (&Traits, TimeUs),
    number: ProfileNumber,
    head: bytes::Bytes,
) -> Result<u128, StoreError> {
    let damaged = |what: String| Err(StoreError::Damaged(what));
    let component = load_component(number, Some(head), store).await?;
    let mut identifiers: Vec<(u16, &str)> = Vec::new();
    for known in component.identifiers() {
        let owner = store.get(&keys::identifier(known.hash)).await?;
        let owner: Option<ProfileNumber> = owner.map(|value| codec::decode(1, "identifier", &value)).transpose()?;
        if owner != Some(number) {
            return damaged(format!("{} of profile {} names {owner:?}", known.value, component.id));
        }
        identifiers.push((known.kind, &known.value));
    }
    identifiers.sort_unstable();
    for id in component.former_ids().iter().chain([&component.id]) {
        let owner = store.get(&keys::alias(*id)).await?;
        let owner: Option<ProfileNumber> = owner.map(|value| codec::decode(1, "alias", &value)).transpose()?;
        if owner != Some(number) {
            return damaged(format!("the id {id} of profile {} leads to {owner:?}", component.id));
        }
    }
    let Some(stored) = store.get(&keys::profile(number)).await? else {
        return damaged(format!("profile {} has no state", component.id));
    };
    let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &stored)?;
    let mut profile = record.load(slots);
    rules.settle(&mut profile, now);
    if profile.id != component.id {
        return damaged(format!("profile {} calls itself {}", component.id, profile.id));
    }
    let Profile { id, first_seen, last_seen, events, sessions, traits, stages, .. } = &profile;
    let sessions = (sessions.count(&rules.sessions), sessions.duration_us(&rules.sessions));
    let members: Vec<u16> = profile.segments().collect();
    let stages: Vec<(u16, u16)> = stages.iter().filter_map(|(index, of)| Some((*index, of.stage?))).collect();
    Ok(hash(&(id, first_seen, last_seen, events, sessions, traits, stages, members, identifiers)))
}

fn hash(value: &impl Serialize) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&codec::encode(0, value))
}
