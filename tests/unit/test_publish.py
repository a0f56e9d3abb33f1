"""Identity ids: optimal, stable, complete."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.contracts import Change
from facelake.publish import Published, Standing, match_groups, prototypes
from facelake.publish import publish_groups as publish_standing


def publish_groups(faces: list[str], groups: np.ndarray, before: dict[str, str], version: int) -> Published:
    rows = pa.table({"face_id": list(before), "identity_id": list(before.values())}) if before else None
    return publish_standing(Standing.of(pa.array(faces), groups.astype(np.int64), rows), version)


small = st.integers(1, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n), st.lists(st.integers(-1, 3), min_size=n, max_size=n)
    )
)


@given(small)
@settings(deadline=None)
def test_matching_keeps_as_many_faces_as_any(case: tuple[list[int], list[int]]) -> None:
    groups, identities = (np.array(v, np.int64) for v in case)
    matched = match_groups(groups, identities, 4, 4)
    used = matched[matched >= 0]
    assert len(set(used.tolist())) == len(used)
    kept = sum(matched[g] == i and i >= 0 for g, i in zip(*case, strict=True))
    best = max(sum(order[g] == i for g, i in zip(*case, strict=True)) for order in permutations(range(4)))
    assert kept == best


names = st.dictionaries(
    st.integers(0, 11).map("f{:02d}".format), st.sampled_from(["id-a", "id-b", "id-c"]), max_size=12
)


@given(st.lists(st.integers(0, 4), min_size=12, max_size=12), names)
@settings(deadline=None)
def test_changes_replay_to_the_new_gallery(labels: list[int], before: dict[str, str]) -> None:
    groups = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    faces = [f"f{i:02d}" for i in range(12)]
    result = publish_groups(faces, groups, before, 7)
    sizes = {name: list(before.values()).count(name) for name in before.values()}
    for event in result.changes:
        assert sizes.get(event.identity_id, 0) == event.size_before
        if event.size_after:
            sizes[event.identity_id] = event.size_after
        else:
            del sizes[event.identity_id]
    assert sizes == {name: int((groups == i).sum()) for i, name in enumerate(result.identity_of_group)}


def test_kinds() -> None:
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


def test_same_input_same_ids_and_no_change() -> None:
    faces, groups = list("abcd"), np.array([0, 1, 0, 2])
    first = publish_groups(faces, groups, {}, 1)
    assert first.identity_of_group == publish_groups(faces, groups, {}, 1).identity_of_group
    assert len(set(first.identity_of_group)) == 3
    before = {f: first.identity_of_group[g] for f, g in zip(faces, groups, strict=True)}
    again = publish_groups(faces, np.array([2, 0, 2, 1]), before, 2)
    assert again.changes == []
    assert [again.identity_of_group[g] for g in (2, 0, 2, 1)] == [before[f] for f in faces]


def test_prototype_is_the_weighted_mean() -> None:
    x = np.eye(3, dtype=np.float32)
    means = prototypes(x, np.array([3, 4, 1], np.float32), np.array([1, 1, 0]), 3)
    np.testing.assert_allclose(means, [[0, 0, 1], [0.6, 0.8, 0], [0, 0, 0]], atol=1e-6)
