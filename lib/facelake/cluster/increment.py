"""Places new faces among existing groups: they join one, form new groups, or cause two groups to be joined.

The passes are those of a full clustering, in the same order, over a smaller graph: every existing group is one node,
described by the sum of its faces and by a few exemplars; every new face is a node.

    near      the groups nearest to each new face by their means, and new faces near each other
    edges     from a new face to a group as strong as its similarities to the exemplars, or to the mean, say
    groups    the map equation over groups and new faces; it does not join existing groups
    link      average linkage, which may join a new group to a standing one, or two standing ones
    settle    singletons are attached to the most similar mean; the remaining ones are grouped among themselves
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from facelake.cluster.by_group import ByGroup
from facelake.cluster.calibrate import Calibration
from facelake.cluster.edges import clear_nearest, leftover_graph
from facelake.cluster.labels import add_sums, canonical
from facelake.cluster.linkage import NearGroups, Pairs, inside_similarity, join_groups, settle, without_crowds
from facelake.cluster.mapequation import map_equation, whole_graph
from facelake.cluster.near_groups import nearest_groups
from facelake.cluster.neighbours import Search, join
from facelake.cluster.quality_norm import Gate
from facelake.contracts import F32, I32, I64, U8
from facelake.distinct import distinct, union
from facelake.inner_product import dot

_NEIGHBOURS = 32
_FAR = 0.8  # share of the graph's floor below which a face's cosine to a group's mean says nothing
_EXACT_FACES = 20_000  # new faces up to which all pairs are compared
_SAME_PHOTO = 1.0  # faces of one photo must be so many of different people's sds more alike to be edges
_GROUP_BLOCK = 32_768  # groups whose unit means are in memory at once


@dataclass(frozen=True, slots=True)
class ExemplarBlock:
    """Exemplars of some of the existing groups.

    Attributes:
        groups: (k,) their numbers, distinct.
        vectors: (x, dim) unit exemplars, by group.
        first: (k + 1,) where the exemplars of each group begin; a group may have none.
    """

    groups: I64
    vectors: F32
    first: I64


@dataclass(frozen=True, slots=True)
class Standing:
    """Existing groups (g,). `place` changes the sums: they are most of its memory, and are not copied.

    Attributes:
        sums: (g + m, dim) sums of their faces' unit vectors; then a zero row for each of m new faces, for the groups
            that they form.
        size: (g,) faces in each.
        bins: (g,) quality bin of their faces in the mean.
        exemplars: reads the exemplars of all groups, each group in one block; called once.
    """

    sums: F32
    size: I64
    bins: U8
    exemplars: Callable[[], Iterator[ExemplarBlock]]


@dataclass(frozen=True, slots=True)
class Arrived:
    """New faces (m,), in an order that does not depend on how they were stored."""

    vectors: F32
    """(m, dim) unit"""
    bins: U8
    photos: I64
    """(m,) equal for faces of one photo"""


@dataclass(frozen=True, slots=True)
class Placed:
    """The group of each new face, and which existing groups were joined."""

    labels: I64
    """(m,) group of each new face: below g a standing one, others are new"""
    into: I64
    """(g,) the existing group that each is part of now"""


def place(standing: Standing, new: Arrived, gate: Gate, cuts: Calibration, seed: int) -> Placed:
    """Place new faces; deterministic for their order and the seed."""
    if not len(new.vectors):
        return Placed(np.zeros(0, np.int64), np.arange(len(standing.size), dtype=np.int64))
    with threadpool_limits(1, "blas"):  # small products, which threads only slow down on shared cores
        return _placed(standing, new, gate, cuts, seed)


def _placed(standing: Standing, new: Arrived, gate: Gate, cuts: Calibration, seed: int) -> Placed:
    groups, faces = len(standing.size), len(new.vectors)
    near, _ = nearest_groups(standing.sums[:groups], new.vectors, _FAR * cuts.floor, seed)
    face, group, value, weight = _group_edges(standing, new, near, gate, cuts)
    a, b, pair = _new_edges(new, gate, cuts, seed)
    strong, fine = value >= cuts.graph_cut, pair >= cuts.graph_cut
    labels = _group(
        standing,
        faces,
        (face[strong], group[strong], weight[strong]),
        (a[fine], b[fine], np.exp((pair[fine] - cuts.level) / cuts.weight_scale)),
        cuts,
        seed,
    )
    sums, size = _sums(standing, new.vectors, labels)
    close, firm = value >= cuts.edge, pair >= cuts.edge
    one = np.concatenate([labels[face[close]], labels[a[firm]]])
    other = np.concatenate([group[close], labels[b[firm]]])
    across = one != other
    low, high = (side[across].astype(np.int32) for side in (np.minimum(one, other), np.maximum(one, other)))
    pairs = Pairs.of(low, high, np.concatenate([value[close], pair[firm]]).astype(np.float32)[across])
    number = _linked(sums, size, pairs, groups, cuts)
    into, labels = number[:groups].astype(np.int64), number[labels]
    labels = _settled(new, labels, into, cuts, near=near, pairs=(a, b), sums=sums, size=size)
    to_groups, among = (face, group, value), (a, b, pair)
    labels = _leftovers(labels, into, cuts, to_groups=to_groups, among=among, size=size, seed=seed)
    return Placed(labels, into)


def _group_edges(
    standing: Standing, new: Arrived, near: I32, gate: Gate, cuts: Calibration
) -> tuple[I64, I64, F32, F32]:
    """(face, group, best discounted similarity, weight) of each new face and each group near it."""
    face, column = np.nonzero(near >= 0)
    group = near[face, column].astype(np.int64)
    off = gate.discount(new.bins[face], standing.bins[group])
    limits = _EdgeLimits(cuts.graph_cut, cuts.level, cuts.weight_scale)
    best, weight = np.full(len(face), -1.0, np.float32), np.zeros(len(face), np.float32)
    by_group, seen = ByGroup.of(group, len(standing.size)), 0
    for block in standing.exemplars():
        pairs, local = by_group.members(block.groups)
        shown = _Shown(block.vectors, block.first, block.groups, standing.sums, standing.size)
        best[pairs], weight[pairs] = _exemplar_edges(new.vectors, face[pairs], local, off[pairs], shown, limits)
        seen += len(block.groups)
    if seen != len(standing.size):
        raise ValueError(f"exemplars of {seen} groups of {len(standing.size)}")
    return face, group, best, weight


class _Shown(NamedTuple):
    """Some existing groups as numba takes them; see ExemplarBlock and Standing."""

    exemplars: F32
    first: I64
    number: I64
    sums: F32
    size: I64


class _EdgeLimits(NamedTuple):
    """Limits of edges, as in `Calibration`: the cut, and level and scale of their weights."""

    cut: float
    level: float
    scale: float


@numba.njit(cache=True, nogil=True)
def _exemplar_edges(
    vectors: F32, face: I64, group: I64, off: F32, groups: _Shown, limits: _EdgeLimits
) -> tuple[F32, F32]:
    """The best similarity of a face to a group's exemplars, and its edges to all the faces that they stand for."""
    first, cut = groups.first, limits.cut
    best, weight = np.full(len(face), -1.0, np.float32), np.zeros(len(face), np.float32)
    for p in range(len(face)):
        g, vector = group[p], vectors[face[p]]
        number = groups.number[g]
        shown, size = first[g + 1] - first[g], groups.size[number]
        # a face keeps so many neighbours at the most, however many faces the group has
        each = min(size, _NEIGHBOURS) / max(shown, 1)
        for x in range(first[g], first[g + 1]):
            value = dot(vector, groups.exemplars[x]) - off[p]
            best[p] = max(best[p], value)
            if value >= cut:
                weight[p] += each * np.exp((value - limits.level) / limits.scale)
        if size > shown:  # what it has in common with all of them, exemplars or not
            value = dot(vector, groups.sums[number]) / size - off[p]
            best[p] = max(best[p], value)
            if value >= cut:
                weight[p] = max(weight[p], min(size, _NEIGHBOURS) * np.exp((value - limits.level) / limits.scale))
    return best, weight


def _new_edges(new: Arrived, gate: Gate, cuts: Calibration, seed: int) -> tuple[I64, I64, F32]:
    """Pairs of new faces (a < b) with their discounted similarity, from the floor on."""
    search = Search(_NEIGHBOURS, cuts.deep_floor, exact_below=_EXACT_FACES, seed=seed)
    found = join(new.vectors, search).ragged()
    a = np.repeat(np.arange(len(new.vectors)), np.diff(found.start))
    b = found.index.astype(np.int64)
    a, b = np.minimum(a, b), np.maximum(a, b)
    _, once = np.unique(a * len(new.vectors) + b, return_index=True)
    a, b, value = a[once], b[once], found.cosine[once].astype(np.float32)
    value -= gate.discount(new.bins[a], new.bins[b])
    value[new.photos[a] == new.photos[b]] -= np.float32(_SAME_PHOTO * cuts.impostor_sd)
    return a, b, value


def _group(
    standing: Standing, faces: int, to_groups: tuple[I64, I64, F32], among: tuple[I64, I64, F32], cuts: Calibration,
    seed: int,
) -> I64:  # fmt: skip
    """Labels (faces,) by the map equation; existing groups are heavy nodes, and no two of them are joined."""
    face, group, weight = to_groups
    here = distinct(group)
    count = len(here)
    inside = np.concatenate(
        [
            inside_similarity(standing.sums[block], standing.size[block], cuts.level).astype(float)
            for block in np.split(here, range(_GROUP_BLOCK, count, _GROUP_BLOCK))
        ]
    )
    pairs = standing.size[here] * np.minimum(standing.size[here] - 1, _NEIGHBOURS)
    own = pairs * np.exp((inside - cuts.level) / cuts.weight_scale) / 2
    loops = np.arange(count)
    a = np.concatenate([count + face, count + among[0], loops])
    b = np.concatenate([np.searchsorted(here, group), count + among[1], loops])
    graph = whole_graph(count + faces, a, b, np.concatenate([weight, among[2], own]).astype(np.float32))
    module = map_equation(count + faces, [graph], seed).astype(np.int64)
    return _one_group_each(module[:count], module[count:], here, len(standing.size), to_groups)


def _one_group_each(held: I64, mine: I64, here: I64, groups: int, to_groups: tuple[I64, I64, F32]) -> I64:
    """Faces in a module with existing groups go to the group to which their edges are strongest."""
    face, group, weight = to_groups
    labels = groups + mine
    together = held[np.searchsorted(here, group)] == mine[face]
    face, group, weight = face[together], group[together], weight[together]
    order = np.lexsort((group, -weight, face))
    first = np.r_[True, face[order][1:] != face[order][:-1]] if len(order) else np.zeros(0, bool)
    labels[face[order][first]] = group[order][first]
    lowest = np.full(int(max(held.max(initial=-1), mine.max(initial=-1))) + 1, -1, np.int64)
    lowest[held[::-1]] = here[::-1]  # (faces that are tied to others of the module only)
    rest = (labels >= groups) & (lowest[mine] >= 0)
    labels[rest] = lowest[mine[rest]]
    return _packed(labels, groups)


def _packed(labels: I64, groups: int) -> I64:
    """New groups numbered from `groups` on, by first appearance."""
    new = labels >= groups
    out = labels.copy()
    out[new] = groups + canonical(np.unique(labels[new], return_inverse=True)[1].astype(np.int64))
    return out


def _sums(standing: Standing, vectors: F32, labels: I64) -> tuple[F32, I64]:
    """Sums and sizes of existing and new groups; the sums are those of `standing`, changed."""
    count = max(len(standing.size), int(labels.max(initial=-1)) + 1)
    sums = standing.sums[:count]
    add_sums(vectors, labels.astype(np.int32), sums)
    size = np.bincount(labels, minlength=count).astype(np.int64)
    size[: len(standing.size)] += standing.size
    return sums, size


def _linked(sums: F32, size: I64, pairs: Pairs, groups: int, cuts: Calibration) -> I64:
    """The group that each is part of; sums and sizes of those that took others in are theirs too."""
    wanted = union(pairs.low, pairs.high)
    number = np.arange(len(size), dtype=np.int64)
    if not len(wanted):
        return number
    low, high = (np.searchsorted(wanted, side).astype(np.int32) for side in (pairs.low, pairs.high))
    at = Pairs(low, high, pairs.cosine)
    before = size[wanted]
    joined, _ = join_groups(sums[wanted], before, at, cuts, apart=wanted < groups)
    lowest = np.full(int(joined.max()) + 1, len(size), np.int64)
    np.minimum.at(lowest, joined, wanted)
    number[wanted] = lowest[joined]
    for old, new in zip(wanted, number[wanted], strict=True):
        if old != new:
            sums[new] += sums[old]
            size[new] += size[old]
            sums[old], size[old] = 0, 0
    return number


def _settled(
    new: Arrived, labels: I64, into: I64, cuts: Calibration, *, near: I32, pairs: tuple[I64, I64], sums: F32, size: I64
) -> I64:
    """New labels of new faces that are alone or sit in the wrong group."""
    faces = len(labels)
    a, b = (np.concatenate(both) for both in ((pairs[0], pairs[1]), (pairs[1], pairs[0])))
    row, column = np.nonzero(near >= 0)
    at = np.concatenate([row, a])
    around = np.concatenate([into[near[row, column]], labels[b]])
    order = np.argsort(at, kind="stable")
    start = np.searchsorted(at[order], np.arange(faces + 1)).astype(np.int64)
    size = np.maximum(size, 1)
    of_neighbours = NearGroups(start, around[order].astype(np.int32))
    own = labels.astype(np.int32)
    settled = settle(new.vectors, own, of_neighbours, sums, size, cuts)
    return without_crowds(own, settled, size).astype(np.int64)


def _leftovers(
    labels: I64,
    into: I64,
    cuts: Calibration,
    *,
    to_groups: tuple[I64, I64, F32],
    among: tuple[I64, I64, F32],
    size: I64,
    seed: int,
) -> I64:
    """Group the remaining singletons among themselves and with existing groups of one face."""
    groups = len(into)
    count = np.bincount(labels, minlength=len(size))
    alone = (labels >= groups) & (count[labels] == 1)
    single = (size[:groups] == 1) & (count[:groups] == 0) & (into == np.arange(groups))
    face, group, value = to_groups
    a, b, pair = among
    clear = clear_nearest(np.concatenate([face, a, b]), np.concatenate([value, pair, pair]), cuts)[len(face) :]
    mine = alone[face] & single[group] & (value >= cuts.graph_cut)
    both = alone[a] & alone[b] & ((pair >= cuts.graph_cut) | (clear[: len(a)] & clear[len(a) :]))
    left = np.concatenate([groups + face[mine], groups + a[both]])
    right = np.concatenate([group[mine], groups + b[both]])
    if not len(left):
        return _packed(labels, groups)
    nodes = union(left, right)
    at, to = (np.searchsorted(nodes, side).astype(np.int32) for side in (left, right))
    strength = np.concatenate([value[mine], pair[both]]).astype(np.float32)
    module = map_equation(len(nodes), [leftover_graph(len(nodes), at, to, strength, cuts)], seed).astype(np.int64)
    out = np.where(labels >= groups, labels + len(nodes), labels)
    fresh = nodes >= groups
    home = np.full(int(module.max()) + 1, -1, np.int64)
    home[module[~fresh][::-1]] = nodes[~fresh][::-1]  # two existing singletons are not joined
    mine_, where = nodes[fresh] - groups, module[fresh]
    out[mine_] = np.where(home[where] >= 0, home[where], groups + where)
    return _packed(out, groups)
