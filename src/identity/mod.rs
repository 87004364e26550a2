//! Identity: identifiers are nodes, events link them, a profile is a connected component.
//!
//! The public id of a profile is a keyed hash of its best identifier (by priority of the type, then by hash), so
//! it depends on *which* identifiers are joined and never on the order in which they came. State is keyed by an
//! internal number; when two components turn out to be one person, the larger keeps its number and the smaller's
//! identifiers are re-pointed: a merge costs in proportion to the smaller side.
//!
//! Steps for a batch: [`extract`] finds the identifiers of every row; [`Identities::missing_identifiers`] and
//! [`Identities::missing_components`] say what must be loaded; [`Identities::resolve`] makes all links of the
//! batch, before any event is applied. Nothing here reads the store or a clock.

mod rules;

mod extract;

mod component;
mod corrections;
mod identities;

mod decide;
mod resolve;

pub use component::{Component, Identifier, Link};
pub use corrections::{Correction, Corrections, Named};
pub use decide::{Cause, Conflict, Decision, Decisions};
pub use extract::{Extracted, Item, extract};
pub use identities::Identities;
pub use resolve::{IdentifierRow, Merge, NO_PROFILE, Resolved};
pub use rules::{Normalize, Pattern, Region, blocked, normalize};

use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::event::{ProfileId, TimeUs};

/// Checked identity rules.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentityPlan {
    /// The key of the profile ids' hash: SHA-256 of the pipeline's name unless set.
    pub key: IdentityKey,
    /// Identifier types, best first.
    pub types: Vec<IdentifierType>,
    /// Values of any type that stand for nobody, besides the built-in ones.
    pub block: Vec<Pattern>,
    pub on_conflict: OnConflict,
    /// A profile takes no more identifiers than this.
    pub max_identifiers: u32,
    /// The type that the `previous_id` of an `alias` call is of; None where that type is not listed.
    pub previous_id: Option<u16>,
}

/// A key, with the hash that has taken it in already: half of the work of a profile id.
#[derive(Clone)]
pub struct IdentityKey {
    bytes: [u8; 32],
    keyed: Hmac<Sha256>,
}

impl From<[u8; 32]> for IdentityKey {
    fn from(bytes: [u8; 32]) -> IdentityKey {
        let keyed = match Hmac::new_from_slice(&bytes) {
            Ok(keyed) => keyed,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        IdentityKey { bytes, keyed }
    }
}

impl IdentityKey {
    pub fn bytes(&self) -> [u8; 32] {
        self.bytes
    }
}

impl PartialEq for IdentityKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl std::fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityKey")
    }
}

/// Why a value is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It is none of its type.
    Invalid,
    /// It stands for nobody.
    Blocked,
}

#[derive(Debug, Clone, PartialEq)]
pub struct IdentifierType {
    pub name: String,
    pub from: IdentifierFrom,
    pub normalize: Normalize,
    pub limit: Option<Limit>,
    /// Values of this type that stand for nobody.
    pub block: Vec<Pattern>,
}

impl IdentifierType {
    /// What its identifiers are, for people and for comparison: the name, and what differs from taking values as they
    /// are from where they usually stand.
    pub fn meaning(&self) -> String {
        let mut text = self.name.clone();
        if self.normalize != Normalize::Trim {
            text += &format!(" normalized as {:?}", self.normalize);
        }
        if let IdentifierFrom::Map { or_field: Some(field) } = &self.from
            && *field != format!("traits.{}:string", self.name)
        {
            text += &format!(" from {field}");
        }
        text
    }
}

/// How many identifiers of a type one profile may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub count: u32,
    /// So many within any span of this length that an event falls into, by event time, in microseconds; None: for ever.
    pub within: Option<TimeUs>,
}

/// What becomes of an identifier that two people share and that may not join them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// It stays with the first.
    Keep,
    /// It goes to the person of the latest event, by (timestamp, message id).
    Reassign,
}

/// Where no `max_identifiers` is given.
pub const MAX_IDENTIFIERS: u32 = 1000;

/// Where an identifier of a type is found in an event.
#[derive(Debug, Clone, PartialEq)]
pub enum IdentifierFrom {
    /// An envelope column (`user_id`, `anonymous_id`).
    Column(usize),
    /// The `identifiers` map under the type's name, or else a field column (`traits.email:string`).
    Map { or_field: Option<String> },
}

impl IdentityPlan {
    /// The id of the profile whose best identifier this is: the first 128 bits of HMAC-SHA-256 over `type:value`
    /// (RFC 2104), so whoever has the key and a customer number can compute it.
    pub fn profile_id(&self, kind: u16, value: &str) -> ProfileId {
        let name = self.types.get(kind as usize).map_or("", |known| known.name.as_str());
        let mut mac = self.key.keyed.clone();
        mac.update(name.as_bytes());
        mac.update(b":");
        mac.update(value.as_bytes());
        let digest = mac.finalize().into_bytes();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        ProfileId(id)
    }

    /// The hash an identifier is looked up by. Seeded by the key, so that nobody outside can aim at a collision.
    pub fn identifier_hash(&self, kind: u16, value: &str) -> u128 {
        let mut seed = [0; 8];
        seed.copy_from_slice(&self.key.bytes[..8]);
        let seed = u64::from_le_bytes(seed) ^ u64::from(kind).rotate_left(48);
        xxhash_rust::xxh3::xxh3_128_with_seed(value.as_bytes(), seed)
    }

    /// What a value of a type is written as, or why it stands for nobody.
    pub fn identifier<'v>(&self, kind: u16, raw: &'v str) -> Result<Cow<'v, str>, Unusable> {
        let known = &self.types[usize::from(kind)];
        let raw = raw.trim();
        let nobody =
            |value: &str| blocked(value) || known.block.iter().chain(&self.block).any(|pattern| pattern.matches(value));
        if nobody(raw) {
            return Err(Unusable::Blocked);
        }
        let value = normalize(&known.normalize, raw).ok_or(Unusable::Invalid)?;
        // `Demo-1` may be blocked only once it is `demo-1`, `++0` once it is `0`.
        match value {
            Cow::Owned(value) if nobody(&value) => Err(Unusable::Blocked),
            value => Ok(value),
        }
    }

    /// What may change on existing state: limits, blocked values, conflicts. Equal texts, equal rules.
    pub fn rules(&self) -> String {
        let types = self.types.iter().map(|kind| format!("{:?} {:?}", kind.limit, kind.block));
        let types: Vec<String> = types.collect();
        let (block, conflict, most) = (&self.block, self.on_conflict, self.max_identifiers);
        format!("{} {block:?} {conflict:?} {most} {:?}", types.join(";"), self.previous_id)
    }

    /// `type:value`.
    pub fn written(&self, named: &Named) -> String {
        let name = self.types.get(named.kind as usize).map_or("?", |kind| kind.name.as_str());
        format!("{name}:{}", named.value)
    }

    /// The kind of a type's name.
    pub fn kind(&self, name: &str) -> Option<u16> {
        self.types.iter().position(|known| known.name == name).map(|index| index as u16)
    }
}
