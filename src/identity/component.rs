//! A component: the identifiers that are one person.

use serde::{Deserialize, Serialize};

use super::IdentityPlan;
use crate::event::{ProfileId, TimeUs};
use crate::state::cache::Weigh;

/// Stored under the profile's number, version [`Component::VERSION`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// The public id as of the last commit.
    pub id: ProfileId,
    /// In order of arrival.
    pub identifiers: Vec<Identifier>,
    /// Ids under which this person was known before; they answer look-ups for ever.
    pub former_ids: Vec<ProfileId>,
}

/// One identifier with the event that linked it first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identifier {
    pub hash: u128,
    pub kind: u16,
    pub value: Box<str>,
    pub message_id: Box<str>,
    pub linked_at: TimeUs,
}

impl Component {
    pub const VERSION: u8 = 1;

    /// The best identifier: by priority of its type, then by hash. None only while a component is being made.
    pub fn best(&self) -> Option<&Identifier> {
        self.identifiers.iter().min_by_key(|identifier| (identifier.kind, identifier.hash))
    }

    /// The id that follows from the identifiers.
    pub fn derived_id(&self, plan: &IdentityPlan) -> Option<ProfileId> {
        self.best().map(|best| plan.profile_id(best.kind, &best.value))
    }
}

impl Weigh for Component {
    fn weigh(&self) -> usize {
        let texts: usize = self.identifiers.iter().map(|i| i.value.len() + i.message_id.len()).sum();
        size_of::<Component>()
            + self.identifiers.capacity() * size_of::<Identifier>()
            + texts
            + self.former_ids.capacity() * size_of::<ProfileId>()
    }
}
