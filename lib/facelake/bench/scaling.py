"""The command `bench scaling`: the same work in one process and on the engines with 1, 2 and 4 single-threaded workers.

CPU seconds are compared, since wall-clock time is not meaningful on a busy machine; it is reported too. Every run is a
separate process. Fixed costs of the engines (a JVM, Python workers, imports) are separated from costs per face by
measuring two sizes: the difference between the two contains costs per face only.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from facelake.bench.cluster import PRIOR
from facelake.bench.embed import Sizes, write_photos
from facelake.bench.memory import family_cpu_s
from facelake.bench.stage_costs import face_rows, vectors_of, write_corpus
from facelake.config import ClusterSection, RaySection, S3Section, SparkSection, load_config
from facelake.contracts import Chunk, ChunkReceipt, DataFileName
from facelake.engines.chunk_worker import ChunkTask, ChunkWorker, WorkerSpec
from facelake.engines.ray_isolation import isolate_local_ray
from facelake.engines.select_exchange import open_exchange
from facelake.errors import ConfigError
from facelake.events import Event, Listener, StageProgress
from facelake.lake.lake import Lake
from facelake.lake.store import open_store
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.import_images import import_folder
from facelake.stages.clustering.full import FullClustering
from facelake.stages.clustering.source import LocalFiles
from facelake.stages.clustering.work import Work
from facelake.stages.embedding.embed import embed
from facelake.stages.models.registry import load_pack

_DIM, _FILES = 128, 8
_ALONE, _PAIR = "in process", "in process, two at once"
_CHUNK_ROWS = 16  # photos per chunk, so that two hundred photos make chunks for four workers
_EVERY = 32  # chunks per commit and per corpus file, so that memory is measured at file boundaries
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def scaling(sizes: Sequence[int], workers: Sequence[int], emit: Listener) -> dict[str, Any]:
    """Clustering of two sizes, in one process and on Spark: CPU and wall-clock seconds.

    Cores that share caches and pipelines are slower when both are busy. Therefore two processes at once, each with all
    the work, are measured too, and the CPU time of several workers is compared with that of one of these.

    Raises:
        ConfigError: not two sizes; a run failed.
    """
    if len(sizes) != 2:
        raise ConfigError(
            "two sizes are needed", where="--faces", next_step="give two sizes, for example --faces 30000,120000"
        )
    return _compared({"what": "cluster"}, "faces", sizes, workers, emit)


def ray_scaling(images: str, sizes: Sequence[int], workers: Sequence[int], emit: Listener) -> dict[str, Any]:
    """As `scaling`, for embed on Ray: two numbers of photos, derived from those of a folder.

    Raises:
        ConfigError: not two sizes; no photos; a run failed.
    """
    if len(sizes) != 2:
        raise ConfigError(
            "two sizes are needed", where="--photos", next_step="give two numbers, for example --photos 200,600"
        )
    return _compared({"what": "embed", "images": images}, "photos", sizes, workers, emit)


def _compared(
    order: dict[str, Any], unit: str, sizes: Sequence[int], workers: Sequence[int], emit: Listener
) -> dict[str, Any]:
    """Measure all configurations at both sizes; the overhead of each for the additional units, relative to one
    process.
    """
    rows: list[dict[str, Any]] = []
    for way in (_ALONE, _PAIR, *workers):
        for size in sizes:
            run = order | {unit: size, "workers": way if isinstance(way, int) else 0}
            emit(StageProgress("bench", len(rows), {"workers": run["workers"], unit: size}))
            rows.append({"workers": way, unit: size} | (_pair(run) if way == _PAIR else _alone(run)))
    by = {(row["workers"], row[unit]): row["cpu_s"] for row in rows}
    small, large = sizes
    more = {way: by[way, large] - by[way, small] for way in (_ALONE, _PAIR, *workers)}
    overhead = {str(way): round(more[way] / more[_ALONE if way == 1 else _PAIR] - 1, 3) for way in workers}
    return {"rows": rows, f"overhead_of_more_{unit}": overhead}


def _alone(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder:
        return _child(order | {"folder": folder})


def _pair(order: dict[str, Any]) -> dict[str, Any]:
    """Run the same order twice concurrently; means of the two."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(_alone, (order, order))
    means = {name: round((first[name] + second[name]) / 2, 2) for name in ("cpu_s", "seconds")}
    return first | means


def driver_growth(chunks: Sequence[int], chunk_rows: int) -> dict[str, Any]:
    """Growth of the memory of embed's driver with the number of faces; a stub takes the place of the workers.

    The stub stages rows with embeddings of two dimensions, so that no photo is needed; the driver plans, commits and
    reads its logs as usual. The memory is what `tracemalloc` reports as allocated after the last commit; allocations of
    delta-rs are not included.

    Raises:
        ConfigError: not two sizes; a run failed.
    """
    if len(chunks) != 2 or chunks[0] == chunks[1]:
        raise ConfigError(
            "two sizes are needed",
            where="--chunks",
            next_step="give two numbers above 1536, for example --chunks 1600,3200",
        )
    runs = []
    for count in chunks:
        with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder:
            runs.append(_child({"what": "driver", "chunks": count, "chunk_rows": chunk_rows, "folder": folder}))
    faces, held_bytes = (runs[1][name] - runs[0][name] for name in ("faces", "python_bytes_at_end"))
    return {"chunk_rows": chunk_rows, "runs": runs, "bytes_per_thousand_faces": round(1000 * held_bytes / faces, 1)}


def _child(order: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "facelake.bench.scaling", json.dumps(order)]
    env = os.environ | _ONE_THREAD
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        why = (done.stderr.splitlines() or ["no output"])[-1]
        raise ConfigError(f"a run failed: {why}", where="bench scaling", next_step="run it again")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _cluster(faces: int, workers: int, folder: str) -> dict[str, Any]:
    """Run the clustering steps on synthetic faces; 0 workers: in this process."""
    paths = _write(faces, folder)
    section = SparkSection(master=f"local[{max(workers, 1)}]", in_process_below=0 if workers else faces + 1)
    exchange = open_exchange(section, faces)
    store = open_store(f"{folder}/work")
    work = Work(LocalFiles(paths), store.uri, S3Section().model_dump_json(), "bench", _DIM)
    began, cpu = time.monotonic(), family_cpu_s()
    clustered = FullClustering(work, exchange, ClusterSection(), PRIOR, lambda *_, **__: None).run()
    used, took = family_cpu_s() - cpu, time.monotonic() - began
    exchange.close()
    return {"groups": int(clustered.labels.max()) + 1, "cpu_s": round(used, 2), "seconds": round(took, 1)}


def _write(faces: int, folder: str) -> tuple[str, ...]:
    paths = []
    for start, vectors in vectors_of(faces, _DIM, -(-faces // _FILES)):
        paths.append(f"{folder}/{start}.parquet")
        pq.write_table(face_rows("bench", start, vectors), paths[-1])
    return tuple(paths)


class _StubEmbedder:
    """Takes the place of RayEmbedder: stages synthetic rows without photos."""

    size = running = 2

    def __init__(self, spec: Any, *_: object) -> None:
        self._spec, self._lake = spec, Lake.open(spec.lake_uri, spec.s3)

    def run(self, tasks: Iterator[ChunkTask]) -> Iterator[ChunkReceipt]:
        for task in tasks:
            yield from map(self._receipt, task.chunks)

    def _receipt(self, chunk: Chunk) -> ChunkReceipt:
        count, digest = len(chunk.rows), self._spec.model_digest
        rows = face_rows(digest, chunk.row_start, np.zeros((count, 2), np.float32))
        staged = self._lake["faces"].stage(rows, DataFileName.of_chunk(digest, chunk.corpus_file, chunk.row_start))
        return ChunkReceipt(chunk, staged, None, embedded=count, rejected=0, face_rows=count, reasons={}, seconds=0.0)

    def close(self) -> None:
        """Nothing to stop."""


class _InProcess:
    """In place of Ray: chunks one after the other, here."""

    size = running = 1

    def __init__(self, spec: WorkerSpec, *_: object) -> None:
        self._worker = ChunkWorker(spec)

    def run(self, tasks: Iterator[ChunkTask]) -> Iterator[ChunkReceipt]:
        for task in tasks:
            yield from self._worker.run(task)

    def close(self) -> None:
        """Nothing to stop."""


def _embed(images: str, photos: int, workers: int, folder: str) -> dict[str, Any]:
    """Run embed on the photos; 0 workers: in this process. Measured up to the last receipt, while workers still run."""
    isolate_local_ray(RaySection())
    from facelake.engines import ray_embed

    if not workers:
        ray_embed.RayEmbedder = _InProcess  # type: ignore[misc,assignment]
    write_photos(images, Path(folder, "photos"), Sizes(photos, 1, 0))
    overrides = {"embed.actors": max(workers, 1), "ray.num_cpus": max(workers, 1), "embed.chunk_rows": _CHUNK_ROWS}
    config = load_config(lake=f"{folder}/lake", overrides=overrides)
    marks: list[tuple[float, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, StageProgress) and event.stage == "embed":
            marks.append((time.monotonic(), family_cpu_s()))

    with writing(config, "bench", listen) as context:
        context.lake.mark_as_demo()
        import_folder(context, f"{folder}/photos", grant=Grant("b"))
        admit(context)
        context.pack = load_pack(config)
        began, cpu = time.monotonic(), family_cpu_s()
        counts = embed(context).counts
    return {"faces": counts["faces"], "cpu_s": round(marks[-1][1] - cpu, 2), "seconds": round(marks[-1][0] - began, 1)}


def _make_room_for_names() -> None:
    """Grow Python's table of interned strings beforehand, because pathlib interns every file name.

    Names are released again, but the table is occasionally reallocated, four megabytes at once, which would distort the
    measurement.
    """
    names = [sys.intern(f"a file's name {number}") for number in range(400_000)]
    del names


def _driver(chunks: int, chunk_rows: int, folder: str) -> dict[str, Any]:
    from facelake.engines import ray_embed  # Ray takes long to import and is not needed for clustering

    ray_embed.RayEmbedder = _StubEmbedder  # type: ignore[misc,assignment]
    overrides = {"embed.chunk_rows": chunk_rows, "embed.commit_every_chunks": _EVERY}
    config = load_config(lake=f"{folder}/lake", overrides=overrides)
    marks: list[tuple[int, int]] = []

    def listen(event: Event) -> None:
        if isinstance(event, StageProgress) and event.stage == "embed" and event.done % (_EVERY * chunk_rows) == 0:
            gc.collect()  # excludes objects that are only waiting for collection
            marks.append((event.done, tracemalloc.get_traced_memory()[0]))

    with writing(config, "bench", listen) as context:
        context.lake.mark_as_demo()
        write_corpus(context, chunks * chunk_rows, _EVERY * chunk_rows)
        admit(context)
        context.pack = load_pack(config)
        _make_room_for_names()
        tracemalloc.start()
        embed(context)
    faces, traced_bytes = marks[-1]
    return {"faces": faces, "commits": len(marks), "python_bytes_at_end": traced_bytes}


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order in this process."""
    if order["what"] == "driver":
        return _driver(order["chunks"], order["chunk_rows"], order["folder"])
    if order["what"] == "embed":
        return _embed(order["images"], order["photos"], order["workers"], order["folder"])
    return _cluster(order["faces"], order["workers"], order["folder"])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
