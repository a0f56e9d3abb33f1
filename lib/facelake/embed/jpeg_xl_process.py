"""A process that decodes JPEG XL and nothing else, with a limit on its memory; its caller ends it after a time.

libjxl decodes a file in one call, which no signal interrupts, and a small file can hold layers, channels and frames
that take hours or gigabytes; none of them is in the header. The process gets no environment, so no credentials.

Requests on standard input: `_REQUEST` (bytes, bits per sample), then the codestream. Answers on standard output:
`_ANSWER` (height, width, channels), then the pixels; or the length of an error's text, 0, 0, then the text.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
import sys
import time
from typing import IO

import numpy as np

from facelake.child_process import ChildProcess
from facelake.contracts import U8, Reject
from facelake.embed.containers import TooCostly

_REQUEST, _ANSWER = struct.Struct("<QL"), struct.Struct("<LLL")
_MEMORY = 512 << 20  # bytes, besides those of the process before its first photo
_STRIP = 512  # rows that are converted at once
_MOST_CHANNELS = 4
_START_SECONDS = 60.0


class JpegXlProcess(ChildProcess):
    """The process, as its caller sees it; started with the first photo, and again after it ended. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(__name__, bufsize=0)

    def decode(self, stream: bytes, bits: int, seconds: float) -> U8:
        """Decode a codestream.

        Args:
            stream: the codestream.
            bits: per sample; 0 for floating point.
            seconds: that it may take.

        Returns:
            Pixels (h, w) or (h, w, channels).

        Raises:
            TooCostly: it takes longer, or more memory.
            ValueError: the decoder cannot decode it.
        """
        with self._lock:
            child = self._running()
            try:
                return _asked(child, stream, bits, seconds)
            except ValueError:
                raise
            except BaseException:  # an answer may still come, which would be taken for that of the next photo
                self._end()
                raise

    def _wait_until_ready(self, child: subprocess.Popen[bytes]) -> None:
        _read(child, 1, time.monotonic() + _START_SECONDS)


def _asked(child: subprocess.Popen[bytes], stream: bytes, bits: int, seconds: float) -> U8:
    deadline = time.monotonic() + seconds
    assert child.stdin
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        _write(child.stdin, _REQUEST.pack(len(stream), bits) + stream)
    height, width, channels = _ANSWER.unpack(_read(child, _ANSWER.size, deadline))
    if not channels:
        raise ValueError(_read(child, height, deadline).decode("utf-8", "replace"))
    pixels = np.frombuffer(_read(child, height * width * channels, deadline), np.uint8)
    return pixels.reshape((height, width, channels) if channels > 1 else (height, width))


def _write(pipe: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[pipe.write(left) :]


def _read(child: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    """Read so many bytes of an answer.

    Raises:
        TooCostly: the deadline passes, or the process ends.
    """
    assert child.stdout
    out = bytearray()
    while len(out) < size:
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TooCostly(Reject.TIMEOUT, "not decoded within the time for a photo")
        part = os.read(child.stdout.fileno(), min(size - len(out), 1 << 20))
        if not part:
            raise TooCostly(Reject.UNREADABLE, "the decoder of JPEG XL ended: damaged, or too much memory needed")
        out += part
    return bytes(out)


# ---- in the process


def serve() -> None:
    """Answer requests until standard input is closed."""
    from imagecodecs import jpegxl_decode

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _limit_memory()
    answers.write(b"\n")
    answers.flush()
    while head := sys.stdin.buffer.read(_REQUEST.size):
        size, bits = _REQUEST.unpack(head)
        stream = sys.stdin.buffer.read(size)
        try:
            pixels = _eight_bits(jpegxl_decode(stream, numthreads=1), bits)
        except MemoryError:
            return  # the caller starts another process, with all of its memory
        except Exception as err:  # noqa: BLE001  whatever the decoder raises is the answer
            text = f"{type(err).__name__}: {err}".encode()
            answers.write(_ANSWER.pack(len(text), 0, 0) + text)
        else:
            answers.write(_ANSWER.pack(*pixels.shape[:2], pixels.size // (pixels.shape[0] * pixels.shape[1])))
            answers.write(np.ascontiguousarray(pixels).data)
        answers.flush()


def _limit_memory() -> None:
    """Limit the address space, where the system knows its size."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", "rb") as sizes:
            used = int(sizes.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _eight_bits(decoded: np.ndarray, bits: int) -> U8:
    """Convert samples of so many bits, or of floating point from 0 to 1, to 8 bits.

    Raises:
        ValueError: there are more channels than those of colour and transparency.
    """
    if decoded.ndim not in (2, 3) or (decoded.ndim == 3 and decoded.shape[2] > _MOST_CHANNELS):
        raise ValueError(f"samples of shape {decoded.shape}")
    if decoded.dtype == np.uint8 and bits == 8:
        return decoded
    scale = 255 / ((1 << bits) - 1 if bits else 1)
    out = np.empty(decoded.shape, np.uint8)
    for start in range(0, len(decoded), _STRIP):
        rows = decoded[start : start + _STRIP].astype(np.float32)
        np.nan_to_num(rows, copy=False)
        rows *= scale
        rows += 0.5  # rounded to the nearest
        out[start : start + _STRIP] = rows.clip(0, 255)
    return out
