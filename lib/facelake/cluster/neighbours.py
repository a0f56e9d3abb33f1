"""Who is near whom: top-k cosine neighbours, exactly or through many small overlapping lists.

The approximate search follows inverted files (Jégou, Douze, Schmid, "Product quantization for nearest neighbor
search", PAMI 2011), without quantisation: spherical k-means centroids from a sample split the space, each face goes
to its `probes` nearest lists, all pairs inside a list are compared by one matrix product, and a face's neighbours
are the best of its lists. Neighbours are (key, key, similarity) triples, so that they can be made anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.contracts import F32, I32, I64

_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Lists:
    """Centroids (lists, dim), unit."""

    centroids: F32

    def assign(self, vectors: F32, probes: int) -> I32:
        """The nearest lists (n, min(probes, lists)) of unit vectors (n, dim)."""
        count = min(probes, len(self.centroids))
        out = np.empty((len(vectors), count), np.int32)
        for start in range(0, len(vectors), _BLOCK):
            similarity = vectors[start : start + _BLOCK] @ self.centroids.T
            if count == similarity.shape[1]:
                out[start : start + _BLOCK] = np.arange(count)
            else:
                out[start : start + _BLOCK] = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        return out


def make_lists(sample: F32, count: int, seed: int, rounds: int = 8) -> Lists:
    """Spherical k-means (Dhillon, Modha, 2001) over unit vectors; an empty list is given a random vector."""
    generator = np.random.default_rng(seed)
    count = max(1, min(count, len(sample)))
    centroids = sample[generator.choice(len(sample), count, replace=False)].copy()
    for _ in range(rounds):
        nearest = Lists(centroids).assign(sample, 1)[:, 0]
        order = np.argsort(nearest, kind="stable")
        starts = np.searchsorted(nearest[order], np.arange(count))
        sizes = np.diff(np.append(starts, len(sample)))
        filled = np.flatnonzero(sizes)
        sums = np.add.reduceat(sample[order], starts[filled], axis=0)
        centroids[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
        empty = np.flatnonzero(sizes == 0)
        centroids[empty] = sample[generator.choice(len(sample), len(empty))]
    return Lists(np.ascontiguousarray(centroids))


def join_list(keys: I64, vectors: F32, k: int, floor: float) -> tuple[I64, I64, F32]:
    """Neighbours inside one list: for each face its k best others with similarity >= floor.

    Args:
        keys: (n,) face keys; vectors: (n, dim) unit.

    Returns:
        Triples (a, b, similarity), a's neighbours together, best first. Independent of the order of the input.
    """
    order = np.argsort(keys, kind="stable")
    keys, vectors = keys[order], np.ascontiguousarray(vectors[order])
    count = len(keys)
    k = min(k, count - 1)
    found: list[tuple[I64, I64, F32]] = []
    for start in range(0, count, _BLOCK) if k > 0 else ():
        similarity = vectors[start : start + _BLOCK] @ vectors.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -2.0
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k] if k < count else np.argsort(-similarity, axis=1)
        value = np.take_along_axis(similarity, best, 1)
        row, column = np.nonzero(value >= floor)
        found.append((keys[start + row], keys[best[row, column]], value[row, column]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    a, b, s = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return a, b, s.astype(np.float32)


def exact_join(keys: I64, vectors: F32, k: int, floor: float) -> tuple[I64, I64, F32]:
    """All faces as one list: the reference, and the mode for small corpora."""
    return join_list(keys, vectors, k, floor)


def union_topk(a: I64, b: I64, similarity: F32, k: int) -> tuple[I64, I64, F32]:
    """Merge the neighbours that several lists found: per face the k best, each neighbour once, ordered by (a, best)."""
    order = np.lexsort((b, -similarity, a))
    a, b, similarity = a[order], b[order], similarity[order]
    _, first = np.unique(np.stack([a, b]), axis=1, return_index=True)
    keep = np.zeros(len(a), bool)
    keep[first] = True
    a, b, similarity = a[keep], b[keep], similarity[keep]
    starts = np.flatnonzero(np.r_[True, a[1:] != a[:-1]]) if len(a) else np.zeros(0, np.int64)
    rank = np.arange(len(a)) - np.repeat(starts, np.diff(np.append(starts, len(a))))
    near = rank < k
    return a[near], b[near], similarity[near]
