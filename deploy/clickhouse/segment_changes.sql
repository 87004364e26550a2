-- Who entered and left which segment, when and why. `segment_members` shows who is in now.
CREATE TABLE IF NOT EXISTS segment_changes
(
    segment         LowCardinality(String)            COMMENT 'segment in the definitions',
    profile_id      String                            COMMENT 'the profile',
    change          LowCardinality(String)            COMMENT 'entered or exited',
    cause           LowCardinality(String)            COMMENT 'event, time, edit, merge, split, fill or removed',
    changed_at      DateTime64(6, 'UTC')              COMMENT 'time of the event or timer that changed it',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (segment, profile_id, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per entry into and exit from a segment, see segment_members';
