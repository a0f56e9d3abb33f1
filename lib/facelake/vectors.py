"""Unit vectors and the stored form of embeddings: little-endian float16 bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facelake.contracts import F16, F32, Bool

STORED = np.dtype("<f2")
"""element type of a stored embedding"""
_Float = TypeVar("_Float", np.float32, np.float64)


def unit_rows(rows: npt.NDArray[_Float], *, least: float = 1e-12) -> npt.NDArray[_Float]:
    """Rows (n, dim) divided by their Euclidean norms; a row whose norm is below `least` is divided by `least`.

    So a zero row stays zero. The element type is kept.
    """
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), least), rows.dtype)


def encode_embeddings(vectors: npt.NDArray[np.floating]) -> list[bytes]:
    """The stored form of embeddings (n, dim): one bytes object of 2 * dim bytes each."""
    return [row.tobytes() for row in np.ascontiguousarray(vectors.astype(STORED))]


def decode_embeddings(stored: Iterable[bytes], dim: int) -> F16:
    """Embeddings (n, dim) from their stored form, unchecked: for exemplars, which this program wrote from sound ones.

    Raises:
        ValueError: the bytes do not make whole rows of `dim` values.
    """
    return np.frombuffer(b"".join(stored), STORED).reshape(-1, dim).astype(np.float16)


def embedding_matrix(column: pa.ChunkedArray, dim: int | None = None) -> tuple[F32, Bool]:
    """Decode an `embedding` column of a table and check every row.

    Args:
        column: binary; null where there is no embedding.
        dim: values per embedding; default: that of the most rows.

    Returns:
        (n, dim) float32, and which rows are sound: right length, finite, of unit norm within 2 %. Others are zero.
    """
    lengths = np.array([-1 if v is None else len(v) // 2 for v in column.to_pylist()] or [0], np.int64)[: len(column)]
    if dim is None:
        known = lengths[lengths > 0]
        dim = int(np.bincount(known).argmax()) if known.size else 0
    matrix = np.zeros((len(column), dim), np.float32)
    right = lengths == dim
    if right.all() and len(column):
        flat = column.combine_chunks()
        flat = flat.chunk(0) if isinstance(flat, pa.ChunkedArray) else flat
        offsets = np.frombuffer(flat.buffers()[1], np.int32)[flat.offset : flat.offset + len(flat) + 1]
        raw = np.frombuffer(flat.buffers()[2], STORED)[offsets[0] // 2 : offsets[-1] // 2] if dim else np.zeros(0)
        matrix[:] = raw.reshape(len(column), dim)
    else:
        for i in np.flatnonzero(right):
            matrix[i] = np.frombuffer(column[int(i)].as_py(), STORED)
    with np.errstate(invalid="ignore"):
        norm = np.linalg.norm(matrix, axis=1)
        sound = right & np.isfinite(norm) & (np.abs(norm - 1) < 0.02)
    matrix[~sound] = 0
    return matrix, sound
