-- One row per accepted event. Applied by `tributary` itself. It is safe to apply by hand and again.
--
-- Order: (event, timestamp), chosen by measuring over 50 million events of 2 million people (benches/README.md, "Keys of
-- events"). CPU seconds of a query in this order, by (timestamp, event), and by (profile_id, timestamp) over the first half:
--
--                                                50M: this  by time   25M: this  by person
--   a sum over one event, all time                     1.0      2.2         0.9        2.1
--   the same, one week                                 0.2      0.6
--   people by event, one week of all events            3.6      3.4         3.4        3.9
--   one person's events                                0.6      0.7         0.5        0.2
--
-- Analysts ask "this event, in this time". Event names are few, so a question about time alone still skips most granules.
-- The events of one profile or session are found through a bloom filter: a projection in the order of people would save a
-- third of a second there, for half as much disk and inserts again. Analyses of everybody gain nothing from that order,
-- since they group by who people are now, which a join with the merges says.
--
-- No partitions: one insert then is one part, there as a whole or not at all, however many years its rows span (a
-- file of history has many, and an insert may touch at most 100 partitions). Retention is a TTL on `timestamp`.
--
-- `properties`, `traits`, `context`, `enriched` are String and hold the JSON to the letter: the JSON type drops nulls
-- (a null trait deletes) and rounds decimals, and a history must be able to rebuild state. Read them with
-- JSONExtractString(properties, 'currency'), JSONExtractFloat(properties, 'total'), JSONExtractInt, JSONExtractBool,
-- JSONExtractRaw, JSONHas: the lake has the same functions. `properties_json` and the like are the same values as the
-- JSON type, computed when read: properties_json.total.
--
-- Deduplication window: a repeated insert with the same token adds nothing. fsync: an acknowledged row is on disk.
CREATE TABLE IF NOT EXISTS events
(
    profile_id      Nullable(String)                  COMMENT 'the profile when the event was processed, see current_events, null without a usable identifier',
    session_id      Nullable(String)                  COMMENT 'the session when the event was processed, see current_events, null for an event of nobody, a late one, and one that makes no sessions',
    message_id      String                            COMMENT 'the id given by the producer, or made from the source position',
    type            LowCardinality(String)            COMMENT 'track, identify, page, screen, group or alias',
    event           LowCardinality(Nullable(String))  COMMENT 'name of a track event',
    user_id         Nullable(String)                  COMMENT 'identifier of a known user',
    anonymous_id    Nullable(String)                  COMMENT 'identifier of a device or browser',
    group_id        Nullable(String)                  COMMENT 'account or group',
    previous_id     Nullable(String)                  COMMENT 'the former id, in an alias call',
    identifiers     Map(String, String)               COMMENT 'further identifiers by type',
    timestamp       DateTime64(6, 'UTC')              COMMENT 'when it happened, corrected for the clock of the device',
    sent_at         Nullable(DateTime64(6, 'UTC'))    COMMENT 'when the producer sent it, by its own clock',
    received_at     DateTime64(6, 'UTC')              COMMENT 'when the broker took it',
    properties      Nullable(String)                  COMMENT 'JSON object, to the letter',
    traits          Nullable(String)                  COMMENT 'JSON object, to the letter',
    context         Nullable(String)                  COMMENT 'JSON object, to the letter',
    enriched        Nullable(String)                  COMMENT 'JSON object of what enrich steps added',
    source          LowCardinality(String)            COMMENT 'source in the definitions',
    topic           LowCardinality(String)            COMMENT 'topic or file',
    partition       Int32                             COMMENT 'partition, 0 for a file',
    offset          Int64                             COMMENT 'offset, or row of a file from 1',
    `index`         Int32                             COMMENT '0 for the event itself, n for the n-th row that unnest made of it',
    flags           Nullable(String)                  COMMENT 'remarks, comma-separated: contract, clamped, blocked_identifier, no_identifier, late',
    identity_decision Nullable(String)                COMMENT 'what identity decided where the event did not simply join all its identifiers, comma-separated: set_aside:TYPE, reassigned:TYPE by a rule, cut:TYPE, banned:TYPE, struck by a correction',
    _batch          UInt64                            COMMENT 'the commit',
    _seq            UInt32                            COMMENT 'the row within commit and table',
    properties_json JSON ALIAS CAST(ifNull(properties, '{}') AS JSON) COMMENT 'properties as the JSON type, computed when read',
    traits_json     JSON ALIAS CAST(ifNull(traits, '{}') AS JSON)     COMMENT 'traits as the JSON type, computed when read',
    context_json    JSON ALIAS CAST(ifNull(context, '{}') AS JSON)    COMMENT 'context as the JSON type, computed when read',
    INDEX by_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_batch _batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (event, timestamp)
SETTINGS
    allow_nullable_key = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'one row per accepted event';
