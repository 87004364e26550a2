-- Input that could not become an event: its bytes, the reason and the position. Nothing is dropped silently.
CREATE TABLE IF NOT EXISTS rejected_events
(
    source          LowCardinality(String)            COMMENT 'source in the definitions',
    topic           LowCardinality(String)            COMMENT 'topic or file',
    partition       Int32                             COMMENT 'partition, 0 for a file',
    offset          Int64                             COMMENT 'offset, or row of a file from 1',
    received_at     DateTime64(6, 'UTC')              COMMENT 'when the broker took it',
    code            LowCardinality(String)            COMMENT 'short, stable: truncated, unknown_schema_id, contract and others',
    reason          String                            COMMENT 'what is wrong, with the field',
    byte_offset     Nullable(UInt32)                  COMMENT 'where in the payload, if known',
    payload         String                            COMMENT 'the bytes as they came, not always text: hex(payload)',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (source, received_at)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per rejected input';
