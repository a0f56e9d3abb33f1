"""Groups of one person that differ as faces of one person do are joined; different people and relatives are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facelake.cluster import within_person
from facelake.cluster.calibrate import Calibration
from facelake.cluster.labels import canonical
from facelake.cluster.within_person import _FEW_GROUPS, Groups, _Chance, _Limits, _Templates, join_normalised
from facelake.contracts import F32
from facelake.vectors import unit_rows

DIM, VARIABLE = 128, 24
CUTS = Calibration(0.45, 0.75, 0.75, 0.8, 0.05, 0.09, "a test", chance=0.45)


def group_sums(vectors: F32, labels: np.ndarray) -> Groups:
    """The groups of vectors (n, dim) by labels (n,)."""
    sums = np.zeros((labels.max() + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    wide = vectors.astype(np.float64)
    return Groups(sums, np.bincount(labels), wide.T @ wide)


def sessions(
    people: F32, *, shift: float, faces: int = 5, noise: float = 0.4, seed: int = 3, variable: int = VARIABLE
) -> tuple[F32, np.ndarray, np.ndarray]:
    """Vectors, groups and people of faces of which each person's second half is moved by `shift`.

    Everybody's is moved in a direction of their own in the same few dimensions; only person 0 is split in two groups.
    """
    generator = np.random.default_rng(seed)
    axis = np.zeros((len(people), DIM), np.float32)
    axis[:, :variable] = unit_rows(generator.normal(size=(len(people), variable)))
    person = np.repeat(np.arange(len(people)), 2 * faces)
    late = np.tile(np.repeat([0.0, 1.0], faces), len(people))
    vectors = people[person] + shift * late[:, None] * axis[person]
    vectors = vectors + noise * unit_rows(generator.normal(size=vectors.shape))
    group = np.where((person == 0) & (late == 1), len(people), person)
    return unit_rows(vectors.astype(np.float32)), group, person


def templates(count: int, seed: int = 1) -> F32:
    """Unit vectors (count, dim) of different people, orthogonal to the dimensions of the sessions."""
    drawn = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    drawn[:, :VARIABLE] = 0
    return unit_rows(drawn)


def test_two_sessions_of_one_person_are_joined_although_they_are_less_alike_than_the_relative_cut() -> None:
    vectors, group, _ = sessions(templates(30), shift=1.0)
    groups = group_sums(vectors, group)
    between = groups.sums[0] @ groups.sums[30] / 25
    inside = (groups.sums[0] @ groups.sums[0] - 5) / 20
    assert between < 0.75 * inside  # what linking asks for
    number, text = join_normalised(groups, CUTS)
    assert number.tolist() == [*range(30), 0]
    assert text.startswith("1 joins")


def test_different_people_are_not_joined() -> None:
    for seed in range(5):
        vectors, _, person = sessions(templates(40, seed), shift=1.0, seed=seed)
        number, _ = join_normalised(group_sums(vectors, person), CUTS)
        assert len(set(number.tolist())) == 40


def test_look_alikes_of_whom_two_photos_each_are_known_are_not_joined() -> None:
    people = templates(30)
    people[1] = unit_rows(people[[0]] * 0.7 + people[[1]] * 0.7)[0]
    vectors, _, person = sessions(people, shift=0.0, faces=1, noise=0.2)
    groups = group_sums(vectors, person)
    assert groups.sums[0] @ groups.sums[1] / 4 > CUTS.mean_of_groups
    assert len(set(join_normalised(groups, CUTS)[0].tolist())) == 30
    vectors, _, person = sessions(people, shift=0.0, faces=2, noise=0.2)  # four photos each do tell
    assert len(set(join_normalised(group_sums(vectors, person), CUTS)[0].tolist())) == 29


def test_in_a_corpus_of_families_nobody_is_joined() -> None:
    families = np.repeat(templates(8, seed=5), 4, axis=0)
    people = unit_rows((0.8 * families + 0.6 * templates(32, seed=6)).astype(np.float32))
    vectors, _, person = sessions(people, shift=0.0, noise=0.2)
    groups = group_sums(vectors, person)
    assert groups.sums[0] @ groups.sums[1] / 100 > CUTS.mean_of_groups
    assert len(set(join_normalised(groups, CUTS)[0].tolist())) == 32


def test_pairs_less_alike_than_a_cut_that_was_set_by_hand_are_not_joined() -> None:
    vectors, group, _ = sessions(templates(30), shift=1.0)
    strict = Calibration(0.8, 0.75, 0.75, 0.8, 0.05, 0.09, "a test", by_hand=True)
    assert len(set(join_normalised(group_sums(vectors, group), strict)[0].tolist())) == 31


@pytest.mark.parametrize(("shift", "joined"), [(0.8, True), (1.7, False)])
def test_of_few_groups_only_those_are_joined_that_are_alike_by_any_distribution(shift: float, joined: bool) -> None:
    """One pair of one person is the upper hundredth of the pairs of eleven groups."""
    vectors, group, _ = sessions(templates(10), shift=shift)
    groups = group_sums(vectors, group)
    assert np.isinf(_Chance.of(unit_rows(groups.sums) @ unit_rows(groups.sums).T, 55).most)
    mean = groups.sums[0] @ groups.sums[10] / 25
    assert CUTS.mean_of_groups < mean
    assert (mean >= CUTS.mean_of_any) == joined
    number, text = join_normalised(groups, CUTS)
    assert number.tolist() == ([*range(10), 0] if joined else [*range(11)])
    assert "relatives may be among" in text


def test_few_groups_of_relatives_are_not_joined() -> None:
    """The pairs of four out of eighteen people are too many to be one person's, who was split."""
    people = templates(18)
    people[:4] = unit_rows(0.8 * people[[0]] + 0.6 * people[:4])
    vectors, _, person = sessions(people, shift=0.0, noise=0.2)
    groups = group_sums(vectors, person)
    assert groups.sums[1] @ groups.sums[2] / 100 > CUTS.mean_of_any
    assert len(set(join_normalised(groups, CUTS)[0].tolist())) == 18


LARGE = replace(CUTS, nearest_low=0.7)


def test_what_normalisation_raises_is_joined_whatever_the_mean_and_the_size_of_the_corpus() -> None:
    vectors, group, _ = sessions(templates(60), shift=1.6, faces=6, noise=1.0, variable=6)
    groups = group_sums(vectors, group)
    between = groups.sums[0] @ groups.sums[60] / 36
    for cuts in (CUTS, LARGE):
        assert between < cuts.mean_of_groups
        assert join_normalised(groups, cuts)[0].tolist() == [*range(60), 0]


def test_relatives_and_look_alikes_are_not_raised_and_not_joined_in_a_large_corpus() -> None:
    people = templates(_FEW_GROUPS + 1)
    people[1] = unit_rows(people[[0]] * 0.7 + people[[1]] * 0.7)[0]
    vectors, _, person = sessions(people, shift=0.0, faces=4, noise=0.2)
    groups = group_sums(vectors, person)
    assert groups.sums[0] @ groups.sums[1] / 64 > LARGE.mean_of_groups
    assert len(set(join_normalised(groups, CUTS)[0].tolist())) == _FEW_GROUPS
    assert len(set(join_normalised(groups, LARGE)[0].tolist())) == _FEW_GROUPS + 1


def test_sessions_of_few_people_are_joined_by_their_mean_unless_there_are_relatives() -> None:
    """Whether or not the corpus is large enough to show how alike one person's photos are."""
    people = templates(60)
    vectors, group, person = sessions(people, shift=1.2)
    groups = group_sums(vectors, group)
    assert LARGE.mean_of_groups < groups.sums[0] @ groups.sums[60] / 25 < 0.75 * 0.8  # the relative cut splits them
    assert join_normalised(groups, LARGE)[0].tolist() == [*range(60), 0]
    related = people.copy()
    related[20:40] = unit_rows(0.8 * people[40:60] + 0.6 * people[20:40])
    vectors, _, person = sessions(related, shift=0.0, noise=0.2)
    groups = group_sums(vectors, person)
    assert groups.sums[20] @ groups.sums[40] / 100 > LARGE.alike
    assert len(set(join_normalised(groups, LARGE)[0].tolist())) == 60


@pytest.mark.parametrize("seed", range(4))
def test_joining_by_blocks_is_joining_the_most_similar_pair_of_all_again_and_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, _, person = sessions(templates(70, seed), shift=1.6, faces=12, noise=1.0, seed=seed, variable=6)
    late = np.tile(np.repeat([0, 1], 12), 70)
    thirds = np.where(person < 4, person + 100 * late + 200 * (np.arange(len(person)) % 3 == 0), person)
    groups = group_sums(vectors, np.unique(thirds, return_inverse=True)[1])
    monkeypatch.setattr(within_person, "_ROWS", 7)
    monkeypatch.setattr(within_person, "_UNRAISED", 1_000)  # the parts of a half are as similar as relatives
    number, _ = join_normalised(groups, LARGE)
    kept = _Templates.of(groups)
    limits, expected = _Limits.of(kept, LARGE), np.arange(len(groups.size))
    while True:
        similarity = kept.similarity(slice(None), slice(None))
        mean = (kept.sums @ kept.sums.T) / np.outer(kept.size, kept.size)
        alive = expected == np.arange(len(expected))
        passing = limits.pass_(similarity, mean, np.maximum.outer(kept.size, kept.size))
        passing &= np.logical_and.outer(alive, alive) & ~np.eye(len(alive), dtype=bool)
        if not passing.any():
            break
        a, b = divmod(int(np.argmax(np.where(passing, similarity, -1))), len(alive))
        kept.join(a, b)
        expected[expected == b] = a
    assert number.tolist() == canonical(expected).tolist()
    assert len(set(expected.tolist())) < len(expected)
