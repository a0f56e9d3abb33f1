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
    ends, value = (np.concatenate([a, b]), np.concatenate([b, a])), np.concatenate([value, value])
    return Block.of(n, everyone, *ends, _weights(value, cuts))


def _block(faces: I32, a: I32, b: I32, value: F32, n: int, cuts: Calibration) -> Block:
    strong = value >= cuts.graph_cut
    place = np.searchsorted(faces, a[strong]).astype(np.int32)
    return Block.of(n, faces, place, b[strong], _weights(value[strong], cuts))


def _weights(value: F32, cuts: Calibration) -> F32:
    return np.asarray(np.exp((value - cuts.level) / cuts.weight_scale), np.float32)


def group_pairs(of_part: FaceNeighbours, labels: I32, known: Known) -> Pairs:
    """Pairs of groups with an edge between them, among the edges of one part."""
    a, b = of_part.sources(), of_part.near.index
    across = labels[a] != labels[b]
    a, b, value = a[across], b[across], known.value(a[across], b[across], of_part.near.cosine[across])
    strong = value >= known.cuts.edge
    at, to = labels[a[strong]], labels[b[strong]]
    return Pairs.of(np.minimum(at, to), np.maximum(at, to), value[strong])


def leftover_pairs(of_part: FaceNeighbours, alone: Bool, known: Known) -> tuple[I32, I32, F32]:
    """Pairs (a, b, discounted cosine) of singletons above the graph's cut or of which b is the clear nearest of a.

    The latter count only if a is also the clear nearest of b, see `mutual_or_strong`.
    """
    a, b = of_part.sources(), of_part.near.index
    value = known.value(a, b, of_part.near.cosine)
    taken = alone[a] & alone[b] & ((value >= known.cuts.graph_cut) | clear_nearest(a, value, known.cuts))
    return a[taken], b[taken], value[taken]


def clear_nearest(face: I32 | I64, value: F32, cuts: Calibration) -> Bool:
    """Return which neighbours (pairs,) are the nearest of a face, at least `attach` alike and ahead by `lead`.

    None in a small corpus, where chance sets `attach` so low that look-alikes pass it.

    Args:
        face: (pairs,) whose neighbour it is; all neighbours of a face are among the pairs.
        value: (pairs,) discounted cosine.
        cuts: the calibration.
    """
    out = np.zeros(len(face), bool)
    if not cuts.nearest_low or not len(face):
        return out
    order = np.lexsort((-value, face))
    face, ordered_value = face[order], value[order]
    first = np.r_[True, face[1:] != face[:-1]]
    second = np.full(len(face), -1.0, np.float32)
    second[:-1] = np.where(first[1:], -1.0, ordered_value[1:])  # -1: a face with one neighbour
    leads = first & (ordered_value >= cuts.attach) & (ordered_value - second >= cuts.lead)
    out[order[leads]] = True
    return out


def mutual_or_strong(a: I32 | I64, b: I32 | I64, value: F32, cuts: Calibration) -> Bool:
    """Return which pairs (a, b) are above the graph's cut or are there from the other side (b, a) too."""
    width = int(max(a.max(initial=0), b.max(initial=0))) + 1
    both = np.isin(a.astype(np.int64) * width + b, b.astype(np.int64) * width + a)
    return np.asarray((value >= cuts.graph_cut) | both)


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
