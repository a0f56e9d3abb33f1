"""What the tasks and the driver of a full clustering write to the work store: one class per kind of object.

A class names its place: `PREFIX` alone, or `PREFIX/<name>` where there is one object per input file, coarse cell, part
or chunk. F is the number of faces, numbered from 0 without exact duplicates; a part is a run of coarse cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from facelake.contracts import F16, F32, F64, I32, I64, U8, U16


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of the work store."""

    PREFIX: ClassVar[str] = ""


# ---- one object per input file


@dataclass(frozen=True, slots=True)
class ScannedRows(Stored):
    """(rows,) keys of face and photo, quality, content hash and State of a file's rows."""

    PREFIX: ClassVar[str] = "scan"
    key: I64
    photo: I64
    quality: F32
    content: I64
    state: U8


@dataclass(frozen=True, slots=True)
class NumberedRows(Stored):
    """(rows,) face numbers of a file's rows, -1 where the vector is not sound.

    `number` is also -1 for the second and later rows of a face; `group` has the number for all of them.
    """

    PREFIX: ClassVar[str] = "rows"
    number: I32
    group: I32


@dataclass(frozen=True, slots=True)
class SampledFaces(Stored):
    """Faces (n,) of a file that are in the sample, and their vectors (n, dim)."""

    PREFIX: ClassVar[str] = "sample"
    faces: I32
    vectors: F16


@dataclass(frozen=True, slots=True)
class AssignedLists(Stored):
    """(rows, nprobe) inverted lists of a file's numbered faces, as looked up in the first wave."""

    PREFIX: ClassVar[str] = "assigned"
    lists: I32


# ---- the index


@dataclass(frozen=True, slots=True)
class SampleChoice(Stored):
    """(F,) 1 for faces that are in the sample."""

    PREFIX: ClassVar[str] = "sample-faces"
    chosen: U8


@dataclass(frozen=True, slots=True)
class Nuisance(Stored):
    """(dim, r) orthonormal directions that are removed from every vector."""

    PREFIX: ClassVar[str] = "nuisance"
    directions: F32


@dataclass(frozen=True, slots=True)
class CellCentroids(Stored):
    """(cells, dim) centroids by which the training of lists is divided."""

    PREFIX: ClassVar[str] = "cell-centroids"
    cells: F32


@dataclass(frozen=True, slots=True)
class TrainedCell(Stored):
    """What one of these cells became: cells (c, dim), lists (l, dim), and per cell its lists and expected faces."""

    PREFIX: ClassVar[str] = "lists"
    cells: F32
    lists: F32
    count: I64
    weight: F64


@dataclass(frozen=True, slots=True)
class AllLists(Stored):
    """Lists (lists, dim) of all cells, and where those of each cell begin (cells + 1,)."""

    PREFIX: ClassVar[str] = "all-lists"
    lists: F32
    first: I64


@dataclass(frozen=True, slots=True)
class CellMap(Stored):
    """Cells (cells, dim), and the part (cells,) that each belongs to."""

    PREFIX: ClassVar[str] = "cell-map"
    cells: F32
    part: I32


# ---- neighbours


@dataclass(frozen=True, slots=True)
class CellFaces(Stored):
    """Faces (n,) at home in a cell, and their vectors (n, dim)."""

    PREFIX: ClassVar[str] = "cells"
    faces: I32
    vectors: F16


@dataclass(frozen=True, slots=True)
class OccupiedCells(Stored):
    """(cells,) 1 for cells that have faces."""

    PREFIX: ClassVar[str] = "sizes"
    occupied: U8


@dataclass(frozen=True, slots=True)
class ComparedPairs(Stored):
    """How many pairs were compared in a cell."""

    PREFIX: ClassVar[str] = "compared"
    pairs: int


@dataclass(frozen=True, slots=True)
class JoinedWave(Stored):
    """Parts (n,) that a wave had neighbours for, and their histograms (n, steps) as of this wave."""

    PREFIX: ClassVar[str] = "waves"
    part: I64
    every: I64
    best: I64


@dataclass(frozen=True, slots=True)
class FoundNeighbours(Stored):
    """Faces (n,) with the count of their neighbours, and of each neighbour (pairs,) its number, cosine and part."""

    PREFIX: ClassVar[str] = "found"
    faces: I32
    counts: U16
    index: I32
    cosine: F16
    part: U16


@dataclass(frozen=True, slots=True)
class FinalNeighbours(FoundNeighbours):
    """The same after the second pass."""

    PREFIX: ClassVar[str] = "edges"


@dataclass(frozen=True, slots=True)
class ReversePairs(Stored):
    """Pairs (n,) from the other side: `here`, a face of the part, is a neighbour of `other`."""

    PREFIX: ClassVar[str] = "reverse"
    here: I32
    other: I32
    cosine: F16


# ---- groups


@dataclass(frozen=True, slots=True)
class GraphRows(Stored):
    """The rows of a part's faces in the graph, in CSR form: see `cluster.mapequation.Block`."""

    PREFIX: ClassVar[str] = "graph"
    nodes: I32
    start: I64
    target: I32
    weight: F32


@dataclass(frozen=True, slots=True)
class LocalGroups(Stored):
    """Faces (n,) of a part, and their groups inside it, numbered from 0."""

    PREFIX: ClassVar[str] = "local"
    faces: I32
    labels: I32


@dataclass(frozen=True, slots=True)
class SharedLabels(Stored):
    """Labels that tasks read: (F,) group of each face, (groups,) row among the sums or -1, and size."""

    PREFIX: ClassVar[str] = "labels"
    labels: I32
    row: I32
    size: I32


@dataclass(frozen=True, slots=True)
class GroupSums(Stored):
    """Sums (n, dim) of the vectors of the groups of one chunk of rows."""

    PREFIX: ClassVar[str] = "sums"
    sums: F32


# ---- the result, for the tasks that write the `groups` table


@dataclass(frozen=True, slots=True)
class FinalGroups(Stored):
    """(F,) group of each face and its cosine to the group's centroid; and per file the first group of rows without."""

    PREFIX: ClassVar[str] = "result"
    labels: I32
    score: F32
    first_alone: I64
