"""bench cluster: a folder of embeddings into identities, outside any lake."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.bench.memory import PeakMemory
from facelake.cluster import columns
from facelake.cluster.calibrate import Prior
from facelake.config import Config
from facelake.engines.exchange import Exchange
from facelake.engines.select_exchange import open_exchange
from facelake.errors import ConfigError
from facelake.events import Listener, StageFinished, StageProgress, StageStarted
from facelake.lake.store import open_store
from facelake.stages.clustering.full import STEPS, FullClustering, Progress
from facelake.stages.clustering.result import Clustered, groups_of
from facelake.stages.clustering.source import LocalFiles
from facelake.stages.clustering.work import Work
from facelake.stages.core.context import digest_of

# Similarities assumed for a corpus that is too small to tell, by dimension: those of the default pack's card, and of
# ArcFace encoders of 512 dimensions. Larger corpora are measured.
PRIORS = {128: Prior(impostor_mean=0.12, impostor_sd=0.09, genuine_mean=0.80)}
PRIOR = Prior(impostor_mean=0.05, impostor_sd=0.09, genuine_mean=0.65)
_COLUMNS = ("face_id", "image_id", "quality", "embedding")


def cluster_files(
    config: Config, folder: str, out: str, emit: Listener, *, work: str | None = None, keep: bool = False
) -> dict[str, Any]:
    """Cluster every face of the Parquet files under folder; writes face_id and identity_id.

    Rows whose vector is missing, of another dimension, not finite or zero stay alone; others are normalised.

    Args:
        work: where steps leave what they made; with the same folder and settings a run goes on from there.
        keep: leave the work folder when done.

    Raises:
        ConfigError: no Parquet files, columns that are not faces', vectors of two models.
    """
    began = time.monotonic()
    paths = tuple(str(path) for path in sorted(Path(folder).rglob("*.parquet")))
    dim, total = _check(paths, folder)
    place = work or tempfile.mkdtemp(prefix="facelake-cluster-")
    emit(StageStarted("bench", len(STEPS), "steps"))
    memory = PeakMemory()
    peaks: dict[str, int] = {}

    def progress(step: str, *, done: bool) -> None:
        if done:
            peaks[step] = memory.lap()
        else:
            emit(StageProgress("bench", len(peaks), {"step": step}))

    with memory:
        exchange = open_exchange(config.spark, total)
        started = time.monotonic() - began
        try:
            clustered = _full_clustering(config, paths, dim, place, exchange, progress).run()
            _write(paths, out, clustered)
        finally:
            exchange.close()
    if not work or not keep:
        shutil.rmtree(place, ignore_errors=True)
    seconds = time.monotonic() - began
    emit(StageFinished("bench", seconds, {"faces": total}))
    figures: dict[str, Any] = {"faces": total, "identities": int(clustered.labels.max(initial=-1)) + 1}
    figures["set_aside"] = {name: count for name, count in clustered.states.items() if count and name != "sound"}
    figures |= {"duplicates": clustered.duplicates, "dim": dim}
    figures["identities"] += sum(figures["set_aside"].values())
    figures |= {"seconds": round(seconds, 1), "spark_start_s": round(started, 1)}
    costs = clustered.costs.items()
    figures["steps"] = {step: asdict(cost) | {"peak_bytes": peaks.get(step, 0)} for step, cost in costs}
    figures |= {"edges": clustered.edges, "peak_bytes_all_processes": memory.peak_bytes} | _rates(clustered, dim)
    return figures | clustered.manifest


def _rates(clustered: Clustered, dim: int) -> dict[str, float]:
    """The join's arithmetic per second, shuffles and all, against what one product of two matrices reaches here."""
    if "join" not in clustered.costs:
        return {}
    side = np.ones((3000, 3000), np.float32)
    began = time.monotonic()
    for _ in range(4):
        side @ side
    peak = 4 * 2 * 3000**3 / (time.monotonic() - began) / 1e9
    rate = 2 * clustered.compared * dim / clustered.costs["join"].seconds / 1e9
    return {"join_gflops": round(rate, 1), "sgemm_gflops": round(peak, 1)}


def _full_clustering(
    config: Config, paths: tuple[str, ...], dim: int, place: str, exchange: Exchange, progress: Progress
) -> FullClustering:
    store = open_store(place, config.s3)
    s3 = config.s3.model_dump_json()
    stamp = [(path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in paths]
    state = digest_of(stamp, config.digest("cluster"), dim)
    work = Work(LocalFiles(paths), store.uri, s3, state, dim)
    prior = PRIORS.get(dim, PRIOR)
    return FullClustering(work, exchange, config.cluster, prior, progress, config.spark.scratch_bytes)


def _check(paths: tuple[str, ...], folder: str) -> tuple[int, int]:
    """Dimension and number of the faces."""
    if not paths:
        next_step = f"give a folder of Parquet files with {', '.join(_COLUMNS)}"
        raise ConfigError("no Parquet files", where=folder, next_step=next_step)
    total, models, dims = 0, set[str](), dict[int, int]()
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                missing = [name for name in _COLUMNS if name not in names]
                if missing:
                    what = f"not faces: no column {', '.join(missing)}"
                    raise ConfigError(what, where=path, next_step=f"files need {', '.join(_COLUMNS)}")
                _check_types(file.schema_arrow, path)
                total += file.metadata.num_rows
                if "model_id" in names:
                    models |= {str(value) for value in file.read(["model_id"])["model_id"].unique().to_pylist()}
                if file.metadata.num_rows:
                    first = next(file.iter_batches(1000, columns=["embedding"])).column(0)
                    dim = columns.dimension(first)
                    dims[dim] = dims.get(dim, 0) + file.metadata.num_rows
        except (pa.ArrowInvalid, pa.ArrowTypeError, NotImplementedError, AttributeError) as err:
            what = f"not faces: {str(err).splitlines()[0]}"
            raise ConfigError(what, where=path, next_step=f"files need {', '.join(_COLUMNS)}") from err
    if len(models) > 1:
        what = f"vectors of {len(models)} models: {', '.join(sorted(models)[:4])}"
        raise ConfigError(what, where=folder, next_step="cluster each model's faces on their own")
    return max(dims, key=lambda dim: dims[dim]) if dims else 0, total


def _check_types(schema: pa.Schema, path: str) -> None:
    kinds = {name: schema.field(name).type for name in _COLUMNS}
    wrong = [name for name in ("face_id", "image_id") if not _is_text(kinds[name])]
    if not (pa.types.is_floating(kinds["quality"]) or pa.types.is_integer(kinds["quality"])):
        wrong.append("quality")
    if not columns.holds_vectors(kinds["embedding"]):
        wrong.append("embedding")
    if wrong:
        what = f"not faces: column {wrong[0]} is {kinds[wrong[0]]}"
        next_step = "ids are strings, quality is a number, embedding a list of floats or binary float16"
        raise ConfigError(what, where=path, next_step=next_step)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _write(paths: tuple[str, ...], out: str, clustered: Clustered) -> None:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("face_id", pa.string()), ("identity_id", pa.int64())])
    alone = int(clustered.labels.max(initial=-1)) + 1
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for path, number in zip(paths, clustered.number, strict=True):
            identity = groups_of(number, clustered.labels, alone)
            alone += int((number < 0).sum())
            ids = pq.read_table(path, columns=["face_id"])["face_id"].cast(pa.string())
            writer.write_table(pa.table([ids, pa.array(identity)], schema=schema))
