//! The engine: one loop from batches to commits.

pub mod dedupe;
