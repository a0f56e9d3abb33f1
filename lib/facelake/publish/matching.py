"""Today's groups to yesterday's identities: one to one, with the largest total overlap of faces."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facelake.contracts import I64, Bool

# An assignment is cubic in the component's side; beyond this a greedy match (half the optimum at worst) stands in.
_OPTIMAL_SIDE = 1500


def overlaps(groups: I64, identities: I64, core: Bool | None = None) -> tuple[I64, I64, I64, I64]:
    """(group, identity, faces in both, core faces in both), ordered by group then identity.

    Faces with identity -1 are left out.
    """
    known = identities >= 0
    width = int(identities.max(initial=0)) + 1
    pairs, inverse, counts = np.unique(
        groups[known] * width + identities[known], return_inverse=True, return_counts=True
    )
    cores = np.zeros(len(pairs), np.int64)
    if core is not None:
        cores += np.bincount(inverse[core[known]], minlength=len(pairs))
    return pairs // width, pairs % width, counts.astype(np.int64), cores


def match_groups(groups: I64, identities: I64, group_count: int, identity_count: int, core: Bool | None = None) -> I64:
    """Match groups to identities so that the faces that keep their identity are as many as possible.

    A group that holds core faces of an identity counts as sharing so many more of its faces as that is of the core:
    of an identity that falls apart, the part with the whole core keeps the id even if it is not the largest.

    The overlap graph falls apart into small components; each is solved by itself (Crouse, "On implementing 2D
    rectangular assignment algorithms", IEEE TAES 2016, as in scipy). Ties go to the lower numbers.

    Args:
        groups: (n,) group of each face; identities: (n,) identity of each face yesterday, or -1.
        core: (n,) whether the face is of the identity's core; default: nobody is.

    Returns:
        (group_count,) the identity of each group, or -1.
    """
    matched = np.full(group_count, -1, np.int64)
    g, i, count, cores = overlaps(groups, identities, core)
    if len(g):
        whole = np.bincount(i, cores, identity_count)[i]
        faces = np.bincount(i, count, identity_count)[i]
        count = count + np.where(whole > 0, faces * cores // np.maximum(whole, 1), 0).astype(np.int64)
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
    from scipy.optimize import linear_sum_assignment  # takes most of a second, which every command would pay

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


def places(values: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray | list[str]) -> I64:
    """Position (n,) of each string among others, -1 where it is not there or null."""
    names = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else pa.array(among, pa.string())
    found = pc.fill_null(pc.index_in(values, names, skip_nulls=True), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
