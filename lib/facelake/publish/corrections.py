"""What people said of faces and identities, made true of every later grouping. Pure.

A correction names faces, not groups: groups have no memory. It is kept with all faces of the identities that the
reviewer saw:

    merge A B        the faces of A and B are together
    split A FACES    the faces are together, and apart from the rest of A
    reject FACE      the face is with no face of the identity that it was in
    confirm A FACES  the faces are where A mostly is
    distinct A B     no group holds faces of both

Corrections are met in two steps. First, among the faces that were ever spoken of, from the identities in which they
were last seen, a partition is made in which every correction holds (`agreement`); one that cannot be met with the
others is found then, which is when it is recorded. That partition does not depend on any night. Then a night's groups
are brought to it (`enforce`): faces that belong together are gathered, with the groups that are mostly made of them;
and a group that holds parts between which something was said is taken apart along them. Faces that nobody spoke of go
to the side that they are more alike to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facelake.contracts import I64, Bool, Verdict

_ROUNDS = 8

Nearer = Callable[[I64, list[I64]], I64]
"""(others, sides) as positions: which of the sides each of the others (m,) is most alike to"""


@dataclass(frozen=True, slots=True)
class Correction:
    """One correction that counts, with its faces as positions among today's; faces that are gone are left out."""

    seq: int
    kind: Verdict
    a: I64
    b: I64
    name_a: str = "a"
    """the identity in which faces a were"""
    name_b: str = "b"
    """the one in which faces b were; of a confirm unknown"""


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


def holds(one: Correction, labels: I64) -> bool:
    """Whether labels (n,) are as the correction says; one whose faces are gone holds.

    Of a merge, later corrections may have taken faces out: it holds when most of A is where most of B is.
    """
    if not len(one.a) or not len(one.b):
        return True
    if one.kind is Verdict.MERGE:
        return _main(labels, one.a) == _main(labels, one.b)
    if one.kind is Verdict.CONFIRM:
        return bool((labels[one.b] == _main(labels, one.a)).all())
    return not np.isin(labels[one.b], labels[one.a]).any()


# ---- agreement


def agreement(corrections: Sequence[Correction], count: int) -> I64:
    """A part (count,) for each face spoken of, -1 for others, so that corrections hold.

    Of those that contradict each other the later ones do.
    """
    seen: dict[str, int] = {}
    labels = np.full(count, -1, np.int64)
    for one in corrections:
        labels[one.a] = seen.setdefault(one.name_a, len(seen))
        if one.kind in (Verdict.MERGE, Verdict.DISTINCT):
            labels[one.b] = seen.setdefault(one.name_b, len(seen))
        elif one.kind is not Verdict.CONFIRM:
            labels[one.b] = seen.setdefault(one.name_a, len(seen))
    spoken = np.zeros(count, bool)
    for one in corrections:
        spoken[one.a] = spoken[one.b] = True
    lone = np.flatnonzero(spoken & (labels < 0))
    labels[lone] = len(seen) + np.arange(len(lone))
    todo = list(corrections)
    for _ in range(_ROUNDS):  # a later one may undo what an earlier one did, though both can be met
        for one in todo:
            _APPLY[one.kind](labels, one)
        todo = [one for one in corrections if not holds(one, labels)]
        if not todo:
            return labels
    for one in corrections:
        _APPLY[one.kind](labels, one)
    return labels


def _main(labels: I64, faces: I64) -> int:
    """The label that most of the faces have; of equal ones that of the first face, whatever labels are called."""
    values, first, counts = np.unique(labels[faces], return_index=True, return_counts=True)
    return int(values[np.lexsort((first, -counts))[0]])


def _merge(labels: I64, one: Correction) -> None:
    if len(one.a) and len(one.b):
        into, other = _main(labels, one.a), _main(labels, one.b)
        labels[labels == other] = into


def _home(labels: I64, one: Correction) -> int:
    """The part of most of the faces b that has none of a; a new one if there is none."""
    free = one.b[~np.isin(labels[one.b], labels[one.a])]
    return _main(labels, free) if len(free) else int(labels.max()) + 1


def _split(labels: I64, one: Correction) -> None:
    if len(one.b):
        labels[one.b] = _home(labels, one)


def _distinct(labels: I64, one: Correction) -> None:
    if len(one.a) and len(one.b):
        target = _home(labels, one)
        labels[one.b[np.isin(labels[one.b], labels[one.a])]] = target


def _reject(labels: I64, one: Correction) -> None:
    for face in one.b:
        if np.isin(labels[face], labels[one.a]).any():
            labels[face] = labels.max() + 1


def _confirm(labels: I64, one: Correction) -> None:
    if len(one.a):
        labels[one.b] = _main(labels, one.a)


_APPLY: dict[Verdict, Callable[[I64, Correction], None]] = {
    Verdict.MERGE: _merge,
    Verdict.SPLIT: _split,
    Verdict.REJECT: _reject,
    Verdict.CONFIRM: _confirm,
    Verdict.DISTINCT: _distinct,
}


# ---- a night's groups


def met(one: Correction, parts: I64, labels: I64) -> bool:
    """Whether a night's labels (n,) are as the correction says, of the faces that are bound by it in the agreement."""
    if one.kind in (Verdict.MERGE, Verdict.CONFIRM):
        return len(np.unique(labels[_bound(one, parts)])) <= 1
    return not np.isin(labels[one.b], labels[one.a]).any()


def enforce(corrections: Sequence[Correction], parts: I64, labels: I64, nearer: Nearer) -> tuple[I64, Bool]:
    """Labels (n,) 0.. without gaps that agree with the parts, and the faces that were put where they are by them.

    Args:
        parts: (n,) the agreement.
    """
    out = labels.copy()
    moved = np.zeros(len(out), bool)
    for faces in _together(corrections, parts):
        values, counts = np.unique(out[faces], return_counts=True)
        into = int(values[np.argmax(counts)])
        size = np.bincount(out)[values]
        out[np.isin(out, values[2 * counts > size])] = into
        out[faces] = into
        moved[faces] = True
    apart = _said_apart(corrections, parts)
    for label in _mixed(out, parts, apart):
        here = np.flatnonzero(out == label)
        sides = _sides(here, parts, apart)
        others = here[~np.isin(here, np.concatenate(sides))]
        side_of = nearer(others, sides) if len(others) else np.zeros(0, np.int64)
        for number, side in enumerate(sides):
            if number:
                target = int(out.max()) + 1
                out[side] = target
                out[others[side_of == number]] = target
            moved[side] = True
    return np.unique(out, return_inverse=True)[1].astype(np.int64), moved


def _together(corrections: Sequence[Correction], parts: I64) -> list[I64]:
    """Sets of faces that must be together, none of which shares a face with another one."""
    sets = []
    for one in corrections:
        if len(bound := _bound(one, parts)):
            sets.append(bound)
    if not sets:
        return []
    faces, at = np.unique(np.concatenate(sets), return_inverse=True)
    owner = np.repeat(np.arange(len(sets)), [len(item) for item in sets])
    shape = (len(sets) + len(faces),) * 2
    _, component = connected_components(coo_matrix((np.ones(len(at)), (owner, len(sets) + at)), shape), directed=False)
    of_face = component[len(sets) :]
    return [faces[of_face == number] for number in np.unique(of_face)]


def _bound(one: Correction, parts: I64) -> I64:
    """The faces that a correction wants together, as far as later ones left them so."""
    if one.kind in (Verdict.MERGE, Verdict.CONFIRM) and len(one.a) and len(one.b):
        both = np.union1d(one.a, one.b)
        return np.asarray(both[parts[both] == _main(parts, one.a)], np.int64)
    if one.kind is Verdict.SPLIT and len(one.b):
        return np.asarray(one.b[parts[one.b] == _main(parts, one.b)], np.int64)
    return np.zeros(0, np.int64)


def _said_apart(corrections: Sequence[Correction], parts: I64) -> dict[int, set[int]]:
    """Parts between which something was said, both ways."""
    found: dict[int, set[int]] = defaultdict(set)
    for one in corrections:
        if one.kind in (Verdict.SPLIT, Verdict.REJECT, Verdict.DISTINCT):
            left, right = np.unique(parts[one.a]).tolist(), np.unique(parts[one.b]).tolist()
            for a in left:
                for b in right:
                    if a != b:
                        found[a].add(b)
                        found[b].add(a)
    return found


def _mixed(labels: I64, parts: I64, apart: Mapping[int, set[int]]) -> list[int]:
    """Labels that hold two parts between which something was said, ascending."""
    spoken = np.flatnonzero(np.isin(parts, np.array(sorted(apart), np.int64)))
    held: dict[int, set[int]] = defaultdict(set)
    for label, part in np.unique(np.stack([labels[spoken], parts[spoken]], axis=1), axis=0).tolist():
        held[label].add(part)
    return sorted(label for label, inside in held.items() if any(apart[part] & inside for part in inside))


def _sides(here: I64, parts: I64, apart: Mapping[int, set[int]]) -> list[I64]:
    """The spoken faces of a group in sides without contradiction, the largest first; parts are not torn."""
    values, counts = np.unique(parts[here][parts[here] >= 0], return_counts=True)
    sides: list[list[int]] = []
    for part in values[np.lexsort((values, -counts))].tolist():
        free = next((side for side in sides if not apart.get(part, set()) & set(side)), None)
        if free is None:
            sides.append([part])
        else:
            free.append(part)
    return [here[np.isin(parts[here], side)] for side in sides]
