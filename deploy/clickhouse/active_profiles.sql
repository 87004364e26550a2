-- Who did something on which day. The view `active_profiles` counts people by day, week and month out of it.
--
-- A set of people and not a state of `uniq`: people who turn out to be one must count once, also in the past, and a sketch of ids that are
-- no more cannot be mended. A set can: the view puts the ids through `profile_merges`, and reads anew from `events` the few people
-- of whom a correction has moved events. What comes again is in the set already. Sets of days add up to weeks and months.
--
-- Order: (day, …). The id as a number is half as long, and joins in half the time.
CREATE TABLE IF NOT EXISTS active_profiles__rollup
(
    day             Date32                            COMMENT 'the day, in UTC',
    profile_key     UInt128                           COMMENT 'the profile when the event was processed, as a number'
)
ENGINE = ReplacingMergeTree
ORDER BY (day, profile_key)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'profiles by day on which they did something, see active_profiles';

-- Events that the pipeline itself made are nobody's doing.
CREATE MATERIALIZED VIEW IF NOT EXISTS active_profiles__mv TO active_profiles__rollup AS
SELECT toDate32(e.timestamp) AS day, reinterpretAsUInt128(unhex(assumeNotNull(e.profile_id))) AS profile_key
FROM events AS e
WHERE e.profile_id IS NOT NULL AND e.source <> 'tributary'
GROUP BY day, profile_key;
