"""Overlapping groups: halves of a person whose photos vary continuously are joined, relatives and strangers are not."""

from __future__ import annotations

import numpy as np
import pytest

from facelake.cluster import overlap
from facelake.cluster.calibrate import Calibration
from facelake.cluster.overlap import (
    Links,
    Sums,
    join_within_bound,
    link_cuts,
    matched,
    overlapping,
    plausible_pairs,
)
from facelake.contracts import F32, I32
from facelake.vectors import unit_rows

DIM = 256
CUTS = Calibration(0.37, 0.75, 0.75, 0.72, 0.0, 0.05, "by hand", cut=0.48, nearest_low=0.65)
LABELS = np.repeat([0, 1], 12).astype(np.int32)


def noisy(vectors: F32, seed: int = 0) -> F32:
    noise = np.random.default_rng(seed).standard_normal(vectors.shape) * 0.55 / np.sqrt(DIM)
    return np.asarray(unit_rows((vectors + noise).astype(np.float32), least=1e-9), np.float32)


def turning_head() -> F32:
    """(24, dim) photos of one person from one end of a turn to the other."""
    angle = np.linspace(0, 0.8 * np.pi, 24)
    vectors = np.zeros((24, DIM), np.float32)
    vectors[:, 0], vectors[:, 1], vectors[:, 2] = np.cos(angle), np.sin(angle), 0.5
    return noisy(unit_rows(vectors, least=1e-9))


def relatives(similarity: float) -> F32:
    """(24, dim) photos of two people whose faces are as similar as given, apart from what changes between photos."""
    vectors = np.zeros((24, DIM), np.float32)
    vectors[:12, 0], vectors[12:, 0], vectors[12:, 1] = 1, similarity, np.sqrt(1 - similarity**2)
    return noisy(vectors)


def links_of(vectors: F32, labels: I32, rows: slice = slice(None)) -> Links:
    """Links above the graph's cut, as listed by some of the faces."""
    face, near = np.nonzero(vectors[rows] @ vectors.T >= CUTS.graph_cut)
    face = face + (rows.start or 0)
    across = labels[face] != labels[near]
    return Links.of(face[across].astype(np.int32), near[across].astype(np.int32), labels)


def joined(vectors: F32, labels: I32 = LABELS) -> bool:
    sums = np.stack([vectors[labels == group].sum(0) for group in (0, 1)])
    links, size = links_of(vectors, labels).summed(), np.bincount(labels)
    return bool((matched(links, size) & overlapping(links, Sums(sums, size), CUTS, CUTS.graph_cut)).any())


def test_two_halves_of_a_turning_head_are_one_person() -> None:
    vectors = turning_head()
    between = vectors[:12] @ vectors[12:].T
    assert between.mean() < 0.75 * CUTS.level  # too low for the relative limit of `join_groups`
    assert joined(vectors)


@pytest.mark.parametrize("similarity", [0.4, 0.5, 0.6, 0.7])
def test_relatives_with_as_many_links_are_not_joined(similarity: float) -> None:
    vectors = relatives(similarity)
    links = links_of(vectors, LABELS).summed()
    assert similarity < 0.7 or links.links[0] > links_of(turning_head(), LABELS).summed().links[0]
    assert not joined(vectors)


def test_a_face_in_the_wrong_group_joins_no_strangers() -> None:
    """It is linked to all faces of its own person, but it is one face."""
    vectors, labels = relatives(0.15), LABELS.copy()
    labels[0] = 1
    links = links_of(vectors, labels).summed()
    assert links.links[0] == 11
    assert not matched(links, np.bincount(labels)).any()


def test_pairs_of_photos_are_too_few() -> None:
    vectors = turning_head()[10:14]
    labels = np.array([0, 0, 1, 1], np.int32)
    assert links_of(vectors, labels).summed().links[0] == 4
    assert not joined(vectors, labels)


def test_parts_of_a_corpus_add_up_to_the_whole() -> None:
    vectors = turning_head()
    whole = links_of(vectors, LABELS).summed()
    shares = [links_of(vectors, LABELS, slice(0, 12)), links_of(vectors, LABELS, slice(12, 24))]
    fields = ("group", "other", "links", "most")
    both = Links(*(np.concatenate([getattr(share, field) for share in shares]) for field in fields)).summed()
    for field in fields:
        np.testing.assert_array_equal(getattr(both, field), getattr(whole, field))


def test_no_links_are_no_pairs() -> None:
    none = np.zeros(0, np.int32)
    assert not len(Links.of(none, none, LABELS).summed().links)


def test_a_chain_of_groups_stays_within_the_bound() -> None:
    """Each of four groups is similar to the next one; the mean inside all of them is below the bound."""
    angle = np.arange(4) * 0.3 * np.pi
    sums = (np.stack([np.cos(angle), np.sin(angle)], 1) * 10).astype(np.float32)
    low, high = np.array([0, 1, 2], np.int32), np.array([1, 2, 3], np.int32)
    group = join_within_bound(low, high, Sums(sums, np.full(4, 10)), 0.6)
    assert group.tolist() == [0, 0, 2, 2]


def test_links_are_counted_from_the_graphs_cut_to_the_level() -> None:
    assert link_cuts(CUTS) == pytest.approx([0.48, 0.72])
    assert link_cuts(CUTS, 4) == pytest.approx([0.48, 0.56, 0.64, 0.72])


def test_plausible_pairs_are_those_of_all_that_may_be_one_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pairs that pass where links are no obstacle."""
    monkeypatch.setattr(overlap, "_ROWS", 7)
    rng = np.random.default_rng(3)
    person, count = rng.integers(0, 12, 40), rng.integers(3, 30, 40)
    vectors = unit_rows(
        (np.eye(DIM)[np.repeat(person, count)] + rng.standard_normal((count.sum(), DIM)) * 0.05).astype(np.float32)
    )
    sums = np.add.reduceat(vectors, np.cumsum(count) - count)
    low, high = np.triu_indices(40, 1)
    enough = np.full(len(low), 10**9)
    every = Links(low.astype(np.int32), high.astype(np.int32), enough, np.ones(len(low), np.int64))
    wanted = overlapping(every, Sums(sums, count), CUTS, CUTS.graph_cut)
    found = plausible_pairs(Sums(sums, count), CUTS)
    assert 0 < wanted.sum() < len(low)
    assert list(zip(found.group, found.other, strict=True)) == list(zip(low[wanted], high[wanted], strict=True))
    assert not found.links.any()
