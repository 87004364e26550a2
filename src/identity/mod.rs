//! Identity: identifiers are nodes, events link them, a profile is a connected component.
//!
//! The public id of a profile is a keyed hash of its best identifier (by priority of the type, then by hash), so
//! it depends on *which* identifiers are joined and never on the order in which they came.

/// Checked identity rules.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentityPlan {
    /// The key of the profile ids' hash: SHA-256 of the pipeline's name unless set.
    pub key: [u8; 32],
    /// Identifier types, best first.
    pub types: Vec<IdentifierType>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct IdentifierType {
    pub name: String,
    pub from: IdentifierFrom,
}

/// Where an identifier of a type is found in an event.
#[derive(Debug, Clone, PartialEq)]
pub enum IdentifierFrom {
    /// An envelope column (`user_id`, `anonymous_id`).
    Column(usize),
    /// The `identifiers` map under the type's name, or else a field column (`traits.email:string`).
    Map { or_field: Option<String> },
}
