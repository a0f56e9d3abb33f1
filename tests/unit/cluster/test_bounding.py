"""A group is divided only if its faces are not similar enough on the mean; its parts then are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.cluster import bounding
from facelake.cluster.bounding import divided_group, mean_similarity
from facelake.vectors import unit_rows


def sums_of(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and size of each group."""
    sums = np.zeros((labels.max() + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    return sums, np.bincount(labels)


def test_mean_similarity_is_that_of_the_pairs() -> None:
    vectors = unit_rows(np.random.default_rng(1).normal(size=(7, 16)).astype(np.float32))
    cosine = vectors @ vectors.T
    expected = [cosine[:4, :4][~np.eye(4, dtype=bool)].mean(), cosine[4:, 4:][~np.eye(3, dtype=bool)].mean()]
    sums, size = sums_of(vectors, np.array([0, 0, 0, 0, 1, 1, 1]))
    assert mean_similarity(sums, size) == pytest.approx(expected, abs=1e-6)


def test_a_chain_of_strangers_is_divided_and_a_person_is_not() -> None:
    angles = np.deg2rad(np.arange(0, 180, 30))  # neighbours at cosine .87, the ends opposite
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = divided_group(chain, 0.6)
    assert len(np.unique(labels)) > 1
    rng = np.random.default_rng(2)
    person = unit_rows((np.eye(64)[0] + rng.normal(size=(40, 64)) * 0.05).astype(np.float32))
    assert not divided_group(person, 0.6).any()


@given(st.integers(0, 10_000), st.integers(3, 30), st.floats(0.2, 0.9))
def test_parts_are_similar_enough_on_the_mean(seed: int, count: int, least: float) -> None:
    vectors = unit_rows(np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32))
    labels = divided_group(vectors, least)
    for label in np.unique(labels):
        part = vectors[labels == label]
        if len(part) == 2:
            assert part[0] @ part[1] >= least - 1e-5
    again = divided_group(vectors[::-1].copy(), least)[::-1]
    assert len(np.unique(again)) == len(np.unique(labels))


@pytest.mark.parametrize("most", [1000, 60, 35])
def test_a_large_group_is_divided_by_a_sample_of_it(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people and twenty strangers: faces that are not in the sample join their person, strangers stay alone."""
    monkeypatch.setattr(bounding, "_MOST_FACES", most)
    rng = np.random.default_rng(5)
    directions = np.eye(128)[np.r_[np.zeros(60, int), np.ones(40, int), 2 + np.arange(20)]]
    order = rng.permutation(120)
    vectors = unit_rows((directions + rng.normal(size=(120, 128)) * 0.04).astype(np.float32))[order]
    labels = np.empty(120, np.int32)
    labels[order] = divided_group(vectors, 0.5)
    assert len(np.unique(labels[:60])) == len(np.unique(labels[60:100])) == 1
    assert len(np.unique(labels)) == 22
    assert sorted(set(labels.tolist())) == list(range(22))
