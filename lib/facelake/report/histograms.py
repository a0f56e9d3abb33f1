"""Counts by bin, of cosines and of sizes; and which pairs of a sample to compare. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facelake.contracts import F32, I64
from facelake.report.model import Bar

LOW, HIGH, BINS = -0.4, 1.0, 70
_BLOCK = 8_192


@dataclass(frozen=True, slots=True)
class Pairs:
    """Positions (n,) of two faces each."""

    first: I64
    second: I64

    def __len__(self) -> int:
        return len(self.first)


def cosine_bins(vectors: F32, pairs: Pairs) -> list[int]:
    """Counts of the pairs' cosines in BINS equal bins over LOW..HIGH; what lies outside is in the outermost.

    Args:
        vectors: (n, dim) unit vectors.
    """
    counts = np.zeros(BINS, np.int64)
    for start in range(0, len(pairs), _BLOCK):
        a, b = pairs.first[start : start + _BLOCK], pairs.second[start : start + _BLOCK]
        cosine = np.clip(np.einsum("ij,ij->i", vectors[a], vectors[b]), LOW, HIGH)
        counts += np.histogram(cosine, BINS, (LOW, HIGH))[0]
    return [int(count) for count in counts]


def pairs_within(labels: I64, most: int, generator: np.random.Generator) -> Pairs:
    """Up to `most` pairs of faces with the same label (n,), none twice; negative labels have no pair.

    Where there are more, a face is drawn and then another one of its label, so that large labels count by their
    faces and not by their pairs.
    """
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    if not len(order):
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    _, start, size = np.unique(labels[order], return_index=True, return_counts=True)
    many = size > 1
    start, size = start[many], size[many]
    if int((size * (size - 1) // 2).sum()) <= most:
        found = [np.triu_indices(n, 1) for n in size]
        a = np.concatenate([order[s + i] for s, (i, _) in zip(start, found, strict=True)] or [np.zeros(0, np.int64)])
        b = np.concatenate([order[s + j] for s, (_, j) in zip(start, found, strict=True)] or [np.zeros(0, np.int64)])
        return Pairs(a.astype(np.int64), b.astype(np.int64))
    chosen = generator.choice(len(size), most, p=size / size.sum())
    one = generator.integers(0, size[chosen])
    two = (one + 1 + generator.integers(0, size[chosen] - 1)) % size[chosen]
    a, b = order[start[chosen] + one], order[start[chosen] + two]
    low, high = np.minimum(a, b), np.maximum(a, b)
    both = np.unique(np.stack([low, high], axis=1), axis=0)
    return Pairs(both[:, 0], both[:, 1])


def pairs_across(labels: I64, other: I64, most: int, generator: np.random.Generator) -> Pairs:
    """Up to `most` pairs of a face and a face of the label that `other` (n,) names for it; -1: for this one none."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], other, "left")
    there = np.searchsorted(labels[order], other, "right") - first
    has = np.flatnonzero((other >= 0) & (labels >= 0) & (other != labels) & (there > 0))
    if len(has) > most:
        has = np.sort(generator.choice(has, most, replace=False))
    at = first[has] + generator.integers(0, np.maximum(there[has], 1))
    return Pairs(has.astype(np.int64), order[at].astype(np.int64))


def size_bars(sizes: I64) -> list[Bar]:
    """Identities by number of faces, in classes that double: 1, 2, 3 to 4, 5 to 8 and so on."""
    if not len(sizes):
        return []
    number = np.ceil(np.log2(sizes)).astype(int)
    faces = int(sizes.sum())
    bars = []
    for k in range(int(number.max()) + 1):
        low, high = (1, 1) if k == 0 else (2 ** (k - 1) + 1, 2**k)
        label = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        mine = sizes[number == k]
        bars.append(Bar(f"{label} face{'s' * (high > 1)}", len(mine), share(int(mine.sum()), faces)))
    return bars


def share(part: float, whole: float) -> str:
    """A share in words: whole per cents, one decimal below ten, and never 0 % for something."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "under 0.1 %"
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def several(count: float, one: str, more: str = "") -> str:
    """A count with its noun."""
    return f"{count:,.0f} {one if count == 1 else more or one + 's'}"


def median(values: Sequence[float]) -> float | None:
    """The middle one; None of nothing."""
    return float(np.median(values)) if len(values) else None
