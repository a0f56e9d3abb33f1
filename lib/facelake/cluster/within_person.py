"""Joins groups of one person that similarity alone leaves apart.

Light, pose and expression change every embedding in some directions more than in others. How they do is measured
inside the corpus's own groups: templates are normalised by the covariance within groups (within-class covariance
normalisation; Hatch, Kajarekar, Stolcke, Interspeech 2006), shrunk towards a sphere as far as few faces require (Chen,
Wiesel, Eldar, Hero, IEEE Trans. Signal Processing 2010). Nearly all pairs of groups are of different people, so that
the distribution of their similarities says how similar two people become by chance, among as many pairs as there are.
Two groups that are more similar than that are joined if normalisation raised their similarity: it discounts what
varies within people, and so brings together a head that was turned or lit from another side, and not relatives, who
differ in what varies between people. Where few people are compared, and few of their groups are as alike as relatives
are, two groups are also joined because the mean similarity of their faces is one that only one of a thousand pairs of
people has. Where groups are so few that a pair or two of one person make up the upper end of the distribution, only
those are joined whose mean similarity is higher still.

Relatives are more similar than chance before and after. Where a corpus has many, their pairs widen the measured
distribution or show that it is none of chance; where some of the pairs beyond it were not raised, they are relatives'
and others of them may have been raised a little, so that nobody is joined for that reason.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import repeat
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.cluster.labels import canonical
from facelake.contracts import F32, F64, I32, I64, Bool
from facelake.vectors import unit_rows

LEAST_GROUPS, MOST_GROUPS = 10, 32_000
"""groups of two faces or more: fewer pairs do not show chance; of more, one process would compare half a billion"""
_SAMPLED = 2_000  # groups whose pairs show the distribution
_ROWS = 512  # groups compared at once
LEAST_FACES = 4
"""of the larger of two groups: two sessions of two photos each tell nothing of what varies within either person"""
_FALSE_JOINS = 0.01  # joins of different people expected in the whole corpus, under a normal distribution

# Standard deviations by which normalisation must raise a similarity, among those of different people, for the mean of
# the pairs not to matter: it raises that of a turned head or another light, and not that of relatives.
_RAISED = 2.5
# There are relatives where more pairs than these beyond chance are not raised: so many, and a share of those pairs.
_UNRAISED, _UNRAISED_SHARE = 2, 0.04
# In a corpus that shows how similar one person's photos are, the mean decides among so many groups at most, and if no
# more pairs than these are alike on the mean, relatives' or one person's: so many, and a share of the groups. The
# latter also holds where groups are too few to show what is beyond chance.
_FEW_GROUPS = 300
_RELATIVES, _RELATIVES_SHARE = 3, 0.1
# Mean excess of a normal distribution's upper hundredth over its lower end, in standard deviations.
_EXCESS = 0.34
# The share of a distribution at its upper end by which its standard deviation is read. The upper hundredth of few pairs
# may be pairs of one person.
_TAIL, _TAIL_OF_FEW = 0.01, 0.1
# Ratio of the standard deviations by the upper end and by the lower half from which on a distribution is not normal.
_CONTRADICTION = {_TAIL: 1.5, _TAIL_OF_FEW: 2.0}


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
    templates = _Templates.of(groups)
    limits = _Limits.of(templates, cuts)
    number = np.arange(len(groups.size), dtype=np.int32)
    if np.isinf(limits.chance.most):
        return number, f"0 joins among {len(number)} groups, whose similarities are not normally distributed"
    heap, relatives = _beyond_chance(templates, limits)
    if relatives:
        limits = limits._replace(raised=False)
    joins = _join_best_first(heap, templates, limits, number)
    text = (
        f"{joins} joins among {len(number)} groups, by chance none of different people above a normalised similarity "
    )
    text += f"of {limits.chance.most:.3f}"
    if not limits.raised:
        text += "; relatives may be among the pairs above it, so that normalisation alone joins none"
    return canonical(number), text


class _Templates(NamedTuple):
    """What groups are compared by; a joined group is added to one of its parts."""

    normalised: F32
    """(groups, dim) normalised sums"""
    unit: F32
    """(groups, dim) the same with length one"""
    sums: F32
    """(groups, dim) as given"""
    size: F32
    """(groups,)"""

    @classmethod
    def of(cls, groups: Groups) -> _Templates:
        """Normalise groups."""
        normalised = _normalised(groups)
        unit = unit_rows(normalised, least=1e-9)
        return cls(normalised, unit, groups.sums.astype(np.float32), groups.size.astype(np.float32))

    def similarity(self, rows: slice | I64, others: slice) -> F32:
        """Return the normalised similarity (rows, others) of the pairs of some groups and others."""
        return np.asarray(self.unit[rows] @ self.unit[others].T, np.float32)

    def mean_cosine(self, a: I64, b: I64) -> F32:
        """Return the mean cosine (n,) of all pairs of faces of groups a (n,) and b (n,)."""
        products = np.einsum("ij,ij->i", self.sums[a], self.sums[b])
        return np.asarray(products / (self.size[a] * self.size[b]), np.float32)

    def join(self, into: int, other: int) -> None:
        """Add a group to another."""
        for total in (self.normalised, self.sums, self.size):
            total[into] += total[other]
        self.unit[into] = unit_rows(self.normalised[[into]], least=1e-9)[0]


class _Limits(NamedTuple):
    """Which pairs of groups are joined."""

    chance: _Chance
    """of the normalised similarities"""
    alike: _Chance
    """of the mean cosines"""
    least_mean: float
    """mean cosine from which a pair need not be raised; infinite where there are many people, or relatives"""
    raised: bool = True
    """whether pairs are joined because they were raised"""

    @classmethod
    def of(cls, templates: _Templates, cuts: Calibration) -> _Limits:
        """Read the distributions off the pairs of a sample of the groups."""
        count = len(templates.size)
        chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(np.int64))
        part = _Templates(*(values[chosen] for values in templates))
        similarity = part.similarity(slice(None), slice(None))
        mean = (part.sums @ part.sums.T) / np.outer(part.size, part.size)
        pairs = count * (count - 1) // 2
        least = cuts.mean_of_groups if _of_few(mean, part.size, count, cuts) else np.inf
        measured = cls(_Chance.of(similarity, pairs), _Chance.of(mean, pairs), least)
        if cuts.nearest_low or not np.isinf(measured.chance.most):
            return measured
        chance, alike = (_Chance.of(values, pairs, _TAIL_OF_FEW) for values in (similarity, mean))
        if np.isinf(alike.most) or not _without_relatives(mean, part.size, count, cuts.mean_of_any):
            return measured
        return cls(chance, alike, cuts.mean_of_any, raised=False)

    def were_raised(self, similarity: F32, mean: F32) -> Bool:
        """Return of which pairs (n,) normalisation raised the similarity."""
        return self.chance.deviations(similarity) - self.alike.deviations(mean) >= _RAISED

    def pass_(self, similarity: F32, mean: F32, larger: F32) -> Bool:
        """Return which pairs (n,) are joined, by both similarities and the size of the larger group."""
        by_mean = (similarity >= self.chance.most) & (mean >= self.least_mean)
        raised = self.were_raised(similarity, mean) & (similarity >= self.chance.most_of_any) & self.raised
        return np.asarray((raised | by_mean) & (larger >= LEAST_FACES))


def _of_few(mean: F32, size: F32, count: int, cuts: Calibration) -> bool:
    """Return whether groups are of a small corpus, or of few people without many relatives.

    Args:
        mean: (n, n) mean cosines of the pairs of a sample of the groups, of all if they are few.
        size: (n,) their faces.
        count: number of all groups.
        cuts: the calibration.
    """
    return not cuts.nearest_low or (count <= _FEW_GROUPS and _without_relatives(mean, size, count, cuts.alike))


def _without_relatives(mean: F32, size: F32, count: int, least: float) -> bool:
    """Return whether hardly more pairs have a mean cosine of `least` than are of one person; arguments as above."""
    low, high = np.triu_indices(len(mean), 1)
    alike = (mean[low, high] >= least) & (np.maximum(size[low], size[high]) >= LEAST_FACES)
    return int(alike.sum()) <= max(_RELATIVES, _RELATIVES_SHARE * count)


_Pair = tuple[float, int, int, int, int]
"""negative similarity of two groups, the lower and the higher one, and how often each had changed before"""


def _beyond_chance(templates: _Templates, limits: _Limits) -> tuple[list[_Pair], bool]:
    """Return the pairs that are more similar than chance explains, and whether some of them are relatives'."""
    heap: list[_Pair] = []
    beyond = unraised = 0
    for rows in _blocks(len(templates.size)):
        similarity = templates.similarity(rows, slice(rows.start, None))
        a, b = np.nonzero(np.triu(similarity >= limits.chance.most, 1))
        of_pair, low, high = similarity[a, b], a + rows.start, b + rows.start
        mean, further = templates.mean_cosine(low, high), of_pair >= limits.chance.most_of_any
        beyond += int(further.sum())
        unraised += int((further & ~limits.were_raised(of_pair, mean)).sum())
        heap += zip((-of_pair).tolist(), low.tolist(), high.tolist(), repeat(0), repeat(0), strict=False)
    return heap, unraised > _UNRAISED + _UNRAISED_SHARE * beyond


def _join_best_first(heap: list[_Pair], templates: _Templates, limits: _Limits, number: I32) -> int:
    """Join the pairs that pass, the most similar one first; writes into `number` (groups,), returns how many."""
    heapq.heapify(heap)
    times = np.zeros(len(number), np.int64)  # how often each group has changed: older pairs of it no longer count
    joins = 0
    while heap:
        negative, a, b, seen_a, seen_b = heapq.heappop(heap)
        if (times[a], times[b]) != (seen_a, seen_b):
            continue
        mean = templates.mean_cosine(np.array([a]), np.array([b]))
        if not limits.pass_(np.array([-negative], np.float32), mean, templates.size[[a, b]].max()).all():
            continue
        templates.join(a, b)
        number[number == b] = a
        times[a], times[b] = times[a] + 1, -1
        joins += 1
        similarity = templates.similarity(np.array([a]), slice(None))[0]
        for other in np.flatnonzero((similarity >= limits.chance.most) & (times >= 0)).tolist():
            if other != a:
                low, high = min(a, other), max(a, other)
                heapq.heappush(heap, (-float(similarity[other]), low, high, int(times[low]), int(times[high])))
    return joins


def _normalised(groups: Groups) -> F32:
    """Return the sums (groups, dim), relative to the mean template, in coordinates in which faces of one person vary
    equally in all directions."""
    size = groups.size.astype(np.float64)
    freedom = float((size - 1).sum())
    within, centre = groups.moment.copy(), np.zeros(groups.sums.shape[1])
    for rows in _blocks(len(size)):
        means = groups.sums[rows] / size[rows, None]
        within -= means.T @ groups.sums[rows]
        centre += means.sum(0) / len(size)
    variance, directions = np.linalg.eigh(_shrunk(within / freedom, freedom))
    scale = directions / np.sqrt(np.maximum(variance, 1e-9))
    out = np.empty(groups.sums.shape, np.float32)
    for rows in _blocks(len(size)):
        out[rows] = (groups.sums[rows] - size[rows, None] * centre) @ scale
    return out


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, start + _ROWS)


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
    most_of_any: float
    """the same for a distribution whose upper hundredth falls off exponentially, as a normal one's begins to"""

    @classmethod
    def of(cls, similarity: F32, pairs: int, tail: float = _TAIL) -> _Chance:
        """Read the distribution off a symmetric matrix of similarities, for a number of pairs that may be larger."""
        normal = NormalDist()
        low, mid, high = np.quantile(similarity[np.triu_indices(len(similarity), 1)], [0.1587, 0.5, 1 - tail])
        lower, upper = mid - low, (high - mid) / normal.inv_cdf(1 - tail)
        deviation = max(lower, upper, 1e-6)
        if upper > _CONTRADICTION[tail] * lower:
            return cls(float(mid), float(deviation), np.inf, np.inf)
        most = mid + normal.inv_cdf(1 - _FALSE_JOINS / pairs) * deviation
        heavy = mid + (normal.inv_cdf(0.99) + _EXCESS * np.log(pairs * 0.01 / _FALSE_JOINS)) * deviation
        return cls(float(mid), float(deviation), float(most), float(max(most, heavy)))

    def deviations(self, similarity: F32) -> F32:
        """Return how many standard deviations each similarity lies above the middle."""
        return np.asarray((similarity - self.middle) / self.deviation, np.float32)
