"""Similarity of sets of faces for the review page: splitting a set in two, mean cosines, most similar pairs. Pure."""

from __future__ import annotations

import numpy as np

from facelake.contracts import F32, I64, Bool
from facelake.distinct import distinct

_ROUNDS = 20


def split_in_two(vectors: F32) -> Bool:
    """Split unit vectors (n, dim) in two by spherical 2-means; return the members (n,) of the smaller part.

    The start is deterministic: the vector least similar to the mean, and the vector least similar to that one. All
    false for fewer than two vectors. Algorithm: Dhillon and Modha, 2001 (spherical k-means).
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), bool)
    first = int(np.argmin(vectors @ vectors.mean(axis=0)))
    second = int(np.argmin(vectors @ vectors[first]))
    centres = vectors[[second, first]]
    side = np.zeros(len(vectors), bool)
    for _ in range(_ROUNDS):
        cosine = vectors @ centres.T
        now = cosine[:, 1] > cosine[:, 0]
        if not now.any() or now.all() or (now == side).all():
            break
        side = now
        centres = np.stack([unit_mean(vectors[~side]), unit_mean(vectors[side])])
    return ~side if 2 * int(side.sum()) > len(side) else side


def unit_mean(vectors: F32) -> F32:
    """Return the mean (dim,) of vectors (n, dim), scaled to unit length; zero for no vectors."""
    total = vectors.sum(axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), np.float32)


def mean_within(vectors: F32) -> float | None:
    """Return the mean cosine of the pairs of unit vectors (n, dim); None for fewer than two."""
    n = len(vectors)
    return float((np.square(vectors.sum(axis=0)).sum() - n) / (n * (n - 1))) if n > 1 else None


def mean_between(a: F32, b: F32) -> float | None:
    """Return the mean cosine of the pairs of unit vectors (n, dim) with (m, dim); None if either set is empty."""
    return float(a.sum(axis=0) @ b.sum(axis=0) / (len(a) * len(b))) if len(a) and len(b) else None


def nearest_links(a: F32, b: F32, most: int) -> list[tuple[int, int, float]]:
    """Return the most similar pairs of unit vectors (n, dim) with (m, dim) by falling cosine: positions and cosine.

    Each vector is in one pair only, so that a single unusual face cannot fill the list.
    """
    if not len(a) or not len(b):
        return []
    cosine = a @ b.T
    pairs = []
    for _ in range(min(most, len(a), len(b))):
        i, j = np.unravel_index(int(np.argmax(cosine)), cosine.shape)
        pairs.append((int(i), int(j), float(cosine[i, j])))
        cosine[i, :] = cosine[:, j] = -np.inf
    return pairs


def evenly_spaced(count: int, most: int) -> I64:
    """Return at most `most` of the positions 0..count-1, evenly spaced and ascending."""
    if count <= most:
        return np.arange(count)
    return distinct(np.linspace(0, count - 1, most).round().astype(np.int64))
