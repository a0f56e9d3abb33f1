"""Runs an operation in a thread and hands out its events one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from facelake.events import Event, Listener

T = TypeVar("T")


class Following(Generic[T]):
    """An operation in progress: iterate over its events, then ask for its result.

    The operation runs to its end whether or not its events are read; the interpreter waits for it at exit.
    """

    def __init__(self, operation: Callable[[Listener], T]) -> None:
        """Start the operation.

        Args:
            operation: called in a thread with the listener of its events.
        """
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._outcome: Future[T] = Future()
        threading.Thread(target=self._run, args=(operation,), name="facelake-operation").start()

    def _run(self, operation: Callable[[Listener], T]) -> None:
        try:
            self._outcome.set_result(operation(self._events.put))
        except BaseException as err:  # noqa: BLE001  raised again in the caller's thread by `result`
            self._outcome.set_exception(err)
        finally:
            self._events.put(None)

    def __iter__(self) -> Iterator[Event]:
        """Yield each event once; ends when the operation has ended, also with an error."""
        while (event := self._events.get()) is not None:
            yield event
        self._events.put(None)  # a second iteration ends at once

    def result(self) -> T:
        """Wait for the end and return the result.

        Raises:
            FacelakeError: what the operation raised.
        """
        return self._outcome.result()
