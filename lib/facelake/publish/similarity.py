"""How alike faces are, for people who compare them: two sides of one identity, the nearest pairs of two. Pure."""

from __future__ import annotations

import numpy as np

from facelake.contracts import F32, I64, Bool

_ROUNDS = 20


def two_sides(vectors: F32) -> Bool:
    """The smaller of two sides (n,) into which unit vectors (n, dim) fall best: 2-means on the sphere.

    It begins with the vector that is least like the mean and the one that is least like that one, so that it does not
    depend on chance. All false for fewer than two. After Dhillon and Modha, 2001 (spherical k-means).
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), bool)
    first = int(np.argmin(vectors @ vectors.mean(axis=0)))
    second = int(np.argmin(vectors @ vectors[first]))
    centres = vectors[[second, first]]
    side = np.zeros(len(vectors), bool)
    for _ in range(_ROUNDS):
        like = vectors @ centres.T
        now = like[:, 1] > like[:, 0]
        if not now.any() or now.all() or (now == side).all():
            break
        side = now
        centres = np.stack([unit_mean(vectors[~side]), unit_mean(vectors[side])])
    return ~side if 2 * int(side.sum()) > len(side) else side


def unit_mean(vectors: F32) -> F32:
    """The mean (dim,) of vectors (n, dim), of unit length; zero for none."""
    total = vectors.sum(axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), np.float32)


def inside(vectors: F32) -> float | None:
    """Mean cosine of pairs of unit vectors (n, dim); None for fewer than two."""
    n = len(vectors)
    return float((np.square(vectors.sum(axis=0)).sum() - n) / (n * (n - 1))) if n > 1 else None


def between(a: F32, b: F32) -> float | None:
    """Mean cosine of the pairs of unit vectors (n, dim) with (m, dim); None when one side is empty."""
    return float(a.sum(axis=0) @ b.sum(axis=0) / (len(a) * len(b))) if len(a) and len(b) else None


def nearest_links(a: F32, b: F32, most: int) -> list[tuple[int, int, float]]:
    """The most alike pairs of unit vectors (n, dim) with (m, dim), the best first: positions and cosine.

    Each vector stands in one pair only, so that one odd face does not fill the list.
    """
    if not len(a) or not len(b):
        return []
    like = a @ b.T
    found = []
    for _ in range(min(most, len(a), len(b))):
        i, j = np.unravel_index(int(np.argmax(like)), like.shape)
        found.append((int(i), int(j), float(like[i, j])))
        like[i, :] = like[:, j] = -np.inf
    return found


def evenly(count: int, most: int) -> I64:
    """Positions of at most `most` of `count` things, spread evenly, ascending."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))
