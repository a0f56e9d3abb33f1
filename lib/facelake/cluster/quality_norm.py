"""How much a pair's similarity must be discounted because its faces are poor, and which faces found no groups.

Blurred, turned and covered faces look like each other whoever they are. How far is measured in the corpus itself:
faces are binned by quality, and for each pair of bins the 99th percentile of the similarity of random pairs (nearly
all of different people) is compared with that of the best bin. Where quality says nothing, nothing is discounted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facelake.contracts import F32, I32, U8, Bool

# Upper quantiles of quality of the bins: fine where faces are poor.
_QUANTILES = np.array([0.01, 0.02, 0.04, 0.06, 0.08, 0.10, 0.14, 0.20, 0.30, 0.50])
_PAIRS = 4_000
_PERCENTILE = 99.0
_NOISE = 0.02  # an inflation below this is the percentile's own scatter
_WEIGHT = 2.0  # similarity above the cut must be worth the inflation twice: once to be level, once to be evidence
_POOR = 0.1  # inflation of a bin, before nuisances are taken out, from which its faces found no groups
_ENOUGH_FACES = 2_000


@dataclass(frozen=True, slots=True)
class Gate:
    """Quality bins with their discounts."""

    bounds: F32
    """(bins - 1,) ascending: a face is in the first bin whose bound is not below its quality"""
    inflation: F32
    """(bins, bins) cosine"""
    poor: Bool
    """(bins,) faces of these bins join groups but found none"""

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
            "poor_bins": int(self.poor.sum()),
        }


def bin_bounds(quality: F32) -> F32:
    """Bounds of the bins from the quality (n,) of all faces; none for a small corpus."""
    if len(quality) < _ENOUGH_FACES:
        return np.zeros(0, np.float32)
    return np.asarray(np.quantile(quality, _QUANTILES, method="inverted_cdf"), np.float32)


def poor_bins(vectors: F32, quality: F32, bounds: F32, seed: int) -> Bool:
    """Bins (bins,) whose faces look like each other for being poor, before nuisances are taken out."""
    return np.asarray(np.diag(_inflation(vectors, quality, bounds, seed)) > _POOR, bool)


def make_gate(vectors: F32, quality: F32, bounds: F32, poor: Bool, seed: int) -> Gate:
    """Measure the inflation for a sample of unit vectors (n, dim) with quality (n,)."""
    return Gate(bounds, _inflation(vectors, quality, bounds, seed), poor)


def _inflation(vectors: F32, quality: F32, bounds: F32, seed: int) -> F32:
    count = len(bounds) + 1
    if len(vectors) < _ENOUGH_FACES or count == 1:
        return np.zeros((count, count), np.float32)
    generator = np.random.default_rng(seed)
    bins = np.searchsorted(bounds, quality)
    members: list[I32] = [np.flatnonzero(bins == k).astype(np.int32) for k in range(count)]
    level = np.full((count, count), np.nan, np.float32)
    for i in range(count):
        for j in range(i, count):
            if len(members[i]) < 2 or len(members[j]) < 2:
                continue
            a, b = generator.choice(members[i], _PAIRS), generator.choice(members[j], _PAIRS)
            similarity = np.einsum("ij,ij->i", vectors[a], vectors[b])
            level[i, j] = level[j, i] = np.percentile(similarity[a != b], _PERCENTILE)
    best = int(np.flatnonzero([len(m) > 1 for m in members])[-1])
    inflation = np.nan_to_num(np.maximum(level - level[best, best], 0))
    inflation[inflation <= _NOISE] = 0
    return np.asarray(inflation, np.float32)
