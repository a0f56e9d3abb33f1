"""Embed runs for fault injection: every photo that a worker starts is recorded, so that repeated work can be counted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from facelake.config import Config, S3Section, load_config
from facelake.demo import build_demo
from facelake.lake.lake import Lake
from facelake.nightly import writing

# As `facelake nightly --only admit --only embed`; workers append a line per photo to a file before they decode it.
_EMBED = """
import os, sys
import ray
from facelake.cli import main
from facelake.engines import ray_embed
path = sys.argv.pop(1)
class Noting(ray_embed._EmbedActor):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        worker, outcomes = self._worker, self._worker._outcomes
        def noted(rows, *more):
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, "".join(f"{ident}\\n" for _, ident, _ in rows).encode())
            os.close(file)
            return outcomes(rows, *more)
        worker._outcomes = noted
ray_embed._Actor = ray.remote(max_restarts=0, max_task_retries=0)(Noting)
sys.argv[1:1] = ["nightly", "--only", "admit", "--only", "embed"]
main()
"""
_ACTOR = b"ray::Noting"
Tables = tuple[pa.Table, pa.Table]
"""faces and rejects"""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of all workers in all runs over one lake."""

    photos: int
    repeated: int


def build(uri: str, s3: S3Section | None = None) -> None:
    """The demo's photos and ledger, before the first run."""
    config = Config(lake=uri, s3=s3 or S3Section())
    with writing(config, "test") as context:
        context.lake.mark_as_demo()
        build_demo(context)


def outcomes(uri: str, s3: S3Section | None = None) -> Tables:
    """All faces and rejects in a canonical order."""
    lake = Lake.open(uri, s3)
    place = [("corpus_file", "ascending"), ("corpus_row", "ascending")]
    return lake["faces"].read().sort_by([("face_id", "ascending")]), lake["rejects"].read().sort_by(place)


def outcomes_of(config: Path) -> Tables:
    """The tables of the lake of a config."""
    settings = load_config(str(config))
    return outcomes(settings.lake, settings.s3)


def start(config: Path, noted: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Admit and embed in a separate process."""
    command = [sys.executable, "-c", _EMBED, str(noted), "-c", str(config), "--json"]
    whole = os.environ | (env or {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=whole)


def finish(driver: subprocess.Popen[str]) -> str:
    """Wait until a run ends; returns the type of the error that ended it, or an empty string."""
    said, complaints = driver.communicate()
    last = json.loads(said.splitlines()[-1])  # whatever Ray has to say of dead workers
    if driver.returncode == 0:
        assert last["ok"]
        return ""
    assert driver.returncode == 1, complaints
    return str(last["error"]["kind"])


def equal(found: Tables, wanted: Tables) -> bool:
    """Equal row by row, bit by bit."""
    return all(mine.equals(theirs) for mine, theirs in zip(found, wanted, strict=True))


def work_of(noted: Path) -> Work:
    """The number of photos started, and the number of repetitions."""
    seen = Counter(noted.read_text().splitlines())
    return Work(len(seen), seen.total() - len(seen))


def shoot_actors(driver: subprocess.Popen[str], noted: Path, shots: int, generator: random.Random) -> int:
    """SIGKILL embed actors of a driver, one at a time, until it ends; returns their number.

    A shot falls at a random moment after a worker has taken up more photos, and hits any actor: one at work, one that
    waits, one that is just starting.
    """
    hit, before = 0, 0
    while hit < shots and driver.poll() is None:
        time.sleep(0.05)
        now = noted.stat().st_size if noted.exists() else 0
        if now == before:
            continue
        time.sleep(generator.uniform(0.0, 3.0))
        if targets := actors(driver.pid):
            os.kill(generator.choice(targets), signal.SIGKILL)
            hit += 1
        before = noted.stat().st_size
    return hit


def actors(driver: int) -> list[int]:
    """Process ids of a driver's embed actors."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(pid for pid in parents if _descends(pid, driver, parents) and _title(pid).startswith(_ACTOR))


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
