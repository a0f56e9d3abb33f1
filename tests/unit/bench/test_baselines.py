"""Baselines against their definitions on small sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.bench.baselines import AverageLinkage, chinese_whispers, compare, components, dbscan
from facelake.vectors import unit_rows


def people(seed: int, sizes: list[int], noise: float) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    centres = unit_rows(random.normal(size=(len(sizes), 64)).astype(np.float32))
    names = np.repeat(np.arange(len(sizes)), sizes)
    spread = noise * random.normal(size=(len(names), 64)).astype(np.float32) / 8
    return unit_rows(centres[names] + spread), [f"p{name}" for name in names]


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@given(st.integers(0, 1000), st.lists(st.integers(1, 6), min_size=1, max_size=8), st.floats(0.1, 1.5))
@settings(max_examples=30)
def test_components_are_reached_through_pairs_above_the_cut(seed: int, sizes: list[int], noise: float) -> None:
    vectors, _ = people(seed, sizes, noise)
    similarity = vectors @ vectors.T
    reach = similarity >= 0.5
    for _ in range(len(vectors)):
        reach = reach | ((reach.astype(int) @ reach.astype(int)) > 0)
    assert partition(components(similarity, 0.5)) == {frozenset(np.flatnonzero(row).tolist()) for row in reach}


def test_every_method_finds_people_who_are_far_apart() -> None:
    vectors, names = people(3, [5, 4, 6, 3], 0.4)
    similarity = vectors @ vectors.T
    truth = partition(np.unique(names, return_inverse=True)[1])
    for method in (components, dbscan, chinese_whispers, AverageLinkage(similarity)):
        assert partition(method(similarity, 0.5)) == truth
    figures = compare(vectors, names)
    assert set(figures) >= {"chinese_whispers", "average_linkage", "dbscan", "components"}
    assert all(kind["pairwise"]["f"] == 1 for kinds in figures.values() for kind in kinds.values())


def test_a_bridge_joins_components_but_not_average_linkage_or_dbscan() -> None:
    vectors, _ = people(3, [5, 5], 0.3)
    bridge = unit_rows((vectors[0] + vectors[5])[None])
    vectors = np.concatenate([vectors, bridge])
    similarity = vectors @ vectors.T
    cut = 0.6
    assert len(partition(components(similarity, cut))) == 1
    assert len(partition(AverageLinkage(similarity)(similarity, 0.5))) == 2
    assert len(partition(chinese_whispers(similarity, cut))) == 2


def test_the_best_cut_is_never_worse_than_the_fixed_one() -> None:
    vectors, names = people(9, [1, 2, 3, 4, 5, 6, 7, 8], 1.3)
    for kinds in compare(vectors, names).values():
        if "fixed" in kinds:
            assert kinds["best"]["bcubed"]["f"] >= kinds["fixed"]["bcubed"]["f"]
