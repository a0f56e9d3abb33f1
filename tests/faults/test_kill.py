"""SIGKILL of the driver at any moment of embed: rerun gives row for row the faces of an undisturbed run."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from facelake.lake.lake import Lake
from tests.conftest import FACELAKE, run_json

_SMALL_COMMITS = "embed: {chunk_rows: 16, commit_every_chunks: 1}\n"


def outcomes(lake: Path) -> tuple[pa.Table, pa.Table]:
    opened = Lake.open(str(lake))
    faces, rejects = opened["faces"].read().sort_by("face_id"), opened["rejects"].read()
    return faces, rejects.sort_by([("corpus_file", "ascending"), ("corpus_row", "ascending")])


def bare_copy(lake: Path, target: Path) -> Path:
    """The lake as it was before its first night: corpus and ledger only."""
    import shutil

    for name in ("lake.json", "demo.txt", "corpus", "ledger"):
        source = lake / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, (target / name).parent.joinpath(name))  # type: ignore[operator]
    return target


def kill_during_embed(lake: Path, config: Path, after_s: float) -> bool:
    """Start embed, wait until its work has begun, kill the driver; True when it was still at work."""
    command = [*FACELAKE, "nightly", "--only", "admit", "--only", "embed", "-c", str(config), "--lake", str(lake)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("embed starts"):
            break
    time.sleep(after_s)
    running = process.poll() is None
    process.kill()  # SIGKILL; nothing when it has ended
    process.wait()
    return running


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_driver(demo_template: tuple[Path, dict[str, Any]], tmp_path: Path, kills: int) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    bare_copy(demo_template[0], lake)
    config = tmp_path / "c.yaml"
    config.write_text(_SMALL_COMMITS)
    generator = random.Random(kills)
    at_work = sum(kill_during_embed(lake, config, generator.uniform(2.0, 13.0)) for _ in range(kills))
    assert at_work >= 1
    run_json("nightly", "-c", str(config), "--lake", str(lake))
    undisturbed = outcomes(demo_template[0])
    assert all(mine.equals(theirs) for mine, theirs in zip(outcomes(lake), undisturbed, strict=True))
    assert run_json("verify", "-c", str(config), "--lake", str(lake))["ok"]
