"""Decoder processes for embed workers whose networks process photos faster than one core can decode them.

A worker sends each batch to its decoders in equal parts while it embeds the previous batch, so that at most two batches
of pixels are in memory, whatever the number of decoders. Pixels are read from Ray's shared memory without a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facelake.contracts import Reject
from facelake.embed import Opened, Opener, Undecoded
from facelake.engines.chunk_worker import WORKER_FAILED
from facelake.errors import Retryable

_LOG = logging.getLogger(__name__)
_DIED = (RayActorError, WorkerCrashedError, OutOfMemoryError)
_TRIES = 2


class _Decoder:
    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    def open(self, photos: list[bytes]) -> list[Opened]:
        return self._opener.open_all(photos)


_Actor: Any = ray.remote(max_restarts=0, max_task_retries=0)(_Decoder)


@dataclass(frozen=True, slots=True)
class _Part:
    """Photos that one decoder is decoding."""

    place: int
    decoder: Any
    photos: list[bytes]
    opened: Any


class DecoderPool:
    """A BatchDecoder of several processes on the worker's host. They end with the worker, which reserves their
    cores.
    """

    ahead = 1

    def __init__(self, opener: Opener, count: int, stall_s: float = 300.0) -> None:
        self._opener, self._stall_s = ray.put(opener), stall_s
        self._decoders = [self._start() for _ in range(count)]

    def _start(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return _Actor.options(num_cpus=0, scheduling_strategy=here).remote(self._opener)

    def begin(self, photos: Sequence[bytes]) -> list[_Part]:
        """Implements BatchDecoder."""
        size = -(-len(photos) // len(self._decoders)) or 1
        parts = [list(photos[start : start + size]) for start in range(0, len(photos), size)]
        return [self._sent(place, part) for place, part in enumerate(parts)]

    def end(self, handle: list[_Part]) -> list[Opened]:
        """Implements BatchDecoder. A photo that ends a decoder twice on its own is returned as Undecoded
        (WORKER_DIED).
        """
        return [opened for part in handle for opened in self._taken(part)]

    def _sent(self, place: int, photos: list[bytes]) -> _Part:
        decoder = self._decoders[place]
        return _Part(place, decoder, photos, decoder.open.remote(photos))

    def _taken(self, part: _Part) -> list[Opened]:
        for again in reversed(range(_TRIES)):
            ready, _ = ray.wait([part.opened], timeout=self._stall_s)
            if not ready:
                what = f"the decoder did not respond within {self._stall_s:g} s"
                raise Retryable(what, where="embed", next_step="check the load of the host, then run again")
            try:
                opened: list[Opened] = ray.get(part.opened)
                return opened
            except _DIED as err:
                _LOG.warning("decoder ended: %s", str(err).splitlines()[0])
                if self._decoders[part.place] is part.decoder:  # otherwise it was replaced already, for another part
                    self._decoders[part.place] = self._start()
                part = self._sent(part.place, part.photos) if again else part
        if len(part.photos) == 1:
            return [Opened("", Undecoded(Reject.WORKER_DIED, WORKER_FAILED))]
        return [opened for photo in part.photos for opened in self._taken(self._sent(part.place, [photo]))]
