"""Grouped faces as 64-bit keys: what the driver of publish keeps of ids that take several times the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facelake.cluster import columns
from facelake.contracts import I64
from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot

_SALTS = 4


class KeyCollision(Exception):
    """Two different face ids have the same key under the current salt."""


@dataclass(frozen=True, slots=True)
class FaceKeys:
    """Faces numbered by the order of their keys.

    Attributes:
        keys: (n,) ascending keys; face number i has the i-th.
        salt: which hash the keys are of.
    """

    keys: I64
    salt: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, ids: pa.ChunkedArray | pa.Array) -> I64:
        """Return the number (m,) of each face id, -1 where it is not among the faces."""
        return self.find_keys(columns.keys(ids, self.salt))

    def find_keys(self, keys: I64) -> I64:
        """Return the number (m,) of each key, -1 where it is not among the faces."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        order = np.argsort(keys)  # ascending queries read the keys in the order of memory: four times as fast at 10^7
        at = np.empty(len(keys), np.int64)
        at[order] = np.minimum(np.searchsorted(self.keys, keys[order]), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Grouped:
    """The faces of the groups table.

    Attributes:
        faces: their keys.
        labels: (n,) group of each face, 0.. without gaps, in the order of the keys.
    """

    faces: FaceKeys
    labels: I64


def read_groups(lake: Lake, snapshot: Snapshot, first_salt: int = 0) -> Grouped:
    """Read the groups table file by file.

    Args:
        lake: the lake.
        snapshot: of its groups table.
        first_salt: the first hash to try; another one is taken when two ids collide.

    Raises:
        Corrupt: a face is in the table twice.
    """
    for salt in range(first_salt, first_salt + _SALTS):
        keys, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for _, rows in lake["groups"].parts(["face_id", "group_id"], snapshot):
            keys.append(columns.keys(rows["face_id"], salt))
            labels.append(rows["group_id"].to_numpy())
        try:
            faces, order = number_faces(np.concatenate(keys), salt)
        except KeyCollision:
            continue
        group = np.concatenate(labels)[order]
        return Grouped(faces, np.unique(group, return_inverse=True)[1].astype(np.int64))
    what = "a face is in the groups table twice"
    raise Corrupt(what, where=lake.uri, next_step="run `facelake nightly --rebase`: faces are grouped again")


@dataclass(frozen=True, slots=True)
class IdNumbers:
    """Ids numbered by their position; finds many columns of ids among many without hashing the ids each time.

    Attributes:
        keys: of the ids.
        order: (n,) number of the id with each key.
    """

    keys: FaceKeys
    order: I64

    @classmethod
    def of(cls, ids: pa.Array | pa.ChunkedArray | list[str], where: str) -> IdNumbers:
        """Number ids.

        Raises:
            Corrupt: an id occurs twice; `where` says in which table.
        """
        column = pa.array(ids, pa.string()) if isinstance(ids, list) else ids
        return cls(*faces_of_ids(lambda: [column], where))

    def __len__(self) -> int:
        return len(self.order)

    def find(self, ids: pa.Array | pa.ChunkedArray) -> I64:
        """Return the number (m,) of each id, -1 where it is not among them."""
        at = self.keys.find(ids)
        return np.where(at >= 0, self.order[np.maximum(at, 0)], -1) if len(self.order) else at


def number_faces(keys: I64, salt: int) -> tuple[FaceKeys, I64]:
    """Return the faces in the order of their keys, and that order (n,).

    Raises:
        KeyCollision: a key occurs twice.
    """
    order = np.argsort(keys, kind="stable")
    ascending = keys[order]
    if (ascending[1:] == ascending[:-1]).any():
        raise KeyCollision
    return FaceKeys(ascending, salt), order


def faces_of_ids(parts: Callable[[], Iterable[pa.ChunkedArray | pa.Array]], where: str) -> tuple[FaceKeys, I64]:
    """Number faces by several columns of ids; returns them and their order, as `number_faces`.

    Raises:
        Corrupt: an id occurs twice.
    """
    for salt in range(_SALTS):
        keys: Iterator[I64] = (columns.keys(column, salt) for column in parts())
        try:
            return number_faces(np.concatenate([np.zeros(0, np.int64), *keys]), salt)
        except KeyCollision:
            continue
    raise Corrupt("a face occurs twice", where=where, next_step="run `facelake verify`")
