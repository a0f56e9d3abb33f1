"""Quality-based score normalisation: how much a pair's similarity is discounted because its faces are poor.

Blurred, turned and covered faces look like each other whoever they are. How far is measured in the corpus itself:
faces are binned by quality, and for each pair of bins a high percentile of the similarity of different people is
compared with that of the best bin. It is read off the median and the lower half of random pairs: the upper half also
holds pairs of one person, and in a narrow bin (the profiles of few people, the frames of a burst) far more of them
than in the corpus. Where quality says nothing, nothing is discounted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facelake.contracts import F32, I32, U8

# Upper quantiles of quality of the bins: fine where faces are poor.
_QUANTILES = np.array([0.01, 0.02, 0.04, 0.06, 0.08, 0.10, 0.14, 0.20, 0.30, 0.50])
_PAIRS = 8_000
_DEVIATIONS = 2.326  # of a normal distribution's 99th percentile
_NOISE = 0.02  # an inflation below this is the estimate's own scatter
_WEIGHT = 2.0  # similarity above the cut must be worth the inflation twice: once to be level, once to be evidence
_ENOUGH_FACES, _ENOUGH_IN_BIN = 500, 5


@dataclass(frozen=True, slots=True)
class Gate:
    """Quality bins with their discounts."""

    bounds: F32
    """(bins - 1,) ascending: a face is in the first bin whose bound is not below its quality"""
    inflation: F32
    """(bins, bins) cosine"""

    def bins(self, quality: F32) -> U8:
        """The bin (n,) of each quality."""
        return np.searchsorted(self.bounds, quality).astype(np.uint8)

    def discount(self, a: U8, b: U8) -> F32:
        """What to take off the similarity of pairs of faces in the bins a and b."""
        off: F32 = (_WEIGHT * self.inflation[a, b]).astype(np.float32)
        return off

    def manifest(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "bounds": [round(float(v), 4) for v in self.bounds],
            "inflation": [round(float(v), 3) for v in np.diag(self.inflation)],
        }


def bin_bounds(quality: F32) -> F32:
    """Bounds of the bins from the quality (n,) of all faces; none for a small corpus."""
    if len(quality) < _ENOUGH_FACES:
        return np.zeros(0, np.float32)
    return np.asarray(np.quantile(quality, _QUANTILES, method="inverted_cdf"), np.float32)


def make_gate(vectors: F32, quality: F32, bounds: F32, seed: int) -> Gate:
    """Measure the inflation for a sample of unit vectors (n, dim) with quality (n,)."""
    return Gate(bounds, _inflation(vectors, quality, bounds, seed))


def _inflation(vectors: F32, quality: F32, bounds: F32, seed: int) -> F32:
    """How far the 99th percentile (bins, bins) of different people's similarity lies above the best bin's."""
    count = len(bounds) + 1
    if len(vectors) < _ENOUGH_FACES or count == 1:
        return np.zeros((count, count), np.float32)
    generator = np.random.default_rng(seed)
    bins = np.searchsorted(bounds, quality)
    members: list[I32] = [np.flatnonzero(bins == k).astype(np.int32) for k in range(count)]
    level = np.full((count, count), np.nan, np.float32)
    for i in range(count):
        for j in range(i, count):
            if min(len(members[i]), len(members[j])) < _ENOUGH_IN_BIN:
                continue
            a, b = generator.choice(members[i], _PAIRS), generator.choice(members[j], _PAIRS)
            similarity = np.einsum("ij,ij->i", vectors[a], vectors[b])
            low, middle, high = np.quantile(similarity[a != b], [0.1587, 0.5, 0.99])
            level[i, j] = level[j, i] = min(middle + _DEVIATIONS * (middle - low), high)
    best = int(np.flatnonzero([len(m) >= _ENOUGH_IN_BIN for m in members])[-1])
    inflation = np.nan_to_num(np.maximum(level - level[best, best], 0))
    inflation[inflation <= _NOISE] = 0
    return np.asarray(inflation, np.float32)
