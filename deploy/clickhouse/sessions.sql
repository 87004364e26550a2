-- One row per session id and commit that changed what it stands for. A late event may give a session another first event
-- and so another id, or make one of two: then the id that is gone gets a row with `merged_into`, and one step is always
-- enough. `current_sessions` shows the latest rows of those that stand, `current_events` applies all of it to events.
--
-- A session and those of its `chain_id` follow each other without a pause and are parted by their campaigns alone. A late event that
-- names a campaign may cut one in two: events that were stored with the id of the whole are found by time in its chain.
--
-- Order: (session_id, _batch, _seq), so that the versions of a session lie together, oldest first.
CREATE TABLE IF NOT EXISTS sessions
(
    session_id      String                            COMMENT '32 hex digits, made of source and message id of its first event',
    profile_id      String                            COMMENT 'the profile when the row was written, see current_sessions',
    started_at      DateTime64(6, 'UTC')              COMMENT 'timestamp of the first event',
    ended_at        DateTime64(6, 'UTC')              COMMENT 'timestamp of the last event',
    duration_s      Int64                             COMMENT 'whole seconds from the first to the last event',
    events          Int64                             COMMENT 'number of events',
    pages           Int64                             COMMENT 'number of events of type page or screen',
    first_page      Nullable(String)                  COMMENT 'context.page.path of the first event that has one',
    last_page       Nullable(String)                  COMMENT 'context.page.path of the last event that has one',
    campaign_source LowCardinality(Nullable(String))  COMMENT 'context.campaign of the first event that names one',
    campaign_medium LowCardinality(Nullable(String))  COMMENT 'its medium',
    campaign_name   LowCardinality(Nullable(String))  COMMENT 'its name',
    first_message_id String                           COMMENT 'the first event',
    merged_into     Nullable(String)                  COMMENT 'the id is gone: the session that its first event is in now',
    chain_id        Nullable(String)                  COMMENT 'the first of the sessions that nothing but campaigns parts, null when that is this one',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_start started_at TYPE minmax GRANULARITY 1,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (session_id, _batch, _seq)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per session version, see current_sessions';
