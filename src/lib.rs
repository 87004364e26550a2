//! Tributary: many streams, one profile.
//!
//! The way of a batch, in the order of the modules below:
//!
//! 1. a `source` hands over raw records with their positions ([`event::RawBatch`]);
//! 2. `decode` checks them against their contracts and turns them into columns ([`event::EventBatch`]);
//!    what cannot be read becomes a reject with its reason;
//! 3. `transform` filters, sets, unnests and enriches with SQL expressions over whole batches;
//! 4. `identity` joins each event to one profile and merges profiles that turn out to be one person;
//! 5. `profile` applies the events to the traits of their profiles;
//! 6. `segment` evaluates the predicates over the changed profiles: who entered, who left;
//! 7. `activation` turns triggers into deliveries;
//! 8. `engine` commits state, positions and all output of the batch at once (`state`), and only then
//!    lets the `sink`s ship what was sealed.
//!
//! Imports point one way, down this list's dependencies; `tests/it/tidy.rs` holds the table.

pub mod clock;
pub mod event;
pub mod expression;
pub mod failpoint;
pub mod journey;
pub mod kafka;
pub mod telemetry;

pub mod state;

pub mod activation;
pub mod aggregate;
pub mod analysis;
pub mod chart;
pub mod decode;
pub mod engine;
pub mod identity;
pub mod profile;
pub mod segment;
pub mod session;
pub mod sink;
pub mod source;
pub mod transform;

pub mod cli;
pub mod definition;
pub mod query;
