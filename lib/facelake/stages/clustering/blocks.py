"""Blocks that clustering tasks send to each other: rows by key, faces with their neighbours, pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.edges import starts_of
from facelake.cluster.neighbours import FaceNeighbours, Ragged, union
from facelake.contracts import I32, U16
from facelake.distinct import distinct
from facelake.engines.exchange import Block
from facelake.stages.clustering.messages import FacesOfCell, FacesToDivide, FaceVectors, Queries
from facelake.stages.clustering.stored import FoundNeighbours

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Rows = TypeVar("Rows", bound=DataclassInstance)
    Neighbours = TypeVar("Neighbours", bound=FoundNeighbours)
    OfFaces = TypeVar("OfFaces", FaceVectors, FacesOfCell, Queries, FacesToDivide)

NO_PARTS = np.zeros(0, np.uint16)


def by_key(key: np.ndarray, rows: DataclassInstance) -> Iterator[Block]:
    """Yield the rows of each key as one block, keys ascending.

    Args:
        key: (n,) integers.
        rows: its fields are arrays whose first axis is n.
    """
    if not len(key):
        return
    order = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[order], return_index=True)
    for value, places in zip(keys, np.split(order, starts[1:]), strict=True):
        yield int(value), encode(_taken(rows, places))


def gather(kind: type[OfFaces], blocks: list[bytes]) -> OfFaces:
    """Return the rows of all blocks, ordered by face, so that the order of the blocks does not matter."""
    rows = joined([decode(kind, block) for block in blocks])
    return _taken(rows, np.argsort(rows.faces, kind="stable"))


def joined(blocks: list[Rows]) -> Rows:
    """Return the rows of several values of one class, one after the other."""
    names = [field.name for field in fields(blocks[0])]
    return replace(blocks[0], **{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})


def _taken(rows: Rows, places: np.ndarray) -> Rows:
    return replace(rows, **{field.name: getattr(rows, field.name)[places] for field in fields(rows)})


def neighbours_of(kind: type[Neighbours], neighbours: FaceNeighbours, near_part: U16) -> Neighbours:
    """Return faces with their neighbours, and the part where each neighbour is at home, as a payload."""
    near = neighbours.near
    return kind(neighbours.faces, np.diff(near.start).astype(np.uint16), near.index, near.cosine, near_part)


def neighbours_in(stored: FoundNeighbours) -> FaceNeighbours:
    """Return the faces and neighbours of a payload."""
    return FaceNeighbours(stored.faces, Ragged(starts_of(stored.counts), stored.index, stored.cosine))


def neighbours_by_key(key: np.ndarray, neighbours: FaceNeighbours, near_part: U16) -> Iterator[Block]:
    """Yield the faces of each key with their neighbours as one block.

    Args:
        key: (faces,) integers.
        neighbours: the faces and their neighbours.
        near_part: (pairs,) the part where each neighbour is at home.
    """
    faces, near = neighbours.faces, neighbours.near
    counts = np.diff(near.start)
    order, pairs = np.argsort(key, kind="stable"), np.argsort(np.repeat(key, counts), kind="stable")
    keys, first = np.unique(key[order], return_index=True)
    ends = np.append(first, len(order))
    at = starts_of(counts[order])
    for value, begin, end in zip(keys, ends[:-1], ends[1:], strict=True):
        rows, near_rows = order[begin:end], pairs[at[begin] : at[end]]
        ragged = Ragged(starts_of(counts[rows]), near.index[near_rows], near.cosine[near_rows])
        yield (
            int(value),
            encode(neighbours_of(FoundNeighbours, FaceNeighbours(faces[rows], ragged), near_part[near_rows])),
        )


def united(blocks: list[FoundNeighbours], k: int) -> tuple[FaceNeighbours, U16]:
    """Return the k best neighbours of each face over several cells, and the part (pairs,) of each neighbour."""
    several = [neighbours_in(block) for block in blocks]
    faces: I32 = distinct(np.concatenate([neighbours.faces for neighbours in several])).astype(np.int32)
    near = union([(neighbours.faces, neighbours.near) for neighbours in several], faces, k).ragged()
    known, place = np.unique(np.concatenate([block.index for block in blocks]), return_index=True)
    parts = np.concatenate([block.part for block in blocks])[place]
    return FaceNeighbours(faces, near), parts[np.searchsorted(known, near.index)] if len(known) else NO_PARTS
