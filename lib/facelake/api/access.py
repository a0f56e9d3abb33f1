"""Contexts of the API's operations, and private file modes for what they write."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from facelake.config import Config
from facelake.events import Listener
from facelake.nightly import reading, writing
from facelake.stages.core.context import Context

_PRIVATE = 0o077


class _Umask:
    """The process's umask, which is private while at least one operation writes."""

    def __init__(self) -> None:
        self._lock, self._depth, self._before = threading.Lock(), 0, 0

    @contextmanager
    def private(self) -> Iterator[None]:
        with self._lock:
            if not self._depth:
                self._before = os.umask(_PRIVATE)
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if not self._depth:
                    os.umask(self._before)


private_files = _Umask().private
"""Context manager: lakes, exports and engines' files hold personal data, so only this account may read new ones."""


@dataclass(frozen=True, slots=True)
class Access:
    """Opens a lake for one operation.

    Attributes:
        config: the checked config.
        on_event: listener for progress events.
        wait_s: seconds to wait for another writer.
    """

    config: Config
    on_event: Listener
    wait_s: float

    def read(self) -> Context:
        """Return a context that only reads.

        Raises:
            ConfigError: there is no lake.
        """
        return reading(self.config, self.on_event)

    @contextmanager
    def write(self, purpose: str, *, must_exist: bool = True) -> Iterator[Context]:
        """Open a context that writes, with the lake's lease.

        Raises:
            ConfigError: there is no lake, and it must exist.
            Refused: another process still writes the lake.
        """
        with (
            private_files(),
            writing(self.config, purpose, self.on_event, wait_s=self.wait_s, must_exist=must_exist) as context,
        ):
            yield context
