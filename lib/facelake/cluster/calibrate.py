"""Where to cut, without labels: what different people score, and how rarely that may fool us.

Pairs of different people ("impostors") come from the corpus itself: random pairs, nearly all of different people once
there are many people, read at robust quantiles so that the few genuine ones among them do not count; and faces of one
photo. A small corpus cannot tell, so there the model card's figures stand in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import NormalDist

import numpy as np

from facelake.contracts import F32, I64

_ENOUGH_FACES = 2_000
_PAIRS = 200_000
# Expected false links per face at the cut. Real tails are heavier than the fitted normal's, hence not .1 but .01.
_FALSE_LINKS_PER_FACE = 0.01
# Mean similarity between two groups of one person, relative to inside them: the same in expectation, less for modes
# (age, glasses); of two people it stays clearly lower. Results hardly move between .75 and .85 (docs/clustering.md).
_RATIO, _RATIO_SINGLE = 0.75, 0.90
# The graph's cut and the scale of its weights, in units of (one person's level - different people's mean), so that
# encoders of other dimension and spread need no other numbers.
_GRAPH_CUT, _WEIGHT_SCALE = 0.68, 0.165
# Impostors of a 128-d encoder scatter so widely that a cut by chance alone would lie among genuine pairs; joins have
# the relative cut besides, so their absolute one need not lie higher than this (same units).
_EDGE_CAP, _FLOOR = 0.54, 0.45


@dataclass(frozen=True, slots=True)
class Prior:
    """What a model card says of its encoder's similarities."""

    impostor_mean: float
    impostor_sd: float
    genuine_mean: float


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

    @property
    def graph_cut(self) -> float:
        """Discounted cosine from which a pair is an edge of the graph."""
        return self.impostor_mean + _GRAPH_CUT * (self.level - self.impostor_mean)

    @property
    def floor(self) -> float:
        """Cosine from which neighbours are worth finding: no later cut lies lower."""
        if self.by_hand:
            return self.edge
        return min(self.edge, self.impostor_mean + _FLOOR * (self.level - self.impostor_mean))

    @property
    def weight_scale(self) -> float:
        """An edge's weight falls by e for each step of this size."""
        return max(_WEIGHT_SCALE * (self.level - self.impostor_mean), 1e-3)

    def manifest(self) -> dict[str, object]:
        """For the run's record."""
        return asdict(self) | {"graph_cut": self.graph_cut, "weight_scale": self.weight_scale}


def calibrate(vectors: F32, photos: I64, prior: Prior, seed: int, fixed: float | None = None) -> Calibration:
    """Derive the cuts for unit vectors (n, dim).

    Args:
        photos: (n,) a number per photo; faces of one photo are nearly always different people.
        prior: figures of the model card.
        fixed: a cut set by hand.
    """
    mean, sd, evidence = (
        prior.impostor_mean,
        prior.impostor_sd,
        f"model card; {len(vectors)} faces are too few to tell",
    )
    if len(vectors) >= _ENOUGH_FACES:
        mean, sd, evidence = _impostors(vectors, photos, seed)
    z = NormalDist().inv_cdf(1 - _FALSE_LINKS_PER_FACE / max(len(vectors), 100))
    edge = float(min(mean + z * sd, 0.95))
    if fixed is not None:
        edge, evidence = fixed, "set by hand"
    numbers = (edge, _RATIO, _RATIO_SINGLE, prior.genuine_mean, float(mean), float(sd))
    return Calibration(*numbers, evidence, by_hand=fixed is not None)


def with_level(cuts: Calibration, a: I64, similarity: F32) -> Calibration:
    """The cuts with the level taken from the corpus: the median over faces of the best neighbour above the edge.

    Args:
        a, similarity: neighbour pairs; a is the face whose neighbour it is.
    """
    strong = similarity >= cuts.edge
    faces, position = np.unique(a[strong], return_inverse=True)
    if len(faces) < _ENOUGH_FACES:
        return cuts
    best = np.full(len(faces), -1.0, np.float32)
    np.maximum.at(best, position, similarity[strong])
    # the best of many neighbours flatters: pairs of one person lie lower, by as much as the median pair above the edge
    level = float((np.median(best) + np.median(similarity[strong])) / 2)
    edge = cuts.edge
    if not cuts.by_hand:
        edge = max(cuts.floor, min(edge, cuts.impostor_mean + _EDGE_CAP * (level - cuts.impostor_mean)))
    evidence = f"{cuts.evidence}; level from {len(faces)} faces with a neighbour above {cuts.edge:.3f}"
    return replace(cuts, level=level, edge=edge, evidence=evidence)


def _impostors(vectors: F32, photos: I64, seed: int) -> tuple[float, float, str]:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, len(vectors), (2, _PAIRS))
    different = a != b
    a, b = a[different], b[different]
    random_pairs = np.einsum("ij,ij->i", vectors[a], vectors[b])
    order = np.argsort(photos, kind="stable")
    together = np.flatnonzero(photos[order][1:] == photos[order][:-1])
    same_photo = np.einsum("ij,ij->i", vectors[order[together]], vectors[order[together + 1]])
    low, mid = np.quantile(random_pairs, [0.1587, 0.5])  # one sd below the mean, and the mean, of a normal
    mean, sd = float(mid), float(mid - low)
    evidence = f"{len(a)} random pairs: median {mid:.3f}, sd from the lower half {sd:.3f}"
    if len(same_photo) >= 500:
        low, mid = np.quantile(same_photo, [0.1587, 0.5])
        mean, sd = max(mean, float(mid)), max(sd, float(mid - low))
        evidence += f"; {len(same_photo)} same-photo pairs: median {mid:.3f}, sd {mid - low:.3f}"
    return mean, sd, evidence
