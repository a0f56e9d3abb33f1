"""Prototypes, exemplars, cores and scores of the identities that changed; the others keep their rows.

An identity that only won faces is represented anew from its row and the new faces, so that a night reads what is new.
Where faces left, or all faces were grouped again, every face of a changed identity is read. Files are read one by one,
and vectors of candidates for exemplars are held for a range of identities at a time, so memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.contracts import F16, F32, F64, I64, Bool
from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.publish.prototypes import add_weighted, core_faces, exemplars, means_of, weight_of
from facelake.vectors import decode_embeddings, unit_rows

CORE = 5
_CANDIDATES = 24  # faces of one identity among which exemplars are chosen, besides those that it has
_HELD_BYTES = 1 << 31  # of candidates' vectors
_KEPT_BYTES = 1 << 29  # of vectors that are kept from the first pass for the second


@dataclass(slots=True)
class Represented:
    """Per group (0..count-1; only of touched ones) and per face what its row says."""

    prototype: F32
    cohesion: F32
    weight: F64
    score: F32
    """(n,) NaN where the face was not read"""
    core: Bool
    """(n,)"""
    exemplars: dict[int, list[tuple[str, bytes]]] = field(default_factory=dict)
    """face id and float16 vector, the one most like the prototype first"""


@dataclass(slots=True)
class Faces:
    """The grouped faces, by face id, and where their vectors lie."""

    lake: Lake
    ids: pa.Array
    """(n,) ascending"""
    files: tuple[str, ...]
    """data files of the faces table that may hold them"""
    dim: int
    _keys: I64 = field(init=False)
    _order: I64 = field(init=False)

    @classmethod
    def of(cls, lake: Lake, ids: pa.Array, files: tuple[str, ...]) -> Faces:
        """Faces whose vectors have the dimension of those in the files; 0 when there is none."""
        table, dim = lake["faces"], 0
        for file in table.snapshot().files:
            if file.path in files and (dim := columns.dimension(table.file(file, ["embedding"])["embedding"])):
                break
        return cls(lake, ids, files, dim)

    def __post_init__(self) -> None:
        keys = columns.keys(self.ids)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, column: pa.ChunkedArray | pa.Array) -> I64:
        """Position (m,) of each face id among `ids`, -1 where it is not there."""
        if not len(self._keys):
            return np.full(len(column), -1, np.int64)
        keys = columns.keys(column)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._order[at], -1)

    def vectors(self, wanted: Bool) -> Iterator[tuple[I64, F32, F32]]:
        """(positions, unit vectors, quality) of the wanted faces (n,), file by file; each face once.

        Raises:
            Corrupt: a wanted face is in no file.
        """
        found = 0
        table = self.lake["faces"]
        for file in table.snapshot().files:
            if file.path not in self.files:
                continue
            at = self.find(table.file(file, ["face_id"])["face_id"])
            mine = (at >= 0) & wanted[np.maximum(at, 0)]
            if not mine.any():
                continue
            held = table.file(file, ["quality", "embedding"]).filter(pa.array(mine))
            matrix, _ = columns.vectors(held["embedding"], self.dim)
            quality = np.nan_to_num(held["quality"].to_numpy().astype(np.float32))
            found += len(matrix)
            yield at[mine], matrix, quality
        if found != int(wanted.sum()):
            what = f"{int(wanted.sum()) - found} grouped faces are not in the faces table"
            raise Corrupt(what, where="groups", next_step="run `facelake nightly` again: cluster will be redone")


@dataclass(frozen=True, slots=True)
class Known:
    """What rows of yesterday say of the groups that take them over whole."""

    group: I64
    """(known,) the group of each such identity"""
    prototype: F32
    cohesion: F32
    weight: F32
    exemplars: list[list[bytes]]
    exemplar_faces: list[list[str]]

    @classmethod
    def none(cls, dim: int) -> Known:
        """Nothing is taken over."""
        empty = np.zeros(0, np.float32)
        return cls(np.zeros(0, np.int64), np.zeros((0, dim), np.float32), empty, empty, [], [])


def represent(faces: Faces, labels: I64, touched: Bool, read: Bool, score: F32, known: Known, most: int) -> Represented:
    """Represent the touched groups.

    Args:
        labels: (n,) group of each face; touched: (groups,).
        read: (n,) faces of touched groups whose vectors count on their own; the others come with `known`.
        score: (n,) of yesterday, NaN for new faces.
        most: exemplars per identity.
    """
    count = len(touched)
    sums, total = np.zeros((count, faces.dim)), np.zeros(count)
    for name, group in enumerate(known.group):
        sums[group] += known.prototype[name].astype(float) * float(known.cohesion[name]) * float(known.weight[name])
        total[group] += float(known.weight[name])
    few = int(read.sum()) * faces.dim * 4 <= _KEPT_BYTES
    kept: list[tuple[I64, F32, F32]] = []
    for at, vectors, quality in faces.vectors(read):
        if few:
            kept.append((at, vectors, quality))
        add_weighted(vectors, weight_of(quality), labels[at], sums, total)
    prototype, cohesion = means_of(sums, total)
    del sums
    out = Represented(prototype, cohesion, total, score.copy(), np.zeros(len(labels), bool))
    candidates = read & core_faces(np.where(read, labels, -1), np.zeros(len(labels), np.float32), _CANDIDATES)
    for first, last in _ranges(labels[candidates], count, faces.dim):
        here = read & (labels >= first) & (labels < last)
        if here.any() or ((known.group >= first) & (known.group < last)).any():
            found = _among(kept, here) if few else faces.vectors(here) if here.any() else ()
            _finish(faces, labels, found, candidates & here, known, (first, last), most, out)
    mine = touched[labels]
    out.core[mine] = core_faces(labels[mine], out.score[mine], CORE)
    return out


def _among(kept: Iterable[tuple[I64, F32, F32]], wanted: Bool) -> Iterator[tuple[I64, F32, F32]]:
    """The wanted ones (n,) of (positions, vectors, quality)."""
    for at, vectors, quality in kept:
        mine = wanted[at]
        yield (at, vectors, quality) if mine.all() else (at[mine], vectors[mine], quality[mine])


def _finish(
    faces: Faces, labels: I64, found: Iterable[tuple[I64, F32, F32]], candidates: Bool, known: Known,
    span: tuple[int, int], most: int, out: Represented,
) -> None:  # fmt: skip
    """Scores of the found faces (positions, vectors, quality) of a range of groups, and its exemplars."""
    held: list[tuple[I64, F16, F32]] = []
    for at, vectors, quality in found:
        out.score[at] = np.einsum("ij,ij->i", vectors, out.prototype[labels[at]])
        mine = candidates[at]
        held.append((at[mine], vectors[mine].astype(np.float16), quality[mine]))
    at = np.concatenate([item[0] for item in held]) if held else np.zeros(0, np.int64)
    names = faces.ids.take(pa.array(at)).to_pylist()
    group = labels[at]
    vectors = np.concatenate([item[1] for item in held]) if held else np.zeros((0, faces.dim), np.float16)
    quality = np.concatenate([item[2] for item in held]) if held else np.zeros(0, np.float32)
    olds = [i for i, g in enumerate(known.group) if span[0] <= g < span[1]]
    old = [(int(known.group[i]), f, v) for i in olds for f, v in zip(
        known.exemplar_faces[i], known.exemplars[i], strict=True)]  # fmt: skip
    if old:
        group = np.concatenate([group, np.array([g for g, _, _ in old], np.int64)])
        names += [face for _, face, _ in old]
        vectors = np.concatenate([vectors, decode_embeddings((v for _, _, v in old), faces.dim)])
        quality = np.concatenate([quality, np.ones(len(old), np.float32)])
    if not len(group):
        return
    order = np.lexsort((np.array(names, object).astype(str), group))
    single = unit_rows(vectors[order].astype(np.float32), least=1e-9)
    chosen = exemplars(single, weight_of(quality[order]), group[order], out.prototype, out.cohesion, most)
    like = np.einsum("ij,ij->i", single[chosen], out.prototype[group[order][chosen]])
    picked = order[chosen]
    for k in np.lexsort((-like, group[picked])):
        place = int(picked[k])
        body = np.ascontiguousarray(vectors[place].astype("<f2")).tobytes()
        out.exemplars.setdefault(int(group[place]), []).append((names[place], body))


def _ranges(groups: I64, count: int, dim: int) -> Iterator[tuple[int, int]]:
    """Ranges of groups whose candidates fit into memory together."""
    held = np.cumsum(np.bincount(groups, minlength=count)) * (2 * dim)
    first = 0
    while first < count:
        before = int(held[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(held, before + _HELD_BYTES, side="right")))
        yield first, last
        first = last


def float_lists(matrix: F32, there: Bool | None = None) -> pa.ListArray:
    """Rows (n, dim) as an Arrow list column; null where `there` is false."""
    count, dim = matrix.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * dim)
    lists = pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel(), pa.float32()))
    if there is None:
        return lists
    return pc.if_else(pa.array(there), lists, pa.scalar(None, lists.type))
