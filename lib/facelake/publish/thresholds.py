"""Similarity at a false match rate, with the counts behind it, as ISO/IEC 19795-1 wants it told. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from facelake.contracts import F32

FALSE_MATCH_RATES = (1e-4, 1e-5, 1e-6)
_LEAST_ERRORS = 10  # "rule of 30" relaxed to where the interval is still within a factor of two and a half
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Threshold:
    """At `similarity` and above, a share `fmr` of impostor comparisons match."""

    fmr: float
    similarity: float | None
    """None: there are too few comparisons to tell"""
    fmr_low: float | None
    fmr_high: float | None
    """95 % interval of the rate at that similarity"""
    impostors: int
    fnmr: float | None
    """share of genuine comparisons below it"""
    fnmr_low: float | None
    fnmr_high: float | None
    """95 % interval of that share"""
    genuine: int


def thresholds(impostor: F32, genuine: F32) -> list[Threshold]:
    """For each false match rate the least similarity that keeps to it.

    Args:
        impostor: (n,) similarities of different people; genuine: (m,) of the same people.
    """
    falling = np.sort(impostor)[::-1]
    return [_at(rate, falling, genuine) for rate in FALSE_MATCH_RATES]


def _at(rate: float, falling: F32, genuine: F32) -> Threshold:
    count = len(falling)
    errors = int(rate * count)
    if errors < _LEAST_ERRORS:
        return Threshold(rate, None, None, None, count, None, None, None, len(genuine))
    similarity = float(np.nextafter(falling[errors], np.float32(2)))  # above the first impostor that is one too many
    passed = int((falling >= similarity).sum())
    low, high = interval(passed, count)
    missed = int((genuine < similarity).sum())
    fnmr = missed / len(genuine) if len(genuine) else None
    return Threshold(rate, similarity, low, high, count, fnmr, *interval(missed, len(genuine)), len(genuine))


def interval(errors: int, trials: int) -> tuple[float | None, float | None]:
    """95 % interval of a rate (Clopper and Pearson, Biometrika 1934); (None, None) without trials."""
    if not trials:
        return None, None
    tail = (1 - _CONFIDENCE) / 2
    low = float(beta.ppf(tail, errors, trials - errors + 1)) if errors else 0.0
    high = float(beta.ppf(1 - tail, errors + 1, trials - errors)) if errors < trials else 1.0
    return low, high
