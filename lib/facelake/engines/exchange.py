"""Tasks that pass blocks to each other by key: the one service that clustering needs of an engine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from facelake.contracts import I64

_T = TypeVar("_T")
Block = tuple[int, bytes]
"""A key (int64) and the bytes that are sent to it."""
Emit = Callable[[int], Iterable[Block]]
"""Turns one work item into blocks."""
Reduce = Callable[[int, list[bytes]], Iterable[Block]]
"""Turns all blocks of one key, in no particular order, into blocks for the next keys."""


def task_edges(costs: I64, most: int) -> I64:
    """Return the positions (tasks + 1,) at which tasks begin, and the end, of items in their order.

    Args:
        costs: (n,) of the items, such as rows or bytes; 0 is allowed.
        most: about the cost of a task: its first item may cost more, the others together cost less.
    """
    numbers = (np.cumsum(costs) - 1) // most
    return np.flatnonzero(np.diff(numbers, prepend=-2, append=-2))


class Exchange(Protocol):
    """Runs map and reduce tasks and routes blocks between them by key."""

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """Run `first` on each item, route its blocks by key to `then[0]`, and so on; return the last blocks.

        Args:
            items: work items, one task each at most.
            first: applied to each item.
            then: applied in turn to all blocks of a key.
            keys: the number of distinct keys to expect, used to plan tasks.
        """
        ...

    def close(self) -> None:
        """Stop the engine if this exchange started it."""
        ...


class LocalExchange:
    """Runs every task in this process: the reference, and the engine of small corpora."""

    def __init__(self, threads: int = 1) -> None:
        """Run tasks one after the other, or on some threads, for tasks that mostly read and write files."""
        self._threads = threads

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """Run the tasks; results are in the order of their items and keys. `keys` is ignored."""
        with threadpool_limits(1, "blas"):  # one thread per task as on Spark, so that sums have the same order
            blocks = self._each(lambda item: list(first(item)), items)
            for reduce in then:
                by_key: dict[int, list[bytes]] = defaultdict(list)
                for key, body in blocks:
                    by_key[key].append(body)
                tasks = [partial(_reduced, reduce, key, by_key[key]) for key in sorted(by_key)]
                del blocks, by_key
                blocks = self._each(lambda task: task(), tasks)
        return blocks

    def _each(self, function: Callable[[_T], list[Block]], tasks: Sequence[_T]) -> list[Block]:
        if self._threads == 1:
            return [block for task in tasks for block in function(task)]
        with ThreadPoolExecutor(self._threads) as pool:
            return [block for blocks in pool.map(function, tasks) for block in blocks]

    def close(self) -> None:
        """Do nothing: no engine was started."""


def _reduced(reduce: Reduce, key: int, bodies: list[bytes]) -> list[Block]:
    return list(reduce(key, bodies))
