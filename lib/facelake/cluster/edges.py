"""Neighbours into edges: discounted, cut, symmetric, for the faces of one part of the corpus at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.cluster.linkage import Pairs
from facelake.cluster.mapequation import Block
from facelake.cluster.neighbours import FaceNeighbours
from facelake.cluster.quality_norm import Gate
from facelake.contracts import F16, F32, I32, I64, U8, Bool


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of every face (n,), and the numbers of the run."""

    bins: U8
    gate: Gate
    cuts: Calibration

    def value(self, a: I32, b: I32, cosine: F16) -> F32:
        """Discounted cosine (m,) of pairs of faces."""
        return np.asarray(cosine.astype(np.float32) - self.gate.discount(self.bins[a], self.bins[b]), np.float32)


def with_few_neighbours(of_part: FaceNeighbours, cut: float, least: int) -> Bool:
    """(m,) faces with fewer than `least` neighbours above the cut: their own may lie in other lists."""
    strong = np.concatenate([[0], np.cumsum(of_part.near.cosine >= np.float16(cut))])
    return np.asarray(strong[of_part.near.start[1:]] - strong[of_part.near.start[:-1]] < least)


def graph_block(of_part: FaceNeighbours, other: I32, here: I32, cosine: F16, known: Known) -> Block:
    """The rows of the faces of one part in the graph of edges.

    Args:
        other, here, cosine: (pairs,) the same pairs from the other side: `here`, a face of this part, is a
            neighbour of `other`.
    """
    a, b = np.concatenate([of_part.sources(), here]), np.concatenate([of_part.near.index, other])
    cosine = np.concatenate([of_part.near.cosine, cosine])
    return _block(of_part.faces, a, b, known.value(a, b, cosine), len(known.bins), known.cuts)


def leftover_graph(n: int, a: I32, b: I32, value: F32, cuts: Calibration) -> Block:
    """The graph of pairs of faces that no group took, from one side each."""
    everyone = np.arange(n, dtype=np.int32)
    both = np.concatenate([a, b]), np.concatenate([b, a])
    return _block(everyone, *both, np.concatenate([value, value]), n, cuts)


def _block(faces: I32, a: I32, b: I32, value: F32, n: int, cuts: Calibration) -> Block:
    strong = value >= cuts.graph_cut
    weight = np.exp((value[strong] - cuts.level) / cuts.weight_scale).astype(np.float32)
    return Block.of(n, faces, np.searchsorted(faces, a[strong]).astype(np.int32), b[strong], weight)


def group_pairs(of_part: FaceNeighbours, labels: I32, known: Known) -> Pairs:
    """Pairs of groups with an edge between them, among the edges of one part."""
    a, b = of_part.sources(), of_part.near.index
    across = labels[a] != labels[b]
    a, b, value = a[across], b[across], known.value(a[across], b[across], of_part.near.cosine[across])
    strong = value >= known.cuts.edge
    at, to = labels[a[strong]], labels[b[strong]]
    return Pairs.of(np.minimum(at, to), np.maximum(at, to), value[strong])


def leftover_pairs(of_part: FaceNeighbours, alone: Bool, known: Known) -> tuple[I32, I32, F32]:
    """Pairs (a, b, discounted cosine) of faces that are alone, above the graph's cut."""
    a, b = of_part.sources(), of_part.near.index
    both = alone[a] & alone[b]
    a, b, value = a[both], b[both], known.value(a[both], b[both], of_part.near.cosine[both])
    strong = value >= known.cuts.graph_cut
    return a[strong], b[strong], value[strong]


def mirrored(of_part: FaceNeighbours) -> tuple[I32, I32, F16]:
    """The pairs from the other side: (face that is a neighbour, whose neighbour it is, cosine)."""
    return of_part.near.index, of_part.sources(), of_part.near.cosine


def ordered(a: I32, b: I32, cosine: F16) -> tuple[I32, I32, F16]:
    """The pairs by (a, b): the same whatever order they came in."""
    order = np.lexsort((b, a))
    return a[order], b[order], cosine[order]


def starts_of(counts: np.ndarray) -> I64:
    """Where each run begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
