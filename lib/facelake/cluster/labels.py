"""Labels of a grouping in one canonical form."""

from __future__ import annotations

import numpy as np

from facelake.contracts import I64


def canonical(labels: I64) -> I64:
    """Renumber labels 0.. by first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse]
