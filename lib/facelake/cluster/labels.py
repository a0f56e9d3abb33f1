"""Labels of a grouping in one canonical form."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from facelake.contracts import I32


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
