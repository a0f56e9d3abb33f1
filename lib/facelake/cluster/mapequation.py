"""The two-level map equation: groups in which a random walker along similar faces stays long.

Rosvall and Bergstrom, "Maps of random walks on complex networks reveal community structure", PNAS 2008; the search is
Louvain's (Blondel et al., 2008) with a queue of nodes whose neighbourhood changed and a move into a group of one's
own. For an undirected graph with node flow p, module flow P and module exit flow Q the code length is, up to a
constant of the nodes, plogp(sum Q) - 2 sum plogp(Q_m) + sum plogp(Q_m + P_m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sp

from facelake.cluster.groups import canonical
from facelake.contracts import F32, I64

_SWEEPS = 20


@dataclass(frozen=True, slots=True)
class Graph:
    """A symmetric weighted graph in CSR form; weights are flows that sum to one over both directions."""

    start: np.ndarray
    """(n + 1,) int64"""
    target: np.ndarray
    """(edges,) int32"""
    flow: np.ndarray
    """(edges,) float32"""

    @classmethod
    def of(cls, n: int, a: I64, b: I64, weight: F32) -> Graph:
        """From pairs; a pair that both sides name counts both times."""
        rows, columns = np.concatenate([a, b]), np.concatenate([b, a])
        matrix = sp.csr_matrix((np.concatenate([weight, weight]).astype(np.float32), (rows, columns)), shape=(n, n))
        matrix.sum_duplicates()
        total = float(matrix.data.sum(dtype=np.float64)) or 1.0
        return cls(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data / np.float32(total))

    def node_flow(self) -> np.ndarray:
        """(n,) float64: share of the walk spent at each node."""
        summed = np.concatenate([[0.0], np.cumsum(self.flow, dtype=np.float64)])
        return np.asarray(summed[self.start[1:]] - summed[self.start[:-1]])


def map_equation(graph: Graph, seed: int, rounds: int = 3, initial: I64 | None = None) -> I64:
    """Labels (n,) that minimise the code length; deterministic for a seed and a graph.

    Args:
        rounds: how often moves of single nodes are followed by moves of whole modules.
        initial: labels to start from; default: every node alone.
    """
    n = len(graph.start) - 1
    flow = graph.node_flow()
    labels = np.arange(n) if initial is None else canonical(initial)
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        before = labels
        labels = canonical(_move(graph.start, graph.target, graph.flow, flow, labels.copy(), generator.permutation(n)))
        while True:
            coarse, module_flow = _coarse(graph, flow, labels)
            count = len(module_flow)
            merged = _move(
                coarse.start, coarse.target, coarse.flow, module_flow, np.arange(count), generator.permutation(count)
            )
            merged = canonical(merged)
            if merged.max(initial=-1) + 1 == count:
                break
            labels = canonical(merged[labels])
        if np.array_equal(before, labels):
            break
    return labels


def _coarse(graph: Graph, flow: np.ndarray, labels: I64) -> tuple[Graph, np.ndarray]:
    """The graph of modules; flow inside a module stays as a loop, which the search ignores."""
    count = int(labels.max(initial=-1)) + 1
    rows = np.repeat(labels, np.diff(graph.start)).astype(np.int32)
    columns = labels[graph.target].astype(np.int32)
    matrix = sp.csr_matrix((graph.flow.astype(np.float64), (rows, columns)), shape=(count, count))
    matrix.sum_duplicates()
    module_flow = np.bincount(labels, flow, count)
    return Graph(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data), module_flow


@numba.njit(cache=True, inline="always")
def _plogp(x: float) -> float:
    return x * np.log2(x) if x > 1e-300 else 0.0


@numba.njit(cache=True)
def _move(start: np.ndarray, target: np.ndarray, weight: np.ndarray, flow: np.ndarray, module: I64, order: I64) -> I64:
    """Move nodes one by one to the neighbouring (or an empty) module that shortens the code most."""
    n = len(flow)
    inside = np.zeros(n)
    leaving = np.zeros(n)
    members = np.zeros(n, np.int64)
    for i in range(n):
        m = module[i]
        inside[m] += flow[i]
        members[m] += 1
        for e in range(start[i], start[i + 1]):
            if module[target[e]] != m:
                leaving[m] += weight[e]
    all_leaving = leaving.sum()
    empty = np.empty(n, np.int64)
    empties = 0
    for m in range(n):
        if members[m] == 0:
            empty[empties] = m
            empties += 1
    to_module = np.zeros(n)
    near = np.empty(n, np.int64)
    waiting = np.ones(n, np.bool_)
    for _ in range(_SWEEPS):
        moved = 0
        for at in range(n):
            i = order[at]
            if not waiting[i]:
                continue
            waiting[i] = False
            old = module[i]
            count = 0
            out = 0.0
            for e in range(start[i], start[i + 1]):
                j = target[e]
                if j == i:
                    continue
                m = module[j]
                out += weight[e]
                if to_module[m] == 0.0:
                    near[count] = m
                    count += 1
                to_module[m] += weight[e]
            if count == 0:
                continue
            left_q = max(leaving[old] - out + 2.0 * to_module[old], 0.0)
            left_p = max(inside[old] - flow[i], 0.0)
            base = (
                -2.0 * (_plogp(left_q) - _plogp(leaving[old]))
                + _plogp(left_q + left_p)
                - _plogp(leaving[old] + inside[old])
                - _plogp(all_leaving)
            )
            best, gain = old, -1e-10
            for k in range(count):
                m = near[k]
                if m == old:
                    continue
                q = max(leaving[m] + out - 2.0 * to_module[m], 0.0)
                change = (
                    base
                    - 2.0 * (_plogp(q) - _plogp(leaving[m]))
                    + _plogp(q + inside[m] + flow[i])
                    - _plogp(leaving[m] + inside[m])
                    + _plogp(all_leaving + left_q - leaving[old] + q - leaving[m])
                )
                if change < gain:
                    best, gain = m, change
            if members[old] > 1 and empties > 0:
                change = (
                    base
                    - 2.0 * _plogp(out)
                    + _plogp(out + flow[i])
                    + _plogp(all_leaving + left_q - leaving[old] + out)
                )
                if change < gain:
                    best = empty[empties - 1]
            if best != old:
                if members[best] == 0:
                    empties -= 1
                q = max(leaving[best] + out - 2.0 * to_module[best], 0.0)
                all_leaving += left_q - leaving[old] + q - leaving[best]
                leaving[old], inside[old] = left_q, left_p
                leaving[best] = q
                inside[best] += flow[i]
                members[old] -= 1
                members[best] += 1
                if members[old] == 0:
                    empty[empties] = old
                    empties += 1
                    leaving[old] = inside[old] = 0.0
                module[i] = best
                moved += 1
                for e in range(start[i], start[i + 1]):
                    if module[target[e]] != best:
                        waiting[target[e]] = True
            for k in range(count):
                to_module[near[k]] = 0.0
        if moved < 1 + n // 100000:
            break
    return module
