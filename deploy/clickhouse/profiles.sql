-- One row per profile and commit that changed it. Every trait is a column of its own name, added when it is first
-- defined and kept when it no longer is. `current_profiles` shows the latest row of each profile that still exists.
--
-- Order: (profile_id, _batch, _seq), so that the versions of a profile lie together, oldest first.
CREATE TABLE IF NOT EXISTS profiles
(
    profile_id      String                            COMMENT '32 hex digits',
    deleted         Bool                              COMMENT 'true on the last row of an id that was merged into another',
    first_seen      Nullable(DateTime64(6, 'UTC'))    COMMENT 'timestamp of the earliest event',
    last_seen       Nullable(DateTime64(6, 'UTC'))    COMMENT 'timestamp of the latest event',
    events          Int64                             COMMENT 'number of events',
    sessions        Int64                             COMMENT 'number of sessions',
    _as_of          DateTime64(6, 'UTC')              COMMENT 'windows and formulas with now() were computed at this time',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (profile_id, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per profile version, see current_profiles';
