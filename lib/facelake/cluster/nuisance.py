"""What poor faces have in common besides their person, taken out of every vector.

Blur, turned heads and covers push embeddings in a few directions, whoever is seen; poor faces then look like each
other and no longer like themselves. The directions in which poor faces vary much more than good ones are found by a
generalised eigenproblem and projected away, as "nuisance attribute projection" does with channels in speaker
recognition (Solomonoff, Campbell, Boardman, ICASSP 2005), but without labels: the quality score only tells who is poor.
"""

from __future__ import annotations

import numpy as np

from facelake.cluster.directions import largest, usual
from facelake.contracts import F32

_ENOUGH = 5_000
_POOR, _GOOD = 0.1, 0.5
_MOST = 32
# The last direction must vary twice as much among poor faces, and stand clear of the next, or nothing is taken out.
_LEAST, _GAP = 2.0, 1.25


def nuisance_directions(vectors: F32, quality: F32) -> tuple[F32, str]:
    """Orthonormal directions (dim, r) to take out, r may be 0, and the evidence.

    Args:
        vectors: (n, dim) unit; quality: (n,), higher is better.
    """
    count, dim = vectors.shape
    none = np.zeros((dim, 0), np.float32)
    if count < max(_ENOUGH, 4 * dim) or quality.max() == quality.min():
        return none, f"{count} faces tell nothing of poor ones"
    order = np.argsort(quality, kind="stable")
    poor, good = vectors[order[: int(_POOR * count)]], vectors[order[int((1 - _GOOD) * count) :]]
    variance, directions = largest(poor, usual(good), min(_MOST, dim // 8) + 1)
    gaps = variance[:-1] / np.maximum(variance[1:], 1e-9)
    last = int(np.argmax(gaps))
    if gaps[last] < _GAP or variance[last] < _LEAST:
        return none, f"no direction of poor faces stands out (largest ratio of variances {variance[0]:.2f})"
    basis, _ = np.linalg.qr(directions[:, : last + 1])
    said = f"{last + 1} directions in which poor faces vary {variance[last]:.1f} to {variance[0]:.1f} times as much"
    return basis.astype(np.float32), f"{said}, the next one {variance[last + 1]:.1f} times"


def without(vectors: F32, directions: F32) -> F32:
    """Unit vectors (n, dim) with the directions (dim, r) taken out."""
    if not directions.shape[1]:
        return vectors
    rest = vectors - (vectors @ directions) @ directions.T
    norm = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.asarray(rest / np.maximum(norm, 1e-6), np.float32)
