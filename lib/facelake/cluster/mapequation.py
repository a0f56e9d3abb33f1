"""The two-level map equation: groups in which a random walker along similar faces stays long.

Rosvall and Bergstrom, "Maps of random walks on complex networks reveal community structure", PNAS 2008; the search is
Louvain's (Blondel et al., 2008) with a queue of nodes whose neighbourhood changed and a move into a group of one's
own. For an undirected graph with node flow p, module flow P and module exit flow Q the code length is, up to a
constant of the nodes, plogp(sum Q) - 2 sum plogp(Q_m) + sum plogp(Q_m + P_m).

The graph may be larger than memory: its rows come in blocks, and only what is known of nodes and modules is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from facelake.cluster.labels import canonical
from facelake.contracts import F32, F64, I32, I64

_SWEEPS = 20


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of some nodes of a symmetric weighted graph, in CSR form."""

    nodes: I32
    """(m,) ascending"""
    start: I64
    """(m + 1,)"""
    target: I32
    """(edges,) any node of the graph"""
    weight: F32
    """(edges,)"""

    @classmethod
    def of(cls, n: int, nodes: I32, row: I32, target: I32, weight: F32) -> Block:
        """From edges given from both ends: row is a position in nodes. Weights of an edge given twice are summed."""
        matrix = sp.csr_matrix((weight, (row, target)), shape=(len(nodes), n), dtype=np.float32)
        matrix.sum_duplicates()
        return cls(nodes, matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False), matrix.data)

    def inner(self) -> Block:
        """The graph of these nodes alone, numbered by position."""
        place = np.searchsorted(self.nodes, self.target)
        place = np.minimum(place, len(self.nodes) - 1)
        here = self.nodes[place] == self.target if len(self.nodes) else np.zeros(0, bool)
        start = np.concatenate([[0], np.cumsum(here)])[self.start]
        nodes = np.arange(len(self.nodes), dtype=np.int32)
        return Block(nodes, start, place[here].astype(np.int32), self.weight[here])


def whole_graph(n: int, a: I64, b: I64, weight: F32) -> Block:
    """All of a graph from pairs; a pair that both sides name counts both times."""
    rows, targets = np.concatenate([a, b]).astype(np.int32), np.concatenate([b, a]).astype(np.int32)
    return Block.of(n, np.arange(n, dtype=np.int32), rows, targets, np.concatenate([weight, weight]))


class Blocks(Protocol):
    """A graph cut into blocks that can be read again and again, in the same order each time."""

    def __len__(self) -> int: ...
    def __getitem__(self, at: int, /) -> Block: ...


def map_equation(n: int, blocks: Blocks, seed: int, rounds: int = 3, initial: I32 | None = None) -> I32:
    """Labels (n,) int32 that minimise the code length; deterministic for a seed and a graph.

    One block is held at a time, and about 50 bytes per node besides.

    Args:
        rounds: how often moves of single nodes are followed by moves of whole modules.
        initial: labels to start from; default: every node alone.
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) if initial is None else canonical(initial)
    flow = np.zeros(n)
    for at in range(len(blocks)):
        block = blocks[at]
        flow[block.nodes] = _row_sums(block.start, block.weight)
    scale = 1.0 / (float(flow.sum()) or 1.0)
    flow *= scale
    for _ in range(rounds):
        before = labels
        labels = canonical(_move(n, blocks, flow, labels.copy(), scale, generator))
        coarse, module_flow = _coarse(blocks, flow, labels)
        while True:
            count = len(module_flow)
            merged = np.arange(count, dtype=np.int32)
            merged = canonical(_move(count, [coarse], module_flow, merged, scale, generator))
            if merged.max(initial=-1) + 1 == count:
                break
            labels = merged[labels]
            coarse, module_flow = _coarse([coarse], module_flow, merged)
        if np.array_equal(before, labels):
            break
    return labels


def _coarse(blocks: Blocks, flow: F64, labels: I32) -> tuple[Block, F64]:
    """The graph of modules, without the loops that the search ignores."""
    count = int(labels.max(initial=-1)) + 1
    none = np.zeros(0, np.float32), (np.zeros(0, np.int32), np.zeros(0, np.int32))
    total = sp.csr_matrix(none, shape=(count, count))
    for at in range(len(blocks)):
        block = blocks[at]
        rows, columns = np.repeat(labels[block.nodes], np.diff(block.start)), labels[block.target]
        out = rows != columns
        part = sp.csr_matrix((block.weight[out], (rows[out], columns[out])), shape=(count, count))
        part.sum_duplicates()
        total = total + part
    total.sum_duplicates()
    nodes = np.arange(count, dtype=np.int32)
    coarse = Block(nodes, total.indptr.astype(np.int64), total.indices.astype(np.int32, copy=False), total.data)
    return coarse, np.bincount(labels, flow, count).astype(np.float64)


def _move(n: int, blocks: Blocks, flow: F64, module: I32, scale: float, generator: np.random.Generator) -> I32:
    """Move nodes one by one to the neighbouring (or an empty) module that shortens the code most."""
    inside, leaving = np.bincount(module, flow, n).astype(np.float64), np.zeros(n)
    members = np.bincount(module, minlength=n).astype(np.int32)
    for at in range(len(blocks)):
        _add_leaving(_Edges.of(blocks[at]), module, scale, leaving)
    none = np.flatnonzero(members == 0)[::-1]
    empties, spare = np.zeros(n + 1, np.int32), np.array([len(none)])
    empties[: len(none)] = none
    modules = _Modules(module, inside, leaving, members, np.array([leaving.sum()]), empties, spare)
    scratch = _Scratch(np.zeros(n), np.empty(n, np.int32), np.ones(n, np.bool_))
    for _ in range(_SWEEPS):
        moved = 0
        for at in range(len(blocks)):
            block = blocks[at]
            if not scratch.waiting[block.nodes].any():
                continue
            order = generator.permutation(len(block.nodes)).astype(np.int32)
            moved += _sweep(_Edges.of(block), order, scale, flow, modules, scratch)
        if moved < 1 + n // 100000:
            break
    return module


class _Edges(NamedTuple):
    """The edges of a block (`Block` as numba takes it)."""

    nodes: I32
    start: I64
    target: I32
    weight: F32

    @classmethod
    def of(cls, block: Block) -> _Edges:
        """The arrays of a block."""
        return cls(block.nodes, block.start, block.target, block.weight)


class _Modules(NamedTuple):
    """The state of the search, changed in place."""

    module: I32
    """(n,) module of each node"""
    inside: F64
    """(n,) flow of each module's nodes"""
    leaving: F64
    """(n,) flow over each module's boundary"""
    members: I32
    """(n,) nodes of each module"""
    total: F64
    """(1,) flow over all boundaries"""
    empties: I32
    """(n + 1,) modules without nodes, the first `spare[0]` of them valid"""
    spare: I64


class _Scratch(NamedTuple):
    """Working memory of a sweep."""

    to_module: F64
    """(n,) flow from the current node to each module; zero between nodes"""
    near: I32
    """(n,) modules next to the current node"""
    waiting: npt.NDArray[np.bool_]
    """(n,) nodes to look at again, because a neighbour moved"""


@numba.njit(cache=True)
def _row_sums(start: I64, weight: F32) -> F64:
    out = np.zeros(len(start) - 1)
    for i in range(len(out)):
        for e in range(start[i], start[i + 1]):
            out[i] += weight[e]
    return out


@numba.njit(cache=True)
def _add_leaving(edges: _Edges, module: I32, scale: float, leaving: F64) -> None:
    for i in range(len(edges.nodes)):
        m = module[edges.nodes[i]]
        for e in range(edges.start[i], edges.start[i + 1]):
            if module[edges.target[e]] != m:
                leaving[m] += edges.weight[e] * scale


@numba.njit(cache=True)
def _sweep(edges: _Edges, order: I32, scale: float, flow: F64, modules: _Modules, scratch: _Scratch) -> int:
    """Visit the waiting nodes of a block once, in this order; returns how many moved."""
    moved = 0
    module, members, empties, spare = modules.module, modules.members, modules.empties, modules.spare
    for at in order:
        i = edges.nodes[at]
        if not scratch.waiting[i]:
            continue
        scratch.waiting[i] = False
        count, out = _gather(at, edges, scale, module, scratch)
        old = module[i]
        fresh = empties[spare[0] - 1] if members[old] > 1 and spare[0] > 0 else -1
        best = _best(_Node(flow[i], out, old), fresh, scratch.near[:count], scratch.to_module, modules)
        if count and best != old:
            if best == fresh:
                spare[0] -= 1
            _apply(_Node(flow[i], out, old), best, scratch.to_module, modules)
            if members[old] == 0:
                empties[spare[0]] = old
                spare[0] += 1
            module[i] = best
            moved += 1
            for e in range(edges.start[at], edges.start[at + 1]):
                if module[edges.target[e]] != best:
                    scratch.waiting[edges.target[e]] = True
        for k in range(count):
            scratch.to_module[scratch.near[k]] = 0.0
    return moved


class _Node(NamedTuple):
    """A node that may move."""

    flow: float
    out: float
    """flow over its edges, loops left out"""
    module: int


@numba.njit(cache=True, inline="always")
def _plogp(x: float) -> float:
    return x * np.log2(x) if x > 1e-300 else 0.0


@numba.njit(cache=True)
def _gather(at: int, edges: _Edges, scale: float, module: I32, scratch: _Scratch) -> tuple[int, float]:
    """Flow from the node at a position of the block to each module next to it (in to_module, at the modules listed in
    near), and in all.
    """
    i = edges.nodes[at]
    count, out = 0, 0.0
    to_module, near = scratch.to_module, scratch.near
    for e in range(edges.start[at], edges.start[at + 1]):
        if edges.target[e] == i:
            continue
        m, w = module[edges.target[e]], edges.weight[e] * scale
        out += w
        if to_module[m] == 0.0:
            near[count] = m
            count += 1
        to_module[m] += w
    return count, out


@numba.njit(cache=True)
def _best(node: _Node, fresh: int, near: I32, to_module: F64, modules: _Modules) -> int:
    """The module whose choice shortens the code most; `fresh` is an empty one, or -1."""
    inside, leaving, total = modules.inside, modules.leaving, modules.total[0]
    p, out, old = node.flow, node.out, node.module
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
def _apply(node: _Node, best: int, to_module: F64, modules: _Modules) -> None:
    """Carry the move out in the modules' flows."""
    inside, leaving, members, total = modules.inside, modules.leaving, modules.members, modules.total
    p, out, old = node.flow, node.out, node.module
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
