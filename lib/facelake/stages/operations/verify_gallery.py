"""The check of faces, groups and gallery against each other, for the command `verify`.

Ids are compared as 64-bit keys, so that ten million take 80 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.contracts import I64, Bool
from facelake.distinct import distinct, union, without
from facelake.lake.lake import Lake
from facelake.stages.core.context import Context
from facelake.stages.gallery.face_keys import FaceKeys
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.stages.operations.verify_vectors import count_bad_templates


@dataclass(frozen=True, slots=True)
class FaceIds:
    """The face ids of a table.

    Attributes:
        lake: the lake.
        table: its table; a gallery table is read as of the newest version.
        keys: (n,) their keys, in any order.
    """

    lake: Lake
    table: str
    keys: I64

    @classmethod
    def of(cls, lake: Lake, table: str, parts: Iterable[pa.Table]) -> FaceIds:
        """Read the ids of a table's parts."""
        return cls(lake, table, np.concatenate([np.zeros(0, np.int64), *(columns.keys(p["face_id"]) for p in parts)]))

    def repeated(self) -> int:
        """Return how many rows hold an id that another row holds too."""
        extra = len(self.keys) - len(distinct(self.keys))
        if not extra:
            return 0
        unique, count = np.unique(self.keys, return_counts=True)
        names = self._with_keys(unique[count > 1])  # a key may stand for two ids
        return len(names) - len(set(names))

    def missing_in(self, other: FaceIds) -> tuple[int, str]:
        """Return how many ids the other table lacks, and an example."""
        missing = without(self.keys, other.keys)
        return len(missing), min(self._with_keys(missing[:1])) if len(missing) else ""

    def _with_keys(self, keys: I64) -> list[str]:
        """Return the ids that have one of some keys; reads the table again."""
        snapshot = None
        gallery = current_gallery(self.lake)
        if self.table == "memberships" and gallery:
            snapshot = gallery.snapshot(self.table)
        ids: list[str] = []
        for _, rows in self.lake[self.table].parts(["face_id"], snapshot):
            ids += rows["face_id"].filter(pa.array(np.isin(columns.keys(rows["face_id"]), keys))).to_pylist()
        return ids


def check_chain(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """faces = grouped = members; sizes agree; every referenced identity exists."""
    lake, gallery = context.lake, current_gallery(context.lake)
    faces = FaceIds.of(lake, "faces", (rows for _, rows in lake["faces"].parts(["face_id"])))
    groups = FaceIds.of(lake, "groups", (rows for _, rows in lake["groups"].parts(["face_id"])))
    if lake["groups"].version() >= 0:
        yield from _same(groups, faces)
    if gallery is not None:
        yield from _same(FaceIds.of(lake, "memberships", gallery.parts("memberships", ["face_id"])), groups)
        yield from _gallery(context, gallery, counts)


def _same(left: FaceIds, right: FaceIds) -> Iterator[str]:
    if repeated := left.repeated():
        yield f"{left.table} contains {repeated} faces twice"
    stray, example = left.missing_in(right)
    if stray:
        advice = "an interrupted run leaves this until `facelake nightly` completes it; else restore a backup"
        yield f"{left.table} names {stray} faces that {right.table} lacks, e.g. {example} ({advice})"
    missing, _ = right.missing_in(left)
    if missing:
        yield f"{right.table} has {missing} faces that {left.table} lacks (run `facelake nightly`)"


@dataclass(slots=True)
class _Identities:
    """The identities of a gallery version as arrays, ordered by the key of the id."""

    keys: I64
    active: Bool
    size: I64
    merged_into: I64
    """key of the winner; 0 for none"""

    @classmethod
    def of(cls, gallery: Gallery) -> _Identities:
        """Read them file by file."""
        parts: list[tuple[I64, Bool, I64, I64]] = []
        for rows in gallery.parts("identities", ["identity_id", "status", "size", "merged_into"]):
            active = np.asarray(pc.equal(rows["status"], "active"))
            winner = np.where(
                np.asarray(pc.is_valid(rows["merged_into"])), columns.keys(pc.fill_null(rows["merged_into"], "")), 0
            )
            parts.append((columns.keys(rows["identity_id"]), active, rows["size"].to_numpy(), winner))
        nothing = (np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(0, np.int64))
        keys, active, size, merged = (np.concatenate(part) for part in zip(nothing, *parts, strict=True))
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], active[order], size[order], merged[order])

    def find(self, keys: I64) -> I64:
        """Return the position (m,) of each key, -1 where it is not an identity's."""
        return FaceKeys(self.keys).find_keys(keys)


def _gallery(context: Context, gallery: Gallery, counts: dict[str, int]) -> Iterator[str]:
    identities = _Identities.of(gallery)
    active = int(identities.active.sum())
    counts["identities"], counts["gallery"] = active, gallery.version
    members, stray = 0, np.zeros(0, np.int64)
    sizes = np.zeros(len(identities.keys) + 1, np.int64)
    for rows in gallery.parts("memberships", ["identity_id"]):
        keys = columns.keys(rows["identity_id"])
        at = identities.find(keys)
        known = (at >= 0) & identities.active[at] if len(identities.active) else at >= 0
        stray = union(stray, keys[~known])
        sizes += np.bincount(at[known], minlength=len(sizes))
        members += rows.num_rows
    if len(stray):
        yield f"{len(stray)} memberships name an identity that is not active"
    wrong = int((identities.active & (identities.size != sizes[:-1])).sum())
    if wrong:
        yield f"{wrong} identities have a size that differs from their members"
    if bad := count_bad_templates(context, gallery.snapshot("identities")):
        yield f"{bad} templates are not finite unit vectors"
    lost = int((identities.find(identities.merged_into[identities.merged_into != 0]) < 0).sum())
    if lost:
        yield f"{lost} identities were merged into an identity that does not exist"
    yield from _change_events(gallery, identities)
    if (gallery.row["identities"], gallery.row["faces"]) != (active, members):
        yield "the gallery's recorded counts differ from its tables"


def _change_events(gallery: Gallery, identities: _Identities) -> Iterator[str]:
    events, unknown = [np.zeros(0, np.uint64)], np.zeros(0, np.int64)
    for rows in gallery.parts("changes", ["gallery_version", "identity_id"]):
        keys = columns.keys(rows["identity_id"])
        events.append(columns.mix(keys, 1) ^ columns.mix(rows["gallery_version"].to_numpy(), 2))
        unknown = union(unknown, keys[identities.find(keys) < 0])
    every = np.concatenate(events)
    if repeated := len(every) - len(distinct(every)):
        yield f"{repeated} change events are recorded twice"
    if len(unknown):
        yield f"{len(unknown)} change events name an identity that does not exist"
