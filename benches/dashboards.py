#!/usr/bin/env python3
"""What the views for dashboards cost an insert, and what they save a query, in ClickHouse.

    CLICKHOUSE_URL=http://… python3 benches/dashboards.py [--binary target/release/tributary] [--events 5000000] [--runs 5]

The program makes its tables and views in two databases. Into one of them, without its materialized views, and into the other the same blocks are
inserted in turn, one insert each, as sealed batches are. Then one gets events of seven days in commits of a second, merges of people among them, and
the dashboard's questions are asked of the views and of `events` (`current_events` where people count). Medians, in seconds.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

PIPELINE = """pipeline: dashboards
sources: { site: { file: { path: data/*.ndjson }, format: { json: segment } } }
warehouse: { clickhouse: { url: "${env:CLICKHOUSE_URL}", database: "${env:CLICKHOUSE_DATABASE}" } }
"""
ROLLUPS = ["events_by_minute", "active_profiles", "daily_revenue"]
BLOCK = 20_000
DAYS = 7

# Fourteen names, one in twenty an order; people come back with a few dozen events on a day; JSON as a shop has it.
ROWS = """SELECT lower(hex(sipHash128(person))) AS profile_id, NULL AS session_id, toString(number) AS message_id, 'track' AS type,
    if(number % 20 = 0, 'Order Completed', concat('Event ', toString(cityHash64(number) % 13))) AS event,
    concat('u', toString(person)) AS user_id, toDateTime64('2026-03-02 00:00:00', 6, 'UTC') + toIntervalMicrosecond(number * {gap}) AS timestamp,
    timestamp AS received_at, concat('{{"order_id":"o', toString(number), '","total":', toString(cityHash64(number, 1) % 25000 / 100), ',"currency":"EUR","sku":"BK-101","path":"/books/101"}}') AS properties,
    '{{"ip":"1.2.3.4","userAgent":"Mozilla/5.0","campaign":{{"source":"mail"}}}}' AS context, 'site' AS source, 'data' AS topic, number AS offset,
    toUInt64(1 + intDiv(number, {commit})) AS _batch, toUInt32(number % {commit}) AS _seq
FROM (SELECT number, cityHash64(intDiv(number, 40) + cityHash64(number) % 40) % {people} AS person FROM numbers({first}, {count}))"""
COLUMNS = "profile_id, session_id, message_id, type, event, user_id, timestamp, received_at, properties, context, source, topic, offset, _batch, _seq"

QUESTIONS = [
    ("events per minute by name, an hour",
     "SELECT minute, event, sum(events) FROM events_by_minute WHERE minute >= '2026-03-05 10:00:00' AND minute < '2026-03-05 11:00:00' GROUP BY 1, 2",
     "SELECT date_trunc('minute', timestamp) AS m, event, count() FROM events WHERE timestamp >= '2026-03-05 10:00:00' AND timestamp < '2026-03-05 11:00:00' GROUP BY 1, 2"),
    ("events per hour by name, seven days",
     "SELECT date_trunc('hour', minute) AS h, event, sum(events) FROM events_by_minute GROUP BY 1, 2",
     "SELECT date_trunc('hour', timestamp) AS h, event, count() FROM events GROUP BY 1, 2"),
    ("active people by day",
     "SELECT start, people FROM active_profiles WHERE period = 'day'",
     "SELECT toDate32(timestamp) AS d, uniqExact(profile_id) FROM current_events WHERE profile_id IS NOT NULL GROUP BY 1"),
    ("active people by day, week and month",
     "SELECT period, start, people FROM active_profiles",
     "SELECT p, if(p = 1, toDate32(timestamp), if(p = 2, toDate32(toMonday(timestamp)), toDate32(toStartOfMonth(timestamp)))) AS s, uniqExact(profile_id) "
     "FROM current_events ARRAY JOIN [1, 2, 3] AS p WHERE profile_id IS NOT NULL GROUP BY 1, 2"),
    ("revenue by day",
     "SELECT day, sum(revenue) FROM daily_revenue GROUP BY 1",
     "SELECT toDate32(timestamp) AS d, sum(JSONExtractFloat(properties, 'total')) FROM events WHERE event = 'Order Completed' GROUP BY 1"),
]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--binary", default="target/release/tributary")
    options.add_argument("--events", type=int, default=5_000_000)
    options.add_argument("--people", type=int, default=200_000)
    options.add_argument("--runs", type=int, default=5)
    options = options.parse_args()
    url = os.environ["CLICKHOUSE_URL"]

    def ask(sql, database=None, body=None, **settings):
        if database:
            settings["database"] = database
        if body is not None:
            settings["query"], sql = sql, body
        data = sql if isinstance(sql, bytes) else sql.encode()
        request = urllib.request.Request(f"{url}/?{urllib.parse.urlencode(settings)}", data=data)
        try:
            return urllib.request.urlopen(request, timeout=3600).read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{sql[:300]}\n{error.read().decode()}") from None

    def timed(call):
        begun = time.monotonic()
        call()
        return time.monotonic() - begun

    bare, full = (f"dashboards_{os.getpid()}_{name}" for name in ("bare", "full"))
    with tempfile.TemporaryDirectory(prefix="dashboards") as folder:
        (Path(folder) / "data").mkdir()
        # Tables are made for the first row.
        (Path(folder) / "data/one.ndjson").write_text('{"type":"track","event":"Opened","messageId":"m","userId":"u","timestamp":"2026-03-01T00:00:00Z"}\n')
        (Path(folder) / "p.yaml").write_text(PIPELINE)
        for database in (bare, full):
            subprocess.run([str(Path(options.binary).resolve()), "run", "--drain", "-C", "p.yaml", "--data", database], cwd=folder, check=True,
                           env=dict(os.environ, CLICKHOUSE_DATABASE=database, TRIBUTARY_LOG="warn"), stdout=subprocess.DEVNULL)
    try:
        for name in ROLLUPS:
            ask(f"DROP VIEW {name}__mv", bare)

        def block(number):
            rows = ROWS.format(gap=120_000, commit=BLOCK, people=options.people, first=number * BLOCK, count=BLOCK)
            return ask(f"{rows} FORMAT ArrowStream", full, output_format_arrow_compression_method="none")

        # In turn, so that whatever else the machine does falls on both.
        blocks, rates = 10, {bare: [], full: []}
        for run in range(options.runs):
            made = [block(run * blocks + number) for number in range(blocks)]
            for database in (bare, full):
                def insert():
                    for number, rows in enumerate(made):
                        ask(f"INSERT INTO events ({COLUMNS}) FORMAT ArrowStream", database, rows, insert_deduplication_token=f"{run}-{number}", async_insert=0,
                            max_insert_block_size=BLOCK, min_insert_block_size_rows=BLOCK, min_insert_block_size_bytes=0, max_insert_threads=1, parallel_view_processing=1)
                rates[database].append(blocks * BLOCK / timed(insert))
        print(f"| {options.runs} runs of {blocks} inserts of {BLOCK:,} | rows a second |\n|---|---:|")
        for name, database in (("without the views", bare), ("with them", full)):
            print(f"| {name} | {statistics.median(rates[database]):,.0f} ({min(rates[database]):,.0f} to {max(rates[database]):,.0f}) |")

        for table in ["events"] + [f"{name}__rollup" for name in ROLLUPS]:
            ask(f"TRUNCATE TABLE {table}", full)
        second = max(1, options.events // (DAYS * 86_400))
        # Whole commits in each insert, and as many rows as its block may have: what a view sees of a commit is all of it.
        part = second * max(1, 500_000 // second)
        for first in range(0, options.events, part):
            rows = ROWS.format(gap=DAYS * 86_400_000_000 // options.events, commit=second, people=options.people, first=first, count=min(part, options.events - first))
            ask(f"INSERT INTO events ({COLUMNS}) {rows} SETTINGS max_threads = 1, max_insert_threads = 1, max_block_size = {part}, min_insert_block_size_rows = {part}, min_insert_block_size_bytes = 0", full)
        # One in twenty people was somebody else before.
        ask(f"INSERT INTO profile_merges (old_profile_id, profile_id, _batch, _seq) SELECT lower(hex(sipHash128(number))), lower(hex(sipHash128(number + 1))), 1, number "
            f"FROM numbers({options.people}) WHERE number % 20 = 0", full)
        print(f"\n| {options.events:,} events, {options.people:,} people, commits of {second} | view, s | events, s |\n|---|---:|---:|")
        for what, view, raw in QUESTIONS:
            taken = [statistics.median(timed(lambda: ask(sql, full)) for _ in range(options.runs)) for sql in (view, raw)]
            print(f"| {what} | {taken[0]:.3f} | {taken[1]:.3f} |")
            sizes = {len(ask(sql, full).splitlines()) for sql in (view, raw)}
            assert len(sizes) == 1, f"{what}: the view and the events have different answers"
        print()
        print(ask("SELECT table, sum(rows) AS rows, formatReadableSize(sum(bytes_on_disk)) AS size FROM system.parts WHERE active AND database = currentDatabase() "
                  "GROUP BY 1 HAVING rows > 0 ORDER BY 1 FORMAT PrettyCompact", full).decode())
    finally:
        for database in (bare, full):
            ask(f"DROP DATABASE {database}")


main()
