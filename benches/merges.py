#!/usr/bin/env python3
"""What `current_events` costs in ClickHouse at ten million merges, and what other ways would cost. See README.md.

    tests/support/servers up /tmp/t clickhouse            # once: fetches the engine
    PYTHONPATH=~/.cache/tributary-test/chdb-core-26.9.0-py3.11/site python3 benches/merges.py DIR [--events 20000000]
        [--merges 10000000] [--people 4000000] [--only "NAME;…"] [--runs 3]

Data is made inside the engine, once for each DIR. Times are medians of the warm runs; cold: the first run, with the
files out of the page cache. Memory is the query's own peak, by the engine's account.
"""
import argparse
import os
import statistics
import threading
import time

from chdb import session

HERE = os.path.dirname(os.path.realpath(__file__))
DDL = os.path.join(HERE, "..", "deploy", "clickhouse")
TABLES = ("events", "profile_merges", "event_moves")


class Engine:
    def __init__(self, path):
        self.path = path
        self.session = session.Session(path)
        self.watch = session.Session(path)  # a second one sees what the first is doing
        self.session.query("CREATE DATABASE IF NOT EXISTS shop")
        self.session.query("USE shop")

    def run(self, sql):
        return self.session.query(sql, "TSV").bytes().decode().strip()

    def exists(self, name):
        return self.run(f"SELECT count() FROM system.tables WHERE database = 'shop' AND name = '{name}'") == "1"

    def forget(self):
        """The files out of the page cache, the engine's own caches empty."""
        for cache in ("MARK", "UNCOMPRESSED", "INDEX MARK", "INDEX UNCOMPRESSED", "QUERY CONDITION"):
            self.run(f"SYSTEM DROP {cache} CACHE")
        for folder, _, files in os.walk(self.path):
            for file in files:
                try:
                    fd = os.open(os.path.join(folder, file), os.O_RDONLY)
                except OSError:
                    continue  # merged away meanwhile
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def measured(self, sql):
        """Seconds, CPU-seconds, peak bytes, answer."""
        peak, done = [0], threading.Event()

        def look():
            while not done.wait(0.01):
                for line in self.watch.query("SELECT peak_memory_usage FROM system.processes", "TSV").bytes().split():
                    peak[0] = max(peak[0], int(line))

        self.run("SYSTEM DROP QUERY CONDITION CACHE")
        watcher = threading.Thread(target=look)
        watcher.start()
        started, cpu = time.monotonic(), time.process_time()
        try:
            answer = self.run(sql)
        finally:
            seconds, cpu = time.monotonic() - started, time.process_time() - cpu
            done.set()
            watcher.join()
        return seconds, cpu, peak[0], answer


def person(number):
    """The id of the n-th profile id there ever was, 32 hex digits like the real ones."""
    return f"lower(hex(sipHash128(toUInt64({number}))))"


def fill(engine, events, merges, people):
    """Ids 0 to `people` exist, the ids above were merged into them: id n is now n % people. Every id has events."""
    if engine.exists("filled"):
        return
    for table in TABLES:
        engine.run(f"DROP TABLE IF EXISTS {table}")
        with open(os.path.join(DDL, f"{table}.sql")) as f:
            engine.run(f.read().strip().rstrip(";"))
    step = 1_000_000
    for start in range(0, events, step):
        rows = min(step, events - start)
        engine.run(f"""
            INSERT INTO events (profile_id, message_id, type, event, user_id, anonymous_id, timestamp, received_at, properties,
                context, source, topic, partition, offset, index, _batch, _seq)
            SELECT {person(f"cityHash64(number) % {people + merges}")}, concat('m', toString(number)), 'track',
                ['Product Viewed', 'Product Viewed', 'Product Viewed', 'Product Added', 'Page Seen', 'Order Completed'][1 + cityHash64(number, 1) % 6],
                concat('u', toString(number % 1000003)), {person("number % 7000003")},
                toDateTime64('2026-01-01 00:00:00', 6, 'UTC') + toIntervalSecond(intDiv(number * 31000000, {events})),
                toDateTime64('2026-01-01 00:00:00', 6, 'UTC') + toIntervalSecond(intDiv(number * 31000000, {events})),
                concat('{{"total": ', toString(number % 9973 / 100), ', "currency": "EUR", "sku": "', toString(cityHash64(number, 2) % 5000), '"}}'),
                '{{"locale": "de-DE"}}', 'shop', 'events', number % 6, intDiv(number, 6), 0, 1 + intDiv(number, 50000), number % 50000
            FROM numbers({start}, {rows})""")
    # One in twenty was merged twice: the first row names an id that is no more itself. 2,000 merges a commit.
    for start in range(0, merges, step):
        rows = min(step, merges - start)
        engine.run(f"""
            INSERT INTO profile_merges (old_profile_id, profile_id, cause, message_id, merged_at, _batch, _seq)
            SELECT {person("old")}, {person("new")}, 'event', concat('m', toString(old)), now64(6), batch, seq FROM (
                SELECT number + {people} AS old, number % {people} AS new, 1000 + intDiv(number, 2000) AS batch, number % 2000 AS seq
                FROM numbers({start}, {rows})
                UNION ALL
                SELECT number + {people}, (number + 1) % {people}, 1 + intDiv(number, 20000), number % 20000
                FROM numbers({start}, {rows}) WHERE number % 20 = 0
            )""")
    engine.run(f"INSERT INTO event_moves SELECT _batch, _seq, message_id, {person('_seq')}, 'split', 9000000, _seq FROM events "
               "WHERE cityHash64(message_id, 3) % 2000 = 0")
    for table in TABLES:
        engine.run(f"OPTIMIZE TABLE {table} FINAL")
    engine.run("CREATE TABLE filled (x UInt8) ENGINE = MergeTree ORDER BY x")


# --- the ways to know the profile of now: what they need, and what stands for `events` in a query ---

# As in src/sink/views.rs.
VERSION = "toUInt128(t._batch) * 4294967296 + t._seq"
COLUMNS = "e.timestamp AS timestamp, e.event AS event, e.properties AS properties"
KEY = "reinterpretAsUInt128(unhex(ifNull(e.profile_id, '')))"
TEXT = "lower(hex(reinterpretAsFixedString({})))"
JOIN_KEYS = f"""LEFT ANY JOIN (SELECT t.old_key AS id, argMax(t.new_key, {VERSION}) AS now FROM profile_merges AS t GROUP BY t.old_key) AS m
    ON {KEY} = m.id"""
BY_KEYS = f"if(m.now = 0, e.profile_id, {TEXT.format('m.now')})"
IDS = f"""(SELECT t.old_profile_id AS old_profile_id, argMax(t.profile_id, {VERSION}) AS profile_id FROM profile_merges AS t
    WHERE t.old_profile_id IN (SELECT ifNull(profile_id, '') FROM event_moves) GROUP BY t.old_profile_id)"""
MOVED = f"""LEFT ANY JOIN (SELECT l.event_batch AS event_batch, l.event_seq AS event_seq, if(i.profile_id = '', l.profile_id, i.profile_id) AS profile_id
    FROM (SELECT t.event_batch AS event_batch, t.event_seq AS event_seq,
            if(argMax(t.profile_id IS NOT NULL, {VERSION}), argMax(t.profile_id, {VERSION}), NULL) AS profile_id
        FROM event_moves AS t GROUP BY t.event_batch, t.event_seq) AS l
    LEFT ANY JOIN {IDS} AS i ON l.profile_id = i.old_profile_id) AS v ON e._batch = v.event_batch AND e._seq = v.event_seq"""


def rows(profile, join="", settings=""):
    return f"(SELECT {profile} AS profile_id, {COLUMNS} FROM events AS e {join} SETTINGS join_use_nulls = 0{settings})"


def texts(version, value, kind):
    return rows("if(m.profile_id = '', e.profile_id, m.profile_id)", f"""{kind} JOIN (SELECT t.old_profile_id AS old_profile_id,
        {value.format(version)} AS profile_id FROM profile_merges AS t GROUP BY t.old_profile_id) AS m ON e.profile_id = m.old_profile_id""")


# Under the key 0 the last commit that was loaded, out of the same scan. The newest 200,000 merges are left out, as if
# they had come after it was loaded.
DICTIONARY = [
    "DROP DICTIONARY IF EXISTS numbers",
    f"""CREATE DICTIONARY numbers (id UInt128, now UInt128) PRIMARY KEY id SOURCE(CLICKHOUSE(DB 'shop' QUERY $$
        SELECT id, if(id = 0, toUInt128(max(t._batch)), argMax(t.new_key, {VERSION})) AS now FROM (
            SELECT arrayJoin([old_key, toUInt128(0)]) AS id, new_key, _batch, _seq FROM shop.profile_merges
            WHERE _batch <= (SELECT max(_batch) - 100 FROM shop.profile_merges)) AS t
        GROUP BY id$$)) LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)""",
    "SYSTEM RELOAD DICTIONARY numbers"]
KNOWN = f"dictGetOrDefault('shop.numbers', 'now', tuple({KEY}), toUInt128(0))"
BY_DICTIONARY = f"if(e.profile_id IS NULL OR {KNOWN} = 0, e.profile_id, {TEXT.format(KNOWN)})"
RECENT = JOIN_KEYS.replace("GROUP BY", "WHERE t._batch > toUInt64(dictGet('shop.numbers', 'now', tuple(toUInt128(0)))) GROUP BY")

WAYS = {
    "no merges applied": ([], "events"),
    "join of texts, versions as tuples": ([], texts("(t._batch, t._seq)", "argMax(tuple(t.profile_id), {}).1", "LEFT")),
    "join of texts": ([], texts(VERSION, "argMax(t.profile_id, {})", "LEFT ANY")),
    "join of texts, sorted": ([], texts(VERSION, "argMax(t.profile_id, {})", "LEFT ANY").replace(
        "join_use_nulls = 0", "join_use_nulls = 0, join_algorithm = 'full_sorting_merge'")),
    "join of numbers": ([], rows(BY_KEYS, JOIN_KEYS)),
    "join of numbers, and moves: current_events": ([], rows(f"if(v.event_batch = 0, {BY_KEYS}, v.profile_id)", f"{JOIN_KEYS} {MOVED}")),
    "replacing table FINAL": (
        ["DROP TABLE IF EXISTS latest",
         "CREATE TABLE latest (id UInt128, now UInt128, version UInt128) ENGINE = ReplacingMergeTree(version) ORDER BY id",
         f"INSERT INTO latest SELECT old_key, new_key, {VERSION} FROM profile_merges AS t"],
        rows(BY_KEYS, f"LEFT ANY JOIN (SELECT id, now FROM latest FINAL) AS m ON {KEY} = m.id")),
    "Join table": (
        ["DROP TABLE IF EXISTS joinable",
         "CREATE TABLE joinable (id UInt128, now UInt128) ENGINE = Join(ANY, LEFT, id) SETTINGS join_any_take_last_row = 1",
         f"INSERT INTO joinable SELECT t.old_key, argMax(t.new_key, {VERSION}) FROM profile_merges AS t GROUP BY t.old_key"],
        rows(BY_KEYS.replace("m.now", f"joinGet('shop.joinable', 'now', {KEY})"))),
    "dictionary, stale": (DICTIONARY, rows(BY_DICTIONARY)),
    "dictionary, and join of what is newer": (DICTIONARY, rows(f"multiIf(m.now != 0, {TEXT.format('m.now')}, {BY_DICTIONARY})", RECENT)),
}

# What `profile_events` does, for one id.
ID = "lower(hex(sipHash128(toUInt64(12345))))"
HIS = f"""SELECT {ID} AS id UNION ALL SELECT old_profile_id FROM (
    SELECT t.old_profile_id AS old_profile_id, argMax(t.profile_id, {VERSION}) AS now FROM profile_merges AS t
    WHERE t.old_profile_id IN (SELECT old_profile_id FROM profile_merges WHERE profile_id = {ID}) GROUP BY t.old_profile_id) WHERE now = {ID}"""
PROFILE_EVENTS = f"""SELECT count(), min(timestamp), max(properties) FROM (
    SELECT * FROM events WHERE profile_id IN ({HIS}) AND (_batch, _seq) NOT IN (SELECT event_batch, event_seq FROM event_moves)
    UNION ALL SELECT * FROM events WHERE _batch IN (SELECT event_batch FROM event_moves WHERE profile_id IN ({HIS}))
    AND (_batch, _seq) IN (SELECT event_batch, event_seq FROM event_moves WHERE profile_id IN ({HIS})))"""

QUERIES = {
    "people per day": "SELECT sum(n) FROM (SELECT toDate(timestamp) AS day, uniqExact(profile_id) AS n FROM {events} GROUP BY day)",
    "orders of March by person": "SELECT count(), max(n) FROM (SELECT profile_id, count() AS n FROM {events} WHERE event = 'Order Completed' "
                                 "AND timestamp >= '2026-03-01 00:00:00' AND timestamp < '2026-04-01 00:00:00' GROUP BY profile_id)",
    "one person": "SELECT count(), min(timestamp), max(properties) FROM {events} WHERE profile_id = {person}",
    "all people": "SELECT uniq(profile_id) FROM {events}",
    "count of an event, whoever": "SELECT count() FROM {events} WHERE event = 'Page Seen'",
}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("dir")
    options.add_argument("--events", type=int, default=20_000_000)
    options.add_argument("--merges", type=int, default=10_000_000)
    options.add_argument("--people", type=int, default=4_000_000)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--only", help="ways, separated by semicolons")
    given = options.parse_args()
    engine = Engine(os.path.join(given.dir, "data"))
    started = time.monotonic()
    fill(engine, given.events, given.merges, given.people)
    print(f"filled in {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{table} {engine.run(f'SELECT count() FROM {table}')}" for table in TABLES), flush=True)
    print("| way | query | cold s | warm s | CPU s | peak MB | answer |\n|---|---|---:|---:|---:|---:|---|")
    if not given.only or "profile_events" in given.only:
        engine.forget()
        cold, warm = engine.measured(PROFILE_EVENTS), engine.measured(PROFILE_EVENTS)
        print(f"| profile_events | one person | {cold[0]:.2f} | {warm[0]:.2f} | {warm[1]:.1f} | {warm[2] / 1e6:.0f} | {' '.join(warm[3].split())[:60]} |")
    for way, (setup, events) in WAYS.items():
        if given.only and way not in given.only.split(";"):
            continue
        if setup:
            seconds, cpu, peak, _ = map(sum, zip(*[engine.measured(sql)[:3] + (0,) for sql in setup]))
            print(f"| {way} | *set up* | | {seconds:.2f} | {cpu:.1f} | {peak / 1e6:.0f} | |", flush=True)
        for name, query in QUERIES.items():
            sql = query.replace("{events}", events).replace("{person}", person(12345))
            try:
                engine.forget()
                cold = engine.measured(sql)
                warm = [engine.measured(sql) for _ in range(given.runs)]
            except Exception as error:
                print(f"| {way} | {name} | | | | | {str(error)[:200]} |", flush=True)
                continue
            middle = [statistics.median(run[index] for run in warm) for index in range(2)]
            print(f"| {way} | {name} | {cold[0]:.2f} | {middle[0]:.2f} | {middle[1]:.1f} | {max(run[2] for run in warm) / 1e6:.0f} "
                  f"| {' '.join(cold[3].split())[:60]} |", flush=True)
    dictionaries = engine.run("SELECT name, formatReadableSize(bytes_allocated), element_count, loading_duration FROM system.dictionaries")
    if dictionaries:
        print(dictionaries)
    os._exit(0)  # the engine's threads would keep the process


if __name__ == "__main__":
    main()
