#!/usr/bin/env python3
"""What `current_events` costs in ClickHouse at ten million merges, and what other ways would cost. See README.md.

    tests/support/servers up /tmp/t clickhouse            # once: fetches the engine
    PYTHONPATH=~/.cache/tributary-test/chdb-core-26.9.0-py3.11/site python3 benches/merges.py DIR [--events 20000000]
        [--merges 10000000] [--people 4000000] [--only NAME,…] [--runs 3]

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
            INSERT INTO profile_merges
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
    engine.run("CREATE TABLE filled (x UInt8) ENGINE = Memory")


# --- the ways to know the profile of now: what they need, and what stands for `events` in a query ---

LATEST = """(SELECT t.old_profile_id AS old_profile_id, argMax(t.profile_id, (t._batch, t._seq)) AS profile_id
    FROM profile_merges AS t GROUP BY t.old_profile_id HAVING profile_id <> old_profile_id)"""
MOVES = """LEFT JOIN (SELECT t.event_batch AS event_batch, t.event_seq AS event_seq, argMax(tuple(t.profile_id), (t._batch, t._seq)).1 AS profile_id
    FROM event_moves AS t GROUP BY t.event_batch, t.event_seq) AS v ON e._batch = v.event_batch AND e._seq = v.event_seq"""
OWN = "if(v.event_batch = 0, e.profile_id, v.profile_id)"
COLUMNS = "e.timestamp AS timestamp, e.event AS event, e.properties AS properties"


def joined(merges, own="e.profile_id", moves="", kind="LEFT", settings=""):
    return (f"(SELECT if(m.profile_id = '', {own}, m.profile_id) AS profile_id, {COLUMNS} FROM events AS e {moves} "
            f"{kind} JOIN {merges} AS m ON {own} = m.old_profile_id SETTINGS join_use_nulls = 0{settings})")


def dictionary(name, columns, key, select, layout):
    return [f"DROP DICTIONARY IF EXISTS {name}",
            f"CREATE DICTIONARY {name} ({columns}) PRIMARY KEY {key} SOURCE(CLICKHOUSE(DB 'shop' QUERY '{select}')) "
            f"LAYOUT({layout}) LIFETIME(0)", f"SYSTEM RELOAD DICTIONARY {name}"]


TEXT_DICTIONARY = dictionary(
    "by_text", "old_profile_id String, profile_id String, version UInt64", "old_profile_id",
    "SELECT old_profile_id, argMax(profile_id, (_batch, _seq)) AS profile_id, max(_batch) AS version FROM shop.profile_merges "
    "GROUP BY GROUPING SETS ((old_profile_id), ()) SETTINGS optimize_aggregation_in_order = 1", "COMPLEX_KEY_HASHED()")
WIDE_DICTIONARY = dictionary(
    "by_number", "id UInt128, now UInt128, version UInt64", "id",
    "SELECT reinterpretAsUInt128(unhex(old_profile_id)) AS id, reinterpretAsUInt128(unhex(argMax(profile_id, (_batch, _seq)))) AS now, "
    "max(_batch) AS version FROM shop.profile_merges GROUP BY GROUPING SETS ((old_profile_id), ()) SETTINGS optimize_aggregation_in_order = 1",
    "COMPLEX_KEY_HASHED()")


def looked_up(own, name="by_text"):
    if name == "by_number":
        return (f"lower(hex(reinterpretAsFixedString(dictGetOrDefault('shop.by_number', 'now', tuple(reinterpretAsUInt128(unhex(ifNull({own}, '')))), "
                f"reinterpretAsUInt128(unhex(ifNull({own}, '')))))))")
    return f"if({own} IS NULL, NULL, dictGetOrDefault('shop.{name}', 'profile_id', tuple(assumeNotNull({own})), assumeNotNull({own})))"


RECENT = """LEFT JOIN (SELECT t.old_profile_id AS old_profile_id, argMax(t.profile_id, (t._batch, t._seq)) AS profile_id FROM profile_merges AS t
    WHERE t._batch > dictGet('shop.by_text', 'version', tuple('')) GROUP BY t.old_profile_id) AS m"""

WAYS = {
    "none": ([], "events"),
    "moves": ([], f"(SELECT {OWN} AS profile_id, {COLUMNS} FROM events AS e {MOVES} SETTINGS join_use_nulls = 0)"),
    "view": ([], joined(LATEST)),
    "view+moves": ([], joined(LATEST, OWN, MOVES)),
    "in order": ([], joined(LATEST, settings=", optimize_aggregation_in_order = 1")),
    "any": ([], joined(LATEST, kind="LEFT ANY", settings=", optimize_aggregation_in_order = 1")),
    "parallel": ([], joined(LATEST, settings=", join_algorithm = 'parallel_hash'")),
    "sorted": ([], joined(LATEST, settings=", join_algorithm = 'full_sorting_merge'")),
    "grace": ([], joined(LATEST, settings=", join_algorithm = 'grace_hash'")),
    "replacing": (
        ["DROP TABLE IF EXISTS latest",
         "CREATE TABLE latest (old_profile_id String, profile_id String, version UInt128) ENGINE = ReplacingMergeTree(version) ORDER BY old_profile_id",
         "INSERT INTO latest SELECT old_profile_id, profile_id, toUInt128(_batch) * 4294967296 + _seq FROM profile_merges"],
        joined("(SELECT old_profile_id, profile_id FROM latest FINAL)", kind="LEFT ANY")),
    "join engine": (
        ["DROP TABLE IF EXISTS joinable",
         "CREATE TABLE joinable (old_profile_id String, profile_id String) ENGINE = Join(ANY, LEFT, old_profile_id) SETTINGS join_any_take_last_row = 1",
         f"INSERT INTO joinable SELECT * FROM {LATEST}"],
        f"(SELECT if(joinGet('shop.joinable', 'profile_id', ifNull(e.profile_id, '')) AS now = '', e.profile_id, now) AS profile_id, {COLUMNS} FROM events AS e)"),
    "dictionary": (TEXT_DICTIONARY, f"(SELECT {looked_up('e.profile_id')} AS profile_id, {COLUMNS} FROM events AS e)"),
    "dictionary, numbers": (WIDE_DICTIONARY, f"(SELECT {looked_up('e.profile_id', 'by_number')} AS profile_id, {COLUMNS} FROM events AS e)"),
    "dictionary+recent": (
        TEXT_DICTIONARY,
        f"(SELECT if(m.profile_id = '', {looked_up('e.profile_id')}, m.profile_id) AS profile_id, {COLUMNS} FROM events AS e {RECENT} "
        "ON e.profile_id = m.old_profile_id SETTINGS join_use_nulls = 0)"),
    "dictionary+recent+moves": (
        TEXT_DICTIONARY,
        f"(SELECT if(m.profile_id = '', {looked_up(OWN)}, m.profile_id) AS profile_id, {COLUMNS} FROM events AS e {MOVES} {RECENT} "
        f"ON {OWN} = m.old_profile_id SETTINGS join_use_nulls = 0)"),
}

QUERIES = {
    "people per day": "SELECT sum(n) FROM (SELECT toDate(timestamp) AS day, uniqExact(profile_id) AS n FROM {events} GROUP BY day)",
    "orders of March by person": "SELECT count(), max(n) FROM (SELECT profile_id, count() AS n FROM {events} WHERE event = 'Order Completed' "
                                 "AND timestamp >= '2026-03-01 00:00:00' AND timestamp < '2026-04-01 00:00:00' GROUP BY profile_id)",
    "one person": "SELECT count(), min(timestamp), max(properties) FROM {events} WHERE profile_id = {person}",
    "all people": "SELECT uniq(profile_id) FROM {events}",
    "count of an event": "SELECT count() FROM {events} WHERE event = 'Page Seen'",
}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("dir")
    options.add_argument("--events", type=int, default=20_000_000)
    options.add_argument("--merges", type=int, default=10_000_000)
    options.add_argument("--people", type=int, default=4_000_000)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--only", help="ways, comma-separated")
    given = options.parse_args()
    engine = Engine(os.path.join(given.dir, "data"))
    started = time.monotonic()
    fill(engine, given.events, given.merges, given.people)
    print(f"filled in {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{table} {engine.run(f'SELECT count() FROM {table}')}" for table in TABLES), flush=True)
    print("| way | query | cold s | warm s | CPU s | peak MB | answer |\n|---|---|---:|---:|---:|---:|---|")
    for way, (setup, events) in WAYS.items():
        if given.only and way not in given.only.split(","):
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
