"""Why two faces, or two groups, are together or apart: the figures that clustering decided by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.cluster.linkage import inside_similarity, least_mean, wanted_ratio
from facelake.cluster.overlap import (
    LISTED_CUTS,
    SAMPLED_CUTS,
    Links,
    Sums,
    expected_links,
    link_cuts,
    matched,
    overlapping,
)
from facelake.cluster.quality_norm import Gate
from facelake.cluster.sampled_links import LARGE
from facelake.contracts import F32, I64


@dataclass(frozen=True, slots=True)
class FacePair:
    """Two faces."""

    similarity: float
    """cosine, nuisances taken out"""
    discount: float
    """taken off because the faces are poor"""
    graph_cut: float
    """similarity less discount from which they are an edge of the graph"""
    edge: bool


@dataclass(frozen=True, slots=True)
class Path:
    """The chain between two faces whose weakest link is strongest."""

    faces: list[int]
    """positions, both ends included"""
    weakest: float
    """discounted cosine of its weakest link"""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far the photos of two groups run into each other (`overlap`)."""

    cut: float
    """cosine from which a pair of faces counts as a link"""
    links: int
    """of all pairs; clustering counts those in the lists of neighbours, and between large groups those of a sample"""
    expected: float
    """links that two people with that mean similarity would have"""
    joins: bool
    """whether the links are many enough, and of enough faces, for one person"""


@dataclass(frozen=True, slots=True)
class GroupPair:
    """Two groups."""

    sizes: tuple[int, int]
    between: float
    """mean cosine of all their pairs"""
    inside: tuple[float, float]
    """mean cosine inside each, shrunk towards the corpus's level"""
    ratio: float
    """between, relative to inside"""
    wanted_between: float
    wanted_ratio: float
    strongest: float
    """the best discounted cosine of a pair across; groups without an edge are not compared"""
    reference: float
    """what `wanted_ratio` is a share of: the similarity inside, but no more than the corpus's level"""
    overlap: Overlap

    @property
    def joins(self) -> bool:
        """Whether the mean similarity says that the two are one person; `overlap` may, where it does not."""
        near = self.strongest >= self.wanted_between and self.between >= self.wanted_between
        return near and self.between >= self.wanted_ratio * self.reference


def face_pair(vectors: F32, quality: F32, gate: Gate, cuts: Calibration) -> FacePair:
    """Two faces: vectors (2, dim) unit, quality (2,)."""
    bins = gate.bins(quality)
    similarity = float(vectors[0] @ vectors[1])
    discount = float(gate.discount(bins[:1], bins[1:])[0])
    return FacePair(similarity, discount, cuts.graph_cut, edge=similarity - discount >= cuts.graph_cut)


def widest_path(vectors: F32, quality: F32, gate: Gate, first: int, last: int) -> Path:
    """The path between two of some faces, vectors (n, dim), whose weakest link is strongest: along a maximum
    spanning tree (Prim), so no threshold is needed."""
    value = discounted(vectors, quality, gate)
    n = len(vectors)
    best, parent, done = np.full(n, -np.inf), np.full(n, -1), np.zeros(n, bool)
    best[first] = np.inf
    for _ in range(n):
        at = int(np.argmax(np.where(done, -np.inf, best)))
        done[at] = True
        if at == last:
            break
        nearer = ~done & (value[at] > best)
        best[nearer], parent[nearer] = value[at][nearer], at
    faces = [last]
    while faces[-1] != first:
        faces.append(int(parent[faces[-1]]))
    links = [float(value[a, b]) for a, b in zip(faces[1:], faces[:-1], strict=True)]
    return Path(faces[::-1], min(links, default=1.0))


def discounted(vectors: F32, quality: F32, gate: Gate) -> F32:
    """Cosines (n, n) of all pairs, less their discounts."""
    bins = gate.bins(quality)
    off = gate.discount(np.repeat(bins, len(bins)), np.tile(bins, len(bins)))
    return np.asarray(vectors @ vectors.T - off.reshape(len(bins), len(bins)), np.float32)


def group_pair(vectors: F32, quality: F32, second: I64, gate: Gate, cuts: Calibration) -> GroupPair:
    """Two groups: vectors (n, dim) of both, second (n,) 0 for the one and 1 for the other."""
    a, b = second == 0, second == 1
    sums = np.stack([vectors[a].sum(0), vectors[b].sum(0)]).astype(np.float32)
    size = np.array([a.sum(), b.sum()], np.int64)
    between = float(sums[0] @ sums[1]) / float(size[0] * size[1])
    inside = inside_similarity(sums, size, cuts.level)
    within = float(np.sqrt(inside[0] * inside[1]))
    across = discounted(vectors, quality, gate)[np.ix_(a, b)]
    strongest = float(across.max())
    overlap = _overlap(vectors[a] @ vectors[b].T, Sums(sums, size), between, cuts)
    wanted = wanted_ratio(int(size.min()), cuts)
    sizes, both = (int(size[0]), int(size[1])), (float(inside[0]), float(inside[1]))
    reference = min(within, cuts.level)
    return GroupPair(
        sizes, between, both, between / within, least_mean(int(size.max()), cuts), wanted, strongest, reference, overlap
    )


def _overlap(across: F32, groups: Sums, between: float, cuts: Calibration) -> Overlap:
    """Return the overlap of two groups by the cut at which they join, or else by the graph's cut.

    Args:
        across: (n, m) cosines of the faces of the one with those of the other.
        groups: the two.
        between: mean cosine of all their pairs.
        cuts: the calibration.
    """
    found = []
    for cut in link_cuts(cuts, SAMPLED_CUTS if groups.size.min() > LARGE else LISTED_CUTS):
        linked = across >= cut
        most = max(int(linked.sum(0).max()), int(linked.sum(1).max()))
        one, other = np.zeros(1, np.int32), np.ones(1, np.int32)
        links = Links(one, other, np.array([linked.sum()], np.int64), np.array([most], np.int64))
        joins = bool(links.links[0] and (matched(links, groups.size) & overlapping(links, groups, cuts, cut))[0])
        expected = expected_links(np.array([between]), np.array([float(across.size)]), cuts, cut)
        found.append(Overlap(cut, int(linked.sum()), float(expected[0]), joins))
    return next((overlap for overlap in found if overlap.joins), found[0])


def as_dict(item: FacePair | Path | GroupPair) -> dict[str, Any]:
    """For JSON."""
    return asdict(item) | ({"joins": item.joins} if isinstance(item, GroupPair) else {})
