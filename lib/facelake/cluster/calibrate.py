"""Where to cut, without labels: what different people score, what one person scores, how rarely chance may fool us.

Pairs of different people ("impostors") come from the corpus itself: random pairs, nearly all of different people once
there are many people, read at robust quantiles so that the few genuine ones among them do not count; and faces of one
photo. Pairs of one person come from the neighbours above the cut. A small corpus cannot tell, so there the model
card's figures stand in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import NormalDist

import numpy as np

from facelake.cluster.neighbours import Ragged
from facelake.contracts import F32, I64

_ENOUGH_FACES = 2_000
_PAIRS = 200_000
# Expected false links per face at `chance`. Real tails are heavier than the fitted normal's, hence not .1 but .01.
_FALSE_LINKS_PER_FACE = 0.01
# Mean similarity between two groups of one person, relative to inside them: the same in expectation, less for modes
# (age, glasses); of two people it stays clearly lower. Lower than .75 joins siblings (docs/clustering.md).
_RATIO, _RATIO_SINGLE = 0.75, 0.75
# An edge of the graph is of two people with at most this probability: among the neighbours of a width of cosines, the
# share that the impostors' distribution accounts for. Many photos per person allow a lower cut than one or two do.
_FALSE_SHARE, _WINDOW = 0.02, 0.04
# So many neighbours (from both sides) in the window are evidence; without them a cut must let hardly any false link
# of the whole corpus be expected, since real tails are heavier than a normal's.
_ENOUGH_NEIGHBOURS, _NO_FALSE_LINKS = 20, 0.0005
# Relatives and look-alikes are no random pairs: where an encoder of 512 dimensions puts strangers far away, a cut by
# chance lets them in. So cuts are no lower than these shares of the way from different people's mean to `nearest_low`.
_LEAST_CUT, _LEAST_EDGE, _LEAST_ATTACH, _LEAST_MODES = 0.7, 0.55, 0.5, 0.45
# Up to so many faces. The nearest look-alikes of more faces are nearer, as the nearest of more random pairs are.
_LEAST_CUT_FACES = 100_000
# In a small corpus, which does not show `nearest_low`, the graph's cut is no lower than this, in units of (one person's
# level - different people's mean). The weights of edges fall by e per this much, in the same units.
_LEAST_CUT_SMALL, _WEIGHT_SCALE = 0.55, 0.25
# Groups of few people that are alike beyond chance after normalisation are joined from this mean on (same units; .43 by
# the default model's card, .42 as measured): 99.9 % of the pairs of people in photographs measured stay below .42.
_LEAST_MEAN_SMALL, _LEAST_MEAN = 0.45, 0.5
# The same where groups are too few to tell what is beyond chance.
_LEAST_MEAN_ANY = 0.6
# Groups that are so alike on the mean, in shares of the way to `nearest_low`, are of one person or of relatives.
_ALIKE = 0.6
# In a small corpus also, a singleton must be as similar as this to a group of few faces, in units as above: the mean of
# two photos is a noisy template, which strangers come near.
_LEAST_ATTACH_FEW = 0.65
# Impostors of a 128-d encoder scatter so widely that a cut by chance alone would lie among genuine pairs; joins have
# the relative cut besides, so their absolute one need not lie higher than this (same units).
_EDGE_CAP, _FLOOR = 0.54, 0.45
# How much nearer (in impostor sds) the best group must be than the next one for a singleton to be attached.
_LEAD = 1.0
# Frames of one burst, copies cut or encoded again: they say nothing of how alike two photos of one person are.
_NEAR_COPY = 0.93
# Photos of one occasion are hardly less alike. Where most nearest photos are such, they say nothing of how alike a
# person is from one occasion to the next: `Prior.nearest_most` bounds their lower quartile, and this much more their
# median.
_MEDIAN_ABOVE = 0.05
# Random pairs more alike than the card's different people by this many sds are of one person, who fills the corpus.
_TOO_ALIKE = 3.0
_STEPS = 1000  # of the histograms of cosines over 0..1


@dataclass(frozen=True, slots=True)
class Prior:
    """What a model card says of its encoder's similarities."""

    impostor_mean: float
    impostor_sd: float
    genuine_mean: float
    nearest_most: float = 0.75
    """photos of one person on different occasions are rarely more alike; a corpus's nearest photos count no more"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Derived numbers and where they came from."""

    edge: float
    """cosine above which a pair of single faces may be joined"""
    ratio: float
    """least mean cosine between two large groups relative to that inside them"""
    ratio_single: float
    """the same between single faces"""
    level: float
    """how alike two faces of one person usually are"""
    impostor_mean: float
    impostor_sd: float
    evidence: str
    by_hand: bool = False
    """`edge` was set in the config: nothing moves it"""
    chance: float = 0.0
    """cosine above which chance makes 0.01 false links per face"""
    cut: float = 0.0
    """cosine from which neighbours are mostly of one person, measured"""
    nearest_low: float = 0.0
    """lower quartile of faces' cosines to their nearest photo that is no near copy, at most `nearest_most`; 0 in a
    small corpus"""
    nearest_most: float = 1.0
    """of the model card"""

    @property
    def gap(self) -> float:
        """How far one person's level lies above different people's mean."""
        return max(self.level - self.impostor_mean, self.impostor_sd, 1e-3)

    @property
    def graph_cut(self) -> float:
        """Discounted cosine from which a pair is an edge of the graph."""
        cut = self.cut or self.impostor_mean + _LEAST_CUT_SMALL * self.gap
        return max(cut, self.edge) if self.by_hand else cut

    @property
    def floor(self) -> float:
        """Cosine from which neighbours are worth finding: no later cut lies lower."""
        if self.by_hand:
            return self.edge
        return min(self.edge, self.impostor_mean + _FLOOR * self.gap)

    @property
    def deep_floor(self) -> float:
        """The same for faces with hardly any neighbour, which are looked for in more places."""
        return self.edge if self.by_hand else min(self.floor, self.impostor_mean + 3 * self.impostor_sd)

    @property
    def weight_scale(self) -> float:
        """An edge's weight falls by e for each step of this size."""
        return _WEIGHT_SCALE * self.gap

    @property
    def attach(self) -> float:
        """Cosine to a group's centroid, or to another singleton, from which a singleton joins it."""
        if self.by_hand:
            return self.edge
        least = self._share(_LEAST_ATTACH) if self.nearest_low else self.edge
        return max(min(self.chance, self.graph_cut), least)

    @property
    def attach_few(self) -> float:
        """The same for groups of few faces."""
        if self.by_hand or self.nearest_low:
            return self.attach
        return max(self.attach, self.impostor_mean + _LEAST_ATTACH_FEW * self.gap)

    @property
    def modes_from(self) -> float:
        """Mean cosine between two groups from which they may be modes of one person (mode_merging.py)."""
        return self.edge if self.by_hand or not self.nearest_low else min(self.edge, self._share(_LEAST_MODES))

    @property
    def mean_of_groups(self) -> float:
        """Mean cosine of the pairs between two groups from which they may be of one person (within_person.py)."""
        share = _LEAST_MEAN if self.nearest_low else _LEAST_MEAN_SMALL
        return self.edge if self.by_hand else self.impostor_mean + share * self.gap

    @property
    def mean_of_any(self) -> float:
        """The same where there are too few groups to tell which similarities are beyond chance."""
        return self.edge if self.by_hand else self.impostor_mean + _LEAST_MEAN_ANY * self.gap

    @property
    def alike(self) -> float:
        """Mean cosine of the pairs between two groups that hardly any strangers have, but relatives do."""
        return self._share(_ALIKE)

    def _share(self, share: float) -> float:
        """Return the cosine at a share of the way from different people's mean to `nearest_low`."""
        return self.impostor_mean + share * (self.nearest_low - self.impostor_mean)

    @property
    def lead(self) -> float:
        """How much nearer the best group must be than the next one for a face to be attached."""
        return _LEAD * self.impostor_sd

    def manifest(self) -> dict[str, object]:
        """For the run's record."""
        names = ("graph_cut", "weight_scale", "floor", "deep_floor", "attach", "lead")
        return asdict(self) | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Similarities:
    """Histograms of cosines of neighbours over 0..1 (steps,): of all, and of each face's best that is no near copy."""

    every: I64
    best: I64

    @classmethod
    def of(cls, near: Ragged) -> Similarities:
        """Count the neighbours of some faces."""
        copies = np.concatenate([[0], np.cumsum(near.cosine >= _NEAR_COPY)])
        first = near.start[:-1] + copies[near.start[1:]] - copies[near.start[:-1]]
        first = first[first < near.start[1:]]
        return cls(_histogram(near.cosine), _histogram(near.cosine[first]))


def calibrate(
    vectors: F32, photos: I64, faces: int, prior: Prior, seed: int, fixed: float | None = None
) -> Calibration:
    """Derive the cuts for a sample of unit vectors (n, dim).

    Args:
        photos: (n,) a number per photo; faces of one photo are nearly always different people.
        faces: how many faces the corpus has.
        prior: figures of the model card.
        fixed: a cut set by hand.
    """
    mean, sd = prior.impostor_mean, prior.impostor_sd
    evidence = f"model card; {len(vectors)} faces are too few to tell"
    if len(vectors) >= _ENOUGH_FACES:
        mean, sd, evidence = _impostors(vectors, photos, prior, seed)
    edge = float(min(mean + _deviations(max(faces, 100)) * sd, 0.95))
    if fixed is not None:
        edge, evidence = fixed, "set by hand"
    numbers = (edge, _RATIO, _RATIO_SINGLE, prior.genuine_mean, float(mean), float(sd))
    by_hand = fixed is not None
    return Calibration(*numbers, evidence, by_hand=by_hand, chance=edge, nearest_most=prior.nearest_most)


def with_level(cuts: Calibration, seen: Similarities, faces: int) -> Calibration:
    """The cuts with the graph's cut, and from 2,000 faces on the level, taken from the corpus's neighbours.

    Args:
        faces: how many faces the corpus has.
    """
    crossing = _crossing(cuts, seen.every, faces)
    first = int(np.ceil(cuts.edge * _STEPS))
    near = int(seen.best[first:].sum())
    if near < _ENOUGH_FACES:
        edge = cuts.edge if cuts.by_hand else min(cuts.edge, cuts.impostor_mean + _EDGE_CAP * cuts.gap)
        return replace(cuts, edge=edge, cut=max(crossing, cuts.impostor_mean + _LEAST_CUT_SMALL * cuts.gap))
    # The nearest of many photos flatters, and the other neighbours do not tell how alike one person's photos are: most
    # are frames of a session in one corpus, look-alikes just above the edge in another.
    low = min(_quantile(seen.best, first, 0.25), cuts.nearest_most)
    median = min(_quantile(seen.best, first, 0.5), cuts.nearest_most + _MEDIAN_ABOVE)
    cuts = replace(cuts, nearest_low=low, level=(low + median) / 2)
    edge = cuts.edge
    if not cuts.by_hand:
        cap = cuts.impostor_mean + _EDGE_CAP * (cuts.level - cuts.impostor_mean)
        edge = max(cuts.floor, min(edge, cap), cuts._share(_LEAST_EDGE))
    evidence = f"{cuts.evidence}; level from {near} faces with a neighbour above {cuts.edge:.3f}"
    further = _deviations(max(faces, _LEAST_CUT_FACES)) - _deviations(_LEAST_CUT_FACES)
    least = cuts._share(_LEAST_CUT) + cuts.impostor_sd * further
    return replace(cuts, edge=edge, evidence=evidence, cut=max(crossing, least))


def _deviations(faces: int) -> float:
    """Standard deviations above different people's mean from which on chance makes _FALSE_LINKS_PER_FACE."""
    return NormalDist().inv_cdf(1 - _FALSE_LINKS_PER_FACE / faces)


def _crossing(cuts: Calibration, every: I64, faces: int) -> float:
    """The least cosine from which on different people account for hardly any of the neighbours.

    Of the neighbours within a window of cosines, so many are expected between different people as the normal
    distribution of impostors says of `faces` squared pairs; the rest are genuine.
    """
    above = NormalDist(-cuts.impostor_mean, cuts.impostor_sd)  # mirrored: its lower tail keeps its digits
    total = np.concatenate([[0], np.cumsum(every)])
    width, pairs = int(_WINDOW * _STEPS), float(faces) * faces
    for step in range(int(np.ceil(cuts.floor * _STEPS)), _STEPS - width):
        at = step / _STEPS
        false = pairs * (above.cdf(-at) - above.cdf(-at - _WINDOW))
        near = total[step + width] - total[step]
        if false <= (_FALSE_SHARE * near if near >= _ENOUGH_NEIGHBOURS else 2 * _NO_FALSE_LINKS):
            return at
    return 1 - _WINDOW


def _histogram(cosine: np.ndarray) -> I64:
    place = np.clip(cosine.astype(np.float32) * _STEPS, 0, _STEPS - 1).astype(np.int64)
    return np.bincount(place, minlength=_STEPS)


def _quantile(counts: I64, first: int, share: float) -> float:
    """Return the quantile of a histogram from step `first` on."""
    below = np.cumsum(counts[first:])
    return (first + int(np.searchsorted(below, below[-1] * share)) + 0.5) / _STEPS


def _impostors(vectors: F32, photos: I64, prior: Prior, seed: int) -> tuple[float, float, str]:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, len(vectors), (2, _PAIRS))
    different = a != b
    mean, sd = _spread(_cosines(vectors, a[different], b[different]))
    evidence = f"{different.sum()} random pairs: median {mean:.3f}, sd from the lower half {sd:.3f}"
    if mean > prior.impostor_mean + _TOO_ALIKE * prior.impostor_sd:
        evidence = f"model card; random pairs (median {mean:.3f}) are mostly of one person"
        mean, sd = prior.impostor_mean, prior.impostor_sd
    order = np.argsort(photos, kind="stable")
    together = np.flatnonzero(photos[order][1:] == photos[order][:-1])
    if len(together) >= 500:
        mid, wide = _spread(_cosines(vectors, order[together], order[together + 1]))
        if mid <= prior.impostor_mean + _TOO_ALIKE * prior.impostor_sd:
            mean, sd = max(mean, mid), max(sd, wide)
            evidence += f"; {len(together)} same-photo pairs: median {mid:.3f}, sd {wide:.3f}"
    return mean, sd, evidence


def _spread(similarity: F32) -> tuple[float, float]:
    """Median, and its distance from one standard deviation below the mean of a normal."""
    low, mid = np.quantile(similarity, [0.1587, 0.5])
    return float(mid), float(mid - low)


def _cosines(vectors: F32, a: I64, b: I64) -> F32:
    parts = [
        np.einsum("ij,ij->i", vectors[a[i : i + 20_000]], vectors[b[i : i + 20_000]]) for i in range(0, len(a), 20_000)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
