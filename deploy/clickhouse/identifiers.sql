-- Identifier to profile: a row when it was first seen and when a correction gave it to another profile. Merges are in
-- `profile_merges`. The latest row counts, see `current_identifiers`.
CREATE TABLE IF NOT EXISTS identifiers
(
    type            LowCardinality(String)            COMMENT 'identifier type: user_id, email, anonymous_id and those defined',
    value           String                            COMMENT 'normalised value',
    profile_id      String                            COMMENT 'the profile it belonged to after this commit, empty when it is nobody''s any more',
    first_seen      DateTime64(6, 'UTC')              COMMENT 'timestamp of the event that brought it',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (type, value, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'identifier to profile, see current_identifiers';
