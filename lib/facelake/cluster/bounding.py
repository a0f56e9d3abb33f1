"""A bound on groups: the mean similarity of a group's pairs, under which it is divided.

The map equation follows links, so that a chain of faces can become one group although most of its pairs are of
different people. Such a group is divided by average linkage (Sokal and Michener, 1958) at the same bound: each part
then has pairs that are similar enough on the mean.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from facelake.cluster.labels import add_sums, canonical
from facelake.cluster.linkage import pair_mean
from facelake.contracts import F32, F64, I32, I64

BOUND = 0.97
"""of the similarity from which two faces may be of one person; a group just at that limit is not divided"""
LEAST_FACES = 3
"""a pair is a group only if its faces are linked"""
_MOST_FACES = 4_000  # whose pairs are all compared: their distances take 128 MB
_ROWS = 4_096  # faces that are compared with the parts at once


def mean_similarity(sums: F32, size: I64) -> F64:
    """Mean cosine (groups,) of the pairs inside groups.

    Args:
        sums: (groups, dim) sums of unit vectors.
        size: (groups,) faces of each, two at least.
    """
    square = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    return np.array([pair_mean(q, n) for q, n in zip(square, size, strict=True)], np.float64)


def divided_group(vectors: F32, least: float) -> I32:
    """Labels (n,) of the parts of a group, each of whose merges has a mean cosine of `least` at least.

    Of a large group evenly chosen faces are divided. Each other one joins the part to whose faces it is most similar on
    the mean, and stays alone below `least`.

    Args:
        vectors: (n, dim) unit, two at least.
        least: the bound.
    """
    chosen = np.arange(0, len(vectors), -(-len(vectors) // _MOST_FACES))
    parts = _parts(vectors[chosen], least)
    if len(chosen) == len(vectors):
        return parts
    labels = np.full(len(vectors), -1, np.int64)
    labels[chosen] = parts
    means = np.zeros((int(parts.max()) + 1, vectors.shape[1]), np.float32)
    add_sums(vectors[chosen], parts, means)
    means /= np.bincount(parts)[:, None]
    others = np.flatnonzero(labels < 0)
    for start in range(0, len(others), _ROWS):
        rows = others[start : start + _ROWS]
        similarity = vectors[rows] @ means.T
        near = similarity.max(1) >= least
        labels[rows] = np.where(near, similarity.argmax(1), len(means) + rows)
    return canonical(labels)


def _parts(vectors: F32, least: float) -> I32:
    """Labels (n,) by average linkage."""
    distance = np.maximum(1.0 - vectors.astype(np.float64) @ vectors.T.astype(np.float64), 0.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average")
    return canonical(fcluster(tree, 1.0 - least, "distance").astype(np.int32) - 1)
