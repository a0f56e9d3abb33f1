"""DET points count every comparison once; the page shows them without anything from elsewhere."""

from __future__ import annotations

import re

import numpy as np

from facelake.match.det_page import det_page
from facelake.match.evaluation import det_points
from facelake.publish.thresholds import impostor_curve, rate_at, tail_threshold


def test_det_points_are_the_counts() -> None:
    generator = np.random.default_rng(0)
    impostor, genuine = generator.integers(0, 900, 5000), generator.integers(600, 1000, 300)
    histograms = [np.bincount(values, minlength=1000) for values in (impostor, genuine)]
    points = det_points(*histograms)
    assert 100 < len(points) <= 200
    for point in points:
        edge = round((point.similarity + 1) * 500)
        assert point.false_matches == (impostor >= edge).sum()
        assert point.false_non_matches == (genuine < edge).sum()
        assert point.fmr_low <= point.fmr <= point.fmr_high  # type: ignore[operator]
    empty = det_points(histograms[0], np.zeros(1000, np.int64))
    assert {(point.fnmr, point.fnmr_high) for point in empty} == {(None, None)}


def test_the_page_stands_alone() -> None:
    generator = np.random.default_rng(1)
    histograms = [np.bincount(generator.integers(*span, 400), minlength=1000) for span in ((0, 700), (500, 1000))]
    points = [{name: getattr(point, name) for name in point.__slots__} for point in det_points(*histograms)]
    page = det_page({"points": points, "photos": 3, "compared": 2, "failed": {"<b>": 1}})
    assert not re.search(r"<script|https?://|<b>", page)
    assert page.count("<polyline") == 1
    assert "nan" not in page


def test_the_rate_at_a_similarity_is_not_understated() -> None:
    impostor = np.random.default_rng(2).normal(0.1, 0.1, 30_000).astype(np.float32)
    curve = impostor_curve(impostor)
    assert len(curve["points"]) <= 200
    for similarity in (-0.5, 0.0, 0.2, 0.35, 0.45, float(impostor.max()), 0.9):
        rate, high = rate_at(similarity, curve)  # type: ignore[misc]
        true = (impostor >= similarity).mean()
        assert true <= rate <= 1.12 * true + 1e-9
        assert high > rate or rate == 1
    assert rate_at(0.5, impostor_curve(impostor[:0])) is None


def test_extrapolated_thresholds_are_on_the_safe_side() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        sample = np.sort(generator.normal(0.12, 0.09, 5_000).astype(np.float32))[::-1]
        estimate = tail_threshold(1e-4, sample)
        assert estimate is not None
        assert estimate > sample[0]
        assert (generator.normal(0.12, 0.09, 2_000_000) >= estimate).mean() <= 1e-4
    assert tail_threshold(1e-4, sample[:200]) is None
