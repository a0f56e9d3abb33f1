"""Templates and exemplars of identities: as arrays in memory, or as files that are mapped into it."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F16, F32, I64
from facelake.vectors import STORED, decode_embeddings

TEMPLATES, EXEMPLARS, STARTS = "templates.f32", "exemplars.f16", "exemplar_starts.i64"
"""files of an export with many identities: little-endian values, row after row, in the order of the Parquet rows"""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Identities with what is compared.

    Attributes:
        ids: (n,) identity ids, ascending.
        templates: (n, dim) unit templates.
        exemplars: (x, dim) exemplars, by identity.
        starts: (n + 1,) where the exemplars of each identity begin.
    """

    ids: Sequence[str]
    templates: F32
    exemplars: F16
    starts: I64

    @classmethod
    def of_rows(cls, rows: pa.Table, dim: int = -1) -> Vectors:
        """Take the vectors of rows of an export or of changes, whose columns are without nulls.

        Args:
            rows: identity_id, prototype and exemplars, by ascending id.
            dim: of the vectors; -1: that of the rows, of which there is at least one.
        """
        flat = pc.list_flatten(rows["prototype"].combine_chunks()).to_numpy(zero_copy_only=False)
        dim = dim if dim > 0 else len(flat) // max(rows.num_rows, 1)
        stored = rows["exemplars"].to_pylist()
        starts = np.cumsum([0, *(len(vectors or ()) for vectors in stored)]).astype(np.int64)
        exemplars = decode_embeddings([vector for vectors in stored for vector in vectors or ()], dim)
        templates = np.ascontiguousarray(flat.reshape(rows.num_rows, dim), np.float32)
        return cls(rows["identity_id"].to_pylist(), templates, exemplars, starts)

    @classmethod
    def concat(cls, parts: Sequence[Vectors], dim: int) -> Vectors:
        """Put parts after one another."""
        if not parts:
            return cls([], np.zeros((0, dim), np.float32), np.zeros((0, dim), np.float16), np.zeros(1, np.int64))
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        return cls(
            [name for part in parts for name in part.ids],
            np.concatenate([part.templates for part in parts]),
            np.concatenate([part.exemplars for part in parts]),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )

    @classmethod
    def mapped(cls, folder: Path, ids: Sequence[str], dim: int) -> Vectors:
        """Map the files of an export; nothing is read before it is used.

        Raises:
            ValueError: a file does not have the size that the number of ids demands.
        """
        starts = np.fromfile(folder / STARTS, "<i8").astype(np.int64)
        templates = _mapped(folder / TEMPLATES, np.dtype("<f4"), dim)
        exemplars = _mapped(folder / EXEMPLARS, STORED, dim)
        if len(starts) != len(ids) + 1 or len(templates) != len(ids) or starts[-1] != len(exemplars):
            raise ValueError(f"{len(templates)} templates and {len(starts) - 1} lists of exemplars of {len(ids)} ids")
        return cls(ids, templates, exemplars, starts)

    def exemplars_of(self, row: int) -> F16:
        """Return the exemplars (k, dim) of an identity."""
        return self.exemplars[self.starts[row] : self.starts[row + 1]]

    def without(self, names: Collection[str]) -> Vectors:
        """Return the identities that are not among `names`, in memory."""
        return self._rows([i for i, name in enumerate(self.ids) if name not in names])

    def sorted(self) -> Vectors:
        """Return the identities by ascending id, in memory."""
        return self._rows(sorted(range(len(self.ids)), key=self.ids.__getitem__))

    def _rows(self, rows: list[int]) -> Vectors:
        counts = np.diff(self.starts)[rows]
        chosen = np.repeat(self.starts[rows], counts) + _within(counts)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Vectors([self.ids[i] for i in rows], self.templates[rows], self.exemplars[chosen], starts)


def _within(counts: I64) -> I64:
    """Return 0, 1, ... for each count, one after another."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)


def _mapped(path: Path, kind: np.dtype[np.generic], dim: int) -> np.ndarray:
    size = path.stat().st_size
    if not size:  # an empty file cannot be mapped
        return np.zeros((0, dim), kind)
    if size % (dim * kind.itemsize):
        raise ValueError(f"{path.name} is not of rows of {dim} values")
    return np.memmap(path, kind, mode="r", shape=(size // (dim * kind.itemsize), dim))


def release(array: np.ndarray) -> None:
    """Let go of the pages of a mapped file that were read; the system reads them again where they are needed.

    A pass over gigabytes of templates would keep them resident otherwise. An array in memory stays as it is.
    """
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


class VectorFiles:
    """Writes the files that `Vectors.mapped` reads, part by part."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._open = {name: (folder / name).open("wb") for name in (TEMPLATES, EXEMPLARS, STARTS)}
        self._open[STARTS].write(np.zeros(1, "<i8").tobytes())

    def add(self, part: Vectors) -> None:
        """Write a part."""
        self._open[TEMPLATES].write(np.ascontiguousarray(part.templates, "<f4").data)
        self._open[EXEMPLARS].write(np.ascontiguousarray(part.exemplars, STORED).data)
        self._open[STARTS].write((part.starts[1:] + self._count).astype("<i8").tobytes())
        self._count += len(part.exemplars)

    def close(self) -> Iterator[str]:
        """Close the files; yields their names."""
        for name, file in self._open.items():
            file.close()
            yield name
