"""Joins groups that overlap: parts of one person whose photos vary continuously, as in changing light or turning heads.

The map equation divides such a person where links are sparse, and the mean similarity of the two parts is low, because
most pairs are of photos far from each other. Yet the nearest photos of the parts are as similar as those of one person
are. The similarities of the pairs between two *different* people cannot scatter more than those of random pairs do,
which scatter from person to person besides. So their mean says how many of the pairs are expected above the graph's
cut: with relatives, whose mean is high, many; with two parts of one person far fewer than there are.

A few faces in the wrong group also have links to the group that they belong to. By König's edge colouring theorem a
bipartite graph has a matching of at least its edges divided by its greatest degree: that many faces of either group
have a counterpart of their own in the other one, and a few misplaced faces do not account for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from facelake.cluster.bounding import BOUND
from facelake.cluster.calibrate import Calibration
from facelake.contracts import F32, F64, I32, I64, Bool

LEAST_FACES = 3
"""of either group"""
LISTED_CUTS, SAMPLED_CUTS = 2, 4
"""cuts from the graph's to one person's level, for links from lists of neighbours and for those of samples of large
groups: of a few links in lists several tests would make more of chance"""
_TIMES_EXPECTED = 5.0  # links, of those that two people with that mean similarity would have
_LEAST_MATCHED, _MATCHED_SHARE = 1.5, 0.1  # counterparts in the other group; relative to the smaller group's faces
_LEAST_DEVIATIONS = 2.0  # of different people, that the mean lies above theirs
_BLOCK = 20_000  # pairs of groups whose sums are multiplied at once
_ROWS = 128  # groups compared with all others at once: more take longer to get memory for than to compare


@dataclass(frozen=True, slots=True)
class Links:
    """Links of faces of a group (n,) to faces of another one."""

    group: I32
    other: I32
    links: I64
    most: I64
    """at least the greatest number of links that one face of either group has"""

    @classmethod
    def of(cls, face: I32, near: I32, labels: I32) -> Links:
        """Count the links (n,) of faces of one part of the corpus.

        Args:
            face: (n,) face that lists the other one.
            near: (n,) face that is listed.
            labels: (F,) group of each face; that of the two differs.
        """
        group, other = labels[face], labels[near]
        order = np.lexsort((other, group))
        face, near, group, other = face[order], near[order], group[order], other[order]
        first = _firsts(group, other)
        if not len(first):
            return cls(group, other, np.zeros(0, np.int64), np.zeros(0, np.int64))
        pair = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(group))))
        most = np.maximum(_greatest_degree(pair, face), _greatest_degree(pair, near))
        return cls(group[first], other[first], np.bincount(pair).astype(np.int64), most)

    def summed(self) -> Links:
        """Add up what the parts of a corpus found: each pair of groups (low < high) once, in ascending order.

        Two faces may list each other, or a face's list may be too short, so that the larger count of both sides holds.
        """
        group, other, links, most = _combined(np.add, self.group, self.other, self.links, self.most)
        low, high = np.minimum(group, other), np.maximum(group, other)
        return Links(*_combined(np.maximum, low, high, links, most))


def _greatest_degree(pair: I64, face: I32) -> I64:
    """Return the greatest number (pairs,) of links of one face in each pair of groups, numbered from 0."""
    width = int(face.max()) + 1
    key = np.sort(pair * width + face)
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    degree = np.diff(np.append(first, len(key)))
    most = np.zeros(int(pair[-1]) + 1, np.int64)
    np.maximum.at(most, key[first] // width, degree)
    return most


def _combined(how: np.ufunc, low: I32, high: I32, links: I64, most: I64) -> tuple[I32, I32, I64, I64]:
    """Return the pairs, each once and in ascending order, with their numbers combined."""
    order = np.lexsort((high, low))
    low, high, links, most = low[order], high[order], links[order], most[order]
    first = _firsts(low, high)
    if not len(first):
        return low, high, links, most
    return low[first], high[first], how.reduceat(links, first), how.reduceat(most, first)


def _firsts(low: I32, high: I32) -> I64:
    """Return where each pair begins among ordered pairs."""
    change = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return np.flatnonzero(np.concatenate([[len(low) > 0], change]))


def matched(links: Links, size: I64) -> Bool:
    """Return which pairs (pairs,) of groups have enough faces with a counterpart in the other group.

    Args:
        links: of pairs of groups.
        size: (groups,) faces of each.
    """
    smaller = np.minimum(size[links.group], size[links.other])
    least = np.maximum(_LEAST_MATCHED, _MATCHED_SHARE * smaller)
    return np.asarray((smaller >= LEAST_FACES) & (links.links >= least * links.most))


class Sums(NamedTuple):
    """Sums (groups, dim) of the unit vectors of groups, and their faces (groups,)."""

    sums: F32
    size: I64


def link_cuts(cuts: Calibration, count: int = LISTED_CUTS) -> tuple[float, ...]:
    """Return the cosines from which a pair of faces is a link, ascending: each is tested by itself.

    The graph's cut shows parts between which few photos were taken. Where two parts are alike on the mean, two people
    of that likeness would have many links at that cut too, and higher ones tell. Where a list of neighbours ends above
    the graph's cut, links are counted too low there; not so at one person's level.
    """
    return tuple(np.linspace(cuts.graph_cut, max(cuts.level, cuts.graph_cut), count).tolist())


def overlapping(links: Links, groups: Sums, cuts: Calibration, cut: float) -> Bool:
    """Return which pairs (pairs,) of groups are parts of one person.

    Args:
        links: of pairs of groups, numbered as in `groups`.
        groups: the groups.
        cuts: the calibration.
        cut: cosine from which a pair of faces is a link.
    """
    between, of_union = _means(links, groups)
    pairs = groups.size[links.group].astype(np.float64) * groups.size[links.other]
    enough = links.links >= _TIMES_EXPECTED * expected_links(between, pairs, cuts, cut)
    return np.asarray(enough & _plausible(between, of_union, cuts))


def plausible_pairs(groups: Sums, cuts: Calibration) -> Links:
    """Return the pairs of groups that may be of one person, however many links they have: none are counted.

    Args:
        groups: all pairs of which are compared.
        cuts: the calibration.

    Returns:
        Pairs (low < high) in ascending order.
    """
    size = groups.size.astype(np.float64)
    square = np.einsum("ij,ij->i", groups.sums, groups.sums).astype(np.float64)
    found = []
    for start in range(0, len(size), _ROWS):
        rows = slice(start, start + _ROWS)
        total = (groups.sums[rows] @ groups.sums[start:].T).astype(np.float64)
        between = total / np.outer(size[rows], size[start:])
        inside = _inside_union(square[rows, None] + square[start:], total, size[rows, None] + size[start:])
        low, high = np.nonzero(np.triu(_plausible(between, inside, cuts), 1))
        found.append(np.stack([low, high]) + start)
    low, high = np.concatenate(found, 1).astype(np.int32) if found else np.zeros((2, 0), np.int32)
    return Links(low, high, np.zeros(len(low), np.int64), np.zeros(len(low), np.int64))


def _plausible(between: F64, of_union: F64, cuts: Calibration) -> Bool:
    above = between >= cuts.impostor_mean + _LEAST_DEVIATIONS * _deviation(cuts)
    return np.asarray(above & (of_union >= BOUND * cuts.edge))


def expected_links(between: F64, pairs: F64, cuts: Calibration, cut: float) -> F64:
    """Return how many links (n,) the groups of two people have whose faces are as similar on the mean.

    Args:
        between: (n,) mean cosine of the pairs of two groups.
        pairs: (n,) pairs of faces, one of each group.
        cuts: the calibration.
        cut: cosine from which a pair of faces is a link.
    """
    return np.asarray(pairs * ndtr((between - cut) / _deviation(cuts)), np.float64)


def _deviation(cuts: Calibration) -> float:
    return max(cuts.impostor_sd, 1e-6)


def join_within_bound(low: I32, high: I32, groups: Sums, least: float) -> I32:
    """Join pairs of groups, in their order, while the mean cosine inside the joined group is at least `least`.

    Args:
        low, high: (pairs,) groups.
        groups: the groups.
        least: the bound, so that no chain of look-alikes becomes one group.

    Returns:
        (groups,) the group that each is part of, by one of its members.
    """
    sums, size = groups.sums.astype(np.float64), groups.size.astype(np.float64)
    out = np.arange(len(size), dtype=np.int32)
    for a, b in zip(out[low], out[high], strict=True):
        i, j = out[a], out[b]
        total, faces = sums[i] + sums[j], size[i] + size[j]
        if i == j or (total @ total - faces) / (faces * (faces - 1)) < least:
            continue
        sums[i], size[i] = total, faces
        out[out == j] = i
    return out


def mean_between(links: Links, groups: Sums) -> F64:
    """Return the mean cosine (pairs,) of the pairs of faces between two groups."""
    size = groups.size.astype(np.float64)
    return np.asarray(_products(links, groups.sums) / (size[links.group] * size[links.other]), np.float64)


def _products(links: Links, sums: F32) -> F64:
    """Return the product (pairs,) of the sums of two groups."""
    total = np.zeros(len(links.group))
    for start in range(0, len(total), _BLOCK):
        rows = slice(start, start + _BLOCK)
        total[rows] = np.einsum("ij,ij->i", sums[links.group[rows]], sums[links.other[rows]])
    return total


def _means(links: Links, groups: Sums) -> tuple[F64, F64]:
    """Return the mean cosine (pairs,) of the pairs between two groups, and that of the pairs inside their union."""
    sums, size, total = groups.sums, groups.size.astype(np.float64), _products(links, groups.sums)
    square = np.einsum("ij,ij->i", sums, sums).astype(np.float64)
    low, high = links.group, links.other
    return total / (size[low] * size[high]), _inside_union(square[low] + square[high], total, size[low] + size[high])


def _inside_union(squares: F64, between: F64, faces: F64) -> F64:
    """Return the mean cosine of the pairs inside the union of two groups.

    Args:
        squares: sum of the squared lengths of the two sums.
        between: product of the sums.
        faces: of both.
    """
    return np.asarray((squares + 2 * between - faces) / (faces * (faces - 1)), np.float64)
