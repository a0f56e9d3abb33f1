"""Nightly runs that end early, each followed by another run: the lake then equals the undisturbed one, verify is clean."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facelake.contracts import LAKE_FORMAT
from facelake.testing.hosts import network
from facelake.testing.site import state_of
from tests.conftest import FACELAKE, run_cli, run_json
from tests.faults.conftest import Note
from tests.faults.test_kill import bare_copy

Demo = tuple[Path, dict[str, Any]]

# Counts every write of a night (objects, conditional writes, deletes, Delta commits) and kills the process before the
# n-th; the names of all of them go to a file. What Spark and Ray workers write is theirs to lose, not counted here.
_NIGHT = """
import os, signal, sys
from facelake.config import load_config
from facelake.lake.directory import DirectoryStore
from facelake.lake.tables import Table
from facelake.nightly import run_night
path, lake, call = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = 0
def counted(kind, name):
    original = getattr(kind, name)
    def wrapped(self, *arguments, **options):
        global count
        what = f"{name} {getattr(self, 'name', '')}{arguments[0] if kind is DirectoryStore else ''}"
        if "lease" not in what:  # renewed by a thread at any time
            count += 1
            with open(path, "a") as file:
                file.write(what + chr(10))
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments, **options)
    setattr(kind, name, wrapped)
for name in ("write", "create", "replace", "delete"):
    counted(DirectoryStore, name)
for name in ("commit", "replace_all", "rewrite"):
    counted(Table, name)
run_night(load_config(lake=lake))
"""


def state(lake: Path) -> dict[str, Any]:
    config = lake.parent / f"{lake.name}.yaml"
    config.write_text(f"lake: {lake}\n")
    return state_of(lambda command: subprocess.run(command, capture_output=True, text=True, check=False), str(config))


def fresh(demo_template: Demo, folder: Path) -> Path:
    folder.mkdir(parents=True)
    return bare_copy(demo_template[0], folder)


def night(lake: Path, log: Path, call: int) -> int:
    command = [sys.executable, "-c", _NIGHT, str(log), str(lake), str(call)]
    return subprocess.run(command, capture_output=True, check=False, timeout=900).returncode


def boundaries(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(10_000)
@pytest.mark.parametrize("every", [16, 1])
def test_killed_before_writes_of_cluster_and_publish(
    demo_lake: Path, demo_template: Demo, tmp_path: Path, note: Note, every: int
) -> None:
    """Starting from embedded faces: SIGKILL before a write of the driver, each on a new copy, then another run."""
    gone = ("groups", "galleries", "identities", "memberships", "changes", "runs", "identity_stats", "reviews", "drift")
    for name in (*gone, "_work", "measures", "reports"):
        shutil.rmtree(demo_lake / name, ignore_errors=True)
    whole, log = tmp_path / "whole", tmp_path / "writes"
    shutil.copytree(demo_lake, whole)
    assert night(whole, log, 0) == 0
    names = boundaries(log)
    assert state(whole) == state(demo_template[0])
    calls = range(1, len(names) + 1, every)
    for call in calls:
        lake = Path(shutil.copytree(demo_lake, tmp_path / f"killed-{call}"))
        assert night(lake, tmp_path / "killed", call) == -signal.SIGKILL
        (tmp_path / "killed").unlink()
        assert run_json("nightly", "--lake", str(lake))["ok"]
        assert state(lake) == state(demo_template[0]), names[call - 1]
        assert run_json("verify", "--lake", str(lake))["ok"], names[call - 1]
        shutil.rmtree(lake)
    what = f"driver: SIGKILL before {len(calls)} of the {len(names)} writes after embed"
    note(what, "equal, verify clean", kills=len(calls), lost=0, doubled=0)


@pytest.mark.slow
def test_disk_full(demo_template: Demo, tmp_path: Path, note: Note) -> None:
    """The lake's disk fills during embed: one line reports it; with free space the next run completes normally."""
    with network(tmp_path, ["host"]) as net:
        host = net["host"]
        shutil.copytree(os.environ["FACELAKE_CACHE"], host.path("/home/.cache/facelake"))
        source = fresh(demo_template, tmp_path / "bare")
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        shutil.copytree(source, host.path("/home/bare"))
        script = f"mkdir -p /tmp/disk && mount -t tmpfs -o size={size + 220_000} tmpfs /tmp/disk && cp -r /home/bare /tmp/disk/lake"
        assert host.run(["bash", "-c", script]).returncode == 0
        nightly = [*FACELAKE, "nightly", "--lake", "/tmp/disk/lake", "--json"]
        full = host.run(nightly, timeout_s=600)
        assert full.returncode == 1, full.stdout
        error = json.loads(full.stdout.splitlines()[-1])["error"]
        assert error["kind"] == "Retryable"
        assert "No space left" in error["what"]
        assert host.run(["mount", "-o", "remount,size=1g", "/tmp/disk"]).returncode == 0
        again = host.run(nightly, timeout_s=600)
        assert again.returncode == 0, again.stderr
        host.write("/tmp/c.yaml", "lake: /tmp/disk/lake\n")
        assert state_of(host.run, "/tmp/c.yaml") == state(demo_template[0])
        assert host.run([*FACELAKE, "verify", "--lake", "/tmp/disk/lake"]).returncode == 0
    note("disk full during embed", "one-line Retryable; with space equal, verify clean", lost=0, doubled=0)


@pytest.mark.parametrize("what", ["lake", "table"])
def test_a_newer_writer(demo_lake: Path, demo_template: Demo, note: Note, what: str) -> None:
    """A lake or table written by a newer version is not changed by a single byte; without it the run works as before."""
    marker = demo_lake / "lake.json"
    newest = sorted((demo_lake / "faces" / "_delta_log").glob("*.json"))[-1]
    path = marker if what == "lake" else newest.with_name(f"{int(newest.stem) + 1:020d}.json")
    old = path.read_bytes() if path.exists() else None
    if what == "lake":
        path.write_text(json.dumps(json.loads(marker.read_text()) | {"format": LAKE_FORMAT + 1}))
    else:
        features = {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["fromTheFuture"],
            "writerFeatures": ["fromTheFuture"],
        }
        path.write_text(json.dumps({"protocol": features}) + "\n")
    before = contents(demo_lake)
    done = run_cli("nightly", "--lake", str(demo_lake), "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["kind"] == "Corrupt"
    assert error["next"] == "upgrade facelake"
    assert contents(demo_lake) == before
    if old is None:
        path.unlink()
    else:
        path.write_bytes(old)
    assert state(demo_lake) == state(demo_template[0])
    assert run_json("verify", "--lake", str(demo_lake))["ok"]
    note(f"{what} of a newer version", "refused, nothing written", changed=0)


def contents(lake: Path) -> dict[str, bytes]:
    files = (path for path in lake.rglob("*") if path.is_file() and ".tmp" not in path.parts)
    return {str(path.relative_to(lake)): path.read_bytes() for path in files}
