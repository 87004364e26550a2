//! The engine: one loop from batches to commits.
