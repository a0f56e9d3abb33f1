"""Vectors of some of the grouped faces, read file by file from the faces table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facelake.cluster import columns
from facelake.contracts import F32, I64, Bool
from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.stages.gallery.face_keys import FaceKeys, IdNumbers


@dataclass(frozen=True, slots=True)
class Faces:
    """The grouped faces, and the data files of the faces table that may hold them.

    Attributes:
        lake: the lake.
        keys: the faces.
        files: paths of data files.
        dim: dimensions of their vectors.
    """

    lake: Lake
    keys: FaceKeys
    files: tuple[str, ...]
    dim: int

    @classmethod
    def of(cls, lake: Lake, keys: FaceKeys, files: tuple[str, ...]) -> Faces:
        """Take the dimension from the files; 0 when there is none."""
        return cls(lake, keys, files, dimension_of(lake, files))

    def find(self, column: pa.ChunkedArray | pa.Array) -> I64:
        """Return the number (m,) of each face id, -1 where it is not among the faces."""
        return self.keys.find(column)

    def vectors(self, wanted: Bool) -> Iterator[tuple[I64, F32, F32]]:
        """Yield (numbers, unit vectors, quality) of the wanted faces (n,), file by file; each face once.

        Raises:
            Corrupt: a wanted face is in no file.
        """
        count = 0
        table = self.lake["faces"]
        for file in table.snapshot().files:
            if file.path not in self.files:
                continue
            at = self.find(table.file(file, ["face_id"])["face_id"])
            take = (at >= 0) & wanted[np.maximum(at, 0)]
            if not take.any():
                continue
            rows = table.file(file, ["quality", "embedding"]).filter(pa.array(take))
            matrix, _ = columns.vectors(rows["embedding"], self.dim)
            quality = np.nan_to_num(rows["quality"].to_numpy().astype(np.float32))
            count += len(matrix)
            yield at[take], matrix, quality
        if count != int(wanted.sum()):
            what = f"{int(wanted.sum()) - count} grouped faces are not in the faces table"
            raise Corrupt(what, where="groups", next_step="run `facelake nightly` again: cluster will be redone")


@dataclass(frozen=True, slots=True)
class FacesById:
    """Faces numbered by the order of their ids, where the ids themselves are needed.

    Attributes:
        ids: (n,) face ids, ascending; face number i has the i-th.
        numbers: of the ids.
        faces: the same faces, numbered by their keys.
    """

    ids: pa.Array
    numbers: IdNumbers
    faces: Faces

    @classmethod
    def of(cls, lake: Lake, ids: pa.Array, files: tuple[str, ...], dim: int) -> FacesById:
        """Number the faces of ascending ids.

        Raises:
            Corrupt: an id occurs twice.
        """
        numbers = IdNumbers.of(ids, f"{lake.uri}/faces")
        return cls(ids, numbers, Faces(lake, numbers.keys, files, dim))

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return self.faces.dim

    def find(self, column: pa.ChunkedArray | pa.Array) -> I64:
        """Return the number (m,) of each face id, -1 where it is not among the faces."""
        return self.numbers.find(column)

    def vectors(self, wanted: Bool) -> Iterator[tuple[I64, F32, F32]]:
        """Yield vectors of the wanted faces (n,), as `Faces.vectors`."""
        order = self.numbers.order
        for at, vectors, quality in self.faces.vectors(wanted[order]):
            yield order[at], vectors, quality


def dimension_of(lake: Lake, files: tuple[str, ...]) -> int:
    """Return the dimension of the vectors in data files of the faces table; 0 when there is none."""
    table = lake["faces"]
    for file in table.snapshot().files:
        if file.path in files and (dim := columns.dimension(table.file(file, ["embedding"])["embedding"])):
            return dim
    return 0
