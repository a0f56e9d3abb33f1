"""Groups out of neighbours: greedy average linkage along the neighbour graph.

Edges are taken best first. Two groups are joined when the mean similarity of all their pairs is above two cuts:

* `edge`, under which chance and look-alikes live (absolute, from impostors);
* `ratio` of how alike the faces inside the two groups are (relative): people who look alike may well reach .5 with
  each other, but not while each of them reaches .9 with himself. Inside similarity is the mean over a group's pairs,
  shrunk towards the corpus's level for small groups.

A chain of look-alikes cannot form, unlike with connected components: every join answers for all its pairs. Passes
repeat until nothing joins. After Sokal and Michener's group average (1958), restricted to a k-NN graph as in Franti
et al., "Fast agglomerative clustering using a k-nearest neighbor graph", PAMI 2006.
"""

from __future__ import annotations

import numba
import numpy as np

from facelake.contracts import F32, I64

_MAX_PASSES = 20
_PRIOR_PAIRS = 3.0  # weight of the corpus's level against a group's own


def group(vectors: F32, a: I64, b: I64, similarity: F32, edge: float, ratio: float, level: float) -> I64:
    """Group faces.

    Args:
        vectors: (n, dim) unit embeddings in a canonical order.
        a, b, similarity: neighbour pairs as indices into vectors, in any order.
        edge, ratio: cuts, see the module's head.
        level: how alike two faces of one person usually are in this corpus.

    Returns:
        (n,) labels 0.., numbered by the lowest index they hold. Deterministic for equal pairs.
    """
    low, high = np.minimum(a, b), np.maximum(a, b)
    strong = (similarity >= edge) & (low != high)
    low, high, similarity = low[strong], high[strong], similarity[strong]
    order = np.lexsort((high, low, -similarity))
    cuts = np.array([edge, ratio, level])
    parent = _link(np.array(vectors, np.float32), low[order].astype(np.int64), high[order].astype(np.int64), cuts)
    return canonical(parent)


def canonical(labels: I64) -> I64:
    """Renumber labels 0.. by first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse]


@numba.njit(cache=True)
def _find(parent: I64, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True)
def _inside(square: float, size: int, level: float) -> float:
    """Mean similarity of a group's pairs from the squared length of its sum, shrunk to the corpus's level."""
    if size < 2:
        return level
    mean = (square - size) / (size * (size - 1.0))
    return max(((size - 1.0) * mean + _PRIOR_PAIRS * level) / (size - 1.0 + _PRIOR_PAIRS), 0.05)


@numba.njit(cache=True)
def _link(sums: F32, low: I64, high: I64, cuts: np.ndarray) -> I64:
    n, dim = sums.shape
    edge, ratio, level = cuts[0], cuts[1], cuts[2]
    parent = np.arange(n)
    size = np.ones(n, np.int64)
    square = np.ones(n, np.float64)
    for _ in range(_MAX_PASSES):
        joined = 0
        for e in range(len(low)):
            i, j = _find(parent, low[e]), _find(parent, high[e])
            if i == j:
                continue
            total = 0.0
            for d in range(dim):
                total += sums[i, d] * sums[j, d]
            between = total / (size[i] * size[j])
            inside = np.sqrt(_inside(square[i], size[i], level) * _inside(square[j], size[j], level))
            if between < edge or between < ratio * inside:
                continue
            if size[i] < size[j]:
                i, j = j, i
            parent[j] = i
            size[i] += size[j]
            square[i] += square[j] + 2.0 * total
            for d in range(dim):
                sums[i, d] += sums[j, d]
            joined += 1
        if joined == 0:
            break
    for i in range(n):
        parent[i] = _find(parent, i)
    return parent


def centroid_scores(vectors: F32, labels: I64) -> F32:
    """Cosine of each face to its group's centroid."""
    count = int(labels.max(initial=-1)) + 1
    sums = np.zeros((count, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    scores: F32 = np.einsum("ij,ij->i", vectors, sums[labels]).astype(np.float32)
    return scores
