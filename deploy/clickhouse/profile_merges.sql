-- One row per profile id that became another, with its cause. When the surviving id is merged in turn, every id that
-- pointed to it gets a new row, so the latest row of an old id always names the profile that exists: one step is
-- enough. A split that brings an id back to life gives it a row that names itself. `profile_ids` shows the latest rows
-- but those, `current_events` applies them.
--
-- `old_key` and `new_key` are the ids as numbers: joins over many merges take half the time and memory with them.
CREATE TABLE IF NOT EXISTS profile_merges
(
    old_profile_id  String                            COMMENT 'the id that is no more',
    profile_id      String                            COMMENT 'the profile it became, itself after a split',
    cause           LowCardinality(String)            COMMENT 'why',
    message_id      String                            COMMENT 'the event that caused it',
    merged_at       DateTime64(6, 'UTC')              COMMENT 'timestamp of that event',
    old_key         UInt128 MATERIALIZED reinterpretAsUInt128(unhex(old_profile_id)) COMMENT 'old_profile_id as a number, for joins',
    new_key         UInt128 MATERIALIZED reinterpretAsUInt128(unhex(profile_id))     COMMENT 'profile_id as a number, for joins',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (old_profile_id, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per merge of a profile id into another, see profile_ids';
