-- Where the fifths of RFM traits lie: a row for each scan.
CREATE TABLE IF NOT EXISTS rfm_borders
(
    `trait`         LowCardinality(String)            COMMENT 'trait in the definitions',
    version         UInt64                            COMMENT 'counts the scans of the trait, from 1',
    scanned_at      DateTime64(6, 'UTC')              COMMENT 'now when the scan began: everyone as they were then',
    people          Int64                             COMMENT 'how many had all three values',
    recency_1       DateTime64(6, 'UTC')              COMMENT 'the value at place ceil(n / 5), later is a score of 2 or more',
    recency_2       DateTime64(6, 'UTC')              COMMENT 'at ceil(2 n / 5)',
    recency_3       DateTime64(6, 'UTC')              COMMENT 'at ceil(3 n / 5)',
    recency_4       DateTime64(6, 'UTC')              COMMENT 'at ceil(4 n / 5)',
    frequency_1     Float64                           COMMENT 'as for recency',
    frequency_2     Float64                           COMMENT 'as for recency',
    frequency_3     Float64                           COMMENT 'as for recency',
    frequency_4     Float64                           COMMENT 'as for recency',
    monetary_1      Float64                           COMMENT 'as for recency',
    monetary_2      Float64                           COMMENT 'as for recency',
    monetary_3      Float64                           COMMENT 'as for recency',
    monetary_4      Float64                           COMMENT 'as for recency',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (`trait`, version, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per scan of an RFM trait';
