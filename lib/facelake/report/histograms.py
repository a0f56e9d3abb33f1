"""Histograms of cosines and identity sizes, sampling of face pairs, and number formats. Pure functions."""

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
    """Pairs of faces: positions (n,) of the first and of the second face."""

    first: I64
    second: I64

    def __len__(self) -> int:
        return len(self.first)


def cosine_bins(vectors: F32, pairs: Pairs) -> list[int]:
    """Return the counts of the pairs' cosines in BINS equal bins over LOW..HIGH; outliers count in the end bins.

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
    """Return up to `most` distinct pairs of faces with the same label (n,); negative labels have no pair.

    Where more pairs exist, a face is drawn and then another face of its label, so that a label is weighted by its
    number of faces and not by its number of pairs.
    """
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    if not len(order):
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    _, start, size = np.unique(labels[order], return_index=True, return_counts=True)
    has_pairs = size > 1
    start, size = start[has_pairs], size[has_pairs]
    if int((size * (size - 1) // 2).sum()) <= most:
        upper = [np.triu_indices(n, 1) for n in size]
        a = np.concatenate([order[s + i] for s, (i, _) in zip(start, upper, strict=True)] or [np.zeros(0, np.int64)])
        b = np.concatenate([order[s + j] for s, (_, j) in zip(start, upper, strict=True)] or [np.zeros(0, np.int64)])
        return Pairs(a.astype(np.int64), b.astype(np.int64))
    chosen = generator.choice(len(size), most, p=size / size.sum())
    offset_a = generator.integers(0, size[chosen])
    offset_b = (offset_a + 1 + generator.integers(0, size[chosen] - 1)) % size[chosen]
    a, b = order[start[chosen] + offset_a], order[start[chosen] + offset_b]
    low, high = np.minimum(a, b), np.maximum(a, b)
    distinct = np.unique(np.stack([low, high], axis=1), axis=0)
    return Pairs(distinct[:, 0], distinct[:, 1])


def pairs_across(labels: I64, other: I64, most: int, generator: np.random.Generator) -> Pairs:
    """Return up to `most` pairs of a face and a random face of the label in `other` (n,); -1 there means no pair."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], other, "left")
    size = np.searchsorted(labels[order], other, "right") - first
    eligible = np.flatnonzero((other >= 0) & (labels >= 0) & (other != labels) & (size > 0))
    if len(eligible) > most:
        eligible = np.sort(generator.choice(eligible, most, replace=False))
    at = first[eligible] + generator.integers(0, np.maximum(size[eligible], 1))
    return Pairs(eligible.astype(np.int64), order[at].astype(np.int64))


def size_bars(sizes: I64) -> list[Bar]:
    """Return the identities by number of faces, in classes that double: 1, 2, 3 to 4, 5 to 8 and so on."""
    if not len(sizes):
        return []
    size_class = np.ceil(np.log2(sizes)).astype(int)
    faces = int(sizes.sum())
    bars = []
    for k in range(int(size_class.max()) + 1):
        low, high = (1, 1) if k == 0 else (2 ** (k - 1) + 1, 2**k)
        label = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        members = sizes[size_class == k]
        share_of_faces = format_share(int(members.sum()), faces)
        bars.append(Bar(f"{label} face{'s' * (high > 1)}", len(members), share_of_faces))
    return bars


def format_share(part: float, total: float) -> str:
    """Return a share as text: whole per cents, one decimal below ten, and 0 % only for exactly zero."""
    if not total or not part:
        return "0 %"
    percent = 100 * part / total
    if percent < 0.1:
        return "under 0.1 %"
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def median(values: Sequence[float]) -> float | None:
    """Return the median; None for an empty sequence."""
    return float(np.median(values)) if len(values) else None
