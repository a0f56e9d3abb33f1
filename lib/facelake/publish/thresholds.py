"""Similarity thresholds at given false match rates, reported with counts as in ISO/IEC 19795-1. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv  # scipy.stats takes a second to import

from facelake.contracts import F32
from facelake.distinct import distinct

FALSE_MATCH_RATES = (1e-4, 1e-5, 1e-6)
LEAST_ERRORS = 10
"""errors from which a rate is counted: the "rule of 30", relaxed; the interval is within a factor of two and a half"""
_CONFIDENCE = 0.95
_TAIL = 0.1  # share of the impostor comparisons to which the tail is fitted
_LEAST_TAIL = 30  # comparisons in the tail; with fewer nothing is extrapolated
_CURVE_POINTS = 200


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
    extrapolated: float | None = None
    """where `similarity` is None: estimate from the tail of the impostor comparisons, see `tail_threshold`"""


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
    if errors < LEAST_ERRORS:
        estimate = tail_threshold(rate, descending)
        return Threshold(rate, None, None, None, count, None, None, None, len(genuine), estimate)
    similarity = float(np.nextafter(descending[errors], np.float32(2)))  # just above the first impostor too many
    matches = int((descending >= similarity).sum())
    low, high = interval(matches, count)
    non_matches = int((genuine < similarity).sum())
    fnmr = non_matches / len(genuine) if len(genuine) else None
    return Threshold(rate, similarity, low, high, count, fnmr, *interval(non_matches, len(genuine)), len(genuine))


def tail_threshold(rate: float, descending: F32) -> float | None:
    """Estimate the similarity at a false match rate for which there are too few comparisons; None if far too few.

    The highest tenth of the similarities is continued by an exponential tail (peaks over threshold with shape zero,
    Pickands 1975). Cosines of different people have a lighter tail, so that the estimate is rather too high than too
    low. Where less than one error is expected it is not below the highest similarity that was measured.

    Args:
        rate: the false match rate.
        descending: (n,) similarities of impostor comparisons, the highest first.
    """
    size = int(_TAIL * len(descending))
    if size < _LEAST_TAIL:
        return None
    start = float(descending[size])
    excess = float(descending[:size].astype(np.float64).mean() - start)
    estimate = start + excess * float(np.log(_TAIL / rate))
    if rate * len(descending) < 1:
        estimate = max(estimate, float(np.nextafter(descending[0], np.float32(2))))
    return min(estimate, 1.0)


def impostor_curve(impostor: F32) -> dict[str, Any]:
    """Return `comparisons` and `points`: pairs of a similarity and the number of comparisons that reach it.

    The points are spaced evenly in the logarithm of the number, the highest similarity first, so that the rate at any
    similarity can be looked up later without the comparisons.
    """
    descending, count = np.sort(impostor)[::-1], len(impostor)
    ranks = distinct(np.geomspace(1, count, _CURVE_POINTS).astype(np.int64)) if count else np.zeros(0, np.int64)
    return {"comparisons": count, "points": [[float(descending[rank - 1]), int(rank)] for rank in ranks]}


def rate_at(similarity: float, curve: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the false match rate at a similarity, rounded up to the next point of the curve, and the upper end of its
    95 % interval; None if the curve has no comparisons.

    Args:
        similarity: a threshold.
        curve: from `impostor_curve`.
    """
    count = int(curve["comparisons"])
    if not count:
        return None
    matches = 0
    for level, reached in curve["points"]:
        if level < similarity:
            matches = max(matches, reached - 1)  # the comparisons between two points may reach it too
            break
        matches = reached
    high = interval(matches, count)[1]
    return matches / count, 1.0 if high is None else high


def interval(errors: int, trials: int) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a rate (Clopper and Pearson, Biometrika 1934); (None, None) without trials."""
    if not trials:
        return None, None
    tail = (1 - _CONFIDENCE) / 2
    low = float(betaincinv(errors, trials - errors + 1, tail)) if errors else 0.0
    high = float(betaincinv(errors + 1, trials - errors, 1 - tail)) if errors < trials else 1.0
    return low, high
