//! Decoded hot state in memory, bounded in bytes.
//!
//! Entries changed by a commit that is not durable yet are *dirty*: they are never evicted. Clean ones go by
//! second chance (CLOCK) when the bound is passed.
