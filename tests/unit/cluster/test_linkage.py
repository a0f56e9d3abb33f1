"""Average linkage: a bar that does not fall as groups are joined, and a higher one for what was left apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facelake.cluster.calibrate import Calibration
from facelake.cluster.linkage import NearGroups, Pairs, join_groups, settle, without_crowds

FACES, INSIDE = 20, 0.8
CUTS = Calibration(0.3, 0.75, 0.9, INSIDE, 0.0, 0.05, "by hand")


def joined(
    between: np.ndarray, apart: list[bool] | None = None, cuts: Calibration = CUTS, faces: int = FACES
) -> list[int]:
    """Numbers of groups whose faces are alike as INSIDE says within each and as `between` (g, g) says across them."""
    count = len(between)
    products = between * faces**2
    products[np.diag_indices(count)] = faces + faces * (faces - 1) * INSIDE
    sums = np.linalg.cholesky(products).astype(np.float32)
    low, high = (side.astype(np.int32) for side in np.triu_indices(count, 1))
    pairs = Pairs.of(low, high, between[low, high].astype(np.float32))
    held = None if apart is None else np.array(apart)
    number, _ = join_groups(sums, np.full(count, faces), pairs, cuts, held)
    return [int(n) for n in number]


def alike(count: int, usual: float, *special: tuple[int, int, float]) -> np.ndarray:
    out = np.full((count, count), usual * INSIDE)
    for i, j, ratio in special:
        out[i, j] = out[j, i] = ratio * INSIDE
    return out


def test_a_family_does_not_fuse_because_two_of_it_did() -> None:
    """Held to the joined group's own, looser inside similarity, all six would be one."""
    assert joined(alike(6, 0.73, (0, 1, 0.77))) == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(("faces", "similarity", "same"), [(3, 0.66, False), (3, 0.72, True), (4, 0.66, True)])
def test_groups_of_few_faces_are_joined_from_the_graphs_cut_on(faces: int, similarity: float, *, same: bool) -> None:
    """The mean of a few pairs is no better evidence than one pair of faces is."""
    cuts = replace(CUTS, ratio_single=0.75, cut=0.7)
    assert (joined(alike(2, similarity / INSIDE), cuts=cuts, faces=faces) == [0, 0]) is same


def test_all_of_one_person_are_joined() -> None:
    assert joined(alike(6, 0.9)) == [0] * 6


@pytest.mark.parametrize(
    ("ratio", "apart", "same"),
    [
        (0.78, None, True),
        (0.78, [True, False], True),
        (0.78, [True, True], False),
        (0.82, [True, True], True),
    ],
)
def test_groups_left_apart_must_be_more_alike(ratio: float, apart: list[bool] | None, same: bool) -> None:
    assert (len(set(joined(alike(2, ratio), apart))) == 1) is same


def test_what_was_left_apart_is_not_joined_by_way_of_a_third() -> None:
    """A new group joins the one it is most like, and does not bring it together with the other."""
    assert joined(alike(3, 0.76, (0, 2, 0.79)), [True, True, False]) == [0, 1, 0]


@pytest.mark.parametrize(
    ("faces", "next_similarity", "joins"),
    [(2, 0.33, False), (2, 0.2, True), (8, 0.33, True), (8, 0.37, False)],
)
def test_a_singleton_joins_a_small_group_only_if_no_other_is_nearly_as_similar(
    faces: int, next_similarity: float, *, joins: bool
) -> None:
    """Several look-alikes of a stranger are about equally similar to them; the template of two photos is a noisy one."""
    cuts = replace(CUTS, cut=0.3, chance=0.3, nearest_low=0.5)
    assert joins_the_first(faces, 0.4, next_similarity, cuts) is joins


@pytest.mark.parametrize(
    ("faces", "similarity", "joins"), [(2, 0.5, False), (3, 0.5, False), (4, 0.5, True), (2, 0.53, True)]
)
def test_in_a_small_corpus_a_singleton_must_be_more_similar_to_a_group_of_few_faces(
    faces: int, similarity: float, *, joins: bool
) -> None:
    """Two photos of a woman were nearer than chance to the only photo of another one."""
    assert joins_the_first(faces, similarity, 0.1, replace(CUTS, cut=0.3, chance=0.3)) is joins
    assert joins_the_first(faces, similarity, 0.1, replace(CUTS, edge=0.5, by_hand=True)) is True


def joins_the_first(faces: int, similarity: float, next_similarity: float, cuts: Calibration) -> bool:
    """Whether a singleton joins the more similar of two groups of so many equal faces."""
    rest = np.sqrt(1 - similarity**2 - next_similarity**2)
    vectors = np.array([[similarity, next_similarity, rest]], np.float32)
    sums, size = np.diag([faces, faces, 1]).astype(np.float32), np.array([faces, faces, 1])
    sums[2] = vectors[0]
    near = NearGroups(np.array([0, 2]), np.array([0, 1], np.int32))
    return int(settle(vectors, np.array([2], np.int32), near, sums, size, cuts)[0]) == 0


@pytest.mark.parametrize(
    ("faces", "singletons", "join"), [(2, 5, True), (2, 6, False), (6, 12, True), (6, 13, False), (300, 400, True)]
)
def test_a_crowd_of_singletons_does_not_join_a_small_group(faces: int, singletons: int, *, join: bool) -> None:
    """Of 2.7 million faces, 809 poor ones of as many people joined a group of seven."""
    size = np.array([faces, 4, *[1] * (singletons + 1)])
    own = np.repeat(np.arange(len(size), dtype=np.int32), size)
    wanted = own.copy()
    wanted[faces + 4 : faces + 4 + singletons] = 0
    wanted[faces] = 0  # a face that moves from a group of several is no singleton
    wanted[-1] = 1
    expected = wanted.copy()
    if not join:
        expected[faces + 4 : faces + 4 + singletons] = own[faces + 4 : faces + 4 + singletons]
    assert without_crowds(own, wanted, size).tolist() == expected.tolist()
