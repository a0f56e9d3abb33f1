"""Makes the identities and memberships of a gallery version, by tasks that each write one range of identity ids.

Only ranges in which something changed are written; the files of the others stay. The driver keeps integers per face
and per identity, and the ids of identities.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facelake.cluster.array_codec import encode
from facelake.cluster.by_group import ByGroup
from facelake.contracts import I64, U8, Bool, Receipt, is_of_model
from facelake.distinct import distinct, union
from facelake.engines.exchange import Exchange
from facelake.lake.data_files import DataFile
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store
from facelake.publish import Published, Standing
from facelake.publish.matching import overlaps
from facelake.publish.ranges import bits_for, range_of_file, ranges_of
from facelake.stages.core.context import Context, digest_of
from facelake.stages.gallery.corrections import Corrected
from facelake.stages.gallery.face_keys import Grouped
from facelake.stages.gallery.previous import HOW, Previous
from facelake.stages.gallery.range_tasks import RangeTasks, SharedFaces
from facelake.stages.gallery.range_work import Item
from facelake.stages.gallery.stored_faces import dimension_of
from facelake.stages.gallery.table_codec import pack_tables
from facelake.stages.gallery.versions import Gallery

WORK = "_work/publish"
"""Where the driver leaves what tasks read, under the lake; erasure clears it."""
_ROWS_PER_ITEM = 65_536


@dataclass(frozen=True, slots=True)
class NewVersion:
    """One gallery version to be made.

    Attributes:
        context: of the run.
        version: its number.
        grouped: the grouped faces.
        standing: their groups and previous identities.
        previous: what the previous version records of them.
        result: the identity of each group, and what changed.
        gallery: the previous version.
        reusable: whether rows of the previous version are of the same model and purpose.
        full: whether the groups come from a full clustering: then changed identities are computed from all their
            faces, not from their previous templates and the new faces.
        corrected: the groups, and which faces a correction placed.
    """

    context: Context
    version: int
    grouped: Grouped
    standing: Standing
    previous: Previous
    result: Published
    gallery: Gallery | None
    reusable: bool
    full: bool
    corrected: Corrected


@dataclass(frozen=True, slots=True)
class Written:
    """Data files to add and to remove, by table."""

    adds: dict[str, list[Receipt]]
    removes: dict[str, list[DataFile]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which groups and ranges are written, and which templates are taken over."""

    bits: int
    touched: Bool
    """(groups,) identities whose row is computed"""
    range_of_group: I64
    known_identity: I64
    """(k,) previous identities that are whole in a touched group, so that their vectors are not read"""
    known_group: I64
    ended: pa.Table
    """identity_id and winner of identities that merged or retired"""
    targets: I64
    """ranges to write, ascending"""
    read: Bool
    """(n,) faces whose vectors are read"""


def build_version(new: NewVersion, plan: Plan, exchange: Exchange) -> Written:
    """Write the data files of a version without committing them."""
    store = open_store(f"{new.context.lake.uri}/{WORK}", new.context.lake.s3)
    clear_work(store)
    _write_shared(new, plan, store)
    describer = _Describer(new, plan)
    for number in plan.targets.tolist():
        store.write(f"range/{number}", describer.of(number))
    del describer
    work = _work(new, plan, store)
    items = range(len(work.items) + 1)
    blocks = exchange.run(items, work.route, work.write, keys=len(plan.targets))
    adds: dict[str, list[Receipt]] = {"identities": [], "memberships": []}
    for _, body in sorted(blocks):
        for fields in json.loads(body):
            receipt = Receipt(**fields)
            adds[receipt.table].append(receipt)
    removes = {table: [file for file, _ in files if _replaced(file, plan)] for table, files in _files(new).items()}
    return Written(adds, removes)


def clear_work(store: ObjectStore) -> None:
    """Delete what a run that was killed left in the work store."""
    for item in list(store.list()):
        store.delete(item.key)


# ---- planning


def plan_version(new: NewVersion) -> Plan:
    """Decide which identities, ranges and faces the tasks of a version read and write."""
    result, standing = new.result, new.standing
    count = len(result.identity_of_group)
    bits = bits_for(count, _dim(new), new.context.config.gallery.exemplars, _current_bits(new))
    touched = result.changed.copy() if new.reusable else np.ones(count, bool)
    known_identity, known_group = _taken_over(new, touched)
    whole = np.zeros(len(standing.names) + 1, bool)  # the last one stands for faces without an identity
    whole[known_identity] = True
    read = touched[standing.groups] & ~whole[standing.previous]
    range_of_group = ranges_of(result.identity_of_group, bits)
    winners = [*result.merged_into.values(), *([None] * len(result.retired))]
    ended = pa.table(
        {
            "identity_id": pa.array([*result.merged_into, *result.retired], pa.string()),
            "winner": pa.array(winners, pa.string()),
        }
    )
    changed_ids = [*result.merged_into, *result.retired, *result.came_back]
    stale = range_of_group[groups_undone(new)]
    targets = union(range_of_group[touched], stale, ranges_of(changed_ids, bits)).astype(np.int64)
    if any(_is_stray(file, bits) for files in _files(new).values() for file, _ in files):
        targets = np.arange(1 << bits)  # rows of files that are not of one range can belong to any
    return Plan(bits, touched, range_of_group, known_identity, known_group, ended, targets, read)


def _taken_over(new: NewVersion, touched: Bool) -> tuple[I64, I64]:
    """Return previous identities that lost no face and are in one touched group, and that group (k,)."""
    standing = new.standing
    if new.full or not new.reusable or not len(standing.names):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    shared = overlaps(standing.groups, standing.previous)
    whole = (shared.faces == standing.sizes[shared.identity]) & touched[shared.group]
    return shared.identity[whole], shared.group[whole]


def _dim(new: NewVersion) -> int:
    return dimension_of(new.context.lake, _face_files(new)) or 1


def _face_files(new: NewVersion) -> tuple[str, ...]:
    files = new.context.lake["faces"].snapshot().files
    return tuple(file.path for file in files if is_of_model(file.path, new.context.model_digest))


def _files(new: NewVersion) -> dict[str, list[tuple[DataFile, tuple[int, int] | None]]]:
    """Return the previous version's data files by table, each with its range."""
    if new.gallery is None:
        return {"identities": [], "memberships": []}
    return {
        table: [(file, range_of_file(file.path)) for file in new.gallery.snapshot(table).files]
        for table in ("identities", "memberships")
    }


def _current_bits(new: NewVersion) -> int | None:
    """Return the bits of the previous version's ranges, if its files are of one."""
    found = {own[0] if own else None for files in _files(new).values() for _, own in files}
    return found.pop() if len(found) == 1 else None


def _is_stray(file: DataFile, bits: int) -> bool:
    own = range_of_file(file.path)
    return own is None or own[0] != bits


def _replaced(file: DataFile, plan: Plan) -> bool:
    own = range_of_file(file.path)
    return own is None or own[0] != plan.bits or own[1] in set(plan.targets.tolist())


# ---- what tasks are told


def _write_shared(new: NewVersion, plan: Plan, store: ObjectStore) -> None:
    range_of_face = plan.range_of_group[new.standing.groups].astype(np.int32)
    written = np.zeros(1 << plan.bits, bool)
    written[plan.targets] = True
    range_of_face[~written[range_of_face]] = -1
    store.write("faces", encode(SharedFaces(new.grouped.faces.keys, range_of_face, plan.read)))
    names = pa.array([new.standing.names[i] for i in plan.known_identity.tolist()], pa.string())
    known = pa.table({"identity_id": names, "range": pa.array(plan.range_of_group[plan.known_group])})
    retired = pa.table({"identity_id": pa.array(new.result.retired, pa.string())})
    store.write("moves", pack_tables(known=known, retired=retired))


class _Describer:
    """Describes ranges to the tasks that write them: their groups, faces and what ended in them."""

    def __init__(self, new: NewVersion, plan: Plan) -> None:
        self._new, self._plan = new, plan
        range_of_face = plan.range_of_group[new.standing.groups]
        ranges = 1 << plan.bits
        self._faces = ByGroup.of(range_of_face, ranges)
        self._groups = ByGroup.of(plan.range_of_group, ranges)
        self._known = ByGroup.of(plan.range_of_group[plan.known_group], ranges)
        self._how = _how(new)
        self._former = _former(new)
        self._former_names = pa.array([*new.standing.tombstones, *new.standing.names], pa.string())
        self._ended = ByGroup.of(ranges_of(plan.ended["identity_id"], plan.bits), ranges)
        self._came_back = pa.array(new.result.came_back, pa.string())
        self._returned = ByGroup.of(ranges_of(new.result.came_back, plan.bits), ranges)

    def of(self, number: int) -> bytes:
        """Return the description of one range; its groups are numbered by the order of their ids."""
        new, plan = self._new, self._plan
        groups = self._groups.of_group(number)
        names = np.array([new.result.identity_of_group[group] for group in groups.tolist()], object)
        order = np.argsort(names.astype(str), kind="stable")
        groups = groups[order]
        by_number = np.argsort(groups)
        ascending = groups[by_number]

        def numbered(values: I64) -> pa.Array:
            return pa.array(by_number[np.searchsorted(ascending, values)])

        faces, known = self._faces.of_group(number), self._known.of_group(number)
        former = self._former[faces]
        return pack_tables(
            groups=pa.table(
                {
                    "identity_id": pa.array(names[order], pa.string()),
                    "touched": pa.array(plan.touched[groups]),
                    "changed": pa.array(new.result.changed[groups]),
                }
            ),
            faces=pa.table(
                {
                    "key": pa.array(new.grouped.faces.keys[faces]),
                    "group": numbered(new.standing.groups[faces]),
                    "read": pa.array(plan.read[faces]),
                    "how": pa.array(self._how[faces]),
                    "score": pa.array(new.previous.score[faces]),
                    "core": pa.array(new.previous.core[faces]),
                    "former_id": self._former_names.take(pa.array(former, pa.int64(), mask=former < 0)),
                }
            ),
            known=pa.table(
                {
                    "identity_id": pa.array(
                        [new.standing.names[i] for i in plan.known_identity[known].tolist()], pa.string()
                    ),
                    "group": numbered(plan.known_group[known]),
                }
            ),
            ended=plan.ended.take(pa.array(self._ended.of_group(number))),
            returned=pa.table(
                {
                    "identity_id": pa.array(
                        [new.result.came_back[i] for i in self._returned.of_group(number)], pa.string()
                    )
                }
            ),
        )


def _undone(new: NewVersion) -> Bool:
    """Return which faces (n,) are recorded as placed by a correction although none in force concerns their group."""
    corrected: Bool = new.previous.how == HOW.index("corrected")
    return corrected & ~new.corrected.touched


def groups_undone(new: NewVersion) -> I64:
    """Return the groups with such faces: their membership rows are written again, even if nothing else changed."""
    return distinct(new.standing.groups[_undone(new)])


def _how(new: NewVersion) -> U8:
    """Return how each face (n,) came to its identity.

    Faces that stay in it keep what is recorded, unless that is a correction which was undone.
    """
    moved = new.corrected.moved
    placed = np.where(moved, HOW.index("corrected"), HOW.index("grouped" if new.full else "joined"))
    standing = new.standing
    number = {name: i for i, name in enumerate(standing.names)}
    now = np.array([number.get(name, -2) for name in new.result.identity_of_group] or [-2], np.int64)
    undone = _undone(new)
    stays = (now[standing.groups] == standing.previous) & ~moved & ~undone
    return np.where(stays, new.previous.how, placed).astype(np.uint8)


def _former(new: NewVersion) -> I64:
    """Return the merged identity that each face (n,) comes from, among tombstones then names; -1 for none.

    Once that identity is active again, its faces have none.
    """
    standing, result = new.standing, new.result
    merged = np.array([*(name in result.merged_into for name in standing.names), False], bool)
    former = standing.former.copy()
    ended = merged[standing.previous]
    former[ended] = len(standing.tombstones) + standing.previous[ended]
    back = set(result.came_back)
    returned = np.array([*(name in back for name in [*standing.tombstones, *standing.names]), False], bool)
    former[returned[former]] = -1
    return former


def _work(new: NewVersion, plan: Plan, store: ObjectStore) -> RangeTasks:
    context, files = new.context, _files(new)
    by_range = {
        table: {own[1]: file.path for file, own in files[table] if own and own[0] == plan.bits} for table in files
    }
    return RangeTasks(
        lake=context.lake.uri,
        s3=context.lake.s3.model_dump_json(),
        work=store.uri,
        run=digest_of(context.run_id, new.version, new.grouped.faces.salt),
        version=new.version,
        dim=_dim(new),
        salt=new.grouped.faces.salt,
        hash_salt=context.lake.salt,
        bits=plan.bits,
        exemplars=context.config.gallery.exemplars,
        purpose=context.config.purpose,
        model_digest=context.model_digest,
        lineage=tuple(context.lineage),
        items=tuple(_items(new, plan)),
        targets=tuple(plan.targets.tolist()),
        identity_files=by_range["identities"],
        membership_files=by_range["memberships"],
    )


def _items(new: NewVersion, plan: Plan) -> Iterator[Item]:
    """Yield the files to route: faces in chunks; previous rows that may belong to another range."""
    wanted = set(_face_files(new))
    paths: list[str] = []
    rows = 0
    for file in new.context.lake["faces"].snapshot().files if plan.read.any() else ():
        if file.path in wanted:
            paths.append(file.path)
            rows += file.rows
        if rows >= _ROWS_PER_ITEM:
            yield Item("faces", tuple(paths))
            paths, rows = [], 0
    if paths:
        yield Item("faces", tuple(paths))
    faces_leave, templates_leave = _left_ranges(new, plan)
    for file, own in _files(new)["memberships"]:
        if _is_stray(file, plan.bits) or (own and own[1] in faces_leave):
            yield Item("memberships", (file.path,))
    for file, own in _files(new)["identities"]:
        if _is_stray(file, plan.bits) or (own and own[1] in templates_leave):
            yield Item("identities", (file.path,))


def _left_ranges(new: NewVersion, plan: Plan) -> tuple[set[int], set[int]]:
    """Return the ranges that faces leave whose vectors are not read, and those that templates leave.

    Only their files are routed: most identities stay in their range, and its task reads its own files.
    """
    standing = new.standing
    home = np.append(ranges_of(standing.names, plan.bits), -1)  # the last one: faces without an identity
    before, now = home[standing.previous], plan.range_of_group[standing.groups]
    faces = distinct(before[(before >= 0) & ~plan.read & (before != now)])
    before, now = home[plan.known_identity], plan.range_of_group[plan.known_group]
    return set(faces.tolist()), set(distinct(before[before != now]).tolist())
