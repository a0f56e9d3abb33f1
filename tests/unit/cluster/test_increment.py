"""New faces among groups that stand."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from facelake.cluster.calibrate import Calibration
from facelake.cluster.increment import Arrived, ExemplarBlock, Placed, Standing, place
from facelake.cluster.near_groups import near_groups, nearest_groups
from facelake.cluster.quality_norm import Gate

_DIM = 128
_CUTS = Calibration(
    edge=0.33,
    ratio=0.75,
    ratio_single=0.9,
    level=0.64,
    impostor_mean=0.0,
    impostor_sd=0.09,
    evidence="by construction",
    cut=0.66 * 0.64,
)
_GATE = Gate(np.array([0.3], np.float32), np.zeros((2, 2), np.float32))


class People:
    """Faces of people whose pairs are about .64 alike, those of different people about 0."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = self.rng.normal(size=(count, _DIM))

    def faces(self, who: list[int], noise: float = 0.75) -> np.ndarray:
        x = self.centres[who] + noise * self.rng.normal(size=(len(who), _DIM))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def groups(self, sizes: list[int]) -> Groups:
        return Groups([self.faces([who] * size) for who, size in enumerate(sizes)])


class Groups:
    """Existing groups with all their faces."""

    def __init__(self, faces: list[np.ndarray], shown: int = 4) -> None:
        self.faces, self.shown = faces, shown

    @property
    def sums(self) -> np.ndarray:
        return np.array([faces.sum(axis=0) for faces in self.faces], np.float32).reshape(len(self.faces), _DIM)

    def standing(self, new: int, per_block: int = 1000) -> Standing:
        def blocks() -> Iterator[ExemplarBlock]:
            for numbers in np.split(np.arange(len(sizes)), range(per_block, len(sizes), per_block)):
                shown = [self.faces[number][: self.shown] for number in numbers]
                vectors = np.concatenate([np.zeros((0, _DIM), np.float32), *shown])
                yield ExemplarBlock(numbers, vectors, np.cumsum([0, *(len(faces) for faces in shown)]))

        sizes = np.array([len(faces) for faces in self.faces], np.int64)
        sums = np.concatenate([self.sums, np.zeros((new, _DIM), np.float32)])
        return Standing(sums, sizes, np.ones(len(sizes), np.uint8), blocks)


def put(groups: Groups, vectors: np.ndarray, photos: list[int] | None = None, per_block: int = 1000) -> Placed:
    bins = np.ones(len(vectors), np.uint8)
    new = Arrived(vectors, bins, np.array(photos or range(len(vectors)), np.int64))
    return place(groups.standing(len(vectors), per_block), new, _GATE, _CUTS, 0)


def test_faces_join_their_own_and_strangers_are_groups_of_their_own() -> None:
    people = People(60)
    standing = people.groups([12] * 20 + [1] * 20)
    who = [3, 3, 7, 25, 30, 30, *([45] * 5), *([46] * 3), 50]
    placed = put(standing, people.faces(who))
    assert placed.into.tolist() == list(range(40))
    assert placed.labels[:6].tolist() == [3, 3, 7, 25, 30, 30]
    assert len(set(placed.labels[6:11].tolist())) == 1
    assert len(set(placed.labels[11:14].tolist())) == 1
    new = placed.labels[6:]
    assert new.min() == 40
    assert len(set(new.tolist())) == 3


def test_nothing_stands() -> None:
    people = People(4)
    placed = put(people.groups([]), people.faces([0] * 4 + [1] * 4 + [2]))
    assert placed.labels.tolist() == [0] * 4 + [1] * 4 + [2]


def test_nobody_came() -> None:
    placed = put(People(3).groups([4, 4, 4]), np.zeros((0, _DIM), np.float32))
    assert placed.into.tolist() == [0, 1, 2]
    assert not len(placed.labels)


def test_new_faces_bring_two_halves_of_one_person_together() -> None:
    people = People(12, seed=4)
    standing = people.groups([10] * 6)
    # a person known by two groups, each of faces of one mode
    mode = people.rng.normal(size=_DIM)
    halves = []
    for sign in (-1, 1):
        x = people.centres[8] + sign * 0.35 * mode + 0.5 * people.rng.normal(size=(8, _DIM))
        halves.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
    more = Groups([*standing.faces, *halves])
    placed = put(more, people.faces([8] * 10, noise=0.4))
    assert placed.into[6] == placed.into[7] == 6
    assert set(placed.labels.tolist()) == {6}


def test_the_same_whatever_the_machine_split_the_work_into(monkeypatch: pytest.MonkeyPatch) -> None:
    people = People(400, seed=2)
    sums = people.groups([6] * 300).sums
    means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    vectors = people.faces([int(w) for w in people.rng.integers(0, 400, 300)])
    whole, cosine = near_groups(means, vectors, 0)
    monkeypatch.setattr("facelake.cluster.near_groups._FLAT_PAIRS", 1)
    monkeypatch.setattr("facelake.cluster.near_groups._GROUPS_PER_LIST", 30)
    cells, _ = near_groups(means, vectors, 0)
    assert (whole[:, 0] == cells[:, 0]).mean() > 0.97
    assert (np.diff(cosine, axis=1) <= 0).all()


@pytest.mark.parametrize("groups", [1, 15, 300])
def test_a_scan_in_few_dimensions_finds_what_a_comparison_of_all_finds(
    groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = People(400, seed=3)
    sums = people.groups([6] * groups).sums
    vectors = people.faces([int(w) for w in people.rng.integers(0, 400, 700)])
    whole, cosine = nearest_groups(sums, vectors, -1.0, 0)
    monkeypatch.setattr("facelake.cluster.near_groups._SCANNED_GROUPS", 1)
    monkeypatch.setattr("facelake.cluster.near_groups._SCANNED_DIM", 1)
    monkeypatch.setattr("facelake.cluster.near_groups._SCAN_COLUMNS", 70)
    found, of_found = nearest_groups(sums, vectors, 0.3, 0)
    near = cosine >= 0.3
    assert near.any()
    assert (found == whole)[near].mean() > 0.99
    np.testing.assert_allclose(of_found[found == whole], cosine[found == whole], atol=1e-5)
    assert (of_found[found >= 0] >= 0.3).all()
    assert (of_found[found < 0] == -2).all()
    assert (np.diff(of_found, axis=1) <= 0).all()


def test_faces_of_one_photo_are_softly_distinct() -> None:
    people = People(2, seed=1)
    a, b = people.faces([0], noise=0.95), people.faces([0], noise=0.95)
    pair = np.concatenate([a, b])
    alike = float(a[0] @ b[0])
    cuts = _CUTS.graph_cut
    assert cuts < alike < cuts + 0.2
    nobody = people.groups([])
    apart = put(nobody, pair).labels
    together = put(nobody, pair, photos=[7, 7]).labels
    assert apart[0] == apart[1]
    assert (together[0] == together[1]) == (alike - 0.09 >= cuts)


def test_exemplars_read_in_blocks_place_the_same() -> None:
    people = People(60, seed=3)
    groups = people.groups([12] * 20 + [1] * 20)
    faces = people.faces([int(who) for who in people.rng.integers(0, 60, 80)])
    whole = put(groups, faces)
    for per_block in (1, 7):
        parts = put(groups, faces, per_block=per_block)
        assert np.array_equal(whole.labels, parts.labels)
        assert np.array_equal(whole.into, parts.into)


def test_a_group_without_its_exemplars_is_refused() -> None:
    people = People(4)
    groups = people.groups([4, 4])
    standing = groups.standing(1)
    lacking = dataclasses.replace(standing, exemplars=lambda: itertools.islice(groups.standing(1, 1).exemplars(), 1))
    new = Arrived(people.faces([0]), np.ones(1, np.uint8), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="exemplars of 1 groups of 2"):
        place(lacking, new, _GATE, _CUTS, 0)
