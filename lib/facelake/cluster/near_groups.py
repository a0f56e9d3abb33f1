"""The groups nearest to vectors by their means: all compared, compared in few dimensions first, or looked up in lists.

    few groups   every vector with every mean
    many         every vector with every mean, first in the leading principal components of the means. What these leave
                 out adds to a cosine at most _SPREAD standard deviations of what it adds between strangers. Pairs that
                 can still be among the nearest are compared in all dimensions
    most         the means in the nearest lists (lists.py), which misses groups that are not much like the vector

Means of people have little structure: on a hard world (ms1m, 512 dimensions, 21,778 groups) lists that hold a tenth of
the groups miss 4 % of the groups with a cosine above .7 and 26 % of those at .5 to .6. Another one's 22,817 groups with
12,042 faces: the scan misses .003 % of the groups from .39 on (the least similarity of an edge), 2 % of all that are
looked for (from .27 on), and takes .59 of the time of all pairs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from facelake.cluster import topk
from facelake.cluster.by_group import ByGroup
from facelake.cluster.lists import Index, trained_index
from facelake.contracts import F16, F32, F64, I32
from facelake.inner_product import dot
from facelake.vectors import unit_rows

_Rows = TypeVar("_Rows", F16, F32, F16 | F32)
NEAR_GROUPS = 16
"""nearest groups that are kept of each vector"""
_FLAT_PAIRS = 1_000_000_000  # pairs up to which all are compared, where lists are the other way
_SCANNED_GROUPS = 16_384  # groups from which on a scan costs less than to compare all pairs in all dimensions
_SCANNED_PAIRS = 500_000_000_000  # pairs up to which all are compared in few; these take half an hour of CPU
_SCANNED_DIM = 256  # dimensions from which on vectors are scanned
_SHARE = 5 / 16  # of the dimensions that the scan compares
_SPREAD = 5.0  # standard deviations of strangers' cosine that two remainders may have in common
_SEGMENT = 32  # similarities of which the largest is looked at first
_SAMPLE = 20_000  # means of which the principal components are computed
_BLOCK, _GROUP_BLOCK = 2_048, 8_192
_SCAN_ROWS, _SCAN_COLUMNS = 512, 4_096  # so that a block of similarities stays in the cache
_GROUPS_PER_LIST, _SAMPLED_PER_LIST, _HOME_CELLS = 500, 64, 2
_LIST_PROBES, _CELL_PROBES = 24, 12


def nearest_groups(sums: F32, vectors: F32, floor: float, seed: int) -> tuple[I32, F32]:
    """The nearest groups (m, k) of unit vectors (m, dim) by their means, best first, -1 for none; the cosines (m, k).

    Args:
        sums: (g, dim) means or sums of the groups; only their directions count.
        vectors: (m, dim) unit vectors.
        floor: cosine below which a group may be left out.
        seed: of the sample.
    """
    pairs = len(sums) * len(vectors)
    if pairs > _SCANNED_PAIRS:
        return near_groups(sums, vectors, seed)
    if len(sums) < _SCANNED_GROUPS or sums.shape[1] < _SCANNED_DIM:
        return _in_threads(lambda part: _compared(sums, part, _blocks(len(sums), len(part))), vectors)
    axes = _principal_axes(sums, seed)
    return _in_threads(lambda part: _scanned(sums, part, floor, axes), vectors)


def _in_threads(search: Callable[[_Rows], tuple[I32, F32]], vectors: _Rows) -> tuple[I32, F32]:
    """Search for parts of the vectors at once."""
    threads = max(1, min(os.cpu_count() or 1, len(vectors) // _BLOCK))
    ends = np.linspace(0, len(vectors), threads + 1).astype(int)
    return topk.in_threads(search, [vectors[start:end] for start, end in pairwise(ends)])


def near_groups(means: F16 | F32, vectors: F16 | F32, seed: int) -> tuple[I32, F32]:
    """As `nearest_groups`, faster and less complete: of many pairs only those in the nearest lists are compared."""
    if len(means) * len(vectors) <= _FLAT_PAIRS:
        return _in_threads(lambda part: _compared(means, part, _blocks(len(means), len(part))), vectors)
    with threadpool_limits(1, "blas"):
        lists = _lists(means, seed)
    return _in_threads(lambda part: _compared(means, part, _listed(*lists, part)), vectors)


def _compared(means: F16 | F32, vectors: F16 | F32, pairs: Iterator[tuple[I32, I32]]) -> tuple[I32, F32]:
    """Compare the groups and vectors of each pair of numbers that is yielded."""
    index, cosine = topk.empty(len(vectors), min(NEAR_GROUPS, max(1, len(means))))
    no_faces = np.full(_BLOCK, -1, np.int32)
    for names, rows in pairs:
        columns = unit_rows(np.asarray(means[names], np.float32), least=1e-9).T
        for at in range(0, len(rows), _BLOCK):
            block = rows[at : at + _BLOCK]
            similarity = np.asarray(vectors[block], np.float32) @ columns
            topk.fold(similarity, block, names, no_faces, -2.0, (index, cosine))
    return index, cosine


def _blocks(groups: int, vectors: int) -> Iterator[tuple[I32, I32]]:
    every = np.arange(vectors, dtype=np.int32)
    for start in range(0, groups, _GROUP_BLOCK):
        yield np.arange(start, min(start + _GROUP_BLOCK, groups), dtype=np.int32), every


# ---- in few dimensions first


def _scanned(sums: F32, vectors: F32, floor: float, principal: tuple[F32, float]) -> tuple[I32, F32]:
    axes, spread = principal
    best = topk.empty(len(vectors), min(NEAR_GROUPS, len(sums)))
    best[1][:] = floor
    dims = axes.shape[1]
    low = np.empty((len(vectors), dims + 1), np.float32)
    low[:, :-1] = vectors @ axes
    low[:, -1] = spread * _remainder(low[:, :-1])
    buffer = np.empty(_SCAN_ROWS * _SCAN_COLUMNS, np.float32)
    for first in range(0, len(sums), _SCAN_COLUMNS):
        groups = sums[first : first + _SCAN_COLUMNS]
        scale = 1 / np.maximum(np.linalg.norm(groups, axis=1), 1e-9).astype(np.float32)
        columns = np.empty((dims + 1, len(groups)), np.float32)
        columns[:-1] = (groups @ axes * scale[:, None]).T
        columns[-1] = _remainder(columns[:-1].T)
        for start in range(0, len(vectors), _SCAN_ROWS):
            rows = low[start : start + _SCAN_ROWS]
            bound = np.matmul(rows, columns, out=buffer[: len(rows) * len(groups)].reshape(len(rows), len(groups)))
            _fold_possible(bound, vectors, start, groups, scale, first, best)
    best[1][best[0] < 0] = -2
    return best


def _principal_axes(sums: F32, seed: int) -> tuple[F32, float]:
    """The leading principal axes (dim, dims) of unit means; and how much the remainders of two may have in common.

    Dims is _SHARE of the dimensions; the other is _SPREAD standard deviations of the cosine of two random remainders.
    """
    chosen = np.random.default_rng(seed).choice(len(sums), min(_SAMPLE, len(sums)), replace=False)
    unit = unit_rows(sums[np.sort(chosen)], least=1e-9).astype(np.float64)
    values, axes = np.linalg.eigh(unit.T @ unit / len(unit))
    dims = round(_SHARE * sums.shape[1])
    rest: F64 = np.maximum(values[:-dims], 0)
    deviation = np.sqrt((rest**2).sum()) / max(rest.sum(), 1e-12)
    return np.ascontiguousarray(axes[:, ::-1][:, :dims], np.float32), float(_SPREAD * deviation)


def _remainder(low: F32) -> F32:
    """Norms (n,) of what unit vectors have outside of the axes, from their coordinates (n, dims)."""
    return np.asarray(np.sqrt(np.maximum(1 - np.einsum("ij,ij->i", low, low), 0)), np.float32)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nnan"})
def _fold_possible(
    bound: F32, vectors: F32, start: int, groups: F32, scale: F32, first: int, best: tuple[I32, F32]
) -> None:
    """Fold the cosines of pairs that can be among the best of their row into `best`.

    Args:
        bound: (m, c) what the cosine of a row and a group may be at most.
        vectors: of which rows start .. start + m - 1 are compared.
        groups: (c, dim) sums; they are numbered from `first` on.
        scale: (c,) inverses of their norms.
        best: as `topk.empty` returns it, for all vectors.
    """
    index, cosine = best
    last, width = index.shape[1] - 1, bound.shape[1]
    for x in range(len(bound)):
        row = start + x
        for segment in range(0, width, _SEGMENT):
            end = min(segment + _SEGMENT, width)
            largest = np.float32(-2)
            for y in range(segment, end):
                largest = max(largest, bound[x, y])
            if largest < cosine[row, last]:
                continue
            for y in range(segment, end):
                if bound[x, y] >= cosine[row, last]:
                    value = dot(vectors[row], groups[y]) * scale[y]
                    if value > cosine[row, last]:
                        topk.put(first + y, value, index, cosine, row)


# ---- in lists


def _lists(means: F16 | F32, seed: int) -> tuple[Index, ByGroup]:
    """An index of the means, and the groups by their nearest list."""
    index = trained_index(_sample(means, seed), len(means), _GROUPS_PER_LIST, seed)
    parts = (means[i : i + _GROUP_BLOCK] for i in range(0, len(means), _GROUP_BLOCK))
    units = (unit_rows(np.asarray(part, np.float32), least=1e-9) for part in parts)
    home = np.concatenate([index.assign(unit, 1, _HOME_CELLS)[:, 0] for unit in units])
    return index, ByGroup.of(home.astype(np.int64), len(index.lists))


def _listed(index: Index, by_list: ByGroup, vectors: F16 | F32) -> Iterator[tuple[I32, I32]]:
    """Yield the groups of each list, and the vectors to which it is near."""
    blocks = (np.asarray(vectors[i : i + _GROUP_BLOCK], np.float32) for i in range(0, len(vectors), _GROUP_BLOCK))
    probes = np.concatenate([index.assign(block, _LIST_PROBES, _CELL_PROBES) for block in blocks])
    asking = ByGroup.of(probes.ravel().astype(np.int64), len(index.lists))
    for number in range(len(index.lists)):
        names, rows = by_list.of_group(number), asking.of_group(number)
        if len(names) and len(rows):
            yield names.astype(np.int32), (rows // probes.shape[1]).astype(np.int32)


def _sample(means: F16 | F32, seed: int) -> F32:
    most = _SAMPLED_PER_LIST * max(1, len(means) // _GROUPS_PER_LIST)
    if len(means) > most:
        means = means[np.sort(np.random.default_rng(seed).choice(len(means), most, replace=False))]
    return unit_rows(np.asarray(means, np.float32), least=1e-9)
