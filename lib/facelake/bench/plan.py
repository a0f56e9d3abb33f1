"""bench plan: what `facelake plan --at` predicts of small lakes, beside what they take.

Each lake lies in a SeaweedFS of its own, behind a proxy of this process that counts requests and bytes; a child process
makes the lake and runs its stages. Only what a person planning would know is given to the prediction: numbers of photos
and faces, sizes, settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from facelake.bench.embed import Sizes, write_photos
from facelake.config import Config
from facelake.errors import ConfigError
from facelake.events import Listener, StageFinished, StageProgress, StageStarted
from facelake.stages.capacity.cost_model import Cost, Workload, estimate
from facelake.testing.proxy import bad_day
from facelake.testing.servers import Server, seaweedfs

_PER_FILE, _FILES = 1_000, 5  # faces per data file, and such files' worth of photos per corpus file
_CHUNK_ROWS, _EVERY = 8, 4  # small chunks, so that a hundred photos make commits enough to count


def check_plan(
    config: Config, faces: Sequence[int], dim: int, images: str | None, photos: Sequence[int], emit: Listener
) -> dict[str, Any]:
    """Predicted and measured figures of every stage at every size, and their errors.

    Args:
        faces: sizes of lakes of synthetic faces, through admit, cluster, publish and the scan of an erasure.
        images: folder of photos for embed, of which as many as `photos` says are made; None leaves embed out.

    Raises:
        ConfigError: SeaweedFS is not installed; a lake could not be made.
    """
    rows: list[dict[str, Any]] = []
    sizes = [(True, count) for count in faces] + [(False, count) for count in (photos if images else ())]
    emit(StageStarted("bench", len(sizes), "lakes"))
    for number, (synthetic, count) in enumerate(sizes):
        emit(StageProgress("bench", number, {"faces" if synthetic else "photos": count}))
        found = _of_faces(config, count, dim) if synthetic else _of_photos(config, count, str(images))
        rows += found
    emit(StageFinished("bench", 0.0, {"lakes": len(sizes)}))
    return {"rows": rows, "worst": _worst(rows)}


def _of_faces(config: Config, faces: int, dim: int) -> list[dict[str, Any]]:
    order = {"faces": faces, "dim": dim, "per_file": _PER_FILE, "photos_per_file": _FILES * _PER_FILE}
    found = _measured(_overrides(config), order)
    work = Workload(faces, dim=dim, photos_per_file=_FILES * _PER_FILE, chunk_rows=_PER_FILE, reject_share=0.0)
    work = replace(work, commit_every_chunks=work.chunks)  # as the lake is made
    stages = estimate(work).stages
    names = ("admit", "cluster", "publish", "scan")
    return [row for name in names for row in _rows(faces, name, stages[name], found[name])]


def _of_photos(config: Config, photos: int, images: str) -> list[dict[str, Any]]:
    settings = _overrides(config) | {"embed.chunk_rows": _CHUNK_ROWS, "embed.commit_every_chunks": _EVERY}
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder:
        write_photos(images, Path(folder, "photos"), Sizes(photos, 1, 0))
        found = _measured(settings, {"photos": str(Path(folder, "photos"))})["embed"]
    work = Workload(
        photos,
        faces_per_image=found["faces_rows"] / photos,
        reject_share=found["rejects_rows"] / photos,
        dim=found["dim"],
        mean_bytes=found["image_bytes"] / photos,
        photos_per_file=found["photos_per_file"],
        chunk_rows=_CHUNK_ROWS,
        commit_every_chunks=_EVERY,
        cores_per_node=config.ray.num_cpus or os.cpu_count() or 1,
    )
    return list(_rows(photos, "embed", estimate(work).stages["embed"], found))


def _rows(size: int, stage: str, cost: Cost, found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per figure; of requests those that cost the same are taken together."""
    pairs = {
        "cpu_s": (cost.driver_cpu_s + cost.worker_cpu_s, found["driver_cpu_s"] + found["worker_cpu_s"]),
        "GET, HEAD": (cost.get + cost.head, found.get("GET", 0) + found.get("HEAD", 0)),
        "PUT": (cost.put, found.get("PUT", 0)),
        "LIST": (cost.list_, found.get("LIST", 0)),
        "read_bytes": (cost.read_bytes, found["read_bytes"]),
        "written_bytes": (cost.written_bytes, found["written_bytes"]),
        "driver_bytes": (cost.driver_bytes, found["driver_bytes"]),
        "data_files": (cost.data_files, found["data_files"]),
        "log_entries": (cost.log_entries, found["log_entries"]),
    }
    for figure, (predicted, measured) in pairs.items():
        if predicted or measured:
            error = (predicted - measured) / measured if measured else float("inf")
            one: dict[str, Any] = {"size": size, "stage": stage, "figure": figure}
            yield one | {"predicted": round(predicted, 2), "measured": round(measured, 2), "error": round(error, 3)}


def _worst(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The largest error of each figure, whatever stage and size."""
    figures = dict.fromkeys(row["figure"] for row in rows)
    return {name: max(abs(row["error"]) for row in rows if row["figure"] == name) for name in figures}


def _overrides(config: Config) -> dict[str, Any]:
    """What of the config a child is given: how engines run, and the model."""
    chosen = config.model_dump(mode="json", include={"spark", "ray", "model"})
    flat = {f"{section}.{key}": value for section, keys in chosen.items() for key, value in keys.items()}
    return flat | {"spark.in_process_below": 0}  # the plan is for clusters


def _measured(settings: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    with _counted_store() as (server, endpoint):
        config = settings | {"lake": "s3://lake/bench", "s3.endpoint_url": endpoint}
        body = json.dumps(order | {"config": config, "endpoint": endpoint})
        command = [sys.executable, "-m", "facelake.bench.stage_costs", body]
        env = os.environ | server.environment()
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        why = (done.stderr.splitlines() or ["nothing was said"])[-1]
        raise ConfigError(f"a lake could not be measured: {why}", where="bench plan", next_step="run it again")
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def _counted_store() -> Iterator[tuple[Server, str]]:
    try:
        with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder, seaweedfs(Path(folder)) as server:
            server.make_bucket("lake")
            with bad_day(server.endpoint, (), 0.0) as (endpoint, _):
                yield server, endpoint
    except FileNotFoundError as err:
        raise ConfigError(str(err), where="bench plan", next_step="pip install '.[test]'") from err
