#!/usr/bin/env python3
"""ClickHouse's HTTP interface, as far as the tests need it, with switches for faults.

    clickhouse_server.py PORT DIR                    in front of the engine of `chdb-core`, data in DIR
    clickhouse_server.py PORT DIR --upstream URL     in front of a real server, only adding the switches

POST /_fault {"mode": ..., "count": N, "ms": T} for the next N inserts (1 when left out, -1: until changed):
    error            answer 503, or the "status" that is given, and insert nothing
    cut              close the connection without an answer, insert nothing
    commit_then_cut  insert, then close the connection without an answer
    slow             wait T ms, then insert
    none             all well again
GET /_fault          the switch, and how many inserts came, and how many were done

A request has an engine session of its own, which `SET`s what the URL says; so requests run side by side
and settings do not leak from one to the next.
"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

# Parameters of the HTTP interface itself, not settings of the query. Users and roles are not checked.
NOT_SETTINGS = {
    "query", "query_id", "database", "default_format", "user", "password", "role", "compress", "decompress",
    "wait_end_of_query", "buffer_size", "quota_key", "stacktrace", "client_protocol_version", "http_write_exception_in_output_format",
}

# Exception codes that ClickHouse answers with something other than 500.
STATUS = {
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441, 675, 676), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404),
    **dict.fromkeys((76, 209, 439), 503),
    48: 501, 159: 408, 194: 401, 192: 403, 193: 403, 497: 403, 512: 403, 516: 403, 229: 413, 381: 411, 779: 415,
}

SYNTAX_ERROR, NOT_IMPLEMENTED, BAD_ARGUMENTS = 62, 48, 36


class EngineError(Exception):
    """A ClickHouse exception: its code, and its text as the server would put it in the body."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code

    @staticmethod
    def of(code, name, message):
        return EngineError(code, f"Code: {code}. DB::Exception: {message}. ({name})")


class Cut(Exception):
    """Close the connection without an answer."""


# --- SQL, as little as is needed: where the words outside of quotes, comments and brackets are ---

TOKEN = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|\#[! ][^\n]*|/\*.*?\*/
        |'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
      |(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<end>;)|.""",
    re.S | re.X,
)


def words(sql):
    """(WORD, start, end) of every bare word, and of `;`, outside of brackets."""
    depth = 0
    for m in TOKEN.finditer(sql):
        if m["open"]:
            depth += 1
        elif m["close"]:
            depth = max(0, depth - 1)
        elif depth == 0 and (m["word"] or m["end"]):
            yield m[0].upper(), m.start(), m.end()


def is_insert(sql):
    return next((w for w, _, _ in words(sql)), "") == "INSERT"


def split_insert(sql):
    """(statement up to where FROM INFILE belongs, its SETTINGS, format, where inline data starts in `sql`), or None
    when the rows do not come from outside: INSERT ... SELECT."""
    settings_at, seen_into = None, False
    for word, start, end in words(sql):
        if word == "INTO":
            seen_into = True
        elif not seen_into:
            continue
        elif word in ("SELECT", "WITH", "WATCH", "FROM"):
            return None
        elif word == "SETTINGS" and settings_at is None:
            settings_at = start
        elif word in ("FORMAT", "VALUES"):
            name, data_at = "Values", end
            if word == "FORMAT":
                m = re.compile(r"\s*(\w+)[ \t]*;?\n?").match(sql, end)
                if not m:
                    raise EngineError.of(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error: FORMAT needs a name")
                name, data_at = m[1], m.end()
            head = sql[: settings_at or start]
            return head, sql[settings_at:start] if settings_at else "", name, data_at
    head = sql[:settings_at].rstrip().rstrip(";") if settings_at else sql.rstrip().rstrip(";")
    return head, sql[settings_at:] if settings_at else "", "Values", len(sql)


def one_statement(sql):
    """Without what follows a final `;`. The engine would run several; the server takes one."""
    ended = None
    for word, start, end in words(sql):
        if ended is not None:
            raise EngineError.of(SYNTAX_ERROR, "SYNTAX_ERROR", f"Syntax error (Multi-statements are not allowed): failed at position {ended + 1} (;)")
        if word == ";":
            ended = start
    return sql[:ended] if ended is not None else sql


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- who answers ---


class Request:
    def __init__(self, method, target, headers, body, body_path):
        self.method, self.target, self.headers = method, target, headers
        self.body, self.body_path = body, body_path  # one of the two: memory, or a file when `query` is in the URL
        self.url = parse_qsl(urlsplit(target).query, keep_blank_values=True)
        kind = headers.get("Content-Type", "")
        form = kind.startswith("multipart/form-data") and body is not None
        if form:  # how the client sends a statement with parameters
            self.url += multipart(kind, body).items()
        self.fields = dict(self.url)
        self.query_id = self.fields.get("query_id") or str(uuid.uuid4())
        self.sql = self.fields.get("query", "")
        self.insert = is_insert(self.sql)
        if body_path and not self.insert:
            with open(body_path, "rb") as f:
                body = f.read()
        if body and not form:
            # The statement goes on in the body; data behind an INSERT need not be UTF-8.
            self.sql += ("\n" if self.sql else "") + body.decode("utf-8", "surrogateescape")
            self.insert = is_insert(self.sql)


def multipart(kind, body):
    m = re.search(r'boundary="?([^";]+)"?', kind)
    if not m:
        raise EngineError.of(BAD_ARGUMENTS, "BAD_ARGUMENTS", "multipart body without a boundary")
    form = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + m[1].encode())[1:-1]:
        head, _, value = part.lstrip(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if not name or b"filename=" in head:
            raise EngineError.of(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "this test server takes no external tables")
        form[name[1].decode()] = value.decode()
    return form


class Engine:
    """The engine inside this process."""

    def __init__(self, dir):
        from chdb import session  # here, so that --upstream needs no chdb

        self.open = lambda: session.Session(self.path)
        self.path, self.bodies = os.path.join(dir, "data"), os.path.join(dir, "bodies")
        # Bodies of requests that a kill cut off.
        shutil.rmtree(self.bodies, ignore_errors=True)
        os.makedirs(self.bodies)
        # The engine lives as long as one session is open.
        self.main = self.open()
        self.version = self.main.query("SELECT version()", "TSV").bytes().decode().strip()

    def refuse_compression(self, r):
        encoding = r.headers.get("Content-Encoding", "identity")
        if r.fields.get("decompress") == "1" or r.fields.get("compress") == "1" or encoding != "identity":
            raise EngineError.of(
                NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "this test server speaks no compression: switch the client's off (Compression::None)"
            )
        if "session_id" in r.fields:
            raise EngineError.of(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "this test server has no HTTP sessions: leave out session_id")

    def run(self, r):
        started = time.monotonic()
        session = self.open()
        try:
            self.refuse_compression(r)
            database = r.fields.get("database") or r.headers.get("X-ClickHouse-Database")
            if database:
                session.query(f"USE `{database}`")
            params = {}
            for name, value in r.url:
                if name.startswith("param_"):
                    params[name[len("param_"):]] = value
                elif name not in NOT_SETTINGS:
                    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
                        raise EngineError.of(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")
                    session.query(f"SET {name} = {quoted(value)}")
            insert = split_insert(r.sql) if r.insert else None
            if insert:
                result = self.insert(session, r, insert, params)
            else:
                sql = one_statement(r.sql)
                if not sql.strip():
                    raise EngineError.of(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error: Empty query")
                result = session.query(sql, r.fields.get("default_format") or "TabSeparated", params=params)
            summary = {
                "read_rows": result.rows_read(), "read_bytes": result.bytes_read(),
                "written_rows": result.rows_written(), "written_bytes": result.bytes_written(),
                "elapsed_ns": int((time.monotonic() - started) * 1e9),
            }
            return 200, {"X-ClickHouse-Summary": json.dumps({k: str(v) for k, v in summary.items()})}, result.bytes()
        except (EngineError, RuntimeError, ValueError) as e:
            return self.failed(e)
        except Exception as e:  # chdb's own class, which can only be imported with chdb
            if type(e).__name__ != "ChdbError":
                raise
            return self.failed(e)
        finally:
            session.close()

    def insert(self, session, r, insert, params):
        head, settings, format, data_at = insert
        path = r.body_path
        inline = r.sql[data_at:].encode("utf-8", "surrogateescape")
        if path is None:
            path = os.path.join(self.bodies, uuid.uuid4().hex)
            with open(path, "wb") as f:
                f.write(inline)
        elif inline.strip():
            raise EngineError.of(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "data both behind the statement in the URL and in the body")
        try:
            return session.query(f"{head} FROM INFILE {quoted(path)} COMPRESSION 'none' {settings} FORMAT {format}", "TabSeparated", params=params)
        finally:
            os.unlink(path)

    def failed(self, e):
        text = str(e).strip()
        m = re.match(r"Code: (\d+)", text)
        code = int(m[1]) if m else 1000
        if not m:
            text = f"Code: 1000. DB::Exception: {text}. (POCO_EXCEPTION)"
        return STATUS.get(code, 500), {"X-ClickHouse-Exception-Code": str(code)}, f"{text} (version {self.version} (official build))\n".encode()

    def close(self):
        self.main.close()


class Upstream:
    """A real server; requests pass through whole."""

    def __init__(self, dir, url):
        self.at = urlsplit(url).netloc
        self.bodies = os.path.join(dir, "bodies")
        shutil.rmtree(self.bodies, ignore_errors=True)
        os.makedirs(self.bodies)

    def run(self, r):
        body = r.body
        if r.body_path:
            with open(r.body_path, "rb") as f:
                body = f.read()
            os.unlink(r.body_path)
        hop = ("host", "connection", "transfer-encoding", "content-length", "expect", "keep-alive")
        c = http.client.HTTPConnection(self.at, timeout=300)
        try:
            c.request(r.method, r.target, body=body, headers={k: v for k, v in r.headers.items() if k.lower() not in hop})
            answer = c.getresponse()
            return answer.status, {k: v for k, v in answer.getheaders() if k.lower() not in hop}, answer.read()
        except (OSError, http.client.HTTPException):
            raise Cut  # as the server itself would be: gone
        finally:
            c.close()

    def close(self):
        pass


class Faults:
    MODES = ("none", "error", "cut", "commit_then_cut", "slow")

    def __init__(self):
        self.lock = threading.Lock()
        self.state = {"mode": "none", "count": 0, "ms": 0, "status": 503}
        self.inserts = self.done = 0

    def set(self, body):
        mode, count, ms, status = body.get("mode"), body.get("count", 1), body.get("ms", 0), body.get("status", 503)
        if mode not in self.MODES or not all(isinstance(n, int) for n in (count, ms, status)):
            raise ValueError(f"mode is one of {', '.join(self.MODES)}; count, ms and status are numbers")
        with self.lock:
            self.state = {"mode": mode, "count": 0 if mode == "none" else count, "ms": ms, "status": status}

    def shown(self):
        with self.lock:
            return {**self.state, "inserts": self.inserts, "done": self.done}

    def take(self):
        with self.lock:
            self.inserts += 1
            now = self.state
            if now["mode"] != "none" and now["count"] != 0:
                left = now["count"] - (now["count"] > 0)
                self.state = {**now, "count": left} if left else {"mode": "none", "count": 0, "ms": 0, "status": 503}
                return now
            return {"mode": "none"}

    def did(self):
        with self.lock:
            self.done += 1


# --- HTTP ---


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer leave together
    backend = None
    faults = Faults()
    running = 0
    running_lock = threading.Lock()

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == "/_fault":
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(self.faults.shown()).encode())
        elif path in ("/ping", "/") and "query=" not in self.path:
            self.answer(200, {}, b"Ok.\n")
        else:
            self.query()

    def do_POST(self):
        if urlsplit(self.path).path != "/_fault":
            return self.query()
        try:
            self.faults.set(json.loads(b"".join(self.chunks())))
        except ValueError as e:
            return self.answer(400, {}, f"{e}\n".encode())
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(self.faults.shown()).encode())

    do_PUT = do_POST

    def chunks(self):
        """The body, piece by piece. A body that ends early raises: nothing of it may be inserted."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while True:
                size = int(self.rfile.readline(64).split(b";")[0].strip(), 16)  # an empty line raises ValueError
                if size:
                    yield self.exactly(size)
                if self.rfile.readline(64) not in (b"\r\n", b"\n"):
                    raise Cut
                if not size:
                    return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.exactly(min(left, 1 << 20))
            left -= len(piece)
            yield piece

    def exactly(self, size):
        piece = self.rfile.read(size)
        if len(piece) < size:
            raise Cut
        return piece

    def body(self):
        """In memory, or in a file when the statement is in the URL, because then it is data."""
        if not re.search(r"[?&]query=", self.path):
            return b"".join(self.chunks()), None
        fd, path = tempfile.mkstemp(dir=self.backend.bodies)
        size = 0
        try:
            with os.fdopen(fd, "wb") as f:
                for piece in self.chunks():
                    size += f.write(piece)
        except BaseException:
            os.unlink(path)
            raise
        if "multipart/form-data" in self.headers.get("Content-Type", "") or size == 0:
            with open(path, "rb") as f:
                whole = f.read()
            os.unlink(path)
            return whole, None
        return None, path

    def query(self):
        started = time.monotonic()
        try:
            body, path = self.body()
        except (Cut, ValueError, OSError):
            self.close_connection = True
            return self.log_message("%s", "the client left in the middle of a body; nothing done")
        status, r = 0, None
        with self.running_lock:
            Handler.running += 1
        try:
            r = Request(self.command, self.path, self.headers, body, path)
            path = None if r.insert else path
            status, headers, out = self.inserted(r) if r.insert else self.backend.run(r)
        except EngineError as e:
            status, headers, out = STATUS.get(e.code, 500), {"X-ClickHouse-Exception-Code": str(e.code)}, f"{e}\n".encode()
        except Cut:
            return self.cut()
        finally:
            if path and os.path.exists(path):
                os.unlink(path)
            with self.running_lock:
                Handler.running -= 1
            if r is not None:
                ms = (time.monotonic() - started) * 1000
                self.log_message("%s", f"{status} {ms:.1f} ms {r.query_id} {r.fields.get('insert_deduplication_token', '-')} {' '.join(r.sql[:300].split())!a}")
        if isinstance(self.backend, Engine):
            headers = {"X-ClickHouse-Query-Id": r.query_id if r else "", "X-ClickHouse-Server-Display-Name": "test", "X-ClickHouse-Timezone": time.tzname[0], **headers}
        self.answer(status, headers, out)

    def inserted(self, r):
        fault = self.faults.take()
        mode = fault["mode"]
        try:
            if mode == "error":
                return fault["status"], {}, b"unavailable (fault switch)\n"
            if mode == "cut":
                raise Cut
            if mode == "slow":
                time.sleep(fault["ms"] / 1000)
            answer = self.backend.run(r)
            if answer[0] == 200:
                self.faults.did()
            if mode == "commit_then_cut":
                raise Cut
            return answer
        finally:
            if r.body_path and os.path.exists(r.body_path):
                os.unlink(r.body_path)

    def answer(self, status, headers, out):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(k.lower() == "content-type" for k in headers):
            self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def cut(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def log_request(self, code="-", size="-"):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # A client that closes early is daily business.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def main():
    port, dir = int(sys.argv[1]), os.path.abspath(sys.argv[2])
    os.makedirs(dir, exist_ok=True)
    Handler.backend = Upstream(dir, sys.argv[4]) if sys.argv[3:4] == ["--upstream"] else Engine(dir)
    server = Server(("127.0.0.1", port), Handler)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop.wait()
    # A real server, too, lets running queries finish for a while.
    server.shutdown()
    server.server_close()
    until = time.monotonic() + 5
    while Handler.running and time.monotonic() < until:
        time.sleep(0.02)
    Handler.backend.close()
    os._exit(0)  # threads of idle connections would keep the process


if __name__ == "__main__":
    main()
