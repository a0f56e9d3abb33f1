"""The command `bench erase`: erases subjects from a lake of synthetic faces and measures time and residuals."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from facelake.bench.synthetic_lake import completed_rows
from facelake.config import Config
from facelake.contracts import ADMISSIONS, FACES, GROUPS, Covers, DataFileName
from facelake.erase import Needles
from facelake.errors import ConfigError
from facelake.events import Event, Listener, StageProgress
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.core.context import Context
from facelake.stages.erasure.lake_scan import residual
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.gallery.publish import publish
from facelake.vectors import encode_embeddings, unit_rows

_PER_FILE, _PER_PERSON, _DIM = 10_000, 20, 128
_STEPS = ("find", "rows", "gallery", "names", "corpus", "purge", "scan", "certificate")


def erase_subjects(config: Config, faces: int, subjects: int, emit: Listener) -> dict[str, Any]:
    """Create a lake of `faces` synthetic faces, erase `subjects` of its people, and scan it for residuals.

    Raises:
        ConfigError: the lake's root is not empty, or `subjects` exceeds the number of people.
    """
    people = max(faces // _PER_PERSON, 1)
    if subjects > people:
        what = f"{faces} faces belong to {people} people"
        raise ConfigError(what, where="--subjects", next_step=f"erase at most {people}")
    marks: list[tuple[int, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, StageProgress) and event.stage == "erase":
            marks.append((event.done, time.monotonic()))
        emit(event)

    with writing(config, "bench", listen) as context:
        if context.lake["faces"].version() >= 0:
            raise ConfigError("the lake already exists", where=config.lake, next_step="give an empty --lake")
        began = time.monotonic()
        build_lake(context, faces)
        built = time.monotonic() - began
        chosen = np.sort(np.random.default_rng(1).choice(people, subjects, replace=False))
        names = [_subject(int(person)) for person in chosen]
        size = _bytes(context.lake)
        others = _others(context.lake, names)
        began = time.monotonic()
        result = erase(context, Request.of(subjects=names))
        seconds = time.monotonic() - began
        scanned, hits = residual(context, Needles.of(names))
        same = others.equals(_others(context.lake, names))
    moments = [began, *(moment for _, moment in sorted(marks))]
    steps = {name: round(b - a, 2) for name, a, b in zip(_STEPS, moments, moments[1:], strict=False)}
    return {
        "faces": faces,
        "subjects": subjects,
        "erased_faces": result.counts["faces"],
        "lake_bytes": size,
        "build_s": round(built, 1),
        "erase_s": round(seconds, 2),
        "steps_s": steps,
        "objects_scanned": scanned,
        "residual_hits": sum(hits.values()),
        "others_identical": same,
        "certificate": result.certificate,
    }


def _subject(person: int) -> str:
    return f"subject-{person:08d}"


def _bytes(lake: Lake) -> int:
    return sum(item.size_bytes for item in lake.store.list())


def _others(lake: Lake, names: list[str]) -> pa.Table:
    """The faces of all other people, all columns, sorted by face_id."""
    erased = {f"{name}/{i}.jpg" for name in names for i in range(_PER_PERSON)}
    rows = lake["faces"].read()
    kept = [image not in erased for image in rows["image_id"].to_pylist()]
    return rows.filter(pa.array(kept)).sort_by("face_id").combine_chunks()


def build_lake(context: Context, faces: int) -> None:
    """Write synthetic faces, admissions and groups, then publish; the faces of a person are spread over all files."""
    generator, people = np.random.default_rng(0), max(faces // _PER_PERSON, 1)
    person = generator.permutation(np.arange(faces) % people)
    count = np.zeros(people, np.int64)
    receipts: dict[str, list[Any]] = {name: [] for name in ("admissions", "faces", "groups")}
    centres = generator.normal(size=(people, _DIM)).astype(np.float32)
    for number, start in enumerate(range(0, faces, _PER_FILE)):
        part = person[start : start + _PER_FILE]
        nth = np.empty(len(part), np.int64)
        for i, owner in enumerate(part.tolist()):
            nth[i], count[owner] = count[owner], count[owner] + 1
        vectors = centres[part] + generator.normal(size=(len(part), _DIM)).astype(np.float32)
        vectors = unit_rows(vectors)
        for name, table in _tables(context, f"c-{number:05d}.parquet", start, part, nth, vectors).items():
            corpus_file = f"c-{number:05d}.parquet"
            file_name = DataFileName.of_chunk(context.model_digest, corpus_file, start)
            if name == "admissions":
                file_name = DataFileName.of_corpus_file(corpus_file)
            receipts[name].append(context.lake[name].stage(table, file_name))
    for name, staged in receipts.items():
        context.lake[name].commit(staged)
    publish(context)


def _tables(
    context: Context, file: str, start: int, people: np.ndarray, nth: np.ndarray, vectors: np.ndarray
) -> dict[str, pa.Table]:
    images = [f"{_subject(p)}/{n}.jpg" for p, n in zip(people.tolist(), nth.tolist(), strict=True)]
    ids = [f"{start + i:032x}" for i in range(len(people))]
    rows = np.arange(len(people))
    admissions = {
        "image_id": images,
        "source_id": ["bench"] * len(people),
        "subject_ref": [_subject(p) for p in people.tolist()],
        "corpus_file": [file] * len(people),
        "corpus_row": rows,
        "admitted": [True] * len(people),
        "covers": [str(Covers.NAMED)] * len(people),
        "purpose": [context.config.purpose] * len(people),
        "ledger_version": [-1] * len(people),
        "content_sha256": [f"{start + i:064x}" for i in range(len(people))],
    }
    faces = {
        "face_id": ids,
        "image_id": images,
        "content_sha256": [f"{start + i:064x}" for i in range(len(people))],
        "box": [[0.0, 0.0, 100.0, 120.0]] * len(people),
        "quality": np.full(len(people), 0.8, np.float32),
        "embedding": encode_embeddings(vectors),
        "model_digest": [context.model_digest] * len(people),
        "corpus_file": [file] * len(people),
        "corpus_row": rows,
    }
    groups = {"face_id": ids, "group_id": people, "score": np.ones(len(people), np.float32)}
    return {
        "admissions": completed_rows(admissions, ADMISSIONS),
        "faces": completed_rows(faces, FACES),
        "groups": completed_rows(groups, GROUPS),
    }
