"""An HTTP proxy in front of an S3 server that counts requests and bytes.

Requests pass unchanged, so their signatures stay valid: a signature covers the host that the client addressed.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COUNTS_PATH = "/-/counts"
"""Answered by the proxy itself: the counts so far, as JSON."""
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}
_NOT_FORWARDED = {"connection", "transfer-encoding", "content-length", "expect"}
_UPSTREAM_TIMEOUT_S = 60


class RequestCounter:
    """Counts of requests by kind and of bytes in both directions. Thread-safe."""

    def __init__(self) -> None:
        self._by_kind: Counter[str] = Counter()
        self._read_bytes = self._written_bytes = 0
        self._lock = threading.Lock()

    def add(self, method: str, path: str, *, reply_bytes: int, body_bytes: int) -> None:
        """Count one answered request.

        Kinds are GET, HEAD, PUT, POST, DELETE, LIST (a GET of a bucket), and `lease` for all requests for the lease.
        """
        key, _, query = path.partition("?")
        kind = "LIST" if method == "GET" and ("list-type=" in query or "prefix=" in query) else method
        if key.endswith("/lease.json"):
            kind = "lease"  # renewed by the clock, so it says nothing about the work
        with self._lock:
            self._by_kind[kind] += 1
            self._read_bytes += reply_bytes
            self._written_bytes += body_bytes

    def counts(self) -> dict[str, int]:
        """Return requests by kind, `read_bytes` (bodies of replies) and `written_bytes` (bodies of requests)."""
        with self._lock:
            return dict(self._by_kind) | {"read_bytes": self._read_bytes, "written_bytes": self._written_bytes}


class ProxyHandler(BaseHTTPRequestHandler):
    """Forwards each request to `upstream` and counts it in `counter`; subclasses may intervene in `serve`."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    counter: RequestCounter

    def log_message(self, format: str, *args: object) -> None:
        """Write no access log."""

    def read_body(self) -> bytes:
        """Read the request's body, chunked or of known length."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send the request to the upstream server, count it, and return status, headers and body of the reply."""
        connection = http.client.HTTPConnection(self.upstream, timeout=_UPSTREAM_TIMEOUT_S)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key.lower() not in _NOT_FORWARDED:
                    connection.putheader(key, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            status, headers, reply = response.status, response.getheaders(), response.read()
        finally:
            connection.close()
        self.counter.add(self.command, self.path, reply_bytes=len(reply), body_bytes=len(body))
        return status, headers, reply

    def answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, send_bytes: int | None = None
    ) -> None:
        """Send a reply; `send_bytes` truncates the body while the headers still promise all of it."""
        self.send_response_only(status)
        length = next((value for key, value in headers if key.lower() == "content-length"), "0")
        for key, value in headers:
            if key.lower() not in _HOP_BY_HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        self.wfile.write(body if send_bytes is None else body[:send_bytes])

    def serve(self) -> None:
        """Answer one request."""
        self.answer(*self.forward(self.read_body()))

    def _dispatch(self) -> None:
        if self.path == COUNTS_PATH:
            body = json.dumps(self.counter.counts()).encode()
            self.answer(200, [("Content-Type", "application/json")], body)
        else:
            self.serve()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _dispatch


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close their connection early."""


@contextmanager
def serve_proxy(handler: type[ProxyHandler], address: str = "127.0.0.1") -> Iterator[str]:
    """Serve a handler class on a free port of `address`; yields the proxy's endpoint URL."""
    with _Server((address, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def counting_proxy(endpoint: str) -> Iterator[str]:
    """Serve a proxy in front of the S3 server at `endpoint` (http://host:port); yields the proxy's endpoint URL."""
    attributes = {"upstream": urlsplit(endpoint).netloc, "counter": RequestCounter()}
    with serve_proxy(type("Handler", (ProxyHandler,), attributes)) as own_endpoint:
        yield own_endpoint
