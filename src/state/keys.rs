//! The layout of every key, in one place.
//!
//! A key is the workspace (one byte for now), a tag, and fixed-width big-endian parts, so that bytewise
//! order is numeric order. Hashes are of 128 bits.

use bytes::{BufMut, Bytes, BytesMut};

use crate::event::{ProfileId, ProfileNumber, TimeUs};

/// There is one workspace for now; every key begins with it so that more can come.
pub const WORKSPACE: u8 = 0;

/// Keys of the journal, behind those of every workspace: what follows is the number of an entry.
pub const JOURNAL: [u8; 2] = [0xFF, b'j'];
/// How many writers this state has had.
pub const WRITER: [u8; 2] = [0xFF, b'w'];

/// The entry of a commit in the journal.
pub fn journal(number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(10);
    key.put_slice(&JOURNAL);
    key.put_u64(number);
    key.freeze()
}

/// The kinds of entries. A tag is never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// The engine's own record: commit number, `now`, format version.
    Engine = b'e',
    /// Source position: source, topic, partition → next offset, and what the record before it is known by.
    Position = b's',
    /// Identifier hash → profile number.
    Identifier = b'i',
    /// Profile number → component: identifiers, links, former ids; the first page of each.
    Component = b'c',
    /// Profile number, list, page → further entries of a component.
    ComponentPage = b'g',
    /// What people have put right in identity, by number: cuts, bans, struck events.
    Correction = b'n',
    /// The rebuild that is under way, and the live events it has to take in.
    Rebuild = b'b',
    /// Profile id (also a former one) → profile number.
    Alias = b'x',
    /// Profile number → traits and memberships.
    Profile = b'p',
    /// Kind of groups, hash of a group's id → its number among the profiles.
    Group = b'u',
    /// De-duplication: part, generation, number → message id hashes (see [`dedupe`]).
    Dedupe = b'd',
    /// Outbox: commit number, table → sealed rows.
    Outbox = b'o',
    /// Sink name → what it has acknowledged and what is sealed.
    Sink = b'k',
    /// Delivery queue: destination, delivery number → delivery.
    Delivery = b'q',
    /// Destination, delivery number → delivery that was given up, or may have been taken.
    DeadLetter = b'f',
    /// Rejected input by number.
    Rejected = b'r',
    /// Definition versions.
    Definition = b'v',
    /// Due time, profile number: when a profile has to be judged again.
    Timer = b't',
    /// Segment name, identifier hash → what people have added to a list or taken out of it.
    List = b'l',
    /// Profile number → what it is scored by: who has changed since a scan began, as they were before.
    Scan = b'a',
    /// Number → a version of an activation, as it was written.
    Journey = b'j',
    /// Number → an event that the pipeline itself has made, until it is applied.
    Emitted = b'm',
    /// Alert, hash of a group's keys → what of its series is not over.
    Alert = b'w',
    /// The same → its periods that are over.
    AlertPast = b'y',
}

pub fn prefix(tag: Tag) -> Bytes {
    Bytes::copy_from_slice(&[WORKSPACE, tag as u8])
}

fn start(tag: Tag, capacity: usize) -> BytesMut {
    let mut key = BytesMut::with_capacity(2 + capacity);
    key.put_u8(WORKSPACE);
    key.put_u8(tag as u8);
    key
}

pub fn number(tag: Tag, number: u64) -> Bytes {
    let mut key = start(tag, 8);
    key.put_u64(number);
    key.freeze()
}

pub fn name(tag: Tag, name: &str) -> Bytes {
    let mut key = start(tag, name.len());
    key.put_slice(name.as_bytes());
    key.freeze()
}

/// Two names, the first ended by a zero byte (names hold none).
pub fn numbered_name(tag: Tag, name: &str, number: u64) -> Bytes {
    let mut key = start(tag, name.len() + 9);
    key.put_slice(name.as_bytes());
    key.put_u8(0);
    key.put_u64(number);
    key.freeze()
}

/// The same key under another tag.
pub fn with_tag(key: &[u8], tag: Tag) -> Bytes {
    let mut other = start(tag, key.len().saturating_sub(2));
    other.put_slice(key.get(2..).unwrap_or_default());
    other.freeze()
}

/// The number of a [`numbered_name`] key.
pub fn parse_numbered_name(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(key.len().checked_sub(8)?..)?.try_into().ok()?))
}

/// All keys made by [`numbered_name`] for this name.
pub fn named_prefix(tag: Tag, name: &str) -> Bytes {
    let mut key = start(tag, name.len() + 1);
    key.put_slice(name.as_bytes());
    key.put_u8(0);
    key.freeze()
}

/// A name, ended by a zero byte, and a hash.
pub fn named_hash(tag: Tag, name: &str, hash: u128) -> Bytes {
    let mut key = start(tag, name.len() + 17);
    key.put_slice(name.as_bytes());
    key.put_u8(0);
    key.put_u128(hash);
    key.freeze()
}

/// The hash of a [`named_hash`] key.
pub fn parse_named_hash(key: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(key.get(key.len().checked_sub(16)?..)?.try_into().ok()?))
}

/// The number of a [`number`] key.
pub fn parse_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(2..)?.try_into().ok()?))
}

/// A number, then a name: `Outbox` entries of one commit lie together.
pub fn number_name(tag: Tag, number: u64, name: &str) -> Bytes {
    let mut key = start(tag, 8 + name.len());
    key.put_u64(number);
    key.put_slice(name.as_bytes());
    key.freeze()
}

/// What a `Dedupe` entry holds. The part comes first in the key, so that a start reads records, blocks and filters
/// without touching the pages, which are by far the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DedupePart {
    /// One for a generation that is sealed or being deleted: its figures.
    Record = 0,
    /// Hashes in order of arrival, of a generation that is not sealed yet.
    Block = 1,
    /// A piece of a sealed generation's filter.
    Filter = 2,
    /// Sorted hashes of a sealed generation: those that begin with the page's number.
    Page = 3,
}

/// `Dedupe`: part, generation, number within it.
pub fn dedupe(part: DedupePart, generation: u64, number: u32) -> Bytes {
    let mut key = start(Tag::Dedupe, 13);
    key.put_u8(part as u8);
    key.put_u64(generation);
    key.put_u32(number);
    key.freeze()
}

/// All `Dedupe` keys of this part.
pub fn dedupe_prefix(part: DedupePart) -> Bytes {
    let mut key = start(Tag::Dedupe, 1);
    key.put_u8(part as u8);
    key.freeze()
}

/// Generation and number of a [`dedupe`] key.
pub fn parse_dedupe(key: &[u8]) -> Option<(u64, u32)> {
    let (generation, number) = key.get(3..)?.split_at_checked(8)?;
    Some((u64::from_be_bytes(generation.try_into().ok()?), u32::from_be_bytes(number.try_into().ok()?)))
}

pub fn identifier(hash: u128) -> Bytes {
    let mut key = start(Tag::Identifier, 16);
    key.put_u128(hash);
    key.freeze()
}

pub fn alias(id: ProfileId) -> Bytes {
    let mut key = start(Tag::Alias, 16);
    key.put_slice(&id.0);
    key.freeze()
}

/// The id of an [`alias`] key; None for any other key.
pub fn parse_alias(key: &[u8]) -> Option<ProfileId> {
    let id = key.strip_prefix(&*prefix(Tag::Alias))?;
    Some(ProfileId(id.try_into().ok()?))
}

pub fn component(profile: ProfileNumber) -> Bytes {
    number(Tag::Component, profile)
}

/// Page `page` (from 1) of a component's list.
pub fn component_page(profile: ProfileNumber, list: u8, page: u32) -> Bytes {
    let mut key = start(Tag::ComponentPage, 13);
    key.put_u64(profile);
    key.put_u8(list);
    key.put_u32(page);
    key.freeze()
}

/// All pages of a component, list by list.
pub fn component_pages(profile: ProfileNumber) -> Bytes {
    number(Tag::ComponentPage, profile)
}

/// The list of a [`component_page`] key.
pub fn parse_component_page(key: &[u8]) -> Option<u8> {
    key.get(10).copied()
}

/// Times before 1970 sort before those after.
pub fn timer(due: TimeUs, profile: ProfileNumber) -> Bytes {
    let mut key = start(Tag::Timer, 16);
    key.put_u64((due as u64) ^ (1 << 63));
    key.put_u64(profile);
    key.freeze()
}

/// The parts of a [`timer`] key.
pub fn parse_timer(key: &[u8]) -> Option<(TimeUs, ProfileNumber)> {
    let (due, profile) = key.get(2..)?.split_at_checked(8)?;
    let due = u64::from_be_bytes(due.try_into().ok()?) ^ (1 << 63);
    Some((due as i64, u64::from_be_bytes(profile.try_into().ok()?)))
}

pub fn profile(profile: ProfileNumber) -> Bytes {
    number(Tag::Profile, profile)
}

/// The kind is the slot of the group's definition.
pub fn group(kind: u32, hash: u128) -> Bytes {
    let mut key = start(Tag::Group, 20);
    key.put_u32(kind);
    key.put_u128(hash);
    key.freeze()
}

pub fn position(source: &str, topic: &str, partition: i32) -> Bytes {
    let mut key = start(Tag::Position, source.len() + topic.len() + 6);
    key.put_slice(source.as_bytes());
    key.put_u8(0);
    key.put_slice(topic.as_bytes());
    key.put_u8(0);
    key.put_i32(partition);
    key.freeze()
}

/// The parts of a [`position`] key: source, topic, partition.
pub fn parse_position(key: &[u8]) -> Option<(String, String, i32)> {
    let rest = key.get(2..)?;
    let (names, partition) = rest.split_at_checked(rest.len().checked_sub(4)?)?;
    let names = names.strip_suffix(&[0])?;
    let cut = names.iter().position(|byte| *byte == 0)?;
    let source = std::str::from_utf8(&names[..cut]).ok()?;
    let topic = std::str::from_utf8(&names[cut + 1..]).ok()?;
    Some((source.to_string(), topic.to_string(), i32::from_be_bytes(partition.try_into().ok()?)))
}
