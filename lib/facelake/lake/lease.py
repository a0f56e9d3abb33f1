"""One writer at a time: a lease object that is created, renewed and taken over by conditional writes.

The lease of a process that ended on this host (same boot, no such process) is taken over at once. The lease of another
host is taken over when it and the time for clock skew have expired and it was then not renewed for half of its time to
live (`takeover_s`): so a running holder keeps its lease even if the clocks of the two hosts differ.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from facelake.errors import FacelakeError, Refused
from facelake.lake.object_store import ObjectStore

KEY = "lease.json"
TTL_S = 60.0
_LONGEST_TTL_S = 3600.0
_MOST_AHEAD_S = 86400.0  # by which a running host's clock may be ahead before its lease is taken for damaged
_SKEW_S = 30.0  # by how much the clocks of two hosts may differ


def takeover_s(ttl_s: float = TTL_S) -> float:
    """Seconds after its last renewal at which a silent lease of another host can be taken over at the earliest."""
    return ttl_s + _SKEW_S + ttl_s / 2


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname() + ":" + (boot.read_text().strip() if boot.exists() else "")


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty if it is not running."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _is_known_here(holder: Mapping[str, Any]) -> bool:
    """Whether this host can tell if the holder runs; without /proc it cannot, and waits for the lease to expire."""
    return holder.get("host") == _host() and bool(holder.get("started"))


def is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether the holder of a lease ended without releasing it."""
    if not holder:
        return True
    if _is_known_here(holder):
        return _started(int(holder.get("pid", 0))) != holder.get("started")
    return time.time() > float(holder.get("renewed", 0)) + float(holder.get("ttl_s", 0)) + _SKEW_S


@dataclass(frozen=True, slots=True)
class DeadHolder:
    """The holder of a lease that was taken over.

    Attributes:
        pid: of its process.
        host: its name; empty for this host.
        purpose: what the lease was for.
        last_seen: when it last renewed the lease, at most 20 s before it ended.
        progress: the state that it stored then, as `events.Tracker` gives it.
    """

    pid: int
    host: str
    purpose: str
    last_seen: datetime
    progress: Mapping[str, Any]

    @classmethod
    def of(cls, holder: Mapping[str, Any]) -> DeadHolder:
        """Read the body of a lease."""
        host = "" if holder.get("host") == _host() else str(holder.get("host", "?")).split(":")[0]
        progress = holder.get("progress")
        last_seen = datetime.fromtimestamp(max(0.0, holder["renewed"]), UTC)
        known = progress if isinstance(progress, dict) else {}
        return cls(holder["pid"], host, str(holder.get("for", "?")), last_seen, known)

    def in_words(self) -> str:
        """Return who ended, when and at what, as a sentence without the full stop."""
        on = f" on {self.host}" if self.host else ""
        text = (
            f"process {self.pid}{on} ({self.purpose}) was killed or crashed; last sign of it {self.last_seen:%F %T} UTC"
        )
        if stage := self.progress.get("stage"):
            done, total = self.progress.get("done"), self.progress.get("total")
            known = isinstance(done, int) and isinstance(total, int) and total > 0
            text += f", in {stage}" + (f" after {done:,} of {total:,} {self.progress.get('unit')}" if known else "")
        return f"{text}. What it had committed is kept"


class Lease:
    """Context manager: the exclusive right to write to the lake (or to the resource of `key`) while it is active."""

    def __init__(
        self,
        store: ObjectStore,
        purpose: str,
        *,
        ttl_s: float = TTL_S,
        wait_s: float = 0.0,
        key: str = KEY,
        progress: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Prepare the lease; entering the context takes it.

        Args:
            purpose: shown to processes that wait for the lease.
            ttl_s: seconds after which a lease that is not renewed expires; it is renewed every third of this time.
            wait_s: seconds to wait while another process has the lease.
            key: of the lease object in the store.
            progress: called at every renewal; its result is stored in the lease for other processes to read.
        """
        self._key, self._progress = key, progress
        self._store, self._purpose, self._ttl_s, self._wait_s = store, purpose, ttl_s, wait_s
        self.taken_from: DeadHolder | None = None
        """who had the lease before and ended without releasing it"""
        self._nonce = secrets.token_hex(8)
        self._tag = ""
        self._stop = threading.Event()
        self._lost = False
        self._renewed_at_s = 0.0
        self._thread: threading.Thread | None = None

    def _body(self) -> bytes:
        body = {"nonce": self._nonce, "for": self._purpose, "ttl_s": self._ttl_s, "renewed": time.time()}
        return json.dumps(body | _this_process() | {"progress": dict(self._progress())}).encode()

    def __enter__(self) -> Lease:
        deadline = time.monotonic() + self._wait_s
        while not self._try_take():
            if time.monotonic() >= deadline:
                holder = self._holder()
                host = str(holder.get("host", "?")).split(":")[0]
                who = f"process {holder.get('pid')} on {host}, for {holder.get('for')}"
                after_s = takeover_s(float(holder.get("ttl_s", self._ttl_s)))
                next_step = "wait until it ends; if it has crashed, run again: its lease is taken over at once on the "
                next_step += f"same host, and after {after_s:.0f} s on another"
                raise Refused(f"the lake is being written by {who}", where=self._store.uri, next_step=next_step)
            time.sleep(1.0)
        self._renewed_at_s = time.monotonic()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="facelake-lease")
        self._thread.start()
        return self

    def _holder(self) -> dict[str, Any]:
        """Return what the lease says of its holder; nothing if there is no lease or it is damaged."""
        try:
            holder = dict(json.loads(self._store.read(self._key)))
            holder |= {name: float(holder.get(name, 0)) for name in ("renewed", "ttl_s")}
            holder["pid"] = int(holder.get("pid", 0))
            latest_s = time.time() + _MOST_AHEAD_S
            if not (0 <= holder["ttl_s"] <= _LONGEST_TTL_S and holder["renewed"] <= latest_s):
                return {}  # nobody writes such a lease, and it would never be taken over
        except (FileNotFoundError, ValueError, TypeError, OverflowError):
            return {}
        return holder

    def _try_take(self) -> bool:
        if self._store.create(self._key, self._body()):
            self._tag = self._store.tag(self._key) or ""
            return True
        tag = self._store.tag(self._key)
        if tag is None:
            return False
        holder = self._holder()
        if not is_dead(holder) or (holder and not _is_known_here(holder) and not self._is_silent(holder, tag)):
            return False
        if not self._store.replace(self._key, self._body(), tag):
            return False
        self._tag = self._store.tag(self._key) or ""
        taken = self._holder().get("nonce") == self._nonce
        self.taken_from = DeadHolder.of(holder) if taken and holder else None
        return taken

    def _is_silent(self, holder: Mapping[str, Any], tag: str) -> bool:
        """Observe a lease that is expired by this host's clock, which may be ahead: a running holder renews it
        meanwhile.
        """
        until = time.monotonic() + float(holder.get("ttl_s", 0)) / 2
        while time.monotonic() < until:
            time.sleep(min(1.0, until - time.monotonic() + 0.01))
            if self._store.tag(self._key) != tag:
                return False
        return True

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl_s / 3):
            try:
                if (
                    not self._store.replace(self._key, self._body(), self._tag)
                    and self._holder().get("nonce") != self._nonce
                ):
                    self._lost = (
                        True  # (a renewal whose reply was lost also fails, but then the nonce is this process's)
                    )
                    return
                self._tag = self._store.tag(self._key) or ""
                self._renewed_at_s = time.monotonic()
            except (FacelakeError, OSError):
                continue  # a transient fault; `check` fails when this lasts longer than the time to live

    def check(self) -> None:
        """Check that this process still has the lease; called before every commit.

        Raises:
            Refused: another process has taken the lease over.
        """
        if self._lost or time.monotonic() - self._renewed_at_s > self._ttl_s:
            raise Refused("this process lost the lease of the lake", where=self._store.uri, next_step="run again")

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        if not self._lost and self._holder().get("nonce") == self._nonce:
            self._store.delete(self._key)
            self._store.delete(self._key + ".lock")
