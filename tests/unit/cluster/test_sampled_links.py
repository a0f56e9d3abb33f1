"""Links between large groups, counted in a sample of both."""

from __future__ import annotations

import numpy as np
import pytest

from facelake.cluster import sampled_links
from facelake.cluster.calibrate import Calibration
from facelake.cluster.edges import Known
from facelake.cluster.overlap import Links, Sums
from facelake.cluster.quality_norm import Gate
from facelake.cluster.sampled_links import (
    Sample,
    faces_per_group,
    large_groups,
    recounted,
    sampled,
    worth_sampling,
)
from facelake.contracts import F32, I64

CUTS = Calibration(0.5, 0.75, 0.75, 0.8, 0.1, 0.1, "of the test")
KNOWN = Known(np.zeros(1000, np.uint8), Gate(np.zeros(0, np.float32), np.zeros((1, 1), np.float32)), CUTS)


def unit(vectors: F32) -> F32:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def links(count: int, most: int) -> Links:
    return Links(np.int32([0]), np.int32([1]), np.array([count]), np.array([most]))


def curve(count: int, start: float, end: float, seed: int) -> F32:
    """Faces along an arc, as of a head that turns: neighbours are alike, the ends are not."""
    angle = np.linspace(start, end, count)
    points = np.zeros((count, 64), np.float32)
    points[:, 0], points[:, 1] = np.cos(angle), np.sin(angle)
    return unit(points + 0.04 * np.random.default_rng(seed).standard_normal(points.shape).astype(np.float32))


def sample_of(vectors: F32, group: I64, size: I64, wanted: int) -> Sample:
    face = np.arange(len(vectors), dtype=np.int32)
    at = np.flatnonzero(sampled(face, size[group], wanted))
    at = at[np.lexsort((at, group[at]))]
    return Sample(group[at].astype(np.int32), face[at], vectors[at].astype(np.float16))


@pytest.mark.parametrize("wanted", [32, 64])
def test_an_estimate_is_near_the_count_of_all_pairs(wanted: int) -> None:
    vectors = np.concatenate([curve(400, 0, 0.8, 1), curve(300, 0.8, 1.5, 2)])
    group, size = np.repeat([0, 1], [400, 300]), np.array([400, 300])
    exact = vectors[:400] @ vectors[400:].T >= 0.7
    (found,) = recounted(links(4, 1), size, sample_of(vectors, group, size, wanted), [0.7])
    assert found.links[0] == pytest.approx(exact.sum(), rel=0.35)


@pytest.mark.parametrize("wanted", [32, 64])
@pytest.mark.parametrize("misplaced", [1, 3])
def test_a_few_misplaced_faces_are_no_links_of_the_group(wanted: int, misplaced: int) -> None:
    """Each is alike to all faces of the other group, where it belongs; all are sampled."""
    vectors = np.concatenate([curve(150, 0, 0.1, 1), curve(40, 1.5, 1.6, 2)])
    group, size = np.repeat([0, 1], [150, 40]), np.array([150, 40])
    sample = sample_of(vectors, group, size, wanted)
    at = np.flatnonzero(sample.group == 0)[:misplaced]
    sample.vectors[at] = sample.vectors[-1]
    assert not len(recounted(links(misplaced * 40, 40), size, sample, [0.7])[0].links)


def test_a_pair_without_a_sample_or_a_link_is_left_out() -> None:
    vectors = np.concatenate([curve(40, 0, 0.1, 1), curve(40, 3.0, 3.1, 2)])
    group, size = np.repeat([0, 1], 40), np.array([40, 40])
    assert not len(recounted(links(5, 2), size, sample_of(vectors, group, size, 32), [0.7])[0].links)
    nobody = Sample(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 64), np.float16))
    assert not len(recounted(links(5, 2), size, nobody, [0.7])[0].links)


@pytest.mark.parametrize("rows", [1, 30, 10_000])
def test_links_of_many_pairs_are_those_counted_pair_by_pair(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_links, "_ROWS", rows)
    generator, groups, cuts = np.random.default_rng(2), 9, [0.5, 0.8]
    size = generator.integers(20, 90, groups)
    group = np.repeat(np.arange(groups), size)
    vectors = curve(len(group), 0, 2.0, 3)[generator.permutation(len(group))]
    sample = sample_of(vectors, group, size, 16)
    low, high = (side.astype(np.int32) for side in np.triu_indices(groups, 1))
    nothing = np.zeros(len(low), np.int64)
    for found, cut in zip(recounted(Links(low, high, nothing, nothing), size, sample, cuts), cuts, strict=True):
        wanted = {}
        for a, b in zip(low.tolist(), high.tolist(), strict=True):
            one, other = (sample.vectors[sample.group == own].astype(np.float32) for own in (a, b))
            strong = one @ other.T >= cut
            most = int(max(strong.sum(0).max(), strong.sum(1).max()))
            if strong.sum() >= max(4, 0.1 * min(len(one), len(other))) * most > 0:
                wanted[a, b] = (int(np.rint(strong.mean() * size[a] * size[b])), most)
        assert wanted
        pairs = zip(found.group.tolist(), found.other.tolist(), strict=True)
        assert dict(zip(pairs, zip(found.links.tolist(), found.most.tolist(), strict=True), strict=True)) == wanted


def test_groups_that_fill_more_than_half_of_their_lists_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert large_groups(np.array([200, 16, 17, 1])).tolist() == [0, 2]
    monkeypatch.setattr(sampled_links, "_MOST_GROUPS", 2)
    assert large_groups(np.array([20, 200, 30])).tolist() == [1, 2], "the largest"


def test_samples_have_the_wanted_size_and_fit_the_memory() -> None:
    face = np.arange(100_000, dtype=np.int32)
    assert sampled(face, np.full(100_000, 1000), 50).sum() == pytest.approx(5000, rel=0.1)
    assert sampled(face[:30], np.full(30, 30), 50).all()
    assert faces_per_group(100, 512) == 128
    assert faces_per_group(4096, 512) == 32
    assert faces_per_group(10**6, 512) == 32


def test_where_not_all_samples_fit_the_most_similar_pairs_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Links(np.int32([0, 2, 4]), np.int32([1, 3, 1]), *np.zeros((2, 3), np.int64))
    sums = np.zeros((5, 512), np.float32)
    sums[:, 0] = [2, 10, 18, 10, 10]  # mean cosines .2, .9, 1
    groups = Sums(sums, np.array([10, 10, 20, 10, 10]))
    assert worth_sampling(pairs, groups).tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(sampled_links, "_MOST_BYTES", 2 * 512 * 32 * 4)
    assert worth_sampling(pairs, groups).tolist() == [1, 2, 3, 4]
