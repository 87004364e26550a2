#!/usr/bin/env python3
"""A mail server for the tests: aiosmtpd, which also says no.

    smtp_server.py PORT TLS_PORT FOLDER

PORT takes mail as it comes. TLS_PORT wants STARTTLS (FOLDER/ca.pem is its authority) and the user `shop` with `open sesame`.
Every message that arrives is a line of FOLDER/messages.ndjson, as Python's own parser of mail reads it. What happens to one
follows from the name before the @ of who it is to:

    grey…      451 to the first RCPT of this address, then taken
    unknown…   550 to RCPT
    full…      452 to the message
    spam…      554 to the message
    cut…       the message arrives, and the connection is cut before the answer
    bye…       taken, and the connection is closed after the answer
    slow…      taken, and answered after 20 milliseconds
"""
import asyncio
import email
import email.policy
import json
import os
import signal
import ssl
import subprocess
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


class Handler:
    def __init__(self, path):
        self.path, self.lock, self.greylisted = path, threading.Lock(), set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("unknown"):
            return "550 5.1.1 no such user here"
        if address.startswith("grey") and address not in self.greylisted:
            self.greylisted.add(address)
            return "451 4.7.1 greylisted, try again in a minute"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        to = envelope.rcpt_tos[0]
        if to.startswith("full"):
            return "452 4.2.2 mailbox full"
        if to.startswith("spam"):
            return "554 5.7.1 this looks like spam"
        with self.lock, open(self.path, "a") as f:
            f.write(json.dumps(told(session, envelope)) + "\n")
        if to.startswith("slow"):
            await asyncio.sleep(0.02)
        if to.startswith("cut"):
            server.transport.abort()
        if to.startswith("bye"):
            server.loop.call_later(0.05, server.transport.close)
        return "250 OK queued"


def told(session, envelope):
    raw = envelope.content
    message = email.message_from_bytes(raw, policy=email.policy.default)
    parts = [part for part in message.walk() if not part.is_multipart()]
    return {
        "from": envelope.mail_from,
        "to": envelope.rcpt_tos,
        "hello": session.host_name,
        "signed_in": session.authenticated,
        "encrypted": session.ssl is not None,
        "type": message.get_content_type(),
        "headers": [[name, str(value)] for name, value in message.items()],
        "addresses": {
            name: [[a.display_name, a.addr_spec] for a in message[name].addresses] for name in ("From", "To", "Reply-To") if message[name]
        },
        "date": message["Date"].datetime.timestamp() if message["Date"] else None,
        "parts": [{"type": part.get_content_type(), "text": part.get_content()} for part in parts],
        "defects": [repr(d) for part in message.walk() for d in part.defects]
        + [repr(d) for value in message.values() for d in getattr(value, "defects", [])],
        "ascii": raw.isascii(),
        "longest_line": max(len(line) for line in raw.split(b"\r\n")),
        "bare_line_ends": raw.replace(b"\r\n", b"").count(b"\n") + raw.replace(b"\r\n", b"").count(b"\r"),
        "raw": raw.decode("ascii", "replace"),
    }


def certificate(folder):
    """An authority, and a certificate of it for localhost and 127.0.0.1."""
    at = lambda name: os.path.join(folder, name)

    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-days", "30", "-subj", "/CN=test authority")
    openssl("req", *key, "-keyout", at("server.key"), "-out", at("server.csr"), "-subj", "/CN=localhost")
    with open(at("names"), "w") as f:
        f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", at("server.csr"), "-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial",
            "-out", at("server.pem"), "-days", "30", "-extfile", at("names"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(at("server.pem"), at("server.key"))
    return context


def sign_in(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"shop", b"open sesame")
    return AuthResult(success=good, handled=good)


def main(port, tls_port, folder):
    os.makedirs(folder, exist_ok=True)
    handler = Handler(os.path.join(folder, "messages.ndjson"))
    plain = Controller(handler, hostname="127.0.0.1", port=port, enable_SMTPUTF8=False)
    tls = Controller(
        handler, hostname="127.0.0.1", port=tls_port, tls_context=certificate(folder), require_starttls=True,
        authenticator=sign_in, auth_required=True, auth_require_tls=True, enable_SMTPUTF8=True,
    )
    tls.start()
    plain.start()
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    done.wait()
    plain.stop()
    tls.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
