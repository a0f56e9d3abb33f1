"""Costs of each stage on a lake of synthetic faces: CPU, memory, requests, bytes, files, commits; for `bench plan`.

Run in a process of its own per lake (`python -m facelake.bench.stage_costs JSON`), so that caches are as
cold as in a nightly run and memory peaks are those of one lake.
"""

from __future__ import annotations

import json
import resource
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from facelake.bench.counting_proxy import COUNTS_PATH
from facelake.bench.memory import family_cpu_s, own_peak_bytes, reset_own_peak
from facelake.config import Config, load_config
from facelake.contracts import F32, FACES, Covers, DataFileName, EventKind, Receipt, Scope, SourceClass
from facelake.embed import Pack
from facelake.erase import Needles
from facelake.events import Event, StageProgress
from facelake.lake.data_files import plain
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.import_images import import_folder, write_corpus_file
from facelake.stages.admission.ledger import Entry, evidence_digest, record
from facelake.stages.clustering.stage import cluster
from facelake.stages.core.context import Context
from facelake.stages.embedding.embed import embed
from facelake.stages.erasure.lake_scan import residual
from facelake.stages.gallery.publish import publish
from facelake.stages.models.registry import load_pack
from facelake.vectors import encode_embeddings, unit_rows

_PER_PERSON, _SPREAD = 20, 0.9
_TABLES = (
    *("admissions", "faces", "rejects", "chunks", "groups"),
    *("identities", "memberships", "changes", "galleries", "runs"),
)


class Meter:
    """Measures the costs of stages, one after the other."""

    def __init__(self, context: Context, endpoint: str | None) -> None:
        """`endpoint`: of the counting proxy in front of the store, which runs in another process."""
        self._context, self._endpoint = context, endpoint
        self.costs: dict[str, dict[str, Any]] = {}
        self._cpu_while_running_s = 0.0

    def listen(self, event: Event) -> None:
        """Event listener that records CPU time while Ray's workers run, since it is lost when they end."""
        if isinstance(event, StageProgress) and event.stage == "embed":
            self._cpu_while_running_s = family_cpu_s()

    def run(self, stage: str, work: Callable[[], object], **about: float) -> None:
        """Run a stage and store its figures in `costs` under its name."""
        logs = self._logs()
        reset_own_peak()
        requests, resident = self._requests(), psutil.Process().memory_info().rss
        own_before, all_before = _own_cpu_s(), family_cpu_s()
        work()
        own = _own_cpu_s() - own_before
        workers = max(family_cpu_s(), self._cpu_while_running_s) - all_before - own
        figures: dict[str, Any] = {"driver_cpu_s": own, "worker_cpu_s": max(workers, 0.0)}
        figures |= {"driver_bytes": own_peak_bytes() - resident, **about}
        figures |= {key: count - requests.get(key, 0) for key, count in self._requests().items()}
        after = self._logs()
        figures["data_files"] = sum(max(after[name][0] - logs[name][0], 0) for name in _TABLES)
        figures["log_entries"] = sum(after[name][1] - logs[name][1] for name in _TABLES)
        self.costs[stage] = figures

    def _requests(self) -> dict[str, int]:
        if self._endpoint is None:
            return {}
        with urllib.request.urlopen(self._endpoint + COUNTS_PATH) as reply:
            return dict(json.loads(reply.read()))

    def _logs(self) -> dict[str, tuple[int, int]]:
        """(data files, log entries) of each table."""
        shots = {name: self._context.lake[name].snapshot() for name in _TABLES}
        return {name: (len(shot.files), shot.version + 1) for name, shot in shots.items()}


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure_faces(
    config: Config, faces: int, dim: int, per_file: int, photos_per_file: int, endpoint: str | None
) -> dict[str, Any]:
    """Costs of admit, cluster, publish and the residual scan for `faces` synthetic faces, one per photo."""
    with writing(config, "bench") as context:
        context.lake.mark_as_demo()
        meter = Meter(context, endpoint)
        names = write_corpus(context, faces, photos_per_file)
        meter.run("admit", lambda: admit(context), images=faces, files=len(names))
        _write_faces(context, faces, dim, per_file)
        size = sum(item.size_bytes for item in context.lake.store.list("faces"))
        context.pack = _with_dim(load_pack(config), dim)
        files = len(context.lake["faces"].snapshot().files)
        meter.run("cluster", lambda: cluster(context), faces=faces, files=files, dim=dim, faces_bytes=size)
        meter.run("publish", lambda: publish(context), faces=faces, files=files, dim=dim)
        lake_bytes = sum(item.size_bytes for item in context.lake.store.list())
        objects = sum(1 for _ in context.lake.store.list())
        needles = Needles.of(["nobody-of-this-name"])
        meter.run("scan", lambda: residual(context, needles), lake_bytes=lake_bytes, objects=objects)
    return meter.costs


def measure_photos(config: Config, folder: str, endpoint: str | None) -> dict[str, Any]:
    """Costs of embed for a folder of photos."""
    with writing(config, "bench") as context:
        context.lake.mark_as_demo()
        meter = Meter(context, endpoint)
        context.emit = meter.listen
        import_folder(context, folder, grant=Grant("b"))
        photos = list(Path(folder).iterdir())
        size = sum(path.stat().st_size for path in photos)
        admit(context)
        context.pack = load_pack(config)
        meter.run("embed", lambda: embed(context), images=len(photos), image_bytes=size)
        rows = {name: context.lake[name].snapshot().rows for name in ("faces", "rejects")}
        meter.costs["embed"] |= {f"{name}_rows": count for name, count in rows.items()}
        largest = max(file.rows for file in context.lake["admissions"].snapshot().files)
        meter.costs["embed"] |= {"photos_per_file": largest, "dim": context.pack.card.encoder.dim}
    return meter.costs


def write_corpus(context: Context, photos: int, per_file: int) -> list[str]:
    """Write corpus files of empty photos with a grant for their source; returns the file names. admit reads no
    images.
    """
    names = []
    for number, start in enumerate(range(0, photos, per_file)):
        rows: list[dict[str, object]] = [
            {
                "image_id": f"album-{i % 997:03d}/photo-{i:09d}.jpg",
                "image": b"",
                "source_id": "bench",
                "content_sha256": f"{i:064x}",
            }
            for i in range(start, min(start + per_file, photos))
        ]
        names.append(write_corpus_file(context, rows, f"part-{number:06d}.parquet"))
    grant = Entry(
        EventKind.GRANT,
        Scope.SOURCE,
        "bench",
        (context.config.purpose,),
        "bench",
        evidence_sha256=evidence_digest("bench"),
        covers=Covers.EVERYONE,
        source_class=SourceClass.CONTRIBUTED,
    )
    record(context.lake, [grant])
    return names


def vectors_of(faces: int, dim: int, per_part: int) -> Iterator[tuple[int, F32]]:
    """Yield (first face, unit vectors (n, dim)) of synthetic faces, 20 per person, each person spread over all
    parts.
    """
    generator, people = np.random.default_rng(0), max(faces // _PER_PERSON, 1)
    person = generator.permutation(np.arange(faces) % people)
    centres = generator.normal(size=(people, dim)).astype(np.float32)
    for start in range(0, faces, per_part):
        part = person[start : start + per_part]
        noise = generator.normal(size=(len(part), dim)).astype(np.float32)
        vectors = centres[part] + np.float32(_SPREAD) * noise
        yield start, unit_rows(vectors)


def _write_faces(context: Context, faces: int, dim: int, per_file: int) -> None:
    """Write and commit faces as embed does, in the order of their photos."""
    staged: list[Receipt] = []
    for start, vectors in vectors_of(faces, dim, per_file):
        name = DataFileName.of_chunk(context.model_digest, "part-000000.parquet", start)
        staged.append(context.lake["faces"].stage(face_rows(context.model_digest, start, vectors), name))
    context.lake["faces"].commit(staged)


def face_rows(model_digest: str, start: int, vectors: np.ndarray) -> pa.Table:
    """Rows of the faces table for unit vectors (n, dim), numbered from `start`."""
    count, rows = len(vectors), np.arange(start, start + len(vectors))
    generator = np.random.default_rng(start)
    columns: dict[str, Any] = {name: pa.nulls(count, FACES.field(name).type) for name in FACES.names}
    given = {
        "face_id": [f"{generator.integers(1 << 62):016x}{i:016x}" for i in rows],
        "image_id": [f"album-{i % 997:03d}/photo-{i:09d}.jpg" for i in rows],
        "content_sha256": [f"{i:064x}" for i in rows],
        "box": generator.uniform(0, 600, (count, 4)).astype(np.float32).tolist(),
        "quality": generator.uniform(0.4, 0.9, count).astype(np.float32),
        "embedding": encode_embeddings(vectors),
        "covers": [str(Covers.EVERYONE)] * count,
        "model_digest": [model_digest] * count,
        "corpus_file": ["part-000000.parquet"] * count,
        "corpus_row": rows,
    }
    columns |= {name: pa.array(values, FACES.field(name).type) for name, values in given.items()}
    return pa.table([columns[name] for name in FACES.names], schema=plain(FACES))


def _with_dim(pack: Pack, dim: int) -> Pack:
    encoder = pack.card.encoder.model_copy(update={"dim": dim})
    return replace(pack, card=pack.card.model_copy(update={"encoder": encoder}))


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order of bench plan: {config, endpoint, photos} or {config, endpoint, faces, dim, ...}."""
    config, endpoint = load_config(overrides=order["config"]), order.get("endpoint")
    if "photos" in order:
        return dict(measure_photos(config, order["photos"], endpoint))
    faces, dim, per_file, per_corpus_file = (order[name] for name in ("faces", "dim", "per_file", "photos_per_file"))
    return dict(measure_faces(config, faces, dim, per_file, per_corpus_file, endpoint))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
