"""Face crops cut from photos on demand, in worker processes: a malicious photo can crash only its worker."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from PIL import Image

from facelake.embed.decode import DecodeLimits, Photo, decode

_MARGIN = 0.65  # distance from the centre of the box to each edge of the crop, in units of its longer side
_QUALITY = 82


def cut_face(data: bytes, sha256: str, box: list[float], size_px: int, limits: DecodeLimits) -> bytes | None:
    """Return a square JPEG of a face with a margin; None if the photo was replaced or cannot be decoded.

    Args:
        data: the encoded photo.
        sha256: digest of the photo in which the face was detected.
        box: x0, y0, x1, y1 in pixels of the upright photo.
        size_px: side of the crop.
        limits: limits of decoding.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    photo = decode(data, limits)
    return crop_of(photo, box, size_px) if isinstance(photo, Photo) else None


def crop_of(photo: Photo, box: list[float], size_px: int) -> bytes:
    """Return a square JPEG of a face of a decoded photo; `box` and `size_px` as for `cut_face`."""
    scale = photo.pixels.shape[1] / photo.width
    x0, y0, x1, y1 = (value * scale for value in box)
    half = max(_MARGIN * max(x1 - x0, y1 - y0), 1.0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    edges = tuple(round(value) for value in (x - half, y - half, x + half, y + half))
    image = Image.fromarray(photo.pixels).crop(edges).resize((size_px, size_px), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()


def _ignore_interrupt() -> None:
    """Ignore Ctrl-C in the workers: the server handles it and stops them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class CropWorkers:
    """Worker processes that cut crops; decoding runs in their main threads, where a timer signal can interrupt it."""

    def __init__(self, workers: int = 2) -> None:
        self._workers, self._lock = workers, threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def cut(self, data: bytes, sha256: str, box: list[float], size_px: int, limits: DecodeLimits) -> bytes | None:
        """Run `cut_face` in a worker; None also if the worker crashed."""
        pool = self._running_pool()
        try:
            return pool.submit(cut_face, data, sha256, box, size_px, limits).result()
        except BrokenProcessPool:
            with self._lock:
                if self._pool is pool:
                    self._pool = None
            return None

    def start(self) -> None:
        """Start the workers in advance, as this takes a second or two."""
        if self._pool is None:
            self._running_pool().submit(int)

    def _running_pool(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=_ignore_interrupt)
            return self._pool

    def close(self) -> None:
        """Stop the workers."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
