-- What happened to whom in which journey, step by step: the funnel of a journey is a count of it.
CREATE TABLE IF NOT EXISTS journey_steps
(
    activation      LowCardinality(String)            COMMENT 'activation in the definitions',
    version         LowCardinality(String)            COMMENT 'version of its definition',
    entry_id        String                            COMMENT 'one way through it: the same in all its rows',
    profile_id      String                            COMMENT 'the profile at that time',
    step            LowCardinality(String)            COMMENT 'id of the step, empty for entering and leaving',
    what            LowCardinality(String)            COMMENT 'entered, sent, skipped, failed, emitted, waits, waited, matched, timed_out, then, else, arm or left',
    detail          String                            COMMENT 'delivery id, arm, time until which it waits, or reason',
    happened_at     DateTime64(6, 'UTC')              COMMENT 'time of the batch or timer',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (activation, step, what, happened_at, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per thing that happened to someone in a journey';
