"""Corrections: what was said is true of every later grouping."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.contracts import I64, Verdict
from facelake.publish.corrections import Correction, agreement, enforce, holds, in_force, met

_FACES = 24
subsets = st.sets(st.integers(0, _FACES - 1), min_size=1, max_size=8)
said = st.tuples(st.sampled_from([v for v in Verdict if v is not Verdict.UNDO]), subsets, subsets)


def _nearer(others: I64, sides: list[I64]) -> I64:
    return others % len(sides)


def _one(seq: int, kind: Verdict, a: set[int], b: set[int], names: tuple[str, str] = ("", "")) -> Correction:
    sides = sorted(a - b), sorted(b)
    return Correction(seq, kind, *(np.array(side, np.int64) for side in sides), *names)


def accepted(corrections: list[tuple[Verdict, set[int], set[int]]]) -> list[Correction]:
    """Those that can be met together with what was accepted before, as they are recorded."""
    found: list[Correction] = []
    for i, one in enumerate(corrections):
        more = [*found, _one(i, *one, (f"{i}-a", f"{i}-b"))]
        parts = agreement(more, _FACES)
        if all(holds(each, parts) for each in more):
            found = more
    return found


nights = st.lists(st.integers(0, 5), min_size=_FACES, max_size=_FACES)


@given(nights, st.lists(said, min_size=1, max_size=6))
def test_what_was_accepted_holds_in_any_grouping(
    labels: list[int], corrections: list[tuple[Verdict, set[int], set[int]]]
) -> None:
    found = accepted(corrections)
    parts = agreement(found, _FACES)
    out, moved = enforce(found, parts, np.array(labels, np.int64), _nearer)
    assert all(met(one, parts, out) for one in found)
    assert sorted(set(out.tolist())) == list(range(out.max() + 1))
    assert not moved[parts < 0].any()
    again, _ = enforce(found, parts, out, _nearer)
    assert (again == out).all()


@given(st.lists(said, min_size=1, max_size=6))
def test_the_last_one_counts(corrections: list[tuple[Verdict, set[int], set[int]]]) -> None:
    found = [_one(i, *one, (f"{i}-a", f"{i}-b")) for i, one in enumerate(corrections)]
    assert holds(found[-1], agreement(found, _FACES))


@given(nights, said)
def test_who_is_not_concerned_stays_with_whom_he_was(
    labels: list[int], one: tuple[Verdict, set[int], set[int]]
) -> None:
    before = np.array(labels, np.int64)
    correction = _one(0, *one, ("a", "b"))
    out, _ = enforce([correction], agreement([correction], _FACES), before, _nearer)
    spoken = np.union1d(correction.a, correction.b)
    untouched = ~np.isin(before, before[spoken])
    for i in np.flatnonzero(untouched):
        assert ((before == before[i]) == (out == out[i])).all()


def test_newcomers_go_to_the_nearer_side() -> None:
    labels = np.zeros(8, np.int64)
    one = Correction(1, Verdict.DISTINCT, np.array([0, 1]), np.array([2, 3]))
    out, _ = enforce([one], agreement([one], 8), labels, _nearer)
    assert out[[0, 1, 4, 6]].tolist() == [out[0]] * 4
    assert out[[2, 3, 5, 7]].tolist() == [out[2]] * 4
    assert out[0] != out[2]


def test_a_merge_takes_pieces_along_but_not_strangers() -> None:
    labels = np.array([0, 0, 1, 2, 2, 3, 3, 3, 3])  # A is 0 1 2, B is 3 4 5; 5 strayed to three others
    one = Correction(1, Verdict.MERGE, np.array([0, 1, 2]), np.array([3, 4, 5]))
    out, _ = enforce([one], agreement([one], 9), labels, _nearer)
    assert len(set(out[:6].tolist())) == 1
    assert set(out[6:].tolist()) == {out[6]} != {out[0]}


def test_what_follows_from_two_corrections_is_kept_apart() -> None:
    # A and B are one, B and D are two: a night that fuses A with D must part them though nobody said so of these two
    merge = Correction(1, Verdict.MERGE, np.array([0, 1]), np.array([2, 3]), "A", "B")
    distinct = Correction(2, Verdict.DISTINCT, np.array([2, 3]), np.array([4, 5]), "B", "D")
    said_ = [merge, distinct]
    out, _ = enforce(said_, agreement(said_, 6), np.array([0, 0, 1, 1, 0, 0]), _nearer)
    assert out.tolist() == [out[0]] * 4 + [out[4]] * 2
    assert out[0] != out[4]


def test_undone_and_superseded_ones_do_not_count() -> None:
    rows = [
        {"seq": 1, "kind": "merge", "undoes": []},
        {"seq": 2, "kind": "split", "undoes": [1]},
        {"seq": 3, "kind": "reject", "undoes": None},
        {"seq": 4, "kind": "undo", "undoes": [3]},
    ]
    assert [row["seq"] for row in in_force(rows)] == [2]
