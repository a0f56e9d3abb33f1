"""How much a pair's similarity must be discounted because its faces are poor.

Blurred, turned and covered faces look like each other whoever they are. How far is measured in the corpus itself:
faces are binned by quality, and for each pair of bins the 99th percentile of the similarity of random pairs (nearly
all of different people) is compared with that of the two best bins. Where quality says nothing, nothing is discounted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.contracts import F32, I64

# Upper quantiles of quality of the bins: fine where faces are poor.
_QUANTILES = np.array([0.01, 0.02, 0.04, 0.06, 0.08, 0.10, 0.14, 0.20, 0.30, 0.50, 1.0])
_PAIRS = 4_000
_PERCENTILE = 99.0
_NOISE = 0.02  # an inflation below this is the percentile's own scatter
_WEIGHT = 2.0  # similarity above the cut must be worth the inflation twice: once to be level, once to be evidence
_ENOUGH_FACES = 2_000


@dataclass(frozen=True, slots=True)
class Gate:
    """Inflation of similarity by pair of quality bins."""

    bins: I64
    """(n,) bin of each face"""
    inflation: F32
    """(bins, bins) cosine"""

    def discount(self, a: I64, b: I64) -> F32:
        """What to take off the similarity of the pairs (a, b)."""
        off: F32 = (_WEIGHT * self.inflation[self.bins[a], self.bins[b]]).astype(np.float32)
        return off


def make_gate(vectors: F32, quality: F32, seed: int) -> Gate:
    """Measure the inflation for unit vectors (n, dim) with quality (n,); small corpora are not gated."""
    n, count = len(vectors), len(_QUANTILES)
    if n < _ENOUGH_FACES:
        return Gate(np.zeros(n, np.int64), np.zeros((1, 1), np.float32))
    generator = np.random.default_rng(seed)
    rank = np.empty(n)
    rank[np.argsort(quality, kind="stable")] = (np.arange(n) + 0.5) / n
    bins = np.minimum(np.searchsorted(_QUANTILES, rank), count - 1).astype(np.int64)
    members = [np.flatnonzero(bins == k) for k in range(count)]
    level = np.zeros((count, count), np.float32)
    for i in range(count):
        for j in range(i, count):
            a, b = generator.choice(members[i], _PAIRS), generator.choice(members[j], _PAIRS)
            similarity = np.einsum("ij,ij->i", vectors[a], vectors[b])
            level[i, j] = level[j, i] = np.percentile(similarity[a != b], _PERCENTILE)
    inflation = np.maximum(level - level[-1, -1], 0)
    inflation[inflation <= _NOISE] = 0
    return Gate(bins, inflation.astype(np.float32))
