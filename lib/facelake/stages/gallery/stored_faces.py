"""Rows of some of the faces, read from those data files of the faces table that have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from facelake.cluster import columns
from facelake.contracts import F32, I64, Bool
from facelake.errors import Corrupt
from facelake.lake.data_files import DataFile
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot
from facelake.stages.gallery.face_keys import FaceKeys, faces_of_ids


@dataclass(frozen=True, slots=True)
class StoredFaces:
    """Faces numbered by the order of their keys, and the row in which each of them is stored: integers, no ids.

    Attributes:
        lake: the lake.
        keys: of the faces.
        version: of the faces table.
        files: data files of the faces table.
        numbers: per file (rows,) the number of the face in each row, -1 where it is none of the faces.
        dim: dimensions of their vectors; 0 if there is no file.
    """

    lake: Lake
    keys: FaceKeys
    version: int
    files: tuple[DataFile, ...]
    numbers: tuple[I64, ...]
    dim: int

    @classmethod
    def all_of(cls, lake: Lake, paths: Sequence[str]) -> StoredFaces:
        """Number every face of the data files with these paths.

        Raises:
            Corrupt: a face occurs twice.
        """
        snapshot, wanted = lake["faces"].snapshot(), set(paths)
        files = tuple(file for file in snapshot.files if file.path in wanted)
        chosen = Snapshot(snapshot.version, files)
        keys, order = faces_of_ids(lambda: _ids(lake, chosen), f"{lake.uri}/faces")
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        ends = np.cumsum([0, *(file.rows for file in files)])
        numbers = tuple(number[start:end] for start, end in pairwise(ends.tolist()))
        return cls(lake, keys, snapshot.version, files, numbers, dimension_of(lake, [file.path for file in files]))

    @classmethod
    def known(cls, lake: Lake, keys: FaceKeys) -> StoredFaces:
        """Find the rows of faces that are numbered already."""
        snapshot = lake["faces"].snapshot()
        numbers = tuple(keys.find(ids) for ids in _ids(lake, snapshot))
        dim = dimension_of(lake, [file.path for file in snapshot.files])
        return cls(lake, keys, snapshot.version, snapshot.files, numbers, dim)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, ids: pa.ChunkedArray | pa.Array) -> I64:
        """Return the number (m,) of each face id, -1 where it is not among the faces."""
        return self.keys.find(ids)

    def ids(self) -> Iterator[tuple[I64, pa.ChunkedArray]]:
        """Yield the numbers (rows,) and the ids of the faces of each file; -1 for rows of others."""
        yield from zip(self.numbers, _ids(self.lake, Snapshot(self.version, self.files)), strict=True)

    def rows(self, wanted: Bool, names: Sequence[str]) -> Iterator[tuple[I64, pa.Table]]:
        """Yield the numbers and rows of the wanted faces (n,), file by file; files without them are not read.

        Raises:
            Corrupt: a wanted face is in no file, or in two.
        """
        count = 0
        for file, number in zip(self.files, self.numbers, strict=True):
            take = (number >= 0) & wanted[np.maximum(number, 0)] if len(wanted) else np.zeros(len(number), bool)
            if take.any():
                count += int(take.sum())
                yield number[take], self.lake["faces"].some(file, take, names)
        if count != int(wanted.sum()):
            what = f"{int(wanted.sum())} faces are grouped, of which the faces table has {count} rows"
            raise Corrupt(what, where="groups", next_step="run `facelake nightly` again: cluster will be redone")

    def vectors(self, wanted: Bool) -> Iterator[tuple[I64, F32]]:
        """Yield the numbers and unit vectors (m, dim) of the wanted faces (n,), as `rows`."""
        for number, rows in self.rows(wanted, ["embedding"]):
            yield number, columns.vectors(rows["embedding"], self.dim)[0]


def dimension_of(lake: Lake, paths: Sequence[str]) -> int:
    """Return the dimension of the vectors in data files of the faces table; 0 when there is none."""
    table, wanted = lake["faces"], set(paths)
    for file in table.snapshot().files:
        if file.path in wanted and (dim := columns.dimension(table.file(file, ["embedding"])["embedding"])):
            return dim
    return 0


def _ids(lake: Lake, snapshot: Snapshot) -> Iterator[pa.ChunkedArray]:
    for _, rows in lake["faces"].parts(["face_id"], snapshot):
        yield rows["face_id"]
