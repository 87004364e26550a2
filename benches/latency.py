#!/usr/bin/env python3
"""Latency from the time at which an event is meant to be sent, to its delivery and to its row in ClickHouse, open loop.

    cargo build --release && python3 benches/latency.py [--share 70,30] [--rate 5000] [--seconds 60] [--warm 20] [--people 200000]
        [--backlog 400000] [--capacity N] [--runs 1] [--linger-ms N] [--poll-ms 20] [--keep]

The release binary with the settings it comes with, between the real Kafka and the real ClickHouse engine (tests/support/servers), on
the pipeline of the ladder with 100 segments. Everybody is introduced, then events are sent as fast as it goes, until all are
rows: that is the capacity. Then events are sent on a schedule, at shares of the capacity (`--share`, in percent) and at fixed rates (`--rate`). An event's latency counts from when it
should have been sent; a producer that falls behind catches up, and its delay counts. Sent are the kinds of events, sizes, duplicates, late and
broken ones of benches/workload.rs.

- Delivery: one event in a hundred sets off a webhook; its arrival here counts.
- Row: `count()` of the table is asked for again and again. Rows come in the order of (_batch, _seq), so the n-th row is visible
  since the first answer of n or more: the time of an answer counts, which is late by up to the interval of the polls and their own time (told).

Each process has its share of the processors told, and so has everything else that ran on the machine. What it starts is stopped, by id.
"""

import argparse
import asyncio
import bisect
import contextlib
import http.client
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ROOT / "tests/support/servers"
CACHE = Path(os.environ.get("TRIBUTARY_TEST_CACHE") or os.path.expanduser("~/.cache/tributary-test"))
CLIENT = "2.16.1"  # confluent_kafka
TOPIC, DATABASE, PARTITIONS = "bench.events", "latency", 6
TICKS = os.sysconf("SC_CLK_TCK")
# After the last event of a phase everything has to be there within this.
SETTLE_S = 120
BACKLOG_S = 1800
# The state keeps its log for a minute and what was compacted for five: some GB. Nobody else on the disk is to go without.
FREE_BYTES_MIN = 4 << 30


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# --- events: as benches/workload.rs makes them, but for the time, which is that of the schedule ---

NAMES = [("Product Viewed", 400), ("Product List Viewed", 120), ("Product Added", 90), ("Products Searched", 80), ("Cart Viewed", 60),
         ("Checkout Started", 40), ("Checkout Step Viewed", 40), ("Payment Info Entered", 30), ("Promotion Clicked", 30), ("Wishlist Added", 30),
         ("Product Removed", 23), ("Coupon Applied", 23), ("Product Shared", 20), ("Support Requested", 14)]
TRACKED = [name for name, weight in NAMES for _ in range(weight)]
BEHAVIOUR, IDENTIFY, ORDER = (1, 2), (3, 4), (5, 6)
THETA = 0.99


def avro_long(value):
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7f:
        out.append(rest & 0x7f | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def avro_text(text):
    return avro_long(len(text)) + text.encode()


def avro_optional(text):
    return b"\x00" if text is None else b"\x02" + avro_text(text)


def device(person, which):
    return f"a-{person * 0x9E3779B97F4A7C15 % 2**64:016x}-{which}"


class Event:
    """What is known before it is sent: the bytes before its time and behind it."""
    __slots__ = ("head", "tail", "newer", "late_us", "broken", "again")

    def payload(self, at_us):
        body = self.head + avro_long(at_us - self.late_us) + self.tail
        if self.newer:
            body += avro_long(at_us) + b"\x00"
        return body[:len(body) // 2] if self.broken else body


class Workload:
    def __init__(self, people, seed):
        self.people, self.random, self.signing_in = people, random.Random(seed), []
        # Zipf as in Gray et al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994).
        self.zeta = sum(k ** -THETA for k in range(1, people + 1))
        self.eta = (1 - (2 / people) ** (1 - THETA)) / (1 - (1 + 0.5 ** THETA) / self.zeta)

    def person(self):
        u = self.random.random()
        if u * self.zeta < 1:
            rank = 0
        elif u * self.zeta < 1 + 0.5 ** THETA:
            rank = 1
        else:
            rank = int(self.people * (self.eta * u - self.eta + 1) ** (1 / (1 - THETA)))
        return min(rank, self.people - 1) * 0x9E3779B1 % self.people

    def introduction(self, number, person):
        return self.make(number, person, device(person, 0), True, "identify")

    def event(self, number):
        draw = self.random.random
        if draw() < 0.02:
            event = Event()
            event.again = True
            return event
        person, call = self.person(), draw()
        call = "order" if call < 0.05 else "identify" if call < 0.1 else "page" if call < 0.3 else "track"
        known = call in ("order", "identify") or draw() < 0.5
        name, special = device(person, int(draw() * 2)), draw()
        if special < 0.005:
            person, name, known = int(draw() * self.people), f"n-{number:012}", False
            self.signing_in.append((name, person))
        elif special < 0.0052:
            name, known = "till-1", True
        elif len(self.signing_in) > 200:
            (name, person), known = self.signing_in.pop(0), True
        event = self.make(number, person, name, known, call)
        event.late_us = int(3.6e9 + draw() * 2.5e11) if draw() < 0.01 else 0
        event.broken = draw() < 0.001
        return event

    def make(self, number, person, device_id, known, call):
        draw = self.random.random
        sku, traits, properties, name, kind, ids = int(draw() * 5000), None, None, None, "track", BEHAVIOUR
        if call == "order":
            name, ids = "Order Completed", ORDER
            properties = f'{{"order_id":"o{number}","total":{5 + draw() * 395:.2f},"currency":"EUR","coupon":null,"items":{1 + int(draw() * 5)}}}'
        elif call == "identify":
            kind, ids = "identify", IDENTIFY
            traits = f'{{"email":"user{person}@shop.example","plan":"{self.random.choice(("free", "basic", "pro"))}"}}'
        elif call == "page":
            kind, properties = "page", f'{{"path":"/p/{sku}","title":"Product {sku}","referrer":""}}'
        else:
            name = TRACKED[int(draw() * len(TRACKED))]
            properties = f'{{"sku":"sku{sku}","price":{1 + int(draw() * 299)}.9,"category":"c{sku % 40}","quantity":1}}'
        size = min(300 * math.exp(0.843 * self.random.gauss(0, 1)), 20000)
        filler = max(0, int(size) - 175 - len(properties or traits)) // 8
        context = f'{{"ip":"203.0.113.9","locale":"en","campaign":null,"user_agent":"{"Agent/07" * filler}"}}'
        event = Event()
        event.again, event.broken, event.late_us, event.newer = False, False, 0, draw() < 0.5
        event.head = (b"\x00" + ids[event.newer].to_bytes(4, "big") + avro_text(f"m-{number:012}") + avro_text(kind)
                      + (avro_optional(name) if kind != "identify" else b"") + avro_optional(f"u{person}" if known else None) + avro_text(device_id))
        event.tail = avro_optional(traits if kind == "identify" else properties) + avro_text(context)
        return event


# --- processes of their own: the producer, the receiver, the poller ---


def send(brokers, events, rate, start, result):
    """Sends on the schedule: event n at `start + n / rate` (monotonic clock); without a rate as fast as it goes."""
    from confluent_kafka import Producer
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1, "queue.buffering.max.messages": 2000000,
                         "queue.buffering.max.kbytes": 2097151, "compression.type": "none" if rate else "lz4"})
    failed, behind, sent, recent, valid = [], 0.0, 0, [], 0
    to_wall = time.time() - time.monotonic()

    def done(error, _):
        if error is not None:
            failed.append(str(error))

    while sent < len(events):
        now = time.monotonic()
        due = min(len(events), int((now - start) * rate) + 1 if now >= start else 0) if rate else min(len(events), sent + 1000)
        for number in range(sent, due):
            event = events[number]
            at = start + number / rate if rate else now
            behind = max(behind, now - at)
            if event.again and recent:
                payload = random.choice(recent)
            elif event.again:
                continue
            else:
                payload = event.payload(int((at + to_wall) * 1e6))
                if not event.broken:
                    valid += 1
                    recent.append(payload)
                    if len(recent) > 1000:
                        del recent[:500]
            while True:
                try:
                    producer.produce(TOPIC, payload, partition=number % PARTITIONS, on_delivery=done)
                    break
                except BufferError:
                    producer.poll(0.1)
            if number % 64 == 0:
                producer.poll(0)
        sent = due
        producer.poll(0)
        if rate:
            time.sleep(0.001)
    left = producer.flush(120)
    result.send({"valid": valid, "behind": behind, "failed": failed[:3] + ([f"{left} were not taken"] if left else [])})


def receive(port_out, commands):
    """A receiver of webhooks: (number of the event, time of arrival)."""
    arrived = []

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])
                body = await reader.readexactly(length)
                at = time.monotonic()
                found = re.search(rb'"m-(\d{12})"', body)
                arrived.append((int(found[1]) if found else -1, at))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port_out.send(server.sockets[0].getsockname()[1])
        while True:
            if commands.poll():
                if commands.recv() == "stop":
                    return
                commands.send(list(arrived))
                arrived.clear()
            await asyncio.sleep(0.05)

    asyncio.run(run())


def poll(url, every_s, commands):
    """How many rows `events` has: (time of the answer, rows), where the number has changed; and how long answers took."""
    seen, took, rows = [], [], -1
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    next_at = time.monotonic()
    while True:
        asked = time.monotonic()
        connection.request("POST", f"/?database={DATABASE}", b"SELECT count() FROM events")
        answer = connection.getresponse()
        text = answer.read()
        at = time.monotonic()
        took.append(at - asked)
        if answer.status == 200 and int(text) != rows:
            rows = int(text)
            seen.append((at, rows))
        if commands.poll():
            if commands.recv() == "stop":
                return
            commands.send((seen, took))
            seen, took = [(at, rows)], []
        next_at = max(next_at + every_s, time.monotonic())
        time.sleep(max(0, next_at - time.monotonic()))


class Child:
    """A process of this script, with a pipe to it."""

    def __init__(self, target, *given):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.run, args=(target, *given, theirs), daemon=True)
        self.process.start()
        self.pid = self.process.pid

    @staticmethod
    def run(target, *given):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        target(*given)

    def take(self, within_s=60):
        if not self.pipe.poll(within_s):
            raise SystemExit("a process of this script does not answer")
        return self.pipe.recv()

    def ask(self):
        self.pipe.send("give")
        return self.take()

    def stop(self):
        self.process.terminate()
        self.process.join(5)


# --- what is measured ---


def cpu_s(pid):
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


def busy_s():
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="tributary-latency-"))
        self.program = self.receiver = self.poller = None
        self.number, self.valid = 0, 0
        self.workload = Workload(options.people, 7)

    def up(self):
        say("starting Kafka and ClickHouse")
        done = subprocess.run([SERVERS, "up", self.folder / "servers", "kafka", "clickhouse"], stdout=subprocess.PIPE, text=True, check=True)
        at = dict(line.split("=", 1) for line in done.stdout.splitlines())
        self.brokers, self.clickhouse = at["KAFKA_BROKERS"], at["CLICKHOUSE_URL"]
        from confluent_kafka.admin import AdminClient, NewTopic
        # The broker's time in `received_at`: what lies before it is the producer's share.
        topic = NewTopic(TOPIC, PARTITIONS, 1, config={"message.timestamp.type": "LogAppendTime"})
        admin = AdminClient({"bootstrap.servers": self.brokers})
        admin.create_topics([topic])[TOPIC].result(60)
        port, theirs = multiprocessing.Pipe(False)
        self.receiver = Child(receive, theirs)
        self.webhooks = f"http://127.0.0.1:{port.recv()}/hook"

    def start_program(self):
        pipeline = self.folder / "pipeline"
        shutil.copytree(ROOT / "benches/pipeline", pipeline)
        text = (pipeline / "bench.yaml").read_text()
        for old, new in (("localhost:1", self.brokers), ('url: "https://crm.example/hook"', f'url: "{self.webhooks}", allow_private: true')):
            if old not in text:
                raise SystemExit(f"benches/pipeline/bench.yaml has no {old}")
            text = text.replace(old, new)
        text += f'\nwarehouse: {{ clickhouse: {{ url: "{self.clickhouse}", database: {DATABASE} }} }}\n'
        (pipeline / "bench.yaml").write_text(text)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIBUTARY_")}
        environment["TRIBUTARY_LISTEN"] = "127.0.0.1:0"
        if self.options.linger_ms is not None:
            environment["TRIBUTARY_LINGER_MS"] = str(self.options.linger_ms)
        self.log = open(self.folder / "program.log", "w")
        self.program = subprocess.Popen([self.options.binary, "-C", pipeline, "--data", self.folder / "state", "run"],
                                        env=environment, stdout=self.log, stderr=self.log)
        there = f"SELECT count() FROM system.tables WHERE database = '{DATABASE}' AND name = 'events'"
        if not self.within(60, lambda: self.ask(there) == "1"):
            raise SystemExit("the program has not made its tables within a minute")
        self.address = re.search(r"address=(\S+)", re.sub(r"\x1b\[[0-9;]*m", "", (self.folder / "program.log").read_text()))[1]
        self.poller = Child(poll, self.clickhouse, self.options.poll_ms / 1000)
        kafka, clickhouse = (int((self.folder / "servers" / f"{name}.pid").read_text()) for name in ("kafka", "clickhouse"))
        self.pids = {"tributary": [self.program.pid], "kafka": [kafka], "clickhouse": [clickhouse],
                     "this script": [os.getpid(), self.receiver.pid, self.poller.pid]}

    def down(self):
        for child in (self.receiver, self.poller):
            if child:
                child.stop()
        if self.program and self.program.poll() is None:
            self.program.send_signal(signal.SIGTERM)
            try:
                self.program.wait(60)
            except subprocess.TimeoutExpired:
                self.program.kill()
        subprocess.run([SERVERS, "stop" if self.options.keep else "down", self.folder / "servers"], stdout=subprocess.DEVNULL)
        if self.options.keep:
            say(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, sql):
        request = urllib.request.Request(f"{self.clickhouse}/?database={DATABASE if self.poller else 'default'}", sql.encode())
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read().decode().strip()

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=30) as answer:
            lines = (line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line and line[0] != "#")
            return {name: float(value) for name, value in lines}

    def within(self, seconds, true):
        until = time.monotonic() + seconds
        while not true():
            if self.program and self.program.poll() is not None:
                raise SystemExit(f"the program ended with {self.program.returncode}: {(self.folder / 'program.log').read_text()[-1000:]}")
            if shutil.disk_usage(self.folder).free < FREE_BYTES_MIN:
                raise SystemExit("too little room is left on the disk")
            if time.monotonic() > until:
                return False
            time.sleep(min(0.2, max(0, until - time.monotonic())))
        return True

    def usage(self):
        """CPU-seconds so far, by process and of the whole machine, and when."""
        return {**{name: sum(map(cpu_s, pids)) for name, pids in self.pids.items()}, "all": busy_s(), "at": time.monotonic()}

    def send(self, events, rate=None, start=0.0):
        producer = Child(send, self.brokers, events, rate, start)
        self.number += len(events)
        return producer

    def sent(self, producer):
        sent = producer.take(BACKLOG_S)
        producer.stop()
        if sent["failed"]:
            raise SystemExit(f"kafka: {sent['failed']}")
        self.valid += sent["valid"]
        return sent

    def introduce(self):
        """Everybody is heard of once, and a quarter of the backlog."""
        people, extra = self.options.people, self.options.backlog // 4
        say(f"sending {people} introductions and {extra} events")
        events = [self.workload.introduction(n, n) for n in range(people)]
        self.sent(self.send(events + [self.workload.event(n) for n in range(people, people + extra)]))
        started = time.monotonic()
        self.start_program()
        self.settle(BACKLOG_S)
        say(f"they are in the tables after {time.monotonic() - started:.0f} s")

    def settle(self, seconds):
        if not self.within(seconds, lambda: int(self.ask("SELECT count() FROM events")) >= self.valid):
            raise SystemExit(f"not all of {self.valid} rows were there within {seconds} s")

    def capacity(self):
        """Events per second of wall time from the log to visible rows, while they are sent as fast as it goes."""
        base, count = self.number, self.options.backlog
        events = [self.workload.event(n) for n in range(base, base + count)]
        commit, usage, started = int(self.ask("SELECT max(_batch) FROM events")), self.usage(), time.monotonic()
        self.sent(self.send(events))
        self.settle(BACKLOG_S)
        took, after = time.monotonic() - started, self.usage()
        batches = self.ask(f"SELECT round(count() / uniqExact(_batch)) FROM events WHERE _batch > {commit}")
        cpu = after["tributary"] - usage["tributary"]
        say(f"capacity: {count / took:.0f} events a second over {took:.0f} s, {batches} events a commit, {count / cpu:.0f} events per CPU-second of the program")
        return count / took

    def phase(self, rate):
        """Latencies at a rate, and what they come with."""
        options, base = self.options, self.number
        warm, count = int(options.warm * rate), int((options.warm + options.seconds) * rate)
        say(f"making {count} events")
        events = [self.workload.event(n) for n in range(base, base + count)]
        commit = int(self.ask("SELECT max(_batch) FROM events"))
        rows_before = int(self.ask("SELECT count() FROM events"))
        self.receiver.ask(), self.poller.ask()
        say(f"{rate:.0f} events a second for {options.warm} + {options.seconds} s")
        start = time.monotonic() + 2
        producer = self.send(events, rate, start)
        measured_from = start + options.warm
        self.within(measured_from - time.monotonic(), lambda: False)
        metrics, usage, own = self.metrics(), self.usage(), cpu_s(producer.pid)
        self.within(measured_from + options.seconds - time.monotonic(), lambda: False)
        usage_after, own_after, metrics_after = self.usage(), cpu_s(producer.pid), self.metrics()
        sent = self.sent(producer)
        self.settle(SETTLE_S)
        expected = sum(1 for n in range(warm, count) if not events[n].again and not events[n].broken and b"Support Requested" in events[n].head)
        del events
        time.sleep(2)  # the last deliveries
        deliveries, (seen, took) = self.receiver.ask(), self.poller.ask()

        def intended(number):
            return start + (number - base) / rate

        counted = range(base + warm, base + count)
        delivered = sorted(at - intended(number) for number, at in deliveries if number in counted)
        listed = self.ask(f"SELECT substring(message_id, 3), toUnixTimestamp64Milli(received_at) FROM events WHERE _batch > {commit} ORDER BY _batch, _seq")
        to_wall = time.time() - time.monotonic()
        answers = [rows for _, rows in seen]
        visible, logged = [], []
        for place, line in enumerate(listed.splitlines(), rows_before + 1):
            number, received_ms = map(int, line.split("\t"))
            if number in counted:
                logged.append(received_ms / 1000 - to_wall - intended(number))
                answer = bisect.bisect_left(answers, place)
                visible.append(seen[answer][0] - intended(number) if answer < len(seen) else math.inf)
        visible.sort(), logged.sort()
        wall = usage_after["at"] - usage["at"]
        share = {name: 100 * (usage_after[name] - usage[name]) / wall / os.cpu_count() for name in self.pids | {"all": 0}}
        share["this script"] += 100 * (own_after - own) / wall / os.cpu_count()
        others = max(0.0, share["all"] - sum(share[name] for name in self.pids))
        change = {name: metrics_after[name] - metrics.get(name, 0) for name in metrics_after}
        commits, events_a_commit = map(float, self.ask(
            f"SELECT uniqExact(_batch), count() / greatest(1, uniqExact(_batch)) FROM events WHERE _batch > {commit}").split("\t"))
        result = {
            "rate": rate, "events": len(visible), "behind": sent["behind"],
            "deliveries": (len(delivered), expected), "delivery": quantiles(delivered), "row": quantiles(visible), "log": quantiles(logged),
            "polls": (statistics.median(took), max(took)), "share": share, "others": others,
            "batches": (commits / (options.warm + options.seconds), events_a_commit),
            "steps": {step: spent(change, f"tributary_{step}_seconds") for step in ("apply", "commit", "ship")},
        }
        tell(result)
        return result


def quantiles(values):
    """Milliseconds: the median, 99 %, 99.9 %, the worst. `values` are seconds, sorted."""
    return [1000 * values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else math.nan for share in (0.5, 0.99, 0.999, 1)]


def spent(change, name):
    """Of a histogram: how many, the mean in milliseconds, and the bound that 99 % stay below."""
    count = change.get(f"{name}_count", 0)
    bounds = sorted((float(re.search(r'le="([^"]+)"', key)[1].replace("+Inf", "inf")), value) for key, value in change.items() if key.startswith(f"{name}_bucket"))
    below = next((bound for bound, value in bounds if value >= 0.99 * count), math.nan)
    return count, 1000 * change.get(f"{name}_sum", 0) / max(1, count), 1000 * below


def tell(r):
    show = lambda values: " ".join(f"{value:.0f}" for value in values)
    say(f"at {r['rate']:.0f}/s, ms (p50 p99 p99.9 worst): in the log {show(r['log'])}; delivered {show(r['delivery'])}; visible {show(r['row'])}; "
        f"{r['deliveries'][0]} of {r['deliveries'][1]} deliveries, {r['events']} rows; producer behind by {1000 * r['behind']:.0f} ms"
        f"; {r['batches'][0]:.0f} batches a second of {r['batches'][1]:.0f}; "
        + "; ".join(f"{step} {count:.0f} × {mean:.1f} ms, 99 % ≤ {below:.0f}" for step, (count, mean, below) in r["steps"].items())
        + f"; a poll {1000 * r['polls'][0]:.1f} ms, worst {1000 * r['polls'][1]:.0f}; % of the machine: "
        + ", ".join(f"{name} {share:.0f}" for name, share in r["share"].items()) + f", others {r['others']:.0f}")


def table(results):
    print("| load | events/s | delivered: p50 | p99 | p99.9 | worst | row visible: p50 | p99 | p99.9 | worst | in the log: p50 | p99 | events a commit | machine busy % | others % |")
    print("|---|" + "---:|" * 14)
    for name, runs in results.items():
        middle = lambda pick: statistics.median(map(pick, runs))
        cells = [middle(lambda r: r[what][n]) for what, places in (("delivery", 4), ("row", 4), ("log", 2)) for n in range(places)]
        cells += [middle(lambda r: r["batches"][1]), middle(lambda r: r["share"]["all"]), middle(lambda r: r["others"])]
        print(f"| {name} | {middle(lambda r: r['rate']):.0f} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |", flush=True)


def install():
    """confluent_kafka beside what tests/support/servers fetches."""
    home = CACHE / f"confluent-kafka-{CLIENT}-py{sys.version_info.major}.{sys.version_info.minor}"
    if not home.is_dir():
        part = home.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--root-user-action=ignore", "--disable-pip-version-check", "--no-deps", "--target", part,
                        f"confluent-kafka=={CLIENT}"], check=True)
        part.rename(home)
    sys.path.insert(0, str(home))


def main():
    numbers = lambda text: [float(part) for part in text.split(",") if part]
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=numbers, default=[70, 30], help="percent of the capacity, separated by commas")
    parser.add_argument("--rate", type=numbers, default=[5000], help="events per second, separated by commas")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--warm", type=int, default=20)
    parser.add_argument("--people", type=int, default=200_000)
    parser.add_argument("--backlog", type=int, default=400_000)
    parser.add_argument("--capacity", type=float, help="instead of the one that is measured")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--linger-ms", type=int)
    parser.add_argument("--poll-ms", type=int, default=20)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--binary", default="target/release/tributary")
    options = parser.parse_args()
    options.binary = Path(options.binary).resolve()
    if not options.binary.exists():
        raise SystemExit(f"{options.binary} does not exist: cargo build --release")
    install()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    bench = Bench(options)
    try:
        bench.up()
        bench.introduce()
        capacity = options.capacity or bench.capacity()
        loads = {f"{share:.0f} %": capacity * share / 100 for share in options.share} | {f"{rate:.0f}/s": rate for rate in options.rate}
        results = {name: [] for name in loads}
        for _ in range(options.runs):
            for name, rate in loads.items():
                results[name].append(bench.phase(rate))
        print(f"Capacity: {capacity:.0f} events a second; {options.people} people. Milliseconds; medians of {options.runs}.\n")
        table(results)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        bench.down()


if __name__ == "__main__":
    main()
