"""The result of a full clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facelake.contracts import I32, I64
from facelake.stages.clustering.step_results import StepCost


@dataclass(frozen=True, slots=True)
class Clustered:
    """The groups of all faces, and how they came about."""

    number: list[I32]
    """per input file, per row: the face's number, that of its exact duplicate, or -1 for a vector that is not sound"""
    labels: I32
    """(faces,) canonical group of each numbered face"""
    states: dict[str, int]
    """rows by the state of their vector"""
    duplicates: int
    manifest: dict[str, Any]
    """numbers that were derived, with their evidence"""
    costs: dict[str, StepCost]
    """by step"""
    edges: int
    """of the graph, both directions"""
    compared: int
    """pairs whose similarity the join computed"""


def groups_of(number: I32, labels: I32, alone: int) -> I64:
    """The group (rows,) of each row of a file; a row that cannot be compared gets one of its own, from `alone` on."""
    group = np.full(len(number), -1, np.int64)
    group[number >= 0] = labels[number[number >= 0]]
    rest = number < 0
    group[rest] = alone + np.arange(int(rest.sum()))
    return group
