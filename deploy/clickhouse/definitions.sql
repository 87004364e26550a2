-- Which traits and segments there are, and whether they know the past. `current_definitions` shows the latest.
CREATE TABLE IF NOT EXISTS definitions
(
    kind            LowCardinality(String)            COMMENT 'trait or segment',
    name            String                            COMMENT 'the name in the definitions',
    version         String                            COMMENT '16 hex digits that change with the meaning',
    ready           Bool                              COMMENT 'false while it is filled from the past and sets nothing off',
    removed         Bool                              COMMENT 'true once it is defined no more',
    changed_at      DateTime64(6, 'UTC')              COMMENT 'now of the commit that says so',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (kind, name, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per change of a trait or segment definition, see current_definitions';
