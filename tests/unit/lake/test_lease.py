"""A damaged lease blocks no lake."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from facelake.lake.directory import DirectoryStore
from facelake.lake.lease import Lease


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"ttl_s": "x", "host": "h", "renewed": 1}',
        b'{"ttl_s": 60, "host": "h", "pid": {}}',
        b'{"ttl_s": 1e300, "host": "h", "renewed": 1}',
        b'{"ttl_s": 60, "host": "h", "renewed": 1e300}',
        b'{"ttl_s": 60, "host": "h", "renewed": NaN}',
    ],
)
def test_a_damaged_lease_is_taken_over(tmp_path: Path, content: bytes) -> None:
    store = DirectoryStore(str(tmp_path))
    store.write("lease.json", content)
    with Lease(store, "next") as lease:
        lease.check()


_HOLD = """
import sys, time
from facelake.lake.directory import DirectoryStore
from facelake.lake.lease import Lease
progress = {"run": "r", "stage": "embed", "unit": "images", "done": 60, "total": 1204}
with Lease(DirectoryStore(sys.argv[1]), "nightly", progress=lambda: progress):
    print("held", flush=True)
    time.sleep(600)
"""


def test_who_was_killed_is_told_to_the_next(tmp_path: Path) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    with Lease(DirectoryStore(str(tmp_path)), "next") as lease:
        dead = lease.taken_from
        assert dead is not None
        assert (dead.pid, dead.host, dead.purpose) == (holder.pid, "", "nightly")
        assert began <= dead.last_seen <= datetime.now(UTC)
        assert f"process {holder.pid} (nightly) was killed or crashed" in dead.in_words()
        assert "UTC, in embed after 60 of 1,204 images. What it had committed is kept" in dead.in_words()
    with Lease(DirectoryStore(str(tmp_path)), "after a release") as lease:
        assert lease.taken_from is None
