"""Corrections by reviewers, applied to every later grouping.

A correction names faces and not groups, because group numbers change with every run. It is stored with all faces of the
identities that the reviewer saw:

    merge A B        the faces of A and B are together
    split A FACES    the faces are together, and apart from the rest of A
    reject FACE      the face is with no face of the identity that it was in
    confirm A FACES  the faces are where most of A is
    distinct A B     no group holds faces of both

A sixth kind, `not_a_face`, concerns a region of a photo and no group; embedding applies it.

Corrections are applied in two steps. First, `agreement` partitions the faces that any correction names so that every
correction holds, starting from the identities in which the faces were when they were corrected. Contradictions appear
in this step, and so already when a correction is recorded. The partition does not depend on a run. Second, `enforce`
adapts the groups of a run to the partition: faces that belong together are joined, along with the groups that mostly
consist of them, and a group that holds parts which a correction separates is split along them. Faces that no correction
names go to the side to which they are more similar.
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
from facelake.distinct import distinct, union

_ROUNDS = 8

Nearer = Callable[[I64, list[I64]], I64]
"""(others, sides) as face positions -> for each of the others (m,), the most similar side"""


@dataclass(frozen=True, slots=True)
class Correction:
    """A correction in force, with its faces as positions in the present face list; missing faces are left out."""

    seq: int
    kind: Verdict
    a: I64
    b: I64
    name_a: str = "a"
    """identity of the faces a when the correction was recorded"""
    name_b: str = "b"
    """identity of the faces b; unknown for a confirmation"""


def in_force(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of table `corrections` that are neither undone nor superseded, oldest first.

    What was undone counts as never given: the corrections that it had overruled are in force again.
    """
    ordered = sorted(rows, key=lambda row: row["seq"])
    cancelled: set[int] = set()
    for row in reversed(ordered):
        if row["seq"] not in cancelled:
            cancelled.update(row["undoes"] or ())
    return [row for row in ordered if row["seq"] not in cancelled and row["kind"] != Verdict.UNDO]


def holds(correction: Correction, labels: I64) -> bool:
    """Return whether labels (n,) satisfy a correction; one without remaining faces is satisfied.

    Later corrections may take faces out of a merge: it is satisfied if most of A is where most of B is.
    """
    if not len(correction.a) or not len(correction.b):
        return True
    if correction.kind is Verdict.MERGE:
        return _main(labels, correction.a) == _main(labels, correction.b)
    if correction.kind is Verdict.CONFIRM:
        return bool((labels[correction.b] == _main(labels, correction.a)).all())
    return not np.isin(labels[correction.b], labels[correction.a]).any()


# ---- agreement


def agreement(corrections: Sequence[Correction], count: int) -> I64:
    """Return a part (count,) for each face that a correction names, -1 for other faces, so that corrections hold.

    Of corrections that contradict each other, the later ones hold.
    """
    numbers: dict[str, int] = {}
    labels = np.full(count, -1, np.int64)
    for correction in corrections:
        labels[correction.a] = numbers.setdefault(correction.name_a, len(numbers))
        if correction.kind in (Verdict.MERGE, Verdict.DISTINCT):
            labels[correction.b] = numbers.setdefault(correction.name_b, len(numbers))
        elif correction.kind is not Verdict.CONFIRM:
            labels[correction.b] = numbers.setdefault(correction.name_a, len(numbers))
    named = np.zeros(count, bool)
    for correction in corrections:
        named[correction.a] = named[correction.b] = True
    without_part = np.flatnonzero(named & (labels < 0))
    labels[without_part] = len(numbers) + np.arange(len(without_part))
    violated = list(corrections)
    for _ in range(_ROUNDS):  # applying one correction may break another one, although both can hold
        for correction in violated:
            _APPLY[correction.kind](labels, correction)
        violated = [correction for correction in corrections if not holds(correction, labels)]
        if not violated:
            return labels
    for correction in corrections:
        _APPLY[correction.kind](labels, correction)
    return labels


def _main(labels: I64, faces: I64) -> int:
    """Return the most frequent label of the faces; ties go to the label of the earliest face."""
    values, first, counts = np.unique(labels[faces], return_index=True, return_counts=True)
    return int(values[np.lexsort((first, -counts))[0]])


def _merge(labels: I64, correction: Correction) -> None:
    if len(correction.a) and len(correction.b):
        into, other = _main(labels, correction.a), _main(labels, correction.b)
        labels[labels == other] = into


def _target_part(labels: I64, correction: Correction) -> int:
    """Return the most frequent part of faces b among the parts without faces a; a new part if there is none."""
    free = correction.b[~np.isin(labels[correction.b], labels[correction.a])]
    return _main(labels, free) if len(free) else int(labels.max()) + 1


def _split(labels: I64, correction: Correction) -> None:
    if len(correction.b):
        labels[correction.b] = _target_part(labels, correction)


def _distinct(labels: I64, correction: Correction) -> None:
    if len(correction.a) and len(correction.b):
        target = _target_part(labels, correction)
        labels[correction.b[np.isin(labels[correction.b], labels[correction.a])]] = target


def _reject(labels: I64, correction: Correction) -> None:
    for face in correction.b:
        if np.isin(labels[face], labels[correction.a]).any():
            labels[face] = labels.max() + 1


def _confirm(labels: I64, correction: Correction) -> None:
    if len(correction.a):
        labels[correction.b] = _main(labels, correction.a)


_APPLY: dict[Verdict, Callable[[I64, Correction], None]] = {
    Verdict.MERGE: _merge,
    Verdict.SPLIT: _split,
    Verdict.REJECT: _reject,
    Verdict.CONFIRM: _confirm,
    Verdict.DISTINCT: _distinct,
}


# ---- the groups of a run


def met(correction: Correction, parts: I64, labels: I64) -> bool:
    """Return whether a run's labels (n,) satisfy a correction, for the faces that it still joins in the agreement."""
    if correction.kind in (Verdict.MERGE, Verdict.CONFIRM):
        return len(distinct(labels[_bound_faces(correction, parts)])) <= 1
    return not np.isin(labels[correction.b], labels[correction.a]).any()


def enforce(corrections: Sequence[Correction], parts: I64, labels: I64, nearer: Nearer) -> tuple[I64, Bool]:
    """Return labels (n,) 0.. without gaps that agree with the parts, and the faces (n,) that a correction placed.

    Args:
        corrections: the corrections in force.
        parts: (n,) their agreement.
        labels: (n,) the groups of a run.
        nearer: compares faces with the sides of a group that is split.
    """
    out = labels.copy()
    moved = np.zeros(len(out), bool)
    for faces in _joined_sets(corrections, parts):
        values, counts = np.unique(out[faces], return_counts=True)
        into = int(values[np.argmax(counts)])
        size = np.bincount(out)[values]
        out[np.isin(out, values[2 * counts > size])] = into
        out[faces] = into
        moved[faces] = True
    separated = _separated_parts(corrections, parts)
    for label in _violating_labels(out, parts, separated):
        members = np.flatnonzero(out == label)
        sides = _sides(members, parts, separated)
        others = members[~np.isin(members, np.concatenate(sides))]
        side_of = nearer(others, sides) if len(others) else np.zeros(0, np.int64)
        for number, side in enumerate(sides):
            if number:
                target = int(out.max()) + 1
                out[side] = target
                out[others[side_of == number]] = target
            moved[side] = True
    return np.unique(out, return_inverse=True)[1].astype(np.int64), moved


def _joined_sets(corrections: Sequence[Correction], parts: I64) -> list[I64]:
    """Return disjoint sets of faces that must be together."""
    sets = []
    for correction in corrections:
        if len(bound := _bound_faces(correction, parts)):
            sets.append(bound)
    if not sets:
        return []
    faces, at = np.unique(np.concatenate(sets), return_inverse=True)
    owner = np.repeat(np.arange(len(sets)), [len(item) for item in sets])
    shape = (len(sets) + len(faces),) * 2
    _, component = connected_components(coo_matrix((np.ones(len(at)), (owner, len(sets) + at)), shape), directed=False)
    of_face = component[len(sets) :]
    return [faces[of_face == number] for number in distinct(of_face)]


def _bound_faces(correction: Correction, parts: I64) -> I64:
    """Return the faces that a correction joins, without those that later corrections took out."""
    if correction.kind in (Verdict.MERGE, Verdict.CONFIRM) and len(correction.a) and len(correction.b):
        both = union(correction.a, correction.b)
        return np.asarray(both[parts[both] == _main(parts, correction.a)], np.int64)
    if correction.kind is Verdict.SPLIT and len(correction.b):
        return np.asarray(correction.b[parts[correction.b] == _main(parts, correction.b)], np.int64)
    return np.zeros(0, np.int64)


def _separated_parts(corrections: Sequence[Correction], parts: I64) -> dict[int, set[int]]:
    """Return, for each part, the parts from which a correction separates it."""
    separated: dict[int, set[int]] = defaultdict(set)
    for correction in corrections:
        if correction.kind in (Verdict.SPLIT, Verdict.REJECT, Verdict.DISTINCT):
            for a in distinct(parts[correction.a]).tolist():
                for b in distinct(parts[correction.b]).tolist():
                    if a != b:
                        separated[a].add(b)
                        separated[b].add(a)
    return separated


def _violating_labels(labels: I64, parts: I64, separated: Mapping[int, set[int]]) -> list[int]:
    """Return the labels, ascending, that hold two parts which a correction separates."""
    named = np.flatnonzero(np.isin(parts, np.array(sorted(separated), np.int64)))
    parts_of: dict[int, set[int]] = defaultdict(set)
    for label, part in np.unique(np.stack([labels[named], parts[named]], axis=1), axis=0).tolist():
        parts_of[label].add(part)
    return sorted(label for label, members in parts_of.items() if any(separated[part] & members for part in members))


def _sides(members: I64, parts: I64, separated: Mapping[int, set[int]]) -> list[I64]:
    """Distribute the parts in a group over sides without a contradiction, the largest part first."""
    values, counts = np.unique(parts[members][parts[members] >= 0], return_counts=True)
    sides: list[list[int]] = []
    for part in values[np.lexsort((values, -counts))].tolist():
        compatible = next((side for side in sides if not separated.get(part, set()) & set(side)), None)
        if compatible is None:
            sides.append([part])
        else:
            compatible.append(part)
    return [members[np.isin(parts[members], side)] for side in sides]
