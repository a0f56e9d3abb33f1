"""What people said of faces and identities, made true of every later grouping. Pure.

A correction names faces, not groups: groups have no memory. It is kept with all faces of the identities that the
reviewer saw, and is applied to the groups of each night, full or not, in the order in which corrections were made:

    merge A B        the groups where A and B mostly are become one, with every group that is mostly made of them
    split A FACES    the faces leave the rest of A and are one group of their own
    reject FACE      the face is in no group with a face of the identity that it was in
    confirm A FACES  the faces are where A mostly is
    distinct A B     no group holds faces of both

Faces that came later and sit in a group that is taken apart go to the side that they are more alike to. Where two
corrections contradict each other the later one counts, and the other is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facelake.contracts import I64, Bool, Verdict

Nearer = Callable[[I64, I64, I64], Bool]
"""(others, side a, side b) as positions: which of the others (m,) are more alike to side b"""


@dataclass(frozen=True, slots=True)
class Correction:
    """One correction that counts, with its faces as positions among today's; faces that are gone are left out."""

    seq: int
    kind: Verdict
    a: I64
    b: I64


def in_force(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of the `corrections` table that count, oldest first: not undone, not superseded."""
    ordered = sorted(rows, key=lambda row: row["seq"])
    alive: dict[int, Mapping[str, Any]] = {}
    for row in ordered:
        for seq in row["undoes"] or ():
            alive.pop(seq, None)
        if row["kind"] != Verdict.UNDO:
            alive[row["seq"]] = row
    return list(alive.values())


def apply(corrections: Sequence[Correction], labels: I64, nearer: Nearer) -> tuple[I64, Bool]:
    """Labels (n,) 0.. without gaps as corrected, and which faces were moved."""
    out = labels.copy()
    for one in corrections:
        _APPLY[one.kind](out, one, nearer)
    moved = np.zeros(len(out), bool)
    for one in corrections:
        moved[one.b if one.kind is not Verdict.MERGE else np.concatenate([one.a, one.b])] = True
    return np.unique(out, return_inverse=True)[1].astype(np.int64), moved


def holds(one: Correction, labels: I64) -> bool:
    """Whether labels (n,) are as the correction says; one whose faces are gone holds."""
    if not len(one.a) or not len(one.b):
        return True
    if one.kind is Verdict.MERGE:
        return _main(labels, one.a) == _main(labels, one.b)
    if one.kind is Verdict.CONFIRM:
        return bool((labels[one.b] == _main(labels, one.a)).all())
    return not np.isin(labels[one.b], labels[one.a]).any()


def _main(labels: I64, faces: I64) -> int:
    """The label that most of the faces have; of equal ones the lowest."""
    values, counts = np.unique(labels[faces], return_counts=True)
    return int(values[np.argmax(counts)])


def _merge(labels: I64, one: Correction, nearer: Nearer) -> None:
    if not len(one.a) or not len(one.b):
        return
    values, counts = np.unique(labels[np.union1d(one.a, one.b)], return_counts=True)
    size = np.bincount(labels)[values]
    into = _main(labels, one.a)
    join = values[(2 * counts > size) | np.isin(values, [into, _main(labels, one.b)])]
    labels[np.isin(labels, join)] = into


def _apart(labels: I64, one: Correction, nearer: Nearer, target: int) -> None:
    """Take the faces b, and who is more like them, out of every group that has faces of a too, to the target."""
    shared = np.intersect1d(labels[one.a], labels[one.b])
    for label in shared:
        here = np.flatnonzero(labels == label)
        left, right = np.intersect1d(here, one.a), np.intersect1d(here, one.b)
        others = np.setdiff1d(here, np.union1d(left, right))
        labels[right] = target
        if len(others):
            labels[others[nearer(others, left, right)]] = target


def _split(labels: I64, one: Correction, nearer: Nearer) -> None:
    if not len(one.b):
        return
    target = _home(labels, one)
    _apart(labels, one, nearer, target)
    values, counts = np.unique(labels[one.b], return_counts=True)
    join = values[2 * counts > np.bincount(labels)[values]]
    labels[np.isin(labels, join)] = target
    labels[one.b] = target


def _distinct(labels: I64, one: Correction, nearer: Nearer) -> None:
    if len(one.a) and len(one.b):
        _apart(labels, one, nearer, _home(labels, one))


def _reject(labels: I64, one: Correction, nearer: Nearer) -> None:
    for face in one.b:
        if np.isin(labels[face], labels[one.a]).any():
            labels[face] = labels.max() + 1


def _confirm(labels: I64, one: Correction, nearer: Nearer) -> None:
    if len(one.a):
        labels[one.b] = _main(labels, one.a)


def _home(labels: I64, one: Correction) -> int:
    """The group of most of the faces b that has none of a; a new one if there is none."""
    free = one.b[~np.isin(labels[one.b], labels[one.a])]
    return _main(labels, free) if len(free) else int(labels.max()) + 1


_APPLY: dict[Verdict, Callable[[I64, Correction, Nearer], None]] = {
    Verdict.MERGE: _merge,
    Verdict.SPLIT: _split,
    Verdict.REJECT: _reject,
    Verdict.CONFIRM: _confirm,
    Verdict.DISTINCT: _distinct,
}
