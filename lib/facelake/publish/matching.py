"""Matches the groups of a run to the previous identities: one to one, with the largest total overlap of faces."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facelake.contracts import I64, Bool

# An assignment is cubic in the component's side; beyond this a greedy match (at worst half the optimum) replaces it.
_MAX_OPTIMAL_SIDE = 1500


class Overlaps(NamedTuple):
    """Pairs of a group and an identity that share faces, ordered by group, then identity; all (pairs,)."""

    group: I64
    identity: I64
    faces: I64
    core_faces: I64


def overlaps(groups: I64, identities: I64, core: Bool | None = None) -> Overlaps:
    """Count the faces that each group and identity share.

    Args:
        groups: (n,) group of each face.
        identities: (n,) identity of each face, or -1: such faces are left out.
        core: (n,) whether the face is a core face of the identity; default: none is.
    """
    known = identities >= 0
    width = int(identities.max(initial=0)) + 1
    pairs = groups[known].astype(np.int64) * width + identities[known]
    cores = np.zeros(0, np.int64)
    if core is not None:
        cores, core_counts = np.unique(pairs[core[known]], return_counts=True)
    pairs.sort()
    starts = np.flatnonzero(np.r_[True, pairs[1:] != pairs[:-1]]) if len(pairs) else np.zeros(0, np.int64)
    counts = np.diff(np.r_[starts, len(pairs)]).astype(np.int64)
    pairs = pairs[starts]
    core_faces = np.zeros(len(pairs), np.int64)
    if len(cores):
        core_faces[np.searchsorted(pairs, cores)] = core_counts
    return Overlaps(pairs // width, pairs % width, counts, core_faces)


def match_groups(
    groups: I64,
    identities: I64,
    group_count: int,
    identity_count: int,
    core: Bool | None = None,
    brought: Bool | None = None,
    since: I64 | None = None,
) -> I64:
    """Match groups to identities so that as many faces as possible keep their identity.

    A group that holds core faces of an identity counts as sharing that share of all its faces in addition: of an
    identity that falls apart, the part with the whole core keeps the id even if it is not the largest. Faces that a
    merge brought into an identity count only where its own faces leave a choice: when a merge is undone, both ids
    return to the faces that had them.

    The overlap graph falls into small components; each is solved on its own (Crouse, "On implementing 2D rectangular
    assignment algorithms", IEEE TAES 2016, as in scipy). Ties go to the older identity, then to the lower numbers: of
    two halves that a mistake made and its undoing unites, the id is that of the whole.

    Args:
        groups: (n,) group of each face.
        identities: (n,) previous identity of each face, or -1.
        group_count: number of groups.
        identity_count: number of previous identities.
        core: (n,) whether the face is of the identity's core; default: none is.
        brought: (n,) whether a merge brought the face into the identity; default: none.
        since: (identity_count,) gallery version that created each; default: all are of one age.

    Returns:
        (group_count,) the identity of each group, or -1.
    """
    matched = np.full(group_count, -1, np.int64)
    shared = overlaps(groups, identities, core)
    if not len(shared.group):
        return matched
    g, i, count = shared.group, shared.identity, _weights(shared, identity_count)
    if brought is not None and (brought & (identities >= 0)).any():
        own = overlaps(groups, np.where(brought, -1, identities), core)
        of_own = np.zeros(len(g), np.int64)
        width = identity_count + 1
        of_own[np.searchsorted(g * width + i, own.group * width + own.identity)] = _weights(own, identity_count)
        count = of_own * (1 + int(count.sum())) + count
    shape = (group_count + identity_count,) * 2
    _, component = connected_components(coo_matrix((np.ones(len(g)), (g, group_count + i)), shape), directed=False)
    order = np.argsort(component[g], kind="stable")
    bounds = np.flatnonzero(np.r_[True, np.diff(component[g][order]) != 0, True])
    lone = np.diff(bounds) == 1
    single = order[bounds[:-1][lone]]  # components of one pair, nearly all of them
    matched[g[single]] = i[single]
    rank = np.argsort(np.argsort(np.zeros(identity_count) if since is None else since, kind="stable"))
    pairwise = np.array(list(itertools.pairwise(bounds.tolist())), np.int64).reshape(-1, 2)
    for start, end in pairwise[~lone].tolist():
        part = order[start:end]
        _match_component(matched, g[part], i[part], count[part], rank)
    return matched


def _weights(shared: Overlaps, identity_count: int) -> I64:
    """Return the faces (pairs,) that each pair shares, and the share of the identity's core among all its faces."""
    i, cores = shared.identity, shared.core_faces
    all_cores, faces = np.bincount(i, cores, identity_count)[i], np.bincount(i, shared.faces, identity_count)[i]
    return shared.faces + np.where(all_cores > 0, faces * cores // np.maximum(all_cores, 1), 0).astype(np.int64)


def _match_component(matched: I64, g: I64, i: I64, count: I64, rank: I64) -> None:
    from scipy.optimize import linear_sum_assignment  # slow to import

    rows, r = np.unique(g, return_inverse=True)
    by_age, first, c = np.unique(rank[i], return_index=True, return_inverse=True)
    columns = i[first]
    if max(len(rows), len(by_age)) > _MAX_OPTIMAL_SIDE:
        _match_greedily(matched, g, i, count, rank)
        return
    table = np.zeros((len(rows), len(columns)))
    table[r, c] = count
    # among equal overlaps prefer lower numbers, by an amount that cannot outweigh one face
    table -= np.arange(table.size).reshape(table.shape) * (0.25 / table.size / min(table.shape)) * (table > 0)
    for row, column in zip(*linear_sum_assignment(table, maximize=True), strict=True):
        if table[row, column] > 0:
            matched[rows[row]] = columns[column]


def _match_greedily(matched: I64, g: I64, i: I64, count: I64, rank: I64) -> None:
    taken: set[int] = set()
    for at in np.lexsort((rank[i], g, -count)):
        if matched[g[at]] < 0 and int(i[at]) not in taken:
            matched[g[at]] = i[at]
            taken.add(int(i[at]))


def places(values: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray | list[str]) -> I64:
    """Return the position (n,) of each string among others; -1 where it is null or not among them."""
    names = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else pa.array(among, pa.string())
    positions = pc.fill_null(pc.index_in(values, names, skip_nulls=True), -1)
    return np.asarray(positions.to_numpy(zero_copy_only=False), np.int64)
