"""Tasks that hand each other blocks by key: the one thing that clustering asks of an engine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

Block = tuple[int, bytes]
Emit = Callable[[int], Iterable[Block]]
"""An item into blocks, each for a key."""
Reduce = Callable[[int, list[bytes]], Iterable[Block]]
"""All blocks of a key, in no order, into blocks for other keys."""


class Exchange(Protocol):
    """Runs `first` on each item, hands its blocks to `then` by key, and so on; the last blocks come back.

    `keys` says how many keys to expect, for the engine to plan with.
    """

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]: ...


class LocalExchange:
    """In this process, one after the other: the reference."""

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """See Exchange."""
        blocks = [block for item in items for block in first(item)]
        for reduce in then:
            by_key: dict[int, list[bytes]] = defaultdict(list)
            for key, body in blocks:
                by_key[key].append(body)
            blocks = [block for key in sorted(by_key) for block in reduce(key, by_key[key])]
        return blocks
