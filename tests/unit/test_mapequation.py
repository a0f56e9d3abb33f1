"""The map equation against its definition, the gate against planted inflation, linkage against all pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.cluster.gate import make_gate
from facelake.cluster.labels import canonical
from facelake.cluster.linkage import group_sums, join_groups, reassign
from facelake.cluster.mapequation import Graph, map_equation


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


def random_graph(n: int, seed: int) -> tuple[Graph, np.ndarray]:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, n, (2, 3 * n))
    different = a != b
    a, b, w = a[different], b[different], generator.uniform(0.1, 1, different.sum()).astype(np.float32)
    dense = np.zeros((n, n))
    np.add.at(dense, (a, b), w)
    return Graph.of(n, a, b, w), dense + dense.T


@given(st.integers(4, 14), st.integers(0, 5000))
@settings(deadline=None, max_examples=40)
def test_no_single_move_shortens_the_code(n: int, seed: int) -> None:
    graph, dense = random_graph(n, seed)
    labels = map_equation(graph, seed, rounds=10)
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
    graph = Graph.of(26, a, b, np.ones(len(a), np.float32))
    for seed in range(5):
        labels = map_equation(graph, seed)
        assert labels.tolist() == [0] * 8 + [1] * 7 + [2] * 10 + [3]
    start = labels.copy()
    start[[2, 9, 20]] = [1, 2, 0]  # a start with misplaced nodes is put right
    assert map_equation(graph, 0, initial=start).tolist() == labels.tolist()


def test_an_empty_graph_leaves_all_alone() -> None:
    none = np.zeros(0, np.int64)
    assert map_equation(Graph.of(4, none, none, np.zeros(0, np.float32)), 0).tolist() == [0, 1, 2, 3]


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    x = generator.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_gate_finds_planted_inflation_and_none_where_quality_says_nothing() -> None:
    generator = np.random.default_rng(0)
    x, quality = unit(generator, 6000, 128), generator.uniform(0.5, 1, 6000).astype(np.float32)
    poor = np.arange(300)
    x[poor] += 1.5 * unit(generator, 1, 128)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    informed = quality.copy()
    informed[poor] = generator.uniform(0, 0.1, 300)
    gate = make_gate(x, informed, 0)
    assert gate.discount(poor[:-1], poor[1:]).min() > 0.8
    assert gate.discount(np.arange(4000, 5000), np.arange(5000, 6000)).max() < 0.2
    blind = make_gate(x, generator.permutation(informed), 0)
    assert np.median(blind.discount(poor[:-1], poor[1:])) < 0.1
    assert make_gate(x[:500], informed[:500], 0).discount(poor[:-1], poor[1:]).max() == 0


def test_joins_answer_for_all_their_pairs() -> None:
    generator = np.random.default_rng(4)
    people = unit(generator, 30, 64)
    truth = np.repeat(np.arange(30), 8)
    x = people[truth] + 0.6 * unit(generator, 240, 64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    halves = truth * 2 + np.arange(240) % 2
    a, b = np.triu_indices(240, 1)
    s = np.einsum("ij,ij->i", x[a], x[b])
    order = np.argsort(-s, kind="stable")
    joined = canonical(join_groups(x, halves, a[order], b[order], np.array([0.3, 0.75, 0.9, 0.7])))
    np.testing.assert_array_equal(joined, truth)
    kept = canonical(join_groups(x, halves, a[order], b[order], np.array([0.99, 0.75, 0.9, 0.7])))
    np.testing.assert_array_equal(kept, canonical(halves))
    np.testing.assert_allclose(group_sums(x, truth, 30)[3], x[truth == 3].sum(0), atol=1e-5)


def test_a_misplaced_face_moves_home() -> None:
    generator = np.random.default_rng(6)
    people = unit(generator, 2, 64)
    truth = np.repeat([0, 1], 10)
    x = people[truth] + 0.5 * unit(generator, 20, 64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    wrong = truth.copy()
    wrong[3] = 1
    neighbours = np.argsort(-(x @ x.T), axis=1)[:, 1:9]
    moved = reassign(x.astype(np.float32), wrong, np.arange(0, 168, 8), neighbours.ravel(), 0.8)
    np.testing.assert_array_equal(moved, truth)
