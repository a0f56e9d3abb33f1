"""A faulty object store: an HTTP proxy before a real S3 server that errs, delays, cuts connections and loses replies.

Which requests suffer is drawn from a seed; the injected faults are counted.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from facelake.bench.counting_proxy import ProxyHandler, RequestCounter, serve_proxy

FAULTS = ("error", "busy", "slow", "cut", "half", "lost")
"""500; 503 SlowDown; an answer after a second; the connection closed before the request is forwarded; closed in the
middle of a reply; closed after the request was carried out."""
_WRITES = ("PUT", "POST", "DELETE")
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"
_ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>we erred</Message></Error>"


class FaultInjector:
    """Draws the fault of the next request, and counts what was injected. Thread-safe."""

    def __init__(self, kinds: Sequence[str], share: float, seed: int) -> None:
        self.kinds, self.share = tuple(kinds), share
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self._random, self._lock = random.Random(seed), threading.Lock()

    def next(self, method: str) -> str:
        """Return the name of a fault, or an empty text for none."""
        with self._lock:
            self.requests += 1
            kind = self._random.choice(self.kinds) if self._random.random() < self.share else ""
            if kind == "lost" and method not in _WRITES:
                kind = ""
            if kind:
                self.injected[kind] += 1
            return kind


class _FaultyHandler(ProxyHandler):
    injector: FaultInjector

    def serve(self) -> None:
        body, fault = self.read_body(), self.injector.next(self.command)
        if fault == "slow":
            time.sleep(1.0)
        if fault in ("error", "busy"):
            text = _ERROR if fault == "error" else _BUSY
            self.answer(500 if fault == "error" else 503, [("Content-Type", "application/xml")], text)
            return
        if fault == "cut":
            self.close_connection = True
            return
        status, headers, reply = self.forward(body)
        if fault == "lost":
            self.close_connection = True
            return
        self.answer(status, headers, reply, send_bytes=len(reply) // 2 if fault == "half" else None)
        if fault == "half":
            self.close_connection = True


@contextmanager
def fault_proxy(
    endpoint: str, kinds: Sequence[str] = FAULTS, share: float = 0.2, *, seed: int = 0, address: str = "127.0.0.1"
) -> Iterator[tuple[str, FaultInjector]]:
    """Serve a faulty proxy before the store at `endpoint`; yields its endpoint URL and its fault injector."""
    injector = FaultInjector(kinds, share, seed)
    attributes = {"upstream": urlsplit(endpoint).netloc, "injector": injector, "counter": RequestCounter()}
    with serve_proxy(type("Handler", (_FaultyHandler,), attributes), address) as own_endpoint:
        yield own_endpoint, injector
