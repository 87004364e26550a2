//! Stored values: any bytes are an error or a value, and a value is written as bytes that are read as the same.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use tributary::engine::dedupe::Dedupe;
use tributary::engine::{EngineRecord, FillRecord, ListEdit, RebuildRecord, StoredReject};
use tributary::event::ProfileNumber;
use tributary::identity::{Component, Correction};
use tributary::profile::{DefinedFor, ProfileRecord, Slots};
use tributary::sink::Queued;
use tributary::state::cache::Weigh;
use tributary::state::filter::SeenFilter;
use tributary::state::keys::{self, DedupePart};
use tributary::state::memory::MemoryStore;
use tributary::state::{Store, Write, WriteBatch, codec};

/// What the first byte of an input chooses, by place.
pub const KINDS: [&str; 14] = [
    "engine",
    "reject",
    "fill",
    "rebuild",
    "edit",
    "correction",
    "delivery",
    "number",
    "position",
    "profile",
    "component",
    "filter",
    "dedupe",
    "keys",
];

pub fn stored(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match KINDS[usize::from(*kind) % KINDS.len()] {
        "engine" => round_trip::<EngineRecord>(EngineRecord::VERSION, bytes),
        "reject" => round_trip::<StoredReject>(StoredReject::VERSION, bytes),
        "fill" => round_trip::<FillRecord>(FillRecord::VERSION, bytes),
        "rebuild" => round_trip::<RebuildRecord>(RebuildRecord::VERSION, bytes),
        "edit" => round_trip::<ListEdit>(ListEdit::VERSION, bytes),
        "correction" => round_trip::<Correction>(Correction::VERSION, bytes),
        "delivery" => round_trip::<Queued>(Queued::VERSION, bytes),
        "number" => round_trip::<ProfileNumber>(1, bytes),
        "position" => round_trip::<i64>(1, bytes),
        "profile" => profile(bytes),
        "component" => component(bytes),
        "filter" => filter(bytes),
        "dedupe" => dedupe(bytes),
        _ => keys_of(bytes),
    }
}

fn round_trip<T: Serialize + DeserializeOwned>(version: u8, bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(version, "value", bytes) else { return };
    let written = codec::encode(version, &value);
    let again: T = codec::decode(version, "value", &written).expect("what was encoded is decoded");
    assert_eq!(codec::encode(version, &again), written);
}

/// The slots 1 to 32 for traits and the next 32 for segments.
fn slots() -> Slots {
    let names: Vec<String> = (0..32).map(|index| format!("d{index}")).collect();
    let named: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut slots = Slots::default();
    slots.assign(&[DefinedFor { group: None, traits: named.clone(), segments: named }]);
    slots
}

fn profile(bytes: &[u8]) {
    let decode = |bytes: &[u8]| codec::decode::<ProfileRecord>(ProfileRecord::VERSION, "profile", bytes);
    let Ok(record) = decode(bytes) else { return };
    let slots = slots();
    let profile = record.load(&slots);
    profile.weigh();
    let written = ProfileRecord::encode(&profile, &slots);
    let again = decode(&written).expect("what was encoded is decoded").load(&slots);
    assert_eq!(ProfileRecord::encode(&again, &slots), written);
}

/// A component's own entry, behind it perhaps pages: each its list, its length in two bytes and its bytes.
fn component(bytes: &[u8]) {
    let (head, mut rest) = piece(bytes);
    let Ok((mut component, more)) = Component::read(head) else { return };
    if more {
        while let Some((list, pages)) = rest.split_first() {
            let page;
            (page, rest) = piece(pages);
            if component.read_page(&keys::component_page(1, *list, 1), page).is_err() {
                return;
            }
        }
        component.finish();
    }
    component.weigh();
    // Staged as new, in full.
    let mut batch = WriteBatch::default();
    component.write(1, &mut batch);
    let mut entries = batch.writes.iter().filter_map(|write| match write {
        Write::Put(key, value) => Some((key, value)),
        Write::Delete(_) => None,
    });
    let Some((_, head)) = entries.next() else { return };
    Component::read(head).expect("what was encoded is decoded");
}

/// A length in two bytes and so many bytes, or what there is.
fn piece(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return (bytes, &[]) };
    rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))))
}

fn filter(bytes: &[u8]) {
    let Ok(filter) = SeenFilter::from_bytes(bytes) else { return };
    filter.may_contain(u128::MAX);
    let written = filter.to_bytes();
    assert_eq!(SeenFilter::from_bytes(&written).expect("what was encoded is decoded").to_bytes(), written);
}

/// Entries of a store: part, generation, number, and a piece each.
fn dedupe(mut bytes: &[u8]) {
    let store = MemoryStore::default();
    let mut batch = WriteBatch::default();
    while let Some(([part, generation, number], rest)) = bytes.split_first_chunk::<3>() {
        let part =
            [DedupePart::Record, DedupePart::Block, DedupePart::Filter, DedupePart::Page][usize::from(*part % 4)];
        let value;
        (value, bytes) = piece(rest);
        batch.put(keys::dedupe(part, u64::from(*generation), u32::from(*number)), value.to_vec());
    }
    futures::executor::block_on(async {
        store.commit(batch).await.expect("memory");
        let Ok(mut dedupe) = Dedupe::load(&store, Some(Duration::from_secs(3600))).await else { return };
        let hashes = [0, 1, 1 << 127, u128::MAX];
        let pages = dedupe.candidates(&hashes);
        if dedupe.fetch(&store, pages).await.is_err() {
            return;
        }
        let mut staged = WriteBatch::default();
        dedupe.check(&hashes, 1_772_000_000_000_000, 1_772_000_000_000_000, &mut staged);
        assert!(dedupe.check(&[7, 7], 1_772_000_000_000_001, 0, &mut staged)[1], "the same id twice");
    });
}

fn keys_of(key: &[u8]) {
    keys::parse_named_hash(key);
    keys::parse_number(key);
    keys::parse_dedupe(key);
    keys::parse_component_page(key);
    if let Some(id) = keys::parse_alias(key) {
        assert_eq!(keys::parse_alias(&keys::alias(id)), Some(id));
    }
    if let Some((due, profile)) = keys::parse_timer(key) {
        assert_eq!(keys::parse_timer(&keys::timer(due, profile)), Some((due, profile)));
    }
    if let Some((source, topic, partition)) = keys::parse_position(key) {
        let key = keys::position(&source, &topic, partition);
        assert_eq!(keys::parse_position(&key), Some((source, topic, partition)));
    }
}
