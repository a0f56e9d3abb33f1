"""Finds groups that are crowds: look-alikes of whom no part is set apart from the rest.

In a large corpus hundreds of people may resemble each other, most of them with one or two photos. Any two of them are
unlikely to be linked, but there are so many pairs that links hold some together. Such a group need not be looser than a
person whose photos vary. What it lacks is an edge: the faces around it are nearly as similar to it as its own are (a
silhouette close to zero; Rousseeuw, J. Comput. Appl. Math. 1987). A person has relatives and look-alikes as well, but
not as many as photos.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from facelake.cluster.bounding import mean_similarity
from facelake.cluster.neighbours import Ragged
from facelake.contracts import F16, F32, F64, I32, I64, Bool

_ROWS = 20_000  # pairs of a face and a group that are compared at once


class NearGroups(NamedTuple):
    """Groups of three faces or more near the faces of one part of the corpus."""

    row: I32
    """(pairs,) row in `sums` of the group of each neighbour, -1 where it has none or is the face's own"""
    sums: F32
    """(groups, dim) sums of unit vectors"""
    size: I64
    """(groups,) faces"""


def surroundings(vectors: F16, own: I64, near: Ragged, groups: NearGroups, deviation: float) -> F64:
    """Return how many other groups (groups,) are nearly as similar to each group as its own faces are to each other.

    A face is, if its mean cosine to the group lies less than a deviation below the mean inside. It counts for its share
    of its own group, so that a whole group counts for one.

    Args:
        vectors: (m, dim) unit vectors of the faces.
        own: (m,) faces of each one's group.
        near: neighbours of each.
        groups: the neighbours' groups.
        deviation: standard deviation of different people's similarities.
    """
    least = mean_similarity(groups.sums, groups.size) - deviation
    face = np.repeat(np.arange(len(vectors)), np.diff(near.start))
    # a face's nearest in a group is at least as similar as the group is on the mean
    like = np.flatnonzero(groups.row >= 0)
    like = like[near.cosine[like] >= least[groups.row[like]]]
    if not len(like):
        return np.zeros(len(least))
    pair = np.unique(face[like] * len(least) + groups.row[like])
    face, row = np.divmod(pair, len(least))
    mean = np.empty(len(pair))
    for start in range(0, len(pair), _ROWS):
        at = slice(start, start + _ROWS)
        mean[at] = np.einsum("ij,ij->i", vectors[face[at]].astype(np.float32), groups.sums[row[at]])
    similar = mean / groups.size[row] >= least[row]
    return np.asarray(np.bincount(row[similar], 1 / own[face[similar]], len(least)), np.float64)


def crowds(surrounding: F64, size: I64) -> Bool:
    """Return which groups (groups,) have as many groups around them as faces inside."""
    return np.asarray(surrounding >= size)
