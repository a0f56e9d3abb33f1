"""bench plan: the predictions of `facelake plan --at` beside measurements of small lakes on an S3 server.

Each lake lies under its own prefix of a store that the caller names, behind a proxy in this process that counts
requests and bytes; a child process makes the lake and runs its stages. The prediction is given only what an operator
would know in advance: numbers of photos and faces, sizes, settings.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facelake.bench.counting_proxy import counting_proxy
from facelake.bench.embed import Sizes, write_photos
from facelake.config import Config, S3Section
from facelake.errors import ConfigError
from facelake.events import Listener, StageFinished, StageProgress, StageStarted
from facelake.lake.s3 import endpoint_of
from facelake.lake.store import open_store
from facelake.stages.capacity.cost_model import Cost, Workload, estimate

_FACES_PER_FILE, _FILES_PER_CORPUS_FILE = 1_000, 5
_CHUNK_ROWS, _CHUNKS_PER_COMMIT = 8, 4  # small, so that a hundred photos make enough commits to count


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """What to measure.

    Attributes:
        store: s3://bucket/prefix under which the lakes are made and deleted again.
        faces: sizes of lakes of synthetic faces; admit, cluster, publish and the scan of an erasure run on them.
        dim: dimensions of their embeddings.
        images: folder of photos for embed; None leaves embed out.
        photos: with `images`, how many photos are made of the folder's, one lake each.
    """

    store: str
    faces: Sequence[int]
    dim: int
    images: str | None
    photos: Sequence[int]


def check_plan(config: Config, check: PlanCheck, emit: Listener) -> dict[str, Any]:
    """Return predicted and measured figures of every stage at every size, and the largest relative error of each.

    Raises:
        ConfigError: the store is not an S3 server behind plain HTTP; a lake could not be made.
    """
    store = _Store.of(config, check.store)
    rows: list[dict[str, Any]] = []
    sizes = [(True, count) for count in check.faces] + [
        (False, count) for count in (check.photos if check.images else ())
    ]
    emit(StageStarted("bench", len(sizes), "lakes"))
    for number, (synthetic, count) in enumerate(sizes):
        emit(StageProgress("bench", number, {"faces" if synthetic else "photos": count}))
        rows += (
            _of_faces(config, store, count, check.dim)
            if synthetic
            else _of_photos(config, store, count, str(check.images))
        )
    emit(StageFinished("bench", 0.0, {"lakes": len(sizes)}))
    return {"rows": rows, "worst": _worst(rows)}


@dataclass(frozen=True, slots=True)
class _Store:
    """Where the lakes are made."""

    uri: str
    endpoint: str
    s3: S3Section

    @classmethod
    def of(cls, config: Config, uri: str) -> _Store:
        endpoint = endpoint_of(config.s3) or ""
        if not uri.startswith("s3://") or not endpoint.startswith("http://"):
            raise ConfigError(
                "requests are counted between this process and an S3 server over plain HTTP",
                where="bench plan --store",
                next_step="start a local S3 server, set AWS_ENDPOINT_URL=http://HOST:PORT, and name s3://BUCKET/PREFIX",
            )
        return cls(uri.rstrip("/"), endpoint, config.s3)


def _of_faces(config: Config, store: _Store, faces: int, dim: int) -> list[dict[str, Any]]:
    order = {
        "faces": faces,
        "dim": dim,
        "per_file": _FACES_PER_FILE,
        "photos_per_file": _FILES_PER_CORPUS_FILE * _FACES_PER_FILE,
    }
    measured = _measured(_overrides(config), store, order)
    work = Workload(
        faces,
        dim=dim,
        photos_per_file=_FILES_PER_CORPUS_FILE * _FACES_PER_FILE,
        chunk_rows=_FACES_PER_FILE,
        reject_share=0.0,
    )
    work = replace(work, commit_every_chunks=work.chunks)  # as the lake is made
    stages = estimate(work).stages
    names = ("admit", "cluster", "publish", "scan")
    return [row for name in names for row in _rows(faces, name, stages[name], measured[name])]


def _of_photos(config: Config, store: _Store, photos: int, images: str) -> list[dict[str, Any]]:
    settings = _overrides(config) | {"embed.chunk_rows": _CHUNK_ROWS, "embed.commit_every_chunks": _CHUNKS_PER_COMMIT}
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder:
        write_photos(images, Path(folder, "photos"), Sizes(photos, 1, 0))
        measured = _measured(settings, store, {"photos": str(Path(folder, "photos"))})["embed"]
    work = Workload(
        photos,
        faces_per_image=measured["faces_rows"] / photos,
        reject_share=measured["rejects_rows"] / photos,
        dim=measured["dim"],
        mean_bytes=measured["image_bytes"] / photos,
        photos_per_file=measured["photos_per_file"],
        chunk_rows=_CHUNK_ROWS,
        commit_every_chunks=_CHUNKS_PER_COMMIT,
        cores_per_node=config.ray.num_cpus or os.cpu_count() or 1,
    )
    return list(_rows(photos, "embed", estimate(work).stages["embed"], measured))


def _rows(size: int, stage: str, cost: Cost, measured: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per figure; requests of the same price are added up."""
    pairs = {
        "cpu_s": (cost.driver_cpu_s + cost.worker_cpu_s, measured["driver_cpu_s"] + measured["worker_cpu_s"]),
        "GET, HEAD": (cost.get + cost.head, measured.get("GET", 0) + measured.get("HEAD", 0)),
        "PUT": (cost.put, measured.get("PUT", 0)),
        "LIST": (cost.list_, measured.get("LIST", 0)),
        "read_bytes": (cost.read_bytes, measured["read_bytes"]),
        "written_bytes": (cost.written_bytes, measured["written_bytes"]),
        "driver_bytes": (cost.driver_bytes, measured["driver_bytes"]),
        "data_files": (cost.data_files, measured["data_files"]),
        "log_entries": (cost.log_entries, measured["log_entries"]),
    }
    for figure, (predicted, actual) in pairs.items():
        if predicted or actual:
            error = (predicted - actual) / actual if actual else float("inf")
            row: dict[str, Any] = {"size": size, "stage": stage, "figure": figure}
            yield row | {"predicted": round(predicted, 2), "measured": round(actual, 2), "error": round(error, 3)}


def _worst(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the largest absolute relative error of each figure over all stages and sizes."""
    figures = dict.fromkeys(row["figure"] for row in rows)
    return {name: max(abs(row["error"]) for row in rows if row["figure"] == name) for name in figures}


def _overrides(config: Config) -> dict[str, Any]:
    """Return the settings that a child process is given: how engines run, and the model."""
    chosen = config.model_dump(mode="json", include={"spark", "ray", "model"})
    flat = {f"{section}.{key}": value for section, keys in chosen.items() for key, value in keys.items()}
    return flat | {"spark.in_process_below": 0}  # the plan is for clusters


def _measured(settings: dict[str, Any], store: _Store, order: dict[str, Any]) -> dict[str, Any]:
    """Make a lake in a child process, run its stages, and return the counts per stage; the lake is deleted after."""
    lake = f"{store.uri}/{secrets.token_hex(6)}"
    try:
        with counting_proxy(store.endpoint) as endpoint:
            config = settings | {"lake": lake, "s3.endpoint_url": endpoint}
            body = json.dumps(order | {"config": config, "endpoint": endpoint})
            command = [sys.executable, "-m", "facelake.bench.stage_costs", body]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        bucket = open_store(lake, store.s3)
        for item in list(bucket.list()):
            bucket.delete(item.key)
    if done.returncode:
        reason = (done.stderr.splitlines() or ["no output"])[-1]
        raise ConfigError(f"a lake could not be measured: {reason}", where="bench plan", next_step="run it again")
    return dict(json.loads(done.stdout.splitlines()[-1]))
