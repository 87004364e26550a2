//! Filters in memory that spare a read from the store for keys never seen.
