"""Links between large groups, counted among sampled faces of both.

A face's list of neighbours holds the nearest ones only. In a group of many faces they are all of that group, so that
links to another part of the same person are missing from the lists, however many there are. So all pairs of large
groups are compared by their sums, and the links of those that may be of one person counted in samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from facelake.cluster.neighbours import Search
from facelake.cluster.overlap import Links, Sums, matched, mean_between
from facelake.contracts import F16, F64, I32, I64, Bool

_MOST, _LEAST = 128, 32  # sampled faces of a group, on the mean
_LEAST_MATCHED = 4  # sampled faces with a counterpart of their own; a few misplaced ones can all be in a sample
_MOST_BYTES = 1 << 27  # of all sampled vectors
LARGE = Search().k // 2
"""faces of a group up to which at least half of each list is left for other groups"""
_ROWS = 8_192  # sampled faces that those of one group are compared with at once
_MOST_GROUPS = 32_000  # of which all pairs are compared: half a billion


@dataclass(frozen=True, slots=True)
class Sample:
    """Sampled faces (m,) of groups, ascending by group, then face."""

    group: I32
    face: I32
    vectors: F16
    """(m, dim)"""

    def holds(self, pairs: Links) -> Bool:
        """Return of which pairs (pairs,) both groups are sampled."""
        return np.asarray(np.isin(pairs.group, self.group) & np.isin(pairs.other, self.group))


def faces_per_group(groups: int, dim: int) -> int:
    """Return how many faces of each group are sampled, on the mean."""
    return int(np.clip(_MOST_BYTES // (2 * dim * max(groups, 1)), _LEAST, _MOST))


def sampled(faces: I32, size: I64, wanted: int) -> Bool:
    """Return which faces (n,) are in the sample of their group; the choice depends on the face's number only.

    Args:
        size: (n,) faces of the group of each.
        wanted: faces of a group, on the mean.
    """
    step = np.maximum(-(-size // wanted), 1).astype(np.uint64)
    scattered = (faces.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return np.asarray(scattered % step == 0)


def large_groups(size: I64) -> I32:
    """Return the groups (n,) of which lists hardly reach beyond the own group, the largest ones, ascending.

    Args:
        size: (groups,) faces of each group.
    """
    largest = np.argsort(-size, kind="stable")[:_MOST_GROUPS]
    return np.sort(largest[size[largest] > LARGE]).astype(np.int32)


def worth_sampling(pairs: Links, groups: Sums) -> I32:
    """Return the groups (n,) whose samples fit the memory, ascending: those of the most similar pairs first."""
    most = _MOST_BYTES // (2 * groups.sums.shape[1] * _LEAST)
    order = np.argsort(-mean_between(pairs, groups), kind="stable")
    both = np.stack([pairs.group[order], pairs.other[order]], 1).ravel()
    _, first = np.unique(both, return_index=True)
    return np.sort(both[np.sort(first)[:most]])


def recounted(links: Links, size: I64, sample: Sample, cuts: Sequence[float]) -> list[Links]:
    """Estimate the links of pairs of groups from the sample, and leave out pairs that it does not show to be matched.

    Whether enough faces have a counterpart is decided in the sample: one misplaced face that is sampled would otherwise
    count for as many as the sample stands for.

    Args:
        links: pairs of groups, in ascending order; how many links they have is not read.
        size: (groups,) faces of each group.
        sample: of these groups; pairs without one are left out.
        cuts: cosines from which a pair of faces is a link.

    Returns:
        The links at each cut.
    """
    start = np.searchsorted(sample.group, np.arange(len(size) + 1))
    count = np.diff(start)
    here = np.flatnonzero((count[links.group] > 0) & (count[links.other] > 0))
    low, high = links.group[here], links.other[here]
    found, most = np.zeros((2, len(cuts), len(here)), np.int64)
    vectors = sample.vectors.astype(np.float32)
    for pairs in _of_one_group(low, count[high]):
        group, others = low[pairs.start], high[pairs]
        own = vectors[start[group] : start[group + 1]]
        first = np.cumsum(count[others]) - count[others]
        rows = np.arange(count[others].sum()) + np.repeat(start[others] - first, count[others])
        similarity = own @ vectors[rows].T
        for at, cut in enumerate(cuts):
            strong = similarity >= cut
            of_other = strong.sum(0)
            found[at, pairs] = np.add.reduceat(of_other, first)
            of_own = np.add.reduceat(strong, first, axis=1, dtype=np.int64)
            most[at, pairs] = np.maximum(np.maximum.reduceat(of_other, first), of_own.max(0))
    every = size[low] * size[high] / np.maximum(count[low] * count[high], 1)
    return [_estimated(Links(low, high, *at_cut), count, every) for at_cut in zip(found, most, strict=True)]


def _of_one_group(low: I32, rows: I64) -> Iterator[slice]:
    """Yield pairs of one lower group each, with so many sampled faces (pairs,) of the other groups at most."""
    at, total = 0, np.append(0, np.cumsum(rows))
    while at < len(low):
        end = int(np.searchsorted(low, low[at], side="right"))
        end = min(end, max(at + 1, int(np.searchsorted(total, total[at] + _ROWS, side="right")) - 1))
        yield slice(at, end)
        at = end


def _estimated(found: Links, count: I64, every: F64) -> Links:
    """Return the pairs that are matched among the sampled faces (groups,), with the links that they may have in all.

    Args:
        found: links in the sample.
        count: sampled faces of each group.
        every: (pairs,) pairs of faces for which a pair of sampled faces stands.
    """
    kept = (found.links > 0) & (found.links >= _LEAST_MATCHED * found.most) & matched(found, count)
    estimate = np.rint(found.links * every).astype(np.int64)
    return Links(found.group[kept], found.other[kept], estimate[kept], found.most[kept])
