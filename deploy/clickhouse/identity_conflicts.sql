-- Identifiers that an event carried and that were not simply linked: a limit, a full profile or a cut stood against it.
-- The event itself is in `events`, with `identity_decision`.
--
-- Order: (cause, type, value), so that the identifiers that are refused again and again lie together.
CREATE TABLE IF NOT EXISTS identity_conflicts
(
    message_id      String                            COMMENT 'the event',
    source          LowCardinality(String)            COMMENT 'source in the definitions',
    type            LowCardinality(String)            COMMENT 'type of the identifier',
    value           String                            COMMENT 'its normalised value',
    profile_id      String                            COMMENT 'the profile the event landed in, as it was then',
    other_profile_id Nullable(String)                 COMMENT 'the profile that the refused link would have joined',
    cause           LowCardinality(String)            COMMENT 'limit, max_identifiers or cut',
    limited_type    LowCardinality(Nullable(String))  COMMENT 'the identifier type whose limit it was',
    action          LowCardinality(String)            COMMENT 'set_aside or reassigned',
    happened_at     DateTime64(6, 'UTC')              COMMENT 'timestamp of the event',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_other_profile other_profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (cause, type, value, happened_at)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per identifier of an event that was not simply linked';
