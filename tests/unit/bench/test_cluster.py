"""bench cluster refuses what are no faces before anything is started, and memory is measured over the family."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.bench.cluster import cluster_files
from facelake.bench.memory import PeakMemory
from facelake.config import Config
from facelake.errors import ConfigError
from facelake.events import ignore_events

ROW: dict[str, Any] = {"face_id": "a", "image_id": "p", "quality": 1.0, "embedding": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no Parquet files"),
        ([[{"face_id": "a"}]], "no column image_id, quality, embedding"),
        ([[ROW | {"model_id": "x"}], [ROW | {"model_id": "y"}]], "vectors of 2 models: x, y"),
        ([[ROW | {"embedding": "text"}]], "not faces"),
    ],
)
def test_what_are_no_faces_is_refused(tmp_path: Path, rows: list[list[dict[str, Any]]], said: str) -> None:
    for number, part in enumerate(rows):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"{number}.parquet")
    with pytest.raises(ConfigError, match=said):
        cluster_files(Config(), str(tmp_path), str(tmp_path / "out.parquet"), ignore_events)
    assert not (tmp_path / "out.parquet").exists()


def test_memory_counts_children() -> None:
    memory = PeakMemory(0.05)
    grab = "b = bytearray(300_000_000); import time; time.sleep(1.5)"
    with memory:
        child = subprocess.Popen([sys.executable, "-c", grab])
        time.sleep(1)
        child.wait()
    assert memory.peak_bytes > 300_000_000
    assert memory.lap() == memory.peak_bytes
    assert memory.lap() == 0
