"""Joins groups of one person that similarity alone leaves apart, in corpora too small for mode merging.

Light, pose and expression change every embedding in some directions more than in others. How they do is measured
inside the corpus's own groups: templates are normalised by the covariance within groups (within-class covariance
normalisation; Hatch, Kajarekar, Stolcke, Interspeech 2006), shrunk towards a sphere as far as few faces require (Chen,
Wiesel, Eldar, Hero, IEEE Trans. Signal Processing 2010). Nearly all pairs of groups are of different people, so that
the distribution of their similarities says how similar two people become by chance, among as many pairs as there are.
Two groups that are more similar than that, and whose faces are as similar on the mean as two linked faces must be, are
joined.

Relatives are more similar than chance: where a corpus has many, their pairs widen the measured distribution or show
that it is none of chance; few are kept apart by the limit on the mean similarity.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.cluster.labels import canonical
from facelake.contracts import F32, F64, I32, I64
from facelake.vectors import unit_rows

LEAST_GROUPS, MOST_GROUPS = 10, 4_000
"""groups of two faces or more: fewer pairs do not show chance; the similarities of more take 64 MB each"""
# Of the larger of two groups: two sessions of two photos each tell nothing of what varies within either person.
_LEAST_FACES = 4
_FALSE_JOINS = 0.01  # joins of different people expected in the whole corpus, under a normal distribution

# Standard deviations by which normalisation must raise a similarity, among those of different people, for the mean of
# the pairs not to matter: it raises that of a turned head or another light, and not that of relatives.
_RAISED = 2.5
# Ratio of the standard deviations by the upper and the lower part of a distribution from which on it is not normal.
_CONTRADICTION = 1.5


class Groups(NamedTuple):
    """Groups of at least two faces, and the second moment of all their vectors."""

    sums: F32
    """(groups, dim) sums of unit vectors"""
    size: I64
    """(groups,) faces of each"""
    moment: F64
    """(dim, dim) sum of the outer products of the vectors with themselves"""


def join_normalised(groups: Groups, cuts: Calibration) -> tuple[I32, str]:
    """Join groups whose normalised templates are more similar than those of different people ever are.

    The most similar pair is joined first; a joined group is compared as one.

    Args:
        groups: the groups, `LEAST_GROUPS` or more.
        cuts: the calibration.

    Returns:
        (groups,) canonical number of the joined group that each is part of, and the evidence.
    """
    sums, size = groups.sums.astype(np.float32), groups.size.astype(np.float32)
    normalised = _normalised(groups)
    similarity = _cosines(normalised, normalised)
    between = (sums @ sums.T) / np.outer(size, size)
    chance, alike = _Chance.of(similarity), _Chance.of(between)
    np.fill_diagonal(similarity, -1)
    number = np.arange(len(size), dtype=np.int32)
    joins = 0
    while True:
        raised = chance.deviations(similarity) - alike.deviations(between) >= _RAISED
        open_ = (similarity >= chance.most) & (raised | ((between >= cuts.mean_of_groups) & (not cuts.nearest_low)))
        open_ &= np.maximum.outer(size, size) >= _LEAST_FACES
        best = int(np.argmax(np.where(open_, similarity, -1)))
        a, b = divmod(best, len(size))
        if not open_[a, b]:
            break
        number[number == b] = a
        for total in (normalised, sums, size):
            total[a] += total[b]
        similarity[a] = similarity[:, a] = _cosines(normalised[a : a + 1], normalised)[0]
        between[a] = between[:, a] = (sums @ sums[a]) / (size * size[a])
        gone = np.union1d(np.flatnonzero(number != np.arange(len(number))), [a])
        similarity[a, gone] = similarity[gone, a] = -1
        similarity[b] = similarity[:, b] = -1
        joins += 1
    text = f"{joins} joins among {len(size)} groups, "
    if np.isinf(chance.most):
        return canonical(number), f"{text}whose similarities are not normally distributed"
    above = f"by chance none of different people above a normalised similarity of {chance.most:.3f}"
    return canonical(number), f"{text}{above}"


def _normalised(groups: Groups) -> F32:
    """Return the sums (groups, dim), relative to the mean template, in coordinates in which faces of one person vary
    equally in all directions."""
    sums, size = groups.sums.astype(np.float64), groups.size.astype(np.float64)
    freedom = float((size - 1).sum())
    within = (groups.moment - (sums / size[:, None]).T @ sums) / freedom
    variance, directions = np.linalg.eigh(_shrunk(within, freedom))
    centre = (sums / size[:, None]).mean(0)
    scale = directions / np.sqrt(np.maximum(variance, 1e-9))
    return np.asarray((sums - size[:, None] * centre) @ scale, np.float32)


def _shrunk(covariance: F64, freedom: float) -> F64:
    """Return a covariance shrunk towards a sphere (oracle approximating shrinkage).

    Args:
        covariance: (dim, dim) estimate.
        freedom: independent differences that it was estimated from.
    """
    dim = len(covariance)
    trace, square = float(np.trace(covariance)), float((covariance**2).sum())
    scatter = (freedom + 1 - 2 / dim) * (square - trace**2 / dim)
    share = min(1.0, ((1 - 2 / dim) * square + trace**2) / scatter) if scatter > 0 else 1.0
    return np.asarray((1 - share) * covariance + share * trace / dim * np.eye(dim), np.float64)


def _cosines(a: F32, b: F32) -> F32:
    return np.asarray(unit_rows(a, least=1e-9) @ unit_rows(b, least=1e-9).T, np.float32)


class _Chance(NamedTuple):
    """The normal distribution of the similarities of different people, read off those of all pairs of groups.

    Its median and lower half are taken: the upper half also holds pairs of one person. Many relatives are far more
    pairs than those, so that a 99th percentile above the distribution's shows them: the standard deviation is then that
    of the percentile, and `most` is infinite where the two contradict each other.
    """

    middle: float
    deviation: float
    most: float
    """similarity that hardly any pair of different people is expected to reach among all pairs"""

    @classmethod
    def of(cls, similarity: F32) -> _Chance:
        """Read the distribution off a symmetric matrix of similarities."""
        pairs, normal = similarity[np.triu_indices(len(similarity), 1)], NormalDist()
        low, mid, high = np.quantile(pairs, [0.1587, 0.5, 0.99])
        lower, upper = mid - low, (high - mid) / normal.inv_cdf(0.99)
        deviation = max(lower, upper, 1e-6)
        most = mid + normal.inv_cdf(1 - _FALSE_JOINS / len(pairs)) * deviation
        return cls(float(mid), float(deviation), float(most) if upper <= _CONTRADICTION * lower else np.inf)

    def deviations(self, similarity: F32) -> F32:
        """Return how many standard deviations each similarity lies above the middle."""
        return np.asarray((similarity - self.middle) / self.deviation, np.float32)
