"""Corrections hold in every later grouping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.contracts import I64, Verdict
from facelake.publish.corrections import Correction, agreement, enforce, holds, in_force, met

_FACES = 24
subsets = st.sets(st.integers(0, _FACES - 1), min_size=1, max_size=8)
group_verdicts = [v for v in Verdict if v not in (Verdict.UNDO, Verdict.NOT_A_FACE)]  # those that concern groups
verdicts = st.tuples(st.sampled_from(group_verdicts), subsets, subsets)


def _nearer(others: I64, sides: list[I64]) -> I64:
    return others % len(sides)


def _correction(seq: int, kind: Verdict, a: set[int], b: set[int], names: tuple[str, str] = ("", "")) -> Correction:
    sides = sorted(a - b), sorted(b)
    return Correction(seq, kind, *(np.array(side, np.int64) for side in sides), *names)


def accepted(corrections: list[tuple[Verdict, set[int], set[int]]]) -> list[Correction]:
    """Return the corrections that do not contradict those accepted before them, as recording does."""
    result: list[Correction] = []
    for i, fields in enumerate(corrections):
        extended = [*result, _correction(i, *fields, (f"{i}-a", f"{i}-b"))]
        parts = agreement(extended, _FACES)
        if all(holds(correction, parts) for correction in extended):
            result = extended
    return result


groupings = st.lists(st.integers(0, 5), min_size=_FACES, max_size=_FACES)


@given(groupings, st.lists(verdicts, min_size=1, max_size=6))
def test_accepted_corrections_hold_in_any_grouping(
    labels: list[int], corrections: list[tuple[Verdict, set[int], set[int]]]
) -> None:
    in_effect = accepted(corrections)
    parts = agreement(in_effect, _FACES)
    out, moved = enforce(in_effect, parts, np.array(labels, np.int64), _nearer)
    assert all(met(correction, parts, out) for correction in in_effect)
    assert sorted(set(out.tolist())) == list(range(out.max() + 1))
    assert not moved[parts < 0].any()
    again, _ = enforce(in_effect, parts, out, _nearer)
    assert (again == out).all()


@given(st.lists(verdicts, min_size=1, max_size=6))
def test_the_last_correction_always_holds(corrections: list[tuple[Verdict, set[int], set[int]]]) -> None:
    recorded = [_correction(i, *fields, (f"{i}-a", f"{i}-b")) for i, fields in enumerate(corrections)]
    assert holds(recorded[-1], agreement(recorded, _FACES))


@given(groupings, verdicts)
def test_groups_without_named_faces_do_not_change(
    labels: list[int], fields: tuple[Verdict, set[int], set[int]]
) -> None:
    before = np.array(labels, np.int64)
    correction = _correction(0, *fields, ("a", "b"))
    out, _ = enforce([correction], agreement([correction], _FACES), before, _nearer)
    named = np.union1d(correction.a, correction.b)
    untouched = ~np.isin(before, before[named])
    for i in np.flatnonzero(untouched):
        assert ((before == before[i]) == (out == out[i])).all()


def test_unnamed_faces_go_to_the_nearer_side() -> None:
    labels = np.zeros(8, np.int64)
    correction = Correction(1, Verdict.DISTINCT, np.array([0, 1]), np.array([2, 3]))
    out, _ = enforce([correction], agreement([correction], 8), labels, _nearer)
    assert out[[0, 1, 4, 6]].tolist() == [out[0]] * 4
    assert out[[2, 3, 5, 7]].tolist() == [out[2]] * 4
    assert out[0] != out[2]


def test_a_merge_includes_fragments_but_no_other_people() -> None:
    labels = np.array([0, 0, 1, 2, 2, 3, 3, 3, 3])  # A is 0 1 2, B is 3 4 5; 5 is in a group with three others
    correction = Correction(1, Verdict.MERGE, np.array([0, 1, 2]), np.array([3, 4, 5]))
    out, _ = enforce([correction], agreement([correction], 9), labels, _nearer)
    assert len(set(out[:6].tolist())) == 1
    assert set(out[6:].tolist()) == {out[6]} != {out[0]}


def test_an_implied_separation_is_enforced() -> None:
    # A and B are one person, B and D are two: a run that joins A and D must be corrected, though no correction names both
    merge = Correction(1, Verdict.MERGE, np.array([0, 1]), np.array([2, 3]), "A", "B")
    distinct = Correction(2, Verdict.DISTINCT, np.array([2, 3]), np.array([4, 5]), "B", "D")
    corrections = [merge, distinct]
    out, _ = enforce(corrections, agreement(corrections, 6), np.array([0, 0, 1, 1, 0, 0]), _nearer)
    assert out.tolist() == [out[0]] * 4 + [out[4]] * 2
    assert out[0] != out[4]


def test_undone_and_superseded_corrections_are_not_in_force() -> None:
    rows = [
        {"seq": 1, "kind": "merge", "undoes": []},
        {"seq": 2, "kind": "split", "undoes": [1]},
        {"seq": 3, "kind": "reject", "undoes": None},
        {"seq": 4, "kind": "undo", "undoes": [3]},
    ]
    assert [row["seq"] for row in in_force(rows)] == [2]


@pytest.mark.parametrize(
    ("undoes", "active"),
    [
        ([[], [1]], [2]),
        ([[], [1], [2]], [1]),  # the undo of what overruled it
        ([[], [1], [2], [1]], [4]),
        ([[], [1], [2], [1], [4]], [1]),
        ([[], [1], [], [3]], [2]),
    ],
)
def test_an_overruled_correction_returns_when_what_overruled_it_is_undone(
    undoes: list[list[int]], active: list[int]
) -> None:
    """Corrections 1, 2 and so on; those from the third on are undos, except one that overrules correction 1."""
    undone = [False, False, *(targets != [1] and bool(targets) for targets in undoes[2:])]
    rows = [
        {"seq": number, "kind": Verdict.UNDO if undo else Verdict.SPLIT, "undoes": targets}
        for number, (targets, undo) in enumerate(zip(undoes, undone, strict=True), start=1)
    ]
    assert [row["seq"] for row in in_force(rows)] == active
