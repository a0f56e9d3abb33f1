"""bench cluster: a folder of embeddings into identities, outside any lake."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.cluster import Prior, calibrate, group, with_level
from facelake.config import Config
from facelake.contracts import F32, I64
from facelake.engines import spark_cluster
from facelake.errors import ConfigError
from facelake.events import Listener, StageFinished, StageProgress, StageStarted
from facelake.stages.cluster import make_cluster_lists

# Impostor similarity assumed for a corpus that is too small to tell; larger ones are measured.
_PRIOR = Prior(impostor_mean=0.05, impostor_sd=0.09, genuine_mean=0.65)


class _Steps:
    """Seconds and peak memory of each step."""

    def __init__(self, emit: Listener) -> None:
        self.figures: dict[str, float] = {}
        self._emit, self._began = emit, time.monotonic()
        emit(StageStarted("bench", 5, "steps"))

    def done(self, name: str) -> None:
        now = time.monotonic()
        self.figures[f"{name}_s"] = round(now - self._began, 3)
        self._began = now
        self._emit(StageProgress("bench", len(self.figures), {}))


def cluster_files(config: Config, folder: str, out: str, emit: Listener) -> dict[str, Any]:
    """Cluster every face of the Parquet files under folder; writes face_id and identity_id.

    Rows whose vector is not finite or zero stay alone; others are normalised.
    """
    paths = sorted(Path(folder).rglob("*.parquet"))
    if not paths:
        raise ConfigError(
            "no Parquet files",
            where=folder,
            next_step="give a folder with face_id, image_id, quality, embedding",
        )
    steps = _Steps(emit)
    table = _read(paths)
    vectors, sound = _unit(table)
    steps.done("read")
    usable = np.flatnonzero(sound)
    photos = np.unique(table["image_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1].astype(np.int64)
    quality = table["quality"].to_numpy().astype(np.float32)
    settings = config.cluster
    cuts = calibrate(vectors[usable], photos[usable], _PRIOR, settings.seed, settings.threshold)
    lists = make_cluster_lists(vectors[usable], settings)
    steps.done("calibrate")
    session = spark_cluster.start_spark(config.spark)
    files = [(str(path), pq.ParquetFile(path).metadata.num_rows) for path in paths]
    pairs = spark_cluster.neighbours_of_files(session, files, lists, settings.probes, settings.neighbours, cuts.floor)
    steps.done("neighbours")
    labels = np.full(table.num_rows, -1, np.int64)
    place = np.full(table.num_rows, -1, np.int64)
    place[usable] = np.arange(len(usable))
    a, b = place[pairs["a"].to_numpy()], place[pairs["b"].to_numpy()]
    similarity = pairs["s"].to_numpy()
    cuts = with_level(cuts, a, similarity)
    labels[usable] = group(vectors[usable], quality[usable], a, b, similarity, cuts, settings.seed)
    rest = np.flatnonzero(labels < 0)
    labels[rest] = labels.max(initial=-1) + 1 + np.arange(len(rest))
    steps.done("group")
    _write(out, table["face_id"], labels)
    steps.done("write")
    emit(StageFinished("bench", sum(steps.figures.values()), {"faces": table.num_rows}))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "faces": table.num_rows,
        "identities": int(labels.max(initial=-1)) + 1,
        "set_aside": len(rest),
        "edges": len(pairs),
    }
    return found | {"calibration": cuts.manifest(), "driver_peak_bytes": peak} | steps.figures


def _read(paths: list[Path]) -> pa.Table:
    columns = ["face_id", "image_id", "quality", "embedding"]
    try:
        return pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    except (pa.ArrowInvalid, KeyError) as err:
        what = f"not faces: {str(err).splitlines()[0]}"
        raise ConfigError(
            what, where=str(paths[0]), next_step="files need face_id, image_id, quality, embedding"
        ) from err


def _unit(table: pa.Table) -> tuple[F32, np.ndarray]:
    """Unit vectors, and which rows have one."""
    flat = table["embedding"].combine_chunks()
    dim = table.schema.field("embedding").type.list_size
    vectors = flat.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(flat), dim)
    return spark_cluster.normalised(vectors)


def _write(out: str, face_ids: pa.ChunkedArray, labels: I64) -> None:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"face_id": face_ids, "identity_id": pa.array(labels)}), out, compression="zstd")
