"""The k best per row, kept while blocks of similarities pass by: best first, ties to the lower number, each once.

Rows are `index` (n, k) int32, -1 where there is none yet, and `cosine` (n, k) float32, -2 there. Insertion into a short
sorted row beats sorting a block: nearly every value is below the row's last one and is only looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from facelake.contracts import F16, F32, I32, I64

_Rows = TypeVar("_Rows", F16, F32, F16 | F32, I32)


def empty(rows: int, k: int) -> tuple[I32, F32]:
    """Rows (rows, k) that hold nothing yet."""
    return np.full((rows, k), -1, np.int32), np.full((rows, k), -2, np.float32)


@numba.njit(cache=True, nogil=True)
def put(j: int, v: float, index: I32, cosine: F32, r: int) -> None:
    """Insert number j into row r in its place; if it is there already it keeps its better value."""
    k = index.shape[1]
    last = k - 1
    for p in range(k):
        if index[r, p] == j:
            if v <= cosine[r, p]:
                return
            last = p
            break
        if index[r, p] < 0:
            break
    p = last
    while p > 0 and (cosine[r, p - 1] < v or (cosine[r, p - 1] == v and index[r, p - 1] > j)):
        cosine[r, p] = cosine[r, p - 1]
        index[r, p] = index[r, p - 1]
        p -= 1
    cosine[r, p] = v
    index[r, p] = j


@numba.njit(cache=True, nogil=True)
def fold(similarity: F32, rows: I32, columns: I32, own: I32, floor: float, best: tuple[I32, F32]) -> None:
    """Fold similarities (m, c) of `rows` (m,) with `columns` (c,) into the rows' best, from `floor` on.

    `own` (m,) is the column number that a row must not get: itself; -1 for none. `best` is what `empty` returns.
    """
    index, cosine = best
    k = index.shape[1]
    for x in range(similarity.shape[0]):
        r = rows[x]
        least = max(floor, cosine[r, k - 1])
        for y in range(similarity.shape[1]):
            v = similarity[x, y]
            if v >= least:
                j = columns[y]
                if j == own[x] or (v == cosine[r, k - 1] and j >= index[r, k - 1] >= 0):
                    continue
                put(j, v, index, cosine, r)
                least = max(floor, cosine[r, k - 1])


@numba.njit(cache=True, nogil=True)
def merge(place: I64, start: I64, from_index: I32, from_cosine: F32, index: I32, cosine: F32) -> None:
    """Merge sorted lists, the x-th in [start[x], start[x + 1]), into the rows place[x]."""
    k = index.shape[1]
    for x in range(len(place)):
        r = place[x]
        for y in range(start[x], start[x + 1]):
            j, v = from_index[y], from_cosine[y]
            if v < cosine[r, k - 1] or (v == cosine[r, k - 1] and j >= index[r, k - 1] >= 0):
                break
            put(j, v, index, cosine, r)


def in_threads(search: Callable[[_Rows], tuple[I32, F32]], parts: Sequence[_Rows]) -> tuple[I32, F32]:
    """Search for the rows of each part, as many at once as there are cores, each with one thread of BLAS.

    Threads of BLAS wait for each other after every block, in a loop: on cores shared with other work that takes most of
    the time.
    """
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = list(pool.map(search, parts))
    return np.concatenate([index for index, _ in found]), np.concatenate([cosine for _, cosine in found])
