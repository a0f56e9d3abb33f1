"""Lakes of synthetic faces and groups, without photos: admissions, faces and groups tables, file by file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facelake.cluster.columns import mix
from facelake.contracts import ADMISSIONS, F32, FACES, GROUPS, I64, Covers, DataFileName, EventKind, Receipt, Scope
from facelake.lake.data_files import plain
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context

_FACES_PER_FILE = 8_192
_SOURCE = "bench"
_POOL = 4_096  # random directions of which every identity's centre is the sum of three
_NOISE = 0.55  # of a face beside its identity's centre, both of unit length


@dataclass(frozen=True, slots=True)
class Population:
    """Synthetic faces: face i is of identity `i % identities`, in a random order of files.

    Attributes:
        faces: how many.
        dim: dimensions of an embedding.
        per_identity: mean faces per identity.
        seed: of everything.
    """

    faces: int
    dim: int
    per_identity: int
    seed: int = 0

    @property
    def identities(self) -> int:
        """Number of identities."""
        return max(self.faces // self.per_identity, 1)

    def identity_of(self, first: int, count: int) -> I64:
        """Return the identity of faces first..first+count-1; the faces of one lie all over the lake."""
        numbers = np.arange(first, first + count)
        return (mix(numbers, self.seed) % np.uint64(self.identities)).astype(np.int64)


def subject_of(identity: int) -> str:
    """Return the subject reference of an identity."""
    return f"subject-{identity:08d}"


def add_faces(context: Context, population: Population, first: int, count: int) -> dict[str, list[Receipt]]:
    """Stage and commit admissions and faces of numbers first..first+count-1; returns the receipts by table.

    The first call records a grant for them.
    """
    grant_once(context, _SOURCE)
    receipts: dict[str, list[Receipt]] = {"admissions": [], "faces": []}
    for start in range(first, first + count, _FACES_PER_FILE):
        size = min(_FACES_PER_FILE, first + count - start)
        identity = population.identity_of(start, size)
        corpus_file = f"c-{start:010d}.parquet"
        tables = _tables(context, population, start, identity, corpus_file)
        receipts["admissions"].append(
            context.lake["admissions"].stage(tables["admissions"], DataFileName.of_corpus_file(corpus_file))
        )
        named = DataFileName.of_chunk(context.model_digest, corpus_file, start)
        receipts["faces"].append(context.lake["faces"].stage(tables["faces"], named))
    for name, staged in receipts.items():
        context.lake[name].commit(staged)
    return receipts


def grant_once(context: Context, source: str) -> None:
    """Record a grant for the photos of a source, unless the ledger has events."""
    if context.lake["ledger"].version() < 0:
        grant = Entry(EventKind.GRANT, Scope.SOURCE, source, (context.config.purpose,), basis="synthetic faces")
        record(context.lake, [grant])


def admitted_rows(
    context: Context, source: str, corpus_file: str, photos: dict[str, list[str]], covers: Covers
) -> pa.Table:
    """Return rows of the admissions table: the photos of one corpus file, all admitted.

    Args:
        context: of the run.
        source: of the photos.
        corpus_file: whose rows they are, in order.
        photos: image_id, subject_ref and content_sha256 of each.
        covers: whom the admission covers.
    """
    count = len(photos["image_id"])
    values = photos | {
        "source_id": [source] * count,
        "corpus_file": [corpus_file] * count,
        "corpus_row": np.arange(count),
        "admitted": [True] * count,
        "covers": [str(covers)] * count,
        "purpose": [context.config.purpose] * count,
        "ledger_version": [-1] * count,
    }
    return completed_rows(values, ADMISSIONS)


def write_groups(context: Context, population: Population, count: int) -> None:
    """Replace the groups table: the true groups of faces 0..count-1, in files as clustering writes them."""
    table = context.lake["groups"]
    staged = [table.stage(rows) for rows in _group_rows(population, count)]
    table.commit(staged, table.snapshot().files)


def _group_rows(population: Population, count: int) -> Iterator[pa.Table]:
    for start in range(0, count, _FACES_PER_FILE):
        size = min(_FACES_PER_FILE, count - start)
        values = {
            "face_id": _face_ids(start, size),
            "group_id": population.identity_of(start, size),
            "score": np.ones(size, np.float32),
        }
        yield completed_rows(values, GROUPS)


def _tables(
    context: Context, population: Population, start: int, identity: I64, corpus_file: str
) -> dict[str, pa.Table]:
    count = len(identity)
    numbers = range(start, start + count)
    images = [f"image-{number:010d}.jpg" for number in numbers]
    row = np.arange(count)
    digests = [f"{number:064x}" for number in numbers]
    photos = {
        "image_id": images,
        "subject_ref": [subject_of(number) for number in identity.tolist()],
        "content_sha256": digests,
    }
    vectors = _vectors(population, start, identity).astype("<f2")
    offsets = pa.py_buffer((np.arange(count + 1, dtype=np.int32) * (2 * population.dim)).tobytes())
    faces = {
        "face_id": _face_ids(start, count),
        "image_id": images,
        "content_sha256": digests,
        "covers": [str(Covers.NAMED)] * count,
        "box": [[0.0, 0.0, 100.0, 120.0]] * count,
        "quality": np.full(count, 0.8, np.float32),
        "embedding": pa.Array.from_buffers(pa.binary(), count, [None, offsets, pa.py_buffer(vectors.tobytes())]),
        "model_digest": [context.model_digest] * count,
        "corpus_file": [corpus_file] * count,
        "corpus_row": row,
    }
    admissions = admitted_rows(context, _SOURCE, corpus_file, photos, Covers.NAMED)
    return {"admissions": admissions, "faces": completed_rows(faces, FACES)}


def _face_ids(start: int, count: int) -> list[str]:
    return [f"{number:032x}" for number in range(start, start + count)]


def _vectors(population: Population, start: int, identity: I64) -> F32:
    """Return unit vectors (n, dim): each identity's centre and noise of the face."""
    pool = np.random.default_rng(population.seed).standard_normal((_POOL, population.dim), np.float32)
    centre = sum(pool[(mix(identity, 7 + k) % np.uint64(_POOL)).astype(np.int64)] for k in range(3))
    noise = np.random.default_rng((population.seed, start)).standard_normal(np.shape(centre), np.float32)
    unit = centre / np.linalg.norm(centre, axis=1, keepdims=True)
    vectors = unit + _NOISE * noise / np.sqrt(population.dim)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def completed_rows(values: dict[str, object], schema: pa.Schema) -> pa.Table:
    """Return a table of the schema; columns that are not given are null."""
    count = len(values["face_id" if "face_id" in values else "image_id"])  # type: ignore[arg-type]
    arrays = {
        name: pa.array(values[name], schema.field(name).type)
        if name in values
        else pa.nulls(count, schema.field(name).type)
        for name in schema.names
    }
    return pa.table(arrays, schema=plain(schema))
