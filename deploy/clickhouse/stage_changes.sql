-- Who came into which stage of a trait with `stages` (a lifecycle, say), when and why.
CREATE TABLE IF NOT EXISTS stage_changes
(
    trait           LowCardinality(String)            COMMENT 'trait in the definitions',
    profile_id      String                            COMMENT 'the profile',
    from_stage      LowCardinality(Nullable(String))  COMMENT 'the stage before, null for none',
    to_stage        LowCardinality(Nullable(String))  COMMENT 'the stage from now on, null for none',
    cause           LowCardinality(String)            COMMENT 'event, time, merge, split or fill',
    changed_at      DateTime64(6, 'UTC')              COMMENT 'time of the batch or timer that changed it',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (trait, profile_id, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per change of a stage';
