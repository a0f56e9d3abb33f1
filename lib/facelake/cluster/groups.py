"""Groups out of neighbours, in four steps.

1. Edges: neighbour pairs whose similarity, less the discount of poor faces (gate), is above the graph's cut.
2. The two-level map equation on them (mapequation): dense neighbourhoods, whatever chains lie between them.
3. Groups of one person are joined by mean similarity (linkage), e.g. a child's photos and the grown-up's.
4. Faces that another group suits clearly better move there, and groups are joined once more.
"""

from __future__ import annotations

import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.cluster.gate import make_gate
from facelake.cluster.labels import canonical
from facelake.cluster.linkage import group_sums, join_groups, reassign
from facelake.cluster.mapequation import Graph, map_equation
from facelake.contracts import F32, I64

_REASSIGN_ROUNDS = 2


def group(vectors: F32, quality: F32, a: I64, b: I64, similarity: F32, cuts: Calibration, seed: int) -> I64:
    """Group faces.

    Args:
        vectors: (n, dim) unit embeddings in a canonical order; quality: (n,) 0..1.
        a, b, similarity: neighbour pairs as indices into vectors, in any order; b is a neighbour of a.

    Returns:
        (n,) labels 0.., numbered by the lowest index they hold. Deterministic for equal pairs and seed.
    """
    n = len(vectors)
    order = np.lexsort((b, -similarity, a))
    a, b, similarity = a[order], b[order], similarity[order]
    value = similarity - make_gate(vectors, quality, seed).discount(a, b)
    strong = value >= max(cuts.graph_cut, cuts.edge) if cuts.by_hand else value >= cuts.graph_cut
    weight = np.exp((value[strong] - cuts.level) / cuts.weight_scale).astype(np.float32)
    labels = map_equation(Graph.of(n, a[strong], b[strong], weight), seed)

    above = value >= cuts.edge
    low, high = np.minimum(a[above], b[above]), np.maximum(a[above], b[above])
    best_first = np.lexsort((high, low, -value[above]))
    low, high = low[best_first], high[best_first]
    wanted = np.array([cuts.edge, cuts.ratio, cuts.ratio_single, cuts.level])
    labels = canonical(join_groups(vectors, labels, low, high, wanted))
    start = np.searchsorted(a[above], np.arange(n + 1))
    for _ in range(_REASSIGN_ROUNDS):
        labels = canonical(reassign(vectors, labels, start, b[above], cuts.level))
    return canonical(join_groups(vectors, labels, low, high, wanted))


def centroid_scores(vectors: F32, labels: I64) -> F32:
    """Cosine of each face to its group's centroid."""
    sums = group_sums(vectors, labels, int(labels.max(initial=-1)) + 1)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    scores: F32 = np.einsum("ij,ij->i", vectors, sums[labels]).astype(np.float32)
    return scores
