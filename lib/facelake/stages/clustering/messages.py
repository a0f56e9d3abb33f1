"""Blocks that the tasks of a full clustering send to each other and to the driver: one class per kind of block."""

from __future__ import annotations

from dataclasses import dataclass

from facelake.contracts import F16, F32, F64, I32


@dataclass(frozen=True, slots=True)
class FaceVectors:
    """Faces (n,) and vectors (n, dim)."""

    faces: I32
    vectors: F16


@dataclass(frozen=True, slots=True)
class FacesOfCell:
    """Faces (n,) of a cell, their lists (n, nprobe) in all cells, and their vectors (n, dim)."""

    faces: I32
    lists: I32
    vectors: F16


@dataclass(frozen=True, slots=True)
class Queries:
    """Faces (n,) to be compared with a whole cell, their vectors (n, dim), and the part (n,) that asks.

    A block without faces has one `part`: it announces a part that gets an answer even if it asks for nothing.
    """

    faces: I32
    vectors: F16
    part: I32


@dataclass(frozen=True, slots=True)
class EdgeCount:
    """Number of edges of a part."""

    edges: int


@dataclass(frozen=True, slots=True)
class PartSums:
    """A part's share of the sums (n, dim) of groups by their rows (n,)."""

    part: int
    rows: I32
    sums: F32


@dataclass(frozen=True, slots=True)
class GroupPairs:
    """Pairs (n,) of groups with an edge between them, and its discounted cosine."""

    low: I32
    high: I32
    cosine: F32


@dataclass(frozen=True, slots=True)
class FacePairs:
    """Pairs (n,) of faces and their discounted cosine."""

    a: I32
    b: I32
    value: F32


@dataclass(frozen=True, slots=True)
class Relabelled:
    """Faces (n,) whose group changes, and their new labels."""

    faces: I32
    labels: I32


@dataclass(frozen=True, slots=True)
class PartSurroundings:
    """How many groups (n,) of a part's faces are around groups, by their rows (n,); see crowds.py."""

    rows: I32
    groups: F64


@dataclass(frozen=True, slots=True)
class FacesToDivide:
    """Faces (n,) of groups that are divided, their vectors (n, dim), and the row (n,) that numbers their group."""

    faces: I32
    vectors: F16
    row: I32


@dataclass(frozen=True, slots=True)
class FaceScores:
    """Faces (n,) and their cosine to the centroid of their group."""

    faces: I32
    score: F32


@dataclass(frozen=True, slots=True)
class PartMoment:
    """A part's share of the second moment (dim, dim) of vectors."""

    moment: F64


@dataclass(frozen=True, slots=True)
class PartSample:
    """A part's sampled faces (n,) of groups: the row of the group, the face, its vector (n, dim)."""

    row: I32
    face: I32
    vectors: F16
