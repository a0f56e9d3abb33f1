"""Neighbours and groups: against brute force, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.cluster import (
    Calibration,
    Prior,
    calibrate,
    exact_join,
    group,
    join_list,
    make_lists,
    union_topk,
    with_level,
)
from facelake.cluster.labels import canonical


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    x = generator.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def people(
    generator: np.random.Generator, sizes: list[int], dim: int = 64, noise: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat(np.arange(len(sizes)), sizes)
    x = unit(generator, len(sizes), dim)[truth] + noise * unit(generator, len(truth), dim)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), truth


def as_pairs(a: np.ndarray, b: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(a.tolist(), b.tolist(), strict=True))


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 9999))
@settings(deadline=None)
def test_join_is_brute_force(count: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, keys = unit(generator, count, 16), generator.permutation(count * 7)[:count].astype(np.int64)
    a, b, s = exact_join(keys, x, k, 0.1)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -2)
    wanted = set()
    for i in range(count):
        best = sorted(range(count), key=lambda j: -similarity[i, j])[:k]
        wanted |= {(int(keys[i]), int(keys[j])) for j in best if similarity[i, j] >= 0.1}
    assert as_pairs(a, b) == wanted
    position = {int(key): i for i, key in enumerate(keys)}
    np.testing.assert_allclose(s, [similarity[position[i], position[j]] for i, j in zip(a, b, strict=True)], atol=1e-5)


def test_lists_find_nearly_all_near_neighbours() -> None:
    generator = np.random.default_rng(3)
    x, _ = people(generator, [20] * 100)
    keys = np.arange(len(x))
    exact = as_pairs(*exact_join(keys, x, 10, 0.5)[:2])
    lists = make_lists(x, 20, 0)
    homes = lists.assign(x, 4)
    parts = [join_list(keys[(homes == i).any(1)], x[(homes == i).any(1)], 10, 0.5) for i in range(20)]
    a, b, _ = union_topk(*(np.concatenate(column) for column in zip(*parts, strict=True)), 10)
    assert len(as_pairs(a, b) & exact) / len(exact) > 0.97
    assert np.bincount(a).max() <= 10


def test_union_keeps_each_neighbour_once_and_the_best() -> None:
    a = np.array([1, 1, 1, 2, 1])
    b = np.array([5, 6, 5, 5, 7])
    s = np.array([0.5, 0.9, 0.5, 0.1, 0.7], np.float32)
    out = union_topk(a, b, s, 2)
    assert [c.tolist() for c in out[:2]] == [[1, 1, 2], [6, 7, 5]]


def grouped(x: np.ndarray, edge: float = 0.4) -> np.ndarray:
    a, b, s = exact_join(np.arange(len(x)), x, 32, edge)
    cuts = Calibration(edge, 0.75, 0.9, 0.8, 0.0, 0.1, "by hand")
    return group(x, np.ones(len(x), np.float32), a, b, s, cuts, 0)


def test_people_are_found_whatever_the_order() -> None:
    generator = np.random.default_rng(5)
    x, truth = people(generator, generator.integers(1, 30, 60).tolist())
    labels = grouped(x)
    assert len(set(zip(truth, labels, strict=True))) == len(set(truth)) == len(set(labels))
    order = generator.permutation(len(x))
    np.testing.assert_array_equal(canonical(grouped(x[order])[np.argsort(order)]), canonical(labels))


def test_a_chain_of_look_alikes_does_not_become_one_person() -> None:
    angle = np.linspace(0, np.pi * 0.9, 40)
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    assert grouped(x, 0.7).max() > 0


def test_two_people_who_look_alike_stay_apart() -> None:
    """Each .93 alike with himself, .55 with the other: above the cut for chance, below what one person reaches."""
    generator = np.random.default_rng(1)
    base = unit(generator, 3, 128)
    one, two = base[0], 0.55 * base[0] + np.sqrt(1 - 0.55**2) * base[1]
    x = np.concatenate([v + 0.27 * unit(generator, 4, 128) for v in (one, two)])
    labels = grouped((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), 0.47)
    assert set(labels[:4]) == {0}
    assert set(labels[4:]) == {1}


@pytest.mark.parametrize("count", [1, 2, 500])
def test_equal_faces_are_one_person(count: int) -> None:
    x = np.tile(unit(np.random.default_rng(0), 1, 32), (count, 1))
    assert grouped(x).max() == 0


def test_calibration_reads_impostors_off_a_corpus_and_falls_back_on_the_card() -> None:
    generator = np.random.default_rng(2)
    prior = Prior(0.12, 0.09, 0.8)
    small, _ = people(generator, [5] * 20)
    assert calibrate(small, np.arange(100), prior, 0).impostor_mean == 0.12
    large, _ = people(generator, [10] * 500, dim=128)
    cuts = calibrate(large, np.arange(5000), prior, 0)
    assert abs(cuts.impostor_mean) < 0.02
    assert abs(cuts.impostor_sd - 1 / np.sqrt(128)) < 0.02
    assert "random pairs" in cuts.evidence
    assert calibrate(large, np.arange(5000), prior, 0, fixed=0.33).edge == 0.33
    a, _, s = exact_join(np.arange(5000), large, 9, cuts.edge)
    assert abs(with_level(cuts, a, s).level - 0.8) < 0.05
