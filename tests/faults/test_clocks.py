"""Two hosts with different clocks and one lake: processes with their own host names and clocks. Needs Linux and root."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from facelake.lake.directory import DirectoryStore
from facelake.lake.lease import KEY
from tests.faults.conftest import Note

_WRITER = """
import sys, time
real, skew_s = time.time, float(sys.argv[2])
time.time = lambda: real() + skew_s
from facelake.errors import Refused
from facelake.lake.lease import Lease
from facelake.lake.store import open_store
try:
    with Lease(open_store(sys.argv[1]), "nightly") as lease:
        print("holds", flush=True)
        sys.stdin.readline()
        lease.check()
        print("held", flush=True)
except Refused:
    print("refused", flush=True)
"""
_SKEWS_S = (-3600.0, -120.0, -30.0, 0.0, 30.0, 3600.0)


def writer(lake: Path, host: str, skew_s: float) -> subprocess.Popen[str]:
    script = f'hostname {host} && exec "$@"'
    command = ["unshare", "--uts", "sh", "-c", script, "sh", sys.executable, "-c", _WRITER, str(lake), str(skew_s)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_clocks_that_disagree(tmp_path: Path, note: Note) -> None:
    """A running holder's lease is never taken over; that of an ended holder on another host is, after it expires."""
    store = DirectoryStore(str(tmp_path))
    holder = writer(tmp_path, "one", 0.0)
    assert said(holder) == "holds"
    contenders = [writer(tmp_path, "two", skew_s) for skew_s in _SKEWS_S]
    answers = [contender.communicate("\n", timeout=300)[0].split() for contender in contenders]
    assert answers == [["refused"]] * len(_SKEWS_S)
    assert holder.communicate("\n", timeout=300)[0].split() == ["held"]
    assert store.tag(KEY) is None

    dead = writer(tmp_path, "one", 0.0)
    assert said(dead) == "holds"
    began = time.monotonic()
    dead.kill()
    dead.wait()
    assert time.monotonic() - began < 20
    too_early, later = writer(tmp_path, "two", -20.0), writer(tmp_path, "two", 3600.0)
    assert too_early.communicate("\n", timeout=300)[0].split() == ["refused"]
    assert later.communicate("\n", timeout=300)[0].split() == ["holds", "held"]
    note(
        "clocks of two hosts disagree by an hour either way",
        "a living holder keeps its lease; a dead one's falls when it has run out",
        contenders=len(_SKEWS_S) + 2,
        taken_from_the_living=0,
    )
