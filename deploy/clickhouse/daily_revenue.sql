-- Orders and refunds with their amounts. The view `daily_revenue` adds them up by day and currency.
--
-- A row per order, under the place of its event: what comes again is the same row, and one that a correction struck out can be
-- left out. There are few of them among the events.
--
-- The amount is `properties.revenue`, else `total`, else `value` (Segment's e-commerce events), in millionths, so that sums are exact whatever their
-- order. A number beyond a million millions, or a text, is none.
CREATE TABLE IF NOT EXISTS daily_revenue__rollup
(
    day             Date32                            COMMENT 'the day, in UTC',
    currency        LowCardinality(String)            COMMENT 'properties.currency, empty where there is none',
    event           LowCardinality(String)            COMMENT 'Order Completed or Order Refunded',
    _batch          UInt64                            COMMENT '_batch of the event',
    _seq            UInt32                            COMMENT '_seq of the event',
    micros          Int64                             COMMENT 'the amount, in millionths'
)
ENGINE = ReplacingMergeTree
ORDER BY (day, currency, event, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'orders and refunds with their amounts, see daily_revenue';

CREATE MATERIALIZED VIEW IF NOT EXISTS daily_revenue__mv TO daily_revenue__rollup AS
SELECT toDate32(e.timestamp) AS day, JSONExtractString(ifNull(e.properties, ''), 'currency') AS currency,
    assumeNotNull(e.event) AS event, e._batch AS _batch, e._seq AS _seq,
    toInt64(floor(if(abs(e.amount) <= 1e12, e.amount, 0) * 1000000 + 0.5)) AS micros
FROM (
    SELECT *, multiIf(
        match(JSONExtractRaw(ifNull(properties, ''), 'revenue'), '^-?[0-9]'), JSONExtractFloat(ifNull(properties, ''), 'revenue'),
        match(JSONExtractRaw(ifNull(properties, ''), 'total'), '^-?[0-9]'), JSONExtractFloat(ifNull(properties, ''), 'total'),
        match(JSONExtractRaw(ifNull(properties, ''), 'value'), '^-?[0-9]'), JSONExtractFloat(ifNull(properties, ''), 'value'),
        0) AS amount
    FROM events
    WHERE event IN ('Order Completed', 'Order Refunded') AND ifNull(identity_decision, '') <> 'struck'
) AS e;
