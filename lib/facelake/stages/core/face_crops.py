"""A face cut out of its photo, on demand, in a process of its own: a hostile photo costs that process and no more."""

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

_MARGIN = 0.65  # of the box's longer side, from its middle to each edge of the crop
_QUALITY = 82


def cut_face(data: bytes, sha256: str, box: list[float], size_px: int, limits: DecodeLimits) -> bytes | None:
    """A square JPEG of a face and a little around it; None when the photo cannot be decoded or is another one.

    Args:
        sha256: of the photo in which the face was found.
        box: x0, y0, x1, y1 in pixels of the upright photo.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    photo = decode(data, limits)
    return crop_of(photo, box, size_px) if isinstance(photo, Photo) else None


def crop_of(photo: Photo, box: list[float], size_px: int) -> bytes:
    """A square JPEG of a face of a decoded photo; box as for `cut_face`."""
    shrink = photo.pixels.shape[1] / photo.width
    x0, y0, x1, y1 = (value * shrink for value in box)
    half = max(_MARGIN * max(x1 - x0, y1 - y0), 1.0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    edges = tuple(round(value) for value in (x - half, y - half, x + half, y + half))
    image = Image.fromarray(photo.pixels).crop(edges).resize((size_px, size_px), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()


def _ignore_interrupt() -> None:
    """Ctrl-C is for the server, which ends these processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Cutter:
    """Processes that cut; in each, decoding runs in the main thread, where it can be interrupted by the clock."""

    def __init__(self, workers: int = 2) -> None:
        self._workers, self._lock = workers, threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def cut(self, data: bytes, sha256: str, box: list[float], size_px: int, limits: DecodeLimits) -> bytes | None:
        """`cut_face` elsewhere; None too when the process died of the photo."""
        pool = self._ready()
        try:
            return pool.submit(cut_face, data, sha256, box, size_px, limits).result()
        except BrokenProcessPool:
            with self._lock:
                if self._pool is pool:
                    self._pool = None
            return None

    def start(self) -> None:
        """Have the processes begin now: they take a second or two."""
        if self._pool is None:
            self._ready().submit(int)

    def _ready(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=_ignore_interrupt)
            return self._pool

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
