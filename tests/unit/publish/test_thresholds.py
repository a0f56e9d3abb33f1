"""Thresholds do not exceed their false match rate; intervals cover it; too few comparisons give no threshold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.publish.thresholds import FALSE_MATCH_RATES, thresholds


@given(st.integers(0, 1000), st.integers(1, 6))
def test_the_false_match_rate_is_not_exceeded(seed: int, decimals: int) -> None:
    generator = np.random.default_rng(seed)
    impostor = np.round(generator.normal(0, 0.1, 150_000), decimals).astype(np.float32)  # with ties
    first, second, third = thresholds(impostor, generator.normal(0.7, 0.1, 500).astype(np.float32))
    assert first.similarity is not None
    matched = (impostor >= np.float32(first.similarity)).sum()
    assert matched <= 1e-4 * len(impostor)
    below = impostor[impostor < np.float32(first.similarity)].max()
    assert (impostor >= below).sum() > 1e-4 * len(impostor)  # any lower threshold would match too many
    assert first.fmr_low <= matched / len(impostor) <= first.fmr_high  # type: ignore[operator]
    assert (second.similarity, third.similarity) == (None, None)


def test_the_interval_covers_the_truth() -> None:
    hits = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        sample = generator.normal(0, 0.1, 400_000).astype(np.float32)
        point = thresholds(sample, sample[:0])[0]
        fresh = generator.normal(0, 0.1, 4_000_000) >= point.similarity
        hits += point.fmr_low <= fresh.mean() <= point.fmr_high  # type: ignore[operator]
    assert hits >= 85


def test_counts_without_and_with_comparisons() -> None:
    points = thresholds(np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert [point.fmr for point in points] == list(FALSE_MATCH_RATES)
    assert {point.similarity for point in points} == {None}
    known = thresholds(np.linspace(-1, 1, 200_000, dtype=np.float32), np.array([0.0, 0.5, 1.0, 1.0], np.float32))[0]
    assert (known.impostors, known.genuine, known.fnmr) == (200_000, 4, 0.5)
