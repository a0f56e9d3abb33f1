"""Assignment of identity ids: optimal, stable and complete."""

from __future__ import annotations

from itertools import permutations
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facelake.contracts import Change
from facelake.publish import Published, Standing, match_groups
from facelake.publish import publish_groups as publish_standing
from facelake.publish.identities import ChangeEvent
from facelake.publish.prototypes import add_weighted, core_faces, exemplars, means_of, weighted_means


def standing_of(
    faces: list[str],
    groups: np.ndarray,
    before: pa.Table | None,
    tombstone_of_face: dict[str, str] | None = None,
    cores: dict[str, int] | None = None,
    since: dict[str, int] | None = None,
) -> Standing:
    """Look up every face's previous identity, core flag and tombstone row by row, as a simple reference implementation."""
    rows = {row["face_id"]: row for row in before.to_pylist()} if before else {}
    names = sorted({row["identity_id"] for row in rows.values()})
    former = [rows[face].get("former_id") if face in rows else (tombstone_of_face or {}).get(face) for face in faces]
    tombstones = sorted(({*former, *(tombstone_of_face or {}).values()} - {None}) - set(names))
    first = [min(i for i, group in enumerate(groups) if group == label) for label in range(int(max(groups)) + 1)]
    return Standing(
        groups=np.asarray(groups, np.int64),
        first=np.array(first, np.int64),
        previous=np.array([names.index(rows[face]["identity_id"]) if face in rows else -1 for face in faces], np.int64),
        core=np.array([bool(rows.get(face, {}).get("core")) for face in faces]),
        former=np.array([tombstones.index(name) if name in tombstones else -1 for name in former], np.int64),
        names=names,
        sizes=np.array([sum(row["identity_id"] == name for row in rows.values()) for name in names], np.int64),
        own=np.array(
            [sum(row["identity_id"] == name and not row.get("former_id") for row in rows.values()) for name in names],
            np.int64,
        ),
        since=np.array([(since or {}).get(name, 1) for name in names], np.int64),
        tombstones=tombstones,
        cores=np.array([(cores or {}).get(name, 0) for name in tombstones], np.int64),
    )


def publish_groups(faces: list[str], groups: np.ndarray, before: dict[str, str], version: int) -> Published:
    rows = pa.table({"face_id": list(before), "identity_id": list(before.values())}) if before else None
    return publish_standing(standing_of(faces, groups.astype(np.int64), rows), version)


small = st.integers(1, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n), st.lists(st.integers(-1, 3), min_size=n, max_size=n)
    )
)


@given(small)
@settings(deadline=None)
def test_matching_is_optimal(case: tuple[list[int], list[int]]) -> None:
    groups, identities = (np.array(v, np.int64) for v in case)
    matched = match_groups(groups, identities, 4, 4)
    used = matched[matched >= 0]
    assert len(set(used.tolist())) == len(used)
    kept = sum(matched[g] == i and i >= 0 for g, i in zip(*case, strict=True))
    best = max(sum(order[g] == i for g, i in zip(*case, strict=True)) for order in permutations(range(4)))
    assert kept == best


names = st.dictionaries(
    st.integers(0, 15).map("f{:02d}".format), st.sampled_from(["id-a", "id-b", "id-c"]), max_size=16
)


@given(st.lists(st.integers(0, 4), min_size=12, max_size=12), names)
@settings(deadline=None)
def test_changes_replay_to_the_new_gallery(labels: list[int], before: dict[str, str]) -> None:
    groups = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    faces = [f"f{i:02d}" for i in range(12)]
    result = publish_groups(faces, groups, before, 7)
    sizes = {name: list(before.values()).count(name) for name in before.values()}
    now = {face: result.identity_of_group[group] for face, group in zip(faces, groups, strict=True)}
    for event in result.changes:
        assert (event.size_before, event.new, event.gone, event.moved_in, event.moved_out) == _moves(event, before, now)
        assert event.size_after == event.size_before + event.new - event.gone + event.moved_in - event.moved_out
        assert sizes.get(event.identity_id, 0) == event.size_before
        if event.size_after:
            sizes[event.identity_id] = event.size_after
        else:
            del sizes[event.identity_id]
    assert sizes == {name: int((groups == i).sum()) for i, name in enumerate(result.identity_of_group)}


def _moves(event: ChangeEvent, before: dict[str, str], now: dict[str, str]) -> tuple[int, ...]:
    had = {face for face, name in before.items() if name == event.identity_id}
    has = {face for face, name in now.items() if name == event.identity_id}
    new, gone = has - set(before), had - set(now)
    return tuple(len(part) for part in (had, new, gone, has - had - new, had - has - gone))


def test_kinds_of_changes() -> None:
    faces = list("abcdefgh")
    before = dict(zip("abcdef", ["id-1"] * 3 + ["id-2"] * 2 + ["id-3"], strict=True)) | {"z": "id-4"}
    # id-1 splits in ab and c; id-2 and id-3 join, g comes to them; h is new; id-4 lost its only face
    result = publish_groups(faces, np.array([0, 0, 1, 2, 2, 2, 2, 3]), before, 2)
    kinds = {(e.kind, e.identity_id, e.other_id) for e in result.changes}
    split, created = result.identity_of_group[1], result.identity_of_group[3]
    assert kinds == {
        (Change.SHRANK, "id-1", None),
        (Change.SPLIT, split, "id-1"),
        (Change.GREW, "id-2", None),
        (Change.MERGED, "id-3", "id-2"),
        (Change.CREATED, created, None),
        (Change.RETIRED, "id-4", None),
    }
    assert (result.merged_into, result.retired) == ({"id-3": "id-2"}, ["id-4"])


def test_the_same_input_gives_the_same_ids_and_no_changes() -> None:
    faces, groups = list("abcd"), np.array([0, 1, 0, 2])
    first = publish_groups(faces, groups, {}, 1)
    assert first.identity_of_group == publish_groups(faces, groups, {}, 1).identity_of_group
    assert len(set(first.identity_of_group)) == 3
    before = {f: first.identity_of_group[g] for f, g in zip(faces, groups, strict=True)}
    again = publish_groups(faces, np.array([2, 0, 2, 1]), before, 2)
    assert list(again.changes) == []
    assert [again.identity_of_group[g] for g in (2, 0, 2, 1)] == [before[f] for f in faces]


def test_the_template_is_the_weighted_mean() -> None:
    x = np.eye(3, dtype=np.float32)
    means, *_ = weighted_means(x, np.array([3, 4, 1], np.float32), np.array([1, 1, 0]), 3)
    np.testing.assert_allclose(means, [[0, 0, 1], [0.6, 0.8, 0], [0, 0, 0]], atol=1e-6)


def test_the_id_stays_with_the_core_and_not_with_the_larger_part() -> None:
    faces = pa.array([f"f{i}" for i in range(10)])
    core = [i in (0, 1, 2) for i in range(10)]
    before = pa.table(
        {"face_id": faces, "identity_id": ["id-1"] * 10, "core": core, "former_id": pa.nulls(10, pa.string())}
    )
    groups = np.array([0] * 4 + [1] * 6, np.int64)
    result = publish_standing(standing_of(faces.to_pylist(), groups, before), 2)
    assert result.identity_of_group[0] == "id-1"
    assert {(e.kind, e.identity_id, e.other_id, e.size_after) for e in result.changes} == {
        (Change.SHRANK, "id-1", None, 4),
        (Change.SPLIT, result.identity_of_group[1], "id-1", 6),
    }


def test_a_merged_identity_returns_when_its_faces_are_separated() -> None:
    faces = pa.array([f"f{i}" for i in range(8)])
    former = pa.array([None] * 5 + ["id-0"] * 3, pa.string())
    before = pa.table(
        {"face_id": faces, "identity_id": ["id-1"] * 8, "core": [True] * 5 + [False] * 3, "former_id": former}
    )
    result = publish_standing(standing_of(faces.to_pylist(), np.array([0] * 5 + [1] * 3), before), 3)
    assert result.identity_of_group == ["id-1", "id-0"]
    assert result.came_back == ["id-0"]
    assert [(e.kind, e.other_id) for e in result.changes if e.identity_id == "id-0"] == [(Change.RESURRECTED, "id-1")]


sizes = st.integers(1, 6)


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_both_ids_return_to_their_faces_when_a_merge_is_undone(pairs: list[tuple[int, int]], random: Random) -> None:
    """Whatever the sizes, the order of the groups and which faces are the core of the merged identity."""
    faces, owner, merged = [], [], []
    for number, (kept, brought) in enumerate(pairs):
        for name, count in ((f"id-{number}-kept", kept), (f"id-{number}-brought", brought)):
            faces += [f"{name}-{i}" for i in range(count)]
            owner += [name] * count
            merged += [f"id-{number}-kept"] * count
    before = pa.table(
        {
            "face_id": faces,
            "identity_id": merged,
            "core": [random.random() < 0.5 for _ in faces],
            "former_id": pa.array([None if a == b else a for a, b in zip(owner, merged, strict=True)], pa.string()),
        }
    )
    order = sorted(set(owner))
    random.shuffle(order)
    groups = np.array([order.index(name) for name in owner], np.int64)
    result = publish_standing(standing_of(faces, groups, before), 3)
    assert result.identity_of_group == order
    assert sorted(result.came_back) == sorted(name for name in order if name.endswith("brought"))


@given(
    own=st.integers(0, 6),
    brought=st.integers(1, 6),
    arrived=st.integers(0, 6),
    left=st.integers(0, 5),
    together=st.booleans(),
)
@example(own=0, brought=3, arrived=0, left=0, together=True)  # after an erasure nothing tells of the own faces
def test_an_id_is_not_passed_on_to_the_faces_that_a_merge_brought(
    own: int, brought: int, arrived: int, left: int, *, together: bool
) -> None:
    """Of a merge most of whose winner's own faces are gone, whether or not it was undone, the rest has its own id."""
    left = min(left, own)
    faces = [*(f"a{i}" for i in range(own)), *(f"b{i}" for i in range(brought)), *(f"c{i}" for i in range(arrived))]
    before = pa.table(
        {
            "face_id": faces,
            "identity_id": ["id-a"] * len(faces),
            "core": [i % 2 == 0 for i in range(len(faces))],
            "former_id": pa.array([None] * own + ["id-b"] * brought + [None] * arrived, pa.string()),
        }
    )
    now = faces[own - left :]
    groups = np.unique([not together and name[0] != "a" for name in now], return_inverse=True)[1]
    result = publish_standing(standing_of(now, groups, before), 3)
    with_a = left if together else 0
    mostly_b = 2 * brought > with_a + brought + arrived
    few_own = with_a + arrived == 0 or 2 * (with_a + arrived) < own + arrived
    identity = result.identity_of_group[groups[now.index("b0")]]
    if mostly_b and few_own:
        assert identity == "id-b"
        assert result.came_back == ["id-b"]
        assert "id-a" not in result.merged_into
        assert (result.retired == ["id-a"]) is (together or not left)
    elif together or not left:
        assert (identity, result.retired, result.came_back) == ("id-a", [], [])


@pytest.mark.parametrize("names", [("id-a", "id-b"), ("id-b", "id-a")])
def test_the_older_id_wins_a_tie(names: tuple[str, str]) -> None:
    """A split in two halves that is undone: the id is that of the whole, whichever sorts first."""
    old, young = names
    faces = [f"face-{i}" for i in range(4)]
    before = pa.table({"face_id": faces, "identity_id": [old, young] * 2, "core": [True] * 4})
    standing = standing_of(faces, np.zeros(4, np.int64), before, since={old: 1, young: 2})
    result = publish_standing(standing, 3)
    assert (result.identity_of_group, result.merged_into) == ([old], {young: old})


def test_a_retired_identity_returns_with_its_faces() -> None:
    before = pa.table(
        {"face_id": ["a"], "identity_id": ["id-1"], "core": [True], "former_id": pa.nulls(1, pa.string())}
    )
    standing = standing_of(["a", "b", "c"], np.array([0, 1, 1]), before, {"b": "id-9", "c": "id-9"})
    result = publish_standing(standing, 4)
    assert result.identity_of_group == ["id-1", "id-9"]
    assert [(e.kind, e.identity_id) for e in result.changes] == [(Change.RESURRECTED, "id-9")]


@pytest.mark.parametrize(("here", "core", "returns"), [(5, 5, True), (3, 5, True), (2, 5, False), (1, 1, True)])
def test_a_retired_identity_returns_if_most_of_its_core_does(here: int, core: int, *, returns: bool) -> None:
    """Only hashes of the core are left of it; of a person with thirty photos that is a sixth."""
    faces = [f"f{i:02d}" for i in range(30)]
    came_back = dict.fromkeys(faces[:here], "id-9")
    result = publish_standing(standing_of(faces, np.zeros(30, np.int64), None, came_back, {"id-9": core}), 4)
    assert (result.identity_of_group == ["id-9"]) is returns
    assert result.came_back == ["id-9"] * returns


@given(st.lists(st.integers(0, 3), min_size=1, max_size=14))
def test_the_same_groups_change_nothing(labels: list[int]) -> None:
    groups = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    faces = [f"f{i:02d}" for i in range(len(labels))]
    first = publish_groups(faces, groups, {}, 1)
    before = {face: first.identity_of_group[g] for face, g in zip(faces, groups, strict=True)}
    renumbered = (groups.max() - groups).astype(np.int64)
    again = publish_groups(faces, renumbered, before, 2)
    assert not again.changes
    assert [again.identity_of_group[g] for g in renumbered] == [first.identity_of_group[g] for g in groups]


def test_exemplars_cover_modes_and_leave_outliers_out() -> None:
    rng = np.random.default_rng(3)
    person = np.eye(1, 64)[0]
    modes = [person + 0.5 * np.eye(1, 64, k)[0] for k in (5, 6, 7)]
    vectors = np.concatenate([m + 0.02 * rng.normal(size=(20, 64)) for m in modes] + [np.eye(1, 64, 40)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels = np.zeros(len(vectors), np.int64)
    weights = np.ones(len(vectors), np.float32)
    sums, total = np.zeros((1, 64)), np.zeros(1)
    add_weighted(vectors, weights, labels, sums, total)
    means, cohesion = means_of(sums, total)
    chosen = np.flatnonzero(exemplars(vectors, weights, labels, means, cohesion, 4))
    assert {int(at) // 20 for at in chosen} == {0, 1, 2}
    assert 60 not in chosen  # somebody else


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32)), min_size=1, max_size=30), st.integers(1, 5))
def test_core_faces_are_the_nearest(rows: list[tuple[int, float]], most: int) -> None:
    labels = np.array([label for label, _ in rows], np.int64)
    score = np.array([value for _, value in rows], np.float32)
    core = core_faces(labels, score, most)
    for label in set(labels.tolist()):
        mine = np.flatnonzero(labels == label)
        best = sorted(mine, key=lambda i: (-score[i], i))[:most]
        assert set(np.flatnonzero(core & (labels == label))) == set(best)
