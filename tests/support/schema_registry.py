#!/usr/bin/env python3
"""A stub of the Confluent schema registry's calls that a consumer and a test need.

    schema_registry.py PORT STATE_FILE

POST /subjects/{s}/versions   register; the same schema has one id, whatever the subject
POST /subjects/{s}            look a schema up under its subject
GET  /subjects, /subjects/{s}/versions, /subjects/{s}/versions/{n|latest}, /schemas/ids/{id}
POST /_fault                  {"mode": "down" | "none", "count": N}: 503 to the next N calls (all, when left out)

It checks no compatibility and knows no references.
"""
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Refused(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


class Registry:
    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.schemas = []  # id - 1 -> {"schema", "schemaType"}
        self.subjects = {}  # subject -> list of ids; the version is the place + 1
        self.calls = 0
        if os.path.exists(path):
            with open(path) as f:
                kept = json.load(f)
            self.schemas, self.subjects = kept["schemas"], kept["subjects"]

    def save(self):
        # Written beside and renamed: a kill in the middle leaves the old state, not half of the new.
        with open(self.path + ".new", "w") as f:
            json.dump({"schemas": self.schemas, "subjects": self.subjects}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(self.path + ".new", self.path)

    def parse(self, body):
        kind = body.get("schemaType") or "AVRO"
        text = body.get("schema")
        if not isinstance(text, str):
            raise Refused(422, 42201, "Empty schema")
        if kind in ("AVRO", "JSON"):
            try:
                text = json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
            except ValueError as e:
                # A bare type name is a valid Avro schema to the registry, but not JSON.
                if not (kind == "AVRO" and text.isidentifier()):
                    raise Refused(422, 42201, f"Invalid schema: {e}")
                text = json.dumps(text)
        return {"schema": text, "schemaType": kind}

    def register(self, subject, body):
        schema = self.parse(body)
        if schema not in self.schemas:
            self.schemas.append(schema)
        id = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(subject, [])
        if id not in versions:
            versions.append(id)
            self.save()
        return {"id": id}

    def versions(self, subject):
        if subject not in self.subjects:
            raise Refused(404, 40401, f"Subject '{subject}' not found.")
        return self.subjects[subject]

    def version(self, subject, which):
        versions = self.versions(subject)
        if which in ("latest", "-1"):
            n = len(versions)
        elif which.isdigit() and 1 <= int(which) <= len(versions):
            n = int(which)
        else:
            raise Refused(404, 40402, f"Version {which} not found.")
        return self.shown(subject, n)

    def lookup(self, subject, body):
        versions, schema = self.versions(subject), self.parse(body)
        if schema in self.schemas and self.schemas.index(schema) + 1 in versions:
            return self.shown(subject, versions.index(self.schemas.index(schema) + 1) + 1)
        raise Refused(404, 40403, "Schema not found")

    def shown(self, subject, n):
        id = self.subjects[subject][n - 1]
        return {"subject": subject, "version": n, "id": id, **self.spelled(id)}

    def spelled(self, id):
        schema = self.schemas[id - 1]
        return {"schema": schema["schema"]} if schema["schemaType"] == "AVRO" else dict(schema)

    def by_id(self, id):
        if not (id.isdigit() and 1 <= int(id) <= len(self.schemas)):
            raise Refused(404, 40403, f"Schema {id} not found")
        return self.spelled(int(id))

    def answer(self, method, path, body):
        if method == "GET" and path == ["subjects"]:
            return sorted(self.subjects)
        if method == "GET" and path[:2] == ["schemas", "ids"] and len(path) == 3:
            return self.by_id(path[2])
        if path[:1] == ["subjects"] and len(path) >= 2:
            subject, rest = path[1], path[2:]
            if method == "POST" and rest == []:
                return self.lookup(subject, body)
            if method == "POST" and rest == ["versions"]:
                return self.register(subject, body)
            if method == "GET" and rest == ["versions"]:
                return list(range(1, len(self.versions(subject)) + 1))
            if method == "GET" and len(rest) == 2 and rest[0] == "versions":
                return self.version(subject, rest[1])
        if method == "GET" and path == []:
            return {}
        raise Refused(404, 404, "HTTP 404 Not Found")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry = None
    fault = {"mode": "none", "count": -1}

    def handle_any(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = [unquote(p) for p in urlsplit(self.path).path.split("/") if p]
        with self.registry.lock:
            try:
                try:
                    body = json.loads(raw) if raw else {}
                except ValueError:
                    body = None
                if not isinstance(body, dict):
                    raise Refused(400, 400, "the body is not a JSON object")
                status, answer = 200, self.control(body) if path == ["_fault"] else self.served(path, body)
            except Refused as e:
                status, answer = e.status, {"error_code": e.code, "message": str(e)}
        out = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def served(self, path, body):
        self.registry.calls += 1
        if self.fault["mode"] == "down" and self.fault["count"] != 0:
            self.fault["count"] -= self.fault["count"] > 0
            raise Refused(503, 50301, "down (fault switch)")
        return self.registry.answer(self.command, path, body)

    def control(self, body):
        if self.command == "POST":
            mode, count = body.get("mode"), body.get("count", -1)
            if mode not in ("none", "down") or not isinstance(count, int):
                raise Refused(400, 400, "mode is one of none, down; count is a number")
            self.fault.update(mode=mode, count=count)
        return {**self.fault, "calls": self.registry.calls}

    def log_request(self, code="-", size="-"):
        self.log_message('"%s" %s', self.requestline, code)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    port, state = int(sys.argv[1]), sys.argv[2]
    Handler.registry = Registry(state)
    server = Server(("127.0.0.1", port), Handler)
    # State is on disk after every change, so there is nothing to wait for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main()
