-- One row per attempt to deliver something to a destination.
CREATE TABLE IF NOT EXISTS deliveries
(
    delivery_id     String                            COMMENT 'the same for every attempt, also the idempotency key of the request',
    activation      LowCardinality(String)            COMMENT 'activation in the definitions',
    step            LowCardinality(String)            COMMENT 'its step',
    destination     LowCardinality(String)            COMMENT 'destination in the definitions',
    profile_id      String                            COMMENT 'the profile it is about',
    attempt         UInt32                            COMMENT 'from 1',
    outcome         LowCardinality(String)            COMMENT 'sent, retry, failed, uncertain or dry_run',
    detail          Nullable(String)                  COMMENT 'HTTP status or error',
    body            String                            COMMENT 'what was sent',
    attempted_at    DateTime64(6, 'UTC')              COMMENT 'when',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_delivery delivery_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (activation, attempted_at)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per delivery attempt';
