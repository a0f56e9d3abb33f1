"""Today's groups to yesterday's identities: one to one, with the largest total overlap of faces."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facelake.contracts import I64

# An assignment is cubic in the component's side; beyond this a greedy match (half the optimum at worst) stands in.
_OPTIMAL_SIDE = 1500


def overlaps(groups: I64, identities: I64) -> tuple[I64, I64, I64]:
    """(group, identity, faces in both), ordered by group then identity; faces with identity -1 are left out."""
    known = identities >= 0
    pairs, counts = np.unique(np.stack([groups[known], identities[known]]), axis=1, return_counts=True)
    return pairs[0], pairs[1], counts.astype(np.int64)


def match_groups(groups: I64, identities: I64, group_count: int, identity_count: int) -> I64:
    """Match groups to identities so that the faces that keep their identity are as many as possible.

    The overlap graph falls apart into small components; each is solved by itself (Crouse, "On implementing 2D
    rectangular assignment algorithms", IEEE TAES 2016, as in scipy). Ties go to the lower numbers.

    Args:
        groups: (n,) group of each face; identities: (n,) identity of each face yesterday, or -1.

    Returns:
        (group_count,) the identity of each group, or -1.
    """
    matched = np.full(group_count, -1, np.int64)
    g, i, count = overlaps(groups, identities)
    if not len(g):
        return matched
    shape = (group_count + identity_count,) * 2
    _, component = connected_components(coo_matrix((np.ones(len(g)), (g, group_count + i)), shape), directed=False)
    order = np.argsort(component[g], kind="stable")
    bounds = np.flatnonzero(np.r_[True, np.diff(component[g][order]) != 0, True])
    for start, end in itertools.pairwise(bounds):
        part = order[start:end]
        if len(part) == 1:
            matched[g[part[0]]] = i[part[0]]
        else:
            _match_component(matched, g[part], i[part], count[part])
    return matched


def _match_component(matched: I64, g: I64, i: I64, count: I64) -> None:
    rows, r = np.unique(g, return_inverse=True)
    columns, c = np.unique(i, return_inverse=True)
    if max(len(rows), len(columns)) > _OPTIMAL_SIDE:
        _match_greedily(matched, g, i, count)
        return
    table = np.zeros((len(rows), len(columns)))
    table[r, c] = count
    # the larger of two equal overlaps' lower numbers first: a tiny, exact preference that cannot outweigh a face
    table -= np.arange(table.size).reshape(table.shape) * (0.25 / table.size / min(table.shape)) * (table > 0)
    for row, column in zip(*linear_sum_assignment(table, maximize=True), strict=True):
        if table[row, column] > 0:
            matched[rows[row]] = columns[column]


def _match_greedily(matched: I64, g: I64, i: I64, count: I64) -> None:
    taken: set[int] = set()
    for at in np.lexsort((i, g, -count)):
        if matched[g[at]] < 0 and int(i[at]) not in taken:
            matched[g[at]] = i[at]
            taken.add(int(i[at]))
