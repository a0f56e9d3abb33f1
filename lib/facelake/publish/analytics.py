"""Review questions: pairs of identities that may be one person, and identities that may be two people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from facelake.contracts import F32, I32, I64

_MIN_RATIO = 0.8  # of similarity between to similarity inside, from which two identities may be one person
_MIN_DEVIATIONS = 3.0  # below the usual cohesion, from which an identity may be two people
_MIN_SHARED = 0.2  # share of faces in a photo with another face of the identity, from which it may be two people


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of the active identities, each an array (n,)."""

    size: I64
    cohesion: F32
    nearest: I32
    """position of the identity with the nearest template; -1 if there is no other identity"""
    similarity: F32
    """cosine of the two templates"""
    shared: I64
    """photos with more than one face of the identity"""

    @property
    def inside(self) -> F32:
        """Mean cosine (n,) of pairs of its faces; for a single face, that of the median identity."""
        n = np.maximum(self.size, 2)
        inside = (n * self.cohesion**2 - 1) / (n - 1)
        usual = float(np.median(inside[self.size > 1])) if (self.size > 1).any() else 1.0
        return np.where(self.size > 1, inside, usual).astype(np.float32)

    @property
    def between(self) -> F32:
        """Mean cosine (n,) of its faces with those of the nearest identity; -1 if there is none."""
        other = self.cohesion[np.maximum(self.nearest, 0)]
        between = self.similarity * self.cohesion * other
        return np.where(self.nearest >= 0, between, -1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A question for a reviewer."""

    kind: str
    identity: int
    other: int
    doubt: float
    faces: int
    reason: str

    @property
    def score(self) -> float:
        """The value of an answer."""
        return self.doubt * float(np.log1p(self.faces))


def doubts(stats: Stats, settled: set[tuple[int, int]], most: int, by_subject: Sequence[Doubt] = ()) -> list[Doubt]:
    """Return up to `most` questions by falling score.

    Args:
        stats: figures of the identities.
        settled: pairs (low, high) of positions that a correction states to be two people.
        most: number of questions.
        by_subject: questions from subject references; one that the figures ask too is asked once, for both reasons.
    """
    questions = {(doubt.kind, doubt.identity, doubt.other): doubt for doubt in by_subject}
    for doubt in (*_same_person(stats, settled), *_two_people(stats)):
        key = doubt.kind, doubt.identity, doubt.other
        if same := questions.get(key):
            doubt = replace(doubt, doubt=max(doubt.doubt, same.doubt), reason=f"{same.reason}; {doubt.reason}")
        questions[key] = doubt
    ordered = sorted(questions.values(), key=lambda doubt: (-doubt.score, doubt.kind, doubt.identity, doubt.other))
    return ordered[:most]


def _same_person(stats: Stats, settled: set[tuple[int, int]]) -> list[Doubt]:
    inside, between = stats.inside, stats.between
    nearest = np.maximum(stats.nearest, 0)
    ratio = between / np.sqrt(np.maximum(inside * inside[nearest], 1e-6))
    out, seen = [], set(settled)
    for i in np.flatnonzero((stats.nearest >= 0) & (ratio >= _MIN_RATIO)):
        pair = (min(int(i), int(nearest[i])), max(int(i), int(nearest[i])))
        if pair in seen:
            continue
        seen.add(pair)
        reason = f"faces of one are as similar to the other's as {ratio[i]:.0%} of the similarity within each of them"
        faces = int(min(stats.size[pair[0]], stats.size[pair[1]]))
        out.append(Doubt("same_person", *pair, float(min(1.0, ratio[i])), faces, reason))
    return out


def _two_people(stats: Stats) -> list[Doubt]:
    large = stats.size >= 4
    if not large.any():
        return []
    usual = float(np.median(stats.cohesion[large]))
    spread = max(float(np.median(np.abs(stats.cohesion[large] - usual))) * 1.4826, 0.01)
    below = (usual - stats.cohesion) / spread
    shared = stats.shared / np.maximum(stats.size, 1)
    out = []
    for i in np.flatnonzero(large & ((below >= _MIN_DEVIATIONS) | (shared >= _MIN_SHARED))):
        reasons = []
        if below[i] >= _MIN_DEVIATIONS:
            usually = f"({stats.cohesion[i]:.2f}) than those of other identities ({usual:.2f})"
            reasons.append(f"its faces are less similar to each other {usually}")
        if shared[i] >= _MIN_SHARED:
            reasons.append(f"{int(stats.shared[i])} photos contain more than one of its faces")
        doubt = min(1.0, max(float(below[i]) / (2 * _MIN_DEVIATIONS), float(shared[i])))
        out.append(Doubt("two_people", int(i), -1, doubt, int(stats.size[i]), "; ".join(reasons)))
    return out
