"""Millions of ids as 64-bit hashes: which of some others are not among them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from facelake.contracts import I64
from facelake.distinct import among, union

U64 = npt.NDArray[np.uint64]


def hashed(column: pa.ChunkedArray) -> U64:
    """64-bit hashes (n,) of texts."""
    texts = column.to_pandas().fillna("").to_numpy(dtype=object)
    hashes: U64 = pd.util.hash_array(texts, categorize=False)
    return hashes


class KnownIds:
    """Ids of which 8 bytes each are kept; an unknown id passes for a known one once in 10^5 lakes of 10^7."""

    def __init__(self, columns: Iterable[pa.ChunkedArray]) -> None:
        """Hash all ids of some columns."""
        self._keys = union(np.zeros(0, np.int64), *map(_keys, columns))

    def lack(self, ids: pa.ChunkedArray) -> pa.Array:
        """Return per id whether it is not among them."""
        return pa.array(~among(_keys(ids), self._keys))


def _keys(ids: pa.ChunkedArray) -> I64:
    from facelake.cluster.columns import keys  # numba, which commands that need no ids do not wait for

    return keys(ids)
