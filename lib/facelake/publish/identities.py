"""Identity ids, and the changes that lead from one gallery version to the next.

Every face is in a group now; in the previous version it was in an identity, or it is new. An identity is one of:

    unchanged    the same faces (no change is recorded)
    grew, shrank, changed    more faces, fewer faces, as many but other faces
    created      a group of faces of which none was in an identity
    merged       its faces went to a group that keeps another identity's id: a tombstone that points to the winner
    split        a part of an identity whose id stayed with another part: a new id that names its parent
    retired      none of its faces is left
    resurrected  the faces of a tombstone form a group again: the old id returns
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np

from facelake.contracts import I64, Bool, Change
from facelake.publish.matching import Overlaps, match_groups, overlaps


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """One identity's change between two versions.

    Attributes:
        kind: what happened.
        identity_id: the identity that changed.
        other_id: merged: the winner; split or resurrected: the identity that held most of the faces before.
        size_before: faces in the previous version.
        size_after: faces in the new version: those before, and `new` and `moved_in`, without `gone` and `moved_out`.
        new: faces that were in no identity before.
        gone: faces that are no longer grouped: their photos left the corpus or may no longer be used.
        moved_in: faces that were in other identities.
        moved_out: faces that are in other identities now.
    """

    kind: Change
    identity_id: str
    other_id: str | None
    size_before: int
    size_after: int
    new: int
    gone: int
    moved_in: int
    moved_out: int


class Changes(Sequence[ChangeEvent]):
    """Change events as columns: a first version has one per identity, too many for an object each.

    Attributes:
        columns: the values of each field of the events, by its name.
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {field.name: [] for field in fields(ChangeEvent)}

    def add(self, event: ChangeEvent) -> None:
        """Append an event."""
        for name, values in self.columns.items():
            values.append(getattr(event, name))

    def counts(self) -> Counter[Change]:
        """Return the number of events of each kind."""
        return Counter(self.columns["kind"])

    def __len__(self) -> int:
        return len(self.columns["kind"])

    @overload
    def __getitem__(self, at: int) -> ChangeEvent: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[ChangeEvent]: ...
    def __getitem__(self, at: int | slice) -> ChangeEvent | Sequence[ChangeEvent]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return ChangeEvent(*(values[at] for values in self.columns.values()))

    def __iter__(self) -> Iterator[ChangeEvent]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, slots=True)
class Standing:
    """Every face with its group now and its identity in the previous version.

    Attributes:
        groups: (n,) group of each face, 0.. without gaps.
        first: (groups,) the lowest key of the faces of each group; new ids derive from it.
        previous: (n,) position in `names` of the face's previous identity, or -1.
        core: (n,) whether the face was a core face of its previous identity.
        former: (n,) position in `tombstones` of the tombstone that the face would bring back, or -1.
        names: ids of the previous identities, ascending.
        sizes: (names,) their numbers of faces.
        own: (names,) those of them that no merge brought in.
        since: (names,) gallery versions that created them.
        tombstones: ids of merged and retired identities, ascending.
        cores: (tombstones,) faces of the core that a retired identity left: its other faces are not known any more; 0
            for a merged one, whose faces all are.
    """

    groups: I64
    first: I64
    previous: I64
    core: Bool
    former: I64
    names: list[str]
    sizes: I64
    own: I64
    since: I64
    tombstones: list[str]
    cores: I64


@dataclass(frozen=True, slots=True)
class Published:
    """The identities of a new version.

    Attributes:
        identity_of_group: (groups,) identity id of each group.
        changed: (groups,) whether the group's identity is new or has other faces than before.
        changes: every event.
        merged_into: the winner of each merged identity.
        retired: identities that lost all faces.
        came_back: tombstones whose id is in use again.
    """

    identity_of_group: list[str]
    changed: Bool
    changes: Changes
    merged_into: dict[str, str]
    retired: list[str]
    came_back: list[str]


def new_identity_id(version: int, first_face: int) -> str:
    """Return an opaque id that was never used: it derives from the version that creates it and a face that it holds."""
    digest = hashlib.blake2b(f"{version}\0{first_face}".encode(), digest_size=10).digest()
    return "id-" + base64.b32encode(digest).decode().lower()


def first_keys(groups: I64, keys: I64, count: int) -> I64:
    """Return the lowest key (count,) of each group; keys (n,) are ascending."""
    first = np.full(count, -1, np.int64)
    first[groups[::-1]] = keys[::-1]  # of several assignments to one group the last one stays: the lowest key
    return first


def publish_groups(standing: Standing, version: int) -> Published:
    """Give each group an identity id.

    A group takes over the identity with which it shares faces, one to one, by largest total overlap (matching.py). If
    a group takes over none, the id of a tombstone may return to it. Faces that a merge brought into an identity do not
    take over its id once most of its own faces are gone: the merge may be wrong, and an id stays with its person.

    Args:
        standing: every face's group and previous identity.
        version: number of the gallery version that is made.
    """
    count = len(standing.first)
    matched, previous = _match(standing, count)
    sizes = np.bincount(standing.groups, minlength=count)
    returning = _returning_tombstones(standing, matched, sizes)
    identity = [
        standing.names[matched[group]]
        if matched[group] >= 0
        else standing.tombstones[returning[group]]
        if group in returning
        else new_identity_id(version, int(standing.first[group]))
        for group in range(count)
    ]
    shared = overlaps(standing.groups, standing.previous)
    remaining = np.bincount(shared.identity, shared.faces, len(standing.names)).astype(np.int64)
    changes, changed = _group_changes(standing, matched, identity, sizes, returning, shared, remaining)
    continued = shared if previous is standing.previous else overlaps(standing.groups, previous)
    merged = _merged(standing, matched, identity, continued)
    taken, still_present = set(matched[matched >= 0].tolist()), set(continued.identity.tolist())
    retired = [name for old, name in enumerate(standing.names) if old not in taken and old not in still_present]
    number = {name: old for old, name in enumerate(standing.names)} if merged or retired else {}
    ended = [(Change.MERGED, old, winner) for old, winner in sorted(merged.items())]
    for kind, old, other in [*ended, *((Change.RETIRED, old, None) for old in retired)]:
        size, left = int(standing.sizes[number[old]]), int(remaining[number[old]])
        changes.add(ChangeEvent(kind, old, other, size, 0, new=0, gone=size - left, moved_in=0, moved_out=left))
    came_back = [standing.tombstones[tombstone] for tombstone in returning.values()]
    return Published(identity, changed, changes, merged, retired, came_back)


def _match(standing: Standing, count: int) -> tuple[I64, I64]:
    """Match groups to previous identities.

    Returns:
        (groups,) the previous identity that each group takes over, or -1; (n,) the previous identity of each face, -1
        also where its group is mostly of one tombstone and lacks most of the identity's own faces.
    """
    brought = standing.former >= 0

    def match(previous: I64) -> I64:
        names = len(standing.names)
        return match_groups(standing.groups, previous, count, names, standing.core, brought, standing.since)

    matched = match(standing.previous)
    if not brought.any():
        return matched, standing.previous
    of_tombstone = overlaps(standing.groups[brought], standing.former[brought])
    most = np.zeros(count, np.int64)
    np.maximum.at(most, of_tombstone.group, of_tombstone.faces)
    stays = ~brought & (standing.previous == matched[standing.groups])
    own_left = np.bincount(standing.groups[stays], minlength=count)
    own = np.append(standing.own, 0)[matched]
    foreign = (matched >= 0) & (2 * most > np.bincount(standing.groups, minlength=count))
    foreign &= (2 * own_left < own) | (own_left == 0)
    if not foreign.any():
        return matched, standing.previous
    leaves = foreign[standing.groups] & (standing.previous == matched[standing.groups])
    previous = np.where(leaves, -1, standing.previous)
    return match(previous), previous


def _returning_tombstones(standing: Standing, matched: I64, sizes: I64) -> dict[int, int]:
    """Return, by group without an identity, the position of the tombstone whose id returns.

    That is a merged identity from which most of the group's faces come, or a retired one of which most of the core is
    in the group.
    """
    claims = (standing.former >= 0) & (matched[standing.groups] < 0)
    shared = overlaps(standing.groups[claims], standing.former[claims])
    cores = standing.cores[shared.identity]
    has_most = 2 * shared.faces > np.where(cores > 0, cores, sizes[shared.group])
    returning: dict[int, int] = {}
    taken: set[int] = set()
    for at in np.lexsort((shared.identity, shared.group, -shared.faces)):
        group, tombstone = int(shared.group[at]), int(shared.identity[at])
        if has_most[at] and group not in returning and tombstone not in taken:
            returning[group] = tombstone
            taken.add(tombstone)
    return returning


def _group_changes(
    standing: Standing, matched: I64, identity: list[str], sizes: I64, returning: dict[int, int], shared: Overlaps,
    remaining: I64,
) -> tuple[Changes, Bool]:  # fmt: skip
    """Return what happened to the identity of each group, and whether anything did (groups,).

    Args:
        standing: every face's group and previous identity.
        matched: (groups,) the previous identity that each group takes over, or -1.
        identity: (groups,) identity id of each group.
        sizes: (groups,) faces.
        returning: by group the tombstone whose id returns.
        shared: the faces that groups and previous identities share.
        remaining: (names,) faces of each previous identity that are in any group now.
    """
    kept = np.zeros(len(identity), np.int64)
    own = matched[shared.group] == shared.identity
    kept[shared.group[own]] = shared.faces[own]
    parent = np.full(len(identity), -1, np.int64)
    by_share = np.lexsort((-shared.identity, shared.faces))  # of equal shares the lower identity is assigned last
    parent[shared.group[by_share]] = shared.identity[by_share]
    before, present = np.append(standing.sizes, 0)[matched], np.append(remaining, 0)[matched]  # 0 for -1
    known = np.bincount(shared.group, shared.faces, len(identity)).astype(np.int64)
    changed = (matched < 0) | (kept != before) | (sizes != before)
    changes = Changes()
    for group in np.flatnonzero(changed).tolist():
        was, size, stayed = int(before[group]), int(sizes[group]), int(kept[group])
        moves = {
            "new": size - int(known[group]),
            "gone": was - int(present[group]),
            "moved_in": int(known[group]) - stayed,
            "moved_out": int(present[group]) - stayed,
        }
        if matched[group] >= 0:
            kind = Change.GREW if size > was else Change.SHRANK if size < was else Change.CHANGED
            changes.add(ChangeEvent(kind, identity[group], None, was, size, **moves))
            continue
        origin = standing.names[parent[group]] if parent[group] >= 0 else None
        kind = Change.RESURRECTED if group in returning else Change.SPLIT if origin else Change.CREATED
        changes.add(ChangeEvent(kind, identity[group], origin, 0, size, **moves))
    return changes, changed


def _merged(standing: Standing, matched: I64, identity: Sequence[str], shared: Overlaps) -> dict[str, str]:
    """Return, for identities that no group took over but whose faces remain, the identity that has most of them."""
    taken = np.zeros(len(standing.names), bool)
    taken[matched[matched >= 0]] = True
    best: dict[int, tuple[int, str]] = {}
    for at in np.flatnonzero(~taken[shared.identity]) if len(shared.identity) else ():
        old, claim = int(shared.identity[at]), (int(shared.faces[at]), identity[shared.group[at]])
        best[old] = max(best.get(old, claim), claim)
    return {standing.names[old]: winner for old, (_, winner) in best.items()}
