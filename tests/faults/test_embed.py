"""Embed with failing actors, stores and disks: the rows are exactly those of an undisturbed run.

Slow: `bash infra/test.sh -m slow tests/faults/test_embed.py`
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from facelake.config import S3Section
from facelake.testing.fault_proxy import fault_proxy
from facelake.testing.servers import Server
from tests.conftest import run_json
from tests.faults.conftest import Note
from tests.faults.embedding import (
    Tables,
    actors,
    build,
    equal,
    finish,
    outcomes,
    outcomes_of,
    shoot_actors,
    start,
    work_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
_SHOTS, _WORKERS, _CHUNK, _UNREAD = 50, 2, 4, 2
_SMALL = {"chunk_rows": _CHUNK, "commit_every_chunks": 1, "actors": _WORKERS}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the demo's corpus and ledger only."""
    lake = tmp_path_factory.mktemp("bare") / "lake"
    build(str(lake))
    return lake


@pytest.fixture(scope="module")
def undisturbed(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(bare, folder / "lake")
    config = config_of(folder, str(folder / "lake"))
    assert finish(start(config, folder / "noted")) == ""
    found = outcomes_of(config)
    assert work_of(folder / "noted").repeated == 0
    assert len(found[0]) > 200
    assert len(found[1]) > 40
    return found


def config_of(folder: Path, lake: str, **more: Any) -> Path:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"lake": lake, "embed": _SMALL, "ray": {"num_cpus": _WORKERS}} | more))
    return path


def test_killed_actors(bare: Path, undisturbed: Tables, tmp_path: Path, note: Note) -> None:
    """Fifty SIGKILLs; each costs at most the current batch and the staged receipts that the driver has not read."""
    generator = random.Random(50)
    shots = runs = lakes = photos = repeated = 0
    while shots < _SHOTS:
        folder = tmp_path / str(lakes)
        shutil.copytree(bare, folder / "lake")
        config = config_of(folder, str(folder / "lake"))
        lakes += 1
        while True:
            runs += 1
            driver = start(config, folder / "noted")
            shots += shoot_actors(driver, folder / "noted", _SHOTS - shots, generator)
            if not (given_up := finish(driver)):
                break
            assert given_up == "Retryable"  # every worker it started was shot: run again
        assert equal(outcomes_of(config), undisturbed)
        assert run_json("verify", "-c", str(config))["ok"]
        work = work_of(folder / "noted")
        photos, repeated = photos + work.photos, repeated + work.repeated
    assert shots == _SHOTS
    assert repeated <= shots * _CHUNK * (1 + _UNREAD)
    what = "equal, verify clean"
    counts = {"kills": shots, "runs": runs, "photos": photos, "photos_again": repeated, "lost": 0, "doubled": 0}
    note("embed actors: SIGKILL at random moments", what, **counts)


_SAID = {"error": "500", "busy": "503 SlowDown", "slow": "answers a second late", "cut": "connections cut"}


@pytest.mark.parametrize("fault", _SAID)
def test_store(weed_env: Server, undisturbed: Tables, tmp_path: Path, note: Note, fault: str) -> None:
    """Embed through a store that fails every fifth request, run again until it succeeds."""
    uri, plain = f"s3://lake/embed-{fault}", S3Section(endpoint_url=weed_env.endpoint)
    build(uri, plain)
    runs = 0
    with fault_proxy(weed_env.endpoint, [fault], 0.2, seed=3) as (endpoint, day):
        config = config_of(tmp_path, uri, s3={"endpoint_url": endpoint})
        while True:
            runs += 1
            given_up = finish(start(config, tmp_path / "noted"))
            if not given_up:
                break
            assert given_up in ("Retryable", "CommitConflict", "CommitUnknown")
            assert runs < 6
    assert equal(outcomes(uri, plain), undisturbed)
    assert day.injected[fault] > 20
    work = work_of(tmp_path / "noted")
    assert work.repeated <= (runs - 1) * _CHUNK * (_WORKERS * (1 + _UNREAD) + 1)
    counts = {"requests": day.requests, "injected": day.injected[fault], "runs": runs}
    counts |= {"photos_again": work.repeated, "lost": 0, "doubled": 0}
    note(f"embed, store: {_SAID[fault]}, 20 % of requests", "equal", **counts)


def test_full_disk_on_a_worker(bare: Path, undisturbed: Tables, tmp_path: Path, note: Note) -> None:
    """The disk with Ray's logs, sockets and spilled objects fills up; then a worker is killed."""
    shutil.copytree(bare, tmp_path / "lake")
    config = config_of(tmp_path, str(tmp_path / "lake"))
    with small_disk() as disk:
        driver = start(config, tmp_path / "noted", {"RAY_TMPDIR": str(disk), "TMPDIR": str(disk)})
        while not (tmp_path / "noted").exists():
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.05)
        fill(disk)
        os.kill(actors(driver.pid)[0], signal.SIGKILL)  # whoever replaces it starts on a full disk
        given_up = finish(driver)
        assert given_up in ("", "Retryable")
        assert os.statvfs(disk).f_bavail == 0
    runs = 1
    if given_up:
        runs += 1
        assert finish(start(config, tmp_path / "noted")) == ""
    assert equal(outcomes_of(config), undisturbed)
    work = work_of(tmp_path / "noted")
    assert work.repeated <= _CHUNK * (1 + _UNREAD) * (_WORKERS if runs > 1 else 1)
    counts = {"kills": 1, "runs": runs, "photos_again": work.repeated, "lost": 0, "doubled": 0}
    note("embed: the worker's own disk full, then a worker killed", "equal", **counts)


@contextmanager
def small_disk() -> Iterator[Path]:
    """A disk of 64 MB with a short path, because sockets are on it."""
    folder = Path(tempfile.mkdtemp(prefix="f-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(disk: Path) -> None:
    """Fill the disk completely."""
    with (disk / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with (disk / "crumbs").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")
