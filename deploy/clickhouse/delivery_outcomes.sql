-- Attempts to deliver by hour, activation, destination and outcome. The view `delivery_outcomes` adds them up.
-- Keys and engine as those of `events_by_minute`.
CREATE TABLE IF NOT EXISTS delivery_outcomes__rollup
(
    hour            DateTime64(0, 'UTC')              COMMENT 'by attempted_at',
    activation      LowCardinality(String)            COMMENT 'activation in the definitions',
    destination     LowCardinality(String)            COMMENT 'destination in the definitions',
    outcome         LowCardinality(String)            COMMENT 'sent, retry, failed, uncertain, skipped or dry_run',
    attempts        SimpleAggregateFunction(maxMap, Map(UInt64, UInt64)) COMMENT 'how many, by commit'
)
ENGINE = AggregatingMergeTree
ORDER BY (hour, activation, destination, outcome)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'attempts to deliver by hour, by commit, see delivery_outcomes';

CREATE MATERIALIZED VIEW IF NOT EXISTS delivery_outcomes__mv TO delivery_outcomes__rollup AS
SELECT date_trunc('hour', d.attempted_at) AS hour, d.activation AS activation, d.destination AS destination, d.outcome AS outcome,
    sumMap(map(d._batch, toUInt64(1))) AS attempts
FROM deliveries AS d
GROUP BY hour, activation, destination, outcome;
