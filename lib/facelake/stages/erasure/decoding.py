"""Decodes photos that no worker has decoded yet, in a process that may die of them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.embed.looks import bands_of


def look_of(data: bytes) -> tuple[str, ...] | None:
    """Return the bands of a photo's perceptual hash (embed/looks.py); None if it cannot be decoded."""
    photo = decode(data, DecodeLimits())
    return bands_of(photo.pixels) if isinstance(photo, Photo) else None


class Decoder:
    """One process, started with the first photo; a photo that ends it has no look."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._pool: ProcessPoolExecutor | None = None

    def look_of(self, data: bytes) -> tuple[str, ...] | None:
        """Return the bands of a photo's perceptual hash; None if it cannot be decoded."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            return self._pool.submit(look_of, data).result()
        except BrokenProcessPool:
            self._pool = None
            return None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown()
