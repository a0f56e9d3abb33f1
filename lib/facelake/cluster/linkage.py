"""Joins groups of one person, attaches singletons, and moves faces that are in the wrong group.

Two groups are joined when the mean similarity of all their pairs is above two cuts:

* `edge` (absolute, derived from impostors): below it similarities are those of chance and of look-alikes; where both
  groups have fewer than four faces, the mean of so few pairs is no better evidence than one pair, so that the cut is
  the graph's;
* a ratio of the similarity inside the two groups (relative): two people who resemble each other may reach .5, but not
  while the photos of each of them reach .9 among themselves. Inside similarity is the mean over a group's pairs,
  shrunk towards the corpus's level for small groups, and at most that level, so that a burst of near copies does not
  raise the cut. A joined group keeps the inside similarity of the parts it was made of: that of the joined group is
  lower, so the cut would fall with every join, and a family of look-alikes would be joined one after the other.

This is group average linkage (Sokal and Michener, 1958) along the edges of a neighbour graph, best edge first, as in
Franti et al., "Fast agglomerative clustering using a k-nearest neighbor graph", PAMI 2006. The mean over all pairs of
two groups is the product of their sums, so no pair is ever visited, and memory is needed for groups only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.cluster.labels import canonical
from facelake.contracts import F32, F64, I32, I64, Bool
from facelake.inner_product import dot

_MAX_PASSES = 20
_PRIOR_PAIRS = 3.0  # weight of the corpus's level against a group's own
_LARGE = 8  # faces from which on a group's own figures are trusted
_FEW = 4  # fewer faces of a group make a noisy template
_APART = 0.05  # how much more alike two groups must be that were left apart
_MARGIN = 0.15  # lead of another group at which a face moves
# Several look-alikes of a face are about equally similar to it, its own person is alone: the group next to the best one
# lies at most this share of its way above different people. Asked of groups with few faces, whose centroid is noisy.
_NEXT_SHARE = 0.75
_NEAR_GROUPS = 16  # other groups looked at per face, the nearest first
_MOST_JOINING, _MOST_JOINING_SHARE = 5, 2  # singletons that may join a group at once; relative to its faces


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of groups (low < high) with their best discounted cosine; each pair once, ordered by (low, high)."""

    low: I32
    high: I32
    cosine: F32

    @classmethod
    def of(cls, low: I32, high: I32, cosine: F32) -> Pairs:
        """From any list of pairs, in which a pair may come twice."""
        order = np.lexsort((-cosine, high, low))
        low, high, cosine = low[order], high[order], cosine[order]
        first = np.ones(len(low), bool)
        first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        return cls(low[first], high[first], cosine[first])


def join_groups(sums: F32, size: I64, pairs: Pairs, cuts: Calibration, apart: Bool | None = None) -> tuple[I32, I32]:
    """Join groups along pairs, best first.

    Args:
        sums: (groups, dim) sums of the groups' unit vectors; it is changed.
        size: (groups,) faces of each.
        apart: (groups,) those that a clustering of all faces left apart from each other: two of them must be more
            alike than two others, so that look-alikes near the cut are not joined one by one over many runs.

    Returns:
        (groups,) canonical number of the joined group that each is part of, and (joined,) the row of `sums` that now
        holds the sum of each.
    """
    order = np.lexsort((pairs.high, pairs.low, -pairs.cosine))
    limits = _JoinLimits(cuts.edge, cuts.graph_cut, cuts.ratio, cuts.ratio_single, cuts.level)
    apart = np.zeros(len(size), bool) if apart is None else apart.copy()
    parent = _join(sums, size.astype(np.int64), pairs.low[order], pairs.high[order], apart, limits)
    root = np.flatnonzero(parent == np.arange(len(parent))).astype(np.int32)
    number = canonical(parent)
    return number, root[np.argsort(number[root], kind="stable")]


def inside_similarity(sums: F32, size: I64, level: float) -> F32:
    """Mean similarity (groups,) of the pairs inside each group, shrunk towards the level."""
    square = np.einsum("ij,ij->i", sums, sums)
    return np.array([_inside(q, n, level) for q, n in zip(square, size, strict=True)], np.float32)


def wanted_ratio(smaller: int, cuts: Calibration) -> float:
    """Least mean similarity between two groups relative to that inside them; `smaller`: faces of the smaller group."""
    return float(_wanted(smaller, cuts.ratio, cuts.ratio_single))


def least_mean(larger: int, cuts: Calibration) -> float:
    """Least mean similarity between two groups, whatever that inside them; `larger`: faces of the larger group."""
    return float(_least_mean(larger, cuts.edge, cuts.graph_cut))


class NearGroups(NamedTuple):
    """The groups of the neighbours of m faces."""

    start: I64
    """(m + 1,) where those of each face begin in `group`"""
    group: I32
    """best neighbour first; a group may come several times"""


def settle(vectors: F32, own: I32, near: NearGroups, sums: F32, size: I64, cuts: Calibration) -> I32:
    """Return labels in which singletons are assigned and misplaced faces moved.

    A singleton joins the group with the most similar centroid, if the similarity is at least `cuts.attach` and leads
    over the next group by `cuts.lead`; where the group is small, also by a quarter of its way above different people.
    A face in a group of three or more moves to another group whose faces are more similar to it, relative to inside
    each group, than the other faces of its own, by a margin.

    Args:
        vectors: (m, dim) unit.
        own: (m,) group of each face.
        near: the groups of each face's neighbours.
        sums: (groups, dim) sums of the unit vectors of all groups.
        size: (groups,) number of faces.
        cuts: the calibration.

    Returns:
        (m,) labels.
    """
    square = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    limits = _SettleLimits(cuts.level, cuts.attach, cuts.attach_few, cuts.lead, cuts.impostor_mean)
    return np.asarray(_settle(vectors, own, near, _Groups(sums, size, square), limits), np.int32)


def without_crowds(own: I32, settled: I32, size: I64) -> I32:
    """Return labels in which no crowd of singletons joins a small group.

    Poor faces of different people are similar to each other. Where some of them are a group, its centroid is what poor
    faces have in common, and in a large corpus hundreds of singletons are more similar to it than to any person.

    Args:
        own: (m,) group of each face.
        settled: (m,) labels by `settle`, of all faces of the corpus that may join.
        size: (groups,) number of faces of each group.
    """
    joining = (settled != own) & (size[own] == 1)
    joined = np.bincount(settled[joining], minlength=len(size))
    crowded = joined > np.maximum(_MOST_JOINING, _MOST_JOINING_SHARE * size)
    return np.asarray(np.where(joining & crowded[settled], own, settled), np.int32)


class _JoinLimits(NamedTuple):
    """Limits of joining, as in `Calibration`."""

    edge: float
    graph_cut: float
    ratio: float
    ratio_single: float
    level: float


class _SettleLimits(NamedTuple):
    """Limits of singleton assignment, as in `Calibration`."""

    level: float
    attach: float
    attach_few: float
    lead: float
    impostor_mean: float


class _Groups(NamedTuple):
    """Sums (groups, dim), sizes and squared lengths of the sums."""

    sums: F32
    size: I64
    square: F64


@numba.njit(cache=True)
def _find(parent: I32, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True)
def pair_mean(square: float, size: int) -> float:
    """Mean cosine of the pairs in a group of at least two unit vectors, from the squared length of their sum."""
    return (square - size) / (size * (size - 1.0))


@numba.njit(cache=True)
def _inside(square: float, size: int, level: float) -> float:
    """Mean similarity of a group's pairs from the squared length of its sum, shrunk to the corpus's level."""
    if size < 2:
        return level
    mean: float = pair_mean(square, size)
    return max(((size - 1.0) * mean + _PRIOR_PAIRS * level) / (size - 1.0 + _PRIOR_PAIRS), 0.05)


@numba.njit(cache=True)
def _wanted(smaller: int, ratio: float, ratio_single: float) -> float:
    return ratio + (ratio_single - ratio) * max(0.0, (_LARGE - smaller) / (_LARGE - 1.0))


@numba.njit(cache=True)
def _least_mean(larger: int, edge: float, graph_cut: float) -> float:
    return edge if larger >= _FEW else graph_cut


@numba.njit(cache=True)
def _bar(wanted: float, inside: float, level: float, apart: bool) -> float:
    """Return the least mean similarity at which two groups are joined."""
    return (wanted + _APART) * max(inside, level) if apart else wanted * inside


@numba.njit(cache=True)
def _join(sums: F32, size: I64, low: I32, high: I32, apart: Bool, limits: _JoinLimits) -> I32:
    """Return the parent (groups,) of each group in the joined groups; sums, size and apart change in place.

    Pairs are compared in the given order, pass after pass, until no pair is joined.
    """
    count, dim = sums.shape
    level = limits.level
    parent = np.arange(count).astype(np.int32)
    inside = np.zeros(count)  # of a joined group: the mean over its parts, by their faces
    for i in range(count):
        square = 0.0
        for d in range(dim):
            square += sums[i, d] * sums[i, d]
        inside[i] = _inside(square, size[i], level)
    # A pair that failed is not compared again until one of its groups has grown: joins are numbered, each group keeps
    # the number of its last join and each pair that of its last comparison.
    grown, looked, number = np.zeros(count, np.int32), np.full(len(low), -1, np.int32), 0
    for _ in range(_MAX_PASSES):
        joined = 0
        for e in range(len(low)):
            i, j = _find(parent, low[e]), _find(parent, high[e])
            if i == j or max(grown[i], grown[j]) <= looked[e]:
                continue
            looked[e] = number
            total = 0.0
            for d in range(dim):
                total += sums[i, d] * sums[j, d]
            between = total / (size[i] * size[j])
            # near copies are more similar than two photos of the person usually are, hence the level as upper bound
            wanted = _wanted(min(size[i], size[j]), limits.ratio, limits.ratio_single)
            both = min(np.sqrt(inside[i] * inside[j]), level)
            least = _least_mean(max(size[i], size[j]), limits.edge, limits.graph_cut)
            if between < least or between < _bar(wanted, both, level, apart[i] and apart[j]):
                continue
            if size[i] < size[j]:
                i, j = j, i
            parent[j] = i
            inside[i] = (size[i] * inside[i] + size[j] * inside[j]) / (size[i] + size[j])
            size[i] += size[j]
            apart[i] |= apart[j]
            for d in range(dim):
                sums[i, d] += sums[j, d]
            joined += 1
            number += 1
            grown[i] = number
        if joined == 0:
            break
    for i in range(count):
        parent[i] = _find(parent, i)
    return parent


@numba.njit(cache=True)
def _leads(score: float, second: float, size: int, limits: _SettleLimits) -> bool:
    """Return whether a group's similarity is clearly above that of the next one."""
    if score - second < limits.lead:
        return False
    return size >= _LARGE or second - limits.impostor_mean <= _NEXT_SHARE * (score - limits.impostor_mean)


@numba.njit(cache=True)
def _settle(vectors: F32, labels: I32, near: NearGroups, groups: _Groups, limits: _SettleLimits) -> I32:
    sums, size = groups.sums, groups.size
    out = labels.copy()
    length, inside = np.sqrt(groups.square), np.empty(len(size))
    for m in range(len(size)):
        inside[m] = np.sqrt(_inside(groups.square[m], size[m], limits.level))
    for i in range(len(labels)):
        own = labels[i]
        around = near.group[near.start[i] : near.start[i + 1]]
        if size[own] == 1:
            best, score, second = _nearest_group(vectors[i], own, around, 2, groups, length)
            least = limits.attach if size[best] >= _FEW else limits.attach_few
            if score >= least and _leads(score, second, size[best], limits):
                out[i] = best
        elif size[own] > 2:
            at_home = (dot(vectors[i], sums[own]) - 1.0) / (size[own] - 1.0) / inside[own]
            best, score, second = _nearest_group(vectors[i], own, around, 3, groups, size * inside)
            if score > at_home + _MARGIN:
                out[i] = best
    return out


@numba.njit(cache=True)
def _nearest_group(
    vector: F32, own: int, around: I32, least: int, groups: _Groups, length: F64
) -> tuple[int, float, float]:
    """Of other groups of `least` faces or more: the best by dot(vector, sum) / length, its score and the next one's."""
    seen = np.empty(_NEAR_GROUPS, np.int32)
    count, best, score, second = 0, own, -1.0, -1.0
    for other in around:
        if other == own or groups.size[other] < least or (seen[:count] == other).any():
            continue
        seen[count] = other
        count += 1
        similarity = dot(vector, groups.sums[other]) / length[other]
        if similarity > score:
            best, score, second = other, similarity, score
        elif similarity > second:
            second = similarity
        if count == _NEAR_GROUPS:
            break
    return best, score, second
