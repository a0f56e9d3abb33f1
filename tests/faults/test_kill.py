"""SIGKILL of the driver during embed: the rerun gives the faces of an undisturbed run, row by row."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_json
from tests.faults.conftest import Note
from tests.faults.embedding import equal, finish, outcomes, outcomes_of, start, work_of

_CHUNK, _WORKERS, _UNREAD = 4, 2, 2
_SMALL_COMMITS = (
    f"embed: {{chunk_rows: {_CHUNK}, commit_every_chunks: 1, actors: {_WORKERS}}}\nray: {{num_cpus: {_WORKERS}}}\n"
)


def bare_copy(lake: Path, target: Path) -> Path:
    """The lake before its first run: corpus and ledger only."""
    import shutil

    for name in ("lake.json", "demo.txt", "corpus", "ledger", "ledger-head.json"):
        source = lake / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, (target / name).parent.joinpath(name))  # type: ignore[operator]
    return target


def kill_during_embed(config: Path, noted: Path, after_s: float) -> bool:
    """Start embed, wait until a worker starts photos, kill the driver; returns whether it was still running."""
    before = noted.stat().st_size if noted.exists() else 0
    process = start(config, noted)
    while process.poll() is None and (noted.stat().st_size if noted.exists() else 0) == before:
        time.sleep(0.05)
    time.sleep(after_s)
    running = process.poll() is None
    process.kill()  # SIGKILL; nothing when it has ended
    process.communicate()
    return running


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_driver(demo_template: tuple[Path, dict[str, Any]], tmp_path: Path, note: Note, kills: int) -> None:
    """A kill costs at most the current work and unread receipts of both workers, and the current commit."""
    undisturbed = outcomes(str(demo_template[0]))
    generator = random.Random(kills)
    done = lakes = again = 0
    while done < kills:
        folder = tmp_path / str(lakes)
        (folder / "lake").mkdir(parents=True)
        bare_copy(demo_template[0], folder / "lake")
        config, noted = folder / "c.yaml", folder / "noted"
        config.write_text(f"lake: {folder / 'lake'}\n{_SMALL_COMMITS}")
        lakes += 1
        while done < kills and kill_during_embed(config, noted, generator.uniform(0.0, 3.0)):
            done += 1
        assert finish(start(config, noted)) == ""
        assert equal(outcomes_of(config), undisturbed)
        assert run_json("verify", "-c", str(config))["ok"]
        again += work_of(noted).repeated
    assert again <= kills * _CHUNK * (_WORKERS * (1 + _UNREAD) + 1)
    counts = {"kills": done, "photos_again": again, "lost": 0, "doubled": 0}
    note(f"driver: SIGKILL during embed, {kills} times", "equal, verify clean", **counts)
