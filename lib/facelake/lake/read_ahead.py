"""Reading of one item ahead: the store works while the caller computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_V = TypeVar("_V")
_END: Final = object()


def read_ahead(values: Iterable[_V]) -> Iterator[_V]:
    """Yield values in their order; while the caller works on one, a thread computes the next.

    An error of a value is raised where that value would be yielded. Closing the generator waits for the one that is
    being computed; no further ones are.
    """
    source = iter(values)
    with ThreadPoolExecutor(1, "facelake-read-ahead") as reader:
        pending = reader.submit(next, source, _END)
        while (value := pending.result()) is not _END:
            pending = reader.submit(next, source, _END)
            yield value  # type: ignore[misc]
