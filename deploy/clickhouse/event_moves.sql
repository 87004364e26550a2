-- Stored events that a correction (split, ban, strike) gave to another profile than the one in `events` and
-- `profile_merges` alone say, or to another session. The latest row of an event counts, and what became of its profile and
-- session later applies to it. `current_events` does both.
CREATE TABLE IF NOT EXISTS event_moves
(
    event_batch     UInt64                            COMMENT '_batch of the event',
    event_seq       UInt32                            COMMENT '_seq of the event',
    message_id      String                            COMMENT 'the event',
    timestamp       DateTime64(6, 'UTC')              COMMENT 'when it happened',
    profile_id      Nullable(String)                  COMMENT 'the profile it belongs to since, null when it is nobody''s any more',
    session_id      Nullable(String)                  COMMENT 'the session it belongs to since, null when it is in none',
    cause           LowCardinality(String)            COMMENT 'split, ban or strike',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (event_batch, event_seq, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per event that a correction moved, see current_events';
