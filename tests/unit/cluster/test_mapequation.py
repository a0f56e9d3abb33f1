"""The map equation against its definition, the gate against planted inflation, linkage against all pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.cluster.calibrate import Calibration
from facelake.cluster.labels import add_sums, canonical
from facelake.cluster.linkage import NearGroups, Pairs, join_groups, settle
from facelake.cluster.mapequation import Block, map_equation, whole_graph
from facelake.cluster.quality_norm import Gate, bin_bounds, make_gate


def code_length(weights: np.ndarray, labels: np.ndarray) -> float:
    """The definition, written out on a dense symmetric matrix (without the nodes' constant)."""
    flow = weights / weights.sum()

    def plogp(x: float) -> float:
        return x * np.log2(x) if x > 0 else 0.0

    total, length = 0.0, 0.0
    for m in set(labels.tolist()):
        inside = labels == m
        q, p = flow[inside][:, ~inside].sum(), flow[inside].sum()
        total += q
        length += plogp(q + p) - 2 * plogp(q)
    return length + plogp(total)


def random_graph(n: int, seed: int) -> tuple[Block, np.ndarray]:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, n, (2, 3 * n))
    different = a != b
    a, b, w = a[different], b[different], generator.uniform(0.1, 1, different.sum()).astype(np.float32)
    dense = np.zeros((n, n))
    np.add.at(dense, (a, b), w)
    return whole_graph(n, a, b, w), dense + dense.T


@given(st.integers(4, 14), st.integers(0, 5000))
@settings(deadline=None, max_examples=40)
def test_no_single_move_shortens_the_code(n: int, seed: int) -> None:
    graph, dense = random_graph(n, seed)
    labels = map_equation(n, [graph], seed, rounds=10)
    found = code_length(dense, labels)
    assert found <= code_length(dense, np.arange(n)) + 1e-6
    linked = dense.sum(1) > 0
    for i in np.flatnonzero(linked):
        for target in {*labels[dense[i] > 0].tolist(), n + 1}:
            moved = labels.copy()
            moved[i] = target
            assert code_length(dense, moved) > found - 1e-5


def test_cliques_with_a_bridge_come_apart_and_seeds_agree() -> None:
    blocks = [range(0, 8), range(8, 15), range(15, 25)]
    pairs = [(i, j) for block in blocks for i in block for j in block if i < j] + [(7, 8), (14, 15)]
    a, b = np.array(pairs).T
    graph = whole_graph(26, a, b, np.ones(len(a), np.float32))
    for seed in range(5):
        labels = map_equation(26, [graph], seed)
        assert labels.tolist() == [0] * 8 + [1] * 7 + [2] * 10 + [3]
    start = labels.copy()
    start[[2, 9, 20]] = [1, 2, 0]  # a start with misplaced nodes is put right
    assert map_equation(26, [graph], 0, initial=start).tolist() == labels.tolist()


def test_an_empty_graph_leaves_all_alone() -> None:
    none = np.zeros(0, np.int64)
    assert map_equation(4, [whole_graph(4, none, none, np.zeros(0, np.float32))], 0).tolist() == [0, 1, 2, 3]


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    x = generator.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cut_into(graph: Block, parts: list[np.ndarray]) -> list[Block]:
    made = []
    for nodes in parts:
        rows = [np.arange(graph.start[i], graph.start[i + 1]) for i in nodes]
        start = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        flat = np.concatenate(rows).astype(np.int64)
        made.append(Block(nodes.astype(np.int32), start, graph.target[flat], graph.weight[flat]))
    return made


@given(st.integers(6, 40), st.integers(0, 5000))
@settings(max_examples=30)
def test_a_graph_in_blocks_is_searched_as_well_as_whole(n: int, seed: int) -> None:
    graph, dense = random_graph(n, seed)
    parts = [part for part in np.array_split(np.random.default_rng(seed).permutation(n), 3) if len(part)]
    blocks = cut_into(graph, [np.sort(part) for part in parts])
    labels = map_equation(n, blocks, seed, rounds=10)
    linked = np.flatnonzero(dense.sum(1) > 0)
    found = code_length(dense, labels)
    for i in linked:
        for target in {*labels[dense[i] > 0].tolist(), n + 1}:
            moved = labels.copy()
            moved[i] = target
            assert code_length(dense, moved) > found - 1e-5


def test_the_inner_graph_of_a_block_is_the_submatrix() -> None:
    graph, dense = random_graph(12, 3)
    nodes = np.array([1, 4, 5, 9, 11])
    inner = cut_into(graph, [nodes])[0].inner()
    back = np.zeros((5, 5))
    for i in range(5):
        for e in range(inner.start[i], inner.start[i + 1]):
            back[i, inner.target[e]] = inner.weight[e]
    np.testing.assert_allclose(back, dense[np.ix_(nodes, nodes)], atol=1e-6)


def gated(x: np.ndarray, quality: np.ndarray) -> Gate:
    bounds = bin_bounds(quality)
    return make_gate(x, quality, bounds, 0)


def test_gate_finds_planted_inflation_and_none_where_quality_says_nothing() -> None:
    generator = np.random.default_rng(0)
    x, quality = unit(generator, 6000, 128), generator.uniform(0.5, 1, 6000).astype(np.float32)
    poor = np.arange(300)
    x[poor] += 1.5 * unit(generator, 1, 128)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    informed = quality.copy()
    informed[poor] = generator.uniform(0, 0.1, 300)
    gate = gated(x, informed)
    bins = gate.bins(informed)
    discount = gate.discount(bins[poor[:-1]], bins[poor[1:]])
    assert np.median(discount) > 0.8
    assert discount.min() > 0.2  # in the bin that poor faces share with good ones
    assert gate.discount(bins[4000:5000], bins[5000:6000]).max() < 0.2
    shuffled = generator.permutation(informed)
    blind = gated(x, shuffled)
    assert np.median(blind.discount(blind.bins(shuffled)[poor[:-1]], blind.bins(shuffled)[poor[1:]])) < 0.1
    assert not gated(x[:400], informed[:400]).inflation.any()
    equal = np.full(6000, 0.7, np.float32)
    assert not gated(x, equal).inflation.any()


CUTS = Calibration(0.3, 0.75, 0.9, 0.7, 0.0, 0.1, "test")


def sums_of(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    sums = np.zeros((int(labels.max()) + 1, x.shape[1]), np.float32)
    add_sums(x.astype(np.float32), labels.astype(np.int32), sums)
    return sums


def test_joins_answer_for_all_their_pairs() -> None:
    generator = np.random.default_rng(4)
    people = unit(generator, 30, 64)
    truth = np.repeat(np.arange(30), 8)
    x = people[truth] + 0.6 * unit(generator, 240, 64)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    halves = (truth * 2 + np.arange(240) % 2).astype(np.int32)
    a, b = np.triu_indices(240, 1)
    across = halves[a] != halves[b]
    low, high = np.minimum(halves[a], halves[b])[across], np.maximum(halves[a], halves[b])[across]
    pairs = Pairs.of(low, high, np.einsum("ij,ij->i", x[a], x[b])[across])
    size = np.bincount(halves).astype(np.int64)
    sums = sums_of(x, halves)
    joined, root = join_groups(sums, size.copy(), pairs, CUTS)
    np.testing.assert_allclose(sums[root], sums_of(x, truth), atol=1e-4)
    np.testing.assert_array_equal(canonical(joined[halves]), truth)
    kept, _ = join_groups(sums_of(x, halves), size.copy(), pairs, replace(CUTS, edge=0.99))
    np.testing.assert_array_equal(kept, np.arange(60))
    np.testing.assert_allclose(sums_of(x, truth)[3], x[truth == 3].sum(0), atol=1e-5)


def test_a_misplaced_face_moves_home_and_one_alone_is_attached() -> None:
    generator = np.random.default_rng(6)
    people = unit(generator, 2, 64)
    truth = np.repeat([0, 1], 10).astype(np.int32)
    x = people[truth] + 0.5 * unit(generator, 20, 64)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    wrong = truth.copy()
    wrong[3], wrong[15] = 1, 2
    around = wrong[np.argsort(-(x @ x.T), axis=1)[:, 1:9].ravel()]
    near = NearGroups(np.arange(0, 168, 8), around)
    arguments = (wrong, near, sums_of(x, wrong), np.bincount(wrong).astype(np.int64))
    np.testing.assert_array_equal(settle(x, *arguments, CUTS), truth)
    strict = settle(x, *arguments, replace(CUTS, edge=0.999))
    assert strict[15] == 2


def test_a_face_between_two_people_stays_alone() -> None:
    x = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    x[4] = [0.707, 0.707, 0]
    labels = np.array([0, 0, 1, 1, 2], np.int32)
    near = NearGroups(np.array([0, 0, 0, 0, 0, 2]), np.array([0, 1], np.int32))
    assert settle(x, labels, near, sums_of(x, labels), np.bincount(labels), CUTS)[4] == 2
