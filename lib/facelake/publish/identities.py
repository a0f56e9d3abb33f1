"""Identity ids and the events that lead from one gallery version to the next."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facelake.contracts import I64, Change
from facelake.publish.matching import match_groups


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """One identity's change between two versions."""

    kind: Change
    identity_id: str
    other_id: str | None
    size_before: int
    size_after: int


@dataclass(frozen=True, slots=True)
class Published:
    """The outcome: an identity per group, the events, and where merged or retired identities went."""

    identity_of_group: list[str]
    changes: list[ChangeEvent]
    merged_into: dict[str, str]
    retired: list[str]


def new_identity_id(version: int, first_face: str) -> str:
    """An opaque id, never used before: from the version that creates it and a face that it holds then."""
    digest = hashlib.blake2b(f"{version}\0{first_face}".encode(), digest_size=10).digest()
    return "id-" + base64.b32encode(digest).decode().lower()


def publish_groups(face_ids: Sequence[str], groups: I64, before: Mapping[str, str], version: int) -> Published:
    """Give each group an identity id.

    A group takes over the identity with which it shares faces, one to one, by largest total overlap. Of an identity
    that fell apart, the part with the largest overlap keeps the id and the others are split off; of identities that
    were joined, the one with the largest overlap wins and the others become tombstones that point to it.

    Args:
        face_ids: (n,) in canonical order; groups: (n,) labels 0..; before: face id to identity id of the last version.
        version: the gallery version being made.
    """
    names = sorted(set(before.values()))
    number = {name: i for i, name in enumerate(names)}
    yesterday = np.array([number[before[f]] if f in before else -1 for f in face_ids], np.int64)
    count = int(groups.max(initial=-1)) + 1
    matched = match_groups(groups, yesterday, count, len(names))
    first_face: dict[int, str] = {}
    for face, label in zip(face_ids, groups.tolist(), strict=True):
        if label not in first_face or face < first_face[label]:
            first_face[label] = face
    identity = [
        names[matched[label]] if matched[label] >= 0 else new_identity_id(version, first_face[label])
        for label in range(count)
    ]
    changes = _group_changes(groups, yesterday, matched, identity, names, before)
    merged, retired = _fates(groups, yesterday, matched, identity, names)
    size_before = Counter(before.values())
    changes += [ChangeEvent(Change.MERGED, old, winner, size_before[old], 0) for old, winner in sorted(merged.items())]
    changes += [ChangeEvent(Change.RETIRED, old, None, size_before[old], 0) for old in retired]
    return Published(identity, changes, merged, retired)


def _group_changes(
    groups: I64,
    yesterday: I64,
    matched: I64,
    identity: list[str],
    names: list[str],
    before: Mapping[str, str],
) -> list[ChangeEvent]:
    size_before = Counter(before.values())
    origins: dict[int, Counter[int]] = defaultdict(Counter)
    for label, old in zip(groups.tolist(), yesterday.tolist(), strict=True):
        origins[label][old] += 1
    events = []
    for label, name in enumerate(identity):
        size, came = sum(origins[label].values()), origins[label]
        if matched[label] >= 0:
            was, kept = size_before[name], came[int(matched[label])]
            if kept == was == size:
                continue
            kind = Change.GREW if size > was else Change.SHRANK if size < was else Change.CHANGED
            events.append(ChangeEvent(kind, name, None, was, size))
            continue
        parents = [(n, -old) for old, n in came.items() if old >= 0]
        if parents:
            events.append(ChangeEvent(Change.SPLIT, name, names[-max(parents)[1]], 0, size))
        else:
            events.append(ChangeEvent(Change.CREATED, name, None, 0, size))
    return events


def _fates(
    groups: I64, yesterday: I64, matched: I64, identity: list[str], names: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Where the faces of identities that no group took over went: into a winner, or nowhere."""
    taken = set(matched[matched >= 0].tolist())
    went: dict[int, Counter[str]] = defaultdict(Counter)
    for label, old in zip(groups.tolist(), yesterday.tolist(), strict=True):
        if old >= 0 and old not in taken:
            went[old][identity[label]] += 1
    merged = {names[old]: max(to.items(), key=lambda item: (item[1], item[0]))[0] for old, to in went.items()}
    retired = [name for old, name in enumerate(names) if old not in taken and old not in went]
    return merged, retired
