"""Labels of a grouping: one canonical form, and sums of vectors by them."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from facelake.contracts import F32, I32


def canonical(labels: npt.NDArray[np.integer]) -> I32:
    """Renumber labels (n,) 0.. by first appearance."""
    size = int(labels.max(initial=-1)) + 1
    return np.asarray(_canonical(labels, np.full(size, -1, np.int32)), np.int32)


@numba.njit(cache=True)
def _canonical(labels: npt.NDArray[np.integer], number: I32) -> I32:
    out = np.empty(len(labels), np.int32)
    count = 0
    for i in range(len(labels)):
        if number[labels[i]] < 0:
            number[labels[i]] = count
            count += 1
        out[i] = number[labels[i]]
    return out


@numba.njit(cache=True, nogil=True)
def add_sums(vectors: F32, labels: I32, sums: F32) -> None:
    """Add vectors (n, dim) to the sums (groups, dim) of their labels, in order; labels below 0 are left out."""
    for i in range(len(labels)):
        m = labels[i]
        if m >= 0:
            for d in range(vectors.shape[1]):
                sums[m, d] += vectors[i, d]
