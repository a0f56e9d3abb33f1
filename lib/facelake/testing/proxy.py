"""A store on a bad day: an HTTP proxy before a real S3 server that errs, dawdles, cuts, and loses replies.

Requests pass unchanged (their signature covers the host that the client spoke to). Which requests suffer is drawn from
a seed; what was done to them is counted.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("error", "busy", "slow", "cut", "half", "lost")
"""500; 503 SlowDown; an answer after a second; the connection closed before the request is passed on; closed in the
middle of a reply; closed after the request was carried out"""
_WRITES = ("PUT", "POST", "DELETE")
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"
_ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>we erred</Message></Error>"
ASKED = "/-/asked"
"""a path that is answered by the proxy itself: what was asked of it so far, as JSON"""
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


class BadDay:
    """Says what befalls the next request, and remembers."""

    def __init__(self, kinds: Sequence[str], share: float, seed: int) -> None:
        self.kinds, self.share = tuple(kinds), share
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self.asked: Counter[str] = Counter()
        """requests by kind: GET, HEAD, PUT, POST, DELETE, LIST (a GET of a bucket), and lease for all of the lease's"""
        self.sent_bytes = self.got_bytes = 0
        """bodies of replies to clients, and of requests from them"""
        self._random, self._lock = random.Random(seed), threading.Lock()

    def next(self, method: str) -> str:
        """A fault's name, or an empty text."""
        with self._lock:
            self.requests += 1
            kind = self._random.choice(self.kinds) if self._random.random() < self.share else ""
            if kind == "lost" and method not in _WRITES:
                kind = ""
            if kind:
                self.injected[kind] += 1
            return kind

    def note(self, method: str, path: str, sent: int, got: int) -> None:
        """Count a request that is answered."""
        key, _, query = path.partition("?")
        kind = "LIST" if method == "GET" and ("list-type=" in query or "prefix=" in query) else method
        kind = "lease" if key.endswith("/lease.json") else kind  # renewed by the clock, not by the work
        with self._lock:
            self.asked[kind] += 1
            self.sent_bytes += sent
            self.got_bytes += got

    def counted(self) -> dict[str, int]:
        """Requests answered, by kind, and bytes read from and written to the store."""
        with self._lock:
            return dict(self.asked) | {"read_bytes": self.sent_bytes, "written_bytes": self.got_bytes}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = ""
    day: BadDay

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        link = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                    link.putheader(key, value)
            link.putheader("Content-Length", str(len(body)))
            link.endheaders(body)
            reply = link.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            link.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = next((v for k, v in headers if k.lower() == "content-length"), "0")
        for key, value in headers:
            if key.lower() not in _HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def _serve(self) -> None:
        if self.path == ASKED:
            said = json.dumps(self.day.counted()).encode()
            self._answer(200, [("Content-Type", "application/json")], said)
            return
        body, fault = self._body(), self.day.next(self.command)
        if fault == "slow":
            time.sleep(1.0)
        if fault in ("error", "busy"):
            text = _ERROR if fault == "error" else _BUSY
            self._answer(500 if fault == "error" else 503, [("Content-Type", "application/xml")], text)
            return
        if fault == "cut":
            self.close_connection = True
            return
        status, headers, found = self._pass_on(body)
        self.day.note(self.command, self.path, len(found), len(body))
        if fault == "lost":
            self.close_connection = True
            return
        self._answer(status, headers, found, cut=fault == "half")
        if fault == "half":
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


@contextmanager
def bad_day(
    endpoint: str, kinds: Sequence[str] = FAULTS, share: float = 0.2, seed: int = 0, address: str = "127.0.0.1"
) -> Iterator[tuple[str, BadDay]]:
    """A proxy before the store at `endpoint`; its own endpoint, and what it does."""
    day = BadDay(kinds, share, seed)
    handler = type("Handler", (_Handler,), {"upstream": urlsplit(endpoint).netloc, "day": day})
    with _Server((address, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}", day
        finally:
            server.shutdown()
            thread.join()
