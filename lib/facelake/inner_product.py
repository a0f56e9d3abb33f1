"""The inner product of two vectors, for compiled loops."""

from __future__ import annotations

import numba
import numpy as np

from facelake.contracts import F32


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def dot(a: F32, b: F32) -> np.float32:
    """Inner product of two vectors; the sums may be taken in another order, so that they are vectorised."""
    total = np.float32(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total
