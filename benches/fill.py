#!/usr/bin/env python3
"""A fill on millions of stored events while more come in: how long it takes, whether the stream keeps up, and whether the
members are right, at the cut-over and after.

    cargo build --release && python3 benches/fill.py [--events 5000000] [--rate 20000] [--people 500000]

The whole program on the lake, events from files that grow. Members are compared with SQL over the events, once as of the
commit that says that the definitions are ready, once at the end.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HEAD = """pipeline: fill
sources:
  site: { file: { path: data/*.ndjson }, format: { json: segment } }
dedupe: { within: 1d }
"""
BEFORE = """traits:
  views: { count: "*", event: Product Viewed }
segments:
  lookers: "views >= 5"
"""
AFTER = """traits:
  views:   { count: "*", event: Product Viewed }
  orders:  { count: "*", event: Order Completed }
  revenue: { sum: properties.total, event: Order Completed }
  largest: { max: properties.total, event: Order Completed }
segments:
  lookers: "views >= 6"
  buyers:  "orders >= 2"
  big:     "revenue > 300 AND largest > 150"
"""
WANTED = """
SELECT 'lookers' AS segment, profile_id FROM {events} WHERE event = 'Product Viewed' GROUP BY profile_id HAVING count(*) >= 6
UNION ALL SELECT 'buyers', profile_id FROM {events} WHERE event = 'Order Completed' GROUP BY profile_id HAVING count(*) >= 2
UNION ALL SELECT 'big', profile_id FROM {events} WHERE event = 'Order Completed' GROUP BY profile_id
  HAVING sum(JSONExtractInt(properties, 'total')) > 300 AND max(JSONExtractInt(properties, 'total')) > 150
"""
MEMBERS = """
SELECT segment, profile_id FROM (SELECT segment, profile_id, change, row_number() OVER
  (PARTITION BY segment, profile_id ORDER BY _batch DESC, _seq DESC) AS age FROM segment_changes WHERE _batch <= {commit}) AS c
WHERE age = 1 AND change = 'entered'
"""


def line(number, people, seconds):
    at = 1_772_000_000 + seconds
    kind, properties = ("Order Completed", f'{{"order_id":"o{number}","currency":"EUR","total":{random.randrange(5, 250)}}}') if random.random() < 0.2 else (
        "Product Viewed", '{"sku":"s1"}')
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return (f'{{"messageId":"m{number}","type":"track","event":"{kind}","userId":"u{random.randrange(people)}",'
            f'"timestamp":"{moment}","properties":{properties}}}\n')


class Tributary:
    def __init__(self, binary, folder):
        self.base = [binary, "-C", str(folder), "--data", str(folder / "state")]
        self.environment = dict(os.environ, TRIBUTARY_LISTEN="127.0.0.1:0", TRIBUTARY_LOG="warn")

    def call(self, *arguments):
        done = subprocess.run(self.base + list(arguments), env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def query(self, sql):
        return [json.loads(row) for row in self.call("--output", "json", "query", sql).splitlines()]

    def start(self):
        return subprocess.Popen(self.base + ["run"], env=self.environment, stderr=subprocess.DEVNULL)


def compare(tributary, commit, what):
    events = f"(SELECT * FROM events WHERE _batch <= {commit}) AS e"
    wanted = f"({WANTED.format(events=events)})"
    members = f"({MEMBERS.format(commit=commit)})"
    extra = tributary.query(f"SELECT count(*) AS n FROM (SELECT * FROM {members} AS m EXCEPT SELECT * FROM {wanted} AS w) AS d")
    missing = tributary.query(f"SELECT count(*) AS n FROM (SELECT * FROM {wanted} AS w EXCEPT SELECT * FROM {members} AS m) AS d")
    total = tributary.query(f"SELECT count(*) AS n FROM {members} AS m")
    print(f"| members {what} (commit {commit}): too many, missing, of | {extra[0]['n']}, {missing[0]['n']}, {total[0]['n']} |")
    return int(extra[0]["n"]) == 0 and int(missing[0]["n"]) == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--people", type=int, default=500_000)
    parser.add_argument("--binary", default="target/release/tributary")
    options = parser.parse_args()
    random.seed(7)
    folder = Path(tempfile.mkdtemp(prefix="tributary-fill-"))
    (folder / "data").mkdir()
    definitions = folder / "pipeline.yaml"
    with open(folder / "data" / "a-past.ndjson", "w") as file:
        for number in range(options.events):
            file.write(line(number, options.people, number // 50))
    tributary = Tributary(str(Path(options.binary).resolve()), folder)

    definitions.write_text(HEAD + BEFORE)
    began = time.monotonic()
    tributary.call("run", "--drain")
    print(f"{options.events} events stored in {time.monotonic() - began:.0f} s", file=sys.stderr)

    definitions.write_text(HEAD + AFTER)
    stopping = threading.Event()
    written = [0]

    def write():
        with open(folder / "data" / "b-live.ndjson", "w") as file:
            began = time.monotonic()
            while not stopping.is_set():
                due = int((time.monotonic() - began) * options.rate)
                while written[0] < due:
                    number = options.events + written[0]
                    file.write(line(number, options.people, number // 50))
                    written[0] += 1
                file.flush()
                time.sleep(0.05)

    process = tributary.start()
    began = time.monotonic()
    writer = threading.Thread(target=write)
    writer.start()
    lags, filled, taken = [], None, 0
    while filled is None or time.monotonic() - began < filled + 10:
        time.sleep(1)
        if process.poll() is not None:
            stopping.set()
            sys.exit(f"the program ended with {process.returncode}")
        done = subprocess.run(tributary.base + ["--output", "json", "status"], env=tributary.environment,
                              capture_output=True, text=True)
        if done.returncode:
            continue
        status = json.loads(done.stdout)
        taken = int(status["totals"]["records"]) - options.events
        if taken < 0:
            continue  # it has not begun to read yet
        lags.append(written[0] - taken)
        print(f"{time.monotonic() - began:5.0f} s  lag {lags[-1]}  {status.get('fill')}", file=sys.stderr)
        if filled is None and status.get("fill") is None and taken > 0:
            filled = time.monotonic() - began
    stopping.set()
    writer.join()
    while written[0] > taken:
        time.sleep(1)
        done = subprocess.run(tributary.base + ["--output", "json", "status"], env=tributary.environment,
                              capture_output=True, text=True)
        if done.returncode == 0:
            taken = int(json.loads(done.stdout)["totals"]["records"]) - options.events
    cpu = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    cpu_s = (int(cpu[11]) + int(cpu[12])) / ticks
    process.send_signal(signal.SIGTERM)
    process.wait(60)

    print("| fill | figure |\n|---|---:|")
    print(f"| stored events, events per second meanwhile | {options.events}, {options.rate} |")
    print(f"| seconds until everything was ready | {filled:.0f} |")
    print(f"| lag in events: median, worst | {sorted(lags)[len(lags) // 2]}, {max(lags)} |")
    print(f"| CPU-seconds of the process, events that came | {cpu_s:.0f}, {written[0]} |")
    ready = tributary.query("SELECT max(_batch) AS commit FROM definitions WHERE ready")[0]["commit"]
    last = tributary.query("SELECT max(_batch) AS commit FROM events")[0]["commit"]
    right = compare(tributary, ready, "at the cut-over") & compare(tributary, last, "at the end")
    shutil.rmtree(folder)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
