"""Joining groups that are one person, and moving faces that sit in the wrong one: both by mean similarities.

Two groups are joined when the mean similarity of all their pairs is above two cuts:

* `edge`, under which chance and look-alikes live (absolute, from impostors);
* a ratio of how alike the faces inside the two groups are (relative): people who look alike may well reach .5 with
  each other, but not while each of them reaches .9 with himself. Inside similarity is the mean over a group's pairs,
  shrunk towards the corpus's level for small groups; the ratio is stricter for them too.

This is group average linkage (Sokal and Michener, 1958) along the edges of a neighbour graph, best edge first, as in
Franti et al., "Fast agglomerative clustering using a k-nearest neighbor graph", PAMI 2006. The mean over all pairs of
two groups is the product of their sums, so no pair is ever visited.
"""

from __future__ import annotations

import numba
import numpy as np

from facelake.contracts import F32, I64

_MAX_PASSES = 20
_PRIOR_PAIRS = 3.0  # weight of the corpus's level against a group's own
_LARGE = 8  # faces from which on a group's own figures are trusted
_MARGIN = 0.15  # lead of another group at which a face moves
_NEAR_GROUPS = 8  # other groups looked at per face, the nearest first


def join_groups(vectors: F32, labels: I64, low: I64, high: I64, cuts: np.ndarray) -> I64:
    """Join groups along edges (low, high), given best first.

    Args:
        vectors: (n, dim) unit; labels: (n,) groups 0.. to start from.
        cuts: edge, ratio for large groups, ratio for single faces, level.

    Returns:
        (n,) labels, not canonical.
    """
    count = int(labels.max(initial=-1)) + 1
    parent = _join(group_sums(vectors, labels, count), np.bincount(labels, minlength=count), labels, low, high, cuts)
    return np.asarray(parent[labels], np.int64)


def group_sums(vectors: F32, labels: I64, count: int) -> F32:
    """(count, dim) sums of the vectors of each label."""
    sums = np.zeros((count, vectors.shape[1]), np.float32)
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    if len(order):
        sums[present] = np.add.reduceat(vectors[order], starts, axis=0)
    return sums


def reassign(vectors: F32, labels: I64, start: I64, neighbour: I64, level: float) -> I64:
    """Move faces whose own group (without them) is less like them, by a margin, than another group near them.

    Args:
        start: (n + 1,) where each face's neighbours begin in `neighbour`, best first.
    """
    count = int(labels.max(initial=-1)) + 1
    sums, size = group_sums(vectors, labels, count), np.bincount(labels, minlength=count)
    square = np.einsum("ij,ij->i", sums, sums, dtype=np.float64)
    return np.asarray(_reassign(vectors, labels, sums, size, square, start, neighbour, level), np.int64)


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
def _join(sums: F32, size: I64, labels: I64, low: I64, high: I64, cuts: np.ndarray) -> I64:
    count, dim = sums.shape
    edge, ratio, ratio_single, level = cuts[0], cuts[1], cuts[2], cuts[3]
    parent = np.arange(count)
    square = np.zeros(count)
    for i in range(count):
        for d in range(dim):
            square[i] += sums[i, d] * sums[i, d]
    for _ in range(_MAX_PASSES):
        joined = 0
        for e in range(len(low)):
            i, j = _find(parent, labels[low[e]]), _find(parent, labels[high[e]])
            if i == j:
                continue
            total = 0.0
            for d in range(dim):
                total += sums[i, d] * sums[j, d]
            between = total / (size[i] * size[j])
            smaller = min(size[i], size[j])
            share = max(0.0, (_LARGE - smaller) / (_LARGE - 1.0))
            wanted = ratio + (ratio_single - ratio) * share
            inside = np.sqrt(_inside(square[i], size[i], level) * _inside(square[j], size[j], level))
            if between < edge or between < wanted * inside:
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
    for i in range(count):
        parent[i] = _find(parent, i)
    return parent


@numba.njit(cache=True)
def _reassign(
    vectors: F32, labels: I64, sums: F32, size: I64, square: np.ndarray, start: I64, neighbour: I64, level: float
) -> I64:
    n, dim = vectors.shape
    out = labels.copy()
    seen = np.empty(_NEAR_GROUPS, np.int64)
    for i in range(n):
        own = labels[i]
        if size[own] < 3:
            continue
        dot = 0.0
        for d in range(dim):
            dot += vectors[i, d] * sums[own, d]
        mine = (dot - 1.0) / (size[own] - 1.0) / np.sqrt(_inside(square[own], size[own], level))
        count = 0
        best, score = own, mine + _MARGIN
        for e in range(start[i], start[i + 1]):
            other = labels[neighbour[e]]
            known = other == own or size[other] < 3
            for k in range(count):
                known = known or seen[k] == other
            if known:
                continue
            seen[count] = other
            count += 1
            dot = 0.0
            for d in range(dim):
                dot += vectors[i, d] * sums[other, d]
            theirs = dot / size[other] / np.sqrt(_inside(square[other], size[other], level))
            if theirs > score:
                best, score = other, theirs
            if count == _NEAR_GROUPS:
                break
        out[i] = best
    return out
