-- Which group entered and left which segment, when and why. `group_segment_members` shows which are in now.
CREATE TABLE IF NOT EXISTS group_segment_changes
(
    group_type      LowCardinality(String)            COMMENT 'one of `groups` in the definitions',
    segment         LowCardinality(String)            COMMENT 'its segment',
    group_id        String                            COMMENT 'the group, as events have it',
    change          LowCardinality(String)            COMMENT 'entered or exited',
    cause           LowCardinality(String)            COMMENT 'event, time, fill or removed',
    changed_at      DateTime64(6, 'UTC')              COMMENT 'time of the event or timer that changed it',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_group group_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (group_type, segment, group_id, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per entry into and exit from a segment of groups, see group_segment_members';
