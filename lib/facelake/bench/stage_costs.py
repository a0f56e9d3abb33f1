"""What each stage takes of a lake of synthetic faces: CPU, memory, requests, bytes, files, commits; for bench plan.

Run in a process of its own per lake (`python -m facelake.bench.stage_costs JSON`), so that no stage finds anything warm
that a night would not, and peaks of memory are its own.
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
import pyarrow as pa

from facelake.bench.memory import family_cpu_s
from facelake.config import Config, load_config
from facelake.contracts import F32, FACES, Covers, DataFileName, EventKind, Receipt, Scope, SourceClass
from facelake.embed import Pack
from facelake.erase import Needles
from facelake.events import Event, StageProgress
from facelake.lake.tables import plain
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import Grant, import_folder, write_corpus_file
from facelake.stages.admission.ledger import Entry, evidence_digest, record
from facelake.stages.clustering.stage import cluster
from facelake.stages.core.context import Context
from facelake.stages.embedding.embed import embed
from facelake.stages.erasure.stage import residual
from facelake.stages.gallery.publish import publish
from facelake.stages.models.registry import load_pack
from facelake.testing.proxy import ASKED
from facelake.vectors import encode_embeddings, unit_rows

_PER_PERSON, _SPREAD = 20, 0.9
_TABLES = (
    *("admissions", "faces", "rejects", "chunks", "groups"),
    *("identities", "memberships", "changes", "galleries", "runs"),
)


class Meter:
    """Takes what a stage cost, one after the other."""

    def __init__(self, context: Context, endpoint: str | None) -> None:
        """`endpoint`: of the counting proxy before the store, which runs in a process that is not ours."""
        self._context, self._endpoint = context, endpoint
        self.found: dict[str, dict[str, Any]] = {}
        self._seen_s = 0.0

    def listen(self, event: Event) -> None:
        """Looks at the CPU while workers live: Ray's are gone, and their seconds with them, when a stage ends."""
        if isinstance(event, StageProgress) and event.stage == "embed":
            self._seen_s = family_cpu_s()

    def run(self, stage: str, work: Callable[[], object], **about: float) -> None:
        """Run a stage and keep its figures under its name."""
        logs = self._logs()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins anew
        asked, resident, mine, all_ = self._asked(), _memory("VmRSS"), _own_cpu_s(), family_cpu_s()
        work()
        own = _own_cpu_s() - mine
        workers = max(family_cpu_s(), self._seen_s) - all_ - own
        figures: dict[str, Any] = {"driver_cpu_s": own, "worker_cpu_s": max(workers, 0.0)}
        figures |= {"driver_bytes": _memory("VmHWM") - resident, **about}
        figures |= {key: count - asked.get(key, 0) for key, count in self._asked().items()}
        after = self._logs()
        figures["data_files"] = sum(max(after[name][0] - logs[name][0], 0) for name in _TABLES)
        figures["log_entries"] = sum(after[name][1] - logs[name][1] for name in _TABLES)
        self.found[stage] = figures

    def _asked(self) -> dict[str, int]:
        if self._endpoint is None:
            return {}
        with urllib.request.urlopen(self._endpoint + ASKED) as reply:
            return dict(json.loads(reply.read()))

    def _logs(self) -> dict[str, tuple[int, int]]:
        """Data files and log entries of each table."""
        shots = {name: self._context.lake[name].snapshot() for name in _TABLES}
        return {name: (len(shot.files), shot.version + 1) for name, shot in shots.items()}


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory(key: str) -> int:
    """Bytes of this process as /proc says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def measure_faces(
    config: Config, faces: int, dim: int, per_file: int, photos_per_file: int, endpoint: str | None
) -> dict[str, Any]:
    """admit, cluster, publish and the scan of an erasure over `faces` synthetic faces, one per photo."""
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
    return meter.found


def measure_photos(config: Config, folder: str, endpoint: str | None) -> dict[str, Any]:
    """admit and embed over a folder of photos."""
    with writing(config, "bench") as context:
        context.lake.mark_as_demo()
        meter = Meter(context, endpoint)
        context.emit = meter.listen
        import_folder(context, folder, grant=Grant())
        photos = list(Path(folder).iterdir())
        size = sum(path.stat().st_size for path in photos)
        admit(context)
        context.pack = load_pack(config)
        meter.run("embed", lambda: embed(context), images=len(photos), image_bytes=size)
        rows = {name: context.lake[name].snapshot().rows for name in ("faces", "rejects")}
        meter.found["embed"] |= {f"{name}_rows": count for name, count in rows.items()}
        largest = max(file.rows for file in context.lake["admissions"].snapshot().files)
        meter.found["embed"] |= {"photos_per_file": largest, "dim": context.pack.card.encoder.dim}
    return meter.found


def write_corpus(context: Context, photos: int, per_file: int) -> list[str]:
    """Photos of no bytes, whose source has consented; admit reads no pixel."""
    names = []
    for number, start in enumerate(range(0, photos, per_file)):
        rows: list[dict[str, object]] = [
            {"image_id": f"album-{i % 997:03d}/photo-{i:09d}.jpg", "image": b"", "source_id": "bench"}
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
    """First face and unit vectors (n, dim) of each part of a crowd, 20 faces a person, who lie in all parts."""
    generator, people = np.random.default_rng(0), max(faces // _PER_PERSON, 1)
    person = generator.permutation(np.arange(faces) % people)
    centres = generator.normal(size=(people, dim)).astype(np.float32)
    for start in range(0, faces, per_part):
        mine = person[start : start + per_part]
        noise = generator.normal(size=(len(mine), dim)).astype(np.float32)
        vectors = centres[mine] + np.float32(_SPREAD) * noise
        yield start, unit_rows(vectors)


def _write_faces(context: Context, faces: int, dim: int, per_file: int) -> None:
    """Faces as embed leaves them, in the order of their photos."""
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
        "content_sha256": [f"{generator.integers(1 << 62):064x}" for _ in rows],
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
