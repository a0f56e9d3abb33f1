"""The representation of identities: templates (quality-weighted means) and exemplars that cover their modes."""

from __future__ import annotations

import numba
import numpy as np

from facelake.contracts import F32, F64, I64, Bool
from facelake.inner_product import dot

_MIN_WEIGHT = 1e-3
_MIN_SIMILARITY = 0.6  # of an exemplar to the template, as a share of the cohesion; others may be wrong members


def weight_of(quality: F32) -> F32:
    """Return the weights (n,) of faces in a template, from their quality."""
    return np.maximum(quality, np.float32(_MIN_WEIGHT)).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def add_weighted(vectors: F32, weights: F32, labels: I64, sums: F64, total: F64) -> None:
    """Add weighted vectors (n, dim) to the sums (count, dim) and total weights (count,) of their labels, in order.

    Negative labels are skipped.
    """
    for i in range(len(labels)):
        m = labels[i]
        if m >= 0:
            total[m] += weights[i]
            for d in range(vectors.shape[1]):
                sums[m, d] += weights[i] * vectors[i, d]


def means_of(sums: F64, total: F64) -> tuple[F32, F32]:
    """Return unit means (count, dim) of sums of weighted unit vectors, and the cohesion (count,).

    The cohesion is the length of the weighted mean, which equals the weighted mean cosine of the vectors to its
    direction. Both are zero for labels without vectors.
    """
    length = np.linalg.norm(sums, axis=1)
    unit = np.divide(sums, length[:, None], out=np.zeros_like(sums), where=length[:, None] > 1e-9)
    cohesion = np.divide(length, total, out=np.zeros_like(length), where=total > 0)
    return unit.astype(np.float32), np.minimum(cohesion, 1).astype(np.float32)


def weighted_means(vectors: F32, weights: F32, labels: I64, count: int) -> tuple[F32, F32, F64]:
    """Return means and cohesion as `means_of`, and total weights (count,), of unit vectors (n, dim) by label."""
    sums, total = np.zeros((count, vectors.shape[1])), np.zeros(count)
    add_weighted(vectors, weights, labels, sums, total)
    return *means_of(sums, total), total


def exemplars(vectors: F32, weights: F32, labels: I64, means: F32, cohesion: F32, most: int) -> Bool:
    """Choose up to `most` faces of each identity that cover its modes.

    The first exemplar is the face nearest to the template. Each further one is the face farthest from those chosen
    (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985), weighted by quality. Faces with a low
    similarity to the template are left out, as they may be wrong members.

    Args:
        vectors: (n, dim) unit vectors of the candidates, in an order that does not depend on the storage.
        weights: (n,) weights of the candidates.
        labels: (n,) ascending labels.
        means: (count, dim) template of every label.
        cohesion: (count,) cohesion of every label.
        most: exemplars per label.

    Returns:
        (n,) True for exemplars.
    """
    bounds = np.searchsorted(labels, np.arange(len(means) + 1)).astype(np.int64)
    return np.asarray(_exemplars(vectors, weights, bounds, means, cohesion, most), bool)


@numba.njit(cache=True, nogil=True)
def _exemplars(vectors: F32, weights: F32, bounds: I64, means: F32, cohesion: F32, most: int) -> Bool:
    chosen = np.zeros(len(vectors), np.bool_)
    for m in range(len(bounds) - 1):
        first, last = bounds[m], bounds[m + 1]
        if last - first <= most:
            chosen[first:last] = True
            continue
        to_template, distance = np.empty(last - first), np.ones(last - first)
        for i in range(first, last):
            to_template[i - first] = dot(vectors[i], means[m])
        pick = int(np.argmax(to_template))
        for _ in range(most):
            chosen[first + pick] = True
            for i in range(first, last):
                to_pick = 1.0 - dot(vectors[i], vectors[first + pick])
                distance[i - first] = min(distance[i - first], to_pick)
            best, pick = 1e-3, -1
            for k in range(last - first):
                weighted = distance[k] * weights[first + k]
                if to_template[k] >= _MIN_SIMILARITY * cohesion[m] and weighted > best:
                    best, pick = weighted, k
            if pick < 0:
                break
    return chosen


def core_faces(labels: I64, score: F32, most: int) -> Bool:
    """Return the `most` faces (n,) of each label with the highest score; ties are broken by position."""
    order = np.lexsort((np.arange(len(labels)), -score, labels))
    start = np.r_[True, labels[order][1:] != labels[order][:-1]] if len(order) else np.zeros(0, bool)
    group_start = np.maximum.accumulate(np.where(start, np.arange(len(order)), 0))
    out = np.zeros(len(labels), bool)
    out[order[np.arange(len(order)) - group_start < most]] = True
    return out
