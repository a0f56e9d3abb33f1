"""One vector that stands for an identity: the quality-weighted mean of its faces."""

from __future__ import annotations

import numpy as np

from facelake.contracts import F32, I64


def prototypes(vectors: F32, weights: F32, labels: I64, count: int) -> F32:
    """Unit weighted means (count, dim) of unit vectors (n, dim) by label 0..count-1; zero where nothing is."""
    order = np.argsort(labels, kind="stable")
    means = np.zeros((count, vectors.shape[1]), np.float32)
    if not len(order):
        return means
    present, starts = np.unique(labels[order], return_index=True)
    weighted = vectors[order] * np.maximum(weights[order], 1e-3)[:, None]
    means[present] = np.add.reduceat(weighted, starts, axis=0)
    norm = np.linalg.norm(means, axis=1, keepdims=True)
    unit: F32 = np.divide(means, norm, out=np.zeros_like(means), where=norm > 1e-9)
    return unit
