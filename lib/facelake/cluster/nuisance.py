"""What poor faces have in common besides their person, taken out of every vector.

Blur, turned heads and covers push embeddings in a few directions, whoever is seen; poor faces then look like each
other and no longer like themselves. The directions in which poor faces vary much more than good ones are found by a
generalised eigenproblem and projected away, as "nuisance attribute projection" does with channels in speaker
recognition (Solomonoff, Campbell, Boardman, ICASSP 2005), but without labels: the quality score only tells who is poor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.cluster.eigen import largest, usual
from facelake.contracts import F32, F64
from facelake.vectors import unit_rows

_ENOUGH = 5_000
# How many faces are poor enough differs from corpus to corpus: among too many the directions drown, and too few are
# not enough to tell. Of these shares, the one at which the directions stand out clearest from the rest is taken.
_POOR, _GOOD = (0.01, 0.02, 0.04, 0.1), 0.5
_MOST = 32
# The last direction must vary twice as much among poor faces, more than as many good ones chosen at random vary in
# any direction, and stand clear of the next, or nothing is taken out.
_LEAST, _CHANCE, _GAP = 2.0, 1.25, 1.25


def nuisance_directions(vectors: F32, quality: F32) -> tuple[F32, str]:
    """Orthonormal directions (dim, r) to take out, r may be 0, and the evidence.

    Args:
        vectors: (n, dim) unit; quality: (n,), higher is better.
    """
    count, dim = vectors.shape
    none = np.zeros((dim, 0), np.float32)
    if count < max(_ENOUGH, dim / max(_POOR)) or quality.max() == quality.min():
        return none, f"{count} faces tell nothing of poor ones"
    order = np.argsort(quality, kind="stable")
    good = vectors[order[int((1 - _GOOD) * count) :]]
    among = usual(good)
    candidates = [
        _stand_out(vectors[order[: int(share * count)]], good, among) for share in _POOR if share * count >= dim
    ]
    best = max(candidates, key=lambda candidate: candidate.gap)
    if best.gap < _GAP:
        return none, f"no direction of poor faces stands out (largest ratio of variances {best.variance[0]:.2f})"
    basis, _ = np.linalg.qr(best.directions)
    size, variance = best.directions.shape[1], best.variance
    text = (
        f"{size} directions in which {best.faces} poor faces vary {variance[size - 1]:.1f} to {variance[0]:.1f} times"
    )
    return basis.astype(np.float32), f"{text} as much, the next one {variance[size]:.1f} times"


@dataclass(frozen=True, slots=True)
class _Outstanding:
    """Directions in which some poor faces vary more than good ones."""

    faces: int
    gap: float
    """ratio of variances of the last direction to the next; 0 where none is beyond chance"""
    variance: F64
    directions: F64


def _stand_out(poor: F32, good: F32, among: F32) -> _Outstanding:
    dim = poor.shape[1]
    variance, directions = largest(poor, among, min(_MOST, dim // 8) + 1)
    step = max(len(good) // len(poor), 1)
    chance, _ = largest(good[::step][: len(poor)], among, 1)
    gaps = variance[:-1] / np.maximum(variance[1:], 1e-9)
    gaps[variance[:-1] < max(_LEAST, _CHANCE * chance[0])] = 0
    last = int(np.argmax(gaps))
    return _Outstanding(len(poor), float(gaps[last]), variance, directions[:, : last + 1])


def without(vectors: F32, directions: F32) -> F32:
    """Unit vectors (n, dim) with the directions (dim, r) taken out."""
    if not directions.shape[1]:
        return vectors
    rest = vectors - (vectors @ directions) @ directions.T
    return np.asarray(unit_rows(rest, least=1e-6), np.float32)
