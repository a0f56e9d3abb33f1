"""Tasks in this process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from facelake.engines.exchange import Block, LocalExchange


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
