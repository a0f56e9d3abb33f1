"""What stands for an identity: the quality-weighted mean of its faces, and a few faces that cover its modes."""

from __future__ import annotations

import numba
import numpy as np

from facelake.contracts import F32, F64, I64, Bool

_LEAST_WEIGHT = 1e-3
_OUTLIER = 0.6  # a face less alike to the prototype than this share of the cohesion is no mode but a doubt


def weight_of(quality: F32) -> F32:
    """Weights (n,) of faces in a mean, from their quality."""
    return np.maximum(quality, np.float32(_LEAST_WEIGHT)).astype(np.float32)


@numba.njit(cache=True)
def add_weighted(vectors: F32, weights: F32, labels: I64, sums: F64, total: F64) -> None:
    """Add weighted vectors (n, dim) to the sums (count, dim) and weights (count,) of their labels, in order."""
    for i in range(len(labels)):
        m = labels[i]
        if m >= 0:
            total[m] += weights[i]
            for d in range(vectors.shape[1]):
                sums[m, d] += weights[i] * vectors[i, d]


def means_of(sums: F64, total: F64) -> tuple[F32, F32]:
    """Unit means (count, dim) of sums of weighted unit vectors, and the cohesion (count,): their length by weight.

    The length of the mean of unit vectors is their (weighted) mean cosine to its direction. Zero where nothing is.
    """
    length = np.linalg.norm(sums, axis=1)
    unit = np.divide(sums, length[:, None], out=np.zeros_like(sums), where=length[:, None] > 1e-9)
    cohesion = np.divide(length, total, out=np.zeros_like(length), where=total > 0)
    return unit.astype(np.float32), np.minimum(cohesion, 1).astype(np.float32)


def weighted_means(vectors: F32, weights: F32, labels: I64, count: int) -> tuple[F32, F32, F64]:
    """Means and cohesion as `means_of`, and weights (count,), of unit vectors (n, dim) by label 0..count-1."""
    sums, total = np.zeros((count, vectors.shape[1])), np.zeros(count)
    add_weighted(vectors, weights, labels, sums, total)
    return *means_of(sums, total), total


def exemplars(vectors: F32, weights: F32, labels: I64, means: F32, cohesion: F32, most: int) -> Bool:
    """Choose up to `most` faces of each identity that together lie near all of it.

    The first is the one nearest to the prototype, the next ones are each time the one farthest from those chosen
    (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985), weighted by quality; what is hardly
    like the prototype is a doubt and not a mode, and left out.

    Args:
        vectors: (n, dim) unit candidates, in an order that does not depend on how they were stored;
        labels: (n,) ascending.
        means, cohesion: of every label.

    Returns:
        (n,) the chosen ones.
    """
    bounds = np.searchsorted(labels, np.arange(len(means) + 1)).astype(np.int64)
    return np.asarray(_exemplars(vectors, weights, bounds, means, cohesion, most), bool)


@numba.njit(cache=True)
def _exemplars(vectors: F32, weights: F32, bounds: I64, means: F32, cohesion: F32, most: int) -> Bool:
    chosen = np.zeros(len(vectors), np.bool_)
    for m in range(len(bounds) - 1):
        first, last = bounds[m], bounds[m + 1]
        if last - first <= most:
            chosen[first:last] = True
            continue
        near, far = np.empty(last - first), np.ones(last - first)
        for i in range(first, last):
            near[i - first] = (vectors[i] * means[m]).sum()
        pick = int(np.argmax(near))
        for _ in range(most):
            chosen[first + pick] = True
            for i in range(first, last):
                apart = 1.0 - (vectors[i] * vectors[first + pick]).sum()
                far[i - first] = min(far[i - first], apart)
            best, pick = 1e-3, -1
            for k in range(last - first):
                if near[k] >= _OUTLIER * cohesion[m] and far[k] * weights[first + k] > best:
                    best, pick = far[k] * weights[first + k], k
            if pick < 0:
                break
    return chosen


def core_faces(labels: I64, score: F32, most: int) -> Bool:
    """The `most` faces (n,) of each label with the highest score; of equal ones those that come first."""
    order = np.lexsort((np.arange(len(labels)), -score, labels))
    start = np.r_[True, labels[order][1:] != labels[order][:-1]] if len(order) else np.zeros(0, bool)
    begin = np.maximum.accumulate(np.where(start, np.arange(len(order)), 0))
    out = np.zeros(len(labels), bool)
    out[order[np.arange(len(order)) - begin < most]] = True
    return out
