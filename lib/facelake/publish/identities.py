"""Identity ids and the events that lead from one gallery version to the next.

Every face of today is in a group; yesterday it was in an identity, or it is new. What became of each identity is
told by one of these:

    unchanged    the same faces (no event)
    grew, shrank, changed    more, fewer, as many but other faces
    created      a group of faces of which none was in an identity
    merged       its faces went to a group that another identity's id stayed with: a tombstone that points to the winner
    split        a part of an identity whose id stayed with another part: a new id that names its parent
    retired      none of its faces is left
    resurrected  a tombstone's faces are on their own again, or came back: the old id returns
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import I64, Bool, Change
from facelake.publish.matching import match_groups, overlaps, places


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """One identity's change between two versions."""

    kind: Change
    identity_id: str
    other_id: str | None
    size_before: int
    size_after: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Every face of today, with where it was yesterday."""

    groups: I64
    """(n,) group of each face, 0.."""
    first: list[str]
    """(groups,) the lowest face id of each group"""
    yesterday: I64
    """(n,) position in `names`, or -1"""
    core: Bool
    """(n,) the face was of its identity's core"""
    former: I64
    """(n,) position in `gone`, or -1: a tombstone that the face would bring back"""
    names: list[str]
    """identities of yesterday, ascending"""
    sizes: I64
    """(names,) their faces yesterday"""
    gone: list[str]
    """tombstones, ascending"""

    @classmethod
    def of(cls, faces: pa.Array, groups: I64, before: pa.Table | None, back: dict[str, str] | None = None) -> Standing:
        """Look up where faces were.

        Args:
            faces: (n,) face ids, each once; groups: (n,) 0.. without gaps.
            before: yesterday's face_id, identity_id and, if known, core and former_id.
            back: tombstones by the id of a face that would bring them back.
        """
        order = pc.sort_indices(faces)
        _, lowest = np.unique(groups[order.to_numpy()], return_index=True)
        first = faces.take(order.take(pa.array(lowest))).to_pylist()
        if before is None or not before.num_rows:
            none, gone = np.full(len(groups), -1, np.int64), sorted(set((back or {}).values()))
            former = places(pa.array([(back or {}).get(f) for f in faces.to_pylist()], pa.string()), gone)
            return cls(groups, first, none, np.zeros(len(groups), bool), former, [], np.zeros(0, np.int64), gone)
        names = sorted(pc.unique(before["identity_id"]).to_pylist())
        then = places(before["identity_id"], names)
        at = places(faces, before["face_id"])
        known, at = at >= 0, np.maximum(at, 0)
        core = np.zeros(before.num_rows, bool)
        origin = pa.nulls(before.num_rows, pa.string())
        if "core" in before.column_names:
            core = pc.fill_null(before["core"], False).to_numpy()
            origin = before["former_id"].combine_chunks()
        gone = sorted({*pc.unique(origin.drop_null()).to_pylist(), *(back or {}).values()} - set(names))
        former = np.where(known, places(origin, gone)[at], -1)
        if back:
            place = {name: i for i, name in enumerate(gone)}
            for i in np.flatnonzero(~known):
                former[i] = place.get(back.get(faces[int(i)].as_py(), ""), -1)
        yesterday = np.where(known, then[at], -1)
        return cls(groups, first, yesterday, core[at] & known, former, names, np.bincount(then), gone)


@dataclass(frozen=True, slots=True)
class Published:
    """The outcome: an identity per group, the events, and where merged or retired identities went."""

    identity_of_group: list[str]
    changes: list[ChangeEvent]
    merged_into: dict[str, str]
    retired: list[str]
    came_back: list[str]


def new_identity_id(version: int, first_face: str) -> str:
    """An opaque id, never used before: from the version that creates it and a face that it holds then."""
    digest = hashlib.blake2b(f"{version}\0{first_face}".encode(), digest_size=10).digest()
    return "id-" + base64.b32encode(digest).decode().lower()


def publish_groups(now: Standing, version: int) -> Published:
    """Give each group an identity id, see the module's head.

    A group takes over the identity with which it shares faces, one to one, by largest total overlap (matching.py). Of
    a group that takes over none, most of whose faces came from one tombstone, that one's id comes back.

    Args:
        version: the gallery version being made.
    """
    count = len(now.first)
    matched = match_groups(now.groups, now.yesterday, count, len(now.names), now.core)
    sizes = np.bincount(now.groups, minlength=count)
    back = _returning(now, matched, sizes)
    identity = [
        now.names[matched[label]]
        if matched[label] >= 0
        else now.gone[back[label]]
        if label in back
        else new_identity_id(version, now.first[label])
        for label in range(count)
    ]
    g, i, shared, _ = overlaps(now.groups, now.yesterday)
    changes = _group_changes(now, matched, identity, sizes, back, (g, i, shared))
    merged = _merged(now, matched, identity, (g, i, shared))
    taken, went = set(matched[matched >= 0].tolist()), set(i.tolist())
    retired = [name for old, name in enumerate(now.names) if old not in taken and old not in went]
    before = dict(zip(now.names, now.sizes.tolist(), strict=True))
    changes += [ChangeEvent(Change.MERGED, old, winner, before[old], 0) for old, winner in sorted(merged.items())]
    changes += [ChangeEvent(Change.RETIRED, old, None, before[old], 0) for old in retired]
    return Published(identity, changes, merged, retired, [now.gone[at] for at in back.values()])


def _returning(now: Standing, matched: I64, sizes: I64) -> dict[int, int]:
    """The tombstone (by position in `gone`) that each group without an identity brings back, if one has most of it."""
    claims = now.former >= 0
    claims &= matched[now.groups] < 0
    g, old, count, _ = overlaps(now.groups[claims], now.former[claims])
    most = 2 * count > sizes[g]
    found: dict[int, int] = {}
    taken: set[int] = set()
    for at in np.lexsort((old, g, -count)):
        label, tomb = int(g[at]), int(old[at])
        if most[at] and label not in found and tomb not in taken:
            found[label] = tomb
            taken.add(tomb)
    return found


def _group_changes(
    now: Standing, matched: I64, identity: list[str], sizes: I64, back: dict[int, int], met: tuple[I64, I64, I64]
) -> list[ChangeEvent]:
    g, i, shared = met
    kept = np.zeros(len(identity), np.int64)
    mine = matched[g] == i
    kept[g[mine]] = shared[mine]
    parent = np.full(len(identity), -1, np.int64)
    by_share = np.lexsort((-i, shared))  # of equal shares the lower identity comes last and stays
    parent[g[by_share]] = i[by_share]
    events = []
    for label, name in enumerate(identity):
        size = int(sizes[label])
        if matched[label] >= 0:
            was = int(now.sizes[matched[label]])
            if not kept[label] == was == size:
                kind = Change.GREW if size > was else Change.SHRANK if size < was else Change.CHANGED
                events.append(ChangeEvent(kind, name, None, was, size))
            continue
        origin = now.names[parent[label]] if parent[label] >= 0 else None
        kind = Change.RESURRECTED if label in back else Change.SPLIT if origin else Change.CREATED
        events.append(ChangeEvent(kind, name, origin, 0, size))
    return events


def _merged(now: Standing, matched: I64, identity: Sequence[str], met: tuple[I64, I64, I64]) -> dict[str, str]:
    """Of identities that no group took over but whose faces are there, who has most of them now."""
    g, i, shared = met
    taken = np.zeros(len(now.names), bool)
    taken[matched[matched >= 0]] = True
    best: dict[int, tuple[int, str]] = {}
    for at in np.flatnonzero(~taken[i]) if len(i) else ():
        old, claim = int(i[at]), (int(shared[at]), identity[g[at]])
        best[old] = max(best.get(old, claim), claim)
    return {now.names[old]: winner for old, (_, winner) in best.items()}
