"""What clustering found, and how rows are numbered for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facelake.cluster import columns
from facelake.cluster.mapequation import Block
from facelake.contracts import I32, I64, U8
from facelake.stages.clustering.tasks import Work


@dataclass(slots=True)
class Clustered:
    """What clustering found."""

    number: list[I32]
    """per input file, per row: the face's number, that of its exact duplicate, or -1 for a vector that is not sound"""
    labels: I32
    """(faces,) canonical group of each numbered face"""
    states: dict[str, int]
    """rows by the state of their vector"""
    duplicates: int
    manifest: dict[str, Any]
    """numbers that were derived, with their evidence"""
    figures: dict[str, dict[str, float]]
    """per step: seconds, the driver's peak memory"""
    edges: int
    """of the graph, both directions"""
    compared: int
    """pairs whose similarity the join computed"""


class StoredGraph:
    """The graph's blocks in the work store."""

    def __init__(self, work: Work, parts: int) -> None:
        self._work, self._parts = work, parts

    def __len__(self) -> int:
        return self._parts

    def __getitem__(self, at: int, /) -> Block:
        held = self._work.read(f"graph/{at}")
        return Block(held["nodes"], held["start"], held["target"], held["weight"])


def number_rows(order: I64, content: I64, state: U8) -> tuple[I32, np.ndarray]:
    """A number (n,) per row in the order of keys, equal for exact duplicates, -1 if not sound; and who came first."""
    sound = order[state[order] == columns.State.SOUND]
    _, first, inverse = np.unique(content[sound], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    number = np.full(len(order), -1, np.int32)
    number[sound] = rank[inverse]
    leader = np.zeros(len(order), bool)
    leader[sound[first]] = True
    return number, leader


def groups_of(number: I32, labels: I32, alone: int) -> I64:
    """The group (rows,) of each row of a file; a row that cannot be compared gets one of its own, from `alone` on."""
    group = np.full(len(number), -1, np.int64)
    group[number >= 0] = labels[number[number >= 0]]
    rest = number < 0
    group[rest] = alone + np.arange(int(rest.sum()))
    return group
