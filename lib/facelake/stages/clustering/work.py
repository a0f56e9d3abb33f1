"""The work store of a full clustering, as the driver and the tasks on workers see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa

from facelake.cluster import columns
from facelake.cluster.array_codec import decode, encode
from facelake.cluster.lists import Index
from facelake.cluster.nuisance import without
from facelake.contracts import F16, F32, I32, Bool
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import cached_store
from facelake.stages.clustering.source import Source
from facelake.stages.clustering.stored import (
    AllLists,
    CellFaces,
    CellMap,
    Nuisance,
    NumberedRows,
    OccupiedCells,
    Stored,
)

Payload = TypeVar("Payload", bound=Stored)


@lru_cache(maxsize=6)
def _cached(uri: str, s3: str, run: str, key: str) -> bytes:  # the run only tells one content from another
    return cached_store(uri, s3).read(key)


@dataclass(frozen=True, slots=True)
class Work:
    """Input and work store of one clustering; travels to the workers with every task."""

    source: Source
    uri: str
    s3: str
    run: str
    """names input and settings: under one run, a name in the work store means one content (but for `sums/`)"""
    dim: int

    @property
    def store(self) -> ObjectStore:
        """Where the steps keep their results."""
        return cached_store(self.uri, self.s3)

    @property
    def files(self) -> range:
        """Numbers of the input files."""
        return range(len(self.source))

    def read(self, kind: type[Payload], name: int | str = "") -> Payload:
        """Read an object of the work store.

        Raises:
            FileNotFoundError: it does not exist.
        """
        return decode(kind, self.store.read(_key(kind, name)))

    def shared(self, kind: type[Payload], name: int | str = "") -> Payload:
        """Read an object that many tasks need; it is kept in the process."""
        return decode(kind, _cached(self.uri, self.s3, self.run, _key(kind, name)))

    def write(self, payload: Stored, name: int | str = "") -> None:
        """Write an object to the place of its class."""
        self.store.write(_key(type(payload), name), encode(payload))

    def names(self, kind: type[Stored]) -> list[str]:
        """Return the names under which objects of a class exist."""
        prefix = f"{kind.PREFIX}/"
        return [item.key.removeprefix(prefix) for item in self.store.list(prefix)]

    def delete(self, kind: type[Stored], name: int | str = "") -> None:
        """Delete an object of the work store."""
        self.store.delete(_key(kind, name))

    # ---- faces and index, which several steps read

    def project(self, vectors: F32) -> F32:
        """Return unit vectors (n, dim) without the nuisance directions."""
        return without(vectors, self.shared(Nuisance).directions)

    def index(self) -> Index:
        """Return the coarse cells and inverted lists."""
        lists = self.shared(AllLists)
        return Index(self.shared(CellMap).cells, lists.lists, lists.first)

    def faces_of_file(self, item: int, wanted: Callable[[I32], Bool] | None = None) -> Iterator[tuple[I32, F32]]:
        """Yield numbers (n,) and unit vectors (n, dim) of a file's numbered faces that are wanted, in file order."""
        numbers, first = self.read(NumberedRows, item).number, 0
        for batch in self.source.batches(item, ["embedding"]):
            of_batch = numbers[first : first + batch.num_rows]
            first += batch.num_rows
            take = of_batch >= 0
            if wanted:
                take[take] = wanted(of_batch[take])
            column = batch.column(0) if take.all() else batch.column(0).filter(pa.array(take))
            vectors, _ = columns.vectors(column, self.dim)
            yield of_batch[take], vectors

    def faces_of_part(self, part: int) -> tuple[I32, F16]:
        """Return the faces (n,) at home in a part, ascending, and their vectors (n, dim)."""
        occupied = self.shared(OccupiedCells).occupied
        cells = np.flatnonzero((self.shared(CellMap).part == part) & (occupied > 0))
        if not len(cells):
            return np.zeros(0, np.int32), np.zeros((0, self.dim), np.float16)
        stored = [self.read(CellFaces, int(cell)) for cell in cells]
        faces = np.concatenate([cell.faces for cell in stored])
        order = np.argsort(faces, kind="stable")
        return faces[order], np.concatenate([cell.vectors for cell in stored])[order]


def _key(kind: type[Stored], name: int | str) -> str:
    return kind.PREFIX if name == "" else f"{kind.PREFIX}/{name}"
