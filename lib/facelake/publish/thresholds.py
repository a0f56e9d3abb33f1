"""Similarity thresholds at given false match rates, reported with counts as in ISO/IEC 19795-1. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from facelake.contracts import F32

FALSE_MATCH_RATES = (1e-4, 1e-5, 1e-6)
_MIN_ERRORS = 10  # the "rule of 30", relaxed: the interval is still within a factor of two and a half
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold: at most the share `fmr` of the impostor comparisons has at least this similarity."""

    fmr: float
    similarity: float | None
    """None if there are too few comparisons"""
    fmr_low: float | None
    fmr_high: float | None
    """95 % interval of the false match rate at this similarity"""
    impostors: int
    fnmr: float | None
    """share of genuine comparisons below this similarity"""
    fnmr_low: float | None
    fnmr_high: float | None
    """95 % interval of the false non-match rate"""
    genuine: int


def thresholds(impostor: F32, genuine: F32) -> list[Threshold]:
    """Return, for each false match rate, the lowest similarity that does not exceed it.

    Args:
        impostor: (n,) similarities of impostor comparisons.
        genuine: (m,) similarities of genuine comparisons.
    """
    descending = np.sort(impostor)[::-1]
    return [_threshold(rate, descending, genuine) for rate in FALSE_MATCH_RATES]


def _threshold(rate: float, descending: F32, genuine: F32) -> Threshold:
    count = len(descending)
    errors = int(rate * count)
    if errors < _MIN_ERRORS:
        return Threshold(rate, None, None, None, count, None, None, None, len(genuine))
    similarity = float(np.nextafter(descending[errors], np.float32(2)))  # just above the first impostor too many
    matches = int((descending >= similarity).sum())
    low, high = interval(matches, count)
    non_matches = int((genuine < similarity).sum())
    fnmr = non_matches / len(genuine) if len(genuine) else None
    return Threshold(rate, similarity, low, high, count, fnmr, *interval(non_matches, len(genuine)), len(genuine))


def interval(errors: int, trials: int) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a rate (Clopper and Pearson, Biometrika 1934); (None, None) without trials."""
    if not trials:
        return None, None
    tail = (1 - _CONFIDENCE) / 2
    low = float(beta.ppf(tail, errors, trials - errors + 1)) if errors else 0.0
    high = float(beta.ppf(1 - tail, errors + 1, trials - errors)) if errors < trials else 1.0
    return low, high
