"""Rows of the gallery's tables: tombstones, and list columns as matrices and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32


def tombstone(row: dict[str, object], status: str, winner: str | None, version: int) -> dict[str, object]:
    """Return the row that stays of an identity that ended: its id, and which identity took over."""
    cleared: dict[str, object] = {
        "status": status,
        "merged_into": winner,
        "size": 0,
        "prototype": None,
        "cohesion": None,
        "weight": None,
        "exemplars": None,
        "exemplar_faces": None,
        "core_hashes": None,
        "purposes": [],
    }
    return row | cleared | {"last_version": version}


def float_lists(matrix: F32) -> pa.ListArray:
    """Return rows (n, dim) as an Arrow list column of float32."""
    count, dim = matrix.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * dim)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel(), pa.float32()))


def matrix_of(column: pa.ChunkedArray | pa.Array, dim: int) -> F32:
    """Return a list column without nulls as rows (n, dim); they may be the column's own memory, which is read-only."""
    flat = pc.list_flatten(column)
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    return np.asarray(flat.to_numpy(zero_copy_only=False), np.float32).reshape(len(column), dim)
