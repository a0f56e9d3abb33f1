"""Corrections: what was said is true of every later grouping."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.contracts import I64, Bool, Verdict
from facelake.publish.corrections import Correction, apply, holds, in_force

_FACES = 24
subsets = st.sets(st.integers(0, _FACES - 1), min_size=1, max_size=8)
said = st.tuples(st.sampled_from([v for v in Verdict if v is not Verdict.UNDO]), subsets, subsets)


def _nearer(others: I64, a: I64, b: I64) -> Bool:
    return others % 2 == 1


def _one(seq: int, kind: Verdict, a: set[int], b: set[int]) -> Correction:
    sides = sorted(a - b), sorted(b)
    return Correction(seq, kind, *(np.array(side, np.int64) for side in sides))


@given(st.lists(st.integers(0, 5), min_size=_FACES, max_size=_FACES), st.lists(said, min_size=1, max_size=6))
def test_the_last_one_always_holds(labels: list[int], corrections: list[tuple[Verdict, set[int], set[int]]]) -> None:
    found = [_one(i, *one) for i, one in enumerate(corrections)]
    out, moved = apply(found, np.array(labels, np.int64), _nearer)
    assert holds(found[-1], out)
    assert sorted(set(out.tolist())) == list(range(out.max() + 1))
    assert moved[found[-1].b].all()


@given(st.lists(st.integers(0, 5), min_size=_FACES, max_size=_FACES), said)
def test_who_is_not_concerned_stays_with_whom_he_was(
    labels: list[int], one: tuple[Verdict, set[int], set[int]]
) -> None:
    before = np.array(labels, np.int64)
    correction = _one(0, *one)
    out, _ = apply([correction], before, _nearer)
    spoken = np.union1d(correction.a, correction.b)
    untouched = ~np.isin(before, before[spoken])
    for i in np.flatnonzero(untouched):
        assert ((before == before[i]) == (out == out[i])).all()


@given(st.lists(st.integers(0, 5), min_size=_FACES, max_size=_FACES), st.lists(said, min_size=1, max_size=4))
def test_applied_to_what_it_made_it_changes_nothing(
    labels: list[int], corrections: list[tuple[Verdict, set[int], set[int]]]
) -> None:
    found = [_one(i, *one) for i, one in enumerate(corrections)]
    out, _ = apply(found, np.array(labels, np.int64), _nearer)
    if all(holds(one, out) for one in found):
        again, _ = apply(found, out, _nearer)
        assert all(holds(one, again) for one in found)


def test_newcomers_go_to_the_nearer_side() -> None:
    labels = np.zeros(8, np.int64)
    one = Correction(1, Verdict.DISTINCT, np.array([0, 1]), np.array([2, 3]))
    out, _ = apply([one], labels, _nearer)
    assert out[[0, 1, 4, 6]].tolist() == [out[0]] * 4
    assert out[[2, 3, 5, 7]].tolist() == [out[2]] * 4
    assert out[0] != out[2]


def test_a_merge_takes_pieces_along_but_not_strangers() -> None:
    labels = np.array([0, 0, 1, 2, 2, 3, 3, 3, 3])  # A is 0 1 2, B is 3 4 5; 5 strayed to three others
    one = Correction(1, Verdict.MERGE, np.array([0, 1, 2]), np.array([3, 4, 5]))
    out, _ = apply([one], labels, _nearer)
    assert len(set(out[:5].tolist())) == 1
    assert set(out[5:].tolist()) == {out[5]} != {out[0]}


def test_undone_and_superseded_ones_do_not_count() -> None:
    rows = [
        {"seq": 1, "kind": "merge", "undoes": []},
        {"seq": 2, "kind": "split", "undoes": [1]},
        {"seq": 3, "kind": "reject", "undoes": None},
        {"seq": 4, "kind": "undo", "undoes": [3]},
    ]
    assert [row["seq"] for row in in_force(rows)] == [2]
