-- Entries and exits by hour and segment. The view `segment_sizes` adds them up, and how many were in at the end of each hour.
-- Keys and engine as those of `events_by_minute`.
CREATE TABLE IF NOT EXISTS segment_sizes__rollup
(
    segment         LowCardinality(String)            COMMENT 'segment in the definitions',
    hour            DateTime64(0, 'UTC')              COMMENT 'by changed_at',
    entered         SimpleAggregateFunction(maxMap, Map(UInt64, UInt64)) COMMENT 'how many, by commit',
    exited          SimpleAggregateFunction(maxMap, Map(UInt64, UInt64)) COMMENT 'how many, by commit'
)
ENGINE = AggregatingMergeTree
ORDER BY (segment, hour)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'entries and exits by hour and segment, by commit, see segment_sizes';

CREATE MATERIALIZED VIEW IF NOT EXISTS segment_sizes__mv TO segment_sizes__rollup AS
SELECT c.segment AS segment, date_trunc('hour', c.changed_at) AS hour,
    sumMap(map(c._batch, toUInt64(c.change = 'entered'))) AS entered, sumMap(map(c._batch, toUInt64(c.change <> 'entered'))) AS exited
FROM segment_changes AS c
GROUP BY segment, hour;
