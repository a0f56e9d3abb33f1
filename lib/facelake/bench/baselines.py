"""Simple clusterings of the same vectors, which the product's grouping is compared with.

- components: connected components of all pairs above a cosine.
- dbscan: DBSCAN (Ester et al., KDD 1996) with at least two neighbours.
- chinese_whispers: Biemann, "Chinese Whispers", TextGraphs 2006, with a fixed order of the faces.
- average_linkage: agglomerative, by the mean cosine of two groups (UPGMA).
- hdbscan: Campello et al., PAKDD 2013, by excess of mass; only where scikit-learn is installed.

Every fixed cut is a cosine as a 128-dimensional SFace scores; the best cut in hindsight needs the labels, so that no
method can reach it by itself: the distance to it is what a better choice of the cut could gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from facelake.bench.scores import cluster_scores
from facelake.contracts import F32, F64, I64

CUTS = (0.363, 0.40, 0.42, 0.44, 0.46, 0.48, 0.50, 0.52, 0.54, 0.56, 0.58, 0.62, 0.66)
FIXED = {"components": 0.54, "dbscan": 0.54, "chinese_whispers": 0.54, "average_linkage": 0.46}
"""the cut of each method that was best over eleven sets of real photographs"""
_LEAST_NEIGHBOURS, _ROUNDS = 2, 20

Method = Callable[[F32, float], I64]
"""labels (n,) of faces with similarities (n, n) at a cut"""


def components(similarity: F32, cut: float) -> I64:
    """Connected components of the pairs at least as similar as the cut."""
    return np.asarray(
        connected_components(sp.csr_array((similarity >= cut).astype(np.int8)), directed=False)[1], np.int64
    )


def dbscan(similarity: F32, cut: float) -> I64:
    """Components of core faces; a face with a core neighbour joins the most similar one."""
    near = similarity >= cut
    core = near.sum(1) > _LEAST_NEIGHBOURS
    labels = components(
        np.where(core[:, None] & core[None], similarity, -1) + 3 * np.eye(len(core), dtype=np.float32), cut
    )
    border = np.flatnonzero(~core & (near & core[None]).any(1))
    labels[border] = labels[np.where(core[None], similarity[border], -1).argmax(1)]
    return labels


def chinese_whispers(similarity: F32, cut: float) -> I64:
    """Every face takes the label with the largest sum of similarities among its neighbours, until nothing changes."""
    weight = np.where(similarity >= cut, similarity, 0)
    np.fill_diagonal(weight, 0)
    labels = np.arange(len(weight), dtype=np.int64)
    order = np.random.default_rng(0)
    for _ in range(_ROUNDS):
        moved = 0
        for face in order.permutation(np.flatnonzero(weight.any(1))):
            near = np.flatnonzero(weight[face])
            names, which = np.unique(labels[near], return_inverse=True)
            best = int(names[np.bincount(which, weight[face, near]).argmax()])
            moved += best != labels[face]
            labels[face] = best
        if not moved:
            break
    return labels


class AverageLinkage:
    """Average linkage of one set of faces, whose merges are computed once for all cuts."""

    def __init__(self, similarity: F32) -> None:
        distance: F64 = np.clip(1 - similarity.astype(np.float64), 0, 2)
        np.fill_diagonal(distance, 0)
        self._merges = linkage(squareform(distance, checks=False), "average") if len(distance) > 1 else None

    def __call__(self, similarity: F32, cut: float) -> I64:
        """Labels at a cut."""
        if self._merges is None:
            return np.zeros(len(similarity), np.int64)
        return np.asarray(fcluster(self._merges, 1 - cut, "distance"), np.int64)


def compare(vectors: F32, people: list[str]) -> dict[str, Any]:
    """Score every method on labelled faces.

    Args:
        vectors: (n, dim) unit rows; at most some thousands, since all pairs are compared.
        people: (n,) labels.

    Returns:
        By method: scores at the fixed cut (`fixed`), and at the best one by BCubed F (`best`), each with `cut`.
    """
    similarity = vectors @ vectors.T
    scores = {name: _of_method(method, name, similarity, people) for name, method in _methods(similarity)}
    return scores | {name: {"best": cluster_scores(people, labels)} for name, labels in _hdbscan(vectors)}


def _methods(similarity: F32) -> Iterator[tuple[str, Method]]:
    yield "chinese_whispers", chinese_whispers
    yield "average_linkage", AverageLinkage(similarity)
    yield "dbscan", dbscan
    yield "components", components


def _of_method(method: Method, name: str, similarity: F32, people: list[str]) -> dict[str, Any]:
    scores = {cut: cluster_scores(people, method(similarity, cut).tolist()) for cut in CUTS}
    best = max(scores, key=lambda cut: scores[cut]["bcubed"]["f"])
    fixed = FIXED[name]
    return {"fixed": {"cut": fixed} | scores[fixed], "best": {"cut": best} | scores[best]}


def _hdbscan(vectors: F32) -> Iterator[tuple[str, list[int]]]:
    """Labels by HDBSCAN, its noise as singletons; nothing if scikit-learn is not installed."""
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError:
        return
    labels = HDBSCAN(min_cluster_size=2, allow_single_cluster=True, copy=True).fit_predict(vectors)
    alone = labels < 0
    labels[alone] = labels.max(initial=0) + 1 + np.arange(int(alone.sum()))
    yield "hdbscan", labels.tolist()
