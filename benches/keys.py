#!/usr/bin/env python3
"""Fifty million events: what the order of `events` is worth in ClickHouse, and how long the analyses take on both engines.

    cargo build --release && CLICKHOUSE_URL=… python3 benches/keys.py [--events 50000000] [--people 2000000] [--pid PID]

The events are made by SQL in ClickHouse, of the shape of benches/analyses.py (a shop over a hundred days), into the table that the
program itself creates, profiles and segments' entries with them, and exported from there into a lake as Parquet files in the order of
time. So the pipeline is not run over them; what it would write besides (merges, exits) is not there. With --pid, of a server on this machine, its CPU seconds are
given beside the seconds on the clock. 20 GB of disk.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from analyses import NAMES, PIPELINE  # noqa: E402

FILL = """INSERT INTO events (profile_id, message_id, type, event, user_id, timestamp, received_at, properties, context, source, topic,
    partition, offset, index, _batch, _seq)
SELECT lower(hex(sipHash128(p))), concat('m', toString(n)), 'track',
    ['Product Viewed', 'Product Added', 'Checkout Started', 'Order Completed'][multiIf(k < 12, 1, k < 16, 2, k < 18, 3, 4)],
    concat('u', toString(p)), at, at,
    if(k = 18, concat('{{"order_id":"o', toString(n), '","total":', toString(rand(3) % 24500 / 100 + 5), '}}'), '{{"sku":"s1"}}'),
    concat('{{"ip":"1.2.3.4"', ['', '', '', ',"campaign":{{"source":"ads"}}', ',"campaign":{{"source":"mail"}}',
        ',"campaign":{{"source":"search"}}'][1 + rand(4) % 6], '}}'),
    'site', 'events.ndjson', 0, n, 0, 2 + intDiv(n, 20000), n % 20000
FROM (SELECT number + {first} AS n, toUInt32({people} * pow(rand(1) / 4294967296, 2)) AS p, rand(2) % 19 AS k,
    fromUnixTimestamp64Micro(1772000000000000 + toInt64(n / {events} * 8640000000000), 'UTC') AS at FROM numbers({count}))"""
PROFILES = """INSERT INTO profiles (profile_id, deleted, first_seen, last_seen, events, sessions, orders, _as_of, _batch, _seq)
SELECT e.profile_id, false, min(e.timestamp), max(e.timestamp), count(), 0, countIf(e.event = 'Order Completed'), max(e.timestamp), 2,
    toUInt32(rowNumberInAllBlocks()) FROM events AS e WHERE e.message_id <> 'one' GROUP BY e.profile_id"""
CHANGES = """INSERT INTO segment_changes (segment, profile_id, change, cause, changed_at, _batch, _seq)
SELECT tupleElement(entry, 1), e.profile_id, 'entered', 'event', tupleElement(entry, 2), 2, toUInt32(rowNumberInAllBlocks()) FROM (
    SELECT profile_id, arraySort(groupArray(timestamp)) AS orders FROM events WHERE event = 'Order Completed' GROUP BY profile_id) AS e
ARRAY JOIN if(length(e.orders) < 3, [('buyers', e.orders[1])], [('buyers', e.orders[1]), ('regulars', e.orders[3])]) AS entry"""
ORDERS = {"events": None, "by_time": "(timestamp, event)", "by_person": "(profile_id, timestamp)"}
QUERIES = {
    "a sum over one event": "SELECT count(), sum(JSONExtractFloat(properties, 'total')) FROM {table} WHERE event = 'Order Completed'",
    "the same, one week": "SELECT count(), sum(JSONExtractFloat(properties, 'total')) FROM {table} WHERE event = 'Order Completed' "
                          "AND timestamp >= '2026-04-01' AND timestamp < '2026-04-08'",
    "people by event, one week": "SELECT event, uniqExact(profile_id) FROM {table} WHERE timestamp >= '2026-04-01' "
                                 "AND timestamp < '2026-04-08' GROUP BY event",
    "one person's events": "SELECT count() FROM {table} WHERE profile_id = (SELECT lower(hex(sipHash128(toUInt32(777)))))",
}
STEP = 5_000_000


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--events", type=int, default=50_000_000)
    options.add_argument("--people", type=int, default=2_000_000)
    options.add_argument("--pid", type=int)
    options.add_argument("--binary", default="target/release/tributary")
    options.add_argument("--parts", default="keys,clickhouse,lake")
    options.add_argument("--names", default=",".join(NAMES), help="analyses")
    options.add_argument("--folder", help="kept, and used again if it is there")
    options = options.parse_args()
    parts = options.parts.split(",")
    binary = str(Path(options.binary).resolve())
    folder = Path(options.folder or tempfile.mkdtemp(prefix="keys"))
    folder.mkdir(exist_ok=True)
    database = folder.name
    url = os.environ["CLICKHOUSE_URL"]

    def ask(sql, into=None):
        with urllib.request.urlopen(f"{url}/?database={database}", sql.encode()) as answer:
            if into is None:
                return answer.read().decode()
            with open(into, "wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)

    def cpu():
        fields = Path(f"/proc/{options.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def timed(work):
        before, begun = cpu() if options.pid else 0, time.monotonic()
        work()
        said = f"{time.monotonic() - begun:.1f} s"
        return said + (f", CPU {cpu() - before:.1f} s" if options.pid else "")

    def tributary(*arguments, clickhouse):
        environment = dict(os.environ, CLICKHOUSE_DATABASE=database)
        if not clickhouse:
            environment.pop("CLICKHOUSE_URL")
        arguments = [binary, *arguments, "-C", "p.yaml", "--data", "clickhouse" if clickhouse else "lake"]
        process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"failed: {' '.join(arguments)}")
        return usage

    if not (folder / "p.yaml").exists():
        (folder / "data").mkdir()
        (folder / "p.yaml").write_text(PIPELINE)
        (folder / "data/one.ndjson").write_text('{"type":"track","event":"Product Viewed","messageId":"one","userId":"u0",'
                                                '"timestamp":"2026-02-25T06:13:20Z","properties":{"sku":"s1"},"context":{}}\n')
        for clickhouse in (True, False):
            tributary("run", "--drain", clickhouse=clickhouse)
        for first in range(0, options.events, STEP):
            count = min(STEP, options.events - first)
            print(f"made from {first:,}:", timed(lambda: ask(FILL.format(first=first, count=count, people=options.people, events=options.events))), flush=True)
        print("profiles:", timed(lambda: ask(PROFILES)), flush=True)
        print("segment_changes:", timed(lambda: ask(CHANGES)), flush=True)
    if "keys" in parts:
        for table, order in list(ORDERS.items())[1:]:
            ask(f"CREATE TABLE IF NOT EXISTS {table} AS events ENGINE = MergeTree ORDER BY {order} SETTINGS allow_nullable_key = 1")
            if int(ask(f"SELECT count() FROM {table}")) == 0:
                for first in range(0, options.events, STEP):
                    ask(f"INSERT INTO {table} SELECT * FROM events WHERE offset >= {first} AND offset < {first + STEP}")
        for name, sql in QUERIES.items():
            for table in ORDERS:
                print(f"{name}, {table}:", timed(lambda: ask(sql.format(table=table))), flush=True)
    if "clickhouse" in parts:
        for name in options.names.split(","):
            print(f"clickhouse, {name}:", timed(lambda: tributary("analyze", name, clickhouse=True)), flush=True)
    if "lake" in parts:
        manifests = folder / "lake/lake/manifest"
        latest = json.loads(max(manifests.iterdir()).read_text())
        for table in latest["tables"]:
            if table["name"] not in ("events", "profiles", "segment_changes") or any("made" in file["path"] for file in table["files"]):
                continue
            names = ", ".join(f"`{column['name']}`" for column in table["columns"])
            parts = [f"offset >= {first} AND offset < {first + STEP} AND message_id <> 'one' ORDER BY offset"
                     for first in range(0, options.events, STEP)] if table["name"] == "events" else ["_batch = 2"]
            for number, rows in enumerate(parts):
                path = f"{table['name']}/made-{number}.parquet"
                (folder / "lake/lake" / path).parent.mkdir(exist_ok=True)
                ask(f"SELECT {names} FROM {table['name']} WHERE {rows} FORMAT Parquet SETTINGS output_format_parquet_string_as_string = 1, "
                    "output_format_parquet_compression_method = 'zstd', output_format_parquet_row_group_size = 1000000", folder / "lake/lake" / path)
                size = (folder / "lake/lake" / path).stat().st_size
                count = int(ask(f"SELECT count() FROM (SELECT 1 FROM {table['name']} WHERE {rows})"))
                table["files"].append({"path": path, "rows": count, "bytes": size, "after": 1, "upto": 1, "min_timestamp": None, "max_timestamp": None})
        latest["version"] += 1
        (manifests / f"{latest['version']:020}.json").write_text(json.dumps(latest))
        for name in options.names.split(","):
            begun = time.monotonic()
            usage = tributary("analyze", name, clickhouse=False)
            print(f"lake, {name}: {time.monotonic() - begun:.1f} s, CPU {usage.ru_utime + usage.ru_stime:.1f} s, "
                  f"{usage.ru_maxrss / 1048576:.1f} GiB", flush=True)
    if not options.folder:
        ask(f"DROP DATABASE {database}")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
