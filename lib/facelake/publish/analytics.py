"""Which identities a person should look at: two that may be one, and one that may be two. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.contracts import F32, I32, I64

_DOUBTFUL = 0.8  # of the similarity inside, from which two identities may be one person
_LOOSE = 3.0  # times the usual deviation below the usual cohesion, from which one may be two people
_SHARED = 0.2  # share of faces in photos with another one of it, from which one may be two people


@dataclass(frozen=True, slots=True)
class Stats:
    """Of each active identity (n,)."""

    size: I64
    cohesion: F32
    nearest: I32
    """position of the identity whose prototype is nearest, -1 if there is no other"""
    similarity: F32
    """cosine of the two prototypes"""
    shared: I64
    """photos in which it has more than one face"""

    @property
    def inside(self) -> F32:
        """Mean cosine of pairs of its faces; of one face: that of the median identity."""
        n = np.maximum(self.size, 2)
        inside = (n * self.cohesion**2 - 1) / (n - 1)
        usual = float(np.median(inside[self.size > 1])) if (self.size > 1).any() else 1.0
        return np.where(self.size > 1, inside, usual).astype(np.float32)

    @property
    def between(self) -> F32:
        """Mean cosine of its faces with those of the nearest identity; -1 if there is none."""
        other = self.cohesion[np.maximum(self.nearest, 0)]
        between = self.similarity * self.cohesion * other
        return np.where(self.nearest >= 0, between, -1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Doubt:
    """One question for a person."""

    kind: str
    identity: int
    other: int
    doubt: float
    faces: int
    reason: str

    @property
    def score(self) -> float:
        """What an answer is worth."""
        return self.doubt * float(np.log1p(self.faces))


def doubts(stats: Stats, settled: set[tuple[int, int]], most: int) -> list[Doubt]:
    """The questions most worth asking, the best first, `most` at the most.

    Args:
        settled: pairs (low, high) of which somebody has said already that they are two people.
    """
    found = [*_same_person(stats, settled), *_two_people(stats)]
    return sorted(found, key=lambda one: (-one.score, one.kind, one.identity, one.other))[:most]


def _same_person(stats: Stats, settled: set[tuple[int, int]]) -> list[Doubt]:
    inside, between = stats.inside, stats.between
    there = np.maximum(stats.nearest, 0)
    ratio = between / np.sqrt(np.maximum(inside * inside[there], 1e-6))
    out, seen = [], set(settled)
    for i in np.flatnonzero((stats.nearest >= 0) & (ratio >= _DOUBTFUL)):
        pair = (min(int(i), int(there[i])), max(int(i), int(there[i])))
        if pair in seen:
            continue
        seen.add(pair)
        said = f"their faces are {ratio[i]:.2f} times as alike as faces inside the two"
        faces = int(min(stats.size[pair[0]], stats.size[pair[1]]))
        out.append(Doubt("same_person", *pair, float(min(1.0, ratio[i])), faces, said))
    return out


def _two_people(stats: Stats) -> list[Doubt]:
    many = stats.size >= 4
    if not many.any():
        return []
    usual = float(np.median(stats.cohesion[many]))
    spread = max(float(np.median(np.abs(stats.cohesion[many] - usual))) * 1.4826, 0.01)
    below = (usual - stats.cohesion) / spread
    shared = stats.shared / np.maximum(stats.size, 1)
    out = []
    for i in np.flatnonzero(many & ((below >= _LOOSE) | (shared >= _SHARED))):
        said = []
        if below[i] >= _LOOSE:
            said.append(f"cohesion {stats.cohesion[i]:.2f} is {below[i]:.1f} deviations below the usual {usual:.2f}")
        if shared[i] >= _SHARED:
            said.append(f"{int(stats.shared[i])} photos show more than one face of it")
        doubt = min(1.0, max(float(below[i]) / (2 * _LOOSE), float(shared[i])))
        out.append(Doubt("two_people", int(i), -1, doubt, int(stats.size[i]), "; ".join(said)))
    return out
