-- Events by minute and name, for dashboards. The view `events_by_minute` adds up these rows. Tributary makes this table, fills it from
-- what is there, and makes the view that keeps it up to date last of all: where that view is, nothing is missing. By hand: only in an empty database.
--
-- A number per commit and not a sum: what comes again (a block sent twice, a range made good after a half-failed insert, a commit
-- in another range) is the same number of the same commit, and counts once. A summing engine would count it twice. `maxMap`, because what came
-- in part is the smaller number. The window is there to save work.
--
-- The commits of a row are a map, since parts that are merged then have one row for each minute and name: a row per commit took four times as
-- long to add up.
--
-- Order: (minute, …). Dashboards ask for a time, and for all names in it.
CREATE TABLE IF NOT EXISTS events_by_minute__rollup
(
    minute          DateTime64(0, 'UTC')              COMMENT 'when they happened',
    type            LowCardinality(String)            COMMENT 'track, identify, page, screen, group or alias',
    event           LowCardinality(String)            COMMENT 'name of a track event, of others the type',
    source          LowCardinality(String)            COMMENT 'source in the definitions',
    events          SimpleAggregateFunction(maxMap, Map(UInt64, UInt64)) COMMENT 'how many, by commit'
)
ENGINE = AggregatingMergeTree
ORDER BY (minute, type, event, source)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'events by minute and name, by commit, see events_by_minute';

CREATE MATERIALIZED VIEW IF NOT EXISTS events_by_minute__mv TO events_by_minute__rollup AS
SELECT date_trunc('minute', e.timestamp) AS minute, e.type AS type, coalesce(e.event, e.type) AS event, e.source AS source,
    sumMap(map(e._batch, toUInt64(1))) AS events
FROM events AS e
GROUP BY minute, type, event, source;
