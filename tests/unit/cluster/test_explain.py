"""Explanations against brute force and against what clustering would do."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.cluster.calibrate import Calibration
from facelake.cluster.explain import discounted, face_pair, group_pair, widest_path
from facelake.cluster.quality_norm import Gate
from tests.unit.cluster.test_cluster import people, unit
from tests.unit.cluster.test_overlap import CUTS as OVERLAP_CUTS
from tests.unit.cluster.test_overlap import LABELS, joined, relatives, turning_head

CUTS = Calibration(0.3, 0.75, 0.9, 0.7, 0.0, 0.1, "test")


def gate_of(strength: float) -> Gate:
    inflation = np.array([[strength, strength / 2], [strength / 2, 0]], np.float32)
    return Gate(np.array([0.5], np.float32), inflation)


@given(st.integers(2, 6), st.integers(0, 5000))
def test_widest_path_is_the_best_of_all_paths(n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, quality = unit(generator, n, 4), generator.uniform(0, 1, n).astype(np.float32)
    gate = gate_of(0.2)
    value = discounted(x, quality, gate)
    best = -2.0
    for size in range(n - 1):
        for between in itertools.permutations(range(1, n - 1), size):
            way = [0, *between, n - 1]
            best = max(best, min(value[a, b] for a, b in itertools.pairwise(way)))
    path = widest_path(x, quality, gate, 0, n - 1)
    assert path.faces[0] == 0
    assert path.faces[-1] == n - 1
    assert abs(path.weakest - best) < 1e-6
    assert abs(min(value[a, b] for a, b in itertools.pairwise(path.faces)) - path.weakest) < 1e-6


def test_poor_faces_are_discounted() -> None:
    x = np.array([[1, 0], [0.9, np.sqrt(0.19)]], np.float32)
    good = face_pair(x, np.array([0.9, 0.9], np.float32), gate_of(0.2), CUTS)
    assert (good.edge, good.discount) == (True, 0)
    poor = face_pair(x, np.array([0.1, 0.9], np.float32), gate_of(0.2), CUTS)
    assert poor.edge
    assert abs(poor.discount - 0.2) < 1e-6


def test_groups_of_one_person_join_and_of_two_do_not() -> None:
    x, truth = people(np.random.default_rng(3), [20, 20], noise=0.5)
    quality = np.ones(40, np.float32)
    open_gate = gate_of(0)
    halves = group_pair(x[truth == 0], quality[:20], np.arange(20) % 2, open_gate, CUTS)
    assert halves.joins
    assert halves.sizes == (10, 10)
    assert abs(halves.ratio - 1) < 0.1
    two = group_pair(x, quality, truth, open_gate, CUTS)
    assert not two.joins
    assert two.wanted_ratio == 0.75


def test_overlap_is_told_as_the_step_decides() -> None:
    quality, labels = np.ones(24, np.float32), LABELS.astype(np.int64)
    turn = group_pair(turning_head(), quality, labels, gate_of(0), OVERLAP_CUTS)
    assert not turn.joins  # by mean similarity
    assert turn.overlap.joins
    assert joined(turning_head())
    assert turn.overlap.links >= 5 * turn.overlap.expected
    for similarity in (0.4, 0.7):
        kin = group_pair(relatives(similarity), quality, labels, gate_of(0), OVERLAP_CUTS)
        assert not kin.overlap.joins
        assert not joined(relatives(similarity))


def test_overlap_is_told_without_the_discount_for_poor_faces() -> None:
    quality, labels = np.zeros(24, np.float32), LABELS.astype(np.int64)
    poor, sound = (group_pair(turning_head(), quality, labels, gate_of(by), OVERLAP_CUTS) for by in (0.2, 0))
    assert poor.overlap == sound.overlap
    assert poor.strongest < sound.strongest


def test_links_of_one_misplaced_face_are_no_overlap() -> None:
    x, truth = people(np.random.default_rng(3), [13, 12], noise=0.2)
    placed = truth.copy()
    placed[0] = 1  # a face of the first person among those of the second
    pair = group_pair(x, np.ones(25, np.float32), placed, gate_of(0), OVERLAP_CUTS)
    assert pair.overlap.links == 12
    assert not pair.overlap.joins
