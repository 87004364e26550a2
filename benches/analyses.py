#!/usr/bin/env python3
"""How long each kind of analysis takes over many events, in the lake and in ClickHouse.

    cargo build --release && python3 benches/analyses.py [--events 5000000] [--people 200000] [--runs 3]

A shop's events are written to files (viewed, added, checkout, ordered; campaigns on some), the pipeline is run into each engine,
and every analysis is asked for several times. The lake always; ClickHouse where CLICKHOUSE_URL is set. Medians, in seconds
of the whole program, which for ClickHouse mostly waits for the server.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PIPELINE = """pipeline: analyses
sources:
  site: { file: { path: data/*.ndjson }, format: { json: segment } }
dedupe: { within: 1d }
traits:
  orders: { count: "*", event: Order Completed }
segments:
  buyers: "orders >= 1"
  regulars: "orders >= 3"
warehouse:
  clickhouse: { url: "${env:CLICKHOUSE_URL:-}", database: "${env:CLICKHOUSE_DATABASE:-analyses}" }
analyses:
  checkout:      { funnel: { steps: [Product Viewed, Product Added, Checkout Started, Order Completed], within: 7d } }
  checkout_strict: { funnel: { steps: [Product Viewed, Product Added, Order Completed], within: 7d, mode: strict_order } }
  revenue:
    trend:
      of: Order Completed
      every: day
      measures: { orders: count, buyers: people, revenue: { sum: properties.total }, median_order: { quantile: properties.total } }
  by_campaign:   { trend: { every: week }, by: context.campaign.source }
  coming_back:   { retention: { start: Order Completed, return: Order Completed, every: week, periods: 8, value: properties.total } }
  channels:
    attribution: { conversion: Order Completed, value: properties.total, channel: context.campaign.source, touch: Product Viewed, lookback: 30d }
  before_orders: { paths: { to: Order Completed, length: 4 } }
  next_steps:    { transitions: { within: 1d } }
  odd_days:      { anomalies: { of: Order Completed, every: day } }
  segment_sizes: { sizes: { every: day } }
  between:       { flow: {} }
  shared:        { overlap: {} }
  regulars_are:  { lift: { of: regulars } }
"""
NAMES = ["checkout", "checkout_strict", "revenue", "by_campaign", "coming_back", "channels", "before_orders", "next_steps", "odd_days",
         "segment_sizes", "between", "shared", "regulars_are"]
EVENTS = ["Product Viewed"] * 12 + ["Product Added"] * 4 + ["Checkout Started"] * 2 + ["Order Completed"]


def lines(events, people):
    for number in range(events):
        # A hundred days, in order.
        at = 1_772_000_000 + number * 8_640_000 // events
        kind = random.choice(EVENTS)
        properties = f'{{"order_id":"o{number}","total":{random.randrange(500, 25000) / 100}}}' if kind == "Order Completed" else '{"sku":"s1"}'
        campaign = random.choice(("", "", "", ',"campaign":{"source":"ads"}', ',"campaign":{"source":"mail"}', ',"campaign":{"source":"search"}'))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        yield (f'{{"type":"track","event":"{kind}","messageId":"m{number}","userId":"u{int(people * random.random() ** 2)}","timestamp":"{stamp}",'
               f'"properties":{properties},"context":{{"ip":"1.2.3.4"{campaign}}}}}\n')


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--events", type=int, default=5_000_000)
    options.add_argument("--people", type=int, default=200_000)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--binary", default="target/release/tributary")
    options = options.parse_args()
    random.seed(7)
    binary = str(Path(options.binary).resolve())
    folder = Path(tempfile.mkdtemp(prefix="analyses"))
    try:
        (folder / "data").mkdir()
        (folder / "p.yaml").write_text(PIPELINE)
        with open(folder / "data/events.ndjson", "w") as file:
            file.writelines(lines(options.events, options.people))
        engines = ["lake"] + (["clickhouse"] if os.environ.get("CLICKHOUSE_URL") else [])
        taken = {}
        for engine in engines:
            environment = dict(os.environ, CLICKHOUSE_DATABASE=folder.name)
            if engine == "lake":
                environment.pop("CLICKHOUSE_URL", None)

            def run(*arguments):
                begun = time.monotonic()
                subprocess.run([binary, *arguments, "-C", "p.yaml", "--data", engine], cwd=folder, env=environment, check=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                return time.monotonic() - begun

            print(f"{engine}: stored in {run('run', '--drain'):.0f} s", file=sys.stderr)
            for name in NAMES:
                taken[engine, name] = statistics.median(run("analyze", name) for _ in range(options.runs))
                print(f"{engine} {name}: {taken[engine, name]:.2f} s", file=sys.stderr)
        print(f"| {options.events:,} events | " + " | ".join(f"{engine}, s" for engine in engines) + " |")
        print("|---|" + "---:|" * len(engines))
        for name in NAMES:
            print(f"| {name} | " + " | ".join(f"{taken[engine, name]:.2f}" for engine in engines) + " |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
