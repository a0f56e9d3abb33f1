"""Lists of faces that lie near each other: a two-level index of centroids.

Spherical k-means (Dhillon, Modha, "Concept decompositions for large sparse text data using clustering", 2001) over a
sample makes cells of some ten thousand faces; a second one inside each cell makes lists of about seventy, which is one
or two people. A face belongs to its nearest few lists, looked up in its nearest few cells only. A cell is joined as
one task, so one with far more faces than others is divided along its lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.cluster import topk
from facelake.cluster.by_group import ByGroup
from facelake.cluster.labels import add_sums
from facelake.contracts import F32, I32, I64

_BLOCK = 2048
_CELL_ROUNDS, _LIST_ROUNDS = 8, 5
FACES_PER_CELL = 12_000
_MOST_FACES = 3  # times that, from which on a cell is divided


@dataclass(frozen=True, slots=True)
class Index:
    """Cells (cells, dim) and lists (lists, dim), all unit; the lists of cell c are first[c] .. first[c + 1] - 1."""

    cells: F32
    lists: F32
    first: I64

    def assign(self, vectors: F32, probes: int, cell_probes: int) -> I32:
        """The nearest lists (n, min(probes, lists)) int32 of unit vectors (n, dim), nearest first, -1 for none."""
        probes = min(probes, len(self.lists))
        index, cosine = topk.empty(len(vectors), probes)
        no_faces = np.full(_BLOCK, -1, np.int32)
        near = nearest(vectors, self.cells, cell_probes)
        order = np.argsort(near.ravel(), kind="stable")
        bounds = np.searchsorted(near.ravel()[order], np.arange(len(self.cells) + 1))
        rows = (order // near.shape[1]).astype(np.int32)
        for c in range(len(self.cells)):
            of_cell = rows[bounds[c] : bounds[c + 1]]
            lists = self.lists[self.first[c] : self.first[c + 1]]
            names = np.arange(self.first[c], self.first[c + 1], dtype=np.int32)
            for start in range(0, len(of_cell), _BLOCK):
                block = of_cell[start : start + _BLOCK]
                topk.fold(vectors[block] @ lists.T, block, names, no_faces, -2.0, (index, cosine))
        return index


def cells_of(sample: F32, faces: int, seed: int) -> F32:
    """Cell centroids for a corpus of so many faces, from a sample (n, dim) of unit vectors."""
    return spherical_kmeans(sample, max(1, round(faces / FACES_PER_CELL)), seed, _CELL_ROUNDS)


def lists_of(sample: F32, count: int, seed: int) -> F32:
    """List centroids of one cell, from the sample's faces (n, dim) that are nearest to it."""
    return spherical_kmeans(sample, count, seed, _LIST_ROUNDS)


def trained_index(sample: F32, faces: int, list_size: float, seed: int) -> Index:
    """The index of a corpus that is in memory.

    Args:
        sample: (n, dim) unit vectors of it.
        faces: of the corpus.
        list_size: faces per list, on average.
    """
    cells = cells_of(sample, faces, seed)
    by_cell = ByGroup.of(nearest(sample, cells, 1)[:, 0].astype(np.int64), len(cells))
    per_list = list_size * len(sample) / faces
    lists: list[F32] = []
    for cell in range(len(cells)):
        members = by_cell.of_group(cell)
        count = max(1, round(len(members) / per_list))
        lists.append(lists_of(sample[members], count, seed + cell) if len(members) else cells[cell : cell + 1])
    first = np.concatenate([[0], np.cumsum([len(part) for part in lists])]).astype(np.int64)
    return Index(cells, np.concatenate(lists), first)


def divided(lists: F32, centroid: F32, faces: float, seed: int) -> tuple[F32, F32, I64]:
    """The cells that one of so many faces becomes: itself, or where it has far more than others, several.

    Args:
        lists: (lists, dim) centroids of its lists; centroid: (dim,) its own.

    Returns:
        (cells, dim) centroids, the lists in their order, and (cells,) how many lists each has.
    """
    if faces <= _MOST_FACES * FACES_PER_CELL:
        return centroid[None], lists, np.array([len(lists)])
    cells = spherical_kmeans(lists, round(faces / FACES_PER_CELL), seed, _CELL_ROUNDS)
    home = nearest(lists, cells, 1)[:, 0]
    kept, count = np.unique(home, return_counts=True)
    return np.ascontiguousarray(cells[kept]), lists[np.argsort(home, kind="stable")], count.astype(np.int64)


def spherical_kmeans(sample: F32, count: int, seed: int, rounds: int) -> F32:
    """Unit centroids (min(count, n), dim) of unit vectors (n, dim); an empty cluster restarts at random."""
    generator = np.random.default_rng(seed)
    count = max(1, min(count, len(sample)))
    centroids = sample[np.sort(generator.choice(len(sample), count, replace=False))].copy()
    for _ in range(rounds if count > 1 else 1):
        home = nearest(sample, centroids, 1)[:, 0]
        sums = np.zeros_like(centroids)
        add_sums(sample, home, sums)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        sound = norm[:, 0] > 1e-6
        centroids[sound] = sums[sound] / norm[sound]
        empty = np.flatnonzero(~sound)
        centroids[empty] = sample[generator.choice(len(sample), len(empty))]
    return np.ascontiguousarray(centroids)


def nearest(vectors: F32, centroids: F32, probes: int) -> I32:
    """The nearest centroids (n, min(probes, count)) of unit vectors (n, dim), nearest first, ties to the lower."""
    count = min(probes, len(centroids))
    index, cosine = topk.empty(len(vectors), count)
    names, no_faces = np.arange(len(centroids), dtype=np.int32), np.full(_BLOCK, -1, np.int32)
    buffer = np.empty((min(_BLOCK, len(vectors)), len(centroids)), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        rows = np.arange(start, start + len(block), dtype=np.int32)
        similarity = np.matmul(block, centroids.T, out=buffer[: len(block)])
        topk.fold(similarity, rows, names, no_faces, -2.0, (index, cosine))
    return index
