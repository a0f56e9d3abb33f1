"""A crowd of look-alikes has no edge: as many others around it are as similar to it as its own faces are."""

from __future__ import annotations

import numpy as np
import pytest

from facelake.cluster.crowds import NearGroups, crowds, surroundings
from facelake.cluster.neighbours import Ragged, exact_join
from facelake.contracts import F32, I64
from facelake.vectors import unit_rows

DIM, DEVIATION = 128, 0.09


def alike(count: int, similarity: float, seed: int, direction: int = 0) -> F32:
    """(count, dim) faces that are as similar as this to each other."""
    own = np.random.default_rng(seed).standard_normal((count, DIM)) / np.sqrt(DIM)
    own[:, direction] = np.sqrt(similarity / (1 - similarity))
    return unit_rows(own.astype(np.float32))


def crowds_among(vectors: F32, labels: I64, parts: int = 1) -> list[int]:
    """Return the groups that are crowds; the faces are compared in so many parts."""
    near, size = exact_join(vectors, 32, 0.0).ragged(), np.bincount(labels)
    sums = np.zeros((len(size), DIM), np.float32)
    np.add.at(sums, labels, vectors)
    several = np.flatnonzero(size >= 3)
    place = np.full(len(size), -1, np.int32)
    place[several] = np.arange(len(several))
    around = np.zeros(len(several))
    for faces in np.array_split(np.arange(len(vectors)), parts):
        pairs = slice(near.start[faces[0]], near.start[faces[-1] + 1])
        of_part = Ragged(near.start[faces[0] : faces[-1] + 2] - pairs.start, near.index[pairs], near.cosine[pairs])
        own, other = np.repeat(labels[faces], np.diff(of_part.start)), labels[of_part.index]
        groups = NearGroups(np.where(own == other, -1, place[other]), sums[several], size[several])
        around += surroundings(vectors[faces].astype(np.float16), size[labels[faces]], of_part, groups, DEVIATION)
    return several[crowds(around, size[several])].tolist()


@pytest.mark.parametrize("parts", [1, 7])
def test_a_few_of_many_look_alikes_are_a_crowd_and_a_person_as_loose_is_none(parts: int) -> None:
    look_alikes, person = alike(200, 0.5, 1), alike(40, 0.5, 2, direction=1)
    labels = np.concatenate([np.zeros(40, int), 2 + np.arange(160), np.ones(40, int)])
    assert crowds_among(np.concatenate([look_alikes, person]), labels, parts) == [0]


@pytest.mark.parametrize(("others", "crowd"), [(11, False), (12, True)])
def test_as_many_others_as_faces_make_a_crowd(others: int, crowd: bool) -> None:
    """A person of twelve photos may have look-alikes, but not twelve of them."""
    labels = np.concatenate([np.zeros(12, int), 1 + np.arange(others)])
    assert crowds_among(alike(12 + others, 0.6, 3), labels) == ([0] if crowd else [])


def test_another_group_counts_once_however_many_faces_it_has() -> None:
    """Two halves of one person, whom a later step joins, are no crowd."""
    labels = np.repeat([0, 1], [10, 60])
    assert crowds_among(alike(70, 0.6, 4), labels) == []


def test_people_who_are_less_similar_to_a_group_than_its_faces_are_no_crowd() -> None:
    """A hundred relatives at .5 of a person whose photos have .8."""
    person = alike(10, 0.8, 5)
    relatives = unit_rows((0.56 * person.mean(0) + alike(100, 0.3, 6, direction=1)).astype(np.float32))
    between = (person @ relatives.T).mean()
    assert 0.4 < between < 0.8 - DEVIATION
    assert crowds_among(np.concatenate([person, relatives]), np.append(np.zeros(10, int), 1 + np.arange(100))) == []


def test_without_groups_or_neighbours_there_is_no_crowd() -> None:
    assert crowds_among(alike(6, 0.6, 7), np.arange(6)) == []
    assert crowds_among(np.eye(6, DIM, dtype=np.float32), np.array([0, 0, 0, 1, 1, 1])) == []
