"""Directions in which some vectors vary more than others: a generalised eigenproblem of second moments."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from facelake.contracts import F32, F64

_RIDGE = 0.3  # of the mean variance, so that directions without variance have no weight


def moments(vectors: F32) -> F32:
    """Mean outer product (dim, dim) of vectors (n, dim)."""
    return np.asarray((vectors.T @ vectors) / np.float32(len(vectors)), np.float32)


def usual(vectors: F32) -> F32:
    """Second moments (dim, dim) of the vectors that others are compared with, ridged."""
    matrix = moments(vectors)
    dim = len(matrix)
    return np.asarray(matrix + np.float32(_RIDGE * np.trace(matrix) / dim) * np.eye(dim, dtype=np.float32), np.float32)


def largest(vectors: F32, among: F32, most: int) -> tuple[F64, F64]:
    """Ratios (most,), falling, of the variance of vectors (n, dim) to the usual one; their directions (dim, most)."""
    dim = vectors.shape[1]
    with threadpool_limits(1, "blas"):  # for so small a matrix: threads that wait for each other took 16 times as long
        pair = moments(vectors).astype(float), among.astype(float)
        variance, directions = scipy.linalg.eigh(*pair, subset_by_index=(dim - most, dim - 1))
    return variance[::-1], directions[:, ::-1]
