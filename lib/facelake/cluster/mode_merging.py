"""Joins the modes of one person: child and adult, with and without glasses, which siblings may exceed in similarity.

Similarity alone cannot distinguish modes from siblings. But age, a beard or glasses change every embedding in much the
same directions, while two siblings differ in any direction. Among pairs of groups just below the limit of joining, the
directions are determined in which they differ far more than random groups do (the generalised eigenproblem of
nuisance.py, on differences of centroids), and pairs whose difference lies in these directions are joined. If no
direction is distinct from the rest, no pair is joined.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from facelake.cluster.calibrate import Calibration
from facelake.cluster.eigen import largest, usual
from facelake.cluster.linkage import Pairs, inside_similarity
from facelake.contracts import F32, F64, I32, I64
from facelake.vectors import unit_rows

_LEAST_FACES = 4  # of a group whose centroid tells a direction
_LEAST_JOINED = 3  # of a group that is joined by its direction
_ENOUGH_PAIRS, _ENOUGH_GROUPS = 100, 500  # chance among so few pairs is measured, see `_directions`
_RATIO = 0.5  # between, relative to inside, from which two groups may be one person's modes
_MOST = 16  # directions
# Directions count when they vary more than the same pairs among other groups ever do, and stand clear of the next.
_DRAWS, _ABOVE_CHANCE, _GAP = 20, 1.3, 1.1
_CLEAR = 1.5  # the median pair that is joined lies in them so many times as much as it must
_RANDOM = 20_000
_SHARE = 0.99  # of random pairs lie less in the directions than a pair that is joined
_BLOCK = 20_000


def mode_pairs(sums: F32, size: I64, pairs: Pairs, cuts: Calibration, seed: int) -> tuple[I32, I32, str]:
    """Pairs of groups that are modes of one person.

    Args:
        sums: (groups, dim) sums of the groups' unit vectors; size: (groups,) faces of each.
        pairs: pairs of groups with an edge between them.

    Returns:
        (low, high) of the pairs, and the evidence.
    """
    none = np.zeros(0, np.int32)
    centre = unit_rows(sums, least=1e-9)
    near = np.minimum(size[pairs.low], size[pairs.high]) >= _LEAST_JOINED
    low, high = pairs.low[near], pairs.high[near]
    between, ratio = _alike(sums, size, low, high, cuts)
    open_ = (between >= cuts.modes_from) & (ratio >= _RATIO)
    low, high = low[open_], high[open_]
    large = np.minimum(size[low], size[high]) >= _LEAST_FACES
    groups = np.flatnonzero(size >= _LEAST_FACES)
    if large.sum() < _ENOUGH_PAIRS or len(groups) < _ENOUGH_GROUPS:
        return none, none, f"modes: {int(large.sum())} pairs of groups are too few to tell"
    generator = np.random.default_rng(seed)
    a, b = generator.choice(groups, (2, _RANDOM))
    random = _differences(centre, a[a != b], b[a != b])
    differences = _differences(centre, low[large], high[large])
    # pairs share groups (brothers come in families), which alone makes eigenvalues large: chance has the same pairs
    _, place = np.unique(np.concatenate([low[large], high[large]]), return_inverse=True)
    others = [generator.permutation(groups)[place % len(groups)] for _ in range(_DRAWS)]
    chance = [_differences(centre, *np.split(other, 2)) for other in others]
    directions, text = _directions(differences, random, chance)
    if not directions.shape[1]:
        return none, none, text
    least = np.quantile(_share_in(random, directions), _SHARE)
    share = _share_in(_differences(centre, low, high), directions)
    joined = share > least
    if np.median(share[joined]) < _CLEAR * least:
        return none, none, f"{text}; but no pair of groups lies in them clearly"
    text = f"{text}; {int(joined.sum())} pairs of groups lie in them (more than {least:.3f})"
    return low[joined].astype(np.int32), high[joined].astype(np.int32), text


def _alike(sums: F32, size: I64, low: I32, high: I32, cuts: Calibration) -> tuple[F64, F64]:
    inside = inside_similarity(sums, size, cuts.level).astype(np.float64)
    total = np.zeros(len(low))
    for at in range(0, len(low), _BLOCK):
        part = slice(at, at + _BLOCK)
        total[part] = np.einsum("ij,ij->i", sums[low[part]], sums[high[part]])
    between = total / (size[low] * size[high].astype(np.float64))
    return between, between / np.sqrt(inside[low] * inside[high])


def _differences(centre: F32, a: I32 | I64, b: I32 | I64) -> F32:
    return unit_rows(centre[a] - centre[b], least=1e-9)


def _share_in(differences: F32, directions: F32) -> F32:
    return np.asarray(((differences @ directions) ** 2).sum(1), np.float32)


def _directions(differences: F32, random: F32, chance: list[F32]) -> tuple[F32, str]:
    """Directions (dim, r) in which the differences found vary more than those of the same pairs among other groups ever
    do (parallel analysis, Horn 1965: a sample of few has large eigenvalues by chance alone; rank by rank)."""
    dim = differences.shape[1]
    among, most = usual(random), min(_MOST, dim // 8)
    least = _ABOVE_CHANCE * np.max([largest(sample, among, most)[0] for sample in chance], axis=0)  # of each rank
    variance, directions = largest(differences, among, most)
    gaps = variance[:-1] / np.maximum(variance[1:], 1e-9)
    gaps[~np.logical_and.accumulate(variance > least)[:-1]] = 0
    kept = int(np.argmax(gaps)) + 1
    if gaps[kept - 1] < _GAP:
        text = f"modes: {len(differences)} pairs of groups differ in no direction in particular"
        return np.zeros((dim, 0), np.float32), f"{text} ({variance[0]:.2f} times as much, by chance {least[0]:.2f})"
    basis, _ = np.linalg.qr(directions[:, :kept])
    text = (
        f"modes: {len(differences)} pairs of groups differ {variance[kept - 1]:.1f} to {variance[0]:.1f} times as much"
    )
    return basis.astype(np.float32), f"{text} in {kept} directions as random ones, by chance up to {least[0]:.1f}"


def connected(count: int, low: I32, high: I32) -> I32:
    """The lowest group (count,) that each group is connected to by the pairs."""
    ones = np.ones(len(low), np.int8)
    _, number = connected_components(scipy.sparse.coo_array((ones, (low, high)), (count, count)), directed=False)
    _, first = np.unique(number, return_index=True)
    return np.asarray(first[number], np.int32)
