"""Lists of faces that lie near each other: a two-level index of centroids.

Spherical k-means (Dhillon, Modha, "Concept decompositions for large sparse text data using clustering", 2001) over a
sample makes cells of some ten thousand faces; a second one inside each cell makes lists of about seventy, which is one
or two people. A face belongs to its nearest few lists, looked up in its nearest few cells only. A cell is joined as
one task, so it is cut when it has too many lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from facelake.contracts import F32, I32, I64

_BLOCK = 2048
_CELL_ROUNDS, _LIST_ROUNDS = 8, 5
FACES_PER_CELL = 12_000


@dataclass(frozen=True, slots=True)
class Index:
    """Cells (cells, dim) and lists (lists, dim), all unit; the lists of cell c are first[c] .. first[c + 1] - 1."""

    cells: F32
    lists: F32
    first: I64

    def assign(self, vectors: F32, probes: int, cell_probes: int) -> I32:
        """The nearest lists (n, min(probes, lists)) int32 of unit vectors (n, dim), nearest first, -1 for none."""
        probes = min(probes, len(self.lists))
        index = np.full((len(vectors), probes), -1, np.int32)
        cosine = np.full((len(vectors), probes), -2, np.float32)
        near = nearest(vectors, self.cells, cell_probes)
        order = np.argsort(near.ravel(), kind="stable")
        bounds = np.searchsorted(near.ravel()[order], np.arange(len(self.cells) + 1))
        rows = (order // near.shape[1]).astype(np.int32)
        for c in range(len(self.cells)):
            mine = rows[bounds[c] : bounds[c + 1]]
            lists = self.lists[self.first[c] : self.first[c + 1]]
            for start in range(0, len(mine), _BLOCK):
                block = mine[start : start + _BLOCK]
                _fold(vectors[block] @ lists.T, block, self.first[c], index, cosine)
        return index


def cells_of(sample: F32, faces: int, seed: int) -> F32:
    """Cell centroids for a corpus of so many faces, from a sample (n, dim) of unit vectors."""
    return spherical_kmeans(sample, max(1, round(faces / FACES_PER_CELL)), seed, _CELL_ROUNDS)


def lists_of(sample: F32, count: int, seed: int) -> F32:
    """List centroids of one cell, from the sample's faces (n, dim) that are nearest to it."""
    return spherical_kmeans(sample, count, seed, _LIST_ROUNDS)


def spherical_kmeans(sample: F32, count: int, seed: int, rounds: int) -> F32:
    """Unit centroids (min(count, n), dim) of unit vectors (n, dim); an empty cluster restarts at random."""
    generator = np.random.default_rng(seed)
    count = max(1, min(count, len(sample)))
    centroids = sample[np.sort(generator.choice(len(sample), count, replace=False))].copy()
    for _ in range(rounds if count > 1 else 1):
        home = nearest(sample, centroids, 1)[:, 0]
        sums = np.zeros_like(centroids)
        _add_rows(sample, home, sums)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        sound = norm[:, 0] > 1e-6
        centroids[sound] = sums[sound] / norm[sound]
        empty = np.flatnonzero(~sound)
        centroids[empty] = sample[generator.choice(len(sample), len(empty))]
    return np.ascontiguousarray(centroids)


def nearest(vectors: F32, centroids: F32, probes: int) -> I32:
    """The nearest centroids (n, min(probes, count)) of unit vectors (n, dim), nearest first, ties to the lower."""
    count = min(probes, len(centroids))
    index = np.full((len(vectors), count), -1, np.int32)
    cosine = np.full((len(vectors), count), -2, np.float32)
    buffer = np.empty((min(_BLOCK, len(vectors)), len(centroids)), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        rows = np.arange(start, start + len(block), dtype=np.int32)
        _fold(np.matmul(block, centroids.T, out=buffer[: len(block)]), rows, 0, index, cosine)
    return index


@numba.njit(cache=True, nogil=True)
def _fold(similarity: F32, rows: I32, first: int, index: I32, cosine: F32) -> None:
    """Fold similarities of faces `rows` with columns numbered from `first` into the rows' best, ties to the lower."""
    k = index.shape[1]
    for x in range(len(rows)):
        r = rows[x]
        for y in range(similarity.shape[1]):
            v, j = similarity[x, y], first + y
            if v < cosine[r, k - 1] or (v == cosine[r, k - 1] and j > index[r, k - 1] >= 0):
                continue
            p = k - 1
            while p > 0 and (cosine[r, p - 1] < v or (cosine[r, p - 1] == v and index[r, p - 1] > j)):
                cosine[r, p] = cosine[r, p - 1]
                index[r, p] = index[r, p - 1]
                p -= 1
            cosine[r, p] = v
            index[r, p] = j


@numba.njit(cache=True, nogil=True)
def _add_rows(vectors: F32, home: I32, sums: F32) -> None:
    for i in range(len(vectors)):
        m = home[i]
        for d in range(vectors.shape[1]):
            sums[m, d] += vectors[i, d]
