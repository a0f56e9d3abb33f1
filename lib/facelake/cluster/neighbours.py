"""Who is near whom: top-k cosine neighbours, exactly or through many small overlapping lists.

The approximate search follows inverted files (Jégou, Douze, Schmid, "Product quantization for nearest neighbor
search", PAMI 2011) without quantisation: each face is in its nearest few lists (lists.py), all pairs of a list are
compared by one matrix product, and a face keeps the best of its lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.cluster import topk
from facelake.cluster.lists import trained_index
from facelake.contracts import F16, F32, I32, I64

_BLOCK = 2048
CELL_PROBES = 8
"""nearest cells in which a face's lists are looked up"""


@dataclass(frozen=True, slots=True)
class Search:
    """How to look for neighbours."""

    k: int = 32
    floor: float = -1.0
    """least cosine of a neighbour"""
    probes: int = 5
    """lists per face"""
    list_size: int = 70
    """faces per list centroid"""
    exact_below: int = 10_000
    """up to this many faces all pairs are compared"""
    seed: int = 0

    @property
    def longest(self) -> int:
        """Longer lists are cut into pieces of this many faces, nearest to the centroid first."""
        return 8 * self.list_size + 2 * self.k


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The best others of n faces: `index` (n, k) int32, best first, -1 where there is none; `cosine` (n, k) float32."""

    index: I32
    cosine: F32

    @classmethod
    def none(cls, count: int, k: int) -> Neighbours:
        """No neighbours yet."""
        return cls(*topk.empty(count, k))

    def ragged(self) -> Ragged:
        """Only what is there."""
        there = self.index >= 0
        start = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int64)
        return Ragged(start, self.index[there], self.cosine[there].astype(np.float16))


@dataclass(frozen=True, slots=True)
class Ragged:
    """Neighbours of n faces without gaps, best first: those of face i lie in [start[i], start[i + 1])."""

    start: I64
    index: I32
    cosine: F16


@dataclass(frozen=True, slots=True)
class FaceNeighbours:
    """Faces (m,), ascending, of one part of the corpus, and their neighbours as face numbers."""

    faces: I32
    near: Ragged

    def sources(self) -> I32:
        """The face (pairs,) whose neighbour it is."""
        return np.repeat(self.faces, np.diff(self.near.start))


def exact_join(vectors: F32, k: int, floor: float) -> Neighbours:
    """All pairs of unit vectors (n, dim), as positions: the reference, and the mode for small corpora."""
    best = Neighbours.none(len(vectors), k)
    everyone = np.arange(len(vectors), dtype=np.int32)
    buffer = np.empty((min(_BLOCK, len(vectors)), len(vectors)), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        rows = everyone[start : start + _BLOCK]
        similarity = np.matmul(vectors[rows], vectors.T, out=buffer[: len(rows)])
        topk.fold(similarity, rows, everyone, rows, floor, (best.index, best.cosine))
    return best


def exact_join_in_threads(vectors: F32, k: int, floor: float) -> Neighbours:
    """As `exact_join`, on all cores."""
    everyone = np.arange(len(vectors), dtype=np.int32)

    def search(rows: I32) -> tuple[I32, F32]:
        best = topk.empty(len(rows), k)
        topk.fold(vectors[rows] @ vectors.T, rows - rows[0], everyone, rows, floor, best)
        return best

    starts = range(0, len(vectors), _BLOCK)
    return Neighbours(*topk.in_threads(search, [everyone[start : start + _BLOCK] for start in starts]))


def join(vectors: F32, search: Search) -> Neighbours:
    """Neighbours among unit vectors (n, dim), as positions: of few all pairs are compared, of many those of a list."""
    if len(vectors) <= search.exact_below:
        return exact_join_in_threads(vectors, search.k, search.floor)
    index = trained_index(vectors, len(vectors), search.list_size, search.seed)
    lists = index.assign(vectors, search.probes, CELL_PROBES)
    row, column = np.nonzero(lists >= 0)
    return join_lists(vectors, row.astype(np.int32), lists[row, column], index.lists, search)


def join_lists(vectors: F32, rows: I32, lists: I32, centroids: F32, search: Search) -> Neighbours:
    """Neighbours among unit vectors (n, dim), as positions, found inside lists.

    Args:
        rows, lists: (m,) pairs: the face at position rows[i] is in list lists[i] (0..).
        centroids: (lists, dim), to cut long lists by.
    """
    best = Neighbours.none(len(vectors), search.k)
    order = np.lexsort((rows, lists))
    bounds = np.searchsorted(lists[order], np.arange(len(centroids) + 1))
    buffer = np.empty(search.longest**2, np.float32)
    for centroid, first, last in zip(centroids, bounds[:-1], bounds[1:], strict=True):
        for members in _pieces(vectors, rows[order[first:last]], centroid, search.longest):
            if len(members) > 1:
                inside, size = vectors[members], len(members)
                similarity = np.matmul(inside, inside.T, out=buffer[: size * size].reshape(size, size))
                topk.fold(similarity, members, members, members, search.floor, (best.index, best.cosine))
    return best


def compared_pairs(lists: I32, search: Search) -> int:
    """How many pairs join_lists compares for faces in these lists (m,), for measuring."""
    sizes = np.bincount(lists).astype(np.int64)
    pieces = np.maximum(-(-sizes // search.longest), 1)
    return int((sizes**2 // pieces).sum())


def _pieces(vectors: F32, members: I32, centroid: F32, longest: int) -> list[I32]:
    if len(members) <= longest:
        return [members]
    by_nearness = members[np.argsort(-(vectors[members] @ centroid), kind="stable")]
    count = -(-len(members) // longest)
    return [np.sort(piece) for piece in np.array_split(by_nearness, count)]


def fold_queries(faces: I32, asking: F16, home: I32, vectors: F16, k: int, floor: float) -> FaceNeighbours:
    """Neighbours of asking faces (q, dim) among the faces at home (n, dim), as face numbers; all pairs are compared."""
    best = Neighbours.none(len(faces), k)
    columns = vectors.astype(np.float32)
    buffer = np.empty((min(_BLOCK, len(faces)), len(home)), np.float32)
    for start in range(0, len(faces), _BLOCK):
        block = asking[start : start + _BLOCK].astype(np.float32)
        similarity = np.matmul(block, columns.T, out=buffer[: len(block)])
        rows = np.arange(start, start + len(block), dtype=np.int32)
        topk.fold(similarity, rows, home, faces[start : start + _BLOCK], floor, (best.index, best.cosine))
    return FaceNeighbours(faces, best.ragged())


def union(parts: list[tuple[I32, Ragged]], rows: I32, k: int) -> Neighbours:
    """Merge what several cells found: of each face the k best, each neighbour once.

    Args:
        parts: per cell, the faces and their neighbours as face numbers, not positions.
        rows: ascending face numbers of the result.
    """
    out = Neighbours.none(len(rows), k)
    for faces, part in parts:
        place = np.searchsorted(rows, faces)
        topk.merge(place, part.start, part.index, part.cosine.astype(np.float32), out.index, out.cosine)
    return out
