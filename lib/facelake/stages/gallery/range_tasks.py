"""Tasks that make a gallery version: one reads files and routes rows to ranges, one writes the files of a range.

The work store holds `faces` (for every task) and `range/<number>` (for the task of that range), both written by the
driver. Blocks and range descriptions are Arrow tables (table_codec.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster.array_codec import decode
from facelake.contracts import I32, I64, IDENTITIES, Bool, DataFileName, Receipt
from facelake.engines.exchange import Block
from facelake.lake.data_files import stage
from facelake.lake.store import cached_store
from facelake.publish.matching import places
from facelake.publish.ranges import range_of_file, ranges_of, stem_of
from facelake.stages.gallery.face_keys import FaceKeys
from facelake.stages.gallery.range_rows import CORE_COLUMNS, RangeWriter
from facelake.stages.gallery.range_work import RangeWork
from facelake.stages.gallery.table_codec import pack_tables, unpack_tables

_MEMBER = ["face_id", "image_id"]


@dataclass(frozen=True)
class RangeTasks(RangeWork):
    """The tasks themselves, as the engine's exchange calls them."""

    # ---- routing

    def route(self, number: int) -> Iterator[Block]:
        """Read the files of an item and send the rows that a range needs to it.

        The number after the last item sends an empty block to every range: each must be written, rows or not.
        """
        if number == len(self.items):
            yield from ((target, pack_tables()) for target in self.targets)
            return
        item = self.items[number]
        send = {"faces": self._faces, "memberships": self._memberships, "identities": self._identities}[item.table]
        for path in item.paths:
            yield from send(path)

    def _faces(self, path: str) -> Iterator[Block]:
        """Send faces whose vectors are to be read."""
        shared = _shared(self.work, self.s3, self.run)
        at = shared.faces(self.salt).find(self.read("faces", path, ["face_id"])["face_id"])
        take = (at >= 0) & shared.read[np.maximum(at, 0)]
        if not take.any():
            return
        rows = self.read_some("faces", path, take, [*_MEMBER, "quality", "embedding"])
        rows = rows.append_column("key", pa.array(shared.keys[at[take]]))
        yield from _by_range("faces", rows, shared.range[at[take]])

    def _memberships(self, path: str) -> Iterator[Block]:
        """Send the rows of faces whose vectors are not read and that are in another range now, or in any file."""
        shared, home = _shared(self.work, self.s3, self.run), self._home(path)
        rows = self.read("memberships", path, ["image_id", *CORE_COLUMNS])
        at = shared.faces(self.salt).find(rows["face_id"])
        target = np.where(at >= 0, shared.range[np.maximum(at, 0)], -1)
        take = (target >= 0) & (target != home) & ~shared.read[np.maximum(at, 0)]
        some = rows.filter(pa.array(take)).select(_MEMBER).append_column("key", pa.array(shared.keys[at[take]]))
        yield from _by_range("members", some, target[take])
        if home < 0 and len(shared.retired):  # a retired identity leaves hashes of its core faces in its own range
            some = rows.filter(pc.is_in(rows["identity_id"], shared.retired)).select(CORE_COLUMNS)
            yield from _by_range("cores", some, ranges_of(some["identity_id"], self.bits))

    def _identities(self, path: str) -> Iterator[Block]:
        """Send rows to the range of their id, and templates that another range takes over to that range."""
        shared, home = _shared(self.work, self.s3, self.run), self._home(path)
        rows = self.read("identities", path, IDENTITIES.names)
        if home < 0:
            yield from _by_range("rows", rows, ranges_of(rows["identity_id"], self.bits))
        at = places(rows["identity_id"], shared.known_names)
        target = np.where(at >= 0, shared.known_range[np.maximum(at, 0)], -1)
        take = (target >= 0) & (target != ranges_of(rows["identity_id"], self.bits))
        yield from _by_range("taken", rows.filter(pa.array(take)), target[take])

    def _home(self, path: str) -> int:
        """Return the range of a data file of the previous version; -1 if it may hold rows of any range."""
        own = range_of_file(path)
        return own[1] if own and own[0] == self.bits else -1

    # ---- one range

    def write(self, number: int, blocks: list[bytes]) -> Iterator[Block]:
        """Write the identities and memberships of a range; yields their receipts as JSON."""
        writer = RangeWriter(self, number, blocks)
        store = cached_store(self.lake, self.s3)
        receipts: list[Receipt] = []
        for table, rows in (("identities", writer.identities()), ("memberships", writer.memberships())):
            if rows.num_rows:
                receipts.append(stage(store, table, rows, DataFileName(part=stem_of(self.bits, number))))
        yield number, json.dumps([asdict(receipt) for receipt in receipts]).encode()


@dataclass(frozen=True, slots=True)
class SharedFaces:
    """The grouped faces (n,) as every task needs them."""

    keys: I64
    """ascending"""
    range: I32
    """the range of each face, -1 where its range is not written"""
    read: Bool
    """whether the vector is read"""


class _Shared:
    """What the driver wrote for every task: faces by key, and templates that move to another range."""

    def __init__(self, faces: SharedFaces, tables: dict[str, pa.Table]) -> None:
        self.keys, self.range, self.read = faces.keys, faces.range, faces.read
        self.known_names = tables["known"]["identity_id"].combine_chunks()
        self.known_range: I64 = tables["known"]["range"].to_numpy()
        self.retired = tables["retired"]["identity_id"].combine_chunks()

    def faces(self, salt: int) -> FaceKeys:
        """Return the grouped faces."""
        return FaceKeys(self.keys, salt)


@lru_cache(maxsize=1)
def _shared(work: str, s3: str, run: str) -> _Shared:
    store = cached_store(work, s3)
    return _Shared(decode(SharedFaces, store.read("faces")), unpack_tables(store.read("moves")))


def _by_range(kind: str, rows: pa.Table, number: I32 | I64) -> Iterator[Block]:
    """Pack rows by range."""
    if not rows.num_rows:
        return
    order = np.argsort(number, kind="stable")
    numbers, starts = np.unique(number[order], return_index=True)
    ordered = rows.take(pa.array(order))
    for value, start, end in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
        yield int(value), pack_tables(**{kind: ordered.slice(start, end - start)})
