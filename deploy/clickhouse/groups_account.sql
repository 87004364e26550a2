-- One row per group and commit that changed it, here of groups called `account`: each definition has a table of its own.
-- Every trait is a column, added when it is first defined and kept when it no longer is. `current_groups_…` shows the
-- latest row of each group.
--
-- Order: (group_id, _batch, _seq), so that the versions of a group lie together, oldest first.
CREATE TABLE IF NOT EXISTS groups_account
(
    group_id        String                            COMMENT 'as events have it',
    deleted         Bool                              COMMENT 'true on the last row of a group that the definition no longer makes',
    first_seen      Nullable(DateTime64(6, 'UTC'))    COMMENT 'timestamp of the earliest event',
    last_seen       Nullable(DateTime64(6, 'UTC'))    COMMENT 'timestamp of the latest event',
    events          Int64                             COMMENT 'number of events',
    _as_of          DateTime64(6, 'UTC')              COMMENT 'windows and formulas with now() were computed at this time',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (group_id, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per group version, see the view current_groups_ with the same name behind it';
