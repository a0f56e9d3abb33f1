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

from facelake.cluster.labels import canonical
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
    inside, leaving, members = np.zeros(n), np.zeros(n), np.zeros(n, np.int64)
    for i in range(n):
        inside[module[i]] += flow[i]
        members[module[i]] += 1
        for e in range(start[i], start[i + 1]):
            if module[target[e]] != module[i]:
                leaving[module[i]] += weight[e]
    total = np.array([leaving.sum()])
    empty = np.flatnonzero(members == 0)[::-1]
    empties = np.empty(n, np.int64)
    empties[: len(empty)] = empty
    spare = len(empty)
    to_module, near, waiting = np.zeros(n), np.empty(n, np.int64), np.ones(n, np.bool_)
    for _ in range(_SWEEPS):
        moved = 0
        for i in order:
            if not waiting[i]:
                continue
            waiting[i] = False
            count, out = _gather(start, target, weight, module, i, to_module, near)
            old = module[i]
            fresh = empties[spare - 1] if members[old] > 1 and spare > 0 else -1
            best = _best(flow[i], out, old, fresh, near[:count], to_module, inside, leaving, total[0])
            if count and best != old:
                spare -= best == fresh
                _apply(flow[i], out, old, best, to_module, inside, leaving, members, total)
                if members[old] == 0:
                    empties[spare] = old
                    spare += 1
                module[i] = best
                moved += 1
                for e in range(start[i], start[i + 1]):
                    if module[target[e]] != best:
                        waiting[target[e]] = True
            to_module[near[:count]] = 0.0
        if moved < 1 + n // 100000:
            break
    return module


@numba.njit(cache=True)
def _gather(
    start: np.ndarray, target: np.ndarray, weight: np.ndarray, module: I64, i: int, to_module: np.ndarray, near: I64
) -> tuple[int, float]:
    """Flow from node i to each module next to it (in to_module, at the modules listed in near), and in all."""
    count, out = 0, 0.0
    for e in range(start[i], start[i + 1]):
        if target[e] == i:
            continue
        m = module[target[e]]
        out += weight[e]
        if to_module[m] == 0.0:
            near[count] = m
            count += 1
        to_module[m] += weight[e]
    return count, out


@numba.njit(cache=True)
def _best(
    p: float, out: float, old: int, fresh: int, near: I64, to_module: np.ndarray, inside: np.ndarray,
    leaving: np.ndarray, total: float,
) -> int:  # fmt: skip
    """The module whose choice shortens the code most; `fresh` is an empty one, or -1."""
    left_q = max(leaving[old] - out + 2.0 * to_module[old], 0.0)
    left_p = max(inside[old] - p, 0.0)
    base = _plogp(left_q + left_p) - _plogp(leaving[old] + inside[old])
    base -= 2.0 * (_plogp(left_q) - _plogp(leaving[old])) + _plogp(total)
    remaining = total + left_q - leaving[old]
    best, gain = old, -1e-10
    for m in near:
        if m == old:
            continue
        q = max(leaving[m] + out - 2.0 * to_module[m], 0.0)
        change = base - 2.0 * (_plogp(q) - _plogp(leaving[m])) + _plogp(remaining + q - leaving[m])
        change += _plogp(q + inside[m] + p) - _plogp(leaving[m] + inside[m])
        if change < gain:
            best, gain = m, change
    if fresh >= 0:
        change = base - 2.0 * _plogp(out) + _plogp(out + p) + _plogp(remaining + out)
        if change < gain:
            best = fresh
    return best


@numba.njit(cache=True)
def _apply(
    p: float, out: float, old: int, best: int, to_module: np.ndarray, inside: np.ndarray, leaving: np.ndarray,
    members: I64, total: np.ndarray,
) -> None:  # fmt: skip
    """Carry the move out in the modules' flows."""
    left_q = max(leaving[old] - out + 2.0 * to_module[old], 0.0)
    q = max(leaving[best] + out - 2.0 * to_module[best], 0.0)
    total[0] += left_q - leaving[old] + q - leaving[best]
    leaving[old], leaving[best] = left_q, q
    inside[old] = max(inside[old] - p, 0.0)
    inside[best] += p
    members[old] -= 1
    members[best] += 1
    if members[old] == 0:
        leaving[old] = inside[old] = 0.0
