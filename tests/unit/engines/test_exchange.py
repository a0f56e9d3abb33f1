"""Tasks in this process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from facelake.engines.exchange import Block, LocalExchange, task_edges


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_task_has_one_blas_thread(threads: int) -> None:
    """As on Spark, so that sums have the same order; afterwards the process has its threads again."""

    def emit(item: int) -> Iterator[Block]:
        yield item, repr(blas_threads()).encode()

    def reduce(key: int, blocks: list[bytes]) -> Iterator[Block]:
        yield key, blocks[0] + repr(blas_threads()).encode()

    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, "blas"):
        assert blas_threads() == {2}
        assert LocalExchange(threads).run([0, 1], emit, reduce) == [(0, b"{1}{1}"), (1, b"{1}{1}")]
        assert blas_threads() == {2}


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 50))
def test_tasks_have_all_items_once_in_order(costs: list[int], most: int) -> None:
    edges = task_edges(np.array(costs, np.int64), most)
    assert edges.tolist() == sorted(set(edges.tolist()))
    if costs:
        assert (edges[0], edges[-1]) == (0, len(costs))
    for begin, end in pairwise(edges.tolist()):
        assert sum(costs[begin + 1 : end]) < most, "only the first item of a task may cost more"
